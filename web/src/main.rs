//! `culprit`: parse, run the subcommand, print the chain of what went wrong, exit.

use clap::Parser;
use std::process::ExitCode;

/// Many small buffers come and go on many threads: the system's allocator contends.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = web::cli::Cli::parse();
    match web::cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("culprit: {error:#}");
            ExitCode::from(2)
        }
    }
}
