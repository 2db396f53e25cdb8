//! Many calls of one kind at the same time: the request takes as long as the slowest.
//!
//! ```text
//! shop  GET /search            |------------------------|
//! shop    POST shard-1/search  |----|
//! shop    POST shard-1/search  |-----|
//! shop    POST shard-1/search  |-----------------------|     the tail
//! shop    POST shard-1/search  |----|                        … and so on
//! ```

use super::{Detect, Detector, LOOPS, duplicate_call};
use crate::category::Category;
use crate::claims::Claimed;
use crate::evidence;
use crate::finding::{Finding, Severity};
use crate::groups::{Loop, loops};
use crate::impact::impact;
use crate::loops::{Sure, Told, failed, summary};
use crate::role::{Role, role};
use crate::sql::StatementKind;
use crate::trace::SpanIdx;
use crate::wording::duration;
use crate::{Analysis, Call, Settings};

pub(super) const DETECTOR: Detector = Detector {
    id: "fan-out",
    title: "Fan-out",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
A request makes more than 20 calls of one kind at the same time and waits for all of them.

The more calls, the surer it is that one of them is slow, and the request takes as long as that one: with 50 calls, a \
slowness that one call in a hundred has is met by four requests in ten. The crowd also takes connections, threads and \
memory from everybody else at once.

Fix it by asking fewer for more (one call for many ids, fewer and larger parts), by bounding how many run at a time, and \
by not waiting for the last: a deadline with a partial answer, or a second attempt as soon as a call takes longer than \
usual.

How it is found: more than 20 calls of one statement or URL template below the same chain of operations of one request, of \
which at least two run at a time on average, and which no other detector has claimed. It is informational, unless the \
slowest call takes more than three times as long as a usual one and the request waits for it.

When it is wrong: scattering a query over shards and gathering the answers is a design. The calls that are slow may be \
slow for a reason of their own, such as more data.";

const EXAMPLE: &str = "
1 column = 5 ms
shop  GET /search                                                                |----------------------------------------------------------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (1, 2)\"}     |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (3, 4)\"}     |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (5, 6)\"}     |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (7, 8)\"}     |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (9, 10)\"}    |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (11, 12)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (13, 14)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (15, 16)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (17, 18)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (19, 20)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (21, 22)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (23, 24)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (25, 26)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (27, 28)\"}   |-------------------------------------------------------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (29, 30)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (31, 32)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (33, 34)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (35, 36)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (37, 38)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (39, 40)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (41, 42)\"}   |---------|
shop    SELECT items {db.query.text=\"SELECT * FROM items WHERE id IN (43, 44)\"}   |---------|
";

/// More calls of one kind at a time than this are a crowd.
const CALLS_MAX: usize = 20;

/// The slowest call is a tail from so many times the median on.
const TAIL_FACTOR: u64 = 3;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    if analysis.calls.len() <= CALLS_MAX {
        return;
    }
    let mut others = LOOPS.to_vec();
    others.push(duplicate_call::DETECTOR.id);
    let claimed = Claimed::by(&others, findings);
    for category in [Category::Database, Category::External] {
        let unclaimed = |call: &Call| !claimed.has(call.span) && !is_keeping(call);
        let wanted = |call: &Call| !failed(analysis, call);
        for found in loops(analysis, category, unclaimed, wanted, CALLS_MAX + 1) {
            let role = role(analysis, found.entry);
            if role != Role::Upkeep && is_crowd(&found) {
                findings.push(finding(&Told::of(analysis, &found, role)));
            }
        }
    }
}

/// What a pool says to a connection that it takes back.
fn is_keeping(call: &Call) -> bool {
    let statement = call.statement.as_ref();
    statement
        .is_some_and(|it| matches!(it.kind, StatementKind::Session | StatementKind::Transaction))
}

/// On average at least two run at a time.
fn is_crowd(found: &Loop) -> bool {
    found.waiting_sum_ns >= found.waited_ns.saturating_mul(2) && found.waiting.len() > CALLS_MAX
}

fn finding(told: &Told<'_, '_>) -> Finding {
    let tail = tail(told);
    let saved_ns = match &tail[..] {
        [] => 0,
        tail => impact(told.analysis, told.entry(), tail).removable_ns,
    };
    let saved_ns = saved_ns.min(told.entry().duration_ns);
    let mut sure = Sure::at(0.7);
    let times = told.found.waiting_sum_ns / told.found.waited_ns.max(1);
    sure.say(0.1, format!("{times} run at a time on average"));
    if saved_ns > 0 {
        sure.say(0.1, "the request waits for its slowest call alone");
    }
    let found = told.finding(DETECTOR.id, saved_ns, sure);
    let count = told.found.calls.len();
    let name = summary(told.first());
    let slowest = match tail.len() {
        0 => String::new(),
        slow => format!(
            " {slow} of them {} more than {TAIL_FACTOR} times as long as a usual one, and the slowest {}.",
            if slow == 1 { "takes" } else { "take" },
            duration(slowest_ns(told)),
        ),
    };
    Finding {
        title: match saved_ns {
            0 => format!("{count} × {name} at a time"),
            _ => format!("{count} × {name} at a time, waiting for the slowest"),
        },
        severity: match saved_ns {
            0 => Severity::Info,
            _ => found.severity,
        },
        target: Some(told.first().key.to_string()),
        statement: told.first().statement.as_ref().map(|it| it.text.clone()),
        parameters: evidence::parameters(told.analysis, &told.found.calls),
        explanation: format!(
            "{} makes {count} calls side by side and waits for all of them: {}.{slowest}",
            told.entry().endpoint,
            told.numbers(),
        ),
        fix: "Ask for more with fewer calls, and bound how many run at a time. If the answer may be incomplete, stop \
              waiting at a deadline; if a call can be repeated, send it again as soon as it takes longer than usual and \
              take the first answer."
            .into(),
        framework: None,
        ..found
    }
}

/// The calls that take much longer than a usual one, if the others leave the request waiting for them.
fn tail(told: &Told<'_, '_>) -> Vec<SpanIdx> {
    let usual_ns = told.median_ns().saturating_mul(TAIL_FACTOR);
    let spans = told.found.waiting.iter().copied();
    spans
        .filter(|it| told.analysis.trace.duration_ns(*it) > usual_ns)
        .collect()
}

fn slowest_ns(told: &Told<'_, '_>) -> u64 {
    let spans = told.found.waiting.iter();
    let durations = spans.map(|it| told.analysis.trace.duration_ns(*it));
    durations.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, findings, line};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    /// A call that no other detector claims: a chunk of a list of ids.
    const CHUNK: &str =
        "SELECT items {db.query.text=\"select * from items where id in ($1, $2, $3)\"}";

    /// So many calls within a request of `ms`, all at once, the last one of `slowest` ms.
    fn crowd(endpoint: &str, ms: usize, call: &str, count: usize, slowest: usize) -> String {
        let mut text = line("shop", 0, endpoint, 0, ms);
        for at in 0..count {
            text += &line(
                "shop",
                1,
                call,
                0,
                if at + 1 == count { slowest } else { 10 },
            );
        }
        text
    }

    #[test]
    fn the_slowest_of_a_crowd() {
        check(
            ID,
            &crowd("GET /search", 110, CHUNK, 25, 100),
            expect![[r#"
                25 × select items at a time, waiting for the slowest
                  shop of 110 ms · critical, confidence 0.90: 3 run at a time on average; the request waits for its slowest call alone
                  count 25, window 100 ms, sum 340 ms, saved 90 ms
                  fan-out shop "GET /search" "GET /search" "select * from items where id in (?)"
                  path: GET /search
                  explanation: GET /search makes 25 calls side by side and waits for all of them: 10 ms each (median), 100 ms of the request's 110 ms (90 %). 1 of them takes more than 3 times as long as a usual one, and the slowest 100 ms.
                  fix: Ask for more with fewer calls, and bound how many run at a time. If the answer may be incomplete, stop waiting at a deadline; if a call can be repeated, send it again as soon as it takes longer than usual and take the first answer.
            "#]],
        );
    }

    #[test]
    fn a_crowd_without_a_tail_is_information() {
        check(
            ID,
            &crowd("GET /search", 110, CHUNK, 21, 12),
            expect![[r#"
            21 × select items at a time
              shop of 110 ms · info, confidence 0.80: 17 run at a time on average
              count 21, window 12 ms, sum 212 ms, saved 0 ns
              fan-out shop "GET /search" "GET /search" "select * from items where id in (?)"
              path: GET /search
              explanation: GET /search makes 21 calls side by side and waits for all of them: 10 ms each (median), 12 ms of the request's 110 ms (10 %).
              fix: Ask for more with fewer calls, and bound how many run at a time. If the answer may be incomplete, stop waiting at a deadline; if a call can be repeated, send it again as soon as it takes longer than usual and take the first answer.
        "#]],
        );
    }

    #[test]
    fn twenty_are_no_crowd() {
        check_silent(ID, &crowd("GET /search", 110, CHUNK, 20, 100));
    }

    #[test]
    fn one_after_the_other_is_no_crowd() {
        let mut text = line("shop", 0, "GET /search", 0, 300);
        for at in 0..30 {
            text += &line("shop", 1, CHUNK, at * 10, 10);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn what_is_a_loop_already_is_reported_there() {
        let row = "SELECT items {db.query.text=\"select * from items where id = ?\"}";
        assert_eq!(
            findings(&crowd("GET /search", 110, row, 30, 100)),
            ["n-plus-one-query"]
        );
        let get = "GET [client] {http.request.method=GET, url.full=\"http://stock/items/1\"}";
        let found = findings(&crowd("GET /search", 110, get, 30, 100));
        assert!(!found.contains(&ID), "{found:?}");
    }

    #[test]
    fn failures_and_probes_are_none() {
        let failed = CHUNK.replace('{', "{error, ");
        check_silent(ID, &crowd("GET /search", 110, &failed, 30, 100));
        check_silent(ID, &crowd("GET /health", 110, CHUNK, 30, 100));
    }

    #[test]
    fn connections_that_are_taken_back_are_none() {
        let reset = "query {db.system=postgresql, db.query.text=\"select pg_advisory_unlock_all(); close all; reset all\"}";
        let mut text = line("shop", 0, "GET /search", 0, 50);
        for at in 0..30 {
            text += &line("shop", 1, reset, at % 3, 10);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn different_calls_are_no_crowd_of_one() {
        let mut text = line("shop", 0, "GET /search", 0, 50);
        for at in 0..30 {
            let call = format!(
                "SELECT a {{db.query.text=\"select * from shard{at}x where id in (1, 2)\"}}"
            );
            text += &line("shop", 1, &call, 0, 10);
        }
        check_silent(ID, &text);
    }
}
