//! `/metrics`, read as strictly as the format is written, after real traffic.

use std::collections::{BTreeMap, BTreeSet};

use super::support::culprit::{Culprit, data_directory};
use super::support::{eventually, http};

const JSON: &str = "application/json";

/// A sample: its name with suffix, its labels in the order they were written.
type Key = (String, Vec<(String, String)>);

/// What a scrape says.
#[derive(Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<Key, f64>,
}

impl Scrape {
    /// Panics at the first line that the format does not allow.
    fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n'), "the last line must end");
        let mut scrape = Scrape::default();
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').expect(line);
                assert!(!text.trim().is_empty(), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
                current = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                assert_eq!(name, current, "TYPE without HELP before it");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert_eq!(scrape.kinds.insert(name.to_owned(), kind.to_owned()), None);
            } else {
                let (key, value) = sample(line);
                let family = &scrape.kinds[&current];
                let suffixes: &[&str] = match family.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let belongs = |it: &&str| key.0 == format!("{current}{it}");
                assert!(suffixes.iter().any(belongs), "{line}");
                assert!(scrape.samples.insert(key, value).is_none(), "twice: {line}");
            }
        }
        for (name, kind) in &scrape.kinds {
            let unit = ["seconds", "bytes", "total", "info"];
            let base = name.rsplit('_').next().unwrap();
            assert!(
                !["ms", "milliseconds", "kb", "mb", "ns"].contains(&base),
                "{name}"
            );
            assert!(kind != "histogram" || unit.contains(&base), "{name}");
            if kind == "histogram" {
                scrape.check_buckets(name);
            }
        }
        scrape
    }

    /// Buckets rise to `+Inf`, which is the count.
    fn check_buckets(&self, name: &str) {
        let name_of_buckets = format!("{name}_bucket");
        let bound = |text: &str| match text {
            "+Inf" => f64::INFINITY,
            it => it.parse().expect(it),
        };
        let buckets = self
            .samples
            .iter()
            .filter(|(key, _)| key.0 == name_of_buckets);
        let mut buckets: Vec<(f64, f64)> = buckets
            .map(|(key, value)| (bound(&key.1[0].1), *value))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|it| it[0].1 <= it[1].1), "{name}");
        let last = buckets.last().expect("buckets");
        assert_eq!(
            *last,
            (f64::INFINITY, self.of(&format!("{name}_count"), &[]))
        );
    }

    /// A sample that must be there.
    fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let owned = labels
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        let key = (name.to_owned(), owned.collect());
        *self
            .samples
            .get(&key)
            .unwrap_or_else(|| panic!("no {key:?} in {:#?}", self.samples.keys()))
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> (Key, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, rest) = line.split_at(end);
    let is_name = |it: &str| {
        !it.is_empty()
            && !it.starts_with(|it: char| it.is_ascii_digit())
            && it
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'_')
    };
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    let mut rest = rest;
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (value, behind) = quoted(behind);
            labels.push((label.to_owned(), value));
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let number = rest.strip_prefix(' ').expect(line);
    let value: f64 = number.parse().expect(line);
    assert!(value.is_finite() && value >= 0.0, "{line}");
    let distinct: BTreeSet<_> = labels.iter().map(|it| &it.0).collect();
    assert_eq!(distinct.len(), labels.len(), "{line}");
    ((name.to_owned(), labels), value)
}

/// A label's value up to its closing quote, and what stands behind it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, it)) = chars.next() {
        match it {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().expect("an escape").1 {
                'n' => value.push('\n'),
                it @ ('\\' | '"') => value.push(it),
                it => panic!("unknown escape {it}"),
            },
            it => value.push(it),
        }
    }
    panic!("no closing quote: {text}");
}

async fn scrape(address: &str) -> Scrape {
    let (status, body) = http::get(&format!("{address}/metrics")).await;
    assert_eq!(status, 200);
    Scrape::parse(&body)
}

/// Spans of `traces` traces, three each, as OTLP/JSON; the last has no trace id.
fn spans(first: u32, traces: u32) -> String {
    let span = |trace: u32, id: u32, trace_id: String| {
        let parent = if id == 1 {
            String::new()
        } else {
            format!("{:016x}", 1)
        };
        serde_json::json!({
            "traceId": trace_id, "spanId": format!("{id:016x}"), "parentSpanId": parent,
            "name": format!("GET /{}", trace % 3), "kind": if id == 1 { 2 } else { 1 },
            "startTimeUnixNano": "1795185128000000000", "endTimeUnixNano": "1795185128100000000",
        })
    };
    let mut all = Vec::new();
    for trace in first..first + traces {
        all.extend((1..=3).map(|id| span(trace, id, format!("{trace:032x}"))));
    }
    all.push(span(0, 1, "0".repeat(32)));
    let resource = serde_json::json!({"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]});
    serde_json::json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": all}]}]})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_well_formed_and_equal_what_was_sent() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let traces = format!("{}/v1/traces", culprit.http);
    let before = scrape(&culprit.ui).await;
    for (first, count) in [(1, 10), (11, 7)] {
        let (status, _, body) = http::post(&traces, JSON, spans(first, count)).await;
        assert_eq!(status, 200, "{body:?}");
    }
    let (status, _, _) = http::post(&traces, JSON, "{").await;
    assert_eq!(status, 400);
    let (status, _, _) = http::post(&format!("{}/v1/logs", culprit.http), JSON, "{}").await;
    assert_eq!(status, 200);
    let after = eventually("all traces are analysed", async || {
        let now = scrape(&culprit.ui).await;
        (now.of("culprit_analysis_traces_total", &[]) == 17.0).then_some(now)
    })
    .await;
    let way = [
        ("receiver", "otlp"),
        ("transport", "http"),
        ("format", "json"),
    ];
    assert_eq!(
        after.of("otelcol_receiver_accepted_spans_total", &way),
        51.0
    );
    assert_eq!(after.of("culprit_receiver_requests_total", &way), 2.0);
    let reason = [("reason", "invalid_trace_id")];
    assert_eq!(
        after.of("culprit_receiver_rejected_spans_total", &reason),
        2.0
    );
    let reason = [("reason", "malformed")];
    assert_eq!(
        after.of("culprit_receiver_refused_requests_total", &reason),
        1.0
    );
    let signal = [("signal", "logs")];
    assert_eq!(
        after.of("culprit_receiver_other_signals_total", &signal),
        1.0
    );
    assert_eq!(after.of("culprit_analysis_spans_total", &[]), 51.0);
    assert_eq!(after.of("culprit_analysis_traces_in_flight", &[]), 0.0);
    assert_eq!(after.of("culprit_journal_rows", &[]), 0.0);
    assert_eq!(after.of("culprit_journal_waiting_bytes", &[]), 0.0);
    assert_eq!(after.of("culprit_journal_commit_seconds_count", &[]), 2.0);
    assert!(after.of("culprit_analysis_tick_seconds_count", &[]) >= 1.0);
    assert_eq!(after.of("culprit_postgres_up", &[]), 1.0);
    assert!(
        after.of("culprit_disk_free_bytes", &[]) > after.of("culprit_disk_free_min_bytes", &[])
    );
    assert_eq!(after.of("culprit_retention_failed_runs_total", &[]), 0.0);
    assert_eq!(after.of("culprit_postgres_restarts_total", &[]), 0.0);
    assert_eq!(
        after.of("culprit_dictionary_names", &[("dictionary", "services")]),
        1.0
    );
    for (key, value) in &before.samples {
        let family = key.0.trim_end_matches("_bucket").trim_end_matches("_sum");
        let family = family.trim_end_matches("_count");
        if before.kinds.get(family).is_some_and(|it| it != "gauge") {
            assert!(after.samples[key] >= *value, "{key:?} fell");
        }
    }
    let status: serde_json::Value =
        serde_json::from_str(&culprit.get("/api/v1/status").await).unwrap();
    assert_eq!(status["received"]["taken_spans"], 51);
    assert_eq!(status["level"], "warn", "{status}");
    assert!(culprit.terminate().await);
}

/// Every role can be asked for its health and its numbers, and the private PostgreSQL's death is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_have_a_listener_of_their_own() {
    let data = data_directory();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let culprit = Culprit::serve(data.path(), &["--listen-admin", &address]).await;
    let admin = format!("http://{address}");
    for path in ["/healthz", "/readyz"] {
        let (status, body) = http::get(&format!("{admin}{path}")).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let (status, _) = http::get(&format!("{admin}/status")).await;
    assert_eq!(status, 404, "no pages here");
    culprit.kill_postgres().await;
    eventually("the restart is counted", async || {
        let now = scrape(&admin).await;
        let restarts = now.of("culprit_postgres_restarts_total", &[]) == 1.0;
        (restarts && now.of("culprit_postgres_up", &[]) == 1.0).then_some(())
    })
    .await;
    assert!(culprit.terminate().await);
}
