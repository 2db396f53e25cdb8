//! `/api/v1/endpoints`: all endpoints, and one over time with its statements, findings and
//! requests. The parameters are those of the pages.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use collector::store::endpoints::{EndpointFinding, RequestRow, SentStatement};
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::services::{covered_json, endpoint_json, read as read_services, service_json};
use crate::AppState;
use crate::endpoint_numbers::{Numbers, categories_json};
use crate::format;
use crate::line_chart::{Point, percentiles};
use crate::pages::PageError;
use crate::pages::call_paths::View;
use crate::pages::endpoint::{Read, read};

/// All endpoints with requests in the window.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(
        read_services(&state, query.as_deref())
            .await
            .map(|(services, covered)| {
                let mut endpoints = Vec::new();
                for service in &services.services {
                    for endpoint in &service.endpoints {
                        let mut json = endpoint_json(endpoint, &covered);
                        json["service"] = service_json(&service.service);
                        endpoints.push(json);
                    }
                }
                json!({ "covered": covered_json(&covered), "endpoints": endpoints })
            }),
    )
}

/// One endpoint.
pub async fn one(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(read_one(&state, &id, query.as_deref()).await)
}

async fn read_one(state: &AppState, id: &str, query: Option<&str>) -> Result<Value, PageError> {
    let view = View::parse(query)?;
    Ok(json_of(
        &read(&state.store, id, &view, format::now_ns()).await?,
    ))
}

fn json_of(read: &Read) -> Value {
    let chart = read.chart();
    let mut json = Value::Object(Numbers::of(&read.sums(), &read.covered).json());
    json["id"] = read.endpoint.id.into();
    json["endpoint"] = json!(read.endpoint.name);
    json["service"] = service_json(&read.endpoint.service);
    json["covered"] = covered_json(&read.covered);
    json["latency"] = chart.points.iter().map(point_json).collect();
    json["latency_step_minutes"] = chart.step.into();
    json["findings"] = read.findings.iter().map(finding_json).collect();
    json["statements"] = read.statements.iter().map(statement_json).collect();
    json["slowest"] = read.slowest.iter().map(request_json).collect();
    json["latest"] = read.latest.iter().map(request_json).collect();
    json
}

fn point_json(point: &Point) -> Value {
    let [p50, p90, p95, p99] = point.percentiles;
    json!({
        "from": point.at(),
        "requests": point.requests,
        "errors": point.errors,
        "p50_ns": p50,
        "p90_ns": p90,
        "p95_ns": p95,
        "p99_ns": p99,
    })
}

fn finding_json(finding: &EndpointFinding) -> Value {
    json!({
        "id": finding.id,
        "state": finding.state,
        "detector": finding.detector,
        "severity": finding.severity_name(),
        "title": finding.title,
        "saved_ns": finding.saved_ns,
        "requests": finding.requests,
    })
}

fn statement_json(statement: &SentStatement) -> Value {
    let [p50, p90, p95, p99] = percentiles(&statement.calls.latency);
    json!({
        "system": statement.system,
        "statement": statement.text,
        "calls": statement.calls.calls,
        "duration_ns": statement.calls.sum_ns,
        "critical_path_ns": statement.calls.critical_ns,
        "p50_ns": p50,
        "p90_ns": p90,
        "p95_ns": p95,
        "p99_ns": p99,
    })
}

fn request_json(row: &RequestRow) -> Value {
    json!({
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "started": format::at(row.start_ns.max(0) as u64),
        "start_ns": row.start_ns,
        "duration_ns": row.duration_ns,
        "error": row.error,
        "has_finding": row.has_finding,
        "trace_spans": row.spans,
        "critical_path_ns": categories_json(&row.categories),
    })
}
