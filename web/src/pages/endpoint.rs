//! One endpoint: how slow, since when, where does the time go, and which requests are the slow ones?

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use collector::deltas::MinuteDelta;
use collector::store::Store;
use collector::store::bottlenecks::Minutes;
use collector::store::endpoints::{
    EndpointFinding, EndpointName, RequestOrder, RequestRow, SentStatement,
};
use collector::store::profiles::hours;
use std::collections::BTreeMap;
use url::form_urlencoded;

use crate::AppState;
use crate::api::profiles::{lines, text_of};
use crate::category_bar::{Part, Parts};
use crate::category_chart::{self, CategoryChart};
use crate::deployed;
use crate::endpoint_numbers::{self, Numbers};
use crate::exemplars;
use crate::flame;
use crate::format;
use crate::heatmap::{self, Heatmap};
use crate::line_chart::{self, LineChart, Moment, Request, percentiles};
use crate::pages::call_paths::{self, CallPaths, Section, View};
use crate::pages::context::Context;
use crate::pages::neighbours;
use crate::pages::regressions::{self, Strip};
use crate::pages::{Frame, PageError, SERVICES, render};
use crate::range::{Covered, Filters, Range, minute_ns};
use crate::ranking::Choices;
use crate::slots::Slots;

/// Statements shown at most, the dearest; the page says if there are more.
const STATEMENTS_MAX: usize = 50;

/// Requests in a list: enough to see whether they are alike.
const REQUESTS_MAX: i64 = 10;

/// Everything the page and its JSON are made of.
pub struct Read {
    /// Which endpoint.
    pub endpoint: EndpointName,
    /// By minute.
    pub minutes: BTreeMap<i32, MinuteDelta>,
    /// The window that was asked for.
    pub window: Minutes,
    /// Its part that has data.
    pub covered: Covered,
    /// Now, ns since the epoch.
    pub now_ns: u64,
    /// The dearest first.
    pub findings: Vec<EndpointFinding>,
    /// The dearest first, one more than is shown if there are more.
    pub statements: Vec<SentStatement>,
    /// Requests that the statements are of: those of whole hours.
    pub hours_requests: i64,
    /// The call paths that the address asks for.
    pub paths: CallPaths,
    /// The longest.
    pub slowest: Vec<RequestRow>,
    /// The last.
    pub latest: Vec<RequestRow>,
    /// What its chart is marked with.
    pub moments: Vec<Moment>,
    /// Real requests of the chart.
    pub exemplars: Vec<Request>,
    /// What got slower here and still is.
    pub slower: Strip,
}

impl Read {
    /// All minutes together.
    pub fn sums(&self) -> MinuteDelta {
        let mut sums = MinuteDelta::default();
        for sum in self.minutes.values() {
            sums.merge(sum, 1);
        }
        sums
    }

    /// Its chart.
    pub fn chart(&self) -> LineChart {
        let (shown, now_minute) = self.shown();
        let mut chart = line_chart::draw(&self.minutes, shown, now_minute);
        chart.mark(self.moments.clone());
        chart.show_requests(self.exemplars.clone());
        chart
    }

    /// The minutes that charts show, and the one that it is now.
    fn shown(&self) -> (Minutes, i32) {
        shown(&self.minutes, self.window, self.covered.now_ns)
    }
}

/// The minutes that charts of `window` show at `now_ns`, and the one that it is then.
fn shown(minutes: &BTreeMap<i32, MinuteDelta>, window: Minutes, now_ns: u64) -> (Minutes, i32) {
    /// A line needs some room also when there are only minutes of data.
    const MINUTES_MIN: i32 = 10;
    let now_minute = (now_ns / minute_ns(1)) as i32;
    // An hour of nothing before the first data would squeeze them into a corner.
    let first = minutes.keys().next().copied().unwrap_or(window.from);
    let from = first.min(now_minute - MINUTES_MIN).max(window.from);
    (Minutes { from, ..window }, now_minute)
}

/// The page.
///
/// # Errors
/// There is no such endpoint, the address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let view = View::parse(query.as_deref())?;
    let read = read(&state.store, &id, &view, format::now_ns()).await?;
    let requests = (read.covered, read.sums().requests);
    let neighbours = neighbours::read(&state.store, &read.endpoint, view.range, requests).await?;
    Ok(render(&page(&read, &view, neighbours)))
}

/// The flame graph as inferno draws it: alone, in a sandbox.
///
/// # Errors
/// As [`show`], or there is nothing to draw.
pub async fn flame_svg(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    /// Its own styles, nothing else; the sandbox also takes its scripts and its origin away.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    let view = View::parse(query.as_deref())?;
    let endpoint = named(&state.store, &id).await?;
    let paths = call_paths::read(&state.store, &endpoint, &view, format::now_ns()).await?;
    let title = format!("{} {}", endpoint.service.name, endpoint.name);
    let subtitle = match &paths.base {
        Some(base) => format!("{} versus {}, per request", paths.of.name, base.name),
        None => paths.of.name.clone(),
    };
    let svg = flame::svg(&lines(&paths, view.measure), &title, &subtitle).map_err(|_| {
        PageError::NotFound(format!(
            "No requests in the {}: nothing to draw.",
            view.range.sentence()
        ))
    })?;
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    Ok((headers, svg).into_response())
}

/// The flame graph as folded text; empty if there is nothing.
///
/// # Errors
/// As [`show`].
pub async fn flame_text(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let view = View::parse(query.as_deref())?;
    let endpoint = named(&state.store, &id).await?;
    let paths = call_paths::read(&state.store, &endpoint, &view, format::now_ns()).await?;
    Ok(text_of(&paths, view.measure).into_response())
}

/// The endpoint with the id that stands in an address.
///
/// # Errors
/// There is no such endpoint, or the database is away.
pub async fn named(store: &Store, id: &str) -> Result<EndpointName, PageError> {
    let found = match id.parse() {
        Ok(id) => store.endpoint(id).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| {
        let text = "There is no such endpoint. Numbers in addresses are of one database of culprit's, so that \
            they lead elsewhere or nowhere in another one.";
        PageError::Missing(text.into(), SERVICES)
    })
}

/// Reads what an endpoint's page shows. Its questions do not wait for each other's answers.
///
/// # Errors
/// There is no such endpoint, or the database is away.
pub async fn read(store: &Store, id: &str, view: &View, now_ns: u64) -> Result<Read, PageError> {
    let endpoint = named(store, id).await?;
    let id = endpoint.id;
    let window = view.range.window(now_ns);
    let ns = |minute| i64::try_from(minute_ns(minute)).unwrap_or(i64::MAX);
    let started = ns(window.from)..ns(window.to);
    let requests = |order| store.endpoint_requests(id, started.clone(), order, REQUESTS_MAX);
    let between = (minute_ns(window.from), minute_ns(window.to));
    let everywhere = Filters::default();
    let (over_time, paths, (findings, statements), slowest, latest, moments, slower) = futures_util::try_join!(
        over_time(store, id, window, now_ns),
        paths(store, &endpoint, view, now_ns),
        async {
            let findings = store.endpoint_findings(id, window).await?;
            let statements = store.endpoint_statements(id, window, STATEMENTS_MAX + 1);
            Ok((findings, statements.await?))
        },
        async { Ok(requests(RequestOrder::Slowest).await?) },
        async { Ok(requests(RequestOrder::Latest).await?) },
        deployed::moments(store, endpoint.service.id, Some(id), between),
        regressions::strip(store, &everywhere, Some(id), now_ns),
    )?;
    let (minutes, covered, exemplars) = over_time;
    let (paths, hours_requests) = paths;
    Ok(Read {
        endpoint,
        minutes,
        window,
        covered,
        now_ns,
        findings,
        statements,
        hours_requests,
        paths,
        slowest,
        latest,
        moments,
        exemplars,
        slower,
    })
}

/// Its minutes, the time they cover, and some of their requests.
async fn over_time(
    store: &Store,
    id: i32,
    window: Minutes,
    now_ns: u64,
) -> Result<(BTreeMap<i32, MinuteDelta>, Covered, Vec<Request>), PageError> {
    let minutes = store.endpoint_minutes(id, window).await?;
    let covered = Covered::exact(store, window, minutes.keys().next().copied(), now_ns).await?;
    let (shown, now_minute) = shown(&minutes, window, covered.now_ns);
    let slots = Slots::of(&minutes, shown, now_minute, exemplars::SLOTS_MAX);
    let (places, times) = exemplars::times(&slots);
    let candidates = store.exemplar_candidates(id, &times).await?;
    let exemplars = exemplars::choose(&slots, &places, &candidates);
    Ok((minutes, covered, exemplars))
}

/// The call paths that the address asks for, and all requests of the hours that statements are of: mostly
/// they are in these call paths.
async fn paths(
    store: &Store,
    endpoint: &EndpointName,
    view: &View,
    now_ns: u64,
) -> Result<(CallPaths, i64), PageError> {
    let paths = call_paths::read(store, endpoint, view, now_ns).await?;
    let requests = match paths.hours_requests {
        Some(requests) => requests,
        None => {
            let hours = hours(view.range.window(now_ns));
            let all = store.endpoint_profiles(endpoint.id, hours, None).await?;
            all.all.requests
        }
    };
    Ok((paths, requests))
}

#[derive(Template)]
#[template(path = "endpoint.html")]
struct Page<'a> {
    frame: Frame,
    endpoint: &'a EndpointName,
    /// The bar of ranges.
    context: Context,
    /// The range in words.
    range: &'static str,
    /// All requests of the window together.
    numbers: Numbers,
    /// What is to know, in a sentence.
    verdict: String,
    chart: LineChart,
    /// The chart in words.
    chart_text: String,
    heatmap: Heatmap,
    /// The endpoint's requests; a cell's filter is put behind it.
    requests_link: String,
    categories: CategoryChart,
    parts: Parts,
    findings: Vec<FindingView<'a>>,
    /// The call paths.
    section: Section,
    statements: Vec<StatementView<'a>>,
    /// There are more statements than are shown.
    has_more_statements: bool,
    requests: [RequestList; 2],
    /// Who calls it, and whom it calls.
    neighbours: neighbours::Section,
    /// What got slower here and still is.
    slower: &'a Strip,
    /// Comes with versions and times to choose from.
    compare: String,
    /// What makes the slow ones slow.
    slow: String,
    /// The same as JSON.
    json: String,
}

/// A finding at this endpoint.
struct FindingView<'a> {
    finding: &'a EndpointFinding,
    severity: &'static str,
    /// `saves 12 min per hour`, or that it did not happen in the window.
    cost: String,
}

/// A row of the statements' table.
struct StatementView<'a> {
    statement: &'a SentStatement,
    calls: String,
    per_request: String,
    /// All calls' durations.
    total: String,
    /// P50, P90, P95, P99 in ms.
    percentiles: [String; 4],
}

/// The slowest or the latest requests.
struct RequestList {
    id: &'static str,
    title: &'static str,
    rows: Vec<RequestView>,
}

struct RequestView {
    link: String,
    trace: String,
    started: String,
    started_exactly: String,
    duration: String,
    duration_ns: i64,
    error: bool,
    has_finding: bool,
    spans: i32,
    parts: Parts,
}

fn page<'a>(read: &'a Read, view: &'a View, neighbours: neighbours::Section) -> Page<'a> {
    let numbers = Numbers::of(&read.sums(), &read.covered);
    let path = format!("/endpoints/{}", read.endpoint.id);
    let chart = read.chart();
    let (shown, now_minute) = read.shown();
    let slots = Slots::of(&read.minutes, shown, now_minute, line_chart::POINTS_MAX);
    let now_ns = read.now_ns;
    let mut statements: Vec<StatementView> = read
        .statements
        .iter()
        .map(|it| statement(it, read.hours_requests))
        .collect();
    let has_more_statements = statements.len() > STATEMENTS_MAX;
    statements.truncate(STATEMENTS_MAX);
    let range_only = Filters {
        range: view.range,
        ..Filters::default()
    };
    let mut context = Context::new(&path, &range_only, &Choices::default(), read.covered);
    // Another range, the same requests: the flame graph stays what it is of.
    context.keep(|range| {
        View {
            range,
            ..view.clone()
        }
        .link(&path)
    });
    context.times.hidden = view.beside_the_time();
    let list = |id, title, rows: &[RequestRow]| RequestList {
        id,
        title,
        rows: rows.iter().map(|it| request(it, now_ns)).collect(),
    };
    Page {
        frame: Frame {
            current: "/services",
        },
        endpoint: &read.endpoint,
        context,
        range: view.range.sentence(),
        verdict: verdict(&numbers),
        chart_text: chart_text(&chart),
        chart,
        heatmap: heatmap::draw(&Slots::of(
            &read.minutes,
            shown,
            now_minute,
            heatmap::COLUMNS_MAX,
        )),
        requests_link: requests_link(&read.endpoint),
        categories: category_chart::draw(&slots),
        parts: numbers.parts(),
        findings: read
            .findings
            .iter()
            .map(|it| finding(it, &read.covered))
            .collect(),
        section: Section::of(&read.paths, view, &path),
        statements,
        has_more_statements,
        requests: [
            list("slowest", "Slowest requests", &read.slowest),
            list("latest", "Latest requests", &read.latest),
        ],
        neighbours,
        slower: &read.slower,
        slow: slow_link(&path, view.range, read.window),
        compare: format!(
            "/compare?endpoint_id={}{}",
            read.endpoint.id,
            view.range.query()
        ),
        json: range_only.link(&format!("/api/v1{path}"), &[]),
        numbers,
    }
}

/// A second category that takes less of the time is not mentioned in a sentence.
const PERMILLE_MIN: u64 = 10;

/// `1 of 100 requests takes longer than 1.24 s. Of the time, 45 % goes to database and 26 % to handler.`
fn verdict(numbers: &Numbers) -> String {
    let part = |it: &Part| format!("{} {}", it.share(), it.category.name());
    let parts = numbers.parts().parts;
    // "then 0.0 % handler" would say nothing.
    let worth_saying = |(at, it): &(usize, &Part)| *at == 0 || it.permille >= PERMILLE_MIN;
    let parts = parts.iter().take(2).enumerate().filter(worth_saying);
    let parts: Vec<String> = parts.map(|it| part(it.1)).collect();
    let slow = format::duration(numbers.percentiles[3]);
    let goes = match parts.as_slice() {
        [] => return format!("1 of 100 requests takes longer than {slow}."),
        [one] => one.clone(),
        [first, ..] => format!("{first}, then {}", parts[1]),
    };
    format!("1 of 100 requests takes longer than {slow}. Where the time goes: {goes}.")
}

/// What makes the slow ones slow, in the same time.
fn slow_link(path: &str, range: Range, window: Minutes) -> String {
    match range {
        Range::Fixed(_) => {
            let (from, until) = (minute_ns(window.from), minute_ns(window.to));
            format!("{path}/slow?from={from}&until={until}")
        }
        relative => format!("{path}/slow?range={}", relative.id()),
    }
}

/// `/traces?service=shop&endpoint=GET+%2Fcart&entries=all&`: the list of its requests.
fn requests_link(endpoint: &EndpointName) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("service", &endpoint.service.name);
    pairs.append_pair("endpoint", &endpoint.name);
    format!("/traces?{}&", pairs.finish())
}

fn chart_text(chart: &LineChart) -> String {
    let (Some(first), Some(last)) = (chart.points.first(), chart.points.last()) else {
        return "No requests".to_owned();
    };
    let highest = chart
        .points
        .iter()
        .map(|it| it.percentiles[3])
        .max()
        .unwrap_or(0);
    format!(
        "P50, P90, P95 and P99 from {} to {}; the highest P99 is {}. The table below has the numbers.",
        first.at(),
        last.at(),
        format::duration(highest),
    )
}

fn finding<'a>(finding: &'a EndpointFinding, covered: &Covered) -> FindingView<'a> {
    let per_hour = format::duration(covered.per_hour(finding.saved_ns));
    let cost = match finding.requests {
        0 => "not in this time".to_owned(),
        1 => format!("{per_hour} per hour avoidable, 1 request"),
        many => format!(
            "{per_hour} per hour avoidable, {} requests",
            format::count(many)
        ),
    };
    FindingView {
        finding,
        severity: finding.severity_name(),
        cost,
    }
}

fn statement(statement: &SentStatement, requests: i64) -> StatementView<'_> {
    let calls = &statement.calls;
    StatementView {
        statement,
        calls: format::count(calls.calls),
        per_request: format::number(calls.calls as f64 / requests.max(1) as f64),
        total: format::duration(calls.sum_ns.max(0) as u64),
        percentiles: percentiles(&calls.latency).map(format::ms),
    }
}

fn request(row: &RequestRow, now_ns: u64) -> RequestView {
    let start_ns = row.start_ns.max(0) as u64;
    RequestView {
        link: format!("/traces/{}?span={}", row.trace_id, row.span_id),
        trace: row.trace_id.chars().take(8).collect(),
        started: format::ago(start_ns, now_ns),
        started_exactly: format::at(start_ns),
        duration: format::duration(row.duration_ns.max(0) as u64),
        duration_ns: row.duration_ns,
        error: row.error,
        has_finding: row.has_finding,
        spans: row.spans,
        parts: endpoint_numbers::parts(&row.categories),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::call_paths::Requests;
    use analyzer::category::Category;
    use analyzer::profile::{Profile, ProfileNode};
    use collector::store::encoding::StatementCalls;
    use collector::store::profiles::Counted;
    use collector::store::services::ServiceName;
    use scraper::{Html, Selector};

    const HOSTILE: &str = "</title><script>alert('x')</script>\"";

    fn calls() -> StatementCalls {
        let mut calls = StatementCalls {
            calls: 310,
            sum_ns: 620_000_000,
            ..StatementCalls::default()
        };
        calls.latency.record(2_000_000, 310);
        calls
    }

    fn sample() -> Read {
        let mut sums = MinuteDelta {
            requests: 10,
            errors: 1,
            ..MinuteDelta::default()
        };
        sums.duration_ns = 1_000_000_000;
        sums.categories[Category::Database as usize] = 750_000_000;
        sums.categories[Category::Handler as usize] = 250_000_000;
        sums.latency.record(100_000_000, 10);
        let node = |parent, name: &str, category| ProfileNode {
            parent,
            name: name.into(),
            category,
            count: 10,
            self_ns: 1,
            critical_ns: 500_000_000,
        };
        let mut categories = [0; Category::COUNT];
        categories[Category::Network as usize] = 100_000_000;
        let request = RequestRow {
            trace_id: "0123456789abcdef0123456789abcdef".into(),
            span_id: "00000000000000ff".into(),
            start_ns: 60_000_000_000,
            duration_ns: 100_000_000,
            error: true,
            has_finding: true,
            spans: 33,
            categories,
        };
        Read {
            endpoint: EndpointName {
                id: 7,
                name: "GET /posts".into(),
                service: ServiceName {
                    id: 1,
                    namespace: "a&b".into(),
                    name: "shop".into(),
                    environment: "production".into(),
                },
            },
            minutes: BTreeMap::from([(1, sums)]),
            window: Minutes { from: 0, to: 70 },
            covered: Covered {
                from_ns: 60_000_000_000,
                now_ns: 120_000_000_000,
            },
            now_ns: 120_000_000_000,
            findings: vec![EndpointFinding {
                id: 4,
                state: "new".into(),
                detector: "n-plus-one-query".into(),
                severity: 2,
                title: "31 × select authors".into(),
                saved_ns: 60_000_000_000,
                requests: 10,
            }],
            statements: vec![SentStatement {
                id: 1,
                system: "postgresql".into(),
                text: "select * from <authors>".into(),
                calls: calls(),
            }],
            hours_requests: 10,
            paths: CallPaths {
                versions: vec!["2.0".into(), HOSTILE.into()],
                of: Requests {
                    name: "all requests".into(),
                    hours: 0..2,
                    counted: Counted {
                        profile: Profile {
                            nodes: vec![
                                node(None, "GET /posts", Category::Handler),
                                node(Some(0), HOSTILE, Category::PoolWait),
                            ],
                        },
                        requests: 10,
                    },
                },
                base: None,
                hours_requests: Some(10),
            },
            slowest: vec![request.clone()],
            latest: vec![request],
            moments: Vec::new(),
            exemplars: Vec::new(),
            slower: Strip::default(),
        }
    }

    fn html(read: &Read, query: &str) -> (Html, String) {
        let view = View::parse(Some(query)).unwrap();
        let text = page(read, &view, Default::default()).render().unwrap();
        (Html::parse_document(&text), text)
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        html.select(&selector)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    fn links(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        html.select(&selector)
            .filter_map(|it| it.attr("href").map(str::to_owned))
            .collect()
    }

    #[test]
    fn the_page_says_what_is_slow_and_where() {
        let (html, _) = html(&sample(), "");
        assert_eq!(
            texts(&html, ".verdict"),
            [
                "1 of 100 requests takes longer than 100 ms. Where the time goes: 75.0 % database, \
              then 25.0 % handler."
            ]
        );
        assert_eq!(texts(&html, ".kpis dd")[5], "10 %");
        assert_eq!(
            texts(&html, ".fnd .sub"),
            ["1 h per hour avoidable, 10 requests"]
        );
        assert_eq!(links(&html, ".fnd a"), ["/bottlenecks/4"]);
        let link = "/traces/0123456789abcdef0123456789abcdef?span=00000000000000ff";
        assert_eq!(links(&html, "tbody a.mono"), [link, link]);
        let statement = texts(&html, "tr:has(.stm) td");
        assert_eq!(statement[..3], ["310", "31", "620 ms"]);
    }

    #[test]
    fn the_chart_and_its_table_say_the_same() {
        let (html, _) = html(&sample(), "");
        let row = texts(&html, "[aria-labelledby=lat] tbody tr *");
        assert_eq!(row[..3], ["1970-01-01T00:01:00Z", "10", "1"]);
        assert_eq!(texts(&html, "[aria-labelledby=lat] tbody tr").len(), 1);
        let categories = texts(&html, "[aria-labelledby=ca] tbody tr *");
        assert_eq!(categories, ["1970-01-01T00:01:00Z", "25", "75"]);
        let cell = &links(&html, ".heat a")[0];
        assert!(
            cell.starts_with("/traces?service=shop&endpoint=GET+%2Fposts&from=60000000000&"),
            "{cell}"
        );
        let paths = Selector::parse(".plot path.p99").unwrap();
        assert!(
            html.select(&paths)
                .any(|it| it.attr("d").is_some_and(|it| it.contains('h')))
        );
    }

    #[test]
    fn frames_zoom_and_keep_the_view() {
        let (all, _) = html(&sample(), "range=24h&flame=tail");
        let frames = links(&all, ".flame a");
        assert_eq!(frames.len(), 2);
        assert!(
            frames[1].starts_with("/endpoints/7?range=24h&flame=tail&path="),
            "{frames:?}"
        );
        let query = frames[1].split(['?', '#']).nth(1).unwrap();
        let (zoomed, _) = html(&sample(), query);
        assert_eq!(
            links(&zoomed, "#paths .zoomed a"),
            ["/endpoints/7?range=24h&flame=tail#paths"]
        );
        assert_eq!(
            texts(&zoomed, "#paths [aria-current]"),
            ["Slow tail", "Critical path only"]
        );
        assert_eq!(
            links(&zoomed, "#paths header a"),
            [
                "/endpoints/7/flame.svg?range=24h&flame=tail",
                "/api/v1/endpoints/7/profile.txt?range=24h&flame=tail",
                "/api/v1/endpoints/7/profile.pb.gz?range=24h&flame=tail",
                "/api/v1/endpoints/7/profile.speedscope.json?range=24h&flame=tail",
                "/api/v1/endpoints/7/profile?range=24h&flame=tail",
            ]
        );
        assert!(
            links(&zoomed, ".ctx a")
                .iter()
                .all(|it| it.contains("flame=tail"))
        );
    }

    /// The tail waits 0.4 s longer for the hostile name, and less for the handler.
    fn compared() -> Read {
        let mut read = sample();
        let mut tail = read.paths.of.clone();
        tail.name = "the slow tail".into();
        tail.counted.requests = 2;
        tail.counted.profile.nodes[0].count = 2;
        tail.counted.profile.nodes[0].critical_ns = 80_000_000;
        tail.counted.profile.nodes[1].count = 1;
        tail.counted.profile.nodes[1].critical_ns = 900_000_000;
        read.paths.base = Some(std::mem::replace(&mut read.paths.of, tail));
        read
    }

    #[test]
    fn a_difference_is_told_in_a_sentence_a_graph_and_a_table() {
        let (html, text) = html(&compared(), "flame=tail-versus-all");
        crate::testing::assert_harmless(&text);
        assert_eq!(
            texts(&html, "#paths .change"),
            [format!(
                "On average a request of the slow tail takes 390 ms longer than one of all requests. \
                 Most of the difference: +400 ms {HOSTILE}."
            )]
        );
        let rows = texts(&html, "#paths .changes tbody tr td");
        assert_eq!(
            rows,
            [
                "+400 ms",
                "50 ms",
                "450 ms",
                "1 → 0.5, in at most 50 % of requests",
                "−10 ms",
                "50 ms",
                "40 ms",
                "1"
            ]
        );
        let frames = texts(&html, ".flame text");
        assert!(frames[0].starts_with("−10 ms GET /posts"), "{frames:?}");
        assert!(frames[1].starts_with("+400 ms </title>"), "{frames:?}");
        // In words and by sign, not by colour alone.
        assert!(texts(&html, "#paths .legend li")[0].starts_with("much longer"));
        let zoom = links(&html, "#paths .changes a");
        assert_eq!(zoom[0], links(&html, ".flame a")[1]);
    }

    #[test]
    fn every_choice_is_a_link_or_a_plain_form() {
        let (html, _) = html(&sample(), "range=24h&measure=self&version=2.0");
        let page = "/endpoints/7?range=24h";
        assert_eq!(
            links(&html, "#paths .seg a"),
            [
                format!("{page}&measure=self&version=2.0#paths"),
                format!("{page}&flame=tail&measure=self&version=2.0#paths"),
                format!("{page}&flame=tail-versus-all&measure=self&version=2.0#paths"),
                format!("{page}&flame=windows&against=before&measure=self&version=2.0#paths"),
                format!("{page}&flame=versions&measure=self&version=2.0#paths"),
                format!("{page}&version=2.0#paths"),
                format!("{page}&measure=self&version=2.0#paths"),
            ]
        );
        assert_eq!(texts(&html, "#paths form option"), ["All", "2.0", HOSTILE]);
        assert_eq!(texts(&html, "#paths form option[selected]"), ["2.0"]);
        let hidden = Selector::parse("#paths form input[type=hidden]").unwrap();
        let hidden: Vec<_> = html
            .select(&hidden)
            .filter_map(|it| Some((it.attr("name")?, it.attr("value")?)))
            .collect();
        assert_eq!(hidden, [("range", "24h"), ("measure", "self")]);
    }

    #[test]
    fn one_version_is_nothing_to_compare() {
        let mut read = compared();
        read.paths.versions.truncate(1);
        let (html, _) = html(&read, "flame=versions");
        assert!(links(&html, ".flame a").is_empty());
        assert!(texts(&html, "#paths .pane p")[0].starts_with("Only one version"));
    }

    #[test]
    fn names_from_outside_stay_text_and_nothing_is_inline() {
        let (html, text) = html(&sample(), "");
        assert!(!text.contains("<script>"), "{text}");
        assert!(
            !text.contains(" style="),
            "the policy forbids inline styles"
        );
        assert!(
            texts(&html, ".flame title")
                .iter()
                .any(|it| it.starts_with(HOSTILE))
        );
    }

    #[test]
    fn an_endpoint_without_requests_says_so() {
        let mut read = sample();
        read.minutes.clear();
        let (html, _) = html(&read, "range=15m");
        assert_eq!(texts(&html, "h2")[0], "No requests in the last 15 minutes");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for query in ["flame=some", "measure=wall", "flame=windows&against=year"] {
            assert!(View::parse(Some(query)).is_err(), "{query}");
        }
        assert!(View::parse(Some("range=1y")).is_err());
    }
}
