//! Did an endpoint become slower, or does it only look so?
//!
//! Requests before and requests now, by minute → an exact test of the tail, a rank test of the body, and guards
//! against what looks like a regression and is none → a decision with its numbers.
//!
//! Read in this order: this file, what is compared and decided; [`tail`](self::tail) and [`body`](self::body), the two
//! tests; [`bursts`](self::bursts), why a thousand requests say less than a thousand; then who asks when:
//! [`after_deployment`], [`sudden`], [`drift`], [`is_back`].

mod ladder;
mod side;
pub(crate) mod probability;
mod tail;
mod body;
mod bursts;
mod why;
mod deployment;
mod sudden;
mod drift;
mod recovery;
mod discoveries;
#[cfg(test)]
mod tests;

pub use deployment::{Look, after_deployment};
pub use discoveries::benjamini_hochberg;
pub use drift::{ChangePoint, drift};
pub use recovery::is_back;
pub use sudden::sudden;
pub use why::Why;

use crate::sketch::Sketch;
use ladder::LADDER;
use side::{Counts, Side};

/// One minute (or one hour, for statements) of an endpoint's requests.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Slot {
    /// Minutes since the epoch; the first one of an hour's slot.
    pub minute: i32,
    /// Failed requests, weighted.
    pub errors: i64,
    /// Latency of the requests, ns, weighted.
    pub latency: Sketch,
}

/// What it takes to claim a regression.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// False alarms allowed per comparison, all its tests together.
    pub alpha: f64,
    /// A tail percentile has to grow by this factor …
    pub ratio_min: f64,
    /// … and by so much, ns.
    pub added_ns_min: u64,
    /// The median, and the whole by the shift that fits it best, has to grow by this factor …
    pub body_ratio_min: f64,
    /// … and by so much, ns.
    pub body_added_ns_min: u64,
    /// In so many different slots requests have to be slow.
    pub slots_min: usize,
    /// So many of the worst slots are left out …
    pub worst_slots: usize,
    /// … and what is left still has to be so improbable by chance.
    pub alpha_without_worst: f64,
    /// On both sides there have to be so many requests.
    pub requests_min: i64,
    /// Minutes of a slot.
    pub slot_minutes: i32,
}

/// What is watched in a month, for "at most one false alarm in 30 days": 200 endpoints, ten deployments a day.
const COMPARISONS_A_MONTH: f64 = 200.0 * 10.0 * 30.0;

impl Limits {
    /// Of each of the three looks after a deployment.
    ///
    /// One false alarm among 60,000 endpoints after a deployment is 1.7e-5 for each, a third of it for each look;
    /// [`compare`] divides that again by its tests. No part may rely on another one, so they add up to the whole.
    pub fn after_deployment() -> Limits {
        Limits {
            alpha: 1.0 / COMPARISONS_A_MONTH / 3.0,
            ratio_min: 1.2,
            // What nobody notices is no incident: 20 ms more in the tail, 10 ms more always.
            added_ns_min: 20_000_000,
            body_ratio_min: 1.1,
            body_added_ns_min: 10_000_000,
            slots_min: 3,
            worst_slots: 2,
            alpha_without_worst: 0.01,
            requests_min: 20,
            slot_minutes: 1,
        }
    }

    /// Of the last minutes of an endpoint, asked every minute.
    ///
    /// 200 endpoints are asked 8.6 million times in 30 days. Windows of ten minutes that overlap are alike, so these
    /// are fewer chances than that; as if they were not, it is 1.2e-7 for each.
    pub fn sudden() -> Limits {
        Limits {
            alpha: 1.0 / (200.0 * 30.0 * 1440.0),
            ..Limits::after_deployment()
        }
    }

    /// Of a statement after a deployment, looked at once: ten statements an endpoint, slots of an hour. An hour has
    /// many requests and hours are few, so two are enough and one is left out.
    pub fn statement() -> Limits {
        Limits {
            alpha: 0.1 / COMPARISONS_A_MONTH,
            slots_min: 2,
            worst_slots: 1,
            slot_minutes: 60,
            ..Limits::after_deployment()
        }
    }

    /// The growth of a percentile (0.5: the median) is large enough to matter.
    fn is_large(&self, quantile: f64, before_ns: u64, after_ns: u64) -> bool {
        let (ratio_min, added_ns_min) = if quantile > 0.5 {
            (self.ratio_min, self.added_ns_min)
        } else {
            (self.body_ratio_min, self.body_added_ns_min)
        };
        after_ns.saturating_sub(before_ns) >= added_ns_min
            && after_ns as f64 >= before_ns as f64 * ratio_min
    }
}

/// Two sides, side by side.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// Requests before, not weighted.
    pub base_requests: i64,
    /// Requests now, not weighted.
    pub requests: i64,
    /// p99, p95, p90 and p50.
    pub quantiles: Vec<QuantileChange>,
    /// The tail's test: of the percentile that is claimed, else the least probable; `None` if there are too few requests.
    pub tail: Option<TailTest>,
    /// The body's test; `None` if there are too few requests.
    pub body: Option<BodyTest>,
    /// So many requests now say as much as one independent one, at least 1; of the test that decided.
    pub design_effect: f64,
    /// Requests per second, weighted, before and now.
    pub rates: (f64, f64),
    /// Share of failed requests, before and now.
    pub error_rates: (f64, f64),
    /// What follows.
    pub verdict: Verdict,
}

/// One percentile on both sides.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct QuantileChange {
    /// 0 to 1.
    pub quantile: f64,
    /// ns; 0 without requests.
    pub before_ns: u64,
    /// ns; 0 without requests.
    pub after_ns: u64,
    /// There are enough requests on both sides to speak of it.
    pub is_certain: bool,
}

/// How many requests are slower than nearly all were before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TailTest {
    /// "Nearly all": 0.99, 0.95 or 0.9.
    pub quantile: f64,
    /// They are not below this, ns.
    pub threshold_ns: u64,
    /// Requests now that are not below it.
    pub above: i64,
    /// So many were to be expected.
    pub expected: f64,
    /// How probable so many are by chance, bursts taken into account.
    pub p_value: f64,
    /// Different slots in which they came.
    pub slots: usize,
}

/// Whether requests are slower on the whole.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BodyTest {
    /// Mann and Whitney's statistic, standardised; positive: slower.
    pub z: f64,
    /// How probable so large a `z` is by chance.
    pub p_value: f64,
    /// The factor that fits best between requests now and before (Hodges and Lehmann's estimate).
    pub ratio: f64,
    /// What the median grew by, ns.
    pub added_ns: i64,
}

/// Slower or not.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// It is slower.
    Slower(Claim),
    /// It cannot be said that it is.
    Not(Why),
}

/// What is said to have grown.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Claim {
    /// 0.99, 0.95, 0.9 or 0.5: the highest that grew by its own test and that the requests of both sides carry.
    pub quantile: f64,
    /// ns
    pub before_ns: u64,
    /// ns
    pub after_ns: u64,
    /// How probable it is by chance.
    pub p_value: f64,
}

/// Compares requests before with requests now. Slots in any order; `weight`: how many requests a recorded one stands
/// for on average, at least 1 (head sampling). Weighted counts are divided by it, because a request that counts
/// a hundred times is still a single observation.
///
/// Every slot of `base` and `now` should be of the length in `limits`. Anything else gives an answer too: an odd
/// one, but no panic and no NaN.
pub fn compare(base: &[Slot], now: &[Slot], weight: f64, limits: &Limits) -> Comparison {
    let weight = self::weight(weight);
    let (base, now) = (Side::new(base, weight), Side::new(now, weight));
    let (before, requests) = (base.requests(), now.requests());
    let mut comparison = Comparison {
        base_requests: before as i64,
        requests: requests as i64,
        quantiles: quantiles(&base, &now),
        tail: None,
        body: None,
        design_effect: 1.0,
        rates: (
            base.rate(limits.slot_minutes),
            now.rate(limits.slot_minutes),
        ),
        error_rates: (base.error_rate(), now.error_rate()),
        verdict: Verdict::Not(Why::TooFewNow {
            needed: limits.requests_min,
            have: requests as i64,
        }),
    };
    // Without a single request there is no test at all.
    let requests_min = limits.requests_min.max(1);
    if (requests as i64) < requests_min {
        return comparison;
    }
    if (before as i64) < requests_min {
        comparison.verdict = Verdict::Not(Why::TooFewBefore {
            needed: limits.requests_min,
            have: before as i64,
        });
        return comparison;
    }

    let tails = LADDER.into_iter().filter(|it| it.quantile > 0.5);
    let tails: Vec<_> = tails.filter(|it| it.carries(before, requests)).collect();
    let level = limits.alpha / (tails.len() + 1) as f64;
    let mut decided: Option<Result<Claim, Why>> = None;
    for rung in tails {
        let (test, effect, outcome) = tail::test(rung, &base, &now, limits, level);
        let is_clearer = comparison.tail.is_none_or(|it| test.p_value < it.p_value);
        if comparison.tail.is_none() || outcome.is_ok() || is_clearer {
            comparison.tail = Some(test);
        }
        if is_further(decided, outcome) {
            decided = Some(outcome);
            comparison.design_effect = effect.now;
        }
        if outcome.is_ok() {
            break;
        }
    }
    let (test, effect, outcome) = body::test(&base, &now, limits, level);
    comparison.body = Some(test);
    if is_further(decided, outcome) {
        decided = Some(outcome);
        comparison.design_effect = effect.now;
    }
    comparison.verdict = match decided.unwrap_or(outcome) {
        Ok(claim) => Verdict::Slower(claim),
        Err(why) => Verdict::Not(why),
    };
    comparison
}

/// A claim is further than any reason against one, and the first claim stays.
fn is_further(decided: Option<Result<Claim, Why>>, outcome: Result<Claim, Why>) -> bool {
    let progress = |it: Result<Claim, Why>| it.map_or_else(|why| why.progress(), |_| u8::MAX);
    decided.is_none_or(|it| progress(outcome) > progress(it))
}

fn quantiles(base: &Side<'_>, now: &Side<'_>) -> Vec<QuantileChange> {
    let change = |rung: ladder::Rung| QuantileChange {
        quantile: rung.quantile,
        before_ns: base.counts.quantile_ns(rung.quantile),
        after_ns: now.counts.quantile_ns(rung.quantile),
        is_certain: rung.carries(base.requests(), now.requests()),
    };
    LADDER.map(change).to_vec()
}

/// Some percentile grew enough to matter. If not, [`compare`] claims nothing either; this is the cheap question to
/// ask first, of the sums of the slots.
pub fn is_worth_testing(base: &Sketch, now: &Sketch, limits: &Limits) -> bool {
    let (base, now) = (Counts::of(base), Counts::of(now));
    if base.total <= 0.0 || now.total <= 0.0 {
        return false;
    }
    let is_large = |q: f64| limits.is_large(q, base.quantile_ns(q), now.quantile_ns(q));
    LADDER.iter().any(|it| is_large(it.quantile))
}

/// A weight that can be divided by.
fn weight(weight: f64) -> f64 {
    if weight.is_finite() {
        weight.max(1.0)
    } else {
        1.0
    }
}
