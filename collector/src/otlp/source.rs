//! Bytes of many traces, outlined once, and the spans in them that belong together.
//!
//! A trace is spread over several journal rows and perhaps a stored block. Its spans are decoded,
//! told apart and written from where they stand; nothing is put together before it is packed.

use std::collections::HashSet;

use analyzer::span::{Spans, TraceId};
use foldhash::fast::RandomState;

use super::decode::decode_one;
use super::outline::{Outline, SpanAt, outline};
use super::{WireError, content_hash, decode};
use crate::buffers::Buffer;

/// A journal row or a stored block, unpacked.
#[derive(Debug)]
pub struct Source {
    bytes: Buffer,
    outline: Outline,
}

/// Where a span stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct At {
    /// Which source.
    pub source: u32,
    /// The span's position in it, in order of the wire.
    pub span: u32,
}

impl Source {
    /// Outlines bytes that were accepted before.
    ///
    /// # Errors
    /// They are not OTLP.
    pub fn new(bytes: impl Into<Buffer>) -> Result<Source, WireError> {
        let bytes = bytes.into();
        let outline = outline(&bytes)?;
        Ok(Source { bytes, outline })
    }

    /// The traces of the spans, in order of the wire.
    ///
    /// # Errors
    /// A span is damaged.
    pub fn traces(&self) -> impl Iterator<Item = Result<TraceId, WireError>> + '_ {
        self.outline.spans.iter().map(|it| it.trace_id(&self.bytes))
    }

    /// How many spans there are.
    pub fn spans(&self) -> usize {
        self.outline.spans.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn outline(&self) -> &Outline {
        &self.outline
    }
}

/// The span at a place; `None` if the source does not have so many.
pub(super) fn span_at(sources: &[Source], at: At) -> Option<(&Source, &SpanAt)> {
    let source = sources.get(at.source as usize)?;
    Some((source, source.outline.spans.get(at.span as usize)?))
}

/// Spans up to which comparing each with each is quicker than a set.
const FEW: usize = 32;

/// Drops what was delivered twice: a span of the same bytes as one before it.
pub fn distinct(sources: &[Source], spans: &mut Vec<At>) {
    spans.retain(|at| span_at(sources, *at).is_some());
    if ids_differ(sources, spans) {
        return;
    }
    let mut seen = HashSet::with_capacity_and_hasher(spans.len(), RandomState::default());
    spans.retain(|at| {
        span_at(sources, *at).is_some_and(|(source, span)| seen.insert(&source.bytes[span.body()]))
    });
}

/// No two spans are alike: the usual case, told without a look at their bytes.
fn ids_differ(sources: &[Source], spans: &[At]) -> bool {
    let found = spans.iter().filter_map(|at| span_at(sources, *at));
    all_differ(found.map(|(source, span)| span.likely_id(&source.bytes)))
}

fn all_differ(ids: impl Iterator<Item = u64>) -> bool {
    let mut few = [0; FEW];
    let mut many = HashSet::with_hasher(RandomState::default());
    for (at, id) in ids.enumerate() {
        let is_new = match at {
            ..FEW => !few[..at].contains(&id),
            _ => {
                if at == FEW {
                    many.extend(few);
                }
                many.insert(id)
            }
        };
        if !is_new {
            return false;
        }
        if let Some(place) = few.get_mut(at) {
            *place = id;
        }
    }
    true
}

/// Encoded bytes of these spans, without what stands around them.
pub fn bytes_of(sources: &[Source], spans: &[At]) -> usize {
    let lengths = spans.iter().filter_map(|at| span_at(sources, *at));
    lengths.map(|(_, span)| span.field.len()).sum()
}

/// Decodes these spans; each sender and instrumentation once for each run of spans of theirs. What
/// spans of one id hold is hashed, so that they can be told apart; of others it is not.
///
/// # Errors
/// The bytes are damaged.
pub fn decode_all<'a>(sources: &'a [Source], spans: &[At]) -> Result<Spans<'a>, WireError> {
    let mut decoded = Spans::default();
    decoded.spans.reserve(spans.len());
    decoded.attributes.reserve(spans.len() * 10);
    let mut last = decode::Last::default();
    for at in spans {
        if let Some((source, span)) = span_at(sources, *at) {
            decode_one(
                &mut decoded,
                &mut last,
                &source.bytes,
                &source.outline,
                at.source,
                span,
            )?;
        }
    }
    if !all_differ(decoded.spans.iter().map(|it| u64::from_be_bytes(it.id.0))) {
        let places = spans.iter().filter_map(|at| span_at(sources, *at));
        for (span, (source, at)) in decoded.spans.iter_mut().zip(places) {
            span.content = content_hash(&source.bytes[at.body()]);
        }
    }
    Ok(decoded)
}

/// These spans as a valid request, for what is kept outside of blocks.
pub fn write(sources: &[Source], spans: &[At]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in spans.chunk_by(|a, b| a.source == b.source && a.span < b.span) {
        let of_run = run.iter().filter_map(|at| span_at(sources, *at));
        let kept: Vec<&SpanAt> = of_run.map(|(_, span)| span).collect();
        if let Some(source) = sources.get(run[0].source as usize) {
            source.outline.write_spans(&source.bytes, &kept, &mut out);
        }
    }
    out
}
