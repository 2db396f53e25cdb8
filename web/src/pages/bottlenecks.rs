//! What do I fix first? The findings, by what they cost those who wait.

use askama::Template;
use axum::extract::{self, RawQuery};
use axum::response::{IntoResponse, Redirect, Response};
use collector::life::State;

use crate::AppState;
use crate::charts::{self, Line};
use crate::csv::{self, field};
use crate::format;
use crate::pages::context::{Choice, Context, Selectable, owned, selectable};
use crate::pages::{Frame, PageError, regressions, render};
use crate::range::Filters;
use crate::ranking::{self, Change, Ranking, Row, Sort};

/// Rows shown at most: nobody fixes more at once. The page says how many there are; a filter or the
/// JSON shows the others.
const ROWS_MAX: usize = 200;

/// Findings that the bar names; the others share a piece.
const PARTS_NAMED: usize = 4;

/// Points of a finding's cost over time.
const SPARK_POINTS: u64 = 48;

/// A fix is told in the table if its first sentence has at most so many characters.
const FIX_CHARS_MAX: usize = 110;

/// The page.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn show(
    extract::State(state): extract::State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let filters = Filters::parse(query.as_deref())?;
    let now_ns = format::now_ns();
    let ranking = ranking::load(&state.store, &filters, now_ns).await?;
    if ranking.choices.services.is_empty() && !state.store.has_endpoints().await? {
        return Ok(Redirect::to("/start").into_response());
    }
    let slower = regressions::strip(&state.store, &filters, None, now_ns).await?;
    Ok(render(&Page {
        slower,
        ..page(&filters, &ranking)
    }))
}

/// The list as comma-separated values: all of it, in the page's order.
///
/// # Errors
/// As the page.
pub async fn csv(
    extract::State(state): extract::State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let filters = Filters::parse(query.as_deref())?;
    let ranking = ranking::load(&state.store, &filters, format::now_ns()).await?;
    Ok(csv::file("bottlenecks.csv", csv_text(&ranking)))
}

#[derive(Template)]
#[template(path = "bottlenecks.html")]
struct Page {
    frame: Frame,
    context: Context,
    /// What got slower.
    slower: regressions::Strip,
    lead: Lead,
    /// In large type.
    kpis: Vec<Kpi>,
    /// The bar.
    parts: Vec<Part>,
    /// The bar in words.
    parts_title: String,
    /// States to choose from.
    states: Vec<Choice>,
    /// Detectors to choose from.
    detectors: Vec<Selectable>,
    /// What the detectors' form carries along.
    hidden: Vec<(String, String)>,
    /// The table's head.
    columns: Columns,
    /// The table.
    rows: Vec<RowView>,
    /// Findings that the table has no room for.
    more: usize,
    /// Orders to choose from: whether it is chosen, in the address, in the list, how it is computed.
    orders: Vec<(bool, &'static str, &'static str, &'static str)>,
    /// The one that is chosen: its name and how it is computed.
    order: (&'static str, &'static str),
    /// The same as JSON.
    json: String,
    /// The same as comma-separated values.
    csv: String,
    /// Where all filters are off.
    unfiltered: Option<String>,
    /// What was looked at: `1,234 requests of 7 endpoints`.
    looked_at: String,
    /// Detectors that looked.
    looking: Vec<&'static str>,
}

/// The sentences on top.
struct Lead {
    /// Waiting per hour.
    waiting: String,
    /// How it is counted, with exact numbers.
    waiting_title: String,
    /// The avoidable part of it; empty if there is none.
    avoidable: String,
    /// `All 1,234 requests of the last hour together.`
    all: String,
    /// The costliest finding: link, title, endpoint, percent of the avoidable part.
    worst: Option<(String, String, String, String)>,
}

/// A number in large type.
struct Kpi {
    name: &'static str,
    number: String,
    unit: &'static str,
    exact: String,
}

/// A piece of the bar.
struct Part {
    class: String,
    x: String,
    width: String,
    /// On the piece; empty if it is too small.
    label: String,
    /// In the key.
    name: String,
    cost: String,
}

/// The sortable columns' links and which of them counts.
struct Columns {
    sort: String,
    links: Vec<(&'static str, String)>,
}

impl Columns {
    fn new(filters: &Filters) -> Columns {
        let ids = ["cost", "p99", "p50", "p95", "requests", "first_seen"];
        let link = |id| {
            (
                id,
                filters.link("/", &[("sort", if id == "cost" { "" } else { id })]),
            )
        };
        let sort = if filters.sort.is_empty() {
            "cost"
        } else {
            &filters.sort
        };
        Columns {
            sort: sort.to_owned(),
            links: ids.into_iter().map(link).collect(),
        }
    }

    fn link(&self, id: &str) -> &str {
        self.links
            .iter()
            .find(|it| it.0 == id)
            .map_or("", |it| &it.1)
    }

    fn is(&self, id: &str) -> bool {
        self.sort == id
    }
}

/// A finding as the table shows it.
struct RowView {
    rank: usize,
    link: String,
    title: String,
    /// The first sentence of the fix, if it is short: is it code? What?
    fix: Vec<(bool, String)>,
    severity: &'static str,
    detector: String,
    detector_title: String,
    service: String,
    environment: String,
    endpoint: String,
    cost: String,
    cost_unit: &'static str,
    cost_title: String,
    /// Of the largest cost.
    bar: String,
    percent: String,
    /// Against the period before.
    change: Option<ChangeView>,
    p99: String,
    p99_fixed: String,
    p99_title: String,
    p50: String,
    p95: String,
    requests: String,
    requests_title: String,
    affected: String,
    /// None while there is a single point: that is no line.
    spark: Option<Line>,
    first_seen: String,
    first_seen_title: String,
    version: String,
    state: String,
    /// How the state is drawn.
    state_class: &'static str,
    /// Since when, exactly.
    state_title: String,
    /// `came back twice`, of those that are open again.
    regressed: String,
}

/// How a cost changed.
struct ChangeView {
    /// `↑ 34 %`
    text: String,
    /// What it is compared with, exactly.
    title: String,
    /// Much worse.
    is_worse: bool,
}

/// Below this share more is no news: requests come and go.
const WORSE_MIN: f64 = 0.1;

/// From so many times on, percent are hard to read.
const TIMES_MIN: f64 = 10.0;

fn change_view(filters: &Filters, row: &Row) -> Option<ChangeView> {
    let before_ns = row.before_ns?;
    let (text, is_worse) = match row.change()? {
        Change::New => ("nothing before".to_owned(), true),
        Change::By(share) if share + 1.0 >= TIMES_MIN => (
            format!("↑ ×{}", format::number((share + 1.0).round())),
            true,
        ),
        Change::By(share) => {
            let percent = format::count((share.abs() * 100.0).round() as i64);
            let arrow = if share >= 0.0 { "↑" } else { "↓" };
            (format!("{arrow} {percent} %"), share > WORSE_MIN)
        }
    };
    let period = filters.range.sentence().trim_start_matches("last ");
    Some(ChangeView {
        text,
        title: format!(
            "{} per hour in the {period} before, {} now",
            format::duration(before_ns),
            format::duration(row.cost_ns)
        ),
        is_worse,
    })
}

fn page(filters: &Filters, ranking: &Ranking) -> Page {
    let most = ranking
        .rows
        .iter()
        .map(|it| it.cost_ns)
        .max()
        .unwrap_or_default();
    let rows = ranking
        .rows
        .iter()
        .take(ROWS_MAX)
        .map(|it| row_view(filters, ranking, it, most));
    let parts = parts(ranking);
    let in_words: Vec<String> = parts
        .iter()
        .map(|it| format!("{} {}", it.name, it.cost))
        .collect();
    // The address was read before: there is such an order.
    let chosen = Sort::parse(&filters.sort).unwrap_or_default();
    Page {
        frame: Frame { current: "/" },
        slower: regressions::Strip::default(),
        context: Context::new("/", filters, &ranking.choices, ranking.covered),
        lead: lead(filters, ranking),
        kpis: kpis(ranking),
        parts_title: format!("Waiting per hour: {}", in_words.join(", ")),
        parts,
        states: states(filters, ranking),
        detectors: detectors(filters, ranking),
        hidden: owned(filters.hidden(&["detector", "sort"])),
        orders: Sort::ALL.map(|it| order(it, chosen)).to_vec(),
        order: (chosen.title(), chosen.formula()),
        csv: filters.link("/bottlenecks.csv", &[]),
        columns: Columns::new(filters),
        rows: rows.collect(),
        more: ranking.rows.len().saturating_sub(ROWS_MAX),
        json: filters.link("/api/v1/bottlenecks", &[]),
        unfiltered: filters
            .is_narrowed()
            .then(|| format!("/?{}", filters.range.query().trim_start_matches('&'))),
        looked_at: looked_at(ranking),
        looking: analyzer::detectors::ALL.iter().map(|it| it.title).collect(),
    }
}

fn order(it: Sort, chosen: Sort) -> (bool, &'static str, &'static str, &'static str) {
    let id = if it == Sort::Cost { "" } else { it.id() };
    (it == chosen, id, it.title(), it.formula())
}

fn looked_at(ranking: &Ranking) -> String {
    let plural = |count: i64, word: &str| {
        format!(
            "{} {word}{}",
            format::count(count),
            if count == 1 { "" } else { "s" }
        )
    };
    let requests = plural(ranking.totals.requests_of_all, "request");
    format!(
        "{requests} of {}",
        plural(ranking.totals.endpoints as i64, "endpoint")
    )
}

fn lead(filters: &Filters, ranking: &Ranking) -> Lead {
    let (waiting_ns, avoidable_ns) = (
        ranking.waiting_per_hour_ns(),
        ranking.avoidable_per_hour_ns(),
    );
    let totals = &ranking.totals;
    let covered = format::duration(ranking.covered.ns());
    let worst = ranking
        .rows
        .iter()
        .find(|it| it.rank == 1)
        .filter(|it| it.cost_ns > 0);
    Lead {
        waiting: format::duration(waiting_ns),
        waiting_title: format!(
            "The durations of all {} requests that no other traced service made, {} ns, \
             in {covered}, per hour",
            format::count(totals.requests),
            format::count(totals.waiting_ns),
        ),
        avoidable: if avoidable_ns > 0 {
            format::duration(avoidable_ns)
        } else {
            String::new()
        },
        all: format!(
            "All {} requests of the {} together{}.",
            format::count(totals.requests),
            filters.range.sentence(),
            if filters.is_narrowed() {
                ", as far as the filters let them through"
            } else {
                ""
            },
        ),
        worst: worst.map(|it| {
            let share = it.cost_ns as f64 / avoidable_ns.max(1) as f64;
            let percent = format::percent(share.min(1.0));
            (
                finding_link(filters, it),
                it.facts.title.clone(),
                it.facts.endpoint.clone(),
                percent,
            )
        }),
    }
}

fn finding_link(filters: &Filters, row: &Row) -> String {
    let only_range = Filters {
        range: filters.range,
        ..Filters::default()
    };
    only_range.link(&format!("/bottlenecks/{}", row.facts.id), &[])
}

fn kpis(ranking: &Ranking) -> Vec<Kpi> {
    let totals = &ranking.totals;
    let covered = format::duration(ranking.covered.ns());
    let (rate, unit) = format::rate_parts(ranking.covered.per_second(totals.requests));
    let mut kpis = vec![Kpi {
        name: "Requests",
        number: rate,
        unit,
        exact: format!("{} requests in {covered}", format::count(totals.requests)),
    }];
    for (name, q) in [("P50", 0.5), ("P95", 0.95), ("P99", 0.99)] {
        let (number, unit, exact) = match totals.latency.quantile(q) {
            Some(ns) => {
                let (number, unit) = format::duration_parts(ns);
                (
                    number,
                    unit,
                    format!("{} ns, within 1.1 %", format::count(ns as i64)),
                )
            }
            None => ("–".into(), "", "no requests".into()),
        };
        kpis.push(Kpi {
            name,
            number,
            unit,
            exact,
        });
    }
    let share = totals.errors.max(0) as f64 / totals.requests.max(1) as f64;
    let exact = format!(
        "{} of {} requests",
        format::count(totals.errors),
        format::count(totals.requests)
    );
    kpis.push(Kpi {
        name: "Errors",
        number: format::percent(share),
        unit: "%",
        exact,
    });
    kpis
}

/// All waiting, cut into the costliest findings, the others, and what no finding explains.
fn parts(ranking: &Ranking) -> Vec<Part> {
    let mut ranked: Vec<&Row> = ranking.rows.iter().filter(|it| it.cost_ns > 0).collect();
    ranked.sort_by_key(|it| it.rank);
    let (named, others) = ranked.split_at(ranked.len().min(PARTS_NAMED));
    let mut pieces: Vec<(String, String, u64)> = Vec::new();
    for it in named {
        pieces.push((
            format!("a{}", it.rank),
            it.facts.endpoint.clone(),
            it.cost_ns,
        ));
    }
    if !others.is_empty() {
        let cost_ns = others
            .iter()
            .fold(0_u64, |sum, it| sum.saturating_add(it.cost_ns));
        pieces.push(("a5".into(), format!("{} more", others.len()), cost_ns));
    }
    let found = pieces
        .iter()
        .fold(0_u64, |sum, it| sum.saturating_add(it.2));
    let rest_ns = ranking.waiting_per_hour_ns().saturating_sub(found);
    pieces.push(("rest".into(), "nothing found".into(), rest_ns));
    // Findings of services that ask each other may overlap: the pieces are of their sum then.
    let whole = (found.saturating_add(rest_ns)).max(1) as f64;
    let mut x = 0.0;
    let part = |(class, name, cost_ns): (String, String, u64)| {
        let share = cost_ns as f64 / whole;
        let from = x;
        x += share;
        let label = class
            .strip_prefix('a')
            .filter(|_| share > 0.02 && class != "a5");
        Part {
            label: label.unwrap_or_default().to_owned(),
            x: format::width(from),
            width: format::width(share),
            cost: format::duration(cost_ns),
            class,
            name,
        }
    };
    pieces.into_iter().map(part).collect()
}

/// States to choose from, with how many findings are in them. Those that most sites never have are
/// offered once there is one.
fn states(filters: &Filters, ranking: &Ranking) -> Vec<Choice> {
    let count = |name: &str| ranking.states.get(name).copied().unwrap_or_default();
    let choice = |id: &str, name: &str, count: usize| Choice {
        link: filters.link("/", &[("state", id)]),
        title: format!("{name} {count}"),
        current: filters.state == id,
    };
    let active = State::SHOWN.iter().map(|it| count(it.name())).sum();
    let mut choices = vec![choice("", "Active", active)];
    for (state, title) in [
        (State::New, "New"),
        (State::Regressed, "Came back"),
        (State::Open, "Open"),
        (State::Acknowledged, "Acknowledged"),
        (State::Ignored, "Ignored"),
        (State::Resolved, "Resolved"),
    ] {
        let choice = choice(state.name(), title, count(state.name()));
        let always = [State::New, State::Open, State::Resolved].contains(&state);
        if always || choice.current || count(state.name()) > 0 {
            choices.push(choice);
        }
    }
    if !choices.iter().any(|it| it.current) {
        let states = ranking::states(&filters.state).unwrap_or_default();
        let sum = states.iter().map(|it| count(it.name())).sum();
        let title = if filters.state == "all" {
            "All"
        } else {
            "Chosen"
        };
        choices.push(choice(&filters.state, title, sum));
    }
    choices
}

fn detectors(filters: &Filters, ranking: &Ranking) -> Vec<Selectable> {
    let mut offered = selectable(ranking.choices.detectors.iter(), &filters.detector);
    for it in &mut offered {
        it.title = ranking::detector_title(&it.value).to_owned();
    }
    offered
}

fn row_view(filters: &Filters, ranking: &Ranking, row: &Row, most: u64) -> RowView {
    let facts = &row.facts;
    let covered = ranking.covered;
    let (cost, cost_unit) = format::duration_parts(row.cost_ns);
    let quantile = |q| {
        row.endpoint
            .latency
            .quantile(q)
            .map_or("–".into(), format::ms)
    };
    let (p99, p99_fixed, p99_title) = p99(row);
    let spark: Vec<f64> = row
        .cost_over_time(covered, SPARK_POINTS)
        .iter()
        .map(|it| it.per_hour_ns as f64)
        .collect();
    RowView {
        rank: row.rank,
        link: finding_link(filters, row),
        title: facts.title.clone(),
        fix: format::code_pieces(first_sentence(
            facts.evidence["fix"].as_str().unwrap_or_default(),
        )),
        severity: row.severity(),
        detector: facts.detector.clone(),
        detector_title: row.detector_title().to_owned(),
        service: facts.service.clone(),
        environment: facts.environment.clone(),
        endpoint: facts.endpoint.clone(),
        cost,
        cost_unit,
        cost_title: cost_title(row, covered.ns()),
        bar: format::width(row.cost_ns as f64 / most.max(1) as f64),
        percent: format::percent(row.share),
        change: change_view(filters, row),
        p99,
        p99_fixed,
        p99_title,
        p50: quantile(0.5),
        p95: quantile(0.95),
        requests: format::count(per_hour(ranking, row.endpoint.requests)),
        requests_title: format!(
            "{} requests in {}, {} of them affected in {} traces",
            format::count(row.endpoint.requests),
            format::duration(covered.ns()),
            format::count(row.hits.requests),
            format::count(row.hits.traces),
        ),
        affected: format::percent(row.affected()),
        spark: (spark.len() > 1).then(|| charts::sparkline(&spark)),
        first_seen: format::ago(facts.first_seen_ns, format::now_ns()),
        first_seen_title: format::at(facts.first_seen_ns),
        version: facts.version.clone(),
        state: ranking::state_title(&facts.state).to_owned(),
        state_class: state_class(&facts.state),
        state_title: format!("since {}", format::at(facts.state_since_ns)),
        regressed: match (facts.regressed, facts.state.as_str()) {
            (0, _) | (_, "regressed") => String::new(),
            (1, _) => "came back once".into(),
            (times, _) => format!("came back {times} times"),
        },
    }
}

/// How a state is drawn: what needs somebody stands out.
pub fn state_class(state: &str) -> &'static str {
    match State::parse(state) {
        Some(State::New | State::Regressed) => "new",
        Some(State::Resolved) => "good",
        _ => "",
    }
}

fn per_hour(ranking: &Ranking, requests: i64) -> i64 {
    i64::try_from(ranking.covered.per_hour(requests)).unwrap_or(i64::MAX)
}

fn cost_title(row: &Row, covered_ns: u64) -> String {
    format!(
        "What a fix saves on the critical path of {} affected requests (median {}), together {} ns, \
         in {}, per hour: {} ns",
        format::count(row.hits.requests),
        format::duration(row.saved_median_ns()),
        format::count(row.hits.saved_ns),
        format::duration(covered_ns),
        format::count(i64::try_from(row.cost_ns).unwrap_or(i64::MAX)),
    )
}

fn p99(row: &Row) -> (String, String, String) {
    let Some((before, after)) = row.quantile(0.99) else {
        return ("–".into(), "–".into(), "no requests".into());
    };
    let title = format!(
        "P99 of {} over all its requests: {} ns; with what a fix saves taken off each affected one: \
         {} ns. Within 1.1 %.",
        row.facts.endpoint,
        format::count(before as i64),
        format::count(after as i64),
    );
    (format::ms(before), format::ms(after), title)
}

/// The first sentence, with its full stop, if it is short.
/// Empty if it is long.
fn first_sentence(text: &str) -> &str {
    let end = text.find(". ").map_or(text.len(), |at| at + 1);
    let sentence = &text[..end];
    match sentence.chars().count() <= FIX_CHARS_MAX {
        true => sentence,
        false => "",
    }
}

fn csv_text(ranking: &Ranking) -> String {
    let mut text = String::from(
        "rank,id,finding,detector,severity,state,service,environment,endpoint,cost_ns_per_hour,\
         cost_before_ns_per_hour,share_of_waiting,saved_median_ns,requests_affected,endpoint_requests,p50_ns,p95_ns,\
         p99_ns,p99_if_fixed_ns,first_seen,version\r\n",
    );
    let whole = |it: Option<u64>| it.map_or_else(String::new, |it| it.to_string());
    for row in &ranking.rows {
        let facts = &row.facts;
        let quantile = |q| whole(row.endpoint.latency.quantile(q));
        let fields = [
            row.rank.to_string(),
            facts.id.to_string(),
            field(&facts.title),
            field(&facts.detector),
            row.severity().to_owned(),
            field(&facts.state),
            field(&facts.service),
            field(&facts.environment),
            field(&facts.endpoint),
            row.cost_ns.to_string(),
            whole(row.before_ns),
            format!("{:.6}", row.share),
            row.saved_median_ns().to_string(),
            row.hits.requests.to_string(),
            row.endpoint.requests.to_string(),
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            whole(row.quantile(0.99).map(|it| it.1)),
            format::at(facts.first_seen_ns),
            field(&facts.version),
        ];
        text += &fields.join(",");
        text += "\r\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::Sort;
    use crate::ranking::tests::drawn;
    use scraper::{Html, Selector};

    fn shown(query: &str) -> Html {
        let filters = Filters::parse(Some(query)).unwrap();
        let ranking = drawn(&filters, Sort::Cost);
        Html::parse_document(&page(&filters, &ranking).render().unwrap())
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let text = |it: scraper::ElementRef<'_>| {
            it.text()
                .collect::<String>()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        html.select(&selector).map(text).collect()
    }

    #[test]
    fn the_headline_says_what_is_avoidable() {
        let html = shown("");
        assert_eq!(
            texts(&html, "h1"),
            ["Users wait 20 min per hour. 8 min 15 s of it is avoidable."]
        );
        let kpis = texts(&html, ".kpis div").join(" | ");
        assert!(
            kpis.starts_with("Requests50 /min | P50401 ms") && kpis.ends_with("ms | Errors0 %"),
            "{kpis}"
        );
    }

    #[test]
    fn every_row_is_there_and_every_number_has_a_unit() {
        let html = shown("range=24h");
        assert_eq!(texts(&html, "a.t b").len(), 2);
        assert_eq!(texts(&html, ".rank"), ["1", "2"]);
        assert_eq!(texts(&html, ".costcell .v"), ["7 min 30 s", "45 s"]);
        assert_eq!(texts(&html, ".costcell .sub")[0], "37.5 % of all waiting");
        assert!(
            texts(&html, "td[data-l='P99 if fixed']")
                .iter()
                .all(|it| it.ends_with("ms"))
        );
        assert_eq!(texts(&html, ".whole-key li").len(), 3);
    }

    #[test]
    fn a_cost_is_compared_with_the_period_before() {
        let html = shown("");
        assert_eq!(
            texts(&html, ".change"),
            ["↑ 25 % vs. before", "nothing before"]
        );
        let worse = Selector::parse(".change.up").unwrap();
        assert_eq!(html.select(&worse).count(), 2, "coloured from 10 % on");
        let title = html.select(&worse).next().unwrap().attr("title").unwrap();
        assert_eq!(title, "6 min per hour in the hour before, 7 min 30 s now");
        let row = |before_ns: u64| Row {
            before_ns: Some(before_ns),
            cost_ns: 1_000,
            ..Row::default()
        };
        let told = |before_ns| {
            let it = change_view(&Filters::default(), &row(before_ns)).unwrap();
            (it.text, it.is_worse)
        };
        assert_eq!(told(950), ("↑ 5 %".into(), false));
        assert_eq!(told(2_000), ("↓ 50 %".into(), false));
        assert_eq!(told(50), ("↑ ×20".into(), true));
    }

    #[test]
    fn orders_carry_their_formula_and_exports_the_filter() {
        let html = shown("range=24h&service=shop-1&sort=agony");
        assert_eq!(texts(&html, "[name=sort] option").len(), Sort::ALL.len());
        assert_eq!(texts(&html, "[name=sort] [selected]"), ["Agony"]);
        let foot = texts(&html, ".foot").join("");
        assert!(
            foot.contains("Agony = P95 of the endpoint × its requests per hour"),
            "{foot}"
        );
        let ghosts = Selector::parse(".listbar a.ghost").unwrap();
        let links: Vec<_> = html
            .select(&ghosts)
            .filter_map(|it| it.attr("href"))
            .collect();
        let query = "?range=24h&service=shop-1&sort=agony";
        assert_eq!(
            links,
            [
                format!("/bottlenecks.csv{query}"),
                format!("/api/v1/bottlenecks{query}")
            ]
        );
    }

    #[test]
    fn the_csv_has_a_row_per_finding() {
        let text = csv_text(&drawn(&Filters::default(), Sort::Cost));
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 4, "a head, two rows, an end");
        assert!(
            lines[1].starts_with("1,1,\"31 × select authors\",\"n-plus-one-query\",info,\"new\""),
            "{text}"
        );
        assert!(
            lines[1].contains(",450000000000,360000000000,0.375000,"),
            "{text}"
        );
        let columns = lines[0].split(',').count();
        assert_eq!(lines[1].split(',').count(), columns);
    }

    #[test]
    fn states_are_offered_with_their_counts() {
        let choices = |query| texts(&shown(query), "[aria-label=State] a");
        assert_eq!(choices(""), ["Active 2", "New 1", "Open 1", "Resolved 2"]);
        let chosen = choices("state=acknowledged");
        assert!(chosen.contains(&"Acknowledged 0".into()), "{chosen:?}");
        assert_eq!(choices("state=new,resolved").last().unwrap(), "Chosen 3");
        let current = texts(&shown("state=open"), "[aria-label=State] [aria-current]");
        assert_eq!(current, ["Open 1"]);
        assert_eq!(texts(&shown("state=open"), "td .pill"), ["open"]);
    }

    #[test]
    fn hostile_names_are_text() {
        let html = shown("service=%3Cscript%3Ealert(2)%3C/script%3E\"");
        let others = Selector::parse("script:not([src^='/static/'])").unwrap();
        assert_eq!(html.select(&others).count(), 0, "only ours");
        assert!(texts(&shown(""), "a.t b").contains(&"<script>alert(1)</script>".to_owned()));
    }

    #[test]
    fn without_findings_it_says_what_was_looked_at() {
        let text = texts(&shown("detector=none"), "main").join("");
        assert!(text.contains("200 requests of 2 endpoints"), "{text}");
    }

    #[test]
    fn long_fixes_are_for_the_findings_page() {
        assert_eq!(
            first_sentence("Load them in bulk. Then rest."),
            "Load them in bulk."
        );
        assert_eq!(first_sentence(&"x".repeat(200)), "");
        assert_eq!(first_sentence("äöü"), "äöü");
    }
}
