//! `culprit analyze`: the analysis without a server, for a file at hand and for builds. `culprit exec` ends
//! in the same report.
//!
//! Read in this order: [`input`] bytes, [`shape`] whose they are, [`read`] OTLP of them, [`gather`] traces and
//! their analysis, [`report`] what is told (and its JSON), [`over_time`] what only many
//! requests tell, [`budget`] and [`gate`] what fails a build; then the
//! other formats.

pub mod input;
pub mod shape;
pub mod foreign;
pub mod jaeger;
pub mod zipkin;
pub mod read;
pub mod parallel;
pub mod progress;
pub mod gather;
pub mod report;
pub mod over_time;
pub mod coverage;
pub mod budget;
pub mod gate;
pub mod culprits;
pub mod endpoints;
pub mod paint;
pub mod text;
pub mod html;
pub mod sarif;
#[cfg(test)]
mod testing;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use analyzer::Settings;
use anyhow::Context;
use clap::{Args, ValueEnum};

use budget::Budget;
use gate::FailOn;
use gather::Traces;
use paint::Paint;
use read::Spans;
use report::{Report, SCHEMA, Wanted};

/// What `analyze` can be told.
#[derive(Args, Clone, Debug)]
pub struct AnalyzeOptions {
    /// Files with traces; - is standard input, which is also read if no file is named.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What is reported, and what fails.
    #[command(flatten)]
    pub report: ReportOptions,
}

/// What is reported, and what fails.
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    /// How the report looks.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Write the report to this file instead of standard output (-).
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What makes the exit code 1: a severity (critical, warning or info; worse ones too), a detector's id or
    /// how several begin (n-plus-one), more of them with commas between, or never. N+1s fail by default
    /// however little they cost, because they grow with the data, and tests have little.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "warning,n-plus-one",
        value_name = "WHAT"
    )]
    pub fail_on: Vec<FailOn>,
    /// Findings that are accepted: a file with a fingerprint on each line; lines that begin with # are
    /// comments.
    #[arg(long, value_name = "FILE")]
    pub ignore: Vec<PathBuf>,
    /// What requests may cost, as in "GET /cart: db<=5" or "GET /api/*: http<=3, p95<=200ms"; may be
    /// repeated. Calls and time by kind (db, http, cache, queue, log, … or a category's name), time of each
    /// request, p50 to p99 of all. What is over fails, whatever --fail-on says.
    #[arg(long = "budget", value_name = "BUDGET")]
    pub budgets: Vec<Budget>,
    /// From how many repeats on a loop is reported. Tests have little data: three are one.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = repeats_min)]
    pub repeats_min: usize,
    /// A host or URL path (* matches anything) that is a log destination; may be repeated.
    #[arg(
        long = "log-destination",
        env = "CULPRIT_LOG_DESTINATIONS",
        value_delimiter = ',',
        value_name = "PATTERN"
    )]
    pub log_destinations: Vec<String>,
}

fn repeats_min(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 2..) => Ok(number),
        _ => Err("a number from 2 on is expected: one call repeats nothing".into()),
    }
}

/// How the report looks.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people; with colours on a terminal, unless NO_COLOR is set.
    #[default]
    Text,
    /// For programs; the schema is in `culprit analyze --help`.
    Json,
    /// One file for a browser, with flame graphs; it asks nothing of any server.
    Html,
    /// SARIF 2.1.0, for code hosts.
    Sarif,
}

impl ReportOptions {
    /// What the analysis is told.
    pub fn settings(&self) -> Settings {
        Settings {
            log_destinations: self.log_destinations.clone(),
            repeats_min: self.repeats_min,
            is_complete: true,
        }
    }

    /// Only what the format shows is kept of each trace.
    fn wanted(&self) -> Wanted {
        Wanted {
            critical_paths: self.format == Format::Json,
            profiles: self.format == Format::Html,
        }
    }

    fn output_file(&self) -> Option<&Path> {
        let file = self.output.as_deref();
        file.filter(|it| it.as_os_str() != "-")
    }

    /// Whether the report can be written in the end: told before something long is begun for it.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_output(&self) -> anyhow::Result<()> {
        let Some(path) = self.output_file() else {
            return Ok(());
        };
        let existed = path.exists();
        // A pipe would wait for its reader.
        if existed && !path.is_file() && !path.is_dir() {
            return Ok(());
        }
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.with_context(|| not_writable(path))?;
        if !existed {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// Accepted fingerprints.
    ///
    /// # Errors
    /// A file that cannot be read, or conditions that contradict each other.
    pub fn ignored(&self) -> anyhow::Result<Vec<String>> {
        gate::check_conditions(&self.fail_on)?;
        let lists: anyhow::Result<Vec<_>> =
            self.ignore.iter().map(|it| gate::ignored(it)).collect();
        Ok(lists?.concat())
    }
}

/// Exit code if something fails the build.
const FOUND: u8 = 1;

/// Reads, analyses, reports. Exit code 0 if nothing fails, 1 if something does.
///
/// # Errors
/// An input that cannot be read, without any spans, or a report that cannot be written (exit code 2).
pub fn run(options: &AnalyzeOptions) -> anyhow::Result<ExitCode> {
    let ignored = options.report.ignored()?;
    let inputs = input::read_all(&options.files)?;
    let names: Vec<String> = inputs.iter().map(|it| it.name.clone()).collect();
    let spans = read::read(&inputs)?;
    drop(inputs);
    if spans.sources.is_empty() {
        anyhow::bail!(nothing_in(&names, &spans));
    }
    if !spans.without.is_empty() {
        anyhow::bail!(nothing_in(&spans.without, &spans));
    }
    let failing = tell(&spans, 0, &ignored, &options.report)?;
    Ok(exit_code(failing))
}

/// The exit code for so many failing culprits.
pub fn exit_code(failing: usize) -> ExitCode {
    match failing {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FOUND),
    }
}

/// No data must not pass for no findings.
fn nothing_in(names: &[String], spans: &Spans) -> String {
    let mut text = format!("there are no spans in {}", names.join(", "));
    if spans.rejected > 0 {
        text.push_str(&format!("; {}", spans.odd.join("; ")));
    } else if spans.other_signals > 0 {
        text.push_str("; it holds logs or metrics, and traces are analysed");
    }
    text
}

/// Analyses `spans` and writes the report; how many culprits fail the build. `dropped_spans` had no room.
///
/// # Errors
/// The report cannot be written.
pub fn tell(
    spans: &Spans,
    dropped_spans: u64,
    ignored: &[String],
    options: &ReportOptions,
) -> anyhow::Result<usize> {
    let settings = options.settings();
    let traces = Traces::of(&spans.sources);
    let analysed = traces.analyse(&settings, options.wanted());
    let mut coverage = coverage::coverage(&analysed, spans);
    coverage.dropped_spans = dropped_spans;
    let mut report = Report {
        schema: SCHEMA,
        findings_over_time: over_time::over_time(&analysed),
        traces: analysed,
        coverage,
    };
    budget::check(&mut report, &options.budgets);
    gate::leave_out(&mut report, ignored);
    report.coverage.notes = coverage::notes(&report.coverage, spans);
    write(&report, &traces, &settings, options, spans.inputs.first())?;
    tell_unused(&report);
    let failing = gate::failing(&report, &options.fail_on);
    if failing > 0 {
        eprintln!("culprit: {}", verdict(failing));
    }
    Ok(failing)
}

/// A mistake in a path or a fingerprint must not look like a budget that is met, wherever the report goes.
fn tell_unused(report: &Report) {
    for budget in &report.coverage.unused_budgets {
        let budget = paint::printable(budget);
        eprintln!("culprit: no request matches --budget {budget:?}");
    }
    for line in &report.coverage.unused_ignores {
        let line = paint::printable(line);
        eprintln!("culprit: --ignore accepts what is not found any more: {line}");
    }
}

fn verdict(failing: usize) -> String {
    let culprits = match failing {
        1 => "1 culprit fails".to_owned(),
        _ => format!("{failing} culprits fail"),
    };
    format!("{culprits} this run (--fail-on says which do, --ignore FILE accepts some)")
}

fn not_writable(path: &Path) -> String {
    let path = paint::printable(&path.display().to_string());
    format!("the report cannot be written to {path}")
}

fn write(
    report: &Report,
    traces: &Traces<'_>,
    settings: &Settings,
    options: &ReportOptions,
    input: Option<&String>,
) -> anyhow::Result<()> {
    let paint = match options.output_file() {
        Some(_) => Paint::plain(),
        None => Paint::stdout(),
    };
    let bytes = match options.format {
        Format::Text => text::text(report, paint).into_bytes(),
        Format::Json => serde_json::to_vec(report)?,
        Format::Html => html::html(report, traces, settings)?.into_bytes(),
        Format::Sarif => {
            let root = std::env::current_dir().unwrap_or_default();
            serde_json::to_vec_pretty(&sarif::sarif(
                report,
                &root.to_string_lossy(),
                input.map(String::as_str),
            ))?
        }
    };
    match options.output_file() {
        Some(path) => std::fs::write(path, &bytes).with_context(|| not_writable(path)),
        None => print_unless_closed(&bytes).context("the report cannot be written"),
    }
}

/// Writes to standard output. That its reader (`head`) has seen enough is no failure.
///
/// # Errors
/// It takes no more, for another reason.
pub fn print_unless_closed(bytes: &[u8]) -> io::Result<()> {
    match print(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    if !bytes.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}
