//! Requests wait for a connection that others hold.
//!
//! ```text
//! shop  GET /cart         |--------------------------|
//! shop    pool.acquire    |----------------|             all connections are in use
//! shop    SELECT cart                      |--|
//! ```
//!
//! Where the pool opens a connection meanwhile, that is what takes the time: connection-per-request.

use super::{Detect, Detector};
use crate::category::Category;
use crate::connections::{outermost, target};
use crate::finding::{Finding, Severity};
use crate::groups::{Extent, call_path};
use crate::impact::impact;
use crate::role::{Role, role};
use crate::span::Status;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Settings, evidence};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "pool-wait",
    title: "Waiting for a connection",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The request waits for a connection from a pool, because all of them are in use. The statement after it is \
quick, so the database looks healthy: the time is lost before it is asked. Once it begins, it feeds itself, since \
requests that wait hold what they already have.

Find out who holds connections for long before making the pool larger: transactions that stay open while another service \
is called, connections that are taken at the start of a request and returned at its end, a connection that is never \
returned after an error, many parallel statements of one request. A larger pool moves the queue into the database; more \
than a few connections per core of the database rarely help.

How it is found: spans that wait for a pool (acquire, getConnection, wait_for_connection) take at least 10 ms and 5 % of \
the request on its critical path, or end in an error, which is nearly always the pool's timeout. Waits in which a \
connection is opened do not count.

When it is wrong: if opening connections makes no spans, a pool that opens one looks like one that is exhausted. \
Pools without acquire spans cannot be seen in traces. Jobs and consumers are only information.";

const EXAMPLE: &str = "
shop  GET /invoices/{id}                                                        |----------------------------------------------------------|
shop    pool.acquire [client] {db.system=postgresql}                             |-------------------------------------|
shop    SELECT invoices {db.query.text=\"SELECT * FROM invoices WHERE id = $1\"}                                           |-----------|
";

/// A wait shorter than this is a connection handed over, not a queue…
const CRITICAL_NS_MIN: u64 = 10_000_000;
/// …and so is one that is less of the request.
const CRITICAL_PERCENT_MIN: u64 = 5;

/// At most so many pools of one trace are reported. Each costs a walk over its entry.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let mut by_pool: BTreeMap<(usize, String), Vec<SpanIdx>> = BTreeMap::new();
    for span in outermost(analysis, Category::PoolWait) {
        let waits = analysis.trace.duration_ns(span) > 0 && !analysis.trace.node(span).detached;
        if waits
            && !opens_connection(analysis, span)
            && let Some(entry) = analysis.entry_of(span)
        {
            let pool = pool(analysis, span, analysis.entries[entry].span);
            by_pool.entry((entry, pool)).or_default().push(span);
        }
    }
    for ((entry, pool), mut waits) in by_pool.into_iter().take(FINDINGS_MAX) {
        waits.sort_by_key(|it| (analysis.trace.node(*it).start_ns, *it));
        let role = role(analysis, entry);
        if role != Role::Upkeep {
            findings.extend(finding(analysis, entry, &pool, waits, role));
        }
    }
}

fn opens_connection(analysis: &Analysis<'_>, wait: SpanIdx) -> bool {
    let end = analysis.trace.node(wait).subtree_end;
    let inside = &analysis.categories[wait as usize + 1..end as usize];
    inside.contains(&Category::Connect)
}

/// The pool's name, or to whom its connections go.
fn pool(analysis: &Analysis<'_>, wait: SpanIdx, top: SpanIdx) -> String {
    let keys = [
        "db.client.connection.pool.name",
        "db.client.connections.pool.name",
        "pool.name",
    ];
    let name = analysis.trace.spans.text(analysis.trace.span(wait), &keys);
    name.map_or_else(
        || target(analysis, wait, top),
        |it| crate::target::cut(it).to_owned(),
    )
}

fn finding(
    analysis: &Analysis<'_>,
    at: usize,
    pool: &str,
    waits: Vec<SpanIdx>,
    role: Role,
) -> Option<Finding> {
    let entry = &analysis.entries[at];
    let is_timeout = |it: &&SpanIdx| analysis.trace.span(**it).status == Status::Error;
    let timeouts = waits.iter().filter(is_timeout).count();
    let impact = impact(analysis, entry, &waits);
    let share = percent(impact.critical_ns, entry.duration_ns);
    let long = impact.critical_ns >= CRITICAL_NS_MIN && share >= CRITICAL_PERCENT_MIN;
    if !long && timeouts == 0 {
        return None;
    }
    let extent = Extent::of(analysis, &waits);
    let saved_ns = impact.removable_ns.min(entry.duration_ns);
    let severity = role.severity(saved_ns, entry.duration_ns);
    let meanwhile = own_calls_meanwhile(analysis, at, &waits);
    let mut reasons = vec!["no connection was opened meanwhile, as far as spans show".to_string()];
    if meanwhile > 0 {
        reasons.push(format!(
            "{meanwhile} database calls of the same request ran meanwhile: it competes with itself"
        ));
    }
    if timeouts > 0 {
        reasons.push(format!(
            "{timeouts} ended in an error, as when the pool gives up"
        ));
    }
    Some(Finding {
        title: match timeouts {
            0 => format!(
                "{} waiting for a connection of {pool}",
                duration(impact.critical_ns)
            ),
            _ => format!(
                "No connection of {pool} after {}",
                duration(longest_ns(analysis, &waits))
            ),
        },
        // A request that got none has failed, whatever its time.
        severity: match (role, timeouts) {
            (Role::Request, 1..) => severity.max(Severity::Warning),
            _ => severity,
        },
        confidence: if timeouts > 0 { 0.9 } else { 0.75 },
        reasons,
        call_path: call_path(analysis, at, waits[0]),
        code: evidence::code(analysis, waits[0], entry.span),
        target: Some(pool.to_string()),
        count: waits.len() as u32,
        window_ns: extent.window_ns,
        sum_ns: extent.sum_ns,
        saved_ns,
        explanation: format!(
            "{} waits {} for a connection of {pool}: {share} % of the request's {}. All connections of the pool are in use; \
             who holds them decides how long everybody else waits.",
            entry.endpoint,
            duration(impact.critical_ns),
            duration(entry.duration_ns),
        ),
        fix: fix(analysis.trace.span(waits[0]).name),
        offenders: waits,
        ..Finding::in_entry(DETECTOR.id, analysis, at, &[pool])
    })
}

fn longest_ns(analysis: &Analysis<'_>, waits: &[SpanIdx]) -> u64 {
    let durations = waits.iter().map(|it| analysis.trace.duration_ns(*it));
    durations.max().unwrap_or(0)
}

/// How many database calls of the entry itself ran during the longest of `waits`.
fn own_calls_meanwhile(analysis: &Analysis<'_>, entry: usize, waits: &[SpanIdx]) -> usize {
    let longest = waits
        .iter()
        .max_by_key(|it| analysis.trace.duration_ns(**it));
    let Some(longest) = longest else {
        return 0;
    };
    let wait = analysis.trace.node(*longest);
    let overlaps = analysis.calls.iter().filter(|it| {
        let node = analysis.trace.node(it.outer);
        let around = it.outer <= *longest && *longest < node.subtree_end;
        it.entry == Some(entry)
            && it.category == Category::Database
            && !around
            && node.start_ns < wait.end_ns
            && wait.start_ns < node.end_ns
    });
    overlaps.count()
}

fn fix(name: &str) -> String {
    let size = match name {
        it if it.contains("DataSource") => {
            "`maximumPoolSize` in HikariCP (and `leakDetectionThreshold` to find who never returns one)"
        }
        it if it.starts_with("pg-pool") => {
            "`max` of the `Pool` (and `client.release()` in a `finally`)"
        }
        it if it.starts_with("prisma") => "`connection_limit` in the connection string",
        it if it.starts_with("HTTP wait_for_connection") => {
            "`MaxConnectionsPerServer` of the `SocketsHttpHandler`"
        }
        "http.getconn" => "`MaxConnsPerHost` of the `http.Transport`",
        _ => "the pool's size",
    };
    format!(
        "First shorten how long connections are held: no calls to other services inside of a transaction, return \
         connections before rendering, no more parallel statements per request than the pool can serve. Only then raise {size}."
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const CART: &str = "
        shop  GET /cart                                            |---------------------------------------|
        shop    pool.acquire {db.system=postgresql, db.name=shop}  |------------------------|
        shop    SELECT cart                                                                 |--|
        ";

    #[test]
    fn the_statement_is_quick_and_the_wait_is_long() {
        check(
            ID,
            CART,
            expect![[r#"
            25 ms waiting for a connection of postgresql shop
              shop of 40 ms · critical, confidence 0.75: no connection was opened meanwhile, as far as spans show
              count 1, window 25 ms, sum 25 ms, saved 25 ms
              pool-wait shop "GET /cart" "postgresql shop"
              path: GET /cart
              explanation: GET /cart waits 25 ms for a connection of postgresql shop: 62 % of the request's 40 ms. All connections of the pool are in use; who holds them decides how long everybody else waits.
              fix: First shorten how long connections are held: no calls to other services inside of a transaction, return connections before rendering, no more parallel statements per request than the pool can serve. Only then raise the pool's size.
        "#]],
        );
    }

    #[test]
    fn a_timeout_is_reported_however_short() {
        let failed = "
            1 column = 4 ms
            shop  GET /cart                                        |-----------------------------------------------------------|
            shop    pg-pool.connect {db.system=postgresql, error}  |-|
            ";
        check(
            ID,
            failed,
            expect![[r#"
                No connection of postgresql after 8 ms
                  shop of 240 ms · warning, confidence 0.90: no connection was opened meanwhile, as far as spans show; 1 ended in an error, as when the pool gives up
                  count 1, window 8 ms, sum 8 ms, saved 8 ms
                  pool-wait shop "GET /cart" "postgresql"
                  path: GET /cart
                  explanation: GET /cart waits 8 ms for a connection of postgresql: 3 % of the request's 240 ms. All connections of the pool are in use; who holds them decides how long everybody else waits.
                  fix: First shorten how long connections are held: no calls to other services inside of a transaction, return connections before rendering, no more parallel statements per request than the pool can serve. Only then raise `max` of the `Pool` (and `client.release()` in a `finally`).
            "#]],
        );
        check_titles(
            ID,
            &changed(failed, "GET /cart", "rebuild [internal]"),
            expect![[r#"
                No connection of postgresql after 8 ms (info)
            "#]],
        );
    }

    #[test]
    fn a_request_may_compete_with_itself() {
        check_titles(
            ID,
            "
            shop  GET /cart                                |-----------------------------------------------------------|
            shop    SELECT a                               |---------------------------------------|
            shop    SELECT b                               |-----------------------------------------|
            shop    load                                   |------------------------------------------------------|
            shop      pool.acquire {db.system=postgresql}  |---------------------------------------|
            shop      SELECT c                                                                     |-----------|
            ",
            expect![[r#"
                40 ms waiting for a connection of postgresql (info)
            "#]],
        );
    }

    #[test]
    fn dotnets_clients_wait_for_a_host() {
        check_titles(
            ID,
            "
            shop  GET /cart                                    |---------------------------------------|
            shop    GET [client] {url.full=http://prices/all}  |----------------------------------|
            shop      HTTP wait_for_connection prices:80       |------------------------|
            ",
            expect![[r#"
                25 ms waiting for a connection of prices:80 (critical)
            "#]],
        );
    }

    #[test]
    fn opening_a_connection_is_no_queue() {
        check_silent(
            ID,
            "
            shop  GET /cart                                 |---------------------------------------|
            shop    pg-pool.connect {db.system=postgresql}  |------------------------|
            shop      pg.connect {db.system=postgresql}      |----------------------|
            shop    SELECT cart                                                      |--|
            ",
        );
    }

    #[test]
    fn a_hand_over_is_no_queue() {
        check_silent(
            ID,
            "
            shop  GET /cart                              |---------------------------------------|
            shop    pool.acquire {db.system=postgresql}  |--------|
            ",
        );
    }

    #[test]
    fn of_a_long_request_it_is_too_little() {
        check_silent(
            ID,
            "
            1 column = 10 ms
            shop  GET /cart                              |-----------------------------------------------------------|
            shop    pool.acquire {db.system=postgresql}  |-|
            ",
        );
    }

    #[test]
    fn beside_something_longer_nobody_waits_for_it() {
        check_silent(
            ID,
            "
            shop  GET /cart                                    |-----------------------------------------------------------|
            shop    GET [client] {url.full=http://prices/all}  |---------------------------------------------------------|
            shop    load                                       |---------------------------------------|
            shop      pool.acquire {db.system=postgresql}      |-----------------------------|
            ",
        );
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(ID, &changed(CART, "/cart", "/health"));
    }
}
