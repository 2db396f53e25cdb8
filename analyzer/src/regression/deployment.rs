//! Slower since a deployment?
//!
//! Looked at three times, when there is more and more to see: a bad regression is found within minutes, a small one
//! when it can be. Each look costs a third of the false alarms allowed.

use super::{Comparison, Limits, Slot, compare, side::Side};

/// What became of looking at an endpoint after a deployment.
#[derive(Clone, PartialEq, Debug)]
pub enum Look {
    /// Not enough to see yet; nothing was looked at.
    Wait,
    /// Looked: it has to be noted that one more look is done.
    Looked(Comparison),
    /// All looks are done.
    Over,
}

/// When a look is worth it: with so many requests in so many minutes. The minutes are for busy endpoints, which would
/// otherwise have all looks behind them in the first minute, all at the same burst.
const LOOKS: [(f64, i32); 3] = [(50.0, 3), (200.0, 8), (1000.0, 20)];

/// `base`: the last day before it. `now`: since it, without the first two minutes, in which caches are cold.
/// `looks`: how many are done so far.
pub fn after_deployment(base: &[Slot], now: &[Slot], weight: f64, looks: u8) -> Look {
    let Some((requests, minutes)) = LOOKS.get(usize::from(looks)) else {
        return Look::Over;
    };
    let limits = Limits::after_deployment();
    let side = Side::new(now, super::weight(weight));
    if side.requests() < *requests || side.minutes(limits.slot_minutes) < *minutes {
        return Look::Wait;
    }
    Look::Looked(compare(base, now, weight, &limits))
}
