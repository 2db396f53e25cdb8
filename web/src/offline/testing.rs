//! Drawn traces as reports, for this module's tests.

use analyzer::{Settings, drawing};
use collector::otlp::Source;

use super::coverage;
use super::gather::Traces;
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

pub fn report_of(traces: &Traces<'_>, wanted: Wanted) -> Report {
    let traces = traces.analyse(&settings(), wanted);
    let mut coverage = coverage::coverage(&traces, &Spans::default());
    coverage.notes = coverage::notes(&coverage, &Spans::default());
    Report {
        schema: SCHEMA,
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
