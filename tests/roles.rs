//! One process per role on one external database, and what each of them needs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::support::eventually;
use crate::support::external::Server;
use crate::support::process::{Process, refused, run, verify};
use crate::support::spans::{export, hex, n_plus_one, trace_id};

/// What users are promised.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);

/// Spans of one trace of the load.
const SPANS: u64 = 8;

/// Traces that were acknowledged.
type Acknowledged = Arc<Mutex<HashSet<u64>>>;

/// Shards that somebody owns right now, and how many own them.
const OWNED: &str = "select count(*) from culprit.leases where shard >= 0 and expires_at > now()";
const OWNERS: &str = "select count(*) from (
    select owner from culprit.leases where shard >= 0 and expires_at > now()
    group by owner having count(*) = 8) as even";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_analyzer_that_is_killed_is_replaced_and_every_span_counts_once() {
    let postgres = Server::postgres().await;
    let url = postgres.url("culprit");
    let database = ["--database-url", &url];
    let collector = Process::start(&["collector"], &database).await;
    let (first, second, web) = tokio::join!(
        Process::start(&["analyzer"], &database),
        Process::start(&["analyzer"], &database),
        Process::start(&["web"], &database),
    );
    eventually("two analyzers share sixteen shards", async || {
        (postgres.number(OWNERS).await == 2).then_some(())
    })
    .await;

    let (stop, acknowledged) = (CancellationToken::new(), Acknowledged::default());
    let clients = (0..2).map(|client| {
        let (address, acknowledged) = (collector.grpc.clone(), acknowledged.clone());
        tokio::spawn(send(address, client << 24, acknowledged, stop.clone()))
    });
    let clients: Vec<_> = clients.collect();
    // Into its work, and not before it.
    eventually("traces are stored", async || {
        (postgres
            .number("select count(*) from culprit.requests")
            .await
            > 20)
            .then_some(())
    })
    .await;

    first.kill().await;
    let since = Instant::now();
    eventually("the other takes over", async || {
        let owners = "select count(distinct owner) from culprit.leases where shard >= 0";
        let (owned, owners) = (postgres.number(OWNED).await, postgres.number(owners).await);
        ((owned, owners) == (16, 1)).then_some(())
    })
    .await;
    let taken_over = since.elapsed();
    println!("taken over after {taken_over:?}");
    assert!(taken_over < TAKEN_OVER_WITHIN, "{taken_over:?}");

    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
    web.settle().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    for number in &acknowledged {
        let ids = web.span_ids(&hex(&trace_id(*number))).await;
        assert_eq!(ids.len() as u64, SPANS, "trace {number}");
    }
    assert!(second.terminate().await);
    assert!(collector.terminate().await);
    assert!(web.terminate().await);
    verify(&database);
}

/// Sends traces one after the other, each twice as a client does that missed the answer.
async fn send(address: String, from: u64, acknowledged: Acknowledged, stop: CancellationToken) {
    let mut number = from;
    while !stop.is_cancelled() {
        number += 1;
        let request = n_plus_one(number, SPANS - 2);
        if export(&address, request.clone()).await.is_ok() {
            acknowledged.lock().unwrap().insert(number);
            let _ = export(&address, request).await;
        }
        // A load that two shared cores bear, and that does not end before the takeover.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every page that has an address of its own.
const PAGES: [&str; 9] = [
    "/",
    "/services",
    "/traces",
    "/detectors",
    "/status",
    "/start",
    "/search?q=posts",
    "/api/v1/bottlenecks",
    "/api/v1/endpoints",
];

#[tokio::test]
async fn a_web_process_needs_only_to_read() {
    let postgres = Server::postgres().await;
    postgres
        .execute(
            "create role reader login; alter role reader set default_transaction_read_only = on",
        )
        .await;
    let (url, reader) = (
        postgres.url("culprit"),
        postgres.url_of("reader", "culprit"),
    );
    let web = [
        "serve",
        "--role=web",
        "--listen-ui=127.0.0.1:0",
        "--database-url",
        &reader,
    ];
    let said = refused(&web);
    assert!(said.contains("culprit migrate"), "{said}");

    let migrated = run(&["migrate", "--database-url", &url]);
    assert!(migrated.status.success(), "{migrated:?}");
    postgres
        .execute(
            "grant usage on schema culprit to reader;
             grant select on all tables in schema culprit to reader",
        )
        .await;
    let works = Process::start(&["collector", "analyzer"], &["--database-url", &url]).await;
    for number in 1..=3 {
        export(&works.grpc, n_plus_one(number, 6)).await.unwrap();
    }
    let web = Process::start(&["web"], &["--database-url", &reader]).await;
    web.settle().await;
    for page in PAGES {
        web.get(page).await;
    }
    let trace = format!("/traces/{}", hex(&trace_id(1)));
    assert!(web.get(&trace).await.contains("GET /posts"));
    let bottlenecks = eventually("a finding", async || {
        let page = web.get("/").await;
        page.contains("/bottlenecks/").then_some(page)
    })
    .await;
    assert!(bottlenecks.contains("authors"), "{bottlenecks}");

    // A server that lets nobody in, and a role that works and may not, say what to do.
    postgres
        .execute("create role limited login connection limit 0")
        .await;
    let limited = postgres.url_of("limited", "culprit");
    let said = refused(&["migrate", "--database-url", &limited]);
    assert!(said.contains("--database-connections"), "{said}");
    let said = refused(&["serve", "--role=analyzer", "--database-url", &reader]);
    assert!(said.contains("takes no writes"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_read_from_a_replica_and_say_how_old_they_are() {
    let postgres = Server::postgres().await;
    let (url, replica) = (postgres.url("culprit"), postgres.replica().await);
    // It gets the schema while culprit starts.
    let read = replica.url("culprit");
    let culprit = Process::start(
        &["collector", "analyzer", "web"],
        &["--database-url", &url, "--read-database-url", &read],
    )
    .await;
    export(&culprit.grpc, n_plus_one(1, 6)).await.unwrap();
    culprit.settle().await;
    eventually("the list shows the trace", async || {
        let page = culprit.get("/traces").await;
        page.contains(&hex(&trace_id(1))).then_some(())
    })
    .await;
    assert!(!culprit.get("/").await.contains("Data as of"));

    replica.execute("select pg_wal_replay_pause()").await;
    eventually("the replica stands still", async || {
        let paused = "select count(*) where pg_get_wal_replay_pause_state() = 'paused'";
        (replica.number(paused).await == 1).then_some(())
    })
    .await;
    export(&culprit.grpc, n_plus_one(2, 6)).await.unwrap();
    // Not there yet, but found: the primary is asked.
    let second = hex(&trace_id(2));
    assert_eq!(culprit.span_ids(&second).await.len(), 8);
    assert!(!culprit.get("/traces").await.contains(&second));
    eventually("pages say that they are old", async || {
        culprit.get("/").await.contains("Data as of").then_some(())
    })
    .await;

    replica.execute("select pg_wal_replay_resume()").await;
    eventually("pages are up to date again", async || {
        let page = culprit.get("/traces").await;
        (page.contains(&second) && !page.contains("Data as of")).then_some(())
    })
    .await;
    assert!(culprit.terminate().await);
}
