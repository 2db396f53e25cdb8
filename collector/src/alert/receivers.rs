//! For tests: receivers on this machine, good ones and bad ones, and something to tell them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use url::Url;
use uuid::Uuid;

use super::notification::{Alert, Event, Fact, Link, Notification, Severity};

/// Where links lead.
pub const PUBLIC_URL: &str = "https://culprit.example/base/";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An HTTP server that keeps what it gets.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<dyn Fn(usize) -> Response + Send + Sync>,
}

impl Receiver {
    /// One that answers the nth request, from 0, with `answer(n)`.
    pub async fn answering(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Receiver {
            url: format!("http://{}", listener.local_addr().unwrap()),
            received: Arc::default(),
            answer: Arc::new(answer),
        };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    /// One that always answers this.
    pub async fn saying(
        status: u16,
        headers: &'static [(&str, &str)],
        body: &'static str,
    ) -> Receiver {
        Receiver::answering(move |_| {
            let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            response.body(body.into()).unwrap()
        })
        .await
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The bodies, if they have the shape of `T`.
    pub fn bodies<T: DeserializeOwned>(&self) -> Vec<T> {
        let shaped = |it: &Received| {
            serde_json::from_slice(&it.body)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&it.body)))
        };
        self.received().iter().map(shaped).collect()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let number = {
        let mut received = receiver.received.lock().unwrap();
        received.push(Received {
            path: uri.to_string(),
            headers,
            body,
        });
        received.len() - 1
    };
    (receiver.answer)(number)
}

fn data(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/receiver/testdata");
    data.join(name)
}

/// Who vouches for the certificate of [`acceptor`].
pub fn authority() -> CertificateDer<'static> {
    CertificateDer::from_pem_file(data("ca.pem")).unwrap()
}

/// The roots of the Web and the authority of tests.
pub fn with_authority(mut roots: RootCertStore) -> RootCertStore {
    roots.add(authority()).unwrap();
    roots
}

/// TLS of a server that is `localhost` and `127.0.0.1`, and nobody else.
pub fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(data("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(data("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A server that takes requests over TLS and answers 204. Its port.
pub async fn tls_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor().accept(stream).await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    });
    port
}

/// A URL that programs accept, not only a string.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct WholeUrl(Url);

impl TryFrom<String> for WholeUrl {
    type Error = url::ParseError;

    fn try_from(text: String) -> Result<WholeUrl, url::ParseError> {
        Url::parse(&text).map(WholeUrl)
    }
}

impl WholeUrl {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// What a bad server does after it has sent its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing, for ever.
    Hang,
    /// Ends the connection.
    Close,
    /// Sends the letter a for ever.
    GoOn,
}

/// A server that takes a request, sends `bytes`, and then behaves badly. Its URL.
pub async fn bad_server(bytes: &'static str, then: Then) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Mail servers speak first.
                if !bytes.starts_with("220") {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                }
                let _ = stream.write_all(bytes.as_bytes()).await;
                match then {
                    Then::Hang => std::future::pending().await,
                    Then::Close => {}
                    Then::GoOn => while stream.write_all(&[b'a'; 4096]).await.is_ok() {},
                }
            });
        }
    });
    url
}

/// An alert as a regression makes it.
pub fn alert(number: u128) -> Alert {
    let labels = [
        ("service", "shop"),
        ("environment", "production"),
        ("endpoint", "POST /checkout"),
        ("kind", "regression"),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Alert {
        incident: Uuid::from_u128(0xa1e47 + number),
        fingerprint: format!("f1a9e2{number:04x}"),
        rule: "latency-regression".into(),
        firing: true,
        severity: Severity::Critical,
        labels: BTreeMap::from(labels),
        title: "p99 of POST /checkout went from 180 ms to 420 ms after 1.1.0".into(),
        summary: "One call grew: select … from stock. Look at its plan first.".into(),
        facts: vec![
            fact("p99", "180 ms → 420 ms (1,204 requests before, 310 after)"),
            fact("99th", "slow & <odd>"),
        ],
        data: json!({"type": "regression.latency", "before_ns": 180_000_000}),
        links: vec![
            link("comparison", "/regressions/7"),
            link("a slow trace", "/traces/00ff"),
        ],
        started_ms: 1_700_000_000_000,
        ended_ms: None,
    }
}

pub fn fact(name: &str, value: &str) -> Fact {
    Fact {
        name: name.into(),
        value: value.into(),
    }
}

pub fn link(text: &str, path: &str) -> Link {
    Link {
        text: text.into(),
        path: path.into(),
    }
}

/// A message about so many alerts.
pub fn notification(event: Event, alerts: u128) -> Notification {
    let ended_ms = (event == Event::Resolved).then_some(1_700_000_840_000);
    let alerts = (0..alerts).map(|number| Alert {
        firing: event != Event::Resolved,
        ended_ms,
        ..alert(number)
    });
    Notification {
        event,
        group: "shop (production)".into(),
        alerts: alerts.collect(),
        omitted: 0,
        at_ms: 1_700_000_900_000,
    }
}

/// Texts that break receivers, readers and limits, all in one alert.
pub fn hostile() -> Alert {
    let nasty = "<!channel> & <https://evil.example|login> \u{202e}gnihton\u{0} \u{1f4a5}\r\nBcc: all@x.example \
                 \"'</td><script>alert(1)</script>";
    let long = format!("{nasty} {}", "select '<&>' from \u{1f98a} ".repeat(600));
    let facts = (0..60).map(|it| fact(&format!("{it} {nasty}"), &long));
    Alert {
        rule: nasty.into(),
        labels: BTreeMap::from([
            ("service".into(), nasty.into()),
            ("end point\u{0}".into(), long.clone()),
            ("9".into(), "nine".into()),
            ("empty".into(), String::new()),
        ]),
        title: format!("{nasty} {long}"),
        summary: long.clone(),
        facts: facts.chain([fact("", "")]).collect(),
        data: json!({"statement": long, "list": vec![long.clone(); 50], "deep": {"text": long}}),
        links: (0..30)
            .map(|it| link(nasty, &format!("/traces/{it}?q={nasty}")))
            .collect(),
        fingerprint: "f".repeat(400),
        ..alert(99)
    }
}
