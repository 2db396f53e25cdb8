//! What an earlier Postgres of the same data left behind: processes that still work, and files that say so.
//!
//! Its pid file is not trusted: after a crash or in a new container that pid belongs to nobody or to somebody else.
//! What counts is which `postgres` processes have the data directory as their working directory. We hold the lock of
//! the state directory, so whatever still works there was orphaned by a kill -9 and may be asked to stop.

use super::error::StartError;
use super::place::PORT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long orphans without a postmaster may take to notice: they do within moments unless they are in the
/// middle of a long statement.
const ORPHANS_END_AFTER: Duration = Duration::from_secs(5);

/// How long a postmaster's fast shutdown (a checkpoint) may take before it is told to skip the checkpoint.
const SHUTDOWN_AFTER: Duration = Duration::from_secs(60);

/// How long anything may take after SIGQUIT. SIGKILL is never sent: it leaves shared memory and orphans.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

const POLL_EVERY: Duration = Duration::from_millis(10);
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Waits for earlier processes to end (and helps them), then removes the files they left.
pub(super) fn clear(
    data_dir: &Path,
    socket_dir: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), StartError> {
    wait_for_earlier_processes(data_dir, progress)?;
    for path in leftover_files(data_dir, socket_dir) {
        match fs::remove_file(&path) {
            Ok(()) => tracing::info!("removed {}, left by an earlier server", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StartError::io("remove", path)(error)),
        }
    }
    Ok(())
}

/// The pid file alone is not enough: a socket lock with a reused pid stops a start as well.
fn leftover_files(data_dir: &Path, socket_dir: &Path) -> [PathBuf; 3] {
    [
        data_dir.join("postmaster.pid"),
        socket_dir.join(format!(".s.PGSQL.{PORT}")),
        socket_dir.join(format!(".s.PGSQL.{PORT}.lock")),
    ]
}

fn wait_for_earlier_processes(data_dir: &Path, progress: &dyn Fn(&str)) -> Result<(), StartError> {
    let began = Instant::now();
    let mut reported = began;
    let mut step = Step::Wait;
    loop {
        let alive = processes(data_dir);
        if alive.is_empty() {
            return Ok(());
        }
        let waited = began.elapsed();
        let postmaster = postmaster_pid(data_dir).filter(|pid| alive.contains(pid));
        step = help(step, waited, postmaster, &alive);
        let last = if postmaster.is_some() {
            SHUTDOWN_AFTER
        } else {
            ORPHANS_END_AFTER
        };
        if waited > last + GIVE_UP_AFTER {
            return Err(StartError::OldServer {
                data_dir: data_dir.to_owned(),
                pids: alive,
                waited_s: waited.as_secs(),
            });
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            progress(&format!(
                "waiting for an earlier PostgreSQL to finish (pid {}, {} s)",
                postmaster.unwrap_or(alive[0]),
                waited.as_secs()
            ));
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// How far we have gone in asking.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Wait,
    AskedFast,
    AskedImmediate,
}

/// A postmaster is asked for a fast shutdown at once (the kernel usually has done so already), orphans end by
/// themselves; both are told to drop everything when their time is over.
fn help(step: Step, waited: Duration, postmaster: Option<i32>, alive: &[i32]) -> Step {
    match (step, postmaster) {
        (Step::Wait, Some(pid)) => {
            send(pid, Signal::SIGINT);
            Step::AskedFast
        }
        (Step::AskedFast, Some(pid)) if waited > SHUTDOWN_AFTER => {
            send(pid, Signal::SIGQUIT);
            Step::AskedImmediate
        }
        (Step::Wait | Step::AskedFast, None) if waited > ORPHANS_END_AFTER => {
            alive.iter().for_each(|&pid| send(pid, Signal::SIGQUIT));
            Step::AskedImmediate
        }
        _ => step,
    }
}

fn send(pid: i32, signal: Signal) {
    tracing::info!("sending {signal} to an earlier PostgreSQL process, pid {pid}");
    // It may just have ended, which is what we want.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The first line of `postmaster.pid`.
fn postmaster_pid(data_dir: &Path) -> Option<i32> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    text.lines()
        .next()?
        .trim()
        .parse()
        .ok()
        .filter(|&pid| pid > 1)
}

/// Every living `postgres` process that works in `data_dir`. Zombies have no working directory and do not count.
#[cfg(target_os = "linux")]
pub(super) fn processes(data_dir: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let works_here = |pid: &i32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == data_dir)
            && fs::read_to_string(proc.join("comm")).is_ok_and(|name| name.trim() == "postgres")
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(works_here)
        .collect()
}

/// Without `/proc` only the pid file can be asked, and whether its pid is a `postgres`.
#[cfg(not(target_os = "linux"))]
pub(super) fn processes(data_dir: &Path) -> Vec<i32> {
    let is_postgres = |pid: &i32| {
        let output = std::process::Command::new("ps")
            .args(["-o", "comm=", "-p", &pid.to_string()])
            .output();
        output.is_ok_and(|it| {
            String::from_utf8_lossy(&it.stdout)
                .trim()
                .ends_with("postgres")
        })
    };
    postmaster_pid(data_dir)
        .into_iter()
        .filter(is_postgres)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_names_a_stranger_is_removed_and_the_stranger_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = leftover_files(dir.path(), dir.path());
        // Ourselves: a living process that is not a Postgres of these data.
        files
            .iter()
            .for_each(|it| fs::write(it, format!("{}\n", std::process::id())).unwrap());
        clear(dir.path(), dir.path(), &|_| {}).unwrap();
        assert!(files.iter().all(|it| !it.exists()));
    }
}
