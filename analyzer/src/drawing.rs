//! Traces drawn as text ↔ spans: for tests, documentation and the demo.
//!
//! One column is 1 ms (unless the first line says otherwise), indentation is the parent, the first word
//! is the service:
//!
//! ```text
//! shop      GET /cart                               |--------------------|
//! shop        SELECT cart                           |--|
//! shop        GET payments/charge [client]             |-----------|
//! payments      POST /charge {http.route=/charge}        |-------|
//! ```
//!
//! - **Scale.** A drawing may begin with a line such as `1 column = 10 ms`, so that a long request need
//!   not be a long line. The number is whole and above zero, the unit `ns`, `µs`, `ms` or `s`. It
//!   applies to the bars only: times in attributes and events stay what they are.
//!
//!   ```text
//!   1 column = 100 ms
//!   shop  GET /report     |------------|
//!   shop    SELECT sales    |--------|
//!   ```
//!
//! - **Bar.** The columns of its two ends are the span's start and end; a single `|` is an instant.
//! - **Indentation** is where the operation's name starts (so services of different length need
//!   their names aligned), or, if any line starts with white space, where the service starts. The
//!   parent is the nearest line above that is indented less.
//! - **Kind**: `[server]`, `[client]`, `[producer]`, `[consumer]`, `[internal]` or `[unspecified]`.
//!   Without one: SERVER at the top level and where the service differs from the parent's; CLIENT
//!   for statements and for spans with `db.*`, HTTP, RPC or peer attributes; INTERNAL otherwise.
//! - **Statements.** A name such as `SELECT cart` is also the span's `db.query.text`, and the system
//!   is PostgreSQL, unless attributes say otherwise.
//! - **Attributes** stand in braces after the name: `{http.route=/cart, n=3, text="a, b"}`. Unquoted
//!   numbers and `true`/`false` are typed, everything else is text. Some keys mean something here:
//!
//! | in braces | meaning |
//! |---|---|
//! | `error` | status ERROR |
//! | `orphan` | the span names a parent that is not in the trace |
//! | `res.KEY=…` | a resource attribute of the service, for this and the service's later lines |
//! | `scope=NAME` | the instrumentation scope's name |
//! | `event=NAME@MS` | an event, so many ms after the span's start |
//! | `tracestate=…` | W3C trace state |
//! | `span.id=N`, `parent.id=N` | ids in place of the line's number and its parent's |
//! | `detached` | nothing: [`draw`] writes it for spans that do not block their parent |

use crate::Analysis;
use crate::span::{
    Attribute, Event, Resource, Scope, Span, SpanId, SpanKind, Spans, Status, TraceId, Value,
};
use crate::trace::{SpanIdx, Trace};
use std::fmt::Write;
use std::ops::Range;

const NS_PER_MS: u64 = 1_000_000;

/// Where the first column of a drawing's bars stands unless [`Drawing::start_ns`] is set:
/// 2025-01-01 00:00 UTC in ns since the Unix epoch.
pub const START_NS: u64 = 1_735_689_600_000_000_000;

/// A drawn trace: owns the text that its [`Spans`] borrow.
#[derive(Clone, PartialEq, Debug)]
pub struct Drawing {
    /// The trace's id: a hash of the drawing, so the same text is the same trace. May be set.
    pub trace_id: TraceId,
    /// When the leftmost bar starts, ns since the Unix epoch. May be set.
    pub start_ns: u64,
    /// What a column of the bars stands for, ns; above zero.
    column_ns: u64,
    lines: Vec<Line>,
    resources: Vec<(String, Vec<Drawn>)>,
    scopes: Vec<String>,
}

#[derive(Clone, PartialEq, Debug)]
struct Line {
    id: u64,
    parent_id: Option<u64>,
    name: String,
    kind: SpanKind,
    /// Columns from the leftmost bar.
    bar: Range<u64>,
    error: bool,
    trace_state: String,
    resource: usize,
    scope: usize,
    attributes: Vec<Drawn>,
    events: Vec<(String, u64)>,
}

/// An attribute, as drawn.
#[derive(Clone, PartialEq, Debug)]
struct Drawn {
    key: String,
    value: DrawnValue,
}

#[derive(Clone, PartialEq, Debug)]
enum DrawnValue {
    Flag,
    Text(String),
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// Reads a drawn trace. Blank lines and common indentation do not matter.
///
/// # Panics
///
/// If a line is not as the module describes. Drawings stand in source code, so this is a mistake of
/// whoever drew it, and the message names the line.
pub fn parse(text: &str) -> Drawing {
    let mut lines = dedent(text);
    let column_ns = lines.first().and_then(|it| read_scale(it));
    if column_ns.is_some() {
        // What it stood before may be indented together.
        lines = dedent(&lines[1..].join("\n"));
    }
    let raw: Vec<RawLine> = lines.into_iter().map(RawLine::read).collect();
    let leading = raw.iter().any(|it| it.service_column > 0);
    let origin = raw.iter().map(|it| it.bar.start).min().unwrap_or(0);
    let mut drawing = Drawing {
        trace_id: trace_id(text),
        start_ns: START_NS,
        column_ns: column_ns.unwrap_or(NS_PER_MS),
        lines: Vec::new(),
        resources: Vec::new(),
        scopes: Vec::new(),
    };
    // The lines a next line can hang under: (indentation, line number), each deeper than the one before.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (at, line) in raw.iter().enumerate() {
        let indent = match leading {
            true => line.service_column,
            false => line.name_column,
        };
        while open.last().is_some_and(|(column, _)| *column >= indent) {
            open.pop();
        }
        let parent = open.last().map(|(_, line)| *line);
        let line = drawing.line(at, line, parent, origin);
        drawing.lines.push(line);
        open.push((indent, at));
    }
    drawing
}

impl Drawing {
    /// The spans, in the order of the lines.
    pub fn spans(&self) -> Spans<'_> {
        let mut spans = Spans {
            resources: self.resources.iter().map(resource).collect(),
            scopes: self.scopes.iter().map(|name| scope(name)).collect(),
            ..Spans::default()
        };
        for line in &self.lines {
            let span = self.span(line, &mut spans);
            spans.spans.push(span);
        }
        spans
    }

    fn span<'a>(&'a self, line: &'a Line, spans: &mut Spans<'a>) -> Span<'a> {
        let start_ns = self.start_ns + line.bar.start * self.column_ns;
        let events_from = spans.events.len() as u32;
        for (name, ms) in &line.events {
            let none = spans.attributes.len() as u32;
            spans.events.push(Event {
                time_ns: start_ns + ms * NS_PER_MS,
                name,
                attributes: none..none,
            });
        }
        let attributes_from = spans.attributes.len() as u32;
        spans
            .attributes
            .extend(line.attributes.iter().map(attribute));
        Span {
            trace_id: self.trace_id,
            id: SpanId(line.id.to_be_bytes()),
            parent_id: line.parent_id.map(|id| SpanId(id.to_be_bytes())),
            trace_state: &line.trace_state,
            kind: line.kind,
            name: &line.name,
            start_ns,
            end_ns: self.start_ns + line.bar.end * self.column_ns,
            status: if line.error {
                Status::Error
            } else {
                Status::Unset
            },
            resource: line.resource as u32,
            scope: line.scope as u32,
            attributes: attributes_from..spans.attributes.len() as u32,
            events: events_from..spans.events.len() as u32,
            content: content_hash(line),
            ..Span::default()
        }
    }

    /// `parent` is a line's number.
    fn line(&mut self, at: usize, raw: &RawLine, parent: Option<usize>, origin: u64) -> Line {
        let mut line = Line {
            id: at as u64 + 1,
            parent_id: parent.map(|it| self.lines[it].id),
            name: raw.name.clone(),
            kind: SpanKind::Unspecified,
            bar: raw.bar.start - origin..raw.bar.end - origin,
            error: false,
            trace_state: String::new(),
            resource: 0,
            scope: 0,
            attributes: Vec::new(),
            events: Vec::new(),
        };
        let mut resource = Vec::new();
        let mut scope = String::new();
        for drawn in &raw.attributes {
            match drawn.key.as_str() {
                "error" if drawn.value == DrawnValue::Flag => line.error = true,
                "orphan" if drawn.value == DrawnValue::Flag => {
                    line.parent_id = Some(u64::MAX - at as u64);
                }
                "detached" if drawn.value == DrawnValue::Flag => {}
                "scope" => scope = drawn.text(),
                "tracestate" => line.trace_state = drawn.text(),
                "span.id" => line.id = drawn.number(),
                "parent.id" => line.parent_id = Some(drawn.number()),
                "event" => line.events.push(drawn.event()),
                key => match key.strip_prefix("res.") {
                    Some(key) => resource.push(Drawn {
                        key: key.to_owned(),
                        value: DrawnValue::Text(drawn.text()),
                    }),
                    None => line.attributes.push(drawn.clone()),
                },
            }
        }
        if is_statement(&line.name) {
            add_statement(&mut line);
        }
        let top = match parent {
            Some(parent) => self.service(&self.lines[parent]) != raw.service,
            None => true,
        };
        line.kind = raw
            .kind
            .unwrap_or_else(|| default_kind(top, &line.attributes));
        line.resource = self.resource(&raw.service, resource);
        line.scope = self.scope(scope);
        line
    }

    fn service(&self, line: &Line) -> &str {
        &self.resources[line.resource].0
    }

    /// The resource of `service`: the latest one drawn for it unless `attributes` are given.
    fn resource(&mut self, service: &str, attributes: Vec<Drawn>) -> usize {
        let wanted = |(name, has): &(String, Vec<Drawn>)| {
            name == service && (attributes.is_empty() || *has == attributes)
        };
        if let Some(found) = self.resources.iter().rposition(wanted) {
            return found;
        }
        self.resources.push((service.to_owned(), attributes));
        self.resources.len() - 1
    }

    fn scope(&mut self, name: String) -> usize {
        if let Some(found) = self.scopes.iter().position(|it| *it == name) {
            return found;
        }
        self.scopes.push(name);
        self.scopes.len() - 1
    }
}

fn resource((service, drawn): &(String, Vec<Drawn>)) -> Resource<'_> {
    let name = Attribute {
        key: "service.name",
        value: Value::Str(service),
    };
    Resource {
        attributes: std::iter::once(name)
            .chain(drawn.iter().map(attribute))
            .collect(),
    }
}

fn scope(name: &str) -> Scope<'_> {
    Scope { name, version: "" }
}

fn attribute(drawn: &Drawn) -> Attribute<'_> {
    let value = match &drawn.value {
        DrawnValue::Flag => Value::Bool(true),
        DrawnValue::Text(text) => Value::Str(text),
        DrawnValue::Bool(it) => Value::Bool(*it),
        DrawnValue::Int(it) => Value::Int(*it),
        DrawnValue::Double(it) => Value::Double(*it),
    };
    Attribute {
        key: &drawn.key,
        value,
    }
}

/// The words statements begin with, and the words one of which must follow (none: any).
const STATEMENTS: &[(&str, &[&str])] = &[
    ("SELECT", &[]),
    ("INSERT", &[]),
    ("UPDATE", &[]),
    // `DELETE /users/{id}` is a request.
    ("DELETE", &["FROM"]),
    ("WITH", &[]),
    ("MERGE", &[]),
    ("BEGIN", &[]),
    ("COMMIT", &[]),
    ("ROLLBACK", &[]),
    ("CREATE", &[]),
    ("ALTER", &[]),
    ("DROP", &[]),
];

fn is_statement(name: &str) -> bool {
    let mut words = name.split_whitespace();
    let (first, second) = (words.next(), words.next());
    STATEMENTS.iter().any(|(verb, next)| {
        first == Some(verb) && (next.is_empty() || second.is_some_and(|it| next.contains(&it)))
    })
}

fn add_statement(line: &mut Line) {
    let has = |keys: [&str; 2]| {
        let key = |it: &Drawn| keys.contains(&it.key.as_str());
        line.attributes.iter().any(key)
    };
    let system = !has(["db.system.name", "db.system"]);
    let text = !has(["db.query.text", "db.statement"]);
    let mut add = |key: &str, value: &str| {
        line.attributes.push(Drawn {
            key: key.to_owned(),
            value: DrawnValue::Text(value.to_owned()),
        });
    };
    if system {
        add("db.system.name", "postgresql");
    }
    if text {
        add("db.query.text", &line.name);
    }
}

/// Keys, or their beginnings, that only spans which call something else have.
const CLIENT_KEYS: &[&str] = &[
    "db.",
    "rpc.",
    "http.request.method",
    "http.method",
    "http.url",
    "url.full",
    "url.template",
    "server.address",
    "net.peer.name",
    "peer.service",
    "service.peer.name",
];

fn default_kind(service_begins: bool, attributes: &[Drawn]) -> SpanKind {
    let calls = |it: &Drawn| CLIENT_KEYS.iter().any(|key| it.key.starts_with(key));
    if service_begins {
        SpanKind::Server
    } else if attributes.iter().any(calls) {
        SpanKind::Client
    } else {
        SpanKind::Internal
    }
}

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("µs", 1_000),
    ("ms", NS_PER_MS),
    ("s", 1_000 * NS_PER_MS),
];

/// `1 column = 10 ms`, as what a column stands for, ns. `None` if the line is a span's.
fn read_scale(line: &str) -> Option<u64> {
    let (number, unit) = line.strip_prefix("1 column = ")?.split_once(' ')?;
    let unit_ns = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(unit_ns)
        .filter(|it| *it > 0)
}

/// A line, read but not yet linked.
struct RawLine {
    service: String,
    service_column: usize,
    name: String,
    name_column: usize,
    kind: Option<SpanKind>,
    attributes: Vec<Drawn>,
    /// Columns of the text.
    bar: Range<u64>,
}

impl RawLine {
    fn read(line: String) -> RawLine {
        let columns: Vec<char> = line.chars().collect();
        let bar = bar(&columns).unwrap_or_else(|| panic!("no bar at the end of: {line}"));
        let head = &columns[..bar.start as usize];
        let skip = |from: usize, white: bool| {
            let differs = |it: &char| it.is_whitespace() != white;
            let rest = head[from..].iter();
            from + rest.clone().position(differs).unwrap_or(rest.len())
        };
        let service_column = skip(0, true);
        let service_end = skip(service_column, false);
        let name_column = skip(service_end, true);
        let rest: String = head[name_column..].iter().collect();
        let (name, kind, attributes) = operation(&rest);
        assert!(!name.is_empty(), "no operation name in: {line}");
        RawLine {
            service: head[service_column..service_end].iter().collect(),
            service_column,
            name,
            name_column,
            kind,
            attributes,
            bar,
        }
    }
}

/// The columns of a bar at the line's end: `|`, `||` or `|---|` after white space.
fn bar(columns: &[char]) -> Option<Range<u64>> {
    let end = columns
        .len()
        .checked_sub(1)
        .filter(|at| columns[*at] == '|')?;
    let dashes = columns[..end].iter().rev().take_while(|it| **it == '-');
    let opening = end.checked_sub(dashes.count() + 1);
    let start = match opening {
        Some(at) if columns[at] == '|' => at,
        _ => end,
    };
    let apart = start == 0 || columns[start - 1].is_whitespace();
    apart.then_some(start as u64..end as u64)
}

const KINDS: &[(&str, SpanKind)] = &[
    ("[server]", SpanKind::Server),
    ("[client]", SpanKind::Client),
    ("[producer]", SpanKind::Producer),
    ("[consumer]", SpanKind::Consumer),
    ("[internal]", SpanKind::Internal),
    ("[unspecified]", SpanKind::Unspecified),
];

/// Splits `GET /users/{id} [client] {a=1} {b=2}` into name, kind and attributes.
fn operation(text: &str) -> (String, Option<SpanKind>, Vec<Drawn>) {
    let mut rest = text.trim();
    let mut kind = None;
    let mut attributes = Vec::new();
    loop {
        let marker = KINDS.iter().find(|(marker, _)| rest.ends_with(marker));
        if let Some((marker, found)) = marker {
            kind = Some(*found);
            rest = rest[..rest.len() - marker.len()].trim_end();
        } else if let Some((before, inside)) = last_group(rest) {
            attributes.splice(0..0, read_attributes(inside));
            rest = before.trim_end();
        } else {
            return (rest.to_owned(), kind, attributes);
        }
    }
}

/// A `{…}` at the end of `text` with white space before it, and what stands before that.
fn last_group(text: &str) -> Option<(&str, &str)> {
    let body = text.strip_suffix('}')?;
    let open = body.rfind(" {")?;
    Some((&body[..open], &body[open + 2..]))
}

fn read_attributes(text: &str) -> Vec<Drawn> {
    let mut drawn = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let key_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let key = rest[..key_end].trim();
        let after = rest[key_end..].trim_start();
        let (value, after) = match after.strip_prefix('=') {
            None => (DrawnValue::Flag, after),
            Some(after) => read_value(after.trim_start()),
        };
        assert!(!key.is_empty(), "an attribute without a key in {{{text}}}");
        drawn.push(Drawn {
            key: key.to_owned(),
            value,
        });
        rest = after.trim_start_matches([',', ' ']);
    }
    drawn
}

/// The value at the beginning of `text`, and what follows it.
fn read_value(text: &str) -> (DrawnValue, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = quoted
            .split_once('"')
            .unwrap_or_else(|| panic!("an open quote in {text}"));
        return (DrawnValue::Text(value.to_owned()), after);
    }
    let end = text.find(',').unwrap_or(text.len());
    let value = text[..end].trim();
    let typed = if let Ok(number) = value.parse() {
        DrawnValue::Int(number)
    } else if let Ok(flag) = value.parse() {
        DrawnValue::Bool(flag)
    } else if value.starts_with(|it: char| it.is_ascii_digit())
        && let Ok(number) = value.parse()
    {
        DrawnValue::Double(number)
    } else {
        DrawnValue::Text(value.to_owned())
    };
    (typed, &text[end..])
}

impl Drawn {
    fn text(&self) -> String {
        match &self.value {
            DrawnValue::Flag => String::new(),
            DrawnValue::Text(text) => text.clone(),
            DrawnValue::Bool(it) => it.to_string(),
            DrawnValue::Int(it) => it.to_string(),
            DrawnValue::Double(it) => it.to_string(),
        }
    }

    fn number(&self) -> u64 {
        match self.value {
            DrawnValue::Int(number) => number as u64,
            _ => panic!("{} must be a number", self.key),
        }
    }

    fn event(&self) -> (String, u64) {
        let text = self.text();
        let read = || {
            let (name, ms) = text.rsplit_once('@')?;
            Some((name.to_owned(), ms.parse().ok()?))
        };
        read().unwrap_or_else(|| panic!("events are drawn as event=name@12, not event={text}"))
    }
}

/// The lines that are not blank, without their common indentation and trailing white space.
fn dedent(text: &str) -> Vec<String> {
    let lines = || text.lines().map(str::trim_end).filter(|it| !it.is_empty());
    let indent = |line: &str| line.chars().take_while(|it| it.is_whitespace()).count();
    let common = lines().map(indent).min().unwrap_or(0);
    lines()
        .map(|line| line.chars().skip(common).collect())
        .collect()
}

fn trace_id(text: &str) -> TraceId {
    let high = hash(text.as_bytes(), 0);
    let low = hash(text.as_bytes(), 1);
    TraceId(((u128::from(high) << 64 | u128::from(low)) | 1).to_be_bytes())
}

fn content_hash(line: &Line) -> u64 {
    hash(format!("{line:?}").as_bytes(), 2)
}

/// FNV-1a: stable across releases of the compiler, unlike the standard library's hashes.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |acc, byte| {
            (acc ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Bars are at most so many columns wide: two of them and a name fit a wide terminal.
const WIDTH_MAX: u64 = 60;

/// Draws an analysed trace, as [`parse`] reads it. One column is 1 ms if the trace fits in 60 ms;
/// longer traces are scaled down to at most 60 columns, and the first line says so. Corrected times, tree order; `{orphan}` and
/// `{detached}` mark spans that are.
pub fn draw(analysis: &Analysis<'_>) -> String {
    draw_trace(&analysis.trace)
}

pub(crate) fn draw_trace(trace: &Trace<'_>) -> String {
    let count = trace.nodes.len() as SpanIdx;
    let service = |idx| {
        let span = trace.span(idx);
        let name = trace.spans.resource_text(span, &["service.name"]);
        name.unwrap_or("unknown_service").replace(' ', "_")
    };
    let service_width = (0..count).map(|idx| service(idx).chars().count()).max();
    let heads: Vec<String> = (0..count)
        .map(|idx| {
            let width = service_width.unwrap_or(0);
            let indent = 2 * trace.node(idx).depth as usize;
            format!(
                "{:width$}  {:indent$}{}",
                service(idx),
                "",
                label(trace, idx)
            )
        })
        .collect();
    let head_width = heads.iter().map(|it| it.chars().count()).max().unwrap_or(0);
    let scale = Scale::of(trace);
    let mut text = String::new();
    if scale.column_ns > NS_PER_MS {
        let _ = writeln!(text, "1 column = {} ms", scale.column_ns / NS_PER_MS);
    }
    for (idx, head) in heads.iter().enumerate() {
        let bar = scale.bar(trace, idx as SpanIdx);
        let _ = writeln!(text, "{head:head_width$}  {bar}");
    }
    text
}

fn label(trace: &Trace<'_>, idx: SpanIdx) -> String {
    let (span, node) = (trace.span(idx), trace.node(idx));
    let mut label = match span.name {
        "" => "(no name)".to_owned(),
        name => name.to_owned(),
    };
    if span.status == Status::Error {
        label.push_str(" {error}");
    }
    if node.orphan {
        label.push_str(" {orphan}");
    }
    if node.detached {
        label.push_str(" {detached}");
    }
    label
}

/// From time to columns.
struct Scale {
    start_ns: u64,
    /// A whole number of ms with one digit that is not zero: 1, 2, 5, 10, 20, 50, …
    column_ns: u64,
}

impl Scale {
    fn of(trace: &Trace<'_>) -> Scale {
        let Range {
            start: start_ns,
            end: end_ns,
        } = trace.time_ns();
        let fitting_ns = (end_ns - start_ns).div_ceil(WIDTH_MAX);
        let mut column_ns = NS_PER_MS;
        // 2, 2.5 and 2 times the last one, over and over.
        for factor in [(2, 1), (5, 2), (2, 1)].iter().cycle() {
            if column_ns >= fitting_ns {
                break;
            }
            column_ns = column_ns / factor.1 * factor.0;
        }
        Scale {
            start_ns,
            column_ns,
        }
    }

    fn bar(&self, trace: &Trace<'_>, idx: SpanIdx) -> String {
        let node = trace.node(idx);
        let column =
            |ns: u64| ((ns - self.start_ns + self.column_ns / 2) / self.column_ns) as usize;
        let (start, end) = (column(node.start_ns), column(node.end_ns));
        let mut bar = " ".repeat(start);
        bar.push('|');
        if end > start {
            bar.push_str(&"-".repeat(end - start - 1));
            bar.push('|');
        }
        bar
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(drawing: &str, expected: Expect) {
        let drawing = parse(drawing);
        let spans = drawing.spans();
        let mut text = String::new();
        for span in &spans.spans {
            let id = |it: SpanId| u64::from_be_bytes(it.0);
            let ms = |ns: u64| (ns - START_NS) / NS_PER_MS;
            let resource: Vec<_> = spans.resources[span.resource as usize]
                .attributes
                .iter()
                .map(|it| it.value)
                .collect();
            let attributes: Vec<_> = spans
                .attributes_at(&span.attributes)
                .iter()
                .map(|it| format!("{}={:?}", it.key, it.value))
                .collect();
            let _ = writeln!(
                text,
                "{} <- {:?} {:?} {:?} {:?} {}..{} {attributes:?} {resource:?}",
                id(span.id),
                span.parent_id.map(id),
                span.kind,
                span.status,
                span.name,
                ms(span.start_ns),
                ms(span.end_ns),
            );
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn services_in_a_column_of_their_own() {
        check(
            "
            shop      GET /cart                   |--------------------|
            shop        SELECT cart               |--|
            shop        GET /charge [client]         |-----------|
            payments      POST /charge                 |-------|
            shop        render                                   |
            ",
            expect![[r#"
                1 <- None Server Unset "GET /cart" 0..21 [] [Str("shop")]
                2 <- Some(1) Client Unset "SELECT cart" 0..3 ["db.system.name=Str(\"postgresql\")", "db.query.text=Str(\"SELECT cart\")"] [Str("shop")]
                3 <- Some(1) Client Unset "GET /charge" 3..15 [] [Str("shop")]
                4 <- Some(3) Server Unset "POST /charge" 5..13 [] [Str("payments")]
                5 <- Some(1) Internal Unset "render" 15..15 [] [Str("shop")]
            "#]],
        );
    }

    #[test]
    fn indented_services_and_every_kind_of_attribute() {
        check(
            r#"
            shop GET /users/{id} {http.route=/users/{id}} {error, res.host.name=a}  |------|
              shop DELETE /cart {http.method=DELETE, n=3, p=0.5, t="a, b=c", ok=true}   ||
              shop late {orphan}                                                         |-|
              shop again {span.id=2, parent.id=9}                                        |-|
            "#,
            expect![[r#"
                1 <- None Server Error "GET /users/{id}" 0..7 ["http.route=Str(\"/users/{id}\")"] [Str("shop"), Str("a")]
                2 <- Some(1) Client Unset "DELETE /cart" 4..5 ["http.method=Str(\"DELETE\")", "n=Int(3)", "p=Double(0.5)", "t=Str(\"a, b=c\")", "ok=Bool(true)"] [Str("shop"), Str("a")]
                3 <- Some(18446744073709551613) Internal Unset "late" 5..7 [] [Str("shop"), Str("a")]
                2 <- Some(9) Internal Unset "again" 5..7 [] [Str("shop"), Str("a")]
            "#]],
        );
    }

    #[test]
    fn a_first_line_sets_the_scale() {
        let ends = |text: &str| -> Vec<u64> {
            let drawing = parse(text);
            let spans = drawing.spans().spans;
            spans.iter().map(|it| it.end_ns - START_NS).collect()
        };
        let drawn = "
            1 column = 250 ms
            shop  GET /report     |------------|
            shop    SELECT sales    |--------|
            ";
        assert_eq!(ends(drawn), [3_250_000_000, 2_750_000_000]);
        let in_us = "1 column = 3 µs\n  shop  GET /  |-|";
        assert_eq!(ends(in_us), [6_000]);
    }

    #[test]
    #[should_panic(expected = "no bar at the end of: 1 column = 0 ms")]
    fn a_scale_is_above_zero() {
        parse("1 column = 0 ms\nshop GET / |-|");
    }

    #[test]
    fn what_is_drawn_can_be_read_again() {
        let drawn = "
            1 column = 20 ms
            shop  GET /report             |---------------------------------------|
            shop    SELECT sales            |--------|
            shop    late {detached}                                                 |--|
            ";
        let text = |drawing: &str| {
            let drawing = parse(drawing);
            draw_trace(&Trace::assemble(drawing.spans()))
        };
        let once = text(drawn);
        assert!(once.starts_with("1 column = 20 ms\nshop"), "{once}");
        assert_eq!(text(&once), once);
        // 1, 2, 5, 10, 20, 50: the next one that fits.
        for (ms, expected) in [(60, ""), (61, "2"), (121, "5"), (601, "20"), (1_201, "50")] {
            let drawn = text(&format!("1 column = {ms} ms\nshop GET / ||"));
            let scale = drawn.strip_prefix("1 column = ").unwrap_or(" ");
            assert_eq!(scale.split(' ').next(), Some(expected), "{ms}");
        }
    }

    #[test]
    #[should_panic(expected = "no bar")]
    fn a_line_without_a_bar_is_named() {
        parse("shop GET /cart");
    }

    #[test]
    fn the_same_text_is_the_same_trace() {
        let text = "shop GET /cart |--|";
        assert_eq!(parse(text).spans(), parse(text).spans());
        assert_ne!(parse(text).trace_id, parse("shop GET / |--|").trace_id);
    }
}
