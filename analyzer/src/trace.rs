//! Spans → one tree.

use crate::span::{Span, Spans};

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

impl<'a> Trace<'a> {
    /// Builds the tree. Total on any input; every distinct span appears exactly once; the order of
    /// arrival never matters.
    pub fn assemble(spans: Spans<'a>) -> Trace<'a> {
        let _ = spans;
        todo!()
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
