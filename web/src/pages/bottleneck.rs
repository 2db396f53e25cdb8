//! One finding: what happens, the evidence, the fix, what it costs, where to see it.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{self, Path, RawQuery};
use axum::response::{Redirect, Response};
use collector::clock::now_ms;
use collector::life::{ActKind, Life, State};
use collector::store::audit::Done;
use collector::store::bottlenecks::Example;
use serde_json::Value;
use std::collections::BTreeSet;

use crate::AppState;
use crate::acts::{self, Wish};
use crate::charts::{self, Histogram, Line};
use crate::deployed;
use crate::format;
use crate::line_chart::{LineChart, Marker, Moment};
use crate::pages::bottlenecks::state_class;
use crate::pages::context::Context;
use crate::pages::{BOTTLENECKS, Frame, PageError, render};
use crate::plan_shown::{self, PlanView};
use crate::range::{Covered, Filters};
use crate::ranking::{self, Choices, Row};

/// The page.
///
/// # Errors
/// There is no such finding, the address makes no sense, or the database is away.
pub async fn show(
    extract::State(state): extract::State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let filters = Filters::parse(query.as_deref())?;
    let now_ns = format::now_ns();
    let missing = || {
        let text = format!(
            "There is no finding '{id}'. Findings of the last seconds may still be on their way."
        );
        PageError::Missing(text, BOTTLENECKS)
    };
    let number: i32 = id.parse().map_err(|_| missing())?;
    let (row, covered) = ranking::load_one(&state.store, number, &filters, now_ns)
        .await?
        .ok_or_else(missing)?;
    let examples = state
        .store
        .examples(number, filters.range.window(now_ns))
        .await?;
    let mut page = page(&filters, &row, covered, &examples);
    if let Some((life, history)) = acts::life(&state.store, number).await? {
        page.tell_life(&life, &history, now_ns);
    }
    if let Some(endpoint) = state.store.endpoint(row.facts.endpoint_id).await? {
        let between = (covered.from_ns, covered.now_ns);
        let service = endpoint.service.id;
        let moments = deployed::moments(&state.store, service, Some(endpoint.id), between).await?;
        page.trend.mark(moments, covered);
    }
    if let Some(statement) = &page.evidence.statement {
        let texts = BTreeSet::from([&**statement]);
        let keys = state.store.statement_keys(&texts).await?;
        page.evidence.statement_link = keys.values().next().map(|key| {
            let only_range = Filters {
                range: filters.range,
                ..Filters::default()
            };
            only_range.link(&format!("/statements/{key}"), &[])
        });
    }
    if row.facts.detector == "slow-query" {
        let asked = state.store.plan(number).await?;
        page.plan = Some(plan_shown::view(asked.as_ref(), &row.facts.service, now_ns));
    }
    Ok(render(&page))
}

/// What a form asks for; then back to the page. The same form again changes nothing.
///
/// # Errors
/// There is no such finding, or it makes no sense as it stands.
pub async fn act(
    extract::State(state): extract::State<AppState>,
    Path((id, act)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Redirect, PageError> {
    let filters = Filters::parse(query.as_deref())?;
    let wish = Wish::from_form(&body);
    let now_ms = now_ms();
    let (id, _) = acts::carry_out(&state.store, &id, &act, wish, now_ms).await?;
    Ok(Redirect::to(&format!(
        "{}#life",
        filters.link(&format!("/bottlenecks/{id}"), &[])
    )))
}

/// Forms' addresses are no pages: whoever goes back to one wants the finding.
pub async fn back(Path((id, _)): Path<(String, String)>) -> Result<Redirect, PageError> {
    let id: i32 = id
        .parse()
        .map_err(|_| PageError::Missing(format!("There is no finding '{id}'."), BOTTLENECKS))?;
    Ok(Redirect::to(&format!("/bottlenecks/{id}#life")))
}

#[derive(Template)]
#[template(path = "bottleneck.html")]
struct Page {
    frame: Frame,
    context: Context,
    title: String,
    severity: &'static str,
    detector: String,
    detector_title: String,
    service: String,
    environment: String,
    endpoint: String,
    endpoint_link: String,
    evidence: EvidenceView,
    fix: FixView,
    /// For slow statements.
    plan: Option<PlanView>,
    trend: Trend,
    examples: Vec<ExampleView>,
    savings: Savings,
    life: LifeView,
    /// Forms are sent to addresses below this one.
    act_path: String,
    /// What they carry along, with its question mark.
    query: String,
    /// `0.96`
    confidence: String,
    /// What made it more or less sure.
    reasons: Vec<String>,
    fingerprint: String,
    /// The same as JSON.
    json: String,
    /// `last hour`
    range: &'static str,
}

/// What was seen in the worst affected request.
struct EvidenceView {
    explanation: String,
    call_path: Vec<String>,
    /// `31 calls`
    count: String,
    target: Option<String>,
    statement: Option<String>,
    /// Its own page, if it is known.
    statement_link: Option<String>,
    parameters: Vec<String>,
    code: Option<String>,
    /// From the first start to the last end, and the durations' sum.
    times: Option<Times>,
    /// Calls per request over all affected requests of the window.
    calls: Option<Histogram>,
}

/// Two bars that tell whether calls overlap.
struct Times {
    window: String,
    window_width: String,
    sum: String,
    sum_width: String,
    /// What the two say together.
    heading: &'static str,
    text: &'static str,
}

struct FixView {
    /// Is it code? What?
    text: Vec<(bool, String)>,
    code: Option<String>,
    framework: Option<String>,
}

/// Cost over time.
struct Trend {
    /// A single point is no line.
    is_line: bool,
    line: Line,
    /// From top to bottom.
    labels: Vec<String>,
    /// From left to right.
    times: Vec<String>,
    /// In words.
    title: String,
    /// Deployments of its service.
    markers: Vec<Marker>,
    /// The same as a list.
    moments: Vec<Moment>,
}

impl Trend {
    fn mark(&mut self, moments: Vec<Moment>, covered: Covered) {
        let mut chart = LineChart {
            from_ns: covered.from_ns,
            length_ns: covered.now_ns.saturating_sub(covered.from_ns),
            ..LineChart::default()
        };
        chart.mark(moments);
        let moments = chart.markers.iter().flat_map(|it| it.moments.clone());
        self.moments = moments.collect();
        self.markers = chart.markers;
    }
}

struct ExampleView {
    link: String,
    trace: String,
    duration: String,
    count: String,
    saved: String,
    time: String,
    exact: String,
}

struct Savings {
    number: String,
    unit: &'static str,
    /// What it is made of, exactly.
    title: String,
    per_request: String,
    affected: String,
    percent: String,
    dumbbells: Vec<Dumbbell>,
}

/// A quantile now and if fixed, on a common scale.
struct Dumbbell {
    name: &'static str,
    before: String,
    after: String,
    before_x: String,
    after_x: String,
}

struct LifeView {
    state: String,
    /// How it is drawn.
    state_class: &'static str,
    /// `3 h ago`
    since: String,
    since_exact: String,
    /// More of the state: label, exact value for the tooltip, text of people or ours.
    more: Vec<(&'static str, String, String)>,
    /// What can be done.
    acts: Vec<ActView>,
    /// Latest first.
    history: Vec<HistoryView>,
    first_seen: String,
    first_seen_exact: String,
    version: String,
    last_seen: String,
    last_seen_exact: String,
    traces: String,
}

/// A form.
struct ActView {
    /// Where it is sent.
    action: String,
    /// On the button.
    title: &'static str,
    /// What it does, in a sentence.
    text: &'static str,
    /// For labels: unique on the page.
    id: &'static str,
    /// A reason must be given.
    needs_reason: bool,
    /// How long can be chosen.
    has_until: bool,
    /// A version can be named.
    has_version: bool,
}

/// Something that was done.
struct HistoryView {
    when: String,
    exact: String,
    /// `came back`, `ignored`
    action: &'static str,
    /// Who; empty: nobody.
    author: String,
    /// `after 12 days, in version 1.4`, or what somebody said.
    detail: String,
}

/// How long something can be ignored: value, title.
const UNTIL: [(&str, &str); 5] = [
    ("", "until somebody reopens it"),
    ("1d", "for a day"),
    ("7d", "for 7 days"),
    ("30d", "for 30 days"),
    ("90d", "for 90 days"),
];

impl Page {
    /// How long something can be ignored, for the template.
    fn until(&self) -> &'static [(&'static str, &'static str)] {
        &UNTIL
    }

    fn tell_life(&mut self, life: &Life, history: &[Done], now_ns: u64) {
        let view = &mut self.life;
        let since_ns = ns(life.since_ms);
        view.state = ranking::state_title(life.state.name()).to_owned();
        view.state_class = state_class(life.state.name());
        view.since = format::ago(since_ns, now_ns);
        view.since_exact = format::at(since_ns);
        view.more = more(life, now_ns);
        view.acts = acts_in(life.state, &self.act_path, &self.query);
        view.history = history.iter().map(|it| history_view(it, now_ns)).collect();
    }
}

fn ns(ms: i64) -> u64 {
    u64::try_from(ms)
        .unwrap_or_default()
        .saturating_mul(1_000_000)
}

fn more(life: &Life, now_ns: u64) -> Vec<(&'static str, String, String)> {
    let mut more = Vec::new();
    let is_settled = [State::Acknowledged, State::Ignored, State::Resolved].contains(&life.state);
    if is_settled && !life.author.is_empty() {
        more.push(("By", String::new(), life.author.clone()));
    }
    if is_settled && !life.reason.is_empty() {
        more.push(("Reason", String::new(), life.reason.clone()));
    }
    if let Some(until_ms) = life.ignored_until_ms {
        let until = format::when(ns(until_ms), now_ns);
        more.push(("Until", format::at(ns(until_ms)), until));
    }
    if let Some(version) = &life.resolved_in {
        more.push(("Fixed in", String::new(), version.clone()));
    }
    if life.regressed > 0 {
        let times = match life.regressed {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        more.push(("Came back", String::new(), times));
    }
    more
}

/// What makes sense in a state, the likeliest first.
fn acts_in(state: State, path: &str, query: &str) -> Vec<ActView> {
    let act = |kind: ActKind, title, text| ActView {
        action: format!("{path}/{}{query}", kind.name()),
        title,
        text,
        id: kind.name(),
        needs_reason: kind == ActKind::Ignore,
        has_until: kind == ActKind::Ignore,
        has_version: kind == ActKind::Resolve,
    };
    let acknowledge = act(
        ActKind::Acknowledge,
        "Acknowledge",
        "It stays in the list, marked, and nobody is told of it again.",
    );
    let ignore = act(
        ActKind::Ignore,
        "Ignore",
        "It leaves the list, and never counts as having come back.",
    );
    let resolve = act(
        ActKind::Resolve,
        "Resolve",
        "It leaves the list. If a later request shows it, it comes back and says so.",
    );
    let reopen = act(ActKind::Reopen, "Reopen", "It returns to the list as open.");
    match state {
        State::New | State::Open | State::Regressed => vec![acknowledge, ignore, resolve],
        State::Acknowledged => vec![resolve, ignore, reopen],
        State::Ignored => vec![reopen, resolve],
        State::Resolved => vec![reopen],
    }
}

fn history_view(done: &Done, now_ns: u64) -> HistoryView {
    HistoryView {
        when: format::ago(ns(done.at_ms), now_ns),
        exact: format::at(ns(done.at_ms)),
        action: match done.action.as_str() {
            "regressed" => "came back",
            "acknowledged" => "acknowledged",
            "ignored" => "ignored",
            "resolved" => "resolved",
            "reopened" => "reopened",
            "opened" => "open",
            _ => "changed",
        },
        author: done.author.clone(),
        detail: done.detail.clone(),
    }
}

fn page(filters: &Filters, row: &Row, covered: Covered, examples: &[Example]) -> Page {
    let facts = &row.facts;
    let path = format!("/bottlenecks/{}", facts.id);
    let only_range = Filters {
        range: filters.range,
        ..Filters::default()
    };
    Page {
        frame: Frame { current: "/" },
        context: Context::new(&path, &only_range, &Choices::default(), covered),
        title: facts.title.clone(),
        severity: row.severity(),
        detector: facts.detector.clone(),
        detector_title: row.detector_title().to_owned(),
        service: facts.service.clone(),
        environment: facts.environment.clone(),
        endpoint: facts.endpoint.clone(),
        endpoint_link: only_range.link(&format!("/endpoints/{}", facts.endpoint_id), &[]),
        evidence: evidence_view(row),
        fix: fix_view(&facts.evidence),
        plan: None,
        trend: trend(row, covered),
        examples: examples.iter().map(example_view).collect(),
        savings: savings(row, covered),
        life: life(row),
        query: only_range.link("", &[]),
        act_path: path.clone(),
        confidence: format!("{:.2}", facts.confidence),
        reasons: texts(&facts.evidence["reasons"]),
        fingerprint: facts.fingerprint.clone(),
        json: only_range.link(&format!("/api/v1{path}"), &[]),
        range: filters.range.sentence(),
    }
}

fn text(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(text)
        .collect()
}

fn evidence_view(row: &Row) -> EvidenceView {
    let evidence = &row.facts.evidence;
    let count = evidence["count"].as_u64().unwrap_or_default();
    let calls = &row.hits.hits.calls;
    // One call in each request is no distribution.
    let varies = calls.quantile(1.0).is_some_and(|it| it > 1);
    EvidenceView {
        explanation: text(&evidence["explanation"]).unwrap_or_else(|| row.facts.title.clone()),
        call_path: texts(&evidence["call_path"]),
        count: format!(
            "{} call{}",
            format::count(count as i64),
            if count == 1 { "" } else { "s" }
        ),
        target: text(&evidence["target"]),
        statement: text(&evidence["statement"]),
        statement_link: None,
        parameters: texts(&evidence["parameters"]),
        code: text(&evidence["code"]),
        times: if count > 1 { times(evidence) } else { None },
        calls: varies.then(|| charts::histogram(calls, HISTOGRAM_HEIGHT)),
    }
}

/// The highest bar, in the drawing's units.
const HISTOGRAM_HEIGHT: f64 = 76.0;

/// Calls whose sum is this much of their window follow each other, but for gaps and jitter.
const IN_TURN: std::ops::RangeInclusive<f64> = 0.7..=1.05;

fn times(evidence: &Value) -> Option<Times> {
    let (window_ns, sum_ns) = (
        evidence["window_ns"].as_u64()?,
        evidence["sum_ns"].as_u64()?,
    );
    let longest = window_ns.max(sum_ns).max(1) as f64;
    let ratio = sum_ns as f64 / window_ns.max(1) as f64;
    let (heading, text) = if IN_TURN.contains(&ratio) {
        (
            "They run in turn",
            "The window is about as long as the sum, so nothing overlaps.",
        )
    } else if ratio > *IN_TURN.end() {
        ("Some of them overlap", "The sum is longer than the window.")
    } else {
        (
            "There is time between them",
            "The window is longer than the sum.",
        )
    };
    Some(Times {
        window: format::duration(window_ns),
        window_width: format::width(window_ns as f64 / longest),
        sum: format::duration(sum_ns),
        sum_width: format::width(sum_ns as f64 / longest),
        heading,
        text,
    })
}

fn fix_view(evidence: &Value) -> FixView {
    FixView {
        text: format::code_pieces(evidence["fix"].as_str().unwrap_or_default()),
        code: text(&evidence["fix_code"]),
        framework: text(&evidence["framework"]),
    }
}

/// Points of the trend.
const TREND_POINTS: u64 = 168;

fn trend(row: &Row, covered: Covered) -> Trend {
    let points = row.cost_over_time(covered, TREND_POINTS);
    let costs: Vec<u64> = points.iter().map(|it| it.per_hour_ns).collect();
    let highest = costs.iter().copied().max().unwrap_or_default();
    let lowest = costs.iter().copied().min().unwrap_or_default();
    let axis = charts::duration_axis(highest);
    let values: Vec<f64> = costs.iter().map(|it| *it as f64).collect();
    Trend {
        is_line: values.len() > 1,
        line: charts::line(&values, axis.top, 100.0, 100.0),
        labels: axis.labels,
        markers: Vec::new(),
        moments: Vec::new(),
        times: time_labels(covered),
        title: format!(
            "Cost per hour, {} UTC: between {} and {}",
            covered.text(),
            format::duration(lowest),
            format::duration(highest)
        ),
    }
}

/// Five times, evenly spaced.
fn time_labels(covered: Covered) -> Vec<String> {
    let length = covered.now_ns.saturating_sub(covered.from_ns);
    let days = length > 24 * 3_600_000_000_000;
    let label = |at| {
        if days {
            format::day_and_minute(at)
        } else {
            format::clock(at)[..5].to_owned()
        }
    };
    (0..=4)
        .map(|it| label(covered.from_ns + length / 4 * it))
        .collect()
}

fn example_view(example: &Example) -> ExampleView {
    ExampleView {
        link: format!("/traces/{}?span={}", example.trace_id, example.span_id),
        trace: example.trace_id.clone(),
        duration: format::ms(example.duration_ns),
        count: format::count(example.count as i64),
        saved: format::ms(example.saved_ns),
        time: format::clock(example.start_ns),
        exact: format!(
            "{}, {} ns",
            format::at(example.start_ns),
            example.duration_ns
        ),
    }
}

fn savings(row: &Row, covered: Covered) -> Savings {
    let (number, unit) = format::duration_parts(row.cost_ns);
    let requests = format::count(row.hits.requests);
    Savings {
        number,
        unit,
        title: format!(
            "{} ns saved of {requests} affected requests in {}, per hour",
            format::count(row.hits.saved_ns),
            format::duration(covered.ns())
        ),
        per_request: format::duration(row.saved_median_ns()),
        affected: format!(
            "{requests} of {} requests",
            format::count(row.endpoint.requests.max(row.hits.requests))
        ),
        percent: format::percent(row.share),
        dumbbells: dumbbells(row),
    }
}

fn dumbbells(row: &Row) -> Vec<Dumbbell> {
    let quantiles = [("P50", 0.5), ("P95", 0.95), ("P99", 0.99)];
    let found: Vec<_> = quantiles
        .into_iter()
        .filter_map(|(name, q)| Some((name, row.quantile(q)?)))
        .collect();
    let longest = found
        .iter()
        .map(|it| it.1.0)
        .max()
        .unwrap_or_default()
        .max(1) as f64;
    // Circles have a size: a little room at both ends.
    let x = |ns: u64| format::width(0.03 + 0.94 * ns as f64 / longest);
    let dumbbell = |(name, (before, after)): (&'static str, (u64, u64))| Dumbbell {
        name,
        before: format::duration(before),
        after: format::duration(after),
        before_x: x(before),
        after_x: x(after),
    };
    found.into_iter().map(dumbbell).collect()
}

fn life(row: &Row) -> LifeView {
    let facts = &row.facts;
    LifeView {
        state: ranking::state_title(&facts.state).to_owned(),
        state_class: state_class(&facts.state),
        since: format::ago(facts.state_since_ns, format::now_ns()),
        since_exact: format::at(facts.state_since_ns),
        more: Vec::new(),
        acts: Vec::new(),
        history: Vec::new(),
        first_seen: format::ago(facts.first_seen_ns, format::now_ns()),
        first_seen_exact: format::at(facts.first_seen_ns),
        version: facts.version.clone(),
        last_seen: format::ago(facts.last_seen_ns, format::now_ns()),
        last_seen_exact: format::at(facts.last_seen_ns),
        traces: format::count(facts.traces),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::Sort;
    use crate::ranking::tests::drawn;
    use collector::store::plans::{AskedPlan, Plan, SequentialScan};
    use scraper::{Html, Selector};
    use serde_json::json;

    const HOSTILE: &str = "</pre><script>alert(1)</script>\"'&";

    fn shown(evidence: Value) -> Html {
        let filters = Filters::default();
        let ranking = drawn(&filters, Sort::Cost);
        let mut row = ranking.rows[0].clone();
        row.facts.evidence = evidence;
        row.hits.hits.calls.record(8, 20);
        row.hits.hits.calls.record(31, 30);
        let example = Example {
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            span_id: "b7ad6b7169203331".into(),
            start_ns: 1_795_185_128_000_000_000,
            duration_ns: 418_200_000,
            saved_ns: 322_000_000,
            count: 31,
        };
        let html = page(&filters, &row, ranking.covered, &[example])
            .render()
            .unwrap();
        Html::parse_document(&html)
    }

    fn texts_of(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let words = |it: scraper::ElementRef<'_>| {
            let text: String = it.text().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        html.select(&selector).map(words).collect()
    }

    #[test]
    fn the_page_tells_all_that_is_known() {
        let html = shown(json!({
            "explanation": "GET /posts loads each author alone.",
            "call_path": ["GET /posts", "list_posts"],
            "statement": "SELECT * FROM authors WHERE id = ?",
            "parameters": ["1", "2"],
            "count": 31, "window_ns": 346_000_000, "sum_ns": 338_000_000,
            "code": "app/api/posts.py:48 list_posts",
            "fix": "Load them in bulk.", "fix_code": "selectinload(Post.author)",
            "framework": "SQLAlchemy", "reasons": ["31 calls in turn"],
        }));
        assert_eq!(
            texts_of(&html, ".verdict"),
            ["GET /posts loads each author alone. How to fix it."]
        );
        assert_eq!(texts_of(&html, ".big"), ["7 min 30 s per hour"]);
        assert_eq!(
            texts_of(&html, "pre"),
            [
                "SELECT * FROM authors WHERE id = ?",
                "selectinload(Post.author)"
            ]
        );
        assert_eq!(texts_of(&html, ".dumb").len(), 3);
        assert!(texts_of(&html, "h3").contains(&"They run in turn".to_owned()));
        let link = Selector::parse("tbody a").unwrap();
        let link = html.select(&link).next().unwrap().attr("href").unwrap();
        assert_eq!(
            link,
            "/traces/0af7651916cd43dd8448eb211c80319c?span=b7ad6b7169203331"
        );
    }

    #[test]
    fn hostile_evidence_is_text() {
        let all = |keys: &[&str]| {
            let mut evidence =
                json!({ "count": 3, "call_path": [HOSTILE], "parameters": [HOSTILE] });
            for key in keys {
                evidence[*key] = json!(HOSTILE);
            }
            evidence
        };
        let html = shown(all(&[
            "explanation",
            "statement",
            "code",
            "fix",
            "fix_code",
            "framework",
            "target",
        ]));
        assert_eq!(
            html.select(&Selector::parse("script:not([src^='/static/'])").unwrap())
                .count(),
            0,
            "only ours"
        );
        assert_eq!(
            texts_of(&html, ".verdict"),
            [format!("{HOSTILE} How to fix it.")]
        );
        assert_eq!(texts_of(&html, "pre"), [HOSTILE, HOSTILE]);
    }

    #[test]
    fn deployments_are_marked_in_the_trend() {
        let filters = Filters::default();
        let ranking = drawn(&filters, Sort::Cost);
        let covered = Covered {
            from_ns: ranking.covered.now_ns - 3_600_000_000_000,
            ..ranking.covered
        };
        let mut page = page(&filters, &ranking.rows[0], covered, &[]);
        let moment = |minutes_ago: u64, label: &str| Moment {
            at_ns: covered.now_ns - minutes_ago * 60_000_000_000,
            label: label.into(),
            title: format!("{label} after 1.0"),
            href: "/compare".into(),
            is_bad: false,
        };
        let moments = vec![moment(30, "1.1"), moment(90, "0.9")];
        page.trend.mark(moments, covered);
        let html = Html::parse_document(&page.render().unwrap());
        assert_eq!(texts_of(&html, ".plot .mk text"), ["1.1"]);
        assert_eq!(texts_of(&html, ".marks li"), ["1.1 after 1.0"]);
    }

    fn with_plan(asked: Option<AskedPlan>) -> Html {
        let filters = Filters::default();
        let ranking = drawn(&filters, Sort::Cost);
        let mut page = page(&filters, &ranking.rows[0], ranking.covered, &[]);
        page.plan = Some(plan_shown::view(asked.as_ref(), "shop", 400_000_000_000));
        Html::parse_document(&page.render().unwrap())
    }

    #[test]
    fn the_plan_names_what_is_read_from_end_to_end() {
        let scan = SequentialScan {
            table: "public.products".into(),
            table_rows: Some(20_000),
            table_bytes: 1_000_000,
            rows: 2,
            filter: Some("name ~~* ?".into()),
        };
        let plan = Plan {
            text: "Seq Scan on public.products <b>".into(),
            rows: 2,
            scans: vec![scan],
            server: 15,
            ..Plan::default()
        };
        let html = with_plan(Some(AskedPlan {
            plan: Some(plan),
            failure: None,
            asked_ns: 100_000_000_000,
        }));
        let text = texts_of(&html, "[aria-labelledby=pl]").join(" ");
        for words in [
            "asked 5 min ago",
            "Reads public.products from end to end: about 20,000 rows",
            "to find 2 where name ~~* ?",
            "takes storage",
            "Seq Scan on public.products <b>",
            "not run",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn without_a_plan_it_says_why_or_how() {
        let none = texts_of(&with_plan(None), "[aria-labelledby=pl]").join(" ");
        assert!(none.contains("--explain-dsn shop=postgres://"), "{none}");
        let failed = with_plan(Some(AskedPlan {
            failure: Some("The role may not read all it needs.".into()),
            ..AskedPlan::default()
        }));
        let failed = texts_of(&failed, "[aria-labelledby=pl]").join(" ");
        assert!(
            failed.contains("may not read") && !failed.contains("--explain-dsn"),
            "{failed}"
        );
        let other = texts_of(&shown(json!({ "count": 3 })), "[aria-labelledby=pl]");
        assert!(other.is_empty(), "only slow statements have a plan");
    }

    #[test]
    fn evidence_may_be_missing() {
        let html = shown(Value::Null);
        assert_eq!(texts_of(&html, ".verdict"), ["31 × select authors"]);
    }
}
