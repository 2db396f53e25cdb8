//! The assembly on a real Postgres: what is stored and counted, whatever the order and however often.

use std::sync::Arc;
use std::time::Duration;

use analyzer::Settings;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::journal::{Batch, Journal, Part};
use crate::verify;

const MS: u64 = 1_000_000;

/// Everything happens at once: idleness is tested where there is no clock ([`flight`]).
const AT_ONCE: Idle = Idle {
    idle_after: Duration::from_millis(60),
    early_after: Duration::from_millis(30),
    age_max: Duration::from_secs(5),
    carry_after: Duration::from_millis(90),
};

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue {
        value: Some(any_value::Value::StringValue(value.into())),
    });
    KeyValue {
        key: key.into(),
        value,
        ..KeyValue::default()
    }
}

fn span(trace: u8, id: u8, parent: u8, kind: i32, for_ms: u64, attributes: Vec<KeyValue>) -> Span {
    let start_ns = 1_795_185_128_000 * MS + u64::from(id) * MS;
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 {
            Vec::new()
        } else {
            vec![parent; 8]
        },
        name: "it".into(),
        kind,
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns + for_ms * MS,
        attributes,
        ..Span::default()
    }
}

/// `GET /posts` and a query each for ten authors.
fn n_plus_one(trace: u8) -> Vec<Span> {
    let entry = vec![
        text("http.request.method", "GET"),
        text("http.route", "/posts"),
    ];
    let query = || {
        vec![
            text("db.system.name", "postgresql"),
            text("db.query.text", "select * from authors where id = $1"),
        ]
    };
    let mut spans = vec![span(trace, 1, 0, 2, 200, entry)];
    spans.extend((2..12).map(|id| span(trace, id, 1, 3, 1 + u64::from(id), query())));
    spans
}

fn otlp(spans: Vec<Span>) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![text("service.name", "blog")],
        ..Resource::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(resource),
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A journal and an assembly on a database of their own.
struct Running {
    store: Store,
    journal: Journal,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Running {
        Running::on(crate::testing::store().await)
    }

    fn on(store: Store) -> Running {
        let handoff = Arc::new(Handoff::new(store.shards()));
        let journal = Journal::start_beside(store.clone(), Some(handoff.clone()));
        let (stats, shutdown) = (Arc::<Stats>::default(), CancellationToken::new());
        let options = Options {
            idle: AT_ONCE,
            sole_owner: true,
            handoff: Some(handoff),
            ..Options::default()
        };
        let task = tokio::spawn(run(store.clone(), options, stats.clone(), shutdown.clone()));
        Running {
            store,
            journal,
            stats,
            shutdown,
            task,
        }
    }

    async fn send(&self, spans: Vec<Span>) {
        let part = Part {
            shard: 0,
            spans: spans.len() as u32,
            otlp: otlp(spans).into(),
        };
        self.journal
            .append(Batch { parts: vec![part] })
            .await
            .unwrap();
    }

    async fn settle(&self) {
        settle(&self.store).await;
    }

    async fn stop(self) -> Store {
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.store
    }
}

async fn settle(store: &Store) {
    for _ in 0..600 {
        if store.journal_backlog().await.unwrap().rows == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the journal is not consumed");
}

async fn number(store: &Store, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(store.pool())
        .await
        .unwrap()
}

async fn verified(store: &Store) -> verify::Report {
    let report = verify::recount(store, &Settings::default(), |_| {})
        .await
        .unwrap();
    assert_eq!(report.differences, 0, "{:?}", report.described);
    report
}

const REQUESTS: &str = "select coalesce(sum(requests), 0)::bigint from culprit.rollup_minutes";
const HITS: &str = "select coalesce(sum(traces), 0)::bigint from culprit.finding_hits";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_changes_nothing() {
    let running = Running::start().await;
    running.send(n_plus_one(1)).await;
    running.send(n_plus_one(1)).await;
    running.settle().await;
    running.send(n_plus_one(1)).await;
    running.settle().await;
    assert_eq!(running.stats.repeated.load(Ordering::Relaxed), 1);
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 1);
    assert_eq!(number(&store, HITS).await, 1);
    let report = verified(&store).await;
    assert_eq!((report.traces, report.spans, report.requests), (1, 11, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_spans_take_the_old_numbers_out() {
    let running = Running::start().await;
    let mut first = n_plus_one(1);
    let late = first.split_off(4);
    running.send(first).await;
    running.settle().await;
    // Three queries are no N+1.
    assert_eq!(number(&running.store, HITS).await, 0);
    running.send(late).await;
    running.settle().await;
    assert_eq!(number(&running.store, HITS).await, 1);
    assert_eq!(number(&running.store, REQUESTS).await, 1);
    assert_eq!(running.stats.again.load(Ordering::Relaxed), 1);
    let store = running.stop().await;
    assert_eq!(verified(&store).await.spans, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragment_counts_when_its_entry_arrives() {
    let running = Running::start().await;
    let mut queries = n_plus_one(1);
    let entry = queries.remove(0);
    running.send(queries).await;
    running.settle().await;
    assert_eq!(number(&running.store, REQUESTS).await, 0);
    let rows = "select count(*) from culprit.trace_blocks b, unnest(b.trace_ids, b.flags) r (trace_id, flags)
                where r.flags & 4 <> 0 and not exists (select from culprit.superseded x where x.block_id = b.id and x.trace_id = r.trace_id)";
    assert_eq!(number(&running.store, rows).await, 1);
    running.send(vec![entry]).await;
    running.settle().await;
    assert_eq!(number(&running.store, REQUESTS).await, 1);
    assert_eq!(number(&running.store, rows).await, 0);
    let store = running.stop().await;
    assert_eq!(verified(&store).await.spans, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_knows_what_is_stored() {
    let running = Running::start().await;
    running.send(n_plus_one(1)).await;
    running.settle().await;
    let store = running.stop().await;
    let running = Running::on(store);
    running.send(n_plus_one(1)).await;
    running.send(n_plus_one(2)).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 2);
    assert_eq!(verified(&store).await.traces, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_lost_its_lease_writes_nothing() {
    let store = crate::testing::store().await;
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let lost = store.acquire_lease(0, first, false).await.unwrap().unwrap();
    assert_eq!(store.acquire_lease(0, second, false).await.unwrap(), None);
    let held = store.acquire_lease(0, second, true).await.unwrap().unwrap();
    let tick = || Tick {
        part: 1,
        quarantined: vec![Quarantined {
            trace_id: TraceId([1; 16]),
            reason: "test".into(),
            spans: 1,
            payload: Vec::new(),
        }],
        ..Tick::default()
    };
    let refused = store.write_tick(&lost, ANALYSIS_VERSION, tick()).await;
    assert!(
        matches!(refused, Err(StoreError::LeaseLost(0))),
        "{refused:?}"
    );
    assert_eq!(
        number(&store, "select count(*) from culprit.quarantine").await,
        0
    );
    store
        .write_tick(&held, ANALYSIS_VERSION, tick())
        .await
        .unwrap();
    assert_eq!(
        number(&store, "select count(*) from culprit.quarantine").await,
        1
    );
}

/// What a former process died of is not analysed again: its row was read too often, and the trace
/// was under suspicion when that process ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_ends_its_analyser_is_left_alone() {
    let store = crate::testing::store().await;
    let mut spans = n_plus_one(1);
    spans.extend(n_plus_one(2));
    let row = crate::journal::row(0, spans.len() as u32, &otlp(spans));
    store.append_journal(vec![row]).await.unwrap();
    sqlx::query("update culprit.journal set attempts = 9")
        .execute(store.pool())
        .await
        .unwrap();
    let suspect = Quarantined {
        trace_id: TraceId([1; 16]),
        reason: "its analysis ended the process".into(),
        spans: 11,
        payload: Vec::new(),
    };
    store.suspect(0, suspect).await.unwrap();
    let running = Running::on(store);
    running.settle().await;
    let store = running.stop().await;
    // The other trace of the row was under suspicion for a moment, and is stored now.
    assert_eq!(number(&store, REQUESTS).await, 1);
    assert_eq!(store.quarantined(0).await.unwrap(), [TraceId([1; 16])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merging_roll_ups_changes_no_sum() {
    let running = Running::start().await;
    for trace in 1..6 {
        running.send(n_plus_one(trace)).await;
        running.settle().await;
    }
    let store = running.stop().await;
    let rows = "select count(*) from culprit.rollup_minutes";
    assert_eq!(number(&store, rows).await, 5);
    let lease = store
        .acquire_lease(0, Uuid::from_u128(9), true)
        .await
        .unwrap()
        .unwrap();
    store.merge_rollups(&lease, i64::MAX).await.unwrap();
    assert_eq!(number(&store, rows).await, 1);
    assert_eq!(number(&store, REQUESTS).await, 5);
    assert_eq!(verified(&store).await.traces, 5);
}
