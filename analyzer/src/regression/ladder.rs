//! How many requests a percentile needs before anybody may speak of it.
//!
//! The largest of n values is an upper bound of their 99th percentile only if at least one lies above it, which
//! fails with probability 0.99ⁿ. So that this is at most 2.5 % (5 %), n has to be 368 (299); with fewer requests
//! whatever is called their p99 is a guess.

/// The percentiles that are shown, with what each needs.
pub(super) const LADDER: [Rung; 4] = [
    Rung::new(0.99, 368, 299),
    Rung::new(0.95, 72, 59),
    Rung::new(0.90, 36, 29),
    Rung::new(0.50, 6, 5),
];

/// One percentile and the fewest requests that carry it.
#[derive(Clone, Copy)]
pub(super) struct Rung {
    /// 0 to 1.
    pub quantile: f64,
    /// ln 0.025 / ln quantile: of what everything is compared with.
    pub base_min: f64,
    /// ln 0.05 / ln quantile: of what is compared.
    pub now_min: f64,
}

impl Rung {
    const fn new(quantile: f64, base_min: u32, now_min: u32) -> Rung {
        Rung {
            quantile,
            base_min: base_min as f64,
            now_min: now_min as f64,
        }
    }

    /// So many requests before and so many now are enough.
    pub fn carries(&self, base: f64, now: f64) -> bool {
        base >= self.base_min && now >= self.now_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_is_the_number_of_requests_its_bound_needs() {
        for rung in LADDER {
            let needed = |share: f64| (share.ln() / rung.quantile.ln()).ceil();
            assert_eq!(rung.base_min, needed(0.025));
            assert_eq!(rung.now_min, needed(0.05));
        }
    }
}
