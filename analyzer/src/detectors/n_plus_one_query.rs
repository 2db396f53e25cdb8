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
use crate::finding::{Finding, Severity};
use crate::framework::{framework, load_together};
use crate::groups::{Loop, loops};
use crate::impact::{impact, severity};
use crate::role::{Role, role};
use crate::span::Status;
use crate::sql::{Fingerprint, StatementKind};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call};

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-query",
    title: "N+1 queries",
    explain: EXPLAIN,
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

/// Fewer repeats are as often a page that happens to need a thing three times as a loop.
const REPEATS_MIN: usize = 5;

/// Loops shorter than this are worth no alert…
const UNION_NS_MIN: u64 = 20_000_000;
/// …unless they are this much of the request…
const UNION_PERCENT_MIN: u64 = 10;
/// …or so many that the loop is certain and will grow with the data.
const REPEATS_CERTAIN: usize = 25;

/// What the one query that replaces the loop takes, as a multiple of the loop's median call: it returns
/// more rows but pays for one round trip.
const BATCH_COST_PERCENT: u64 = 150;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>) {
    for found in loops(analysis, |call| is_candidate(analysis, call), REPEATS_MIN) {
        let role = role(analysis, found.entry);
        if role != Role::Upkeep && matters(analysis, &found) {
            findings.push(finding(analysis, &found, role));
        }
    }
}

/// A read that succeeded and is no pagination, chunk or look into the catalogue.
fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    let failed = [call.outer, call.span].map(|it| analysis.trace.span(it).status);
    if call.category != Category::Database || failed.contains(&Status::Error) {
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
        None => call.name.get(..7).is_some_and(|it| it.eq_ignore_ascii_case("select ")),
    }
}

/// The next page, not the next row: an offset, or a cursor and nothing that names a row.
fn is_pagination(text: &str) -> bool {
    let walks = text.contains(" > ?") || text.contains(" < ?") || text.contains(" >= ?");
    let ends = text.contains(" limit ?") || text.contains("select top ") || text.contains(" fetch ");
    text.contains(" offset ?") || walks && ends && !text.contains(" = ?")
}

/// Drivers and mappers ask the catalogue for types and columns when they start.
fn reads_catalogue(statement: &Fingerprint) -> bool {
    let catalogues = ["information_schema.", "pg_catalog.", "pg_", "sys.", "sqlite_master", "schema_migrations"];
    let is_catalogue = |table: &String| catalogues.iter().any(|it| table.starts_with(it));
    !statement.tables.is_empty() && statement.tables.iter().all(is_catalogue)
}

fn matters(analysis: &Analysis<'_>, found: &Loop) -> bool {
    let request_ns = analysis.entries[found.entry].duration_ns;
    found.union_ns >= UNION_NS_MIN
        || percent(found.union_ns, request_ns) >= UNION_PERCENT_MIN
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
        detector: DETECTOR.id,
        fingerprint: Finding::fingerprint_of(
            DETECTOR.id,
            entry.service.name,
            &[&entry.endpoint, &path, statement],
        ),
        title: title(analysis, found),
        severity: match role {
            Role::Request => severity(saved_ns, entry.duration_ns),
            _ => Severity::Info,
        },
        confidence,
        reasons,
        entry: found.entry,
        offenders: found.calls.iter().map(|it| analysis.calls[*it].span).collect(),
        call_path: found.call_path.clone(),
        statement: Some(statement.to_string()),
        target: first.statement.as_ref().and_then(|it| it.tables.first().cloned()),
        parameters: evidence::parameters(analysis, &step_calls(analysis, found, 0)),
        count: found.calls.len() as u32,
        window_ns: found.window_ns,
        sum_ns: found.sum_ns,
        saved_ns,
        code: evidence::code(analysis, first.span, entry.span),
        explanation: explanation(analysis, found),
        fix: fix(analysis, found, load_together(framework)),
        fix_code: fix_code(analysis, found),
        framework: framework.map(|it| it.name),
    }
}

/// The calls of one step, in order of start.
fn step_calls(analysis: &Analysis<'_>, found: &Loop, step: usize) -> Vec<usize> {
    let key = &analysis.calls[found.steps[step].first].key;
    let of_step = found.calls.iter().filter(|it| analysis.calls[**it].key == *key);
    of_step.copied().collect()
}

fn statement_text(call: &Call) -> &str {
    call.statement.as_ref().map_or(&call.key, |it| &it.text)
}

fn summary(call: &Call) -> String {
    match &call.statement {
        Some(statement) => statement.summary(),
        None => call.name.clone(),
    }
}

/// The calls are in another service, behind one of the entry's own calls.
fn is_remote(analysis: &Analysis<'_>, found: &Loop) -> bool {
    analysis.calls[found.steps[0].first].entry != Some(found.entry)
}

/// What the loop takes off the critical path, less the query (per step) that replaces it.
fn saved_ns(analysis: &Analysis<'_>, found: &Loop) -> u64 {
    let entry = &analysis.entries[found.entry];
    let median_ns = match is_remote(analysis, found) {
        true => median_ns(analysis, &found.waiting),
        false => found.median_ns(analysis),
    };
    let replacement_ns = median_ns * BATCH_COST_PERCENT / 100 * found.steps.len() as u64;
    let removable_ns = impact(analysis, entry, &found.waiting).removable_ns;
    removable_ns.saturating_sub(replacement_ns).min(entry.duration_ns)
}

fn median_ns(analysis: &Analysis<'_>, spans: &[SpanIdx]) -> u64 {
    let mut durations: Vec<u64> = spans.iter().map(|it| analysis.trace.duration_ns(*it)).collect();
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or(0)
}

fn title(analysis: &Analysis<'_>, found: &Loop) -> String {
    let step = |at: usize| {
        let step = &found.steps[at];
        format!("{} × {}", step.count, summary(&analysis.calls[step.first]))
    };
    if found.steps.len() > 1 {
        let steps: Vec<String> = (0..found.steps.len()).map(step).collect();
        return format!("{} queries in one loop: {}", found.calls.len(), steps.join(", "));
    }
    if is_remote(analysis, found) {
        let service = analysis.calls[found.steps[0].first].entry;
        let service = service.map_or("another service", |it| analysis.entries[it].service.name);
        return format!("{} in {service}, one call each", step(0));
    }
    let manner = if found.is_serial() { "one by one" } else { "side by side" };
    format!("{}, {manner}", step(0))
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
            say(0.25, format!("the query before it returned {rows} rows, and this one runs {repeats} times"));
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
        say(0.05, format!("{} is in use, which loads lazily unless told otherwise", framework.name));
    }
    match &first.statement {
        Some(statement) if statement.truncated => {
            say(-0.3, "the statement was cut off by its sender: its end may differ".into());
        }
        Some(statement) if statement.text.contains(" in (?)") || statement.text.contains("any(?)") => {
            say(-0.2, "it takes a list whose length is not visible: it may fetch in chunks".into());
        }
        Some(_) => {}
        None => say(-0.2, "the sender shows no statement, only its name".into()),
    }
    (confidence.clamp(0.05, 0.99), reasons)
}

/// The last query of the entry that ended before the loop began.
fn source<'b>(analysis: &'b Analysis<'_>, found: &Loop) -> Option<&'b Call> {
    let begin = analysis.trace.node(analysis.calls[found.calls[0]].outer).start_ns;
    let reads = analysis.calls.iter().filter(|it| {
        let is_select = it.statement.as_ref().is_some_and(|it| it.kind == StatementKind::Select);
        it.entry == Some(found.entry) && is_select && analysis.trace.node(it.outer).end_ns <= begin
    });
    reads.max_by_key(|it| analysis.trace.node(it.outer).end_ns)
}

fn rows_of_source(analysis: &Analysis<'_>, found: &Loop) -> Option<u64> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(source(analysis, found)?.span);
    let keys = ["db.response.returned_rows", "db.rows_affected", "pgx.rows_affected"];
    u64::try_from(spans.first_of(span, &keys)?.as_int()?).ok()
}

fn explanation(analysis: &Analysis<'_>, found: &Loop) -> String {
    let entry = &analysis.entries[found.entry];
    let first = &analysis.calls[found.steps[0].first];
    let count = found.calls.len();
    let mut text = format!("{} ", entry.endpoint);
    match found.steps.len() {
        1 => text += &format!("runs the same query {count} times"),
        steps => text += &format!("runs {steps} queries in turns, {count} calls in all"),
    }
    if is_remote(analysis, found) {
        let callee = first.entry.map(|it| &analysis.entries[it]);
        let callee = callee.map_or(String::new(), |it| format!("{} ({})", it.service.name, it.endpoint));
        let calls = found.waiting.len();
        text += &format!(", inside of {calls} calls to {callee}");
    } else {
        text += match found.is_serial() {
            true => ", each after the last one has returned",
            false => ", several at a time",
        };
    }
    let window_percent = percent(found.union_ns, entry.duration_ns);
    text += &format!(
        ": {} each (median), {} together, spread over {} of the request's {} ({window_percent} %).",
        duration(found.median_ns(analysis)),
        duration(found.sum_ns),
        duration(found.window_ns),
        duration(entry.duration_ns),
    );
    if let Some(source) = source(analysis, found) {
        text += &format!(" The list probably comes from {}, which runs just before.", summary(source));
    }
    text + " The number of calls grows with the number of rows."
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
    if evidence::compare_parameters(analysis, &step_calls(analysis, found, 0)) == Parameters::Same {
        return "The parameters are the same every time: run the query once before the loop, or keep its \
                result for the length of the request."
            .into();
    }
    let is_resolver = found.call_path.iter().any(|it| it.contains("graphql.resolve"));
    match is_resolver {
        true => format!("Batch the resolver with a DataLoader: it gathers the keys of one tick and loads them with one query. {load_together}"),
        false => load_together.to_string(),
    }
}

/// The query with a list in place of its one value, where the statement is simple enough to say so.
fn fix_code(analysis: &Analysis<'_>, found: &Loop) -> Option<String> {
    let call = &analysis.calls[found.steps[0].first];
    let statement = call.statement.as_ref().filter(|it| !it.truncated && it.tables.len() == 1)?;
    let text = statement.text.strip_suffix(" limit ?").unwrap_or(&statement.text);
    let (before, after) = text.split_once(" = ?")?;
    if before.contains('?') || after.contains('?') {
        return None;
    }
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let system = spans.text(span, &["db.system.name", "db.system"]).unwrap_or("");
    let list = match system {
        "postgresql" | "postgres" => "= any($1)",
        _ => "in (?, ?, …)",
    };
    Some(format!("{before} {list}{after}"))
}
