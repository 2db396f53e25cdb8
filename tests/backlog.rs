//! More arrives than is analysed, seen from outside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::culprit::{Culprit, data_directory, verify};
use crate::support::eventually;
use crate::support::http;
use crate::support::spans::{hex, one_span, trace_id};

/// While more waits than may, senders are told to come again, and why; what was acknowledged is
/// analysed, and then there is room again.
#[tokio::test]
async fn more_than_may_wait_is_told_to_come_again_until_it_is_analysed() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &["--backlog-max=1B"]).await;
    let traces = format!("{}/v1/traces", culprit.http);
    let sent = AtomicU64::new(0);
    let acked = Mutex::new(Vec::new());
    let wait_for = async |wanted: u16| {
        eventually(&format!("an answer {wanted}"), async || {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let body = one_span(number, &[2; 8]);
            let (status, _, body) = http::post(&traces, "application/x-protobuf", body).await;
            if status == 200 {
                acked.lock().expect("nobody panics with it").push(number);
            }
            (status == wanted).then(|| String::from_utf8_lossy(&body).into_owned())
        })
        .await
    };
    wait_for(200).await;
    let body = wait_for(503).await;
    assert!(body.contains("wait to be analysed and 0 MB may"), "{body}");
    let status = culprit.get("/status").await;
    assert!(status.contains("Spans are refused: "), "{status}");
    wait_for(200).await;
    for number in acked.into_inner().expect("nobody panicked with it") {
        culprit.trace(&hex(&trace_id(number))).await;
    }
    assert!(culprit.terminate().await);
    verify(data.path());
}
