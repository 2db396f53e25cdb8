//! Many different calls in one request, none of which stands out.
//!
//! ```text
//! shop  GET /dashboard   |--------------------------------------|
//! shop    SELECT users   |-|
//! shop    SELECT roles     |-|
//! shop    SELECT menus       |-|
//! shop    … 31 more            |-| |-| |-| |-| |-| |-| |-| |-|
//! ```
//!
//! Where one statement repeats, the N+1 detectors have said so before, and its calls do not count here.

use super::{Detect, Detector, REPEATING};
use crate::category::Category;
use crate::claims::Claimed;
use crate::finding::Finding;
use crate::impact::impact;
use crate::role::{Role, role};
use crate::sql::StatementKind;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "chatty-endpoint",
    title: "Chatty endpoint",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
One request makes so many different database calls, or calls to other services, that their number is the \
problem: each is quick, none repeats enough to be a loop, and together they are the request's time. It grows \
slowly, one feature at a time, and no single change ever looked wrong.

Every call waits for a connection, a network round trip and the other side's parser, and every one of them may be \
the slow or the failing one: with 30 calls, a call that is slow once in a thousand times makes three requests in \
a hundred slow.

Group what is read together: one statement with joins for what belongs together, one query per table with all ids, \
settings and permissions from a cache, an endpoint of the other service that answers the whole question. What the \
page shows later can be loaded later.

How it is found: more than 30 statements, or more than 15 calls to other services, made by one request itself; calls \
that are reported as loops, transaction control and session settings do not count; and no single statement or \
target is 60 % of the rest. The time saved assumes that the request gets by with as many calls as the limit.

When it is wrong: a report that gathers from everywhere needs many calls. Jobs and consumers are left out, \
as are health checks.";

const EXAMPLE: &str = "
shop  GET /report                                                                  |--------------------------------------------------------------------------|
shop    SELECT orders {db.query.text=\"SELECT a0 FROM orders WHERE id = $1\"}         ||
shop    SELECT users {db.query.text=\"SELECT a1 FROM users WHERE id = $1\"}             ||
shop    SELECT carts {db.query.text=\"SELECT a2 FROM carts WHERE owner = $1\"}            ||
shop    SELECT prices {db.query.text=\"SELECT a3 FROM prices WHERE day = $1\"}              ||
shop    SELECT coupons {db.query.text=\"SELECT a4 FROM coupons WHERE owner = $1\"}            ||
shop    SELECT stock {db.query.text=\"SELECT a5 FROM stock WHERE shelf = $1\"}                  ||
shop    SELECT taxes {db.query.text=\"SELECT a6 FROM taxes WHERE land = $1\"}                     ||
shop    SELECT flags {db.query.text=\"SELECT a7 FROM flags WHERE tenant = $1\"}                     ||
shop    SELECT orders {db.query.text=\"SELECT b8 FROM orders WHERE id = $1\"}                         ||
shop    SELECT users {db.query.text=\"SELECT b9 FROM users WHERE id = $1\"}                             ||
shop    SELECT carts {db.query.text=\"SELECT b10 FROM carts WHERE owner = $1\"}                           ||
shop    SELECT prices {db.query.text=\"SELECT b11 FROM prices WHERE day = $1\"}                             ||
shop    SELECT coupons {db.query.text=\"SELECT b12 FROM coupons WHERE owner = $1\"}                           ||
shop    SELECT stock {db.query.text=\"SELECT b13 FROM stock WHERE shelf = $1\"}                                 ||
shop    SELECT taxes {db.query.text=\"SELECT b14 FROM taxes WHERE land = $1\"}                                    ||
shop    SELECT flags {db.query.text=\"SELECT b15 FROM flags WHERE tenant = $1\"}                                    ||
shop    SELECT orders {db.query.text=\"SELECT c16 FROM orders WHERE id = $1\"}                                        ||
shop    SELECT users {db.query.text=\"SELECT c17 FROM users WHERE id = $1\"}                                            ||
shop    SELECT carts {db.query.text=\"SELECT c18 FROM carts WHERE owner = $1\"}                                           ||
shop    SELECT prices {db.query.text=\"SELECT c19 FROM prices WHERE day = $1\"}                                             ||
shop    SELECT coupons {db.query.text=\"SELECT c20 FROM coupons WHERE owner = $1\"}                                           ||
shop    SELECT stock {db.query.text=\"SELECT c21 FROM stock WHERE shelf = $1\"}                                                 ||
shop    SELECT taxes {db.query.text=\"SELECT c22 FROM taxes WHERE land = $1\"}                                                    ||
shop    SELECT flags {db.query.text=\"SELECT c23 FROM flags WHERE tenant = $1\"}                                                    ||
shop    SELECT orders {db.query.text=\"SELECT d24 FROM orders WHERE id = $1\"}                                                        ||
shop    SELECT users {db.query.text=\"SELECT d25 FROM users WHERE id = $1\"}                                                            ||
shop    SELECT carts {db.query.text=\"SELECT d26 FROM carts WHERE owner = $1\"}                                                           ||
shop    SELECT prices {db.query.text=\"SELECT d27 FROM prices WHERE day = $1\"}                                                             ||
shop    SELECT coupons {db.query.text=\"SELECT d28 FROM coupons WHERE owner = $1\"}                                                           ||
shop    SELECT stock {db.query.text=\"SELECT d29 FROM stock WHERE shelf = $1\"}                                                                 ||
shop    SELECT taxes {db.query.text=\"SELECT d30 FROM taxes WHERE land = $1\"}                                                                    ||
shop    SELECT flags {db.query.text=\"SELECT d31 FROM flags WHERE tenant = $1\"}                                                                    ||
shop    SELECT orders {db.query.text=\"SELECT e32 FROM orders WHERE id = $1\"}                                                                        ||
shop    SELECT users {db.query.text=\"SELECT e33 FROM users WHERE id = $1\"}                                                                            ||
";

/// What may be counted, and how many of them are too many.
struct Limit {
    category: Category,
    max: usize,
    /// What they are called: `31 database calls`.
    what: &'static str,
}

/// A page that needs more statements than 30 is rarely meant to; calls to services cost several times as
/// much each.
const LIMITS: [Limit; 2] = [
    Limit {
        category: Category::Database,
        max: 30,
        what: "database calls",
    },
    Limit {
        category: Category::External,
        max: 15,
        what: "calls to other services",
    },
];

/// With so much of the calls, one statement or target is the problem, and not their variety.
const GROUP_PERCENT_MAX: u64 = 60;

/// The explanation names so many groups, the largest.
const GROUPS_SHOWN_MAX: usize = 3;

/// At most so many entries of one trace are looked at closely. Each costs a walk over all calls.
const ENTRIES_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let mut claimed = None;
    let mut looked_at = 0;
    for (at, entry) in analysis.entries.iter().enumerate() {
        for limit in &LIMITS {
            // Most entries end here.
            if entry.calls[limit.category as usize] as usize <= limit.max
                || role(analysis, at) != Role::Request
                || looked_at == ENTRIES_MAX
            {
                continue;
            }
            looked_at += 1;
            let claimed = claimed.get_or_insert_with(|| Claimed::by(&REPEATING, findings));
            let calls = counted(analysis, at, limit.category, claimed);
            if calls.len() > limit.max {
                findings.extend(finding(analysis, at, limit, &calls));
            }
        }
    }
}

/// The entry's calls of `category` that do its work, in order of start.
fn counted(
    analysis: &Analysis<'_>,
    entry: usize,
    category: Category,
    claimed: &Claimed,
) -> Vec<usize> {
    let calls = analysis.calls.iter().enumerate().filter(|(_, it)| {
        it.entry == Some(entry)
            && it.category == category
            && is_work(it)
            && !analysis.trace.node(it.outer).detached
            && !claimed.has_within(analysis, it)
    });
    let mut calls: Vec<usize> = calls.map(|(at, _)| at).collect();
    calls.sort_by_key(|it| (analysis.trace.node(analysis.calls[*it].outer).start_ns, *it));
    calls
}

fn is_work(call: &Call) -> bool {
    let upkeep = [StatementKind::Transaction, StatementKind::Session];
    let statement = call.statement.as_ref();
    statement.is_none_or(|it| !upkeep.contains(&it.kind))
}

fn finding(analysis: &Analysis<'_>, at: usize, limit: &Limit, calls: &[usize]) -> Option<Finding> {
    let groups = groups(analysis, calls);
    let (_, largest) = groups.first()?;
    if percent(largest.len() as u64, calls.len() as u64) >= GROUP_PERCENT_MAX {
        return None;
    }
    let entry = &analysis.entries[at];
    let outer: Vec<SpanIdx> = calls.iter().map(|it| analysis.calls[*it].outer).collect();
    let impact = impact(analysis, entry, &outer);
    let beyond = (calls.len() - limit.max) as u64;
    let saved_ns = u128::from(impact.removable_ns) * u128::from(beyond) / calls.len() as u128;
    let saved_ns = (saved_ns as u64).min(entry.duration_ns);
    Some(Finding {
        title: format!("{} {} in one request", calls.len(), limit.what),
        severity: Role::Request.severity(saved_ns, entry.duration_ns),
        confidence: 0.7,
        reasons: vec![
            format!("{} different ones, no loop among them", groups.len()),
            format!("more than {}", limit.max),
        ],
        call_path: vec![entry.endpoint.clone()],
        // Of different calls, the first one's parameters and place say nothing about the others.
        parameters: Vec::new(),
        code: None,
        saved_ns,
        explanation: explanation(analysis, at, limit, calls, &groups, impact.critical_ns),
        fix: fix(limit.category).into(),
        ..Finding::in_calls(DETECTOR.id, analysis, at, calls, &[limit.what])
    })
}

/// Calls by what they call, the most frequent first.
fn groups<'b>(analysis: &'b Analysis<'_>, calls: &[usize]) -> Vec<(&'b str, Vec<usize>)> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for at in calls {
        by_key
            .entry(&analysis.calls[*at].key)
            .or_default()
            .push(*at);
    }
    let mut groups: Vec<_> = by_key.into_iter().collect();
    groups.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.len()));
    groups
}

fn explanation(
    analysis: &Analysis<'_>,
    at: usize,
    limit: &Limit,
    calls: &[usize],
    groups: &[(&str, Vec<usize>)],
    critical_ns: u64,
) -> String {
    let entry = &analysis.entries[at];
    let shown: Vec<String> = groups
        .iter()
        .take(GROUPS_SHOWN_MAX)
        .map(|(_, calls)| format!("{} × {}", calls.len(), analysis.calls[calls[0]].name))
        .collect();
    format!(
        "{} makes {} {} of {} kinds and waits {} for them, {} % of the request's {}. Most often: {}. The saving \
         assumes that {} are enough.",
        entry.endpoint,
        calls.len(),
        limit.what,
        groups.len(),
        duration(critical_ns),
        percent(critical_ns, entry.duration_ns),
        duration(entry.duration_ns),
        shown.join(", "),
        limit.max,
    )
}

fn fix(category: Category) -> &'static str {
    match category {
        Category::Database => {
            "Read together what belongs together: join it, or ask once per table with all ids (`= any($1)`, `in (…)`). Keep \
             settings, permissions and other things that rarely change in a cache, and load what the page shows \
             later when it is shown."
        }
        _ => {
            "Ask each service once, with everything the request needs, and run what is left at the same time. Where many \
             services are asked for a page, let one of them keep a copy of what is read most."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    /// `entry` with `count` calls of 2 ms, one after the other; `call` names the nth.
    fn drawn(entry: &str, count: usize, call: impl Fn(usize) -> String) -> String {
        let mut drawn = format!("1 column = 2 ms\n{entry:<80}|{}|\n", "-".repeat(count + 10));
        for nth in 0..count {
            drawn += &format!("{:<80}{}||\n", call(nth), " ".repeat(nth + 2));
        }
        drawn
    }

    /// A statement of its own kind.
    fn statement(nth: usize) -> String {
        let table = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][nth % 10];
        let column = ["x", "y", "z", "w"][nth / 10];
        format!("shop    SELECT {table} {{db.query.text=\"select {column} from {table}\"}}")
    }

    #[test]
    fn many_different_statements() {
        check(
            ID,
            &drawn("shop  GET /dashboard", 35, statement),
            expect![[r#"
                35 database calls in one request
                  shop of 92 ms · info, confidence 0.70: 35 different ones, no loop among them; more than 30
                  count 35, window 70 ms, sum 70 ms, saved 10 ms
                  chatty-endpoint shop "GET /dashboard" "database calls"
                  path: GET /dashboard
                  explanation: GET /dashboard makes 35 database calls of 35 kinds and waits 70 ms for them, 76 % of the request's 92 ms. Most often: 1 × select a, 1 × select b, 1 × select c. The saving assumes that 30 are enough.
                  fix: Read together what belongs together: join it, or ask once per table with all ids (`= any($1)`, `in (…)`). Keep settings, permissions and other things that rarely change in a cache, and load what the page shows later when it is shown.
            "#]],
        );
    }

    #[test]
    fn many_different_services() {
        let call = |nth: usize| {
            let host = ["a", "b", "c", "d", "e", "f", "g", "h"][nth % 8];
            let path = ["x", "y", "z"][nth / 8];
            format!("shop    GET {{url.full=\"http://{host}/{path}\", http.request.method=GET}}")
        };
        check(
            ID,
            &drawn("shop  GET /dashboard", 18, call),
            expect![[r#"
                18 calls to other services in one request
                  shop of 58 ms · info, confidence 0.70: 18 different ones, no loop among them; more than 15
                  count 18, window 36 ms, sum 36 ms, saved 6 ms
                  chatty-endpoint shop "GET /dashboard" "calls to other services"
                  path: GET /dashboard
                  explanation: GET /dashboard makes 18 calls to other services of 18 kinds and waits 36 ms for them, 62 % of the request's 58 ms. Most often: 1 × GET a/x, 1 × GET a/y, 1 × GET a/z. The saving assumes that 15 are enough.
                  fix: Ask each service once, with everything the request needs, and run what is left at the same time. Where many services are asked for a page, let one of them keep a copy of what is read most.
            "#]],
        );
    }

    #[test]
    fn as_many_as_the_limit_are_silent() {
        check_silent(ID, &drawn("shop  GET /dashboard", 30, statement));
    }

    #[test]
    fn a_loop_is_reported_as_such() {
        let call = |nth: usize| {
            format!("shop    SELECT a {{db.query.text=\"select * from a where id = {nth}\"}}")
        };
        let drawn = drawn("shop  GET /dashboard", 38, call);
        check_silent(ID, &drawn);
        check_titles(
            "n-plus-one-query",
            &drawn,
            expect![[r#"
            38 × select a, one by one (critical)
        "#]],
        );
    }

    #[test]
    fn beside_a_loop_only_the_rest_counts() {
        let call = |nth: usize| match nth {
            0..20 => {
                format!("shop    SELECT a {{db.query.text=\"select * from a where id = {nth}\"}}")
            }
            _ => statement(nth),
        };
        check_silent(ID, &drawn("shop  GET /dashboard", 40, call));
    }

    /// The loop's own calls and the calls it makes to another service count for nothing here.
    #[test]
    fn a_loop_through_another_service_is_reported_as_such() {
        let mut drawn = format!(
            "1 column = 2 ms\n{:<80}|{}|\n",
            "shop   GET /cart",
            "-".repeat(120)
        );
        for nth in 0..20 {
            let gap = " ".repeat(nth * 5);
            drawn += &format!(
                "{:<80}{gap}|---|\n",
                "shop     GET stock/items [client] {server.address=stock}"
            );
            drawn += &format!("{:<80}{gap}|---|\n", "stock      GET /items");
            drawn += &format!("{:<80}{gap}|--|\n", "stock        SELECT items");
        }
        check_silent(ID, &drawn);
        check_titles(
            "n-plus-one-call",
            &drawn,
            expect![[r#"
                20 × GET stock, one by one (critical)
            "#]],
        );
    }

    #[test]
    fn one_statement_that_dominates_is_not_variety() {
        // Pages of one table are no N+1, but they are one problem.
        let page = |nth: usize| match nth % 3 {
            0 => statement(nth),
            _ => format!(
                "shop    SELECT p {{db.query.text=\"select * from p limit 10 offset {nth}\"}}"
            ),
        };
        check_silent(ID, &drawn("shop  GET /dashboard", 39, page));
    }

    #[test]
    fn transaction_control_is_no_call() {
        let call = |nth: usize| match nth % 3 {
            0 => "shop    BEGIN".to_string(),
            1 => "shop    COMMIT".to_string(),
            _ => statement(nth),
        };
        check_silent(ID, &drawn("shop  GET /dashboard", 39, call));
    }

    #[test]
    fn jobs_and_probes_are_silent() {
        check_silent(ID, &drawn("shop  rebuild [internal]", 35, statement));
        check_silent(ID, &drawn("shop  process orders [consumer]", 35, statement));
        check_silent(ID, &drawn("shop  GET /health", 35, statement));
    }
}
