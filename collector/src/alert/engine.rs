//! An incident's life, as a pure function of what is true now.
//!
//! ```text
//!            true              true for `for`             false for `keep_firing`
//! (nothing) ──────→ pending ───────────────────→ firing ───────────────────────→ resolved
//!               ↑      │ false                      ↑                               │
//!               └──────┴─ forgotten, or resolved ───┴──── true again: the same one ─┘
//!                                                         within the cool-down
//! ```
//!
//! What is said about it is kept per channel and follows from the state alone ([`due`]), so that silences,
//! group waits and rate limits only delay it: what is not said in this look is still due in the next, and
//! what is not true any more by then is never said. A silence holds nothing back but what disturbs: that
//! something is over is told all the same, to those who were told that it began.
//!
//! What someone on call wants, and what follows from it:
//!
//! - Told "resolved", they go back to sleep. If it is true again a moment later they want to know only
//!   if it stays: within the cool-down it is the same incident, and it is told again after
//!   [`Pace::settle_ms`] and not before. What is gone again by then was not worth getting up.
//! - What comes and goes all the time is one message, "flapping", and then silence until it has been
//!   stable for [`Pace::flapping_window_ms`]; then how it stands is said once.
//! - An acknowledgement is heard: no reminders, and what was not told yet need not be. That it is resolved is
//!   told all the same.
//! - Nobody is told that something is resolved of which they never heard.

use std::collections::BTreeMap;
use uuid::Uuid;

use super::notification::{Alert, Event, Fact, Severity};

/// The engine's times and counts. Tests bring shorter ones.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The first incident of a group waits so long for the others of the same bad deployment.
    pub group_wait_ms: i64,
    /// True again so soon after it was resolved, it is the same incident.
    pub cool_down_ms: i64,
    /// True again for so long, it is told again.
    pub settle_ms: i64,
    /// More changes than this within the window are flapping.
    pub flapping_changes: usize,
    /// See above; stable for so long, it flaps no more.
    pub flapping_window_ms: i64,
    /// Without any data for so long (beyond `keep_firing`), an incident ends: its endpoint may be gone.
    pub no_data_ms: i64,
    /// Messages per channel and minute. Beyond it incidents wait, and those of a group are told together.
    pub messages_per_minute: i64,
    /// How often Alertmanagers are told again what fires: they forget what they do not hear of.
    pub resend_ms: i64,
    /// How long they are told again that something is resolved.
    pub resend_resolved_ms: i64,
}

impl Default for Pace {
    fn default() -> Self {
        const MINUTE_MS: i64 = 60_000;
        Pace {
            group_wait_ms: 10_000,
            cool_down_ms: 30 * MINUTE_MS,
            settle_ms: 5 * MINUTE_MS,
            flapping_changes: 4,
            flapping_window_ms: 60 * MINUTE_MS,
            no_data_ms: 15 * MINUTE_MS,
            messages_per_minute: 20,
            resend_ms: MINUTE_MS,
            resend_resolved_ms: 15 * MINUTE_MS,
        }
    }
}

/// Whether something is true now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    /// Yes.
    True,
    /// Not so that it would open an incident, but one that is open goes on: hysteresis.
    Holds,
    /// No.
    False,
    /// There is no data to tell by.
    Unknown,
}

/// What is known of a thing now.
#[derive(Clone, PartialEq, Debug)]
pub struct Verdict {
    /// Whether it is true.
    pub truth: Truth,
    /// Why it is not, if there is a reason worth telling.
    pub why: Option<String>,
    /// Somebody knows and has it in hand.
    pub acknowledged: bool,
}

impl Verdict {
    /// Nothing but the truth.
    pub fn of(truth: Truth) -> Verdict {
        Verdict {
            truth,
            why: None,
            acknowledged: false,
        }
    }

    /// It is not true, and why.
    pub fn ended(why: impl Into<String>) -> Verdict {
        Verdict {
            why: Some(why.into()),
            ..Verdict::of(Truth::False)
        }
    }
}

/// A rule's times, ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timing {
    /// True for so long before it fires.
    pub for_ms: i64,
    /// False for so long before it is resolved.
    pub keep_firing_ms: i64,
    /// Told again after so long; 0: never.
    pub repeat_ms: i64,
}

/// Where an incident is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// True, but not for long enough.
    Pending,
    /// True.
    Firing,
    /// Not true any more.
    Resolved,
}

impl State {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        ["pending", "firing", "resolved"][self as usize]
    }

    /// From its stored name.
    pub fn parse(name: &str) -> Option<State> {
        let all = [State::Pending, State::Firing, State::Resolved];
        all.into_iter().find(|it| it.name() == name)
    }
}

/// What a channel was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Told {
    /// Nothing yet, or this.
    pub event: Option<Event>,
    /// When, ms since the epoch.
    pub at_ms: i64,
}

impl Told {
    /// It believes that the incident is open.
    pub fn is_owed_a_resolve(&self) -> bool {
        matches!(
            self.event,
            Some(Event::Opened | Event::Reminder | Event::Flapping)
        )
    }
}

/// One rule and one thing: from when it became true until it is over.
#[derive(Clone, PartialEq, Debug)]
pub struct Incident {
    /// Stays the same from the first message to the last.
    pub id: Uuid,
    /// The rule's name.
    pub rule: String,
    /// Of the labels.
    pub fingerprint: String,
    /// Where it is in its life.
    pub state: State,
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// As last described.
    pub alert: Alert,
    /// True since, ms since the epoch.
    pub started_ms: i64,
    /// Firing since, or when it last fired.
    pub fired_ms: Option<i64>,
    /// When it was last seen to be true. Stored a few seconds late at times.
    pub last_true_ms: i64,
    /// Resolved since, while it is.
    pub resolved_ms: Option<i64>,
    /// The channels that are to hear of it, fixed when it fires: one that is set up later does not get
    /// everything that happens to fire then.
    pub told: BTreeMap<String, Told>,
    /// Somebody has it in hand.
    pub acknowledged: bool,
    /// The silence that keeps it quiet now.
    pub silenced_by: Option<Uuid>,
    /// When it fired or was resolved within the last window, oldest first.
    pub changes: Vec<i64>,
    /// It fires and resolves too often to be told each time.
    pub flapping: bool,
    /// It fires anew: an acknowledgement of before is over.
    pub fires_anew: bool,
}

impl Incident {
    /// A thing that has just become true.
    pub fn new(
        id: Uuid,
        rule: &str,
        severity: Severity,
        labels: BTreeMap<String, String>,
        fingerprint: String,
        now_ms: i64,
    ) -> Incident {
        let alert = Alert {
            incident: id,
            fingerprint: fingerprint.clone(),
            rule: rule.to_owned(),
            firing: true,
            severity,
            labels: labels.clone(),
            title: String::new(),
            summary: String::new(),
            facts: Vec::new(),
            data: serde_json::Value::Null,
            links: Vec::new(),
            started_ms: now_ms,
            ended_ms: None,
        };
        Incident {
            id,
            rule: rule.to_owned(),
            fingerprint,
            state: State::Pending,
            severity,
            labels,
            alert,
            started_ms: now_ms,
            fired_ms: None,
            last_true_ms: now_ms,
            resolved_ms: None,
            told: BTreeMap::new(),
            acknowledged: false,
            silenced_by: None,
            changes: Vec::new(),
            flapping: false,
            fires_anew: false,
        }
    }

    /// If the thing is true again it is this incident, and not another.
    pub fn can_reopen(&self, now_ms: i64, pace: &Pace) -> bool {
        let cools_down = self
            .resolved_ms
            .is_some_and(|it| now_ms - it < pace.cool_down_ms);
        // A channel that believes it open must not be told of a second one.
        cools_down || self.flapping || self.told.values().any(Told::is_owed_a_resolve)
    }

    /// What was last said to anybody, in one word, as it is stored: as long as a channel believes it open
    /// that is `opened` or `flapping`.
    pub fn notified(&self) -> &'static str {
        let any = |event| self.told.values().any(|it| it.event == Some(event));
        if any(Event::Flapping) {
            "flapping"
        } else if any(Event::Opened) || any(Event::Reminder) {
            "opened"
        } else if any(Event::Resolved) {
            "resolved"
        } else {
            ""
        }
    }

    /// When anybody was last told anything.
    pub fn notified_ms(&self) -> Option<i64> {
        let told = self.told.values().filter(|it| it.event.is_some());
        told.map(|it| it.at_ms).max()
    }

    /// `channel` is told `event` now.
    pub fn note_told(&mut self, channel: &str, event: Event, now_ms: i64) {
        let told = Told {
            event: Some(event),
            at_ms: now_ms,
        };
        self.told.insert(channel.to_owned(), told);
    }

    fn fire(&mut self, channels: &[String], now_ms: i64) {
        self.state = State::Firing;
        self.fired_ms = Some(now_ms);
        self.fires_anew = self.resolved_ms.take().is_some();
        self.acknowledged &= !self.fires_anew;
        self.changes.push(now_ms);
        for channel in channels {
            self.told.entry(channel.clone()).or_default();
        }
        self.alert.firing = true;
        self.alert.started_ms = self.started_ms;
        self.alert.ended_ms = None;
    }

    fn resolve(&mut self, why: Option<String>, now_ms: i64) {
        self.state = State::Resolved;
        self.resolved_ms = Some(now_ms);
        self.changes.push(now_ms);
        self.alert.firing = false;
        self.alert.ended_ms = Some(now_ms);
        if let Some(why) = why {
            self.alert.facts.push(Fact {
                name: "resolved".into(),
                value: why,
            });
        }
    }
}

/// One step of an incident's life. `None`: it was pending only, and is forgotten. `channels` are those
/// that hear of it if it fires now.
pub fn advance(
    mut incident: Incident,
    verdict: &Verdict,
    timing: Timing,
    channels: &[String],
    now_ms: i64,
    pace: &Pace,
) -> Option<Incident> {
    let it = &mut incident;
    if it.state == State::Resolved && verdict.truth == Truth::True {
        // Whoever has found it says whether it can still reopen.
        it.state = State::Pending;
        it.started_ms = now_ms;
    }
    if verdict.truth == Truth::True || (verdict.truth == Truth::Holds && it.state == State::Firing)
    {
        it.last_true_ms = now_ms;
    }
    // A clock that had jumped ahead must not keep it firing until that time comes.
    it.last_true_ms = it.last_true_ms.min(now_ms);
    let unheard_ms = now_ms - it.last_true_ms;
    match (it.state, verdict.truth) {
        (State::Pending, Truth::True) => {
            if now_ms - it.started_ms >= timing.for_ms {
                it.fire(channels, now_ms);
            }
        }
        (State::Pending, Truth::Unknown) if unheard_ms < pace.no_data_ms => {}
        (State::Pending, _) => {
            it.resolved_ms?;
            it.state = State::Resolved;
        }
        (State::Firing, Truth::False) if unheard_ms >= timing.keep_firing_ms => {
            it.resolve(verdict.why.clone(), now_ms);
        }
        (State::Firing, Truth::Unknown)
            if unheard_ms >= timing.keep_firing_ms + pace.no_data_ms =>
        {
            let why = "there is no data any more: the endpoint gets too few requests, or none";
            it.resolve(Some(why.into()), now_ms);
        }
        (State::Firing | State::Resolved, _) => {}
    }
    it.acknowledged |= verdict.acknowledged;
    it.changes
        .retain(|at| now_ms - at < pace.flapping_window_ms);
    it.flapping =
        it.changes.len() > pace.flapping_changes || (it.flapping && !it.changes.is_empty());
    // More would tell nothing more, and a row has to stay small.
    let surplus = it.changes.len().saturating_sub(pace.flapping_changes + 1);
    it.changes.drain(..surplus);
    Some(incident)
}

/// What a channel has yet to be told, and since when that is due, ms since the epoch.
pub fn due(
    incident: &Incident,
    told: Told,
    timing: Timing,
    now_ms: i64,
    pace: &Pace,
) -> Option<(Event, i64)> {
    let fired_ms = incident.fired_ms.unwrap_or(incident.started_ms);
    let fires = incident.state == State::Firing;
    // That it is over disturbs nobody, and whoever has it open wants to close it.
    if incident.silenced_by.is_some() && (fires || incident.flapping) {
        return None;
    }
    if incident.flapping {
        // Said while it fires: what has just ended again is told as ended, once it stays so.
        let is_new = fires && told.event != Some(Event::Flapping) && !incident.acknowledged;
        let since_ms = incident.changes.last().copied().unwrap_or(now_ms);
        return is_new.then_some((Event::Flapping, since_ms));
    }
    match told.event {
        None if fires && !incident.acknowledged => Some((Event::Opened, fired_ms)),
        Some(Event::Resolved) if fires && !incident.acknowledged => {
            let settled_ms = fired_ms + pace.settle_ms;
            (now_ms >= settled_ms).then_some((Event::Opened, settled_ms))
        }
        // Stable at last, and it fires.
        Some(Event::Flapping) if fires => Some((Event::Reminder, now_ms - pace.group_wait_ms)),
        Some(Event::Opened | Event::Reminder)
            if fires && timing.repeat_ms > 0 && !incident.acknowledged =>
        {
            let again_ms = told.at_ms + timing.repeat_ms;
            (now_ms >= again_ms).then_some((Event::Reminder, again_ms))
        }
        _ if !fires && told.is_owed_a_resolve() => {
            Some((Event::Resolved, incident.resolved_ms.unwrap_or(now_ms)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;
    const CHANNEL: &str = "slack";

    /// One thing over time, as the look would drive it: what is stored, and what was said when.
    struct World {
        stored: Option<Incident>,
        now_ms: i64,
        timing: Timing,
        pace: Pace,
        ids: u128,
        said: Vec<(i64, Uuid, Event)>,
        opened: usize,
    }

    impl World {
        fn new(timing: Timing) -> World {
            World {
                stored: None,
                now_ms: 0,
                timing,
                pace: Pace::default(),
                ids: 0,
                said: Vec::new(),
                opened: 0,
            }
        }

        /// A look; one that `crashes` leaves nothing behind.
        fn look(&mut self, verdict: &Verdict, silence: Option<Uuid>, crashes: bool) {
            let mut opened = self.opened;
            let before = self
                .stored
                .clone()
                .filter(|it| it.state != State::Resolved || it.can_reopen(self.now_ms, &self.pace));
            let incident = before.or_else(|| {
                (verdict.truth == Truth::True).then(|| {
                    opened += 1;
                    let id = Uuid::from_u128(self.ids + 1);
                    Incident::new(
                        id,
                        "rule",
                        Severity::Warning,
                        BTreeMap::new(),
                        "f".into(),
                        self.now_ms,
                    )
                })
            });
            let Some(incident) = incident else {
                return;
            };
            let channels = [CHANNEL.to_owned()];
            let (now_ms, pace) = (self.now_ms, self.pace.clone());
            let mut next = advance(incident, verdict, self.timing, &channels, now_ms, &pace);
            let mut said = None;
            if let Some(it) = &mut next {
                it.silenced_by = silence;
                if let Some(told) = it.told.get(CHANNEL).copied() {
                    said = due(it, told, self.timing, now_ms, &pace)
                        .map(|(event, _)| (now_ms, it.id, event));
                }
                if let Some((.., event)) = said {
                    it.note_told(CHANNEL, event, now_ms);
                }
            }
            if !crashes {
                self.ids = next.as_ref().map_or(self.ids, |it| it.id.as_u128());
                self.opened = opened;
                self.stored = next;
                self.said.extend(said);
            }
        }

        /// Looks each ten seconds for so many minutes.
        fn go(&mut self, truth: Truth, minutes: f64) -> &mut World {
            let end = self.now_ms + (minutes * MINUTE as f64) as i64;
            while self.now_ms < end {
                self.look(&Verdict::of(truth), None, false);
                self.now_ms += 10_000;
            }
            self
        }

        fn events(&self) -> Vec<(i64, &'static str)> {
            let said = self.said.iter();
            said.map(|(at, _, event)| (at / 1000, event.name()))
                .collect()
        }
    }

    #[test]
    fn it_is_told_when_it_begins_and_when_it_ends() {
        let mut world = World::new(Timing::default());
        world.go(Truth::False, 1.0).go(Truth::True, 10.0);
        world.go(Truth::Holds, 5.0).go(Truth::False, 90.0);
        assert_eq!(world.events(), [(60, "opened"), (960, "resolved")]);
    }

    #[test]
    fn it_has_to_be_true_for_a_while_and_false_for_a_while() {
        let timing = Timing {
            for_ms: 2 * MINUTE,
            keep_firing_ms: 3 * MINUTE,
            repeat_ms: 0,
        };
        let mut world = World::new(timing);
        world.go(Truth::True, 1.0).go(Truth::False, 1.0);
        world.go(Truth::True, 1.0).go(Truth::Holds, 1.0);
        assert!(world.stored.is_none(), "nearly is not enough to begin with");
        world.go(Truth::True, 4.0).go(Truth::False, 2.0);
        world.go(Truth::True, 1.0).go(Truth::False, 5.0);
        // The last time it was true is at 650 s.
        assert_eq!(world.events(), [(360, "opened"), (830, "resolved")]);
    }

    #[test]
    fn what_returns_soon_is_the_same_and_told_only_if_it_stays() {
        let mut world = World::new(Timing::default());
        world.pace.flapping_changes = 10;
        world.go(Truth::True, 5.0).go(Truth::False, 5.0);
        // A blip of four minutes: nobody gets up.
        world.go(Truth::True, 4.0).go(Truth::False, 10.0);
        assert_eq!(world.said.len(), 2);
        world.go(Truth::True, 20.0);
        assert_eq!(
            world.events()[2..],
            [(24 * 60 + 5 * 60, "opened")],
            "after it has stayed for five minutes"
        );
        assert_eq!(world.said[0].1, world.said[2].1, "one incident");
        world.go(Truth::False, 40.0).go(Truth::True, 1.0);
        assert_ne!(
            world.said[0].1, world.said[4].1,
            "another one after the cool-down"
        );
        assert_eq!(world.events()[4].1, "opened");
    }

    #[test]
    fn flapping_is_told_once_and_how_it_ends() {
        for (end, last) in [(Truth::True, "reminder"), (Truth::False, "resolved")] {
            let mut world = World::new(Timing::default());
            for _ in 0..20 {
                world.go(Truth::True, 2.0).go(Truth::False, 2.0);
            }
            world.go(end, 120.0);
            let events: Vec<&str> = world.events().iter().map(|it| it.1).collect();
            assert_eq!(events, ["opened", "resolved", "flapping", last]);
            assert_eq!(world.opened, 1);
            let last_change_ms = if end == Truth::True { 80 } else { 78 } * MINUTE;
            assert_eq!(world.said[3].0, last_change_ms + 60 * MINUTE);
        }
    }

    #[test]
    fn reminders_come_until_somebody_has_it_in_hand() {
        let timing = Timing {
            repeat_ms: 60 * MINUTE,
            ..Timing::default()
        };
        let mut world = World::new(timing);
        world.go(Truth::True, 125.0);
        let mut verdict = Verdict::of(Truth::True);
        verdict.acknowledged = true;
        world.look(&verdict, None, false);
        world.go(Truth::Holds, 300.0).go(Truth::False, 1.0);
        assert_eq!(
            world.events(),
            [
                (0, "opened"),
                (3_600, "reminder"),
                (7_200, "reminder"),
                (25_500, "resolved")
            ]
        );
    }

    #[test]
    fn a_silence_delays_and_what_is_over_by_then_is_never_told() {
        let silence = Some(Uuid::from_u128(9));
        let mut world = World::new(Timing::default());
        for _ in 0..10 {
            world.look(&Verdict::of(Truth::True), silence, false);
            world.now_ms += MINUTE;
        }
        assert!(world.said.is_empty());
        assert_eq!(world.stored.as_ref().unwrap().silenced_by, silence);
        world.go(Truth::True, 1.0);
        assert_eq!(world.events(), [(600, "opened")]);
        world.look(&Verdict::of(Truth::False), silence, false);
        world.go(Truth::False, 1.0);
        assert_eq!(world.events()[1], (660, "resolved"));

        let mut world = World::new(Timing::default());
        world.look(&Verdict::of(Truth::True), silence, false);
        world.look(&Verdict::of(Truth::False), silence, false);
        world.go(Truth::False, 60.0);
        assert!(world.said.is_empty());
    }

    #[test]
    fn no_data_says_nothing_until_it_lasts() {
        let mut world = World::new(Timing::default());
        world.go(Truth::True, 5.0).go(Truth::Unknown, 10.0);
        assert_eq!(world.said.len(), 1);
        world.go(Truth::Unknown, 10.0);
        assert_eq!(world.events()[1].1, "resolved");
        let facts = &world.stored.as_ref().unwrap().alert.facts;
        assert!(facts[0].value.contains("no data"));
    }

    #[test]
    fn what_ends_under_a_silence_is_told_to_those_who_heard_of_it() {
        let mut world = World::new(Timing::default());
        world.go(Truth::True, 1.0);
        let silence = Some(Uuid::from_u128(9));
        world.look(&Verdict::of(Truth::Holds), silence, false);
        world.look(&Verdict::of(Truth::False), silence, false);
        assert_eq!(world.events(), [(0, "opened"), (60, "resolved")]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_keeps_nothing_firing() {
        let timing = Timing {
            keep_firing_ms: MINUTE,
            ..Timing::default()
        };
        let mut world = World::new(timing);
        world.go(Truth::True, 1.0);
        world.now_ms += 1_000 * MINUTE;
        world.go(Truth::True, 1.0);
        world.now_ms = 2 * MINUTE;
        world.go(Truth::False, 5.0);
        assert_eq!(world.events(), [(0, "opened"), (180, "resolved")]);
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, i64, u8, bool)>> {
        // What is true, ms to the next look, silenced, and whether the process dies in this look.
        prop::collection::vec((0u8..5, 0i64..20 * MINUTE, 0u8..4, any::<bool>()), 1..200)
    }

    fn verdict(number: u8) -> Verdict {
        match number {
            0 | 1 => Verdict::of(Truth::True),
            2 => Verdict::of(Truth::False),
            3 => Verdict::of(Truth::Unknown),
            _ => Verdict::of(Truth::Holds),
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_openings_and_resolves_alternate(
            steps in steps(), for_ms in 0i64..10 * MINUTE, keep_firing_ms in 0i64..10 * MINUTE,
            repeat_ms in 0i64..2,
        ) {
            let repeat_ms = repeat_ms * 30 * MINUTE;
            let timing = Timing { for_ms, keep_firing_ms, repeat_ms };
            let (mut world, mut crashing) = (World::new(timing), World::new(timing));
            for (truth, wait_ms, silence, crashes) in steps {
                let silence = (silence == 0).then(|| Uuid::from_u128(7));
                world.look(&verdict(truth), silence, false);
                // Dies before the commit any number of times, then does the step again.
                if crashes {
                    crashing.look(&verdict(truth), silence, true);
                }
                crashing.look(&verdict(truth), silence, false);
                world.now_ms += wait_ms;
                crashing.now_ms += wait_ms;
            }
            prop_assert_eq!(&world.said, &crashing.said, "a crash changes nothing");
            let mut open: Option<Uuid> = None;
            for (_, id, event) in &world.said {
                match event {
                    Event::Opened => {
                        prop_assert_eq!(open, None, "two openings without a resolve between");
                        open = Some(*id);
                    }
                    Event::Flapping => {
                        prop_assert!(open.is_none() || open == Some(*id));
                        open = Some(*id);
                    }
                    Event::Reminder => prop_assert_eq!(open, Some(*id)),
                    Event::Resolved => {
                        prop_assert_eq!(open, Some(*id), "a resolve without its opening");
                        open = None;
                    }
                    Event::Test => prop_assert!(false),
                }
            }
        }
    }
}
