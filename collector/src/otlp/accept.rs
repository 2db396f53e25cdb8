//! From a stranger's bytes to a batch for the journal: what is taken, what is not and why.

use std::fmt::Write;

use analyzer::span::TraceId;
use bytes::Bytes;

use super::outline::{Ids, Outline, SPAN_BYTES, checked_outline, trace_id};
use super::{Accepted, WireError, shard_of};
use crate::journal::{Batch, Part};

/// Validates every span of a request and splits the request by shard, each span's bytes copied
/// as they came under its own resource and scope. With one shard and nothing to reject, the
/// request's bytes are taken as they are.
///
/// A span without a valid trace id and span id is not taken, the others are. An error means that
/// the bytes are no OTLP at all: broken protobuf, text that is not UTF-8, or values nested deeper
/// than 100 messages; then nothing is taken.
pub fn accept(request: Bytes, shards: u16) -> Result<Accepted, WireError> {
    let mut rejections = Rejections::default();
    let mut homes = Vec::with_capacity(request.len() / SPAN_BYTES);
    let outline = checked_outline(&request, |ids| match rejections.judge(&ids) {
        Ok(trace_id) => {
            homes.push(shard_of(trace_id, shards));
            true
        }
        Err(reason) => {
            rejections.count(reason);
            false
        }
    })?;
    let rejected = rejections.total();
    let batch = if outline.spans.is_empty() {
        Batch::default()
    } else {
        split(request, &outline, &homes, rejected == 0)
    };
    Ok(Accepted {
        batch,
        rejected,
        bad_trace_ids: rejections.bad_trace_ids,
        message: rejections.message(),
    })
}

/// `homes` are the spans' shards.
fn split(request: Bytes, outline: &Outline, homes: &[i16], complete: bool) -> Batch {
    let mut used = homes.to_vec();
    used.sort_unstable();
    used.dedup();
    if let ([shard], true) = (&used[..], complete) {
        let part = Part {
            shard: *shard,
            spans: count(homes.len()),
            otlp: request,
        };
        return Batch { parts: vec![part] };
    }
    let parts = used.into_iter().map(|shard| {
        let mut otlp = Vec::new();
        let spans = outline.write(&request, |at, _| homes[at] == shard, &mut otlp);
        Part {
            shard,
            spans: count(spans),
            otlp: otlp.into(),
        }
    });
    Batch {
        parts: parts.collect(),
    }
}

/// A valid span takes 28 bytes at least: more than `u32::MAX` of them fit no request.
fn count(spans: usize) -> u32 {
    u32::try_from(spans).unwrap_or(u32::MAX)
}

/// Why a span is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    TraceIdLength(usize),
    TraceIdZero,
    SpanIdLength(usize),
    SpanIdZero,
}

/// How many different reasons a message names; senders repeat one mistake. Spans rejected for
/// others are in the total.
const REASONS_MAX: usize = 4;

#[derive(Default)]
struct Rejections {
    reasons: Vec<(Reason, u64)>,
    others: u64,
    bad_trace_ids: u64,
}

impl Rejections {
    fn judge(&self, ids: &Ids<'_>) -> Result<TraceId, Reason> {
        let trace_id = match (trace_id(ids.trace), ids.trace.len()) {
            (Some(id), _) => id,
            (None, 16) => return Err(Reason::TraceIdZero),
            (None, length) => return Err(Reason::TraceIdLength(length)),
        };
        match ids.span.len() {
            8 if ids.span.iter().any(|it| *it != 0) => Ok(trace_id),
            8 => Err(Reason::SpanIdZero),
            length => Err(Reason::SpanIdLength(length)),
        }
    }

    fn count(&mut self, reason: Reason) {
        let of_trace = matches!(reason, Reason::TraceIdLength(_) | Reason::TraceIdZero);
        self.bad_trace_ids += u64::from(of_trace);
        let known = self.reasons.iter().position(|it| it.0 == reason);
        match known {
            Some(at) => self.reasons[at].1 += 1,
            None if self.reasons.len() < REASONS_MAX => self.reasons.push((reason, 1)),
            None => self.others += 1,
        }
    }

    fn total(&self) -> u64 {
        self.others + self.reasons.iter().map(|it| it.1).sum::<u64>()
    }

    fn message(&self) -> String {
        let mut text = String::new();
        for (reason, count) in &self.reasons {
            let separator = if text.is_empty() { "" } else { "; " };
            let spans = if *count == 1 { "span" } else { "spans" };
            let _ = write!(text, "{separator}{count} {spans} rejected: ");
            let _ = match reason {
                Reason::TraceIdLength(0) => write!(text, "no trace_id"),
                Reason::TraceIdLength(length) => {
                    write!(text, "trace_id has {length} bytes instead of 16")
                }
                Reason::TraceIdZero => write!(text, "trace_id is all zero"),
                Reason::SpanIdLength(0) => write!(text, "no span_id"),
                Reason::SpanIdLength(length) => {
                    write!(text, "span_id has {length} bytes instead of 8")
                }
                Reason::SpanIdZero => write!(text, "span_id is all zero"),
            };
        }
        if self.others > 0 {
            let _ = write!(text, "; {} more for other reasons", self.others);
        }
        text
    }
}
