//! Which services send, what do they answer, and where does the time go?

use analyzer::category::Category;
use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::services::{ServiceSums, Services};

use crate::AppState;
use crate::category_bar;
use crate::endpoint_numbers::Numbers;
use crate::format;
use crate::pages::{Frame, PageError, render};
use crate::range::{Covered, Filters, Range};

/// The page.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let filters = Filters::parse(query.as_deref())?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let mut services = state.store.services(window).await?;
    let covered = Covered::new(window, services.first_minute, now_ns);
    narrow(&mut services, &filters);
    Ok(render(&page(&services, &filters, &covered)))
}

/// Leaves the services that the address asks for.
pub fn narrow(services: &mut Services, filters: &Filters) {
    let is = |wanted: &str, name: &str| wanted.is_empty() || wanted == name;
    services.services.retain(|it| {
        is(&filters.service, &it.service.name) && is(&filters.environment, &it.service.environment)
    });
}

/// What the table can be sorted by: in the address, in the head, and whether the largest is first
/// of all the endpoints of a service or of their sum.
const SORTS: [Sort; 8] = [
    Sort { id: "", title: "Time per hour", key: |it| it.duration_ns as f64, sums: true },
    Sort { id: "rate", title: "Requests/s", key: |it| it.rate, sums: true },
    Sort { id: "errors", title: "Errors %", key: Numbers::error_share, sums: false },
    Sort { id: "p50", title: "P50 ms", key: |it| it.percentiles[0] as f64, sums: false },
    Sort { id: "p90", title: "P90 ms", key: |it| it.percentiles[1] as f64, sums: false },
    Sort { id: "p95", title: "P95 ms", key: |it| it.percentiles[2] as f64, sums: false },
    Sort { id: "p99", title: "P99 ms", key: |it| it.percentiles[3] as f64, sums: false },
    Sort { id: "name", title: "Endpoint", key: |_| 0.0, sums: false },
];

struct Sort {
    id: &'static str,
    title: &'static str,
    key: fn(&Numbers) -> f64,
    sums: bool,
}

#[derive(Template)]
#[template(path = "services.html")]
struct Page {
    frame: Frame,
    /// Ranges to choose from.
    ranges: Vec<Choice>,
    /// `14:02:11 to 14:32:08 UTC`
    covered: String,
    /// In large type.
    headline: String,
    /// Only some services are shown: the address of all.
    all: Option<String>,
    /// The table's head but for the name and the last two columns.
    columns: Vec<Column>,
    /// By name or by number, as chosen.
    name_link: String,
    is_by_name: bool,
    /// The legend of the bars.
    legend: Vec<(&'static str, &'static str)>,
    groups: Vec<Group>,
    /// The range in words.
    range: &'static str,
}

/// A link among others.
struct Choice {
    link: String,
    title: &'static str,
    is_current: bool,
}

/// A column that sorts.
struct Column {
    link: String,
    title: &'static str,
    is_current: bool,
    /// Left out on narrow screens.
    is_minor: bool,
}

/// A service.
struct Group {
    name: String,
    environment: String,
    namespace: String,
    versions: String,
    rows: Vec<Row>,
    key: f64,
}

/// An endpoint.
struct Row {
    id: i32,
    link: String,
    name: String,
    numbers: Numbers,
    /// What the bar says to those who do not see it.
    bar_text: String,
    findings: i64,
    findings_link: String,
    key: f64,
}

fn page(services: &Services, filters: &Filters, covered: &Covered) -> Page {
    let sort = SORTS.iter().find(|it| it.id == filters.sort).unwrap_or(&SORTS[0]);
    let mut groups: Vec<Group> =
        services.services.iter().map(|it| group(it, filters, covered, sort)).collect();
    // Stable: what is equal stays in the order of names.
    groups.sort_by(|a, b| b.key.total_cmp(&a.key));
    let columns = [1, 2, 3, 4, 5, 6, 0].map(|at| Column {
        link: filters.link("/services", &[("sort", SORTS[at].id)]),
        title: SORTS[at].title,
        is_current: SORTS[at].id == sort.id,
        is_minor: matches!(SORTS[at].id, "p90" | "p95"),
    });
    let ranges = Range::ALL.map(|it| Choice {
        link: filters.link("/services", &[("range", it.id())]),
        title: it.title(),
        is_current: it == filters.range,
    });
    Page {
        frame: Frame { current: "/services" },
        ranges: ranges.into(),
        covered: covered.text(),
        headline: headline(&groups),
        all: filters
            .is_narrowed()
            .then(|| filters.link("/services", &[("service", ""), ("env", "")])),
        columns: columns.into(),
        name_link: filters.link("/services", &[("sort", "name")]),
        is_by_name: sort.id == "name",
        legend: legend(&groups),
        groups,
        range: filters.range.sentence(),
    }
}

fn group(service: &ServiceSums, filters: &Filters, covered: &Covered, sort: &Sort) -> Group {
    let name = &service.service;
    let mut rows: Vec<Row> = service
        .endpoints
        .iter()
        .map(|it| {
            let numbers = Numbers::of(&it.sums, covered);
            let findings = [
                ("service", &*name.name),
                ("env", &*name.environment),
                ("endpoint", &*it.name),
                ("sort", ""),
            ];
            let address = format!("/endpoints/{}", it.id);
            let range_only = Filters { range: filters.range, ..Filters::default() };
            Row {
                id: it.id,
                link: range_only.link(&address, &[]),
                name: it.name.clone(),
                bar_text: bar_text(&numbers),
                findings: it.findings,
                findings_link: range_only.link("/", &findings),
                key: (sort.key)(&numbers),
                numbers,
            }
        })
        .collect();
    rows.sort_by(|a, b| b.key.total_cmp(&a.key).then_with(|| a.name.cmp(&b.name)));
    let key = match sort.sums {
        true => rows.iter().map(|it| it.key).sum(),
        false => rows.first().map_or(0.0, |it| it.key),
    };
    Group {
        name: name.name.clone(),
        environment: name.environment.clone(),
        namespace: name.namespace.clone(),
        versions: versions(&service.versions),
        rows,
        key,
    }
}

/// `1.0.4, 1.1.0`; of many the last few.
fn versions(versions: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = versions.len().saturating_sub(SHOWN);
    let last = versions[more..].join(", ");
    if more > 0 { format!("{last} and {more} before") } else { last }
}

fn bar_text(numbers: &Numbers) -> String {
    let pieces = numbers.pieces();
    let each = pieces.iter().map(|it| format!("{} {} %", it.category.name(), it.percent()));
    each.collect::<Vec<_>>().join(", ")
}

/// Those categories that some bar has: class, name.
fn legend(groups: &[Group]) -> Vec<(&'static str, &'static str)> {
    let has = |category: &Category| {
        let mut rows = groups.iter().flat_map(|it| &it.rows);
        rows.any(|it| it.numbers.categories[*category as usize] > 0)
    };
    let shown = Category::ALL.into_iter().filter(has);
    shown.map(|it| (category_bar::class(it), it.name())).collect()
}

/// `3 services answer 12 endpoints. GET /feed takes 42 % of the time.`
fn headline(groups: &[Group]) -> String {
    let rows: Vec<&Row> = groups.iter().flat_map(|it| &it.rows).collect();
    let total: f64 = rows.iter().map(|it| it.numbers.duration_ns as f64).sum();
    let Some(dearest) = rows.iter().max_by_key(|it| it.numbers.duration_ns) else {
        return "No requests".to_owned();
    };
    let share = format::percent(dearest.numbers.duration_ns as f64 / total.max(1.0));
    let services = counted(groups.len(), "service");
    let endpoints = counted(rows.len(), "endpoint");
    match rows.len() {
        1 => format!("{services}, {endpoints}: {}", dearest.name),
        _ => format!("{services}, {endpoints}. {} takes {share} % of the time", dearest.name),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", format::count(count as i64))
}
