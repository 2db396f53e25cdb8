//! One regression, as somebody who was woken by it sees it: what, by how much, since when, after what, how
//! sure, why, and what to look at first.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::regression::evidence::{Contributor, Explanation, Numbers};
use collector::store::Store;
use collector::store::audit::Done;
use collector::store::bottlenecks::Minutes;
use collector::store::deployments::Deployment;
use collector::store::regressions_shown::{Acted, ShownRegression, Verdict};
use url::form_urlencoded;
use uuid::Uuid;

use crate::category_bar;
use crate::compared::{self, Side};
use crate::deployed::{self, minute_of_ms, ms_to_ns, version_title};
use crate::format;
use crate::line_chart::{self, LineChart, Moment};
use crate::pages::call_paths::{CallPaths, Section};
use crate::pages::regressions::{percentile_name, severity};
use crate::pages::{Frame, PageError, REGRESSIONS, not_written, render};
use crate::range::minute_ns;
use crate::{AppState, address::Address};
use analyzer::category::Category;
use analyzer::profile::Measure;

/// Minutes of the chart at most: a drift's base is days ago.
const CHART_MINUTES_MAX: i32 = 7 * 24 * 60;

/// Traces linked on each side.
const EXAMPLES_MAX: usize = 5;

/// Bytes of a reason; more is refused.
const REASON_BYTES_MAX: usize = 2_000;

/// Bytes of an author's name; more is refused.
const AUTHOR_BYTES_MAX: usize = 256;

/// The page.
///
/// # Errors
/// There is no such regression, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
) -> Result<Response, PageError> {
    let now_ns = format::now_ns();
    let it = named(&state.store, &id).await?;
    let read = read(&state.store, it, now_ns).await?;
    let zoom = Address::parse(query.as_deref());
    Ok(render(&page(&read, zoom.get("path"), now_ns)))
}

/// The form "as the new normal".
///
/// # Errors
/// As [`judge`].
pub async fn accept(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, PageError> {
    act(&state, &id, Verdict::Accepted, &body).await
}

/// The form "it is over".
///
/// # Errors
/// As [`judge`].
pub async fn resolve(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, PageError> {
    act(&state, &id, Verdict::Resolved, &body).await
}

/// A form's address typed or reloaded: the page that has the form.
///
/// # Errors
/// There is no such regression, or the database is away.
pub async fn back(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Redirect, PageError> {
    let it = named(&state.store, &id).await?;
    Ok(Redirect::to(&format!("/regressions/{}", it.id)))
}

async fn act(
    state: &AppState,
    id: &str,
    verdict: Verdict,
    body: &[u8],
) -> Result<Response, PageError> {
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(body);
        let found = fields.find(|it| it.0 == name);
        found.map_or_else(String::new, |it| it.1.into_owned())
    };
    judge(
        &state.store,
        id,
        verdict,
        &field("author"),
        &field("reason"),
    )
    .await?;
    Ok(Redirect::to(&format!("/regressions/{id}")).into_response())
}

/// Ends an open regression as somebody says.
///
/// # Errors
/// There is no such regression, it is not open any more, a text is missing or too long, or the database
/// is away.
pub async fn judge(
    store: &Store,
    id: &str,
    verdict: Verdict,
    author: &str,
    reason: &str,
) -> Result<(), PageError> {
    let (author, reason) = (author.trim(), reason.trim());
    for (name, text, bytes_max) in [
        ("author", author, AUTHOR_BYTES_MAX),
        ("reason", reason, REASON_BYTES_MAX),
    ] {
        if text.len() > bytes_max || text.contains('\0') {
            return Err(PageError::BadRequest(format!(
                "{name} is longer than {bytes_max} bytes, or holds a NUL character."
            )));
        }
    }
    if verdict == Verdict::Accepted && reason.is_empty() {
        return Err(PageError::BadRequest(
            "reason is missing: say why this is the new normal, for those who wonder later."
                .to_owned(),
        ));
    }
    let number = Uuid::parse_str(id).map_err(|_| missing())?;
    let acted = store
        .judge_regression(number, verdict, author, reason)
        .await;
    match acted.map_err(not_written)? {
        Acted::Done => Ok(()),
        Acted::Unknown => Err(missing()),
        Acted::NotOpen(state) => Err(PageError::conflict(format!(
            "This regression is not open any more: it is {state}. Nothing was changed."
        ))),
    }
}

fn missing() -> PageError {
    PageError::Missing("There is no such regression.".into(), REGRESSIONS)
}

/// The regression whose id stands in an address.
///
/// # Errors
/// There is none, or the database is away.
pub async fn named(store: &Store, id: &str) -> Result<ShownRegression, PageError> {
    // What somebody has just done to it is there.
    let found = match Uuid::parse_str(id) {
        Ok(id) => store.for_changes().shown_regression(id).await?,
        Err(_) => None,
    };
    found.ok_or_else(missing)
}

/// All that is known of one.
pub struct Read {
    /// The regression.
    pub it: ShownRegression,
    /// The deployment that it came with.
    pub deployment: Option<Deployment>,
    /// What was done to it.
    pub done: Vec<Done>,
    /// What is compared, base first.
    pub sides: [Side; 2],
    chart: LineChart,
    paths: Result<CallPaths, String>,
}

/// Reads what belongs to a regression.
///
/// # Errors
/// The database is away.
pub async fn read(store: &Store, it: ShownRegression, now_ns: u64) -> Result<Read, PageError> {
    let deployment = match it.deployment_id {
        Some(id) => store.deployment(id).await?,
        None => None,
    };
    let sides = sides(&it, now_ns);
    Ok(Read {
        done: store
            .for_changes()
            .history("regression", &it.id.to_string())
            .await?,
        chart: chart(store, &it, &sides[1], now_ns).await?,
        paths: compared::call_paths(store, &it.endpoint, &sides[0], &sides[1]).await?,
        deployment,
        sides,
        it,
    })
}

/// What it was compared with, and what is slower, up to its end.
fn sides(it: &ShownRegression, now_ns: u64) -> [Side; 2] {
    let base_from = minute_of_ms(it.base_from_ms);
    let base = Side {
        version: it.base_version.clone(),
        minutes: Minutes {
            from: base_from,
            to: minute_of_ms(it.base_to_ms).max(base_from + 1),
        },
    };
    let from = minute_of_ms(it.began_ms);
    let end = it.calm_ms.filter(|_| it.state != "open").or(it.resolved_ms);
    let now = i32::try_from(now_ns / minute_ns(1)).unwrap_or(i32::MAX - 1);
    let side = Side {
        version: it.version.clone(),
        minutes: Minutes {
            from,
            to: end.map_or(now, minute_of_ms).max(from) + 1,
        },
    };
    [base, side]
}

async fn chart(
    store: &Store,
    it: &ShownRegression,
    side: &Side,
    now_ns: u64,
) -> Result<LineChart, PageError> {
    /// What was before has to be seen, too.
    const BEFORE_MINUTES_MIN: i32 = 60;
    /// And what came after it.
    const AFTER_MINUTES: i32 = 30;
    let now = i32::try_from(now_ns / minute_ns(1)).unwrap_or(i32::MAX - 1);
    let Minutes { from, to } = side.minutes;
    let to = (to + AFTER_MINUTES).min(now + 1).max(from + 1);
    let before = match &*it.kind {
        "drift" => from - minute_of_ms(it.base_from_ms),
        _ => to - from,
    };
    let from = from - before.clamp(BEFORE_MINUTES_MIN, CHART_MINUTES_MAX);
    let window = Minutes {
        from: from.max(to - CHART_MINUTES_MAX),
        to,
    };
    let minutes = store.endpoint_minutes(it.endpoint.id, window).await?;
    // An hour of nothing before the first data would squeeze them into a corner.
    let first = minutes.keys().next().copied().unwrap_or(window.from);
    let window = Minutes {
        from: first.min(side.minutes.from - 10).max(window.from),
        ..window
    };
    let mut chart = line_chart::draw(&minutes, window, to - 1);
    let between = (minute_ns(window.from), minute_ns(window.to));
    let service_id = it.endpoint.service.id;
    let mut moments = deployed::moments(store, service_id, Some(it.endpoint.id), between).await?;
    let began_ns = ms_to_ns(it.began_ms);
    moments.push(Moment {
        at_ns: began_ns,
        label: "slower".to_owned(),
        title: format!("slower since {} UTC", format::day_and_minute(began_ns)),
        href: "#why".to_owned(),
        is_bad: true,
    });
    chart.mark(moments);
    Ok(chart)
}

#[derive(Template)]
#[template(path = "regression.html")]
struct Page<'a> {
    frame: Frame,
    it: &'a ShownRegression,
    severity: &'static str,
    /// What, from, to, and the requests of both.
    what: What,
    since: String,
    since_exactly: String,
    /// After which deployment: version, the rest of the sentence, the comparison.
    after: Option<(String, String, String)>,
    /// Why there is none, in words.
    without: &'static str,
    /// In words, and exactly.
    sure: Option<(String, String)>,
    /// `31 of 310 requests took longer than 180 ms; about 3 were to be expected.`
    above: Option<String>,
    /// The first contributor.
    first: Option<Grown<'a>>,
    /// All of them.
    contributors: Vec<Grown<'a>>,
    /// Which requests were looked at.
    looked_at: String,
    change: String,
    /// Since, and before: address, trace.
    examples: [Vec<(String, String)>; 2],
    percentiles: Vec<PercentileRow>,
    /// Requests per second and failures, before and since.
    load: [(&'static str, String, String); 2],
    chart: &'a LineChart,
    chart_text: String,
    section: Option<Section>,
    missing: Option<&'a str>,
    compare: String,
    done: Vec<DoneView<'a>>,
    resolved: Option<String>,
}

struct What {
    percentile: String,
    before: String,
    after: String,
    before_ns: u64,
    after_ns: u64,
    times: String,
    base_requests: String,
    requests: String,
}

struct Grown<'a> {
    it: &'a Contributor,
    /// The call itself.
    name: &'a str,
    /// What it is called from; empty if it is the entry itself.
    under: String,
    category: (&'static str, &'static str),
    before: String,
    after: String,
    change: String,
    is_longer: bool,
    calls: [String; 2],
    share: String,
    examples: Vec<(String, String)>,
}

struct PercentileRow {
    name: String,
    before: String,
    after: String,
    before_ns: u64,
    after_ns: u64,
    is_certain: bool,
    is_worse: bool,
}

struct DoneView<'a> {
    done: &'a Done,
    when: String,
    exactly: String,
}

fn page<'a>(read: &'a Read, zoom: Option<&str>, now_ns: u64) -> Page<'a> {
    let it = &read.it;
    let began_ns = ms_to_ns(it.began_ms);
    let none = Explanation::default();
    let explanation = it.explanation.as_ref();
    let mut contributors: Vec<Grown> = explanation.map_or_else(Vec::new, |it| {
        it.contributors.iter().filter_map(grown).collect()
    });
    let first = explanation
        .and_then(|it| it.contributors.first())
        .and_then(grown);
    contributors.truncate(10);
    let known = explanation.unwrap_or(&none);
    let [base, side] = &read.sides;
    let (section, missing) = match &read.paths {
        Ok(paths) => (Some(section(it, paths, zoom)), None),
        Err(why) => (None, Some(&**why)),
    };
    let compare =
        |endpoint_id| compared::link("/compare", it.endpoint.service.id, endpoint_id, base, side);
    Page {
        frame: Frame {
            current: "/regressions",
        },
        severity: severity(it.severity),
        what: what(&it.numbers),
        since: format!(
            "{} ({})",
            format::when(began_ns, now_ns),
            format::ago(began_ns, now_ns)
        ),
        since_exactly: format::at(began_ns),
        after: read.deployment.as_ref().map(|it| after(it, read, now_ns)),
        without: without(it),
        sure: (it.numbers.base_requests > 0).then(|| sure(it.numbers.p_value)),
        above: above(&it.numbers),
        first: first.filter(|it| it.is_longer),
        contributors,
        looked_at: looked_at(known),
        change: format::change(known.change_ns),
        examples: [examples(&known.examples), examples(&known.base_examples)],
        percentiles: it.numbers.quantiles.iter().map(percentile).collect(),
        load: load(&it.numbers),
        chart: &read.chart,
        chart_text: chart_text(it, &read.chart),
        section,
        missing,
        compare: compare(Some(it.endpoint.id)),
        done: read
            .done
            .iter()
            .map(|done| DoneView {
                done,
                when: format::ago(ms_to_ns(done.at_ms), now_ns),
                exactly: format::at(ms_to_ns(done.at_ms)),
            })
            .collect(),
        resolved: it.resolved_ms.map(|ms| format::when(ms_to_ns(ms), now_ns)),
        it,
    }
}

fn what(numbers: &Numbers) -> What {
    let times = numbers.after_ns as f64 / numbers.before_ns.max(1) as f64;
    What {
        percentile: percentile_name(numbers.quantile),
        before: format::duration(numbers.before_ns),
        after: format::duration(numbers.after_ns),
        before_ns: numbers.before_ns,
        after_ns: numbers.after_ns,
        times: match numbers.before_ns {
            0 => String::new(),
            _ => format!("× {}", format::number(times)),
        },
        base_requests: format::count(numbers.base_requests),
        requests: format::count(numbers.requests),
    }
}

/// The version, the rest of the sentence, the address of the comparison.
fn after(it: &Deployment, read: &Read, now_ns: u64) -> (String, String, String) {
    let when = format::when(ms_to_ns(it.at_ms), now_ns);
    let replaced = match &*it.previous {
        "" => String::new(),
        previous => format!(", after {previous}"),
    };
    let rest = format!(" of {}, deployed {when}{replaced}", it.service.name);
    let compare = deployed::compare_link(it, Some(read.it.endpoint.id));
    (version_title(&it.version).to_owned(), rest, compare)
}

fn without(it: &ShownRegression) -> &'static str {
    match &*it.kind {
        "drift" => "No single moment: it has grown over days.",
        "deployment" => "After a deployment that is not known any more.",
        _ => {
            "Without a deployment: no version of the service changed with it. Look for load, data, a dependency, or a \
              configuration that changed."
        }
    }
}

/// How sure, in words and exactly.
pub fn sure(p_value: f64) -> (String, String) {
    let words = match p_value {
        it if it < 1e-9 => "Practically certain",
        it if it < 1e-5 => "Very sure",
        it if it < 1e-3 => "Sure",
        _ => "Probable",
    };
    let p = match p_value {
        it if it < 1e-99 => "p < 1e-99".to_owned(),
        it => format!("p = {it:.1e}"),
    };
    (
        format!("{words} that this is no chance."),
        format!("{p}: how probable it is that unchanged durations look like this"),
    )
}

fn above(numbers: &Numbers) -> Option<String> {
    (numbers.above > 0).then(|| {
        format!(
            "{} of {} requests since took longer than {}; about {} would have been expected.",
            format::count(numbers.above),
            format::count(numbers.requests),
            format::duration(numbers.before_ns),
            format::number(numbers.expected)
        )
    })
}

fn grown(it: &Contributor) -> Option<Grown<'_>> {
    let (name, under) = it.path.split_last()?;
    let (before, after) = it.per_request_ns;
    let category = Category::ALL
        .into_iter()
        .find(|known| known.id() == it.category);
    let category = category.unwrap_or(Category::Unattributed);
    Some(Grown {
        name,
        under: under.join(" › "),
        category: (category_bar::class(&category), category.name()),
        before: format::duration(before.max(0) as u64),
        after: format::duration(after.max(0) as u64),
        change: format::change(after.saturating_sub(before)),
        is_longer: after > before,
        calls: [it.calls.0, it.calls.1].map(format::number),
        share: format::percent(it.share),
        examples: examples(&it.examples),
        it,
    })
}

impl Grown<'_> {
    /// It is made more or less often, so that it matters.
    fn has_other_calls(&self) -> bool {
        let (before, after) = self.it.calls;
        (after - before).abs() > 0.1 * after.max(before)
    }
}

fn looked_at(explanation: &Explanation) -> String {
    let (before, since) = explanation.looked_at;
    let which = if explanation.of_slow_ones {
        "slow requests, not all,"
    } else {
        "requests"
    };
    format!(
        "{} {which} from before and {} since were looked at span by span",
        format::count(before),
        format::count(since)
    )
}

/// What does not look like ids leads nowhere.
fn examples(stored: &[(String, String)]) -> Vec<(String, String)> {
    let is_hex =
        |it: &str, length: usize| it.len() == length && it.bytes().all(|it| it.is_ascii_hexdigit());
    stored
        .iter()
        .filter(|(trace, span)| is_hex(trace, 32) && is_hex(span, 16))
        .take(EXAMPLES_MAX)
        .map(|(trace, span)| {
            (
                format!("/traces/{trace}?span={span}"),
                trace[..8].to_owned(),
            )
        })
        .collect()
}

fn percentile(it: &collector::regression::evidence::Percentile) -> PercentileRow {
    PercentileRow {
        name: percentile_name(it.quantile),
        before: format::duration(it.before_ns),
        after: format::duration(it.after_ns),
        before_ns: it.before_ns,
        after_ns: it.after_ns,
        is_certain: it.is_certain,
        // Less is what the sketches' bins make of the same.
        is_worse: it.is_certain && it.after_ns as f64 > it.before_ns as f64 * 1.03,
    }
}

fn load(numbers: &Numbers) -> [(&'static str, String, String); 2] {
    let percent = |it: f64| format!("{} %", format::percent(it));
    let [before, after] = format::rates([numbers.rates.0, numbers.rates.1]);
    [
        ("Requests", before, after),
        (
            "Failed",
            percent(numbers.error_rates.0),
            percent(numbers.error_rates.1),
        ),
    ]
}

fn section(it: &ShownRegression, paths: &CallPaths, zoom: Option<&str>) -> Section {
    let empty = [paths.base.as_ref(), Some(&paths.of)]
        .into_iter()
        .flatten()
        .find(|it| it.counted.profile.nodes.is_empty());
    let nothing = empty.map(|it| format!("No call paths of {} are kept.", it.name));
    let address = format!("/regressions/{}", it.id);
    Section::at(address, paths, Measure::Critical, zoom, nothing)
}

fn chart_text(it: &ShownRegression, chart: &LineChart) -> String {
    let (Some(first), Some(last)) = (chart.points.first(), chart.points.last()) else {
        return "No requests are kept of this time".to_owned();
    };
    let numbers = &it.numbers;
    format!(
        "P50, P90, P95 and P99 of {} from {} to {}. Since {} {} is {}, before {}.",
        it.endpoint.name,
        first.at(),
        last.at(),
        format::at(ms_to_ns(it.began_ms)),
        percentile_name(numbers.quantile),
        format::duration(numbers.after_ns),
        format::duration(numbers.before_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Site;
    use axum::body::Body;
    use axum::http::Request;
    use scraper::{Html, Selector};
    use serde_json::{Value, json};

    const ID: &str = "00000000-0000-0000-0000-000000000007";

    async fn run(site: &Site, sql: &'static str) {
        sqlx::query(sql).execute(site.store.pool()).await.unwrap();
    }

    async fn site(kind: &str) -> Site {
        let site = Site::on(collector::testing::store().await);
        run(&site, "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod')").await;
        run(
            &site,
            "insert into culprit.endpoints (service_id, name) values (1, 'POST /checkout')",
        )
        .await;
        run(
            &site,
            "insert into culprit.versions (service_id, version) values (1, '1.0'), (1, '1.1')",
        )
        .await;
        run(
            &site,
            "insert into culprit.deployments (service_id, version, previous, at, source)
             values (1, '1.1', '1.0', now() - interval '40 minutes', 'seen')",
        )
        .await;
        let numbers = json!({"quantile": 0.99, "before_ns": 180_000_000, "after_ns": 420_000_000,
            "base_requests": 1204, "requests": 310, "p_value": 3.1e-7, "above": 31, "expected": 3.1,
            "quantiles": [{"quantile": 0.5, "before_ns": 90_000_000, "after_ns": 91_000_000, "is_certain": true},
                {"quantile": 0.99, "before_ns": 180_000_000, "after_ns": 420_000_000, "is_certain": false}],
            "rates": [2.0, 2.5], "error_rates": [0.0, 0.01], "notes": ["a quarter more load"]});
        let trace = "0123456789abcdef0123456789abcdef";
        let explanation = json!({"looked_at": [50, 40], "of_slow_ones": true, "change_ns": 211_000_000,
            "contributors": [{"path": ["POST /checkout", "select … from prices"], "category": "database",
                "per_request_ns": [3_000_000, 214_000_000], "calls": [1.0, 1.0], "share": 0.06,
                "examples": [[trace, "00000000000000ff"]]}],
            "examples": [[trace, "00000000000000ff"], ["javascript:alert(1)", "x"]],
            "base_examples": [[trace, "00000000000000fe"]]});
        let deployment = (kind == "deployment").then_some(1);
        let version = |it: i32| (kind == "deployment").then_some(it);
        sqlx::query(
            "insert into culprit.regressions (id, endpoint_id, kind, deployment_id, state, severity, title, began_at,
                 detected_at, base_version_id, base_from, base_to, version_id, numbers, explanation)
             values ($1::uuid, 1, $2, $3, 'open', 2, 'POST /checkout got slower', now() - interval '39 minutes', now(),
                 $4, now() - interval '90 minutes', now() - interval '40 minutes', $5, $6, $7)",
        )
        .bind(ID)
        .bind(kind)
        .bind(deployment)
        .bind(version(1))
        .bind(version(2))
        .bind(numbers)
        .bind(explanation)
        .execute(site.store.pool())
        .await
        .unwrap();
        site
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let text = |it: scraper::ElementRef| {
            let text: String = it.text().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        html.select(&selector).map(text).collect()
    }

    fn links(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let link = |it: scraper::ElementRef| it.attr("href").unwrap_or_default().to_owned();
        html.select(&selector).map(link).collect()
    }

    async fn page(site: &Site) -> Html {
        Html::parse_document(&site.page(&format!("/regressions/{ID}")).await)
    }

    #[tokio::test]
    async fn the_first_screen_says_what_since_when_after_what_how_sure_and_why() {
        let html = page(&site("deployment").await).await;
        let first = texts(&html, ".first").join(" ");
        for words in [
            "P99 went from 180 ms to 420 ms (× 2.33): 1,204 requests before, 310 since.",
            "(39 min ago)",
            "1.1 of shop, deployed",
            "after 1.0",
            "Very sure that this is no chance.",
            "31 of 310 requests since took longer than 180 ms; about 3.1 would have been expected.",
            "select … from prices under POST /checkout: 3 ms → 214 ms per request, in 6 % of requests",
            "a quarter more load",
        ] {
            assert!(first.contains(words), "{words}: {first}");
        }
        let traces = links(&html, ".first a.trace");
        assert_eq!(
            traces,
            [
                "/traces/0123456789abcdef0123456789abcdef?span=00000000000000ff",
                "/traces/0123456789abcdef0123456789abcdef?span=00000000000000fe"
            ]
        );
        assert_eq!(texts(&html, ".marks li").len(), 2);
        let compare = links(&html, "a.compare");
        assert!(
            compare[0].starts_with("/compare?endpoint_id=1&version=1.1&"),
            "{compare:?}"
        );
        let titles = Selector::parse("[title]").unwrap();
        let mut titles = html.select(&titles).filter_map(|it| it.attr("title"));
        assert!(titles.any(|it| it.starts_with("p = 3.1e-7")));
    }

    #[tokio::test]
    async fn sides_that_hours_cannot_tell_apart_say_so() {
        let html = page(&site("sudden").await).await;
        let first = texts(&html, ".first").join(" ");
        assert!(first.contains("Without a deployment"), "{first}");
        // Within 90 minutes there are at most three hours, and the sides meet in one: mostly they are apart.
        assert!(!texts(&html, "#paths").is_empty());
    }

    async fn post(site: &Site, address: &str, body: &str) -> (axum::http::StatusCode, Value) {
        let request = Request::post(address).body(Body::from(body.to_owned()));
        site.send(request.unwrap()).await
    }

    #[tokio::test]
    async fn people_accept_and_resolve_by_form_and_over_the_api() {
        let site = site("deployment").await;
        let form = format!("/regressions/{ID}/accept");
        assert_eq!(post(&site, &form, "author=me").await.0, 400);
        assert_eq!(post(&site, &form, "reason=%00").await.0, 400);
        let (status, _) = post(&site, &form, "reason=Stronger+<b>crypto&author=me").await;
        assert_eq!(status, 303);
        let html = page(&site).await;
        let done = texts(&html, ".done li").join(" ");
        assert!(
            done.contains("accepted by me") && done.contains("Stronger <b>crypto"),
            "{done}"
        );
        assert!(texts(&html, "form[method=post]").is_empty());
        assert_eq!(post(&site, &form, "reason=again").await.0, 409);
        let api = format!("/api/v1/regressions/{ID}/resolve");
        assert_eq!(post(&site, &api, "").await.0, 409);
        run(&site, "update culprit.regressions set state = 'open'").await;
        assert_eq!(post(&site, &api, "{\"auther\": \"x\"}").await.0, 400);
        let (status, json) = post(&site, &api, "{\"author\": \"x\"}").await;
        assert_eq!(
            (status, &json["state"]),
            (axum::http::StatusCode::OK, &json!("resolved"))
        );
        assert_eq!(json["done"].as_array().unwrap().len(), 2);
        let nobody = "/api/v1/regressions/00000000-0000-0000-0000-000000000000/accept";
        assert_eq!(post(&site, nobody, "{\"reason\": \"x\"}").await.0, 404);
        assert_eq!(post(&site, "/regressions/x/resolve", "").await.0, 404);
    }

    #[test]
    fn sureness_is_told_in_words() {
        assert_eq!(sure(0.0).1.split(':').next(), Some("p < 1e-99"));
        assert!(sure(0.004).0.starts_with("Probable"));
        assert!(sure(1e-4).0.starts_with("Sure"));
    }
}
