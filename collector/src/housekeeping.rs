//! Days go: by age, by bytes, and when the disk is almost full. Unattended, one process at a time.
//!
//! look → what goes next → thin or drop it → look again, until nothing has to go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::deltas::Day;
use crate::disk::DiskGuard;
use crate::store::leases::{Process, RETENTION_SHARD};
use crate::store::retention::{Partition, TRACES};
use crate::store::{Store, StoreError};

/// How often is looked whether something has to go.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Of what is free on the disk, kept traces of one day take at most this share.
const KEPT_SHARE_OF_FREE: u64 = 4;

/// What is kept for how long. Whole days, of the database's clock (UTC); today and yesterday always stay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// Traces.
    pub days: u32,
    /// Traces with a finding, an error, or slower than their endpoint's P99: some of each hour.
    pub kept_days: u32,
    /// Roll-ups and findings' hits.
    pub rollup_days: u32,
    /// Everything together, on disk.
    pub bytes_max: Option<u64>,
    /// Of the disk space that is ours or free, we take at most this share.
    pub disk_share: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            days: 14,
            kept_days: 90,
            rollup_days: 90,
            bytes_max: None,
            disk_share: 0.8,
        }
    }
}

/// What housekeeping needs to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is kept for how long.
    pub policy: Policy,
    /// Where the private Postgres has its data; `None` for a Postgres elsewhere.
    pub data_dir: Option<PathBuf>,
    /// Bytes that have to be free there; see [`DiskGuard::look`].
    pub free_min_bytes: Option<u64>,
    /// Who keeps house.
    pub process: Process,
}

/// Figures for the status page and `/metrics`.
#[derive(Debug, Default)]
pub struct Stats {
    /// Bytes of all tables at the last look.
    pub bytes: AtomicU64,
    /// The oldest day with all its traces, in days since the epoch; 0 before the first look.
    pub oldest_day: AtomicI64,
    /// The oldest day with kept traces; as above, 0 if there is none.
    pub oldest_kept_day: AtomicI64,
    /// Partitions that went since the start.
    pub dropped_partitions: AtomicU64,
    /// Traces that outlived their day, since the start.
    pub kept_traces: AtomicU64,
    /// Runs that failed since the start: a lock was not to be had in time, mostly.
    pub failed_runs: AtomicU64,
    tables: Mutex<BTreeMap<String, u64>>,
}

impl Stats {
    /// Bytes by table at the last look, indexes and TOAST included.
    pub fn bytes_by_table(&self) -> BTreeMap<String, u64> {
        let tables = self.tables.lock();
        tables.unwrap_or_else(|it| it.into_inner()).clone()
    }
}

/// What goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A day's traces but for those worth keeping.
    Thin(Day),
    /// All that is left of a day's traces.
    DropTraces(Day),
    /// A day's roll-ups.
    DropRollups(Day),
}

/// Keeps house until `shutdown`; gives the lease back then.
pub async fn run(
    store: Store,
    options: Options,
    guard: Arc<DiskGuard>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let Process { id, sole_owner } = options.process;
    while !shutdown.is_cancelled() {
        let leased = store.acquire_lease(RETENTION_SHARD, id, sole_owner).await;
        if let Ok(Some(lease)) = leased {
            let done = tokio::select! {
                done = keep_house(&store, &options, &guard, &stats) => done,
                lost = store.keep_lease(&lease) => Err(lost),
                // What is interrupted goes on next time.
                () = shutdown.cancelled() => Ok(()),
            };
            if let Err(error) = done {
                stats.failed_runs.fetch_add(1, Relaxed);
                tracing::warn!(%error, "old days could not be removed; it is tried again");
            }
            let _ = store.release_lease(&lease).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = guard.wait_until_low() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Takes away what has to go, one day after the other.
///
/// # Errors
/// A lock was not to be had in time, or Postgres failed; what was begun goes on next time.
pub async fn keep_house(
    store: &Store,
    options: &Options,
    guard: &DiskGuard,
    stats: &Stats,
) -> Result<(), StoreError> {
    finish_interrupted(store).await?;
    store.create_partitions().await?;
    let today = store.today().await?;
    let policy = options.policy;
    store.drop_quarantined(today - signed(policy.days)).await?;
    store.forget_history().await?;
    loop {
        let partitions = store.partitions().await?;
        let bytes = look(store, &partitions, stats).await?;
        if let Some(directory) = &options.data_dir {
            // After a day is gone there may be room again.
            let _ = guard.look(directory, options.free_min_bytes);
        }
        let is_too_much = guard.is_low()
            || policy.bytes_max.is_some_and(|max| bytes > max)
            || exceeds_share(bytes, guard, policy.disk_share);
        let Some(step) = next_step(&partitions, &policy, today, is_too_much) else {
            return Ok(());
        };
        take(store, step, &partitions, guard, stats).await?;
    }
}

/// Bytes of all tables.
async fn look(store: &Store, partitions: &[Partition], stats: &Stats) -> Result<u64, StoreError> {
    let tables = store.bytes_by_table().await?;
    let bytes = tables.values().sum();
    let oldest = |is_kept: bool| {
        let mut traces = partitions.iter().filter(|it| it.parent == TRACES);
        traces
            .find(|it| it.is_kept == is_kept)
            .map_or(0, |it| i64::from(it.day))
    };
    stats.bytes.store(bytes, Relaxed);
    stats.oldest_day.store(oldest(false), Relaxed);
    stats.oldest_kept_day.store(oldest(true), Relaxed);
    *stats.tables.lock().unwrap_or_else(|it| it.into_inner()) = tables;
    Ok(bytes)
}

/// Others fill the same disk: only what is ours or free counts, so that we do not give up all our
/// days because of somebody else's files.
fn exceeds_share(bytes: u64, guard: &DiskGuard, share: f64) -> bool {
    let ours_or_free = bytes + guard.free_bytes();
    guard.total_bytes() > 0 && bytes as f64 > share * ours_or_free as f64
}

/// What goes next: first what is too old, then, if it is too much, the oldest of what is least
/// missed. Traces and roll-ups of today and yesterday stay: more of these traces may arrive.
pub fn next_step(
    partitions: &[Partition],
    policy: &Policy,
    today: Day,
    is_too_much: bool,
) -> Option<Step> {
    let days = |kind: fn(&Partition) -> bool| {
        let days = partitions.iter().filter(move |it| kind(it));
        days.map(|it| it.day)
    };
    let full = days(|it| it.parent == TRACES && !it.is_kept).min();
    let kept = days(|it| it.parent == TRACES && it.is_kept).min();
    let rollups = days(|it| it.parent != TRACES).min();
    let kept_days = policy.kept_days.max(policy.days);
    let older_than = |days: u32| move |day: &Day| *day < today - signed(days.max(1));
    let old = full
        .filter(older_than(kept_days))
        .or(kept.filter(older_than(kept_days)))
        .map(Step::DropTraces)
        .or(full.filter(older_than(policy.days)).map(Step::Thin))
        .or(rollups
            .filter(older_than(policy.rollup_days.max(policy.days)))
            .map(Step::DropRollups));
    if old.is_some() || !is_too_much {
        return old;
    }
    full.filter(|day| *day < today - 1)
        .map(Step::Thin)
        .or(kept.map(Step::DropTraces))
        .or(rollups
            .filter(|day| *day < today - 1)
            .map(Step::DropRollups))
}

fn signed(days: u32) -> Day {
    Day::try_from(days).unwrap_or(Day::MAX / 2)
}

async fn take(
    store: &Store,
    step: Step,
    partitions: &[Partition],
    guard: &DiskGuard,
    stats: &Stats,
) -> Result<(), StoreError> {
    let mut connection = store.retention_connection().await?;
    let (Step::Thin(day) | Step::DropTraces(day) | Step::DropRollups(day)) = step;
    let goes = |it: &&Partition| match step {
        // Beside a full one stands at most what an interrupted run began to keep.
        Step::Thin(_) => it.parent == TRACES && !it.is_kept,
        Step::DropTraces(_) => it.parent == TRACES,
        Step::DropRollups(_) => it.parent != TRACES,
    };
    for partition in partitions.iter().filter(|it| it.day == day).filter(goes) {
        if matches!(step, Step::Thin(_)) {
            let bytes_max = match guard.total_bytes() {
                0 => u64::MAX,
                _ => guard.free_bytes() / KEPT_SHARE_OF_FREE,
            };
            let kept = store
                .thin_day(&mut connection, partition, bytes_max)
                .await?;
            stats.kept_traces.fetch_add(kept.traces, Relaxed);
            tracing::info!(
                partition = partition.name,
                traces = kept.traces,
                bytes = kept.bytes,
                "a day's traces are gone but for those worth keeping"
            );
        } else {
            if partition.parent == TRACES {
                store.note_thinned(day).await?;
            }
            store.drop_partition(&mut connection, partition).await?;
            tracing::info!(partition = partition.name, "a day is gone");
        }
        stats.dropped_partitions.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// What a former run left half done, told by the tables' names.
async fn finish_interrupted(store: &Store) -> Result<(), StoreError> {
    let partitions = store.partitions().await?;
    let is_whole = |it: &Partition| it.is_attached && !it.is_detaching;
    if partitions.iter().all(is_whole) {
        return Ok(());
    }
    let mut connection = store.retention_connection().await?;
    for full in partitions.iter().filter(|it| !it.is_kept && !is_whole(it)) {
        store.drop_partition(&mut connection, full).await?;
    }
    for kept in partitions.iter().filter(|it| it.is_kept && !it.is_attached) {
        let is_full = |it: &Partition| it.parent == TRACES && it.day == kept.day && !it.is_kept;
        // Beside a full day it is only the beginning of one, and is made anew.
        if !partitions.iter().any(|it| is_full(it) && is_whole(it)) {
            store.attach_kept(kept.day, &kept.name).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
