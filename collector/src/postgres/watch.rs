//! The thread that starts the server, watches it and starts it again, until it is stopped.
//!
//! ```text
//! prepare ── clear stale ── launch ── wait until ready ── wait for its end
//!                 ▲                                          │ nobody asked for it
//!                 └──────────────── pause ◄──────────────────┘
//! ```
//!
//! One thread from the first line to the last, because the kernel ties a child's death signal to
//! the thread that made it. It sleeps in the system while the server lives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

use super::account::Account;
use super::binaries::Binaries;
use super::control::{Control, State};
use super::crashes::Crashes;
use super::error::StartError;
use super::place::Place;
use super::server::{self, Server};
use super::{report, stale};

/// A cluster in its place: all that is needed to start its server, again and again. Holds the lock
/// of the state directory.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The state directory, ours alone.
    pub place: Place,
    /// Whom the server runs as.
    pub account: Account,
    /// Its programs.
    pub binaries: Binaries,
    /// Its data.
    pub data_dir: PathBuf,
}

/// Runs `prepare` and then the server on a thread of its own; returns the socket's directory when
/// the server is ready.
pub(super) async fn start(
    prepare: impl FnOnce() -> Result<Cluster, StartError> + Send + 'static,
    control: Arc<Control>,
) -> Result<PathBuf, StartError> {
    let (up, first_start) = oneshot::channel();
    std::thread::Builder::new()
        .name("postgres".to_owned())
        .spawn(move || run(prepare, &control, up))
        .map_err(StartError::io("start a thread for", "postgres"))?;
    first_start.await.unwrap_or(Err(StartError::Interrupted))
}

fn run(
    prepare: impl FnOnce() -> Result<Cluster, StartError>,
    control: &Control,
    up: oneshot::Sender<Result<PathBuf, StartError>>,
) {
    let started = prepare().and_then(|cluster| {
        let server = cluster.start(control)?;
        Ok((cluster, server))
    });
    match started {
        Ok((cluster, server)) => {
            control.set(State::Up { pid: server.pid() });
            // If nobody is there any more, a stop has been asked for, and `keep_up` sees that.
            let _ = up.send(Ok(cluster.place.socket_dir.clone()));
            keep_up(&cluster, server, control);
            // The lock goes first: who sees the state may start another one at once.
            drop(cluster);
            control.set(State::Stopped);
        }
        Err(error) => {
            control.set(State::Stopped);
            let _ = up.send(Err(error));
        }
    }
}

impl Cluster {
    /// From whatever an earlier server left to one that takes connections.
    fn start(&self, control: &Control) -> Result<Server, StartError> {
        stale::clear(&self.data_dir, &self.place.socket_dir, &report)?;
        let mut server = server::launch(&self.binaries, &self.data_dir, &self.account, control)?;
        match server.wait_until_ready(control, &report) {
            Ok(()) => Ok(server),
            Err(error) => {
                server.see_off(control);
                Err(error)
            }
        }
    }
}

/// Until a stop is asked for.
fn keep_up(cluster: &Cluster, mut server: Server, control: &Control) {
    let mut crashes = Crashes::default();
    loop {
        let reason = server.wait(control);
        if control.stopping() {
            return;
        }
        let Some(started) = start_again(cluster, reason, &mut crashes, control) else {
            return;
        };
        server = started;
        tracing::info!("PostgreSQL is up again (pid {})", server.pid());
        control.set(State::Up { pid: server.pid() });
    }
}

/// Pauses and tries until it runs; nothing if a stop is asked for meanwhile.
fn start_again(
    cluster: &Cluster,
    mut reason: String,
    crashes: &mut Crashes,
    control: &Control,
) -> Option<Server> {
    loop {
        let pause = crashes.pause_after(Instant::now());
        tracing::error!("PostgreSQL has died; it is started again in {pause:?}: {reason}");
        control.set(State::Down { reason });
        if control.sleep(pause) {
            return None;
        }
        match cluster.start(control) {
            Ok(server) => return Some(server),
            Err(_) if control.stopping() => return None,
            Err(error) => reason = error.to_string(),
        }
    }
}
