//! The pages: a file, a template and a route each.

pub mod bottlenecks;
pub mod services;
pub mod service_map;
pub mod statements;
pub mod statement;
pub mod endpoint;
pub mod neighbours;
pub mod slow;
pub mod deployments;
pub mod regressions;
pub mod regression;
pub mod compare;
pub mod call_paths;
pub mod bottleneck;
pub mod detectors;
pub mod context;
pub mod traces;
pub mod live;
pub mod trace;
pub mod trace_compare;
pub mod standing;
pub mod search;
pub mod alerts;
pub mod status;
pub mod settings;
pub mod empty;
pub mod not_found;

use askama::Template;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use collector::store::StoreError;

use crate::open_traces::LookError;
use crate::{assets, data_age, firing};

/// What the frame around every page needs.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The entry of the navigation that the page belongs to: its address, such as `/traces`.
    pub current: &'static str,
}

/// Every page that needs nothing to be chosen: address, name, whether it stands in the header. Narrow
/// screens have all of them in a menu.
const PAGES: [(&str, &str, bool); 11] = [
    ("/", "Bottlenecks", true),
    ("/regressions", "Regressions", true),
    ("/alerts", "Alerts", true),
    ("/services", "Services", true),
    ("/statements", "Statements", true),
    ("/deployments", "Deployments", true),
    ("/compare", "Compare", false),
    ("/traces", "Traces", true),
    ("/status", "Status", true),
    ("/detectors", "Detectors", false),
    ("/start", "Send traces", false),
];

impl Frame {
    /// What the header and the menu of narrow screens offer.
    pub fn pages(&self) -> &'static [(&'static str, &'static str, bool)] {
        &PAGES
    }

    /// The version of style and scripts.
    pub fn assets(&self) -> &'static str {
        assets::version()
    }

    /// How old what the page shows is, if that is worth saying.
    pub fn data_age(&self) -> Option<String> {
        data_age::current()
    }

    /// How many alerts fire.
    pub fn firing(&self) -> i64 {
        firing::current()
    }

    /// culprit's version.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Renders a template. A template that fails is a bug; the visitor is told, the log has the cause.
pub fn render(template: &impl Template) -> Response {
    match html(template) {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "This page cannot be shown.\n",
            )
                .into_response()
        }
    }
}

/// A template's text. Names may hold NUL, which no HTML may: it is shown as the replacement character.
fn html(template: &impl Template) -> askama::Result<String> {
    let html = template.render()?;
    Ok(if html.contains('\0') {
        html.replace('\0', "\u{fffd}")
    } else {
        html
    })
}

/// Pages to look for what is not where it was looked for: words and address.
pub type Lists = &'static [(&'static str, &'static str)];

/// Where services and their endpoints are listed. The long range is for what has been silent.
pub const SERVICES: Lists = &[
    ("Services of the last hour", "/services"),
    ("Services of the last 7 days", "/services?range=7d"),
];

/// Where statements are.
pub const STATEMENTS: Lists = &[
    ("Statements of the last hour", "/statements"),
    ("Statements of the last 7 days", "/statements?range=7d"),
];

/// Where findings are.
pub const BOTTLENECKS: Lists = &[
    ("Bottlenecks of the last hour", "/"),
    ("Bottlenecks of the last 7 days", "/?range=7d"),
    ("Resolved bottlenecks", "/?range=7d&state=resolved"),
];

/// Where regressions are.
pub const REGRESSIONS: Lists = &[("Regressions", "/regressions")];

/// Where alerts are.
pub const ALERTS: Lists = &[("Alerts", "/alerts")];

/// Why a page cannot be shown.
#[derive(Debug)]
pub enum PageError {
    /// There is no such thing: what was looked for, and what may be the reason.
    NotFound(String),
    /// As [`PageError::NotFound`], and where such things are listed: words and address.
    Missing(String, Lists),
    /// The address asks for something that makes no sense: which part, and what would.
    BadRequest(String),
    /// What was asked for cannot be done: with which status, in large type, and why.
    Refused(StatusCode, &'static str, String),
    /// The database.
    Store(StoreError),
    /// What is stored cannot be read or shown.
    Broken(anyhow::Error),
}

impl PageError {
    /// What was sent, or is to be done, makes no sense: why, and what would.
    pub fn refused(text: String) -> PageError {
        PageError::Refused(StatusCode::BAD_REQUEST, "That cannot be done", text)
    }

    /// What was asked for cannot be done as things are: why, and what can.
    pub fn conflict(text: String) -> PageError {
        PageError::Refused(StatusCode::CONFLICT, "That cannot be done", text)
    }
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        PageError::Store(error)
    }
}

impl From<LookError> for PageError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Store(error) => PageError::Store(error),
            LookError::Busy => PageError::Refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many long traces at once",
                "Others are looking at long traces right now, and there is memory for a few at once. Try again \
                 in half a minute."
                    .to_owned(),
            ),
        }
    }
}

impl From<anyhow::Error> for PageError {
    fn from(error: anyhow::Error) -> Self {
        PageError::Broken(error)
    }
}

/// What is said where a change is refused because of how the process is connected.
pub const READ_ONLY: &str = "This process may only read the database, so nothing was changed. Give it the \
    primary's address and a role that may write to culprit's tables, or do it at a process that has them.";

/// The database was reached, and takes no changes from us: a replica, or reading rights only.
pub fn is_read_only(error: &StoreError) -> bool {
    matches!(error.code().as_deref(), Some("25006" | "42501"))
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let lists = match &self {
            PageError::Missing(_, lists) => *lists,
            _ => &[],
        };
        let (status, title, text) = match self {
            PageError::NotFound(text) | PageError::Missing(text, _) => {
                (StatusCode::NOT_FOUND, "Not found", text)
            }
            PageError::BadRequest(text) => (
                StatusCode::BAD_REQUEST,
                "That address is not understood",
                text,
            ),
            PageError::Refused(status, title, text) => (status, title, text),
            PageError::Store(error) if is_read_only(&error) => {
                tracing::warn!(%error, "a page cannot change anything");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Nothing can be changed here",
                    READ_ONLY.to_owned(),
                )
            }
            PageError::Store(error) => {
                tracing::warn!(%error, "a page cannot read the database");
                let text = "The database does not answer right now. Nothing is lost: services are told \
                    to send again. Try again in a few seconds; the status page says more.";
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The database is away",
                    text.to_owned(),
                )
            }
            PageError::Broken(error) => {
                tracing::error!(%error, "a page cannot be shown");
                let text = "What is stored for this page cannot be read. This is a fault in culprit, \
                    not in what was sent: the log has the cause; please report it.";
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "This page cannot be shown",
                    text.to_owned(),
                )
            }
        };
        let page = ErrorPage {
            frame: Frame { current: "" },
            title,
            text,
            lists,
        };
        (status, render(&page)).into_response()
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    /// In large type.
    title: &'static str,
    /// What happened and what to do.
    text: String,
    /// Where to look instead.
    lists: Lists,
}

/// Why something could not be written: a UI may have a database user, or a server, that only reads.
pub fn not_written(error: StoreError) -> PageError {
    if !error.is_read_only() {
        return error.into();
    }
    tracing::warn!(%error, "a change was refused by the database");
    PageError::Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "This process only reads",
        "This process only reads; its database user or server takes no writes, and nothing was changed. Act on \
         another culprit's UI, or give this one a --database-url that may write to the schema culprit."
            .to_owned(),
    )
}

/// For addresses that no route has.
pub async fn not_found(uri: Uri) -> PageError {
    PageError::NotFound(format!("There is no page at {}.", uri.path()))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use crate::testing::Site;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_not_there_leads_to_where_such_things_are_listed() {
        let site = Site::with(&[]).await;
        let id = "01a2010a-5125-75dc-bef8-906694177363";
        let missing = [
            ("/endpoints/77".to_owned(), "/services"),
            ("/endpoints/77/slow".to_owned(), "/services"),
            ("/endpoints/shop".to_owned(), "/services"),
            ("/compare?endpoint_id=77".to_owned(), "/services"),
            ("/compare?service_id=77".to_owned(), "/services"),
            ("/statements/77".to_owned(), "/statements"),
            (
                "/statements/select-00000000000000ff".to_owned(),
                "/statements",
            ),
            ("/bottlenecks/77".to_owned(), "/"),
            ("/bottlenecks/n-plus-one".to_owned(), "/"),
            (format!("/regressions/{id}"), "/regressions"),
            (format!("/alerts/{id}"), "/alerts"),
        ];
        for (address, list) in missing {
            let (status, _, page) = site.get(&address).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{address}");
            let link = format!("<a class=\"btn\" href=\"{list}\">");
            assert!(page.contains(&link), "{address}: {page}");
            for href in page.split("<a class=\"btn\" href=\"").skip(1) {
                let href = &href[..href.find('"').unwrap()];
                let (status, _, _) = site.get(&href.replace("&#38;", "&")).await;
                // Without any data the front page leads to how to send some.
                let leads = status.is_success() || status.is_redirection();
                assert!(leads, "{address}: {href} is {status}");
            }
        }
        let (status, _, json) = site.get("/api/v1/bottlenecks/77").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{json}");
    }
}
