//! The sentence at the top of a trace's page: what took how long, and for what.
//!
//! It names the category of the costliest finding, if that is worth a clause; else the category
//! that took most of the request.

use analyzer::category::Category;
use analyzer::{Analysis, Entry};

/// Below this share of the request, a finding's category is not worth the headline.
const SHARE_MIN: f64 = 0.08;

/// Below this share, the largest category says nothing about where to look.
const MOSTLY_MIN: f64 = 0.45;

/// What follows "took 762.8 ms, ": `a quarter of it for logging`. `None` if nothing stands out.
pub fn clause(analysis: &Analysis<'_>, entry: &Entry<'_>) -> Option<String> {
    let suspect = culprit(analysis, entry).filter(|it| share(entry, *it) >= SHARE_MIN);
    let largest = largest(entry).filter(|it| share(entry, *it) >= MOSTLY_MIN);
    let category = suspect.or(largest)?;
    let part = in_words(share(entry, category));
    Some(format!("{part} of it {}", spent(category)))
}

/// The category of the first offender of the entry's costliest finding.
fn culprit(analysis: &Analysis<'_>, entry: &Entry<'_>) -> Option<Category> {
    let here = |at: usize| {
        analysis
            .entries
            .get(at)
            .is_some_and(|it| it.span == entry.span)
    };
    let findings = analysis.findings.iter().filter(|it| here(it.entry));
    let costliest = findings.max_by_key(|it| it.saved_ns)?;
    let offender = *costliest.offenders.first()?;
    let on_path = entry
        .path
        .iter()
        .find(|it| it.span == offender)
        .map(|it| it.category);
    Some(on_path.unwrap_or(analysis.categories[offender as usize]))
}

fn largest(entry: &Entry<'_>) -> Option<Category> {
    Category::ALL
        .into_iter()
        .max_by_key(|it| entry.categories[*it as usize])
}

fn share(entry: &Entry<'_>, category: Category) -> f64 {
    entry.categories[category as usize] as f64 / entry.duration_ns.max(1) as f64
}

/// A share as people say it.
pub fn in_words(share: f64) -> &'static str {
    match share {
        it if it >= 0.9995 => "all",
        it if it >= 0.95 => "nearly all",
        it if it >= 0.80 => "most",
        it if it >= 0.70 => "three quarters",
        it if it >= 0.62 => "two thirds",
        it if it >= 0.55 => "more than half",
        it if it >= 0.45 => "half",
        it if it >= 0.37 => "more than a third",
        it if it >= 0.29 => "a third",
        it if it >= 0.22 => "a quarter",
        it if it >= 0.17 => "a fifth",
        it if it >= 0.13 => "a seventh",
        it if it >= 0.08 => "a tenth",
        _ => "a little",
    }
}

fn spent(category: Category) -> &'static str {
    match category {
        Category::Handler => "in its own code",
        Category::Database => "in the database",
        Category::Cache => "in the cache",
        Category::External => "waiting for other services",
        Category::Messaging => "for messaging",
        Category::Serialization => "for serialization",
        Category::Logging => "for logging",
        Category::PoolWait => "waiting for a connection of the pool",
        Category::Connect => "opening connections",
        Category::Network => "on the network",
        Category::Unattributed => "where nothing is instrumented",
    }
}
