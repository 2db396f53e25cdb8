//! A way out of the house: settings, opened, and the messages put into its own form.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

use super::alertmanager::Alertmanager;
use super::email::Email;
use super::guard::Trust;
use super::notification::Notification;
use super::pagerduty::Pagerduty;
use super::settings::Settings;
use super::slack::Slack;
use super::webhook::Webhook;

/// All posts and mails of one delivery together. A message that is claimed by one worker must not
/// be claimed by another while it is on its way; what is not sent by then is sent again.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(45);

/// What a delivery came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The receiver has it.
    Delivered,
    /// Not now; maybe later.
    Failed {
        /// Why, for people, without secrets.
        error: String,
        /// The receiver says how long it wants to be left alone; at most a day.
        retry_after: Option<Duration>,
    },
    /// The receiver will never take this message: it is not tried again.
    Rejected(String),
    /// The receiver wants no more messages: the channel is to be switched off.
    Gone(String),
}

/// What leads to people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A POST after Standard Webhooks 1.0.
    Webhook,
    /// An incoming webhook of Slack.
    Slack,
    /// Prometheus Alertmanager, API v2.
    Alertmanager,
    /// PagerDuty Events API v2.
    Pagerduty,
    /// Mail over SMTP.
    Email,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [
        Kind::Webhook,
        Kind::Slack,
        Kind::Alertmanager,
        Kind::Pagerduty,
        Kind::Email,
    ];

    /// As it is written in settings and stored.
    pub fn name(self) -> &'static str {
        ["webhook", "slack", "alertmanager", "pagerduty", "email"][self as usize]
    }

    /// People read it, and several alerts in one message are better than several messages. The
    /// others take several alerts too, but lead to programs that group by themselves.
    pub fn groups(self) -> bool {
        matches!(self, Kind::Slack | Kind::Email)
    }

    /// It forgets what is not said again: firing alerts are sent every
    /// [`RESEND_EVERY`](super::alertmanager::RESEND_EVERY), resolved ones for a while.
    pub fn resends(self) -> bool {
        self == Kind::Alertmanager
    }
}

/// Settings that were read and found good.
pub struct Channel {
    name: String,
    kind: Kind,
    shown: String,
    sink: Sink,
}

enum Sink {
    Webhook(Webhook),
    Slack(Slack),
    Alertmanager(Alertmanager),
    Pagerduty(Pagerduty),
    Email(Email),
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({}: {})", self.name, self.shown)
    }
}

impl Channel {
    /// Reads secrets and checks everything that can be checked without the network.
    ///
    /// # Errors
    /// Says what is wrong and what is wanted, without secrets.
    pub fn open(name: &str, settings: &Settings, trust: &Trust) -> Result<Channel, String> {
        let kind = settings.kind();
        let (sink, to) = open(settings, trust)
            .map_err(|problem| format!("the {} channel {name:?}: {problem}", kind.name()))?;
        Ok(Channel {
            name: name.to_owned(),
            kind,
            shown: format!("{} {to}", kind.name()),
            sink,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it leads, without secrets: `slack https://hooks.slack.com/…`
    pub fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Sends a message. `message` stays the same when it is tried again; links begin with
    /// `public_url`. Takes [`DELIVERY_TIMEOUT`] at most.
    pub async fn deliver(
        &self,
        message: Uuid,
        notification: &Notification,
        public_url: &str,
    ) -> Delivery {
        let sent = self.send(message, notification, public_url);
        let sent = tokio::time::timeout(DELIVERY_TIMEOUT, sent).await;
        sent.unwrap_or_else(|_| {
            failed(format!(
                "not everything was taken within {} s",
                DELIVERY_TIMEOUT.as_secs()
            ))
        })
    }

    async fn send(&self, message: Uuid, notification: &Notification, public_url: &str) -> Delivery {
        match &self.sink {
            Sink::Webhook(it) => it.deliver(message, notification, public_url).await,
            Sink::Slack(it) => it.deliver(notification, public_url).await,
            Sink::Alertmanager(it) => it.deliver(notification, public_url).await,
            Sink::Pagerduty(it) => it.deliver(notification, public_url).await,
            Sink::Email(it) => it.deliver(message, notification, public_url).await,
        }
    }
}

fn open(settings: &Settings, trust: &Trust) -> Result<(Sink, String), String> {
    Ok(match settings {
        Settings::Webhook { url, secret } => {
            let sink = Webhook::open(url, secret.as_ref(), trust)?;
            let to = sink.shown();
            (Sink::Webhook(sink), to)
        }
        Settings::Slack { url } => {
            let sink = Slack::open(url, trust)?;
            let to = sink.shown();
            (Sink::Slack(sink), to)
        }
        Settings::Alertmanager {
            url,
            bearer_token,
            username,
            password,
        } => {
            let basic = (username.as_deref(), password.as_ref());
            let sink = Alertmanager::open(url, bearer_token.as_ref(), basic, trust)?;
            let to = sink.shown();
            (Sink::Alertmanager(sink), to)
        }
        Settings::Pagerduty { routing_key, url } => {
            let sink = Pagerduty::open(routing_key, url.as_deref(), trust)?;
            let to = sink.shown();
            (Sink::Pagerduty(sink), to)
        }
        Settings::Email {
            smtp,
            password,
            from,
            to,
        } => {
            let sink = Email::open(smtp, password.as_ref(), from, to, trust)?;
            let to = sink.shown();
            (Sink::Email(sink), to)
        }
    })
}

/// Not now, for a reason of our own.
pub fn failed(error: impl Into<String>) -> Delivery {
    Delivery::Failed {
        error: error.into(),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::Event;
    use crate::alert::receivers::{PUBLIC_URL, Receiver, notification};
    use serde_json::{Value, json};

    fn open(settings: Value, trust: &Trust) -> Result<Channel, String> {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        Channel::open("on call", &settings, trust)
    }

    #[test]
    fn kinds_have_one_name() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn a_channel_says_where_it_leads_and_nothing_secret() {
        for (settings, shown) in [
            (
                json!({"kind": "webhook", "url": "https://hooks.example/s3cr3t?k=s3cr3t",
                       "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}),
                "webhook https://hooks.example/…",
            ),
            (
                json!({"kind": "slack", "url": "https://hooks.slack.com/services/T/B/s3cr3t"}),
                "slack https://hooks.slack.com/…",
            ),
            (
                json!({"kind": "alertmanager", "url": "http://am:9093", "bearer-token": "s3cr3t"}),
                "alertmanager http://am:9093/…",
            ),
            (
                json!({"kind": "pagerduty", "routing-key": "s3cr3t"}),
                "pagerduty https://events.pagerduty.com/…",
            ),
            (
                json!({"kind": "email", "smtp": "smtps://ops@mx.example", "password": "s3cr3t",
                       "from": "c@x.example", "to": ["o@x.example"]}),
                "email o@x.example via mx.example:465",
            ),
        ] {
            let channel = open(settings, &Trust::Trusted).unwrap();
            assert_eq!(channel.shown(), shown);
            assert_eq!(format!("{channel:?}"), format!("Channel(on call: {shown})"));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_channels_name() {
        let guarded = Trust::Guarded {
            allow_private: Vec::new(),
        };
        for (settings, problem) in [
            (
                json!({"kind": "slack", "url": "env:PATH"}),
                "CULPRIT_SECRET_",
            ),
            (
                json!({"kind": "slack", "url": "file:/etc/passwd"}),
                "may not refer to files",
            ),
            (
                json!({"kind": "slack", "url": "http://hooks.slack.com/x"}),
                "without encryption",
            ),
            (
                json!({"kind": "alertmanager", "url": "https://10.0.0.1"}),
                "--alert-allow-private",
            ),
            (
                json!({"kind": "pagerduty", "routing-key": " "}),
                "the routing key is empty",
            ),
            (
                json!({"kind": "webhook", "url": "https://x.example", "secret": "hunter2"}),
                "a webhook secret is `whsec_`",
            ),
        ] {
            let error = open(settings, &guarded).unwrap_err();
            assert!(error.contains("channel \"on call\": "), "{error}");
            assert!(
                error.contains(problem) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn guarded_settings_reach_the_networks_they_may() {
        let receiver = Receiver::saying(200, &[], "").await;
        let settings = json!({"kind": "alertmanager", "url": receiver.url});
        let opened = notification(Event::Opened, 1);
        let allow_private = vec!["127.0.0.1/32".parse().unwrap()];
        let allowed = open(settings.clone(), &Trust::Guarded { allow_private }).unwrap();
        let delivery = allowed.deliver(Uuid::nil(), &opened, PUBLIC_URL).await;
        assert_eq!(delivery, Delivery::Delivered);
        let allow_private = vec!["127.0.0.2/32".parse().unwrap()];
        let refused = open(settings, &Trust::Guarded { allow_private }).unwrap_err();
        assert!(refused.contains("without encryption"), "{refused}");
    }
}
