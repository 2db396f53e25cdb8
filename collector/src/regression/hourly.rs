//! What only shows over hours: a statement that became slower without its endpoint, and what creeps.

use analyzer::regression::{Limits, Slot, Verdict, compare, drift, is_worth_testing};
use std::collections::BTreeMap;

use super::candidate::{Candidate, Side, latency, numbers};
use super::evidence::Numbers;
use super::windows::{DAY, of_version};
use super::{Moment, is_open};
use crate::store::bottlenecks::Minutes;
use crate::store::dictionaries::OTHER;
use crate::store::regressions::{OpenRegression, WatchedEndpoint};
use crate::store::{Store, StoreError};

/// Hours of a statement that are compared with the day before them.
pub const STATEMENT_HOURS: i32 = 2;

/// What creeps is looked for in so many days.
const DRIFT_DAYS: i32 = 14;

/// A drift that began longer ago was either seen or is what is usual now.
const DRIFT_NEWS_HOURS: i32 = 72;

/// An hour with fewer requests has no p95 to speak of.
const HOUR_REQUESTS_MIN: i64 = 59;

/// Statements of an endpoint that became slower in the last two hours.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn slower_statements(
    store: &Store,
    moment: &Moment,
    open: &[OpenRegression],
    endpoint: &WatchedEndpoint,
) -> Result<Vec<Candidate>, StoreError> {
    let until = moment.until / 60;
    let since = until - STATEMENT_HOURS;
    let first = (since - 24).max(moment.accepted_minute(store, endpoint.id).await? / 60);
    let all = store.statement_slots(endpoint.id, first..until).await?;
    let mut found = Vec::new();
    for (statement, slots) in all {
        let is_open = |it: &OpenRegression| {
            it.endpoint_id == endpoint.id && [0, statement].contains(&it.statement_id)
        };
        if open.iter().any(is_open) {
            continue;
        }
        let part = |from: i32, to: i32| -> Vec<Slot> {
            slots.range(from..to).map(|it| it.1.clone()).collect()
        };
        let (base, now) = (part(first, since), part(since, until));
        let limits = Limits::statement();
        let comparison = compare(&base, &now, 1.0, &limits);
        let Verdict::Slower(claim) = &comparison.verdict else {
            continue;
        };
        let yesterday = latency(&part(since - 24, until - 24));
        if !yesterday.is_empty() && !is_worth_testing(&yesterday, &latency(&now), &limits) {
            continue;
        }
        let text = store.statement_text(statement).await?;
        let Some(text) = text.filter(|it| it != OTHER) else {
            continue;
        };
        let side = |from: i32, to: i32| Side {
            minutes: Minutes {
                from: from * 60,
                to: to * 60,
            },
            version: None,
            version_id: None,
        };
        found.push(Candidate {
            endpoint: endpoint.clone(),
            statement: Some((statement, text)),
            kind: "sudden",
            deployment: None,
            look: None,
            base_side: side(first, since),
            now_side: side(since, until),
            numbers: numbers(&comparison, claim, &now),
            base,
            now,
        });
    }
    Ok(found)
}

/// An endpoint that became slower over the last days, if nothing else has said so.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn drifting(
    store: &Store,
    moment: &Moment,
    open: &[OpenRegression],
    endpoint: &WatchedEndpoint,
) -> Result<Option<Candidate>, StoreError> {
    let until = moment.until / 60 * 60;
    let minutes = Minutes {
        from: (until - DRIFT_DAYS * DAY).max(moment.accepted_minute(store, endpoint.id).await?),
        to: until,
    };
    let since_ms = i64::from(minutes.from) * 60_000;
    if is_open(open, endpoint.id) || !store.slow_times(endpoint.id, since_ms).await?.is_empty() {
        return Ok(None);
    }
    let slots = store.endpoint_slots(endpoint.id, minutes).await?;
    let hours = by_hour(of_version(&slots, None, minutes, &[]));
    let points: Vec<(i32, f64, i64)> = hours
        .iter()
        .filter(|it| it.latency.count() >= HOUR_REQUESTS_MIN)
        .filter_map(|it| {
            let p95 = it.latency.quantile(0.95)?;
            Some((it.minute / 60, p95 as f64, it.latency.count()))
        })
        .collect();
    let Some(change) = drift(&points) else {
        return Ok(None);
    };
    if change.hour < until / 60 - DRIFT_NEWS_HOURS || change.after_ns <= change.before_ns {
        return Ok(None);
    }
    let (base, now): (Vec<Slot>, Vec<Slot>) = hours
        .into_iter()
        .partition(|it| it.minute < change.hour * 60);
    let comparison = compare(&base, &now, 1.0, &Limits::statement());
    let side = |from: i32, to: i32| Side {
        minutes: Minutes { from, to },
        version: None,
        version_id: None,
    };
    let claim = analyzer::regression::Claim {
        quantile: 0.95,
        before_ns: change.before_ns as u64,
        after_ns: change.after_ns as u64,
        p_value: change.p_value,
    };
    Ok(Some(Candidate {
        endpoint: endpoint.clone(),
        statement: None,
        kind: "drift",
        deployment: None,
        look: None,
        base_side: side(minutes.from, change.hour * 60),
        now_side: side(change.hour * 60, until),
        numbers: Numbers {
            p_value: change.p_value,
            ..numbers(&comparison, &claim, &now)
        },
        base,
        now,
    }))
}

/// Minutes as hours.
pub fn by_hour(slots: Vec<Slot>) -> Vec<Slot> {
    let mut hours: BTreeMap<i32, Slot> = BTreeMap::new();
    for slot in slots {
        let hour = slot.minute / 60 * 60;
        let sum = hours.entry(hour).or_insert_with(|| Slot {
            minute: hour,
            ..Slot::default()
        });
        sum.errors += slot.errors;
        sum.latency.merge(&slot.latency);
    }
    hours.into_values().collect()
}
