//! Days go as whole partitions: detached without stopping readers, then dropped, which gives their
//! disk back at once. A day of traces leaves its kept ones behind (see [`super::keeping`]).
//!
//! ```text
//! trace_blocks_20261107        |-- all --|
//! trace_blocks_20261107_kept             |-- a few, for longer --|
//! ```
//!
//! `detach … concurrently` is two transactions and cannot run inside of one: it has a connection of
//! its own. Whatever is interrupted is found again by the tables' names and finished.

use std::collections::BTreeMap;

use super::pool::Alone;
use super::{Store, StoreError};
use crate::contribution::unsigned;
use crate::deltas::Day;

/// The table of traces; the other partitioned ones are roll-ups.
pub const TRACES: &str = "trace_blocks";

/// The table of call paths and statements.
const PROFILES: &str = "rollup_hours";

/// Locks are waited for so long. Statements of readers end sooner or later, and the next run comes
/// soon; whoever queues behind our waiting would wait as long.
const LOCK_TIMEOUT: &str = "5s";

/// One day of one table.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Partition {
    /// `trace_blocks` or a table of roll-ups.
    pub parent: String,
    /// Its own name.
    pub name: String,
    /// Its day.
    pub day: Day,
    /// It holds what a day of traces left behind.
    pub is_kept: bool,
    /// It is part of its parent.
    pub is_attached: bool,
    /// Taking it from its parent was interrupted.
    pub is_detaching: bool,
    /// On disk, indexes and TOAST included.
    pub bytes: i64,
}

impl Store {
    /// Every partition, and every table that was one or is to be, by day.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        let partitions = sqlx::query_as(
            "select m[1] as parent, c.relname::text as name, to_date(m[2], 'YYYYMMDD') - date '1970-01-01' as day,
                    m[3] is not null as is_kept,
                    i.inhrelid is not null as is_attached, coalesce(i.inhdetachpending, false) as is_detaching,
                    pg_total_relation_size(c.oid) as bytes
             from pg_class c
             cross join lateral regexp_match(c.relname::text,
                 '^(trace_blocks|rollup_minutes|rollup_hours|rollup_edges|finding_hits)_([0-9]{8})(_kept)?$') m
             left join pg_inherits i on i.inhrelid = c.oid
             where c.relnamespace = 'culprit'::regnamespace and c.relkind = 'r' and m is not null
             order by day, name",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(partitions)
    }

    /// Bytes on disk by table, indexes and TOAST included; partitions count to their parent.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn bytes_by_table(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select coalesce(parent.relname, c.relname)::text, sum(pg_total_relation_size(c.oid))::bigint
             from pg_class c
             left join pg_inherits i on i.inhrelid = c.oid
             left join pg_class parent on parent.oid = i.inhparent
             where c.relnamespace = 'culprit'::regnamespace and c.relkind = 'r' group by 1",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|(table, it)| (table, unsigned(it)))
            .collect())
    }

    /// A connection for what cannot run in a transaction.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn retention_connection(&self) -> Result<Alone, StoreError> {
        Ok(self.pool().alone(LOCK_TIMEOUT).await?)
    }

    /// Takes a partition from its parent, and drops it. Idempotent: what was interrupted goes on.
    /// Readers that began before keep what they see until they end.
    ///
    /// # Errors
    /// A lock was not to be had in time, or Postgres failed; to be tried again.
    pub async fn drop_partition(
        &self,
        connection: &mut Alone,
        partition: &Partition,
    ) -> Result<(), StoreError> {
        detach(connection, partition).await?;
        // Both names match the expression above.
        let drop = format!("drop table if exists culprit.{}", partition.name);
        connection.run(drop).await?;
        if partition.parent == TRACES {
            self.forget_superseded(partition.day).await?;
        }
        if partition.parent == PROFILES {
            self.forget_apart(partition.day).await?;
        }
        Ok(())
    }

    /// Forgets about copies that count no more in blocks that are gone.
    async fn forget_superseded(&self, day: Day) -> Result<(), StoreError> {
        sqlx::query(
            "delete from culprit.superseded s
             where day = date '1970-01-01' + $1 and not exists (
                 select from culprit.trace_blocks b
                 where b.id = s.block_id and b.shard = s.shard and b.day = s.day)",
        )
        .bind(day)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgets what was counted apart on a day whose call paths and statements are gone.
    async fn forget_apart(&self, day: Day) -> Result<(), StoreError> {
        sqlx::query("delete from culprit.counted_apart where day = date '1970-01-01' + $1")
            .bind(day)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Quarantined traces go with the days they came on.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn drop_quarantined(&self, before: Day) -> Result<(), StoreError> {
        sqlx::query("delete from culprit.quarantine where at < date '1970-01-01' + $1")
            .bind(before)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

/// Takes a partition from its parent, without stopping whoever reads or writes there.
pub(super) async fn detach(
    connection: &mut Alone,
    partition: &Partition,
) -> Result<(), StoreError> {
    let how = match (partition.is_attached, partition.is_detaching) {
        (false, _) => return Ok(()),
        (true, false) => "concurrently",
        (true, true) => "finalize",
    };
    let statement = format!(
        "alter table culprit.{} detach partition culprit.{} {how}",
        partition.parent, partition.name
    );
    connection.run(statement).await?;
    Ok(())
}
