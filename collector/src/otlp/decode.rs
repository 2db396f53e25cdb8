//! From stored bytes to the analyzer's spans, which borrow their text from them.
//!
//! Total: stored bytes were checked when they were accepted, but whatever stands here decodes to
//! something or says why not, and never panics.

use std::ops::Range;

use analyzer::span::{
    Attribute, Event, Link, Resource, Scope, Span, SpanId, SpanKind, Spans, Status, TraceId, Value,
};

use super::outline::{Outline, SpanAt, outline};
use super::schema::number;
use super::texts::Texts;
use super::wire::{Raw, Reader};
use super::{WireError, content_hash, plain};

/// What stands where stored text is not UTF-8, which [`super::accept`] makes impossible.
const BROKEN_TEXT: &str = "\u{FFFD}";

/// Decodes the spans that `keep` wants (asked once per span, in order of the wire) and appends
/// them to `into`; several requests can be decoded into one `Spans`. Senders and instrumentations
/// without a wanted span are left out. On an error `into` is as it was.
///
/// A parent id that is not 8 bytes, or all zero, reads as none; an attribute's arrays and maps
/// stay encoded.
pub fn decode_into<'a>(
    into: &mut Spans<'a>,
    request: &'a [u8],
    mut keep: impl FnMut(TraceId) -> bool,
) -> Result<(), WireError> {
    let outline = outline(request)?;
    let before = Lengths::of(into);
    let result = decode(into, request, &outline, &mut keep);
    if result.is_err() {
        before.restore(into);
    }
    result
}

fn decode<'a>(
    into: &mut Spans<'a>,
    request: &'a [u8],
    outline: &Outline,
    keep: &mut impl FnMut(TraceId) -> bool,
) -> Result<(), WireError> {
    let mut last = Last::default();
    for span in &outline.spans {
        if keep(span.trace_id(request)?) {
            decode_one(into, &mut last, request, outline, 0, span)?;
            if let Some(decoded) = into.spans.last_mut() {
                decoded.content = content_hash(&request[span.body()]);
            }
        }
    }
    Ok(())
}

/// Whose span was decoded last: (source, resource) and (source, scope).
#[derive(Default)]
pub(super) struct Last {
    resource: Option<(u32, usize)>,
    scope: Option<(u32, usize)>,
}

/// Appends one span, and its sender and instrumentation if the last span had others. Its content is
/// not hashed.
pub(super) fn decode_one<'a>(
    into: &mut Spans<'a>,
    last: &mut Last,
    request: &'a [u8],
    outline: &Outline,
    source: u32,
    span: &SpanAt,
) -> Result<(), WireError> {
    let scope = &outline.scopes[span.scope as usize];
    let its_resource = Some((source, scope.resource));
    if last.resource != its_resource {
        last.resource = its_resource;
        let envelope = &outline.resources[scope.resource];
        let bodies = envelope.bodies(request, number::RESOURCE);
        into.resources.push(resource(&bodies)?);
    }
    let its_scope = Some((source, span.scope as usize));
    if last.scope != its_scope {
        last.scope = its_scope;
        let bodies = scope.envelope.bodies(request, number::SCOPE);
        into.scopes.push(instrumentation(&bodies)?);
    }
    let decoded = decode_span(into, &request[span.body()])?;
    into.spans.push(decoded);
    Ok(())
}

fn resource<'a>(bodies: &[&'a [u8]]) -> Result<Resource<'a>, WireError> {
    let mut resource = Resource::default();
    for body in bodies {
        let mut texts = Texts::new(body);
        let mut reader = Reader::new(body);
        while let Some(field) = reader.field()? {
            if let (1, Raw::Delimited(range)) = (field.number, field.value) {
                resource.attributes.push(attribute(&mut texts, range)?);
            }
        }
    }
    Ok(resource)
}

fn instrumentation<'a>(bodies: &[&'a [u8]]) -> Result<Scope<'a>, WireError> {
    let mut scope = Scope::default();
    for body in bodies {
        let mut texts = Texts::new(body);
        let mut reader = Reader::new(body);
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (1, Raw::Delimited(range)) => scope.name = text(&mut texts, range),
                (2, Raw::Delimited(range)) => scope.version = text(&mut texts, range),
                _ => {}
            }
        }
    }
    Ok(scope)
}

/// Attributes, events and links of one span stand together in the arenas, but a sender may mix
/// them on the wire; so the span's own attributes are read first, then its events and links.
fn decode_span<'a>(into: &mut Spans<'a>, body: &'a [u8]) -> Result<Span<'a>, WireError> {
    let mut span = Span {
        resource: index(into.resources.len()).saturating_sub(1),
        scope: index(into.scopes.len()).saturating_sub(1),
        ..Span::default()
    };
    let mut texts = Texts::new(body);
    let first_attribute = into.attributes.len();
    let (mut events, mut links) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(body);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (9, Raw::Delimited(range)) => into.attributes.push(attribute(&mut texts, range)?),
            (1, Raw::Delimited(range)) => span.trace_id = TraceId(id(&body[range])),
            (2, Raw::Delimited(range)) => span.id = SpanId(id(&body[range])),
            (3, Raw::Delimited(range)) => span.trace_state = text(&mut texts, range),
            (4, Raw::Delimited(range)) => {
                span.parent_id = Some(SpanId(id(&body[range]))).filter(|it| !it.is_zero());
            }
            (5, Raw::Delimited(range)) => span.name = text(&mut texts, range),
            (6, Raw::Varint(number)) => span.kind = kind(number),
            (7, Raw::Fixed64(time)) => span.start_ns = time,
            (8, Raw::Fixed64(time)) => span.end_ns = time,
            (11, Raw::Delimited(range)) => events.push(range),
            (13, Raw::Delimited(range)) => links.push(range),
            (15, Raw::Delimited(range)) => status(&mut span, &mut texts, range)?,
            (16, Raw::Fixed32(flags)) => span.flags = flags,
            _ => {}
        }
    }
    span.attributes = since(first_attribute, into.attributes.len());
    let first_event = into.events.len();
    for range in events {
        let decoded = event(into, &mut texts, range)?;
        into.events.push(decoded);
    }
    span.events = since(first_event, into.events.len());
    let first_link = into.links.len();
    for range in links {
        let decoded = link(into, &mut texts, range)?;
        into.links.push(decoded);
    }
    span.links = since(first_link, into.links.len());
    Ok(span)
}

fn event<'a>(
    into: &mut Spans<'a>,
    texts: &mut Texts<'a>,
    body: Range<usize>,
) -> Result<Event<'a>, WireError> {
    let first_attribute = into.attributes.len();
    let (mut time_ns, mut name) = (0, "");
    let mut reader = Reader::over(texts.bytes(), body);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Raw::Fixed64(time)) => time_ns = time,
            (2, Raw::Delimited(range)) => name = text(texts, range),
            (3, Raw::Delimited(range)) => into.attributes.push(attribute(texts, range)?),
            _ => {}
        }
    }
    Ok(Event {
        time_ns,
        name,
        attributes: since(first_attribute, into.attributes.len()),
    })
}

fn link<'a>(
    into: &mut Spans<'a>,
    texts: &mut Texts<'a>,
    body: Range<usize>,
) -> Result<Link<'a>, WireError> {
    let first_attribute = into.attributes.len();
    let (mut trace_id, mut span_id, mut trace_state) = Default::default();
    let bytes = texts.bytes();
    let mut reader = Reader::over(bytes, body);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Raw::Delimited(range)) => trace_id = TraceId(id(&bytes[range])),
            (2, Raw::Delimited(range)) => span_id = SpanId(id(&bytes[range])),
            (3, Raw::Delimited(range)) => trace_state = text(texts, range),
            (4, Raw::Delimited(range)) => into.attributes.push(attribute(texts, range)?),
            _ => {}
        }
    }
    Ok(Link {
        trace_id,
        span_id,
        attributes: since(first_attribute, into.attributes.len()),
        trace_state,
    })
}

fn status<'a>(
    span: &mut Span<'a>,
    texts: &mut Texts<'a>,
    body: Range<usize>,
) -> Result<(), WireError> {
    let mut reader = Reader::over(texts.bytes(), body);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (2, Raw::Delimited(range)) => span.status_message = text(texts, range),
            (3, Raw::Varint(1)) => span.status = Status::Ok,
            (3, Raw::Varint(2)) => span.status = Status::Error,
            (3, _) => span.status = Status::Unset,
            _ => {}
        }
    }
    Ok(())
}

#[inline]
fn attribute<'a>(texts: &mut Texts<'a>, body: Range<usize>) -> Result<Attribute<'a>, WireError> {
    match plain::attribute(texts.bytes(), &body) {
        Some((key, value)) => Ok(Attribute {
            key: text(texts, key),
            value: Value::Str(text(texts, value)),
        }),
        None => any_attribute(texts, body),
    }
}

fn any_attribute<'a>(
    texts: &mut Texts<'a>,
    body: Range<usize>,
) -> Result<Attribute<'a>, WireError> {
    let (mut key, mut found) = ("", Value::Empty);
    let mut reader = Reader::over(texts.bytes(), body);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Raw::Delimited(range)) => key = text(texts, range),
            (2, Raw::Delimited(range)) => found = value(texts, range)?,
            _ => {}
        }
    }
    Ok(Attribute { key, value: found })
}

/// An encoded `AnyValue`.
///
/// # Errors
/// The bytes are none.
pub(crate) fn attribute_value(encoded: &[u8]) -> Result<Value<'_>, WireError> {
    value(&mut Texts::new(encoded), 0..encoded.len())
}

/// Of several values the last one counts.
fn value<'a>(texts: &mut Texts<'a>, body: Range<usize>) -> Result<Value<'a>, WireError> {
    let mut found = Value::Empty;
    let bytes = texts.bytes();
    let mut reader = Reader::over(bytes, body.clone());
    while let Some(field) = reader.field()? {
        found = match (field.number, field.value) {
            (1, Raw::Delimited(range)) => Value::Str(text(texts, range)),
            (2, Raw::Varint(number)) => Value::Bool(number != 0),
            (3, Raw::Varint(number)) => Value::Int(number as i64),
            (4, Raw::Fixed64(bits)) => Value::Double(f64::from_bits(bits)),
            (5 | 6, Raw::Delimited(_)) => Value::Nested(&bytes[body.clone()]),
            (7, Raw::Delimited(range)) => Value::Bytes(&bytes[range]),
            (8, _) => Value::Empty,
            _ => found,
        };
    }
    Ok(found)
}

/// The elements of an encoded `AnyValue` that is an array; of anything else, none.
pub fn array_values<'a>(encoded: &'a [u8]) -> Vec<Value<'a>> {
    let mut elements = Vec::new();
    let mut reader = Reader::new(encoded);
    while let Ok(Some(field)) = reader.field() {
        if let (5, Raw::Delimited(range)) = (field.number, field.value) {
            let mut reader = Reader::over(encoded, range);
            while let Ok(Some(field)) = reader.field() {
                if let (1, Raw::Delimited(range)) = (field.number, field.value) {
                    elements.extend(attribute_value(&encoded[range]).ok());
                }
            }
        }
    }
    elements
}

fn kind(number: u64) -> SpanKind {
    match number {
        1 => SpanKind::Internal,
        2 => SpanKind::Server,
        3 => SpanKind::Client,
        4 => SpanKind::Producer,
        5 => SpanKind::Consumer,
        _ => SpanKind::Unspecified,
    }
}

#[inline]
fn text<'a>(texts: &mut Texts<'a>, range: Range<usize>) -> &'a str {
    texts.get(range).unwrap_or(BROKEN_TEXT)
}

/// An id of another length reads as zero.
fn id<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

/// Arenas are indexed with 32 bits; 2³² attributes of 48 bytes fit no memory we run in.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn since(first: usize, length: usize) -> Range<u32> {
    index(first)..index(length)
}

/// How long the arenas were, to go back there.
struct Lengths([usize; 6]);

impl Lengths {
    fn of(spans: &Spans<'_>) -> Self {
        Self([
            spans.spans.len(),
            spans.resources.len(),
            spans.scopes.len(),
            spans.attributes.len(),
            spans.events.len(),
            spans.links.len(),
        ])
    }

    fn restore(self, spans: &mut Spans<'_>) {
        let [own, resources, scopes, attributes, events, links] = self.0;
        spans.spans.truncate(own);
        spans.resources.truncate(resources);
        spans.scopes.truncate(scopes);
        spans.attributes.truncate(attributes);
        spans.events.truncate(events);
        spans.links.truncate(links);
    }
}
