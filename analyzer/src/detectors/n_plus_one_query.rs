//! One query for a list, then one query for each of its rows.
//!
//! ```text
//! shop  GET /posts            |--------------------------------|
//! shop    SELECT posts        |--|
//! shop    SELECT authors          |--|
//! shop    SELECT authors              |--|
//! shop    SELECT authors                  |--|
//! shop    SELECT authors                      |--|
//! shop    SELECT authors                          |--|
//! ```
//!
//! Also when the calls run side by side, when each round has several queries, and when the query is
//! behind a call to another service: the loop is what is reported, once. If that call is one and the same
//! each time, the loop is an N+1 of calls and reported there; with the same parameters each time, it is
//! one answer asked for again, and reported as duplicates.

use super::{Detect, Detector, duplicate_call};
use crate::category::Category;
use crate::evidence::Parameters;
use crate::finding::Finding;
use crate::groups::{Loop, loops, once_each};
use crate::loops::{Sure, Told, failed, matters, summary};
use crate::paging::{Pages, pages};
use crate::role::{Role, role};
use crate::sql::{Fingerprint, StatementKind};
use crate::{Analysis, Call, Callee, Settings};

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-query",
    title: "N+1 queries",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The same query runs again and again within one request, each time for another row: one query for a list \
and N more for what belongs to its rows. Object-relational mappers do it behind a harmless-looking \
attribute (post.author in a loop or a template); hand-written code does it with a query inside of a loop.

Each query is fast, so no slow-query log shows it. What costs is the number: every one waits for a \
connection, a network round trip and the database's parser. With 1 ms per query a list of 200 rows is \
200 ms slower, and it grows with the data: what is fast on the developer's machine with five rows is slow \
in production.

Fix it by loading the related rows together: eager loading in the mapper's words (select_related, includes, \
join fetch, Include, preload), a join, or one query with all ids (= any(…), in (…)). If the rows come from \
another service, give it an endpoint that takes many ids.

How it is found: at least 5 calls of one normalised query below the same chain of operations of one \
request, which together take at least 20 ms or a tenth of the request, or at least 25 calls. The time saved \
is what is waited for the calls, less one and a half calls for the query that replaces them, and at most what \
nothing beside them would have to be waited for anyway.

When it is wrong: a deliberate loop in small steps looks the same. Pagination (only offset or a cursor \
changes), lists fetched in chunks, retries after errors, health checks and the database's own catalogue are \
left out, and so are rows taken off a queue, locks and polling; findings in consumers and jobs are only \
informational. If the sender hides parameters, it cannot \
be told whether the rows differ or the same row is asked for again; either way the queries can be one.";

const EXAMPLE: &str = "
shop  GET /posts                                                            |------------------------------------------|
shop    SELECT * FROM posts ORDER BY id DESC LIMIT 30                       |--|
shop    SELECT * FROM authors WHERE id = $1                                     |----|
shop    SELECT * FROM authors WHERE id = $1                                           |----|
shop    SELECT * FROM authors WHERE id = $1                                                 |----|
shop    SELECT * FROM authors WHERE id = $1                                                       |----|
shop    SELECT * FROM authors WHERE id = $1                                                             |----|
shop    SELECT * FROM authors WHERE id = $1                                                                   |----|
";

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let is_row = once_each(is_row);
    let wanted = |call: &Call| !failed(analysis, call) && is_row(call);
    let repeats_min = settings.repeats_min;
    for found in loops(analysis, Category::Database, reads, wanted, repeats_min) {
        let role = role(analysis, found.entry);
        if role == Role::Upkeep || !matters(analysis, &found) {
            continue;
        }
        let pages = pages(analysis, &found);
        if pages == Pages::Yes {
            continue;
        }
        let told = Told::of(analysis, &found, role);
        let polls = told.parameters == Parameters::Same
            && duplicate_call::is_polling(analysis, &found.calls);
        if !polls && !duplicate_call::is_asked_again(&told) {
            findings.push(finding(&told, pages));
        }
    }
}

fn reads(call: &Call) -> bool {
    match &call.statement {
        Some(statement) => statement.kind == StatementKind::Select,
        // Senders without statement text often name the operation at least: `SELECT shop.authors`.
        None => names_a_read(&call.name),
    }
}

/// `SELECT authors`, `find authors`, and `GetItem`, which says enough without its table.
fn names_a_read(name: &str) -> bool {
    let (verb, of) = name.split_once(' ').unwrap_or((name, ""));
    let is_of = |verbs: &[&str]| verbs.iter().any(|it| verb.eq_ignore_ascii_case(it));
    is_of(&["GetItem", "DynamoDB.GetItem"])
        || !of.is_empty() && is_of(&["select", "find", "findOne", "aggregate", "count", "search"])
}

/// A read that is no chunk, no look into the catalogue and no step of a queue.
fn is_row(callee: &Callee) -> bool {
    let is_row =
        |it: &Fingerprint| it.in_list_len <= 1 && !takes_turns(&it.text) && !reads_catalogue(it);
    callee.statement.as_ref().is_none_or(is_row)
}

/// The next row off a queue, or a lock that is waited for: each depends on what others do meanwhile.
fn takes_turns(text: &str) -> bool {
    text.contains(" skip locked")
        || text.contains("advisory_lock")
        || text.contains("advisory_xact_lock")
        || text.contains(" get_lock(")
}

/// Drivers and mappers ask the catalogue for types and columns when they start.
fn reads_catalogue(statement: &Fingerprint) -> bool {
    let catalogues = [
        "information_schema.",
        "pg_catalog.",
        "pg_",
        "sys.",
        "sqlite_master",
        "schema_migrations",
    ];
    let is_catalogue = |table: &String| catalogues.iter().any(|it| table.starts_with(it));
    !statement.tables.is_empty() && statement.tables.iter().all(is_catalogue)
}

fn finding(told: &Told<'_, '_>, pages: Pages) -> Finding {
    let first = told.first();
    Finding {
        title: told.title("queries"),
        target: first
            .statement
            .as_ref()
            .and_then(|it| it.tables.first().cloned()),
        explanation: explanation(told),
        fix: fix(told),
        fix_code: fix_code(first),
        ..told.finding(DETECTOR.id, told.saved_in_batches_ns(), sure(told, pages))
    }
}

/// How sure, and why.
fn sure(told: &Told<'_, '_>, pages: Pages) -> Sure {
    let mut sure = Sure::at(0.6);
    let first = told.first();
    let repeats = told.found.steps[0].count;
    match rows_of_source(told.analysis, told.found) {
        Some(rows) if rows == repeats as u64 => {
            sure.say(
                0.25,
                format!(
                    "the query before it returned {rows} rows, and this one runs {repeats} times"
                ),
            );
        }
        Some(rows) if rows > repeats as u64 => {
            sure.say(0.1, format!("the query before it returned {rows} rows"));
        }
        _ => {}
    }
    sure.weigh_loop(told);
    if let Some(name) = told.library.name.filter(|_| told.library.is_lazy) {
        sure.say(
            0.05,
            format!("{name} is in use, which loads lazily unless told otherwise"),
        );
    }
    match &first.statement {
        Some(statement) if statement.truncated => {
            sure.say(
                -0.3,
                "the statement was cut off by its sender: its end may differ",
            );
        }
        Some(statement)
            if statement.text.contains(" in (?)") || statement.text.contains("any(?)") =>
        {
            sure.say(
                -0.2,
                "it takes a list whose length is not visible: it may fetch in chunks",
            );
        }
        Some(_) => {}
        None => sure.say(-0.2, "the sender shows no statement, only its name"),
    }
    if pages == Pages::Perhaps {
        sure.say(
            -0.1,
            "the sender does not show whether it is the rows or the page that changes",
        );
    }
    sure
}

/// The last query of the entry that ended before the loop began.
fn source<'b>(analysis: &'b Analysis<'_>, found: &Loop) -> Option<&'b Call> {
    let begin = analysis
        .trace
        .node(analysis.calls[found.calls[0]].outer)
        .start_ns;
    let reads = analysis.calls.iter().filter(|it| {
        let is_select = it
            .statement
            .as_ref()
            .is_some_and(|it| it.kind == StatementKind::Select);
        it.entry == Some(found.entry) && is_select && analysis.trace.node(it.outer).end_ns <= begin
    });
    reads.max_by_key(|it| analysis.trace.node(it.outer).end_ns)
}

fn rows_of_source(analysis: &Analysis<'_>, found: &Loop) -> Option<u64> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(source(analysis, found)?.span);
    let keys = [
        "db.response.returned_rows",
        "db.rows_affected",
        "pgx.rows_affected",
    ];
    u64::try_from(spans.first_of(span, &keys)?.as_int()?).ok()
}

fn explanation(told: &Told<'_, '_>) -> String {
    let count = told.found.calls.len();
    let what = match told.found.steps.len() {
        1 => format!("runs the same query {count} times"),
        steps => format!("runs {steps} queries in turns, {count} calls in all"),
    };
    let list = match source(told.analysis, told.found) {
        Some(source) => {
            format!(
                " The list probably comes from {}, which runs just before.",
                summary(source)
            )
        }
        None => String::new(),
    };
    let grows = match told.parameters {
        Parameters::Same => "",
        _ => " The number of calls grows with the number of rows.",
    };
    format!(
        "{} {what}, {}: {}.{list}{grows}",
        told.entry().endpoint,
        told.manner(),
        told.numbers(),
    )
}

fn fix(told: &Told<'_, '_>) -> String {
    if told.is_remote() {
        return format!(
            "Ask {} once: give it an endpoint that takes all ids and answers with one query, and call \
             it before the loop instead of inside of it.",
            told.remote_service()
        );
    }
    let of_store = in_words_of(&told.first().system).filter(|_| told.library.name.is_none());
    let load_together = of_store.unwrap_or(told.library.load_together);
    if told.parameters == Parameters::Same {
        return format!(
            "The parameters are the same every time. {}",
            told.library.remember
        );
    }
    let is_resolver = |it: &String| it.contains("graphql.resolve");
    match told.found.call_path.iter().any(is_resolver) {
        true => format!(
            "Batch the resolver with a DataLoader: it gathers the keys of one tick and loads them with one query. {load_together}"
        ),
        false => load_together.to_string(),
    }
}

/// How stores that know no join load many documents, where no mapper has words of its own.
fn in_words_of(system: &str) -> Option<&'static str> {
    match system {
        "dynamodb" | "aws.dynamodb" => Some(
            "Collect the keys and read the items with `BatchGetItem`, 100 of them at a time at most.",
        ),
        "mongodb" => Some(
            "Collect the ids and load the documents with one `find` and `$in`, or let the first query join them with \
             `$lookup`.",
        ),
        "elasticsearch" | "opensearch" => Some(
            "Collect the ids and ask with one `terms` query or `_mget`; searches that differ go into one `_msearch`.",
        ),
        _ => None,
    }
}

/// The query with a list in place of its one value, where the statement is simple enough to say so.
fn fix_code(call: &Call) -> Option<String> {
    let statement = call
        .statement
        .as_ref()
        .filter(|it| !it.truncated && it.tables.len() == 1)?;
    let text = statement
        .text
        .strip_suffix(" limit ?")
        .unwrap_or(&statement.text);
    with_list(text, &call.system)
}

/// A statement with one value, with a list in its place.
pub(super) fn with_list(text: &str, system: &str) -> Option<String> {
    let (before, after) = text.split_once(" = ?")?;
    if before.contains('?') || after.contains('?') {
        return None;
    }
    let list = match system {
        "postgresql" | "postgres" => "= any($1)",
        _ => "in (?, ?, …)",
    };
    Some(format!("{before} {list}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call_path, check, check_silent, check_titles, findings, line};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    #[test]
    fn a_query_per_row() {
        check(
            ID,
            "
            shop  GET /posts {http.route=/posts, http.request.method=GET}                                     |------------------------------------|
            shop    SELECT posts {db.query.text=\"SELECT * FROM posts LIMIT 5\", db.response.returned_rows=5} |---|
            shop    SELECT authors {db.query.text=\"SELECT * FROM authors WHERE id = 1\"}                          |-----|
            shop    SELECT authors {db.query.text=\"SELECT * FROM authors WHERE id = 2\"}                                |-----|
            shop    SELECT authors {db.query.text=\"SELECT * FROM authors WHERE id = 3\"}                                      |-----|
            shop    SELECT authors {db.query.text=\"SELECT * FROM authors WHERE id = 4\"}                                            |-----|
            shop    SELECT authors {db.query.text=\"SELECT * FROM authors WHERE id = 5\"}                                                  |-----|
            ",
            expect![[r#"
                5 × select authors, one by one
                  shop of 37 ms · critical, confidence 0.99: the query before it returned 5 rows, and this one runs 5 times; its parameters differ from call to call; the calls run one after the other
                  count 5, window 30 ms, sum 30 ms, saved 21 ms
                  n-plus-one-query shop "GET /posts" "GET /posts" "select * from authors where id = ?"
                  path: GET /posts
                  parameters: 1 | 2 | 3 | 4 | 5
                  explanation: GET /posts runs the same query 5 times, each after the last one has returned: 6 ms each (median), 30 ms of the request's 37 ms (81 %). The list probably comes from select posts, which runs just before. The number of calls grows with the number of rows.
                  fix: Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match them in memory.
                  fix code: select * from authors where id = any($1)
            "#]],
        );
    }

    #[test]
    fn behind_wrappers_of_an_orm_and_named_places() {
        check(
            ID,
            "
            shop  GET /posts                                                                                |-------------------------------------|
            shop    load authors {code.file.path=posts.rb, code.line.number=31, code.function.name=authors}   |---------------------------------|
            shop      Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord}                        |-----|
            shop        SELECT authors                                                                          |---|
            shop      Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord}                              |-----|
            shop        SELECT authors                                                                                |---|
            shop      Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord}                                    |-----|
            shop        SELECT authors                                                                                      |---|
            shop      Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord}                                          |-----|
            shop        SELECT authors                                                                                            |---|
            shop      Author query {scope=OpenTelemetry::Instrumentation::ActiveRecord}                                                |-----|
            shop        SELECT authors                                                                                                  |---|
            ",
            expect![[r#"
                5 × select authors, one by one
                  shop of 38 ms · critical, confidence 0.75: the calls run one after the other; Rails Active Record is in use, which loads lazily unless told otherwise
                  count 5, window 30 ms, sum 30 ms, saved 21 ms
                  n-plus-one-query shop "GET /posts" "GET /posts > load authors" "select authors"
                  path: GET /posts > load authors
                  code: posts.rb:31 authors
                  explanation: GET /posts runs the same query 5 times, each after the last one has returned: 6 ms each (median), 30 ms of the request's 38 ms (78 %). The number of calls grows with the number of rows.
                  fix: Add `.includes(:association)` (or `.preload`) to the relation that loads the parent rows; `strict_loading` keeps it from coming back.
                  framework: Rails Active Record
            "#]],
        );
    }

    #[test]
    fn all_at_once_saves_less() {
        check(
            ID,
            "
            shop  GET /posts        |--------------------------------|
            shop    SELECT posts    |---|
            shop    SELECT authors      |------------------------|
            shop    SELECT authors      |------------------------|
            shop    SELECT authors      |-------------------------|
            shop    SELECT authors      |--------------------------|
            shop    SELECT authors      |---------------------------|
            ",
            expect![[r#"
                5 × select authors, side by side
                  shop of 33 ms · info, confidence 0.60: 
                  count 5, window 28 ms, sum 131 ms, saved 0 ns
                  n-plus-one-query shop "GET /posts" "GET /posts" "select authors"
                  path: GET /posts
                  explanation: GET /posts runs the same query 5 times, several at a time: 26 ms each (median), 28 ms of the request's 33 ms (84 %). The list probably comes from select posts, which runs just before. The number of calls grows with the number of rows.
                  fix: Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match them in memory.
            "#]],
        );
    }

    #[test]
    fn what_runs_beside_is_still_waited_for() {
        check_titles(
            ID,
            "
            shop  GET /posts                                     |----------------------------------|
            shop    GET recommend/x {server.address=recommend}    |------------------------------|
            shop    SELECT authors                                |-----|
            shop    SELECT authors                                      |-----|
            shop    SELECT authors                                            |-----|
            shop    SELECT authors                                                  |-----|
            shop    SELECT authors                                                        |-----|
            ",
            expect![[r#"
                5 × select authors, one by one (info)
            "#]],
        );
    }

    #[test]
    fn rounds_of_several_queries_are_one_loop() {
        check(
            ID,
            "
            shop  GET /posts        |------------------------------------------------|
            shop    SELECT posts    |--|
            shop    SELECT authors     |---|
            shop    SELECT badges          |---|
            shop    SELECT authors             |---|
            shop    SELECT badges                  |---|
            shop    SELECT authors                     |---|
            shop    SELECT badges                          |---|
            shop    SELECT authors                             |---|
            shop    SELECT badges                                  |---|
            shop    SELECT authors                                     |---|
            shop    SELECT badges                                          |---|
            ",
            expect![[r#"
                10 queries in one loop: 5 × select authors, 5 × select badges
                  shop of 49 ms · critical, confidence 0.70: the calls run one after the other
                  count 10, window 40 ms, sum 40 ms, saved 28 ms
                  n-plus-one-query shop "GET /posts" "GET /posts" "select authors"
                  path: GET /posts
                  explanation: GET /posts runs 2 queries in turns, 10 calls in all, each after the last one has returned: 4 ms each (median), 40 ms of the request's 49 ms (81 %). The list probably comes from select posts, which runs just before. The number of calls grows with the number of rows.
                  fix: Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match them in memory.
            "#]],
        );
    }

    #[test]
    fn two_loops_one_after_the_other_are_two() {
        check_titles(
            ID,
            "
            shop  GET /posts        |----------------------------------------------|
            shop    SELECT authors  |---|
            shop    SELECT authors      |---|
            shop    SELECT authors          |---|
            shop    SELECT authors              |---|
            shop    SELECT authors                  |---|
            shop    SELECT badges                       |---|
            shop    SELECT badges                           |---|
            shop    SELECT badges                               |---|
            shop    SELECT badges                                   |---|
            shop    SELECT badges                                       |---|
            ",
            expect![[r#"
                5 × select authors, one by one (info)
                5 × select badges, one by one (info)
            "#]],
        );
    }

    /// A call for each of `urls`, and a query below each in the other service.
    fn remote(urls: &[&str]) -> String {
        let mut text = line("shop", 0, "GET /cart", 0, 55);
        for (at, url) in urls.iter().enumerate() {
            let call = format!("GET [client] {{http.request.method=GET, url.full=\"{url}\"}}");
            text += &line("shop", 1, &call, at * 10, 10);
            text += &line("stock", 2, "GET /items", at * 10 + 1, 8);
            text += &line("stock", 3, "SELECT items", at * 10 + 2, 6);
        }
        text
    }

    /// The caller's URLs hold names, and nobody says so: only the query is the same each time.
    #[test]
    fn a_loop_over_another_service_is_seen_by_its_query() {
        let text = remote(&[
            "http://stock/red-shoes",
            "http://stock/blue-hat",
            "http://stock/belt",
            "http://stock/long-coat",
            "http://stock/tie",
        ]);
        check(
            ID,
            &text,
            expect![[r#"
            5 × select items in stock, one call each
              shop of 55 ms · critical, confidence 0.70: the calls run one after the other
              count 5, window 46 ms, sum 30 ms, saved 35 ms
              n-plus-one-query shop "GET /cart" "GET /cart > GET > stock · GET /items" "select items"
              path: GET /cart > GET > stock · GET /items
              explanation: GET /cart runs the same query 5 times, inside of 5 calls to stock (GET /items): 10 ms each (median), 50 ms of the request's 55 ms (90 %). The number of calls grows with the number of rows.
              fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it.
        "#]],
        );
        assert_eq!(findings(&text), [ID]);
    }

    #[test]
    fn a_loop_of_calls_is_reported_there() {
        let text = remote(&["http://stock/items"; 5]);
        check_silent(ID, &text);
        assert_eq!(findings(&text), ["duplicate-call"]);
    }

    #[test]
    fn a_loop_inside_the_other_service_is_that_services() {
        check_titles(
            ID,
            "
            shop   GET /cart                                          |-----------------------------------|
            shop     GET stock/items [client] {server.address=stock}  |---------------------------------|
            stock      GET /items                                      |-------------------------------|
            stock        SELECT items                                  |----|
            stock        SELECT items                                       |----|
            stock        SELECT items                                            |----|
            stock        SELECT items                                                 |----|
            stock        SELECT items                                                      |----|
            ",
            expect![[r#"
                5 × select items, one by one (critical)
            "#]],
        );
    }

    /// Two depths of one recursion, whose names are the same but for what is left out in the middle.
    #[test]
    fn deep_recursion_is_one_loop() {
        let mut text = line("shop", 0, "GET /tree", 0, 210);
        for depth in 1..=20 {
            text += &line("shop", depth, "walk", depth, 200 - depth);
            if depth > 18 {
                for at in 0..5 {
                    text += &line(
                        "shop",
                        depth + 1,
                        "SELECT nodes",
                        20 + 50 * (depth - 18) + at * 8,
                        8,
                    );
                }
            }
        }
        check_titles(
            ID,
            &text,
            expect![[r#"
            10 × select nodes, one by one (warning)
        "#]],
        );
    }

    #[test]
    fn one_answer_asked_for_again_is_a_duplicate() {
        silent(
            "GET /posts",
            "{db.query.text=\"select * from settings where id = 1\"}",
        );
    }

    #[test]
    fn another_answer_after_each_change_is_none() {
        let read = "{db.query.text=\"select * from stock where id = 1\"}";
        let write = "{db.query.text=\"update stock set n = n - 1 where id = 1\"}";
        check_titles(
            ID,
            &serial("GET /posts", &[read, write].repeat(5)),
            expect![[r#"
                5 × select stock, the same every time (critical)
            "#]],
        );
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            "
            shop  rebuild [internal] |------------------------------|
            shop    SELECT authors   |----|
            shop    SELECT authors        |----|
            shop    SELECT authors             |----|
            shop    SELECT authors                  |----|
            shop    SELECT authors                       |----|
            ",
            expect![[r#"
                5 × select authors, one by one (info)
            "#]],
        );
    }

    /// Draws a request that runs `queries` one after the other, 10 ms each.
    fn serial(endpoint: &str, queries: &[&str]) -> String {
        let mut drawn = format!(
            "shop  {endpoint:<100} |{}|\n",
            "-".repeat(queries.len() * 10 + 10)
        );
        for (at, query) in queries.iter().enumerate() {
            let indent = " ".repeat(at * 10 + 5);
            drawn += &format!(
                "shop    {:<98} {indent}|---------|\n",
                format!("SELECT t {query}")
            );
        }
        drawn
    }

    fn silent(endpoint: &str, query: &str) {
        check_silent(ID, &serial(endpoint, &[query; 8]));
    }

    #[test]
    fn fewer_than_five_are_no_loop() {
        let query = "{db.query.text=\"select a from t where id = ?\"}";
        check_silent(ID, &serial("GET /posts", &[query; 4]));
        check_titles(
            ID,
            &serial("GET /posts", &[query; 5]),
            expect![[r#"
            5 × select t, one by one (critical)
        "#]],
        );
    }

    #[test]
    fn session_and_transaction_keeping_is_no_loop() {
        silent("GET /", "{db.query.text=\"select 1\"}");
        silent("GET /", "{db.query.text=\"begin\"}");
        silent("GET /", "{db.query.text=\"savepoint a1\"}");
        silent("GET /", "{db.query.text=\"set search_path to x\"}");
    }

    #[test]
    fn writes_are_another_detectors() {
        silent("GET /", "{db.query.text=\"insert into t values (?)\"}");
        silent(
            "GET /",
            "{db.query.text=\"update t set a = ? where id = ?\"}",
        );
    }

    #[test]
    fn pages_are_no_rows() {
        silent(
            "GET /",
            "{db.query.text=\"select a from t order by id limit 10 offset 20\"}",
        );
        silent(
            "GET /",
            "{db.query.text=\"select a from t where id > ? order by id limit 10\"}",
        );
        let walked: Vec<String> = (0..8)
            .map(|it| {
                format!(
                    "{{db.query.text=\"select a from t where x = ? order by a limit 9 offset {}\"}}",
                    it * 9
                )
            })
            .collect();
        let walked: Vec<&str> = walked.iter().map(String::as_str).collect();
        check_silent(ID, &serial("GET /", &walked));
        silent(
            "GET /",
            "{db.query.text=\"select a from t where (at, id) < ($1, $2) order by at desc limit 10\"}",
        );
        silent(
            "GET /",
            "{db.query.text=\"select a from t order by id offset ? rows fetch next ? rows only\"}",
        );
    }

    /// Of one tenant, whose number is seen to stay.
    #[test]
    fn cursors_beside_a_constant_are_pages() {
        for text in [
            "select a from t where tenant = 7 and id > N order by id limit 10",
            "select a from t where tenant = 7 and (at, id) < (N, N) order by at limit 10",
        ] {
            check_silent(ID, &serial_of(text));
        }
        let bound: Vec<String> = (0..8)
            .map(|it| {
                format!(
                    "{{db.query.text=\"select a from t where b = $2 offset $1\", \
                     db.query.parameter.0={it}, db.query.parameter.1=7}}"
                )
            })
            .collect();
        let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
        check_silent(ID, &serial("GET /", &bound));
    }

    #[test]
    fn the_first_page_of_each_row_is_a_loop() {
        for (text, expected) in [
            (
                "select a from t where post = N order by id limit 5 offset 0",
                expect!["8 × select t, one by one (critical)\n"],
            ),
            (
                "select a from t where post = $1 limit $2 offset $3",
                expect!["8 × select t, one by one (critical)\n"],
            ),
            (
                "select a from t where post = ? limit 3 offset 0",
                expect!["8 × select t, one by one (critical)\n"],
            ),
            (
                "select a from t where post=? order by id offset ? rows fetch first ? rows only",
                expect!["8 × select t, one by one (critical)\n"],
            ),
            // The price of the day: a page of one row is a row.
            (
                "select a from t where day <= $1 order by day desc limit 1",
                expect!["8 × select t, one by one (critical)\n"],
            ),
        ] {
            check_titles(ID, &serial_of(text), expected);
        }
    }

    /// Loops and resolvers give each round's span a number.
    #[test]
    fn numbered_wrappers_are_one_context() {
        for (wrapper, path) in [
            (
                "graphql.resolve books.N.author",
                expect!["graphql.resolve books.{id}.author"],
            ),
            ("item-N", expect!["item-{id}"]),
            ("items[N].load", expect!["items[{id}].load"]),
            (
                "PostsController#item_N",
                expect!["PostsController#item_{id}"],
            ),
        ] {
            let mut text = line("shop", 0, "POST /graphql", 0, 90);
            for at in 0..8 {
                let wrapper = wrapper.replace('N', &at.to_string());
                text += &line("shop", 1, &wrapper, at * 10, 10);
                text += &line("shop", 2, "SELECT authors", at * 10 + 1, 8);
            }
            path.assert_eq(&call_path(ID, &text));
        }
    }

    #[test]
    fn documents_and_items_are_rows() {
        let mongo = "find shop.authors [client] {db.system=mongodb, db.operation=find, \
                     db.mongodb.collection=authors}";
        let dynamo = "DynamoDB.GetItem [client] {db.system=dynamodb, db.operation=GetItem}";
        let elastic = "search [client] {db.system=elasticsearch, db.operation=search, \
                       db.collection.name=authors}";
        for (call, expected) in [
            (
                mongo,
                expect![[r#"
                8 × find authors, one by one (critical)
            "#]],
            ),
            (
                dynamo,
                expect![[r#"
                8 × GetItem, one by one (critical)
            "#]],
            ),
            (
                elastic,
                expect![[r#"
                8 × search authors, one by one (critical)
            "#]],
            ),
        ] {
            check_titles(
                ID,
                &super::super::tests::serial("GET /books", &[call; 8]),
                expected,
            );
        }
    }

    /// The SDK's span has the HTTP client's below it.
    #[test]
    fn an_item_with_its_request_is_one_call() {
        let mut text = line("shop", 0, "GET /books", 0, 90);
        for at in 0..8 {
            let item = "DynamoDB.GetItem [client] {rpc.system=aws-api, rpc.service=DynamoDB, \
                        rpc.method=GetItem, db.system=dynamodb, db.operation=GetItem}";
            let post = "POST [client] {http.request.method=POST, \
                        url.full=https://dynamodb.eu-west-1.amazonaws.com/}";
            text += &line("shop", 1, item, at * 10, 10);
            text += &line("shop", 2, post, at * 10 + 1, 8);
        }
        // That no statements are shown is told, too.
        assert_eq!(findings(&text), [ID, "data-quality"]);
        check(
            ID,
            &text,
            expect![[r#"
            8 × GetItem, one by one
              shop of 90 ms · critical, confidence 0.50: the calls run one after the other; the sender shows no statement, only its name
              count 8, window 80 ms, sum 80 ms, saved 65 ms
              n-plus-one-query shop "GET /books" "GET /books" "GetItem"
              path: GET /books
              explanation: GET /books runs the same query 8 times, each after the last one has returned: 10 ms each (median), 80 ms of the request's 90 ms (88 %). The number of calls grows with the number of rows.
              fix: Collect the keys and read the items with `BatchGetItem`, 100 of them at a time at most.
        "#]],
        );
    }

    #[test]
    fn queues_locks_and_polling_wait_for_others() {
        silent(
            "GET /",
            "{db.query.text=\"select a from t where s = $1 limit 1 for update skip locked\"}",
        );
        silent("GET /", "{db.query.text=\"select pg_advisory_lock($1)\"}");
        let mut text = line("shop", 0, "GET /", 0, 1_000);
        for at in 0..8 {
            let query = "SELECT {db.query.text=\"select state from jobs where id = 7\"}";
            text += &line("shop", 1, query, at * 110, 10);
        }
        check_silent(ID, &text);
    }

    /// Eight queries with a number of its own each in place of every `N`.
    fn serial_of(text: &str) -> String {
        let queries: Vec<String> = (0..8)
            .map(|it| {
                format!(
                    "{{db.query.text=\"{}\"}}",
                    text.replace('N', &it.to_string())
                )
            })
            .collect();
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        serial("GET /", &queries)
    }

    #[test]
    fn chunks_of_a_list_are_no_rows() {
        silent(
            "GET /",
            "{db.query.text=\"select a from t where id in (1, 2, 3)\"}",
        );
    }

    #[test]
    fn retries_are_no_rows() {
        silent(
            "GET /",
            "{error, db.query.text=\"select a from t where id = ?\"}",
        );
    }

    #[test]
    fn probes_migrations_and_catalogues_are_upkeep() {
        silent(
            "GET /health",
            "{db.query.text=\"select a from t where id = ?\"}",
        );
        silent(
            "migrate",
            "{db.query.text=\"select a from t where id = ?\"}",
        );
        silent(
            "GET /",
            "{db.query.text=\"select a from pg_catalog.pg_type where oid = ?\"}",
        );
    }

    #[test]
    fn different_queries_are_no_loop() {
        let queries: Vec<String> = (0..8)
            .map(|it| format!("{{db.query.text=\"select a from t{it} where id = ?\"}}"))
            .collect();
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        check_silent(ID, &serial("GET /", &queries));
    }

    #[test]
    fn a_consumer_per_message_is_no_loop_of_the_producer() {
        let mut drawn = String::from(
            "shop  POST /orders                  |----------------------------------------|\n",
        );
        for at in 0..6 {
            let indent = " ".repeat(at * 6);
            drawn += &format!("shop    publish orders [producer]     {indent}|----|\n");
            drawn += &format!("mail      process orders [consumer]   {indent}|----|\n");
            drawn += &format!("mail        SELECT customers          {indent}|----|\n");
        }
        check_silent(ID, &drawn);
    }

    #[test]
    fn short_and_few_is_no_matter() {
        let mut drawn = format!("shop  GET /posts      |{}|\n", "-".repeat(200));
        for at in 0..5 {
            drawn += &format!("shop    SELECT items  {}||\n", " ".repeat(at * 20));
        }
        check_silent(ID, &drawn);
    }
}
