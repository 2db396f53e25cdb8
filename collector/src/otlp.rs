//! The wire: walk request bytes, validate spans, borrow `Span<'a>` from them.

use analyzer::span::{Spans, TraceId};
use bytes::Bytes;

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
    /// Why, for people: the first reasons, with counts. Empty if none.
    pub message: String,
}

/// A trace's shard: a hash of the trace id, modulo `shards`. Stored with the data: never changes.
pub fn shard_of(trace_id: TraceId, shards: u16) -> i16 {
    let _ = (trace_id, shards);
    todo!()
}

/// Validates every span of a request and splits the request by shard, each span's bytes copied
/// as they came under its own resource and scope. With one shard and nothing to reject, the
/// request's bytes are taken as they are.
pub fn accept(request: Bytes, shards: u16) -> Result<Accepted, WireError> {
    let _ = (request, shards);
    todo!()
}

/// Decodes the spans that `keep` wants (asked once per span, in order of the wire) and appends
/// them to `into`; several requests can be decoded into one `Spans`.
pub fn decode_into<'a>(
    into: &mut Spans<'a>,
    request: &'a [u8],
    keep: impl FnMut(TraceId) -> bool,
) -> Result<(), WireError> {
    let _ = (into, request, keep);
    todo!()
}

/// Appends a valid request to `out` that holds the spans of `request` that `keep` wants (asked
/// once per span with its position, in order of the wire), bytes as they came.
pub fn select(
    request: &[u8],
    keep: impl FnMut(usize, TraceId) -> bool,
    out: &mut Vec<u8>,
) -> Result<usize, WireError> {
    let _ = (request, keep, out);
    todo!()
}

/// The trace ids of all spans, in order of the wire.
pub fn trace_ids(request: &[u8]) -> Result<Vec<TraceId>, WireError> {
    let _ = request;
    todo!()
}

/// A stored request as OTLP/JSON (`{"resourceSpans":[…]}`): ids in hexadecimal, 64-bit numbers as text.
pub fn to_json(request: &[u8]) -> Result<String, WireError> {
    let _ = request;
    todo!()
}
