//! A trace by its id: an index over the blocks' trace ids says which one holds it; the block is
//! unpacked and the trace's spans are picked out of it, bytes as they came.
//!
//! What is not finalised yet is looked for in the journal, what could not be analysed in quarantine.

use std::collections::HashMap;

use analyzer::span::TraceId;
use futures_util::TryStreamExt;
use sqlx::Executor;

use super::finalise::uuid;
use super::{Store, StoreError};
use crate::assembly::unite;
use crate::assembly::{damaged, decompress};
use crate::deltas::Day;
use crate::otlp;

/// Rows of the journal looked into for a trace that is not finalised yet, newest first. A row holds
/// at most about half a megabyte of spans, so this is at most 100 MB to unpack, one row at a time;
/// a trace behind more of a backlog is reported as not found, and found once it is finalised.
const JOURNAL_ROWS_MAX: i64 = 200;

/// A trace as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTrace {
    /// A valid `ExportTraceServiceRequest` with this trace's spans, each as it came.
    pub otlp: Vec<u8>,
    /// Where it was found.
    pub state: TraceState,
}

/// Where a finalised trace stands. As long as it stands there, its spans are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TracePlace {
    day: Day,
    shard: i16,
    block_id: i64,
    /// What the block unpacks to; the trace is at most so long.
    pub raw_bytes: usize,
}

/// A trace, or where it stands if it is long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundTrace {
    /// All of it.
    Whole(StoredTrace),
    /// Its block unpacks to more than was asked for: [`Store::trace_at`] reads it.
    Long(TracePlace),
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

impl Store {
    /// The spans of a trace, or `None` if none is kept. What a replica does not have, its primary is
    /// asked for: a link in an alert is followed sooner than a replica follows.
    ///
    /// # Errors
    /// Postgres cannot be reached, or what is stored is damaged.
    pub async fn trace(&self, trace_id: TraceId) -> Result<Option<StoredTrace>, StoreError> {
        match self.trace_within(trace_id, usize::MAX).await? {
            Some(FoundTrace::Whole(trace)) => Ok(Some(trace)),
            // No block is so long.
            Some(FoundTrace::Long(_)) | None => Ok(None),
        }
    }

    /// As [`Store::trace`], but of a trace whose block unpacks to more than `raw_bytes_max` only the place.
    ///
    /// # Errors
    /// As [`Store::trace`].
    pub async fn trace_within(
        &self,
        trace_id: TraceId,
        raw_bytes_max: usize,
    ) -> Result<Option<FoundTrace>, StoreError> {
        match (
            self.trace_here(trace_id, raw_bytes_max).await?,
            self.primary(),
        ) {
            (None, Some(primary)) => primary.trace_here(trace_id, raw_bytes_max).await,
            (found, _) => Ok(found),
        }
    }

    /// The spans of a trace that stood at `place` a moment ago; `None` if it does not any more, because
    /// more of it has arrived or its block was packed with others.
    ///
    /// # Errors
    /// As [`Store::trace`].
    pub async fn trace_at(
        &self,
        trace_id: TraceId,
        place: TracePlace,
    ) -> Result<Option<StoredTrace>, StoreError> {
        let block: Option<(Vec<u8>, i32)> = sqlx::query_as(
            "select payload, cardinality(trace_ids) from culprit.trace_blocks
             where id = $1 and shard = $2 and day = date '1970-01-01' + $3 and $4 = any(trace_ids)",
        )
        .bind(place.block_id)
        .bind(place.shard)
        .bind(place.day)
        .bind(uuid(trace_id))
        .fetch_optional(self.pool())
        .await?;
        match (block, self.primary()) {
            (Some((payload, 1)), _) => alone(payload).await.map(Some),
            (Some((payload, _)), _) => finalised(trace_id, payload).await,
            (None, Some(primary)) => Box::pin(primary.trace_at(trace_id, place)).await,
            (None, None) => Ok(None),
        }
    }

    /// How many spans of a trace are in quarantine, whatever else of it is stored: what came after it had
    /// grown too long is kept there.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn spans_in_quarantine(&self, trace_id: TraceId) -> Result<i64, StoreError> {
        let spans = sqlx::query_scalar(
            "select coalesce(sum(spans), 0)::bigint from culprit.quarantine where trace_id = $1",
        );
        Ok(spans.bind(uuid(trace_id)).fetch_one(self.pool()).await?)
    }

    /// When the oldest request began that is kept with its spans, ns since the epoch; `None` if there is none.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn oldest_trace_ns(&self) -> Result<Option<u64>, StoreError> {
        // The first by the index: within a block's length of the oldest one, which is exact enough.
        let oldest: Option<i64> = sqlx::query_scalar(
            "select first_start_ns from culprit.trace_blocks
             where last_start_ns > 0 order by last_start_ns limit 1",
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(oldest.and_then(|it| u64::try_from(it).ok()))
    }

    async fn trace_here(
        &self,
        trace_id: TraceId,
        raw_bytes_max: usize,
    ) -> Result<Option<FoundTrace>, StoreError> {
        if let Some(found) = self.final_trace(trace_id, raw_bytes_max).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.arriving_trace(trace_id).await? {
            return Ok(Some(FoundTrace::Whole(found)));
        }
        // It may have been finalised, or put aside, between the two looks.
        if let Some(found) = self.final_trace(trace_id, raw_bytes_max).await? {
            return Ok(Some(found));
        }
        let quarantined = self.quarantined_trace(trace_id).await?;
        Ok(quarantined.map(FoundTrace::Whole))
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
        // As they are stored: Postgres' text holds no NUL.
        let stored: HashMap<String, &str> = fingerprints
            .iter()
            .map(|it| (it.replace('\0', "\u{fffd}"), *it))
            .collect();
        let rows: Vec<(String, i32)> = sqlx::query_as(
            "select k.fingerprint, k.id from culprit.finding_keys k
             join culprit.findings f on f.id = k.id where k.fingerprint = any($1) order by k.id",
        )
        .bind(stored.keys().cloned().collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        let known = |(key, id): (String, i32)| Some((stored.get(&key)?.to_string(), id));
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// The newest copy that counts, whenever it was stored. One statement, so that compaction cannot
    /// take the block away between finding and reading it.
    async fn final_trace(
        &self,
        trace_id: TraceId,
        raw_bytes_max: usize,
    ) -> Result<Option<FoundTrace>, StoreError> {
        let mut transaction = self.pool().begin().await?;
        // Comparing arrays means unpacking them, of which the planner knows nothing.
        transaction
            .execute("set local enable_seqscan = off")
            .await?;
        type Row = (Day, i16, i64, i32, Option<Vec<u8>>);
        let row: Option<Row> = sqlx::query_as(
            "select day - date '1970-01-01', shard, id, raw_bytes, case when raw_bytes <= $2 then payload end
             from culprit.trace_blocks b
             where trace_ids @> array[$1] and not exists (
                 select from culprit.superseded s
                 where s.block_id = b.id and s.trace_id = $1 and s.shard = b.shard and s.day = b.day)
             order by day desc, id desc limit 1",
        )
        .bind(uuid(trace_id))
        .bind(i64::try_from(raw_bytes_max).unwrap_or(i64::MAX))
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let Some((day, shard, block_id, raw_bytes, payload)) = row else {
            return Ok(None);
        };
        match payload {
            Some(payload) => Ok(finalised(trace_id, payload).await?.map(FoundTrace::Whole)),
            None => Ok(Some(FoundTrace::Long(TracePlace {
                day,
                shard,
                block_id,
                raw_bytes: raw_bytes as usize,
            }))),
        }
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
        let arrived: Vec<u8> = parts.into_iter().rev().flatten().collect();
        // A client that missed its answer has sent it again.
        let otlp = unite(arrived)?;
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

/// A trace out of the block that holds it.
async fn finalised(trace_id: TraceId, payload: Vec<u8>) -> Result<Option<StoredTrace>, StoreError> {
    let otlp = spans_of(trace_id, payload).await?;
    Ok(otlp.map(|otlp| StoredTrace {
        otlp,
        state: TraceState::Final,
    }))
}

/// The only trace of a block, which is all of it: a long trace has a block of its own, and would be copied whole
/// while both are in memory.
async fn alone(payload: Vec<u8>) -> Result<StoredTrace, StoreError> {
    let unpacked = tokio::task::spawn_blocking(move || decompress(&payload)).await;
    let otlp = unpacked.map_err(unreadable)??;
    Ok(StoredTrace {
        otlp: otlp.into(),
        state: TraceState::Final,
    })
}

/// The trace's spans out of a packed request, away from the tasks that serve others: a large block
/// takes milliseconds. `None` if there are none.
async fn spans_of(trace_id: TraceId, payload: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
    let pick = move || {
        let request = decompress(&payload)?;
        let mut otlp = Vec::new();
        otlp::select(&request, |_, id| id == trace_id, &mut otlp).map_err(damaged)?;
        Ok((!otlp.is_empty()).then_some(otlp))
    };
    tokio::task::spawn_blocking(pick)
        .await
        .map_err(unreadable)?
}

fn unreadable(error: tokio::task::JoinError) -> StoreError {
    StoreError::Damaged(format!("a stored trace could not be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packer::compress;
    use crate::store::finalise::Quarantined;
    use crate::store::journal::NewRow;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;

    fn otlp(trace: u8, spans: std::ops::Range<u8>) -> Vec<u8> {
        let spans = spans.map(|id| Span {
            trace_id: vec![trace; 16],
            span_id: vec![id; 8],
            name: format!("span {id}"),
            dropped_events_count: 7,
            ..Span::default()
        });
        let scope_spans = vec![ScopeSpans {
            spans: spans.collect(),
            ..ScopeSpans::default()
        }];
        let resource_spans = vec![ResourceSpans {
            scope_spans,
            ..ResourceSpans::default()
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    fn names(stored: &StoredTrace) -> Vec<String> {
        let request = ExportTraceServiceRequest::decode(stored.otlp.as_slice()).unwrap();
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|it| it.scope_spans);
        scopes.flat_map(|it| it.spans).map(|it| it.name).collect()
    }

    fn id(trace: u8) -> TraceId {
        TraceId([trace; 16])
    }

    async fn block(store: &Store, id: i64, traces: &[u8], request: &[u8]) {
        let traces: Vec<_> = traces.iter().map(|it| uuid(TraceId([*it; 16]))).collect();
        sqlx::query(
            "insert into culprit.trace_blocks (day, shard, id, spans, traces, raw_bytes, payload, trace_ids)
             values ((now() at time zone 'utc')::date, 0, $1, 1, 1, $2, $3, $4)",
        )
        .bind(id)
        .bind(request.len() as i32)
        .bind(compress(request, 1))
        .bind(traces)
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn supersede(store: &Store, trace: u8, block_id: i64) {
        sqlx::query(
            "insert into culprit.superseded (block_id, trace_id, shard, day)
             values ($2, $1, 0, (now() at time zone 'utc')::date)",
        )
        .bind(uuid(id(trace)))
        .bind(block_id)
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn journal(store: &Store, request: &[u8]) {
        let row = NewRow {
            shard: 0,
            id: uuid::Uuid::now_v7(),
            spans: 1,
            raw_bytes: request.len() as i32,
            payload: compress(request, 1),
        };
        store.append_journal(vec![row]).await.unwrap();
    }

    #[tokio::test]
    async fn the_newest_copy_that_counts_is_shown() {
        let store = crate::testing::store().await;
        block(&store, 1, &[1, 9], &[otlp(1, 1..3), otlp(9, 1..2)].concat()).await;
        supersede(&store, 1, 1).await;
        supersede(&store, 9, 1).await;
        let later = [otlp(9, 1..4), otlp(1, 1..5), otlp(8, 1..2)].concat();
        block(&store, 2, &[1, 8], &later).await;
        let stored = store.trace(id(1)).await.unwrap().unwrap();
        assert_eq!(stored.state, TraceState::Final);
        assert_eq!(names(&stored), ["span 1", "span 2", "span 3", "span 4"]);
        let decoded = ExportTraceServiceRequest::decode(stored.otlp.as_slice()).unwrap();
        let sent = ExportTraceServiceRequest::decode(otlp(1, 1..5).as_slice()).unwrap();
        assert_eq!(decoded, sent);
        // Its spans are there, but no copy of it counts.
        assert_eq!(store.trace(id(9)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn of_a_long_trace_the_place_is_told_until_it_moves() {
        let store = crate::testing::store().await;
        let request = otlp(1, 1..5);
        block(&store, 1, &[1], &request).await;
        let bound = request.len();
        let whole = store.trace_within(id(1), bound).await.unwrap().unwrap();
        let FoundTrace::Whole(whole) = whole else {
            panic!("it is not longer than that: {whole:?}");
        };
        let place = |found| match found {
            Some(FoundTrace::Long(place)) => place,
            other => panic!("it is longer than that: {other:?}"),
        };
        let first = place(store.trace_within(id(1), bound - 1).await.unwrap());
        assert_eq!(first.raw_bytes, request.len());
        assert_eq!(store.trace_at(id(1), first).await.unwrap(), Some(whole));
        assert_eq!(store.trace_at(id(2), first).await.unwrap(), None);
        // More of it has arrived.
        supersede(&store, 1, 1).await;
        block(&store, 2, &[1], &otlp(1, 1..9)).await;
        let second = place(store.trace_within(id(1), bound).await.unwrap());
        assert_ne!(second, first);
        sqlx::query("delete from culprit.trace_blocks where id = 1")
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(store.trace_at(id(1), first).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_trace_is_found_while_it_is_still_arriving() {
        let store = crate::testing::store().await;
        journal(&store, &[otlp(1, 1..2), otlp(2, 1..2)].concat()).await;
        journal(&store, &otlp(1, 2..4)).await;
        let stored = store.trace(id(1)).await.unwrap().unwrap();
        assert_eq!(stored.state, TraceState::Arriving);
        assert_eq!(names(&stored), ["span 1", "span 2", "span 3"]);
        assert_eq!(store.trace(id(3)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_trace_in_quarantine_can_be_looked_at() {
        let store = crate::testing::store().await;
        let trace = Quarantined {
            trace_id: id(1),
            reason: "it panicked".to_owned(),
            spans: 1,
            payload: compress(&otlp(1, 1..2), 1),
        };
        store.suspect(0, trace).await.unwrap();
        let stored = store.trace(id(1)).await.unwrap().unwrap();
        let reason = "it panicked".to_owned();
        assert_eq!(stored.state, TraceState::Quarantined { reason });
        assert_eq!(store.spans_in_quarantine(id(1)).await.unwrap(), 1);
        assert_eq!(store.spans_in_quarantine(id(2)).await.unwrap(), 0);
        let (count, listed) = store.list_quarantine().await.unwrap();
        assert_eq!((count, listed[0].trace_id), (1, id(1)));
    }

    #[tokio::test]
    async fn damage_is_told_apart_from_absence() {
        let store = crate::testing::store().await;
        block(&store, 1, &[1], &otlp(1, 1..2)).await;
        sqlx::query("update culprit.trace_blocks set payload = '\\x00'")
            .execute(store.pool())
            .await
            .unwrap();
        assert!(matches!(
            store.trace(id(1)).await,
            Err(StoreError::Damaged(_))
        ));
    }
}
