//! A mergeable latency sketch: log-spaced bins, 1.1 % relative error.

/// Counts of durations in bins a factor of 2^(1/32) wide. Merges in any order and subtracts
/// exactly; counts are signed so that a sketch can also be a difference.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sketch {
    /// (bin, count), sorted by bin, no zero counts. Bin 0 holds the durations of 0 ns.
    bins: Vec<(u16, i64)>,
}

impl Sketch {
    /// Adds `count` durations of `ns` (negative: takes them away).
    pub fn record(&mut self, ns: u64, count: i64) {
        let _ = (ns, count);
        todo!()
    }

    /// Adds every bin of `other`.
    pub fn merge(&mut self, other: &Sketch) {
        let _ = other;
        todo!()
    }

    /// Takes away every bin of `other`.
    pub fn subtract(&mut self, other: &Sketch) {
        let _ = other;
        todo!()
    }

    /// The duration in ns that the share `q` (0 to 1) of all does not exceed; `None` if empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let _ = q;
        todo!()
    }

    /// How many durations there are.
    pub fn count(&self) -> i64 {
        self.bins.iter().map(|(_, count)| count).sum()
    }

    /// How many are longer than the bin of `ns`.
    pub fn count_above(&self, ns: u64) -> i64 {
        let _ = ns;
        todo!()
    }

    /// No bin holds anything.
    pub fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// (bin, count) in order, for storage.
    pub fn bins(&self) -> &[(u16, i64)] {
        &self.bins
    }

    /// The inverse of [`Sketch::bins`]; any order, repeated bins add up.
    pub fn from_bins(bins: impl IntoIterator<Item = (u16, i64)>) -> Sketch {
        let _ = bins.into_iter().count();
        todo!()
    }

    /// A bin's lower and upper edge in ns.
    pub fn edges_ns(bin: u16) -> (u64, u64) {
        let _ = bin;
        todo!()
    }
}
