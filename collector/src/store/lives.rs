//! The states of findings: what the review changes by itself, and what people change. Every change
//! is one transaction with its row in the audit. What follows from what is decided in [`crate::life`].

use serde_json::Value;
use sqlx::Executor;

use super::audit::{self, Entry};
use super::findings::Judged;
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError};
use crate::deltas::{HITS_MINUTES, first_of_hour};
use crate::life::{self, Act, Fixed, Life, Quiet, Slot, State, Step};

/// Findings looked at in one round: their traffic is summed one by one. Others come in the next
/// round.
const LOOKED_AT_MAX: i64 = 200;

/// How far back the share of affected requests is taken from, ms: a day has all of its hours.
const SHARE_OVER_MS: i64 = 24 * 3_600_000;

/// And how far at least: a single affected request of the first ten minutes is no share.
const SHARE_OVER_MIN_MS: i64 = 3_600_000;

/// Clocks ahead of ours: requests of so many minutes ahead count, others do not.
const SKEW_MINUTES: i64 = 10;

/// What became of an act.
#[derive(Clone, PartialEq, Debug)]
pub enum Acted {
    /// It is written.
    Done(Life),
    /// All was as it asks already.
    Same(Life),
    /// It makes no sense as the finding stands: why, and what to do.
    Refused(String),
    /// There is no such finding.
    Missing,
}

/// A finding and its life.
#[derive(Clone, Debug)]
struct Living {
    id: i32,
    service_id: i32,
    endpoint_id: i32,
    now_ms: i64,
    life: Life,
}

#[derive(sqlx::FromRow)]
struct LifeRow {
    id: i32,
    service_id: i32,
    endpoint_id: i32,
    now_ms: i64,
    state: String,
    since_ms: i64,
    first_seen_ms: i64,
    last_seen_ms: i64,
    traces: i64,
    ignored_until_ms: Option<i64>,
    resolved_in: Option<String>,
    reason: String,
    reopened_ms: Option<i64>,
    author: String,
    regressed: i32,
}

impl LifeRow {
    /// None if it is in a state that only a newer culprit knows.
    fn living(self) -> Option<Living> {
        Some(Living {
            id: self.id,
            service_id: self.service_id,
            endpoint_id: self.endpoint_id,
            now_ms: self.now_ms,
            life: Life {
                state: State::parse(&self.state)?,
                since_ms: self.since_ms,
                first_seen_ms: self.first_seen_ms,
                last_seen_ms: self.last_seen_ms,
                traces: self.traces,
                reopened_ms: self.reopened_ms,
                ignored_until_ms: self.ignored_until_ms,
                resolved_in: self.resolved_in,
                reason: self.reason,
                author: self.author,
                regressed: self.regressed,
            },
        })
    }
}

/// A constant text in front of others, so that three questions read the same columns.
macro_rules! select_lives {
    ($rest:literal) => {
        concat!(
            "select f.id, f.service_id, f.endpoint_id, f.state, f.traces, f.resolved_in, f.reason, f.regressed,
                (extract(epoch from now()) * 1000)::bigint as now_ms,
                (extract(epoch from f.state_since) * 1000)::bigint as since_ms,
                (extract(epoch from f.first_seen) * 1000)::bigint as first_seen_ms,
                (extract(epoch from f.last_seen) * 1000)::bigint as last_seen_ms,
                (extract(epoch from f.ignored_until) * 1000)::bigint as ignored_until_ms,
                (select (extract(epoch from max(a.at)) * 1000)::bigint from culprit.audit a
                 where a.subject = 'finding' and a.subject_id = f.id::text
                   and a.action = 'reopened') as reopened_ms,
                coalesce((select a.author from culprit.audit a
                          where a.subject = 'finding' and a.subject_id = f.id::text
                          order by a.id desc limit 1), '') as author
             from culprit.findings f ",
            $rest
        )
    };
}

impl Store {
    /// A finding's life; none if there is no such finding.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn life(&self, id: i32) -> Result<Option<Life>, StoreError> {
        let row: Option<LifeRow> = sqlx::query_as(select_lives!("where f.id = $1"))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.and_then(LifeRow::living).map(|it| it.life))
    }

    /// Does what somebody wants of a finding. Doing the same again changes nothing.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn act(&self, id: i32, act: &Act) -> Result<Acted, StoreError> {
        let mut transaction = self.pool().begin().await?;
        let row: Option<LifeRow> = sqlx::query_as(select_lives!("where f.id = $1 for update of f"))
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(living) = row.and_then(LifeRow::living) else {
            return Ok(Acted::Missing);
        };
        let step = match life::follow(&living.life, act, living.now_ms) {
            Ok(Some(step)) => step,
            Ok(None) => return Ok(Acted::Same(living.life)),
            Err(why) => return Ok(Acted::Refused(why)),
        };
        sqlx::query(
            "update culprit.findings
             set state_since = case when state = $2 then state_since else now() end,
                 state = $2, reason = $3, ignored_until = to_timestamp($4 / 1000.0), resolved_in = $5
             where id = $1",
        )
        .bind(id)
        .bind(step.to.name())
        .bind(&act.reason)
        .bind(act.until_ms.map(|it| it as f64))
        .bind(&act.version)
        .execute(&mut *transaction)
        .await?;
        note(&mut transaction, id, life::author(act), &step).await?;
        let row: LifeRow = sqlx::query_as(select_lives!("where f.id = $1"))
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let life = row.living().map_or(living.life, |it| it.life);
        Ok(Acted::Done(life))
    }

    /// Changes the states that change by themselves with time, of up to [`LOOKED_AT_MAX`] findings
    /// with ids above `after`. Returns the last one if there may be more, else 0. Under the
    /// review's lease; cheap enough for once a minute.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if there is another review; or Postgres failed.
    pub async fn age_findings(
        &self,
        lease: &Lease,
        resolve_after_ms: i64,
        after: i32,
    ) -> Result<i32, StoreError> {
        let due = self.may_change(resolve_after_ms, after).await?;
        let next = match due.last() {
            Some(it) if due.len() as i64 == LOOKED_AT_MAX => it.id,
            _ => 0,
        };
        let mut steps = Vec::new();
        for it in due.into_iter().filter_map(LifeRow::living) {
            let absent = life::is_absent(&it.life, resolve_after_ms, it.now_ms);
            let quiet = if absent {
                Some(self.quiet(&it).await?)
            } else {
                None
            };
            if let Some(step) = life::by_itself(&it.life, quiet, it.now_ms) {
                steps.push((it, step));
            }
        }
        if !steps.is_empty() {
            let mut transaction = self.pool().begin().await?;
            transaction
                .execute("set local idle_in_transaction_session_timeout = '5s'")
                .await?;
            renew(&mut transaction, lease).await?;
            for (it, step) in steps {
                change(&mut transaction, it.id, it.life.state, &step).await?;
            }
            transaction.commit().await?;
        }
        Ok(next)
    }

    async fn may_change(
        &self,
        resolve_after_ms: i64,
        after: i32,
    ) -> Result<Vec<LifeRow>, StoreError> {
        let rows = sqlx::query_as(select_lives!(
            "where f.id > $1
               and (f.state = 'new' and f.first_seen < now() - interval '1 day'
                    or f.state = 'regressed' and f.state_since < now() - interval '1 day'
                    or f.state = 'ignored' and f.ignored_until <= now()
                    or f.state in ('new', 'open', 'acknowledged', 'regressed')
                       and f.last_seen <= now() - make_interval(secs => $2))
             order by f.id limit $3"
        ))
        .bind(after)
        .bind(resolve_after_ms as f64 / 1_000.0)
        .bind(LOOKED_AT_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// The traffic of a finding's endpoint since the finding is absent, and the share it affected
    /// before.
    async fn quiet(&self, it: &Living) -> Result<Quiet, StoreError> {
        let absent_since_ms = life::absent_since_ms(&it.life);
        // Rows of an hour that had begun by then do not count: too few is on the safe side.
        let requests: i64 = sqlx::query_scalar(
            "select coalesce(sum(requests), 0)::bigint from culprit.rollup_minutes
             where endpoint_id = $1 and minute > $2 and minute < $3 and day >= date '1970-01-01' + ($4 - 1)",
        )
        .bind(it.endpoint_id)
        .bind(minute_of(absent_since_ms))
        .bind(minute_of(it.now_ms) + SKEW_MINUTES as i32)
        .bind(day_of(absent_since_ms))
        .fetch_one(self.pool())
        .await?;
        Ok(Quiet {
            requests,
            share: self.share(it).await?,
        })
    }

    /// Affected traces per request while it was there. Traces are counted one by one and requests
    /// with their weights, so that what head sampling left out is not expected to be seen.
    async fn share(&self, it: &Living) -> Result<Option<f64>, StoreError> {
        let last_ms = it.life.last_seen_ms;
        let from_ms = (last_ms - SHARE_OVER_MS).max(it.life.first_seen_ms);
        let from_ms = from_ms.min(last_ms - SHARE_OVER_MIN_MS);
        let last = minute_of(last_ms);
        let (traces, requests): (i64, i64) = sqlx::query_as(
            "select (select coalesce(sum(traces), 0)::bigint from culprit.finding_hits
                     where finding_id = $1 and minute >= $3 and minute < $4 and day >= date '1970-01-01' + ($5 - 1)),
                    (select coalesce(sum(requests), 0)::bigint from culprit.rollup_minutes
                     where endpoint_id = $2 and minute >= $3 and minute < $4 and day >= date '1970-01-01' + ($5 - 1))",
        )
        .bind(it.id)
        .bind(it.endpoint_id)
        .bind(first_of_hour(minute_of(from_ms)))
        .bind(last - last.rem_euclid(HITS_MINUTES) + HITS_MINUTES)
        .bind(day_of(from_ms))
        .fetch_one(self.pool())
        .await?;
        let is_known = traces > 0 && requests > 0;
        Ok(is_known.then(|| (traces as f64 / requests as f64).min(1.0)))
    }
}

/// A finding that a list leaves out unless it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Settled {
    /// findings.id
    pub id: i32,
    /// `ignored` or `resolved`.
    pub state: String,
    /// The detector's id.
    pub detector: String,
    /// The service.
    pub service: String,
    /// Its environment, or empty.
    pub environment: String,
    /// The endpoint.
    pub endpoint: String,
}

/// Settled findings read at most: the latest ones. Older ones are still at their addresses.
const SETTLED_MAX: i64 = 2_000;

impl Store {
    /// What is ignored or resolved, the latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn settled_findings(&self) -> Result<Vec<Settled>, StoreError> {
        let settled = sqlx::query_as(
            "select f.id, f.state, f.detector, s.name as service, s.environment, e.name as endpoint
             from culprit.findings f
             join culprit.services s on s.id = f.service_id
             join culprit.endpoints e on e.id = f.endpoint_id
             where f.state in ('ignored', 'resolved')
             order by f.state_since desc, f.id limit $1",
        )
        .bind(SETTLED_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(settled)
    }
}

/// Which of these findings are taken for resolved, as they stood before what was just seen.
pub(super) async fn resolved(
    connection: &mut Connection,
    judged: &[Judged],
) -> Result<Vec<Resolved>, StoreError> {
    if judged.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i32> = judged.iter().map(|it| it.recent.finding_id).collect();
    let rows: Vec<LifeRow> = sqlx::query_as(select_lives!(
        "where f.state = 'resolved' and f.id = any($1) order by f.id for update of f"
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let living = rows.into_iter().filter_map(LifeRow::living);
    Ok(living.map(Resolved).collect())
}

/// A finding that was resolved when something was seen of it.
#[derive(Clone, Debug)]
pub(super) struct Resolved(Living);

/// Those that are back say so.
pub(super) async fn tell_relapses(
    connection: &mut Connection,
    resolved: &[Resolved],
) -> Result<(), StoreError> {
    for Resolved(it) in resolved {
        let fixed = fixed(connection, it).await?;
        let slots = slots(connection, it).await?;
        if let Some(relapse) = life::relapse(&slots, it.life.since_ms, fixed) {
            let step = life::came_back(&relapse, it.life.last_seen_ms);
            change(connection, it.id, State::Resolved, &step).await?;
        }
    }
    Ok(())
}

/// Which versions' requests can show that it is not fixed.
async fn fixed(connection: &mut Connection, it: &Living) -> Result<Fixed, StoreError> {
    let Some(version) = &it.life.resolved_in else {
        return Ok(Fixed::Everywhere);
    };
    let (seen_ms, told_ms): (Option<i64>, Option<i64>) = sqlx::query_as(
        "select (select (extract(epoch from min(first_seen)) * 1000)::bigint
                 from culprit.versions where service_id = $1 and version = $2),
                (select (extract(epoch from min(at)) * 1000)::bigint
                 from culprit.deployments where service_id = $1 and version = $2)",
    )
    .bind(it.service_id)
    .bind(version)
    .fetch_one(connection)
    .await?;
    Ok(match (seen_ms, told_ms) {
        (Some(seen_ms), _) => Fixed::SinceVersion(seen_ms),
        (None, Some(told_ms)) => Fixed::SinceTime(told_ms),
        (None, None) => Fixed::NotYet,
    })
}

#[derive(sqlx::FromRow)]
struct SlotRow {
    minute: i32,
    version: String,
    version_seen_ms: i64,
    traces: i64,
    starts: Value,
}

/// What was counted of it since it was resolved.
async fn slots(connection: &mut Connection, it: &Living) -> Result<Vec<Slot>, StoreError> {
    let rows: Vec<SlotRow> = sqlx::query_as(
        "select h.minute, coalesce(v.version, '') as version,
                coalesce((extract(epoch from v.first_seen) * 1000)::bigint, 0) as version_seen_ms,
                sum(h.traces)::bigint as traces,
                jsonb_agg(jsonb_path_query_array(h.examples, '$[*].start_ns')) as starts
         from culprit.finding_hits h left join culprit.versions v on v.id = h.version_id
         where h.finding_id = $1 and h.minute + h.width > $2 and h.minute < $3
           and h.day >= date '1970-01-01' + ($4 - 1)
         group by h.minute, v.version, v.first_seen",
    )
    .bind(it.id)
    .bind(minute_of(it.life.since_ms))
    .bind(minute_of(it.now_ms) + SKEW_MINUTES as i32)
    .bind(day_of(it.life.since_ms))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(slot).collect())
}

fn slot(row: SlotRow) -> Slot {
    let starts = row.starts.as_array().into_iter().flatten();
    let starts = starts.flat_map(|it| it.as_array().into_iter().flatten());
    Slot {
        begin_ms: i64::from(row.minute) * 60_000,
        traces: row.traces,
        starts_ms: starts.filter_map(start_ms).collect(),
        version: row.version,
        version_seen_ms: row.version_seen_ms,
    }
}

fn start_ms(start_ns: &Value) -> Option<i64> {
    i64::try_from(start_ns.as_u64()? / 1_000_000).ok()
}

/// A change that nobody asked for; not if somebody has changed the state meanwhile.
async fn change(
    connection: &mut Connection,
    id: i32,
    from: State,
    step: &Step,
) -> Result<(), StoreError> {
    let changed = sqlx::query(
        "update culprit.findings
         set state = $3, state_since = now(), reason = '', ignored_until = null, resolved_in = null,
             regressed = regressed + ($3 = 'regressed')::integer
         where id = $1 and state = $2",
    )
    .bind(id)
    .bind(from.name())
    .bind(step.to.name())
    .execute(&mut *connection)
    .await?;
    match changed.rows_affected() {
        0 => Ok(()),
        _ => note(connection, id, "", step).await,
    }
}

async fn note(
    connection: &mut Connection,
    id: i32,
    author: &str,
    step: &Step,
) -> Result<(), StoreError> {
    let entry = Entry {
        subject: "finding",
        subject_id: &id.to_string(),
        author,
        action: step.action,
        detail: &step.detail,
    };
    audit::note(connection, entry).await
}

fn minute_of(ms: i64) -> i32 {
    i32::try_from(ms.div_euclid(60_000)).unwrap_or(i32::MAX - HITS_MINUTES)
}

/// The day (UTC) since the epoch. Rows are of the day on which a trace was stored: not before it
/// began, but for clocks that are ahead.
fn day_of(ms: i64) -> i32 {
    i32::try_from(ms.div_euclid(86_400_000)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::ActKind;
    use crate::review;
    use crate::store::encoding::{self, Hits};
    use crate::store::leases::REVIEW_SHARD;
    use analyzer::sketch::Sketch;
    use serde_json::json;
    use uuid::Uuid;

    const DAY_MS: i64 = 86_400_000;
    const HOUR_MS: i64 = 3_600_000;
    const MINUTE_MS: i64 = 60_000;

    /// A shop with one endpoint, versions 1.0 and 1.1, and a finding that nobody has seen yet.
    struct Shop {
        store: Store,
        lease: Lease,
        now_ms: i64,
        part: std::cell::Cell<i64>,
    }

    impl Shop {
        async fn new() -> Shop {
            let store = crate::testing::store().await;
            for sql in [
                "insert into culprit.services (namespace, name, environment) values ('', 'shop', '')",
                "insert into culprit.endpoints (service_id, name) values (1, 'GET /posts')",
                "insert into culprit.versions (service_id, version, first_seen)
                 values (1, '1.0', now() - interval '90 days'), (1, '1.1', now() - interval '2 hours')",
                "insert into culprit.finding_keys (digest, fingerprint, detector, service_id, endpoint_id)
                 values ('\\x01', 'n-plus-one-query shop', 'n-plus-one-query', 1, 1)",
            ] {
                sqlx::query(sql).execute(store.pool()).await.unwrap();
            }
            let now_ms = sqlx::query_scalar("select (extract(epoch from now()) * 1000)::bigint")
                .fetch_one(store.pool())
                .await
                .unwrap();
            let lease = store
                .acquire_lease(REVIEW_SHARD, Uuid::now_v7(), false)
                .await
                .unwrap()
                .unwrap();
            Shop {
                store,
                lease,
                now_ms,
                part: 0.into(),
            }
        }

        fn part(&self) -> i64 {
            self.part.set(self.part.get() + 1);
            self.part.get()
        }

        /// So many affected traces of a version, which began so long ago.
        async fn hits(&self, ago_ms: i64, version: i32, traces: i64) {
            let start_ms = self.now_ms - ago_ms;
            let mut hits = Hits::default();
            hits.saved.record(1_000_000, traces);
            hits.before.record(2_000_000, traces);
            let example = json!([{
                "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
                "start_ns": start_ms as u64 * 1_000_000, "duration_ns": 2_000_000,
                "saved_ns": 1_000_000, "count": 31,
                "evidence": { "title": "31 × select authors", "confidence": 0.9, "severity": "warning" },
            }]);
            let minute = minute_of(start_ms);
            sqlx::query(
                "insert into culprit.finding_hits (day, shard, finding_id, version_id, minute, part,
                     traces, requests, saved_ns, hits, examples)
                 values ((now() at time zone 'utc')::date, 0, 1, $1, $2, $3, $4, $4, 1000000, $5, $6)",
            )
            .bind(version)
            .bind(minute - minute.rem_euclid(HITS_MINUTES))
            .bind(self.part())
            .bind(traces)
            .bind(encoding::hits_bytes(&hits))
            .bind(example)
            .execute(self.store.pool())
            .await
            .unwrap();
        }

        /// So many requests, which began so long ago.
        async fn requests(&self, ago_ms: i64, requests: i64) {
            sqlx::query(
                "insert into culprit.rollup_minutes values ((now() at time zone 'utc')::date, 0, 1, 1,
                     $1, 1, $2, $3, 0, 1000, '{}', '{}', $4)",
            )
            .bind(minute_of(self.now_ms - ago_ms))
            .bind(self.part())
            .bind(requests)
            .bind(encoding::sketch_bytes(&Sketch::default()))
            .execute(self.store.pool())
            .await
            .unwrap();
        }

        async fn run(&self, sql: &'static str) {
            sqlx::query(sql).execute(self.store.pool()).await.unwrap();
        }

        async fn look(&self) {
            review::look(&self.store, &self.lease).await.unwrap();
        }

        async fn age(&self) {
            let next = self.store.age_findings(&self.lease, DAY_MS, 0).await;
            assert_eq!(next.unwrap(), 0);
        }

        async fn act(&self, kind: ActKind, change: impl FnOnce(&mut Act)) -> Acted {
            let mut act = Act {
                kind,
                author: "ann".into(),
                reason: "because".into(),
                until_ms: None,
                version: None,
            };
            change(&mut act);
            self.store.act(1, &act).await.unwrap()
        }

        async fn life(&self) -> Life {
            self.store.life(1).await.unwrap().unwrap()
        }

        async fn state(&self) -> &'static str {
            self.life().await.state.name()
        }

        /// `author action detail`, latest first.
        async fn history(&self) -> Vec<String> {
            let history = self.store.history("finding", "1").await.unwrap();
            let line = |it: audit::Done| format!("{} {} {}", it.author, it.action, it.detail);
            history
                .into_iter()
                .map(|it| line(it).trim().to_owned())
                .collect()
        }

        async fn regressed(&self) -> i32 {
            sqlx::query_scalar("select regressed from culprit.findings where id = 1")
                .fetch_one(self.store.pool())
                .await
                .unwrap()
        }
    }

    /// Seen in every tenth request until 26 hours ago.
    async fn absent() -> Shop {
        let shop = Shop::new().await;
        for hours in 26..30 {
            shop.requests(hours * HOUR_MS, 100).await;
            shop.hits(hours * HOUR_MS, 1, 10).await;
        }
        shop.look().await;
        shop.run("update culprit.findings set first_seen = now() - interval '30 days'")
            .await;
        shop
    }

    #[tokio::test]
    async fn last_seen_is_when_the_latest_request_began() {
        let shop = Shop::new().await;
        shop.hits(3 * HOUR_MS, 1, 3).await;
        shop.look().await;
        let life = shop.life().await;
        assert_eq!(life.state, State::New);
        assert_eq!(life.last_seen_ms, shop.now_ms - 3 * HOUR_MS);
        assert_eq!(life.first_seen_ms, life.last_seen_ms);
        shop.hits(5 * HOUR_MS, 1, 2).await;
        shop.look().await;
        assert_eq!(
            shop.life().await.last_seen_ms,
            shop.now_ms - 3 * HOUR_MS,
            "late spans of earlier requests"
        );
        shop.hits(HOUR_MS, 1, 1).await;
        shop.hits(HOUR_MS / 2, 1, 1).await;
        shop.hits(HOUR_MS / 2, 1, -1).await;
        shop.look().await;
        assert_eq!(
            shop.life().await.last_seen_ms,
            shop.now_ms - HOUR_MS,
            "late spans took the last one away"
        );
    }

    #[tokio::test]
    async fn what_is_not_seen_in_enough_traffic_resolves_itself() {
        let shop = absent().await;
        shop.requests(HOUR_MS, 150).await;
        shop.age().await;
        assert_eq!(shop.state().await, "open", "15 were to be expected");
        shop.requests(HOUR_MS, 12_250).await;
        shop.age().await;
        assert_eq!(shop.state().await, "resolved");
        assert_eq!(
            shop.history().await,
            [
                "resolved by itself after 26 h without it in 12,400 requests",
                "opened a day after it was first seen"
            ]
        );
        shop.age().await;
        assert_eq!(shop.history().await.len(), 2, "once");
    }

    #[tokio::test]
    async fn an_endpoint_without_traffic_proves_nothing() {
        let shop = absent().await;
        shop.age().await;
        shop.requests(29 * HOUR_MS, 90_000).await;
        shop.age().await;
        assert_eq!(shop.state().await, "open");
        // What was counted before is gone: the share is unknown.
        shop.run("delete from culprit.finding_hits").await;
        shop.requests(HOUR_MS, 99).await;
        shop.age().await;
        assert_eq!(shop.state().await, "open");
        shop.requests(HOUR_MS, 1).await;
        shop.age().await;
        assert_eq!(shop.state().await, "resolved");
    }

    #[tokio::test]
    async fn acknowledged_ones_resolve_and_ignored_ones_do_not() {
        let shop = absent().await;
        shop.requests(HOUR_MS, 10_000).await;
        shop.act(ActKind::Ignore, |_| ()).await;
        shop.age().await;
        assert_eq!(shop.state().await, "ignored");
        shop.act(ActKind::Reopen, |_| ()).await;
        shop.age().await;
        assert_eq!(shop.state().await, "open", "who reopens it knows better");
        shop.run("update culprit.audit set at = at - interval '25 hours'")
            .await;
        shop.act(ActKind::Acknowledge, |_| ()).await;
        shop.age().await;
        assert_eq!(shop.state().await, "resolved");
    }

    /// Resolved by itself two hours ago, 26 hours after it was last seen.
    async fn resolved() -> Shop {
        let shop = absent().await;
        shop.requests(HOUR_MS, 10_000).await;
        shop.age().await;
        shop.run("update culprit.findings set state_since = now() - interval '2 hours'")
            .await;
        assert_eq!(shop.state().await, "resolved");
        shop
    }

    #[tokio::test]
    async fn what_comes_back_says_so_once() {
        let shop = resolved().await;
        shop.hits(5 * MINUTE_MS, 2, 1).await;
        shop.look().await;
        assert_eq!(shop.state().await, "regressed");
        assert_eq!(
            shop.history().await[0],
            "regressed after 25 h, in version 1.1"
        );
        assert_eq!(shop.regressed().await, 1);
        shop.hits(4 * MINUTE_MS, 2, 1).await;
        shop.look().await;
        shop.age().await;
        assert_eq!(
            (shop.regressed().await, shop.state().await),
            (1, "regressed")
        );
        shop.run("update culprit.findings set state_since = now() - interval '25 hours'")
            .await;
        shop.age().await;
        assert_eq!(shop.state().await, "open");
        assert_eq!(shop.history().await[0], "opened a day after it came back");
    }

    #[tokio::test]
    async fn late_spans_of_earlier_requests_are_no_relapse() {
        let shop = resolved().await;
        shop.hits(3 * HOUR_MS, 1, 5).await;
        // Within the ten minutes in which it was resolved, and before that.
        shop.hits(2 * HOUR_MS + 1_000, 1, 5).await;
        shop.look().await;
        assert_eq!(shop.state().await, "resolved");
        // The same ten minutes, or the next: after it.
        shop.hits(2 * HOUR_MS - 1_000, 1, 1).await;
        shop.look().await;
        assert_eq!(shop.state().await, "regressed");
    }

    #[tokio::test]
    async fn old_pods_are_no_relapse_of_what_a_version_fixes() {
        let shop = absent().await;
        let acted = shop
            .act(ActKind::Resolve, |it| it.version = Some("1.1".into()))
            .await;
        let Acted::Done(life) = acted else {
            panic!("{acted:?}")
        };
        assert_eq!(life.resolved_in.as_deref(), Some("1.1"));
        shop.run("update culprit.findings set state_since = now() - interval '1 hour'")
            .await;
        shop.hits(5 * MINUTE_MS, 1, 5).await;
        shop.look().await;
        assert_eq!(shop.state().await, "resolved", "1.0 still runs");
        shop.hits(4 * MINUTE_MS, 2, 1).await;
        shop.look().await;
        assert_eq!(shop.state().await, "regressed");
        assert!(
            shop.history().await[0].ends_with("in version 1.1"),
            "{:?}",
            shop.history().await
        );
    }

    #[tokio::test]
    async fn a_version_that_was_never_seen_has_no_relapse_until_it_is_told() {
        let shop = absent().await;
        shop.act(ActKind::Resolve, |it| {
            it.version = Some("2026-11-21".into())
        })
        .await;
        shop.run("update culprit.findings set state_since = now() - interval '1 hour'")
            .await;
        shop.hits(5 * MINUTE_MS, 2, 1).await;
        shop.look().await;
        assert_eq!(shop.state().await, "resolved");
        // For services that do not say their version.
        shop.run(
            "insert into culprit.deployments (service_id, version, at, source)
             values (1, '2026-11-21', now() - interval '10 minutes', 'told')",
        )
        .await;
        shop.hits(4 * MINUTE_MS, 2, 1).await;
        shop.look().await;
        assert_eq!(shop.state().await, "regressed");
    }

    #[tokio::test]
    async fn ignored_ones_never_regress_and_open_when_their_time_has_come() {
        let shop = absent().await;
        let until_ms = shop.now_ms + HOUR_MS;
        shop.act(ActKind::Ignore, |it| it.until_ms = Some(until_ms))
            .await;
        shop.hits(MINUTE_MS, 2, 5).await;
        shop.look().await;
        shop.age().await;
        assert_eq!((shop.state().await, shop.regressed().await), ("ignored", 0));
        shop.run("update culprit.findings set ignored_until = now()")
            .await;
        shop.age().await;
        let life = shop.life().await;
        assert_eq!(
            (life.state, life.ignored_until_ms, life.reason.as_str()),
            (State::Open, None, "")
        );
        assert_eq!(
            shop.history().await,
            [
                "opened again: it was ignored until now",
                "ann ignored for 60 min: because"
            ]
        );
    }

    #[tokio::test]
    async fn the_same_act_twice_is_one() {
        let shop = absent().await;
        for _ in 0..2 {
            shop.act(ActKind::Acknowledge, |_| ()).await;
        }
        let again = shop.act(ActKind::Acknowledge, |_| ()).await;
        assert!(matches!(again, Acted::Same(_)), "{again:?}");
        assert_eq!(shop.history().await, ["ann acknowledged because"]);
        let refused = shop.act(ActKind::Resolve, |it| it.author.clear()).await;
        assert!(matches!(refused, Acted::Done(_)), "{refused:?}");
        assert_eq!(shop.history().await[0], "somebody resolved because");
        let refused = shop.act(ActKind::Ignore, |_| ()).await;
        assert_eq!(
            refused,
            Acted::Refused("It is resolved: reopen it first.".into())
        );
        let act = Act {
            kind: ActKind::Reopen,
            author: String::new(),
            reason: String::new(),
            until_ms: None,
            version: None,
        };
        assert_eq!(shop.store.act(99, &act).await.unwrap(), Acted::Missing);
    }

    #[tokio::test]
    async fn of_two_reviews_one_writes() {
        let shop = resolved().await;
        let taken = shop
            .store
            .acquire_lease(REVIEW_SHARD, Uuid::now_v7(), true)
            .await
            .unwrap()
            .unwrap();
        shop.hits(5 * MINUTE_MS, 2, 1).await;
        let (one, other) = tokio::join!(
            review::look(&shop.store, &shop.lease),
            review::look(&shop.store, &taken),
        );
        assert!(
            matches!(one, Err(StoreError::LeaseLost(REVIEW_SHARD))),
            "{one:?}"
        );
        other.unwrap();
        assert_eq!(shop.regressed().await, 1);
        shop.run("update culprit.findings set state_since = now() - interval '25 hours'")
            .await;
        let late = shop.store.age_findings(&shop.lease, DAY_MS, 0).await;
        assert!(matches!(late, Err(StoreError::LeaseLost(_))), "{late:?}");
        assert_eq!(shop.state().await, "regressed");
        shop.store.age_findings(&taken, DAY_MS, 0).await.unwrap();
        assert_eq!(shop.state().await, "open");
    }

    /// A state that was changed by hand after the review has read it stays.
    #[tokio::test]
    async fn people_go_over_the_review() {
        let shop = absent().await;
        let step = Step {
            to: State::Resolved,
            action: "resolved",
            detail: String::new(),
        };
        shop.act(ActKind::Acknowledge, |_| ()).await;
        let mut transaction = shop.store.pool().begin().await.unwrap();
        change(&mut transaction, 1, State::New, &step)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(shop.state().await, "acknowledged");
        assert_eq!(shop.history().await.len(), 1);
    }
}
