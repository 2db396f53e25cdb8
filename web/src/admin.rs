//! What is asked by machines of every process, whatever its role: is it alive, can it work, how much
//! did it do. Part of the UI's port, and of `--listen-admin` where there is no UI.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics;
use crate::vitals::Vitals;

/// The routes.
pub fn router(vitals: Arc<Vitals>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::show))
        .with_state(vitals)
}

/// 200 while this process can do its work, else 503 and why not.
async fn ready(State(vitals): State<Arc<Vitals>>) -> Response {
    match vitals.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
