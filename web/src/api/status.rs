//! `GET /api/v1/status`: what the status page says, for programs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::AppState;

/// The journal and what was received; 503 when the database does not answer.
pub async fn show(State(state): State<AppState>) -> Response {
    let received = state.receiver.as_ref().map(|it| it.counts());
    let received = received.map(|it| {
        json!({
            "taken_requests": it.taken_requests,
            "taken_spans": it.taken_spans,
            "rejected_spans": it.rejected_spans,
            "malformed": it.malformed,
            "too_large": it.too_large,
            "unsupported": it.unsupported,
            "overloaded": it.overloaded,
            "unavailable": it.unavailable,
        })
    });
    match state.store.journal_backlog().await {
        Ok(backlog) => Json(json!({
            "database": "up",
            "journal": {"rows": backlog.rows, "spans": backlog.spans, "oldest_s": backlog.oldest_s},
            "received": received,
        }))
        .into_response(),
        Err(error) => {
            let body = json!({"database": error.to_string(), "received": received});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
