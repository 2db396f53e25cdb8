//! What arrived and what was refused since the start, for the status page and `/metrics`.
//!
//! Labels are fixed enumerations: nothing a sender writes becomes one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::answer::Answer;
use crate::clock::now_ns;

/// The way a request came: its transport and how it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// OTLP/gRPC, which is always protobuf.
    Grpc,
    /// OTLP/HTTP with a protobuf body.
    HttpProtobuf,
    /// OTLP/HTTP with a JSON body.
    HttpJson,
}

impl Via {
    /// All of them, in the order of [`Snapshot::accepted`].
    pub const ALL: [Via; 3] = [Via::Grpc, Via::HttpProtobuf, Via::HttpJson];

    /// `grpc` or `http`.
    pub fn transport(self) -> &'static str {
        match self {
            Via::Grpc => "grpc",
            Via::HttpProtobuf | Via::HttpJson => "http",
        }
    }

    /// `protobuf` or `json`.
    pub fn format(self) -> &'static str {
        match self {
            Via::Grpc | Via::HttpProtobuf => "protobuf",
            Via::HttpJson => "json",
        }
    }
}

/// Why a span of a request that was otherwise taken was not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// No trace id of 16 bytes, or all zero.
    TraceId,
    /// No span id of 8 bytes, or all zero.
    SpanId,
}

impl Rejection {
    /// All of them, in the order of [`Snapshot::rejected_spans`].
    pub const ALL: [Rejection; 2] = [Rejection::TraceId, Rejection::SpanId];

    /// The reason as a label.
    pub fn name(self) -> &'static str {
        match self {
            Rejection::TraceId => "invalid_trace_id",
            Rejection::SpanId => "invalid_span_id",
        }
    }
}

/// Why a whole request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It was no OTLP.
    Malformed,
    /// It was over the limit of bytes.
    TooLarge,
    /// Its content type or encoding is unknown.
    Unsupported,
    /// It came without a valid token.
    Unauthenticated,
    /// It went to a path or method that is none of ours.
    Unknown,
    /// Its body did not arrive in time; it may come again.
    TooSlow,
    /// Too much was in flight; it may come again.
    Overloaded,
    /// Spans could not be stored; it may come again.
    Unavailable,
}

impl Refusal {
    /// All of them, in the order of [`Snapshot::refused_requests`].
    pub const ALL: [Refusal; 8] = [
        Refusal::Malformed,
        Refusal::TooLarge,
        Refusal::Unsupported,
        Refusal::Unauthenticated,
        Refusal::Unknown,
        Refusal::TooSlow,
        Refusal::Overloaded,
        Refusal::Unavailable,
    ];

    /// The reason as a label.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Malformed => "malformed",
            Refusal::TooLarge => "too_large",
            Refusal::Unsupported => "unsupported",
            Refusal::Unauthenticated => "unauthenticated",
            Refusal::Unknown => "unknown_path",
            Refusal::TooSlow => "too_slow",
            Refusal::Overloaded => "overloaded",
            Refusal::Unavailable => "unavailable",
        }
    }
}

/// What OTLP carries besides traces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtherSignal {
    /// `LogsService`, `/v1/logs`.
    Logs,
    /// `MetricsService`, `/v1/metrics`.
    Metrics,
}

impl OtherSignal {
    /// All of them, in the order of [`Snapshot::other_signals`].
    pub const ALL: [OtherSignal; 2] = [OtherSignal::Logs, OtherSignal::Metrics];

    /// The signal as a label.
    pub fn name(self) -> &'static str {
        match self {
            OtherSignal::Logs => "logs",
            OtherSignal::Metrics => "metrics",
        }
    }
}

/// The receiver's counters; written by every request, read by pages.
#[derive(Debug, Default)]
pub struct Stats {
    accepted: [AcceptedNow; Via::ALL.len()],
    rejected_spans: [AtomicU64; Rejection::ALL.len()],
    refused_requests: [AtomicU64; Refusal::ALL.len()],
    other_signals: [AtomicU64; OtherSignal::ALL.len()],
    refused_connections: AtomicU64,
    last_taken_ns: AtomicU64,
    last_problem: Mutex<Option<Problem>>,
}

#[derive(Debug, Default)]
struct AcceptedNow {
    requests: AtomicU64,
    spans: AtomicU64,
    bytes: AtomicU64,
}

/// All counters at one moment; none ever falls while the process lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Requests answered with success, wholly or in part, by the way they came.
    pub accepted: [(Via, AcceptedCounts); Via::ALL.len()],
    /// Spans not taken from requests that were.
    pub rejected_spans: [(Rejection, u64); Rejection::ALL.len()],
    /// Requests refused whole.
    pub refused_requests: [(Refusal, u64); Refusal::ALL.len()],
    /// Requests with other signals, whether discarded or rejected.
    pub other_signals: [(OtherSignal, u64); OtherSignal::ALL.len()],
    /// Connections closed at once because their address had too many.
    pub refused_connections: u64,
    /// When spans were last taken, ns since the Unix epoch; 0 if never.
    pub last_taken_ns: u64,
}

/// What was taken in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AcceptedCounts {
    /// Requests, those without spans too.
    pub requests: u64,
    /// Spans that are durable.
    pub spans: u64,
    /// Bytes of the bodies as they were sent: compressed, without headers.
    pub bytes: u64,
}

/// The counters as the status page shows them: fewer, and with the latest problem.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests answered with success, wholly or in part.
    pub taken_requests: u64,
    /// Spans that are durable.
    pub taken_spans: u64,
    /// Spans without valid ids in requests that were otherwise taken.
    pub rejected_spans: u64,
    /// Requests that were no OTLP.
    pub malformed: u64,
    /// Requests over the limit of bytes.
    pub too_large: u64,
    /// Requests of an unknown content type or encoding.
    pub unsupported: u64,
    /// Requests told to come again because too much was in flight.
    pub overloaded: u64,
    /// Requests told to come again because spans could not be stored, or came too slowly.
    pub unavailable: u64,
    /// Requests with logs or metrics: no spans, so nothing of them is kept.
    pub other_signals: u64,
    /// When spans were last taken, ns since the Unix epoch; 0 if never.
    pub last_taken_ns: u64,
    /// The latest refusal or rejection, if there was one.
    pub last_problem: Option<Problem>,
}

/// Something a sender should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// When, ns since the Unix epoch.
    pub at_ns: u64,
    /// What the sender was told. May hold the sender's text.
    pub message: String,
}

/// What one request adds if it is answered with success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    /// Bytes of the body as it was sent.
    pub bytes: u64,
    /// Spans that are durable by now.
    pub spans: u64,
    /// Spans without a valid trace id.
    pub bad_trace_ids: u64,
    /// Spans with a valid trace id and without a valid span id.
    pub bad_span_ids: u64,
}

impl Stats {
    /// All counters now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Snapshot {
            accepted: Via::ALL.map(|via| {
                let now = &self.accepted[via as usize];
                let counts = AcceptedCounts {
                    requests: read(&now.requests),
                    spans: read(&now.spans),
                    bytes: read(&now.bytes),
                };
                (via, counts)
            }),
            rejected_spans: Rejection::ALL.map(|it| (it, read(&self.rejected_spans[it as usize]))),
            refused_requests: Refusal::ALL
                .map(|it| (it, read(&self.refused_requests[it as usize]))),
            other_signals: OtherSignal::ALL.map(|it| (it, read(&self.other_signals[it as usize]))),
            refused_connections: read(&self.refused_connections),
            last_taken_ns: read(&self.last_taken_ns),
        }
    }

    /// The counters now, for the status page.
    pub fn counts(&self) -> Counts {
        let now = self.snapshot();
        let last_problem = self.last_problem.lock();
        let refused = |reason: Refusal| now.refused_requests[reason as usize].1;
        Counts {
            taken_requests: now.accepted.iter().map(|it| it.1.requests).sum(),
            taken_spans: now.accepted.iter().map(|it| it.1.spans).sum(),
            rejected_spans: now.rejected_spans.iter().map(|it| it.1).sum(),
            malformed: refused(Refusal::Malformed),
            too_large: refused(Refusal::TooLarge),
            unsupported: refused(Refusal::Unsupported),
            overloaded: refused(Refusal::Overloaded),
            unavailable: refused(Refusal::Unavailable) + refused(Refusal::TooSlow),
            other_signals: now.other_signals.iter().map(|it| it.1).sum(),
            last_taken_ns: now.last_taken_ns,
            last_problem: last_problem.unwrap_or_else(|it| it.into_inner()).clone(),
        }
    }

    /// A request was answered; `tally` is counted if the answer is success.
    pub(super) fn answered(&self, via: Via, answer: &Answer, tally: Tally) {
        match answer.refusal() {
            Some(reason) => self.refused(reason),
            None => self.took(via, tally),
        }
        let message = match answer {
            Answer::Taken { message, .. } if message.is_empty() => return,
            Answer::Taken { message, .. } => message.clone(),
            _ => answer.status().message,
        };
        self.problem(message);
    }

    fn took(&self, via: Via, tally: Tally) {
        let accepted = &self.accepted[via as usize];
        accepted.requests.fetch_add(1, Relaxed);
        accepted.bytes.fetch_add(tally.bytes, Relaxed);
        let rejected = |reason: Rejection, spans| {
            self.rejected_spans[reason as usize].fetch_add(spans, Relaxed);
        };
        rejected(Rejection::TraceId, tally.bad_trace_ids);
        rejected(Rejection::SpanId, tally.bad_span_ids);
        if tally.spans > 0 {
            accepted.spans.fetch_add(tally.spans, Relaxed);
            self.last_taken_ns.store(now_ns(), Relaxed);
        }
    }

    /// A request was refused whole.
    pub(super) fn refused(&self, reason: Refusal) {
        self.refused_requests[reason as usize].fetch_add(1, Relaxed);
    }

    /// What a sender was told last.
    pub(super) fn problem(&self, message: String) {
        tracing::debug!(message, "a request was refused, or spans of it");
        let mut last = self
            .last_problem
            .lock()
            .unwrap_or_else(|it| it.into_inner());
        *last = Some(Problem {
            at_ns: now_ns(),
            message,
        });
    }

    /// A connection was closed at once.
    pub(super) fn connection_refused(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// Logs or metrics came.
    pub(super) fn other_signal(&self, signal: OtherSignal) {
        self.other_signals[signal as usize].fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_where_its_enumeration_says() {
        let stats = Stats::default();
        let taken = |rejected| Answer::Taken {
            rejected,
            message: String::new(),
        };
        let tally = Tally {
            bytes: 100,
            spans: 7,
            bad_trace_ids: 2,
            bad_span_ids: 1,
        };
        stats.answered(Via::HttpJson, &taken(3), tally);
        stats.answered(Via::Grpc, &taken(0), Tally::default());
        let too_large = Answer::too_large(1);
        stats.answered(Via::Grpc, &too_large, Tally::default());
        stats.other_signal(OtherSignal::Metrics);
        let now = stats.snapshot();
        for (position, via) in Via::ALL.into_iter().enumerate() {
            assert_eq!((via as usize, now.accepted[position].0), (position, via));
        }
        let json = now.accepted[Via::HttpJson as usize].1;
        assert_eq!((json.requests, json.spans, json.bytes), (1, 7, 100));
        assert_eq!(now.rejected_spans.map(|it| it.1), [2, 1]);
        for (reason, count) in now.refused_requests {
            assert_eq!(count, u64::from(reason == Refusal::TooLarge), "{reason:?}");
        }
        assert_eq!(now.other_signals.map(|it| it.1), [0, 1]);
        let counts = stats.counts();
        assert_eq!((counts.taken_requests, counts.taken_spans), (2, 7));
        assert_eq!((counts.rejected_spans, counts.too_large), (3, 1));
        assert!(counts.last_problem.is_some());
    }
}
