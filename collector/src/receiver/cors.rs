//! Exporters in browsers: which web sites' pages may send spans. None, unless told so.
//!
//! The origin is always named in the answer and never `*`, because `navigator.sendBeacon` sends
//! credentials, and browsers accept no `*` for those.

use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// How long a browser may remember a permission: two hours, the longest that Chromium keeps one.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");

/// Asked for by exporters that do not say what they will send.
const USUAL_HEADERS: HeaderValue =
    HeaderValue::from_static("content-type, content-encoding, authorization, traceparent");

/// What scripts may read of an answer besides its body.
const READABLE_HEADERS: HeaderValue = HeaderValue::from_static("retry-after");

/// A list of asked headers longer than this is answered with [`USUAL_HEADERS`].
const ASKED_BYTES_MAX: usize = 1024;

/// The sites whose pages may send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cors {
    sites: Vec<Site>,
}

/// `https://*.example.com:8443`, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Site {
    scheme: String,
    host: String,
    any_subdomain: bool,
    port: Port,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Port {
    Any,
    Only(String),
}

impl Cors {
    /// Sites as `https://shop.example.com`, `https://*.example.com` (any name below it, at any
    /// depth) or `http://localhost:*` (any port).
    ///
    /// # Errors
    /// A pattern of another form.
    pub fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let sites = patterns.iter().map(|pattern| {
            Site::parse(pattern).with_context(|| {
                format!(
                    "{pattern:?} is no web site: write https://shop.example.com, \
                     https://*.example.com or http://localhost:*"
                )
            })
        });
        Ok(Self {
            sites: sites.collect::<anyhow::Result<_>>()?,
        })
    }

    fn allowed<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.sites
            .iter()
            .any(|it| it.matches(text))
            .then_some(origin)
    }
}

impl Site {
    fn parse(pattern: &str) -> Option<Self> {
        let (scheme, host, port) = parts(pattern)?;
        let below = host.strip_prefix("*.");
        let any_subdomain = below.is_some();
        let host = below.unwrap_or(host);
        let is_name = !host.is_empty() && !host.contains(['*', '/', '?', '#', '@', ' ']);
        let port = match port {
            "*" => Port::Any,
            digits if digits.bytes().all(|it| it.is_ascii_digit()) => Port::Only(digits.to_owned()),
            _ => return None,
        };
        (is_name && matches!(scheme, "http" | "https")).then(|| Self {
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            any_subdomain,
            port,
        })
    }

    fn matches(&self, origin: &str) -> bool {
        let Some((scheme, host, port)) = parts(origin) else {
            return false;
        };
        let host = host.to_ascii_lowercase();
        let is_host = if self.any_subdomain {
            let below = host.strip_suffix(&self.host);
            below.is_some_and(|it| it.len() > 1 && it.ends_with('.'))
        } else {
            host == self.host
        };
        let is_port = match &self.port {
            Port::Any => true,
            Port::Only(only) => only == port,
        };
        scheme == self.scheme && is_host && is_port
    }
}

/// Scheme, host and port; the port is empty if it is not written.
fn parts(origin: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = origin.split_once("://")?;
    // An IPv6 address has colons of its own.
    match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some((scheme, host, port)),
        _ => Some((scheme, rest, "")),
    }
}

/// Answers preflights, and says on every other answer who may read it.
pub(super) async fn layer(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let origin = cors.allowed(request.headers()).cloned();
    let headers = request.headers();
    let asks_first =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&origin, asks_first) {
        (Some(_), true) => preflight(headers),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READABLE_HEADERS);
    }
    response
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let asked = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let asked = asked.filter(|it| !it.is_empty() && it.len() <= ASKED_BYTES_MAX);
    let headers = response.headers_mut();
    let post = HeaderValue::from_static("POST");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, post);
    let allowed = asked.cloned().unwrap_or(USUAL_HEADERS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    let asked = HeaderValue::from_static("access-control-request-headers");
    headers.append(VARY, asked);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cors_patterns_match_sites_and_nothing_that_looks_alike() {
        let rows = [
            ("https://shop.example.com", "https://shop.example.com", true),
            ("https://shop.example.com", "https://SHOP.example.com", true),
            ("https://shop.example.com", "http://shop.example.com", false),
            (
                "https://shop.example.com",
                "https://shop.example.com:8443",
                false,
            ),
            (
                "https://shop.example.com",
                "https://shop.example.com.evil.org",
                false,
            ),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            (
                "https://*.example.com",
                "https://a.example.com.evil.org",
                false,
            ),
            (
                "https://*.example.com:8443",
                "https://a.example.com:8443",
                true,
            ),
            ("https://*.example.com:8443", "https://a.example.com", false),
            ("http://localhost:*", "http://localhost:3000", true),
            ("http://localhost:*", "http://localhost", true),
            ("http://[::1]:*", "http://[::1]:3000", true),
            ("http://localhost:*", "null", false),
        ];
        for (pattern, origin, expected) in rows {
            let cors = Cors::new(&[pattern.to_owned()]).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, origin.parse().unwrap());
            let allowed = cors.allowed(&headers).is_some();
            assert_eq!(allowed, expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn cors_patterns_that_mean_everybody_are_refused() {
        for pattern in [
            "*",
            "",
            "https://*",
            "https://",
            "example.com",
            "https://a.*.example.com",
            "ftp://example.com",
            "https://example.com/path",
            "https://example.com:80a",
        ] {
            let error = Cors::new(&[pattern.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("https://*.example.com"), "{error}");
        }
    }
}
