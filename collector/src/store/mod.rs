//! All SQL: one file per table family, one method per question a page or a loop asks.
//!
//! Every statement names the schema `culprit`; binds only, never text put together from input.

pub mod alerts_shown;
pub mod apart;
pub mod audit;
pub mod blocks;
pub mod bottlenecks;
pub mod channels;
pub mod compaction;
mod configured;
pub mod compared;
pub mod deployments;
pub mod dictionaries;
pub mod encoding;
pub mod edge_keys;
pub mod edges;
pub mod endpoints;
pub mod exemplars;
pub mod finalise;
pub mod findings;
pub mod history;
pub mod journal;
pub mod leases;
pub mod lives;
pub mod observed;
pub mod incidents;
pub mod signals;
pub mod outbox;
pub mod deliveries;
pub mod overview;
pub mod partitions;
pub mod plans;
pub mod pool;
pub mod profiles;
pub mod quarantine;
pub mod recount;
pub mod requests;
pub mod keeping;
pub mod regressions_shown;
pub mod replica;
pub mod retention;
pub mod rollups;
pub mod rules;
pub mod regressions;
pub mod schema;
pub mod search;
pub mod services;
pub mod silences;
pub mod statements;
pub mod statement;
pub mod traces;
pub mod traces_again;

use sqlx::postgres::PgConnectOptions;

use pool::{Access, Connections, Pool};

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres said no, or could not be reached.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// Nobody has created the schema yet.
    #[error(
        "the database has no schema `culprit` yet; run `culprit migrate`, or start a collector or analyzer on it"
    )]
    NoSchema,
    /// Migrations are missing, and it is not this role's task to run them.
    #[error(
        "the schema is at version {found}, and this culprit needs {needed}; \
         run `culprit migrate`, or start a collector or analyzer of this version"
    )]
    SchemaTooOld {
        /// The schema's version.
        found: i64,
        /// The program's.
        needed: i64,
    },
    /// A newer culprit has changed the schema so that this one cannot work with it.
    #[error(
        "the schema is at version {found}, made by a newer culprit; this one knows {known}: run the newer one"
    )]
    SchemaTooNew {
        /// The schema's version.
        found: i64,
        /// The program's.
        known: i64,
    },
    /// The schema went another way than this program's migrations.
    #[error("migration {0} was applied to the database in another form than this culprit has it")]
    OtherMigration(i64),
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
    pool: Pool,
    shards: u16,
    /// Where a replica's store asks for what the replica does not have yet.
    primary: Option<Pool>,
}

/// Connections of the shard owners, the journal and the review, unless told otherwise.
pub const CONNECTIONS: u32 = 12;

/// Connections for pages and the API; at the bound pages wait.
const PEOPLES_CONNECTIONS_MAX: u32 = 6;

impl Store {
    /// Connects straight to a database with the usual bounds; see [`Store::open`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn connect(options: PgConnectOptions, shards: u16) -> Result<Store, StoreError> {
        let access = Access {
            options,
            pooled: false,
            connections: CONNECTIONS,
        };
        Store::open(&access, shards).await
    }

    /// Connects, creates or updates the schema, makes partitions, and reads how many shards there are. A
    /// new schema gets `shards` of them; in an existing one they are fixed.
    ///
    /// # Errors
    /// Postgres cannot be reached, the schema is not ours or too new, or a migration failed.
    pub async fn open(access: &Access, shards: u16) -> Result<Store, StoreError> {
        let pool = Pool::durable(access).await?;
        schema::migrate(&pool, shards).await?;
        let store = Store::on(pool).await?;
        store.create_partitions().await?;
        Ok(store)
    }

    /// Connects to a schema that must be there, and changes nothing: reading rights are enough.
    ///
    /// # Errors
    /// Postgres cannot be reached, or the schema is missing, too old or too new.
    pub async fn open_to_read(access: &Access) -> Result<Store, StoreError> {
        let pool = Pool::new(access);
        pool.probe().await?;
        schema::check(&pool).await?;
        Store::on(pool).await
    }

    async fn on(pool: Pool) -> Result<Store, StoreError> {
        let shards: String =
            sqlx::query_scalar("select value from culprit.meta where key = 'shards'")
                .fetch_one(&pool)
                .await?;
        let shards = shards
            .parse()
            .map_err(|_| StoreError::Damaged(format!("culprit.meta: shards is '{shards}'")))?;
        Ok(Store {
            pool,
            shards,
            primary: None,
        })
    }

    /// A way to the same database for people: connections of its own, so that a slow page never
    /// keeps spans waiting, and an end for every statement that takes too long.
    pub fn for_people(&self) -> Store {
        Store {
            pool: self.pool.for_people(PEOPLES_CONNECTIONS_MAX),
            ..self.clone()
        }
    }

    /// The connections right now.
    pub fn connections(&self) -> Connections {
        self.pool.connections()
    }

    /// How many shards the schema was created with.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The pool, for the files of this folder and for tests.
    pub fn pool(&self) -> &Pool {
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
        if read_only != "off" {
            // After a failover the name may lead to another server by now.
            self.pool.reconnect();
        }
        Ok(read_only == "off")
    }

    /// Looks at what went wrong: connections to a server that takes no writes any more are given up.
    pub fn note(&self, error: &StoreError) {
        if error.code().as_deref() == Some(READ_ONLY_TRANSACTION) {
            self.pool.reconnect();
        }
    }

    /// Closes all connections; waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What Postgres answers to a write on a replica.
const READ_ONLY_TRANSACTION: &str = "25006";

impl StoreError {
    /// Postgres' code of the error (SQLSTATE), if it is Postgres' own.
    pub fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            StoreError::Postgres(sqlx::Error::Database(error)) => error.code(),
            _ => None,
        }
    }

    /// This database or this user takes no writes at all.
    pub fn is_read_only(&self) -> bool {
        let code = self.code();
        [READ_ONLY_TRANSACTION, "42501"].contains(&code.as_deref().unwrap_or_default())
    }

    /// Postgres refuses what was to be written, and would refuse it again: a value it cannot hold, a
    /// key that is there. Not a missing partition (23514), which is made meanwhile.
    pub fn is_about_the_data(&self) -> bool {
        self.code().is_some_and(|code| {
            let class = code.get(..2).unwrap_or_default();
            ["22", "23", "54"].contains(&class) && code != "23514"
        })
    }

    /// What to do about it, if that is known.
    pub fn advice(&self) -> Option<&'static str> {
        let text = self.to_string();
        match self.code().as_deref() {
            Some("53300") => Some(
                "the server has no connection left: raise its max_connections, or lower --database-connections",
            ),
            Some("25006") => Some(
                "the server takes no writes: it is a replica, or a primary that was replaced; give the primary's address",
            ),
            Some("28P01" | "28000") => Some("check the user and the password in the URL"),
            Some("3D000") => Some("create the database first"),
            Some("42501") => {
                Some("the user lacks a right; see the README on the rights of each role")
            }
            // Named statements meet another connection's.
            Some("42P05" | "26000") => Some(POOLER),
            _ if text.contains("unsupported startup parameter") => Some(POOLER),
            _ => None,
        }
    }
}

const POOLER: &str =
    "there seems to be a connection pooler in transaction mode in between: add --pooled";

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

    use super::*;

    /// A session keeps what it began with, as a connection to a demoted server would.
    #[tokio::test]
    async fn connections_to_a_server_that_takes_no_writes_any_more_are_given_up() {
        let options = crate::testing::database().await;
        let name = options.get_database().unwrap().to_owned();
        let mut admin = PgConnection::connect_with(&options).await.unwrap();
        // One, so that nobody gets another by chance.
        let access = Access {
            options,
            pooled: false,
            connections: 1,
        };
        let store = Store::open(&access, 1).await.unwrap();
        let mut read_only = async |value: &str| {
            let alter =
                format!("alter database {name} set default_transaction_read_only = {value}");
            admin.execute(AssertSqlSafe(alter)).await.unwrap();
        };
        let row = || vec![crate::journal::row(0, 1, b"spans")];
        read_only("on").await;
        store.pool().reconnect();
        let error = store.append_journal(row()).await.unwrap_err();
        assert_eq!(error.code().as_deref(), Some("25006"));
        assert!(error.advice().unwrap().contains("primary"));
        read_only("off").await;
        assert!(store.append_journal(row()).await.is_err());
        store.note(&error);
        store.append_journal(row()).await.unwrap();
    }

    #[tokio::test]
    async fn settings_that_lose_what_is_confirmed_are_named() {
        let options = crate::testing::database().await;
        let named = async |synchronous_commit: &str| {
            let options = options
                .clone()
                .options([("synchronous_commit", synchronous_commit)]);
            // Straight connections would turn it on for themselves.
            let access = Access {
                options,
                pooled: true,
                connections: 2,
            };
            let store = Store::open(&access, 1).await.unwrap();
            store.unsafe_settings().await.unwrap()
        };
        // Clusters of tests are in a hurry.
        let hurried = ["fsync = off", "full_page_writes = off"];
        assert_eq!(named("on").await, hurried);
        assert_eq!(named("off").await[..2], hurried);
        assert_eq!(named("off").await[2], "synchronous_commit = off");
    }

    #[tokio::test]
    async fn straight_connections_wait_for_the_disk_whatever_the_default_is() {
        let options = crate::testing::database().await;
        let options = options.options([("synchronous_commit", "off")]);
        let store = Store::connect(options, 1).await.unwrap();
        let commit: String = sqlx::query_scalar("select current_setting('synchronous_commit')")
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(commit, "on");
    }
}
