//! Latency by minute and hour as the watch for regressions asks for it, and the regressions it keeps.

use analyzer::regression::Slot;
use analyzer::sketch::Sketch;
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::Row;
use std::collections::BTreeMap;
use std::ops::Range;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::bottlenecks::Minutes;
use super::dictionaries::OTHER;
use super::encoding::without_nul;
use super::leases::{Lease, renew};
use super::{Store, StoreError, encoding};
use crate::regression::evidence::{Explanation, Numbers};

/// Rows read for one look at most, over all endpoints: ten minutes of 2,000 endpoints on 16 shards. What is beyond is
/// left out, the oldest minutes first.
const ROWS_MAX: i64 = 400_000;

/// An endpoint's slots, by version.
pub type Slots = BTreeMap<(i32, i32), Slot>;

/// A deployment whose effect is being watched.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct WatchedDeployment {
    /// deployments.id
    pub id: i32,
    /// services.id
    pub service_id: i32,
    /// What was deployed.
    pub version: String,
    /// versions.id of it; `None` if no request ever named it.
    pub version_id: Option<i32>,
    /// versions.id of what most requests were of before.
    pub previous_id: Option<i32>,
    /// When, ms since the epoch.
    pub at_ms: i64,
}

/// An endpoint and whose it is.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct WatchedEndpoint {
    /// endpoints.id
    pub id: i32,
    /// services.id
    pub service_id: i32,
    /// Such as `GET /posts`.
    pub name: String,
}

/// A regression that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct NewRegression {
    /// endpoints.id
    pub endpoint_id: i32,
    /// statements.id; 0 for the whole endpoint.
    pub statement_id: i32,
    /// `deployment`, `sudden` or `drift`.
    pub kind: &'static str,
    /// deployments.id
    pub deployment_id: Option<i32>,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// One sentence.
    pub title: String,
    /// Slower since, ms since the epoch.
    pub began_ms: i64,
    /// Found at, ms since the epoch.
    pub detected_ms: i64,
    /// Only requests of this version are its past; `None` for all.
    pub base_version_id: Option<i32>,
    /// Its past: minutes since the epoch.
    pub base: Minutes,
    /// Only requests of this version are slower; `None` for all.
    pub version_id: Option<i32>,
    /// The comparison.
    pub numbers: Numbers,
    /// What grew, if that could be told.
    pub explanation: Option<Explanation>,
}

/// What earlier regressions say of the past of an endpoint or a statement. Times in ms since the epoch.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Past {
    /// When it was known to be slow: no baseline for what comes.
    pub slow_ms: Vec<Range<i64>>,
    /// Somebody has accepted that it is slower since then: what was before is no baseline any more.
    pub accepted_ms: i64,
}

/// A regression that lasts.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenRegression {
    /// regressions.id
    pub id: Uuid,
    /// endpoints.id
    pub endpoint_id: i32,
    /// statements.id; 0 for the whole endpoint.
    pub statement_id: i32,
    /// `deployment`, `sudden` or `drift`.
    pub kind: String,
    /// Only requests of this version are slower; `None` for all.
    pub version_id: Option<i32>,
    /// Found at, ms since the epoch.
    pub detected_ms: i64,
    /// As before since, ms since the epoch.
    pub calm_since_ms: Option<i64>,
    /// The comparison that opened it.
    pub numbers: Numbers,
}

impl Store {
    /// What happened in `minutes` at every endpoint: endpoint → minute and version → requests.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn recent_slots(&self, minutes: Minutes) -> Result<BTreeMap<i32, Slots>, StoreError> {
        let mut all: BTreeMap<i32, Slots> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, minute, version_id, errors, latency from culprit.rollup_minutes
             where minute >= $1 and minute < $2 and width = 1
               and day >= (to_timestamp($1::bigint * 60) at time zone 'utc')::date - 1
             order by minute desc limit $3",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .bind(ROWS_MAX)
        .fetch(self.pool());
        let mut count = 0;
        while let Some(row) = rows.try_next().await? {
            let slots = all.entry(row.try_get("endpoint_id")?).or_default();
            add(slots, &row)?;
            count += 1;
        }
        if count == ROWS_MAX {
            tracing::warn!(
                "too many endpoints to look at all of their last minutes for regressions"
            );
        }
        Ok(all)
    }

    /// What happened in `minutes` at one endpoint, as far as it is still known by the minute: how requests of one
    /// minute share their fate cannot be seen in hours.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_minute_slots(
        &self,
        endpoint_id: i32,
        minutes: Minutes,
    ) -> Result<Slots, StoreError> {
        self.slots_of(endpoint_id, minutes, 1).await
    }

    /// What happened in `minutes` at one endpoint. What was merged into an hour stands at its first minute.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_slots(
        &self,
        endpoint_id: i32,
        minutes: Minutes,
    ) -> Result<Slots, StoreError> {
        self.slots_of(endpoint_id, minutes, 60).await
    }

    async fn slots_of(
        &self,
        endpoint_id: i32,
        minutes: Minutes,
        width_max: i16,
    ) -> Result<Slots, StoreError> {
        let mut slots = Slots::new();
        let mut rows = sqlx::query(
            "select minute, version_id, errors, latency from culprit.rollup_minutes
             where endpoint_id = $1 and minute >= $2 and minute < $3 and width <= $4
               and day >= (to_timestamp($2::bigint * 60) at time zone 'utc')::date - 1",
        )
        .bind(endpoint_id)
        .bind(minutes.from)
        .bind(minutes.to)
        .bind(width_max)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            add(&mut slots, &row)?;
        }
        Ok(slots)
    }

    /// An endpoint's statements by hour: statement → a slot per hour, named by its first minute.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn statement_slots(
        &self,
        endpoint_id: i32,
        hours: Range<i32>,
    ) -> Result<BTreeMap<i32, BTreeMap<i32, Slot>>, StoreError> {
        let mut all: BTreeMap<i32, BTreeMap<i32, Slot>> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select hour, statements from culprit.rollup_hours
             where endpoint_id = $1 and hour >= $2 and hour < $3",
        )
        .bind(endpoint_id)
        .bind(hours.start)
        .bind(hours.end)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let hour: i32 = row.try_get("hour")?;
            for (statement, calls) in encoding::statements(row.try_get("statements")?)? {
                let slots = all.entry(statement).or_default();
                let slot = slots.entry(hour).or_insert_with(|| empty(hour * 60));
                slot.latency.merge(&calls.latency);
            }
        }
        Ok(all)
    }

    /// Endpoints with these ids, and whose they are.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn watched_endpoints(
        &self,
        ids: &[i32],
    ) -> Result<BTreeMap<i32, WatchedEndpoint>, StoreError> {
        let found: Vec<WatchedEndpoint> = sqlx::query_as(
            // What found no room among the names is a mix that changes.
            "select id, service_id, name from culprit.endpoints where id = any($1) and name <> $2",
        )
        .bind(ids)
        .bind(OTHER)
        .fetch_all(self.pool())
        .await?;
        Ok(found.into_iter().map(|it| (it.id, it)).collect())
    }

    /// A statement's text.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn statement_text(&self, id: i32) -> Result<Option<String>, StoreError> {
        let text = sqlx::query_scalar("select text from culprit.statements where id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        Ok(text)
    }

    /// The latest deployment of each service, of those since then.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn watched_deployments(
        &self,
        since_ms: i64,
    ) -> Result<Vec<WatchedDeployment>, StoreError> {
        let deployments = sqlx::query_as(
            "select distinct on (d.service_id) d.id, d.service_id, d.version, v.id as version_id,
                    p.id as previous_id, (extract(epoch from d.at) * 1000)::bigint as at_ms
             from culprit.deployments d
             left join culprit.versions v on v.service_id = d.service_id and v.version = d.version
             left join culprit.versions p on p.service_id = d.service_id and p.version = d.previous
             where d.at >= to_timestamp($1 / 1000.0)
             order by d.service_id, d.at desc, d.id desc",
        )
        .bind(since_ms)
        .fetch_all(self.pool())
        .await?;
        Ok(deployments)
    }

    /// How often the deployments' endpoints were compared: (deployment, endpoint) → looks.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn deployment_looks(
        &self,
        deployments: &[i32],
    ) -> Result<BTreeMap<(i32, i32), u8>, StoreError> {
        let looks: Vec<(i32, i32, i16)> = sqlx::query_as(
            "select deployment_id, endpoint_id, looks from culprit.deployment_looks
             where deployment_id = any($1)",
        )
        .bind(deployments)
        .fetch_all(self.pool())
        .await?;
        let looks = looks.into_iter();
        Ok(looks
            .map(|(deployment, endpoint, looks)| {
                ((deployment, endpoint), looks.clamp(0, 255) as u8)
            })
            .collect())
    }

    /// Notes that a deployment's endpoint was compared so often.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else watches; or Postgres failed.
    pub async fn note_look(
        &self,
        lease: &Lease,
        deployment_id: i32,
        endpoint_id: i32,
        looks: u8,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        renew(&mut transaction, lease).await?;
        sqlx::query(
            "insert into culprit.deployment_looks (deployment_id, endpoint_id, looks)
             values ($1, $2, $3)
             on conflict (deployment_id, endpoint_id) do update set looks = excluded.looks",
        )
        .bind(deployment_id)
        .bind(endpoint_id)
        .bind(i16::from(looks))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Opens a regression, unless one is open there already.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else watches; or Postgres failed.
    pub async fn open_regression(
        &self,
        lease: &Lease,
        found: &NewRegression,
    ) -> Result<Option<Uuid>, StoreError> {
        let mut transaction = self.pool().begin().await?;
        renew(&mut transaction, lease).await?;
        let id: Option<Uuid> = sqlx::query_scalar(
            "insert into culprit.regressions
                (id, endpoint_id, statement_id, kind, deployment_id, state, severity, title, began_at,
                 detected_at, base_version_id, base_from, base_to, version_id, numbers, explanation)
             values ($1, $2, $3, $4, $5, 'open', $6, $7, to_timestamp($8 / 1000.0),
                 to_timestamp($9 / 1000.0), $10, to_timestamp($11::bigint * 60),
                 to_timestamp($12::bigint * 60), $13, $14, $15)
             on conflict (endpoint_id, statement_id) where state = 'open' do nothing
             returning id",
        )
        .bind(Uuid::now_v7())
        .bind(found.endpoint_id)
        .bind(found.statement_id)
        .bind(found.kind)
        .bind(found.deployment_id)
        .bind(found.severity)
        .bind(&found.title)
        .bind(found.began_ms)
        .bind(found.detected_ms)
        .bind(found.base_version_id)
        .bind(i64::from(found.base.from))
        .bind(i64::from(found.base.to))
        .bind(found.version_id)
        .bind(json(&found.numbers)?)
        .bind(found.explanation.as_ref().map(json).transpose()?)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(id) = id {
            note(&mut transaction, id, "opened", &found.title).await?;
        }
        transaction.commit().await?;
        Ok(id)
    }

    /// Every regression that lasts.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn open_regressions(&self) -> Result<Vec<OpenRegression>, StoreError> {
        let rows = sqlx::query(
            "select id, endpoint_id, statement_id, kind, version_id, numbers,
                    (extract(epoch from detected_at) * 1000)::bigint as detected_ms,
                    (extract(epoch from calm_since) * 1000)::bigint as calm_since_ms
             from culprit.regressions where state = 'open' order by detected_at",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let numbers: Value = row.try_get("numbers")?;
                Ok(OpenRegression {
                    id: row.try_get("id")?,
                    endpoint_id: row.try_get("endpoint_id")?,
                    statement_id: row.try_get("statement_id")?,
                    kind: row.try_get("kind")?,
                    version_id: row.try_get("version_id")?,
                    detected_ms: row.try_get("detected_ms")?,
                    calm_since_ms: row.try_get("calm_since_ms")?,
                    // Of a newer version, perhaps: then it cannot be said that it is over.
                    numbers: serde_json::from_value(numbers).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Since when a regression looks as before; `None`: it does not.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else watches; or Postgres failed.
    pub async fn note_calm(
        &self,
        lease: &Lease,
        id: Uuid,
        since_ms: Option<i64>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        renew(&mut transaction, lease).await?;
        sqlx::query(
            "update culprit.regressions set calm_since = to_timestamp($2 / 1000.0)
             where id = $1 and state = 'open'",
        )
        .bind(id)
        .bind(since_ms)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A regression is over.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else watches; or Postgres failed.
    pub async fn resolve_regression(
        &self,
        lease: &Lease,
        id: Uuid,
        at_ms: i64,
        why: &str,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        renew(&mut transaction, lease).await?;
        let resolved = sqlx::query(
            "update culprit.regressions set state = 'resolved', resolved_at = to_timestamp($2 / 1000.0)
             where id = $1 and state = 'open'",
        )
        .bind(id)
        .bind(at_ms)
        .execute(&mut *transaction)
        .await?;
        if resolved.rows_affected() == 1 {
            note(&mut transaction, id, "resolved", why).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What earlier regressions say of the past: (endpoint, statement) → when it was slow, and since when that is
    /// normal.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn pasts(&self, since_ms: i64) -> Result<BTreeMap<(i32, i32), Past>, StoreError> {
        let rows: Vec<(i32, i32, String, i64, i64)> = sqlx::query_as(
            "select endpoint_id, statement_id, state, (extract(epoch from began_at) * 1000)::bigint,
                    (extract(epoch from coalesce(resolved_at, detected_at)) * 1000)::bigint
             from culprit.regressions
             where state = 'accepted' or (state = 'resolved' and resolved_at > to_timestamp($1 / 1000.0))
             order by began_at desc limit 20000",
        )
        .bind(since_ms)
        .fetch_all(self.pool())
        .await?;
        let mut pasts: BTreeMap<(i32, i32), Past> = BTreeMap::new();
        for (endpoint, statement, state, from_ms, to_ms) in rows {
            let past = pasts.entry((endpoint, statement)).or_default();
            match &*state {
                "accepted" => past.accepted_ms = past.accepted_ms.max(from_ms),
                _ => past.slow_ms.push(from_ms..to_ms),
            }
        }
        Ok(pasts)
    }
}

fn empty(minute: i32) -> Slot {
    Slot {
        minute,
        errors: 0,
        latency: Sketch::default(),
    }
}

fn add(slots: &mut Slots, row: &sqlx::postgres::PgRow) -> Result<(), StoreError> {
    let minute: i32 = row.try_get("minute")?;
    let slot = slots
        .entry((minute, row.try_get("version_id")?))
        .or_insert_with(|| empty(minute));
    slot.errors += row.try_get::<i64, _>("errors")?;
    let latency = encoding::sketch(row.try_get("latency")?)?;
    slot.latency.merge(&latency);
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Value, StoreError> {
    let json = serde_json::to_value(value);
    // Names of spans may hold NUL, which Postgres' jsonb cannot.
    Ok(without_nul(
        json.map_err(|error| StoreError::Damaged(error.to_string()))?,
    ))
}

async fn note(
    connection: &mut super::pool::Connection,
    id: Uuid,
    action: &str,
    detail: &str,
) -> Result<(), StoreError> {
    let entry = Entry {
        subject: "regression",
        subject_id: &id.to_string(),
        author: "",
        action,
        detail,
    };
    audit::note(connection, entry).await
}
