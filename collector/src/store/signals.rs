//! What the alert engine asks the rest of the database: which findings, regressions and numbers there are.

use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::Row;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::{Store, StoreError, encoding};
use crate::regression::evidence::{Explanation, Numbers};
use analyzer::sketch::Sketch;

/// Findings that are new or came back are looked at up to so many, the latest. More at once are a first
/// start with rules for everything, and nobody reads a thousand messages.
const FINDINGS_MAX: i64 = 1_000;

/// What is found in the first minutes of a service was there before culprit watched it: nobody shipped it
/// just now. So many, because a finding needs several requests of its endpoint.
const FIRST_MINUTES: i32 = 30;

/// Where something happens.
#[derive(Clone, PartialEq, Eq, Debug, Default, sqlx::FromRow)]
pub struct Place {
    /// The service.
    pub service: String,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its environment, or empty.
    pub environment: String,
    /// The endpoint.
    pub endpoint: String,
}

/// A finding, as far as rules ask.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct FindingNow {
    /// finding_keys.id
    pub id: i32,
    /// The detector's id.
    pub detector: String,
    /// Where it is in its life.
    pub state: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// Traces affected.
    pub traces: i64,
    /// It was told by a version of before there were rules.
    pub was_told: bool,
    /// It was there when culprit began to watch its service: the end of the service's first half hour, in which
    /// it was seen; ms since the epoch.
    pub first_until_ms: Option<i64>,
    /// Where it is.
    #[sqlx(flatten)]
    pub place: Place,
}

/// A finding, as it is told.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FindingTold {
    /// finding_keys.id
    pub id: i32,
    /// The detector's id.
    pub detector: String,
    /// The readable fingerprint.
    pub fingerprint: String,
    /// Where it is in its life.
    pub state: String,
    /// Where it is.
    #[sqlx(flatten)]
    pub place: Place,
    /// endpoints.id
    pub endpoint_id: i32,
    /// Where it was first seen, or empty.
    pub version: String,
    /// One sentence.
    pub title: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// When it was first seen, ms since the epoch.
    pub first_seen_ms: i64,
    /// Traces affected so far.
    pub traces: i64,
    /// How often it came back.
    pub regressed: i32,
    /// The version that had fixed it.
    pub resolved_in: Option<String>,
    /// The worst example's evidence.
    pub evidence: Value,
    /// A trace that shows it, 32 hexadecimal digits, or empty.
    pub trace_id: String,
}

/// A regression that is open, or was until a moment ago.
#[derive(Clone, Debug)]
pub struct RegressionNow {
    /// Its id.
    pub id: Uuid,
    /// open, resolved, accepted.
    pub state: String,
    /// deployment, sudden, drift.
    pub kind: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// One sentence; may be empty.
    pub title: String,
    /// Where it is.
    pub place: Place,
    /// endpoints.id
    pub endpoint_id: i32,
    /// statements.id; 0 for the whole endpoint.
    pub statement_id: i32,
    /// The statement's text, or empty.
    pub statement: String,
    /// Slower since, ms since the epoch.
    pub began_ms: i64,
    /// Found, ms since the epoch.
    pub detected_ms: i64,
    /// The version that was deployed before, or empty.
    pub version: String,
    /// What it replaced, or empty.
    pub previous: String,
    /// The comparison, while it is open; zeros if it cannot be read.
    pub numbers: Numbers,
    /// What grew, if that is known yet and it is open.
    pub explanation: Option<Explanation>,
    /// Who said that it is over; empty: culprit itself, or it is open.
    pub ended_by: String,
    /// Why it is over; may be empty.
    pub ended_why: String,
}

/// An endpoint, with where it is.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct EndpointPlace {
    /// endpoints.id
    pub id: i32,
    /// Where it is.
    #[sqlx(flatten)]
    pub place: Place,
}

/// An endpoint's requests of some minutes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Window {
    /// How many.
    pub requests: i64,
    /// How many of them failed.
    pub errors: i64,
    /// Their durations.
    pub latency: Sketch,
}

impl Store {
    /// Findings that are new or came back, and those in `watched`, whatever became of them.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn findings_now(&self, watched: &[i32]) -> Result<Vec<FindingNow>, StoreError> {
        let findings = sqlx::query_as(
            "select f.id, f.detector, f.state, f.severity, f.traces,
                    s.name as service, s.namespace, s.environment, e.name as endpoint,
                    -- Those told from here on have an incident of the same id.
                    exists (select from culprit.alerts a
                            where a.finding_id = f.id and a.kind = 'finding.new'
                              and not exists (select from culprit.incidents i where i.id = a.id)) as was_told,
                    case when f.state = 'new' and f.first_seen < s.first_seen + make_interval(mins => $3)
                         then (extract(epoch from s.first_seen) * 1000)::bigint + $3 * 60000::bigint end
                        as first_until_ms
             from culprit.findings f
             join culprit.services s on s.id = f.service_id
             join culprit.endpoints e on e.id = f.endpoint_id
             where f.id = any($1)
                or f.id in (select id from culprit.findings where state in ('new', 'regressed')
                            order by state_since desc, id desc limit $2)
             order by f.id",
        )
        .bind(watched)
        .bind(FINDINGS_MAX)
        .bind(FIRST_MINUTES)
        .fetch_all(self.pool())
        .await?;
        Ok(findings)
    }

    /// One finding with all that is said about it.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn finding_told(&self, id: i32) -> Result<Option<FindingTold>, StoreError> {
        let finding = sqlx::query_as(
            "select f.id, f.detector, k.fingerprint, f.state, s.name as service, s.namespace, s.environment,
                    e.name as endpoint, f.endpoint_id, coalesce(v.version, '') as version, f.title, f.severity,
                    (extract(epoch from f.first_seen) * 1000)::bigint as first_seen_ms,
                    f.traces, f.regressed, f.resolved_in, f.evidence,
                    coalesce((select h.examples -> 0 ->> 'trace_id' from culprit.finding_hits h
                              where h.finding_id = f.id order by h.minute desc limit 1), '') as trace_id
             from culprit.findings f
             join culprit.finding_keys k on k.id = f.id
             join culprit.services s on s.id = f.service_id
             join culprit.endpoints e on e.id = f.endpoint_id
             left join culprit.versions v on v.id = f.version_id
             where f.id = $1",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await?;
        Ok(finding)
    }

    /// Regressions that are open, and those that ended within the last day, with why they did; the oldest
    /// first, and the open ones last. What cannot be read of a row is left out, and the log says so: one row
    /// must not stop every alert.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn regressions_now(&self) -> Result<Vec<RegressionNow>, StoreError> {
        let rows = sqlx::query(
            "select r.id, r.state, r.kind, r.severity, r.title, r.endpoint_id, r.statement_id,
                    (extract(epoch from r.began_at) * 1000)::bigint as began_ms,
                    (extract(epoch from r.detected_at) * 1000)::bigint as detected_ms,
                    -- Of those that ended only that is told.
                    case when r.state = 'open' then r.numbers end as numbers,
                    case when r.state = 'open' then r.explanation end as explanation,
                    coalesce(t.text, '') as statement,
                    coalesce(d.version, '') as version, coalesce(d.previous, '') as previous,
                    s.name as service, s.namespace, s.environment, e.name as endpoint,
                    coalesce(a.author, '') as ended_by, coalesce(a.detail, '') as ended_why
             from culprit.regressions r
             join culprit.endpoints e on e.id = r.endpoint_id
             join culprit.services s on s.id = e.service_id
             left join culprit.statements t on t.id = r.statement_id and r.state = 'open'
             left join culprit.deployments d on d.id = r.deployment_id
             left join lateral (
                 select author, detail from culprit.audit
                 where subject = 'regression' and subject_id = r.id::text and action = r.state
                   and r.state <> 'open'
                 order by id desc limit 1) a on true
             where r.state = 'open' or r.resolved_at > now() - interval '1 day'
             order by r.state = 'open', r.detected_at, r.id",
        )
        .fetch_all(self.pool())
        .await?;
        let regressions = rows.iter().map(|row| {
            let id: Uuid = row.try_get("id")?;
            Ok(RegressionNow {
                id,
                state: row.try_get("state")?,
                kind: row.try_get("kind")?,
                severity: row.try_get("severity")?,
                title: row.try_get("title")?,
                place: sqlx::FromRow::from_row(row)?,
                endpoint_id: row.try_get("endpoint_id")?,
                statement_id: row.try_get("statement_id")?,
                statement: row.try_get("statement")?,
                began_ms: row.try_get("began_ms")?,
                detected_ms: row.try_get("detected_ms")?,
                version: row.try_get("version")?,
                previous: row.try_get("previous")?,
                numbers: readable(id, row.try_get("numbers")?).unwrap_or_default(),
                explanation: readable(id, row.try_get("explanation")?),
                ended_by: row.try_get("ended_by")?,
                ended_why: row.try_get("ended_why")?,
            })
        });
        regressions.collect()
    }

    /// All endpoints and where they are.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint_places(&self) -> Result<Vec<EndpointPlace>, StoreError> {
        let places = sqlx::query_as(
            "select e.id, s.name as service, s.namespace, s.environment, e.name as endpoint
             from culprit.endpoints e join culprit.services s on s.id = e.service_id order by e.id",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(places)
    }

    /// The requests of `endpoints` in the minutes from `from` to `to` (since the epoch, not included).
    /// Endpoints without any are left out, and durations that cannot be read.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn requests_of_minutes(
        &self,
        endpoints: &[i32],
        from: i32,
        to: i32,
    ) -> Result<BTreeMap<i32, Window>, StoreError> {
        let mut windows: BTreeMap<i32, Window> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, requests, errors, latency from culprit.rollup_minutes
             where endpoint_id = any($1) and minute >= $2 and minute < $3",
        )
        .bind(endpoints)
        .bind(from)
        .bind(to)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let window = windows.entry(row.try_get("endpoint_id")?).or_default();
            window.requests += row.try_get::<i64, _>("requests")?;
            window.errors += row.try_get::<i64, _>("errors")?;
            match encoding::sketch(row.try_get("latency")?) {
                Ok(latency) => window.latency.merge(&latency),
                Err(error) => {
                    tracing::warn!(%error, "a roll-up cannot be read; a limit may be judged without it")
                }
            }
        }
        windows.retain(|_, it| it.requests > 0);
        Ok(windows)
    }
}

/// A part of a regression, if it is there and can be read.
fn readable<T: DeserializeOwned>(regression: Uuid, part: Option<Value>) -> Option<T> {
    let part = serde_json::from_value(part?);
    part.inspect_err(|error| {
        tracing::warn!(%regression, %error, "a regression cannot be read in full");
    })
    .ok()
}
