//! Prometheus Alertmanager, API v2: it groups, silences and tells by itself, and forgets what is
//! not said again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::http::{Endpoint, Meaning};
use super::notification::{Alert, Notification};
use super::rfc3339::rfc3339;
use super::secret::SecretText;
use super::wording;

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

    /// The same endpoint, for tests that are in a hurry.
    #[cfg(test)]
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// Posts all alerts at once. What is sent again is the same message, with a later end.
    pub async fn deliver(&self, notification: &Notification, public_url: &str) -> Delivery {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let body = body(notification, public_url, now.as_millis() as i64).to_string();
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
