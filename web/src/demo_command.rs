//! `culprit demo`: everything of `serve`, the shop, its traffic, and what to look for.

use anyhow::Context;
use collector::store::Store;
use sqlx::postgres::PgConnectOptions;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::cli::DemoOptions;
use crate::database::Database;
use crate::demo::{self, RunningDemo, WHAT_TO_LOOK_FOR};
use crate::format;
use crate::serve::{self, IfTaken, Serving};

/// The shop's database, beside culprit's own.
const SHOP_DATABASE: &str = "culprit_demo_shop";

/// Requests that `--once` sends: enough that every endpoint is asked some dozens of times.
const ONCE_REQUESTS: usize = 4 * demo::traffic::DECK_SIZE;

/// After these requests everything must be analysed within this time.
const ANALYSED_WITHIN: Duration = Duration::from_secs(60);

/// The same customers every time.
const SEED: u64 = 7;

/// Runs the demo until a signal, or with `--once` until its findings are printed.
///
/// # Errors
/// Something could not be started, or (`--once`) the analysis did not finish in time.
pub async fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let since = Instant::now();
    let serving = serve::start(&options.serve, IfTaken::UseAnother).await?;
    serving.print_addresses(since);
    let result = run_shop(&options, &serving).await;
    serving.stop().await;
    result
}

async fn run_shop(options: &DemoOptions, serving: &Serving) -> anyhow::Result<ExitCode> {
    let grpc = serving
        .grpc
        .context("the demo needs the role collector in its process")?;
    let shop = demo::DemoOptions {
        database: shop_database(&serving.database, options)?,
        otlp_endpoint: format!("http://{grpc}"),
        requests_per_second: options.rate,
        seed: SEED,
    };
    let mut shop = demo::start(shop, CancellationToken::new()).await?;
    if options.once {
        let result = once(&shop, &serving.database.store).await;
        shop.stop().await;
        return result;
    }
    println!(
        "  Shop       http://{}\n\nWhat to look for, a few seconds from now:",
        shop.shop_address
    );
    for (endpoint, what) in WHAT_TO_LOOK_FOR {
        println!("  {endpoint:<24} {what}");
    }
    if let Some(ui) = serving.ui {
        println!(
            "\nOpen http://{ui} and see what to fix first. Ctrl-C stops everything; the data stays."
        );
    }
    shop.keep_sending();
    serve::wait_for_signal().await?;
    shop.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn shop_database(database: &Database, options: &DemoOptions) -> anyhow::Result<PgConnectOptions> {
    match (&database.postgres, &options.serve.database.database_url) {
        (Some(postgres), _) => Ok(postgres.connect_options(SHOP_DATABASE)),
        (None, Some(url)) => Ok(PgConnectOptions::from_str(url)?.database(SHOP_DATABASE)),
        (None, None) => anyhow::bail!("there is no database for the demo shop"),
    }
}

async fn once(shop: &RunningDemo, store: &Store) -> anyhow::Result<ExitCode> {
    eprintln!("sending {ONCE_REQUESTS} requests");
    shop.send(ONCE_REQUESTS).await?;
    wait_until_analysed(store).await?;
    for (rank, finding) in store.ranked_findings().await?.iter().enumerate() {
        println!(
            "{:>2}. {:<8} {}  [{} · {}]\n    {} saved in all, {} of {} requests affected",
            rank + 1,
            finding.severity_name(),
            finding.title,
            finding.service,
            finding.endpoint,
            format::duration(finding.saved_ns.max(0) as u64),
            finding.affected,
            finding.requests,
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything acknowledged is analysed, and the review has seen it.
async fn wait_until_analysed(store: &Store) -> anyhow::Result<()> {
    let since = Instant::now();
    while store.journal_backlog().await?.rows > 0 || !store.is_reviewed().await? {
        anyhow::ensure!(
            since.elapsed() < ANALYSED_WITHIN,
            "the requests are not analysed after {} s; run with CULPRIT_LOG=debug to see why",
            ANALYSED_WITHIN.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
