//! A day of traces is replaced by those of them worth keeping: a partition of the same parent, days
//! and columns, so that readers need not know.
//!
//! create the kept one, filled → detach the full one → attach the kept one → drop the full one
//!
//! Between the second and the third the day is not to be seen, for milliseconds.

use analyzer::span::TraceId;
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, Row};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

use super::blocks::insert_block_into;
use super::compaction::whole_blocks;
use super::pool::{Alone, Connection};
use super::retention::{Partition, TRACES, detach};
use super::{Store, StoreError, encoding};
use crate::compaction::{self, FULL_BYTES, Whole};
use crate::contribution::unsigned;
use crate::deltas::Day;
use crate::keeping::{Candidate, Keeping};
use crate::store::encoding::merge_sketch;

/// Blocks opened at once to take their kept traces out.
const BLOCKS_AT_ONCE: usize = 16;

/// About so many raw bytes has a span: how many make a full block need not be exact.
const SPAN_BYTES: usize = 400;

/// Traces of examples that are read at most; each finding has at most 5 per ten minutes or hour.
const EXAMPLES_MAX: usize = 1_000_000;

/// What became of a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Traces that stay.
    pub traces: u64,
    /// Their compressed bytes.
    pub bytes: u64,
}

impl Store {
    /// Replaces a day's partition of traces by one with those worth keeping, at most `bytes_max`
    /// compressed bytes of them. If it is interrupted, it begins anew or goes on the next time.
    ///
    /// # Errors
    /// A lock was not to be had in time, or Postgres failed; to be tried again.
    pub async fn thin_day(
        &self,
        connection: &mut Alone,
        full: &Partition,
        bytes_max: u64,
    ) -> Result<Kept, StoreError> {
        let name = format!("{}_kept", full.name);
        // Still there from an interrupted run: blocks may have been packed since, so it begins anew.
        connection
            .run(format!("drop table if exists culprit.{name}"))
            .await?;
        let kept = self.fill(full, &name, bytes_max).await?;
        detach(connection, full).await?;
        self.attach_kept(full.day, &name).await?;
        connection
            .run(format!("drop table if exists culprit.{}", full.name))
            .await?;
        Ok(kept)
    }

    /// Attaches a day's kept traces where its other ones were taken away.
    ///
    /// # Errors
    /// A lock was not to be had in time, or Postgres failed; to be tried again.
    pub async fn attach_kept(&self, day: Day, name: &str) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction.execute("set local lock_timeout = '5s'").await?;
        // The kept blocks bear ids of the ones that are gone, and hold only what counts.
        sqlx::query("delete from culprit.superseded where day = date '1970-01-01' + $1")
            .bind(day)
            .execute(&mut *transaction)
            .await?;
        let (from, to): (String, String) = sqlx::query_as(
            "select (date '1970-01-01' + $1)::text, (date '1970-01-01' + $1 + 1)::text",
        )
        .bind(day)
        .fetch_one(&mut *transaction)
        .await?;
        let attach = format!(
            "alter table culprit.{TRACES} attach partition culprit.{name}
                 for values from ('{from}') to ('{to}')"
        );
        transaction.execute(AssertSqlSafe(attach)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Makes the table `name` with what is kept of `full`, and notes that the day is not whole.
    async fn fill(&self, full: &Partition, name: &str, bytes_max: u64) -> Result<Kept, StoreError> {
        let day = full.day;
        let p99_ns = self.p99_of_day(day).await?;
        let examples = self.examples_of_day(day).await?;
        let mut transaction = self.pool().begin().await?;
        // Blocks may be packed while we read: we see one moment.
        transaction
            .execute("set transaction isolation level repeatable read")
            .await?;
        let create = format!("create table culprit.{name} (like culprit.{TRACES} including all)");
        transaction.execute(AssertSqlSafe(create)).await?;
        let mut kept = Kept::default();
        for shard in 0..self.shards() as i16 {
            let mut keeping = Keeping::new(&p99_ns, &examples);
            see_day(&mut transaction, shard, day, &mut keeping).await?;
            let chosen = keeping.chosen();
            let mut filling = Filling {
                table: name,
                shard,
                day,
                bytes_max,
                kept: &mut kept,
            };
            filling.fill(&mut transaction, &chosen).await?;
        }
        sqlx::query(
            "insert into culprit.thinned_days (day) values (date '1970-01-01' + $1)
             on conflict do nothing",
        )
        .bind(day)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(kept)
    }

    /// Endpoint → its P99 on that day, ns.
    async fn p99_of_day(&self, day: Day) -> Result<HashMap<i32, u64>, StoreError> {
        let mut sketches = HashMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, latency from culprit.rollup_minutes
             where day = date '1970-01-01' + $1",
        )
        .bind(day)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let sketch = encoding::sketch(row.try_get("latency")?)?;
            let sum = sketches
                .entry(row.try_get("endpoint_id")?)
                .or_insert_with(analyzer::sketch::Sketch::default);
            merge_sketch(sum, &sketch, 1);
        }
        let p99 = sketches
            .into_iter()
            .filter_map(|(endpoint, it)| Some((endpoint, it.quantile(0.99)?)));
        Ok(p99.collect())
    }

    /// The traces that findings link to.
    async fn examples_of_day(&self, day: Day) -> Result<BTreeSet<TraceId>, StoreError> {
        let mut traces = BTreeSet::new();
        let mut rows = sqlx::query_scalar::<_, Value>(
            "select examples from culprit.finding_hits where day = date '1970-01-01' + $1",
        )
        .bind(day)
        .fetch(self.pool());
        while let Some(examples) = rows.try_next().await? {
            let ids = examples.as_array().into_iter().flatten();
            let ids = ids.filter_map(|it| Uuid::parse_str(it["trace_id"].as_str()?).ok());
            if traces.len() < EXAMPLES_MAX {
                traces.extend(ids.map(|it| TraceId(it.into_bytes())));
            }
        }
        Ok(traces)
    }

    /// The days whose traces are gone but for those worth keeping.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn thinned_days(&self) -> Result<BTreeSet<Day>, StoreError> {
        let days: Vec<Day> =
            sqlx::query_scalar("select day - date '1970-01-01' from culprit.thinned_days")
                .fetch_all(self.pool())
                .await?;
        Ok(days.into_iter().collect())
    }

    /// Notes that a day's traces are gone without leaving any behind.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn note_thinned(&self, day: Day) -> Result<(), StoreError> {
        sqlx::query(
            "insert into culprit.thinned_days (day) values (date '1970-01-01' + $1)
             on conflict do nothing",
        )
        .bind(day)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

/// Shows a day's requests that count to `keeping`, block by block.
async fn see_day(
    connection: &mut Connection,
    shard: i16,
    day: Day,
    keeping: &mut Keeping<'_>,
) -> Result<(), StoreError> {
    let mut blocks = sqlx::query(
        "select b.id, b.trace_ids, b.endpoint_ids, b.minutes, b.duration_ns, b.flags,
                array(select s.trace_id from culprit.superseded s
                      where s.block_id = b.id and s.shard = b.shard and s.day = b.day) as gone
         from culprit.trace_blocks b
         where b.shard = $1 and b.day = date '1970-01-01' + $2",
    )
    .bind(shard)
    .bind(day)
    .fetch(connection);
    while let Some(row) = blocks.try_next().await? {
        let id: i64 = row.try_get("id")?;
        let trace_ids: Vec<Uuid> = row.try_get("trace_ids")?;
        let endpoints: Vec<i32> = row.try_get("endpoint_ids")?;
        let minutes: Vec<i32> = row.try_get("minutes")?;
        let durations: Vec<i64> = row.try_get("duration_ns")?;
        let flags: Vec<i16> = row.try_get("flags")?;
        let gone: BTreeSet<Uuid> = row.try_get::<Vec<Uuid>, _>("gone")?.into_iter().collect();
        let numbers = endpoints.into_iter().zip(minutes).zip(durations).zip(flags);
        for (trace_id, (((endpoint, minute), duration), flags)) in
            trace_ids.into_iter().zip(numbers)
        {
            if gone.contains(&trace_id) {
                continue;
            }
            let candidate = Candidate {
                trace_id: TraceId(trace_id.into_bytes()),
                endpoint,
                minute,
                duration_ns: unsigned(duration),
                flags,
            };
            keeping.see(id, candidate);
        }
    }
    Ok(())
}

/// Where kept traces go.
struct Filling<'a> {
    table: &'a str,
    shard: i16,
    day: Day,
    bytes_max: u64,
    kept: &'a mut Kept,
}

impl Filling<'_> {
    async fn fill(
        &mut self,
        connection: &mut Connection,
        chosen: &BTreeMap<i64, BTreeSet<TraceId>>,
    ) -> Result<(), StoreError> {
        let ids: Vec<i64> = chosen.keys().copied().collect();
        let mut pile = Pile::default();
        for ids in ids.chunks(BLOCKS_AT_ONCE) {
            let blocks = whole_blocks(&mut *connection, self.shard, self.day, ids).await?;
            for (id, analysis, mut block) in blocks {
                block
                    .requests
                    .retain(|it| chosen.get(&id).is_some_and(|of| of.contains(&it.trace_id)));
                if pile.is_full() || pile.analysis != analysis {
                    self.write(connection, std::mem::take(&mut pile)).await?;
                }
                pile.add(id, analysis, block);
            }
        }
        self.write(connection, pile).await
    }

    async fn write(&mut self, connection: &mut Connection, pile: Pile) -> Result<(), StoreError> {
        let Some(id) = pile.id.filter(|_| self.kept.bytes < self.bytes_max) else {
            return Ok(());
        };
        let (day, blocks) = (self.day, pile.blocks);
        let packing = tokio::task::spawn_blocking(move || compaction::pack(day, id, blocks));
        let packed = packing
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))??;
        if let Some(block) = packed {
            self.kept.traces += block.traces as u64;
            self.kept.bytes += block.payload.len() as u64;
            insert_block_into(connection, self.table, self.shard, pile.analysis, block).await?;
        }
        Ok(())
    }
}

/// Blocks whose kept traces become one.
#[derive(Default)]
struct Pile {
    /// Of the first: ids of blocks that are gone are free.
    id: Option<i64>,
    analysis: i16,
    blocks: Vec<Whole>,
    spans: usize,
    payload_bytes: usize,
}

/// Compressed bytes of blocks that are unpacked together for the few traces kept of each: some fifty
/// blocks. Beyond it what they leave becomes a block of its own, however small.
const PAYLOAD_BYTES_MAX: usize = 6 << 20;

impl Pile {
    fn add(&mut self, id: i64, analysis: i16, block: Whole) {
        self.id.get_or_insert(id);
        self.analysis = analysis;
        self.spans += block.spans();
        self.payload_bytes += block.payload.len();
        self.blocks.push(block);
    }

    fn is_full(&self) -> bool {
        self.spans * SPAN_BYTES >= FULL_BYTES || self.payload_bytes >= PAYLOAD_BYTES_MAX
    }
}
