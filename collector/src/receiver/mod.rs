//! The one path both transports take: body → inflate → decode → accept → [`Sink`] → [`Answer`].
//!
//! Every listener answers both protocols. `grpc` and `http` only translate: which bytes, compressed
//! how, in which format, and how the answer is said. A request is answered with success when its spans are durable, never before.

mod listener;
mod tls;
mod serve;
mod pace;
mod grpc;
mod http;
mod cors;
mod auth;
mod answer;
mod admission;
mod inflate;
mod sink;
pub mod json;
mod stats;
mod watched;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body_util::BodyExt;

pub use answer::Answer;
pub use auth::Tokens;
pub use cors::Cors;
pub use listener::{ListenAddress, Listener, UnixSocket};
pub use pace::Patience;
pub use serve::serve;
pub use sink::{Kept, Memory, Sink};
pub use stats::{
    AcceptedCounts, Counts, OtherSignal, Problem, Refusal, Rejection, Snapshot, Stats, Via,
};
pub use tls::{Tls, TlsFiles};
pub use watched::Watched;

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
    pub connections_max: u32,
    /// Connections of one address (an IPv6 /64 counts as one) per listener; further ones are
    /// closed at once, so that one host cannot keep all others out.
    pub connections_per_peer_max: u32,
    /// After this long, a tenth more or less, a connection is asked to end, so that load balancers
    /// spread its client again; `None`: never.
    pub connection_age_max: Option<Duration>,
    /// How long a connection that was asked to end may go on with the requests it has.
    pub connection_grace: Duration,
    /// How often an HTTP/2 client is asked whether it is still there.
    pub ping_every: Duration,
    /// How long silence may last.
    pub patience: Patience,
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
            // A half, so that there is room for others. Behind a proxy all clients are one.
            connections_per_peer_max: 512,
            connection_age_max: Some(Duration::from_secs(30 * 60)),
            connection_grace: Duration::from_secs(30),
            ping_every: Duration::from_secs(30),
            patience: Patience::default(),
            streams_max: 128,
        }
    }
}

/// What a receiver may be told.
#[derive(Debug, Default)]
pub struct Options {
    /// What it takes at once.
    pub limits: Limits,
    /// Who may send; anybody without tokens.
    pub tokens: Option<Watched<Tokens>>,
    /// Which web sites' pages may send; none if not set.
    pub cors: Option<Cors>,
    /// Network connections are encrypted; not those of Unix sockets.
    pub tls: Option<Tls>,
    /// What becomes of logs and metrics.
    pub other_signals: OtherSignals,
}

/// What becomes of requests with logs or metrics, which culprit does not keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OtherSignals {
    /// Success, and nothing is kept: SDKs export all three signals by default and would log an
    /// error a minute otherwise. The status page says so.
    #[default]
    Discard,
    /// 404, UNIMPLEMENTED: an error in the sender's log.
    Reject,
}

/// A sender that is told of something odd which cost nothing is told so this often; SDKs log each
/// such answer.
const WARNING_EVERY: Duration = Duration::from_secs(60);

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
    sink: Sink,
    options: Options,
    admission: Admission,
    stats: Arc<Stats>,
    warned: Mutex<Option<Instant>>,
}

/// How a request body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Protobuf,
    Json,
}

impl Receiver {
    /// A receiver that writes to this journal, or keeps in this memory, with the usual limits.
    pub fn new(sink: impl Into<Sink>) -> Self {
        Self::with_options(sink, Options::default())
    }

    /// A receiver that writes to this journal, or keeps in this memory.
    pub fn with_options(sink: impl Into<Sink>, options: Options) -> Self {
        let inner = Inner {
            sink: sink.into(),
            admission: Admission::new(options.limits.in_flight_bytes_max),
            options,
            stats: Arc::default(),
            warned: Mutex::default(),
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
        self.inner.sink.is_ready()
    }

    fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    fn tls(&self) -> Option<&Tls> {
        self.inner.options.tls.as_ref()
    }

    fn cors(&self) -> Option<&Cors> {
        self.inner.options.cors.as_ref()
    }

    fn other_signals(&self) -> OtherSignals {
        self.inner.options.other_signals
    }

    /// Whether a request with these headers may send anything.
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Answer> {
        let Some(tokens) = &self.inner.options.tokens else {
            return Ok(());
        };
        tokens.get().check(headers).map_err(Answer::Unauthenticated)
    }

    /// Whether it is time for another warning.
    fn may_warn(&self) -> bool {
        let mut warned = self
            .inner
            .warned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = warned.is_none_or(|it| now - it >= WARNING_EVERY);
        if is_due {
            *warned = Some(now);
        }
        is_due
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
        // Those who are to come again anyway cost as little as can be.
        if let Some(refused) = self.inner.sink.refusal() {
            return Err(refused.into());
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
        match self.inner.sink.append(accepted.batch).await {
            Ok(()) => {
                let is_said =
                    accepted.rejected > 0 || accepted.message.is_empty() || self.may_warn();
                let answer = Answer::Taken {
                    rejected: accepted.rejected,
                    message: if is_said {
                        accepted.message
                    } else {
                        String::new()
                    },
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
        let shards = self.inner.sink.shards();
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
    if let Some(hint) = hint {
        let separator = if accepted.message.is_empty() {
            ""
        } else {
            "; "
        };
        accepted.message = format!("{}{separator}{hint}", accepted.message);
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

/// One frame is taken as it is; several are copied together, once and when all are there, so that
/// memory is taken as bytes arrive and not as they are announced.
async fn read_within(
    body: &mut Body,
    bytes_max: usize,
    charge: &mut Charge,
) -> Result<Bytes, ReadError> {
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| {
            let why = format!("the request ended early: {cause}");
            ReadError::Refused(Answer::Malformed(why))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length > bytes_max {
            return Err(ReadError::TooLarge);
        }
        charge.add(data.len()).map_err(ReadError::Refused)?;
        if !data.is_empty() {
            gathered.push(data);
        }
    }
    Ok(match gathered.len() {
        0 => Bytes::new(),
        1 => gathered.swap_remove(0),
        _ => gathered.concat().into(),
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
