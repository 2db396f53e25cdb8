//! Which services send, what do they answer, and where does the time go?

use analyzer::category::Category;
use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::deployments::ServiceVersion;
use collector::store::edges::ServiceEdges;
use collector::store::services::{ServiceSums, Services};

use crate::AppState;
use crate::category_bar;
use crate::deployed::ms_to_ns;
use crate::endpoint_numbers::Numbers;
use crate::format;
use crate::pages::context::Context;
use crate::pages::service_map::{self, Section};
use crate::pages::{Frame, PageError, render};
use crate::range::{Covered, Filters};
use crate::ranking::Choices;

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
    let (mut services, edges) = futures_util::try_join!(
        state.store.services(window),
        state.store.service_edges(window)
    )?;
    let covered = Covered::exact(&state.store, window, services.first_minute, now_ns).await?;
    let choices = choices(&services);
    let map = map(&edges, &services, &filters, query.as_deref(), &covered);
    narrow(&mut services, &filters);
    let ids: Vec<i32> = services.services.iter().map(|it| it.service.id).collect();
    let versions = state.store.service_versions(&ids).await?;
    Ok(render(&page(
        &services, &versions, &choices, &filters, &covered, map,
    )))
}

/// Who calls whom.
fn map(
    edges: &ServiceEdges,
    services: &Services,
    filters: &Filters,
    query: Option<&str>,
    covered: &Covered,
) -> Option<Section> {
    let window = filters.range.window(covered.now_ns);
    let services = &services.services;
    let query = query.unwrap_or_default();
    service_map::section(edges, services, filters, query, (window, covered))
}

/// What the bar of filters offers.
fn choices(services: &Services) -> Choices {
    let mut choices = Choices::default();
    for service in &services.services {
        choices.services.insert(service.service.name.clone());
        if !service.service.environment.is_empty() {
            choices
                .environments
                .insert(service.service.environment.clone());
        }
    }
    choices
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
    Sort {
        id: "",
        title: "Time per hour",
        key: |it| it.duration_ns as f64,
        sums: true,
    },
    Sort {
        id: "rate",
        title: "Requests",
        key: |it| it.rate,
        sums: true,
    },
    Sort {
        id: "errors",
        title: "Errors %",
        key: Numbers::error_share,
        sums: false,
    },
    Sort {
        id: "p50",
        title: "P50 ms",
        key: |it| it.percentiles[0] as f64,
        sums: false,
    },
    Sort {
        id: "p90",
        title: "P90 ms",
        key: |it| it.percentiles[1] as f64,
        sums: false,
    },
    Sort {
        id: "p95",
        title: "P95 ms",
        key: |it| it.percentiles[2] as f64,
        sums: false,
    },
    Sort {
        id: "p99",
        title: "P99 ms",
        key: |it| it.percentiles[3] as f64,
        sums: false,
    },
    Sort {
        id: "name",
        title: "Endpoint",
        key: |_| 0.0,
        sums: false,
    },
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
    /// The bar of ranges and filters.
    context: Context,
    /// In large type.
    headline: String,
    /// Only some services are shown: the address of all.
    all: Option<String>,
    /// The address of their statements.
    statements: String,
    /// The table's head but for the name and the last two columns.
    columns: Vec<Column>,
    /// By name or by number, as chosen.
    name_link: String,
    is_by_name: bool,
    /// The legend of the bars.
    legend: Vec<(&'static str, &'static str)>,
    groups: Vec<Group>,
    /// Who calls whom; `None` if nobody calls anybody.
    map: Option<Section>,
    /// The range in words.
    range: &'static str,
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
    /// Those of the window, the last few, each with when it was first seen.
    versions: Vec<(String, String)>,
    /// Versions before those.
    more_versions: usize,
    /// The address of its deployments.
    deployments: String,
    rows: Vec<Row>,
    key: f64,
}

/// An endpoint.
struct Row {
    id: i32,
    link: String,
    name: String,
    numbers: Numbers,
    findings: i64,
    findings_link: String,
    key: f64,
}

fn page(
    services: &Services,
    versions: &[ServiceVersion],
    choices: &Choices,
    filters: &Filters,
    covered: &Covered,
    map: Option<Section>,
) -> Page {
    let sort = SORTS
        .iter()
        .find(|it| it.id == filters.sort)
        .unwrap_or(&SORTS[0]);
    let mut groups: Vec<Group> = services
        .services
        .iter()
        .map(|it| group(it, versions, filters, covered, sort))
        .collect();
    // Stable: what is equal stays in the order of names.
    groups.sort_by(|a, b| b.key.total_cmp(&a.key));
    let columns = [1, 2, 3, 4, 5, 6, 0].map(|at| Column {
        link: filters.link("/services", &[("sort", SORTS[at].id)]),
        title: SORTS[at].title,
        is_current: SORTS[at].id == sort.id,
        is_minor: matches!(SORTS[at].id, "p90" | "p95"),
    });
    Page {
        frame: Frame {
            current: "/services",
        },
        context: Context::new("/services", filters, choices, *covered),
        headline: headline(&groups),
        all: filters
            .is_narrowed()
            .then(|| filters.link("/services", &[("service", ""), ("env", "")])),
        statements: filters.link("/statements", &[("sort", "")]),
        columns: columns.into(),
        name_link: filters.link("/services", &[("sort", "name")]),
        is_by_name: sort.id == "name",
        legend: legend(&groups),
        groups,
        map,
        range: filters.range.sentence(),
    }
}

fn group(
    service: &ServiceSums,
    versions: &[ServiceVersion],
    filters: &Filters,
    covered: &Covered,
    sort: &Sort,
) -> Group {
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
            let range_only = Filters {
                range: filters.range,
                ..Filters::default()
            };
            Row {
                id: it.id,
                link: range_only.link(&address, &[]),
                name: it.name.clone(),
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
    /// Who answers with more versions has them on its deployments' page.
    const VERSIONS_SHOWN: usize = 4;
    let more_versions = service.versions.len().saturating_sub(VERSIONS_SHOWN);
    let last = &service.versions[more_versions..];
    let range_free = Filters {
        service: name.name.clone(),
        environment: name.environment.clone(),
        ..Filters::default()
    };
    Group {
        name: name.name.clone(),
        environment: name.environment.clone(),
        namespace: name.namespace.clone(),
        versions: last
            .iter()
            .map(|it| version(name.id, it, versions))
            .collect(),
        more_versions,
        deployments: range_free.link("/deployments", &[]),
        rows,
        key,
    }
}

/// A version, and when it was first seen if that is still known.
fn version(service_id: i32, version: &str, known: &[ServiceVersion]) -> (String, String) {
    let found = known
        .iter()
        .find(|it| it.service_id == service_id && it.version == version);
    let since = found.map_or_else(String::new, |it| {
        format::day_and_minute(ms_to_ns(it.first_seen_ms))
    });
    (version.to_owned(), since)
}

/// Those categories that some bar has: class, name.
fn legend(groups: &[Group]) -> Vec<(&'static str, &'static str)> {
    let has = |category: &Category| {
        let mut rows = groups.iter().flat_map(|it| &it.rows);
        rows.any(|it| it.numbers.categories[*category as usize] > 0)
    };
    let shown = Category::ALL.into_iter().filter(has);
    shown
        .map(|it| (category_bar::class(&it), it.name()))
        .collect()
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
        _ => format!(
            "{services}, {endpoints}. {} takes {share} % of the time",
            dearest.name
        ),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", format::count(count as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::deltas::MinuteDelta;
    use collector::store::services::{EndpointSums, ServiceName};
    use scraper::{Html, Selector};

    fn endpoint(id: i32, name: &str, requests: i64, ms: u64) -> EndpointSums {
        let mut sums = MinuteDelta {
            requests,
            ..MinuteDelta::default()
        };
        sums.duration_ns = requests * ms as i64 * 1_000_000;
        sums.categories[Category::Database as usize] = sums.duration_ns / 2;
        sums.categories[Category::PoolWait as usize] = sums.duration_ns / 2;
        sums.latency.record(ms * 1_000_000, requests);
        EndpointSums {
            id,
            name: name.into(),
            sums,
            findings: i64::from(id == 1),
        }
    }

    fn service(name: &str, endpoints: Vec<EndpointSums>) -> ServiceSums {
        let service = ServiceName {
            id: 1,
            namespace: String::new(),
            name: name.into(),
            environment: "production".into(),
        };
        ServiceSums {
            service,
            versions: vec!["1.0".into(), "1.1".into()],
            endpoints,
        }
    }

    fn services() -> Services {
        let shop = vec![
            endpoint(1, "GET /posts", 60, 100),
            endpoint(2, "GET /<b>", 600, 1),
        ];
        let services = vec![
            service("cart", vec![endpoint(3, "GET /cart", 1, 5)]),
            service("shop & co", shop),
        ];
        Services {
            first_minute: Some(0),
            services,
        }
    }

    fn seen() -> Vec<ServiceVersion> {
        vec![ServiceVersion {
            service_id: 1,
            version: "1.1".into(),
            first_seen_ms: 60_000,
        }]
    }

    fn html(services: &Services, query: &str) -> Html {
        let filters = Filters::parse(Some(query)).unwrap();
        let covered = Covered {
            from_ns: 0,
            now_ns: 60_000_000_000,
        };
        let page = page(
            services,
            &seen(),
            &choices(services),
            &filters,
            &covered,
            None,
        );
        Html::parse_document(&page.render().unwrap())
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        html.select(&selector)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    #[test]
    fn the_dearest_come_first() {
        let html = html(&services(), "");
        assert_eq!(
            texts(&html, "tbody a.mono"),
            ["GET /posts", "GET /<b>", "GET /cart"]
        );
        assert_eq!(texts(&html, "tbody b"), ["shop & co", "cart"]);
        assert_eq!(
            texts(&html, "h1"),
            ["2 services, 3 endpoints. GET /posts takes 90.8 % of the time"]
        );
        assert_eq!(texts(&html, "th[aria-sort]"), ["Time per hour ↓"]);
        let row = texts(&html, "#e1 td.num");
        assert_eq!(
            row[..3],
            ["1/s", "0", "100"],
            "rate, errors, P50 within 1.1 %: {row:?}"
        );
        assert_eq!(row[7], "1");
    }

    #[test]
    fn the_address_sorts_and_narrows() {
        assert_eq!(
            texts(&html(&services(), "sort=rate"), "tbody b"),
            ["shop & co", "cart"]
        );
        let by_name = texts(&html(&services(), "sort=name"), "tbody a.mono");
        assert_eq!(by_name, ["GET /cart", "GET /<b>", "GET /posts"]);
        let mut services = services();
        narrow(
            &mut services,
            &Filters::parse(Some("service=cart")).unwrap(),
        );
        assert_eq!(texts(&html(&services, "service=cart"), "tbody b"), ["cart"]);
    }

    #[test]
    fn findings_lead_to_the_ranked_list() {
        let html = html(&services(), "range=24h&sort=p99");
        let link = html
            .select(&Selector::parse("#e1 td.num a").unwrap())
            .next()
            .unwrap();
        assert_eq!(
            link.attr("href"),
            Some("/?range=24h&service=shop+%26+co&env=production&endpoint=GET+%2Fposts")
        );
    }

    #[test]
    fn without_requests_it_says_how_to_begin() {
        let html = html(&Services::default(), "");
        assert_eq!(texts(&html, "main a"), ["see how to send traces"]);
        assert_eq!(texts(&html, "h1"), ["No requests in the last hour"]);
    }
}
