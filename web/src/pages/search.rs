//! The search box: a trace id in any form leads to its trace; anything else is looked for in the
//! names of services and endpoints.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::store::requests::FoundName;

use super::{Frame, PageError, render};
use crate::AppState;
use crate::address::Address;
use crate::trace_id::{self, Pointer};

/// `GET /search?q=…`.
///
/// # Errors
/// The database cannot be reached.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let text = address.get("q").unwrap_or_default();
    if let Some(pointer) = trace_id::find(text) {
        return Ok(Redirect::to(&trace_href(&pointer)).into_response());
    }
    let names = match text {
        "" => Vec::new(),
        text => state.store.find_names(text).await?,
    };
    Ok(render(&build(text, names)))
}

/// What was found by name.
#[derive(askama::Template)]
#[template(path = "search.html")]
pub struct SearchPage {
    /// What the frame needs.
    pub frame: Frame,
    /// What was looked for.
    pub text: String,
    /// Services and endpoints.
    pub found: Vec<Found>,
}

/// A service or an endpoint.
pub struct Found {
    /// The name.
    pub of: FoundName,
    /// Link to its traces.
    pub traces_href: String,
}

/// Lays out what was found.
pub fn build(text: &str, names: Vec<FoundName>) -> SearchPage {
    let found = |of: FoundName| Found {
        traces_href: format!(
            "/traces{}",
            Address::default().with(&[("service", &of.service), ("endpoint", &of.endpoint)])
        ),
        of,
    };
    SearchPage {
        frame: Frame { current: "" },
        text: text.to_owned(),
        found: names.into_iter().map(found).collect(),
    }
}

/// Where a pointed-at trace or span is shown.
pub fn trace_href(pointer: &Pointer) -> String {
    match pointer.span_id {
        Some(span_id) => format!("/traces/{}?span={span_id}", pointer.trace_id),
        None => format!("/traces/{}", pointer.trace_id),
    }
}
