//! How the whole is, for the status page and `/metrics`: what waits, who holds what, how much there
//! is of everything. Every question is cheap enough to be asked every few seconds.

use serde::Serialize;

use super::dictionaries::{OTHER, SIZES};
use super::journal::Backlog;
use super::{Store, StoreError, apart};

/// Lists on the status page are at most so long.
const LISTED_MAX: i64 = 20;

/// What `/metrics` and the status page ask for.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Overview {
    /// What waits in the journal.
    pub journal: Backlog,
    /// Findings by state.
    pub findings: Vec<Counted>,
    /// Alerts by the state of their messages: `waiting`, `delivered`, `dead`.
    pub alerts: Vec<Counted>,
    /// Attempts made so far for messages that still wait.
    pub attempts: i64,
    /// Age of the oldest message that waits, seconds; 0 if none does.
    pub oldest_waiting_s: f64,
    /// Incidents by state: `pending`, `firing`, and those `resolved` within the last day.
    pub incidents: Vec<Counted>,
    /// Traces in quarantine.
    pub quarantined: i64,
    /// Names in the dictionaries.
    pub dictionaries: Vec<DictionarySize>,
}

/// How many there are of a kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, sqlx::FromRow)]
pub struct Counted {
    /// Which kind: one of a few, never a sender's text.
    pub state: String,
    /// How many.
    pub count: i64,
}

/// How large a dictionary is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DictionarySize {
    /// Its table.
    pub name: &'static str,
    /// Its names, `(other)` included.
    pub names: i64,
    /// How many of them are `(other)`: there is one for every cap that was reached.
    pub other: i64,
    /// So many names it may have.
    pub names_max: i64,
}

/// What the status page asks for besides.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Storage {
    /// Bytes by table, partitions and indexes included, largest first.
    pub tables: Vec<TableSize>,
    /// Spans in stored blocks; a trace that grew counts again until its old copy is gone.
    pub spans: i64,
    /// Age of the oldest stored trace, seconds.
    pub oldest_s: Option<f64>,
    /// Age of the newest, seconds.
    pub newest_s: Option<f64>,
    /// Who holds which shard.
    pub holders: Vec<Holder>,
    /// Whose caps were reached, at most [`LISTED_MAX`].
    pub full: Vec<Full>,
    /// PostgreSQL's version.
    pub postgres: String,
    /// The schema's version: the last migration.
    pub schema: i64,
}

/// A table's size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, sqlx::FromRow)]
pub struct TableSize {
    /// The table, without its schema.
    pub name: String,
    /// Bytes.
    pub bytes: i64,
}

/// A shard's lease.
#[derive(Clone, PartialEq, Debug, Serialize, sqlx::FromRow)]
pub struct Holder {
    /// The shard; -1 is the review.
    pub shard: i16,
    /// The process that holds it; `None` if it is free.
    pub owner: Option<String>,
    /// Until it is anybody's, seconds; below zero if it is.
    pub expires_in_s: f64,
}

/// A cap that was reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, sqlx::FromRow)]
pub struct Full {
    /// What there is too much of: `endpoints`, `versions`, `statements`, `services`, `call paths`.
    pub what: String,
    /// The service it happened in; empty for all.
    pub service: String,
    /// The endpoint it happened in, with its page; `None` if it is the service's.
    pub endpoint: Option<String>,
    /// Its id.
    pub endpoint_id: Option<i32>,
}

impl Store {
    /// How the whole is.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        let findings = sqlx::query_as(
            "select state, count(*) from culprit.findings group by state order by state",
        );
        let alerts = sqlx::query_as(
            "select s.state, count(o.id) from unnest(array['waiting', 'delivered', 'dead']) as s(state)
             left join culprit.outbox o on s.state =
                case when o.delivered_at is not null then 'delivered'
                     -- A test's sender saw what came of it; who dismissed one, too.
                     when o.dead_at is not null and (o.event = 'test' or o.dismissed_at is not null) then ''
                     when o.dead_at is not null then 'dead' else 'waiting' end
             group by s.state order by s.state",
        );
        let (attempts, oldest_waiting_s) = sqlx::query_as(
            "select coalesce(sum(attempts), 0)::bigint,
                    coalesce(extract(epoch from now() - min(created_at)), 0)::float8
             from culprit.outbox where delivered_at is null and dead_at is null",
        )
        .fetch_one(self.pool())
        .await?;
        let quarantined =
            sqlx::query_scalar("select count(distinct trace_id) from culprit.quarantine");
        Ok(Overview {
            journal: self.journal_backlog().await?,
            findings: findings.fetch_all(self.pool()).await?,
            alerts: alerts.fetch_all(self.pool()).await?,
            attempts,
            oldest_waiting_s,
            incidents: self.incidents_by_state().await?,
            quarantined: quarantined.fetch_one(self.pool()).await?,
            dictionaries: self.dictionary_sizes().await?,
        })
    }

    async fn dictionary_sizes(&self) -> Result<Vec<DictionarySize>, StoreError> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "select count(*), count(*) filter (where name = $1) from culprit.services
             union all
             select count(*), count(*) filter (where name = $1) from culprit.endpoints
             union all
             select count(*), count(*) filter (where version = $1) from culprit.versions
             union all
             select count(*), count(*) filter (where system = '' and text = $1) from culprit.statements
             union all
             select count(*), count(*) filter (where fingerprint = $1) from culprit.finding_keys
             union all
             select count(*), count(*) filter (where callee_id is null and category = '') from culprit.edges",
        )
        .bind(OTHER)
        .fetch_all(self.pool())
        .await?;
        let sizes = SIZES.iter().zip(rows);
        Ok(sizes
            .map(|((name, names_max), (names, other))| DictionarySize {
                name,
                names,
                other,
                names_max: *names_max as i64,
            })
            .collect())
    }

    /// How much is stored, since when, and who works on it.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn storage(&self) -> Result<Storage, StoreError> {
        let tables = sqlx::query_as(
            "select coalesce(parent.relname, c.relname)::text as name,
                    sum(pg_total_relation_size(c.oid))::bigint as bytes
             from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
             left join pg_inherits i on i.inhrelid = c.oid
             left join pg_class parent on parent.oid = i.inhparent
             where n.nspname = 'culprit' and c.relkind in ('r', 'p')
             group by 1 order by 2 desc, 1",
        );
        // Block ids are the microsecond in which they were written.
        let (spans, oldest_s, newest_s): (i64, Option<f64>, Option<f64>) = sqlx::query_as(
            "select coalesce(sum(spans), 0)::bigint,
                    (extract(epoch from now()) - min(id) / 1e6)::float8,
                    (extract(epoch from now()) - max(id) / 1e6)::float8
             from culprit.trace_blocks",
        )
        .fetch_one(self.pool())
        .await?;
        let (postgres, schema) = self.versions().await?;
        Ok(Storage {
            tables: tables.fetch_all(self.pool()).await?,
            spans,
            oldest_s,
            newest_s,
            holders: self.holders().await?,
            full: self.full().await?,
            postgres,
            schema,
        })
    }

    /// Postgres' version and the schema's.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn versions(&self) -> Result<(String, i64), StoreError> {
        let versions = sqlx::query_as(
            "select current_setting('server_version'), max(version) from culprit.migrations where success",
        );
        Ok(versions.fetch_one(self.pool()).await?)
    }

    async fn holders(&self) -> Result<Vec<Holder>, StoreError> {
        let holders = sqlx::query_as(
            "select shard, owner::text,
                    case when isfinite(expires_at)
                         then extract(epoch from expires_at - now())::float8 else -1 end as expires_in_s
             from culprit.leases order by shard",
        );
        Ok(holders.fetch_all(self.pool()).await?)
    }

    /// Whose caps were reached: there is an `(other)`.
    async fn full(&self) -> Result<Vec<Full>, StoreError> {
        let full = sqlx::query_as(
            "select 'services' as what, '' as service, null as endpoint, null::integer as endpoint_id
             from culprit.services where name = $1
             union all
             select 'statements', '', null, null from culprit.statements where system = '' and text = $1
             union all
             select 'endpoints', s.name, null, null
             from culprit.endpoints e join culprit.services s on s.id = e.service_id where e.name = $1
             union all
             select 'versions', s.name, null, null
             from culprit.versions v join culprit.services s on s.id = v.service_id where v.version = $1
             union all
             select 'call paths', s.name, e.name, e.id
             from culprit.counted_apart c
             join culprit.endpoints e on e.id = c.endpoint_id
             join culprit.services s on s.id = e.service_id
             where c.day = (now() at time zone 'utc')::date and length(c.paths) >= 8 * $3
             union all
             select 'statements', s.name, e.name, e.id
             from culprit.counted_apart c
             join culprit.endpoints e on e.id = c.endpoint_id
             join culprit.services s on s.id = e.service_id
             where c.day = (now() at time zone 'utc')::date and length(c.statements) >= 8 * $4
             limit $2",
        );
        Ok(full
            .bind(OTHER)
            .bind(LISTED_MAX)
            .bind(apart::PATHS_MAX as i32)
            .bind(apart::STATEMENTS_MAX as i32)
            .fetch_all(self.pool())
            .await?)
    }
}
