//! The waterfall's view model: which rows a trace's page shows, and where their bars begin and end.
//!
//! Pure: an [`Analysis`] and what the URL asks for go in, rows come out. Times stay in nanoseconds
//! until [`Axis`] turns them into percentages of the drawing's width, so that a test can add them up.
//!
//! ```text
//! GET /posts          ▓▓░░░░░░░░░░░░░░░░░▓▓   solid: its own time; pale: it waits for a child
//! ├ SELECT posts        ▓▓▓
//! ├ SELECT authors ×31      ▓▓▓▓▓▓▓▓▓▓▓▓      a comb: repeats of one operation in one row
//! └ publish event                       ▓
//!   └ process event                      ░░░  asynchronous: all of it pale
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use analyzer::category::Category;
use analyzer::span::{Status, Value};
use analyzer::trace::SpanIdx;
use analyzer::{Analysis, Entry};
use foldhash::fast::RandomState;

use crate::indexed::Indexed;

/// Rows on one page: with them it stays below 300 KB, and a browser lays it out without a pause. Beyond it
/// the shorter subtrees stay folded, each with a link that opens it on a page of its own; looking closer at
/// a part of the time shows what is in it.
pub const ROWS_MAX: usize = 250;

/// Children (or combs of them) shown under one span; the rest is one row with a link to go on.
pub const CHILDREN_MAX: usize = 150;

/// So many repeats of one operation under one parent become a comb. Fewer are quickly read one by
/// one, and retries, which should be seen apart, are seldom more.
pub const COMB_MIN: usize = 4;

/// Asynchronous spans and orphans may stretch the time axis to so many times the request's length.
/// What is farther away is cut off at the edge, else one wrong clock makes the request a hair.
const AXIS_STRETCH_MAX: u64 = 20;

/// Event marks per row; the span's details list further ones.
const MARKS_MAX: usize = 50;

/// What the URL asks to see.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Only this span's subtree; `None` for all of the trace.
    pub root: Option<SpanIdx>,
    /// The span whose details are shown.
    pub selected: Option<SpanIdx>,
    /// Combs that are opened, by their first call; and spans that are, though `levels` would fold them.
    pub open: Vec<SpanIdx>,
    /// All combs are opened.
    pub open_all: bool,
    /// Spans whose children are folded away; and combs that are, though all are opened.
    pub fold: Vec<SpanIdx>,
    /// So many levels are shown; `None` for as many as there is room for.
    pub levels: Option<u32>,
    /// Only spans of this service have rows; those of others between them are passed over.
    pub only: Option<String>,
    /// How many children of `root` to leave out at the front: the way on from a [`RowKind::More`].
    pub skip: usize,
    /// How many calls of an open comb to leave out at the front: the way on within it.
    pub calls: usize,
    /// The part of the time that is looked at; `None` for all of it. Bars are drawn finer there, and of a
    /// trace too long for a page the rows are chosen by what they have in it.
    pub window: Option<Piece>,
}

/// The rows and their time axis.
#[derive(Clone, Debug)]
pub struct Waterfall {
    /// What the bars' positions refer to.
    pub axis: Axis,
    /// The rows, in order of the tree.
    pub rows: Vec<Row>,
    /// Spans that have no row because the page would be too long.
    pub left_out: usize,
    /// Rows of a long trace are only those that touch the window.
    pub windowed: bool,
    /// The main entry's end, if there is one: the instant the response was sent.
    pub response_ns: Option<u64>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it stands for.
    pub kind: RowKind,
    /// The span; a comb's first call; the first of those that are left out.
    pub span: SpanIdx,
    /// A comb's calls, in order of start; empty for a single span.
    pub members: Vec<SpanIdx>,
    /// Depth, 1 for the topmost.
    pub level: u32,
    /// The operation, for people; as sent, so escape it.
    pub name: String,
    /// Whose span it is, if its parent is another service's.
    pub service: Option<String>,
    /// The database, broker or cache called.
    pub target: Option<String>,
    /// The kind of its own time.
    pub category: Category,
    /// Start, ns since the epoch, corrected.
    pub start_ns: u64,
    /// End, ns since the epoch, corrected; a comb's last end.
    pub end_ns: u64,
    /// Duration, ns; of a comb, the calls added up.
    pub duration_ns: u64,
    /// Time no child covers; of a comb, each call whole. Empty in asynchronous rows.
    pub own: Vec<Piece>,
    /// Its part of the main entry's critical path, and that of all that is folded into it. Over all
    /// rows these add up to the main entry's duration.
    pub critical: Vec<Piece>,
    /// Whether children can be shown or hidden.
    pub children: Children,
    /// They are folded away only because of how many levels are shown.
    pub below_levels: bool,
    /// Its position among the rows of one parent, from 1 on.
    pub position: usize,
    /// How many rows their parent has.
    pub siblings: usize,
    /// What went wrong: `503`, `timeout`, or `error`; of a comb, `2 of 31`.
    pub error: Option<String>,
    /// Lies in an asynchronous part: nobody on the critical path waited for it.
    pub detached: bool,
    /// The asynchronous part begins here.
    pub detaches: bool,
    /// It names a parent that has not arrived.
    pub orphan: bool,
    /// Some of it is farther away than the axis reaches.
    pub beyond: bool,
    /// The details shown are this row's or of something folded into it.
    pub selected: bool,
    /// Findings it is an offender of: indices into [`Analysis::findings`].
    pub findings: Vec<usize>,
    /// Its events' instants and names.
    pub marks: Vec<(u64, String)>,
}

/// What a row stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowKind {
    /// One span.
    Span,
    /// Repeats of one operation under one parent.
    Comb,
    /// The children that were too many, from this position on among their parent's rows.
    More {
        /// Whose children they are; `None` at the top.
        parent: Option<SpanIdx>,
        /// How many rows come before.
        skip: usize,
        /// They are calls of an open comb, and `skip` counts its calls.
        calls: bool,
    },
}

/// Whether a row's children are to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Children {
    /// There are none.
    None,
    /// The rows below.
    Shown,
    /// Folded away, because the URL says so or because combs begin closed.
    Hidden,
    /// So many spans are folded away because the page would be too long.
    TooMany(u32),
}

/// A stretch of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// From, ns since the epoch.
    pub start_ns: u64,
    /// To, ns since the epoch.
    pub end_ns: u64,
}

/// Builds the rows that `view` asks for.
pub fn waterfall(indexed: &Indexed<'_, '_>, view: &View) -> Waterfall {
    let builder = Builder::new(indexed, view);
    let tops = builder.tops();
    let shown = builder.choose(&tops);
    let mut rows = builder.rows(tops, &shown);
    let axis = Axis {
        window: view.window,
        ..Axis::around(indexed, view.root)
    };
    for row in &mut rows {
        row.beyond = row.start_ns < axis.start_ns || row.end_ns > axis.start_ns + axis.length_ns;
    }
    number(&mut rows);
    Waterfall {
        axis,
        rows,
        left_out: shown.left_out,
        windowed: builder.reach.is_some(),
        response_ns: indexed.main().map(|it| it.start_ns + it.duration_ns),
    }
}

/// Tells each row its position among those of one parent.
fn number(rows: &mut [Row]) {
    // The rows of each level since the last one above them.
    let mut open: Vec<Vec<usize>> = Vec::new();
    let mut families: Vec<Vec<usize>> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let level = row.level as usize;
        while open.len() > level {
            families.extend(open.pop());
        }
        open.resize_with(level, Vec::new);
        open[level - 1].push(at);
    }
    families.extend(open);
    for family in families {
        for (position, at) in family.iter().enumerate() {
            rows[*at].position = position + 1;
            rows[*at].siblings = family.len();
        }
    }
}

/// The entry the page is about: of those that no other entry called, the longest one that blocks;
/// the first of equals.
pub fn main_entry<'s, 'a>(analysis: &'s Analysis<'a>) -> Option<&'s Entry<'a>> {
    main_among(analysis, &detached(analysis)).map(|it| &analysis.entries[it])
}

/// As [`main_entry`], as an index into [`Analysis::entries`], if it is known which spans are [`detached`].
pub fn main_among(analysis: &Analysis<'_>, detached: &[bool]) -> Option<usize> {
    let entries = analysis.entries.iter().enumerate();
    let tops = entries.filter(|(_, it)| it.parent.is_none());
    let main = tops
        .rev()
        .max_by_key(|(_, it)| (!detached[it.span as usize], it.duration_ns));
    let first = || (!analysis.entries.is_empty()).then_some(0);
    main.map(|it| it.0).or_else(first)
}

/// The stretches of a span's time in which none of its children ran. Asynchronous children do not count.
pub fn own_time(analysis: &Analysis<'_>, span: SpanIdx) -> Vec<Piece> {
    let mut pieces = Vec::new();
    each_own(analysis, span, |it| pieces.push(it));
    pieces
}

/// How long [`own_time`] is, ns; of it only what is in `window`.
pub fn own_ns(analysis: &Analysis<'_>, span: SpanIdx, window: Option<Piece>) -> u64 {
    let mut own_ns = 0;
    each_own(analysis, span, |it| {
        own_ns += match window {
            Some(window) => overlap_ns(it, window).unwrap_or(0),
            None => it.end_ns - it.start_ns,
        };
    });
    own_ns
}

fn each_own(analysis: &Analysis<'_>, span: SpanIdx, mut each: impl FnMut(Piece)) {
    let trace = &analysis.trace;
    let node = trace.node(span);
    let mut from_ns = node.start_ns;
    for child in trace.children(span).map(|it| trace.node(it)) {
        if child.detached || child.end_ns <= from_ns {
            continue;
        }
        let until_ns = child.start_ns.min(node.end_ns);
        if until_ns > from_ns {
            each(Piece {
                start_ns: from_ns,
                end_ns: until_ns,
            });
        }
        from_ns = from_ns.max(child.end_ns);
    }
    if from_ns < node.end_ns {
        each(Piece {
            start_ns: from_ns,
            end_ns: node.end_ns,
        });
    }
}

/// For every span: does it lie in an asynchronous part?
pub fn detached(analysis: &Analysis<'_>) -> Vec<bool> {
    let nodes = &analysis.trace.nodes;
    let mut detached = vec![false; nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        // Parents stand before their children.
        detached[at] = node.detached || node.parent.is_some_and(|it| detached[it as usize]);
    }
    detached
}

/// What a span is called on the page: the endpoint of an entry, the short name of a call, else its
/// own name. Spans of one name, service and category are one operation, known by its number.
pub struct Names<'s> {
    /// The operation of each span.
    of: Vec<u32>,
    operations: Vec<Operation<'s>>,
}

/// What spans that do the same have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Operation<'s> {
    /// The name; never empty.
    pub name: &'s str,
    /// The `service.name` of whoever sent the spans.
    pub service: &'s str,
    /// The kind of their own time.
    pub category: Category,
}

impl<'s> Names<'s> {
    /// Prepares the names of one trace.
    pub fn of(analysis: &'s Analysis<'_>) -> Self {
        let spans = &analysis.trace.spans;
        let mut short = vec![""; spans.spans.len()];
        for call in &analysis.calls {
            short[call.span as usize] = &call.name;
        }
        for entry in &analysis.entries {
            short[entry.span as usize] = &entry.endpoint;
        }
        let services = spans.resources.iter().map(|it| {
            let mut attributes = it.attributes.iter();
            let name = attributes.find(|it| it.key == "service.name");
            name.and_then(|it| it.value.as_str())
        });
        let services: Vec<Option<&str>> = services.collect();
        let mut known: HashMap<Operation<'s>, u32, RandomState> = HashMap::default();
        let mut names = Names {
            of: Vec::with_capacity(short.len()),
            operations: Vec::new(),
        };
        for ((sent, short), category) in spans.spans.iter().zip(short).zip(&analysis.categories) {
            let operation = Operation {
                name: match short {
                    "" if sent.name.is_empty() => "(no name)",
                    "" => sent.name,
                    _ => short,
                },
                service: services
                    .get(sent.resource as usize)
                    .copied()
                    .flatten()
                    .unwrap_or("unknown_service"),
                category: *category,
            };
            let next = names.operations.len() as u32;
            let number = *known.entry(operation).or_insert(next);
            if number == next {
                names.operations.push(operation);
            }
            names.of.push(number);
        }
        names
    }

    /// The operation of `span`, as its number.
    pub fn number(&self, span: SpanIdx) -> u32 {
        self.of[span as usize]
    }

    /// The operation of `span`.
    pub fn operation(&self, span: SpanIdx) -> Operation<'s> {
        self.operations[self.number(span) as usize]
    }

    /// All operations, by number.
    pub fn operations(&self) -> &[Operation<'s>] {
        &self.operations
    }

    /// The name of `span`; never empty.
    pub fn name(&self, span: SpanIdx) -> &'s str {
        self.operation(span).name
    }

    /// The `service.name` of whoever sent `span`.
    pub fn service(&self, span: SpanIdx) -> &'s str {
        self.operation(span).service
    }

    /// The services of all spans, some more than once.
    pub fn services(&self) -> impl Iterator<Item = &'s str> + '_ {
        self.operations.iter().map(|it| it.service)
    }
}

/// One row to be: a span, or several alike.
#[derive(Clone, Debug)]
struct Item {
    span: SpanIdx,
    members: Vec<SpanIdx>,
    more: Option<RowKind>,
}

impl Item {
    fn single(span: SpanIdx) -> Item {
        Item {
            span,
            members: Vec::new(),
            more: None,
        }
    }

    fn spans(&self) -> &[SpanIdx] {
        if self.members.is_empty() {
            std::slice::from_ref(&self.span)
        } else {
            &self.members
        }
    }
}

/// What is open, and what was left out for length.
#[derive(Default)]
struct Shown {
    /// The rows under an open span or an open comb.
    below: HashMap<(SpanIdx, bool), Vec<Item>>,
    /// Spans that stay folded because of [`ROWS_MAX`].
    too_many: HashSet<SpanIdx>,
    left_out: usize,
}

struct Builder<'s, 'i, 'a> {
    indexed: &'s Indexed<'i, 'a>,
    analysis: &'i Analysis<'a>,
    view: &'s View,
    /// Of each span the time from the first start to the last end in its subtree; only where rows are
    /// chosen by the window.
    reach: Option<Vec<Piece>>,
    /// How many of the spans before each are shown, and after the last of all; only where not all are.
    shown_before: Option<Vec<u32>>,
}

impl<'s, 'i, 'a> Builder<'s, 'i, 'a> {
    fn new(indexed: &'s Indexed<'i, 'a>, view: &'s View) -> Self {
        let analysis = indexed.analysis;
        Builder {
            indexed,
            analysis,
            view,
            reach: (view.window.is_some() && analysis.trace.nodes.len() > ROWS_MAX)
                .then(|| reach(analysis)),
            shown_before: view.only.as_deref().map(|it| shown_before(indexed, it)),
        }
    }

    /// How many of these spans may have rows.
    fn count(&self, spans: std::ops::Range<SpanIdx>) -> u32 {
        match &self.shown_before {
            Some(before) => before[spans.end as usize] - before[spans.start as usize],
            None => spans.end - spans.start,
        }
    }

    /// The topmost spans of `spans` that may have rows: what is passed over is stepped through.
    fn topmost(&self, spans: std::ops::Range<SpanIdx>) -> Vec<SpanIdx> {
        let mut found = Vec::new();
        let mut at = spans.start;
        while at < spans.end {
            let end = self.analysis.trace.node(at).subtree_end;
            if self.count(at..at + 1) == 1 {
                found.push(at);
                at = end;
            } else if self.count(at..end) == 0 {
                at = end;
            } else {
                at += 1;
            }
        }
        found
    }

    /// Its children are deeper than what is shown.
    fn is_below_levels(&self, span: SpanIdx) -> bool {
        let depth = |it: SpanIdx| self.analysis.trace.node(it).depth;
        let top = self.view.root.map_or(0, depth);
        self.view
            .levels
            .is_some_and(|it| depth(span) - top + 1 >= it)
    }

    /// Something of the span or below it is in the window, where rows are chosen by it.
    fn is_in_window(&self, span: SpanIdx) -> bool {
        match (&self.reach, self.view.window) {
            (Some(reach), Some(window)) => overlap_ns(reach[span as usize], window).is_some(),
            _ => true,
        }
    }

    fn tops(&self) -> Vec<Item> {
        match self.view.root {
            Some(root) => vec![Item::single(root)],
            None if self.shown_before.is_some() => {
                let tops = self.topmost(0..self.indexed.spans());
                self.items(tops.into_iter(), None, self.view.skip)
            }
            None => self.items(
                self.analysis.trace.roots.iter().copied(),
                None,
                self.view.skip,
            ),
        }
    }

    /// Gathers repeats, in order of their first call, and cuts the list at [`CHILDREN_MAX`].
    fn items(
        &self,
        spans: impl Iterator<Item = SpanIdx>,
        parent: Option<SpanIdx>,
        skip: usize,
    ) -> Vec<Item> {
        let mut alike: HashMap<_, usize, RandomState> = HashMap::default();
        let mut groups: Vec<Vec<SpanIdx>> = Vec::new();
        for span in spans.filter(|it| self.is_in_window(*it)) {
            let key = (
                self.indexed.names.number(span),
                self.analysis.trace.node(span).detached,
            );
            let at = *alike.entry(key).or_insert(groups.len());
            if at == groups.len() {
                groups.push(Vec::new());
            }
            groups[at].push(span);
        }
        let mut items: Vec<Item> = groups.into_iter().flat_map(into_items).collect();
        items.sort_by_key(|it| it.span);
        items.drain(..skip.min(items.len()));
        if items.len() > CHILDREN_MAX {
            let rest = items.split_off(CHILDREN_MAX);
            items.push(Item {
                span: rest[0].span,
                members: rest.iter().flat_map(|it| it.spans()).copied().collect(),
                more: Some(RowKind::More {
                    parent,
                    skip: skip + CHILDREN_MAX,
                    calls: false,
                }),
            });
        }
        items
    }

    /// Opens spans, the longest first, until the page is full.
    fn choose(&self, tops: &[Item]) -> Shown {
        let mut shown = Shown::default();
        let mut rows = tops.len();
        let mut waiting = BinaryHeap::new();
        let push = |waiting: &mut BinaryHeap<_>, items: &[Item]| {
            for item in items.iter().filter(|it| it.more.is_none()) {
                let comb = !item.members.is_empty();
                let ns: u64 = item.spans().iter().map(|it| self.weight_ns(*it)).sum();
                waiting.push((ns, Reverse(item.span), comb, item.members.clone()));
            }
        };
        push(&mut waiting, tops);
        while let Some((_, Reverse(span), comb, members)) = waiting.pop() {
            let Some(below) = self.below(span, comb, members) else {
                continue;
            };
            if rows + below.len() > ROWS_MAX {
                shown.too_many.insert(span);
                shown.left_out += self.descendants(span) as usize;
                continue;
            }
            rows += below.len();
            push(&mut waiting, &below);
            shown.below.insert((span, comb), below);
        }
        shown
    }

    /// The rows below a span or comb that is to be open; `None` if it is closed or has none.
    fn below(&self, span: SpanIdx, comb: bool, members: Vec<SpanIdx>) -> Option<Vec<Item>> {
        if comb {
            let open = match self.view.open_all {
                true => !self.view.fold.contains(&span),
                false => self.view.open.contains(&span),
            };
            return open.then(|| self.cut(members));
        }
        let leaf = self.descendants(span) == 0;
        let too_deep = self.is_below_levels(span) && !self.view.open.contains(&span);
        if leaf || too_deep || self.view.fold.contains(&span) {
            return None;
        }
        let skip = if self.view.root == Some(span) {
            self.view.skip
        } else {
            0
        };
        if self.shown_before.is_some() {
            let below = self.topmost(span + 1..self.analysis.trace.node(span).subtree_end);
            return Some(self.items(below.into_iter(), Some(span), skip));
        }
        Some(self.items(self.analysis.trace.children(span), Some(span), skip))
    }

    /// An open comb's calls, one by one.
    fn cut(&self, mut members: Vec<SpanIdx>) -> Vec<Item> {
        let parent = self.analysis.trace.node(members[0]).parent;
        if self.view.calls < members.len() {
            members.drain(..self.view.calls);
        }
        let rest = members.split_off(members.len().min(CHILDREN_MAX));
        let mut items: Vec<Item> = members.into_iter().map(Item::single).collect();
        if let Some(first) = rest.first() {
            let more = RowKind::More {
                parent,
                skip: self.view.calls + CHILDREN_MAX,
                calls: true,
            };
            items.push(Item {
                span: *first,
                members: rest,
                more: Some(more),
            });
        }
        items
    }

    fn rows(&self, tops: Vec<Item>, shown: &Shown) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut stack: Vec<(Item, u32)> = tops.into_iter().rev().map(|it| (it, 1)).collect();
        while let Some((item, level)) = stack.pop() {
            let comb = !item.members.is_empty() && item.more.is_none();
            let below = match item.more {
                None => shown.below.get(&(item.span, comb)),
                Some(_) => None,
            };
            rows.push(self.row(&item, level, below.is_some(), shown));
            for child in below.into_iter().flatten().rev() {
                stack.push((child.clone(), level + 1));
            }
        }
        rows
    }

    fn row(&self, item: &Item, level: u32, open: bool, shown: &Shown) -> Row {
        let spans = item.spans();
        let kind = match item.more {
            Some(more) => more,
            None if item.members.is_empty() => RowKind::Span,
            None => RowKind::Comb,
        };
        let node = self.analysis.trace.node(item.span);
        let detached = self.indexed.detached[item.span as usize];
        let single = kind == RowKind::Span;
        let mut row = Row {
            kind,
            span: item.span,
            members: item.members.clone(),
            level,
            name: self.indexed.names.name(item.span).to_owned(),
            service: self.new_service(item.span),
            target: self.target(item.span),
            category: self.analysis.categories[item.span as usize],
            start_ns: spans
                .iter()
                .map(|it| self.analysis.trace.node(*it).start_ns)
                .min()
                .unwrap_or(0),
            end_ns: spans
                .iter()
                .map(|it| self.analysis.trace.node(*it).end_ns)
                .max()
                .unwrap_or(0),
            duration_ns: spans.iter().map(|it| self.duration_ns(*it)).sum(),
            own: Vec::new(),
            critical: Vec::new(),
            children: self.children_of(item, kind, open, shown),
            below_levels: single && self.is_below_levels(item.span),
            position: 1,
            siblings: 1,
            error: self.error(spans),
            detached,
            detaches: node.detached,
            orphan: node.orphan,
            beyond: false,
            selected: false,
            findings: Vec::new(),
            marks: if single {
                self.marks(item.span)
            } else {
                Vec::new()
            },
        };
        match kind {
            RowKind::Span => {
                if !detached {
                    row.own = own_time(self.analysis, item.span);
                }
                let end = if open {
                    item.span + 1
                } else {
                    node.subtree_end
                };
                self.take_in(&mut row, item.span..end);
            }
            // An open comb's calls have rows of their own.
            _ if open => {}
            _ => {
                for span in spans {
                    let node = self.analysis.trace.node(*span);
                    if !detached {
                        row.own.push(Piece {
                            start_ns: node.start_ns,
                            end_ns: node.end_ns,
                        });
                    }
                    self.take_in(&mut row, *span..node.subtree_end);
                }
            }
        }
        row.findings.sort_unstable();
        row.findings.dedup();
        row
    }

    /// Adds what is known about the spans of `range` to the row that stands for them.
    fn take_in(&self, row: &mut Row, range: std::ops::Range<SpanIdx>) {
        row.selected |= self.view.selected.is_some_and(|it| range.contains(&it));
        let critical = self.indexed.critical(range.clone());
        row.critical.extend(critical.iter().map(|it| it.1));
        for (_, finding) in self.indexed.offenders(range) {
            if row.findings.last() != Some(finding) {
                row.findings.push(*finding);
            }
        }
    }

    fn children_of(&self, item: &Item, kind: RowKind, open: bool, shown: &Shown) -> Children {
        match kind {
            _ if open => Children::Shown,
            RowKind::More { .. } => Children::None,
            _ if shown.too_many.contains(&item.span) => {
                Children::TooMany(self.descendants(item.span).max(item.members.len() as u32))
            }
            RowKind::Comb => Children::Hidden,
            RowKind::Span if self.descendants(item.span) > 0 => Children::Hidden,
            RowKind::Span => Children::None,
        }
    }

    fn descendants(&self, span: SpanIdx) -> u32 {
        self.count(span + 1..self.analysis.trace.node(span).subtree_end)
    }

    /// What a span counts when rows are chosen: its time in the window.
    fn weight_ns(&self, span: SpanIdx) -> u64 {
        match (&self.reach, self.view.window) {
            (Some(reach), Some(window)) => {
                overlap_ns(reach[span as usize], window).unwrap_or_default()
            }
            _ => self.duration_ns(span),
        }
    }

    fn duration_ns(&self, span: SpanIdx) -> u64 {
        self.analysis.trace.duration_ns(span)
    }

    /// The service, where it is not the parent's.
    fn new_service(&self, span: SpanIdx) -> Option<String> {
        let service = self.indexed.names.service(span);
        let parent = self.analysis.trace.node(span).parent;
        let same = parent.is_some_and(|it| self.indexed.names.service(it) == service);
        (!same || self.view.root == Some(span)).then(|| service.to_owned())
    }

    fn target(&self, span: SpanIdx) -> Option<String> {
        let keys: &[&str] = match self.analysis.categories[span as usize] {
            Category::Database => &["db.namespace", "db.name", "db.system.name", "db.system"],
            Category::Cache => &["db.system.name", "db.system"],
            Category::Messaging => &["messaging.system"],
            _ => return None,
        };
        let spans = &self.analysis.trace.spans;
        spans
            .text(self.analysis.trace.span(span), keys)
            .map(str::to_owned)
    }

    fn error(&self, spans: &[SpanIdx]) -> Option<String> {
        let failed = spans.iter().filter(|it| self.failed(**it)).count();
        match (failed, spans) {
            (0, _) => None,
            (_, [span]) => Some(self.error_name(*span)),
            _ => Some(format!("{failed} of {}", spans.len())),
        }
    }

    fn failed(&self, span: SpanIdx) -> bool {
        self.analysis.trace.span(span).status == Status::Error
    }

    /// `503`, `timeout`, or `error` if nothing short is known.
    fn error_name(&self, span: SpanIdx) -> String {
        let spans = &self.analysis.trace.spans;
        let span = self.analysis.trace.span(span);
        let keys = [
            "http.response.status_code",
            "http.status_code",
            "error.type",
        ];
        let known = match spans.first_of(span, &keys) {
            Some(Value::Str(text)) => text.to_owned(),
            Some(value) => value.as_int().map(|it| it.to_string()).unwrap_or_default(),
            None => String::new(),
        };
        let short = !known.is_empty() && known.chars().count() <= 24;
        if short { known } else { "error".to_owned() }
    }

    /// Events by the corrected clock: shifted as far as their span was.
    fn marks(&self, span: SpanIdx) -> Vec<(u64, String)> {
        let node = self.analysis.trace.node(span);
        let sent = self.analysis.trace.span(span);
        let events = &self.analysis.trace.spans.events;
        events[sent.events.start as usize..sent.events.end as usize]
            .iter()
            .take(MARKS_MAX)
            .map(|it| {
                let shifted = it
                    .time_ns
                    .wrapping_sub(sent.start_ns)
                    .wrapping_add(node.start_ns);
                (
                    shifted.clamp(node.start_ns, node.end_ns),
                    it.name.to_owned(),
                )
            })
            .collect()
    }
}

/// For each span how many of those before it are of `service`; one more at the end.
fn shown_before(indexed: &Indexed<'_, '_>, service: &str) -> Vec<u32> {
    let operations = indexed.names.operations().iter();
    let shown: Vec<bool> = operations.map(|it| it.service == service).collect();
    let mut before = Vec::with_capacity(indexed.spans() as usize + 1);
    let mut count = 0;
    before.push(count);
    for span in 0..indexed.spans() {
        count += u32::from(shown[indexed.names.number(span) as usize]);
        before.push(count);
    }
    before
}

/// From the first start to the last end in each span's subtree. Parents stand before their children, so one
/// walk backwards is enough.
fn reach(analysis: &Analysis<'_>) -> Vec<Piece> {
    let nodes = &analysis.trace.nodes;
    let mut reach: Vec<Piece> = nodes
        .iter()
        .map(|it| Piece {
            start_ns: it.start_ns,
            end_ns: it.end_ns,
        })
        .collect();
    for at in (0..nodes.len()).rev() {
        if let Some(parent) = nodes[at].parent {
            let below = reach[at];
            let above = &mut reach[parent as usize];
            above.start_ns = above.start_ns.min(below.start_ns);
            above.end_ns = above.end_ns.max(below.end_ns);
        }
    }
    reach
}

/// How long two stretches run at the same time; `None` if they do not touch.
fn overlap_ns(a: Piece, b: Piece) -> Option<u64> {
    a.end_ns
        .min(b.end_ns)
        .checked_sub(a.start_ns.max(b.start_ns))
}

/// Levels of the overview. Deeper spans are not drawn in it: it is there to find one's way.
pub const LANES: usize = 6;

/// Columns of the overview: a bar is at least so wide, and no lane has more of them.
const COLUMNS: f64 = 300.0;

/// Bars by level and category.
pub type Lanes = [Vec<(Category, Bar)>; LANES];

/// The spans of the upper levels, as bars by level and category: the trace, small.
pub fn overview(analysis: &Analysis<'_>, axis: &Axis, root: Option<SpanIdx>) -> Lanes {
    let nodes = &analysis.trace.nodes;
    let (range, top) = match root.map(|it| (it, analysis.trace.node(it))) {
        Some((root, node)) => (root..node.subtree_end, node.depth),
        None => (0..nodes.len() as SpanIdx, 0),
    };
    // Of a hundred thousand spans most lie in the same columns: each place is drawn once.
    let mut places: HashSet<(usize, Category, u16, u16), RandomState> = HashSet::default();
    let mut last = [None; LANES];
    for span in range {
        let node = &nodes[span as usize];
        let depth = (node.depth - top) as usize;
        if depth < LANES {
            let column = |ns: u64| axis.x(ns) / 100.0 * COLUMNS;
            let from = column(node.start_ns).floor().min(COLUMNS - 1.0);
            let to = column(node.end_ns).ceil().max(from + 1.0);
            let category = analysis.categories[span as usize];
            let place = (depth, category, from as u16, to as u16);
            // Neighbours mostly lie in one place.
            if last[depth].replace(place) != Some(place) {
                places.insert(place);
            }
        }
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by_key(|it| (it.0, it.1 as usize, it.2, it.3));
    let mut lanes: Lanes = Default::default();
    for (lane, category, from, to) in places {
        let (x, end) = (
            f64::from(from) * 100.0 / COLUMNS,
            f64::from(to) * 100.0 / COLUMNS,
        );
        match lanes[lane].last_mut() {
            Some((last, bar)) if *last == category && x <= bar.x + bar.width => {
                bar.width = bar.width.max(end - bar.x);
            }
            _ => lanes[lane].push((category, Bar { x, width: end - x })),
        }
    }
    // The wide ones first, or they would hide the others.
    for lane in &mut lanes {
        lane.sort_by(|a, b| b.1.width.total_cmp(&a.1.width));
    }
    lanes
}

fn into_items(group: Vec<SpanIdx>) -> Vec<Item> {
    if group.len() < COMB_MIN {
        return group.into_iter().map(Item::single).collect();
    }
    vec![Item {
        span: group[0],
        members: group,
        more: None,
    }]
}

/// The time axis: from 0 at the left to a round number at the right.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Axis {
    /// The left edge, ns since the epoch.
    pub start_ns: u64,
    /// The whole width, ns; a whole number of ticks, never 0.
    pub length_ns: u64,
    /// From one tick to the next, ns.
    pub tick_ns: u64,
    /// What of it is looked at: bars there are drawn as much finer as it is smaller.
    pub window: Option<Piece>,
}

/// A stretch of the drawing's width.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    /// The left edge, percent of the drawing.
    pub x: f64,
    /// Percent of the drawing.
    pub width: f64,
}

/// Narrower gaps between bars are not drawn: less than half a pixel on a wide screen. At most
/// 100 / 0.05 bars can then stand in one row, however many calls a span made.
pub const GAP_MIN: f64 = 0.05;

/// What is left out between two calls of a comb: a pixel and a half on a wide screen.
const SLIT: f64 = 0.2;

/// Narrower bars are widened to this, or they would vanish.
const WIDTH_MIN: f64 = 0.12;

impl Axis {
    /// The axis that fits the trace, or the subtree of `root`.
    pub fn around(indexed: &Indexed<'_, '_>, root: Option<SpanIdx>) -> Axis {
        match root {
            Some(_) => Axis::measured(indexed, root),
            None => indexed.axis(),
        }
    }

    /// The same, looked for in all spans.
    pub fn measured(indexed: &Indexed<'_, '_>, root: Option<SpanIdx>) -> Axis {
        let trace = &indexed.analysis.trace;
        let range = match root {
            Some(root) => root..trace.node(root).subtree_end,
            None => 0..trace.nodes.len() as SpanIdx,
        };
        let centre = match (root, indexed.main()) {
            (Some(root), _) => Some(root),
            (None, Some(entry)) => Some(entry.span),
            (None, None) => trace.roots.first().copied(),
        };
        let Some(centre) = centre.map(|it| trace.node(it)) else {
            return Axis::fit(0, 0);
        };
        let reach = (centre.end_ns - centre.start_ns)
            .max(1)
            .saturating_mul(AXIS_STRETCH_MAX);
        let nearest = centre.start_ns.saturating_sub(reach);
        let farthest = centre.end_ns.saturating_add(reach);
        let (mut start_ns, mut end_ns) = (centre.start_ns, centre.end_ns);
        for node in range.map(|it| trace.node(it)) {
            if node.start_ns >= nearest && node.end_ns <= farthest {
                start_ns = start_ns.min(node.start_ns);
                end_ns = end_ns.max(node.end_ns);
            }
        }
        Axis::fit(start_ns, end_ns)
    }

    /// From `start_ns` on, at least until `end_ns`, in 5 to 10 ticks of 1, 2 or 5 times a power of ten.
    pub fn fit(start_ns: u64, end_ns: u64) -> Axis {
        let length_ns = end_ns.saturating_sub(start_ns).max(1);
        let mut decade = 1u64;
        let tick_ns = loop {
            let fitting = [1, 2, 5].map(|it| decade.saturating_mul(it));
            match fitting.into_iter().find(|it| length_ns.div_ceil(*it) <= 10) {
                Some(tick) => break tick,
                None => decade = decade.saturating_mul(10),
            }
        };
        let ticks = length_ns.div_ceil(tick_ns);
        Axis {
            start_ns,
            length_ns: ticks.saturating_mul(tick_ns),
            tick_ns,
            window: None,
        }
    }

    /// How many ticks fit: 1 to 10.
    pub fn ticks(&self) -> u64 {
        self.length_ns / self.tick_ns
    }

    /// Where an instant is, percent of the drawing, 0 to 100.
    pub fn x(&self, at_ns: u64) -> f64 {
        let offset_ns = at_ns.saturating_sub(self.start_ns).min(self.length_ns);
        offset_ns as f64 * 100.0 / self.length_ns as f64
    }

    /// One stretch as a bar.
    pub fn bar(&self, piece: Piece) -> Bar {
        let width_min = WIDTH_MIN * self.fineness(piece);
        let x = self.x(piece.start_ns).min(100.0 - width_min);
        Bar {
            x,
            width: (self.x(piece.end_ns) - x).max(width_min),
        }
    }

    /// How much finer than usual a stretch is drawn: the window's share of the axis if it is in the window, else 1.
    fn fineness(&self, piece: Piece) -> f64 {
        match self.window {
            Some(window) if overlap_ns(window, piece).is_some() => {
                let length_ns = window.end_ns - window.start_ns;
                (length_ns as f64 / self.length_ns as f64).min(1.0)
            }
            _ => 1.0,
        }
    }

    /// As [`Axis::bars`], but calls that follow each other without a gap stay apart to the eye: each is
    /// drawn a little shorter, if that leaves something of it.
    pub fn teeth(&self, pieces: &[Piece]) -> Vec<Bar> {
        let mut sorted: Vec<Piece> = pieces.to_vec();
        sorted.sort_unstable_by_key(|it| it.start_ns);
        let mut shorter = Vec::with_capacity(sorted.len());
        for (at, piece) in sorted.iter().enumerate() {
            let slit = SLIT * self.fineness(*piece);
            let slit_ns = (self.length_ns as f64 * slit / 100.0) as u64;
            let next_ns = sorted.get(at + 1).map_or(u64::MAX, |it| it.start_ns);
            let end_ns = piece.end_ns.min(next_ns.saturating_sub(slit_ns));
            let room = end_ns.saturating_sub(piece.start_ns) > 2 * slit_ns;
            shorter.push(if room {
                Piece { end_ns, ..*piece }
            } else {
                *piece
            });
        }
        self.bars(&shorter)
    }

    /// Stretches as bars, in order, those that touch or nearly touch drawn as one.
    pub fn bars(&self, pieces: &[Piece]) -> Vec<Bar> {
        let mut sorted: Vec<Piece> = pieces
            .iter()
            .copied()
            .filter(|it| it.end_ns > it.start_ns)
            .collect();
        sorted.sort_unstable_by_key(|it| it.start_ns);
        let mut bars: Vec<Bar> = Vec::new();
        for piece in sorted {
            let (bar, gap_min) = (self.bar(piece), GAP_MIN * self.fineness(piece));
            match bars.last_mut() {
                Some(last) if bar.x - (last.x + last.width) < gap_min => {
                    last.width = last.width.max(bar.x + bar.width - last.x);
                }
                _ => bars.push(bar),
            }
        }
        bars
    }
}

/// Draws as one the bars that lie closer together than `gap`, percent of the drawing. They stand in order.
pub fn join(bars: &mut Vec<Bar>, gap: f64) {
    bars.dedup_by(|next, last| {
        let close = next.x - (last.x + last.width) < gap;
        if close {
            last.width = last.width.max(next.x + next.width - last.x);
        }
        close
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::Settings;
    use analyzer::drawing;
    use expect_test::{Expect, expect};

    /// One line per row: indented name, what it is, own pieces, `!` critical pieces; ms after the start.
    fn check(drawing: &str, view: impl Fn(&Analysis<'_>) -> View, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let view = view(&analysis);
        let waterfall = waterfall(&Indexed::of(&analysis), &view);
        assert_tiled(&analysis, &waterfall);
        let start_ns = waterfall.axis.start_ns;
        let pieces = |pieces: &[Piece]| {
            let ms = |ns: u64| (ns as i64 - start_ns as i64) / 1_000_000;
            let text = pieces
                .iter()
                .map(|it| format!("{}-{}", ms(it.start_ns), ms(it.end_ns)));
            text.collect::<Vec<_>>().join(" ")
        };
        let mut text = String::new();
        for row in &waterfall.rows {
            let indent = "  ".repeat(row.level as usize - 1);
            let service = row
                .service
                .as_deref()
                .map(|it| format!("{it}: "))
                .unwrap_or_default();
            let mut marks = String::new();
            if row.kind == RowKind::Comb {
                marks += &format!(" ×{}", row.members.len());
            }
            if let RowKind::More { skip, .. } = row.kind {
                marks += &format!(" more {} after {skip}", row.members.len());
            }
            match row.children {
                Children::Hidden => marks += " +",
                Children::TooMany(spans) => marks += &format!(" +{spans}"),
                _ => {}
            }
            for (on, mark) in [
                (row.detaches, " async"),
                (row.orphan, " orphan"),
                (row.beyond, " beyond"),
                (row.selected, " selected"),
                (row.error.is_some(), " error"),
            ] {
                if on {
                    marks += mark;
                }
            }
            let category = row.category.id();
            let (own, critical) = (pieces(&row.own), pieces(&row.critical));
            text += &format!(
                "{indent}{service}{}{marks} [{category}] {own} ! {critical}\n",
                row.name
            );
        }
        expected.assert_eq(&text);
    }

    /// The promise: the underlined pieces of all rows tile the request to the nanosecond, whatever is
    /// folded. Holds for views of the whole trace.
    fn assert_tiled(analysis: &Analysis<'_>, waterfall: &Waterfall) {
        let Some(entry) = main_entry(analysis) else {
            return;
        };
        let mut pieces: Vec<Piece> = waterfall
            .rows
            .iter()
            .flat_map(|it| it.critical.iter().copied())
            .collect();
        pieces.sort_by_key(|it| it.start_ns);
        let sum: u64 = pieces.iter().map(|it| it.end_ns - it.start_ns).sum();
        if waterfall.rows.first().is_some_and(|it| it.span == 0) {
            assert_eq!(sum, entry.duration_ns);
            assert!(
                pieces.windows(2).all(|it| it[0].end_ns <= it[1].start_ns),
                "{pieces:?}"
            );
        }
    }

    fn whole(_: &Analysis<'_>) -> View {
        View::default()
    }

    const POSTS: &str = "
shop  GET /posts           |------------------------------|
shop    SELECT posts          |--|
shop    SELECT authors            |-|
shop    SELECT authors              |-|
shop    SELECT authors                |-|
shop    SELECT authors                  |-|
shop    render                              |----|
";

    #[test]
    fn solid_pieces_tile_the_request_and_repeats_are_a_comb() {
        check(
            POSTS,
            whole,
            expect![[r#"
            shop: GET /posts [handler] 0-3 6-7 15-17 22-31 ! 0-3 6-7 15-17 22-31
              select posts [database] 3-6 ! 3-6
              select authors ×4 + [database] 7-9 9-11 11-13 13-15 ! 7-9 9-11 11-13 13-15
              render [handler] 17-22 ! 17-22
        "#]],
        );
    }

    #[test]
    fn an_open_comb_shows_its_calls_below_it() {
        let open = |analysis: &Analysis<'_>| View {
            open: vec![2],
            selected: Some(4),
            ..whole(analysis)
        };
        check(
            POSTS,
            open,
            expect![[r#"
            shop: GET /posts [handler] 0-3 6-7 15-17 22-31 ! 0-3 6-7 15-17 22-31
              select posts [database] 3-6 ! 3-6
              select authors ×4 [database]  ! 
                select authors [database] 7-9 ! 7-9
                select authors [database] 9-11 ! 9-11
                select authors selected [database] 11-13 ! 11-13
                select authors [database] 13-15 ! 13-15
              render [handler] 17-22 ! 17-22
        "#]],
        );
    }

    #[test]
    fn a_folded_row_keeps_what_is_critical_below_it() {
        let fold = |analysis: &Analysis<'_>| View {
            fold: vec![0],
            selected: Some(4),
            ..whole(analysis)
        };
        check(
            POSTS,
            fold,
            expect![[r#"
            shop: GET /posts + selected [handler] 0-3 6-7 15-17 22-31 ! 0-3 6-7 15-17 22-31 3-6 7-9 9-11 11-13 13-15 17-22
        "#]],
        );
    }

    const ORDER: &str = "
shop   POST /order               |-----------------------|
shop     POST payments [client]     |---------|
pay        POST /charge               |----|
pay          INSERT charge              |-|
shop     send order [producer]                   |--|
mail       process order [consumer]                  |----------------|
mail         smtp {error}                               |--------|
shop     INSERT log                                       |--|
";

    #[test]
    fn services_are_named_where_they_begin_and_asynchronous_parts_are_pale() {
        check(
            ORDER,
            whole,
            expect![[r#"
            shop: POST /order [handler] 0-3 13-16 19-24 ! 0-3 13-16 19-24
              POST pay [external] 3-5 10-13 ! 3-5 10-13
                pay: POST /charge [handler] 5-7 9-10 ! 5-7 9-10
                  insert charge [database] 7-9 ! 7-9
              send order [messaging] 16-19 ! 16-19
                mail: process order async [handler]  ! 
                  smtp error [handler]  ! 
              insert log async [database]  ! 
        "#]],
        );
    }

    #[test]
    fn one_part_alone_has_an_axis_of_its_own() {
        let part = |analysis: &Analysis<'_>| View {
            root: Some(2),
            ..whole(analysis)
        };
        check(
            ORDER,
            part,
            expect![[r#"
            pay: POST /charge [handler] 0-2 4-5 ! 0-2 4-5
              insert charge [database] 2-4 ! 2-4
        "#]],
        );
    }

    #[test]
    fn parts_without_a_parent_stand_beside_the_request() {
        check(
            "
shop   GET /cart             |---------|
shop     SELECT cart           |--|
other    work {orphan}            |--|
",
            whole,
            expect![[r#"
                shop: GET /cart [handler] 0-2 5-10 ! 0-2 5-10
                  select cart [database] 2-5 ! 2-5
                other: work orphan [handler] 5-8 ! 
            "#]],
        );
    }

    #[test]
    fn parallel_children_leave_the_parent_no_time_of_its_own() {
        check(
            "
shop   GET /cart             |-----------------|
shop     a                     |------|
shop     b                        |-------|
",
            whole,
            expect![[r#"
                shop: GET /cart [handler] 0-2 13-18 ! 0-5 13-18
                  a [handler] 2-9 ! 
                  b [handler] 5-13 ! 5-13
            "#]],
        );
    }

    #[test]
    fn too_many_rows_fold_the_shorter_subtrees() {
        let mut drawing =
            String::from("shop  GET /big              |----------------------------|\n");
        for child in 0..3 {
            drawing += &format!("shop    part{child}                |---------|\n");
            for at in 0..900 {
                drawing += &format!("shop      step{child}x{at}           |\n");
            }
        }
        let drawing = drawing::parse(&drawing);
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let waterfall = waterfall(&Indexed::of(&analysis), &View::default());
        assert!(waterfall.rows.len() <= ROWS_MAX);
        let more = waterfall
            .rows
            .iter()
            .filter(|it| matches!(it.kind, RowKind::More { .. }));
        assert_eq!(
            more.map(|it| it.members.len()).collect::<Vec<_>>(),
            [900 - CHILDREN_MAX]
        );
        assert_tiled(&analysis, &waterfall);
        // The way on: the rest of the first part.
        let rest = super::waterfall(
            &Indexed::of(&analysis),
            &View {
                root: Some(1),
                skip: 900 - 20,
                ..View::default()
            },
        );
        assert_eq!(rest.rows.len(), 21);
    }

    #[test]
    fn the_axis_is_round_and_reaches_the_end() {
        let ms = 1_000_000;
        for (length, tick, ticks) in [
            (0, 1, 1),
            (763 * ms, 100 * ms, 8),
            (900 * ms, 100 * ms, 9),
            (10, 1, 10),
        ] {
            let axis = Axis::fit(5, 5 + length);
            assert_eq!((axis.tick_ns, axis.ticks()), (tick, ticks), "{length}");
        }
        assert!(Axis::fit(0, u64::MAX).ticks() <= 10);
        assert_eq!(Axis::fit(0, 1_000).x(u64::MAX), 100.0);
    }

    #[test]
    fn thousands_of_calls_are_a_bounded_number_of_bars() {
        let axis = Axis::fit(0, 1_000_000);
        let calls: Vec<Piece> = (0..100_000)
            .map(|it| Piece {
                start_ns: it * 10,
                end_ns: it * 10 + 9,
            })
            .collect();
        assert_eq!(axis.bars(&calls).len(), 1);
        let apart: Vec<Piece> = (0..1_000)
            .map(|it| Piece {
                start_ns: it * 1_000,
                end_ns: it * 1_000 + 1,
            })
            .collect();
        assert!(axis.bars(&apart).len() <= 1_000);
    }
}
