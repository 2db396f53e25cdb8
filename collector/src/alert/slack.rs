//! An incoming webhook of Slack. Messages cannot be changed afterwards: what is resolved is said
//! in a new one, with the same title.

use http::HeaderMap;
use serde_json::{Value, json};

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Notification};
use super::secret::SecretText;
use super::wording;

/// Slack's limits: what exceeds one of them makes it refuse the whole message.
const BLOCKS_MAX: usize = 50;
const HEADER_CHARS_MAX: usize = 150;
const SECTION_CHARS_MAX: usize = 3_000;
const FIELDS_MAX: usize = 10;
const FIELD_CHARS_MAX: usize = 2_000;
const BUTTON_CHARS_MAX: usize = 75;
const URL_CHARS_MAX: usize = 3_000;

/// Bytes of a message. Slack refuses some beyond 13,000 without saying where the limit is.
const BODY_BYTES_MAX: usize = 12_000;

/// Bytes that are kept free for what is said about alerts that found no room.
const REST_BYTES: usize = 400;

/// UTF-16 units of a text when it shares the message with other alerts; alone it may be longer.
const SHARED_CHARS_MAX: usize = 300;
const ALONE_CHARS_MAX: usize = 1_000;

/// UTF-16 units of what stands in for the blocks where they cannot be shown.
const FALLBACK_CHARS_MAX: usize = 500;

/// Buttons side by side.
const BUTTONS_MAX: usize = 5;

/// Sections of facts of one alert.
const FACTS_SECTIONS_MAX: usize = 2;

/// 404 and 410: the webhook was removed. 400: `invalid_blocks` and the like.
const MEANING: Meaning = Meaning {
    rejected: &[400, 413],
    gone: &[404, 410],
};

/// A webhook of a Slack channel.
#[derive(Clone, Debug)]
pub struct Slack {
    endpoint: Endpoint,
}

impl Slack {
    /// A webhook as its settings say.
    ///
    /// # Errors
    /// The URL cannot be read, is none, or leads where it may not lead.
    pub fn open(url: &SecretText, trust: &Trust) -> Result<Slack, String> {
        let endpoint = Endpoint::secret(url, trust)?;
        Ok(Slack { endpoint })
    }

    /// Where it leads, without secrets.
    pub fn shown(&self) -> String {
        self.endpoint.shown()
    }

    /// Posts all alerts in one message.
    pub async fn deliver(&self, notification: &Notification, public_url: &str) -> Delivery {
        let body = body(notification, public_url).to_string();
        match self.endpoint.post(HeaderMap::new(), body).await {
            Ok(answer) => answer.delivery(MEANING),
            Err(error) => failed(error),
        }
    }
}

fn body(notification: &Notification, public_url: &str) -> Value {
    let headline = wording::headline(notification);
    // The title alone, so that what is resolved has the same one as what was opened.
    let title = match notification.alerts.as_slice() {
        [alert] if notification.omitted == 0 => wording::title(alert),
        _ => headline.clone(),
    };
    let mut body = json!({
        // Shown by telephones and read by screen readers.
        "text": escape(&headline, FALLBACK_CHARS_MAX),
        "unfurl_links": false,
        "blocks": [{"type": "header", "text": plain(&title, HEADER_CHARS_MAX)}],
    });
    let is_alone = notification.alerts.len() + notification.omitted == 1;
    let mut told = 0;
    for alert in &notification.alerts {
        let blocks = blocks(notification, alert, public_url, is_alone);
        if !append(&mut body, blocks) {
            break;
        }
        told += 1;
    }
    let untold = notification.alerts.len() - told + notification.omitted;
    if untold > 0 {
        let note = format!("{untold} more; all of them are on culprit's page of alerts.");
        push(&mut body, vec![context(&note)]);
    }
    body
}

/// Appends an alert's blocks, or as many of its first as there is room for if it is the first
/// alert. Says whether the alert is told.
fn append(body: &mut Value, mut blocks: Vec<Value>) -> bool {
    let is_first = body["blocks"].as_array().map_or(0, Vec::len) == 1;
    while !fits(body, &blocks) {
        if !is_first || blocks.len() <= 1 {
            return false;
        }
        blocks.pop();
    }
    push(body, blocks);
    true
}

fn fits(body: &Value, blocks: &[Value]) -> bool {
    let count = body["blocks"].as_array().map_or(0, Vec::len) + blocks.len();
    let bytes = body.to_string().len() + json!(blocks).to_string().len();
    // One more block and some bytes are for what is said about the rest.
    count < BLOCKS_MAX && bytes + REST_BYTES <= BODY_BYTES_MAX
}

fn push(body: &mut Value, blocks: Vec<Value>) {
    if let Some(all) = body["blocks"].as_array_mut() {
        all.extend(blocks);
    }
}

/// The most important first: later ones may find no room.
fn blocks(
    notification: &Notification,
    alert: &Alert,
    public_url: &str,
    is_alone: bool,
) -> Vec<Value> {
    let chars_max = if is_alone {
        ALONE_CHARS_MAX
    } else {
        SHARED_CHARS_MAX
    };
    let mut blocks = vec![json!({
        "type": "section",
        "text": markup(&opening(notification, alert, chars_max, is_alone)),
    })];
    blocks.extend(buttons(alert, public_url));
    for facts in alert.facts.chunks(FIELDS_MAX).take(FACTS_SECTIONS_MAX) {
        let fields = facts.iter().map(|fact| {
            let name = escape(&wording::line(&fact.name), BUTTON_CHARS_MAX);
            let room = chars_max.min(FIELD_CHARS_MAX) - BUTTON_CHARS_MAX - 3;
            let value = escape(&wording::clean(&fact.value), room);
            markup(&format!("*{name}*\n{value}"))
        });
        let fields: Vec<Value> = fields.collect();
        blocks.push(json!({"type": "section", "fields": fields}));
    }
    blocks
}

/// `*Critical* · POST /checkout of shop`, and the summary. The title stands above if the alert is
/// alone.
fn opening(notification: &Notification, alert: &Alert, chars_max: usize, is_alone: bool) -> String {
    let mut text = format!("*{}*", wording::status(notification.event, alert));
    if is_alone {
        text += &format!(" · {}", escape(&wording::line(&notification.group), 200));
    } else {
        text += &format!(" · {}", escape(&wording::title(alert), chars_max));
    }
    if let Some(lasted) = wording::lasted(alert) {
        text += &format!(" · lasted {lasted}");
    }
    let summary = wording::clean(&alert.summary);
    if !summary.trim().is_empty() {
        text += &format!("\n{}", escape(summary.trim(), chars_max));
    }
    text
}

fn buttons(alert: &Alert, public_url: &str) -> Option<Value> {
    let buttons: Vec<Value> = alert
        .links
        .iter()
        .filter_map(|link| Some((link, wording::url(public_url, link)?)))
        .filter(|(_, url)| url.len() <= URL_CHARS_MAX)
        .take(BUTTONS_MAX)
        .enumerate()
        .map(|(number, (link, url))| {
            json!({
                "type": "button",
                "action_id": format!("link-{number}"),
                "text": plain(&link.text, BUTTON_CHARS_MAX),
                "url": url,
            })
        })
        .collect();
    (!buttons.is_empty()).then(|| json!({"type": "actions", "elements": buttons}))
}

fn context(text: &str) -> Value {
    json!({"type": "context", "elements": [markup(&escape(text, SECTION_CHARS_MAX))]})
}

/// Text as it is: no mentions, links or emoji come of it.
fn plain(text: &str, chars_max: usize) -> Value {
    let text = wording::shorten(&wording::line(text), chars_max);
    let text = if text.is_empty() { "–".into() } else { text };
    json!({"type": "plain_text", "text": text, "emoji": false})
}

/// Escaped text with markup of ours; nothing in it becomes a link by itself.
fn markup(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

/// `&`, `<` and `>` are Slack's own: `<!channel>` would call everybody. At most `chars_max` UTF-16
/// units, and never half of an escape.
fn escape(text: &str, chars_max: usize) -> String {
    let text = if text.is_empty() { "–" } else { text };
    let mut escaped = String::new();
    let mut left = chars_max.saturating_sub(1);
    for character in text.chars() {
        let mut buffer = [0; 4];
        let piece = match character {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            other => other.encode_utf8(&mut buffer),
        };
        let Some(rest) = left.checked_sub(piece.encode_utf16().count()) else {
            escaped.push('…');
            break;
        };
        left = rest;
        escaped.push_str(piece);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::Event;
    use crate::alert::receivers::{PUBLIC_URL, Receiver, WholeUrl, hostile, notification};
    use serde::Deserialize;

    /// A message as Slack documents it, and nothing else.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Message {
        text: String,
        unfurl_links: bool,
        blocks: Vec<Block>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
    enum Block {
        Header {
            text: Text,
        },
        Section {
            text: Option<Text>,
            fields: Option<Vec<Text>>,
        },
        Context {
            elements: Vec<Text>,
        },
        Actions {
            elements: Vec<Button>,
        },
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
    enum Text {
        PlainText { text: String, emoji: bool },
        Mrkdwn { text: String, verbatim: bool },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Button {
        #[serde(rename = "type")]
        kind: String,
        action_id: String,
        text: Text,
        url: WholeUrl,
    }

    impl Text {
        fn check(&self, chars_max: usize) {
            let text = self.as_str();
            let length = text.encode_utf16().count();
            assert!((1..=chars_max).contains(&length), "{length}: {text}");
            assert!(!text.contains(['\0', '\u{202e}', '\r']), "{text:?}");
            match self {
                Text::PlainText { text, emoji } => assert!(!emoji && !text.contains('\n')),
                Text::Mrkdwn { text, verbatim } => {
                    assert!(verbatim);
                    check_escapes(text);
                }
            }
        }

        fn as_str(&self) -> &str {
            match self {
                Text::PlainText { text, .. } | Text::Mrkdwn { text, .. } => text,
            }
        }
    }

    fn check_escapes(text: &str) {
        assert!(!text.contains(['<', '>']), "{text}");
        for (start, _) in text.match_indices('&') {
            let rest = &text[start..];
            let is_whole = ["&amp;", "&lt;", "&gt;"]
                .iter()
                .any(|it| rest.starts_with(it));
            assert!(is_whole, "{rest}");
        }
    }

    impl Message {
        fn check(&self) {
            assert!(!self.text.is_empty() && !self.unfurl_links);
            check_escapes(&self.text);
            assert!(
                (1..=50).contains(&self.blocks.len()),
                "{}",
                self.blocks.len()
            );
            for block in &self.blocks {
                match block {
                    Block::Header { text } => {
                        assert!(matches!(text, Text::PlainText { .. }));
                        text.check(150);
                    }
                    Block::Section { text, fields } => {
                        assert!(text.is_some() || fields.is_some());
                        text.iter().for_each(|it| it.check(3_000));
                        let fields = fields.as_deref().unwrap_or_default();
                        assert!(fields.len() <= 10);
                        fields.iter().for_each(|it| it.check(2_000));
                    }
                    Block::Context { elements } => {
                        assert!((1..=10).contains(&elements.len()));
                        elements.iter().for_each(|it| it.check(3_000));
                    }
                    Block::Actions { elements } => {
                        assert!((1..=25).contains(&elements.len()));
                        elements.iter().for_each(Button::check);
                    }
                }
            }
        }

        fn header(&self) -> &str {
            match &self.blocks[0] {
                Block::Header { text } => text.as_str(),
                other => panic!("{other:?}"),
            }
        }

        fn texts(&self) -> String {
            format!("{self:?}")
        }
    }

    impl Button {
        fn check(&self) {
            assert_eq!(self.kind, "button");
            assert!(self.action_id.len() <= 255);
            assert!(matches!(self.text, Text::PlainText { .. }));
            self.text.check(75);
            assert!(self.url.as_str().len() <= 3_000);
            assert!(
                self.url
                    .as_str()
                    .starts_with("https://culprit.example/base/")
            );
        }
    }

    async fn sent(notification: &Notification, public_url: &str) -> Message {
        let receiver = Receiver::saying(200, &[], "ok").await;
        let url = SecretText::new(format!("{}/services/T/B/x", receiver.url));
        let slack = Slack::open(&url, &Trust::Trusted).unwrap();
        assert_eq!(
            slack.deliver(notification, public_url).await,
            Delivery::Delivered
        );
        let received = receiver.received();
        assert_eq!(received[0].path, "/services/T/B/x");
        assert!(
            received[0].body.len() <= 13_000,
            "{}",
            received[0].body.len()
        );
        let message: Message = receiver.bodies().remove(0);
        message.check();
        message
    }

    #[tokio::test]
    async fn one_alert_is_told_whole() {
        let opened = sent(&notification(Event::Opened, 1), PUBLIC_URL).await;
        let title = "p99 of POST /checkout went from 180 ms to 420 ms after 1.1.0";
        assert_eq!(opened.header(), title);
        assert_eq!(opened.text, format!("Critical: {title}"));
        let texts = opened.texts();
        for part in [
            "*Critical* · shop (production)",
            "One call grew",
            "*p99*\\n180 ms → 420 ms (1,204 requests before, 310 after)",
            "slow &amp; &lt;odd&gt;",
            "/base/regressions/7",
            "a slow trace",
        ] {
            assert!(texts.contains(part), "{part}: {texts}");
        }
        let resolved = sent(&notification(Event::Resolved, 1), PUBLIC_URL).await;
        assert_eq!(resolved.header(), opened.header());
        assert_eq!(resolved.text, format!("Resolved: {title}"));
        assert!(
            resolved
                .texts()
                .contains("*Resolved* · shop (production) · lasted 14 min")
        );
    }

    #[tokio::test]
    async fn without_a_public_url_there_are_no_buttons() {
        let message = sent(&notification(Event::Opened, 1), "").await;
        assert!(
            !message
                .blocks
                .iter()
                .any(|it| matches!(it, Block::Actions { .. }))
        );
    }

    #[tokio::test]
    async fn many_alerts_are_one_message_that_fits() {
        let mut many = notification(Event::Opened, 40);
        many.omitted = 5;
        let message = sent(&many, PUBLIC_URL).await;
        assert_eq!(message.header(), "45 alerts: shop (production)");
        let told = message.texts().matches("*Critical*").count();
        let rest = format!("{} more", 45 - told);
        assert!(
            told >= 8 && message.texts().contains(&rest),
            "{told}: {}",
            message.texts()
        );
    }

    #[tokio::test]
    async fn hostile_texts_call_nobody_and_fit() {
        let mut one = notification(Event::Opened, 1);
        one.alerts = vec![hostile()];
        one.group = one.alerts[0].title.clone();
        let message = sent(&one, PUBLIC_URL).await;
        assert!(message.texts().contains("&lt;!channel&gt;"));

        one.alerts = vec![hostile(); 40];
        let message = sent(&one, PUBLIC_URL).await;
        assert!(message.texts().contains(" more; "));
    }

    #[tokio::test]
    async fn answers_mean_what_slack_says() {
        for (status, body, expected) in [
            (
                404,
                "no_service",
                "Gone(\"the receiver answered 404 Not Found: no_service\")",
            ),
            (
                410,
                "channel_is_archived",
                "Gone(\"the receiver answered 410 Gone: channel_is_archived\")",
            ),
            (
                400,
                "invalid_blocks",
                "Rejected(\"the receiver answered 400 Bad Request: invalid_blocks\")",
            ),
        ] {
            let receiver = Receiver::saying(status, &[], body).await;
            let slack = Slack::open(&SecretText::new(&receiver.url), &Trust::Trusted).unwrap();
            let delivery = slack.deliver(&notification(Event::Opened, 1), "").await;
            assert_eq!(format!("{delivery:?}"), expected);
        }
        let receiver = Receiver::saying(429, &[("retry-after", "30")], "rate_limited").await;
        let slack = Slack::open(&SecretText::new(&receiver.url), &Trust::Trusted).unwrap();
        let delivery = slack.deliver(&notification(Event::Opened, 1), "").await;
        let Delivery::Failed { retry_after, .. } = delivery else {
            panic!("{delivery:?}");
        };
        assert_eq!(retry_after, Some(std::time::Duration::from_secs(30)));
    }
}
