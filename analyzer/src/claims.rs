//! Which spans earlier findings have explained: what is part of a loop is not reported as something else
//! as well.

use crate::finding::Finding;
use crate::trace::SpanIdx;
use crate::{Analysis, Call};

/// The offenders of some detectors' findings, in tree order; none, most often.
pub(crate) struct Claimed(Vec<SpanIdx>);

impl Claimed {
    /// By one of `detectors`.
    pub(crate) fn by(detectors: &[&str], findings: &[Finding]) -> Claimed {
        let claiming = findings
            .iter()
            .filter(|it| detectors.contains(&it.detector));
        let mut spans: Vec<SpanIdx> = claiming.flat_map(|it| &it.offenders).copied().collect();
        spans.sort_unstable();
        Claimed(spans)
    }

    /// Is `span` an offender?
    pub(crate) fn has(&self, span: SpanIdx) -> bool {
        self.0.binary_search(&span).is_ok()
    }

    /// Is `call`, or something that it waits for in another service?
    pub(crate) fn has_within(&self, analysis: &Analysis<'_>, call: &Call) -> bool {
        let first = self.0.partition_point(|it| *it < call.outer);
        let end = analysis.trace.node(call.outer).subtree_end;
        self.0.get(first).is_some_and(|it| *it < end)
    }
}
