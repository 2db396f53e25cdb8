//! `/api/v1/compare`: two sets of requests beside each other as JSON. The parameters are those of the page:
//! `endpoint_id` or `service_id`; `version`, `from`, `to` or `range`; `base`, `base_from`, `base_to`;
//! `measure`.

use analyzer::category::Category;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::deltas::MinuteDelta;
use collector::store::compared::SideFinding;
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::profiles::{difference_json, requests_json};
use super::services::service_json;
use crate::compared::{self, Asked, ByHours, Compared, REQUESTS_NEEDED, Side, StatementPair};
use crate::line_chart::{PERCENTILES, percentiles};
use crate::pages::PageError;
use crate::range::minute_ns;
use crate::{AppState, format};

/// Both sides, and what differs.
pub async fn show(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(read(&state, query.as_deref()).await)
}

async fn read(state: &AppState, query: Option<&str>) -> Result<Value, PageError> {
    let asked = Asked::parse(&state.store, query, format::now_ns()).await?;
    let asked = asked.ok_or_else(|| {
        PageError::BadRequest("Say of what: endpoint_id or service_id is missing.".to_owned())
    })?;
    Ok(json_of(&compared::read(&state.store, asked).await?))
}

fn json_of(it: &Compared) -> Value {
    let asked = &it.asked;
    let side = |at: usize, side: &Side| {
        let mut json = sums_json(&it.sides[at].sums);
        json["version"] = json!(side.version);
        json["from"] = json!(format::at(minute_ns(side.minutes.from)));
        json["to"] = json!(format::at(minute_ns(side.minutes.to)));
        json["counted"] = json!(it.counted(at));
        json["requests_per_second"] = json!(it.rates()[at]);
        json
    };
    let endpoint = |it: &compared::EndpointPair| {
        json!({
            "id": it.id,
            "endpoint": it.name,
            "base": sums_json(&it.sums[0]),
            "side": sums_json(&it.sums[1]),
        })
    };
    let mut json = json!({
        "service": service_json(asked.service()),
        "endpoint": asked.endpoint().map(|it| json!({ "id": it.id, "endpoint": it.name })),
        "base": side(0, &asked.base),
        "side": side(1, &asked.side),
        "overlap": asked.overlap(),
        "endpoints": it.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "new_findings": it.new.iter().map(finding_json).collect::<Vec<_>>(),
        "gone_findings": it.gone.iter().map(finding_json).collect::<Vec<_>>(),
    });
    match &it.by_hours {
        Some(Ok(by_hours)) => json["by_hours"] = by_hours_json(by_hours, asked),
        Some(Err(why)) => json["by_hours"] = json!({ "missing": why }),
        None => {}
    }
    json
}

/// The numbers of a side. `certain` percentiles have enough requests.
fn sums_json(sums: &MinuteDelta) -> Value {
    let values = percentiles(&sums.latency);
    let mut json = json!({
        "requests": sums.requests,
        "errors": sums.errors,
        "mean_ns": compared::mean_ns(sums),
    });
    for (at, (name, ..)) in PERCENTILES.iter().enumerate() {
        json[format!("{}_ns", name.to_lowercase())] = json!(values[at]);
    }
    let certain = PERCENTILES.iter().zip(REQUESTS_NEEDED);
    json["certain"] = certain
        .filter(|(_, needed)| sums.requests >= *needed)
        .map(|((name, ..), _)| name.to_lowercase())
        .collect();
    json["critical_path_ns_per_request"] =
        per_category(|it| json!(compared::category_ns(sums, it)));
    json["calls_per_request"] = per_category(|it| json!(compared::calls(sums, it)));
    json
}

fn per_category(number: impl Fn(Category) -> Value) -> Value {
    Category::ALL
        .into_iter()
        .map(|it| (it.id().to_owned(), number(it)))
        .collect()
}

fn finding_json(it: &SideFinding) -> Value {
    json!({
        "id": it.id,
        "detector": it.detector,
        "title": it.title,
        "state": it.state,
        "endpoint": it.endpoint,
        "requests": it.requests,
        "saved_ns": it.saved_ns,
        "page": format!("/bottlenecks/{}", it.id),
    })
}

fn by_hours_json(by_hours: &ByHours, asked: &Asked) -> Value {
    let paths = &by_hours.paths;
    let mut json = json!({
        "base": paths.base.as_ref().map(requests_json),
        "side": requests_json(&paths.of),
        "statements": by_hours.statements.iter().map(statement_json).collect::<Vec<_>>(),
    });
    if let Some(difference) = paths.difference() {
        json["change_ns_per_request"] = difference.total_change_ns(asked.measure).into();
        json["paths"] = difference_json(&difference, asked.measure);
    }
    json
}

fn statement_json(it: &StatementPair) -> Value {
    json!({
        "system": it.system,
        "statement": it.text,
        "base_calls_per_request": it.per_request[0],
        "calls_per_request": it.per_request[1],
        "base_p95_ns": compared::p95(&it.calls[0]),
        "p95_ns": compared::p95(&it.calls[1]),
        "change_ns_per_request": it.change_ns,
    })
}
