//! Which calls earlier findings have explained: what is part of a loop is not reported as something
//! else as well.

use crate::finding::Finding;
use crate::trace::SpanIdx;
use crate::{Analysis, Call};

/// Beginnings of the ids of detectors whose findings explain why their calls are made: they repeat.
const REPEATS: &[&str] = &["n-plus-one-", "duplicate-", "retries", "fan-out"];

/// Calls that repeat and were reported for it.
pub struct Claims(Vec<SpanIdx>);

impl Claims {
    /// What `findings` say repeats.
    pub fn of(findings: &[Finding]) -> Claims {
        let repeats = |it: &&Finding| REPEATS.iter().any(|id| it.detector.starts_with(id));
        let offenders = findings.iter().filter(repeats).flat_map(|it| &it.offenders);
        let mut spans: Vec<SpanIdx> = offenders.copied().collect();
        spans.sort_unstable();
        Claims(spans)
    }

    /// Is `call`, or something that it waits for in another service, part of what repeats?
    pub fn have(&self, analysis: &Analysis<'_>, call: &Call) -> bool {
        let first = self.0.partition_point(|it| *it < call.outer);
        let end = analysis.trace.node(call.outer).subtree_end;
        self.0.get(first).is_some_and(|it| *it < end)
    }
}
