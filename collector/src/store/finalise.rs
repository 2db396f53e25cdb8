//! The one transaction of a tick: blocks, requests, roll-ups and hits come in, journal rows go.
//!
//! It starts with the fence (the lease is renewed or everything is forgotten) and ends with the
//! commit; a crash anywhere between leaves the journal as it was.

use analyzer::span::{SpanId, TraceId};
use serde_json::Value;
use sqlx::Executor;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::blocks::{NewBlock, Replaced, insert_block, supersede};
use super::journal::{NewRow, consume_rows, insert_rows};
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError, encoding};
use crate::deltas::{
    Day, Deltas, EDGES_MINUTES, EdgeDelta, HITS_MINUTES, HitsDelta, Key, MinuteDelta,
};

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

/// Why a trace is in quarantine while it is analysed alone. What says so after the process's end
/// is evidence against the trace, and not yet a proof: the end may have come from elsewhere.
pub const SUSPECTED: &str = "its analysis ended the process";

/// So many ends while a trace was analysed alone are no coincidence: it is left alone from then on.
const SUSPICIONS_MAX: i64 = 2;

/// If the process stops inside the transaction, Postgres ends it after this long, and with it the
/// locks that a successor waits for.
const IDLE_IN_TRANSACTION: &str = "set local idle_in_transaction_session_timeout = '5s'";

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
    /// New blocks, with their requests.
    pub blocks: Vec<NewBlock>,
    /// Copies of traces that count no more.
    pub replaced: Vec<Replaced>,
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
        supersede(&mut transaction, shard, &tick.replaced).await?;
        for block in tick.blocks {
            insert_block(&mut transaction, shard, analysis_version, block).await?;
        }
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
        let mut session = self.pool().session().await?;
        insert_quarantined(&mut session, shard, vec![trace]).await?;
        Ok(session.end().await?)
    }

    /// Takes traces out of quarantine that were there on suspicion only.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn acquit(&self, shard: i16, traces: &[TraceId]) -> Result<(), StoreError> {
        let mut session = self.pool().session().await?;
        release(&mut session, shard, traces).await?;
        Ok(session.end().await?)
    }

    /// The traces of a shard whose analysis ended a process often enough.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn convicted(&self, shard: i16) -> Result<Vec<TraceId>, StoreError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "select trace_id from culprit.quarantine where shard = $1 and reason = $2
             group by trace_id having count(*) >= $3",
        )
        .bind(shard)
        .bind(SUSPECTED)
        .bind(SUSPICIONS_MAX)
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

/// Appends roll-up rows; empty changes leave no row.
pub(super) async fn insert_deltas(
    connection: &mut Connection,
    shard: i16,
    part: i64,
    deltas: &Deltas,
) -> Result<(), StoreError> {
    insert_minutes(connection, shard, part, 1, &deltas.minutes).await?;
    insert_minutes(connection, shard, part, 60, &deltas.merged_minutes).await?;
    insert_hours(connection, shard, part, deltas).await?;
    insert_hits(connection, shard, part, HITS_MINUTES as i16, &deltas.hits).await?;
    insert_hits(connection, shard, part, 60, &deltas.merged_hits).await?;
    insert_edges(connection, shard, part, EDGES_MINUTES as i16, &deltas.edges).await?;
    insert_edges(connection, shard, part, 60, &deltas.merged_edges).await
}

/// The columns of the keys: day, endpoint, finding or edge, version, minute or hour.
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
    connection: &mut Connection,
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
    connection: &mut Connection,
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
            .map(|(_, it)| encoding::profile_bytes(&it.profile.total()))
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, it)| it.tail_requests)
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, it)| encoding::profile_bytes(&it.tail_profile.total()))
            .collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_hits(
    connection: &mut Connection,
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

async fn insert_edges(
    connection: &mut Connection,
    shard: i16,
    part: i64,
    width: i16,
    edges: &BTreeMap<Key, EdgeDelta>,
) -> Result<(), StoreError> {
    let rows: Vec<_> = edges
        .iter()
        .filter(|(_, it)| **it != Default::default())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [days, subjects, _, slots] = key_columns(&rows);
    let column = |of: fn(&EdgeDelta) -> i64| rows.iter().map(|(_, it)| of(it)).collect::<Vec<_>>();
    sqlx::query(
        "insert into culprit.rollup_edges
            (day, shard, part, width, edge_id, minute, calls, errors, duration_ns, latency)
         select date '1970-01-01' + day, $1, $2, $3, edge_id, minute, calls, errors, duration_ns, latency
         from unnest($4::integer[], $5::integer[], $6::integer[],
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[])
              as n(day, edge_id, minute, calls, errors, duration_ns, latency)",
    )
    .bind(shard)
    .bind(part)
    .bind(width)
    .bind(days)
    .bind(subjects)
    .bind(slots)
    .bind(column(|it| it.calls))
    .bind(column(|it| it.errors))
    .bind(column(|it| it.duration_ns))
    .bind(rows.iter().map(|(_, it)| encoding::sketch_bytes(&it.latency)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_quarantined(
    connection: &mut Connection,
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
    connection: &mut Connection,
    shard: i16,
    traces: &[TraceId],
) -> Result<(), StoreError> {
    if traces.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = traces.iter().map(|it| uuid(*it)).collect();
    // Not what is there for another reason: its spans are nowhere else.
    sqlx::query(
        "delete from culprit.quarantine where shard = $1 and trace_id = any($2) and reason = $3",
    )
    .bind(shard)
    .bind(ids)
    .bind(SUSPECTED)
    .execute(connection)
    .await?;
    Ok(())
}
