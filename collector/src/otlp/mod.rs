//! The wire: walk request bytes, validate spans, borrow `Span<'a>` from them.
//!
//! [`accept`] is the only door for strangers' bytes; everything else reads what it let in. Spans
//! stay the bytes they came as: a part of a request is the same bytes under the same resource and
//! scope, and two requests one behind the other are a valid request.
//!
//! Read in this order: [`wire`] protobuf's primitives, [`schema`] OTLP's messages as a table,
//! [`check`] validation, [`outline`] where everything stands, then what is made of it.

mod accept;
pub(crate) mod check;
mod decode;
mod heads;
mod outline;
mod pile;
mod plain;
pub(crate) mod schema;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod texts;
mod to_json;
pub(crate) mod wire;

pub use accept::accept;
pub(crate) use decode::attribute_value;
pub use decode::{array_values, decode_into};
pub use heads::{Head, Side, heads};
pub use pile::Pile;
pub use source::{At, Source, bytes_of, decode_all, distinct, write};
pub use to_json::{PIECE_BYTES, any_value_to_json, to_json, to_json_pieces};

use analyzer::span::TraceId;

use crate::journal::Batch;

/// Why bytes are not an `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an OTLP trace request: {what} at byte {at}")]
pub struct WireError {
    /// What is wrong.
    pub what: &'static str,
    /// Where in the message.
    pub at: usize,
}

/// What was taken of a request.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The valid spans, by shard; no parts if there are none.
    pub batch: Batch,
    /// How many spans were not taken.
    pub rejected: u64,
    /// How many of them have no valid trace id; the others have no valid span id.
    pub bad_trace_ids: u64,
    /// Why, for people: the first reasons, with counts. Empty if none.
    pub message: String,
}

/// A trace's shard: a hash of the trace id, modulo `shards`. Stored with the data: never changes.
///
/// Both halves of the id are mixed in, because senders with 64-bit ids leave one of them zero and
/// AWS X-Ray begins all ids with the time.
pub fn shard_of(trace_id: TraceId, shards: u16) -> i16 {
    let [high, low] = halves(trace_id);
    let hash = mix(
        mix(low, 0x9e37_79b9_7f4a_7c15) ^ high,
        0xd6e8_feb8_6659_fd93,
    );
    let shard = hash % u64::from(shards.max(1));
    i16::try_from(shard).unwrap_or(i16::MAX)
}

fn halves(TraceId(bytes): TraceId) -> [u64; 2] {
    let whole = u128::from_be_bytes(bytes);
    [(whole >> 64) as u64, whole as u64]
}

/// Appends a valid request to `out` that holds the spans of `request` that `keep` wants (asked
/// once per span with its position, in order of the wire), bytes as they came; how many they are.
/// Nothing is appended if it wants none.
pub fn select(
    request: &[u8],
    mut keep: impl FnMut(usize, TraceId) -> bool,
    out: &mut Vec<u8>,
) -> Result<usize, WireError> {
    let outline = outline::outline(request)?;
    let mut kept = Vec::new();
    for (at, span) in outline.spans.iter().enumerate() {
        if keep(at, span.trace_id(request)?) {
            kept.push(span);
        }
    }
    outline.write_spans(request, &kept, out);
    Ok(kept.len())
}

/// Appends to each `out[to]` a valid request with the spans at the positions that `places` send
/// there: (position in order of the wire, index into `out`), each position at most once. Positions
/// that the request does not have are left out.
pub fn distribute(
    request: &[u8],
    places: &[(u32, usize)],
    out: &mut [Vec<u8>],
) -> Result<(), WireError> {
    let outline = outline::outline(request)?;
    let mut places: Vec<(usize, u32)> = places.iter().map(|(at, to)| (*to, *at)).collect();
    places.sort_unstable();
    for group in places.chunk_by(|a, b| a.0 == b.0) {
        let spans: Vec<_> = group
            .iter()
            .filter_map(|(_, at)| outline.spans.get(*at as usize))
            .collect();
        outline.write_spans(request, &spans, &mut out[group[0].0]);
    }
    Ok(())
}

/// The trace ids of all spans, in order of the wire.
pub fn trace_ids(request: &[u8]) -> Result<Vec<TraceId>, WireError> {
    let outline = outline::outline(request)?;
    let ids = outline.spans.iter().map(|it| it.trace_id(request));
    ids.collect()
}

/// A hash of a span's encoded bytes: eight at a time, each step the two halves of a 128-bit
/// product folded together. The same on every machine and in every release, because stored
/// decisions may rest on it; not meant against somebody who wants two spans to collide.
fn content_hash(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut hash = bytes.len() as u64;
    for chunk in chunks {
        hash = mix(hash ^ u64::from_le_bytes(*chunk), 0xa076_1d64_78bd_642f);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le_bytes(last), 0xe703_7ed1_a0b4_28db)
}

/// Adding a constant first keeps zero from being a fixed point.
fn mix(value: u64, odd: u64) -> u64 {
    let product = u128::from(value.wrapping_add(0x2545_f491_4f6c_dd1d)) * u128::from(odd);
    (product >> 64) as u64 ^ product as u64
}
