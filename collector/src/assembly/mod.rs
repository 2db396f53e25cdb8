//! Journal → traces in flight → idle → analysis → one transaction.
//!
//! Each shard has one owner at a time. It reads the journal, holds positions of open traces
//! ([`flight`]), analyses those that are due ([`analyse`]) and writes them with everything they
//! change in one fenced transaction. Whatever goes wrong, it forgets all and reads again: the
//! journal has it.

mod analyse;
mod balance;
mod completeness;
mod flight;
mod known;
mod tail;
#[cfg(test)]
mod tests;

use analyzer::span::{SpanId, TraceId};
use analyzer::{ANALYSIS_VERSION, Settings};
use bytes::Bytes;
use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::buffers::{self, Buffer};
use crate::clock::now_ns;
use crate::compaction;
use crate::contribution::{Contribution, Request};
use crate::deltas::{Counted, Day, Deltas, merged_before, minute_of};
use crate::handoff::Handoff;
use crate::histogram::Histogram;
use crate::journal;
use crate::otlp::{self, Head};
use crate::packer;
use crate::store::blocks::{NewBlock, NewRequest, Replaced};
use crate::store::dictionaries::Dictionaries;
use crate::store::finalise::{
    FLAG_ERROR, FLAG_FINDING, FLAG_FRAGMENT, FLAG_ROOT, FLAG_TAIL, Quarantined, SUSPECTED, Tick,
};
use crate::store::leases::{Lease, Process};
use crate::store::rollups::Unmerged;
use crate::store::traces_again::{OldRequest, StoredBlock};
use crate::store::{Store, StoreError};

pub use analyse::{BLOCK_ZSTD_LEVEL, analyse, damaged, decompress, spans_by_trace, unite};
pub use flight::Idle;

use analyse::{Final, Outcome, Pack, Stored, Work};
use balance::{Balancer, Seat};
use completeness::Callees;
use flight::{Arrived, Due, Flight};
use known::Known;
use tail::Tails;

/// Journal rows read at once.
const ROWS_PER_READ: i64 = 64;

/// How often all of a shard's journal is looked at. Otherwise only what was written lately is: an
/// index entry of every consumed row stays for as long as anybody's transaction is older, and walking
/// over hours of them five times a second would stall the shard.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(60);

/// What counts as lately. A row that becomes visible later than this after its id was made (a commit
/// that hung, a writer whose clock is behind) is found by the next look at all.
const LATELY: Duration = Duration::from_secs(300);

/// Compressed journal bytes held per shard. Beyond it nothing more is read until traces are final:
/// the journal keeps the rest.
const HELD_BYTES_MAX: usize = 96 << 20;

/// Spans of open traces held per shard, eight bytes each; beyond it as above.
const HELD_SPANS_MAX: usize = 6_000_000;

/// Spans analysed in one tick, about: bounds the tick's memory and the length of its transaction.
const SPANS_PER_TICK: usize = 40_000;

/// Raw bytes of the journal rows unpacked for one tick, unless a single trace needs more; and blocks
/// unpacked for traces that are stored already: these wait for the next tick beyond it.
const ROW_BYTES_PER_TICK: usize = 64 << 20;
const BLOCKS_PER_TICK: (usize, i64) = (48, 64 << 20);

/// Journal rows carried on in one tick.
const CARRIED_ROWS_MAX: usize = 64;

/// As [`SPANS_PER_TICK`], after an owner died: the fewer traces were analysed when the next one
/// does, the fewer fall under suspicion, and the more is done before.
const SPANS_PER_CAREFUL_TICK: usize = 1_000;

/// A row whose traces were being analysed at so many deaths has probably caused them: its traces
/// are taken one by one.
const ATTEMPTS_MAX: i16 = 2;

/// How often a shard's owner looks for work. Every look walks over all open traces, and the rarer
/// they are, the more of a journal row's traces are due at once, for one unpacking of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the journal is read by an owner whom the same process hands over what it commits: what
/// others have written, and what was too much to hand over.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How often the database's day is asked for.
const TODAY_EVERY: Duration = Duration::from_secs(3);

/// How often old journal rows are looked through: that walks over all open spans.
const CARRY_EVERY: Duration = Duration::from_secs(2);

/// How often roll-up rows are merged.
const MERGE_EVERY: Duration = Duration::from_secs(30);

/// Merging goes on for so long before the owner looks at what has arrived.
const MERGE_FOR_MAX: Duration = Duration::from_millis(100);

/// How often a shard's owner looks for small blocks when it found none to pack.
const COMPACT_EVERY: Duration = Duration::from_secs(30);

/// After packing it pauses so many times as long: at most a tenth of its time goes there.
const COMPACT_PAUSES: u32 = 9;

/// How long after an error an owner starts anew.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// How often a shard is tried that was free a moment ago and is not.
const ACQUIRE_EVERY: Duration = Duration::from_secs(1);

/// What an assembly needs to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// When traces are due.
    pub idle: Idle,
    /// What the user set for the analysis.
    pub settings: Settings,
    /// Whose it is.
    pub process: Process,
    /// Where this process's journal hands over what it has committed.
    pub handoff: Option<Arc<Handoff>>,
}

/// What assemblies have done since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Traces made final, those that were final before included.
    pub traces: AtomicU64,
    /// Traces that were final before and had grown.
    pub again: AtomicU64,
    /// Traces that arrived again as they were.
    pub repeated: AtomicU64,
    /// Spans of traces made final.
    pub spans: AtomicU64,
    /// Ticks that failed.
    pub failed_ticks: AtomicU64,
    /// Traces in flight, all shards of this process together.
    pub in_flight: AtomicU64,
    /// Traces put into quarantine.
    pub quarantined: AtomicU64,
    /// How long ticks took that made traces final.
    pub tick_seconds: Histogram,
    /// Small blocks that were packed with others.
    pub compacted_blocks: AtomicU64,
}

/// Owns its share of the shards until `shutdown` ([`balance`]); gives them back then.
pub async fn run(store: Store, options: Options, stats: Arc<Stats>, shutdown: CancellationToken) {
    let Process { id, sole_owner } = options.process;
    let (balancer, seats) = Balancer::new(&store, id, sole_owner, &shutdown);
    let owners = seats
        .into_iter()
        .map(|seat| own(store.clone(), seat, &options, &stats));
    tokio::join!(balancer.run(), futures_util::future::join_all(owners));
}

/// Owns one shard whenever it is this process's turn.
async fn own(store: Store, mut seat: Seat, options: &Options, stats: &Stats) {
    let mut before = Before::default();
    while let Some(turn) = seat.turn().await {
        while !turn.is_cancelled() {
            let owning = own_once(&store, seat.shard, options, stats, &mut before, &turn);
            let pause = owning.await;
            tokio::select! {
                () = turn.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Takes the lease, and works until the turn ends or something goes wrong; says how long to wait then.
async fn own_once(
    store: &Store,
    shard: i16,
    options: &Options,
    stats: &Stats,
    before: &mut Before,
    turn: &CancellationToken,
) -> Duration {
    let Process { id, sole_owner } = options.process;
    match store.acquire_lease(shard, id, sole_owner).await {
        Ok(Some(lease)) => {
            let handoff = options.handoff.as_deref();
            let owned = |it| handoff.inspect(|handoff| handoff.set_owned(shard, it));
            let owner = Owner::new(store, lease, options, stats);
            owned(true);
            let held = hold(owner, before, turn).await;
            owned(false);
            match held {
                Ok(()) => {
                    let _ = store.release_lease(&lease).await;
                    Duration::ZERO
                }
                Err(error) => {
                    stats.failed_ticks.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(shard, %error, "the analysis starts anew from the journal");
                    store.note(&error);
                    jittered(PAUSE_AFTER_ERROR)
                }
            }
        }
        Ok(None) => ACQUIRE_EVERY,
        Err(error) => {
            tracing::debug!(shard, %error, "no lease");
            store.note(&error);
            jittered(PAUSE_AFTER_ERROR)
        }
    }
}

/// Up to half as long again: owners that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u32;
    pause + pause.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// What this process's former ownership of a shard left to the next.
#[derive(Default)]
struct Before {
    /// The owner before it died, or it panicked itself: nothing is blamed for that yet.
    died: bool,
    /// Traces it suspected and could not acquit.
    suspected: Vec<TraceId>,
}

/// Runs an owner while its lease is kept, and cleans up behind it.
async fn hold(
    mut owner: Owner<'_>,
    before: &mut Before,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    let (store, lease) = (owner.store, owner.lease);
    owner.take_over(before).await?;
    // A bug must not end the analysis for good: the journal has everything, and what made it fail
    // several times is looked at alone.
    let ended = tokio::select! {
        ended = AssertUnwindSafe(owner.run(shutdown)).catch_unwind() => ended,
        lost = store.keep_lease(&lease) => Ok(Err(lost)),
    };
    let Ok(ended) = ended else {
        before.died = true;
        return Err(StoreError::Damaged(
            "the analysis panicked; see above".into(),
        ));
    };
    if let Err(error) = owner.acquit().await {
        tracing::debug!(shard = lease.shard, %error, "what was suspected stays so for now");
        before.suspected.append(&mut owner.suspected);
    }
    ended
}

/// A shard's owner, from taking the lease to losing it.
struct Owner<'a> {
    store: &'a Store,
    lease: Lease,
    options: &'a Options,
    stats: &'a Stats,
    flight: Flight,
    in_flight: InFlight<'a>,
    known: Known,
    names: Dictionaries,
    callees: Callees,
    tails: Tails,
    convicted: HashSet<TraceId>,
    last_id: i64,
    suspected: Vec<TraceId>,
    polled: Instant,
    careful: Option<Uuid>,
    looked_at_all: Option<Instant>,
    carried: Instant,
    merged: Instant,
    unmerged: Unmerged,
    compact_at: Instant,
    today: (Day, Instant),
}

/// A journal row on its way into the flight.
struct Incoming {
    id: Uuid,
    suspect: bool,
    payload: Bytes,
    /// Its bytes, if they are still there.
    raw: Option<Buffer>,
}

/// The heads of a row's spans, and its length when unpacked, bytes.
type Unpacked = (Vec<(TraceId, Head)>, usize);

impl Incoming {
    fn unpack(mut self) -> (Incoming, Result<Unpacked, StoreError>) {
        let raw = match self.raw.take() {
            Some(raw) => Ok(raw),
            None => decompress(&self.payload),
        };
        let heads = |raw: Buffer| Ok((otlp::heads(&raw).map_err(damaged)?, raw.len()));
        let unpacked = raw.and_then(heads);
        (self, unpacked)
    }
}

/// An owner's part of the traces in flight; taken out when the owner ends.
struct InFlight<'a> {
    total: &'a AtomicU64,
    mine: u64,
}

impl InFlight<'_> {
    fn set(&mut self, mine: u64) {
        // Wraps below zero and back: the sum of all owners never is below.
        self.total
            .fetch_add(mine.wrapping_sub(self.mine), Ordering::Relaxed);
        self.mine = mine;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A trace that becomes final in this tick.
struct Decided {
    due: Due,
    last: Final,
    requests: Vec<NewRequest>,
}

impl<'a> Owner<'a> {
    fn new(store: &'a Store, lease: Lease, options: &'a Options, stats: &'a Stats) -> Self {
        let now = Instant::now();
        Owner {
            store,
            lease,
            options,
            stats,
            flight: Flight::default(),
            in_flight: InFlight {
                total: &stats.in_flight,
                mine: 0,
            },
            known: Known::default(),
            names: Dictionaries::default(),
            callees: Callees::default(),
            tails: Tails::default(),
            convicted: HashSet::new(),
            last_id: 0,
            suspected: Vec::new(),
            polled: now.checked_sub(POLL_EVERY).unwrap_or(now),
            careful: None,
            looked_at_all: None,
            carried: now,
            merged: now,
            unmerged: Unmerged::default(),
            compact_at: now + COMPACT_EVERY,
            today: (0, now),
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        self.load().await?;
        while !shutdown.is_cancelled() {
            let read = self.read().await?;
            let ticked = self.tick().await?;
            self.carry().await?;
            self.housekeep().await?;
            self.in_flight.set(self.flight.traces() as u64);
            if !read && !ticked {
                self.wait(shutdown).await;
            }
        }
        Ok(())
    }

    /// After a death: what was being analysed then is to blame for it, and until all that waited
    /// then is analysed it is noted what is being analysed. Otherwise nothing of that is written.
    async fn take_over(&mut self, before: &mut Before) -> Result<(), StoreError> {
        let shard = self.lease.shard;
        // Noted first: the next attempt finds a lease that is ours.
        before.died |= self.lease.orphaned;
        self.store.acquit(shard, &before.suspected).await?;
        before.suspected.clear();
        if before.died {
            let blamed = self.store.blame_analysed(&self.lease).await?;
            tracing::info!(
                shard,
                blamed,
                "the former owner died; its journal is analysed with care"
            );
            self.careful = self.store.last_journal_row(shard).await?;
            before.died = false;
        }
        Ok(())
    }

    /// The process lives: neither the rows nor the traces held are to blame for an end.
    async fn acquit(&self) -> Result<(), StoreError> {
        self.store.acquit(self.lease.shard, &self.suspected).await?;
        match self.store.note_analysing(&self.lease, &[]).await {
            // The successor has judged already.
            Err(StoreError::LeaseLost(_)) => Ok(()),
            noted => noted,
        }
    }

    /// What must be known before the first row is read.
    async fn load(&mut self) -> Result<(), StoreError> {
        let shard = self.lease.shard;
        // After a long sleep of the machine today may have none.
        self.store.create_partitions().await?;
        let known = &mut self.known;
        self.store
            .recent_trace_ids(shard, |trace_id| known.insert(trace_id))
            .await?;
        self.convicted = self.store.convicted(shard).await?.into_iter().collect();
        self.last_id = self.store.last_block_id(shard).await?;
        self.unmerged = self.store.unmerged_rollups(shard).await?;
        self.today = (self.store.today().await?, Instant::now());
        Ok(())
    }

    /// Takes in what has arrived; whether there may be more.
    async fn read(&mut self) -> Result<bool, StoreError> {
        if self.is_pressed() {
            return Ok(false);
        }
        let handed_over = self.handed_over();
        self.take_in(handed_over).await?;
        let waited = self.polled.elapsed();
        if self.options.handoff.is_some() && waited < POLL_EVERY {
            return Ok(false);
        }
        let looked = self.looked_at_all.map(|it| it.elapsed());
        let all = looked.is_none_or(|ago| ago >= LOOK_AT_ALL_EVERY);
        let since = if all {
            Uuid::nil()
        } else {
            oldest_id_of(LATELY)
        };
        let held = self.flight.held();
        let shard = self.lease.shard;
        let rows = self
            .store
            .read_journal(shard, since, &held, ROWS_PER_READ)
            .await?;
        let more = rows.len() as i64 == ROWS_PER_READ;
        if !more {
            self.polled = Instant::now();
            self.looked_at_all = all.then_some(self.polled).or(self.looked_at_all);
        }
        let mut ids = held.iter().chain(rows.iter().map(|row| &row.id));
        self.careful = self.careful.filter(|last| ids.any(|id| id <= last));
        let rows = rows.into_iter().map(|row| Incoming {
            id: row.id,
            suspect: row.attempts >= ATTEMPTS_MAX,
            payload: row.payload.into(),
            raw: None,
        });
        self.take_in(rows.collect()).await?;
        Ok(more)
    }

    /// What this process's journal has committed for this shard.
    fn handed_over(&self) -> Vec<Incoming> {
        let Some(handoff) = &self.options.handoff else {
            return Vec::new();
        };
        let fresh = handoff.take(self.lease.shard);
        if fresh.is_empty() {
            return Vec::new();
        }
        // It may have been read from the journal in the meantime.
        let held: HashSet<Uuid> = self.flight.held().into_iter().collect();
        let rows = fresh.into_iter().filter(|row| !held.contains(&row.id));
        let rows = rows.map(|row| Incoming {
            id: row.id,
            suspect: false,
            payload: row.payload,
            raw: Some(row.raw),
        });
        rows.collect()
    }

    async fn take_in(&mut self, rows: Vec<Incoming>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let unpacked = tokio::task::spawn_blocking(|| {
            let unpacked = rows.into_iter().map(Incoming::unpack);
            unpacked.collect::<Vec<_>>()
        });
        let unpacked = unpacked
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        let now = Instant::now();
        for (row, unpacked) in unpacked {
            let (heads, raw_bytes) = match unpacked {
                Ok(unpacked) => unpacked,
                Err(error) if row.suspect => {
                    self.give_up_row(row.id, row.payload, error).await?;
                    continue;
                }
                Err(error) => {
                    self.store.blame_rows(self.lease.shard, &[row.id]).await?;
                    return Err(error);
                }
            };
            let skip = self.keep_skipped(&row.payload, &heads).await?;
            let arrived = Arrived {
                id: row.id,
                payload: row.payload,
                raw_bytes,
            };
            self.callees.hear(heads.iter().map(|it| &it.1));
            self.flight.add(arrived, &heads, row.suspect, &skip, now);
        }
        Ok(())
    }

    /// Of a row's traces those whose analysis ends processes; their spans here are kept in quarantine.
    async fn keep_skipped(
        &self,
        payload: &[u8],
        heads: &[(TraceId, Head)],
    ) -> Result<HashSet<TraceId>, StoreError> {
        if self.convicted.is_empty() {
            return Ok(HashSet::new());
        }
        let ids = heads.iter().map(|it| it.0);
        let skip: HashSet<TraceId> = ids.filter(|it| self.convicted.contains(it)).collect();
        if skip.is_empty() {
            return Ok(skip);
        }
        let raw = decompress(payload)?;
        for trace_id in &skip {
            let mut otlp = Vec::new();
            let spans = otlp::select(&raw, |_, it| it == *trace_id, &mut otlp);
            let trace = Quarantined {
                trace_id: *trace_id,
                reason: "more of a trace whose analysis ended the process".into(),
                spans: spans.map_err(damaged)? as i32,
                payload: packer::compress(&otlp, BLOCK_ZSTD_LEVEL),
            };
            self.store.suspect(self.lease.shard, trace).await?;
        }
        Ok(skip)
    }

    /// A row that cannot be read, however often it is tried, must not stop the shard: it is kept in
    /// quarantine, under no trace's id.
    async fn give_up_row(
        &mut self,
        id: Uuid,
        payload: Bytes,
        error: StoreError,
    ) -> Result<(), StoreError> {
        tracing::error!(%id, %error, "a journal row cannot be read and is put into quarantine");
        let quarantined = Quarantined {
            trace_id: TraceId::default(),
            reason: format!("journal row {id} cannot be read: {error}"),
            spans: 0,
            payload: payload.to_vec(),
        };
        let (part, consumed) = (self.next_id(), vec![id]);
        self.write(Tick {
            part,
            consumed,
            quarantined: vec![quarantined],
            ..Tick::default()
        })
        .await
    }

    /// Makes due traces final; whether there are more.
    async fn tick(&mut self) -> Result<bool, StoreError> {
        let (due, more) = self.due();
        if due.is_empty() && !self.flight_has_finished_rows() {
            return Ok(false);
        }
        let since = Instant::now();
        self.note(&due).await?;
        let rows = self.rows_of(&due);
        if let Err(error) = self.make_final(due).await {
            if error.is_about_the_data() {
                self.blame(&rows).await?;
            }
            return Err(error);
        }
        self.stats.tick_seconds.observe(since.elapsed());
        Ok(more)
    }

    /// Postgres refuses these rows' results and would again: as with deaths, the trace that causes
    /// it is found by analysing suspects alone, and then left alone.
    async fn blame(&mut self, rows: &[Uuid]) -> Result<(), StoreError> {
        // What was analysed alone is not acquitted.
        self.suspected.clear();
        self.store.blame_rows(self.lease.shard, rows).await
    }

    /// The journal rows that hold these traces' spans.
    fn rows_of(&self, due: &[Due]) -> Vec<Uuid> {
        let rows = due.iter().flat_map(|it| &it.places).map(|place| place.row);
        let rows: HashSet<u32> = rows.collect();
        let rows = rows.into_iter().filter_map(|at| self.flight.row(at));
        rows.map(|it| it.arrived.id).collect()
    }

    fn due(&mut self) -> (Vec<Due>, bool) {
        let spans_max = match self.careful {
            Some(_) => SPANS_PER_CAREFUL_TICK,
            None => SPANS_PER_TICK,
        };
        let pressed = self.is_pressed();
        let (idle, callees) = (&self.options.idle, &self.callees);
        let bounds = (spans_max, ROW_BYTES_PER_TICK);
        self.flight
            .due(Instant::now(), idle, callees, bounds, pressed)
    }

    async fn make_final(&mut self, due: Vec<Due>) -> Result<(), StoreError> {
        let work = self.work(due).await?;
        let done = tokio::task::spawn_blocking(move || analyse::run(work))
            .await
            .map_err(|error| StoreError::Damaged(error.to_string()))??;
        let mut tick = Tick {
            part: self.next_id(),
            ..Tick::default()
        };
        let mut decided = self.sort_out(done.outcomes, &mut tick);
        self.learn(&decided).await?;
        self.count(&mut decided, &mut tick);
        tick.blocks = self.blocks(done.packs, &mut decided);
        tick.consumed = self.flight.take_finished_rows();
        if !tick.is_empty() {
            self.write(tick).await?;
        } else if self.careful.is_some() {
            self.store.note_analysing(&self.lease, &[]).await?;
        }
        self.suspected.clear();
        self.remember(decided);
        Ok(())
    }

    /// Nothing more is read until traces are final.
    fn is_pressed(&self) -> bool {
        self.flight.bytes() >= HELD_BYTES_MAX || self.flight.spans() >= HELD_SPANS_MAX
    }

    fn flight_has_finished_rows(&self) -> bool {
        // Rows whose traces are all in quarantine are finished as they arrive.
        !self.convicted.is_empty() && self.flight.traces() == 0 && self.flight.bytes() > 0
    }

    /// Notes what is about to be analysed, as far as there is reason to.
    async fn note(&mut self, due: &[Due]) -> Result<(), StoreError> {
        if self.careful.is_some() {
            let rows = self.rows_of(due);
            self.store.note_analysing(&self.lease, &rows).await?;
        }
        self.suspect(due).await
    }

    /// A suspect goes to quarantine before its analysis: should the process end, it stays there.
    async fn suspect(&mut self, due: &[Due]) -> Result<(), StoreError> {
        for it in due.iter().filter(|it| it.suspect) {
            tracing::warn!(trace_id = %it.trace_id, "analysing a trace that may have ended culprit before");
            let trace = Quarantined {
                trace_id: it.trace_id,
                reason: SUSPECTED.into(),
                spans: it.places.len() as i32,
                payload: packer::compress(&self.raw_bytes(it)?, BLOCK_ZSTD_LEVEL),
            };
            self.store.suspect(self.lease.shard, trace).await?;
            self.suspected.push(it.trace_id);
        }
        Ok(())
    }

    fn raw_bytes(&self, due: &Due) -> Result<Vec<u8>, StoreError> {
        let mut by_row: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        for place in &due.places {
            by_row.entry(place.row).or_default().push((place.at, 0));
        }
        let mut out = vec![Vec::new()];
        for (row, places) in by_row {
            let Some(row) = self.flight.row(row) else {
                continue;
            };
            otlp::distribute(&decompress(&row.arrived.payload)?, &places, &mut out)
                .map_err(damaged)?;
        }
        Ok(out.swap_remove(0))
    }

    /// Everything the computing part needs, owned.
    async fn work(&mut self, mut due: Vec<Due>) -> Result<Work, StoreError> {
        let stored = self.stored(&mut due).await?;
        let rows: BTreeSet<u32> = due
            .iter()
            .flat_map(|it| it.places.iter().map(|place| place.row))
            .collect();
        let rows = rows
            .into_iter()
            .filter_map(|at| Some((at, self.flight.row(at)?.arrived.payload.clone())));
        Ok(Work {
            rows: rows.collect(),
            due,
            stored,
            today: self.today.0,
            settings: self.options.settings.clone(),
        })
    }

    /// The blocks that hold due traces already. Those that would need too many wait.
    async fn stored(&mut self, due: &mut Vec<Due>) -> Result<Vec<StoredBlock>, StoreError> {
        let shard = self.lease.shard;
        let ids = due.iter().map(|it| it.trace_id);
        let ids: Vec<TraceId> = ids.filter(|it| self.known.may_contain(*it)).collect();
        let found = self
            .store
            .blocks_with(shard, &ids, self.today.0, BLOCKS_PER_TICK)
            .await?;
        due.retain(|it| !found.left_out.contains(&it.trace_id));
        Ok(found.blocks)
    }

    /// Settles what does not become final, and returns what does.
    fn sort_out(&mut self, outcomes: Vec<(Due, Outcome)>, tick: &mut Tick) -> Vec<Decided> {
        let mut decided = Vec::with_capacity(outcomes.len());
        for (due, outcome) in outcomes {
            match outcome {
                Outcome::Known => {
                    self.stats.repeated.fetch_add(1, Ordering::Relaxed);
                    self.flight.finish(due.trace_id);
                    if due.suspect {
                        tick.released.push(due.trace_id);
                    }
                }
                Outcome::Final(last) => {
                    let heads = self.flight.finish(due.trace_id);
                    self.callees.learn(heads.iter());
                    if due.suspect {
                        tick.released.push(due.trace_id);
                    }
                    decided.push(Decided {
                        due,
                        last: *last,
                        requests: Vec::new(),
                    });
                }
                Outcome::Refused {
                    reason,
                    spans,
                    otlp,
                } => {
                    tracing::error!(trace_id = %due.trace_id, reason, "a trace is put into quarantine");
                    self.flight.finish(due.trace_id);
                    self.stats.quarantined.fetch_add(1, Ordering::Relaxed);
                    tick.quarantined.push(Quarantined {
                        trace_id: due.trace_id,
                        reason,
                        spans: spans as i32,
                        payload: packer::compress(&otlp, BLOCK_ZSTD_LEVEL),
                    });
                }
            }
        }
        decided
    }

    /// Makes ids for all names.
    async fn learn(&mut self, decided: &[Decided]) -> Result<(), StoreError> {
        let old = decided
            .iter()
            .filter_map(|it| Some(&it.last.old.as_ref()?.0));
        let new = decided.iter().map(|it| &it.last.contribution);
        let all: Vec<&Contribution> = new.chain(old).collect();
        self.store.learn(&mut self.names, &all).await?;
        let mut within: Vec<(Day, i32, &Request)> = Vec::new();
        for it in decided {
            if let Some((old, stored)) = &it.last.old {
                within.extend(counted_requests(old, &stored.requests));
            }
            let day = it.day(self.today.0);
            for request in &it.last.contribution.requests {
                let ids = self.names.ids(request);
                within.extend(ids.map(|ids| (day, ids.endpoint, request)));
            }
        }
        self.store
            .learn_within_endpoints(&mut self.names, &within)
            .await
    }

    /// Takes out what was counted and counts what is.
    fn count(&mut self, decided: &mut [Decided], tick: &mut Tick) {
        for it in decided {
            if let Some((old, stored)) = &it.last.old {
                tick.replaced.push(Replaced {
                    trace_id: it.due.trace_id,
                    block_id: stored.block_id,
                    day: stored.day,
                });
                self.take_out(old, stored, tick);
            }
            let day = it.day(self.today.0);
            it.requests = self.count_in(&it.last, day, &mut tick.deltas);
        }
    }

    fn take_out(&self, old: &Contribution, stored: &Stored, tick: &mut Tick) {
        let requests = requests_by_span(old);
        for row in &stored.requests {
            let request = requests.get(&row.span_id);
            if let (Some(request), Some(counted)) = (request, row.counted) {
                tick.deltas.add(old, request, &counted, &self.names, -1);
            }
        }
    }

    fn count_in(&mut self, last: &Final, day: Day, deltas: &mut Deltas) -> Vec<NewRequest> {
        let contribution = &last.contribution;
        let mut requests = Vec::with_capacity(contribution.requests.len().max(1));
        // A request that was counted before stays in or out of the tail.
        let old = last.old.iter().flat_map(|(_, stored)| &stored.requests);
        let tails: HashMap<SpanId, bool> = old
            .filter_map(|row| Some((row.span_id, row.counted?.tail)))
            .collect();
        for request in &contribution.requests {
            let Some(ids) = self.names.ids(request) else {
                continue;
            };
            let minute = minute_of(request.start_ns);
            let tail = tails
                .get(&request.span_id)
                .copied()
                .unwrap_or_else(|| self.tails.is_tail(ids.endpoint, request.duration_ns));
            let counted = Counted {
                day,
                endpoint: ids.endpoint,
                version: ids.version,
                minute,
                tail,
                edges: true,
            };
            deltas.add(contribution, request, &counted, &self.names, 1);
            requests.push(new_request(contribution, request, &counted));
        }
        if contribution.requests.is_empty() {
            requests.push(new_fragment(contribution));
        }
        requests
    }

    /// Blocks are packs with the requests of their traces.
    fn blocks(&mut self, packs: Vec<Pack>, decided: &mut [Decided]) -> Vec<NewBlock> {
        let blocks = packs.into_iter().map(|pack| NewBlock {
            day: pack.day,
            id: self.next_id(),
            spans: pack.spans as i32,
            traces: pack.traces as i32,
            raw_bytes: pack.raw_bytes as i32,
            payload: pack.payload,
            requests: Vec::new(),
            filter: Some(pack.filter),
        });
        let mut blocks: Vec<NewBlock> = blocks.collect();
        for it in decided {
            blocks[it.last.pack].requests.append(&mut it.requests);
        }
        blocks
    }

    async fn write(&mut self, mut tick: Tick) -> Result<(), StoreError> {
        tick.deltas.widen(merged_before(now_ns()));
        self.unmerged.note(&tick.deltas);
        self.store
            .write_tick(&self.lease, ANALYSIS_VERSION, tick)
            .await?;
        Ok(())
    }

    /// After the commit.
    fn remember(&mut self, decided: Vec<Decided>) {
        for it in decided {
            self.known.insert(it.due.trace_id);
            self.stats.traces.fetch_add(1, Ordering::Relaxed);
            self.stats
                .spans
                .fetch_add(u64::from(it.last.contribution.spans), Ordering::Relaxed);
            if it.last.old.is_some() {
                self.flight.has_grown(it.due.trace_id);
                self.stats.again.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Rewrites what is still open of old journal rows.
    async fn carry(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        // The rows' deaths are counted in them: while that matters they are not rewritten.
        if now - self.carried < CARRY_EVERY || self.careful.is_some() {
            return Ok(());
        }
        self.carried = now;
        let sources = self
            .flight
            .rows_to_carry(now, &self.options.idle, CARRIED_ROWS_MAX);
        if sources.is_empty() {
            return Ok(());
        }
        let mut raw = vec![Vec::new()];
        let mut spans = 0;
        for (row, positions) in &sources {
            let Some(row) = self.flight.row(*row) else {
                continue;
            };
            let places: Vec<(u32, usize)> = positions.iter().map(|at| (*at, 0)).collect();
            otlp::distribute(&decompress(&row.arrived.payload)?, &places, &mut raw)
                .map_err(damaged)?;
            spans += positions.len() as u32;
        }
        let row = journal::row(self.lease.shard, spans, &raw[0]);
        let held = Arrived {
            id: row.id,
            payload: Bytes::from(row.payload.clone()),
            raw_bytes: raw[0].len(),
        };
        let consumed = self.flight.carry(&sources, held, now);
        let tick = Tick {
            part: self.next_id(),
            consumed,
            carried: vec![row],
            ..Tick::default()
        };
        self.write(tick).await
    }

    /// What is due now and then.
    async fn housekeep(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if now - self.today.1 >= TODAY_EVERY {
            self.today = (self.store.today().await?, now);
        }
        if now - self.merged >= MERGE_EVERY {
            self.store.create_partitions().await?;
            self.unmerged.take_new();
            buffers::trim();
            packer::trim();
            self.merged = now;
        }
        self.merge_rollups().await?;
        if now >= self.compact_at && !self.is_pressed() {
            self.compact().await?;
        }
        Ok(())
    }

    /// Packs small blocks together, once, and says when next.
    async fn compact(&mut self) -> Result<(), StoreError> {
        let since = Instant::now();
        let shard = self.lease.shard;
        let small = self.store.small_blocks(shard).await?;
        let planned = compaction::plan(&small, self.today.0);
        if planned.is_empty() {
            self.compact_at = since + COMPACT_EVERY;
            return Ok(());
        }
        let id = self.next_id();
        if compaction::pack_planned(self.store, &self.lease, &planned, id).await? {
            let stats = &self.stats.compacted_blocks;
            stats.fetch_add(planned.len() as u64, Ordering::Relaxed);
        }
        self.compact_at = Instant::now() + since.elapsed() * COMPACT_PAUSES;
        Ok(())
    }

    /// Merges roll-up rows for a bounded time; what is left waits for the next look.
    async fn merge_rollups(&mut self) -> Result<(), StoreError> {
        let since = Instant::now();
        let horizon = merged_before(now_ns());
        self.store
            .find_old_minutes(self.lease.shard, &mut self.unmerged, horizon)
            .await?;
        while !self.unmerged.is_done() && since.elapsed() < MERGE_FOR_MAX {
            let part = self.next_id();
            self.store
                .merge_rollups(&self.lease, part, &mut self.unmerged, horizon)
                .await?;
        }
        Ok(())
    }

    async fn wait(&self, shutdown: &CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    /// Ids rise with time and never repeat within a shard, also when the clock goes back.
    fn next_id(&mut self) -> i64 {
        self.last_id = (self.last_id + 1).max((now_ns() / 1_000) as i64);
        self.last_id
    }
}

impl Decided {
    /// The day of the first finalisation stays.
    fn day(&self, today: Day) -> Day {
        let old = self.last.old.as_ref();
        old.map_or(today, |(_, stored)| stored.day)
    }
}

/// Ids of journal rows (UUID version 7) begin with the millisecond they were made in: the lowest one
/// that is at most so old.
fn oldest_id_of(age: Duration) -> Uuid {
    let since_ns = u128::from(now_ns()).saturating_sub(age.as_nanos());
    Uuid::from_u128((since_ns / 1_000_000) << 80)
}

/// A contribution's requests, with the day and endpoint that `rows` say they were counted to.
pub fn counted_requests<'a>(
    contribution: &'a Contribution,
    rows: &[OldRequest],
) -> Vec<(Day, i32, &'a Request)> {
    let requests = requests_by_span(contribution);
    let counted = rows.iter().filter_map(|row| {
        let counted = row.counted?;
        let request = *requests.get(&row.span_id)?;
        Some((counted.day, counted.endpoint, request))
    });
    counted.collect()
}

/// A trace may have a hundred thousand requests: they are not looked for one by one.
fn requests_by_span(contribution: &Contribution) -> HashMap<SpanId, &Request> {
    let requests = contribution.requests.iter();
    requests.map(|it| (it.span_id, it)).collect()
}

fn new_request(contribution: &Contribution, request: &Request, counted: &Counted) -> NewRequest {
    let flag = |set: bool, flag: i16| if set { flag } else { 0 };
    NewRequest {
        trace_id: contribution.trace_id,
        span_id: request.span_id,
        start_ns: request.start_ns,
        duration_ns: request.duration_ns,
        categories: request.categories,
        calls: request.calls,
        endpoint: counted.endpoint,
        version: counted.version,
        minute: counted.minute,
        weight: request.weight,
        spans: contribution.spans,
        flags: flag(request.error, FLAG_ERROR)
            | flag(counted.tail, FLAG_TAIL)
            | flag(request.root, FLAG_ROOT)
            | flag(!request.hits.is_empty(), FLAG_FINDING),
    }
}

fn new_fragment(contribution: &Contribution) -> NewRequest {
    let fragment = contribution.fragment;
    NewRequest {
        trace_id: contribution.trace_id,
        span_id: fragment.span_id,
        start_ns: fragment.start_ns,
        duration_ns: fragment.duration_ns,
        categories: Default::default(),
        calls: Default::default(),
        endpoint: 0,
        version: 0,
        minute: minute_of(fragment.start_ns),
        weight: 1,
        spans: contribution.spans,
        flags: FLAG_FRAGMENT,
    }
}
