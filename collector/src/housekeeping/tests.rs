//! Days that go, on a real Postgres.

use super::*;
use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::json;
use std::time::Instant;
use uuid::Uuid;

use crate::deltas::{Deltas, HitsDelta, MinuteDelta};
use crate::store::blocks::{NewBlock, NewRequest};
use crate::store::finalise::{FLAG_ERROR, FLAG_FINDING, Tick};
use crate::testing::days_ago;

const TODAY: Day = 20_000;

fn partition(parent: &str, day: Day, is_kept: bool) -> Partition {
    Partition {
        parent: parent.into(),
        name: format!("{parent}_{day}"),
        day,
        is_kept,
        is_attached: true,
        is_detaching: false,
        bytes: 1,
    }
}

/// Traces of 20 days, kept ones of 40 before, roll-ups of 100.
fn partitions() -> Vec<Partition> {
    let days = |from: Day, to: Day, parent: &'static str, is_kept| {
        (TODAY - from..=TODAY - to).map(move |day| partition(parent, day, is_kept))
    };
    days(20, 0, TRACES, false)
        .chain(days(60, 21, TRACES, true))
        .chain(days(100, 0, "rollup_hours", false))
        .collect()
}

/// What goes, one after the other.
fn steps(policy: &Policy, is_too_much: bool) -> Vec<Step> {
    let mut partitions = partitions();
    let mut steps = Vec::new();
    while let Some(step) = next_step(&partitions, policy, TODAY, is_too_much) {
        steps.push(step);
        match step {
            Step::Thin(day) => {
                let thinned = partitions
                    .iter_mut()
                    .find(|it| it.parent == TRACES && it.day == day);
                thinned.unwrap().is_kept = true;
            }
            Step::DropTraces(day) => partitions.retain(|it| it.parent != TRACES || it.day != day),
            Step::DropRollups(day) => partitions.retain(|it| it.parent == TRACES || it.day != day),
        }
    }
    steps
}

#[test]
fn what_is_too_old_goes_and_nothing_else() {
    let policy = Policy {
        kept_days: 58,
        ..Policy::default()
    };
    let mut expected = vec![Step::DropTraces(TODAY - 60), Step::DropTraces(TODAY - 59)];
    expected.extend((TODAY - 20..TODAY - 14).map(Step::Thin));
    expected.extend((TODAY - 100..TODAY - 90).map(Step::DropRollups));
    assert_eq!(steps(&policy, false), expected);
}

#[test]
fn without_room_all_goes_but_today_and_yesterday() {
    let steps = steps(&Policy::default(), true);
    let of = |kind: fn(&Step) -> bool| steps.iter().filter(|it| kind(it)).count();
    assert_eq!(of(|it| matches!(it, Step::Thin(_))), 19);
    assert_eq!(of(|it| matches!(it, Step::DropTraces(_))), 59);
    assert_eq!(of(|it| matches!(it, Step::DropRollups(_))), 99);
    assert!(!steps.contains(&Step::Thin(TODAY)));
    assert!(!steps.contains(&Step::Thin(TODAY - 1)));
    let last_thinned = steps.iter().rposition(|it| matches!(it, Step::Thin(_)));
    let first_kept = steps
        .iter()
        .position(|it| matches!(it, Step::DropTraces(_)));
    assert!(last_thinned < first_kept, "kept traces are missed more");
}

#[test]
fn other_peoples_files_do_not_count() {
    let guard = DiskGuard::default();
    assert!(
        !exceeds_share(1 << 40, &guard, 0.8),
        "a disk that cannot be seen"
    );
    guard.look(&std::env::temp_dir(), None).unwrap();
    let free = guard.free_bytes();
    assert!(!exceeds_share(3 * free, &guard, 0.8));
    assert!(exceeds_share(5 * free, &guard, 0.8));
}

fn otlp(trace_id: TraceId) -> Vec<u8> {
    let span = Span {
        trace_id: trace_id.0.to_vec(),
        span_id: vec![1; 8],
        name: "it".into(),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans: vec![span],
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn request(number: u8, duration_ns: u64, flags: i16) -> NewRequest {
    NewRequest {
        trace_id: TraceId([number; 16]),
        span_id: SpanId([1; 8]),
        start_ns: 1,
        duration_ns,
        categories: [0; Category::COUNT],
        calls: [0; Category::COUNT],
        endpoint: 1,
        version: 1,
        minute: 60,
        weight: 1,
        spans: 1,
        flags,
    }
}

/// A block each: 1 with a finding, 2 failed, 3 slow, 4 an example, 5 to 200 as usual.
async fn store_with_traces() -> Store {
    let store = crate::testing::store().await;
    let today = store.today().await.unwrap();
    let mut requests = vec![
        request(1, 10, FLAG_FINDING),
        request(2, 10, FLAG_ERROR),
        request(3, 1_000_000, 0),
    ];
    requests.extend((4..=200).map(|it| request(it, 10, 0)));
    let blocks = requests.iter().map(|it| NewBlock {
        day: today,
        id: i64::from(it.trace_id.0[0]),
        spans: 1,
        traces: 1,
        raw_bytes: 100,
        payload: crate::packer::compress(&otlp(it.trace_id), 3),
        requests: vec![it.clone()],
        filter: None,
    });
    let mut deltas = Deltas::default();
    let mut minute = MinuteDelta::default();
    for it in &requests {
        minute.requests += 1;
        minute.latency.record(it.duration_ns, 1);
    }
    deltas.minutes.insert((today, 1, 1, 60), minute);
    let example = json!({"trace_id": TraceId([4; 16]).to_string()});
    let hits = HitsDelta {
        traces: 1,
        examples: vec![example],
        ..HitsDelta::default()
    };
    deltas.hits.insert((today, 1, 1, 60), hits);
    let tick = Tick {
        part: 1,
        blocks: blocks.collect(),
        deltas,
        ..Tick::default()
    };
    let lease = store.acquire_lease(0, Uuid::from_u128(1), true).await;
    store
        .write_tick(&lease.unwrap().unwrap(), 1, tick)
        .await
        .unwrap();
    store
}

async fn keep(store: &Store, policy: Policy) -> Result<Stats, StoreError> {
    let options = Options {
        policy,
        ..Options::default()
    };
    let (guard, stats) = (DiskGuard::default(), Stats::default());
    keep_house(store, &options, &guard, &stats).await?;
    Ok(stats)
}

/// The first bytes of the stored traces' ids.
async fn stored(store: &Store) -> Vec<u8> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select distinct unnest(trace_ids) from culprit.trace_blocks order by 1",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    ids.iter().map(|it| it.as_bytes()[0]).collect()
}

async fn names(store: &Store) -> Vec<String> {
    let today = store.today().await.unwrap();
    let partitions = store.partitions().await.unwrap();
    let old = partitions.into_iter().filter(|it| it.day < today);
    old.map(|it| format!("{}{}", it.parent, if it.is_kept { " kept" } else { "" }))
        .collect()
}

async fn counted_apart(store: &Store) -> i64 {
    sqlx::query_scalar("select count(*) from culprit.counted_apart")
        .fetch_one(store.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_old_day_leaves_what_is_worth_keeping() {
    let store = store_with_traces().await;
    days_ago(&store, 20).await;
    let bytes_before = store.bytes_by_table().await.unwrap()["trace_blocks"];
    let stats = keep(&store, Policy::default()).await.unwrap();
    assert_eq!(stored(&store).await, [1, 2, 3, 4]);
    assert_eq!(
        names(&store).await,
        [
            "finding_hits",
            "rollup_edges",
            "rollup_hours",
            "rollup_minutes",
            "trace_blocks kept"
        ]
    );
    assert_eq!(stats.kept_traces.load(Relaxed), 4);
    assert_eq!(stats.dropped_partitions.load(Relaxed), 1);
    assert!(stats.bytes_by_table()["trace_blocks"] < bytes_before);
    // The kept ones are whole: found by their ids, opened, told apart from the others.
    let today = store.today().await.unwrap();
    let keys = store.block_keys(0).await.unwrap();
    let blocks = store.blocks(0, &keys).await.unwrap();
    assert_eq!((blocks.len(), blocks[0].traces.len()), (1, 4));
    let raw = crate::assembly::decompress(&blocks[0].payload).unwrap();
    let ids = crate::otlp::trace_ids(&raw).unwrap();
    assert_eq!(ids.len(), 4);
    // Roll-ups are not compared with traces that are gone.
    let settings = analyzer::Settings::default();
    let recount = crate::verify::recount(&store, &settings, |_| {});
    assert_eq!(recount.await.unwrap().differences, 0);
    // Nothing more has to go.
    let stats = keep(&store, Policy::default()).await.unwrap();
    assert_eq!(stats.dropped_partitions.load(Relaxed), 0);
    assert_eq!(stats.oldest_kept_day.load(Relaxed), i64::from(today - 20));
}

#[tokio::test]
async fn in_the_end_all_of_a_day_goes() {
    let store = store_with_traces().await;
    days_ago(&store, 20).await;
    sqlx::query(
        "insert into culprit.counted_apart (day, endpoint_id, paths, statements)
         select (now() at time zone 'utc')::date - n.days, 1, '', '' from unnest(array[0, 20]) as n(days)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    keep(&store, Policy::default()).await.unwrap();
    assert_eq!(counted_apart(&store).await, 2, "the roll-ups are there");
    let policy = Policy {
        days: 5,
        kept_days: 10,
        rollup_days: 10,
        ..Policy::default()
    };
    keep(&store, policy).await.unwrap();
    assert_eq!(stored(&store).await, [0_u8; 0]);
    assert_eq!(names(&store).await, Vec::<String>::new());
    assert_eq!(counted_apart(&store).await, 1, "today's");
}

#[tokio::test]
async fn too_many_bytes_cost_the_oldest_days() {
    let store = store_with_traces().await;
    days_ago(&store, 3).await;
    let policy = Policy {
        bytes_max: Some(1),
        ..Policy::default()
    };
    keep(&store, policy).await.unwrap();
    assert_eq!(names(&store).await, Vec::<String>::new());
    let today = store.today().await.unwrap();
    let left = store.partitions().await.unwrap();
    assert_eq!(
        left.iter().filter(|it| it.day == today).count(),
        5,
        "one of each table"
    );
}

/// R13: whoever reads while a day goes neither fails nor waits for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_that_a_day_goes() {
    let store = store_with_traces().await;
    days_ago(&store, 20).await;
    let (reader, done) = (store.clone(), CancellationToken::new());
    let finished = done.clone();
    let reading = tokio::spawn(async move {
        let (mut slowest, mut reads) = (Duration::ZERO, 0);
        while !finished.is_cancelled() {
            let since = Instant::now();
            let seen = stored(&reader).await.len();
            assert!([200, 4, 0].contains(&seen), "{seen}");
            slowest = slowest.max(since.elapsed());
            reads += 1;
        }
        (slowest, reads)
    });
    keep(&store, Policy::default()).await.unwrap();
    done.cancel();
    let (slowest, reads) = reading.await.unwrap();
    assert!(reads > 0);
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert_eq!(stored(&store).await, [1, 2, 3, 4]);
}

/// A reader that does not end keeps a day for a while, and keeps nobody else waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_long_reader_interrupts_goes_on_later() {
    let store = store_with_traces().await;
    days_ago(&store, 20).await;
    let mut reader = store.pool().begin().await.unwrap();
    let seen = "select count(*) from culprit.trace_blocks";
    let before: i64 = sqlx::query_scalar(seen)
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    assert_eq!(before, 200);
    assert!(
        keep(&store, Policy::default()).await.is_err(),
        "no lock in time"
    );
    let partitions = store.partitions().await.unwrap();
    assert!(partitions.iter().any(|it| it.is_detaching));
    assert!(partitions.iter().any(|it| it.is_kept && !it.is_attached));
    reader.commit().await.unwrap();
    keep(&store, Policy::default()).await.unwrap();
    assert_eq!(stored(&store).await, [1, 2, 3, 4]);
    let partitions = store.partitions().await.unwrap();
    assert!(
        partitions
            .iter()
            .all(|it| it.is_attached && !it.is_detaching)
    );
}

#[tokio::test]
async fn a_table_that_was_only_begun_is_made_anew() {
    let store = store_with_traces().await;
    days_ago(&store, 20).await;
    let partitions = store.partitions().await.unwrap();
    let today = store.today().await.unwrap();
    let full = partitions
        .iter()
        .find(|it| it.parent == TRACES && it.day < today);
    let begun = format!(
        "create table culprit.{}_kept (like culprit.trace_blocks including all)",
        full.unwrap().name
    );
    sqlx::query(sqlx::AssertSqlSafe(begun))
        .execute(store.pool())
        .await
        .unwrap();
    keep(&store, Policy::default()).await.unwrap();
    assert_eq!(stored(&store).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn while_the_disk_is_full_nothing_is_taken() {
    use crate::journal::{Batch, Journal, Part, Refused};
    let store = crate::testing::store().await;
    let journal = Journal::start(store);
    let guard = Arc::new(DiskGuard::default());
    journal.watch_disk(guard.clone());
    let batch = || Batch {
        parts: vec![Part {
            shard: 0,
            spans: 1,
            otlp: otlp(TraceId([1; 16])).into(),
        }],
    };
    let directory = std::env::temp_dir();
    guard.look(&directory, Some(u64::MAX)).unwrap();
    assert!(!journal.is_ready());
    let refused = journal.append(batch()).await.unwrap_err();
    let Refused::Unavailable { reason, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("disk"), "{reason}");
    guard.look(&directory, Some(1)).unwrap();
    assert!(journal.is_ready());
    journal.append(batch()).await.unwrap();
}
