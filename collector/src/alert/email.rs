//! Mail over SMTP. What the mail says stands in `email/text.rs`; this file sends it.

mod text;

use lettre::address::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use url::Url;
use uuid::Uuid;

use super::channel::{Delivery, failed};
use super::dial::{self, Capped, Names};
use super::guard::{Target, Trust};
use super::notification::Notification;
use super::secret::SecretText;
use super::wording;

/// The whole conversation. Mail servers make strangers wait, so it is longer than for HTTP.
const TIMEOUT: Duration = Duration::from_secs(30);

/// For a polite end; the mail is accepted already.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Ports of public mail servers for guarded settings: those for the submission of mail. Port 25
/// is not among them: it leads to other people's mail servers.
const PORTS: &[u16] = &[465, 587, 2525];

/// A message goes to so many addresses; more are a mailing list's business.
const RECIPIENTS_MAX: usize = 50;

/// UTF-16 units of what a mail server answered that people see.
const ANSWER_CHARS_MAX: usize = 300;

/// A mail server and those who get mail.
#[derive(Clone)]
pub struct Email {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    password: String,
    from: Mailbox,
    to: Vec<Mailbox>,
    trust: Trust,
    names: Names,
    timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Security {
    /// From the first byte.
    Tls,
    /// Before anything is said; without it nothing is.
    StartTls,
    /// Not at all.
    None,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Email({})", self.shown())
    }
}

/// Why a mail is not accepted.
enum Problem {
    Later(String),
    Never(String),
}

impl Email {
    /// A mail server and recipients as their settings say.
    ///
    /// # Errors
    /// Something is not what it should be, or the server may not be reached.
    pub fn open(
        smtp: &str,
        password: Option<&SecretText>,
        from: &str,
        to: &[String],
        trust: &Trust,
    ) -> Result<Email, String> {
        let wanted = "the server is written as smtps://user@host:465, or smtp://user@host:587";
        let url = Url::parse(smtp.trim()).map_err(|error| format!("{wanted}: {error}"))?;
        let security = security(&url, trust)?;
        let host = url.host_str().filter(|it| !it.is_empty()).ok_or(wanted)?;
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        if url.password().is_some() {
            return Err("the password of a mail server does not belong into its URL".into());
        }
        let password = password.filter(|it| !it.is_empty());
        let password = password.map(|it| it.read("the password", trust));
        let password = password.transpose()?.unwrap_or_default();
        let email = Email {
            host: host.to_owned(),
            port: url.port().unwrap_or(match security {
                Security::Tls => 465,
                Security::StartTls => 587,
                Security::None => 25,
            }),
            security,
            credentials: credentials(&url, &password)?,
            password,
            from: mailbox(from)?,
            to: to.iter().map(|it| mailbox(it)).collect::<Result<_, _>>()?,
            trust: trust.clone(),
            names: Names::System,
            timeout: TIMEOUT,
        };
        if email.to.is_empty() || email.to.len() > RECIPIENTS_MAX {
            return Err(format!(
                "it takes 1 to {RECIPIENTS_MAX} addresses to send to"
            ));
        }
        trust.vet_target(email.target())?;
        Ok(email)
    }

    /// Who gets it and through which server.
    pub fn shown(&self) -> String {
        let to: Vec<String> = self.to.iter().map(|it| it.email.to_string()).collect();
        format!("{} via {}:{}", to.join(", "), self.host, self.port)
    }

    /// Another time limit, for tests that are in a hurry.
    #[cfg(test)]
    pub fn in_test(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends all alerts in one mail, with the same Message-ID in every attempt.
    pub async fn deliver(
        &self,
        message: Uuid,
        notification: &Notification,
        public_url: &str,
    ) -> Delivery {
        let mail = text::mail(&self.from, &self.to, message, notification, public_url);
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => {
                return Delivery::Rejected(format!("the mail cannot be written: {error}"));
            }
        };
        match tokio::time::timeout(self.timeout, self.hand_over(&mail)).await {
            Ok(Ok(mut connection)) => {
                let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
                Delivery::Delivered
            }
            Ok(Err(Problem::Later(error))) => failed(self.without_secrets(&error)),
            Ok(Err(Problem::Never(error))) => Delivery::Rejected(self.without_secrets(&error)),
            Err(_) => failed(format!(
                "the mail server took longer than {} s",
                self.timeout.as_secs_f32()
            )),
        }
    }

    /// Done when the server has taken the mail for at least one recipient: those it refuses would
    /// otherwise keep it from all others.
    async fn hand_over(&self, mail: &[u8]) -> Result<AsyncSmtpConnection, Problem> {
        let mut connection = self.connect().await.map_err(Problem::Later)?;
        let sender = Mail::new(Some(self.from.email.clone()), Vec::new());
        connection.command(sender).await.map_err(judged)?;
        let mut refused: Option<Problem> = None;
        let mut accepted = 0;
        for to in &self.to {
            match connection
                .command(Rcpt::new(to.email.clone(), Vec::new()))
                .await
            {
                Ok(_) => accepted += 1,
                Err(error) => {
                    tracing::warn!(to = %to.email, error = said(&error), "the mail server refuses an address");
                    // One that may be taken later is worth another attempt.
                    if !matches!(refused, Some(Problem::Later(_))) {
                        refused = Some(judged(error));
                    }
                }
            }
        }
        if let (0, Some(refused)) = (accepted, refused) {
            return Err(refused);
        }
        connection.command(Data).await.map_err(judged)?;
        connection.message(mail).await.map_err(judged)?;
        Ok(connection)
    }

    /// Ready to take mail. Whatever goes wrong until then can be mended: it is tried again.
    async fn connect(&self) -> Result<AsyncSmtpConnection, String> {
        let tcp = dial::tcp(self.target(), &self.trust, &self.names).await?;
        let name = ClientId::default();
        let said = |error| said(&error);
        let mut connection = match self.security {
            Security::Tls => {
                let peer = tcp.peer();
                let stream = dial::tls(tcp, &self.host).await?;
                let stream = Box::new(Encrypted { stream, peer });
                AsyncSmtpConnection::connect_with_transport(stream, &name).await
            }
            Security::StartTls | Security::None => {
                AsyncSmtpConnection::connect_with_transport(Box::new(tcp), &name).await
            }
        }
        .map_err(said)?;
        if self.security == Security::StartTls {
            let parameters = tls_parameters(&self.host).map_err(said)?;
            connection.starttls(parameters, &name).await.map_err(said)?;
        }
        if let Some(credentials) = &self.credentials {
            connection
                .auth(DEFAULT_MECHANISMS, credentials)
                .await
                .map_err(said)?;
        }
        Ok(connection)
    }

    fn target(&self) -> Target<'_> {
        Target {
            host: &self.host,
            port: self.port,
            encrypted: self.security != Security::None,
            ports: PORTS,
        }
    }

    fn without_secrets(&self, error: &str) -> String {
        if self.password.is_empty() {
            return error.to_owned();
        }
        error.replace(&self.password, "…")
    }
}

/// With the same roots as every other connection.
fn tls_parameters(host: &str) -> Result<TlsParameters, SmtpError> {
    let builder = TlsParameters::builder(host.to_owned());
    #[cfg(test)]
    let builder = builder.add_root_certificate(tests::authority()?);
    builder.build()
}

fn security(url: &Url, trust: &Trust) -> Result<Security, String> {
    let options: Vec<_> = url.query_pairs().collect();
    let tls = match options.as_slice() {
        [] => "on",
        [(name, value)] if name == "tls" => value,
        _ => return Err("the only option of a mail server's URL is ?tls=off".into()),
    };
    match (url.scheme(), tls) {
        ("smtps", "on") => Ok(Security::Tls),
        ("smtp", "on") => Ok(Security::StartTls),
        ("smtp", "off") if trust.is_guarded() => {
            Err("?tls=off is for settings of the configuration file only".into())
        }
        ("smtp", "off") => Ok(Security::None),
        _ => Err("a mail server's URL begins with smtps:// or smtp://".into()),
    }
}

fn credentials(url: &Url, password: &str) -> Result<Option<Credentials>, String> {
    match (url.username(), password) {
        ("", "") => Ok(None),
        ("", _) => Err("there is a password, but no user in the mail server's URL".into()),
        (_, "") => Err("there is a user in the mail server's URL, but no password".into()),
        (user, password) => {
            let user = percent_decoded(user)?;
            Ok(Some(Credentials::new(user, password.to_owned())))
        }
    }
}

/// A user's name may be an address: `user%40example.com`.
fn percent_decoded(text: &str) -> Result<String, String> {
    let wanted = || format!("{text:?} is not a user's name in a URL");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        if first == b'%' {
            let digits = more.get(..2).and_then(|it| std::str::from_utf8(it).ok());
            let byte = digits.and_then(|it| u8::from_str_radix(it, 16).ok());
            bytes.push(byte.ok_or_else(wanted)?);
            rest = &more[2..];
        } else {
            bytes.push(first);
            rest = more;
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| wanted())?;
    if text.chars().any(char::is_control) {
        return Err(wanted());
    }
    Ok(text)
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    let mailbox: Mailbox = text
        .trim()
        .parse()
        .map_err(|error| format!("{text:?} is not a mail address: {error}"))?;
    let address: &Address = &mailbox.email;
    // Others need an extension that many servers lack; its failure would be hard to understand.
    if AsRef::<str>::as_ref(address).is_ascii() {
        Ok(mailbox)
    } else {
        Err(format!(
            "{text:?}: addresses outside of ASCII are not supported"
        ))
    }
}

fn judged(error: SmtpError) -> Problem {
    if error.is_permanent() {
        Problem::Never(said(&error))
    } else {
        Problem::Later(said(&error))
    }
}

/// What went wrong, in one line.
fn said(error: &SmtpError) -> String {
    let text = super::http::chain(error);
    wording::shorten(&wording::line(&text), ANSWER_CHARS_MAX)
}

impl AsyncTokioStream for Capped {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer())
    }
}

/// A connection that is encrypted from the first byte.
#[derive(Debug)]
struct Encrypted {
    stream: TlsStream<Capped>,
    peer: SocketAddr,
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::Event;
    use crate::alert::receivers::{PUBLIC_URL, acceptor, hostile, notification};
    use lettre::transport::smtp::client::Certificate;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    /// A mail server that keeps what it hears, and answers what a test wants.
    #[derive(Clone)]
    struct Server {
        port: u16,
        security: Security,
        answer: fn(&str) -> Option<&'static str>,
        commands: Arc<Mutex<Vec<String>>>,
        mails: Arc<Mutex<Vec<String>>>,
    }

    /// Stands for what a server answers before anything is said, and after a mail.
    const GREETING: &str = "(greeting)";
    const MAIL: &str = "(mail)";

    impl Server {
        /// `answer` has the first word on every command; what it leaves out is answered politely.
        async fn start(answer: fn(&str) -> Option<&'static str>) -> Server {
            Server::secured(Security::None, answer).await
        }

        async fn secured(security: Security, answer: fn(&str) -> Option<&'static str>) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Server {
                port: listener.local_addr().unwrap().port(),
                security,
                answer,
                commands: Arc::default(),
                mails: Arc::default(),
            };
            let serving = server.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let serving = serving.clone();
                    tokio::spawn(async move { serving.serve(stream).await });
                }
            });
            server
        }

        async fn serve(&self, stream: TcpStream) -> Option<()> {
            if self.security == Security::Tls {
                let stream = acceptor().accept(stream).await.ok()?;
                self.converse(stream, false).await?;
                return Some(());
            }
            let stream = self.converse(stream, true).await?;
            let stream = acceptor().accept(stream).await.ok()?;
            self.converse(stream, false).await?;
            Some(())
        }

        /// Until the client goes, or asks for TLS, which is offered if it is not there yet.
        async fn converse<S>(&self, stream: S, is_plain: bool) -> Option<S>
        where
            S: AsyncRead + AsyncWrite + Unpin,
        {
            let mut stream = BufReader::new(stream);
            if is_plain || self.security == Security::Tls {
                self.say(&mut stream, GREETING).await?;
            }
            loop {
                let command = line(&mut stream).await?;
                self.commands.lock().unwrap().push(command.clone());
                if command.starts_with("EHLO") && is_plain && self.security == Security::StartTls {
                    stream
                        .write_all(b"250-mail\r\n250 STARTTLS\r\n")
                        .await
                        .ok()?;
                    continue;
                }
                self.say(&mut stream, &command).await?;
                if command == "STARTTLS" {
                    return Some(stream.into_inner());
                }
                if command == "DATA" {
                    let mut mail = String::new();
                    loop {
                        match line(&mut stream).await?.as_str() {
                            "." => break,
                            it => mail += &format!("{}\n", it.strip_prefix('.').unwrap_or(it)),
                        }
                    }
                    self.mails.lock().unwrap().push(mail);
                    self.say(&mut stream, MAIL).await?;
                }
            }
        }

        async fn say<S>(&self, stream: &mut BufReader<S>, command: &str) -> Option<()>
        where
            S: AsyncRead + AsyncWrite + Unpin,
        {
            let polite = match command.split([' ', ':']).next()? {
                GREETING => "220 mail.example",
                "EHLO" => "250-mail.example\r\n250 AUTH PLAIN LOGIN",
                "AUTH" => "235 welcome",
                "DATA" => "354 go on",
                "QUIT" => "221 bye",
                _ => "250 fine",
            };
            let answer = (self.answer)(command).unwrap_or(polite);
            stream
                .write_all(format!("{answer}\r\n").as_bytes())
                .await
                .ok()
        }

        fn open(&self, to: &[&str]) -> Email {
            let to: Vec<String> = to.iter().map(|it| (*it).to_owned()).collect();
            let url = format!("smtp://ops%40x.example@127.0.0.1:{}?tls=off", self.port);
            let password = SecretText::new("p4ssw0rd");
            let from = "culprit <culprit@x.example>";
            Email::open(&url, Some(&password), from, &to, &Trust::Trusted).unwrap()
        }

        async fn deliver(&self, notification: &Notification) -> Delivery {
            let email = self.open(&["on-call@x.example", "Second One <second@x.example>"]);
            email
                .deliver(Uuid::from_u128(7), notification, PUBLIC_URL)
                .await
        }

        fn commands(&self) -> Vec<String> {
            self.commands.lock().unwrap().clone()
        }

        fn mail(&self) -> Received {
            Received::parse(&self.mails.lock().unwrap().pop().unwrap())
        }
    }

    async fn line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
        let mut line = String::new();
        let length = stream.read_line(&mut line).await.ok()?;
        (length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// A mail, taken apart: unfolded headers, and the parts with their quoted-printable undone.
    struct Received {
        headers: Vec<(String, String)>,
        body: String,
    }

    impl Received {
        fn parse(mail: &str) -> Received {
            assert!(mail.is_ascii(), "{mail}");
            assert!(mail.lines().all(|it| it.len() <= 998));
            let (head, body) = mail.split_once("\n\n").unwrap();
            let head = head.replace("\n ", " ").replace("\n\t", " ");
            let headers = head.lines().map(|it| {
                let (name, value) = it.split_once(": ").unwrap_or_else(|| panic!("{it}"));
                (name.to_owned(), value.to_owned())
            });
            let headers = headers.collect();
            let body = unquoted(body);
            Received { headers, body }
        }

        fn header(&self, name: &str) -> &str {
            let all: Vec<_> = self
                .headers
                .iter()
                .filter(|it| it.0.eq_ignore_ascii_case(name))
                .collect();
            assert_eq!(all.len(), 1, "{name}: {:?}", self.headers);
            &all[0].1
        }

        fn names(&self) -> Vec<&str> {
            self.headers.iter().map(|it| it.0.as_str()).collect()
        }
    }

    fn unquoted(text: &str) -> String {
        let text = text.replace("=\n", "");
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, more)) = rest.split_first() {
            let digits = more.get(..2).and_then(|it| std::str::from_utf8(it).ok());
            let byte = digits.and_then(|it| u8::from_str_radix(it, 16).ok());
            match (first, byte) {
                (b'=', Some(byte)) => {
                    bytes.push(byte);
                    rest = &more[2..];
                }
                _ => {
                    bytes.push(first);
                    rest = more;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_mail_says_it_all_as_text_and_as_a_page() {
        let server = Server::start(|_| None).await;
        let delivery = server.deliver(&notification(Event::Opened, 1)).await;
        assert_eq!(delivery, Delivery::Delivered);
        let commands = server.commands();
        let said = [
            "AUTH PLAIN",
            "MAIL FROM:<culprit@x.example>",
            "RCPT TO:<on-call@x.example>",
        ];
        for part in said
            .into_iter()
            .chain(["RCPT TO:<second@x.example>", "DATA"])
        {
            assert!(
                commands.iter().any(|it| it.starts_with(part)),
                "{part}: {commands:?}"
            );
        }
        let mail = server.mail();
        let title = "p99 of POST /checkout went from 180 ms to 420 ms after 1.1.0";
        assert_eq!(mail.header("subject"), format!("Critical: {title}"));
        assert_eq!(mail.header("from"), "culprit <culprit@x.example>");
        assert!(mail.header("to").contains("second@x.example"));
        assert_eq!(mail.header("auto-submitted"), "auto-generated");
        assert_eq!(mail.header("list-id"), "culprit alerts <culprit.x.example>");
        assert!(
            mail.header("content-type")
                .starts_with("multipart/alternative")
        );
        mail.header("date");
        for part in [
            "text/plain; charset=utf-8",
            "text/html; charset=utf-8",
            &format!("Critical: {title}\n\nOne call grew"),
            "p99: 180 ms → 420 ms (1,204 requests before, 310 after)\n",
            "99th: slow & <odd>\n",
            "slow &amp; &lt;odd&gt;</td>",
            "comparison: https://culprit.example/base/regressions/7\n",
            "<a href=\"https://culprit.example/base/traces/00ff\">a slow trace</a>",
            "began: 2023-11-14T22:13:20.000Z",
        ] {
            assert!(mail.body.contains(part), "{part}: {}", mail.body);
        }
    }

    #[tokio::test]
    async fn mails_about_one_incident_are_one_conversation() {
        let server = Server::start(|_| None).await;
        server.deliver(&notification(Event::Opened, 1)).await;
        let opened = server.mail();
        server.deliver(&notification(Event::Opened, 1)).await;
        let again = server.mail();
        assert_eq!(opened.header("message-id"), again.header("message-id"));
        assert!(opened.header("message-id").ends_with("@x.example>"));
        assert!(!opened.names().contains(&"In-Reply-To"));

        server.deliver(&notification(Event::Resolved, 1)).await;
        let resolved = server.mail();
        assert!(
            resolved
                .header("subject")
                .starts_with("Resolved: p99 of POST")
        );
        assert_eq!(resolved.header("references"), opened.header("references"));
        assert_eq!(resolved.header("in-reply-to"), opened.header("references"));
    }

    #[tokio::test]
    async fn hostile_texts_add_no_header_and_no_markup() {
        let server = Server::start(|_| None).await;
        server.deliver(&notification(Event::Opened, 1)).await;
        let usual = server.mail();
        let mut odd = notification(Event::Opened, 1);
        odd.alerts = vec![hostile()];
        odd.group = odd.alerts[0].title.clone();
        assert_eq!(server.deliver(&odd).await, Delivery::Delivered);
        let mail = server.mail();
        assert_eq!(mail.names(), usual.names());
        let page = mail.body.split_once("text/html").unwrap().1;
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));

        let page = text::mail(
            &mailbox("c@x.example").unwrap(),
            &[],
            Uuid::nil(),
            &odd,
            PUBLIC_URL,
        );
        assert!(page.is_err(), "nobody to send to");
    }

    #[tokio::test]
    async fn many_alerts_are_one_mail() {
        let server = Server::start(|_| None).await;
        let mut many = notification(Event::Opened, 60);
        many.omitted = 3;
        assert_eq!(server.deliver(&many).await, Delivery::Delivered);
        let mail = server.mail();
        assert_eq!(mail.header("subject"), "63 alerts: shop (production)");
        assert_eq!(mail.body.matches("<h3>Critical: ").count(), 50);
        assert!(mail.body.contains("13 more;"), "{}", mail.body);
    }

    #[tokio::test]
    async fn what_may_change_is_tried_again_and_what_will_not_is_not() {
        let later: [fn(&str) -> Option<&'static str>; 6] = [
            |it| (it == GREETING).then_some("554 not today"),
            |it| it.starts_with("AUTH").then_some("535 wrong p4ssw0rd"),
            |it| it.starts_with("MAIL").then_some("451 later"),
            |it| it.starts_with("RCPT").then_some("450 greylisted"),
            |it| (it == "DATA").then_some("452 full"),
            |it| (it == MAIL).then_some("451 later"),
        ];
        for answer in later {
            let delivery = Server::start(answer)
                .await
                .deliver(&notification(Event::Opened, 1))
                .await;
            assert!(matches!(delivery, Delivery::Failed { .. }), "{delivery:?}");
            assert!(
                !format!("{delivery:?}").contains("p4ssw0rd"),
                "{delivery:?}"
            );
        }
        let never: [fn(&str) -> Option<&'static str>; 3] = [
            |it| it.starts_with("MAIL").then_some("550 not you"),
            |it| it.starts_with("RCPT").then_some("550 unknown"),
            |it| (it == MAIL).then_some("554 spam"),
        ];
        for answer in never {
            let delivery = Server::start(answer)
                .await
                .deliver(&notification(Event::Opened, 1))
                .await;
            assert!(matches!(delivery, Delivery::Rejected(_)), "{delivery:?}");
        }
    }

    #[tokio::test]
    async fn one_refused_address_does_not_keep_it_from_the_others() {
        let server = Server::start(|it| it.contains("on-call").then_some("550 unknown")).await;
        assert_eq!(
            server.deliver(&notification(Event::Opened, 1)).await,
            Delivery::Delivered
        );
        assert_eq!(server.mails.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_server_that_hangs_or_talks_for_ever_has_not_got_it() {
        let server = Server::start(|it| (it == "DATA").then_some("")).await;
        let mut email = server.open(&["on-call@x.example"]);
        email.in_test(Duration::from_millis(500));
        let notification = notification(Event::Opened, 1);
        let delivery = email.deliver(Uuid::nil(), &notification, "").await;
        assert!(matches!(&delivery, Delivery::Failed { .. }), "{delivery:?}");

        let url = crate::alert::receivers::bad_server("220-", crate::alert::receivers::Then::GoOn);
        let url = format!(
            "{}?tls=off",
            url.await
                .replace("http://", "smtp://")
                .trim_end_matches('/')
        );
        let to = ["on-call@x.example".to_owned()];
        let email = Email::open(&url, None, "c@x.example", &to, &Trust::Trusted).unwrap();
        let delivery = email.deliver(Uuid::nil(), &notification, "").await;
        assert!(matches!(&delivery, Delivery::Failed { .. }), "{delivery:?}");
    }

    pub fn authority() -> Result<Certificate, SmtpError> {
        Certificate::from_der(crate::alert::receivers::authority().to_vec())
    }

    #[tokio::test]
    async fn mail_is_sent_over_tls_from_the_start_or_after_starttls() {
        let to = ["on-call@x.example".to_owned()];
        for (security, scheme) in [(Security::Tls, "smtps"), (Security::StartTls, "smtp")] {
            let server = Server::secured(security, |_| None).await;
            let url = format!("{scheme}://ops@127.0.0.1:{}", server.port);
            let password = SecretText::new("p4ssw0rd");
            let email = Email::open(&url, Some(&password), "c@x.example", &to, &Trust::Trusted);
            let notification = notification(Event::Opened, 1);
            let delivery = email.unwrap().deliver(Uuid::nil(), &notification, "").await;
            assert_eq!(delivery, Delivery::Delivered, "{scheme}");
            let commands = server.commands();
            let position = |it: &str| commands.iter().position(|command| command.starts_with(it));
            assert!(position("AUTH") > position("STARTTLS"), "{commands:?}");
            assert_eq!(server.mails.lock().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn without_encryption_nothing_is_said() {
        let server = Server::start(|_| None).await;
        let to = ["on-call@x.example".to_owned()];
        for scheme in ["smtp", "smtps"] {
            let url = format!("{scheme}://ops@127.0.0.1:{}", server.port);
            let password = SecretText::new("p4ssw0rd");
            let email = Email::open(&url, Some(&password), "c@x.example", &to, &Trust::Trusted);
            let mut email = email.unwrap();
            email.in_test(Duration::from_secs(2));
            let delivery = email
                .deliver(Uuid::nil(), &notification(Event::Opened, 1), "")
                .await;
            assert!(matches!(&delivery, Delivery::Failed { .. }), "{delivery:?}");
        }
        let said = server.commands();
        assert!(
            !said
                .iter()
                .any(|it| it.contains("AUTH") || it.contains("MAIL")),
            "{said:?}"
        );
    }

    #[test]
    fn settings_say_what_is_wrong() {
        let guarded = Trust::Guarded {
            allow_private: Vec::new(),
        };
        let password = SecretText::new("p4ssw0rd");
        let to = ["on-call@x.example".to_owned()];
        let open = |url: &str, password: Option<&SecretText>, to: &[String]| {
            let email = Email::open(url, password, "culprit@x.example", to, &guarded);
            email.map(|it| it.shown())
        };
        assert_eq!(
            open("smtps://ops@mx.example", Some(&password), &to).unwrap(),
            "on-call@x.example via mx.example:465"
        );
        assert!(open("smtp://mx.example", None, &to).is_ok());
        for (url, password, to, problem) in [
            (
                "smtp://mx.example?tls=off",
                None,
                &to[..],
                "configuration file only",
            ),
            ("smtp://mx.example:25", None, &to, "port 25"),
            ("smtps://127.0.0.1", None, &to, "public Internet"),
            ("smtps://localhost.", None, &to, "public Internet"),
            ("smtps://ops:p4ss@mx.example", None, &to, "does not belong"),
            ("smtps://ops@mx.example", None, &to, "but no password"),
            ("smtps://mx.example", Some(&password), &to, "but no user"),
            ("https://mx.example", None, &to, "begins with smtps://"),
            ("mx.example", None, &to, "written as smtps://"),
            ("smtps://mx.example", None, &[], "1 to 50"),
        ] {
            let error = open(url, password, to).unwrap_err();
            assert!(error.contains(problem), "{url}: {error}");
        }
        for to in [
            "on-call",
            "a@x.example\r\nRCPT TO:<b@x.example>",
            "ö@x.example",
            "",
        ] {
            assert!(
                open("smtps://mx.example", None, &[to.to_owned()]).is_err(),
                "{to}"
            );
        }
    }
}
