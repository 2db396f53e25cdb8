//! Log lines are shipped over the network while the request waits.
//!
//! ```text
//! shop  POST /checkout                       |------------------------|
//! shop    SELECT cart                        |-|
//! shop    POST logs.example/loki/api/v1/push    |----------|
//! shop    POST payments/charge                             |------|
//! shop    POST logs.example/loki/api/v1/push                      |---|
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::critical_path::outlasts;
use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use crate::impact::{impact, severity};
use crate::log_destination::{Sink, match_sink, suggests_log_lines};
use crate::role::{Role, role};
use crate::span::SpanKind;
use crate::target::Target;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Settings};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "remote-logging",
    title: "Synchronous remote logging",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The request itself sends log lines to a log service (Loki, Datadog, Splunk, Elasticsearch, Sentry, …) and \
waits for the answer. Nobody suspects a logging call, so the database is blamed: but a log service in \
another data centre takes tens to hundreds of milliseconds per line, and when it is down, every request \
waits for its timeout.

Logging must not be able to slow a request or make it fail. Write to standard output or a file and let an \
agent (Vector, Fluent Bit, the OpenTelemetry collector, Promtail) ship it, or put a queue of bounded size and a thread \
of its own between logger and network: an async appender, a queue handler, a batch processor.

How it is found: an outgoing call to a known log destination, by host, path, port or RPC method, inside of a \
request and on its critical path for at least 2 ms or 5 % of it. Own destinations are added with \
log_destinations in the configuration. All calls of a request to one destination are one finding; the \
time saved is all of their time on the critical path that nothing beside them needs anyway.

When it is wrong: audit records that must be stored before the answer are slow on purpose. Hosts that only \
look like log services by their name are reported as information, with the reason. What is sent over \
plain TCP or UDP without a span cannot be seen.";

const EXAMPLE: &str = "
shop  POST /checkout                                                       |----------------------------------------|
shop    SELECT * FROM cart WHERE id = $1                                   |--|
shop    POST logs.example {url.full=http://logs.example/loki/api/v1/push}      |--------------|
shop    POST payments {url.full=http://payments/charge}                                        |------|
shop    POST logs.example {url.full=http://logs.example/loki/api/v1/push}                              |-----------|
";

/// On the critical path for less than this is not worth a change…
const CRITICAL_NS_MIN: u64 = 2_000_000;
/// …unless it is this much of the request.
const CRITICAL_PERCENT_MIN: u64 = 5;

/// At most so many destinations of one trace are reported. Each costs a walk over its entry; nobody
/// logs to more on purpose.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    for ((entry, target), shipments) in shipments(analysis).into_iter().take(FINDINGS_MAX) {
        let role = role(analysis, entry);
        if role != Role::Upkeep && !ships_logs_itself(analysis, entry) {
            findings.extend(finding(analysis, entry, &target, &shipments, role));
        }
    }
}

/// A call that ships log lines.
struct Shipment {
    /// An index into [`Analysis::calls`].
    call: usize,
    sink: Sink,
}

/// Calls to log destinations by entry and destination.
fn shipments(analysis: &Analysis<'_>) -> BTreeMap<(usize, String), Vec<Shipment>> {
    let mut shipments: BTreeMap<_, Vec<Shipment>> = BTreeMap::new();
    for (at, call) in analysis.calls.iter().enumerate() {
        let Some(entry) = call.entry.filter(|it| waits(analysis, call, *it)) else {
            continue;
        };
        let facts = Facts::of(&analysis.trace.spans, analysis.trace.span(call.span));
        if let Some(sink) = sink(call, &facts) {
            let target = target_text(&facts, call, &sink);
            let shipment = Shipment { call: at, sink };
            shipments.entry((entry, target)).or_default().push(shipment);
        }
    }
    let start_ns = |it: &Shipment| analysis.trace.node(analysis.calls[it.call].outer).start_ns;
    shipments
        .values_mut()
        .for_each(|it| it.sort_by_key(start_ns));
    shipments
}

fn waits(analysis: &Analysis<'_>, call: &Call, entry: usize) -> bool {
    let trace = &analysis.trace;
    let may_ship = [Category::Logging, Category::External, Category::Messaging];
    may_ship.contains(&call.category)
        && !trace.node(call.outer).detached
        && !outlasts(trace, call.outer, analysis.entries[entry].span)
}

/// The category was decided with the user's own destinations in view, which are not known here.
fn sink(call: &Call, facts: &Facts<'_>) -> Option<Sink> {
    if call.category == Category::Messaging {
        return suggests_log_lines(facts.destination).then_some(Sink {
            name: "a topic named like one for log lines",
            certain: false,
            reason: "its name suggests log lines",
        });
    }
    let known = match_sink(facts, &Settings::default());
    match call.category {
        Category::Logging => Some(known.filter(|it| it.certain).unwrap_or(Sink {
            name: "configured log destination",
            certain: true,
            reason: "named in the configuration",
        })),
        _ => known.filter(|it| !it.certain),
    }
}

/// `Loki at logs.example`.
fn target_text(facts: &Facts<'_>, call: &Call, sink: &Sink) -> String {
    if call.category == Category::Messaging {
        return facts.destination.to_string();
    }
    match Target::of(facts).host {
        "" if sink.certain => format!("{} ({})", sink.name, call.name),
        "" => call.name.to_string(),
        host if !sink.certain => host.to_string(),
        host => format!("{} at {host}", sink.name),
    }
}

/// An entry that takes log lines in may send them on: that is its work.
fn ships_logs_itself(analysis: &Analysis<'_>, entry: usize) -> bool {
    let span = analysis.trace.span(analysis.entries[entry].span);
    let facts = Facts::of(&analysis.trace.spans, span);
    match_sink(&facts, &Settings::default()).is_some_and(|it| it.certain)
        || is_shipper(&analysis.entries[entry].endpoint)
}

/// `flush logs`, `logs.flush`: a batch that nobody waits for.
fn is_shipper(endpoint: &str) -> bool {
    const SENDS: &[&str] = &["flush", "ship", "drain", "export"];
    let mut words = endpoint.split(|it: char| !it.is_ascii_alphabetic());
    suggests_log_lines(endpoint)
        && words.any(|word| SENDS.iter().any(|it| word.eq_ignore_ascii_case(it)))
}

fn finding(
    analysis: &Analysis<'_>,
    entry: usize,
    target: &str,
    shipments: &[Shipment],
    role: Role,
) -> Option<Finding> {
    let at = entry;
    let entry = &analysis.entries[at];
    let spans: Vec<SpanIdx> = shipments
        .iter()
        .map(|it| analysis.calls[it.call].outer)
        .collect();
    let impact = impact(analysis, entry, &spans);
    let share = percent(impact.critical_ns, entry.duration_ns);
    if impact.critical_ns < CRITICAL_NS_MIN && share < CRITICAL_PERCENT_MIN
        || impact.critical_ns == 0
    {
        return None;
    }
    let sink = shipments[0].sink;
    let saved_ns = impact.removable_ns.min(entry.duration_ns);
    let count = shipments.len();
    let framework = logging_library(analysis, entry.span);
    let times = match count {
        1 => "once".to_string(),
        2 => "twice".to_string(),
        count => format!("{count} times"),
    };
    let calls: Vec<usize> = shipments.iter().map(|it| it.call).collect();
    Some(Finding {
        title: match sink.certain {
            true => format!(
                "{} waiting for {target} to take log lines",
                duration(impact.critical_ns)
            ),
            false => format!(
                "{} waiting for {target}, which looks like a log service",
                duration(impact.critical_ns)
            ),
        },
        severity: match sink.certain {
            // Messages wait behind one that waits for a log service.
            true if analysis.trace.span(entry.span).kind == SpanKind::Consumer => {
                severity(saved_ns, entry.duration_ns)
            }
            true => role.severity(saved_ns, entry.duration_ns),
            false => Severity::Info,
        },
        confidence: if sink.certain { 0.95 } else { 0.4 },
        reasons: vec![format!("{}: {}", sink.name, sink.reason)],
        target: Some(target.to_string()),
        saved_ns,
        explanation: format!(
            "{} sends log lines to {target} {times} and waits for the answer: {} on the critical path, {share} % of \
             the request's {}. The log service's latency is the request's latency, and its outage the \
             request's timeout.",
            entry.endpoint,
            duration(impact.critical_ns),
            duration(entry.duration_ns),
        ),
        fix: framework.map_or(GENERIC_FIX, |it| it.fix).into(),
        fix_code: framework.and_then(|it| it.code).map(Into::into),
        framework: framework.map(|it| it.name),
        ..Finding::in_calls(DETECTOR.id, analysis, at, &calls, &[target])
    })
}

const GENERIC_FIX: &str = "Do not ship log lines inside of the request. Write them to standard output or a file and let an \
agent ship them, or hand them to a background thread through a queue of bounded size that drops (and counts) lines when it \
is full.";

/// How logging is taken off the request in a language.
#[derive(Clone, Copy)]
struct Logging {
    name: &'static str,
    fix: &'static str,
    code: Option<&'static str>,
}

/// By `telemetry.sdk.language` of the service.
fn logging_library(analysis: &Analysis<'_>, entry: SpanIdx) -> Option<Logging> {
    let span = analysis.trace.span(entry);
    let language = analysis
        .trace
        .spans
        .resource_text(span, &["telemetry.sdk.language"])?;
    let (name, fix, code) = match language {
        "python" => (
            "Python logging",
            "Put a queue between logger and handler: `QueueHandler` in the request, `QueueListener` with the remote \
             handler in a thread of its own. Or log to standard output and let an agent ship it.",
            Some(
                "lines = queue.Queue(10_000)\nlogging.getLogger().addHandler(QueueHandler(lines))\n\
                 QueueListener(lines, remote_handler).start()",
            ),
        ),
        "java" => (
            "Logback / Log4j 2",
            "Wrap the remote appender in an asynchronous one (`AsyncAppender` with `neverBlock` in Logback, \
             `AsyncLogger` or `<Async>` in Log4j 2), or log to standard output and let an agent ship it.",
            Some(
                "<appender name=\"ASYNC\" class=\"ch.qos.logback.classic.AsyncAppender\">\n  \
                 <neverBlock>true</neverBlock>\n  <queueSize>10000</queueSize>\n  <appender-ref ref=\"REMOTE\"/>\n</appender>",
            ),
        ),
        "nodejs" | "webjs" => (
            "pino / winston",
            "Do not await the transport: with pino use `pino.transport`, which runs in a worker thread; with winston a \
             transport that batches. Or log to standard output and let an agent ship it.",
            None,
        ),
        "dotnet" => (
            ".NET logging",
            "Wrap the sink so that it writes in the background (Serilog: `WriteTo.Async(…)` or a batching sink; NLog: \
             `async=\"true\"` on the targets), or log to standard output and let an agent ship it.",
            None,
        ),
        "go" => (
            "Go",
            "Send lines to a buffered channel that one goroutine drains in batches, and drop (and count) them when it is \
             full; or log to standard output and let an agent ship them.",
            None,
        ),
        "ruby" => (
            "Ruby",
            "Hand lines to a background thread through a `SizedQueue` (many log gems have an asynchronous mode), or log \
             to standard output and let an agent ship them.",
            None,
        ),
        "php" => (
            "Monolog",
            "Wrap the remote handler in a `BufferHandler` and flush it after the response was sent \
             (`fastcgi_finish_request`), or log to a file or standard output and let an agent ship it.",
            None,
        ),
        "rust" => (
            "tracing",
            "Use `tracing_appender::non_blocking` or a layer that hands lines to a background task through a bounded \
             channel; do not await the log service in the handler.",
            None,
        ),
        _ => return None,
    };
    Some(Logging { name, fix, code })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    #[test]
    fn lines_shipped_inside_of_a_request() {
        check(
            ID,
            "
            shop  POST /checkout {http.route=/checkout, res.telemetry.sdk.language=python}                  |-----------------------------------------------------------|
            shop    SELECT cart                                                                             |----|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |------------------------|
            shop    POST payments/charge {server.address=payments}                                                                        |--------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}                                              |------------|
            ",
            expect![[r#"
                38 ms waiting for Loki at logs.example to take log lines
                  shop of 60 ms · critical, confidence 0.95: Loki: its path is a log intake
                  count 2, window 53 ms, sum 38 ms, saved 38 ms
                  remote-logging shop "/checkout" "Loki at logs.example"
                  path: /checkout
                  explanation: /checkout sends log lines to Loki at logs.example twice and waits for the answer: 38 ms on the critical path, 63 % of the request's 60 ms. The log service's latency is the request's latency, and its outage the request's timeout.
                  fix: Put a queue between logger and handler: `QueueHandler` in the request, `QueueListener` with the remote handler in a thread of its own. Or log to standard output and let an agent ship it.
                  fix code: lines = queue.Queue(10_000)
                logging.getLogger().addHandler(QueueHandler(lines))
                QueueListener(lines, remote_handler).start()
                  framework: Python logging
            "#]],
        );
    }

    #[test]
    fn the_database_was_suspected() {
        check_titles(
            ID,
            "
            shop  POST /checkout                                                                            |---------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------|
            shop    SELECT cart                                                                               |---------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}               |-------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------|
            ",
            expect![[r#"
                500 ms waiting for Loki at logs.example to take log lines (critical)
            "#]],
        );
    }

    #[test]
    fn only_what_nothing_beside_needs_is_saved() {
        check(
            ID,
            "
            shop  POST /checkout                                                                            |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            shop    SELECT cart                                                                                  |----------------------------------|
            ",
            expect![[r#"
                40 ms waiting for Loki at logs.example to take log lines
                  shop of 60 ms · info, confidence 0.95: Loki: its path is a log intake
                  count 1, window 40 ms, sum 40 ms, saved 5 ms
                  remote-logging shop "POST /checkout" "Loki at logs.example"
                  path: POST /checkout
                  explanation: POST /checkout sends log lines to Loki at logs.example once and waits for the answer: 40 ms on the critical path, 66 % of the request's 60 ms. The log service's latency is the request's latency, and its outage the request's timeout.
                  fix: Do not ship log lines inside of the request. Write them to standard output or a file and let an agent ship them, or hand them to a background thread through a queue of bounded size that drops (and counts) lines when it is full.
            "#]],
        );
    }

    #[test]
    fn hosts_that_only_look_like_it_are_information() {
        check_titles(
            ID,
            "
            shop  POST /checkout                                                                        |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://audit-log.example/records}      |---------------------------------------|
            ",
            expect![[r#"
                40 ms waiting for audit-log.example, which looks like a log service (info)
            "#]],
        );
    }

    #[test]
    fn short_shipments_of_long_requests_are_silent() {
        check_silent(
            ID,
            "
            shop  POST /checkout                                                                            |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      ||
            ",
        );
    }

    #[test]
    fn a_line_that_nobody_awaits() {
        check_silent(
            ID,
            "
            shop  POST /orders                                                     |---------|
            shop    POST [client] {url.full=http://logs.example/loki/api/v1/push}      |------------|
            ",
        );
    }

    #[test]
    fn shipped_in_the_background_is_silent() {
        check_silent(
            ID,
            "
            shop  POST /checkout                                                                            |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}                                                              |----------------------------|
            ",
        );
    }

    #[test]
    fn shipped_beside_longer_work_is_silent() {
        check_silent(
            ID,
            "
            shop  POST /checkout                                                                            |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            shop    SELECT cart                                                                                 |-------------------------------------------------------|
            ",
        );
    }

    #[test]
    fn reading_logs_is_silent() {
        check_silent(
            ID,
            "
            shop  GET /logs                                                                                |-----------------------------------------------------------|
            shop    GET [client] {http.request.method=GET, url.full=http://logs.example/loki/api/v1/query}      |---------------------------------------|
            ",
        );
    }

    #[test]
    fn an_application_index_is_no_log() {
        check_silent(
            ID,
            "
            shop  POST /products                                                                                 |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://search.example:9200/products/_bulk}      |---------------------------------------|
            ",
        );
    }

    #[test]
    fn a_shipper_ships_as_its_work() {
        check_silent(
            ID,
            "
            agent  POST /loki/api/v1/push {http.request.method=POST, url.path=/loki/api/v1/push}             |-----------------------------------------------------------|
            agent    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            ",
        );
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(
            ID,
            "
            shop  GET /health                                                                               |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            ",
        );
    }

    #[test]
    fn consumers_are_slowed_as_requests_are() {
        check_titles(
            ID,
            "
            shop  process orders [consumer]                                                                 |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            ",
            expect![[r#"
                40 ms waiting for Loki at logs.example to take log lines (critical)
            "#]],
        );
    }

    #[test]
    fn topics_named_for_log_lines_are_information() {
        let drawn = |topic: &str| {
            format!(
                "
                shop  POST /checkout                                                                        |-----------------------------------------------------------|
                shop    send [producer] {{messaging.system=kafka, messaging.destination.name={topic}}}      |---------------------------------------|
                "
            )
        };
        check_titles(
            ID,
            &drawn("app-logs"),
            expect![[r#"
            39 ms waiting for app-logs, which looks like a log service (info)
        "#]],
        );
        check_silent(ID, &drawn("catalogs"));
    }

    #[test]
    fn a_batch_of_lines_is_nobodys_wait() {
        check_silent(
            ID,
            "
            shop  flush logs [internal]                                                                     |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            ",
        );
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            "
            shop  nightly [internal]                                                                        |-----------------------------------------------------------|
            shop    POST [client] {http.request.method=POST, url.full=http://logs.example/loki/api/v1/push}      |---------------------------------------|
            ",
            expect![[r#"
                40 ms waiting for Loki at logs.example to take log lines (info)
            "#]],
        );
    }
}
