//! Did a deployment make an endpoint slower? Looked at three times per endpoint, as requests of the new version come.

use analyzer::regression::{Limits, Look, Verdict, after_deployment, is_worth_testing};
use std::collections::BTreeMap;

use super::candidate::{Candidate, Side, latency, numbers};
use super::explain::mean_weight;
use super::windows::{DAY, latest, minute_of, of_version};
use super::{Moment, is_open};
use crate::store::bottlenecks::Minutes;
use crate::store::leases::Lease;
use crate::store::regressions::{OpenRegression, WatchedDeployment, WatchedEndpoint};
use crate::store::{Store, StoreError};

/// A deployment is watched for so long, ms. What becomes slower later has other reasons.
pub const WATCHED_MS: i64 = 24 * 3_600_000;

/// The first minutes of a version fill caches and pools.
pub const WARM_UP_MINUTES: i32 = 2;

/// Around the same time yesterday, minutes to both sides.
const YESTERDAY_AROUND: i32 = 30;

/// With fewer requests yesterday tells nothing.
const YESTERDAY_REQUESTS_MIN: i64 = 100;

/// What became slower by the latest deployment of each service, among the endpoints that have requests now.
///
/// # Errors
/// The lease is lost, or Postgres failed.
pub async fn slower(
    store: &Store,
    lease: &Lease,
    moment: &Moment,
    open: &[OpenRegression],
) -> Result<Vec<Candidate>, StoreError> {
    let mut found = Vec::new();
    let latest = moment.latest_deployments();
    let ids: Vec<i32> = latest.values().map(|it| it.id).collect();
    let looks = store.deployment_looks(&ids).await?;
    for endpoint in moment.endpoints.values() {
        let Some(deployment) = latest.get(&endpoint.service_id) else {
            continue;
        };
        if is_open(open, endpoint.id) {
            continue;
        }
        let done = looks
            .get(&(deployment.id, endpoint.id))
            .copied()
            .unwrap_or(0);
        match look(store, moment, endpoint, deployment, done).await? {
            Looked::NotDue => {}
            Looked::AsBefore => {
                let looks = done + 1;
                store
                    .note_look(lease, deployment.id, endpoint.id, looks)
                    .await?;
            }
            Looked::Slower(candidate) => found.push(*candidate),
        }
    }
    Ok(found)
}

enum Looked {
    NotDue,
    AsBefore,
    Slower(Box<Candidate>),
}

/// One look, if it is due.
async fn look(
    store: &Store,
    moment: &Moment,
    endpoint: &WatchedEndpoint,
    deployment: &WatchedDeployment,
    done: u8,
) -> Result<Looked, StoreError> {
    let deployed = minute_of(deployment.at_ms);
    let since = Minutes {
        from: deployed + 1 + WARM_UP_MINUTES,
        to: moment.until,
    };
    if since.from >= since.to {
        return Ok(Looked::NotDue);
    }
    let slots = store.endpoint_minute_slots(endpoint.id, since).await?;
    let now = of_version(&slots, deployment.version_id, since, &[]);
    // Before the past is read, which is much: there may be too few requests for a look, or all looks are done.
    if !matches!(after_deployment(&[], &now, 1.0, done), Look::Looked(_)) {
        return Ok(Looked::NotDue);
    }
    let now_side = Side {
        minutes: since,
        version: deployment.version_id.map(|_| deployment.version.clone()),
        version_id: deployment.version_id,
    };
    let weight = mean_weight(store, endpoint.id, &now_side).await?;
    let base_minutes = Minutes {
        from: (deployed - DAY).max(moment.accepted_minute(store, endpoint.id).await?),
        to: deployed,
    };
    let slots = store
        .endpoint_minute_slots(endpoint.id, base_minutes)
        .await?;
    let slow = moment.slow_times(store, endpoint.id).await?;
    let base = latest(of_version(
        &slots,
        deployment.previous_id,
        base_minutes,
        &slow,
    ));
    let comparison = match after_deployment(&base, &now, weight, done) {
        Look::Looked(comparison) => comparison,
        Look::Wait | Look::Over => return Ok(Looked::NotDue),
    };
    let Verdict::Slower(claim) = &comparison.verdict else {
        return Ok(Looked::AsBefore);
    };
    if !is_slower_than_yesterday(store, endpoint.id, since, &now).await? {
        return Ok(Looked::AsBefore);
    }
    let from = base.first().map_or(base_minutes.from, |it| it.minute);
    let candidate = Candidate {
        endpoint: endpoint.clone(),
        statement: None,
        kind: "deployment",
        deployment: Some((deployment.id, deployment.version.clone())),
        look: Some(done + 1),
        base_side: Side {
            minutes: Minutes {
                from,
                ..base_minutes
            },
            version: None,
            version_id: deployment.previous_id,
        },
        now_side,
        numbers: numbers(&comparison, claim, &now),
        base,
        now,
    };
    Ok(Looked::Slower(Box::new(candidate)))
}

/// What is slow at this time of every day was not made slow by a deployment.
async fn is_slower_than_yesterday(
    store: &Store,
    endpoint_id: i32,
    since: Minutes,
    now: &[analyzer::regression::Slot],
) -> Result<bool, StoreError> {
    let minutes = Minutes {
        from: since.from - DAY - YESTERDAY_AROUND,
        to: since.to - DAY + YESTERDAY_AROUND,
    };
    let slots = store.endpoint_slots(endpoint_id, minutes).await?;
    let yesterday = latency(&of_version(&slots, None, minutes, &[]));
    Ok(yesterday.count() < YESTERDAY_REQUESTS_MIN
        || is_worth_testing(&yesterday, &latency(now), &Limits::after_deployment()))
}

impl Moment {
    /// The latest deployment of each service: those before it are over.
    pub fn latest_deployments(&self) -> BTreeMap<i32, &WatchedDeployment> {
        let mut latest = BTreeMap::new();
        // They stand newest first.
        for it in self.deployments.iter().rev() {
            latest.insert(it.service_id, it);
        }
        latest
    }
}
