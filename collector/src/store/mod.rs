//! All SQL: one file per table family, one method per question a page or a loop asks.
//!
//! Every statement names the schema `culprit`; binds only, never text put together from input.

pub mod blocks;
pub mod bottlenecks;
pub mod compaction;
pub mod dictionaries;
pub mod encoding;
pub mod endpoints;
pub mod finalise;
pub mod findings;
pub mod journal;
pub mod leases;
pub mod outbox;
pub mod partitions;
pub mod quarantine;
pub mod recount;
pub mod requests;
pub mod keeping;
pub mod retention;
pub mod rollups;
pub mod search;
pub mod services;
pub mod traces;
pub mod traces_again;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres said no, or could not be reached.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// There is a schema of our name that is not ours.
    #[error(
        "the database has a schema `culprit` that culprit did not create; \
         use another database, or rename that schema"
    )]
    ForeignSchema,
    /// The database cannot hold every text.
    #[error(
        "the database's encoding is {0}, and only UTF8 holds what services send; create one with `encoding utf8`"
    )]
    Encoding(String),
    /// Another owner has taken the shard over: what was computed must be forgotten.
    #[error("the lease of shard {0} is lost")]
    LeaseLost(i16),
    /// What is stored cannot be read back.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

/// The way to the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    shards: u16,
}

/// Connections of the shard owners, the journal and the review; at the bound callers wait, at most [`ACQUIRE_TIMEOUT`].
const CONNECTIONS_MAX: u32 = 12;

/// Connections for pages and the API; at the bound pages wait.
const PEOPLES_CONNECTIONS_MAX: u32 = 6;

/// A page that asks for more than this gets an error.
const PEOPLES_STATEMENT_TIMEOUT: &str = "15s";

/// After this long without a free connection the caller gets an error instead of waiting on.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// Connects, creates or updates the schema, and reads how many shards it has. A new schema gets
    /// `shards` of them; in an existing one they are fixed.
    ///
    /// # Errors
    /// Postgres cannot be reached, the schema is not ours, or a migration failed.
    pub async fn connect(options: PgConnectOptions, shards: u16) -> Result<Store, StoreError> {
        let options = options.application_name("culprit");
        migrate(&options, shards).await?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A ping before every statement would double the round trips of ingest.
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        let shards: String =
            sqlx::query_scalar("select value from culprit.meta where key = 'shards'")
                .fetch_one(&pool)
                .await?;
        let shards = shards
            .parse()
            .map_err(|_| StoreError::Damaged(format!("culprit.meta: shards is '{shards}'")))?;
        let store = Store { pool, shards };
        store.create_partitions().await?;
        Ok(store)
    }

    /// A way to the same database for people: connections of its own, so that a slow page never
    /// keeps spans waiting, and an end for every statement that takes too long.
    pub fn for_people(&self) -> Store {
        let options = (*self.pool.connect_options()).clone();
        let options = options.options([("statement_timeout", PEOPLES_STATEMENT_TIMEOUT)]);
        let pool = PgPoolOptions::new()
            .max_connections(PEOPLES_CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Store {
            pool,
            shards: self.shards,
        }
    }

    /// How many shards the schema was created with.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The pool, for the files of this folder and for tests.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The database answers and takes writes (it is not a replica, nor read-only).
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn is_writable(&self) -> Result<bool, StoreError> {
        let read_only: String =
            sqlx::query_scalar("select current_setting('transaction_read_only')")
                .fetch_one(&self.pool)
                .await?;
        Ok(read_only == "off")
    }

    /// Closes all connections; waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Brings the schema up to date, creating it if there is none. Safe to run in several processes at
/// once: sqlx takes an advisory lock for it.
///
/// # Errors
/// As [`Store::connect`].
pub async fn migrate(options: &PgConnectOptions, shards: u16) -> Result<(), StoreError> {
    let mut connection = PgConnection::connect_with(options).await?;
    refuse_other_encodings(&mut connection).await?;
    refuse_foreign_schema(&mut connection).await?;
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name("culprit.migrations");
    // Asked for only where it is missing: it needs a right that a prepared schema's owner may lack.
    let exists: bool = sqlx::query_scalar("select to_regnamespace('culprit') is not null")
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        migrator.create_schema("culprit");
    }
    migrator.run(&mut connection).await?;
    sqlx::query(
        "insert into culprit.meta (key, value) values ('shards', $1) on conflict do nothing",
    )
    .bind(shards.to_string())
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    Ok(())
}

/// Any other encoding would fail on the first character it lacks, in the middle of a tick.
async fn refuse_other_encodings(connection: &mut PgConnection) -> Result<(), StoreError> {
    let encoding: String = sqlx::query_scalar("select current_setting('server_encoding')")
        .fetch_one(connection)
        .await?;
    if encoding == "UTF8" {
        Ok(())
    } else {
        Err(StoreError::Encoding(encoding))
    }
}

async fn refuse_foreign_schema(connection: &mut PgConnection) -> Result<(), StoreError> {
    let foreign: bool = sqlx::query_scalar(
        "select exists (select from pg_namespace where nspname = 'culprit')
            and to_regclass('culprit.migrations') is null
            and exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where n.nspname = 'culprit')",
    )
    .fetch_one(connection)
    .await?;
    if foreign {
        Err(StoreError::ForeignSchema)
    } else {
        Ok(())
    }
}
