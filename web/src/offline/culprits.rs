//! The same culprit in many requests is one, ranked by what it costs all of them.

use std::collections::{BTreeSet, HashMap};

use analyzer::finding::Severity;

use super::over_time::examples;
use super::report::{EntryReport, FindingReport, Report, TraceReport};

/// One culprit.
#[derive(Clone, PartialEq, Debug)]
pub struct Culprit<'r> {
    /// Where it saves most: what is told about it.
    pub worst: &'r FindingReport,
    /// The request that is in.
    pub entry: &'r EntryReport,
    /// The trace that is in.
    pub trace: &'r TraceReport,
    /// The worst of its severities.
    pub severity: Severity,
    /// Requests that have it.
    pub requests: usize,
    /// All requests of that endpoint.
    pub of_requests: usize,
    /// Traces that have it.
    pub traces: usize,
    /// Calls per request, ascending.
    pub counts: Vec<u32>,
    /// What a fix saves of all these requests, ns.
    pub saved_ns: u64,
}

impl Culprit<'_> {
    /// What a fix saves of one of them, on average, ns.
    pub fn saved_each_ns(&self) -> u64 {
        self.saved_ns / self.requests.max(1) as u64
    }

    /// `5 calls`, `3 to 40 calls, half of them up to 12`.
    pub fn calls(&self) -> String {
        let (least, most) = (self.counts[0], self.counts[self.counts.len() - 1]);
        let median = self.counts[(self.counts.len() - 1) / 2];
        match (least == most, self.counts.len() > 2) {
            (true, _) if most == 1 => "1 call".into(),
            (true, _) => format!("{most} calls"),
            (false, true) => format!("{least} to {most} calls (median {median})"),
            (false, false) => format!("{least} to {most} calls"),
        }
    }

    /// `in 12 of 14 requests`.
    pub fn affected(&self) -> String {
        match (self.requests, self.of_requests) {
            (1, 1) => "in the only request".into(),
            (all, of) if all == of => format!("in all {of} requests"),
            (some, of) => format!("in {some} of {of} requests"),
        }
    }
}

/// All of them, the dearest first.
pub fn culprits(report: &Report) -> Vec<Culprit<'_>> {
    let mut per_endpoint: HashMap<(&str, &str), usize> = HashMap::new();
    for (_, entry) in report.entries() {
        *per_endpoint
            .entry((&entry.service, &entry.endpoint))
            .or_default() += 1;
    }
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut found: Vec<(Culprit<'_>, BTreeSet<&str>)> = Vec::new();
    for (trace, entry) in report.entries() {
        for finding in &entry.findings {
            let at = *places.entry(&finding.fingerprint).or_insert(found.len());
            if at == found.len() {
                let culprit = Culprit {
                    worst: finding,
                    entry,
                    trace,
                    severity: finding.severity,
                    requests: 0,
                    of_requests: per_endpoint[&(&entry.service[..], &entry.endpoint[..])],
                    traces: 0,
                    counts: Vec::new(),
                    saved_ns: 0,
                };
                found.push((culprit, BTreeSet::new()));
            }
            let (culprit, traces) = &mut found[at];
            if finding.saved_ns > culprit.worst.saved_ns {
                (culprit.worst, culprit.entry, culprit.trace) = (finding, entry, trace);
            }
            culprit.severity = culprit.severity.max(finding.severity);
            culprit.requests += 1;
            culprit.counts.push(finding.count);
            culprit.saved_ns = culprit.saved_ns.saturating_add(finding.saved_ns);
            traces.insert(&trace.trace_id);
        }
    }
    let mut culprits: Vec<Culprit<'_>> = found
        .into_iter()
        .map(|(mut culprit, traces)| {
            culprit.traces = traces.len();
            culprit.counts.sort_unstable();
            culprit
        })
        .collect();
    culprits.extend(over_time(report));
    culprits.sort_by(|a, b| {
        let by_cost = b.saved_ns.cmp(&a.saved_ns);
        by_cost
            .then_with(|| b.severity.cmp(&a.severity))
            .then_with(|| a.worst.fingerprint.cmp(&b.worst.fingerprint))
    });
    culprits
}

/// Those that no single request tells.
fn over_time(report: &Report) -> impl Iterator<Item = Culprit<'_>> {
    let examples = examples(&report.traces, &report.findings_over_time);
    report.findings_over_time.iter().filter_map(move |it| {
        let key = (&it.example_trace_id[..], &it.example_span_id[..]);
        let (trace, entry) = *examples.get(&key)?;
        let mut counts = it.calls.clone();
        counts.sort_unstable();
        Some(Culprit {
            worst: &it.finding,
            entry,
            trace,
            severity: it.finding.severity,
            requests: it.affected_requests,
            of_requests: it.requests,
            traces: it.affected_traces,
            counts,
            saved_ns: it.saved_ns(),
        })
    })
}
