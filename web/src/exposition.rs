//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use collector::histogram::{BOUNDS_S, Observed};

/// What `Content-Type` says.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric's numbers mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only rises, from 0 at the process's start.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets, their sum and their count.
    Histogram,
}

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// The samples of one metric, being written.
pub struct Samples<'a> {
    name: &'a str,
    lines: String,
}

impl<'a> Samples<'a> {
    /// None yet.
    pub fn of(name: &'a str) -> Samples<'a> {
        Samples {
            name,
            lines: String::new(),
        }
    }

    /// A sample. Labels must differ between the samples of a metric.
    pub fn add(&mut self, labels: &[Label<'_>], value: f64) {
        self.line("", labels, value);
    }

    /// The samples of a histogram without labels.
    pub fn add_histogram(&mut self, observed: &Observed) {
        for (bound, at_most) in BOUNDS_S.iter().zip(observed.at_most) {
            self.line("_bucket", &[("le", &bound.to_string())], at_most as f64);
        }
        self.line("_bucket", &[("le", "+Inf")], observed.count as f64);
        self.line("_sum", &[], observed.sum_s);
        self.line("_count", &[], observed.count as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: f64) {
        let lines = &mut self.lines;
        lines.push_str(self.name);
        lines.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            lines.push(if at == 0 { '{' } else { ',' });
            let _ = write!(lines, "{name}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            lines.push('}');
        }
        let _ = writeln!(lines, " {value}");
    }

    /// Writes the metric behind `out`; nothing at all if it has no samples.
    pub fn finish(self, kind: Kind, help: &str, out: &mut String) {
        if self.lines.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(
            out,
            "# HELP {} {help}\n# TYPE {} {kind}",
            self.name, self.name
        );
        out.push_str(&self.lines);
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut samples = Samples::of("m");
        samples.add(&[("a", "x\"\\\n"), ("b", "é")], 1.5);
        let mut out = String::new();
        samples.finish(Kind::Gauge, "Help.", &mut out);
        assert_eq!(
            out,
            "# HELP m Help.\n# TYPE m gauge\nm{a=\"x\\\"\\\\\\n\",b=\"é\"} 1.5\n"
        );
    }

    #[test]
    fn a_metric_without_samples_is_not_there() {
        let mut out = String::new();
        Samples::of("m").finish(Kind::Counter, "Help.", &mut out);
        assert_eq!(out, "");
    }
}
