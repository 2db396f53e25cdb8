//! One run of the server: a direct child of ours, from its launch until it has ended.
//!
//! Not `pg_ctl`: as its parent we get its exit status at once, its standard error, and nobody reaps it but us.

use super::account::Account;
use super::binaries::Binaries;
use super::control::Control;
use super::error::StartError;
use super::log::LogTail;
use super::spawn;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a starting server may be silent when it has no WAL to replay.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How fast WAL is surely replayed: every further so many bytes allow a second more of silence.
const REPLAY_BYTES_PER_S: u64 = 16 << 20;

/// How long a server that did not become ready may take to go.
const SEE_OFF_MAX: Duration = Duration::from_secs(30);

/// How long the reader of the log gets to finish after the server's end.
const LAST_WORDS_AFTER: Duration = Duration::from_millis(50);

const POLL_EVERY: Duration = Duration::from_millis(3);
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Line of `postmaster.pid`, counted from 0, on which the postmaster says how far it is.
const STATUS_LINE: usize = 7;

/// A launched server.
pub(super) struct Server {
    child: Child,
    log: LogTail,
    data_dir: PathBuf,
}

/// Starts the server. Call it on a thread that lives as long as the server should (see [`spawn::command`]).
pub(super) fn launch(
    binaries: &Binaries,
    data_dir: &Path,
    account: &Account,
    control: &Control,
) -> Result<Server, StartError> {
    let mut command = spawn::command(binaries.postgres(), account);
    command
        .arg("-D")
        .arg(data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(StartError::io("run", binaries.postgres()))?;
    control.launched(child.id());
    let stderr = child.stderr.take().expect("standard error is piped");
    let log = LogTail::follow(stderr).map_err(StartError::io("read the log of", data_dir));
    let log = log.inspect_err(|_| control.interrupt())?;
    Ok(Server {
        child,
        log,
        data_dir: data_dir.to_owned(),
    })
}

impl Server {
    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it takes connections. Recovery after a crash may take minutes: as long as it lives and speaks
    /// (or has WAL enough to be busy with) it gets the time.
    pub fn wait_until_ready(
        &mut self,
        control: &Control,
        progress: &dyn Fn(&str),
    ) -> Result<(), StartError> {
        let began = Instant::now();
        let mut reported = began;
        let silence_max = silence_max(wal_bytes(&self.data_dir));
        loop {
            if let Some(status) = self.try_wait(control)? {
                return Err(self.ended(status, control));
            }
            if is_ready(&self.data_dir, self.pid()) {
                return Ok(());
            }
            let silent = self.log.last_at().elapsed();
            if silent > silence_max {
                return Err(self.silent_for(silent));
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                progress(&self.report(began.elapsed()));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Waits for its end, however long, and tells how it ended.
    pub fn wait(&mut self, control: &Control) -> String {
        wait_but_do_not_reap(self.pid());
        // From here on nobody sends it a signal: once reaped, its pid may become somebody else's.
        control.ended();
        match self.child.wait() {
            Ok(status) => format!("{status}\n{}", self.last_words()),
            Err(error) => error.to_string(),
        }
    }

    /// After a failed start: asks it to stop, if it still lives, and gives it some time. What is
    /// left even then is the next start's to wait for.
    pub fn see_off(&mut self, control: &Control) {
        control.interrupt();
        let began = Instant::now();
        while began.elapsed() < SEE_OFF_MAX && matches!(self.try_wait(control), Ok(None)) {
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn try_wait(&mut self, control: &Control) -> Result<Option<ExitStatus>, StartError> {
        let status = self
            .child
            .try_wait()
            .map_err(StartError::io("wait for", &self.data_dir))?;
        if status.is_some() {
            control.ended();
        }
        Ok(status)
    }

    /// The last of what it said. The end of it may still be on its way through the pipe.
    fn last_words(&self) -> String {
        std::thread::sleep(LAST_WORDS_AFTER);
        self.log.text()
    }

    fn ended(&self, status: ExitStatus, control: &Control) -> StartError {
        if control.stopping() {
            return StartError::Interrupted;
        }
        StartError::Exited {
            data_dir: self.data_dir.clone(),
            status,
            log: self.last_words(),
        }
    }

    fn silent_for(&self, silent: Duration) -> StartError {
        StartError::Silent {
            data_dir: self.data_dir.clone(),
            pid: self.pid(),
            silent_s: silent.as_secs(),
            log: self.log.text(),
        }
    }

    fn report(&self, since: Duration) -> String {
        let said = self.log.last_message().unwrap_or_default();
        format!("PostgreSQL is starting ({} s): {said}", since.as_secs())
    }
}

/// Whether the postmaster with this pid has written that it is ready.
fn is_ready(data_dir: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data_dir.join("postmaster.pid")) else {
        return false;
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(STATUS_LINE) == Some(&"ready")
}

fn silence_max(wal_bytes: u64) -> Duration {
    SILENCE_MAX + Duration::from_secs(wal_bytes / REPLAY_BYTES_PER_S)
}

/// Bytes in `pg_wal`: no more than that has to be replayed.
fn wal_bytes(data_dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(data_dir.join("pg_wal")) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|it| it.metadata().ok())
        .map(|it| it.len())
        .sum()
}

#[cfg(target_os = "linux")]
fn wait_but_do_not_reap(pid: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    let ended = || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    while ended() == Err(nix::Error::EINTR) {}
}

#[cfg(not(target_os = "linux"))]
fn wait_but_do_not_reap(_pid: u32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_to_replay_is_given_time() {
        assert_eq!(silence_max(0), Duration::from_secs(60));
        assert_eq!(silence_max(16 << 30), Duration::from_secs(60 + 1024));
    }

    #[test]
    fn ready_is_what_our_own_postmaster_says() {
        let dir = tempfile::tempdir().unwrap();
        let write = |status| {
            let text = format!(
                "42\n{0}\n1\n5432\n/run\n\n  1  2\n{status}\n",
                dir.path().display()
            );
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        };
        assert!(!is_ready(dir.path(), 42), "no file yet");
        write("starting");
        assert!(!is_ready(dir.path(), 42));
        write("ready   ");
        assert!(is_ready(dir.path(), 42));
        assert!(!is_ready(dir.path(), 43), "somebody else's");
    }
}
