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
            excerpt(&self.without_secrets(&String::from_utf8_lossy(&bytes)))
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
fn excerpt(text: &str) -> String {
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
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::receivers::{Receiver, Then, bad_server, tls_server};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    const MEANING: Meaning = Meaning {
        rejected: &[400],
        gone: &[410],
    };

    fn endpoint(url: &str) -> Endpoint {
        let mut endpoint = Endpoint::secret(&SecretText::new(url), &Trust::Trusted).unwrap();
        endpoint.in_test(Duration::from_millis(500), None);
        endpoint
    }

    async fn post(endpoint: &Endpoint) -> Delivery {
        match endpoint.post(HeaderMap::new(), "{}".into()).await {
            Ok(answer) => answer.delivery(MEANING),
            Err(error) => super::super::channel::failed(error),
        }
    }

    #[track_caller]
    fn error(delivery: Delivery) -> String {
        match delivery {
            Delivery::Failed { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn every_success_is_a_delivery() {
        for status in [200, 201, 202, 204] {
            let receiver = Receiver::saying(status, &[], "").await;
            let url = format!("{}/a/b?token=t0ken-t0ken", receiver.url);
            assert_eq!(post(&endpoint(&url)).await, Delivery::Delivered);
            let received = &receiver.received()[0];
            assert_eq!(received.path, "/a/b?token=t0ken-t0ken");
            assert_eq!(received.headers["content-type"], "application/json");
            assert_eq!(&received.body[..], b"{}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let target = Receiver::saying(200, &[], "").await;
        let location: &'static str = target.url.clone().leak();
        let headers: &'static [(&str, &str)] = vec![("location", location)].leak();
        for status in [301, 302, 303, 307, 308] {
            let receiver = Receiver::saying(status, headers, "").await;
            let error = error(post(&endpoint(&receiver.url)).await);
            assert!(error.contains("a redirect to 127.0.0.1;"), "{error}");
            assert_eq!(receiver.received().len(), 1);
        }
        assert_eq!(target.received().len(), 0);
    }

    #[tokio::test]
    async fn statuses_mean_what_the_channel_says() {
        for (status, expected) in [
            (
                400,
                Delivery::Rejected("the receiver answered 400 Bad Request: no".into()),
            ),
            (
                410,
                Delivery::Gone("the receiver answered 410 Gone: no".into()),
            ),
        ] {
            let receiver = Receiver::saying(status, &[], "no").await;
            assert_eq!(post(&endpoint(&receiver.url)).await, expected);
        }
        let receiver = Receiver::saying(500, &[("content-type", "text/html")], "<h1>no</h1>").await;
        let error = error(post(&endpoint(&receiver.url)).await);
        assert_eq!(error, "the receiver answered 500 Internal Server Error");
    }

    #[tokio::test]
    async fn the_receiver_says_when_to_come_back() {
        let receiver = Receiver::saying(429, &[("retry-after", "17")], "").await;
        let Delivery::Failed { retry_after, .. } = post(&endpoint(&receiver.url)).await else {
            panic!("a failure is expected");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(17)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (text, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("99999999", Some(86_400)),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)),
            ("Tue, 14 Nov 2023 22:13:00 GMT", Some(0)),
            ("Mon, 14 Nov 2033 22:13:00 GMT", Some(86_400)),
            ("-5", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[tokio::test]
    async fn a_receiver_that_hangs_has_not_got_it() {
        for bytes in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-le"] {
            let url = bad_server(bytes, Then::Hang).await;
            let error = error(post(&endpoint(&url)).await);
            assert_eq!(error, "no answer within 0.5 s", "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn half_an_answer_is_none() {
        for bytes in ["", "HTTP/1.1 200 OK\r\ncontent-le", "SSH-2.0-OpenSSH_9\r\n"] {
            let url = bad_server(bytes, Then::Close).await;
            let error = error(post(&endpoint(&url)).await);
            assert!(!error.is_empty() && !error.contains("no answer"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_status_counts_whatever_happens_to_the_body() {
        for then in [Then::Hang, Then::Close, Then::GoOn] {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n";
            let url = bad_server(head, then).await;
            assert_eq!(post(&endpoint(&url)).await, Delivery::Delivered);

            let head = "HTTP/1.1 400 Bad\r\ncontent-length: 9999999999\r\n\r\ninvalid_blocks";
            let url = bad_server(head, then).await;
            let Delivery::Rejected(error) = post(&endpoint(&url)).await else {
                panic!("a rejection is expected");
            };
            assert!(error.contains("invalid_blocks"), "{error}");
            assert!(error.chars().count() < 300, "{error}");
        }
    }

    #[tokio::test]
    async fn headers_that_never_end_are_cut_off() {
        let url = bad_server("HTTP/1.1 200 OK\r\nx: ", Then::GoOn).await;
        let started = Instant::now();
        let error = error(post(&endpoint(&url)).await);
        assert!(
            !error.contains("no answer"),
            "{error} after {:?}",
            started.elapsed()
        );
    }

    #[tokio::test]
    async fn errors_hold_no_secrets_and_no_control_characters() {
        let body = "no such hook /services/T0P/s3cr3t-t0ken\u{1b}[31m\u{202e}, key k3y-k3y-k3y";
        let receiver = Receiver::saying(500, &[], body).await;
        let mut endpoint = endpoint(&format!("{}/services/T0P/s3cr3t-t0ken", receiver.url));
        endpoint.hide("k3y-k3y-k3y");
        let error = error(post(&endpoint).await);
        assert!(error.ends_with("no such hook … [31m, key …"), "{error}");
        assert!(!format!("{endpoint:?} {}", endpoint.shown()).contains("t0ken"));

        let refused = Endpoint::secret(
            &"https://hooks.example:99999/s3cr3t".into(),
            &Trust::Trusted,
        );
        assert!(!refused.unwrap_err().contains("s3cr3t"));
    }

    fn allowing_loopback() -> Trust {
        Trust::Guarded {
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        }
    }

    /// Names that are what `lookup` says, and how often it was asked.
    fn names(addresses: &'static [&'static str]) -> (Names, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let names = Names::Fixed(Arc::new(move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            // The second answer leads into the network.
            let addresses = if number == 0 {
                addresses
            } else {
                &["10.0.0.1"]
            };
            let parsed = addresses.iter().map(|it| it.parse::<IpAddr>().unwrap());
            parsed.collect()
        }));
        (names, asked)
    }

    #[tokio::test]
    async fn what_was_judged_is_connected_to() {
        let receiver = Receiver::saying(200, &[], "").await;
        let url = receiver.url.replace("127.0.0.1", "receiver.example");
        let mut endpoint = Endpoint::at(&url, &allowing_loopback()).unwrap();
        let (names, asked) = names(&["127.0.0.1"]);
        endpoint.in_test(TIMEOUT, Some(names));
        assert_eq!(post(&endpoint).await, Delivery::Delivered);
        assert_eq!(
            asked.load(Ordering::Relaxed),
            1,
            "the name is resolved once"
        );
        let host = receiver.received()[0].headers["host"].clone();
        assert_eq!(format!("http://{}", host.to_str().unwrap()), url);
        // And anew for the next message.
        let error = error(post(&endpoint).await);
        assert!(error.contains("without encryption"), "{error}");
        assert_eq!(receiver.received().len(), 1);
    }

    #[tokio::test]
    async fn one_bad_address_among_good_ones_is_enough() {
        let receiver = Receiver::saying(200, &[], "").await;
        let url = receiver.url.replace("127.0.0.1", "receiver.example");
        let mut endpoint = Endpoint::at(&url, &allowing_loopback()).unwrap();
        endpoint.in_test(TIMEOUT, Some(names(&["127.0.0.1", "192.168.0.1"]).0));
        error(post(&endpoint).await);
        assert_eq!(receiver.received().len(), 0);
    }

    #[tokio::test]
    async fn tls_names_the_receiver_and_wants_its_certificate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hello = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; 4096];
            let length = stream.read(&mut hello).await.unwrap();
            hello.truncate(length);
            hello
        });
        let url = format!("https://receiver.example.:{port}/");
        let mut endpoint = Endpoint::at(&url, &allowing_loopback()).unwrap();
        endpoint.in_test(TIMEOUT, Some(names(&["127.0.0.1"]).0));
        let error = error(post(&endpoint).await);
        assert!(error.contains("no TLS with receiver.example"), "{error}");
        let hello = hello.await.unwrap();
        let name = b"receiver.example";
        assert!(hello.windows(name.len()).any(|it| it == name));
    }

    #[tokio::test]
    async fn tls_is_spoken_with_the_address_that_was_judged_under_the_receivers_name() {
        let port = tls_server().await;
        for (host, is_delivered) in [("localhost", true), ("receiver.example", false)] {
            let url = format!("https://{host}:{port}/");
            let mut endpoint = Endpoint::at(&url, &allowing_loopback()).unwrap();
            endpoint.in_test(TIMEOUT, Some(names(&["127.0.0.1"]).0));
            let delivery = post(&endpoint).await;
            assert_eq!(
                delivery == Delivery::Delivered,
                is_delivered,
                "{delivery:?}"
            );
        }
        let url = format!("https://127.0.0.1:{port}/");
        assert_eq!(post(&endpoint(&url)).await, Delivery::Delivered);
    }

    /// What `url` makes of odd hosts is what is judged.
    #[test]
    fn tricks_with_urls_lead_nowhere() {
        let guarded = Trust::Guarded {
            allow_private: Vec::new(),
        };
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://0/",
            "https://127.0.0.1./",
            "https://①②⑦.0.0.1/",
            "https://127。0。0。1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://localhost/",
            "https://localhost./",
            "https://LOCALHOST/",
            "https://lo\u{ad}calhost/",
            "https://a.localhost/",
            "https://metadata.google.internal./",
            "https://metadata/",
            "https://169.254.169.254/latest/meta-data/",
            "https://0xa9fea9fe/",
            "https://10.0.0.1:443/",
            "https:\\\\10.0.0.1/",
            "https:10.0.0.1",
            "https://hooks.example@10.0.0.1/",
            "https://10.0.0.1#@hooks.example/",
            "https://user@hooks.example/",
            "https://user:password@hooks.example/",
            "https://hooks.example:22/",
            "http://hooks.example/",
            "ftp://hooks.example/",
            "file:///etc/passwd",
            "gopher://hooks.example/",
            "data:text/plain,x",
            "https://",
            "hooks.example",
            "",
        ] {
            assert!(Endpoint::at(url, &guarded).is_err(), "{url}");
        }
        for url in [
            "https://hooks.example/",
            "https://hooks.example.:443/x?y#z",
            "https://bücher.example/",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]/",
        ] {
            assert!(Endpoint::at(url, &guarded).is_ok(), "{url}");
        }
    }
}
