//! What pages ask about all services at once.

use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::{BTreeMap, BTreeSet};

use super::bottlenecks::Minutes;
use super::rollups::minute_sums;
use super::{Store, StoreError};
use crate::contribution::signed;
use crate::deltas::MinuteDelta;

/// A service as the dictionary knows it.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct ServiceName {
    /// services.id
    pub id: i32,
    /// `service.namespace`, or empty.
    pub namespace: String,
    /// `service.name`.
    pub name: String,
    /// The deployment environment, or empty.
    pub environment: String,
}

/// An endpoint that had requests in a window.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointSums {
    /// endpoints.id
    pub id: i32,
    /// Such as `GET /posts`.
    pub name: String,
    /// Its requests, added up.
    pub sums: MinuteDelta,
    /// Findings at this endpoint that are neither ignored nor resolved.
    pub findings: i64,
}

/// A service with the endpoints that had requests in a window.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceSums {
    /// Which.
    pub service: ServiceName,
    /// Versions that answered requests in the window, in the order they were first seen; a sender
    /// that sets none gives none.
    pub versions: Vec<String>,
    /// By id.
    pub endpoints: Vec<EndpointSums>,
}

/// All services with requests in a window.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Services {
    /// The first minute with requests, since the epoch; `None` if there are no requests.
    pub first_minute: Option<i32>,
    /// By name, namespace and environment.
    pub services: Vec<ServiceSums>,
}

/// What the roll-ups of a window say, by endpoint.
#[derive(Default)]
struct Gathered {
    first_minute: Option<i32>,
    endpoints: BTreeMap<i32, MinuteDelta>,
    versions: BTreeSet<i32>,
}

/// Blocks that tell the first request: those of the first ticks, of every shard.
const FIRST_BLOCKS: i64 = 32;

impl Store {
    /// When the first request from `since_ns` on started, ns since the epoch; told from the blocks that
    /// end first, so that a trace which came late may have been earlier.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn first_request_ns(&self, since_ns: u64) -> Result<Option<u64>, StoreError> {
        let first: Option<i64> = sqlx::query_scalar(
            "select min(r.start_ns) from (
                 select b.start_ns from culprit.trace_blocks b
                 where b.last_start_ns >= $1 and b.endpoints <> '{}'
                 order by b.last_start_ns limit $2) b
             cross join lateral unnest(b.start_ns) as r(start_ns) where r.start_ns >= $1",
        )
        .bind(signed(since_ns))
        .bind(FIRST_BLOCKS)
        .fetch_one(self.pool())
        .await?;
        Ok(first.and_then(|it| u64::try_from(it).ok()))
    }

    /// Every service and endpoint with requests in `minutes`, added up.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn services(&self, minutes: Minutes) -> Result<Services, StoreError> {
        let gathered = self.gather(minutes).await?;
        let mut services: BTreeMap<i32, ServiceSums> = BTreeMap::new();
        let ids: Vec<i32> = gathered.endpoints.keys().copied().collect();
        let rows = sqlx::query(
            "select e.id as endpoint_id, e.name as endpoint, s.id, s.namespace, s.name, s.environment,
                    (select count(*) from culprit.findings f
                     where f.endpoint_id = e.id and f.state not in ('ignored', 'resolved')) as findings
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where e.id = any($1) order by e.id",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        let mut endpoints = gathered.endpoints;
        for row in rows {
            let service: ServiceName = sqlx::FromRow::from_row(&row)?;
            let id = row.try_get("endpoint_id")?;
            let sums = ServiceSums {
                service,
                versions: Vec::new(),
                endpoints: Vec::new(),
            };
            let sums = services.entry(sums.service.id).or_insert(sums);
            sums.endpoints.push(EndpointSums {
                id,
                name: row.try_get("endpoint")?,
                sums: endpoints.remove(&id).unwrap_or_default(),
                findings: row.try_get("findings")?,
            });
        }
        for (service, version) in self.versions_of(&gathered.versions).await? {
            if let Some(service) = services.get_mut(&service) {
                service.versions.push(version);
            }
        }
        let mut services: Vec<ServiceSums> = services.into_values().collect();
        services.sort_by(|a, b| order(&a.service).cmp(&order(&b.service)));
        Ok(Services {
            first_minute: gathered.first_minute,
            services,
        })
    }

    async fn gather(&self, minutes: Minutes) -> Result<Gathered, StoreError> {
        let mut gathered = Gathered::default();
        // A merged row stands for an hour: it belongs to the window if it reaches into it.
        let mut rows = sqlx::query(
            "select endpoint_id, version_id, minute, requests, errors, duration_ns, categories,
                    calls, latency
             from culprit.rollup_minutes
             where minute < $2 and minute >= $1 - 59 and minute + width > $1",
        )
        .bind(minutes.from)
        .bind(minutes.to)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let minute: i32 = row.try_get("minute")?;
            let sums = gathered
                .endpoints
                .entry(row.try_get("endpoint_id")?)
                .or_default();
            sums.merge(&minute_sums(&row)?, 1);
            gathered.versions.insert(row.try_get("version_id")?);
            let first = gathered.first_minute.unwrap_or(minute).min(minute);
            gathered.first_minute = Some(first.max(minutes.from));
        }
        // What was taken out again leaves rows that add up to nothing.
        gathered.endpoints.retain(|_, it| it.requests > 0);
        Ok(gathered)
    }

    /// (service id, version), the oldest first.
    async fn versions_of(&self, ids: &BTreeSet<i32>) -> Result<Vec<(i32, String)>, StoreError> {
        let ids: Vec<i32> = ids.iter().copied().collect();
        let versions = sqlx::query_as(
            "select service_id, version from culprit.versions
             where id = any($1) and version <> '' order by first_seen, id",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        Ok(versions)
    }
}

fn order(service: &ServiceName) -> (&str, &str, &str) {
    (&service.name, &service.namespace, &service.environment)
}
