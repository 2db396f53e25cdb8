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
    /// Connections the endpoint's requests opened in the window.
    pub connections: Vec<ConnectionHistory>,
}

/// The connections that an endpoint's requests opened to one target over a window of time: the sums of
/// [`crate::connections::opened`], without those of an instance's first minute, in which it fills its pools.
#[derive(Clone, Debug, Default)]
pub struct ConnectionHistory {
    /// To whom, as [`crate::connections::Opened::target`].
    pub target: String,
    /// How many, weighted.
    pub opened: i64,
    /// Time on the critical path, summed, ns.
    pub critical_ns: i64,
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
