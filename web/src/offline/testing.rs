//! Drawn traces as reports, for this module's tests.

use analyzer::{Settings, drawing};
use collector::otlp::Source;

use super::coverage;
use super::gather::Traces;
use super::over_time::over_time;
use super::read::Spans;
use super::report::{Report, SCHEMA, Wanted};

pub fn settings() -> Settings {
    Settings {
        repeats_min: 3,
        is_complete: true,
        ..Settings::default()
    }
}

pub fn sources(drawn: &str) -> Vec<Source> {
    let drawing = drawing::parse(drawn);
    let otlp = crate::testing::otlp(&drawing.spans());
    vec![Source::new(otlp).unwrap()]
}

/// So many traces of one drawing, one minute after the other.
pub fn many(times: u64, drawn: &str) -> Vec<Source> {
    const MINUTE_NS: u64 = 60_000_000_000;
    let mut drawing = drawing::parse(drawn);
    let mut sources = Vec::new();
    for at in 0..times {
        drawing.trace_id.0[..8].copy_from_slice(&(at + 1).to_be_bytes());
        drawing.start_ns += MINUTE_NS;
        let otlp = crate::testing::otlp(&drawing.spans());
        sources.push(Source::new(otlp).unwrap());
    }
    sources
}

pub fn report_of(traces: &Traces<'_>, wanted: Wanted) -> Report {
    let traces = traces.analyse(&settings(), wanted);
    let mut coverage = coverage::coverage(&traces, &Spans::default());
    coverage.notes = coverage::notes(&coverage, &Spans::default());
    Report {
        schema: SCHEMA,
        findings_over_time: over_time(&traces),
        traces,
        coverage,
    }
}

pub fn report(drawn: &str) -> Report {
    let wanted = Wanted {
        critical_paths: true,
        profiles: false,
    };
    report_of(&Traces::of(&sources(drawn)), wanted)
}
