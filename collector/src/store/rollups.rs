//! Roll-up rows as differences again: to merge the many small ones of the last ticks into one per
//! key, old minutes into hours, and to compare them with a recount.
//!
//! ```text
//! ticks    | | ||| | |         a row each, kept in mind as unmerged
//! merged   |       |           one row per minute, every half minute
//! hours    |                   one row per hour, once its minutes are old
//! ```

use analyzer::profile::ProfileSum;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Executor, Row};
use std::collections::{BTreeMap, HashMap};

use super::finalise::insert_deltas;
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError, encoding};
use crate::deltas::{
    Deltas, EDGES_MINUTES, EdgeDelta, HITS_MINUTES, HitsDelta, HourDelta, Key, MinuteDelta,
    first_of_hour,
};

/// Groups merged in one transaction. What is left waits for the next.
const GROUPS_PER_MERGE: usize = 500;

/// Rows merged in one transaction, about: bounds the memory and the length of the transaction.
const ROWS_PER_MERGE: u32 = 10_000;

/// Groups kept in mind. Beyond it rows stay unmerged until the shard's next owner looks for them:
/// readers sum them all the same.
const UNMERGED_MAX: usize = 200_000;

/// The tables of roll-ups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Table {
    Minutes,
    Hours,
    Hits,
    Edges,
}

impl Table {
    /// All of them.
    const ALL: [Table; 4] = [Table::Minutes, Table::Hours, Table::Hits, Table::Edges];
}

/// Rows that become one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Group {
    table: Table,
    /// The last is the first of `length` minutes, or an hour.
    key: Key,
    /// 1, 10 or 60 minutes; 1 for hours.
    length: i32,
}

impl Group {
    /// A merged row of this group: the rows of old minutes are merged into their hour's.
    fn at(self, horizon: i32) -> Group {
        let (day, subject, version, slot) = self.key;
        if self.table == Table::Hours || slot >= horizon {
            return self;
        }
        Group {
            key: (day, subject, version, first_of_hour(slot)),
            length: 60,
            ..self
        }
    }
}

/// Which roll-up rows a shard's owner has yet to merge. It is the only one who writes them, so it
/// need not search: merging costs what is new and not what is stored.
#[derive(Debug)]
pub struct Unmerged {
    /// Group → its rows, about.
    now: BTreeMap<Group, u32>,
    /// What came since the merging of `now` began.
    later: BTreeMap<Group, u32>,
    /// Before this minute no row is narrower than an hour.
    merged_before: i32,
}

impl Default for Unmerged {
    fn default() -> Self {
        Unmerged {
            now: BTreeMap::new(),
            later: BTreeMap::new(),
            merged_before: i32::MIN,
        }
    }
}

impl Unmerged {
    /// A tick has written these.
    pub fn note(&mut self, deltas: &Deltas) {
        if self.later.len() > UNMERGED_MAX {
            return;
        }
        let keys = groups(Table::Minutes, deltas.minutes.keys(), 1)
            .chain(groups(Table::Minutes, deltas.merged_minutes.keys(), 60))
            .chain(groups(Table::Hours, deltas.hours.keys(), 1))
            .chain(groups(Table::Hits, deltas.hits.keys(), HITS_MINUTES))
            .chain(groups(Table::Hits, deltas.merged_hits.keys(), 60))
            .chain(groups(Table::Edges, deltas.edges.keys(), EDGES_MINUTES))
            .chain(groups(Table::Edges, deltas.merged_edges.keys(), 60));
        for group in keys {
            // One row that is there already, and the new one.
            *self.later.entry(group).or_insert(1) += 1;
        }
    }

    /// Nothing is left of what was noted before the last [`Unmerged::take_new`].
    pub fn is_done(&self) -> bool {
        self.now.is_empty()
    }

    /// Begins with what came since.
    pub fn take_new(&mut self) {
        self.now.append(&mut self.later);
    }

    /// The groups of one transaction.
    fn take_some(&mut self, horizon: i32) -> BTreeMap<Group, u32> {
        let mut some: BTreeMap<Group, u32> = BTreeMap::new();
        let mut rows = 0;
        while rows < ROWS_PER_MERGE && some.len() < GROUPS_PER_MERGE {
            let Some((group, count)) = self.now.pop_first() else {
                break;
            };
            *some.entry(group.at(horizon)).or_default() += count;
            rows += count;
        }
        some
    }
}

fn groups<'a>(
    table: Table,
    keys: impl Iterator<Item = &'a Key>,
    length: i32,
) -> impl Iterator<Item = Group> {
    keys.map(move |key| Group {
        table,
        key: *key,
        length,
    })
}

impl Store {
    /// Merges some of a shard's unmerged rows so that each group has one, named `part`; minutes
    /// before `horizon` (an hour's first) into their hour. Sums are the same before, within and
    /// after. Does nothing if nothing is unmerged.
    ///
    /// The merging is done outside of the transaction: only the shard's owner writes these rows, and
    /// the fence sees whether it still is.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the shard has another owner; or Postgres failed. `unmerged` has
    /// forgotten then what was to be merged.
    pub async fn merge_rollups(
        &self,
        lease: &Lease,
        part: i64,
        unmerged: &mut Unmerged,
        horizon: i32,
    ) -> Result<(), StoreError> {
        let some = unmerged.take_some(horizon);
        let mut rows = Vec::new();
        for (table, select) in [
            (Table::Minutes, MINUTES_OF),
            (Table::Hours, HOURS_OF),
            (Table::Hits, HITS_OF),
            (Table::Edges, EDGES_OF),
        ] {
            let groups = some.keys().filter(|it| it.table == table).copied();
            rows.push(self.rows_of(lease.shard, select, groups.collect()).await?);
        }
        if rows.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let merging = tokio::task::spawn_blocking(move || merged(rows));
        let merged = merging
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        let (old, sums) = merged?;
        if old.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        for (delete, old) in [DELETE_MINUTES, DELETE_HOURS, DELETE_HITS, DELETE_EDGES]
            .into_iter()
            .zip(old)
        {
            delete_parts(&mut transaction, delete, lease.shard, old).await?;
        }
        insert_deltas(&mut transaction, lease.shard, part, &sums).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn rows_of(
        &self,
        shard: i16,
        select: &'static str,
        groups: Vec<Group>,
    ) -> Result<Vec<PgRow>, StoreError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let column = |of: fn(&Group) -> i32| -> Vec<i32> { groups.iter().map(of).collect() };
        let rows = sqlx::query(select)
            .bind(shard)
            .bind(column(|it| it.key.0))
            .bind(column(|it| it.key.1))
            .bind(column(|it| it.key.2))
            .bind(column(|it| it.key.3))
            .bind(column(|it| it.length))
            .fetch_all(self.pool())
            .await?;
        Ok(rows)
    }

    /// What a new owner of a shard finds unmerged: groups of yesterday and today with several rows.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn unmerged_rollups(&self, shard: i16) -> Result<Unmerged, StoreError> {
        let mut unmerged = Unmerged::default();
        for (table, select) in [
            (Table::Minutes, MANY_MINUTES),
            (Table::Hours, MANY_HOURS),
            (Table::Hits, MANY_HITS),
            (Table::Edges, MANY_EDGES),
        ] {
            let rows = sqlx::query(select)
                .bind(shard)
                .bind(UNMERGED_MAX as i64)
                .fetch_all(self.pool())
                .await?;
            unmerged.note_counted(table, &rows)?;
        }
        Ok(unmerged)
    }

    /// Looks for the earliest hour before `horizon` (an hour's first) that still has rows by minute,
    /// and notes them as unmerged. Each hour is found once.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn find_old_minutes(
        &self,
        shard: i16,
        unmerged: &mut Unmerged,
        horizon: i32,
    ) -> Result<(), StoreError> {
        if unmerged.merged_before >= horizon {
            return Ok(());
        }
        let first: Option<i32> = sqlx::query_scalar(FIRST_OLD_MINUTE)
            .bind(shard)
            .bind(unmerged.merged_before)
            .bind(horizon)
            .fetch_one(self.pool())
            .await?;
        let Some(first) = first.map(first_of_hour) else {
            unmerged.merged_before = horizon;
            return Ok(());
        };
        for (table, select) in [
            (Table::Minutes, OLD_MINUTES),
            (Table::Hits, OLD_HITS),
            (Table::Edges, OLD_EDGES),
        ] {
            let rows = sqlx::query(select)
                .bind(shard)
                .bind(first)
                .fetch_all(self.pool())
                .await?;
            unmerged.note_counted(table, &rows)?;
        }
        unmerged.merged_before = first + 60;
        Ok(())
    }

    /// Everything the roll-ups of a shard say, summed by key.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn stored_rollups(&self, shard: i16) -> Result<Deltas, StoreError> {
        let mut transaction = self.pool().begin().await?;
        let minutes = all(&mut transaction, ALL_MINUTES, shard).await?;
        let hours = all(&mut transaction, ALL_HOURS, shard).await?;
        let hits = all(&mut transaction, ALL_HITS, shard).await?;
        let edges = all(&mut transaction, ALL_EDGES, shard).await?;
        transaction.commit().await?;
        let mut sums = Deltas::default();
        for (table, rows) in [
            (Table::Minutes, minutes),
            (Table::Hours, hours),
            (Table::Hits, hits),
            (Table::Edges, edges),
        ] {
            for row in rows {
                add(&mut sums, &group(table, &row)?, &row)?;
            }
        }
        Ok(sums)
    }
}

impl Unmerged {
    fn note_counted(&mut self, table: Table, rows: &[PgRow]) -> Result<(), StoreError> {
        for row in rows {
            let count: i64 = row.try_get("rows")?;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.now.insert(group(table, row)?, count);
        }
        Ok(())
    }
}

const MINUTES_OF: &str = "
    select k.day, k.subject, k.version_id, k.slot, k.length,
        r.minute as old_slot, r.width::integer as old_length, r.part,
        r.requests, r.errors, r.duration_ns, r.categories, r.calls, r.latency
    from unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[])
        as k(day, subject, version_id, slot, length)
    join culprit.rollup_minutes r
      on r.endpoint_id = k.subject and r.minute >= k.slot and r.minute < k.slot + k.length
     and r.version_id = k.version_id and r.day = date '1970-01-01' + k.day and r.width <= k.length
    where r.shard = $1";

const HOURS_OF: &str = "
    select k.day, k.subject, k.version_id, k.slot, k.length,
        r.hour as old_slot, k.length as old_length, r.part,
        r.statements, r.profile, r.tail_requests, r.tail_profile
    from unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[])
        as k(day, subject, version_id, slot, length)
    join culprit.rollup_hours r
      on r.endpoint_id = k.subject and r.hour = k.slot
     and r.version_id = k.version_id and r.day = date '1970-01-01' + k.day
    where r.shard = $1";

const HITS_OF: &str = "
    select k.day, k.subject, k.version_id, k.slot, k.length,
        r.minute as old_slot, r.width::integer as old_length, r.part,
        r.traces, r.requests, r.saved_ns, r.hits, r.examples
    from unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[])
        as k(day, subject, version_id, slot, length)
    join culprit.finding_hits r
      on r.finding_id = k.subject and r.minute >= k.slot and r.minute < k.slot + k.length
     and r.version_id = k.version_id and r.day = date '1970-01-01' + k.day and r.width <= k.length
    where r.shard = $1";

const EDGES_OF: &str = "
    select k.day, k.subject, k.version_id, k.slot, k.length,
        r.minute as old_slot, r.width::integer as old_length, r.part,
        r.calls, r.errors, r.duration_ns, r.latency
    from unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[])
        as k(day, subject, version_id, slot, length)
    join culprit.rollup_edges r
      on r.edge_id = k.subject and r.minute >= k.slot and r.minute < k.slot + k.length
     and r.day = date '1970-01-01' + k.day and r.width <= k.length
    where r.shard = $1";

const MANY_MINUTES: &str = "
    select day - date '1970-01-01' as day, endpoint_id as subject, version_id, minute as slot,
        width::integer as length, count(*) as rows
    from culprit.rollup_minutes
    where shard = $1 and day >= (now() at time zone 'utc')::date - 1
    group by 1, 2, 3, 4, 5 having count(*) > 1 limit $2";

const MANY_HOURS: &str = "
    select day - date '1970-01-01' as day, endpoint_id as subject, version_id, hour as slot,
        1 as length, count(*) as rows
    from culprit.rollup_hours
    where shard = $1 and day >= (now() at time zone 'utc')::date - 1
    group by 1, 2, 3, 4 having count(*) > 1 limit $2";

const MANY_HITS: &str = "
    select day - date '1970-01-01' as day, finding_id as subject, version_id, minute as slot,
        width::integer as length, count(*) as rows
    from culprit.finding_hits
    where shard = $1 and day >= (now() at time zone 'utc')::date - 1
    group by 1, 2, 3, 4, 5 having count(*) > 1 limit $2";

const MANY_EDGES: &str = "
    select day - date '1970-01-01' as day, edge_id as subject, 0 as version_id, minute as slot,
        width::integer as length, count(*) as rows
    from culprit.rollup_edges
    where shard = $1 and day >= (now() at time zone 'utc')::date - 1
    group by 1, 2, 4, 5 having count(*) > 1 limit $2";

const FIRST_OLD_MINUTE: &str = "
    select least(
        (select min(minute) from culprit.rollup_minutes
         where shard = $1 and width < 60 and minute >= $2 and minute < $3),
        (select min(minute) from culprit.finding_hits
         where shard = $1 and width < 60 and minute >= $2 and minute < $3),
        (select min(minute) from culprit.rollup_edges
         where shard = $1 and width < 60 and minute >= $2 and minute < $3))";

const OLD_MINUTES: &str = "
    select day - date '1970-01-01' as day, endpoint_id as subject, version_id, $2 as slot,
        60 as length, count(*) as rows
    from culprit.rollup_minutes
    where shard = $1 and width < 60 and minute >= $2 and minute < $2 + 60
    group by 1, 2, 3";

const OLD_HITS: &str = "
    select day - date '1970-01-01' as day, finding_id as subject, version_id, $2 as slot,
        60 as length, count(*) as rows
    from culprit.finding_hits
    where shard = $1 and width < 60 and minute >= $2 and minute < $2 + 60
    group by 1, 2, 3";

const OLD_EDGES: &str = "
    select day - date '1970-01-01' as day, edge_id as subject, 0 as version_id, $2 as slot,
        60 as length, count(*) as rows
    from culprit.rollup_edges
    where shard = $1 and width < 60 and minute >= $2 and minute < $2 + 60
    group by 1, 2";

const DELETE_MINUTES: &str = "
    delete from culprit.rollup_minutes r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.endpoint_id = old.subject
      and r.version_id = old.version_id and r.minute = old.slot and r.part = old.part";

const DELETE_HOURS: &str = "
    delete from culprit.rollup_hours r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.endpoint_id = old.subject
      and r.version_id = old.version_id and r.hour = old.slot and r.part = old.part";

const DELETE_HITS: &str = "
    delete from culprit.finding_hits r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.finding_id = old.subject
      and r.version_id = old.version_id and r.minute = old.slot and r.part = old.part";

// All edges' versions are 0.
const DELETE_EDGES: &str = "
    delete from culprit.rollup_edges r
    using unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[])
        as old(day, subject, version_id, slot, part)
    where r.shard = $1 and r.day = date '1970-01-01' + old.day and r.edge_id = old.subject
      and r.minute = old.slot and r.part = old.part";

const ALL_MINUTES: &str = "
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.minute as slot, r.width::integer as length,
        r.requests, r.errors, r.duration_ns, r.categories, r.calls, r.latency
    from culprit.rollup_minutes r where r.shard = $1";

const ALL_HOURS: &str = "
    select r.day - date '1970-01-01' as day, r.endpoint_id as subject, r.version_id,
        r.hour as slot, 1 as length, r.statements, r.profile, r.tail_requests, r.tail_profile
    from culprit.rollup_hours r where r.shard = $1";

const ALL_HITS: &str = "
    select r.day - date '1970-01-01' as day, r.finding_id as subject, r.version_id,
        r.minute as slot, r.width::integer as length,
        r.traces, r.requests, r.saved_ns, r.hits, r.examples
    from culprit.finding_hits r where r.shard = $1";

const ALL_EDGES: &str = "
    select r.day - date '1970-01-01' as day, r.edge_id as subject, 0 as version_id,
        r.minute as slot, r.width::integer as length,
        r.calls, r.errors, r.duration_ns, r.latency
    from culprit.rollup_edges r where r.shard = $1";

/// A row's key and part: what names it.
type RowName = (Key, i64);

/// The rows that go, by table, and what takes their place. A group's only row stays if it is as
/// wide as the group.
fn merged(tables: Vec<Vec<PgRow>>) -> Result<(Vec<Vec<RowName>>, Deltas), StoreError> {
    let mut old = Vec::new();
    let mut sums = Deltas::default();
    for (table, rows) in Table::ALL.into_iter().zip(tables) {
        let mut counts: HashMap<Group, usize> = HashMap::new();
        for row in &rows {
            *counts.entry(group(table, row)?).or_default() += 1;
        }
        let mut names = Vec::with_capacity(rows.len());
        for row in rows {
            let group = group(table, &row)?;
            let (slot, length): (i32, i32) = (row.try_get("old_slot")?, row.try_get("old_length")?);
            if counts[&group] > 1 || length != group.length {
                let (day, subject, version, _) = group.key;
                names.push(((day, subject, version, slot), row.try_get("part")?));
                add(&mut sums, &group, &row)?;
            }
        }
        old.push(names);
    }
    Ok((old, sums))
}

/// Adds a row to its group's sum.
fn add(sums: &mut Deltas, group: &Group, row: &PgRow) -> Result<(), StoreError> {
    let key = group.key;
    let is_hour = group.length == 60;
    match group.table {
        Table::Minutes if is_hour => {
            let sum = sums.merged_minutes.entry(key).or_default();
            sum.merge(&minute_sums(row)?, 1);
        }
        Table::Minutes => {
            let sum = sums.minutes.entry(key).or_default();
            sum.merge(&minute_sums(row)?, 1);
        }
        Table::Hours => sums.hours.entry(key).or_default().merge(&hour(row)?, 1),
        Table::Hits if is_hour => {
            let sum = sums.merged_hits.entry(key).or_default();
            sum.merge(&hits(row)?, 1);
        }
        Table::Hits => sums.hits.entry(key).or_default().merge(&hits(row)?, 1),
        Table::Edges if is_hour => {
            let sum = sums.merged_edges.entry(key).or_default();
            sum.merge(&edge_sums(row)?, 1);
        }
        Table::Edges => sums
            .edges
            .entry(key)
            .or_default()
            .merge(&edge_sums(row)?, 1),
    }
    Ok(())
}

fn group(table: Table, row: &PgRow) -> Result<Group, StoreError> {
    Ok(Group {
        table,
        key: key(row)?,
        length: row.try_get("length")?,
    })
}

async fn delete_parts(
    connection: &mut Connection,
    delete: &'static str,
    shard: i16,
    rows: Vec<RowName>,
) -> Result<(), StoreError> {
    let column =
        |of: fn(&Key) -> i32| -> Vec<i32> { rows.iter().map(|(key, _)| of(key)).collect() };
    let deleted = sqlx::query(delete)
        .bind(shard)
        .bind(column(|key| key.0))
        .bind(column(|key| key.1))
        .bind(column(|key| key.2))
        .bind(column(|key| key.3))
        .bind(rows.iter().map(|(_, part)| *part).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    if deleted.rows_affected() == rows.len() as u64 {
        Ok(())
    } else {
        // Somebody else merged them: the fence should have seen it.
        Err(StoreError::LeaseLost(shard))
    }
}

async fn all(
    connection: &mut Connection,
    select: &'static str,
    shard: i16,
) -> Result<Vec<PgRow>, StoreError> {
    Ok(sqlx::query(select)
        .bind(shard)
        .fetch_all(connection)
        .await?)
}

fn key(row: &PgRow) -> Result<Key, StoreError> {
    Ok((
        row.try_get("day")?,
        row.try_get("subject")?,
        row.try_get("version_id")?,
        row.try_get("slot")?,
    ))
}

/// One row of `rollup_minutes`, its key aside.
pub(super) fn minute_sums(row: &PgRow) -> Result<MinuteDelta, StoreError> {
    let numbers = |column: &str| -> Result<[i64; _], StoreError> {
        let numbers: Vec<i64> = row.try_get(column)?;
        numbers
            .try_into()
            .map_err(|_| StoreError::Damaged(format!("{column} of a roll-up")))
    };
    Ok(MinuteDelta {
        requests: row.try_get("requests")?,
        errors: row.try_get("errors")?,
        duration_ns: row.try_get("duration_ns")?,
        categories: numbers("categories")?,
        calls: numbers("calls")?,
        latency: encoding::sketch(row.try_get("latency")?)?,
    })
}

/// One row of `rollup_edges`, its key aside.
pub(super) fn edge_sums(row: &PgRow) -> Result<EdgeDelta, StoreError> {
    Ok(EdgeDelta {
        calls: row.try_get("calls")?,
        errors: row.try_get("errors")?,
        duration_ns: row.try_get("duration_ns")?,
        latency: encoding::sketch(row.try_get("latency")?)?,
    })
}

fn hour(row: &PgRow) -> Result<HourDelta, StoreError> {
    Ok(HourDelta {
        statements: encoding::statements(row.try_get("statements")?)?,
        profile: ProfileSum::of(encoding::profile(row.try_get("profile")?)?),
        tail_requests: row.try_get("tail_requests")?,
        tail_profile: ProfileSum::of(encoding::profile(row.try_get("tail_profile")?)?),
    })
}

fn hits(row: &PgRow) -> Result<HitsDelta, StoreError> {
    let examples: Value = row.try_get("examples")?;
    Ok(HitsDelta {
        traces: row.try_get("traces")?,
        requests: row.try_get("requests")?,
        saved_ns: row.try_get("saved_ns")?,
        hits: encoding::hits(row.try_get("hits")?)?,
        examples: examples.as_array().cloned().unwrap_or_default(),
    })
}
