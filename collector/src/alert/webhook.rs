//! The generic webhook: an HTTP POST after Standard Webhooks 1.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use sha2::Sha256;
use std::fmt;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

use super::Delivery;

/// A receiver that takes longer has not got it.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A receiver's URL, given by whoever runs culprit (and so trusted).
#[derive(Clone)]
pub struct Webhook {
    url: Uri,
    secret: Option<Secret>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What messages are signed with. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path may hold a token.
        f.debug_struct("Webhook")
            .field("host", &self.url.host())
            .finish_non_exhaustive()
    }
}

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
            .map_err(|error| format!("{wanted}: {error}"))?;
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
    /// A webhook at `url`, `http` or `https`.
    ///
    /// # Errors
    /// The URL is none, or of another scheme.
    pub fn new(url: &str, secret: Option<Secret>) -> Result<Webhook, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("it is not a URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err("it is not an http:// or https:// URL".into());
        }
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Webhook {
            url: uri,
            secret,
            client,
        })
    }

    /// Posts `body`. Redirects are not followed: a receiver that moved has to be configured anew.
    pub async fn post(&self, id: Uuid, body: &Value) -> Delivery {
        let body = body.to_string();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let timestamp_s = now.as_secs();
        let mut request = Request::post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("culprit/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id.to_string())
            .header("webhook-timestamp", timestamp_s.to_string());
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", secret.sign(id, timestamp_s, &body));
        }
        let request = match request.body(Full::from(body)) {
            Ok(request) => request,
            Err(error) => return Delivery::Failed(error.to_string()),
        };
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => judge(response.status()),
            Ok(Err(error)) => Delivery::Failed(chain(&error)),
            Err(_) => Delivery::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

fn judge(status: StatusCode) -> Delivery {
    if status.is_success() {
        Delivery::Delivered
    } else if status == StatusCode::GONE {
        Delivery::Gone("the receiver answered 410: it wants no more messages".into())
    } else {
        Delivery::Failed(format!("the receiver answered {status}"))
    }
}

/// An error and what caused it: hyper's own text only says "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
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
