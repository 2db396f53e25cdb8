//! What pages ask about statements: who sends which, how often, and how long requests wait for them.

use futures_util::TryStreamExt;
use sqlx::{FromRow, Row};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::bottlenecks::Minutes;
use super::encoding::{self, StatementCalls};
use super::profiles::hours;
use super::services::ServiceName;
use super::{Store, StoreError};

/// Whose statements. Empty texts mean all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatementFilter<'a> {
    /// A service's name.
    pub service: &'a str,
    /// An environment.
    pub environment: &'a str,
    /// An endpoint's name.
    pub endpoint: &'a str,
}

/// The statements of a window of whole hours.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SentStatements {
    /// By id.
    pub statements: Vec<StatementSums>,
    /// What all requests of the endpoints asked for took, ns, weighted.
    pub requests_ns: i64,
}

/// A statement and who sends it.
#[derive(Clone, PartialEq, Debug)]
pub struct StatementSums {
    /// statements.id
    pub id: i32,
    /// db.system.name, such as `postgresql`.
    pub system: String,
    /// Without literals.
    pub text: String,
    /// All calls.
    pub calls: StatementCalls,
    /// Requests of the endpoints that send it, weighted.
    pub requests: i64,
    /// Who sends it, the most time on the critical path first.
    pub endpoints: Vec<SendingEndpoint>,
    /// Findings about it there.
    pub findings: Vec<StatementFinding>,
}

/// An endpoint that sends a statement.
#[derive(Clone, PartialEq, Debug)]
pub struct SendingEndpoint {
    /// endpoints.id
    pub id: i32,
    /// Such as `GET /posts`.
    pub name: String,
    /// Whose.
    pub service: ServiceName,
    /// Its requests, weighted.
    pub requests: i64,
    /// Its calls.
    pub calls: StatementCalls,
}

/// A finding about a statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatementFinding {
    /// findings.id
    pub id: i32,
    /// One sentence.
    pub title: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
}

/// An endpoint's names and its requests' sums.
struct Endpoint {
    name: String,
    service: ServiceName,
    requests: i64,
}

/// Endpoints of one question at most, those with the latest id first: there are a thousand for each service.
const ENDPOINTS_MAX: i64 = 5_000;

impl Store {
    /// The statements that requests sent in the hours that `minutes` touches. Roll-ups keep statements by
    /// the hour, so that these are whole hours.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn sent_statements(
        &self,
        minutes: Minutes,
        filter: StatementFilter<'_>,
    ) -> Result<SentStatements, StoreError> {
        let hours = hours(minutes);
        let mut endpoints = self.endpoints_of(filter).await?;
        let ids: Vec<i32> = endpoints.keys().copied().collect();
        let requests_ns = self.add_requests(&mut endpoints, &ids, &hours).await?;
        let sums = self.statement_sums(&ids, &hours).await?;
        let mut statements = self.named_statements(sums, &endpoints).await?;
        self.add_findings(&mut statements, &ids).await?;
        Ok(SentStatements {
            statements,
            requests_ns,
        })
    }

    async fn endpoints_of(
        &self,
        filter: StatementFilter<'_>,
    ) -> Result<HashMap<i32, Endpoint>, StoreError> {
        let rows = sqlx::query(
            "select e.id as endpoint_id, e.name as endpoint, s.id, s.namespace, s.name, s.environment
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where ($1 = '' or s.name = $1) and ($2 = '' or s.environment = $2) and ($3 = '' or e.name = $3)
             order by e.id desc limit $4",
        )
        .bind(filter.service)
        .bind(filter.environment)
        .bind(filter.endpoint)
        .bind(ENDPOINTS_MAX)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let endpoint = Endpoint {
                    name: row.try_get("endpoint")?,
                    service: ServiceName::from_row(row)?,
                    requests: 0,
                };
                Ok((row.try_get("endpoint_id")?, endpoint))
            })
            .collect()
    }

    /// Fills in the endpoints' requests; what all of them took, ns.
    async fn add_requests(
        &self,
        endpoints: &mut HashMap<i32, Endpoint>,
        ids: &[i32],
        hours: &Range<i32>,
    ) -> Result<i64, StoreError> {
        let sums: Vec<(i32, i64, i64)> = sqlx::query_as(
            "select endpoint_id, sum(requests)::bigint, sum(duration_ns)::bigint
             from culprit.rollup_minutes
             where endpoint_id = any($1) and minute >= $2 and minute < $3 group by endpoint_id",
        )
        .bind(ids)
        .bind(hours.start.saturating_mul(60))
        .bind(hours.end.saturating_mul(60))
        .fetch_all(self.pool())
        .await?;
        let mut total_ns = 0_i64;
        for (id, requests, duration_ns) in sums {
            if let Some(endpoint) = endpoints.get_mut(&id) {
                endpoint.requests = requests;
                total_ns = total_ns.saturating_add(duration_ns);
            }
        }
        Ok(total_ns)
    }

    /// By statement and endpoint.
    async fn statement_sums(
        &self,
        ids: &[i32],
        hours: &Range<i32>,
    ) -> Result<BTreeMap<(i32, i32), StatementCalls>, StoreError> {
        let mut sums: BTreeMap<(i32, i32), StatementCalls> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, statements from culprit.rollup_hours
             where endpoint_id = any($1) and hour >= $2 and hour < $3",
        )
        .bind(ids)
        .bind(hours.start)
        .bind(hours.end)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let endpoint: i32 = row.try_get("endpoint_id")?;
            for (statement, calls) in encoding::statements(row.try_get("statements")?)? {
                sums.entry((statement, endpoint))
                    .or_default()
                    .merge(&calls, 1);
            }
        }
        sums.retain(|_, it| it.calls > 0);
        Ok(sums)
    }

    async fn named_statements(
        &self,
        sums: BTreeMap<(i32, i32), StatementCalls>,
        endpoints: &HashMap<i32, Endpoint>,
    ) -> Result<Vec<StatementSums>, StoreError> {
        let ids: Vec<i32> = sums.keys().map(|it| it.0).collect();
        let texts: Vec<(i32, String, String)> = sqlx::query_as(
            "select id, system, text from culprit.statements where id = any($1) order by id",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        let mut statements: Vec<StatementSums> = Vec::with_capacity(texts.len());
        for (id, system, text) in texts {
            let mut statement = StatementSums {
                id,
                system,
                text,
                calls: StatementCalls::default(),
                requests: 0,
                endpoints: Vec::new(),
                findings: Vec::new(),
            };
            for ((_, endpoint_id), calls) in sums.range((id, i32::MIN)..=(id, i32::MAX)) {
                let Some(endpoint) = endpoints.get(endpoint_id) else {
                    continue;
                };
                statement.calls.merge(calls, 1);
                statement.requests += endpoint.requests;
                statement.endpoints.push(SendingEndpoint {
                    id: *endpoint_id,
                    name: endpoint.name.clone(),
                    service: endpoint.service.clone(),
                    requests: endpoint.requests,
                    calls: calls.clone(),
                });
            }
            let order = |it: &SendingEndpoint| (std::cmp::Reverse(it.calls.critical_ns), it.id);
            statement.endpoints.sort_by_key(order);
            statements.push(statement);
        }
        Ok(statements)
    }

    async fn add_findings(
        &self,
        statements: &mut [StatementSums],
        endpoints: &[i32],
    ) -> Result<(), StoreError> {
        let found: Vec<(i32, String, i16, String)> = sqlx::query_as(
            "select id, title, severity, evidence ->> 'statement' from culprit.findings
             where endpoint_id = any($1) and evidence ->> 'statement' <> '' order by severity desc, id",
        )
        .bind(endpoints)
        .fetch_all(self.pool())
        .await?;
        let mut by_text: HashMap<String, Vec<StatementFinding>> = HashMap::new();
        for (id, title, severity, text) in found {
            let finding = StatementFinding {
                id,
                title,
                severity,
            };
            by_text.entry(text).or_default().push(finding);
        }
        for statement in statements {
            statement.findings = by_text.get(&statement.text).cloned().unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::encoding::{Statements, statements_bytes};
    use sqlx::Executor;

    const MS: i64 = 1_000_000;

    /// So many calls of so many ms each, half of it on the critical path.
    pub fn calls(count: i64, ms: i64) -> StatementCalls {
        let mut calls = StatementCalls {
            calls: count,
            sum_ns: count * ms * MS,
            critical_ns: count * ms * MS / 2,
            ..StatementCalls::default()
        };
        calls.latency.record((ms * MS) as u64, count);
        calls
    }

    async fn hour(store: &Store, endpoint: i32, hour: i32, statements: &[(i32, StatementCalls)]) {
        let statements: Statements = statements.iter().cloned().collect();
        sqlx::query(
            "insert into culprit.rollup_hours (day, shard, endpoint_id, version_id, hour, part, statements, profile,
                 tail_requests, tail_profile)
             values ((now() at time zone 'utc')::date, 0, $1, 1, $2, 1, $3, '', 0, '')",
        )
        .bind(endpoint)
        .bind(hour)
        .bind(statements_bytes(&statements))
        .execute(store.pool())
        .await
        .unwrap();
    }

    /// Two services; both endpoints of `shop` send the first statement in hour 10, one sends it in hour 20.
    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        store
            .pool()
            .execute(sqlx::raw_sql(
                "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod'), ('', 'cart', 'prod');
                 insert into culprit.endpoints (service_id, name) values (1, 'GET /a'), (1, 'GET /b'), (2, 'GET /c');
                 insert into culprit.statements (digest, system, text) values
                     ('\\x01', 'postgresql', 'select ? from a'), ('\\x02', 'redis', 'get user:?');
                 insert into culprit.rollup_minutes (day, shard, endpoint_id, version_id, minute, width, part, requests,
                     errors, duration_ns, categories, calls, latency)
                 select (now() at time zone 'utc')::date, 0, e, 1, 600, 1, 1, 10, 0, 1000000000, '{}', '{}', ''
                 from generate_series(1, 3) e;
                 insert into culprit.findings (id, state, detector, service_id, endpoint_id, severity, confidence, title,
                     first_seen, last_seen, traces, evidence)
                 values (7, 'new', 'slow-query', 1, 1, 2, 1, 'slow', now(), now(), 3, '{\"statement\": \"select ? from a\"}')",
            ))
            .await
            .unwrap();
        hour(&store, 1, 10, &[(1, calls(20, 10)), (2, calls(5, 1))]).await;
        hour(&store, 2, 10, &[(1, calls(10, 30))]).await;
        hour(&store, 3, 10, &[(2, calls(7, 1))]).await;
        hour(&store, 1, 20, &[(1, calls(99, 10))]).await;
        store
    }

    const WINDOW: Minutes = Minutes { from: 610, to: 650 };

    #[tokio::test]
    async fn statements_are_summed_over_the_endpoints_that_send_them() {
        let store = drawn().await;
        let shop = StatementFilter {
            service: "shop",
            ..StatementFilter::default()
        };
        let sent = store.sent_statements(WINDOW, shop).await.unwrap();
        assert_eq!(sent.requests_ns, 2_000 * MS);
        let [select, get] = &sent.statements[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(
            (select.calls.calls, select.calls.sum_ns, select.requests),
            (30, 500 * MS, 20)
        );
        assert_eq!(select.calls.critical_ns, 250 * MS);
        assert_eq!(select.calls.latency.count(), 30);
        let names: Vec<_> = select
            .endpoints
            .iter()
            .map(|it| (it.name.as_str(), it.calls.calls))
            .collect();
        assert_eq!(names, [("GET /b", 10), ("GET /a", 20)], "most time first");
        assert_eq!(select.findings.len(), 1);
        assert_eq!(
            (get.calls.calls, get.findings.len(), get.system.as_str()),
            (5, 0, "redis")
        );
    }

    #[tokio::test]
    async fn filters_narrow_to_services_environments_and_endpoints() {
        let store = drawn().await;
        let count = async |service, environment, endpoint| {
            let filter = StatementFilter {
                service,
                environment,
                endpoint,
            };
            let sent = store.sent_statements(WINDOW, filter).await.unwrap();
            sent.statements.iter().map(|it| it.calls.calls).sum::<i64>()
        };
        assert_eq!(count("", "", "").await, 42);
        assert_eq!(count("", "prod", "").await, 42);
        assert_eq!(count("cart", "", "").await, 7);
        assert_eq!(count("shop", "", "GET /b").await, 10);
        assert_eq!(count("shop", "staging", "").await, 0);
    }
}
