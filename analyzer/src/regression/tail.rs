//! Do more requests than chance allows take longer than nearly all did before?
//!
//! ```text
//! before   ·  · ··· ···· ·· · · ·   |  ·        the share q is left of the threshold T
//! now      ·  · ··· ··· ·· ·  ·     | ···  ·    how many are right of it?
//! ```
//!
//! An exceedance test: the number K of new requests above the r-th smallest old one has a negative hypergeometric
//! distribution if both are alike, whatever latencies look like. Nothing is assumed, and that T itself is only known
//! from a sample is part of it.
//!
//! Sketches know requests by bin. T is the upper edge of the r-th one's bin, so requests of that bin are never above
//! it, while the level stays that of the exact rank r: K can only be smaller than with the durations themselves, so
//! false alarms get rarer. It costs the requests in a bin 2.2 % wide: of a thousand lognormal ones not one above the
//! p99. Taking the rank of the edge for r instead would get them back, but that rank was chosen by looking at the
//! requests, and where most share a few bins it would not keep the level.

use super::bursts::{self, DesignEffect};
use super::ladder::Rung;
use super::probability::exceedances_at_least;
use super::side::Side;
use super::{Claim, Limits, TailTest, Why};
use crate::sketch::Sketch;

/// More requests than this on a side count as so many: beyond it the differences of ln n! lose digits, and with a
/// million requests any difference that passes the gate of its size is far beyond chance.
const REQUESTS_MAX: f64 = 1e6;

/// The test at one percentile, and whether it may be claimed. `level`: the most that p may be.
pub(super) fn test(
    rung: Rung,
    base: &Side<'_>,
    now: &Side<'_>,
    limits: &Limits,
    level: f64,
) -> (TailTest, DesignEffect, Result<Claim, Why>) {
    let (n0, n1) = (base.requests(), now.requests());
    let rank = (rung.quantile * n0).ceil().max(1.0);
    let threshold = base.counts.bin_of_rank(rank).unwrap_or(0);
    let is_above = |bin: u16| f64::from(u8::from(bin > threshold));
    let (before, since) = (base.scored(is_above), now.scored(is_above));

    let base_share = base.counts.above(threshold) / base.counts.total;
    let variance = base_share * (1.0 - base_share);
    let effect = bursts::design_effect(&before, &since, variance, limits.slot_minutes);
    let null = Null {
        quantile: rung.quantile,
        base: n0 / effect.base,
        worth: 1.0 / effect.now,
    };
    let above = now.counts.above(threshold);
    let p_value = null.at_least(above.floor(), n1);
    let slots = since.iter().filter(|it| it.score > 0.0).count();
    let test = TailTest {
        quantile: rung.quantile,
        threshold_ns: Sketch::edges_ns(threshold).1,
        above: above as i64,
        expected: n1 * (n0 - rank + 1.0) / (n0 + 1.0),
        p_value,
        slots,
    };

    let claim = Claim {
        quantile: rung.quantile,
        before_ns: base.counts.quantile_ns(rung.quantile),
        after_ns: now.counts.quantile_ns(rung.quantile),
        p_value,
    };
    let decide = || {
        if !limits.is_large(claim.quantile, claim.before_ns, claim.after_ns) {
            return Err(Why::SmallEffect {
                quantile: claim.quantile,
                before_ns: claim.before_ns,
                after_ns: claim.after_ns,
            });
        }
        if p_value > level {
            return Err(Why::Chance { p_value, level });
        }
        if slots < limits.slots_min {
            return Err(Why::FewSlots {
                needed: limits.slots_min,
                have: slots,
            });
        }
        let rest = bursts::without_worst(&since, limits.worst_slots, base_share);
        let p_value = null.at_least(rest.score.floor(), rest.requests.floor());
        if p_value > limits.alpha_without_worst {
            return Err(Why::Lumps { p_value });
        }
        bursts::is_record(&before, &since, now.minutes(limits.slot_minutes))
    };
    let outcome = decide().map(|()| claim);
    (test, effect, outcome)
}

/// What is expected if nothing changed.
struct Null {
    quantile: f64,
    /// Independent requests before.
    base: f64,
    /// Independent requests that one now is worth, at most 1.
    worth: f64,
}

impl Null {
    /// How probable at least `above` of `requests` are.
    fn at_least(&self, above: f64, requests: f64) -> f64 {
        let n0 = self.base.clamp(1.0, REQUESTS_MAX).floor();
        let n1 = requests * self.worth;
        let worth = self.worth * (REQUESTS_MAX / n1).min(1.0);
        // Rounded to the side on which less is claimed.
        let n1 = (requests * worth).ceil();
        let above = (above * worth).floor();
        let rank = (self.quantile * n0).ceil().clamp(1.0, n0);
        exceedances_at_least(above, n0, rank, n1)
    }
}
