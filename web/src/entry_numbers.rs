//! What an entry span waited for, as JSON has it: for reports of files and for the API.

use analyzer::category::Category;
use analyzer::{Analysis, Entry, Segment};
use serde::{Serialize, Serializer};

use crate::waterfall::Names;

/// A number for each category. All eleven, also those that are 0: whoever reads it need not ask whether one
/// is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByCategory<N>(pub [N; Category::COUNT]);

impl<N: Serialize + Copy> Serialize for ByCategory<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Category::ALL.map(|it| (it.id(), self.0[it as usize])))
    }
}

/// A stretch of a critical path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stretch {
    /// The deepest span that was waited for.
    pub span_id: String,
    /// Whose it is.
    pub service: String,
    /// Its name.
    pub operation: String,
    /// What kind of time it is.
    pub category: &'static str,
    /// From, ns since the Unix epoch.
    pub start_ns: u64,
    /// To, ns since the Unix epoch.
    pub end_ns: u64,
}

impl Stretch {
    /// The entry's whole critical path, in order of time.
    pub fn all(analysis: &Analysis<'_>, names: &Names<'_>, entry: &Entry<'_>) -> Vec<Stretch> {
        let path = entry.path.iter();
        path.map(|it| Stretch::of(analysis, names, it)).collect()
    }

    /// One stretch.
    pub fn of(analysis: &Analysis<'_>, names: &Names<'_>, it: &Segment) -> Stretch {
        Stretch {
            span_id: analysis.trace.span(it.span).id.to_string(),
            service: names.service(it.span).to_owned(),
            operation: names.name(it.span).to_owned(),
            category: it.category.id(),
            start_ns: it.start_ns,
            end_ns: it.end_ns,
        }
    }
}
