//! Did requests become slower on the whole?
//!
//! The Mann–Whitney test: all requests of both sides in one order, and whether those now stand further to its slow end
//! than chance would put them. It sees a small shift of everything, which the tail's test does not, and does not see
//! a few very slow ones, which that one does.
//!
//! Requests of one bin are ties: each has the middle of its bin's ranks. The variance is that of these ranks, which is
//! the usual correction for ties.

use super::bursts::{self, DesignEffect};
use super::probability::normal_at_least;
use super::side::{BINS, Counts, Side};
use super::{BodyTest, Claim, Limits, Why};

/// The test of the median, and whether it may be claimed. `level`: the most that p may be.
pub(super) fn test(
    base: &Side<'_>,
    now: &Side<'_>,
    limits: &Limits,
    level: f64,
) -> (BodyTest, DesignEffect, Result<Claim, Why>) {
    let ranks = Ranks::of(&base.counts, &now.counts);
    let rank = |bin: u16| ranks.by_bin[usize::from(bin).min(BINS - 1)];
    let (before, since) = (base.scored(rank), now.scored(rank));
    let base_mean = ranks.mean(&base.counts);
    let variance = ranks.variance(&base.counts, base_mean);
    let effect = bursts::design_effect(&before, &since, variance, limits.slot_minutes);
    let z = |mean: f64, requests: f64| {
        let of_means = effect.base / base.counts.total + effect.now / requests;
        (mean - base_mean) / (ranks.variance * of_means).sqrt()
    };

    let z_all = z(ranks.mean(&now.counts), now.counts.total);
    let p_value = normal_at_least(z_all);
    let claim = Claim {
        quantile: 0.5,
        before_ns: base.counts.quantile_ns(0.5),
        after_ns: now.counts.quantile_ns(0.5),
        p_value,
    };
    let test = BodyTest {
        z: if z_all.is_nan() { 0.0 } else { z_all },
        p_value,
        ratio: 2f64.powf(shift_bins(&base.counts, &now.counts) / 32.0),
        added_ns: claim.after_ns as i64 - claim.before_ns as i64,
    };
    let decide = || {
        let is_large = limits.is_large(0.5, claim.before_ns, claim.after_ns);
        if !is_large || test.ratio < limits.body_ratio_min {
            return Err(Why::SmallEffect {
                quantile: 0.5,
                before_ns: claim.before_ns,
                after_ns: claim.after_ns,
            });
        }
        if p_value > level {
            return Err(Why::Chance { p_value, level });
        }
        let slow = since.iter().filter(|it| it.score > base_mean * it.requests);
        let slots = slow.count();
        if slots < limits.slots_min {
            return Err(Why::FewSlots {
                needed: limits.slots_min,
                have: slots,
            });
        }
        let rest = bursts::without_worst(&since, limits.worst_slots, base_mean);
        let p_value = normal_at_least(z(rest.score / rest.requests, rest.requests));
        if p_value > limits.alpha_without_worst {
            return Err(Why::Lumps { p_value });
        }
        bursts::is_record(&before, &since, now.minutes(limits.slot_minutes))
    };
    let outcome = decide().map(|()| claim);
    (test, effect, outcome)
}

/// Where each bin stands among the requests of both sides: the share of them that is faster, ties half.
struct Ranks {
    by_bin: Vec<f64>,
    /// Of both sides' requests together; zero if all are in one bin.
    variance: f64,
}

impl Ranks {
    fn of(base: &Counts, now: &Counts) -> Ranks {
        let total = base.total + now.total;
        let mut below = 0.0;
        let mut variance = 0.0;
        let mut by_bin = Vec::with_capacity(BINS);
        for bin in 0..BINS {
            let here = base.at(bin as u16) + now.at(bin as u16);
            let rank = (below + here / 2.0) / total;
            by_bin.push(rank);
            variance += here * (rank - 0.5).powi(2) / (total - 1.0);
            below += here;
        }
        Ranks { by_bin, variance }
    }

    fn mean(&self, counts: &Counts) -> f64 {
        let sum: f64 = counts
            .bins()
            .map(|(bin, n)| n * self.by_bin[usize::from(bin)])
            .sum();
        sum / counts.total
    }

    fn variance(&self, counts: &Counts, mean: f64) -> f64 {
        let square = |(bin, n): (u16, f64)| n * (self.by_bin[usize::from(bin)] - mean).powi(2);
        counts.bins().map(square).sum::<f64>() / counts.total
    }
}

/// The Hodges–Lehmann estimate of the shift: the median of all differences (now - before) of two requests, in bins,
/// with the place within the median's bin by linear interpolation.
fn shift_bins(base: &Counts, now: &Counts) -> f64 {
    let pairs = base.total * now.total;
    // cumulative[b]: requests before in bins below b.
    let mut cumulative = vec![0.0; BINS + 1];
    for bin in 0..BINS {
        cumulative[bin + 1] = cumulative[bin] + base.at(bin as u16);
    }
    // The share of pairs that differ by less than `shift` bins: base > now - shift.
    let below = |shift: i32| {
        let of_bin = |(bin, n): (u16, f64)| {
            let at_most = (i32::from(bin) - shift + 1).clamp(0, BINS as i32) as usize;
            n * (base.total - cumulative[at_most])
        };
        now.bins().map(of_bin).sum::<f64>() / pairs
    };
    // The largest shift with at most half of the pairs below it.
    let (mut low, mut high) = (-(BINS as i32), BINS as i32);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if below(middle) <= 0.5 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let (from, to) = (below(low), below(low + 1));
    let within = if to > from {
        (0.5 - from) / (to - from)
    } else {
        0.5
    };
    f64::from(low) + within - 0.5
}
