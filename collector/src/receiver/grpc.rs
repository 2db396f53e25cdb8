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
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::answer::{Answer, RpcStatus, success_protobuf};
use super::inflate::{Encoding, SUPPORTED};
use super::stats::{OtherSignal, Refusal, Tally, Via};
use super::{Format, OtherSignals, Receiver, discard};

const TRACE_SERVICE: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
/// What can be asked for health: the whole server, which has no name, and what it is for.
const HEALTH_SERVICES: [&str; 2] = ["", TRACE_SERVICE];

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// One byte that says whether the message is compressed, four with its length.
const PREFIX_BYTES: usize = 5;

/// How often the health service looks whether spans can be stored.
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// OTLP/gRPC's services, and health.
pub(super) fn router(receiver: &Receiver, shutdown: &CancellationToken) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, receiver.clone(), shutdown.clone()));
    Router::new()
        .route(TRACES, any(traces))
        .route(LOGS, any(logs))
        .route(METRICS, any(metrics))
        .route_service("/grpc.health.v1.Health/{method}", health)
        .with_state(receiver.clone())
}

async fn report_health(
    mut reporter: HealthReporter,
    receiver: Receiver,
    shutdown: CancellationToken,
) {
    loop {
        let status = if receiver.is_ready() && !shutdown.is_cancelled() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in HEALTH_SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if shutdown.is_cancelled() {
            // Ends the calls of those who watch: they would hold up the way out.
            for service in HEALTH_SERVICES {
                reporter.clear_service_status(service).await;
            }
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
        receiver.stats().refused(Refusal::Unsupported);
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
    if let Err(answer) = receiver.authenticate(headers) {
        return (answer, Tally::default());
    }
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
    if let Err(answer) = receiver.authenticate(&head.headers) {
        receiver.stats().refused(Refusal::Unauthenticated);
        return reply(&answer);
    }
    receiver.stats().other_signal(signal);
    match receiver.other_signals() {
        OtherSignals::Discard => success(Vec::new()),
        OtherSignals::Reject => {
            let what = "culprit takes traces only";
            refusal(&RpcStatus::new(Code::Unimplemented, what))
        }
    }
}

/// Any other method.
pub(super) async fn unknown(receiver: &Receiver, request: Request) -> Response {
    receiver.stats().refused(Refusal::Unknown);
    let (head, mut body) = request.into_parts();
    discard(&mut body).await;
    let what = format!("{} is not a method of this server", head.uri.path());
    refusal(&RpcStatus::new(Code::Unimplemented, what))
}

/// Whether a request is gRPC, by its content type: `application/grpc`, `application/grpc+proto`.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

/// OTLP over gRPC is protobuf in a POST of HTTP/2, whatever else gRPC may carry.
fn not_grpc(method: &Method, headers: &HeaderMap) -> Option<Response> {
    if method != Method::POST || !is_grpc(headers) {
        let what = "this path is OTLP/gRPC's; OTLP/HTTP sends traces to /v1/traces\n";
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, what).into_response());
    }
    let content_type = headers.get(CONTENT_TYPE)?.to_str().unwrap_or_default();
    let format = content_type.split(';').next()?.trim();
    let is_protobuf = matches!(format, "application/grpc" | "application/grpc+proto");
    (!is_protobuf).then(|| {
        let what = format!("{format} is not supported; send application/grpc");
        refusal(&RpcStatus::new(Code::Unimplemented, what))
    })
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
    let details = if status.has_details() {
        status.to_protobuf().into()
    } else {
        Bytes::new()
    };
    let status = Status::with_details(status.code, &status.message, details);
    let mut response: Response = status.into_http();
    let accepted = HeaderValue::from_static(SUPPORTED);
    response.headers_mut().insert(ACCEPTED, accepted);
    response
}
