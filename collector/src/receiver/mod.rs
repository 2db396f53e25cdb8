//! The one path both transports take: body → inflate → decode → accept → journal → [`Answer`].
//!
//! [`grpc`] and [`http`] only translate: which bytes, compressed how, in which format, and how the
//! answer is said. A request is answered with success when its spans are durable, never before.

pub mod grpc;
pub mod http;
pub mod json;

mod admission;
mod answer;
mod inflate;
mod serve;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;

pub use answer::Answer;
pub use stats::{
    AcceptedCounts, Counts, OtherSignal, Problem, Refusal, Rejection, Snapshot, Stats, Via,
};

use crate::journal::Journal;
use crate::otlp::{self, Accepted};
use admission::{Admission, Charge};
use inflate::{Encoding, inflate};
use stats::Tally;

/// What one process takes at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one request, before and after decompression; larger ones are refused for good.
    pub body_bytes_max: usize,
    /// Bytes of all requests in flight; beyond it clients are told to come again.
    pub in_flight_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_deadline: Duration,
    /// Connections per listener; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Requests at once on one HTTP/2 connection; further ones wait in the client.
    pub streams_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // OTLP/HTTP's recommendation. gRPC servers' usual 4 MiB is less than collectors send.
            body_bytes_max: 20 << 20,
            // A few of the largest requests, each compressed and inflated; thousands of usual ones.
            in_flight_bytes_max: 64 << 20,
            body_deadline: Duration::from_secs(30),
            connections_max: 1024,
            streams_max: 128,
        }
    }
}

/// Bodies of up to so many bytes are decoded where they arrive; larger ones on a thread of their
/// own, so that they hold up nobody for longer than about a millisecond.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// After a refusal the rest of a body is read and dropped up to here, because a client that is
/// still sending when the connection closes sees a broken pipe instead of our answer, and retries.
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// The same, in time.
const DISCARD_DEADLINE: Duration = Duration::from_secs(10);

/// Told to a client whose body did not arrive in time.
const SLOW_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Takes export requests from both transports. Cheap to clone; all clones share limits and
/// counters.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    limits: Limits,
    admission: Admission,
    stats: Arc<Stats>,
}

/// How a request body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Protobuf,
    Json,
}

impl Receiver {
    /// A receiver that writes to this journal, with the usual limits.
    pub fn new(journal: Journal) -> Self {
        Self::with_limits(journal, Limits::default())
    }

    /// A receiver that writes to this journal.
    pub fn with_limits(journal: Journal, limits: Limits) -> Self {
        let admission = Admission::new(limits.in_flight_bytes_max);
        let inner = Inner {
            journal,
            limits,
            admission,
            stats: Arc::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What arrived and what was refused since the start; goes on counting.
    pub fn stats(&self) -> Arc<Stats> {
        self.inner.stats.clone()
    }

    /// Bytes of requests that are not answered yet.
    pub fn in_flight_bytes(&self) -> usize {
        self.inner.admission.used()
    }

    /// Spans can be stored right now.
    pub fn is_ready(&self) -> bool {
        self.inner.journal.is_ready()
    }

    fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    fn charge(&self) -> Charge {
        self.inner.admission.charge()
    }

    /// A body as it comes from the wire, at most `bytes_max` of it, in time.
    async fn read(
        &self,
        body: &mut Body,
        bytes_max: usize,
        charge: &mut Charge,
    ) -> Result<Bytes, Answer> {
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(Answer::too_large(self.limits().body_bytes_max));
        }
        let deadline = self.limits().body_deadline;
        let read = read_within(body, bytes_max, charge);
        match tokio::time::timeout(deadline, read).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(ReadError::TooLarge)) => Err(Answer::too_large(self.limits().body_bytes_max)),
            Ok(Err(ReadError::Refused(answer))) => Err(answer),
            Err(_) => Err(Answer::TooSlow {
                retry_after: SLOW_RETRY_AFTER,
                deadline,
            }),
        }
    }

    /// Everything after the transport: the answer, and what it adds to the counters.
    async fn export(
        &self,
        body: Bytes,
        encoding: Encoding,
        format: Format,
        charge: Charge,
    ) -> (Answer, Tally) {
        let bytes = body.len() as u64;
        let prepared = self.prepare(body, encoding, format, charge).await;
        let (accepted, _charge) = match prepared {
            Ok(prepared) => prepared,
            Err(answer) => return (answer, Tally::default()),
        };
        let spans = accepted.batch.parts.iter().map(|it| u64::from(it.spans));
        let tally = Tally {
            bytes,
            spans: spans.sum(),
            bad_trace_ids: accepted.bad_trace_ids,
            bad_span_ids: accepted.rejected - accepted.bad_trace_ids,
        };
        match self.inner.journal.append(accepted.batch).await {
            Ok(()) => {
                let answer = Answer::Taken {
                    rejected: accepted.rejected,
                    message: accepted.message,
                };
                (answer, tally)
            }
            Err(refused) => (refused.into(), Tally::default()),
        }
    }

    /// Large bodies are worked on beside the event loop; the charge goes with them.
    async fn prepare(
        &self,
        body: Bytes,
        encoding: Encoding,
        format: Format,
        mut charge: Charge,
    ) -> Result<(Accepted, Charge), Answer> {
        let bytes_max = self.limits().body_bytes_max;
        let shards = self.inner.journal.shards();
        let is_small = body.len() <= INLINE_BYTES_MAX;
        let work = move || {
            let accepted = accept(body, encoding, format, bytes_max, shards, &mut charge)?;
            Ok((accepted, charge))
        };
        if is_small {
            return work();
        }
        let worked = tokio::task::spawn_blocking(work).await;
        worked.unwrap_or_else(|cause| {
            tracing::error!(%cause, "decoding a request failed");
            Err(Answer::malformed("the request could not be decoded"))
        })
    }
}

/// Bytes as they were sent → what is taken of them.
fn accept(
    body: Bytes,
    encoding: Encoding,
    format: Format,
    bytes_max: usize,
    shards: u16,
    charge: &mut Charge,
) -> Result<Accepted, Answer> {
    let body = inflate(encoding, body, bytes_max, charge)?;
    let (protobuf, hint) = match format {
        Format::Protobuf => (body, None),
        Format::Json => {
            let decoded = json::decode(&body).map_err(|it| Answer::malformed(it.to_string()))?;
            charge.add(decoded.protobuf.len())?;
            (decoded.protobuf.into(), decoded.hint)
        }
    };
    let accepted = otlp::accept(protobuf, shards);
    let mut accepted = accepted.map_err(|it| Answer::malformed(it.to_string()))?;
    if let (Some(hint), 1..) = (hint, accepted.rejected) {
        accepted.message = format!("{}; {hint}", accepted.message);
    }
    if accepted.batch.parts.len() > 1 || accepted.rejected > 0 {
        let copied = accepted.batch.parts.iter().map(|it| it.otlp.len());
        charge.add(copied.sum())?;
    }
    Ok(accepted)
}

enum ReadError {
    TooLarge,
    Refused(Answer),
}

/// One frame is taken as it is; several are copied together. Memory is taken as bytes arrive, not
/// as they are announced.
async fn read_within(
    body: &mut Body,
    bytes_max: usize,
    charge: &mut Charge,
) -> Result<Bytes, ReadError> {
    let mut first = Bytes::new();
    let mut gathered = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| {
            let why = format!("the request ended early: {cause}");
            ReadError::Refused(Answer::Malformed(why))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len().max(gathered.len()) + data.len() > bytes_max {
            return Err(ReadError::TooLarge);
        }
        charge.add(data.len()).map_err(ReadError::Refused)?;
        if first.is_empty() && gathered.is_empty() {
            first = data;
            continue;
        }
        if gathered.is_empty() {
            gathered.extend_from_slice(&std::mem::take(&mut first));
        }
        gathered.extend_from_slice(&data);
    }
    Ok(if gathered.is_empty() {
        first
    } else {
        gathered.into()
    })
}

/// Reads and drops what is left of a body, within bounds.
async fn discard(body: &mut Body) {
    if body.size_hint().lower() > DISCARD_BYTES_MAX as u64 {
        return;
    }
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_DEADLINE, all).await;
}
