//! One request to another service for each element of a list.
//!
//! ```text
//! shop   GET /cart                |------------------------------|
//! shop     GET stock/items/{id}   |-----|
//! stock      GET /items/{id}       |---|
//! shop     GET stock/items/{id}         |-----|
//! stock      GET /items/{id}             |---|
//! shop     GET stock/items/{id}               |-----|       … and so on
//! ```
//!
//! One after the other or side by side. What the callee does for each of them, a query or a call of its own,
//! is gone when the requests are one, so it is not reported again.

use super::{Detect, Detector, duplicate_call};
use crate::category::Category;
use crate::evidence::{self, Parameters};
use crate::finding::{Finding, Severity};
use crate::groups::{Loop, loops};
use crate::loops::{Sure, Told, WAITED_PERCENT_MIN, callee, failed, is_nameless};
use crate::role::{Role, role};
use crate::span::{Span, Spans};
use crate::trace::SpanIdx;
use crate::wording::percent;
use crate::{Analysis, Call, Settings};
use std::collections::BTreeSet;

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-call",
    title: "N+1 calls",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The same request to another service, over HTTP or RPC, is made again and again within one request, each time for \
another element of a list.

Each call pays for the network, for the callee's framework, its authentication and usually a query of its own. One \
after the other they add up; side by side they take the connections and threads of both services, and the slowest \
decides. Their number grows with the data.

Fix it with an endpoint that takes all ids and answers with one query (GET /items?ids=…, or a batch method), and call \
it before the loop. Where the callee cannot be changed: cache what changes rarely, and make the calls side by side with \
a bound.

How it is found: at least 5 requests of one method, host and URL template (url.template, else the callee's http.route, \
else the path without its ids) below the same chain of operations of one request, which together take at least 50 ms \
or a tenth of the request. The time saved is what they take on the critical path, less the longest of them if they run \
one after the other, and less a usual one if they run side by side.

When it is wrong: calls that need the answer to the last one. Pages of a list (only page, offset or cursor differ), \
polling, retries after errors, parts of uploads and ranges of downloads are left out; requests for the objects of an \
object store, which has no way to fetch several, are only informational, as are findings in consumers and jobs. If the \
sender hides the query of its URLs, it cannot be told whether the calls differ, and they are called repeated.";

const EXAMPLE: &str = "
shop   GET /baskets/{id}                                                                                    |----------------------------------------------------------------------------|
shop     GET pricing/v1/prices/31 [client] {http.request.method=GET, url.full=http://pricing/v1/prices/31}    |------------|
pricing    GET /v1/prices/{id}                                                                                 |----------|
shop     GET pricing/v1/prices/32 [client] {http.request.method=GET, url.full=http://pricing/v1/prices/32}                   |------------|
pricing    GET /v1/prices/{id}                                                                                                |----------|
shop     GET pricing/v1/prices/33 [client] {http.request.method=GET, url.full=http://pricing/v1/prices/33}                                  |------------|
pricing    GET /v1/prices/{id}                                                                                                               |----------|
shop     GET pricing/v1/prices/34 [client] {http.request.method=GET, url.full=http://pricing/v1/prices/34}                                                 |------------|
pricing    GET /v1/prices/{id}                                                                                                                              |----------|
shop     GET pricing/v1/prices/35 [client] {http.request.method=GET, url.full=http://pricing/v1/prices/35}                                                                |------------|
pricing    GET /v1/prices/{id}                                                                                                                                             |----------|
";

/// Calls that together take less are worth no alert, unless they are a tenth of the request.
const WAITED_NS_MIN: u64 = 50_000_000;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let named = |call: &Call| !is_nameless(call);
    let wanted = |call: &Call| is_candidate(analysis, call);
    let repeats_min = settings.repeats_min;
    for found in loops(analysis, Category::External, named, wanted, repeats_min) {
        let role = role(analysis, found.entry);
        if role == Role::Upkeep
            || !matters(analysis, &found)
            || is_pagination(analysis, &found, repeats_min)
        {
            continue;
        }
        let told = Told::of(analysis, &found, role);
        let polls = told.parameters == Parameters::Same
            && duplicate_call::is_polling(analysis, &found.calls);
        if !polls && !duplicate_call::is_asked_again(&told) {
            findings.push(finding(&told));
        }
    }
}

fn matters(analysis: &Analysis<'_>, found: &Loop) -> bool {
    let request_ns = analysis.entries[found.entry].duration_ns;
    found.waited_ns >= WAITED_NS_MIN || percent(found.waited_ns, request_ns) >= WAITED_PERCENT_MIN
}

/// A request for a whole thing, the first attempt. An item that is not there, or not to be seen, is an answer.
fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    const PARTIAL_CONTENT: i64 = 206;
    let span = analysis.trace.span(call.span);
    let said = Said::by(&analysis.trace.spans, span);
    if said.resent || said.is_range {
        return false;
    }
    let is_whole = match said.status {
        Some(PARTIAL_CONTENT | 408 | 429) => false,
        Some(status) => status < 500,
        None => !failed(analysis, call),
    };
    is_whole && !is_part(said.url)
}

/// What a request's span says about what has become of it.
#[derive(Default)]
struct Said<'a> {
    status: Option<i64>,
    /// It is a retry.
    resent: bool,
    /// A part of a download was asked for.
    is_range: bool,
    url: &'a str,
}

impl<'a> Said<'a> {
    /// One pass over the attributes: this is asked of every request that repeats.
    fn by(spans: &Spans<'a>, span: &Span<'a>) -> Said<'a> {
        let mut said = Said::default();
        for it in spans.attributes_at(&span.attributes) {
            match it.key {
                "http.response.status_code" => said.status = it.value.as_int(),
                "http.status_code" => said.status = said.status.or(it.value.as_int()),
                "http.request.resend_count" => said.resent = it.value.as_int() > Some(0),
                "http.request.header.range" => said.is_range = true,
                "url.full" | "http.url" => said.url = it.value.as_str().unwrap_or(""),
                _ => {}
            }
        }
        said
    }
}

/// A part of an upload.
fn is_part(url: &str) -> bool {
    let Some((_, query)) = url.split_once('?') else {
        return false;
    };
    let mut names = query.split('&').map(|it| it.split('=').next());
    let parts = ["partNumber", "uploadId", "upload_id", "chunk", "part"];
    names.any(|it| it.is_some_and(|it| parts.contains(&it)))
}

/// Names of what walks through a list in a URL's query, lower case.
const PAGING: &[&str] = &[
    "page",
    "page[number]",
    "page[offset]",
    "page[after]",
    "page[cursor]",
    "pagenumber",
    "page_number",
    "pageindex",
    "pagetoken",
    "page_token",
    "nexttoken",
    "next_token",
    "next",
    "cursor",
    "offset",
    "start",
    "startat",
    "start_index",
    "startindex",
    "skip",
    "from",
    "after",
    "before",
    "since",
    "since_id",
    "max_id",
    "marker",
    "starting_after",
    "ending_before",
    "continuation-token",
    "continuationtoken",
    "continue",
    "start-after",
    "$skip",
    "$skiptoken",
    "scroll_id",
];

/// Pages of a list or a few, not elements: without what walks, fewer different things than a loop has are
/// asked for, and all but the first page of each say where they are.
fn is_pagination(analysis: &Analysis<'_>, found: &Loop, repeats_min: usize) -> bool {
    let mut lists: BTreeSet<(&str, Vec<&str>)> = BTreeSet::new();
    let mut pages = 0;
    for call in &found.calls {
        let span = analysis.trace.span(analysis.calls[*call].span);
        let Some((path, query)) = evidence::path_and_query(&analysis.trace.spans, span) else {
            return false;
        };
        let walks = |pair: &&str| {
            let name = pair.split('=').next().unwrap_or("").to_ascii_lowercase();
            PAGING.contains(&name.as_str())
        };
        // `/items/page/3`
        let (path, in_path) = match path.rsplit_once("/page/") {
            Some((list, page)) if page.bytes().all(|it| it.is_ascii_digit()) => (list, true),
            _ => (path, false),
        };
        let pairs = query.split('&').filter(|it| !it.is_empty());
        let (walking, staying): (Vec<&str>, Vec<&str>) = pairs.partition(walks);
        lists.insert((path, staying));
        if lists.len() >= repeats_min {
            return false;
        }
        pages += usize::from(in_path || !walking.is_empty());
    }
    pages + lists.len() >= found.calls.len()
}

fn finding(told: &Told<'_, '_>) -> Finding {
    let in_store = is_object_store(told.analysis, told.first());
    let redacted = is_redacted(told.analysis, told.first());
    let mut sure = Sure::at(0.65);
    sure.weigh_loop(told);
    if redacted {
        sure.say(
            -0.1,
            "the sender hides the query of the URL: it cannot be told whether the calls differ",
        );
    }
    if in_store {
        sure.say(-0.2, "an object store has no request for several objects");
    }
    let found = told.finding(DETECTOR.id, saved_ns(told), sure);
    Finding {
        title: title(told, redacted),
        severity: match in_store {
            true => Severity::Info,
            false => found.severity,
        },
        statement: None,
        target: Some(told.first().key.to_string()),
        explanation: explanation(told),
        fix: fix(told, in_store),
        framework: None,
        ..found
    }
}

/// One request does the work of all. One after the other, it takes what the longest takes; side by side, a
/// usual one, for what is waited for is the slowest.
fn saved_ns(told: &Told<'_, '_>) -> u64 {
    let duration_ns = |it: &SpanIdx| told.analysis.trace.duration_ns(*it);
    let one_ns = match told.found.is_serial() {
        true => told
            .found
            .waiting
            .iter()
            .map(duration_ns)
            .max()
            .unwrap_or(0),
        false => told.median_ns(),
    };
    told.saved_ns(one_ns.saturating_mul(told.found.steps.len() as u64))
}

fn title(told: &Told<'_, '_>, redacted: bool) -> String {
    let title = told.title("calls");
    let repeated = told.found.steps.len() == 1 && !told.is_remote() && redacted;
    match title.split_once(" × ").filter(|_| repeated) {
        Some((count, call)) => format!("{count} repeated calls of {call}"),
        None => title,
    }
}

fn is_redacted(analysis: &Analysis<'_>, call: &Call) -> bool {
    let span = analysis.trace.span(call.span);
    let url = evidence::path_and_query(&analysis.trace.spans, span);
    url.is_some_and(|(_, query)| evidence::is_redacted(query))
}

/// Where objects are fetched one by one because there is no other way.
fn is_object_store(analysis: &Analysis<'_>, call: &Call) -> bool {
    let hosts = [
        "s3.",
        "s3-",
        "storage.googleapis.com",
        ".blob.core.windows.net",
        ".r2.cloudflarestorage.com",
        ".digitaloceanspaces.com",
        "minio",
    ];
    let spans = &analysis.trace.spans;
    let service = |it: SpanIdx| spans.text(analysis.trace.span(it), &["rpc.service"]);
    let is_s3 = |it: SpanIdx| service(it) == Some("S3");
    let host = callee(analysis, call).unwrap_or("");
    is_s3(call.outer) || is_s3(call.span) || hosts.iter().any(|it| host.contains(it))
}

fn explanation(told: &Told<'_, '_>) -> String {
    let count = told.found.calls.len();
    let what = match told.found.steps.len() {
        1 => format!("calls {} {count} times", told.first().name),
        steps => format!("makes {steps} calls in turns, {count} in all"),
    };
    let below = match calls_below(told) {
        Some(below) => format!(" {below}"),
        None => String::new(),
    };
    let grows = match told.parameters {
        Parameters::Same => "",
        _ => " The number of calls grows with the number of elements.",
    };
    format!(
        "{} {what}, {}: {}.{below}{grows}",
        told.entry().endpoint,
        told.manner(),
        told.numbers(),
    )
}

/// What the callee does below the calls, in a sentence.
fn calls_below(told: &Told<'_, '_>) -> Option<String> {
    let trace = &told.analysis.trace;
    let mut subtrees: Vec<(SpanIdx, SpanIdx)> = Vec::new();
    for call in &told.found.calls {
        let outer = told.analysis.calls[*call].outer;
        subtrees.push((outer, trace.node(outer).subtree_end));
    }
    subtrees.sort_unstable();
    let is_below = |span: SpanIdx| {
        let at = subtrees.partition_point(|(begin, _)| *begin < span);
        at > 0 && span < subtrees[at - 1].1
    };
    let queries = told.analysis.calls.iter();
    let queries = queries.filter(|it| it.category == Category::Database && is_below(it.outer));
    let count = queries.count();
    (count > 0).then(|| match count {
        1 => "Below them, 1 query runs.".to_string(),
        count => format!("Below them, {count} queries run."),
    })
}

fn fix(told: &Told<'_, '_>, in_store: bool) -> String {
    if in_store {
        return match told.found.is_serial() {
            true => "Fetch the objects side by side, with a bound; or store what is read together as one object. Deleting \
                     takes many keys at once (`DeleteObjects`)."
                .into(),
            false => "They already run side by side: keep the number bounded, or store what is read together as one \
                      object."
                .into(),
        };
    }
    let callee = match told.is_remote() {
        true => told.remote_service(),
        false => callee(told.analysis, told.first()).unwrap_or("the other service"),
    };
    if told.parameters == Parameters::Same {
        return format!("The call is the same every time. {}", told.library.remember);
    }
    let is_resolver = |it: &String| it.contains("graphql.resolve");
    if told.found.call_path.iter().any(is_resolver) {
        return format!(
            "Batch the resolver with a DataLoader: it gathers the keys of one tick, and asks {callee} once for all of \
             them, at an endpoint that takes many ids."
        );
    }
    let meanwhile = match told.found.is_serial() {
        true => "Until then, make the calls side by side, with a bound.",
        false => "Side by side they hide the wait, but not the load: keep their number bounded.",
    };
    format!(
        "Ask {callee} once: give it an endpoint that takes all ids and answers with one query, and call it before the loop \
         instead of inside of it. {meanwhile}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, findings, line, serial};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    fn get(url: &str) -> String {
        format!("GET [client] {{http.request.method=GET, url.full=\"{url}\"}}")
    }

    /// Requests of 10 ms each, one after the other.
    fn drawn(calls: &[String]) -> String {
        serial("GET /cart", calls)
    }

    fn urls(url: impl Fn(usize) -> String) -> Vec<String> {
        (1..9).map(|it| get(&url(it))).collect()
    }

    fn items() -> Vec<String> {
        urls(|it| format!("http://stock/items/{it}"))
    }

    /// Each request with the callee's side and `below` that.
    fn answered(below: &[&str]) -> String {
        let mut text = line("shop", 0, "GET /cart", 0, 85);
        for (at, call) in items().iter().enumerate() {
            text += &line("shop", 1, call, at * 10, 10);
            text += &line(
                "stock",
                2,
                "GET /items/{id} {http.route=/items/{id}}",
                at * 10 + 1,
                8,
            );
            for below in below {
                text += &line("stock", 3, below, at * 10 + 2, 5);
            }
        }
        text
    }

    #[test]
    fn a_call_per_element() {
        check(
            ID,
            &drawn(&items()),
            expect![[r#"
                8 × GET stock/items/{id}, one by one
                  shop of 85 ms · critical, confidence 0.90: its parameters differ from call to call; the calls run one after the other
                  count 8, window 80 ms, sum 80 ms, saved 70 ms
                  n-plus-one-call shop "GET /cart" "GET /cart" "GET stock/items/{id}"
                  path: GET /cart
                  parameters: 1 | 2 | 3 | 4 | 5
                  explanation: GET /cart calls GET stock/items/{id} 8 times, each after the last one has returned: 10 ms each (median), 80 ms of the request's 85 ms (94 %). The number of calls grows with the number of elements.
                  fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it. Until then, make the calls side by side, with a bound.
            "#]],
        );
    }

    #[test]
    fn with_a_query_each_it_is_one_finding() {
        let text = answered(&["SELECT items"]);
        check(
            ID,
            &text,
            expect![[r#"
                8 × GET stock/items/{id}, one by one
                  shop of 85 ms · critical, confidence 0.90: its parameters differ from call to call; the calls run one after the other
                  count 8, window 80 ms, sum 80 ms, saved 70 ms
                  n-plus-one-call shop "GET /cart" "GET /cart" "GET stock/items/{id}"
                  path: GET /cart
                  parameters: 1 | 2 | 3 | 4 | 5
                  explanation: GET /cart calls GET stock/items/{id} 8 times, each after the last one has returned: 10 ms each (median), 80 ms of the request's 85 ms (94 %). Below them, 8 queries run. The number of calls grows with the number of elements.
                  fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it. Until then, make the calls side by side, with a bound.
            "#]],
        );
        assert_eq!(findings(&text), [ID]);
    }

    #[test]
    fn whatever_the_callee_does_each_time_is_a_consequence() {
        let below = [
            "SELECT items",
            "INSERT log {db.query.text=\"insert into log (a) values (?)\"}",
            "GET prices [client] {http.request.method=GET, url.full=\"http://prices/today\"}",
        ];
        assert_eq!(findings(&answered(&below)), [ID]);
    }

    /// Five calls of five queries each: the calls are the loop, and the queries are theirs.
    #[test]
    fn a_loop_in_a_loop_is_reported_at_the_outer_one() {
        let mut text = line("shop", 0, "GET /cart", 0, 130);
        for (at, call) in items().iter().take(5).enumerate() {
            text += &line("shop", 1, call, at * 25, 25);
            text += &line("stock", 2, "GET /items", at * 25 + 1, 23);
            for query in 0..5 {
                text += &line("stock", 3, "SELECT sizes", at * 25 + 2 + query * 4, 4);
            }
        }
        assert_eq!(findings(&text), [ID]);
    }

    #[test]
    fn side_by_side_the_slowest_decides() {
        let mut text = line("shop", 0, "GET /cart", 0, 120);
        for (at, call) in items().iter().enumerate() {
            text += &line("shop", 1, call, 0, if at == 3 { 100 } else { 30 });
        }
        check(
            ID,
            &text,
            expect![[r#"
                8 × GET stock/items/{id}, side by side
                  shop of 120 ms · critical, confidence 0.80: its parameters differ from call to call
                  count 8, window 100 ms, sum 310 ms, saved 70 ms
                  n-plus-one-call shop "GET /cart" "GET /cart" "GET stock/items/{id}"
                  path: GET /cart
                  parameters: 4 | 1 | 2 | 3 | 5
                  explanation: GET /cart calls GET stock/items/{id} 8 times, several at a time: 30 ms each (median), 100 ms of the request's 120 ms (83 %). The number of calls grows with the number of elements.
                  fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it. Side by side they hide the wait, but not the load: keep their number bounded.
            "#]],
        );
    }

    #[test]
    fn spread_over_seconds_with_others_in_between() {
        let mut text = line("shop", 0, "GET /cart", 0, 3_000);
        for (at, call) in items().iter().enumerate() {
            text += &line("shop", 1, "fetch [internal]", at * 350, 340);
            text += &line("shop", 2, "SELECT a", at * 350, 10);
            text += &line("shop", 2, call, at * 350 + 20, 40 + at);
        }
        check_titles(
            ID,
            &text,
            expect![[r#"
            8 × GET stock/items/{id}, one by one (warning)
        "#]],
        );
    }

    #[test]
    fn rpc_and_hidden_queries() {
        let rpc = "Stock/Get [client] {rpc.system=grpc, rpc.service=shop.v1.Stock, rpc.method=Get}";
        check_titles(
            ID,
            &serial("GET /cart", &[rpc; 6]),
            expect![[r#"
            6 × Stock/Get, one by one (critical)
        "#]],
        );
        let hidden = get("http://stock/items?*");
        check(
            ID,
            &serial("GET /cart", &[&hidden; 6]),
            expect![[r#"
                6 repeated calls of GET stock/items, one by one
                  shop of 65 ms · critical, confidence 0.65: the calls run one after the other; the sender hides the query of the URL: it cannot be told whether the calls differ
                  count 6, window 60 ms, sum 60 ms, saved 50 ms
                  n-plus-one-call shop "GET /cart" "GET /cart" "GET stock/items"
                  path: GET /cart
                  explanation: GET /cart calls GET stock/items 6 times, each after the last one has returned: 10 ms each (median), 60 ms of the request's 65 ms (92 %). The number of calls grows with the number of elements.
                  fix: Ask stock once: give it an endpoint that takes all ids and answers with one query, and call it before the loop instead of inside of it. Until then, make the calls side by side, with a bound.
            "#]],
        );
    }

    #[test]
    fn lists_of_many_owners_are_a_loop_though_they_have_pages() {
        let pages = urls(|it| format!("http://users/{it}/orders?page=1"));
        check_titles(
            ID,
            &drawn(&pages),
            expect![[r#"
            8 × GET users/{id}/orders, one by one (critical)
        "#]],
        );
    }

    #[test]
    fn missing_items_are_answers() {
        let missing: Vec<String> = items()
            .iter()
            .map(|it| format!("{it} {{error, http.response.status_code=404}}"))
            .collect();
        check_titles(
            ID,
            &drawn(&missing),
            expect![[r#"
            8 × GET stock/items/{id}, one by one (critical)
        "#]],
        );
    }

    #[test]
    fn objects_are_information() {
        let objects = urls(|it| format!("https://b.s3.eu-west-1.amazonaws.com/img/{it}"));
        check(
            ID,
            &drawn(&objects),
            expect![[r#"
                8 × GET b.s3.eu-west-1.amazonaws.com/img/{id}, one by one
                  shop of 85 ms · info, confidence 0.70: its parameters differ from call to call; the calls run one after the other; an object store has no request for several objects
                  count 8, window 80 ms, sum 80 ms, saved 70 ms
                  n-plus-one-call shop "GET /cart" "GET /cart" "GET b.s3.eu-west-1.amazonaws.com/img/{id}"
                  path: GET /cart
                  parameters: 1 | 2 | 3 | 4 | 5
                  explanation: GET /cart calls GET b.s3.eu-west-1.amazonaws.com/img/{id} 8 times, each after the last one has returned: 10 ms each (median), 80 ms of the request's 85 ms (94 %). The number of calls grows with the number of elements.
                  fix: Fetch the objects side by side, with a bound; or store what is read together as one object. Deleting takes many keys at once (`DeleteObjects`).
            "#]],
        );
    }

    #[test]
    fn four_are_no_loop() {
        check_silent(ID, &drawn(&items()[..4]));
    }

    #[test]
    fn pages_are_no_elements() {
        check_silent(
            ID,
            &drawn(&urls(|it| format!("http://stock/items?page={it}"))),
        );
        check_silent(
            ID,
            &drawn(&urls(|it| format!("http://stock/items?q=a&cursor=x{it}"))),
        );
        let first_page_is_bare = urls(|it| match it {
            1 => "http://stock/items".to_string(),
            it => format!("http://stock/items?offset={it}0"),
        });
        check_silent(ID, &drawn(&first_page_is_bare));
    }

    /// They are seen to be ids only beside each other.
    #[test]
    fn ids_that_look_like_words() {
        let slugs = [
            "red-shoe",
            "blue-hat",
            "tie",
            "long-coat",
            "SKU-1",
            "user7",
            "100.json",
        ];
        let slugs = slugs.map(|it| get(&format!("http://stock/api/v1/items/{it}")));
        check_titles(
            ID,
            &drawn(&slugs),
            expect![[r#"
                7 × GET stock/api/v1/items/{id}, one by one (critical)
            "#]],
        );
        let codes = ["USD", "EUR", "GBP", "JPY", "CHF"];
        let codes = codes.map(|it| get(&format!("http://bank/rates/{it}/today")));
        check_titles(
            ID,
            &drawn(&codes),
            expect![[r#"
                5 × GET bank/rates/{id}/today, one by one (critical)
            "#]],
        );
    }

    #[test]
    fn words_are_endpoints() {
        let words = ["brands", "sizes", "colors", "stores", "getMenu", "flags"];
        for prefix in ["catalog", "api/v1", "api"] {
            let words = words.map(|it| get(&format!("http://stock/{prefix}/{it}")));
            check_silent(ID, &drawn(&words));
        }
    }

    #[test]
    fn pages_in_the_path_are_no_elements() {
        check_silent(
            ID,
            &drawn(&urls(|it| format!("http://stock/items/page/{it}"))),
        );
    }

    /// Nobody can tell whether they go to one place.
    #[test]
    fn requests_without_a_target_are_not_compared() {
        check_silent(
            ID,
            &serial("GET /cart", &["GET [client] {http.method=GET}"; 8]),
        );
        check_silent(
            ID,
            &serial("GET /cart", &["HTTP POST [client] {http.method=POST}"; 8]),
        );
    }

    #[test]
    fn polling_is_waiting() {
        let mut text = line("shop", 0, "POST /export", 0, 1_000);
        for at in 0..8 {
            text += &line("shop", 1, &get("http://jobs/17"), at * 110, 10);
        }
        check_silent(ID, &text);
    }

    #[test]
    fn retries_are_no_elements() {
        let failed = |attributes: &str| {
            let failed: Vec<String> = items()
                .iter()
                .map(|it| format!("{it} {{{attributes}}}"))
                .collect();
            check_silent(ID, &drawn(&failed));
        };
        failed("error");
        failed("error, http.response.status_code=503");
        failed("http.response.status_code=429");
        failed("http.request.resend_count=1");
    }

    #[test]
    fn ranges_and_parts_are_one_thing() {
        let ranges: Vec<String> = (0..8)
            .map(|_| get("http://files/a.bin") + " {http.response.status_code=206}")
            .collect();
        check_silent(ID, &drawn(&ranges));
        check_silent(
            ID,
            &drawn(&urls(|it| {
                format!("http://files/a.bin?uploadId=x&partNumber={it}")
            })),
        );
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(ID, &drawn(&items()).replace("GET /cart", "GET /ping"));
        let probed = "GET /cart {user_agent.original=kube-probe/1.29}";
        check_silent(ID, &serial(probed, &items()));
    }

    #[test]
    fn different_endpoints_are_no_loop() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        check_silent(
            ID,
            &drawn(&urls(|it| format!("http://stock/{}", names[it - 1]))),
        );
    }

    #[test]
    fn short_beside_a_long_request_is_no_matter() {
        let mut text = line("shop", 0, "GET /cart", 0, 500);
        for (at, call) in items().iter().enumerate() {
            text += &line("shop", 1, call, at * 20, 5);
        }
        check_silent(ID, &text);
    }
}
