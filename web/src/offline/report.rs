//! What `analyze` and `exec` find out, and its JSON (`--format json`), which is this module's types field by
//! field. Times are nanoseconds, points in time nanoseconds since the Unix epoch, ids lower-case hexadecimal.
//!
//! ```json
//! {"schema": 1,
//!  "traces": [{
//!    "trace_id": "…", "warnings": ["…"],
//!    "entries": [{
//!      "service": "shop", "endpoint": "GET /cart", "span_id": "…", "start_ns": 0, "duration_ns": 0,
//!      "error": false,
//!      "categories": {"handler": 0, "database": 0, …},
//!      "calls": {"handler": 0, "database": 0, …},
//!      "critical_path": [{"span_id", "service", "operation", "category", "start_ns", "end_ns"}],
//!      "findings": [{
//!        "detector", "fingerprint", "title", "severity", "confidence", "reasons", "count", "span_ids",
//!        "call_path", "statement", "target", "parameters", "saved_ns", "window_ns", "sum_ns", "code",
//!        "explanation", "fix", "fix_code", "framework"}]}]}],
//!  "findings_over_time": [{
//!    "service", "endpoint", "requests", "affected_requests", "affected_traces", "example_trace_id",
//!    "example_span_id", and the fields of a finding; "span_ids" is empty}],
//!  "coverage": {"traces", "spans", "requests", …, "notes": ["…"]}}
//! ```
//!
//! An entry is where a service's part of a trace begins. All eleven categories are always there and add up
//! to `duration_ns` exactly. `statement`, `target`, `code`, `fix_code` and `framework` may be `null`.
//! Fields may be added; whoever reads ignores those they do not know. When one is removed or changes its
//! meaning, `schema` is raised.

use analyzer::finding::{Finding, Severity};
use analyzer::profile::Profile;
use analyzer::span::TraceId;
use analyzer::trace::SpanIdx;
use analyzer::{Analysis, Entry};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

use super::over_time::Added;
use crate::coverage_numbers::CoverageNumbers;
use crate::entry_numbers::{ByCategory, Stretch};
use crate::waterfall::Names;

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// In order of their starts.
    pub traces: Vec<TraceReport>,
    /// What no single request tells, the dearest first; no fingerprint of it stands in `traces`.
    pub findings_over_time: Vec<OverTimeReport>,
    /// What was seen and what was not.
    pub coverage: Coverage,
}

/// One trace.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceReport {
    /// Its id.
    pub trace_id: String,
    /// What was odd about its spans, and what was done about it.
    pub warnings: Vec<String>,
    /// Where each service's part begins, in order of the tree. Empty if no such span has arrived.
    pub entries: Vec<EntryReport>,
    /// The id again.
    #[serde(skip)]
    pub id: TraceId,
    /// When its first span starts.
    #[serde(skip)]
    pub start_ns: u64,
    /// What could not be seen in it.
    #[serde(skip)]
    pub coverage: CoverageNumbers,
}

/// One service's part of a trace: a request to it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EntryReport {
    /// `service.name`.
    pub service: String,
    /// Method and route, RPC method, destination or span name.
    pub endpoint: String,
    /// The span it begins with.
    pub span_id: String,
    /// When it starts.
    pub start_ns: u64,
    /// How long it takes.
    pub duration_ns: u64,
    /// It failed.
    pub error: bool,
    /// How many requests it stands for, because of head sampling.
    pub weight: i64,
    /// What it waited for, ns.
    pub categories: ByCategory<u64>,
    /// How many calls it made.
    pub calls: ByCategory<u32>,
    /// What it waited for at each instant, without gaps or overlaps.
    pub critical_path: Vec<Stretch>,
    /// What is wrong with it, the dearest first.
    pub findings: Vec<FindingReport>,
    /// Its call paths, if they are wanted.
    #[serde(skip)]
    pub profile: Option<Profile>,
    /// What it adds to its endpoint's history.
    #[serde(skip)]
    pub added: Added,
}

/// One culprit in many requests of one endpoint, each of which may be harmless by itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OverTimeReport {
    /// Whose endpoint.
    pub service: String,
    /// Its name.
    pub endpoint: String,
    /// All of its requests.
    pub requests: usize,
    /// Those that have a part in it.
    pub affected_requests: usize,
    /// The traces they are in.
    pub affected_traces: usize,
    /// The trace of the slowest of them.
    pub example_trace_id: String,
    /// The span that one begins with.
    pub example_span_id: String,
    /// Calls of each of them.
    #[serde(skip)]
    pub calls: Vec<u32>,
    /// What it is. `count` and `sum_ns` are of all requests, `saved_ns` is of each affected one.
    #[serde(flatten)]
    pub finding: FindingReport,
}

impl OverTimeReport {
    /// What a fix saves of all requests, ns.
    pub fn saved_ns(&self) -> u64 {
        let requests = self.affected_requests as u64;
        self.finding.saved_ns.saturating_mul(requests)
    }
}

/// One culprit in one request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FindingReport {
    /// The detector's id; `budget` for a budget that was exceeded.
    pub detector: &'static str,
    /// The culprit's name, the same in every trace and release: what `--ignore` takes.
    pub fingerprint: String,
    /// In one sentence.
    pub title: String,
    /// `critical`, `warning` or `info`.
    #[serde(serialize_with = "severity_id")]
    pub severity: Severity,
    /// 0 to 1.
    pub confidence: f64,
    /// What made it more or less sure.
    pub reasons: Vec<String>,
    /// How many calls.
    pub count: u32,
    /// Which spans, in order of start.
    pub span_ids: Vec<String>,
    /// Operations from the request down to these spans.
    pub call_path: Vec<String>,
    /// The normalised statement.
    pub statement: Option<String>,
    /// What is called, if it is no statement.
    pub target: Option<String>,
    /// Visible parameters of the first few calls, redacted.
    pub parameters: Vec<String>,
    /// What a fix would take off the request.
    pub saved_ns: u64,
    /// From the first span's start to the last one's end.
    pub window_ns: u64,
    /// The spans' durations added up.
    pub sum_ns: u64,
    /// `file:line function`.
    pub code: Option<String>,
    /// What happens here, and why it is slow.
    pub explanation: String,
    /// What to change.
    pub fix: String,
    /// The change as code.
    pub fix_code: Option<String>,
    /// What the fix is written for.
    pub framework: Option<Cow<'static, str>>,
}

fn severity_id<S: Serializer>(severity: &Severity, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(severity.id())
}

/// What was seen and what was not, over all traces.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Coverage {
    /// Traces.
    pub traces: usize,
    /// Entry spans.
    pub requests: usize,
    /// Traces in which no request begins: fragments.
    pub without_entry: usize,
    /// Spans that were left out, because their ids are none.
    pub rejected_spans: u64,
    /// Spans that were left out, because there was no room for them (`exec`).
    pub dropped_spans: u64,
    /// What the analysis saw of the spans.
    #[serde(flatten)]
    pub seen: CoverageNumbers,
    /// Findings that are left out, because `--ignore` accepts them.
    pub ignored_findings: usize,
    /// Fingerprints of `--ignore` that nothing has.
    pub unused_ignores: Vec<String>,
    /// Budgets that no request matches.
    pub unused_budgets: Vec<String>,
    /// All of this that matters, in sentences.
    pub notes: Vec<String>,
}

/// What is asked of each trace besides what everybody needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Critical paths: many, and only JSON shows them.
    pub critical_paths: bool,
    /// Call paths, for flame graphs.
    pub profiles: bool,
}

impl TraceReport {
    /// What the analysis says.
    pub fn of(id: TraceId, analysis: &Analysis<'_>, wanted: Wanted) -> TraceReport {
        let names = Names::of(analysis);
        let entries = analysis.entries.iter();
        let mut entries: Vec<EntryReport> = entries
            .zip(Added::by_entries(analysis))
            .map(|(it, added)| EntryReport {
                added,
                ..EntryReport::of(analysis, &names, it, wanted)
            })
            .collect();
        for finding in &analysis.findings {
            let offenders = finding.offenders.iter();
            let span_ids = offenders.map(|it| analysis.trace.span(*it).id.to_string());
            let report = FindingReport::of(finding, span_ids.collect());
            entries[finding.entry].findings.push(report);
        }
        TraceReport {
            trace_id: id.to_string(),
            warnings: warnings(analysis),
            entries,
            id,
            start_ns: analysis.trace.time_ns().start,
            coverage: CoverageNumbers::of(analysis),
        }
    }
}

/// So many spans are named of those with the same warning.
const WARNED_SPANS_MAX: usize = 3;

/// Which spans are odd, and how: one text for all spans of which the same is to be said.
fn warnings(analysis: &Analysis<'_>) -> Vec<String> {
    // Few are kept of a trace.
    let mut spans_by_text: Vec<(&str, Vec<SpanIdx>)> = Vec::new();
    for warning in &analysis.trace.warnings {
        let known = spans_by_text.iter().position(|it| it.0 == warning.text);
        let at = known.unwrap_or_else(|| {
            spans_by_text.push((&warning.text, Vec::new()));
            spans_by_text.len() - 1
        });
        spans_by_text[at].1.extend(warning.span);
    }
    let named = |span: &SpanIdx| {
        let span = analysis.trace.span(*span);
        format!("{} ({})", span.id, span.name)
    };
    let told = spans_by_text.iter().map(|(text, spans)| {
        let first: Vec<String> = spans.iter().take(WARNED_SPANS_MAX).map(named).collect();
        let first = first.join(", ");
        match spans.len() {
            0 => (*text).to_owned(),
            1 => format!("{first}: {text}"),
            count if count > WARNED_SPANS_MAX => format!("{count} spans, {first}, …: {text}"),
            count => format!("{count} spans, {first}: {text}"),
        }
    });
    told.collect()
}

impl EntryReport {
    fn of(
        analysis: &Analysis<'_>,
        names: &Names<'_>,
        entry: &Entry<'_>,
        wanted: Wanted,
    ) -> EntryReport {
        EntryReport {
            service: entry.service.name.to_owned(),
            endpoint: entry.endpoint.clone(),
            span_id: analysis.trace.span(entry.span).id.to_string(),
            start_ns: entry.start_ns,
            duration_ns: entry.duration_ns,
            error: entry.error,
            weight: entry.weight,
            categories: ByCategory(entry.categories),
            calls: ByCategory(entry.calls),
            critical_path: match wanted.critical_paths {
                true => Stretch::all(analysis, names, entry),
                false => Vec::new(),
            },
            findings: Vec::new(),
            profile: wanted.profiles.then(|| Profile::of(analysis, entry, 1)),
            added: Added::default(),
        }
    }
}

impl FindingReport {
    /// What `it` says; its spans are `span_ids`.
    pub fn of(it: &Finding, span_ids: Vec<String>) -> FindingReport {
        FindingReport {
            detector: it.detector,
            fingerprint: it.fingerprint.clone(),
            title: it.title.clone(),
            severity: it.severity,
            confidence: (f64::from(it.confidence) * 1_000.0).round() / 1_000.0,
            reasons: it.reasons.clone(),
            count: it.count,
            span_ids,
            call_path: it.call_path.clone(),
            statement: it.statement.clone(),
            target: it.target.clone(),
            parameters: it.parameters.clone(),
            saved_ns: it.saved_ns,
            window_ns: it.window_ns,
            sum_ns: it.sum_ns,
            code: it.code.clone(),
            explanation: it.explanation.clone(),
            fix: it.fix.clone(),
            fix_code: it.fix_code.clone(),
            framework: it.framework.map(Cow::from),
        }
    }
}

impl Report {
    /// All requests with their traces.
    pub fn entries(&self) -> impl Iterator<Item = (&TraceReport, &EntryReport)> {
        self.traces
            .iter()
            .flat_map(|it| std::iter::repeat(it).zip(&it.entries))
    }

    /// All findings, those over time too.
    pub fn findings(&self) -> impl Iterator<Item = &FindingReport> {
        let over_time = self.findings_over_time.iter().map(|it| &it.finding);
        let in_traces = self.entries().flat_map(|(_, it)| &it.findings);
        in_traces.chain(over_time)
    }
}
