//! What the ranked list and a finding's page ask: endpoints and findings within a window of time.
//!
//! Rows are read one by one and gathered at once: the bytes of a week's sketches never stand in
//! memory together.

use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::finalise::FLAG_ROOT;
use super::{Store, StoreError, encoding};
use crate::store::encoding::Hits;
use analyzer::sketch::Sketch;

/// Minutes since the epoch: the first one that counts and the first one that does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Minutes {
    /// Included.
    pub from: i32,
    /// Excluded.
    pub to: i32,
}

/// An endpoint's requests within a window.
#[derive(Clone, Debug, Default)]
pub struct EndpointWindow {
    /// endpoints.id
    pub id: i32,
    /// The service.
    pub service: String,
    /// Its environment, or empty.
    pub environment: String,
    /// The endpoint.
    pub name: String,
    /// The first minute with a request, since the epoch.
    pub first_minute: i32,
    /// Requests, weighted.
    pub requests: i64,
    /// Failed ones.
    pub errors: i64,
    /// Durations added up, ns.
    pub duration_ns: i64,
    /// Durations.
    pub latency: Sketch,
    /// Nobody who sends traces asks it: most of its latest requests began their trace.
    pub front: bool,
}

/// What is known of a finding, whatever the window.
#[derive(Clone, Debug, Default)]
pub struct FindingFacts {
    /// findings.id
    pub id: i32,
    /// Where it stands in its life, see [`crate::life::State`].
    pub state: String,
    /// Since when, ns since the epoch.
    pub state_since_ns: u64,
    /// How often it came back.
    pub regressed: i32,
    /// The detector's id.
    pub detector: String,
    /// The service.
    pub service: String,
    /// Its environment, or empty.
    pub environment: String,
    /// endpoints.id
    pub endpoint_id: i32,
    /// The endpoint.
    pub endpoint: String,
    /// Where it was first seen, or empty.
    pub version: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// 0 to 1.
    pub confidence: f32,
    /// One sentence.
    pub title: String,
    /// ns since the epoch.
    pub first_seen_ns: u64,
    /// ns since the epoch.
    pub last_seen_ns: u64,
    /// Traces affected so far.
    pub traces: i64,
    /// What names it in every trace and release.
    pub fingerprint: String,
    /// The latest good example's evidence, as in `finding_hits.examples[].evidence`.
    pub evidence: Value,
}

/// What a finding did within a window.
#[derive(Clone, Debug, Default)]
pub struct HitsWindow {
    /// Traces affected.
    pub traces: i64,
    /// Requests affected, weighted.
    pub requests: i64,
    /// What a fix would have saved, ns.
    pub saved_ns: i64,
    /// The distributions.
    pub hits: Hits,
    /// First of ten minutes → ns a fix would have saved in them.
    pub slots: BTreeMap<i32, i64>,
}

/// An affected request that was kept.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Example {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits: the entry span.
    pub span_id: String,
    /// ns since the epoch.
    pub start_ns: u64,
    /// ns.
    pub duration_ns: u64,
    /// What a fix would have saved of it, ns.
    pub saved_ns: u64,
    /// Calls (an N+1's N).
    pub count: u64,
}

/// Examples of one finding read at most: rows of ten minutes hold five each, a week has 5,040. The
/// costliest are kept.
const EXAMPLES_MAX: usize = 10;

/// Blocks read at once to tell which endpoints are asked from outside: a block has hundreds of
/// requests, so the first few tell it of nearly all.
const FRONT_BLOCKS: i64 = 4;

/// Looks for endpoints that none of the blocks before had. Of those that are still unknown then, it
/// is assumed.
const FRONT_LOOKS_MAX: usize = 16;

impl Store {
    /// A request was analysed, at any time.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn has_endpoints(&self) -> Result<bool, StoreError> {
        Ok(
            sqlx::query_scalar("select exists (select from culprit.endpoints)")
                .fetch_one(self.pool())
                .await?,
        )
    }

    /// The first minute with a request within the window, since the epoch.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn first_minute(&self, minutes: Minutes) -> Result<Option<i32>, StoreError> {
        let first = sqlx::query_scalar(
            "select minute from culprit.rollup_minutes
             where minute >= $1 and minute < $2 and requests > 0 order by minute limit 1",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch_optional(self.pool())
        .await?;
        Ok(first)
    }

    /// What fixing each finding would have saved within the window, ns. What was merged into an hour
    /// counts where its middle lies, so that two windows beside each other share nothing.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn saved_within(&self, minutes: Minutes) -> Result<BTreeMap<i32, i64>, StoreError> {
        let sums: Vec<(i32, i64)> = sqlx::query_as(
            "select finding_id, sum(saved_ns)::bigint from culprit.finding_hits
             where minute > $1 - 60 and minute < $2 and minute + width / 2 >= $1 and minute + width / 2 < $2
             group by finding_id having sum(requests) > 0",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch_all(self.pool())
        .await?;
        Ok(sums.into_iter().collect())
    }

    /// The endpoints that were asked within the window, by id.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn endpoint_windows(
        &self,
        minutes: Minutes,
    ) -> Result<BTreeMap<i32, EndpointWindow>, StoreError> {
        let mut windows: BTreeMap<i32, EndpointWindow> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, minute, requests, errors, duration_ns, latency
             from culprit.rollup_minutes
             where minute > $1 - 60 and minute + width > $1 and minute < $2",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let id: i32 = row.try_get("endpoint_id")?;
            let window = windows.entry(id).or_insert_with(|| EndpointWindow {
                id,
                first_minute: i32::MAX,
                ..EndpointWindow::default()
            });
            window.first_minute = window.first_minute.min(row.try_get("minute")?);
            window.requests += row.try_get::<i64, _>("requests")?;
            window.errors += row.try_get::<i64, _>("errors")?;
            window.duration_ns = window
                .duration_ns
                .saturating_add(row.try_get("duration_ns")?);
            window
                .latency
                .merge(&encoding::sketch(row.try_get("latency")?)?);
        }
        drop(rows);
        // What late spans took away again was never there.
        windows.retain(|_, it| it.requests > 0);
        self.name_endpoints(&mut windows).await?;
        self.tell_front(&mut windows, minutes).await?;
        Ok(windows)
    }

    async fn name_endpoints(
        &self,
        windows: &mut BTreeMap<i32, EndpointWindow>,
    ) -> Result<(), StoreError> {
        let ids: Vec<i32> = windows.keys().copied().collect();
        let rows: Vec<(i32, String, String, String)> = sqlx::query_as(
            "select e.id, s.name, s.environment, e.name
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where e.id = any($1)",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        for (id, service, environment, name) in rows {
            if let Some(window) = windows.get_mut(&id) {
                (window.service, window.environment) = (service, environment);
                window.name = name;
            }
        }
        Ok(())
    }

    /// Which endpoints mostly began their traces, in the latest blocks that have them.
    async fn tell_front(
        &self,
        windows: &mut BTreeMap<i32, EndpointWindow>,
        minutes: Minutes,
    ) -> Result<(), StoreError> {
        let mut unknown: BTreeSet<i32> = windows.keys().copied().collect();
        windows.values_mut().for_each(|it| it.front = true);
        let since_ns = i64::from(minutes.from) * 60_000_000_000;
        for _ in 0..FRONT_LOOKS_MAX {
            if unknown.is_empty() {
                break;
            }
            let blocks: Vec<(Vec<i32>, Vec<i16>)> = sqlx::query_as(
                "select endpoint_ids, flags from culprit.trace_blocks
                 where endpoints && $1 and last_start_ns >= $2
                 order by last_start_ns desc limit $3",
            )
            .bind(unknown.iter().copied().collect::<Vec<_>>())
            .bind(since_ns)
            .bind(FRONT_BLOCKS)
            .fetch_all(self.pool())
            .await?;
            if blocks.is_empty() {
                break;
            }
            let mut began: HashMap<i32, (u32, u32)> = HashMap::new();
            for (endpoints, flags) in &blocks {
                for (endpoint, flags) in endpoints.iter().zip(flags) {
                    let (roots, all) = began.entry(*endpoint).or_default();
                    *roots += u32::from(flags & FLAG_ROOT != 0);
                    *all += 1;
                }
            }
            for (endpoint, (roots, all)) in began {
                if let (true, Some(window)) =
                    (unknown.remove(&endpoint), windows.get_mut(&endpoint))
                {
                    window.front = 2 * roots >= all;
                }
            }
        }
        Ok(())
    }

    /// What the findings did within the window, by id; with `only`, that finding alone.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn hits_windows(
        &self,
        minutes: Minutes,
        only: Option<i32>,
    ) -> Result<HashMap<i32, HitsWindow>, StoreError> {
        let mut windows: HashMap<i32, HitsWindow> = HashMap::new();
        let mut rows = sqlx::query(
            "select finding_id, minute, traces, requests, saved_ns, hits
             from culprit.finding_hits
             where minute > $1 - 60 and minute + width > $1 and minute < $2 and ($3::integer is null or finding_id = $3)",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .bind(only)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let window = windows.entry(row.try_get("finding_id")?).or_default();
            let saved_ns: i64 = row.try_get("saved_ns")?;
            window.traces += row.try_get::<i64, _>("traces")?;
            window.requests += row.try_get::<i64, _>("requests")?;
            window.saved_ns = window.saved_ns.saturating_add(saved_ns);
            window.hits.merge(&encoding::hits(row.try_get("hits")?)?, 1);
            *window.slots.entry(row.try_get("minute")?).or_default() += saved_ns;
        }
        Ok(windows)
    }

    /// What is known of these findings; those that the review has not seen yet are left out.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn finding_facts(&self, ids: &[i32]) -> Result<Vec<FindingFacts>, StoreError> {
        let rows = sqlx::query(
            "select f.id, f.state, f.detector, s.name as service, s.environment, f.endpoint_id,
                    e.name as endpoint, coalesce(v.version, '') as version, f.severity, f.confidence,
                    f.title, (extract(epoch from f.first_seen) * 1000000)::bigint as first_seen_us,
                    (extract(epoch from f.last_seen) * 1000000)::bigint as last_seen_us, f.traces,
                    (extract(epoch from f.state_since) * 1000000)::bigint as state_since_us, f.regressed,
                    k.fingerprint, f.evidence
             from culprit.findings f
             join culprit.finding_keys k on k.id = f.id
             join culprit.services s on s.id = f.service_id
             join culprit.endpoints e on e.id = f.endpoint_id
             left join culprit.versions v on v.id = f.version_id
             where f.id = any($1)",
        )
        .bind(ids)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(facts).collect()
    }

    /// The costliest affected requests of the window, costliest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn examples(
        &self,
        finding: i32,
        minutes: Minutes,
    ) -> Result<Vec<Example>, StoreError> {
        let mut kept: Vec<Example> = Vec::new();
        let mut rows = sqlx::query_scalar::<_, Value>(
            "select examples from culprit.finding_hits
             where finding_id = $1 and minute > $2 - 60 and minute + width > $2 and minute < $3",
        )
        .bind(finding)
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch(self.pool());
        while let Some(examples) = rows.try_next().await? {
            for it in examples
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(example)
            {
                let same =
                    |other: &Example| other.trace_id == it.trace_id && other.span_id == it.span_id;
                if !kept.iter().any(same) {
                    kept.push(it);
                }
            }
            kept.sort_by_key(|it| (std::cmp::Reverse(it.saved_ns), it.start_ns));
            kept.truncate(EXAMPLES_MAX);
        }
        Ok(kept)
    }
}

fn facts(row: &PgRow) -> Result<FindingFacts, StoreError> {
    let ns = |column: &str| -> Result<u64, StoreError> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?)
            .unwrap_or_default()
            .saturating_mul(1_000))
    };
    Ok(FindingFacts {
        id: row.try_get("id")?,
        state: row.try_get("state")?,
        state_since_ns: ns("state_since_us")?,
        regressed: row.try_get("regressed")?,
        detector: row.try_get("detector")?,
        service: row.try_get("service")?,
        environment: row.try_get("environment")?,
        endpoint_id: row.try_get("endpoint_id")?,
        endpoint: row.try_get("endpoint")?,
        version: row.try_get("version")?,
        severity: row.try_get("severity")?,
        confidence: row.try_get("confidence")?,
        title: row.try_get("title")?,
        first_seen_ns: ns("first_seen_us")?,
        last_seen_ns: ns("last_seen_us")?,
        traces: row.try_get("traces")?,
        fingerprint: row.try_get("fingerprint")?,
        evidence: row.try_get("evidence")?,
    })
}

fn example(stored: &Value) -> Option<Example> {
    Some(Example {
        trace_id: stored["trace_id"].as_str()?.to_owned(),
        span_id: stored["span_id"].as_str()?.to_owned(),
        start_ns: stored["start_ns"].as_u64()?,
        duration_ns: stored["duration_ns"].as_u64()?,
        saved_ns: stored["saved_ns"].as_u64()?,
        count: stored["count"].as_u64().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MS: u64 = 1_000_000;

    async fn run(store: &Store, sql: &'static str) {
        sqlx::query(sql).execute(store.pool()).await.unwrap();
    }

    /// GET /posts is asked by users, GET /inner by it; minute 1,000 is in the window, 900 is not.
    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        run(&store, "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod')").await;
        run(&store, "insert into culprit.endpoints (service_id, name) values (1, 'GET /posts'), (1, 'GET /inner')").await;
        run(
            &store,
            "insert into culprit.versions (service_id, version) values (1, '1.0')",
        )
        .await;
        for (endpoint, minute, part) in [(1, 1_000, 1), (1, 1_001, 2), (1, 900, 3), (2, 1_000, 4)] {
            requests(&store, endpoint, minute, part).await;
        }
        run(&store, "insert into culprit.trace_blocks (day, shard, id, spans, traces, raw_bytes, payload,
                last_start_ns, endpoints, endpoint_ids, flags)
             values ((now() at time zone 'utc')::date, 0, 1, 2, 2, 1, '', 1000 * 60000000000, '{1,2}', '{1,2}', '{8,0}')").await;
        run(&store, "insert into culprit.finding_keys (digest, fingerprint, detector, service_id, endpoint_id)
             values ('\\x01', 'n-plus-one-query shop', 'n-plus-one-query', 1, 1)").await;
        run(&store, "insert into culprit.findings values (1, 'new', 'n-plus-one-query', 1, 1, 1, 2, 0.9,
             '31 × select authors', to_timestamp(60000), to_timestamp(60000.5), 7, '{\"fix\": \"join\"}')").await;
        for (minute, part, saved_ms) in [(1_000, 1, 10), (1_000, 2, 30), (900, 3, 500)] {
            hits(&store, minute, part, saved_ms).await;
        }
        store
    }

    async fn requests(store: &Store, endpoint: i32, minute: i32, part: i64) {
        let mut latency = Sketch::default();
        latency.record(100 * MS, 5);
        sqlx::query(
            "insert into culprit.rollup_minutes values ((now() at time zone 'utc')::date, 0, $1, 1, $2,
             1, $3, 5, 1, 500000000, '{}', '{}', $4)",
        )
        .bind(endpoint)
        .bind(minute)
        .bind(part)
        .bind(encoding::sketch_bytes(&latency))
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn hits(store: &Store, minute: i32, part: i64, saved_ms: u64) {
        let mut hits = Hits::default();
        hits.saved.record(saved_ms * MS, 1);
        let example = json!([{
            "trace_id": format!("{part:032x}"), "span_id": "0000000000000001", "start_ns": 1,
            "duration_ns": 100 * MS, "saved_ns": saved_ms * MS, "count": 31,
        }]);
        sqlx::query(
            "insert into culprit.finding_hits values ((now() at time zone 'utc')::date, 0, 1, 1, $1, $2,
             1, 1, $3, $4, $5)",
        )
        .bind(minute)
        .bind(part)
        .bind((saved_ms * MS) as i64)
        .bind(encoding::hits_bytes(&hits))
        .bind(example)
        .execute(store.pool())
        .await
        .unwrap();
    }

    const WINDOW: Minutes = Minutes {
        from: 990,
        to: 1_010,
    };

    #[tokio::test]
    async fn endpoints_are_summed_within_the_window() {
        let store = drawn().await;
        assert!(store.has_endpoints().await.unwrap());
        let windows = store.endpoint_windows(WINDOW).await.unwrap();
        let posts = &windows[&1];
        assert_eq!(
            (posts.requests, posts.errors, posts.first_minute),
            (10, 2, 1_000)
        );
        assert_eq!(
            (posts.duration_ns, posts.latency.count()),
            (1_000_000_000, 10)
        );
        assert_eq!(
            (posts.name.as_str(), posts.environment.as_str()),
            ("GET /posts", "prod")
        );
        assert!(
            posts.front && !windows[&2].front,
            "only the first began its traces"
        );
    }

    #[tokio::test]
    async fn findings_are_summed_within_the_window() {
        let store = drawn().await;
        for only in [None, Some(1)] {
            let windows = store.hits_windows(WINDOW, only).await.unwrap();
            assert_eq!(
                (windows[&1].requests, windows[&1].saved_ns),
                (2, 40_000_000)
            );
            assert_eq!(windows[&1].slots, BTreeMap::from([(1_000, 40_000_000)]));
            assert_eq!(windows[&1].hits.saved.count(), 2);
        }
        assert!(
            store
                .hits_windows(WINDOW, Some(2))
                .await
                .unwrap()
                .is_empty()
        );
        let facts = store.finding_facts(&[1, 2]).await.unwrap();
        assert_eq!(facts.len(), 1);
        assert_eq!((facts[0].traces, facts[0].version.as_str()), (7, "1.0"));
        assert_eq!(facts[0].last_seen_ns, 60_000_500_000_000);
    }

    #[tokio::test]
    async fn what_was_before_is_told_apart() {
        let store = drawn().await;
        let before = Minutes { from: 890, to: 990 };
        let saved = store.saved_within(before).await.unwrap();
        assert_eq!(saved, BTreeMap::from([(1, 500_000_000)]));
        let saved = store.saved_within(WINDOW).await.unwrap();
        assert_eq!(saved, BTreeMap::from([(1, 40_000_000)]));
        assert_eq!(store.first_minute(before).await.unwrap(), Some(900));
        assert_eq!(store.first_minute(WINDOW).await.unwrap(), Some(1_000));
        let earlier = Minutes { from: 0, to: 890 };
        assert_eq!(store.first_minute(earlier).await.unwrap(), None);
    }

    #[tokio::test]
    async fn examples_come_costliest_first() {
        let store = drawn().await;
        let examples = store.examples(1, WINDOW).await.unwrap();
        let saved: Vec<u64> = examples.iter().map(|it| it.saved_ns / MS).collect();
        assert_eq!(saved, [30, 10]);
    }
}
