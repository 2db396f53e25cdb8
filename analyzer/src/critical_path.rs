//! What a request waited for at each instant: the last-finishing child, walked backwards.
//!
//! ```text
//! parent   |------------------------|
//! a          |------|
//! b             |------|                 parallel to c and done earlier: nothing waited for it
//! c               |---------|
//! path     |-|p|                         down to a's end … and so on, from right to left:
//!          pp aa  p cccccccccc ppppp
//! ```
//!
//! From a span's end backwards, the child that ended last is what was waited for; between that end
//! and here the span did its own work. At the child's start the question is asked again.

use crate::identity::is_entry;
use crate::sender;
use crate::span::{SpanKind, Status};
use crate::trace::{SpanIdx, Trace};
use std::cmp::Reverse;

/// A stretch of time on the path and the deepest span that was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The deepest span.
    pub span: SpanIdx,
    /// From, ns since the Unix epoch.
    pub start_ns: u64,
    /// To, ns since the Unix epoch; after `start_ns`.
    pub end_ns: u64,
}

/// Two siblings that overlap by at most this share of their parent count as sequential: clocks tick
/// in steps, and instrumentations end a span a little after what they measure.
const OVERLAP_SHARE: u64 = 100;

/// A call that ends so long after its request (ns, and a share of the request) outlasted it. Less is how
/// coarse clocks are: some count milliseconds.
const OUTLASTS_NS: u64 = 1_000_000;
const OUTLASTS_SHARE: u64 = 100;

/// The path goes down into the services a service calls, and without a limit a chain of a million
/// services would have paths of 10^12 stretches. All paths of a trace together have about so many;
/// so paths of a trace of a thousand spans go down a hundred services.
const STRETCHES_MAX: usize = 100_000;

/// And so many services down in any trace. The time of a deeper one belongs to its entry span as a
/// whole; each service's own path shows its inside.
const NESTED_ENTRIES_MIN: u32 = 8;

/// Finds paths; keeps its memory from one to the next.
#[derive(Debug)]
pub struct Walker<'t, 'a> {
    trace: &'t Trace<'a>,
    /// How many services down paths go.
    nested_max: u32,
    frames: Vec<Frame>,
    /// The children that the open frames have not looked at yet, each frame's sorted by end.
    pending: Vec<Child>,
    stretches: Vec<Stretch>,
}

/// A span the walk is inside of.
#[derive(Debug)]
struct Frame {
    span: SpanIdx,
    /// The start of what is visible of the span.
    start_ns: u64,
    /// How far back the walk has come.
    at_ns: u64,
    overlap_ns: u64,
    nested: u32,
    /// The entry that the span is a part of.
    entry: SpanIdx,
    /// Where its children begin in `pending`.
    pending: usize,
}

/// A child, ordered by what is looked at first: the latest end, then the earliest start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Child {
    end_ns: u64,
    start_ns: Reverse<u64>,
    span: Reverse<SpanIdx>,
}

impl<'t, 'a> Walker<'t, 'a> {
    /// A walker over `trace`.
    pub fn new(trace: &'t Trace<'a>) -> Walker<'t, 'a> {
        let nested_max = STRETCHES_MAX / trace.nodes.len().max(1);
        Walker {
            trace,
            nested_max: u32::try_from(nested_max)
                .unwrap_or(u32::MAX)
                .max(NESTED_ENTRIES_MIN),
            frames: Vec::new(),
            pending: Vec::new(),
            stretches: Vec::new(),
        }
    }

    /// The critical path of the span at `idx`, in order of time, without gaps or overlaps, from its
    /// start to its end. Empty for an instant.
    pub fn path(&mut self, idx: SpanIdx) -> &[Stretch] {
        self.stretches.clear();
        let node = self.trace.node(idx);
        self.enter(idx, node.start_ns, node.end_ns, 0, idx);
        while let Some(mut frame) = self.frames.pop() {
            match self.next_child(&mut frame) {
                Some(child) => self.descend(frame, child),
                None => self.emit(frame.span, frame.start_ns, frame.at_ns),
            }
        }
        self.stretches.reverse();
        &self.stretches
    }

    fn enter(&mut self, span: SpanIdx, start_ns: u64, end_ns: u64, nested: u32, entry: SpanIdx) {
        let pending = self.pending.len();
        if nested <= self.nested_max {
            let trace = self.trace;
            let children = trace.children(span).filter_map(|child| {
                let node = trace.node(child);
                let blocks = !node.detached
                    && node.start_ns < node.end_ns
                    && node.start_ns < end_ns
                    && node.end_ns > start_ns
                    && !(outlasts(trace, child, entry) && goes_on_beside(trace, child, entry));
                blocks.then_some(Child {
                    end_ns: node.end_ns.min(end_ns),
                    start_ns: Reverse(node.start_ns.max(start_ns)),
                    span: Reverse(child),
                })
            });
            self.pending.extend(children);
            self.pending[pending..].sort_unstable();
        }
        self.frames.push(Frame {
            span,
            start_ns,
            at_ns: end_ns,
            overlap_ns: self.trace.duration_ns(span) / OVERLAP_SHARE,
            nested,
            entry,
            pending,
        });
    }

    /// The child that `frame` waited for last before where the walk is, clipped to that.
    fn next_child(&mut self, frame: &mut Frame) -> Option<Child> {
        while self.pending.len() > frame.pending {
            let mut child = self.pending.pop()?;
            let parallel = child.end_ns > frame.at_ns.saturating_add(frame.overlap_ns);
            child.end_ns = child.end_ns.min(frame.at_ns);
            if !parallel && child.start_ns.0 < child.end_ns {
                return Some(child);
            }
        }
        None
    }

    fn descend(&mut self, mut frame: Frame, child: Child) {
        let (span, start_ns) = (child.span.0, child.start_ns.0);
        self.emit(frame.span, child.end_ns, frame.at_ns);
        frame.at_ns = start_ns;
        let (nested, entry) = match is_entry(self.trace.span(span)) {
            true => (frame.nested + 1, span),
            false => (frame.nested, frame.entry),
        };
        self.frames.push(frame);
        self.enter(span, start_ns, child.end_ns, nested, entry);
    }

    fn emit(&mut self, span: SpanIdx, start_ns: u64, end_ns: u64) {
        if start_ns < end_ns {
            self.stretches.push(Stretch {
                span,
                start_ns,
                end_ns,
            });
        }
    }
}

/// Is `child` a call that was still under way when its request, `entry`, had been answered? Nobody
/// awaited it: it was sent on the side.
///
/// ```text
/// shop  POST /order      |---------|
/// shop    SELECT cart     |-|
/// shop    POST loki          |------------|     without an await, or in a goroutine
/// ```
///
/// A request that failed may have waited for it and given up; it keeps its calls. Where nothing else of the
/// request can be seen beside it, the path still leads through it, cut at the request's end like any
/// other span: something the request did in that time, and there is no better name for it.
pub fn outlasts(trace: &Trace<'_>, child: SpanIdx, entry: SpanIdx) -> bool {
    let end_ns = trace.node(entry).end_ns;
    let late_ns = trace.node(child).end_ns.saturating_sub(end_ns);
    if late_ns <= OUTLASTS_NS || late_ns <= trace.duration_ns(entry) / OUTLASTS_SHARE {
        return false;
    }
    let (call, request) = (trace.span(child), trace.span(entry));
    // Only within a process is the order of two ends certain; and other spans than calls may only be
    // ended late.
    call.kind == SpanKind::Client
        && sender::of(&trace.senders, call.resource) == sender::of(&trace.senders, request.resource)
        && request.kind == SpanKind::Server
        && request.status != Status::Error
}

/// So many siblings of a call that outlasts its request are looked at, and of each of its ancestors: it is asked
/// for each such call, and a million of them may stand side by side. What stands behind is not seen.
const SIBLINGS_MAX: usize = 64;

/// Something else of the request ran while `child` was under way.
fn goes_on_beside(trace: &Trace<'_>, child: SpanIdx, entry: SpanIdx) -> bool {
    let (start_ns, end_ns) = (trace.node(child).start_ns, trace.node(entry).end_ns);
    let ran = |it: SpanIdx| trace.node(it).end_ns > start_ns && trace.node(it).start_ns < end_ns;
    let ancestors = std::iter::successors(Some(child), |it| trace.node(*it).parent);
    let mut inside = ancestors.take_while(|it| *it > entry).take(SIBLINGS_MAX);
    inside.any(|at| {
        let next = |it: &SpanIdx| trace.node(*it).next_sibling;
        let first = trace
            .node(at)
            .parent
            .and_then(|it| trace.node(it).first_child);
        let mut siblings = std::iter::successors(first, next)
            .take(SIBLINGS_MAX)
            .chain(std::iter::successors(next(&at), next).take(SIBLINGS_MAX));
        siblings.any(|it| it != at && ran(it) && !outlasts(trace, it, entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;
    use expect_test::{Expect, expect};

    /// The path of the first span: who was waited for, from when to when, ms.
    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let trace = Trace::assemble(drawing.spans());
        let ms = |ns: u64| (ns - drawing.start_ns) / 1_000_000;
        let lines: Vec<String> = Walker::new(&trace)
            .path(0)
            .iter()
            .map(|it| {
                let name = trace.span(it.span).name;
                format!("{}..{} {name}\n", ms(it.start_ns), ms(it.end_ns))
            })
            .collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_call_that_outlasts_its_request_was_not_awaited() {
        check(
            "
            shop  POST /order                |---------|
            shop    SELECT cart               |-|
            shop    handler                      |-----|
            shop      POST loki [client]           |------------|
            shop      UPDATE cart                    |-|
            ",
            expect![[r#"
                0..1 POST /order
                1..3 SELECT cart
                3..4 POST /order
                4..8 handler
                8..10 UPDATE cart
            "#]],
        );
    }

    #[test]
    fn unless_the_request_gave_up_or_did_nothing_more_or_clocks_are_coarse() {
        check(
            "
            shop  POST /order {error}        |---------|
            shop    POST stock [client]          |------------|
            ",
            expect![[r#"
                0..4 POST /order
                4..10 POST stock
            "#]],
        );
        check(
            "
            shop  POST /order                |---------|
            shop    POST stock [client]          |------------|
            ",
            expect![[r#"
                0..4 POST /order
                4..10 POST stock
            "#]],
        );
        check(
            "
            shop  POST /order                |---------|
            shop    POST stock [client]          |------|
            ",
            expect![[r#"
                0..4 POST /order
                4..10 POST stock
            "#]],
        );
    }

    #[test]
    fn a_path_goes_down_many_services_of_a_small_trace() {
        let mut drawn = String::new();
        for depth in 0..30 {
            drawn += &format!(
                "{}s{depth}  GET /  {}|{}|\n",
                "  ".repeat(depth),
                " ".repeat(70 - depth),
                "-".repeat(60 - 2 * depth)
            );
        }
        let drawing = drawing::parse(&drawn);
        let trace = Trace::assemble(drawing.spans());
        let mut walker = Walker::new(&trace);
        let deepest = walker.path(0).iter().map(|it| it.span).max();
        assert_eq!(deepest, Some(29));
    }

    #[test]
    fn one_after_the_other() {
        check(
            "
            shop  GET /       |--------------------|
            shop    a         |--|
            shop    b            |--|
            shop    c                 |---|
            ",
            expect![[r#"
                0..3 a
                3..6 b
                6..8 GET /
                8..12 c
                12..21 GET /
            "#]],
        );
    }

    #[test]
    fn of_parallel_children_the_last_one_counts() {
        check(
            "
            shop  GET /       |--------------------|
            shop    before    |--|
            shop    quick         |--|
            shop    slow          |---------|
            shop      inner         |--|
            ",
            expect![[r#"
                0..3 before
                3..4 GET /
                4..6 slow
                6..9 inner
                9..14 slow
                14..21 GET /
            "#]],
        );
    }

    #[test]
    fn of_children_that_end_together_the_longest_counts() {
        check(
            "
            shop  GET /       |--------------------|
            shop    late               |-----------|
            shop    long       |-------------------|
            ",
            expect![[r#"
                0..1 GET /
                1..21 long
            "#]],
        );
    }

    #[test]
    fn children_are_clipped_to_their_parents() {
        check(
            "
            shop  GET /          |----------|
            shop    early     |----|
            shop    late                |-----------|
            ",
            expect![[r#"
                3..5 early
                5..10 GET /
                10..14 late
            "#]],
        );
    }

    #[test]
    fn detached_work_is_not_waited_for() {
        check(
            "
            shop  GET /                |----------|
            shop    publish [producer]  |---|
            mail      send [consumer]    |--------|
            shop    after                            |---|
            ",
            expect![[r#"
                0..1 GET /
                1..5 publish
                5..11 GET /
            "#]],
        );
    }

    #[test]
    fn a_hair_of_overlap_is_none() {
        let hundred = "-".repeat(199);
        check(
            &format!(
                "
            shop  GET /       |{hundred}|
            shop    a           |---------|
            shop    b                    |---------|
            shop    c         |---|
            "
            ),
            expect![[r#"
                0..2 c
                2..11 a
                11..21 b
                21..200 GET /
            "#]],
        );
    }

    #[test]
    fn through_services() {
        check(
            "
            shop      GET /                  |--------------------|
            shop        call [client]          |-------------|
            payments      POST /charge            |-------|
            payments        SELECT account          |---|
            ",
            expect![[r#"
                0..2 GET /
                2..5 call
                5..7 POST /charge
                7..11 SELECT account
                11..13 POST /charge
                13..16 call
                16..21 GET /
            "#]],
        );
    }

    #[test]
    fn an_instant_has_no_path() {
        check("shop GET / |", expect![[""]]);
    }
}
