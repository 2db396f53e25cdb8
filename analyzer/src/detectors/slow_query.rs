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

use super::{Detect, Detector, n_plus_one_query, n_plus_one_write};
use crate::category::Category;
use crate::claims::Claimed;
use crate::finding::Finding;
use crate::history::{History, StatementHistory};
use crate::impact::{CriticalTime, impact, severity};
use crate::role::{Role, is_upkeep, role};
use crate::sql::{self, Fingerprint, StatementKind};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};
use std::collections::{BTreeMap, HashMap};

mod advice;
mod engine;
mod index;
mod smells;

use advice::Asked;

pub(super) const DETECTOR: Detector = Detector {
    id: "slow-query",
    title: "Slow query",
    explain: EXPLAIN,
    example: EXAMPLE,
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

const EXAMPLE: &str = "
shop  GET /search                                                           |----------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------|
shop    SELECT * FROM products WHERE name LIKE '%shoe%' ORDER BY rating       |--------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------|
";

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

/// At most so many statements of one trace are reported. Each costs a walk over its entry; a trace with
/// more has been understood by then.
const FINDINGS_MAX: usize = 32;

/// What a statement takes that an index serves: a few pages and a round trip, generously.
const SERVED_NS: u64 = 10_000_000;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let of_loops = [n_plus_one_query::DETECTOR.id, n_plus_one_write::DETECTOR.id];
    let in_loops = Claimed::by(&of_loops, findings);
    // By entry and statement: the same slow statement twice in a request is one culprit.
    let mut slow: BTreeMap<(usize, &str), Slow<'_>> = BTreeMap::new();
    let mut critical: HashMap<usize, CriticalTime> = HashMap::new();
    for call in &analysis.calls {
        if let (Some(entry), Some(statement)) = (call.entry, &call.statement)
            && is_slow(analysis, &mut critical, entry, call)
            && is_work(statement)
            && !in_loops.has(call.span)
        {
            let none = Slow {
                entry,
                statement,
                calls: Vec::new(),
            };
            let slow = slow.entry((entry, &statement.text)).or_insert(none);
            slow.calls.push(call);
        }
    }
    let start_ns = |it: &&Call| analysis.trace.node(it.outer).start_ns;
    let slow = slow.into_values().map(|mut slow| {
        slow.calls.sort_by_key(start_ns);
        slow
    });
    for slow in slow.take(FINDINGS_MAX) {
        let role = role(analysis, slow.entry);
        if role != Role::Upkeep {
            findings.push(finding(analysis, &slow, role));
        }
    }
}

/// A statement and the slow calls of it in one entry, at least one, in order of start.
struct Slow<'b> {
    entry: usize,
    statement: &'b Fingerprint,
    calls: Vec<&'b Call>,
}

/// A statement that is meant to be quick.
fn is_work(statement: &Fingerprint) -> bool {
    let keeping = [
        StatementKind::Transaction,
        StatementKind::Session,
        StatementKind::Ddl,
    ];
    !keeping.contains(&statement.kind) && !waits_on_purpose(&statement.text)
}

fn waits_on_purpose(text: &str) -> bool {
    let waits = [
        "pg_sleep",
        "sleep(",
        "waitfor ",
        "benchmark(",
        "dbms_lock.sleep",
        "get_lock(",
    ];
    waits.iter().any(|it| text.contains(it)) || waits_for_messages(text)
}

/// Redis' commands that wait until somebody else adds something.
fn waits_for_messages(text: &str) -> bool {
    const WAITING: &[&str] = &[
        "blpop",
        "brpop",
        "brpoplpush",
        "blmove",
        "blmpop",
        "bzpopmin",
        "bzpopmax",
        "bzmpop",
        "subscribe",
        "psubscribe",
        "ssubscribe",
        "wait",
        "waitaof",
    ];
    let mut words = text.split_ascii_whitespace();
    let command = words.next().unwrap_or("");
    let is = |it: &&str| command.eq_ignore_ascii_case(it);
    WAITING.iter().any(&is)
        || ["xread", "xreadgroup"].iter().any(is)
            && words.any(|it| it.eq_ignore_ascii_case("block"))
}

/// The cheap questions first: most calls are quick.
fn is_slow(
    analysis: &Analysis<'_>,
    critical: &mut HashMap<usize, CriticalTime>,
    at: usize,
    call: &Call,
) -> bool {
    if analysis.trace.duration_ns(call.outer) < DOMINANT_NS {
        return false;
    }
    let own_ns = own_ns(analysis, call);
    if !(DOMINANT_NS..SLOW_NS).contains(&own_ns) {
        return own_ns >= SLOW_NS;
    }
    let entry = &analysis.entries[at];
    let critical = critical
        .entry(at)
        .or_insert_with(|| CriticalTime::of(entry));
    let critical_ns = critical.of_subtree(analysis, call.outer);
    percent(critical_ns, entry.duration_ns) >= DOMINANT_PERCENT
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

fn finding(analysis: &Analysis<'_>, slow: &Slow<'_>, role: Role) -> Finding {
    let Slow {
        entry: at,
        statement,
        calls,
    } = slow;
    let at = *at;
    let entry = &analysis.entries[at];
    let outer: Vec<SpanIdx> = calls.iter().map(|it| it.outer).collect();
    let impact = impact(analysis, entry, &outer);
    let served_ns = SERVED_NS * calls.len() as u64;
    let saved_ns = impact
        .removable_ns
        .saturating_sub(served_ns)
        .min(entry.duration_ns);
    let worst_ns = calls
        .iter()
        .map(|it| own_ns(analysis, it))
        .max()
        .unwrap_or(0);
    let call = calls[0];
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let system = spans
        .text(span, &["db.system.name", "db.system"])
        .unwrap_or("");
    let raw = spans
        .text(span, &["db.query.text", "db.statement"])
        .unwrap_or("");
    let advice = advice::advice(&Asked {
        statement,
        system,
        raw,
        rows: returned_rows(analysis, calls),
    });
    let times = if calls.len() == 1 {
        String::new()
    } else {
        format!("{} × ", calls.len())
    };
    let indices: Vec<usize> = (0..analysis.calls.len())
        .filter(|it| outer.contains(&analysis.calls[*it].outer))
        .collect();
    Finding {
        title: format!(
            "{times}{} takes {}",
            statement.summary(),
            duration(worst_ns)
        ),
        severity: role.severity(saved_ns, entry.duration_ns),
        confidence: if statement.truncated { 0.7 } else { 0.9 },
        reasons: reasons(worst_ns, statement),
        statement: Some(statement.text.clone()),
        target: statement.tables.first().cloned(),
        saved_ns,
        explanation: format!(
            "{} waits {} for {}: {} % of the request's {}. {}",
            entry.endpoint,
            duration(impact.critical_ns),
            statement.summary(),
            percent(impact.critical_ns, entry.duration_ns),
            duration(entry.duration_ns),
            ESTIMATE,
        ),
        fix: advice.fix,
        fix_code: advice.fix_code,
        ..Finding::in_calls(DETECTOR.id, analysis, at, &indices, &[&statement.text])
    }
}

/// The most rows that one of `calls` returned, if their sender says so.
fn returned_rows(analysis: &Analysis<'_>, calls: &[&Call]) -> Option<u64> {
    let spans = &analysis.trace.spans;
    let rows = calls.iter().filter_map(|it| {
        let span = analysis.trace.span(it.span);
        let rows = spans
            .first_of(span, &["db.response.returned_rows"])?
            .as_int()?;
        u64::try_from(rows).ok()
    });
    rows.max()
}

/// What the text of a statement suggests to somebody who finds it slow: candidates, not results.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suggested {
    /// One paragraph.
    pub fix: String,
    /// As SQL, if it can be written without inventing names.
    pub fix_code: Option<String>,
}

/// What the normalised `text` of a statement suggests; `rows` that a call returned at most, if that is known.
/// `None` of statements that are no work by themselves, such as `commit` or `select pg_sleep(?)`.
pub fn suggested(text: &str, system: &str, rows: Option<u64>) -> Option<Suggested> {
    let statement = sql::fingerprint(text, system);
    if !is_work(&statement) {
        return None;
    }
    let advice = advice::advice(&Asked {
        statement: &statement,
        system,
        raw: "",
        rows,
    });
    Some(Suggested {
        fix: advice.fix,
        fix_code: advice.fix_code,
    })
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
    let advice = advice::advice(&Asked {
        statement: fingerprint,
        system: &statement.system,
        raw: "",
        rows: None,
    });
    Finding {
        detector: DETECTOR.id,
        fingerprint: fingerprint_of(&history.service, &history.endpoint, &statement.text),
        title: format!(
            "{} takes {} at p95",
            fingerprint.summary(),
            duration(p95_ns)
        ),
        severity: severity(saved_ns, typical_ns.max(saved_ns)),
        confidence: 0.95,
        reasons: vec![format!(
            "its p95 over {calls} calls is {}",
            duration(p95_ns)
        )],
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
        fix: advice.fix,
        fix_code: advice.fix_code,
        framework: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    use crate::finding::Finding;
    use crate::history::{History, StatementHistory};
    use crate::sketch::Sketch;

    const ID: &str = DETECTOR.id;

    #[test]
    fn a_statement_alone_suggests_what_its_finding_would() {
        let text = "select total from orders where customer_id = ? and state = ?";
        let suggested = super::suggested(text, "postgresql", None).unwrap();
        assert_eq!(
            suggested.fix_code.as_deref(),
            Some("create index concurrently on orders (customer_id, state) include (total);"),
            "{}",
            suggested.fix
        );
        assert_eq!(super::suggested("commit", "postgresql", None), None);
        assert_eq!(
            super::suggested("select pg_sleep(?)", "postgresql", None),
            None
        );
        let many = super::suggested("select * from orders", "postgresql", Some(50_000)).unwrap();
        assert!(many.fix.contains("50000 rows"), "{}", many.fix);
    }

    #[test]
    fn most_of_the_request() {
        check(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /search {http.route=/search, http.request.method=GET}                                      |-----------------------------------------|
            shop    SELECT products {db.query.text="SELECT * FROM products WHERE name ILIKE '%lamp%' LIMIT 20"}    |-------------------------------------|
            "#,
            expect![[r#"
                select products takes 380 ms
                  shop of 420 ms · critical, confidence 0.90: it is more than half of what the request waited for
                  count 1, window 380 ms, sum 380 ms, saved 370 ms
                  slow-query shop "GET /search" "select * from products where name ilike ? limit ?"
                  path: GET /search
                  parameters: '…', 20
                  explanation: GET /search waits 380 ms for select products: 90 % of the request's 420 ms. The saving assumes that the statement can be brought to 10 ms; whether it can, its plan will tell.
                  fix: The pattern for name begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does. These are candidates read off its text: check with EXPLAIN (ANALYZE, BUFFERS).
                  fix code: create extension if not exists pg_trgm;
                create index concurrently on products using gin (name gin_trgm_ops);
            "#]],
        );
    }

    #[test]
    fn slow_by_any_measure_though_not_most_of_it() {
        check_titles(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /search                                                      |---------------------------------------------------|
            shop    render [internal]                                              |-----------------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}                                |--------------------|
            "#,
            expect![[r#"
                select t takes 1.1 s (critical)
            "#]],
        );
    }

    #[test]
    fn twice_in_a_request_is_one_culprit() {
        check_titles(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /search                                                      |-----------------------------------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |---------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}                         |----------------------|
            "#,
            expect![[r#"
                2 × select t takes 1.2 s (critical)
            "#]],
        );
    }

    #[test]
    fn a_good_part_is_not_most() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /search                                                      |-----------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----|
            "#,
        );
    }

    #[test]
    fn quick_is_silent_even_if_it_is_most() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /search                                                      |-----------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----------------------|
            "#,
        );
    }

    #[test]
    fn beside_something_longer_it_does_not_matter_yet() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /search                                                      |-----------------|
            shop    GET recommend/x {server.address=recommend}                     |-----------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----------|
            "#,
        );
    }

    #[test]
    fn waiting_for_a_connection_is_not_the_statement() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /search                                                      |------------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----------------------|
            shop      pool.acquire                                                 |-----------------------|
            "#,
        );
    }

    #[test]
    fn schema_changes_take_their_time() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  POST /x                                                    |------------------------|
            shop    SELECT products {db.query.text="create index on t (a)"}  |-----------------------|
            "#,
        );
    }

    #[test]
    fn waiting_on_purpose_is_silent() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  POST /x                                                 |------------------------|
            shop    SELECT products {db.query.text="select pg_sleep(2)"}  |-----------------------|
            "#,
        );
    }

    #[test]
    fn transaction_control_is_silent() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  POST /x                                     |------------------------|
            shop    SELECT products {db.query.text="commit"}  |-----------------------|
            "#,
        );
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /health                                                      |------------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----------------------|
            "#,
        );
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            r#"
            1 column = 50 ms
            shop  report [internal]                                                |------------------------|
            shop    SELECT products {db.query.text="select a from t where b = ?"}  |-----------------------|
            "#,
            expect![[r#"
                select t takes 1.2 s (info)
            "#]],
        );
    }

    #[test]
    fn part_of_a_loop_is_reported_there() {
        check_silent(
            ID,
            r#"
            1 column = 50 ms
            shop  GET /posts                                                              |-------------------------------|
            shop    SELECT products {db.query.text="select * from authors where id = 0"}  |-----|
            shop    SELECT products {db.query.text="select * from authors where id = 1"}        |-----|
            shop    SELECT products {db.query.text="select * from authors where id = 2"}              |-----|
            shop    SELECT products {db.query.text="select * from authors where id = 3"}                    |-----|
            shop    SELECT products {db.query.text="select * from authors where id = 4"}                          |-----|
            "#,
        );
    }

    /// One statement at `GET /search`, all calls of one duration.
    fn history(text: &str, calls: i64, ms: u64) -> History {
        let mut latency = Sketch::default();
        latency.record(ms * 1_000_000, calls);
        let statement = StatementHistory {
            text: text.into(),
            system: "postgresql".into(),
            critical_ns: latency.quantile(0.5).unwrap_or(0) as i64 * calls,
            latency: latency.clone(),
        };
        History {
            service: "shop".into(),
            endpoint: "GET /search".into(),
            requests: calls,
            latency,
            statements: vec![statement],
            ..History::default()
        }
    }

    fn review(history: &History) -> Vec<Finding> {
        let mut findings = Vec::new();
        super::review(&mut findings, history);
        findings
    }

    #[test]
    fn over_time_the_slow_twentieth_counts() {
        let text = "select * from products where name ilike ? limit ?";
        let found = review(&history(text, 40, 600));
        let [it] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(it.title, "select products takes 605 ms at p95");
        assert_eq!(
            it.fingerprint,
            r#"slow-query shop "GET /search" "select * from products where name ilike ? limit ?""#
        );
        assert_eq!(
            (it.severity, it.count),
            (crate::finding::Severity::Critical, 40)
        );
        assert!(
            (585..600).contains(&(it.saved_ns / 1_000_000)),
            "{}",
            it.saved_ns
        );
    }

    #[test]
    fn waiting_for_messages_is_no_slow_query() {
        for (command, waits) in [
            ("BLPOP jobs 5", true),
            ("BRPOPLPUSH jobs work 5", true),
            ("XREAD BLOCK 5000 STREAMS orders $", true),
            ("XREAD COUNT 5000 STREAMS orders 0", false),
            ("LRANGE jobs 0 -1", false),
        ] {
            let drawn = format!(
                "
                1 column = 100 ms
                shop  GET /next                                                           |------------------------|
                shop    {} [client] {{db.system=redis, db.statement=\"{command}\"}}   |-----------------------|
                ",
                command.split(' ').next().unwrap_or("")
            );
            let found = super::super::tests::findings(&drawn).contains(&ID);
            assert_eq!(found, !waits, "{command}");
        }
    }

    #[test]
    fn over_time_few_quick_and_deliberate_ones_are_silent() {
        assert_eq!(review(&history("select a from t", 19, 600)), []);
        assert_eq!(review(&history("select a from t", 1_000, 480)), []);
        assert_eq!(review(&history("select pg_sleep(?)", 40, 600)), []);
        assert_eq!(review(&History::default()), []);
        let upkeep = History {
            endpoint: "GET /health".into(),
            ..history("select a from t", 40, 600)
        };
        assert_eq!(review(&upkeep), []);
    }

    /// The two must unite: one culprit, seen first in a trace and then in the windows.
    #[test]
    fn in_a_trace_and_over_time_the_culprit_is_the_same() {
        let drawing = crate::drawing::parse(&format!(
            "shop  GET /search  |{}|\nshop    SELECT t  |{}|",
            "-".repeat(1_250),
            "-".repeat(1_200),
        ));
        let analysis = crate::analyze(drawing.spans(), &crate::Settings::default());
        let in_trace = analysis
            .findings
            .iter()
            .find(|it| it.detector == ID)
            .unwrap();
        let text = in_trace.statement.as_deref().unwrap();
        assert_eq!(
            review(&history(text, 40, 600))[0].fingerprint,
            in_trace.fingerprint
        );
    }
}
