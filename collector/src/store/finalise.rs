//! The one transaction of a tick: blocks, requests, roll-ups and hits come in, journal rows go.
//!
//! It starts with the fence (the lease is renewed or everything is forgotten) and ends with the
//! commit; a crash anywhere between leaves the journal as it was.

use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use serde_json::Value;
use sqlx::{Executor, PgConnection};
use std::collections::BTreeMap;
use uuid::Uuid;

use super::journal::{NewRow, consume_rows, insert_rows};
use super::leases::{Lease, renew};
use super::{Store, StoreError, encoding};
use crate::contribution::signed;
use crate::deltas::{Day, Deltas, HITS_MINUTES, HitsDelta, Key, MinuteDelta};
use crate::store::dictionaries::Ids;

/// The request failed.
pub const FLAG_ERROR: i16 = 1;
/// It was counted into the slow tail's profile.
pub const FLAG_TAIL: i16 = 2;
/// The row stands for a trace without an entry span.
pub const FLAG_FRAGMENT: i16 = 4;
/// The trace's first entry.
pub const FLAG_ROOT: i16 = 8;
/// It has a finding.
pub const FLAG_FINDING: i16 = 16;

/// If the process stops inside the transaction, Postgres ends it after this long, and with it the
/// locks that a successor waits for.
const IDLE_IN_TRANSACTION: &str = "set local idle_in_transaction_session_timeout = '5s'";

/// Traces finalised together.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// Partition.
    pub day: Day,
    /// Unique in its shard and day; rises with time.
    pub id: i64,
    /// Spans in it.
    pub spans: i32,
    /// Traces in it.
    pub traces: i32,
    /// Bytes before compression.
    pub raw_bytes: i32,
    /// zstd of OTLP.
    pub payload: Vec<u8>,
}

/// A row of `request_rows` to write.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Partition.
    pub day: Day,
    /// The trace.
    pub trace_id: TraceId,
    /// The entry span.
    pub span_id: SpanId,
    /// Start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Duration, ns.
    pub duration_ns: u64,
    /// The block that holds the trace.
    pub block_id: i64,
    /// Critical-path ns by category.
    pub categories: [u64; Category::COUNT],
    /// Logical calls by category.
    pub calls: [u32; Category::COUNT],
    /// Whose; `None` for a fragment.
    pub ids: Option<Ids>,
    /// The minute it is counted in.
    pub minute: i32,
    /// Requests it stands for.
    pub weight: i64,
    /// Spans in the trace.
    pub spans: u32,
    /// `FLAG_…`
    pub flags: i16,
}

/// A trace that is analysed again: its rows are replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// The trace.
    pub trace_id: TraceId,
    /// Its partition.
    pub day: Day,
}

/// A trace that is kept but not analysed.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// The trace.
    pub trace_id: TraceId,
    /// Why.
    pub reason: String,
    /// Its spans.
    pub spans: i32,
    /// zstd of OTLP.
    pub payload: Vec<u8>,
}

/// Everything a tick writes.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// Unique in its shard; rises with time.
    pub part: i64,
    /// New blocks.
    pub blocks: Vec<NewBlock>,
    /// Traces whose old rows go.
    pub replaced: Vec<Replaced>,
    /// New rows.
    pub requests: Vec<NewRequest>,
    /// Roll-up changes.
    pub deltas: Deltas,
    /// Traces that could not be analysed.
    pub quarantined: Vec<Quarantined>,
    /// Traces that were in quarantine on suspicion and are analysed now.
    pub released: Vec<TraceId>,
    /// Journal rows that hold nothing open any more.
    pub consumed: Vec<Uuid>,
    /// Rows that carry on what is still open of consumed ones.
    pub carried: Vec<NewRow>,
}

impl Tick {
    /// There is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.quarantined.is_empty()
            && self.released.is_empty()
            && self.consumed.is_empty()
            && self.carried.is_empty()
    }
}

impl Store {
    /// Writes a tick: all of it or nothing. Not idempotent: on any error the caller forgets what it
    /// holds and reads the journal again.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the shard has another owner; or Postgres failed.
    pub async fn write_tick(
        &self,
        lease: &Lease,
        analysis_version: i16,
        tick: Tick,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction.execute(IDLE_IN_TRANSACTION).await?;
        renew(&mut transaction, lease).await?;
        let shard = lease.shard;
        delete_replaced(&mut transaction, shard, &tick.replaced).await?;
        insert_blocks(&mut transaction, shard, tick.blocks).await?;
        insert_requests(&mut transaction, shard, analysis_version, &tick.requests).await?;
        insert_deltas(&mut transaction, shard, tick.part, &tick.deltas).await?;
        insert_quarantined(&mut transaction, shard, tick.quarantined).await?;
        release(&mut transaction, shard, &tick.released).await?;
        if !tick.carried.is_empty() {
            insert_rows(&mut transaction, tick.carried).await?;
        }
        if !tick.consumed.is_empty() {
            let consumed = consume_rows(&mut transaction, shard, &tick.consumed).await?;
            if consumed != tick.consumed.len() as u64 {
                // Somebody else consumed rows of ours: the fence should have seen it. Forget all.
                return Err(StoreError::LeaseLost(shard));
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Puts a trace into quarantine in a transaction of its own: before the analysis of a trace
    /// that may have ended the process.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn suspect(&self, shard: i16, trace: Quarantined) -> Result<(), StoreError> {
        let mut connection = self.pool().acquire().await?;
        insert_quarantined(&mut connection, shard, vec![trace]).await
    }

    /// Takes traces out of quarantine that were there on suspicion only.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn acquit(&self, shard: i16, traces: &[TraceId]) -> Result<(), StoreError> {
        let mut connection = self.pool().acquire().await?;
        release(&mut connection, shard, traces).await
    }

    /// The traces of a shard that are in quarantine.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn quarantined(&self, shard: i16) -> Result<Vec<TraceId>, StoreError> {
        let ids: Vec<Uuid> =
            sqlx::query_scalar("select distinct trace_id from culprit.quarantine where shard = $1")
                .bind(shard)
                .fetch_all(self.pool())
                .await?;
        Ok(ids.into_iter().map(|id| TraceId(id.into_bytes())).collect())
    }

    /// Today's partition by the database's clock.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn today(&self) -> Result<Day, StoreError> {
        let day = sqlx::query_scalar("select (now() at time zone 'utc')::date - date '1970-01-01'")
            .fetch_one(self.pool())
            .await?;
        Ok(day)
    }
}

/// A trace id as Postgres keeps it.
pub fn uuid(trace_id: TraceId) -> Uuid {
    Uuid::from_bytes(trace_id.0)
}

/// A span id as Postgres keeps it.
pub fn span_number(span_id: SpanId) -> i64 {
    i64::from_be_bytes(span_id.0)
}

async fn delete_replaced(
    connection: &mut PgConnection,
    shard: i16,
    replaced: &[Replaced],
) -> Result<(), StoreError> {
    if replaced.is_empty() {
        return Ok(());
    }
    let (ids, days): (Vec<Uuid>, Vec<i32>) = replaced
        .iter()
        .map(|it| (uuid(it.trace_id), it.day))
        .unzip();
    sqlx::query(
        "delete from culprit.request_rows r
         using unnest($2::uuid[], $3::integer[]) as gone(trace_id, day)
         where r.trace_id = gone.trace_id and r.shard = $1
           and r.day = date '1970-01-01' + gone.day",
    )
    .bind(shard)
    .bind(ids)
    .bind(days)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_blocks(
    connection: &mut PgConnection,
    shard: i16,
    blocks: Vec<NewBlock>,
) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    let mut payloads = Vec::with_capacity(blocks.len());
    let numbers = |of: fn(&NewBlock) -> i32| -> Vec<i32> { blocks.iter().map(of).collect() };
    let (days, spans, traces, raw_bytes) = (
        numbers(|it| it.day),
        numbers(|it| it.spans),
        numbers(|it| it.traces),
        numbers(|it| it.raw_bytes),
    );
    let ids: Vec<i64> = blocks.iter().map(|it| it.id).collect();
    payloads.extend(blocks.into_iter().map(|it| it.payload));
    sqlx::query(
        "insert into culprit.trace_blocks (day, shard, id, spans, traces, raw_bytes, payload)
         select date '1970-01-01' + day, $1, id, spans, traces, raw_bytes, payload
         from unnest($2::integer[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[], $7::bytea[])
              as n(day, id, spans, traces, raw_bytes, payload)",
    )
    .bind(shard)
    .bind(days)
    .bind(ids)
    .bind(spans)
    .bind(traces)
    .bind(raw_bytes)
    .bind(payloads)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_requests(
    connection: &mut PgConnection,
    shard: i16,
    analysis_version: i16,
    requests: &[NewRequest],
) -> Result<(), StoreError> {
    if requests.is_empty() {
        return Ok(());
    }
    fn column<T>(requests: &[NewRequest], of: impl Fn(&NewRequest) -> T) -> Vec<T> {
        requests.iter().map(of).collect()
    }
    let category = |at: Category| {
        // Zero is stored as null, which costs a bit instead of eight bytes.
        column(requests, |it| {
            Some(signed(it.categories[at as usize])).filter(|ns| *ns != 0)
        })
    };
    let calls = |at: Category| {
        column(requests, |it| {
            i16::try_from(it.calls[at as usize]).unwrap_or(i16::MAX)
        })
    };
    sqlx::query(
        "insert into culprit.request_rows
            (day, shard, analysis, trace_id, span_id, start_ns, duration_ns, block_id,
             handler_ns, database_ns, cache_ns, external_ns, messaging_ns, serialization_ns,
             logging_ns, pool_wait_ns, connect_ns, network_ns, unattributed_ns,
             service_id, endpoint_id, version_id, minute, weight, spans, flags,
             database_calls, cache_calls, external_calls)
         select date '1970-01-01' + n.day, $1, $2, n.trace_id, n.span_id, n.start_ns, n.duration_ns, n.block_id,
             n.c0, n.c1, n.c2, n.c3, n.c4, n.c5, n.c6, n.c7, n.c8, n.c9, n.c10,
             n.service_id, n.endpoint_id, n.version_id, n.minute, n.weight, n.spans, n.flags,
             n.database_calls, n.cache_calls, n.external_calls
         from unnest($3::integer[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
             $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
             $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[],
             $20::integer[], $21::integer[], $22::integer[], $23::integer[], $24::integer[], $25::integer[], $26::smallint[],
             $27::smallint[], $28::smallint[], $29::smallint[])
         as n(day, trace_id, span_id, start_ns, duration_ns, block_id,
              c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10,
              service_id, endpoint_id, version_id, minute, weight, spans, flags,
              database_calls, cache_calls, external_calls)
         on conflict do nothing",
    )
    .bind(shard)
    .bind(analysis_version)
    .bind(column(requests, |it| it.day))
    .bind(column(requests, |it| uuid(it.trace_id)))
    .bind(column(requests, |it| span_number(it.span_id)))
    .bind(column(requests, |it| signed(it.start_ns)))
    .bind(column(requests, |it| signed(it.duration_ns)))
    .bind(column(requests, |it| it.block_id))
    .bind(category(Category::Handler))
    .bind(category(Category::Database))
    .bind(category(Category::Cache))
    .bind(category(Category::External))
    .bind(category(Category::Messaging))
    .bind(category(Category::Serialization))
    .bind(category(Category::Logging))
    .bind(category(Category::PoolWait))
    .bind(category(Category::Connect))
    .bind(category(Category::Network))
    .bind(category(Category::Unattributed))
    .bind(column(requests, |it| it.ids.map(|ids| ids.service)))
    .bind(column(requests, |it| it.ids.map(|ids| ids.endpoint)))
    .bind(column(requests, |it| it.ids.map(|ids| ids.version)))
    .bind(column(requests, |it| it.minute))
    .bind(column(requests, |it| i32::try_from(it.weight).unwrap_or(i32::MAX)))
    .bind(column(requests, |it| i32::try_from(it.spans).unwrap_or(i32::MAX)))
    .bind(column(requests, |it| it.flags))
    .bind(calls(Category::Database))
    .bind(calls(Category::Cache))
    .bind(calls(Category::External))
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends roll-up rows; empty changes leave no row.
pub(super) async fn insert_deltas(
    connection: &mut PgConnection,
    shard: i16,
    part: i64,
    deltas: &Deltas,
) -> Result<(), StoreError> {
    insert_minutes(connection, shard, part, 1, &deltas.minutes).await?;
    insert_minutes(connection, shard, part, 60, &deltas.merged_minutes).await?;
    insert_hours(connection, shard, part, deltas).await?;
    insert_hits(connection, shard, part, HITS_MINUTES as i16, &deltas.hits).await?;
    insert_hits(connection, shard, part, 60, &deltas.merged_hits).await
}

/// The columns of the keys: day, endpoint or finding, version, minute or hour.
fn key_columns<T>(rows: &[(&Key, &T)]) -> [Vec<i32>; 4] {
    let column = |of: fn(&Key) -> i32| rows.iter().map(|(key, _)| of(key)).collect();
    [
        column(|key| key.0),
        column(|key| key.1),
        column(|key| key.2),
        column(|key| key.3),
    ]
}

async fn insert_minutes(
    connection: &mut PgConnection,
    shard: i16,
    part: i64,
    width: i16,
    minutes: &BTreeMap<Key, MinuteDelta>,
) -> Result<(), StoreError> {
    let rows: Vec<_> = minutes
        .iter()
        .filter(|(_, it)| **it != Default::default())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [days, subjects, versions, slots] = key_columns(&rows);
    // Arrays of arrays must be rectangular in Postgres and sqlx has none: they go as text.
    let array = |numbers: &[i64]| {
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        format!("{{{}}}", numbers.join(","))
    };
    sqlx::query(
        "insert into culprit.rollup_minutes
            (day, shard, part, width, endpoint_id, version_id, minute,
             requests, errors, duration_ns, categories, calls, latency)
         select date '1970-01-01' + day, $1, $2, $13, endpoint_id, version_id, minute,
             requests, errors, duration_ns, categories::bigint[], calls::bigint[], latency
         from unnest($3::integer[], $4::integer[], $5::integer[], $6::integer[],
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bytea[])
              as n(day, endpoint_id, version_id, minute,
                   requests, errors, duration_ns, categories, calls, latency)",
    )
    .bind(shard)
    .bind(part)
    .bind(days)
    .bind(subjects)
    .bind(versions)
    .bind(slots)
    .bind(rows.iter().map(|(_, it)| it.requests).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| it.errors).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| it.duration_ns).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| array(&it.categories)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| array(&it.calls)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| encoding::sketch_bytes(&it.latency)).collect::<Vec<_>>())
    .bind(width)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_hours(
    connection: &mut PgConnection,
    shard: i16,
    part: i64,
    deltas: &Deltas,
) -> Result<(), StoreError> {
    let rows: Vec<_> = deltas
        .hours
        .iter()
        .filter(|(_, it)| **it != Default::default())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [days, subjects, versions, slots] = key_columns(&rows);
    sqlx::query(
        "insert into culprit.rollup_hours
            (day, shard, part, endpoint_id, version_id, hour,
             statements, profile, tail_requests, tail_profile)
         select date '1970-01-01' + day, $1, $2, endpoint_id, version_id, hour,
             statements, profile, tail_requests, tail_profile
         from unnest($3::integer[], $4::integer[], $5::integer[], $6::integer[],
                     $7::bytea[], $8::bytea[], $9::bigint[], $10::bytea[])
              as n(day, endpoint_id, version_id, hour,
                   statements, profile, tail_requests, tail_profile)",
    )
    .bind(shard)
    .bind(part)
    .bind(days)
    .bind(subjects)
    .bind(versions)
    .bind(slots)
    .bind(
        rows.iter()
            .map(|(_, it)| encoding::statements_bytes(&it.statements))
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, it)| encoding::profile_bytes(&it.profile))
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, it)| it.tail_requests)
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, it)| encoding::profile_bytes(&it.tail_profile))
            .collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_hits(
    connection: &mut PgConnection,
    shard: i16,
    part: i64,
    width: i16,
    hits: &BTreeMap<Key, HitsDelta>,
) -> Result<(), StoreError> {
    let rows: Vec<_> = hits
        .iter()
        .filter(|(_, it)| **it != Default::default())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [days, subjects, versions, slots] = key_columns(&rows);
    sqlx::query(
        "insert into culprit.finding_hits
            (day, shard, part, width, finding_id, version_id, minute,
             traces, requests, saved_ns, hits, examples)
         select date '1970-01-01' + day, $1, $2, $12, finding_id, version_id, minute,
             traces, requests, saved_ns, hits, examples
         from unnest($3::integer[], $4::integer[], $5::integer[], $6::integer[],
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[], $11::jsonb[])
              as n(day, finding_id, version_id, minute, traces, requests, saved_ns, hits, examples)",
    )
    .bind(shard)
    .bind(part)
    .bind(days)
    .bind(subjects)
    .bind(versions)
    .bind(slots)
    .bind(rows.iter().map(|(_, it)| it.traces).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| it.requests).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| it.saved_ns).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| encoding::hits_bytes(&it.hits)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, it)| Value::Array(it.examples.clone())).collect::<Vec<_>>())
    .bind(width)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_quarantined(
    connection: &mut PgConnection,
    shard: i16,
    traces: Vec<Quarantined>,
) -> Result<(), StoreError> {
    for trace in traces {
        sqlx::query(
            "insert into culprit.quarantine (trace_id, shard, reason, spans, payload)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
        )
        .bind(uuid(trace.trace_id))
        .bind(shard)
        .bind(trace.reason.replace('\0', "\u{fffd}"))
        .bind(trace.spans)
        .bind(trace.payload)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn release(
    connection: &mut PgConnection,
    shard: i16,
    traces: &[TraceId],
) -> Result<(), StoreError> {
    if traces.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = traces.iter().map(|it| uuid(*it)).collect();
    sqlx::query("delete from culprit.quarantine where shard = $1 and trace_id = any($2)")
        .bind(shard)
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
