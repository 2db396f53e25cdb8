//! For people: pages, JSON, the command line.

pub mod cli;
pub mod cli_receiver;
pub mod serve;
pub mod demo_command;
pub mod demo;
pub mod verify;
pub mod offline;
pub mod exec;
pub mod explain;
pub mod health;
pub mod vitals;
pub mod metrics;
pub mod status;
pub mod exposition;
pub mod process;
pub mod admin;
pub mod logging;
pub mod bench;
pub mod database;
pub mod data_age;
pub mod retention_options;
pub mod explain_options;
pub mod pages;
pub mod api;
pub mod assets;
pub mod format;
pub mod flame;
pub mod pprof;
pub mod speedscope;
pub mod line_chart;
pub mod endpoint_numbers;
pub mod range;
pub mod charts;
pub mod ranking;
pub mod unit;
pub mod address;
pub mod trace_id;
pub mod trace_filter;
pub mod search_text;
pub mod category_bar;
pub mod waterfall;
pub mod trace_flame;
pub mod span_details;
pub mod span_find;
pub mod headline;
pub mod coverage_numbers;
mod entry_numbers;
#[cfg(test)]
mod testing;

use analyzer::Settings;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::response::Response;
use axum::routing::get;
use collector::receiver::Stats;
use collector::store::Store;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::vitals::Vitals;

/// What every page may need.
#[derive(Clone)]
pub struct AppState {
    /// The way to the tables.
    pub store: Store,
    /// Where OTLP/gRPC is received, if by this process.
    pub grpc: Option<SocketAddr>,
    /// Where OTLP/HTTP is received, if by this process.
    pub http: Option<SocketAddr>,
    /// What the receiver has seen, if it is in this process.
    pub receiver: Option<Arc<Stats>>,
    /// How this process is.
    pub vitals: Arc<Vitals>,
    /// What the user set for the analysis: pages analyse as the assembly did.
    pub settings: Arc<Settings>,
}

/// Forms are a few fields: more is refused with 413.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Every route.
pub fn router(state: AppState) -> Router {
    let admin = admin::router(state.vitals.clone());
    Router::new()
        // Pages.
        .route("/", get(pages::bottlenecks::show))
        .route("/services", get(pages::services::show))
        .route("/statements", get(pages::statements::show))
        .route("/statements.csv", get(pages::statements::csv))
        .route("/endpoints/{id}", get(pages::endpoint::show))
        .route("/endpoints/{id}/flame.svg", get(pages::endpoint::flame_svg))
        .route(
            "/endpoints/{id}/flame.txt",
            get(pages::endpoint::flame_text),
        )
        .route("/bottlenecks/{id}", get(pages::bottleneck::show))
        .route("/detectors", get(pages::detectors::show))
        .route("/traces", get(pages::traces::page))
        .route("/traces/{id}", get(pages::trace::page))
        .route("/traces/{id}/flame.svg", get(pages::trace::flame_svg))
        .route("/traces/{id}/compare", get(pages::trace_compare::choose))
        .route(
            "/traces/{id}/compare/{other}",
            get(pages::trace_compare::page),
        )
        .route("/search", get(pages::search::page))
        .route("/status", get(pages::status::page))
        .route("/start", get(pages::empty::page))
        // JSON.
        .route("/api/v1/services", get(api::services::list))
        .route("/api/v1/statements", get(api::statements::list))
        .route("/api/v1/endpoints", get(api::endpoints::list))
        .route("/api/v1/endpoints/{id}", get(api::endpoints::one))
        .route("/api/v1/endpoints/{id}/profile", get(api::profiles::json))
        .route(
            "/api/v1/endpoints/{id}/profile.txt",
            get(api::profiles::folded),
        )
        .route(
            "/api/v1/endpoints/{id}/profile.pb.gz",
            get(api::profiles::pprof),
        )
        .route(
            "/api/v1/endpoints/{id}/profile.speedscope.json",
            get(api::profiles::speedscope),
        )
        .route("/api/v1/bottlenecks", get(api::bottlenecks::list))
        .route("/api/v1/bottlenecks/{id}", get(api::bottlenecks::one))
        .route("/api/v1/traces", get(api::traces::list))
        .route("/api/v1/traces/{id}", get(api::traces::one))
        .route("/api/v1/traces/{id}/analysis", get(api::traces::analysis))
        .route("/api/v1/status", get(api::status::show))
        // The rest.
        .route("/static/{file}", get(assets::show))
        .fallback(pages::not_found)
        .layer(axum::middleware::from_fn_with_state(
            state.store.clone(),
            data_age::tell,
        ))
        .with_state(state)
        .merge(admin)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::map_response(guard))
}

/// Nothing but our own scripts, styles and images; no frames; nothing guessed, nothing told to others.
/// A handler that has set its own policy (a drawing shown alone) keeps it.
async fn guard(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
        img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
        frame-ancestors 'none'";
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(POLICY));
    response
}
