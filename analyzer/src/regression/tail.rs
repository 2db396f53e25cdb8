//! Do more requests than chance allows take longer than nearly all did before?
//!
//! ```text
//! before   ·  · ··· ···· ·· · · ·   |  ·        the share q is left of the threshold T
//! now      ·  · ··· ··· ·· ·  ·     | ···  ·    how many are right of it?
//! ```
//!
//! An exceedance test: of n1 new requests the number K above the r-th smallest of n0 old ones has a negative
//! hypergeometric distribution if both are alike, whatever latencies look like. Nothing is assumed, and that T itself
//! is only known from a sample is part of it.
//!
//! The same distribution in other words: the share of requests above T is unknown, of a beta distribution with the
//! parameters n0 - r + 1 and r, and K is binomial with it (together: beta-binomial). That shows where bursts belong:
//! they make the share vary from stretch to stretch too, by as much as requests of a stretch are correlated before.
//! So it is multiplied with a log-normal factor of that variance. To count n1 requests as n1 / design effect instead
//! has the same variance, but not the long upper end that shares of bursty endpoints have: a burst that doubles
//! latency multiplies what is above the p99 by ten. In simulations it gave alarms by the dozen, and a wider beta
//! distribution still some.
//!
//! Sketches know requests by bin. T is the upper edge of the r-th one's bin, so requests of that bin are never above
//! it, while the level stays that of the exact rank r: K can only be smaller than with the durations themselves, so
//! false alarms get rarer. It costs the requests in a bin 2.2 % wide: of a thousand lognormal ones not one above the
//! p99. Taking the rank of the edge for r instead would get them back, but that rank was chosen by looking at the
//! requests, and where most share a few bins it would not keep the level.

use super::bursts::{self, DesignEffect};
use super::ladder::Rung;
use super::probability::{beta_binomial_at_least, normal_mean};
use super::side::Side;
use super::{Claim, Limits, TailTest, Why};
use crate::sketch::Sketch;

/// More requests than this now count as so many: with a hundred thousand any difference that is large enough to matter
/// is far beyond chance, and the time the exact sum takes grows with them.
const REQUESTS_MAX: f64 = 100_000.0;

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
    let (before, since) = (base.above(threshold), now.above(threshold));

    let base_share = base.counts.above(threshold) / base.counts.total;
    let variance = base_share * (1.0 - base_share);
    let minutes = now.minutes(limits.slot_minutes);
    let effect = bursts::design_effect(&before, &since, variance, limits.slot_minutes, minutes);
    let null = Null::new((n0 - rank + 1.0) / (n0 + 1.0), n0, n1, effect);
    let above = now.counts.above(threshold);
    let p_value = null.at_least(above.floor(), n1);
    let slots = since.iter().filter(|it| it.score > 0.0).count();
    let test = TailTest {
        quantile: rung.quantile,
        threshold_ns: Sketch::edges_ns(threshold).1,
        above: above as i64,
        expected: n1 * null.share,
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
        bursts::is_record(&before, &since, minutes)
    };
    let outcome = decide().map(|()| claim);
    (test, effect, outcome)
}

/// What is expected if nothing changed: the share of requests above the threshold is of a beta distribution, times
/// a log-normal factor for bursts.
struct Null {
    /// The mean of the share.
    share: f64,
    /// The sum of the beta distribution's parameters: n0 + 1 if requests before are independent.
    sum: f64,
    /// The standard deviation of the factor's logarithm.
    ln_deviation: f64,
}

impl Null {
    fn new(share: f64, n0: f64, n1: f64, effect: DesignEffect) -> Null {
        // Requests of a stretch with the share s, of variance v, have the correlation v / (s (1 - s)).
        let correlation = (effect.now - 1.0) / (n1 - 1.0).max(1.0);
        let relative_variance = correlation * (1.0 - share) / share;
        Null {
            share,
            sum: ((n0 + 2.0) / effect.base - 1.0).max(2.0),
            ln_deviation: relative_variance.ln_1p().sqrt(),
        }
    }

    /// How probable at least `above` of `requests` are.
    fn at_least(&self, above: f64, requests: f64) -> f64 {
        let scale = (REQUESTS_MAX / requests.max(1.0)).min(1.0);
        // Rounded to the side on which less is claimed.
        let (above, requests) = ((above * scale).floor(), (requests * scale).ceil());
        let with_factor = |factor: f64| {
            let a = (self.share * factor).min(SHARE_MAX) * self.sum;
            beta_binomial_at_least(above, requests, a, self.sum - a)
        };
        let steady = with_factor(1.0);
        if self.ln_deviation <= 0.0 || steady > 0.5 {
            return steady;
        }
        let ln_mean = -0.5 * self.ln_deviation * self.ln_deviation;
        let bursty = normal_mean(|z| with_factor((z * self.ln_deviation + ln_mean).exp()));
        bursty.clamp(steady, 1.0)
    }
}

/// A share can be multiplied up to here; more than nearly all requests is not possible.
const SHARE_MAX: f64 = 0.95;
