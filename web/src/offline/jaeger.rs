//! Jaeger's JSON → OTLP: what its API answers and its UI saves (`{"data": […]}`), one trace of it, or a
//! list of them.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use serde::Deserialize;

use super::foreign::{Scope, Senders, add_database_system, add_tag, attribute, id, ns, text};

/// `{"data": […]}`.
#[derive(Deserialize)]
pub struct Answer {
    data: Option<Vec<Trace>>,
    #[serde(default)]
    errors: Option<Vec<Problem>>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    msg: String,
}

/// One trace.
#[derive(Deserialize)]
pub struct Trace {
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    processes: HashMap<String, Process>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(rename = "parentSpanID", default)]
    parent_span_id: Option<String>,
    #[serde(default)]
    operation_name: String,
    #[serde(default)]
    references: Option<Vec<Reference>>,
    /// Microseconds since the Unix epoch.
    #[serde(default)]
    start_time: u64,
    /// Microseconds.
    #[serde(default)]
    duration: u64,
    #[serde(default)]
    tags: Option<Vec<Tag>>,
    #[serde(default)]
    logs: Option<Vec<Log>>,
    #[serde(rename = "processID", default)]
    process_id: Option<String>,
    #[serde(default)]
    process: Option<Process>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(rename = "refType", default)]
    kind: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    value: serde_json::Value,
}

#[derive(Deserialize)]
struct Log {
    /// Microseconds since the Unix epoch.
    #[serde(default)]
    timestamp: u64,
    #[serde(default)]
    fields: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    service_name: String,
    #[serde(default)]
    tags: Option<Vec<Tag>>,
}

/// Reads a trace, or a list of them.
///
/// # Errors
/// What the JSON says is no such thing, and where.
pub fn parse(text: &str) -> serde_json::Result<Vec<Trace>> {
    match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|it| vec![it]),
    }
}

/// The traces of an answer.
///
/// # Errors
/// What Jaeger said instead of giving any.
pub fn traces(answer: Answer) -> Result<Vec<Trace>, String> {
    match (answer.data, answer.errors.unwrap_or_default().first()) {
        (Some(data), _) if !data.is_empty() => Ok(data),
        (_, Some(problem)) => Err(format!("Jaeger answered with an error: {}", problem.msg)),
        (data, None) => Ok(data.unwrap_or_default()),
    }
}

/// One request with all spans of the traces.
pub fn to_otlp(traces: Vec<Trace>) -> ExportTraceServiceRequest {
    let mut senders = Senders::default();
    for trace in traces {
        let mut of_process: HashMap<String, usize> = HashMap::new();
        for (process_id, process) in trace.processes {
            of_process.insert(process_id, senders.add(resource(process)));
        }
        for mut span in trace.spans {
            let sender = match span.process.take() {
                Some(process) => senders.add(resource(process)),
                None => {
                    let process_id = span.process_id.take().unwrap_or_default();
                    let unnamed = || senders.add(Vec::new());
                    *of_process.entry(process_id).or_insert_with(unnamed)
                }
            };
            let (scope, span) = converted(span);
            senders.push(sender, scope, span);
        }
    }
    senders.request()
}

fn resource(process: Process) -> Vec<KeyValue> {
    let mut attributes = vec![text("service.name", process.service_name)];
    for tag in process.tags.unwrap_or_default() {
        let key = match tag.key.as_str() {
            "hostname" => "host.name",
            "ip" => "host.ip",
            other => other,
        };
        if let Some(value) = value(&tag.kind, tag.value) {
            attributes.push(attribute(key, value));
        }
    }
    attributes
}

fn converted(span: Span) -> (Scope, OtlpSpan) {
    let start_ns = ns(span.start_time);
    let mut otlp = OtlpSpan {
        trace_id: id(&span.trace_id, 16),
        span_id: id(&span.span_id, 8),
        name: span.operation_name,
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns.saturating_add(ns(span.duration)),
        events: span
            .logs
            .unwrap_or_default()
            .into_iter()
            .map(event)
            .collect(),
        ..OtlpSpan::default()
    };
    let (parent, links) = relations(&span.trace_id, span.references.unwrap_or_default());
    let parent = parent.or(span.parent_span_id);
    let parent = parent.filter(|it| it.bytes().any(|digit| digit != b'0'));
    otlp.parent_span_id = parent.map(|it| id(&it, 8)).unwrap_or_default();
    otlp.links = links;
    let mut scope = Scope::default();
    for tag in span.tags.unwrap_or_default() {
        if let Some(value) = value(&tag.kind, tag.value) {
            add_tag(&mut otlp, &mut scope, tag.key, value);
        }
    }
    add_database_system(&mut otlp);
    (scope, otlp)
}

/// The parent is the first `CHILD_OF` within the trace; without one, as Jaeger has it, the first
/// `FOLLOWS_FROM`. Everything else is a link.
fn relations(trace_id: &str, references: Vec<Reference>) -> (Option<String>, Vec<Link>) {
    let within = |it: &Reference| it.trace_id == trace_id;
    let parent = references
        .iter()
        .position(|it| within(it) && it.kind == "CHILD_OF")
        .or_else(|| references.iter().position(within));
    let mut parent_id = None;
    let mut links = Vec::new();
    for (at, reference) in references.into_iter().enumerate() {
        if Some(at) == parent {
            parent_id = Some(reference.span_id);
        } else {
            links.push(Link {
                trace_id: id(&reference.trace_id, 16),
                span_id: id(&reference.span_id, 8),
                ..Link::default()
            });
        }
    }
    (parent_id, links)
}

fn event(log: Log) -> Event {
    let mut event = Event {
        time_unix_nano: ns(log.timestamp),
        ..Event::default()
    };
    for field in log.fields {
        match value(&field.kind, field.value) {
            Some(Value::StringValue(name)) if field.key == "event" => event.name = name,
            Some(value) => event.attributes.push(attribute(field.key, value)),
            None => {}
        }
    }
    event
}

/// A tag's value by its type; whole numbers may stand in quotes, as they do not fit JavaScript's.
fn value(kind: &str, value: serde_json::Value) -> Option<Value> {
    Some(match value {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(it) => Value::BoolValue(it),
        serde_json::Value::Number(it) => match it.as_i64() {
            Some(whole) if kind != "float64" => Value::IntValue(whole),
            _ => Value::DoubleValue(it.as_f64()?),
        },
        serde_json::Value::String(it) => match kind {
            "int64" => it.parse().map(Value::IntValue).ok()?,
            "float64" => it.parse().map(Value::DoubleValue).ok()?,
            "bool" => Value::BoolValue(it == "true"),
            _ => Value::StringValue(it),
        },
        nested => Value::StringValue(nested.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_with_everything() {
        let answer = r#"{"data":[{"traceID":"ab","spans":[{
            "traceID":"ab","spanID":"2","operationName":"SELECT","flags":1,
            "references":[{"refType":"FOLLOWS_FROM","traceID":"cd","spanID":"9"},
                          {"refType":"CHILD_OF","traceID":"ab","spanID":"1"}],
            "startTime":1000,"duration":5,
            "tags":[{"key":"span.kind","type":"string","value":"client"},
                    {"key":"db.statement","type":"string","value":"select 1"},
                    {"key":"rows","type":"int64","value":"9007199254740993"},
                    {"key":"error","type":"bool","value":true}],
            "logs":[{"timestamp":1001,"fields":[{"key":"event","type":"string","value":"retry"},
                                                {"key":"n","type":"int64","value":2}]}],
            "processID":"p1","warnings":null}],
            "processes":{"p1":{"serviceName":"shop","tags":[{"key":"hostname","type":"string","value":"h"}]}}}],
            "total":0,"errors":null}"#;
        let answer: Answer = serde_json::from_str(answer).unwrap();
        let request = to_otlp(traces(answer).unwrap());
        let [sender] = &request.resource_spans[..] else {
            panic!("one sender");
        };
        let resource = &sender.resource.as_ref().unwrap().attributes;
        assert_eq!(
            resource[..],
            [text("service.name", "shop"), text("host.name", "h")]
        );
        let span = &sender.scope_spans[0].spans[0];
        assert_eq!(span.parent_span_id, id("1", 8));
        assert_eq!(span.links[0].trace_id, id("cd", 16));
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano),
            (1_000_000, 1_005_000)
        );
        assert_eq!((span.kind, span.status.as_ref().unwrap().code), (3, 2));
        let rows = attribute("rows", Value::IntValue(9_007_199_254_740_993));
        assert_eq!(span.attributes[1], rows);
        assert_eq!(
            (
                span.events[0].name.as_str(),
                span.events[0].attributes.len()
            ),
            ("retry", 1)
        );
    }

    #[test]
    fn what_jaeger_refused_is_told() {
        let answer = r#"{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}"#;
        let error = traces(serde_json::from_str(answer).unwrap()).err().unwrap();
        assert!(error.contains("trace not found"), "{error}");
    }
}
