//! The generic webhook: an HTTP POST after Standard Webhooks 1.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt;
use uuid::Uuid;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Link, Notification};
use super::secret::SecretText;
use super::shrink::shrink;
use super::wording;
use crate::calendar::rfc3339;
use crate::clock;

/// Bytes of a body, as the standard recommends; what makes it longer is cut.
const BODY_BYTES_MAX: usize = 20_000;

/// Bytes around `data` in a body: the type and the timestamp.
const ENVELOPE_BYTES: usize = 400;

/// Keys while they are rotated: an old and a new one, with some room. More is a mistake.
const SECRETS_MAX: usize = 4;

/// Receivers may be mended: everything but "no more" is tried again, as the standard says.
const MEANING: Meaning = Meaning {
    rejected: &[],
    gone: &[410],
};

/// What stays in `data` however long the rest is.
const NEEDED: &[&str] = &[
    "id",
    "incident",
    "status",
    "severity",
    "title",
    "starts_at",
    "ends_at",
    "url",
];

/// A receiver's URL and the keys its messages are signed with.
#[derive(Clone, Debug)]
pub struct Webhook {
    endpoint: Endpoint,
    secrets: Vec<Secret>,
}

/// What messages are signed with. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// It is something else; the text says what is wanted.
    pub fn parse(text: &str) -> Result<Secret, String> {
        let wanted = "a webhook secret is `whsec_` and the base64 of 24 to 64 bytes";
        let encoded = text.trim().strip_prefix("whsec_").ok_or(wanted)?;
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|_| format!("{wanted}; this one is not base64"))?;
        if (24..=64).contains(&bytes.len()) {
            Ok(Secret(bytes))
        } else {
            Err(format!("{wanted}; this one has {}", bytes.len()))
        }
    }

    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
    fn sign(&self, id: Uuid, timestamp_s: u64, body: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl Webhook {
    /// A webhook at `url`, `http` or `https`, given by whoever runs culprit.
    ///
    /// # Errors
    /// The URL is none, or of another scheme.
    pub fn new(url: &str, secret: Option<Secret>) -> Result<Webhook, String> {
        Ok(Webhook {
            endpoint: Endpoint::secret(&SecretText::new(url), &Trust::Trusted)?,
            secrets: secret.into_iter().collect(),
        })
    }

    /// A webhook as its settings say.
    ///
    /// # Errors
    /// The URL or a key is not what it should be, or the URL leads where it may not lead.
    pub fn open(
        url: &SecretText,
        secret: Option<&SecretText>,
        trust: &Trust,
    ) -> Result<Webhook, String> {
        let secrets = match secret.filter(|it| !it.is_empty()) {
            Some(secret) => secret
                .read("the signing secret", trust)?
                .split_whitespace()
                .map(Secret::parse)
                .collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if secrets.len() > SECRETS_MAX {
            return Err(format!("more than {SECRETS_MAX} signing secrets"));
        }
        let endpoint = Endpoint::secret(url, trust)?;
        Ok(Webhook { endpoint, secrets })
    }

    /// Where it leads, without secrets.
    pub fn shown(&self) -> String {
        self.endpoint.shown()
    }

    /// Posts each alert by itself. When one fails, those before it are sent again with the next
    /// attempt, with the same ids.
    pub async fn deliver(
        &self,
        message: Uuid,
        notification: &Notification,
        public_url: &str,
    ) -> Delivery {
        for (number, alert) in notification.alerts.iter().enumerate() {
            let id = if number == 0 {
                message
            } else {
                derived(message, alert.incident)
            };
            let delivery = self.post(id, &body(notification, alert, public_url)).await;
            if delivery != Delivery::Delivered {
                return delivery;
            }
        }
        Delivery::Delivered
    }

    /// Posts `body`. Redirects are not followed: a receiver that moved has to be configured anew.
    pub async fn post(&self, id: Uuid, body: &Value) -> Delivery {
        let body = body.to_string();
        let now_s = clock::now_ns() / 1_000_000_000;
        match self
            .endpoint
            .post(self.headers(id, now_s, &body), body)
            .await
        {
            Ok(answer) => answer.delivery(MEANING),
            Err(error) => failed(error),
        }
    }

    fn headers(&self, id: Uuid, timestamp_s: u64, body: &str) -> HeaderMap {
        let signatures: Vec<String> = self
            .secrets
            .iter()
            .map(|it| it.sign(id, timestamp_s, body))
            .collect();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", id.to_string()),
            ("webhook-timestamp", timestamp_s.to_string()),
            ("webhook-signature", signatures.join(" ")),
        ] {
            if !value.is_empty() {
                let value = HeaderValue::try_from(value).expect("ids, digits and base64 are ASCII");
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }
}

/// The id of a further alert of a message: the same in every attempt, and nobody else's.
fn derived(message: Uuid, incident: Uuid) -> Uuid {
    let digest = Sha256::new()
        .chain_update(message.as_bytes())
        .chain_update(incident.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What is posted about one alert: type, timestamp, data.
fn body(notification: &Notification, alert: &Alert, public_url: &str) -> Value {
    let mut data = data(notification, alert, public_url);
    let what = data.shift_remove("type");
    let what = what.as_ref().and_then(Value::as_str);
    let what = what.or(alert.labels.get("kind").map(String::as_str));
    let what = wording::shorten(what.unwrap_or("alert"), 100).replace('-', "_");
    shrink(&mut data, BODY_BYTES_MAX - ENVELOPE_BYTES, NEEDED);
    json!({
        "type": format!("{what}.{}", notification.event.name()),
        "timestamp": rfc3339(notification.at_ms),
        "data": data,
    })
}

/// The alert's own data, and around it what all alerts have.
fn data(notification: &Notification, alert: &Alert, public_url: &str) -> Map<String, Value> {
    let fires = wording::fires(notification.event, alert);
    let common = json!({
        "incident": alert.incident,
        "fingerprint": alert.fingerprint,
        "rule": alert.rule,
        "status": if fires { "firing" } else { "resolved" },
        "severity": alert.severity,
        "labels": alert.labels,
        "title": alert.title,
        "summary": alert.summary,
        "facts": alert.facts,
        "starts_at": rfc3339(alert.started_ms),
        "ends_at": alert.ended_ms.map(rfc3339),
        "links": links(alert, public_url),
    });
    let mut data = match &alert.data {
        Value::Object(data) => data.clone(),
        Value::Null => Map::new(),
        other => Map::from_iter([("value".to_owned(), other.clone())]),
    };
    if let Value::Object(common) = common {
        for (name, value) in common {
            // A finding has a fingerprint of its own, which receivers may know it by.
            if name != "fingerprint" || !data.contains_key(&name) {
                data.insert(name, value);
            }
        }
    }
    if let Some(url) = wording::main_url(public_url, alert) {
        data.insert("url".into(), url.into());
    }
    data.entry("id").or_insert_with(|| json!(alert.incident));
    data
}

fn links(alert: &Alert, public_url: &str) -> Vec<Value> {
    let whole = |link: &Link| {
        let url = wording::url(public_url, link)?;
        Some(json!({"text": link.text, "url": url}))
    };
    alert.links.iter().filter_map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::Event;
    use crate::alert::receivers::{PUBLIC_URL, Receiver, WholeUrl, hostile, notification};
    use serde::Deserialize;
    use std::collections::{BTreeMap, BTreeSet};

    /// A body as the README documents it.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(rename = "type")]
        kind: String,
        timestamp: String,
        data: Data,
    }

    #[derive(Debug, Deserialize)]
    struct Data {
        id: Value,
        incident: Uuid,
        status: String,
        severity: String,
        title: String,
        starts_at: String,
        ends_at: Option<String>,
        url: Option<WholeUrl>,
        truncated: Option<Vec<String>>,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    const OLD: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
    const NEW: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=";

    fn open(receiver: &Receiver, secret: Option<&str>) -> Webhook {
        let url = SecretText::new(format!("{}/hook", receiver.url));
        Webhook::open(&url, secret.map(SecretText::new).as_ref(), &Trust::Trusted).unwrap()
    }

    async fn sent(notification: &Notification) -> Vec<Body> {
        let receiver = Receiver::saying(204, &[], "").await;
        let webhook = open(&receiver, None);
        let delivery = webhook
            .deliver(Uuid::from_u128(7), notification, PUBLIC_URL)
            .await;
        assert_eq!(delivery, Delivery::Delivered);
        for received in receiver.received() {
            assert!(
                received.body.len() <= BODY_BYTES_MAX,
                "{}",
                received.body.len()
            );
        }
        receiver.bodies()
    }

    #[tokio::test]
    async fn a_body_says_what_where_and_since_when() {
        let body = sent(&notification(Event::Resolved, 1)).await.remove(0);
        assert_eq!(body.kind, "regression.latency.resolved");
        assert_eq!(body.timestamp, "2023-11-14T22:28:20.000Z");
        let data = body.data;
        assert_eq!(data.id, json!(data.incident));
        assert_eq!(
            (data.status.as_str(), data.severity.as_str()),
            ("resolved", "critical")
        );
        assert_eq!(data.starts_at, "2023-11-14T22:13:20.000Z");
        assert_eq!(data.ends_at.unwrap(), "2023-11-14T22:27:20.000Z");
        assert_eq!(
            data.url.unwrap().as_str(),
            "https://culprit.example/base/regressions/7"
        );
        assert_eq!(data.rest["before_ns"], 180_000_000);
        assert_eq!(data.rest["labels"]["endpoint"], "POST /checkout");
        assert_eq!(data.rest["facts"][0]["name"], "p99");
        assert_eq!(
            data.rest["links"][1]["url"],
            "https://culprit.example/base/traces/00ff"
        );
        assert!(!data.rest.contains_key("type") && data.truncated.is_none());
    }

    /// Receivers that were written for findings find everything where it was.
    #[tokio::test]
    async fn a_finding_keeps_its_fields() {
        let finding = json!({
            "type": "bottleneck.n_plus_one_query",
            "id": 7, "detector": "n-plus-one-query", "fingerprint": "select ?",
            "service": "shop", "environment": "", "endpoint": "GET /posts", "version": "1.1.0",
            "first_seen": "2023-11-14T22:13:20Z", "affected_traces": 3, "count": 20,
            "sum_ns": 5, "saved_ns": 4, "statement": "select 1", "code": null,
            "explanation": "…", "fix": "…",
        });
        let mut opened = notification(Event::Opened, 1);
        opened.alerts[0].data = finding.clone();
        let body = sent(&opened).await.remove(0);
        assert_eq!(body.kind, "bottleneck.n_plus_one_query.opened");
        assert_eq!(body.data.id, 7);
        for (name, value) in finding.as_object().unwrap() {
            if !["type", "id"].contains(&name.as_str()) {
                assert_eq!(&body.data.rest[name], value, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn every_alert_is_a_message_with_a_stable_id() {
        let receiver = Receiver::saying(200, &[], "").await;
        let webhook = open(&receiver, None);
        let message = Uuid::from_u128(7);
        for _attempt in 0..2 {
            webhook
                .deliver(message, &notification(Event::Opened, 40), "")
                .await;
        }
        let ids = receiver.received().into_iter().map(|it| {
            let id = it.headers["webhook-id"].to_str().unwrap().to_owned();
            id.parse::<Uuid>().unwrap()
        });
        let ids: Vec<Uuid> = ids.collect();
        assert_eq!(ids[0], message);
        assert_eq!(ids[..40], ids[40..]);
        assert_eq!(BTreeSet::from_iter(&ids).len(), 40);
    }

    #[tokio::test]
    async fn two_keys_make_two_signatures() {
        let receiver = Receiver::saying(200, &[], "").await;
        let webhook = open(&receiver, Some(&format!("{NEW} {OLD}")));
        let id = Uuid::from_u128(7);
        webhook
            .deliver(id, &notification(Event::Opened, 1), "")
            .await;
        let received = receiver.received().remove(0);
        let timestamp_s = received.headers["webhook-timestamp"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let body = std::str::from_utf8(&received.body).unwrap();
        let signatures =
            [NEW, OLD].map(|it| Secret::parse(it).unwrap().sign(id, timestamp_s, body));
        assert_eq!(received.headers["webhook-signature"], signatures.join(" "));

        let unsigned = Receiver::saying(200, &[], "").await;
        open(&unsigned, None)
            .deliver(id, &notification(Event::Opened, 1), "")
            .await;
        assert!(
            !unsigned.received()[0]
                .headers
                .contains_key("webhook-signature")
        );
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_and_told() {
        let mut odd = notification(Event::Opened, 1);
        odd.alerts = vec![hostile()];
        let body = sent(&odd).await.remove(0);
        let cut = body.data.truncated.unwrap();
        assert!(cut.contains(&"statement".to_owned()), "{cut:?}");
        assert_eq!(body.data.incident, hostile().incident);
        assert!(body.data.title.starts_with("<!channel>"));
    }

    #[tokio::test]
    async fn only_410_is_the_end() {
        for (status, is_gone) in [(410, true), (400, false), (404, false), (502, false)] {
            let receiver = Receiver::saying(status, &[], "").await;
            let delivery = open(&receiver, None)
                .deliver(Uuid::from_u128(7), &notification(Event::Opened, 3), "")
                .await;
            assert_eq!(
                matches!(delivery, Delivery::Gone(_)),
                is_gone,
                "{delivery:?}"
            );
            assert_eq!(matches!(delivery, Delivery::Failed { .. }), !is_gone);
            assert_eq!(
                receiver.received().len(),
                1,
                "the first failure ends the attempt"
            );
        }
    }

    /// Computed with `openssl dgst -sha256 -mac HMAC`, not with this code.
    #[test]
    fn signs_as_the_standard_says() {
        let secret = Secret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
        let id = Uuid::from_u128(1);
        assert_eq!(
            secret.sign(id, 1_700_000_000, "{}"),
            "v1,XeQV/HWpGxeNQn/ixfiu2BP+l/j9vL8Wsi6NGOUipgY="
        );
    }

    #[test]
    fn secrets_are_checked_and_never_shown() {
        assert!(
            Secret::parse("whsec_c2hvcnQ=")
                .unwrap_err()
                .contains("this one has 5")
        );
        assert!(Secret::parse("hunter2").is_err());
        let secret = Secret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn only_http_urls() {
        assert!(Webhook::new("file:///etc/passwd", None).is_err());
        assert!(Webhook::new("hooks.example", None).is_err());
        assert!(Webhook::new("http://127.0.0.1:9/x?token=1", None).is_ok());
    }
}
