//! Calls that wait for one another without need.
//!
//! ```text
//! shop  GET /products/7                |--------------------------------------|
//! shop    GET prices/products/7          |----------|
//! shop    GET stock/products/7                       |---------|
//! shop    GET reviews/products/7                               |-------------|
//! ```
//!
//! That they follow each other at once is seen; that none needs another's answer is concluded, and the
//! finding says from what.

use super::{Detect, Detector, REPEATING};
use crate::category::Category;
use crate::claims::Claimed;
use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use crate::framework::library;
use crate::impact::impact;
use crate::language::language;
use crate::role::{Role, role};
use crate::span::Status;
use crate::sql::{self, StatementKind};
use crate::target::{Target, template};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "serial-calls",
    title: "Independent calls one after the other",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The request makes several calls that do not need each other's answers, and makes them one after the other. It \
waits for the sum of them, though it could wait for the longest only. Code that awaits each call where it needs \
the result does this without looking slow.

Start all of them, then wait for all: Promise.all, asyncio.gather, CompletableFuture.allOf, Task.WhenAll, an errgroup, \
try_join. Keep the number that run at once bounded, and mind that parallel statements need a database connection each.

How it is found: different calls of one request, each at least 20 ms, each starting as soon as the last has ended \
(within a tenth of the shorter one), which would together take at least 100 ms and 15 % of the request less if only \
the longest were waited for. They are independent for certain if the same calls overlap or stand in another order \
elsewhere in the trace; likely, if each one's visible ids were known before the first began; otherwise it is not \
known, and the finding is only information.

When it is wrong: a call may need something of an earlier answer that no span shows. Writes, calls after a failed one, calls \
to check who is asking (login, tokens, permissions), statements of one transaction, and calls with work of the \
service between them are left out; so are database calls in PHP, which has no way to run them in parallel, and those \
of one session of Django, Hibernate or Entity Framework, which has one connection. Calls of one kind in a loop are reported as N+1 instead.";

const EXAMPLE: &str = "
1 column = 5 ms
shop  GET /home                                                                                      |----------------------------------------------------------|
shop    GET pricing/v1/offers [client] {http.request.method=GET, url.full=http://pricing/v1/offers}   |-----------------|
shop    GET reviews/v1/latest [client] {http.request.method=GET, url.full=http://reviews/v1/latest}                      |-----------------|
shop    GET shipping/v1/zones [client] {http.request.method=GET, url.full=http://shipping/v1/zones}                                         |-----------------|
";

/// Shorter calls are not worth the complication.
const CALL_NS_MIN: u64 = 20_000_000;

/// A call follows another at once if what lies between is at most one part in so many of the shorter:
/// with more, the service worked with the first one's answer.
const GAP_SHARE: u64 = 10;

/// What running them in parallel saves is at least so much…
const SAVED_NS_MIN: u64 = 100_000_000;
/// …and so much of the request.
const SAVED_PERCENT_MIN: u64 = 15;

/// At most so many chains of one trace are looked at closely, those that save most. Each costs a walk over all
/// calls.
const CHAINS_MAX: usize = 64;

/// At most so many findings of one trace. Each costs a walk over its entry.
const FINDINGS_MAX: usize = 16;

/// A title names so many calls; further ones are `…`.
const TITLE_CALLS_MAX: usize = 3;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let mut long: Vec<usize> = Vec::new();
    for (at, call) in analysis.calls.iter().enumerate() {
        if analysis.trace.duration_ns(call.outer) >= CALL_NS_MIN
            && call.entry.is_some()
            && is_request(call.category)
        {
            long.push(at);
        }
    }
    // Most traces end here.
    if long.len() < 2 {
        return;
    }
    let claimed = Claimed::by(&REPEATING, findings);
    long.retain(|at| !claimed.has_within(analysis, &analysis.calls[*at]));
    let mut by_keys: BTreeMap<(usize, Vec<&str>), Vec<Vec<usize>>> = BTreeMap::new();
    for chain in chains(analysis, long) {
        let first = &analysis.calls[chain[0]];
        let keys = chain.iter().map(|it| &*analysis.calls[*it].key).collect();
        if let Some(entry) = first.entry {
            by_keys.entry((entry, keys)).or_default().push(chain);
        }
    }
    for ((entry, keys), chains) in by_keys.into_iter().take(FINDINGS_MAX) {
        let role = role(analysis, entry);
        if role != Role::Upkeep {
            findings.extend(finding(analysis, entry, &keys, &chains, role));
        }
    }
}

fn is_request(category: Category) -> bool {
    matches!(
        category,
        Category::Database | Category::Cache | Category::External
    )
}

/// Calls (indices into [`Analysis::calls`]) that follow each other at once, at least two in each chain, in
/// order of start.
fn chains(analysis: &Analysis<'_>, mut calls: Vec<usize>) -> Vec<Vec<usize>> {
    let start_ns = |it: &usize| analysis.trace.node(analysis.calls[*it].outer).start_ns;
    calls.sort_by_key(|it| (analysis.calls[*it].entry, start_ns(it), *it));
    let mut chains: Vec<Vec<usize>> = Vec::new();
    for at in calls {
        let call = &analysis.calls[at];
        if !may_move(analysis, call) {
            // Nothing is moved across it.
            chains.push(Vec::new());
            continue;
        }
        let goes_on = |chain: &&mut Vec<usize>| {
            let last = chain.last().map(|it| &analysis.calls[*it]);
            // The same again is a loop or polling.
            let is_new = chain.iter().all(|it| analysis.calls[*it].key != call.key);
            is_new && last.is_some_and(|it| follows_at_once(analysis, it, call))
        };
        match chains.last_mut().filter(goes_on) {
            Some(chain) => chain.push(at),
            None => chains.push(vec![at]),
        }
    }
    chains.retain(|it| it.len() >= 2 && gain_ns(analysis, it) >= SAVED_NS_MIN);
    chains.sort_by_key(|it| std::cmp::Reverse(gain_ns(analysis, it)));
    chains.truncate(CHAINS_MAX);
    chains.retain(|it| {
        !share_transaction(analysis, it)
            && !share_session(analysis, it)
            && !writes_between(analysis, it)
            && !works_between(analysis, it)
    });
    chains
}

/// A step of the service's own lies between two of the chain: it may work with the first one's answer.
fn works_between(analysis: &Analysis<'_>, chain: &[usize]) -> bool {
    let trace = &analysis.trace;
    let node = |it: &usize| trace.node(analysis.calls[*it].outer);
    let Some(parent) = chain.first().and_then(|it| node(it).parent) else {
        return false;
    };
    let is_step = |it: &SpanIdx| {
        analysis.categories[*it as usize] == Category::Handler && !trace.node(*it).detached
    };
    let mut steps = trace.children(parent).filter(is_step);
    steps.any(|step| {
        let step = trace.node(step);
        // The chain is in order of time, and no two of it overlap.
        let next = chain.partition_point(|it| node(it).start_ns < step.end_ns);
        let before = next.checked_sub(1).map(|it| node(&chain[it]));
        next < chain.len()
            && step.end_ns > step.start_ns
            && before.is_some_and(|it| it.end_ns <= step.start_ns)
    })
}

/// Two statements of one mapper's session run on its one connection, one after the other.
fn share_session(analysis: &Analysis<'_>, chain: &[usize]) -> bool {
    const ONE_CONNECTION: &[&str] = &["Django", "Hibernate / Spring Data", "Entity Framework"];
    let calls = chain.iter().map(|it| &analysis.calls[*it]);
    let statements = calls.filter(|it| it.category == Category::Database);
    let in_session = statements.filter(|call| {
        let top = call
            .entry
            .map_or(call.outer, |it| analysis.entries[it].span);
        let library = library(analysis, call.span, top).name;
        library.is_some_and(|it| ONE_CONNECTION.contains(&it))
    });
    in_session.count() >= 2
}

/// Something quick is written while the chain runs: a later read may be meant to see it.
fn writes_between(analysis: &Analysis<'_>, chain: &[usize]) -> bool {
    let calls = chain.iter().map(|it| &analysis.calls[*it]);
    let starts = calls.map(|it| analysis.trace.node(it.outer).start_ns);
    let (Some(from), Some(to)) = (starts.clone().min(), starts.max()) else {
        return false;
    };
    let entry = analysis.calls[chain[0]].entry;
    analysis.calls.iter().any(|it| {
        let start_ns = analysis.trace.node(it.outer).start_ns;
        it.entry == entry
            && (from..to).contains(&start_ns)
            && is_request(it.category)
            && !is_read(analysis, it)
    })
}

/// A read that succeeded and does not decide whether the others may happen.
fn may_move(analysis: &Analysis<'_>, call: &Call) -> bool {
    let failed = [call.outer, call.span].map(|it| analysis.trace.span(it).status);
    let cannot_wait_for_two =
        call.category != Category::External && language(analysis, call.outer) == "php";
    !failed.contains(&Status::Error)
        && !analysis.trace.node(call.outer).detached
        && !cannot_wait_for_two
        && is_read(analysis, call)
        && !is_gate(&call.key)
}

/// A statement or request that changes nothing, as far as can be told.
fn is_read(analysis: &Analysis<'_>, call: &Call) -> bool {
    if let Some(statement) = &call.statement {
        return statement.kind == StatementKind::Select
            || call.category == Category::Cache && is_reading_name(&call.name);
    }
    let facts = Facts::of(&analysis.trace.spans, analysis.trace.span(call.span));
    match facts.http_method {
        "GET" | "HEAD" => true,
        // Searches take their question in the body.
        "POST" => ["/graphql", "search", "/query"]
            .iter()
            .any(|it| call.key.contains(it)),
        "" if call.category == Category::External && facts.rpc_method.is_empty() => {
            call.key.starts_with("GET ")
        }
        "" => is_reading_name(&call.name),
        _ => false,
    }
}

/// `Stock/GetItems`, `SELECT shop.items`, `GET cart:?`.
fn is_reading_name(name: &str) -> bool {
    const READS: &[&str] = &[
        "get", "list", "find", "fetch", "search", "query", "read", "lookup", "select", "count",
        "mget", "hget", "describe", "batchget",
    ];
    let operation = name.rsplit('/').next().unwrap_or(name);
    let reads = |verb: &str| {
        let begins = operation.get(..verb.len());
        begins.is_some_and(|it| it.eq_ignore_ascii_case(verb))
    };
    READS.iter().any(|it| reads(it))
}

/// Asks who is calling and what they may do: what comes after must not come before.
fn is_gate(key: &str) -> bool {
    const WORDS: &[&str] = &[
        "auth",
        "token",
        "session",
        "login",
        "permission",
        "introspect",
        "userinfo",
        "jwks",
        "entitle",
        "acl",
        "lock",
    ];
    let key = key.to_ascii_lowercase();
    let words = key.split(|it: char| !it.is_ascii_alphanumeric());
    // `authorize` and `permissions`, but not `authors`.
    words
        .into_iter()
        .any(|word| match word.strip_prefix("author") {
            Some(rest) => rest.starts_with('i'),
            None => WORDS.iter().any(|it| word.starts_with(it)),
        })
}

fn follows_at_once(analysis: &Analysis<'_>, last: &Call, call: &Call) -> bool {
    if last.entry != call.entry {
        return false;
    }
    let (last, next) = (
        analysis.trace.node(last.outer),
        analysis.trace.node(call.outer),
    );
    let shorter_ns = (last.end_ns - last.start_ns).min(next.end_ns - next.start_ns);
    next.start_ns >= last.end_ns && next.start_ns - last.end_ns <= shorter_ns / GAP_SHARE
}

/// What is waited for less if only the longest of the chain is waited for, ns.
fn gain_ns(analysis: &Analysis<'_>, chain: &[usize]) -> u64 {
    let durations = chain
        .iter()
        .map(|it| analysis.trace.duration_ns(analysis.calls[*it].outer));
    let (sum, longest) = durations.fold((0_u64, 0), |(sum, longest), it| {
        (sum.saturating_add(it), it.max(longest))
    });
    sum - longest
}

/// Two statements of one transaction run on one connection, one after the other.
fn share_transaction(analysis: &Analysis<'_>, chain: &[usize]) -> bool {
    let statements: Vec<&Call> = chain
        .iter()
        .map(|it| &analysis.calls[*it])
        .filter(|it| it.category == Category::Database)
        .collect();
    let [first, .., last] = &statements[..] else {
        return false;
    };
    let end_ns = analysis.trace.node(last.outer).start_ns;
    let mut controls: Vec<(u64, bool)> = analysis
        .calls
        .iter()
        .filter(|it| it.entry == first.entry)
        .filter_map(|it| {
            let opens = controls_transaction(analysis, it)?;
            Some((analysis.trace.node(it.outer).start_ns, opens))
        })
        .filter(|(start, _)| *start <= end_ns)
        .collect();
    controls.sort_unstable();
    // Open at the last statement; whether it opened before the first or between them: nothing moves.
    controls.last().is_some_and(|(_, opens)| *opens)
}

/// Begins (true) or ends (false) a transaction; `None` if it does neither.
fn controls_transaction(analysis: &Analysis<'_>, call: &Call) -> Option<bool> {
    if let Some(statement) = &call.statement {
        let ends = |it: &str| it.starts_with("commit") || it.starts_with("end");
        let rolls_back = |it: &str| it.starts_with("rollback") && !it.starts_with("rollback to");
        let text = &statement.text;
        return (statement.kind == StatementKind::Transaction)
            .then(|| !ends(text) && !rolls_back(text));
    }
    match analysis.trace.span(call.span).name {
        "sql.conn.begin_tx" | "BEGIN" => Some(true),
        "sql.tx.commit" | "sql.tx.rollback" | "COMMIT" | "ROLLBACK" => Some(false),
        _ => None,
    }
}

/// What is known about whether one call needs another's answer.
#[derive(Clone, PartialEq, Debug)]
enum Independence {
    Proven(String),
    Likely(String),
    Unknown(String),
}

fn independence(analysis: &Analysis<'_>, entry: usize, chain: &[usize]) -> Independence {
    if chain
        .windows(2)
        .all(|pair| other_order(analysis, entry, pair[0], pair[1]))
    {
        return Independence::Proven(
            "elsewhere in this trace the same calls overlap or stand in another order".into(),
        );
    }
    let mut known = ids_of_request(analysis, entry);
    for (nth, at) in chain.iter().enumerate() {
        let call = &analysis.calls[*at];
        let inputs = inputs(analysis, call);
        match inputs {
            // Whatever the first one needs was there before it.
            Inputs::Ids(ids) if nth == 0 => known.extend(ids),
            _ if nth == 0 => {}
            Inputs::Hidden => {
                return Independence::Unknown(format!(
                    "what {} asks for is not visible: it may need an earlier answer",
                    call.name
                ));
            }
            Inputs::Ids(ids) => {
                if let Some(new) = ids.iter().find(|it| !known.contains(it)) {
                    let shown = if new.bytes().all(|it| it.is_ascii_digit()) && new.len() < 10 {
                        new
                    } else {
                        "an id"
                    };
                    return Independence::Unknown(format!(
                        "{} asks for {shown}, which may come from an earlier answer",
                        call.name
                    ));
                }
            }
        }
    }
    Independence::Likely("all they ask for was known before the first began".into())
}

/// Does another entry of the trace make these two calls at once, or the other way round?
fn other_order(analysis: &Analysis<'_>, entry: usize, first: usize, second: usize) -> bool {
    let (first, second) = (&analysis.calls[first], &analysis.calls[second]);
    let endpoint = &analysis.entries[entry].endpoint;
    let mut by_entry: BTreeMap<usize, [Vec<SpanIdx>; 2]> = BTreeMap::new();
    for call in &analysis.calls {
        let Some(at) = call.entry.filter(|it| *it != entry) else {
            continue;
        };
        let side = usize::from(call.key == second.key);
        if (call.key == first.key || side == 1) && analysis.entries[at].endpoint == *endpoint {
            by_entry.entry(at).or_default()[side].push(call.outer);
        }
    }
    by_entry.values().any(|sides| match sides {
        // In a loop each stands before and after the other: only single calls tell.
        [a, b] if a.len() == 1 && b.len() == 1 => {
            analysis.trace.node(b[0]).start_ns < analysis.trace.node(a[0]).end_ns
        }
        _ => false,
    })
}

/// What a call shows of what it asks for.
enum Inputs<'a> {
    Hidden,
    /// All of it; empty if it asks for nothing in particular.
    Ids(Vec<&'a str>),
}

fn inputs<'a>(analysis: &Analysis<'a>, call: &Call) -> Inputs<'a> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    if let Some(statement) = &call.statement {
        let text = spans.text(span, &["db.query.text", "db.statement"]);
        if statement.had_placeholders || statement.truncated {
            return Inputs::Hidden;
        }
        let literals = sql::literals(text.unwrap_or(""), &call.system);
        // `limit 20` stands at the end and is nobody's id; words are constants of the code.
        let bounds =
            statement.text.matches("limit ?").count() + statement.text.matches("offset ?").count();
        let ids = &literals[..literals.len().saturating_sub(bounds)];
        let bare = ids.iter().map(|it| it.trim_matches(['\'', '"']));
        return Inputs::Ids(bare.filter(has_digit).collect());
    }
    let facts = Facts::of(spans, span);
    let target = Target::of(&facts);
    let is_get = matches!(facts.http_method, "GET" | "HEAD" | "");
    if target.path.is_empty() || !is_get || !facts.rpc_method.is_empty() {
        return Inputs::Hidden;
    }
    match ids_of_query(facts.url_full) {
        Some(values) => Inputs::Ids([ids_of_path(target.path), values].concat()),
        None => Inputs::Hidden,
    }
}

/// The ids that came with the request: nothing has to be asked to know them.
fn ids_of_request<'a>(analysis: &Analysis<'a>, entry: usize) -> Vec<&'a str> {
    let span = analysis.trace.span(analysis.entries[entry].span);
    let facts = Facts::of(&analysis.trace.spans, span);
    let query = analysis.trace.spans.text(span, &["url.query"]);
    let mut ids = ids_of_path(Target::of(&facts).path);
    for text in [facts.url_full, facts.url_path, query.unwrap_or("")] {
        ids.extend(ids_of_query(text).unwrap_or_default());
    }
    ids
}

fn ids_of_path(path: &str) -> Vec<&str> {
    let is_id = |it: &&str| *it != "{id}" && template(it) == "{id}";
    path.split('/').filter(is_id).collect()
}

/// Parameters of a query that say how to answer, and not about what.
const MANNERS: &[&str] = &[
    "count",
    "days",
    "depth",
    "first",
    "height",
    "limit",
    "max",
    "min",
    "offset",
    "page",
    "page_size",
    "per_page",
    "pagesize",
    "perpage",
    "size",
    "top",
    "v",
    "version",
    "width",
];

/// The values of a query with a digit in them; `None` if its sender hid some.
fn ids_of_query(url: &str) -> Option<Vec<&str>> {
    let query = match url.split_once('?') {
        Some((_, query)) => query,
        None if url.contains('/') => "",
        None => url,
    };
    let query = query.split('#').next().unwrap_or("");
    let mut ids = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or(("", pair));
        if matches!(value, "*" | "?" | "REDACTED" | "[REDACTED]" | "{}") {
            return None;
        }
        if has_digit(&value) && !MANNERS.iter().any(|it| key.eq_ignore_ascii_case(it)) {
            ids.push(value);
        }
    }
    Some(ids)
}

fn has_digit(text: &&str) -> bool {
    text.bytes().any(|it| it.is_ascii_digit())
}

fn finding(
    analysis: &Analysis<'_>,
    at: usize,
    keys: &[&str],
    chains: &[Vec<usize>],
    role: Role,
) -> Option<Finding> {
    let entry = &analysis.entries[at];
    let calls = chains.concat();
    let outer: Vec<SpanIdx> = calls.iter().map(|it| analysis.calls[*it].outer).collect();
    let duration_of = |it: &usize| analysis.trace.duration_ns(analysis.calls[*it].outer);
    let longest_ns: u64 = chains
        .iter()
        .map(|it| it.iter().map(duration_of).max().unwrap_or(0))
        .sum();
    let impact = impact(analysis, entry, &outer);
    let saved_ns = impact.removable_ns.saturating_sub(longest_ns);
    if saved_ns < SAVED_NS_MIN || percent(saved_ns, entry.duration_ns) < SAVED_PERCENT_MIN {
        return None;
    }
    let independence = independence(analysis, at, &chains[0]);
    let of_database = chains[0]
        .iter()
        .filter(|it| analysis.calls[**it].category == Category::Database)
        .count();
    let (confidence, severity) = match &independence {
        Independence::Proven(_) => (0.9, role.severity(saved_ns, entry.duration_ns)),
        Independence::Likely(_) => (0.65, role.severity(saved_ns, entry.duration_ns)),
        Independence::Unknown(_) => (0.35, Severity::Info),
    };
    let (Independence::Proven(reason)
    | Independence::Likely(reason)
    | Independence::Unknown(reason)) = &independence;
    let mut reasons = vec![
        reason.clone(),
        "each begins as soon as the last has ended".to_string(),
    ];
    if of_database >= 2 {
        reasons.push("no transaction around the statements is visible".to_string());
    }
    let names: Vec<&str> = chains[0]
        .iter()
        .map(|it| &*analysis.calls[*it].name)
        .collect();
    Some(Finding {
        title: title(&names, &independence),
        severity,
        confidence: if of_database >= 2 {
            confidence - 0.1
        } else {
            confidence
        },
        reasons,
        saved_ns: saved_ns.min(entry.duration_ns),
        explanation: explanation(analysis, at, &chains[0], &independence),
        fix: fix(language(analysis, entry.span), of_database, &independence),
        fix_code: fix_code(language(analysis, entry.span)),
        ..Finding::in_calls(DETECTOR.id, analysis, at, &calls, keys)
    })
}

fn title(names: &[&str], independence: &Independence) -> String {
    let more = if names.len() > TITLE_CALLS_MAX {
        ", …"
    } else {
        ""
    };
    let shown = names[..names.len().min(TITLE_CALLS_MAX)].join(", ");
    let what = match independence {
        Independence::Unknown(_) => "calls one after the other, maybe without need",
        _ => "independent calls one after the other",
    };
    format!("{} {what}: {shown}{more}", names.len())
}

fn explanation(
    analysis: &Analysis<'_>,
    at: usize,
    chain: &[usize],
    independence: &Independence,
) -> String {
    let entry = &analysis.entries[at];
    let times: Vec<String> = chain
        .iter()
        .map(|it| {
            let call = &analysis.calls[*it];
            format!(
                "{} {}",
                call.name,
                duration(analysis.trace.duration_ns(call.outer))
            )
        })
        .collect();
    let longest_ns = chain
        .iter()
        .map(|it| analysis.trace.duration_ns(analysis.calls[*it].outer))
        .max();
    let longest_ns = longest_ns.unwrap_or(0);
    let conclusion = match independence {
        Independence::Unknown(_) => "If none needs another's answer, waiting",
        _ => "Waiting",
    };
    format!(
        "{} waits for {}, each after the other: {} of the request's {}. {conclusion} for all at once takes as long as \
         the longest, {}.",
        entry.endpoint,
        times.join(", "),
        duration(longest_ns + gain_ns(analysis, chain)),
        duration(entry.duration_ns),
        duration(longest_ns),
    )
}

fn fix(language: &str, of_database: usize, independence: &Independence) -> String {
    let how = match language {
        "nodejs" | "webjs" => "Start all calls, then await them together with `Promise.all`.",
        "python" => {
            "Run them together: `asyncio.gather` (or a `TaskGroup`) in asynchronous code, a \
             `ThreadPoolExecutor` shared by all requests otherwise."
        }
        "java" => {
            "Run them together: `CompletableFuture.supplyAsync` with an executor of bounded size and \
             `allOf`, virtual threads, or `Mono.zip` in reactive code."
        }
        "dotnet" => {
            "Start all tasks, then `await Task.WhenAll(…)`; a DbContext serves one call at a time, so give each task its own."
        }
        "go" => {
            "Start each in a goroutine of an `errgroup.Group` (with `SetLimit`) and `Wait` for all."
        }
        "rust" => "Await them together: `tokio::try_join!`, or `try_join_all` for many.",
        "ruby" => {
            "Start them before the first result is needed: `load_async` for Active Record relations \
             (Rails 7), `Concurrent::Promises.zip` or threads for HTTP calls."
        }
        "php" => {
            "Send them together: `getAsync` and `Utils::unwrap` in Guzzle, `Http::pool` in Laravel, `stream` of Symfony's HttpClient."
        }
        "erlang" => "Start a task for each and await all: `Task.async` and `Task.await_many`.",
        _ => "Start all calls before waiting for the first, and then wait for all of them.",
    };
    let connections = match of_database {
        0 | 1 => "",
        _ => {
            " Statements that run at once need a connection each: where the pool is short, one statement that returns both is better."
        }
    };
    let condition = match independence {
        Independence::Unknown(_) => "Where none needs another's answer: ",
        _ => "",
    };
    format!("{condition}{how}{connections}")
}

fn fix_code(language: &str) -> Option<String> {
    let code = match language {
        "nodejs" | "webjs" => "const [a, b] = await Promise.all([loadA(), loadB()]);",
        "python" => "a, b = await asyncio.gather(load_a(), load_b())",
        "dotnet" => "var (a, b) = (LoadA(), LoadB());\nawait Task.WhenAll(a, b);",
        "rust" => "let (a, b) = tokio::try_join!(load_a(), load_b())?;",
        _ => return None,
    };
    Some(code.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles, findings, line};
    use super::{DETECTOR, is_gate};
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    /// Three reads of one product, one after the other.
    const PRODUCT: &str = r#"
        1 column = 10 ms
        shop  GET /products/{id} {http.route=/products/{id}, http.request.method=GET} {url.path=/products/7, res.telemetry.sdk.language=nodejs}  |--------------------------------------|
        shop    GET {url.full="http://prices/products/7", http.request.method=GET}                                                                 |----------|
        shop    GET {url.full="http://stock/products/7", http.request.method=GET}                                                                             |---------|
        shop    GET {url.full="http://reviews/products/7?page=1", http.request.method=GET}                                                                              |-------------|
        "#;

    #[test]
    fn reads_whose_ids_came_with_the_request() {
        check(
            ID,
            PRODUCT,
            expect![[r#"
                3 independent calls one after the other: GET prices/products/{id}, GET stock/products/{id}, GET reviews/products/{id}
                  shop of 390 ms · critical, confidence 0.65: all they ask for was known before the first began; each begins as soon as the last has ended
                  count 3, window 350 ms, sum 350 ms, saved 210 ms
                  serial-calls shop "GET /products/{id}" "GET prices/products/{id}" "GET stock/products/{id}" "GET reviews/products/{id}"
                  path: GET /products/{id}
                  parameters: 7 | 7 | 7, page = 1
                  explanation: GET /products/{id} waits for GET prices/products/{id} 110 ms, GET stock/products/{id} 100 ms, GET reviews/products/{id} 140 ms, each after the other: 350 ms of the request's 390 ms. Waiting for all at once takes as long as the longest, 140 ms.
                  fix: Start all calls, then await them together with `Promise.all`.
                  fix code: const [a, b] = await Promise.all([loadA(), loadB()]);
            "#]],
        );
    }

    #[test]
    fn an_id_that_may_come_from_an_answer_is_information() {
        check(
            ID,
            &changed(PRODUCT, "stock/products/7", "stock/items/4711"),
            expect![[r#"
                3 calls one after the other, maybe without need: GET prices/products/{id}, GET stock/items/{id}, GET reviews/products/{id}
                  shop of 390 ms · info, confidence 0.35: GET stock/items/{id} asks for 4711, which may come from an earlier answer; each begins as soon as the last has ended
                  count 3, window 350 ms, sum 350 ms, saved 210 ms
                  serial-calls shop "GET /products/{id}" "GET prices/products/{id}" "GET stock/items/{id}" "GET reviews/products/{id}"
                  path: GET /products/{id}
                  parameters: 7 | 4711 | 7, page = 1
                  explanation: GET /products/{id} waits for GET prices/products/{id} 110 ms, GET stock/items/{id} 100 ms, GET reviews/products/{id} 140 ms, each after the other: 350 ms of the request's 390 ms. If none needs another's answer, waiting for all at once takes as long as the longest, 140 ms.
                  fix: Where none needs another's answer: Start all calls, then await them together with `Promise.all`.
                  fix code: const [a, b] = await Promise.all([loadA(), loadB()]);
            "#]],
        );
        check_titles(
            ID,
            &changed(PRODUCT, "?page=1", "?user=*"),
            expect![[r#"
            3 calls one after the other, maybe without need: GET prices/products/{id}, GET stock/products/{id}, GET reviews/products/{id} (info)
        "#]],
        );
    }

    #[test]
    fn the_other_order_elsewhere_is_a_proof() {
        check(
            ID,
            r#"
            1 column = 10 ms
            web   GET /                                                                        |--------------------------------------------------------------|
            web     GET shop/a [client] {url.full="http://shop/cart"}                          |-----------------------------|
            shop      GET /cart {http.route=/cart}                                             |-----------------------------|
            shop        GET {url.full="http://prices/of/4", http.request.method=GET}           |------------|
            shop        GET {url.full="http://stock/of/5", http.request.method=GET}                         |----------------|
            web     GET shop/a [client] {url.full="http://shop/cart"}                                                        |-------------------------------|
            shop      GET /cart {http.route=/cart}                                                                           |-------------------------------|
            shop        GET {url.full="http://stock/of/6", http.request.method=GET}                                          |--|
            shop        GET {url.full="http://prices/of/8", http.request.method=GET}                                                             |--|
            "#,
            expect![[r#"
                2 independent calls one after the other: GET prices/of/{id}, GET stock/of/{id}
                  shop of 300 ms · critical, confidence 0.90: elsewhere in this trace the same calls overlap or stand in another order; each begins as soon as the last has ended
                  count 2, window 300 ms, sum 300 ms, saved 130 ms
                  serial-calls shop "/cart" "GET prices/of/{id}" "GET stock/of/{id}"
                  path: /cart
                  parameters: 4 | 5
                  explanation: /cart waits for GET prices/of/{id} 130 ms, GET stock/of/{id} 170 ms, each after the other: 300 ms of the request's 300 ms. Waiting for all at once takes as long as the longest, 170 ms.
                  fix: Start all calls before waiting for the first, and then wait for all of them.
            "#]],
        );
    }

    #[test]
    fn statements_need_a_connection_each() {
        check(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /search {res.telemetry.sdk.language=ruby}                        |--------------------------------------|
            shop    SELECT a {db.query.text="select count(*) from products"}             |---------------|
            shop    SELECT b {db.query.text="select * from banners where place = 'top'"}                 |--------------|
            "#,
            expect![[r#"
                2 independent calls one after the other: select products, select banners
                  shop of 390 ms · critical, confidence 0.55: all they ask for was known before the first began; each begins as soon as the last has ended; no transaction around the statements is visible
                  count 2, window 310 ms, sum 310 ms, saved 150 ms
                  serial-calls shop "GET /search" "select count(*) from products" "select * from banners where place = ?"
                  path: GET /search
                  explanation: GET /search waits for select products 160 ms, select banners 150 ms, each after the other: 310 ms of the request's 390 ms. Waiting for all at once takes as long as the longest, 160 ms.
                  fix: Start them before the first result is needed: `load_async` for Active Record relations (Rails 7), `Concurrent::Promises.zip` or threads for HTTP calls. Statements that run at once need a connection each: where the pool is short, one statement that returns both is better.
            "#]],
        );
    }

    #[test]
    fn in_php_only_requests_can_run_at_once() {
        let php = changed(PRODUCT, "=nodejs", "=php");
        check_titles(
            ID,
            &php,
            expect![[r#"
                3 independent calls one after the other: GET prices/products/{id}, GET stock/products/{id}, GET reviews/products/{id} (critical)
            "#]],
        );
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /search {res.telemetry.sdk.language=php}                       |--------------------------------------|
            shop    SELECT a {db.query.text="select count(*) from products"}         |---------------|
            shop    SELECT b {db.query.text="select * from banners where x = 'top'"}                 |--------------|
            "#,
        );
    }

    #[test]
    fn in_a_transaction_statements_share_a_connection() {
        let drawn = r#"
            1 column = 10 ms
            shop  GET /search                                                            |--------------------------------------|
            shop    BEGIN                                                                |
            shop    SELECT a {db.query.text="select count(*) from products"}             |---------------|
            shop    SELECT b {db.query.text="select * from banners where place = 'top'"}                 |--------------|
            shop    COMMIT                                                                                              ||
            "#;
        check_silent(ID, drawn);
        check_titles(
            ID,
            &changed(drawn, "BEGIN", "ping"),
            expect![[r#"
            2 independent calls one after the other: select products, select banners (critical)
        "#]],
        );
    }

    #[test]
    fn writes_keep_their_place() {
        for method in ["POST", "PUT", "DELETE"] {
            let line = r#"stock/products/7", http.request.method="#;
            let writes = changed(PRODUCT, &format!("{line}GET"), &format!("{line}{method}"));
            check_silent(ID, &writes);
        }
    }

    #[test]
    fn a_quick_write_between_two_reads_is_meant_to_be_seen() {
        let drawn = r#"
            1 column = 5 ms
            shop  GET /search                                                             |-----------------------------------------------------------|
            shop    SELECT a {db.query.text="select count(*) from products"}              |-----------------------|
            shop    UPDATE b {db.query.text="update products set seen = 1"}                                        ||
            shop    SELECT b {db.query.text="select * from banners where place = 'top'"}                            |-----------------------|
            "#;
        check_silent(ID, drawn);
        // Nothing but the write keeps it silent.
        let read = changed(
            drawn,
            "update products set seen = 1",
            "select seen from products",
        );
        check_titles(
            ID,
            &read,
            expect![[r#"
            2 independent calls one after the other: select products, select banners (critical)
        "#]],
        );
    }

    #[test]
    fn who_may_is_asked_first() {
        let drawn = r#"
            1 column = 10 ms
            shop  GET /me                                                                      |--------------------------------------|
            shop    GET {url.full="http://identity/oauth/introspect", http.request.method=GET}   |---------------|
            shop    GET {url.full="http://profiles/me", http.request.method=GET}                                 |--------------|
            "#;
        check_silent(ID, drawn);
        check_titles(
            ID,
            &changed(drawn, "identity/oauth/introspect", "identity/avatars/small"),
            expect![[r#"
                2 independent calls one after the other: GET identity/avatars/small, GET profiles/me (critical)
            "#]],
        );
        assert!(is_gate("GET auth-service/check") && is_gate("auth.v1.Permissions/List"));
        assert!(!is_gate("select * from authors") && !is_gate("GET shop/blocks"));
    }

    #[test]
    fn what_follows_a_failure_is_the_way_out() {
        let failed = changed(
            PRODUCT,
            r#"stock/products/7", http.request.method=GET}"#,
            r#"stock/products/7", http.request.method=GET, error}"#,
        );
        check_silent(ID, &failed);
    }

    #[test]
    fn work_between_calls_uses_what_they_brought() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /cart                                                          |--------------------------------------|
            shop    GET {url.full="http://prices/all", http.request.method=GET}        |-----------|
            shop    compute                                                                        |---|
            shop    GET {url.full="http://stock/all", http.request.method=GET}                         |--------------|
            "#,
        );
    }

    #[test]
    fn a_short_step_between_calls_may_use_what_they_brought() {
        let get =
            |path: &str| format!("GET {{url.full=\"http://{path}/all\", http.request.method=GET}}");
        let drawn = |step: Option<&str>| {
            let mut text = line("shop", 0, "GET /cart", 0, 330);
            text += &line("shop", 1, &get("prices"), 0, 150);
            if let Some(step) = step {
                text += &line("shop", 1, step, 151, 8);
            }
            text + &line("shop", 1, &get("stock"), 160, 160)
        };
        let said = |step| findings(&drawn(step)).contains(&ID);
        assert!(said(None));
        assert!(!said(Some("parse prices")));
    }

    #[test]
    fn statements_of_one_session_share_a_connection() {
        let drawn = |scope: &str| {
            let query = |text: &str| {
                format!("q [client] {{scope={scope}, db.system=mssql, db.query.text=\"{text}\"}}")
            };
            line("shop", 0, "GET /cart", 0, 330)
                + &line("shop", 1, &query("select a from offers"), 0, 150)
                + &line("shop", 1, &query("select b from latest"), 151, 160)
        };
        let said = |scope: &str| findings(&drawn(scope)).contains(&ID);
        assert!(said("some.driver"));
        assert!(!said("OpenTelemetry.Instrumentation.EntityFrameworkCore"));
    }

    #[test]
    fn what_runs_at_once_already_is_silent() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /cart                                                          |--------------------------------------|
            shop    GET {url.full="http://prices/all", http.request.method=GET}        |-----------|
            shop    GET {url.full="http://stock/all", http.request.method=GET}           |--------------|
            "#,
        );
    }

    #[test]
    fn beside_something_longer_nothing_is_saved() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /cart                                                          |--------------------------------------|
            shop    GET {url.full="http://slow/all", http.request.method=GET}        |-----------------------------------|
            shop    GET {url.full="http://prices/all", http.request.method=GET}        |-----------|
            shop    GET {url.full="http://stock/all", http.request.method=GET}                     |--------------|
            "#,
        );
    }

    #[test]
    fn too_little_to_save() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /cart                                                      |--------------------------------------|
            shop    GET {url.full="http://prices/all", http.request.method=GET}    |--------|
            shop    GET {url.full="http://stock/all", http.request.method=GET}              |-------------------|
            "#,
        );
    }

    #[test]
    fn the_same_again_is_polling_or_a_loop() {
        check_silent(
            ID,
            r#"
            1 column = 10 ms
            shop  GET /export                                                   |--------------------------------------|
            shop    GET {url.full="http://jobs/4711", http.request.method=GET}    |-----------|
            shop    GET {url.full="http://jobs/4712", http.request.method=GET}                |--------------|
            "#,
        );
    }

    #[test]
    fn what_is_part_of_a_loop_is_reported_there() {
        let mut drawn = String::from("1 column = 10 ms\n");
        drawn += &format!("shop  GET /posts{:<60}|{}|\n", "", "-".repeat(160));
        for nth in 0..6 {
            for (at, table) in ["authors", "badges"].into_iter().enumerate() {
                let text = format!(
                    "shop    SELECT {table} {{db.query.text=\"select * from {table} where id = {nth}\"}}"
                );
                drawn += &format!(
                    "{text:<76}{}|{}|\n",
                    " ".repeat(nth * 26 + at * 13),
                    "-".repeat(12)
                );
            }
        }
        check_silent(ID, &drawn);
        let found = |id| {
            check_titles(
                id,
                &drawn,
                expect![[r#"
                12 queries in one loop: 6 × select authors, 6 × select badges (critical)
            "#]],
            );
        };
        found("n-plus-one-query");
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(ID, &changed(PRODUCT, "=/products/{id}", "=/health"));
    }
}
