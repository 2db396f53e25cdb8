//! What arrived and is not analysed yet: durable before it is acknowledged.
//!
//! Group commit without timers: while one commit is in flight the next batches gather. A lone
//! request waits for about one commit; a flood makes big rows.
//!
//! ```text
//! commit   |-- a --|-- b c d --|-- e f --|
//! arrives  a b  c d      e f
//! ```

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::backlog::BacklogGuard;
use crate::buffers::Buffer;
use crate::disk::DiskGuard;
use crate::handoff::{Fresh, Handoff};
use crate::histogram::Histogram;
use crate::packer::compress;
use crate::repeated::Repeated;
use crate::store::Store;
use crate::store::journal::NewRow;

/// The spans of one export request, split by shard. Committed together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One per shard that has spans.
    pub parts: Vec<Part>,
}

/// One shard's spans of a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// `hash(trace id) % shards`.
    pub shard: i16,
    /// How many spans.
    pub spans: u32,
    /// A valid encoded `ExportTraceServiceRequest` with only these spans.
    pub otlp: Bytes,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.otlp.len()).sum()
    }
}

/// Why a batch was not taken; the client should come again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// More is waiting for the disk than may wait.
    Overloaded {
        /// When to come again.
        retry_after: Duration,
    },
    /// Postgres cannot be written to right now.
    Unavailable {
        /// When to come again.
        retry_after: Duration,
        /// For the log and the client's message.
        reason: String,
    },
}

/// Bytes of OTLP that may wait for a commit. Beyond it batches are refused with "come again":
/// half a second of 200,000 spans a second, and little beside the rest of the process.
const WAITING_BYTES_MAX: usize = 48 << 20;

/// Batches that may wait for a commit; beyond it they are refused like bytes. Only tiny requests
/// reach it.
const WAITING_BATCHES_MAX: usize = 16_384;

/// Bytes of OTLP that one commit takes; what has gathered beyond it waits for the next.
const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Bytes of OTLP in one row, unless a single request is larger: what a shard's owner must unpack
/// to reach one span.
const ROW_BYTES_MAX: usize = 512 << 10;

/// A commit that takes longer counts as failed: the clients come again, and should it land after
/// all, its spans are known by their content.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// What refused clients are told to wait. The receiver adds jitter.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same while the disk is almost full or too much waits to be analysed: making room takes longer.
const RETRY_AFTER_ROOM: Duration = Duration::from_secs(10);

/// How often an unwritable database is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// How often the database is asked whether it can be written to while nothing arrives: whoever
/// balances load wants to know it before the first request fails.
const PROBE_IDLE_EVERY: Duration = Duration::from_secs(5);

/// zstd's fastest ordinary level: rows live for seconds.
const JOURNAL_ZSTD_LEVEL: i32 = 1;

/// The way into the journal table. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: u16,
    queue: mpsc::Sender<Waiting>,
    stats: Arc<Stats>,
}

/// What the journal has done since the start.
#[derive(Debug, Default)]
pub struct Stats {
    waiting_bytes: AtomicUsize,
    refusing: AtomicBool,
    disk: OnceLock<Arc<DiskGuard>>,
    backlog: OnceLock<Arc<BacklogGuard>>,
    /// How long commits took that held spans, failed ones included.
    pub commit_seconds: Histogram,
    /// Commits that failed: their clients were told to come again.
    pub failed_commits: AtomicU64,
}

impl Stats {
    /// Bytes of OTLP that wait for a commit.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Why nothing is taken until more is analysed; `None` if it is.
    pub fn backlog_refusal(&self) -> Option<String> {
        self.backlog.get()?.refusal()
    }

    /// Batches can be taken right now: the last commit did not fail, and the disk has room.
    pub fn is_ready(&self) -> bool {
        let has_room = self.disk.get().is_none_or(|it| !it.is_low());
        has_room && !self.refusing.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    admitted: Admitted,
    answer: oneshot::Sender<Result<(), Refused>>,
}

impl Journal {
    /// Starts the task that commits. It ends when the last clone of the journal is gone and
    /// everything taken is committed.
    pub fn start(store: Store) -> Journal {
        Self::start_beside(store, None)
    }

    /// As [`Journal::start`]; what is committed is handed to owners in this process.
    pub fn start_beside(store: Store, owners: Option<Arc<Handoff>>) -> Journal {
        let (queue, waiting) = mpsc::channel(WAITING_BATCHES_MAX);
        let inner = Arc::new(Inner {
            shards: store.shards(),
            queue,
            stats: Arc::default(),
        });
        // The committer must not keep the queue open: it would never end.
        tokio::spawn(commit_all(store, owners, waiting, Arc::downgrade(&inner)));
        Journal { inner }
    }

    /// Returns after the commit that holds the batch, or refuses it whole. A batch without parts
    /// is taken at once.
    ///
    /// # Errors
    /// [`Refused`], always meaning "come again"; the batch may be committed nevertheless if the
    /// connection broke at the wrong moment.
    pub async fn append(&self, batch: Batch) -> Result<(), Refused> {
        let bytes = batch.bytes();
        if bytes == 0 {
            return Ok(());
        }
        if let Some(refused) = self.refusal() {
            return Err(refused);
        }
        let stats = self.inner.stats.clone();
        let before = stats.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Admitted { stats, bytes };
        // A batch larger than the bound is taken when nothing else waits.
        if before > 0 && before + bytes > WAITING_BYTES_MAX {
            return Err(overloaded());
        }
        let (answer, answered) = oneshot::channel();
        if self
            .inner
            .queue
            .try_send(Waiting {
                batch,
                admitted,
                answer,
            })
            .is_err()
        {
            return Err(overloaded());
        }
        answered
            .await
            .unwrap_or_else(|_| Err(unavailable("culprit is stopping")))
    }

    /// What everybody is told at the moment, whatever they send: there is no room for more.
    pub fn refusal(&self) -> Option<Refused> {
        let stats = &self.inner.stats;
        let disk = stats.disk.get().and_then(|it| it.refusal());
        Some(Refused::Unavailable {
            retry_after: RETRY_AFTER_ROOM,
            reason: disk.or_else(|| stats.backlog_refusal())?,
        })
    }

    /// How many shards the schema was created with.
    pub fn shards(&self) -> u16 {
        self.inner.shards
    }

    /// Batches can be taken right now (for `/readyz` and the gRPC health service).
    pub fn is_ready(&self) -> bool {
        self.inner.stats.is_ready()
    }

    /// What it has done since the start; goes on counting.
    pub fn stats(&self) -> Arc<Stats> {
        self.inner.stats.clone()
    }

    /// From now on nothing is taken while the guard says that the disk is almost full. Set once;
    /// later guards are left alone.
    pub fn watch_disk(&self, guard: Arc<DiskGuard>) {
        let _ = self.inner.stats.disk.set(guard);
    }

    /// From now on nothing is taken while the guard says that too much waits to be analysed. Set once, as
    /// above.
    pub fn watch_backlog(&self, guard: Arc<BacklogGuard>) {
        let _ = self.inner.stats.backlog.set(guard);
    }

    /// Bytes of OTLP that wait for a commit.
    pub fn waiting_bytes(&self) -> usize {
        self.inner.stats.waiting_bytes()
    }
}

/// Gives admitted bytes back when the batch is committed or refused. It goes with the batch and not
/// with the client, who may hang up long before.
#[derive(Debug)]
struct Admitted {
    stats: Arc<Stats>,
    bytes: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.stats
            .waiting_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn overloaded() -> Refused {
    Refused::Overloaded {
        retry_after: RETRY_AFTER,
    }
}

fn unavailable(reason: impl ToString) -> Refused {
    Refused::Unavailable {
        retry_after: RETRY_AFTER,
        reason: reason.to_string(),
    }
}

async fn commit_all(
    store: Store,
    owners: Option<Arc<Handoff>>,
    mut queue: mpsc::Receiver<Waiting>,
    inner: std::sync::Weak<Inner>,
) {
    let stats = inner.upgrade().map(|it| it.stats.clone());
    let stats = stats.unwrap_or_default();
    let failing = Repeated::default();
    while let Some(first) = next(&store, &mut queue, &inner).await {
        let gathered = gather(first, &mut queue);
        let (batches, answers): (Vec<_>, Vec<_>) = gathered
            .into_iter()
            .map(|it| (it.batch, (it.answer, it.admitted)))
            .unzip();
        let since = Instant::now();
        let result = commit(&store, owners.as_deref(), batches).await;
        stats.commit_seconds.observe(since.elapsed());
        if let Some(inner) = inner.upgrade() {
            let refusing = &inner.stats.refusing;
            refusing.store(result.is_err(), Ordering::Relaxed);
        }
        if let Err(refused) = &result {
            stats.failed_commits.fetch_add(1, Ordering::Relaxed);
            if let Some(failures) = failing.due() {
                tracing::warn!(
                    failures,
                    ?refused,
                    "spans could not be written to the journal; clients are told to come again"
                );
            }
        }
        let failed = result.is_err();
        for (answer, _admitted) in answers {
            // The client may have gone; its spans are stored all the same.
            let _ = answer.send(result.clone());
        }
        if failed {
            wait_for_database(&store, &mut queue, &inner).await;
        }
    }
}

/// The next batch. While there is none, readiness is kept true to the database's state.
async fn next(
    store: &Store,
    queue: &mut mpsc::Receiver<Waiting>,
    inner: &std::sync::Weak<Inner>,
) -> Option<Waiting> {
    loop {
        if let Ok(next) = tokio::time::timeout(PROBE_IDLE_EVERY, queue.recv()).await {
            return next;
        }
        let probe = tokio::time::timeout(COMMIT_TIMEOUT, store.is_writable());
        // Not asked alone: whoever comes meanwhile is served at once.
        let writable = tokio::select! {
            next = queue.recv() => return next,
            probe = probe => matches!(probe, Ok(Ok(true))),
        };
        if let Some(inner) = inner.upgrade() {
            inner.stats.refusing.store(!writable, Ordering::Relaxed);
        }
    }
}

/// The first batch and what else has gathered, up to one commit's size.
fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut bytes = first.batch.bytes();
    let mut gathered = vec![first];
    while bytes < COMMIT_BYTES_MAX {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.batch.bytes();
        gathered.push(next);
    }
    gathered
}

async fn commit(
    store: &Store,
    owners: Option<&Handoff>,
    batches: Vec<Batch>,
) -> Result<(), Refused> {
    let rows = tokio::task::spawn_blocking(move || rows(&batches))
        .await
        .map_err(unavailable)?;
    let (rows, raws): (Vec<NewRow>, Vec<Buffer>) = rows.into_iter().unzip();
    let fresh: Vec<(i16, Fresh)> = match owners {
        Some(_) => rows.iter().zip(raws).map(fresh).collect(),
        None => Vec::new(),
    };
    let written = tokio::time::timeout(COMMIT_TIMEOUT, store.append_journal(rows)).await;
    let problem = match written {
        Ok(Ok(())) => {
            if let Some(owners) = owners {
                owners.give(fresh);
            }
            return Ok(());
        }
        Ok(Err(error)) => {
            store.note(&error);
            error.to_string()
        }
        Err(_) => format!("no commit within {} s", COMMIT_TIMEOUT.as_secs()),
    };
    Err(unavailable(format!(
        "the database cannot be written to: {problem}"
    )))
}

fn fresh((row, raw): (&NewRow, Buffer)) -> (i16, Fresh) {
    let fresh = Fresh {
        id: row.id,
        payload: row.payload.clone().into(),
        raw,
    };
    (row.shard, fresh)
}

/// The rows of a commit, with their bytes before compression: each shard's parts one after the
/// other (encoded requests concatenate), cut at [`ROW_BYTES_MAX`].
fn rows(batches: &[Batch]) -> Vec<(NewRow, Buffer)> {
    let mut by_shard: BTreeMap<i16, Vec<&Part>> = BTreeMap::new();
    for part in batches.iter().flat_map(|batch| &batch.parts) {
        by_shard.entry(part.shard).or_default().push(part);
    }
    let mut rows = Vec::new();
    for (shard, parts) in by_shard {
        let bytes: usize = parts.iter().map(|it| it.otlp.len()).sum();
        let mut raw = Buffer::with_capacity(bytes.min(ROW_BYTES_MAX));
        let mut spans = 0;
        for part in parts {
            if !raw.is_empty() && raw.len() + part.otlp.len() > ROW_BYTES_MAX {
                let full = std::mem::take(&mut raw);
                rows.push((row(shard, spans, &full), full));
                spans = 0;
            }
            raw.extend_from_slice(&part.otlp);
            spans += part.spans;
        }
        rows.push((row(shard, spans, &raw), raw));
    }
    rows
}

/// A journal row of these encoded spans. Bodies are bounded far below 2 GiB, so sizes fit.
pub(crate) fn row(shard: i16, spans: u32, raw: &[u8]) -> NewRow {
    NewRow {
        shard,
        id: Uuid::now_v7(),
        spans: spans as i32,
        raw_bytes: raw.len() as i32,
        payload: compress(raw, JOURNAL_ZSTD_LEVEL),
    }
}

/// Refuses what comes in until the database answers again.
async fn wait_for_database(
    store: &Store,
    queue: &mut mpsc::Receiver<Waiting>,
    inner: &std::sync::Weak<Inner>,
) {
    loop {
        while let Ok(waiting) = queue.try_recv() {
            let _ = waiting
                .answer
                .send(Err(unavailable("the database cannot be written to")));
        }
        if queue.is_closed() && queue.is_empty() {
            return;
        }
        let probe = tokio::time::timeout(COMMIT_TIMEOUT, store.is_writable()).await;
        if matches!(probe, Ok(Ok(true))) {
            tracing::info!("the database can be written to again");
            if let Some(inner) = inner.upgrade() {
                inner.stats.refusing.store(false, Ordering::Relaxed);
            }
            return;
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
