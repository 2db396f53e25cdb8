//! The lives of findings. Only the review writes here; ticks append to `finding_hits`.

use serde_json::Value;
use sqlx::Executor;
use std::collections::BTreeMap;

use super::leases::{Lease, renew};
use super::pool::Connection;
use super::{Store, StoreError, encoding, lives};
use crate::store::encoding::Hits;

/// What the ticks of yesterday and today say of one finding.
#[derive(Clone, Debug)]
pub struct RecentHits {
    /// finding_keys.id
    pub finding_id: i32,
    /// Distinct traces affected.
    pub traces: i64,
    /// The distributions over all affected requests.
    pub hits: Hits,
    /// The version of the earliest hit.
    pub first_version_id: i32,
    /// The worst example, as stored by the ticks.
    pub example: Value,
    /// When the latest of these requests began, as far as that is known, ms since the epoch.
    pub last_seen_ms: i64,
}

/// A finding as the review judges it now.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What the ticks say.
    pub recent: RecentHits,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
}

/// A finding and what it cost in all that is stored.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Ranked {
    /// One sentence.
    pub title: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// The service.
    pub service: String,
    /// The endpoint.
    pub endpoint: String,
    /// What a fix would have saved, ns.
    pub saved_ns: i64,
    /// Requests affected.
    pub affected: i64,
    /// Requests of the endpoint.
    pub requests: i64,
}

impl Ranked {
    /// The severity in words.
    pub fn severity_name(&self) -> &'static str {
        ["info", "warning", "critical"]
            .get(self.severity as usize)
            .unwrap_or(&"info")
    }
}

impl Store {
    /// All findings by what fixing them would have saved, most first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn ranked_findings(&self) -> Result<Vec<Ranked>, StoreError> {
        let ranked = sqlx::query_as(
            "select f.title, f.severity, s.name as service, e.name as endpoint,
                    h.saved_ns, h.affected, coalesce(r.requests, 0) as requests
             from culprit.findings f
             join culprit.services s on s.id = f.service_id
             join culprit.endpoints e on e.id = f.endpoint_id
             join (select finding_id, sum(saved_ns)::bigint as saved_ns, sum(requests)::bigint as affected
                   from culprit.finding_hits group by finding_id) h on h.finding_id = f.id
             left join (select endpoint_id, sum(requests)::bigint as requests
                        from culprit.rollup_minutes group by endpoint_id) r
                    on r.endpoint_id = f.endpoint_id
             order by h.saved_ns desc, f.id",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(ranked)
    }

    /// The review has seen everything that the ticks of yesterday and today wrote.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn is_reviewed(&self) -> Result<bool, StoreError> {
        Ok(self.recent_hits().await?.is_empty())
    }

    /// What the ticks say of those findings of which there is more than the review knows: how many
    /// traces yesterday and today, and the distributions and the worst example of each finding's
    /// latest hour.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a row is damaged.
    pub async fn recent_hits(&self) -> Result<Vec<RecentHits>, StoreError> {
        let rows: Vec<RecentRow> = sqlx::query_as(
            "with grown as (
                 select h.finding_id, sum(h.traces)::bigint as traces, max(h.minute) as latest,
                        (array_agg(h.version_id order by h.minute))[1] as version_id
                 from culprit.finding_hits h
                 left join culprit.findings f on f.id = h.finding_id
                 where h.day >= (now() at time zone 'utc')::date - 1
                   -- A sender's clock that is days ahead must not decide what is latest.
                   and h.minute < extract(epoch from now()) / 60 + 10
                 group by h.finding_id, f.traces
                 having sum(h.traces) <> coalesce(f.traces, 0))
             select h.finding_id, grown.traces, grown.version_id, h.hits,
                    coalesce(h.examples -> 0, 'null') as worst, h.minute, h.traces as slot_traces,
                    jsonb_path_query_array(h.examples, '$[*].start_ns') as starts
             from culprit.finding_hits h join grown using (finding_id)
             where h.day >= (now() at time zone 'utc')::date - 1 and h.minute > grown.latest - 60
             order by h.finding_id, h.minute",
        )
        .fetch_all(self.pool())
        .await?;
        let mut recent: Vec<RecentHits> = Vec::new();
        for of_one in rows.chunk_by(|one, next| one.finding_id == next.finding_id) {
            let mut it = RecentHits {
                finding_id: of_one[0].finding_id,
                traces: of_one[0].traces,
                hits: Hits::default(),
                first_version_id: of_one[0].version_id,
                example: Value::Null,
                last_seen_ms: last_seen_ms(of_one),
            };
            for row in of_one {
                it.hits.merge(&encoding::hits(&row.hits)?, 1);
                if row.worst["saved_ns"].as_u64() >= it.example["saved_ns"].as_u64() {
                    it.example = row.worst.clone();
                }
            }
            recent.push(it);
        }
        Ok(recent)
    }

    /// Writes what the review found: findings come into being or are brought up to date. Under the
    /// review's lease, so that two reviews cannot do it at once. Of those in `gone` late spans have
    /// taken every recent hit away.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if there is another review; or Postgres failed.
    pub async fn write_findings(
        &self,
        lease: &Lease,
        judged: &[Judged],
        gone: &[i32],
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        let resolved = lives::resolved(&mut transaction, judged).await?;
        for it in judged {
            upsert(&mut transaction, it).await?;
        }
        lives::tell_relapses(&mut transaction, &resolved).await?;
        sqlx::query("update culprit.findings set traces = 0 where id = any($1)")
            .bind(gone)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn upsert(connection: &mut Connection, judged: &Judged) -> Result<(), StoreError> {
    let recent = &judged.recent;
    let evidence = &recent.example["evidence"];
    sqlx::query(
        "insert into culprit.findings
            (id, state, detector, service_id, endpoint_id, version_id, severity, confidence, title,
             first_seen, last_seen, traces, evidence)
         select k.id, 'new', k.detector, k.service_id, k.endpoint_id, $2, $3, $4, $5,
             least(now(), to_timestamp($8 / 1000.0)), least(now(), to_timestamp($8 / 1000.0)), $6, $7
         from culprit.finding_keys k where k.id = $1
         on conflict (id) do update set
             severity = excluded.severity, confidence = excluded.confidence, title = excluded.title,
             last_seen = greatest(findings.last_seen, excluded.last_seen),
             traces = excluded.traces, evidence = excluded.evidence",
    )
    .bind(recent.finding_id)
    .bind(recent.first_version_id)
    .bind(judged.severity)
    .bind(evidence["confidence"].as_f64().unwrap_or_default() as f32)
    .bind(evidence["title"].as_str().unwrap_or_default())
    .bind(recent.traces)
    .bind(evidence)
    .bind(recent.last_seen_ms as f64)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a few ticks counted of a finding within ten minutes or an hour.
#[derive(Debug, sqlx::FromRow)]
struct RecentRow {
    finding_id: i32,
    /// Of yesterday and today.
    traces: i64,
    version_id: i32,
    hits: Vec<u8>,
    /// The worst example.
    worst: Value,
    minute: i32,
    /// Of this row.
    slot_traces: i64,
    /// When the examples began, ns since the epoch.
    starts: Value,
}

/// When the latest request began: of the last minutes in which late spans have left any, the latest
/// example, or their beginning.
fn last_seen_ms(rows: &[RecentRow]) -> i64 {
    let mut slots: BTreeMap<i32, i64> = BTreeMap::new();
    for row in rows {
        *slots.entry(row.minute).or_default() += row.slot_traces;
    }
    let last = slots.iter().rfind(|it| *it.1 > 0).map(|it| *it.0);
    let Some(minute) = last.or_else(|| slots.keys().next_back().copied()) else {
        return 0;
    };
    let starts = rows.iter().filter(|it| it.minute == minute);
    let starts = starts.flat_map(|it| it.starts.as_array().into_iter().flatten());
    let latest_ns = starts.filter_map(Value::as_u64).max().unwrap_or_default();
    i64::try_from(latest_ns / 1_000_000)
        .unwrap_or(i64::MAX)
        .max(i64::from(minute) * 60_000)
}
