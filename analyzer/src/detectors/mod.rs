//! The catalogue: one file per bad pattern, one list.

mod n_plus_one_query;
mod n_plus_one_write;
mod n_plus_one_call;
mod n_plus_one_cache;
mod n_plus_one_publish;
mod duplicate_call;
mod fan_out;
mod retries;
mod remote_logging;
mod slow_query;
mod serial_calls;
mod chatty_endpoint;
mod handler_bound;
mod connection_per_request;
mod pool_wait;
mod large_payload;
mod heavy_serialization;
mod data_quality;

pub use slow_query::{Suggested, suggested};

use crate::finding::Finding;
use crate::history::History;
use crate::{Analysis, Settings};

/// A pattern and how to find it. A value, not a trait: `ALL` is the one list of them.
pub struct Detector {
    /// Stored, in URLs and in configuration: never renamed. Kebab-case.
    pub id: &'static str,
    /// For people: `N+1 queries`.
    pub title: &'static str,
    /// What it finds, why it is slow, how to fix it, when it is wrong. Plain text, paragraphs apart by blank lines.
    pub explain: &'static str,
    /// A trace in which it finds its pattern with [`Settings::default`], drawn as [`crate::drawing`]
    /// reads it: people see it as a small waterfall. Patterns over time show one request of theirs.
    pub example: &'static str,
    /// What it reads.
    pub detect: Detect,
}

/// What a detector reads.
pub enum Detect {
    /// One trace: tree, path, attribution, calls.
    InTrace(InTrace),
    /// Windows of one endpoint.
    OverTime(fn(&mut Vec<Finding>, &History)),
    /// Both.
    Both(InTrace, fn(&mut Vec<Finding>, &History)),
}

/// Adds what it finds in a trace; sees what detectors before it have found.
pub type InTrace = fn(&mut Vec<Finding>, &Analysis<'_>, &Settings);

/// Every detector, in the order of the catalogue's page, which is also the order in which they run:
/// slow queries leave out what N+1 queries have claimed.
pub static ALL: &[Detector] = &[
    n_plus_one_query::DETECTOR,
    n_plus_one_write::DETECTOR,
    n_plus_one_call::DETECTOR,
    n_plus_one_cache::DETECTOR,
    n_plus_one_publish::DETECTOR,
    // Behind all loops: what is a loop is no duplicate, and what is either no mere crowd.
    duplicate_call::DETECTOR,
    fan_out::DETECTOR,
    retries::DETECTOR,
    remote_logging::DETECTOR,
    slow_query::DETECTOR,
    serial_calls::DETECTOR,
    chatty_endpoint::DETECTOR,
    handler_bound::DETECTOR,
    connection_per_request::DETECTOR,
    pool_wait::DETECTOR,
    large_payload::DETECTOR,
    heavy_serialization::DETECTOR,
    data_quality::DETECTOR,
];

/// The detectors of loops. Their calls are a loop and nothing else: no duplicates, no crowd.
const LOOPS: [&str; 5] = [
    n_plus_one_query::DETECTOR.id,
    n_plus_one_write::DETECTOR.id,
    n_plus_one_call::DETECTOR.id,
    n_plus_one_cache::DETECTOR.id,
    n_plus_one_publish::DETECTOR.id,
];

/// The detectors of whatever repeats: what one of them has found is explained by it.
const REPEATING: [&str; 8] = [
    n_plus_one_query::DETECTOR.id,
    n_plus_one_write::DETECTOR.id,
    n_plus_one_call::DETECTOR.id,
    n_plus_one_cache::DETECTOR.id,
    n_plus_one_publish::DETECTOR.id,
    duplicate_call::DETECTOR.id,
    fan_out::DETECTOR.id,
    retries::DETECTOR.id,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wording::duration;
    use crate::{analyze, drawing};
    use expect_test::Expect;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// `drawn` with `from` replaced in the heads of its lines, and every bar where it was.
    pub(super) fn changed(drawn: &str, from: &str, to: &str) -> String {
        assert!(drawn.contains(from), "{from} is not drawn in {drawn}");
        let lines = drawn.lines().map(|line| match line.find(" |") {
            Some(at) => (line[..at].trim_end().replace(from, to), &line[at..], at),
            None => (line.replace(from, to), "", 0),
        });
        let lines: Vec<_> = lines.collect();
        let width = lines.iter().map(|it| it.0.chars().count()).max();
        let width = width.unwrap_or(0);
        let drawn = lines.iter().map(|(head, bar, at)| match bar {
            &"" => format!("{head}\n"),
            // What is moved to the right by the same for all lines is moved by nothing.
            bar => format!("{head:<width$}{:at$}{bar}\n", ""),
        });
        drawn.collect()
    }

    /// What the detector `id` finds in a drawn trace, a paragraph per finding.
    pub(super) fn check(id: &str, drawn: &str, expected: Expect) {
        expected.assert_eq(&found(id, drawn, describe));
    }

    /// Title and severity only.
    pub(super) fn check_titles(id: &str, drawn: &str, expected: Expect) {
        let title =
            |it: &Finding, _: &Analysis<'_>| format!("{} ({})\n", it.title, it.severity.id());
        expected.assert_eq(&found(id, drawn, title));
    }

    /// What stands between entry and calls in the one finding of the detector `id`.
    pub(super) fn call_path(id: &str, drawn: &str) -> String {
        found(id, drawn, |it, _| it.call_path[1..].join(" > "))
    }

    /// The detector `id` finds nothing.
    pub(super) fn check_silent(id: &str, drawn: &str) {
        assert_eq!(found(id, drawn, describe), "", "{drawn}");
    }

    /// The detectors that find something, an id per finding.
    pub(super) fn findings(drawn: &str) -> Vec<&'static str> {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        analysis.findings.iter().map(|it| it.detector).collect()
    }

    /// One line of a drawing. The bars of all lines begin in one column, whatever stands before them;
    /// times in ms.
    pub(super) fn line(service: &str, depth: usize, name: &str, start: usize, ms: usize) -> String {
        let head = format!("{service:<8}{}{name}", "  ".repeat(depth));
        let dashes = "-".repeat(ms.saturating_sub(1));
        let bar = if ms == 0 {
            "|".to_string()
        } else {
            format!("|{dashes}|")
        };
        format!("{head:<260} {}{bar}\n", " ".repeat(start))
    }

    /// A request that makes `calls` one after the other, 10 ms each.
    pub(super) fn serial(endpoint: &str, calls: &[impl AsRef<str>]) -> String {
        let mut drawn = line("shop", 0, endpoint, 0, calls.len() * 10 + 5);
        for (at, call) in calls.iter().enumerate() {
            drawn += &line("shop", 1, call.as_ref(), at * 10, 10);
        }
        drawn
    }

    fn found(id: &str, drawn: &str, say: impl Fn(&Finding, &Analysis<'_>) -> String) -> String {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        for it in &analysis.findings {
            let entry = &analysis.entries[it.entry];
            assert!(it.saved_ns <= entry.duration_ns, "{}", it.title);
            assert!(
                it.offenders
                    .is_sorted_by_key(|it| analysis.trace.node(*it).start_ns)
            );
            assert!(it.confidence > 0.0 && it.confidence < 1.0);
        }
        let of_detector = analysis.findings.iter().filter(|it| it.detector == id);
        of_detector.map(|it| say(it, &analysis)).collect()
    }

    fn describe(it: &Finding, analysis: &Analysis<'_>) -> String {
        let entry = &analysis.entries[it.entry];
        let mut text = format!(
            "{}\n  {} of {} · {}, confidence {:.2}: {}\n  count {}, window {}, sum {}, saved {}\n  {}\n",
            it.title,
            entry.service.name,
            duration(entry.duration_ns),
            it.severity.id(),
            it.confidence,
            it.reasons.join("; "),
            it.count,
            duration(it.window_ns),
            duration(it.sum_ns),
            duration(it.saved_ns),
            it.fingerprint,
        );
        let details = [
            ("path", Some(it.call_path.join(" > "))),
            (
                "parameters",
                Some(it.parameters.join(" | ")).filter(|it| !it.is_empty()),
            ),
            ("code", it.code.clone()),
            ("explanation", Some(it.explanation.clone())),
            ("fix", Some(it.fix.clone())),
            ("fix code", it.fix_code.clone()),
            ("framework", it.framework.map(Into::into)),
        ];
        for (name, detail) in details {
            if let Some(detail) = detail {
                text.push_str(&format!("  {name}: {detail}\n"));
            }
        }
        text
    }

    /// A trace of few names at few depths, so that things repeat, nest and overlap.
    fn any_trace() -> impl Strategy<Value = String> {
        let names = [
            "shop   {}SELECT authors",
            "shop   {}SELECT badges {db.query.text=\"select * from badges where id = 1\"}",
            "shop   {}load [internal]",
            "stock  {}GET /items",
            "shop   {}GET stock/items [client] {server.address=stock}",
            "shop   {}POST [client] {http.request.method=POST, url.full=http://l/loki/api/v1/push}",
            "mail   {}process orders [consumer]",
            "shop   {}INSERT items {db.query.text=\"insert into items (a) values (1)\"}",
            "shop   {}GET stock/items [client] {http.request.method=GET, url.full=http://stock/items/1}",
            "shop   {}GET stock/items [client] {error, http.request.method=GET, url.full=http://stock/items/1}",
            "shop   {}GET [client] {db.system=redis, db.statement=\"GET price:1\"}",
            "shop   {}publish mails [producer] {messaging.destination.name=mails}",
            "shop   {}GET [client] {http.request.method=GET, url.full=http://prices/all}",
            "shop   {}GET [client] {http.request.method=GET, url.full=http://reviews/7}",
            "shop   {}connect [client] {db.system=postgresql}",
            "shop   {}pool.acquire {db.system=postgresql}",
            "shop   {}jinja2.render",
            "shop   {}query [client] {db.system=mysql}",
            "shop   {}lost {orphan}",
            "shop   {}GET [client] {url.full=http://stock/items, http.response.body.size=2000000}",
            "shop   {}SELECT sales {db.response.returned_rows=20000}",
            "shop   {}SELECT prices {db.query.text=\"select * from prices\"}",
        ];
        let line = (
            proptest::sample::select(names.to_vec()),
            1..5usize,
            0..60usize,
            0..400usize,
        );
        proptest::collection::vec(line, 0..60).prop_map(|lines| {
            let mut drawn = format!("shop   GET / {:<120} |{}|\n", "", "-".repeat(420));
            for (name, depth, start, len) in lines {
                let name = name.replace("{}", &" ".repeat(depth));
                drawn += &format!("{name:<133} {}|{}|\n", " ".repeat(start), "-".repeat(len));
            }
            drawn
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_the_trace_findings_are_sound(drawn in any_trace()) {
            let drawing = drawing::parse(&drawn);
            // As in tests of other people's: the more is found.
            let settings = Settings { repeats_min: 2, ..Settings::default() };
            let mut reversed = drawing.spans();
            reversed.spans.reverse();
            let analysis = analyze(drawing.spans(), &settings);
            let again = analyze(reversed, &settings);
            prop_assert_eq!(&analysis.findings, &again.findings);
            let mut named = BTreeSet::new();
            for it in &analysis.findings {
                let entry = &analysis.entries[it.entry];
                prop_assert!(it.saved_ns <= entry.duration_ns);
                prop_assert!(it.window_ns <= it.sum_ns || it.count > 1);
                prop_assert!(!it.title.is_empty() && !it.explanation.is_empty() && !it.fix.is_empty());
                prop_assert_eq!(it.offenders.len(), it.count as usize);
                prop_assert!(it.offenders.is_sorted_by_key(|it| analysis.trace.node(*it).start_ns), "{}", it.title);
                prop_assert!(it.confidence > 0.0 && it.confidence < 1.0);
                prop_assert!(named.insert((&it.fingerprint, it.entry)), "twice: {}", it.fingerprint);
            }
        }
    }

    fn is_kebab_case(id: &str) -> bool {
        let words = id.split('-');
        words
            .into_iter()
            .all(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_lowercase()))
    }

    #[test]
    fn every_detector_says_what_it_is() {
        let ids: BTreeSet<_> = ALL.iter().map(|it| it.id).collect();
        assert_eq!(ids.len(), ALL.len(), "ids are unique");
        for detector in ALL {
            assert!(is_kebab_case(detector.id), "{}", detector.id);
            assert!(!detector.title.is_empty(), "{}", detector.id);
            assert!(
                detector.explain.split("\n\n").count() >= 4,
                "{}",
                detector.id
            );
            let tidy = !detector.explain.contains("  ") && !detector.explain.ends_with('\n');
            assert!(tidy, "{}: layout of the text", detector.id);
        }
    }

    #[test]
    fn every_example_is_found() {
        for detector in ALL {
            let drawing = drawing::parse(detector.example);
            let analysis = analyze(drawing.spans(), &Settings::default());
            let found = analysis
                .findings
                .iter()
                .any(|it| it.detector == detector.id);
            let over_time = matches!(detector.detect, Detect::OverTime(_));
            assert!(found || over_time, "{}:\n{}", detector.id, detector.example);
        }
    }

    #[test]
    fn every_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/detectors");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().path());
        let files = files.filter(|it| it.extension().is_some_and(|it| it == "rs"));
        let mut names: BTreeSet<_> = files
            .map(|it| it.file_stem().unwrap().to_string_lossy().replace('_', "-"))
            .collect();
        assert!(names.remove("mod"));
        let ids: BTreeSet<_> = ALL.iter().map(|it| it.id.to_string()).collect();
        assert_eq!(names, ids);
    }
}
