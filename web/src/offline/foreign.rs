//! What Jaeger's and Zipkin's formats share on their way to OTLP: ids in text, times in microseconds, and
//! tags that OTLP has fields of its own for.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// An attribute.
pub fn attribute(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// An attribute of text.
pub fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An id of `length` bytes. Zeros on the left may have been left out, and 64-bit trace ids are short. What
/// is no hexadecimal number gives an id of a wrong length, which is not accepted later on.
pub fn id(hex: &str, length: usize) -> Vec<u8> {
    let digits = hex.len();
    if digits == 0 || digits > 2 * length || !hex.bytes().all(|it| it.is_ascii_hexdigit()) {
        return vec![0xff; length + 1];
    }
    let mut bytes = vec![0; length];
    for (at, digit) in hex.bytes().rev().enumerate() {
        let digit = (digit as char).to_digit(16).unwrap_or(0) as u8;
        bytes[length - 1 - at / 2] |= digit << (4 * (at % 2));
    }
    bytes
}

/// Microseconds since the Unix epoch as nanoseconds; what does not fit is cut.
pub fn ns(us: u64) -> u64 {
    us.saturating_mul(1_000)
}

/// Old tags → what the analysis knows. OpenTracing's words came before OpenTelemetry's.
const RENAMED: &[(&str, &str)] = &[
    ("db.type", "db.system"),
    ("db.instance", "db.name"),
    ("sql.query", "db.statement"),
    ("peer.hostname", "net.peer.name"),
    ("peer.ipv4", "network.peer.address"),
    ("peer.ipv6", "network.peer.address"),
    ("peer.port", "net.peer.port"),
    ("http.path", "url.path"),
    ("message_bus.destination", "messaging.destination.name"),
];

/// Adds a tag to `span`: to the field that it stands for if there is one, to the attributes if not. Tags
/// that name the instrumentation go to `scope`.
pub fn add_tag(span: &mut Span, scope: &mut Scope, key: String, value: Value) {
    match key.as_str() {
        "span.kind" => span.kind = kind(&as_text(&value)) as i32,
        "error" => add_error(span, value),
        "otel.status_code" => {
            let code = match as_text(&value).to_ascii_uppercase().as_str() {
                "OK" => StatusCode::Ok,
                "ERROR" => StatusCode::Error,
                _ => return,
            };
            status(span).code = code as i32;
        }
        "otel.status_description" => status(span).message = as_text(&value),
        "otel.library.name" | "otel.scope.name" => scope.name = as_text(&value),
        "otel.library.version" | "otel.scope.version" => scope.version = as_text(&value),
        "w3c.tracestate" => span.trace_state = as_text(&value),
        // How the span once travelled to Jaeger.
        "internal.span.format" => {}
        other => {
            let renamed = RENAMED.iter().find(|it| it.0 == other);
            let key = renamed.map_or(key.as_str(), |it| it.1);
            span.attributes.push(attribute(key, value));
        }
    }
}

/// Jaeger says `true`, Zipkin what went wrong; `false` says nothing.
fn add_error(span: &mut Span, value: Value) {
    match value {
        Value::BoolValue(false) => {}
        Value::BoolValue(true) => status(span).code = StatusCode::Error as i32,
        value => {
            let said = as_text(&value);
            if said == "false" {
                return;
            }
            status(span).code = StatusCode::Error as i32;
            if said != "true" && status(span).message.is_empty() {
                status(span).message = said;
            }
        }
    }
}

fn status(span: &mut Span) -> &mut Status {
    span.status.get_or_insert_default()
}

/// A kind by its name in either case.
pub fn kind(name: &str) -> SpanKind {
    match name.to_ascii_lowercase().as_str() {
        "internal" => SpanKind::Internal,
        "server" => SpanKind::Server,
        "client" => SpanKind::Client,
        "producer" => SpanKind::Producer,
        "consumer" => SpanKind::Consumer,
        _ => SpanKind::Unspecified,
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(it) => it.to_string(),
        Value::IntValue(it) => it.to_string(),
        Value::DoubleValue(it) => it.to_string(),
        _ => String::new(),
    }
}

/// A statement without a word on its system is a database's all the same.
pub fn add_database_system(span: &mut Span) {
    let has = |keys: &[&str]| {
        let key = |it: &KeyValue| keys.contains(&it.key.as_str());
        span.attributes.iter().any(key)
    };
    if has(&["db.statement", "db.query.text"]) && !has(&["db.system", "db.system.name"]) {
        span.attributes.push(text("db.system", "other_sql"));
    }
    for it in &mut span.attributes {
        let sql = it.key == "db.system"
            && matches!(&it.value, Some(AnyValue { value: Some(Value::StringValue(it)) }) if it == "sql");
        if sql {
            *it = text("db.system", "other_sql");
        }
    }
}

/// An instrumentation.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope {
    /// Its name; often empty.
    pub name: String,
    /// Its version; often empty.
    pub version: String,
}

/// Spans by sender and instrumentation, which OTLP writes once for many spans.
#[derive(Debug, Default)]
pub struct Senders {
    request: ExportTraceServiceRequest,
    places: HashMap<(usize, Scope), usize>,
}

impl Senders {
    /// A further sender: its number.
    pub fn add(&mut self, attributes: Vec<KeyValue>) -> usize {
        self.request.resource_spans.push(ResourceSpans {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            ..ResourceSpans::default()
        });
        self.request.resource_spans.len() - 1
    }

    /// Adds a span of a sender.
    pub fn push(&mut self, sender: usize, scope: Scope, span: Span) {
        let scopes = &mut self.request.resource_spans[sender].scope_spans;
        let at = match self.places.get(&(sender, scope.clone())) {
            Some(at) => *at,
            None => {
                scopes.push(ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: scope.name.clone(),
                        version: scope.version.clone(),
                        ..InstrumentationScope::default()
                    }),
                    ..ScopeSpans::default()
                });
                self.places.insert((sender, scope), scopes.len() - 1);
                scopes.len() - 1
            }
        };
        scopes[at].spans.push(span);
    }

    /// All of them.
    pub fn request(self) -> ExportTraceServiceRequest {
        self.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_filled_up_on_the_left() {
        assert_eq!(id("1", 8), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(id("a1F", 2), [0x0a, 0x1f][..].to_vec());
        assert_eq!(id("12345", 2).len(), 3, "too long");
        assert_eq!(id("xyz", 8).len(), 9, "no number");
        assert_eq!(id("", 8).len(), 9, "nothing");
    }

    #[test]
    fn tags_that_have_a_field_go_there() {
        let mut span = Span::default();
        let mut scope = Scope::default();
        let tags = [
            ("span.kind", "client"),
            ("error", "refused"),
            ("otel.library.name", "pg"),
            ("internal.span.format", "proto"),
            ("sql.query", "select 1"),
        ];
        for (key, value) in tags {
            add_tag(
                &mut span,
                &mut scope,
                key.into(),
                Value::StringValue(value.into()),
            );
        }
        add_database_system(&mut span);
        assert_eq!(span.kind, SpanKind::Client as i32);
        let status = span.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "refused"));
        assert_eq!(scope.name, "pg");
        let keys: Vec<_> = span.attributes.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, ["db.statement", "db.system"]);
    }
}
