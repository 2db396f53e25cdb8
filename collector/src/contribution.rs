//! What one analysed trace adds to requests, roll-ups and findings: owned, by name, before ids.

use analyzer::category::Category;
use analyzer::finding::Finding;
use analyzer::profile::Profile;
use analyzer::span::{SpanId, TraceId};
use analyzer::{Analysis, Call, Entry};
use std::collections::{HashMap, HashSet};

use crate::store::encoding::StatementCalls;

/// What a trace adds.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// The trace.
    pub trace_id: TraceId,
    /// Distinct spans in it.
    pub spans: u32,
    /// One per entry span, distinct by span id; empty for a fragment.
    pub requests: Vec<Request>,
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

/// A service's names, as the dictionary has them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceName {
    /// `service.namespace`, or empty.
    pub namespace: String,
    /// `service.name`.
    pub name: String,
    /// `deployment.environment.name`, or empty.
    pub environment: String,
}

/// What an entry span adds.
#[derive(Clone, Debug)]
pub struct Request {
    /// The entry span.
    pub span_id: SpanId,
    /// Whose it is.
    pub service: ServiceName,
    /// `service.version`, or empty.
    pub version: String,
    /// Its endpoint.
    pub endpoint: String,
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
    /// Its statements, each once, unweighted.
    pub statements: Vec<Statement>,
    /// Its call paths, weighted.
    pub profile: Profile,
    /// Its findings.
    pub hits: Vec<Hit>,
}

/// A statement an entry span ran.
#[derive(Clone, Debug)]
pub struct Statement {
    /// `db.system.name`, or empty.
    pub system: String,
    /// Normalised text.
    pub text: String,
    /// Its calls, weighted.
    pub calls: StatementCalls,
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
        let mut calls = calls_by_entry(analysis);
        let mut findings: HashMap<usize, Vec<&Finding>> = HashMap::new();
        for finding in &analysis.findings {
            findings.entry(finding.entry).or_default().push(finding);
        }
        let mut seen_findings = HashSet::new();
        let mut seen_ids = HashSet::new();
        let mut requests = Vec::with_capacity(analysis.entries.len());
        for (at, entry) in analysis.entries.iter().enumerate() {
            let span_id = spans[entry.span as usize].id;
            // Two entry spans of one id and different kind: the row's key has room for one.
            if !seen_ids.insert(span_id) {
                continue;
            }
            let hits = findings
                .remove(&at)
                .unwrap_or_default()
                .into_iter()
                .map(|finding| Hit {
                    offenders: offenders(analysis, finding),
                    first_in_trace: seen_findings.insert((
                        entry.service,
                        entry.endpoint.as_str(),
                        finding.fingerprint.as_str(),
                    )),
                    finding: finding.clone(),
                });
            requests.push(Request {
                hits: hits.collect(),
                statements: statements(analysis, entry, calls.remove(&at).unwrap_or_default()),
                ..request(analysis, entry, span_id)
            });
        }
        Contribution {
            trace_id: spans.first().map(|span| span.trace_id).unwrap_or_default(),
            spans: spans.len() as u32,
            requests,
            fragment: fragment(analysis),
        }
    }
}

fn request(analysis: &Analysis<'_>, entry: &Entry<'_>, span_id: SpanId) -> Request {
    Request {
        span_id,
        service: ServiceName {
            namespace: entry.service.namespace.into(),
            name: entry.service.name.into(),
            environment: entry.service.environment.into(),
        },
        version: entry.version.into(),
        endpoint: entry.endpoint.clone(),
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
    }
}

fn calls_by_entry<'a>(analysis: &'a Analysis<'_>) -> HashMap<usize, Vec<&'a Call>> {
    let mut calls: HashMap<usize, Vec<&Call>> = HashMap::new();
    for call in &analysis.calls {
        if let (Some(entry), Some(_)) = (call.entry, &call.statement) {
            calls.entry(entry).or_default().push(call);
        }
    }
    calls
}

/// The entry's statements, each once, with their calls.
fn statements(analysis: &Analysis<'_>, entry: &Entry<'_>, calls: Vec<&Call>) -> Vec<Statement> {
    let mut critical: HashMap<u32, u64> = HashMap::new();
    for segment in &entry.path {
        *critical.entry(segment.span).or_default() += segment.end_ns - segment.start_ns;
    }
    let mut positions: HashMap<(&str, &str), usize> = HashMap::new();
    let mut statements: Vec<Statement> = Vec::new();
    for call in calls {
        let Some(fingerprint) = &call.statement else {
            continue;
        };
        let span = analysis.trace.span(call.span);
        let system = analysis
            .trace
            .spans
            .text(span, &["db.system.name", "db.system"])
            .unwrap_or_default();
        let at = *positions
            .entry((system, fingerprint.text.as_str()))
            .or_insert_with(|| {
                statements.push(Statement {
                    system: system.into(),
                    text: fingerprint.text.clone(),
                    calls: StatementCalls::default(),
                });
                statements.len() - 1
            });
        let duration_ns = analysis.trace.duration_ns(call.outer);
        let node = analysis.trace.node(call.outer);
        let on_path: u64 = (call.outer..node.subtree_end)
            .filter_map(|it| critical.get(&it))
            .sum();
        let totals = &mut statements[at].calls;
        totals.calls += entry.weight;
        totals.sum_ns = totals
            .sum_ns
            .wrapping_add(entry.weight.wrapping_mul(signed(duration_ns)));
        totals.critical_ns = totals
            .critical_ns
            .wrapping_add(entry.weight.wrapping_mul(signed(on_path)));
        totals.latency.record(duration_ns, entry.weight);
    }
    statements
}

fn offenders(analysis: &Analysis<'_>, finding: &Finding) -> Vec<SpanId> {
    let first = finding.offenders.iter().take(OFFENDERS_MAX);
    first.map(|it| analysis.trace.span(*it).id).collect()
}

fn fragment(analysis: &Analysis<'_>) -> Fragment {
    let spans = &analysis.trace.spans.spans;
    let nodes = &analysis.trace.nodes;
    let start_ns = nodes.iter().map(|it| it.start_ns).min().unwrap_or_default();
    let end_ns = nodes.iter().map(|it| it.end_ns).max().unwrap_or_default();
    Fragment {
        span_id: spans.iter().map(|it| it.id).min().unwrap_or_default(),
        start_ns,
        duration_ns: end_ns - start_ns,
    }
}

/// Nanoseconds as Postgres keeps them; absurd ones saturate.
pub fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
