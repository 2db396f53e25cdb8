//! Where each endpoint's time went: all of its requests, and the slow ones.

use std::collections::HashMap;

use analyzer::category::Category;

use super::report::{EntryReport, Report};

/// From so many requests on the slowest twentieth is shown by itself: it is one request at least.
const SLOW_FROM: usize = 20;

/// One endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint<'r> {
    /// Whose it is.
    pub service: &'r str,
    /// Its name.
    pub name: &'r str,
    /// Its requests, the quickest first.
    pub requests: Vec<&'r EntryReport>,
}

impl<'r> Endpoint<'r> {
    /// The duration that `percent` of the requests do not exceed, ns.
    pub fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.requests.len() * percent).div_ceil(100).max(1);
        self.requests[rank - 1].duration_ns
    }

    /// Requests that failed.
    pub fn errors(&self) -> usize {
        self.requests.iter().filter(|it| it.error).count()
    }

    /// All durations added up, ns.
    pub fn total_ns(&self) -> u64 {
        let durations = self.requests.iter().map(|it| it.duration_ns);
        durations.fold(0, u64::saturating_add)
    }

    /// What all of them waited for, added up, ns.
    pub fn all(&self) -> [u64; Category::COUNT] {
        added(&self.requests)
    }

    /// What the slowest twentieth waited for, if there are enough requests.
    pub fn slow(&self) -> Option<[u64; Category::COUNT]> {
        let from = self.requests.len() - self.requests.len().div_ceil(20);
        (self.requests.len() >= SLOW_FROM).then(|| added(&self.requests[from..]))
    }
}

fn added(requests: &[&EntryReport]) -> [u64; Category::COUNT] {
    let mut sums = [0u64; Category::COUNT];
    for request in requests {
        for (sum, ns) in sums.iter_mut().zip(request.categories.0) {
            *sum = sum.saturating_add(ns);
        }
    }
    sums
}

/// All endpoints, those with the most time first.
pub fn endpoints(report: &Report) -> Vec<Endpoint<'_>> {
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    let mut endpoints: Vec<Endpoint<'_>> = Vec::new();
    for (_, entry) in report.entries() {
        let key = (&entry.service[..], &entry.endpoint[..]);
        let at = *places.entry(key).or_insert_with(|| {
            endpoints.push(Endpoint {
                service: key.0,
                name: key.1,
                requests: Vec::new(),
            });
            endpoints.len() - 1
        });
        endpoints[at].requests.push(entry);
    }
    for endpoint in &mut endpoints {
        endpoint.requests.sort_by_key(|it| it.duration_ns);
    }
    endpoints.sort_by(|a, b| {
        let by_time = b.total_ns().cmp(&a.total_ns());
        by_time.then_with(|| (a.service, a.name).cmp(&(b.service, b.name)))
    });
    endpoints
}
