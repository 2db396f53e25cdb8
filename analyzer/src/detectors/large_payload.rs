//! A body or a result so large that carrying it takes the time.
//!
//! ```text
//! shop  GET /products  4.2 MB     |----------------------------------|
//! shop    SELECT products  25,000 rows  |------------------|
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use crate::groups::Extent;
use crate::impact::impact;
use crate::payload::{Payload, payload};
use crate::role::{Role, role};
use crate::span::SpanKind;
use crate::target::Target;
use crate::trace::SpanIdx;
use crate::wording::{bytes, duration, percent, thousands};
use crate::{Analysis, Call, Settings};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const DETECTOR: Detector = Detector {
    id: "large-payload",
    title: "Large payload",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
A response, a request body or a query's result is so large that producing, carrying and reading it takes \
the time: a list without pages, whole objects where the client shows three fields, a table read to be \
counted in memory, binary data inside of JSON.

Every megabyte is allocated, encoded, sent, received and decoded; it costs 10 ms on a gigabit network, seconds on a \
phone, and the memory of all requests that do it at once.

Return pages, let the caller choose fields, compress, and let the database filter and add up. Files belong into an object \
store, from which the client fetches them by a link.

How it is found: calls and requests of at least 10 ms whose spans tell a body of at least 1 MB (or 300 kB where they take \
100 ms), or at least 10,000 rows. A saving is claimed only where spans tell how long the body took to be sent or \
read. The same body passed on by several services is reported where it comes from.

When it is wrong: downloads, uploads, exports, media, archives and streams are large on purpose and left out, as far as \
their names and media types tell. Most instrumentations do not report sizes unless told to.";

const EXAMPLE: &str = "
1 column = 5 ms
shop  GET /catalogue {http.response.body.size=4200000}            |----------------------------------------------------------|
shop    SELECT products {db.query.text=\"SELECT * FROM products\"}   |---------------------|
";

/// What takes less, in ns, slows nobody, however large it is.
const DURATION_NS_MIN: u64 = 10_000_000;

/// A body of so many bytes is large wherever it is sent: 10 ms on a gigabit network, and 100 ms to encode and
/// decode as JSON…
const LARGE_BYTES: u64 = 1_000_000;
/// …and one of so many bytes where it takes so long, ns.
const MEDIUM_BYTES: u64 = 300_000;
const MEDIUM_NS_MIN: u64 = 100_000_000;

/// More rows than anybody reads.
const ROWS_MIN: u64 = 10_000;

/// A service that passes on so much, in percent, of what another one answered is not where it comes from.
const PASSED_ON_PERCENT: u64 = 80;

/// At most so many findings of one trace. Each costs a walk over its entry.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let large = large(analysis);
    for ((entry, name), bodies) in large.into_iter().take(FINDINGS_MAX) {
        let role = role(analysis, entry);
        if role != Role::Upkeep {
            findings.push(finding(analysis, entry, name, &bodies, role));
        }
    }
}

/// A span that carries much.
struct Body {
    /// The entry's span, or the outermost span of the call.
    outer: SpanIdx,
    /// An index into [`Analysis::calls`]; `None` for an entry.
    call: Option<usize>,
    payload: Payload,
}

/// What carries much, by entry and what is called; an entry's own bodies have no name. In order of start.
fn large<'b>(analysis: &'b Analysis<'_>) -> BTreeMap<(usize, &'b str), Vec<Body>> {
    let mut large: BTreeMap<(usize, &str), Vec<Body>> = BTreeMap::new();
    // The largest answers that entries got from what they called.
    let mut got: BTreeMap<usize, u64> = BTreeMap::new();
    let mut answers = BTreeSet::new();
    let mut carriers: Vec<(usize, usize, Payload)> = Vec::new();
    for (at, call) in analysis.calls.iter().enumerate() {
        if let Some(entry) = call.entry
            && is_carrier(call)
            && let Some(payload) = payload_of(analysis, call.outer, call.span)
        {
            carriers.push((at, entry, payload));
            if call.category == Category::External {
                let got = got.entry(entry).or_default();
                *got = payload.response_bytes.max(*got);
            }
        }
    }
    // Callees stand behind their callers.
    for (at, entry) in analysis.entries.iter().enumerate().rev() {
        let Some(payload) = payload_of(analysis, entry.span, entry.span) else {
            continue;
        };
        answers.insert(at);
        if let Some(caller) = entry.parent {
            let got = got.entry(caller).or_default();
            *got = payload.response_bytes.max(*got);
        }
        let passed_on = got.get(&at).copied().unwrap_or(0);
        let is_source = payload.response_bytes == 0
            || percent(passed_on, payload.response_bytes) < PASSED_ON_PERCENT;
        if is_source {
            let body = Body {
                outer: entry.span,
                call: None,
                payload,
            };
            large.insert((at, ""), vec![body]);
        }
    }
    for (at, entry, payload) in carriers {
        let call = &analysis.calls[at];
        if !is_answered_in_sight(analysis, &answers, call) {
            let body = Body {
                outer: call.outer,
                call: Some(at),
                payload,
            };
            large.entry((entry, &call.key)).or_default().push(body);
        }
    }
    for bodies in large.values_mut() {
        bodies.sort_by_key(|it| (analysis.trace.node(it.outer).start_ns, it.outer));
    }
    large
}

fn is_carrier(call: &Call) -> bool {
    matches!(
        call.category,
        Category::Database | Category::Cache | Category::External
    )
}

/// The sizes that `span` tells, if they are large, it takes long enough, and it is not meant to. Most spans end
/// at the first line.
fn payload_of(analysis: &Analysis<'_>, outer: SpanIdx, span: SpanIdx) -> Option<Payload> {
    let took_ns = analysis.trace.duration_ns(outer);
    if took_ns < DURATION_NS_MIN {
        return None;
    }
    let payload = payload(&analysis.trace.spans, analysis.trace.span(span));
    let largest = payload.request_bytes.max(payload.response_bytes);
    let is_large = largest >= LARGE_BYTES
        || largest >= MEDIUM_BYTES && took_ns >= MEDIUM_NS_MIN
        || payload.rows >= ROWS_MIN;
    (is_large && !is_meant_to_be_large(analysis, span)).then_some(payload)
}

/// Downloads, uploads and streams.
fn is_meant_to_be_large(analysis: &Analysis<'_>, span: SpanIdx) -> bool {
    const MEDIA_TYPES: &[&str] = &[
        "image/",
        "video/",
        "audio/",
        "font/",
        "application/pdf",
        "application/zip",
        "application/gzip",
        "octet-stream",
        "event-stream",
        "multipart/",
        "csv",
        "spreadsheet",
        "x-tar",
        "wasm",
    ];
    const PARTIAL: i64 = 206;
    let spans = &analysis.trace.spans;
    let sent = analysis.trace.span(span);
    let header = |name: &str| spans.header(sent, name);
    let media = [
        "http.response.header.content-type",
        "http.request.header.content-type",
    ];
    let is_media = media
        .iter()
        .any(|it| MEDIA_TYPES.iter().any(|part| header(it).contains(part)));
    let is_attachment = header("http.response.header.content-disposition").contains("attachment");
    let facts = Facts::of(spans, sent);
    let target = Target::of(&facts);
    is_media
        || is_attachment
        || facts.http_status == Some(PARTIAL)
        || is_store(target.host)
        || !header(media[0]).contains("json")
            && [target.path, facts.http_route, sent.name]
                .into_iter()
                .any(names_a_file)
}

/// `/reports/7/download`, `/static/app.js`, `GetObject`, but not `/profile`. Only a guess: `/images` that answers
/// with JSON is a list.
fn names_a_file(path: &str) -> bool {
    const WORDS: &[&str] = &[
        "download",
        "downloads",
        "upload",
        "uploads",
        "export",
        "exports",
        "import",
        "file",
        "files",
        "media",
        "image",
        "images",
        "video",
        "videos",
        "asset",
        "assets",
        "static",
        "attachment",
        "attachments",
        "backup",
        "backups",
        "dump",
        "archive",
        "stream",
        "blob",
        "blobs",
        "getobject",
        "putobject",
        "bundle",
        "artifacts",
    ];
    const ENDINGS: &[&str] = &[
        ".css", ".csv", ".gif", ".gz", ".jar", ".jpeg", ".jpg", ".js", ".map", ".mp4", ".pdf",
        ".png", ".svg", ".tar", ".tgz", ".wasm", ".webp", ".xlsx", ".zip",
    ];
    let path = path.to_ascii_lowercase();
    let mut words = path.split(|it: char| !it.is_ascii_alphanumeric());
    words.any(|it| WORDS.contains(&it)) || ENDINGS.iter().any(|it| path.ends_with(it))
}

/// Object stores hold what is large.
fn is_store(host: &str) -> bool {
    const PARTS: &[&str] = &[
        "s3.",
        ".s3-",
        "storage.googleapis.com",
        "blob.core.windows.net",
        "minio",
        "r2.cloudflarestorage",
    ];
    PARTS.iter().any(|it| host.contains(it))
}

/// The service that answered reports the same body itself.
fn is_answered_in_sight(analysis: &Analysis<'_>, answers: &BTreeSet<usize>, call: &Call) -> bool {
    let children = analysis.trace.children(call.span);
    const CHILDREN_MAX: usize = 8;
    let mut servers = children
        .take(CHILDREN_MAX)
        .filter(|it| analysis.trace.span(*it).kind == SpanKind::Server);
    servers.any(|it| {
        let entry = analysis.entries.partition_point(|entry| entry.span < it);
        answers.contains(&entry)
    })
}

fn finding(analysis: &Analysis<'_>, at: usize, name: &str, bodies: &[Body], role: Role) -> Finding {
    let entry = &analysis.entries[at];
    let is_own = name.is_empty();
    let most =
        |size: fn(&Payload) -> u64| bodies.iter().map(|it| size(&it.payload)).max().unwrap_or(0);
    let (request, response, rows) = (
        most(|it| it.request_bytes),
        most(|it| it.response_bytes),
        most(|it| it.rows),
    );
    let saved_ns = body_ns(analysis, at, bodies);
    let severity = role.severity(saved_ns, entry.duration_ns);
    let calls: Vec<usize> = bodies.iter().filter_map(|it| it.call).collect();
    let (who, part) = match calls.first().map(|it| &analysis.calls[*it]) {
        Some(call) => (call.name.to_string(), call.key.to_string()),
        None => (entry.endpoint.clone(), "its own body".to_string()),
    };
    let (what, size) = if rows >= ROWS_MIN {
        ("returns", format!("{} rows", thousands(rows)))
    } else if response >= request {
        ("answers with", bytes(response))
    } else {
        (if is_own { "takes" } else { "is sent" }, bytes(request))
    };
    let outer: Vec<SpanIdx> = bodies.iter().map(|it| it.outer).collect();
    let extent = Extent::of(analysis, &outer);
    let times = match bodies.len() {
        1 => String::new(),
        count => format!("{count} × "),
    };
    let long = extent.sum_ns >= MEDIUM_NS_MIN;
    let large = request.max(response) >= LARGE_BYTES || rows >= ROWS_MIN && long;
    let base = match is_own {
        true => Finding {
            offenders: vec![entry.span],
            count: 1,
            window_ns: extent.window_ns,
            sum_ns: extent.sum_ns,
            ..Finding::in_entry(DETECTOR.id, analysis, at, &[&part])
        },
        false => Finding::in_calls(DETECTOR.id, analysis, at, &calls, &[&part]),
    };
    Finding {
        title: format!("{times}{who} {what} {size}"),
        // Large is large though nobody measured what it costs.
        severity: match role {
            Role::Request if large => severity.max(Severity::Warning),
            _ => severity,
        },
        confidence: 0.7,
        reasons: vec![
            format!("its span tells {size}"),
            format!("it takes {}", duration(extent.sum_ns)),
        ],
        target: (!is_own).then(|| who.clone()),
        saved_ns,
        explanation: format!(
            "{}{who} {what} {size} and takes {}; the request takes {}. {}",
            if is_own {
                String::new()
            } else {
                format!("In {}, ", entry.endpoint)
            },
            duration(extent.sum_ns),
            duration(entry.duration_ns),
            match saved_ns {
                0 => "How much of that is the size is not visible, so no saving is claimed.",
                _ => "The saving is the time in which the body was sent or read.",
            },
        ),
        fix: fix(rows >= ROWS_MIN, response >= request).into(),
        ..base
    }
}

/// The critical-path time of the spans that send or read a body, ns; 0 if there are none.
fn body_ns(analysis: &Analysis<'_>, at: usize, bodies: &[Body]) -> u64 {
    const PARTS: &[&str] = &[
        "http.receive",
        "http.send",
        "sql.rows",
        "PDOStatement::fetchAll",
        "fetch",
    ];
    let mut parts = Vec::new();
    for body in bodies {
        // An entry's body is sent by its framework; what its calls read is theirs.
        let is_part = |it: &SpanIdx| {
            let name = analysis.trace.span(*it).name;
            PARTS.contains(&name) || name.ends_with(" http send")
        };
        parts.extend(analysis.trace.children(body.outer).filter(is_part));
    }
    if parts.is_empty() {
        return 0;
    }
    let entry = &analysis.entries[at];
    impact(analysis, entry, &parts)
        .removable_ns
        .min(entry.duration_ns)
}

fn fix(rows: bool, is_response: bool) -> &'static str {
    match (rows, is_response) {
        (true, _) => {
            "Let the database do the work: filter and add up in the statement, name the columns, put a LIMIT on lists and page \
             by key (`where id > ? order by id limit ?`). Where all rows are needed, read them in a cursor or stream, so \
             that they are never in memory at once."
        }
        (false, true) => {
            "Return pages instead of everything, let the caller name the fields it needs, and compress (gzip, brotli, zstd). \
             Files belong into an object store, fetched by a link."
        }
        (false, false) => {
            "Send only what has changed, compress the body, and upload files to an object store by a signed link instead \
             of passing them through the service."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles, findings};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const PRODUCTS: &str = "
        1 column = 10 ms
        shop  GET /products {http.route=/products, http.request.method=GET, http.response.body.size=4200000}  |---------------------------------------|
        shop    SELECT products                                                                                |----|
        ";

    const CLIENT: &str = "
        1 column = 10 ms
        shop  GET /cart                                                                                                   |---------------------------------------|
        shop    GET [client] {http.request.method=GET, url.full=http://stock/items, http.response_content_length=400000}   |-----------------------------|
        shop      http.receive                                                                                                       |-------------------|
        ";

    #[test]
    fn a_request_that_answers_with_megabytes() {
        check(
            ID,
            PRODUCTS,
            expect![[r#"
            GET /products answers with 4.2 MB
              shop of 400 ms · warning, confidence 0.70: its span tells 4.2 MB; it takes 400 ms
              count 1, window 400 ms, sum 400 ms, saved 0 ns
              large-payload shop "GET /products" "its own body"
              path: GET /products
              explanation: GET /products answers with 4.2 MB and takes 400 ms; the request takes 400 ms. How much of that is the size is not visible, so no saving is claimed.
              fix: Return pages instead of everything, let the caller name the fields it needs, and compress (gzip, brotli, zstd). Files belong into an object store, fetched by a link.
        "#]],
        );
    }

    #[test]
    fn a_call_whose_body_is_seen_being_read() {
        check(
            ID,
            CLIENT,
            expect![[r#"
            GET stock/items answers with 400 kB
              shop of 400 ms · critical, confidence 0.70: its span tells 400 kB; it takes 300 ms
              count 1, window 300 ms, sum 300 ms, saved 200 ms
              large-payload shop "GET /cart" "GET stock/items"
              path: GET /cart
              explanation: In GET /cart, GET stock/items answers with 400 kB and takes 300 ms; the request takes 400 ms. The saving is the time in which the body was sent or read.
              fix: Return pages instead of everything, let the caller name the fields it needs, and compress (gzip, brotli, zstd). Files belong into an object store, fetched by a link.
        "#]],
        );
    }

    #[test]
    fn more_rows_than_anybody_reads() {
        check(
            ID,
            "
            1 column = 10 ms
            shop  GET /report                                       |---------------------------------------|
            shop    SELECT sales {db.response.returned_rows=25000}   |-----------------------------|
            ",
            expect![[r#"
                select sales returns 25,000 rows
                  shop of 400 ms · warning, confidence 0.70: its span tells 25,000 rows; it takes 300 ms
                  count 1, window 300 ms, sum 300 ms, saved 0 ns
                  large-payload shop "GET /report" "select sales"
                  path: GET /report
                  explanation: In GET /report, select sales returns 25,000 rows and takes 300 ms; the request takes 400 ms. How much of that is the size is not visible, so no saving is claimed.
                  fix: Let the database do the work: filter and add up in the statement, name the columns, put a LIMIT on lists and page by key (`where id > ? order by id limit ?`). Where all rows are needed, read them in a cursor or stream, so that they are never in memory at once.
            "#]],
        );
    }

    #[test]
    fn what_is_sent_is_said_so() {
        check_titles(
            ID,
            "
            1 column = 10 ms
            shop  POST /orders {http.request.body.size=2000000}                                                              |---------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://stock/reserve, http.request.body.size=1500000}   |-----------------------------|
            ",
            expect![[r#"
                POST stock/reserve is sent 1.5 MB (warning)
                POST /orders takes 2 MB (warning)
            "#]],
        );
    }

    #[test]
    fn a_body_that_is_passed_on_is_reported_where_it_comes_from() {
        check_titles(
            ID,
            "
            1 column = 10 ms
            edge  GET /products {http.response.body.size=4200000}                                  |-------------------------------------------------|
            edge    GET [client] {url.full=http://shop/products, http.response.body.size=4200000}   |---------------------------------------------|
            shop      GET /products {http.response.body.size=4200000}                                |---------------------------------------|
            ",
            expect![[r#"
                GET /products answers with 4.2 MB (warning)
            "#]],
        );
    }

    #[test]
    fn a_body_from_a_service_out_of_sight_is_reported_once() {
        check_titles(
            ID,
            "
            1 column = 10 ms
            edge  GET /products {http.response.body.size=4200000}                                  |-------------------------------------------------|
            edge    GET [client] {url.full=http://shop/products, http.response.body.size=4200000}   |---------------------------------------------|
            ",
            expect![[r#"
                GET shop/products answers with 4.2 MB (warning)
            "#]],
        );
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            &changed(PRODUCTS, "GET /products", "rebuild [internal]"),
            expect![[r#"
                GET /products answers with 4.2 MB (info)
            "#]],
        );
    }

    #[test]
    fn small_and_quick_ones_are_silent() {
        check_silent(ID, &changed(PRODUCTS, "4200000", "290000"));
        check_silent(ID, &changed(PRODUCTS, "= 10 ms", "= 200 µs"));
        check_silent(
            ID,
            &changed(&changed(PRODUCTS, "4200000", "900000"), "= 10 ms", "= 1 ms"),
        );
    }

    #[test]
    fn downloads_media_and_ranges_are_large_on_purpose() {
        for path in [
            "/exports",
            "/files/report.pdf",
            "/media",
            "/static/app.js",
            "/reports/{id}/download",
        ] {
            check_silent(
                ID,
                &changed(
                    PRODUCTS,
                    "http.route=/products",
                    &format!("http.route={path}"),
                ),
            );
        }
        for said in [
            "http.response.header.content-type=image/png",
            "http.response.header.content-type=text/event-stream",
            "http.response.header.content-disposition=attachment",
            "http.response.status_code=206",
        ] {
            check_silent(
                ID,
                &changed(PRODUCTS, "{http.route", &format!("{{{said}, http.route")),
            );
        }
        check_silent(ID, &changed(CLIENT, "//stock/", "//shop.s3.amazonaws.com/"));
    }

    #[test]
    fn a_list_of_files_is_no_file() {
        for path in ["/images", "/media/list", "/backups/status"] {
            let said =
                format!("http.response.header.content-type=application/json, http.route={path}");
            let listed = changed(PRODUCTS, "http.route=/products", &said);
            assert!(findings(&listed).contains(&ID), "{path}");
        }
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(
            ID,
            &changed(PRODUCTS, "http.route=/products", "http.route=/health"),
        );
    }
}
