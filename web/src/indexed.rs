//! A trace's analysis with what every view of it needs, worked out once: of a trace of a million spans no
//! view should walk over all of them again for what the last one knew.

use std::cell::OnceCell;
use std::collections::HashSet;

use analyzer::span::{SpanId, Status};
use analyzer::trace::SpanIdx;
use analyzer::{Analysis, Entry};

use crate::waterfall::{self, Axis, Lanes, Names, Piece};

/// An analysis, and what follows from it for all views.
pub struct Indexed<'s, 'a> {
    /// What was found out.
    pub analysis: &'s Analysis<'a>,
    /// What the spans are called.
    pub names: Names<'s>,
    /// How they are named in addresses.
    pub keys: Keys,
    /// For every span: does it lie in an asynchronous part?
    pub detached: Vec<bool>,
    /// For every span the time in which none of its children ran, ns.
    pub own_ns: Vec<u64>,
    /// The first start of all, ns since the epoch, corrected; 0 in an empty trace.
    pub start_ns: u64,
    /// Spans that report an error.
    pub errors: usize,
    services: Vec<&'s str>,
    main: Option<usize>,
    /// The main entry's critical path, by span.
    critical: Vec<(SpanIdx, Piece)>,
    /// Findings by the spans that are their offenders.
    offenders: Vec<(SpanIdx, usize)>,
    /// Of all of the trace; filled by the first view that draws it.
    axis: OnceCell<Axis>,
    overview: OnceCell<Lanes>,
}

impl<'s, 'a> Indexed<'s, 'a> {
    /// Walks over all spans a few times.
    pub fn of(analysis: &'s Analysis<'a>) -> Self {
        let spans = &analysis.trace.spans.spans;
        let detached = waterfall::detached(analysis);
        let main = waterfall::main_among(analysis, &detached);
        let path = main.iter().flat_map(|it| &analysis.entries[*it].path);
        let mut critical: Vec<(SpanIdx, Piece)> = path
            .map(|it| {
                let piece = Piece {
                    start_ns: it.start_ns,
                    end_ns: it.end_ns,
                };
                (it.span, piece)
            })
            .collect();
        critical.sort_unstable_by_key(|it| (it.0, it.1.start_ns));
        let findings = analysis.findings.iter().enumerate();
        let mut offenders: Vec<(SpanIdx, usize)> = findings
            .flat_map(|(at, it)| it.offenders.iter().map(move |span| (*span, at)))
            .collect();
        offenders.sort_unstable();
        let names = Names::of(analysis);
        let services: HashSet<&str> = names.services().collect();
        let mut services: Vec<&str> = services.into_iter().collect();
        services.sort_unstable();
        Indexed {
            analysis,
            names,
            services,
            keys: Keys::of(analysis),
            own_ns: (0..spans.len() as SpanIdx)
                .map(|it| waterfall::own_ns(analysis, it, None))
                .collect(),
            start_ns: analysis.trace.time_ns().start,
            errors: spans.iter().filter(|it| it.status == Status::Error).count(),
            detached,
            main,
            critical,
            offenders,
            axis: OnceCell::new(),
            overview: OnceCell::new(),
        }
    }

    /// The entry the page is about.
    pub fn main(&self) -> Option<&'s Entry<'a>> {
        self.main.map(|it| &self.analysis.entries[it])
    }

    /// The axis of all of the trace.
    pub fn axis(&self) -> Axis {
        *self.axis.get_or_init(|| Axis::measured(self, None))
    }

    /// All of the trace, small.
    pub fn overview(&self) -> &Lanes {
        let drawn = || waterfall::overview(self.analysis, &self.axis(), None);
        self.overview.get_or_init(drawn)
    }

    /// How many spans there are.
    pub fn spans(&self) -> SpanIdx {
        self.analysis.trace.nodes.len() as SpanIdx
    }

    /// The parts of the main entry's critical path that the spans of `range` have.
    pub fn critical(&self, range: std::ops::Range<SpanIdx>) -> &[(SpanIdx, Piece)] {
        within(&self.critical, range)
    }

    /// The findings of which the spans of `range` are offenders: span, index into [`Analysis::findings`].
    pub fn offenders(&self, range: std::ops::Range<SpanIdx>) -> &[(SpanIdx, usize)] {
        within(&self.offenders, range)
    }

    /// The services that have sent spans, by name.
    pub fn services(&self) -> &[&'s str] {
        &self.services
    }
}

fn within<T>(sorted: &[(SpanIdx, T)], range: std::ops::Range<SpanIdx>) -> &[(SpanIdx, T)] {
    let from = sorted.partition_point(|it| it.0 < range.start);
    let length = sorted[from..].partition_point(|it| it.0 < range.end);
    &sorted[from..from + length]
}

/// How spans are named in addresses: by id; where several have one id, with a number behind it.
pub struct Keys {
    /// Ids as numbers and their spans, in order.
    sorted: Vec<(u64, SpanIdx)>,
}

impl Keys {
    fn of(analysis: &Analysis<'_>) -> Keys {
        let spans = (0..).zip(&analysis.trace.spans.spans);
        let mut sorted: Vec<(u64, SpanIdx)> = spans
            .map(|(at, it)| (u64::from_be_bytes(it.id.0), at))
            .collect();
        sorted.sort_unstable();
        Keys { sorted }
    }

    fn same(&self, id: SpanId) -> &[(u64, SpanIdx)] {
        let id = u64::from_be_bytes(id.0);
        let from = self.sorted.partition_point(|it| it.0 < id);
        let length = self.sorted[from..]
            .iter()
            .take_while(|it| it.0 == id)
            .count();
        &self.sorted[from..from + length]
    }

    /// The name of `span`.
    pub fn key(&self, analysis: &Analysis<'_>, span: SpanIdx) -> String {
        let id = analysis.trace.span(span).id;
        match self.same(id).iter().position(|it| it.1 == span) {
            Some(at) if at > 0 => format!("{id}.{at}"),
            _ => id.to_string(),
        }
    }

    /// The span of that name.
    pub fn find(&self, key: &str) -> Option<SpanIdx> {
        let (id, at) = key.split_once('.').unwrap_or((key, "0"));
        let same = self.same(SpanId::from_hex(id)?);
        same.get(at.parse::<usize>().ok()?).map(|it| it.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::Settings;
    use analyzer::drawing;

    #[test]
    fn spans_are_found_by_their_keys_and_parts_by_their_spans() {
        let drawing = drawing::parse(
            "
shop  GET /posts         |----------|
shop    SELECT posts       |--|
shop    SELECT authors         |--|
",
        );
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let indexed = Indexed::of(&analysis);
        for span in 0..3 {
            let key = indexed.keys.key(&analysis, span);
            assert_eq!(indexed.keys.find(&key), Some(span), "{key}");
            assert_eq!(indexed.keys.find(&format!("{key}.1")), None);
        }
        assert_eq!(indexed.keys.find("00000000000000ff"), None);
        let ns = |range| -> u64 {
            let parts = indexed.critical(range).iter();
            parts.map(|it| it.1.end_ns - it.1.start_ns).sum()
        };
        assert_eq!(ns(0..3), indexed.main().unwrap().duration_ns);
        assert_eq!(ns(0..1), indexed.own_ns[0]);
        assert_eq!(ns(1..3), indexed.own_ns[1] + indexed.own_ns[2]);
        assert_eq!(indexed.services(), ["shop"]);
    }
}
