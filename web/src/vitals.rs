//! Where everything that can be told about this process is read: by the status page, `/metrics` and
//! the health checks of every role.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use collector::disk::DiskGuard;
use collector::postgres::State as PostgresState;
use collector::receiver::Via;
use collector::store::Store;
use collector::store::overview::{Overview, Storage};
use collector::{assembly, housekeeping, journal, receiver, review};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often counters are noted, so that "over the last minute" can be told.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// Notes kept: those of a minute.
const NOTES_MAX: usize = 12;

/// A database that does not answer within this time counts as down: a page or a scrape must not
/// hang on it.
const PATIENCE: Duration = Duration::from_secs(4);

/// This process, seen from outside. What it does not do is `None`.
pub struct Vitals {
    /// The way to the tables, with connections for people.
    pub store: Store,
    /// The way that the work itself uses; only its connections are counted here.
    pub working_store: Store,
    /// What was received.
    pub receiver: Option<Arc<receiver::Stats>>,
    /// What the journal did.
    pub journal: Option<Arc<journal::Stats>>,
    /// Its id in leases.
    pub process: Option<Uuid>,
    /// What the analysis did.
    pub assembly: Option<Arc<assembly::Stats>>,
    /// What the review did.
    pub review: Option<Arc<review::Stats>>,
    /// What was sent to channels.
    pub alerts: Option<Arc<collector::alert::Stats>>,
    /// What was removed, kept and measured.
    pub housekeeping: Option<Arc<housekeeping::Stats>>,
    /// The private Postgres' disk.
    pub disk: Option<Arc<DiskGuard>>,
    /// How the private Postgres is.
    pub postgres: Option<watch::Receiver<PostgresState>>,
    /// How often it was started again.
    pub postgres_restarts: AtomicU64,
    /// Since when this process runs.
    pub started_at: SystemTime,
    /// Cancelled when this process takes nothing more.
    pub stopping: CancellationToken,
    notes: Mutex<VecDeque<Note>>,
}

/// Counters at one moment.
#[derive(Clone, Copy)]
struct Note {
    at: Instant,
    accepted: [u64; Via::ALL.len()],
    refused: u64,
}

/// What came in a second, on the average of the last minute.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Spans by the way they came, in the order of [`Via::ALL`].
    pub spans: [f64; Via::ALL.len()],
    /// Requests refused whole.
    pub refused: f64,
}

impl Vitals {
    /// Of a process that does nothing yet.
    pub fn new(store: Store, working_store: Store) -> Vitals {
        let start = Note {
            at: Instant::now(),
            accepted: Default::default(),
            refused: 0,
        };
        Vitals {
            store,
            working_store,
            receiver: None,
            journal: None,
            process: None,
            assembly: None,
            review: None,
            alerts: None,
            housekeeping: None,
            disk: None,
            postgres: None,
            postgres_restarts: AtomicU64::new(0),
            started_at: SystemTime::now(),
            stopping: CancellationToken::new(),
            notes: Mutex::new(VecDeque::from([start])),
        }
    }

    /// Notes counters and Postgres' restarts until the process stops.
    pub async fn watch(self: Arc<Self>) {
        let mut postgres = self.postgres.clone();
        let mut is_up = true;
        let mut every = tokio::time::interval(NOTE_EVERY);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = every.tick() => self.note(),
                Some(state) = changed(&mut postgres) => {
                    let up = matches!(state, PostgresState::Up { .. });
                    if up && !is_up {
                        self.postgres_restarts.fetch_add(1, Relaxed);
                    }
                    is_up = up;
                }
            }
        }
    }

    fn note(&self) {
        let now = self.counters();
        let mut notes = self.notes.lock().unwrap_or_else(|it| it.into_inner());
        if notes.len() >= NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back(now);
    }

    fn counters(&self) -> Note {
        let snapshot = self.receiver.as_ref().map(|it| it.snapshot());
        Note {
            at: Instant::now(),
            accepted: snapshot
                .as_ref()
                .map(|it| it.accepted.map(|(_, counts)| counts.spans))
                .unwrap_or_default(),
            refused: snapshot
                .map(|it| it.refused_requests.iter().map(|it| it.1).sum())
                .unwrap_or_default(),
        }
    }

    /// What came in a second, over the last minute or since the start.
    pub fn rates(&self) -> Rates {
        let now = self.counters();
        let notes = self.notes.lock().unwrap_or_else(|it| it.into_inner());
        let Some(then) = notes.front() else {
            return Rates::default();
        };
        // Never less than a second: the first spans after the start are no flood.
        let seconds = (now.at - then.at).as_secs_f64().max(1.0);
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Rates {
            spans: std::array::from_fn(|at| per_second(now.accepted[at], then.accepted[at])),
            refused: per_second(now.refused, then.refused),
        }
    }

    /// Only people read: a replica is good enough for them.
    fn reads_only(&self) -> bool {
        self.journal.is_none() && self.assembly.is_none()
    }

    /// The way to the database that is written to.
    fn writing_store(&self) -> &Store {
        match self.store.is_replica() {
            true => &self.working_store,
            false => &self.store,
        }
    }

    /// How the whole is, or why the database does not tell.
    ///
    /// # Errors
    /// The database's words, for people.
    pub async fn overview(&self) -> Result<Overview, String> {
        in_time(async {
            if !self.reads_only() && !self.writing_store().is_writable().await? {
                return Ok(Err("it is read-only".to_owned()));
            }
            Ok(Ok(self.store.overview().await?))
        })
        .await?
    }

    /// How much is stored, or why the database does not tell.
    ///
    /// # Errors
    /// The database's words, for people.
    pub async fn storage(&self) -> Result<Storage, String> {
        in_time(self.store.storage()).await
    }

    /// Why this process cannot do its work right now.
    ///
    /// # Errors
    /// It stops, or the database is away.
    pub async fn ready(&self) -> Result<(), String> {
        if self.stopping.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        if self.journal.as_ref().is_some_and(|it| !it.is_ready()) {
            return Err("the database cannot be written to".to_owned());
        }
        match in_time(self.writing_store().is_writable()).await {
            Ok(true) => Ok(()),
            Ok(false) if self.reads_only() => Ok(()),
            Ok(false) => Err("the database is read-only".to_owned()),
            Err(problem) => Err(format!("the database does not answer: {problem}")),
        }
    }
}

/// The next state of the private Postgres; never, if there is none.
async fn changed(postgres: &mut Option<watch::Receiver<PostgresState>>) -> Option<PostgresState> {
    let receiver = postgres.as_mut()?;
    if receiver.changed().await.is_err() {
        // Its watcher has ended; so has everything soon.
        *postgres = None;
        return None;
    }
    Some(receiver.borrow_and_update().clone())
}

async fn in_time<T>(
    asked: impl Future<Output = Result<T, collector::store::StoreError>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
