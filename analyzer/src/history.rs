//! What `review` reads: one endpoint's windows.

use crate::sketch::Sketch;

/// One endpoint over a window of time.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The service's name.
    pub service: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// Requests in the window, weighted.
    pub requests: i64,
    /// Latency of the requests, ns.
    pub latency: Sketch,
    /// Statements the endpoint ran in the window.
    pub statements: Vec<StatementHistory>,
}

/// One statement of an endpoint over a window of time.
#[derive(Clone, Debug, Default)]
pub struct StatementHistory {
    /// The normalised statement.
    pub text: String,
    /// `db.system.name`.
    pub system: String,
    /// Latency of the calls, ns.
    pub latency: Sketch,
    /// Time on the critical path, summed, ns.
    pub critical_ns: i64,
}
