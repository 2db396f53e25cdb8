//! One command for each key.
//!
//! ```text
//! shop  GET /cart           |------------------------------|
//! shop    GET price:?       |-|
//! shop    GET price:?          |-|
//! shop    GET price:?             |-|       … and so on
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::evidence::Parameters;
use crate::finding::{Finding, Severity};
use crate::groups::loops;
use crate::loops::{Sure, Told, WAITED_PERCENT_MIN, failed, is_batch, matters, statement_text};
use crate::role::{Role, role};
use crate::sql::StatementKind;
use crate::wording::percent;
use crate::{Analysis, Call, Settings};

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-cache",
    title: "N+1 cache calls",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The same cache command runs again and again within one request, each time for another key: a GET per element of \
a list.

A command takes the cache a few microseconds, but the request waits for a network round trip each time, a few \
hundred microseconds or more. A list of 200 elements waits for 200 of them, where one would do.

Fix it with a command that takes many keys (MGET, MSET, get_multi, fetch_multi, get_many) or with a pipeline, which \
sends all commands at once and then reads all answers. What belongs together can also live in one hash (HMGET).

How it is found: at least 10 commands of one name and key pattern below the same chain of operations of one request, \
which together take at least 20 ms or a tenth of the request, or at least 25 commands. Below a tenth of the request it \
is only informational.

When it is wrong: commands that depend on the answer to the last one. Commands with many keys, pipelines and \
transactions, scans, blocking commands and failed commands are left out. Some senders show no keys; then it cannot \
be told whether one key is read over and over.";

const EXAMPLE: &str = "
shop  GET /feed                                                             |--------------------------------------------------------------|
shop    GET post:40 [client] {db.system=redis, db.statement=\"GET post:40\"}   |---|
shop    GET post:41 [client] {db.system=redis, db.statement=\"GET post:41\"}         |---|
shop    GET post:42 [client] {db.system=redis, db.statement=\"GET post:42\"}               |---|
shop    GET post:43 [client] {db.system=redis, db.statement=\"GET post:43\"}                     |---|
shop    GET post:44 [client] {db.system=redis, db.statement=\"GET post:44\"}                           |---|
shop    GET post:45 [client] {db.system=redis, db.statement=\"GET post:45\"}                                 |---|
shop    GET post:46 [client] {db.system=redis, db.statement=\"GET post:46\"}                                       |---|
shop    GET post:47 [client] {db.system=redis, db.statement=\"GET post:47\"}                                             |---|
shop    GET post:48 [client] {db.system=redis, db.statement=\"GET post:48\"}                                                   |---|
shop    GET post:49 [client] {db.system=redis, db.statement=\"GET post:49\"}                                                         |---|
";

/// Cache calls are quick, and a handful of keys is how caches are used: only twice as many repeats as elsewhere
/// are a loop.
const REPEATS_FACTOR: usize = 2;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let wanted = |call: &Call| is_candidate(analysis, call);
    let repeats_min = settings.repeats_min.saturating_mul(REPEATS_FACTOR);
    for found in loops(
        analysis,
        Category::Cache,
        works_on_a_key,
        wanted,
        repeats_min,
    ) {
        let role = role(analysis, found.entry);
        if role != Role::Upkeep && matters(analysis, &found) {
            findings.push(finding(&Told::of(analysis, &found, role)));
        }
    }
}

fn works_on_a_key(call: &Call) -> bool {
    let Some(statement) = &call.statement else {
        // Spans of frameworks' caches: `cache_read.active_support`.
        return true;
    };
    let keeping = matches!(
        statement.kind,
        StatementKind::Session | StatementKind::Transaction
    );
    !keeping && !is_no_loop(&statement.text)
}

/// Commands that take many keys, walk in steps, wait, or stand in a pipeline with others.
fn is_no_loop(text: &str) -> bool {
    let command = text.split(' ').next().unwrap_or("");
    let many = matches!(
        command,
        "mget" | "mset" | "msetnx" | "hmget" | "hmset" | "getmulti" | "get_multi" | "gets"
    );
    let steps = matches!(command, "scan" | "hscan" | "sscan" | "zscan");
    let waits = matches!(
        command,
        "blpop"
            | "brpop"
            | "brpoplpush"
            | "blmove"
            | "bzpopmin"
            | "bzpopmax"
            | "xread"
            | "xreadgroup"
            | "subscribe"
            | "psubscribe"
            | "wait"
    );
    many || steps || waits || text.contains("; ")
}

fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let text = spans.text(span, &["db.query.text", "db.statement"]);
    // A pipeline of one command over and over has one line per command, and one fingerprint.
    let is_pipeline = text.is_some_and(|it| it.trim_end().contains('\n'))
        || span.name.to_ascii_lowercase().contains("pipeline");
    !is_pipeline && !failed(analysis, call) && !is_batch(analysis, call)
}

fn finding(told: &Told<'_, '_>) -> Finding {
    let mut sure = Sure::at(0.7);
    match of_command(told.first()) {
        // That their parameters are equal says nothing of changes.
        Does::Changes if told.parameters == Parameters::Same => sure.weigh_order(told),
        _ => sure.weigh_loop(told),
    }
    if told.first().statement.is_none() {
        sure.say(-0.2, "the sender shows no command, only its name");
    }
    let found = told.finding(DETECTOR.id, told.saved_in_batches_ns(), sure);
    let share = percent(told.found.waited_ns, told.entry().duration_ns);
    Finding {
        title: title(told),
        severity: match share < WAITED_PERCENT_MIN {
            true => Severity::Info,
            false => found.severity,
        },
        target: Some(told.first().system.clone()).filter(|it| !it.is_empty()),
        explanation: explanation(told),
        fix: fix(told),
        fix_code: fix_code(statement_text(told.first())),
        ..found
    }
}

/// Changes are never the same: each counts.
fn title(told: &Told<'_, '_>) -> String {
    let title = told.title("cache calls");
    let changes = of_command(told.first()) == Does::Changes;
    match title
        .strip_suffix("the same every time")
        .filter(|_| changes)
    {
        Some(title) if told.found.is_serial() => format!("{title}one by one"),
        Some(title) => format!("{title}side by side"),
        None => title,
    }
}

fn explanation(told: &Told<'_, '_>) -> String {
    let count = told.found.calls.len();
    let what = match told.found.steps.len() {
        1 => match of_command(told.first()) {
            Does::Changes => format!("sends the cache {count} commands, one at a time"),
            _ => format!("asks the cache {count} times, a key at a time"),
        },
        steps => format!("asks the cache {count} times with {steps} commands in turns"),
    };
    format!(
        "{} {what}, {}: {}. Nearly all of it is the way there and back.",
        told.entry().endpoint,
        told.manner(),
        told.numbers(),
    )
}

fn fix(told: &Told<'_, '_>) -> String {
    if told.is_remote() {
        return format!(
            "Ask {} once: give it an endpoint that takes all keys and reads them with one command, and call it before \
             the loop instead of inside of it.",
            told.remote_service()
        );
    }
    match (of_command(told.first()), told.parameters) {
        (Does::Changes, _) => "Send the commands as one pipeline, which waits for all answers once. Some take many \
                               values at once: `RPUSH key a b c`, `DEL a b c`, `LPOP key count`, `MSET`."
            .into(),
        (_, Parameters::Same) => {
            format!("The key is the same every time. {}", told.library.remember)
        }
        (Does::ReadsStructures, _) => {
            "Send the commands as one pipeline, which waits for all answers once: no command reads several of these \
             keys. Fields of one hash come with one `HMGET`."
                .into()
        }
        (Does::ReadsValues, _) => told.library.read_keys.into(),
    }
}

/// What a loop's command does decides what can do the work of many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// `GET`, and whatever is not known.
    ReadsValues,
    /// `HGETALL`, `LRANGE`, `HGET`: there is no such command for many keys.
    ReadsStructures,
    /// `INCR`, `LPOP`, `SET`: each counts, also with equal parameters.
    Changes,
}

fn of_command(call: &Call) -> Does {
    let Some(statement) = &call.statement else {
        return Does::ReadsValues;
    };
    let command = statement.text.split(' ').next().unwrap_or("");
    match statement.kind {
        StatementKind::Insert | StatementKind::Update | StatementKind::Delete => Does::Changes,
        StatementKind::Select if !matches!(command, "get" | "json.get") => Does::ReadsStructures,
        _ => Does::ReadsValues,
    }
}

/// `get price:?` → `mget price:? price:? …`.
fn fix_code(text: &str) -> Option<String> {
    let key = text.strip_prefix("get ")?;
    let is_pattern = !key.contains(' ') && key.contains('?');
    is_pattern.then(|| format!("mget {key} {key} …"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, line, serial};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    fn get(key: &str) -> String {
        format!("GET [client] {{db.system=redis, db.statement=\"GET {key}\"}}")
    }

    fn gets(count: usize) -> Vec<String> {
        (0..count).map(|it| get(&format!("price:{it}"))).collect()
    }

    fn drawn(endpoint: &str, commands: &[String]) -> String {
        serial(endpoint, commands)
    }

    fn silent(command: &str) {
        check_silent(ID, &serial("GET /cart", &[command; 12]));
    }

    #[test]
    fn a_command_per_key() {
        check(
            ID,
            &drawn("GET /cart", &gets(10)),
            expect![[r#"
            10 × get price:?, one by one
              shop of 105 ms · critical, confidence 0.95: its parameters differ from call to call; the calls run one after the other
              count 10, window 100 ms, sum 100 ms, saved 85 ms
              n-plus-one-cache shop "GET /cart" "GET /cart" "get price:?"
              path: GET /cart
              explanation: GET /cart asks the cache 10 times, a key at a time, each after the last one has returned: 10 ms each (median), 100 ms of the request's 105 ms (95 %). Nearly all of it is the way there and back.
              fix: Fetch all keys with one command (`MGET`), or send the commands as one pipeline.
              fix code: mget price:? price:? …
        "#]],
        );
    }

    #[test]
    fn changes_and_structures_want_a_pipeline() {
        let lpop = "LPOP [client] {db.system=redis, db.statement=\"LPOP jobs\"}";
        check(
            ID,
            &serial("GET /cart", &[lpop; 10]),
            expect![[r#"
                10 × lpop jobs, one by one
                  shop of 105 ms · critical, confidence 0.80: the calls run one after the other
                  count 10, window 100 ms, sum 100 ms, saved 85 ms
                  n-plus-one-cache shop "GET /cart" "GET /cart" "lpop jobs"
                  path: GET /cart
                  explanation: GET /cart sends the cache 10 commands, one at a time, each after the last one has returned: 10 ms each (median), 100 ms of the request's 105 ms (95 %). Nearly all of it is the way there and back.
                  fix: Send the commands as one pipeline, which waits for all answers once. Some take many values at once: `RPUSH key a b c`, `DEL a b c`, `LPOP key count`, `MSET`.
            "#]],
        );
        let all = (0..10).map(|it| {
            format!("HGETALL [client] {{db.system=redis, db.statement=\"HGETALL u:{it}\"}}")
        });
        check(
            ID,
            &serial("GET /cart", &all.collect::<Vec<_>>()),
            expect![[r#"
                10 × hgetall u:?, one by one
                  shop of 105 ms · critical, confidence 0.95: its parameters differ from call to call; the calls run one after the other
                  count 10, window 100 ms, sum 100 ms, saved 85 ms
                  n-plus-one-cache shop "GET /cart" "GET /cart" "hgetall u:?"
                  path: GET /cart
                  explanation: GET /cart asks the cache 10 times, a key at a time, each after the last one has returned: 10 ms each (median), 100 ms of the request's 105 ms (95 %). Nearly all of it is the way there and back.
                  fix: Send the commands as one pipeline, which waits for all answers once: no command reads several of these keys. Fields of one hash come with one `HMGET`.
            "#]],
        );
    }

    #[test]
    fn a_small_part_of_the_request_is_information() {
        let mut text = line("shop", 0, "GET /cart", 0, 900);
        for (at, get) in gets(30).iter().enumerate() {
            text += &line("shop", 1, get, at * 2, 1);
        }
        check_titles(
            ID,
            &text,
            expect![[r#"
            30 × get price:?, one by one (info)
        "#]],
        );
    }

    #[test]
    fn caches_of_frameworks_have_names_only() {
        check_titles(
            ID,
            &serial("GET /cart", &["cache_read.active_support"; 10]),
            expect![[r#"
                10 × cache_read.active_support, one by one (critical)
            "#]],
        );
    }

    #[test]
    fn nine_keys_are_how_caches_are_used() {
        check_silent(ID, &drawn("GET /cart", &gets(9)));
    }

    #[test]
    fn many_keys_at_once_are_the_cure() {
        silent("MGET [client] {db.system=redis, db.statement=\"MGET a:1 a:2 a:3\"}");
        silent("HMGET [client] {db.system=redis, db.statement=\"HMGET a:1 b c\"}");
    }

    #[test]
    fn pipelines_and_transactions_are_sent_at_once() {
        silent("PIPELINE [client] {db.system=redis, db.statement=\"GET a:1\"}");
        silent(
            "SET SET [client] {db.system=redis, db.statement=\"SET a:1 ?\", db.redis.pipeline_length=3}",
        );
        silent("GET [client] {db.system=redis, db.statement=\"GET a:1; GET b:2\"}");
        silent("MULTI [client] {db.system=redis, db.statement=\"MULTI\"}");
        silent("PING [client] {db.system=redis, db.statement=\"PING\"}");
    }

    #[test]
    fn scans_and_waits_are_steps() {
        silent("SCAN [client] {db.system=redis, db.statement=\"SCAN 17 MATCH a:*\"}");
        silent("BLPOP [client] {db.system=redis, db.statement=\"BLPOP queue 1\"}");
    }

    #[test]
    fn failures_are_retries() {
        silent("GET [client] {error, db.system=redis, db.statement=\"GET a:1\"}");
    }

    #[test]
    fn different_keys_of_one_page_are_no_loop() {
        let names = ["user", "cart", "menu", "flags", "theme", "rates"];
        let twice = names.iter().chain(&names);
        let commands: Vec<String> = twice.map(|it| get(it)).collect();
        check_silent(ID, &drawn("GET /cart", &commands));
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(ID, &drawn("GET /health", &gets(20)));
    }
}
