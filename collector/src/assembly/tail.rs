//! Which requests are an endpoint's slow tail: decided once, when a request is finalised, and
//! stored with it.

use analyzer::sketch::Sketch;
use std::collections::HashMap;

/// The slow tail: requests beyond this share of their endpoint's recent ones.
const TAIL_FROM: f64 = 0.95;

/// Before that many requests an endpoint has no tail: a quantile of a handful is noise.
const REQUESTS_MIN: i64 = 40;

/// After that many requests the distribution halves, so that it follows what happens now.
const REQUESTS_MAX: i64 = 20_000;

/// Endpoints remembered; at the bound all start anew.
const ENDPOINTS_MAX: usize = 20_000;

/// Recent durations by endpoint.
#[derive(Debug, Default)]
pub struct Tails {
    endpoints: HashMap<i32, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    latency: Sketch,
    threshold_ns: Option<u64>,
    since_update: i64,
}

impl Tails {
    /// Whether a request of `duration_ns` is in its endpoint's tail; it counts from now on.
    pub fn is_tail(&mut self, endpoint: i32, duration_ns: u64) -> bool {
        if self.endpoints.len() >= ENDPOINTS_MAX {
            self.endpoints.clear();
        }
        let recent = self.endpoints.entry(endpoint).or_default();
        let tail = recent
            .threshold_ns
            .is_some_and(|threshold| duration_ns > threshold);
        recent.record(duration_ns);
        tail
    }
}

impl Recent {
    fn record(&mut self, duration_ns: u64) {
        self.latency.record(duration_ns, 1);
        self.since_update += 1;
        let requests = self.latency.count();
        // A quantile walks the sketch: not for every request.
        if requests < REQUESTS_MIN || self.since_update * 20 < requests {
            return;
        }
        self.since_update = 0;
        self.threshold_ns = self.latency.quantile(TAIL_FROM);
        if requests >= REQUESTS_MAX {
            let halved = self
                .latency
                .bins()
                .iter()
                .map(|(bin, count)| (*bin, count / 2));
            self.latency = Sketch::from_bins(halved.collect::<Vec<_>>());
        }
    }
}
