//! Through PgBouncer in transaction mode, where every transaction may meet another server connection.

use std::path::Path;

use crate::support::external::Server;
use crate::support::process::{Process, refused, run, verify};
use crate::support::spans::{export, hex, n_plus_one, trace_id};

/// Fewer than culprit's own, so that its connections take turns on them.
const SERVER_CONNECTIONS: u32 = 3;

const TRACES: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_through_a_pooler_in_transaction_mode() {
    let postgres = Server::postgres().await;
    let pooler = postgres.pooler(SERVER_CONNECTIONS).await;
    let url = pooler.url("culprit");

    // Who forgets to say so is told.
    let said = refused(&["migrate", "--database-url", &url]);
    assert!(said.contains("--pooled"), "{said}");

    let database = ["--pooled", "--database-url", &url];
    let culprit = Process::start(&["collector", "analyzer", "web"], &database).await;
    let clients = (0..4).map(|client| {
        let address = culprit.grpc.clone();
        tokio::spawn(async move {
            for number in 1..=TRACES / 4 {
                let request = n_plus_one(client << 16 | number, 6);
                export(&address, request).await.unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    culprit.settle().await;
    for client in 0..4 {
        let ids = culprit.span_ids(&hex(&trace_id(client << 16 | 1))).await;
        assert_eq!(ids.len(), 8);
    }
    for page in ["/", "/services", "/traces", "/status"] {
        culprit.get(page).await;
    }
    let requests = "select sum(requests)::bigint from culprit.rollup_minutes";
    assert_eq!(postgres.number(requests).await, TRACES as i64);
    let sharing = "select count(*) from pg_stat_activity where application_name = 'culprit'";
    let sharing = postgres.number(sharing).await;
    assert!((1..=3).contains(&sharing), "{sharing} server connections");
    assert!(culprit.terminate().await);

    verify(&database);
    let again = run(&[&["migrate"], &database[..]].concat());
    assert!(again.status.success(), "{again:?}");
}

/// A connection of the driver's own would name its statements, which a pooler mixes up.
#[test]
fn the_store_speaks_through_its_own_connections() {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/src/store");
    for entry in std::fs::read_dir(store).expect("a folder").flatten() {
        // The one is the way to our database, the other the way to somebody else's.
        if ["pool.rs", "observed.rs"]
            .iter()
            .any(|it| entry.file_name() == *it)
        {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("text");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for other in ["PgConnection", "PgPool", "PoolConnection"] {
            let file = entry.file_name();
            assert!(
                !code.contains(other),
                "{file:?}: use store::pool instead of {other}"
            );
        }
    }
}
