//! What a fix would save: time on the critical path, bounded by what runs beside it.
//!
//! ```text
//! GET /cart        |--------------------|
//!   SELECT item    |------------------|      on the path for 19 columns,
//!   GET prices     |-----------|             but 12 of them would still be waited for
//! ```
//!
//! Taking the query away makes the path 7 columns shorter, not 19: then the call beside it is the path.

use crate::finding::Severity;
use crate::trace::SpanIdx;
use crate::{Analysis, Entry};

const MS: u64 = 1_000_000;

/// How much of an entry's time some of its spans are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Impact {
    /// Their time on the entry's critical path, ns.
    pub critical_ns: u64,
    /// What of it nothing beside them would have to be waited for anyway, ns: what the entry would
    /// be shorter by if they took no time at all.
    pub removable_ns: u64,
}

/// An entry's critical path, ready to be asked about many spans.
pub struct CriticalTime {
    /// The segments' spans, in tree order.
    spans: Vec<SpanIdx>,
    /// `until_ns[i]` is the time of the first i of them, ns.
    until_ns: Vec<u64>,
}

impl CriticalTime {
    /// Of `entry`.
    pub fn of(entry: &Entry<'_>) -> CriticalTime {
        let segments = entry.path.iter();
        let mut by_span: Vec<_> = segments
            .map(|it| (it.span, it.end_ns - it.start_ns))
            .collect();
        by_span.sort_unstable();
        let mut until_ns = Vec::with_capacity(by_span.len() + 1);
        until_ns.push(0);
        for (_, ns) in &by_span {
            until_ns.push(until_ns.last().unwrap_or(&0) + ns);
        }
        CriticalTime {
            spans: by_span.into_iter().map(|it| it.0).collect(),
            until_ns,
        }
    }

    /// The time on the critical path of `span` and all below it, ns.
    pub fn of_subtree(&self, analysis: &Analysis<'_>, span: SpanIdx) -> u64 {
        let before = |span: SpanIdx| self.until_ns[self.spans.partition_point(|it| *it < span)];
        before(analysis.trace.node(span).subtree_end) - before(span)
    }
}

/// The impact of `spans` (with all that is below them) on `entry`.
pub fn impact(analysis: &Analysis<'_>, entry: &Entry<'_>, spans: &[SpanIdx]) -> Impact {
    let subtrees = Subtrees::of(analysis, spans);
    let on_path: Vec<(u64, u64)> = entry
        .path
        .iter()
        .filter(|it| subtrees.contain(it.span))
        .map(|it| (it.start_ns, it.end_ns))
        .collect();
    let critical_ns = on_path.iter().map(|(start, end)| end - start).sum();
    let beside = beside(analysis, entry, &subtrees);
    Impact {
        critical_ns,
        removable_ns: critical_ns - overlap_ns(&on_path, &beside),
    }
}

/// Disjoint subtrees, in tree order.
struct Subtrees(Vec<(SpanIdx, SpanIdx)>);

impl Subtrees {
    fn of(analysis: &Analysis<'_>, spans: &[SpanIdx]) -> Subtrees {
        let mut spans = spans.to_vec();
        spans.sort_unstable();
        let mut subtrees: Vec<(SpanIdx, SpanIdx)> = Vec::with_capacity(spans.len());
        for span in spans {
            if subtrees.last().is_none_or(|(_, end)| *end <= span) {
                subtrees.push((span, analysis.trace.node(span).subtree_end));
            }
        }
        Subtrees(subtrees)
    }

    /// The first subtree that ends behind `span`.
    fn at_or_after(&self, span: SpanIdx) -> Option<(SpanIdx, SpanIdx)> {
        let at = self.0.partition_point(|(_, end)| *end <= span);
        self.0.get(at).copied()
    }

    fn contain(&self, span: SpanIdx) -> bool {
        self.at_or_after(span)
            .is_some_and(|(begin, _)| begin <= span)
    }
}

/// When something else of the entry ran that it waits for: the largest subtrees without any of
/// `subtrees` in them, as intervals in order of start.
fn beside(analysis: &Analysis<'_>, entry: &Entry<'_>, subtrees: &Subtrees) -> Vec<(u64, u64)> {
    let trace = &analysis.trace;
    let end = trace.node(entry.span).subtree_end;
    let mut beside = Vec::new();
    let mut at = entry.span + 1;
    while at < end {
        let node = trace.node(at);
        at = match subtrees.at_or_after(at) {
            Some((begin, end)) if begin <= at => end,
            _ if node.detached => node.subtree_end,
            Some((begin, _)) if begin < node.subtree_end => at + 1,
            _ => {
                beside.push((node.start_ns, node.end_ns));
                node.subtree_end
            }
        };
    }
    beside.sort_unstable();
    beside
}

/// How much of `path` (in order, disjoint) the intervals `others` (in order of start) cover, ns.
fn overlap_ns(path: &[(u64, u64)], others: &[(u64, u64)]) -> u64 {
    let mut path = path.iter();
    let mut stretch = path.next();
    let mut covered_until = 0;
    let mut overlap = 0;
    for &(start, end) in others {
        let mut from = start.max(covered_until);
        while let Some(&(stretch_start, stretch_end)) = stretch {
            if stretch_end <= from {
                stretch = path.next();
                continue;
            }
            let begin = from.max(stretch_start);
            if begin >= end {
                break;
            }
            let until = end.min(stretch_end);
            overlap += until - begin;
            from = until;
        }
        covered_until = covered_until.max(end);
    }
    overlap
}

/// How much saving `saved_ns` of a request that takes `duration_ns` matters.
pub fn severity(saved_ns: u64, duration_ns: u64) -> Severity {
    let share_at_least = |percent: u64| {
        duration_ns > 0
            && u128::from(saved_ns) * 100 >= u128::from(duration_ns) * u128::from(percent)
    };
    if share_at_least(30) || saved_ns >= 500 * MS {
        Severity::Critical
    } else if share_at_least(10) && saved_ns >= 20 * MS || saved_ns >= 100 * MS {
        Severity::Warning
    } else {
        Severity::Info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn severity_has_a_relative_and_an_absolute_bound() {
        let cases = [
            (30 * MS, 100 * MS, Severity::Critical),
            (500 * MS, 10_000 * MS, Severity::Critical),
            (20 * MS, 200 * MS, Severity::Warning),
            (19 * MS, 190 * MS, Severity::Info),
            (100 * MS, 10_000 * MS, Severity::Warning),
            (99 * MS, 10_000 * MS, Severity::Info),
            (0, 0, Severity::Info),
            (u64::MAX, u64::MAX, Severity::Critical),
        ];
        for (saved, duration, expected) in cases {
            assert_eq!(severity(saved, duration), expected, "{saved} of {duration}");
        }
    }

    proptest! {
        #[test]
        fn overlap_is_what_counting_column_by_column_says(
            stretches in proptest::collection::vec((0..6u64, 1..6u64), 0..6),
            others in proptest::collection::vec((0..30u64, 0..8u64), 0..6),
        ) {
            let mut path = Vec::new();
            let mut at = 0;
            for (gap, len) in stretches {
                path.push((at + gap, at + gap + len));
                at += gap + len;
            }
            let mut others: Vec<_> = others.iter().map(|(start, len)| (*start, start + len)).collect();
            others.sort_unstable();
            let inside = |column: u64, it: &[(u64, u64)]| it.iter().any(|(s, e)| *s <= column && column < *e);
            let expected = (0..100).filter(|it| inside(*it, &path) && inside(*it, &others)).count();
            prop_assert_eq!(overlap_ns(&path, &others), expected as u64);
        }
    }
}
