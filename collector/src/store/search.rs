//! Passing over blocks: in which of them a list's rows can be, without reading them.
//!
//! Everything of one page is read in one snapshot, so that blocks which compaction replaces meanwhile
//! neither vanish nor show a row twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use analyzer::span::TraceId;
use futures_util::future::try_join_all;
use uuid::Uuid;

use super::StoreError;
use super::pool::Connection;
use super::requests::RequestOrder;
use crate::assembly::{damaged, decompress};
use crate::block_filter::{Fetched, HEAD_BYTES, SEGMENT_BYTES, WHOLE_BYTES_MAX, window_bits};
use crate::span_conditions::{Condition, Met, met};

/// Blocks of the first look, then twice as many each time, up to the most: a page is mostly in the
/// first few, and a search without a hit wants few round trips.
const BLOCKS_FIRST: i64 = 4;
const BLOCKS_MOST: i64 = 512;

/// The same by duration: no index gives this order, so that each look goes through all that stands beside
/// the blocks, and ten rows are mostly in a dozen of them.
const BLOCKS_FIRST_SLOWEST: i64 = 16;

/// Blocks unpacked at once: each takes about two megabytes until it is searched through.
const UNPACKED_AT_ONCE: usize = 32;

/// The end of a filter that holds its ranges of numbers, whatever it holds besides.
const TAIL_BYTES: usize = SEGMENT_BYTES + HEAD_BYTES;

/// A block's key: day since the epoch, shard, id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct BlockKey {
    pub day: i32,
    pub shard: i16,
    pub id: i64,
}

/// Which blocks may hold rows, by what stands beside them. Times are ns since the epoch.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub order: RequestOrder,
    /// Started at or after.
    pub from_ns: i64,
    /// Started before.
    pub until_ns: i64,
    /// One at least this long.
    pub min_ns: i64,
    /// All of these flags in some request.
    pub flags: i16,
    /// One of these endpoints; `None` for any.
    pub endpoints: Option<Vec<i32>>,
    /// Spans that meet each of these. With them the endpoints of that name, which do as well.
    pub conditions: Arc<[Condition]>,
    pub named_endpoints: Arc<[i32]>,
    /// Where the last look ended.
    after: Option<(i64, BlockKey)>,
    look_at: i64,
    /// Blocks passed over or looked into so far.
    pub seen: usize,
}

/// One look: the blocks that may hold rows, of those that were looked at.
pub(super) struct Looked {
    /// Each with the largest start (or duration) that it holds, the largest first.
    pub blocks: Vec<(i64, BlockKey)>,
    /// What was not looked at holds nothing with a larger start (or duration); `None`: it was all.
    pub rest_below: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Row {
    day: i32,
    shard: i16,
    id: i64,
    by_ns: i64,
    named: bool,
    filter_bytes: Option<i32>,
    head: Option<Vec<u8>>,
    tail: Option<Vec<u8>>,
    windows: Option<Vec<Option<Vec<u8>>>>,
}

/// What both orders select. How long a block's requests are at most is told for the endpoints that are
/// asked for: where others call an endpoint, theirs are longer in every block. A filter's window is cut out here: a stored value that is not compressed
/// is read in pieces of two kilobytes, and only those that hold the window are.
macro_rules! blocks {
    ($by:literal, $passed:literal) => {
        concat!(
            "select b.day - date '1970-01-01' as day, b.shard, b.id, ", $by, " as by_ns,
                    b.endpoints && $7 as named,
                    case when $8::bigint[] <> '{}' then octet_length(b.filter) end as filter_bytes,
                    case when $8 <> '{}' then substring(b.filter from 1 for $9) end as head,
                    case when $12 then substring(b.filter from greatest(octet_length(b.filter) - $13, 0) + 1) end as tail,
                    case when $8 <> '{}' and b.filter is not null then array(
                        select case when octet_length(b.filter) <= $10 then b.filter
                            else substring(b.filter from (1 + $9 + $11 * (
                                (w.bits * ((octet_length(b.filter) - $9) / $11 - 2)) >> 32))::integer
                                for 3 * $11) end
                        from unnest($8) with ordinality w(bits, at) order by at) end as windows
             from culprit.trace_blocks b
             cross join lateral (
                 select case when $5::integer[] is null or b.longest_by_endpoint is null then b.longest_ns
                     when cardinality($5) = 1 then b.longest_by_endpoint[array_position(b.endpoints, $5[1])]
                     else (select max(e.ns) from unnest(b.endpoints, b.longest_by_endpoint) as e(id, ns)
                           where e.id = any($5)) end as ns
                 -- Reckoned once for each block, and not wherever it is named.
                 offset 0) as longest
             where b.last_start_ns >= $1 and b.first_start_ns < $2 and longest.ns >= $3
               and b.all_flags & $4 = $4 and ($5::integer[] is null or b.endpoints && $5)
               ", $passed, "
             order by ", $by, " desc, b.day desc, b.shard desc, b.id desc limit $6"
        )
    };
}

/// By the index over the newest start.
const NEWEST: &str = blocks!(
    "b.last_start_ns",
    "and b.last_start_ns <= $14
     and (b.last_start_ns, b.day, b.shard, b.id) < ($14, date '1970-01-01' + $15, $16::smallint, $17::bigint)"
);

const SLOWEST: &str = blocks!(
    "longest.ns",
    "and (longest.ns, b.day, b.shard, b.id) < ($14, date '1970-01-01' + $15, $16::smallint, $17::bigint)"
);

/// A day after all days that blocks have, since the epoch; Postgres' last is far beyond.
const LAST_DAY: i32 = 2_000_000;

impl Blocks {
    pub(super) fn new(order: RequestOrder, from_ns: i64, until_ns: i64) -> Blocks {
        Blocks {
            order,
            from_ns,
            until_ns,
            min_ns: 0,
            flags: 0,
            endpoints: None,
            conditions: Arc::default(),
            named_endpoints: Arc::default(),
            after: None,
            look_at: match order {
                RequestOrder::Newest => BLOCKS_FIRST,
                RequestOrder::Slowest => BLOCKS_FIRST_SLOWEST,
            },
            seen: 0,
        }
    }

    /// The next blocks.
    pub(super) async fn look(&mut self, connection: &mut Connection) -> Result<Looked, StoreError> {
        let tokens: Vec<Vec<u64>> = self.conditions.iter().map(Condition::tokens).collect();
        let bits: Vec<i64> = tokens
            .iter()
            .flatten()
            .map(|it| i64::from(window_bits(*it)))
            .collect();
        let numbers = self.conditions.iter().any(|it| it.numbers().is_some());
        let (by_ns, last) = self.after.unwrap_or((
            i64::MAX,
            BlockKey {
                day: LAST_DAY,
                shard: i16::MAX,
                id: i64::MAX,
            },
        ));
        let statement = match self.order {
            RequestOrder::Newest => NEWEST,
            RequestOrder::Slowest => SLOWEST,
        };
        let rows: Vec<Row> = sqlx::query_as(statement)
            .bind(self.from_ns)
            .bind(self.until_ns)
            .bind(self.min_ns)
            .bind(self.flags)
            .bind(&self.endpoints)
            .bind(self.look_at)
            .bind(self.named_endpoints.as_ref())
            .bind(bits)
            .bind(HEAD_BYTES as i32)
            .bind(WHOLE_BYTES_MAX as i32)
            .bind(SEGMENT_BYTES as i32)
            .bind(numbers)
            .bind(TAIL_BYTES as i32)
            .bind(by_ns)
            .bind(last.day)
            .bind(last.shard)
            .bind(last.id)
            .fetch_all(connection)
            .await?;
        self.seen += rows.len();
        let all = (rows.len() as i64) < self.look_at;
        self.look_at = (2 * self.look_at).min(BLOCKS_MOST);
        self.after = rows.last().map(|it| (it.by_ns, it.key()));
        let may = rows
            .iter()
            .filter(|it| it.may_hold(&self.conditions, &tokens));
        Ok(Looked {
            blocks: may.map(|it| (it.by_ns, it.key())).collect(),
            rest_below: self.after.map(|it| it.0).filter(|_| !all),
        })
    }
}

impl Row {
    fn key(&self) -> BlockKey {
        BlockKey {
            day: self.day,
            shard: self.shard,
            id: self.id,
        }
    }

    /// Nothing says that a condition is met by no span of the block.
    fn may_hold(&self, conditions: &[Condition], tokens: &[Vec<u64>]) -> bool {
        let (Some(length), Some(head), Some(windows)) =
            (self.filter_bytes, &self.head, &self.windows)
        else {
            return true;
        };
        let length = usize::try_from(length).unwrap_or_default();
        let filter = Fetched { head, length };
        let mut windows = windows.iter();
        let mut may = true;
        for (condition, tokens) in conditions.iter().zip(tokens) {
            let mut any = false;
            for (token, window) in tokens.iter().zip(windows.by_ref()) {
                any |= window.as_ref().is_none_or(|it| filter.may_hold(*token, it));
            }
            any |= self.named && matches!(condition, Condition::Name(_));
            may &= any && self.may_hold_numbers(condition, &filter);
        }
        may
    }

    fn may_hold_numbers(&self, condition: &Condition, filter: &Fetched<'_>) -> bool {
        let (Some(between), Some(key), Some(tail)) =
            (condition.numbers(), condition.key(), &self.tail)
        else {
            return true;
        };
        let cut = filter.length - tail.len().min(filter.length);
        let at = filter.ranges_at();
        let ranges = at.start.checked_sub(cut).and_then(|it| tail.get(it..));
        ranges.is_none_or(|it| filter.may_hold_number(key, between, it))
    }
}

/// What each trace of these blocks meets of the conditions; only traces of `wanted`, if it is given.
/// Blocks are unpacked and walked away from the tasks that serve others, on as many threads as there
/// are processors. Who stops waiting stops it after the blocks that are under way.
pub(super) async fn met_in(
    connection: &mut Connection,
    blocks: &[BlockKey],
    conditions: &Arc<[Condition]>,
    wanted: Option<&HashMap<BlockKey, HashSet<TraceId>>>,
) -> Result<HashMap<BlockKey, HashMap<TraceId, Met>>, StoreError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = HashMap::new();
    for some in blocks.chunks(UNPACKED_AT_ONCE) {
        let payloads = payloads(connection, some).await?;
        let part = payloads.len().div_ceil(threads).max(1);
        let mut payloads = payloads.into_iter().peekable();
        let mut walks = Vec::new();
        while payloads.peek().is_some() {
            let part: Vec<(BlockKey, Vec<u8>)> = payloads.by_ref().take(part).collect();
            let conditions = conditions.clone();
            let wanted: Vec<Option<HashSet<TraceId>>> = part
                .iter()
                .map(|it| wanted.map(|all| all.get(&it.0).cloned().unwrap_or_default()))
                .collect();
            walks.push(tokio::task::spawn_blocking(move || {
                let each = part.into_iter().zip(wanted);
                let walked = each.map(|((key, payload), wanted)| {
                    let request = decompress(&payload)?;
                    let met = met(&request, &conditions, wanted.as_ref()).map_err(damaged)?;
                    Ok((key, met))
                });
                walked.collect::<Result<Vec<_>, StoreError>>()
            }));
        }
        let walked = try_join_all(walks).await;
        let walked = walked.map_err(|error| {
            StoreError::Damaged(format!("a block could not be searched: {error}"))
        })?;
        for part in walked {
            all.extend(part?);
        }
    }
    Ok(all)
}

async fn payloads(
    connection: &mut Connection,
    blocks: &[BlockKey],
) -> Result<Vec<(BlockKey, Vec<u8>)>, StoreError> {
    let (days, shards, ids) = columns(blocks);
    let rows: Vec<(i32, i16, i64, Vec<u8>)> = sqlx::query_as(
        "select b.day - date '1970-01-01', b.shard, b.id, b.payload
         from unnest($1::integer[], $2::smallint[], $3::bigint[]) as wanted(day, shard, id)
         join culprit.trace_blocks b
           on b.day = date '1970-01-01' + wanted.day and b.shard = wanted.shard and b.id = wanted.id",
    )
    .bind(days)
    .bind(shards)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let payload = |(day, shard, id, payload)| (BlockKey { day, shard, id }, payload);
    Ok(rows.into_iter().map(payload).collect())
}

/// Days, shards and ids, for statements that join them.
pub(super) fn columns(blocks: &[BlockKey]) -> (Vec<i32>, Vec<i16>, Vec<i64>) {
    let days = blocks.iter().map(|it| it.day).collect();
    let shards = blocks.iter().map(|it| it.shard).collect();
    (days, shards, blocks.iter().map(|it| it.id).collect())
}

/// The columns of a block's requests by which rows are chosen.
#[derive(sqlx::FromRow)]
pub(super) struct KeyColumns {
    pub day: i32,
    pub shard: i16,
    pub id: i64,
    pub trace_ids: Vec<Uuid>,
    pub span_ids: Vec<i64>,
    pub start_ns: Vec<i64>,
    pub duration_ns: Vec<i64>,
    pub endpoint_ids: Vec<i32>,
    pub flags: Vec<i16>,
    /// Its traces that stand in a later block.
    pub gone: Vec<Uuid>,
}

impl KeyColumns {
    pub(super) fn key(&self) -> BlockKey {
        BlockKey {
            day: self.day,
            shard: self.shard,
            id: self.id,
        }
    }
}

pub(super) async fn key_columns(
    connection: &mut Connection,
    blocks: &[BlockKey],
) -> Result<Vec<KeyColumns>, StoreError> {
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let (days, shards, ids) = columns(blocks);
    let rows = sqlx::query_as(
        "select b.day - date '1970-01-01' as day, b.shard, b.id, b.trace_ids, b.span_ids, b.start_ns,
                b.duration_ns, b.endpoint_ids, b.flags,
                array(select s.trace_id from culprit.superseded s
                      where s.block_id = b.id and s.shard = b.shard and s.day = b.day) as gone
         from unnest($1::integer[], $2::smallint[], $3::bigint[]) as wanted(day, shard, id)
         join culprit.trace_blocks b
           on b.day = date '1970-01-01' + wanted.day and b.shard = wanted.shard and b.id = wanted.id",
    )
    .bind(days)
    .bind(shards)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
