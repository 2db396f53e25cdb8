//! Blocks taken as a whole, and replaced by others that hold the same traces.
//!
//! Whoever finds a block by its id may lose it here between two statements: its traces are in a new
//! block then, of a larger id, and a second look finds them.

use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use bytes::Bytes;
use sqlx::Executor;
use std::collections::HashSet;
use uuid::Uuid;

use super::blocks::{NewBlock, NewRequest, TimeColumns, insert_block, or};
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError};
use crate::compaction::{Small, Whole};
use crate::contribution::unsigned;
use crate::deltas::Day;

/// Small blocks looked at at once; further ones wait until these are packed.
const SMALL_MAX: i64 = 2_000;

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    analysis: i16,
    payload: Vec<u8>,
    trace_ids: Vec<Uuid>,
    span_ids: Vec<i64>,
    start_ns: Vec<i64>,
    duration_ns: Vec<i64>,
    endpoint_ids: Vec<i32>,
    version_ids: Vec<i32>,
    minutes: Vec<i32>,
    flags: Vec<i16>,
    trace_spans: Vec<i32>,
    weights: Option<Vec<i32>>,
    #[sqlx(flatten)]
    times: TimeColumns,
    database_calls: Option<Vec<i16>>,
    cache_calls: Option<Vec<i16>>,
    external_calls: Option<Vec<i16>>,
}

impl Store {
    /// A shard's small blocks, by day and id.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn small_blocks(&self, shard: i16) -> Result<Vec<Small>, StoreError> {
        // The bound is the index's own, see `compaction::SMALL_BYTES`.
        let small: Vec<(Day, i64, i32, i16)> = sqlx::query_as(
            "select day - date '1970-01-01', id, raw_bytes, analysis from culprit.trace_blocks
             where shard = $1 and raw_bytes < 524288 order by day, id limit $2",
        )
        .bind(shard)
        .bind(SMALL_MAX)
        .fetch_all(self.pool())
        .await?;
        let small = small
            .into_iter()
            .map(|(day, id, raw_bytes, analysis)| Small {
                day,
                id,
                raw_bytes,
                analysis,
            });
        Ok(small.collect())
    }

    /// These blocks of a shard and day with everything that counts in them, by id. Blocks that are
    /// gone are left out.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a block is damaged.
    pub async fn whole_blocks(
        &self,
        shard: i16,
        day: Day,
        ids: &[i64],
    ) -> Result<Vec<Whole>, StoreError> {
        let mut transaction = self.pool().begin().await?;
        // Blocks and what counts in them, of one moment.
        transaction
            .execute("set transaction isolation level repeatable read read only")
            .await?;
        let blocks = whole_blocks(&mut transaction, shard, day, ids).await?;
        transaction.commit().await?;
        Ok(blocks.into_iter().map(|(_, _, block)| block).collect())
    }

    /// Puts `new` in the place of the blocks `old`, which it holds the traces of; whether it did: if
    /// any of them is gone meanwhile, nothing changes.
    ///
    /// Only the shard's owner may, and not while a tick of it is under way: a tick names blocks.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the shard has another owner; or Postgres failed.
    pub async fn replace_blocks(
        &self,
        lease: &Lease,
        (day, old): (Day, &[i64]),
        analysis: i16,
        new: Option<NewBlock>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        let deleted = sqlx::query(
            "delete from culprit.trace_blocks
             where shard = $1 and day = date '1970-01-01' + $2 and id = any($3)",
        )
        .bind(lease.shard)
        .bind(day)
        .bind(old)
        .execute(&mut *transaction)
        .await?;
        if deleted.rows_affected() != old.len() as u64 {
            return Ok(false);
        }
        sqlx::query(
            "delete from culprit.superseded
             where shard = $1 and day = date '1970-01-01' + $2 and block_id = any($3)",
        )
        .bind(lease.shard)
        .bind(day)
        .bind(old)
        .execute(&mut *transaction)
        .await?;
        if let Some(new) = new {
            insert_block(&mut transaction, lease.shard, analysis, new).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// As [`Store::whole_blocks`], with id and version of the analysis, within a transaction that sees one
/// moment.
pub(super) async fn whole_blocks(
    connection: &mut Connection,
    shard: i16,
    day: Day,
    ids: &[i64],
) -> Result<Vec<(i64, i16, Whole)>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, analysis, payload, trace_ids, span_ids, start_ns, duration_ns, endpoint_ids,
                version_ids, minutes, flags, trace_spans, weights,
                database_ns, cache_ns, external_ns, messaging_ns, serialization_ns, logging_ns,
                pool_wait_ns, connect_ns, network_ns, unattributed_ns,
                database_calls, cache_calls, external_calls
         from culprit.trace_blocks
         where shard = $1 and day = date '1970-01-01' + $2 and id = any($3) order by id",
    )
    .bind(shard)
    .bind(day)
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let gone: Vec<(i64, Uuid)> = sqlx::query_as(
        "select block_id, trace_id from culprit.superseded
         where shard = $1 and day = date '1970-01-01' + $2 and block_id = any($3)",
    )
    .bind(shard)
    .bind(day)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let gone: HashSet<(i64, Uuid)> = gone.into_iter().collect();
    rows.into_iter()
        .map(|row| Ok((row.id, row.analysis, row.into_whole(&gone)?)))
        .collect()
}

impl Row {
    fn into_whole(self, gone: &HashSet<(i64, Uuid)>) -> Result<Whole, StoreError> {
        let mut requests = Vec::with_capacity(self.trace_ids.len());
        for at in 0..self.trace_ids.len() {
            if gone.contains(&(self.id, self.trace_ids[at])) {
                continue;
            }
            let request = self.request(at).ok_or_else(|| {
                StoreError::Damaged(format!("the columns of block {} differ in length", self.id))
            })?;
            requests.push(request);
        }
        Ok(Whole {
            payload: Bytes::from(self.payload),
            requests,
        })
    }

    fn request(&self, at: usize) -> Option<NewRequest> {
        let mut calls = [0; Category::COUNT];
        for (category, column) in self.calls() {
            calls[category as usize] = u32::try_from(or(column, at, 0)?).unwrap_or_default();
        }
        let duration_ns = unsigned(*self.duration_ns.get(at)?);
        Some(NewRequest {
            trace_id: TraceId(self.trace_ids.get(at)?.into_bytes()),
            span_id: SpanId(self.span_ids.get(at)?.to_be_bytes()),
            start_ns: unsigned(*self.start_ns.get(at)?),
            duration_ns,
            categories: self.times.categories(at, duration_ns)?,
            calls,
            endpoint: *self.endpoint_ids.get(at)?,
            version: *self.version_ids.get(at)?,
            minute: *self.minutes.get(at)?,
            weight: i64::from(or(&self.weights, at, 1)?),
            spans: u32::try_from(*self.trace_spans.get(at)?).unwrap_or_default(),
            flags: *self.flags.get(at)?,
        })
    }

    fn calls(&self) -> [(Category, &Option<Vec<i16>>); 3] {
        [
            (Category::Database, &self.database_calls),
            (Category::Cache, &self.cache_calls),
            (Category::External, &self.external_calls),
        ]
    }
}
