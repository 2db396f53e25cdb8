//! What could not be seen, in sentences: no findings must not look like no data.

use super::read::Spans;
use super::report::{Coverage, TraceReport};
use crate::format::count;

/// Adds up what the traces say; the sentences are yet to be written.
pub fn coverage(traces: &[TraceReport], spans: &Spans) -> Coverage {
    let mut all = Coverage {
        traces: traces.len(),
        requests: traces.iter().map(|it| it.entries.len()).sum(),
        without_entry: traces.iter().filter(|it| it.entries.is_empty()).count(),
        rejected_spans: spans.rejected,
        ..Coverage::default()
    };
    for trace in traces {
        all.seen.add(&trace.coverage);
    }
    all
}

/// What a reader must know before trusting the silence of the rest.
pub fn notes(coverage: &Coverage, spans: &Spans) -> Vec<String> {
    let n = |number: u64| count(number as i64);
    let mut notes = coverage.seen.counted.notes();
    let mut note = |applies: bool, text: String| {
        if applies {
            notes.push(text);
        }
    };
    let (it, seen) = (coverage, &coverage.seen.counted);
    note(
        it.without_entry > 0,
        format!(
            "In {} of {} traces no request begins (no server or consumer span, no root): nothing is said \
             about them.",
            n(it.without_entry as u64),
            n(it.traces as u64)
        ),
    );
    note(
        it.requests > 0 && seen.database_calls == 0 && seen.outbound_calls == 0,
        "No calls to databases or other services are recorded: either there are none, or the libraries that \
         make them are not instrumented."
            .into(),
    );
    note(
        it.rejected_spans > 0,
        format!(
            "{} spans were left out, because their ids are not valid.",
            n(it.rejected_spans)
        ),
    );
    note(
        it.dropped_spans > 0,
        format!(
            "{} spans were left out, because there was no room for more: run a part of the tests.",
            n(it.dropped_spans)
        ),
    );
    note(
        spans.other_signals > 0,
        "Logs and metrics in the input were passed over.".into(),
    );
    notes.extend(spans.odd.iter().cloned());
    for unused in &it.unused_ignores {
        notes.push(format!("Accepted, but not found any more: {unused}"));
    }
    for unused in &it.unused_budgets {
        notes.push(format!("A budget that no request matches: {unused}"));
    }
    notes
}
