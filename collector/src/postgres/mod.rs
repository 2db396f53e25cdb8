//! The private Postgres: found, created, started, watched and stopped by us, and reachable through
//! a Unix socket only.
//!
//! find → create → clear what an earlier server left → start → wait → watch. The watching is a
//! thread of its own, because the kernel ties a child's death signal to the thread that made it.

mod account;
mod binaries;
mod cluster;
mod error;
mod log;
mod place;
mod settings;
mod spawn;
mod stale;
mod watch;

use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::StartError;
pub use place::default_state_dir;
pub use watch::State;

use watch::{Server, Watch};

/// What the private Postgres keeps in memory for data, MB, unless told otherwise.
const SHARED_BUFFERS_MB: u32 = 256;

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
#[derive(Debug)]
pub struct ManagedPostgres {
    watch: Watch,
    socket_dir: PathBuf,
    /// Held as long as the server may live.
    _place: Arc<place::Place>,
}

impl ManagedPostgres {
    /// Starts the private Postgres, creating its cluster if there is none. Returns when it answers;
    /// after a crash that can take as long as the recovery, which is reported on standard error.
    ///
    /// # Errors
    /// What is missing or in the way, and what to do about it.
    pub async fn start(options: Options) -> Result<ManagedPostgres, StartError> {
        let preparing = tokio::task::spawn_blocking(move || prepare(&options));
        let (server, place) = preparing.await.map_err(|_| StartError::Interrupted)??;
        let socket_dir = place.socket_dir.clone();
        let watch = Watch::start(server, connect_options(&socket_dir, "postgres")).await?;
        Ok(ManagedPostgres {
            watch,
            socket_dir,
            _place: place,
        })
    }

    /// How to connect to one of its databases.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.socket_dir, database)
    }

    /// Whether it runs right now.
    pub fn state(&self) -> State {
        self.watch.state()
    }

    /// The postmaster's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.watch.pid()
    }

    /// Stops it: connections are cut, a checkpoint is written.
    pub async fn stop(self) {
        self.watch.stop().await;
    }
}

/// Everything up to the start itself.
fn prepare(options: &Options) -> Result<(Server, Arc<place::Place>), StartError> {
    let account = account::choose(options.user.as_deref())?;
    let place = Arc::new(place::open(&options.state_dir, &account)?);
    let existing = cluster::existing(&place)?;
    let wanted = existing
        .as_ref()
        .map(|(major, dir)| (*major, dir.as_path()));
    let binaries = match &options.bin_dir {
        Some(dir) => binaries::in_dir(dir, wanted)?,
        None => binaries::Search::of_this_system().find(wanted)?,
    };
    let data_dir = match &existing {
        Some((_, dir)) => dir.clone(),
        None => cluster::create(&place, &binaries, &account, options.ephemeral)?,
    };
    cluster::check_owner(&data_dir, &account)?;
    stale::clear(&data_dir, &place.socket_dir, &report)?;
    let settings = settings::Settings {
        major: binaries.major,
        shared_buffers_mb: options.shared_buffers_mb,
        lz4: settings::has_lz4(&binaries.postgres(), binaries.major, &data_dir),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        ephemeral: options.ephemeral,
    };
    settings::write(&settings, &data_dir, &place, &account)?;
    let server = Server {
        program: binaries.postgres(),
        account,
        data_dir,
        socket_dir: place.socket_dir.clone(),
    };
    Ok((server, place))
}

/// Progress of something that takes long, for whoever waits.
fn report(text: &str) {
    eprintln!("culprit: {text}");
}

fn connect_options(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(place::PORT)
        .username(cluster::ROLE)
        .database(database)
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
