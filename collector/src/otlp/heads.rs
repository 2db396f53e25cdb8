//! What must be known of a span while its trace is open: which trace, and whom it waits for.
//!
//! An owner holds one of these for every span in flight, so they are small; the span itself stays
//! in the compressed journal row.

use std::ops::Range;

use analyzer::span::TraceId;

use super::schema::number;
use super::wire::{Raw, Reader};
use super::{WireError, content_hash, plain};

/// A span as far as completeness of its trace depends on it: 24 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Head {
    /// The span's id.
    pub id: u64,
    /// Its parent's id; 0 if it has none.
    pub parent: u64,
    /// Which side of a call it is.
    pub side: Side,
    /// For a client: a hash of whom it calls, 0 if that is a database or nobody is named.
    pub callee: u32,
}

/// A span's side of a call.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Side {
    /// It calls.
    Client,
    /// It is called.
    Server,
    /// Neither.
    #[default]
    Other,
}

/// By what a callee is known, the best name first.
const CALLEE_KEYS: [&[u8]; 5] = [
    b"service.peer.name",
    b"peer.service",
    b"server.address",
    b"net.peer.name",
    b"rpc.service",
];

/// Who has these never reports: databases do not send traces.
const DATABASE_KEYS: [&[u8]; 2] = [b"db.system.name", b"db.system"];

/// The heads of all spans with their traces, in order of the wire.
///
/// # Errors
/// The bytes are not OTLP.
pub fn heads(request: &[u8]) -> Result<Vec<(TraceId, Head)>, WireError> {
    let mut heads = Vec::with_capacity(request.len() / 256);
    for_each(request, 0..request.len(), number::RESOURCE_SPANS, |of| {
        for_each(request, of, number::SCOPE_SPANS, |of| {
            for_each(request, of, number::SPANS, |span| {
                heads.push(head(request, span)?);
                Ok(())
            })
        })
    })?;
    Ok(heads)
}

/// Calls `of` with the body of each field of this number.
fn for_each(
    bytes: &[u8],
    message: Range<usize>,
    number: u32,
    mut of: impl FnMut(Range<usize>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut reader = Reader::over(bytes, message);
    while let Some(field) = reader.field()? {
        if field.number == number {
            of(field.delimited()?)?;
        }
    }
    Ok(())
}

fn head(bytes: &[u8], span: Range<usize>) -> Result<(TraceId, Head), WireError> {
    let mut trace_id = TraceId::default();
    let mut head = Head::default();
    let mut callee = Callee::default();
    let mut reader = Reader::over(bytes, span);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (number::ATTRIBUTES, Raw::Delimited(range)) => callee.read(bytes, range)?,
            (number::TRACE_ID, Raw::Delimited(range)) => {
                trace_id = super::outline::trace_id(&bytes[range]).unwrap_or_default();
            }
            (number::SPAN_ID, Raw::Delimited(range)) => head.id = id(&bytes[range]),
            (number::PARENT_SPAN_ID, Raw::Delimited(range)) => head.parent = id(&bytes[range]),
            (number::KIND, Raw::Varint(kind)) => {
                head.side = match kind {
                    2 => Side::Server,
                    3 => Side::Client,
                    _ => Side::Other,
                };
            }
            _ => {}
        }
    }
    if head.side == Side::Client {
        head.callee = callee.hash();
    }
    Ok((trace_id, head))
}

/// An id of another length reads as none.
fn id(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// Whom a span names, should it be a client.
#[derive(Default)]
struct Callee {
    /// The best name's place in [`CALLEE_KEYS`], and its hash.
    best: Option<(usize, u32)>,
    is_database: bool,
}

impl Callee {
    fn read(&mut self, bytes: &[u8], attribute: Range<usize>) -> Result<(), WireError> {
        if plain::attribute(bytes, &attribute).is_some_and(|it| !may_name(&bytes[it.0])) {
            return Ok(());
        }
        let (mut key, mut value): (&[u8], &[u8]) = (b"", b"");
        let mut reader = Reader::over(bytes, attribute);
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (1, Raw::Delimited(range)) => key = &bytes[range],
                (2, Raw::Delimited(range)) => value = &bytes[range],
                _ => {}
            }
        }
        self.is_database |= DATABASE_KEYS.contains(&key);
        let rank = CALLEE_KEYS.iter().position(|it| *it == key);
        if let Some(rank) = rank.filter(|it| self.best.is_none_or(|best| *it < best.0)) {
            // Zero is nobody's.
            self.best = Some((rank, content_hash(value) as u32 | 1));
        }
        Ok(())
    }

    fn hash(&self) -> u32 {
        match self.best {
            Some((_, hash)) if !self.is_database => hash,
            _ => 0,
        }
    }
}

/// Whether a key is one of those above: most are told from them by two bytes.
fn may_name(key: &[u8]) -> bool {
    let begins_alike = matches!(
        key,
        [b's' | b'p' | b'n', b'e', ..] | [b'r', b'p', ..] | [b'd', b'b', ..]
    );
    begins_alike && (CALLEE_KEYS.contains(&key) || DATABASE_KEYS.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;

    fn span(kind: i32, attributes: &[(&str, &str)]) -> Span {
        let attributes = attributes.iter().map(|(key, value)| KeyValue {
            key: (*key).into(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue((*value).into())),
            }),
            ..KeyValue::default()
        });
        Span {
            trace_id: vec![7; 16],
            span_id: vec![0, 0, 0, 0, 0, 0, 1, 2],
            parent_span_id: vec![0, 0, 0, 0, 0, 0, 0, 9],
            kind,
            attributes: attributes.collect(),
            ..Span::default()
        }
    }

    fn heads_of(spans: Vec<Span>) -> Vec<Head> {
        let scope_spans = vec![ScopeSpans {
            spans,
            ..ScopeSpans::default()
        }];
        let resource_spans = vec![ResourceSpans {
            scope_spans,
            ..ResourceSpans::default()
        }];
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let heads = heads(&request).unwrap();
        assert!(heads.iter().all(|it| it.0 == TraceId([7; 16])));
        heads.into_iter().map(|it| it.1).collect()
    }

    #[test]
    fn a_head_is_small_and_says_whom_the_span_waits_for() {
        assert_eq!(size_of::<Head>(), 24);
        let heads = heads_of(vec![
            span(3, &[("rpc.service", "Pay"), ("server.address", "pay")]),
            span(3, &[("server.address", "pay")]),
            span(3, &[("server.address", "db"), ("db.system", "mysql")]),
            span(2, &[("server.address", "pay")]),
        ]);
        assert_eq!((heads[0].id, heads[0].parent), (0x0102, 9));
        assert_eq!(heads[0].side, Side::Client);
        assert_ne!(heads[0].callee, 0);
        assert_eq!(heads[0].callee, heads[1].callee);
        assert_eq!(heads[2].callee, 0);
        assert_eq!((heads[3].side, heads[3].callee), (Side::Server, 0));
    }
}
