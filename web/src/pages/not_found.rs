//! What is not there, why that may be, and what to do: above all for traces.

use analyzer::span::TraceId;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use collector::store::Store;

use super::{Frame, PageError, render};
use crate::format;

/// A page for an address that leads nowhere.
#[derive(askama::Template)]
#[template(path = "not_found.html")]
pub struct NotFoundPage {
    /// What the frame needs.
    pub frame: Frame,
    /// What was looked for, if it was a trace.
    pub trace: Option<MissingTrace>,
}

/// A trace that is not kept.
pub struct MissingTrace {
    /// The id as it was written.
    pub asked: String,
    /// It is an id, but none that is kept; `None` if it cannot be one.
    pub id: Option<TraceId>,
    /// When the oldest trace that is kept began: `20 Nov 14:30 (3 d ago)`.
    pub oldest: Option<String>,
}

/// The answer for addresses that lead nowhere.
///
/// # Errors
/// None that is known: a page that cannot be written.
pub async fn page() -> Result<Response, PageError> {
    answer(None)
}

/// The answer for an id that is none.
pub(super) fn no_trace_id(asked: String) -> Result<Response, PageError> {
    answer(Some(MissingTrace {
        asked,
        id: None,
        oldest: None,
    }))
}

/// The answer for a trace that is not kept.
pub(super) async fn no_trace(store: &Store, trace_id: TraceId) -> Result<Response, PageError> {
    let oldest_ns = store.oldest_trace_ns().await?;
    answer(Some(MissingTrace {
        asked: trace_id.to_string(),
        id: Some(trace_id),
        oldest: oldest_ns.map(|it| {
            let now_ns = format::now_ns();
            format!(
                "{} ({})",
                format::day_and_minute(it),
                format::ago(it, now_ns)
            )
        }),
    }))
}

fn answer(trace: Option<MissingTrace>) -> Result<Response, PageError> {
    let page = NotFoundPage {
        frame: Frame { current: "/traces" },
        trace,
    };
    Ok((StatusCode::NOT_FOUND, render(&page)).into_response())
}
