//! Deployments are noticed by the versions that spans carry: another version answers than did before.
//!
//! ```text
//! 1.0  ████████████████████          ██████      a rollback is one, too
//! 1.1                 ██████████████             a canary counts from its first request on
//!                     ^              ^
//! 1.0  ██████   (night)   ██████                 silence is none
//! ```

use std::collections::BTreeMap;

use crate::store::deployments::{Known, Seen, VersionMinutes};
use crate::store::dictionaries::OTHER;
use crate::store::leases::Lease;
use crate::store::{Store, StoreError};

/// A version that did not answer for so long, and then does, has come (again), minutes: a bad one is taken back within
/// some minutes. That it is not chance is asked besides ([`CHANCE_LN`]).
const SILENT_MINUTES: i32 = 3;

/// How far back a first request may lie: what was delayed for longer by exporters, queues or an outage
/// does not change the past any more, because people and comparisons have relied on it.
const LATE_MINUTES: i32 = 15;

/// Which version was before is asked of so many minutes: whoever has not answered since is not "before".
const BEFORE_MINUTES: i32 = 24 * 60;

/// Two of one version within so many minutes are one: late requests have moved its beginning.
const SAME_MINUTES: i32 = 30;

/// Told once, a version may take so long until its first request, minutes: a pipeline says it at its end,
/// a pipeline with stages hours before.
const TOLD_MINUTES: i32 = 6 * 60;

/// Deployments noticed of one service within an hour. Whoever has more gives each pod or each commit a version:
/// further ones are not noted until the hour has passed, and comparisons lose nothing, because each would be of a
/// few requests.
const PER_HOUR_MAX: usize = 10;

/// Versions looked at more closely in one look, each with a question of its own. Others wait for the next look.
const CANDIDATES_MAX: usize = 50;

/// Two versions that answer side by side, one of them rarely, must not be seen as coming and going: that a
/// version's silence is chance has to be less probable than e to the minus this (1 in 1,000).
const CHANCE_LN: f64 = 6.9;

/// A version of a service that began to answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    service_id: i32,
    version: String,
    /// Of its first request.
    minute: i32,
}

/// Notes deployments that began since the last look; returns their ids. Idempotent: whatever was noted
/// already, also by another process, is not noted again.
///
/// # Errors
/// [`StoreError::LeaseLost`] if another process reviews; or Postgres failed.
pub async fn notice(store: &Store, lease: &Lease, now_ms: i64) -> Result<Vec<i32>, StoreError> {
    let now = i32::try_from(now_ms.div_euclid(60_000)).unwrap_or(i32::MAX - 1);
    let from = now - LATE_MINUTES - SILENT_MINUTES;
    let recent = store.version_minutes(from, now + 1).await?;
    let mut seen = Vec::new();
    for candidate in appeared(&recent, now).into_iter().take(CANDIDATES_MAX) {
        let known = store.known_deployments(candidate.service_id).await?;
        let noted = seen.iter().map(known_of(candidate.service_id));
        if !is_new(&candidate, &known, noted.flatten().count()) {
            continue;
        }
        let before = store
            .service_version_minutes(
                candidate.service_id,
                candidate.minute - BEFORE_MINUTES,
                candidate.minute,
            )
            .await?;
        if let Some(previous) = previous(&candidate, &before) {
            seen.push(Seen {
                service_id: candidate.service_id,
                version: candidate.version,
                previous,
                minute: candidate.minute,
            });
        }
    }
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    store.note_deployments(lease, &seen).await
}

fn known_of(service_id: i32) -> impl Fn(&Seen) -> Option<()> {
    move |it| (it.service_id == service_id).then_some(())
}

/// The versions that answer and had not for [`SILENT_MINUTES`]: all their beginnings that are recent enough.
fn appeared(recent: &[VersionMinutes], now: i32) -> Vec<Candidate> {
    let mut minutes: BTreeMap<(i32, &str), Vec<i32>> = BTreeMap::new();
    for it in recent {
        let key = (it.service_id, &*it.version);
        minutes.entry(key).or_default().push(it.minute);
    }
    let mut appeared = Vec::new();
    for ((service_id, version), mut minutes) in minutes {
        if version == OTHER {
            continue;
        }
        minutes.sort_unstable();
        let begins = |at: usize| {
            at.checked_sub(1)
                .is_none_or(|before| minutes[at] - minutes[before] > SILENT_MINUTES)
        };
        let beginnings = (0..minutes.len())
            .filter(|at| begins(*at))
            .map(|at| minutes[at]);
        let recent = beginnings.filter(|minute| *minute >= now - LATE_MINUTES);
        appeared.extend(recent.map(|minute| Candidate {
            service_id,
            version: version.to_owned(),
            minute,
        }));
    }
    // The oldest first: where not all of them are noted, those are.
    appeared.sort_by_key(|it| it.minute);
    appeared
}

/// It is not noted yet, and there is room. `noted` of the service are about to be.
fn is_new(candidate: &Candidate, known: &[Known], noted: usize) -> bool {
    let at_ms = i64::from(candidate.minute) * 60_000;
    let within = |it: &Known, minutes: i32| {
        it.version == candidate.version && (it.at_ms - at_ms).abs() <= i64::from(minutes) * 60_000
    };
    let before = known
        .iter()
        .filter(|it| it.at_ms <= at_ms)
        .max_by_key(|it| it.at_ms);
    let after = known
        .iter()
        .filter(|it| it.at_ms > at_ms)
        .min_by_key(|it| it.at_ms);
    let told = |it: &Known| it.source == "told" && within(it, TOLD_MINUTES);
    if before.is_some_and(|it| within(it, SAME_MINUTES) || told(it))
        || after.is_some_and(|it| within(it, SAME_MINUTES))
    {
        return false;
    }
    let in_hour = known
        .iter()
        .filter(|it| it.source == "seen" && (it.at_ms - at_ms).abs() < 3_600_000);
    in_hour.count() + noted < PER_HOUR_MAX
}

/// The version that most requests were of when the service last answered; `None` if it is no
/// deployment: there was nothing before, or the same version.
fn previous(candidate: &Candidate, before: &[VersionMinutes]) -> Option<String> {
    let last = |it: &VersionMinutes| (it.minute + it.width - 1).min(candidate.minute - 1);
    let latest = before.iter().map(last).max()?;
    let mut answering: BTreeMap<&str, i64> = BTreeMap::new();
    for it in before {
        if last(it) > latest - SILENT_MINUTES {
            *answering.entry(&it.version).or_default() += it.requests;
        }
    }
    if answering.contains_key(&*candidate.version) || is_chance(&candidate.version, before) {
        return None;
    }
    let most = answering.into_iter().max_by_key(|it| it.1)?.0;
    Some(if most == OTHER { "" } else { most }.to_owned())
}

/// The version answers all the time, only so rarely that it was not its turn for a while.
fn is_chance(version: &str, before: &[VersionMinutes]) -> bool {
    /// Nobody answers everything: with one request in between nothing is known yet.
    const SHARE_MAX: f64 = 0.95;
    let own = || before.iter().filter(|it| it.version == version);
    let (Some(first), Some(last)) = (
        own().map(|it| it.minute).min(),
        own().map(|it| it.minute + it.width - 1).max(),
    ) else {
        return false;
    };
    let sum = |minutes: std::ops::RangeInclusive<i32>| -> i64 {
        let within = before.iter().filter(|it| minutes.contains(&it.minute));
        within.map(|it| it.requests).sum()
    };
    let requests: i64 = own().map(|it| it.requests).sum();
    let share = requests as f64 / sum(first..=last).max(1) as f64;
    let others = sum(last + 1..=i32::MAX);
    others as f64 * -(1.0 - share.min(SHARE_MAX)).ln() < CHANCE_LN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1.0` of service 1 answers `requests` in each of the minutes.
    fn answers(
        version: &str,
        minutes: impl IntoIterator<Item = i32>,
        requests: i64,
    ) -> Vec<VersionMinutes> {
        let minute = |minute| VersionMinutes {
            service_id: 1,
            version: version.into(),
            minute,
            width: 1,
            requests,
        };
        minutes.into_iter().map(minute).collect()
    }

    /// What is noted at minute `now` of what happened, without anything known: version, minute, previous.
    fn noted(happened: &[Vec<VersionMinutes>], now: i32) -> Vec<(String, i32, String)> {
        let all: Vec<VersionMinutes> = happened.concat();
        let recent: Vec<VersionMinutes> = all
            .iter()
            .filter(|it| (now - LATE_MINUTES - SILENT_MINUTES..=now).contains(&it.minute))
            .cloned()
            .collect();
        let mut noted = Vec::new();
        for it in appeared(&recent, now) {
            let before: Vec<VersionMinutes> = all
                .iter()
                .filter(|row| (it.minute - BEFORE_MINUTES..it.minute).contains(&row.minute))
                .cloned()
                .collect();
            if let Some(previous) = previous(&it, &before) {
                noted.push((it.version, it.minute, previous));
            }
        }
        noted
    }

    fn one(version: &str, minute: i32, previous: &str) -> Vec<(String, i32, String)> {
        vec![(version.into(), minute, previous.into())]
    }

    #[test]
    fn another_version_is_a_deployment_and_the_first_one_is_none() {
        let old = answers("1.0", 5_000..5_100, 60);
        assert_eq!(noted(std::slice::from_ref(&old), 5_005), []);
        let new = answers("1.1", 5_098..5_110, 60);
        let both = [old, new];
        assert_eq!(noted(&both, 5_098), one("1.1", 5_098, "1.0"));
        assert_eq!(
            noted(&both, 5_109),
            one("1.1", 5_098, "1.0"),
            "as late as that"
        );
        assert_eq!(noted(&both, 5_114), [], "the past stays as it is");
    }

    #[test]
    fn a_canary_counts_from_its_first_request_and_a_rollback_is_one() {
        let canary = [
            answers("1.0", 5_000..5_200, 60),
            answers("1.1", [5_100, 5_104, 5_109], 1),
        ];
        assert_eq!(noted(&canary, 5_110), one("1.1", 5_100, "1.0"));
        let rollback = [
            answers("1.0", (5_000..5_100).chain(5_130..5_140), 60),
            answers("1.1", 5_099..5_131, 60),
        ];
        assert_eq!(noted(&rollback, 5_135), one("1.0", 5_130, "1.1"));
        // The bad one was noticed at once, and taken back after five minutes.
        let soon = [
            answers("1.0", (5_000..5_100).chain(5_105..5_120), 60),
            answers("1.1", 5_099..5_106, 60),
        ];
        assert_eq!(noted(&soon, 5_107)[1..], one("1.0", 5_105, "1.1"));
    }

    #[test]
    fn silence_is_no_deployment() {
        let over_night = answers("1.0", (5_000..5_100).chain(5_700..5_710), 60);
        assert_eq!(noted(std::slice::from_ref(&over_night), 5_705), []);
        // 1.0 answered within the day, but was replaced before the night.
        let replaced = [
            answers("1.0", 5_000..5_050, 60),
            answers("1.1", (5_050..5_100).chain(5_700..5_710), 60),
        ];
        assert_eq!(noted(&replaced, 5_705), []);
        let replaced_over_night = [
            answers("1.0", 5_000..5_050, 60),
            answers("1.1", 5_700..5_710, 60),
        ];
        assert_eq!(noted(&replaced_over_night, 5_705), one("1.1", 5_700, "1.0"));
        let long_ago = [
            answers("1.0", 5_000..5_050, 60),
            answers("1.1", 8_000..8_010, 60),
        ];
        assert_eq!(noted(&long_ago, 8_005), []);
    }

    #[test]
    fn two_versions_side_by_side_do_not_come_and_go_by_chance() {
        let rare = answers("1.1", (5_000..5_400).step_by(20), 1);
        let often = answers("1.0", (4_990..5_400).step_by(2), 1);
        assert_eq!(noted(&[rare.clone(), often], 5_382), []);
        // Without requests in between it would have been its turn.
        let busy = answers("1.0", 5_005..5_400, 500);
        let gone = answers("1.1", (5_000..5_005).chain(5_382..5_390), 500);
        assert_eq!(noted(&[gone, busy], 5_382), one("1.1", 5_382, "1.0"));
    }

    #[test]
    fn what_has_no_version_counts_beside_others_only() {
        let none = answers("", 5_000..5_100, 60);
        assert_eq!(noted(std::slice::from_ref(&none), 5_005), []);
        let named = answers("1.0", 5_100..5_110, 60);
        assert_eq!(noted(&[none.clone(), named], 5_105), one("1.0", 5_100, ""));
        let many = answers(OTHER, 5_100..5_110, 60);
        assert_eq!(noted(&[none, many], 5_105), []);
    }

    fn known(version: &str, minute: i32, source: &str) -> Known {
        Known {
            version: version.into(),
            at_ms: i64::from(minute) * 60_000,
            source: source.into(),
        }
    }

    fn candidate(minute: i32) -> Candidate {
        Candidate {
            service_id: 1,
            version: "1.1".into(),
            minute,
        }
    }

    #[test]
    fn a_deployment_is_noted_once() {
        let noted = [known("1.0", 4_990, "seen"), known("1.1", 5_000, "seen")];
        assert!(!is_new(&candidate(5_000), &noted, 0));
        assert!(!is_new(&candidate(4_996), &noted, 0), "late requests");
        assert!(is_new(&candidate(5_040), &noted, 0), "gone for a while");
        let back = [&noted[..], &[known("1.0", 5_012, "seen")]].concat();
        assert!(is_new(&candidate(5_024), &back, 0), "there and back");
        let told = [known("1.1", 4_800, "told")];
        assert!(!is_new(&candidate(5_000), &told, 0));
    }

    #[test]
    fn a_version_per_pod_is_not_noted_without_end() {
        let many: Vec<Known> = (0..7)
            .map(|it| known(&format!("pod-{it}"), 4_990, "seen"))
            .collect();
        assert!(is_new(&candidate(5_000), &many, 2));
        assert!(!is_new(&candidate(5_000), &many, 3));
        assert!(is_new(&candidate(5_060), &many, 3));
    }
}
