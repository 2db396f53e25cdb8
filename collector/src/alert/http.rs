//! One HTTP POST to a receiver: no redirects, no proxy, no connection kept, and little read of
//! what comes back.

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use url::Url;

use super::Delivery;
use super::dial::{self, Names};
use super::guard::{Target, Trust};
use super::secret::SecretText;

/// A receiver that takes longer, from the first packet to the last, has not got it.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer that are looked at; the rest is not read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Characters of an answer that people see: enough for "invalid_blocks" and a sentence.
const EXCERPT_CHARS_MAX: usize = 200;

/// A receiver that wants to be left alone for longer is asked again after a day nevertheless.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Shorter pieces of a URL are words, not secrets, and need not be hidden in errors.
const SECRET_CHARS_MIN: usize = 6;

/// Ports of public receivers for guarded settings.
const PORTS: &[u16] = &[443, 80];

/// Where to post.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    trust: Trust,
    hidden: Vec<String>,
    names: Names,
    timeout: Duration,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.shown())
    }
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whatever it is.
    pub status: StatusCode,
    /// The receiver says when it wants to be asked again.
    pub retry_after: Option<Duration>,
    /// A little of what it said, without secrets; empty after a success.
    pub excerpt: String,
    /// The host a redirect points to.
    pub elsewhere: Option<String>,
}

/// Statuses that mean more than "not now" to one kind of receiver.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// The message is wrong and will be for ever.
    pub rejected: &'static [u16],
    /// The receiver is no more.
    pub gone: &'static [u16],
}

impl Endpoint {
    /// An endpoint at a URL that may be secret.
    ///
    /// # Errors
    /// As [`Endpoint::at`], or the secret cannot be read.
    pub fn secret(url: &SecretText, trust: &Trust) -> Result<Endpoint, String> {
        let text = url.read("the URL", trust)?;
        let mut endpoint = Endpoint::at(&text, trust)?;
        let path = endpoint.url.path().to_owned();
        let query = endpoint.url.query().unwrap_or_default().to_owned();
        let pieces = path.split('/').chain(query.split(['&', '=']));
        for piece in [path.as_str(), query.as_str()].into_iter().chain(pieces) {
            endpoint.hide(piece);
        }
        Ok(endpoint)
    }

    /// An endpoint at a URL that is no secret.
    ///
    /// # Errors
    /// It is no http or https URL, names a user, or leads where `trust` does not let it lead.
    pub fn at(url: &str, trust: &Trust) -> Result<Endpoint, String> {
        let url = Url::parse(url.trim()).map_err(|error| format!("it is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("it is not an http:// or https:// URL".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user or a password before the host is not accepted".into());
        }
        let endpoint = Endpoint {
            url,
            trust: trust.clone(),
            hidden: Vec::new(),
            names: Names::System,
            timeout: TIMEOUT,
        };
        let host = endpoint.host();
        trust.vet_target(endpoint.target(&host))?;
        Ok(endpoint)
    }

    /// Keeps `secret` out of every error.
    pub fn hide(&mut self, secret: &str) {
        if secret.chars().count() >= SECRET_CHARS_MIN {
            self.hidden.push(secret.to_owned());
            // The longest first, so that no rest of one stays.
            self.hidden.sort_by_key(|it| std::cmp::Reverse(it.len()));
        }
    }

    /// The URL with another path.
    pub fn with_path(mut self, path: &str) -> Endpoint {
        self.url.set_path(path);
        self
    }

    /// The URL's path.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// The URL without what may be secret: `https://hooks.slack.com/…`
    pub fn shown(&self) -> String {
        format!("{}/…", self.url.origin().ascii_serialization())
    }

    /// Another time limit and other addresses.
    #[cfg(test)]
    pub fn in_test(&mut self, timeout: Duration, names: Option<Names>) {
        self.timeout = timeout;
        if let Some(names) = names {
            self.names = names;
        }
    }

    /// Posts `body`.
    ///
    /// # Errors
    /// There is no answer; the text says why, without secrets.
    pub async fn post(&self, headers: HeaderMap, body: String) -> Result<Answer, String> {
        let deadline = Instant::now() + self.timeout;
        let late = |_| format!("no answer within {} s", self.timeout.as_secs_f32());
        tokio::time::timeout_at(deadline, self.exchange(headers, body, deadline))
            .await
            .map_err(late)
            .flatten()
            .map_err(|error| self.without_secrets(&error))
    }

    async fn exchange(
        &self,
        headers: HeaderMap,
        body: String,
        deadline: Instant,
    ) -> Result<Answer, String> {
        let request = self.request(headers, body)?;
        let host = self.host();
        let connection = dial::tcp(self.target(&host), &self.trust, &self.names).await?;
        if self.url.scheme() == "https" {
            let encrypted = dial::tls(connection, &host).await?;
            self.talk(encrypted, request, deadline).await
        } else {
            self.talk(connection, request, deadline).await
        }
    }

    fn request(&self, headers: HeaderMap, body: String) -> Result<Request<Full<Bytes>>, String> {
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let host = self.url.host_str().unwrap_or_default();
        let authority = match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let mut request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("culprit/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    async fn talk<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| chain(&error))?;
        let answer = pin!(async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| chain(&error))?;
            Ok(self.answer(response, deadline).await)
        });
        // The connection lives no longer than the answer is read.
        match select(answer, pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, answer)) => answer.await,
        }
    }

    async fn answer(&self, response: Response<Incoming>, deadline: Instant) -> Answer {
        let (head, body) = response.into_parts();
        let excerpt = if head.status.is_success() || !is_text(&head.headers) {
            String::new()
        } else {
            let mut bytes = Vec::new();
            // The status says it all: a body that never ends or breaks off changes nothing.
            let until = deadline - self.timeout / 10;
            let _ = tokio::time::timeout_at(until, read(body, &mut bytes)).await;
            self.without_secrets(&excerpt(&bytes))
        };
        Answer {
            status: head.status,
            retry_after: retry_after(&head.headers, SystemTime::now()),
            excerpt,
            elsewhere: self.elsewhere(&head.headers),
        }
    }

    fn elsewhere(&self, headers: &HeaderMap) -> Option<String> {
        let location = headers.get(LOCATION)?.to_str().ok()?;
        let url = self.url.join(location).ok()?;
        Some(url.host_str()?.to_owned())
    }

    fn without_secrets(&self, text: &str) -> String {
        self.hidden
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }

    /// The host as names are resolved and certificates written: no trailing dot, no brackets.
    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_matches(['[', ']'])
            .trim_end_matches('.')
            .to_owned()
    }

    fn target<'a>(&self, host: &'a str) -> Target<'a> {
        Target {
            host,
            port: self.url.port_or_known_default().unwrap_or(443),
            encrypted: self.url.scheme() == "https",
            ports: PORTS,
        }
    }
}

impl Answer {
    /// What the answer means: any 2xx is a delivery; a redirect is none, because a receiver that
    /// moved has to be configured anew.
    pub fn delivery(self, meaning: Meaning) -> Delivery {
        let status = self.status.as_u16();
        if self.status.is_success() {
            return Delivery::Delivered;
        }
        let error = self.error();
        if meaning.gone.contains(&status) {
            Delivery::Gone(error)
        } else if meaning.rejected.contains(&status) {
            Delivery::Rejected(error)
        } else {
            Delivery::Failed {
                error,
                retry_after: self.retry_after,
            }
        }
    }

    fn error(&self) -> String {
        let mut error = format!("the receiver answered {}", self.status);
        if self.status.is_redirection() {
            let elsewhere = self.elsewhere.as_deref().unwrap_or("nowhere");
            error += &format!(", a redirect to {elsewhere}; redirects are not followed");
        } else if !self.excerpt.is_empty() {
            error += &format!(": {}", self.excerpt);
        }
        error
    }
}

/// A page is no explanation.
fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    kind.is_none_or(|it| it.starts_with("text/plain") || it.contains("json"))
}

async fn read(mut body: Incoming, bytes: &mut Vec<u8>) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            let room = ANSWER_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if bytes.len() == ANSWER_BYTES_MAX {
                return;
            }
        }
    }
}

/// One line of printable text.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text
        .split(|it: char| it.is_whitespace() || it.is_control())
        .filter(|it| !it.is_empty())
        .collect();
    super::wording::clean(&words.join(" "))
        .chars()
        .take(EXCERPT_CHARS_MAX)
        .collect()
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wanted = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wanted.min(RETRY_AFTER_MAX))
}

/// An error and what caused it: hyper's own text only says "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
