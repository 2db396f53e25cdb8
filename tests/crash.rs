//! What is acknowledged is stored, exactly once, whatever is killed and when.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use tokio_util::sync::CancellationToken;

use crate::support::culprit::{Culprit, data_directory, verify};
use crate::support::spans::{export, hex, n_plus_one, trace_id};

/// How often something is killed. The moments are drawn; a failure prints the seed.
const KILLS: u64 = 4;

/// Clients that send at once.
const CLIENTS: u64 = 4;

/// Spans of one trace of the load.
const SPANS: u64 = 8;

/// Traces that were acknowledged.
type Acknowledged = Arc<Mutex<HashSet<u64>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_counted_twice() {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let seed = std::env::var("CULPRIT_TEST_SEED")
        .ok()
        .and_then(|it| it.parse().ok());
    let seed = seed.unwrap_or(since_epoch.as_millis() as u64);
    println!("CULPRIT_TEST_SEED={seed}");
    let data = data_directory();
    let acknowledged = Acknowledged::default();
    let mut dice = seed | 1;
    for round in 0..KILLS {
        let culprit = Culprit::serve(data.path(), &[]).await;
        let stop = CancellationToken::new();
        let clients = (0..CLIENTS).map(|client| {
            let (address, stop, acknowledged) =
                (culprit.grpc.clone(), stop.clone(), acknowledged.clone());
            tokio::spawn(send(
                address,
                round << 32 | client << 24,
                acknowledged,
                stop,
            ))
        });
        let clients: Vec<_> = clients.collect();
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis(500 + (dice >> 33) % 3_000)).await;
        if round % 2 == 0 {
            culprit.kill().await;
        } else {
            // Postgres dies alone, and culprit starts it again under the load.
            kill(culprit.postmaster(), Signal::SIGKILL).unwrap();
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            culprit.kill().await;
        }
        stop.cancel();
        for client in clients {
            client.await.unwrap();
        }
    }

    let culprit = Culprit::serve(data.path(), &[]).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(
        acknowledged.len() > 50,
        "a load of {} traces proves nothing",
        acknowledged.len()
    );
    wait_until_analysed(&culprit).await;
    for number in &acknowledged {
        let trace = culprit.trace(&hex(&trace_id(*number))).await;
        assert_eq!(span_ids(&trace).len() as u64, SPANS, "trace {number}");
    }
    assert!(culprit.terminate().await);
    println!("{}", verify(data.path()));
}

/// Sends traces one after the other, each twice as a client does that missed the answer, until
/// `stop`; notes what was acknowledged.
async fn send(address: String, from: u64, acknowledged: Acknowledged, stop: CancellationToken) {
    let mut number = from;
    while !stop.is_cancelled() {
        number += 1;
        let request = n_plus_one(number, SPANS - 2);
        if export(&address, request.clone()).await.is_ok() {
            acknowledged.lock().unwrap().insert(number);
            let _ = export(&address, request).await;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// All span ids of a trace's JSON; panics if one is there twice.
fn span_ids(trace: &serde_json::Value) -> HashSet<String> {
    let mut ids = HashSet::new();
    for resource_spans in trace["resourceSpans"].as_array().expect("spans") {
        for scope_spans in resource_spans["scopeSpans"].as_array().expect("spans") {
            for span in scope_spans["spans"].as_array().expect("spans") {
                let id = span["spanId"].as_str().expect("an id").to_owned();
                assert!(ids.insert(id.clone()), "span {id} is stored twice");
            }
        }
    }
    ids
}

async fn wait_until_analysed(culprit: &Culprit) {
    crate::support::eventually("the journal is empty", async || {
        let status: serde_json::Value =
            serde_json::from_str(&culprit.get("/api/v1/status").await).expect("JSON");
        (status["journal"]["rows"] == 0).then_some(())
    })
    .await;
}
