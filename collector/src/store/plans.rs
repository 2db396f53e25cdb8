//! Plans of slow statements, as the observed databases told them. Only [`crate::plans`] writes here.

use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use super::{Store, StoreError};

/// A statement's plan.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// A line per node, indented, without literals.
    pub text: String,
    /// Rows that the planner expects of the statement.
    pub rows: u64,
    /// Its estimate of the cost, in its own units.
    pub cost: f64,
    /// Milliseconds it took, if it was run.
    pub ran_ms: Option<f64>,
    /// Tables that are read from end to end, the largest first.
    pub scans: Vec<SequentialScan>,
    /// The server's version, such as 15.
    pub server: u32,
}

/// A table that is read from end to end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SequentialScan {
    /// With its schema.
    pub table: String,
    /// Rows in the table, as the server estimates; `None` before it was ever analysed.
    pub table_rows: Option<u64>,
    /// Bytes of the table.
    pub table_bytes: u64,
    /// Rows that are expected to be left.
    pub rows: u64,
    /// What each row is compared with, without literals.
    pub filter: Option<String>,
}

/// What is known of a finding's plan.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AskedPlan {
    /// The plan; `None` if there is none.
    pub plan: Option<Plan>,
    /// Why there is none, a sentence.
    pub failure: Option<String>,
    /// When the database was asked, ns since the epoch.
    pub asked_ns: u64,
}

/// A finding whose plan is wanted.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Wanted {
    /// findings.id
    pub finding_id: i32,
    /// The normalised statement.
    pub statement: String,
}

impl Store {
    /// A finding of `service` (and of `environment`, unless that is empty) whose statement is slow, was
    /// seen within a day, and whose plan was not asked for within `again_after_s` seconds. It is claimed
    /// at once: whoever asks next, in whichever process, gets another one.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn claim_plan(
        &self,
        service: &str,
        environment: &str,
        again_after_s: f64,
    ) -> Result<Option<Wanted>, StoreError> {
        let wanted = sqlx::query_as(
            "with due as (
                 select f.id, f.evidence ->> 'statement' as statement
                 from culprit.findings f
                 join culprit.services s on s.id = f.service_id
                 left join culprit.plans p on p.finding_id = f.id
                 where f.detector = 'slow-query' and s.name = $1 and ($2 = '' or s.environment = $2)
                   and f.last_seen > now() - interval '1 day' and f.evidence ->> 'statement' <> ''
                   and (p.asked_at is null or p.asked_at < now() - make_interval(secs => $3))
                 order by p.asked_at nulls first, f.id limit 1),
             claimed as (
                 insert into culprit.plans (finding_id, asked_at) select id, now() from due
                 on conflict (finding_id) do update set asked_at = now()
                     where plans.asked_at < now() - make_interval(secs => $3)
                 returning finding_id)
             select due.id as finding_id, due.statement from due join claimed on claimed.finding_id = due.id",
        )
        .bind(service)
        .bind(environment)
        .bind(again_after_s)
        .fetch_optional(self.pool())
        .await?;
        Ok(wanted)
    }

    /// Keeps what was answered, in place of what was answered before. Idempotent.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn write_plan(
        &self,
        finding_id: i32,
        answer: &Result<Plan, String>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into culprit.plans (finding_id, asked_at, plan, failure) values ($1, now(), $2, $3)
             on conflict (finding_id) do update
                 set asked_at = excluded.asked_at, plan = excluded.plan, failure = excluded.failure",
        )
        .bind(finding_id)
        .bind(answer.as_ref().ok().map(Json))
        .bind(answer.as_ref().err())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// What is known of a finding's plan; `None` if its database was never asked.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn plan(&self, finding_id: i32) -> Result<Option<AskedPlan>, StoreError> {
        let row: Option<(Option<Json<Plan>>, Option<String>, i64)> = sqlx::query_as(
            "select plan, failure, (extract(epoch from asked_at) * 1000000)::bigint
             from culprit.plans where finding_id = $1 and (plan is not null or failure is not null)",
        )
        .bind(finding_id)
        .fetch_optional(self.pool())
        .await?;
        Ok(row.map(|(plan, failure, asked_us)| AskedPlan {
            plan: plan.map(|it| it.0),
            failure,
            asked_ns: u64::try_from(asked_us)
                .unwrap_or_default()
                .saturating_mul(1_000),
        }))
    }
}
