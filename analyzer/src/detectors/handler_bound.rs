//! The request's time is in its own code, where no span tells what happens.
//!
//! ```text
//! shop  GET /report       |------------------------------------------|
//! shop    SELECT sales    |--|
//! shop    SELECT regions                                       |--|
//!                             ^ 38 columns of which nothing is known
//! ```

use super::{Detect, Detector};
use crate::category::Category;
use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use crate::groups::Extent;
use crate::language::language;
use crate::role::{Role, role};
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Entry, Segment, Settings, evidence};

pub(super) const DETECTOR: Detector = Detector {
    id: "handler-bound",
    title: "Time in the service's own code",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
Most of the request is spent in the service itself, and no span says with what. That is one of three: computing (loops \
over large results, regular expressions, encryption, compression, garbage collection), waiting for something \
inside the process (locks, a full thread pool, a blocked event loop), or calls that nobody instrumented (a driver \
or HTTP client without tracing, files, child processes).

Neither the database nor other services can make such a request faster, and tuning them is lost time.

Look at the gaps that the finding names: what runs between the two spans around each? A sampling profiler tells \
computing from waiting in a minute; a span of one's own around the suspect tells where in the code it is. If a \
driver or client is used there, install its instrumentation.

How it is found: at least 200 ms, and at least 70 % of a request, are critical-path time of the entry's own \
spans. No saving is claimed, because nothing is known of what is done there; so it ranks behind findings that do, and \
is a warning from one second on.

When it is wrong: streams, long polls and web sockets are open on purpose and left out as far as they are told \
apart. Jobs that compute are meant to; they are only information. The first requests of a process load and \
compile code: look at later ones before changing anything.";

const EXAMPLE: &str = "
1 column = 5 ms
shop  GET /recommendations                                                         |----------------------------------------------------------|
shop    SELECT products {db.query.text=\"SELECT * FROM products WHERE shelf = $1\"}   |-|
";

/// The service's own time is at least so much of the request…
const OWN_PERCENT_MIN: u64 = 70;
/// …and takes so long that somebody notices.
const OWN_NS_MIN: u64 = 200_000_000;

/// From so much own time on it is a warning though no saving is claimed: nobody plans for a second of
/// computing in a request.
const WARNING_NS: u64 = 1_000_000_000;

/// So many gaps are named, the longest: they are where to look first.
const GAPS_SHOWN_MAX: usize = 3;

/// A gap that is less than one part in so many of the longest one is no evidence.
const GAP_SHARE: u64 = 5;

/// At most so many findings of one trace: one that has more has been understood by then.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let before = findings.len();
    for (at, entry) in analysis.entries.iter().enumerate() {
        let own_ns = own_ns(entry);
        // Most entries end here.
        if own_ns < OWN_NS_MIN || percent(own_ns, entry.duration_ns) < OWN_PERCENT_MIN {
            continue;
        }
        let role = role(analysis, at);
        if findings.len() - before == FINDINGS_MAX {
            return;
        }
        if role != Role::Upkeep && !is_open_on_purpose(analysis, entry) {
            findings.extend(finding(analysis, at, own_ns, role));
        }
    }
}

fn is_own(category: Category) -> bool {
    matches!(category, Category::Handler | Category::Unattributed)
}

fn own_ns(entry: &Entry<'_>) -> u64 {
    entry.categories[Category::Handler as usize] + entry.categories[Category::Unattributed as usize]
}

/// Streams and long polls: the time is the client's, or that of whatever is waited for.
fn is_open_on_purpose(analysis: &Analysis<'_>, entry: &Entry<'_>) -> bool {
    const WORDS: &[&str] = &[
        "stream",
        "events",
        "sse",
        "ws",
        "socket",
        "websocket",
        "poll",
        "longpoll",
        "subscribe",
        "watch",
        "listen",
        "tail",
        "sleep",
        "wait",
    ];
    const SWITCHING_PROTOCOLS: i64 = 101;
    let endpoint = entry.endpoint.to_ascii_lowercase();
    let mut words = endpoint.split(|it: char| !it.is_ascii_alphanumeric());
    if words.any(|it| WORDS.contains(&it)) || endpoint.contains("websocket") {
        return true;
    }
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(entry.span);
    let media_type = spans.header(span, "http.response.header.content-type");
    media_type.contains("event-stream")
        || Facts::of(spans, span).http_status == Some(SWITCHING_PROTOCOLS)
}

fn finding(analysis: &Analysis<'_>, at: usize, own_ns: u64, role: Role) -> Option<Finding> {
    let entry = &analysis.entries[at];
    let gaps = gaps(entry);
    let mut offenders: Vec<SpanIdx> = gaps.iter().map(|it| it.segment.span).collect();
    offenders.sort_unstable();
    offenders.dedup();
    let extent = Extent::of(analysis, &offenders);
    let longest = gaps.first()?.segment.span;
    let lost = has_lost(analysis, entry);
    let is_unseen = entry.categories[Category::Unattributed as usize] > own_ns / 2 && !lost;
    Some(Finding {
        title: match is_unseen {
            true => format!("{} of which nothing was reported", duration(own_ns)),
            false => format!("{} in the service's own code", duration(own_ns)),
        },
        severity: match role {
            Role::Request if own_ns >= WARNING_NS && !lost => Severity::Warning,
            _ => Severity::Info,
        },
        confidence: match (lost, is_unseen) {
            (true, _) => 0.3,
            (false, true) => 0.5,
            (false, false) => 0.7,
        },
        reasons: vec![
            format!("{} % of the request", percent(own_ns, entry.duration_ns)),
            match (lost, is_unseen) {
                (true, _) => {
                    "spans that ran meanwhile came without their parent: it may have waited for them"
                }
                (false, true) => "only the framework's instrumentation reported anything",
                (false, false) => "computing, locks and missing instrumentation look the same",
            }
            .to_string(),
        ],
        count: offenders.len() as u32,
        offenders,
        window_ns: extent.window_ns,
        sum_ns: extent.sum_ns,
        code: evidence::code(analysis, longest, entry.span),
        explanation: explanation(analysis, entry, own_ns, &gaps),
        fix: fix(language(analysis, entry.span), is_unseen),
        ..Finding::in_entry(DETECTOR.id, analysis, at, &[])
    })
}

/// Did something of the same process run meanwhile of which nobody knows to what it belongs?
fn has_lost(analysis: &Analysis<'_>, entry: &Entry<'_>) -> bool {
    let trace = &analysis.trace;
    let end_ns = entry.start_ns.saturating_add(entry.duration_ns);
    let sender = trace.span(entry.span).resource;
    (0..).zip(&trace.nodes).any(|(at, node)| {
        node.orphan
            && at != entry.span
            && node.start_ns < end_ns
            && node.end_ns > entry.start_ns
            && trace.span(at).resource == sender
    })
}

/// A stretch of own time and what was waited for before and after it.
struct Gap {
    segment: Segment,
    before: Option<SpanIdx>,
    after: Option<SpanIdx>,
}

/// The longest stretches of own time, the longest first.
fn gaps(entry: &Entry<'_>) -> Vec<Gap> {
    let path = &entry.path;
    let spans_around = |at: usize| Gap {
        segment: path[at],
        before: at.checked_sub(1).map(|it| path[it].span),
        after: path.get(at + 1).map(|it| it.span),
    };
    let mut own: Vec<usize> = (0..path.len())
        .filter(|it| is_own(path[*it].category))
        .collect();
    let length_ns = |at: &usize| path[*at].end_ns - path[*at].start_ns;
    own.sort_by_key(|it| (std::cmp::Reverse(length_ns(it)), *it));
    own.truncate(GAPS_SHOWN_MAX);
    let longest_ns = own.first().map_or(0, length_ns);
    own.retain(|it| length_ns(it) >= longest_ns / GAP_SHARE);
    own.into_iter().map(spans_around).collect()
}

fn explanation(analysis: &Analysis<'_>, entry: &Entry<'_>, own_ns: u64, gaps: &[Gap]) -> String {
    let described: Vec<String> = gaps
        .iter()
        .map(|it| describe(analysis, entry, it))
        .collect();
    format!(
        "{} spends {} of its {} ({} %) in spans of its own that wait for nothing that was reported: computing, locks, \
         or calls without instrumentation. Longest without a span: {}.",
        entry.endpoint,
        duration(own_ns),
        duration(entry.duration_ns),
        percent(own_ns, entry.duration_ns),
        described.join("; "),
    )
}

/// `320 ms of CartController.show, from 12 ms on, between select carts and jinja2.render`.
fn describe(analysis: &Analysis<'_>, entry: &Entry<'_>, gap: &Gap) -> String {
    let name = |it: SpanIdx| match analysis.trace.span(it).name {
        "" => "a span without a name".to_string(),
        name => crate::target::template(name).into_owned(),
    };
    let place = match (gap.before, gap.after) {
        (None, None) => "all of it".to_string(),
        (None, Some(after)) => format!("before {}", name(after)),
        (Some(before), None) => format!("after {}", name(before)),
        (Some(before), Some(after)) => format!("between {} and {}", name(before), name(after)),
    };
    let Segment {
        span,
        start_ns,
        end_ns,
        ..
    } = gap.segment;
    let from = match start_ns - entry.start_ns {
        0 => "from the start".to_string(),
        ns => format!("from {} on", duration(ns)),
    };
    format!(
        "{} of {}, {from}, {place}",
        duration(end_ns - start_ns),
        name(span),
    )
}

fn fix(language: &str, is_unseen: bool) -> String {
    let profiler = match language {
        "python" => "`py-spy record` (with `--gil` to tell computing from waiting)",
        "java" => "async-profiler (`-e cpu`, then `-e lock` and `-e wall`)",
        "nodejs" => {
            "`node --cpu-prof`, and `perf_hooks.monitorEventLoopDelay` for a blocked event loop"
        }
        "go" => "`net/http/pprof` (profile, then mutex and block)",
        "dotnet" => "`dotnet-trace collect` and `dotnet-counters` for the thread pool's queue",
        "ruby" => "`rbspy` or `vernier` (which shows waiting for the GVL)",
        "php" => "Excimer or SPX",
        "rust" | "cpp" => {
            "`perf record -g` for computing and `perf sched` or off-CPU sampling for waiting"
        }
        "erlang" => "`eprof`, and the scheduler's utilisation",
        _ => "a sampling profiler, once for CPU time and once for wall time",
    };
    match is_unseen {
        true => format!(
            "Install the instrumentation of the drivers and clients the service uses, so that the next trace shows \
             where the time goes. Until then: {profiler}."
        ),
        false => format!(
            "Find out what runs in the gaps: {profiler}. If a driver, a client or a file is used there, instrument it; \
             otherwise put a span of your own around the suspect."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    #[test]
    fn calls_that_lost_their_parent_may_explain_it() {
        check(
            ID,
            "
            1 column = 10 ms
            shop  GET /report                                     |--------------------------------------|
            shop  SELECT [client] {orphan, db.system=mysql}         |------------------------------|
            ",
            expect![[r#"
                390 ms in the service's own code
                  shop of 390 ms · info, confidence 0.30: 100 % of the request; spans that ran meanwhile came without their parent: it may have waited for them
                  count 1, window 390 ms, sum 390 ms, saved 0 ns
                  handler-bound shop "GET /report"
                  path: GET /report
                  explanation: GET /report spends 390 ms of its 390 ms (100 %) in spans of its own that wait for nothing that was reported: computing, locks, or calls without instrumentation. Longest without a span: 390 ms of GET /report, from the start, all of it.
                  fix: Find out what runs in the gaps: a sampling profiler, once for CPU time and once for wall time. If a driver, a client or a file is used there, instrument it; otherwise put a span of your own around the suspect.
            "#]],
        );
    }

    #[test]
    fn gaps_are_named_by_what_is_around_them() {
        check(
            ID,
            "
            1 column = 10 ms
            shop  GET /report {res.telemetry.sdk.language=python}                  |------------------------------------------|
            shop    SELECT sales                                                   |--|
            shop    Report.build {code.file.path=report.py, code.line.number=12}      |-------------------------------------|
            shop      SELECT regions                                                                              |--|
            ",
            expect![[r#"
                370 ms in the service's own code
                  shop of 430 ms · info, confidence 0.70: 86 % of the request; computing, locks and missing instrumentation look the same
                  count 1, window 380 ms, sum 380 ms, saved 0 ns
                  handler-bound shop "GET /report"
                  path: GET /report
                  code: report.py:12
                  explanation: GET /report spends 370 ms of its 430 ms (86 %) in spans of its own that wait for nothing that was reported: computing, locks, or calls without instrumentation. Longest without a span: 280 ms of Report.build, from 30 ms on, between SELECT sales and SELECT regions; 70 ms of Report.build, from 340 ms on, between SELECT regions and GET /report.
                  fix: Find out what runs in the gaps: `py-spy record` (with `--gil` to tell computing from waiting). If a driver, a client or a file is used there, instrument it; otherwise put a span of your own around the suspect.
            "#]],
        );
    }

    #[test]
    fn a_second_of_own_time_is_a_warning() {
        let slow = "
            1 column = 100 ms
            shop  GET /report |------------|
            shop    SELECT a  |-|
            ";
        check_titles(
            ID,
            slow,
            expect![[r#"
            1.1 s in the service's own code (warning)
        "#]],
        );
        // Nobody waits for a job.
        check_titles(
            ID,
            &changed(slow, "GET /report", "rebuild [internal]"),
            expect![[r#"
                1.1 s in the service's own code (info)
            "#]],
        );
    }

    #[test]
    fn where_only_the_framework_reported_instrumentation_is_missing() {
        check(
            ID,
            "
            1 column = 10 ms
            shop  GET /report {scope=@opentelemetry/instrumentation-http, res.telemetry.sdk.language=nodejs} |-------------------------------|
            ",
            expect![[r#"
                320 ms of which nothing was reported
                  shop of 320 ms · info, confidence 0.50: 100 % of the request; only the framework's instrumentation reported anything
                  count 1, window 320 ms, sum 320 ms, saved 0 ns
                  handler-bound shop "GET /report"
                  path: GET /report
                  explanation: GET /report spends 320 ms of its 320 ms (100 %) in spans of its own that wait for nothing that was reported: computing, locks, or calls without instrumentation. Longest without a span: 320 ms of GET /report, from the start, all of it.
                  fix: Install the instrumentation of the drivers and clients the service uses, so that the next trace shows where the time goes. Until then: `node --cpu-prof`, and `perf_hooks.monitorEventLoopDelay` for a blocked event loop.
            "#]],
        );
    }

    #[test]
    fn what_waits_for_others_is_not_the_handler() {
        check_silent(
            ID,
            "
            1 column = 10 ms
            shop  GET /report    |------------------------------------------|
            shop    SELECT sales |--------------------------|
            ",
        );
    }

    #[test]
    fn quick_is_silent_even_if_all_of_it_is_own() {
        check_silent(
            ID,
            "1 column = 10 ms\nshop  GET /report |------------------|",
        );
    }

    #[test]
    fn a_service_that_is_called_is_not_the_callers_own_time() {
        check_titles(
            ID,
            "
            1 column = 10 ms
            web   GET /                                                    |------------------------------------------|
            web     GET shop [client] {url.full=\"http://shop/report\"}    |----------------------------------------|
            shop      GET /report                                          |--------------------------------------|
            ",
            expect![[r#"
                390 ms in the service's own code (info)
            "#]],
        );
    }

    #[test]
    fn what_is_open_on_purpose_is_silent() {
        for endpoint in [
            "GET /events",
            "GET /ws",
            "GET /orders/poll",
            "chat.Chat/Subscribe",
            "GET /api/logs/stream",
        ] {
            check_silent(
                ID,
                &format!("1 column = 100 ms\nshop  {endpoint} |------------------|"),
            );
        }
        let silent = [
            "http.response.header.content-type=text/event-stream",
            "http.response.status_code=101",
        ];
        for said in silent {
            check_silent(
                ID,
                &format!("1 column = 100 ms\nshop  GET /x {{{said}}} |------------------|"),
            );
        }
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(
            ID,
            "1 column = 100 ms\nshop  GET /health |------------------|",
        );
    }
}
