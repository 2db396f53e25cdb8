//! Which real requests stand on a chart of latencies: of each slot one in the middle and a slow one.

use collector::store::exemplars::Candidate;
use std::ops::Range;

use crate::line_chart::Request;
use crate::slots::Slots;

/// Slots at most: two dots each are about as many as can be hit with a finger.
pub const SLOTS_MAX: i32 = 18;

/// The times of the slots that have requests, and their places among `slots`.
pub fn times(slots: &Slots) -> (Vec<usize>, Vec<Range<i64>>) {
    let ns = |slot| i64::try_from(slots.start_ns(slot)).unwrap_or(i64::MAX);
    let all = 0..slots.sums.len();
    all.filter(|slot| slots.sums[*slot].requests > 0)
        .map(|slot| (slot, ns(slot)..ns(slot + 1)))
        .unzip()
}

/// Of the `candidates`, whose slots are those of `places`, the one nearest to the slot's median and the
/// longest.
pub fn choose(slots: &Slots, places: &[usize], candidates: &[Candidate]) -> Vec<Request> {
    let mut chosen = Vec::new();
    for of_slot in candidates.chunk_by(|a, b| a.slot == b.slot) {
        let Some(sum) = places
            .get(of_slot[0].slot)
            .and_then(|it| slots.sums.get(*it))
        else {
            continue;
        };
        let median = sum.latency.quantile(0.5).unwrap_or_default();
        let median = i64::try_from(median).unwrap_or(i64::MAX);
        let ordinary = of_slot
            .iter()
            .min_by_key(|it| it.duration_ns.abs_diff(median));
        let slow = of_slot.iter().max_by_key(|it| it.duration_ns);
        let slow =
            slow.filter(|it| ordinary.is_some_and(|other| it.duration_ns > other.duration_ns));
        chosen.extend(ordinary.map(|it| request(it, false)));
        chosen.extend(slow.map(|it| request(it, true)));
    }
    chosen
}

fn request(it: &Candidate, is_slow: bool) -> Request {
    Request {
        start_ns: u64::try_from(it.start_ns).unwrap_or_default(),
        duration_ns: u64::try_from(it.duration_ns).unwrap_or_default(),
        error: it.error,
        is_slow,
        href: format!("/traces/{}?span={:016x}", it.trace_id.simple(), it.span_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::deltas::MinuteDelta;
    use collector::store::bottlenecks::Minutes;
    use std::collections::BTreeMap;

    const MS: i64 = 1_000_000;

    fn candidate(slot: usize, ms: i64) -> Candidate {
        Candidate {
            slot,
            trace_id: uuid::Uuid::from_u128(ms as u128),
            span_id: 255,
            start_ns: 60_000_000_000,
            duration_ns: ms * MS,
            error: false,
        }
    }

    #[test]
    fn one_in_the_middle_and_the_longest_of_each_slot() {
        let mut minutes: BTreeMap<i32, MinuteDelta> = BTreeMap::new();
        for (minute, ms) in [(0, 10), (0, 10), (0, 500), (3, 40)] {
            let sum = minutes.entry(minute).or_default();
            sum.requests += 1;
            sum.latency.record(ms * MS as u64, 1);
        }
        let slots = Slots::of(&minutes, Minutes { from: 0, to: 5 }, 4, SLOTS_MAX);
        let (places, times) = times(&slots);
        assert_eq!(places, [0, 3]);
        assert_eq!(times[1], 180_000_000_000..240_000_000_000);
        let candidates = [
            candidate(0, 500),
            candidate(0, 11),
            candidate(0, 2),
            candidate(1, 40),
            candidate(7, 1),
        ];
        let chosen = choose(&slots, &places, &candidates);
        let short: Vec<_> = chosen
            .iter()
            .map(|it| (it.duration_ns / MS as u64, it.is_slow))
            .collect();
        assert_eq!(short, [(11, false), (500, true), (40, false)]);
        assert_eq!(
            chosen[0].href,
            "/traces/0000000000000000000000000000000b?span=00000000000000ff"
        );
        assert!(choose(&slots, &places, &[]).is_empty());
    }
}
