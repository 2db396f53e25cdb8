//! Spans of all inputs → traces → one report. Traces are analysed side by side and stand in order of
//! their starts, so the same spans give the same report, however they were split over files.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use analyzer::span::TraceId;
use analyzer::{Analysis, Analyzer, Settings};
use collector::otlp::{At, Source, decode_all, distinct};

use super::parallel;
use super::progress::Progress;
use super::report::{TraceReport, Wanted};

/// Where each trace's spans stand.
#[derive(Debug)]
pub struct Traces<'s> {
    sources: &'s [Source],
    /// In order of the trace ids.
    traces: Vec<(TraceId, Vec<At>)>,
}

impl<'s> Traces<'s> {
    /// Puts the traces together; what was delivered twice counts once.
    pub fn of(sources: &'s [Source]) -> Traces<'s> {
        let mut places: HashMap<TraceId, usize> = HashMap::new();
        let mut traces: Vec<(TraceId, Vec<At>)> = Vec::new();
        for (source, of) in (0..).zip(sources) {
            for (span, trace_id) in (0..).zip(of.traces()) {
                // Every source was accepted as a whole.
                let trace_id = trace_id.unwrap_or_default();
                let at = match places.entry(trace_id) {
                    Occupied(known) => *known.get(),
                    Vacant(new) => {
                        traces.push((trace_id, Vec::new()));
                        *new.insert(traces.len() - 1)
                    }
                };
                traces[at].1.push(At { source, span });
            }
        }
        traces.sort_unstable_by_key(|it| it.0);
        Traces { sources, traces }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.traces.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.traces.is_empty()
    }

    /// Analyses all of them, on all cores. In order of start, then of id.
    pub fn analyse(&self, settings: &Settings, wanted: Wanted) -> Vec<TraceReport> {
        let progress = Progress::of("analysed", "traces");
        let analyzer = || Analyzer::new(settings);
        let mut reports = parallel::each(self.len(), &progress, analyzer, |analyzer, at| {
            self.with(analyzer, at, |analysis| {
                TraceReport::of(self.traces[at].0, analysis, wanted)
            })
        });
        reports.sort_by_key(|it| it.start_ns);
        reports
    }

    /// Analyses one of them (again) and shows it to `look`.
    pub fn look_at<T>(
        &self,
        trace_id: TraceId,
        settings: &Settings,
        look: impl FnOnce(&Analysis<'_>) -> T,
    ) -> Option<T> {
        let at = self
            .traces
            .binary_search_by_key(&trace_id, |it| it.0)
            .ok()?;
        Some(self.with(&mut Analyzer::new(settings), at, look))
    }

    fn with<T>(
        &self,
        analyzer: &mut Analyzer<'_>,
        at: usize,
        look: impl FnOnce(&Analysis<'_>) -> T,
    ) -> T {
        let mut spans = self.traces[at].1.clone();
        distinct(self.sources, &mut spans);
        // What was accepted decodes; if it ever does not, an empty trace is better than none at all.
        let decoded = decode_all(self.sources, &spans).unwrap_or_default();
        look(&analyzer.analyze(decoded))
    }
}
