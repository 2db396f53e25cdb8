//! Did a deployment make an endpoint slower? Looked at three times per endpoint, as requests of the new version come.

use analyzer::regression::{
    Limits, Look, Slot, Verdict, Why, after_deployment, compare, is_worth_testing,
};
use std::collections::BTreeMap;

use super::candidate::{Candidate, Side, latency, numbers};
use super::explain::mean_weight;
use super::hourly::by_hour;
use super::windows::{DAY, latest, minute_of, of_version, well};
use super::{Moment, is_open, or_next};
use crate::deltas::MINUTES_KEPT;
use crate::store::bottlenecks::Minutes;
use crate::store::leases::Lease;
use crate::store::regressions::{OpenRegression, WatchedDeployment, WatchedEndpoint};
use crate::store::{Store, StoreError};

/// A deployment is watched for so long, ms. What becomes slower later has other reasons.
pub const WATCHED_MS: i64 = 24 * 3_600_000;

/// The first minutes of a version fill caches and pools.
pub const WARM_UP_MINUTES: i32 = 2;

/// Looks at an endpoint after a deployment.
const LOOKS: u8 = 3;

/// So many minutes after a deployment there are still two hours of minutes from before it.
const BY_MINUTE: i32 = MINUTES_KEPT - 120;

/// Later than that: so many hours, and so many requests in them.
const HOURS_MIN: usize = 3;
const HOURS_REQUESTS_MIN: i64 = 1_000;

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
    let ids: Vec<i32> = moment.deployments.iter().map(|it| it.id).collect();
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
        let outcome = look(store, moment, endpoint, deployment, done).await;
        match or_next(outcome, &endpoint.name)?.unwrap_or(Looked::NotDue) {
            Looked::NotDue => {}
            Looked::AsBefore(looks) => {
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
    /// So many looks there were by now.
    AsBefore(u8),
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
    if done >= LOOKS {
        return Ok(Looked::NotDue);
    }
    let deployed = minute_of(deployment.at_ms);
    let mut since = Minutes {
        from: deployed + 1 + WARM_UP_MINUTES,
        to: moment.until,
    };
    // What was before is known by the minute for some hours; after that the last look compares hours.
    let by_minute = moment.until - deployed < BY_MINUTE;
    if !by_minute {
        since.to = since.to / 60 * 60;
    }
    if since.from >= since.to {
        return Ok(Looked::NotDue);
    }
    let now_side = Side {
        minutes: since,
        version: deployment.version_id.map(|_| deployment.version.clone()),
        version_id: deployment.version_id,
    };
    let now = requests(store, endpoint.id, since, deployment.version_id, by_minute).await?;
    // Before the past is read, which is much: there may be too few requests for a look.
    let is_due = match by_minute {
        true => matches!(after_deployment(&[], &now, 1.0, done), Look::Looked(_)),
        false => now.len() >= HOURS_MIN && latency(&now).count() >= HOURS_REQUESTS_MIN,
    };
    if !is_due {
        return Ok(Looked::NotDue);
    }
    let Some(weight) = mean_weight(store, endpoint.id, &now_side).await? else {
        return Ok(Looked::NotDue);
    };
    let base_minutes = Minutes {
        from: (deployed - DAY).max(moment.accepted_minute(endpoint.id, 0)),
        to: match by_minute {
            true => deployed,
            false => deployed / 60 * 60,
        },
    };
    let base = requests(
        store,
        endpoint.id,
        base_minutes,
        deployment.previous_id,
        by_minute,
    )
    .await?;
    let base = latest(well(base, moment.slow_times(endpoint.id, 0)));
    let (comparison, looks) = match by_minute {
        true => match after_deployment(&base, &now, weight, done) {
            Look::Looked(comparison) => (comparison, done + 1),
            Look::Wait | Look::Over => return Ok(Looked::NotDue),
        },
        false => (compare(&base, &now, weight, &Limits::statement()), LOOKS),
    };
    let claim = match &comparison.verdict {
        Verdict::Slower(claim) => claim,
        // Nothing was compared: what is missing may come (its name may be said late).
        Verdict::Not(Why::TooFewBefore { .. } | Why::TooFewNow { .. }) if looks < LOOKS => {
            return Ok(Looked::NotDue);
        }
        Verdict::Not(_) => return Ok(Looked::AsBefore(looks)),
    };
    if !is_slower_than_yesterday(store, endpoint.id, since, &now).await? {
        return Ok(Looked::AsBefore(looks));
    }
    let from = base.first().map_or(base_minutes.from, |it| it.minute);
    let candidate = Candidate {
        endpoint: endpoint.clone(),
        statement: None,
        kind: "deployment",
        deployment: Some((deployment.id, deployment.version.clone())),
        look: Some(looks),
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

/// The requests of a version, by the minute or by the hour.
async fn requests(
    store: &Store,
    endpoint_id: i32,
    minutes: Minutes,
    version_id: Option<i32>,
    by_minute: bool,
) -> Result<Vec<Slot>, StoreError> {
    let slots = match by_minute {
        true => store.endpoint_minute_slots(endpoint_id, minutes).await?,
        false => store.endpoint_slots(endpoint_id, minutes).await?,
    };
    let slots = of_version(&slots, version_id, minutes, &[]);
    Ok(if by_minute { slots } else { by_hour(slots) })
}

/// What is slow at this time of every day was not made slow by a deployment.
async fn is_slower_than_yesterday(
    store: &Store,
    endpoint_id: i32,
    since: Minutes,
    now: &[Slot],
) -> Result<bool, StoreError> {
    let minutes = Minutes {
        // Hours stand at their first minute.
        from: (since.from - DAY - YESTERDAY_AROUND).div_euclid(60) * 60,
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
        self.deployments
            .iter()
            .map(|it| (it.service_id, it))
            .collect()
    }
}
