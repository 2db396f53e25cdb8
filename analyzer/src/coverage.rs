//! What could not be seen, so that silence is never mistaken for health.
//!
//! Counted for every trace; [`Coverage::notes`] says it in sentences and names the detectors that are
//! blind because of it.

use crate::call::has_target;
use crate::category::Category;
use crate::facts::Facts;
use crate::trace::{Oddities, Trace};
use crate::wording::percent;
use crate::{Call, Entry, detectors};

/// What could not be seen in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Spans in the trace.
    pub spans: u32,
    /// Spans whose parent is missing.
    pub orphans: u32,
    /// Database calls.
    pub database_calls: u32,
    /// Database calls that should have a statement and have none.
    pub without_statement: u32,
    /// Statements that were cut off by their sender.
    pub truncated_statements: u32,
    /// Statements with placeholders: what they were asked with is not in their text.
    pub without_parameters: u32,
    /// Outgoing HTTP or RPC calls.
    pub outbound_calls: u32,
    /// Outgoing calls without URL, host or RPC method.
    pub without_target: u32,
    /// Requests, jobs and messages.
    pub entries: u32,
    /// Of them, those in which nothing but the framework was instrumented.
    pub uninstrumented_entries: u32,
    /// Of them, those that stand for more than one, because of sampling.
    pub sampled_entries: u32,
    /// Spans that wait for a connection of a pool.
    pub pool_spans: u32,
    /// Spans that open a connection.
    pub connect_spans: u32,
    /// Spans that encode, decode or render.
    pub serialization_spans: u32,
    /// What was odd about the spans.
    pub oddities: Oddities,
}

/// What could not be seen in `trace` and its `calls`. `categories` stand beside the spans.
pub(crate) fn coverage(
    trace: &Trace<'_>,
    categories: &[Category],
    entries: &[Entry<'_>],
    calls: &[Call],
) -> Coverage {
    let mut coverage = Coverage {
        spans: trace.nodes.len() as u32,
        orphans: trace.nodes.iter().filter(|it| it.orphan).count() as u32,
        entries: entries.len() as u32,
        sampled_entries: entries.iter().filter(|it| it.weight > 1).count() as u32,
        oddities: trace.oddities,
        ..Coverage::default()
    };
    let mut by_category = [0_u32; Category::COUNT];
    for category in categories {
        by_category[*category as usize] += 1;
    }
    coverage.uninstrumented_entries = by_category[Category::Unattributed as usize];
    coverage.pool_spans = by_category[Category::PoolWait as usize];
    coverage.connect_spans = by_category[Category::Connect as usize];
    coverage.serialization_spans = by_category[Category::Serialization as usize];
    for call in calls {
        coverage.count(trace, call);
    }
    coverage
}

impl Coverage {
    fn count(&mut self, trace: &Trace<'_>, call: &Call) {
        match call.category {
            Category::Database => {
                self.database_calls += 1;
                let gap = statement_gap(call);
                self.without_statement += u32::from(gap == StatementGap::Missing);
                self.truncated_statements += u32::from(gap == StatementGap::Truncated);
                let statement = call.statement.as_ref();
                self.without_parameters +=
                    u32::from(statement.is_some_and(|it| it.had_placeholders));
            }
            Category::External | Category::Logging => {
                self.outbound_calls += 1;
                self.without_target += u32::from(lacks_target(trace, call));
            }
            _ => {}
        }
    }

    /// Adds what could not be seen in another trace. Sums saturate.
    pub fn add(&mut self, other: &Coverage) {
        let add = |sum: &mut u32, more: u32| *sum = sum.saturating_add(more);
        add(&mut self.spans, other.spans);
        add(&mut self.orphans, other.orphans);
        add(&mut self.database_calls, other.database_calls);
        add(&mut self.without_statement, other.without_statement);
        add(&mut self.truncated_statements, other.truncated_statements);
        add(&mut self.without_parameters, other.without_parameters);
        add(&mut self.outbound_calls, other.outbound_calls);
        add(&mut self.without_target, other.without_target);
        add(&mut self.entries, other.entries);
        add(
            &mut self.uninstrumented_entries,
            other.uninstrumented_entries,
        );
        add(&mut self.sampled_entries, other.sampled_entries);
        add(&mut self.pool_spans, other.pool_spans);
        add(&mut self.connect_spans, other.connect_spans);
        add(&mut self.serialization_spans, other.serialization_spans);
        let (odd, more) = (&mut self.oddities, &other.oddities);
        add(&mut odd.versions, more.versions);
        add(&mut odd.cycles, more.cycles);
        add(&mut odd.times, more.times);
        add(&mut odd.shifted, more.shifted);
        add(&mut odd.not_shifted, more.not_shifted);
    }

    /// In sentences: what is missing, how much of it, and which detectors see less because of it. Empty if
    /// nothing is.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |count: u32, of: u32, what: &str, blind: &[&str], effect: &str| {
            if count > 0 {
                let share = percent(u64::from(count), u64::from(of)).max(1);
                let who = named(blind);
                notes.push(format!(
                    "{share} % of {what} ({count} of {of}): {who}{effect}."
                ));
            }
        };
        let (database, outbound, spans) = (self.database_calls, self.outbound_calls, self.spans);
        let (of_statements, of_targets): (&[&str], &[&str]) = (
            &["n-plus-one-", "duplicate-", "slow-query"],
            &[
                "n-plus-one-",
                "duplicate-",
                "remote-logging",
                "serial-calls",
            ],
        );
        note(
            self.without_statement,
            database,
            "database calls carry no statement",
            of_statements,
            "know only the names of such calls",
        );
        note(
            self.truncated_statements,
            database,
            "database calls have a statement that was cut off",
            of_statements,
            "cannot tell those that differ at their ends",
        );
        note(
            self.without_parameters,
            database,
            "database calls have placeholders in their statements",
            &["duplicate-", "serial-calls"],
            "see what was asked for only if parameters are sent as attributes",
        );
        note(
            self.without_target,
            outbound,
            "outgoing calls name neither URL nor host nor method",
            of_targets,
            "do not know what they call",
        );
        let mut odd = |count, of, what, effect| note(count, of, what, &[], effect);
        odd(
            self.orphans,
            spans,
            "spans name a parent that has not arrived",
            "every detector may miss calls, for their time is in no request",
        );
        odd(
            self.uninstrumented_entries,
            self.entries,
            "requests report nothing but their framework's span",
            "no detector sees what they call",
        );
        odd(
            self.sampled_entries,
            self.entries,
            "requests stand for several, because of sampling",
            "counts are estimates, and rare problems may be missing",
        );
        odd(
            self.oddities.not_shifted,
            spans,
            "spans come from a clock that is off by more than 1 s",
            "the critical path is wrong around them",
        );
        odd(
            self.oddities.shifted,
            spans,
            "spans were moved, because their clock is off",
            "how network time divides around them is a guess",
        );
        odd(
            self.oddities.times,
            spans,
            "spans never ended or have impossible times",
            "their durations are not what they were",
        );
        odd(
            self.oddities.versions,
            spans,
            "spans arrived with different contents",
            "the version that ends last was analysed",
        );
        odd(
            self.oddities.cycles,
            spans,
            "spans were their own ancestors",
            "they are shown as roots, away from their callers",
        );
        if self.database_calls > 0 && self.pool_spans == 0 {
            notes.push(
                "No span tells whether a connection was waited for: pool-wait is blind here."
                    .into(),
            );
        }
        if self.database_calls + self.outbound_calls > 0 && self.connect_spans == 0 {
            notes.push("No span opens a connection: either none was opened, or connection-per-request is blind here.".into());
        }
        notes
    }
}

/// The detectors whose ids begin like `ids`, for the beginning of a sentence about them.
fn named(ids: &[&str]) -> String {
    let known = detectors::ALL.iter().map(|it| it.id);
    let named: Vec<&str> = known
        .filter(|id| ids.iter().any(|it| id.starts_with(it)))
        .collect();
    match named.len() {
        0 => String::new(),
        _ => format!("{} ", named.join(", ")),
    }
}

/// What a database call lacks of its statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatementGap {
    None,
    Missing,
    Truncated,
}

pub(crate) fn statement_gap(call: &Call) -> StatementGap {
    match &call.statement {
        Some(statement) if statement.truncated => StatementGap::Truncated,
        Some(_) => StatementGap::None,
        None if needs_statement(&call.name) => StatementGap::Missing,
        None => StatementGap::None,
    }
}

/// Transaction control, pings and the like say all there is with their name.
fn needs_statement(name: &str) -> bool {
    const COMPLETE: &[&str] = &[
        "begin",
        "commit",
        "rollback",
        "savepoint",
        "release",
        "ping",
        "connect",
        "close",
        "sql.conn.begin_tx",
        "sql.conn.ping",
        "sql.conn.reset_session",
        "sql.tx.",
        "transaction",
        "start transaction",
        "set",
        "use",
    ];
    let is = |it: &&str| -> bool {
        let begins = name
            .get(..it.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(it));
        // `set` but not `settings`.
        begins
            && !name[it.len()..]
                .starts_with(|next: char| next.is_alphanumeric() && !it.ends_with('.'))
    };
    !COMPLETE.iter().any(is)
}

pub(crate) fn lacks_target(trace: &Trace<'_>, call: &Call) -> bool {
    !has_target(&Facts::of(&trace.spans, trace.span(call.span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, analyze, drawing};
    use expect_test::{Expect, expect};

    fn check(drawn: &str, expected: Expect) {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        let mut notes = analysis.coverage.notes().join("\n");
        notes.push('\n');
        // Which detectors of repeated calls there are is not the question here.
        let repeats = ["n-plus-one-", "duplicate-"];
        for it in detectors::ALL
            .iter()
            .filter(|it| repeats.iter().any(|id| it.id.starts_with(id)))
        {
            notes = notes.replace(&format!("{}, ", it.id), "");
        }
        expected.assert_eq(&notes);
    }

    #[test]
    fn what_is_missing_is_said_with_who_is_blind() {
        check(
            r#"
            shop  GET /cart {res.host.name=a} {tracestate="ot=th:8"}                  |--------------------|
            shop    query [client] {db.system=mysql}                                  |--|
            shop    SELECT a {db.query.text="select * from a where id = ?"}              |--|
            shop    SELECT b {db.query.text="select * from b where name = 'x"}              |--|
            shop    COMMIT [client] {db.system=mysql, db.query.text=""}                        ||
            shop    call [client]                                                                 |---|
            shop    lost {orphan}                                                                 |---|
            "#,
            expect![[r#"
                25 % of database calls carry no statement (1 of 4): slow-query know only the names of such calls.
                25 % of database calls have a statement that was cut off (1 of 4): slow-query cannot tell those that differ at their ends.
                25 % of database calls have placeholders in their statements (1 of 4): serial-calls see what was asked for only if parameters are sent as attributes.
                100 % of outgoing calls name neither URL nor host nor method (1 of 1): remote-logging, serial-calls do not know what they call.
                14 % of spans name a parent that has not arrived (1 of 7): every detector may miss calls, for their time is in no request.
                100 % of requests stand for several, because of sampling (1 of 1): counts are estimates, and rare problems may be missing.
                No span tells whether a connection was waited for: pool-wait is blind here.
                No span opens a connection: either none was opened, or connection-per-request is blind here.
            "#]],
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_is_missing() {
        let drawing = drawing::parse(
            r#"
            shop  GET /cart  |--------------------|
            shop    render   |--|
            "#,
        );
        let analysis = analyze(drawing.spans(), &Settings::default());
        assert_eq!(analysis.coverage.notes(), Vec::<String>::new());
        assert_eq!(Coverage::default().notes(), Vec::<String>::new());
    }

    #[test]
    fn clocks_are_counted() {
        check(
            "
            shop      GET / {res.host.name=a}               |----------------|
            shop        call [client] {server.address=b}       |-----------|
            payments      serve {res.host.name=b}         |-------|
            ",
            expect![[r#"
                33 % of spans were moved, because their clock is off (1 of 3): how network time divides around them is a guess.
                No span opens a connection: either none was opened, or connection-per-request is blind here.
            "#]],
        );
    }

    #[test]
    fn many_traces_add_up() {
        let drawing = drawing::parse(
            r#"
            shop      GET / {res.host.name=a} {tracestate="ot=th:8"}  |----------------|
            shop        call [client] {server.address=b}                 |-----------|
            payments      serve {res.host.name=b}                     |-------|
            shop        lost {orphan}                                      |--|
            "#,
        );
        let one = analyze(drawing.spans(), &Settings::default()).coverage;
        let mut sum = one;
        sum.add(&one);
        assert_eq!((sum.spans, sum.orphans, sum.outbound_calls), (8, 2, 2));
        assert_eq!(sum.oddities.shifted, 2 * one.oddities.shifted);
        assert_eq!(sum.sampled_entries, 2 * one.sampled_entries);
        assert!(one.oddities.shifted > 0 && one.sampled_entries > 0);
        sum.add(&Coverage {
            spans: u32::MAX,
            ..Coverage::default()
        });
        assert_eq!(sum.spans, u32::MAX);
    }

    #[test]
    fn transaction_control_needs_no_statement() {
        for name in ["COMMIT", "sql.tx.commit", "commit", "BEGIN", "ping"] {
            assert!(!needs_statement(name), "{name}");
        }
        for name in [
            "shop",
            "settings",
            "SELECT shop.items",
            "beginners",
            "query",
        ] {
            assert!(needs_statement(name), "{name}");
        }
    }
}
