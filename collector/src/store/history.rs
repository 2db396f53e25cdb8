//! What was said and done goes, too: rows that nobody asks for after some time.

use super::{Store, StoreError};

/// What is over, and after how many days it is forgotten. Messages and their attempts are looked at for weeks; what
/// happened to an endpoint, for a year and to the same season again. What lasts (open regressions, firing incidents,
/// waiting messages) is never touched.
const FORGOTTEN: [(&str, i32); 8] = [
    ("delete from culprit.deliveries where at < now() - make_interval(days => $1)", 30),
    (
        "delete from culprit.outbox
         where coalesce(delivered_at, dead_at) < now() - make_interval(days => $1)",
        30,
    ),
    (
        "delete from culprit.deployment_looks l using culprit.deployments d
         where d.id = l.deployment_id and d.at < now() - make_interval(days => $1)",
        3,
    ),
    (
        "delete from culprit.incidents
         where state = 'resolved' and resolved_at < now() - make_interval(days => $1)",
        400,
    ),
    ("delete from culprit.silences where ends_at < now() - make_interval(days => $1)", 400),
    (
        "delete from culprit.regressions
         where state <> 'open' and coalesce(resolved_at, detected_at) < now() - make_interval(days => $1)",
        400,
    ),
    ("delete from culprit.deployments where at < now() - make_interval(days => $1)", 400),
    ("delete from culprit.audit where at < now() - make_interval(days => $1)", 400),
];

impl Store {
    /// Forgets what has been over for long. Returns how many rows.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn forget_history(&self) -> Result<u64, StoreError> {
        let mut rows = 0;
        for (delete, days) in FORGOTTEN {
            let gone = sqlx::query(delete).bind(days).execute(self.pool()).await?;
            rows += gone.rows_affected();
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn what_is_over_is_forgotten_and_what_lasts_is_not() {
        let store = crate::testing::store().await;
        sqlx::raw_sql(
            "insert into culprit.deployments (service_id, version, at, source)
                 select 1, v, now() - make_interval(days => v), 'seen' from generate_series(1, 401, 100) v;
             insert into culprit.deployment_looks select id, 1, 1 from culprit.deployments;
             insert into culprit.deliveries (message_id, attempt, channel, at, took_ms, outcome)
                 select gen_random_uuid(), 1, 'x', now() - make_interval(days => v), 1, 'failed'
                 from generate_series(1, 61, 20) v;
             insert into culprit.outbox (id, channel, body, delivered_at)
                 values (gen_random_uuid(), 'x', '{}', null),
                        (gen_random_uuid(), 'x', '{}', now() - interval '31 days'),
                        (gen_random_uuid(), 'x', '{}', now());
             insert into culprit.audit (at, subject, subject_id, action)
                 values (now() - interval '2 years', 'rule', 'x', 'changed'), (now(), 'rule', 'x', 'changed');
             insert into culprit.regressions (id, endpoint_id, kind, state, severity, title, began_at, detected_at,
                     resolved_at, base_from, base_to, numbers)
                 select gen_random_uuid(), v, 'sudden', case v when 1 then 'open' else 'resolved' end, 1, '',
                        t, t, case v when 1 then null else t end, t, t, '{}'
                 from generate_series(1, 2) v, (select now() - interval '2 years' as t) t",
        )
        .execute(store.pool())
        .await
        .unwrap();
        // One deployment, its look and those of 101 to 301 days, two attempts, a message, a note, a regression.
        assert_eq!(store.forget_history().await.unwrap(), 1 + 4 + 2 + 1 + 1 + 1);
        assert_eq!(store.forget_history().await.unwrap(), 0);
        let left: i64 =
            sqlx::query_scalar("select count(*) from culprit.regressions where state = 'open'")
                .fetch_one(store.pool())
                .await
                .unwrap();
        assert_eq!(left, 1);
    }
}
