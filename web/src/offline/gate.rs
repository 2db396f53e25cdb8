//! What fails a build: `--fail-on`, and what is accepted nevertheless: `--ignore`.

use std::path::Path;
use std::str::FromStr;

use analyzer::detectors::ALL;
use analyzer::finding::Severity;
use anyhow::Context;

use super::budget;
use super::paint::printable;
use super::report::{FindingReport, Report};

/// One condition of `--fail-on`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FailOn {
    /// A finding of at least this severity.
    Severity(Severity),
    /// A finding of one of these detectors, however severe.
    Detectors(Vec<&'static str>),
    /// No finding fails; exceeded budgets do.
    Never,
}

impl FromStr for FailOn {
    type Err = String;

    fn from_str(text: &str) -> Result<FailOn, String> {
        let text = text.trim().to_ascii_lowercase();
        let text = text.as_str();
        let severities = [Severity::Critical, Severity::Warning, Severity::Info];
        if let Some(severity) = severities.into_iter().find(|it| it.id() == text) {
            return Ok(FailOn::Severity(severity));
        }
        if text == "never" {
            return Ok(FailOn::Never);
        }
        let ids = || ALL.iter().map(|it| it.id);
        let meant: Vec<&str> = ids().filter(|it| is_meant(text, it)).collect();
        if text.is_empty() || meant.is_empty() {
            return Err(format!(
                "critical, warning, info, never or a detector is expected; detectors are {}",
                ids().collect::<Vec<_>>().join(", ")
            ));
        }
        Ok(FailOn::Detectors(meant))
    }
}

/// Whether `text` names the detector `id`: `n-plus-one` is all that begin so.
pub fn is_meant(text: &str, id: &str) -> bool {
    let rest = id.strip_prefix(text);
    rest.is_some_and(|it| it.is_empty() || it.starts_with('-'))
}

/// Refuses `never` beside conditions that may be met.
///
/// # Errors
/// What contradicts what.
pub fn check_conditions(fail_on: &[FailOn]) -> anyhow::Result<()> {
    if fail_on.len() > 1 && fail_on.contains(&FailOn::Never) {
        anyhow::bail!("--fail-on: never stands alone; leave it or the other conditions out");
    }
    Ok(())
}

/// Whether a finding fails the build. Budgets that somebody set are meant.
pub fn fails(finding: &FindingReport, fail_on: &[FailOn]) -> bool {
    let matches = |it: &FailOn| match it {
        FailOn::Severity(least) => finding.severity >= *least,
        FailOn::Detectors(ids) => ids.contains(&finding.detector),
        FailOn::Never => false,
    };
    finding.detector == budget::DETECTOR || fail_on.iter().any(matches)
}

/// How many culprits (not requests that have them) fail the build.
pub fn failing(report: &Report, fail_on: &[FailOn]) -> usize {
    let failing = report.findings().filter(|it| fails(it, fail_on));
    let names: std::collections::HashSet<&str> = failing.map(|it| &it.fingerprint[..]).collect();
    names.len()
}

/// Accepted fingerprints: one per line of the file, blank lines and those that begin with `#` aside.
///
/// # Errors
/// The file cannot be read.
pub fn ignored(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        let path = printable(&path.display().to_string());
        format!("--ignore: {path} cannot be read")
    })?;
    let lines = text.lines().map(str::trim);
    let wanted = lines.filter(|it| !it.is_empty() && !it.starts_with('#'));
    Ok(wanted.map(str::to_owned).collect())
}

/// A fingerprint as a line of a file: it names what strangers named, which may hold line breaks.
pub fn as_line(fingerprint: &str) -> String {
    printable(fingerprint).trim().to_owned()
}

/// Takes accepted findings out of the report, and tells how many there were and what was not needed.
pub fn leave_out(report: &mut Report, ignored: &[String]) {
    let mut used = vec![false; ignored.len()];
    let mut left_out = 0;
    let lines: Vec<String> = ignored.iter().map(|it| as_line(it)).collect();
    let mut is_kept = |finding: &FindingReport| {
        if lines.is_empty() {
            return true;
        }
        let line = as_line(&finding.fingerprint);
        let accepted = lines.iter().position(|it| *it == line);
        if let Some(at) = accepted {
            used[at] = true;
            left_out += 1;
        }
        accepted.is_none()
    };
    for entry in report.traces.iter_mut().flat_map(|it| &mut it.entries) {
        entry.findings.retain(&mut is_kept);
    }
    report.findings_over_time.retain(|it| is_kept(&it.finding));
    let unused = ignored.iter().zip(used).filter(|it| !it.1);
    report.coverage.ignored_findings = left_out;
    report.coverage.unused_ignores = unused.map(|it| it.0.clone()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::testing::report;

    const LOOP: &str = "
        shop  GET /posts             |------------------------------------------------|
        shop    SELECT a             |----------|
        shop    SELECT a                         |----------|
        shop    SELECT a                                     |----------|
        ";

    fn fail_on(text: &str) -> Vec<FailOn> {
        text.split(',').map(|it| it.parse().unwrap()).collect()
    }

    #[test]
    fn severities_are_thresholds_and_detectors_are_themselves() {
        let report = report(LOOP);
        let found = &report.traces[0].entries[0].findings;
        assert_eq!(found[0].severity, Severity::Critical);
        for (text, failing) in [
            ("critical", 1),
            ("warning", 1),
            ("info", 1),
            ("n-plus-one-query", 1),
            ("slow-query", 0),
            ("slow-query,critical", 1),
            ("n-plus-one", 1),
            ("never", 0),
            ("slow-query, Warning", 1),
        ] {
            assert_eq!(super::failing(&report, &fail_on(text)), failing, "{text}");
            assert!(check_conditions(&fail_on(text)).is_ok(), "{text}");
        }
        assert!(check_conditions(&fail_on("never,critical")).is_err());
        let error = "n-plus"
            .parse::<FailOn>()
            .and("n-plus-".parse::<FailOn>())
            .unwrap_err();
        assert!(error.contains("n-plus-one-query"), "{error}");
    }

    #[test]
    fn a_fingerprint_with_a_line_break_is_accepted_as_it_is_told() {
        let mut report = report(LOOP);
        let found = &mut report.traces[0].entries[0].findings[0];
        found.fingerprint = "slow-query shop\n\u{202e}one a\x1b".into();
        let told = as_line(&found.fingerprint);
        assert_eq!(told, "slow-query shop  one a");
        leave_out(&mut report, &[told]);
        assert_eq!(report.coverage.ignored_findings, 1);
        assert!(report.coverage.unused_ignores.is_empty());
    }

    #[test]
    fn accepted_findings_are_left_out_and_unused_entries_told() {
        let mut report = report(LOOP);
        let accepted = report.traces[0].entries[0].findings[0].fingerprint.clone();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accepted");
        std::fs::write(
            &path,
            format!("# known\n\n  {accepted}\r\nslow-query shop old\n"),
        )
        .unwrap();
        leave_out(&mut report, &ignored(&path).unwrap());
        assert_eq!(failing(&report, &fail_on("info")), 0);
        assert_eq!(report.coverage.ignored_findings, 1);
        assert_eq!(report.coverage.unused_ignores, ["slow-query shop old"]);
    }
}
