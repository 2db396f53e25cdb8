//! Tails of distributions, to the last digits: levels here are one in a million and less.

use std::f64::consts::{PI, TAU};

/// ln Γ(x) for x > 0, by Stirling's series; exact to about 14 digits.
///
/// The series needs a large argument: smaller ones are raised to 10 by Γ(x + 1) = x Γ(x).
pub(super) fn ln_gamma(x: f64) -> f64 {
    let mut x = x.max(f64::MIN_POSITIVE);
    let mut raised = 1.0;
    while x < 10.0 {
        raised *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + 0.5 * TAU.ln() + series - f64::ln(raised)
}

/// ln of the beta function.
fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// How probable at least `k` of `n` are, if each is one with a probability that is itself drawn once from a beta
/// distribution with `a` and `b`: the survival function of the beta-binomial distribution. Whole `k` and `n` up to
/// about a million (then 9 digits are right), `a` > 0, `b` ≥ 1.
pub(super) fn beta_binomial_at_least(k: f64, n: f64, a: f64, b: f64) -> f64 {
    if k <= 0.0 {
        return 1.0;
    }
    if k > n {
        return 0.0;
    }
    let at = |k: f64| {
        let ways = -ln_beta(n - k + 1.0, k + 1.0) - (n + 1.0).ln();
        (ways + ln_beta(a + k, b + n - k) - ln_beta(a, b)).exp()
    };
    // P(K = k + 1) / P(K = k)
    let ratio = |k: f64| (a + k) / (k + 1.0) * ((n - k) / (b + n - k - 1.0));
    // Away from the middle the terms only get smaller: upwards in the upper half, else downwards.
    if k > n * a / (a + b) {
        let mut term = at(k);
        let mut sum = term;
        let mut k = k;
        while k < n && term > sum * f64::EPSILON {
            term *= ratio(k);
            k += 1.0;
            sum += term;
        }
        sum.min(1.0)
    } else {
        let mut k = k - 1.0;
        let mut term = at(k);
        let mut sum = term;
        while k > 0.0 && term > sum * f64::EPSILON {
            k -= 1.0;
            term /= ratio(k);
            sum += term;
        }
        (1.0 - sum).clamp(0.0, 1.0)
    }
}

/// ln of the number of ways to choose `k` of `n`.
fn ln_choose(n: f64, k: f64) -> f64 {
    ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0)
}

/// How probable it is that among `n` drawn of `all` at least `k` are of the `with` marked ones: the survival function of
/// the hypergeometric distribution.
pub(crate) fn hypergeometric_at_least(k: f64, with: f64, n: f64, all: f64) -> f64 {
    // Fewer there cannot be.
    let least = (n + with - all).max(0.0);
    if k <= least {
        return 1.0;
    }
    let most = n.min(with);
    let mut sum = 0.0;
    let mut k = k;
    while k <= most {
        let ln = ln_choose(with, k) + ln_choose(all - with, n - k) - ln_choose(all, n);
        sum += ln.exp();
        k += 1.0;
    }
    sum.min(1.0)
}

/// The mean of `value` over a standard normal variable, by the trapezoidal rule; beyond 8 there is less than 1e-15.
pub(super) fn normal_mean(value: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 0.125;
    let at = |step: i32| {
        let z = f64::from(step) * STEP;
        (-0.5 * z * z).exp() * value(z)
    };
    (-64..=64).map(at).sum::<f64>() * STEP / TAU.sqrt()
}

/// How probable it is that a standard normal value is at least `z`.
pub(super) fn normal_at_least(z: f64) -> f64 {
    if z.is_nan() {
        return 1.0;
    }
    if z < 0.0 {
        return 1.0 - normal_at_least(-z);
    }
    let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
    if z < 3.0 {
        // 1/2 - density · (z + z³/3 + z⁵/(3·5) + …)
        let (mut term, mut sum, mut odd) = (z, z, 1.0);
        while term > sum * f64::EPSILON {
            odd += 2.0;
            term *= z * z / odd;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    // density / (z + 1/(z + 2/(z + 3/(z + …)))), from the far end; 60 levels are more than z ≥ 3 needs.
    let fraction = (1..=60)
        .rev()
        .fold(z, |below, level| z + f64::from(level) / below);
    density / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(n: u128, k: u128) -> u128 {
        (0..k).fold(1, |product, it| product * (n - it) / (it + 1))
    }

    fn close(a: f64, b: f64, relative: f64) {
        assert!((a - b).abs() <= relative * b.abs().max(1e-300), "{a} {b}");
    }

    #[test]
    fn gamma_is_the_factorial_and_that_of_a_half() {
        let mut exact: u128 = 1;
        for n in 0..=34 {
            exact *= u128::max(n, 1);
            let ln = (exact as f64).ln();
            assert!(
                (ln_gamma(n as f64 + 1.0) - ln).abs() < 1e-13 * ln.max(1.0),
                "{n}"
            );
        }
        close(ln_gamma(0.5), 0.5 * PI.ln(), 1e-13);
        let sum: f64 = (1..=100_000).map(|it| f64::from(it).ln()).sum();
        close(ln_gamma(100_001.0), sum, 1e-12);
    }

    /// K of n1 new values above the r-th smallest of n0 old ones, of the same distribution:
    /// P(K = k) = C(n0 - r + k, k) · C(r - 1 + n1 - k, n1 - k) / C(n0 + n1, n1).
    #[test]
    fn exceedances_are_those_counted_with_whole_numbers() {
        for (n0, n1) in [(1, 1), (5, 7), (20, 9), (40, 30)] {
            for r in 1..=n0 {
                let ways = |k: u128| choose(n0 - r + k, k) * choose(r - 1 + n1 - k, n1 - k);
                let all = choose(n0 + n1, n1);
                assert_eq!((0..=n1).map(ways).sum::<u128>(), all);
                for k in 0..=n1 + 1 {
                    let exact = (k..=n1).map(ways).sum::<u128>() as f64 / all as f64;
                    let [k, n0, r, n1] = [k, n0, r, n1].map(|it| it as f64);
                    let p = beta_binomial_at_least(k, n1, n0 - r + 1.0, r);
                    assert!((p - exact).abs() <= 1e-10 * exact.max(1e-3), "{p} {exact}");
                    if k > n1 * (n0 - r + 1.0) / (n0 + 1.0) {
                        close(p, exact, 1e-10);
                    }
                }
            }
        }
    }

    #[test]
    fn exceedances_of_many_and_of_impossibly_many() {
        let p = beta_binomial_at_least(20_000.0, 1e6, 10_001.0, 990_000.0);
        assert!((0.0..1e-300).contains(&p));
        let p = beta_binomial_at_least(10_000.0, 1e6, 10_001.0, 990_000.0);
        assert!((0.45..0.55).contains(&p), "{p}");
        assert_eq!(beta_binomial_at_least(0.0, 1e6, 1.0, 1e6), 1.0);
    }

    #[test]
    fn normal_means_are_moments_and_tails() {
        close(normal_mean(|_| 1.0), 1.0, 1e-12);
        close(normal_mean(|z| z * z), 1.0, 1e-12);
        close(normal_mean(f64::exp), 0.5f64.exp(), 1e-12);
        // A jump is the worst it can meet: then it is about right.
        close(
            normal_mean(|z| f64::from(u8::from(z >= 4.93))),
            normal_at_least(4.93),
            0.5,
        );
    }

    #[test]
    fn normal_tails_are_the_tabulated_ones() {
        close(normal_at_least(0.0), 0.5, 1e-15);
        close(normal_at_least(1.0), 0.158_655_253_931_457_05, 1e-13);
        close(normal_at_least(-1.0), 0.841_344_746_068_542_9, 1e-13);
        close(normal_at_least(2.999_999_999), normal_at_least(3.0), 1e-7);
        close(normal_at_least(3.0), 1.349_898_031_630_094_5e-3, 1e-12);
        close(normal_at_least(6.0), 9.865_876_450_376_98e-10, 1e-12);
        assert_eq!(normal_at_least(f64::INFINITY), 0.0);
        assert_eq!(normal_at_least(f64::NAN), 1.0);
    }
}
