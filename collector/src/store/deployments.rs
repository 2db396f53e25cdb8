//! Which versions answered when, and the deployments that follow from it or were told.

use sqlx::postgres::PgRow;
use sqlx::{Executor, FromRow, Row};

use super::audit::{self, Entry};
use super::leases::{Lease, renew};
use super::pool::Connection;
use super::services::ServiceName;
use super::{Store, StoreError};

/// Requests of one version in some minutes.
#[derive(Clone, PartialEq, Debug, FromRow)]
pub struct VersionMinutes {
    /// services.id
    pub service_id: i32,
    /// Empty for senders that set none.
    pub version: String,
    /// The first of `width`, since the epoch.
    pub minute: i32,
    /// 1, or 60 where minutes are merged.
    pub width: i32,
    /// Weighted; more than none.
    pub requests: i64,
}

/// A deployment, as far as it matters to others of its service.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct Known {
    /// What was deployed.
    pub version: String,
    /// When, ms since the epoch.
    pub at_ms: i64,
    /// `seen` or `told`.
    pub source: String,
}

/// A deployment that was seen in spans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// services.id
    pub service_id: i32,
    /// What answers now.
    pub version: String,
    /// What answered before.
    pub previous: String,
    /// Of the first request, since the epoch.
    pub minute: i32,
}

/// A deployment that somebody tells of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// services.id
    pub service_id: i32,
    /// What was deployed.
    pub version: String,
    /// When, ms since the epoch.
    pub at_ms: i64,
    /// For people; may be empty.
    pub description: String,
    /// Of the change or the pipeline; may be empty.
    pub url: String,
    /// Who says so; may be empty.
    pub author: String,
}

/// A deployment, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Deployment {
    /// deployments.id
    pub id: i32,
    /// Whose.
    pub service: ServiceName,
    /// Empty for senders that set none.
    pub version: String,
    /// What most requests were of before; empty if unknown.
    pub previous: String,
    /// The first request of it, or what was told, ms since the epoch.
    pub at_ms: i64,
    /// When the service's next one came, ms since the epoch.
    pub next_at_ms: Option<i64>,
    /// `seen` or `told`.
    pub source: String,
    /// For people; may be empty.
    pub description: String,
    /// Of the change or the pipeline; may be empty.
    pub url: String,
}

impl Deployment {
    /// Its version stands in spans, so that its requests can be told from others'.
    pub fn is_seen(&self) -> bool {
        self.source == "seen"
    }
}

/// Which deployments. The newest come first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeploymentFilter<'a> {
    /// A service's name; empty: all.
    pub service: &'a str,
    /// An environment; empty: all.
    pub environment: &'a str,
    /// Only this service's.
    pub service_id: Option<i32>,
    /// From then on, ms since the epoch.
    pub from_ms: i64,
    /// Before then, ms since the epoch.
    pub to_ms: i64,
    /// At most so many.
    pub limit: i64,
}

/// What became of an attempt to take a deployment away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// There is none of this id.
    Unknown,
    /// It was seen in spans: that cannot be taken back.
    Seen,
}

/// A version that a service answered with.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct ServiceVersion {
    /// services.id
    pub service_id: i32,
    /// Empty for senders that set none.
    pub version: String,
    /// When its first request was counted, ms since the epoch.
    pub first_seen_ms: i64,
}

/// Deployments kept of a service, the newest: at the pace at which they are noticed at most, a few weeks; at the
/// pace of people, years. Older ones go when another is noted.
const KEPT_MAX: i64 = 5_000;

/// A service's latest deployments that a new one is compared with.
const KNOWN_MAX: i64 = 200;

/// A version is told and seen within so many minutes: one deployment.
const SAME_MINUTES: f64 = 30.0;

/// Versions told of a service at most, the newest.
const VERSIONS_MAX: i64 = 20;

const DEPLOYMENT: &str = "select d.id, d.version, d.previous, d.source, d.description, d.url,
        (extract(epoch from d.at) * 1000)::bigint as at_ms,
        (select (extract(epoch from min(n.at)) * 1000)::bigint from culprit.deployments n
         where n.service_id = d.service_id and n.at > d.at) as next_at_ms,
        s.id as service_id, s.namespace, s.name, s.environment
    from culprit.deployments d join culprit.services s on s.id = d.service_id";

impl Store {
    /// Which versions of all services answered requests in the minutes from `from` to before `to`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn version_minutes(
        &self,
        from: i32,
        to: i32,
    ) -> Result<Vec<VersionMinutes>, StoreError> {
        let minutes = sqlx::query_as(
            "select v.service_id, v.version, r.minute, 1 as width, r.requests
             from (select version_id, minute, sum(requests)::bigint as requests
                   from culprit.rollup_minutes
                   where minute >= $1 and minute < $2 and width = 1
                   group by version_id, minute having sum(requests) > 0) r
             join culprit.versions v on v.id = r.version_id
             order by v.service_id, v.version, r.minute",
        )
        .bind(from)
        .bind(to)
        .fetch_all(self.pool())
        .await?;
        Ok(minutes)
    }

    /// The same of one service; minutes that are merged stand as their hours, if these reach into the time.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn service_version_minutes(
        &self,
        service_id: i32,
        from: i32,
        to: i32,
    ) -> Result<Vec<VersionMinutes>, StoreError> {
        let minutes = sqlx::query_as(
            "select $1 as service_id, v.version, r.minute, r.width, r.requests
             from (select version_id, minute, width::integer as width, sum(requests)::bigint as requests
                   from culprit.rollup_minutes
                   where endpoint_id in (select id from culprit.endpoints where service_id = $1)
                     and minute < $3 and minute >= $2 - 59 and minute + width > $2
                   group by version_id, minute, width having sum(requests) > 0) r
             join culprit.versions v on v.id = r.version_id
             order by v.version, r.minute",
        )
        .bind(service_id)
        .bind(from)
        .bind(to)
        .fetch_all(self.pool())
        .await?;
        Ok(minutes)
    }

    /// A service's latest deployments.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn known_deployments(&self, service_id: i32) -> Result<Vec<Known>, StoreError> {
        let known = sqlx::query_as(
            "select version, (extract(epoch from at) * 1000)::bigint as at_ms, source
             from culprit.deployments where service_id = $1 order by at desc, id desc limit $2",
        )
        .bind(service_id)
        .bind(KNOWN_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(known)
    }

    /// Notes what was seen, under the review's lease; returns the ids of those that were not noted yet.
    /// Idempotent, all or nothing, returns after commit.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if there is another review; or Postgres failed.
    pub async fn note_deployments(
        &self,
        lease: &Lease,
        seen: &[Seen],
    ) -> Result<Vec<i32>, StoreError> {
        let mut transaction = self.pool().begin().await?;
        transaction
            .execute("set local idle_in_transaction_session_timeout = '5s'")
            .await?;
        renew(&mut transaction, lease).await?;
        let mut noted = Vec::new();
        for it in seen {
            let id: Option<i32> = sqlx::query_scalar(
                "insert into culprit.deployments (service_id, version, previous, at, source)
                 values ($1, $2, $3, to_timestamp($4::bigint * 60), 'seen')
                 on conflict do nothing returning id",
            )
            .bind(it.service_id)
            .bind(&it.version)
            .bind(&it.previous)
            .bind(i64::from(it.minute))
            .fetch_optional(&mut *transaction)
            .await?;
            noted.extend(id);
            forget_old(&mut transaction, it.service_id).await?;
        }
        transaction.commit().await?;
        Ok(noted)
    }

    /// Notes what was told, and who did. The same version of half an hour before or after, however it
    /// became known, is this one: it gets the description and the address. Returns the id, and
    /// whether it is new.
    ///
    /// # Errors
    /// Postgres failed; nothing is noted.
    pub async fn tell_deployment(&self, told: &Told) -> Result<(i32, bool), StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        // Two that tell the same at once are one: they go one after the other.
        sqlx::query("select from culprit.services where id = $1 for update")
            .bind(told.service_id)
            .execute(&mut *transaction)
            .await?;
        let same: Option<i32> = sqlx::query_scalar(
            "update culprit.deployments set
                 description = case when $4 = '' then description else $4 end,
                 url = case when $5 = '' then url else $5 end
             where id = (
                 select d.id from culprit.deployments d
                 where d.service_id = $1 and d.version = $2
                   and abs(extract(epoch from d.at) - $3 / 1000.0) <= $6 * 60
                   and not exists (
                       select from culprit.deployments o
                       where o.service_id = $1 and o.version <> $2
                         and o.at > least(d.at, to_timestamp($3 / 1000.0))
                         and o.at < greatest(d.at, to_timestamp($3 / 1000.0)))
                 order by abs(extract(epoch from d.at) - $3 / 1000.0) limit 1)
             returning id",
        )
        .bind(told.service_id)
        .bind(&told.version)
        .bind(told.at_ms as f64)
        .bind(&told.description)
        .bind(&told.url)
        .bind(SAME_MINUTES)
        .fetch_optional(&mut *transaction)
        .await?;
        let id = match same {
            Some(id) => id,
            None => insert_told(&mut transaction, told).await?,
        };
        forget_old(&mut transaction, told.service_id).await?;
        note(&mut transaction, id, &told.author, "told", &told.version).await?;
        transaction.commit().await?;
        Ok((id, same.is_none()))
    }

    /// Takes a deployment away that was told, and notes who did.
    ///
    /// # Errors
    /// Postgres failed; nothing has changed.
    pub async fn remove_deployment(&self, id: i32, author: &str) -> Result<Removed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let found: Option<(String, String)> = sqlx::query_as(
            "select source, version from culprit.deployments where id = $1 for update",
        )
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((source, version)) = found else {
            return Ok(Removed::Unknown);
        };
        if source != "told" {
            return Ok(Removed::Seen);
        }
        sqlx::query("delete from culprit.deployments where id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        note(&mut transaction, id, author, "removed", &version).await?;
        transaction.commit().await?;
        Ok(Removed::Gone)
    }

    /// Deployments, the newest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn deployments(
        &self,
        filter: &DeploymentFilter<'_>,
    ) -> Result<Vec<Deployment>, StoreError> {
        let sql = format!(
            "{DEPLOYMENT} where ($1 = '' or s.name = $1) and ($2 = '' or s.environment = $2)
               and ($3::integer is null or d.service_id = $3)
               and d.at >= to_timestamp($4 / 1000.0) and d.at < to_timestamp($5 / 1000.0)
             order by d.at desc, d.id desc limit $6"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.service)
            .bind(filter.environment)
            .bind(filter.service_id)
            .bind(filter.from_ms as f64)
            .bind(filter.to_ms as f64)
            .bind(filter.limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(deployment).collect()
    }

    /// One deployment.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn deployment(&self, id: i32) -> Result<Option<Deployment>, StoreError> {
        let sql = format!("{DEPLOYMENT} where d.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(deployment).transpose()
    }

    /// Services of this name, one per namespace and environment; all of them if it is empty, at most
    /// `limit`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn services_named(
        &self,
        name: &str,
        limit: i64,
    ) -> Result<Vec<ServiceName>, StoreError> {
        let services = sqlx::query_as(
            "select id, namespace, name, environment from culprit.services
             where $1 = '' or name = $1 order by name, namespace, environment limit $2",
        )
        .bind(name)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(services)
    }

    /// The service of this id.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn service(&self, id: i32) -> Result<Option<ServiceName>, StoreError> {
        let service = sqlx::query_as(
            "select id, namespace, name, environment from culprit.services where id = $1",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await?;
        Ok(service)
    }

    /// The versions of some services, the newest first, a bounded number of each.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn service_versions(
        &self,
        service_ids: &[i32],
    ) -> Result<Vec<ServiceVersion>, StoreError> {
        let versions = sqlx::query_as(
            "select v.service_id, v.version,
                    (extract(epoch from v.first_seen) * 1000)::bigint as first_seen_ms
             from unnest($1::integer[]) as s(id)
             cross join lateral (
                 select * from culprit.versions v where v.service_id = s.id
                 order by v.first_seen desc, v.id desc limit $2) v
             order by v.service_id, v.first_seen desc, v.id desc",
        )
        .bind(service_ids)
        .bind(VERSIONS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(versions)
    }
}

fn deployment(row: &PgRow) -> Result<Deployment, StoreError> {
    Ok(Deployment {
        id: row.try_get("id")?,
        service: ServiceName {
            id: row.try_get("service_id")?,
            namespace: row.try_get("namespace")?,
            name: row.try_get("name")?,
            environment: row.try_get("environment")?,
        },
        version: row.try_get("version")?,
        previous: row.try_get("previous")?,
        at_ms: row.try_get("at_ms")?,
        next_at_ms: row.try_get("next_at_ms")?,
        source: row.try_get("source")?,
        description: row.try_get("description")?,
        url: row.try_get("url")?,
    })
}

/// Inserts what was told; before it was what the deployment before it brought, or else what most
/// requests of the hour before were of.
async fn insert_told(connection: &mut Connection, told: &Told) -> Result<i32, StoreError> {
    let id = sqlx::query_scalar(
        "insert into culprit.deployments (service_id, version, previous, at, source, description, url)
         select $1, $2, coalesce(
             (select d.version from culprit.deployments d
              where d.service_id = $1 and d.version <> $2 and d.at < to_timestamp($3 / 1000.0)
              order by d.at desc, d.id desc limit 1),
             (select v.version
              from culprit.rollup_minutes r join culprit.versions v on v.id = r.version_id
              where r.endpoint_id in (select id from culprit.endpoints where service_id = $1)
                and v.version <> $2
                and r.minute < $3 / 60000 and r.minute >= $3 / 60000 - 60
              group by v.version order by sum(r.requests) desc, v.version limit 1),
             ''), to_timestamp($3 / 1000.0), 'told', $4, $5
         on conflict (service_id, version, at) do update set description = excluded.description
         returning id",
    )
    .bind(told.service_id)
    .bind(&told.version)
    .bind(told.at_ms as f64)
    .bind(&told.description)
    .bind(&told.url)
    .fetch_one(connection)
    .await?;
    Ok(id)
}

async fn forget_old(connection: &mut Connection, service_id: i32) -> Result<(), StoreError> {
    sqlx::query(
        "delete from culprit.deployments where service_id = $1 and at < (
             select at from culprit.deployments where service_id = $1
             order by at desc offset $2 limit 1)",
    )
    .bind(service_id)
    .bind(KEPT_MAX)
    .execute(connection)
    .await?;
    Ok(())
}

async fn note(
    connection: &mut Connection,
    id: i32,
    author: &str,
    action: &str,
    detail: &str,
) -> Result<(), StoreError> {
    let entry = Entry {
        subject: "deployment",
        subject_id: &id.to_string(),
        author,
        action,
        detail,
    };
    audit::note(connection, entry).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployments::notice;
    use crate::store::leases::REVIEW_SHARD;
    use uuid::Uuid;

    const NOW: i32 = 30_000_000;

    /// Two services; the first one's endpoint 1 answered with `1.0`.
    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        for sql in [
            "insert into culprit.services (namespace, name, environment)
             values ('', 'shop', 'prod'), ('', 'cart', '')",
            "insert into culprit.endpoints (service_id, name) values (1, 'GET /'), (2, 'GET /cart')",
            "insert into culprit.versions (service_id, version)
             values (1, '1.0'), (1, '1.1'), (2, '7')",
        ] {
            sqlx::query(sql).execute(store.pool()).await.unwrap();
        }
        answered(&store, 1, NOW - 200..NOW - 1).await;
        store
    }

    async fn answered(store: &Store, version: i32, minutes: std::ops::Range<i32>) {
        static PART: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1);
        let part = PART.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        sqlx::query(
            "insert into culprit.rollup_minutes
             select (now() at time zone 'utc')::date, 0, case $1 when 3 then 2 else 1 end, $1, minute, 1,
                    $4, 10, 0, 1000, '{}', '{}', ''
             from generate_series($2, $3 - 1) as minute",
        )
        .bind(version)
        .bind(minutes.start)
        .bind(minutes.end)
        .bind(part)
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn lease(store: &Store) -> Lease {
        let lease = store.acquire_lease(REVIEW_SHARD, Uuid::now_v7(), true);
        lease.await.unwrap().unwrap()
    }

    fn ms(minute: i32) -> i64 {
        i64::from(minute) * 60_000
    }

    async fn all(store: &Store) -> Vec<Deployment> {
        let filter = DeploymentFilter {
            to_ms: ms(i32::MAX),
            limit: 100,
            ..DeploymentFilter::default()
        };
        store.deployments(&filter).await.unwrap()
    }

    #[tokio::test]
    async fn a_version_that_comes_is_noted_once_also_after_restarts() {
        let store = drawn().await;
        let (first, now_ms) = (lease(&store).await, ms(NOW) + 30_000);
        assert!(notice(&store, &first, now_ms).await.unwrap().is_empty());
        answered(&store, 2, NOW - 2..NOW + 1).await;
        let noted = notice(&store, &first, now_ms).await.unwrap();
        assert_eq!(noted.len(), 1);
        assert!(notice(&store, &first, now_ms).await.unwrap().is_empty());
        let next = lease(&store).await;
        assert!(notice(&store, &next, now_ms).await.unwrap().is_empty());
        // Late requests of it move nothing.
        answered(&store, 2, NOW - 6..NOW - 5).await;
        assert!(notice(&store, &next, now_ms).await.unwrap().is_empty());
        let deployments = all(&store).await;
        let it = &deployments[0];
        assert_eq!(deployments.len(), 1);
        assert_eq!(
            (&*it.version, &*it.previous, &*it.source),
            ("1.1", "1.0", "seen")
        );
        assert_eq!((it.at_ms, &*it.service.name), (ms(NOW - 2), "shop"));
        assert_eq!(store.deployment(noted[0]).await.unwrap().as_ref(), Some(it));
    }

    #[tokio::test]
    async fn a_review_that_was_replaced_notes_nothing() {
        let store = drawn().await;
        let old = lease(&store).await;
        lease(&store).await;
        answered(&store, 2, NOW - 2..NOW).await;
        let refused = notice(&store, &old, ms(NOW)).await;
        assert!(matches!(refused, Err(StoreError::LeaseLost(REVIEW_SHARD))));
        assert_eq!(all(&store).await, []);
    }

    #[tokio::test]
    async fn late_requests_do_not_change_the_past_and_first_versions_are_none() {
        let store = drawn().await;
        let lease = lease(&store).await;
        answered(&store, 2, NOW - 40..NOW - 30).await;
        answered(&store, 3, NOW - 5..NOW).await;
        assert!(notice(&store, &lease, ms(NOW)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_rollback_is_noted_over_merged_hours_too() {
        let store = drawn().await;
        let lease = lease(&store).await;
        answered(&store, 2, NOW - 30..NOW).await;
        sqlx::query("delete from culprit.rollup_minutes where version_id = 1 and minute >= $1")
            .bind(NOW - 28)
            .execute(store.pool())
            .await
            .unwrap();
        sqlx::query(
            "update culprit.rollup_minutes set minute = minute - 60, width = 60 where minute = $1",
        )
        .bind(NOW - 200)
        .execute(store.pool())
        .await
        .unwrap();
        answered(&store, 1, NOW - 1..NOW).await;
        notice(&store, &lease, ms(NOW)).await.unwrap();
        let deployments = all(&store).await;
        assert_eq!(deployments.len(), 1);
        assert_eq!(
            (&*deployments[0].version, &*deployments[0].previous),
            ("1.0", "1.1")
        );
    }

    fn told(version: &str, minute: i32) -> Told {
        Told {
            service_id: 1,
            version: version.into(),
            at_ms: ms(minute),
            description: "Merge 7".into(),
            url: "https://ci.example/7".into(),
            author: "ci".into(),
        }
    }

    #[tokio::test]
    async fn what_is_told_and_seen_is_one() {
        let store = drawn().await;
        let lease = lease(&store).await;
        let (id, is_new) = store.tell_deployment(&told("1.1", NOW - 9)).await.unwrap();
        assert!(is_new);
        answered(&store, 2, NOW - 2..NOW).await;
        assert!(notice(&store, &lease, ms(NOW)).await.unwrap().is_empty());
        // The other way round.
        answered(&store, 2, NOW..NOW + 100).await;
        answered(&store, 1, NOW + 98..NOW + 100).await;
        let seen = notice(&store, &lease, ms(NOW + 99)).await.unwrap();
        assert_eq!(seen.len(), 1);
        let again = store
            .tell_deployment(&told("1.0", NOW + 105))
            .await
            .unwrap();
        assert_eq!(again, (seen[0], false));
        let deployments = all(&store).await;
        assert_eq!(deployments.len(), 2);
        let of = |it: &Deployment| (it.id, it.previous.clone(), it.url.clone(), it.next_at_ms);
        let url = "https://ci.example/7".to_owned();
        assert_eq!(
            of(&deployments[0]),
            (seen[0], "1.1".into(), url.clone(), None)
        );
        assert_eq!(
            of(&deployments[1]),
            (id, "1.0".into(), url, Some(ms(NOW + 98)))
        );
    }

    #[tokio::test]
    async fn only_what_was_told_can_be_taken_away_and_it_is_written_down() {
        let store = drawn().await;
        let lease = lease(&store).await;
        answered(&store, 2, NOW - 2..NOW).await;
        let seen = notice(&store, &lease, ms(NOW)).await.unwrap()[0];
        let (id, _) = store.tell_deployment(&told("2.0", NOW)).await.unwrap();
        assert_eq!(
            store.remove_deployment(seen, "").await.unwrap(),
            Removed::Seen
        );
        assert_eq!(
            store.remove_deployment(id, "me").await.unwrap(),
            Removed::Gone
        );
        assert_eq!(
            store.remove_deployment(id, "me").await.unwrap(),
            Removed::Unknown
        );
        assert_eq!(all(&store).await.len(), 1);
        let audit: Vec<(String, String)> = sqlx::query_as(
            "select author, action from culprit.audit where subject = 'deployment' order by id",
        )
        .fetch_all(store.pool())
        .await
        .unwrap();
        let entry = |author: &str, action: &str| (author.to_owned(), action.to_owned());
        assert_eq!(audit, [entry("ci", "told"), entry("me", "removed")]);
    }

    #[tokio::test]
    async fn deployments_are_found_by_service_and_time() {
        let store = drawn().await;
        store.tell_deployment(&told("2.0", NOW)).await.unwrap();
        store.tell_deployment(&told("3.0", NOW + 60)).await.unwrap();
        let found = async |service: &str, to: i32| {
            let filter = DeploymentFilter {
                service,
                from_ms: ms(NOW),
                to_ms: ms(to),
                limit: 10,
                ..DeploymentFilter::default()
            };
            let found = store.deployments(&filter).await.unwrap();
            found.into_iter().map(|it| it.version).collect::<Vec<_>>()
        };
        assert_eq!(found("", NOW + 61).await, ["3.0", "2.0"]);
        assert_eq!(found("shop", NOW + 60).await, ["2.0"]);
        assert!(found("cart", NOW + 61).await.is_empty());
        let versions = store.service_versions(&[1, 2]).await.unwrap();
        assert_eq!(versions.len(), 3);
        assert_eq!(store.services_named("shop", 5).await.unwrap().len(), 1);
        assert_eq!(store.service(2).await.unwrap().unwrap().name, "cart");
    }
}
