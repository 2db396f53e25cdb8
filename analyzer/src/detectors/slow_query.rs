//! One statement that takes long by itself.
//!
//! ```text
//! shop  GET /search           |--------------------------------|
//! shop    SELECT products       |----------------------------|
//! ```
//!
//! In one trace: a single call that is slow by any measure, or most of what its request waited for.
//! Over time: a statement whose slow twentieth is slow. Both have one fingerprint, so they are one
//! culprit.

use super::{Detect, Detector, n_plus_one_query};
use crate::category::Category;
use crate::evidence;
use crate::finding::{Finding, Severity};
use crate::groups::call_path;
use crate::history::{History, StatementHistory};
use crate::impact::{impact, severity};
use crate::role::{Role, is_upkeep, role};
use crate::sql::{self, Fingerprint, StatementKind};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call};
use std::collections::BTreeMap;

mod advice;

pub(super) const DETECTOR: Detector = Detector {
    id: "slow-query",
    title: "Slow query",
    explain: EXPLAIN,
    detect: Detect::Both(detect, review),
};

const EXPLAIN: &str = "\
A single statement takes so long that the request is slow because of it: often because no index serves its \
condition and the database reads the whole table, because a large OFFSET reads rows to throw them away, because \
a LIKE pattern begins with a wildcard, because it waits for a lock, or because it simply returns too much.

Run it with EXPLAIN (in Postgres: EXPLAIN (ANALYZE, BUFFERS)) on data of the size it has in production, and look for \
sequential scans of large tables and for estimates that are far off. What the finding suggests is read off the \
statement's text alone: candidates to check, not results.

How it is found: in one trace, a call that takes at least 1 s, or at least 250 ms and half of what its request waited for; \
over time, a statement whose p95 at an endpoint is at least 500 ms with at least 20 calls. Waiting for a connection \
inside of the call does not count. The time saved assumes that the statement can be brought to 10 ms.

When it is wrong: reports and exports may read a lot on purpose. Schema changes, transaction control, deliberate waits \
(pg_sleep), health checks and migrations are left out; findings in consumers and jobs are only informational. Queries \
that are slow together because there are many of them are reported as N+1 queries instead.";

/// Slow wherever it happens.
const SLOW_NS: u64 = 1_000_000_000;

/// Slow where it is most of the request: with the absolute bound alone, a search of 400 ms that spends
/// 380 ms in one statement would stay silent until twenty of them were counted, and somebody who
/// looks at the first trace wants to know.
const DOMINANT_NS: u64 = 250_000_000;
/// "Most of the request".
const DOMINANT_PERCENT: u64 = 50;

/// Over time: the slow twentieth of the calls takes so long…
const P95_NS_MIN: u64 = 500_000_000;
/// …of at least so many calls, so that one cold cache is no finding.
const CALLS_MIN: i64 = 20;

/// What a statement takes that an index serves: a few pages and a round trip, generously.
const SERVED_NS: u64 = 10_000_000;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>) {
    let mut in_loops: Vec<SpanIdx> = Vec::new();
    for found in findings.iter().filter(|it| it.detector == n_plus_one_query::DETECTOR.id) {
        in_loops.extend(&found.offenders);
    }
    in_loops.sort_unstable();
    // By entry and statement: the same slow statement twice in a request is one culprit.
    let mut slow: BTreeMap<(usize, &str), Slow<'_>> = BTreeMap::new();
    for call in &analysis.calls {
        if let Some(entry) = call.entry
            && let Some(statement) = &call.statement
            && is_work(statement)
            && in_loops.binary_search(&call.span).is_err()
            && is_slow(analysis, entry, call)
        {
            let none = Slow {
                statement,
                calls: Vec::new(),
            };
            let slow = slow.entry((entry, &statement.text)).or_insert(none);
            slow.calls.push(call);
        }
    }
    for ((entry, _), slow) in slow {
        let role = role(analysis, entry);
        if role != Role::Upkeep {
            findings.push(finding(analysis, entry, &slow, role));
        }
    }
}

/// A statement and the slow calls of it in one entry, at least one.
struct Slow<'b> {
    statement: &'b Fingerprint,
    calls: Vec<&'b Call>,
}

/// A statement that is meant to be quick.
fn is_work(statement: &Fingerprint) -> bool {
    let keeping = [StatementKind::Transaction, StatementKind::Session, StatementKind::Ddl];
    !keeping.contains(&statement.kind) && !waits_on_purpose(&statement.text)
}

fn waits_on_purpose(text: &str) -> bool {
    let waits = ["pg_sleep", "sleep(", "waitfor ", "benchmark(", "dbms_lock.sleep", "get_lock("];
    waits.iter().any(|it| text.contains(it))
}

fn is_slow(analysis: &Analysis<'_>, entry: usize, call: &Call) -> bool {
    let own_ns = own_ns(analysis, call);
    if own_ns < DOMINANT_NS {
        return false;
    }
    let entry = &analysis.entries[entry];
    let critical_ns = || impact(analysis, entry, &[call.outer]).critical_ns;
    own_ns >= SLOW_NS || percent(critical_ns(), entry.duration_ns) >= DOMINANT_PERCENT
}

/// The call's duration without waiting for and opening a connection.
fn own_ns(analysis: &Analysis<'_>, call: &Call) -> u64 {
    let trace = &analysis.trace;
    let mut waited = 0;
    let mut at = call.outer + 1;
    while at < trace.node(call.outer).subtree_end {
        let is_waiting = matches!(
            analysis.categories[at as usize],
            Category::PoolWait | Category::Connect
        );
        if is_waiting {
            waited += trace.duration_ns(at);
            at = trace.node(at).subtree_end;
        } else {
            at += 1;
        }
    }
    trace.duration_ns(call.outer).saturating_sub(waited)
}

fn fingerprint_of(service: &str, endpoint: &str, statement: &str) -> String {
    Finding::fingerprint_of(DETECTOR.id, service, &[endpoint, statement])
}

fn finding(analysis: &Analysis<'_>, at: usize, slow: &Slow<'_>, role: Role) -> Finding {
    let Slow { statement, calls } = slow;
    let entry = &analysis.entries[at];
    let outer: Vec<SpanIdx> = calls.iter().map(|it| it.outer).collect();
    let nodes = || outer.iter().map(|it| analysis.trace.node(*it));
    let start_ns = nodes().map(|it| it.start_ns).min().unwrap_or(0);
    let end_ns = nodes().map(|it| it.end_ns).max().unwrap_or(0);
    let impact = impact(analysis, entry, &outer);
    let served_ns = SERVED_NS * calls.len() as u64;
    let saved_ns = impact.removable_ns.saturating_sub(served_ns).min(entry.duration_ns);
    let worst_ns = calls.iter().map(|it| own_ns(analysis, it)).max().unwrap_or(0);
    let call = calls[0];
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let system = spans.text(span, &["db.system.name", "db.system"]).unwrap_or("");
    let raw = spans.text(span, &["db.query.text", "db.statement"]).unwrap_or("");
    let wildcard = sql::literals(raw, system).iter().any(|it| it.starts_with("'%"));
    let times = if calls.len() == 1 { String::new() } else { format!("{} × ", calls.len()) };
    let indices: Vec<usize> = (0..analysis.calls.len())
        .filter(|it| outer.contains(&analysis.calls[*it].outer))
        .collect();
    Finding {
        detector: DETECTOR.id,
        fingerprint: fingerprint_of(entry.service.name, &entry.endpoint, &statement.text),
        title: format!("{times}{} takes {}", statement.summary(), duration(worst_ns)),
        severity: match role {
            Role::Request => severity(saved_ns, entry.duration_ns),
            _ => Severity::Info,
        },
        confidence: if statement.truncated { 0.7 } else { 0.9 },
        reasons: reasons(worst_ns, statement),
        entry: at,
        offenders: calls.iter().map(|it| it.span).collect(),
        call_path: call_path(analysis, at, call.outer),
        statement: Some(statement.text.clone()),
        target: statement.tables.first().cloned(),
        parameters: evidence::parameters(analysis, &indices),
        count: calls.len() as u32,
        window_ns: end_ns - start_ns,
        sum_ns: nodes().map(|it| it.end_ns - it.start_ns).sum(),
        saved_ns,
        code: evidence::code(analysis, call.span, entry.span),
        explanation: format!(
            "{} waits {} for {}: {} % of the request's {}. {}",
            entry.endpoint,
            duration(impact.critical_ns),
            statement.summary(),
            percent(impact.critical_ns, entry.duration_ns),
            duration(entry.duration_ns),
            ESTIMATE,
        ),
        fix: advice::fix(statement, system, wildcard),
        fix_code: advice::fix_code(statement, system, wildcard),
        framework: None,
    }
}

const ESTIMATE: &str = "The saving assumes that the statement can be brought to 10 ms; whether it can, its plan will tell.";

fn reasons(worst_ns: u64, statement: &Fingerprint) -> Vec<String> {
    let mut reasons = vec![match worst_ns >= SLOW_NS {
        true => "it takes more than 1 s".to_string(),
        false => "it is more than half of what the request waited for".to_string(),
    }];
    if statement.truncated {
        reasons.push("the statement was cut off by its sender".to_string());
    }
    reasons
}

fn review(findings: &mut Vec<Finding>, history: &History) {
    if is_upkeep(&history.endpoint) {
        return;
    }
    for statement in &history.statements {
        let fingerprint = sql::fingerprint(&statement.text, &statement.system);
        let p95_ns = statement.latency.quantile(0.95).unwrap_or(0);
        let is_slow = p95_ns >= P95_NS_MIN && statement.latency.count() >= CALLS_MIN;
        if is_slow && is_work(&fingerprint) {
            findings.push(finding_over_time(history, statement, &fingerprint, p95_ns));
        }
    }
}

fn finding_over_time(
    history: &History,
    statement: &StatementHistory,
    fingerprint: &Fingerprint,
    p95_ns: u64,
) -> Finding {
    let calls = statement.latency.count().unsigned_abs();
    let requests = history.requests.max(1).unsigned_abs();
    // Not every request runs the statement: the saving is per request that does.
    let affected = requests.min(calls).max(1);
    let critical_ns = u64::try_from(statement.critical_ns).unwrap_or(0);
    let served_ns = SERVED_NS.saturating_mul(calls);
    let typical_ns = history.latency.quantile(0.5).unwrap_or(0);
    let slowest_ns = history.latency.quantile(1.0).unwrap_or(0);
    let saved_ns = (critical_ns.saturating_sub(served_ns) / affected).min(slowest_ns);
    let median_ns = statement.latency.quantile(0.5).unwrap_or(0);
    Finding {
        detector: DETECTOR.id,
        fingerprint: fingerprint_of(&history.service, &history.endpoint, &statement.text),
        title: format!("{} takes {} at p95", fingerprint.summary(), duration(p95_ns)),
        severity: severity(saved_ns, typical_ns.max(saved_ns)),
        confidence: 0.95,
        reasons: vec![format!("its p95 over {calls} calls is {}", duration(p95_ns))],
        entry: 0,
        offenders: Vec::new(),
        call_path: vec![history.endpoint.clone()],
        statement: Some(statement.text.clone()),
        target: fingerprint.tables.first().cloned(),
        parameters: Vec::new(),
        count: u32::try_from(calls).unwrap_or(u32::MAX),
        window_ns: 0,
        sum_ns: critical_ns,
        saved_ns,
        code: None,
        explanation: format!(
            "{} runs {} for {} (median) and {} (p95), counted over {calls} calls. {ESTIMATE}",
            history.endpoint,
            fingerprint.summary(),
            duration(median_ns),
            duration(p95_ns),
        ),
        fix: advice::fix(fingerprint, &statement.system, false),
        fix_code: advice::fix_code(fingerprint, &statement.system, false),
        framework: None,
    }
}
