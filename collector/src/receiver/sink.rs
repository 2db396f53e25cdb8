//! Where spans go that were taken: into the journal, or into memory while somebody waits for them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::journal::{Batch, Journal, Refused};

/// The receiver's destination.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Durable before it is acknowledged.
    Journal(Journal),
    /// Gone with the process.
    Memory(Memory),
}

impl From<Journal> for Sink {
    fn from(journal: Journal) -> Self {
        Sink::Journal(journal)
    }
}

impl From<Memory> for Sink {
    fn from(memory: Memory) -> Self {
        Sink::Memory(memory)
    }
}

impl Sink {
    /// Into how many shards requests are split.
    pub(super) fn shards(&self) -> u16 {
        match self {
            Sink::Journal(journal) => journal.shards(),
            Sink::Memory(_) => 1,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match self {
            Sink::Journal(journal) => journal.is_ready(),
            Sink::Memory(_) => true,
        }
    }

    /// What everybody is told at the moment, whatever they send.
    pub(super) fn refusal(&self) -> Option<Refused> {
        match self {
            Sink::Journal(journal) => journal.refusal(),
            Sink::Memory(_) => None,
        }
    }

    pub(super) async fn append(&self, batch: Batch) -> Result<(), Refused> {
        match self {
            Sink::Journal(journal) => journal.append(batch).await,
            Sink::Memory(memory) => {
                memory.keep(batch);
                Ok(())
            }
        }
    }
}

/// Keeps requests until they are asked for, up to a bound. Beyond it spans are counted and dropped, and
/// their senders are told that all is well: a sender that comes again would only be slowed.
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    kept: Mutex<Kept>,
    arrived: Notify,
}

/// What a [`Memory`] holds.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Valid encoded `ExportTraceServiceRequest`s, in order of arrival.
    pub requests: Vec<Bytes>,
    /// Their bytes.
    pub bytes: usize,
    /// Spans in them.
    pub spans: u64,
    /// Spans that came when there was no room any more.
    pub dropped_spans: u64,
}

impl Memory {
    /// Keeps at most `bytes_max` bytes of encoded requests.
    pub fn new(bytes_max: usize) -> Memory {
        let inner = Inner {
            bytes_max,
            kept: Mutex::default(),
            arrived: Notify::new(),
        };
        Memory {
            inner: Arc::new(inner),
        }
    }

    fn keep(&self, batch: Batch) {
        let mut kept = self.lock();
        for part in batch.parts {
            let spans = u64::from(part.spans);
            if kept.bytes + part.otlp.len() > self.inner.bytes_max {
                kept.dropped_spans += spans;
                continue;
            }
            kept.bytes += part.otlp.len();
            kept.spans += spans;
            kept.requests.push(part.otlp);
        }
        drop(kept);
        self.inner.arrived.notify_waiters();
    }

    /// Returns when the next spans arrive.
    pub async fn arrival(&self) {
        self.inner.arrived.notified().await;
    }

    /// Hands over what has arrived so far, and begins anew.
    pub fn take(&self) -> Kept {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        let kept = self.inner.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Part;

    fn batch(bytes: usize, spans: u32) -> Batch {
        let part = Part {
            shard: 0,
            spans,
            otlp: vec![0; bytes].into(),
        };
        Batch { parts: vec![part] }
    }

    #[test]
    fn memory_is_bounded_and_says_what_it_dropped() {
        let memory = Memory::new(100);
        for _ in 0..3 {
            memory.keep(batch(40, 2));
        }
        let kept = memory.take();
        assert_eq!((kept.requests.len(), kept.bytes), (2, 80));
        assert_eq!((kept.spans, kept.dropped_spans), (4, 2));
        assert_eq!(memory.take().spans, 0);
    }
}
