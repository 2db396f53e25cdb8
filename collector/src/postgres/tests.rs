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

/// Not a test: what [`orphans_of_a_killed_owner_make_way`] runs as a process of its own.
#[tokio::test]
async fn owner_that_waits_to_be_killed() {
    let Some(state) = std::env::var_os(OWN) else {
        return;
    };
    let postgres = ManagedPostgres::start(Options::ephemeral(state.into())).await;
    println!("pid {}", postgres.unwrap().pid().unwrap());
    std::future::pending::<()>().await;
}

/// Names the state directory to own.
const OWN: &str = "CULPRIT_TEST_OWN_STATE_DIR";

#[tokio::test]
async fn orphans_of_a_killed_owner_make_way() {
    use std::io::{BufRead, BufReader};
    let (_outer, state) = state_dir();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "postgres::tests::owner_that_waits_to_be_killed"])
        .args(["--nocapture"])
        .env(OWN, &state)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let orphan: i32 = lines
        .map(|line| line.unwrap())
        .find_map(|line| line.rsplit_once("pid ")?.1.parse().ok())
        .expect("the owner's server is up");
    owner.kill().unwrap();
    owner.wait().unwrap();

    let postgres = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap();
    assert_eq!(one(&postgres).await.unwrap(), 1);
    assert_ne!(postgres.pid(), Some(orphan as u32));
    // Whoever adopted it may be late in reaping it: a zombie counts as gone.
    let data = std::fs::canonicalize(&state).unwrap();
    let data = data.join(format!("pg-{}", major(&postgres).await));
    assert!(
        !stale::processes(&data).contains(&orphan),
        "the orphan still lives"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn files_of_a_server_that_is_gone_are_in_nobodys_way() {
    let (_outer, state) = state_dir();
    let postgres = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap();
    let data = std::fs::canonicalize(&state).unwrap();
    let data = data.join(format!("pg-{}", major(&postgres).await));
    postgres.stop().await;
    // The pid is of somebody who lives and is no Postgres: ourselves.
    let us = format!("{}\n", std::process::id());
    std::fs::write(data.join("postmaster.pid"), &us).unwrap();
    std::fs::write(state.join("run/.s.PGSQL.5432.lock"), &us).unwrap();

    let postgres = ManagedPostgres::start(Options::ephemeral(state))
        .await
        .unwrap();
    assert_eq!(one(&postgres).await.unwrap(), 1);
    postgres.stop().await;
}

async fn major(postgres: &ManagedPostgres) -> i32 {
    let mut connection = PgConnection::connect_with(&postgres.connect_options("postgres"))
        .await
        .unwrap();
    let number: String = sqlx::query_scalar("show server_version_num")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    number.parse::<i32>().unwrap() / 10_000
}

#[tokio::test]
async fn a_server_that_cannot_be_started_says_why_and_comes_back_when_the_cause_is_gone() {
    let (_outer, state) = state_dir();
    let postgres = ManagedPostgres::start(Options::ephemeral(state.clone()))
        .await
        .unwrap();
    let data = state.join(format!("pg-{}", major(&postgres).await));
    let settings = std::fs::read_to_string(data.join("culprit.conf")).unwrap();
    std::fs::write(data.join("culprit.conf"), "no_such_setting = 1\n").unwrap();
    kill(
        Pid::from_raw(postgres.pid().unwrap() as i32),
        Signal::SIGKILL,
    )
    .unwrap();
    let mut states = postgres.states();
    let says_why = |state: &State| match state {
        State::Down { reason } => reason.contains("no_such_setting"),
        _ => false,
    };
    let down = tokio::time::timeout(Duration::from_secs(60), states.wait_for(says_why)).await;
    down.expect("it says why").unwrap();
    std::fs::write(data.join("culprit.conf"), settings).unwrap();
    let up = states.wait_for(|state| matches!(state, State::Up { .. }));
    let up = tokio::time::timeout(Duration::from_secs(60), up).await;
    up.expect("it comes back").unwrap();
    eventually_one(&postgres).await;
    postgres.stop().await;
}
