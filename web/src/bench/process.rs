//! culprit and its Postgres as processes: start, processor time, memory, stop.

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A culprit under measurement.
pub struct Culprit {
    child: Child,
    directory: PathBuf,
    /// Its OTLP/gRPC address, as a URL.
    pub grpc: String,
    /// Its OTLP/HTTP address, as a URL.
    pub http: String,
    /// Its UI's address, as a URL.
    pub ui: String,
}

/// What has been used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor seconds of culprit, user and system.
    pub culprit_cpu_s: f64,
    /// Processor seconds of all Postgres processes, ended ones included.
    pub postgres_cpu_s: f64,
    /// culprit's peak resident memory, MB.
    pub culprit_peak_mb: f64,
    /// Resident memory of the Postgres processes without what they share, MB, now.
    pub postgres_mb: f64,
}

impl Culprit {
    /// Starts this very program as `serve` on free ports, with `more` options.
    pub async fn start(directory: &Path, more: &[String]) -> anyhow::Result<Culprit> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "serve",
                "--listen-grpc",
                "127.0.0.1:0",
                "--listen-http",
                "127.0.0.1:0",
            ])
            .args(["--listen-ui", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .args(more)
            .env("CULPRIT_LOG", "warn")
            .env_remove("CULPRIT_DATABASE_URL")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("culprit cannot start itself")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let [mut ui, mut grpc] = [String::new(), String::new()];
        while let Some(line) = lines.next_line().await? {
            let address = |of: &str| line.split_once(of).map(|it| it.1.trim().to_owned());
            if let Some(address) = address("UI  ") {
                ui = address;
            }
            if let Some(address) = address("OTLP/gRPC") {
                grpc = address;
            }
            // The last one it tells.
            if let Some(http) = address("OTLP/HTTP") {
                // Keep reading, or the child blocks when it says more.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Culprit {
                    child,
                    directory: directory.to_owned(),
                    grpc,
                    http,
                    ui,
                });
            }
        }
        anyhow::bail!("culprit ended before it listened")
    }

    /// Processor time and memory until now.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id().context("culprit has ended")?;
        let postmaster = postmaster_pid(&self.directory)?;
        let own = stat(pid)?;
        let mut postgres_cpu_s = stat(postmaster)?.with_children_s;
        let mut postgres_mb = private_mb(postmaster);
        for child in children_of(postmaster) {
            postgres_cpu_s += stat(child).map_or(0.0, |it| it.own_s);
            postgres_mb += private_mb(child);
        }
        Ok(Usage {
            culprit_cpu_s: own.own_s,
            postgres_cpu_s,
            culprit_peak_mb: status_mb(pid, "VmHWM:"),
            postgres_mb,
        })
    }

    /// Stops it as a service manager would.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

/// The first line of `postmaster.pid` in the one `pg-…` directory.
fn postmaster_pid(directory: &Path) -> anyhow::Result<u32> {
    for entry in std::fs::read_dir(directory)?.flatten() {
        if let Ok(text) = std::fs::read_to_string(entry.path().join("postmaster.pid")) {
            return Ok(text.lines().next().unwrap_or_default().trim().parse()?);
        }
    }
    anyhow::bail!("no postmaster.pid below {}", directory.display())
}

struct Stat {
    own_s: f64,
    with_children_s: f64,
}

/// Fields 14 to 17 of /proc/PID/stat, see proc(5): utime, stime, cutime, cstime in clock ticks.
fn stat(pid: u32) -> anyhow::Result<Stat> {
    /// USER_HZ is 100 on every Linux that Rust runs on.
    const TICKS_PER_S: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold spaces and parentheses: fields count from behind it.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> f64 {
        fields
            .get(at - 3)
            .and_then(|it| it.parse().ok())
            .unwrap_or_default()
    };
    let own_s = (ticks(14) + ticks(15)) / TICKS_PER_S;
    Ok(Stat {
        own_s,
        with_children_s: own_s + (ticks(16) + ticks(17)) / TICKS_PER_S,
    })
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect()
}

fn status_mb(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap_or_default();
    let kb: f64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap_or_default();
    kb / 1024.0
}

fn private_mb(pid: u32) -> f64 {
    status_mb(pid, "RssAnon:")
}
