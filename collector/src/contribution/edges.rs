//! Who calls whom in a trace: from each request to those that answered it, and to what it called that
//! does not report.
//!
//! ```text
//! shop   GET /cart          |-----------------|
//! shop     POST [client]      |----------|        → POST /charge, 11 columns: what shop waited
//! pay        POST /charge       |------|
//! shop     SELECT [client]                 |--|   → the database, 3 columns
//! ```

use analyzer::category::Category;
use analyzer::peer::Peer as Called;
use analyzer::span::SpanKind;
use analyzer::{Analysis, Entry};
use std::sync::Arc;

/// Whom a request calls where nobody reports from: owned, once per trace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// What kind of thing it is; `None` for all that is beyond a cap.
    pub category: Option<Category>,
    /// Such as `postgresql`; empty if unknown.
    pub system: Box<str>,
    /// Host, database or destination; empty if nothing was said.
    pub name: Box<str>,
}

/// Where a call goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum To {
    /// A request of the same trace: a position among the contribution's.
    Request(u32),
    /// A position among the contribution's peers.
    Peer(u32),
}

/// A call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Whom.
    pub to: To,
    /// What the caller waited; for a message, what its receiver took; ns.
    pub duration_ns: u64,
    /// The caller saw it fail, or the callee failed.
    pub failed: bool,
}

/// No call, no request.
pub(super) const NONE: u32 = u32::MAX;

/// A call's span stands right above the entry that answers, nearly always: so many spans above it are
/// looked at.
const LOOKED_AT_MAX: usize = 8;

/// The edges of a trace by entry, those to one callee side by side, and the peers they lead to.
/// `positions` tells which request each entry became.
pub(super) fn of(analysis: &Analysis<'_>, positions: &[u32]) -> (Vec<Vec<Edge>>, Vec<Arc<Peer>>) {
    let mut edges: Vec<Vec<Edge>> = vec![Vec::new(); positions.len()];
    let answered = add_answered(analysis, positions, &mut edges);
    let mut peers = Peers {
        called: &analysis.peers,
        kept: vec![NONE; analysis.peers.len()],
        peers: Vec::new(),
    };
    for (at, call) in analysis.calls.iter().enumerate() {
        let Some(entry) = call
            .entry
            .filter(|_| !answered.get(at).is_some_and(|it| *it))
        else {
            continue;
        };
        edges[entry].push(Edge {
            to: To::Peer(peers.keep(call.peer)),
            duration_ns: analysis.trace.duration_ns(call.outer),
            failed: call.failed,
        });
    }
    for edges in &mut edges {
        edges.sort_by_key(|it| it.to);
    }
    (edges, peers.peers)
}

/// Adds the edges to entries that report; says which calls they answer, or nothing if none do.
fn add_answered(analysis: &Analysis<'_>, positions: &[u32], edges: &mut [Vec<Edge>]) -> Vec<bool> {
    if analysis.entries.iter().all(|it| it.parent.is_none()) {
        return Vec::new();
    }
    let mut answered = vec![false; analysis.calls.len()];
    let mut call_of = vec![NONE; analysis.trace.nodes.len()];
    for (at, call) in (0..).zip(&analysis.calls) {
        call_of[call.outer as usize] = at;
        call_of[call.span as usize] = at;
    }
    for (at, entry) in analysis.entries.iter().enumerate() {
        let Some(caller) = entry.parent else {
            continue;
        };
        let call = call_of_entry(analysis, entry, &analysis.entries[caller], &call_of);
        if let Some(call) = call {
            answered[call] = true;
        }
        let is_same_service = entry.service == analysis.entries[caller].service;
        // Two libraries that report one request, and nobody called: no edge.
        let is_called = call.is_some() || !is_same_service;
        if is_called && positions[at] != NONE {
            edges[caller].push(edge_to(analysis, entry, call, positions[at]));
        }
    }
    answered
}

/// The call that `entry` answers, of those that `caller` makes.
fn call_of_entry(
    analysis: &Analysis<'_>,
    entry: &Entry<'_>,
    caller: &Entry<'_>,
    call_of: &[u32],
) -> Option<usize> {
    let trace = &analysis.trace;
    let above = std::iter::successors(trace.node(entry.span).parent, |it| trace.node(*it).parent);
    let own = above
        .take(LOOKED_AT_MAX)
        .take_while(|it| *it != caller.span);
    let mut calls = own.map(|it| call_of[it as usize]);
    calls.find(|it| *it != NONE).map(|it| it as usize)
}

fn edge_to(analysis: &Analysis<'_>, entry: &Entry<'_>, call: Option<usize>, to: u32) -> Edge {
    let call = call.map(|it| &analysis.calls[it]);
    // Nobody waits for the one who receives a message; how long sending took says nothing of it.
    let is_message = analysis.trace.span(entry.span).kind == SpanKind::Consumer;
    let waited = call.filter(|_| !is_message);
    Edge {
        to: To::Request(to),
        duration_ns: waited.map_or(entry.duration_ns, |it| analysis.trace.duration_ns(it.outer)),
        failed: entry.error || call.is_some_and(|it| it.failed),
    }
}

/// The peers that nobody answers for, made when they are first needed.
struct Peers<'b, 'a> {
    called: &'b [Called<'a>],
    /// Where each of them stands in `peers`.
    kept: Vec<u32>,
    peers: Vec<Arc<Peer>>,
}

impl Peers<'_, '_> {
    fn keep(&mut self, at: u32) -> u32 {
        let called = &self.called[at as usize];
        let kept = &mut self.kept[at as usize];
        if *kept == NONE {
            *kept = self.peers.len() as u32;
            self.peers.push(Arc::new(Peer {
                category: Some(called.category),
                system: text(called.system),
                name: text(&called.name),
            }));
        }
        *kept
    }
}

/// As Postgres takes it: no NUL.
fn text(text: &str) -> Box<str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::contribution::{Contribution, edges::To};
    use analyzer::{Settings, analyze, drawing};
    use expect_test::{Expect, expect};

    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let analysis = analyze(drawing.spans(), &Settings::default());
        let contribution = Contribution::of(&analysis);
        let mut text = String::new();
        for request in &contribution.requests {
            for edge in &request.edges {
                let to = match edge.to {
                    To::Request(at) => {
                        let names = &contribution.requests[at as usize].names;
                        format!("{} {}", names.service().name, names.endpoint())
                    }
                    To::Peer(at) => {
                        let peer = &contribution.peers[at as usize];
                        let category = peer.category.map_or("", |it| it.id());
                        format!("[{category} {} {}]", peer.system, peer.name)
                    }
                };
                let failed = if edge.failed { " ×" } else { "" };
                text.push_str(&format!(
                    "{} {} -> {to} {} ms{failed}\n",
                    request.names.service().name,
                    request.names.endpoint(),
                    edge.duration_ns / 1_000_000
                ));
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn who_waits_for_whom_how_long() {
        check(
            r#"
            shop  GET /cart                                                    |--------------------|
            shop    POST [client] {server.address=pay, http.response.status_code=503}  |--------|
            pay       POST /charge                                               |-----|
            pay         SELECT [client] {db.system=mysql, server.address=db}      |--|
            shop    GET [client] {server.address=rates.example}                            |---|
            shop    GET [client] {server.address=rates.example}                                 |--|
            "#,
            expect![[r#"
                shop GET /cart -> pay POST /charge 9 ms ×
                shop GET /cart -> [external  rates.example] 4 ms
                shop GET /cart -> [external  rates.example] 3 ms
                pay POST /charge -> [database mysql db] 3 ms
            "#]],
        );
    }

    #[test]
    fn a_message_takes_as_long_as_its_receiver() {
        check(
            r#"
            shop  GET /cart                                                    |-----|
            shop    publish [producer] {messaging.system=kafka, messaging.destination.name=orders}  ||
            mail      orders process [consumer] {messaging.system=kafka, messaging.destination.name=orders}      |---------|
            "#,
            expect![[r#"
                shop GET /cart -> mail process orders 10 ms
            "#]],
        );
    }

    #[test]
    fn one_request_that_two_libraries_report_is_no_call() {
        check(
            r#"
            shop  GET /cart                   |-----------|
            shop    GET /cart/ [server]        |---------|
            pay       POST /charge [server]     |--|
            "#,
            expect![[r#"
                shop GET /cart/ -> pay POST /charge 3 ms
            "#]],
        );
    }

    #[test]
    fn a_service_may_call_itself() {
        check(
            r#"
            shop  GET /cart                                   |-----------|
            shop    GET [client] {server.address=localhost}    |--------|
            shop      GET /prices [server]                      |-----|
            "#,
            expect![[r#"
                shop GET /cart -> shop GET /prices 9 ms
            "#]],
        );
    }
}
