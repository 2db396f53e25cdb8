//! The database, wherever it is: an external one by its URL, else the private one, started here.

use anyhow::Context;
use collector::postgres::ManagedPostgres;
use collector::store::pool::Access;
use collector::store::{self, Store, StoreError};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::cli::DatabaseOptions;

/// Shards of a new schema on the private Postgres: one process works on it.
const SHARDS_PRIVATE: u16 = 1;

/// Shards of a new schema on an external Postgres: room for that many analyzers.
const SHARDS_EXTERNAL: u16 = 16;

/// A schema that was just brought up to date reaches a replica within this time, or it is an error.
const REPLICA_FOLLOWS_WITHIN: Duration = Duration::from_secs(15);

/// How often the replica is looked at meanwhile.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The name of the database on the private Postgres.
const DATABASE: &str = "culprit";

/// An open database.
pub struct Database {
    /// The way to the tables.
    pub store: Store,
    /// The way for pages: a replica's, if there is one.
    pub people: Store,
    /// The private Postgres, if it is one.
    pub postgres: Option<ManagedPostgres>,
    /// Where it has its data.
    pub state_dir: Option<PathBuf>,
}

/// What a database is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To write: the schema is created or brought up to date.
    Work,
    /// To look: an external database is left as it is, and reading rights are enough.
    Look,
}

impl Database {
    /// Opens the database that `options` name, starting the private Postgres if they name none.
    ///
    /// # Errors
    /// Postgres cannot be started or reached, or the schema is not ours, too old or too new.
    pub async fn open(options: &DatabaseOptions, purpose: Purpose) -> anyhow::Result<Database> {
        match &options.database_url {
            Some(url) => open_external(url, options, purpose).await,
            None if options.pooled || options.read_database_url.is_some() => anyhow::bail!(
                "--pooled and --read-database-url are for an external database: give --database-url too"
            ),
            None => open_private(options).await,
        }
    }

    /// Nobody else works on this database.
    pub fn is_private(&self) -> bool {
        self.postgres.is_some()
    }

    /// Closes the connections and stops the private Postgres.
    pub async fn close(self) {
        self.people.close().await;
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

async fn open_external(
    url: &str,
    options: &DatabaseOptions,
    purpose: Purpose,
) -> anyhow::Result<Database> {
    let access = access(url, options).context("the database URL cannot be read")?;
    let opened = match purpose {
        Purpose::Work => {
            let shards = options.shards.unwrap_or(SHARDS_EXTERNAL);
            Store::open(&access, shards).await
        }
        Purpose::Look => Store::open_to_read(&access).await,
    };
    let store = opened
        .map_err(advised)
        .context("the database given by --database-url or CULPRIT_DATABASE_URL cannot be used")?;
    if purpose == Purpose::Work {
        warn_of_unsafe_settings(&store).await?;
    }
    let people = match &options.read_database_url {
        Some(url) => open_replica(url, options, &store).await.context(
            "the database given by --read-database-url or CULPRIT_READ_DATABASE_URL cannot be used",
        )?,
        None => store.for_people(),
    };
    Ok(Database {
        store,
        people,
        postgres: None,
        state_dir: None,
    })
}

async fn open_replica(
    url: &str,
    options: &DatabaseOptions,
    primary: &Store,
) -> anyhow::Result<Store> {
    let access = access(url, options).context("the URL cannot be read")?;
    let since = Instant::now();
    let replica = loop {
        match Store::open_to_read(&access).await {
            Err(StoreError::NoSchema | StoreError::SchemaTooOld { .. })
                if since.elapsed() < REPLICA_FOLLOWS_WITHIN =>
            {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            opened => break opened.map_err(advised)?,
        }
    };
    Ok(replica.behind(&primary.for_people()).for_people())
}

fn access(url: &str, options: &DatabaseOptions) -> anyhow::Result<Access> {
    Ok(Access {
        options: PgConnectOptions::from_str(url)?,
        pooled: options.pooled,
        connections: options.database_connections.unwrap_or(store::CONNECTIONS),
    })
}

/// The error, and what to do about it if that is known.
fn advised(error: StoreError) -> anyhow::Error {
    match error.advice() {
        Some(advice) => anyhow::anyhow!("{error}; {advice}"),
        None => error.into(),
    }
}

/// A server that does not wait for its disk breaks the promise that nothing acknowledged is lost.
async fn warn_of_unsafe_settings(store: &Store) -> anyhow::Result<()> {
    let settings = store.unsafe_settings().await?;
    if !settings.is_empty() {
        tracing::warn!(
            settings = settings.join(", "),
            "THE DATABASE DOES NOT KEEP WHAT IT CONFIRMS: with these settings a crash of its machine loses spans \
             that were acknowledged, or the whole database; turn them on"
        );
    }
    Ok(())
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
            people: store.for_people(),
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
    let access = Access {
        options: postgres.connect_options(DATABASE),
        pooled: false,
        connections: options.database_connections.unwrap_or(store::CONNECTIONS),
    };
    let store = Store::open(&access, shards).await;
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
