//! `/api/v1/statements`: what services send to their databases, as JSON. Durations are whole ns. The
//! parameters are those of the page.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::statements::SendingEndpoint;
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::services::{covered_json, service_json};
use crate::AppState;
use crate::line_chart::percentiles;
use crate::pages::statements::{Read, Row, read, rows};

/// All statements, in the order that the address asks for.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(
        read(&state, query.as_deref())
            .await
            .map(|it| statements_json(&it)),
    )
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
