//! One look of the alert engine: what is stored and what is true now → incidents, and messages in the outbox,
//! in one transaction under the review's lease.
//!
//! A look that dies before its commit has changed nothing, and the next one comes to the same; so the
//! reviews of two processes may take turns at any moment.

use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

use super::channel::Kind;
use super::engine::{Incident, Pace, State, Timing, Truth, Verdict, advance, due};
use super::first;
use super::grouping::{Bundle, Due, Room, bundles};
use super::notification::{Alert, Event, Fact, Link, Notification};
use super::rule::{Condition, Rule, matches};
use super::signal::{self, About, BASELINE_MINUTES, Content, Signal};
use super::silence::covers;
use crate::store::channels::StoredChannel;
use crate::store::incidents::Changes;
use crate::store::leases::Lease;
use crate::store::outbox::NewMessage;
use crate::store::signals::EndpointPlace;
use crate::store::silences::Silence;
use crate::store::{Store, StoreError};

/// How often numbers are compared with their limits: they are of full minutes, and a look comes each second.
const NUMBERS_EVERY_MS: i64 = 15_000;

/// When something was last seen to be true is stored at most this late: else every incident that fires
/// would be written in every look.
const LAST_TRUE_LATE_MS: i64 = 10_000;

/// A channel that is switched off or gone is owed the end of an incident for this long, in case it comes
/// back.
const OWED_MS: i64 = 86_400_000;

/// A rule's name and a fingerprint: at most one incident of these is not over.
type Key = (String, String);

/// What looks have in common.
#[derive(Debug)]
pub struct Watch {
    public_url: String,
    pace: Pace,
    /// When numbers were last compared, by which rules, and what came of it.
    numbers: Option<Compared>,
}

/// When numbers were compared, ms since the epoch; by which rules; what is beyond its limit.
type Compared = (i64, Vec<Rule>, Vec<(Key, Signal)>);

impl Watch {
    /// Looks that have not begun yet. Links in messages for machines begin with `public_url`.
    pub fn new(public_url: String, pace: Pace) -> Watch {
        Watch {
            public_url,
            pace,
            numbers: None,
        }
    }

    /// One look.
    ///
    /// # Errors
    /// The lease is lost, or Postgres failed; nothing is half done.
    pub async fn look(
        &mut self,
        store: &Store,
        lease: &Lease,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let (rules, unreadable) = store.enabled_rules().await?;
        let channels = store.channels().await?;
        let memory_ms = self.pace.cool_down_ms.max(self.pace.flapping_window_ms);
        let stored = store.engine_incidents(now_ms - memory_ms).await?;
        let signals = self.signals(store, &rules, &stored, now_ms).await?;
        let silences = store.active_silences(now_ms).await?;
        if stored.is_empty() && signals.values().all(|it| it.verdict.truth != Truth::True) {
            return Ok(());
        }
        let mut look = Look {
            rules: rules.iter().map(|it| (it.name.as_str(), it)).collect(),
            unreadable: &unreadable,
            signals: &signals,
            silences: &silences,
            enabled: channels.iter().filter(|it| it.enabled).collect(),
            channels: &channels,
            pace: &self.pace,
            now_ms,
            incidents: Vec::new(),
            changes: Changes::default(),
        };
        look.advance(&stored);
        let said = store.messages_since(now_ms - 60_000).await?;
        let (bundles, untold) = look.bundles(said);
        look.describe(store, &bundles, &self.public_url).await?;
        look.leave_out(untold, &bundles);
        look.say(bundles);
        let changes = look.changes(&stored);
        if !changes.is_empty() {
            store.commit_alerts(lease, &changes, now_ms).await?;
        }
        Ok(())
    }

    /// What every rule says of everything it is about.
    async fn signals(
        &mut self,
        store: &Store,
        rules: &[Rule],
        stored: &[Incident],
        now_ms: i64,
    ) -> Result<BTreeMap<Key, Signal>, StoreError> {
        let mut signals = BTreeMap::new();
        let watched = watched(stored);
        let asks = |of: fn(&Condition) -> bool| rules.iter().any(|it| of(&it.condition));
        if asks(|it| matches!(it, Condition::Finding { .. })) {
            for finding in store.findings_now(&watched).await? {
                collect(&mut signals, rules, |it| signal::of_finding(it, &finding));
            }
        }
        if asks(|it| matches!(it, Condition::Regression { .. })) {
            for regression in store.regressions_now().await? {
                collect(&mut signals, rules, |it| {
                    signal::of_regression(it, &regression, now_ms)
                });
            }
        }
        signals.extend(self.numbers(store, rules, stored, now_ms).await?);
        Ok(signals)
    }

    /// What rules with limits say; from memory if that is recent.
    async fn numbers(
        &mut self,
        store: &Store,
        rules: &[Rule],
        stored: &[Incident],
        now_ms: i64,
    ) -> Result<Vec<(Key, Signal)>, StoreError> {
        let rules: Vec<Rule> = rules
            .iter()
            .filter(|it| matches!(it.condition, Condition::Threshold { .. }))
            .cloned()
            .collect();
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        if let Some((at_ms, by, signals)) = &self.numbers
            && (*at_ms..at_ms + NUMBERS_EVERY_MS).contains(&now_ms)
            && *by == rules
        {
            return Ok(signals.clone());
        }
        let places = store.endpoint_places().await?;
        let to_minute = i32::try_from(now_ms / 60_000).unwrap_or(i32::MAX);
        let mut signals = BTreeMap::new();
        for rule in &rules {
            let Condition::Threshold { minutes, .. } = &rule.condition else {
                continue;
            };
            let meant = meant_by(rule, &places);
            let ids: Vec<i32> = meant.iter().map(|it| it.id).collect();
            let from_minute = to_minute - i32::try_from(*minutes).unwrap_or(1);
            let windows = store
                .requests_of_minutes(&ids, from_minute, to_minute)
                .await?;
            for it in meant {
                let window = windows.get(&it.id);
                collect(&mut signals, std::slice::from_ref(rule), |rule| {
                    signal::of_window(rule, it.id, &it.place, window, to_minute)
                });
            }
        }
        // Most endpoints are well, and nothing is to be done about them.
        let known: BTreeSet<(&str, &str)> = stored
            .iter()
            .map(|it| (it.rule.as_str(), it.fingerprint.as_str()))
            .collect();
        let signals: Vec<(Key, Signal)> = signals
            .into_iter()
            .filter(|((rule, fingerprint), it)| {
                it.verdict.truth == Truth::True
                    || known.contains(&(rule.as_str(), fingerprint.as_str()))
            })
            .collect();
        self.numbers = Some((now_ms, rules, signals.clone()));
        Ok(signals)
    }
}

/// The findings of incidents that are not over.
fn watched(stored: &[Incident]) -> Vec<i32> {
    let live = stored.iter().filter(|it| it.state != State::Resolved);
    let findings: BTreeSet<i32> = live
        .filter_map(|it| signal::finding_of(&it.labels))
        .collect();
    findings.into_iter().collect()
}

fn meant_by<'a>(rule: &Rule, places: &'a [EndpointPlace]) -> Vec<&'a EndpointPlace> {
    let meant = places.iter().filter(|it| {
        matches(rule.service(), &it.place.service) && matches(rule.endpoint(), &it.place.endpoint)
    });
    meant.collect()
}

/// The latter of two signals about the same thing counts: regressions that are open come last.
fn collect(
    signals: &mut BTreeMap<Key, Signal>,
    rules: &[Rule],
    of: impl Fn(&Rule) -> Option<Signal>,
) {
    for rule in rules {
        if let Some(signal) = of(rule) {
            signals.insert((rule.name.clone(), signal.fingerprint.clone()), signal);
        }
    }
}

struct Look<'a> {
    rules: BTreeMap<&'a str, &'a Rule>,
    /// Rules of a newer program: what they began goes on until that one looks at it.
    unreadable: &'a [String],
    signals: &'a BTreeMap<Key, Signal>,
    silences: &'a [Silence],
    channels: &'a [StoredChannel],
    enabled: Vec<&'a StoredChannel>,
    pace: &'a Pace,
    now_ms: i64,
    incidents: Vec<Incident>,
    changes: Changes,
}

impl<'a> Look<'a> {
    /// Every incident one step on, and new ones for what has become true.
    fn advance(&mut self, stored: &[Incident]) {
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        for incident in stored {
            let key = (incident.rule.clone(), incident.fingerprint.clone());
            let is_over =
                incident.state == State::Resolved && !incident.can_reopen(self.now_ms, self.pace);
            if is_over && self.is_true(&key) {
                continue;
            }
            let verdict = self.verdict(&key);
            match self.step(incident.clone(), &verdict) {
                Some(next) => self.incidents.push(next),
                None => self.changes.forgotten.push(incident.id),
            }
            seen.insert(key);
        }
        for (key, signal) in self.signals {
            if signal.verdict.truth != Truth::True || seen.contains(key) {
                continue;
            }
            let incident = Incident::new(
                Uuid::now_v7(),
                &key.0,
                signal.severity,
                signal.labels.clone(),
                signal.fingerprint.clone(),
                self.now_ms,
            );
            self.incidents.extend(self.step(incident, &signal.verdict));
        }
    }

    fn is_true(&self, key: &Key) -> bool {
        let signal = self.signals.get(key);
        signal.is_some_and(|it| it.verdict.truth == Truth::True)
    }

    fn verdict(&self, key: &Key) -> Verdict {
        if let Some(signal) = self.signals.get(key) {
            return signal.verdict.clone();
        }
        match self.rules.get(key.0.as_str()).map(|it| &it.condition) {
            None if self.unreadable.contains(&key.0) => Verdict::of(Truth::Holds),
            None => Verdict::ended("its rule is gone or switched off"),
            Some(Condition::Regression { .. }) => Verdict::of(Truth::False),
            Some(_) => Verdict::ended("its rule is not about it any more"),
        }
    }

    fn step(&self, incident: Incident, verdict: &Verdict) -> Option<Incident> {
        let timing = self.timing(&incident.rule);
        let channels = self.channels_of(&incident.rule);
        let mut next = advance(incident, verdict, timing, &channels, self.now_ms, self.pace)?;
        let key = (next.rule.clone(), next.fingerprint.clone());
        // Once it has fired it stays what it was told as: Alertmanagers and silences go by the severity, too.
        if let Some(signal) = self.signals.get(&key)
            && next.state == State::Pending
            && next.fired_ms.is_none()
        {
            next.severity = signal.severity;
        }
        let silence = self
            .silences
            .iter()
            .find(|it| covers(it, &next.labels, next.severity, self.now_ms));
        next.silenced_by = silence.map(|it| it.id);
        if next
            .resolved_ms
            .is_some_and(|it| self.now_ms - it > OWED_MS)
        {
            let is_there = |channel: &String| self.enabled.iter().any(|it| it.name == *channel);
            next.told.retain(|channel, _| is_there(channel));
        }
        Some(next)
    }

    fn timing(&self, rule: &str) -> Timing {
        let rule = self.rules.get(rule);
        rule.map_or_else(Timing::default, |it| Timing {
            for_ms: i64::from(it.for_seconds) * 1_000,
            keep_firing_ms: i64::from(it.keep_firing_seconds) * 1_000,
            repeat_ms: i64::from(it.repeat_seconds) * 1_000,
        })
    }

    /// Who hears of a rule's incidents. A channel that nobody has heard of is not left out: its messages wait
    /// and say so.
    fn channels_of(&self, rule: &str) -> Vec<String> {
        match self.rules.get(rule) {
            Some(rule) if !rule.channels.is_empty() => rule.channels.clone(),
            Some(_) => self.enabled.iter().map(|it| it.name.clone()).collect(),
            None => Vec::new(),
        }
    }

    /// What is to be said now, put together; and what is never said.
    fn bundles(&self, said: Vec<(String, i64)>) -> (Vec<Bundle>, Vec<Due>) {
        let said: BTreeMap<String, i64> = said.into_iter().collect();
        let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
        let mut all = Vec::new();
        let mut first_told: BTreeMap<first::Group, usize> = BTreeMap::new();
        for (place, incident) in self.incidents.iter().enumerate() {
            let timing = self.timing(&incident.rule);
            let label = |name: &str| incident.labels.get(name).cloned().unwrap_or_default();
            let first_until_ms = self.first_until_ms(incident);
            for (channel, told) in &incident.told {
                let first_until_ms = first_until_ms.filter(|_| !self.resends(channel));
                let was_told = told.event.is_some();
                let due = due(incident, *told, timing, self.now_ms, self.pace);
                let it = Due {
                    incident: place,
                    channel: channel.clone(),
                    event: due.map_or(Event::Opened, |it| it.0),
                    since_ms: due.map_or(self.now_ms, |it| it.1),
                    severity: incident.severity,
                    fingerprint: incident.fingerprint.clone(),
                    service: label("service"),
                    environment: label("environment"),
                    first_until_ms: first_until_ms.filter(|_| !was_told),
                };
                if was_told && first_until_ms.is_some() {
                    *first_told.entry((channel.clone(), it.group())).or_default() += 1;
                }
                let (Some(_), Some(groups)) = (due, self.groups(channel)) else {
                    continue;
                };
                rooms.entry(channel.clone()).or_insert_with(|| Room {
                    groups,
                    messages: self.pace.messages_per_minute
                        - said.get(channel).copied().unwrap_or_default(),
                });
                all.push(it);
            }
        }
        let (now, never) = first::sift(all, &first_told, &rooms, self.now_ms);
        (bundles(now, &rooms, self.now_ms, self.pace), never)
    }

    /// See [`Signal::first_until_ms`].
    fn first_until_ms(&self, incident: &Incident) -> Option<i64> {
        let key = (incident.rule.clone(), incident.fingerprint.clone());
        self.signals.get(&key)?.first_until_ms
    }

    /// A program that groups and counts by itself, and forgets what it is not told.
    fn resends(&self, channel: &str) -> bool {
        let kind = self.channels.iter().find(|it| it.name == channel);
        kind.is_some_and(|it| {
            let mut kinds = Kind::ALL.iter();
            kinds.any(|kind| kind.name() == it.kind && kind.resends())
        })
    }

    /// The channels of `untold` do not hear of these incidents, unless they fire anew. What is told instead says
    /// how many there are.
    fn leave_out(&mut self, untold: Vec<Due>, bundles: &[Bundle]) {
        let mut counts: BTreeMap<first::Group, usize> = BTreeMap::new();
        for it in untold {
            *counts.entry((it.channel.clone(), it.group())).or_default() += 1;
            let incident = &mut self.incidents[it.incident];
            incident.told.remove(&it.channel);
            if let Some(finding) = signal::finding_of(&incident.labels) {
                self.changes.findings_told.push((finding, incident.id));
            }
        }
        for ((channel, group), count) in counts {
            let told = bundles
                .iter()
                .find(|it| it.channel == channel && it.group == group && it.event == Event::Opened);
            let Some(worst) = told.and_then(|it| it.incidents.first()) else {
                continue;
            };
            self.incidents[*worst].alert.facts.push(Fact {
                name: "also found".into(),
                value: format!(
                    "{count} more in the first half hour of {group}; they are on culprit's page of alerts"
                ),
            });
        }
    }

    /// Whether a channel takes several alerts in one message; `None` if it is switched off.
    fn groups(&self, channel: &str) -> Option<bool> {
        match self.channels.iter().find(|it| it.name == channel) {
            Some(it) if !it.enabled => None,
            Some(it) => Some(
                Kind::ALL
                    .iter()
                    .any(|kind| kind.name() == it.kind && kind.groups()),
            ),
            None => Some(false),
        }
    }

    /// Puts into words what is new or about to be said; what is over is told as it was.
    async fn describe(
        &mut self,
        store: &Store,
        bundles: &[Bundle],
        public_url: &str,
    ) -> Result<(), StoreError> {
        let said = still_true(bundles);
        for (place, incident) in self.incidents.iter_mut().enumerate() {
            incident.alert.severity = incident.severity;
            let is_new = incident.alert.title.is_empty();
            let key = (incident.rule.clone(), incident.fingerprint.clone());
            let (Some(signal), Some(rule)) =
                (self.signals.get(&key), self.rules.get(key.0.as_str()))
            else {
                continue;
            };
            if incident.state == State::Resolved || !(is_new || said.contains(&place)) {
                continue;
            }
            let content = content(store, rule, signal, public_url).await?;
            let alert = &mut incident.alert;
            alert.title = content.title;
            alert.summary = content.summary;
            alert.facts = content.facts;
            alert.data = content.data;
            alert.links = content.links;
        }
        Ok(())
    }

    fn say(&mut self, bundles: Vec<Bundle>) {
        for bundle in bundles {
            for place in &bundle.incidents {
                let incident = &mut self.incidents[*place];
                incident.note_told(&bundle.channel, bundle.event, self.now_ms);
                if let (Event::Opened, Some(finding)) =
                    (bundle.event, signal::finding_of(&incident.labels))
                {
                    self.changes.findings_told.push((finding, incident.id));
                }
            }
            let shown = &bundle.incidents[..bundle.shown];
            let notification = Notification {
                event: bundle.event,
                group: bundle.group,
                alerts: shown
                    .iter()
                    .map(|it| with_own_page(&self.incidents[*it].alert))
                    .collect(),
                omitted: bundle.incidents.len() - bundle.shown,
                at_ms: self.now_ms,
            };
            self.changes.messages.push(NewMessage {
                id: Uuid::now_v7(),
                channel: bundle.channel,
                group_key: bundle.group_key,
                incidents: bundle
                    .incidents
                    .iter()
                    .map(|it| self.incidents[*it].id)
                    .collect(),
                notification,
            });
        }
    }

    /// What is not what it was.
    fn changes(mut self, stored: &[Incident]) -> Changes {
        let before: BTreeMap<Uuid, &Incident> = stored.iter().map(|it| (it.id, it)).collect();
        let is_changed = |now: &Incident| {
            let Some(before) = before.get(&now.id) else {
                return true;
            };
            let mut same = now.clone();
            // Not stored by the engine.
            same.acknowledged = before.acknowledged;
            // The clock may have gone back.
            if (now.last_true_ms - before.last_true_ms).abs() < LAST_TRUE_LATE_MS {
                same.last_true_ms = before.last_true_ms;
            }
            same != **before
        };
        let incidents = std::mem::take(&mut self.incidents);
        self.changes.incidents = incidents.into_iter().filter(is_changed).collect();
        self.changes
    }
}

/// The incidents of which more is said than that they are over.
fn still_true(bundles: &[Bundle]) -> BTreeSet<usize> {
    let still = bundles.iter().filter(|it| it.event != Event::Resolved);
    still.flat_map(|it| it.incidents.iter().copied()).collect()
}

async fn content(
    store: &Store,
    rule: &Rule,
    signal: &Signal,
    public_url: &str,
) -> Result<Content, StoreError> {
    Ok(match &signal.about {
        About::Finding(id) => {
            let finding = store.finding_told(*id).await?;
            finding.map_or_else(Content::default, |it| {
                signal::finding_content(&it, public_url)
            })
        }
        About::Regression(regression) => signal::regression_content(regression),
        About::Number(number) => {
            let Condition::Threshold { minutes, .. } = &rule.condition else {
                return Ok(Content::default());
            };
            let to = number.to_minute - i32::try_from(*minutes).unwrap_or(1);
            let before = store
                .requests_of_minutes(&[number.endpoint_id], to - BASELINE_MINUTES, to)
                .await?;
            let before = before.get(&number.endpoint_id).cloned();
            signal::number_content(rule, number, &before.unwrap_or_default())
        }
    })
}

/// The alert with a link to its own page, where it is acknowledged and silenced.
fn with_own_page(alert: &Alert) -> Alert {
    let mut alert = alert.clone();
    alert.links.push(Link {
        text: "acknowledge or silence".into(),
        path: format!("/alerts/{}", alert.incident),
    });
    alert
}
