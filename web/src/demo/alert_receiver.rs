//! Where the demo's alerts arrive: a receiver of webhooks as anybody would write one after Standard
//! Webhooks 1.0, which prints what it is told.
//!
//! It believes nothing that is not signed, and says what is told twice once. What is in a message it reads
//! with tolerance: a title, a link and whether it is over are all it wants.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use uuid::Uuid;

/// A message whose timestamp is further away may be one that somebody has recorded and sends again: the
/// tolerance that the standard's own libraries have.
const TIMESTAMP_OFF_MAX: Duration = Duration::from_secs(300);

/// Ids of messages that are remembered. An older one would be printed again.
const IDS_MAX: usize = 1_000;

/// Far more than a message has; what is longer is refused.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Alerts of one message that are printed; the others are counted.
const ALERTS_SHOWN_MAX: usize = 3;

/// A running receiver; ends when it is dropped.
pub struct AlertReceiver {
    /// Where messages are to be posted.
    pub url: String,
    /// What they are to be signed with: `whsec_` and base64.
    pub secret: String,
    _server: JoinSet<std::io::Result<()>>,
}

impl AlertReceiver {
    /// Listens on a free port of the loopback interface, with a new secret. `say` gets the lines of each
    /// message, once.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(say: impl Fn(&[String]) + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot listen on a free port of 127.0.0.1")?;
        let url = format!("http://{}/alerts", listener.local_addr()?);
        // 32 bytes, of which 30 are random.
        let key = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        let secret = format!("whsec_{}", STANDARD.encode(&key));
        let app = router(key, say);
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await });
        Ok(AlertReceiver {
            url,
            secret,
            _server: server,
        })
    }
}

fn router(key: Vec<u8>, say: impl Fn(&[String]) + Send + Sync + 'static) -> Router {
    let receiver = Arc::new(Receiver {
        key,
        told: Mutex::default(),
        say: Box::new(say),
    });
    Router::new()
        .route("/alerts", post(receive))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(receiver)
}

/// Gets the lines of a message.
type Say = Box<dyn Fn(&[String]) + Send + Sync>;

struct Receiver {
    key: Vec<u8>,
    /// Ids of messages, the latest last.
    told: Mutex<VecDeque<String>>,
    say: Say,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let Some(id) = receiver.verified_id(&headers, &body, now.unwrap_or_default()) else {
        return StatusCode::UNAUTHORIZED;
    };
    let Ok(message) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    if receiver.is_new(id) {
        (receiver.say)(&lines(&message));
    }
    StatusCode::NO_CONTENT
}

impl Receiver {
    /// The message's id, if the message is signed with our key, and lately.
    fn verified_id<'h>(
        &self,
        headers: &'h HeaderMap,
        body: &[u8],
        now: Duration,
    ) -> Option<&'h str> {
        let header = |name| headers.get(name)?.to_str().ok();
        let id = header("webhook-id")?;
        let timestamp = header("webhook-timestamp")?;
        let sent = Duration::from_secs(timestamp.parse().ok()?);
        let is_signed = header("webhook-signature")?
            .split(' ')
            .any(|it| self.is_ours(it, &[id.as_bytes(), timestamp.as_bytes(), body]));
        (is_signed && now.abs_diff(sent) <= TIMESTAMP_OFF_MAX).then_some(id)
    }

    /// Whether `signature` is `v1,` and the base64 of HMAC-SHA256 over `signed`, joined by dots. Compares
    /// in constant time.
    fn is_ours(&self, signature: &str, signed: &[&[u8]]) -> bool {
        let Some(Ok(signature)) = signature.strip_prefix("v1,").map(|it| STANDARD.decode(it))
        else {
            return false;
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return false;
        };
        mac.update(&signed.join(&b'.'));
        mac.verify_slice(&signature).is_ok()
    }

    /// Delivery is at least once: a message may come again, with the same id.
    fn is_new(&self, id: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.iter().any(|it| it == id) {
            return false;
        }
        if told.len() == IDS_MAX {
            told.pop_front();
        }
        told.push_back(id.to_owned());
        true
    }
}

/// A message for people: a line, and where there is one, its link in a line of its own.
fn lines(message: &Value) -> Vec<String> {
    let data = &message["data"];
    let word = word(message["type"].as_str().unwrap_or_default(), data);
    let several = data["alerts"].as_array().filter(|it| it.len() > 1);
    let alerts: Vec<&Value> = match several {
        Some(alerts) => alerts.iter().collect(),
        None => vec![data],
    };
    let mut lines = Vec::new();
    for alert in alerts.iter().take(ALERTS_SHOWN_MAX) {
        let title = text(alert, "title").unwrap_or_else(|| "(without a title)".to_owned());
        lines.push(format!("{word:<8}  {title}"));
        lines.extend(text(alert, "url").map(|it| format!("{:8}  {it}", "")));
    }
    let omitted = alerts.len().saturating_sub(ALERTS_SHOWN_MAX);
    if omitted > 0 {
        lines.push(format!("{:8}  and {omitted} more", ""));
    }
    lines
}

/// `type` ends with what has happened: `regression.p99.resolved`.
fn word(kind: &str, data: &Value) -> &'static str {
    match (kind.rsplit('.').next(), data["status"].as_str()) {
        (Some("resolved"), _) | (_, Some("resolved")) => "RESOLVED",
        (Some("reminder"), _) => "STILL",
        (Some("flapping"), _) => "FLAPPING",
        (Some("test"), _) => "TEST",
        _ => "ALERT",
    }
}

/// Without control characters: endpoints are named by whoever sends spans, and a terminal obeys.
fn text(of: &Value, key: &str) -> Option<String> {
    let text = of[key].as_str().filter(|it| !it.is_empty())?;
    Some(text.replace(char::is_control, " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::alert::{Delivery, Secret, Webhook};
    use serde_json::json;

    /// What a receiver has said.
    type Said = Arc<Mutex<Vec<String>>>;

    async fn receiver() -> (AlertReceiver, Said) {
        let said = Said::default();
        let saying = said.clone();
        let say = move |lines: &[String]| saying.lock().unwrap().extend_from_slice(lines);
        (AlertReceiver::start(say).await.unwrap(), said)
    }

    fn webhook(url: &str, secret: &str) -> Webhook {
        Webhook::new(url, Some(Secret::parse(secret).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn says_what_culprit_sends_once() {
        let (receiver, said) = receiver().await;
        let webhook = webhook(&receiver.url, &receiver.secret);
        let message = json!({"type": "bottleneck.n_plus_one_query.opened", "data": {
            "title": "31 × select authors", "url": "http://127.0.0.1:7007/bottlenecks/1"}});
        let id = Uuid::from_u128(7);
        for _ in 0..2 {
            assert_eq!(webhook.post(id, &message).await, Delivery::Delivered);
        }
        assert_eq!(
            said.lock().unwrap().as_slice(),
            [
                "ALERT     31 × select authors",
                "          http://127.0.0.1:7007/bottlenecks/1"
            ]
        );
    }

    #[tokio::test]
    async fn a_message_of_somebody_else_is_refused() {
        let (receiver, said) = receiver().await;
        let message = json!({"data": {"title": "everything is on fire"}});
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let forged = [
            webhook(&receiver.url, &other),
            Webhook::new(&receiver.url, None).unwrap(),
        ];
        for webhook in forged {
            let delivery = webhook.post(Uuid::from_u128(1), &message).await;
            let Delivery::Failed { error, .. } = delivery else {
                panic!("{delivery:?}");
            };
            assert!(error.contains("401"), "{error}");
        }
        assert_eq!(said.lock().unwrap().len(), 0);
    }

    /// The key, id, timestamp and signature of a message, computed by `openssl dgst -sha256 -mac HMAC`.
    const KEY: &[u8] = b"0123456789abcdef01234567";
    const ID: &str = "00000000-0000-0000-0000-000000000001";
    const SENT_S: u64 = 1_700_000_000;
    const SIGNATURE: &str = "v1,XeQV/HWpGxeNQn/ixfiu2BP+l/j9vL8Wsi6NGOUipgY=";

    fn verifies(signature: &str, body: &str, now_s: u64) -> bool {
        let receiver = Receiver {
            key: KEY.to_vec(),
            told: Mutex::default(),
            say: Box::new(|_| {}),
        };
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", ID.parse().unwrap());
        headers.insert("webhook-timestamp", SENT_S.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        let now = Duration::from_secs(now_s);
        receiver.verified_id(&headers, body.as_bytes(), now) == Some(ID)
    }

    #[test]
    fn a_signature_is_of_one_body_and_one_time() {
        assert!(verifies(SIGNATURE, "{}", SENT_S));
        assert!(verifies(SIGNATURE, "{}", SENT_S + 300));
        assert!(!verifies(SIGNATURE, "{}", SENT_S + 301));
        assert!(!verifies(SIGNATURE, "{}", SENT_S - 301));
        assert!(!verifies(SIGNATURE, "{ }", SENT_S));
        // While a secret is changed for another, messages carry both signatures.
        assert!(verifies(&format!("v1,AAAA {SIGNATURE}"), "{}", SENT_S));
        assert!(!verifies(SIGNATURE.trim_end_matches('='), "{}", SENT_S));
        assert!(!verifies(&SIGNATURE.replace("v1", "v2"), "{}", SENT_S));
        assert!(!verifies("", "{}", SENT_S));
    }

    #[test]
    fn messages_are_read_with_tolerance() {
        let said = |message: Value| lines(&message).join("\n");
        let resolved = json!({"type": "regression.resolved", "data": {"title": "p99 of GET /x"}});
        assert_eq!(said(resolved), "RESOLVED  p99 of GET /x");
        let by_status = json!({"data": {"status": "resolved", "title": "p99 of GET /x"}});
        assert_eq!(said(by_status), "RESOLVED  p99 of GET /x");
        assert_eq!(said(json!([])), "ALERT     (without a title)");
        let escapes = json!({"data": {"title": "GET /\u{1b}[2J"}});
        assert_eq!(said(escapes), "ALERT     GET / [2J");

        let titles = ["a", "b", "c", "d", "e"];
        let alerts = titles.map(|it| json!({ "title": it }));
        let several = json!({"data": {"title": "5 alerts", "alerts": alerts}});
        assert_eq!(
            said(several),
            "ALERT     a\nALERT     b\nALERT     c\n          and 2 more"
        );
    }

    #[test]
    fn what_was_told_is_remembered_for_a_while() {
        let receiver = Receiver {
            key: Vec::new(),
            told: Mutex::default(),
            say: Box::new(|_| {}),
        };
        for id in 0..=IDS_MAX {
            assert!(receiver.is_new(&id.to_string()));
        }
        assert!(!receiver.is_new("1"));
        assert!(receiver.is_new("0"));
    }
}
