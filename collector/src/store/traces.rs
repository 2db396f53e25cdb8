//! A trace by its id: its request rows say which block holds it; a block is unpacked and the
//! trace's spans are picked out of it, bytes as they came.
//!
//! What is not finalised yet is looked for in the journal, what could not be analysed in quarantine.

use std::collections::HashMap;
use std::io::Read;

use analyzer::span::TraceId;
use futures_util::TryStreamExt;

use super::dictionaries::digest;
use super::finalise::uuid;
use super::{Store, StoreError};
use crate::otlp;

/// Rows of the journal looked into for a trace that is not finalised yet, newest first. A row holds
/// at most about half a megabyte of spans, so this is at most 100 MB to unpack, one row at a time;
/// a trace behind more of a backlog is reported as not found, and found once it is finalised.
const JOURNAL_ROWS_MAX: i64 = 200;

/// Bytes that one stored payload may unpack to. Ours are far smaller; beyond it the data is damaged.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

/// A trace as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTrace {
    /// A valid `ExportTraceServiceRequest` with this trace's spans, each as it came.
    pub otlp: Vec<u8>,
    /// Where it was found.
    pub state: TraceState,
}

/// Where a trace is on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceState {
    /// Analysed and stored; later spans may still be added.
    Final,
    /// Its spans are durable, but it was not analysed yet: more may be on their way.
    Arriving,
    /// Its analysis failed; the spans are kept.
    Quarantined {
        /// Why.
        reason: String,
    },
}

#[derive(sqlx::FromRow)]
struct Place {
    day: i32,
    shard: i16,
    block_id: i64,
}

impl Store {
    /// The spans of a trace, or `None` if none is kept.
    ///
    /// # Errors
    /// Postgres cannot be reached, or what is stored is damaged.
    pub async fn trace(&self, trace_id: TraceId) -> Result<Option<StoredTrace>, StoreError> {
        if let Some(found) = self.final_trace(trace_id).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.arriving_trace(trace_id).await? {
            return Ok(Some(found));
        }
        // It may have been finalised, or put aside, between the two looks.
        if let Some(found) = self.final_trace(trace_id).await? {
            return Ok(Some(found));
        }
        self.quarantined_trace(trace_id).await
    }

    /// The ids under which those fingerprints stand in the list of findings; a finding that the
    /// review has not taken up yet has none.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn finding_ids(
        &self,
        fingerprints: &[&str],
    ) -> Result<HashMap<String, i32>, StoreError> {
        let digests: HashMap<Vec<u8>, &str> = fingerprints
            .iter()
            .map(|it| (digest(&[it]).to_vec(), *it))
            .collect();
        let rows: Vec<(Vec<u8>, i32)> = sqlx::query_as(
            "select k.digest, k.id from culprit.finding_keys k
             join culprit.findings f on f.id = k.id where k.digest = any($1)",
        )
        .bind(digests.keys().cloned().collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        let known = |(key, id): (Vec<u8>, i32)| Some((digests.get(&key)?.to_string(), id));
        Ok(rows.into_iter().filter_map(known).collect())
    }

    async fn final_trace(&self, trace_id: TraceId) -> Result<Option<StoredTrace>, StoreError> {
        // Compaction may move a block between the two questions: its rows then point elsewhere.
        // A block that is still gone was taken by retention.
        for _ in 0..2 {
            let Some(place) = self.place(trace_id).await? else {
                return Ok(None);
            };
            if let Some(payload) = self.block(&place).await? {
                let otlp = spans_of(trace_id, payload).await?;
                return Ok(otlp.map(|otlp| StoredTrace {
                    otlp,
                    state: TraceState::Final,
                }));
            }
        }
        Ok(None)
    }

    /// Where the copy of the trace is that counts.
    async fn place(&self, trace_id: TraceId) -> Result<Option<Place>, StoreError> {
        let place = sqlx::query_as(
            "select day - date '1970-01-01' as day, shard, block_id
             from culprit.request_rows where trace_id = $1
             order by day desc limit 1",
        )
        .bind(uuid(trace_id))
        .fetch_optional(self.pool())
        .await?;
        Ok(place)
    }

    async fn block(&self, place: &Place) -> Result<Option<Vec<u8>>, StoreError> {
        let payload = sqlx::query_scalar(
            "select payload from culprit.trace_blocks
             where id = $1 and shard = $2 and day = date '1970-01-01' + $3",
        )
        .bind(place.block_id)
        .bind(place.shard)
        .bind(place.day)
        .fetch_optional(self.pool())
        .await?;
        Ok(payload)
    }

    async fn arriving_trace(&self, trace_id: TraceId) -> Result<Option<StoredTrace>, StoreError> {
        let mut rows = sqlx::query_scalar::<_, Vec<u8>>(
            "select payload from culprit.journal where shard = $1 order by id desc limit $2",
        )
        .bind(otlp::shard_of(trace_id, self.shards()))
        .bind(JOURNAL_ROWS_MAX)
        .fetch(self.pool());
        let mut parts = Vec::new();
        while let Some(payload) = rows.try_next().await? {
            parts.extend(spans_of(trace_id, payload).await?);
        }
        // Newest first as read; the spans stand in order of arrival.
        let otlp = parts.into_iter().rev().flatten().collect();
        let found = StoredTrace {
            otlp,
            state: TraceState::Arriving,
        };
        Ok((!found.otlp.is_empty()).then_some(found))
    }

    async fn quarantined_trace(
        &self,
        trace_id: TraceId,
    ) -> Result<Option<StoredTrace>, StoreError> {
        let row: Option<(String, Vec<u8>)> = sqlx::query_as(
            "select reason, payload from culprit.quarantine where trace_id = $1
             order by at desc limit 1",
        )
        .bind(uuid(trace_id))
        .fetch_optional(self.pool())
        .await?;
        let Some((reason, payload)) = row else {
            return Ok(None);
        };
        let otlp = spans_of(trace_id, payload).await?;
        Ok(otlp.map(|otlp| StoredTrace {
            otlp,
            state: TraceState::Quarantined { reason },
        }))
    }
}

/// The trace's spans out of a packed request, away from the tasks that serve others: a large block
/// takes milliseconds. `None` if there are none.
async fn spans_of(trace_id: TraceId, payload: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
    let pick = move || {
        let request = unpack(&payload)?;
        let mut otlp = Vec::new();
        otlp::select(&request, |_, id| id == trace_id, &mut otlp)
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok((!otlp.is_empty()).then_some(otlp))
    };
    tokio::task::spawn_blocking(pick).await.map_err(|error| {
        StoreError::Damaged(format!("a stored trace could not be read: {error}"))
    })?
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, StoreError> {
    let damaged = |error: std::io::Error| StoreError::Damaged(format!("zstd: {error}"));
    let mut raw = Vec::new();
    let mut reader = zstd::stream::read::Decoder::new(payload).map_err(damaged)?;
    let read = Read::take(&mut reader, UNPACKED_BYTES_MAX)
        .read_to_end(&mut raw)
        .map_err(damaged)?;
    if read as u64 == UNPACKED_BYTES_MAX {
        return Err(StoreError::Damaged(
            "a payload unpacks to more than 1 GB".to_owned(),
        ));
    }
    Ok(raw)
}
