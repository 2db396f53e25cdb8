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
pub mod firing;
pub mod form;
pub mod retention_options;
pub mod configuration;
pub mod time_span;
pub mod csrf;
pub mod acts;
pub mod explain_options;
pub mod alert_options;
pub mod pages;
pub mod api;
pub mod assets;
pub mod format;
pub mod flame;
pub mod pprof;
pub mod speedscope;
pub mod slots;
pub mod line_chart;
pub mod exemplars;
pub mod heatmap;
pub mod category_chart;
pub mod endpoint_numbers;
pub mod range;
pub mod timestamps;
pub mod compared;
pub mod deployed;
pub mod charts;
pub mod service_map;
pub mod ranking;
pub mod csv;
pub mod statement_key;
pub mod own_address;
pub mod plan_shown;
pub mod unit;
pub mod address;
pub mod trace_id;
pub mod trace_filter;
pub mod search_text;
pub mod category_bar;
pub mod indexed;
pub mod open_traces;
pub mod log_link;
pub mod span_paint;
pub mod waterfall;
pub mod trace_flame;
pub mod span_details;
pub mod span_find;
pub mod headline;
pub mod coverage_numbers;
mod entry_numbers;
#[cfg(test)]
mod colours;
#[cfg(test)]
mod testing;

use analyzer::Settings;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use collector::alert::guard::Trust;
use collector::receiver::Stats;
use collector::store::Store;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::configuration::Configuration;
use crate::csrf::Reached;
use crate::firing::Firing;
use crate::log_link::LogLink;
use crate::open_traces::OpenTraces;
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
    /// The traces people look at.
    pub traces: OpenTraces,
    /// Where their logs are, if that is known.
    pub logs: Option<Arc<LogLink>>,
    /// Where channels made here may lead.
    pub trust: Trust,
    /// How people reach this process: what comes from elsewhere may change nothing.
    pub reached: Reached,
    /// What this process was told.
    pub told: Arc<Configuration>,
}

/// Forms are a few fields: more is refused with 413.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Every route.
pub fn router(state: AppState) -> Router {
    let admin = admin::router(state.vitals.clone());
    let reached = state.reached.clone();
    let router = Router::new()
        // Pages.
        .route("/", get(pages::bottlenecks::show))
        .route("/services", get(pages::services::show))
        .route("/statements", get(pages::statements::show))
        .route("/statements.csv", get(pages::statements::csv))
        .route("/statements/{id}", get(pages::statement::show))
        .route("/endpoints/{id}", get(pages::endpoint::show))
        .route("/endpoints/{id}/slow", get(pages::slow::show))
        .route("/endpoints/{id}/flame.svg", get(pages::endpoint::flame_svg))
        .route(
            "/endpoints/{id}/flame.txt",
            get(pages::endpoint::flame_text),
        )
        .route("/bottlenecks.csv", get(pages::bottlenecks::csv))
        .route("/bottlenecks/{id}", get(pages::bottleneck::show))
        .route(
            "/bottlenecks/{id}/{act}",
            get(pages::bottleneck::back).post(pages::bottleneck::act),
        )
        .route("/compare", get(pages::compare::show))
        .route("/deployments", get(pages::deployments::show))
        .route("/regressions", get(pages::regressions::show))
        .route("/regressions/{id}", get(pages::regression::show))
        .route(
            "/regressions/{id}/accept",
            get(pages::regression::back).post(pages::regression::accept),
        )
        .route(
            "/regressions/{id}/resolve",
            get(pages::regression::back).post(pages::regression::resolve),
        )
        .route("/detectors", get(pages::detectors::show))
        .route("/traces", get(pages::traces::page))
        .route("/traces/events", get(pages::live::events))
        .route("/traces/{id}", get(pages::trace::page))
        .route("/traces/{id}/flame.svg", get(pages::trace::flame_svg))
        .route("/traces/{id}/compare", get(pages::trace_compare::choose))
        .route(
            "/traces/{id}/compare/{other}",
            get(pages::trace_compare::page),
        )
        // As people type it, and as other tracing pages have it.
        .route("/t/{id}", get(pages::trace::short))
        .route("/trace/{id}", get(pages::trace::short))
        .route("/search", get(pages::search::page))
        .merge(alert_pages())
        .route("/status", get(pages::status::page))
        .route("/settings", get(pages::settings::page))
        .route("/start", get(pages::empty::page))
        // JSON.
        .route("/api/v1/services", get(api::services::list))
        .route("/api/v1/services/edges", get(api::edges::list))
        .route("/api/v1/statements", get(api::statements::list))
        .route("/api/v1/statements/{id}", get(api::statements::one))
        .route("/api/v1/endpoints", get(api::endpoints::list))
        .route("/api/v1/endpoints/{id}", get(api::endpoints::one))
        .route(
            "/api/v1/endpoints/{id}/neighbours",
            get(api::edges::of_endpoint),
        )
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
        .route(
            "/api/v1/bottlenecks/{id}/{act}",
            post(api::bottlenecks::act),
        )
        .route("/api/v1/compare", get(api::compare::show))
        .route(
            "/api/v1/deployments",
            get(api::deployments::list).post(api::deployments::tell),
        )
        .route(
            "/api/v1/deployments/{id}",
            get(api::deployments::one).delete(api::deployments::remove),
        )
        .route("/api/v1/regressions", get(api::regressions::list))
        .route("/api/v1/regressions/{id}", get(api::regressions::one))
        .route(
            "/api/v1/regressions/{id}/accept",
            post(api::regressions::accept),
        )
        .route(
            "/api/v1/regressions/{id}/resolve",
            post(api::regressions::resolve),
        )
        .route("/api/v1/traces", get(api::traces::list))
        .route("/api/v1/traces/{id}", get(api::traces::one))
        .route("/api/v1/traces/{id}/analysis", get(api::traces::analysis))
        .merge(alert_api())
        .route("/api/v1/status", get(api::status::show))
        // The rest.
        .route("/static/{file}", get(assets::show))
        .fallback(pages::not_found)
        .layer(axum::middleware::from_fn_with_state(
            state.store.clone(),
            data_age::tell,
        ))
        .layer(axum::middleware::from_fn_with_state(
            Firing::new(state.store.clone()),
            firing::tell,
        ))
        .with_state(state)
        .merge(admin)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    csrf::protect(router, reached).layer(axum::middleware::map_response(guard))
}

fn alert_pages() -> Router<AppState> {
    use pages::alerts::{self, channels, incident, rules, silences};
    Router::new()
        .route("/alerts", get(alerts::page))
        .route("/alerts/rules", get(rules::page))
        .route("/alerts/rules/new", get(rules::new))
        .route("/alerts/rules/edit", get(rules::edit))
        .route("/alerts/rules/save", post(rules::save))
        .route("/alerts/rules/enable", post(rules::enable))
        .route("/alerts/rules/delete", post(rules::delete))
        .route("/alerts/channels", get(channels::page))
        .route("/alerts/channels/new", get(channels::new))
        .route("/alerts/channels/edit", get(channels::edit))
        .route("/alerts/channels/save", post(channels::save))
        .route("/alerts/channels/enable", post(channels::enable))
        .route("/alerts/channels/delete", post(channels::delete))
        .route("/alerts/channels/test", post(channels::test))
        .route("/alerts/channels/replay", post(channels::replay))
        .route("/alerts/channels/dismiss", post(channels::dismiss))
        .route("/alerts/silences", get(silences::page))
        .route("/alerts/silences/add", post(silences::add))
        .route("/alerts/silences/{id}/end", post(silences::end))
        .route("/alerts/{id}", get(incident::page))
        .route("/alerts/{id}/acknowledge", post(alerts::acknowledge))
}

fn alert_api() -> Router<AppState> {
    use api::alerts;
    Router::new()
        .route("/api/v1/alerts", get(alerts::list))
        .route("/api/v1/alerts/{id}", get(alerts::one))
        .route(
            "/api/v1/alerts/{id}/acknowledge",
            post(alerts::acknowledge).delete(alerts::unacknowledge),
        )
        .route("/api/v1/alert-rules", get(alerts::rules))
        .route(
            "/api/v1/alert-rules/{name}",
            put(alerts::put_rule).delete(alerts::delete_rule),
        )
        .route("/api/v1/alert-channels", get(alerts::channels))
        .route(
            "/api/v1/alert-channels/{name}",
            put(alerts::put_channel).delete(alerts::delete_channel),
        )
        .route("/api/v1/alert-channels/{name}/test", post(alerts::test))
        .route(
            "/api/v1/silences",
            get(alerts::silences).post(alerts::add_silence),
        )
        .route("/api/v1/silences/{id}", delete(alerts::end_silence))
}

/// Nothing but our own scripts, styles and images; no frames; nothing guessed, nothing told to others.
/// A handler that has set its own policy (a drawing shown alone) keeps it.
async fn guard(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
        img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
        frame-ancestors 'none'";
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not "no-referrer": forms of our own would come from the origin "null" then.
        (header::REFERRER_POLICY, "same-origin"),
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
