//! `culprit`: parse, run the subcommand, print the chain of what went wrong, exit.

use std::process::ExitCode;

/// Many small buffers come and go on many threads: the system's allocator contends.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    without_huge_pages();
    let cli = web::cli::Cli::read();
    match web::cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            // Names of files and what stands in them may be part of it.
            let told = web::offline::paint::printable_lines(&format!("{error:#}"));
            eprintln!("culprit: {told}");
            ExitCode::from(2)
        }
    }
}

/// The allocator asks for huge pages, and the kernel clears two megabytes for each small buffer that
/// comes and goes: a fifth of the time under load, and a third of the memory.
fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        eprintln!("culprit: huge pages cannot be switched off ({error}); more memory is used");
    }
}
