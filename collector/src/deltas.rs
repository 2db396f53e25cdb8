//! What a tick changes in the roll-ups: contributions added and taken out, gathered by key.
//!
//! Counts may be negative here; summed with what is stored they never are, because only what was
//! counted is ever taken out. The recount (`culprit verify`) builds the same sums from the blocks.

use analyzer::category::Category;
use analyzer::profile::ProfileSum;
use analyzer::sketch::Sketch;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

use crate::contribution::{Contribution, Edge, Hit, Request, Statement, signed};
use crate::store::dictionaries::Dictionaries;
use crate::store::encoding::{Hits, StatementCalls, Statements, merge_sketch, without_nul};

/// A day of the database, in days since the epoch: decides the partition.
pub type Day = i32;

/// Minutes in one row of `finding_hits`.
pub const HITS_MINUTES: i32 = 10;

/// Minutes in one row of `rollup_edges`: as fine as the ranges of pages, which begin with full tens.
pub const EDGES_MINUTES: i32 = 10;

/// From this version of the analysis on calls to others are counted: a trace that was counted by an
/// earlier one has none to take out, or to recount.
pub const EDGES_FROM_ANALYSIS: i16 = 3;

/// Examples kept per row of `finding_hits`: the worst, by what a fix saves.
pub const EXAMPLES_MAX: usize = 5;

/// Minutes older than this are merged into hours: 1,440 rows of an endpoint and day become 24. The
/// shorter ranges of the pages need minutes, the longer ones do not. Whether an endpoint became slower is told from
/// six hours of minutes, also some time after a deployment.
pub const MINUTES_KEPT: i32 = 8 * 60;

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// How a request was counted: stored in its row, so that it can be taken out again exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// The partition of everything the trace contributes.
    pub day: Day,
    /// `endpoints.id`
    pub endpoint: i32,
    /// `versions.id`
    pub version: i32,
    /// Minute of its start, since the epoch.
    pub minute: i32,
    /// It was counted into the slow tail's profile.
    pub tail: bool,
    /// Its calls to others were counted.
    pub edges: bool,
}

/// Changes of one endpoint, version and minute.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MinuteDelta {
    /// Requests, weighted.
    pub requests: i64,
    /// Failed ones, weighted.
    pub errors: i64,
    /// Durations added up, weighted, ns.
    pub duration_ns: i64,
    /// Critical-path ns by category, weighted.
    pub categories: [i64; Category::COUNT],
    /// Logical calls by category, weighted.
    pub calls: [i64; Category::COUNT],
    /// Durations.
    pub latency: Sketch,
}

/// Changes of one endpoint, version and hour.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HourDelta {
    /// Statement id → calls.
    pub statements: Statements,
    /// All requests' call paths.
    pub profile: ProfileSum,
    /// Requests in the slow tail, weighted.
    pub tail_requests: i64,
    /// The slow tail's call paths.
    pub tail_profile: ProfileSum,
}

/// Changes of one finding, version and ten minutes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HitsDelta {
    /// Distinct traces affected.
    pub traces: i64,
    /// Entry spans affected, weighted.
    pub requests: i64,
    /// What a fix saves, added up, weighted, ns.
    pub saved_ns: i64,
    /// The distributions.
    pub hits: Hits,
    /// The worst few, as stored.
    pub examples: Vec<Value>,
}

/// Changes of one edge, from an endpoint to whom it calls, and ten minutes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EdgeDelta {
    /// Calls, weighted by the caller.
    pub calls: i64,
    /// Failed ones, weighted.
    pub errors: i64,
    /// Durations added up, weighted, ns.
    pub duration_ns: i64,
    /// Durations.
    pub latency: Sketch,
}

/// (day, endpoint, finding or edge id, version id or 0, minute or hour).
pub type Key = (Day, i32, i32, i32);

/// All changes of a tick.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Deltas {
    /// By endpoint, version, minute.
    pub minutes: BTreeMap<Key, MinuteDelta>,
    /// Minutes that are merged into hours, by endpoint, version and the hour's first minute.
    pub merged_minutes: BTreeMap<Key, MinuteDelta>,
    /// By endpoint, version, hour.
    pub hours: BTreeMap<Key, HourDelta>,
    /// By finding, version, ten minutes.
    pub hits: BTreeMap<Key, HitsDelta>,
    /// Tens of minutes that are merged into hours, by finding, version and the hour's first minute.
    pub merged_hits: BTreeMap<Key, HitsDelta>,
    /// By edge, ten minutes.
    pub edges: BTreeMap<Key, EdgeDelta>,
    /// Tens of minutes that are merged into hours, by edge and the hour's first minute.
    pub merged_edges: BTreeMap<Key, EdgeDelta>,
}

/// The minute a request is counted in: of its start, since the epoch. Absurd times saturate.
pub fn minute_of(start_ns: u64) -> i32 {
    i32::try_from(start_ns / NS_PER_MINUTE).unwrap_or(i32::MAX)
}

/// The first minute of a minute's hour.
pub fn first_of_hour(minute: i32) -> i32 {
    minute - minute.rem_euclid(60)
}

/// Minutes before this one are merged into hours, at `now_ns` since the epoch. An hour's first.
pub fn merged_before(now_ns: u64) -> i32 {
    first_of_hour(minute_of(now_ns) - MINUTES_KEPT)
}

impl Deltas {
    /// Merges minutes before `horizon`, an hour's first, into their hours. What late spans change
    /// in a merged hour is thus written as a change of the hour.
    pub fn widen(&mut self, horizon: i32) {
        let is_old = |key: &Key| key.3 < horizon;
        merge_into_hours(
            &mut self.minutes,
            &mut self.merged_minutes,
            is_old,
            MinuteDelta::merge,
        );
        merge_into_hours(
            &mut self.hits,
            &mut self.merged_hits,
            is_old,
            HitsDelta::merge,
        );
        merge_into_hours(
            &mut self.edges,
            &mut self.merged_edges,
            is_old,
            EdgeDelta::merge,
        );
    }

    /// Merges the minutes of those hours that `like` has merged.
    pub fn widen_like(&mut self, like: &MergedHours) {
        merge_into_hours(
            &mut self.minutes,
            &mut self.merged_minutes,
            |key| like.minutes.contains(&hour_key(key)),
            MinuteDelta::merge,
        );
        merge_into_hours(
            &mut self.hits,
            &mut self.merged_hits,
            |key| like.hits.contains(&hour_key(key)),
            HitsDelta::merge,
        );
        merge_into_hours(
            &mut self.edges,
            &mut self.merged_edges,
            |key| like.edges.contains(&hour_key(key)),
            EdgeDelta::merge,
        );
    }

    /// Forgets about the other days.
    pub fn retain_days(&mut self, wanted: impl Fn(Day) -> bool) {
        self.minutes.retain(|key, _| wanted(key.0));
        self.merged_minutes.retain(|key, _| wanted(key.0));
        self.hours.retain(|key, _| wanted(key.0));
        self.hits.retain(|key, _| wanted(key.0));
        self.merged_hits.retain(|key, _| wanted(key.0));
        self.edges.retain(|key, _| wanted(key.0));
        self.merged_edges.retain(|key, _| wanted(key.0));
    }

    /// Which hours are merged.
    pub fn merged_hours(&self) -> MergedHours {
        MergedHours {
            minutes: self.merged_minutes.keys().copied().collect(),
            hits: self.merged_hits.keys().copied().collect(),
            edges: self.merged_edges.keys().copied().collect(),
        }
    }

    /// Adds a request counted as `counted`, or takes it out again (`sign` 1 or -1).
    pub fn add(
        &mut self,
        contribution: &Contribution,
        request: &Request,
        counted: &Counted,
        names: &Dictionaries,
        sign: i64,
    ) {
        let Counted {
            day,
            endpoint,
            version,
            minute,
            ..
        } = *counted;
        let key = (day, endpoint, version, minute);
        self.minutes.entry(key).or_default().add(request, sign);
        let key = (day, endpoint, version, minute.div_euclid(60));
        self.hours
            .entry(key)
            .or_default()
            .add(request, counted, names, sign);
        for hit in &request.hits {
            let Some(finding) = names.finding(endpoint, &hit.finding.fingerprint) else {
                continue;
            };
            let slot = minute - minute.rem_euclid(HITS_MINUTES);
            let delta = self.hits.entry((day, finding, version, slot)).or_default();
            delta.add(contribution, request, hit, sign);
        }
        if counted.edges {
            self.add_edges(contribution, request, counted, names, sign);
        }
    }

    fn add_edges(
        &mut self,
        contribution: &Contribution,
        request: &Request,
        counted: &Counted,
        names: &Dictionaries,
        sign: i64,
    ) {
        let slot = counted.minute - counted.minute.rem_euclid(EDGES_MINUTES);
        for calls in request.edges.chunk_by(|a, b| a.to == b.to) {
            let Some(edge) = names.edge(contribution, counted.endpoint, calls[0].to) else {
                continue;
            };
            let delta = self.edges.entry((counted.day, edge, 0, slot)).or_default();
            delta.add(calls, sign * request.weight);
        }
    }
}

/// Hours whose minutes are merged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MergedHours {
    minutes: BTreeSet<Key>,
    hits: BTreeSet<Key>,
    edges: BTreeSet<Key>,
}

fn merge_into_hours<T: Default>(
    minutes: &mut BTreeMap<Key, T>,
    hours: &mut BTreeMap<Key, T>,
    is_merged: impl Fn(&Key) -> bool,
    merge: fn(&mut T, &T, i64),
) {
    let (merged, kept): (BTreeMap<Key, T>, _) = std::mem::take(minutes)
        .into_iter()
        .partition(|(key, _)| is_merged(key));
    *minutes = kept;
    for (key, it) in merged {
        merge(hours.entry(hour_key(&key)).or_default(), &it, 1);
    }
}

fn hour_key(key: &Key) -> Key {
    (key.0, key.1, key.2, first_of_hour(key.3))
}

impl MinuteDelta {
    fn add(&mut self, request: &Request, sign: i64) {
        let count = sign * request.weight;
        self.requests += count;
        self.errors += count * i64::from(request.error);
        self.duration_ns = self
            .duration_ns
            .wrapping_add(count.wrapping_mul(signed(request.duration_ns)));
        for at in 0..Category::COUNT {
            let ns = count.wrapping_mul(signed(request.categories[at]));
            self.categories[at] = self.categories[at].wrapping_add(ns);
            self.calls[at] += count * i64::from(request.calls[at]);
        }
        self.latency.record(request.duration_ns, count);
    }

    /// Adds `other`, or takes it away (`sign` 1 or -1).
    pub fn merge(&mut self, other: &MinuteDelta, sign: i64) {
        self.requests += sign * other.requests;
        self.errors += sign * other.errors;
        self.duration_ns = self
            .duration_ns
            .wrapping_add(sign.wrapping_mul(other.duration_ns));
        for at in 0..Category::COUNT {
            self.categories[at] =
                self.categories[at].wrapping_add(sign.wrapping_mul(other.categories[at]));
            self.calls[at] += sign * other.calls[at];
        }
        merge_sketch(&mut self.latency, &other.latency, sign);
    }
}

impl EdgeDelta {
    /// Adds each of `calls` `count` times (negative: takes them away).
    fn add(&mut self, calls: &[Edge], count: i64) {
        for call in calls {
            self.calls += count;
            self.errors += count * i64::from(call.failed);
            self.duration_ns = self
                .duration_ns
                .wrapping_add(count.wrapping_mul(signed(call.duration_ns)));
            self.latency.record(call.duration_ns, count);
        }
    }

    /// Adds `other`, or takes it away (`sign` 1 or -1).
    pub fn merge(&mut self, other: &EdgeDelta, sign: i64) {
        self.calls += sign * other.calls;
        self.errors += sign * other.errors;
        self.duration_ns = self
            .duration_ns
            .wrapping_add(sign.wrapping_mul(other.duration_ns));
        merge_sketch(&mut self.latency, &other.latency, sign);
    }
}

impl HourDelta {
    fn add(&mut self, request: &Request, counted: &Counted, names: &Dictionaries, sign: i64) {
        let (day, endpoint) = (counted.day, counted.endpoint);
        for statement in &request.statements {
            let Some(id) = names.statement_of(day, endpoint, &statement.callee) else {
                continue;
            };
            add_statement(&mut self.statements, id, statement, sign * request.weight);
        }
        let profile = names.apart.profile(day, endpoint, &request.profile);
        self.profile.merge(&profile, sign);
        if counted.tail {
            self.tail_requests += sign * request.weight;
            self.tail_profile.merge(&profile, sign);
        }
    }

    /// Adds `other`, or takes it away (`sign` 1 or -1).
    pub fn merge(&mut self, other: &HourDelta, sign: i64) {
        for (id, calls) in &other.statements {
            merge_statement(&mut self.statements, *id, calls, sign);
        }
        self.profile.merge_sum(&other.profile, sign);
        self.tail_requests += sign * other.tail_requests;
        self.tail_profile.merge_sum(&other.tail_profile, sign);
    }
}

/// Adds a call `count` times (negative: takes it away); what comes to nothing is dropped.
fn add_statement(statements: &mut Statements, id: i32, call: &Statement, count: i64) {
    let sum = statements.entry(id).or_default();
    sum.calls += count;
    sum.sum_ns = sum
        .sum_ns
        .wrapping_add(count.wrapping_mul(signed(call.duration_ns)));
    sum.critical_ns = sum
        .critical_ns
        .wrapping_add(count.wrapping_mul(signed(call.critical_ns)));
    sum.latency.record(call.duration_ns, count);
    if *sum == StatementCalls::default() {
        statements.remove(&id);
    }
}

/// Merges one statement's calls; what comes to nothing is dropped.
fn merge_statement(statements: &mut Statements, id: i32, calls: &StatementCalls, sign: i64) {
    let merged = statements.entry(id).or_default();
    merged.merge(calls, sign);
    if *merged == StatementCalls::default() {
        statements.remove(&id);
    }
}

impl HitsDelta {
    fn add(&mut self, contribution: &Contribution, request: &Request, hit: &Hit, sign: i64) {
        let count = sign * request.weight;
        let saved = hit.finding.saved_ns.min(request.duration_ns);
        self.traces += sign * i64::from(hit.first_in_trace);
        self.requests += count;
        self.saved_ns = self
            .saved_ns
            .wrapping_add(count.wrapping_mul(signed(saved)));
        self.hits.saved.record(saved, count);
        self.hits.calls.record(u64::from(hit.finding.count), count);
        self.hits.before.record(request.duration_ns, count);
        self.hits.after.record(request.duration_ns - saved, count);
        if sign > 0 && self.has_room_for(saved) {
            self.examples.push(example(contribution, request, hit));
            keep_worst(&mut self.examples);
        }
    }

    /// Adds `other`, or takes it away (`sign` 1 or -1). Examples are only ever added: an example
    /// that was analysed again still is one.
    pub fn merge(&mut self, other: &HitsDelta, sign: i64) {
        self.traces += sign * other.traces;
        self.requests += sign * other.requests;
        self.saved_ns = self
            .saved_ns
            .wrapping_add(sign.wrapping_mul(other.saved_ns));
        self.hits.merge(&other.hits, sign);
        self.examples.extend(other.examples.iter().cloned());
        keep_worst(&mut self.examples);
    }

    /// Saves building an example that would be dropped at once.
    fn has_room_for(&self, saved_ns: u64) -> bool {
        self.examples.len() < EXAMPLES_MAX
            || self
                .examples
                .last()
                .is_some_and(|it| saved_of(it) < saved_ns)
    }
}

fn saved_of(example: &Value) -> u64 {
    example["saved_ns"].as_u64().unwrap_or_default()
}

/// The worst [`EXAMPLES_MAX`], worst first, one per entry span (the newer analysis wins).
fn keep_worst(examples: &mut Vec<Value>) {
    let mut kept: Vec<Value> = Vec::with_capacity(examples.len());
    for example in examples.drain(..).rev() {
        let same = |it: &Value| {
            it["trace_id"] == example["trace_id"] && it["span_id"] == example["span_id"]
        };
        if !kept.iter().any(same) {
            kept.push(example);
        }
    }
    kept.sort_by_key(|it| std::cmp::Reverse(saved_of(it)));
    kept.truncate(EXAMPLES_MAX);
    *examples = kept;
}

/// An affected request, with the evidence a page or an alert needs without opening the trace.
fn example(contribution: &Contribution, request: &Request, hit: &Hit) -> Value {
    let finding = &hit.finding;
    let offenders: Vec<String> = hit.offenders.iter().map(ToString::to_string).collect();
    let evidence = json!({
        "title": finding.title,
        "severity": finding.severity.id(),
        "confidence": finding.confidence,
        "reasons": finding.reasons,
        "call_path": finding.call_path,
        "statement": finding.statement,
        "target": finding.target,
        "parameters": finding.parameters,
        "count": finding.count,
        "window_ns": finding.window_ns,
        "sum_ns": finding.sum_ns,
        "saved_ns": finding.saved_ns,
        "code": finding.code,
        "explanation": finding.explanation,
        "fix": finding.fix,
        "fix_code": finding.fix_code,
        "framework": finding.framework,
        "offenders": offenders,
    });
    without_nul(json!({
        "trace_id": contribution.trace_id.to_string(),
        "span_id": request.span_id.to_string(),
        "start_ns": request.start_ns,
        "duration_ns": request.duration_ns,
        "saved_ns": finding.saved_ns.min(request.duration_ns),
        "count": finding.count,
        "evidence": evidence,
    }))
}
