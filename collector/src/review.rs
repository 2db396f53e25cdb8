//! Every few seconds: what the ticks appended → findings with a life → alerts.
//!
//! One review at a time, under a lease of its own. It only reads what ticks wrote, so that it may
//! be late, restarted or taken over at any moment without a finding being lost or told twice.

use analyzer::finding::Severity;
use futures_util::FutureExt;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::alert::{Alerting, CHANNEL_WEBHOOK};
use crate::store::findings::{Judged, RecentHits, Untold};
use crate::store::leases::{Lease, REVIEW_SHARD};
use crate::store::{Store, StoreError};

/// How often the review looks. A finding is on the list this long after its trace is final.
const REVIEW_EVERY: Duration = Duration::from_secs(1);

/// Deployments are looked for in every so many-th look: they are told to the minute anyway.
const DEPLOYMENTS_EVERY: u64 = 10;

/// After an error or while another process reviews.
const PAUSE: Duration = Duration::from_secs(3);

/// A finding is told once it has affected so many traces: one may be chance.
const TRACES_MIN: i64 = 3;

/// What is told when it is new.
const TOLD: &[&str] = &["n-plus-one-query", "n-plus-one-write", "n-plus-one-call"];

/// Bytes of a statement in a message; a message is 20 kB at most.
const STATEMENT_BYTES_MAX: usize = 2_000;

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
    alerting: Option<Alerting>,
    sole_owner: bool,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let process = Uuid::now_v7();
    while !shutdown.is_cancelled() {
        match store.acquire_lease(REVIEW_SHARD, process, sole_owner).await {
            Ok(Some(lease)) => {
                let review = review(&store, &lease, alerting.as_ref(), &stats, &shutdown);
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
    alerting: Option<&Alerting>,
    stats: &Stats,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    while !shutdown.is_cancelled() {
        look(store, lease, alerting).await?;
        if stats.runs.load(Relaxed).is_multiple_of(DEPLOYMENTS_EVERY) {
            crate::deployments::notice(store, lease, now_ms()).await?;
        }
        stats.runs.fetch_add(1, Relaxed);
        pause(REVIEW_EVERY, shutdown).await;
    }
    Ok(())
}

/// One look: findings are brought up to date, and what is new is queued to be told.
///
/// # Errors
/// The lease is lost, or Postgres failed; nothing is half done.
pub async fn look(
    store: &Store,
    lease: &Lease,
    alerting: Option<&Alerting>,
) -> Result<(), StoreError> {
    let recent = store.recent_hits().await?;
    let (affecting, gone): (Vec<_>, Vec<_>) = recent.into_iter().partition(is_affecting);
    let gone: Vec<i32> = gone
        .iter()
        .filter(|it| it.traces <= 0)
        .map(|it| it.finding_id)
        .collect();
    let judged: Vec<Judged> = affecting.into_iter().map(judge).collect();
    store.write_findings(lease, &judged, &gone).await?;
    if let Some(alerting) = alerting {
        for untold in store.untold_findings(TOLD, TRACES_MIN).await? {
            let body = message(&untold, alerting);
            store
                .open_alert(lease, untold.id, CHANNEL_WEBHOOK, &body)
                .await?;
        }
    }
    Ok(())
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

/// The body of a message about a new finding (Standard Webhooks: type, timestamp, data).
fn message(finding: &Untold, alerting: &Alerting) -> serde_json::Value {
    let evidence = &finding.evidence;
    let statement = evidence["statement"]
        .as_str()
        .map(|it| shorten(it, STATEMENT_BYTES_MAX));
    json!({
        "type": format!("bottleneck.{}.opened", finding.detector.replace('-', "_")),
        "timestamp": finding.now,
        "data": {
            "id": finding.id,
            "detector": finding.detector,
            "fingerprint": shorten(&finding.fingerprint, STATEMENT_BYTES_MAX),
            "title": finding.title,
            "severity": (["info", "warning", "critical"].get(finding.severity as usize)),
            "service": finding.service,
            "environment": finding.environment,
            "endpoint": finding.endpoint,
            "version": finding.version,
            "first_seen": finding.first_seen,
            "affected_traces": finding.traces,
            "count": evidence["count"],
            "sum_ns": evidence["sum_ns"],
            "saved_ns": evidence["saved_ns"],
            "statement": statement,
            "code": evidence["code"],
            "explanation": evidence["explanation"],
            "fix": evidence["fix"],
            "url": format!("{}/bottlenecks/{}", alerting.public_url.trim_end_matches('/'), finding.id),
        }
    })
}

fn shorten(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Since the epoch, ms.
fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX))
}

async fn pause(duration: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(duration) => {}
    }
}
