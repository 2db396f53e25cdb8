//! One statement: what it costs, who sends it, since when, and what to do about it.

use analyzer::category::is_cache_system;
use analyzer::detectors::{Suggested, suggested};
use analyzer::sketch::Sketch;
use analyzer::sql;
use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::deltas::{MINUTES_KEPT, MinuteDelta};
use collector::life;
use collector::sent_calls::{self, SentCall, SentCalls, Wanted};
use collector::store::bottlenecks::Minutes;
use collector::store::dictionaries::OTHER;
use collector::store::encoding::StatementCalls;
use collector::store::plans::AskedPlan;
use collector::store::profiles::hours;
use collector::store::statement::{
    NamingFinding, StatementKey, StatementName, StatementRegression, StatementSent,
};
use collector::store::statements::SendingEndpoint;
use std::collections::{BTreeMap, BTreeSet};

use crate::AppState;
use crate::charts;
use crate::deployed;
use crate::format;
use crate::line_chart::{self, LineChart, percentiles};
use crate::pages::context::Context;
use crate::pages::statements::class;
use crate::pages::{Frame, PageError, STATEMENTS, render};
use crate::plan_shown::{self, PlanView};
use crate::range::{Covered, Filters, minute_ns};
use crate::ranking::{Choices, state_title};
use crate::slots::Slots;
use crate::statement_key;

/// Endpoints in the table; the JSON has all of them.
const CALLERS_MAX: usize = 50;

/// Services whose deployments are marked in the chart: more lines would hide it.
const MARKED_SERVICES_MAX: usize = 5;

/// The chart shows at least so many hours: statements are counted by the hour.
const TREND_HOURS_MIN: i32 = 24;

/// A statement whose slow twentieth is quicker than this, ns, is quick: a few times what an index takes.
const QUICK_NS: u64 = 50_000_000;

/// So many calls in a request are worth a look, however quick they are.
const MANY_CALLS: f64 = 5.0;

/// The page.
///
/// # Errors
/// There is no such statement, the address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let read = read(&state, &id, query.as_deref()).await?;
    if id != read.name.key {
        // One page, one address: whatever it was asked by.
        let link = read.filters.link(&path(&read.name), &[]);
        return Ok(Redirect::to(&link).into_response());
    }
    Ok(render(&page(&read)))
}

/// Everything the page and its JSON are made of.
pub struct Read {
    /// The range.
    pub filters: Filters,
    /// Which statement.
    pub name: StatementName,
    /// The time that is counted: whole hours.
    pub covered: Covered,
    /// Its calls.
    pub sent: StatementSent,
    /// The hours of them that count, since the epoch.
    pub hours: std::ops::Range<i32>,
    /// Findings about it.
    pub findings: Vec<NamingFinding>,
    /// What the observed database said, and whose it is; `None` if it is no slow statement.
    pub plan: Option<(Option<AskedPlan>, String)>,
    /// It became slower by itself.
    pub regressions: Vec<StatementRegression>,
    /// Some of its calls.
    pub found: SentCalls,
    /// What its text suggests.
    pub suggested: Option<Suggested>,
    chart: LineChart,
    bars: Vec<charts::Bar>,
    /// The most calls of a bar.
    most_calls: i64,
}

impl Read {
    /// All calls of the hours that count.
    pub fn calls(&self) -> StatementCalls {
        let mut sum = StatementCalls::default();
        for calls in self.sent.endpoints.iter().map(|it| &it.calls) {
            sum.merge(calls, 1);
        }
        sum
    }

    /// Requests of the endpoints that send it, weighted.
    pub fn requests(&self) -> i64 {
        self.sent.endpoints.iter().map(|it| it.requests).sum()
    }

    /// Rows that calls returned, of those whose sender says so.
    pub fn rows(&self) -> Vec<u64> {
        let mut rows: Vec<u64> = self.found.calls.iter().filter_map(|it| it.rows).collect();
        rows.sort_unstable();
        rows
    }
}

/// Reads what an address asks for.
///
/// # Errors
/// There is no such statement, the address makes no sense, or the database is away.
pub async fn read(state: &AppState, id: &str, query: Option<&str>) -> Result<Read, PageError> {
    let filters = Filters::parse(query)?;
    let filters = Filters {
        range: filters.range,
        ..Filters::default()
    };
    let name = named(state, id).await?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let counted = hours(window);
    // It is known up to now: the hours ahead are for clocks that are.
    let now_hour = i32::try_from(now_ns / minute_ns(60)).unwrap_or(i32::MAX - 1);
    let trend = counted.start.min(now_hour - TREND_HOURS_MIN)..counted.end;
    let store = &state.store;
    let (sent, findings, regressions) = futures_util::try_join!(
        store.statement_sent(name.id, trend.clone(), &counted),
        store.findings_naming(&name.text, window),
        store.statement_regressions(name.id),
    )?;
    let whole = Minutes {
        from: counted.start.saturating_mul(60),
        ..window
    };
    let covered = Covered::exact(store, whole, store.first_minute(whole).await?, now_ns).await?;
    let endpoint_ids: Vec<i32> = sent.endpoints.iter().map(|it| it.id).collect();
    let wanted = Wanted {
        system: &name.system,
        text: &name.text,
        endpoint_ids: &endpoint_ids,
        started_ns: minute_ns(whole.from)..minute_ns(whole.to),
    };
    let found = sent_calls::look(store, &state.settings, &wanted).await?;
    let mut read = Read {
        suggested: advice(&name, &found),
        plan: plan(state, &findings).await?,
        filters,
        name,
        covered,
        sent,
        hours: counted,
        findings,
        regressions,
        found,
        chart: LineChart::default(),
        bars: Vec::new(),
        most_calls: 0,
    };
    draw_trend(state, &mut read).await?;
    Ok(read)
}

/// What its text suggests: nothing of what is asked by key.
fn advice(name: &StatementName, found: &SentCalls) -> Option<Suggested> {
    if is_cache_system(&name.system) || name.text == OTHER {
        return None;
    }
    let rows = found.calls.iter().filter_map(|it| it.rows).max();
    suggested(&name.text, &name.system, rows)
}

async fn named(state: &AppState, id: &str) -> Result<StatementName, PageError> {
    let found = match statement_key::parse(id) {
        Some(key) => state.store.statement(key).await?,
        None => None,
    };
    let is_number = matches!(statement_key::parse(id), Some(StatementKey::Id(_)));
    found.ok_or_else(|| {
        let text = format!(
            "There is no statement '{id}' here. {} Statements of the last seconds may still be on their way, and those \
             beyond the first 50,000 different ones are counted together.",
            match is_number {
                true => "A number is what one database of culprit's knows it by, so that it leads nowhere in another one.",
                false => "A statement's address ends with 16 hexadecimal digits, which are made from its text without \
                          values and are the same in every culprit that has seen it.",
            }
        );
        PageError::Missing(text, STATEMENTS)
    })
}

/// The plan that was asked for the dearest finding that has one.
async fn plan(
    state: &AppState,
    findings: &[NamingFinding],
) -> Result<Option<(Option<AskedPlan>, String)>, PageError> {
    let slow: Vec<&NamingFinding> = findings
        .iter()
        .filter(|it| it.detector == "slow-query")
        .collect();
    for it in &slow {
        if let Some(asked) = state.store.plan(it.id).await? {
            return Ok(Some((Some(asked), it.service.clone())));
        }
    }
    Ok(slow.first().map(|it| (None, it.service.clone())))
}

async fn draw_trend(state: &AppState, read: &mut Read) -> Result<(), PageError> {
    let mut minutes: BTreeMap<i32, MinuteDelta> = BTreeMap::new();
    for (hour, calls) in &read.sent.hours {
        let sum = minutes.entry(hour * 60).or_default();
        sum.requests = calls.calls;
        sum.latency = calls.latency.clone();
    }
    let now_minute = i32::try_from(read.covered.now_ns / minute_ns(1)).unwrap_or(i32::MAX - 1);
    // A point is an hour: the chart must be so long that it has no narrower ones.
    let first = minutes.keys().next().copied().unwrap_or(now_minute);
    let window = Minutes {
        from: first.min(now_minute - MINUTES_KEPT - 60),
        to: now_minute + 1,
    };
    let mut chart = line_chart::draw(&minutes, window, now_minute);
    let between = (chart.from_ns, minute_ns(window.to));
    let services: BTreeSet<i32> = read
        .sent
        .endpoints
        .iter()
        .map(|it| it.service.id)
        .take(MARKED_SERVICES_MAX)
        .collect();
    let mut moments = Vec::new();
    for service in services {
        moments.extend(deployed::moments(&state.store, service, None, between).await?);
    }
    chart.mark(moments);
    let slots = Slots::of(&minutes, window, now_minute, line_chart::POINTS_MAX);
    read.most_calls = slots.sums.iter().map(|it| it.requests).max().unwrap_or(0);
    read.bars = bars(&slots, read.most_calls);
    read.chart = chart;
    Ok(())
}

/// The height of the highest bar, in the drawing's units.
const BARS_HEIGHT: f64 = 48.0;

fn bars(slots: &Slots, most: i64) -> Vec<charts::Bar> {
    let width = 1.0 / slots.sums.len() as f64;
    let bar = |(at, sum): (usize, &MinuteDelta)| {
        let share = sum.requests.max(0) as f64 / most.max(1) as f64;
        // What is there is seen, however little it is.
        let height = (share * BARS_HEIGHT).max(1.0);
        charts::Bar {
            x: format::width(width * (at as f64 + 0.08)),
            width: format::width(width * 0.84),
            y: BARS_HEIGHT - height,
            height,
            title: format!(
                "{}: {} calls",
                format::day_and_minute(slots.start_ns(at)),
                format::count(sum.requests)
            ),
        }
    };
    let sums = slots.sums.iter().enumerate();
    sums.filter(|it| it.1.requests > 0).map(bar).collect()
}

#[derive(Template)]
#[template(path = "statement.html")]
struct Page<'a> {
    frame: Frame,
    context: Context,
    name: &'a StatementName,
    /// `select authors`
    summary: String,
    /// The colour of what it asks.
    class: &'static str,
    /// It stands for many that are not counted apart.
    is_other: bool,
    /// Behind the summary: what it costs.
    cost: String,
    cost_title: String,
    /// Where most of it comes from.
    mostly: String,
    /// What to do: is it code? What?
    todo: Vec<(bool, String)>,
    /// The finding that says so.
    todo_link: Option<String>,
    kpis: Vec<Kpi>,
    /// On several lines.
    laid_out: String,
    chart: &'a LineChart,
    chart_text: String,
    /// There are two hours to be compared at least.
    is_line: bool,
    bars: &'a [charts::Bar],
    most_calls: String,
    callers: Vec<CallerView<'a>>,
    /// Those that are not in the table.
    more_callers: usize,
    findings: Vec<FindingView<'a>>,
    regressions: Vec<RegressionView<'a>>,
    examples: Vec<ExampleView>,
    /// `31 calls in 12 requests that were looked through`
    looked_through: String,
    suggested: Option<&'a Suggested>,
    advice: Vec<(bool, String)>,
    /// Its calls are quick: the advice is for when they are not.
    is_quick: bool,
    plan: Option<PlanView>,
    first_seen: String,
    first_seen_exactly: String,
    json: String,
    list: String,
    longer: String,
    range: &'static str,
}

/// A number in large type.
struct Kpi {
    name: &'static str,
    number: String,
    unit: &'static str,
    exact: String,
}

struct CallerView<'a> {
    endpoint: &'a SendingEndpoint,
    link: String,
    waits: String,
    share: String,
    /// The share as a width.
    bar: String,
    calls: String,
    per_request: String,
    ms: [String; 4],
}

struct FindingView<'a> {
    finding: &'a NamingFinding,
    severity: &'static str,
    state: &'a str,
    link: String,
    cost: String,
}

struct RegressionView<'a> {
    regression: &'a StatementRegression,
    since: String,
    since_exactly: String,
}

struct ExampleView {
    which: &'static str,
    link: String,
    trace: String,
    duration: String,
    duration_ns: u64,
    rows: String,
    endpoint: String,
    started: String,
    started_exactly: String,
    failed: bool,
}

fn path(name: &StatementName) -> String {
    format!("/statements/{}", name.key)
}

fn page(read: &Read) -> Page<'_> {
    let calls = read.calls();
    let path = path(&read.name);
    let now_ns = read.covered.now_ns;
    let fingerprint = sql::fingerprint(&read.name.text, &read.name.system);
    let link = |to: &str| read.filters.link(to, &[]);
    let (todo, todo_link) = todo(read, &calls);
    let critical_ns = calls.critical_ns.max(0) as u64;
    let first_seen_ns = u64::try_from(read.name.first_seen_ms)
        .unwrap_or_default()
        .saturating_mul(1_000_000);
    Page {
        frame: Frame {
            current: "/services",
        },
        context: Context::new(&path, &read.filters, &Choices::default(), read.covered),
        name: &read.name,
        summary: fingerprint.summary(),
        class: class(&read.name.system),
        is_other: read.name.text == OTHER,
        cost: cost(read, &calls),
        cost_title: format!(
            "{critical_ns} ns on the critical path, {} ns in all, in {}",
            calls.sum_ns,
            format::duration(read.covered.ns())
        ),
        mostly: mostly(read, critical_ns),
        todo,
        todo_link,
        kpis: kpis(read, &calls),
        laid_out: sql::laid_out(&read.name.text, &read.name.system),
        chart_text: chart_text(&read.chart),
        chart: &read.chart,
        is_line: read.sent.hours.len() > 1,
        bars: &read.bars,
        most_calls: format::count(read.most_calls),
        callers: callers(read, critical_ns),
        more_callers: read.sent.endpoints.len().saturating_sub(CALLERS_MAX),
        findings: read.findings.iter().map(|it| finding(it, read)).collect(),
        regressions: read
            .regressions
            .iter()
            .map(|it| regression(it, now_ns))
            .collect(),
        examples: examples(&read.found, now_ns),
        looked_through: looked_through(&read.found),
        advice: read
            .suggested
            .as_ref()
            .map_or_else(Vec::new, |it| format::code_pieces(&it.fix)),
        suggested: read.suggested.as_ref(),
        is_quick: is_quick(&calls.latency),
        plan: read
            .plan
            .as_ref()
            .map(|(asked, service)| plan_shown::view(asked.as_ref(), service, now_ns)),
        first_seen: format::ago(first_seen_ns, now_ns),
        first_seen_exactly: format::at(first_seen_ns),
        json: link(&format!("/api/v1{path}")),
        list: link("/statements"),
        longer: format!("{path}?range=7d"),
        range: read.filters.range.sentence(),
    }
}

fn is_quick(latency: &Sketch) -> bool {
    latency.quantile(0.95).unwrap_or(0) < QUICK_NS
}

/// `requests wait 12 min per hour for it, 31 % of their time`
fn cost(read: &Read, calls: &StatementCalls) -> String {
    let share = calls.critical_ns.max(0) as f64 / read.sent.requests_ns.max(1) as f64;
    match (calls.calls, calls.critical_ns) {
        (0, _) => format!("not sent in the {}", read.filters.range.sentence()),
        (_, ..=0) => "no request waits for it".to_owned(),
        (_, critical_ns) => format!(
            "requests wait {} per hour for it, {} % of their time",
            format::duration(read.covered.per_hour(critical_ns)),
            format::percent(share)
        ),
    }
}

/// `92 % of it in GET /posts of shop.`
fn mostly(read: &Read, critical_ns: u64) -> String {
    let Some(first) = read.sent.endpoints.first() else {
        return String::new();
    };
    let whose = format!("{} of {}", first.name, first.service.name);
    if read.sent.endpoints.len() == 1 {
        return format!("Only {whose} sends it.");
    }
    if critical_ns == 0 {
        return format!(
            "{} endpoints send it.",
            format::count(read.sent.endpoints.len() as i64)
        );
    }
    let share = first.calls.critical_ns.max(0) as f64 / critical_ns as f64;
    format!(
        "{} % of that in {whose}, the rest in {} other{}.",
        format::percent(share),
        format::count(read.sent.endpoints.len() as i64 - 1),
        if read.sent.endpoints.len() == 2 {
            ""
        } else {
            "s"
        }
    )
}

/// What to do, and where that is said.
fn todo(read: &Read, calls: &StatementCalls) -> (Vec<(bool, String)>, Option<String>) {
    if calls.calls == 0 || read.name.text == OTHER {
        return (Vec::new(), None);
    }
    let needs_somebody = |it: &&NamingFinding| {
        let shown = life::State::SHOWN
            .iter()
            .any(|state| state.name() == it.state);
        shown && it.requests > 0
    };
    if let Some(it) = read.findings.iter().find(needs_somebody) {
        let fix = it.evidence["fix"].as_str().unwrap_or_default();
        let link = read.filters.link(&format!("/bottlenecks/{}", it.id), &[]);
        return (format::code_pieces(&first_sentence(fix)), Some(link));
    }
    let per_request = calls.calls as f64 / read.requests().max(1) as f64;
    let text = if per_request >= MANY_CALLS {
        format!(
            "A request sends it {} times: see whether one call could ask for all of it at once.",
            format::number(per_request)
        )
    } else if is_quick(&calls.latency) {
        "Its calls are quick, and no detector found anything wrong with them.".to_owned()
    } else {
        let fix = read.suggested.as_ref().map_or("", |it| &it.fix);
        first_sentence(fix)
    };
    (format::code_pieces(&text), None)
}

/// A point ends a sentence only in front of a space.
fn first_sentence(text: &str) -> String {
    match text.find(". ") {
        Some(end) => text[..=end].to_owned(),
        None => text.to_owned(),
    }
}

fn kpis(read: &Read, calls: &StatementCalls) -> Vec<Kpi> {
    if calls.calls == 0 {
        return Vec::new();
    }
    let requests = read.requests();
    let mut kpis = vec![
        Kpi {
            name: "Calls",
            number: format::count(calls.calls),
            unit: "",
            exact: format!(
                "{} calls in {}",
                calls.calls,
                format::duration(read.covered.ns())
            ),
        },
        Kpi {
            name: "Per request",
            number: format::number(calls.calls as f64 / requests.max(1) as f64),
            unit: "",
            exact: format!(
                "{} requests of the endpoints that send it",
                format::count(requests)
            ),
        },
        Kpi {
            name: "Total time",
            number: format::duration_parts(calls.sum_ns.max(0) as u64).0,
            unit: format::duration_parts(calls.sum_ns.max(0) as u64).1,
            exact: format!("{} ns: all calls' durations added up", calls.sum_ns),
        },
    ];
    let all = percentiles(&calls.latency);
    for (name, ns) in [("P50", all[0]), ("P95", all[2]), ("P99", all[3])] {
        kpis.push(Kpi {
            name,
            number: format::ms(ns),
            unit: "ms",
            exact: format!("{ns} ns, within 1.1 %"),
        });
    }
    let rows = read.rows();
    if let (Some(middle), Some(most)) = (rows.get(rows.len() / 2), rows.last()) {
        kpis.push(Kpi {
            name: "Rows",
            number: format::count(*middle as i64),
            unit: "",
            exact: format!(
                "in the middle of {} calls that say how many; {} at most",
                rows.len(),
                format::count(*most as i64)
            ),
        });
    }
    kpis
}

fn chart_text(chart: &LineChart) -> String {
    let highest = chart.points.iter().map(|it| it.percentiles[3]).max();
    match (chart.points.first(), chart.points.last()) {
        (Some(first), Some(last)) => format!(
            "P50, P90, P95 and P99 of its calls by the hour from {} to {}; the highest P99 is {}. The table below has \
             the numbers.",
            first.at(),
            last.at(),
            format::duration(highest.unwrap_or(0))
        ),
        _ => "No calls".to_owned(),
    }
}

fn callers(read: &Read, critical_ns: u64) -> Vec<CallerView<'_>> {
    let shown = read.sent.endpoints.iter().take(CALLERS_MAX);
    shown
        .map(|endpoint| {
            let calls = &endpoint.calls;
            let own_ns = calls.critical_ns.max(0) as u64;
            let share = own_ns as f64 / critical_ns.max(1) as f64;
            CallerView {
                link: read
                    .filters
                    .link(&format!("/endpoints/{}", endpoint.id), &[]),
                waits: format::duration(own_ns),
                share: format::percent(share),
                bar: format::width(share.min(1.0)),
                calls: format::count(calls.calls),
                per_request: format::number(calls.calls as f64 / endpoint.requests.max(1) as f64),
                ms: percentiles(&calls.latency).map(format::ms),
                endpoint,
            }
        })
        .collect()
}

fn finding<'a>(finding: &'a NamingFinding, read: &Read) -> FindingView<'a> {
    let names = ["info", "warning", "critical"];
    let per_hour = format::duration(read.covered.per_hour(finding.saved_ns));
    FindingView {
        severity: names.get(finding.severity as usize).unwrap_or(&names[0]),
        state: state_title(&finding.state),
        link: read
            .filters
            .link(&format!("/bottlenecks/{}", finding.id), &[]),
        cost: match finding.requests {
            0 => "not in this time".to_owned(),
            _ => format!("{per_hour} per hour avoidable"),
        },
        finding,
    }
}

fn regression(regression: &StatementRegression, now_ns: u64) -> RegressionView<'_> {
    let since_ns = deployed::ms_to_ns(regression.began_ms);
    RegressionView {
        since: format::ago(since_ns, now_ns),
        since_exactly: format::at(since_ns),
        regression,
    }
}

/// A quick one, a usual one and a slow one, as far as there are so many.
fn examples(found: &SentCalls, now_ns: u64) -> Vec<ExampleView> {
    let calls = &found.calls;
    let last = calls.len().saturating_sub(1);
    let wanted: &[(&'static str, usize)] = match calls.len() {
        0 => &[],
        1 => &[("the only one", 0)],
        2 => &[("quickest", 0), ("slowest", 1)],
        _ => &[
            ("quickest", 0),
            ("in the middle", last / 2),
            ("slowest", last),
        ],
    };
    let wanted = wanted.iter();
    wanted
        .filter_map(|(which, at)| Some(example(which, calls.get(*at)?, now_ns)))
        .collect()
}

fn example(which: &'static str, call: &SentCall, now_ns: u64) -> ExampleView {
    let trace = call.trace_id.to_string();
    ExampleView {
        which,
        link: format!("/traces/{trace}?span={}", call.span_id),
        trace: trace.chars().take(8).collect(),
        duration: format::duration(call.duration_ns),
        duration_ns: call.duration_ns,
        rows: call
            .rows
            .map_or_else(|| "–".to_owned(), |it| format::count(it as i64)),
        endpoint: call.endpoint.clone(),
        started: format::ago(call.start_ns, now_ns),
        started_exactly: format::at(call.start_ns),
        failed: call.failed,
    }
}

fn looked_through(found: &SentCalls) -> String {
    let plural =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!(
        "of {} in {} of its endpoints: the latest and the slowest",
        plural(found.calls.len(), "call"),
        plural(found.traces, "trace")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, drawn_at};
    use axum::http::{StatusCode, header};
    use scraper::{Html, Selector};

    const LIST: &str = r#"
        shop  GET /posts {http.route=/posts, http.request.method=GET, service.version=1.0}                                                                    |---------------------|
        shop    SELECT posts [client] {db.system.name=postgresql, db.query.text="SELECT * FROM posts WHERE state = 7", db.response.returned_rows=40}           |---|
        shop    SELECT authors [client] {db.system.name=postgresql, db.query.text="SELECT name FROM authors WHERE id = 1"}                                          |-|
        shop    SELECT authors [client] {db.system.name=postgresql, db.query.text="SELECT name FROM authors WHERE id = 2"}                                             |---|
        shop    GET user [client] {db.system.name=redis, db.query.text="GET user:17"}                                                                                        |-|
    "#;

    const FEED: &str = r#"
        feed  GET /feed {http.route=/feed, http.request.method=GET}                                                                                           |-----------------|
        feed    SELECT authors [client] {db.system.name=postgresql, db.query.text="SELECT name FROM authors WHERE id = 9"}                                       |-----|
    "#;

    const AUTHORS: &str = "select name from authors where id = ?";

    async fn site() -> Site {
        let now_ns = format::now_ns();
        let at = |seconds: u64| now_ns - seconds * 1_000_000_000;
        let traces = [
            drawn_at(LIST, at(30), 1),
            drawn_at(LIST, at(20), 2),
            drawn_at(FEED, at(10), 3),
        ];
        Site::with(&traces.each_ref()).await
    }

    fn texts(html: &str, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let html = Html::parse_document(html);
        html.select(&selector)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    fn links(html: &str, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let html = Html::parse_document(html);
        html.select(&selector)
            .filter_map(|it| it.attr("href").map(str::to_owned))
            .collect()
    }

    #[tokio::test]
    async fn a_statement_tells_what_it_costs_and_who_sends_it() {
        let site = site().await;
        let address = statement_key::href("postgresql", AUTHORS);
        let html = site.page(&format!("{address}?range=24h")).await;
        let title = &texts(&html, "h1")[0];
        assert!(
            title.starts_with("select authors: requests wait ")
                && title.ends_with(" % of their time"),
            "{title}"
        );
        let told = &texts(&html, ".verdict")[0];
        assert!(
            told.contains("% of that in GET /posts of shop, the rest in 1 other."),
            "{told}"
        );
        let kpis = texts(&html, "main > .kpis dd");
        assert_eq!((&*kpis[0], &*kpis[1]), ("5", "1.67"), "{kpis:?}");
        assert_eq!(texts(&html, "#sql"), [AUTHORS]);
        let callers = texts(&html, "[aria-labelledby=ca] tbody th a");
        assert_eq!(callers, ["GET /posts", "GET /feed"]);
        assert!(links(&html, "[aria-labelledby=ca] tbody th a")[0].ends_with("?range=24h"));
        assert_eq!(
            texts(&html, "[aria-labelledby=ca] tbody tr:first-child td.num")[1..3],
            ["4", "2"]
        );
        assert_eq!(
            links(&html, ".acts a.ghost"),
            [format!("/api/v1{address}?range=24h")]
        );
    }

    #[tokio::test]
    async fn examples_open_the_trace_at_the_call() {
        let site = site().await;
        let html = site.page(&statement_key::href("postgresql", AUTHORS)).await;
        let which = texts(&html, "[aria-labelledby=ex] tbody th");
        assert_eq!(which, ["quickest", "in the middle", "slowest"]);
        let durations = texts(&html, "[aria-labelledby=ex] tbody td.num:nth-of-type(2)");
        assert_eq!(durations, ["2 ms", "4 ms", "6 ms"]);
        let link = &links(&html, "[aria-labelledby=ex] tbody a")[2];
        let trace = site.page(link).await;
        assert!(texts(&trace, "#sql")[0].contains("from authors"), "{link}");
        assert!(
            links(&trace, ".side a").contains(&format!(
                "{}?range=24h",
                statement_key::href("postgresql", AUTHORS)
            )),
            "the way back"
        );
    }

    #[tokio::test]
    async fn rows_and_caches_are_told_where_they_are_known() {
        let site = site().await;
        let posts = statement_key::href("postgresql", "select * from posts where state = ?");
        let html = site.page(&posts).await;
        assert_eq!(texts(&html, "main > .kpis dt").last().unwrap(), "Rows");
        assert_eq!(texts(&html, "main > .kpis dd").last().unwrap(), "40");
        let told = &texts(&html, ".verdict")[0];
        assert!(
            told.starts_with("Only GET /posts of shop sends it."),
            "{told}"
        );
        let cache = site.page(&statement_key::href("redis", "get user:?")).await;
        assert_eq!(
            texts(&cache, "[aria-labelledby=st] header .quiet"),
            ["redis, without its values"]
        );
        assert!(cache.contains("class=\"sw cache\""));
        assert!(texts(&cache, "#ad").is_empty(), "no index serves a cache");
    }

    #[tokio::test]
    async fn other_names_of_a_statement_lead_to_its_one_address() {
        let site = site().await;
        let found = site.store.find_statements("authors").await.unwrap();
        let [authors] = &found[..] else {
            panic!("{found:?}");
        };
        let address = format!("/statements/{}", authors.key);
        assert_eq!(address, statement_key::href("postgresql", AUTHORS));
        let digest = format!("{address}{}?range=7d&sort=p99", "0".repeat(48));
        let (status, headers, _) = site.get(&digest).await;
        assert_eq!(status, StatusCode::SEE_OTHER);
        assert_eq!(headers[header::LOCATION], *format!("{address}?range=7d"));
        let list = site.page("/statements").await;
        assert!(links(&list, "tbody th a").contains(&address));
    }

    #[tokio::test]
    async fn what_is_not_known_says_why() {
        let site = site().await;
        for (id, why) in [
            ("0123456789abcdef", "16 hexadecimal digits"),
            ("4711", "one database"),
            ("select", "16 hexadecimal digits"),
        ] {
            let (status, _, body) = site.get(&format!("/statements/{id}")).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert!(body.contains(why), "{id}");
            assert!(links(&body, "main a").contains(&"/statements".to_owned()));
            let (status, _, body) = site.get(&format!("/api/v1/statements/{id}")).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert!(body.starts_with("{\"error\":"), "{body}");
        }
        let address = statement_key::href("postgresql", AUTHORS);
        let (status, ..) = site.get(&format!("{address}?range=3h")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn the_json_has_whole_numbers() {
        let site = site().await;
        let address = statement_key::href("postgresql", AUTHORS);
        let json = site.page(&format!("/api/v1{address}")).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["statement"], AUTHORS);
        assert_eq!(json["page"], address);
        assert_eq!(
            (&json["calls"], &json["sum_ns"]),
            (&5.into(), &18_000_000.into())
        );
        assert_eq!(json["endpoints"][1]["endpoint"], "GET /feed");
        assert_eq!(json["examples"].as_array().unwrap().len(), 5);
        let hours = json["hours"].as_array().unwrap();
        let calls: i64 = hours.iter().filter_map(|it| it["calls"].as_i64()).sum();
        assert_eq!(calls, 5);
        assert!(json["suggested"]["fix"].is_string());
    }

    #[test]
    fn a_sentence_ends_before_a_space() {
        let cases = [
            ("Use a.b for it. Or not.", "Use a.b for it."),
            ("No end", "No end"),
            ("", ""),
        ];
        for (text, first) in cases {
            assert_eq!(first_sentence(text), first);
        }
    }
}
