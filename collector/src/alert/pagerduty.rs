//! PagerDuty, Events API v2: one event per alert, which opens or closes an incident there.

use http::HeaderMap;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Event, Notification, Severity};
use super::rfc3339::rfc3339;
use super::secret::SecretText;
use super::shrink::shrink;
use super::wording;

/// The service region of the US; that of the EU is `https://events.eu.pagerduty.com/v2/enqueue`.
const URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// The API's limits.
const DEDUP_KEY_CHARS_MAX: usize = 255;
const SUMMARY_CHARS_MAX: usize = 1_024;

/// Bytes of what is said in detail. An event may have 512 KB, but nobody reads so much at night.
const DETAILS_BYTES_MAX: usize = 60_000;

/// UTF-16 units of a name: service, endpoint, kind.
const NAME_CHARS_MAX: usize = 255;

/// 400: the event is wrong. Nothing PagerDuty answers means "never again".
const MEANING: Meaning = Meaning {
    rejected: &[400, 413],
    gone: &[],
};

/// An integration of a PagerDuty service.
#[derive(Clone, Debug)]
pub struct Pagerduty {
    endpoint: Endpoint,
    routing_key: Key,
}

/// The integration key. Never printed.
#[derive(Clone)]
struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Pagerduty {
    /// An integration as its settings say.
    ///
    /// # Errors
    /// The key cannot be read, or the URL leads where it may not lead.
    pub fn open(
        routing_key: &SecretText,
        url: Option<&str>,
        trust: &Trust,
    ) -> Result<Pagerduty, String> {
        let key = routing_key.read("the routing key", trust)?;
        let url = url.map(str::trim).filter(|it| !it.is_empty());
        let mut endpoint = Endpoint::at(url.unwrap_or(URL), trust)?;
        endpoint.hide(&key);
        Ok(Pagerduty {
            endpoint,
            routing_key: Key(key),
        })
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

    /// Sends an event per alert. A reminder triggers again: PagerDuty adds it to the incident
    /// that is open without calling anybody, and opens a new one if somebody closed it although
    /// the alert still fires. A test is resolved at once, so that nobody has to clean up.
    pub async fn deliver(&self, notification: &Notification, public_url: &str) -> Delivery {
        for alert in &notification.alerts {
            for &action in actions(notification.event, alert) {
                let delivery = self.send(action, notification, alert, public_url).await;
                if delivery != Delivery::Delivered {
                    return delivery;
                }
            }
        }
        Delivery::Delivered
    }

    async fn send(
        &self,
        action: Action,
        notification: &Notification,
        alert: &Alert,
        public_url: &str,
    ) -> Delivery {
        let body = event(&self.routing_key, action, notification, alert, public_url);
        match self.endpoint.post(HeaderMap::new(), body.to_string()).await {
            Ok(answer) => answer.delivery(MEANING),
            Err(error) => failed(error),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Trigger,
    Resolve,
}

fn actions(event: Event, alert: &Alert) -> &'static [Action] {
    match event {
        Event::Test => &[Action::Trigger, Action::Resolve],
        _ if wording::fires(event, alert) => &[Action::Trigger],
        _ => &[Action::Resolve],
    }
}

fn event(
    key: &Key,
    action: Action,
    notification: &Notification,
    alert: &Alert,
    public_url: &str,
) -> Value {
    let mut event = json!({
        "routing_key": key.0,
        "event_action": if action == Action::Trigger { "trigger" } else { "resolve" },
        "dedup_key": dedup_key(alert),
    });
    if action == Action::Resolve {
        return event;
    }
    event["payload"] = payload(notification, alert);
    event["client"] = "culprit".into();
    if let Some(url) = wording::main_url(public_url, alert) {
        event["client_url"] = url.into();
    }
    let links = alert.links.iter().filter_map(|link| {
        let text = wording::shorten(&wording::line(&link.text), NAME_CHARS_MAX);
        Some(json!({"href": wording::url(public_url, link)?, "text": text}))
    });
    event["links"] = links.collect();
    event
}

/// What a later event is recognised by. It is the fingerprint, which says what is wrong and not
/// when: an incident that is open takes what comes.
fn dedup_key(alert: &Alert) -> String {
    if alert.fingerprint.is_empty() {
        return alert.incident.to_string();
    }
    if alert.fingerprint.len() <= DEDUP_KEY_CHARS_MAX {
        return alert.fingerprint.clone();
    }
    let digest = Sha256::digest(alert.fingerprint.as_bytes());
    digest.iter().map(|it| format!("{it:02x}")).collect()
}

fn payload(notification: &Notification, alert: &Alert) -> Value {
    let label = |name: &str| {
        let value = alert.labels.get(name).map_or("", String::as_str);
        wording::shorten(&wording::line(value), NAME_CHARS_MAX)
    };
    let group = wording::shorten(&wording::line(&notification.group), NAME_CHARS_MAX);
    // It refuses events without a source.
    let source = [label("service"), group.clone(), "culprit".into()];
    let source = source.into_iter().find(|it| !it.is_empty());
    json!({
        "summary": wording::shorten(&wording::title(alert), SUMMARY_CHARS_MAX),
        "source": source,
        "severity": match alert.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        },
        "timestamp": rfc3339(alert.started_ms),
        "component": label("endpoint"),
        "group": group,
        "class": label("kind"),
        "custom_details": details(alert),
    })
}

fn details(alert: &Alert) -> Value {
    let mut details = Map::new();
    details.insert("summary".into(), wording::clean(&alert.summary).into());
    for fact in &alert.facts {
        let name = wording::shorten(&wording::line(&fact.name), NAME_CHARS_MAX);
        details.insert(name, wording::clean(&fact.value).into());
    }
    details.insert("rule".into(), wording::line(&alert.rule).into());
    details.insert("data".into(), alert.data.clone());
    shrink(&mut details, DETAILS_BYTES_MAX, &["summary", "rule"]);
    details.into()
}
