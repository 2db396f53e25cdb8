//! The database, wherever it is: an external one by its URL, else the private one, started here.

use anyhow::Context;
use collector::postgres::ManagedPostgres;
use collector::store::Store;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::DatabaseOptions;

/// Shards of a new schema on the private Postgres: one process works on it.
const SHARDS_PRIVATE: u16 = 1;

/// Shards of a new schema on an external Postgres: room for that many analyzers.
const SHARDS_EXTERNAL: u16 = 16;

/// The name of the database on the private Postgres.
const DATABASE: &str = "culprit";

/// An open database.
pub struct Database {
    /// The way to the tables.
    pub store: Store,
    /// The private Postgres, if it is one.
    pub postgres: Option<ManagedPostgres>,
    /// Where it has its data.
    pub state_dir: Option<PathBuf>,
}

impl Database {
    /// Opens the database that `options` name, starting the private Postgres if they name none,
    /// and brings its schema up to date.
    ///
    /// # Errors
    /// Postgres cannot be started or reached, or the schema is not ours.
    pub async fn open(options: &DatabaseOptions) -> anyhow::Result<Database> {
        match &options.database_url {
            Some(url) => open_external(url, options).await,
            None => open_private(options).await,
        }
    }

    /// Nobody else works on this database.
    pub fn is_private(&self) -> bool {
        self.postgres.is_some()
    }

    /// Closes the connections and stops the private Postgres.
    pub async fn close(self) {
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

async fn open_external(url: &str, options: &DatabaseOptions) -> anyhow::Result<Database> {
    let connect = PgConnectOptions::from_str(url).context("the database URL cannot be read")?;
    let shards = options.shards.unwrap_or(SHARDS_EXTERNAL);
    let store = Store::connect(connect, shards)
        .await
        .context("the database given by --database-url or CULPRIT_DATABASE_URL cannot be used")?;
    Ok(Database {
        store,
        postgres: None,
        state_dir: None,
    })
}

async fn open_private(options: &DatabaseOptions) -> anyhow::Result<Database> {
    let mut managed = collector::postgres::Options::from_environment();
    if let Some(directory) = &options.data_dir {
        managed.state_dir = directory.clone();
    }
    let state_dir = managed.state_dir.clone();
    let postgres = ManagedPostgres::start(managed).await?;
    let opened = open_on(&postgres, options).await;
    match opened {
        Ok(store) => Ok(Database {
            store,
            postgres: Some(postgres),
            state_dir: Some(state_dir),
        }),
        Err(error) => {
            postgres.stop().await;
            Err(error)
        }
    }
}

async fn open_on(postgres: &ManagedPostgres, options: &DatabaseOptions) -> anyhow::Result<Store> {
    create_database(&postgres.connect_options("postgres"), DATABASE).await?;
    let shards = options.shards.unwrap_or(SHARDS_PRIVATE);
    let store = Store::connect(postgres.connect_options(DATABASE), shards).await;
    store.context("the private Postgres runs, but its schema cannot be used")
}

/// Creates a database of a fixed name if it is missing.
async fn create_database(maintenance: &PgConnectOptions, name: &'static str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(maintenance)
        .await
        .context("the private Postgres runs, but cannot be connected to")?;
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        connection.execute("create database culprit").await?;
    }
    connection.close().await?;
    Ok(())
}
