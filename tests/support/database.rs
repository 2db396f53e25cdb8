//! The database beside culprit's back: locks, settings, connections.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::path::Path;

/// A connection of the test's own to the private Postgres in a data directory.
pub async fn connect(data: &Path, database: &str) -> PgConnection {
    try_connect(&options(data, database))
        .await
        .expect("the private Postgres answers")
}

/// How to connect to it, under a name that tells it from culprit's connections.
pub fn options(data: &Path, database: &str) -> PgConnectOptions {
    collector::postgres::connect_options_in(data, database)
        .expect("a data directory with a Postgres")
        .application_name("test")
}

/// A connection, unless there is none to be had.
pub async fn try_connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(options).await
}

/// Runs statements of the test's.
pub async fn execute(connection: &mut PgConnection, statements: &str) {
    connection
        .execute(AssertSqlSafe(statements.to_owned()))
        .await
        .expect("a statement that is right");
}

/// Cuts all of culprit's connections; it makes new ones.
pub async fn cut_connections(connection: &mut PgConnection) {
    execute(
        connection,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'culprit'",
    )
    .await;
}

/// Somebody waits for a lock on a table.
pub async fn waits_for_a_lock(connection: &mut PgConnection) -> bool {
    let waiting: i64 = sqlx::query_scalar(
        "select count(*) from pg_locks where not granted and locktype = 'relation'",
    )
    .fetch_one(connection)
    .await
    .expect("it answers");
    waiting > 0
}
