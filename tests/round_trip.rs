//! What goes in comes out: every field of a span, over every transport.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use serde_json::json;

use crate::support::culprit::{Culprit, data_directory};
use crate::support::http;
use crate::support::spans::{SERVER, attribute, export, hex, now_ns, request, text, trace_id};

/// A span with everything a span can have.
fn everything(number: u64) -> ExportTraceServiceRequest {
    let any = |value| AnyValue { value: Some(value) };
    let start_ns = now_ns();
    let attributes = vec![
        text("text", "grüße \"<script>\" \u{202e}rtl 🦀"),
        attribute("bool", Value::BoolValue(true)),
        attribute("int", Value::IntValue(-9_007_199_254_740_993)),
        attribute("double", Value::DoubleValue(0.1)),
        attribute("nan", Value::DoubleValue(f64::NAN)),
        attribute("bytes", Value::BytesValue(vec![0, 255, 1])),
        attribute(
            "array",
            Value::ArrayValue(ArrayValue {
                values: vec![any(Value::IntValue(1)), any(Value::StringValue("x".into()))],
            }),
        ),
        attribute(
            "map",
            Value::KvlistValue(KeyValueList {
                values: vec![text("inner", "value")],
            }),
        ),
        attribute("empty array", Value::ArrayValue(ArrayValue::default())),
    ];
    let mut request = request(
        "everything",
        vec![Span {
            trace_id: trace_id(number),
            span_id: vec![1, 2, 3, 4, 5, 6, 7, 8],
            trace_state: "vendor=x,ot=th:0".into(),
            flags: 0x0000_0301,
            name: "GET /everything".into(),
            kind: SERVER,
            start_time_unix_nano: start_ns,
            end_time_unix_nano: start_ns + 1_234_567,
            attributes,
            dropped_attributes_count: 3,
            events: vec![Event {
                time_unix_nano: start_ns + 5,
                name: "exception".into(),
                attributes: vec![text("exception.type", "Oops")],
                dropped_attributes_count: 1,
            }],
            dropped_events_count: 4,
            links: vec![Link {
                trace_id: trace_id(77),
                span_id: vec![9; 8],
                trace_state: "a=b".into(),
                attributes: vec![text("why", "because")],
                dropped_attributes_count: 2,
                flags: 0x100,
            }],
            dropped_links_count: 5,
            status: Some(Status {
                code: 2,
                message: "broken".into(),
            }),
            ..Span::default()
        }],
    );
    let resource_spans = &mut request.resource_spans[0];
    resource_spans.schema_url = "https://opentelemetry.io/schemas/1.44.0".into();
    resource_spans
        .resource
        .as_mut()
        .unwrap()
        .dropped_attributes_count = 6;
    let scope_spans = &mut resource_spans.scope_spans[0];
    scope_spans.schema_url = "https://opentelemetry.io/schemas/1.30.0".into();
    let scope = scope_spans.scope.as_mut().unwrap();
    scope.attributes = vec![text("scope", "attribute")];
    scope.dropped_attributes_count = 7;
    request
}

#[tokio::test]
async fn p6_every_field_of_a_span_comes_out_as_it_went_in() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    export(&culprit.grpc, everything(1)).await.unwrap();
    let url = format!("{}/v1/traces", culprit.http);
    let (status, _, _) = http::post(
        &url,
        "application/x-protobuf",
        everything(2).encode_to_vec(),
    )
    .await;
    assert_eq!(status, 200);

    let first = culprit.trace(&hex(&trace_id(1))).await;
    let second = culprit.trace(&hex(&trace_id(2))).await;
    let resource_spans = &first["resourceSpans"][0];
    let scope_spans = &resource_spans["scopeSpans"][0];
    let span = &scope_spans["spans"][0];
    let mut same_but_for_ids = second["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone();
    for key in ["traceId", "startTimeUnixNano", "endTimeUnixNano", "events"] {
        same_but_for_ids[key] = span[key].clone();
    }
    assert_eq!(*span, same_but_for_ids);

    assert_eq!(
        resource_spans["schemaUrl"],
        "https://opentelemetry.io/schemas/1.44.0"
    );
    assert_eq!(resource_spans["resource"]["droppedAttributesCount"], 6);
    assert_eq!(
        scope_spans["schemaUrl"],
        "https://opentelemetry.io/schemas/1.30.0"
    );
    assert_eq!(scope_spans["scope"]["attributes"][0]["key"], "scope");
    assert_eq!(scope_spans["scope"]["droppedAttributesCount"], 7);
    assert_eq!(span["spanId"], "0102030405060708");
    assert_eq!(span["traceState"], "vendor=x,ot=th:0");
    assert_eq!(span["flags"], 0x301);
    assert_eq!(span["kind"], 2);
    assert_eq!(span["status"], json!({"message": "broken", "code": 2}));
    assert_eq!(
        (
            &span["droppedAttributesCount"],
            &span["droppedEventsCount"],
            &span["droppedLinksCount"]
        ),
        (&json!(3), &json!(4), &json!(5))
    );
    assert_eq!(
        span["events"][0]["attributes"][0]["value"]["stringValue"],
        "Oops"
    );
    assert_eq!(span["events"][0]["droppedAttributesCount"], 1);
    assert_eq!(span["links"][0]["traceState"], "a=b");
    assert_eq!(span["links"][0]["flags"], 0x100);
    assert_eq!(span["links"][0]["droppedAttributesCount"], 2);
    let values: Vec<_> = span["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["value"].clone())
        .collect();
    assert_eq!(
        values,
        [
            json!({"stringValue": "grüße \"<script>\" \u{202e}rtl 🦀"}),
            json!({"boolValue": true}),
            json!({"intValue": "-9007199254740993"}),
            json!({"doubleValue": 0.1}),
            json!({"doubleValue": "NaN"}),
            json!({"bytesValue": "AP8B"}),
            json!({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}),
            json!({"kvlistValue": {"values": [{"key": "inner", "value": {"stringValue": "value"}}]}}),
            json!({"arrayValue": {}}),
        ]
    );

    // What came out goes in again, as another trace: JSON is a transport like the others.
    let third = first
        .to_string()
        .replace(&hex(&trace_id(1)), &hex(&trace_id(3)).to_uppercase());
    let (status, _, body) = http::post(&url, "application/json; charset=utf-8", third).await;
    assert_eq!((status, &body[..]), (200, &b"{}"[..]));
    let third = culprit.trace(&hex(&trace_id(3))).await.to_string();
    assert_eq!(
        third.replace(&hex(&trace_id(3)), &hex(&trace_id(1))),
        first.to_string()
    );
    assert!(culprit.terminate().await);
}
