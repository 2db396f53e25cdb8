//! A culprit process that plays some of the roles on an external database.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::culprit::command;
use super::http;

/// A running `culprit serve`; killed when dropped.
pub struct Process {
    child: Child,
    /// `http://127.0.0.1:…` of OTLP/gRPC; empty if it does not collect.
    pub grpc: String,
    /// The same of the UI.
    pub ui: String,
}

impl Process {
    /// Starts a process with these roles and more arguments, and waits until it is ready.
    pub async fn start(roles: &[&str], more: &[&str]) -> Process {
        let mut command = tokio::process::Command::from(command(&["serve"]));
        command.args(["--listen-grpc=127.0.0.1:0", "--listen-http=127.0.0.1:0"]);
        command.args(["--listen-ui=127.0.0.1:0", "--role", &roles.join(",")]);
        let mut child = command
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let expected =
            2 * usize::from(roles.contains(&"collector")) + usize::from(roles.contains(&"web"));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (mut grpc, mut ui) = (String::new(), String::new());
        let (mut ready, mut addresses) = (false, 0);
        while !ready || addresses < expected {
            let line = lines
                .next_line()
                .await
                .expect("text")
                .unwrap_or_else(|| panic!("culprit as {roles:?} ended before it was ready"));
            ready |= line.starts_with("culprit is ready");
            if let Some(at) = line.find("http://") {
                addresses += 1;
                let address = line[at..].trim().to_owned();
                match line.trim_start() {
                    line if line.starts_with("UI") => ui = address,
                    line if line.starts_with("OTLP/gRPC") => grpc = address,
                    _ => {}
                }
            }
        }
        // Keep reading, or the process blocks when it says more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Process { child, grpc, ui }
    }

    /// `kill -9`: no chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// SIGTERM; whether it ended with success.
    pub async fn terminate(mut self) -> bool {
        let pid = Pid::from_raw(self.child.id().expect("it runs") as i32);
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.child.wait().await.expect("it ends").success()
    }

    /// A GET of the UI or API; panics unless it answers 200.
    pub async fn get(&self, path: &str) -> String {
        let (status, body) = http::get(&format!("{}{path}", self.ui)).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Waits until everything in the journal is analysed.
    pub async fn settle(&self) {
        super::eventually("the journal is empty", async || {
            let status: serde_json::Value =
                serde_json::from_str(&self.get("/api/v1/status").await).expect("JSON");
            (status["journal"]["rows"] == 0).then_some(())
        })
        .await;
    }

    /// The ids of a trace's spans; panics if one is there twice.
    pub async fn span_ids(&self, trace_id: &str) -> HashSet<String> {
        let body = self.get(&format!("/api/v1/traces/{trace_id}")).await;
        let trace: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
        let mut ids = HashSet::new();
        for resource_spans in list(&trace["resourceSpans"]) {
            for scope_spans in list(&resource_spans["scopeSpans"]) {
                for span in list(&scope_spans["spans"]) {
                    let id = span["spanId"].as_str().expect("an id").to_owned();
                    assert!(ids.insert(id.clone()), "span {id} is stored twice");
                }
            }
        }
        ids
    }
}

/// Runs another subcommand, or one that is expected to end, to its end.
pub fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary starts")
}

/// What a process said before it ended in an error.
pub fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// `culprit verify` finds no difference.
pub fn verify(arguments: &[&str]) {
    let output = run(&[&["verify"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "verify: {text}\n{errors}");
    assert!(text.contains("difference 0"), "{text}");
}

/// Ends a process and removes a directory after these tests have ended, however that came: nobody drops what
/// all tests share. A shell waits for it, because only the kernel is sure to see the end.
pub fn clear_after_our_end(pid: u32, directory: &std::path::Path) {
    use std::os::unix::process::CommandExt;
    const WAIT_AND_CLEAR: &str = r#"
        cat >/dev/null
        kill "$0" 2>/dev/null
        tries=300
        while [ $tries -gt 0 ] && kill -0 "$0" 2>/dev/null; do
            sleep 0.1
            tries=$((tries - 1))
        done
        rm -rf "$1"
    "#;
    let shell = std::process::Command::new("/bin/sh")
        .args(["-c", WAIT_AND_CLEAR, &pid.to_string()])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C ends us, and not the one who cleans up after us.
        .process_group(0)
        .spawn()
        .expect("a shell");
    // The pipe closes when we end, and no sooner.
    std::mem::forget(shell);
}
