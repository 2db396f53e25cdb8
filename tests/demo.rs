//! `culprit demo`: the planted culprits are found and nothing else is accused; a version is deployed and
//! taken back, and what culprit says of it arrives.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::culprit::{command, data_directory, run, verify};
use crate::support::{eventually, http};

/// Free ports: other tests run beside these.
const LISTEN: [&str; 3] = [
    "--listen-grpc=127.0.0.1:0",
    "--listen-http=127.0.0.1:0",
    "--listen-ui=127.0.0.1:0",
];

#[test]
fn the_demo_exhibits_what_was_planted() {
    let data = data_directory();
    let arguments = [&["demo", "--once"], &LISTEN[..]].concat();
    let output = run(&arguments, data.path());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let findings: Vec<&str> = text.lines().filter(|it| it.contains(" · ")).collect();
    let has = |what: &str, endpoint: &str| {
        assert!(
            findings
                .iter()
                .any(|it| it.contains(what) && it.contains(endpoint)),
            "no {what} at {endpoint} in:\n{text}\n{errors}"
        );
    };
    for (what, endpoint) in [
        ("× select authors", "GET /posts"),
        ("log lines", "POST /checkout"),
        ("select products takes", "GET /products/search"),
        ("3 independent calls", "GET /home"),
        ("× GET pricing/v1/prices/{id}", "GET /baskets/{id}"),
        ("× insert into wishlist_items", "PUT /wishlists/{id}"),
        ("POST shipping/v1/labels fails", "POST /parcels"),
        ("4 × select orders, the same", "GET /accounts/{id}"),
        ("connections to postgresql", "GET /stock/{id}"),
        ("waiting for a connection", "GET /invoices/{customer}"),
        ("database calls in one request", "GET /report"),
        ("in the service's own code", "GET /recommendations"),
        ("of encoding and rendering", "GET /export"),
    ] {
        has(what, &format!("[shop · {endpoint}]"));
    }
    let is_innocent = |it: &&&str| {
        ["GET /products/{id}]", "[payments", "[pricing", "[shipping"]
            .iter()
            .any(|at| it.contains(at))
    };
    assert_eq!(findings.iter().find(is_innocent), None, "{text}");

    // A second start has them still, and every count is right.
    verify(data.path());
}

/// A running `culprit demo`; killed when dropped.
struct Demo {
    child: Child,
    /// What it has printed so far.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Demo {
    fn start(data: &Path, more: &[&str]) -> Demo {
        let mut child = Command::from(command(&["demo"]))
            .args(LISTEN)
            .args(more)
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let printed = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                printed.lock().unwrap().push(line);
            }
        });
        Demo { child, lines }
    }

    /// The first line with `text` in it, as soon as there is one.
    async fn line(&self, text: &str) -> String {
        eventually(&format!("a line with {text:?}"), async || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|it| it.contains(text)).cloned()
        })
        .await
    }

    /// SIGTERM; whether it ended with success.
    async fn terminate(mut self) -> bool {
        let pid = Pid::from_raw(self.child.id().expect("it runs") as i32);
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.child.wait().await.expect("it ends").success()
    }
}

/// The latest of the shop, as many as one answer has; by start.
async fn shop_requests(ui: &str) -> Vec<serde_json::Value> {
    let (status, body) = http::get(&format!("{ui}/api/v1/traces?service=shop&limit=500")).await;
    assert_eq!(status, 200, "{body}");
    let page: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let mut requests = page["requests"].as_array().expect("a list").clone();
    requests.sort_by_key(|it| it["start_ns"].as_u64());
    requests
}

#[tokio::test]
async fn a_version_is_deployed_and_taken_back() {
    let data = data_directory();
    let times = ["--deploy-after=3s", "--roll-back-after=6s", "--rate=16"];
    let demo = Demo::start(data.path(), &times);
    let ui = demo.line("  UI  ").await;
    let ui = &ui[ui.find("http").expect("a URL")..];
    // Its own receiver takes culprit's signature for good, and shows where to look.
    demo.line("ALERT  ").await;
    demo.line(&format!("  {ui}/")).await;
    demo.line("DEPLOYED  version 1.1.0").await;
    demo.line("DEPLOYED  version 1.0.0").await;

    let requests = eventually(
        "requests to both versions and the first again",
        async || {
            let requests = shop_requests(ui).await;
            let versions = requests.iter().map(|it| it["version"].as_str().unwrap());
            let versions = Vec::from_iter(versions);
            let is_back = versions.first() == Some(&"1.0.0") && versions.last() == Some(&"1.0.0");
            (is_back && versions.contains(&"1.1.0")).then_some(requests)
        },
    )
    .await;
    for request in &requests {
        let endpoint = request["endpoint"].as_str().unwrap();
        // Payments and labels fail now and then, in every version.
        let may_fail = ["POST /checkout", "POST /parcels"].contains(&endpoint);
        assert!(may_fail || request["error"] == false, "{request}");
        let is_slow = endpoint == "GET /products/{id}" && request["database_calls"] == 2;
        assert!(!is_slow || request["version"] == "1.1.0", "{request}");
    }
    assert!(demo.terminate().await);
    verify(data.path());
}
