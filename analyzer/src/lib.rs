//! Spans in, analysis out.
//!
//! Pure: no IO, no clock, no environment, no run-time dependency. So the same code answers in the
//! server, on a file, in a test, in a bench and in a fuzzer. It is total: whatever spans come in,
//! however broken, an analysis comes out.
//!
//! Read in this order: [`span`] the vocabulary, [`trace`] the tree, [`critical_path`] what the
//! request waited for, [`attribution`] every nanosecond's category, [`call`] logical calls,
//! [`detectors`] the culprits; then [`sketch`] and [`profile`], which gather many requests.

pub mod seeded_hash;
pub mod span;
pub mod sender;
pub mod trace;
mod clock_skew;
pub mod drawing;
pub mod facts;
pub mod target;
pub mod peer;
pub mod log_destination;
pub mod category;
pub mod identity;
pub mod critical_path;
pub mod attribution;
pub mod sql;
pub mod call;
mod siblings;
mod statements;
pub mod finding;
mod groups;
mod loops;
mod impact;
mod evidence;
mod claims;
pub mod connections;
mod language;
mod coverage;
pub mod transit;
mod work;
mod paging;
mod payload;
mod framework;
mod role;
pub mod wording;
pub mod detectors;
pub mod sketch;
pub mod regression;
pub mod contrast;
pub mod profile;
pub mod history;
#[cfg(test)]
mod tests;

pub use coverage::Coverage;

use call::Candidates;
use category::Category;
use detectors::Detect;
use finding::Finding;
use history::History;
use peer::Peer;
use span::Spans;
use statements::Statements;
use std::sync::Arc;
use trace::{SpanIdx, Trace};

/// Raised whenever the same spans may give other numbers than before: stored contributions of
/// another version are recounted instead of subtracted.
///
/// 3: calls between services and to what they depend on are counted.
pub const ANALYSIS_VERSION: i16 = 3;

/// What the user can set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts or URL paths (a `*` matches anything) that are log destinations besides the known ones.
    pub log_destinations: Vec<String>,
    /// From how many repeats on a loop may be reported, at least 2. In production 5: fewer are as often
    /// a page that happens to need a thing three times. Tests have little data: there 3 are a loop.
    pub repeats_min: usize,
    /// Nothing more will come: a span whose parent is missing begins a request. While spans still arrive
    /// it does not, because its parent may be on its way.
    pub is_complete: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            log_destinations: Vec::new(),
            repeats_min: 5,
            is_complete: false,
        }
    }
}

/// What was found out about one trace.
#[derive(Clone, Debug)]
pub struct Analysis<'a> {
    /// The tree.
    pub trace: Trace<'a>,
    /// Each span's category, same order as the spans.
    pub categories: Vec<Category>,
    /// Where each service's part of the trace begins, in tree order.
    pub entries: Vec<Entry<'a>>,
    /// Calls to something else, wrapper chains folded into one, in tree order.
    pub calls: Vec<Call>,
    /// Whom the calls go to, each once; [`Call::peer`] is a position here.
    pub peers: Vec<Peer<'a>>,
    /// The culprits, in order of what a fix saves.
    pub findings: Vec<Finding>,
    /// What the detectors could not see in this trace.
    pub coverage: Coverage,
    /// Each span's entry, same order as the spans.
    owners: Vec<Option<u32>>,
}

/// Which service a span belongs to; versions are beside it, not in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Service<'a> {
    /// `service.namespace`, or empty.
    pub namespace: &'a str,
    /// `service.name`, or `unknown_service`.
    pub name: &'a str,
    /// `deployment.environment.name`, or empty.
    pub environment: &'a str,
}

/// An entry span (SERVER or CONSUMER span, or a span without a parent id) and where its time went.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The entry span.
    pub span: SpanIdx,
    /// The entry whose subtree this one lies in (the caller's), as an index into [`Analysis::entries`].
    pub parent: Option<usize>,
    /// Whose it is.
    pub service: Service<'a>,
    /// `service.version`, or empty.
    pub version: &'a str,
    /// `service.instance.id`, or empty.
    pub instance: &'a str,
    /// Method and route, RPC method, destination, or templated span name; never empty.
    pub endpoint: String,
    /// How many requests this one stands for (head sampling); 1 if all are sent. A whole number, so
    /// that counts add up and subtract exactly: a fraction is rounded up or down by the trace id.
    pub weight: i64,
    /// The request failed: status ERROR, or HTTP 5xx, or a gRPC server error.
    pub error: bool,
    /// Start, ns since the Unix epoch, corrected.
    pub start_ns: u64,
    /// Duration, ns, corrected.
    pub duration_ns: u64,
    /// What the entry's own spans did, ns: the time each of them was not waiting for another of them, added up.
    /// Work that runs in parallel counts as often as it runs, so it may be more than `duration_ns`.
    pub work_ns: u64,
    /// Critical-path time by [`Category`]; sums to `duration_ns` exactly.
    pub categories: [u64; Category::COUNT],
    /// The critical path: what the request waited for at each instant, in order of time, without
    /// gaps or overlaps, from start to end.
    pub path: Vec<Segment>,
    /// How many logical calls there are of each category.
    pub calls: [u32; Category::COUNT],
}

impl Entry<'_> {
    /// How many things ran at once, on average: work versus wall time. 1 for a request that does one thing after
    /// the other, 0 for an instant.
    pub fn parallelism(&self) -> f64 {
        if self.duration_ns == 0 {
            return 0.0;
        }
        self.work_ns as f64 / self.duration_ns as f64
    }
}

/// A stretch of an entry's critical path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The deepest span the request waited for.
    pub span: SpanIdx,
    /// From, ns since the Unix epoch.
    pub start_ns: u64,
    /// To, ns since the Unix epoch.
    pub end_ns: u64,
    /// What kind of time it is, from the entry's point of view.
    pub category: Category,
}

/// A call to a database, cache, service, broker or log sink, once, however many wrappers it has. It
/// reads like its [`Callee`], which it shares with the other calls of the same.
#[derive(Clone, Debug)]
pub struct Call {
    /// The outermost span of the call.
    pub outer: SpanIdx,
    /// The span that has the statement or URL (the same as `outer` without wrappers).
    pub span: SpanIdx,
    /// The entry it belongs to: an index into [`Analysis::entries`]; `None` in a fragment.
    pub entry: Option<usize>,
    /// What kind of thing is called.
    pub category: Category,
    /// It failed by what one of its spans says: its status, an HTTP status of 4xx or 5xx, an RPC status.
    pub failed: bool,
    /// Whom it goes to, if nobody answers in the trace: an index into [`Analysis::peers`].
    pub peer: u32,
    /// What is called.
    pub callee: Arc<Callee>,
}

impl std::ops::Deref for Call {
    type Target = Callee;

    fn deref(&self) -> &Callee {
        &self.callee
    }
}

/// What is called: the same statement, URL or destination is one, whoever calls it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Callee {
    /// `db.system.name`, before that `db.system`; empty if unknown.
    pub system: String,
    /// The normalised statement or `GET host/path/{id}`; without literals or ids.
    pub key: Arc<str>,
    /// A short name for people: `select authors`, `GET payments/charge`.
    pub name: Arc<str>,
    /// For statements: what the lexer found out.
    pub statement: Option<sql::Fingerprint>,
}

impl Analysis<'_> {
    /// The entry that `span` belongs to, as an index into [`Analysis::entries`]: the nearest one above it,
    /// itself included. `None` in a fragment.
    pub fn entry_of(&self, span: SpanIdx) -> Option<usize> {
        self.owners[span as usize].map(|it| it as usize)
    }

    /// Nobody waits for the entry `entry` (an index into [`Analysis::entries`]): it is a job, or serves a
    /// message. What is found there is only informational.
    pub fn is_background(&self, entry: usize) -> bool {
        role::role(self, entry) == role::Role::Background
    }
}

/// Analyses one trace. Whoever has many of them keeps an [`Analyzer`].
pub fn analyze<'a>(spans: Spans<'a>, settings: &Settings) -> Analysis<'a> {
    Analyzer::new(settings).analyze(spans)
}

/// Analyses traces, one after the other, and remembers statements from one to the next. What it
/// remembers never changes what comes out.
#[derive(Debug)]
pub struct Analyzer<'s> {
    settings: &'s Settings,
    statements: Statements,
}

impl<'s> Analyzer<'s> {
    /// One that has seen nothing yet.
    pub fn new(settings: &'s Settings) -> Self {
        Analyzer {
            settings,
            statements: Statements::default(),
        }
    }

    /// Analyses one trace.
    pub fn analyze<'a>(&mut self, spans: Spans<'a>) -> Analysis<'a> {
        analyze_with(spans, self.settings, &mut self.statements)
    }
}

fn analyze_with<'a>(
    spans: Spans<'a>,
    settings: &Settings,
    statements: &mut Statements,
) -> Analysis<'a> {
    let trace = Trace::assemble(spans);
    let mut candidates = Candidates::of(&trace, statements);
    let mut categories = category::categories_seen(&trace, settings, |span, category, facts| {
        candidates.add(span, category, facts);
    });
    let mut entries = identity::entries(&trace, settings.is_complete);
    let owners = identity::owners(&trace, &entries);
    attribution::attribute(&trace, &owners, &mut categories, &mut entries);
    work::measure(&trace, &owners, &mut entries);
    let (mut calls, peers) = candidates.calls(&categories, &owners);
    siblings::name_alike(&trace, &mut calls);
    count_calls(&mut entries, &calls);
    let coverage = coverage::coverage(&trace, &categories, &entries, &calls);
    let mut analysis = Analysis {
        trace,
        categories,
        entries,
        calls,
        peers,
        findings: Vec::new(),
        coverage,
        owners,
    };
    analysis.findings = find(|found, detect| match detect {
        Detect::InTrace(detect) | Detect::Both(detect, _) => {
            detect(found, &analysis, settings);
        }
        Detect::OverTime(_) => {}
    });
    for it in &mut analysis.findings {
        let start_ns = |it: &SpanIdx| (analysis.trace.node(*it).start_ns, *it);
        it.offenders.sort_by_key(start_ns);
    }
    analysis
}

/// Looks for patterns over time in one endpoint's history.
pub fn review(history: &History) -> Vec<Finding> {
    find(|found, detect| match detect {
        Detect::OverTime(detect) | Detect::Both(_, detect) => detect(found, history),
        Detect::InTrace(_) => {}
    })
}

fn count_calls(entries: &mut [Entry<'_>], calls: &[Call]) {
    for call in calls {
        if let Some(entry) = call.entry {
            entries[entry].calls[call.category as usize] += 1;
        }
    }
}

/// What all detectors find, by what a fix saves.
fn find(run: impl Fn(&mut Vec<Finding>, &Detect)) -> Vec<Finding> {
    let mut found = Vec::new();
    for detector in detectors::ALL {
        run(&mut found, &detector.detect);
    }
    found.sort_by(|a, b| {
        let by_impact = b.saved_ns.cmp(&a.saved_ns);
        by_impact.then_with(|| (&a.fingerprint, a.entry).cmp(&(&b.fingerprint, b.entry)))
    });
    found
}
