//! What is worth an alert: the same form in the configuration file, over the API and in the database.

use serde::{Deserialize, Serialize};

use super::notification::Severity;

/// One rule.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    /// Names it everywhere; the label `alertname`.
    pub name: String,
    /// What has to be true.
    #[serde(flatten)]
    pub condition: Condition,
    /// It has to be true for so long before anybody is told, s.
    #[serde(default)]
    pub for_seconds: u32,
    /// It has to be false for so long before it counts as resolved, s.
    #[serde(default)]
    pub keep_firing_seconds: u32,
    /// While it lasts it is told again after so long, s; 0: never.
    #[serde(default)]
    pub repeat_seconds: u32,
    /// The severity of its alerts; else that of the finding or regression, or `warning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The channels' names; none: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
}

/// What has to be true. Patterns may hold `*`, which matches anything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(
    tag = "when",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Condition {
    /// A detector found something.
    Finding {
        /// Detectors' ids, or patterns of them.
        detectors: Vec<String>,
        /// At least so bad.
        #[serde(default = "lowest")]
        min_severity: Severity,
        /// In at least so many traces: one may be chance.
        #[serde(default = "three")]
        min_traces: u32,
        /// Services' names, or a pattern.
        #[serde(default = "anything")]
        service: String,
        /// Endpoints' names, or a pattern.
        #[serde(default = "anything")]
        endpoint: String,
    },
    /// An endpoint or a statement became slower.
    Regression {
        /// At least so bad.
        #[serde(default = "lowest")]
        min_severity: Severity,
        /// Services' names, or a pattern.
        #[serde(default = "anything")]
        service: String,
        /// Endpoints' names, or a pattern.
        #[serde(default = "anything")]
        endpoint: String,
    },
    /// A number is beyond a limit: "p99 of POST /checkout above 800 ms over 5 minutes".
    Threshold {
        /// Of what.
        measure: Measure,
        /// ms for percentiles, percent for `error-rate`, requests per second for `rate`.
        above: f64,
        /// Over the last so many minutes, 1 to 60.
        #[serde(default = "five")]
        minutes: u32,
        /// With at least so many requests in that time: fewer tell nothing.
        #[serde(default = "hundred")]
        min_requests: u32,
        /// Services' names, or a pattern.
        #[serde(default = "anything")]
        service: String,
        /// Endpoints' names, or a pattern; each endpoint that matches is judged by itself.
        #[serde(default = "anything")]
        endpoint: String,
    },
}

/// What a threshold is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The median duration.
    P50,
    /// What 90 % of requests do not exceed.
    P90,
    /// What 95 % of requests do not exceed.
    P95,
    /// What 99 % of requests do not exceed.
    P99,
    /// Failed requests.
    ErrorRate,
    /// Requests per second.
    Rate,
}

fn lowest() -> Severity {
    Severity::Info
}

fn anything() -> String {
    "*".into()
}

fn three() -> u32 {
    3
}

fn five() -> u32 {
    5
}

fn hundred() -> u32 {
    100
}
