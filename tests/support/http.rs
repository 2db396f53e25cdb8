//! Plain HTTP requests.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// GET; status and body.
pub async fn get(url: &str) -> (u16, String) {
    let (status, _, body) = send(Request::get(url), Bytes::new()).await;
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// POST with a content type; status, content type of the answer, body.
pub async fn post(url: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, String, Bytes) {
    send(
        Request::post(url).header("content-type", content_type),
        body.into(),
    )
    .await
}

/// Any request; status, content type of the answer, body.
pub async fn send(request: http::request::Builder, body: Bytes) -> (u16, String, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body)).expect("a request");
    let response = client.request(request).await.expect("an answer");
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type");
    let content_type = content_type
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    (status, content_type, body)
}
