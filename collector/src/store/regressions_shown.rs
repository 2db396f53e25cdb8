//! Regressions as people see them and act on them. Who finds them, and when they end by themselves, is
//! the review's.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::audit::{self, Entry};
use super::endpoints::EndpointName;
use super::services::ServiceName;
use super::{Store, StoreError};
use crate::regression::evidence::{Explanation, Numbers};

/// An endpoint, or a statement of it, that became slower.
#[derive(Clone, PartialEq, Debug)]
pub struct ShownRegression {
    /// regressions.id
    pub id: Uuid,
    /// Where.
    pub endpoint: EndpointName,
    /// The statement's system and text; `None`: the whole endpoint.
    pub statement: Option<(String, String)>,
    /// `deployment`, `sudden` or `drift`.
    pub kind: String,
    /// After which deployment.
    pub deployment_id: Option<i32>,
    /// Its version, if it is still known.
    pub deployed: Option<String>,
    /// `open`, `resolved` or `accepted`.
    pub state: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// One sentence.
    pub title: String,
    /// Slower since, ms since the epoch.
    pub began_ms: i64,
    /// ms since the epoch.
    pub detected_ms: i64,
    /// It looks as before since, ms since the epoch.
    pub calm_ms: Option<i64>,
    /// ms since the epoch.
    pub resolved_ms: Option<i64>,
    /// Only requests of this version are compared with; `None`: of any.
    pub base_version: Option<String>,
    /// What it is compared with begins, ms since the epoch.
    pub base_from_ms: i64,
    /// And ends.
    pub base_to_ms: i64,
    /// Only requests of this version are slower; `None`: of any.
    pub version: Option<String>,
    /// The comparison.
    pub numbers: Numbers,
    /// What grew, once it is known.
    pub explanation: Option<Explanation>,
}

/// Which regressions. Open ones come first, then the latest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegressionFilter<'a> {
    /// A service's name; empty: all.
    pub service: &'a str,
    /// An environment; empty: all.
    pub environment: &'a str,
    /// A state; empty: all.
    pub state: &'a str,
    /// Only of this endpoint.
    pub endpoint_id: Option<i32>,
    /// Only after one of these deployments; empty: any.
    pub deployments: &'a [i32],
    /// At most so many.
    pub limit: i64,
}

/// What people can make of an open regression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As slow as this is normal from now on.
    Accepted,
    /// It is over.
    Resolved,
}

impl Verdict {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Accepted => "accepted",
            Verdict::Resolved => "resolved",
        }
    }
}

/// What became of an attempt to act on a regression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acted {
    /// It is done.
    Done,
    /// There is none of this id.
    Unknown,
    /// It is not open any more: its state.
    NotOpen(String),
}

/// A finding that was first seen in a version.
#[derive(Clone, PartialEq, Debug, FromRow)]
pub struct NewFinding {
    /// deployments.id
    pub deployment_id: i32,
    /// findings.id
    pub id: i32,
    /// One sentence.
    pub title: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// Where.
    pub endpoint: String,
}

/// Findings told of one deployment at most, the worst.
const NEW_FINDINGS_MAX: i64 = 20;

/// Exporters and analysis take their time: a finding may be noted so much before the minute of the
/// deployment that is noted by then, minutes.
const EARLY_MINUTES: f64 = 20.0;

const REGRESSION: &str =
    "select r.id, r.kind, r.deployment_id, r.state, r.severity, r.title, r.numbers, r.explanation,
        (extract(epoch from r.began_at) * 1000)::bigint as began_ms,
        (extract(epoch from r.detected_at) * 1000)::bigint as detected_ms,
        (extract(epoch from r.calm_since) * 1000)::bigint as calm_ms,
        (extract(epoch from r.resolved_at) * 1000)::bigint as resolved_ms,
        (extract(epoch from r.base_from) * 1000)::bigint as base_from_ms,
        (extract(epoch from r.base_to) * 1000)::bigint as base_to_ms,
        bv.version as base_version, v.version, d.version as deployed, t.system, t.text as statement,
        e.id as endpoint_id, e.name as endpoint,
        s.id as service_id, s.namespace, s.name, s.environment
    from culprit.regressions r
    join culprit.endpoints e on e.id = r.endpoint_id
    join culprit.services s on s.id = e.service_id
    left join culprit.statements t on t.id = r.statement_id
    left join culprit.versions v on v.id = r.version_id
    left join culprit.deployments d on d.id = r.deployment_id
    left join culprit.versions bv on bv.id = r.base_version_id";

const FILTERED: &str = "where ($1 = '' or s.name = $1) and ($2 = '' or s.environment = $2) and ($3 = '' or r.state = $3)
      and ($4::integer is null or r.endpoint_id = $4)
      and ($5::integer[] = '{}' or r.deployment_id = any($5))";

impl Store {
    /// Regressions: open ones first, each the worst and latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn shown_regressions(
        &self,
        filter: &RegressionFilter<'_>,
    ) -> Result<Vec<ShownRegression>, StoreError> {
        let sql = format!(
            "{REGRESSION} {FILTERED}
             order by r.state = 'open' desc, case when r.state = 'open' then r.severity end desc,
                      r.began_at desc, r.id limit $6"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.service)
            .bind(filter.environment)
            .bind(filter.state)
            .bind(filter.endpoint_id)
            .bind(filter.deployments)
            .bind(filter.limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(regression).collect()
    }

    /// How many regressions there are in each state, whatever state and limit the filter has.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn regression_counts(
        &self,
        filter: &RegressionFilter<'_>,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = format!(
            "select r.state, count(*) from culprit.regressions r
             join culprit.endpoints e on e.id = r.endpoint_id
             join culprit.services s on s.id = e.service_id
             {FILTERED} group by r.state order by r.state"
        );
        let counts = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(filter.service)
            .bind(filter.environment)
            .bind("")
            .bind(filter.endpoint_id)
            .bind(filter.deployments)
            .fetch_all(self.pool())
            .await?;
        Ok(counts)
    }

    /// One regression.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn shown_regression(&self, id: Uuid) -> Result<Option<ShownRegression>, StoreError> {
        let sql = format!("{REGRESSION} where r.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(regression).transpose()
    }

    /// Ends an open regression as somebody says, and notes who and why. Done twice, the second time finds
    /// it not open any more.
    ///
    /// # Errors
    /// Postgres failed; nothing has changed.
    pub async fn judge_regression(
        &self,
        id: Uuid,
        verdict: Verdict,
        author: &str,
        reason: &str,
    ) -> Result<Acted, StoreError> {
        let store = self.for_changes();
        let mut transaction = store.pool().begin().await?;
        let state: Option<String> =
            sqlx::query_scalar("select state from culprit.regressions where id = $1 for update")
                .bind(id)
                .fetch_optional(&mut *transaction)
                .await?;
        match state {
            None => return Ok(Acted::Unknown),
            Some(state) if state != "open" => return Ok(Acted::NotOpen(state)),
            Some(_) => {}
        }
        sqlx::query("update culprit.regressions set state = $2, resolved_at = now() where id = $1")
            .bind(id)
            .bind(verdict.name())
            .execute(&mut *transaction)
            .await?;
        let entry = Entry {
            subject: "regression",
            subject_id: &id.to_string(),
            author,
            action: verdict.name(),
            detail: reason,
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Acted::Done)
    }

    /// The findings that were first seen in the version that a deployment brought, while it was the
    /// service's latest.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn findings_since(&self, deployments: &[i32]) -> Result<Vec<NewFinding>, StoreError> {
        let findings = sqlx::query_as(
            "select d.id as deployment_id, f.id, f.title, f.severity, e.name as endpoint
             from culprit.deployments d
             join culprit.versions v on v.service_id = d.service_id and v.version = d.version
             cross join lateral (
                 select f.* from culprit.findings f
                 where f.service_id = d.service_id and f.version_id = v.id and f.traces > 0
                   and f.first_seen >= d.at - make_interval(secs => $2 * 60)
                   and f.first_seen < coalesce(
                       (select min(n.at) from culprit.deployments n
                        where n.service_id = d.service_id and n.version = d.version and n.at > d.at),
                       'infinity')
                 order by f.severity desc, f.traces desc, f.id limit $3) f
             join culprit.endpoints e on e.id = f.endpoint_id
             where d.id = any($1)
             order by d.id, f.severity desc, f.traces desc, f.id",
        )
        .bind(deployments)
        .bind(EARLY_MINUTES)
        .bind(NEW_FINDINGS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(findings)
    }
}

fn regression(row: &PgRow) -> Result<ShownRegression, StoreError> {
    // What another version of the program wrote is shown as far as it can be read.
    let numbers: serde_json::Value = row.try_get("numbers")?;
    let explanation: Option<serde_json::Value> = row.try_get("explanation")?;
    let (system, statement): (Option<String>, Option<String>) =
        (row.try_get("system")?, row.try_get("statement")?);
    Ok(ShownRegression {
        id: row.try_get("id")?,
        endpoint: EndpointName {
            id: row.try_get("endpoint_id")?,
            name: row.try_get("endpoint")?,
            service: ServiceName {
                id: row.try_get("service_id")?,
                namespace: row.try_get("namespace")?,
                name: row.try_get("name")?,
                environment: row.try_get("environment")?,
            },
        },
        statement: system.zip(statement),
        kind: row.try_get("kind")?,
        deployment_id: row.try_get("deployment_id")?,
        deployed: row.try_get("deployed")?,
        state: row.try_get("state")?,
        severity: row.try_get("severity")?,
        title: row.try_get("title")?,
        began_ms: row.try_get("began_ms")?,
        detected_ms: row.try_get("detected_ms")?,
        calm_ms: row.try_get("calm_ms")?,
        resolved_ms: row.try_get("resolved_ms")?,
        base_version: row.try_get("base_version")?,
        base_from_ms: row.try_get("base_from_ms")?,
        base_to_ms: row.try_get("base_to_ms")?,
        version: row.try_get("version")?,
        numbers: serde_json::from_value(numbers).unwrap_or_default(),
        explanation: explanation.and_then(|it| serde_json::from_value(it).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        for sql in [
            "insert into culprit.services (namespace, name, environment)
             values ('', 'shop', 'prod'), ('', 'cart', '')",
            "insert into culprit.endpoints (service_id, name) values (1, 'POST /checkout'), (2, 'GET /')",
            "insert into culprit.versions (service_id, version) values (1, '1.0'), (1, '1.1')",
            "insert into culprit.statements (digest, system, text) values ('\\x01', 'postgresql', 'select 1')",
            "insert into culprit.deployments (service_id, version, previous, at, source)
             values (1, '1.1', '1.0', now() - interval '1 hour', 'seen')",
        ] {
            sqlx::query(sql).execute(store.pool()).await.unwrap();
        }
        store
    }

    async fn found(
        store: &Store,
        number: u128,
        endpoint: i32,
        statement: i32,
        state: &str,
    ) -> Uuid {
        let id = Uuid::from_u128(number);
        sqlx::query(
            "insert into culprit.regressions (id, endpoint_id, statement_id, kind, deployment_id, state, severity,
                 title, began_at, detected_at, base_version_id, base_from, base_to, version_id, numbers, explanation)
             values ($1, $2, $3, 'deployment', 1, $4, $5, 'slower', now() - make_interval(mins => $5), now(), 1,
                 now() - interval '2 hours', now() - interval '1 hour', 2, $6, $7)",
        )
        .bind(id)
        .bind(endpoint)
        .bind(statement)
        .bind(state)
        .bind((number % 3) as i32)
        .bind(json!({"quantile": 0.99, "before_ns": 180, "future": true}))
        .bind(json!({"contributors": [{"path": ["a", "b"]}]}))
        .execute(store.pool())
        .await
        .unwrap();
        id
    }

    #[tokio::test]
    async fn open_ones_come_first_and_filters_narrow() {
        let store = drawn().await;
        found(&store, 1, 1, 0, "resolved").await;
        found(&store, 2, 1, 1, "open").await;
        found(&store, 3, 2, 0, "open").await;
        let read = async |filter: RegressionFilter<'_>| {
            let filter = RegressionFilter { limit: 9, ..filter };
            let shown = store.shown_regressions(&filter).await.unwrap();
            shown.iter().map(|it| it.id.as_u128()).collect::<Vec<_>>()
        };
        let any = RegressionFilter::default();
        assert_eq!(read(any.clone()).await, [2, 3, 1]);
        assert_eq!(
            read(RegressionFilter {
                service: "shop",
                ..any.clone()
            })
            .await,
            [2, 1]
        );
        assert_eq!(
            read(RegressionFilter {
                environment: "prod",
                state: "open",
                ..any.clone()
            })
            .await,
            [2]
        );
        assert_eq!(
            read(RegressionFilter {
                endpoint_id: Some(2),
                ..any.clone()
            })
            .await,
            [3]
        );
        assert_eq!(
            read(RegressionFilter {
                deployments: &[1],
                ..any.clone()
            })
            .await
            .len(),
            3
        );
        assert_eq!(
            read(RegressionFilter {
                deployments: &[2],
                ..any.clone()
            })
            .await
            .len(),
            0
        );
        let counts = store.regression_counts(&any).await.unwrap();
        assert_eq!(counts, [("open".into(), 2), ("resolved".into(), 1)]);
    }

    #[tokio::test]
    async fn one_is_read_as_it_was_found() {
        let store = drawn().await;
        let id = found(&store, 7, 1, 1, "open").await;
        let it = store.shown_regression(id).await.unwrap().unwrap();
        assert_eq!(it.statement, Some(("postgresql".into(), "select 1".into())));
        assert_eq!(
            (it.base_version.as_deref(), it.version.as_deref()),
            (Some("1.0"), Some("1.1"))
        );
        assert_eq!((it.numbers.quantile, it.numbers.before_ns), (0.99, 180));
        assert_eq!(it.explanation.unwrap().contributors[0].path, ["a", "b"]);
        assert_eq!(it.deployed.as_deref(), Some("1.1"));
        assert_eq!(it.base_to_ms - it.base_from_ms, 3_600_000);
        assert_eq!(store.shown_regression(Uuid::nil()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn people_end_open_ones_once_and_it_is_written_down() {
        let store = drawn().await;
        let id = found(&store, 7, 1, 0, "open").await;
        let judge = async |id, verdict| {
            store
                .judge_regression(id, verdict, "me", "why")
                .await
                .unwrap()
        };
        assert_eq!(judge(Uuid::nil(), Verdict::Accepted).await, Acted::Unknown);
        assert_eq!(judge(id, Verdict::Accepted).await, Acted::Done);
        assert_eq!(
            judge(id, Verdict::Resolved).await,
            Acted::NotOpen("accepted".into())
        );
        let it = store.shown_regression(id).await.unwrap().unwrap();
        assert_eq!((&*it.state, it.resolved_ms.is_some()), ("accepted", true));
        let done = store.history("regression", &id.to_string()).await.unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!(
            (&*done[0].action, &*done[0].author, &*done[0].detail),
            ("accepted", "me", "why")
        );
    }

    #[tokio::test]
    async fn findings_belong_to_the_deployment_that_brought_them() {
        let store = drawn().await;
        for (id, version, ago) in [(1, 2, 50), (2, 1, 50), (3, 2, 500), (4, 2, 65)] {
            sqlx::query(
                "insert into culprit.findings values ($1, 'new', 'n-plus-one-query', 1, 1, $2, 2, 0.9, 'it',
                 now() - make_interval(mins => $3), now(), $1, '{}')",
            )
            .bind(id)
            .bind(version)
            .bind(ago)
            .execute(store.pool())
            .await
            .unwrap();
        }
        let found = store.findings_since(&[1]).await.unwrap();
        assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), [4, 1]);
        assert_eq!(found[0].endpoint, "POST /checkout");
    }
}
