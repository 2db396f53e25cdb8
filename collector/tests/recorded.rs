//! What real SDKs export, and what the analysis makes of it.
//!
//! Each folder of `tests/recorded/` holds a small app of one stack, the OTLP that its instrumentation
//! exported while each of its endpoints was asked once, and what is expected to come out. The apps have the
//! same endpoints: those that do a thing badly must be found, those that do the same thing well must stay
//! silent.
//!
//! Expectations are rewritten by `UPDATE_EXPECT=1 cargo test -p collector --test recorded`; read the
//! difference before you keep it.

use analyzer::category::Category;
use analyzer::finding::Finding;
use analyzer::span::{SpanKind, Spans, TraceId};
use analyzer::{Analysis, Entry, Settings};
use collector::otlp;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Done well everywhere, so nothing may be found there.
const SILENT: &[&str] = &[
    "/about",
    "/posts/eager",
    "/posts/page",
    "/posts/export",
    "/visits/bulk",
    "/orders/log-async",
    "/prices/batch",
];

/// Done badly everywhere: detector and endpoint.
const FOUND: &[(&str, &str)] = &[
    ("n-plus-one-query", "/posts/lazy"),
    ("n-plus-one-write", "/visits/rows"),
    ("n-plus-one-call", "/prices/each"),
    ("slow-query", "/report"),
    ("remote-logging", "/orders/log-sync"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recorded")
}

/// The stacks' names and their recordings, unpacked.
fn recordings() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder()).expect("a folder");
    let mut found: Vec<_> = entries
        .filter_map(|it| {
            let path = it.expect("an entry").path();
            let packed = std::fs::read(path.join("recording.pb.zst")).ok()?;
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, zstd::decode_all(&packed[..]).expect("zstd")))
        })
        .collect();
    found.sort();
    found
}

/// The traces of a recording, in order of their start.
fn traces(recording: &[u8]) -> Vec<Spans<'_>> {
    let ids = otlp::trace_ids(recording).expect("OTLP");
    let ids: BTreeSet<TraceId> = ids.into_iter().collect();
    let mut traces: Vec<Spans<'_>> = ids.into_iter().map(|it| trace(recording, it)).collect();
    traces.sort_by_key(|it| it.spans.iter().map(|it| it.start_ns).min());
    traces
}

fn trace(recording: &[u8], id: TraceId) -> Spans<'_> {
    let mut spans = Spans::default();
    otlp::decode_into(&mut spans, recording, |it| it == id).expect("OTLP");
    spans
}

fn settings() -> Settings {
    Settings {
        repeats_min: 5,
        ..Settings::default()
    }
}

#[test]
fn what_is_found_in_each_stack() {
    for (stack, recording) in recordings() {
        let mut text = String::new();
        for spans in traces(&recording) {
            describe(&mut text, &analyzer::analyze(spans, &settings()));
        }
        let expected = folder().join(&stack).join("expected.txt");
        expect_test::expect_file![expected].assert_eq(&text);
    }
}

#[test]
fn what_is_done_badly_is_found_in_each_stack() {
    for (stack, recording) in recordings() {
        let mut found = BTreeSet::new();
        for spans in traces(&recording) {
            let analysis = analyzer::analyze(spans, &settings());
            for it in &analysis.findings {
                let endpoint = &analysis.entries[it.entry].endpoint;
                found.insert((it.detector, path(endpoint).to_owned()));
            }
        }
        for (detector, path) in FOUND {
            let is_found = found.contains(&(*detector, path.to_string()));
            assert!(is_found, "{stack}: {detector} at {path}, only {found:?}");
        }
    }
}

#[test]
fn what_is_done_well_is_silent_in_each_stack() {
    for (stack, recording) in recordings() {
        let mut seen = BTreeSet::new();
        // The very first request loads classes, compiles and connects; that it is slow is true.
        let is_request = |it: &Spans<'_>| it.spans.iter().any(|it| it.kind == SpanKind::Server);
        let traces = traces(&recording);
        let first = traces.iter().position(is_request);
        for (at, spans) in traces.into_iter().enumerate() {
            if Some(at) == first {
                continue;
            }
            let analysis = analyzer::analyze(spans, &settings());
            let silent = |entry: &Entry<'_>| {
                let path = path(&entry.endpoint);
                SILENT.iter().find(|it| **it == path).copied()
            };
            seen.extend(analysis.entries.iter().filter_map(silent));
            for it in analysis.findings.iter().filter(|it| !is_cold(&stack, it)) {
                let entry = &analysis.entries[it.entry];
                assert_eq!(silent(entry), None, "{stack}: {}", it.title);
            }
        }
        assert_eq!(seen, SILENT.iter().copied().collect(), "{stack}");
    }
}

/// A virtual machine loads its classes while it answers the first requests: that time is in the
/// service's own code indeed.
fn is_cold(stack: &str, finding: &Finding) -> bool {
    stack == "spring-jpa" && finding.detector == "handler-bound"
}

/// `GET /about` → `/about`.
fn path(endpoint: &str) -> &str {
    endpoint.split_once(' ').map_or("", |it| it.1)
}

/// Tells what a person would check by eye. Times differ from recording to recording, so shares are rounded
/// to ten parts.
fn describe(text: &mut String, analysis: &Analysis<'_>) {
    for (at, entry) in analysis.entries.iter().enumerate() {
        let indent = if entry.parent.is_some() { "  " } else { "" };
        let error = if entry.error { ", failed" } else { "" };
        writeln!(text, "{indent}{}{error}: {}", entry.endpoint, shares(entry)).unwrap();
        calls(text, analysis, at);
        for it in analysis.findings.iter().filter(|it| it.entry == at) {
            finding(text, analysis, it);
        }
    }
    let coverage = &analysis.coverage;
    if coverage.without_statement + coverage.without_target + coverage.orphans > 0 {
        writeln!(
            text,
            "  not seen: {} of {} statements, {} of {} targets, {} parents",
            coverage.without_statement,
            coverage.database_calls,
            coverage.without_target,
            coverage.outbound_calls,
            coverage.orphans
        )
        .unwrap();
    }
}

fn shares(entry: &Entry<'_>) -> String {
    let tenths = |ns: u64| (ns * 10 + entry.duration_ns / 2) / entry.duration_ns.max(1);
    let of_category = |it: &Category| {
        let tenths = tenths(entry.categories[*it as usize]);
        (tenths > 0).then(|| format!("{} {tenths}0 %", it.name()))
    };
    let shares: Vec<String> = Category::ALL.iter().filter_map(of_category).collect();
    shares.join(", ")
}

/// The entry's logical calls: how often each, in order of the first.
fn calls(text: &mut String, analysis: &Analysis<'_>, entry: usize) {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for call in analysis.calls.iter().filter(|it| it.entry == Some(entry)) {
        let named = format!("{} {}", call.category.id(), call.name);
        match counted.iter_mut().find(|it| it.0 == named) {
            Some((_, count)) => *count += 1,
            None => counted.push((named, 1)),
        }
    }
    for (named, count) in counted {
        writeln!(text, "    {count} × {named}").unwrap();
    }
}

fn finding(text: &mut String, analysis: &Analysis<'_>, it: &Finding) {
    writeln!(text, "  ! {}: {}", it.detector, it.title).unwrap();
    let details = [
        ("count", Some(it.count.to_string())),
        ("path", Some(it.call_path.join(" > "))),
        ("statement", it.statement.clone()),
        ("target", it.target.clone()),
        ("code", it.code.clone()),
        ("framework", it.framework.map(Into::into)),
        ("fix", Some(it.fix.clone())),
    ];
    for (name, detail) in details {
        if let Some(detail) = detail {
            writeln!(text, "      {name}: {detail}").unwrap();
        }
    }
    let entry = &analysis.entries[it.entry];
    assert!(it.saved_ns <= entry.duration_ns);
}
