//! The disk guard: Postgres ends in a panic when its disk is full, so nothing more is taken while
//! there is still room to finish what was.
//!
//! ```text
//! free    ------\                /-----
//! resume  - - - -\- - - - - - - /- - -
//! floor   - - - - \- - - - - - /- - - -
//!                  \____,_____/
//! taken   yes       no          yes
//! ```

use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The floor is never less than this, unless it is set: Postgres writes its log in files of 16 MB,
/// and what is in flight has to go somewhere.
const FREE_MIN_BYTES: u64 = 2 << 30;

/// Nor less than this share of the file system.
const FREE_MIN_SHARE: f64 = 0.05;

/// Taken again only with so much more than the floor, so that it does not flutter.
const RESUME_FACTOR: f64 = 1.25;

/// How often the disk is looked at. At a gigabyte a second the floor still holds for two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the file system of the private Postgres. Never low for a Postgres elsewhere: its disk
/// cannot be seen from here.
#[derive(Debug, Default)]
pub struct DiskGuard {
    low: AtomicBool,
    free_bytes: AtomicU64,
    total_bytes: AtomicU64,
    floor_bytes: AtomicU64,
    became_low: Notify,
}

impl DiskGuard {
    /// Less is free than has to be.
    pub fn is_low(&self) -> bool {
        self.low.load(Relaxed)
    }

    /// Bytes free at the last look; 0 before the first.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Relaxed)
    }

    /// Bytes of the file system; 0 before the first look.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// Bytes that have to be free.
    pub fn floor_bytes(&self) -> u64 {
        self.floor_bytes.load(Relaxed)
    }

    /// Why nothing is taken, for those who send; `None` if it is.
    pub fn refusal(&self) -> Option<String> {
        self.is_low().then(|| {
            format!(
                "the disk is almost full: {} MB are free and {} MB have to be; old days are being removed, come again",
                self.free_bytes() >> 20,
                self.floor_bytes() >> 20,
            )
        })
    }

    /// Returns when the disk has become low, once each time.
    pub async fn wait_until_low(&self) {
        self.became_low.notified().await;
    }

    /// Takes in how much is free of how much, against the floor.
    fn see(&self, free: u64, total: u64, floor: u64) {
        self.free_bytes.store(free, Relaxed);
        self.total_bytes.store(total, Relaxed);
        self.floor_bytes.store(floor, Relaxed);
        let resume = (floor as f64 * RESUME_FACTOR) as u64;
        if free < floor && !self.low.swap(true, Relaxed) {
            tracing::error!(
                free_mb = free >> 20,
                floor_mb = floor >> 20,
                "the disk is almost full: clients are told to come again, and old days are removed"
            );
            self.became_low.notify_one();
        } else if free >= resume && self.low.swap(false, Relaxed) {
            tracing::info!(free_mb = free >> 20, "there is room on the disk again");
        }
    }

    /// Looks at the file system of `directory` once. `floor` is what has to be free; if it is not
    /// set, 2 GiB or 5 % of the file system, whichever is more.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn look(&self, directory: &Path, floor: Option<u64>) -> Result<(), nix::Error> {
        let stat = statvfs(directory)?;
        let block = stat.fragment_size() as u64;
        let total = stat.blocks() as u64 * block;
        let usual = FREE_MIN_BYTES.max((total as f64 * FREE_MIN_SHARE) as u64);
        // On a small disk that would be all of it.
        let usual = usual.min(total / 5);
        // What others than root may still use: Postgres is not root.
        self.see(
            stat.blocks_available() as u64 * block,
            total,
            floor.unwrap_or(usual),
        );
        Ok(())
    }

    /// Looks every second until `shutdown`.
    pub async fn watch(&self, directory: PathBuf, floor: Option<u64>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.look(&directory, floor) {
                tracing::debug!(%error, "the disk cannot be looked at");
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn it_is_low_below_the_floor_and_until_there_is_more_than_that() {
        let guard = DiskGuard::default();
        let mut seen = Vec::new();
        for free in [9, 4, 3, 4, 5, 9] {
            guard.see(free * GB, 100 * GB, 4 * GB);
            seen.push(guard.is_low());
        }
        assert_eq!(seen, [false, false, true, true, false, false]);
    }

    #[test]
    fn who_is_refused_hears_of_the_disk() {
        let guard = DiskGuard::default();
        assert_eq!(guard.refusal(), None);
        guard.see(GB, 100 * GB, 5 * GB);
        let reason = guard.refusal().unwrap();
        assert!(
            reason.contains("the disk is almost full: 1024 MB are free and 5120 MB"),
            "{reason}"
        );
    }

    #[test]
    fn the_usual_floor_follows_the_size() {
        let guard = DiskGuard::default();
        guard.look(&std::env::temp_dir(), None).unwrap();
        assert!(guard.floor_bytes() >= 2 * GB);
        assert!(guard.floor_bytes() >= guard.total_bytes() / 21);
        guard.look(&std::env::temp_dir(), Some(u64::MAX)).unwrap();
        assert!(guard.is_low());
        guard.look(&std::env::temp_dir(), Some(1)).unwrap();
        assert!(!guard.is_low());
    }
}
