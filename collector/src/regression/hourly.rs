//! What only shows over hours: a statement that became slower without its endpoint, and what creeps.

use analyzer::regression::{Limits, Slot, Verdict, compare, drift, is_worth_testing};
use std::collections::BTreeMap;

use super::candidate::{Candidate, Side, latency, numbers};
use super::evidence::Numbers;
use super::explain::mean_weight;
use super::windows::{DAY, of_version, well};
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
    let slow = moment.slow_times(endpoint.id, 0);
    if slow.iter().any(|it| it.end > i64::from(since) * 3_600_000) {
        // The endpoint was slow in these hours, and that has been told.
        return Ok(Vec::new());
    }
    let first = since - 24;
    let all = store.statement_slots(endpoint.id, first..until).await?;
    let side = |from: i32, to: i32| Side {
        minutes: Minutes {
            from: from * 60,
            to: to * 60,
        },
        version: None,
        version_id: None,
    };
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
        let accepted = moment.accepted_minute(endpoint.id, statement) / 60;
        let base = well(part(first.max(accepted), since), slow);
        let base = well(base, moment.slow_times(endpoint.id, statement));
        let now = part(since, until);
        let limits = Limits::statement();
        let mut comparison = compare(&base, &now, 1.0, &limits);
        if !matches!(comparison.verdict, Verdict::Slower(_)) {
            continue;
        }
        let weight = mean_weight(store, endpoint.id, &side(since, until)).await?;
        if let Some(weight) = weight.filter(|it| *it > 1.0) {
            comparison = compare(&base, &now, weight, &limits);
        }
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
        from: (until - DRIFT_DAYS * DAY).max(moment.accepted_minute(endpoint.id, 0)),
        to: until,
    };
    if is_open(open, endpoint.id) || !moment.slow_times(endpoint.id, 0).is_empty() {
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
    // Thousands of shuffles, if there is something.
    let finding = tokio::task::spawn_blocking(move || drift(&points));
    let change = finding
        .await
        .map_err(|error| StoreError::Damaged(error.to_string()))?;
    let Some(change) = change else {
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
        before_ns: change.before_ns,
        after_ns: change.after_ns,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::encoding::{self, StatementCalls, Statements};

    const FIRST_HOUR: i32 = 480_000;

    /// An endpoint whose hours are as told.
    async fn store() -> Store {
        let store = crate::testing::store().await;
        sqlx::raw_sql(
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', '');
             insert into culprit.endpoints (service_id, name) values (1, 'GET /');
             insert into culprit.statements (digest, system, text) values ('a', 'postgresql', 'select 1')",
        )
        .execute(store.pool())
        .await
        .unwrap();
        store
    }

    fn moment(hours: i32) -> Moment {
        let until = (FIRST_HOUR + hours) * 60 + 5;
        let endpoint = endpoint();
        Moment {
            now_ms: i64::from(until) * 60_000,
            until,
            recent: BTreeMap::new(),
            endpoints: BTreeMap::from([(endpoint.id, endpoint)]),
            deployments: Vec::new(),
            pasts: BTreeMap::new(),
        }
    }

    fn endpoint() -> WatchedEndpoint {
        WatchedEndpoint {
            id: 1,
            service_id: 1,
            name: "GET /".into(),
        }
    }

    /// A hundred calls around `ms`, no two alike.
    fn latency_of(ms: f64) -> analyzer::sketch::Sketch {
        let mut latency = analyzer::sketch::Sketch::default();
        for nth in 0..100 {
            latency.record((ms * 1e6 * (0.5 + f64::from(nth) / 100.0)) as u64, 1);
        }
        latency
    }

    async fn statement_hour(store: &Store, hour: i32, ms: f64) {
        let calls = StatementCalls {
            calls: 100,
            latency: latency_of(ms),
            ..StatementCalls::default()
        };
        sqlx::query(
            "insert into culprit.rollup_hours (day, shard, endpoint_id, version_id, hour, part, statements,
                 profile, tail_requests, tail_profile)
             values ((now() at time zone 'utc')::date, 0, 1, 1, $1, 1, $2, '', 0, '')",
        )
        .bind(FIRST_HOUR + hour)
        .bind(encoding::statements_bytes(&Statements::from([(1, calls)])))
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn endpoint_hour(store: &Store, hour: i32, ms: f64) {
        sqlx::query(
            "insert into culprit.rollup_minutes (day, shard, endpoint_id, version_id, minute, width, part,
                 requests, errors, duration_ns, categories, calls, latency)
             values ((now() at time zone 'utc')::date, 0, 1, 1, $1, 60, 1, 100, 0, 0, '{}', '{}', $2)",
        )
        .bind((FIRST_HOUR + hour) * 60)
        .bind(encoding::sketch_bytes(&latency_of(ms)))
        .execute(store.pool())
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_statement_that_is_slower_for_two_hours_is_named() {
        let store = store().await;
        for hour in 0..26 {
            statement_hour(&store, hour, if hour < 24 { 10.0 } else { 60.0 }).await;
        }
        let found = slower_statements(&store, &moment(26), &[], &endpoint())
            .await
            .unwrap();
        assert_eq!(found.len(), 1);
        let regression = found[0].regression(0, None);
        assert!(
            regression
                .title
                .contains("of `select 1` (GET /) went from 1"),
            "{}",
            regression.title
        );
        assert_eq!((regression.statement_id, regression.kind), (1, "sudden"));
        // An hour earlier it had been slow for one hour only.
        let found = slower_statements(&store, &moment(25), &[], &endpoint())
            .await
            .unwrap();
        assert!(found.is_empty());
    }

    #[tokio::test]
    async fn what_is_slow_at_this_time_of_every_day_is_no_news() {
        let store = store().await;
        for hour in 0..50 {
            let is_busy = hour % 24 < 2;
            statement_hour(&store, hour, if is_busy { 60.0 } else { 10.0 }).await;
        }
        let found = slower_statements(&store, &moment(50), &[], &endpoint())
            .await
            .unwrap();
        assert!(found.is_empty());
    }

    #[tokio::test]
    async fn what_creeps_is_found_once_in_days() {
        let store = store().await;
        for hour in 0..8 * 24 {
            // By day twice as slow as at night; since a day and a half 60 % more.
            let daily = if hour % 24 < 12 { 20.0 } else { 40.0 };
            let more = if hour < 156 { 1.0 } else { 1.6 };
            endpoint_hour(&store, hour, daily * more).await;
        }
        let at = |hours| async move { moment(hours) };
        let before = drifting(&store, &at(150).await, &[], &endpoint())
            .await
            .unwrap();
        assert_eq!(before, None);
        let found = drifting(&store, &at(8 * 24).await, &[], &endpoint())
            .await
            .unwrap()
            .unwrap();
        let since = found.now_side.minutes.from / 60 - FIRST_HOUR;
        assert!((150..=162).contains(&since), "{since}");
        let title = found.regression(0, None).title;
        assert!(title.ends_with(" over the last days"), "{title}");
    }
}
