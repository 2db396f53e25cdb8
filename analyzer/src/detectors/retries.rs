//! A call fails and is made again, and again, while the request waits.
//!
//! ```text
//! shop  POST /checkout               |------------------------------|
//! shop    POST payments/charge       |----X
//! shop    POST payments/charge             |----X
//! shop    POST payments/charge                   |----X
//! shop    POST payments/charge                         |--|
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::evidence::{self, Parameters};
use crate::finding::Finding;
use crate::groups::Extent;
use crate::impact::impact;
use crate::loops::{Sure, callee, statement_text, summary};
use crate::role::{Role, role};
use crate::seeded_hash::Seeded;
use crate::span::Value;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};
use std::hash::BuildHasher;

pub(super) const DETECTOR: Detector = Detector {
    id: "retries",
    title: "Retries of a failing call",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
A call fails at least twice in one request and is made again each time: a dependency is down, overloaded or times out, and \
the request pays for every attempt.

Retries multiply load exactly when the callee can bear it least, and where callers retry calls of callers that retry, \
three attempts become nine and twenty-seven. Without a pause between the attempts, all of them hit the same outage.

Fix the failing dependency first. Then bound the attempts (two are usually enough), wait between them with exponential \
back-off and jitter, retry at one layer only, give the whole a deadline, and open a circuit breaker when the callee keeps \
failing. Retry only what may be done twice.

How it is found: at least 2 failed calls of one statement or URL template of one entry, one after the other, each followed \
by the same call. Failed means: status ERROR, an HTTP status of 5xx, 408 or 429, or an RPC status that says the callee is \
at fault. The time saved is that of the failed calls on the critical path.

When it is wrong: answers such as 404, 409 or 401, and violated constraints, are no failures here. If the sender hides \
parameters, different calls that all fail look like one that is repeated.";

const EXAMPLE: &str = "
shop  POST /parcels                                                                                                                            |--------------------------------------------------------------------|
shop    POST shipping/v1/labels [client] {error, http.request.method=POST, url.full=http://shipping/v1/labels, http.response.status_code=503}   |--------------|
shop    POST shipping/v1/labels [client] {error, http.request.method=POST, url.full=http://shipping/v1/labels, http.response.status_code=503}                    |--------------|
shop    POST shipping/v1/labels [client] {error, http.request.method=POST, url.full=http://shipping/v1/labels, http.response.status_code=503}                                     |--------------|
shop    POST shipping/v1/labels [client] {http.request.method=POST, url.full=http://shipping/v1/labels, http.response.status_code=201}                                                             |--------------|
";

/// A call that succeeds at its second attempt is how retries are meant to work.
const FAILED_MIN: usize = 2;

/// Two attempts closer than this have no back-off between them, ns.
const PAUSE_NS_MIN: u64 = 10_000_000;

/// At most so many findings of one trace: each costs a walk over its entry, and nobody reads more.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    // Most traces end here: nothing failed.
    let mut failed = analysis.calls.iter().filter(|it| it.failed);
    if failed.by_ref().take(FAILED_MIN).count() < FAILED_MIN {
        return;
    }
    for attempts in attempts(analysis).into_iter().take(FINDINGS_MAX) {
        let role = role(analysis, attempts.entry);
        if role != Role::Upkeep {
            findings.push(finding(analysis, &attempts, role));
        }
    }
}

/// A call of one entry that is made again and again.
struct Attempts {
    entry: usize,
    /// All of them, in order of start.
    calls: Vec<usize>,
    /// Those that failed and were followed by another, in order of start.
    failed: Vec<usize>,
    /// The shortest pause behind one that failed, ns.
    pause_ns: u64,
    /// Whether the last one failed, too.
    gave_up: bool,
}

/// All that failed at least twice, in order of entry and first attempt.
fn attempts(analysis: &Analysis<'_>) -> Vec<Attempts> {
    let seeded = Seeded::default();
    let start_ns = |at: usize| analysis.trace.node(analysis.calls[at].outer).start_ns;
    let mut calls: Vec<(usize, u64, u64, usize)> = Vec::new();
    for (at, call) in analysis.calls.iter().enumerate() {
        if let Some(entry) = call.entry.filter(|_| call.category != Category::Logging) {
            calls.push((entry, seeded.hash_one(&*call.key), start_ns(at), at));
        }
    }
    calls.sort_unstable();
    let same = calls.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    let same = same.filter(|it| it.len() > FAILED_MIN);
    let mut attempts: Vec<Attempts> = same
        .filter_map(|it| {
            let calls: Vec<usize> = it.iter().map(|it| it.3).collect();
            attempts_of(analysis, it[0].0, &calls)
        })
        .collect();
    attempts.sort_unstable_by_key(|it| (it.entry, start_ns(it.calls[0]), it.calls[0]));
    attempts
}

/// The attempts among `calls` of one entry and key, in order of start.
fn attempts_of(analysis: &Analysis<'_>, entry: usize, calls: &[usize]) -> Option<Attempts> {
    let node = |at: usize| analysis.trace.node(analysis.calls[at].outer);
    let mut attempts = Attempts {
        entry,
        calls: Vec::new(),
        failed: Vec::new(),
        pause_ns: u64::MAX,
        gave_up: false,
    };
    // One call after the other, as far as each is the one before made again.
    for chain in calls.chunk_by(|a, b| is_made_again(analysis, *a, *b)) {
        let failed = &chain[..chain.len() - 1];
        if failed.len() < FAILED_MIN {
            continue;
        }
        let pauses = chain
            .windows(2)
            .map(|it| node(it[1]).start_ns.saturating_sub(node(it[0]).end_ns));
        attempts.pause_ns = attempts.pause_ns.min(pauses.min().unwrap_or(0));
        attempts.calls.extend(chain);
        attempts.failed.extend(failed);
        attempts.gave_up |= chain.last().is_some_and(|it| has_failed(analysis, *it));
    }
    (!attempts.calls.is_empty()).then_some(attempts)
}

/// `a` failed, and `b` is the same call, made afterwards.
fn is_made_again(analysis: &Analysis<'_>, a: usize, b: usize) -> bool {
    let node = |at: usize| analysis.trace.node(analysis.calls[at].outer);
    node(a).end_ns <= node(b).start_ns
        && has_failed(analysis, a)
        && evidence::compare_parameters(analysis, &[a, b]) != Parameters::Different
}

/// The callee or the way there is at fault, so that another attempt may succeed.
fn has_failed(analysis: &Analysis<'_>, call: usize) -> bool {
    let call = &analysis.calls[call];
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let http = ["http.response.status_code", "http.status_code"];
    if let Some(status) = spans.first_of(span, &http).and_then(|it| it.as_int()) {
        return status >= 500 || matches!(status, 408 | 429);
    }
    let rpc = [
        "rpc.response.status_code",
        "rpc.status_code",
        "rpc.grpc.status_code",
    ];
    if let Some(status) = spans.first_of(span, &rpc) {
        let name = status.as_str().unwrap_or("");
        // Unknown, deadline exceeded, resource exhausted, aborted, internal, unavailable.
        return match status.as_int() {
            Some(code) => matches!(code, 2 | 4 | 8 | 10 | 13 | 14),
            None => matches!(
                name,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "RESOURCE_EXHAUSTED"
                    | "ABORTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
            ),
        };
    }
    call.failed && !is_statements_fault(spans.attribute(span, "db.response.status_code"))
}

/// SQLSTATE classes 22, 23 and 42: wrong data, violated constraints, wrong statements. They fail again.
fn is_statements_fault(state: Option<Value<'_>>) -> bool {
    match state {
        Some(Value::Str(state)) => matches!(state.get(..2), Some("22" | "23" | "42")),
        Some(Value::Int(state)) => matches!(state / 1_000, 22 | 23 | 42),
        _ => false,
    }
}

fn finding(analysis: &Analysis<'_>, attempts: &Attempts, role: Role) -> Finding {
    let entry = &analysis.entries[attempts.entry];
    let first = &analysis.calls[attempts.calls[0]];
    let outer = |calls: &[usize]| -> Vec<SpanIdx> {
        calls.iter().map(|it| analysis.calls[*it].outer).collect()
    };
    let failed = outer(&attempts.failed);
    let failed_ns = Extent::of(analysis, &failed).union_ns;
    let saved_ns = impact(analysis, entry, &failed)
        .removable_ns
        .min(entry.duration_ns);
    let (count, name) = (attempts.failed.len(), summary(first));
    let hidden = evidence::compare_parameters(analysis, &attempts.calls) == Parameters::Hidden;
    let hasty = attempts.pause_ns < PAUSE_NS_MIN;
    let mut sure = Sure::at(0.85);
    sure.say(
        0.0,
        format!("{count} calls failed, and each was followed by the same call"),
    );
    if hidden {
        sure.say(
            -0.15,
            "parameters are hidden: they may be different calls that fail alike",
        );
    }
    if hasty {
        sure.say(0.05, "there is hardly a pause between two attempts");
    }
    let (confidence, reasons) = sure.finish();
    let end = match attempts.gave_up {
        true => "and it gives up in the end",
        false => "before it succeeds",
    };
    let pause = match hasty {
        true => " There is no back-off between the attempts.",
        false => "",
    };
    Finding {
        title: match attempts.gave_up {
            true => format!("{name} fails every time, {} times in a row", count + 1),
            false => format!("{name} fails {count} times before it works"),
        },
        severity: role.severity(saved_ns, entry.duration_ns),
        confidence,
        reasons,
        statement: first.statement.as_ref().map(|it| it.text.clone()),
        target: match first.category {
            Category::External => Some(first.key.to_string()),
            _ => Some(first.system.clone()).filter(|it| !it.is_empty()),
        },
        saved_ns,
        explanation: format!(
            "{} makes the same call {} times, {end}: the {count} that failed took {} of the request's {} ({} %).{pause}",
            entry.endpoint,
            attempts.calls.len(),
            duration(failed_ns),
            duration(entry.duration_ns),
            percent(failed_ns, entry.duration_ns),
        ),
        fix: fix(analysis, first, hasty),
        ..Finding::in_calls(
            DETECTOR.id,
            analysis,
            attempts.entry,
            &attempts.calls,
            &[statement_text(first)],
        )
    }
}

fn fix(analysis: &Analysis<'_>, call: &Call, hasty: bool) -> String {
    let pause = match hasty {
        true => {
            "Wait between attempts, longer each time and with some chance in it (exponential back-off with jitter)"
        }
        false => "Bound the attempts and the time all of them may take together",
    };
    match call.category {
        Category::Database => format!(
            "Find out why it fails: deadlocks and serialization failures go away when transactions are short and touch \
             rows in one order; timeouts, when the statement is quick. {pause}, and retry the whole transaction, not the \
             statement."
        ),
        _ => {
            let callee = callee(analysis, call).unwrap_or("the callee");
            format!(
                "Find out why {callee} fails. {pause}, retry at one layer only, and open a circuit breaker when it keeps \
                 failing, so that requests fail quickly and the callee can recover."
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, line, serial};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    fn post(url: &str, attributes: &str) -> String {
        format!("POST [client] {{http.request.method=POST, url.full=\"{url}\", {attributes}}}")
    }

    fn charge(attributes: &str) -> String {
        post("http://payments/charge", attributes)
    }

    fn drawn(calls: &[String]) -> String {
        serial("POST /checkout", calls)
    }

    fn silent(calls: &[String]) {
        check_silent(ID, &drawn(calls));
    }

    #[test]
    fn failures_without_a_pause() {
        let failed = charge("error, http.response.status_code=503");
        let calls = [failed.clone(), failed.clone(), failed, charge("n=1")];
        check(
            ID,
            &drawn(&calls),
            expect![[r#"
                POST payments/charge fails 3 times before it works
                  shop of 45 ms · critical, confidence 0.75: 3 calls failed, and each was followed by the same call; parameters are hidden: they may be different calls that fail alike; there is hardly a pause between two attempts
                  count 4, window 40 ms, sum 40 ms, saved 30 ms
                  retries shop "POST /checkout" "POST payments/charge"
                  path: POST /checkout
                  explanation: POST /checkout makes the same call 4 times, before it succeeds: the 3 that failed took 30 ms of the request's 45 ms (66 %). There is no back-off between the attempts.
                  fix: Find out why payments fails. Wait between attempts, longer each time and with some chance in it (exponential back-off with jitter), retry at one layer only, and open a circuit breaker when it keeps failing, so that requests fail quickly and the callee can recover.
            "#]],
        );
    }

    #[test]
    fn giving_up_with_back_off() {
        let mut text = line("shop", 0, "POST /checkout", 0, 250);
        for (at, start) in [0, 40, 120].into_iter().enumerate() {
            let call = charge(&format!("error, n={at}"));
            text += &line("shop", 1, &call, start, 20);
        }
        check(
            ID,
            &text,
            expect![[r#"
                POST payments/charge fails every time, 3 times in a row
                  shop of 250 ms · warning, confidence 0.70: 2 calls failed, and each was followed by the same call; parameters are hidden: they may be different calls that fail alike
                  count 3, window 140 ms, sum 60 ms, saved 40 ms
                  retries shop "POST /checkout" "POST payments/charge"
                  path: POST /checkout
                  explanation: POST /checkout makes the same call 3 times, and it gives up in the end: the 2 that failed took 40 ms of the request's 250 ms (16 %).
                  fix: Find out why payments fails. Bound the attempts and the time all of them may take together, retry at one layer only, and open a circuit breaker when it keeps failing, so that requests fail quickly and the callee can recover.
            "#]],
        );
    }

    #[test]
    fn statements_with_others_in_between() {
        let update = |attributes| {
            format!(
                "UPDATE s {{{attributes}, db.system=postgresql, db.query.text=\"update s set n = 1 where id = 2\"}}"
            )
        };
        let read = "SELECT s".to_string();
        let deadlock = update("error, db.response.status_code=40P01");
        let calls = [
            read.clone(),
            deadlock.clone(),
            read.clone(),
            deadlock,
            read,
            update("n=1"),
        ];
        check_titles(
            ID,
            &drawn(&calls),
            expect![[r#"
            update s fails 2 times before it works (critical)
        "#]],
        );
    }

    #[test]
    fn the_status_code_alone_says_that_it_failed() {
        let failed = charge("http.response.status_code=503");
        check_titles(
            ID,
            &drawn(&[failed.clone(), failed, charge("n=1")]),
            expect![[r#"
                POST payments/charge fails 2 times before it works (critical)
            "#]],
        );
        let get = "Get [client] {rpc.system=grpc, rpc.service=a.B, rpc.method=Get, rpc.grpc.status_code=14}";
        check_titles(
            ID,
            &serial("GET /", &[get; 3]),
            expect![[r#"
            B/Get fails every time, 3 times in a row (critical)
        "#]],
        );
    }

    #[test]
    fn rpcs_that_are_unavailable() {
        let get = "Get [client] {rpc.system=grpc, rpc.service=a.B, rpc.method=Get, rpc.grpc.status_code=14, error}";
        check_titles(
            ID,
            &serial("GET /", &[get; 3]),
            expect![[r#"
                B/Get fails every time, 3 times in a row (critical)
            "#]],
        );
    }

    #[test]
    fn consumers_may_take_their_time() {
        let failed = charge("error");
        let text = drawn(&vec![failed; 4]).replace("POST /checkout", "process a [consumer]");
        check_titles(
            ID,
            &text,
            expect![[r#"
                POST payments/charge fails every time, 4 times in a row (info)
            "#]],
        );
    }

    #[test]
    fn one_retry_is_how_it_is_meant() {
        silent(&[charge("error"), charge("n=1")]);
        silent(&[charge("error"), charge("error")]);
    }

    #[test]
    fn answers_are_no_failures() {
        for status in [400, 401, 404, 409, 412] {
            let answer = charge(&format!("error, http.response.status_code={status}"));
            silent(&vec![answer; 4]);
        }
        let not_found = "Get [client] {rpc.system=grpc, rpc.service=a.B, rpc.method=Get, rpc.grpc.status_code=5, error}";
        check_silent(ID, &serial("GET /", &[not_found; 4]));
    }

    #[test]
    fn violated_constraints_fail_again() {
        let insert = "INSERT t {error, db.response.status_code=23505, db.query.text=\"insert into t (a) values (?)\"}";
        check_silent(ID, &serial("POST /", &[insert; 5]));
    }

    #[test]
    fn different_things_that_fail_are_no_retries() {
        let urls = (1..6).map(|it| post(&format!("http://stock/items/{it}"), "error"));
        silent(&urls.collect::<Vec<_>>());
    }

    #[test]
    fn at_the_same_time_nothing_is_made_again() {
        let mut text = line("shop", 0, "POST /checkout", 0, 50);
        for _ in 0..5 {
            text += &line("shop", 1, &charge("error"), 0, 40);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn success_in_between_begins_anew() {
        let calls = [
            charge("error"),
            charge("n=1"),
            charge("error"),
            charge("n=1"),
        ];
        silent(&calls);
    }

    #[test]
    fn probes_may_fail() {
        check_silent(ID, &serial("GET /health", &[&charge("error"); 4]));
    }
}
