//! What no single request tells: the rules over many of them, for each endpoint over all traces.
//!
//! The whole input is one window of time.

use std::collections::{BTreeMap, HashMap, HashSet};

use analyzer::Analysis;
use analyzer::connections::{is_cold_start, opened};
use analyzer::finding::{Finding, Severity};
use analyzer::history::{ConnectionHistory, History, StatementHistory};
use collector::contribution::{self, Statement, signed};

use super::report::{EntryReport, FindingReport, OverTimeReport, TraceReport};

/// What one request adds to its endpoint's history.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Added {
    /// Its calls of statements.
    statements: Vec<Statement>,
    /// The connections it opened.
    connections: Vec<Connections>,
    /// Nobody waits for it.
    is_background: bool,
}

/// Connections to one target that one request opened.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Connections {
    target: String,
    count: usize,
    critical_ns: u64,
}

impl Added {
    /// By each entry of a trace, in their order.
    pub fn by_entries(analysis: &Analysis<'_>) -> Vec<Added> {
        let statements = contribution::statements(analysis).into_iter();
        let mut added: Vec<Added> = statements
            .enumerate()
            .map(|(at, statements)| Added {
                statements,
                connections: Vec::new(),
                is_background: analysis.is_background(at),
            })
            .collect();
        for it in opened(analysis) {
            if !is_cold_start(analysis, it.entry) {
                added[it.entry].connections.push(Connections {
                    target: it.target,
                    count: it.count,
                    critical_ns: it.critical_ns,
                });
            }
        }
        added
    }

    /// How many calls of it `finding` is about.
    fn calls(&self, finding: &Finding) -> usize {
        match (&finding.statement, &finding.target) {
            (Some(statement), _) => {
                let keys = self.statements.iter().map(|it| &*it.callee.key);
                keys.filter(|it| it == statement).count()
            }
            (None, Some(target)) => {
                let meant = self.connections.iter().filter(|it| it.target == *target);
                meant.map(|it| it.count).sum()
            }
            (None, None) => 0,
        }
    }
}

/// A request and the trace it is in.
type Request<'r> = (&'r TraceReport, &'r EntryReport);

/// What the rules over many requests find; without what single traces tell already.
pub fn over_time(traces: &[TraceReport]) -> Vec<OverTimeReport> {
    let mut endpoints: BTreeMap<(&str, &str), Vec<Request<'_>>> = BTreeMap::new();
    let mut told: HashSet<&str> = HashSet::new();
    for trace in traces {
        for entry in &trace.entries {
            let key = (&entry.service[..], &entry.endpoint[..]);
            endpoints.entry(key).or_default().push((trace, entry));
            told.extend(entry.findings.iter().map(|it| &it.fingerprint[..]));
        }
    }
    let mut found = Vec::new();
    let mut told_here = HashSet::new();
    for requests in endpoints.values() {
        for finding in analyzer::review(&history(requests)) {
            // One text on two database systems is one culprit.
            let is_new = !told.contains(&finding.fingerprint[..])
                && told_here.insert(finding.fingerprint.clone());
            if is_new {
                found.extend(report(requests, finding));
            }
        }
    }
    found.sort_by(|a, b| {
        let by_cost = b.saved_ns().cmp(&a.saved_ns());
        by_cost.then_with(|| a.finding.fingerprint.cmp(&b.finding.fingerprint))
    });
    found
}

/// Of `requests` of one endpoint, at least one.
fn history(requests: &[Request<'_>]) -> History {
    let mut history = History {
        service: requests[0].1.service.clone(),
        endpoint: requests[0].1.endpoint.clone(),
        connections: connections(requests),
        ..History::default()
    };
    let mut statements: BTreeMap<(&str, &str), StatementHistory> = BTreeMap::new();
    for (_, entry) in requests {
        history.requests = history.requests.saturating_add(entry.weight);
        history.latency.record(entry.duration_ns, entry.weight);
        for call in &entry.added.statements {
            let key = (&*call.callee.key, &call.callee.system[..]);
            let of = statements.entry(key).or_default();
            of.latency.record(call.duration_ns, entry.weight);
            add(&mut of.critical_ns, call.critical_ns, entry.weight);
        }
    }
    let statements = statements.into_iter();
    history.statements = statements
        .map(|((text, system), it)| StatementHistory {
            text: text.to_owned(),
            system: system.to_owned(),
            ..it
        })
        .collect();
    history
}

fn add(sum: &mut i64, ns: u64, weight: i64) {
    *sum = sum.saturating_add(signed(ns).saturating_mul(weight));
}

/// Without targets of which no more connections were opened than requests ran at once: as many a pool needs.
/// Nothing tells here when the instances started, so their first minute cannot be left out instead.
fn connections(requests: &[Request<'_>]) -> Vec<ConnectionHistory> {
    let mut targets: BTreeMap<&str, (usize, ConnectionHistory)> = BTreeMap::new();
    for (_, entry) in requests {
        for it in &entry.added.connections {
            let (opened, of) = targets.entry(&it.target).or_default();
            *opened += it.count;
            let weighted = signed(it.count as u64).saturating_mul(entry.weight);
            of.opened = of.opened.saturating_add(weighted);
            add(&mut of.critical_ns, it.critical_ns, entry.weight);
        }
    }
    if targets.is_empty() {
        return Vec::new();
    }
    let at_once = at_once(requests);
    let beyond = targets.into_iter().filter(|it| it.1.0 > at_once);
    beyond
        .map(|(target, (_, it))| ConnectionHistory {
            target: target.to_owned(),
            ..it
        })
        .collect()
}

/// How many of `requests` ran at the same time at most.
fn at_once(requests: &[Request<'_>]) -> usize {
    let mut changes: Vec<(u64, bool)> = Vec::with_capacity(2 * requests.len());
    for (_, entry) in requests {
        let end_ns = entry.start_ns.saturating_add(entry.duration_ns);
        changes.extend([(entry.start_ns, true), (end_ns, false)]);
    }
    // At one instant ends come before starts: one after the other is not at once.
    changes.sort_unstable();
    let (mut running, mut most) = (0_usize, 0);
    for (_, starts) in changes {
        running = match starts {
            true => running + 1,
            false => running.saturating_sub(1),
        };
        most = most.max(running);
    }
    most
}

/// `finding` with the requests it is about; the one with the most to save is the example.
fn report(requests: &[Request<'_>], mut finding: Finding) -> Option<OverTimeReport> {
    if requests.iter().all(|it| it.1.added.is_background) {
        finding.severity = Severity::Info;
    }
    let calls = requests.iter().map(|it| it.1.added.calls(&finding));
    let affected: Vec<(&Request<'_>, usize)> =
        requests.iter().zip(calls).filter(|it| it.1 > 0).collect();
    let ((trace, entry), _) = affected
        .iter()
        .rev()
        .max_by_key(|(request, _)| request.1.duration_ns)?;
    let traces: HashSet<&str> = affected.iter().map(|it| &it.0.0.trace_id[..]).collect();
    Some(OverTimeReport {
        service: entry.service.clone(),
        endpoint: entry.endpoint.clone(),
        requests: requests.len(),
        affected_requests: affected.len(),
        affected_traces: traces.len(),
        example_trace_id: trace.trace_id.clone(),
        example_span_id: entry.span_id.clone(),
        calls: affected.iter().map(|it| it.1 as u32).collect(),
        finding: FindingReport::of(&finding, Vec::new()),
    })
}

/// Where the example of each finding over time is.
pub fn examples<'r>(
    traces: &'r [TraceReport],
    findings: &[OverTimeReport],
) -> HashMap<(&'r str, &'r str), Request<'r>> {
    let wanted: HashSet<(&str, &str)> = findings
        .iter()
        .map(|it| (&it.example_trace_id[..], &it.example_span_id[..]))
        .collect();
    let requests = traces
        .iter()
        .flat_map(|it| std::iter::repeat(it).zip(&it.entries));
    let keyed = requests.map(|it| ((&it.0.trace_id[..], &it.1.span_id[..]), it));
    keyed.filter(|it| wanted.contains(&it.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::culprits::culprits;
    use super::super::gate;
    use super::super::gather::Traces;
    use super::super::report::{Report, Wanted};
    use super::super::testing::{many, report_of};
    use super::*;
    use analyzer::Settings;

    /// `times` requests, one after the other, each of this drawing.
    fn drawn(times: u64, drawn: &str) -> Report {
        report_of(&Traces::of(&many(times, drawn)), Wanted::default())
    }

    fn titles(report: &Report) -> Vec<&str> {
        let found = report.findings_over_time.iter();
        found.map(|it| &it.finding.title[..]).collect()
    }

    /// Too little of the request to be told by a single trace.
    const SLOW: &str = "
        1 column = 50 ms
        shop  GET /search                                    |------------------------------|
        shop    SELECT a {db.query.text=\"SELECT x FROM a\"}   |-----------|
        ";

    const CONNECT: &str = "
        shop  GET /stock                                                            |------------------|
        shop    connect [client] {db.system=postgresql, server.address=warehouse}   |-----------|
        ";

    #[test]
    fn a_statement_that_is_slow_in_many_requests_is_told_once() {
        let report = drawn(25, SLOW);
        assert_eq!(titles(&report), ["select a takes 605 ms at p95"]);
        let culprits = culprits(&report);
        assert_eq!(culprits.len(), 1);
        assert_eq!(culprits[0].affected(), "in all 25 requests");
        assert_eq!(culprits[0].calls(), "1 call");
        assert_eq!(gate::failing(&report, &["slow-query".parse().unwrap()]), 1);
        assert_eq!(titles(&drawn(19, SLOW)), [""; 0]);
    }

    #[test]
    fn what_single_traces_tell_is_not_told_again() {
        let alone = SLOW.replace("------------------------------|", "------------|");
        let report = drawn(25, &alone);
        assert_eq!(titles(&report), [""; 0]);
        assert_eq!(culprits(&report).len(), 1);
        assert_eq!(culprits(&report)[0].requests, 25);
    }

    #[test]
    fn jobs_are_only_informational() {
        let job = SLOW.replace("GET /search        ", "tidy up [internal] ");
        let report = drawn(25, &job);
        assert_eq!(
            report.findings_over_time[0].finding.severity,
            Severity::Info
        );
    }

    #[test]
    fn connections_are_counted_over_all_requests() {
        let report = drawn(30, CONNECT);
        let expected = "A connection to postgresql at warehouse for 100 of 100 requests";
        assert_eq!(titles(&report), [expected]);
        assert_eq!(titles(&drawn(19, CONNECT)), [""; 0]);
    }

    #[test]
    fn a_pool_that_fills_is_none() {
        let drawing = analyzer::drawing::parse(CONNECT);
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let added = Added::by_entries(&analysis);
        assert_eq!(added[0].connections[0].count, 1);
        let mut traces = drawn(30, CONNECT).traces;
        for trace in &mut traces {
            trace.entries[0].start_ns = 0;
        }
        assert_eq!(over_time(&traces), []);
    }

    #[test]
    fn accepted_ones_are_left_out() {
        let mut report = drawn(30, CONNECT);
        let accepted = report.findings_over_time[0].finding.fingerprint.clone();
        gate::leave_out(&mut report, &[accepted]);
        assert_eq!(titles(&report), [""; 0]);
        assert_eq!(report.coverage.ignored_findings, 1);
        assert_eq!(report.coverage.unused_ignores, [""; 0]);
    }
}
