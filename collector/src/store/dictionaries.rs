//! Text once, small ids everywhere else.
//!
//! Ids are made in short transactions of their own, before the tick that needs them; sorted, so
//! that two processes which learn the same names at once cannot deadlock. Cached after the commit.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Store, StoreError};
use crate::contribution::{Contribution, Request, ServiceName};

/// Distinct endpoints a service may have. Further ones are counted as [`OTHER`]: somebody puts ids
/// into span names, and neither memory nor disk shall grow with that.
const ENDPOINTS_PER_SERVICE_MAX: usize = 1_000;

/// Distinct statements. Further ones are counted as [`OTHER`].
const STATEMENTS_MAX: usize = 50_000;

/// Distinct services and versions. Further ones are counted as [`OTHER`].
const SERVICES_MAX: usize = 5_000;

/// The name of what is beyond a cap.
pub const OTHER: &str = "(other)";

/// Longest part of a service's name kept, bytes: three of them must fit into an index row, which
/// takes 2,700.
const SERVICE_BYTES_MAX: usize = 250;

/// Longest name kept, bytes; names are cut there, at a character.
const NAME_BYTES_MAX: usize = 1_000;

/// Longest statement kept, bytes.
const STATEMENT_BYTES_MAX: usize = 8_000;

/// The ids of the names of one request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Ids {
    /// services.id
    pub service: i32,
    /// endpoints.id
    pub endpoint: i32,
    /// versions.id
    pub version: i32,
}

/// What is known of the dictionaries: one per shard owner.
#[derive(Debug, Default)]
pub struct Dictionaries {
    services: HashMap<ServiceName, i32>,
    endpoints: HashMap<(i32, String), i32>,
    endpoints_of: HashMap<i32, usize>,
    versions: HashMap<(i32, String), i32>,
    statements: HashMap<[u8; 32], i32>,
    findings: HashMap<(i32, String), i32>,
    loaded: bool,
}

impl Dictionaries {
    /// The ids of a request's names; all of them were learned before.
    pub fn ids(&self, request: &Request) -> Option<Ids> {
        let service = self.service(&request.service)?;
        let named = |names: &HashMap<(i32, String), i32>, name: &str| {
            let id = names.get(&(service, clean(name, NAME_BYTES_MAX)));
            id.or_else(|| names.get(&(service, OTHER.into()))).copied()
        };
        Some(Ids {
            service,
            endpoint: named(&self.endpoints, &request.endpoint)?,
            version: named(&self.versions, &request.version)?,
        })
    }

    /// A statement's id.
    pub fn statement(&self, system: &str, text: &str) -> Option<i32> {
        let id = self.statements.get(&statement_digest(system, text));
        id.or_else(|| self.statements.get(&statement_digest("", OTHER)))
            .copied()
    }

    /// A finding's id: by its endpoint and fingerprint, because a fingerprint names a service
    /// without its environment.
    pub fn finding(&self, endpoint: i32, fingerprint: &str) -> Option<i32> {
        self.findings
            .get(&(endpoint, fingerprint.to_owned()))
            .copied()
    }

    fn service(&self, name: &ServiceName) -> Option<i32> {
        let id = self.services.get(&clean_service(name));
        id.or_else(|| self.services.get(&other_service())).copied()
    }
}

impl Store {
    /// Makes ids for all names in `contributions` that `known` lacks.
    ///
    /// # Errors
    /// Postgres cannot be written to; then `known` holds what was committed before.
    pub async fn learn(
        &self,
        known: &mut Dictionaries,
        contributions: &[&Contribution],
    ) -> Result<(), StoreError> {
        if !known.loaded {
            self.load_counts(known).await?;
        }
        let requests: Vec<&Request> = contributions.iter().flat_map(|it| &it.requests).collect();
        self.learn_services(known, &requests).await?;
        self.learn_endpoints(known, &requests).await?;
        self.learn_versions(known, &requests).await?;
        self.learn_statements(known, &requests).await?;
        self.learn_findings(known, &requests).await
    }

    /// The caps hold over restarts: how much there is already.
    async fn load_counts(&self, known: &mut Dictionaries) -> Result<(), StoreError> {
        let counts: Vec<(i32, i64)> = sqlx::query_as(
            "select service_id, count(*) from culprit.endpoints group by service_id",
        )
        .fetch_all(self.pool())
        .await?;
        known.endpoints_of = counts.into_iter().map(|(id, n)| (id, n as usize)).collect();
        known.loaded = true;
        Ok(())
    }

    async fn learn_services(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeSet<ServiceName> = BTreeSet::new();
        for request in requests {
            let name = clean_service(&request.service);
            if !known.services.contains_key(&name) {
                let full = known.services.len() + missing.len() >= SERVICES_MAX;
                missing.insert(if full { other_service() } else { name });
            }
        }
        missing.retain(|it| !known.services.contains_key(it));
        if missing.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&ServiceName) -> &String| -> Vec<String> {
            missing.iter().map(|it| of(it).clone()).collect()
        };
        let (namespaces, names, environments) = (
            column(|it| &it.namespace),
            column(|it| &it.name),
            column(|it| &it.environment),
        );
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "insert into culprit.services (namespace, name, environment)
             select * from unnest($1::text[], $2::text[], $3::text[]) on conflict do nothing",
        )
        .bind(&namespaces)
        .bind(&names)
        .bind(&environments)
        .execute(&mut *transaction)
        .await?;
        let rows: Vec<(i32, String, String, String)> = sqlx::query_as(
            "select id, s.namespace, s.name, s.environment from culprit.services s
             join unnest($1::text[], $2::text[], $3::text[]) as n(namespace, name, environment)
               on (s.namespace, s.name, s.environment) = (n.namespace, n.name, n.environment)",
        )
        .bind(&namespaces)
        .bind(&names)
        .bind(&environments)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        for (id, namespace, name, environment) in rows {
            known.services.insert(
                ServiceName {
                    namespace,
                    name,
                    environment,
                },
                id,
            );
        }
        Ok(())
    }

    async fn learn_endpoints(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeSet<(i32, String)> = BTreeSet::new();
        for request in requests {
            let Some(service) = known.service(&request.service) else {
                continue;
            };
            let key = (service, clean(&request.endpoint, NAME_BYTES_MAX));
            if known.endpoints.contains_key(&key) || missing.contains(&key) {
                continue;
            }
            let count = known.endpoints_of.entry(service).or_default();
            if *count < ENDPOINTS_PER_SERVICE_MAX {
                *count += 1;
                missing.insert(key);
            } else {
                missing.insert(self.known_or_other(service, key).await?);
            }
        }
        missing.retain(|it| !known.endpoints.contains_key(it));
        let learned = self
            .insert_named(
                "insert into culprit.endpoints (service_id, name)
                 select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
                "select e.id, e.service_id, e.name from culprit.endpoints e
                 join unnest($1::integer[], $2::text[]) as n(service_id, name)
                   on (e.service_id, e.name) = (n.service_id, n.name)",
                missing,
            )
            .await?;
        known.endpoints.extend(learned);
        Ok(())
    }

    /// A service is full: an endpoint from before a restart keeps its id, a new one is `(other)`.
    async fn known_or_other(
        &self,
        service: i32,
        key: (i32, String),
    ) -> Result<(i32, String), StoreError> {
        let exists: bool = sqlx::query_scalar(
            "select exists (select from culprit.endpoints where service_id = $1 and name = $2)",
        )
        .bind(service)
        .bind(&key.1)
        .fetch_one(self.pool())
        .await?;
        Ok(if exists { key } else { (service, OTHER.into()) })
    }

    async fn learn_versions(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeSet<(i32, String)> = BTreeSet::new();
        for request in requests {
            let Some(service) = known.service(&request.service) else {
                continue;
            };
            let key = (service, clean(&request.version, NAME_BYTES_MAX));
            if !known.versions.contains_key(&key) {
                let full = known.versions.len() + missing.len() >= SERVICES_MAX;
                missing.insert(if full { (service, OTHER.into()) } else { key });
            }
        }
        missing.retain(|it| !known.versions.contains_key(it));
        let learned = self
            .insert_named(
                "insert into culprit.versions (service_id, version)
                 select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
                "select v.id, v.service_id, v.version from culprit.versions v
                 join unnest($1::integer[], $2::text[]) as n(service_id, version)
                   on (v.service_id, v.version) = (n.service_id, n.version)",
                missing,
            )
            .await?;
        known.versions.extend(learned);
        Ok(())
    }

    /// Inserts and reads back names that belong to a service.
    async fn insert_named(
        &self,
        insert: &'static str,
        select: &'static str,
        missing: BTreeSet<(i32, String)>,
    ) -> Result<Vec<((i32, String), i32)>, StoreError> {
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let (services, names): (Vec<i32>, Vec<String>) = missing.into_iter().unzip();
        let mut transaction = self.pool().begin().await?;
        sqlx::query(insert)
            .bind(&services)
            .bind(&names)
            .execute(&mut *transaction)
            .await?;
        let rows: Vec<(i32, i32, String)> = sqlx::query_as(select)
            .bind(&services)
            .bind(&names)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows
            .into_iter()
            .map(|(id, service, name)| ((service, name), id))
            .collect())
    }

    async fn learn_statements(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeMap<[u8; 32], (String, String)> = BTreeMap::new();
        for statement in requests.iter().flat_map(|it| &it.statements) {
            let digest = statement_digest(&statement.system, &statement.text);
            if known.statements.contains_key(&digest) {
                continue;
            }
            if known.statements.len() + missing.len() < STATEMENTS_MAX {
                let text = clean(&statement.text, STATEMENT_BYTES_MAX);
                missing.insert(digest, (clean(&statement.system, NAME_BYTES_MAX), text));
            } else {
                missing.insert(statement_digest("", OTHER), (String::new(), OTHER.into()));
            }
        }
        missing.retain(|digest, _| !known.statements.contains_key(digest));
        if missing.is_empty() {
            return Ok(());
        }
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        let (systems, texts): (Vec<String>, Vec<String>) = missing.into_values().unzip();
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "insert into culprit.statements (digest, system, text)
             select * from unnest($1::bytea[], $2::text[], $3::text[]) on conflict do nothing",
        )
        .bind(&digests)
        .bind(&systems)
        .bind(&texts)
        .execute(&mut *transaction)
        .await?;
        let select = "select digest, id from culprit.statements where digest = any($1)";
        let rows = ids_by_digest(&mut transaction, select, &digests).await?;
        transaction.commit().await?;
        known.statements.extend(rows);
        Ok(())
    }

    async fn learn_findings(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeMap<[u8; 32], (&str, &str, Ids)> = BTreeMap::new();
        for request in requests {
            let Some(ids) = known.ids(request) else {
                continue;
            };
            for hit in &request.hits {
                let fingerprint = hit.finding.fingerprint.as_str();
                if known.finding(ids.endpoint, fingerprint).is_none() {
                    let digest = digest(&[&ids.endpoint.to_string(), "\0", fingerprint]);
                    missing.insert(digest, (fingerprint, hit.finding.detector, ids));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        let values: Vec<_> = missing.values().collect();
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "insert into culprit.finding_keys (digest, fingerprint, detector, service_id, endpoint_id)
             select * from unnest($1::bytea[], $2::text[], $3::text[], $4::integer[], $5::integer[])
             on conflict do nothing",
        )
        .bind(&digests)
        .bind(values.iter().map(|it| it.0.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
        .bind(values.iter().map(|it| it.1).collect::<Vec<_>>())
        .bind(values.iter().map(|it| it.2.service).collect::<Vec<_>>())
        .bind(values.iter().map(|it| it.2.endpoint).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
        let select = "select digest, id from culprit.finding_keys where digest = any($1)";
        let rows = ids_by_digest(&mut transaction, select, &digests).await?;
        transaction.commit().await?;
        for (digest, id) in rows {
            if let Some((fingerprint, _, ids)) = missing.get(&digest) {
                known
                    .findings
                    .insert((ids.endpoint, (*fingerprint).to_owned()), id);
            }
        }
        Ok(())
    }
}

async fn ids_by_digest(
    connection: &mut PgConnection,
    select: &'static str,
    digests: &[Vec<u8>],
) -> Result<Vec<([u8; 32], i32)>, StoreError> {
    let rows: Vec<(Vec<u8>, i32)> = sqlx::query_as(select)
        .bind(digests)
        .fetch_all(connection)
        .await?;
    let rows = rows.into_iter().map(|(digest, id)| {
        let digest = digest.try_into();
        digest
            .map(|digest| (digest, id))
            .map_err(|_| StoreError::Damaged("a digest's length".into()))
    });
    rows.collect()
}

fn statement_digest(system: &str, text: &str) -> [u8; 32] {
    digest(&[system, "\0", text])
}

pub(super) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part.as_bytes()));
    hash.finalize().into()
}

/// Text as Postgres takes it (no NUL), cut at `bytes_max`.
fn clean(text: &str, bytes_max: usize) -> String {
    let end = (0..=bytes_max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].replace('\0', "\u{fffd}")
}

fn clean_service(name: &ServiceName) -> ServiceName {
    ServiceName {
        namespace: clean(&name.namespace, SERVICE_BYTES_MAX),
        name: clean(&name.name, SERVICE_BYTES_MAX),
        environment: clean(&name.environment, SERVICE_BYTES_MAX),
    }
}

fn other_service() -> ServiceName {
    ServiceName {
        namespace: String::new(),
        name: OTHER.into(),
        environment: String::new(),
    }
}
