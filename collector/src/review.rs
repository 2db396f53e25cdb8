//! Every few seconds: what the ticks appended → findings with a life → alerts.
//!
//! One review at a time, under a lease of its own. It only reads what ticks wrote, so that it may
//! be late, restarted or taken over at any moment without a finding being lost or told twice.

use analyzer::finding::Severity;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::alert::look::Watch;
use crate::clock::{now_ms, pause};
use crate::store::findings::{Judged, RecentHits};
use crate::store::leases::{Lease, Process, REVIEW_SHARD};
use crate::store::{Store, StoreError};

/// How often the review looks. A finding is on the list this long after its trace is final.
const REVIEW_EVERY: Duration = Duration::from_secs(1);

/// Deployments are looked for in every so many-th look: they are told to the minute anyway.
const DEPLOYMENTS_EVERY: u64 = 10;
/// How often states are looked through that change by themselves with time.
const LIVES_EVERY: Duration = Duration::from_secs(60);

/// After an error or while another process reviews.
const PAUSE: Duration = Duration::from_secs(3);

/// What reviews have done since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Looks that ended well.
    pub runs: AtomicU64,
    /// Looks that failed; the next one begins anew.
    pub failed: AtomicU64,
}

/// Reviews until `shutdown`; gives the lease back then.
pub async fn run(
    store: Store,
    mut watch: Watch,
    resolve_after: Duration,
    process: Process,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let Process { id, sole_owner } = process;
    while !shutdown.is_cancelled() {
        match store.acquire_lease(REVIEW_SHARD, id, sole_owner).await {
            Ok(Some(lease)) => {
                let review = review(&store, &lease, &mut watch, resolve_after, &stats, &shutdown);
                // A bug here must not end the process: spans are taken and analysed without it.
                match AssertUnwindSafe(review).catch_unwind().await {
                    Ok(Ok(())) => {
                        let _ = store.release_lease(&lease).await;
                    }
                    Ok(Err(error)) => {
                        stats.failed.fetch_add(1, Relaxed);
                        tracing::warn!(%error, "the review starts anew");
                    }
                    Err(_) => {
                        stats.failed.fetch_add(1, Relaxed);
                        tracing::error!("the review panicked, see above; it starts anew");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "no lease for the review"),
        }
        pause(PAUSE, &shutdown).await;
    }
}

async fn review(
    store: &Store,
    lease: &Lease,
    watch: &mut Watch,
    resolve_after: Duration,
    stats: &Stats,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    let mut lives = Lives::new(resolve_after);
    while !shutdown.is_cancelled() {
        look(store, lease).await?;
        // First: what was found long before a longer stop is not new any more, and not told as new.
        lives.look(store, lease).await?;
        match watch.look(store, lease, now_ms()).await {
            Err(StoreError::LeaseLost(shard)) => return Err(StoreError::LeaseLost(shard)),
            // Findings and deployments go on without alerts.
            Err(error) => {
                stats.failed.fetch_add(1, Relaxed);
                tracing::warn!(%error, "alerts could not be looked at");
            }
            Ok(()) => {}
        }
        if stats.runs.load(Relaxed).is_multiple_of(DEPLOYMENTS_EVERY) {
            crate::deployments::notice(store, lease, now_ms()).await?;
        }
        stats.runs.fetch_add(1, Relaxed);
        pause(REVIEW_EVERY, shutdown).await;
    }
    Ok(())
}

/// One look: findings are brought up to date.
///
/// # Errors
/// The lease is lost, or Postgres failed; nothing is half done.
pub async fn look(store: &Store, lease: &Lease) -> Result<(), StoreError> {
    let recent = store.recent_hits().await?;
    let (affecting, gone): (Vec<_>, Vec<_>) = recent.into_iter().partition(is_affecting);
    let gone: Vec<i32> = gone
        .iter()
        .filter(|it| it.traces <= 0)
        .map(|it| it.finding_id)
        .collect();
    let judged: Vec<Judged> = affecting.into_iter().map(judge).collect();
    store.write_findings(lease, &judged, &gone).await?;
    Ok(())
}

/// Findings change their states with time too: once a minute some of them are looked at, in turn.
struct Lives {
    resolve_after_ms: i64,
    /// When it is time again.
    next: Instant,
    /// Where the last look ended.
    after: i32,
}

impl Lives {
    fn new(resolve_after: Duration) -> Lives {
        Lives {
            resolve_after_ms: i64::try_from(resolve_after.as_millis()).unwrap_or(i64::MAX),
            next: Instant::now(),
            after: 0,
        }
    }

    async fn look(&mut self, store: &Store, lease: &Lease) -> Result<(), StoreError> {
        if Instant::now() >= self.next {
            self.after = store
                .age_findings(lease, self.resolve_after_ms, self.after)
                .await?;
            self.next = Instant::now() + LIVES_EVERY;
        }
        Ok(())
    }
}

/// A late span may have taken a finding's last hit away: it stays as it was.
fn is_affecting(recent: &RecentHits) -> bool {
    recent.traces > 0 && !recent.example.is_null()
}

/// By the medians over all affected requests, not by the worst one.
fn judge(recent: RecentHits) -> Judged {
    let own = recent.example["evidence"]["severity"].as_str();
    let saved_ns = recent.hits.saved.quantile(0.5).unwrap_or_default();
    let duration_ns = recent.hits.before.quantile(0.5).unwrap_or_default();
    let by_savings = Severity::of(saved_ns, duration_ns);
    let severity = match own {
        // A detector may hold a finding down on purpose (a batch job's N+1): never raise that.
        Some("info") => Severity::Info,
        // Or not know what a fix saves, and have another measure.
        Some("warning") if saved_ns == 0 => Severity::Warning,
        Some("critical") if saved_ns == 0 => Severity::Critical,
        _ => by_savings,
    };
    Judged {
        recent,
        severity: severity as i16,
    }
}
