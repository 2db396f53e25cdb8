//! Text once, small ids everywhere else.
//!
//! Ids are made in short transactions of their own, before the tick that needs them; sorted, so
//! that two processes which learn the same names at once cannot deadlock. Cached after the commit.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pool::Connection;
use super::{Store, StoreError};
use crate::contribution::{Contribution, Request, ServiceName};

/// Distinct endpoints, and distinct versions, that a service may have. Further ones are counted as [`OTHER`]: somebody puts ids
/// into span names, and neither memory nor disk shall grow with that.
const NAMES_PER_SERVICE_MAX: usize = 1_000;

/// Names remembered per owner, those beyond a cap included; at the bound they are looked up again.
const NAMES_CACHED_MAX: usize = 100_000;

/// Distinct findings of an endpoint. Further ones are not counted: somebody puts random names into
/// statements.
const FINDINGS_PER_ENDPOINT_MAX: usize = 200;

/// Distinct statements. Further ones are counted as [`OTHER`].
const STATEMENTS_MAX: usize = 50_000;

/// Distinct services. Further ones are counted as [`OTHER`].
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

/// A dictionary whose names belong to a service.
struct Family {
    insert: &'static str,
    select: &'static str,
    count: &'static str,
}

const ENDPOINTS: Family = Family {
    insert: "insert into culprit.endpoints (service_id, name)
             select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
    select: "select e.id, e.service_id, e.name from culprit.endpoints e
             join unnest($1::integer[], $2::text[]) as n(service_id, name)
               on (e.service_id, e.name) = (n.service_id, n.name)",
    count: "select service_id, count(*) from culprit.endpoints group by service_id",
};

const VERSIONS: Family = Family {
    insert: "insert into culprit.versions (service_id, version)
             select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
    select: "select v.id, v.service_id, v.version from culprit.versions v
             join unnest($1::integer[], $2::text[]) as n(service_id, version)
               on (v.service_id, v.version) = (n.service_id, n.version)",
    count: "select service_id, count(*) from culprit.versions group by service_id",
};

/// Names with their service, in the order in which they are inserted.
type Named = BTreeSet<(i32, String)>;

fn columns(keys: &Named) -> (Vec<i32>, Vec<String>) {
    keys.iter().cloned().unzip()
}

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
    versions_of: HashMap<i32, usize>,
    findings_of: HashMap<i32, usize>,
    statements_stored: usize,
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

    /// The caps hold over restarts: how much there is already. The findings of an endpoint are counted
    /// as they are met again, so its cap starts anew.
    async fn load_counts(&self, known: &mut Dictionaries) -> Result<(), StoreError> {
        known.endpoints_of = self.count_by_service(ENDPOINTS.count).await?;
        known.versions_of = self.count_by_service(VERSIONS.count).await?;
        let statements: i64 = sqlx::query_scalar("select count(*) from culprit.statements")
            .fetch_one(self.pool())
            .await?;
        known.statements_stored = statements as usize;
        known.loaded = true;
        Ok(())
    }

    async fn count_by_service(
        &self,
        count: &'static str,
    ) -> Result<HashMap<i32, usize>, StoreError> {
        let counts: Vec<(i32, i64)> = sqlx::query_as(count).fetch_all(self.pool()).await?;
        Ok(counts.into_iter().map(|(id, n)| (id, n as usize)).collect())
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
        let keys = requests.iter().filter_map(|it| {
            let service = known.service(&it.service)?;
            Some((service, clean(&it.endpoint, NAME_BYTES_MAX)))
        });
        let missing: Named = keys
            .filter(|it| !known.endpoints.contains_key(it))
            .collect();
        let names = &mut known.endpoints;
        self.learn_named(&ENDPOINTS, names, &mut known.endpoints_of, missing)
            .await
    }

    async fn learn_versions(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let keys = requests.iter().filter_map(|it| {
            let service = known.service(&it.service)?;
            Some((service, clean(&it.version, NAME_BYTES_MAX)))
        });
        let missing: Named = keys.filter(|it| !known.versions.contains_key(it)).collect();
        let names = &mut known.versions;
        self.learn_named(&VERSIONS, names, &mut known.versions_of, missing)
            .await
    }

    /// Finds or makes ids for names that belong to a service. What is beyond the service's cap gets
    /// the id of `(other)`, and keeps it in `names`.
    async fn learn_named(
        &self,
        family: &Family,
        names: &mut HashMap<(i32, String), i32>,
        counts: &mut HashMap<i32, usize>,
        mut missing: Named,
    ) -> Result<(), StoreError> {
        if missing.is_empty() {
            return Ok(());
        }
        names.extend(self.find_named(family, &missing).await?);
        missing.retain(|it| !names.contains_key(it));
        let (mut new, mut beyond) = (Named::new(), Vec::new());
        for key in missing {
            let count = counts.entry(key.0).or_default();
            if *count < NAMES_PER_SERVICE_MAX {
                *count += 1;
                new.insert(key);
            } else {
                new.insert((key.0, OTHER.into()));
                beyond.push(key);
            }
        }
        if !new.is_empty() {
            let columns = columns(&new);
            sqlx::query(family.insert)
                .bind(&columns.0)
                .bind(&columns.1)
                .execute(self.pool())
                .await?;
            names.extend(self.find_named(family, &new).await?);
        }
        for key in beyond {
            let other = names.get(&(key.0, OTHER.into())).copied();
            // Remembered, so that it is not looked for again; forgotten names are.
            if let Some(other) = other.filter(|_| names.len() < NAMES_CACHED_MAX) {
                names.insert(key, other);
            }
        }
        Ok(())
    }

    async fn find_named(
        &self,
        family: &Family,
        keys: &Named,
    ) -> Result<Vec<((i32, String), i32)>, StoreError> {
        let columns = columns(keys);
        let rows: Vec<(i32, i32, String)> = sqlx::query_as(family.select)
            .bind(&columns.0)
            .bind(&columns.1)
            .fetch_all(self.pool())
            .await?;
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
            if known.statements_stored + missing.len() < STATEMENTS_MAX {
                let text = clean(&statement.text, STATEMENT_BYTES_MAX);
                missing.insert(digest, (clean(&statement.system, NAME_BYTES_MAX), text));
            } else {
                missing.insert(statement_digest("", OTHER), (String::new(), OTHER.into()));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let select = "select digest, id from culprit.statements where digest = any($1)";
        let mut session = self.pool().session().await?;
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        known
            .statements
            .extend(ids_by_digest(&mut session, select, &digests).await?);
        session.end().await?;
        missing.retain(|digest, _| !known.statements.contains_key(digest));
        if missing.is_empty() {
            return Ok(());
        }
        known.statements_stored += missing.len();
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
                let count = known
                    .findings_of
                    .get(&ids.endpoint)
                    .copied()
                    .unwrap_or_default();
                if known.finding(ids.endpoint, fingerprint).is_none()
                    && count < FINDINGS_PER_ENDPOINT_MAX
                {
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
                let key = (ids.endpoint, (*fingerprint).to_owned());
                if known.findings.insert(key, id).is_none() {
                    *known.findings_of.entry(ids.endpoint).or_default() += 1;
                }
            }
        }
        Ok(())
    }
}

async fn ids_by_digest(
    connection: &mut Connection,
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
    text[..text.floor_char_boundary(bytes_max)].replace('\0', "\u{fffd}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::profile::Profile;

    fn asked(endpoints: impl Iterator<Item = String>) -> Contribution {
        let request = |endpoint| Request {
            span_id: Default::default(),
            service: ServiceName {
                namespace: String::new(),
                name: "s\0".repeat(600),
                environment: "e".repeat(5_000),
            },
            version: "1".into(),
            endpoint,
            start_ns: 0,
            duration_ns: 0,
            weight: 1,
            error: false,
            root: true,
            categories: Default::default(),
            calls: Default::default(),
            statements: Vec::new(),
            profile: Profile::default(),
            hits: Vec::new(),
        };
        Contribution {
            trace_id: Default::default(),
            spans: 1,
            requests: endpoints.map(request).collect(),
            fragment: Default::default(),
        }
    }

    async fn ids(store: &Store, known: &mut Dictionaries, asked: &Contribution) -> Vec<i32> {
        store.learn(known, &[asked]).await.unwrap();
        asked
            .requests
            .iter()
            .map(|it| known.ids(it).unwrap().endpoint)
            .collect()
    }

    #[tokio::test]
    async fn names_beyond_the_cap_are_other_also_after_a_restart() {
        let store = crate::testing::store().await;
        let most = asked((0..NAMES_PER_SERVICE_MAX + 5).map(|n| format!("GET /{n}")));
        let before = ids(&store, &mut Dictionaries::default(), &most).await;
        let distinct: BTreeSet<&i32> = before.iter().collect();
        assert_eq!(distinct.len(), NAMES_PER_SERVICE_MAX + 1);
        let again = ids(&store, &mut Dictionaries::default(), &most).await;
        assert_eq!(before, again);
        // A restart in between neither frees places nor takes any.
        let mut known = Dictionaries::default();
        let one_more = ids(
            &store,
            &mut known,
            &asked(["POST /new".to_owned()].into_iter()),
        )
        .await;
        let name: String = sqlx::query_scalar("select name from culprit.endpoints where id = $1")
            .bind(one_more[0])
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(name, OTHER);
    }
}
