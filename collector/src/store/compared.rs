//! Two sets of requests beside each other: of two versions, or of two times.
//!
//! What was merged into an hour (or ten minutes) belongs to the time its middle lies in: so nothing
//! counts on both sides of a moment, and nothing is lost between them.

use futures_util::TryStreamExt;
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;
use std::ops::Range;

use super::bottlenecks::Minutes;
use super::encoding::{self, StatementCalls};
use super::rollups::minute_sums;
use super::{Store, StoreError};
use crate::deltas::MinuteDelta;

/// Endpoints of one service that are compared at most: as many as a service has.
const ENDPOINTS_MAX: i64 = 1_100;

/// An endpoint's requests on one side.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CountedSide {
    /// Added up.
    pub sums: MinuteDelta,
    /// The first minute that is counted, since the epoch.
    pub from: i32,
    /// The first one that is not.
    pub to: i32,
    /// Some minutes were merged into hours.
    pub has_hours: bool,
}

/// A finding that showed on a side.
#[derive(Clone, PartialEq, Debug, FromRow)]
pub struct SideFinding {
    /// findings.id
    pub id: i32,
    /// The detector's id.
    pub detector: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// Its life's state.
    pub state: String,
    /// One sentence.
    pub title: String,
    /// Where.
    pub endpoint_id: i32,
    /// Where, by name.
    pub endpoint: String,
    /// Requests affected, weighted.
    pub requests: i64,
    /// What a fix would have saved, weighted, ns.
    pub saved_ns: i64,
    /// It may have shown on the other side too: ten minutes that reach into that side have it, and it was
    /// known by then.
    pub may_be_on_other: bool,
}

/// Requests by time and by version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OfVersion<'a> {
    /// When.
    pub minutes: Minutes,
    /// Only this one, empty: of senders that set none; `None`: any.
    pub version: Option<&'a str>,
}

/// A finding is known so long after its first trace at most, minutes: the trace has to rest and to be looked at.
const KNOWN_AFTER_MINUTES: i32 = 1;

impl Store {
    /// The endpoints of a service: id, name.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn service_endpoints(
        &self,
        service_id: i32,
    ) -> Result<BTreeMap<i32, String>, StoreError> {
        let endpoints: Vec<(i32, String)> = sqlx::query_as(
            "select id, name from culprit.endpoints where service_id = $1 order by id limit $2",
        )
        .bind(service_id)
        .bind(ENDPOINTS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(endpoints.into_iter().collect())
    }

    /// The requests of some endpoints in `minutes`, of one version (empty: of senders that set none)
    /// or of all.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn counted_side(
        &self,
        endpoint_ids: &[i32],
        minutes: Minutes,
        version: Option<&str>,
    ) -> Result<BTreeMap<i32, CountedSide>, StoreError> {
        let mut sides: BTreeMap<i32, CountedSide> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, minute, width, requests, errors, duration_ns, categories, calls, latency
             from culprit.rollup_minutes
             where endpoint_id = any($1) and minute < $3 and minute >= $2 - 59
               and minute + width / 2 >= $2 and minute + width / 2 < $3
               and ($4::text is null
                    or version_id in (select id from culprit.versions where version = $4))",
        )
        .bind(endpoint_ids)
        .bind(minutes.from)
        .bind(minutes.to)
        .bind(version)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let (minute, width): (i32, i16) = (row.try_get("minute")?, row.try_get("width")?);
            let end = minute + i32::from(width);
            let side = sides
                .entry(row.try_get("endpoint_id")?)
                .or_insert(CountedSide {
                    from: minute,
                    to: end,
                    ..CountedSide::default()
                });
            side.sums.merge(&minute_sums(&row)?, 1);
            side.from = side.from.min(minute);
            side.to = side.to.max(end);
            side.has_hours |= width > 1;
        }
        // What was taken out again leaves rows that add up to nothing.
        sides.retain(|_, it| it.sums.requests > 0);
        Ok(sides)
    }

    /// The findings that showed at some endpoints on `side`. Hits are counted by ten minutes, so that those
    /// around the moment where `side` and `other` meet may be of either.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn side_findings(
        &self,
        endpoint_ids: &[i32],
        side: OfVersion<'_>,
        other: OfVersion<'_>,
    ) -> Result<Vec<SideFinding>, StoreError> {
        let findings = sqlx::query_as(
            "select f.id, f.detector, f.severity, f.state, f.title, f.endpoint_id, e.name as endpoint,
                    h.requests, h.saved_ns,
                    f.first_seen < to_timestamp(($6 + $8) * 60.0) and f.last_seen >= to_timestamp($5 * 60.0)
                    and exists (
                        select from culprit.finding_hits o
                        where o.finding_id = f.id and o.minute < $6 and o.minute > $5 - 60 and o.minute + o.width > $5
                          and ($7::text is null
                               or o.version_id in (select id from culprit.versions where version = $7))
                    ) as may_be_on_other
             from culprit.findings f
             join culprit.endpoints e on e.id = f.endpoint_id
             cross join lateral (
                 select coalesce(sum(h.requests), 0)::bigint as requests,
                        coalesce(sum(h.saved_ns), 0)::bigint as saved_ns
                 from culprit.finding_hits h
                 where h.finding_id = f.id and h.minute < $3 and h.minute > $2 - 60
                   and h.minute + h.width / 2 >= $2 and h.minute + h.width / 2 < $3
                   and ($4::text is null
                        or h.version_id in (select id from culprit.versions where version = $4))) h
             where f.endpoint_id = any($1) and h.requests > 0
             order by h.saved_ns desc, f.id",
        )
        .bind(endpoint_ids)
        .bind(side.minutes.from)
        .bind(side.minutes.to)
        .bind(side.version)
        .bind(other.minutes.from)
        .bind(other.minutes.to)
        .bind(other.version)
        .bind(KNOWN_AFTER_MINUTES)
        .fetch_all(self.pool())
        .await?;
        Ok(findings)
    }

    /// The statements that an endpoint's requests sent in `hours` (since the epoch), of one version or
    /// of all, by the statement's id.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn side_statements(
        &self,
        endpoint_id: i32,
        hours: Range<i32>,
        version: Option<&str>,
    ) -> Result<BTreeMap<i32, StatementCalls>, StoreError> {
        let mut sums: BTreeMap<i32, StatementCalls> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select statements from culprit.rollup_hours
             where endpoint_id = $1 and hour >= $2 and hour < $3
               and ($4::text is null
                    or version_id in (select id from culprit.versions where version = $4))",
        )
        .bind(endpoint_id)
        .bind(hours.start)
        .bind(hours.end)
        .bind(version)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            for (id, calls) in encoding::statements(row.try_get("statements")?)? {
                sums.entry(id).or_default().merge(&calls, 1);
            }
        }
        sums.retain(|_, it| it.calls > 0);
        Ok(sums)
    }

    /// Statements' systems and texts, by id.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn statement_texts(
        &self,
        ids: &[i32],
    ) -> Result<BTreeMap<i32, (String, String)>, StoreError> {
        let texts: Vec<(i32, String, String)> =
            sqlx::query_as("select id, system, text from culprit.statements where id = any($1)")
                .bind(ids)
                .fetch_all(self.pool())
                .await?;
        Ok(texts
            .into_iter()
            .map(|(id, system, text)| (id, (system, text)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::encoding::{hits_bytes, profile_bytes, sketch_bytes, statements_bytes};
    use analyzer::profile::Profile;
    use analyzer::sketch::Sketch;

    const ZEROS: [i64; 11] = [0; 11];

    async fn minute(store: &Store, endpoint: i32, version: i32, minute: i32, width: i16) {
        let mut latency = Sketch::default();
        latency.record(1_000_000, 10);
        sqlx::query(
            "insert into culprit.rollup_minutes values ((now() at time zone 'utc')::date, 0, $1, $2, $3,
             $4, 1, 10, 1, 10000000, $5, $5, $6)",
        )
        .bind(endpoint)
        .bind(version)
        .bind(minute)
        .bind(width)
        .bind(ZEROS)
        .bind(sketch_bytes(&latency))
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        for sql in [
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', '')",
            "insert into culprit.endpoints (service_id, name) values (1, 'GET /'), (1, 'GET /b')",
            "insert into culprit.versions (service_id, version) values (1, '1.0'), (1, '')",
            "insert into culprit.statements (digest, system, text) values ('\\x01', 'postgresql', 'select 1')",
            "insert into culprit.findings values (1, 'new', 'n-plus-one-query', 1, 1, 1, 2, 0.9, '31 × select',
             now(), now(), 7, '{}')",
        ] {
            sqlx::query(sql).execute(store.pool()).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn a_merged_hour_counts_on_one_side_of_a_moment() {
        let store = drawn().await;
        minute(&store, 1, 1, 6_000, 60).await;
        minute(&store, 1, 1, 6_060, 1).await;
        minute(&store, 1, 2, 6_061, 1).await;
        minute(&store, 2, 1, 6_061, 1).await;
        let read = async |from, to, version| {
            let minutes = Minutes { from, to };
            let sides = store.counted_side(&[1, 2], minutes, version).await.unwrap();
            let side = |it: &CountedSide| (it.sums.requests, it.from, it.to, it.has_hours);
            sides.values().map(side).collect::<Vec<_>>()
        };
        for moment in [6_001, 6_029, 6_030, 6_031, 6_059] {
            let before = read(5_000, moment, None).await.len();
            let after = read(moment, 6_060, None).await.len();
            assert_eq!(before + after, 1, "{moment}");
        }
        assert_eq!(
            read(6_000, 6_062, None).await,
            [(30, 6_000, 6_062, true), (10, 6_061, 6_062, false)]
        );
        assert_eq!(
            read(6_060, 6_062, Some("")).await,
            [(10, 6_061, 6_062, false)]
        );
        assert!(read(6_060, 6_062, Some("2")).await.is_empty());
    }

    /// ```text
    /// hits                   |6000 ten minutes 6010|
    /// base  |5945 ------------------- 6005|
    /// side                                |6005 ------------------- 6065|
    /// ```
    #[tokio::test]
    async fn a_finding_of_the_minutes_around_the_moment_may_be_of_either_side() {
        let store = drawn().await;
        sqlx::query(
            "insert into culprit.finding_hits
             values ((now() at time zone 'utc')::date, 0, 1, 1, 6000, 1, 1, 4, 100, $1, '[]')",
        )
        .bind(hits_bytes(&encoding::Hits::default()))
        .execute(store.pool())
        .await
        .unwrap();
        let base = Minutes {
            from: 5_945,
            to: 6_005,
        };
        let side = Minutes {
            from: 6_005,
            to: 6_065,
        };
        let read = async |first_minute: i32, last_minute: i32, version: Option<&str>| {
            sqlx::query("update culprit.findings set first_seen = to_timestamp($1 * 60.0), last_seen = to_timestamp($2 * 60.0)")
                .bind(first_minute)
                .bind(last_minute)
                .execute(store.pool())
                .await
                .unwrap();
            let [side, base] = [(side, None), (base, version)]
                .map(|(minutes, version)| OfVersion { minutes, version });
            let found = store.side_findings(&[1], side, base).await.unwrap();
            found
                .iter()
                .map(|it| it.may_be_on_other)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            read(6_001, 6_009, None).await,
            [true],
            "it was known before the moment"
        );
        assert_eq!(read(6_007, 6_009, None).await, [false], "it came after it");
        assert_eq!(
            read(6_001, 6_009, Some("")).await,
            [false],
            "of another version"
        );
    }

    #[tokio::test]
    async fn findings_and_statements_are_told_apart_by_version_and_time() {
        let store = drawn().await;
        let day = "(now() at time zone 'utc')::date";
        for (version, minute) in [(1, 6_000), (2, 6_010)] {
            let sql = format!(
                "insert into culprit.finding_hits values ({day}, 0, 1, $1, $2, 1, 1, 4, 100, $3, '[]')"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(version)
                .bind(minute)
                .bind(hits_bytes(&encoding::Hits::default()))
                .execute(store.pool())
                .await
                .unwrap();
            let calls = StatementCalls {
                calls: 5 * i64::from(version),
                ..StatementCalls::default()
            };
            let sql = format!(
                "insert into culprit.rollup_hours values ({day}, 0, 1, $1, 100, 1, $2, $3, 0, $3)"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(version)
                .bind(statements_bytes(&BTreeMap::from([(1, calls)])))
                .bind(profile_bytes(&Profile::default()))
                .execute(store.pool())
                .await
                .unwrap();
        }
        let findings = async |from, to, version| {
            let side = OfVersion {
                minutes: Minutes { from, to },
                version,
            };
            let other = OfVersion {
                minutes: Minutes { from: 0, to: 1 },
                version: None,
            };
            store.side_findings(&[1], side, other).await.unwrap()
        };
        assert_eq!(findings(6_000, 6_020, None).await[0].requests, 8);
        assert_eq!(findings(6_000, 6_020, Some("1.0")).await[0].saved_ns, 100);
        assert_eq!(findings(6_012, 6_020, None).await[0].requests, 4);
        assert!(findings(6_016, 6_020, None).await.is_empty());
        let calls = async |version| {
            let sums = store.side_statements(1, 100..101, version).await.unwrap();
            sums.values().map(|it| it.calls).sum::<i64>()
        };
        assert_eq!((calls(None).await, calls(Some("")).await), (15, 10));
        let texts = store.statement_texts(&[1, 2]).await.unwrap();
        assert_eq!(texts[&1], ("postgresql".into(), "select 1".into()));
        assert_eq!(store.service_endpoints(1).await.unwrap().len(), 2);
    }
}
