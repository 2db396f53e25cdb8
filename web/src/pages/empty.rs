//! The first start: nothing was ever received, so the page says how to send something.

use std::net::SocketAddr;

use analyzer::span::{SpanId, TraceId};
use axum::extract::State;
use axum::response::Response;
use uuid::Uuid;

use super::{Frame, render};
use crate::AppState;
use crate::format::now_ns;

/// `GET /start`: always; `/` shows the same as long as nothing was ever analysed.
pub async fn page(State(state): State<AppState>) -> Response {
    let id = Uuid::new_v4().into_bytes();
    let counts = state
        .receiver
        .as_ref()
        .map(|it| it.counts())
        .unwrap_or_default();
    // The page must also be there when the database is not.
    let backlog = state.store.journal_backlog().await.unwrap_or_default();
    let known = state.store.knows_services().await.unwrap_or(false);
    let stage = match (known, counts.taken_spans > 0 || backlog.spans > 0) {
        (true, _) => Stage::Known,
        (false, true) => Stage::Arriving,
        (false, false) => Stage::Waiting,
    };
    render(&EmptyPage {
        stage,
        frame: Frame { current: "/" },
        grpc: state.grpc,
        http: state.http,
        received: counts.taken_spans,
        waiting: backlog.spans,
        last_refused: counts.last_problem.map(|it| it.message),
        trace_id: TraceId(id),
        span_id: SpanId(std::array::from_fn(|at| id[at + 8])),
        now_ns: now_ns(),
    })
}

/// Shown in place of the list of bottlenecks until there is a first span.
#[derive(askama::Template)]
#[template(path = "empty.html")]
pub struct EmptyPage {
    /// What the frame needs.
    pub frame: Frame,
    /// How far the first start has come.
    pub stage: Stage,
    /// Where OTLP/gRPC is taken; `None` if another process does that.
    pub grpc: Option<SocketAddr>,
    /// Where OTLP/HTTP is taken; `None` if another process does that.
    pub http: Option<SocketAddr>,
    /// Spans received since the start of this process.
    pub received: u64,
    /// Spans waiting in the journal: they are received, but not analysed yet.
    pub waiting: i64,
    /// What was refused last, and why.
    pub last_refused: Option<String>,
    /// A trace id for the example, fresh with every view.
    pub trace_id: TraceId,
    /// A span id for it.
    pub span_id: SpanId,
    /// Now, ns since the epoch: the example's end.
    pub now_ns: u64,
}

/// How far the first start has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing has ever arrived.
    Waiting,
    /// Something has, and is not analysed yet.
    Arriving,
    /// Services are known: there are other pages to look at.
    Known,
}

/// How long the request of the example takes.
const EXAMPLE_NS: u64 = 120_000_000;

impl EmptyPage {
    /// Where to send, as a client writes it. A client cannot connect to "all addresses".
    fn http_endpoint(&self) -> String {
        endpoint(self.http, 4318)
    }

    fn grpc_endpoint(&self) -> String {
        endpoint(self.grpc, 4317)
    }

    fn received(&self) -> i64 {
        i64::try_from(self.received).unwrap_or(i64::MAX)
    }

    fn grpc_host(&self) -> String {
        self.grpc_endpoint()
            .trim_start_matches("http://")
            .to_owned()
    }

    fn start_ns(&self) -> u64 {
        self.now_ns.saturating_sub(EXAMPLE_NS)
    }
}

fn endpoint(address: Option<SocketAddr>, port: u16) -> String {
    match address {
        Some(address) if !address.ip().is_unspecified() => format!("http://{address}"),
        Some(address) => format!("http://127.0.0.1:{}", address.port()),
        None => format!("http://127.0.0.1:{port}"),
    }
}
