//! A new N+1 is told once, in its third affected trace, whatever happens on the way.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

use crate::support::culprit::{Culprit, data_directory};
use crate::support::eventually;
use crate::support::spans::{export, n_plus_one};

/// What a receiver got: webhook-id and body, in order.
type Received = Arc<Mutex<Vec<(String, serde_json::Value)>>>;

/// A receiver that fails the first time.
async fn receiver() -> (String, Received) {
    async fn receive(
        State(received): State<Received>,
        headers: HeaderMap,
        body: Bytes,
    ) -> StatusCode {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        let body = serde_json::from_slice(&body).expect("JSON");
        let mut received = received.lock().unwrap();
        received.push((id, body));
        if received.len() == 1 {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::NO_CONTENT
        }
    }
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/hook", post(receive))
        .with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, received)
}

#[tokio::test]
async fn a_new_n_plus_one_is_told_once() {
    let data = data_directory();
    let (url, received) = receiver().await;
    let arguments = [
        "--alert-webhook",
        &url,
        "--public-url",
        "https://culprit.example",
    ];
    let culprit = Culprit::serve(data.path(), &arguments).await;
    for number in 1..=2 {
        export(&culprit.grpc, n_plus_one(number, 20)).await.unwrap();
    }
    // Two traces: on the list, but nobody is told.
    eventually("the finding is on the list", async || {
        culprit
            .get("/api/v1/bottlenecks")
            .await
            .contains("authors")
            .then_some(())
    })
    .await;
    assert_eq!(received.lock().unwrap().len(), 0);

    export(&culprit.grpc, n_plus_one(3, 20)).await.unwrap();
    eventually(
        "the alert arrives in spite of the receiver's error",
        async || (received.lock().unwrap().len() == 2).then_some(()),
    )
    .await;
    {
        let received = received.lock().unwrap();
        assert_eq!(received[0].0, received[1].0, "one id in both attempts");
        let body = &received[1].1;
        assert_eq!(body["type"], "bottleneck.n_plus_one_query.opened");
        assert_eq!(body["data"]["endpoint"], "GET /posts");
        assert_eq!(body["data"]["count"], 20);
        assert!(
            body["data"]["url"]
                .as_str()
                .unwrap()
                .starts_with("https://culprit.example/bottlenecks/")
        );
    }

    // More traces, a crash, a restart: nothing new is told.
    culprit.kill().await;
    let culprit = Culprit::serve(data.path(), &arguments).await;
    for number in 4..=8 {
        export(&culprit.grpc, n_plus_one(number, 20)).await.unwrap();
    }
    eventually("the new traces are counted", async || {
        culprit
            .get("/api/v1/traces?limit=100")
            .await
            .contains("00000008")
            .then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(received.lock().unwrap().len(), 2);
    assert!(culprit.terminate().await);
}
