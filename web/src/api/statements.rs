//! `/api/v1/statements`: what services send to their databases, as JSON. Durations are whole ns. The
//! parameters are those of the page.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use collector::store::encoding::StatementCalls;
use collector::store::statements::SendingEndpoint;
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::services::{covered_json, service_json};
use crate::AppState;
use crate::deployed;
use crate::format;
use crate::line_chart::percentiles;
use crate::pages::statement;
use crate::pages::statements::{Read, Row, read, rows};
use crate::range::minute_ns;
use crate::statement_key;

/// All statements, in the order that the address asks for.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(
        read(&state, query.as_deref())
            .await
            .map(|it| statements_json(&it)),
    )
}

/// One statement, as its page has it.
pub async fn one(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(
        statement::read(&state, &id, query.as_deref())
            .await
            .map(|it| one_json(&it)),
    )
}

fn one_json(read: &statement::Read) -> Value {
    let calls = read.calls();
    let hours = read.sent.hours.iter().map(|(hour, calls)| {
        let from_ns = minute_ns(hour.saturating_mul(60));
        let mut it = calls_json(calls);
        it["from"] = json!(format::at(from_ns));
        it
    });
    let findings = read.findings.iter().map(|it| {
        json!({
            "id": it.id, "title": it.title, "detector": it.detector, "state": it.state,
            "endpoint": it.endpoint, "service": it.service, "saved_ns": it.saved_ns,
            "requests_affected": it.requests, "page": format!("/bottlenecks/{}", it.id),
        })
    });
    let regressions = read.regressions.iter().map(|it| {
        json!({
            "id": it.id, "title": it.title, "state": it.state,
            "since": format::at(deployed::ms_to_ns(it.began_ms)),
        })
    });
    let examples = read.found.calls.iter().map(|it| {
        json!({
            "trace_id": it.trace_id.to_string(), "span_id": it.span_id.to_string(),
            "start": format::at(it.start_ns), "duration_ns": it.duration_ns, "rows": it.rows,
            "failed": it.failed, "endpoint": it.endpoint,
        })
    });
    let plan = read.plan.as_ref().and_then(|it| it.0.as_ref());
    let mut json = calls_json(&calls);
    let more = json!({
        "fingerprint": read.name.key,
        "page": format!("/statements/{}", read.name.key),
        "statement": read.name.text,
        "system": read.name.system,
        "covered": covered_json(&read.covered),
        "calls_per_request": calls.calls as f64 / read.requests().max(1) as f64,
        "share_of_requests_time": calls.critical_ns.max(0) as f64 / read.sent.requests_ns.max(1) as f64,
        "rows": read.rows(),
        "endpoints": read.sent.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
        "hours": hours.collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
        "regressions": regressions.collect::<Vec<_>>(),
        "examples": examples.collect::<Vec<_>>(),
        "suggested": read.suggested.as_ref().map(|it| json!({ "fix": it.fix, "code": it.fix_code })),
        "plan": plan.map(|it| json!({ "plan": it.plan, "failure": it.failure })),
    });
    if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
        json.extend(more);
    }
    json
}

fn calls_json(calls: &StatementCalls) -> Value {
    let [p50, _, p95, p99] = percentiles(&calls.latency);
    json!({
        "calls": calls.calls, "sum_ns": calls.sum_ns, "critical_ns": calls.critical_ns,
        "p50_ns": p50, "p95_ns": p95, "p99_ns": p99,
    })
}

fn statements_json(read: &Read) -> Value {
    let statements: Vec<Value> = rows(read).iter().map(row_json).collect();
    json!({
        "covered": covered_json(&read.covered),
        "requests_ns": read.sent.requests_ns,
        "statements": statements,
    })
}

fn row_json(row: &Row<'_>) -> Value {
    let statement = row.statement;
    let findings = statement
        .findings
        .iter()
        .map(|it| json!({ "id": it.id, "title": it.title }));
    let [p50, _, p95, p99] = row.percentiles;
    json!({
        "statement": statement.text,
        "page": statement_key::href(&statement.system, &statement.text),
        "system": statement.system,
        "calls": statement.calls.calls,
        "calls_per_request": row.per_request,
        "sum_ns": statement.calls.sum_ns,
        "critical_ns": statement.calls.critical_ns,
        "share_of_requests_time": row.share,
        "p50_ns": p50, "p95_ns": p95, "p99_ns": p99,
        "endpoints": statement.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
    })
}

fn endpoint_json(endpoint: &SendingEndpoint) -> Value {
    let [p50, _, p95, p99] = percentiles(&endpoint.calls.latency);
    json!({
        "id": endpoint.id,
        "endpoint": endpoint.name,
        "service": service_json(&endpoint.service),
        "requests": endpoint.requests,
        "calls": endpoint.calls.calls,
        "critical_ns": endpoint.calls.critical_ns,
        "p50_ns": p50, "p95_ns": p95, "p99_ns": p99,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::statements::tests::drawn;

    #[test]
    fn numbers_are_whole_and_endpoints_are_named() {
        let json = statements_json(&drawn(""));
        let first = &json["statements"][0];
        assert_eq!(first["statement"], "select ? from a");
        assert_eq!(first["calls"], 30);
        assert_eq!(first["calls_per_request"], 1.5);
        assert_eq!(first["share_of_requests_time"], 0.5);
        assert_eq!(first["endpoints"][0]["endpoint"], "GET /b");
        assert_eq!(first["findings"][0]["id"], 7);
    }
}
