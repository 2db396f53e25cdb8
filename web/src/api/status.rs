//! `GET /api/v1/status`: what the status page says, for programs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use collector::receiver::{Counts, Snapshot};
use serde_json::{Value, json};

use crate::AppState;
use crate::status::Status;
use crate::vitals::Rates;

/// How it is, in words and numbers; 503 when the database does not answer.
pub async fn show(State(state): State<AppState>) -> Response {
    let status = Status::of(&state).await;
    let troubles = status.troubles();
    let overview = status.overview.as_ref();
    let received = status.received.as_ref();
    let body = json!({
        "level": Status::level(&troubles),
        "sentence": Status::sentence(&troubles),
        "troubles": troubles,
        "version": env!("CARGO_PKG_VERSION"),
        "database": status.database.as_ref().err().map_or("up", String::as_str),
        "journal": overview.map(|it| &it.journal),
        "received": received.map(|(snapshot, counts)| of_receiver(snapshot, counts, &status.rates)),
        "findings": overview.map(|it| &it.findings),
        "alerts": overview.map(|it| &it.alerts),
        "quarantined": overview.map(|it| it.quarantined),
        "dictionaries": overview.map(|it| &it.dictionaries),
        "storage": status.storage,
    });
    let code = match status.database {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(body)).into_response()
}

/// Since the start of this process.
fn of_receiver(snapshot: &Snapshot, counts: &Counts, rates: &Rates) -> Value {
    let accepted = snapshot
        .accepted
        .iter()
        .zip(rates.spans)
        .map(|((via, all), rate)| {
            json!({
                "transport": via.transport(),
                "format": via.format(),
                "requests": all.requests,
                "spans": all.spans,
                "bytes": all.bytes,
                "spans_per_second": rate,
            })
        });
    json!({
        "taken_requests": counts.taken_requests,
        "taken_spans": counts.taken_spans,
        "rejected_spans": counts.rejected_spans,
        "malformed": counts.malformed,
        "too_large": counts.too_large,
        "unsupported": counts.unsupported,
        "overloaded": counts.overloaded,
        "unavailable": counts.unavailable,
        "other_signals": counts.other_signals,
        "accepted": accepted.collect::<Vec<_>>(),
        "last_problem": counts.last_problem.as_ref().map(|it| json!({"at_ns": it.at_ns, "message": it.message})),
    })
}
