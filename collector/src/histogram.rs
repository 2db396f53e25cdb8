//! How long things take, counted in fixed buckets: written by many, read by `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, seconds: from a commit on a quick disk to the longest tick. What is
/// longer is counted beyond the last.
pub const BOUNDS_S: [f64; 13] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
];

/// Durations in buckets. Only ever grows.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By bucket; the last one has what is beyond all bounds.
    counts: [AtomicU64; BOUNDS_S.len() + 1],
    sum_ns: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    /// How many took at most as long as the bound at the same place of [`BOUNDS_S`].
    pub at_most: [u64; BOUNDS_S.len()],
    /// How many there were.
    pub count: u64,
    /// All of them together, seconds.
    pub sum_s: f64,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// What was observed until now. The count is that of the buckets, so that they always agree.
    pub fn observed(&self) -> Observed {
        let mut observed = Observed {
            sum_s: self.sum_ns.load(Relaxed) as f64 / 1e9,
            ..Observed::default()
        };
        for (at, count) in self.counts.iter().enumerate() {
            observed.count += count.load(Relaxed);
            if let Some(at_most) = observed.at_most.get_mut(at) {
                *at_most = observed.count;
            }
        }
        observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for took_us in [0, 1_000, 1_001, 20_000_000] {
            histogram.observe(Duration::from_micros(took_us));
        }
        let observed = histogram.observed();
        assert_eq!(observed.at_most[..2], [2, 3]);
        assert_eq!(observed.at_most[BOUNDS_S.len() - 1], 3);
        assert_eq!(observed.count, 4);
        assert!((observed.sum_s - 20.002_001).abs() < 1e-9);
    }
}
