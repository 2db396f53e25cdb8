//! The same question asked again, when nothing can have changed the answer.
//!
//! ```text
//! shop  GET /cart                                 |---------------------|
//! shop    select * from users where id = 17       |---|
//! shop    select * from carts where owner = 17         |---|
//! shop    select * from users where id = 17                 |---|      as above
//! shop    update users set seen = …                              |-|
//! shop    select * from users where id = 17                         |---|   may differ
//! ```
//!
//! Only what can be seen counts: statements and URLs whose parameters are shown and equal.

use super::{Detect, Detector, LOOPS};
use crate::category::Category;
use crate::claims::Claimed;
use crate::evidence::{self, Asked, Parameters};
use crate::facts::Facts;
use crate::finding::Finding;
use crate::framework::library;
use crate::groups::Extent;
use crate::impact::impact;
use crate::loops::{Sure, Told, statement_text, summary};
use crate::role::{Role, role};
use crate::seeded_hash::Seeded;
use crate::sql::{Fingerprint, StatementKind};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent, times};
use crate::{Analysis, Call, Settings};
use std::collections::BTreeMap;
use std::hash::BuildHasher;

pub(super) const DETECTOR: Detector = Detector {
    id: "duplicate-call",
    title: "Duplicate calls",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
One request asks the same question more than once: the same query with the same parameters, or a GET of the same URL, \
with nothing written in between that could change the answer. Typical are the current user, the tenant's settings and \
feature flags, which every layer loads for itself.

Every repetition pays for the full round trip and is work for the database or the callee that nobody needs.

Fix it by asking once and passing the answer on, or by remembering it for the length of the request: in the request's \
object, a request-scoped service, a memoized method or the mapper's identity map.

How it is found: at least 2 calls of one entry with the same normalised statement or URL template and with visible, \
equal parameters, and in between no write to the same tables and no other request than GET to the same host. The later \
ones must take at least 10 ms or a tenth of the request, or be at least 20. The time saved is theirs on the critical path.

When it is wrong: somebody else may have changed the data, and the second look may be meant to see that. Locking reads, \
sequences, polling and failed calls are left out. If the sender hides parameters, which is the default of most, nothing \
is said: then the calls may differ, and if they are many they are reported as N+1.";

const EXAMPLE: &str = "
shop  GET /account                                                           |----------------------------------------------------------|
shop    SELECT users {db.query.text=\"SELECT * FROM users WHERE id = 17\"}       |----------|
shop    SELECT carts {db.query.text=\"SELECT * FROM carts WHERE owner = 17\"}                 |--------|
shop    SELECT users {db.query.text=\"SELECT * FROM users WHERE id = 17\"}                                |----------|
shop    SELECT users {db.query.text=\"SELECT * FROM users WHERE id = 17\"}                                               |----------|
";

/// The later ones must take so long…
const LATER_NS_MIN: u64 = 10_000_000;
/// …or be this much of the request…
const LATER_PERCENT_MIN: u64 = 10;
/// …or be so many that it is certainly a mistake.
const LATER_CERTAIN: usize = 20;

/// At most so many findings of one trace: each costs a walk over its entry, and nobody reads more.
const FINDINGS_MAX: usize = 32;

/// At most so many different questions of one statement are told apart; further ones are taken for new. A
/// statement with more is a loop, and claimed as one.
const QUESTIONS_MAX: usize = 1_000;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let claimed = Claimed::by(&LOOPS, findings);
    let mut changes = Changes::default();
    let mut reported = 0;
    for calls in repeated(analysis, &claimed) {
        let again = asked_again(analysis, &calls, &mut changes);
        let Some(entry) = calls.first().and_then(|it| analysis.calls[*it].entry) else {
            continue;
        };
        if !matters(analysis, entry, &again.later) || role(analysis, entry) == Role::Upkeep {
            continue;
        }
        findings.push(finding(analysis, entry, &again));
        reported += 1;
        if reported == FINDINGS_MAX {
            return;
        }
    }
}

/// Calls of one entry and key that could be worth a finding, in order of entry and first call.
fn repeated(analysis: &Analysis<'_>, claimed: &Claimed) -> Vec<Vec<usize>> {
    let seeded = Seeded::default();
    let asks = |call: &Call| asks(call) && !claimed.has(call.span);
    let mut asked: Vec<(usize, u64, usize)> = Vec::new();
    for (at, call) in analysis.calls.iter().enumerate() {
        if let Some(entry) = call.entry.filter(|_| asks(call)) {
            asked.push((entry, seeded.hash_one(&*call.key), at));
        }
    }
    asked.sort_unstable();
    let same = asked.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    let mut repeated: Vec<Vec<usize>> = same
        .filter(|it| it.len() > 1 && is_worth_a_look(analysis, it))
        .map(|it| it.iter().map(|it| it.2).collect())
        .collect();
    repeated.sort_unstable_by_key(|it| (analysis.calls[it[0]].entry, it[0]));
    repeated
}

/// A question by its looks: reading its parameters comes later.
fn asks(call: &Call) -> bool {
    match (&call.statement, call.category) {
        (Some(statement), Category::Database) => {
            statement.kind == StatementKind::Select
                && !statement.truncated
                && !writes_beside(statement)
        }
        (None, Category::External) => true,
        _ => false,
    }
}

/// With parameters that are shown, and long enough, if all of it were for nothing. `calls` are indices of
/// calls, with their entry in front.
fn is_worth_a_look(analysis: &Analysis<'_>, calls: &[(usize, u64, usize)]) -> bool {
    let (entry, _, first) = calls[0];
    if evidence::asked_for(analysis, &analysis.calls[first]).is_none() {
        return false;
    }
    let durations = calls.iter().map(|it| {
        let outer = analysis.calls[it.2].outer;
        analysis.trace.duration_ns(outer)
    });
    let sum_ns = durations.fold(0_u64, u64::saturating_add);
    calls.len() > LATER_CERTAIN
        || sum_ns >= LATER_NS_MIN
        || percent(sum_ns, analysis.entries[entry].duration_ns) >= LATER_PERCENT_MIN
}

/// Calls whose answer was known, and those that had asked for it.
#[derive(Default)]
struct Again {
    /// All of them, in order of start.
    calls: Vec<usize>,
    /// Those whose answer was known, in order of start.
    later: Vec<usize>,
    /// How many different questions they are.
    questions: usize,
}

/// What is asked, and of which of several databases with the same tables: shards, or one for each tenant.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Question<'a> {
    asked: Asked<'a>,
    /// Server, port and name, as far as they are told; of a request, its key says where it goes.
    database: (&'a str, Option<i64>, &'a str),
}

fn database<'a>(analysis: &Analysis<'a>, call: &Call) -> (&'a str, Option<i64>, &'a str) {
    if call.statement.is_none() {
        return ("", None, "");
    }
    let facts = Facts::of(&analysis.trace.spans, analysis.trace.span(call.span));
    (facts.address, facts.port, facts.db_namespace)
}

/// Which of `calls`, of one entry and key, ask again.
fn asked_again<'b>(
    analysis: &'b Analysis<'_>,
    calls: &[usize],
    changes: &mut Changes<'b>,
) -> Again {
    let mut by_question: BTreeMap<Question<'_>, Vec<usize>> = BTreeMap::new();
    for at in calls {
        let call = &analysis.calls[*at];
        let asked = evidence::asked_for(analysis, call).filter(|it| it.complete);
        let Some(asked) = asked.filter(|_| is_question(analysis, call)) else {
            continue;
        };
        let question = Question {
            asked,
            database: database(analysis, call),
        };
        if by_question.len() < QUESTIONS_MAX || by_question.contains_key(&question) {
            by_question.entry(question).or_default().push(*at);
        }
    }
    let mut again = Again::default();
    for mut calls in by_question.into_values().filter(|it| it.len() > 1) {
        calls.sort_by_key(|it| (start_ns(analysis, *it), *it));
        if is_polling(analysis, &calls) {
            continue;
        }
        let runs = calls.chunk_by(|a, b| !changes.between(analysis, *a, *b));
        let mut repeats = false;
        for run in runs.filter(|it| it.len() > 1) {
            again.calls.extend(run);
            again.later.extend(&run[1..]);
            repeats = true;
        }
        again.questions += usize::from(repeats);
    }
    for calls in [&mut again.calls, &mut again.later] {
        calls.sort_by_key(|it| (start_ns(analysis, *it), *it));
    }
    again
}

fn is_question(analysis: &Analysis<'_>, call: &Call) -> bool {
    let locks_or_counts = |text: &str| {
        let parts = [
            " for update",
            " for share",
            " for no key",
            " for key share",
            "nextval(",
            "lock(",
            "random(",
            "rand(",
            "uuid",
            "clock_timestamp(",
            "sleep(",
            "found_rows(",
            "last_insert",
            "currval(",
        ];
        parts.iter().any(|it| text.contains(it))
    };
    let statement = call.statement.as_ref();
    !call.failed
        && !statement.is_some_and(|it| locks_or_counts(&it.text))
        && (statement.is_some() || asks_for_all(analysis, call))
}

/// A request of its own, for the whole of what its URL names.
fn asks_for_all(analysis: &Analysis<'_>, call: &Call) -> bool {
    const PARTIAL: i64 = 206;
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let has = |key: &str| spans.attribute(span, key).is_some();
    let number = |keys: &[&str]| spans.first_of(span, keys).and_then(|it| it.as_int());
    let status = number(&["http.response.status_code", "http.status_code"]);
    let resent = number(&["http.request.resend_count", "http.resend_count"]);
    status != Some(PARTIAL) && !has("http.request.header.range") && resent.is_none_or(|it| it == 0)
}

/// Pauses at least this long, and all about as long, are waits for something to happen.
const PAUSE_NS_MIN: u64 = 20_000_000;

/// Asks the same again after pauses of one length, to see whether something has happened. `calls` in order
/// of start.
pub(super) fn is_polling(analysis: &Analysis<'_>, calls: &[usize]) -> bool {
    let node = |it: usize| analysis.trace.node(analysis.calls[it].outer);
    let pauses = calls
        .windows(2)
        .map(|it| node(it[1]).start_ns.saturating_sub(node(it[0]).end_ns));
    let shortest = pauses.clone().min().unwrap_or(0);
    let longest = pauses.max().unwrap_or(0);
    // Two calls have one pause, which is as long as itself.
    calls.len() > 2 && shortest >= PAUSE_NS_MIN && longest <= shortest.saturating_mul(2)
}

/// Does a loop ask one question over and over, so that it is reported here?
pub(super) fn is_asked_again(told: &Told<'_, '_>) -> bool {
    let found = told.found;
    if told.parameters != Parameters::Same || told.is_remote() || found.steps.len() > 1 {
        return false;
    }
    let again = asked_again(told.analysis, &found.calls, &mut Changes::default());
    let all = again.calls.len() == found.calls.len() && again.later.len() + 1 == found.calls.len();
    all && matters(told.analysis, found.entry, &again.later)
        && told
            .found
            .calls
            .iter()
            .all(|it| asks(&told.analysis.calls[*it]))
}

fn matters(analysis: &Analysis<'_>, entry: usize, later: &[usize]) -> bool {
    let spans: Vec<SpanIdx> = later.iter().map(|it| analysis.calls[*it].outer).collect();
    let waited_ns = Extent::of(analysis, &spans).union_ns;
    let request_ns = analysis.entries[entry].duration_ns;
    later.len() >= LATER_CERTAIN
        || waited_ns >= LATER_NS_MIN
        || waited_ns > 0 && percent(waited_ns, request_ns) >= LATER_PERCENT_MIN
}

fn start_ns(analysis: &Analysis<'_>, call: usize) -> u64 {
    analysis.trace.node(analysis.calls[call].outer).start_ns
}

/// When something may have changed answers, by what it changes; filled when first asked.
#[derive(Default)]
struct Changes<'b>(Option<BTreeMap<Changed<'b>, Vec<u64>>>);

/// What a call may have changed. What it says goes for all services of the trace; where it does not say, only
/// for the entry that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed<'b> {
    /// A table, without its schema: one statement names it and the next does not.
    Table(&'b str),
    /// Procedures and statements that were not sent may change anything, in this entry.
    AnyTable(usize),
    /// What a host answers.
    Host(&'b str),
    /// An RPC's key has no host: it may go anywhere, from this entry.
    AnyHost(usize),
}

impl<'b> Changes<'b> {
    /// May something have changed the answer to `a` before `b` asks again?
    fn between(&mut self, analysis: &'b Analysis<'_>, a: usize, b: usize) -> bool {
        let changes = self.0.get_or_insert_with(|| changes(analysis));
        let during = start_ns(analysis, a)..=start_ns(analysis, b);
        let in_time = |what: Changed<'_>| {
            let Some(times_ns) = changes.get(&what) else {
                return false;
            };
            let next = times_ns.partition_point(|it| it < during.start());
            times_ns.get(next).is_some_and(|it| during.contains(it))
        };
        let call = &analysis.calls[a];
        let entry = call.entry.unwrap_or(usize::MAX);
        if call.category == Category::External {
            return in_time(Changed::AnyHost(entry))
                || host(&call.key).is_some_and(|it| in_time(Changed::Host(it)));
        }
        let tables = call.statement.iter().flat_map(|it| &it.tables);
        let mut tables = tables.map(|it| without_schema(it)).peekable();
        // Without a table nothing is known to matter, and nothing not to.
        tables.peek().is_none()
            && changes
                .keys()
                .any(|it| matches!(it, Changed::Table(_)) && in_time(*it))
            || in_time(Changed::AnyTable(entry))
            || tables.any(|it| in_time(Changed::Table(it)))
    }
}

/// When what was changed, each in order of time.
fn changes<'b>(analysis: &'b Analysis<'_>) -> BTreeMap<Changed<'b>, Vec<u64>> {
    let mut changes: BTreeMap<Changed<'_>, Vec<u64>> = BTreeMap::new();
    let changing = analysis.calls.iter().enumerate();
    for (at, call) in changing.filter(|it| changes_something(it.1)) {
        let mut add = |what| {
            changes
                .entry(what)
                .or_default()
                .push(start_ns(analysis, at))
        };
        let entry = call.entry.unwrap_or(usize::MAX);
        if call.category == Category::External {
            add(host(&call.key).map_or(Changed::AnyHost(entry), Changed::Host));
            continue;
        }
        match &call.statement {
            Some(statement) if !statement.tables.is_empty() => {
                let tables = statement.tables.iter();
                tables.for_each(|it| add(Changed::Table(without_schema(it))));
            }
            _ => add(Changed::AnyTable(entry)),
        }
    }
    changes.values_mut().for_each(|it| it.sort_unstable());
    changes
}

/// `public.users` → `users`.
fn without_schema(table: &str) -> &str {
    table.rsplit('.').next().unwrap_or(table)
}

fn changes_something(call: &Call) -> bool {
    match (call.category, &call.statement) {
        (Category::Database, Some(statement)) => match statement.kind {
            StatementKind::Select => writes_beside(statement),
            kind => !matches!(kind, StatementKind::Session | StatementKind::Transaction),
        },
        (Category::Database, None) => {
            let verb = call.name.split(' ').next().unwrap_or("");
            !verb.eq_ignore_ascii_case("select")
        }
        (Category::External, _) => !call.key.starts_with("GET ") && !call.key.starts_with("HEAD "),
        _ => false,
    }
}

/// `with moved as (delete from …) select …`
fn writes_beside(statement: &Fingerprint) -> bool {
    const WRITES: &[&str] = &["(insert ", "(update ", "(delete ", "(merge "];
    statement.text.starts_with("with ") && WRITES.iter().any(|it| statement.text.contains(it))
}

/// `GET stock/items/{id}` → `stock`.
fn host(key: &str) -> Option<&str> {
    let (_, target) = key.split_once(' ')?;
    target.split('/').next()
}

fn finding(analysis: &Analysis<'_>, at: usize, again: &Again) -> Finding {
    let entry = &analysis.entries[at];
    let first = &analysis.calls[again.calls[0]];
    let later: Vec<SpanIdx> = again
        .later
        .iter()
        .map(|it| analysis.calls[*it].outer)
        .collect();
    let extent = Extent::of(analysis, &later);
    let saved_ns = impact(analysis, entry, &later)
        .removable_ns
        .min(entry.duration_ns);
    let library = library(analysis, first.span, entry.span);
    let is_query = first.category == Category::Database;
    let (count, name) = (again.calls.len(), summary(first));
    let mut sure = Sure::at(0.85);
    sure.say(0.0, "its parameters are shown, and they are the same");
    if is_query {
        sure.say(0.05, "no statement in between writes to its tables");
    } else {
        sure.say(
            -0.1,
            "headers are not compared: they may ask for different answers",
        );
    }
    let (confidence, reasons) = sure.finish();
    let what = match again.questions {
        1 => format!("asks {} for the same thing", times(count)),
        questions => format!("asks {} for {questions} things", times(count)),
    };
    let side_by_side = match extent.sum_ns > extent.union_ns + extent.union_ns / 100 {
        true => " Some ask while another call is still under way: share the one that is.",
        false => "",
    };
    Finding {
        title: match again.questions {
            1 => format!("{count} × {name}, the same every time"),
            questions => format!("{count} × {name} for {questions} different answers"),
        },
        severity: role(analysis, at).severity(saved_ns, entry.duration_ns),
        confidence,
        reasons,
        statement: first.statement.as_ref().map(|it| it.text.clone()),
        target: match &first.statement {
            Some(statement) => statement.tables.first().cloned(),
            None => Some(first.key.to_string()),
        },
        saved_ns,
        explanation: format!(
            "{} {what} ({name}), and nothing it does in between changes the answer: {} {} of the request's \
             {} ({} %).",
            entry.endpoint,
            match later.len() {
                1 => "asking again takes".to_string(),
                count => format!("the later {count} take"),
            },
            duration(extent.union_ns),
            duration(entry.duration_ns),
            percent(extent.union_ns, entry.duration_ns),
        ),
        fix: format!("{}{side_by_side}", library.remember),
        framework: library.name,
        ..Finding::in_calls(
            DETECTOR.id,
            analysis,
            at,
            &again.calls,
            &[statement_text(first)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, findings, line, serial};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    fn sql(text: &str) -> String {
        format!("query [client] {{db.system=postgresql, db.query.text=\"{text}\"}}")
    }

    fn get(url: &str) -> String {
        format!("GET [client] {{http.request.method=GET, url.full=\"{url}\"}}")
    }

    fn user(id: u32) -> String {
        sql(&format!("select * from users where id = {id}"))
    }

    fn drawn(calls: &[String]) -> String {
        serial("GET /cart", calls)
    }

    fn silent(calls: &[String]) {
        check_silent(ID, &drawn(calls));
    }

    #[test]
    fn a_query_twice() {
        let between = sql("select * from carts where owner = 17");
        check(
            ID,
            &drawn(&[user(17), between, user(17)]),
            expect![[r#"
                2 × select users, the same every time
                  shop of 35 ms · info, confidence 0.90: its parameters are shown, and they are the same; no statement in between writes to its tables
                  count 2, window 30 ms, sum 20 ms, saved 10 ms
                  duplicate-call shop "GET /cart" "select * from users where id = ?"
                  path: GET /cart
                  parameters: 17 | 17
                  explanation: GET /cart asks twice for the same thing (select users), and nothing it does in between changes the answer: asking again takes 10 ms of the request's 35 ms (28 %).
                  fix: Ask once and pass the answer on, or keep it for the length of the request, in the object that stands for the request.
            "#]],
        );
    }

    #[test]
    fn other_constants_beside_the_same_parameter_are_another_question() {
        let sum_of = |field: &str| {
            format!(
                "query [client] {{db.system=postgresql, db.query.parameter.1=7, \
                 db.query.text=\"select sum(line ->> '{field}') from orders where id = $1\"}}"
            )
        };
        silent(&[sum_of("price"), sum_of("weight"), sum_of("pieces")]);
        check_titles(
            ID,
            &drawn(&[sum_of("price"), sum_of("weight"), sum_of("price")]),
            expect![[r#"
                2 × select orders, the same every time (info)
            "#]],
        );
    }

    #[test]
    fn a_request_twice() {
        let flags = get("http://flags/all?tenant=9");
        check(
            ID,
            &drawn(&[flags.clone(), user(1), flags]),
            expect![[r#"
                2 × GET flags/all, the same every time
                  shop of 35 ms · info, confidence 0.75: its parameters are shown, and they are the same; headers are not compared: they may ask for different answers
                  count 2, window 30 ms, sum 20 ms, saved 10 ms
                  duplicate-call shop "GET /cart" "GET flags/all"
                  path: GET /cart
                  parameters: tenant = 9 | tenant = 9
                  explanation: GET /cart asks twice for the same thing (GET flags/all), and nothing it does in between changes the answer: asking again takes 10 ms of the request's 35 ms (28 %).
                  fix: Ask once and pass the answer on, or keep it for the length of the request, in the object that stands for the request.
            "#]],
        );
    }

    #[test]
    fn parameters_beside_the_statement() {
        let bound = "query [client] {db.system=postgresql, db.query.text=\"select * from users where id = $1\", \
                     db.query.parameter.0=17}";
        check_titles(
            ID,
            &serial("GET /cart", &[bound; 3]),
            expect![[r#"
            3 × select users, the same every time (critical)
        "#]],
        );
        let python = "SELECT [client] {db.system=postgresql, db.statement=\"select * from users where id = %s\", \
                      db.statement.parameters=\"('17',)\"}";
        check_titles(
            ID,
            &serial("GET /cart", &[python; 3]),
            expect![[r#"
            3 × select users, the same every time (critical)
        "#]],
        );
    }

    #[test]
    fn a_loop_of_one_question_is_not_reported_twice() {
        let text = drawn(&vec![user(17); 8]);
        check_titles(
            ID,
            &text,
            expect![[r#"
            8 × select users, the same every time (critical)
        "#]],
        );
        assert_eq!(findings(&text), [ID]);
        let text = drawn(&vec![get("http://flags/all"); 8]);
        assert_eq!(findings(&text), [ID]);
    }

    #[test]
    fn several_questions_of_one_statement_are_one_finding() {
        let asked = [user(1), user(2), user(1), user(2)];
        check_titles(
            ID,
            &drawn(&asked),
            expect![[r#"
            4 × select users for 2 different answers (critical)
        "#]],
        );
    }

    #[test]
    fn a_write_to_another_table_changes_nothing() {
        let write = sql("update carts set n = 1 where id = 5");
        check_titles(
            ID,
            &drawn(&[user(17), write, user(17)]),
            expect![[r#"
            2 × select users, the same every time (info)
        "#]],
        );
    }

    #[test]
    fn side_by_side_they_can_share() {
        let mut text = line("shop", 0, "GET /cart", 0, 60);
        for at in 0..4 {
            text += &line("shop", 1, &user(17), at, 40);
        }
        check(
            ID,
            &text,
            expect![[r#"
            4 × select users, the same every time
              shop of 60 ms · info, confidence 0.90: its parameters are shown, and they are the same; no statement in between writes to its tables
              count 4, window 43 ms, sum 160 ms, saved 3 ms
              duplicate-call shop "GET /cart" "select * from users where id = ?"
              path: GET /cart
              parameters: 17 | 17 | 17 | 17
              explanation: GET /cart asks 4 times for the same thing (select users), and nothing it does in between changes the answer: the later 3 take 42 ms of the request's 60 ms (70 %).
              fix: Ask once and pass the answer on, or keep it for the length of the request, in the object that stands for the request. Some ask while another call is still under way: share the one that is.
        "#]],
        );
    }

    #[test]
    fn a_write_in_between_may_change_the_answer() {
        silent(&[
            user(17),
            sql("update users set a = 1 where id = 17"),
            user(17),
        ]);
        silent(&[user(17), sql("call settle(17)"), user(17)]);
        let url = get("http://carts/17");
        let post = "POST [client] {http.request.method=POST, url.full=\"http://carts/17/items\"}";
        silent(&[url.clone(), post.into(), url]);
    }

    #[test]
    fn whatever_the_writing_statement_looks_like() {
        silent(&[
            user(17),
            sql("update public.users set a = 1 where id = 17"),
            user(17),
        ]);
        let beside =
            "with x as (update users set a = 1 where id = 17 returning id) select id from x";
        silent(&[user(17), sql(beside), user(17)]);
        let moved = "with x as (delete from jobs where id = 1 returning id) select id from x";
        silent(&vec![sql(moved); 3]);
    }

    #[test]
    fn what_a_callee_writes_changes_the_answer_too() {
        let seen = |table: &str| {
            let post = "POST [client] {http.request.method=POST, url.full=\"http://people/seen\"}";
            let update = sql(&format!("update {table} set seen = 1 where id = 17"));
            line("shop", 0, "GET /cart", 0, 60)
                + &line("shop", 1, &user(17), 0, 15)
                + &line("shop", 1, post, 16, 20)
                + &line("people", 2, "POST /seen [server]", 17, 18)
                + &line("people", 3, &update, 18, 10)
                + &line("shop", 1, &user(17), 40, 15)
        };
        check_silent(ID, &seen("users"));
        check_titles(
            ID,
            &seen("visits"),
            expect![[r#"
            2 × select users, the same every time (info)
        "#]],
        );
    }

    #[test]
    fn several_databases_are_asked_each() {
        let shard = |attribute: &str| {
            format!(
                "query [client] {{db.system=postgresql, {attribute}, db.query.text=\"select * from users where id = 17\"}}"
            )
        };
        silent(&[1, 2, 3, 4].map(|it| shard(&format!("server.address=shard{it}"))));
        silent(&[1, 2, 3, 4].map(|it| shard(&format!("db.namespace=tenant{it}"))));
        check_titles(
            ID,
            &drawn(&vec![shard("server.address=shard1"); 2]),
            expect![[r#"
                2 × select users, the same every time (critical)
            "#]],
        );
    }

    #[test]
    fn different_parameters_are_different_questions() {
        silent(&[user(17), user(18)]);
        silent(&[
            get("http://flags/all?tenant=1"),
            get("http://flags/all?tenant=2"),
        ]);
    }

    #[test]
    fn parts_of_one_thing_are_different_answers() {
        let part = |attribute| {
            format!(
                "GET [client] {{http.request.method=GET, url.full=\"http://cdn/big.bin\", {attribute}}}"
            )
        };
        silent(&vec![part("http.response.status_code=206"); 3]);
        silent(&[
            part("http.request.header.range=\"bytes=0-99\""),
            part("http.request.header.range=\"bytes=100-199\""),
        ]);
    }

    #[test]
    fn what_failed_is_asked_again_for_an_answer() {
        let answered = |attribute| {
            format!(
                "GET [client] {{http.request.method=GET, url.full=\"http://flags/all\", {attribute}}}"
            )
        };
        for failed in [429, 401, 503] {
            let failed = answered(format!("http.response.status_code={failed}"));
            silent(&[failed, answered("http.response.status_code=200".into())]);
        }
        silent(&[
            answered("n=1".into()),
            answered("http.request.resend_count=1".into()),
        ]);
    }

    #[test]
    fn hidden_parameters_say_nothing() {
        let hidden = sql("select * from users where id = $1");
        silent(&[hidden.clone(), hidden]);
        let redacted = get("http://flags/all?*");
        silent(&[redacted.clone(), redacted]);
        let rpc = "Get [client] {rpc.system=grpc, rpc.service=a.B, rpc.method=Get}";
        silent(&[rpc.to_string(), rpc.into()]);
        let cut = sql("select * from users where id = 17 and name in ('a...");
        silent(&[cut.clone(), cut]);
    }

    #[test]
    fn a_long_list_of_parameters_is_not_compared() {
        let ids: Vec<String> = (0..40).map(|it| it.to_string()).collect();
        let long = sql(&format!(
            "select * from users where id in ({})",
            ids.join(", ")
        ));
        silent(&[long.clone(), long]);
    }

    #[test]
    fn posts_writes_locks_and_sequences_do_something() {
        let post = "POST [client] {http.request.method=POST, url.full=\"http://mail/send\"}";
        silent(&[post.to_string(), post.into()]);
        for text in [
            "insert into log (a) values (1)",
            "select id from users where id = 1 for update",
            "select nextval('ids') from ids",
            "begin",
            "select 1",
        ] {
            silent(&[sql(text), sql(text)]);
        }
    }

    #[test]
    fn failed_calls_are_asked_again_for_a_reason() {
        let failed = user(17).replace('{', "{error, ");
        silent(&[failed, user(17)]);
    }

    #[test]
    fn polling_waits_for_another_answer() {
        let mut text = line("shop", 0, "POST /export", 0, 500);
        for at in 0..5 {
            text += &line(
                "shop",
                1,
                &sql("select state from jobs where id = 3"),
                at * 70,
                15,
            );
        }
        check_silent(ID, &text);
    }

    #[test]
    fn quick_ones_are_no_matter() {
        let mut text = line("shop", 0, "GET /cart", 0, 100);
        for at in 0..2 {
            text += &line("shop", 1, &user(17), at * 20, 2);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn two_requests_are_two() {
        let mut text = line("shop", 0, "page", 0, 100);
        for at in 0..2 {
            text += &line("shop", 1, "GET /cart [server]", at * 40, 30);
            text += &line("shop", 2, &user(17), at * 40, 25);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(
            ID,
            &drawn(&[user(1), user(1)]).replace("GET /cart", "GET /ping"),
        );
    }
}
