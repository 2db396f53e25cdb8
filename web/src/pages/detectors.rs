//! What culprit looks for, in the detectors' own words.

use analyzer::detectors::{ALL, Detect, Detector};
use askama::Template;
use axum::response::Response;

use crate::explain;
use crate::offline::paint::Paint;
use crate::pages::{Frame, render};

/// The page.
pub async fn show() -> Response {
    render(&page(ALL))
}

#[derive(Template)]
#[template(path = "detectors.html")]
struct Page {
    frame: Frame,
    detectors: Vec<DetectorView>,
}

struct DetectorView {
    id: &'static str,
    title: &'static str,
    /// What it reads, in words.
    reads: &'static str,
    paragraphs: Vec<&'static str>,
    /// Its pattern, drawn as text.
    example: String,
}

fn page(detectors: &'static [Detector]) -> Page {
    let view = |it: &'static Detector| DetectorView {
        id: it.id,
        title: it.title,
        reads: match it.detect {
            Detect::InTrace(_) => "looks at every trace",
            Detect::OverTime(_) => "compares an endpoint with its past",
            Detect::Both(..) => "looks at every trace and compares an endpoint with its past",
        },
        paragraphs: it
            .explain
            .split("\n\n")
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .collect(),
        example: explain::example(it, Paint::plain()),
    };
    Page {
        frame: Frame {
            current: "/detectors",
        },
        detectors: detectors.iter().map(view).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scraper::{Html, Selector};

    #[test]
    fn every_detector_is_explained() {
        let html = Html::parse_document(&page(ALL).render().unwrap());
        for detector in ALL {
            let icon = Selector::parse(&format!("symbol[id='i-{}']", detector.id)).unwrap();
            assert!(
                html.select(&icon).next().is_some(),
                "icon of {}",
                detector.id
            );
            let section = Selector::parse(&format!("section[id='{}']", detector.id)).unwrap();
            let section = html.select(&section).next().expect(detector.id);
            let example = section.select(&Selector::parse("pre").unwrap()).next();
            let example: String = example.expect("drawn").text().collect();
            assert!(example.lines().count() > 2, "{example}");
            let paragraphs = section.select(&Selector::parse("p.prose").unwrap()).count();
            assert_eq!(
                paragraphs,
                detector.explain.split("\n\n").count(),
                "{}",
                detector.id
            );
        }
    }
}
