//! What is said to the outside, the same for every channel: a channel only puts it into its own form.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One message: one or several alerts of one group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Notification {
    /// Why it is sent.
    pub event: Event,
    /// What its alerts have in common, in words: `shop (production)`.
    pub group: String,
    /// At least one; the worst first.
    pub alerts: Vec<Alert>,
    /// Alerts that found no room in the message.
    pub omitted: usize,
    /// When it was put together, ms since the epoch.
    pub at_ms: i64,
}

/// Why a message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The alerts fire.
    Opened,
    /// They still fire.
    Reminder,
    /// They fire and resolve too often to be told each time.
    Flapping,
    /// They fire no more.
    Resolved,
    /// Somebody pressed a button.
    Test,
}

impl Event {
    /// Every event.
    pub const ALL: [Event; 5] = [
        Event::Opened,
        Event::Reminder,
        Event::Flapping,
        Event::Resolved,
        Event::Test,
    ];

    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        ["opened", "reminder", "flapping", "resolved", "test"][self as usize]
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look today.
    Warning,
    /// Worth getting up.
    Critical,
}

impl Severity {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        ["info", "warning", "critical"][self as usize]
    }

    /// From the stored number; what is out of range is the nearest.
    pub fn of(number: i16) -> Severity {
        match number {
            ..=0 => Severity::Info,
            1 => Severity::Warning,
            2.. => Severity::Critical,
        }
    }
}

/// One thing that is wrong, or was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// The incident's id: stays the same from its first message to its last.
    pub incident: Uuid,
    /// Hexadecimal, of the labels: receivers tell by it that two messages are about the same thing.
    pub fingerprint: String,
    /// The rule's name.
    pub rule: String,
    /// It fires; else it is resolved.
    pub firing: bool,
    /// How bad it is.
    pub severity: Severity,
    /// They identify: `alertname`, `service`, `environment`, `endpoint`, `kind`. Never numbers.
    pub labels: BTreeMap<String, String>,
    /// What is wrong, one sentence: "p99 of POST /checkout went from 180 ms to 420 ms after 1.1.0".
    pub title: String,
    /// Why, and what to do first: a few sentences. May be empty.
    pub summary: String,
    /// The numbers in words, in the order they are to be read.
    pub facts: Vec<Fact>,
    /// The same for machines. What is in it depends on `kind`; durations end in `_ns`.
    pub data: Value,
    /// Pages of the UI; the first one shows the thing itself.
    pub links: Vec<Link>,
    /// True since, ms since the epoch.
    pub started_ms: i64,
    /// Not true any more since; `None` while it fires.
    pub ended_ms: Option<i64>,
}

/// A number or a name, in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// "p99", "since", "version".
    pub name: String,
    /// "180 ms → 420 ms (1,204 requests before, 310 after)".
    pub value: String,
}

/// A page of the UI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// What it shows: "comparison", "a slow trace".
    pub text: String,
    /// Begins with a slash; the public URL is put before it when it is sent.
    pub path: String,
}
