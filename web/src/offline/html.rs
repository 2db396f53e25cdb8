//! The report as one file for a browser: no script, nothing asked of any server, light or dark as the
//! reader has it. Bars, waterfalls and flame graphs are drawn as the pages draw them.

use analyzer::finding::Severity;
use analyzer::profile::{Measure, ProfileSum};
use analyzer::{Analysis, Settings};
use askama::Template;
use base64::Engine;
use sha2::{Digest, Sha256};

use super::culprits::{Culprit, culprits};
use super::endpoints::{Endpoint, endpoints};
use super::gather::Traces;
use super::report::Report;
use crate::category_bar::{Parts, parts};
use crate::flame::{self, Flame};
use crate::format;
use crate::indexed::Indexed;
use crate::pages::trace::ticks;
use crate::unit::Unit;
use crate::waterfall::{self, Bar, Piece, Row, RowKind, View};

/// So many culprits are shown with an example's waterfall: further ones cost little, and the file stays
/// small enough for a mail.
const WATERFALLS_MAX: usize = 30;

/// So many rows of an example; the others are counted.
const ROWS_MAX: usize = 60;

/// So many endpoints are shown with their flame graphs; the others have less time than any of them.
const ENDPOINTS_MAX: usize = 50;

/// Rows are indented so far, as `trace.css` has it.
const DEPTH_MAX: u32 = 24;

/// What the pages use, and a little of the report's own.
const STYLE: &str = concat!(
    include_str!("../../static/style.css"),
    include_str!("../../static/trace.css"),
    include_str!("../../static/report.css"),
);

/// The file.
///
/// # Errors
/// None that are known; the template's writer could fail.
pub fn html(report: &Report, traces: &Traces<'_>, settings: &Settings) -> anyhow::Result<String> {
    let culprits = culprits(report);
    let endpoints = endpoints(report);
    let left = endpoints.len().saturating_sub(ENDPOINTS_MAX);
    let page = Page {
        style_hash: base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE)),
        style: STYLE,
        summary: summary(report, culprits.len()),
        ignored: report.coverage.ignored_findings,
        culprits: culprits
            .iter()
            .enumerate()
            .map(|(at, it)| CulpritView::of(at, it, traces, settings))
            .collect(),
        endpoints: endpoints
            .iter()
            .take(ENDPOINTS_MAX)
            .map(EndpointView::of)
            .collect(),
        endpoints_left: left,
        notes: &report.coverage.notes,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(visible(page.render()?))
}

/// What a browser does not show, or what turns the text around it, is told to be there: markup of ours has
/// none of it.
fn visible(page: String) -> String {
    let is_hidden = |it: char| {
        let is_direction = matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        is_direction || it.is_control() && !matches!(it, '\n' | '\t')
    };
    match page.contains(is_hidden) {
        true => page.replace(is_hidden, "\u{fffd}"),
        false => page,
    }
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    /// SHA-256 of [`Page::style`], base64: the only style that the browser may use.
    style_hash: String,
    style: &'static str,
    /// Name and number.
    summary: Vec<(&'static str, String)>,
    ignored: usize,
    culprits: Vec<CulpritView<'r>>,
    endpoints: Vec<EndpointView<'r>>,
    endpoints_left: usize,
    notes: &'r [String],
    version: &'static str,
}

fn summary(report: &Report, culprits: usize) -> Vec<(&'static str, String)> {
    let number = |it: usize| format::count(it as i64);
    vec![
        ("Culprits", number(culprits)),
        ("Requests", number(report.coverage.requests)),
        ("Traces", number(report.coverage.traces)),
        ("Spans", number(report.coverage.seen.counted.spans as usize)),
    ]
}

struct CulpritView<'r> {
    rank: usize,
    of: &'r Culprit<'r>,
    /// The severity's class.
    class: &'static str,
    saved: String,
    confidence: String,
    /// The fix, cut into prose and code.
    fix: Vec<(bool, String)>,
    /// The example with the most to save.
    example: Option<Example>,
}

impl<'r> CulpritView<'r> {
    fn of(
        at: usize,
        culprit: &'r Culprit<'r>,
        traces: &Traces<'_>,
        settings: &Settings,
    ) -> CulpritView<'r> {
        let example = || {
            let look = |analysis: &Analysis<'_>| Example::of(analysis, culprit);
            traces.look_at(culprit.trace.id, settings, look)
        };
        CulpritView {
            rank: at + 1,
            of: culprit,
            class: match culprit.severity {
                Severity::Critical => "new",
                Severity::Warning => "warn",
                Severity::Info => "",
            },
            saved: format::duration(culprit.saved_each_ns()),
            confidence: format!("{:.0} %", culprit.worst.confidence * 100.0),
            fix: format::code_pieces(&culprit.worst.fix),
            example: (at < WATERFALLS_MAX).then(example).flatten(),
        }
    }
}

/// A request drawn: the rows of its trace.
struct Example {
    trace_id: String,
    unit: Unit,
    ticks: Vec<String>,
    rows: Vec<RowView>,
    left: usize,
}

struct RowView {
    row: Row,
    depth: u32,
    figure: String,
    whole: Option<Bar>,
    own: Vec<Bar>,
    critical: Vec<Bar>,
    is_comb: bool,
    has_children: bool,
    /// Spans of the culprit.
    accused: bool,
}

impl Example {
    fn of(analysis: &Analysis<'_>, culprit: &Culprit<'_>) -> Example {
        let found = analysis
            .findings
            .iter()
            .position(|it| it.fingerprint == culprit.worst.fingerprint);
        let entry = analysis
            .entries
            .iter()
            .find(|it| analysis.trace.span(it.span).id.to_string() == culprit.entry.span_id);
        let view = View {
            root: entry.map(|it| it.span),
            ..View::default()
        };
        let waterfall = waterfall::waterfall(&Indexed::of(analysis), &view);
        let axis = &waterfall.axis;
        let unit = Unit::fitting(axis.length_ns);
        let left = waterfall.rows.len().saturating_sub(ROWS_MAX) + waterfall.left_out;
        let rows = waterfall.rows.iter().take(ROWS_MAX).map(|row| {
            let whole = Piece {
                start_ns: row.start_ns,
                end_ns: row.end_ns,
            };
            let is_comb = row.kind == RowKind::Comb;
            RowView {
                depth: (row.level - 1).min(DEPTH_MAX),
                figure: unit.figure(row.duration_ns),
                whole: (row.kind == RowKind::Span || row.detached).then(|| axis.bar(whole)),
                own: match is_comb {
                    true => axis.teeth(&row.own),
                    false => axis.bars(&row.own),
                },
                critical: axis.bars(&row.critical),
                is_comb,
                has_children: row.children != waterfall::Children::None,
                accused: found.is_some_and(|it| row.findings.contains(&it)),
                row: row.clone(),
            }
        });
        Example {
            trace_id: culprit.trace.trace_id.clone(),
            ticks: ticks(axis, &unit),
            rows: rows.collect(),
            unit,
            left,
        }
    }
}

struct EndpointView<'r> {
    of: &'r Endpoint<'r>,
    requests: String,
    p50: String,
    p95: String,
    errors: usize,
    /// Of a request on average.
    all: Parts,
    /// The same of the slowest.
    slow: Option<Parts>,
    flame: Flame,
}

impl<'r> EndpointView<'r> {
    fn of(endpoint: &'r Endpoint<'r>) -> EndpointView<'r> {
        let mut sum = ProfileSum::default();
        for profile in endpoint
            .requests
            .iter()
            .filter_map(|it| it.profile.as_ref())
        {
            sum.merge(profile, 1);
        }
        EndpointView {
            of: endpoint,
            requests: format::count(endpoint.requests.len() as i64),
            p50: format::duration(endpoint.percentile(50)),
            p95: format::duration(endpoint.percentile(95)),
            errors: endpoint.errors(),
            all: parts(&endpoint.average()),
            slow: endpoint.slow_average().map(|it| parts(&it)),
            flame: flame::draw(
                &sum.total(),
                Measure::Critical,
                endpoint.requests.len() as i64,
                None,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Wanted;
    use super::super::testing;
    use super::*;
    use scraper::{Html, Selector};

    #[test]
    fn findings_over_time_have_an_example_too() {
        let drawn = "
            shop  GET /stock                                      |------------------|
            shop    connect [client] {server.address=warehouse}   |-----------|
            ";
        let sources = testing::many(30, drawn);
        let traces = Traces::of(&sources);
        let report = testing::report_of(&traces, Wanted::default());
        let page = html(&report, &traces, &testing::settings()).unwrap();
        let page = Html::parse_document(&page);
        let title = Selector::parse("section.culprit h2 bdi").unwrap();
        let title: String = page.select(&title).next().unwrap().text().collect();
        assert_eq!(title, "A connection to warehouse for 100 of 100 requests");
        let rows = Selector::parse("section.culprit table.wf tbody tr").unwrap();
        assert_eq!(page.select(&rows).count(), 2);
    }

    #[test]
    fn one_file_with_everything_in_it() {
        let drawn = "
            shop  GET /posts             |------------------------------------------------|
            shop    SELECT <b>a</b>      |----------|
            shop    SELECT <b>a</b>                  |----------|
            shop    SELECT <b>a</b>                              |----------|
            ";
        let sources = testing::sources(drawn);
        let traces = Traces::of(&sources);
        let wanted = Wanted {
            profiles: true,
            ..Wanted::default()
        };
        let report = testing::report_of(&traces, wanted);
        let text = html(&report, &traces, &testing::settings()).unwrap();
        let page = Html::parse_document(&text);
        let count = |selector: &str| page.select(&Selector::parse(selector).unwrap()).count();
        assert_eq!(count("section.culprit"), 1);
        assert!(count("svg.flame rect") > 1);
        assert!(count("table.wf tbody tr") > 1);
        assert_eq!(count("script"), 0);
        assert_eq!(count("b b, code b, pre b"), 0, "names are escaped");
        // Nothing is asked of anybody.
        let outside = ["src=", "href=\"http", "href=\"/", "@import", "url(http"];
        for it in outside {
            assert!(!text.contains(it), "{it}");
        }
        let policy = Selector::parse("meta[http-equiv='Content-Security-Policy']").unwrap();
        let policy = page
            .select(&policy)
            .next()
            .unwrap()
            .attr("content")
            .unwrap();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        // The hash is that of the text between the tags, to the byte.
        let style = text
            .split("<style>")
            .nth(1)
            .unwrap()
            .split("</style>")
            .next()
            .unwrap();
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(style));
        assert!(policy.contains(&hash));
        assert!(!text.contains("style=\""), "the policy would leave it out");
    }
}
