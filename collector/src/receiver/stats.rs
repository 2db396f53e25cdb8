//! What arrived and what was refused since the start, for the status page and `/metrics`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::answer::Answer;

/// The receiver's counters; written by every request, read by pages.
#[derive(Debug, Default)]
pub struct Stats {
    taken_requests: AtomicU64,
    taken_spans: AtomicU64,
    rejected_spans: AtomicU64,
    malformed: AtomicU64,
    too_large: AtomicU64,
    unsupported: AtomicU64,
    overloaded: AtomicU64,
    unavailable: AtomicU64,
    other_signals: AtomicU64,
    last_taken_ns: AtomicU64,
    last_problem: Mutex<Option<Problem>>,
}

/// The counters at one moment.
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
    /// Requests told to come again because spans could not be stored.
    pub unavailable: u64,
    /// Requests with logs or metrics: answered with success and discarded.
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

impl Stats {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        let last_problem = self.last_problem.lock();
        Counts {
            taken_requests: self.taken_requests.load(Relaxed),
            taken_spans: self.taken_spans.load(Relaxed),
            rejected_spans: self.rejected_spans.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            too_large: self.too_large.load(Relaxed),
            unsupported: self.unsupported.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            other_signals: self.other_signals.load(Relaxed),
            last_taken_ns: self.last_taken_ns.load(Relaxed),
            last_problem: last_problem.unwrap_or_else(|it| it.into_inner()).clone(),
        }
    }

    /// A request was answered; `spans` of it were taken if the answer is success.
    pub(super) fn answered(&self, answer: &Answer, spans: u64) {
        let counter = match answer {
            Answer::Taken { rejected, .. } => {
                self.taken_spans.fetch_add(spans, Relaxed);
                self.rejected_spans.fetch_add(*rejected, Relaxed);
                if spans > 0 {
                    self.last_taken_ns.store(now_ns(), Relaxed);
                }
                &self.taken_requests
            }
            Answer::Malformed(_) => &self.malformed,
            Answer::TooLarge { .. } => &self.too_large,
            Answer::Unsupported(_) => &self.unsupported,
            Answer::Overloaded { .. } => &self.overloaded,
            Answer::Unavailable { .. } => &self.unavailable,
        };
        counter.fetch_add(1, Relaxed);
        let message = match answer {
            Answer::Taken { message, .. } if message.is_empty() => return,
            Answer::Taken { message, .. } => message.clone(),
            _ => answer.status().message,
        };
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

    /// Logs or metrics came.
    pub(super) fn other_signal(&self) {
        self.other_signals.fetch_add(1, Relaxed);
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX))
}
