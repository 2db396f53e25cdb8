//! Endpoints that became slower: found, explained, and followed until they are fast again.
//!
//! ```text
//! roll-ups by minute ─→ deployments, sudden, hourly ─→ candidates ─→ requests looked at ─→ regressions ─→ alerts
//!                       (analyzer::regression)                       (explain)              recovery
//! ```
//!
//! One process watches at a time, under a lease of its own: explaining takes seconds, and findings must not wait.

mod candidate;
mod deployments;
pub mod evidence;
mod explain;
mod hourly;
mod recovery;
mod sudden;
mod windows;

use analyzer::Settings;
use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{now_ms, pause};
use crate::store::bottlenecks::Minutes;
use crate::store::leases::{Lease, Process, REGRESSION_SHARD};
use crate::store::regressions::{OpenRegression, Past, Slots, WatchedDeployment, WatchedEndpoint};
use crate::store::{Store, StoreError};
use candidate::Candidate;
pub use candidate::quantile_name;
use windows::{complete_until, minute_of};

/// How often is looked: numbers come by the minute.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// After an error or while another process watches.
const PAUSE: Duration = Duration::from_secs(5);

/// "Now" is so many minutes.
const WINDOW_MINUTES: i32 = 10;

/// Regressions opened in one look; a bad deployment may make dozens, each takes a second to explain, and the lease has
/// to be renewed. The rest is opened by the next looks.
const OPENED_MAX: usize = 5;

/// When so many endpoints of a service became slower within [`TOGETHER_MS`], further ones are noted and nobody is told:
/// what they share (a database, a machine) is the cause, and thirty alerts say no more than three.
const TOGETHER_MAX: usize = 3;

/// See [`TOGETHER_MAX`], ms.
const TOGETHER_MS: i64 = 30 * 60_000;

/// Regressions that ended longer ago say nothing of the past that is looked at, ms: what creeps is looked for in
/// fourteen days.
const PAST_MS: i64 = 15 * 24 * 3_600_000;

/// Endpoints looked at for what shows over hours, in one look: the hourly work is spread over minutes.
const HOURLY_ENDPOINTS: usize = 20;

/// What one watch remembers between its looks; all of it can be lost.
#[derive(Debug, Default)]
pub struct Watch {
    settings: Settings,
    days: sudden::Days,
    /// Endpoint → until when nobody looks at it again: what looked like a regression was none.
    dismissed: BTreeMap<i32, i32>,
    /// Everything was looked at up to this minute.
    looked_until: i32,
    /// The hour whose endpoints are being looked at, and those that wait.
    hour: i32,
    waiting: Vec<WatchedEndpoint>,
}

/// What is true of all endpoints at the moment of a look.
#[derive(Debug)]
pub struct Moment {
    /// ms since the epoch.
    pub now_ms: i64,
    /// The first minute that is not complete yet.
    pub until: i32,
    /// Endpoint → the last minutes.
    pub recent: BTreeMap<i32, Slots>,
    /// The endpoints that had requests in them.
    pub endpoints: BTreeMap<i32, WatchedEndpoint>,
    /// The latest of each service, of the last day.
    pub deployments: Vec<WatchedDeployment>,
    /// What earlier regressions say of the past: (endpoint, statement) →.
    pub pasts: BTreeMap<(i32, i32), Past>,
}

/// Watches until `shutdown`; gives the lease back then.
pub async fn run(store: Store, settings: Settings, process: Process, shutdown: CancellationToken) {
    let Process { id, sole_owner } = process;
    let mut watch = Watch::new(settings);
    while !shutdown.is_cancelled() {
        match store.acquire_lease(REGRESSION_SHARD, id, sole_owner).await {
            Ok(Some(lease)) => {
                let watching = watch_on(&store, &lease, &mut watch, &shutdown);
                // A bug here must not end the process: spans are taken and analysed without it.
                match AssertUnwindSafe(watching).catch_unwind().await {
                    Ok(Ok(())) => {
                        let _ = store.release_lease(&lease).await;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the watch for regressions starts anew");
                    }
                    Err(_) => {
                        tracing::error!(
                            "the watch for regressions panicked, see above; it starts anew"
                        );
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "no lease for the watch for regressions"),
        }
        pause(PAUSE, &shutdown).await;
    }
}

async fn watch_on(
    store: &Store,
    lease: &Lease,
    watch: &mut Watch,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    while !shutdown.is_cancelled() {
        // A look may take longer than the lease lasts.
        tokio::select! {
            done = look_and_wait(store, lease, watch, shutdown) => done?,
            lost = store.keep_lease(lease) => return Err(lost),
        }
    }
    Ok(())
}

async fn look_and_wait(
    store: &Store,
    lease: &Lease,
    watch: &mut Watch,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    look(store, lease, watch, now_ms()).await?;
    pause(LOOK_EVERY, shutdown).await;
    Ok(())
}

/// One look: what was slow is followed, what is slower now is found, explained and opened. Returns what was opened.
///
/// # Errors
/// The lease is lost, or Postgres failed; what was opened stays.
pub async fn look(
    store: &Store,
    lease: &Lease,
    watch: &mut Watch,
    now_ms: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let until = complete_until(now_ms);
    if until + WINDOW_MINUTES < watch.looked_until {
        // The clock was ahead.
        *watch = Watch::new(watch.settings.clone());
    }
    // Numbers come by the minute.
    if until == watch.looked_until {
        return Ok(Vec::new());
    }
    let moment = Moment::of(store, now_ms).await?;
    let open = store.open_regressions().await?;
    for endpoint in recovery::follow(store, lease, &moment, &open).await? {
        watch.days.forget(endpoint);
    }
    let mut found = deployments::slower(store, lease, &moment, &open).await?;
    found.extend(sudden::slower(store, &mut watch.days, &moment, &open).await?);
    found.extend(watch.hourly(store, &moment, &open).await?);
    watch.dismissed.retain(|_, until| *until > moment.until);
    let mut opened = Vec::new();
    let mut seen = BTreeSet::new();
    found.retain(|it| !watch.dismissed.contains_key(&it.endpoint.id) && seen.insert(it.key()));
    for candidate in found.into_iter().take(OPENED_MAX) {
        let (what, look) = (candidate.endpoint.name.clone(), candidate.looked());
        let outcome = watch.open(store, lease, &moment, candidate).await;
        opened.extend(or_next(outcome, &what)?.flatten());
        if let Some((deployment, endpoint, looks)) = look {
            store.note_look(lease, deployment, endpoint, looks).await?;
        }
    }
    watch.looked_until = until;
    Ok(opened)
}

/// What goes wrong at one endpoint must not keep the others from being looked at.
fn or_next<T>(outcome: Result<T, StoreError>, endpoint: &str) -> Result<Option<T>, StoreError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(lost @ StoreError::LeaseLost(_)) => Err(lost),
        Err(error) => {
            tracing::warn!(endpoint, %error, "it cannot be told whether this endpoint became slower");
            Ok(None)
        }
    }
}

impl Watch {
    /// A watch that analyses requests as these settings say.
    pub fn new(settings: Settings) -> Watch {
        Watch {
            settings,
            ..Watch::default()
        }
    }

    /// Explains a candidate and opens it, unless a closer look says that nothing was shipped.
    async fn open(
        &mut self,
        store: &Store,
        lease: &Lease,
        moment: &Moment,
        mut candidate: Candidate,
    ) -> Result<Option<Uuid>, StoreError> {
        let explanation = if candidate.statement.is_none() {
            let sample = explain::sample(store, &self.settings, &candidate).await?;
            if let Some(instance) = sample.only_instance(&candidate) {
                tracing::info!(
                    endpoint = candidate.endpoint.name,
                    instance,
                    "slower, but on one instance only: no regression"
                );
                let until = moment.until + WINDOW_MINUTES;
                self.dismissed.insert(candidate.endpoint.id, until);
                return Ok(None);
            }
            if sample.is_one_instance() {
                let note = "all requests since are of one instance";
                candidate.numbers.notes.push(note.to_owned());
            }
            sample.explanation()
        } else {
            None
        };
        let together = moment.slow_together(store, &candidate).await?;
        if together > 0 {
            candidate.numbers.notes.push(format!(
                "{together} other endpoint{} of its service became slower in this half hour: what they share may be the cause",
                if together == 1 { "" } else { "s" }
            ));
        }
        let mut found = candidate.regression(moment.now_ms, explanation);
        if together >= TOGETHER_MAX {
            found.severity = 0;
        }
        let opened = store.open_regression(lease, &found).await?;
        if opened.is_some() {
            tracing::info!(what = found.title, "a regression");
            self.days.forget(candidate.endpoint.id);
        }
        Ok(opened)
    }

    /// Once an hour, some endpoints at a time.
    async fn hourly(
        &mut self,
        store: &Store,
        moment: &Moment,
        open: &[OpenRegression],
    ) -> Result<Vec<Candidate>, StoreError> {
        let hour = moment.until / 60;
        if hour > self.hour {
            self.hour = hour;
            self.waiting = moment.endpoints.values().cloned().collect();
        }
        let some = self.waiting.len().saturating_sub(HOURLY_ENDPOINTS);
        let mut found = Vec::new();
        for endpoint in self.waiting.split_off(some) {
            let slower = hourly::slower_statements(store, moment, open, &endpoint).await;
            found.extend(or_next(slower, &endpoint.name)?.into_iter().flatten());
            let drifting = hourly::drifting(store, moment, open, &endpoint).await;
            found.extend(or_next(drifting, &endpoint.name)?.flatten());
        }
        Ok(found)
    }
}

impl Moment {
    async fn of(store: &Store, now_ms: i64) -> Result<Moment, StoreError> {
        let until = complete_until(now_ms);
        let window = Minutes {
            from: until - WINDOW_MINUTES,
            to: until,
        };
        let recent = store.recent_slots(window).await?;
        let ids: Vec<i32> = recent.keys().copied().collect();
        Ok(Moment {
            now_ms,
            until,
            endpoints: store.watched_endpoints(&ids).await?,
            deployments: store
                .watched_deployments(now_ms - deployments::WATCHED_MS)
                .await?,
            pasts: store.pasts(now_ms - PAST_MS).await?,
            recent,
        })
    }

    /// The last minutes: "now".
    fn window(&self) -> Minutes {
        Minutes {
            from: self.until - WINDOW_MINUTES,
            to: self.until,
        }
    }

    /// How many other endpoints of the service became slower shortly before.
    async fn slow_together(
        &self,
        store: &Store,
        candidate: &Candidate,
    ) -> Result<usize, StoreError> {
        let is_alike = |it: &OpenRegression| {
            let endpoint = self.endpoints.get(&it.endpoint_id);
            endpoint.is_some_and(|it| it.service_id == candidate.endpoint.service_id)
                && it.endpoint_id != candidate.endpoint.id
                && it.statement_id == 0
                && self.now_ms - it.detected_ms < TOGETHER_MS
        };
        Ok(store
            .open_regressions()
            .await?
            .iter()
            .filter(|it| is_alike(it))
            .count())
    }

    /// Before this minute the past counts no more: somebody has accepted that it is slower since. `statement`: 0 for
    /// the whole endpoint.
    fn accepted_minute(&self, endpoint: i32, statement: i32) -> i32 {
        let past = self.pasts.get(&(endpoint, statement));
        past.map_or(0, |it| minute_of(it.accepted_ms))
    }

    /// When it was known to be slow, ms since the epoch.
    fn slow_times(&self, endpoint: i32, statement: i32) -> &[Range<i64>] {
        let past = self.pasts.get(&(endpoint, statement));
        past.map_or(&[], |it| &it.slow_ms)
    }
}

/// The whole endpoint is known to be slower.
fn is_open(open: &[OpenRegression], endpoint_id: i32) -> bool {
    open.iter()
        .any(|it| it.endpoint_id == endpoint_id && it.statement_id == 0)
}

#[cfg(test)]
mod tests;
