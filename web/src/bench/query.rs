//! `culprit bench query`: how long what people ask takes when many spans are stored.
//!
//! The spans come the real way, over OTLP/gRPC through analysis into blocks. Then culprit is started
//! anew, so that Postgres' own cache is empty (the kernel's is not): each question's first answer is
//! reported apart from the others. Questions are asked as the pages ask them, over all that is stored;
//! then the pages themselves, over HTTP.

use analyzer::span::TraceId;
use anyhow::Context;
use collector::span_conditions::{Bound, Condition};
use collector::store::Store;
use collector::store::bottlenecks::Minutes;
use collector::store::endpoints::RequestOrder as EndpointOrder;
use collector::store::profiles::hours;
use collector::store::requests::{RequestFilter, RequestOrder};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::load::{self, Load};
use super::pages;
use super::process::Culprit;
use super::{IngestOptions, connect, quantile, round, scratch_directory, settle};

/// What `bench query` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct QueryOptions {
    /// Spans stored before anything is asked.
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    pub spans: u64,
    /// Spans per second offered while filling; culprit slows it down to what it takes.
    #[arg(long, default_value_t = 150_000, value_name = "N")]
    pub rate: u32,
    /// Over how many hours until now the spans' times are spread.
    #[arg(long, default_value_t = 24.0, value_name = "N")]
    pub hours: f64,
    /// How often each question is asked.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub runs: u32,
    /// A data directory to fill and keep; one that is filled already is used as it is.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The load is the same for the same seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// Spans with an attribute that no other span has: what "rare" means below.
const NEEDLES: u32 = 10;

/// Rows that a page shows.
const PAGE_ROWS: i64 = 50;

/// Fills, asks and prints.
///
/// # Errors
/// culprit cannot be started, does not store everything in time, or cannot answer.
pub async fn query(options: QueryOptions) -> anyhow::Result<ExitCode> {
    let (directory, scratch) = match &options.data_dir {
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            (directory.clone(), false)
        }
        None => (scratch_directory()?, true),
    };
    let result = measure(&options, &directory).await;
    if scratch {
        let _ = std::fs::remove_dir_all(&directory);
    }
    println!("{}", serde_json::to_string_pretty(&result?)?);
    Ok(ExitCode::SUCCESS)
}

async fn measure(options: &QueryOptions, directory: &Path) -> anyhow::Result<Value> {
    let culprit = Culprit::start(directory, &[]).await?;
    let filled = fill(options, &culprit, directory).await;
    culprit.stop().await?;
    let filled = filled?;
    let culprit = Culprit::start(directory, &[]).await?;
    let result = ask(options, directory, &culprit.ui).await;
    culprit.stop().await?;
    let mut figures = result?;
    figures["filled_in_s"] = json!(filled);
    figures["runs"] = json!(options.runs);
    Ok(figures)
}

/// Seconds it took; `None` if the directory was filled before.
async fn fill(
    options: &QueryOptions,
    culprit: &Culprit,
    directory: &Path,
) -> anyhow::Result<Option<f64>> {
    let mut database = connect(directory).await?;
    let filled: bool = sqlx::query_scalar("select exists (select from culprit.trace_blocks)")
        .fetch_one(&mut database)
        .await?;
    if filled {
        return Ok(None);
    }
    let since = Instant::now();
    let seconds = (options.spans as f64 / f64::from(options.rate)).ceil() as u32;
    let ingest = IngestOptions {
        rate: options.rate,
        seconds,
        seed: options.seed,
    };
    let every = Duration::from_secs_f64(f64::from(seconds) / f64::from(NEEDLES));
    let needles = tokio::spawn(send_needles(culprit.grpc.clone(), every));
    let spread = Duration::try_from_secs_f64(options.hours * 3_600.0)?;
    let load = Load::new(&ingest).spread_over(spread);
    let sent = load.run(&culprit.grpc).await?;
    needles.await??;
    settle(&mut database, sent.distinct_spans).await?;
    sqlx::query("vacuum analyze culprit.trace_blocks")
        .execute(&mut database)
        .await?;
    Ok(Some(round(since.elapsed().as_secs_f64(), 1)))
}

/// Traces of one span with `app.needle = needle-0`, `needle-1`, …, while the others are sent.
async fn send_needles(address: String, every: Duration) -> anyhow::Result<()> {
    let mut client = TraceServiceClient::connect(address).await?;
    for needle in 0..NEEDLES {
        client.export(load::needle(needle)).await?;
        tokio::time::sleep(every).await;
    }
    Ok(())
}

async fn ask(options: &QueryOptions, directory: &Path, ui: &str) -> anyhow::Result<Value> {
    let mut database = connect(directory).await?;
    let connect = collector::postgres::connect_options_in(directory, "culprit")?;
    let store = Store::connect(connect, 1).await?.for_people();
    let stored = Stored::of(&mut database, options.runs).await?;
    let runs = options.runs;
    let mut answers = Map::new();
    let mut note = |name: &str, answer: Value| answers.insert(name.to_owned(), answer);

    let traces = &stored.traces;
    let trace = |run: u32| store.trace(traces[run as usize % traces.len()]);
    note(
        "trace_by_id",
        timed(runs, |run| async move {
            Ok(usize::from(trace(run).await?.is_some()))
        })
        .await?,
    );

    let lists: [List; 11] = [
        ("list_first_page", |_| all()),
        ("list_slowest", |_| RequestFilter {
            order: RequestOrder::Slowest,
            ..all()
        }),
        ("list_by_service", |run| RequestFilter {
            service: load::SERVICES[run as usize % 3].into(),
            outermost: false,
            ..all()
        }),
        ("list_by_endpoint", |run| RequestFilter {
            endpoint: format!("GET /orders/v{}", run % 7),
            outermost: false,
            ..all()
        }),
        ("list_by_duration", |_| RequestFilter {
            min_ns: 79_000_000,
            ..all()
        }),
        ("list_by_status", |_| RequestFilter {
            errors: true,
            ..all()
        }),
        ("search_by_span_name", |_| {
            searched(Condition::Name("SELECT cart".into()))
        }),
        ("search_attribute_common", |_| {
            searched(equals("db.namespace", "shop".into()))
        }),
        ("search_attribute_rare", |run| {
            searched(equals("app.needle", format!("needle-{}", run % NEEDLES)))
        }),
        ("search_attribute_no_hit", |run| {
            searched(equals("thread.name", format!("nobody-{run}")))
        }),
        ("search_number_no_hit", |_| {
            searched(Condition::Within {
                key: "http.response.status_code".into(),
                least: Bound::Included(500.0),
                greatest: Bound::Unbounded,
            })
        }),
    ];
    for (name, filter) in lists {
        let store = &store;
        let ask = |run| async move { Ok(store.requests(&filter(run)).await?.rows.len()) };
        note(name, timed(runs, ask).await?);
    }

    let window = stored.window;
    let ranking = |_| {
        let store = &store;
        async move {
            let (endpoints, hits) = futures_util::try_join!(
                store.endpoint_windows(window),
                store.hits_windows(window, None)
            )?;
            Ok(endpoints.len() + hits.len())
        }
    };
    note("front_page", timed(runs, ranking).await?);
    let endpoints = &stored.endpoints;
    let endpoint = |run: u32| {
        let (store, id) = (&store, endpoints[run as usize % endpoints.len()]);
        let ns = 0..i64::MAX;
        async move {
            let (minutes, _, _, _, slowest, latest) = futures_util::try_join!(
                store.endpoint_minutes(id, window),
                store.endpoint_findings(id, window),
                store.endpoint_statements(id, window, 20),
                store.endpoint_profiles(id, hours(window), None),
                store.endpoint_requests(id, ns.clone(), EndpointOrder::Slowest, 10),
                store.endpoint_requests(id, ns.clone(), EndpointOrder::Latest, 10),
            )?;
            Ok(minutes.len() + slowest.len() + latest.len())
        }
    };
    note("endpoint_page", timed(runs, endpoint).await?);
    store.close().await;
    let shown = pages::Shown::of(&mut database).await?;
    let mut pages = Map::new();
    for (name, address) in shown.addresses(window) {
        let page = &pages::Page::new(ui, &address)?;
        let mut answer = match timed(runs, |_| page.get()).await {
            Ok(answer) => answer,
            // The other pages' figures took long to get.
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        // What stands in `rows` of a question are bytes of HTML here.
        answer["bytes"] = answer["rows"].take();
        answer["address"] = json!(address);
        if let Some(fields) = answer.as_object_mut() {
            fields.shift_remove("rows");
        }
        pages.insert(name.to_owned(), answer);
    }
    Ok(json!({
        "spans_stored": stored.spans,
        "blocks": stored.blocks,
        "bytes_per_span": {
            "payload": round(stored.payload_bytes as f64 / stored.spans.max(1) as f64, 2),
            "filter": round(stored.filter_bytes as f64 / stored.spans.max(1) as f64, 2),
        },
        "queries": answers,
        "pages": pages,
    }))
}

/// A question for a list: its name, and what is asked in which run.
type List = (&'static str, fn(u32) -> RequestFilter);

/// What there is to ask for.
struct Stored {
    spans: i64,
    blocks: i64,
    payload_bytes: i64,
    filter_bytes: i64,
    traces: Vec<TraceId>,
    endpoints: Vec<i32>,
    /// All minutes that have requests.
    window: Minutes,
}

impl Stored {
    async fn of(database: &mut PgConnection, traces: u32) -> anyhow::Result<Stored> {
        let (spans, blocks, payload_bytes, filter_bytes): (i64, i64, i64, i64) = sqlx::query_as(
            "select coalesce(sum(spans), 0)::bigint, count(*), coalesce(sum(octet_length(payload)), 0)::bigint,
                    coalesce(sum(octet_length(filter)), 0)::bigint
             from culprit.trace_blocks",
        )
        .fetch_one(&mut *database)
        .await?;
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
            "select trace_ids[1 + floor(random() * cardinality(trace_ids))::integer]
             from culprit.trace_blocks order by random() limit $1",
        )
        .bind(i64::from(traces))
        .fetch_all(&mut *database)
        .await?;
        let endpoints: Vec<i32> =
            sqlx::query_scalar("select id from culprit.endpoints order by id")
                .fetch_all(&mut *database)
                .await?;
        let (from, to): (Option<i32>, Option<i32>) =
            sqlx::query_as("select min(minute), max(minute) + 1 from culprit.rollup_minutes")
                .fetch_one(&mut *database)
                .await?;
        anyhow::ensure!(
            !ids.is_empty() && !endpoints.is_empty(),
            "nothing is stored"
        );
        Ok(Stored {
            spans,
            blocks,
            payload_bytes,
            filter_bytes,
            traces: ids.into_iter().map(|it| TraceId(it.into_bytes())).collect(),
            endpoints,
            window: Minutes {
                from: from.context("no roll-ups")?,
                to: to.context("no roll-ups")?,
            },
        })
    }
}

fn all() -> RequestFilter {
    RequestFilter {
        outermost: true,
        ..RequestFilter::newest(PAGE_ROWS)
    }
}

fn searched(condition: Condition) -> RequestFilter {
    RequestFilter {
        conditions: vec![condition],
        ..all()
    }
}

fn equals(key: &str, value: String) -> Condition {
    Condition::Equals {
        key: key.into(),
        value,
    }
}

/// The first answer apart (`first_ms`); `p50_ms`, `p95_ms` and `max_ms` of the others; `rows` of the
/// last one.
async fn timed<F>(runs: u32, ask: impl Fn(u32) -> F) -> anyhow::Result<Value>
where
    F: Future<Output = anyhow::Result<usize>>,
{
    let mut rows = 0;
    let mut times_ms = Vec::new();
    for run in 0..=runs {
        let since = Instant::now();
        rows = ask(run).await?;
        times_ms.push(since.elapsed().as_secs_f64() * 1e3);
    }
    let first_ms = times_ms.remove(0);
    times_ms.sort_by(f64::total_cmp);
    let at = |share| quantile(&times_ms, share);
    Ok(json!({
        "first_ms": round(first_ms, 2), "p50_ms": at(0.5), "p95_ms": at(0.95), "max_ms": at(1.0),
        "rows": rows,
    }))
}
