//! `culprit verify` and `culprit migrate`: the database alone, without listeners.

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::cli::{DatabaseOptions, ServeOptions};
use crate::database::{Database, Purpose};

/// Recounts and compares; exit code 1 if there is a difference.
///
/// # Errors
/// The database cannot be opened or read.
pub async fn run(options: ServeOptions) -> anyhow::Result<ExitCode> {
    let database = Database::open(&options.database, Purpose::Look).await?;
    let settings = options.settings();
    let terminal = std::io::stderr().is_terminal();
    let report = collector::verify::recount(&database.store, &settings, |so_far| {
        if terminal {
            eprint!(
                "\r{} traces, {} spans recounted",
                so_far.traces, so_far.spans
            );
        }
    })
    .await;
    if terminal {
        eprintln!();
    }
    database.close().await;
    let report = report?;
    for difference in &report.described {
        println!("{difference}");
    }
    println!(
        "{} traces, {} spans, {} requests recounted; {} roll-up rows compared; difference {}",
        report.traces, report.spans, report.requests, report.compared, report.differences
    );
    Ok(if report.differences == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Brings the schema up to date.
///
/// # Errors
/// The database cannot be opened, or a migration failed.
pub async fn migrate(options: DatabaseOptions) -> anyhow::Result<ExitCode> {
    let database = Database::open(&options, Purpose::Work).await?;
    println!(
        "the schema culprit is up to date ({} shards)",
        database.store.shards()
    );
    database.close().await;
    Ok(ExitCode::SUCCESS)
}
