//! `/api/v1/bottlenecks`: the ranked list and its findings as JSON. Durations are whole ns, times
//! RFC 3339 in UTC. The parameters are those of the pages.

use analyzer::sketch::Sketch;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use collector::clock::now_ms;
use collector::life::Life;
use collector::store::audit::Done;
use serde_json::{Map, Value, json};

use crate::AppState;
use crate::acts::{self, Wish};
use crate::format;
use crate::pages::{BOTTLENECKS, PageError, READ_ONLY, is_read_only};
use crate::range::{Covered, Filters};
use crate::ranking::{self, Ranking, Row};

/// All findings of the window, costliest first.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(read_list(&state, query.as_deref()).await)
}

/// One finding with its evidence and examples.
pub async fn one(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(read_one(&state, &id, query.as_deref()).await)
}

/// Acknowledges, ignores, resolves or reopens a finding; answers with its life.
pub async fn act(
    State(state): State<AppState>,
    Path((id, act)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(carry_out(&state, &id, &act, &body).await)
}

async fn carry_out(state: &AppState, id: &str, act: &str, body: &[u8]) -> Result<Value, PageError> {
    let wish = Wish::from_json(body)?;
    let now_ms = now_ms();
    let (id, life) = acts::carry_out(&state.store, id, act, wish, now_ms).await?;
    let history = acts::life(&state.store, id).await?;
    let history = history.map_or_else(Vec::new, |it| it.1);
    let mut it = Map::from_iter([("id".to_owned(), json!(id))]);
    it.extend(life_json(&life, &history));
    Ok(Value::Object(it))
}

fn life_json(life: &Life, history: &[Done]) -> Map<String, Value> {
    let at = |ms: i64| {
        format::at(
            u64::try_from(ms)
                .unwrap_or_default()
                .saturating_mul(1_000_000),
        )
    };
    let done = |it: &Done| json!({ "at": at(it.at_ms), "author": it.author, "action": it.action, "detail": it.detail });
    let fields = [
        ("state", json!(life.state.name())),
        ("since", json!(at(life.since_ms))),
        ("reason", json!(life.reason)),
        ("author", json!(life.author)),
        ("ignored_until", json!(life.ignored_until_ms.map(at))),
        ("resolved_in", json!(life.resolved_in)),
        ("regressed", json!(life.regressed)),
        ("history", history.iter().map(done).collect()),
    ];
    Map::from_iter(fields.map(|(name, value)| (name.to_owned(), value)))
}

async fn read_list(state: &AppState, query: Option<&str>) -> Result<Value, PageError> {
    let filters = Filters::parse(query)?;
    Ok(list_json(
        &ranking::load(&state.store, &filters, format::now_ns()).await?,
    ))
}

async fn read_one(state: &AppState, id: &str, query: Option<&str>) -> Result<Value, PageError> {
    let filters = Filters::parse(query)?;
    let missing = || PageError::Missing(format!("There is no finding '{id}'."), BOTTLENECKS);
    let id: i32 = id.parse().map_err(|_| missing())?;
    let now_ns = format::now_ns();
    let (row, covered) = ranking::load_one(&state.store, id, &filters, now_ns)
        .await?
        .ok_or_else(missing)?;
    let mut it = finding_json(&row, covered);
    it["fingerprint"] = json!(row.facts.fingerprint);
    it["evidence"] = row.facts.evidence.clone();
    it["window"] = window_json(covered);
    it["examples"] = json!(
        state
            .store
            .examples(id, filters.range.window(now_ns))
            .await?
    );
    if let Some((life, history)) = acts::life(&state.store, id).await? {
        for (name, value) in life_json(&life, &history) {
            it[name] = value;
        }
    }
    Ok(it)
}

/// An answer, or why there is none, as JSON.
pub(super) fn answer(result: Result<Value, PageError>) -> Response {
    let (status, error) = match result {
        Ok(value) => return Json(value).into_response(),
        Err(PageError::NotFound(text) | PageError::Missing(text, _)) => {
            (StatusCode::NOT_FOUND, text)
        }
        Err(PageError::BadRequest(text)) => (StatusCode::BAD_REQUEST, text),
        Err(PageError::Refused(status, _, text)) => (status, text),
        Err(PageError::Broken(error)) => {
            tracing::error!(%error, "the API cannot read what is stored");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "What is stored cannot be read.".to_owned(),
            )
        }
        Err(PageError::Store(error)) if is_read_only(&error) => {
            tracing::warn!(%error, "the API cannot change anything");
            (StatusCode::SERVICE_UNAVAILABLE, READ_ONLY.to_owned())
        }
        Err(PageError::Store(error)) => {
            tracing::warn!(%error, "the API cannot read the database");
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "The database does not answer right now.".to_owned(),
            )
        }
    };
    (status, Json(json!({ "error": error }))).into_response()
}

fn list_json(ranking: &Ranking) -> Value {
    let rows: Vec<Value> = ranking
        .rows
        .iter()
        .map(|it| finding_json(it, ranking.covered))
        .collect();
    json!({
        "window": window_json(ranking.covered),
        "requests": ranking.totals.requests,
        "errors": ranking.totals.errors,
        "waiting_ns_per_hour": ranking.waiting_per_hour_ns(),
        "avoidable_ns_per_hour": ranking.avoidable_per_hour_ns(),
        "latency_ns": quantiles(&ranking.totals.latency),
        "bottlenecks": rows,
    })
}

fn window_json(covered: Covered) -> Value {
    json!({
        "from": format::at(covered.from_ns),
        "to": format::at(covered.now_ns),
        "duration_ns": covered.ns(),
    })
}

fn finding_json(row: &Row, covered: Covered) -> Value {
    let facts = &row.facts;
    let fixed = |q| row.quantile(q).map(|it| it.1);
    json!({
        "id": facts.id,
        "rank": row.rank,
        "title": facts.title,
        "detector": facts.detector,
        "severity": row.severity(),
        "confidence": (f64::from(facts.confidence) * 100.0).round() / 100.0,
        "state": facts.state,
        "since": format::at(facts.state_since_ns),
        "regressed": facts.regressed,
        "service": facts.service,
        "environment": facts.environment,
        "endpoint": facts.endpoint,
        "version": facts.version,
        "first_seen": format::at(facts.first_seen_ns),
        "last_seen": format::at(facts.last_seen_ns),
        "cost_ns_per_hour": row.cost_ns,
        "cost_before_ns_per_hour": row.before_ns,
        "share_of_waiting": row.share,
        "saved_ns": row.hits.saved_ns,
        "saved_median_ns": row.saved_median_ns(),
        "traces_affected": row.hits.traces,
        "requests_affected": row.hits.requests,
        "endpoint_requests": row.endpoint.requests,
        "endpoint_requests_per_hour": covered.per_hour(row.endpoint.requests),
        "endpoint_latency_ns": quantiles(&row.endpoint.latency),
        "endpoint_latency_if_fixed_ns": { "p50": fixed(0.5), "p95": fixed(0.95), "p99": fixed(0.99) },
        "page": format!("/bottlenecks/{}", facts.id),
    })
}

fn quantiles(latency: &Sketch) -> Value {
    let at = |q| latency.quantile(q);
    json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::Sort;
    use crate::ranking::tests::drawn;

    #[test]
    fn the_list_has_ids_and_whole_numbers() {
        let list = list_json(&drawn(&Filters::default(), Sort::Cost));
        let first = &list["bottlenecks"][0];
        assert_eq!(first["id"], 1);
        assert_eq!(first["cost_ns_per_hour"], 450_000_000_000_u64);
        assert_eq!(first["title"], "31 × select authors");
        assert!(first["endpoint_latency_if_fixed_ns"]["p99"].is_u64());
        assert_eq!(list["window"]["duration_ns"], 120_000_000_000_u64);
    }
}
