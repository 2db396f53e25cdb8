//! The shop's database: created if missing, filled once, kept.

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The schema and all rows, as a transaction's statements; about a second on one core.
const CONTENTS: &str = include_str!("shop.sql");

/// Counted up with every change of [`CONTENTS`].
const CONTENTS_VERSION: i32 = 3;

/// The demo's tables live in a schema of their own: whatever else is in the database is left alone.
const SCHEMA: &str = "culprit_demo";

/// The database that every Postgres has, from which others are created.
const MAINTENANCE_DATABASE: &str = "postgres";

/// What the shop's database is called unless the options name it.
const DEFAULT_DATABASE: &str = "shop";

/// Taken while filling, so that a second demo on the same database waits for the first.
const FILLING_LOCK: i64 = 0x63_756C_7072_6974;

/// More connections than [`super::traffic::CONCURRENT_MAX`]: nobody waits for the pool, which
/// would be a culprit nobody planted.
const CONNECTIONS_MAX: u32 = 6;

/// Connects to the shop's database, creating and filling it first if need be.
pub async fn open(options: &PgConnectOptions) -> anyhow::Result<PgPool> {
    let database = options.get_database().unwrap_or(DEFAULT_DATABASE);
    create_if_missing(options, database).await?;
    let options = options
        .clone()
        .database(database)
        .application_name("shop")
        .options([("search_path", SCHEMA)]);
    fill_if_empty(&options).await?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .min_connections(CONNECTIONS_MAX)
        // A ping before every query would cost more than most of the shop's queries.
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// Another pool to the same database, of one connection.
pub fn archive(pool: &PgPool) -> PgPool {
    let options = pool.connect_options();
    PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect_lazy_with((*options).clone())
}

async fn create_if_missing(options: &PgConnectOptions, database: &str) -> anyhow::Result<()> {
    let maintenance = options.clone().database(MAINTENANCE_DATABASE);
    let mut db = PgConnection::connect_with(&maintenance)
        .await
        .with_context(|| format!("cannot connect to the database {MAINTENANCE_DATABASE:?}"))?;
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(database)
            .fetch_one(&mut db)
            .await?;
    if !exists {
        let quoted = database.replace('"', "\"\"");
        let create = AssertSqlSafe(format!("create database \"{quoted}\""));
        sqlx::raw_sql(create)
            .execute(&mut db)
            .await
            .with_context(|| format!("cannot create the database {database:?}"))?;
    }
    db.close().await?;
    Ok(())
}

async fn fill_if_empty(options: &PgConnectOptions) -> anyhow::Result<()> {
    let mut db = PgConnection::connect_with(options).await?;
    // Held until the connection is closed.
    sqlx::query("select pg_advisory_lock($1)")
        .bind(FILLING_LOCK)
        .execute(&mut db)
        .await?;
    if contents_version(&mut db).await? != Some(CONTENTS_VERSION) {
        fill(&mut db)
            .await
            .context("cannot fill the demo shop's tables")?;
    }
    db.close().await?;
    Ok(())
}

async fn fill(db: &mut PgConnection) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::raw_sql(CONTENTS).execute(&mut *tx).await?;
    tx.commit().await?;
    // Not possible inside a transaction. Without it, the first search would pay for the first
    // look at every new row, and the planner would know nothing of them.
    let tables = "vacuum analyze authors, posts, comments, products, price_log, carts, cart_lines, \
                  basket_lines, orders";
    sqlx::raw_sql(tables).execute(&mut *db).await?;
    sqlx::query("insert into contents values ($1)")
        .bind(CONTENTS_VERSION)
        .execute(db)
        .await?;
    Ok(())
}

/// Of what is there; `None` if nothing is, or not all of it.
async fn contents_version(db: &mut PgConnection) -> anyhow::Result<Option<i32>> {
    let exists: bool = sqlx::query_scalar("select to_regclass('contents') is not null")
        .fetch_one(&mut *db)
        .await?;
    if !exists {
        return Ok(None);
    }
    Ok(sqlx::query_scalar("select version from contents")
        .fetch_optional(db)
        .await?)
}
