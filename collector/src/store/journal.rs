//! The journal table: rows come in with one statement, are read by their shard's owner, and go
//! when what they held is final.

use uuid::Uuid;

use super::pool::Connection;
use super::{Store, StoreError};

/// A journal row to write. Payload is zstd of OTLP.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Whose it is.
    pub shard: i16,
    /// Time-ordered, made by the writer: no sequence on the hot path.
    pub id: Uuid,
    /// Spans in it.
    pub spans: i32,
    /// Bytes before compression.
    pub raw_bytes: i32,
    /// zstd of an `ExportTraceServiceRequest`.
    pub payload: Vec<u8>,
}

/// A journal row as its owner reads it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct JournalRow {
    /// The row.
    pub id: Uuid,
    /// Spans in it.
    pub spans: i32,
    /// How many processes ended while its traces were analysed, as far as was noted.
    pub attempts: i16,
    /// zstd of an `ExportTraceServiceRequest`.
    pub payload: Vec<u8>,
}

/// What waits in the journal.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize, sqlx::FromRow)]
pub struct Backlog {
    /// Rows.
    pub rows: i64,
    /// Spans in them.
    pub spans: i64,
    /// Bytes of them before compression.
    pub raw_bytes: i64,
    /// Age of the oldest, seconds.
    pub oldest_s: f64,
}

impl Store {
    /// Writes rows in one statement, and so in one transaction; they are durable when it returns.
    /// Not idempotent by itself: what is written twice is analysed once (see assembly).
    ///
    /// # Errors
    /// Postgres cannot be written to; then none is written, or, if the connection broke, maybe all.
    pub async fn append_journal(&self, rows: Vec<NewRow>) -> Result<(), StoreError> {
        let mut session = self.pool().session().await?;
        insert_rows(&mut session, rows).await?;
        Ok(session.end().await?)
    }

    /// The rows of a shard that its owner does not hold yet, oldest first, at most `rows_max`. Only
    /// those from id `since` on: before it an index is full of consumed rows that Postgres may not
    /// clean up while somebody reads for long.
    ///
    /// Commit order is not id order, so this asks for "all but those held" and not for "after the
    /// last one seen".
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn read_journal(
        &self,
        shard: i16,
        since: Uuid,
        held: &[Uuid],
        rows_max: i64,
    ) -> Result<Vec<JournalRow>, StoreError> {
        let rows = sqlx::query_as(
            "select id, spans, attempts, payload from culprit.journal
             where shard = $1 and id >= $2 and id <> all($3) order by id limit $4",
        )
        .bind(shard)
        .bind(since)
        .bind(held)
        .bind(rows_max)
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// The highest id in a shard's journal: every row that is there now is at or below it.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn last_journal_row(&self, shard: i16) -> Result<Option<Uuid>, StoreError> {
        let last = sqlx::query_scalar(
            "select id from culprit.journal where shard = $1 order by id desc limit 1",
        )
        .bind(shard)
        .fetch_optional(self.pool())
        .await?;
        Ok(last)
    }

    /// Counts against rows that they could not be read, or their results not written.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn blame_rows(&self, shard: i16, ids: &[Uuid]) -> Result<(), StoreError> {
        let mut session = self.pool().session().await?;
        blame(&mut session, shard, ids).await?;
        Ok(session.end().await?)
    }

    /// What waits, over all shards.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn journal_backlog(&self) -> Result<Backlog, StoreError> {
        let backlog = sqlx::query_as(
            "select count(*) as rows, coalesce(sum(spans), 0)::bigint as spans,
                    coalesce(sum(raw_bytes), 0)::bigint as raw_bytes,
                    coalesce(extract(epoch from now() - min(received_at)), 0)::float8 as oldest_s
             from culprit.journal",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(backlog)
    }
}

/// As [`Store::append_journal`], within a transaction of the caller's.
pub(super) async fn insert_rows(
    connection: &mut Connection,
    rows: Vec<NewRow>,
) -> Result<(), StoreError> {
    let mut shards = Vec::with_capacity(rows.len());
    let mut ids = Vec::with_capacity(rows.len());
    let mut spans = Vec::with_capacity(rows.len());
    let mut raw_bytes = Vec::with_capacity(rows.len());
    let mut payloads = Vec::with_capacity(rows.len());
    for row in rows {
        shards.push(row.shard);
        ids.push(row.id);
        spans.push(row.spans);
        raw_bytes.push(row.raw_bytes);
        payloads.push(row.payload);
    }
    sqlx::query(
        "insert into culprit.journal (shard, id, spans, raw_bytes, payload)
         select * from unnest($1::smallint[], $2::uuid[], $3::integer[], $4::integer[], $5::bytea[])",
    )
    .bind(&shards)
    .bind(&ids)
    .bind(&spans)
    .bind(&raw_bytes)
    .bind(&payloads)
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts a death against rows; returns how many of them are still there.
pub(super) async fn blame(
    connection: &mut Connection,
    shard: i16,
    ids: &[Uuid],
) -> Result<u64, StoreError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query(
        "update culprit.journal set attempts = least(attempts + 1, 1000)
         where shard = $1 and id = any($2)",
    )
    .bind(shard)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Takes rows out of the journal; returns how many were there.
pub(super) async fn consume_rows(
    connection: &mut Connection,
    shard: i16,
    ids: &[Uuid],
) -> Result<u64, StoreError> {
    let done = sqlx::query("delete from culprit.journal where shard = $1 and id = any($2)")
        .bind(shard)
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}
