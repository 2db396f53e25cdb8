//! The backlog guard: what is taken has to be analysed, too. When more arrives for long than analysis keeps
//! up with, the journal would grow until the disk is full and everything shown would be hours old; so
//! clients are told to come again while more waits than may. A burst, or analysers that are away for a
//! while, are what the bound leaves room for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::repeated::Repeated;
use crate::store::Store;

/// What may wait unless it is set, bytes of OTLP as sent: some 35 million spans, ten minutes of 60,000
/// a second. On disk it is about a tenth of that.
pub const BYTES_MAX: u64 = 16 << 30;

/// Taken again when less than this share of the bound waits, so that it does not flutter.
const RESUME_SHARE: f64 = 0.9;

/// How often the journal is looked at. What arrives between two looks may be too much.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looking takes at most this share of the time, however long the journal is.
const LOOKING_SHARE: u32 = 20;

/// Watches how much waits to be analysed, of all processes together.
#[derive(Debug)]
pub struct BacklogGuard {
    bytes_max: u64,
    waiting_bytes: AtomicU64,
    full: AtomicBool,
}

impl BacklogGuard {
    /// So many bytes of OTLP may wait.
    pub fn new(bytes_max: u64) -> BacklogGuard {
        BacklogGuard {
            bytes_max,
            waiting_bytes: AtomicU64::new(0),
            full: AtomicBool::new(false),
        }
    }

    /// Why nothing is taken, for those who send; `None` if it is.
    pub fn refusal(&self) -> Option<String> {
        self.full.load(Relaxed).then(|| {
            format!(
                "{} MB of spans wait to be analysed and {} MB may; come again",
                self.waiting_bytes.load(Relaxed) >> 20,
                self.bytes_max >> 20,
            )
        })
    }

    /// Looks until `shutdown`. While Postgres is away the last look counts.
    pub async fn watch(&self, store: &Store, shutdown: CancellationToken) {
        let failing = Repeated::default();
        loop {
            let since = Instant::now();
            match store.journal_backlog().await {
                Ok(backlog) => self.see(backlog.raw_bytes.max(0) as u64),
                Err(error) => {
                    if let Some(failures) = failing.due() {
                        tracing::warn!(failures, %error, "the journal's length is not known");
                    }
                }
            }
            let pause = LOOK_EVERY.max(since.elapsed() * LOOKING_SHARE);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes in how much waits.
    fn see(&self, waiting_bytes: u64) {
        self.waiting_bytes.store(waiting_bytes, Relaxed);
        let resume = (self.bytes_max as f64 * RESUME_SHARE) as u64;
        if waiting_bytes > self.bytes_max && !self.full.swap(true, Relaxed) {
            tracing::error!(
                waiting_mb = waiting_bytes >> 20,
                max_mb = self.bytes_max >> 20,
                "analysis does not keep up: clients are told to come again until less waits"
            );
        } else if waiting_bytes <= resume && self.full.swap(false, Relaxed) {
            tracing::info!(
                waiting_mb = waiting_bytes >> 20,
                "analysis has caught up: spans are taken again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_above_the_bound_until_a_tenth_less_waits() {
        let guard = BacklogGuard::new(100 << 20);
        let full_at = |mb: u64| {
            guard.see(mb << 20);
            guard.refusal()
        };
        assert_eq!(full_at(100), None);
        assert_eq!(
            full_at(101).unwrap(),
            "101 MB of spans wait to be analysed and 100 MB may; come again"
        );
        assert!(full_at(91).is_some());
        assert_eq!(full_at(90), None);
        assert_eq!(full_at(100), None);
    }
}
