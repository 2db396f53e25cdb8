//! Requests open connections of their own instead of using open ones.
//!
//! ```text
//! shop  GET /cart          |--------------------------|
//! shop    connect          |-----|                       a handshake
//! shop    SELECT cart            |--|
//! shop    connect                   |-----|              and another one
//! shop    SELECT items                    |--|
//! ```
//!
//! In one trace: at least two to the same target, one after the other. Over time: every other request opens
//! one. Both have one fingerprint, so they are one culprit.

use super::{Detect, Detector, remote_logging};
use crate::connections::{Opened, is_cold_start, opened};
use crate::finding::Finding;
use crate::groups::{Extent, call_path};
use crate::history::{ConnectionHistory, History};
use crate::impact::{impact, severity};
use crate::language::language;
use crate::role::{Role, is_upkeep, role};
use crate::wording::{duration, percent};
use crate::{Analysis, Settings, evidence};

pub(super) const DETECTOR: Detector = Detector {
    id: "connection-per-request",
    title: "Connection per request",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::Both(detect, review),
};

const EXPLAIN: &str = "\
Requests open connections to a database or service that they could have taken from a pool. Opening one costs a \
round trip for TCP, one or two for TLS, a name to be resolved, a login, and with PostgreSQL a new process: 5 to \
50 ms before the first statement runs. Under load it also exhausts ports and the database's limit of connections.

Keep connections open and share them: one pool per process, one HTTP client per process with keep-alive. A client \
or pool that is made inside of the request, a response whose body is not read to its end, or a pool that keeps fewer \
idle connections than are in use has the same effect as none.

How it is found: spans that open a connection and take at least 1 ms. In one trace: at least two to the same target by \
one request, one after the other, which take at least 5 ms or 5 % of it. Over time: one for every other request, of at \
least 20. What is saved is their time on the critical path, in a trace without the first one, which may have been \
the pool's.

When it is wrong: a process that has just started, or a function that starts cold, fills its pool; connections that are \
opened at the same time count once. Different databases and users need connections of their own. Drivers \
whose handshakes make no spans cannot be seen.";

const EXAMPLE: &str = "
shop  GET /stock/{id}                                                                |------------------------------------------------|
shop    connect [client] {db.system=postgresql, server.address=warehouse}             |-----------|
shop    SELECT stock {db.query.text=\"SELECT pieces FROM stock WHERE id = $1\"}                       |---|
shop    connect [client] {db.system=postgresql, server.address=warehouse}                                 |-----------|
shop    SELECT reserved {db.query.text=\"SELECT pieces FROM reserved WHERE id = $1\"}                                     |---|
";

/// In one trace: fewer may be the pool's first.
const COUNT_MIN: usize = 2;

/// Opening them takes so long…
const CRITICAL_NS_MIN: u64 = 5_000_000;
/// …or is so much of the request.
const CRITICAL_PERCENT_MIN: u64 = 5;

/// Over time: one connection for so many requests is no pool…
const REQUESTS_PER_CONNECTION_MAX: i64 = 2;
/// …of at least so many, so that a pool that fills once is no finding.
const REQUESTS_MIN: i64 = 20;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    for it in opened(analysis) {
        if it.count < COUNT_MIN
            || it.repeated.is_empty()
            || is_cold_start(analysis, it.entry)
            || is_for_log_lines(findings, &it.target)
        {
            continue;
        }
        let request_ns = analysis.entries[it.entry].duration_ns;
        let matters = it.critical_ns >= CRITICAL_NS_MIN
            || percent(it.critical_ns, request_ns) >= CRITICAL_PERCENT_MIN && it.critical_ns > 0;
        let role = role(analysis, it.entry);
        if matters && role != Role::Upkeep {
            findings.push(finding(analysis, it, role));
        }
    }
}

/// Log lines that nobody ships inside of the request need no connection there: one cause, one finding.
fn is_for_log_lines(findings: &[Finding], target: &str) -> bool {
    findings
        .iter()
        .filter(|it| it.detector == remote_logging::DETECTOR.id)
        .filter_map(|it| it.target.as_deref()?.strip_suffix(target))
        .any(|before| before.is_empty() || before.ends_with(" at "))
}

fn finding(analysis: &Analysis<'_>, opened: Opened, role: Role) -> Finding {
    let Opened {
        entry: at,
        target,
        count,
        spans,
        repeated,
        critical_ns,
    } = opened;
    let entry = &analysis.entries[at];
    let saved_ns = impact(analysis, entry, &repeated).removable_ns;
    let extent = Extent::of(analysis, &spans);
    Finding {
        title: format!("{count} connections to {target} opened by one request"),
        severity: role.severity(saved_ns, entry.duration_ns),
        confidence: 0.8,
        reasons: vec![
            "they were opened one after the other, so the first was there when the next was opened"
                .into(),
        ],
        count: spans.len() as u32,
        call_path: call_path(analysis, at, spans[0]),
        code: evidence::code(analysis, spans[0], entry.span),
        window_ns: extent.window_ns,
        sum_ns: extent.sum_ns,
        saved_ns: saved_ns.min(entry.duration_ns),
        explanation: format!(
            "{} opens {count} connections to {target}, one after the other, and waits {} for them: {} % of the request's \
             {}. The saving leaves the first one, which a pool may have needed.",
            entry.endpoint,
            duration(critical_ns),
            percent(critical_ns, entry.duration_ns),
            duration(entry.duration_ns),
        ),
        fix: fix(language(analysis, entry.span)),
        target: Some(target.clone()),
        offenders: spans,
        ..Finding::in_entry(DETECTOR.id, analysis, at, &[&target])
    }
}

fn review(findings: &mut Vec<Finding>, history: &History) {
    if is_upkeep(&history.endpoint) || history.requests < REQUESTS_MIN {
        return;
    }
    for it in &history.connections {
        if it.opened.saturating_mul(REQUESTS_PER_CONNECTION_MAX) >= history.requests {
            findings.push(finding_over_time(history, it));
        }
    }
}

fn finding_over_time(history: &History, it: &ConnectionHistory) -> Finding {
    let opened = it.opened.max(1).unsigned_abs();
    let requests = history.requests.max(1).unsigned_abs();
    let critical_ns = u64::try_from(it.critical_ns).unwrap_or(0);
    let typical_ns = history.latency.quantile(0.5).unwrap_or(0);
    let slowest_ns = history.latency.quantile(1.0).unwrap_or(0);
    // Of the requests that open one.
    let saved_ns = (critical_ns / opened.min(requests)).min(slowest_ns);
    let share = percent(opened, requests);
    Finding {
        title: format!("A connection to {} for {share} of 100 requests", it.target),
        severity: severity(saved_ns, typical_ns.max(saved_ns)),
        confidence: 0.9,
        reasons: vec![format!("{opened} connections in {requests} requests")],
        call_path: vec![history.endpoint.clone()],
        target: Some(it.target.clone()),
        count: u32::try_from(opened).unwrap_or(u32::MAX),
        sum_ns: critical_ns,
        saved_ns,
        explanation: format!(
            "{requests} requests to {} opened {opened} connections to {} and waited {} for each: a pool that \
             works opens them once.",
            history.endpoint,
            it.target,
            duration(critical_ns / opened),
        ),
        fix: fix(""),
        ..Finding::over_time(
            DETECTOR.id,
            &history.service,
            &[&history.endpoint, &it.target],
        )
    }
}

fn fix(language: &str) -> String {
    let how = match language {
        "python" => {
            "Make one engine, pool or `requests.Session` / `httpx.Client` when the process starts and share it; in Django \
             set `CONN_MAX_AGE`."
        }
        "nodejs" => {
            "Make one `Pool` (instead of a `Client` per request) and one HTTP agent with `keepAlive: true` when the \
             process starts."
        }
        "java" => {
            "Use a pooled `DataSource` (HikariCP) and one HTTP client bean; do not make either inside of the request."
        }
        "dotnet" => {
            "Use `IHttpClientFactory` or one static `HttpClient`, and leave connection pooling on (same connection string \
             every time)."
        }
        "go" => {
            "Keep one `sql.DB` and one `http.Client`; raise `SetMaxIdleConns` and `MaxIdleConnsPerHost` (2 unless set), and \
             read response bodies to their end before closing them."
        }
        "php" => {
            "Processes end with the request: use persistent connections (`PDO::ATTR_PERSISTENT`), or a pooler such as \
             PgBouncer or ProxySQL next to the application."
        }
        "ruby" => {
            "Use the connection pool of Active Record and a persistent HTTP client (`net-http-persistent`, Faraday with it)."
        }
        "rust" => {
            "Make one pool (`PgPool`, `deadpool`) and one `reqwest::Client` at start; clones of them share connections."
        }
        _ => {
            "Make one pool and one client when the process starts, share them, and keep connections alive."
        }
    };
    format!("{how} Keep as many idle connections as requests run at once.")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles};
    use super::DETECTOR;
    use crate::finding::{Finding, Severity};
    use crate::history::{ConnectionHistory, History};
    use crate::sketch::Sketch;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const CART: &str = "
        shop  GET /cart {res.telemetry.sdk.language=nodejs}                                        |-------------------------------------------------|
        shop    connect [client] {db.system=postgresql, db.name=shop, server.address=db.internal}  |-----------|
        shop    SELECT cart                                                                                    |--|
        shop    connect [client] {db.system=postgresql, db.name=shop, server.address=db.internal}                 |-----------|
        shop    SELECT items                                                                                                  |--|
        ";

    #[test]
    fn two_handshakes_with_one_database() {
        check(
            ID,
            CART,
            expect![[r#"
            2 connections to postgresql shop at db.internal opened by one request
              shop of 50 ms · info, confidence 0.80: they were opened one after the other, so the first was there when the next was opened
              count 2, window 27 ms, sum 24 ms, saved 12 ms
              connection-per-request shop "GET /cart" "postgresql shop at db.internal"
              path: GET /cart
              explanation: GET /cart opens 2 connections to postgresql shop at db.internal, one after the other, and waits 24 ms for them: 48 % of the request's 50 ms. The saving leaves the first one, which a pool may have needed.
              fix: Make one `Pool` (instead of a `Client` per request) and one HTTP agent with `keepAlive: true` when the process starts. Keep as many idle connections as requests run at once.
        "#]],
        );
    }

    #[test]
    fn the_steps_of_a_handshake_are_one_connection() {
        let call = |nth: usize| {
            let at = nth * 30;
            [
                ("HTTP GET [client] {url.full=http://prices/all}", 0, 28),
                ("  http.getconn", 0, 20),
                ("    http.dns", 0, 4),
                ("    http.connect", 4, 6),
                ("    http.tls", 10, 10),
            ]
            .map(|(name, from, len): (&str, usize, usize)| {
                format!(
                    "shop    {name:<60}{}|{}|\n",
                    " ".repeat(at + from),
                    "-".repeat(len - 1)
                )
            })
            .concat()
        };
        let request = |calls: usize| {
            let entry = format!("shop  GET /cart{:<53}|{}|\n", "", "-".repeat(99));
            entry + &(0..calls).map(call).collect::<String>()
        };
        check_silent(ID, &request(1));
        check_titles(
            ID,
            &request(3),
            expect![[r#"
            3 connections to prices opened by one request (critical)
        "#]],
        );
    }

    #[test]
    fn one_may_be_the_pools_first() {
        let once = {
            let mut lines = 0;
            let one = CART.split_inclusive('\n').filter(|it| {
                lines += usize::from(it.contains("connect"));
                !it.contains("connect") || lines == 1
            });
            one.collect::<String>()
        };
        check_silent(ID, &once);
    }

    #[test]
    fn different_databases_need_their_own() {
        check_silent(ID, &CART.replacen("db.name=shop", "db.name=bank", 1));
    }

    #[test]
    fn different_users_need_their_own() {
        let second = CART.replacen("db.name=shop", "db.name=shop, db.user=audit", 1);
        check_silent(ID, &second);
    }

    #[test]
    fn connections_of_log_lines_are_told_with_them() {
        let drawn = |host: &str| {
            format!(
                "
                shop  GET /cart                                                           |-------------------------------------------------|
                shop    POST [client] {{http.request.method=POST, url.full=http://{host}/push}}     |--------------------|
                shop      tcp.connect [client]                                            |-----------|
                shop    POST [client] {{http.request.method=POST, url.full=http://{host}/push}}                          |--------------------|
                shop      tcp.connect [client]                                                                           |-----------|
                "
            )
        };
        let said = |host: &str| super::super::tests::findings(&drawn(host)).contains(&ID);
        assert!(said("prices"));
        assert!(!said("logs.example/loki/api/v1"));
    }

    #[test]
    fn a_pool_that_fills_opens_several_at_once() {
        check_silent(
            ID,
            "
            shop  GET /cart                                  |-------------------------------------------------|
            shop    connect [client] {db.system=postgresql}  |-----------|
            shop    connect [client] {db.system=postgresql}   |-------------|
            shop    connect [client] {db.system=postgresql}    |------------|
            ",
        );
    }

    /// SQLAlchemy reports a connect whenever its pool hands one out.
    #[test]
    fn what_takes_no_time_was_no_handshake() {
        let quick = format!("1 column = 50 µs\n{}", CART.trim_start_matches('\n'));
        check_silent(ID, &quick);
    }

    #[test]
    fn failed_ones_are_another_problem() {
        check_silent(ID, &changed(CART, "db.internal}", "db.internal, error}"));
    }

    #[test]
    fn cold_starts_and_probes_are_silent() {
        check_silent(ID, &changed(CART, "{res.", "{faas.coldstart=true, res."));
        check_silent(ID, &changed(CART, "/cart", "/health"));
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            &changed(CART, "GET /cart", "rebuild [internal]"),
            expect![[r#"
                2 connections to postgresql shop at db.internal opened by one request (info)
            "#]],
        );
    }

    #[test]
    fn of_a_long_request_it_is_too_little() {
        check_silent(
            ID,
            "
            shop  GET /cart                                  |--------------------------------------------------------------------------------------------------|
            shop    connect [client] {db.system=postgresql}  |-|
            shop    connect [client] {db.system=postgresql}      |-|
            ",
        );
    }

    fn history(requests: i64, opened: i64) -> History {
        let mut latency = Sketch::default();
        latency.record(60_000_000, requests);
        History {
            service: "shop".into(),
            endpoint: "GET /cart".into(),
            requests,
            latency,
            connections: vec![ConnectionHistory {
                target: "postgresql shop at db.internal".into(),
                opened,
                critical_ns: opened * 20_000_000,
            }],
            ..History::default()
        }
    }

    fn review(history: &History) -> Vec<Finding> {
        let mut findings = Vec::new();
        super::review(&mut findings, history);
        findings
    }

    #[test]
    fn over_time_every_other_request_is_no_pool() {
        let found = review(&history(40, 30));
        let [it] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            it.title,
            "A connection to postgresql shop at db.internal for 75 of 100 requests"
        );
        assert_eq!(
            (it.severity, it.count, it.saved_ns),
            (Severity::Critical, 30, 20_000_000)
        );
        // Seen first in a trace and then over time, it is one culprit.
        let drawing = crate::drawing::parse(CART);
        let analysis = crate::analyze(drawing.spans(), &crate::Settings::default());
        let in_trace = analysis.findings.iter().find(|it| it.detector == ID);
        assert_eq!(in_trace.map(|it| &it.fingerprint), Some(&it.fingerprint));
    }

    #[test]
    fn over_time_a_pool_that_works_is_silent() {
        assert_eq!(review(&history(40, 19)), []);
        assert_eq!(review(&history(19, 19)), []);
        assert_eq!(review(&History::default()), []);
        let upkeep = History {
            endpoint: "GET /health".into(),
            ..history(40, 40)
        };
        assert_eq!(review(&upkeep), []);
    }
}
