//! Which traces of a day outlive it: those with a finding, an error, or slower than their endpoint
//! usually is.
//!
//! Of each endpoint, hour and reason the slowest few and a few by chance; an endpoint with an N+1
//! in every request would keep everything else. Which are kept by chance follows from the trace id,
//! so that two runs keep the same.

use analyzer::span::TraceId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use crate::store::finalise::{FLAG_ERROR, FLAG_FINDING};

/// Of each endpoint, hour and reason.
const WORST: usize = 20;

/// Of each endpoint, hour and reason.
const BY_CHANCE: usize = 20;

/// Endpoints times hours times reasons, 1 kB each. What comes beyond it is not kept.
const GROUPS_MAX: usize = 100_000;

/// A request as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its trace.
    pub trace_id: TraceId,
    /// `endpoints.id`; 0 for a fragment, which is never kept.
    pub endpoint: i32,
    /// The minute it was counted in.
    pub minute: i32,
    /// ns.
    pub duration_ns: u64,
    /// `FLAG_…`
    pub flags: i16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reason {
    Finding,
    Error,
    Slow,
}

#[derive(Debug, Default)]
struct Group {
    /// The fastest on top: the first to go.
    worst: BinaryHeap<Reverse<(u64, i64, TraceId)>>,
    /// The largest hash on top: the first to go.
    by_chance: BinaryHeap<(u64, i64, TraceId)>,
}

/// Chooses as the requests of a shard and day go by.
#[derive(Debug)]
pub struct Keeping<'a> {
    /// Endpoint → its P99, ns.
    p99_ns: &'a HashMap<i32, u64>,
    /// Examples that findings link to.
    examples: &'a BTreeSet<TraceId>,
    groups: HashMap<(Reason, i32, i32), Group>,
    linked: BTreeSet<(i64, TraceId)>,
}

impl<'a> Keeping<'a> {
    /// With the examples that findings link to, all of which are kept.
    pub fn new(p99_ns: &'a HashMap<i32, u64>, examples: &'a BTreeSet<TraceId>) -> Self {
        Keeping {
            p99_ns,
            examples,
            groups: HashMap::new(),
            linked: BTreeSet::new(),
        }
    }

    /// Takes a request of the block `block` into account.
    pub fn see(&mut self, block: i64, it: Candidate) {
        if self.examples.contains(&it.trace_id) {
            self.linked.insert((block, it.trace_id));
        }
        if it.endpoint == 0 {
            return;
        }
        let p99_ns = self.p99_ns.get(&it.endpoint).copied();
        let reasons = [
            (Reason::Finding, it.flags & FLAG_FINDING != 0),
            (Reason::Error, it.flags & FLAG_ERROR != 0),
            (Reason::Slow, p99_ns.is_some_and(|p99| it.duration_ns > p99)),
        ];
        for (reason, _) in reasons.into_iter().filter(|(_, holds)| *holds) {
            let key = (reason, it.endpoint, it.minute.div_euclid(60));
            if self.groups.len() < GROUPS_MAX || self.groups.contains_key(&key) {
                self.groups.entry(key).or_default().see(block, &it);
            }
        }
    }

    /// What is kept: block → traces.
    pub fn chosen(self) -> BTreeMap<i64, BTreeSet<TraceId>> {
        let mut chosen: BTreeMap<i64, BTreeSet<TraceId>> = BTreeMap::new();
        let grouped = self.groups.into_values().flat_map(|group| {
            let worst = group.worst.into_iter().map(|it| (it.0.1, it.0.2));
            let by_chance = group.by_chance.into_iter().map(|it| (it.1, it.2));
            worst.chain(by_chance)
        });
        for (block, trace_id) in grouped.chain(self.linked) {
            chosen.entry(block).or_default().insert(trace_id);
        }
        chosen
    }
}

impl Group {
    fn see(&mut self, block: i64, it: &Candidate) {
        self.worst
            .push(Reverse((it.duration_ns, block, it.trace_id)));
        if self.worst.len() > WORST {
            self.worst.pop();
        }
        self.by_chance
            .push((chance(it.trace_id), block, it.trace_id));
        if self.by_chance.len() > BY_CHANCE {
            self.by_chance.pop();
        }
    }
}

/// A number that has nothing to do with what the trace is: ids may begin with the time, or count.
fn chance(trace_id: TraceId) -> u64 {
    let (high, low) = trace_id.0.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0, |all, it| all << 8 | u64::from(*it));
    let product = u128::from(number(high) ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from(number(low) ^ 0xd6e8_feb8_6659_fd93);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u64, duration_ns: u64, flags: i16) -> Candidate {
        let mut id = [7; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        Candidate {
            trace_id: TraceId(id),
            endpoint: 1,
            minute: 600,
            duration_ns,
            flags,
        }
    }

    fn kept(p99_ns: u64, candidates: impl IntoIterator<Item = Candidate>) -> Vec<TraceId> {
        let (p99, none) = (HashMap::from([(1, p99_ns)]), BTreeSet::new());
        let mut keeping = Keeping::new(&p99, &none);
        for it in candidates {
            keeping.see(5, it);
        }
        keeping.chosen().into_values().flatten().collect()
    }

    #[test]
    fn the_worst_and_some_by_chance_are_kept_however_many_there_are() {
        let all: Vec<Candidate> = (0..10_000)
            .map(|it| candidate(it, it, FLAG_FINDING))
            .collect();
        let kept = kept(u64::MAX, all.iter().copied());
        assert!(
            (WORST + 1..=WORST + BY_CHANCE).contains(&kept.len()),
            "{}",
            kept.len()
        );
        for worst in &all[10_000 - WORST..] {
            assert!(kept.contains(&worst.trace_id));
        }
    }

    #[test]
    fn what_is_neither_slow_nor_wrong_is_not_kept() {
        let usual = (0..100).map(|it| candidate(it, 50, 0));
        assert_eq!(kept(100, usual), []);
        let odd = [candidate(1, 50, FLAG_ERROR), candidate(2, 101, 0)];
        assert_eq!(kept(100, odd).len(), 2);
    }

    #[test]
    fn each_hour_keeps_its_own() {
        let hours = (0..3).flat_map(|hour| {
            (0..100).map(move |it| Candidate {
                minute: hour * 60,
                ..candidate(hour as u64 * 1_000 + it, it, FLAG_ERROR)
            })
        });
        let kept = kept(u64::MAX, hours);
        assert!(kept.len() > 3 * WORST && kept.len() <= 3 * (WORST + BY_CHANCE));
    }

    #[test]
    fn what_findings_link_to_is_kept() {
        let example = candidate(9, 1, 0);
        let (p99, examples) = (HashMap::new(), BTreeSet::from([example.trace_id]));
        let mut keeping = Keeping::new(&p99, &examples);
        keeping.see(5, example);
        keeping.see(6, candidate(10, 1, 0));
        let expected = BTreeMap::from([(5, BTreeSet::from([example.trace_id]))]);
        assert_eq!(keeping.chosen(), expected);
    }
}
