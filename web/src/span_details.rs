//! Everything a span carries, as text for its panel.
//!
//! Literals in statements and bound parameters are hidden unless asked for: pages are shown around,
//! and the values are often somebody's. The JSON export holds them as they came.

use std::ops::Range;

use analyzer::Analysis;
use analyzer::category::Category;
use analyzer::span::{Attribute, Event, SpanKind, Status, Value};
use analyzer::sql;
use analyzer::trace::SpanIdx;

use crate::format::duration;
use crate::indexed::Indexed;

/// Attributes of one span, event or link on the page; SDKs send at most 128 unless told otherwise.
/// Further ones are counted and stand in the JSON.
const ATTRIBUTES_MAX: usize = 200;

/// Events, and links, of one span on the page; further ones are counted and stand in the JSON.
const EVENTS_MAX: usize = 100;

/// Characters of one value on the page: a long stack trace. The rest stands in the JSON.
const VALUE_CHARS_MAX: usize = 8_000;

/// Attributes that hold a statement.
const STATEMENT_KEYS: [&str; 2] = ["db.query.text", "db.statement"];

/// Beginnings of the keys of attributes that hold bound parameters.
const PARAMETER_PREFIXES: [&str; 3] = [
    "db.query.parameter",
    "db.operation.parameter",
    "db.statement.parameter",
];

/// A span, ready to be shown. All text is as sent: escape it.
#[derive(Clone, PartialEq, Debug)]
pub struct Details {
    /// Which span.
    pub span: SpanIdx,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The parent it names, whether it has arrived or not.
    pub parent_id: Option<String>,
    /// The parent has not arrived.
    pub orphan: bool,
    /// Its name, as sent.
    pub name: String,
    /// What the waterfall calls it.
    pub short: String,
    /// `client span`.
    pub kind: &'static str,
    /// `service.name`.
    pub service: String,
    /// The kind of its own time.
    pub category: Category,
    /// Duration, ns, corrected.
    pub duration_ns: u64,
    /// Time in which no child ran, ns.
    pub own_ns: u64,
    /// Start, ns after the start of the trace, corrected.
    pub offset_ns: u64,
    /// How far its clock was corrected, ns; positive if it was moved to later.
    pub moved_ns: i64,
    /// The outcome and its text, if any was reported.
    pub status: Option<(&'static str, String)>,
    /// `file:line function`.
    pub code: Option<String>,
    /// Its attributes.
    pub attributes: Pairs,
    /// Literals or parameters are hidden in `attributes`.
    pub masked: bool,
    /// Its statement on several lines, without its literals unless they are asked for.
    pub statement: Option<String>,
    /// All of it as JSON, as the panel shows it.
    pub json: String,
    /// Its sender's attributes.
    pub resource: Pairs,
    /// Instrumentation library and version.
    pub scope: String,
    /// `tracestate`, as sent.
    pub trace_state: String,
    /// Flags, as sent.
    pub flags: u32,
    /// What happened in it.
    pub events: Vec<EventDetails>,
    /// Events that are not in `events`.
    pub events_left: usize,
    /// Other spans it points to.
    pub links: Vec<LinkDetails>,
    /// Links that are not in `links`.
    pub links_left: usize,
}

/// Keys and values.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Pairs {
    /// In order of arrival.
    pub shown: Vec<(String, String)>,
    /// How many are not shown.
    pub left: usize,
}

impl Pairs {
    /// All of them, shown or not.
    pub fn count(&self) -> usize {
        self.shown.len() + self.left
    }
}

/// An event.
#[derive(Clone, PartialEq, Debug)]
pub struct EventDetails {
    /// ns after the span's start, by the sender's clock; negative if before.
    pub offset_ns: i64,
    /// Its name.
    pub name: String,
    /// What it says: an exception's type and message, a log record's text. Empty if it says nothing.
    pub text: String,
    /// Its attributes.
    pub attributes: Pairs,
}

impl EventDetails {
    /// When it happened: `after 1.2 ms`.
    pub fn at(&self) -> String {
        let distance = duration(self.offset_ns.unsigned_abs());
        if self.offset_ns < 0 {
            format!("{distance} before the span")
        } else {
            format!("after {distance}")
        }
    }
}

/// A link.
#[derive(Clone, PartialEq, Debug)]
pub struct LinkDetails {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// Its attributes.
    pub attributes: Pairs,
}

/// The details of `span`. Literals are shown if `raw`.
pub fn details(indexed: &Indexed<'_, '_>, span: SpanIdx, raw: bool) -> Details {
    let (analysis, names) = (indexed.analysis, &indexed.names);
    let spans = &analysis.trace.spans;
    let sent = analysis.trace.span(span);
    let node = analysis.trace.node(span);
    let system = spans
        .text(sent, &["db.system.name", "db.system"])
        .unwrap_or_default();
    let own_attributes = spans.attributes_at(&sent.attributes);
    let attributes = pairs(own_attributes, |it| shown(it, system, raw));
    let plain = |range: &Range<u32>| pairs(spans.attributes_at(range), |it| value_text(&it.value));
    let events = &spans.events[sent.events.start as usize..sent.events.end as usize];
    // In order of time, whatever the order in which they were recorded.
    let mut events: Vec<&Event<'_>> = events.iter().collect();
    events.sort_by_key(|it| it.time_ns);
    let links = &spans.links[sent.links.start as usize..sent.links.end as usize];
    let statement = own_attributes
        .iter()
        .find(|it| STATEMENT_KEYS.contains(&it.key) && matches!(it.value, Value::Str(_)))
        .map(|it| cut(sql::laid_out(&shown(it, system, raw), system)));
    let mut details = Details {
        statement,
        json: String::new(),
        span,
        id: sent.id.to_string(),
        parent_id: sent.parent_id.map(|it| it.to_string()),
        orphan: node.orphan,
        name: sent.name.to_owned(),
        short: names.name(span).to_owned(),
        kind: kind(sent.kind),
        service: names.service(span).to_owned(),
        category: analysis.categories[span as usize],
        duration_ns: node.end_ns - node.start_ns,
        own_ns: indexed.own_ns[span as usize],
        offset_ns: node.start_ns - indexed.start_ns,
        moved_ns: node.start_ns.wrapping_sub(sent.start_ns) as i64,
        status: status(sent.status, sent.status_message),
        code: code(analysis, span),
        masked: !raw
            && own_attributes
                .iter()
                .any(|it| shown(it, system, false) != value_text(&it.value)),
        attributes,
        resource: spans
            .resources
            .get(sent.resource as usize)
            .map(|it| pairs(&it.attributes, |it| value_text(&it.value)))
            .unwrap_or_default(),
        scope: scope(analysis, span),
        trace_state: sent.trace_state.to_owned(),
        flags: sent.flags,
        events: events
            .iter()
            .take(EVENTS_MAX)
            .map(|it| EventDetails {
                offset_ns: it.time_ns.wrapping_sub(sent.start_ns) as i64,
                name: it.name.to_owned(),
                text: event_text(spans.attributes_at(&it.attributes)),
                attributes: plain(&it.attributes),
            })
            .collect(),
        events_left: events.len().saturating_sub(EVENTS_MAX),
        links: links
            .iter()
            .take(EVENTS_MAX)
            .map(|it| LinkDetails {
                trace_id: it.trace_id.to_string(),
                span_id: it.span_id.to_string(),
                attributes: plain(&it.attributes),
            })
            .collect(),
        links_left: links.len().saturating_sub(EVENTS_MAX),
    };
    details.json = json(analysis, &details, |it| shown(it, system, raw));
    details
}

/// What an event says in one line, by the usual names.
fn event_text(attributes: &[Attribute<'_>]) -> String {
    let text = |keys: &[&str]| {
        let found = keys
            .iter()
            .find_map(|key| attributes.iter().find(|it| it.key == *key));
        found.map(|it| value_text(&it.value)).unwrap_or_default()
    };
    let kind = text(&["exception.type", "log.severity", "level"]);
    let message = text(&["exception.message", "log.message", "message", "body"]);
    let line = match (kind.is_empty(), message.is_empty()) {
        (false, false) => format!("{kind}: {message}"),
        _ => kind + &message,
    };
    cut(line)
}

/// The span as JSON, for a message or a ticket: what the panel shows, with numbers as numbers.
fn json(
    analysis: &Analysis<'_>,
    details: &Details,
    shown: impl Fn(&Attribute<'_>) -> String,
) -> String {
    use serde_json::{Map, Value as Json, json};
    let sent = analysis.trace.span(details.span);
    let own = analysis.trace.spans.attributes_at(&sent.attributes);
    let attributes: Map<String, Json> = own
        .iter()
        .take(ATTRIBUTES_MAX)
        .map(|it| {
            let text = shown(it);
            let value = match it.value {
                // What is hidden stays hidden, numbers too.
                _ if text != value_text(&it.value) => text.into(),
                Value::Int(number) => number.into(),
                Value::Bool(yes) => yes.into(),
                Value::Double(number) => number.into(),
                _ => cut(text).into(),
            };
            (it.key.to_owned(), value)
        })
        .collect();
    let events: Vec<Json> = details
        .events
        .iter()
        .map(|it| json!({"name": it.name, "offset_ns": it.offset_ns}))
        .collect();
    let span = json!({
        "trace_id": sent.trace_id.to_string(),
        "span_id": details.id,
        "parent_id": details.parent_id,
        "name": details.name,
        "service": details.service,
        "kind": details.kind,
        "start_ns": sent.start_ns,
        "duration_ns": details.duration_ns,
        "status": details.status.as_ref().map(|it| it.0),
        "attributes": attributes,
        "events": events,
    });
    serde_json::to_string_pretty(&span).unwrap_or_default()
}

fn pairs(attributes: &[Attribute<'_>], text: impl Fn(&Attribute<'_>) -> String) -> Pairs {
    let shown = attributes.iter().take(ATTRIBUTES_MAX);
    Pairs {
        shown: shown.map(|it| (it.key.to_owned(), cut(text(it)))).collect(),
        left: attributes.len().saturating_sub(ATTRIBUTES_MAX),
    }
}

fn shown(attribute: &Attribute<'_>, system: &str, raw: bool) -> String {
    if raw {
        return value_text(&attribute.value);
    }
    match attribute.value {
        Value::Str(text) if STATEMENT_KEYS.contains(&attribute.key) => {
            let fingerprint = sql::fingerprint(text, system);
            if fingerprint.had_literals {
                fingerprint.text
            } else {
                text.to_owned()
            }
        }
        _ if PARAMETER_PREFIXES
            .iter()
            .any(|it| attribute.key.starts_with(it)) =>
        {
            "hidden".to_owned()
        }
        _ => value_text(&attribute.value),
    }
}

/// A value as people read it: text as it is, lists and maps as JSON.
pub fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::Empty => String::new(),
        Value::Str(text) => (*text).to_owned(),
        Value::Bool(yes) => yes.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) => format!("{} bytes: {}", bytes.len(), hex(bytes)),
        Value::Nested(encoded) => nested(encoded),
    }
}

/// The first bytes as hexadecimal digits; nobody reads further on a page.
fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes
        .iter()
        .take(64)
        .map(|it| format!("{it:02x}"))
        .collect();
    if bytes.len() > 64 {
        digits + "…"
    } else {
        digits
    }
}

/// An encoded list or map as plain JSON.
fn nested(encoded: &[u8]) -> String {
    let otlp = collector::otlp::any_value_to_json(encoded).ok();
    let parsed = otlp.and_then(|it| serde_json::from_str(&it).ok());
    match parsed {
        Some(value) => plain(value).to_string(),
        None => "a list or map that cannot be read".to_owned(),
    }
}

/// `{"arrayValue":{"values":[{"intValue":"1"}]}}` → `[1]`. As deep as serde_json has parsed it, which
/// is at most 128 levels.
fn plain(otlp: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    let Json::Object(fields) = otlp else {
        return otlp;
    };
    let Some((kind, value)) = fields.into_iter().next() else {
        return Json::Null;
    };
    match (kind.as_str(), value) {
        ("intValue", Json::String(text)) => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        ("arrayValue", Json::Object(mut list)) => match list.remove("values") {
            Some(Json::Array(values)) => values.into_iter().map(plain).collect(),
            _ => Json::Array(Vec::new()),
        },
        ("kvlistValue", Json::Object(mut map)) => match map.remove("values") {
            Some(Json::Array(values)) => values.into_iter().filter_map(plain_pair).collect(),
            _ => Json::Object(serde_json::Map::new()),
        },
        (_, value) => value,
    }
}

fn plain_pair(pair: serde_json::Value) -> Option<(String, serde_json::Value)> {
    let serde_json::Value::Object(mut pair) = pair else {
        return None;
    };
    let key = pair
        .remove("key")
        .and_then(|it| it.as_str().map(str::to_owned))
        .unwrap_or_default();
    Some((
        key,
        pair.remove("value").map_or(serde_json::Value::Null, plain),
    ))
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}… (cut here; the JSON has all of it)", &text[..at]),
        None => text,
    }
}

fn kind(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Unspecified => "span of no kind",
        SpanKind::Internal => "internal span",
        SpanKind::Server => "server span",
        SpanKind::Client => "client span",
        SpanKind::Producer => "producer span",
        SpanKind::Consumer => "consumer span",
    }
}

fn status(status: Status, message: &str) -> Option<(&'static str, String)> {
    match status {
        Status::Unset if message.is_empty() => None,
        Status::Unset => Some(("unset", message.to_owned())),
        Status::Ok => Some(("ok", message.to_owned())),
        Status::Error => Some(("error", message.to_owned())),
    }
}

fn scope(analysis: &Analysis<'_>, span: SpanIdx) -> String {
    let scopes = &analysis.trace.spans.scopes;
    let scope = scopes.get(analysis.trace.span(span).scope as usize);
    scope
        .map(|it| format!("{} {}", it.name, it.version).trim().to_owned())
        .unwrap_or_default()
}

fn code(analysis: &Analysis<'_>, span: SpanIdx) -> Option<String> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(span);
    let file = spans.text(span, &["code.file.path", "code.filepath"]);
    let line = spans
        .first_of(span, &["code.line.number", "code.lineno"])
        .and_then(|it| it.as_int());
    let function = spans.text(span, &["code.function.name", "code.function"]);
    let place = match (file, line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.to_owned(),
        _ => String::new(),
    };
    let code = format!("{place} {}", function.unwrap_or_default())
        .trim()
        .to_owned();
    (!code.is_empty()).then_some(code)
}
