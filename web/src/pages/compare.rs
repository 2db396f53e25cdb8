//! Two sets of requests beside each other: what became slower or faster, by how much, where, and how
//! sure that is.

use analyzer::category::Category;
use analyzer::profile::Measure;
use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::deltas::MinuteDelta;
use collector::store::compared::SideFinding;
use std::collections::BTreeMap;

use crate::category_bar::{self, Parts};
use crate::compared::{self, Asked, Compared, EndpointPair, REQUESTS_NEEDED, Side, StatementPair};
use crate::endpoint_numbers;
use crate::format;
use crate::line_chart::{PERCENTILES, percentiles};
use crate::pages::call_paths::{self, Link, Requests, Section, version_text};
use crate::pages::context::{Selectable, selectable};
use crate::pages::{Frame, PageError, render};
use crate::timestamps;
use crate::{AppState, range};

/// Services to choose from at most.
const SERVICES_MAX: i64 = 500;

/// Endpoints of a service that are listed, those first whose requests take the most time more or less.
const ENDPOINTS_MAX: usize = 100;

/// Findings listed on a side at most.
const FINDINGS_MAX: usize = 20;

/// The page.
///
/// # Errors
/// There is no such endpoint or service, the address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let store = &state.store;
    let Some(asked) = Asked::parse(store, query.as_deref(), format::now_ns()).await? else {
        let services = store.services_named("", SERVICES_MAX).await?;
        let title = |it: &collector::store::services::ServiceName| {
            let parts = [&*it.name, &it.environment, &it.namespace];
            let parts: Vec<&str> = parts.into_iter().filter(|it| !it.is_empty()).collect();
            (it.id, parts.join(", "))
        };
        return Ok(render(&ChoosePage {
            frame: FRAME,
            services: services.iter().map(title).collect(),
        }));
    };
    let service_id = asked.service().id;
    let endpoints = store.service_endpoints(service_id).await?;
    let versions = store.service_versions(&[service_id]).await?;
    let versions = versions.into_iter().map(|it| it.version).collect();
    let compared = compared::read(store, asked).await?;
    Ok(render(&page(&compared, endpoints, versions)))
}

const FRAME: Frame = Frame {
    current: "/deployments",
};

#[derive(Template)]
#[template(path = "compare_choose.html")]
struct ChoosePage {
    frame: Frame,
    /// Id, name.
    services: Vec<(i32, String)>,
}

#[derive(Template)]
#[template(path = "compare.html")]
struct Page<'a> {
    frame: Frame,
    service_id: i32,
    service: &'a str,
    environment: &'a str,
    /// Id, name.
    endpoint: Option<(i32, &'a str)>,
    /// What is to know, in a sentence.
    verdict: String,
    /// Both sides, base first.
    sides: [SideView; 2],
    /// What a reader has to keep in mind.
    notes: Vec<String>,
    /// Both sides have requests.
    is_comparable: bool,
    /// Percentiles, requests, errors.
    numbers: Vec<Row>,
    /// Critical-path time per request by category.
    categories: Vec<Row>,
    /// The same as bars on one scale: parts, width in percent.
    bars: Vec<(Parts, f64)>,
    /// Calls per request.
    calls: Vec<Row>,
    /// Of a service.
    endpoints: Vec<EndpointRow<'a>>,
    more_endpoints: usize,
    findings: [FindingList<'a>; 2],
    /// Findings on both sides.
    both: usize,
    statements: Vec<StatementRow<'a>>,
    has_more_statements: bool,
    /// The flame graph.
    section: Option<Section>,
    /// Why there are no call paths.
    missing: Option<&'a str>,
    /// Of the form, base last.
    fields: [FieldsView; 2],
    endpoint_choices: Vec<Selectable>,
    /// Swapped, a day earlier, a week earlier.
    links: Vec<Link>,
    json: String,
}

/// A side in words.
struct SideView {
    /// `version 1.1`, or the time.
    name: String,
    /// For a column's head.
    short: String,
    requests: String,
}

/// What a form asks of a side.
struct FieldsView {
    legend: &'static str,
    /// The parameters: version, from, to.
    names: [&'static str; 3],
    versions: Vec<Selectable>,
    from: String,
    to: String,
}

/// A number on both sides.
struct Row {
    name: String,
    /// The class of a colour, or empty.
    swatch: &'static str,
    cells: [Cell; 2],
    change: String,
    /// `up`, `down` or nothing.
    class: &'static str,
}

struct Cell {
    text: String,
    title: String,
    /// Too few requests.
    is_uncertain: bool,
}

struct EndpointRow<'a> {
    name: &'a str,
    link: String,
    requests: [String; 2],
    percentiles: Vec<Row>,
    errors: [String; 2],
}

struct FindingList<'a> {
    id: &'static str,
    title: &'static str,
    rows: Vec<&'a SideFinding>,
    more: usize,
    /// Not that there is nothing, but that nobody looked.
    is_unknown: bool,
}

struct StatementRow<'a> {
    statement: &'a StatementPair,
    calls: [String; 2],
    p95: [String; 2],
    change: String,
    class: &'static str,
    /// `new` or `gone`.
    state: &'static str,
}

fn page<'a>(it: &'a Compared, endpoints: BTreeMap<i32, String>, versions: Vec<String>) -> Page<'a> {
    let asked = &it.asked;
    let endpoint = asked.endpoint();
    let sums = [&it.sides[0].sums, &it.sides[1].sums];
    let sides = [side(it, 0), side(it, 1)];
    let by_hours = it.by_hours.as_ref().and_then(|it| it.as_ref().ok());
    let numbers = numbers(it);
    let shown = it.endpoints.iter().filter(|_| endpoint.is_none());
    let mut rows: Vec<EndpointRow> = shown.map(|pair| endpoint_row(asked, pair)).collect();
    let more_endpoints = rows.len().saturating_sub(ENDPOINTS_MAX);
    rows.truncate(ENDPOINTS_MAX);
    Page {
        frame: FRAME,
        service_id: asked.service().id,
        service: &asked.service().name,
        environment: &asked.service().environment,
        endpoint: endpoint.map(|it| (it.id, &*it.name)),
        verdict: verdict(sums, endpoint.is_none()),
        notes: notes(it),
        is_comparable: sums.iter().all(|it| it.requests > 0),
        categories: categories(sums),
        bars: bars(sums),
        calls: calls(sums),
        endpoints: rows,
        more_endpoints,
        findings: [
            findings("new", "New findings", &it.new, sums[0].requests),
            findings("gone", "Gone findings", &it.gone, sums[1].requests),
        ],
        both: it.both,
        statements: by_hours
            .map_or_else(Vec::new, |it| it.statements.iter().map(statement).collect()),
        has_more_statements: by_hours.is_some_and(|it| it.has_more_statements),
        section: by_hours.map(|it| section(asked, it)),
        missing: match &it.by_hours {
            Some(Err(why)) => Some(why),
            _ => None,
        },
        fields: [
            fields(
                "What is looked at",
                ["version", "from", "to"],
                &asked.side,
                &versions,
            ),
            fields(
                "Compared with",
                ["base", "base_from", "base_to"],
                &asked.base,
                &versions,
            ),
        ],
        endpoint_choices: endpoint_choices(&endpoints, endpoint.map(|it| it.id)),
        links: links(asked),
        json: asked.link("/api/v1/compare", endpoint.map(|it| it.id)),
        sides,
        numbers,
    }
}

fn side(it: &Compared, at: usize) -> SideView {
    let side = [&it.asked.base, &it.asked.side][at];
    SideView {
        name: side.name(it.asked.now_ns),
        short: match &side.version {
            Some(version) => version_text(version).to_owned(),
            None => side.time(it.asked.now_ns),
        },
        requests: format::count(it.sides[at].sums.requests),
    }
}

fn notes(it: &Compared) -> Vec<String> {
    let mut notes = Vec::new();
    if it.asked.overlap() {
        notes.push("The two overlap: what lies in both counts on both sides.".to_owned());
    }
    for (at, side) in [&it.asked.base, &it.asked.side].into_iter().enumerate() {
        if let Some(counted) = it.counted(at) {
            notes.push(format!(
                "Minutes older than six hours are kept by the hour: of {} the hours {counted} are counted.",
                side.name(it.asked.now_ns)
            ));
        }
    }
    if let Some(Ok(by_hours)) = &it.by_hours {
        notes.extend(hours_note(it, by_hours));
    }
    notes
}

/// Call paths and statements are of other minutes than everything else on the page.
fn hours_note(it: &Compared, by_hours: &compared::ByHours) -> Option<String> {
    let paths = &by_hours.paths;
    let sides = [
        (&it.asked.base, paths.base.as_ref()),
        (&it.asked.side, Some(&paths.of)),
    ];
    let differs = |(side, of): (&Side, Option<&Requests>)| {
        let of = of?;
        let (from, to) = (
            of.hours.start.saturating_mul(60),
            of.hours.end.saturating_mul(60),
        );
        // What is yet to come is in no hour.
        let now = i32::try_from(it.asked.now_ns / range::minute_ns(1)).unwrap_or(i32::MAX) + 1;
        let is_same = side.minutes.from == from && side.minutes.to == to.min(now);
        (!is_same).then(|| call_paths::time(&of.hours))
    };
    let [base, side] = sides.map(differs);
    let hours = match (base, side) {
        (None, None) => return None,
        (Some(only), None) | (None, Some(only)) => only,
        (Some(base), Some(side)) if base == side => base,
        (Some(base), Some(side)) => format!("{base}, and {side}"),
    };
    Some(format!(
        "Call paths and statements are kept by the hour. Below they are of whole hours, not of the minutes above: {hours}."
    ))
}

/// The highest percentile that both sides can carry.
fn certain_percentile(sums: [&MinuteDelta; 2]) -> Option<usize> {
    let least = sums[0].requests.min(sums[1].requests);
    (0..PERCENTILES.len())
        .rev()
        .find(|at| least >= REQUESTS_NEEDED[*at])
}

/// `P99 went from 180 ms to 420 ms (+240 ms, +133 %). The mean request takes 31 ms more.`
fn verdict(sums: [&MinuteDelta; 2], is_service: bool) -> String {
    if let Some(at) = sums.iter().position(|it| it.requests <= 0) {
        let which = ["it is to be compared with", "is looked at"][at];
        return format!("There are no requests of what {which}: nothing can be compared.");
    }
    let Some(at) = certain_percentile(sums) else {
        return "So few requests do not tell even a median.".to_owned();
    };
    let [before, after] = sums.map(|it| percentiles(&it.latency)[at]);
    let of = if is_service {
        " of all endpoints together"
    } else {
        ""
    };
    let went = match class(before as f64, after as f64) {
        "" => format!(
            "{}{of} is as it was: {} and {}.",
            PERCENTILES[at].0,
            format::duration(before),
            format::duration(after)
        ),
        _ => format!(
            "{}{of} went from {} to {} ({}).",
            PERCENTILES[at].0,
            format::duration(before),
            format::duration(after),
            change(before, after)
        ),
    };
    let mean = compared::mean_ns(sums[1]) - compared::mean_ns(sums[0]);
    let by = format::duration(mean.unsigned_abs());
    match mean {
        0 => format!("{went} The mean request takes as long."),
        1.. => format!("{went} The mean request takes {by} longer."),
        _ => format!("{went} The mean request takes {by} less."),
    }
}

/// Larger differences have a colour: less is what sketches and chance make of the same.
const WORTH_A_COLOUR: f64 = 0.03;

/// More is worse.
fn class(before: f64, after: f64) -> &'static str {
    match after - before {
        it if it > WORTH_A_COLOUR * before => "up",
        it if it < -WORTH_A_COLOUR * before => "down",
        _ => "",
    }
}

/// `+240 ms, +133 %`
fn change(before: u64, after: u64) -> String {
    let by = i64::try_from(after).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
    match share(before as f64, after as f64) {
        Some(share) if by != 0 => format!("{}, {share}", format::change(by)),
        _ => format::change(by),
    }
}

/// `+133 %`; nothing of nothing.
fn share(before: f64, after: f64) -> Option<String> {
    if before <= 0.0 {
        return None;
    }
    let share = (after - before) / before;
    let percent = (share.abs() * 100.0).round() as i64;
    let sign = if share < 0.0 { "−" } else { "+" };
    Some(match (percent, after) {
        (0, _) => "±0 %".to_owned(),
        (500.., _) => format!("× {}", format::number(after / before)),
        _ => format!("{sign}{} %", format::count(percent)),
    })
}

fn numbers(it: &Compared) -> Vec<Row> {
    let sums = [&it.sides[0].sums, &it.sides[1].sums];
    let mut rows = percentile_rows(sums, &[0, 1, 2, 3]);
    let means = sums.map(|it| compared::mean_ns(it).max(0) as u64);
    rows.push(duration_row("Mean", "", means, sums));
    let rates = it.rates();
    let texts = format::rates(rates);
    rows.push(Row {
        name: "Requests".to_owned(),
        swatch: "",
        cells: [0, 1].map(|at| Cell {
            text: texts[at].clone(),
            title: format!("{} requests", format::count(sums[at].requests)),
            is_uncertain: false,
        }),
        change: share(rates[0], rates[1]).unwrap_or_default(),
        // More or fewer requests are neither good nor bad.
        class: "",
    });
    let errors = sums.map(|it| it.errors.max(0) as f64 / it.requests.max(1) as f64);
    rows.push(Row {
        name: "Failed".to_owned(),
        swatch: "",
        cells: [0, 1].map(|at| Cell {
            text: format!("{} %", format::percent(errors[at])),
            title: format!("{} requests", format::count(sums[at].errors)),
            is_uncertain: false,
        }),
        change: share(errors[0], errors[1]).unwrap_or_default(),
        class: match sums.iter().all(|it| it.requests > 0) {
            true => class(errors[0], errors[1]),
            false => "",
        },
    });
    rows
}

fn percentile_rows(sums: [&MinuteDelta; 2], which: &[usize]) -> Vec<Row> {
    let values = sums.map(|it| percentiles(&it.latency));
    let row = |at: &usize| {
        let (before, after) = (values[0][*at], values[1][*at]);
        let needed = REQUESTS_NEEDED[*at];
        let cells = [0, 1].map(|side| percentile_cell(sums[side].requests, values[side][*at], *at));
        let is_certain = sums.iter().all(|it| it.requests >= needed);
        Row {
            name: PERCENTILES[*at].0.to_owned(),
            swatch: "",
            change: match sums.iter().all(|it| it.requests > 0) {
                true => change(before, after),
                false => String::new(),
            },
            class: if is_certain {
                class(before as f64, after as f64)
            } else {
                ""
            },
            cells,
        }
    };
    which.iter().map(row).collect()
}

fn percentile_cell(requests: i64, ns: u64, at: usize) -> Cell {
    let (name, needed) = (PERCENTILES[at].0, REQUESTS_NEEDED[at]);
    let count = format::count(requests);
    match requests {
        ..=0 => Cell {
            text: "–".to_owned(),
            title: "no requests".to_owned(),
            is_uncertain: false,
        },
        _ if requests < needed => Cell {
            text: format::duration(ns),
            title: format!(
                "{count} requests are too few to tell a {name}: it takes {needed}, else all of them may be quicker \
                 than the true one. {ns} ns"
            ),
            is_uncertain: true,
        },
        _ => Cell {
            text: format::duration(ns),
            title: format!("of {count} requests; {ns} ns"),
            is_uncertain: false,
        },
    }
}

fn duration_row(name: &str, swatch: &'static str, ns: [u64; 2], sums: [&MinuteDelta; 2]) -> Row {
    let is_both = sums.iter().all(|it| it.requests > 0);
    Row {
        name: name.to_owned(),
        swatch,
        cells: [0, 1].map(|at| Cell {
            text: match sums[at].requests {
                ..=0 => "–".to_owned(),
                _ => format::duration(ns[at]),
            },
            title: format!(
                "{} ns, of {} requests",
                ns[at],
                format::count(sums[at].requests)
            ),
            is_uncertain: false,
        }),
        change: if is_both {
            change(ns[0], ns[1])
        } else {
            String::new()
        },
        class: if is_both {
            class(ns[0] as f64, ns[1] as f64)
        } else {
            ""
        },
    }
}

/// By how much they changed.
fn categories(sums: [&MinuteDelta; 2]) -> Vec<Row> {
    let ns = |it: Category| sums.map(|sums| compared::category_ns(sums, it).max(0) as u64);
    let mut shown: Vec<Category> = Category::ALL
        .into_iter()
        .filter(|it| ns(*it) != [0, 0])
        .collect();
    shown.sort_by_key(|it| {
        let [before, after] = ns(*it);
        std::cmp::Reverse(before.abs_diff(after))
    });
    shown
        .into_iter()
        .map(|it| duration_row(it.name(), category_bar::class(&it), ns(it), sums))
        .collect()
}

/// Each as wide as a mean request is long.
fn bars(sums: [&MinuteDelta; 2]) -> Vec<(Parts, f64)> {
    let parts = sums.map(|sums| {
        endpoint_numbers::parts(&Category::ALL.map(|it| compared::category_ns(sums, it)))
    });
    let longest = parts.iter().map(|it| it.total_ns).max().unwrap_or(0).max(1) as f64;
    parts
        .into_iter()
        .map(|it| {
            let width = it.total_ns as f64 * 100.0 / longest;
            (it, width)
        })
        .collect()
}

fn calls(sums: [&MinuteDelta; 2]) -> Vec<Row> {
    let row = |category: Category| {
        let [before, after] = sums.map(|it| compared::calls(it, category));
        Row {
            name: category.name().to_owned(),
            swatch: category_bar::class(&category),
            cells: [before, after].map(|it| Cell {
                text: format::number(it),
                title: String::new(),
                is_uncertain: false,
            }),
            change: share(before, after).unwrap_or_default(),
            class: class(before, after),
        }
    };
    let shown = [
        Category::Database,
        Category::Cache,
        Category::External,
        Category::Messaging,
    ];
    let has = |it: &Category| sums.iter().any(|sums| sums.calls[*it as usize] > 0);
    shown.into_iter().filter(has).map(row).collect()
}

fn endpoint_row<'a>(asked: &Asked, pair: &'a EndpointPair) -> EndpointRow<'a> {
    let sums = [&pair.sums[0], &pair.sums[1]];
    EndpointRow {
        name: &pair.name,
        link: asked.link("/compare", Some(pair.id)),
        requests: sums.map(|it| format::count(it.requests)),
        percentiles: percentile_rows(sums, &[0, 2, 3]),
        errors: sums.map(|it| format::percent(it.errors.max(0) as f64 / it.requests.max(1) as f64)),
    }
}

/// `others`: requests of the other side, where it was looked for.
fn findings<'a>(
    id: &'static str,
    title: &'static str,
    found: &'a [SideFinding],
    others: i64,
) -> FindingList<'a> {
    FindingList {
        id,
        title,
        rows: found.iter().take(FINDINGS_MAX).collect(),
        more: found.len().saturating_sub(FINDINGS_MAX),
        is_unknown: others <= 0,
    }
}

fn statement(it: &StatementPair) -> StatementRow<'_> {
    let p95 = [0, 1].map(|side| match it.calls[side].calls {
        ..=0 => "–".to_owned(),
        _ => format::ms(compared::p95(&it.calls[side])),
    });
    StatementRow {
        statement: it,
        calls: it.per_request.map(format::number),
        p95,
        change: format::change(it.change_ns),
        class: match it.change_ns {
            0 => "",
            1.. => "up",
            _ => "down",
        },
        state: match it.calls.each_ref().map(|it| it.calls > 0) {
            [false, true] => "new",
            [true, false] => "gone",
            _ => "",
        },
    }
}

fn section(asked: &Asked, by_hours: &compared::ByHours) -> Section {
    let id = asked.endpoint().map(|it| it.id);
    let paths = &by_hours.paths;
    let empty = [paths.base.as_ref(), Some(&paths.of)]
        .into_iter()
        .flatten()
        .find(|it| it.counted.profile.nodes.is_empty());
    let nothing = empty.map(|it| format!("There are no requests of {} to compare.", it.name));
    let address = asked.link("/compare", id);
    let mut section = Section::at(
        address,
        paths,
        asked.measure,
        asked.path.as_deref(),
        nothing,
    );
    let link = |(measure, title)| {
        let other = Asked {
            measure,
            ..asked.clone()
        };
        Link {
            href: format!("{}#paths", other.link("/compare", id)),
            title,
            current: measure == asked.measure,
        }
    };
    section.measures = [
        (Measure::Critical, "Critical path only"),
        (Measure::SelfTime, "All work"),
    ]
    .map(link)
    .into();
    section
}

fn fields(
    legend: &'static str,
    names: [&'static str; 3],
    side: &Side,
    versions: &[String],
) -> FieldsView {
    let mut offered: Vec<String> = vec![String::new()];
    offered.extend(versions.iter().map(|it| version_text(it).to_owned()));
    let chosen = side.version.as_deref().map_or("", version_text);
    let mut versions = selectable(offered.iter(), chosen);
    versions[0].title = "Any".to_owned();
    FieldsView {
        legend,
        names,
        versions,
        from: timestamps::field(range::minute_ns(side.minutes.from)),
        to: timestamps::field(range::minute_ns(side.minutes.to)),
    }
}

fn endpoint_choices(endpoints: &BTreeMap<i32, String>, chosen: Option<i32>) -> Vec<Selectable> {
    let mut choices: Vec<Selectable> = endpoints
        .iter()
        .map(|(id, name)| Selectable {
            value: id.to_string(),
            title: name.clone(),
            selected: chosen == Some(*id),
        })
        .collect();
    choices.sort_by(|a, b| a.title.cmp(&b.title));
    choices
}

fn links(asked: &Asked) -> Vec<Link> {
    const DAY: i32 = 24 * 60;
    let id = asked.endpoint().map(|it| it.id);
    let to = |base: Side, side: &Side, title| Link {
        href: compared::link("/compare", asked.service().id, id, &base, side),
        title,
        current: false,
    };
    let earlier = |minutes: i32| {
        let mut base = asked.side.clone();
        base.minutes.from -= minutes;
        base.minutes.to -= minutes;
        base
    };
    vec![
        to(asked.side.clone(), &asked.base, "Swap the two"),
        to(earlier(DAY), &asked.side, "With a day earlier"),
        to(earlier(7 * DAY), &asked.side, "With a week earlier"),
    ]
}
