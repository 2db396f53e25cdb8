//! Connections: to whom they go, and which ones a request opened itself.
//!
//! A connection is opened in steps that instrumentations report in different ways:
//!
//! ```text
//! connect       |------|          PostgreSQL's drivers: one span
//! http.dns      |-|               Go's and .NET's HTTP clients: one per step
//! http.connect    |-|             all three are one connection
//! http.tls          |--|
//! ```
//!
//! Two of one step, the second after the first, are two connections. Two at once are a pool that
//! fills, and count once.

use crate::Analysis;
use crate::category::Category;
use crate::facts::Facts;
use crate::impact::impact;
use crate::span::Status;
use crate::target::{Target, cut};
use crate::trace::SpanIdx;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Quicker ones, in ns, were no connections: a handshake with a server takes a round trip and a process
/// or thread on the other side, while SQLAlchemy reports a `connect` of some 100 µs whenever its pool
/// hands out what it has.
pub const OPENED_NS_MIN: u64 = 1_000_000;

/// At most so many targets of one trace are looked at. Each costs a walk over its entry; nobody opens
/// connections to more by mistake.
const TARGETS_MAX: usize = 32;

/// What a connection goes to is said so many spans above at most: the call it is opened for.
const ANCESTORS_MAX: usize = 8;

/// The connections that one entry opened to one target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// An index into [`Analysis::entries`].
    pub entry: usize,
    /// To whom: `postgresql shop at db.internal`, `payments`. Without addresses, which change.
    pub target: String,
    /// How many were opened one after the other.
    pub count: usize,
    /// The spans that opened them, in order of start.
    pub spans: Vec<SpanIdx>,
    /// Those of them that belong to the second connection and later ones.
    pub repeated: Vec<SpanIdx>,
    /// Their time on the entry's critical path, ns.
    pub critical_ns: u64,
}

/// Which connections each entry opened itself, by entry and target. Nothing is allocated if there were none.
pub fn opened(analysis: &Analysis<'_>) -> Vec<Opened> {
    let is_opening = |span: SpanIdx| {
        let is_error = analysis.trace.span(span).status == Status::Error;
        !is_error
            && !analysis.trace.node(span).detached
            && analysis.trace.duration_ns(span) >= OPENED_NS_MIN
    };
    let mut by_target: BTreeMap<(usize, String), Vec<SpanIdx>> = BTreeMap::new();
    for span in outermost(analysis, Category::Connect).filter(|it| is_opening(*it)) {
        if let Some(entry) = analysis.entry_of(span) {
            let target = target(analysis, span, analysis.entries[entry].span);
            by_target.entry((entry, target)).or_default().push(span);
        }
    }
    let opened = by_target
        .into_iter()
        .take(TARGETS_MAX)
        .map(|((entry, target), mut spans)| {
            spans.sort_by_key(|it| (analysis.trace.node(*it).start_ns, *it));
            let (count, repeated) = by_user(analysis, &spans);
            Opened {
                entry,
                target,
                count,
                repeated,
                critical_ns: impact(analysis, &analysis.entries[entry], &spans).critical_ns,
                spans,
            }
        });
    opened.collect()
}

/// The entry `entry` (an index into [`Analysis::entries`]) is a function's first call, which opens what the
/// later ones use.
pub fn is_cold_start(analysis: &Analysis<'_>, entry: usize) -> bool {
    let span = analysis.trace.span(analysis.entries[entry].span);
    let said = analysis.trace.spans.attribute(span, "faas.coldstart");
    matches!(said, Some(crate::span::Value::Bool(true)))
}

/// The spans of `category` that lie in no other of it, in tree order.
pub fn outermost<'b>(
    analysis: &'b Analysis<'_>,
    category: Category,
) -> impl Iterator<Item = SpanIdx> + 'b {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = analysis.categories.get(from..)?;
        let at = from + rest.iter().position(|it| *it == category)?;
        from = analysis.trace.nodes[at].subtree_end as usize;
        Some(at as SpanIdx)
    })
}

/// The steps of opening a connection that have spans of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Name,
    Transport,
    Encryption,
    All,
}

fn step(name: &str) -> Step {
    let has = |part: &str| name.contains(part);
    if has("dns") || has("DNS") {
        Step::Name
    } else if has("tls") || has("TLS") {
        Step::Encryption
    } else if has("tcp") || has("socket") || name == "http.connect" {
        Step::Transport
    } else {
        Step::All
    }
}

/// How many connections `spans` (in order of start) opened, and those that belong to the second one of a user
/// and later ones: a connection that somebody else logged in with is of no use.
fn by_user(analysis: &Analysis<'_>, spans: &[SpanIdx]) -> (usize, Vec<SpanIdx>) {
    let mut users: BTreeMap<&str, Vec<SpanIdx>> = BTreeMap::new();
    for span in spans {
        let user = (analysis.trace.spans).text(analysis.trace.span(*span), &["db.user"]);
        users.entry(user.unwrap_or("")).or_default().push(*span);
    }
    let (mut sum, mut repeated) = (0, Vec::new());
    for spans in users.into_values() {
        let (count, first_end_ns) = count(analysis, &spans);
        let is_later = |it: &SpanIdx| analysis.trace.node(*it).start_ns >= first_end_ns;
        sum += count;
        repeated.extend(spans.into_iter().filter(is_later));
    }
    repeated.sort_by_key(|it| (analysis.trace.node(*it).start_ns, *it));
    (sum, repeated)
}

/// How many connections `spans` (in order of start, at least one) opened one after the other, and when
/// the first of them was open.
fn count(analysis: &Analysis<'_>, spans: &[SpanIdx]) -> (usize, u64) {
    /// So many of a step in turn, the end of the first, the end of the latest.
    type Turns = (usize, u64, u64);
    let mut by_step: BTreeMap<Step, Turns> = BTreeMap::new();
    for span in spans {
        let node = analysis.trace.node(*span);
        let none = (0, node.end_ns, 0);
        let turns = by_step
            .entry(step(analysis.trace.span(*span).name))
            .or_insert(none);
        if turns.0 == 0 || node.start_ns >= turns.2 {
            turns.0 += 1;
        }
        turns.2 = turns.2.max(node.end_ns);
    }
    let most = by_step.into_values().max_by_key(|it| it.0);
    most.map_or((0, 0), |(count, first_end_ns, _)| (count, first_end_ns))
}

/// Beginnings of names that go on with a host.
const NAMES_WITH_HOST: &[&str] = &[
    "HTTP wait_for_connection ",
    "HTTP connection_setup ",
    "DNS lookup ",
    "socket connect ",
    "TLS client handshake ",
];

/// To whom a connection goes, by what the span says or those around it up to `top`; its own name if
/// none does.
pub fn target(analysis: &Analysis<'_>, span: SpanIdx, top: SpanIdx) -> String {
    let name = analysis.trace.span(span).name;
    if let Some(host) = NAMES_WITH_HOST.iter().find_map(|it| name.strip_prefix(it)) {
        return cut(host).to_owned();
    }
    let ancestors = std::iter::successors(Some(span), |it| analysis.trace.node(*it).parent);
    let inside = ancestors.take(ANCESTORS_MAX).take_while(|it| *it > top);
    let mut said = inside.filter_map(|it| said(analysis, it));
    said.next().unwrap_or_else(|| cut(name).to_owned())
}

fn said(analysis: &Analysis<'_>, span: SpanIdx) -> Option<String> {
    let facts = Facts::of(&analysis.trace.spans, analysis.trace.span(span));
    // Addresses of machines change with every deployment.
    let host = Target::of(&facts).host;
    let host = if host.parse::<IpAddr>().is_ok() {
        ""
    } else {
        host
    };
    let host = match facts.peer_service {
        "" => host,
        peer => peer,
    };
    let database = format!("{} {}", facts.db_system, facts.db_namespace);
    let text = match (database.trim(), host) {
        ("", host) => host.to_owned(),
        (database, "") => database.to_owned(),
        (database, host) => format!("{database} at {host}"),
    };
    Some(cut(&text).to_owned()).filter(|it| !it.is_empty())
}
