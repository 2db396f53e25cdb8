//! The vocabulary: spans, ids, attributes, resources and scopes.
//!
//! Everything borrows its text from the bytes the trace was decoded from: owning
//! strings would cost more than the rest of the analysis together. One [`Spans`]
//! holds what was decoded at once; attributes, events and links live in arenas,
//! so that a span is a plain value without allocations of its own.

use std::fmt;
use std::ops::Range;

/// A W3C trace id: 16 bytes, never all zero in a valid span.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TraceId(pub [u8; 16]);

/// A W3C span id: 8 bytes, never all zero in a valid span.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SpanId(pub [u8; 8]);

/// What role a span plays (OTLP `Span.SpanKind`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SpanKind {
    /// Not set, or a number this version does not know.
    #[default]
    Unspecified,
    /// Work inside a service.
    Internal,
    /// The service's side of a synchronous request: an entry span.
    Server,
    /// The caller's side of a request to something else.
    Client,
    /// Hands a message to a broker; does not wait for its consumer.
    Producer,
    /// Takes a message from a broker: an entry span.
    Consumer,
}

/// The outcome a span reports (OTLP `Status.code`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Status {
    /// Nothing said.
    #[default]
    Unset,
    /// Explicitly fine.
    Ok,
    /// Failed.
    Error,
}

/// An attribute's value. Arrays and maps stay encoded: nothing in the analysis looks inside.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// A value of no type.
    Empty,
    /// Text.
    Str(&'a str),
    /// A boolean.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// An array or a map: the encoded OTLP `AnyValue`.
    Nested(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one or text that spells one (Envoy sends status codes as text).
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Double(number) if number.fract() == 0.0 => Some(*number as i64),
            Value::Str(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

/// The texts of an encoded array of texts, in their order; ends at the first that is none.
pub fn texts(encoded: &[u8]) -> impl Iterator<Item = &str> {
    // An `AnyValue` whose field 5 is an `ArrayValue`, whose field 1 are `AnyValue`s, whose field 1 is a text.
    const ARRAY: u8 = 0x2a;
    const FIRST: u8 = 0x0a;
    let mut rest = field(encoded, ARRAY).map_or(&[][..], |it| it.0);
    std::iter::from_fn(move || {
        let (value, behind) = field(rest, FIRST)?;
        rest = behind;
        std::str::from_utf8(field(value, FIRST)?.0).ok()
    })
}

/// The field with `tag` that `encoded` begins with, and what is behind it.
fn field(encoded: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let mut rest = encoded.strip_prefix(&[tag])?;
    let mut len = 0_usize;
    // What is longer than 2²⁸ bytes is nothing that anybody reads.
    for shift in [0, 7, 14, 21] {
        let (byte, behind) = rest.split_first()?;
        rest = behind;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return rest.split_at_checked(len);
        }
    }
    None
}

/// A key and its value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attribute<'a> {
    /// The key, as sent.
    pub key: &'a str,
    /// The value, as sent.
    pub value: Value<'a>,
}

/// Who sent a span: a process of a service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Resource<'a> {
    /// The resource's attributes.
    pub attributes: Vec<Attribute<'a>>,
}

/// Which instrumentation made a span.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Scope<'a> {
    /// The instrumentation library's name, such as `io.opentelemetry.jdbc`.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
}

/// Something that happened at one instant of a span.
#[derive(Clone, PartialEq, Debug)]
pub struct Event<'a> {
    /// Nanoseconds since the Unix epoch, by the sender's clock.
    pub time_ns: u64,
    /// The event's name, such as `exception`.
    pub name: &'a str,
    /// Where its attributes stand in [`Spans::attributes`].
    pub attributes: Range<u32>,
}

/// A pointer to a span of this or another trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Link<'a> {
    /// The other span's trace.
    pub trace_id: TraceId,
    /// The other span.
    pub span_id: SpanId,
    /// Where its attributes stand in [`Spans::attributes`].
    pub attributes: Range<u32>,
    /// The link's own trace state, as sent.
    pub trace_state: &'a str,
}

/// One timed operation, as sent. Times are the sender's and may be absurd:
/// [`crate::trace::Trace`] holds the corrected ones.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Span<'a> {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// Its id, unique within the trace if the sender is sane.
    pub id: SpanId,
    /// The span that caused it; `None` for the root of the trace.
    pub parent_id: Option<SpanId>,
    /// W3C `tracestate`, as sent.
    pub trace_state: &'a str,
    /// W3C trace flags and OTLP's bits 8 and 9, as sent.
    pub flags: u32,
    /// Its role.
    pub kind: SpanKind,
    /// The operation's name; may be empty.
    pub name: &'a str,
    /// Start, nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// End, nanoseconds since the Unix epoch; 0 if it never ended.
    pub end_ns: u64,
    /// Its outcome.
    pub status: Status,
    /// The text that came with the outcome.
    pub status_message: &'a str,
    /// Its sender: an index into [`Spans::resources`].
    pub resource: u32,
    /// Its instrumentation: an index into [`Spans::scopes`].
    pub scope: u32,
    /// Where its attributes stand in [`Spans::attributes`].
    pub attributes: Range<u32>,
    /// Where its events stand in [`Spans::events`].
    pub events: Range<u32>,
    /// Where its links stand in [`Spans::links`].
    pub links: Range<u32>,
    /// A hash of the span's encoded bytes: two spans of one id and one hash are one delivery twice.
    pub content: u64,
}

/// Spans decoded together, with everything they refer to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Spans<'a> {
    /// The spans, in order of arrival (which never matters to the analysis).
    pub spans: Vec<Span<'a>>,
    /// The senders.
    pub resources: Vec<Resource<'a>>,
    /// The instrumentations.
    pub scopes: Vec<Scope<'a>>,
    /// The arena of all span, event and link attributes.
    pub attributes: Vec<Attribute<'a>>,
    /// The arena of all events.
    pub events: Vec<Event<'a>>,
    /// The arena of all links.
    pub links: Vec<Link<'a>>,
}

impl<'a> Spans<'a> {
    /// The attributes at `range`, such as a span's or an event's.
    pub fn attributes_at(&self, range: &Range<u32>) -> &[Attribute<'a>] {
        &self.attributes[range.start as usize..range.end as usize]
    }

    /// A span's attribute by key.
    pub fn attribute(&self, span: &Span<'a>, key: &str) -> Option<Value<'a>> {
        find(self.attributes_at(&span.attributes), key)
    }

    /// The first of several keys that a span has: name the new convention first, then the old.
    pub fn first_of(&self, span: &Span<'a>, keys: &[&str]) -> Option<Value<'a>> {
        keys.iter().find_map(|key| self.attribute(span, key))
    }

    /// As [`Spans::first_of`], text only.
    pub fn text(&self, span: &Span<'a>, keys: &[&str]) -> Option<&'a str> {
        keys.iter()
            .find_map(|key| self.attribute(span, key)?.as_str())
    }

    /// A captured header, empty if there is none. They are arrays, of one text nearly always.
    pub fn header(&self, span: &Span<'a>, key: &str) -> &'a str {
        match self.attribute(span, key) {
            Some(Value::Str(text)) => text,
            Some(Value::Nested(encoded)) => texts(encoded).next().unwrap_or(""),
            _ => "",
        }
    }

    /// The attribute of the resource that sent `span`.
    pub fn resource_text(&self, span: &Span<'a>, keys: &[&str]) -> Option<&'a str> {
        let resource = self.resources.get(span.resource as usize)?;
        keys.iter()
            .find_map(|key| find(&resource.attributes, key)?.as_str())
    }
}

fn find<'a>(attributes: &[Attribute<'a>], key: &str) -> Option<Value<'a>> {
    let found = attributes.iter().find(|it| it.key == key)?;
    Some(found.value)
}

macro_rules! hex_id {
    ($id:ident, $bytes:literal) => {
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl $id {
            /// Reads hexadecimal digits of either case; `None` unless they are exactly as many as the id has.
            pub fn from_hex(text: &str) -> Option<Self> {
                if text.len() != 2 * $bytes || !text.is_ascii() {
                    return None;
                }
                let mut id = [0; $bytes];
                for (at, byte) in id.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
                }
                text.bytes()
                    .all(|it| it.is_ascii_hexdigit())
                    .then_some(Self(id))
            }

            /// All bytes zero: not a valid id.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; $bytes]
            }
        }
    };
}

hex_id!(TraceId, 16);
hex_id!(SpanId, 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_headers_are_arrays_of_texts() {
        let encoded = b"\x2a\x08\x0a\x03\x0a\x01a\x0a\x01b";
        assert_eq!(texts(encoded).collect::<Vec<_>>(), ["a"]);
        let both = b"\x2a\x0a\x0a\x03\x0a\x01a\x0a\x03\x0a\x01b";
        assert_eq!(texts(both).collect::<Vec<_>>(), ["a", "b"]);
        for broken in [&both[..5], b"", b"\x2a\xff\xff\xff\xff\xff", b"\x0a\x01a"] {
            assert_eq!(texts(broken).next(), None);
        }
        let spans = Spans {
            attributes: vec![Attribute {
                key: "http.response.header.content-type",
                value: Value::Nested(both),
            }],
            ..Spans::default()
        };
        let span = Span {
            attributes: 0..1,
            ..Span::default()
        };
        assert_eq!(
            spans.header(&span, "http.response.header.content-type"),
            "a"
        );
        assert_eq!(spans.header(&span, "http.response.header.date"), "");
    }

    #[test]
    fn ids_read_either_case_and_print_lower() {
        let id = TraceId::from_hex("5B8EFFF798038103D269B633813FC60C").unwrap();
        assert_eq!(id.to_string(), "5b8efff798038103d269b633813fc60c");
        assert_eq!(SpanId::from_hex("+b8efff79803810"), None);
        assert_eq!(SpanId::from_hex("eee19b7ec3c1b17"), None);
        assert_eq!(SpanId::from_hex("+ee19b7ec3c1b174"), None);
    }
}
