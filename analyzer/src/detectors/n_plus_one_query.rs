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
//! behind a call to another service: the loop is what is reported, once.

use super::{Detect, Detector};
use crate::category::Category;
use crate::evidence::{self, Parameters};
use crate::finding::Finding;
use crate::framework::{framework, load_together};
use crate::groups::{Loop, loops};
use crate::impact::impact;
use crate::role::{Role, role};
use crate::span::Status;
use crate::sql::{Fingerprint, StatementKind};
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};

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
is what the calls take on the critical path, less one and a half calls for the query that replaces them, \
and less what runs beside them and would still be waited for.

When it is wrong: a deliberate loop in small steps looks the same. Pagination (only offset or a cursor \
changes), lists fetched in chunks, retries after errors, health checks and the database's own catalogue are \
left out; findings in consumers and jobs are only informational. If the sender hides parameters, it cannot \
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

/// Loops shorter than this are worth no alert…
const UNION_NS_MIN: u64 = 20_000_000;
/// …unless they are this much of the request…
const UNION_PERCENT_MIN: u64 = 10;
/// …or so many that the loop is certain and will grow with the data.
const REPEATS_CERTAIN: usize = 25;

/// What the one query that replaces the loop takes, as a multiple of the loop's median call: it returns
/// more rows but pays for one round trip.
const BATCH_COST_PERCENT: u64 = 150;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let wanted = |call: &Call| is_candidate(analysis, call);
    for found in loops(analysis, Category::Database, wanted, settings.repeats_min) {
        let role = role(analysis, found.entry);
        if role != Role::Upkeep && matters(analysis, &found) {
            findings.push(finding(analysis, &found, role));
        }
    }
}

/// A read that succeeded and is no pagination, chunk or look into the catalogue.
fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    let failed = [call.outer, call.span].map(|it| analysis.trace.span(it).status);
    if failed.contains(&Status::Error) {
        return false;
    }
    match &call.statement {
        Some(statement) => {
            statement.kind == StatementKind::Select
                && statement.in_list_len <= 1
                && !is_pagination(&statement.text)
                && !reads_catalogue(statement)
        }
        // Senders without statement text often name the operation at least: `SELECT shop.authors`.
        None => call
            .name
            .get(..7)
            .is_some_and(|it| it.eq_ignore_ascii_case("select ")),
    }
}

/// The next page, not the next row: an offset, or a cursor and nothing that names a row.
fn is_pagination(text: &str) -> bool {
    let walks = text.contains(" > ?") || text.contains(" < ?") || text.contains(" >= ?");
    let ends =
        text.contains(" limit ?") || text.contains("select top ") || text.contains(" fetch ");
    text.contains(" offset ?") || walks && ends && !text.contains(" = ?")
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

fn matters(analysis: &Analysis<'_>, found: &Loop) -> bool {
    let request_ns = analysis.entries[found.entry].duration_ns;
    found.waited_ns >= UNION_NS_MIN
        || percent(found.waited_ns, request_ns) >= UNION_PERCENT_MIN
        || found.calls.len() >= REPEATS_CERTAIN
}

fn finding(analysis: &Analysis<'_>, found: &Loop, role: Role) -> Finding {
    let entry = &analysis.entries[found.entry];
    let first = &analysis.calls[found.steps[0].first];
    let statement = statement_text(first);
    let saved_ns = saved_ns(analysis, found);
    let (confidence, reasons) = confidence(analysis, found);
    let framework = framework(analysis, first.span, entry.span);
    let path = found.call_path.join(" > ");
    Finding {
        title: title(analysis, found),
        severity: role.severity(saved_ns, entry.duration_ns),
        confidence,
        reasons,
        call_path: found.call_path.clone(),
        statement: Some(statement.to_string()),
        target: first
            .statement
            .as_ref()
            .and_then(|it| it.tables.first().cloned()),
        parameters: evidence::parameters(analysis, &step_calls(analysis, found, 0)),
        saved_ns,
        explanation: explanation(analysis, found),
        fix: fix(analysis, found, load_together(framework)),
        fix_code: fix_code(analysis, found),
        framework: framework.map(|it| it.name),
        ..Finding::in_calls(
            DETECTOR.id,
            analysis,
            found.entry,
            &found.calls,
            &[&path, statement],
        )
    }
}

/// The calls of one step, in order of start.
fn step_calls(analysis: &Analysis<'_>, found: &Loop, step: usize) -> Vec<usize> {
    let key = &analysis.calls[found.steps[step].first].key;
    let of_step = found
        .calls
        .iter()
        .filter(|it| analysis.calls[**it].key == *key);
    of_step.copied().collect()
}

fn statement_text(call: &Call) -> &str {
    call.statement.as_ref().map_or(&call.key, |it| &it.text)
}

fn summary(call: &Call) -> String {
    match &call.statement {
        Some(statement) => statement.summary(),
        None => call.name.to_string(),
    }
}

/// The calls are in another service, behind one of the entry's own calls.
fn is_remote(analysis: &Analysis<'_>, found: &Loop) -> bool {
    analysis.calls[found.steps[0].first].entry != Some(found.entry)
}

/// What the loop takes off the critical path, less the query (per step) that replaces it.
fn saved_ns(analysis: &Analysis<'_>, found: &Loop) -> u64 {
    let entry = &analysis.entries[found.entry];
    let one_ns = found.median_ns(analysis) * BATCH_COST_PERCENT / 100;
    let replacement_ns = one_ns.saturating_mul(found.steps.len() as u64);
    let removable_ns = impact(analysis, entry, &found.waiting).removable_ns;
    removable_ns
        .saturating_sub(replacement_ns)
        .min(entry.duration_ns)
}

/// Statements of one loop that a title names; further ones are `…`.
const TITLE_STEPS_MAX: usize = 3;

fn title(analysis: &Analysis<'_>, found: &Loop) -> String {
    let step = |at: usize| {
        let step = &found.steps[at];
        format!("{} × {}", step.count, summary(&analysis.calls[step.first]))
    };
    if found.steps.len() > 1 {
        let steps: Vec<String> = (0..found.steps.len().min(TITLE_STEPS_MAX))
            .map(step)
            .collect();
        let more = if found.steps.len() > TITLE_STEPS_MAX {
            ", …"
        } else {
            ""
        };
        return format!(
            "{} queries in one loop: {}{more}",
            found.calls.len(),
            steps.join(", ")
        );
    }
    if is_remote(analysis, found) {
        let service = analysis.calls[found.steps[0].first].entry;
        let service = service.map_or("another service", |it| analysis.entries[it].service.name);
        return format!("{} in {service}, one call each", step(0));
    }
    let manner = match (has_same_parameters(analysis, found), found.is_serial()) {
        (true, _) => "the same every time",
        (false, true) => "one by one",
        (false, false) => "side by side",
    };
    format!("{}, {manner}", step(0))
}

fn has_same_parameters(analysis: &Analysis<'_>, found: &Loop) -> bool {
    let calls = step_calls(analysis, found, 0);
    evidence::compare_parameters(analysis, &calls) == Parameters::Same
}

/// How sure, and why.
fn confidence(analysis: &Analysis<'_>, found: &Loop) -> (f32, Vec<String>) {
    let mut confidence = 0.6;
    let mut reasons = Vec::new();
    let mut say = |weight: f32, reason: String| {
        confidence += weight;
        reasons.push(reason);
    };
    let first = &analysis.calls[found.steps[0].first];
    let entry = &analysis.entries[found.entry];
    let repeats = found.steps[0].count;
    match rows_of_source(analysis, found) {
        Some(rows) if rows == repeats as u64 => {
            say(
                0.25,
                format!(
                    "the query before it returned {rows} rows, and this one runs {repeats} times"
                ),
            );
        }
        Some(rows) if rows > repeats as u64 => {
            say(0.1, format!("the query before it returned {rows} rows"));
        }
        _ => {}
    }
    match evidence::compare_parameters(analysis, &step_calls(analysis, found, 0)) {
        Parameters::Different => say(0.15, "its parameters differ from call to call".into()),
        Parameters::Same => say(0.1, "its parameters are the same every time".into()),
        Parameters::Hidden => {}
    }
    if found.is_serial() {
        say(0.1, "the calls run one after the other".into());
    }
    if repeats >= REPEATS_CERTAIN {
        say(0.1, format!("{repeats} repeats are no coincidence"));
    }
    if let Some(framework) = framework(analysis, first.span, entry.span) {
        say(
            0.05,
            format!(
                "{} is in use, which loads lazily unless told otherwise",
                framework.name
            ),
        );
    }
    match &first.statement {
        Some(statement) if statement.truncated => {
            say(
                -0.3,
                "the statement was cut off by its sender: its end may differ".into(),
            );
        }
        Some(statement)
            if statement.text.contains(" in (?)") || statement.text.contains("any(?)") =>
        {
            say(
                -0.2,
                "it takes a list whose length is not visible: it may fetch in chunks".into(),
            );
        }
        Some(_) => {}
        None => say(-0.2, "the sender shows no statement, only its name".into()),
    }
    (confidence.clamp(0.05, 0.99), reasons)
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

fn explanation(analysis: &Analysis<'_>, found: &Loop) -> String {
    let entry = &analysis.entries[found.entry];
    let count = found.calls.len();
    let what = match found.steps.len() {
        1 => format!("runs the same query {count} times"),
        steps => format!("runs {steps} queries in turns, {count} calls in all"),
    };
    let how = match (callee(analysis, found), found.is_serial()) {
        (Some(callee), _) => format!("inside of {} calls to {callee}", found.waiting.len()),
        (None, true) => "each after the last one has returned".to_string(),
        (None, false) => "several at a time".to_string(),
    };
    let list = match source(analysis, found) {
        Some(source) => {
            format!(
                " The list probably comes from {}, which runs just before.",
                summary(source)
            )
        }
        None => String::new(),
    };
    let grows = match has_same_parameters(analysis, found) {
        true => "",
        false => " The number of calls grows with the number of rows.",
    };
    format!(
        "{} {what}, {how}: {} each (median), {} of the request's {} ({} %).{list}{grows}",
        entry.endpoint,
        duration(found.median_ns(analysis)),
        duration(found.waited_ns),
        duration(entry.duration_ns),
        percent(found.waited_ns, entry.duration_ns),
    )
}

/// `stock (GET /items)`, if the queries are in another service.
fn callee(analysis: &Analysis<'_>, found: &Loop) -> Option<String> {
    let entry = analysis.calls[found.steps[0].first]
        .entry
        .filter(|it| *it != found.entry)?;
    let entry = &analysis.entries[entry];
    Some(format!("{} ({})", entry.service.name, entry.endpoint))
}

fn fix(analysis: &Analysis<'_>, found: &Loop, load_together: &str) -> String {
    if is_remote(analysis, found) {
        let callee = analysis.calls[found.steps[0].first].entry;
        let callee = callee.map_or("the other service", |it| analysis.entries[it].service.name);
        return format!(
            "Ask {callee} once: give it an endpoint that takes all ids and answers with one query, and call \
             it before the loop instead of inside of it."
        );
    }
    if has_same_parameters(analysis, found) {
        return "The parameters are the same every time: run the query once before the loop, or keep its \
                result for the length of the request."
            .into();
    }
    let is_resolver = found
        .call_path
        .iter()
        .any(|it| it.contains("graphql.resolve"));
    match is_resolver {
        true => format!(
            "Batch the resolver with a DataLoader: it gathers the keys of one tick and loads them with one query. {load_together}"
        ),
        false => load_together.to_string(),
    }
}

/// The query with a list in place of its one value, where the statement is simple enough to say so.
fn fix_code(analysis: &Analysis<'_>, found: &Loop) -> Option<String> {
    let call = &analysis.calls[found.steps[0].first];
    let statement = call
        .statement
        .as_ref()
        .filter(|it| !it.truncated && it.tables.len() == 1)?;
    let text = statement
        .text
        .strip_suffix(" limit ?")
        .unwrap_or(&statement.text);
    let (before, after) = text.split_once(" = ?")?;
    if before.contains('?') || after.contains('?') {
        return None;
    }
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let system = spans
        .text(span, &["db.system.name", "db.system"])
        .unwrap_or("");
    let list = match system {
        "postgresql" | "postgres" => "= any($1)",
        _ => "in (?, ?, …)",
    };
    Some(format!("{before} {list}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles};
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

    #[test]
    fn a_loop_over_another_service_is_reported_once_at_the_loop() {
        check(
            ID,
            "
            shop   GET /cart                                          |-----------------------------------|
            shop     GET stock/items [client] {server.address=stock}  |-----|
            stock      GET /items                                      |---|
            stock        SELECT items                                   |-|
            shop     GET stock/items [client] {server.address=stock}        |-----|
            stock      GET /items                                            |---|
            stock        SELECT items                                         |-|
            shop     GET stock/items [client] {server.address=stock}              |-----|
            stock      GET /items                                                  |---|
            stock        SELECT items                                               |-|
            shop     GET stock/items [client] {server.address=stock}                    |-----|
            stock      GET /items                                                        |---|
            stock        SELECT items                                                     |-|
            shop     GET stock/items [client] {server.address=stock}                          |-----|
            stock      GET /items                                                              |---|
            stock        SELECT items                                                           |-|
            ",
            expect![[r#"
                5 × select items in stock, one call each
                  shop of 36 ms · critical, confidence 0.70: the calls run one after the other
                  count 5, window 26 ms, sum 10 ms, saved 21 ms
                  n-plus-one-query shop "GET /cart" "GET /cart > GET stock/items > stock · GET /items" "select items"
                  path: GET /cart > GET stock/items > stock · GET /items
                  explanation: GET /cart runs the same query 5 times, inside of 5 calls to stock (GET /items): 6 ms each (median), 30 ms of the request's 36 ms (83 %). The number of calls grows with the number of rows.
                  fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it.
            "#]],
        );
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

    #[test]
    fn the_same_row_again_and_again_is_said_so() {
        check_titles(
            ID,
            "
            shop  GET /posts                                                                |-----------------------------|
            shop    SELECT settings {db.query.text=\"select * from settings where id = 1\"} |----|
            shop    SELECT settings {db.query.text=\"select * from settings where id = 1\"}      |----|
            shop    SELECT settings {db.query.text=\"select * from settings where id = 1\"}           |----|
            shop    SELECT settings {db.query.text=\"select * from settings where id = 1\"}                |----|
            shop    SELECT settings {db.query.text=\"select * from settings where id = 1\"}                     |----|
            ",
            expect![[r#"
                5 × select settings, the same every time (critical)
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
        silent(
            "GET /",
            "{db.query.text=\"select a from t where x = ? order by a limit 9 offset 3\"}",
        );
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
