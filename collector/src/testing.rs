//! A real Postgres for tests: one private cluster per test process, one database per test.
//!
//! The cluster lives on a thread of its own, because tests bring their own runtimes and end in any
//! order; the kernel stops it when the process ends. Databases are copies of a migrated template.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::postgres::{ManagedPostgres, Options};
use crate::store::Store;

/// Where clusters are, below the directory for temporary files.
const PREFIX: &str = "culprit-cluster-";

const TEMPLATE: &str = "culprit_template";

/// How to connect to a new, empty, migrated database of this test's own. It is left behind when the
/// test ends, and goes with the cluster.
pub async fn database() -> PgConnectOptions {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cluster = cluster();
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect_with(&cluster.clone().database("postgres"))
        .await
        .expect("the test cluster answers");
    let create = format!("create database {name} template {TEMPLATE}");
    connection
        .execute(AssertSqlSafe(create))
        .await
        .expect("a database from the template");
    connection.close().await.expect("a connection that closes");
    cluster.clone().database(&name)
}

/// A store on a database of this test's own, with one shard.
pub async fn store() -> Store {
    Store::connect(database().await, 1)
        .await
        .expect("a migrated database")
}

/// As [`store`], with more shards.
pub async fn store_with_shards(shards: u16) -> Store {
    let options = database().await;
    let mut connection = PgConnection::connect_with(&options)
        .await
        .expect("the test cluster answers");
    sqlx::query("update culprit.meta set value = $1 where key = 'shards'")
        .bind(shards.to_string())
        .execute(&mut connection)
        .await
        .expect("a migrated database");
    connection.close().await.expect("a connection that closes");
    Store::connect(options, shards)
        .await
        .expect("a migrated database")
}

/// Makes everything that is stored `days` old: of that many days before the day it is of.
pub async fn days_ago(store: &Store, days: i32) {
    for table in [
        "trace_blocks",
        "rollup_minutes",
        "rollup_hours",
        "finding_hits",
        "rollup_edges",
    ] {
        let day: String =
            sqlx::query_scalar("select to_char((now() at time zone 'utc')::date - $1, 'YYYYMMDD')")
                .bind(days)
                .fetch_one(store.pool())
                .await
                .expect("a day");
        let create = format!(
            "create table culprit.{table}_{day} (like culprit.{table} including all);
             alter table culprit.{table} attach partition culprit.{table}_{day}
                 for values from ('{day}') to (date '{day}' + 1)"
        );
        store
            .pool()
            .execute(AssertSqlSafe(create))
            .await
            .expect("a partition");
        let moved = format!("update culprit.{table} set day = day - {days}");
        store
            .pool()
            .execute(AssertSqlSafe(moved))
            .await
            .expect("rows that move");
    }
    sqlx::query("update culprit.superseded set day = day - $1")
        .bind(days)
        .execute(store.pool())
        .await
        .expect("rows that move");
}

/// The process's cluster, started when it is first asked for.
fn cluster() -> &'static PgConnectOptions {
    static CLUSTER: OnceLock<PgConnectOptions> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let (to, from) = std::sync::mpsc::channel();
        std::thread::spawn(move || keep_cluster(to));
        from.recv()
            .expect("the test cluster starts; see above why not")
    })
}

/// Starts the cluster, tells how to connect to it, and holds it for as long as the process lives.
fn keep_cluster(ready: std::sync::mpsc::Sender<PgConnectOptions>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let directory = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        // Of somebody who had our pid, and whose shell was killed as well.
        let _ = std::fs::remove_dir_all(&directory);
        let _our_end = remove_after_our_end(&directory).expect("a shell");
        let postgres = ManagedPostgres::start(Options::ephemeral(directory)).await;
        let postgres = postgres.unwrap_or_else(|error| panic!("{error}"));
        let template = postgres.connect_options(TEMPLATE);
        let mut connection = PgConnection::connect_with(&postgres.connect_options("postgres"))
            .await
            .expect("it answers");
        let create = format!("create database {TEMPLATE}");
        connection
            .execute(AssertSqlSafe(create))
            .await
            .expect("a template");
        let store = Store::connect(template, 1)
            .await
            .expect("a migrated template");
        // A template can be copied only while nobody is connected to it.
        store.close().await;
        let _ = ready.send(postgres.connect_options(TEMPLATE));
        std::future::pending::<()>().await;
    });
}

/// A shell that waits for our end, however it comes (that closes the pipe), then for the server's,
/// and removes the cluster.
fn remove_after_our_end(directory: &Path) -> std::io::Result<ChildStdin> {
    const WAIT_AND_REMOVE: &str = r#"
        cat >/dev/null
        tries=100
        while [ $tries -gt 0 ] && ls "$0"/pg-*/postmaster.pid >/dev/null 2>&1; do
            sleep 0.1
            tries=$((tries - 1))
        done
        rm -rf "$0"
    "#;
    let shell = Command::new("/bin/sh")
        .args(["-c", WAIT_AND_REMOVE])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C ends us, and not the one who cleans up after us.
        .process_group(0)
        .spawn()?;
    Ok(shell.stdin.expect("standard input is piped"))
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn every_test_has_a_database_of_its_own() {
        let (one, other) = (super::store().await, super::store().await);
        sqlx::query("insert into culprit.meta values ('mine', '')")
            .execute(one.pool())
            .await
            .unwrap();
        let seen: i64 = sqlx::query_scalar("select count(*) from culprit.meta where key = 'mine'")
            .fetch_one(other.pool())
            .await
            .unwrap();
        assert_eq!(seen, 0);
    }
}
