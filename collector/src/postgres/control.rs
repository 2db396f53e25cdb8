//! What the thread that watches Postgres and its owner tell each other: the state, and the wish to stop.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How the private Postgres is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Not up yet, for the first time.
    Starting,
    /// Takes connections.
    Up {
        /// The postmaster's process id.
        pid: u32,
    },
    /// Ended unexpectedly; it is being started again.
    Down {
        /// How it ended.
        reason: String,
    },
    /// Stopped because we wanted it.
    Stopped,
}

/// Shared by the owner and the watching thread.
#[derive(Debug)]
pub(super) struct Control {
    state: watch::Sender<State>,
    inner: Mutex<Inner>,
    stop_wanted: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    stopping: bool,
    /// The running postmaster; none once it has ended, *before* it is reaped, so a signal never hits a stranger.
    pid: Option<u32>,
}

impl Control {
    pub fn new() -> Self {
        Self {
            state: watch::Sender::new(State::Starting),
            inner: Mutex::default(),
            stop_wanted: Condvar::new(),
        }
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A postmaster runs. If a stop was asked for meanwhile it gets the signal now.
    pub fn launched(&self, pid: u32) {
        let mut inner = self.lock();
        inner.pid = Some(pid);
        if inner.stopping {
            send(&inner, Signal::SIGINT);
        }
    }

    /// It has ended.
    pub fn ended(&self) {
        self.lock().pid = None;
    }

    /// Whether a stop was asked for.
    pub fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Asks for a fast shutdown, now and for good.
    pub fn stop(&self) {
        let mut inner = self.lock();
        if !inner.stopping {
            inner.stopping = true;
            send(&inner, Signal::SIGINT);
        }
        self.stop_wanted.notify_all();
    }

    /// A fast shutdown of this run only.
    pub fn interrupt(&self) {
        send(&self.lock(), Signal::SIGINT);
    }

    /// An end without a checkpoint: the next start replays the WAL.
    pub fn quit(&self) {
        send(&self.lock(), Signal::SIGQUIT);
    }

    /// Sleeps, but not beyond the wish to stop; true if that has come.
    pub fn sleep(&self, time: Duration) -> bool {
        let not_yet = |inner: &mut Inner| !inner.stopping;
        let waited = self
            .stop_wanted
            .wait_timeout_while(self.lock(), time, not_yet);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.stopping
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(inner: &Inner, signal: Signal) {
    if let Some(pid) = inner.pid
        && let Err(error) = kill(Pid::from_raw(pid as i32), signal)
    {
        tracing::warn!("could not send {signal} to PostgreSQL (pid {pid}): {error}");
    }
}
