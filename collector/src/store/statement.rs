//! What a page asks about one statement: what it is, who sends it when, and what is known of it.

use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::{FromRow, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bottlenecks::Minutes;
use super::encoding::{self, StatementCalls};
use super::services::ServiceName;
use super::statements::SendingEndpoint;
use super::{Store, StoreError};

/// A statement as the dictionary knows it.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct StatementName {
    /// statements.id: of this database only.
    pub id: i32,
    /// The first eight bytes of its digest, hexadecimal: the same in every database that knows it.
    pub key: String,
    /// db.system.name, such as `postgresql`; empty if unknown.
    pub system: String,
    /// Without literals.
    pub text: String,
    /// ms since the epoch.
    pub first_seen_ms: i64,
}

/// What names a statement in an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatementKey {
    /// statements.id
    Id(i32),
    /// [`StatementName::key`].
    Digest([u8; 8]),
}

/// A statement's calls of some whole hours.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StatementSent {
    /// By hour since the epoch, of all endpoints.
    pub hours: BTreeMap<i32, StatementCalls>,
    /// Who sends it in the hours that count, the most time on the critical path first.
    pub endpoints: Vec<SendingEndpoint>,
    /// What all requests of these hours took, whoever made them, ns, weighted.
    pub requests_ns: i64,
}

/// A finding whose evidence is a statement.
#[derive(Clone, PartialEq, Debug, FromRow)]
pub struct NamingFinding {
    /// findings.id
    pub id: i32,
    /// The detector's id.
    pub detector: String,
    /// Where it stands in its life, see [`crate::life::State`].
    pub state: String,
    /// 0 info, 1 warning, 2 critical.
    pub severity: i16,
    /// One sentence.
    pub title: String,
    /// endpoints.id
    pub endpoint_id: i32,
    /// Where.
    pub endpoint: String,
    /// Whose.
    pub service: String,
    /// What fixing it would have saved in the window, weighted, ns.
    pub saved_ns: i64,
    /// Requests affected in the window, weighted.
    pub requests: i64,
    /// As in `findings.evidence`.
    pub evidence: Value,
}

/// A statement that became slower.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct StatementRegression {
    /// regressions.id
    pub id: uuid::Uuid,
    /// One sentence.
    pub title: String,
    /// `open`, `resolved` or `accepted`.
    pub state: String,
    /// Slower since, ms since the epoch.
    pub began_ms: i64,
}

/// A statement found by a part of its text.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct FoundStatement {
    /// [`StatementName::key`].
    pub key: String,
    /// db.system.name
    pub system: String,
    /// Without literals.
    pub text: String,
}

/// Findings told of one statement at most, the dearest.
const FINDINGS_MAX: i64 = 20;

/// Regressions told of one statement at most, the latest.
const REGRESSIONS_MAX: i64 = 10;

/// Statements that a search shows at most; the rest is reached by typing more.
const FOUND_MAX: i64 = 20;

impl Store {
    /// The statement with this id or key.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn statement(&self, key: StatementKey) -> Result<Option<StatementName>, StoreError> {
        let (id, digest) = match key {
            StatementKey::Id(id) => (Some(id), None),
            StatementKey::Digest(digest) => (None, Some(digest.to_vec())),
        };
        // A digest's bytes sort: those with a beginning stand together in the index.
        let name = sqlx::query_as(
            "select id, encode(substring(digest from 1 for 8), 'hex') as key, system, text,
                    (extract(epoch from first_seen) * 1000)::bigint as first_seen_ms
             from culprit.statements
             where id = $1 or digest >= $2 and digest <= $2 || '\\xffffffffffffffffffffffffffffffffffffffffffffffff'::bytea
             order by digest limit 1",
        )
        .bind(id)
        .bind(digest)
        .fetch_optional(self.pool())
        .await?;
        Ok(name)
    }

    /// A statement's calls in `hours` (since the epoch), and who sent it in those of them that are in
    /// `counted`.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn statement_sent(
        &self,
        id: i32,
        hours: Range<i32>,
        counted: &Range<i32>,
    ) -> Result<StatementSent, StoreError> {
        let mut sent = StatementSent::default();
        let mut senders: BTreeMap<i32, StatementCalls> = BTreeMap::new();
        let mut rows = sqlx::query(
            "select endpoint_id, hour, statements from culprit.rollup_hours where hour >= $1 and hour < $2",
        )
        .bind(hours.start)
        .bind(hours.end)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let Some(calls) = encoding::statement_of(row.try_get("statements")?, id)? else {
                continue;
            };
            let hour: i32 = row.try_get("hour")?;
            sent.hours.entry(hour).or_default().merge(&calls, 1);
            if counted.contains(&hour) {
                let endpoint: i32 = row.try_get("endpoint_id")?;
                senders.entry(endpoint).or_default().merge(&calls, 1);
            }
        }
        drop(rows);
        sent.hours.retain(|_, it| it.calls > 0);
        senders.retain(|_, it| it.calls > 0);
        let (requests, requests_ns) = self.requests_by_endpoint(counted).await?;
        sent.requests_ns = requests_ns;
        sent.endpoints = self.named_senders(senders, &requests).await?;
        Ok(sent)
    }

    /// Requests by endpoint, weighted, and what all of them took together, ns.
    async fn requests_by_endpoint(
        &self,
        hours: &Range<i32>,
    ) -> Result<(BTreeMap<i32, i64>, i64), StoreError> {
        let sums: Vec<(i32, i64, i64)> = sqlx::query_as(
            "select endpoint_id, sum(requests)::bigint, sum(duration_ns)::bigint
             from culprit.rollup_minutes where minute >= $1 and minute < $2 group by endpoint_id",
        )
        .bind(hours.start.saturating_mul(60))
        .bind(hours.end.saturating_mul(60))
        .fetch_all(self.pool())
        .await?;
        let total_ns = sums.iter().fold(0_i64, |sum, it| sum.saturating_add(it.2));
        Ok((sums.into_iter().map(|it| (it.0, it.1)).collect(), total_ns))
    }

    async fn named_senders(
        &self,
        senders: BTreeMap<i32, StatementCalls>,
        requests: &BTreeMap<i32, i64>,
    ) -> Result<Vec<SendingEndpoint>, StoreError> {
        let ids: Vec<i32> = senders.keys().copied().collect();
        let rows = sqlx::query(
            "select e.id as endpoint_id, e.name as endpoint, s.id, s.namespace, s.name, s.environment
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where e.id = any($1)",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        let mut endpoints = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i32 = row.try_get("endpoint_id")?;
            endpoints.push(SendingEndpoint {
                id,
                name: row.try_get("endpoint")?,
                service: ServiceName::from_row(&row)?,
                requests: requests.get(&id).copied().unwrap_or_default(),
                calls: senders.get(&id).cloned().unwrap_or_default(),
            });
        }
        endpoints.sort_by_key(|it| (std::cmp::Reverse(it.calls.critical_ns), it.id));
        Ok(endpoints)
    }

    /// The findings about a statement, with what they cost in `minutes`, the dearest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn findings_naming(
        &self,
        text: &str,
        minutes: Minutes,
    ) -> Result<Vec<NamingFinding>, StoreError> {
        let findings = sqlx::query_as(
            "select f.id, f.detector, f.state, f.severity, f.title, f.endpoint_id, e.name as endpoint,
                    s.name as service, f.evidence,
                    coalesce(h.saved_ns, 0) as saved_ns, coalesce(h.requests, 0) as requests
             from culprit.findings f
             join culprit.endpoints e on e.id = f.endpoint_id
             join culprit.services s on s.id = f.service_id
             left join lateral (
                 select sum(saved_ns)::bigint as saved_ns, sum(requests)::bigint as requests
                 from culprit.finding_hits
                 where finding_id = f.id and minute < $3 and minute > $2 - 60 and minute + width > $2) h on true
             where f.evidence ->> 'statement' = $1
             order by saved_ns desc, f.last_seen desc, f.id limit $4",
        )
        .bind(text)
        .bind(minutes.from)
        .bind(minutes.to)
        .bind(FINDINGS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(findings)
    }

    /// The regressions of a statement by itself, the latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn statement_regressions(
        &self,
        id: i32,
    ) -> Result<Vec<StatementRegression>, StoreError> {
        let regressions = sqlx::query_as(
            "select id, title, state, (extract(epoch from began_at) * 1000)::bigint as began_ms
             from culprit.regressions where statement_id = $1
             order by state = 'open' desc, began_at desc, id limit $2",
        )
        .bind(id)
        .bind(REGRESSIONS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(regressions)
    }

    /// The keys of those of these statements that are known, by their texts: for links from findings,
    /// which hold a text and no system. Of several systems that know a text, one is taken.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn statement_keys(
        &self,
        texts: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        // A NUL cannot be stored, nor compared: the dictionary has it replaced too.
        let texts: Vec<String> = texts
            .iter()
            .map(|it| it.replace('\0', "\u{fffd}"))
            .collect();
        let keys: Vec<(String, String)> = sqlx::query_as(
            "select text, encode(substring(digest from 1 for 8), 'hex') from culprit.statements
             where text = any($1) order by id desc",
        )
        .bind(&texts)
        .fetch_all(self.pool())
        .await?;
        Ok(keys.into_iter().collect())
    }

    /// The statements whose text holds `text`, in any case; the shortest first, which say least beside it.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn find_statements(&self, text: &str) -> Result<Vec<FoundStatement>, StoreError> {
        let found = sqlx::query_as(
            "select encode(substring(digest from 1 for 8), 'hex') as key, system, text from culprit.statements
             where position(lower($1) in lower(text)) > 0
             order by length(text), id limit $2",
        )
        .bind(text.replace('\0', "\u{fffd}"))
        .bind(FOUND_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dictionaries::statement_digest;
    use crate::store::encoding::{Statements, statements_bytes};
    use crate::store::statements::tests::calls;

    const MS: i64 = 1_000_000;
    const TEXT: &str = "select ? from a";

    async fn run(store: &Store, sql: &'static str) {
        sqlx::raw_sql(sql).execute(store.pool()).await.unwrap();
    }

    async fn hour(store: &Store, endpoint: i32, hour: i32, part: i64, sent: &[(i32, i64, i64)]) {
        let statements: Statements = sent
            .iter()
            .map(|(id, count, ms)| (*id, calls(*count, *ms)))
            .collect();
        sqlx::query(
            "insert into culprit.rollup_hours (day, shard, endpoint_id, version_id, hour, part, statements, profile,
                 tail_requests, tail_profile)
             values ((now() at time zone 'utc')::date, 0, $1, 1, $2, $4, $3, '', 0, '')",
        )
        .bind(endpoint)
        .bind(hour)
        .bind(statements_bytes(&statements))
        .bind(part)
        .execute(store.pool())
        .await
        .unwrap();
    }

    /// Two endpoints send the first statement in hours 9 to 11; in hour 11 a call is taken back.
    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        run(
            &store,
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod');
             insert into culprit.endpoints (service_id, name) values (1, 'GET /a'), (1, 'GET /b');
             insert into culprit.rollup_minutes (day, shard, endpoint_id, version_id, minute, width, part, requests,
                 errors, duration_ns, categories, calls, latency)
             select (now() at time zone 'utc')::date, 0, e, 1, m, 1, 1, 10, 0, 1000000000, '{}', '{}', ''
             from generate_series(1, 2) e, unnest(array[540, 600, 660]) m;
             insert into culprit.findings (id, state, detector, service_id, endpoint_id, severity, confidence, title,
                 first_seen, last_seen, traces, evidence)
             values (7, 'new', 'slow-query', 1, 1, 2, 1, 'slow', now(), now(), 3, '{\"statement\": \"select ? from a\"}'),
                    (8, 'open', 'n-plus-one-query', 1, 2, 1, 1, 'many', now(), now(), 3,
                     '{\"statement\": \"select ? from a\", \"fix\": \"once\"}'),
                    (9, 'new', 'slow-query', 1, 1, 2, 1, 'other', now(), now(), 3, '{\"statement\": \"get user:?\"}');
             insert into culprit.finding_hits values ((now() at time zone 'utc')::date, 0, 8, 1, 610, 1, 4, 5, 77, '', '[]');
             insert into culprit.regressions (id, endpoint_id, statement_id, kind, state, severity, title, began_at,
                 detected_at, base_from, base_to, numbers)
             values (gen_random_uuid(), 1, 1, 'drift', 'open', 1, 'slower', to_timestamp(60), now(), now(), now(), '{}')",
        )
        .await;
        for (system, text) in [("postgresql", TEXT), ("redis", "get user:?")] {
            sqlx::query(
                "insert into culprit.statements (digest, system, text) values ($1, $2, $3)",
            )
            .bind(statement_digest(system, text).to_vec())
            .bind(system)
            .bind(text)
            .execute(store.pool())
            .await
            .unwrap();
        }
        hour(&store, 1, 9, 1, &[(1, 7, 10)]).await;
        hour(&store, 1, 10, 1, &[(1, 20, 10), (2, 5, 1)]).await;
        hour(&store, 2, 10, 1, &[(1, 10, 30)]).await;
        hour(&store, 2, 11, 1, &[(1, 1, 30)]).await;
        hour(&store, 2, 11, 2, &[(1, -1, 30)]).await;
        store
    }

    #[tokio::test]
    async fn a_statement_is_known_by_id_and_by_digest() {
        let store = drawn().await;
        let by_id = store.statement(StatementKey::Id(1)).await.unwrap().unwrap();
        assert_eq!((by_id.system.as_str(), &*by_id.text), ("postgresql", TEXT));
        let digest = statement_digest("postgresql", TEXT);
        let key: [u8; 8] = digest[..8].try_into().unwrap();
        let by_digest = store.statement(StatementKey::Digest(key)).await.unwrap();
        assert_eq!(by_digest, Some(by_id.clone()));
        assert_eq!(
            u64::from_str_radix(&by_id.key, 16),
            Ok(u64::from_be_bytes(key))
        );
        for none in [StatementKey::Id(99), StatementKey::Digest([9; 8])] {
            assert_eq!(store.statement(none).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn calls_are_told_by_hour_and_by_sender() {
        let store = drawn().await;
        let sent = store.statement_sent(1, 9..12, &(10..12)).await.unwrap();
        let hours: Vec<_> = sent
            .hours
            .iter()
            .map(|(hour, it)| (*hour, it.calls))
            .collect();
        assert_eq!(hours, [(9, 7), (10, 30)], "what was taken back is gone");
        let senders: Vec<_> = sent
            .endpoints
            .iter()
            .map(|it| (it.name.as_str(), it.calls.calls, it.requests))
            .collect();
        assert_eq!(senders, [("GET /b", 10, 20), ("GET /a", 20, 20)]);
        assert_eq!(sent.requests_ns, 4_000 * MS);
        assert_eq!(sent.endpoints[0].service.environment, "prod");
        let none = store.statement_sent(3, 9..12, &(10..12)).await.unwrap();
        assert!(none.hours.is_empty() && none.endpoints.is_empty());
    }

    #[tokio::test]
    async fn what_names_a_statement_is_found_by_its_text() {
        let store = drawn().await;
        let window = Minutes { from: 600, to: 660 };
        let findings = store.findings_naming(TEXT, window).await.unwrap();
        let told: Vec<_> = findings
            .iter()
            .map(|it| (it.id, it.saved_ns, it.requests, it.endpoint.as_str()))
            .collect();
        assert_eq!(told, [(8, 77, 5, "GET /b"), (7, 0, 0, "GET /a")]);
        assert_eq!(findings[0].evidence["fix"], "once");
        let regressions = store.statement_regressions(1).await.unwrap();
        assert_eq!(regressions.len(), 1);
        assert_eq!(
            (regressions[0].state.as_str(), regressions[0].began_ms),
            ("open", 60_000)
        );
        assert!(store.statement_regressions(2).await.unwrap().is_empty());
        let keys = store
            .statement_keys(&BTreeSet::from([TEXT, "select ? from nothing"]))
            .await
            .unwrap();
        let first = store.statement(StatementKey::Id(1)).await.unwrap().unwrap();
        assert_eq!(keys, BTreeMap::from([(TEXT.to_owned(), first.key)]));
    }

    #[tokio::test]
    async fn statements_are_found_by_a_part_of_their_text() {
        let store = drawn().await;
        let found = async |text| {
            let found = store.find_statements(text).await.unwrap();
            found.into_iter().map(|it| it.text).collect::<Vec<_>>()
        };
        assert_eq!(found("FROM A").await, [TEXT]);
        assert_eq!(found("?").await, ["get user:?", TEXT]);
        assert_eq!(found("100%\0").await, [""; 0]);
    }
}
