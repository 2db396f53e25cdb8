//! Text once, small ids everywhere else.
//!
//! Ids are made in short transactions of their own, before the tick that needs them; sorted, so
//! that two processes which learn the same names at once cannot deadlock. Cached after the commit.

use analyzer::seeded_hash::{SeededMap, SeededSet};
use analyzer::{Callee, Service};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::apart::{Apart, Wanted};
use super::edge_keys::{EDGES_MAX, Edges};
use super::pool::Connection;
use super::{Store, StoreError};
use crate::contribution::{Contribution, Names, Request};
use crate::deltas::Day;

/// Distinct endpoints, and distinct versions, that a service may have. Further ones are counted as [`OTHER`]: somebody puts ids
/// into span names, and neither memory nor disk shall grow with that.
const NAMES_PER_SERVICE_MAX: usize = 1_000;

/// Distinct endpoints, and distinct versions, of all services together. Further ones are counted as
/// their services' [`OTHER`].
const NAMES_MAX: usize = 100_000;

/// Names remembered per owner, those beyond a cap included; at the bound they are looked up again.
const NAMES_CACHED_MAX: usize = 100_000;

/// Statements remembered with their texts, of 4 kB at most, per owner; at the bound all are looked up
/// again by their digests.
const STATEMENTS_CACHED_MAX: usize = 5_000;

/// Distinct findings of an endpoint. Further ones are not counted: somebody puts random names into
/// statements.
const FINDINGS_PER_ENDPOINT_MAX: usize = 200;

/// Distinct statements. Further ones are counted as [`OTHER`].
const STATEMENTS_MAX: usize = 50_000;

/// Distinct services. Further ones are counted as [`OTHER`].
const SERVICES_MAX: usize = 5_000;

/// Every dictionary and how many names it may have, without the `(other)`s.
pub(super) const SIZES: [(&str, usize); 6] = [
    ("services", SERVICES_MAX),
    ("endpoints", NAMES_MAX),
    ("versions", NAMES_MAX),
    ("statements", STATEMENTS_MAX),
    ("finding_keys", NAMES_MAX * FINDINGS_PER_ENDPOINT_MAX),
    ("edges", EDGES_MAX),
];

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
    count_all: &'static str,
    of_services: &'static str,
}

const ENDPOINTS: Family = Family {
    insert: "insert into culprit.endpoints (service_id, name)
             select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
    select: "select e.id, e.service_id, e.name from culprit.endpoints e
             join unnest($1::integer[], $2::text[]) as n(service_id, name)
               on (e.service_id, e.name) = (n.service_id, n.name)",
    count: "select service_id, count(*) from culprit.endpoints
            where service_id = any($1) group by service_id",
    count_all: "select count(*) from culprit.endpoints",
    of_services: "select id, service_id, name from culprit.endpoints where service_id = any($1)",
};

const VERSIONS: Family = Family {
    insert: "insert into culprit.versions (service_id, version)
             select * from unnest($1::integer[], $2::text[]) on conflict do nothing",
    select: "select v.id, v.service_id, v.version from culprit.versions v
             join unnest($1::integer[], $2::text[]) as n(service_id, version)
               on (v.service_id, v.version) = (n.service_id, n.version)",
    count: "select service_id, count(*) from culprit.versions
            where service_id = any($1) group by service_id",
    count_all: "select count(*) from culprit.versions",
    of_services: "select id, service_id, version from culprit.versions where service_id = any($1)",
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
///
/// Where a cap was reached everything there is is known, so that what is not known is `(other)`:
/// for good, because names are never taken out, and for everybody, because caps are counted under
/// a lock. So what a trace was counted as can be told again after a restart.
#[derive(Debug, Default)]
pub struct Dictionaries {
    /// What is counted apart within endpoints.
    pub apart: Apart,
    /// Who calls whom.
    pub(super) edges: Edges,
    /// What requests were counted under lately.
    requests: SeededMap<Names, Ids>,
    /// Statements that were counted lately.
    callees: SeededMap<Known, KnownStatement>,
    services: HashMap<ServiceName, i32>,
    services_full: bool,
    endpoints: HashMap<(i32, String), i32>,
    endpoints_full: HashSet<i32>,
    versions: HashMap<(i32, String), i32>,
    versions_full: HashSet<i32>,
    statements: HashMap<[u8; 32], i32>,
    statements_full: bool,
    /// The id of those beyond a cap, if there are any.
    other_statement: Option<i32>,
    findings: HashMap<(i32, String), i32>,
    findings_full: HashSet<i32>,
}

/// A service's names, cut as they are stored.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct ServiceName {
    namespace: String,
    name: String,
    environment: String,
}

/// A statement, which is one by its system and text.
#[derive(Clone, Debug)]
struct Known(Arc<Callee>);

/// What is known of a statement.
#[derive(Clone, Copy, Debug)]
struct KnownStatement {
    id: Option<i32>,
    /// The beginning of its digest.
    hash: u64,
}

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        let same = |a: &Callee, b: &Callee| a.key == b.key && a.system == b.system;
        Arc::ptr_eq(&self.0, &other.0) || same(&self.0, &other.0)
    }
}

impl Eq for Known {}

/// A callee that is held by a contribution meanwhile, so that its address is its own.
#[derive(Clone, Copy)]
struct ByAddress<'b>(&'b Arc<Callee>);

impl PartialEq for ByAddress<'_> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.0, other.0)
    }
}

impl Eq for ByAddress<'_> {}

impl Hash for ByAddress<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Arc::as_ptr(self.0).hash(hasher);
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.key.hash(hasher);
        self.0.system.hash(hasher);
    }
}

impl Dictionaries {
    /// The ids of a request's names; all of them were learned before.
    pub fn ids(&self, request: &Request) -> Option<Ids> {
        let known = self.requests.get(&request.names).copied();
        known.or_else(|| self.ids_of(&request.names))
    }

    fn ids_of(&self, names: &Names) -> Option<Ids> {
        let service = self.service(&names.service())?;
        let named = |names: &HashMap<(i32, String), i32>, name: &str| {
            let id = names.get(&(service, clean(name, NAME_BYTES_MAX)));
            id.or_else(|| names.get(&(service, OTHER.into()))).copied()
        };
        Some(Ids {
            service,
            endpoint: named(&self.endpoints, names.endpoint())?,
            version: named(&self.versions, names.version())?,
        })
    }

    /// The id under which an endpoint's statement is counted on a day; learned before, also within
    /// the endpoint.
    pub fn statement_of(&self, day: Day, endpoint: i32, statement: &Arc<Callee>) -> Option<i32> {
        let known = self.callees.get(&Known(statement.clone())).copied();
        let known = known.unwrap_or_else(|| self.known_statement(statement));
        match self.apart.has_statement(day, endpoint, known.hash) {
            true => known.id,
            false => self.other_statement,
        }
    }

    fn known_statement(&self, statement: &Callee) -> KnownStatement {
        let digest = statement_digest(&statement.system, &statement.key);
        let id = self.statements.get(&digest).copied();
        KnownStatement {
            id: id.or(self.other_statement),
            hash: short(&digest),
        }
    }

    /// A statement's hash among those of an endpoint.
    fn statement_hash(&self, statement: &Arc<Callee>) -> u64 {
        let known = self.callees.get(&Known(statement.clone()));
        known.map_or_else(|| self.known_statement(statement).hash, |it| it.hash)
    }

    /// A finding's id: by its endpoint and fingerprint, because a fingerprint names a service
    /// without its environment.
    pub fn finding(&self, endpoint: i32, fingerprint: &str) -> Option<i32> {
        self.findings
            .get(&(endpoint, fingerprint.to_owned()))
            .copied()
    }

    /// Remembers the ids of names that were learned.
    fn remember(&mut self, requests: &[&Names], statements: &[&Arc<Callee>]) {
        if self.requests.len() + requests.len() > NAMES_CACHED_MAX {
            self.requests.clear();
        }
        for names in requests {
            if let Some(ids) = self.ids_of(names) {
                self.requests.insert((*names).clone(), ids);
            }
        }
        if self.callees.len() + statements.len() > STATEMENTS_CACHED_MAX {
            self.callees.clear();
        }
        for statement in statements {
            let known = self.known_statement(statement);
            self.callees.insert(Known((*statement).clone()), known);
        }
    }

    fn add_statements(&mut self, found: Vec<([u8; 32], i32)>) {
        self.statements.extend(found);
        let other = self.statements.get(&statement_digest("", OTHER));
        self.other_statement = other.copied();
    }

    fn service(&self, name: &Service<'_>) -> Option<i32> {
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
        let requests = contributions.iter().flat_map(|it| &it.requests);
        let (mut names, mut statements) = (SeededSet::default(), SeededSet::default());
        for request in requests.clone() {
            if !known.requests.contains_key(&request.names) {
                names.insert(&request.names);
            }
            // A tick's calls share what they call: once looked up is enough for all of them.
            let callees = request.statements.iter().map(|it| &it.callee);
            statements.extend(callees.map(ByAddress));
        }
        let names: Vec<&Names> = names.into_iter().collect();
        let statements = statements.into_iter().map(|it| it.0);
        let statements: Vec<&Arc<Callee>> = statements
            .filter(|it| !known.callees.contains_key(&Known((*it).clone())))
            .collect();
        self.learn_services(known, &names).await?;
        self.learn_endpoints(known, &names).await?;
        self.learn_versions(known, &names).await?;
        self.learn_statements(known, &statements).await?;
        known.remember(&names, &statements);
        let affected = requests
            .filter(|it| !it.hits.is_empty())
            .collect::<Vec<_>>();
        self.learn_findings(known, &affected).await?;
        self.learn_edges(known, contributions).await
    }

    /// Decides what of these requests is counted apart within their endpoints on that day. Their names
    /// must be learned.
    ///
    /// # Errors
    /// Postgres cannot be written to; then `known` holds what was committed before.
    pub async fn learn_within_endpoints(
        &self,
        known: &mut Dictionaries,
        requests: &[(Day, i32, &Request)],
    ) -> Result<(), StoreError> {
        let mut seen: SeededSet<(Day, i32, ByAddress<'_>)> = SeededSet::default();
        let wanted = requests.iter().map(|(day, endpoint, request)| {
            // An endpoint's requests run the same statements: each is looked at once.
            let callees = request.statements.iter().map(|it| &it.callee);
            let new = callees.filter(|it| seen.insert((*day, *endpoint, ByAddress(it))));
            Wanted {
                day: *day,
                endpoint: *endpoint,
                profile: &request.profile,
                statements: new.map(|it| known.statement_hash(it)).collect(),
            }
        });
        let wanted: Vec<Wanted<'_>> = wanted.collect();
        self.learn_apart(&mut known.apart, &wanted).await?;
        let full = |it: &Wanted<'_>| known.apart.is_full_of_statements(it.day, it.endpoint);
        if known.other_statement.is_none() && wanted.iter().any(full) {
            let other = (String::new(), OTHER.to_owned());
            let only = BTreeMap::from([(statement_digest("", OTHER), other)]);
            let mut session = self.pool().session().await?;
            let found = insert_statements(&mut session, only).await?;
            session.end().await?;
            known.add_statements(found);
        }
        Ok(())
    }

    async fn learn_services(
        &self,
        known: &mut Dictionaries,
        names: &[&Names],
    ) -> Result<(), StoreError> {
        if known.services_full {
            return Ok(());
        }
        let names = names.iter().map(|it| clean_service(&it.service()));
        let mut missing: BTreeSet<ServiceName> = names.collect();
        missing.retain(|it| !known.services.contains_key(it));
        if missing.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        let mut found = find_services(&mut transaction, &missing).await?;
        missing.retain(|it| !found.iter().any(|(name, _)| name == it));
        let mut full = false;
        if !missing.is_empty() {
            lock(&mut transaction).await?;
            let there: i64 = sqlx::query_scalar("select count(*) from culprit.services")
                .fetch_one(&mut *transaction)
                .await?;
            let room = SERVICES_MAX.saturating_sub(there as usize);
            full = missing.len() > room;
            let mut new: BTreeSet<ServiceName> = missing.iter().take(room).cloned().collect();
            new.extend(full.then(other_service));
            insert_services(&mut transaction, &new).await?;
            found.extend(match full {
                true => all_services(&mut transaction).await?,
                false => find_services(&mut transaction, &missing).await?,
            });
        }
        transaction.commit().await?;
        known.services_full = full;
        known.services.extend(found);
        Ok(())
    }

    async fn learn_endpoints(
        &self,
        known: &mut Dictionaries,
        names: &[&Names],
    ) -> Result<(), StoreError> {
        let keys = names.iter().filter_map(|it| {
            let service = known.service(&it.service())?;
            Some((service, clean(it.endpoint(), NAME_BYTES_MAX)))
        });
        let missing: Named = keys
            .filter(|it| !known.endpoints.contains_key(it))
            .collect();
        let names = &mut known.endpoints;
        self.learn_named(&ENDPOINTS, names, &mut known.endpoints_full, missing)
            .await
    }

    async fn learn_versions(
        &self,
        known: &mut Dictionaries,
        names: &[&Names],
    ) -> Result<(), StoreError> {
        let keys = names.iter().filter_map(|it| {
            let service = known.service(&it.service())?;
            Some((service, clean(it.version(), NAME_BYTES_MAX)))
        });
        let missing: Named = keys.filter(|it| !known.versions.contains_key(it)).collect();
        let names = &mut known.versions;
        self.learn_named(&VERSIONS, names, &mut known.versions_full, missing)
            .await
    }

    /// Finds or makes ids for names that belong to a service. A service that has more than its cap
    /// gets an `(other)`, and then all of its names are known.
    async fn learn_named(
        &self,
        family: &Family,
        names: &mut HashMap<(i32, String), i32>,
        full: &mut HashSet<i32>,
        mut missing: Named,
    ) -> Result<(), StoreError> {
        missing.retain(|it| !full.contains(&it.0));
        if missing.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        let mut found = find_named(&mut transaction, family, &missing).await?;
        remove(&mut missing, &found);
        let mut filled = Vec::new();
        if !missing.is_empty() {
            lock(&mut transaction).await?;
            // Somebody else may have made them meanwhile.
            found.extend(find_named(&mut transaction, family, &missing).await?);
            remove(&mut missing, &found);
            let new = with_room(&mut transaction, family, missing, &mut filled).await?;
            let columns = columns(&new);
            sqlx::query(family.insert)
                .bind(&columns.0)
                .bind(&columns.1)
                .execute(&mut *transaction)
                .await?;
            found.extend(find_named(&mut transaction, family, &new).await?);
            found.extend(names_of(&mut transaction, family, &filled).await?);
        }
        transaction.commit().await?;
        names.extend(found);
        full.extend(filled);
        Ok(())
    }

    async fn learn_statements(
        &self,
        known: &mut Dictionaries,
        statements: &[&Arc<Callee>],
    ) -> Result<(), StoreError> {
        if known.statements_full {
            return Ok(());
        }
        let mut missing: NewStatements = BTreeMap::new();
        for statement in statements {
            let digest = statement_digest(&statement.system, &statement.key);
            if !known.statements.contains_key(&digest) {
                let text = clean(&statement.key, STATEMENT_BYTES_MAX);
                missing.insert(digest, (clean(&statement.system, NAME_BYTES_MAX), text));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        let mut found = ids_by_digest(&mut transaction, FIND_STATEMENTS, &digests).await?;
        missing.retain(|digest, _| !found.iter().any(|it| it.0 == *digest));
        let mut full = false;
        if !missing.is_empty() {
            lock(&mut transaction).await?;
            let there: i64 = sqlx::query_scalar("select count(*) from culprit.statements")
                .fetch_one(&mut *transaction)
                .await?;
            let room = STATEMENTS_MAX.saturating_sub(there as usize);
            full = missing.len() > room;
            let mut new: NewStatements = missing.into_iter().take(room).collect();
            if full {
                new.insert(
                    statement_digest("", OTHER),
                    (String::new(), OTHER.to_owned()),
                );
            }
            found.extend(insert_statements(&mut transaction, new).await?);
        }
        if full {
            let all = "select digest, id from culprit.statements where $1::bytea[] is not null";
            found.extend(ids_by_digest(&mut transaction, all, &[]).await?);
        }
        transaction.commit().await?;
        known.statements_full = full;
        known.add_statements(found);
        Ok(())
    }

    async fn learn_findings(
        &self,
        known: &mut Dictionaries,
        requests: &[&Request],
    ) -> Result<(), StoreError> {
        let mut missing: BTreeMap<[u8; 32], NewFinding<'_>> = BTreeMap::new();
        for request in requests {
            let Some(ids) = known.ids(request) else {
                continue;
            };
            for hit in &request.hits {
                let fingerprint = hit.finding.fingerprint.as_str();
                if known.finding(ids.endpoint, fingerprint).is_none()
                    && !known.findings_full.contains(&ids.endpoint)
                {
                    let digest = digest(&[&ids.endpoint.to_string(), "\0", fingerprint]);
                    missing.insert(digest, (fingerprint, hit.finding.detector, ids));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let asked = missing.clone();
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        let mut transaction = self.pool().begin().await?;
        let mut found = ids_by_digest(&mut transaction, FIND_FINDINGS, &digests).await?;
        missing.retain(|digest, _| !found.iter().any(|it| it.0 == *digest));
        let mut filled = Vec::new();
        if !missing.is_empty() {
            lock(&mut transaction).await?;
            let new = findings_with_room(&mut transaction, missing, &mut filled).await?;
            insert_findings(&mut transaction, &new).await?;
            found.extend(ids_by_digest(&mut transaction, FIND_FINDINGS, &digests).await?);
        }
        let of_full: Vec<(i32, String, i32)> = sqlx::query_as(
            "select endpoint_id, fingerprint, id from culprit.finding_keys where endpoint_id = any($1)",
        )
        .bind(&filled)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        for (endpoint, fingerprint, id) in of_full {
            known.findings.insert((endpoint, fingerprint), id);
        }
        for (digest, id) in found {
            if let Some((fingerprint, _, ids)) = asked.get(&digest) {
                let key = (ids.endpoint, (*fingerprint).to_owned());
                known.findings.insert(key, id);
            }
        }
        known.findings_full.extend(filled);
        Ok(())
    }
}

/// Taken by everybody who adds names, so that caps are counted exactly: what is beyond a cap once
/// is beyond it for good. Held for a few milliseconds, and only while something is new.
pub(super) async fn lock(transaction: &mut Connection) -> Result<(), StoreError> {
    /// Any number that nobody else in this database is likely to use.
    const KEY: i64 = 0x0063_756c_7072_6974;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(KEY)
        .execute(transaction)
        .await?;
    Ok(())
}

fn remove(missing: &mut Named, found: &[((i32, String), i32)]) {
    for (key, _) in found {
        missing.remove(key);
    }
}

/// How many more names of each owner there is room for, and of all together.
pub(super) struct Room {
    counts: HashMap<i32, usize>,
    each_max: usize,
    left: usize,
}

impl Room {
    /// There are `counts` of each owner; at most `each_max` may be, and `left` more in all.
    pub(super) fn new(counts: Vec<(i32, i64)>, each_max: usize, left: usize) -> Room {
        Room {
            counts: counts.into_iter().map(|(id, n)| (id, n as usize)).collect(),
            each_max,
            left,
        }
    }

    /// Whether there is room for one more of `owner`, which is taken then.
    pub(super) fn take(&mut self, owner: i32) -> bool {
        let count = self.counts.entry(owner).or_default();
        let is_room = *count < self.each_max && self.left > 0;
        if is_room {
            *count += 1;
            self.left -= 1;
        }
        is_room
    }
}

/// What of `missing` there is room for, and an `(other)` for each service without; those are `filled`.
async fn with_room(
    transaction: &mut Connection,
    family: &Family,
    missing: Named,
    filled: &mut Vec<i32>,
) -> Result<Named, StoreError> {
    let services: Vec<i32> = missing.iter().map(|it| it.0).collect();
    let counts: Vec<(i32, i64)> = sqlx::query_as(family.count)
        .bind(&services)
        .fetch_all(&mut *transaction)
        .await?;
    let all: i64 = sqlx::query_scalar(family.count_all)
        .fetch_one(transaction)
        .await?;
    let left = NAMES_MAX.saturating_sub(all as usize);
    let mut room = Room::new(counts, NAMES_PER_SERVICE_MAX, left);
    let mut new = Named::new();
    for key in missing {
        if room.take(key.0) {
            new.insert(key);
        } else {
            filled.push(key.0);
            new.insert((key.0, OTHER.into()));
        }
    }
    filled.dedup();
    Ok(new)
}

async fn find_named(
    connection: &mut Connection,
    family: &Family,
    keys: &Named,
) -> Result<Vec<((i32, String), i32)>, StoreError> {
    let columns = columns(keys);
    let rows: Vec<(i32, i32, String)> = sqlx::query_as(family.select)
        .bind(&columns.0)
        .bind(&columns.1)
        .fetch_all(connection)
        .await?;
    Ok(named(rows))
}

/// All names of these services.
async fn names_of(
    connection: &mut Connection,
    family: &Family,
    services: &[i32],
) -> Result<Vec<((i32, String), i32)>, StoreError> {
    let rows: Vec<(i32, i32, String)> = sqlx::query_as(family.of_services)
        .bind(services)
        .fetch_all(connection)
        .await?;
    Ok(named(rows))
}

fn named(rows: Vec<(i32, i32, String)>) -> Vec<((i32, String), i32)> {
    rows.into_iter()
        .map(|(id, service, name)| ((service, name), id))
        .collect()
}

/// A service's row: id, namespace, name, environment.
type ServiceRow = (i32, String, String, String);

fn service_names(rows: Vec<ServiceRow>) -> Vec<(ServiceName, i32)> {
    let named = |(id, namespace, name, environment)| {
        let name = ServiceName {
            namespace,
            name,
            environment,
        };
        (name, id)
    };
    rows.into_iter().map(named).collect()
}

/// Namespaces, names, environments.
fn service_columns(names: &BTreeSet<ServiceName>) -> [Vec<String>; 3] {
    let column = |of: fn(&ServiceName) -> &String| names.iter().map(|it| of(it).clone()).collect();
    [
        column(|it| &it.namespace),
        column(|it| &it.name),
        column(|it| &it.environment),
    ]
}

async fn find_services(
    connection: &mut Connection,
    names: &BTreeSet<ServiceName>,
) -> Result<Vec<(ServiceName, i32)>, StoreError> {
    let [namespaces, names, environments] = service_columns(names);
    let rows: Vec<ServiceRow> = sqlx::query_as(
        "select id, s.namespace, s.name, s.environment from culprit.services s
         join unnest($1::text[], $2::text[], $3::text[]) as n(namespace, name, environment)
           on (s.namespace, s.name, s.environment) = (n.namespace, n.name, n.environment)",
    )
    .bind(namespaces)
    .bind(names)
    .bind(environments)
    .fetch_all(connection)
    .await?;
    Ok(service_names(rows))
}

async fn all_services(connection: &mut Connection) -> Result<Vec<(ServiceName, i32)>, StoreError> {
    let rows: Vec<ServiceRow> =
        sqlx::query_as("select id, namespace, name, environment from culprit.services")
            .fetch_all(connection)
            .await?;
    Ok(service_names(rows))
}

async fn insert_services(
    connection: &mut Connection,
    names: &BTreeSet<ServiceName>,
) -> Result<(), StoreError> {
    let [namespaces, names, environments] = service_columns(names);
    sqlx::query(
        "insert into culprit.services (namespace, name, environment)
         select * from unnest($1::text[], $2::text[], $3::text[]) on conflict do nothing",
    )
    .bind(namespaces)
    .bind(names)
    .bind(environments)
    .execute(connection)
    .await?;
    Ok(())
}

/// Statements by digest: system and text.
type NewStatements = BTreeMap<[u8; 32], (String, String)>;

const FIND_STATEMENTS: &str = "select digest, id from culprit.statements where digest = any($1)";

async fn insert_statements(
    connection: &mut Connection,
    new: NewStatements,
) -> Result<Vec<([u8; 32], i32)>, StoreError> {
    let digests: Vec<Vec<u8>> = new.keys().map(|it| it.to_vec()).collect();
    let (systems, texts): (Vec<String>, Vec<String>) = new.into_values().unzip();
    sqlx::query(
        "insert into culprit.statements (digest, system, text)
         select * from unnest($1::bytea[], $2::text[], $3::text[]) on conflict do nothing",
    )
    .bind(&digests)
    .bind(&systems)
    .bind(&texts)
    .execute(&mut *connection)
    .await?;
    ids_by_digest(connection, FIND_STATEMENTS, &digests).await
}

/// Fingerprint, detector, whose.
type NewFinding<'a> = (&'a str, &'static str, Ids);

const FIND_FINDINGS: &str = "select digest, id from culprit.finding_keys where digest = any($1)";

/// What of `missing` there is room for; endpoints without are `filled`.
async fn findings_with_room<'a>(
    transaction: &mut Connection,
    missing: BTreeMap<[u8; 32], NewFinding<'a>>,
    filled: &mut Vec<i32>,
) -> Result<BTreeMap<[u8; 32], NewFinding<'a>>, StoreError> {
    let endpoints: Vec<i32> = missing.values().map(|it| it.2.endpoint).collect();
    let counts: Vec<(i32, i64)> = sqlx::query_as(
        "select endpoint_id, count(*) from culprit.finding_keys
         where endpoint_id = any($1) group by endpoint_id",
    )
    .bind(&endpoints)
    .fetch_all(transaction)
    .await?;
    let mut room = Room::new(counts, FINDINGS_PER_ENDPOINT_MAX, usize::MAX);
    let mut new = BTreeMap::new();
    for (digest, finding) in missing {
        if room.take(finding.2.endpoint) {
            new.insert(digest, finding);
        } else {
            filled.push(finding.2.endpoint);
        }
    }
    Ok(new)
}

async fn insert_findings(
    connection: &mut Connection,
    new: &BTreeMap<[u8; 32], NewFinding<'_>>,
) -> Result<(), StoreError> {
    let values: Vec<_> = new.values().collect();
    sqlx::query(
        "insert into culprit.finding_keys (digest, fingerprint, detector, service_id, endpoint_id)
         select * from unnest($1::bytea[], $2::text[], $3::text[], $4::integer[], $5::integer[])
         on conflict do nothing",
    )
    .bind(new.keys().map(|it| it.to_vec()).collect::<Vec<_>>())
    .bind(
        values
            .iter()
            .map(|it| it.0.replace('\0', "\u{fffd}"))
            .collect::<Vec<_>>(),
    )
    .bind(values.iter().map(|it| it.1).collect::<Vec<_>>())
    .bind(values.iter().map(|it| it.2.service).collect::<Vec<_>>())
    .bind(values.iter().map(|it| it.2.endpoint).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn ids_by_digest(
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

/// The beginning of a digest.
fn short(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What names a statement in every database of culprit's: the SHA-256 of system, NUL, text.
pub fn statement_digest(system: &str, text: &str) -> [u8; 32] {
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

fn clean_service(name: &Service<'_>) -> ServiceName {
    ServiceName {
        namespace: clean(name.namespace, SERVICE_BYTES_MAX),
        name: clean(name.name, SERVICE_BYTES_MAX),
        environment: clean(name.environment, SERVICE_BYTES_MAX),
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
        let (name, environment) = ("s\0".repeat(600), "e".repeat(5_000));
        let service = Service {
            namespace: "",
            name: &name,
            environment: &environment,
        };
        let request = |endpoint: String| Request {
            span_id: Default::default(),
            names: Names::of(&service, "1", &endpoint),
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
            edges: Vec::new(),
        };
        Contribution {
            trace_id: Default::default(),
            spans: 1,
            requests: endpoints.map(request).collect(),
            peers: Vec::new(),
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
