//! The assembly on a real Postgres: what is stored and counted, whatever the order and however often.

use std::sync::Arc;
use std::time::Duration;

use analyzer::Settings;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use sqlx::Executor;
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

fn at_once() -> Options {
    Options {
        idle: AT_ONCE,
        process: Process::new(true),
        ..Options::default()
    }
}

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
            handoff: Some(handoff),
            ..at_once()
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
async fn p5_a_retry_changes_nothing() {
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

/// A list of a moment's requests then reads the blocks of that moment and no others.
#[test]
fn blocks_of_one_tick_follow_one_another_in_time() {
    let filler = "x".repeat(10_000);
    let started = |number: u64| number * 73 % 251 * MS;
    let spans = (0..251).map(|number: u64| Span {
        trace_id: vec![number as u8 + 1; 16],
        start_time_unix_nano: started(number),
        end_time_unix_nano: started(number) + MS,
        attributes: vec![text("filler", &format!("{filler}{number}"))],
        ..span(1, 1, 0, 2, 1, Vec::new())
    });
    let raw = otlp(spans.collect());
    let due = otlp::heads(&raw).unwrap().into_iter().zip(0..);
    let due = due.map(|((trace_id, _), at)| Due {
        trace_id,
        places: vec![flight::Place { row: 0, at }],
        suspect: false,
    });
    let done = analyse::run(analyse::Work {
        due: due.collect(),
        rows: vec![(0, crate::packer::compress(&raw, 1).into())],
        stored: Vec::new(),
        today: 0,
        settings: Settings::default(),
    });
    let done = done.unwrap();
    let mut starts: Vec<Vec<u64>> = vec![Vec::new(); done.packs.len()];
    for (_, outcome) in &done.outcomes {
        let analyse::Outcome::Final(last) = outcome else {
            panic!("not final");
        };
        starts[last.pack].push(last.contribution.fragment.start_ns);
    }
    assert!(starts.len() > 1);
    for two in starts.windows(2) {
        assert!(two[0].iter().max() < two[1].iter().min());
    }
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

/// A request that calls another, and the one that answers.
fn call_and_answer(trace: u8) -> (Vec<Span>, Vec<Span>) {
    let route = |it| vec![text("http.request.method", "GET"), text("http.route", it)];
    let call = vec![text("server.address", "prices.example")];
    let caller = vec![
        span(trace, 1, 0, 2, 200, route("/posts")),
        span(trace, 2, 1, 3, 100, call),
    ];
    (caller, vec![span(trace, 3, 2, 2, 80, route("/prices"))])
}

const CALLS_OUTSIDE: &str = "select coalesce(sum(r.calls), 0)::bigint from culprit.rollup_edges r
    join culprit.edges e on e.id = r.edge_id where e.callee_id is null";
const CALLS_INSIDE: &str = "select coalesce(sum(r.calls), 0)::bigint from culprit.rollup_edges r
    join culprit.edges e on e.id = r.edge_id where e.callee_id is not null";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_takes_the_call_from_outside_to_its_endpoint() {
    let running = Running::start().await;
    let (caller, answer) = call_and_answer(1);
    running.send(caller).await;
    running.send(n_plus_one(2)).await;
    running.settle().await;
    assert_eq!(number(&running.store, CALLS_OUTSIDE).await, 11);
    assert_eq!(number(&running.store, CALLS_INSIDE).await, 0);
    running.send(answer).await;
    running.settle().await;
    assert_eq!(number(&running.store, CALLS_OUTSIDE).await, 10);
    assert_eq!(number(&running.store, CALLS_INSIDE).await, 1);
    let store = running.stop().await;
    let times = "select sum(duration_ns)::bigint / 1000000 from culprit.rollup_edges r
        join culprit.edges e on e.id = r.edge_id where e.callee_id is not null";
    assert_eq!(number(&store, times).await, 100, "what the caller waited");
    verified(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_before_calls_were_has_none_to_take_out() {
    let running = Running::start().await;
    let (caller, answer) = call_and_answer(1);
    running.send(caller).await;
    running.send(n_plus_one(2)).await;
    running.settle().await;
    let as_before =
        "update culprit.trace_blocks set analysis = 2; delete from culprit.rollup_edges";
    running
        .store
        .pool()
        .execute(sqlx::raw_sql(as_before))
        .await
        .unwrap();
    verified(&running.store).await;
    running.send(answer).await;
    running.settle().await;
    assert_eq!(number(&running.store, CALLS_OUTSIDE).await, 0);
    assert_eq!(number(&running.store, CALLS_INSIDE).await, 1);
    let store = running.stop().await;
    verified(&store).await;
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

/// One life of a shard's owner, as a process of its own. It ends like a killed process when
/// `deadly` is about to be analysed, else in good order when the journal is empty. Whether it died.
async fn live(store: &Store, process: u128, deadly: TraceId) -> bool {
    live_on(store, process, deadly, None).await
}

/// As [`live`], on another day than today.
async fn live_on(store: &Store, process: u128, deadly: TraceId, day: Option<Day>) -> bool {
    let process = Uuid::from_u128(process);
    let lease = store.acquire_lease(0, process, true).await.unwrap();
    let (options, stats) = (at_once(), Stats::default());
    let mut owner = Owner::new(store, lease.unwrap(), &options, &stats);
    owner.take_over(&mut Before::default()).await.unwrap();
    owner.load().await.unwrap();
    owner.today.0 = day.unwrap_or(owner.today.0);
    while store.journal_backlog().await.unwrap().rows > 0 {
        owner.read().await.unwrap();
        let (due, _) = owner.due();
        owner.note(&due).await.unwrap();
        if due.iter().any(|it| it.trace_id == deadly) {
            return true;
        }
        owner.make_final(due).await.unwrap();
    }
    owner.acquit().await.unwrap();
    store.release_lease(&owner.lease).await.unwrap();
    false
}

async fn append(store: &Store, traces: &[u8]) {
    let spans: Vec<Span> = traces.iter().flat_map(|it| n_plus_one(*it)).collect();
    let row = crate::journal::row(0, spans.len() as u32, &otlp(spans));
    store.append_journal(vec![row]).await.unwrap();
}

/// One death goes unnoticed, two are blamed on the row, two on the trace alone; then it is left in
/// quarantine, and everything else is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_trace_that_ends_its_analyser_is_left_alone() {
    let store = crate::testing::store().await;
    append(&store, &[1, 2]).await;
    append(&store, &[3]).await;
    let deadly = TraceId([1; 16]);
    let mut deaths = 0;
    while live(&store, deaths + 1, deadly).await {
        deaths += 1;
        assert!(deaths < 10, "the trace ends every process");
    }
    assert_eq!(deaths, 5);
    assert_eq!(number(&store, REQUESTS).await, 2);
    assert_eq!(store.convicted(0).await.unwrap(), [deadly]);
    // More of it is kept beside it at once, and nobody dies of that.
    append(&store, &[1, 4]).await;
    assert!(!live(&store, 100, deadly).await);
    assert_eq!(number(&store, REQUESTS).await, 3);
    assert_eq!(verified(&store).await.traces, 3);
}

/// Deploys, a machine short of memory, a chaos test: whoever is killed while nothing, or something
/// else, is being analysed leaves no suspicion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_kills_from_elsewhere_make_no_suspects() {
    let store = crate::testing::store().await;
    append(&store, &[1, 2, 3]).await;
    let options = at_once();
    for process in 1..30 {
        let process = Uuid::from_u128(process);
        let lease = store.acquire_lease(0, process, true).await.unwrap();
        let stats = Stats::default();
        let mut owner = Owner::new(&store, lease.unwrap(), &options, &stats);
        owner.take_over(&mut Before::default()).await.unwrap();
        owner.load().await.unwrap();
        owner.read().await.unwrap();
        assert_eq!(owner.careful.is_some(), owner.lease.orphaned);
    }
    let attempts = "select sum(attempts) from culprit.journal";
    assert_eq!(number(&store, attempts).await, 0);
    assert!(!live(&store, 100, TraceId([9; 16])).await);
    assert_eq!(number(&store, REQUESTS).await, 3);
    let noted = "select count(*) from culprit.leases where analysing is not null";
    assert_eq!(number(&store, noted).await, 0);
}

/// In normal operation a journal row is written once and deleted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_the_journal_writes_nothing() {
    let store = crate::testing::store().await;
    append(&store, &[1]).await;
    let version = "select xmin::text::bigint from culprit.journal";
    let before = number(&store, version).await;
    let lease = store.acquire_lease(0, Uuid::from_u128(1), true).await;
    let (options, stats) = (at_once(), Stats::default());
    let mut owner = Owner::new(&store, lease.unwrap().unwrap(), &options, &stats);
    owner.take_over(&mut Before::default()).await.unwrap();
    owner.load().await.unwrap();
    owner.read().await.unwrap();
    let mut due = Vec::new();
    while due.is_empty() {
        tokio::task::yield_now().await;
        due = owner.due().0;
    }
    owner.note(&due).await.unwrap();
    assert_eq!(number(&store, version).await, before);
    let noted = "select count(*) from culprit.leases where analysing is not null";
    assert_eq!(number(&store, noted).await, 0);
}

/// A row that is no zstd of OTLP goes to quarantine after a few attempts, and holds nobody up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_row_that_cannot_be_read_goes_to_quarantine() {
    let store = crate::testing::store().await;
    let mut row = crate::journal::row(0, 1, b"not OTLP at all");
    row.payload[0] ^= 0xff;
    store.append_journal(vec![row]).await.unwrap();
    append(&store, &[1]).await;
    let running = Running::on(store);
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 1);
    let kept = "select count(*) from culprit.quarantine where reason like '%cannot be read%'";
    assert_eq!(number(&store, kept).await, 1);
}

/// A trace whose result Postgres will not take is found and left alone; the others are stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_what_postgres_refuses_goes_to_quarantine() {
    let store = crate::testing::store().await;
    // As a character that the server's encoding lacks would be refused.
    sqlx::raw_sql(
        "create function refuse() returns trigger language plpgsql as
           $$ begin raise exception 'no' using errcode = '22P05'; end $$;
         create trigger refuse before insert on culprit.endpoints for each row
           when (new.name like '%refused%') execute function refuse();",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let mut spans = n_plus_one(1);
    let mut refused = n_plus_one(2);
    refused[0].attributes[1] = text("http.route", "/refused");
    spans.extend(refused);
    let row = crate::journal::row(0, spans.len() as u32, &otlp(spans));
    store.append_journal(vec![row]).await.unwrap();
    append(&store, &[3]).await;
    let running = Running::on(store);
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 2);
    assert_eq!(store.convicted(0).await.unwrap(), [TraceId([2; 16])]);
}

/// Three exporters, each a part of the trace, each part twice, span by span and in any order, all at
/// the same time: one trace, counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_any_split_any_order_and_duplicates_are_one_trace() {
    let running = Running::start().await;
    let mut spans = n_plus_one(1);
    spans.extend(n_plus_one(1));
    // Neither sorted nor the other way round.
    spans.sort_by_key(|span| u32::from(span.span_id[0]) * 7 % 11);
    let exporters = spans.chunks(8).map(async |part| {
        for span in part {
            running.send(vec![span.clone()]).await;
        }
    });
    futures_util::future::join_all(exporters).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 1);
    let report = verified(&store).await;
    assert_eq!((report.traces, report.spans, report.requests), (1, 11, 1));
}

/// The next day late spans still find their trace, and stay in its partition; the day after that the
/// id is a new trace's. Nothing is counted twice either way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_r10_spans_of_one_id_days_apart() {
    let store = crate::testing::store().await;
    let nobody = TraceId([0xff; 16]);
    let today = store.today().await.unwrap();
    let mut first = n_plus_one(1);
    let late = first.split_off(6);
    let mut reused = n_plus_one(1);
    reused.iter_mut().for_each(|it| it.span_id[7] = 0xee);
    reused[1..]
        .iter_mut()
        .for_each(|it| it.parent_span_id[7] = 0xee);
    for (spans, days_later, requests, traces) in [
        (first.clone(), 0, 1, 1),
        (late, 1, 1, 1),
        (first, 1, 1, 1),
        (reused, 3, 2, 2),
    ] {
        let row = crate::journal::row(0, spans.len() as u32, &otlp(spans));
        store.append_journal(vec![row]).await.unwrap();
        assert!(!live_on(&store, 1, nobody, Some(today + days_later)).await);
        assert_eq!(number(&store, REQUESTS).await, requests);
        assert_eq!(verified(&store).await.traces, traces);
    }
    assert_eq!(verified(&store).await.spans, 22);
}

/// A commit that the client was told nothing of lands after all, and the client has come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_both_copies_of_a_batch_land() {
    let store = crate::testing::store().await;
    let row = || crate::journal::row(0, 11, &otlp(n_plus_one(1)));
    store.append_journal(vec![row()]).await.unwrap();
    assert!(!live(&store, 1, TraceId([9; 16])).await);
    // An id made a minute and more ago: the commit hung for so long.
    let mut hung = row();
    hung.id = Uuid::from_u128(hung.id.as_u128() - (400_000 << 80));
    store.append_journal(vec![hung, row()]).await.unwrap();
    let running = Running::on(store);
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 1);
    assert_eq!(verified(&store).await.spans, 11);
}

/// While somebody's old transaction keeps Postgres from cleaning up, what is read is found by its
/// time, past the consumed rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_long_reader_beside_the_journal() {
    let store = crate::testing::store().await;
    let mut reader = store.pool().begin().await.unwrap();
    sqlx::raw_sql("set transaction isolation level repeatable read; select from culprit.journal")
        .execute(&mut *reader)
        .await
        .unwrap();
    // Consumed in the hour before.
    let consumed: Vec<_> = (0..3_000_u128)
        .map(|at| {
            let mut row = crate::journal::row(0, 11, b"");
            row.id = Uuid::from_u128(row.id.as_u128() - ((400_000 + at) << 80));
            row
        })
        .collect();
    store.append_journal(consumed).await.unwrap();
    sqlx::query("delete from culprit.journal")
        .execute(store.pool())
        .await
        .unwrap();
    sqlx::query("analyze culprit.journal")
        .execute(store.pool())
        .await
        .unwrap();
    append(&store, &[1]).await;
    let plan = |since: Uuid| {
        let store = &store;
        async move {
            let query = "explain (analyze, buffers, format json)
                 select id, spans, attempts, payload from culprit.journal
                 where shard = 0 and id >= $1 and id <> all('{}') order by id limit 64";
            let plan: serde_json::Value = sqlx::query_scalar(query)
                .bind(since)
                .fetch_one(store.pool())
                .await
                .unwrap();
            let plan = &plan[0]["Plan"];
            let blocks = |key: &str| plan[key].as_i64().unwrap_or_default();
            blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
        }
    };
    let (all, lately) = (plan(Uuid::nil()).await, plan(oldest_id_of(LATELY)).await);
    assert!(lately * 4 < all, "{lately} of {all} blocks");
    let running = Running::on(store.clone());
    running.settle().await;
    running.send(n_plus_one(2)).await;
    running.settle().await;
    drop(reader);
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 2);
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
    let lease = lease(&store).await;
    merge_all(&store, &lease, 0).await;
    assert_eq!(number(&store, rows).await, 1);
    assert_eq!(number(&store, REQUESTS).await, 5);
    assert_eq!(verified(&store).await.traces, 5);
}

/// A word of its own for every number, without digits: no templating finds an id in it.
fn word(mut number: usize) -> String {
    let mut word = String::from("w");
    for _ in 0..4 {
        word.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    word
}

/// A span of a trace of many: ids from numbers.
fn numbered(trace: usize, id: usize, parent: usize, kind: i32, name: String) -> Span {
    let bytes = |it: usize| (it as u64 + 1).to_be_bytes().to_vec();
    Span {
        trace_id: [bytes(trace), bytes(trace)].concat(),
        span_id: bytes(id),
        parent_span_id: if id == 0 { Vec::new() } else { bytes(parent) },
        name,
        ..span(1, 1, 0, kind, 50, Vec::new())
    }
}

/// `name` with `below` spans whose names never come again, `kind` of them all.
fn many_names(trace: usize, name: &str, below: usize, kind: i32) -> Vec<Span> {
    let mut spans = vec![numbered(trace, 0, 0, 2, name.to_owned())];
    let names = (0..below).map(|at| word(trace * below + at));
    spans.extend(
        (1..)
            .zip(names)
            .map(|(id, name)| numbered(trace, id, 0, kind, name)),
    );
    spans
}

/// 100,000 names of endpoints, and 100,000 names of spans within one endpoint: neither memory nor disk
/// grows beyond the caps, all is counted, and can be counted again to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_names_are_counted_within_the_caps() {
    const EACH: usize = 1_000;
    let running = Running::start().await;
    for trace in 0..100 {
        running.send(many_names(trace, "inner", EACH, 1)).await;
        running
            .send(many_names(100 + trace, "outer", EACH, 2))
            .await;
        if trace % 10 == 9 {
            running.settle().await;
        }
    }
    // What has come before, and one more trace whose late half arrives after a restart.
    let mut halves = many_names(300, "inner", EACH, 1);
    let late = halves.split_off(EACH / 2);
    running.send(halves).await;
    running.settle().await;
    let store = running.stop().await;
    let running = Running::on(store);
    running.send(late).await;
    running.settle().await;
    assert_eq!(running.stats.again.load(Ordering::Relaxed), 1);
    let store = running.stop().await;

    assert_eq!(
        number(&store, REQUESTS).await,
        101 + 100 * (EACH as i64 + 1)
    );
    let endpoints = number(&store, "select count(*) from culprit.endpoints").await;
    assert_eq!(endpoints, 1_001, "with (other)");
    let others = "select sum(m.requests)::bigint from culprit.rollup_minutes m
                  join culprit.endpoints e on e.id = m.endpoint_id where e.name = '(other)'";
    assert!(number(&store, others).await > 90_000);
    merge_all(&store, &lease(&store).await, 0).await;
    // A thousand endpoints' minutes of some 300 bytes, and profiles of at most a thousand paths.
    let bytes = "select sum(pg_column_size(m.*))::bigint from culprit.rollup_minutes m";
    assert!(number(&store, bytes).await < 1_000_000);
    let bytes = "select max(length(profile))::bigint from culprit.rollup_hours";
    assert!(number(&store, bytes).await < 100_000);
    let full = store.storage().await.unwrap().full;
    let what: Vec<&str> = full.iter().map(|it| it.what.as_str()).collect();
    // Of the service; and of (other), inner, outer, whose callees have as many names.
    let paths = "call paths";
    assert_eq!(what, ["endpoints", paths, paths, paths], "{full:?}");
    let report = verified(&store).await;
    assert_eq!(report.traces, 201);
}

async fn lease(store: &Store) -> Lease {
    let lease = store.acquire_lease(0, Uuid::from_u128(9), true).await;
    lease.unwrap().unwrap()
}

/// Merges what a new owner of the shard finds unmerged.
async fn merge_all(store: &Store, lease: &Lease, horizon: i32) {
    let mut unmerged = store.unmerged_rollups(0).await.unwrap();
    let mut part = i64::MAX - 100;
    loop {
        store
            .find_old_minutes(0, &mut unmerged, horizon)
            .await
            .unwrap();
        if unmerged.is_done() {
            return;
        }
        part += 1;
        store
            .merge_rollups(lease, part, &mut unmerged, horizon)
            .await
            .unwrap();
    }
}

/// The spans, as if they were of now.
fn of_now(mut spans: Vec<Span>) -> Vec<Span> {
    let later = now_ns() - spans[0].start_time_unix_nano;
    for span in &mut spans {
        span.start_time_unix_nano += later;
        span.end_time_unix_nano += later;
    }
    spans
}

const WIDE: &str = "select count(*) from culprit.rollup_minutes where width = 60";
const NARROW: &str = "select count(*) from culprit.rollup_minutes where width = 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merging_minutes_into_hours_changes_no_sum_also_for_late_spans() {
    let running = Running::start().await;
    let mut first = of_now(n_plus_one(1));
    let late = first.split_off(4);
    running.send(first).await;
    running.settle().await;
    running.send(of_now(n_plus_one(2))).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, WIDE).await, 0);
    assert_eq!(verified(&store).await.traces, 2);
    // Tomorrow all of it is old.
    let horizon = merged_before(now_ns()) + 24 * 60;
    merge_all(&store, &lease(&store).await, horizon).await;
    assert!(number(&store, WIDE).await <= 2);
    assert_eq!(number(&store, NARROW).await, 0);
    let narrow_edges = "select count(*) from culprit.rollup_edges where width < 60";
    assert_eq!(number(&store, narrow_edges).await, 0);
    assert_eq!(number(&store, CALLS_OUTSIDE).await, 13);
    assert_eq!(verified(&store).await.traces, 2);

    let running = Running::on(store);
    running.send(late).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, REQUESTS).await, 2);
    assert_eq!(number(&store, HITS).await, 2);
    assert_eq!(verified(&store).await.spans, 22);
    merge_all(&store, &lease(&store).await, horizon).await;
    assert_eq!(number(&store, NARROW).await, 0);
    assert_eq!(verified(&store).await.spans, 22);
}

/// What late spans change in an hour that is merged already is written as a change of the hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_minutes_are_written_as_hours() {
    let running = Running::start().await;
    running.send(n_plus_one(1)).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, WIDE).await, 1);
    assert_eq!(number(&store, NARROW).await, 0);
    verified(&store).await;
}

const BLOCKS: &str = "select count(*) from culprit.trace_blocks";
const SUPERSEDED: &str = "select count(*) from culprit.superseded";

/// Everything that SQL sees of requests, in one text.
async fn requests_in_words(store: &Store) -> String {
    sqlx::query_scalar(
        "select string_agg(r::text, E'\\n' order by r.trace_id, r.span_id) from culprit.requests r",
    )
    .fetch_one(store.pool())
    .await
    .unwrap()
}

async fn pack_all(store: &Store) {
    let lease = lease(store).await;
    let small = store.small_blocks(0).await.unwrap();
    let id = store.last_block_id(0).await.unwrap() + 1;
    let done = compaction::pack_planned(store, &lease, &small, id).await;
    assert!(done.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packing_blocks_changes_nothing_that_is_counted() {
    let running = Running::start().await;
    let mut grows = n_plus_one(2);
    let late = grows.split_off(4);
    let mut later = grows.split_off(2);
    for spans in [n_plus_one(1), grows, n_plus_one(3), late] {
        running.send(spans).await;
        running.settle().await;
    }
    let store = running.stop().await;
    assert_eq!(number(&store, BLOCKS).await, 4);
    assert_eq!(number(&store, SUPERSEDED).await, 1);
    let before = requests_in_words(&store).await;
    pack_all(&store).await;
    assert_eq!(number(&store, BLOCKS).await, 1);
    assert_eq!(number(&store, SUPERSEDED).await, 0);
    assert_eq!(requests_in_words(&store).await, before);
    let spans = "select (spans, traces) = (9 + 22, 3) from culprit.trace_blocks";
    let fits: bool = sqlx::query_scalar(spans)
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert!(fits, "the old copy is gone");
    assert_eq!(verified(&store).await.traces, 3);

    // More of a trace that was packed, and packed again.
    let running = Running::on(store);
    running.send(std::mem::take(&mut later)).await;
    running.settle().await;
    let store = running.stop().await;
    assert_eq!(number(&store, SUPERSEDED).await, 1);
    assert_eq!(verified(&store).await.spans, 33);
    let before = requests_in_words(&store).await;
    pack_all(&store).await;
    assert_eq!(requests_in_words(&store).await, before);
    assert_eq!(number(&store, SUPERSEDED).await, 0);
    assert_eq!(verified(&store).await.spans, 33);
}

/// Blocks of another owner, or that are gone, are left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_packed_by_their_owner_only_and_once() {
    let running = Running::start().await;
    for trace in 1..3 {
        running.send(n_plus_one(trace)).await;
        running.settle().await;
    }
    let store = running.stop().await;
    let former = lease(&store).await;
    let lease = lease(&store).await;
    let small = store.small_blocks(0).await.unwrap();
    let refused = compaction::pack_planned(&store, &former, &small, i64::MAX).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost(0))));
    assert_eq!(number(&store, BLOCKS).await, 2);
    let done = compaction::pack_planned(&store, &lease, &small, i64::MAX).await;
    assert!(done.unwrap());
    let again = compaction::pack_planned(&store, &lease, &small, i64::MAX - 1).await;
    assert!(!again.unwrap());
    assert_eq!(number(&store, BLOCKS).await, 1);
    assert_eq!(verified(&store).await.traces, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_times_find_a_partition() {
    let running = Running::start().await;
    for (trace, start_ns) in [
        (1, 0),
        (2, 1),
        (3, 7_258_118_400_000 * MS),
        (4, u64::MAX - 1),
    ] {
        let mut spans = n_plus_one(trace);
        for span in &mut spans {
            span.start_time_unix_nano = start_ns;
            span.end_time_unix_nano = start_ns.saturating_add(1_000);
        }
        running.send(spans).await;
        running.settle().await;
    }
    assert_eq!(running.stats.failed_ticks.load(Ordering::Relaxed), 0);
    let store = running.stop().await;
    assert_eq!(
        number(&store, "select count(*) from culprit.requests").await,
        4
    );
    assert_eq!(verified(&store).await.traces, 4);
}

/// Then what comes is a trace of its own, of today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_of_a_trace_whose_day_is_gone_is_stored() {
    let running = Running::start().await;
    let mut first = n_plus_one(1);
    let late = first.split_off(4);
    running.send(first).await;
    running.settle().await;
    let store = running.stop().await;
    crate::testing::days_ago(&store, 1).await;
    let yesterday = store.today().await.unwrap() - 1;
    let mut connection = store.retention_connection().await.unwrap();
    for partition in store.partitions().await.unwrap() {
        if partition.day == yesterday && partition.parent == "trace_blocks" {
            let dropped = store.drop_partition(&mut connection, &partition).await;
            dropped.unwrap();
        }
    }
    assert_eq!(number(&store, BLOCKS).await, 0);
    let running = Running::on(store);
    running.send(late).await;
    running.settle().await;
    assert_eq!(running.stats.failed_ticks.load(Ordering::Relaxed), 0);
    let store = running.stop().await;
    let spans = "select spans::bigint from culprit.trace_blocks";
    assert_eq!(number(&store, spans).await, 7);
}
