//! What was seen of spans and what was not, in JSON: of one trace, or added up over many.

use analyzer::{Analysis, Coverage};
use serde::{Serialize, Serializer};

/// The numbers; [`Coverage::notes`] says in sentences which of them matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoverageNumbers {
    /// What the analysis counted.
    pub counted: Coverage,
    /// Requests that the ones with a sampling weight above 1 stand for, themselves included.
    pub sampled_stand_for: i64,
}

impl CoverageNumbers {
    /// Of one trace.
    pub fn of(analysis: &Analysis<'_>) -> CoverageNumbers {
        let weights = analysis.entries.iter().map(|it| it.weight);
        let sampled = weights.filter(|it| *it > 1);
        CoverageNumbers {
            counted: analysis.coverage,
            sampled_stand_for: sampled.fold(0, i64::saturating_add),
        }
    }

    /// Adds those of another trace. Sums saturate.
    pub fn add(&mut self, other: &CoverageNumbers) {
        self.counted.add(&other.counted);
        self.sampled_stand_for = self
            .sampled_stand_for
            .saturating_add(other.sampled_stand_for);
    }
}

/// As JSON has them, flat.
#[derive(Serialize)]
struct Fields {
    /// Distinct spans.
    spans: u32,
    /// Spans whose parent is missing.
    orphans: u32,
    /// Database calls.
    database_calls: u32,
    /// Of them without a statement.
    without_statement: u32,
    /// Statements that their sender cut off.
    truncated_statements: u32,
    /// Statements with placeholders.
    without_parameters: u32,
    /// Outgoing HTTP and RPC calls.
    outbound_calls: u32,
    /// Of them without URL, host or RPC method.
    without_target: u32,
    /// Requests in which nothing but the framework was instrumented.
    uninstrumented_requests: u32,
    /// Requests that stand for more than one, because of head sampling.
    sampled_requests: u32,
    /// Requests that those stand for, themselves included.
    sampled_stand_for: i64,
    /// Spans that were moved, because the clock of their host was off.
    shifted_spans: u32,
    /// Spans of a clock that was too far off to move them.
    not_shifted_spans: u32,
    /// Span ids that arrived with different contents.
    duplicate_ids: u32,
    /// Spans that never ended or have impossible times.
    impossible_times: u32,
    /// Spans that were their own ancestors.
    cycles: u32,
}

impl Serialize for CoverageNumbers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let it = &self.counted;
        let fields = Fields {
            spans: it.spans,
            orphans: it.orphans,
            database_calls: it.database_calls,
            without_statement: it.without_statement,
            truncated_statements: it.truncated_statements,
            without_parameters: it.without_parameters,
            outbound_calls: it.outbound_calls,
            without_target: it.without_target,
            uninstrumented_requests: it.uninstrumented_entries,
            sampled_requests: it.sampled_entries,
            sampled_stand_for: self.sampled_stand_for,
            shifted_spans: it.oddities.shifted,
            not_shifted_spans: it.oddities.not_shifted,
            duplicate_ids: it.oddities.versions,
            impossible_times: it.oddities.times,
            cycles: it.oddities.cycles,
        };
        fields.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::{Settings, analyze, drawing};

    #[test]
    fn moved_spans_and_what_sampled_ones_stand_for_are_told() {
        let drawing = drawing::parse(
            r#"
            shop      GET / {res.host.name=a} {tracestate="ot=th:8"}  |----------------|
            shop        call [client] {server.address=b}                 |-----------|
            payments      serve {res.host.name=b}                     |-------|
            "#,
        );
        let analysis = analyze(drawing.spans(), &Settings::default());
        let one = CoverageNumbers::of(&analysis);
        let mut two = one;
        two.add(&one);
        let json = serde_json::to_value(two).unwrap();
        assert_eq!(json["spans"], 6);
        assert_eq!(json["shifted_spans"], 2);
        assert_eq!(json["sampled_requests"], 2);
        assert_eq!(json["sampled_stand_for"], 4);
        assert_eq!(json["duplicate_ids"], 0);
    }
}
