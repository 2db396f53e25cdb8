//! Repeated calls under one entry span: what the N+1 family shares.
//!
//! Repeats are grouped by *calling context*: the names of all ancestors from the outermost entry to the
//! call, and the call's key. Grouping by direct parent would miss the loop wherever an ORM, a
//! repository or a resolver puts a span of its own around each call:
//!
//! ```text
//! shop  GET /posts                |-------------------|
//! shop    Author.find             |-----|                    one group:
//! shop      SELECT authors          |--|                     GET /posts > Author.find, select authors
//! shop    Author.find                   |-----|
//! shop      SELECT authors                |--|
//! ```
//!
//! A group belongs to the outermost entry that repeats something below it: a loop in `shop` that
//! calls `stock`, which runs one query per call, is a loop of `shop`. Groups that take turns are one
//! loop with several calls per round.
//!
//! What repeats only because the calls around it do is no loop of its own: the queries that `stock` runs
//! for those calls are gone when the calls are one, so the calls are the loop.

use crate::category::Category;
use crate::seeded_hash::SeededMap;
use crate::span::SpanKind;
use crate::target::template;
use crate::trace::SpanIdx;
use crate::{Analysis, Call, Callee};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// At most so many groups of one trace are kept, the longest ones: a trace with more has one problem
/// many times, and comparing all pairs of them would take longer than the rest of the analysis.
const GROUPS_MAX: usize = 64;

/// Names of a call path beyond so many are left out in its middle: recursion repeats itself.
const CALL_PATH_MAX: usize = 16;

/// Calls that one loop makes over and over.
#[derive(Clone, PartialEq, Debug)]
pub struct Loop {
    /// The entry whose code loops: an index into [`Analysis::entries`].
    pub entry: usize,
    /// Operation names from that entry down to the calls' parent.
    pub call_path: Vec<String>,
    /// The different calls of a round, in order of their first start.
    pub steps: Vec<Step>,
    /// All calls, as indices into [`Analysis::calls`], in order of start.
    pub calls: Vec<usize>,
    /// The spans of the entry itself that wait for the calls, in tree order, each once.
    pub waiting: Vec<SpanIdx>,
    /// From the first start to the last end, ns.
    pub window_ns: u64,
    /// Durations added up, ns.
    pub sum_ns: u64,
    /// Time in which at least one of the waiting spans ran, ns.
    pub waited_ns: u64,
    /// The waiting spans' durations added up, ns.
    pub waiting_sum_ns: u64,
}

/// One of a loop's repeated calls.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The first of them: an index into [`Analysis::calls`].
    pub first: usize,
    /// How many there are.
    pub count: usize,
}

impl Loop {
    /// One after the other: they overlap by at most 1 %.
    pub fn is_serial(&self) -> bool {
        self.waiting_sum_ns <= self.waited_ns + self.waited_ns / 100
    }

    /// The calls are in another service, behind one of the entry's own calls.
    pub fn is_remote(&self, analysis: &Analysis<'_>) -> bool {
        analysis.calls[self.steps[0].first].entry != Some(self.entry)
    }

    /// The duration that half of the waiting spans do not exceed, ns.
    pub fn median_ns(&self, analysis: &Analysis<'_>) -> u64 {
        let durations = self
            .waiting
            .iter()
            .map(|it| analysis.trace.duration_ns(*it));
        let mut durations: Vec<u64> = durations.collect();
        durations.sort_unstable();
        durations.get(durations.len() / 2).copied().unwrap_or(0)
    }
}

/// The loops over calls of `category` that are `of_kind` and `wanted` and repeat at least `repeats_min`
/// times, in order of entry and start. `of_kind` is asked about every call, so it has to be quick; `wanted`
/// only about calls that repeat, so it may look closely.
pub fn loops(
    analysis: &Analysis<'_>,
    category: Category,
    of_kind: impl Fn(&Call) -> bool,
    wanted: impl Fn(&Call) -> bool,
    repeats_min: usize,
) -> Vec<Loop> {
    let of_kind = |call: &Call| call.category == category && call.entry.is_some() && of_kind(call);
    let mut groups = merged(analysis, groups(analysis, of_kind, wanted, repeats_min));
    groups.sort_by_key(|it| std::cmp::Reverse(it.sum_ns));
    groups.truncate(GROUPS_MAX);
    groups.sort_by_key(|it| (it.entry, start_ns(analysis, it.calls[0]), it.steps[0].first));
    let mut loops: Vec<Loop> = Vec::new();
    for group in groups {
        match loops.iter_mut().find(|it| take_turns(analysis, it, &group)) {
            Some(found) => *found = joined(analysis, found, &group),
            None => loops.push(group),
        }
    }
    loops
}

/// Asks about what is called once for all calls in a row that share it: those of one key mostly do.
pub fn once_each(ask: impl Fn(&Callee) -> bool) -> impl Fn(&Call) -> bool {
    let last: Cell<(*const Callee, bool)> = Cell::new((std::ptr::null(), false));
    move |call| {
        let callee = Arc::as_ptr(&call.callee);
        if last.get().0 != callee {
            last.set((callee, ask(&call.callee)));
        }
        last.get().1
    }
}

/// One loop of one step per calling context and key.
fn groups(
    analysis: &Analysis<'_>,
    of_kind: impl Fn(&Call) -> bool,
    wanted: impl Fn(&Call) -> bool,
    repeats_min: usize,
) -> Vec<Loop> {
    // Most traces end here: too few calls for anything to repeat.
    if analysis.calls.iter().filter(|it| of_kind(it)).count() < repeats_min {
        return Vec::new();
    }
    let mut by_key = by_key(analysis, of_kind);
    by_key.retain_mut(|calls| {
        // Twice: most keys are too few to look at each of their calls.
        calls.len() >= repeats_min && {
            calls.retain(|at| wanted(&analysis.calls[*at]));
            calls.len() >= repeats_min
        }
    });
    if by_key.is_empty() {
        return Vec::new();
    }
    let mut contexts = Contexts::of(analysis);
    let around = Around::of(analysis);
    let mut requests = Requests::default();
    let mut groups = Vec::new();
    for calls in by_key {
        let mut by_context: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for at in calls {
            let context = contexts.around(analysis, analysis.calls[at].outer);
            by_context.entry(context).or_default().push(at);
        }
        for calls in by_context.into_values() {
            let mut loops = split_by_entry(analysis, &around, calls, repeats_min);
            loops.retain(|it| !requests.repeat_around(analysis, it, repeats_min));
            groups.extend(loops);
        }
    }
    groups
}

/// The calls of a kind by their keys, in order of the keys.
fn by_key(analysis: &Analysis<'_>, of_kind: impl Fn(&Call) -> bool) -> Vec<Vec<usize>> {
    let mut lists: Vec<Vec<usize>> = Vec::new();
    let mut by_text: BTreeMap<&str, usize> = BTreeMap::new();
    // Calls of one thing mostly share what they call: its text is looked at once.
    let mut known: SeededMap<*const Callee, usize> = SeededMap::default();
    for (at, call) in analysis.calls.iter().enumerate() {
        if of_kind(call) {
            let list = *known.entry(Arc::as_ptr(&call.callee)).or_insert_with(|| {
                *by_text.entry(&call.key).or_insert_with(|| {
                    lists.push(Vec::new());
                    lists.len() - 1
                })
            });
            lists[list].push(at);
        }
    }
    let in_order = by_text.into_values();
    in_order.map(|it| std::mem::take(&mut lists[it])).collect()
}

/// Makes one of the groups that nothing tells apart. Deep recursion has a context per depth, but the middle
/// of its call paths is left out, and two findings of one name in one entry would be the same culprit.
fn merged(analysis: &Analysis<'_>, groups: Vec<Loop>) -> Vec<Loop> {
    let (cut, mut whole): (Vec<Loop>, Vec<Loop>) = groups
        .into_iter()
        .partition(|it| it.call_path.len() > CALL_PATH_MAX);
    let mut by_name: BTreeMap<(usize, Vec<String>, &str), Loop> = BTreeMap::new();
    for group in cut {
        let key = &*analysis.calls[group.steps[0].first].key;
        let name = (group.entry, group.call_path.clone(), key);
        let group = match by_name.remove(&name) {
            Some(other) => {
                let mut both = joined(analysis, &other, &group);
                both.steps = vec![Step {
                    first: both.calls[0],
                    count: both.calls.len(),
                }];
                both
            }
            None => group,
        };
        by_name.insert(name, group);
    }
    whole.extend(by_name.into_values());
    whole
}

/// The requests that entries make, by the spans around the callees' entries; filled when first needed.
#[derive(Default)]
struct Requests {
    /// For each span the call, as an index into [`Analysis::calls`] plus 1; 0 where there is none.
    of_span: Vec<u32>,
}

impl Requests {
    /// Does `found` repeat because the entry repeats one request around it?
    fn repeat_around(&mut self, analysis: &Analysis<'_>, found: &Loop, repeats_min: usize) -> bool {
        if !found.is_remote(analysis) {
            return false;
        }
        if self.of_span.is_empty() {
            self.of_span = vec![0; analysis.trace.nodes.len()];
            for (at, call) in (1..).zip(&analysis.calls) {
                if call.category == Category::External {
                    self.of_span[call.span as usize] = at;
                    self.of_span[call.outer as usize] = at;
                }
            }
        }
        let mut times: SeededMap<*const Callee, (&str, usize)> = SeededMap::default();
        for span in &found.waiting {
            // The request may be named by a span around the one that was sent.
            const WRAPPERS_MAX: usize = 4;
            let around = std::iter::successors(Some(*span), |it| analysis.trace.node(*it).parent);
            let top = analysis.entries[found.entry].span;
            let mut inside = around.take(WRAPPERS_MAX).take_while(|it| *it > top);
            let request = inside.find_map(|it| (self.of_span[it as usize] as usize).checked_sub(1));
            if let Some(request) = request {
                let callee = &analysis.calls[request].callee;
                let (_, times) = times
                    .entry(Arc::as_ptr(callee))
                    .or_insert((&*callee.key, 0));
                *times += 1;
            }
        }
        let mut by_key: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, times) in times.into_values() {
            *by_key.entry(key).or_default() += times;
        }
        by_key.into_values().any(|it| it >= repeats_min)
    }
}

/// Calling contexts as numbers: the same names from the top down to a span's parent are the same number.
struct Contexts<'b> {
    ids: SeededMap<(u32, String), u32>,
    /// The same by names as they were sent, which need no work: context above, service if it is an entry, name.
    sent: SeededMap<(u32, Option<&'b str>, &'b str), u32>,
    /// For each span the context that its children stand in; 0 where it is not known yet.
    below: Vec<u32>,
    /// Spans on the way up.
    unknown: Vec<SpanIdx>,
}

impl<'b> Contexts<'b> {
    /// None is known yet.
    fn of(analysis: &Analysis<'_>) -> Self {
        Contexts {
            ids: SeededMap::default(),
            sent: SeededMap::default(),
            below: vec![0; analysis.trace.nodes.len()],
            unknown: Vec::new(),
        }
    }

    /// The context a span stands in; 0 for roots.
    fn around(&mut self, analysis: &'b Analysis<'_>, span: SpanIdx) -> u32 {
        let trace = &analysis.trace;
        let mut context = 0;
        let mut at = trace.node(span).parent;
        while let Some(ancestor) = at {
            context = self.below[ancestor as usize];
            if context > 0 {
                break;
            }
            self.unknown.push(ancestor);
            at = trace.node(ancestor).parent;
        }
        while let Some(ancestor) = self.unknown.pop() {
            context = self.inside(analysis, context, ancestor);
            self.below[ancestor as usize] = context;
        }
        context
    }

    /// The context of the children of `span`, which itself stands in `above`.
    fn inside(&mut self, analysis: &'b Analysis<'_>, above: u32, span: SpanIdx) -> u32 {
        let entry = analysis.entry_of(span).map(|it| &analysis.entries[it]);
        let sent = match entry.filter(|it| it.span == span) {
            Some(entry) => (above, Some(entry.service.name), &*entry.endpoint),
            None => (above, None, analysis.trace.span(span).name),
        };
        if let Some(known) = self.sent.get(&sent) {
            return *known;
        }
        let next = self.ids.len() as u32 + 1;
        let name = frame_name(analysis, span);
        let id = *self.ids.entry((above, name)).or_insert(next);
        self.sent.insert(sent, id);
        id
    }
}

/// A span's name in call paths and contexts: without ids, and with the service where one begins.
fn frame_name(analysis: &Analysis<'_>, span: SpanIdx) -> String {
    match analysis.entries.binary_search_by_key(&span, |it| it.span) {
        Ok(at) => {
            let entry = &analysis.entries[at];
            format!("{} · {}", entry.service.name, entry.endpoint)
        }
        Err(_) => without_index(&template(analysis.trace.span(span).name)),
    }
}

/// Loops number the spans around their rounds: `item-3` → `item-{id}`.
fn without_index(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for word in name.split_inclusive(' ') {
        let body = word.trim_end();
        let stem = body.trim_end_matches(|it: char| it.is_ascii_digit());
        let is_numbered = stem.len() < body.len()
            && stem
                .strip_suffix(['-', '_'])
                .is_some_and(|it| it.ends_with(|it: char| it.is_alphabetic()));
        text.push_str(if is_numbered { stem } else { body });
        text.push_str(if is_numbered { "{id}" } else { "" });
        text.push_str(&word[body.len()..]);
    }
    text
}

/// Gives calls of one context to the outermost entries that repeat at least `repeats_min` times.
fn split_by_entry(
    analysis: &Analysis<'_>,
    around: &Around,
    calls: Vec<usize>,
    repeats_min: usize,
) -> Vec<Loop> {
    if calls.len() < repeats_min {
        return Vec::new();
    }
    let Some(level) = around.repeating(analysis, &calls, repeats_min) else {
        return Vec::new();
    };
    let mut by_entry: BTreeMap<usize, Vec<(usize, SpanIdx)>> = BTreeMap::new();
    for call in calls {
        let Some((entry, callee)) = around.at(analysis, call, level) else {
            continue;
        };
        let waiting = match callee {
            Some(callee) => {
                let callee = analysis.entries[callee].span;
                analysis.trace.node(callee).parent.unwrap_or(callee)
            }
            None => analysis.calls[call].outer,
        };
        by_entry.entry(entry).or_default().push((call, waiting));
    }
    by_entry.retain(|_, calls| calls.len() >= repeats_min);
    let groups = by_entry.into_iter();
    groups
        .map(|(entry, calls)| group(analysis, entry, calls))
        .collect()
}

/// The entries around each entry, as far as each waits for the next: a consumer's work is not its
/// producer's. The outermost has level 0.
struct Around {
    /// For each entry the one around it that waits for it, and its own level.
    of: Vec<(Option<u32>, u32)>,
}

impl Around {
    fn of(analysis: &Analysis<'_>) -> Around {
        let mut of: Vec<(Option<u32>, u32)> = Vec::with_capacity(analysis.entries.len());
        // Entries stand in order of their spans, so what is around one stands before it.
        for entry in &analysis.entries {
            let is_consumer = analysis.trace.span(entry.span).kind == SpanKind::Consumer;
            let waits = !is_consumer && !analysis.trace.node(entry.span).detached;
            let above = entry.parent.filter(|_| waits);
            let level = above.map_or(0, |it| of[it].1 + 1);
            of.push((above.map(|it| it as u32), level));
        }
        Around { of }
    }

    /// The outermost level at which entries repeat what is below them at least `repeats_min` times.
    fn repeating(
        &self,
        analysis: &Analysis<'_>,
        calls: &[usize],
        repeats_min: usize,
    ) -> Option<u32> {
        let entries = calls.iter().filter_map(|it| analysis.calls[*it].entry);
        let mut entries: Vec<u32> = entries.map(|it| it as u32).collect();
        let lowest = entries.iter().map(|it| self.of[*it as usize].1).min()?;
        for entry in &mut entries {
            while self.of[*entry as usize].1 > lowest {
                *entry = self.of[*entry as usize].0?;
            }
        }
        let (mut below, mut found) = (calls.len(), None);
        // From the innermost level out: each has at most as many entries as the one before.
        for level in (0..=lowest).rev() {
            entries.sort_unstable();
            entries.dedup();
            if below >= entries.len() * repeats_min {
                found = Some(level);
            }
            below = entries.len();
            if below == 1 && repeats_min > 1 {
                // Farther out there is one around one.
                break;
            }
            for entry in &mut entries {
                *entry = self.of[*entry as usize].0.unwrap_or(*entry);
            }
        }
        found
    }

    /// The entry of `level` around a call, and the one just inside of it, if the call is not its own.
    fn at(
        &self,
        analysis: &Analysis<'_>,
        call: usize,
        level: u32,
    ) -> Option<(usize, Option<usize>)> {
        let (mut entry, mut inside) = (analysis.calls[call].entry?, None);
        while self.of[entry].1 > level {
            inside = Some(entry);
            entry = self.of[entry].0? as usize;
        }
        Some((entry, inside))
    }
}

fn group(analysis: &Analysis<'_>, entry: usize, calls: Vec<(usize, SpanIdx)>) -> Loop {
    let mut waiting: Vec<SpanIdx> = calls.iter().map(|it| it.1).collect();
    waiting.sort_unstable();
    waiting.dedup();
    let first = calls[0].0;
    let step = Step {
        first,
        count: calls.len(),
    };
    let calls = calls.into_iter().map(|it| it.0).collect();
    let call_path = call_path(analysis, entry, analysis.calls[first].outer);
    measured(analysis, entry, call_path, vec![step], calls, waiting)
}

/// Operation names from the entry down to the parent of `span`; the entry's is its endpoint.
pub fn call_path(analysis: &Analysis<'_>, entry: usize, span: SpanIdx) -> Vec<String> {
    let top = &analysis.entries[entry];
    let mut path = Vec::new();
    let mut at = analysis.trace.node(span).parent;
    while let Some(ancestor) = at.filter(|it| *it > top.span) {
        path.push(frame_name(analysis, ancestor));
        at = analysis.trace.node(ancestor).parent;
    }
    path.push(top.endpoint.clone());
    path.reverse();
    if path.len() > CALL_PATH_MAX {
        let left_out = CALL_PATH_MAX / 2..path.len() - CALL_PATH_MAX / 2;
        path.splice(left_out, ["…".to_string()]);
    }
    path
}

fn measured(
    analysis: &Analysis<'_>,
    entry: usize,
    call_path: Vec<String>,
    steps: Vec<Step>,
    mut calls: Vec<usize>,
    waiting: Vec<SpanIdx>,
) -> Loop {
    calls.sort_by_key(|it| (start_ns(analysis, *it), *it));
    let outer: Vec<SpanIdx> = calls.iter().map(|it| analysis.calls[*it].outer).collect();
    let of_calls = Extent::of(analysis, &outer);
    let of_waiting = Extent::of(analysis, &waiting);
    Loop {
        entry,
        call_path,
        steps,
        calls,
        waiting,
        window_ns: of_calls.window_ns,
        sum_ns: of_calls.sum_ns,
        waited_ns: of_waiting.union_ns,
        waiting_sum_ns: of_waiting.sum_ns,
    }
}

/// How much time some spans take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// From the first start to the last end, ns.
    pub window_ns: u64,
    /// Durations added up, ns.
    pub sum_ns: u64,
    /// Time in which at least one of them ran, ns.
    pub union_ns: u64,
}

impl Extent {
    /// Of `spans`, in any order.
    pub fn of(analysis: &Analysis<'_>, spans: &[SpanIdx]) -> Extent {
        let nodes = spans.iter().map(|it| analysis.trace.node(*it));
        let mut intervals: Vec<(u64, u64)> = nodes.map(|it| (it.start_ns, it.end_ns)).collect();
        intervals.sort_unstable();
        let mut extent = Extent::default();
        let Some((from, _)) = intervals.first().copied() else {
            return extent;
        };
        let mut until = from;
        for (start, end) in intervals {
            extent.sum_ns = extent.sum_ns.saturating_add(end - start);
            extent.union_ns += end.saturating_sub(start.max(until));
            until = until.max(end);
        }
        extent.window_ns = until - from;
        extent
    }
}

fn start_ns(analysis: &Analysis<'_>, call: usize) -> u64 {
    analysis.trace.node(analysis.calls[call].outer).start_ns
}

/// Whether two groups are steps of one loop:
///
/// ```text
/// SELECT authors   |-|     |-|     |-|            in turns, one or more of one
/// SELECT badges       |-|     |-|     |-|         between two of the other
///
/// SELECT authors   |---|                          or all at once and equally often
/// SELECT authors   |----|
/// SELECT badges         |--|
/// SELECT badges          |--|
/// ```
fn take_turns(analysis: &Analysis<'_>, a: &Loop, b: &Loop) -> bool {
    if a.entry != b.entry {
        return false;
    }
    let starts = |it: &Loop| -> Vec<u64> {
        it.calls
            .iter()
            .map(|call| start_ns(analysis, *call))
            .collect()
    };
    let (a_starts, b_starts) = (starts(a), starts(b));
    let concurrent = !a.is_serial() && !b.is_serial();
    if concurrent && a.steps[0].count == b.steps[0].count {
        let a_end = a_starts[0] + a.window_ns;
        return b_starts[0] <= a_end;
    }
    let (rounds, others) = match a_starts.len() <= b_starts.len() {
        true => (&a_starts, &b_starts),
        false => (&b_starts, &a_starts),
    };
    let with_other = rounds.windows(2).filter(|gap| {
        let next = others.partition_point(|it| *it < gap[0]);
        others.get(next).is_some_and(|it| *it < gap[1])
    });
    // Four of five: a round may skip a step that depends on its data.
    with_other.count() * 5 >= (rounds.len() - 1) * 4
}

fn joined(analysis: &Analysis<'_>, a: &Loop, b: &Loop) -> Loop {
    let mut waiting = [&a.waiting[..], &b.waiting].concat();
    waiting.sort_unstable();
    waiting.dedup();
    let steps = [&a.steps[..], &b.steps].concat();
    let calls = [&a.calls[..], &b.calls].concat();
    measured(
        analysis,
        a.entry,
        a.call_path.clone(),
        steps,
        calls,
        waiting,
    )
}
