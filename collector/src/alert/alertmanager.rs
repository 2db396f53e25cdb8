//! Prometheus Alertmanager, API v2: it groups, silences and tells by itself, and forgets what is
//! not said again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Notification};
use super::secret::SecretText;
use super::wording;
use crate::calendar::rfc3339;
use crate::clock;

/// Firing alerts are to be sent again this often: Prometheus does it once a minute, too.
pub const RESEND_EVERY: Duration = Duration::from_secs(60);

/// Until when an alert fires if nothing more is heard, in re-sends: three may be lost, as with
/// Prometheus. With fewer, alerts resolve and fire again whenever one is late.
const RESENDS_UNTIL_RESOLVED: u32 = 4;

/// Where alerts are posted, below the URL people configure.
const PATH: &str = "/api/v2/alerts";

/// UTF-16 units of an annotation: a paragraph. Templates print all of them, into chats with limits.
const ANNOTATION_CHARS_MAX: usize = 2_000;

/// UTF-16 units of a label's value: an endpoint's name is shorter.
const LABEL_CHARS_MAX: usize = 500;

/// It answers 400 and 422 to what it does not understand; nothing it answers means "never again".
const MEANING: Meaning = Meaning {
    rejected: &[400, 413, 422],
    gone: &[],
};

/// An Alertmanager.
#[derive(Clone, Debug)]
pub struct Alertmanager {
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
}

impl Alertmanager {
    /// An Alertmanager as its settings say.
    ///
    /// # Errors
    /// The URL or a secret is not what it should be, or the URL leads where it may not lead.
    pub fn open(
        url: &str,
        bearer_token: Option<&SecretText>,
        (username, password): (Option<&str>, Option<&SecretText>),
        trust: &Trust,
    ) -> Result<Alertmanager, String> {
        let mut endpoint = Endpoint::at(url, trust)?;
        let path = endpoint.path().trim_end_matches('/').to_owned();
        if !path.ends_with(PATH) {
            endpoint = endpoint.with_path(&format!("{path}{PATH}"));
        }
        let mut secret = |what: &str, text: Option<&SecretText>| {
            let text = text.filter(|it| !it.is_empty());
            let secret = text.map(|it| it.read(what, trust)).transpose()?;
            secret.iter().for_each(|it| endpoint.hide(it));
            Ok::<_, String>(secret)
        };
        let token = secret("the bearer token", bearer_token)?;
        let password = secret("the password", password)?;
        let authorization = match (token, username.filter(|it| !it.is_empty()), password) {
            (None, None, None) => None,
            (Some(token), None, None) => Some(format!("Bearer {token}")),
            (None, Some(username), Some(password)) => {
                let encoded = STANDARD.encode(format!("{username}:{password}"));
                endpoint.hide(&encoded);
                Some(format!("Basic {encoded}"))
            }
            _ => {
                return Err("it takes a bearer token, or a username and a password".into());
            }
        };
        let authorization = authorization.map(|it| {
            let mut value = HeaderValue::try_from(it)
                .map_err(|_| "the bearer token holds characters a header may not hold")?;
            value.set_sensitive(true);
            Ok::<_, &str>(value)
        });
        Ok(Alertmanager {
            endpoint,
            authorization: authorization.transpose()?,
        })
    }

    /// Where it leads.
    pub fn shown(&self) -> String {
        self.endpoint.shown()
    }

    /// Posts all alerts at once. What is sent again is the same message, with a later end.
    pub async fn deliver(&self, notification: &Notification, public_url: &str) -> Delivery {
        let body = body(notification, public_url, clock::now_ms()).to_string();
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        match self.endpoint.post(headers, body).await {
            Ok(answer) => answer.delivery(MEANING),
            Err(error) => failed(error),
        }
    }
}

fn body(notification: &Notification, public_url: &str, now_ms: i64) -> Value {
    notification
        .alerts
        .iter()
        .map(|alert| one(notification, alert, public_url, now_ms))
        .collect()
}

fn one(notification: &Notification, alert: &Alert, public_url: &str, now_ms: i64) -> Value {
    let ends_ms = if wording::fires(notification.event, alert) {
        now_ms + (RESENDS_UNTIL_RESOLVED * RESEND_EVERY).as_millis() as i64
    } else {
        alert.ended_ms.unwrap_or(notification.at_ms).min(now_ms)
    };
    // It refuses alerts that end before they start.
    let starts_ms = alert.started_ms.min(ends_ms);
    let mut body = json!({
        "labels": labels(alert),
        "annotations": annotations(alert, public_url),
        "startsAt": rfc3339(starts_ms),
        "endsAt": rfc3339(ends_ms),
    });
    if let Some(url) = wording::main_url(public_url, alert) {
        body["generatorURL"] = url.into();
    }
    body
}

/// They tell alerts apart: the same for all of an alert's life, and no numbers.
fn labels(alert: &Alert) -> Map<String, Value> {
    let mut labels = Names::default();
    labels.insert("alertname", &alert.rule, LABEL_CHARS_MAX);
    labels.insert("severity", alert.severity.name(), LABEL_CHARS_MAX);
    labels.insert("fingerprint", &alert.fingerprint, LABEL_CHARS_MAX);
    for (name, value) in &alert.labels {
        if !labels.0.contains_key(&sanitised(name)) {
            labels.insert(name, value, LABEL_CHARS_MAX);
        }
    }
    labels.0
}

fn annotations(alert: &Alert, public_url: &str) -> Map<String, Value> {
    let mut annotations = Names::default();
    annotations.insert("summary", &wording::title(alert), ANNOTATION_CHARS_MAX);
    annotations.insert("description", &alert.summary, ANNOTATION_CHARS_MAX);
    for fact in &alert.facts {
        annotations.insert(&fact.name, &fact.value, ANNOTATION_CHARS_MAX);
    }
    for link in &alert.links {
        if let Some(url) = wording::url(public_url, link) {
            annotations.insert(&format!("link_{}", link.text), &url, ANNOTATION_CHARS_MAX);
        }
    }
    annotations.0
}

/// Values under names that Alertmanager accepts; nothing is overwritten, empty values are left out
/// as Alertmanager itself would.
#[derive(Default)]
struct Names(Map<String, Value>);

impl Names {
    fn insert(&mut self, name: &str, value: &str, chars_max: usize) {
        let value = wording::shorten(wording::clean(value).trim(), chars_max);
        if value.is_empty() {
            return;
        }
        let name = sanitised(name);
        let free = (2..)
            .map(|number| format!("{name}_{number}"))
            .find(|it| !self.0.contains_key(it));
        let taken = self.0.contains_key(&name);
        let name = free.filter(|_| taken).unwrap_or(name);
        self.0.insert(name, value.into());
    }
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`
fn sanitised(name: &str) -> String {
    let mut sanitised: String = name
        .chars()
        .take(64)
        .map(|it| if it.is_ascii_alphanumeric() { it } else { '_' })
        .collect();
    if sanitised.is_empty() || sanitised.starts_with(|it: char| it.is_ascii_digit()) {
        sanitised.insert(0, '_');
    }
    sanitised
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::Event;
    use crate::alert::receivers::{PUBLIC_URL, Receiver, WholeUrl, hostile, notification};
    use serde::Deserialize;
    use std::collections::BTreeMap;

    /// A postable alert of its OpenAPI description, and nothing else.
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Postable {
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        #[serde(rename = "startsAt")]
        starts_at: String,
        #[serde(rename = "endsAt")]
        ends_at: String,
        #[serde(rename = "generatorURL")]
        generator_url: Option<WholeUrl>,
    }

    impl Postable {
        fn check(&self) {
            let is_name = |it: &str| {
                it.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
                    && it.chars().all(|it| it.is_ascii_alphanumeric() || it == '_')
            };
            assert!(!self.labels.is_empty());
            for (name, value) in self.labels.iter().chain(&self.annotations) {
                assert!(is_name(name), "{name:?}");
                assert!(!value.is_empty() && value.encode_utf16().count() <= 2_000);
                assert!(!value.contains(['\0', '\u{202e}']), "{value:?}");
            }
            for time in [&self.starts_at, &self.ends_at] {
                assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
            }
            assert!(self.starts_at <= self.ends_at);
        }
    }

    fn open(url: &str) -> Alertmanager {
        Alertmanager::open(url, None, (None, None), &Trust::Trusted).unwrap()
    }

    async fn sent(notification: &Notification) -> Vec<Postable> {
        let receiver = Receiver::saying(200, &[], "").await;
        let delivery = open(&receiver.url).deliver(notification, PUBLIC_URL).await;
        assert_eq!(delivery, Delivery::Delivered);
        assert_eq!(receiver.received()[0].path, "/api/v2/alerts");
        let alerts: Vec<Postable> = receiver.bodies().remove(0);
        alerts.iter().for_each(Postable::check);
        alerts
    }

    #[tokio::test]
    async fn alerts_are_told_as_it_wants_them() {
        let alert = sent(&notification(Event::Opened, 1)).await.remove(0);
        let labels = [
            ("alertname", "latency-regression"),
            ("endpoint", "POST /checkout"),
            ("environment", "production"),
            ("fingerprint", "f1a9e20000"),
            ("kind", "regression"),
            ("service", "shop"),
            ("severity", "critical"),
        ];
        let told = alert
            .labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        assert!(told.eq(labels), "{:?}", alert.labels);
        assert_eq!(
            alert.annotations["p99"],
            "180 ms → 420 ms (1,204 requests before, 310 after)"
        );
        assert_eq!(alert.annotations["_99th"], "slow & <odd>");
        assert_eq!(
            alert.annotations["link_a_slow_trace"],
            "https://culprit.example/base/traces/00ff"
        );
        assert!(alert.annotations["summary"].starts_with("p99 of POST /checkout"));
        assert!(alert.annotations["description"].starts_with("One call grew"));
        assert_eq!(alert.starts_at, "2023-11-14T22:13:20.000Z");
        let url = alert.generator_url.unwrap();
        assert_eq!(url.as_str(), "https://culprit.example/base/regressions/7");
    }

    #[test]
    fn a_firing_alert_lasts_four_resends_and_a_resolved_one_is_over() {
        let now_ms = 1_700_001_000_000;
        let ends = |event| {
            let body = body(&notification(event, 1), PUBLIC_URL, now_ms);
            (body[0]["labels"].clone(), body[0]["endsAt"].clone())
        };
        let (opened, reminded) = (ends(Event::Opened), ends(Event::Reminder));
        assert_eq!(opened, reminded);
        assert_eq!(opened.1, rfc3339(now_ms + 240_000));
        assert_eq!(ends(Event::Flapping), opened);
        let resolved = ends(Event::Resolved);
        assert_eq!(resolved.0, opened.0, "it is resolved by the same labels");
        assert_eq!(resolved.1, "2023-11-14T22:27:20.000Z");
    }

    #[tokio::test]
    async fn many_and_hostile_alerts_keep_the_shape() {
        assert_eq!(sent(&notification(Event::Opened, 40)).await.len(), 40);
        let mut odd = notification(Event::Opened, 1);
        odd.alerts = vec![hostile()];
        let alert = sent(&odd).await.remove(0);
        assert_eq!(alert.labels["_9"], "nine");
        assert!(alert.labels.contains_key("end_point_") && !alert.labels.contains_key("empty"));
        // What ended before it began, as clocks may have it, is not refused.
        odd.event = Event::Resolved;
        odd.alerts[0].ended_ms = Some(odd.alerts[0].started_ms - 5_000);
        sent(&odd).await;
    }

    #[tokio::test]
    async fn secrets_are_sent_and_not_shown() {
        let receiver = Receiver::saying(401, &[], "t0ken-t0ken dXNlcjpwYXNzd29yZA==").await;
        let secret = SecretText::new("t0ken-t0ken");
        let url = format!("{}/prefix/", receiver.url);
        let bearer = Alertmanager::open(&url, Some(&secret), (None, None), &Trust::Trusted);
        let password = SecretText::new("password");
        let basic = (Some("user"), Some(&password));
        let basic = Alertmanager::open(&url, None, basic, &Trust::Trusted);
        for (alertmanager, header) in [
            (bearer.unwrap(), "Bearer t0ken-t0ken"),
            (basic.unwrap(), "Basic dXNlcjpwYXNzd29yZA=="),
        ] {
            let delivery = alertmanager
                .deliver(&notification(Event::Opened, 1), "")
                .await;
            let received = receiver.received().pop().unwrap();
            assert_eq!(received.headers["authorization"], header);
            assert_eq!(received.path, "/prefix/api/v2/alerts");
            let shown = format!("{delivery:?} {alertmanager:?} {}", alertmanager.shown());
            let secret = header.split(' ').next_back().unwrap();
            assert!(!shown.contains(secret), "{shown}");
        }
        let half = Alertmanager::open(&url, None, (Some("user"), None), &Trust::Trusted);
        assert!(half.is_err());
    }

    #[tokio::test]
    async fn what_it_does_not_understand_is_not_repeated() {
        for (status, is_rejected) in [(400, true), (422, true), (404, false), (503, false)] {
            let receiver = Receiver::saying(status, &[], "bad label").await;
            let delivery = open(&receiver.url)
                .deliver(&notification(Event::Opened, 1), "")
                .await;
            assert_eq!(
                matches!(delivery, Delivery::Rejected(_)),
                is_rejected,
                "{delivery:?}"
            );
        }
    }
}
