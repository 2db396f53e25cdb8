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

    /// The same endpoint, for tests that are in a hurry.
    #[cfg(test)]
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
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
    let mut body = json!({
        "text": escape(&fallback(notification, &headline), SECTION_CHARS_MAX),
        "unfurl_links": false,
        "blocks": [{
            "type": "header",
            "text": plain(&headline, HEADER_CHARS_MAX),
        }],
    });
    let is_alone = notification.alerts.len() == 1;
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

/// What notifications on telephones show, and screen readers read.
fn fallback(notification: &Notification, headline: &str) -> String {
    match notification.alerts.as_slice() {
        [alert] => format!("{}: {headline}", wording::status(notification.event, alert)),
        _ => headline.to_owned(),
    }
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
