//! What is stored of traces of which more has arrived.

use analyzer::span::{SpanId, TraceId};
use bytes::Bytes;
use futures_util::TryStreamExt;
use std::collections::HashMap;
use uuid::Uuid;

use super::finalise::{FLAG_TAIL, uuid};
use super::{Store, StoreError};
use crate::deltas::{Counted, Day};
use crate::store::dictionaries::Ids;

/// A stored request: how it was counted, and where its trace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldRequest {
    /// The entry span.
    pub span_id: SpanId,
    /// The block of the trace.
    pub block_id: i64,
    /// The partition of everything it contributed.
    pub day: Day,
    /// How it was counted; `None` for a fragment, which was not.
    pub counted: Option<Counted>,
    /// The version of the analysis that counted it.
    pub analysis: i16,
}

/// A row of `request_rows` as far as it matters here.
#[derive(sqlx::FromRow)]
struct Row {
    trace_id: Uuid,
    span_id: i64,
    block_id: i64,
    day: i32,
    service_id: Option<i32>,
    endpoint_id: Option<i32>,
    version_id: Option<i32>,
    minute: i32,
    flags: i16,
    analysis: i16,
}

impl From<Row> for OldRequest {
    fn from(row: Row) -> Self {
        let ids = row.service_id.zip(row.endpoint_id).zip(row.version_id);
        OldRequest {
            span_id: SpanId(row.span_id.to_be_bytes()),
            block_id: row.block_id,
            day: row.day,
            counted: ids.map(|((service, endpoint), version)| Counted {
                day: row.day,
                ids: Ids {
                    service,
                    endpoint,
                    version,
                },
                minute: row.minute,
                tail: row.flags & FLAG_TAIL != 0,
            }),
            analysis: row.analysis,
        }
    }
}

impl Store {
    /// The stored requests of those traces of a shard that were finalised within a day. A trace id
    /// that was used on several days goes on with the newest.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn stored_requests(
        &self,
        shard: i16,
        traces: &[TraceId],
        today: Day,
    ) -> Result<HashMap<TraceId, Vec<OldRequest>>, StoreError> {
        let mut found = HashMap::new();
        if traces.is_empty() {
            return Ok(found);
        }
        for day in [today - 1, today, today + 1] {
            found.extend(self.requests_of_day(shard, traces, day).await?);
        }
        Ok(found)
    }

    /// The stored requests of those traces of a shard that were finalised on `day`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn requests_of_day(
        &self,
        shard: i16,
        traces: &[TraceId],
        day: Day,
    ) -> Result<HashMap<TraceId, Vec<OldRequest>>, StoreError> {
        let ids: Vec<Uuid> = traces.iter().map(|it| uuid(*it)).collect();
        let rows: Vec<Row> = sqlx::query_as(
            "select trace_id, span_id, block_id, day - date '1970-01-01' as day,
                    service_id, endpoint_id, version_id, minute, flags, analysis
             from culprit.request_rows
             where trace_id = any($1) and shard = $2 and day = date '1970-01-01' + $3
             order by trace_id, span_id",
        )
        .bind(ids)
        .bind(shard)
        .bind(day)
        .fetch_all(self.pool())
        .await?;
        let mut found: HashMap<TraceId, Vec<OldRequest>> = HashMap::new();
        for row in rows {
            let trace_id = TraceId(row.trace_id.into_bytes());
            found.entry(trace_id).or_default().push(row.into());
        }
        Ok(found)
    }

    /// Blocks of a shard by (day, id): zstd of OTLP.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn blocks(
        &self,
        shard: i16,
        keys: &[(Day, i64)],
    ) -> Result<HashMap<(Day, i64), Bytes>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let (days, ids): (Vec<i32>, Vec<i64>) = keys.iter().copied().unzip();
        let rows: Vec<(i32, i64, Vec<u8>)> = sqlx::query_as(
            "select b.day - date '1970-01-01', b.id, b.payload
             from unnest($2::integer[], $3::bigint[]) as wanted(day, id)
             join culprit.trace_blocks b
               on b.day = date '1970-01-01' + wanted.day and b.id = wanted.id and b.shard = $1",
        )
        .bind(shard)
        .bind(days)
        .bind(ids)
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|(day, id, payload)| ((day, id), payload.into()))
            .collect())
    }

    /// Tells the ids of a shard's traces that were finalised yesterday or today, one by one: there
    /// may be many millions. Repeats them.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn recent_trace_ids(
        &self,
        shard: i16,
        mut tell: impl FnMut(TraceId),
    ) -> Result<(), StoreError> {
        let mut ids = sqlx::query_scalar::<_, Uuid>(
            "select trace_id from culprit.request_rows
             where shard = $1 and day >= (now() at time zone 'utc')::date - 1",
        )
        .bind(shard)
        .fetch(self.pool());
        while let Some(id) = ids.try_next().await? {
            tell(TraceId(id.into_bytes()));
        }
        Ok(())
    }

    /// The largest id that a block of the shard has: new ones must be larger.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn last_block_id(&self, shard: i16) -> Result<i64, StoreError> {
        let id: Option<i64> =
            sqlx::query_scalar("select max(id) from culprit.trace_blocks where shard = $1")
                .bind(shard)
                .fetch_one(self.pool())
                .await?;
        Ok(id.unwrap_or_default())
    }
}
