//! `culprit explain`: a detector's own words, and its pattern drawn.

use analyzer::category::Category;
use analyzer::detectors::{ALL, Detector};
use analyzer::trace::SpanIdx;
use analyzer::{Analysis, Settings, drawing};
use std::fmt::Write;
use std::ops::Range;
use std::process::ExitCode;

use crate::offline::paint::{Paint, Style, cut, wrap};
use crate::offline::{self, gate};

/// Prints the explanations of those detectors whose ids begin with these words, or all.
///
/// # Errors
/// There is no such detector (the error names those there are), or standard output takes no more.
pub fn run(id: Option<&str>) -> anyhow::Result<ExitCode> {
    let chosen: Vec<&Detector> = ALL
        .iter()
        .filter(|it| id.is_none_or(|id| gate::is_meant(id, it.id)))
        .collect();
    if chosen.is_empty() {
        let ids: Vec<&str> = ALL.iter().map(|it| it.id).collect();
        anyhow::bail!(
            "there is no detector '{}'; there are: {}",
            id.unwrap_or_default(),
            ids.join(", ")
        );
    }
    let paint = Paint::stdout();
    let texts: Vec<String> = chosen.iter().map(|it| explained(it, paint)).collect();
    offline::print_unless_closed(texts.join("\n\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn explained(detector: &Detector, paint: Paint) -> String {
    let title = paint.styled(Style::Heading, detector.title);
    let mut text = format!("{title} ({})\n\n{}", detector.id, example(detector, paint));
    for paragraph in detector.explain.split("\n\n") {
        let _ = write!(text, "\n{}\n", wrap(paragraph, paint.width).join("\n"));
    }
    text
}

/// The detector's example as a small waterfall, its finding below it.
pub fn example(detector: &Detector, paint: Paint) -> String {
    let drawn = drawing::parse(detector.example);
    let analysis = analyzer::analyze(drawn.spans(), &Settings::default());
    let mut found = analysis
        .findings
        .iter()
        .filter(|it| it.detector == detector.id);
    let found = found.next();
    let mut text = waterfall(&analysis, found.map_or(&[], |it| &it.offenders), paint);
    if let Some(found) = found {
        let saved = match found.saved_ns {
            0 => String::new(),
            ns => format!("; a fix saves {}", crate::format::duration(ns)),
        };
        let told = format!("{}{saved}", found.title);
        for (at, line) in wrap(&told, paint.width - 4).iter().enumerate() {
            let arrow = if at == 0 { '→' } else { ' ' };
            let _ = writeln!(text, "  {arrow} {line}");
        }
    }
    text
}

/// A name and a bar for each span; `accused` spans are marked. Bars are drawn with the letters of their
/// categories, so that they tell something without colours, too.
fn waterfall(analysis: &Analysis<'_>, accused: &[SpanIdx], paint: Paint) -> String {
    let trace = &analysis.trace;
    let Range {
        start: start_ns,
        end: end_ns,
    } = trace.time_ns();
    let name_width = paint.width * 2 / 5;
    let bar_width = paint.width - name_width - 16;
    let column = |ns: u64| {
        let offset = u128::from(ns - start_ns) * bar_width as u128;
        (offset / u128::from((end_ns - start_ns).max(1))) as usize
    };
    let mut text = String::new();
    for (at, node) in (0..).zip(&trace.nodes) {
        let mark = if accused.contains(&at) { '›' } else { ' ' };
        let name = format!(
            "{}{}",
            "  ".repeat(node.depth as usize),
            trace.span(at).name
        );
        let name = cut(&name, name_width);
        let (from, to) = (column(node.start_ns), column(node.end_ns));
        let mut only = [0; Category::COUNT];
        only[analysis.categories[at as usize] as usize] = 1;
        let bar = paint.bar(&only, (to - from).max(1));
        let rest = " ".repeat(bar_width.saturating_sub(from + (to - from).max(1)));
        let duration = crate::format::duration(node.end_ns - node.start_ns);
        let _ = writeln!(
            text,
            "{mark} {name:name_width$} {}{bar}{rest} {duration:>10}",
            " ".repeat(from),
        );
    }
    let _ = writeln!(text, "  {}", legend(analysis, paint));
    text
}

fn legend(analysis: &Analysis<'_>, paint: Paint) -> String {
    let seen = Category::ALL
        .into_iter()
        .filter(|it| analysis.categories.contains(it));
    let names = seen.map(|it| paint.category(it));
    names.collect::<Vec<_>>().join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::detectors::Detect;

    #[test]
    fn every_detector_is_drawn_and_explained() {
        for detector in ALL {
            let text = explained(detector, Paint::plain());
            let over_time = matches!(detector.detect, Detect::OverTime(_));
            assert!(over_time || text.contains("\n  → "), "{text}");
            let widest = text.lines().map(|it| it.chars().count()).max();
            assert!(widest <= Some(Paint::plain().width), "{text}");
        }
    }
}
