//! Large buffers that are used again.
//!
//! The kernel clears every page of fresh memory. With buffers of some hundred kilobytes that come and
//! go with each tick that was a twelfth of culprit's time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait to be used again, in all of the process. Beyond it buffers are given back to the
/// allocator.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Smaller buffers cost nothing worth keeping them for.
const KEPT_BYTES_MIN: usize = 64 << 10;

static KEPT: Mutex<Kept> = Mutex::new(Kept {
    buffers: Vec::new(),
    bytes: 0,
    unused: 0,
});

#[derive(Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// The fewest that waited since the last [`trim`]: so many were not needed.
    unused: usize,
}

/// Bytes whose memory is used again.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one, with room for `capacity` bytes or for as many as there were at hand.
    pub fn with_capacity(capacity: usize) -> Buffer {
        let mut bytes = lock().take(capacity).unwrap_or_default();
        bytes.clear();
        bytes.reserve(capacity);
        Buffer(bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer(bytes)
    }
}

impl From<Buffer> for Vec<u8> {
    fn from(mut buffer: Buffer) -> Vec<u8> {
        std::mem::take(&mut buffer.0)
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= KEPT_BYTES_MIN {
            lock().give(std::mem::take(&mut self.0));
        }
    }
}

/// Lets go of the buffers that were not used since the last time.
pub fn trim() {
    lock().trim();
}

impl Kept {
    /// The smallest that is large enough, else the largest: growing it is cheaper than a fresh one.
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let at = self
            .buffers
            .partition_point(|it| it.capacity() < capacity)
            .min(self.buffers.len().checked_sub(1)?);
        let buffer = self.buffers.remove(at);
        self.bytes -= buffer.capacity();
        self.unused = self.unused.min(self.buffers.len());
        Some(buffer)
    }

    /// Sorted by capacity.
    fn give(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() > KEPT_BYTES_MAX {
            return;
        }
        self.bytes += buffer.capacity();
        let at = self
            .buffers
            .partition_point(|it| it.capacity() < buffer.capacity());
        self.buffers.insert(at, buffer);
    }

    fn trim(&mut self) {
        let dropped = self.buffers.drain(..self.unused.min(self.buffers.len()));
        let dropped: usize = dropped.map(|it| it.capacity()).sum();
        self.bytes -= dropped;
        self.unused = self.buffers.len();
    }
}

/// Nobody leaves it half changed, so a panic elsewhere does not matter.
fn lock() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KB: usize = 1 << 10;

    fn capacities(kept: &Kept) -> Vec<usize> {
        kept.buffers.iter().map(|it| it.capacity() / KB).collect()
    }

    #[test]
    fn the_smallest_that_fits_is_used_again() {
        let mut kept = Kept::default();
        for kb in [300, 100, 200] {
            kept.give(Vec::with_capacity(kb * KB));
        }
        assert_eq!(capacities(&kept), [100, 200, 300]);
        let taken = kept.take(150 * KB).map(|it| it.capacity() / KB);
        assert_eq!((taken, kept.bytes / KB), (Some(200), 400));
        assert_eq!(kept.take(900 * KB).map(|it| it.capacity() / KB), Some(300));
        assert_eq!(kept.take(0).map(|it| it.capacity() / KB), Some(100));
        assert_eq!((kept.take(0), kept.bytes), (None, 0));
    }

    #[test]
    fn what_is_not_needed_goes_and_so_does_what_is_too_much() {
        let mut kept = Kept::default();
        for _ in 0..3 {
            kept.give(Vec::with_capacity(100 * KB));
        }
        kept.trim();
        let taken = kept.take(0).unwrap();
        kept.give(taken);
        kept.trim();
        assert_eq!(capacities(&kept), [100], "two of three were not needed");
        kept.trim();
        assert_eq!((capacities(&kept), kept.bytes), (vec![], 0));
        kept.give(Vec::with_capacity(KEPT_BYTES_MAX + 1));
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn a_buffer_is_empty_whatever_it_held_before() {
        let mut buffer = Buffer::with_capacity(KEPT_BYTES_MIN);
        buffer.extend_from_slice(b"before");
        drop(buffer);
        assert!(Buffer::with_capacity(KEPT_BYTES_MIN).is_empty());
    }
}
