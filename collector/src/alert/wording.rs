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

/// One line for the whole message: the alert's title, or how many there are.
pub fn headline(notification: &Notification) -> String {
    let group = line(&notification.group);
    match notification.alerts.as_slice() {
        [] => group,
        [alert] if notification.omitted == 0 => title(alert),
        alerts => format!("{} alerts: {group}", alerts.len() + notification.omitted),
    }
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
