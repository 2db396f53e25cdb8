//! What got slower and stayed so: the list, and the strip on the front page.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::regression::evidence::Numbers;
use collector::store::Store;
use collector::store::regressions_shown::{RegressionFilter, ShownRegression};

use crate::deployed::{ms_to_ns, version_title};
use crate::pages::context::{Choice, Selectable, selectable};
use crate::pages::{Frame, PageError, render};
use crate::range::Filters;
use crate::{AppState, format};

/// Regressions listed at most; a filter finds the others.
const LISTED_MAX: i64 = 200;

/// Services to choose from at most.
const SERVICES_MAX: i64 = 500;

/// Regressions in the strip: it must not push the page down.
const STRIP_MAX: usize = 3;

/// States as the address has them.
const STATES: [&str; 3] = ["open", "resolved", "accepted"];

/// The page.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let filters = parse(query.as_deref())?;
    let store = &state.store;
    let filter = filter(&filters, LISTED_MAX);
    let shown = store.shown_regressions(&filter).await?;
    let counts = store.regression_counts(&filter).await?;
    let services = store.services_named("", SERVICES_MAX).await?;
    let mut names: Vec<String> = services.into_iter().map(|it| it.name).collect();
    names.dedup();
    Ok(render(&page(
        &shown,
        &counts,
        &names,
        &filters,
        format::now_ns(),
    )))
}

/// Reads `service`, `env` and `state`.
///
/// # Errors
/// There is no such state, or a filter is longer than any name.
pub fn parse(query: Option<&str>) -> Result<Filters, PageError> {
    let filters = Filters::parse(query)?;
    if !filters.state.is_empty() && !STATES.contains(&&*filters.state) {
        return Err(PageError::BadRequest(
            "state is one of open, resolved and accepted.".to_owned(),
        ));
    }
    Ok(filters)
}

/// The filter of an address.
pub fn filter(filters: &Filters, limit: i64) -> RegressionFilter<'_> {
    RegressionFilter {
        service: &filters.service,
        environment: &filters.environment,
        state: &filters.state,
        limit,
        ..RegressionFilter::default()
    }
}

#[derive(Template)]
#[template(path = "regressions.html")]
struct Page<'a> {
    frame: Frame,
    headline: String,
    states: Vec<Choice>,
    services: Vec<Selectable>,
    hidden: Vec<(&'static str, String)>,
    rows: Vec<Row<'a>>,
    has_more: bool,
    is_narrowed: bool,
    json: String,
}

struct Row<'a> {
    it: &'a ShownRegression,
    severity: &'static str,
    went: String,
    requests: String,
    since: String,
    exactly: String,
    after: String,
}

fn page<'a>(
    shown: &'a [ShownRegression],
    counts: &[(String, i64)],
    services: &[String],
    filters: &'a Filters,
    now_ns: u64,
) -> Page<'a> {
    let count = |state: &str| {
        let found = counts.iter().filter(|it| state.is_empty() || it.0 == state);
        found.map(|it| it.1).sum::<i64>()
    };
    let choice = |(state, title): (&str, &str)| Choice {
        link: filters.link("/regressions", &[("state", state)]),
        title: format!("{title} {}", format::count(count(state))),
        current: filters.state == state,
    };
    let open = count("open");
    Page {
        frame: Frame {
            current: "/regressions",
        },
        headline: match open {
            0 => "Nothing is slower than it was".to_owned(),
            1 => "One thing is slower than it was".to_owned(),
            many => format!("{} things are slower than they were", format::count(many)),
        },
        states: [
            ("", "All"),
            ("open", "Open"),
            ("resolved", "Resolved"),
            ("accepted", "Accepted"),
        ]
        .map(choice)
        .into(),
        services: selectable(services.iter(), &filters.service),
        hidden: filters.hidden(&["service"]),
        rows: shown.iter().map(|it| row(it, now_ns)).collect(),
        has_more: shown.len() as i64 >= LISTED_MAX,
        is_narrowed: filters.is_narrowed(),
        json: filters.link("/api/v1/regressions", &[]),
    }
}

fn row(it: &ShownRegression, now_ns: u64) -> Row<'_> {
    let began_ns = ms_to_ns(it.began_ms);
    Row {
        it,
        severity: severity(it.severity),
        went: went(&it.numbers),
        requests: format!(
            "of {} → {} requests",
            format::count(it.numbers.base_requests),
            format::count(it.numbers.requests)
        ),
        since: format::ago(began_ns, now_ns),
        exactly: format::at(began_ns),
        after: after(it),
    }
}

/// The severity in words.
pub fn severity(number: i16) -> &'static str {
    collector::alert::notification::Severity::of(number).name()
}

/// `P99`
pub fn percentile_name(quantile: f64) -> String {
    let percent = (quantile.clamp(0.0, 1.0) * 1_000.0).round() / 10.0;
    format!("P{percent}")
}

/// `P99 180 → 420 ms`
pub fn went(numbers: &Numbers) -> String {
    let name = percentile_name(numbers.quantile);
    let (before, unit) = format::duration_parts(numbers.before_ns);
    let (after, after_unit) = format::duration_parts(numbers.after_ns);
    match unit == after_unit {
        true => format!("{name} {before} → {after} {after_unit}"),
        false => format!("{name} {before} {unit} → {after} {after_unit}"),
    }
}

/// `after 1.1.0`, `suddenly`, `over days`
pub fn after(it: &ShownRegression) -> String {
    match (&*it.kind, &it.deployed) {
        (_, Some(version)) => format!("after {}", version_title(version)),
        ("drift", _) => "over days".to_owned(),
        ("deployment", None) => "after a deployment".to_owned(),
        _ => "without a deployment".to_owned(),
    }
}

/// What got slower, for the top of another page.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Strip {
    /// Address, endpoint, what, since when.
    pub rows: Vec<(String, String, String, String)>,
    /// Open ones beyond those.
    pub more: usize,
    /// The address of all.
    pub all: String,
}

/// The open regressions of the services that `filters` leave, or of one endpoint.
///
/// # Errors
/// The database is away.
pub async fn strip(
    store: &Store,
    filters: &Filters,
    endpoint_id: Option<i32>,
    now_ns: u64,
) -> Result<Strip, PageError> {
    /// As many as are worth counting.
    const COUNTED_MAX: i64 = 100;
    let open = Filters {
        service: filters.service.clone(),
        environment: filters.environment.clone(),
        state: "open".to_owned(),
        ..Filters::default()
    };
    let wanted = RegressionFilter {
        endpoint_id,
        ..filter(&open, COUNTED_MAX)
    };
    let shown = store.shown_regressions(&wanted).await?;
    let row = |it: &ShownRegression| {
        let since = format::when(ms_to_ns(it.began_ms), now_ns);
        (
            format!("/regressions/{}", it.id),
            it.endpoint.name.clone(),
            went(&it.numbers),
            format!("since {since}, {}", after(it)),
        )
    };
    Ok(Strip {
        rows: shown.iter().take(STRIP_MAX).map(row).collect(),
        more: shown.len().saturating_sub(STRIP_MAX),
        all: open.link("/regressions", &[]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOSTILE, Site};
    use scraper::{Html, Selector};

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let text = |it: scraper::ElementRef| {
            let text: String = it.text().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        html.select(&selector).map(text).collect()
    }

    /// Endpoints of these names, each with an open regression.
    async fn site(names: &[&str]) -> Site {
        let site = Site::on(collector::testing::store().await);
        let pool = site.store.pool();
        sqlx::query("insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod')")
            .execute(pool)
            .await
            .unwrap();
        for (at, name) in names.iter().enumerate() {
            let endpoint: i32 = sqlx::query_scalar(
                "insert into culprit.endpoints (service_id, name) values (1, $1) returning id",
            )
            .bind(name.replace('\0', ""))
            .fetch_one(pool)
            .await
            .unwrap();
            sqlx::query(
                "insert into culprit.regressions (id, endpoint_id, kind, state, severity, title, began_at, detected_at,
                     base_from, base_to, numbers)
                 values ($1, $2, 'sudden', 'open', 1, $3, now() - make_interval(mins => $2), now(), now(), now(),
                     '{\"quantile\": 0.99, \"before_ns\": 180000000, \"after_ns\": 420000000}')",
            )
            .bind(uuid::Uuid::from_u128(at as u128))
            .bind(endpoint)
            .bind(name.replace('\0', ""))
            .execute(pool)
            .await
            .unwrap();
        }
        site
    }

    #[tokio::test]
    async fn open_ones_are_listed_and_stand_on_the_front_page() {
        let names = ["POST /a", "POST /b", "POST /c", "POST /d", "POST /e"];
        let site = site(&names).await;
        sqlx::query("update culprit.regressions set state = 'resolved' where endpoint_id = 5")
            .execute(site.store.pool())
            .await
            .unwrap();
        let html = Html::parse_document(&site.page("/regressions").await);
        assert_eq!(texts(&html, "h1"), ["4 things are slower than they were"]);
        assert_eq!(
            texts(&html, ".listbar .seg a"),
            ["All 5", "Open 4", "Resolved 1", "Accepted 0"]
        );
        assert_eq!(texts(&html, "tbody th a"), names);
        let html = Html::parse_document(&site.page("/regressions?state=resolved").await);
        assert_eq!(texts(&html, "tbody th a"), ["POST /e"]);
        let none = site.page("/regressions?service=cart&state=open").await;
        assert!(none.contains("None with these filters"), "{none}");
        let front = Html::parse_document(&site.page("/").await);
        let strip = texts(&front, ".strip");
        assert!(
            strip[0].starts_with("Got slower: POST /a P99 180 → 420 ms since "),
            "{strip:?}"
        );
        assert!(strip[0].ends_with("… and 1 more"), "{strip:?}");
        let (status, ..) = site.get("/regressions?state=lost").await;
        assert_eq!(status, 400);
        let json = site.page("/api/v1/regressions?state=open").await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["regressions"].as_array().unwrap().len(), 4);
        assert_eq!(json["regressions"][0]["numbers"]["after_ns"], 420_000_000);
    }

    #[tokio::test]
    async fn hostile_names_stay_text() {
        let site = site(&HOSTILE).await;
        for address in [
            "/regressions",
            "/",
            "/regressions/00000000-0000-0000-0000-000000000001",
        ] {
            site.page(address).await;
        }
    }

    #[test]
    fn numbers_are_words() {
        let numbers = |before_ns, after_ns| Numbers {
            quantile: 0.5,
            before_ns,
            after_ns,
            ..Numbers::default()
        };
        assert_eq!(went(&numbers(180_000_000, 420_000_000)), "P50 180 → 420 ms");
        assert_eq!(went(&numbers(900_000, 1_200_000_000)), "P50 900 µs → 1.2 s");
        assert_eq!(percentile_name(0.999), "P99.9");
        assert_eq!(percentile_name(f64::NAN), "PNaN");
    }
}
