//! `culprit analyze` and `culprit exec` from outside: every format, broken inputs, exit codes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde::Deserialize;
use tempfile::TempDir;

use crate::support::culprit::command;
use crate::support::spans::{CLIENT, SERVER, n_plus_one, request, text, trace_id};

/// The documented JSON: what is not here may be there, what is here must be.
#[derive(Deserialize)]
struct Report {
    schema: u32,
    traces: Vec<Trace>,
    findings_over_time: Vec<OverTime>,
    coverage: Coverage,
}

#[derive(Deserialize)]
struct OverTime {
    service: String,
    endpoint: String,
    requests: u64,
    affected_requests: u64,
    example_trace_id: String,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Deserialize)]
struct Trace {
    trace_id: String,
    warnings: Vec<String>,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    service: String,
    endpoint: String,
    span_id: String,
    duration_ns: u64,
    categories: BTreeMap<String, u64>,
    critical_path: Vec<Stretch>,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Stretch {
    span_id: String,
    service: String,
    operation: String,
    start_ns: u64,
    end_ns: u64,
}

#[derive(Deserialize)]
struct Finding {
    detector: String,
    fingerprint: String,
    title: String,
    severity: String,
    confidence: f64,
    count: u32,
    span_ids: Vec<String>,
    statement: Option<String>,
    saved_ns: u64,
    window_ns: u64,
    sum_ns: u64,
    #[serde(deserialize_with = "Option::deserialize")]
    code: Option<String>,
    fix: String,
}

#[derive(Deserialize)]
struct Coverage {
    spans: u64,
    shifted_spans: u64,
    duplicate_ids: u64,
    sampled_requests: u64,
    sampled_stand_for: u64,
    ignored_findings: u64,
    unused_ignores: Vec<String>,
    notes: Vec<String>,
}

fn analyze(arguments: &[&str]) -> Output {
    let arguments = [&["analyze"], arguments].concat();
    command(&arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(output: &Output) -> Report {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", stdout(output), stderr(output)))
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A directory with files in it.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    fn add(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        path.to_str().expect("UTF-8").to_owned()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn protobuf(number: u64, authors: u64) -> Vec<u8> {
    n_plus_one(number, authors).encode_to_vec()
}

fn json(number: u64, authors: u64) -> String {
    collector::otlp::to_json(&protobuf(number, authors)).expect("valid")
}

/// `GET /posts` of the blog, with one query and four more, 30 ms each, as Jaeger's API answers it.
fn jaeger() -> String {
    let span = |id: u32, from_us: u64, for_us: u64, name: &str, more: &str| {
        let parent = r#"{"refType":"CHILD_OF","traceID":"4a","spanID":"1"}"#;
        let references = if id == 1 { "" } else { parent };
        format!(
            r#"{{"traceID":"4a","spanID":"{id:x}","operationName":"{name}","references":[{references}],
               "startTime":{},"duration":{for_us},"tags":[{more}],"logs":[],"processID":"p1"}}"#,
            1_760_000_000_000_000_u64 + from_us
        )
    };
    let server = r#"{"key":"span.kind","type":"string","value":"server"},
                    {"key":"http.method","type":"string","value":"GET"},
                    {"key":"http.route","type":"string","value":"/posts"}"#;
    let query = r#"{"key":"span.kind","type":"string","value":"client"},
                   {"key":"db.statement","type":"string","value":"SELECT * FROM authors WHERE id = ?"}"#;
    let mut spans = vec![span(1, 0, 150_000, "GET /posts", server)];
    spans.extend((0..4).map(|it| {
        let from_us = 5_000 + u64::from(it) * 35_000;
        span(2 + it, from_us, 30_000, "SELECT", query)
    }));
    format!(
        r#"{{"data":[{{"traceID":"4a","spans":[{}],
           "processes":{{"p1":{{"serviceName":"blog","tags":[]}}}}}}],"total":0,"errors":null}}"#,
        spans.join(",")
    )
}

/// The same as Zipkin writes it.
fn zipkin() -> String {
    let mut spans = vec![
        r#"{"traceId":"4a","id":"1","kind":"SERVER","name":"get /posts","timestamp":1760000000000000,
            "duration":150000,"localEndpoint":{"serviceName":"blog"},
            "tags":{"http.method":"GET","http.route":"/posts"}}"#
            .to_owned(),
    ];
    spans.extend((0..4u64).map(|it| {
        format!(
            r#"{{"traceId":"4a","parentId":"1","id":"{}","kind":"CLIENT","name":"query",
                "timestamp":{},"duration":30000,"localEndpoint":{{"serviceName":"blog"}},
                "tags":{{"sql.query":"SELECT * FROM authors WHERE id = ?"}}}}"#,
            it + 2,
            1_760_000_000_005_000 + it * 35_000
        )
    }));
    format!("[{}]", spans.join(","))
}

#[test]
fn every_format_packed_or_not_says_the_same() {
    let files = Files::new();
    let lines = format!("{}\n{}\n", json(1, 8), json(2, 8));
    let zipped = zstd::encode_all(&protobuf(1, 8)[..], 1).expect("memory");
    let cases = [
        files.add("a", json(1, 8)),
        files.add("b", lines),
        files.add("c", protobuf(1, 8)),
        files.add("d", gzip(json(1, 8).as_bytes())),
        files.add("e", zipped),
        files.add("f", jaeger()),
        files.add("g", zipkin()),
        files.add("h", gzip(zipkin().as_bytes())),
    ];
    for case in &cases {
        let output = analyze(&["--format=json", case]);
        assert_eq!(code(&output), Some(1), "{case}: {}", stderr(&output));
        let report = read(&output);
        let entry = &report.traces[0].entries[0];
        let finding = &entry.findings[0];
        assert_eq!(
            (&*entry.service, &*entry.endpoint),
            ("blog", "GET /posts"),
            "{case}"
        );
        assert_eq!(finding.detector, "n-plus-one-query", "{case}");
        let statement = finding.statement.as_deref();
        assert_eq!(
            statement,
            Some("select * from authors where id = ?"),
            "{case}"
        );
    }
}

#[test]
fn the_json_is_as_documented_and_adds_up() {
    let files = Files::new();
    let output = analyze(&["--format=json", &files.add("a", json(1, 8))]);
    let report = read(&output);
    assert_eq!(report.schema, 1);
    assert_eq!(report.coverage.spans, 10);
    let seen = &report.coverage;
    assert_eq!((seen.shifted_spans, seen.duplicate_ids), (0, 0));
    assert_eq!((seen.sampled_requests, seen.sampled_stand_for), (0, 0));
    let notes = seen.notes.join("\n");
    assert!(notes.contains("pool-wait is blind here"), "{notes}");
    assert!(report.findings_over_time.is_empty());
    for trace in &report.traces {
        assert_eq!(trace.trace_id.len(), 32);
        assert!(trace.warnings.is_empty(), "{:?}", trace.warnings);
        for entry in &trace.entries {
            assert_eq!(entry.categories.len(), 11);
            assert_eq!(entry.categories.values().sum::<u64>(), entry.duration_ns);
            let path = entry.critical_path.iter();
            let lengths = path.map(|it| it.end_ns - it.start_ns);
            assert_eq!(lengths.sum::<u64>(), entry.duration_ns);
            let joined = entry.critical_path.windows(2);
            assert!(joined.into_iter().all(|it| it[0].end_ns == it[1].start_ns));
            let first = &entry.critical_path[0];
            assert_eq!(first.span_id, entry.span_id);
            assert_eq!((&*first.service, &*first.operation), ("blog", "GET /posts"));
        }
    }
    let finding = &report.traces[0].entries[0].findings[0];
    assert_eq!((finding.count, finding.span_ids.len()), (8, 8));
    assert!(finding.title.starts_with("8 × "), "{}", finding.title);
    assert!(finding.fingerprint.starts_with("n-plus-one-query blog "));
    assert!(["info", "warning", "critical"].contains(&&*finding.severity));
    assert!((0.0..=1.0).contains(&finding.confidence));
    assert_eq!(
        (finding.sum_ns, finding.window_ns),
        (32_000_000, 39_000_000)
    );
    assert!(finding.saved_ns > 0 && !finding.fix.is_empty() && finding.code.is_none());
}

/// So many requests, one after the other, with one call of so many ms each, in a request of 1.5 s.
fn one_call_each(requests: u64, for_ms: u64, name: &str, of_call: &[(&str, &str)]) -> Vec<u8> {
    const MS: u64 = 1_000_000;
    let attributes = |of: &[(&str, &str)]| of.iter().map(|it| text(it.0, it.1)).collect();
    let mut spans = Vec::new();
    for at in 0..requests {
        let start_ns = 1_760_000_000_000_000_000 + at * 2_000 * MS;
        let span = |id: u64, kind, name: &str, ms: u64| Span {
            trace_id: trace_id(at + 1),
            span_id: (2 * at + id).to_be_bytes().to_vec(),
            name: name.into(),
            kind,
            start_time_unix_nano: start_ns,
            end_time_unix_nano: start_ns + ms * MS,
            ..Span::default()
        };
        let entry = Span {
            attributes: attributes(&[("http.request.method", "GET"), ("http.route", "/stock")]),
            ..span(1, SERVER, "GET /stock", 1_500)
        };
        let call = Span {
            parent_span_id: entry.span_id.clone(),
            attributes: attributes(of_call),
            ..span(2, CLIENT, name, for_ms)
        };
        spans.extend([entry, call]);
    }
    request("shop", spans).encode_to_vec()
}

#[test]
fn what_only_many_requests_tell_is_found() {
    let statement = [
        ("db.system.name", "postgresql"),
        ("db.query.text", "SELECT pieces FROM stock"),
    ];
    let connect = [
        ("db.system.name", "postgresql"),
        ("server.address", "warehouse"),
    ];
    let files = Files::new();
    let slow = files.add("slow", one_call_each(25, 600, "SELECT", &statement));
    let quick = files.add("quick", one_call_each(25, 20, "SELECT", &statement));
    let connects = files.add("connects", one_call_each(30, 20, "connect", &connect));
    for (path, detector, requests) in [
        (&slow, "slow-query", 25),
        (&connects, "connection-per-request", 30),
    ] {
        let report = read(&analyze(&["--format=json", "--fail-on=never", path]));
        let [found] = &report.findings_over_time[..] else {
            panic!("{path}: {}", report.findings_over_time.len());
        };
        assert_eq!((&*found.service, &*found.endpoint), ("shop", "GET /stock"));
        assert_eq!(found.finding.detector, detector);
        assert_eq!(
            (found.requests, found.affected_requests),
            (requests, requests)
        );
        assert_eq!(u64::from(found.finding.count), requests);
        assert_eq!(found.finding.span_ids, [""; 0]);
        let mut traces = report.traces.iter();
        assert!(traces.any(|it| it.trace_id == found.example_trace_id));
        let entries = report.traces.iter().flat_map(|it| &it.entries);
        let mut in_traces = entries.flat_map(|it| &it.findings);
        assert!(in_traces.all(|it| it.detector != detector));

        // Beside the others in every format, and for the build.
        let told = stdout(&analyze(&["--fail-on=never", path]));
        assert!(told.contains(&found.finding.title), "{told}");
        assert!(
            told.contains(&format!("in all {requests} requests")),
            "{told}"
        );
        for format in ["--format=html", "--format=sarif"] {
            let told = stdout(&analyze(&[format, "--fail-on=never", path]));
            assert!(told.contains(&found.finding.title), "{told}");
        }
        let fail_on = format!("--fail-on={detector}");
        assert_eq!(code(&analyze(&[&fail_on, path])), Some(1));
        let accepted = files.add("accepted", &found.finding.fingerprint);
        let ignore = format!("--ignore={accepted}");
        assert_eq!(code(&analyze(&[&fail_on, &ignore, path])), Some(0));
    }
    let fail_on = "--fail-on=slow-query,connection-per-request";
    let output = analyze(&["--format=json", fail_on, &quick]);
    assert_eq!(code(&output), Some(0));
    assert!(read(&output).findings_over_time.is_empty());
}

#[test]
fn a_trace_over_several_files_and_standard_input_is_one() {
    let files = Files::new();
    let mut first = n_plus_one(1, 8);
    let mut spans = std::mem::take(&mut first.resource_spans[0].scope_spans[0].spans);
    let rest = request("blog", spans.split_off(3));
    first.resource_spans[0].scope_spans[0].spans = spans;
    let path = files.add("a", first.encode_to_vec());
    let mut child = command(&["analyze", "--format=json", &path, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(&gzip(&rest.encode_to_vec()))
        .expect("it reads");
    drop(stdin);
    let report = read(&child.wait_with_output().expect("it ends"));
    assert_eq!(report.traces.len(), 1);
    assert_eq!(report.traces[0].entries[0].findings[0].count, 8);
    // The same, and delivered twice, by two files.
    let rest = files.add("b", rest.encode_to_vec());
    let again = read(&analyze(&["--format=json", &rest, &path, &path]));
    assert_eq!(again.coverage.spans, 10);
}

#[test]
fn broken_inputs_are_named_with_their_place() {
    let files = Files::new();
    let good = json(1, 8);
    let mut packed = gzip(good.as_bytes());
    packed.truncate(packed.len() / 2);
    let cases = [
        (
            files.add("cut.json", &good[..good.len() / 2]),
            "cut.json, line 1, column ",
        ),
        (
            files.add("cut.jsonl", format!("{good}\n{}", &good[..99])),
            "cut.jsonl, line 2, column ",
        ),
        (files.add("packed.gz", packed), "looks like gzip"),
        (
            files.add("other.json", r#"{"hello": "world"}"#),
            "its JSON begins with hello",
        ),
        (files.add("text.txt", "hello"), "resourceSpans"),
        (files.add("empty", ""), "is its exporter writing?"),
        (files.add("blank", " \n \n"), "is its exporter writing?"),
        (files.add("\x1b[31m.json", "{}"), "there are no spans in"),
        (
            files.add("logs.json", r#"{"resourceLogs": []}"#),
            "logs or metrics",
        ),
        (
            files.0.path().join("missing").display().to_string(),
            "cannot be read",
        ),
        (files.0.path().display().to_string(), "is a directory"),
    ];
    for (path, said) in &cases {
        let output = analyze(&[path]);
        assert_eq!(code(&output), Some(2), "{path}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(said),
            "{path}: {}",
            stderr(&output)
        );
        assert!(stdout(&output).is_empty(), "{path}");
        let controls = |it: char| it.is_control() && it != '\n';
        assert!(!stderr(&output).contains(controls), "{path}");
    }
    let nonsense = analyze(&["--fail-on=sometimes", &files.add("a", &good)]);
    assert_eq!(code(&nonsense), Some(2));
    assert!(
        stderr(&nonsense).contains("n-plus-one-query"),
        "{}",
        stderr(&nonsense)
    );
}

#[test]
fn what_fails_is_chosen_and_what_is_known_is_accepted() {
    let files = Files::new();
    let path = files.add("a", json(1, 8));
    for (fail_on, expected) in [
        ("info", 1),
        ("n-plus-one", 1),
        ("slow-query,n-plus-one-query", 1),
        ("slow-query", 0),
        ("never", 0),
    ] {
        let output = analyze(&["--fail-on", fail_on, &path]);
        assert_eq!(
            code(&output),
            Some(expected),
            "{fail_on}: {}",
            stderr(&output)
        );
    }
    assert_eq!(code(&analyze(&["--repeats-min=9", &path])), Some(0));

    let report = read(&analyze(&["--format=json", &path]));
    let fingerprint = &report.traces[0].entries[0].findings[0].fingerprint;
    let accepted = format!("# known since spring\n{fingerprint}\nslow-query blog \"GET /old\"\n");
    let accepted = files.add("accepted", accepted);
    let output = analyze(&[
        "--ignore",
        &accepted,
        "--format=json",
        "--fail-on=info",
        &path,
    ]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let report = read(&output);
    assert!(report.traces[0].entries[0].findings.is_empty());
    assert_eq!(report.coverage.ignored_findings, 1);
    assert_eq!(
        report.coverage.unused_ignores,
        ["slow-query blog \"GET /old\""]
    );
}

#[test]
fn budgets_fail_in_every_format() {
    let files = Files::new();
    let path = files.add("a", json(1, 8));
    let budget = "--budget=GET /posts: db<=5, p99<=10s";
    for format in ["text", "json", "html", "sarif"] {
        let output = analyze(&[budget, "--fail-on=never", "--format", format, &path]);
        assert_eq!(code(&output), Some(1), "{format}: {}", stderr(&output));
        let said = stdout(&output);
        assert!(
            said.contains("9 database calls; the budget is 5"),
            "{format}: {said}"
        );
    }
    let kept = ["--budget=GET /posts: db<=9", "--budget=GET /none: db<=1"];
    let output = analyze(&[kept[0], kept[1], "--fail-on=never", &path]);
    assert_eq!(code(&output), Some(0));
    assert!(stdout(&output).contains("no request matches: GET /none: db<=1"));
    assert_eq!(code(&analyze(&["--budget=nonsense", &path])), Some(2));
}

#[test]
fn reports_go_to_files_and_text_has_no_colour_there() {
    let files = Files::new();
    let path = files.add("a", json(1, 8));
    let to = files.0.path().join("report.html").display().to_string();
    let output = analyze(&["--format=html", "--output", &to, &path]);
    assert!(stdout(&output).is_empty());
    let html = std::fs::read_to_string(&to).expect("the report");
    assert!(html.contains("Content-Security-Policy") && !html.contains("<script"));
    let text = stdout(&analyze(&[&path]));
    assert!(!text.contains('\x1b'), "{text}");
    assert!(
        text.contains("8 × select authors") && text.contains("Where the time went"),
        "{text}"
    );
    let log: serde_json::Value =
        serde_json::from_slice(&analyze(&["--format=sarif", &path]).stdout).expect("JSON");
    assert_eq!(log["version"], "2.1.0");
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "n-plus-one-query");
}

#[test]
fn a_hundred_traces_stand_in_order_of_time() {
    let files = Files::new();
    let lines: Vec<String> = (0..100).rev().map(|it| json(it + 1, it % 7)).collect();
    let path = files.add("a", lines.join("\n"));
    let one = analyze(&["--format=json", &path]);
    let again = analyze(&["--format=json", &path]);
    assert_eq!(one.stdout, again.stdout, "the same spans, the same bytes");
    assert_eq!(read(&one).traces.len(), 100);
}

fn exec(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let arguments = [&["exec"], arguments].concat();
    let mut command = command(&arguments);
    command.stdin(Stdio::null());
    command.envs(environment.iter().copied());
    command.output().expect("the binary starts")
}

/// A program that posts a file to where the environment says, as an SDK does, and ends with `code`.
fn poster(files: &Files, body: &Path, code: i32) -> String {
    files.add(
        "post.py",
        format!(
            "import os, sys, urllib.request\n\
             assert os.environ['OTEL_EXPORTER_OTLP_PROTOCOL'] == 'http/protobuf'\n\
             assert os.environ['OTEL_TRACES_SAMPLER'] == 'always_on'\n\
             assert os.environ['OTEL_SERVICE_NAME']\n\
             url = os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] + '/v1/traces'\n\
             body = open({:?}, 'rb').read()\n\
             request = urllib.request.Request(url, body, {{'Content-Type': 'application/json'}})\n\
             assert urllib.request.urlopen(request).status == 200\n\
             print('the tests ran')\n\
             sys.exit({code})\n",
            body.to_str().expect("UTF-8")
        ),
    )
}

#[test]
fn a_commands_spans_are_taken_and_reported() {
    let files = Files::new();
    let body = files.add("body.json", json(1, 8));
    let script = poster(&files, Path::new(&body), 0);
    let output = exec(&["--", "python3", &script], &[]);
    let said = stdout(&output);
    assert_eq!(code(&output), Some(1), "{said}\n{}", stderr(&output));
    assert!(said.starts_with("the tests ran\n"), "{said}");
    assert!(said.contains("8 × select authors"), "{said}");
    let output = exec(&["--fail-on=never", "python3", &script], &[]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
}

#[test]
fn a_failing_command_keeps_its_exit_code() {
    let files = Files::new();
    let body = files.add("body.json", json(1, 8));
    let script = poster(&files, Path::new(&body), 7);
    let output = exec(&["python3", &script], &[]);
    assert_eq!(code(&output), Some(7), "{}", stderr(&output));
    assert!(stdout(&output).contains("8 × select authors"));
    assert_eq!(code(&exec(&["--", "sh", "-c", "exit 3"], &[])), Some(3));
    assert_eq!(
        code(&exec(&["--", "sh", "-c", "kill -TERM $$"], &[])),
        Some(143)
    );
}

#[test]
fn no_spans_are_not_clean() {
    let output = exec(&["--", "true"], &[]);
    assert_eq!(code(&output), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("no spans came") && said.contains("opentelemetry-instrument"),
        "{said}"
    );
    let output = exec(&["--", "/none/such"], &[]);
    assert_eq!(code(&output), Some(127));
    assert!(
        stderr(&output).contains("cannot be started"),
        "{}",
        stderr(&output)
    );
    assert_eq!(code(&exec(&["--", "/etc/passwd"], &[])), Some(126));
}

#[test]
fn an_input_without_spans_beside_a_good_one_is_not_clean() {
    let files = Files::new();
    let good = files.add("good.json", json(1, 8));
    let empty = files.add("empty.json", r#"{"resourceSpans":[]}"#);
    let output = analyze(&[&good, &empty]);
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains(&empty), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("good.json"),
        "{}",
        stderr(&output)
    );
    // What is known to be of no use is passed over, and that is told.
    let logs = files.add("logs.json", r#"{"resourceLogs":[]}"#);
    let output = analyze(&["--fail-on=never", &good, &logs]);
    assert_eq!(code(&output), Some(0));
    assert!(stdout(&output).contains("Logs and metrics"));
}

#[test]
fn an_output_that_cannot_be_written_is_told_before_the_command_runs() {
    let files = Files::new();
    let ran = files.0.path().join("ran");
    let touch = format!(": > '{}'", ran.display());
    let output = exec(&["--output=/none/such", "--", "sh", "-c", &touch], &[]);
    assert_eq!(code(&output), Some(2));
    assert!(
        stderr(&output).contains("/none/such"),
        "{}",
        stderr(&output)
    );
    assert!(!ran.exists());
}

#[test]
fn a_full_standard_output_is_told() {
    for arguments in [&["explain"][..], &["explain", "n-plus-one"]] {
        let full = std::fs::File::create("/dev/full").expect("Linux has it");
        let output = command(arguments).stdout(full).output();
        let output = output.expect("the binary starts");
        assert_eq!(code(&output), Some(2), "{}", stderr(&output));
    }
}

#[test]
fn a_mistake_in_a_budget_or_accepted_line_is_told_wherever_the_report_goes() {
    let files = Files::new();
    let good = files.add("good.json", json(1, 8));
    let accepted = files.add("accepted", "slow-query shop old\n");
    let budget = "GET /nothing: db<=1";
    let output = analyze(&[
        "--format=sarif",
        "--ignore",
        &accepted,
        "--budget",
        budget,
        &good,
    ]);
    for told in ["slow-query shop old", budget] {
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn signals_reach_the_command() {
    let files = Files::new();
    let ready = files.0.path().join("ready");
    // It ends by itself only if the signal comes.
    let script = format!(
        "trap 'wait; exit 9' TERM
         (trap ': > \"{0}.told\"; exit' TERM; : > '{0}'; while true; do sleep 0.05; done) & wait",
        ready.display()
    );
    let child = command(&["exec", "--", "sh", "-c", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("the binary starts");
    let since = std::time::Instant::now();
    while !ready.exists() {
        assert!(since.elapsed().as_secs() < 60, "the command does not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(9));
    // … and what the command has started.
    assert!(files.0.path().join("ready.told").exists());
}

#[test]
fn detectors_are_explained_with_a_drawing() {
    let output = command(&["explain", "n-plus-one-query"])
        .output()
        .expect("the binary starts");
    let said = stdout(&output);
    assert!(
        said.contains("dddd") && said.contains("a fix saves"),
        "{said}"
    );
}

#[tokio::test]
async fn spans_over_grpc_are_taken_too() {
    let files = Files::new();
    let (address, done) = (files.0.path().join("address"), files.0.path().join("done"));
    let script = format!(
        "echo $OTEL_EXPORTER_OTLP_PROTOCOL $OTEL_EXPORTER_OTLP_ENDPOINT > '{0}.tmp'; mv '{0}.tmp' '{0}'; \
         while [ ! -e '{1}' ]; do sleep 0.05; done",
        address.display(),
        done.display()
    );
    let child = command(&["exec", "--format=json", "--", "sh", "-c", &script])
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let child = child.expect("the binary starts");
    let told = crate::support::eventually("the address", async || {
        std::fs::read_to_string(&address).ok()
    });
    let told = told.await;
    let endpoint = told
        .trim()
        .strip_prefix("grpc ")
        .expect("the user's protocol stays");
    crate::support::spans::export(endpoint, n_plus_one(1, 8))
        .await
        .expect("it is taken");
    std::fs::write(&done, "").expect("it can be written");
    let report = read(&child.wait_with_output().expect("it ends"));
    assert_eq!(report.traces[0].entries[0].findings[0].count, 8);
}
