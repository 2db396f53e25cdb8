//! `culprit demo`: everything of `serve`, the shop, its traffic, its deployments, its alerts, and what to
//! look for.

use anyhow::Context;
use collector::store::Store;
use sqlx::postgres::PgConnectOptions;
use std::pin::pin;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::cli::DemoOptions;
use crate::database::Database;
use crate::demo::alert_receiver::AlertReceiver;
use crate::demo::schedule::Schedule;
use crate::demo::shop::Version;
use crate::demo::{self, RunningDemo, WHAT_GETS_SLOWER, WHAT_TO_LOOK_FOR};
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
pub async fn run(mut options: DemoOptions) -> anyhow::Result<ExitCode> {
    let since = Instant::now();
    // Until the end: what is not delivered then is sent again at the next start, to another receiver.
    let _receiver = receive_alerts(&mut options).await?;
    let serving = serve::start(&options.serve, IfTaken::UseAnother).await?;
    serving.print_addresses(since);
    let result = run_shop(&options, &serving).await;
    serving.stop().await;
    result
}

/// Alerts go to a receiver of the demo's own, unless somebody has one.
async fn receive_alerts(options: &mut DemoOptions) -> anyhow::Result<Option<AlertReceiver>> {
    if options.once || options.serve.alerts.alert_webhook.is_some() {
        return Ok(None);
    }
    let receiver = AlertReceiver::start(say).await?;
    options.serve.alerts.alert_webhook = Some(receiver.url.as_str().into());
    options.serve.alerts.alert_webhook_secret = Some(receiver.secret.as_str().into());
    Ok(Some(receiver))
}

/// With the time, as the UI shows it.
fn say(lines: &[String]) {
    let now = format!("{} UTC", format::clock(format::now_ns()));
    for (number, line) in lines.iter().enumerate() {
        let now = if number == 0 { &now } else { "" };
        println!("{now:<12}  {line}");
    }
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
    let steps = Schedule {
        deploy: options.deploy_after,
        roll_back: options.roll_back_after,
    }
    .steps();
    println!("  Shop       http://{}", shop.shop_address);
    print_what_to_look_for(&steps);
    if let Some(ui) = serving.ui {
        println!(
            "\nOpen http://{ui} and see what to fix first. Ctrl-C stops everything; the data stays.\n"
        );
    }
    shop.keep_sending();
    let signalled = deploy_until_signal(&mut shop, &steps).await;
    shop.stop().await;
    signalled.map(|()| ExitCode::SUCCESS)
}

fn print_what_to_look_for(steps: &[(Duration, Version)]) {
    println!("\nWhat to look for, a few seconds from now:");
    for (endpoint, what) in WHAT_TO_LOOK_FOR {
        println!("  {endpoint:<24} {what}");
    }
    if steps.is_empty() {
        return;
    }
    println!("\nAnd then, a bad deployment:");
    let mut from_now = Duration::ZERO;
    for (after, version) in steps {
        from_now += *after;
        let when = format!("in {}", format::duration(from_now.as_nanos() as u64));
        println!("  {when:<24} {}", announced(*version));
    }
}

fn announced(version: Version) -> String {
    match version {
        Version::V1_1_0 => format!("version 1.1.0 of the shop: {WHAT_GETS_SLOWER}"),
        Version::V1_0_0 => "back to version 1.0.0".to_owned(),
    }
}

/// One version after the other; a deployment that has begun is finished.
async fn deploy_until_signal(
    shop: &mut RunningDemo,
    steps: &[(Duration, Version)],
) -> anyhow::Result<()> {
    let mut signal = pin!(serve::wait_for_signal());
    for (after, version) in steps {
        tokio::select! {
            signalled = &mut signal => return signalled,
            () = tokio::time::sleep(*after) => {}
        }
        shop.deploy(*version).await?;
        say(&deployed(*version));
    }
    signal.await
}

fn deployed(version: Version) -> Vec<String> {
    let lines = match version {
        Version::V1_1_0 => [
            format!("DEPLOYED  version 1.1.0 of the shop: {WHAT_GETS_SLOWER}."),
            "          Nobody tells culprit. It leaves out two minutes of warm-up, then waits until it \
             can be sure."
                .to_owned(),
        ],
        Version::V1_0_0 => [
            "DEPLOYED  version 1.0.0 of the shop again: GET /products/{id} is fine.".to_owned(),
            "          The alert is resolved once it has stayed so for a while.".to_owned(),
        ],
    };
    lines.into()
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
