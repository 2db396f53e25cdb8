//! New requests as they are analysed: server-sent events with ready rows for the list of traces.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use collector::store::Store;
use collector::store::requests::{ListedRequest, RequestFilter, RequestOrder};
use futures_util::stream;
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::PageError;
use super::traces::{TraceRow, row};
use crate::AppState;
use crate::address::Address;
use crate::format::now_ns;
use crate::trace_filter;

/// Who may watch at once; each asks the database every second. Others are told to come again.
const WATCHING_MAX: usize = 16;

/// How often is looked for new ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A request is told when its trace is final, which may be so long after it began, ns. A later one is in the list, but
/// not told.
const BEGAN_WITHIN_NS: u64 = 120_000_000_000;

/// New rows of one look. With more nobody reads them: the stream ends and says how to see less.
const ROWS_MAX: i64 = 200;

static WATCHING: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(WATCHING_MAX)));

/// `GET /traces/events`, with the filters of the list.
///
/// # Errors
/// The search is not understood.
pub async fn events(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let filter = trace_filter::parse(&address, now_ns());
    if let Some(error) = filter.not_understood {
        return Err(PageError::BadRequest(error.message));
    }
    let Ok(place) = WATCHING.clone().try_acquire_owned() else {
        let text = "Too many people watch at the moment. Try again later.\n";
        return Ok((StatusCode::SERVICE_UNAVAILABLE, text).into_response());
    };
    let watch = Watch {
        store: state.store.clone(),
        stopping: state.vitals.stopping.clone(),
        filter: RequestFilter {
            order: RequestOrder::Newest,
            limit: ROWS_MAX,
            after: None,
            ..filter.of
        },
        seen: None,
        _place: place,
    };
    let events = stream::unfold(Some(watch), |watch| async { watch?.next().await });
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok(events.into_response())
}

struct Watch {
    store: Store,
    stopping: CancellationToken,
    filter: RequestFilter,
    /// What was there at the last look; `None` before the first one, whose rows are in the list already.
    seen: Option<HashSet<String>>,
    _place: OwnedSemaphorePermit,
}

type Told = (Result<Event, Infallible>, Option<Watch>);

impl Watch {
    /// Waits for new requests; `None` at the end.
    async fn next(mut self) -> Option<Told> {
        loop {
            let now_ns = now_ns();
            self.filter.from_ns = now_ns.saturating_sub(BEGAN_WITHIN_NS);
            self.filter.until_ns = u64::MAX;
            // A database that is away for a moment comes back.
            if let Ok(page) = self.store.requests(&self.filter).await {
                let now_seen = page.rows.iter().map(key).collect();
                let Some(seen) = self.seen.replace(now_seen) else {
                    let event = Event::default().event("ready").data("");
                    return Some((Ok(event), Some(self)));
                };
                let new: Vec<ListedRequest> = page
                    .rows
                    .into_iter()
                    .filter(|it| !seen.contains(&key(it)))
                    .collect();
                if new.len() as i64 >= ROWS_MAX {
                    let text = "More than 200 requests a second: choose a service, an endpoint or a duration to see less.";
                    return Some((Ok(Event::default().event("stop").data(text)), None));
                }
                if !new.is_empty() {
                    let event = Event::default().event("rows").data(rows(new, now_ns));
                    return Some((Ok(event), Some(self)));
                }
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

fn key(request: &ListedRequest) -> String {
    format!("{}{}", request.trace_id, request.span_id)
}

#[derive(Template)]
#[template(path = "traces_row.html")]
struct Row {
    row: TraceRow,
}

/// Rows as HTML on one line, the newest first.
fn rows(requests: Vec<ListedRequest>, now_ns: u64) -> String {
    let longest_ns = requests.iter().map(|it| it.duration_ns).max();
    let longest_ns = longest_ns.unwrap_or(0).max(1);
    let rows = requests.into_iter().filter_map(|it| {
        let row = row(it, longest_ns, now_ns);
        // A name may hold a line's end, or a NUL: an event has neither.
        let html = Row { row }.render().ok()?;
        Some(html.replace(['\n', '\r', '\0'], " "))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOSTILE, Site, drawn_at};
    use axum::body::Body;
    use axum::http::Request;
    use futures_util::StreamExt;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_new_request_arrives_as_a_row() {
        let trace = |name: &str, nth| {
            let drawing = format!(
                "shop  {:?} {{http.route=/cart}} |-----|",
                name.replace('"', "")
            );
            drawn_at(&drawing, now_ns() - 5_000_000_000, nth)
        };
        let old = trace("GET /cart", 1);
        let site = Site::with(&[&old]).await;
        let request = Request::get("/traces/events").body(Body::empty()).unwrap();
        let answer = site.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut body = answer.into_body().into_data_stream();
        let mut next = async || {
            let event = tokio::time::timeout(Duration::from_secs(20), body.next()).await;
            String::from_utf8(event.unwrap().unwrap().unwrap().to_vec()).unwrap()
        };
        assert!(next().await.starts_with("event: ready"));
        site.add(&[&trace(HOSTILE[0], 2)]).await;
        let text = next().await;
        assert!(text.starts_with("event: rows\ndata: <tr>"), "{text}");
        assert_eq!(text.matches("<tr>").count(), 1, "{text}");
        assert!(!text.contains("<script>"), "{text}");
    }

    #[tokio::test]
    async fn a_search_that_is_not_understood_is_refused() {
        let site = Site::with(&[]).await;
        assert_eq!(site.get("/traces/events?q=%22").await.0, 400);
    }
}
