//! On real clusters: what a start promises, whatever was left behind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};

use super::*;

/// An empty state directory that Postgres' user can reach.
fn state_dir() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        outer.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let inner = outer.path().join("state");
    (outer, inner)
}

async fn one(postgres: &ManagedPostgres) -> Result<i32, sqlx::Error> {
    let mut connection = PgConnection::connect_with(&postgres.connect_options("postgres")).await?;
    let one = sqlx::query_scalar("select 1")
        .fetch_one(&mut connection)
        .await;
    connection.close().await?;
    one
}

async fn eventually_one(postgres: &ManagedPostgres) {
    let since = Instant::now();
    while one(postgres).await.is_err() {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "it does not come back"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn starts_refuses_a_second_owner_and_leaves_nothing_behind() {
    let (_outer, state) = state_dir();
    // What an interrupted first start leaves.
    std::fs::create_dir_all(state.join("pg-15.init-1")).unwrap();
    let postgres = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap();
    assert_eq!(one(&postgres).await.unwrap(), 1);
    assert!(!state.join("pg-15.init-1").exists());

    let second = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap_err();
    assert!(
        matches!(second, StartError::AlreadyRunning { pid: Some(_), .. }),
        "{second}"
    );

    let pid = postgres.pid().unwrap();
    postgres.stop().await;
    assert!(
        kill(Pid::from_raw(pid as i32), None).is_err(),
        "the postmaster still lives"
    );
    let again = ManagedPostgres::start(Options::ephemeral(state))
        .await
        .unwrap();
    assert_eq!(one(&again).await.unwrap(), 1);
    again.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_started_again_over_what_it_left() {
    let (_outer, state) = state_dir();
    let postgres = ManagedPostgres::start(Options::ephemeral(state))
        .await
        .unwrap();
    let first = postgres.pid().unwrap();
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    let since = Instant::now();
    while postgres.pid().is_none_or(|pid| pid == first) {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "it is not started again"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually_one(&postgres).await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_database_that_keeps_data_is_durable() {
    let (_outer, state) = state_dir();
    let options = Options {
        ephemeral: false,
        ..Options::ephemeral(state)
    };
    let postgres = ManagedPostgres::start(options).await.unwrap();
    let mut connection = PgConnection::connect_with(&postgres.connect_options("postgres"))
        .await
        .unwrap();
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(value, "on", "{setting}");
    }
    let addresses: String = sqlx::query_scalar("select current_setting('listen_addresses')")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(addresses, "");
    drop(connection);
    postgres.stop().await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_start_says_why() {
    let (_outer, state) = state_dir();
    let postgres = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap();
    postgres.stop().await;
    let data = std::fs::read_dir(&state).unwrap().flatten();
    let data = data
        .map(|it| it.path())
        .find(|it| it.join("PG_VERSION").exists())
        .unwrap();
    let conf = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{text}\nno_such_setting = 1\n")).unwrap();
    let error = ManagedPostgres::start(Options::ephemeral(state))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}
