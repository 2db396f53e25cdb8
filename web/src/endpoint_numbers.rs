//! An endpoint's numbers as pages and JSON tell them: rates, percentiles, shares.

use analyzer::category::Category;
use collector::deltas::MinuteDelta;
use serde_json::{Map, Value, json};

use crate::category_bar::{self, Parts};
use crate::format;
use crate::line_chart::percentiles;
use crate::range::Covered;

/// Sums and what follows from them.
#[derive(Clone, PartialEq, Debug)]
pub struct Numbers {
    /// Requests, weighted.
    pub requests: i64,
    /// Failed ones, weighted.
    pub errors: i64,
    /// Requests a second.
    pub rate: f64,
    /// Durations added up, ns.
    pub duration_ns: i64,
    /// Within an hour if it goes on like this, ns.
    pub duration_ns_per_hour: u64,
    /// P50, P90, P95, P99, ns.
    pub percentiles: [u64; 4],
    /// Critical-path ns by category.
    pub categories: [i64; Category::COUNT],
}

impl Numbers {
    /// What `sums` of the `covered` time say.
    pub fn of(sums: &MinuteDelta, covered: &Covered) -> Numbers {
        Numbers {
            requests: sums.requests,
            errors: sums.errors,
            rate: covered.per_second(sums.requests),
            duration_ns: sums.duration_ns,
            duration_ns_per_hour: covered.per_hour(sums.duration_ns),
            percentiles: percentiles(&sums.latency),
            categories: sums.categories,
        }
    }

    /// Failed requests' share, 0 to 1.
    pub fn error_share(&self) -> f64 {
        self.errors.max(0) as f64 / self.requests.max(1) as f64
    }

    /// How often: number and unit.
    pub fn rate_parts(&self) -> (String, &'static str) {
        format::rate_parts(self.rate)
    }

    /// Percent, for a cell.
    pub fn errors_text(&self) -> String {
        format::percent(self.error_share())
    }

    /// Milliseconds, for cells.
    pub fn percentiles_ms(&self) -> [String; 4] {
        self.percentiles.map(format::ms)
    }

    /// Time within an hour, for a cell.
    pub fn per_hour_text(&self) -> String {
        format::duration(self.duration_ns_per_hour)
    }

    /// The bar.
    pub fn parts(&self) -> Parts {
        parts(&self.categories)
    }

    /// For JSON: whole numbers with their units in the names.
    pub fn json(&self) -> Map<String, Value> {
        let [p50, p90, p95, p99] = self.percentiles;
        let object = json!({
            "requests": self.requests,
            "requests_per_second": self.rate,
            "errors": self.errors,
            "duration_ns": self.duration_ns,
            "p50_ns": p50,
            "p90_ns": p90,
            "p95_ns": p95,
            "p99_ns": p99,
            "critical_path_ns": categories_json(&self.categories),
        });
        object.as_object().cloned().unwrap_or_default()
    }
}

/// The bar of stored sums.
pub fn parts(categories: &[i64; Category::COUNT]) -> Parts {
    // The parts' sum has to fit too: a sender may claim centuries.
    const NS_MAX: u64 = u64::MAX / (2 * Category::COUNT as u64);
    let ns = categories.map(|it| u64::try_from(it).unwrap_or(0).min(NS_MAX));
    category_bar::parts(&ns)
}

/// ns by the categories' ids.
pub fn categories_json(ns: &[i64; Category::COUNT]) -> Value {
    Category::ALL
        .iter()
        .map(|it| (it.id().to_owned(), json!(ns[*it as usize])))
        .collect()
}
