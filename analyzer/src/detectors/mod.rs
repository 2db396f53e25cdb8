//! The catalogue: one file per bad pattern, one list.

use crate::Analysis;
use crate::finding::Finding;
use crate::history::History;

/// A pattern and how to find it. A value, not a trait: `ALL` is the one list of them.
pub struct Detector {
    /// Stored, in URLs and in configuration: never renamed. Kebab-case.
    pub id: &'static str,
    /// For people: `N+1 queries`.
    pub title: &'static str,
    /// What it finds, why it is slow, how to fix it, when it is wrong. Plain text, paragraphs apart by blank lines.
    pub explain: &'static str,
    /// What it reads.
    pub detect: Detect,
}

/// What a detector reads.
pub enum Detect {
    /// One trace: tree, path, attribution, calls.
    InTrace(fn(&mut Vec<Finding>, &Analysis<'_>)),
    /// Windows of one endpoint.
    OverTime(fn(&mut Vec<Finding>, &History)),
    /// Both.
    Both(
        fn(&mut Vec<Finding>, &Analysis<'_>),
        fn(&mut Vec<Finding>, &History),
    ),
}

/// Every detector, in the order of the catalogue's page.
pub static ALL: &[Detector] = &[];
