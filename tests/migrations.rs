//! From every released schema to the newest: what was there can be read, old processes go on, and starters
//! do not collide.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::external::Server;
use crate::support::process::{Process, refused, run, verify};
use crate::support::spans::{hex, trace_id};

/// Every migration there is.
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// What a culprit of schema version 1 had stored on that day: rows in every table, two rows in the journal
/// that it acknowledged and had not analysed yet. Made with pg_dump.
const VERSION_1: &str = include_str!("fixtures/version-1.sql");
const VERSION_1_DAY: &str = "'2026-11-21'";

/// Its tables that are partitioned by day.
const PARTITIONED: [&str; 5] = [
    "trace_blocks",
    "request_rows",
    "rollup_minutes",
    "rollup_hours",
    "finding_hits",
];

/// A database as a culprit of schema version 1 left it, migrated by the means it had.
async fn version_1() -> Server {
    let postgres = Server::postgres().await;
    let first = MIGRATIONS.iter().filter(|it| it.version == 1).cloned();
    let mut released = Migrator::with_migrations(first.collect());
    released.dangerous_set_table_name("culprit.migrations");
    released.create_schema("culprit");
    let mut connection = postgres.connect("culprit").await;
    released.run(&mut connection).await.unwrap();
    // As if that day were today: what is too old may be cleared away.
    let day: String = sqlx::query_scalar("select (now() at time zone 'utc')::date::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    for table in PARTITIONED {
        let name = format!("{table}_{}", day.replace('-', ""));
        let create = format!(
            "create table culprit.{name} (like culprit.{table} including all);
             alter table culprit.{table} attach partition culprit.{name}
             for values from ('{day}') to (date '{day}' + 1)"
        );
        postgres.execute(&create).await;
    }
    let today = VERSION_1.replace(VERSION_1_DAY, &format!("'{day}'"));
    postgres.execute(&today).await;
    postgres
}

async fn number(connection: &mut PgConnection, query: String) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query))
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_version_1_stored_can_be_read() {
    let postgres = version_1().await;
    let mut connection = postgres.connect("culprit").await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'culprit'::regnamespace
         and relkind in ('r', 'p') and not relispartition",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    for table in &tables {
        let rows = number(
            &mut connection,
            format!("select count(*) from culprit.{table}"),
        )
        .await;
        assert!(rows > 0, "the fixture has nothing in {table}");
    }
    let url = postgres.url("culprit");
    let migrated = run(&["migrate", "--database-url", &url]);
    assert!(migrated.status.success(), "{migrated:?}");

    let web = Process::start(&["web"], &["--database-url", &url]).await;
    assert_eq!(web.span_ids(&hex(&trace_id(1))).await.len(), 8);
    assert!(
        web.get(&format!("/traces/{}", hex(&trace_id(1))))
            .await
            .contains("GET /posts")
    );
    assert!(web.get("/bottlenecks/1").await.contains("authors"));
    assert!(web.terminate().await);
    verify(&["--database-url", &url]);

    // What was acknowledged before the upgrade is analysed after it.
    let requests = "select sum(requests)::bigint from culprit.rollup_minutes".to_owned();
    let before = number(&mut connection, requests.clone()).await;
    let culprit =
        Process::start(&["collector", "analyzer", "web"], &["--database-url", &url]).await;
    culprit.settle().await;
    assert_eq!(culprit.span_ids(&hex(&trace_id(7))).await.len(), 8);
    assert!(culprit.terminate().await);
    assert_eq!(number(&mut connection, requests).await, before + 2);
    verify(&["--database-url", &url]);
}

/// What a collector of schema version 1 says to the database while it acknowledges spans, and what keeps and
/// gives back the leases of an analyzer of that time.
const SAID_BY_VERSION_1: [&str; 6] = [
    "insert into culprit.journal (shard, id, spans, raw_bytes, payload)
     select * from unnest(array[0]::smallint[], array[gen_random_uuid()], array[8], array[2048], array['\\x00'::bytea])",
    "select current_setting('transaction_read_only')",
    "insert into culprit.leases (shard) values (9) on conflict do nothing",
    "update culprit.leases
     set owner = '00000000-0000-0000-0000-000000000001', epoch = epoch + 1,
         expires_at = now() + make_interval(secs => 15)
     where shard = 9 and (owner is null or expires_at < now() or false) returning epoch",
    "update culprit.leases set expires_at = now() + make_interval(secs => 15)
     where shard = 9 and owner = '00000000-0000-0000-0000-000000000001' and epoch = 1",
    "update culprit.leases set owner = null, expires_at = '-infinity'
     where shard = 9 and owner = '00000000-0000-0000-0000-000000000001' and epoch = 1",
];

#[tokio::test]
async fn older_collectors_go_on_acknowledging() {
    let postgres = version_1().await;
    let url = postgres.url("culprit");
    // Through a migration they stay connected, with what they have prepared.
    let mut connection = postgres.connect("culprit").await;
    for migrated in [false, true] {
        for statement in SAID_BY_VERSION_1 {
            let done = sqlx::query(statement).execute(&mut connection).await;
            let done = done.unwrap_or_else(|error| panic!("{error}: {statement}"));
            assert!(
                done.rows_affected() == 1 || migrated,
                "{statement}: {done:?}"
            );
        }
        if !migrated {
            let done = run(&["migrate", "--database-url", &url]);
            assert!(done.status.success(), "{done:?}");
        }
    }
    let rows = "select count(*) from culprit.journal where raw_bytes = 2048".to_owned();
    assert_eq!(number(&mut connection, rows).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starters_do_not_collide() {
    let postgres = Server::postgres().await;
    let url = postgres.url("culprit");
    let starters: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::task::spawn_blocking(move || run(&["migrate", "--database-url", &url]))
        })
        .collect();
    for starter in starters {
        let done = starter.await.unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let applied = postgres
        .number("select count(*) from culprit.migrations")
        .await;
    assert_eq!(applied, MIGRATIONS.iter().count() as i64);
}

#[tokio::test]
async fn a_newer_schema_is_worked_with_if_it_says_so() {
    let postgres = Server::postgres().await;
    let url = postgres.url("culprit");
    let migrate = ["migrate", "--database-url", &url];
    assert!(run(&migrate).status.success());
    postgres
        .execute(
            "insert into culprit.migrations (version, description, success, checksum, execution_time)
             values (9999, 'of the future', true, '', 0)",
        )
        .await;
    let done = run(&migrate);
    assert!(done.status.success(), "{done:?}");
    postgres
        .execute("update culprit.meta set value = '9999' where key = 'programs_from'")
        .await;
    let web = [
        "serve",
        "--role=web",
        "--listen-ui=127.0.0.1:0",
        "--database-url",
        &url,
    ];
    for command in [&migrate[..], &web] {
        let said = refused(command);
        assert!(said.contains("made by a newer culprit"), "{said}");
    }
}
