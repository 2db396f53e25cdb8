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
    let minutes = now.minutes(limits.slot_minutes);
    let effect = bursts::design_effect(&before, &since, variance, limits.slot_minutes, minutes);
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
        added_ns: signed(claim.after_ns) - signed(claim.before_ns),
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
        bursts::is_record(&before, &since, minutes)
    };
    let outcome = decide().map(|()| claim);
    (test, effect, outcome)
}

/// Not more than an `i64` holds: 292 years.
fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sketch::Sketch;

    fn counts(bins: &[(u16, i64)]) -> Counts {
        Counts::of(&Sketch::from_bins(bins.iter().copied()))
    }

    #[test]
    fn ranks_are_those_of_the_textbook_with_ties() {
        // 1, 1, 2 and 1, 3: ranks 2, 2, 4 and 2, 5 of five; as shares (rank - 1/2) / 5.
        let (base, now) = (counts(&[(1, 2), (2, 1)]), counts(&[(1, 1), (3, 1)]));
        let ranks = Ranks::of(&base, &now);
        let rank = |bin: usize| ranks.by_bin[bin] * 5.0 + 0.5;
        assert_eq!([rank(1), rank(2), rank(3)], [2.0, 4.0, 5.0]);
        // U's variance with ties is n0 n1 / 12 · (N + 1 - Σ(t³ - t) / (N (N - 1))) = 6 / 12 · (6 - 24 / 20); ours is
        // that of the difference of mean ranks as shares: divided by (n0 n1 / N)² and N², and by 1/n0 + 1/n1.
        let of_u = 6.0 / 12.0 * (6.0 - 24.0 / 20.0);
        let of_shares: f64 = of_u / 36.0 / (1.0 / 3.0 + 1.0 / 2.0);
        assert!(
            (ranks.variance - of_shares).abs() < 1e-12,
            "{} {of_shares}",
            ranks.variance
        );
    }

    #[test]
    fn the_shift_is_the_median_of_all_differences() {
        let base = counts(&[(100, 1), (110, 1), (120, 1)]);
        assert!(shift_bins(&base, &counts(&[(132, 1), (142, 1), (152, 1)])).round() == 32.0);
        assert!(shift_bins(&base, &base).abs() <= 0.5);
        // Most of a bimodal endpoint did not move, though its median did.
        let (before, after) = (
            counts(&[(100, 51), (500, 49)]),
            counts(&[(100, 49), (500, 51)]),
        );
        assert!(shift_bins(&before, &after).abs() <= 0.5);
    }
}
