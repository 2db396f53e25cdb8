//! One partition per table and stored day, made ahead of time.
//!
//! There is no DEFAULT partition: one row in it would make creating that day fail. A partition is
//! created detached and then attached, so that writers never wait for the parent's lock.

use sqlx::{AssertSqlSafe, Executor};

use super::pool::Connection;
use super::{Store, StoreError};

/// The tables that are partitioned by `day`.
const TABLES: [&str; 5] = [
    "trace_blocks",
    "rollup_minutes",
    "rollup_hours",
    "finding_hits",
    "rollup_edges",
];

/// Days made ahead of the database's today: whoever is down for a weekend still finds Monday.
const DAYS_AHEAD: i32 = 3;

impl Store {
    /// Makes sure that today and the next days have partitions. Idempotent, and safe in several
    /// processes at once.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn create_partitions(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        // Two processes would otherwise both see a partition missing. Transaction-level, so it
        // also holds through a pooler.
        sqlx::query("select pg_advisory_xact_lock(hashtext('culprit.partitions'))")
            .execute(&mut *transaction)
            .await?;
        // Attaching waits for running DDL; better to fail and be tried again than to queue writers.
        transaction.execute("set local lock_timeout = '5s'").await?;
        let days: Vec<(String, String, String)> = sqlx::query_as(
            "select to_char(day, 'YYYYMMDD'), day::text, (day + 1)::text
             from (select (now() at time zone 'utc')::date + n as day from generate_series(0, $1) n) days",
        )
        .bind(DAYS_AHEAD)
        .fetch_all(&mut *transaction)
        .await?;
        for (name, from, to) in &days {
            for table in TABLES {
                create(&mut transaction, table, name, from, to).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn create(
    connection: &mut Connection,
    table: &str,
    day: &str,
    from: &str,
    to: &str,
) -> Result<(), StoreError> {
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("culprit.{table}_{day}"))
        .fetch_one(&mut *connection)
        .await?;
    if exists {
        return Ok(());
    }
    // The names come from the constants above and from to_char.
    let statements = format!(
        "create table culprit.{table}_{day} (like culprit.{table} including all);
         alter table culprit.{table} attach partition culprit.{table}_{day}
             for values from ('{from}') to ('{to}')"
    );
    connection.execute(AssertSqlSafe(statements)).await?;
    Ok(())
}
