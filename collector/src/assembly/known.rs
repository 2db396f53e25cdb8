//! Which trace ids may be stored already: a chain of Bloom filters.
//!
//! A "no" is certain and saves the look into the database; a "yes" is looked up. So a full filter
//! costs time, never exactness.

use analyzer::span::TraceId;

/// Ids per filter at 1 % false answers: 10 bits an id, 5 MiB a filter.
const IDS_PER_FILTER: usize = 4 << 20;

/// Bits per filter; a power of two.
const BITS: usize = IDS_PER_FILTER * 10 / 8 * 8;

/// Bits set per id: the best number for 10 bits an id.
const HASHES: u64 = 7;

/// Filters in the chain, 40 MiB in all. Beyond it the last one fills up and says "maybe" more often.
const FILTERS_MAX: usize = 8;

/// The trace ids seen.
#[derive(Debug, Default)]
pub struct Known {
    filters: Vec<Filter>,
}

#[derive(Debug)]
struct Filter {
    bits: Vec<u64>,
    ids: usize,
}

impl Known {
    /// Remembers an id.
    pub fn insert(&mut self, trace_id: TraceId) {
        let last = self.filters.last();
        if last.is_some_and(|it| it.may_contain(trace_id)) {
            return;
        }
        let full = last.is_none_or(|it| it.ids >= IDS_PER_FILTER);
        if full && self.filters.len() < FILTERS_MAX {
            self.filters.push(Filter {
                bits: vec![0; BITS / 64],
                ids: 0,
            });
        }
        let Some(filter) = self.filters.last_mut() else {
            return;
        };
        filter.ids += 1;
        for bit in bits(trace_id) {
            filter.bits[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether the id may have been inserted; `false` is certain.
    pub fn may_contain(&self, trace_id: TraceId) -> bool {
        self.filters.iter().any(|it| it.may_contain(trace_id))
    }
}

impl Filter {
    fn may_contain(&self, trace_id: TraceId) -> bool {
        bits(trace_id).all(|bit| self.bits[bit / 64] & (1 << (bit % 64)) != 0)
    }
}

/// The bits of an id: double hashing over its two halves (Kirsch and Mitzenmacher, 2006), mixed
/// first, because some senders count instead of drawing ids.
fn bits(trace_id: TraceId) -> impl Iterator<Item = usize> {
    let id = u128::from_be_bytes(trace_id.0);
    let (first, second) = (mix((id >> 64) as u64 ^ mix(id as u64)), mix(id as u64) | 1);
    (0..HASHES).map(move |n| first.wrapping_add(n.wrapping_mul(second)) as usize % BITS)
}

/// The finaliser of MurmurHash3: every bit of the input reaches every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> TraceId {
        TraceId(number.to_be_bytes())
    }

    #[test]
    fn never_forgets_and_seldom_makes_up() {
        let mut known = Known::default();
        assert!(!known.may_contain(id(1)));
        (0..50_000).for_each(|n| known.insert(id(n)));
        assert!((0..50_000).all(|n| known.may_contain(id(n))));
        let made_up = (50_000..100_000)
            .filter(|n| known.may_contain(id(*n)))
            .count();
        assert!(made_up < 50, "{made_up} of 50,000");
    }
}
