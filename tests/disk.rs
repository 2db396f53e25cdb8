//! A disk that fills up, and days that go, seen from outside.

use crate::support::culprit::{Culprit, data_directory, verify};
use crate::support::http;
use crate::support::spans::{one_span, trace_id};

/// With more to be free than there is, nothing is taken, the reason says why, and the UI answers.
/// With room again, what was refused is taken.
#[tokio::test]
async fn a_disk_that_is_almost_full_is_seen_coming() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &["--disk-free-min=1000TB"]).await;
    let ready = format!("{}/readyz", culprit.http);
    crate::support::eventually("not ready", async || {
        (http::get(&ready).await.0 == 503).then_some(())
    })
    .await;
    let traces = format!("{}/v1/traces", culprit.http);
    let (status, _, body) = http::post(&traces, "application/x-protobuf", one_span(1, &[])).await;
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("the disk is almost full"), "{body}");
    culprit.get("/status").await;
    assert!(culprit.terminate().await);

    let culprit = Culprit::serve(data.path(), &[]).await;
    let traces = format!("{}/v1/traces", culprit.http);
    let (status, ..) = http::post(&traces, "application/x-protobuf", one_span(1, &[])).await;
    assert_eq!(status, 200);
    culprit
        .trace(&crate::support::spans::hex(&trace_id(1)))
        .await;
    assert!(culprit.terminate().await);
    verify(data.path());
}
