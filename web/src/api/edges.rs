//! `/api/v1/services/edges`: who calls whom as JSON; `/api/v1/endpoints/{id}/neighbours`: the same of one
//! endpoint. The parameters are those of the pages.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use collector::store::edges::{Called, Neighbour, PeerName, ServiceEdge};
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::services::{covered_json, service_json};
use crate::AppState;
use crate::format;
use crate::pages::PageError;
use crate::pages::endpoint::named;
use crate::range::{Covered, Filters, minute_ns};
use crate::service_map::{self, Calls, narrowed};

/// All calls in the window, the most frequent first.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(read(&state, query.as_deref()).await)
}

async fn read(state: &AppState, query: Option<&str>) -> Result<Value, PageError> {
    let filters = Filters::parse(query)?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let (edges, services) = futures_util::try_join!(
        state.store.service_edges(window),
        state.store.services(window)
    )?;
    let covered = Covered::exact(&state.store, window, services.first_minute, now_ns).await?;
    let covered = service_map::covered(covered, window, filters.range, edges.counted_from);
    let shown = narrowed(&edges.edges, &filters);
    Ok(json!({
        "covered": covered_json(&covered),
        "counted_from": format::at(minute_ns(edges.counted_from)),
        "edges": shown.iter().map(|it| edge_json(it, &covered)).collect::<Vec<Value>>(),
    }))
}

fn edge_json(edge: &ServiceEdge, covered: &Covered) -> Value {
    let mut json = calls_json(&Calls::of(&edge.sums, covered));
    json["from"] = service_json(&edge.caller);
    match &edge.called {
        Called::Reports(service) => json["to"] = service_json(service),
        Called::Peer(peer) => json["to_peer"] = peer_json(peer),
    }
    json
}

/// Who calls an endpoint, and whom it calls.
pub async fn of_endpoint(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(read_endpoint(&state, &id, query.as_deref()).await)
}

async fn read_endpoint(
    state: &AppState,
    id: &str,
    query: Option<&str>,
) -> Result<Value, PageError> {
    let filters = Filters::parse(query)?;
    let endpoint = named(&state.store, id).await?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let (neighbours, minutes) = futures_util::try_join!(
        state.store.endpoint_neighbours(endpoint.id, window),
        state.store.endpoint_minutes(endpoint.id, window)
    )?;
    let first_minute = minutes.keys().next().copied();
    let covered = Covered::exact(&state.store, window, first_minute, now_ns).await?;
    let covered = service_map::covered(covered, window, filters.range, neighbours.counted_from);
    let side = |of: &[Neighbour]| -> Vec<Value> {
        of.iter().map(|it| neighbour_json(it, &covered)).collect()
    };
    Ok(json!({
        "covered": covered_json(&covered),
        "counted_from": format::at(minute_ns(neighbours.counted_from)),
        "called_by": side(&neighbours.callers),
        "calls": side(&neighbours.callees),
    }))
}

fn neighbour_json(neighbour: &Neighbour, covered: &Covered) -> Value {
    let mut json = calls_json(&Calls::of(&neighbour.sums, covered));
    match &neighbour.other {
        Called::Reports(endpoint) => {
            json["endpoint_id"] = endpoint.id.into();
            json["endpoint"] = json!(endpoint.name);
            json["service"] = service_json(&endpoint.service);
        }
        Called::Peer(peer) => json["peer"] = peer_json(peer),
    }
    json
}

/// Whole numbers with their units in the names.
fn calls_json(calls: &Calls) -> Value {
    let [p50, p90, p95, p99] = calls.percentiles;
    json!({
        "calls": calls.calls,
        "calls_per_minute": calls.rate * 60.0,
        "errors": calls.errors,
        "p50_ns": p50,
        "p90_ns": p90,
        "p95_ns": p95,
        "p99_ns": p99,
    })
}

/// Something that does not report.
fn peer_json(peer: &PeerName) -> Value {
    json!({
        "category": peer.category.map(|it| it.id()),
        "system": peer.system,
        "name": peer.name,
    })
}
