//! `culprit exec` around the tests of a Django and of an Express project with automatic instrumentation,
//! against a real Postgres: the loop is reported, its fixed version and the other pages are not.
//!
//! `make test` installs the packages (`CULPRIT_TEST_PYTHON`, `CULPRIT_TEST_NODE_MODULES`). The projects
//! are apps of `tests/recorded`.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::culprit::{command, data_directory};
use crate::support::external::Server;

#[tokio::test]
async fn a_django_projects_tests_report_their_n_plus_one() {
    let postgres = Server::postgres().await;
    let statement = "select authors.id, authors.name from authors where authors.id = ? limit ?";
    report(&postgres, &django(&[])).names_only_the_loop(statement, "select_related");
    report(&postgres, &django(&["-k", "eager or page"])).is_clean();
}

#[tokio::test]
async fn an_express_projects_tests_report_their_n_plus_one() {
    let postgres = Server::postgres().await;
    let statement = "select name from authors where id = ?";
    report(&postgres, &express(&[])).names_only_the_loop(statement, "any($1)");
    report(
        &postgres,
        &express(&[
            "--test-name-pattern",
            "eager",
            "--test-name-pattern",
            "page",
        ]),
    )
    .is_clean();
}

/// What a project's developer types.
fn django(more: &[&str]) -> Vec<String> {
    let python = PathBuf::from(installed("CULPRIT_TEST_PYTHON"));
    let script = |name: &str| python.with_file_name(name).display().to_string();
    let mut line = vec![script("opentelemetry-instrument"), script("pytest")];
    line.extend(["-p", "no:cacheprovider"].map(Into::into));
    line.extend(more.iter().map(ToString::to_string));
    line.push(tests().join("sdk/test_blog.py").display().to_string());
    line
}

fn express(more: &[&str]) -> Vec<String> {
    let sdk = "@opentelemetry/auto-instrumentations-node/register";
    let mut line: Vec<String> = ["node", "--require", sdk].map(Into::into).to_vec();
    line.extend(more.iter().map(ToString::to_string));
    line.push(tests().join("sdk/blog.test.js").display().to_string());
    line
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn installed(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names what `make test` installs"))
}

/// What `culprit exec` said of a command.
struct Report {
    code: Option<i32>,
    json: Value,
}

fn report(postgres: &Server, line: &[String]) -> Report {
    let directory = data_directory();
    let file = directory.path().join("report.json");
    let mut exec = command(&["exec", "--format", "json", "--output"]);
    exec.arg(&file).arg("--").args(line);
    environment(&mut exec, postgres);
    let output = exec.output().expect("culprit starts");
    let said = || {
        let texts = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        texts.join("\n")
    };
    let json = std::fs::read(&file).unwrap_or_else(|error| panic!("{error}: {}", said()));
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["schema"], 1, "{}", said());
    Report {
        code: output.status.code(),
        json,
    }
}

fn environment(exec: &mut Command, postgres: &Server) {
    exec.env("DATABASE_URL", postgres.url("culprit"))
        // No test asks it anything.
        .env("STUB_URL", "http://127.0.0.1:9")
        .env("OTEL_SERVICE_NAME", "blog")
        .env("PYTHONPATH", tests().join("recorded/django-psycopg"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("DJANGO_SETTINGS_MODULE", "blog")
        .env("NODE_PATH", installed("CULPRIT_TEST_NODE_MODULES"))
        // No questions to clouds about where this runs.
        .env("OTEL_NODE_RESOURCE_DETECTORS", "env,process");
}

impl Report {
    fn entries(&self) -> impl Iterator<Item = &Value> {
        let traces = self.json["traces"].as_array().expect("traces");
        traces
            .iter()
            .flat_map(|it| it["entries"].as_array().expect("entries"))
    }

    /// The findings and their endpoints.
    fn findings(&self) -> Vec<(&str, &Value)> {
        let of_entry = |it| {
            let entry: &Value = it;
            let endpoint = entry["endpoint"].as_str().expect("an endpoint");
            let findings = entry["findings"].as_array().expect("findings");
            findings.iter().map(move |it| (endpoint, it))
        };
        self.entries().flat_map(of_entry).collect()
    }

    fn was_seen(&self, endpoint: &str) -> bool {
        self.entries().any(|it| it["endpoint"] == endpoint)
    }

    fn names_only_the_loop(&self, statement: &str, fix: &str) {
        let findings = self.findings();
        let [(endpoint, finding)] = &findings[..] else {
            panic!("one finding: {findings:#?}");
        };
        assert_eq!(*endpoint, "GET /posts/lazy");
        assert_eq!(finding["detector"], "n-plus-one-query");
        assert_eq!(finding["count"], 20);
        assert_eq!(finding["statement"], statement);
        let said = finding["fix"].as_str().expect("a fix");
        assert!(said.contains(fix), "{said}");
        assert!(self.was_seen("GET /posts/eager") && self.was_seen("GET /posts/page"));
        // By default an N+1 fails a test run, also one that took no time on the developer's machine.
        assert_eq!(self.code, Some(1));
    }

    fn is_clean(&self) {
        assert_eq!(self.findings(), []);
        assert!(self.was_seen("GET /posts/eager") && self.was_seen("GET /posts/page"));
        assert!(!self.was_seen("GET /posts/lazy"));
        assert_eq!(self.code, Some(0));
    }
}
