//! Incidents, as the alert engine keeps them. What is to be said of them is queued in the same
//! transaction that changes them, under the review's lease: nothing is told twice or forgotten, wherever
//! a process ends.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Executor, Row};
use std::collections::BTreeMap;
use uuid::Uuid;

use super::encoding::without_nul;
use super::leases::{Lease, renew};
use super::outbox::NewMessage;
use super::overview::Counted;
use super::pool::Connection;
use super::{Store, StoreError};
use crate::alert::engine::{Incident, State};
use crate::alert::notification::{Alert, Severity};

/// What one look of the engine changes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Incidents that are new, or not what they were.
    pub incidents: Vec<Incident>,
    /// Pending ones that came to nothing.
    pub forgotten: Vec<Uuid>,
    /// What is to be said.
    pub messages: Vec<NewMessage>,
    /// Findings that are told for the first time, and their incidents: processes of versions without
    /// rules must not tell them as well.
    pub findings_told: Vec<(i32, Uuid)>,
}

impl Changes {
    /// Nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.forgotten.is_empty() && self.messages.is_empty()
    }
}

impl Store {
    /// Incidents that the engine has to look at: those that are not over, those that ended after
    /// `ended_after_ms`, and those of whose end somebody has yet to be told. One per rule and fingerprint:
    /// the latest.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn engine_incidents(&self, ended_after_ms: i64) -> Result<Vec<Incident>, StoreError> {
        let rows = sqlx::query(
            "select distinct on (rule, fingerprint)
                    id, rule, fingerprint, state, severity, labels, alert, told, flapping, silenced_by,
                    acknowledged_by is not null as acknowledged,
                    (extract(epoch from started_at) * 1000)::bigint as started_ms,
                    (extract(epoch from fired_at) * 1000)::bigint as fired_ms,
                    (extract(epoch from last_true_at) * 1000)::bigint as last_true_ms,
                    (extract(epoch from resolved_at) * 1000)::bigint as resolved_ms,
                    array(select (extract(epoch from it) * 1000)::bigint from unnest(changes) it order by 1)
                        as changes
             from culprit.incidents
             where state <> 'resolved' or notified in ('opened', 'flapping')
                or (state = 'resolved' and resolved_at > to_timestamp($1 / 1000.0))
             order by rule, fingerprint, state = 'resolved', started_at desc",
        )
        .bind(ended_after_ms)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(incident).collect()
    }

    /// Writes what a look came to, in one transaction under the review's lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if there is another review; or Postgres failed. Nothing is written then.
    pub async fn commit_alerts(
        &self,
        lease: &Lease,
        changes: &Changes,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        sqlx::query("delete from culprit.incidents where id = any($1) and state = 'pending'")
            .bind(&changes.forgotten)
            .execute(&mut *transaction)
            .await?;
        for incident in &changes.incidents {
            upsert(&mut transaction, incident).await?;
        }
        for message in &changes.messages {
            super::outbox::queue(&mut transaction, message, now_ms).await?;
        }
        for (finding, incident) in &changes.findings_told {
            sqlx::query(
                "insert into culprit.alerts (id, finding_id, kind) values ($1, $2, 'finding.new')
                 on conflict do nothing",
            )
            .bind(incident)
            .bind(finding)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What `channel` has been told and has to be told again, if it forgets: incidents that fire, and those
    /// resolved after `resolved_after_ms`. At most `limit`, the latest.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn alerts_told_to(
        &self,
        channel: &str,
        resolved_after_ms: i64,
        limit: i64,
    ) -> Result<Vec<Alert>, StoreError> {
        let alerts: Vec<Json<Alert>> = sqlx::query_scalar(
            "select alert from culprit.incidents
             where told -> $1 ->> 'event' in ('opened', 'reminder', 'flapping', 'resolved')
               and (silenced_by is null or state = 'resolved')
               and ((state = 'firing' and told -> $1 ->> 'event' <> 'resolved')
                    or (state = 'resolved' and told -> $1 ->> 'event' = 'resolved'
                        and resolved_at > to_timestamp($2 / 1000.0)))
             order by started_at desc limit $3",
        )
        .bind(channel)
        .bind(resolved_after_ms)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(alerts.into_iter().map(|it| it.0).collect())
    }

    /// How many incidents there are by state, those of the last day only among the resolved ones.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn incidents_by_state(&self) -> Result<Vec<Counted>, StoreError> {
        let counts = sqlx::query_as(
            "select s.state, count(i.id) as count from unnest(array['pending', 'firing', 'resolved']) as s(state)
             left join culprit.incidents i on i.state = s.state
                and (i.state <> 'resolved' or i.resolved_at > now() - interval '1 day')
             group by s.state order by s.state",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(counts)
    }
}

/// What a newer program said may not be readable here; the incident goes on all the same.
fn incident(row: &sqlx::postgres::PgRow) -> Result<Incident, StoreError> {
    let state: String = row.try_get("state")?;
    let labels: Json<BTreeMap<String, String>> = row.try_get("labels")?;
    let told: Value = row.try_get("told")?;
    let alert: Value = row.try_get("alert")?;
    let bare = Incident::new(
        row.try_get("id")?,
        row.try_get("rule")?,
        Severity::of(row.try_get("severity")?),
        labels.0,
        row.try_get("fingerprint")?,
        row.try_get("started_ms")?,
    );
    Ok(Incident {
        state: State::parse(&state)
            .ok_or_else(|| StoreError::Damaged(format!("an incident's state is '{state}'")))?,
        alert: serde_json::from_value(alert).unwrap_or_else(|_| bare.alert.clone()),
        fired_ms: row.try_get("fired_ms")?,
        last_true_ms: row.try_get("last_true_ms")?,
        resolved_ms: row.try_get("resolved_ms")?,
        told: serde_json::from_value(told).unwrap_or_default(),
        acknowledged: row.try_get("acknowledged")?,
        silenced_by: row.try_get("silenced_by")?,
        changes: row.try_get("changes")?,
        flapping: row.try_get("flapping")?,
        ..bare
    })
}

async fn upsert(connection: &mut Connection, it: &Incident) -> Result<(), StoreError> {
    // Names may hold what jsonb cannot.
    let alert = without_nul(serde_json::to_value(&it.alert).unwrap_or(Value::Null));
    sqlx::query(
        "insert into culprit.incidents
            (id, rule, fingerprint, state, severity, labels, alert, started_at, fired_at, last_true_at,
             resolved_at, notified, notified_at, silenced_by, changes, flapping, told)
         values ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8 / 1000.0), to_timestamp($9 / 1000.0),
             to_timestamp($10 / 1000.0), to_timestamp($11 / 1000.0), $12, to_timestamp($13 / 1000.0), $14,
             array(select to_timestamp(it / 1000.0) from unnest($15::bigint[]) it), $16, $17)
         on conflict (id) do update set
             state = excluded.state, severity = excluded.severity, alert = excluded.alert,
             started_at = excluded.started_at, fired_at = excluded.fired_at,
             last_true_at = excluded.last_true_at, resolved_at = excluded.resolved_at,
             notified = excluded.notified, notified_at = excluded.notified_at,
             silenced_by = excluded.silenced_by, changes = excluded.changes, flapping = excluded.flapping,
             told = excluded.told,
             -- People write this one, also while the engine thinks.
             acknowledged_by = case when $18 then null else incidents.acknowledged_by end",
    )
    .bind(it.id)
    .bind(&it.rule)
    .bind(&it.fingerprint)
    .bind(it.state.name())
    .bind(it.severity as i16)
    .bind(Json(&it.labels))
    .bind(alert)
    .bind(it.started_ms)
    .bind(it.fired_ms)
    .bind(it.last_true_ms)
    .bind(it.resolved_ms)
    .bind(it.notified())
    .bind(it.notified_ms())
    .bind(it.silenced_by)
    .bind(&it.changes)
    .bind(it.flapping)
    .bind(Json(&it.told))
    .bind(it.fires_anew)
    .execute(connection)
    .await?;
    Ok(())
}
