//! Roll-up rows as differences again: to merge the many small ones of the last ticks into one per
//! key, and to compare them with a recount.

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgConnection, Row};

use super::finalise::insert_deltas;
use super::leases::{Lease, renew};
use super::{Store, StoreError, encoding};
use crate::deltas::{Deltas, HitsDelta, HourDelta, Key, MinuteDelta};

/// Keys merged in one transaction and table: bounds how long the owner is busy with it. What is
/// left waits for the next time.
const KEYS_PER_MERGE: i64 = 2_000;

impl Store {
    /// Merges a shard's roll-up rows of yesterday and today so that each key has one row, named
    /// `part`. Sums are the same before, within and after.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the shard has another owner; or Postgres failed.
    pub async fn merge_rollups(&self, lease: &Lease, part: i64) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        let mut merged = Deltas::default();
        for row in take(&mut transaction, MERGE_MINUTES, lease.shard).await? {
            merged
                .minutes
                .entry(key(&row)?)
                .or_default()
                .merge(&minute_sums(&row)?, 1);
        }
        for row in take(&mut transaction, MERGE_HOURS, lease.shard).await? {
            merged
                .hours
                .entry(key(&row)?)
                .or_default()
                .merge(&hour(&row)?, 1);
        }
        for row in take(&mut transaction, MERGE_HITS, lease.shard).await? {
            merged
                .hits
                .entry(key(&row)?)
                .or_default()
                .merge(&hits(&row)?, 1);
        }
        insert_deltas(&mut transaction, lease.shard, part, &merged).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Everything the roll-ups of a shard say, summed by key.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn stored_rollups(&self, shard: i16) -> Result<Deltas, StoreError> {
        let mut sums = Deltas::default();
        let mut transaction = self.pool().begin().await?;
        for row in all(&mut transaction, ALL_MINUTES, shard).await? {
            sums.minutes
                .entry(key(&row)?)
                .or_default()
                .merge(&minute_sums(&row)?, 1);
        }
        for row in all(&mut transaction, ALL_HOURS, shard).await? {
            sums.hours
                .entry(key(&row)?)
                .or_default()
                .merge(&hour(&row)?, 1);
        }
        for row in all(&mut transaction, ALL_HITS, shard).await? {
            sums.hits
                .entry(key(&row)?)
                .or_default()
                .merge(&hits(&row)?, 1);
        }
        transaction.commit().await?;
        Ok(sums)
    }
}

const MERGE_MINUTES: &str = "
    with many as (
        select endpoint_id, minute, version_id, day from culprit.rollup_minutes
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1 and width = 1
        group by endpoint_id, minute, version_id, day having count(*) > 1 limit $2)
    delete from culprit.rollup_minutes r using many
    where r.shard = $1 and (r.endpoint_id, r.minute, r.version_id, r.day)
        = (many.endpoint_id, many.minute, many.version_id, many.day)
    returning r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.minute as slot, r.requests, r.errors, r.duration_ns, r.categories, r.calls, r.latency";

const MERGE_HOURS: &str = "
    with many as (
        select endpoint_id, hour, version_id, day from culprit.rollup_hours
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1
        group by endpoint_id, hour, version_id, day having count(*) > 1 limit $2)
    delete from culprit.rollup_hours r using many
    where r.shard = $1 and (r.endpoint_id, r.hour, r.version_id, r.day)
        = (many.endpoint_id, many.hour, many.version_id, many.day)
    returning r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.hour as slot, r.statements, r.profile, r.tail_requests, r.tail_profile";

const MERGE_HITS: &str = "
    with many as (
        select finding_id, minute, version_id, day from culprit.finding_hits
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1
        group by finding_id, minute, version_id, day having count(*) > 1 limit $2)
    delete from culprit.finding_hits r using many
    where r.shard = $1 and (r.finding_id, r.minute, r.version_id, r.day)
        = (many.finding_id, many.minute, many.version_id, many.day)
    returning r.day - date '1970-01-01' as day, r.finding_id as subject, r.version_id,
        r.minute as slot, r.traces, r.requests, r.saved_ns, r.hits, r.examples";

const ALL_MINUTES: &str = "
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.minute as slot, r.requests, r.errors, r.duration_ns, r.categories, r.calls, r.latency
    from culprit.rollup_minutes r where r.shard = $1";

const ALL_HOURS: &str = "
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.hour as slot, r.statements, r.profile, r.tail_requests, r.tail_profile
    from culprit.rollup_hours r where r.shard = $1";

const ALL_HITS: &str = "
    select r.day - date '1970-01-01' as day, r.finding_id as subject, r.version_id,
        r.minute as slot, r.traces, r.requests, r.saved_ns, r.hits, r.examples
    from culprit.finding_hits r where r.shard = $1";

async fn take(
    connection: &mut PgConnection,
    delete: &'static str,
    shard: i16,
) -> Result<Vec<PgRow>, StoreError> {
    Ok(sqlx::query(delete)
        .bind(shard)
        .bind(KEYS_PER_MERGE)
        .fetch_all(connection)
        .await?)
}

async fn all(
    connection: &mut PgConnection,
    select: &'static str,
    shard: i16,
) -> Result<Vec<PgRow>, StoreError> {
    Ok(sqlx::query(select)
        .bind(shard)
        .fetch_all(connection)
        .await?)
}

fn key(row: &PgRow) -> Result<Key, StoreError> {
    Ok((
        row.try_get("day")?,
        row.try_get("subject")?,
        row.try_get("version_id")?,
        row.try_get("slot")?,
    ))
}

/// One row of `rollup_minutes`, its key aside.
pub(super) fn minute_sums(row: &PgRow) -> Result<MinuteDelta, StoreError> {
    let numbers = |column: &str| -> Result<[i64; _], StoreError> {
        let numbers: Vec<i64> = row.try_get(column)?;
        numbers
            .try_into()
            .map_err(|_| StoreError::Damaged(format!("{column} of a roll-up")))
    };
    Ok(MinuteDelta {
        requests: row.try_get("requests")?,
        errors: row.try_get("errors")?,
        duration_ns: row.try_get("duration_ns")?,
        categories: numbers("categories")?,
        calls: numbers("calls")?,
        latency: encoding::sketch(row.try_get("latency")?)?,
    })
}

fn hour(row: &PgRow) -> Result<HourDelta, StoreError> {
    Ok(HourDelta {
        statements: encoding::statements(row.try_get("statements")?)?,
        profile: encoding::profile(row.try_get("profile")?)?,
        tail_requests: row.try_get("tail_requests")?,
        tail_profile: encoding::profile(row.try_get("tail_profile")?)?,
    })
}

fn hits(row: &PgRow) -> Result<HitsDelta, StoreError> {
    let examples: Value = row.try_get("examples")?;
    Ok(HitsDelta {
        traces: row.try_get("traces")?,
        requests: row.try_get("requests")?,
        saved_ns: row.try_get("saved_ns")?,
        hits: encoding::hits(row.try_get("hits")?)?,
        examples: examples.as_array().cloned().unwrap_or_default(),
    })
}
