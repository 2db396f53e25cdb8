//! How much may be in memory at once: bodies on their way in, inflated, decoded and not yet
//! answered, counted in bytes as they arrive. Nothing is reserved for bytes that are only promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::Answer;

/// When a refused client should come again: the time a few commits take.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes of all requests in flight.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Admission {
    /// Admits up to so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            used: Arc::default(),
            bytes_max,
        }
    }

    /// An account for one request.
    pub(super) fn charge(&self) -> Charge {
        Charge {
            admission: self.clone(),
            bytes: 0,
        }
    }

    /// Bytes in flight.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// One request's bytes; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    admission: Admission,
    bytes: usize,
}

impl Charge {
    /// Takes more bytes, or answers that there is no room.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Answer> {
        let used = self.admission.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        if used > self.admission.bytes_max {
            return Err(Answer::Overloaded {
                retry_after: RETRY_AFTER,
            });
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.admission.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
