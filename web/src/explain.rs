//! `culprit explain`: a detector's own words.

use analyzer::detectors::{ALL, Detector};
use std::process::ExitCode;

/// Prints one detector's explanation, or all.
///
/// # Errors
/// There is no such detector; the error names those there are.
pub fn run(id: Option<&str>) -> anyhow::Result<ExitCode> {
    let chosen: Vec<&Detector> = ALL
        .iter()
        .filter(|it| id.is_none_or(|id| id == it.id))
        .collect();
    if chosen.is_empty() {
        let ids: Vec<&str> = ALL.iter().map(|it| it.id).collect();
        anyhow::bail!(
            "there is no detector '{}'; there are: {}",
            id.unwrap_or_default(),
            ids.join(", ")
        );
    }
    for (at, detector) in chosen.iter().enumerate() {
        if at > 0 {
            println!("\n");
        }
        println!(
            "{} ({})\n\n{}",
            detector.title,
            detector.id,
            detector.explain.trim()
        );
    }
    Ok(ExitCode::SUCCESS)
}
