//! Spans to send.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::time::SystemTime;

/// OTLP's number of a SERVER span.
pub const SERVER: i32 = 2;
/// OTLP's number of a CLIENT span.
pub const CLIENT: i32 = 3;

const MS: u64 = 1_000_000;

/// Now, ns since the Unix epoch.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos() as u64
}

/// A text attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An attribute of any type.
pub fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue {
        key: key.into(),
        value,
        ..KeyValue::default()
    }
}

/// A trace id from a number.
pub fn trace_id(number: u64) -> Vec<u8> {
    [
        0xc0ff_ee00_0000_0000_u64.to_be_bytes(),
        number.to_be_bytes(),
    ]
    .concat()
}

/// Lower-case hexadecimal.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Spans of one service as a request.
pub fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "test".into(),
        version: "1".into(),
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", service)],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// An encoded request of one span; with a `parent`, of which nothing arrives, its trace waits a while before it
/// is analysed.
pub fn one_span(number: u64, parent: &[u8]) -> Vec<u8> {
    let start_ns = now_ns();
    let span = Span {
        trace_id: trace_id(number),
        span_id: vec![1; 8],
        parent_span_id: parent.to_vec(),
        name: "GET /it".into(),
        kind: SERVER,
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns + MS,
        ..Span::default()
    };
    request("shop", vec![span]).encode_to_vec()
}

/// `GET /posts` with a query for the posts and then `authors` queries, one per author, 4 ms each.
pub fn n_plus_one(number: u64, authors: u64) -> ExportTraceServiceRequest {
    let start_ns = now_ns() - 1_000 * MS;
    let span =
        |id: u64, parent: u64, name: &str, kind, from_ms: u64, for_ms: u64, attributes| Span {
            trace_id: trace_id(number),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: if parent == 0 {
                Vec::new()
            } else {
                parent.to_be_bytes().to_vec()
            },
            name: name.into(),
            kind,
            start_time_unix_nano: start_ns + from_ms * MS,
            end_time_unix_nano: start_ns + (from_ms + for_ms) * MS,
            attributes,
            ..Span::default()
        };
    let statement = |sql: &str| {
        vec![
            text("db.system.name", "postgresql"),
            text("db.query.text", sql),
        ]
    };
    let entry = vec![
        text("http.request.method", "GET"),
        text("http.route", "/posts"),
    ];
    let mut spans = vec![
        span(1, 0, "GET /posts", SERVER, 0, 10 + authors * 5, entry),
        span(
            2,
            1,
            "SELECT posts",
            CLIENT,
            1,
            3,
            statement("SELECT * FROM posts ORDER BY id DESC LIMIT 30"),
        ),
    ];
    for author in 0..authors {
        let sql = statement("SELECT * FROM authors WHERE id = $1");
        spans.push(span(
            10 + author,
            1,
            "SELECT authors",
            CLIENT,
            5 + author * 5,
            4,
            sql,
        ));
    }
    request("blog", spans)
}

/// Sends a request over gRPC; the error if it is refused.
pub async fn export(
    address: &str,
    request: ExportTraceServiceRequest,
) -> Result<(), tonic::Status> {
    let mut client = TraceServiceClient::connect(address.to_owned())
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    client.export(request).await.map(|_| ())
}
