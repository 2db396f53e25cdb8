//! `culprit bench`: figures that anybody can repeat, as one JSON object on standard output.
//!
//! culprit runs as a process of its own on an empty private Postgres, so that its processor time
//! and memory are told apart from the load's and from Postgres'.

mod load;
mod overload;
mod process;
mod query;
mod pages;

pub use overload::{OverloadOptions, overload};
pub use query::{QueryOptions, query};

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use load::Load;
use process::{Culprit, Usage};

/// What `bench ingest` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct IngestOptions {
    /// Spans per second offered, over all exporters.
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub seconds: u32,
    /// The load is the same for the same seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// After the load everything must be analysed within this time; then the bench has failed.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Runs the load and prints what it cost.
///
/// # Errors
/// culprit cannot be started, or does not analyse everything in time.
pub async fn ingest(options: IngestOptions) -> anyhow::Result<ExitCode> {
    let directory = scratch_directory()?;
    let result = measure(&options, &directory).await;
    let _ = std::fs::remove_dir_all(&directory);
    println!("{}", serde_json::to_string_pretty(&result?)?);
    Ok(ExitCode::SUCCESS)
}

async fn measure(options: &IngestOptions, directory: &Path) -> anyhow::Result<Value> {
    let culprit = Culprit::start(directory, &[]).await?;
    let before = culprit.usage()?;
    let since = Instant::now();
    let sent = Load::new(options).run(&culprit.grpc).await?;
    let load_s = since.elapsed().as_secs_f64();
    let mut database = connect(directory).await?;
    let settled = settle(&mut database, sent.distinct_spans).await;
    let after = culprit.usage()?;
    let figures = figures(&mut database, &before, &after, &sent, load_s).await;
    database.close().await?;
    culprit.stop().await?;
    let lag_s = settled?;
    let mut figures = figures?;
    figures["analysis_lag_s"] = json!(lag_s);
    figures["load"] = json!({
        "rate": options.rate, "seconds": options.seconds, "seed": options.seed,
        "spans_per_trace": load::SPANS_PER_TRACE, "attributes_per_span": load::ATTRIBUTES_PER_SPAN,
    });
    Ok(figures)
}

/// A directory that Postgres' user can reach.
fn scratch_directory() -> anyhow::Result<std::path::PathBuf> {
    let directory = std::env::temp_dir().join(format!("culprit-bench-{}", std::process::id()));
    std::fs::create_dir(&directory)
        .with_context(|| format!("{} cannot be created", directory.display()))?;
    Ok(directory)
}

async fn connect(directory: &Path) -> anyhow::Result<PgConnection> {
    let options = collector::postgres::connect_options_in(directory, "culprit")?;
    Ok(PgConnection::connect_with(&options).await?)
}

/// Waits until all spans are stored and the journal is empty; how long that took, s.
async fn settle(database: &mut PgConnection, spans: u64) -> anyhow::Result<f64> {
    let since = Instant::now();
    loop {
        let (journal, stored): (i64, i64) = sqlx::query_as(
            // What is not in the journal any more is in a block; some traces in two, so that this
            // is at least what is stored. The figures count exactly.
            "select (select count(*) from culprit.journal),
                    (select coalesce(sum(spans), 0)::bigint from culprit.trace_blocks)",
        )
        .fetch_one(&mut *database)
        .await?;
        if journal == 0 && stored as u64 >= spans {
            return Ok(since.elapsed().as_secs_f64());
        }
        anyhow::ensure!(
            since.elapsed() < SETTLE_MAX,
            "after {} s {journal} journal rows wait and {stored} of {spans} spans are stored",
            SETTLE_MAX.as_secs(),
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn figures(
    database: &mut PgConnection,
    before: &Usage,
    after: &Usage,
    sent: &load::Sent,
    load_s: f64,
) -> anyhow::Result<Value> {
    let (stored, traces): (i64, i64) = sqlx::query_as(
        "select coalesce(sum(spans), 0)::bigint, count(*) from (
             select distinct r.trace_id, r.spans from culprit.trace_blocks b
             cross join lateral unnest(b.trace_ids, b.trace_spans) as r(trace_id, spans)
             where not exists (
                 select from culprit.superseded s where s.block_id = b.id and s.shard = b.shard
                   and s.day = b.day and s.trace_id = r.trace_id)) traces",
    )
    .fetch_one(&mut *database)
    .await?;
    // A trace that was made final twice is in two blocks, and counts in one.
    let in_blocks: i64 =
        sqlx::query_scalar("select coalesce(sum(traces), 0) from culprit.trace_blocks")
            .fetch_one(&mut *database)
            .await?;
    let per_span = |seconds: f64| round(seconds * 1e6 / sent.acked_spans.max(1) as f64, 3);
    Ok(json!({
        "spans_sent": sent.spans, "spans_acked": sent.acked_spans,
        "spans_distinct": sent.distinct_spans, "spans_stored": stored,
        "requests_refused": sent.refused,
        "spans_per_s": (sent.acked_spans as f64 / load_s).round(),
        "traces": traces,
        "finalised_twice": round((in_blocks - traces) as f64 / traces.max(1) as f64, 4),
        "cpu_us_per_span": {
            "culprit": per_span(after.culprit_cpu_s - before.culprit_cpu_s),
            "postgres": per_span(after.postgres_cpu_s - before.postgres_cpu_s),
        },
        "peak_memory_mb": {
            "culprit": round(after.culprit_peak_mb, 1), "postgres_private": round(after.postgres_mb, 1),
        },
        "bytes_per_span": bytes_per_span(database, stored).await?,
    }))
}

/// By table, indexes and TOAST included; partitions are added to their parent.
async fn bytes_per_span(database: &mut PgConnection, spans: i64) -> anyhow::Result<Value> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select coalesce(parent.relname, c.relname)::text as name,
                sum(pg_total_relation_size(c.oid))::bigint
         from pg_class c
         join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'culprit'
         left join pg_inherits i on i.inhrelid = c.oid
         left join pg_class parent on parent.oid = i.inhparent
         where c.relkind = 'r' group by 1 order by 2 desc",
    )
    .fetch_all(database)
    .await?;
    let bytes = |bytes: i64| round(bytes as f64 / spans.max(1) as f64, 2);
    let mut tables = serde_json::Map::new();
    for (name, size) in rows.iter().filter(|(_, size)| *size > 100_000) {
        tables.insert(name.clone(), json!(bytes(*size)));
    }
    Ok(Value::Object(tables))
}

/// Of sorted times, rounded; 0 without any.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = (share * sorted.len() as f64) as usize;
    let at = sorted.get(position).or(sorted.last());
    round(at.copied().unwrap_or_default(), 2)
}

fn round(number: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (number * factor).round() / factor
}
