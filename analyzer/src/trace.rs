//! Spans → one tree.
//!
//! [`Trace::assemble`] is the list of steps. They work on a draft in which spans stand in order of
//! their ids, so that the order of arrival is forgotten before anything is decided. Everything is a
//! loop over arrays: a chain of a million spans is as welcome as a million siblings.
//!
//! ```text
//! as sent                 dedupe · link · cut cycles · clamp · clock skew · sort
//! 7 ← 3  |---|            1   |-----------|
//! 1      |-----------|    3     |------|
//! 3 ← 1    |------|       7        |---|      under its parent, in order of start
//! 3 ← 1    |------|
//! ```

use crate::clock_skew;
use crate::sender::{self, Sender};
use crate::span::{Span, SpanKind, Spans};
use std::cmp::{Ordering, Reverse};
use std::ops::Range;

/// A span's position in [`Trace::spans`]: after assembly, spans stand in order of the tree.
pub type SpanIdx = u32;

/// The spans of one trace as a tree (a forest under one virtual root), in depth-first order of start.
#[derive(Clone, Debug, Default)]
pub struct Trace<'a> {
    /// What was decoded; `spans.spans` is deduplicated and stands in depth-first order.
    pub spans: Spans<'a>,
    /// Tree data beside each span, same order.
    pub nodes: Vec<Node>,
    /// Spans without a parent in the trace: the root and orphans, in order of start.
    pub roots: Vec<SpanIdx>,
    /// What was odd about the input and what was done about it, for the trace's page.
    pub warnings: Vec<Warning>,
    /// How often what was odd, whether or not there is a warning left for it.
    pub oddities: Oddities,
    /// The senders of all resources, same order.
    pub senders: Vec<Sender<'a>>,
}

/// How many spans were odd, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Oddities {
    /// Ids that arrived with different contents.
    pub versions: u32,
    /// Spans that were their own ancestors.
    pub cycles: u32,
    /// Spans that never ended, or whose times were cut or turned round.
    pub times: u32,
    /// Spans of another host whose clock was off and was corrected.
    pub shifted: u32,
    /// Spans of another host whose clock was too far off to be corrected.
    pub not_shifted: u32,
}

/// A span's place in the tree, and its corrected times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The parent in the tree.
    pub parent: Option<SpanIdx>,
    /// The first child, if any; siblings follow by `next_sibling`, in order of start.
    pub first_child: Option<SpanIdx>,
    /// The next child of the same parent.
    pub next_sibling: Option<SpanIdx>,
    /// Distance from the root, 0 for roots.
    pub depth: u32,
    /// One past the last descendant: the subtree is `idx..subtree_end`.
    pub subtree_end: SpanIdx,
    /// Start after clock-skew correction, ns since the Unix epoch.
    pub start_ns: u64,
    /// End after clock-skew correction, ns since the Unix epoch; never before the start.
    pub end_ns: u64,
    /// The span names a parent that is not here.
    pub orphan: bool,
    /// A child that does not block its parent: producer→consumer, or outside its parent's time.
    pub detached: bool,
}

/// Something odd about a trace, and what was done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The span it is about, if one.
    pub span: Option<SpanIdx>,
    /// A sentence for people.
    pub text: String,
}

/// So many warnings are kept, the first in tree order; one more says how many were not. A page of
/// them is as much as anybody reads, and a broken clock gives one per call.
pub const WARNINGS_MAX: usize = 100;

/// Times beyond this, in the year 2262, are cut: they are broken clocks, and everything that stores
/// times has signed 64-bit integers. ns since the Unix epoch.
pub const TIME_MAX_NS: u64 = i64::MAX as u64;

/// Longer spans are cut, ns: no request lasts a year; a start of 0 with a sane end does. Without it a
/// handful of them would overflow every sum of durations.
pub const DURATION_MAX_NS: u64 = 365 * 24 * 3_600 * 1_000_000_000;

impl<'a> Trace<'a> {
    /// From the first span's start to the last one's end, ns since the epoch; empty without spans.
    pub fn time_ns(&self) -> Range<u64> {
        let start = self.nodes.iter().map(|it| it.start_ns).min();
        let end = self.nodes.iter().map(|it| it.end_ns).max();
        start.unwrap_or(0)..end.unwrap_or(0)
    }

    /// Builds the tree. Total on any input; every distinct span appears exactly once; the order of
    /// arrival never matters.
    pub fn assemble(spans: Spans<'a>) -> Trace<'a> {
        let senders = sender::senders(&spans);
        let mut draft = Draft::new(&spans, &senders);
        draft.dedupe();
        draft.link();
        draft.share_ids();
        draft.cut_cycles();
        draft.clamp();
        // Only now is there a tree to walk down from clients to servers.
        clock_skew::correct(&mut draft);
        let order = draft.depth_first();
        let nodes = draft.nodes(&order);
        let warnings = draft.warnings(&order);
        let oddities = draft.oddities;
        let sources = order.iter().map(|at| draft.sources[*at as usize]).collect();
        Trace {
            roots: roots(&nodes),
            nodes,
            warnings,
            oddities,
            senders,
            spans: reorder(spans, sources),
        }
    }

    /// The span at `idx`.
    pub fn span(&self, idx: SpanIdx) -> &Span<'a> {
        &self.spans.spans[idx as usize]
    }

    /// The node at `idx`.
    pub fn node(&self, idx: SpanIdx) -> &Node {
        &self.nodes[idx as usize]
    }

    /// A span's children in order of start.
    pub fn children(&self, idx: SpanIdx) -> impl Iterator<Item = SpanIdx> + '_ {
        std::iter::successors(self.node(idx).first_child, |it| self.node(*it).next_sibling)
    }

    /// Corrected duration, ns.
    pub fn duration_ns(&self, idx: SpanIdx) -> u64 {
        let node = self.node(idx);
        node.end_ns - node.start_ns
    }
}

/// A position in the draft: an index into [`Draft::sources`] and its siblings.
pub(crate) type At = u32;

/// No parent, no child.
pub(crate) const NONE: At = At::MAX;

/// A trace while it is being built. Positions are in order of id (then kind), whatever the order of
/// arrival was, so ties that are broken by position are broken by id.
pub(crate) struct Draft<'s, 'a> {
    pub(crate) spans: &'s Spans<'a>,
    pub(crate) senders: &'s [Sender<'a>],
    /// Where each span stands in `spans`.
    pub(crate) sources: Vec<u32>,
    /// Ids as numbers, ascending.
    ids: Vec<u64>,
    pub(crate) parents: Vec<At>,
    orphans: Vec<bool>,
    /// Corrected times, ns.
    pub(crate) times: Vec<Range<u64>>,
    /// `span` is a position in the draft.
    pub(crate) warnings: Vec<Warning>,
    pub(crate) oddities: Oddities,
}

impl<'s, 'a> Draft<'s, 'a> {
    fn new(spans: &'s Spans<'a>, senders: &'s [Sender<'a>]) -> Self {
        Draft {
            spans,
            senders,
            sources: Vec::new(),
            ids: Vec::new(),
            parents: Vec::new(),
            orphans: Vec::new(),
            times: Vec::new(),
            warnings: Vec::new(),
            oddities: Oddities::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sources.len()
    }

    pub(crate) fn span(&self, at: At) -> &'s Span<'a> {
        &self.spans.spans[self.sources[at as usize] as usize]
    }

    pub(crate) fn sender(&self, at: At) -> Sender<'a> {
        sender::of(self.senders, self.span(at).resource)
    }

    pub(crate) fn warn(&mut self, at: At, text: impl Into<String>) {
        let text = text.into();
        let span = Some(at);
        self.warnings.push(Warning { span, text });
    }

    /// One span per id and kind. A retry brings a span twice: same content, and one goes. A retry
    /// that was enriched on its way has other content: the more complete one is analysed.
    fn dedupe(&mut self) {
        let spans = &self.spans.spans;
        let mut arrived: Vec<(u64, u32)> = (0..)
            .zip(spans)
            .map(|(source, span)| (u64::from_be_bytes(span.id.0), source))
            .collect();
        arrived.sort_unstable();
        self.sources.reserve(arrived.len());
        self.ids.reserve(arrived.len());
        for same_id in arrived.chunk_by_mut(|a, b| a.0 == b.0) {
            if let [only] = same_id {
                self.keep(*only);
                continue;
            }
            same_id.sort_unstable_by(|(_, a), (_, b)| {
                let by_span = self.preference(*a).cmp(&self.preference(*b));
                by_span.then_with(|| self.compare_origins(*a, *b))
            });
            let kind = |it: &(u64, u32)| spans[it.1 as usize].kind;
            let (first, last) = (kind(&same_id[0]), kind(&same_id[same_id.len() - 1]));
            for same_kind in same_id.chunk_by(|a, b| kind(a) == kind(b)) {
                self.keep(same_kind[0]);
                self.warn_of_versions(same_kind);
            }
            // Both sides of a call may share an id, as Zipkin's do; others do not.
            let shared = [
                (SpanKind::Client, SpanKind::Server),
                (SpanKind::Producer, SpanKind::Consumer),
            ];
            if first != last && !shared.contains(&(first, last)) {
                self.oddities.versions += 1;
                let text = "Different spans have this one's id; each is shown.";
                self.warn(self.len() as At - 1, text);
            }
        }
    }

    fn keep(&mut self, (id, source): (u64, u32)) {
        self.sources.push(source);
        self.ids.push(id);
    }

    /// Orders spans of one id: by kind, the one to keep first. The caller's side of a shared id
    /// stands before the callee's.
    fn preference(&self, source: u32) -> impl Ord + use<'a> {
        let span = &self.spans.spans[source as usize];
        let kind = match span.kind {
            SpanKind::Client => 0,
            SpanKind::Producer => 1,
            SpanKind::Internal => 2,
            SpanKind::Unspecified => 3,
            SpanKind::Consumer => 4,
            SpanKind::Server => 5,
        };
        let sender = sender::of(self.senders, span.resource);
        let complete = Reverse((span.end_ns, span.attributes.len(), span.content));
        (kind, complete, sender)
    }

    /// The same bytes may come under two descriptions of their sender or instrumentation, because a
    /// collector on one of two ways adds to them: the longer one is kept, of equals always the same.
    fn compare_origins(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (&self.spans.spans[a as usize], &self.spans.spans[b as usize]);
        if (a.resource, a.scope) == (b.resource, b.scope) {
            return Ordering::Equal;
        }
        let resource = |it: &Span<'_>| self.spans.resources.get(it.resource as usize);
        let scope = |it: &Span<'_>| {
            let scope = self.spans.scopes.get(it.scope as usize);
            scope.map(|it| (it.name, it.version))
        };
        let length = |it| resource(it).map_or(0, |it| it.attributes.len());
        let by_length = length(b).cmp(&length(a));
        by_length
            .then_with(|| scope(a).cmp(&scope(b)))
            .then_with(|| match resource(a) == resource(b) {
                true => Ordering::Equal,
                // Rare enough for text, which orders what has no order of its own.
                false => format!("{:?}", resource(a)).cmp(&format!("{:?}", resource(b))),
            })
    }

    fn warn_of_versions(&mut self, same_kind: &[(u64, u32)]) {
        let content = |it: &(u64, u32)| self.spans.spans[it.1 as usize].content;
        let kept = content(&same_kind[0]);
        if same_kind.iter().any(|it| content(it) != kept) {
            self.oddities.versions += 1;
            let text = "This span arrived in different versions; the one that ends last is shown.";
            self.warn(self.len() as At - 1, text);
        }
    }

    /// Finds every span's parent: both sides sorted by id, then one pass over both.
    fn link(&mut self) {
        self.parents = vec![NONE; self.len()];
        self.orphans = vec![false; self.len()];
        let mut wanted: Vec<(u64, At)> = (0..self.len() as At)
            .filter_map(|at| {
                let id = self.span(at).parent_id.filter(|it| !it.is_zero())?;
                Some((u64::from_be_bytes(id.0), at))
            })
            .collect();
        wanted.sort_unstable();
        let mut from = 0;
        for (id, at) in wanted {
            while from < self.len() && self.ids[from] < id {
                from += 1;
            }
            let same_id = self.ids[from..].iter().take_while(|it| **it == id).count();
            self.adopt(at, from as At..(from + same_id) as At);
        }
    }

    /// `candidates` have the id that the span at `at` names as its parent's.
    fn adopt(&mut self, at: At, candidates: Range<At>) {
        // Nearly always there is one.
        if candidates.len() == 1 && candidates.start != at {
            self.parents[at as usize] = candidates.start;
            return;
        }
        let others = || candidates.clone().filter(|it| *it != at);
        // Of a client and a server span with one id, the parent is the one in the child's process;
        // the server's side, which comes last, if neither is.
        let sender = self.sender(at);
        let near = others().rfind(|it| self.sender(*it) == sender);
        match near.or_else(|| others().next_back()) {
            Some(parent) => self.parents[at as usize] = parent,
            None if candidates.is_empty() => self.orphans[at as usize] = true,
            None => {
                self.oddities.cycles += 1;
                self.warn(
                    at,
                    "This span names itself as its parent; it is shown as a root.",
                );
            }
        }
    }

    /// Zipkin's way: client and server share one id. The server span is the client span's child.
    fn share_ids(&mut self) {
        let mut from = 0;
        while from < self.len() {
            let same_id = self.ids[from..]
                .iter()
                .take_while(|it| **it == self.ids[from]);
            let same_id = from as At..(from + same_id.count()) as At;
            from = same_id.end as usize;
            if same_id.len() < 2 {
                continue;
            }
            let kind = |at: At| self.span(at).kind;
            let find = |wanted| same_id.clone().find(|at| kind(*at) == wanted);
            for (caller, callee) in [
                (find(SpanKind::Client), find(SpanKind::Server)),
                (find(SpanKind::Producer), find(SpanKind::Consumer)),
            ] {
                if let (Some(caller), Some(callee)) = (caller, callee) {
                    self.parents[callee as usize] = caller;
                    self.orphans[callee as usize] = false;
                }
            }
        }
    }

    /// Breaks every circle of parents at its span of earliest start, which becomes a root.
    fn cut_cycles(&mut self) {
        // Which walk came by: each span is walked over once, so this is linear.
        let mut walks = vec![NONE; self.len()];
        for from in 0..self.len() as At {
            let mut at = from;
            while at != NONE && walks[at as usize] == NONE {
                walks[at as usize] = from;
                at = self.parents[at as usize];
            }
            if at != NONE && walks[at as usize] == from {
                self.cut_cycle(at);
            }
        }
    }

    fn cut_cycle(&mut self, member: At) {
        let next = |at: &At| Some(self.parents[*at as usize]).filter(|it| *it != member);
        let members = std::iter::successors(Some(member), next);
        let first = members.min_by_key(|at| {
            let span = self.span(*at);
            (span.start_ns, Reverse(span.end_ns), *at)
        });
        let first = first.unwrap_or(member);
        self.parents[first as usize] = NONE;
        self.oddities.cycles += 1;
        self.warn(
            first,
            "This span is its own ancestor; it is shown as a root.",
        );
    }

    /// No span ends before it starts, lasts longer than [`DURATION_MAX_NS`] or lies beyond [`TIME_MAX_NS`].
    fn clamp(&mut self) {
        self.times.reserve(self.len());
        for at in 0..self.len() as At {
            let span = self.span(at);
            let start = match never_began(span) {
                true => span.end_ns,
                false => span.start_ns,
            };
            let start = start.min(TIME_MAX_NS);
            let end_max = start.saturating_add(DURATION_MAX_NS).min(TIME_MAX_NS);
            self.times.push(start..span.end_ns.clamp(start, end_max));
            if let Some(text) = odd_times(span) {
                self.oddities.times += 1;
                self.warn(at, text);
            }
        }
    }

    /// Positions in the order of the tree: parents before children, siblings by start.
    fn depth_first(&self) -> Vec<At> {
        let mut sorted: Vec<(u64, Reverse<u64>, At)> = (0..)
            .zip(&self.times)
            .map(|(at, time)| (time.start, Reverse(time.end), at))
            .collect();
        sorted.sort_unstable();
        // Backwards, so that each list of siblings, built by putting in front, ends up sorted.
        let mut first_root = NONE;
        let mut first_child = vec![NONE; self.len()];
        let mut next_sibling = vec![NONE; self.len()];
        for (_, _, at) in sorted.into_iter().rev() {
            let head = match self.parents[at as usize] {
                NONE => &mut first_root,
                parent => &mut first_child[parent as usize],
            };
            next_sibling[at as usize] = std::mem::replace(head, at);
        }
        let mut order = Vec::with_capacity(self.len());
        let mut at = first_root;
        while at != NONE {
            order.push(at);
            let down = first_child[at as usize];
            if down != NONE {
                at = down;
                continue;
            }
            while at != NONE && next_sibling[at as usize] == NONE {
                at = self.parents[at as usize];
            }
            if at != NONE {
                at = next_sibling[at as usize];
            }
        }
        order
    }

    /// The finished nodes. Depth-first order makes the tree's pointers a matter of counting.
    fn nodes(&self, order: &[At]) -> Vec<Node> {
        let idx_of = inverse(order);
        let mut nodes: Vec<Node> = Vec::with_capacity(order.len());
        for at in order.iter().map(|at| *at as usize) {
            let parent = match self.parents[at] {
                NONE => None,
                parent => Some(idx_of[parent as usize]),
            };
            nodes.push(Node {
                parent,
                depth: parent.map_or(0, |it| nodes[it as usize].depth + 1),
                // Grows to its end as descendants report, below.
                subtree_end: nodes.len() as SpanIdx + 1,
                start_ns: self.times[at].start,
                end_ns: self.times[at].end,
                orphan: self.orphans[at],
                ..Node::default()
            });
        }
        for idx in (0..nodes.len()).rev() {
            let node = nodes[idx];
            if let Some(parent) = node.parent {
                let detached = self.is_detached(order[idx], &node, &nodes[parent as usize]);
                nodes[idx].detached = detached;
                let above = &mut nodes[parent as usize];
                above.subtree_end = above.subtree_end.max(node.subtree_end);
                above.first_child = Some(idx as SpanIdx);
                let next = nodes.get(node.subtree_end as usize);
                if next.is_some_and(|it| it.parent == node.parent) {
                    nodes[idx].next_sibling = Some(node.subtree_end);
                }
            }
        }
        nodes
    }

    fn is_detached(&self, at: At, child: &Node, parent: &Node) -> bool {
        let kind = self.span(at).kind;
        let hand_over = kind == SpanKind::Consumer
            && self.span(self.parents[at as usize]).kind == SpanKind::Producer;
        let instant_inside = child.start_ns == child.end_ns
            && child.start_ns >= parent.start_ns
            && child.end_ns <= parent.end_ns;
        let outside = child.start_ns >= parent.end_ns || child.end_ns <= parent.start_ns;
        hand_over || (outside && !instant_inside)
    }

    /// The warnings in tree order, and no more of them than anybody reads.
    fn warnings(&mut self, order: &[At]) -> Vec<Warning> {
        let mut warnings = std::mem::take(&mut self.warnings);
        if warnings.is_empty() {
            return warnings;
        }
        let idx_of = inverse(order);
        for warning in &mut warnings {
            warning.span = warning.span.map(|at| idx_of[at as usize]);
        }
        warnings.sort_by(|a, b| (a.span, &a.text).cmp(&(b.span, &b.text)));
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        if more > 0 {
            warnings.truncate(WARNINGS_MAX);
            let text = format!("{more} more warnings are not shown.");
            warnings.push(Warning { span: None, text });
        }
        warnings
    }
}

/// Its start was not set, and is not meant to be the Unix epoch.
fn never_began(span: &Span<'_>) -> bool {
    span.start_ns == 0 && span.end_ns > DURATION_MAX_NS
}

/// What is wrong with a span's times, if anything.
fn odd_times(span: &Span<'_>) -> Option<&'static str> {
    if span.start_ns.max(span.end_ns) > TIME_MAX_NS {
        Some("This span lies beyond the year 2262; its times were cut there.")
    } else if span.end_ns == 0 && span.start_ns > 0 {
        Some("This span never ended; it is shown as an instant.")
    } else if never_began(span) {
        Some("This span has no start; it is shown as an instant.")
    } else if span.end_ns < span.start_ns {
        Some("This span ends before it starts; it is shown as an instant.")
    } else if span.end_ns - span.start_ns > DURATION_MAX_NS {
        Some("This span lasts longer than a year; it was cut there.")
    } else {
        None
    }
}

fn inverse(order: &[At]) -> Vec<SpanIdx> {
    let mut idx_of = vec![0; order.len()];
    for (idx, at) in (0..).zip(order) {
        idx_of[*at as usize] = idx;
    }
    idx_of
}

fn roots(nodes: &[Node]) -> Vec<SpanIdx> {
    let next = |idx: &SpanIdx| Some(nodes.get(*idx as usize)?.subtree_end);
    let all = std::iter::successors(Some(0), next);
    all.take_while(|idx| (*idx as usize) < nodes.len())
        .collect()
}

/// The spans that stand at `sources` now, in that order.
fn reorder<'a>(mut spans: Spans<'a>, sources: Vec<u32>) -> Spans<'a> {
    let take = |source: u32| std::mem::take(&mut spans.spans[source as usize]);
    spans.spans = sources.into_iter().map(take).collect();
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::{self, Drawing};
    use crate::span::{Attribute, Resource, SpanId, Value};
    use expect_test::{Expect, expect};

    fn check(drawing: &str, expected: Expect) {
        check_drawing(&drawing::parse(drawing), expected);
    }

    /// Forwards and backwards: the order of arrival never matters.
    fn check_drawing(drawing: &Drawing, expected: Expect) {
        let mut spans = drawing.spans();
        let forwards = show(&Trace::assemble(spans.clone()));
        spans.spans.reverse();
        assert_eq!(forwards, show(&Trace::assemble(spans)));
        expected.assert_eq(&forwards);
    }

    fn show(trace: &Trace<'_>) -> String {
        let mut text = drawing::draw_trace(trace);
        for warning in &trace.warnings {
            let of = warning.span.map_or("", |it| trace.span(it).name);
            text.push_str(&format!("! {of}: {}\n", warning.text));
        }
        text
    }

    #[test]
    fn siblings_stand_in_order_of_start_and_longer_ones_first() {
        check(
            "
            shop  GET /      |-----------|
            shop    late          |--|
            shop      inner        |
            shop    short     |--|
            shop    long      |------|
            ",
            expect![[r#"
                shop  GET /      |-----------|
                shop    long      |------|
                shop    short     |--|
                shop    late          |--|
                shop      inner        |
            "#]],
        );
    }

    #[test]
    fn a_retry_brings_a_span_twice() {
        check(
            "
            shop  GET /                                |-----------|
            shop    work {span.id=7}                     |--|
            shop    work {span.id=7, more=2}             |--|
            shop    work {span.id=7, never=ended}        |
            ",
            expect![[r#"
                shop  GET /   |-----------|
                shop    work    |--|
                ! work: This span arrived in different versions; the one that ends last is shown.
            "#]],
        );
        let drawing = drawing::parse("shop GET / |--|");
        let mut spans = drawing.spans();
        spans.spans.push(spans.spans[0].clone());
        let trace = Trace::assemble(spans);
        assert_eq!((trace.nodes.len(), trace.warnings.len()), (1, 0));
    }

    #[test]
    fn a_span_that_came_under_two_senders_is_of_the_better_described_one() {
        let text = |key, text| Attribute {
            key,
            value: Value::Str(text),
        };
        let spans = Spans {
            resources: vec![
                Resource {
                    attributes: vec![text("service.name", "shop")],
                },
                Resource {
                    attributes: vec![text("service.name", "shop"), text("k8s.pod.name", "p")],
                },
            ],
            spans: vec![0, 1]
                .into_iter()
                .map(|resource| Span {
                    id: SpanId([7; 8]),
                    resource,
                    ..Span::default()
                })
                .collect(),
            ..Spans::default()
        };
        let mut turned = spans.clone();
        turned.spans.reverse();
        for spans in [spans, turned] {
            let trace = Trace::assemble(spans);
            assert_eq!((trace.nodes.len(), trace.warnings.len()), (1, 0));
            assert_eq!(trace.span(0).resource, 1);
        }
    }

    #[test]
    fn several_roots_stand_beside_each_other_in_order_of_time() {
        check(
            "
            shop  second              |----|
            shop    inside             |--|
            shop  first          |-----------|
            mail  third                     |--|
            ",
            expect![[r#"
                shop  first     |-----------|
                shop  second         |----|
                shop    inside        |--|
                mail  third                |--|
            "#]],
        );
    }

    #[test]
    fn without_the_root_all_its_children_are_roots() {
        check(
            "
            shop  query {orphan}     |--|
            shop    rows                |
            shop  render {orphan}        |-----|
            ",
            expect![[r#"
                shop  query {orphan}   |--|
                shop    rows              |
                shop  render {orphan}      |-----|
            "#]],
        );
    }

    #[test]
    fn a_client_and_a_server_may_share_one_id() {
        check(
            "
            shop      GET /                               |-----------|
            shop        call [client] {span.id=7}            |------|
            payments  serve [server] {span.id=7, parent.id=1} |---|
            payments  query {parent.id=7}                       |
            shop      dns {parent.id=7}                      ||
            ",
            expect![[r#"
                shop      GET /        |-----------|
                shop        call          |------|
                shop          dns         ||
                payments      serve        |---|
                payments        query        |
            "#]],
        );
    }

    #[test]
    fn orphans_are_roots() {
        check(
            "
            shop  GET /             |-----------|
            shop    query             |--|
            shop    lost {orphan}        |--|
            ",
            expect![[r#"
                shop  GET /          |-----------|
                shop    query          |--|
                shop  lost {orphan}       |--|
            "#]],
        );
    }

    #[test]
    fn circles_are_cut_at_their_earliest_span() {
        check(
            "
            shop  a {span.id=1, parent.id=3}     |-----------|
            shop  b {span.id=2, parent.id=1}       |--|
            shop  c {span.id=3, parent.id=2}         |
            shop  d {span.id=4, parent.id=3}         |
            shop  e {span.id=5, parent.id=5}         |
            ",
            expect![[r#"
                shop  a        |-----------|
                shop    b        |--|
                shop      c        |
                shop        d      |
                shop  e            |
                ! a: This span is its own ancestor; it is shown as a root.
                ! e: This span names itself as its parent; it is shown as a root.
            "#]],
        );
    }

    #[test]
    fn what_does_not_block_its_parent_is_detached() {
        check(
            "
            shop  GET /                   |---------|
            shop    publish [producer]     ||
            mail      send [consumer]       |------|
            shop    after                           |---|
            shop    overlapping                  |------|
            shop    instant               |
            shop    last                            |
            ",
            expect![[r#"
                shop  GET /                |---------|
                shop    instant            |
                shop    publish             ||
                mail      send {detached}    |------|
                shop    overlapping               |------|
                shop    after {detached}             |---|
                shop    last                         |
            "#]],
        );
    }

    #[test]
    fn absurd_times_are_cut() {
        let drawing = drawing::parse("shop a |--|\nshop b |--|");
        let mut spans = drawing.spans();
        spans.spans[0].start_ns = 1;
        spans.spans[1].end_ns = u64::MAX;
        spans.spans[1].start_ns = u64::MAX - 7;
        let trace = Trace::assemble(spans);
        assert_eq!(trace.duration_ns(0), DURATION_MAX_NS);
        assert_eq!(
            (trace.node(1).start_ns, trace.duration_ns(1)),
            (TIME_MAX_NS, 0)
        );
        assert_eq!(trace.warnings.len(), 2);
    }

    #[test]
    fn a_span_without_a_start_is_an_instant_and_no_year_long() {
        let drawing = drawing::parse("shop a |--|");
        let mut spans = drawing.spans();
        spans.spans[0].start_ns = 0;
        let end_ns = spans.spans[0].end_ns;
        let trace = Trace::assemble(spans);
        assert_eq!(
            (trace.node(0).start_ns, trace.node(0).end_ns),
            (end_ns, end_ns)
        );
        assert_eq!(trace.warnings.len(), 1);
        let drawing = drawing::parse("shop a |--|");
        let mut spans = drawing.spans();
        (spans.spans[0].start_ns, spans.spans[0].end_ns) = (0, 50);
        assert_eq!(
            Trace::assemble(spans).duration_ns(0),
            50,
            "made-up times may begin at the epoch"
        );
    }

    #[test]
    fn one_id_for_two_spans_of_other_kinds_is_told() {
        let drawn = "
            shop GET x [client] {span.id=2}         |--|
            shop other [internal] {span.id=2}       |--|
            ";
        let trace = |drawn: &str| {
            Trace::assemble(drawing::parse(drawn).spans())
                .warnings
                .len()
        };
        assert_eq!(trace(drawn), 1);
        assert_eq!(
            trace(&drawn.replace("other [internal]", "x [server]      ")),
            0
        );
    }

    #[test]
    fn a_span_that_never_ended_is_an_instant() {
        let drawing = drawing::parse(
            "
            shop  GET /     |----|
            shop    hung      |
            shop    odd         |
            ",
        );
        let mut spans = drawing.spans();
        spans.spans[1].end_ns = 0;
        spans.spans[2].end_ns -= 1;
        let trace = Trace::assemble(spans);
        expect![[r#"
            shop  GET /   |----|
            shop    hung    |
            shop    odd       |
            ! hung: This span never ended; it is shown as an instant.
            ! odd: This span ends before it starts; it is shown as an instant.
        "#]]
        .assert_eq(&show(&trace));
    }

    #[test]
    fn chains_and_crowds_of_a_million_spans_are_fine() {
        let chain = |at: u64| at.checked_sub(1);
        let crowd = |at: u64| (at > 0).then_some(0);
        for parent in [chain, crowd] {
            let id = |at: u64| SpanId((at + 1).to_be_bytes());
            let span = |at| Span {
                id: id(at),
                parent_id: parent(at).map(id),
                start_ns: at,
                end_ns: 2_000_000,
                ..Span::default()
            };
            let spans = (0..1_000_000).map(span).collect();
            let spans = Spans {
                spans,
                ..Spans::default()
            };
            let trace = Trace::assemble(spans);
            assert_eq!(trace.roots, [0]);
            assert_eq!(trace.node(0).subtree_end, 1_000_000);
        }
    }

    #[test]
    fn too_many_warnings_are_counted() {
        let span = |at: u64| Span {
            id: SpanId(at.to_be_bytes()),
            start_ns: 1,
            ..Span::default()
        };
        let spans = (1..=150).map(span).collect();
        let trace = Trace::assemble(Spans {
            spans,
            ..Spans::default()
        });
        assert_eq!(trace.warnings.len(), WARNINGS_MAX + 1);
        let last = trace.warnings.last().map(|it| it.text.as_str());
        assert_eq!(last, Some("50 more warnings are not shown."));
    }
}
