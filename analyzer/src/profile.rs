//! The call-path profile: the calling-context trees of many requests, folded together.
//!
//! One request's tree has a frame per span; spans of one name under one parent fold into one frame.
//!
//! ```text
//! shop  GET /posts          |--------------|     GET /posts                 ×1  self 5
//! shop    SELECT posts      |--|             →     select posts             ×1  self 3
//! shop    SELECT authors        |--|               select authors           ×2  self 6
//! shop    SELECT authors            |--|
//! ```
//!
//! Another service's part is one frame, `payments · POST /charge`: its insides are in that service's
//! own profile.

mod difference;

pub use difference::{Amounts, Compared, Difference, DifferenceNode, difference};

use crate::category::Category;
use crate::seeded_hash::SeededMap;
use crate::target::template;
use crate::trace::SpanIdx;
use crate::{Analysis, Call, Entry};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A calling-context tree. Merges in any order and subtracts exactly as long as there are at most
/// [`Profile::PATHS_MAX`] paths; counts are signed so that a profile can also be a difference.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profile {
    /// The tree; `nodes[i].parent < i`. Order is not part of the value: compare with [`Profile::folded`].
    pub nodes: Vec<ProfileNode>,
}

/// One path.
#[derive(Clone, PartialEq, Debug)]
pub struct ProfileNode {
    /// The path's parent in [`Profile::nodes`]; `None` for the entry span itself.
    pub parent: Option<u32>,
    /// The operation, such as `SELECT authors` or `GET payments`; no ids in it.
    pub name: Arc<str>,
    /// The kind of its self time.
    pub category: Category,
    /// How many spans were folded into it.
    pub count: i64,
    /// Time of it that no child covers, summed, ns.
    pub self_ns: i64,
    /// Time of it on the critical path, summed, ns. All nodes' add up to the requests' durations.
    pub critical_ns: i64,
}

/// Which of a path's times is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// The time no child covers. What ran at the same time adds up, so all of it together may be
    /// longer than the requests took.
    SelfTime,
    /// The time on the critical path: all of it together is the requests' durations.
    Critical,
}

/// What stands for the paths beyond [`Profile::PATHS_MAX`].
const OTHER: &str = "(other)";

/// Paths this deep fold into their ancestor: recursion on the sender's side has no other end, and a
/// flame graph with more rows shows nothing.
const DEPTH_MAX: u32 = 128;

impl Profile {
    /// At most so many paths are kept apart in one profile; further ones fold into `(other)`
    /// under their deepest kept ancestor.
    pub const PATHS_MAX: usize = 1_000;

    /// The profile of one entry span, counted `weight` times.
    pub fn of(analysis: &Analysis<'_>, entry: &Entry<'_>, weight: i64) -> Profile {
        let mut sum = ProfileSum::default();
        let frames = frames(analysis, entry, &mut sum);
        let nodes = &mut sum.profile.nodes;
        for frame in &frames {
            let node = &mut nodes[frame.node as usize];
            node.count = node.count.wrapping_add(weight);
            let self_ns = weight.wrapping_mul(frame.self_ns(analysis) as i64);
            node.self_ns = node.self_ns.wrapping_add(self_ns);
        }
        for segment in &entry.path {
            // The frame of a span inside another service is the last one before it: that service's.
            let at = frames.partition_point(|it| it.span <= segment.span);
            let frame = &frames[at.saturating_sub(1)];
            let ns = segment.end_ns.saturating_sub(segment.start_ns) as i64;
            let node = &mut nodes[frame.node as usize];
            node.critical_ns = node.critical_ns.wrapping_add(weight.wrapping_mul(ns));
        }
        sum.profile
    }

    /// Adds every path of `other`, multiplied by `sign` (1 or -1). Whoever adds many keeps a
    /// [`ProfileSum`].
    pub fn merge(&mut self, other: &Profile, sign: i64) {
        let mut sum = ProfileSum::of(std::mem::take(self));
        sum.merge(other, sign);
        sum.profile.drop_empty();
        *self = sum.profile;
    }

    /// Removes the nodes whose numbers are all zero, unless one below them is not.
    fn drop_empty(&mut self) {
        let mut kept: Vec<bool> = self.nodes.iter().map(|it| !it.is_zero()).collect();
        for at in (0..self.nodes.len()).rev() {
            if let (true, Some(parent)) = (kept[at], self.nodes[at].parent) {
                kept[parent as usize] = true;
            }
        }
        if kept.iter().all(|it| *it) {
            return;
        }
        let mut moved_to = Vec::with_capacity(kept.len());
        let mut next = 0;
        for is_kept in &kept {
            moved_to.push(next);
            next += u32::from(*is_kept);
        }
        let mut is_kept = kept.iter();
        self.nodes.retain(|_| *is_kept.next().unwrap_or(&true));
        for node in &mut self.nodes {
            node.parent = node.parent.map(|it| moved_to[it as usize]);
        }
    }

    /// `a;b;c value` lines in sorted order, as flame-graph tools read them. `value` picks the number;
    /// lines with 0 are left out. `;` and line breaks in names are replaced.
    pub fn folded(&self, value: impl Fn(&ProfileNode) -> i64) -> Vec<String> {
        let mut stacks: Vec<String> = Vec::with_capacity(self.nodes.len());
        let mut values: BTreeMap<String, i64> = BTreeMap::new();
        for node in &self.nodes {
            let name = node.name.replace(';', ",").replace(['\n', '\r'], " ");
            let stack = match node.parent {
                Some(parent) => format!("{};{name}", stacks[parent as usize]),
                None => name,
            };
            let sum: &mut i64 = values.entry(stack.clone()).or_default();
            *sum = sum.wrapping_add(value(node));
            stacks.push(stack);
        }
        let lines = values.into_iter().filter(|(_, value)| *value != 0);
        lines
            .map(|(stack, value)| format!("{stack} {value}"))
            .collect()
    }
}

impl ProfileNode {
    /// Its time by `measure`, ns.
    pub fn ns(&self, measure: Measure) -> i64 {
        match measure {
            Measure::SelfTime => self.self_ns,
            Measure::Critical => self.critical_ns,
        }
    }

    fn is_zero(&self) -> bool {
        (self.count, self.self_ns, self.critical_ns) == (0, 0, 0)
    }
}

/// A profile under way: its children are linked, so that adding one more costs as much as that one
/// has paths, however many there are already.
#[derive(Clone, Debug, Default)]
pub struct ProfileSum {
    /// Paths that came to nothing may still stand in it.
    profile: Profile,
    links: Vec<Links>,
    first_root: Option<u32>,
    /// The children of paths that have more than [`SIBLINGS_WALKED`], by parent (`None`: the roots)
    /// and name; one entry per category.
    wide: SeededMap<Option<u32>, SeededMap<Arc<str>, Vec<u32>>>,
}

/// Up to so many siblings are found by walking over them: nearly every path has fewer children, and
/// then nothing needs to be kept. Beyond it they get an index, or a request of a million differently
/// named spans would cost a thousand comparisons for each.
const SIBLINGS_WALKED: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    first_child: Option<u32>,
    next_sibling: Option<u32>,
    depth: u32,
}

impl PartialEq for ProfileSum {
    fn eq(&self, other: &ProfileSum) -> bool {
        self.total() == other.total()
    }
}

impl ProfileSum {
    /// Begins with `profile`.
    pub fn of(profile: Profile) -> ProfileSum {
        let mut sum = ProfileSum::default();
        for at in 0..profile.nodes.len() {
            sum.link(at as u32, profile.nodes[at].parent);
        }
        sum.profile = profile;
        sum
    }

    /// What has been added up, without the paths that came to nothing.
    pub fn total(&self) -> Profile {
        let mut total = self.profile.clone();
        total.drop_empty();
        total
    }

    /// Adds another sum, multiplied by `sign` (1 or -1).
    pub fn merge_sum(&mut self, other: &ProfileSum, sign: i64) {
        self.merge(&other.profile, sign);
    }

    /// Adds every path of `other`, multiplied by `sign` (1 or -1).
    pub fn merge(&mut self, other: &Profile, sign: i64) {
        if self.profile.nodes.len() >= Profile::PATHS_MAX {
            // What came to nothing takes no place from what has not.
            *self = ProfileSum::of(self.total());
        }
        let entered = self.enter(other);
        for (node, mine) in other.nodes.iter().zip(entered) {
            let sum = &mut self.profile.nodes[mine as usize];
            // Wrapping: years, claimed often enough, overflow, and still have to subtract exactly.
            sum.count = sum.count.wrapping_add(sign.wrapping_mul(node.count));
            sum.self_ns = sum.self_ns.wrapping_add(sign.wrapping_mul(node.self_ns));
            sum.critical_ns = sum
                .critical_ns
                .wrapping_add(sign.wrapping_mul(node.critical_ns));
        }
    }

    /// Where each path of `other` stands; made, without numbers, if it is new.
    fn enter(&mut self, other: &Profile) -> Vec<u32> {
        let mut at: Vec<u32> = Vec::with_capacity(other.nodes.len());
        for node in &other.nodes {
            let parent = node.parent.map(|it| at[it as usize]);
            at.push(self.child(parent, node.category, &node.name, || node.name.clone()));
        }
        at
    }

    /// Makes the node `at`, the next one, a child of `parent`.
    fn link(&mut self, at: u32, parent: Option<u32>) {
        let (first, depth) = match parent {
            Some(parent) => {
                let parent = &mut self.links[parent as usize];
                (&mut parent.first_child, parent.depth + 1)
            }
            None => (&mut self.first_root, 0),
        };
        let next_sibling = first.replace(at);
        self.links.push(Links {
            first_child: None,
            next_sibling,
            depth,
        });
    }

    /// The child of `parent` with this category and name; made if there is none, and then it is called
    /// what `own` gives: the same name, to be kept.
    fn child(
        &mut self,
        parent: Option<u32>,
        category: Category,
        name: &str,
        own: impl FnOnce() -> Arc<str>,
    ) -> u32 {
        if let Some(parent) = parent {
            let folded = &*self.profile.nodes[parent as usize].name == OTHER;
            if folded || self.links[parent as usize].depth + 1 >= DEPTH_MAX {
                return parent;
            }
        }
        // `(other)` has one category, so that there is at most one below each path, also where a
        // sender calls a span so.
        let category = match name {
            OTHER => Category::Unattributed,
            _ => category,
        };
        if let Some(found) = self.find(parent, category, name) {
            return found;
        }
        if self.profile.nodes.len() < Profile::PATHS_MAX {
            return self.push(parent, category, own());
        }
        let other = self.find(parent, Category::Unattributed, OTHER);
        other.unwrap_or_else(|| self.push(parent, Category::Unattributed, OTHER.into()))
    }

    fn push(&mut self, parent: Option<u32>, category: Category, name: Arc<str>) -> u32 {
        let at = self.profile.nodes.len() as u32;
        self.link(at, parent);
        if let Some(siblings) = self.wide.get_mut(&parent) {
            siblings.entry(name.clone()).or_default().push(at);
        }
        self.profile.nodes.push(ProfileNode {
            parent,
            name,
            category,
            count: 0,
            self_ns: 0,
            critical_ns: 0,
        });
        at
    }

    fn find(&mut self, parent: Option<u32>, category: Category, name: &str) -> Option<u32> {
        if let Some(siblings) = self.wide.get(&parent) {
            let mut named = siblings.get(name)?.iter().copied();
            return named.find(|it| self.profile.nodes[*it as usize].category == category);
        }
        let mut walked = 0;
        let found = self.children(parent).find(|it| {
            walked += 1;
            let node = &self.profile.nodes[*it as usize];
            node.category == category && *node.name == *name
        });
        if walked > SIBLINGS_WALKED {
            self.index(parent);
        }
        found
    }

    fn children(&self, parent: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        let first = match parent {
            Some(parent) => self.links[parent as usize].first_child,
            None => self.first_root,
        };
        std::iter::successors(first, |it| self.links[*it as usize].next_sibling)
    }

    fn index(&mut self, parent: Option<u32>) {
        let mut siblings: SeededMap<Arc<str>, Vec<u32>> = SeededMap::default();
        for at in self.children(parent) {
            let name = self.profile.nodes[at as usize].name.clone();
            siblings.entry(name).or_default().push(at);
        }
        self.wide.insert(parent, siblings);
    }
}

/// A span of the request and the path it belongs to.
struct Frame {
    span: SpanIdx,
    node: u32,
    /// The span is another service's entry: all of its time is its self time.
    is_whole: bool,
}

impl Frame {
    /// The span's duration without what its children cover, ns.
    fn self_ns(&self, analysis: &Analysis<'_>) -> u64 {
        let trace = &analysis.trace;
        let duration = trace.duration_ns(self.span);
        if self.is_whole {
            return duration;
        }
        let node = trace.node(self.span);
        let mut covered_until = node.start_ns;
        let mut covered = 0;
        for child in trace.children(self.span) {
            let child = trace.node(child);
            let start = child.start_ns.max(covered_until);
            let end = child.end_ns.min(node.end_ns);
            covered += end.saturating_sub(start);
            covered_until = covered_until.max(end);
        }
        duration.saturating_sub(covered)
    }
}

/// The frames of `entry`'s part of the trace in tree order, their paths entered into `sum`.
fn frames(analysis: &Analysis<'_>, entry: &Entry<'_>, sum: &mut ProfileSum) -> Vec<Frame> {
    let trace = &analysis.trace;
    let subtree_end = trace.node(entry.span).subtree_end;
    let mut names = Names::below(analysis, entry.span);
    let mut frames = Vec::new();
    // The open spans, outermost first: one past their last descendant, and their path.
    let mut open: Vec<(SpanIdx, u32)> = Vec::new();
    let mut at = entry.span;
    while at < subtree_end {
        while open.pop_if(|(end, _)| *end <= at).is_some() {}
        let parent = open.last().map(|(_, node)| *node);
        let (name, category, is_whole) = names.next(at, entry);
        let node = sum.child(parent, category, name.text(), || name.kept());
        frames.push(Frame {
            span: at,
            node,
            is_whole,
        });
        let end = trace.node(at).subtree_end;
        open.push((end, node));
        at = if is_whole { end } else { at + 1 };
    }
    frames
}

/// Reads entries and calls beside the spans; all three stand in tree order.
struct Names<'a, 'b> {
    analysis: &'b Analysis<'a>,
    entries: &'b [Entry<'a>],
    calls: &'b [Call],
}

impl<'a, 'b> Names<'a, 'b> {
    fn below(analysis: &'b Analysis<'a>, entry: SpanIdx) -> Self {
        let entries = &analysis.entries;
        let calls = &analysis.calls;
        Names {
            analysis,
            entries: &entries[entries.partition_point(|it| it.span <= entry)..],
            calls: &calls[calls.partition_point(|it| it.outer < entry)..],
        }
    }

    /// The name and category of the span `at`, and whether it is another service's entry. Must be
    /// asked in tree order.
    fn next(&mut self, at: SpanIdx, entry: &'b Entry<'a>) -> (Name<'b>, Category, bool) {
        let category = self.analysis.categories[at as usize];
        if at == entry.span {
            return (Name::Text(Cow::Borrowed(&entry.endpoint)), category, false);
        }
        self.entries = from(self.entries, |it| it.span < at);
        if let Some(nested) = self.entries.first().filter(|it| it.span == at) {
            let name = [nested.service.name, " · ", &nested.endpoint].concat();
            return (Name::Text(Cow::Owned(name)), Category::External, true);
        }
        self.calls = from(self.calls, |it| it.outer < at);
        if let Some(call) = self.calls.first().filter(|it| it.outer == at) {
            return (Name::Shared(call_name(call)), category, false);
        }
        let name = template(self.analysis.trace.span(at).name);
        (Name::Text(name), category, false)
    }
}

/// `sorted` without those at its beginning that are `passed`. Nearly always that is one or none, but
/// after another service's part it may be any number.
fn from<T>(sorted: &[T], passed: impl Fn(&T) -> bool) -> &[T] {
    match sorted {
        [first, ..] if !passed(first) => sorted,
        [_, rest @ ..] if rest.first().is_none_or(|it| !passed(it)) => rest,
        _ => &sorted[sorted.partition_point(passed)..],
    }
}

/// A frame's name.
enum Name<'b> {
    /// A callee's, which all of its calls share.
    Shared(&'b Arc<str>),
    Text(Cow<'b, str>),
}

impl Name<'_> {
    fn text(&self) -> &str {
        match self {
            Name::Shared(name) => name,
            Name::Text(name) => name,
        }
    }

    fn kept(&self) -> Arc<str> {
        match self {
            Name::Shared(name) => Arc::clone(name),
            Name::Text(name) => Arc::from(&**name),
        }
    }
}

fn call_name(call: &Call) -> &Arc<str> {
    match (&call.statement, call.category) {
        (None, Category::External) => &call.key,
        _ => &call.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;
    use crate::{Settings, analyze};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    const POSTS: &str = "
        shop      GET /posts                                        |-----------------------------|
        shop        SELECT posts                                    |---|
        shop        load authors                                        |-----------|
        shop          SELECT authors                                    |---|
        shop          SELECT authors                                         |---|
        shop        POST payments/charge [client] {server.address=payments}          |---------|
        payments      POST /charge                                                     |-----|
        payments        SELECT account                                                   |-|
    ";

    /// The profile of the first entry of `drawn`.
    fn profile(drawn: &str, weight: i64) -> Profile {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        Profile::of(&analysis, &analysis.entries[0], weight)
    }

    fn numbers(profile: &Profile) -> Vec<String> {
        let of = |value: fn(&ProfileNode) -> i64| profile.folded(value);
        [
            of(|it| it.count),
            of(|it| it.self_ns),
            of(|it| it.critical_ns),
        ]
        .concat()
    }

    fn check(profile: &Profile, expected: Expect) {
        let lines = |title: &str, value: fn(&ProfileNode) -> i64| {
            format!("{title}\n  {}\n", profile.folded(value).join("\n  "))
        };
        expected.assert_eq(&format!(
            "{}{}{}",
            lines("count", |it| it.count),
            lines("self, ms", |it| it.self_ns / 1_000_000),
            lines("critical, ms", |it| it.critical_ns / 1_000_000),
        ));
    }

    #[test]
    fn spans_of_one_path_fold_and_other_services_are_one_frame() {
        check(
            &profile(POSTS, 1),
            expect![[r#"
            count
              GET /posts 1
              GET /posts;POST payments 1
              GET /posts;POST payments;payments · POST /charge 1
              GET /posts;load authors 1
              GET /posts;load authors;select authors 2
              GET /posts;select posts 1
            self, ms
              GET /posts 4
              GET /posts;POST payments 4
              GET /posts;POST payments;payments · POST /charge 6
              GET /posts;load authors 4
              GET /posts;load authors;select authors 8
              GET /posts;select posts 4
            critical, ms
              GET /posts 4
              GET /posts;POST payments 4
              GET /posts;POST payments;payments · POST /charge 6
              GET /posts;load authors 4
              GET /posts;load authors;select authors 8
              GET /posts;select posts 4
        "#]],
        );
    }

    #[test]
    fn weight_counts_a_request_many_times() {
        let mut sum = profile(POSTS, 3);
        sum.merge(&profile(POSTS, 1), -1);
        sum.merge(&profile(POSTS, 2), -1);
        assert_eq!(sum.nodes, []);
    }

    #[test]
    fn beyond_the_bound_paths_fold_into_other() {
        let node = |parent, name: String| ProfileNode {
            parent,
            name: name.into(),
            category: Category::Handler,
            count: 1,
            self_ns: 1,
            critical_ns: 0,
        };
        let mut many = Profile::default();
        many.nodes.push(node(None, "GET /".into()));
        for at in 0..2 * Profile::PATHS_MAX {
            many.nodes.push(node(Some(0), format!("step {at}")));
        }
        let mut kept = Profile::default();
        kept.merge(&many, 1);
        assert!(
            kept.nodes.len() <= Profile::PATHS_MAX + 1,
            "{}",
            kept.nodes.len()
        );
        let count: i64 = kept.nodes.iter().map(|it| it.count).sum();
        assert_eq!(count, 2 * Profile::PATHS_MAX as i64 + 1);
        let other = kept
            .folded(|it| it.count)
            .into_iter()
            .find(|it| it.contains(OTHER));
        assert_eq!(other.unwrap(), "GET /;(other) 1001");
    }

    #[test]
    fn a_million_differently_named_siblings_fold() {
        // Letters only: digits would be taken for ids and one name.
        let word = |at: u32| -> String {
            let digits = format!("{at:07}");
            digits
                .bytes()
                .map(|it| char::from(it - b'0' + b'a'))
                .collect()
        };
        let mut sum = ProfileSum::default();
        let root = sum.child(None, Category::Handler, "GET /", || "GET /".into());
        for at in 0..1_000_000 {
            let name = word(at);
            let node = sum.child(Some(root), Category::Handler, &name, || (*name).into());
            sum.profile.nodes[node as usize].count += 1;
        }
        assert_eq!(sum.profile.nodes.len(), Profile::PATHS_MAX + 1);
        let other = sum.profile.nodes.last().unwrap();
        assert_eq!(
            (&*other.name, other.count),
            (OTHER, 1_000_001 - Profile::PATHS_MAX as i64)
        );
        // Those that are kept are found again.
        let again = sum.child(Some(root), Category::Handler, &word(500), || unreachable!());
        assert_eq!(again, 501);
    }

    #[test]
    fn a_span_called_other_is_what_folded_paths_are() {
        let drawn = "
            shop  GET /              |--------------|
            shop    (other)             |------|
            shop      inside             |--|
            ";
        let profile = profile(drawn, 1);
        assert_eq!(profile.nodes.len(), 2);
        let other = &profile.nodes[1];
        assert_eq!((&*other.name, other.count), (OTHER, 2));
        assert_eq!(other.category, Category::Unattributed);
    }

    #[test]
    fn endless_recursion_ends() {
        let mut drawn = String::from("shop  GET /  |--|\n");
        for depth in 0..2 * DEPTH_MAX as usize {
            drawn += &format!("shop  {}resolve |--|\n", " ".repeat(depth + 1));
        }
        // The bars must stand in one column only for the eye.
        let profile = profile(&drawn, 1);
        assert_eq!(profile.nodes.len(), DEPTH_MAX as usize);
        let count: i64 = profile.nodes.iter().map(|it| it.count).sum();
        assert_eq!(count, 2 * i64::from(DEPTH_MAX) + 1);
    }

    #[test]
    fn names_cannot_break_a_line_of_stacks() {
        let mut profile = Profile::default();
        profile.nodes.push(ProfileNode {
            parent: None,
            name: "a;b\nc".into(),
            category: Category::Handler,
            count: 1,
            self_ns: 1,
            critical_ns: 1,
        });
        assert_eq!(profile.folded(|it| it.count), ["a,b c 1"]);
    }

    /// Trees of few names, so that paths meet.
    pub(super) fn any_profile() -> impl Strategy<Value = Profile> {
        let node = (any::<u32>(), 0..3u8, -9..9i64, -9..9i64, -9..9i64);
        proptest::collection::vec(node, 0..24).prop_map(|nodes| {
            let nodes = nodes.iter().enumerate().map(|(at, it)| ProfileNode {
                parent: (at > 0).then(|| it.0 % at as u32),
                name: format!("f{}", it.1).into(),
                category: Category::ALL[usize::from(it.1)],
                count: it.2,
                self_ns: it.3,
                critical_ns: it.4,
            });
            Profile {
                nodes: nodes.collect(),
            }
        })
    }

    fn sum(parts: &[(&Profile, i64)]) -> Profile {
        let mut sum = Profile::default();
        for (part, sign) in parts {
            sum.merge(part, *sign);
        }
        sum
    }

    proptest! {
        #[test]
        fn merging_does_not_care_about_order(a in any_profile(), b in any_profile(), c in any_profile()) {
            let forward = sum(&[(&a, 1), (&b, 1), (&c, 1)]);
            let backward = sum(&[(&c, 1), (&b, 1), (&a, 1)]);
            let nested = sum(&[(&a, 1), (&sum(&[(&b, 1), (&c, 1)]), 1)]);
            prop_assert_eq!(numbers(&forward), numbers(&backward));
            prop_assert_eq!(numbers(&forward), numbers(&nested));
        }

        #[test]
        fn a_sum_is_what_merging_gives(a in any_profile(), b in any_profile(), c in any_profile()) {
            let parts = [(&a, 1), (&b, -1), (&c, 1), (&b, 1)];
            let mut kept = ProfileSum::default();
            parts.iter().for_each(|(part, sign)| kept.merge(part, *sign));
            prop_assert_eq!(numbers(&kept.total()), numbers(&sum(&parts)));
            parts.iter().for_each(|(part, sign)| kept.merge(part, -sign));
            prop_assert_eq!(kept, ProfileSum::default());
        }

        #[test]
        fn subtracting_undoes_merging(a in any_profile(), b in any_profile()) {
            let back = sum(&[(&a, 1), (&b, 1), (&b, -1)]);
            prop_assert_eq!(numbers(&back), numbers(&sum(&[(&a, 1)])));
            prop_assert_eq!(sum(&[(&b, 1), (&b, -1)]).nodes, []);
        }

        #[test]
        fn parents_stand_before_their_children(a in any_profile(), b in any_profile()) {
            let merged = sum(&[(&a, 1), (&b, -1)]);
            for (at, node) in merged.nodes.iter().enumerate() {
                prop_assert!(node.parent.is_none_or(|it| (it as usize) < at));
            }
        }

        #[test]
        fn critical_time_adds_up_to_the_request(
            bars in proptest::collection::vec((1..5usize, 0..40usize, 0..20usize), 0..12),
            weight in 1..9i64,
        ) {
            let mut drawn = format!("shop  GET /            |{}|\n", "-".repeat(40));
            for (depth, start, len) in bars {
                let name = format!("{}step", " ".repeat(depth));
                drawn += &format!("shop  {name:<16} {}|{}|\n", " ".repeat(start), "-".repeat(len));
            }
            let drawing = drawing::parse(&drawn);
            let analysis = analyze(drawing.spans(), &Settings::default());
            let entry = &analysis.entries[0];
            let profile = Profile::of(&analysis, entry, weight);
            let critical: i64 = profile.nodes.iter().map(|it| it.critical_ns).sum();
            prop_assert_eq!(critical, entry.duration_ns as i64 * weight);
        }
    }
}
