//! The catalogue: one file per bad pattern, one list.

mod n_plus_one_query;
mod remote_logging;
mod slow_query;

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

/// Every detector, in the order of the catalogue's page, which is also the order in which they run:
/// slow queries leave out what N+1 queries have claimed.
pub static ALL: &[Detector] = &[
    n_plus_one_query::DETECTOR,
    remote_logging::DETECTOR,
    slow_query::DETECTOR,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn is_kebab_case(id: &str) -> bool {
        let words = id.split('-');
        words.into_iter().all(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_lowercase()))
    }

    #[test]
    fn every_detector_says_what_it_is() {
        let ids: BTreeSet<_> = ALL.iter().map(|it| it.id).collect();
        assert_eq!(ids.len(), ALL.len(), "ids are unique");
        for detector in ALL {
            assert!(is_kebab_case(detector.id), "{}", detector.id);
            assert!(!detector.title.is_empty(), "{}", detector.id);
            assert!(detector.explain.split("\n\n").count() >= 4, "{}", detector.id);
            let tidy = !detector.explain.contains("  ") && !detector.explain.ends_with('\n');
            assert!(tidy, "{}: layout of the text", detector.id);
        }
    }

    #[test]
    fn every_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/detectors");
        let files = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        let files = files.filter(|it| it.extension().is_some_and(|it| it == "rs"));
        let mut names: BTreeSet<_> = files
            .map(|it| it.file_stem().unwrap().to_string_lossy().replace('_', "-"))
            .collect();
        assert!(names.remove("mod"));
        let ids: BTreeSet<_> = ALL.iter().map(|it| it.id.to_string()).collect();
        assert_eq!(names, ids);
    }
}
