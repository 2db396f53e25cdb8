//! Zipkin's v2 JSON → OTLP. Its server spans may share their client's id; the analysis knows that.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde::Deserialize;

use super::foreign::{Scope, Senders, add_database_system, add_tag, attribute, id, kind, ns, text};

/// A span.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    /// Microseconds since the Unix epoch.
    #[serde(default)]
    timestamp: Option<u64>,
    /// Microseconds.
    #[serde(default)]
    duration: Option<u64>,
    #[serde(default)]
    local_endpoint: Option<Endpoint>,
    #[serde(default)]
    remote_endpoint: Option<Endpoint>,
    #[serde(default)]
    annotations: Option<Vec<Annotation>>,
    #[serde(default)]
    tags: Option<serde_json::Map<String, serde_json::Value>>,
    /// Only version 1 has them.
    #[serde(default)]
    binary_annotations: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    service_name: Option<String>,
    #[serde(default)]
    ipv4: Option<String>,
    #[serde(default)]
    ipv6: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    timestamp: u64,
    #[serde(default)]
    value: String,
}

/// Reads a span, spans (`/api/v2/trace/{id}`, and what reporters send) or traces, which are lists of spans
/// (`/api/v2/traces`).
///
/// # Errors
/// What the JSON says is no such thing, and where.
pub fn parse(text: &str) -> serde_json::Result<Vec<Span>> {
    let opening = text.bytes().filter(|it| !it.is_ascii_whitespace());
    match opening.take_while(|it| *it == b'[').count() {
        0 => serde_json::from_str(text).map(|it| vec![it]),
        1 => serde_json::from_str(text),
        _ => serde_json::from_str::<Vec<Vec<Span>>>(text)
            .map(|it| it.into_iter().flatten().collect()),
    }
}

/// One request with all spans.
///
/// # Errors
/// The spans are of Zipkin's version 1.
pub fn to_otlp(spans: Vec<Span>) -> Result<ExportTraceServiceRequest, String> {
    let mut senders = Senders::default();
    let mut of_service: HashMap<(String, String), usize> = HashMap::new();
    for mut span in spans {
        if span.binary_annotations.is_some() {
            return Err(
                "spans of Zipkin's version 1 (binaryAnnotations); version 2 is read: \
                        ask /api/v2/traces, or report to /api/v2/spans"
                    .into(),
            );
        }
        let (service, host) = sender(span.local_endpoint.take());
        let sender = *of_service
            .entry((service.clone(), host.clone()))
            .or_insert_with(|| {
                let mut resource = Vec::new();
                if !service.is_empty() {
                    resource.push(text("service.name", service));
                }
                if !host.is_empty() {
                    resource.push(text("host.ip", host));
                }
                senders.add(resource)
            });
        let (scope, span) = converted(span);
        senders.push(sender, scope, span);
    }
    Ok(senders.request())
}

fn sender(endpoint: Option<Endpoint>) -> (String, String) {
    let Some(endpoint) = endpoint else {
        return Default::default();
    };
    let host = endpoint.ipv4.or(endpoint.ipv6);
    (
        endpoint.service_name.unwrap_or_default(),
        host.unwrap_or_default(),
    )
}

fn converted(span: Span) -> (Scope, OtlpSpan) {
    let start_ns = ns(span.timestamp.unwrap_or(0));
    let mut otlp = OtlpSpan {
        trace_id: id(&span.trace_id, 16),
        span_id: id(&span.id, 8),
        parent_span_id: span.parent_id.map(|it| id(&it, 8)).unwrap_or_default(),
        name: span.name.unwrap_or_default(),
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns.saturating_add(ns(span.duration.unwrap_or(0))),
        ..OtlpSpan::default()
    };
    for annotation in span.annotations.unwrap_or_default() {
        otlp.events.push(Event {
            time_unix_nano: ns(annotation.timestamp),
            name: annotation.value,
            ..Event::default()
        });
    }
    let mut scope = Scope::default();
    for (key, value) in span.tags.unwrap_or_default() {
        let value = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        add_tag(&mut otlp, &mut scope, key, Value::StringValue(value));
    }
    if let Some(kind_name) = span.kind {
        otlp.kind = kind(&kind_name) as i32;
    }
    add_remote(&mut otlp, span.remote_endpoint);
    add_database_system(&mut otlp);
    (scope, otlp)
}

fn add_remote(span: &mut OtlpSpan, endpoint: Option<Endpoint>) {
    let Some(endpoint) = endpoint else {
        return;
    };
    if let Some(service) = endpoint.service_name.filter(|it| !it.is_empty()) {
        span.attributes.push(text("peer.service", service));
    }
    if let Some(address) = endpoint.ipv4.or(endpoint.ipv6) {
        span.attributes.push(text("network.peer.address", address));
    }
    if let Some(port) = endpoint.port.filter(|it| *it != 0) {
        let port = Value::IntValue(port.into());
        span.attributes.push(attribute("network.peer.port", port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ExportTraceServiceRequest, String> {
        to_otlp(parse(json).map_err(|it| it.to_string())?)
    }

    #[test]
    fn a_shared_span_and_its_client() {
        let request = read(
            r#"[{"traceId":"ab","id":"1","kind":"CLIENT","name":"get","timestamp":1000,"duration":50,
                 "localEndpoint":{"serviceName":"web"},"remoteEndpoint":{"serviceName":"shop","port":80},
                 "tags":{"http.method":"GET","error":"timeout"}},
                {"traceId":"ab","id":"1","kind":"SERVER","shared":true,"timestamp":1010,"duration":30,
                 "localEndpoint":{"serviceName":"shop","ipv4":"10.0.0.1"},
                 "annotations":[{"timestamp":1011,"value":"cache miss"}]}]"#,
        )
        .unwrap();
        let spans: Vec<_> = request
            .resource_spans
            .iter()
            .map(|it| &it.scope_spans[0].spans[0])
            .collect();
        assert_eq!(spans[0].span_id, spans[1].span_id);
        assert_eq!((spans[0].kind, spans[1].kind), (3, 2));
        assert_eq!(spans[0].status.as_ref().unwrap().message, "timeout");
        assert!(spans[0].attributes.contains(&text("peer.service", "shop")));
        assert_eq!(spans[1].events[0].name, "cache miss");
    }

    #[test]
    fn traces_spans_and_one_span() {
        for json in [
            r#"[[{"traceId":"1","id":"1"}],[]]"#,
            r#"[{"traceId":"1","id":"1"}]"#,
            r#"{"traceId":"1","id":"1"}"#,
        ] {
            assert_eq!(read(json).unwrap().resource_spans.len(), 1, "{json}");
        }
    }

    #[test]
    fn version_1_is_told_apart() {
        let old = r#"[{"traceId":"1","id":"1","binaryAnnotations":[]}]"#;
        assert!(read(old).unwrap_err().contains("version 1"));
    }
}
