//! What pages ask about one endpoint.

use analyzer::category::Category;
use futures_util::TryStreamExt;
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;
use std::ops::Range;

use super::bottlenecks::Minutes;
use super::encoding::{self, StatementCalls, Statements};
use super::profiles::hours;
use super::requests::{self, ListedRequest, RequestFilter};
use super::rollups::minute_sums;
use super::services::ServiceName;
use super::{Store, StoreError};
use crate::contribution::{signed, unsigned};
use crate::deltas::MinuteDelta;

/// An endpoint as the dictionaries know it.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointName {
    /// endpoints.id
    pub id: i32,
    /// Such as `GET /posts`.
    pub name: String,
    /// Whose.
    pub service: ServiceName,
}

/// A statement that requests of an endpoint sent.
#[derive(Clone, PartialEq, Debug)]
pub struct SentStatement {
    /// statements.id
    pub id: i32,
    /// db.system.name, such as `postgresql`.
    pub system: String,
    /// Without literals.
    pub text: String,
    /// How often and how long.
    pub calls: StatementCalls,
}

/// A finding at an endpoint.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct EndpointFinding {
    /// finding_keys.id
    pub id: i32,
    /// `new` or `open`.
    pub state: String,
    /// The detector's id.
    pub detector: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// One sentence.
    pub title: String,
    /// What fixing it would have saved, weighted, in the window, ns.
    pub saved_ns: i64,
    /// Requests affected in the window, weighted.
    pub requests: i64,
}

impl EndpointFinding {
    /// The severity in words.
    pub fn severity_name(&self) -> &'static str {
        let names = ["info", "warning", "critical"];
        names.get(self.severity as usize).unwrap_or(&names[0])
    }
}

/// One request, without its spans.
#[derive(Clone, PartialEq, Debug)]
pub struct RequestRow {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The entry span: 16 hexadecimal digits.
    pub span_id: String,
    /// Since the epoch, ns.
    pub start_ns: i64,
    /// ns
    pub duration_ns: i64,
    /// It failed.
    pub error: bool,
    /// A detector found something in it.
    pub has_finding: bool,
    /// Spans in the whole trace.
    pub spans: i32,
    /// Critical-path time by category, ns.
    pub categories: [i64; Category::COUNT],
}

/// Which requests come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestOrder {
    /// The longest.
    Slowest,
    /// The last.
    Latest,
}

impl Store {
    /// The endpoint with this id.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint(&self, id: i32) -> Result<Option<EndpointName>, StoreError> {
        let row = sqlx::query(
            "select e.name as endpoint, s.id, s.namespace, s.name, s.environment
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where e.id = $1",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            let service = ServiceName::from_row(&row)?;
            Ok(EndpointName {
                id,
                name: row.try_get("endpoint")?,
                service,
            })
        })
        .transpose()
    }

    /// The id of the endpoint with these names: namespace, service, environment, endpoint.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint_named(&self, names: [&str; 4]) -> Result<Option<i32>, StoreError> {
        // A NUL cannot be stored, nor compared: the dictionary has it replaced too.
        let [namespace, service, environment, endpoint] =
            names.map(|it| it.replace('\0', "\u{fffd}"));
        let id = sqlx::query_scalar(
            "select e.id from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where s.namespace = $1 and s.name = $2 and s.environment = $3 and e.name = $4",
        )
        .bind(namespace)
        .bind(service)
        .bind(environment)
        .bind(endpoint)
        .fetch_optional(self.pool())
        .await?;
        Ok(id)
    }

    /// An endpoint's requests of `minutes`, added up by minute. What was merged
    /// into an hour stands at the hour's first minute, or at the window's if that is later.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_minutes(
        &self,
        id: i32,
        minutes: Minutes,
    ) -> Result<BTreeMap<i32, MinuteDelta>, StoreError> {
        let mut sums: BTreeMap<i32, MinuteDelta> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select minute, requests, errors, duration_ns, categories, calls, latency
             from culprit.rollup_minutes
             where endpoint_id = $1 and minute < $3 and minute >= $2 - 59 and minute + width > $2",
        )
        .bind(id)
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let minute: i32 = row.try_get("minute")?;
            let sum = sums.entry(minute.max(minutes.from)).or_default();
            sum.merge(&minute_sums(&row)?, 1);
        }
        sums.retain(|_, it| it.requests > 0);
        Ok(sums)
    }

    /// The statements that an endpoint's requests sent in the hours that `minutes` touches, the
    /// most time in total first, at most `limit`.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_statements(
        &self,
        id: i32,
        minutes: Minutes,
        limit: usize,
    ) -> Result<Vec<SentStatement>, StoreError> {
        let hours = hours(minutes);
        let mut sums = Statements::new();
        let mut rows = sqlx::query(
            "select statements from culprit.rollup_hours
             where endpoint_id = $1 and hour >= $2 and hour < $3",
        )
        .bind(id)
        .bind(hours.start)
        .bind(hours.end)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            for (id, calls) in encoding::statements(row.try_get("statements")?)? {
                sums.entry(id).or_default().merge(&calls, 1);
            }
        }
        let mut sums: Vec<(i32, StatementCalls)> = sums.into_iter().collect();
        sums.retain(|(_, it)| it.calls > 0);
        sums.sort_by_key(|(id, it)| (std::cmp::Reverse(it.sum_ns), *id));
        sums.truncate(limit);
        self.with_texts(sums).await
    }

    async fn with_texts(
        &self,
        sums: Vec<(i32, StatementCalls)>,
    ) -> Result<Vec<SentStatement>, StoreError> {
        let ids: Vec<i32> = sums.iter().map(|it| it.0).collect();
        let texts: Vec<(i32, String, String)> =
            sqlx::query_as("select id, system, text from culprit.statements where id = any($1)")
                .bind(&ids)
                .fetch_all(self.pool())
                .await?;
        let mut texts: BTreeMap<i32, (String, String)> = texts
            .into_iter()
            .map(|(id, system, text)| (id, (system, text)))
            .collect();
        let statements = sums.into_iter().filter_map(|(id, calls)| {
            let (system, text) = texts.remove(&id)?;
            Some(SentStatement {
                id,
                system,
                text,
                calls,
            })
        });
        Ok(statements.collect())
    }

    /// The findings at an endpoint, with what they cost in `minutes` (to ten minutes), the dearest
    /// first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint_findings(
        &self,
        id: i32,
        minutes: Minutes,
    ) -> Result<Vec<EndpointFinding>, StoreError> {
        let findings = sqlx::query_as(
            "select f.id, f.state, f.detector, f.severity, f.title,
                    coalesce(h.saved_ns, 0) as saved_ns, coalesce(h.requests, 0) as requests
             from culprit.findings f
             left join lateral (
                 select sum(saved_ns)::bigint as saved_ns, sum(requests)::bigint as requests
                 from culprit.finding_hits
                 where finding_id = f.id and minute < $3 and minute > $2 - 60 and minute + width > $2) h on true
             where f.endpoint_id = $1
             order by saved_ns desc, f.id",
        )
        .bind(id)
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch_all(self.pool())
        .await?;
        Ok(findings)
    }

    /// An endpoint's requests that started in `ns` (since the epoch), at most `limit`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint_requests(
        &self,
        id: i32,
        ns: Range<i64>,
        order: RequestOrder,
        limit: i64,
    ) -> Result<Vec<RequestRow>, StoreError> {
        let filter = RequestFilter {
            from_ns: unsigned(ns.start),
            until_ns: unsigned(ns.end),
            order: match order {
                RequestOrder::Slowest => requests::RequestOrder::Slowest,
                RequestOrder::Latest => requests::RequestOrder::Newest,
            },
            ..RequestFilter::newest(limit)
        };
        let page = self.requests_of(&filter, Some(vec![id])).await?;
        Ok(page.rows.into_iter().map(request).collect())
    }
}

fn request(row: ListedRequest) -> RequestRow {
    RequestRow {
        trace_id: row.trace_id.to_string(),
        span_id: row.span_id.to_string(),
        start_ns: signed(row.start_ns),
        duration_ns: signed(row.duration_ns),
        error: row.error,
        has_finding: row.has_finding,
        spans: i32::try_from(row.spans).unwrap_or(i32::MAX),
        categories: row.categories.map(signed),
    }
}
