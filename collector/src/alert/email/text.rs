//! What a mail says: a subject, a text, the same as a simple page, and headers by which programs
//! put mails about one thing together and do not answer them.

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use uuid::Uuid;

use crate::alert::notification::{Alert, Event, Link, Notification};
use crate::alert::wording;
use crate::calendar::rfc3339;

/// UTF-16 units of a subject; programs show fewer.
const SUBJECT_CHARS_MAX: usize = 200;

/// UTF-16 units of a summary or a fact: a long statement, but not a book.
const TEXT_CHARS_MAX: usize = 4_000;

/// Alerts of one mail. What is beyond is counted.
const ALERTS_MAX: usize = 50;

/// Incidents a mail refers to: enough to be put with the mails it belongs to.
const REFERENCES_MAX: usize = 10;

/// The mail as it is sent.
pub fn mail(
    from: &Mailbox,
    to: &[Mailbox],
    message: Uuid,
    notification: &Notification,
    public_url: &str,
) -> Result<Vec<u8>, lettre::error::Error> {
    let domain = from.email.domain();
    let subject = wording::shorten(&wording::headline(notification), SUBJECT_CHARS_MAX);
    let mut mail = Message::builder()
        .from(from.clone())
        .subject(subject)
        .message_id(Some(format!("<{message}@{domain}>")));
    for to in to {
        mail = mail.to(to.clone());
    }
    for (name, value) in headers(notification, domain) {
        let name = HeaderName::new_from_ascii_str(name);
        mail = mail.raw_header(HeaderValue::new(name, value));
    }
    let parts = MultiPart::alternative_plain_html(
        plain(notification, public_url),
        html(notification, public_url),
    );
    Ok(mail.multipart(parts)?.formatted())
}

/// All mails about an incident refer to a mail that was never sent and is named after it: programs
/// show those that share a reference as one conversation.
fn headers(notification: &Notification, domain: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("X-Auto-Response-Suppress", "All".to_owned()),
        ("List-ID", format!("culprit alerts <culprit.{domain}>")),
    ];
    if notification.event == Event::Test {
        return headers;
    }
    let threads: Vec<String> = notification
        .alerts
        .iter()
        .take(REFERENCES_MAX)
        .map(|it| format!("<incident.{}@{domain}>", it.incident))
        .collect();
    if let (Some(first), true) = (threads.first(), notification.event != Event::Opened) {
        headers.push(("In-Reply-To", first.clone()));
    }
    headers.push(("References", threads.join(" ")));
    headers
}

fn plain(notification: &Notification, public_url: &str) -> String {
    let mut text = String::new();
    for alert in notification.alerts.iter().take(ALERTS_MAX) {
        let said = Said::new(notification, alert, public_url);
        text += &format!("{}: {}\n", said.status, said.title);
        if !said.summary.is_empty() {
            text += &format!("\n{}\n", said.summary);
        }
        text.push('\n');
        for (name, value) in &said.facts {
            text += &format!("{name}: {value}\n");
        }
        for (name, url) in &said.links {
            text += &format!("{name}: {url}\n");
        }
        text += "\n----\n\n";
    }
    text + &rest(notification).join("\n") + "\n"
}

fn html(notification: &Notification, public_url: &str) -> String {
    let mut page = String::from("<!doctype html><html><body style=\"font-family:sans-serif\">\n");
    for alert in notification.alerts.iter().take(ALERTS_MAX) {
        let said = Said::new(notification, alert, public_url);
        page += &format!("<h3>{}: {}</h3>\n", said.status, escape(&said.title));
        for paragraph in said.summary.lines().filter(|it| !it.trim().is_empty()) {
            page += &format!("<p>{}</p>\n", escape(paragraph));
        }
        page += "<table cellpadding=\"3\">\n";
        for (name, value) in &said.facts {
            let (name, value) = (escape(name), escape(value).replace('\n', "<br>\n"));
            page += &format!(
                "<tr><td valign=\"top\"><b>{name}</b></td><td dir=\"auto\">{value}</td></tr>\n"
            );
        }
        page += "</table>\n";
        let links: Vec<String> = said
            .links
            .iter()
            .map(|(name, url)| format!("<a href=\"{}\">{}</a>", escape(url), escape(name)))
            .collect();
        page += &format!("<p>{}</p>\n<hr>\n", links.join(" · "));
    }
    for line in rest(notification) {
        page += &format!("<p>{}</p>\n", escape(&line));
    }
    page + "</body></html>\n"
}

/// Said once, below all alerts.
fn rest(notification: &Notification) -> Vec<String> {
    let beyond = notification.alerts.len().saturating_sub(ALERTS_MAX);
    let omitted = beyond + notification.omitted;
    let mut lines = Vec::new();
    if omitted > 0 {
        lines.push(format!(
            "{omitted} more; all of them are on culprit's page of alerts."
        ));
    }
    lines.push(format!(
        "{} · sent by culprit",
        wording::line(&notification.group)
    ));
    lines
}

/// What is said about one alert, clean and of bearable length, but not escaped.
struct Said {
    status: &'static str,
    title: String,
    summary: String,
    facts: Vec<(String, String)>,
    links: Vec<(String, String)>,
}

impl Said {
    fn new(notification: &Notification, alert: &Alert, public_url: &str) -> Said {
        let short = |it: &str| wording::shorten(wording::clean(it).trim(), TEXT_CHARS_MAX);
        let facts = alert.facts.iter();
        let facts = facts.map(|it| (wording::line(&it.name), short(&it.value)));
        let mut facts: Vec<_> = facts.collect();
        facts.push(("began".into(), rfc3339(alert.started_ms)));
        if let Some(ended_ms) = alert.ended_ms {
            facts.push(("ended".into(), rfc3339(ended_ms)));
        }
        facts.push(("rule".into(), wording::line(&alert.rule)));
        let link = |it: &Link| Some((wording::line(&it.text), wording::url(public_url, it)?));
        Said {
            status: wording::status(notification.event, alert),
            title: wording::shorten(&wording::title(alert), TEXT_CHARS_MAX),
            summary: short(&alert.summary),
            facts,
            links: alert.links.iter().filter_map(link).collect(),
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
