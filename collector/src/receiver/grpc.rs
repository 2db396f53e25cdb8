//! OTLP/gRPC: `TraceService/Export`, and a health service.
//!
//! The calls are unary and their messages opaque bytes to this file, so gRPC's framing is read
//! here instead of by tonic's codec: that takes the announced length's memory before a byte has
//! arrived, does not bound zstd's window, and answers too large and malformed messages with codes
//! that OTLP clients retry. Health checking, which streams, is tonic's.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::answer::{Answer, RpcStatus, success_protobuf};
use super::inflate::{Encoding, SUPPORTED};
use super::stats::{OtherSignal, Tally, Via};
use super::{Format, Receiver, discard, serve};

const TRACE_SERVICE: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// One byte that says whether the message is compressed, four with its length.
const PREFIX_BYTES: usize = 5;

/// How often the health service looks whether spans can be stored.
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// Serves OTLP/gRPC on a bound listener until `shutdown`, then answers what is in flight.
pub async fn serve(listener: TcpListener, receiver: Receiver, shutdown: CancellationToken) {
    let limits = receiver.limits().clone();
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, receiver.clone(), shutdown.clone()));
    let router = Router::new()
        .route(TRACES, any(traces))
        .route(LOGS, any(logs))
        .route(METRICS, any(metrics))
        .route_service("/grpc.health.v1.Health/{method}", health)
        .fallback(unknown)
        .with_state(receiver);
    serve::serve(listener, router, &limits, shutdown).await;
}

async fn report_health(reporter: HealthReporter, receiver: Receiver, shutdown: CancellationToken) {
    loop {
        let status = if receiver.is_ready() && !shutdown.is_cancelled() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in ["", TRACE_SERVICE] {
            reporter.set_service_status(service, status).await;
        }
        if shutdown.is_cancelled() {
            return;
        }
        let next_look = tokio::time::sleep(HEALTH_EVERY);
        tokio::select! {
            () = next_look => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn traces(State(receiver): State<Receiver>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    if let Some(response) = not_grpc(&head.method, &head.headers) {
        discard(&mut body).await;
        return response;
    }
    let (answer, tally) = export(&receiver, &head.headers, &mut body).await;
    receiver.stats().answered(Via::Grpc, &answer, tally);
    if !matches!(answer, Answer::Taken { .. }) {
        discard(&mut body).await;
    }
    reply(&answer)
}

async fn export(receiver: &Receiver, headers: &HeaderMap, body: &mut Body) -> (Answer, Tally) {
    let Some(encoding) = encoding(headers) else {
        let found = headers.get(ENCODING);
        let what = format!("encoding {found:?} is not supported; send one of {SUPPORTED}");
        return (Answer::Unsupported(what), Tally::default());
    };
    let mut charge = receiver.charge();
    let bytes_max = receiver.limits().body_bytes_max + PREFIX_BYTES;
    let read = receiver.read(body, bytes_max, &mut charge).await;
    match read.and_then(|bytes| message(bytes, encoding)) {
        Ok((bytes, encoding)) => {
            receiver
                .export(bytes, encoding, Format::Protobuf, charge)
                .await
        }
        Err(answer) => (answer, Tally::default()),
    }
}

const ENCODING: &str = "grpc-encoding";

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    match headers.get(ENCODING) {
        Some(name) => Encoding::named(name.to_str().ok()?),
        None => Some(Encoding::Identity),
    }
}

/// The one message of a unary call, and whether it is compressed after all.
fn message(body: Bytes, encoding: Encoding) -> Result<(Bytes, Encoding), Answer> {
    let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Answer::malformed("the call has no message"));
    };
    let [compressed, length @ ..] = *prefix;
    if u32::from_be_bytes(length) as usize != rest.len() {
        return Err(Answer::malformed(
            "the message's length is not the call's: one message is expected",
        ));
    }
    let message = body.slice(PREFIX_BYTES..);
    match (compressed, encoding) {
        (0, _) => Ok((message, Encoding::Identity)),
        (1, Encoding::Identity) => Err(Answer::malformed(
            "the message is compressed, but grpc-encoding does not say how",
        )),
        (1, encoding) => Ok((message, encoding)),
        _ => Err(Answer::malformed("the compressed flag is neither 0 nor 1")),
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
    discard(&mut body).await;
    if let Some(response) = not_grpc(&head.method, &head.headers) {
        return response;
    }
    receiver.stats().other_signal(signal);
    success(Vec::new())
}

async fn unknown(request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    discard(&mut body).await;
    let path = head.uri.path();
    not_grpc(&head.method, &head.headers).unwrap_or_else(|| {
        let what = format!("{path} is not a method of this server");
        refusal(&RpcStatus::new(Code::Unimplemented, what))
    })
}

/// The most frequent mistake: an OTLP/HTTP exporter pointed at the gRPC port.
fn not_grpc(method: &Method, headers: &HeaderMap) -> Option<Response> {
    let content_type = headers.get(CONTENT_TYPE);
    let grpc = content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
    if grpc && method == Method::POST {
        return None;
    }
    let what = "this is OTLP/gRPC; OTLP/HTTP has a port of its own (4318 by default)\n";
    Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, what).into_response())
}

fn reply(answer: &Answer) -> Response {
    match answer {
        Answer::Taken { rejected, message } => success(success_protobuf(*rejected, message)),
        _ => refusal(&answer.status()),
    }
}

fn success(message: Vec<u8>) -> Response {
    let length = message.len() as u32;
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(framed)).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(ACCEPTED, HeaderValue::from_static(SUPPORTED));
    response
}

const ACCEPTED: &str = "grpc-accept-encoding";

/// A status without a message: in the headers alone.
fn refusal(status: &RpcStatus) -> Response {
    let details = match status.retry_after {
        Some(_) => status.to_protobuf().into(),
        None => Bytes::new(),
    };
    let status = Status::with_details(status.code, &status.message, details);
    let mut response: Response = status.into_http();
    let accepted = HeaderValue::from_static(SUPPORTED);
    response.headers_mut().insert(ACCEPTED, accepted);
    response
}
