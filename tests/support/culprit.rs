//! A culprit process.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::http;

/// A running `culprit serve`; killed when dropped. Its data directory outlives it for as long as
/// somebody holds it.
pub struct Culprit {
    child: Child,
    data: PathBuf,
    /// `http://127.0.0.1:…` of OTLP/gRPC.
    pub grpc: String,
    /// The same of OTLP/HTTP.
    pub http: String,
    /// The same of the UI.
    pub ui: String,
}

/// An empty data directory that Postgres' user can reach; removed when dropped.
pub fn data_directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("culprit-test-")
        .tempdir()
        .expect("a temporary directory")
}

/// The program, untouched by the environment's database.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culprit"));
    command
        .args(arguments)
        .env_remove("CULPRIT_DATABASE_URL")
        .env("CULPRIT_LOG", "warn");
    command
}

impl Culprit {
    /// Starts `culprit serve` with more arguments, and waits until it listens.
    pub async fn serve(data: &std::path::Path, more: &[&str]) -> Culprit {
        let mut command = tokio::process::Command::from(command(&[
            "serve",
            "--listen-grpc=127.0.0.1:0",
            "--listen-http=127.0.0.1:0",
            "--listen-ui=127.0.0.1:0",
        ]));
        let child = command
            .arg("--data-dir")
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Culprit::listening(child, data.to_owned()).await
    }

    async fn listening(mut child: Child, data: PathBuf) -> Culprit {
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut addresses: Vec<String> = Vec::new();
        while addresses.len() < 3 {
            let line = lines
                .next_line()
                .await
                .expect("text")
                .expect("culprit ended before it listened");
            if let Some(at) = line.find("http://") {
                addresses.push(line[at..].trim().to_owned());
            }
        }
        // Keep reading, or the process blocks when it says more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let [ui, grpc, http] = addresses.try_into().expect("three addresses");
        Culprit {
            child,
            data,
            grpc,
            http,
            ui,
        }
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it runs") as i32)
    }

    /// The most memory that the process has had at once (not its Postgres), bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB"));
        let kib: u64 = kib.expect("a peak").parse().expect("a number");
        kib << 10
    }

    /// How long the process has computed (not its Postgres).
    pub fn processor_time(&self) -> std::time::Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(path).expect("it runs");
        // Behind the name, which may hold anything: user and system time are the 12th and 13th.
        let fields = stat.rsplit(')').next().expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|it| it.parse::<u64>().expect("ticks")).sum();
        // Linux counts hundredths of a second for whoever asks.
        std::time::Duration::from_millis(ticks * 10)
    }

    /// The postmaster's id, unless there is none right now.
    pub fn running_postmaster(&self) -> Option<Pid> {
        let directories = std::fs::read_dir(&self.data).expect("the data directory");
        let mut files = directories
            .flatten()
            .map(|it| it.path().join("postmaster.pid"));
        let text = files.find_map(|it| std::fs::read_to_string(it).ok())?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        Some(Pid::from_raw(pid))
    }

    /// `kill -9` of Postgres, as soon as there is one.
    pub async fn kill_postgres(&self) {
        super::eventually("a Postgres to kill", async || {
            kill(self.running_postmaster()?, Signal::SIGKILL).ok()
        })
        .await;
    }

    /// `kill -9`: no chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// SIGTERM; whether it ended with success.
    pub async fn terminate(mut self) -> bool {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        self.child.wait().await.expect("it ends").success()
    }

    /// A GET of the UI or API; panics unless it answers 200.
    pub async fn get(&self, path: &str) -> String {
        let (status, body) = http::get(&format!("{}{path}", self.ui)).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// A trace as OTLP/JSON, once it can be read.
    pub async fn trace(&self, trace_id: &str) -> serde_json::Value {
        let url = format!("{}/api/v1/traces/{trace_id}", self.ui);
        super::eventually(&format!("trace {trace_id}"), async || {
            let (status, body) = http::get(&url).await;
            (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
        })
        .await
    }
}

/// Runs another subcommand to its end on a data directory.
pub fn run(arguments: &[&str], data: &std::path::Path) -> Output {
    command(arguments)
        .arg("--data-dir")
        .arg(data)
        .output()
        .expect("the binary starts")
}

/// `culprit verify` finds no difference; returns what it printed.
pub fn verify(data: &std::path::Path) -> String {
    let output = run(&["verify"], data);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "verify: {text}\n{errors}");
    assert!(text.contains("difference 0"), "{text}");
    text
}
