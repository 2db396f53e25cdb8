//! Is it as fast again as before?

use super::ladder::LADDER;
use super::probability::normal_at_least;
use super::side::Side;
use super::{Claim, Slot, weight};

/// Of the growth that was claimed so much may be left. A claim needs the whole growth, so between the two nothing
/// changes: percentiles that wander around one border do not open and close it.
const GROWTH_LEFT_MAX: f64 = 0.25;

/// … and it has to be this sure that less than half of the growth is left.
const SURE: f64 = 0.05;

/// Whether what was claimed has gone: at most a quarter of the growth is left by the estimate, and less than a half
/// with 95 % certainty. `None`: too few requests to say. `base`: what it was compared with; if that is not at hand any
/// more, the claim's number stands for it.
///
/// Half way is far from both ends: a regression that stays looks like half of itself, and a recovered endpoint like a
/// half regressed one, only by a rare chance. Whoever asks every minute should wait for several yes in a row.
pub fn is_back(base: &[Slot], now: &[Slot], weight: f64, claim: &Claim) -> Option<bool> {
    let weight = self::weight(weight);
    let now = Side::new(now, weight);
    let rung = LADDER
        .iter()
        .rev()
        .find(|it| it.quantile >= claim.quantile)?;
    let requests = now.requests();
    if requests < rung.now_min {
        return None;
    }
    let base = Side::new(base, weight);
    let before_ns = if base.requests() >= rung.base_min {
        base.counts.quantile_ns(rung.quantile)
    } else {
        claim.before_ns
    };
    let (before, growth) = (before_ns as f64, claim.after_ns as f64 - before_ns as f64);
    if growth <= 0.0 {
        // What it is compared with is as slow as what was claimed: nothing is left of the claim.
        return Some(true);
    }
    let estimate = now.counts.quantile_ns(rung.quantile) as f64;
    let half_way = (before + growth / 2.0) as u64;
    let slow: f64 = now.counts.above_ns(half_way);
    let is_sure = binomial_at_most(slow.ceil(), requests, 1.0 - rung.quantile) <= SURE;
    Some(is_sure && estimate <= before + growth * GROWTH_LEFT_MAX)
}

/// How probable at most `k` of `n` are if each is one with probability `p`.
fn binomial_at_most(k: f64, n: f64, p: f64) -> f64 {
    // From here on the normal distribution is as good for a level of one in twenty.
    if n > 10_000.0 {
        return normal_at_least((n * p - k - 0.5) / (n * p * (1.0 - p)).sqrt());
    }
    let odds = p / (1.0 - p);
    let first = n * (1.0 - p).ln();
    let (mut ln_term, mut sum, mut at) = (first, first.exp(), 0.0);
    while at < k.min(n) {
        ln_term += ((n - at) / (at + 1.0) * odds).ln();
        at += 1.0;
        sum += ln_term.exp();
        // Beyond half it is certainly not rare, and there is nothing more to know.
        if sum > 0.5 {
            return 1.0;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regression::tests::slots;

    const MS: u64 = 1_000_000;

    fn claim(quantile: f64) -> Claim {
        Claim {
            quantile,
            before_ns: 100 * MS,
            after_ns: 200 * MS,
            p_value: 0.0,
        }
    }

    #[test]
    fn back_only_with_three_quarters_of_the_growth_gone_and_enough_requests() {
        let base = slots(0, 60, &[100; 20]);
        let back = |ms: u64, requests: usize| {
            is_back(&base, &slots(60, 1, &vec![ms; requests]), 1.0, &claim(0.99))
        };
        assert_eq!(back(100, 298), None);
        assert_eq!(back(100, 299), Some(true));
        assert_eq!(back(120, 299), Some(true));
        assert_eq!(back(135, 299), Some(false));
        assert_eq!(back(200, 299), Some(false));
        assert_eq!(back(50, 299), Some(true));
    }

    #[test]
    fn a_slow_tail_that_is_left_is_not_back() {
        let base = slots(0, 60, &[100; 20]);
        let mut now = vec![100; 290];
        now.extend([200; 2]);
        // Two of 292 above: p99 is fine, but it is not sure that it is.
        assert_eq!(is_back(&base, &slots(60, 1, &now), 1.0, &claim(0.99)), None);
        now.extend([100; 10]);
        assert_eq!(
            is_back(&base, &slots(60, 1, &now), 1.0, &claim(0.99)),
            Some(false)
        );
        now.extend([100; 400]);
        assert_eq!(
            is_back(&base, &slots(60, 1, &now), 1.0, &claim(0.99)),
            Some(true)
        );
    }

    #[test]
    fn without_what_it_was_compared_with_the_claim_says_it() {
        let now = slots(60, 1, &[110; 100]);
        assert_eq!(is_back(&[], &now, 1.0, &claim(0.5)), Some(true));
        assert_eq!(is_back(&[], &now, f64::NAN, &claim(0.95)), Some(true));
        assert_eq!(is_back(&[], &[], 0.0, &claim(0.5)), None);
    }

    #[test]
    fn binomial_tails_are_those_of_small_numbers_and_join_the_normal_ones() {
        assert!((binomial_at_most(0.0, 59.0, 0.05) - 0.95f64.powi(59)).abs() < 1e-12);
        assert!((binomial_at_most(1.0, 10.0, 0.5) - 11.0 / 1024.0).abs() < 1e-12);
        let (exact, normal) = (
            binomial_at_most(470.0, 10_000.0, 0.05),
            binomial_at_most(470.0, 10_000.1, 0.05),
        );
        assert!((exact - normal).abs() < 5e-3, "{exact} {normal}");
    }
}
