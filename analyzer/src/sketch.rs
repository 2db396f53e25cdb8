//! A mergeable latency sketch: log-spaced bins, 1.1 % relative error.
//!
//! The bin of a duration comes from integer arithmetic alone: the position of its highest bit says
//! which power of two it is in, and a comparison with exact thresholds says which of the 32 bins of
//! that power. So every machine and every version puts a duration into the same bin, and stored
//! sketches merge and subtract exactly, forever.

/// Counts of durations in bins a factor of 2^(1/32) wide. Merges in any order and subtracts
/// exactly; counts are signed so that a sketch can also be a difference.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sketch {
    /// (bin, count), sorted by bin, no zero counts. Bin 0 holds the durations of 0 ns.
    bins: Vec<(u16, i64)>,
}

/// Bins per power of two: 2^(1/64) - 1 = 1.09 % from a bin's middle to its edge.
const BINS_PER_OCTAVE: usize = 32;

/// The highest bin there is: the one of `u64::MAX` ns.
const BIN_MAX: u16 = (64 * BINS_PER_OCTAVE) as u16;

/// `THRESHOLDS[j]` is 2^63 · 2^(j/32): where bin j begins in a number shifted until its highest bit
/// is bit 63. The last one, 2^64, is where the next octave begins.
const THRESHOLDS: [u128; BINS_PER_OCTAVE + 1] = thresholds();

const fn thresholds() -> [u128; BINS_PER_OCTAVE + 1] {
    let mut at = [0u128; BINS_PER_OCTAVE + 1];
    at[0] = 1 << 63;
    at[BINS_PER_OCTAVE] = 1 << 64;
    // Halving intervals: the middle of two thresholds is their geometric mean.
    let mut step = BINS_PER_OCTAVE;
    while step > 1 {
        let mut left = 0;
        while left < BINS_PER_OCTAVE {
            at[left + step / 2] = (at[left] * at[left + step]).isqrt();
            left += step;
        }
        step /= 2;
    }
    at
}

/// The bin in which each 64th of an octave begins. A 64th is narrower than any bin,
/// so at most one threshold lies inside it and one comparison finishes the search.
const FIRST_BIN: [u8; 64] = first_bins();

const fn first_bins() -> [u8; 64] {
    let mut first = [0; 64];
    let mut slot = 0;
    while slot < 64 {
        let begin = (64 + slot as u128) << 57;
        let mut bin = 0;
        while THRESHOLDS[bin + 1] <= begin {
            bin += 1;
        }
        first[slot] = bin as u8;
        slot += 1;
    }
    first
}

pub(crate) fn bin_of(ns: u64) -> u16 {
    if ns == 0 {
        return 0;
    }
    let octave = ns.ilog2() as usize;
    let mantissa = ns << (63 - octave);
    let mut bin = FIRST_BIN[(mantissa >> 57) as usize & 63] as usize;
    bin += usize::from(u128::from(mantissa) >= THRESHOLDS[bin + 1]);
    (1 + octave * BINS_PER_OCTAVE + bin) as u16
}

/// The smallest duration that is in `bin` or a higher one.
fn lower_edge_ns(bin: u16) -> u64 {
    let Some(above_zero) = usize::from(bin.min(BIN_MAX)).checked_sub(1) else {
        return 0;
    };
    let (octave, bin) = (above_zero / BINS_PER_OCTAVE, above_zero % BINS_PER_OCTAVE);
    let shift = 63 - octave;
    let rounded_up = (THRESHOLDS[bin] + (1 << shift) - 1) >> shift;
    rounded_up as u64
}

impl Sketch {
    /// Adds `count` durations of `ns` (negative: takes them away).
    pub fn record(&mut self, ns: u64, count: i64) {
        self.add_to_bin(bin_of(ns), count);
    }

    fn add_to_bin(&mut self, bin: u16, count: i64) {
        if count == 0 {
            return;
        }
        match self.bins.binary_search_by_key(&bin, |it| it.0) {
            Ok(at) => {
                // Wrapping, because it is the one overflow behaviour that keeps merging
                // associative; no real count comes near.
                let sum = self.bins[at].1.wrapping_add(count);
                if sum == 0 {
                    self.bins.remove(at);
                } else {
                    self.bins[at].1 = sum;
                }
            }
            Err(at) => self.bins.insert(at, (bin, count)),
        }
    }

    /// Adds every bin of `other`.
    pub fn merge(&mut self, other: &Sketch) {
        self.combine(other, 1);
    }

    /// Takes away every bin of `other`.
    pub fn subtract(&mut self, other: &Sketch) {
        self.combine(other, -1);
    }

    fn combine(&mut self, other: &Sketch, sign: i64) {
        let mine = std::mem::take(&mut self.bins);
        self.bins.reserve(mine.len() + other.bins.len());
        let mut mine = mine.into_iter().peekable();
        for &(bin, count) in &other.bins {
            let count = count.wrapping_mul(sign);
            while let Some(lower) = mine.next_if(|it| it.0 < bin) {
                self.bins.push(lower);
            }
            let same = mine.next_if(|it| it.0 == bin).map_or(0, |it| it.1);
            let sum = same.wrapping_add(count);
            if sum != 0 {
                self.bins.push((bin, sum));
            }
        }
        self.bins.extend(mine);
    }

    /// The duration in ns that the share `q` (0 to 1) of all does not exceed; `None` if empty.
    ///
    /// That is the geometric middle of the smallest bin at which `ceil(q · count)` durations are
    /// reached: within 1.1 % (and half a nanosecond of rounding) of the true one. In a difference with negative counts it is
    /// only as meaningful as "a share of it" is.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count <= 0 {
            return None;
        }
        let rank = ((q * count as f64).ceil() as i64).clamp(1, count);
        let mut seen: i64 = 0;
        let reached = self.bins.iter().find(|(_, count)| {
            seen = seen.wrapping_add(*count);
            seen >= rank
        });
        reached.map(|(bin, _)| Self::middle_ns(*bin))
    }

    /// The whole number nearest to the geometric middle of a bin's smallest and largest duration.
    pub(crate) fn middle_ns(bin: u16) -> u64 {
        let (lower, upper) = Self::edges_ns(bin);
        let largest = if bin >= BIN_MAX {
            upper
        } else {
            upper.saturating_sub(1)
        };
        let square = u128::from(lower) * u128::from(largest.max(lower));
        let root = square.isqrt();
        (root + u128::from(square > root * root + root)) as u64
    }

    /// How many durations there are.
    pub fn count(&self) -> i64 {
        self.bins.iter().fold(0, |sum, it| sum.wrapping_add(it.1))
    }

    /// How many are longer than the bin of `ns`.
    pub fn count_above(&self, ns: u64) -> i64 {
        let bin = bin_of(ns);
        let above = self.bins.iter().filter(|it| it.0 > bin);
        above.fold(0, |sum, it| sum.wrapping_add(it.1))
    }

    /// No bin holds anything.
    pub fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// (bin, count) in order, for storage.
    pub fn bins(&self) -> &[(u16, i64)] {
        &self.bins
    }

    /// The inverse of [`Sketch::bins`]; any order, repeated bins add up. Bins that do not exist
    /// (damaged storage) count as the highest.
    pub fn from_bins(bins: impl IntoIterator<Item = (u16, i64)>) -> Sketch {
        let mut sketch = Sketch::default();
        for (bin, count) in bins {
            sketch.add_to_bin(bin.min(BIN_MAX), count);
        }
        sketch
    }

    /// A bin's lower and upper edge in ns: it holds the durations from `lower` up to but not
    /// including `upper`, which is the next bin's lower edge. Below 46 ns some bins are narrower
    /// than one nanosecond and hold nothing: their edges are equal. The highest bin includes its
    /// upper edge, `u64::MAX`.
    pub fn edges_ns(bin: u16) -> (u64, u64) {
        let upper = if bin >= BIN_MAX {
            u64::MAX
        } else {
            lower_edge_ns(bin + 1)
        };
        (lower_edge_ns(bin), upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sketch_of(durations: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        for ns in durations {
            sketch.record(*ns, 1);
        }
        sketch
    }

    fn merged(a: &Sketch, b: &Sketch) -> Sketch {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    #[test]
    fn every_bin_begins_where_the_one_below_ends() {
        let mut last = 0;
        for bin in 0..BIN_MAX {
            let (lower, upper) = Sketch::edges_ns(bin);
            assert_eq!(lower, last, "bin {bin}");
            if lower < upper {
                assert_eq!((bin_of(lower), bin_of(upper - 1)), (bin, bin));
            }
            last = upper;
        }
        assert_eq!(Sketch::edges_ns(BIN_MAX), (last, u64::MAX));
        assert_eq!((bin_of(last), bin_of(u64::MAX)), (BIN_MAX, BIN_MAX));
        assert_eq!(Sketch::edges_ns(u16::MAX).1, u64::MAX);
    }

    /// Stored sketches are read for ever, so a duration's bin must never change.
    #[test]
    fn bins_are_the_ones_that_are_stored() {
        let bins = [0, 1, 2, 1_000, 1_000_000, 1_000_000_000, u64::MAX].map(bin_of);
        assert_eq!(bins, [0, 1, 33, 319, 638, 957, 2048]);
    }

    #[test]
    fn quantiles_of_nothing_and_of_one() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(sketch_of(&[0]).quantile(0.99), Some(0));
        assert_eq!(sketch_of(&[1]).quantile(0.0), Some(1));
        assert_eq!(sketch_of(&[1, 40]).quantile(f64::NAN), Some(1));
        let mut less_than_nothing = Sketch::default();
        less_than_nothing.record(5, -3);
        assert_eq!(less_than_nothing.quantile(0.5), None);
    }

    #[test]
    fn counts_above_leave_out_the_bin_itself() {
        let sketch = sketch_of(&[10_000, 20_000, 20_001, 40_000]);
        assert_eq!(sketch.count_above(20_000), 1);
        assert_eq!(sketch.count_above(0), 4);
    }

    #[test]
    fn small_durations_are_off_by_rounding_too() {
        // 240 to 245 ns are one bin.
        assert_eq!(sketch_of(&[240]).quantile(0.5), Some(242));
        assert_eq!(sketch_of(&[245]).quantile(0.5), Some(242));
        assert_eq!(
            sketch_of(&[u64::MAX])
                .quantile(0.5)
                .map(|it| it > u64::MAX / 100 * 98),
            Some(true)
        );
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let any_magnitude = (0..64u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift);
        proptest::collection::vec(any_magnitude, 1..200)
    }

    fn sketch() -> impl Strategy<Value = Sketch> {
        proptest::collection::vec((0..=BIN_MAX, -50..50i64), 0..40).prop_map(Sketch::from_bins)
    }

    proptest! {
        #[test]
        fn merging_does_not_care_about_order(a in sketch(), b in sketch(), c in sketch()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn subtracting_undoes_merging(a in sketch(), b in sketch()) {
            let mut back = merged(&a, &b);
            back.subtract(&b);
            prop_assert_eq!(back, a);
        }

        #[test]
        fn bins_round_trip(a in sketch()) {
            prop_assert_eq!(Sketch::from_bins(a.bins().iter().rev().copied()), a);
        }

        #[test]
        fn quantiles_are_within_their_error(durations in durations(), q in 0.0..=1.0f64) {
            let estimate = sketch_of(&durations).quantile(q).unwrap();
            let mut sorted = durations;
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted[rank - 1];
            let error = estimate.abs_diff(exact);
            prop_assert!(error as f64 <= 0.5 + 0.011 * exact as f64, "{estimate} for {exact}");
        }
    }
}
