//! Runs a program of Postgres' as the right user, so that it ends when we do.
//!
//! The one place with `unsafe`: two system calls between fork and exec.

#![allow(unsafe_code)]

use super::account::Account;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What of our environment Postgres may see: where programs and libraries are. Everything else, `PGDATA`,
/// `PGOPTIONS` and locales above all, would change what it does.
const ENVIRONMENT: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"];

/// A command that runs as `account`, in a session of its own (Ctrl-C in our terminal is ours to handle), with nothing
/// on standard input, and that the kernel interrupts (SIGINT: a fast, clean shutdown) when the *thread* that spawns it
/// ends, however it ends. So spawn it from a thread that lives as long as it should.
///
/// The death signal exists on Linux only; elsewhere the next start stops what was left ([`super::stale`]).
pub(super) fn command(program: impl AsRef<OsStr>, account: &Account) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    command.envs(
        ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    if account.switch {
        // std sets the group, drops all supplementary groups (Postgres needs none), sets the user,
        // and only then runs `pre_exec`: a change of user clears the death signal.
        command.gid(account.gid.as_raw()).uid(account.uid.as_raw());
    }
    let parent = nix::unistd::getpid();
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed. It makes the system
    // calls setsid, prctl and getppid and builds an io::Error from an errno; nothing allocates, locks or panics.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            die_with(parent)
        });
    }
    command
}

#[cfg(target_os = "linux")]
fn die_with(parent: nix::unistd::Pid) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGINT)?;
    // The parent may have died before the line above: then nobody sends the signal any more.
    if nix::unistd::getppid() == parent {
        Ok(())
    } else {
        Err(nix::Error::ESRCH.into())
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: nix::unistd::Pid) -> std::io::Result<()> {
    Ok(())
}
