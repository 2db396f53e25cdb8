//! Pages as a browser gets them: what a reader waits for before there is anything to see.

use anyhow::Context;
use bytes::Bytes;
use collector::store::bottlenecks::Minutes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sqlx::PgConnection;

use crate::range::Range;
use crate::statement_key;

/// What there is to look at.
pub struct Shown {
    endpoint: i32,
    service: i32,
    /// System and text of a statement.
    statement: Option<(String, String)>,
    /// A finding; the load has none unless a detector finds fault with it.
    finding: Option<i32>,
    trace: uuid::Uuid,
}

impl Shown {
    /// The endpoint with the most requests, its service, and one of the rest each.
    ///
    /// # Errors
    /// The database is away, or nothing is stored.
    pub async fn of(database: &mut PgConnection) -> anyhow::Result<Shown> {
        let endpoint: Option<(i32, i32)> = sqlx::query_as(
            "select e.id, e.service_id from culprit.endpoints e join culprit.rollup_minutes r on r.endpoint_id = e.id
             group by e.id order by sum(r.requests) desc, e.id limit 1",
        )
        .fetch_optional(&mut *database)
        .await?;
        let (endpoint, service) = endpoint.context("no requests are stored")?;
        let statement =
            sqlx::query_as("select system, text from culprit.statements order by id limit 1")
                .fetch_optional(&mut *database)
                .await?;
        let (finding, trace) = sqlx::query_as(
            "select (select min(id) from culprit.findings),
                    (select trace_ids[1] from culprit.trace_blocks order by last_start_ns desc limit 1)",
        )
        .fetch_one(&mut *database)
        .await?;
        Ok(Shown {
            endpoint,
            service,
            statement,
            finding,
            trace,
        })
    }

    /// Name and address of each page, over all of `window`.
    pub fn addresses(&self, window: Minutes) -> Vec<(&'static str, String)> {
        let range = format!("range={}", covering(window).id());
        let endpoint = format!("/endpoints/{}?{range}", self.endpoint);
        let mut pages = vec![
            ("bottlenecks", format!("/?{range}")),
            ("services", format!("/services?{range}")),
            ("statements", format!("/statements?{range}")),
            ("traces", format!("/traces?{range}")),
            ("traces_slowest", format!("/traces?{range}&sort=slowest")),
            ("endpoint", endpoint.clone()),
            ("endpoint_tail", format!("{endpoint}&flame=tail-versus-all")),
            (
                "endpoint_slow",
                format!("/endpoints/{}/slow?{range}", self.endpoint),
            ),
            ("deployments", "/deployments".to_owned()),
            ("regressions", "/regressions".to_owned()),
            ("alerts", "/alerts".to_owned()),
            (
                "compare_endpoint",
                format!("/compare?endpoint_id={}", self.endpoint),
            ),
            (
                "compare_service",
                format!("/compare?service_id={}", self.service),
            ),
            ("status", "/status".to_owned()),
            ("trace", format!("/traces/{}", self.trace.simple())),
        ];
        if let Some(id) = self.finding {
            pages.push(("bottleneck", format!("/bottlenecks/{id}?{range}")));
        }
        if let Some((system, text)) = &self.statement {
            let page = statement_key::href(system, text);
            pages.push(("statement", format!("{page}?{range}")));
        }
        pages
    }
}

/// The shortest range that has all of `window`.
fn covering(window: Minutes) -> Range {
    let now = crate::format::now_ns();
    let ranges = Range::ALL.into_iter();
    let mut covering = ranges.filter(|it| it.window(now).from <= window.from);
    covering.next().unwrap_or(Range::Week)
}

/// A page, and a connection that is kept open.
pub struct Page {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: http::Uri,
}

impl Page {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(ui: &str, address: &str) -> anyhow::Result<Page> {
        Ok(Page {
            client: Client::builder(TokioExecutor::new()).build_http(),
            uri: format!("{ui}{address}").parse()?,
        })
    }

    /// Its bytes, once it is there. A page that this culprit does not have has none.
    ///
    /// # Errors
    /// It cannot be shown.
    pub async fn get(&self) -> anyhow::Result<usize> {
        let response = self.client.get(self.uri.clone()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == http::StatusCode::NOT_FOUND {
            return Ok(0);
        }
        anyhow::ensure!(status.is_success(), "{}: {status}", self.uri);
        Ok(body.len())
    }
}
