//! The outbox's worker: what is queued is delivered at least once, with the same id in every
//! attempt, so that receivers can tell a repetition.
//!
//! Channels do not wait for each other: each has a task of its own while it has something to do, and
//! that sends one message after the other.

use futures_util::FutureExt;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::channel::{Channel, DELIVERY_TIMEOUT, Delivery, Kind};
use super::notification::{Alert, Event, Fact, Link, Notification, Severity};
use super::{Alerting, Settings};
use crate::clock::now_ms;
use crate::store::deliveries::DeliveryNote;
use crate::store::outbox::Message;
use crate::store::rules::Source;
use crate::store::{Store, StoreError};

/// How often the outbox is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often channels that people set up are read again: a new one is used this soon.
const CHANNELS_EVERY: Duration = Duration::from_secs(5);

/// How often messages that nobody takes up are looked for.
const UNCLAIMED_EVERY: Duration = Duration::from_secs(60);

/// When a message that failed is tried again, by the number of attempts so far: the schedule of
/// Standard Webhooks. After the last one it is dead and stays in the outbox for people to see.
const RETRY_AFTER_S: [f64; 9] = [
    5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0,
];

/// A receiver that wants to be left alone for longer is asked again after an hour nevertheless: an alert a
/// day late helps nobody.
const RETRY_AFTER_MAX_S: f64 = 3_600.0;

/// A receiver that says when it wants to be asked again is believed for so many attempts; after
/// that the schedule counts too, or "in a second" would use all attempts up within ten.
const BELIEVED_ATTEMPTS: i32 = 3;

/// So many failures in a row, and a channel is left alone for a while: a receiver that is away must not
/// cost each of a thousand messages its timeout.
const FAILURES_BEFORE_PAUSE: i32 = 5;

/// How long at first; doubled with every further failure.
const PAUSE_S: f64 = 30.0;

/// And at most.
const PAUSE_MAX_S: f64 = 600.0;

/// Alerts in one re-send; more are sent in further ones.
const RESENT_TOGETHER: usize = 100;

/// Alerts that are sent again at all. Beyond it the oldest are left out, and end at the receiver.
const RESENT_MAX: i64 = 2_000;

/// After a signal deliveries that have begun have so long to end. What is cut off is sent again, with
/// the same id.
const END_MAX: Duration = Duration::from_secs(10);

/// What this process has done since its start, by kind of channel and outcome.
#[derive(Debug, Default)]
pub struct Stats {
    counts: [[AtomicU64; OUTCOMES.len()]; Kind::ALL.len()],
}

/// What can become of an attempt, in words.
const OUTCOMES: [&str; 4] = ["delivered", "failed", "rejected", "gone"];

impl Stats {
    /// Kind, outcome, attempts.
    pub fn attempts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let kinds = Kind::ALL.iter().zip(&self.counts);
        let all = kinds.flat_map(|(kind, counts)| {
            let outcomes = OUTCOMES.iter().zip(counts);
            outcomes.map(|(outcome, count)| (kind.name(), *outcome, count.load(Relaxed)))
        });
        all.collect()
    }

    fn note(&self, kind: Kind, outcome: &'static str) {
        if let Some(at) = OUTCOMES.iter().position(|it| *it == outcome) {
            self.counts[kind as usize][at].fetch_add(1, Relaxed);
        }
    }
}

/// Delivers what is queued until `shutdown`.
pub async fn run(store: Store, alerting: Alerting, stats: Arc<Stats>, shutdown: CancellationToken) {
    let mut worker = Worker {
        known: Known::new(&alerting),
        desk: Desk {
            store,
            public_url: alerting.public_url.clone().into(),
            stats,
            shutdown: shutdown.clone(),
        },
        alerting,
        busy: HashSet::new(),
        tasks: JoinSet::new(),
        unclaimed_at: Instant::now(),
    };
    while !shutdown.is_cancelled() {
        if let Err(error) = worker.look().await {
            tracing::debug!(%error, "the outbox cannot be read");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while let Some(Ok(task)) = worker.tasks.try_join_next() {
            worker.busy.remove(&task);
        }
    }
    let ended = async { while worker.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(END_MAX, ended).await;
}

struct Worker {
    desk: Desk,
    alerting: Alerting,
    known: Known,
    /// The tasks that run.
    busy: HashSet<Task>,
    tasks: JoinSet<Task>,
    unclaimed_at: Instant,
}

/// What is done for a channel, one of each kind at a time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Task {
    Deliver(String),
    Resend(String),
}

impl Worker {
    async fn look(&mut self) -> Result<(), StoreError> {
        self.known.refresh(&self.desk.store, &self.alerting).await?;
        for name in self.desk.store.channels_with_messages().await? {
            let Some(channel) = self.known.get(&name) else {
                continue;
            };
            let desk = self.desk.clone();
            self.spawn(Task::Deliver(name), async move {
                desk.deliver_all(&channel).await;
            });
        }
        for channel in self.known.that_forget() {
            let every_ms = self.alerting.pace.resend_ms;
            let task = Task::Resend(channel.name().to_owned());
            if !self.busy.contains(&task)
                && self
                    .desk
                    .store
                    .claim_resend(channel.name(), every_ms)
                    .await?
            {
                let (desk, resolved_ms) =
                    (self.desk.clone(), self.alerting.pace.resend_resolved_ms);
                self.spawn(task, async move {
                    if let Err(error) = desk.resend(&channel, resolved_ms).await {
                        tracing::warn!(channel = channel.name(), %error, "cannot be told again what fires");
                    }
                });
            }
        }
        self.tidy().await
    }

    fn spawn(&mut self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        if self.busy.insert(task.clone()) {
            self.tasks.spawn(async move {
                // A bug here must not end the process; the message is claimed again later.
                if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                    tracing::error!("the delivery of an alert panicked, see above");
                }
                task
            });
        }
    }

    async fn tidy(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if now >= self.unclaimed_at {
            self.unclaimed_at = now + UNCLAIMED_EVERY;
            let known = self.known.names();
            self.desk.store.note_unclaimed(&known).await?;
        }
        Ok(())
    }
}

/// The channels that this process can reach.
struct Known {
    /// Of flags and the configuration file.
    configured: BTreeMap<String, Arc<Channel>>,
    /// That people set up, with the settings they were opened with.
    entered: BTreeMap<String, (Value, Arc<Channel>)>,
    /// Those that cannot be used, with the settings that say so: the log says it once.
    broken: BTreeMap<String, Value>,
    read_at: Option<Instant>,
}

impl Known {
    fn new(alerting: &Alerting) -> Known {
        let configured = alerting.channels.iter();
        Known {
            configured: configured
                .map(|(it, _)| (it.name().to_owned(), Arc::clone(it)))
                .collect(),
            entered: BTreeMap::new(),
            broken: BTreeMap::new(),
            read_at: None,
        }
    }

    fn get(&self, name: &str) -> Option<Arc<Channel>> {
        let entered = || self.entered.get(name).map(|(_, channel)| channel);
        self.configured.get(name).or_else(entered).cloned()
    }

    fn names(&self) -> Vec<String> {
        let all = self.configured.keys().chain(self.entered.keys());
        all.cloned().collect()
    }

    fn that_forget(&self) -> Vec<Arc<Channel>> {
        let entered = self.entered.values().map(|(_, channel)| channel);
        let all = self.configured.values().chain(entered);
        all.filter(|it| it.kind().resends()).cloned().collect()
    }

    async fn refresh(&mut self, store: &Store, alerting: &Alerting) -> Result<(), StoreError> {
        if self.read_at.is_some_and(|it| it.elapsed() < CHANNELS_EVERY) {
            return Ok(());
        }
        let mut before = std::mem::take(&mut self.entered);
        for stored in store.channels().await? {
            if stored.source() != Source::Ui || self.configured.contains_key(&stored.name) {
                continue;
            }
            let entry = match before.remove(&stored.name) {
                Some(entry) if entry.0 == stored.settings => Ok(entry),
                _ => open(&stored.name, &stored.settings, alerting)
                    .map(|channel| (stored.settings.clone(), Arc::new(channel))),
            };
            match entry {
                Ok(entry) => {
                    self.broken.remove(&stored.name);
                    self.entered.insert(stored.name, entry);
                }
                Err(problem) if self.broken.get(&stored.name) != Some(&stored.settings) => {
                    tracing::warn!(channel = stored.name, problem, "a channel cannot be used");
                    store.note_failure(&stored.name, &problem).await?;
                    self.broken.insert(stored.name, stored.settings);
                }
                Err(_) => {}
            }
        }
        self.read_at = Some(Instant::now());
        Ok(())
    }
}

fn open(name: &str, settings: &Value, alerting: &Alerting) -> Result<Channel, String> {
    let settings: Settings =
        serde_json::from_value(settings.clone()).map_err(|error| error.to_string())?;
    Channel::open(name, &settings, &alerting.trust)
}

/// What a delivery needs.
#[derive(Clone)]
struct Desk {
    store: Store,
    public_url: Arc<str>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
}

impl Desk {
    /// Delivers a channel's messages until none is due or the channel is paused.
    async fn deliver_all(&self, channel: &Channel) {
        while !self.shutdown.is_cancelled() {
            match self.store.claim_message(channel.name()).await {
                Ok(Some(message)) => self.deliver(channel, message).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "the outbox cannot be read");
                    return;
                }
            }
        }
    }

    async fn deliver(&self, channel: &Channel, message: Message) {
        let since = Instant::now();
        let delivery = match read_body(&message.body) {
            Ok(notification) => self.send(channel, message.webhook_id, &notification).await,
            Err(error) => Delivery::Rejected(format!("the message cannot be read: {error}")),
        };
        let (outcome, detail) = in_words(&delivery);
        self.stats.note(channel.kind(), outcome);
        let note = DeliveryNote {
            message: message.id,
            attempt: message.attempts,
            channel: channel.name(),
            took_ms: i32::try_from(since.elapsed().as_millis()).unwrap_or(i32::MAX),
            outcome,
            detail,
        };
        let (id, name) = (message.id, channel.name());
        if detail.is_empty() {
            tracing::info!(%id, channel = name, "an alert is delivered");
        } else {
            tracing::warn!(%id, channel = name, attempt = message.attempts, error = detail, "an alert is not delivered");
        }
        let noted = self.note(channel.name(), &message, &delivery).await;
        let noted = noted.and(self.store.note_delivery(note).await);
        if let Err(error) = noted {
            tracing::warn!(%id, %error, "the delivery cannot be noted; it may be repeated");
        }
    }

    async fn send(&self, channel: &Channel, id: Uuid, notification: &Notification) -> Delivery {
        let sent = channel.deliver(id, notification, &self.public_url);
        // A message that trips over a bug has to end too, after as many attempts as any other.
        let sent = AssertUnwindSafe(sent).catch_unwind();
        // A channel keeps this bound itself; a claim must outlast the delivery whatever it does.
        let sent = tokio::time::timeout(DELIVERY_TIMEOUT + Duration::from_secs(5), sent).await;
        let failed = |error: &str| Delivery::Failed {
            error: error.into(),
            retry_after: None,
        };
        match sent {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(_)) => failed("a bug in culprit: see its log"),
            Err(_) => failed("no answer"),
        }
    }

    async fn note(
        &self,
        channel: &str,
        message: &Message,
        delivery: &Delivery,
    ) -> Result<(), StoreError> {
        let (id, attempt) = (message.id, message.attempts);
        match delivery {
            Delivery::Delivered => {
                self.store.message_delivered(id).await?;
                self.store.note_success(channel, now_ms()).await
            }
            Delivery::Failed { error, retry_after } => {
                let wanted_s = retry_after.map(|it| it.as_secs_f64());
                let retry_s = retry_in_s(attempt, wanted_s).map(jittered);
                self.store
                    .message_failed(id, attempt, error, retry_s)
                    .await?;
                let failures = self.store.note_failure(channel, error).await?;
                if let Some(pause_s) = pause_s(failures, wanted_s) {
                    let until_ms = now_ms() + (pause_s * 1_000.0) as i64;
                    self.store.pause_channel(channel, until_ms).await?;
                }
                Ok(())
            }
            // The receiver is well; it is the message that is not.
            Delivery::Rejected(error) => self.store.message_failed(id, attempt, error, None).await,
            Delivery::Gone(error) => self.store.channel_gone(channel, error).await,
        }
    }

    /// Tells a channel that forgets what fires and what was resolved a while ago. Not through the outbox: the
    /// next one makes up for one that fails.
    async fn resend(&self, channel: &Channel, resolved_ms: i64) -> Result<(), StoreError> {
        let now_ms = now_ms();
        let alerts = self
            .store
            .alerts_told_to(channel.name(), now_ms - resolved_ms, RESENT_MAX)
            .await?;
        for alerts in alerts.chunks(RESENT_TOGETHER) {
            let notification = Notification {
                event: Event::Reminder,
                group: "culprit".into(),
                alerts: alerts.to_vec(),
                omitted: 0,
                at_ms: now_ms,
            };
            let delivery = self.send(channel, Uuid::now_v7(), &notification).await;
            let (outcome, detail) = in_words(&delivery);
            self.stats.note(channel.kind(), outcome);
            if !detail.is_empty() {
                tracing::warn!(
                    channel = channel.name(),
                    error = detail,
                    "cannot be told again what fires"
                );
                self.store.note_failure(channel.name(), detail).await?;
                break;
            }
        }
        Ok(())
    }
}

fn in_words(delivery: &Delivery) -> (&'static str, &str) {
    match delivery {
        Delivery::Delivered => (OUTCOMES[0], ""),
        Delivery::Failed { error, .. } => (OUTCOMES[1], error),
        Delivery::Rejected(error) => (OUTCOMES[2], error),
        Delivery::Gone(error) => (OUTCOMES[3], error),
    }
}

/// When a message is tried again after its `attempt`th failure; `None`: never.
fn retry_in_s(attempt: i32, wanted_s: Option<f64>) -> Option<f64> {
    let at = usize::try_from(attempt.max(1) - 1).unwrap_or(usize::MAX);
    let scheduled_s = *RETRY_AFTER_S.get(at)?;
    Some(match wanted_s.map(|it| it.clamp(1.0, RETRY_AFTER_MAX_S)) {
        Some(wanted_s) if attempt <= BELIEVED_ATTEMPTS => wanted_s,
        Some(wanted_s) => wanted_s.max(scheduled_s),
        None => scheduled_s,
    })
}

/// How long a channel is left alone after so many failures in a row, if at all.
fn pause_s(failures: i32, wanted_s: Option<f64>) -> Option<f64> {
    let beyond = failures - FAILURES_BEFORE_PAUSE;
    let own_s = (beyond >= 0).then(|| (PAUSE_S * 2f64.powi(beyond.min(10))).min(PAUSE_MAX_S));
    let wanted_s = wanted_s.map(|it| it.clamp(1.0, RETRY_AFTER_MAX_S));
    match (own_s, wanted_s) {
        (Some(own_s), Some(wanted_s)) => Some(own_s.max(wanted_s)),
        (own_s, wanted_s) => own_s.or(wanted_s),
    }
}

/// A queued body. Those of versions without rules were what the webhook posts.
fn read_body(body: &Value) -> Result<Notification, String> {
    serde_json::from_value(body.clone())
        .or_else(|error| of_old_body(body).ok_or_else(|| error.to_string()))
}

fn of_old_body(body: &Value) -> Option<Notification> {
    let what = body["type"].as_str()?.strip_suffix(".opened")?;
    let old = body["data"].as_object()?;
    let text = |key: &str| old.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut data = old.clone();
    data.insert("type".into(), what.into());
    let id = old.get("id")?.as_i64()?;
    let labels: BTreeMap<String, String> = [
        ("alertname", "New N+1"),
        ("service", text("service")),
        ("environment", text("environment")),
        ("endpoint", text("endpoint")),
        ("kind", text("detector")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .collect();
    let alert = Alert {
        incident: Uuid::from_u128(u128::from(id.unsigned_abs())),
        fingerprint: super::signal::fingerprint(&labels),
        rule: "New N+1".into(),
        firing: true,
        severity: match text("severity") {
            "critical" => Severity::Critical,
            "info" => Severity::Info,
            _ => Severity::Warning,
        },
        labels,
        title: text("title").into(),
        summary: text("explanation").into(),
        facts: vec![Fact {
            name: "where".into(),
            value: format!("{} of {}", text("endpoint"), text("service")),
        }],
        links: vec![Link {
            text: "the bottleneck".into(),
            path: format!("/bottlenecks/{id}"),
        }],
        started_ms: 0,
        ended_ms: None,
        data: Value::Object(data),
    };
    Some(Notification {
        event: Event::Opened,
        group: text("service").into(),
        alerts: vec![alert],
        omitted: 0,
        at_ms: now_ms(),
    })
}

/// Up to a tenth more, so that messages that failed together do not return together.
fn jittered(seconds: f64) -> f64 {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |it| it.subsec_nanos());
    seconds * (1.0 + f64::from(nanos % 1_000) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_receiver_is_believed_but_not_for_ever() {
        assert_eq!(retry_in_s(1, None), Some(5.0));
        assert_eq!(retry_in_s(9, None), Some(86_400.0));
        assert_eq!(retry_in_s(10, Some(1.0)), None, "then it is dead");
        assert_eq!(retry_in_s(2, Some(1.0)), Some(1.0));
        assert_eq!(retry_in_s(4, Some(1.0)), Some(7_200.0));
        assert_eq!(retry_in_s(1, Some(90_000.0)), Some(3_600.0));
    }

    #[test]
    fn a_receiver_that_is_away_is_left_alone() {
        assert_eq!(pause_s(4, None), None);
        assert_eq!(pause_s(5, None), Some(30.0));
        assert_eq!(pause_s(7, None), Some(120.0));
        assert_eq!(pause_s(900, None), Some(600.0));
        assert_eq!(pause_s(1, Some(20.0)), Some(20.0));
        assert_eq!(pause_s(5, Some(20.0)), Some(30.0));
    }

    #[test]
    fn messages_of_versions_without_rules_are_understood() {
        let old = json!({
            "type": "bottleneck.n_plus_one_query.opened",
            "timestamp": "2026-11-21T19:25:00Z",
            "data": {"id": 7, "detector": "n-plus-one-query", "title": "20 times", "service": "shop",
                     "endpoint": "GET /posts", "severity": "critical", "count": 20},
        });
        let notification = read_body(&old).unwrap();
        assert_eq!(notification.event, Event::Opened);
        let alert = &notification.alerts[0];
        assert_eq!(alert.data["type"], "bottleneck.n_plus_one_query");
        assert_eq!(alert.data["count"], 20);
        assert_eq!(alert.severity, Severity::Critical);
        assert_eq!(alert.links[0].path, "/bottlenecks/7");
        assert!(read_body(&json!({"hello": 1})).is_err());
    }
}
