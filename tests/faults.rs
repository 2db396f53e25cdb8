//! What goes wrong around culprit: the database is locked, read-only, out of connections or of disk,
//! more arrives than can be stored, an owner is stopped in the middle of a transaction.
//!
//! Always the same promise: refused with "come again" while it lasts, within bounded time and memory;
//! afterwards everything that was acknowledged is stored once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use sqlx::ConnectOptions;
use tonic::{Code, Status};

use crate::support::culprit::{Culprit, data_directory, run, verify};
use crate::support::database::{self, cut_connections, execute};
use crate::support::spans::{export, hex, n_plus_one, now_ns, text, trace_id};
use crate::support::{eventually, http};

/// A client hears of a refusal within this time, whatever the database does.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// Memory of the process at most, kB, whatever arrives. The bound on waiting spans is 48 MB, beside
/// them are requests in flight and their decoded copies.
const RSS_MAX_KB: u64 = 400_000;

/// A trace that is the same, to the byte, whenever it is sent: as a client's retry is.
fn trace(number: u64, authors: u64) -> ExportTraceServiceRequest {
    static START_NS: OnceLock<u64> = OnceLock::new();
    let start_ns = START_NS.get_or_init(now_ns);
    let mut request = n_plus_one(number, authors);
    let spans = &mut request.resource_spans[0].scope_spans[0].spans;
    let first_ns = spans[0].start_time_unix_nano;
    for span in spans {
        span.start_time_unix_nano = span.start_time_unix_nano - first_ns + start_ns;
        span.end_time_unix_nano = span.end_time_unix_nano - first_ns + start_ns;
    }
    request
}

/// Sends the trace until it is taken, as a client does; the number of refusals on the way.
async fn send(culprit: &Culprit, number: u64) -> usize {
    send_request(culprit, trace(number, 6)).await
}

async fn send_request(culprit: &Culprit, request: ExportTraceServiceRequest) -> usize {
    let since = Instant::now();
    for refusals in 0.. {
        match export(&culprit.grpc, request.clone()).await {
            Ok(()) => return refusals,
            Err(status) => assert_retryable(&status),
        }
        assert!(since.elapsed() < Duration::from_secs(120), "never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("it counts for ever")
}

/// The status is one that SDKs retry, with a delay.
fn assert_retryable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let delay = status.details().windows(9).any(|it| it == b"RetryInfo");
    assert!(delay || status.details().is_empty(), "{status:?}");
}

/// Sends new traces until one is refused in time, with a delay; returns the numbers of those that
/// were taken before.
async fn send_until_refused(culprit: &Culprit, from: u64, authors: u64) -> Vec<u64> {
    let mut taken = Vec::new();
    for number in from..from + 2_000 {
        let sent = export(&culprit.grpc, trace(number, authors));
        match tokio::time::timeout(REFUSED_WITHIN, sent).await {
            // A backend notices that its postmaster is gone when it waits for the next statement.
            Ok(Ok(())) => {
                taken.push(number);
                // Longer and longer pauses: on a busy machine the next statement is always there already.
                let pause_ms = (taken.len() as u64 / 10).clamp(2, 100);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            Ok(Err(status)) => {
                assert_retryable(&status);
                assert!(
                    status.details().windows(9).any(|it| it == b"RetryInfo"),
                    "{status:?}"
                );
                return taken;
            }
            Err(_) => panic!("no answer within {REFUSED_WITHIN:?}"),
        }
    }
    panic!("nothing is refused");
}

async fn ready(culprit: &Culprit) -> bool {
    http::get(&format!("{}/readyz", culprit.http)).await.0 == 200
}

/// Also while Postgres is being started: the status answers 503 then.
pub async fn wait_until_analysed(culprit: &Culprit) {
    eventually("the journal is empty", async || {
        let (status, body) = http::get(&format!("{}/api/v1/status", culprit.ui)).await;
        let body: serde_json::Value = serde_json::from_str(&body).ok()?;
        (status == 200 && body["journal"]["rows"] == 0).then_some(())
    })
    .await;
}

/// Everything is stored once, counted once, and nothing else is.
async fn end_well(culprit: Culprit, data: &Path, numbers: impl IntoIterator<Item = u64>) {
    wait_until_analysed(&culprit).await;
    let numbers: BTreeSet<u64> = numbers.into_iter().collect();
    for number in &numbers {
        assert_stored_once(&culprit, *number).await;
    }
    assert!(culprit.terminate().await);
    let verified = verify(data);
    let traces = format!("{} traces", numbers.len());
    assert!(verified.starts_with(&traces), "{traces}: {verified}");
}

async fn assert_stored_once(culprit: &Culprit, number: u64) {
    let trace = culprit.trace(&hex(&trace_id(number))).await;
    let mut ids = BTreeSet::new();
    for resource_spans in trace["resourceSpans"].as_array().expect("spans") {
        for scope_spans in resource_spans["scopeSpans"].as_array().expect("spans") {
            for span in scope_spans["spans"].as_array().expect("spans") {
                let id = span["spanId"].to_string();
                assert!(ids.insert(id.clone()), "trace {number}: {id} twice");
            }
        }
    }
    assert!(ids.len() >= 2, "trace {number}: {ids:?}");
}

/// Killed once, it may be back before a client has waited long enough to be refused.
async fn keep_killing_postgres(culprit: &Culprit) {
    loop {
        culprit.kill_postgres().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Refused with a delay while it is away, and soon back, without anybody's doing.
#[tokio::test]
async fn r2_postgres_is_killed_and_comes_back() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    send(&culprit, 1).await;
    // A backend may outlive its postmaster for a commit or two, which are as durable as any.
    let mut numbers = tokio::select! {
        numbers = send_until_refused(&culprit, 2, 6) => numbers,
        () = keep_killing_postgres(&culprit) => unreachable!("it never ends"),
    };
    let refused = 2 + numbers.len() as u64;
    numbers.extend([1, refused]);
    let (status, _) = http::get(&format!("{}/healthz", culprit.http)).await;
    assert_eq!(status, 200, "culprit itself is well");
    send(&culprit, refused).await;
    end_well(culprit, data.path(), numbers).await;
}

/// A failover that leaves us on what has become a replica.
#[tokio::test]
async fn r5_a_read_only_database_refuses_until_it_is_writable_again() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    send(&culprit, 1).await;
    let mut beside = database::connect(data.path(), "postgres").await;
    execute(
        &mut beside,
        "alter database culprit set default_transaction_read_only = on",
    )
    .await;
    cut_connections(&mut beside).await;
    let before = eventually("a refusal", async || {
        export(&culprit.grpc, trace(2, 6)).await.err()
    })
    .await;
    assert_retryable(&before);
    eventually("not ready", async || (!ready(&culprit).await).then_some(())).await;
    culprit.get("/status").await;
    execute(
        &mut beside,
        "alter database culprit reset default_transaction_read_only",
    )
    .await;
    // Not one of the connections made meanwhile may be used any more.
    send(&culprit, 2).await;
    eventually("ready", async || ready(&culprit).await.then_some(())).await;
    end_well(culprit, data.path(), 1..=2).await;
}

#[tokio::test]
async fn r4_no_connection_is_to_be_had() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    send(&culprit, 1).await;
    let options = database::options(data.path(), "postgres");
    let mut taken = vec![database::connect(data.path(), "postgres").await];
    // Everything that is free, and then what culprit is made to let go of, until it has none.
    while let Ok(connection) = database::try_connect(&options).await {
        taken.push(connection);
    }
    let (mut number, mut acknowledged) = (2, vec![1]);
    loop {
        cut_connections(&mut taken[0]).await;
        while let Ok(connection) = database::try_connect(&options).await {
            taken.push(connection);
        }
        let sent = export(&culprit.grpc, trace(number, 6));
        let answer = tokio::time::timeout(REFUSED_WITHIN, sent).await;
        match answer.expect("an answer in time") {
            Ok(()) => acknowledged.push(number),
            Err(status) => {
                assert_retryable(&status);
                break;
            }
        }
        number += 1;
    }
    drop(taken);
    send(&culprit, number).await;
    acknowledged.push(number);
    end_well(culprit, data.path(), acknowledged).await;
}

/// A file system of its own that is full; skipped where nothing may be mounted.
#[tokio::test]
async fn r4_a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let data = data_directory();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=220m", "tmpfs"])
        .arg(data.path())
        .output();
    if !mounted.as_ref().is_ok_and(|it| it.status.success()) {
        println!("skipped: no file system can be mounted here: {mounted:?}");
        return;
    }
    let _mount = Mount(data.path().to_owned());
    // Postgres runs as somebody else and must get through.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(data.path(), open).unwrap();
    // Else it would refuse in time, and never see the disk full.
    let culprit = Culprit::serve(data.path(), &["--disk-free-min=0"]).await;
    send(&culprit, 1).await;
    wait_until_analysed(&culprit).await;
    let ballast = data.path().join("ballast");
    fill(&ballast);
    let mut numbers = send_until_refused(&culprit, 2, 400).await;
    let refused = 2 + numbers.len() as u64;
    numbers.extend([1, refused]);
    // People still see what there is.
    eventually("the UI answers", async || {
        let (status, _) = http::get(&format!("{}/traces", culprit.ui)).await;
        (status == 200).then_some(())
    })
    .await;
    std::fs::remove_file(&ballast).unwrap();
    send_request(&culprit, trace(refused, 400)).await;
    end_well(culprit, data.path(), numbers).await;
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4 << 10] {
        while file.write_all(&vec![0_u8; size]).is_ok() {}
    }
}

/// Unmounted when dropped, lazily: culprit may just be ending.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// The journal is locked for longer than a commit may take, while far more arrives than may wait.
/// Clients are refused, memory stays bounded, and when the lock goes both the commit that was given
/// up and the client's second try land: each span counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_r6_r8_a_commit_lands_late_under_overload() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    send(&culprit, 1).await;
    wait_until_analysed(&culprit).await;
    let mut beside = database::connect(data.path(), "culprit").await;
    execute(
        &mut beside,
        "begin; lock table culprit.journal in share mode",
    )
    .await;
    let hung = tokio::spawn({
        let address = culprit.grpc.clone();
        async move { export(&address, trace(2, 6)).await }
    });
    // A hundred megabytes while it hangs, from clients that do not wait for answers.
    let large = large(3);
    let flood: Vec<_> = (0..60)
        .map(|_| {
            let (address, large) = (culprit.grpc.clone(), large.clone());
            tokio::spawn(async move { export(&address, large).await })
        })
        .collect();
    let mut refused = 0;
    for sent in flood {
        let answer = tokio::time::timeout(REFUSED_WITHIN, sent).await;
        match answer.expect("an answer in time").expect("no panic") {
            Ok(()) => {}
            Err(status) => {
                assert_retryable(&status);
                refused += 1;
            }
        }
    }
    assert!(refused > 30, "{refused} refused");
    let answer = hung.await.expect("no panic");
    assert_retryable(&answer.expect_err("the commit takes too long"));
    execute(&mut beside, "rollback").await;
    let rss_kb = peak_rss_kb(&culprit);
    assert!(rss_kb < RSS_MAX_KB, "{rss_kb} kB");
    // The clients come again; what they sent before lands as well.
    send(&culprit, 2).await;
    send_request(&culprit, large).await;
    end_well(culprit, data.path(), 1..=3).await;
}

/// One trace of two spans with attributes of 2 MB that do not compress away before they are counted.
fn large(number: u64) -> ExportTraceServiceRequest {
    let mut request = trace(number, 0);
    let span = &mut request.resource_spans[0].scope_spans[0].spans[1];
    let long = "0123456789abcdef".repeat(2_000);
    span.attributes
        .extend((0..60).map(|at| text(&format!("long.{at}"), &long)));
    request
}

fn peak_rss_kb(culprit: &Culprit) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", culprit.pid()));
    let status = status.expect("it runs");
    let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let peak = peak.expect("a peak").trim().trim_end_matches(" kB");
    peak.parse().expect("a number")
}

/// Two processes on one database; the owner is stopped inside a transaction. The other takes over,
/// and when the first goes on it writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_stopped_owner_is_replaced_and_writes_nothing_afterwards() {
    let (one, two) = (data_directory(), data_directory());
    let options = collector::testing::database().await;
    let url = options.to_url_lossy().to_string();
    let arguments = ["--database-url", url.as_str()];
    let first = Culprit::serve(one.path(), &arguments).await;
    send(&first, 1).await;
    wait_until_analysed(&first).await;
    let second = Culprit::serve(two.path(), &arguments).await;

    let mut beside = database::try_connect(&options.application_name("test"))
        .await
        .expect("the database answers");
    execute(
        &mut beside,
        "begin; lock table culprit.trace_blocks in share mode",
    )
    .await;
    send(&first, 2).await;
    eventually("the first is inside its transaction", async || {
        database::waits_for_a_lock(&mut *beside_again(&url).await)
            .await
            .then_some(())
    })
    .await;
    kill(first.pid(), Signal::SIGSTOP).expect("it runs");
    let stopped = Instant::now();
    execute(&mut beside, "rollback").await;
    send(&second, 3).await;
    wait_until_analysed(&second).await;
    let taken_over = stopped.elapsed();
    assert!(taken_over < Duration::from_secs(60), "{taken_over:?}");
    kill(first.pid(), Signal::SIGCONT).expect("it is there");
    send(&first, 4).await;
    send(&second, 2).await;
    wait_until_analysed(&second).await;
    for number in 1..=4 {
        assert_stored_once(&second, number).await;
    }
    assert!(first.terminate().await);
    assert!(second.terminate().await);
    let verified = run(&["verify", "--database-url", &url], one.path());
    let text = String::from_utf8_lossy(&verified.stdout);
    assert!(text.starts_with("4 traces"), "{text}");
    assert!(text.contains("difference 0"), "{text}");
}

async fn beside_again(url: &str) -> Box<sqlx::PgConnection> {
    let options = url.parse().expect("a URL");
    let connection = database::try_connect(&options).await;
    Box::new(connection.expect("the database answers"))
}

/// Far more than can be stored for a few seconds: what is taken is stored, the rest is told to come
/// again, and it all ends when asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_sigterm_in_a_burst_loses_nothing() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let clients: Vec<_> = (0..16_u64)
        .map(|client| {
            let address = culprit.grpc.clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                for number in client * 1_000.. {
                    match export(&address, trace(number, 6)).await {
                        Ok(()) => taken.push(number),
                        Err(_) => return (taken, number),
                    }
                }
                unreachable!("it counts for ever")
            })
        })
        .collect();
    eventually("some are analysed", async || {
        let (_, body) = http::get(&format!(
            "{}/api/v1/traces/{}",
            culprit.ui,
            hex(&trace_id(15_000))
        ))
        .await;
        body.contains("resourceSpans").then_some(())
    })
    .await;
    let since = Instant::now();
    assert!(culprit.terminate().await);
    assert!(since.elapsed() < Duration::from_secs(30));
    let (mut taken, mut unsure) = (Vec::new(), 0);
    for client in clients {
        let (numbers, _) = client.await.expect("no panic");
        taken.extend(numbers);
        unsure += 1;
    }
    let culprit = Culprit::serve(data.path(), &[]).await;
    wait_until_analysed(&culprit).await;
    for number in &taken {
        assert_stored_once(&culprit, *number).await;
    }
    assert!(culprit.terminate().await);
    let verified = verify(data.path());
    let traces: usize = verified.split(' ').next().unwrap().parse().unwrap();
    let sent = taken.len()..=taken.len() + unsure;
    assert!(sent.contains(&traces), "{traces} of {sent:?}");
}
