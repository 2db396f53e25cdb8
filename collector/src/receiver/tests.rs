//! Both transports from outside: real sockets, real clients, a real journal on a real Postgres.
//! Names and rows carry the ids of the rules they hold us to.

mod access;
mod connections;
mod frames;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

use super::*;
use crate::journal::Journal;
use crate::otlp;
use crate::postgres::ManagedPostgres;
use crate::store::Store;
use crate::testing;

/// Both transports of one receiver on ports of their own.
struct Served {
    receiver: Receiver,
    http: SocketAddr,
    grpc: SocketAddr,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Served {
    /// With the usual options on a database of its own.
    async fn usual() -> (Self, Store) {
        Self::with(Options::default()).await
    }

    /// With these options on a database of its own.
    async fn with(options: Options) -> (Self, Store) {
        let store = testing::store().await;
        (Self::start(&store, options).await, store)
    }

    async fn start(store: &Store, options: Options) -> Self {
        let receiver = Receiver::with_options(Journal::start(store.clone()), options);
        let shutdown = CancellationToken::new();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            http: http.local_addr().unwrap(),
            grpc: grpc.local_addr().unwrap(),
            tasks: vec![
                tokio::spawn(serve(http, receiver.clone(), shutdown.clone())),
                tokio::spawn(serve(grpc, receiver.clone(), shutdown.clone())),
            ],
            receiver,
            shutdown,
        }
    }

    async fn send(&self, http2: bool, request: Request<Full<Bytes>>) -> Reply {
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.http2_only(http2).build_http::<Full<Bytes>>();
        let response = client.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        Reply {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        }
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.ask(false, Method::POST, "/v1/traces", headers, body)
            .await
    }

    async fn ask(
        &self,
        http2: bool,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.send(http2, request).await
    }

    /// A gRPC call by hand: frames that no client would send.
    async fn call(&self, headers: &[(&str, &str)], frame: impl Into<Bytes>) -> Reply {
        let path = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
        self.call_method(path, headers, frame).await
    }

    async fn call_method(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        frame: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::post(format!("http://{}/{path}", self.grpc))
            .header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(frame.into())).unwrap();
        self.send(true, request).await
    }

    async fn grpc(&self) -> TraceServiceClient<tonic::transport::Channel> {
        let client = TraceServiceClient::connect(format!("http://{}", self.grpc)).await;
        client.unwrap().max_encoding_message_size(usize::MAX)
    }

    async fn health(&self) -> HealthClient<tonic::transport::Channel> {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc));
        HealthClient::new(channel.unwrap().connect().await.unwrap())
    }

    async fn watch_health(&self) -> tonic::Streaming<HealthCheckResponse> {
        let watched = self
            .health()
            .await
            .watch(HealthCheckRequest::default())
            .await;
        watched.unwrap().into_inner()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
            ended.expect("idle connections are let go").unwrap();
        }
        assert_eq!(self.receiver.in_flight_bytes(), 0);
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    /// From the trailers, or the headers of a response without a message.
    fn grpc_status(&self) -> i32 {
        let status = self.trailers.get("grpc-status");
        let status = status.or(self.headers.get("grpc-status"));
        status.unwrap().to_str().unwrap().parse().unwrap()
    }

    /// The `google.rpc.Status` in the body, in whichever format it is.
    fn status_code(&self) -> i32 {
        if self.header("content-type") == "application/json" {
            let status: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
            assert!(!status["message"].as_str().unwrap().is_empty());
            return status["code"].as_i64().unwrap() as i32;
        }
        let status = tonic_types::pb::Status::decode(&self.body[..]).unwrap();
        assert!(!status.message.is_empty());
        status.code
    }
}

type Header = (&'static str, &'static str);
type Headers = Vec<Header>;

const PROTOBUF: Header = ("content-type", "application/x-protobuf");
const JSON: Header = ("content-type", "application/json");

fn spans(count: u8) -> ExportTraceServiceRequest {
    let span = |at: u8| Span {
        trace_id: vec![at + 1; 16],
        span_id: vec![at + 1; 8],
        name: "nul \0 <script>alert(1)</script>".into(),
        ..Span::default()
    };
    otlp::tests::request_of((0..count).map(span).collect())
}

fn half_valid() -> ExportTraceServiceRequest {
    let mut request = spans(2);
    request.resource_spans[0].scope_spans[0].spans[1].span_id = vec![1; 12];
    request
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn limited(limits: Limits) -> Options {
    Options {
        limits,
        ..Options::default()
    }
}

/// A request with a span whose name is any bytes.
fn named(name: &[u8]) -> Vec<u8> {
    let span = &spans(1).resource_spans[0].scope_spans[0].spans[0];
    let span = Span {
        name: String::new(),
        ..span.clone()
    };
    let mut bytes = span.encode_to_vec();
    otlp::wire::put_delimited(&mut bytes, 5, name);
    for number in [2, 2, 1] {
        let inner = std::mem::take(&mut bytes);
        otlp::wire::put_delimited(&mut bytes, number, &inner);
    }
    bytes
}

fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[compressed], &length[..], message].concat()
}

async fn stored_spans(store: &Store) -> i64 {
    let sum = "select coalesce(sum(spans), 0)::int8 from culprit.journal";
    sqlx::query_scalar(sum)
        .fetch_one(store.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn t2_c1_c2_n1_n2_http_1_and_h2c_take_every_format_and_encoding() {
    let (served, store) = Served::usual().await;
    let protobuf = spans(3).encode_to_vec();
    let json = otlp::to_json(&protobuf).unwrap().into_bytes();
    let mut sent = 0;
    for http2 in [false, true] {
        for (content_type, body, answer) in [
            ("application/x-protobuf", &protobuf, ""),
            ("Application/X-Protobuf; v=1", &protobuf, ""),
            ("application/protobuf", &protobuf, ""),
            ("application/json", &json, "{}"),
            ("application/JSON; charset=utf-8", &json, "{}"),
        ] {
            for (encoding, body) in [
                ("identity", body.clone()),
                ("gzip", gzip(body)),
                ("GZIP", [gzip(&body[..9]), gzip(&body[9..])].concat()),
                ("deflate", deflate(body)),
                ("zstd", zstd::bulk::compress(body, 1).unwrap()),
            ] {
                let headers = [
                    ("content-type", content_type),
                    ("content-encoding", encoding),
                ];
                let reply = served
                    .ask(http2, Method::POST, "/v1/traces", &headers, body)
                    .await;
                assert_eq!(reply.status, StatusCode::OK, "{content_type} {encoding}");
                assert_eq!(reply.body, answer);
                let expected = content_type.split(';').next().unwrap().to_lowercase();
                assert_eq!(reply.header("content-type"), expected);
                sent += 3;
            }
        }
    }
    assert_eq!(stored_spans(&store).await, sent);
    served.stop().await;
}

#[tokio::test]
async fn n3_n4_n11_s7_requests_are_taken_whole_in_part_or_empty() {
    let (served, store) = Served::usual().await;
    for (header, body) in [(PROTOBUF, ""), (JSON, ""), (JSON, "{}"), (PROTOBUF, "\n\0")] {
        let reply = served.post(&[header], body).await;
        assert_eq!(reply.status, StatusCode::OK, "{header:?} {body:?}");
    }

    let partial = half_valid().encode_to_vec();
    let reply = served.post(&[PROTOBUF], partial.clone()).await;
    let response = ExportTraceServiceResponse::decode(&reply.body[..]).unwrap();
    let told = response.partial_success.unwrap();
    assert_eq!((reply.status, told.rejected_spans), (StatusCode::OK, 1));
    assert!(told.error_message.contains("span_id has 12 bytes"));
    let reply = served.post(&[JSON], otlp::to_json(&partial).unwrap()).await;
    let told: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(told["partialSuccess"]["rejectedSpans"], "1");
    assert_eq!(stored_spans(&store).await, 2);
    let now = served.receiver.stats().snapshot();
    assert_eq!(now.rejected_spans[Rejection::SpanId as usize].1, 2);
    assert_eq!(now.accepted[Via::HttpJson as usize].1.spans, 1);
    let bytes = now.accepted[Via::HttpProtobuf as usize].1.bytes;
    assert_eq!(bytes, 2 + partial.len() as u64);
    served.stop().await;
}

/// SDKs log every partial success: what costs nothing is said once in a while.
#[tokio::test]
async fn n5_a_warning_is_told_once_a_minute() {
    let (served, store) = Served::usual().await;
    let odd = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",
         "start_time_unix_nano":"1"}]}]}]}"#;
    let reply = served.post(&[JSON], odd).await;
    let told: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let told = &told["partialSuccess"];
    assert_eq!(
        (reply.status, &told["rejectedSpans"]),
        (StatusCode::OK, &"0".into())
    );
    assert!(
        told["errorMessage"]
            .as_str()
            .unwrap()
            .contains("lowerCamelCase")
    );
    let reply = served.post(&[JSON], odd).await;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (StatusCode::OK, &b"{}"[..])
    );
    assert_eq!(stored_spans(&store).await, 2);
    served.stop().await;
}

#[tokio::test]
async fn c2_c3_c4_c5_c6_n6_n7_n8_n12_j9_http_refuses_in_the_requests_own_format() {
    let (served, _store) = Served::usual().await;
    let large = vec![b' '; 30_000_000];
    let zeros = gzip(&vec![0; 200 << 20]);
    let gzipped = ("content-encoding", "gzip");
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let rows: Vec<(&str, Headers, Vec<u8>, u16, Code)> = vec![
        (
            "C3",
            vec![PROTOBUF, ("content-encoding", "br")],
            vec![],
            415,
            Code::Unimplemented,
        ),
        (
            "C3",
            vec![JSON, gzipped, gzipped],
            vec![],
            415,
            Code::Unimplemented,
        ),
        (
            "C3",
            vec![PROTOBUF, ("content-encoding", "snappy")],
            vec![],
            415,
            Code::Unimplemented,
        ),
        (
            "C3",
            vec![JSON, ("content-encoding", "lz4")],
            vec![],
            415,
            Code::Unimplemented,
        ),
        (
            "C4",
            vec![PROTOBUF],
            large.clone(),
            413,
            Code::ResourceExhausted,
        ),
        (
            "C4",
            vec![JSON],
            large.clone(),
            413,
            Code::ResourceExhausted,
        ),
        (
            "C5",
            vec![PROTOBUF, gzipped],
            gzip(b"x")[..9].into(),
            400,
            Code::InvalidArgument,
        ),
        (
            "C6",
            vec![PROTOBUF, gzipped],
            zeros,
            413,
            Code::ResourceExhausted,
        ),
        (
            "N7",
            vec![PROTOBUF],
            b"hello, world".into(),
            400,
            Code::InvalidArgument,
        ),
        (
            "N7",
            vec![JSON],
            b"hello, world".into(),
            400,
            Code::InvalidArgument,
        ),
        (
            "N7",
            vec![JSON],
            b"{\"name\":\"\xff\"}".into(),
            400,
            Code::InvalidArgument,
        ),
        (
            "J9",
            vec![JSON],
            deep.into_bytes(),
            400,
            Code::InvalidArgument,
        ),
        ("N12", vec![], vec![], 415, Code::Unimplemented),
        (
            "N12",
            vec![("content-type", "text/plain")],
            large,
            415,
            Code::Unimplemented,
        ),
    ];
    for (id, headers, body, status, code) in rows {
        let reply = served.post(&headers, body).await;
        assert_eq!(reply.status, status, "{id} {headers:?}");
        let format = if headers.contains(&PROTOBUF) {
            PROTOBUF.1
        } else {
            JSON.1
        };
        assert_eq!(reply.header("content-type"), format, "{id}");
        assert_eq!(reply.status_code(), code as i32, "{id}");
        assert_eq!(reply.header("retry-after"), "", "{id}");
        if id == "C3" {
            assert!(reply.header("accept-encoding").contains("gzip"));
            let told = String::from_utf8_lossy(&reply.body);
            assert!(told.contains("gzip, deflate, zstd"), "{told}");
        }
        if id == "N7" && format == PROTOBUF.1 {
            let details = tonic_types::pb::Status::decode(&reply.body[..])
                .unwrap()
                .details;
            assert_eq!(
                details[0].type_url,
                "type.googleapis.com/google.rpc.BadRequest"
            );
        }
    }
    served.stop().await;
}

#[tokio::test]
async fn c8_answers_are_not_compressed_because_they_are_tiny() {
    let (served, _store) = Served::usual().await;
    let reply = served
        .post(&[JSON, ("accept-encoding", "gzip, zstd")], "{}")
        .await;
    assert_eq!(
        (reply.header("content-encoding"), &reply.body[..]),
        ("", &b"{}"[..])
    );
    served.stop().await;
}

#[tokio::test]
async fn t4_t8_n6_n12_http_answers_on_other_paths() {
    let (served, _store) = Served::usual().await;
    let ask =
        async |method, path, header| served.ask(false, method, path, &[header], "ignored").await;
    for path in ["/v1/logs", "/v1/metrics"] {
        let reply = ask(Method::POST, path, PROTOBUF).await;
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b""[..]));
        let reply = ask(Method::POST, path, JSON).await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (StatusCode::OK, &b"{}"[..])
        );
    }
    assert_eq!(served.receiver.stats().counts().other_signals, 4);
    let reply = ask(Method::PUT, "/v1/traces", JSON).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.header("allow"), "POST, OPTIONS");
    assert_eq!(reply.status_code(), Code::Unimplemented as i32);
    let reply = ask(Method::POST, "/v2/traces", PROTOBUF).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.status_code(), Code::NotFound as i32);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(Method::GET, path, JSON).await.status, StatusCode::OK);
    }
    let refused = served.receiver.stats().snapshot().refused_requests;
    assert_eq!(refused[Refusal::Unknown as usize].1, 2);
    served.stop().await;
}

#[tokio::test]
async fn t4_other_signals_can_be_rejected() {
    let (served, _store) = Served::with(Options {
        other_signals: OtherSignals::Reject,
        ..Options::default()
    })
    .await;
    for path in ["/v1/logs", "/v1/metrics"] {
        let reply = served.ask(false, Method::POST, path, &[PROTOBUF], "").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert_eq!(reply.status_code(), Code::Unimplemented as i32);
    }
    let logs = "opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let reply = served.call_method(logs, &[], framed(0, b"")).await;
    assert_eq!(reply.grpc_status(), Code::Unimplemented as i32);
    let counted = served.receiver.stats().snapshot().other_signals;
    assert_eq!(counted.map(|it| it.1), [2, 1]);
    served.stop().await;
}

/// A client that has sent its body reads the refusal and goes on with the same connection; one
/// that asks first is refused before it sends, or told to go on.
#[tokio::test]
async fn n14_http_1_connections_outlive_refusals() {
    let (served, store) = Served::usual().await;
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let length = 21 << 20;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; length]).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 413"));
    let next = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 2\r\n\r\n{}";
    stream.write_all(next.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.contains("HTTP/1.1 200"));

    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let asking = head.replace("host: x", "host: x\r\nexpect: 100-continue");
    stream.write_all(asking.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 413"));

    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let body = spans(1).encode_to_vec();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 100"));
    stream.write_all(&body).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));

    // The same connection, in chunks of one byte, with an extension and a trailer.
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let mut chunked = head.as_bytes().to_vec();
    for byte in &body {
        chunked.extend_from_slice(b"1;x=y\r\n");
        chunked.extend_from_slice(&[*byte, b'\r', b'\n']);
    }
    chunked.extend_from_slice(b"0\r\nx-trailer: 1\r\n\r\n");
    stream.write_all(&chunked).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(stored_spans(&store).await, 2);
    served.stop().await;
}

/// One response, as far as it comes in one go: they are tiny.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut text = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut text));
    let length = read.await.expect("an answer in time").unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_t5_c1_c2_n3_n4_n11_grpc_takes_every_encoding_and_many_calls_at_once() {
    let (served, store) = Served::usual().await;
    let mut client = served.grpc().await;
    let response = client.export(spans(5)).await.unwrap().into_inner();
    assert_eq!(response.partial_success, None);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = served.grpc().await.send_compressed(encoding);
        client.export(spans(5)).await.unwrap();
    }
    let response = client.export(half_valid()).await.unwrap().into_inner();
    assert_eq!(response.partial_success.unwrap().rejected_spans, 1);
    client
        .export(ExportTraceServiceRequest::default())
        .await
        .unwrap();
    assert_eq!(stored_spans(&store).await, 16);
    let deflated = [("grpc-encoding", "deflate")];
    let frame = framed(1, &deflate(&spans(1).encode_to_vec()));
    assert_eq!(served.call(&deflated, frame).await.grpc_status(), 0);

    let calls: Vec<_> = (0..100)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.export(spans(2)).await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(stored_spans(&store).await, 217);
    served.stop().await;
}

/// By hand, because clients make no such frames.
#[tokio::test]
async fn c3_c4_c5_c6_n7_n8_s1_s3_s8_grpc_refuses_with_codes_that_are_not_retried() {
    let (served, _store) = Served::usual().await;
    let good = spans(1).encode_to_vec();
    let gzipped = [("grpc-encoding", "gzip")];
    let snappy = [("grpc-encoding", "snappy")];
    let zeros = gzip(&vec![0; 200 << 20]);
    let rows: Vec<(&str, &[Header], Vec<u8>, Code)> = vec![
        ("fine", &[], framed(0, &good), Code::Ok),
        ("fine", &gzipped, framed(0, &good), Code::Ok),
        ("C3", &snappy, framed(1, &good), Code::Unimplemented),
        (
            "C4",
            &[],
            framed(0, &vec![0; 21 << 20]),
            Code::ResourceExhausted,
        ),
        (
            "C5",
            &gzipped,
            framed(1, &gzip(&good)[..20]),
            Code::InvalidArgument,
        ),
        ("C6", &gzipped, framed(1, &zeros), Code::ResourceExhausted),
        ("N7", &[], framed(0, b"hello, world"), Code::InvalidArgument),
        ("N7", &[], framed(1, &good), Code::InvalidArgument),
        ("N7", &[], framed(7, &good), Code::InvalidArgument),
        (
            "N7",
            &[],
            framed(0, &good)[..9].into(),
            Code::InvalidArgument,
        ),
        (
            "N7",
            &[],
            [framed(0, &good), framed(0, &good)].concat(),
            Code::InvalidArgument,
        ),
        ("N7", &[], vec![], Code::InvalidArgument),
        (
            "S3",
            &[],
            vec![0, 255, 255, 255, 255],
            Code::InvalidArgument,
        ),
        ("S8", &[], framed(0, &named(b"\xff")), Code::InvalidArgument),
    ];
    for (id, headers, frame, code) in rows {
        let reply = served.call(headers, frame).await;
        assert_eq!(reply.status, StatusCode::OK, "{id}");
        assert_eq!(reply.grpc_status(), code as i32, "{id} {headers:?}");
        // Never with a delay: that would make a client come again.
        let has_details = !reply.header("grpc-status-details-bin").is_empty();
        assert_eq!(has_details, code == Code::InvalidArgument, "{id}");
        assert!(
            reply.header("grpc-accept-encoding").contains("gzip"),
            "{id}"
        );
    }
    // A real client sees the same.
    let mut client = served.grpc().await;
    let mut large = spans(1);
    large.resource_spans[0].schema_url = "x".repeat(21 << 20);
    let status = client.export(large).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_none());
    served.stop().await;
}

#[tokio::test]
async fn t4_t8_grpc_answers_other_services() {
    let (served, _store) = Served::usual().await;
    for path in [
        "opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "opentelemetry.proto.collector.traces.v9.TraceService/Export",
    ] {
        let request = Request::post(format!("http://{}/{path}", served.grpc))
            .header("content-type", "application/grpc+proto")
            .body(Full::new(framed(0, b"").into()))
            .unwrap();
        let reply = served.send(true, request).await;
        let code = if path.contains("v9") {
            Code::Unimplemented
        } else {
            Code::Ok
        };
        assert_eq!(reply.grpc_status(), code as i32, "{path}");
    }
    for service in ["", "opentelemetry.proto.collector.trace.v1.TraceService"] {
        let asked = HealthCheckRequest {
            service: service.into(),
        };
        let answer = served.health().await.check(asked).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest {
        service: "none.such".into(),
    };
    let error = served.health().await.check(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    for (content_type, status) in [("application/json", 415), ("application/grpc+json", 200)] {
        let path = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let request = Request::post(format!("http://{}/{path}", served.grpc))
            .header("content-type", content_type)
            .body(Full::new("{}".into()))
            .unwrap();
        let reply = served.send(true, request).await;
        assert_eq!(reply.status, status);
        if status == 200 {
            assert_eq!(reply.grpc_status(), Code::Unimplemented as i32);
        }
    }
    served.stop().await;
}

/// A balancer that watches keeps its call open; it must not hold up the way out.
#[tokio::test(flavor = "multi_thread")]
async fn t8_t10_watchers_of_health_are_told_and_let_go() {
    let (served, _store) = Served::usual().await;
    let mut health = served.watch_health().await;
    let first = health.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    served.shutdown.cancel();
    let told = tokio::time::timeout(Duration::from_secs(20), health.message()).await;
    let told = told.expect("watchers are told").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    let end = tokio::time::timeout(Duration::from_secs(20), health.message()).await;
    assert!(end.expect("the call ends").unwrap().is_none());
    drop(health);
    served.stop().await;
}

#[tokio::test]
async fn t3_every_port_takes_both_protocols() {
    let (mut served, store) = Served::usual().await;
    std::mem::swap(&mut served.http, &mut served.grpc);
    let reply = served.post(&[JSON], "{}").await;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (StatusCode::OK, &b"{}"[..])
    );
    served.grpc().await.export(spans(2)).await.unwrap();
    let unknown = served
        .call_method("no.such.Service/Export", &[], framed(0, b""))
        .await;
    assert_eq!(unknown.grpc_status(), Code::Unimplemented as i32);
    let reply = served
        .ask(true, Method::POST, "/none", &[PROTOBUF], "")
        .await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(stored_spans(&store).await, 2);
    served.stop().await;
}

#[tokio::test]
async fn n6_n9_n10_overload_is_told_to_come_again() {
    let (served, store) = Served::with(limited(Limits {
        in_flight_bytes_max: 1000,
        ..Limits::default()
    }))
    .await;
    let request = spans(100);
    let reply = served.post(&[PROTOBUF], request.encode_to_vec()).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.status_code(), Code::Unavailable as i32);
    assert!((1..=3).contains(&reply.header("retry-after").parse().unwrap()));
    let status = served.grpc().await.export(request).await.unwrap_err();
    check_retry_info(&status);
    assert_eq!(served.post(&[JSON], "{}").await.status, StatusCode::OK);
    assert_eq!(stored_spans(&store).await, 0);
    assert_eq!(served.receiver.stats().counts().overloaded, 2);
    served.stop().await;
}

/// An announced body that does not come holds neither memory nor a request for ever.
#[tokio::test]
async fn s3_n9_slow_bodies_are_told_to_come_again() {
    let (served, _store) = Served::with(limited(Limits {
        body_deadline: Duration::from_millis(200),
        ..Limits::default()
    }))
    .await;
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 20000000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while served.receiver.in_flight_bytes() == 0 {
        assert!(Instant::now() < deadline, "the body is being read");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(served.receiver.in_flight_bytes(), 1);
    while served.receiver.in_flight_bytes() > 0 {
        assert!(Instant::now() < deadline, "the deadline ends it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while served.receiver.stats().counts().unavailable == 0 {
        assert!(Instant::now() < deadline, "it is counted");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(stream);
    served.stop().await;
}

/// With a Postgres of its own, because it is stopped, and with the shards of a large one.
#[tokio::test(flavor = "multi_thread")]
async fn n6_n9_n10_t8_a_lost_database_is_told_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = crate::postgres::Options::ephemeral(directory.path().to_owned());
    let postgres = ManagedPostgres::start(options).await.unwrap();
    let store = Store::connect(postgres.connect_options("postgres"), 16);
    let store = store.await.unwrap();
    let served = Served::start(&store, Options::default()).await;
    served.grpc().await.export(spans(40)).await.unwrap();
    let counts = served.receiver.stats().counts();
    assert_eq!(counts.taken_spans, 40);
    assert_eq!(stored_spans(&store).await, 40);
    let mut health = served.watch_health().await;
    let first = health.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    postgres.stop().await;
    let reply = served.post(&[PROTOBUF], spans(1).encode_to_vec()).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.status_code(), Code::Unavailable as i32);
    assert!((1..=3).contains(&reply.header("retry-after").parse().unwrap()));
    let status = served.grpc().await.export(spans(1)).await.unwrap_err();
    check_retry_info(&status);
    let reply = served.ask(false, Method::GET, "/readyz", &[], "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let reply = served.ask(false, Method::GET, "/healthz", &[], "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let told = tokio::time::timeout(Duration::from_secs(20), health.message()).await;
    let told = told.expect("watchers are told").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    drop(health);
    served.stop().await;
}

fn check_retry_info(status: &tonic::Status) {
    assert_eq!(status.code(), Code::Unavailable);
    let delay = status.get_details_retry_info().unwrap().retry_delay;
    assert!((1..=3).contains(&delay.unwrap().as_secs()), "{delay:?}");
}
