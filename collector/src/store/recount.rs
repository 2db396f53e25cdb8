//! What a recount reads: which traces count, how they were counted, and where they are.

use analyzer::span::TraceId;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::traces_again::OldRequest;
use super::{Store, StoreError};
use crate::deltas::Day;

/// The traces of one block that count, with their requests.
pub type BlockTraces = BTreeMap<TraceId, Vec<OldRequest>>;

impl Store {
    /// The days of which a shard has requests.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn stored_days(&self, shard: i16) -> Result<Vec<Day>, StoreError> {
        let days = sqlx::query_scalar(
            "select distinct day - date '1970-01-01' from culprit.request_rows
             where shard = $1 order by 1",
        )
        .bind(shard)
        .fetch_all(self.pool())
        .await?;
        Ok(days)
    }

    /// The traces of a shard and day, by the block that holds the copy that counts.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn counted_traces(
        &self,
        shard: i16,
        day: Day,
    ) -> Result<BTreeMap<i64, BlockTraces>, StoreError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "select distinct trace_id from culprit.request_rows
             where shard = $1 and day = date '1970-01-01' + $2",
        )
        .bind(shard)
        .bind(day)
        .fetch_all(self.pool())
        .await?;
        let mut blocks: BTreeMap<i64, BlockTraces> = BTreeMap::new();
        for ids in ids.chunks(10_000) {
            let traces: Vec<TraceId> = ids.iter().map(|id| TraceId(id.into_bytes())).collect();
            for (trace_id, requests) in self.requests_of_day(shard, &traces, day).await? {
                let Some(first) = requests.first() else {
                    continue;
                };
                blocks
                    .entry(first.block_id)
                    .or_default()
                    .insert(trace_id, requests);
            }
        }
        Ok(blocks)
    }
}
