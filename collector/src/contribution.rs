//! What one analysed trace adds to requests, roll-ups and findings: owned, by name, before ids.

mod edges;

use analyzer::category::Category;
use analyzer::finding::Finding;
use analyzer::profile::Profile;
use analyzer::seeded_hash::Seeded;
use analyzer::span::{SpanId, TraceId};
use analyzer::{Analysis, Call, Callee, Entry, Service};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use edges::{Edge, Peer, To};

use edges::NONE as NO_REQUEST;

/// What a trace adds.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// The trace.
    pub trace_id: TraceId,
    /// Distinct spans in it.
    pub spans: u32,
    /// One per entry span, distinct by span id; empty for a fragment.
    pub requests: Vec<Request>,
    /// Whom its requests call where nobody reports from, each once.
    pub peers: Vec<Arc<Peer>>,
    /// For a fragment: the id and times its row gets.
    pub fragment: Fragment,
}

/// What stands for a trace without any entry span.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fragment {
    /// The smallest span id, so that any order of arrival gives the same row.
    pub span_id: SpanId,
    /// The earliest start, ns since the Unix epoch.
    pub start_ns: u64,
    /// From there to the latest end, ns.
    pub duration_ns: u64,
}

/// What a request is counted under: whose it is, which version of it, and the endpoint. One text,
/// because it is made for every request and looked up more often than read.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Names {
    text: Box<str>,
    /// Where the parts end in it, except for the last one, in the order of the accessors.
    ends: [u32; 4],
}

impl Names {
    /// The names of requests to `endpoint` of `service` in this `version`.
    pub fn of(service: &Service<'_>, version: &str, endpoint: &str) -> Names {
        let parts = [
            service.namespace,
            service.name,
            service.environment,
            version,
            endpoint,
        ];
        let mut ends = [0; 4];
        let mut end = 0;
        for (at, part) in ends.iter_mut().zip(parts) {
            end += part.len();
            *at = end as u32;
        }
        Names {
            text: parts.concat().into(),
            ends,
        }
    }

    /// The service's names.
    pub fn service(&self) -> Service<'_> {
        Service {
            namespace: self.part(0),
            name: self.part(1),
            environment: self.part(2),
        }
    }

    /// `service.version`, or empty.
    pub fn version(&self) -> &str {
        self.part(3)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &str {
        self.part(4)
    }

    fn part(&self, at: usize) -> &str {
        let begin = at.checked_sub(1).map_or(0, |it| self.ends[it] as usize);
        let end = self.ends.get(at).map_or(self.text.len(), |it| *it as usize);
        &self.text[begin..end]
    }
}

/// What an entry span adds.
#[derive(Clone, Debug)]
pub struct Request {
    /// The entry span.
    pub span_id: SpanId,
    /// What it is counted under.
    pub names: Names,
    /// Start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Duration, ns.
    pub duration_ns: u64,
    /// Requests it stands for.
    pub weight: i64,
    /// It failed.
    pub error: bool,
    /// It is the trace's first entry: nobody in the trace called it.
    pub root: bool,
    /// Critical-path ns by category; sums to the duration.
    pub categories: [u64; Category::COUNT],
    /// Logical calls by category.
    pub calls: [u32; Category::COUNT],
    /// Its calls of statements, in tree order.
    pub statements: Vec<Statement>,
    /// Its call paths, weighted.
    pub profile: Profile,
    /// Its findings.
    pub hits: Vec<Hit>,
    /// Its calls to others, those to one callee side by side.
    pub edges: Vec<Edge>,
}

/// A call of a statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// Which: its `system`, and its `key`, which is the normalised text.
    pub callee: Arc<Callee>,
    /// Duration, ns.
    pub duration_ns: u64,
    /// Its time on the entry's critical path, ns.
    pub critical_ns: u64,
}

/// A finding in an entry span, with what is needed to show it without the trace.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The finding; its `offenders` are positions in a trace that is gone: see `offenders` here.
    pub finding: Finding,
    /// The offending spans' ids, at most [`OFFENDERS_MAX`].
    pub offenders: Vec<SpanId>,
    /// The first of this fingerprint in the trace: counts as one more affected trace.
    pub first_in_trace: bool,
}

/// Offenders' ids kept with an example; the trace has the others.
pub const OFFENDERS_MAX: usize = 50;

impl Contribution {
    /// What `analysis` adds.
    pub fn of(analysis: &Analysis<'_>) -> Contribution {
        let spans = &analysis.trace.spans.spans;
        let mut calls = StatementsByEntry::of(analysis);
        let mut hits = HitsByEntry::of(analysis);
        let positions = positions(analysis);
        let (mut edges, peers) = edges::of(analysis, &positions);
        let mut requests = Vec::with_capacity(analysis.entries.len());
        for (at, entry) in analysis.entries.iter().enumerate() {
            if positions[at] == NO_REQUEST {
                continue;
            }
            requests.push(Request {
                hits: hits.take(at),
                statements: calls.take(at),
                edges: std::mem::take(&mut edges[at]),
                ..request(analysis, entry, spans[entry.span as usize].id)
            });
        }
        Contribution {
            trace_id: spans.first().map(|span| span.trace_id).unwrap_or_default(),
            spans: spans.len() as u32,
            requests,
            peers,
            fragment: fragment(analysis),
        }
    }
}

/// Which request each entry becomes. Two entry spans of one id and different kind: the row's key has
/// room for one.
fn positions(analysis: &Analysis<'_>) -> Vec<u32> {
    let mut seen_ids = HashSet::with_hasher(Seeded::default());
    let mut next = 0;
    let positions = analysis.entries.iter().map(|entry| {
        if !seen_ids.insert(analysis.trace.span(entry.span).id) {
            return NO_REQUEST;
        }
        next += 1;
        next - 1
    });
    positions.collect()
}

/// Each entry's calls of statements, in the order of the entries.
pub fn statements(analysis: &Analysis<'_>) -> Vec<Vec<Statement>> {
    let mut calls = StatementsByEntry::of(analysis);
    let entries = 0..analysis.entries.len();
    entries.map(|at| calls.take(at)).collect()
}

fn request(analysis: &Analysis<'_>, entry: &Entry<'_>, span_id: SpanId) -> Request {
    Request {
        span_id,
        names: Names::of(&entry.service, entry.version, &entry.endpoint),
        start_ns: entry.start_ns,
        duration_ns: entry.duration_ns,
        weight: entry.weight,
        error: entry.error,
        root: entry.parent.is_none(),
        categories: entry.categories,
        calls: entry.calls,
        statements: Vec::new(),
        profile: Profile::of(analysis, entry, entry.weight),
        hits: Vec::new(),
        edges: Vec::new(),
    }
}

/// The findings of each entry, taken in order of the entries.
struct HitsByEntry<'b, 'a> {
    analysis: &'b Analysis<'a>,
    findings: HashMap<usize, Vec<&'b Finding>>,
    /// Service, endpoint and fingerprint of those taken.
    taken: HashSet<(Service<'a>, &'b str, &'b str)>,
}

impl<'b, 'a> HitsByEntry<'b, 'a> {
    fn of(analysis: &'b Analysis<'a>) -> Self {
        let mut findings: HashMap<usize, Vec<&Finding>> = HashMap::new();
        for finding in &analysis.findings {
            findings.entry(finding.entry).or_default().push(finding);
        }
        HitsByEntry {
            analysis,
            findings,
            taken: HashSet::new(),
        }
    }

    fn take(&mut self, at: usize) -> Vec<Hit> {
        let entry = &self.analysis.entries[at];
        let findings = self.findings.remove(&at).unwrap_or_default();
        let hits = findings.into_iter().map(|finding| Hit {
            offenders: offenders(self.analysis, finding),
            first_in_trace: self.taken.insert((
                entry.service,
                entry.endpoint.as_str(),
                finding.fingerprint.as_str(),
            )),
            finding: finding.clone(),
        });
        hits.collect()
    }
}

/// No call.
const NONE: u32 = u32::MAX;

/// The calls of statements of each entry.
struct StatementsByEntry<'b, 'a> {
    analysis: &'b Analysis<'a>,
    /// Each entry's first call, an index into the analysis's calls.
    first: Vec<u32>,
    /// The next call of the same entry after each call.
    next: Vec<u32>,
    /// Each span's time on the critical path of the entry that is looked at, ns; else zero.
    critical_ns: Vec<u64>,
}

impl<'b, 'a> StatementsByEntry<'b, 'a> {
    fn of(analysis: &'b Analysis<'a>) -> Self {
        let mut first = vec![NONE; analysis.entries.len()];
        let mut next = vec![NONE; analysis.calls.len()];
        for (at, call) in analysis.calls.iter().enumerate().rev() {
            if let (Some(entry), Some(_)) = (call.entry, &call.statement) {
                next[at] = std::mem::replace(&mut first[entry], at as u32);
            }
        }
        StatementsByEntry {
            analysis,
            first,
            next,
            critical_ns: vec![0; analysis.trace.nodes.len()],
        }
    }

    fn take(&mut self, at: usize) -> Vec<Statement> {
        let path = &self.analysis.entries[at].path;
        if self.first[at] == NONE {
            return Vec::new();
        }
        for segment in path {
            self.critical_ns[segment.span as usize] += segment.end_ns - segment.start_ns;
        }
        let mut statements = Vec::new();
        let mut call = self.first[at];
        while call != NONE {
            statements.push(self.statement(&self.analysis.calls[call as usize]));
            call = self.next[call as usize];
        }
        for segment in path {
            self.critical_ns[segment.span as usize] = 0;
        }
        statements
    }

    fn statement(&self, call: &Call) -> Statement {
        let trace = &self.analysis.trace;
        let subtree = call.outer as usize..trace.node(call.outer).subtree_end as usize;
        Statement {
            callee: call.callee.clone(),
            duration_ns: trace.duration_ns(call.outer),
            critical_ns: self.critical_ns[subtree].iter().sum(),
        }
    }
}

fn offenders(analysis: &Analysis<'_>, finding: &Finding) -> Vec<SpanId> {
    let first = finding.offenders.iter().take(OFFENDERS_MAX);
    first.map(|it| analysis.trace.span(*it).id).collect()
}

fn fragment(analysis: &Analysis<'_>) -> Fragment {
    let spans = &analysis.trace.spans.spans;
    let time_ns = analysis.trace.time_ns();
    Fragment {
        span_id: spans.iter().map(|it| it.id).min().unwrap_or_default(),
        start_ns: time_ns.start,
        duration_ns: time_ns.end - time_ns.start,
    }
}

/// Nanoseconds as Postgres keeps them; absurd ones saturate.
pub fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// The way back from [`signed`]; nothing below zero is stored.
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_their_parts_and_not_only_by_their_text() {
        let service = |namespace, name| Service {
            namespace,
            name,
            environment: "",
        };
        let names = Names::of(&service("shop", "cart"), "1.4", "GET /carts/{id}");
        assert_eq!(names.service(), service("shop", "cart"));
        assert_eq!(names.version(), "1.4");
        assert_eq!(names.endpoint(), "GET /carts/{id}");
        let other = Names::of(&service("shopcart", ""), "1.4", "GET /carts/{id}");
        assert_ne!(names, other);
        assert_eq!(Names::default().endpoint(), "");
    }
}
