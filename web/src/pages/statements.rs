//! What do services send to their databases, who sends it, and how long do requests wait for it?

use analyzer::category::Category;
use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::statements::{
    SendingEndpoint, SentStatements, StatementFilter, StatementSums,
};

use crate::AppState;
use crate::category_bar;
use crate::csv::{self, field};
use crate::format;
use crate::line_chart::percentiles;
use crate::pages::context::Context;
use crate::pages::{Frame, PageError, render};
use crate::range::{Covered, Filters};
use crate::ranking::Choices;
use crate::statement_key;

/// Rows of the page; the exports have all.
const ROWS_MAX: usize = 200;

/// Endpoints named in a row; there is a number for the others.
const ENDPOINTS_SHOWN: usize = 3;

/// The page.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    Ok(render(&page(&read(&state, query.as_deref()).await?)))
}

/// The same as comma-separated values.
///
/// # Errors
/// As the page.
pub async fn csv(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let read = read(&state, query.as_deref()).await?;
    Ok(csv::file("statements.csv", csv_text(&rows(&read))))
}

/// What the page, the table and the JSON show.
#[derive(Clone, Debug)]
pub struct Read {
    /// What the address asks for.
    pub filters: Filters,
    /// What the bar of filters offers.
    pub choices: Choices,
    /// The time that is shown: whole hours.
    pub covered: Covered,
    /// The statements.
    pub sent: SentStatements,
}

/// Reads what an address asks for.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn read(state: &AppState, query: Option<&str>) -> Result<Read, PageError> {
    let filters = Filters::parse(query)?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let filter = StatementFilter {
        service: &filters.service,
        environment: &filters.environment,
        endpoint: &filters.endpoint,
    };
    let (sent, services) = futures_util::try_join!(
        state.store.sent_statements(window, filter),
        state.store.services(window)
    )?;
    // Roll-ups keep statements by the hour.
    let mut hours = window;
    hours.from -= hours.from.rem_euclid(60);
    let covered = Covered::exact(&state.store, hours, services.first_minute, now_ns).await?;
    let mut choices = Choices::default();
    for it in services.services {
        choices.services.insert(it.service.name);
        choices
            .environments
            .extend(Some(it.service.environment).filter(|it| !it.is_empty()));
    }
    Ok(Read {
        filters,
        choices,
        covered,
        sent,
    })
}

/// A statement with what follows from its sums.
pub struct Row<'a> {
    /// Which.
    pub statement: &'a StatementSums,
    /// P50, P90, P95, P99, ns.
    pub percentiles: [u64; 4],
    /// Calls per request of the endpoints that send it.
    pub per_request: f64,
    /// Its critical-path time as a share of what all requests asked for took, 0 to 1.
    pub share: f64,
}

impl Row<'_> {
    fn critical_ns(&self) -> u64 {
        u64::try_from(self.statement.calls.critical_ns).unwrap_or_default()
    }
}

/// A column that sorts: in the address, in the head, the key, left out on narrow screens.
struct Sort {
    id: &'static str,
    title: &'static str,
    key: fn(&Row<'_>) -> f64,
    is_minor: bool,
}

const SORTS: [Sort; 6] = [
    Sort {
        id: "",
        title: "Requests wait",
        key: |it| it.critical_ns() as f64,
        is_minor: false,
    },
    Sort {
        id: "calls",
        title: "Calls",
        key: |it| it.statement.calls.calls as f64,
        is_minor: false,
    },
    Sort {
        id: "per-request",
        title: "Per request",
        key: |it| it.per_request,
        is_minor: true,
    },
    Sort {
        id: "p50",
        title: "P50 ms",
        key: |it| it.percentiles[0] as f64,
        is_minor: false,
    },
    Sort {
        id: "p95",
        title: "P95 ms",
        key: |it| it.percentiles[2] as f64,
        is_minor: true,
    },
    Sort {
        id: "p99",
        title: "P99 ms",
        key: |it| it.percentiles[3] as f64,
        is_minor: false,
    },
];

fn sort(filters: &Filters) -> &'static Sort {
    SORTS
        .iter()
        .find(|it| it.id == filters.sort)
        .unwrap_or(&SORTS[0])
}

/// All statements in the order that the address asks for.
pub fn rows(read: &Read) -> Vec<Row<'_>> {
    let total_ns = read.sent.requests_ns.max(1) as f64;
    let mut rows: Vec<Row<'_>> = read
        .sent
        .statements
        .iter()
        .map(|statement| Row {
            percentiles: percentiles(&statement.calls.latency),
            per_request: statement.calls.calls as f64 / statement.requests.max(1) as f64,
            share: statement.calls.critical_ns.max(0) as f64 / total_ns,
            statement,
        })
        .collect();
    let key = sort(&read.filters).key;
    rows.sort_by(|a, b| {
        key(b)
            .total_cmp(&key(a))
            .then_with(|| a.statement.id.cmp(&b.statement.id))
    });
    rows
}

#[derive(Template)]
#[template(path = "statements.html")]
struct Page<'a> {
    frame: Frame,
    /// The bar of ranges and filters.
    context: Context,
    /// In large type.
    headline: String,
    /// Only some are shown: the address of all.
    all: Option<String>,
    columns: Vec<Column>,
    rows: Vec<RowView<'a>>,
    /// Statements that are not shown.
    hidden: usize,
    csv: String,
    json: String,
    /// The range in words.
    range: &'static str,
}

struct Column {
    link: String,
    title: &'static str,
    is_current: bool,
    is_minor: bool,
}

struct RowView<'a> {
    row: Row<'a>,
    /// Its own page.
    link: String,
    /// The colour of what it asks.
    class: &'static str,
    calls: String,
    per_request: String,
    waits: String,
    share: String,
    ms: [String; 4],
    endpoints: Vec<EndpointView>,
    /// Endpoints that are not named.
    more: usize,
}

struct EndpointView {
    name: String,
    service: String,
    link: String,
    /// Of the statement's critical-path time, percent.
    share: String,
}

fn page(read: &Read) -> Page<'_> {
    let filters = &read.filters;
    let mut rows = rows(read);
    let headline = headline(&rows, read);
    let hidden = rows.len().saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    let current = sort(filters).id;
    let columns = SORTS.iter().map(|it| Column {
        link: filters.link("/statements", &[("sort", it.id)]),
        title: it.title,
        is_current: it.id == current,
        is_minor: it.is_minor,
    });
    let narrowed = [("service", ""), ("env", ""), ("endpoint", "")];
    Page {
        frame: Frame {
            current: "/services",
        },
        context: Context::new("/statements", filters, &read.choices, read.covered),
        headline,
        all: filters
            .is_narrowed()
            .then(|| filters.link("/statements", &narrowed)),
        columns: columns.collect(),
        rows: rows.into_iter().map(|it| row_view(it, filters)).collect(),
        hidden,
        csv: filters.link("/statements.csv", &[]),
        json: filters.link("/api/v1/statements", &[]),
        range: filters.range.sentence(),
    }
}

/// `12 statements. Requests wait for them 42 % of their time; for one of them alone, 31 %`
fn headline(rows: &[Row<'_>], read: &Read) -> String {
    let plural = if rows.len() == 1 { "" } else { "s" };
    let critical_ns: i64 = read
        .sent
        .statements
        .iter()
        .map(|it| it.calls.critical_ns)
        .sum();
    let share = critical_ns.max(0) as f64 / read.sent.requests_ns.max(1) as f64;
    let largest = rows.iter().map(|it| it.share).fold(0.0, f64::max);
    let count = format!("{} statement{plural}", format::count(rows.len() as i64));
    match rows.len() {
        0 => "No statements".to_owned(),
        1 => format!(
            "{count}. Requests wait for it {} % of their time",
            format::percent(share)
        ),
        _ => format!(
            "{count}. Requests wait for them {} % of their time; for one alone, {} %",
            format::percent(share),
            format::percent(largest)
        ),
    }
}

fn row_view<'a>(row: Row<'a>, filters: &Filters) -> RowView<'a> {
    let endpoints = &row.statement.endpoints;
    let total_ns = row.critical_ns().max(1) as f64;
    let shown = endpoints.iter().take(ENDPOINTS_SHOWN);
    let only_range = Filters {
        range: filters.range,
        ..Filters::default()
    };
    let own = statement_key::href(&row.statement.system, &row.statement.text);
    RowView {
        link: only_range.link(&own, &[]),
        class: class(&row.statement.system),
        calls: format::count(row.statement.calls.calls),
        per_request: format::number(row.per_request),
        waits: format::duration(row.critical_ns()),
        share: format::percent(row.share),
        ms: row.percentiles.map(format::ms),
        endpoints: shown
            .map(|it| endpoint_view(it, total_ns, filters))
            .collect(),
        more: endpoints.len().saturating_sub(ENDPOINTS_SHOWN),
        row,
    }
}

/// The colour of the databases and caches of a system.
pub fn class(system: &str) -> &'static str {
    let category = match analyzer::category::is_cache_system(system) {
        true => Category::Cache,
        false => Category::Database,
    };
    category_bar::class(&category)
}

fn endpoint_view(endpoint: &SendingEndpoint, total_ns: f64, filters: &Filters) -> EndpointView {
    let only_range = Filters {
        range: filters.range,
        ..Filters::default()
    };
    EndpointView {
        name: endpoint.name.clone(),
        service: endpoint.service.name.clone(),
        link: only_range.link(&format!("/endpoints/{}", endpoint.id), &[]),
        share: format::percent(endpoint.calls.critical_ns.max(0) as f64 / total_ns),
    }
}

fn csv_text(rows: &[Row<'_>]) -> String {
    let mut text = String::from(
        "statement,system,calls,calls_per_request,sum_ns,critical_ns,share_of_requests_time,p50_ns,p95_ns,p99_ns,\
         endpoints,findings\r\n",
    );
    for row in rows {
        let it = row.statement;
        let [p50, _, p95, p99] = row.percentiles;
        let endpoints = it
            .endpoints
            .iter()
            .map(|it| format!("{} {}", it.service.name, it.name));
        let findings = it.findings.iter().map(|it| it.id.to_string());
        let fields = [
            field(&it.text),
            field(&it.system),
            it.calls.calls.to_string(),
            format!("{:.3}", row.per_request),
            it.calls.sum_ns.to_string(),
            it.calls.critical_ns.to_string(),
            format!("{:.6}", row.share),
            p50.to_string(),
            p95.to_string(),
            p99.to_string(),
            field(&endpoints.collect::<Vec<_>>().join("; ")),
            field(&findings.collect::<Vec<_>>().join("; ")),
        ];
        text += &fields.join(",");
        text += "\r\n";
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use collector::store::encoding::StatementCalls;
    use collector::store::services::ServiceName;
    use collector::store::statements::StatementFinding;
    use scraper::{Html, Selector};

    const MS: i64 = 1_000_000;

    fn calls(count: i64, ms: i64) -> StatementCalls {
        let mut calls = StatementCalls {
            calls: count,
            sum_ns: count * ms * MS,
            critical_ns: count * ms * MS,
            ..StatementCalls::default()
        };
        calls.latency.record((ms * MS) as u64, count);
        calls
    }

    fn endpoint(id: i32, name: &str, calls: StatementCalls) -> SendingEndpoint {
        let service = ServiceName {
            id: 1,
            namespace: String::new(),
            name: "shop".into(),
            environment: "prod".into(),
        };
        SendingEndpoint {
            id,
            name: name.into(),
            service,
            requests: 10,
            calls,
        }
    }

    fn statement(id: i32, text: &str, endpoints: Vec<SendingEndpoint>) -> StatementSums {
        let mut sum = StatementCalls::default();
        endpoints.iter().for_each(|it| sum.merge(&it.calls, 1));
        StatementSums {
            id,
            system: "postgresql".into(),
            text: text.into(),
            requests: endpoints.iter().map(|it| it.requests).sum(),
            calls: sum,
            endpoints,
            findings: Vec::new(),
        }
    }

    /// The first takes half of all requests' time, the second is called more often.
    pub(crate) fn drawn(query: &str) -> Read {
        let mut first = statement(
            1,
            "select ? from a",
            vec![
                endpoint(2, "GET /b", calls(10, 30)),
                endpoint(1, "GET /a", calls(20, 10)),
            ],
        );
        first.findings.push(StatementFinding {
            id: 7,
            title: "select a takes 1 s".into(),
            severity: 2,
        });
        let hostile = "=get <script>\"x\"";
        Read {
            filters: Filters::parse(Some(query)).unwrap(),
            choices: Choices::default(),
            covered: Covered {
                from_ns: 0,
                now_ns: 3_600_000_000_000,
            },
            sent: SentStatements {
                statements: vec![
                    statement(2, hostile, vec![endpoint(1, "GET /a", calls(90, 1))]),
                    first,
                ],
                requests_ns: 1_000 * MS,
            },
        }
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let words = |it: scraper::ElementRef<'_>| {
            let text: String = it.text().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        html.select(&selector).map(words).collect()
    }

    fn html(query: &str) -> Html {
        Html::parse_document(&page(&drawn(query)).render().unwrap())
    }

    #[test]
    fn what_requests_wait_for_most_comes_first() {
        let html = html("");
        assert_eq!(
            texts(&html, "tbody .stm .mono"),
            ["select ? from a", "=get <script>\"x\""]
        );
        assert_eq!(
            texts(&html, "h1"),
            ["2 statements. Requests wait for them 59 % of their time; for one alone, 50 %"]
        );
        assert_eq!(texts(&html, "th[aria-sort]"), ["Requests wait ↓"]);
        let cells = texts(&html, "tbody tr:first-child td");
        assert_eq!(cells[..3], ["500 ms", "30", "1.5"], "{cells:?}");
        assert!(
            cells.iter().any(|it| it.contains("GET /b 60 %")),
            "{cells:?}"
        );
        let links = Selector::parse("tbody a").unwrap();
        let links: Vec<_> = html
            .select(&links)
            .filter_map(|it| it.attr("href"))
            .collect();
        assert!(
            links.contains(&"/endpoints/2") && links.contains(&"/bottlenecks/7"),
            "{links:?}"
        );
    }

    #[test]
    fn the_address_sorts() {
        assert_eq!(
            texts(&html("sort=calls"), "tbody .stm .mono")[0],
            "=get <script>\"x\""
        );
        assert_eq!(
            texts(&html("sort=p99"), "tbody .stm .mono")[0],
            "select ? from a"
        );
        let exports = html("sort=calls&service=shop&range=24h");
        let links = Selector::parse(".acts a").unwrap();
        let links: Vec<_> = exports
            .select(&links)
            .filter_map(|it| it.attr("href"))
            .collect();
        assert_eq!(
            links,
            [
                "/statements.csv?range=24h&service=shop&sort=calls",
                "/api/v1/statements?range=24h&service=shop&sort=calls"
            ]
        );
    }

    #[test]
    fn a_table_of_strangers_texts_holds_no_formula() {
        let read = drawn("");
        let text = csv_text(&rows(&read));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with("\"select ? from a\",\"postgresql\",30,1.500,"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].starts_with("\"'=get <script>\"\"x\"\"\","),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn without_statements_it_says_so() {
        let mut read = drawn("");
        read.sent = SentStatements::default();
        let html = Html::parse_document(&page(&read).render().unwrap());
        assert!(texts(&html, "h1")[0].starts_with("No statements"));
    }
}
