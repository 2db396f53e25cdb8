//! Which minutes are compared with which.

use analyzer::regression::Slot;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::bottlenecks::Minutes;
use crate::store::regressions::Slots;

/// Minutes of a day.
pub const DAY: i32 = 24 * 60;

/// A minute is complete so long after its end, ms: traces become final up to half a minute late.
const COMPLETE_AFTER_MS: i64 = 30_000;

/// The past of a deployment: so many requests, the latest ones, ...
const BASE_REQUESTS: i64 = 5_000;

/// ... over at least six hours: with less, one does not know how it varies by itself, and more has to be asked of a
/// claim. Not the whole day: where every day has its peak, that hides much.
const BASE_MINUTES_MIN: i32 = 360;

/// The first minute that is not complete yet.
pub fn complete_until(now_ms: i64) -> i32 {
    ((now_ms - COMPLETE_AFTER_MS).max(0) / 60_000) as i32
}

/// The minute of a time.
pub fn minute_of(ms: i64) -> i32 {
    (ms.max(0) / 60_000) as i32
}

/// Of these slots the ones of one version, or of all versions together, in order of time, without the times in
/// which the endpoint was known to be slow.
pub fn of_version(
    slots: &Slots,
    version_id: Option<i32>,
    minutes: Minutes,
    slow: &[Range<i64>],
) -> Vec<Slot> {
    let mut by_minute: BTreeMap<i32, Slot> = BTreeMap::new();
    for ((minute, version), slot) in slots.range((minutes.from, i32::MIN)..(minutes.to, i32::MIN)) {
        let ms = i64::from(*minute) * 60_000;
        let is_wanted = version_id.is_none_or(|it| it == *version);
        if !is_wanted || slow.iter().any(|it| it.contains(&ms)) {
            continue;
        }
        match by_minute.get_mut(minute) {
            None => {
                by_minute.insert(*minute, slot.clone());
            }
            Some(sum) => {
                sum.errors += slot.errors;
                sum.latency.merge(&slot.latency);
            }
        }
    }
    by_minute.into_values().collect()
}

/// These slots without the times in which it was known to be slow, ms since the epoch.
pub fn well(mut slots: Vec<Slot>, slow: &[Range<i64>]) -> Vec<Slot> {
    slots.retain(|it| {
        let ms = i64::from(it.minute) * 60_000;
        !slow.iter().any(|slow| slow.contains(&ms))
    });
    slots
}

/// The latest of these slots that are enough for a comparison.
pub fn latest(slots: Vec<Slot>) -> Vec<Slot> {
    let mut requests = 0;
    let last = slots.last().map_or(0, |it| it.minute);
    let needed = slots.iter().rev().take_while(|slot| {
        let is_needed = requests < BASE_REQUESTS || last - slot.minute < BASE_MINUTES_MIN;
        requests += slot.latency.count();
        is_needed
    });
    let needed = needed.count();
    let first = slots.len() - needed;
    slots.into_iter().skip(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(minute: i32, requests: i64) -> Slot {
        let mut slot = Slot {
            minute,
            ..Slot::default()
        };
        slot.latency.record(1_000_000, requests);
        slot
    }

    #[test]
    fn the_past_is_six_hours_and_enough_requests() {
        let minutes = |slots: Vec<Slot>| latest(slots).first().map(|it| it.minute);
        let busy: Vec<Slot> = (0..600).map(|it| slot(it, 1_000)).collect();
        assert_eq!(minutes(busy), Some(240));
        let quiet: Vec<Slot> = (0..1_000).map(|it| slot(it, 10)).collect();
        assert_eq!(minutes(quiet), Some(500));
        assert_eq!(minutes((0..50).map(|it| slot(it, 10)).collect()), Some(0));
        assert_eq!(minutes(Vec::new()), None);
    }

    #[test]
    fn versions_are_told_apart_and_slow_times_left_out() {
        let slots = Slots::from([
            ((1, 7), slot(1, 10)),
            ((1, 8), slot(1, 5)),
            ((2, 7), slot(2, 1)),
            ((3, 8), slot(3, 2)),
        ]);
        let counts = |version, slow: &[Range<i64>]| -> Vec<(i32, i64)> {
            let minutes = Minutes { from: 1, to: 3 };
            let slots = of_version(&slots, version, minutes, slow);
            slots
                .iter()
                .map(|it| (it.minute, it.latency.count()))
                .collect()
        };
        let slow = 100_000..200_000;
        assert_eq!(counts(None, &[]), [(1, 15), (2, 1)]);
        assert_eq!(counts(Some(7), &[]), [(1, 10), (2, 1)]);
        assert_eq!(counts(Some(7), std::slice::from_ref(&slow)), [(1, 10)]);
    }

    #[test]
    fn a_minute_is_complete_half_a_minute_after_its_end() {
        assert_eq!(complete_until(120_000 + 29_999), 1);
        assert_eq!(complete_until(120_000 + 30_000), 2);
        assert_eq!(complete_until(0), 0);
    }
}
