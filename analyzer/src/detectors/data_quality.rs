//! What the spans leave out is so much that the analysis of a request is not worth much.
//!
//! ```text
//! shop  GET /cart    |---------------------|
//! shop    query      |---|                        of what?
//! shop    query          |---|
//! shop    query              |---|
//! ```
//!
//! What is merely odd is a warning on the trace, and what is missing is counted in its coverage. Here is only
//! what somebody should mend: at most one finding per request, always information.

use super::{Detect, Detector};
use crate::category::Category;
use crate::coverage::{StatementGap, lacks_target, statement_gap};
use crate::finding::Finding;
use crate::groups::Extent;
use crate::language::language;
use crate::role::{Role, role};
use crate::trace::SpanIdx;
use crate::wording::percent;
use crate::{Analysis, Settings};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "data-quality",
    title: "Gaps in the data",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The spans of a request leave out what most detectors need: statements of database calls, targets of outgoing calls, the \
parents of spans, a clock that can be trusted. A request without findings then looks healthy because nothing could \
be seen.

Nothing is slow because of it. But as long as it lasts, loops and slow statements there stay hidden, and their \
numbers are too small.

Let the instrumentation send the statement (sanitised is enough) and the URL or method; let every service between two \
others send its spans, sampled by its parent's decision; keep clocks synchronised.

How it is found: at least 3 database calls without a statement, or with one that was cut off, or at least 3 outgoing calls \
without a target, each at least half of the request's; at least 3 spans and a tenth of the trace whose \
parents are missing; a clock that is off by more than a second. One finding per request tells all of it.

When it is wrong: parents may arrive late, after a trace was analysed; it is analysed again then. A service may \
keep its statements secret on purpose; accept the finding.";

const EXAMPLE: &str = "
shop  GET /cart                           |---------------------------------------|
shop    query [client] {db.system=mssql}    |--------|
shop    query [client] {db.system=mssql}               |--------|
shop    query [client] {db.system=mssql}                          |--------|
";

/// Fewer may be a ping or a driver's own call…
const CALLS_MIN: usize = 3;
/// …and fewer of their kind, in percent, leave enough to see.
const CALLS_PERCENT_MIN: u64 = 50;

/// So many spans without their parents…
const ORPHANS_MIN: u32 = 3;
/// …and so many of the trace are not late, but lost.
const ORPHANS_PERCENT_MIN: u64 = 10;

/// At most so many requests of one trace are reported: a service that leaves something out does it everywhere.
const FINDINGS_MAX: usize = 8;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let coverage = &analysis.coverage;
    let gaps = coverage.without_statement + coverage.truncated_statements + coverage.without_target;
    let has_lost = coverage.orphans >= ORPHANS_MIN || coverage.oddities.not_shifted > 0;
    // Most traces end here.
    if gaps < CALLS_MIN as u32 && !has_lost {
        return;
    }
    let mut by_entry = gaps_of_calls(analysis);
    // The whole trace's problems are told at its first request.
    if has_lost && !analysis.entries.is_empty() {
        by_entry
            .entry(0)
            .or_default()
            .extend(gaps_of_trace(analysis));
    }
    by_entry.retain(|entry, gaps| !gaps.is_empty() && role(analysis, *entry) != Role::Upkeep);
    for (entry, gaps) in by_entry.into_iter().take(FINDINGS_MAX) {
        findings.push(finding(analysis, entry, &gaps));
    }
}

/// Something that is missing.
struct Gap {
    kind: Kind,
    /// `4 of 5 database calls carry no statement`.
    text: String,
    spans: Vec<SpanIdx>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Statement,
    Target,
    Truncated,
    Parent,
    Clock,
}

impl Kind {
    /// What is not known because of it.
    fn consequence(self) -> &'static str {
        match self {
            Kind::Statement => "repeated and slow statements cannot be told from others",
            Kind::Target => {
                "it is not known what is called, so loops of calls and log shipping stay hidden"
            }
            Kind::Truncated => "statements that differ at their ends look the same",
            Kind::Parent => "their time is in no request, and calls are missing where they belong",
            Kind::Clock => {
                "spans stand at the wrong time, and the critical path is wrong around them"
            }
        }
    }

    fn fix(self, language: &str) -> &'static str {
        match (self, language) {
            (Kind::Statement, "dotnet") => {
                "Let the Entity Framework and SqlClient instrumentation send texts: `SetDbStatementForText = true` in \
                 their options (in newer versions, the environment's `…_EXPERIMENTAL_ENABLE_…` switches)."
            }
            (Kind::Statement, "ruby") => {
                "Set `db_statement: :obfuscate` (not `:omit`) for the driver's instrumentation."
            }
            (Kind::Statement, "nodejs") => {
                "Instrument the driver (`pg`, `mysql2`, `mongodb`) besides the mapper, and give those that leave the command out a \
                 `dbStatementSerializer`."
            }
            (Kind::Statement, _) => {
                "Let the driver's instrumentation send `db.query.text` (or `db.statement`); sanitised text is enough. A collector \
                 on the way may also have removed it."
            }
            (Kind::Target, _) => {
                "Let the client's instrumentation send `url.full`, `server.address` or `rpc.method`. Spans of one's own that \
                 wrap a call should be INTERNAL, not CLIENT."
            }
            (Kind::Truncated, _) => {
                "Raise the limit of attribute lengths (`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`, `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`), \
                 to 4,096 for instance."
            }
            (Kind::Parent, _) => {
                "Let every service between two others send its spans; sample by the parent's decision (`parentbased_…`), not each \
                 service by itself; and see whether exporters drop spans (a full queue, no flush when the process ends)."
            }
            (Kind::Clock, _) => {
                "Synchronise the hosts' clocks (chrony, NTP, the cloud's time service)."
            }
        }
    }
}

/// What the calls of each entry leave out.
fn gaps_of_calls(analysis: &Analysis<'_>) -> BTreeMap<usize, Vec<Gap>> {
    let mut lacking: BTreeMap<(usize, Kind), Vec<SpanIdx>> = BTreeMap::new();
    for call in &analysis.calls {
        let kind = match call.category {
            Category::Database => match statement_gap(call) {
                StatementGap::None => None,
                StatementGap::Missing => Some(Kind::Statement),
                StatementGap::Truncated => Some(Kind::Truncated),
            },
            Category::External | Category::Logging => {
                lacks_target(&analysis.trace, call).then_some(Kind::Target)
            }
            _ => None,
        };
        if let (Some(entry), Some(kind)) = (call.entry, kind) {
            lacking.entry((entry, kind)).or_default().push(call.span);
        }
    }
    let mut gaps: BTreeMap<usize, Vec<Gap>> = BTreeMap::new();
    for ((at, kind), spans) in lacking {
        let calls = &analysis.entries[at].calls;
        let of = |category: Category| calls[category as usize] as usize;
        let (of, what) = match kind {
            Kind::Target => (
                of(Category::External) + of(Category::Logging),
                "outgoing calls name no target",
            ),
            Kind::Truncated => (
                of(Category::Database),
                "database calls have a statement that was cut off",
            ),
            _ => (of(Category::Database), "database calls carry no statement"),
        };
        let share = percent(spans.len() as u64, of as u64);
        if spans.len() >= CALLS_MIN && share >= CALLS_PERCENT_MIN {
            let text = format!("{} of {of} {what}", spans.len());
            gaps.entry(at).or_default().push(Gap { kind, text, spans });
        }
    }
    gaps
}

fn gaps_of_trace(analysis: &Analysis<'_>) -> Vec<Gap> {
    let coverage = &analysis.coverage;
    let mut gaps = Vec::new();
    let share = percent(u64::from(coverage.orphans), u64::from(coverage.spans));
    if coverage.orphans >= ORPHANS_MIN && share >= ORPHANS_PERCENT_MIN {
        let nodes = (0..).zip(&analysis.trace.nodes);
        gaps.push(Gap {
            kind: Kind::Parent,
            text: format!(
                "{} of {} spans have lost their parents",
                coverage.orphans, coverage.spans
            ),
            spans: nodes
                .filter(|(_, it)| it.orphan)
                .map(|(at, _)| at)
                .collect(),
        });
    }
    if coverage.oddities.not_shifted > 0 {
        gaps.push(Gap {
            kind: Kind::Clock,
            text: match coverage.oddities.not_shifted {
                1 => "one span comes from a clock that is off by more than a second".to_string(),
                count => {
                    format!("{count} spans come from clocks that are off by more than a second")
                }
            },
            spans: Vec::new(),
        });
    }
    gaps
}

fn finding(analysis: &Analysis<'_>, at: usize, gaps: &[Gap]) -> Finding {
    let entry = &analysis.entries[at];
    let mut offenders: Vec<SpanIdx> = gaps
        .iter()
        .flat_map(|it| it.spans.iter().copied())
        .collect();
    offenders.sort_unstable();
    offenders.dedup();
    let extent = Extent::of(analysis, &offenders);
    let texts: Vec<&str> = gaps.iter().map(|it| it.text.as_str()).collect();
    let consequences: Vec<&str> = gaps.iter().map(|it| it.kind.consequence()).collect();
    let more = match gaps.len() {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    Finding {
        title: format!("{}{more}", texts[0]),
        confidence: 0.95,
        reasons: texts.iter().map(|it| (*it).to_string()).collect(),
        count: offenders.len() as u32,
        window_ns: extent.window_ns,
        sum_ns: extent.sum_ns,
        explanation: format!(
            "In {}, {}: {}. What is not reported here may be there all the same.",
            entry.endpoint,
            texts.join("; "),
            consequences.join("; "),
        ),
        fix: gaps
            .iter()
            .map(|it| {
                it.kind.fix(language(
                    analysis,
                    it.spans.first().copied().unwrap_or(entry.span),
                ))
            })
            .collect::<Vec<_>>()
            .join(" "),
        offenders,
        ..Finding::in_entry(DETECTOR.id, analysis, at, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const CART: &str = "
        shop  GET /cart {res.telemetry.sdk.language=dotnet}  |---------------------------------------|
        shop    shop [client] {db.system=mssql}              |----|
        shop    shop [client] {db.system=mssql}                   |----|
        shop    shop [client] {db.system=mssql}                        |----|
        shop    SELECT stock                                                |----|
        ";

    #[test]
    fn database_calls_without_statements() {
        check(
            ID,
            CART,
            expect![[r#"
            3 of 4 database calls carry no statement
              shop of 40 ms · info, confidence 0.95: 3 of 4 database calls carry no statement
              count 3, window 15 ms, sum 15 ms, saved 0 ns
              data-quality shop "GET /cart"
              path: GET /cart
              explanation: In GET /cart, 3 of 4 database calls carry no statement: repeated and slow statements cannot be told from others. What is not reported here may be there all the same.
              fix: Let the Entity Framework and SqlClient instrumentation send texts: `SetDbStatementForText = true` in their options (in newer versions, the environment's `…_EXPERIMENTAL_ENABLE_…` switches).
        "#]],
        );
    }

    #[test]
    fn several_gaps_are_one_finding() {
        check(
            ID,
            r#"
            shop  GET /cart                                                  |---------------------------------------|
            shop    call [client]                                            |----|
            shop    call [client]                                                 |----|
            shop    call [client]                                                      |----|
            shop    SELECT a {db.query.text="select * from a where b = 'x"}                      |-|
            shop    SELECT a {db.query.text="select * from a where b = 'y"}                        |-|
            shop    SELECT a {db.query.text="select * from a where b = 'z"}                          |-|
            "#,
            expect![[r#"
                3 of 3 outgoing calls name no target, and 1 more
                  shop of 40 ms · info, confidence 0.95: 3 of 3 outgoing calls name no target; 3 of 3 database calls have a statement that was cut off
                  count 6, window 26 ms, sum 21 ms, saved 0 ns
                  data-quality shop "GET /cart"
                  path: GET /cart
                  explanation: In GET /cart, 3 of 3 outgoing calls name no target; 3 of 3 database calls have a statement that was cut off: it is not known what is called, so loops of calls and log shipping stay hidden; statements that differ at their ends look the same. What is not reported here may be there all the same.
                  fix: Let the client's instrumentation send `url.full`, `server.address` or `rpc.method`. Spans of one's own that wrap a call should be INTERNAL, not CLIENT. Raise the limit of attribute lengths (`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`, `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`), to 4,096 for instance.
            "#]],
        );
    }

    #[test]
    fn lost_parents_are_told_at_the_traces_first_request() {
        check_titles(
            ID,
            "
            shop  GET /cart        |---------------------------------------|
            shop    load           |----|
            shop    lost {orphan}       |----|
            shop    lost {orphan}            |----|
            shop    lost {orphan}                 |----|
            ",
            expect![[r#"
                3 of 5 spans have lost their parents (info)
            "#]],
        );
    }

    #[test]
    fn a_clock_too_far_off() {
        check_titles(
            ID,
            "
            1 column = 200 ms
            shop      GET / {res.host.name=a}                         |---------------------------------------|
            shop        call [client] {server.address=b}                      |---------|
            payments      serve {res.host.name=b}         |-------|
            ",
            expect![[r#"
                one span comes from a clock that is off by more than a second (info)
            "#]],
        );
    }

    #[test]
    fn few_and_small_shares_are_silent() {
        check_silent(
            ID,
            "
            shop  GET /cart                           |---------------------------------------|
            shop    query [client] {db.system=mssql}  |-|
            shop    query [client] {db.system=mssql}    |-|
            ",
        );
        check_silent(
            ID,
            "
            shop  GET /cart                           |---------------------------------------|
            shop    query [client] {db.system=mssql}  |-|
            shop    query [client] {db.system=mssql}    |-|
            shop    query [client] {db.system=mssql}      |-|
            shop    SELECT a                                |-|
            shop    SELECT b                                  |-|
            shop    SELECT c                                    |-|
            shop    SELECT d                                      |-|
            ",
        );
    }

    #[test]
    fn transaction_control_needs_no_statement() {
        check_silent(ID, &changed(CART, " shop [client]", " COMMIT [client]"));
    }

    #[test]
    fn a_span_that_came_late_is_no_pattern() {
        check_silent(
            ID,
            "
            shop  GET /cart        |---------------------------------------|
            shop    lost {orphan}       |----|
            shop    lost {orphan}            |----|
            ",
        );
    }

    /// Seen by nobody: a corrected clock, a caller without spans.
    #[test]
    fn what_the_analysis_can_deal_with_is_silent() {
        check_silent(
            ID,
            "
            shop      GET / {orphan, res.host.name=a}          |---------------------------------------|
            shop        call [client] {server.address=b}            |-------------------|
            payments      serve {res.host.name=b}         |-------|
            ",
        );
    }

    #[test]
    fn probes_are_upkeep() {
        check_silent(ID, &changed(CART, "/cart", "/health"));
    }
}
