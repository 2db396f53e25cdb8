//! The generic webhook: an HTTP POST after Standard Webhooks 1.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::SystemTime;
use uuid::Uuid;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Link, Notification};
use super::rfc3339::rfc3339;
use super::secret::SecretText;
use super::shrink::shrink;
use super::wording;

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

    /// The same endpoint, for tests that are in a hurry.
    #[cfg(test)]
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
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
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        match self
            .endpoint
            .post(self.headers(id, now.as_secs(), &body), body)
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
