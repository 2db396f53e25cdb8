//! Alerts: rules and what is true now → signals → incidents → messages in the outbox → channels.
//!
//! A [`look`] of the review turns what is stored into incidents and queued messages, in one transaction;
//! the [`worker`] delivers them. What stands between is pure: [`signal`], [`engine`], [`grouping`].

pub mod notification;
pub mod rule;
pub mod defaults;
pub mod signal;
pub mod engine;
pub mod silence;
pub mod first;
pub mod grouping;
pub mod look;
pub mod worker;
pub mod settings;
pub mod secret;
pub mod guard;
pub mod channel;
mod webhook;
mod slack;
pub mod alertmanager;
mod pagerduty;
mod email;
mod wording;
mod shrink;
mod http;
mod dial;
#[cfg(test)]
mod receivers;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use uuid::Uuid;

pub use channel::{Channel, Delivery, Kind};
pub use guard::{Cidr, Trust};
pub use settings::Settings;
pub use webhook::{Secret, Webhook};
pub use worker::{Stats, run};

use crate::store::channels::ConfiguredChannel;
use crate::store::rules::Source;
use crate::store::{Store, StoreError};
use engine::Pace;
use notification::{Alert, Event, Fact, Link, Notification, Severity};
use rule::Rule;

/// The name of the channel that a flag sets up.
pub const CHANNEL_WEBHOOK: &str = "webhook";

/// How a process tells alerts.
#[derive(Clone, Debug)]
pub struct Alerting {
    /// The channels of flags and of the configuration file, and which of the two. Those that
    /// people set up are read from the database.
    pub channels: Vec<(Arc<Channel>, Source)>,
    /// The configuration file's rules.
    pub rules: Vec<Rule>,
    /// The configuration file's path; empty if there is none.
    pub file: String,
    /// Where channels that people set up may lead.
    pub trust: Trust,
    /// Where people reach the UI; links in messages begin with it.
    pub public_url: String,
    /// The engine's times.
    pub pace: Pace,
}

impl Default for Alerting {
    fn default() -> Self {
        Alerting {
            channels: Vec::new(),
            rules: Vec::new(),
            file: String::new(),
            trust: Trust::Guarded {
                allow_private: Vec::new(),
            },
            public_url: String::new(),
            pace: Pace::default(),
        }
    }
}

/// Makes the rules and the channels of this process's flags and file known to all processes; what they do not
/// have any more goes. So all processes that analyse are to be given the same ones.
///
/// # Errors
/// Postgres cannot be written to.
pub async fn introduce(store: &Store, alerting: &Alerting) -> Result<(), StoreError> {
    store
        .sync_rules(Source::File, &alerting.rules, &alerting.file)
        .await?;
    // After the file's, so that one it does not have any more is back.
    store
        .sync_rules(Source::BuiltIn, &defaults::rules(), "")
        .await?;
    for source in [Source::Flag, Source::File] {
        let channels = configured(alerting, source);
        store.sync_channels(source, &channels).await?;
    }
    Ok(())
}

fn configured(alerting: &Alerting, source: Source) -> Vec<ConfiguredChannel> {
    let channels = alerting.channels.iter().filter(|it| it.1 == source);
    channels
        .map(|(channel, _)| ConfiguredChannel {
            name: channel.name().to_owned(),
            kind: channel.kind().name().to_owned(),
            shown: channel.shown(),
            told_by: match source {
                Source::File => alerting.file.clone(),
                // Channels of flags are named after them.
                _ => format!("--alert-{}", channel.name()),
            },
        })
        .collect()
}

/// What the test button of a channel sends.
pub fn test_notification(channel: &str, now_ms: i64) -> Notification {
    let labels = [
        ("alertname", "Test"),
        ("service", "culprit"),
        ("kind", "test"),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into();
    let alert = Alert {
        incident: Uuid::now_v7(),
        fingerprint: signal::fingerprint(&labels),
        rule: "Test".into(),
        firing: false,
        severity: Severity::Info,
        labels,
        title: format!("This is a test of the channel {channel}"),
        summary: "Nothing is wrong: somebody pressed the test button. Alerts arrive here.".into(),
        facts: vec![Fact {
            name: "channel".into(),
            value: channel.to_owned(),
        }],
        data: serde_json::json!({"type": "test"}),
        links: vec![Link {
            text: "the alerts".into(),
            path: "/alerts".into(),
        }],
        started_ms: now_ms,
        // PagerDuty and Alertmanagers must not keep it open.
        ended_ms: Some(now_ms),
    };
    Notification {
        event: Event::Test,
        group: "culprit".into(),
        alerts: vec![alert],
        omitted: 0,
        at_ms: now_ms,
    }
}
