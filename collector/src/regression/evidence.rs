//! What a regression is shown with: the numbers of the comparison, and what grew.

use serde::{Deserialize, Serialize};

/// The comparison, as it was when the regression was found. Durations in ns.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// The percentile that is claimed: 0.99, 0.95, 0.9 or 0.5. Never one that so few requests cannot carry.
    pub quantile: f64,
    /// That percentile before.
    pub before_ns: u64,
    /// That percentile since.
    pub after_ns: u64,
    /// Requests that were compared, not weighted.
    pub base_requests: i64,
    /// The same, since.
    pub requests: i64,
    /// How probable it is that chance alone looks like this.
    pub p_value: f64,
    /// Requests since that took longer than `before_ns`, and how many of as many were to be expected.
    pub above: i64,
    /// See `above`.
    pub expected: f64,
    /// Every percentile that is shown.
    pub quantiles: Vec<Percentile>,
    /// Requests per second, before and since.
    pub rates: (f64, f64),
    /// Share of failed requests, before and since.
    pub error_rates: (f64, f64),
    /// What to keep in mind: another load, another mix, one instance only.
    pub notes: Vec<String>,
}

/// One percentile, before and since.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Percentile {
    /// 0 to 1.
    pub quantile: f64,
    /// ns
    pub before_ns: u64,
    /// ns
    pub after_ns: u64,
    /// There are enough requests on both sides to speak of it.
    pub is_certain: bool,
}

/// What grew, from requests of both sides that were looked at span by span.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// Requests that were looked at, before and since.
    pub looked_at: (i64, i64),
    /// They are the slow ones of both sides and not all of them.
    pub of_slow_ones: bool,
    /// Mean growth of these requests, ns; what the contributors' growth adds up to, about.
    pub change_ns: i64,
    /// The call paths that grew most, the most first; at most ten.
    pub contributors: Vec<Contributor>,
    /// Requests since that show it, the clearest first: trace and entry span, hexadecimal.
    pub examples: Vec<(String, String)>,
    /// Ordinary requests from before.
    pub base_examples: Vec<(String, String)>,
}

/// A call path that grew.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contributor {
    /// From the entry down to the call itself.
    pub path: Vec<String>,
    /// Its category's name: `database`.
    pub category: String,
    /// Mean time on the critical path per request, ns, before and since.
    pub per_request_ns: (i64, i64),
    /// Mean calls per request, before and since.
    pub calls: (f64, f64),
    /// Share of requests since in which it takes longer than in nearly all (95 %) before.
    pub share: f64,
    /// Traces that show it: trace and entry span, hexadecimal.
    pub examples: Vec<(String, String)>,
}
