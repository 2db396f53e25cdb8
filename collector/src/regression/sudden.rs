//! Did an endpoint become slower within the last minutes, whatever the reason? Most services name no version.

use analyzer::regression::{Limits, Slot, Verdict, is_worth_testing, sudden};
use analyzer::sketch::Sketch;
use std::collections::HashMap;

use super::candidate::{Candidate, Side, latency, numbers};
use super::deployments::WARM_UP_MINUTES;
use super::explain::mean_weight;
use super::windows::{DAY, minute_of, of_version};
use super::{Moment, is_open, or_next};
use crate::store::bottlenecks::Minutes;
use crate::store::regressions::{OpenRegression, WatchedDeployment, WatchedEndpoint};
use crate::store::{Store, StoreError};

/// What becomes slower so soon after a deployment is attributed to it, minutes.
const DEPLOYED_BEFORE: i32 = 30;

/// Around the same time yesterday, minutes to both sides.
const YESTERDAY_AROUND: i32 = 15;

/// A day's latency is good for a tenth of the time that it spans, and at most so many minutes; not the same for all,
/// so that not all are read at once.
const DAY_GOOD_FOR_MAX: i32 = 45;

/// Endpoints whose day is kept in mind: some kB each. Beyond it the days are read again.
const DAYS_MAX: usize = 10_000;

/// The days of endpoints, to tell quickly that nothing has happened: almost always. Endpoint → good until, latency.
#[derive(Debug, Default)]
pub struct Days(HashMap<i32, (i32, Sketch)>);

/// What became slower within the last minutes.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn slower(
    store: &Store,
    days: &mut Days,
    moment: &Moment,
    open: &[OpenRegression],
) -> Result<Vec<Candidate>, StoreError> {
    let mut found = Vec::new();
    let deployments = moment.latest_deployments();
    for endpoint in moment.endpoints.values() {
        if is_open(open, endpoint.id) {
            continue;
        }
        let deployment = deployments.get(&endpoint.service_id).copied();
        let window = window(moment, endpoint, deployment);
        let now = latency(&window);
        if now.count() < Limits::sudden().requests_min {
            continue;
        }
        let outcome = look(store, days, moment, endpoint, deployment, window).await;
        found.extend(or_next(outcome, &endpoint.name)?.flatten());
    }
    Ok(found)
}

async fn look(
    store: &Store,
    days: &mut Days,
    moment: &Moment,
    endpoint: &WatchedEndpoint,
    deployment: Option<&WatchedDeployment>,
    window: Vec<Slot>,
) -> Result<Option<Candidate>, StoreError> {
    let day = days.of(store, moment, endpoint.id).await?;
    match is_worth_testing(day, &latency(&window), &Limits::sudden()) {
        true => test(store, moment, endpoint, deployment, window).await,
        false => Ok(None),
    }
}

/// The last minutes, without those in which it was known to be slow, and those in which a new version warmed up.
fn window(
    moment: &Moment,
    endpoint: &WatchedEndpoint,
    deployment: Option<&WatchedDeployment>,
) -> Vec<Slot> {
    let Some(slots) = moment.recent.get(&endpoint.id) else {
        return Vec::new();
    };
    let slow = moment.slow_times(endpoint.id, 0);
    let mut window = of_version(slots, None, moment.window(), slow);
    if let Some(deployment) = deployment {
        let deployed = minute_of(deployment.at_ms);
        window.retain(|it| !(deployed..=deployed + WARM_UP_MINUTES).contains(&it.minute));
    }
    window
}

async fn test(
    store: &Store,
    moment: &Moment,
    endpoint: &WatchedEndpoint,
    deployment: Option<&WatchedDeployment>,
    now: Vec<Slot>,
) -> Result<Option<Candidate>, StoreError> {
    let window = moment.window();
    let before = Minutes {
        from: (window.from - DAY).max(moment.accepted_minute(endpoint.id, 0)),
        to: window.from,
    };
    let yesterday = Minutes {
        // Hours stand at their first minute.
        from: (window.from - DAY - YESTERDAY_AROUND).div_euclid(60) * 60,
        to: window.to - DAY + YESTERDAY_AROUND,
    };
    let slow = moment.slow_times(endpoint.id, 0);
    let slots = store.endpoint_minute_slots(endpoint.id, before).await?;
    let base = of_version(&slots, None, before, slow);
    let slots = store.endpoint_slots(endpoint.id, yesterday).await?;
    let same_time = of_version(&slots, None, yesterday, slow);
    let now_side = Side {
        minutes: window,
        version: None,
        version_id: None,
    };
    let Some(weight) = mean_weight(store, endpoint.id, &now_side).await? else {
        return Ok(None);
    };
    let comparison = sudden(&base, &now, &same_time, weight);
    let Verdict::Slower(claim) = &comparison.verdict else {
        tracing::debug!(endpoint = endpoint.name, verdict = ?comparison.verdict, "not slower");
        return Ok(None);
    };
    let mut candidate = Candidate {
        endpoint: endpoint.clone(),
        statement: None,
        kind: "sudden",
        deployment: None,
        look: None,
        base_side: Side {
            minutes: Minutes {
                from: base.first().map_or(before.from, |it| it.minute),
                ..before
            },
            version: None,
            version_id: None,
        },
        now_side,
        numbers: numbers(&comparison, claim, &now),
        base,
        now,
    };
    if let Some(deployment) = deployment.filter(|it| is_due_to(&candidate, it)) {
        candidate.kind = "deployment";
        candidate.deployment = Some((deployment.id, deployment.version.clone()));
    }
    Ok(Some(candidate))
}

/// It became slower soon after the deployment, and was not as slow before it.
fn is_due_to(candidate: &Candidate, deployment: &WatchedDeployment) -> bool {
    let deployed = minute_of(deployment.at_ms);
    let window = candidate.now_side.minutes;
    if deployed >= window.to || candidate.began_minute() - deployed > DEPLOYED_BEFORE {
        return false;
    }
    let (before, after): (Vec<Slot>, Vec<Slot>) = candidate
        .now
        .iter()
        .cloned()
        .partition(|it| it.minute < deployed);
    let slow = |slots: &[Slot]| {
        let latency = latency(slots);
        let above = latency.count_above(candidate.numbers.before_ns) as f64;
        above / latency.count().max(1) as f64
    };
    slow(&before) <= slow(&after) / 2.0
}

impl Days {
    async fn of(
        &mut self,
        store: &Store,
        moment: &Moment,
        endpoint_id: i32,
    ) -> Result<&Sketch, StoreError> {
        let known = self.0.get(&endpoint_id);
        if known.is_none_or(|it| it.0 < moment.until) {
            let minutes = Minutes {
                from: (moment.window().from - DAY).max(moment.accepted_minute(endpoint_id, 0)),
                to: moment.window().from,
            };
            let slots = store.endpoint_minute_slots(endpoint_id, minutes).await?;
            let slow = moment.slow_times(endpoint_id, 0);
            let slots = of_version(&slots, None, minutes, slow);
            let first = slots.first().map_or(minutes.to, |it| it.minute);
            let good_for = ((minutes.to - first) / 10).clamp(1, DAY_GOOD_FOR_MAX);
            let good_for = good_for + endpoint_id.rem_euclid(good_for);
            if self.0.len() >= DAYS_MAX {
                self.0.clear();
            }
            self.0
                .insert(endpoint_id, (moment.until + good_for, latency(&slots)));
        }
        Ok(&self.0[&endpoint_id].1)
    }

    /// A regression was opened or is over: what is usual has changed.
    pub fn forget(&mut self, endpoint_id: i32) {
        self.0.remove(&endpoint_id);
    }
}
