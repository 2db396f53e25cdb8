//! The private Postgres: found, created, started, watched and stopped by us, and reachable through
//! a Unix socket only.
//!
//! find → create → clear what an earlier server left → start → wait → watch. The watching is a
//! thread of its own, because the kernel ties a child's death signal to the thread that made it.

mod account;
mod binaries;
mod cluster;
mod control;
mod crashes;
mod error;
mod log;
mod place;
mod server;
mod settings;
mod spawn;
mod stale;
mod sync;
mod watch;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use control::State;
pub use error::StartError;
pub use place::default_state_dir;

use account::Account;
use binaries::Binaries;
use control::Control;
use watch::Cluster;

/// What the private Postgres keeps in memory for data, MB, unless told otherwise.
const SHARED_BUFFERS_MB: u32 = 256;

/// How long a fast shutdown (it writes a checkpoint) may take before Postgres is told to skip that.
const SHUTDOWN_AFTER: Duration = Duration::from_secs(60);

/// How long to wait after that. It is never killed: that leaves shared memory and orphans.
const QUIT_AFTER: Duration = Duration::from_secs(30);

/// How the private Postgres is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the cluster, the socket and the lock are.
    pub state_dir: PathBuf,
    /// Where `initdb` and `postgres` are; searched for if not given.
    pub bin_dir: Option<PathBuf>,
    /// Whom Postgres runs as when we are root.
    pub user: Option<String>,
    /// Memory for data, MB.
    pub shared_buffers_mb: u32,
    /// Tests only: nothing has to survive, so nothing is synced.
    ephemeral: bool,
}

impl Options {
    /// The defaults, and `CULPRIT_PG_BIN` and `CULPRIT_PG_USER` if they are set.
    pub fn from_environment() -> Options {
        Options {
            state_dir: default_state_dir(),
            bin_dir: std::env::var_os("CULPRIT_PG_BIN").map(PathBuf::from),
            user: std::env::var("CULPRIT_PG_USER").ok(),
            shared_buffers_mb: SHARED_BUFFERS_MB,
            ephemeral: false,
        }
    }

    /// For tests: a cluster that need not survive, in `state_dir`.
    #[cfg(any(test, feature = "testing"))]
    pub fn ephemeral(state_dir: PathBuf) -> Options {
        Options {
            state_dir,
            ephemeral: true,
            shared_buffers_mb: 64,
            ..Options::from_environment()
        }
    }
}

/// A running private Postgres. It is restarted when it dies, and dies when this process does.
/// Dropping it asks the server to stop; [`ManagedPostgres::stop`] also waits for that.
#[derive(Debug)]
pub struct ManagedPostgres {
    control: Arc<Control>,
    socket_dir: PathBuf,
}

impl ManagedPostgres {
    /// Starts the private Postgres, creating its cluster if there is none. Returns when it answers;
    /// after a crash that can take as long as the recovery, which is reported on standard error.
    /// Dropping the future stops what has been started.
    ///
    /// # Errors
    /// What is missing or in the way, and what to do about it.
    pub async fn start(options: Options) -> Result<ManagedPostgres, StartError> {
        let mut postgres = ManagedPostgres {
            control: Arc::new(Control::new()),
            socket_dir: PathBuf::new(),
        };
        let starting = watch::start(move || prepare(&options), postgres.control.clone());
        postgres.socket_dir = starting.await?;
        postgres.check_that_it_answers().await?;
        Ok(postgres)
    }

    /// How to connect to one of its databases.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.socket_dir, database)
    }

    /// How it is right now.
    pub fn state(&self) -> State {
        self.control.subscribe().borrow().clone()
    }

    /// How it is, and every change of that.
    pub fn states(&self) -> tokio::sync::watch::Receiver<State> {
        self.control.subscribe()
    }

    /// The postmaster's process id while it takes connections.
    pub fn pid(&self) -> Option<u32> {
        match self.state() {
            State::Up { pid } => Some(pid),
            _ => None,
        }
    }

    /// Stops it: connections are cut, a checkpoint is written, and after a minute the checkpoint is
    /// skipped. What is committed stays committed either way.
    pub async fn stop(self) {
        let mut states = self.states();
        self.control.stop();
        if ended_within(SHUTDOWN_AFTER, &mut states).await {
            return;
        }
        tracing::warn!("PostgreSQL does not stop; it is told to skip the checkpoint");
        self.control.quit();
        if !ended_within(QUIT_AFTER, &mut states).await {
            tracing::error!("PostgreSQL does not stop and is left to the kernel's death signal");
        }
    }

    async fn check_that_it_answers(&self) -> Result<(), StartError> {
        let ask = async {
            let mut connection = self.connect_options("postgres").connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        ask.await.map_err(|source| StartError::NoAnswer {
            socket_dir: self.socket_dir.clone(),
            source,
        })
    }
}

impl Drop for ManagedPostgres {
    fn drop(&mut self) {
        self.control.stop();
    }
}

async fn ended_within(time: Duration, states: &mut tokio::sync::watch::Receiver<State>) -> bool {
    let ended = |state: &State| matches!(state, State::Stopped);
    tokio::time::timeout(time, states.wait_for(ended))
        .await
        .is_ok()
}

/// Everything up to the start itself: find, create, set up.
fn prepare(options: &Options) -> Result<Cluster, StartError> {
    let account = account::choose(options.user.as_deref())?;
    let place = place::open(&options.state_dir, &account)?;
    let existing = cluster::existing(&place)?;
    let binaries = find(options, existing.as_ref(), &account)?;
    let data_dir = match existing {
        Some((_, data_dir)) => data_dir,
        None => cluster::create(&place, &binaries, &account, options.ephemeral)?,
    };
    cluster::check_owner(&data_dir, &account)?;
    let settings = settings::Settings {
        major: binaries.major,
        shared_buffers_mb: options.shared_buffers_mb,
        lz4: settings::has_lz4(&binaries.postgres(), binaries.major, &data_dir),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        ephemeral: options.ephemeral,
    };
    settings::write(&settings, &data_dir, &place, &account)?;
    Ok(Cluster {
        place,
        account,
        binaries,
        data_dir,
    })
}

/// The programs: of the data's own version if there are data.
fn find(
    options: &Options,
    existing: Option<&(u32, PathBuf)>,
    account: &Account,
) -> Result<Binaries, StartError> {
    let wanted = existing.map(|(major, data_dir)| (*major, data_dir.as_path()));
    let binaries = match &options.bin_dir {
        Some(dir) => binaries::in_dir(dir, wanted)?,
        None => binaries::Search::of_this_system().find(wanted)?,
    };
    let remedy = "Install PostgreSQL where everybody gets to it";
    place::check_reachable(&binaries.dir, account, remedy)?;
    Ok(binaries)
}

/// Progress of something that takes long, for whoever waits.
fn report(text: &str) {
    eprintln!("culprit: {text}");
}

/// What `PGSSLMODE`, `PGAPPNAME` and their like say is about other databases.
fn connect_options(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(place::PORT)
        .username(cluster::ROLE)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .application_name("culprit")
}

/// How to connect to the private Postgres that another process of ours runs in `state_dir`.
///
/// # Errors
/// There is no such directory, or nobody to run Postgres as.
pub fn connect_options_in(
    state_dir: &Path,
    database: &str,
) -> Result<PgConnectOptions, StartError> {
    let account = account::choose(Options::from_environment().user.as_deref())?;
    let socket_dir = place::socket_dir_of(state_dir, &account)?;
    Ok(connect_options(&socket_dir, database))
}

#[cfg(test)]
mod tests;
