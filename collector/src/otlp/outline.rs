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

/// A span's place in a request.
#[derive(Debug)]
pub(super) struct SpanAt {
    /// Its instrumentation: an index into [`Outline::scopes`].
    pub scope: usize,
    /// The whole field, tag and length included.
    pub field: Range<usize>,
    /// Where the span's own bytes begin; they end where the field ends.
    pub body_start: usize,
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id; 0 if it has none of eight bytes.
    pub span_id: u64,
}

impl SpanAt {
    /// The span's own bytes.
    pub(super) fn body(&self) -> Range<usize> {
        self.body_start..self.field.end
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
const SPAN_BYTES: usize = 256;

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

/// Outlines bytes that were accepted before. Ids of a wrong length read as zero.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline, WireError> {
    let mut walk = Walk {
        bytes,
        checker: None,
        outline: Outline::for_bytes(bytes.len()),
        take: |ids: Ids<'_>| Some(trace_id(ids.trace).unwrap_or_default()),
    };
    walk.request()?;
    Ok(walk.outline)
}

/// Outlines bytes of a stranger: everything is checked, and only spans that `take` gives a trace
/// are part of the outline.
pub(super) fn checked_outline(
    bytes: &[u8],
    take: impl FnMut(Ids<'_>) -> Option<TraceId>,
) -> Result<Outline, WireError> {
    let mut walk = Walk {
        bytes,
        checker: Some(Checker::default()),
        outline: Outline::for_bytes(bytes.len()),
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
    checker: Option<Checker>,
    outline: Outline,
    take: Take,
}

impl<'a, Take: FnMut(Ids<'_>) -> Option<TraceId>> Walk<'a, Take> {
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
        let (mut trace, mut span) = (0..0, 0..0);
        let mut reader = Reader::over(self.bytes, body.clone());
        while let Some(field) = reader.field()? {
            match field.number {
                number::TRACE_ID => trace = field.delimited()?,
                number::SPAN_ID => span = field.delimited()?,
                _ => self.check(&schema::SPAN, &field, 3)?,
            }
        }
        let ids = Ids {
            trace: &self.bytes[trace],
            span: &self.bytes[span],
        };
        let span_id = ids.span.try_into().map(u64::from_be_bytes);
        if let Some(trace_id) = (self.take)(ids) {
            self.outline.spans.push(SpanAt {
                scope: self.outline.scopes.len(),
                field: field.at.clone(),
                body_start: body.start,
                trace_id,
                span_id: span_id.unwrap_or_default(),
            });
        }
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
            Some(checker) => checker.field(self.bytes, message, field, depth),
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
        let scope = &self.scopes[spans[0].scope];
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
