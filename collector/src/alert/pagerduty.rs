//! PagerDuty, Events API v2: one event per alert, which opens or closes an incident there.

use http::HeaderMap;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Event, Notification, Severity};
use super::secret::SecretText;
use super::shrink::shrink;
use super::wording;
use crate::calendar::rfc3339;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::receivers::{PUBLIC_URL, Receiver, WholeUrl, hostile, notification};
    use serde::Deserialize;

    /// An event as PagerDuty documents it, and nothing else.
    #[derive(Debug, Deserialize)]
    #[serde(tag = "event_action", rename_all = "lowercase", deny_unknown_fields)]
    enum Sent {
        Trigger {
            routing_key: String,
            dedup_key: String,
            payload: Box<Payload>,
            client: String,
            client_url: Option<WholeUrl>,
            links: Vec<LinkTo>,
        },
        Resolve {
            routing_key: String,
            dedup_key: String,
        },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        summary: String,
        source: String,
        severity: String,
        timestamp: String,
        component: String,
        group: String,
        class: String,
        custom_details: Map<String, Value>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct LinkTo {
        href: WholeUrl,
        text: String,
    }

    impl Sent {
        fn check(&self) -> (&'static str, &str) {
            let (routing_key, dedup_key, action) = match self {
                Sent::Trigger {
                    routing_key,
                    dedup_key,
                    payload,
                    client,
                    client_url,
                    links,
                } => {
                    payload.check();
                    assert_eq!(client, "culprit");
                    assert!(
                        client_url.is_some()
                            && links
                                .iter()
                                .all(|it| it.href.as_str().starts_with(PUBLIC_URL))
                    );
                    assert!(links.iter().all(|it| it.text.encode_utf16().count() <= 255));
                    (routing_key, dedup_key, "trigger")
                }
                Sent::Resolve {
                    routing_key,
                    dedup_key,
                } => (routing_key, dedup_key, "resolve"),
            };
            assert_eq!(routing_key, KEY);
            assert!((1..=255).contains(&dedup_key.len()));
            (action, dedup_key)
        }
    }

    impl Payload {
        fn check(&self) {
            assert!((1..=1_024).contains(&self.summary.encode_utf16().count()));
            assert!(
                !self.summary.contains(['\n', '\0', '\u{202e}']),
                "{:?}",
                self.summary
            );
            assert!(!self.source.is_empty() && self.timestamp.ends_with('Z'));
            assert!(["critical", "error", "warning", "info"].contains(&self.severity.as_str()));
            for it in [&self.source, &self.component, &self.group, &self.class] {
                assert!(it.encode_utf16().count() <= 255, "{it}");
            }
            assert!(self.custom_details.contains_key("rule"));
        }
    }

    const KEY: &str = "r0ut1ng-k3y-r0ut1ng-k3y";

    fn open(receiver: &Receiver) -> Pagerduty {
        let url = format!("{}/v2/enqueue", receiver.url);
        Pagerduty::open(&KEY.into(), Some(&url), &Trust::Trusted).unwrap()
    }

    async fn sent(notification: &Notification) -> Vec<Sent> {
        let receiver = Receiver::saying(202, &[], "").await;
        let delivery = open(&receiver).deliver(notification, PUBLIC_URL).await;
        assert_eq!(delivery, Delivery::Delivered);
        for received in receiver.received() {
            assert_eq!(received.path, "/v2/enqueue");
            assert!(received.body.len() < 512_000, "{}", received.body.len());
        }
        receiver.bodies()
    }

    #[tokio::test]
    async fn an_incident_is_opened_and_resolved_by_the_same_key() {
        let opened = sent(&notification(Event::Opened, 1)).await;
        assert_eq!(opened[0].check(), ("trigger", "f1a9e20000"));
        let Sent::Trigger { payload, links, .. } = &opened[0] else {
            panic!("{opened:?}");
        };
        assert!(payload.summary.starts_with("p99 of POST /checkout went"));
        assert_eq!(
            (payload.source.as_str(), payload.severity.as_str()),
            ("shop", "critical")
        );
        assert_eq!(
            (payload.component.as_str(), payload.class.as_str()),
            ("POST /checkout", "regression")
        );
        assert_eq!(
            payload.custom_details["p99"],
            "180 ms → 420 ms (1,204 requests before, 310 after)"
        );
        assert_eq!(
            links[1].href.as_str(),
            "https://culprit.example/base/traces/00ff"
        );

        let reminded = sent(&notification(Event::Reminder, 1)).await;
        assert_eq!(reminded[0].check(), opened[0].check());
        let resolved = sent(&notification(Event::Resolved, 1)).await;
        assert_eq!(
            (resolved.len(), resolved[0].check()),
            (1, ("resolve", "f1a9e20000"))
        );
    }

    #[tokio::test]
    async fn a_test_leaves_no_incident_behind() {
        let tested = sent(&notification(Event::Test, 1)).await;
        let actions: Vec<_> = tested.iter().map(Sent::check).collect();
        assert_eq!(
            actions,
            [("trigger", "f1a9e20000"), ("resolve", "f1a9e20000")]
        );
    }

    #[tokio::test]
    async fn many_and_hostile_alerts_keep_the_shape() {
        let many = sent(&notification(Event::Opened, 40)).await;
        let mut keys: Vec<_> = many.iter().map(|it| it.check().1).collect();
        keys.dedup();
        assert_eq!(keys.len(), 40);

        let mut odd = notification(Event::Opened, 1);
        odd.alerts = vec![hostile()];
        odd.group = odd.alerts[0].title.clone();
        let odd = sent(&odd).await;
        odd[0].check();
        let Sent::Trigger { payload, .. } = &odd[0] else {
            panic!("{odd:?}");
        };
        assert!(payload.custom_details.contains_key("truncated"));
    }

    #[tokio::test]
    async fn answers_mean_what_pagerduty_says() {
        let body = r#"{"status":"invalid event","errors":["r0ut1ng-k3y-r0ut1ng-k3y is wrong"]}"#;
        let receiver = Receiver::saying(400, &[("content-type", "application/json")], body).await;
        let pagerduty = open(&receiver);
        let delivery = pagerduty.deliver(&notification(Event::Opened, 3), "").await;
        let Delivery::Rejected(error) = &delivery else {
            panic!("{delivery:?}");
        };
        assert!(
            error.contains("invalid event") && !error.contains(KEY),
            "{error}"
        );
        assert!(!format!("{pagerduty:?}").contains(KEY));
        assert_eq!(
            receiver.received().len(),
            1,
            "the first failure ends the attempt"
        );
        for status in [429, 500] {
            let receiver = Receiver::saying(status, &[], "").await;
            let delivery = open(&receiver)
                .deliver(&notification(Event::Opened, 1), "")
                .await;
            assert!(matches!(delivery, Delivery::Failed { .. }), "{delivery:?}");
        }
    }
}
