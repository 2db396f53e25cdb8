//! What was deployed when, and the worst that came with it.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::deployments::Deployment;
use collector::store::regressions_shown::{NewFinding, RegressionFilter, ShownRegression};

use crate::deployed::{self, Listed, ms_to_ns, version_title};
use crate::pages::context::{Selectable, selectable};
use crate::pages::regressions::{severity, went};
use crate::pages::{Frame, PageError, render};
use crate::{AppState, format};

/// Services to choose from at most.
const SERVICES_MAX: i64 = 500;

/// Regressions read for one page at most: of each deployment the worst is shown.
const REGRESSIONS_MAX: i64 = 500;

/// The page.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let store = &state.store;
    let now_ns = format::now_ns();
    let listed = deployed::read(store, query.as_deref(), now_ns).await?;
    let ids: Vec<i32> = listed.deployments.iter().map(|it| it.id).collect();
    let (mut regressions, mut findings) = (Vec::new(), Vec::new());
    if !ids.is_empty() {
        let filter = RegressionFilter {
            deployments: &ids,
            limit: REGRESSIONS_MAX,
            ..RegressionFilter::default()
        };
        regressions = store.shown_regressions(&filter).await?;
        findings = store.findings_since(&ids).await?;
    }
    let services = store.services_named("", SERVICES_MAX).await?;
    let mut names: Vec<String> = services.into_iter().map(|it| it.name).collect();
    names.dedup();
    let rows = listed
        .deployments
        .iter()
        .map(|it| row(it, &regressions, &findings, now_ns));
    Ok(render(&Page {
        frame: Frame {
            current: "/deployments",
        },
        rows: rows.collect(),
        services: selectable(names.iter(), &listed.service),
        is_narrowed: !listed.service.is_empty() || !listed.environment.is_empty(),
        listed: &listed,
    }))
}

#[derive(Template)]
#[template(path = "deployments.html")]
struct Page<'a> {
    frame: Frame,
    listed: &'a Listed,
    rows: Vec<Row<'a>>,
    services: Vec<Selectable>,
    is_narrowed: bool,
}

struct Row<'a> {
    deployment: &'a Deployment,
    version: &'a str,
    previous: &'a str,
    when: String,
    exactly: String,
    compare: String,
    /// Only an address that a browser may follow.
    url: Option<&'a str>,
    /// The worst regression after it.
    worst: Option<Worst<'a>>,
    more_regressions: usize,
    /// The worst finding that was first seen with it.
    finding: Option<&'a NewFinding>,
    more_findings: usize,
}

struct Worst<'a> {
    regression: &'a ShownRegression,
    severity: &'static str,
    went: String,
}

fn row<'a>(
    it: &'a Deployment,
    regressions: &'a [ShownRegression],
    findings: &'a [NewFinding],
    now_ns: u64,
) -> Row<'a> {
    // Those that are open, and then the worst, come first.
    let mut after: Vec<&ShownRegression> = regressions
        .iter()
        .filter(|regression| regression.deployment_id == Some(it.id))
        .collect();
    after.sort_by_key(|it| (it.state != "open", std::cmp::Reverse(it.severity)));
    let mut new = findings.iter().filter(|found| found.deployment_id == it.id);
    let at_ns = ms_to_ns(it.at_ms);
    Row {
        deployment: it,
        version: version_title(&it.version),
        previous: version_title(&it.previous),
        when: format::ago(at_ns, now_ns),
        exactly: format::at(at_ns),
        compare: deployed::compare_link(it, None),
        // Told ones are checked; what stands in the database need not be.
        url: Some(&*it.url).filter(|it| it.starts_with("https://") || it.starts_with("http://")),
        more_regressions: after.len().saturating_sub(1),
        worst: after.first().map(|it| Worst {
            regression: it,
            severity: severity(it.severity),
            went: went(&it.numbers),
        }),
        finding: new.next(),
        more_findings: new.count(),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{HOSTILE, Site};
    use scraper::{Html, Selector};

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let text = |it: scraper::ElementRef| it.text().collect::<String>().trim().to_owned();
        html.select(&selector).map(text).collect()
    }

    async fn run(site: &Site, sql: &'static str) {
        sqlx::query(sql).execute(site.store.pool()).await.unwrap();
    }

    async fn site() -> Site {
        let site = Site::on(collector::testing::store().await);
        run(
            &site,
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod'), ('', 'cart', '')",
        )
        .await;
        run(
            &site,
            "insert into culprit.endpoints (service_id, name) values (1, 'POST /checkout')",
        )
        .await;
        run(
            &site,
            "insert into culprit.versions (service_id, version) values (1, '1.1')",
        )
        .await;
        run(
            &site,
            "insert into culprit.deployments (service_id, version, previous, at, source, description, url) values
             (1, '1.1', '1.0', now() - interval '1 hour', 'seen', '', ''),
             (2, '7', '', now() - interval '2 hours', 'told', 'Prices', 'https://ci.example/7')",
        )
        .await;
        run(
            &site,
            "insert into culprit.regressions (id, endpoint_id, kind, deployment_id, state, severity, title, began_at,
                 detected_at, base_from, base_to, numbers)
             select gen_random_uuid(), 1, 'deployment', 1, state, 2, 'POST /checkout is slower', now(), now(), now(), now(),
                 '{\"quantile\": 0.99, \"before_ns\": 180000000, \"after_ns\": 420000000}'
             from unnest(array['open', 'resolved']) as state",
        )
        .await;
        run(
            &site,
            "insert into culprit.findings values (1, 'new', 'n-plus-one-query', 1, 1, 1, 2, 0.9, '31 × select',
             now() - interval '50 minutes', now(), 7, '{}')",
        )
        .await;
        site
    }

    #[tokio::test]
    async fn each_says_what_came_with_it() {
        let site = site().await;
        let html = Html::parse_document(&site.page("/deployments").await);
        assert_eq!(texts(&html, "tbody th b"), ["1.1", "7"]);
        let after = texts(&html, "tbody td.after");
        assert!(after[0].contains("P99 180 → 420 ms"), "{after:?}");
        assert!(
            after[0].contains("1 more") && after[0].contains("31 × select"),
            "{after:?}"
        );
        assert_eq!(after[1], "nothing known");
        let link = Selector::parse("a[rel]").unwrap();
        let link = html.select(&link).next().unwrap();
        assert_eq!(link.attr("href"), Some("https://ci.example/7"));
        let narrowed = Html::parse_document(&site.page("/deployments?service=cart").await);
        assert_eq!(texts(&narrowed, "tbody th b"), ["7"]);
        let none = site.page("/deployments?service=nobody").await;
        assert!(none.contains("No deployment"), "{none}");
    }

    #[tokio::test]
    async fn hostile_names_stay_text() {
        let site = site().await;
        for name in HOSTILE {
            let name = name.replace('\0', "");
            sqlx::query(
                "insert into culprit.deployments (service_id, version, previous, at, source, description)
                 values (1, $1, $1, now(), 'told', $1)",
            )
            .bind(name)
            .execute(site.store.pool())
            .await
            .unwrap();
        }
        site.page("/deployments").await;
        site.page("/services").await;
    }
}
