//! A finding's life: which state follows, from what was seen of it and from what people say. Pure;
//! `store::findings` asks and writes.
//!
//! ```text
//! new ──a day──▶ open ◀─────────────── reopened, or its time of being ignored has ended
//!  │              │
//!  ├──────────────┼──▶ acknowledged, ignored        somebody says so
//!  └──────────────┴──▶ resolved                     not seen while there was traffic, or somebody says so
//!                         │
//!                         └──▶ regressed ──a day──▶ open       seen again
//! ```

use analyzer::wording;
use std::fmt::Write;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What came up or came back is news for so long.
const NEWS_MS: i64 = DAY_MS;

/// A finding that affected fewer traces may have been chance: it stays new until it is resolved.
const TRACES_MIN: i64 = 3;

/// So many affected requests must have been due before their absence means something: with 20
/// expected, none comes by chance once in 500 million times.
pub const EXPECTED_MIN: f64 = 20.0;

/// The same where it is unknown what share it affected: it affected every request, or it is not gone.
pub const REQUESTS_MIN: i64 = 100;

/// How long a finding is not seen before it is taken for resolved, unless told otherwise.
pub const RESOLVE_AFTER_MS: i64 = DAY_MS;

/// Two submissions of the same form name times that differ by the seconds between them.
const SAME_TIME_MS: i64 = MINUTE_MS;

/// Where a finding stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Seen for the first time within a day.
    New,
    /// It is there, and nobody has said anything.
    Open,
    /// Somebody knows and will see to it: nobody is told again.
    Acknowledged,
    /// Nobody wants to see it, for a while or for good.
    Ignored,
    /// It is gone, or somebody says so.
    Resolved,
    /// It was resolved, and came back within a day.
    Regressed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 6] = [
        State::New,
        State::Open,
        State::Acknowledged,
        State::Ignored,
        State::Resolved,
        State::Regressed,
    ];

    /// Those that a list shows unless it is asked for others.
    pub const SHOWN: [State; 4] = [
        State::New,
        State::Open,
        State::Acknowledged,
        State::Regressed,
    ];

    /// As it is stored, in addresses and in JSON.
    pub fn name(self) -> &'static str {
        [
            "new",
            "open",
            "acknowledged",
            "ignored",
            "resolved",
            "regressed",
        ][self as usize]
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// What is known of a finding's life. Times are ms since the epoch.
#[derive(Clone, PartialEq, Debug)]
pub struct Life {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since_ms: i64,
    /// When it was first seen.
    pub first_seen_ms: i64,
    /// When the latest request that shows it began.
    pub last_seen_ms: i64,
    /// Traces of late that show it.
    pub traces: i64,
    /// When somebody last reopened it.
    pub reopened_ms: Option<i64>,
    /// Until when it is ignored; none: until somebody says otherwise.
    pub ignored_until_ms: Option<i64>,
    /// The version that is said to have fixed it.
    pub resolved_in: Option<String>,
    /// What was said last.
    pub reason: String,
    /// Who said it; empty if nobody did.
    pub author: String,
    /// How often it came back.
    pub regressed: i32,
}

/// A change of state, to be written with a row in the audit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state that follows.
    pub to: State,
    /// What happened, in one word: `resolved`.
    pub action: &'static str,
    /// The rest of the sentence: `by itself after 26 h without it in 12,400 requests`.
    pub detail: String,
}

/// The requests of a finding's endpoint since it was last seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quiet {
    /// Requests, none of which shows it.
    pub requests: i64,
    /// Affected traces per request while it was there, 0 to 1; none if that is unknown.
    pub share: Option<f64>,
}

impl Quiet {
    /// There were so many that its absence means something.
    pub fn is_enough(&self) -> bool {
        match self.share {
            Some(share) => self.requests as f64 * share >= EXPECTED_MIN,
            None => self.requests >= REQUESTS_MIN,
        }
    }
}

/// Since when a finding's absence counts: since it was last seen, or reopened by somebody who knows
/// better.
pub fn absent_since_ms(life: &Life) -> i64 {
    life.last_seen_ms.max(life.reopened_ms.unwrap_or_default())
}

/// It was not seen for long enough to ask how much traffic there was meanwhile.
pub fn is_absent(life: &Life, resolve_after_ms: i64, now_ms: i64) -> bool {
    State::SHOWN.contains(&life.state) && now_ms - absent_since_ms(life) >= resolve_after_ms
}

/// What follows by itself. `quiet` is the traffic since [`absent_since_ms`], for those that
/// [`is_absent`] tells of.
pub fn by_itself(life: &Life, quiet: Option<Quiet>, now_ms: i64) -> Option<Step> {
    if let Some(quiet) = quiet.filter(Quiet::is_enough) {
        let detail = format!(
            "by itself after {} without it in {} requests",
            time(now_ms - absent_since_ms(life)),
            wording::thousands(quiet.requests.unsigned_abs())
        );
        return Some(Step {
            to: State::Resolved,
            action: "resolved",
            detail,
        });
    }
    let opened = |detail: &str| {
        Some(Step {
            to: State::Open,
            action: "opened",
            detail: detail.to_owned(),
        })
    };
    match life.state {
        State::New if now_ms - life.first_seen_ms > NEWS_MS && life.traces >= TRACES_MIN => {
            opened("a day after it was first seen")
        }
        State::Regressed if now_ms - life.since_ms > NEWS_MS => opened("a day after it came back"),
        State::Ignored if life.ignored_until_ms.is_some_and(|it| it <= now_ms) => {
            opened("again: it was ignored until now")
        }
        _ => None,
    }
}

/// Some requests that show a finding: of one version, within a few minutes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Slot {
    /// When these minutes begin.
    pub begin_ms: i64,
    /// Traces; what late spans took away is taken off.
    pub traces: i64,
    /// When those requests began that are known one by one.
    pub starts_ms: Vec<i64>,
    /// Their version; empty if they name none.
    pub version: String,
    /// When that version was first seen.
    pub version_seen_ms: i64,
}

/// Which requests can show that a finding is not fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixed {
    /// All that began after it was resolved.
    Everywhere,
    /// Of them those of versions that were first seen at this time or later: old pods may still run.
    SinceVersion(i64),
    /// Of them those that began at this time or later: the version was told, spans do not name it.
    SinceTime(i64),
    /// The version that fixes it was not seen yet: none.
    NotYet,
}

/// A finding that is back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relapse {
    /// When the earliest such request began, as far as it is known.
    pub at_ms: i64,
    /// Its version.
    pub version: String,
}

/// The first request that shows a finding after it was resolved at `resolved_ms`. Late spans of
/// earlier requests are none: what counts is when the request began.
pub fn relapse(slots: &[Slot], resolved_ms: i64, fixed: Fixed) -> Option<Relapse> {
    let (from_ms, version_from_ms) = match fixed {
        Fixed::Everywhere => (resolved_ms, i64::MIN),
        Fixed::SinceVersion(seen_ms) => (resolved_ms, seen_ms),
        Fixed::SinceTime(at_ms) => (resolved_ms.max(at_ms), i64::MIN),
        Fixed::NotYet => return None,
    };
    let counting = slots
        .iter()
        .filter(|it| it.traces > 0 && it.version_seen_ms >= version_from_ms);
    let first = counting.filter_map(|it| Some((first_start_ms(it, from_ms)?, it)));
    let (at_ms, slot) = first.min_by_key(|it| it.0)?;
    Some(Relapse {
        at_ms,
        version: slot.version.clone(),
    })
}

/// When the first request of the slot began that began at `from_ms` or later.
fn first_start_ms(slot: &Slot, from_ms: i64) -> Option<i64> {
    let known = slot.starts_ms.iter().copied().filter(|it| *it >= from_ms);
    // Within the minutes in which it was resolved only those tell that are known one by one.
    known
        .min()
        .or((slot.begin_ms >= from_ms).then_some(slot.begin_ms))
}

/// The step of a finding that is back, last seen at `last_seen_ms` before.
pub fn came_back(relapse: &Relapse, last_seen_ms: i64) -> Step {
    let mut detail = format!("after {}", time(relapse.at_ms - last_seen_ms));
    if !relapse.version.is_empty() {
        let _ = write!(detail, ", in version {}", relapse.version);
    }
    Step {
        to: State::Regressed,
        action: "regressed",
        detail,
    }
}

/// What somebody wants of a finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// What.
    pub kind: ActKind,
    /// Who; empty: unknown.
    pub author: String,
    /// Why; ignoring needs one.
    pub reason: String,
    /// Until when it is to be ignored, ms since the epoch.
    pub until_ms: Option<i64>,
    /// The version that fixes it.
    pub version: Option<String>,
}

/// What people can do to a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActKind {
    /// I know.
    Acknowledge,
    /// I do not want to see it.
    Ignore,
    /// It is fixed.
    Resolve,
    /// None of that.
    Reopen,
}

impl ActKind {
    /// All of them.
    pub const ALL: [ActKind; 4] = [
        ActKind::Acknowledge,
        ActKind::Ignore,
        ActKind::Resolve,
        ActKind::Reopen,
    ];

    /// As it stands in addresses.
    pub fn name(self) -> &'static str {
        ["acknowledge", "ignore", "resolve", "reopen"][self as usize]
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<ActKind> {
        ActKind::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The state it leads to.
    pub fn leads_to(self) -> State {
        [
            State::Acknowledged,
            State::Ignored,
            State::Resolved,
            State::Open,
        ][self as usize]
    }
}

/// Who acts without a name: an empty author is culprit itself.
pub const SOMEBODY: &str = "somebody";

/// What an act leads to; none if all is as it asks already (a form that was sent twice).
///
/// # Errors
/// It makes no sense in the finding's state: a sentence that says why and what to do.
pub fn follow(life: &Life, act: &Act, now_ms: i64) -> Result<Option<Step>, String> {
    let to = act.kind.leads_to();
    let stands = || Err(format!("It is {}: reopen it first.", life.state.name()));
    match (act.kind, life.state) {
        // These are as open as open.
        (ActKind::Reopen, State::New | State::Open | State::Regressed) => return Ok(None),
        (ActKind::Acknowledge, State::Ignored | State::Resolved)
        | (ActKind::Ignore, State::Resolved) => return stands(),
        _ => {}
    }
    if life.state == to && says_the_same(life, act) {
        return Ok(None);
    }
    let action = ["acknowledged", "ignored", "resolved", "reopened"][act.kind as usize];
    Ok(Some(Step {
        to,
        action,
        detail: said(act, now_ms),
    }))
}

/// `for 7 days: known, will be rewritten`, `in version 1.4`.
fn said(act: &Act, now_ms: i64) -> String {
    let mut parts = Vec::new();
    if let Some(until_ms) = act.until_ms {
        // A moment has passed since somebody chose seven days.
        parts.push(format!("for {}", time(until_ms - now_ms + SAME_TIME_MS)));
    }
    if let Some(version) = &act.version {
        parts.push(format!("in version {version}"));
    }
    if !act.reason.is_empty() {
        parts.push(act.reason.clone());
    }
    parts.join(": ")
}

fn says_the_same(life: &Life, act: &Act) -> bool {
    let same_time = match (life.ignored_until_ms, act.until_ms) {
        (Some(one), Some(other)) => (one - other).abs() < SAME_TIME_MS,
        (one, other) => one == other,
    };
    life.reason == act.reason
        && life.author == author(act)
        && same_time
        && life.resolved_in == act.version
}

/// The author as the audit has it.
pub fn author(act: &Act) -> &str {
    match act.author.as_str() {
        "" => SOMEBODY,
        author => author,
    }
}

/// A time in words, in the largest unit of which there are two: `90 s`, `26 h`, `12 days`.
pub fn time(ms: i64) -> String {
    let ms = ms.max(0);
    match ms {
        _ if ms < 2 * MINUTE_MS => format!("{} s", ms / 1_000),
        _ if ms < 2 * HOUR_MS => format!("{} min", ms / MINUTE_MS),
        _ if ms < 2 * DAY_MS => format!("{} h", ms / HOUR_MS),
        _ => format!("{} days", ms / DAY_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_185_128_000;

    fn life(state: State) -> Life {
        Life {
            state,
            since_ms: NOW - 40 * DAY_MS,
            first_seen_ms: NOW - 40 * DAY_MS,
            last_seen_ms: NOW - MINUTE_MS,
            traces: 50,
            reopened_ms: None,
            ignored_until_ms: None,
            resolved_in: None,
            reason: String::new(),
            author: String::new(),
            regressed: 0,
        }
    }

    fn absent(state: State) -> Life {
        Life {
            last_seen_ms: NOW - 26 * HOUR_MS,
            ..life(state)
        }
    }

    #[test]
    fn what_was_not_seen_in_enough_traffic_is_resolved() {
        let enough = Quiet {
            requests: 12_400,
            share: Some(0.002),
        };
        for state in State::SHOWN {
            assert!(is_absent(&absent(state), DAY_MS, NOW));
            let step = by_itself(&absent(state), Some(enough), NOW).unwrap();
            assert_eq!(
                (step.to, step.detail.as_str()),
                (
                    State::Resolved,
                    "by itself after 26 h without it in 12,400 requests"
                )
            );
        }
        for state in [State::Ignored, State::Resolved] {
            assert!(!is_absent(&absent(state), DAY_MS, NOW), "{state:?}");
        }
        assert!(!is_absent(&absent(State::Open), 27 * HOUR_MS, NOW));
    }

    #[test]
    fn too_little_traffic_proves_nothing() {
        for (requests, share, is_enough) in [
            (0, Some(1.0), false),
            (19, Some(1.0), false),
            (20, Some(1.0), true),
            (9_999, Some(0.002), false),
            (10_000, Some(0.002), true),
            (99, None, false),
            (100, None, true),
        ] {
            let quiet = Quiet { requests, share };
            assert_eq!(quiet.is_enough(), is_enough, "{quiet:?}");
            let step = by_itself(&absent(State::Open), Some(quiet), NOW);
            assert_eq!(step.is_some(), is_enough);
        }
    }

    #[test]
    fn who_reopens_it_knows_better() {
        let reopened = Life {
            reopened_ms: Some(NOW - HOUR_MS),
            ..absent(State::Open)
        };
        assert!(!is_absent(&reopened, DAY_MS, NOW));
        assert!(is_absent(&reopened, DAY_MS, NOW + 23 * HOUR_MS));
    }

    #[test]
    fn news_is_news_for_a_day() {
        let fresh = Life {
            first_seen_ms: NOW - 23 * HOUR_MS,
            ..life(State::New)
        };
        assert_eq!(by_itself(&fresh, None, NOW), None);
        let chance = Life {
            traces: 2,
            ..life(State::New)
        };
        assert_eq!(by_itself(&chance, None, NOW), None);
        assert_eq!(
            by_itself(&life(State::New), None, NOW).unwrap().to,
            State::Open
        );
        assert_eq!(
            by_itself(&life(State::Regressed), None, NOW).unwrap().to,
            State::Open
        );
        let back = Life {
            since_ms: NOW - HOUR_MS,
            ..life(State::Regressed)
        };
        assert_eq!(by_itself(&back, None, NOW), None);
    }

    #[test]
    fn ignoring_ends_with_its_time_if_it_has_one() {
        assert_eq!(by_itself(&life(State::Ignored), None, NOW), None);
        let until = |ms| Life {
            ignored_until_ms: Some(ms),
            ..life(State::Ignored)
        };
        assert_eq!(by_itself(&until(NOW + 1), None, NOW), None);
        assert_eq!(by_itself(&until(NOW), None, NOW).unwrap().to, State::Open);
    }

    fn slot(begin_ms: i64, starts_ms: &[i64], version: (&str, i64)) -> Slot {
        Slot {
            begin_ms,
            traces: 1,
            starts_ms: starts_ms.to_vec(),
            version: version.0.into(),
            version_seen_ms: version.1,
        }
    }

    #[test]
    fn requests_that_began_later_are_a_relapse() {
        let at = |it: Option<Relapse>| it.map(|it| it.at_ms);
        let before = slot(900, &[950, 990], ("1.0", 0));
        let all = Fixed::Everywhere;
        assert_eq!(
            relapse(std::slice::from_ref(&before), 1_000, all),
            None,
            "late spans"
        );
        let within = slot(900, &[950, 1_010], ("1.0", 0));
        assert_eq!(
            at(relapse(&[before.clone(), within], 1_000, all)),
            Some(1_010)
        );
        let after = slot(1_200, &[], ("1.0", 0));
        assert_eq!(
            at(relapse(std::slice::from_ref(&after), 1_000, all)),
            Some(1_200)
        );
        let taken_away = Slot { traces: 0, ..after };
        assert_eq!(relapse(&[taken_away], 1_000, all), None);
    }

    #[test]
    fn old_pods_are_no_relapse_of_what_a_version_fixed() {
        let old = slot(1_200, &[1_250], ("1.3", 10));
        let new = slot(1_300, &[1_310], ("1.5", 700));
        let both = [old.clone(), new];
        assert_eq!(
            relapse(&both, 1_000, Fixed::SinceVersion(500)),
            Some(Relapse {
                at_ms: 1_310,
                version: "1.5".into()
            })
        );
        let old = std::slice::from_ref(&old);
        assert_eq!(relapse(old, 1_000, Fixed::SinceVersion(500)), None);
        assert_eq!(relapse(&both, 1_000, Fixed::NotYet), None);
        assert_eq!(relapse(old, 1_000, Fixed::SinceTime(1_260)), None);
        assert!(relapse(old, 1_000, Fixed::SinceTime(1_100)).is_some());
    }

    #[test]
    fn what_comes_back_says_after_how_long_and_where() {
        let relapse = Relapse {
            at_ms: NOW,
            version: "1.4".into(),
        };
        let step = came_back(&relapse, NOW - 12 * DAY_MS - HOUR_MS);
        assert_eq!(step.detail, "after 12 days, in version 1.4");
        let nameless = Relapse {
            version: String::new(),
            ..relapse
        };
        assert_eq!(came_back(&nameless, NOW - 5_000).detail, "after 5 s");
    }

    fn act(kind: ActKind) -> Act {
        Act {
            kind,
            author: "ann".into(),
            reason: "known".into(),
            until_ms: None,
            version: None,
        }
    }

    #[test]
    fn every_act_in_every_state() {
        use ActKind::{Acknowledge, Ignore, Reopen, Resolve};
        let led = |kind, state| match follow(&life(state), &act(kind), NOW) {
            Ok(Some(step)) => step.to.name(),
            Ok(None) => "-",
            Err(_) => "refused",
        };
        let table: Vec<String> = State::ALL
            .into_iter()
            .map(|state| {
                let led = [Acknowledge, Ignore, Resolve, Reopen].map(|kind| led(kind, state));
                format!("{}: {}", state.name(), led.join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "new: acknowledged ignored resolved -",
                "open: acknowledged ignored resolved -",
                "acknowledged: acknowledged ignored resolved open",
                "ignored: refused ignored resolved open",
                "resolved: refused refused resolved open",
                "regressed: acknowledged ignored resolved -",
            ]
        );
    }

    #[test]
    fn saying_the_same_again_changes_nothing() {
        let ignored = Life {
            reason: "known".into(),
            author: "ann".into(),
            ignored_until_ms: Some(NOW),
            ..life(State::Ignored)
        };
        let mut again = Act {
            until_ms: Some(NOW + 900),
            ..act(ActKind::Ignore)
        };
        assert_eq!(follow(&ignored, &again, NOW), Ok(None));
        again.until_ms = Some(NOW + 7 * DAY_MS - 900);
        let step = follow(&ignored, &again, NOW).unwrap().unwrap();
        assert_eq!(step.detail, "for 7 days: known");
    }

    #[test]
    fn times_are_told_in_units_of_which_there_are_two() {
        let told = [0, 119_000, 120_000, 26 * HOUR_MS, 2 * DAY_MS].map(time);
        assert_eq!(told, ["0 s", "119 s", "2 min", "26 h", "2 days"]);
    }
}
