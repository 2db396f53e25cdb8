//! OTLP/HTTP: `POST /v1/traces` as protobuf or JSON, over HTTP/1.1 or HTTP/2.
//!
//! Every refusal's body is a `google.rpc.Status` in the request's own format, so that an exporter
//! can print why.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::answer::{Answer, RpcStatus, success_json, success_protobuf};
use super::inflate::{Encoding, SUPPORTED};
use super::stats::{OtherSignal, Refusal, Tally, Via};
use super::{Format, OtherSignals, Receiver, cors, discard};

/// What the paths of signals allow.
const ALLOWED: HeaderValue = HeaderValue::from_static("POST, OPTIONS");

/// OTLP/HTTP's paths, and whether we are well.
pub(super) fn router(receiver: &Receiver, shutdown: &CancellationToken) -> Router {
    let shutdown = shutdown.clone();
    let ready = get(async move |State(receiver): State<Receiver>| readyz(&receiver, &shutdown));
    let mut signals = Router::new()
        .route("/v1/traces", any(traces))
        .route("/v1/logs", any(logs))
        .route("/v1/metrics", any(metrics));
    if let Some(sites) = receiver.cors() {
        let sites = Arc::new(sites.clone());
        signals = signals.route_layer(middleware::from_fn_with_state(sites, cors::layer));
    }
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", ready)
        .merge(signals)
        .with_state(receiver.clone())
}

fn readyz(receiver: &Receiver, shutdown: &CancellationToken) -> Response {
    if shutdown.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response()
    } else if receiver.is_ready() {
        "ready\n".into_response()
    } else {
        let why = "the database cannot be written to\n";
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }
}

async fn traces(State(receiver): State<Receiver>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let shown = Shown::of(&head.headers);
    if head.method != Method::POST {
        return not_post(&receiver, &head.method, shown, &mut body).await;
    }
    let (answer, tally) = export(&receiver, &head.headers, &mut body).await;
    let via = match shown.format {
        Format::Protobuf => Via::HttpProtobuf,
        Format::Json => Via::HttpJson,
    };
    receiver.stats().answered(via, &answer, tally);
    if !matches!(answer, Answer::Taken { .. }) {
        discard_unless_asked(&head.headers, &mut body).await;
    }
    reply(shown, &answer)
}

async fn export(receiver: &Receiver, headers: &HeaderMap, body: &mut Body) -> (Answer, Tally) {
    if let Err(answer) = receiver.authenticate(headers) {
        return (answer, Tally::default());
    }
    let (format, encoding) = match (content_type(headers), content_encoding(headers)) {
        (Some((format, _)), Some(encoding)) => (format, encoding),
        (None, _) => return (unsupported_type(headers), Tally::default()),
        (_, None) => return (unsupported_encoding(headers), Tally::default()),
    };
    let mut charge = receiver.charge();
    let bytes_max = receiver.limits().body_bytes_max;
    match receiver.read(body, bytes_max, &mut charge).await {
        Ok(bytes) => receiver.export(bytes, encoding, format, charge).await,
        Err(answer) => (answer, Tally::default()),
    }
}

async fn logs(State(receiver): State<Receiver>, request: Request) -> Response {
    other_signal(&receiver, OtherSignal::Logs, request).await
}

async fn metrics(State(receiver): State<Receiver>, request: Request) -> Response {
    other_signal(&receiver, OtherSignal::Metrics, request).await
}

async fn other_signal(receiver: &Receiver, signal: OtherSignal, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let shown = Shown::of(&head.headers);
    if head.method != Method::POST {
        return not_post(receiver, &head.method, shown, &mut body).await;
    }
    discard_unless_asked(&head.headers, &mut body).await;
    if let Err(answer) = receiver.authenticate(&head.headers) {
        receiver.stats().refused(Refusal::Unauthenticated);
        return reply(shown, &answer);
    }
    receiver.stats().other_signal(signal);
    if receiver.other_signals() == OtherSignals::Reject {
        let status = RpcStatus::new(Code::Unimplemented, "culprit takes traces only");
        return refusal(shown, StatusCode::NOT_FOUND, &status);
    }
    let nothing_to_say = Answer::Taken {
        rejected: 0,
        message: String::new(),
    };
    reply(shown, &nothing_to_say)
}

async fn not_post(receiver: &Receiver, method: &Method, shown: Shown, body: &mut Body) -> Response {
    discard(body).await;
    let mut response = if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        receiver.stats().refused(Refusal::Unknown);
        let status = RpcStatus::new(Code::Unimplemented, "spans are sent with POST");
        refusal(shown, StatusCode::METHOD_NOT_ALLOWED, &status)
    };
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

/// Any other path.
pub(super) async fn not_found(receiver: &Receiver, request: Request) -> Response {
    receiver.stats().refused(Refusal::Unknown);
    let (head, mut body) = request.into_parts();
    discard_unless_asked(&head.headers, &mut body).await;
    let what = "this is OTLP/HTTP; traces are sent to /v1/traces";
    let status = RpcStatus::new(Code::NotFound, what);
    refusal(Shown::of(&head.headers), StatusCode::NOT_FOUND, &status)
}

/// A client that asked before sending (`Expect: 100-continue`) sends nothing after a refusal, and
/// reading would tell it to go on.
async fn discard_unless_asked(headers: &HeaderMap, body: &mut Body) {
    if !headers.contains_key(EXPECT) {
        discard(body).await;
    }
}

/// How an answer is written: as the request was, or as JSON if that cannot be told, because then a
/// person is reading.
#[derive(Clone, Copy)]
struct Shown {
    format: Format,
    content_type: &'static str,
}

impl Shown {
    fn of(headers: &HeaderMap) -> Self {
        let (format, content_type) = content_type(headers).unwrap_or((Format::Json, JSON));
        Self {
            format,
            content_type,
        }
    }
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";
const PROTOBUF_ALIAS: &str = "application/protobuf";

/// By the media type alone: parameters such as `charset` say nothing new.
fn content_type(headers: &HeaderMap) -> Option<(Format, &'static str)> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next()?.trim().to_ascii_lowercase();
    match media_type.as_str() {
        JSON => Some((Format::Json, JSON)),
        PROTOBUF => Some((Format::Protobuf, PROTOBUF)),
        PROTOBUF_ALIAS => Some((Format::Protobuf, PROTOBUF_ALIAS)),
        _ => None,
    }
}

/// One encoding at most: nobody compresses twice.
fn content_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(Encoding::Identity),
        (Some(value), None) => Encoding::named(value.to_str().ok()?),
        _ => None,
    }
}

fn unsupported_type(headers: &HeaderMap) -> Answer {
    let found = match headers.get(CONTENT_TYPE) {
        Some(value) => format!("content type {value:?} is not supported"),
        None => "the content type is missing".to_owned(),
    };
    Answer::Unsupported(format!("{found}; send {PROTOBUF} or {JSON}"))
}

fn unsupported_encoding(headers: &HeaderMap) -> Answer {
    let found: Vec<_> = headers.get_all(CONTENT_ENCODING).iter().collect();
    Answer::Unsupported(format!(
        "content encoding {found:?} is not supported; send one of {SUPPORTED}"
    ))
}

fn reply(shown: Shown, answer: &Answer) -> Response {
    if let Answer::Taken { rejected, message } = answer {
        let body = match shown.format {
            Format::Protobuf => success_protobuf(*rejected, message),
            Format::Json => success_json(*rejected, message),
        };
        return ([(CONTENT_TYPE, shown.content_type)], body).into_response();
    }
    let mut response = refusal(shown, answer.http_status(), &answer.status());
    if matches!(answer, Answer::Unsupported(_)) {
        let supported = HeaderValue::from_static(SUPPORTED);
        response.headers_mut().insert(ACCEPT_ENCODING, supported);
    }
    if matches!(answer, Answer::Unauthenticated(_)) {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    response
}

fn refusal(shown: Shown, code: StatusCode, status: &RpcStatus) -> Response {
    let body = match shown.format {
        Format::Protobuf => status.to_protobuf(),
        Format::Json => status.to_json(),
    };
    let mut response = (code, [(CONTENT_TYPE, shown.content_type)], body).into_response();
    if let Some(delay) = status.retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(delay.as_secs()));
    }
    response
}
