//! Malformed requests get the right answer and harm nothing else.

use ::http::Request;
use prost::Message;
use std::io::Write;

use crate::support::culprit::{Culprit, data_directory};
use crate::support::http;
use crate::support::spans::{SERVER, export, hex, n_plus_one, now_ns, request, text, trace_id};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::Span;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

#[tokio::test]
async fn n7_n8_n11_n12_bad_requests_get_the_right_answer_and_harm_nothing() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let url = format!("{}/v1/traces", culprit.http);
    let large = vec![0_u8; 30 << 20];
    let cases: [(&str, &str, Vec<u8>, u16); 9] = [
        ("not protobuf", PROTOBUF, b"\xff\xff\xff\xff".to_vec(), 400),
        ("text as protobuf", PROTOBUF, b"hello".to_vec(), 400),
        ("not JSON", JSON, b"{\"resourceSpans\":".to_vec(), 400),
        ("JSON of another shape", JSON, b"[1,2]".to_vec(), 400),
        (
            "nested without end",
            JSON,
            [b"[".repeat(100_000), b"]".repeat(100_000)].concat(),
            400,
        ),
        ("empty protobuf", PROTOBUF, Vec::new(), 200),
        ("empty JSON", JSON, b"{}".to_vec(), 200),
        ("30 MB", PROTOBUF, large, 413),
        ("another content type", "text/plain", b"x".to_vec(), 415),
    ];
    for (case, content_type, body, expected) in cases {
        let (status, answer_type, answer) = http::post(&url, content_type, body).await;
        assert_eq!(
            status,
            expected,
            "{case}: {}",
            String::from_utf8_lossy(&answer)
        );
        if content_type == JSON {
            assert_eq!(answer_type, JSON, "{case}");
        }
    }
    let (status, _, _) = http::send(Request::get(&url), Default::default()).await;
    assert_eq!(status, 405);

    // And after all that a good trace is taken as ever.
    export(&culprit.grpc, n_plus_one(1, 5)).await.unwrap();
    culprit.trace(&hex(&trace_id(1))).await;
    assert!(culprit.terminate().await);
}

#[tokio::test]
async fn p1_n4_spans_with_bad_ids_are_rejected_one_by_one() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let good = Span {
        trace_id: trace_id(5),
        span_id: vec![7; 8],
        name: "GET /good".into(),
        kind: SERVER,
        start_time_unix_nano: now_ns(),
        end_time_unix_nano: now_ns() + 1_000,
        ..Span::default()
    };
    let spans = vec![
        Span {
            trace_id: vec![1; 15],
            ..good.clone()
        },
        good.clone(),
        Span {
            span_id: vec![1; 9],
            ..good.clone()
        },
        Span {
            trace_id: vec![0; 16],
            ..good.clone()
        },
        Span {
            span_id: Vec::new(),
            ..good
        },
    ];
    let url = format!("{}/v1/traces", culprit.http);
    let (status, _, body) = http::post(&url, PROTOBUF, request("ids", spans).encode_to_vec()).await;
    assert_eq!(status, 200);
    let answer = ExportTraceServiceResponse::decode(body)
        .unwrap()
        .partial_success
        .unwrap();
    assert_eq!(answer.rejected_spans, 4);
    assert!(!answer.error_message.is_empty());
    let stored = culprit.trace(&hex(&trace_id(5))).await;
    let spans = stored["resourceSpans"][0]["scopeSpans"][0]["spans"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(spans.len(), 1);
    assert!(culprit.terminate().await);
}

#[tokio::test]
async fn s6_s7_hostile_names_are_only_text() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let hostile =
        "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\0\u{202e}\"'";
    let mut export_request = n_plus_one(9, 30);
    let spans = &mut export_request.resource_spans[0].scope_spans[0].spans;
    spans[0].name = hostile.into();
    spans[0].attributes = vec![
        text("http.request.method", "GET"),
        text("http.route", hostile),
    ];
    spans[1].attributes.push(text(hostile, hostile));
    spans[1].name = hostile.into();
    let resource = export_request.resource_spans[0].resource.as_mut().unwrap();
    resource.attributes = vec![
        text("service.name", hostile),
        text("service.version", hostile),
    ];
    export(&culprit.grpc, export_request).await.unwrap();
    let id = hex(&trace_id(9));
    culprit.trace(&id).await;
    let finding = crate::support::eventually("the finding is on the list", async || {
        let list = culprit.get("/api/v1/bottlenecks").await;
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        first_number(&list, "id")
    })
    .await;
    let paths = [
        "/".into(),
        format!("/bottlenecks/{finding}"),
        "/services".into(),
        "/traces".into(),
        format!("/traces/{id}"),
        format!("/traces/{id}?span=0000000000000002"),
        "/status".into(),
    ];
    for path in paths {
        let page = scraper::Html::parse_document(&culprit.get(&path).await);
        let all = scraper::Selector::parse("*").unwrap();
        for element in page.select(&all) {
            let value = element.value();
            let from_us = value
                .attr("src")
                .is_some_and(|it| it.starts_with("/static/"));
            let data = value.attr("type") == Some("application/json");
            assert!(
                value.name() != "script" || from_us || data,
                "{path}: a script of a stranger's"
            );
            assert!(
                value.attr("onerror").is_none(),
                "{path}: an attribute of a stranger's"
            );
        }
    }
    assert!(culprit.terminate().await);
}

/// Ten gigabytes of zeros in a few hundred kilobytes, and in ten megabytes.
#[tokio::test]
async fn c6_s2_bombs_do_not_raise_the_peak_of_memory() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let url = format!("{}/v1/traces", culprit.http);
    let zeros = vec![0; 64 << 20];
    let zstd = zstd::bulk::compress(&zeros, 1).unwrap().repeat(160);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&zeros).unwrap();
        encoder.finish().unwrap().repeat(160)
    };
    assert!(zstd.len() < 1 << 20 && gzip.len() < 12 << 20);
    let before = culprit.peak_memory_bytes();
    for (encoding, bomb) in [("zstd", zstd), ("gzip", gzip)] {
        for _ in 0..4 {
            let request = Request::post(&url)
                .header("content-type", PROTOBUF)
                .header("content-encoding", encoding);
            let (status, _, _) = http::send(request, bomb.clone().into()).await;
            assert_eq!(status, 413, "{encoding}");
        }
    }
    let grown = culprit.peak_memory_bytes() - before;
    // What may be in flight, and as much again for what the allocator has not given back yet.
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    assert!(culprit.terminate().await);
}

#[tokio::test]
async fn n13_t4_cors_the_program_takes_the_receivers_flags() {
    let data = data_directory();
    let flags = [
        "--ingest-token=0123456789abcdef",
        "--cors-origin=https://*.example.com",
        "--unsupported-signals=reject",
    ];
    let culprit = Culprit::serve(data.path(), &flags).await;
    let url = format!("{}/v1/traces", culprit.http);
    let (status, _, _) = http::post(&url, JSON, "{}").await;
    assert_eq!(status, 401);
    for (path, expected) in [("traces", 200), ("logs", 404)] {
        let request = Request::post(format!("{}/v1/{path}", culprit.grpc))
            .header("content-type", JSON)
            .header("authorization", "Bearer 0123456789abcdef");
        let (status, _, _) = http::send(request, "{}".into()).await;
        assert_eq!(status, expected, "{path}");
    }
    let preflight = Request::options(&url)
        .header("origin", "https://shop.example.com")
        .header("access-control-request-method", "POST");
    let (status, _, _) = http::send(preflight, Default::default()).await;
    assert_eq!(status, 204);
    assert!(culprit.terminate().await);
}

/// The first value of `key` anywhere below, if it is a number.
fn first_number(value: &serde_json::Value, key: &str) -> Option<i64> {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(number) = fields.get(key).and_then(|it| it.as_i64()) {
                    return Some(number);
                }
                left.extend(fields.values());
            }
            serde_json::Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    None
}
