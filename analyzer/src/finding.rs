//! A culprit: what is wrong, where, how much it costs, and what to do.

use crate::groups::{Extent, call_path};
use crate::trace::SpanIdx;
use crate::{Analysis, evidence};

/// How much a finding matters to the requests it affects. Stored as its position: never reordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// At least 10 % of the request and 20 ms, or 100 ms.
    Warning,
    /// At least 30 % of the request's critical path, or 500 ms.
    Critical,
}

impl Severity {
    /// By what a fix would save of a request: critical from 30 % of it (and 20 ms, so that nobody is
    /// woken for microseconds) or 500 ms, warning from 10 % and 20 ms, or 100 ms.
    pub fn of(saved_ns: u64, duration_ns: u64) -> Severity {
        const MS: u64 = 1_000_000;
        let share =
            |percent: u64| saved_ns.saturating_mul(100) >= duration_ns.saturating_mul(percent);
        if saved_ns >= 500 * MS || (share(30) && saved_ns >= 20 * MS) {
            Severity::Critical
        } else if saved_ns >= 100 * MS || (share(10) && saved_ns >= 20 * MS) {
            Severity::Warning
        } else {
            Severity::Info
        }
    }

    /// The name in JSON, URLs and on the command line.
    pub fn id(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// One culprit in one entry span of one trace (or, from `review`, in one endpoint over time).
///
/// The same culprit in other traces has the same `fingerprint`: counts, savings and examples are
/// gathered under it.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// The detector's id, such as `n-plus-one-query`.
    pub detector: &'static str,
    /// Readable text that names this culprit in every trace and release:
    /// detector, service, endpoint, call path, statement or target. Holds no ids, counts or versions.
    pub fingerprint: String,
    /// The culprit in one sentence without a full stop: `31 × select authors, one by one`.
    pub title: String,
    /// How much it matters.
    pub severity: Severity,
    /// How sure the detector is, 0 to 1.
    pub confidence: f32,
    /// What made it more or less sure, one clause each.
    pub reasons: Vec<String>,
    /// The entry it happened in: an index into [`crate::Analysis::entries`].
    pub entry: usize,
    /// The spans that are the culprit, in order of start. Empty for findings over time.
    pub offenders: Vec<SpanIdx>,
    /// Operation names from the entry span down to the offenders' parent.
    pub call_path: Vec<String>,
    /// The normalised statement, without literals.
    pub statement: Option<String>,
    /// What is called: a host and URL template, a log sink, a table, a database.
    pub target: Option<String>,
    /// Visible parameters of the first few offenders (at most 5), redacted, one text per call.
    pub parameters: Vec<String>,
    /// How many calls (an N+1's N).
    pub count: u32,
    /// From the first offender's start to the last one's end, ns.
    pub window_ns: u64,
    /// The offenders' durations added up, ns.
    pub sum_ns: u64,
    /// What a fix would take off the entry span's duration, ns; never more than that duration.
    pub saved_ns: u64,
    /// `file:line function`, if the sender says so (`code.*`).
    pub code: Option<String>,
    /// What happens here and why it is slow, with this trace's numbers. One short paragraph.
    pub explanation: String,
    /// What to change, in the words of the framework that was recognised. One short paragraph.
    pub fix: String,
    /// An example of the change as code or SQL, if one can be given without inventing names.
    pub fix_code: Option<String>,
    /// The framework or library the fix is written for, such as `SQLAlchemy`; `None` if generic.
    pub framework: Option<&'static str>,
}

impl Finding {
    /// A finding of `detector` in `entry` (an index into [`Analysis::entries`]), told from others of that
    /// endpoint by `named`. Its words, numbers and offenders are yet to be filled in.
    pub(crate) fn in_entry(
        detector: &'static str,
        analysis: &Analysis<'_>,
        entry: usize,
        named: &[&str],
    ) -> Finding {
        let at = &analysis.entries[entry];
        let parts = [&[at.endpoint.as_str()], named].concat();
        Finding {
            entry,
            call_path: vec![at.endpoint.clone()],
            ..Finding::over_time(detector, at.service.name, &parts)
        }
    }

    /// A finding of `detector` in an endpoint's history, named by `parts`, the first of which is the endpoint.
    /// Its words and numbers are yet to be filled in.
    pub(crate) fn over_time(detector: &'static str, service: &str, parts: &[&str]) -> Finding {
        Finding {
            detector,
            fingerprint: Finding::fingerprint_of(detector, service, parts),
            title: String::new(),
            severity: Severity::Info,
            confidence: 0.5,
            reasons: Vec::new(),
            entry: 0,
            offenders: Vec::new(),
            call_path: Vec::new(),
            statement: None,
            target: None,
            parameters: Vec::new(),
            count: 0,
            window_ns: 0,
            sum_ns: 0,
            saved_ns: 0,
            code: None,
            explanation: String::new(),
            fix: String::new(),
            fix_code: None,
            framework: None,
        }
    }

    /// [`Finding::in_entry`] whose offenders are `calls` (indices into [`Analysis::calls`], in order of
    /// start, at least one), with their count, extent, path and code.
    pub(crate) fn in_calls(
        detector: &'static str,
        analysis: &Analysis<'_>,
        entry: usize,
        calls: &[usize],
        named: &[&str],
    ) -> Finding {
        let top = analysis.entries[entry].span;
        let first = &analysis.calls[calls[0]];
        let outer: Vec<SpanIdx> = calls.iter().map(|it| analysis.calls[*it].outer).collect();
        let extent = Extent::of(analysis, &outer);
        Finding {
            offenders: calls.iter().map(|it| analysis.calls[*it].span).collect(),
            call_path: call_path(analysis, entry, first.outer),
            parameters: evidence::parameters(analysis, calls),
            count: u32::try_from(calls.len()).unwrap_or(u32::MAX),
            window_ns: extent.window_ns,
            sum_ns: extent.sum_ns,
            code: evidence::code(analysis, first.span, top),
            ..Finding::in_entry(detector, analysis, entry, named)
        }
    }

    /// The longest fingerprint, bytes: it is a key of the database's indexes, which take 2.7 kB.
    /// A longer one keeps its beginning and ends in a hash of all of it.
    pub const FINGERPRINT_MAX: usize = 1_000;

    /// The [`Finding::fingerprint`] of these parts: detector and service bare, the rest quoted.
    pub fn fingerprint_of(detector: &str, service: &str, parts: &[&str]) -> String {
        let mut text = format!("{detector} {service}");
        for part in parts {
            text.push_str(&format!(" {part:?}"));
        }
        if text.len() > Self::FINGERPRINT_MAX {
            let suffix = format!("… #{:016x}", fnv1a(text.as_bytes()));
            text.truncate(text.floor_char_boundary(Self::FINGERPRINT_MAX - suffix.len()));
            text.push_str(&suffix);
        }
        text
    }
}

/// FNV-1a: a hash that is the same in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_readable_and_bounded() {
        let parts = ["GET /posts", "select * from authors where \"Id\" = ?"];
        assert_eq!(
            Finding::fingerprint_of("n-plus-one-query", "shop", &parts),
            r#"n-plus-one-query shop "GET /posts" "select * from authors where \"Id\" = ?""#
        );
        let long = "ä".repeat(Finding::FINGERPRINT_MAX);
        let of = |end: &str| Finding::fingerprint_of("a", "b", &[&format!("{long}{end}")]);
        assert!(of("1").len() <= Finding::FINGERPRINT_MAX);
        assert_ne!(of("1"), of("2"));
    }
}
