//! Slower since a deployment?
//!
//! Looked at three times, when there is more and more to see: a bad regression is found within minutes, a small one
//! when it can be. Each look costs a third of the false alarms allowed.

use super::{Comparison, Limits, Slot, Verdict, Why, compare, side::Side};

/// What became of looking at an endpoint after a deployment.
// One of them lives at a time, for a moment: nothing is saved by an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Debug)]
pub enum Look {
    /// Not enough to see yet; nothing was looked at.
    Wait,
    /// Looked: it has to be noted that one more look is done.
    Looked(Comparison),
    /// All looks are done.
    Over,
}

/// When a look is worth it: with so many requests in so many minutes. From 300 requests on a p99 may be claimed. The
/// minutes are for busy endpoints, which would otherwise have all looks behind them in the first minute, all at the
/// same burst.
const LOOKS: [(f64, i32); 3] = [(50.0, 3), (300.0, 8), (1000.0, 20)];

/// With less than six hours of requests before, what is usual is not known …
const MINUTES_MIN: usize = 360;

/// … and a percentile has to grow so many times: the slow phases of an endpoint that are not seen yet may be nearly
/// so slow. Less than all of a sudden, because a deployment is a reason to look.
const RATIO_UNKNOWN: f64 = 2.0;

/// `base`: the last day before it. `now`: since it, without the first two minutes, in which caches are cold.
/// `looks`: how many are done so far.
///
/// Where latency follows the time of the day, a day before says that very different latencies are usual, and smaller
/// regressions stay unseen. If several days are known, the same hours of these days and the last hour or two are the
/// better base: what is like now.
pub fn after_deployment(base: &[Slot], now: &[Slot], weight: f64, looks: u8) -> Look {
    let Some((requests, minutes)) = LOOKS.get(usize::from(looks)) else {
        return Look::Over;
    };
    let limits = Limits::after_deployment();
    let side = Side::new(now, super::weight(weight));
    if side.requests() < *requests || side.minutes(limits.slot_minutes) < *minutes {
        return Look::Wait;
    }
    let mut comparison = compare(base, now, weight, &limits);
    if let Verdict::Slower(claim) = comparison.verdict {
        let is_plain = claim.after_ns as f64 >= claim.before_ns as f64 * RATIO_UNKNOWN;
        if base.len() < MINUTES_MIN && !is_plain {
            let minutes = base.len();
            comparison.verdict = Verdict::Not(Why::ShortHistory { minutes });
        }
    }
    Look::Looked(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regression::tests::slots;

    #[test]
    fn waits_then_looks_three_times_then_is_over() {
        let base = slots(0, 100, &[100; 20]);
        let look = |minutes: usize, per_minute: usize, looks: u8| {
            let now = slots(100, minutes, &vec![100; per_minute]);
            after_deployment(&base, &now, 1.0, looks)
        };
        assert_eq!(look(2, 100, 0), Look::Wait);
        assert_eq!(look(3, 16, 0), Look::Wait);
        assert!(matches!(look(3, 17, 0), Look::Looked(_)));
        assert_eq!(look(7, 100, 1), Look::Wait);
        assert!(matches!(look(8, 100, 1), Look::Looked(_)));
        assert_eq!(look(20, 49, 2), Look::Wait);
        assert!(matches!(look(20, 50, 2), Look::Looked(_)));
        assert_eq!(look(20, 50, 3), Look::Over);
    }

    #[test]
    fn recorded_requests_are_waited_for_not_those_they_stand_for() {
        let base = slots(0, 100, &[100; 20]);
        let now = slots(100, 3, &[100; 100]);
        assert_eq!(after_deployment(&base, &now, 10.0, 0), Look::Wait);
    }
}
