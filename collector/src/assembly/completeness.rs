//! Whether a trace looks complete before it has been idle for long.
//!
//! It has a root, no parent is missing, and every client span whose callee is known to report has
//! its server span. Which callees report is learned from the traces themselves.

use analyzer::span::{SpanKind, Spans};
use analyzer::trace::{SpanIdx, Trace};
use std::collections::HashSet;

/// Callees remembered. At the bound no more are learned: traces that call the others may be
/// finalised twice.
const CALLEES_MAX: usize = 20_000;

/// Callees that have answered with a server span of their own before.
#[derive(Clone, Debug, Default)]
pub struct Callees {
    reporting: HashSet<String>,
}

impl Callees {
    /// Learns from a finalised trace; returns the callees that are new.
    pub fn unknown_in(&self, trace: &Trace<'_>) -> Vec<String> {
        let clients = clients(trace).filter(|(idx, _)| has_server(trace, *idx));
        let new = clients.filter(|(_, callee)| !self.reporting.contains(*callee));
        new.map(|(_, callee)| callee.to_owned()).collect()
    }

    /// Remembers callees that report.
    pub fn learn(&mut self, callees: Vec<String>) {
        for callee in callees {
            if self.reporting.len() < CALLEES_MAX {
                self.reporting.insert(callee);
            }
        }
    }

    /// Nothing seems to be missing.
    pub fn is_complete(&self, trace: &Trace<'_>) -> bool {
        let spans = &trace.spans.spans;
        let rooted = trace
            .roots
            .iter()
            .any(|it| spans[*it as usize].parent_id.is_none());
        let whole = trace.nodes.iter().all(|node| !node.orphan);
        rooted
            && whole
            && clients(trace)
                .all(|(idx, callee)| !self.reporting.contains(callee) || has_server(trace, idx))
    }
}

/// The client spans that call a named peer which might report itself.
fn clients<'t, 'a>(trace: &'t Trace<'a>) -> impl Iterator<Item = (SpanIdx, &'a str)> + 't {
    let spans = trace.spans.spans.iter().enumerate();
    let clients = spans.filter(|(_, span)| span.kind == SpanKind::Client);
    clients.filter_map(|(at, span)| Some((at as SpanIdx, callee(&trace.spans, span)?)))
}

/// Databases never report; everything else is known by where it is.
fn callee<'a>(spans: &Spans<'a>, span: &analyzer::span::Span<'a>) -> Option<&'a str> {
    if spans
        .first_of(span, &["db.system.name", "db.system"])
        .is_some()
    {
        return None;
    }
    spans.text(
        span,
        &[
            "service.peer.name",
            "peer.service",
            "server.address",
            "net.peer.name",
            "rpc.service",
        ],
    )
}

fn has_server(trace: &Trace<'_>, client: SpanIdx) -> bool {
    trace
        .children(client)
        .any(|it| trace.span(it).kind == SpanKind::Server)
}
