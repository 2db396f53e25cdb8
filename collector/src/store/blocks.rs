//! Blocks: many whole traces as compressed OTLP, and their requests as columns beside them.
//!
//! A row of `trace_blocks` is what column stores call a row group: statistics to pass over it
//! unopened, one array per column of its requests, and the spans. Arrays take a third of the disk and
//! a tenth of the work of thin rows, and stay plain SQL (`unnest`, see the view `culprit.requests`).

use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::StoreError;
use super::finalise::{span_number, uuid};
use super::pool::Connection;
use crate::contribution::{signed, unsigned};
use crate::deltas::Day;

/// Traces finalised together.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// Partition.
    pub day: Day,
    /// Unique in its shard; rises with time.
    pub id: i64,
    /// Spans in it.
    pub spans: i32,
    /// Traces in it.
    pub traces: i32,
    /// Bytes before compression.
    pub raw_bytes: i32,
    /// zstd of OTLP.
    pub payload: Vec<u8>,
    /// Its traces' requests, each trace's together.
    pub requests: Vec<NewRequest>,
    /// Which words its spans hold; `None` if that is not known.
    pub filter: Option<Vec<u8>>,
}

/// A request of a block, as it was counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRequest {
    /// The trace.
    pub trace_id: TraceId,
    /// The entry span.
    pub span_id: SpanId,
    /// Start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Duration, ns.
    pub duration_ns: u64,
    /// Critical-path ns by category; they add up to the duration.
    pub categories: [u64; Category::COUNT],
    /// Logical calls by category.
    pub calls: [u32; Category::COUNT],
    /// `endpoints.id`; 0 for a fragment.
    pub endpoint: i32,
    /// `versions.id`; 0 for a fragment.
    pub version: i32,
    /// The minute it is counted in.
    pub minute: i32,
    /// Requests it stands for.
    pub weight: i64,
    /// Spans in the trace.
    pub spans: u32,
    /// `FLAG_…`
    pub flags: i16,
}

/// The longest request of each endpoint, by its id; of fragments there is none.
fn longest(requests: &[NewRequest]) -> BTreeMap<i32, i64> {
    let mut longest: BTreeMap<i32, i64> = BTreeMap::new();
    for it in requests.iter().filter(|it| it.endpoint != 0) {
        let of = longest.entry(it.endpoint).or_default();
        *of = (*of).max(signed(it.duration_ns));
    }
    longest
}

/// Writes one block. Blocks come a few at a time, each of a hundred kilobytes and more: a
/// statement for each costs nothing beside that.
pub(super) async fn insert_block(
    connection: &mut Connection,
    shard: i16,
    analysis_version: i16,
    block: NewBlock,
) -> Result<(), StoreError> {
    insert_block_into(connection, "trace_blocks", shard, analysis_version, block).await
}

/// As [`insert_block`], into a table of ours that is (about to be) a partition.
pub(super) async fn insert_block_into(
    connection: &mut Connection,
    table: &str,
    shard: i16,
    analysis_version: i16,
    block: NewBlock,
) -> Result<(), StoreError> {
    let columns = Columns(&block.requests);
    let starts = columns.all(|it| signed(it.start_ns));
    let durations = columns.all(|it| signed(it.duration_ns));
    let of_requests = columns.all(|it| it.endpoint);
    let (endpoints, longest_by_endpoint): (Vec<i32>, Vec<i64>) =
        longest(&block.requests).into_iter().unzip();
    // The name is a constant, or one and a date.
    sqlx::query(AssertSqlSafe(format!(
        "insert into culprit.{table}
            (day, shard, id, spans, traces, raw_bytes, payload, filter, analysis,
             first_start_ns, last_start_ns, longest_ns, all_flags, endpoints,
             trace_ids, span_ids, start_ns, duration_ns, endpoint_ids, version_ids, minutes, flags,
             trace_spans, weights, database_ns, cache_ns, external_ns, messaging_ns,
             serialization_ns, logging_ns, pool_wait_ns, connect_ns, network_ns, unattributed_ns,
             database_calls, cache_calls, external_calls, longest_by_endpoint)
         values (date '1970-01-01' + $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
             $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31,
             $32, $33, $34, $35, $36, $37, $38)"
    )))
    .bind(block.day)
    .bind(shard)
    .bind(block.id)
    .bind(block.spans)
    .bind(block.traces)
    .bind(block.raw_bytes)
    .bind(&block.payload)
    .bind(&block.filter)
    .bind(analysis_version)
    .bind(starts.iter().min().copied().unwrap_or_default())
    .bind(starts.iter().max().copied().unwrap_or_default())
    .bind(durations.iter().max().copied().unwrap_or_default())
    .bind(block.requests.iter().fold(0, |all, it| all | it.flags))
    .bind(endpoints)
    .bind(columns.all(|it| uuid(it.trace_id)))
    .bind(columns.all(|it| span_number(it.span_id)))
    .bind(starts)
    .bind(durations)
    .bind(of_requests)
    .bind(columns.all(|it| it.version))
    .bind(columns.all(|it| it.minute))
    .bind(columns.all(|it| it.flags))
    .bind(columns.all(|it| i32::try_from(it.spans).unwrap_or(i32::MAX)))
    .bind(columns.unless(1, |it| i32::try_from(it.weight).unwrap_or(i32::MAX)))
    .bind(columns.time(Category::Database))
    .bind(columns.time(Category::Cache))
    .bind(columns.time(Category::External))
    .bind(columns.time(Category::Messaging))
    .bind(columns.time(Category::Serialization))
    .bind(columns.time(Category::Logging))
    .bind(columns.time(Category::PoolWait))
    .bind(columns.time(Category::Connect))
    .bind(columns.time(Category::Network))
    .bind(columns.time(Category::Unattributed))
    .bind(columns.calls(Category::Database))
    .bind(columns.calls(Category::Cache))
    .bind(columns.calls(Category::External))
    .bind(longest_by_endpoint)
    .execute(connection)
    .await?;
    Ok(())
}

/// A block's requests, read by column.
struct Columns<'a>(&'a [NewRequest]);

impl Columns<'_> {
    fn all<T>(&self, of: impl Fn(&NewRequest) -> T) -> Vec<T> {
        self.0.iter().map(of).collect()
    }

    /// The column, or null if every request has `usual` in it.
    fn unless<T: PartialEq>(&self, usual: T, of: impl Fn(&NewRequest) -> T) -> Option<Vec<T>> {
        let any = self.0.iter().any(|it| of(it) != usual);
        any.then(|| self.all(of))
    }

    fn time(&self, category: Category) -> Option<Vec<i64>> {
        self.unless(0, |it| signed(it.categories[category as usize]))
    }

    fn calls(&self, category: Category) -> Option<Vec<i16>> {
        let calls = |it: &NewRequest| i16::try_from(it.calls[category as usize]);
        self.unless(0, |it| calls(it).unwrap_or(i16::MAX))
    }
}

/// A block's critical-path times, as [`insert_block`] writes them.
#[derive(sqlx::FromRow)]
pub(super) struct TimeColumns {
    database_ns: Option<Vec<i64>>,
    cache_ns: Option<Vec<i64>>,
    external_ns: Option<Vec<i64>>,
    messaging_ns: Option<Vec<i64>>,
    serialization_ns: Option<Vec<i64>>,
    logging_ns: Option<Vec<i64>>,
    pool_wait_ns: Option<Vec<i64>>,
    connect_ns: Option<Vec<i64>>,
    network_ns: Option<Vec<i64>>,
    unattributed_ns: Option<Vec<i64>>,
}

impl TimeColumns {
    /// A request's times by category; what no other category has of its duration is the handler's.
    /// `None` if a column is too short: the block is damaged.
    pub(super) fn categories(&self, at: usize, duration_ns: u64) -> Option<[u64; Category::COUNT]> {
        let columns = [
            (Category::Database, &self.database_ns),
            (Category::Cache, &self.cache_ns),
            (Category::External, &self.external_ns),
            (Category::Messaging, &self.messaging_ns),
            (Category::Serialization, &self.serialization_ns),
            (Category::Logging, &self.logging_ns),
            (Category::PoolWait, &self.pool_wait_ns),
            (Category::Connect, &self.connect_ns),
            (Category::Network, &self.network_ns),
            (Category::Unattributed, &self.unattributed_ns),
        ];
        let mut categories = [0; Category::COUNT];
        let mut handler = duration_ns;
        for (category, column) in columns {
            let ns = unsigned(or(column, at, 0)?);
            categories[category as usize] = ns;
            handler = handler.saturating_sub(ns);
        }
        categories[Category::Handler as usize] = handler;
        Some(categories)
    }
}

/// An element of a column; one that is null stands for its usual value in every place.
pub(super) fn or<T: Copy>(column: &Option<Vec<T>>, at: usize, usual: T) -> Option<T> {
    match column {
        Some(column) => column.get(at).copied(),
        None => Some(usual),
    }
}

/// Copies of traces that later blocks replace.
pub(super) async fn supersede(
    connection: &mut Connection,
    shard: i16,
    replaced: &[Replaced],
) -> Result<(), StoreError> {
    if replaced.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Replaced) -> i64| -> Vec<i64> { replaced.iter().map(of).collect() };
    let traces: Vec<Uuid> = replaced.iter().map(|it| uuid(it.trace_id)).collect();
    sqlx::query(
        "insert into culprit.superseded (block_id, trace_id, shard, day)
         select block_id, trace_id, $1, date '1970-01-01' + day::integer
         from unnest($2::bigint[], $3::uuid[], $4::bigint[]) as n(block_id, trace_id, day)",
    )
    .bind(shard)
    .bind(column(|it| it.block_id))
    .bind(traces)
    .bind(column(|it| i64::from(it.day)))
    .execute(connection)
    .await?;
    Ok(())
}

/// A copy of a trace that counts no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// The trace.
    pub trace_id: TraceId,
    /// The block it stands in.
    pub block_id: i64,
    /// The block's partition.
    pub day: Day,
}
