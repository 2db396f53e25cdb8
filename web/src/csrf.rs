//! Who may change something: our own pages and programs, but no page of somebody else's.
//!
//! Nobody logs in to culprit, so a page on the internet could make its visitor's browser post forms
//! to a culprit that only that visitor reaches. Browsers say where a request comes from; what comes
//! from elsewhere is refused. Programs (curl) say nothing and are no browsers: they pass.
//!
//! A name that was made to lead to this machine only after its page was loaded (DNS rebinding) is
//! our own origin for the browser. It is told by its Host: a culprit that listens on this machine
//! alone is asked as `localhost`, by an address, or by the name that `--public-url` gives it.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use std::net::SocketAddr;
use std::sync::Arc;
use tower_http::csrf::{CsrfLayer, ProtectionError};
use url::{Host, Url};

/// How this culprit is reached.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// Where people reach it, if that was told.
    public_url: Option<Arc<Url>>,
    /// Only from this machine.
    locally: bool,
}

impl Reached {
    /// By `--public-url`, listening on `address`. What is no URL helps nobody and is left out.
    pub fn new(public_url: Option<&str>, address: Option<SocketAddr>) -> Reached {
        Reached {
            public_url: public_url.and_then(|it| Url::parse(it).ok()).map(Arc::new),
            locally: address.is_some_and(|it| it.ip().is_loopback()),
        }
    }

    /// The host of a request may be meant for this culprit.
    fn is_ours(&self, authority: &str) -> bool {
        if !self.locally {
            // Names lead here that only the network's owner knows.
            return true;
        }
        let Ok(url) = Url::parse(&format!("http://{authority}")) else {
            return false;
        };
        match url.host() {
            // Nobody else's name can be rebound to what is no name.
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
            Some(Host::Domain(name)) => {
                let public = self.public_url.as_deref().and_then(Url::host_str);
                name == "localhost" || name.ends_with(".localhost") || public == Some(name)
            }
            None => false,
        }
    }
}

/// Routes that refuse what foreign pages send.
pub fn protect(router: Router, reached: Reached) -> Router {
    let mut layer = CsrfLayer::new();
    if let Some(url) = &reached.public_url {
        // A proxy may give us another Host than the browser saw.
        let origin = url.origin().ascii_serialization();
        layer = layer.clone().add_trusted_origin(origin).unwrap_or(layer);
    }
    router
        .layer(layer.with_rejection_response(refusal))
        .layer(axum::middleware::from_fn_with_state(reached, known_host))
}

/// Marks an answer of [`refusal`], which does not know what was asked.
#[derive(Clone)]
struct Foreign;

const FOREIGN: &str = "Refused: this request comes from a page that is not culprit's own. If culprit is behind a \
    proxy, start it with --public-url=URL, the address that people see.";

/// A refusal as the one who asked reads it: programs get JSON.
fn refused(is_api: bool, text: &str) -> Response<Body> {
    if is_api {
        let body = axum::Json(serde_json::json!({ "error": text }));
        (StatusCode::FORBIDDEN, body).into_response()
    } else {
        (StatusCode::FORBIDDEN, format!("{text}\n")).into_response()
    }
}

fn refusal(_: ProtectionError) -> Response<Body> {
    let mut response = refused(false, FOREIGN);
    response.extensions_mut().insert(Foreign);
    response
}

/// Refuses what would change something under a name that is not ours.
async fn known_host(
    State(reached): State<Reached>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return next.run(request).await;
    }
    let is_api = request.uri().path().starts_with("/api/");
    let host = request.headers().get(header::HOST);
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => host.map(|it| it.to_str().unwrap_or("?")),
    };
    // Every browser names the host.
    if host.is_none_or(|it| reached.is_ours(it)) {
        let response = next.run(request).await;
        return match response.extensions().get::<Foreign>() {
            Some(_) if is_api => refused(is_api, FOREIGN),
            _ => response,
        };
    }
    let text = "Refused: this culprit listens on this machine only, and was asked under a name that it does not \
        know. Ask it as localhost or 127.0.0.1, or start it with --public-url=URL, the address that people see.";
    refused(is_api, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tower::ServiceExt;

    const LOOPBACK: &str = "127.0.0.1:7007";

    async fn asked(reached: Reached, method: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let router = Router::new().route("/it", get(|| async { "done" }).post(|| async { "done" }));
        let mut request = Request::builder().method(method).uri("/it");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = protect(router, reached).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 10_000).await;
        (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
    }

    fn local(public_url: Option<&str>) -> Reached {
        Reached::new(public_url, LOOPBACK.parse().ok())
    }

    #[tokio::test]
    async fn foreign_pages_are_refused() {
        for (headers, status) in [
            // What browsers say today.
            (vec![("sec-fetch-site", "same-origin")], 200),
            (vec![("sec-fetch-site", "none")], 200),
            (vec![("sec-fetch-site", "cross-site")], 403),
            (vec![("sec-fetch-site", "same-site")], 403),
            (
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://127.0.0.1:7007"),
                ],
                403,
            ),
            // What older ones say, and all where there is no TLS.
            (vec![("origin", "http://127.0.0.1:7007")], 200),
            (vec![("origin", "http://127.0.0.1:8080")], 403),
            (vec![("origin", "https://evil.example")], 403),
            (vec![("origin", "null")], 403),
            // curl.
            (vec![], 200),
        ] {
            let mut all = vec![("host", LOOPBACK)];
            all.extend(headers.iter().copied());
            let (got, text) = asked(local(None), "POST", &all).await;
            assert_eq!(got, status, "{headers:?}");
            assert_eq!(text.contains("--public-url"), status == 403, "{text}");
            let (got, _) = asked(local(None), "GET", &all).await;
            assert_eq!(got, 200, "reading changes nothing: {headers:?}");
        }
    }

    #[tokio::test]
    async fn behind_a_proxy_the_public_url_counts() {
        let headers = [
            ("host", "127.0.0.1:7007"),
            ("origin", "https://culprit.example"),
        ];
        let public = Some("https://culprit.example/");
        assert_eq!(asked(local(public), "POST", &headers).await.0, 200);
        assert_eq!(asked(local(None), "POST", &headers).await.0, 403);
        let other = Some("https://culprit.example:8443");
        assert_eq!(asked(local(other), "POST", &headers).await.0, 403);
        assert_eq!(asked(local(Some("no URL")), "POST", &headers).await.0, 403);
    }

    #[tokio::test]
    async fn rebound_names_are_refused_where_only_this_machine_asks() {
        let public = Some("https://culprit.example");
        for (host, status) in [
            ("localhost:7007", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1:7007", 200),
            ("[::1]:7007", 200),
            ("culprit.example", 200),
            ("evil.example:7007", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
        ] {
            let origin = format!("http://{host}");
            let headers = [("host", host), ("origin", origin.as_str())];
            let (got, text) = asked(local(public), "POST", &headers).await;
            assert_eq!(got, status, "{host}: {text}");
            assert_eq!(asked(local(public), "GET", &headers).await.0, 200, "{host}");
        }
        let open = Reached::new(None, "0.0.0.0:7007".parse().ok());
        let headers = [
            ("host", "culprit.lan:7007"),
            ("origin", "http://culprit.lan:7007"),
        ];
        assert_eq!(asked(open, "POST", &headers).await.0, 200);
        assert_eq!(asked(local(None), "POST", &[]).await.0, 200, "no browser");
    }
}
