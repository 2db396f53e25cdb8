//! SARIF 2.1.0, which code hosts show beside the code: a rule per detector, a result per culprit.

use analyzer::detectors::{ALL, Detector};
use analyzer::finding::Severity;
use serde_json::{Value, json};

use super::budget;
use super::culprits::{Culprit, culprits};
use super::input::STDIN;
use super::report::Report;
use crate::format;

/// The log. Files below `root`, an absolute path, are told relative to it, as code hosts know them. Culprits whose code is
/// not known are shown at `input`, where the traces come from: code hosts refuse results without a file.
pub fn sarif(report: &Report, root: &str, input: Option<&str>) -> Value {
    let culprits = culprits(report);
    let results: Vec<Value> = culprits.iter().map(|it| result(it, root, input)).collect();
    let notes = report
        .coverage
        .notes
        .iter()
        .map(|it| json!({ "level": "note", "message": { "text": it } }));
    let notes: Vec<Value> = notes.collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "culprit",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules(),
            }},
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notes,
            }],
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rules() -> Vec<Value> {
    let budget = json!({
        "id": budget::DETECTOR,
        "name": "Budget",
        "shortDescription": { "text": "Over budget" },
        "fullDescription": { "text": "An endpoint makes more calls, or takes longer, than its budget allows." },
        "help": { "text": "Look at what changed since the budget was met, or raise it if the new number is meant." },
        "defaultConfiguration": { "level": "warning" },
    });
    ALL.iter().map(rule).chain([budget]).collect()
}

fn rule(detector: &Detector) -> Value {
    let first = detector.explain.split("\n\n").next().unwrap_or_default();
    json!({
        "id": detector.id,
        "name": pascal_case(detector.id),
        "shortDescription": { "text": detector.title },
        "fullDescription": { "text": first },
        "help": { "text": detector.explain },
        "defaultConfiguration": { "level": "warning" },
    })
}

/// `NPlusOneQuery`: SARIF's names are identifiers.
fn pascal_case(id: &str) -> String {
    let words = id.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|it| it.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

fn result(culprit: &Culprit<'_>, root: &str, input: Option<&str>) -> Value {
    let it = culprit.worst;
    let rule = ALL.iter().position(|rule| rule.id == it.detector);
    json!({
        "ruleId": it.detector,
        "ruleIndex": rule.unwrap_or(ALL.len()),
        "level": match culprit.severity {
            Severity::Critical => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        },
        "message": { "text": message(culprit) },
        "locations": [location(culprit, root, input)],
        "partialFingerprints": { "culprit/v1": it.fingerprint },
        "occurrenceCount": culprit.requests,
        "properties": {
            "service": culprit.entry.service,
            "endpoint": culprit.entry.endpoint,
            "confidence": it.confidence,
            "saved_ns": culprit.saved_each_ns(),
            "trace_id": culprit.trace.trace_id,
        },
    })
}

fn message(culprit: &Culprit<'_>) -> String {
    let it = culprit.worst;
    let entry = culprit.entry;
    let saves = match culprit.saved_each_ns() {
        0 => String::new(),
        ns => format!("; a fix saves {} of each", format::duration(ns)),
    };
    let mut text = format!(
        "{} in {} of {}, {}{saves}. {}",
        it.title,
        entry.endpoint,
        entry.service,
        culprit.affected(),
        it.explanation,
    );
    for detail in [it.statement.as_ref(), Some(&it.fix), it.fix_code.as_ref()]
        .into_iter()
        .flatten()
    {
        text.push_str("\n\n");
        text.push_str(detail);
    }
    text
}

fn location(culprit: &Culprit<'_>, root: &str, input: Option<&str>) -> Value {
    let it = culprit.worst;
    let logical = json!([{
        "name": culprit.entry.endpoint,
        "fullyQualifiedName": std::iter::once(&culprit.entry.service)
            .chain(&it.call_path)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" > "),
        "kind": "function",
    }]);
    let input = input.filter(|it| *it != STDIN).map(|it| (it, None));
    let Some((file, line)) = it.code.as_deref().and_then(place).or(input) else {
        return json!({ "logicalLocations": logical });
    };
    let mut physical = json!({ "artifactLocation": { "uri": uri(file, root) } });
    if let Some(line) = line {
        physical["region"] = json!({ "startLine": line });
    }
    json!({ "physicalLocation": physical, "logicalLocations": logical })
}

/// The file of `app/posts.py:31 load_authors`, and its line. A function alone is no place.
fn place(code: &str) -> Option<(&str, Option<u64>)> {
    // Functions have no slash or dot before a colon and digits; files may hold blanks.
    let end_of_line = |at: usize| {
        let rest = &code[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let ends = rest[digits..].is_empty() || rest[digits..].starts_with(' ');
        (digits > 0 && ends)
            .then(|| rest[..digits].parse().ok())
            .flatten()
    };
    let colons: Vec<usize> = code.match_indices(':').map(|it| it.0).collect();
    let with_line = colons
        .into_iter()
        .filter_map(|at| Some((&code[..at], Some(end_of_line(at)?))))
        // The last one: a directory may be named like a line.
        .next_back()
        .map(|it| (it.0, it.1.filter(|line| *line > 0)));
    let file = code
        .split(' ')
        .next()
        .filter(|it| it.contains(['/', '\\']) && !it.contains("::"));
    with_line.or(file.map(|it| (it, None)))
}

/// A path as a URI reference: relative ones, and those below `root`, are relative.
fn uri(file: &str, root: &str) -> String {
    let path = file.replace('\\', "/");
    let path = path.strip_prefix("./").unwrap_or(&path);
    let below = path.strip_prefix(root).and_then(|it| it.strip_prefix('/'));
    let path = below.filter(|_| !root.is_empty()).unwrap_or(path);
    let has_drive = path.get(1..3) == Some(":/");
    let scheme = match path.starts_with('/') {
        true => "file://",
        false if has_drive => "file:///",
        false => "",
    };
    let mut uri = String::from(scheme);
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                uri.push(byte as char);
            }
            // In a relative path it would end a scheme.
            b':' if !scheme.is_empty() => uri.push(':'),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::gather::Traces;
    use crate::offline::report::Wanted;
    use crate::offline::testing::{many, report, report_of};

    #[test]
    fn places_in_code() {
        for (code, expected) in [
            (
                "app/posts.py:31 load_authors",
                Some(("app/posts.py", Some(31))),
            ),
            ("C:\\app\\posts.cs:7", Some(("C:\\app\\posts.cs", Some(7)))),
            ("my app/posts.py:31", Some(("my app/posts.py", Some(31)))),
            ("app/posts.py load", Some(("app/posts.py", None))),
            ("a:3 b/posts.py:31 load", Some(("a:3 b/posts.py", Some(31)))),
            ("app/posts.py:0 load", Some(("app/posts.py", None))),
            ("Posts::load", None),
            ("shop.Posts.load", None),
        ] {
            assert_eq!(place(code), expected, "{code}");
        }
        assert_eq!(uri("./my app/é.py", "/srv"), "my%20app/%C3%A9.py");
        assert_eq!(uri("a:b/#c?.py", "/srv"), "a%3Ab/%23c%3F.py");
        assert_eq!(uri("/srv/a.py", "/srv/app"), "file:///srv/a.py");
        assert_eq!(uri("C:\\a.cs", ""), "file:///C:/a.cs");
        assert_eq!(uri("/srv/app/a.py", "/srv/app"), "a.py");
    }

    #[test]
    fn findings_over_time_are_results() {
        let sources = many(
            30,
            "
            shop  GET /stock                                      |------------------|
            shop    connect [client] {server.address=warehouse}   |-----------|
            ",
        );
        let report = report_of(&Traces::of(&sources), Wanted::default());
        let log = sarif(&report, "/srv", None);
        let result = &log["runs"][0]["results"][0];
        assert_eq!(result["ruleId"], "connection-per-request");
        assert_eq!(result["occurrenceCount"], 30);
        let place = &result["locations"][0]["logicalLocations"][0];
        assert_eq!(place["fullyQualifiedName"], "shop > GET /stock");
    }

    #[test]
    fn a_result_without_code_is_shown_at_the_input() {
        let report = report(
            "
            shop  GET /posts   |--------------------------------------------------------|
            shop    SELECT a   |----------------|
            shop    SELECT a                     |----------------|
            shop    SELECT a                                       |----------------|
            ",
        );
        let place = |input| {
            let log = sarif(&report, "/srv", input);
            let place = &log["runs"][0]["results"][0]["locations"][0];
            assert!(place["logicalLocations"].is_array());
            place["physicalLocation"]["artifactLocation"]["uri"].clone()
        };
        assert_eq!(place(Some("my traces.json")), "my%20traces.json");
        assert_eq!(place(Some(STDIN)), Value::Null);
    }

    #[test]
    fn a_result_names_its_rule_and_place() {
        let report = report(
            "
            shop  GET /posts                                               |--------------------------------------------------------|
            shop    SELECT a {code.file.path=app/a.py, code.line.number=3} |----------------|
            shop    SELECT a {code.file.path=app/a.py, code.line.number=3}                   |----------------|
            shop    SELECT a {code.file.path=app/a.py, code.line.number=3}                                     |----------------|
            ",
        );
        let log = sarif(&report, "/srv", None);
        let run = &log["runs"][0];
        let result = &run["results"][0];
        let rule = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], result["ruleId"]);
        assert_eq!(result["level"], "error");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "app/a.py");
        assert_eq!(place["region"]["startLine"], 3);
        let fingerprint = &report.traces[0].entries[0].findings[0].fingerprint;
        assert_eq!(result["partialFingerprints"]["culprit/v1"], **fingerprint);
        for rule in run["tool"]["driver"]["rules"].as_array().unwrap() {
            assert!(!rule["help"]["text"].as_str().unwrap().is_empty());
        }
    }
}
