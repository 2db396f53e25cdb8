//! The schema: creating it, bringing it up to date, and telling whether this program can work with it.
//!
//! All migrations that are missing run in one transaction, under a lock that lives as long: two starters do
//! not collide, a pooler that hands out connections by transaction does no harm, and what fails leaves
//! nothing behind.

use sqlx::migrate::Migrator;
use sqlx::{Executor, query, query_as, query_scalar, raw_sql};
use std::collections::BTreeMap;

use super::pool::{Connection, Pool};
use super::{Store, StoreError};

/// Every migration this program knows.
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Migrations wait at most this long for a table that others use, instead of stopping them behind it.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '15s'";

/// The newest version this program knows.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|it| it.version).max().unwrap_or(0)
}

/// Brings the schema up to date, creating it if there is none; a new one gets `shards` shards. A schema that
/// is newer than this program is left as it is, if it can be worked with.
///
/// # Errors
/// Postgres cannot be reached or refuses, or the schema is not ours or too new.
pub(super) async fn migrate(pool: &Pool, shards: u16) -> Result<(), StoreError> {
    migrate_to(pool, shards, newest()).await
}

/// As [`migrate`], up to a version: for tests of the way from there.
pub(super) async fn migrate_to(pool: &Pool, shards: u16, newest: i64) -> Result<(), StoreError> {
    let mut transaction = pool.begin().await?;
    query("select pg_advisory_xact_lock(hashtext('culprit.migrations'))")
        .execute(&mut *transaction)
        .await?;
    transaction.execute(LOCK_TIMEOUT).await?;
    refuse_other_encodings(&mut transaction).await?;
    refuse_foreign_schema(&mut transaction).await?;
    create_table(&mut transaction).await?;
    let applied = applied(&mut transaction).await?;
    refuse_too_new(&mut transaction, &applied).await?;
    let missing = MIGRATIONS
        .iter()
        .filter(|it| it.version <= newest && !applied.contains_key(&it.version));
    for migration in missing {
        tracing::info!(version = migration.version, what = %migration.description, "the schema is brought up to date");
        raw_sql(migration.sql.clone())
            .execute(&mut *transaction)
            .await?;
        query(
            "insert into culprit.migrations (version, description, success, checksum, execution_time)
             values ($1, $2, true, $3, 0)",
        )
        .bind(migration.version)
        .bind(migration.description.as_ref())
        .bind(migration.checksum.as_ref())
        .execute(&mut *transaction)
        .await?;
    }
    query("insert into culprit.meta (key, value) values ('shards', $1) on conflict do nothing")
        .bind(shards.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Tells whether this program can work with the schema as it is; needs to read only.
///
/// # Errors
/// There is no schema, or it is too old or too new; what to do is said.
pub(super) async fn check(pool: &Pool) -> Result<(), StoreError> {
    let mut transaction = pool.begin().await?;
    let exists: bool = query_scalar("select to_regclass('culprit.migrations') is not null")
        .fetch_one(&mut *transaction)
        .await?;
    if !exists {
        return Err(StoreError::NoSchema);
    }
    let applied = applied(&mut transaction).await?;
    refuse_too_new(&mut transaction, &applied).await?;
    transaction.commit().await?;
    let missing = MIGRATIONS
        .iter()
        .any(|it| !applied.contains_key(&it.version));
    if missing {
        let found = applied.keys().last().copied().unwrap_or_default();
        return Err(StoreError::SchemaTooOld {
            found,
            needed: newest(),
        });
    }
    Ok(())
}

/// Creates what remembers the migrations. Asked first: creating needs rights that a prepared schema's user
/// may lack.
async fn create_table(connection: &mut Connection) -> Result<(), StoreError> {
    let schema: bool = query_scalar("select to_regnamespace('culprit') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !schema {
        connection.execute("create schema culprit").await?;
    }
    let table: bool = query_scalar("select to_regclass('culprit.migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !table {
        connection
            .execute(
                "create table culprit.migrations (
                    version bigint primary key,
                    description text not null,
                    installed_on timestamptz not null default now(),
                    success boolean not null,
                    checksum bytea not null,
                    execution_time bigint not null
                 )",
            )
            .await?;
    }
    Ok(())
}

/// Versions that the schema has; each is what this program knows under that number.
async fn applied(connection: &mut Connection) -> Result<BTreeMap<i64, Vec<u8>>, StoreError> {
    let applied: Vec<(i64, Vec<u8>)> =
        query_as("select version, checksum from culprit.migrations order by version")
            .fetch_all(connection)
            .await?;
    let applied: BTreeMap<_, _> = applied.into_iter().collect();
    for migration in MIGRATIONS.iter() {
        let other = applied
            .get(&migration.version)
            .is_some_and(|it| *it != *migration.checksum);
        if other {
            return Err(StoreError::OtherMigration(migration.version));
        }
    }
    Ok(applied)
}

/// A newer schema says which programs can work with it; those that only add leave older ones running.
async fn refuse_too_new(
    connection: &mut Connection,
    applied: &BTreeMap<i64, Vec<u8>>,
) -> Result<(), StoreError> {
    let found = applied.keys().last().copied().unwrap_or_default();
    if found <= newest() {
        return Ok(());
    }
    let from: Option<String> =
        query_scalar("select value from culprit.meta where key = 'programs_from'")
            .fetch_optional(connection)
            .await?;
    let from: i64 = from.and_then(|it| it.parse().ok()).unwrap_or(found);
    if newest() >= from {
        tracing::info!(
            found,
            known = newest(),
            "the schema is newer than this program, and still fits"
        );
        Ok(())
    } else {
        Err(StoreError::SchemaTooNew {
            found,
            known: newest(),
        })
    }
}

/// Any other encoding would fail on the first character it lacks, in the middle of a tick.
async fn refuse_other_encodings(connection: &mut Connection) -> Result<(), StoreError> {
    let encoding: String = query_scalar("select current_setting('server_encoding')")
        .fetch_one(connection)
        .await?;
    if encoding == "UTF8" {
        Ok(())
    } else {
        Err(StoreError::Encoding(encoding))
    }
}

async fn refuse_foreign_schema(connection: &mut Connection) -> Result<(), StoreError> {
    let foreign: bool = query_scalar(
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

impl Store {
    /// What the server is told not to do, and a crash of its machine would therefore lose: empty if it
    /// keeps what it says it keeps.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>, StoreError> {
        let settings = query_scalar(
            "select name || ' = off' from unnest(array['fsync', 'full_page_writes', 'synchronous_commit']) name
             where current_setting(name) = 'off' order by name",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(settings)
    }
}
