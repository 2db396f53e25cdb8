//! Who may send: tokens, browsers, certificates.
//!
//! The certificates in `testdata` are P-256, valid from 2020 to 2120 but for `client-expired`;
//! `server`, `server-renewed` and `client` are signed by `ca`. The authorities' keys are gone.

use std::path::{Path, PathBuf};

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::frames::Frames;
use super::*;

const TOKEN: &str = "0123456789abcdef";
const BEARER: Header = ("authorization", "Bearer 0123456789abcdef");
const WRONG: Header = ("authorization", "Bearer 0123456789abcdeg");

#[tokio::test]
async fn n6_n13_s15_without_a_token_nothing_is_taken() {
    let tokens = Watched::new(Vec::new(), || Tokens::parse(TOKEN)).unwrap();
    let (served, store) = Served::with(Options {
        tokens: Some(tokens),
        ..Options::default()
    })
    .await;
    let body = spans(1).encode_to_vec();
    for content_type in [PROTOBUF, JSON] {
        for headers in [vec![content_type], vec![content_type, WRONG]] {
            for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
                let reply = served
                    .ask(false, Method::POST, path, &headers, body.clone())
                    .await;
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
                assert_eq!(reply.header("content-type"), content_type.1);
                assert_eq!(reply.status_code(), Code::Unauthenticated as i32);
                assert_eq!(reply.header("www-authenticate"), "Bearer");
                assert_eq!(reply.header("retry-after"), "");
            }
        }
    }
    let logs = "opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let reply = served.call_method(logs, &[], framed(0, b"")).await;
    assert_eq!(reply.grpc_status(), Code::Unauthenticated as i32);
    let reply = served.call(&[WRONG], framed(0, &body)).await;
    assert_eq!(reply.grpc_status(), Code::Unauthenticated as i32);
    assert_eq!(stored_spans(&store).await, 0);
    let refused = served.receiver.stats().snapshot().refused_requests;
    assert_eq!(refused[Refusal::Unauthenticated as usize].1, 14);

    let reply = served.post(&[PROTOBUF, BEARER], body.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = served.call(&[BEARER], framed(0, &body)).await;
    assert_eq!(reply.grpc_status(), 0);
    assert_eq!(stored_spans(&store).await, 2);
    // Load balancers have no token.
    let reply = served.ask(false, Method::GET, "/readyz", &[], "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let mut health = served.health().await;
    let health = health.check(HealthCheckRequest::default());
    assert_eq!(
        health.await.unwrap().into_inner().status(),
        ServingStatus::Serving
    );
    served.stop().await;
}

#[tokio::test]
async fn cors_is_answered_for_listed_sites_and_for_no_others() {
    let (served, store) = Served::with(Options {
        cors: Some(Cors::new(&["https://*.example.com".to_owned()]).unwrap()),
        ..Options::default()
    })
    .await;
    let site = ("origin", "https://shop.example.com");
    let stranger = ("origin", "https://example.com.evil.org");
    let asks = ("access-control-request-method", "POST");
    let wants = ("access-control-request-headers", "content-type,x-own");
    let preflight = async |path, headers: &[Header]| {
        let reply = served.ask(false, Method::OPTIONS, path, headers, "").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        reply
    };
    for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
        let reply = preflight(path, &[site, asks, wants]).await;
        assert_eq!(reply.header("access-control-allow-origin"), site.1);
        assert_eq!(reply.header("access-control-allow-methods"), "POST");
        assert_eq!(reply.header("access-control-allow-headers"), wants.1);
        assert_eq!(reply.header("access-control-allow-credentials"), "true");
        assert_eq!(reply.header("access-control-max-age"), "7200");
        assert!(
            reply
                .headers
                .get_all("vary")
                .iter()
                .any(|it| it == "origin")
        );
    }
    let reply = preflight("/v1/traces", &[site, asks]).await;
    let allowed = reply.header("access-control-allow-headers");
    assert!(allowed.contains("content-encoding") && allowed.contains("traceparent"));
    let reply = preflight("/v1/traces", &[stranger, asks, wants]).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");
    assert_eq!(reply.header("vary"), "origin");

    // The same on answers, good and bad.
    let body = otlp::to_json(&spans(1).encode_to_vec()).unwrap();
    for (content_type, status) in [(JSON, 200), (("content-type", "text/plain"), 415)] {
        let reply = served.post(&[content_type, site], body.clone()).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("access-control-allow-origin"), site.1);
        assert_eq!(reply.header("access-control-allow-credentials"), "true");
        assert_eq!(reply.header("access-control-expose-headers"), "retry-after");
        assert_eq!(reply.header("vary"), "origin");
    }
    let reply = served.post(&[JSON, stranger], body.clone()).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");
    assert_eq!(stored_spans(&store).await, 2);
    served.stop().await;
}

#[tokio::test]
async fn cors_is_off_unless_asked_for() {
    let (served, _store) = Served::usual().await;
    let site = ("origin", "https://shop.example.com");
    for method in [Method::OPTIONS, Method::POST] {
        let reply = served
            .ask(false, method, "/v1/traces", &[site, JSON], "{}")
            .await;
        let about = reply
            .headers
            .keys()
            .filter(|it| it.as_str().contains("access-control"));
        assert_eq!(about.count(), 0);
    }
    served.stop().await;
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/receiver/testdata")
        .join(name)
}

fn files(client_authorities: Option<PathBuf>) -> TlsFiles {
    TlsFiles {
        certificate: data("server.pem"),
        key: data("server.key"),
        client_authorities,
    }
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(data(name)).unwrap()
}

/// A client that trusts `authority`, shows `own` if it has one, and speaks `protocol`.
async fn tls(
    address: SocketAddr,
    authority: &str,
    own: Option<&str>,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(authority)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(data("client.key")).unwrap();
            builder
                .with_client_auth_cert(vec![certificate(name)], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// With TLS 1.3 a client hears that its certificate is refused only when it reads.
async fn asks(stream: std::io::Result<TlsStream<TcpStream>>) -> std::io::Result<bool> {
    let mut stream = stream?;
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(get.as_bytes()).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said.contains("200 OK"))
}

#[tokio::test]
async fn s16_t3_tls_carries_both_protocols() {
    let (served, store) = Served::with(Options {
        tls: Some(Tls::new(files(None)).unwrap()),
        ..Options::default()
    })
    .await;
    let stream = tls(served.grpc, "ca.pem", None, "h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Frames::over(stream)
        .await
        .export(&spans(2).encode_to_vec())
        .await;
    assert_eq!(stored_spans(&store).await, 2);
    let stream = tls(served.http, "ca.pem", None, "http/1.1").await;
    assert!(asks(stream).await.unwrap());
    assert!(tls(served.http, "other-ca.pem", None, "h2").await.is_err());

    let mut plain = TcpStream::connect(served.http).await.unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(
        !said.starts_with(b"HTTP/1.1"),
        "nothing is said in the clear"
    );
    served.stop().await;
}

#[tokio::test]
async fn s16_clients_show_certificates_if_an_authority_is_named() {
    let (served, _store) = Served::with(Options {
        tls: Some(Tls::new(files(Some(data("ca.pem")))).unwrap()),
        ..Options::default()
    })
    .await;
    for (own, welcome) in [
        (Some("client.pem"), true),
        (None, false),
        (Some("client-expired.pem"), false),
        (Some("client-of-other-ca.pem"), false),
    ] {
        let stream = tls(served.http, "ca.pem", own, "http/1.1").await;
        assert_eq!(asks(stream).await.unwrap_or(false), welcome, "{own:?}");
    }
    served.stop().await;
}

#[tokio::test]
async fn s16_a_renewed_certificate_is_served_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.pem");
    std::fs::copy(data("server.pem"), &path).unwrap();
    let files = TlsFiles {
        certificate: path.clone(),
        ..files(None)
    };
    let (served, _store) = Served::with(Options {
        tls: Some(Tls::new(files).unwrap().looking_always()),
        ..Options::default()
    })
    .await;
    let shown = async || {
        let stream = tls(served.http, "ca.pem", None, "http/1.1").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    assert_eq!(shown().await, certificate("server.pem"));
    std::fs::copy(data("server-renewed.pem"), &path).unwrap();
    assert_eq!(shown().await, certificate("server-renewed.pem"));
    std::fs::write(&path, "half a certif").unwrap();
    assert_eq!(shown().await, certificate("server-renewed.pem"));
    served.stop().await;
}

#[test]
fn s16_files_that_cannot_be_used_are_named() {
    for (certificate, key, named) in [
        ("none.pem", "server.key", "none.pem"),
        ("server.key", "server.key", "server.key"),
        ("server.pem", "none.key", "none.key"),
        ("server.pem", "client.key", "do not fit"),
    ] {
        let files = TlsFiles {
            certificate: data(certificate),
            key: data(key),
            client_authorities: None,
        };
        let error = format!("{:#}", Tls::new(files).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
}
