//! Calls of one statement, found in requests that are kept: the roll-ups know how long calls take, but not which
//! request to open, nor how many rows came back.

use analyzer::Settings;
use analyzer::span::{SpanId, Spans, TraceId};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::otlp::decode_into;
use crate::store::requests::{ListedRequest, RequestFilter, RequestOrder};
use crate::store::{Store, StoreError};

/// A call of a statement in a request that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentCall {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that has the statement.
    pub span_id: SpanId,
    /// Start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Duration with its wrappers, ns.
    pub duration_ns: u64,
    /// Rows that came back, if its sender says so.
    pub rows: Option<u64>,
    /// It failed.
    pub failed: bool,
    /// The endpoint of the request that made it.
    pub endpoint: String,
}

/// The calls that were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SentCalls {
    /// By duration, the quickest first.
    pub calls: Vec<SentCall>,
    /// Traces that were looked through.
    pub traces: usize,
}

/// What is looked for, and where.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// db.system.name of the statement.
    pub system: &'a str,
    /// The normalised statement.
    pub text: &'a str,
    /// Endpoints that send it, the most promising first; those beyond [`ENDPOINTS_MAX`] are left out.
    pub endpoint_ids: &'a [i32],
    /// Requests that started in this time, ns since the epoch.
    pub started_ns: std::ops::Range<u64>,
}

/// Endpoints whose requests are looked through.
const ENDPOINTS_MAX: usize = 3;

/// Requests of an endpoint that are looked through: the slowest, and as many of the latest. Enough for a quick
/// call, a usual one and a slow one.
const REQUESTS_MAX: i64 = 6;

/// Larger traces are passed over: each would take the time of all others.
const SPANS_MAX: u32 = 5_000;

/// Calls of one trace that are kept: a loop's are alike.
const CALLS_PER_TRACE_MAX: usize = 50;

/// So many traces are looked through however long it takes: of fewer, a slow call cannot be told from a usual one.
const TRACES_MIN: usize = 3;

/// Somebody waits for the page: after so long it shows what was found.
const TIME_MAX: Duration = Duration::from_millis(400);

/// Looks through some requests of these endpoints.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn look(
    store: &Store,
    settings: &Settings,
    wanted: &Wanted<'_>,
) -> Result<SentCalls, StoreError> {
    let begun = Instant::now();
    let mut found = SentCalls::default();
    for row in candidates(store, wanted).await? {
        if begun.elapsed() > TIME_MAX && found.traces >= TRACES_MIN {
            break;
        }
        let Some(stored) = store.trace(row.trace_id).await? else {
            continue;
        };
        let settings = settings.clone();
        let (system, text) = (wanted.system.to_owned(), wanted.text.to_owned());
        let calls = tokio::task::spawn_blocking(move || {
            calls_in(&row, &stored.otlp, &settings, &system, &text)
        });
        let calls = calls
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        found.traces += 1;
        found.calls.extend(calls);
    }
    found
        .calls
        .sort_by_key(|it| (it.duration_ns, it.start_ns, it.span_id));
    Ok(found)
}

/// The slowest and the latest requests of each endpoint in turn, each trace once.
async fn candidates(store: &Store, wanted: &Wanted<'_>) -> Result<Vec<ListedRequest>, StoreError> {
    let mut rows = Vec::new();
    for id in wanted.endpoint_ids.iter().take(ENDPOINTS_MAX) {
        for order in [RequestOrder::Slowest, RequestOrder::Newest] {
            let filter = RequestFilter {
                from_ns: wanted.started_ns.start,
                until_ns: wanted.started_ns.end,
                order,
                ..RequestFilter::newest(REQUESTS_MAX)
            };
            rows.push(store.requests_of(&filter, Some(vec![*id])).await?.rows);
        }
    }
    let mut seen = BTreeSet::new();
    let longest = rows.iter().map(Vec::len).max().unwrap_or_default();
    let in_turn = (0..longest).flat_map(|at| rows.iter().filter_map(move |it| it.get(at)));
    Ok(in_turn
        .filter(|it| it.spans <= SPANS_MAX && seen.insert(it.trace_id))
        .cloned()
        .collect())
}

/// The statement's calls in the whole trace: other services of it send it too.
fn calls_in(
    row: &ListedRequest,
    otlp: &[u8],
    settings: &Settings,
    system: &str,
    text: &str,
) -> Vec<SentCall> {
    let mut spans = Spans::default();
    if decode_into(&mut spans, otlp, |_| true).is_err() {
        return Vec::new();
    }
    let analysis = analyzer::analyze(spans, settings);
    let spans = &analysis.trace.spans;
    let same = analysis
        .calls
        .iter()
        .filter(|it| it.statement.is_some() && *it.key == *text && it.system == system);
    same.take(CALLS_PER_TRACE_MAX)
        .map(|it| {
            let span = analysis.trace.span(it.span);
            let rows = spans
                .first_of(span, &["db.response.returned_rows"])
                .and_then(|it| it.as_int());
            let endpoint = it.entry.map(|at| analysis.entries[at].endpoint.clone());
            SentCall {
                trace_id: row.trace_id,
                span_id: span.id,
                start_ns: span.start_ns,
                duration_ns: analysis.trace.duration_ns(it.outer),
                rows: rows.and_then(|it| u64::try_from(it).ok()),
                failed: it.failed,
                endpoint: endpoint.unwrap_or_else(|| row.endpoint.clone()),
            }
        })
        .collect()
}
