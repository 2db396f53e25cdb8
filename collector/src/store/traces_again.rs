//! What is stored of traces of which more has arrived.

use analyzer::span::{SpanId, TraceId};
use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::Executor;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

use super::finalise::{FLAG_TAIL, uuid};
use super::pool::Connection;
use super::{Store, StoreError};
use crate::deltas::{Counted, Day, EDGES_FROM_ANALYSIS};

/// A stored request: how it was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldRequest {
    /// The entry span.
    pub span_id: SpanId,
    /// How it was counted; `None` for a fragment, which was not.
    pub counted: Option<Counted>,
}

/// A block as it is stored, with those of its traces that count.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    /// The partition of everything its traces contributed.
    pub day: Day,
    /// Its number.
    pub id: i64,
    /// The version of the analysis that counted its requests.
    pub analysis: i16,
    /// zstd of OTLP.
    pub payload: Bytes,
    /// The traces that count, with their requests.
    pub traces: BTreeMap<TraceId, Vec<OldRequest>>,
}

/// Where traces stand.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// The blocks, by day and number.
    pub blocks: Vec<StoredBlock>,
    /// Traces that stand in blocks beyond the bound.
    pub left_out: HashSet<TraceId>,
}

#[derive(sqlx::FromRow)]
struct Row {
    day: i32,
    id: i64,
    analysis: i16,
    payload: Vec<u8>,
    trace_ids: Vec<Uuid>,
    span_ids: Vec<i64>,
    endpoint_ids: Vec<i32>,
    version_ids: Vec<i32>,
    minutes: Vec<i32>,
    flags: Vec<i16>,
}

impl Row {
    fn request(&self, at: usize) -> Option<(TraceId, OldRequest)> {
        let endpoint = *self.endpoint_ids.get(at)?;
        let counted = Counted {
            day: self.day,
            endpoint,
            version: *self.version_ids.get(at)?,
            minute: *self.minutes.get(at)?,
            tail: self.flags.get(at)? & FLAG_TAIL != 0,
            edges: self.analysis >= EDGES_FROM_ANALYSIS,
        };
        let request = OldRequest {
            span_id: SpanId(self.span_ids.get(at)?.to_be_bytes()),
            counted: (endpoint != 0).then_some(counted),
        };
        Some((TraceId(self.trace_ids.get(at)?.into_bytes()), request))
    }

    fn into_block(self, gone: &HashSet<(i32, i64, Uuid)>) -> StoredBlock {
        let mut traces: BTreeMap<TraceId, Vec<OldRequest>> = BTreeMap::new();
        for (at, trace_id) in self.trace_ids.iter().enumerate() {
            if gone.contains(&(self.day, self.id, *trace_id)) {
                continue;
            }
            if let Some((trace_id, request)) = self.request(at) {
                traces.entry(trace_id).or_default().push(request);
            }
        }
        StoredBlock {
            day: self.day,
            id: self.id,
            analysis: self.analysis,
            payload: self.payload.into(),
            traces,
        }
    }
}

impl Store {
    /// The blocks of a shard that hold the copies of these traces that count, finalised within a
    /// day; at most `blocks_max`, of `bytes_max` raw bytes unless the first is larger, those of the
    /// first traces first. A trace id that was used on several days goes on with the newest.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn blocks_with(
        &self,
        shard: i16,
        traces: &[TraceId],
        today: Day,
        (blocks_max, bytes_max): (usize, i64),
    ) -> Result<Copies, StoreError> {
        if traces.is_empty() {
            return Ok(Copies::default());
        }
        let ids: Vec<Uuid> = traces.iter().map(|it| uuid(*it)).collect();
        let mut transaction = self.pool().begin().await?;
        // A young partition has no statistics, and of the price of comparing arrays the planner knows
        // nothing: without these it would rather compare all of them than look into their index.
        const BY_TRACE_ID: &str =
            "set local enable_seqscan = off; set local enable_indexscan = off;
             set local enable_material = off; set local enable_hashjoin = off;
             set local enable_mergejoin = off";
        transaction.execute(BY_TRACE_ID).await?;
        let rows: Vec<(i32, i64, Uuid, i32)> = sqlx::query_as(
            "select found.day - date '1970-01-01', found.id, wanted.trace_id, found.raw_bytes
             from unnest($1) as wanted(trace_id)
             cross join lateral (
                 select b.day, b.id, b.raw_bytes from culprit.trace_blocks b
                 where b.trace_ids @> array[wanted.trace_id] and b.shard = $2
                   and b.day between date '1970-01-01' + $3 - 1 and date '1970-01-01' + $3 + 1
             ) found
             where not exists (
                   select from culprit.superseded x
                   where x.block_id = found.id and x.shard = $2 and x.day = found.day
                     and x.trace_id = wanted.trace_id)
             order by 1, 2",
        )
        .bind(ids)
        .bind(shard)
        .bind(today)
        .fetch_all(&mut *transaction)
        .await?;
        let place_of: HashMap<Uuid, ((Day, i64), i64)> = rows
            .into_iter()
            .map(|(day, id, trace_id, bytes)| (trace_id, ((day, id), i64::from(bytes))))
            .collect();
        let mut chosen: BTreeMap<(Day, i64), i64> = BTreeMap::new();
        let mut left_out = HashSet::new();
        for trace_id in traces {
            let Some((key, bytes)) = place_of.get(&uuid(*trace_id)) else {
                continue;
            };
            let so_far: i64 = chosen.values().sum();
            let fits = chosen.len() < blocks_max && so_far + bytes <= bytes_max;
            if chosen.is_empty() || fits || chosen.contains_key(key) {
                chosen.insert(*key, *bytes);
            } else {
                left_out.insert(*trace_id);
            }
        }
        let keys: Vec<(Day, i64)> = chosen.into_keys().collect();
        let blocks = read_blocks(&mut transaction, shard, &keys).await?;
        transaction.commit().await?;
        Ok(Copies { blocks, left_out })
    }

    /// Blocks of a shard by (day, id), ascending.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn blocks(
        &self,
        shard: i16,
        keys: &[(Day, i64)],
    ) -> Result<Vec<StoredBlock>, StoreError> {
        let mut transaction = self.pool().begin().await?;
        let blocks = read_blocks(&mut transaction, shard, keys).await?;
        transaction.commit().await?;
        Ok(blocks)
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
        let mut blocks = sqlx::query_scalar::<_, Vec<Uuid>>(
            "select trace_ids from culprit.trace_blocks
             where shard = $1 and day >= (now() at time zone 'utc')::date - 1",
        )
        .bind(shard)
        .fetch(self.pool());
        while let Some(ids) = blocks.try_next().await? {
            ids.into_iter()
                .for_each(|id| tell(TraceId(id.into_bytes())));
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

async fn read_blocks(
    connection: &mut Connection,
    shard: i16,
    keys: &[(Day, i64)],
) -> Result<Vec<StoredBlock>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (days, ids): (Vec<i32>, Vec<i64>) = keys.iter().copied().unzip();
    let rows: Vec<Row> = sqlx::query_as(
        "select b.day - date '1970-01-01' as day, b.id, b.analysis, b.payload, b.trace_ids,
                b.span_ids, b.endpoint_ids, b.version_ids, b.minutes, b.flags
         from unnest($2::integer[], $3::bigint[]) as wanted(day, id)
         join culprit.trace_blocks b
           on b.day = date '1970-01-01' + wanted.day and b.id = wanted.id and b.shard = $1
         order by b.day, b.id",
    )
    .bind(shard)
    .bind(days)
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let gone: Vec<(i32, i64, Uuid)> = sqlx::query_as(
        "select day - date '1970-01-01', block_id, trace_id from culprit.superseded
         where block_id = any($2) and shard = $1",
    )
    .bind(shard)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let gone: HashSet<_> = gone.into_iter().collect();
    Ok(rows.into_iter().map(|row| row.into_block(&gone)).collect())
}
