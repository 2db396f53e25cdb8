//! Keeps the server running: starts it, starts it again when it dies, and stops it.
//!
//! ```text
//! thread   spawn ── wait ── died: pause ── spawn ── wait ── stop asked: wait for the end
//! callers       ready ────────┤ down      ├─── ready
//! ```

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::account::Account;
use super::error::StartError;
use super::log::LogTail;
use super::{report, spawn, stale};

/// Without any sign of life for this long a start has failed. A recovery says something every five
/// seconds (Postgres 15 and later) and may take as long as it takes.
const SILENT_MAX: Duration = Duration::from_secs(180);

/// How often a starting server is asked whether it answers.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// How often a long start is reported.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// The first pause before a server that died is started again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// Deaths within a minute after which it is left dead: something is wrong that a start cannot mend.
const DEATHS_PER_MINUTE_MAX: usize = 5;

/// How long a fast shutdown (it writes a checkpoint) may take before Postgres is told to skip that.
/// It is never killed: that leaves shared memory and orphans.
const SHUTDOWN_AFTER: Duration = Duration::from_secs(60);

/// How often the watching thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// The `postgres` program.
    pub program: PathBuf,
    /// Whom it runs as.
    pub account: Account,
    /// Its data.
    pub data_dir: PathBuf,
    /// Where its socket is.
    pub socket_dir: PathBuf,
}

/// How the server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its process runs.
    Running,
    /// It died and is started again.
    Restarting,
    /// It died too often and is left dead.
    GivenUp,
    /// It was stopped.
    Stopped,
}

/// The watching thread's handle. Dropping it stops the server without waiting for the end.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
}

#[derive(Debug)]
struct Shared {
    /// 0: it does not run.
    pid: AtomicU32,
    stop: AtomicU8,
    log: Mutex<Option<LogTail>>,
}

impl Watch {
    /// Starts the server and returns when it answers.
    pub async fn start(server: Server, ask: PgConnectOptions) -> Result<Watch, StartError> {
        let shared = Arc::new(Shared {
            pid: AtomicU32::new(0),
            stop: AtomicU8::new(0),
            log: Mutex::new(None),
        });
        let (state_to, state) = watch::channel(State::Running);
        let (ended_to, ended) = tokio::sync::oneshot::channel();
        let thread = Keeper {
            server: server.clone(),
            shared: shared.clone(),
            state: state_to,
        };
        std::thread::Builder::new()
            .name("postgres".into())
            .spawn(move || thread.run(ended_to))
            .map_err(StartError::io("start a thread for", &server.program))?;
        let watch = Watch { shared, state };
        watch.wait_until_it_answers(&server, &ask, ended).await?;
        Ok(watch)
    }

    /// `ended` tells of a first server that ends before it answered.
    async fn wait_until_it_answers(
        &self,
        server: &Server,
        ask: &PgConnectOptions,
        mut ended: tokio::sync::oneshot::Receiver<Result<ExitStatus, StartError>>,
    ) -> Result<(), StartError> {
        let mut reported = Instant::now();
        loop {
            match PgConnection::connect_with(ask).await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                // Refused for good, and not only because it still starts.
                Err(sqlx::Error::Database(error)) if error.code().as_deref() != Some("57P03") => {
                    let source = sqlx::Error::Database(error);
                    return Err(StartError::NoAnswer {
                        socket_dir: server.socket_dir.clone(),
                        source,
                    });
                }
                Err(_) => {}
            }
            if let Ok(result) = ended.try_recv() {
                let (data_dir, log) = (server.data_dir.clone(), self.log_text());
                return Err(result.map_or_else(
                    |error| error,
                    |status| StartError::Exited {
                        data_dir,
                        status,
                        log,
                    },
                ));
            }
            self.report_long_start(&mut reported, server)?;
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn report_long_start(&self, reported: &mut Instant, server: &Server) -> Result<(), StartError> {
        let Some(log) = self.shared.log() else {
            return Ok(());
        };
        let silent = log.last_at().elapsed();
        if silent > SILENT_MAX {
            return Err(StartError::Silent {
                data_dir: server.data_dir.clone(),
                pid: self.pid().unwrap_or_default(),
                silent_s: silent.as_secs(),
                log: log.text(),
            });
        }
        if reported.elapsed() >= REPORT_EVERY {
            *reported = Instant::now();
            let said = log.last_message().unwrap_or_default();
            report(&format!("PostgreSQL is starting: {said}"));
        }
        Ok(())
    }

    fn log_text(&self) -> String {
        self.shared
            .log()
            .map_or_else(|| "(nothing)".to_owned(), |log| log.text())
    }

    /// How the server is.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// The postmaster's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(mut self) {
        self.shared.ask_to_stop();
        let over = |state: &State| matches!(state, State::Stopped | State::GivenUp);
        // The thread ending without a word means the same.
        let _ = self.state.wait_for(over).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ask_to_stop();
    }
}

impl Shared {
    fn ask_to_stop(&self) {
        self.stop.store(1, Ordering::Release);
    }

    fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire) != 0
    }

    fn log(&self) -> Option<LogTail> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the thread holds.
struct Keeper {
    server: Server,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
}

impl Keeper {
    /// Until it is stopped or given up. The first end, if nobody asked for it, goes to `first_end`:
    /// while it starts for the first time, that is the start's error.
    fn run(self, first_end: tokio::sync::oneshot::Sender<Result<ExitStatus, StartError>>) {
        let mut first_end = Some(first_end);
        let mut deaths: VecDeque<Instant> = VecDeque::new();
        let mut pause = PAUSE_FIRST;
        loop {
            let began = Instant::now();
            let ended = self.run_once();
            if self.shared.is_asked_to_stop() {
                self.state.send_replace(State::Stopped);
                return;
            }
            if let Ok(status) = &ended {
                tracing::error!(%status, "PostgreSQL has died; it is started again");
            }
            if let Some(first_end) = first_end.take() {
                // Nobody listens any more once it has answered.
                let was_starting = first_end.send(ended).is_ok();
                if was_starting {
                    self.state.send_replace(State::Stopped);
                    return;
                }
            }
            if began.elapsed() > PAUSE_LAST {
                pause = PAUSE_FIRST;
            }
            deaths.push_back(Instant::now());
            deaths.retain(|death| death.elapsed() < Duration::from_secs(60));
            if deaths.len() >= DEATHS_PER_MINUTE_MAX {
                tracing::error!(
                    "PostgreSQL died {} times within a minute; it is left alone",
                    deaths.len()
                );
                self.state.send_replace(State::GivenUp);
                return;
            }
            self.state.send_replace(State::Restarting);
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// One life of the server.
    fn run_once(&self) -> Result<ExitStatus, StartError> {
        let server = &self.server;
        stale::clear(&server.data_dir, &server.socket_dir, &report)?;
        let mut child = spawn::command(&server.program, &server.account)
            .arg("-D")
            .arg(&server.data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(StartError::io("run", &server.program))?;
        if let Some(stderr) = child.stderr.take() {
            let log = LogTail::follow(stderr)
                .map_err(StartError::io("read the log of", &server.program))?;
            *self
                .shared
                .log
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(log);
        }
        self.shared.pid.store(child.id(), Ordering::Release);
        self.state.send_replace(State::Running);
        let status = self.wait(&mut child);
        self.shared.pid.store(0, Ordering::Release);
        status
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus, StartError> {
        let mut asked: Option<Instant> = None;
        let mut insisted = false;
        loop {
            let ended = child
                .try_wait()
                .map_err(StartError::io("wait for", &self.server.program))?;
            if let Some(status) = ended {
                return Ok(status);
            }
            if self.shared.is_asked_to_stop() && asked.is_none() {
                send(child, Signal::SIGINT);
                asked = Some(Instant::now());
            }
            if !insisted && asked.is_some_and(|asked| asked.elapsed() > SHUTDOWN_AFTER) {
                tracing::warn!("PostgreSQL does not stop; it is told to skip the checkpoint");
                send(child, Signal::SIGQUIT);
                insisted = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn send(child: &Child, signal: Signal) {
    // It may just have ended, which is what we want.
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
}
