//! `/api/v1/regressions`: what got slower and stayed so. `service`, `env` and `state` narrow. Acting on an open
//! one: POST to `…/accept` or `…/resolve`, with `author` and `reason` in a JSON object.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use collector::store::regressions_shown::{ShownRegression, Verdict};
use serde_json::{Map, Value, json};

use super::bottlenecks::answer;
use super::deployments::deployment_json;
use super::services::service_json;
use crate::deployed::ms_to_ns;
use crate::pages::PageError;
use crate::pages::regression::{judge, named, read};
use crate::pages::regressions::{filter, parse, severity};
use crate::{AppState, compared, format};

/// Regressions in one answer at most; filters find the others.
const LISTED_MAX: i64 = 1_000;

/// Open ones first, then the latest.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(read_list(&state, query.as_deref()).await)
}

/// One, with what grew, its deployment, and what was done to it.
pub async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    answer(read_one(&state, &id).await)
}

/// As slow as this is normal from now on.
pub async fn accept(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    answer(act(&state, &id, Verdict::Accepted, &body).await)
}

/// It is over.
pub async fn resolve(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    answer(act(&state, &id, Verdict::Resolved, &body).await)
}

async fn read_list(state: &AppState, query: Option<&str>) -> Result<Value, PageError> {
    let filters = parse(query)?;
    let shown = state
        .store
        .shown_regressions(&filter(&filters, LISTED_MAX))
        .await?;
    Ok(json!({ "regressions": shown.iter().map(json_of).collect::<Vec<_>>() }))
}

async fn read_one(state: &AppState, id: &str) -> Result<Value, PageError> {
    let it = named(&state.store, id).await?;
    let read = read(&state.store, it, format::now_ns()).await?;
    let mut json = json_of(&read.it);
    let [base, side] = &read.sides;
    let endpoint = &read.it.endpoint;
    json["explanation"] = json!(read.it.explanation);
    json["deployment"] = json!(read.deployment.as_ref().map(deployment_json));
    json["compare"] = json!(compared::link(
        "/compare",
        endpoint.service.id,
        Some(endpoint.id),
        base,
        side
    ));
    json["done"] = read
        .done
        .iter()
        .map(|it| {
            json!({
                "at": format::at(ms_to_ns(it.at_ms)),
                "author": it.author,
                "action": it.action,
                "detail": it.detail,
            })
        })
        .collect();
    Ok(json)
}

async fn act(
    state: &AppState,
    id: &str,
    verdict: Verdict,
    body: &[u8],
) -> Result<Value, PageError> {
    let bad = |text: String| PageError::BadRequest(text);
    let fields: Map<String, Value> = match body.trim_ascii() {
        [] => Map::new(),
        body => serde_json::from_slice(body).map_err(|error| {
            bad(format!(
                "The body is not a JSON object such as {{\"author\": \"me\", \"reason\": \"it is meant\"}}: {error}."
            ))
        })?,
    };
    let mut texts = [("author", ""), ("reason", "")];
    for (name, value) in &fields {
        let known = texts.iter_mut().find(|it| it.0 == name);
        match (known, value) {
            (Some(known), Value::String(text)) => known.1 = text,
            (Some(_), Value::Null) => {}
            (Some(known), _) => return Err(bad(format!("{} is not a text in quotes.", known.0))),
            (None, _) => {
                let name: String = name.chars().take(60).collect();
                return Err(bad(format!(
                    "There is no field '{name}'. The fields are author and reason."
                )));
            }
        }
    }
    judge(&state.store, id, verdict, texts[0].1, texts[1].1).await?;
    read_one(state, id).await
}

fn json_of(it: &ShownRegression) -> Value {
    let at = |ms: i64| format::at(ms_to_ns(ms));
    json!({
        "id": it.id,
        "title": it.title,
        "kind": it.kind,
        "state": it.state,
        "severity": severity(it.severity),
        "service": service_json(&it.endpoint.service),
        "endpoint": it.endpoint.name,
        "endpoint_id": it.endpoint.id,
        "statement": it.statement.as_ref().map(|it| &it.1),
        "deployment_id": it.deployment_id,
        "deployed": it.deployed,
        "began_at": at(it.began_ms),
        "detected_at": at(it.detected_ms),
        "calm_since": it.calm_ms.map(at),
        "resolved_at": it.resolved_ms.map(at),
        "base": { "version": it.base_version, "from": at(it.base_from_ms), "to": at(it.base_to_ms) },
        "version": it.version,
        "numbers": it.numbers,
        "page": format!("/regressions/{}", it.id),
    })
}
