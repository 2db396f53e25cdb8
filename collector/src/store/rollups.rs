//! Roll-up rows as differences again: to merge the many small ones of the last ticks into one per
//! key, and to compare them with a recount.

use analyzer::profile::ProfileSum;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Executor, Row};

use super::finalise::insert_deltas;
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError, encoding};
use crate::deltas::{Deltas, HitsDelta, HourDelta, Key, MinuteDelta};

/// Keys merged at once per table. What is left waits for the next time.
const KEYS_PER_MERGE: i64 = 500;

/// Rows merged at once per table: bounds the memory and the length of the transaction. A key whose
/// rows are cut off here keeps two.
const ROWS_PER_MERGE: i64 = 10_000;

impl Store {
    /// Merges a shard's roll-up rows of yesterday and today so that each key has one row, named
    /// `part`. Sums are the same before, within and after.
    ///
    /// The merging is done outside of the transaction: only the shard's owner writes these rows, and
    /// the fence sees whether it still is.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the shard has another owner; or Postgres failed.
    pub async fn merge_rollups(&self, lease: &Lease, part: i64) -> Result<(), StoreError> {
        let minutes = self.many(MANY_MINUTES, lease.shard).await?;
        let hours = self.many(MANY_HOURS, lease.shard).await?;
        let hits = self.many(MANY_HITS, lease.shard).await?;
        if minutes.is_empty() && hours.is_empty() && hits.is_empty() {
            return Ok(());
        }
        let merging = tokio::task::spawn_blocking(move || {
            let parts = [parts(&minutes)?, parts(&hours)?, parts(&hits)?];
            Ok::<_, StoreError>((parts, sums(&minutes, &hours, &hits)?))
        });
        let merged = merging
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        let (old, merged) = merged?;
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        for (delete, old) in [DELETE_MINUTES, DELETE_HOURS, DELETE_HITS]
            .into_iter()
            .zip(old)
        {
            delete_parts(&mut transaction, delete, lease.shard, old).await?;
        }
        insert_deltas(&mut transaction, lease.shard, part, &merged).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn many(&self, select: &'static str, shard: i16) -> Result<Vec<PgRow>, StoreError> {
        let rows = sqlx::query(select)
            .bind(shard)
            .bind(KEYS_PER_MERGE)
            .bind(ROWS_PER_MERGE)
            .fetch_all(self.pool())
            .await?;
        Ok(rows)
    }

    /// Everything the roll-ups of a shard say, summed by key.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn stored_rollups(&self, shard: i16) -> Result<Deltas, StoreError> {
        let mut transaction = self.pool().begin().await?;
        let minutes = all(&mut transaction, ALL_MINUTES, shard).await?;
        let hours = all(&mut transaction, ALL_HOURS, shard).await?;
        let hits = all(&mut transaction, ALL_HITS, shard).await?;
        transaction.commit().await?;
        sums(&minutes, &hours, &hits)
    }
}

const MANY_MINUTES: &str = "
    with many as (
        select endpoint_id, minute, version_id, day from culprit.rollup_minutes
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1 and width = 1
        group by endpoint_id, minute, version_id, day having count(*) > 1 limit $2)
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.minute as slot, r.part, r.requests, r.errors, r.duration_ns, r.categories, r.calls, r.latency
    from culprit.rollup_minutes r join many using (endpoint_id, minute, version_id, day)
    where r.shard = $1 limit $3";

const MANY_HOURS: &str = "
    with many as (
        select endpoint_id, hour, version_id, day from culprit.rollup_hours
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1
        group by endpoint_id, hour, version_id, day having count(*) > 1 limit $2)
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.hour as slot, r.part, r.statements, r.profile, r.tail_requests, r.tail_profile
    from culprit.rollup_hours r join many using (endpoint_id, hour, version_id, day)
    where r.shard = $1 limit $3";

const MANY_HITS: &str = "
    with many as (
        select finding_id, minute, version_id, day from culprit.finding_hits
        where shard = $1 and day >= (now() at time zone 'utc')::date - 1
        group by finding_id, minute, version_id, day having count(*) > 1 limit $2)
    select r.day - date '1970-01-01' as day, r.finding_id as subject, r.version_id,
        r.minute as slot, r.part, r.traces, r.requests, r.saved_ns, r.hits, r.examples
    from culprit.finding_hits r join many using (finding_id, minute, version_id, day)
    where r.shard = $1 limit $3";

const DELETE_MINUTES: &str = "
    delete from culprit.rollup_minutes r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.endpoint_id = old.subject
      and r.version_id = old.version_id and r.minute = old.slot and r.part = old.part";

const DELETE_HOURS: &str = "
    delete from culprit.rollup_hours r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.endpoint_id = old.subject
      and r.version_id = old.version_id and r.hour = old.slot and r.part = old.part";

const DELETE_HITS: &str = "
    delete from culprit.finding_hits r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.finding_id = old.subject
      and r.version_id = old.version_id and r.minute = old.slot and r.part = old.part";

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

/// A row's key and part: what names it.
type RowName = (Key, i64);

fn parts(rows: &[PgRow]) -> Result<Vec<RowName>, StoreError> {
    let names = rows.iter().map(|row| Ok((key(row)?, row.try_get("part")?)));
    names.collect()
}

/// The rows of the three tables, summed by key.
fn sums(minutes: &[PgRow], hours: &[PgRow], finding_hits: &[PgRow]) -> Result<Deltas, StoreError> {
    let mut sums = Deltas::default();
    for row in minutes {
        let sum = sums.minutes.entry(key(row)?).or_default();
        sum.merge(&minute_sums(row)?, 1);
    }
    for row in hours {
        sums.hours
            .entry(key(row)?)
            .or_default()
            .merge(&hour(row)?, 1);
    }
    for row in finding_hits {
        sums.hits
            .entry(key(row)?)
            .or_default()
            .merge(&hits(row)?, 1);
    }
    Ok(sums)
}

async fn delete_parts(
    connection: &mut Connection,
    delete: &'static str,
    shard: i16,
    rows: Vec<RowName>,
) -> Result<(), StoreError> {
    let column =
        |of: fn(&Key) -> i32| -> Vec<i32> { rows.iter().map(|(key, _)| of(key)).collect() };
    let deleted = sqlx::query(delete)
        .bind(shard)
        .bind(column(|key| key.0))
        .bind(column(|key| key.1))
        .bind(column(|key| key.2))
        .bind(column(|key| key.3))
        .bind(rows.iter().map(|(_, part)| *part).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    if deleted.rows_affected() == rows.len() as u64 {
        Ok(())
    } else {
        // Somebody else merged them: the fence should have seen it.
        Err(StoreError::LeaseLost(shard))
    }
}

async fn all(
    connection: &mut Connection,
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
        profile: ProfileSum::of(encoding::profile(row.try_get("profile")?)?),
        tail_requests: row.try_get("tail_requests")?,
        tail_profile: ProfileSum::of(encoding::profile(row.try_get("tail_profile")?)?),
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
