//! Did an endpoint become slower, or does it only look so?
//!
//! Requests before and requests now, by minute → an exact test of the tail, a rank test of the body, and guards
//! against what looks like a regression and is none → a decision with its numbers.

use crate::sketch::Sketch;

/// One minute (or one hour, for statements) of an endpoint's requests.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Slot {
    /// Minutes since the epoch; the first one of an hour's slot.
    pub minute: i32,
    /// Failed requests, weighted.
    pub errors: i64,
    /// Latency of the requests, ns, weighted.
    pub latency: Sketch,
}
