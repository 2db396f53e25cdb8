//! Where everything stands in a request: which bytes are a sender's, an instrumentation's, a span.
//!
//! ```text
//! ResourceSpans   resource, schema_url, …        ← envelope
//!   ScopeSpans    scope, schema_url, …           ← envelope
//!     Span        taken or left as a whole
//! ```
//!
//! A request with fewer spans is the same envelopes around the spans that stay: only lengths are
//! written anew, and fields nobody knows survive.

use std::ops::Range;

use analyzer::span::TraceId;

use super::WireError;
use super::check::Checker;
use super::schema::{self, Message, number};
use super::wire::{DELIMITED, RawField, Reader, put_tag, put_varint, varint_len};

/// The fields around what is repeated in a message, in order of the wire.
#[derive(Clone, Default, Debug)]
pub(super) struct Envelope {
    pieces: Vec<Range<usize>>,
}

impl Envelope {
    fn add(&mut self, piece: Range<usize>) {
        match self.pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => self.pieces.push(piece),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|it| it.len()).sum()
    }

    pub(super) fn write(&self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in &self.pieces {
            out.extend_from_slice(&bytes[piece.clone()]);
        }
    }

    /// The bodies of the message field `number`; more than one are to be merged.
    pub(super) fn bodies<'a>(&self, bytes: &'a [u8], number: u32) -> Vec<&'a [u8]> {
        let mut found = Vec::new();
        for piece in &self.pieces {
            let mut reader = Reader::over(bytes, piece.clone());
            while let Ok(Some(field)) = reader.field() {
                if let (true, Ok(range)) = (field.number == number, field.delimited()) {
                    found.push(&bytes[range]);
                }
            }
        }
        found
    }
}

/// An instrumentation's part of a request.
#[derive(Debug)]
pub(super) struct ScopeAt {
    /// Whose: an index into [`Outline::resources`].
    pub resource: usize,
    /// Everything but the spans.
    pub envelope: Envelope,
}

/// A span's place in a request; what is in it is not looked at.
#[derive(Debug)]
pub(super) struct SpanAt {
    /// The whole field, tag and length included.
    pub field: Range<usize>,
    /// Its instrumentation: an index into [`Outline::scopes`].
    pub scope: u32,
    /// Bytes of tag and length; the span's own follow.
    head_bytes: u32,
}

impl SpanAt {
    /// The span's own bytes.
    pub(super) fn body(&self) -> Range<usize> {
        self.field.start + self.head_bytes as usize..self.field.end
    }

    /// The span's id if it stands where SDKs write it, else 0. Spans of the same bytes have the
    /// same one; nothing else is promised.
    pub(super) fn likely_id(&self, bytes: &[u8]) -> u64 {
        const TRACE_ID: [u8; 2] = [0x0a, 16];
        const SPAN_ID: [u8; 2] = [0x12, 8];
        match &bytes[self.body()] {
            [a, b, rest @ ..] if [*a, *b] == TRACE_ID => match rest.get(16..) {
                Some([a, b, rest @ ..]) if [*a, *b] == SPAN_ID => {
                    rest.first_chunk().map_or(0, |it| u64::from_be_bytes(*it))
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Its trace; zero if its id is none.
    pub(super) fn trace_id(&self, bytes: &[u8]) -> Result<TraceId, WireError> {
        Ok(trace_id(Ids::read(bytes, self.body(), |_| Ok(()))?.trace).unwrap_or_default())
    }
}

/// A request's senders, instrumentations and spans; only those that have spans.
#[derive(Default, Debug)]
pub(super) struct Outline {
    /// The senders' envelopes.
    pub resources: Vec<Envelope>,
    /// The instrumentations', in order of the wire.
    pub scopes: Vec<ScopeAt>,
    /// The spans, in order of the wire.
    pub spans: Vec<SpanAt>,
}

/// Spans are seldom smaller, bytes: so much room is made for their places.
pub(super) const SPAN_BYTES: usize = 256;

impl Outline {
    fn for_bytes(bytes: usize) -> Outline {
        Outline {
            spans: Vec::with_capacity(bytes / SPAN_BYTES),
            ..Outline::default()
        }
    }
}

/// The ids of a span as they stand on the wire: of any length.
pub(super) struct Ids<'a> {
    /// `trace_id`, empty if missing.
    pub trace: &'a [u8],
    /// `span_id`, empty if missing.
    pub span: &'a [u8],
}

impl<'a> Ids<'a> {
    /// Reads a span's ids; as everywhere, of several the last one counts. `other` is shown every
    /// other field.
    fn read(
        bytes: &'a [u8],
        span: Range<usize>,
        mut other: impl FnMut(&RawField) -> Result<(), WireError>,
    ) -> Result<Ids<'a>, WireError> {
        let (mut trace, mut id) = (0..0, 0..0);
        let mut reader = Reader::over(bytes, span);
        while let Some(field) = reader.field()? {
            match field.number {
                number::TRACE_ID => trace = field.delimited()?,
                number::SPAN_ID => id = field.delimited()?,
                _ => other(&field)?,
            }
        }
        Ok(Ids {
            trace: &bytes[trace],
            span: &bytes[id],
        })
    }
}

/// Outlines bytes that were accepted before. Spans are found and not looked into.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline, WireError> {
    let mut walk = Walk {
        bytes,
        outline: Outline::for_bytes(bytes.len()),
        checker: None,
        take: |_: Ids<'_>| true,
    };
    walk.request()?;
    Ok(walk.outline)
}

/// Outlines bytes of a stranger: everything is checked, and only spans that `take` wants are part
/// of the outline.
pub(super) fn checked_outline(
    bytes: &[u8],
    take: impl FnMut(Ids<'_>) -> bool,
) -> Result<Outline, WireError> {
    let mut walk = Walk {
        bytes,
        outline: Outline::for_bytes(bytes.len()),
        checker: Some(Checker::new(bytes)),
        take,
    };
    walk.request()?;
    Ok(walk.outline)
}

/// A valid trace id, if it is one.
pub(super) fn trace_id(bytes: &[u8]) -> Option<TraceId> {
    Some(TraceId(bytes.try_into().ok()?)).filter(|it| !it.is_zero())
}

struct Walk<'a, Take> {
    bytes: &'a [u8],
    outline: Outline,
    checker: Option<Checker<'a>>,
    /// Asked if there is a checker.
    take: Take,
}

impl<Take: FnMut(Ids<'_>) -> bool> Walk<'_, Take> {
    fn request(&mut self) -> Result<(), WireError> {
        let mut reader = Reader::new(self.bytes);
        while let Some(field) = reader.field()? {
            if field.number == number::RESOURCE_SPANS {
                self.resource_spans(field.delimited()?)?;
            }
        }
        Ok(())
    }

    fn resource_spans(&mut self, body: Range<usize>) -> Result<(), WireError> {
        let mut envelope = Envelope::default();
        let before = self.outline.scopes.len();
        let mut reader = Reader::over(self.bytes, body);
        while let Some(field) = reader.field()? {
            if field.number == number::SCOPE_SPANS {
                self.scope_spans(field.delimited()?)?;
            } else {
                self.check(&schema::RESOURCE_SPANS, &field, 1)?;
                envelope.add(field.at);
            }
        }
        if self.outline.scopes.len() > before {
            self.outline.resources.push(envelope);
        }
        Ok(())
    }

    fn scope_spans(&mut self, body: Range<usize>) -> Result<(), WireError> {
        let mut envelope = Envelope::default();
        let before = self.outline.spans.len();
        let mut reader = Reader::over(self.bytes, body);
        while let Some(field) = reader.field()? {
            if field.number == number::SPANS {
                self.span(&field)?;
            } else {
                self.check(&schema::SCOPE_SPANS, &field, 2)?;
                envelope.add(field.at);
            }
        }
        if self.outline.spans.len() > before {
            self.outline.scopes.push(ScopeAt {
                resource: self.outline.resources.len(),
                envelope,
            });
        }
        Ok(())
    }

    fn span(&mut self, field: &RawField) -> Result<(), WireError> {
        let body = field.delimited()?;
        let head_bytes = (body.start - field.at.start) as u32;
        if let Some(checker) = &mut self.checker {
            let ids = Ids::read(self.bytes, body, |field| {
                checker.field(&schema::SPAN, field, 3)
            })?;
            if !(self.take)(ids) {
                return Ok(());
            }
        }
        self.outline.spans.push(SpanAt {
            field: field.at.clone(),
            scope: self.outline.scopes.len() as u32,
            head_bytes,
        });
        Ok(())
    }

    #[inline]
    fn check(
        &mut self,
        message: &'static Message,
        field: &RawField,
        depth: usize,
    ) -> Result<(), WireError> {
        match &mut self.checker {
            Some(checker) => checker.field(message, field, depth),
            None => Ok(()),
        }
    }
}

impl Outline {
    /// Appends a request with the spans that `keep` wants, asked once per span with its position;
    /// how many they were. Nothing is appended if it wants none.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        mut keep: impl FnMut(usize, &SpanAt) -> bool,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut kept: Vec<&SpanAt> = Vec::new();
        for (position, span) in self.spans.iter().enumerate() {
            if keep(position, span) {
                kept.push(span);
            }
        }
        self.write_spans(bytes, &kept, out);
        kept.len()
    }

    /// Appends a request with these spans, which stand in order of the wire; nothing if there are
    /// none.
    pub(super) fn write_spans(&self, bytes: &[u8], kept: &[&SpanAt], out: &mut Vec<u8>) {
        let scopes: Vec<ScopePart> = kept
            .chunk_by(|a, b| a.scope == b.scope)
            .map(|spans| self.scope_part(spans))
            .collect();
        for parts in scopes.chunk_by(|a, b| a.scope.resource == b.scope.resource) {
            self.write_resource(bytes, parts, out);
        }
    }

    fn scope_part<'a>(&'a self, spans: &'a [&'a SpanAt]) -> ScopePart<'a> {
        let scope = &self.scopes[spans[0].scope as usize];
        let spans_len: usize = spans.iter().map(|it| it.field.len()).sum();
        ScopePart {
            scope,
            spans,
            len: scope.envelope.len() + spans_len,
        }
    }

    fn write_resource(&self, bytes: &[u8], parts: &[ScopePart<'_>], out: &mut Vec<u8>) {
        let envelope = &self.resources[parts[0].scope.resource];
        let scopes_len: usize = parts
            .iter()
            .map(|it| 1 + varint_len(it.len as u64) + it.len)
            .sum();
        let len = envelope.len() + scopes_len;
        out.reserve(1 + varint_len(len as u64) + len);
        put_tag(out, number::RESOURCE_SPANS, DELIMITED);
        put_varint(out, len as u64);
        envelope.write(bytes, out);
        for part in parts {
            put_tag(out, number::SCOPE_SPANS, DELIMITED);
            put_varint(out, part.len as u64);
            part.scope.envelope.write(bytes, out);
            for span in part.spans {
                out.extend_from_slice(&bytes[span.field.clone()]);
            }
        }
    }
}

/// The kept spans of one instrumentation, and how long their message gets, bytes.
struct ScopePart<'a> {
    scope: &'a ScopeAt,
    spans: &'a [&'a SpanAt],
    len: usize,
}
