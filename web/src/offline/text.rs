//! The report for people: what to fix first, where the time went, what could not be seen.

use std::fmt::Write;

use analyzer::category::Category;
use analyzer::finding::Severity;

use super::culprits::{Culprit, culprits};
use super::endpoints::{Endpoint, endpoints};
use super::gate;
use super::paint::{Paint, Style, cut, printable, wrap};
use super::report::Report;
use crate::format;

/// So many culprits are told; further ones cost less than any of them, and JSON has all.
const CULPRITS_MAX: usize = 40;

/// So many endpoints are listed; the others have less time together than any of them.
const ENDPOINTS_MAX: usize = 20;

/// Before the details of a culprit.
const INDENT: &str = "    ";

/// The whole report.
pub fn text(report: &Report, paint: Paint) -> String {
    let culprits = culprits(report);
    let mut out = String::new();
    head(&mut out, report, &culprits, paint);
    for (at, culprit) in culprits.iter().enumerate().take(CULPRITS_MAX) {
        culprit_text(&mut out, at + 1, culprit, paint);
    }
    if culprits.len() > CULPRITS_MAX {
        let left = plural(culprits.len() - CULPRITS_MAX, "culprit");
        let left = format!("\n{left} that cost less not shown; --format json has all.");
        let _ = writeln!(out, "{}", paint.styled(Style::Quiet, &left));
    }
    endpoints_text(&mut out, &endpoints(report), paint);
    notes_text(&mut out, report, paint);
    out
}

fn plural(count: usize, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {one}{s}", format::count(count as i64))
}

fn head(out: &mut String, report: &Report, culprits: &[Culprit<'_>], paint: Paint) {
    let seen = format!(
        "{}, {}, {}",
        plural(report.coverage.seen.counted.spans as usize, "span"),
        plural(report.coverage.traces, "trace"),
        plural(report.coverage.requests, "request"),
    );
    let found = match culprits.len() {
        0 => paint.styled(Style::Good, "No culprit found"),
        count => paint.styled(
            Style::Heading,
            &format!("{} found", plural(count, "culprit")),
        ),
    };
    let _ = writeln!(out, "{found} in {seen}.");
    if report.coverage.ignored_findings > 0 {
        let left_out = plural(report.coverage.ignored_findings, "accepted finding");
        let left_out = format!("{left_out} not shown (--ignore).");
        let _ = writeln!(out, "{}", paint.styled(Style::Quiet, &left_out));
    }
}

fn culprit_text(out: &mut String, rank: usize, culprit: &Culprit<'_>, paint: Paint) {
    let it = culprit.worst;
    let (style, severity) = match culprit.severity {
        Severity::Critical => (Style::Critical, "CRITICAL"),
        Severity::Warning => (Style::Warning, "WARNING"),
        Severity::Info => (Style::Quiet, "INFO"),
    };
    let severity = paint.styled(style, severity);
    let title = paint.styled(Style::Heading, &printable(&it.title));
    let _ = writeln!(out, "\n{rank:>2}  {severity}  {title}");
    let place = format!("{} · {}", culprit.entry.service, culprit.entry.endpoint);
    let facts = facts(culprit);
    let line = format!("{} · {facts}", printable(&place));
    if INDENT.len() + line.chars().count() <= paint.width {
        let _ = writeln!(out, "{INDENT}{line}");
    } else {
        let _ = writeln!(out, "{INDENT}{}", printable(&place));
        paragraph(out, &facts, paint);
    }
    for (style, text) in [(
        Style::Code,
        it.statement.as_deref().or(it.target.as_deref()),
    )] {
        for line in text.map(|it| wrap(it, paint.width - 6)).unwrap_or_default() {
            let _ = writeln!(out, "{INDENT}  {}", paint.styled(style, &line));
        }
    }
    let code = it.code.as_deref().map(|it| format!("at {}", printable(it)));
    let example = format!("example: trace {}", culprit.trace.trace_id);
    for line in code.into_iter().chain([example]) {
        let _ = writeln!(out, "{INDENT}{}", paint.styled(Style::Quiet, &line));
    }
    out.push('\n');
    paragraph(out, &it.explanation, paint);
    let fix = match &it.framework {
        Some(framework) => format!("Fix ({framework}): {}", it.fix),
        None => format!("Fix: {}", it.fix),
    };
    out.push('\n');
    paragraph(out, &fix, paint);
    for line in it.fix_code.iter().flat_map(|it| it.lines()) {
        let _ = writeln!(
            out,
            "{INDENT}  {}",
            paint.styled(Style::Good, &printable(line))
        );
    }
    out.push('\n');
    let accept = format!(
        "{INDENT}accept it with --ignore: {}",
        gate::as_line(&it.fingerprint)
    );
    let _ = writeln!(out, "{}", paint.styled(Style::Quiet, &accept));
}

/// `in 12 of 14 requests · 5 to 40 calls (median 12) · a fix saves 240 ms of each`
fn facts(culprit: &Culprit<'_>) -> String {
    let mut facts = vec![culprit.affected(), culprit.calls()];
    if culprit.saved_ns > 0 {
        let saved = format::duration(culprit.saved_each_ns());
        facts.push(match culprit.requests {
            1 => format!("a fix saves {saved}"),
            _ => format!("a fix saves {saved} of each"),
        });
    }
    facts.push(format!(
        "confidence {:.0} %",
        culprit.worst.confidence * 100.0
    ));
    facts.join(" · ")
}

fn paragraph(out: &mut String, text: &str, paint: Paint) {
    for line in wrap(text, paint.width - INDENT.len()) {
        let _ = writeln!(out, "{INDENT}{line}");
    }
}

fn endpoints_text(out: &mut String, endpoints: &[Endpoint<'_>], paint: Paint) {
    if endpoints.is_empty() {
        return;
    }
    let heading = paint.styled(Style::Heading, "Where the time went");
    let _ = writeln!(out, "\n{heading}");
    for endpoint in endpoints.iter().take(ENDPOINTS_MAX) {
        endpoint_text(out, endpoint, paint);
    }
    if endpoints.len() > ENDPOINTS_MAX {
        let left = endpoints.len() - ENDPOINTS_MAX;
        let left = format!(
            "\n{} with less time not shown; --format json has all.",
            plural(left, "endpoint")
        );
        let _ = writeln!(out, "{}", paint.styled(Style::Quiet, &left));
    }
}

fn endpoint_text(out: &mut String, endpoint: &Endpoint<'_>, paint: Paint) {
    let numbers = match endpoint.requests.len() {
        1 => format::duration(endpoint.percentile(50)),
        count => format!(
            "{} · p50 {} · p95 {}",
            plural(count, "request"),
            format::duration(endpoint.percentile(50)),
            format::duration(endpoint.percentile(95)),
        ),
    };
    let errors = match endpoint.errors() {
        0 => String::new(),
        errors => format!(" · {} failed", format::count(errors as i64)),
    };
    let numbers = numbers + &errors;
    let room = paint.width.saturating_sub(numbers.chars().count() + 2);
    let name = cut(&format!("{} · {}", endpoint.service, endpoint.name), room);
    let gap = " ".repeat(room.saturating_sub(name.chars().count()) + 2);
    let _ = writeln!(out, "\n{name}{gap}{numbers}");
    let slow = endpoint.slow_average();
    let rows = [
        (
            if slow.is_some() { "all" } else { "" },
            Some(endpoint.average()),
        ),
        ("slowest 5 %", slow),
    ];
    for (label, categories) in rows {
        let Some(categories) = categories else {
            continue;
        };
        let columns = paint.width - INDENT.len() - if slow.is_some() { 13 } else { 0 };
        let label = match slow.is_some() {
            true => paint.styled(Style::Quiet, &format!("{label:<13}")),
            false => String::new(),
        };
        let _ = writeln!(out, "{INDENT}{label}{}", paint.bar(&categories, columns));
    }
    let legend = legend(&endpoint.average(), paint);
    let _ = writeln!(out, "{INDENT}{legend}");
}

/// `d database 71 %  h handler 29 %`: what is a percent at least, the most first.
fn legend(categories: &[u64; Category::COUNT], paint: Paint) -> String {
    let whole: f64 = categories.iter().map(|it| *it as f64).sum();
    let mut parts: Vec<(u64, Category)> =
        Category::ALL.map(|it| (categories[it as usize], it)).into();
    parts.sort_by_key(|it| std::cmp::Reverse(it.0));
    let shown = parts
        .iter()
        .filter(|it| it.0 as f64 >= whole / 100.0 && it.0 > 0);
    let texts = shown.map(|(ns, category)| {
        let percent = (*ns as f64 / whole * 100.0).round();
        format!("{} {percent} %", paint.category(*category))
    });
    texts.collect::<Vec<_>>().join("   ")
}

fn notes_text(out: &mut String, report: &Report, paint: Paint) {
    if report.coverage.notes.is_empty() {
        return;
    }
    let heading = paint.styled(Style::Heading, "What to know");
    let _ = writeln!(out, "\n{heading}");
    for note in &report.coverage.notes {
        for (at, line) in wrap(note, paint.width - 2).iter().enumerate() {
            let bullet = if at == 0 { "·" } else { " " };
            let _ = writeln!(out, "{bullet} {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::testing::report;
    use expect_test::expect;

    #[test]
    fn a_report_reads_well() {
        let report = report(
            "
            shop  GET /posts             |---------------------------------------------------------|
            shop    SELECT * FROM posts  |-----|
            shop    SELECT * FROM authors WHERE id = $1    |----------|
            shop    SELECT * FROM authors WHERE id = $1                |----------|
            shop    SELECT * FROM authors WHERE id = $1                            |----------|
            ",
        );
        expect![[r#"
            1 culprit found in 5 spans, 1 trace, 1 request.

             1  INFO  3 × select authors, one by one
                shop · GET /posts · in the only request · 3 calls · a fix saves 16.5 ms · confidence 70 %
                  select * from authors where id = ?
                example: trace 93356d423c0237725fd48d16a4d8e4a5

                GET /posts runs the same query 3 times, each after the last one has returned: 11 ms each
                (median), 33 ms of the request's 58 ms (56 %). The list probably comes from select posts, which
                runs just before. The number of calls grows with the number of rows.

                Fix: Load the related rows together with the list they belong to: join them in the first query,
                or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match
                them in memory.
                  select * from authors where id = any($1)

                accept it with --ignore: n-plus-one-query shop "GET /posts" "GET /posts" "select * from authors where id = ?"

            Where the time went

            shop · GET /posts                                                                              58 ms
                hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
                d database 67 %   h handler 33 %

            What to know
            · 75 % of database calls have placeholders in their statements (3 of 4): duplicate-call,
              serial-calls see what was asked for only if parameters are sent as attributes.
            · No span tells whether a connection was waited for: pool-wait is blind here.
            · No span opens a connection: either none was opened, or connection-per-request is blind here.
        "#]].assert_eq(&text(&report, Paint::plain()));
    }

    #[test]
    fn colours_are_only_added() {
        let report = report("shop  GET /posts  |----|");
        let paint = Paint {
            colour: true,
            ..Paint::plain()
        };
        let coloured = text(&report, paint);
        assert!(
            coloured.contains("\x1b[32mNo culprit found\x1b[0m"),
            "{coloured}"
        );
        let plain = text(&report, Paint::plain());
        assert!(
            plain.starts_with("No culprit found in 1 span, 1 trace, 1 request."),
            "{plain}"
        );
        assert!(
            !plain.contains('\x1b') && plain.contains("not instrumented"),
            "{plain}"
        );
    }
}
