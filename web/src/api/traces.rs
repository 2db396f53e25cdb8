//! Traces as JSON: the list, a trace as it was sent, and what the analysis found in it.

use std::io::Write;
use std::time::Duration;

use analyzer::span::Spans;
use analyzer::trace::SpanIdx;
use analyzer::transit::{Transit, transit};
use analyzer::{ANALYSIS_VERSION, Analysis, Entry};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use collector::otlp::PIECE_BYTES;
use collector::store::requests::{ListedRequest, RequestFilter, RequestPage};
use collector::store::traces::{StoredTrace, TraceState};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::AppState;
use crate::address::Address;
use crate::coverage_numbers::CoverageNumbers;
use crate::entry_numbers::{ByCategory, Stretch};
use crate::open_traces::LookError;
use crate::trace_filter;
use crate::trace_id;
use crate::waterfall::{Names, own_ns};

/// Rows of one answer at most; `next` says how to go on.
const LIMIT_MAX: i64 = 500;

/// An answer that is no success, as JSON.
type Answer = Result<Response, Response>;

/// `GET /api/v1/traces`: the filters of the page `/traces`, and `limit` (at most 500). `next` goes on
/// as `after`. If `not_beyond_ns` is set, the page ends there because much was looked at: what started
/// at that time or before (by `sort=slowest`: took that long or less) is found from `next` on.
///
/// # Errors
/// 400 for filters that cannot be read, with the column of a search's mistake; 503 if the database cannot answer.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Answer {
    let address = Address::parse(query.as_deref());
    let filter = trace_filter::parse(&address, crate::format::now_ns());
    if let Some((key, value)) = filter.unread.first() {
        let text = format!("the parameter {key} cannot be read: {value:?}");
        return Err(problem(StatusCode::BAD_REQUEST, &text));
    }
    if let Some(error) = &filter.not_understood {
        let text = format!("q, column {}: {}", error.column, error.message);
        let json = json!({ "error": text, "column": error.column });
        return Err((StatusCode::BAD_REQUEST, json_answer(json.to_string())).into_response());
    }
    if filter.is_backwards {
        let text = "from is not before to: there is nothing in between";
        return Err(problem(StatusCode::BAD_REQUEST, text));
    }
    let asked = RequestFilter {
        limit: filter.of.limit.min(LIMIT_MAX),
        ..filter.of
    };
    let page = state.store.requests(&asked).await.map_err(unavailable)?;
    Ok(json_answer(page_json(&page).to_string()))
}

/// `GET /api/v1/traces/{id}`: OTLP/JSON, everything that came in.
///
/// # Errors
/// 400 if the id is none, 404 if the trace is not kept, 503 if the database cannot answer.
pub async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Answer {
    let (stored, room) = stored(&state, &id).await?;
    Ok(streamed(move |take| {
        let _room = room;
        Ok(collector::otlp::to_json_pieces(stored.otlp.into(), take)?)
    })
    .await)
}

/// `GET /api/v1/traces/{id}/analysis`: entries with their categories (which add up to the duration),
/// their work and their critical paths (span, from, to, without gaps), findings, warnings, coverage.
///
/// # Errors
/// As [`one`].
pub async fn analysis(State(state): State<AppState>, Path(id): Path<String>) -> Answer {
    let (stored, room) = stored(&state, &id).await?;
    // Not where pages ask: a slow reader would keep them waiting.
    Ok(streamed(move |take| {
        let _room = room;
        let mut spans = Spans::default();
        collector::otlp::decode_into(&mut spans, &stored.otlp, |_| true)?;
        let analysis = analyzer::analyze(spans, &state.settings);
        let mut pieces = Pieces {
            take,
            piece: Vec::new(),
        };
        serde_json::to_writer(&mut pieces, &AnalysisJson::of(&analysis, &stored.state))?;
        pieces.flush()?;
        Ok(())
    })
    .await)
}

/// A trace's bytes, and the room they take while they are looked at.
async fn stored(
    state: &AppState,
    id: &str,
) -> Result<(StoredTrace, OwnedSemaphorePermit), Response> {
    let Some(trace_id) = trace_id::parse(id) else {
        return Err(problem(
            StatusCode::BAD_REQUEST,
            "a trace id has 32 hexadecimal digits",
        ));
    };
    let stored = state.traces.bytes(trace_id).await.map_err(|it| match it {
        LookError::Store(error) => unavailable(error),
        LookError::Busy => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "others read long traces right now; try again in half a minute",
        ),
    })?;
    stored.ok_or_else(|| {
        let text = "this trace is not kept: it was not sampled, has not arrived yet, or is too old";
        problem(StatusCode::NOT_FOUND, text)
    })
}

/// Pieces of an answer that are ready and not taken by the connection yet: whoever makes them waits.
const PIECES_MAX: usize = 4;

/// A reader that takes nothing for so long is given up: it holds room that others need.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Takes a piece of an answer; false if no more are wanted.
type Take = Box<dyn FnMut(Vec<u8>) -> bool + Send>;

/// JSON that is sent while it is made, away from the tasks that serve others. What fails before the first
/// piece is an answer of its own; what fails later ends the connection.
async fn streamed(make: impl FnOnce(Take) -> anyhow::Result<()> + Send + 'static) -> Response {
    let (send, mut receive) =
        tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(PIECES_MAX);
    let runtime = tokio::runtime::Handle::current();
    let sender = send.clone();
    let take: Take = Box::new(move |piece| {
        let sent = tokio::time::timeout(STALL_MAX, sender.send(Ok(piece)));
        matches!(runtime.block_on(sent), Ok(Ok(())))
    });
    tokio::task::spawn_blocking(move || {
        if let Err(error) = make(take) {
            tracing::warn!(%error, "a stored trace was not sent to its end");
            // A reader that takes nothing is gone.
            let _ = send.try_send(Err(std::io::Error::other("what is stored cannot be read")));
        }
    });
    let Some(Ok(first)) = receive.recv().await else {
        return problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "what is stored of this trace cannot be read",
        );
    };
    let rest = futures_util::stream::unfold(receive, |mut receive| async move {
        let piece = receive.recv().await?;
        Some((piece, receive))
    });
    let all = futures_util::StreamExt::chain(futures_util::stream::iter([Ok(first)]), rest);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, Body::from_stream(all)).into_response()
}

/// Gathers what is written into pieces.
struct Pieces {
    take: Take,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() || (self.take)(piece) {
            return Ok(());
        }
        Err(std::io::Error::other("nobody takes more"))
    }
}

fn json_answer(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

fn problem(status: StatusCode, text: &str) -> Response {
    (status, json_answer(json!({ "error": text }).to_string())).into_response()
}

fn unavailable(error: collector::store::StoreError) -> Response {
    tracing::warn!(%error, "the database cannot answer");
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "the database cannot answer right now",
    )
}

fn page_json(page: &RequestPage) -> Value {
    let requests: Vec<Value> = page.rows.iter().map(request_json).collect();
    json!({
        "requests": requests,
        "next": page.next.as_ref().map(trace_filter::cursor),
        "not_beyond_ns": page.not_beyond_ns,
    })
}

fn request_json(it: &ListedRequest) -> Value {
    json!({
        "trace_id": it.trace_id.to_string(),
        "span_id": it.span_id.to_string(),
        "service": it.service,
        "environment": it.environment,
        "version": it.version,
        "endpoint": it.endpoint,
        "start_ns": it.start_ns,
        "duration_ns": it.duration_ns,
        "error": it.error,
        "has_finding": it.has_finding,
        "weight": it.weight,
        "trace_spans": it.spans,
        "database_calls": it.database_calls,
        "categories": ByCategory(it.categories),
    })
}

/// The analysis as people's programs read it. Spans and stretches are made one by one while they are
/// written: of a long trace they take more memory than all else.
pub struct AnalysisJson<'s, 'a> {
    analysis: &'s Analysis<'a>,
    state: &'s TraceState,
    names: Names<'s>,
}

impl<'s, 'a> AnalysisJson<'s, 'a> {
    /// Of a trace that is in `state`.
    pub fn of(analysis: &'s Analysis<'a>, state: &'s TraceState) -> Self {
        AnalysisJson {
            analysis,
            state,
            names: Names::of(analysis),
        }
    }
}

impl Serialize for AnalysisJson<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let analysis = self.analysis;
        let id = |span: SpanIdx| analysis.trace.span(span).id.to_string();
        let ids = |spans: &[SpanIdx]| spans.iter().map(|it| id(*it)).collect::<Vec<_>>();
        let spans = &analysis.trace.spans.spans;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("trace_id", &spans.first().map(|it| it.trace_id.to_string()))?;
        map.serialize_entry("analysis_version", &ANALYSIS_VERSION)?;
        map.serialize_entry("state", state_json(self.state))?;
        map.serialize_entry(
            "entries",
            &Each(|| analysis.entries.iter().map(|it| EntryJson(self, it))),
        )?;
        map.serialize_entry(
            "findings",
            &Each(|| {
                analysis.findings.iter().map(|it| {
                    json!({
                        "detector": it.detector,
                        "fingerprint": it.fingerprint,
                        "title": it.title,
                        "severity": it.severity.id(),
                        "confidence": (f64::from(it.confidence) * 1_000.0).round() / 1_000.0,
                        "reasons": it.reasons,
                        "entry": it.entry,
                        "offenders": ids(&it.offenders),
                        "call_path": it.call_path,
                        "statement": it.statement,
                        "target": it.target,
                        "count": it.count,
                        "window_ns": it.window_ns,
                        "sum_ns": it.sum_ns,
                        "saved_ns": it.saved_ns,
                        "code": it.code,
                        "explanation": it.explanation,
                        "fix": it.fix,
                        "fix_code": it.fix_code,
                        "framework": it.framework,
                    })
                })
            }),
        )?;
        map.serialize_entry(
            "spans",
            &Each(|| {
                let spans = 0..analysis.trace.nodes.len() as SpanIdx;
                spans.map(|it| span_json(analysis, &self.names, it))
            }),
        )?;
        map.serialize_entry(
            "warnings",
            &Each(|| {
                analysis.trace.warnings.iter().map(|it| {
                    json!({
                        "span_id": it.span.map(id),
                        "text": it.text,
                    })
                })
            }),
        )?;
        map.serialize_entry("coverage", &coverage_json(analysis))?;
        map.end()
    }
}

/// A list whose elements are made while it is written.
struct Each<F>(F);

impl<I: IntoIterator<Item: Serialize>, F: Fn() -> I> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((self.0)())
    }
}

/// The numbers, and what follows from them in sentences.
fn coverage_json(analysis: &Analysis<'_>) -> Value {
    let mut json = json!(CoverageNumbers::of(analysis));
    json["notes"] = json!(analysis.coverage.notes());
    json
}

fn state_json(state: &TraceState) -> &'static str {
    match state {
        TraceState::Final => "final",
        TraceState::Arriving => "arriving",
        TraceState::Quarantined { .. } => "quarantined",
    }
}

struct EntryJson<'j, 's, 'a>(&'j AnalysisJson<'s, 'a>, &'j Entry<'a>);

impl Serialize for EntryJson<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let EntryJson(
            AnalysisJson {
                analysis, names, ..
            },
            it,
        ) = self;
        let path = Each(|| it.path.iter().map(|it| Stretch::of(analysis, names, it)));
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("span_id", &analysis.trace.span(it.span).id.to_string())?;
        map.serialize_entry("parent", &it.parent)?;
        map.serialize_entry("service_namespace", it.service.namespace)?;
        map.serialize_entry("service", it.service.name)?;
        map.serialize_entry("environment", it.service.environment)?;
        map.serialize_entry("version", it.version)?;
        map.serialize_entry("endpoint", &it.endpoint)?;
        map.serialize_entry("start_ns", &it.start_ns)?;
        map.serialize_entry("duration_ns", &it.duration_ns)?;
        // More than the duration if things ran at the same time.
        map.serialize_entry("work_ns", &it.work_ns)?;
        map.serialize_entry("error", &it.error)?;
        map.serialize_entry("weight", &it.weight)?;
        map.serialize_entry("categories", &ByCategory(it.categories))?;
        map.serialize_entry("calls", &ByCategory(it.calls))?;
        map.serialize_entry("critical_path", &path)?;
        map.end()
    }
}

/// What the analysis adds to a span: corrected times, own time, category. All else is in the
/// trace itself.
fn span_json(analysis: &Analysis<'_>, names: &Names<'_>, span: SpanIdx) -> Value {
    let node = analysis.trace.node(span);
    json!({
        "span_id": analysis.trace.span(span).id.to_string(),
        "operation": names.name(span),
        "service": names.service(span),
        "category": analysis.categories[span as usize].id(),
        "start_ns": node.start_ns,
        "end_ns": node.end_ns,
        "self_ns": own_ns(analysis, span, None),
        "depth": node.depth,
        "orphan": node.orphan,
        "detached": node.detached,
        "transit": transit_json(analysis, span),
    })
}

/// What lies between a caller's span and that of whoever answers; `null` where nobody does.
fn transit_json(analysis: &Analysis<'_>, span: SpanIdx) -> Value {
    match transit(&analysis.trace, span) {
        Some(Transit::Request {
            network_ns,
            before_ns,
            ..
        }) => json!({ "network_ns": network_ns, "before_ns": before_ns }),
        Some(Transit::Message { queued_ns, .. }) => json!({ "queued_ns": queued_ns }),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::{Settings, analyze, drawing};

    fn of(drawn: &str) -> Value {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        serde_json::to_value(AnalysisJson::of(&analysis, &TraceState::Final)).unwrap()
    }

    #[test]
    fn an_entrys_numbers_add_up() {
        let json = of("
            shop  GET /cart         |--------------------|
            shop    SELECT a          |-------|
            shop    SELECT b             |---------|
            ");
        let entry = &json["entries"][0];
        let categories = entry["categories"].as_object().unwrap();
        let sum: u64 = categories.values().filter_map(Value::as_u64).sum();
        assert_eq!(
            (categories.len(), Some(sum)),
            (11, entry["duration_ns"].as_u64())
        );
        let path = entry["critical_path"].as_array().unwrap();
        assert_eq!(path[0]["start_ns"], entry["start_ns"]);
        assert!(
            path.windows(2)
                .all(|it| it[0]["end_ns"] == it[1]["start_ns"])
        );
        assert!(entry["work_ns"].as_u64() > entry["duration_ns"].as_u64());
    }

    #[test]
    fn what_lies_between_two_services_is_told_at_the_caller() {
        let json = of("
            shop      GET / {res.host.name=a}                        |----------------------|
            shop        GET payments [client]                         |-------------------|
            payments      POST /charge {res.host.name=a}                    |---------|
            shop        publish orders [producer]                                           ||
            mail          send [consumer]                                                      |--|
            ");
        let transit: Vec<Value> = json["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["transit"].clone())
            .collect();
        assert_eq!(
            transit[1],
            json!({ "network_ns": 10_000_000, "before_ns": 6_000_000 })
        );
        assert_eq!(transit[2], Value::Null);
        assert!(transit[3]["queued_ns"].as_u64() > Some(0));
    }
}
