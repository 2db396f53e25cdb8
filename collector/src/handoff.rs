//! From the journal to the shard's owner without a detour, when both are in one process.
//!
//! What was committed a moment ago is still in memory: its owner takes it from here instead of
//! reading and unpacking it again. The journal stays the truth. Whatever is not handed over (the
//! owner is elsewhere, busy, or this process has just started) is read from there.

use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

use crate::buffers::Buffer;

/// Raw bytes that wait for owners. Beyond it rows are not handed over, but read by their owners
/// when they come to it.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// A committed journal row.
#[derive(Debug)]
pub struct Fresh {
    /// The row.
    pub id: Uuid,
    /// zstd of `raw`.
    pub payload: Bytes,
    /// OTLP.
    pub raw: Buffer,
}

/// Where committed rows wait for their owners.
#[derive(Debug)]
pub struct Handoff {
    shards: Mutex<Vec<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<Fresh>,
    owned: bool,
}

impl Handoff {
    /// For a schema of so many shards.
    pub fn new(shards: u16) -> Handoff {
        let waiting = std::iter::repeat_with(Waiting::default).take(shards.into());
        Handoff {
            shards: Mutex::new(waiting.collect()),
        }
    }

    /// Rows of these shards are committed.
    pub fn give(&self, rows: impl IntoIterator<Item = (i16, Fresh)>) {
        let mut shards = self.lock();
        let mut bytes: usize = shards
            .iter()
            .flat_map(|it| &it.rows)
            .map(|it| it.raw.len())
            .sum();
        for (shard, row) in rows {
            bytes += row.raw.len();
            if bytes > WAITING_BYTES_MAX {
                return;
            }
            let waiting = shards.get_mut(shard as usize);
            if let Some(waiting) = waiting.filter(|it| it.owned) {
                waiting.rows.push(row);
            }
        }
    }

    /// A shard's owner is here from now on, or no more.
    pub fn set_owned(&self, shard: i16, owned: bool) {
        if let Some(waiting) = self.lock().get_mut(shard as usize) {
            waiting.rows.clear();
            waiting.owned = owned;
        }
    }

    /// What waits for a shard's owner.
    pub fn take(&self, shard: i16) -> Vec<Fresh> {
        let mut shards = self.lock();
        let waiting = shards.get_mut(shard as usize);
        waiting.map_or_else(Vec::new, |it| std::mem::take(&mut it.rows))
    }

    /// Nobody leaves it half changed, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: usize) -> Fresh {
        Fresh {
            id: Uuid::now_v7(),
            payload: Bytes::new(),
            raw: vec![0; bytes].into(),
        }
    }

    #[test]
    fn rows_wait_for_owners_of_this_process_only_and_not_without_bound() {
        let handoff = Handoff::new(2);
        handoff.give([(0, row(1))]);
        handoff.set_owned(0, true);
        assert_eq!(handoff.take(0).len(), 0);
        handoff.give([(0, row(1)), (1, row(1)), (0, row(WAITING_BYTES_MAX))]);
        assert_eq!((handoff.take(0).len(), handoff.take(1).len()), (1, 0));
        handoff.give([(0, row(WAITING_BYTES_MAX))]);
        handoff.set_owned(0, false);
        assert_eq!(handoff.take(0).len(), 0);
    }
}
