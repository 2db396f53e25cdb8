//! What all channels say in the same words.

use url::Url;

use super::notification::{Alert, Event, Link, Notification, Severity};

/// Whether receivers are to take the alert as firing. One that flaps does, whatever it does at
/// this moment: it is over when it is told to be resolved.
pub fn fires(event: Event, alert: &Alert) -> bool {
    match event {
        Event::Resolved => false,
        Event::Flapping => true,
        Event::Opened | Event::Reminder | Event::Test => alert.firing,
    }
}

/// One or two words that stand before a title.
pub fn status(event: Event, alert: &Alert) -> &'static str {
    match (event, alert.severity) {
        _ if !fires(event, alert) => "Resolved",
        (Event::Test, _) => "Test",
        (Event::Flapping, _) => "Flapping",
        (Event::Reminder, _) => "Still firing",
        (_, Severity::Info) => "Info",
        (_, Severity::Warning) => "Warning",
        (_, Severity::Critical) => "Critical",
    }
}

/// The alert's title; its rule if it has none.
pub fn title(alert: &Alert) -> String {
    let title = line(&alert.title);
    if title.is_empty() {
        line(&alert.rule)
    } else {
        title
    }
}

/// One line for the whole message: `Critical: p99 of …`, or how many there are.
pub fn headline(notification: &Notification) -> String {
    let count = notification.alerts.len() + notification.omitted;
    if let ([alert], 1) = (notification.alerts.as_slice(), count) {
        return format!("{}: {}", status(notification.event, alert), title(alert));
    }
    let what = match notification.event {
        Event::Opened => "alerts",
        Event::Reminder => "alerts still firing",
        Event::Flapping => "alerts flapping",
        Event::Resolved => "alerts resolved",
        Event::Test => "test alerts",
    };
    format!("{count} {what}: {}", line(&notification.group))
}

/// `14 min`, from the start to the end.
pub fn lasted(alert: &Alert) -> Option<String> {
    let ms = alert.ended_ms?.checked_sub(alert.started_ms)?;
    let minutes = (ms / 60_000).max(0);
    Some(match minutes {
        0 => "less than a minute".into(),
        1..=119 => format!("{minutes} min"),
        120..=2_879 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1_440),
    })
}

/// A link's whole URL; none without a public URL, because half of one leads nowhere.
pub fn url(public_url: &str, link: &Link) -> Option<String> {
    let base = public_url.trim_end_matches('/');
    let url = Url::parse(&format!("{base}{}", link.path)).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| url.into())
}

/// The URL of the thing itself.
pub fn main_url(public_url: &str, alert: &Alert) -> Option<String> {
    alert.links.first().and_then(|it| url(public_url, it))
}

/// Text that shows what it says: no control characters, and none that turn the direction of
/// writing or hide between letters. Line breaks and tabs stay.
pub fn clean(text: &str) -> String {
    let is_unseen = |it: char| {
        matches!(it,
            '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars()
        .filter(|&it| !is_unseen(it))
        .map(|it| {
            if it.is_control() && !matches!(it, '\n' | '\t') {
                '\u{fffd}'
            } else {
                it
            }
        })
        .collect()
}

/// The same in one line.
pub fn line(text: &str) -> String {
    let text = clean(&text.replace(['\r', '\n', '\t'], " "));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `chars_max` UTF-16 units, the last one being an ellipsis if something is cut. Other
/// programs count in UTF-16 or in code points; this is within both.
pub fn shorten(text: &str, chars_max: usize) -> String {
    if text.encode_utf16().count() <= chars_max {
        return text.to_owned();
    }
    let mut left = chars_max.saturating_sub(1);
    let mut short = String::new();
    for character in text.chars() {
        let Some(rest) = left.checked_sub(character.len_utf16()) else {
            break;
        };
        left = rest;
        short.push(character);
    }
    if chars_max > 0 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::receivers::{link, notification};

    #[test]
    fn what_turns_or_hides_is_taken_out() {
        assert_eq!(clean("a\u{202e}b\u{200b}c\0d\te\n"), "abc\u{fffd}d\te\n");
        assert_eq!(line(" a\r\nBcc: b\t c\u{85}d "), "a Bcc: b c\u{fffd}d");
        assert_eq!(line("日本語 é 🦊"), "日本語 é 🦊");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "ab…");
        assert_eq!(shorten("🦊🦊🦊", 4), "🦊…");
        assert_eq!(
            (shorten("ab", 1), shorten("ab", 0)),
            ("…".into(), String::new())
        );
    }

    #[test]
    fn links_are_whole_or_left_out() {
        let page = link("page", "/traces/1?q=<a b>");
        let whole = url("https://culprit.example/", &page).unwrap();
        assert_eq!(whole, "https://culprit.example/traces/1?q=%3Ca%20b%3E");
        assert_eq!(url("", &page), None);
        assert_eq!(url("javascript:alert(1)", &page), None);
    }

    #[test]
    fn the_headline_says_how_many_and_what_became_of_them() {
        let one = headline(&notification(Event::Reminder, 1));
        assert!(
            one.starts_with("Still firing: p99 of POST /checkout"),
            "{one}"
        );
        let mut many = notification(Event::Resolved, 2);
        many.omitted = 1;
        assert_eq!(headline(&many), "3 alerts resolved: shop (production)");
    }

    /// An alert that flaps is not resolved by the message that says so.
    #[test]
    fn what_flaps_fires() {
        let mut flapping = notification(Event::Flapping, 1);
        flapping.alerts[0].firing = false;
        assert!(fires(Event::Flapping, &flapping.alerts[0]));
        assert_eq!(status(Event::Flapping, &flapping.alerts[0]), "Flapping");
    }

    #[test]
    fn how_long_it_lasted() {
        let mut alert = notification(Event::Resolved, 1).alerts.remove(0);
        for (ms, expected) in [
            (-5, "less than a minute"),
            (59_999, "less than a minute"),
            (840_000, "14 min"),
            (3 * 3_600_000, "3 h"),
            (72 * 3_600_000, "3 days"),
        ] {
            alert.ended_ms = Some(alert.started_ms + ms);
            assert_eq!(lasted(&alert).unwrap(), expected);
        }
    }
}
