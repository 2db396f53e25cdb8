//! One trace: the sentence, the bar, the findings, and the spans in one of six views.
//!
//! Every view, zoom, fold and selection is in the address; the page works without script.

use std::collections::HashMap;

use analyzer::category::Category;
use analyzer::finding::Severity;
use analyzer::trace::SpanIdx;
use analyzer::{Analysis, Entry};
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use collector::store::traces::{StoredTrace, TraceState};
use foldhash::fast::RandomState;

use super::{Frame, PageError, not_found, render};
use crate::AppState;
use crate::address::Address;
use crate::category_bar::{self, Parts};
use crate::format::{ago, at, duration, now_ns, when};
use crate::headline;
use crate::indexed::Indexed;
use crate::log_link::{LogLink, Wanted};
use crate::pages::standing;
use crate::span_details::{self, Details};
use crate::span_find;
use crate::span_paint::{self, Colour, Paint};
use crate::statement_key;
use crate::trace_flame;
use crate::trace_id;
use crate::unit::Unit;
use crate::waterfall::{self, Axis, Bar, Children, Piece, Row, RowKind, View};

/// Stretches of the critical path on one page, which stays below 300 KB with them; the analysis as JSON has all.
const PATH_ROWS_MAX: usize = 400;

/// Operations in the statistics; the rest is added up in one row.
const STATISTICS_ROWS_MAX: usize = 300;

/// Bytes of JSON shown on the page; longer traces are only there to download.
const JSON_SHOWN_MAX: usize = 300_000;

/// Warnings shown one by one; further ones are counted.
const WARNINGS_MAX: usize = 20;

/// `GET /traces/{id}`: the page, or with `?part=details` the selected span's panel alone.
///
/// # Errors
/// The database cannot be reached, or what is stored is damaged.
pub async fn page(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let Some(trace_id) = trace_id::parse(&id) else {
        return not_found::no_trace_id(id);
    };
    let address = Address::parse(query.as_deref());
    if id != trace_id.to_string() {
        // One trace, one address.
        let here = address.behind(&format!("/traces/{trace_id}"));
        return Ok(Redirect::permanent(&here).into_response());
    }
    if address.get("part") == Some("details") {
        let logs = state.logs.clone();
        let looked = state.traces.look(trace_id, move |it, _| {
            Ok(details(it, &address, logs.as_deref()))
        });
        let Some(looked) = looked.await? else {
            return not_found::no_trace(&state.store, trace_id).await;
        };
        let Some(mut part) = looked.answer? else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        part.details.standing = standing::told(&state.store, &part.details.asks).await?;
        return Ok(render(&part));
    }
    let logs = state.logs.clone();
    let looked = state.traces.look(trace_id, move |it, stored| {
        Ok(build(it, stored, &address, logs.as_deref()))
    });
    let Some(looked) = looked.await? else {
        return not_found::no_trace(&state.store, trace_id).await;
    };
    let mut page = match (looked.answer, looked.state) {
        (Ok(page), _) => page,
        // Its analysis has failed before: that it fails here too is no news.
        (Err(_), TraceState::Quarantined { reason }) => {
            let frame = Frame { current: "/traces" };
            return Ok(render(&QuarantinedPage {
                frame,
                id: trace_id.to_string(),
                reason,
            }));
        }
        (Err(error), _) => return Err(error.into()),
    };
    if page.state.is_none() {
        let beyond = state.store.spans_in_quarantine(trace_id).await?;
        page.state = (beyond > 0).then(|| beyond_the_bound(beyond));
    }
    let fingerprints: Vec<&str> = page
        .findings
        .iter()
        .map(|it| it.fingerprint.as_str())
        .collect();
    let ids = state.store.finding_ids(&fingerprints).await?;
    for finding in &mut page.findings {
        finding.href = ids
            .get(&finding.fingerprint)
            .map(|it| format!("/bottlenecks/{it}"));
    }
    if let Some(details) = &mut page.details {
        details.standing = standing::told(&state.store, &details.asks).await?;
    }
    Ok(render(&page))
}

/// `GET /t/{id}`, `GET /trace/{id}`: short ways to the page.
///
/// # Errors
/// The id is none.
pub async fn short(
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let Some(pointer) = trace_id::find(&id) else {
        return not_found::no_trace_id(id);
    };
    let address = Address::parse(query.as_deref());
    let here = match pointer.span_id.filter(|_| !address.has("span")) {
        Some(span) => {
            let query = address.with(&[("span", &span.to_string())]);
            format!("/traces/{}{query}", pointer.trace_id)
        }
        None => address.behind(&format!("/traces/{}", pointer.trace_id)),
    };
    Ok(Redirect::permanent(&here).into_response())
}

/// `GET /traces/{id}/flame.svg`: the flame graph as a picture of its own, in a sandbox: drawn by
/// another's code from names that anybody may have sent.
///
/// # Errors
/// As [`page`].
pub async fn flame_svg(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let Some(trace_id) = trace_id::parse(&id) else {
        return not_found::no_trace_id(id);
    };
    let drawn = state.traces.look(trace_id, |indexed, _| {
        let frames = trace_flame::frames(indexed);
        let address = Address::default();
        let title = Page::new(indexed, &address).title();
        Ok(trace_flame::svg(&frames, &title)?)
    });
    let Some(drawn) = drawn.await? else {
        return not_found::no_trace(&state.store, trace_id).await;
    };
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CONTENT_SECURITY_POLICY, FLAME_CSP),
    ];
    Ok((headers, drawn.answer?).into_response())
}

/// inferno's drawing has a style element of its own, and nothing else is allowed.
const FLAME_CSP: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// A trace's page, ready to be written: text as sent, times as text.
#[derive(askama::Template)]
#[template(path = "trace.html")]
pub struct TracePage {
    /// What the frame needs.
    pub frame: Frame,
    /// 32 hexadecimal digits.
    pub id: String,
    /// The endpoint, or what the trace is otherwise called.
    pub title: String,
    /// `took 762.8 ms, a quarter of it for logging`.
    pub sentence: String,
    /// The service of the main entry, if there is one.
    pub service: Option<String>,
    /// Its version, or empty.
    pub version: String,
    /// Start of the trace, ns since the epoch.
    pub start_ns: u64,
    /// When the page was asked for, ns since the epoch.
    pub now_ns: u64,
    /// Facts under the headline: `25 spans, 3 services`.
    pub facts: Vec<String>,
    /// Spans that report an error.
    pub errors: usize,
    /// What is to be known about its state: still arriving, quarantined.
    pub state: Option<String>,
    /// Where the main entry's time went.
    pub parts: Option<Parts>,
    /// Each entry's part of the trace, the main one first; empty if there is only one.
    pub entries: Vec<EntryView>,
    /// How many there are, listed or not.
    pub entry_count: usize,
    /// Its findings, the costliest first.
    pub findings: Vec<FindingView>,
    /// The chosen view.
    pub view: ViewKind,
    /// Links to all of them.
    pub tabs: Vec<Tab>,
    /// The rows, in the waterfall's view.
    pub waterfall: Option<WaterfallView>,
    /// The frames, in the flame graph's view.
    pub flame: Option<FlameView>,
    /// The stretches, in the critical path's view.
    pub path: Option<PathView>,
    /// The operations, in the statistics' view.
    pub statistics: Option<StatisticsView>,
    /// The JSON, in its view; `None` there if it is too long.
    pub json: Option<String>,
    /// The selected span.
    pub details: Option<DetailsView>,
    /// What was odd, and what could not be seen.
    pub notes: Vec<String>,
    /// What the form that looks for a text in the trace carries along.
    pub find_hidden: Vec<(String, String)>,
    /// What it looked for.
    pub found: Option<FoundView>,
    /// Only this part of the time is looked at: `12 to 40 ms`, and the way back.
    pub zoomed: Option<(String, String)>,
    /// Link that looks for spans that report an error.
    pub errors_href: String,
    /// Where the trace's logs are, if that is known.
    pub logs_href: Option<String>,
    /// The span the address names, if the trace does not have it.
    pub missing_span: Option<String>,
    /// What colours mean, and links to the other ways.
    pub colours: Vec<Tab>,
    /// What each colour means, if it is not the kind of time.
    pub colour_legend: Vec<(&'static str, String)>,
    /// The services, and whether only this one is shown; empty if there is only one.
    pub services: Vec<(String, bool)>,
    /// What the form that chooses a service carries along.
    pub only_hidden: Vec<(String, String)>,
}

/// The spans that hold a text.
pub struct FoundView {
    /// The text.
    pub text: String,
    /// Spans that hold it.
    pub count: usize,
    /// Their own time as a share of that of all: `12 %`.
    pub share: String,
    /// Which of them is selected, from 1 on.
    pub at: Option<usize>,
    /// The one before the selected span, round and round.
    pub previous_href: String,
    /// The one after it.
    pub next_href: String,
    /// Looks for nothing.
    pub clear_href: String,
}

/// Which view of the spans is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewKind {
    /// Rows along a time axis.
    Waterfall,
    /// Work by call path.
    Flame,
    /// The flame graph above the waterfall.
    Both,
    /// What the request waited for, in order of time.
    Path,
    /// By operation.
    Statistics,
    /// As stored.
    Json,
}

/// A link to a view.
pub struct Tab {
    /// For people.
    pub name: &'static str,
    /// Where.
    pub href: String,
    /// It is the one that is shown.
    pub current: bool,
}

/// One service's part of the trace.
pub struct EntryView {
    /// The endpoint.
    pub name: String,
    /// The service.
    pub service: String,
    /// Link to its span.
    pub href: String,
    /// Link to its critical path.
    pub path_href: String,
    /// Where its time went.
    pub parts: Parts,
    /// The work done in it, where that is more than its duration because things ran at the same
    /// time: `2.4 s`.
    pub work: Option<String>,
    /// Share of the longest, percent.
    pub width: f64,
    /// It failed.
    pub error: bool,
}

/// A finding in this trace.
pub struct FindingView {
    /// In one sentence.
    pub title: String,
    /// What a fix takes off this request, ns.
    pub saved_ns: u64,
    /// The same in words.
    pub saved: String,
    /// What happens here and why it is slow.
    pub explanation: String,
    /// How often the same is found elsewhere in the trace, where a fix saves as much or less.
    pub others: usize,
    /// Its detector's id, which is also its icon's.
    pub detector: &'static str,
    /// Its severity's id: `critical`.
    pub severity: &'static str,
    /// Link to the first offender.
    pub span_href: String,
    /// What names it in every trace.
    pub fingerprint: String,
    /// Its page, once the review has taken it up.
    pub href: Option<String>,
}

/// The waterfall, ready to be written.
pub struct WaterfallView {
    /// What the figures are in.
    pub unit: Unit,
    /// The ticks' labels.
    pub ticks: Vec<String>,
    /// The rows.
    pub rows: Vec<RowView>,
    /// The main entry's end, percent of the drawing.
    pub response_x: Option<f64>,
    /// Spans without a row.
    pub left_out: usize,
    /// The way back, if only a subtree is shown.
    pub whole_href: Option<String>,
    /// Rows were left out at the top, because the address says so.
    pub skipped: usize,
    /// Rows outside the part of the time that is looked at are left out.
    pub windowed: bool,
    /// The trace, small: bars of the upper levels, and what is looked at.
    pub overview: OverviewView,
    /// Where the drawings stand so that what is looked at fills their width, percent: left edge, width.
    pub zoom: (f64, f64),
    /// What the script needs to draw the axis anew: left edge and length of the axis and of what is looked at,
    /// ns after the trace's start.
    pub axis_ns: [i64; 4],
    /// How the critical path is shown, and links to the other ways.
    pub critical: Vec<Tab>,
    /// Says the same to the style.
    pub critical_class: &'static str,
    /// Links that show fewer or more levels: the keys that follow them, their names and addresses.
    pub levels: Vec<(&'static str, &'static str, String)>,
    /// Waiting is hatched.
    pub paint_hatches: bool,
}

/// The trace, small.
pub struct OverviewView {
    /// Bars by level, with their categories; percent of the width.
    pub lanes: Vec<(u32, Vec<(Category, Bar)>)>,
    /// What is not looked at: to the left and to the right, percent.
    pub shades: Vec<Bar>,
    /// Links that zoom into a part each: where, and which part in words.
    pub parts: Vec<(String, String)>,
}

/// One line of the waterfall.
pub struct RowView {
    /// The row.
    pub row: Row,
    /// Its span as it is named in addresses.
    pub key: String,
    /// Duration in the page's unit.
    pub figure: String,
    /// Start to end; empty for a comb, whose calls stand apart.
    pub whole: Option<Bar>,
    /// Solid.
    pub own: Vec<Bar>,
    /// Underlined.
    pub critical: Vec<Bar>,
    /// Instants of events, percent of the drawing, and their names.
    pub marks: Vec<(f64, String)>,
    /// The end, percent of the drawing: where an error is crossed.
    pub end_x: f64,
    /// Link that shows its details.
    pub href: String,
    /// Link that shows or hides its children.
    pub toggle: Option<Toggle>,
    /// For the title: what the row is, in full.
    pub hint: String,
    /// The style that colours it.
    pub class: &'static str,
    /// Spans in it that hold the text looked for.
    pub hits: usize,
    /// A part of the critical path is in it.
    pub on_path: bool,
}

/// The way to show or hide a row's children.
pub struct Toggle {
    /// Where.
    pub href: String,
    /// They are shown now.
    pub open: bool,
    /// Spans that are only to be seen on a page of their own.
    pub apart: Option<u32>,
}

/// The flame graph, ready to be written.
pub struct FlameView {
    /// Pixels.
    pub height: u32,
    /// The frames.
    pub frames: Vec<FrameView>,
    /// The zoomed frame in words, and the way back.
    pub zoomed: Option<(String, String)>,
    /// Frames too narrow to be drawn.
    pub hidden: usize,
}

/// A frame of the flame graph.
pub struct FrameView {
    /// Percent of the drawing.
    pub x: f64,
    /// Percent of the drawing.
    pub width: f64,
    /// Pixels from the top.
    pub y: u32,
    /// The kind of its own time.
    pub category: Category,
    /// The style that colours it.
    pub class: &'static str,
    /// What fits into it, cut to length; empty if nothing does.
    pub label: String,
    /// All about it, in words.
    pub hint: String,
    /// Zooms into it, or shows its span if it is zoomed into.
    pub href: String,
    /// The selected span is in it.
    pub selected: bool,
    /// A span in it holds the text looked for.
    pub hit: bool,
}

/// The critical path, ready to be written.
pub struct PathView {
    /// Whose path it is and the way back, if not the main entry's.
    pub of: Option<(String, String)>,
    /// What the figures are in.
    pub unit: Unit,
    /// The stretches, in order of time.
    pub rows: Vec<PathRow>,
    /// Stretches that are not shown.
    pub left: usize,
}

/// A stretch of the critical path.
pub struct PathRow {
    /// Where it begins, after the request's start.
    pub at: String,
    /// How long it is.
    pub figure: String,
    /// What kind of time it is.
    pub category: Category,
    /// The operation.
    pub name: String,
    /// Whose it is.
    pub service: String,
    /// Link to its span.
    pub href: String,
    /// Its place in the request.
    pub bar: Bar,
}

/// Time by operation, ready to be written.
pub struct StatisticsView {
    /// What the figures are in.
    pub unit: Unit,
    /// Links that sort by a column.
    pub columns: Vec<SortColumn>,
    /// The operations.
    pub rows: Vec<StatisticsRow>,
    /// All of them together.
    pub together: StatisticsRow,
}

/// A column that sorts.
pub struct SortColumn {
    /// Its head.
    pub title: String,
    /// Sorts by it.
    pub href: String,
    /// The rows are sorted by it.
    pub current: bool,
    /// Its figures stand to the right.
    pub is_number: bool,
}

/// An operation's time.
pub struct StatisticsRow {
    /// The kind of its own time; none in a row that adds up others.
    pub category: Option<Category>,
    /// The operation.
    pub name: String,
    /// Whose it is.
    pub service: String,
    /// Spans.
    pub calls: usize,
    /// Durations added up; empty if that says nothing.
    pub total: String,
    /// Own times added up.
    pub own: String,
    /// On the critical path.
    pub critical: String,
    /// Share of the critical path.
    pub share: String,
}

/// A span's panel.
pub struct DetailsView {
    /// All about it.
    pub of: Details,
    /// `180.4 ms`.
    pub duration: String,
    /// Own time.
    pub own: String,
    /// After the start of the trace.
    pub offset: String,
    /// On the main entry's critical path.
    pub critical: String,
    /// Link to the parent's details, if it is here.
    pub parent_href: Option<String>,
    /// The same operation before and after this one: links.
    pub previous_href: Option<String>,
    /// See `previous_href`.
    pub next_href: Option<String>,
    /// `call 3 of 31`, if there are several alike.
    pub among: Option<String>,
    /// Shows what is hidden, or hides it again.
    pub raw_href: String,
    /// Shows this span's subtree only.
    pub root_href: Option<String>,
    /// Everything is shown as sent.
    pub raw: bool,
    /// Findings it is an offender of: titles.
    pub findings: Vec<String>,
    /// The statements of its endpoint, if it has one.
    pub statements_href: Option<String>,
    /// The page of its statement.
    pub statement_href: Option<String>,
    /// What the store is asked to compare its duration with.
    pub asks: Option<standing::Question>,
    /// The answer: `Slower than 97 % of …`.
    pub standing: Option<String>,
    /// Its logs, if it is known where they are.
    pub logs_href: Option<String>,
    /// Traces that have a span of this name, the slowest first.
    pub similar_href: String,
}

/// Lays out a trace.
fn build(
    indexed: &Indexed<'_, '_>,
    stored: &StoredTrace,
    address: &Address,
    logs: Option<&LogLink>,
) -> TracePage {
    let mut page = Page::new(indexed, address);
    page.logs = logs;
    page.build(stored)
}

/// The selected span's panel alone; `None` if the address names no span.
fn details(
    indexed: &Indexed<'_, '_>,
    address: &Address,
    logs: Option<&LogLink>,
) -> Option<DetailsPart> {
    let mut page = Page::new(indexed, address);
    page.logs = logs;
    let details = page.details(page.selected?);
    Some(DetailsPart { details })
}

/// A trace whose analysis fails: what there is to say, and the way to its spans.
#[derive(askama::Template)]
#[template(path = "trace/quarantined.html")]
struct QuarantinedPage {
    frame: Frame,
    id: String,
    reason: String,
}

/// What the script puts in place of the panel.
#[derive(askama::Template)]
#[template(path = "trace/details_part.html")]
struct DetailsPart {
    details: DetailsView,
}

/// Everything the parts of the page share.
struct Page<'s, 'a> {
    indexed: &'s Indexed<'s, 'a>,
    analysis: &'s Analysis<'a>,
    address: &'s Address,
    selected: Option<SpanIdx>,
    view: ViewKind,
    /// What of the time is looked at, ns since the epoch.
    window: Option<Piece>,
    /// Spans that hold the text looked for, in order.
    found: Vec<SpanIdx>,
    paint: Paint<'s>,
    /// Where logs are.
    logs: Option<&'s LogLink>,
}

impl<'s, 'a> Page<'s, 'a> {
    fn new(indexed: &'s Indexed<'s, 'a>, address: &'s Address) -> Self {
        let (analysis, keys) = (indexed.analysis, &indexed.keys);
        let view = ViewKind::parse(address.get("view"));
        let asked = address.get("span").and_then(|it| keys.find(it));
        let found = address.get("find").map(|it| span_find::find(indexed, it));
        let found = found.unwrap_or_default();
        // Where nobody asked, the costliest culprit is what should be looked at first.
        let culprit = || {
            analysis
                .findings
                .first()
                .and_then(|it| it.offenders.first().copied())
        };
        let main = || indexed.main().map(|it| it.span);
        let first = || (!analysis.trace.nodes.is_empty()).then_some(0);
        let selected = match view {
            ViewKind::Waterfall | ViewKind::Both => {
                let looked_for = found.first().copied();
                asked
                    .or(looked_for)
                    .or_else(culprit)
                    .or_else(main)
                    .or_else(first)
            }
            _ => asked,
        };
        let root = address.get("root").and_then(|it| keys.find(it));
        let axis = Axis::around(indexed, root);
        Page {
            indexed,
            analysis,
            address,
            selected,
            view,
            window: window(address, indexed.start_ns, &axis),
            found,
            paint: Paint::of(indexed, address),
            logs: None,
        }
    }

    fn build(&self, stored: &StoredTrace) -> TracePage {
        let main = self.indexed.main();
        let spans = &self.analysis.trace.spans.spans;
        let shows = |view: ViewKind| {
            let both = matches!(view, ViewKind::Waterfall | ViewKind::Flame);
            self.view == view || (both && self.view == ViewKind::Both)
        };
        TracePage {
            frame: Frame { current: "/traces" },
            id: spans
                .first()
                .map(|it| it.trace_id.to_string())
                .unwrap_or_default(),
            title: self.title(),
            sentence: self.sentence(),
            service: main.map(|it| it.service.name.to_owned()),
            version: main.map(|it| it.version.to_owned()).unwrap_or_default(),
            start_ns: main.map_or(self.indexed.start_ns, |it| it.start_ns),
            now_ns: now_ns(),
            facts: self.facts(),
            errors: self.indexed.errors,
            state: state(&stored.state),
            parts: main.map(|it| category_bar::parts(&it.categories)),
            entries: self.entries(),
            entry_count: self.analysis.entries.len(),
            findings: self.findings(),
            view: self.view,
            tabs: self.tabs(),
            waterfall: shows(ViewKind::Waterfall).then(|| self.waterfall()),
            flame: shows(ViewKind::Flame).then(|| self.flame()),
            path: if shows(ViewKind::Path) {
                self.path()
            } else {
                None
            },
            statistics: shows(ViewKind::Statistics).then(|| self.statistics()),
            json: if shows(ViewKind::Json) {
                json(stored)
            } else {
                None
            },
            details: self.selected.map(|it| self.details(it)),
            notes: self.notes(),
            find_hidden: self.address.without(&["find", "span", "part"]),
            found: self.address.get("find").map(|it| self.found(it)),
            zoomed: self.window.map(|it| {
                let offset = |ns: u64| duration(ns.saturating_sub(self.indexed.start_ns));
                let words = format!("{} to {}", offset(it.start_ns), offset(it.end_ns));
                (words, self.address.with(&[("from", ""), ("to", "")]))
            }),
            errors_href: self.address.with(&[("find", "error=true"), ("span", "")]),
            logs_href: self.logs_href(None),
            missing_span: self
                .address
                .get("span")
                .filter(|it| self.indexed.keys.find(it).is_none())
                .map(str::to_owned),
            colours: self.colours(),
            colour_legend: self.paint.legend(),
            services: self.services(),
            only_hidden: self.address.without(&["only", "part", "skip", "calls"]),
        }
    }

    /// Links to what colours may mean; none where nothing is coloured by them.
    fn colours(&self) -> Vec<Tab> {
        let has_bars = matches!(
            self.view,
            ViewKind::Waterfall | ViewKind::Flame | ViewKind::Both
        );
        let current = Colour::parse(self.address);
        let link = |it: Colour| Tab {
            name: it.name(),
            href: self.address.with(&[("colour", it.id())]),
            current: it == current,
        };
        match has_bars {
            true => Colour::ALL.map(link).into(),
            false => Vec::new(),
        }
    }

    fn services(&self) -> Vec<(String, bool)> {
        let services = self.indexed.services();
        let only = self.address.get("only");
        if services.len() < 2 || !matches!(self.view, ViewKind::Waterfall | ViewKind::Both) {
            return Vec::new();
        }
        let choice = |it: &str| (it.to_owned(), only == Some(it));
        let shown = services.iter().take(SERVICES_MAX);
        shown.map(|it| choice(it)).collect()
    }

    /// Where the logs of a span are, or of all of the trace.
    fn logs_href(&self, span: Option<SpanIdx>) -> Option<String> {
        let logs = self.logs?;
        let trace = &self.analysis.trace;
        let trace_id = trace.spans.spans.first()?.trace_id.to_string();
        let main = || self.indexed.main().map(|it| it.span);
        let about = span.or_else(main).unwrap_or(0);
        let ends = trace.nodes.iter().map(|it| it.end_ns);
        Some(logs.to(&Wanted {
            trace_id: &trace_id,
            span_id: &span.map_or_else(String::new, |it| trace.span(it).id.to_string()),
            service: self.indexed.names.service(about),
            start_ns: span.map_or(self.indexed.start_ns, |it| trace.node(it).start_ns),
            end_ns: match span {
                Some(span) => trace.node(span).end_ns,
                None => ends.max().unwrap_or(0),
            },
        }))
    }

    fn found(&self, text: &str) -> FoundView {
        let found = &self.found;
        let selected = self.selected.unwrap_or(0);
        let next = found.iter().find(|it| **it > selected).or(found.first());
        let previous = found.iter().rfind(|it| **it < selected).or(found.last());
        let href = |span: Option<&SpanIdx>| {
            span.map(|it| {
                let key = self.indexed.keys.key(self.analysis, *it);
                self.address.with(&[("span", &key), ("raw", "")])
            })
        };
        let all_ns: u64 = self.indexed.own_ns.iter().sum();
        let own_ns = found.iter().map(|it| self.indexed.own_ns[*it as usize]);
        let found_ns: u64 = own_ns.sum();
        FoundView {
            text: text.to_owned(),
            count: found.len(),
            share: format!("{:.1} %", found_ns as f64 * 100.0 / all_ns.max(1) as f64),
            at: self
                .selected
                .and_then(|it| found.binary_search(&it).ok())
                .map(|it| it + 1),
            previous_href: href(previous).unwrap_or_default(),
            next_href: href(next).unwrap_or_default(),
            clear_href: self.address.with(&[("find", "")]),
        }
    }

    fn title(&self) -> String {
        match (self.indexed.main(), self.analysis.trace.roots.first()) {
            (Some(entry), _) => entry.endpoint.clone(),
            (None, Some(root)) => self.indexed.names.name(*root).to_owned(),
            (None, None) => "An empty trace".to_owned(),
        }
    }

    fn sentence(&self) -> String {
        let Some(entry) = self.indexed.main() else {
            return "is a fragment: the span where its request begins has not arrived".to_owned();
        };
        let took = duration(entry.duration_ns);
        let verb = if entry.error { "failed after" } else { "took" };
        match headline::clause(self.analysis, entry) {
            Some(clause) => format!("{verb} {took}, {clause}"),
            None => format!("{verb} {took}"),
        }
    }

    fn facts(&self) -> Vec<String> {
        let services = self.indexed.services().len();
        let mut facts = vec![format!(
            "{}, {}",
            count(self.indexed.spans() as usize, "span"),
            count(services, "service")
        )];
        if let Some(entry) = self.indexed.main().filter(|it| it.weight > 1) {
            facts.push(format!("sampled: stands for {} requests", entry.weight));
        }
        if let Some(entry) = self.indexed.main() {
            let environment = entry.service.environment;
            facts.extend((!environment.is_empty()).then(|| environment.to_owned()));
        }
        facts
    }

    fn entries(&self) -> Vec<EntryView> {
        let main = self.indexed.main().map(|it| it.span);
        let mut entries: Vec<_> = self.analysis.entries.iter().collect();
        if entries.len() < 2 {
            return Vec::new();
        }
        let longest_ns = entries
            .iter()
            .map(|it| it.duration_ns)
            .max()
            .unwrap_or(0)
            .max(1);
        entries.sort_by_key(|it| (Some(it.span) != main, std::cmp::Reverse(it.duration_ns)));
        entries
            .into_iter()
            .take(ENTRIES_MAX)
            .map(|it| EntryView {
                name: it.endpoint.clone(),
                service: it.service.name.to_owned(),
                href: self.span_href(it.span),
                path_href: self.path_href(it.span),
                parts: category_bar::parts(&it.categories),
                work: work(it),
                width: it.duration_ns as f64 * 100.0 / longest_ns as f64,
                error: it.error,
            })
            .collect()
    }

    fn findings(&self) -> Vec<FindingView> {
        // A long trace has thousands of requests that do the same: one finding speaks for all of them.
        let mut times: HashMap<&str, usize, RandomState> = HashMap::default();
        let mut first = Vec::new();
        for finding in &self.analysis.findings {
            let times = times.entry(&finding.fingerprint).or_default();
            if *times == 0 {
                first.push(finding);
            }
            *times += 1;
        }
        let findings = first.into_iter().take(FINDINGS_MAX);
        findings
            .map(|it| FindingView {
                others: times[it.fingerprint.as_str()] - 1,
                title: it.title.clone(),
                saved_ns: it.saved_ns,
                saved: duration(it.saved_ns),
                explanation: it.explanation.clone(),
                detector: it.detector,
                severity: match it.severity {
                    Severity::Critical => "critical",
                    Severity::Warning => "warning",
                    Severity::Info => "info",
                },
                span_href: it
                    .offenders
                    .first()
                    .map(|it| self.span_href(*it))
                    .unwrap_or_default(),
                href: None,
                fingerprint: it.fingerprint.clone(),
            })
            .collect()
    }

    fn tabs(&self) -> Vec<Tab> {
        ViewKind::ALL
            .into_iter()
            .map(|it| Tab {
                name: it.name(),
                href: self.address.with(&[("view", it.id())]),
                current: it == self.view,
            })
            .collect()
    }

    fn waterfall(&self) -> WaterfallView {
        let found = |list: &str| {
            self.address
                .list(list)
                .filter_map(|it| self.indexed.keys.find(it))
                .collect()
        };
        let view = View {
            root: self
                .address
                .get("root")
                .and_then(|it| self.indexed.keys.find(it)),
            selected: self.selected,
            open: found("open"),
            open_all: self.opens_all(),
            fold: found("fold"),
            levels: self.levels(),
            only: self.address.get("only").map(str::to_owned),
            skip: self
                .address
                .get("skip")
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            calls: self
                .address
                .get("calls")
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            window: self.window,
        };
        let waterfall = waterfall::waterfall(self.indexed, &view);
        let axis = waterfall.axis;
        let unit = Unit::fitting(axis.length_ns);
        let in_sight = |it: &u64| (axis.start_ns..=axis.start_ns + axis.length_ns).contains(it);
        let (from, to) = match self.window {
            Some(window) => (axis.x(window.start_ns), axis.x(window.end_ns)),
            None => (0.0, 100.0),
        };
        let width = (to - from).max(ZOOM_WIDTH_MIN);
        let critical = Critical::parse(self.address);
        let offset = |ns: u64| ns as i64 - self.indexed.start_ns as i64;
        let seen = self.window.unwrap_or(Piece {
            start_ns: axis.start_ns,
            end_ns: axis.start_ns + axis.length_ns,
        });
        let deepest = waterfall.rows.iter().map(|it| it.level).max().unwrap_or(1);
        let rows = waterfall.rows.into_iter();
        let mut rows: Vec<RowView> = rows.map(|it| self.row(it, &axis, &unit)).collect();
        thin_out(&mut rows, width / 100.0);
        WaterfallView {
            levels: self.level_links(deepest),
            paint_hatches: self.paint.hatches(),
            unit,
            ticks: match self.window {
                Some(window) => self.window_ticks(window, &axis, &unit),
                None => ticks(&axis, &unit),
            },
            overview: self.overview(&axis, &unit, view.root, (from, to)),
            zoom: (-from / width * 100.0, 100.0 / width * 100.0),
            axis_ns: [
                offset(axis.start_ns),
                axis.length_ns as i64,
                offset(seen.start_ns),
                offset(seen.end_ns),
            ],
            critical: critical.links(self.address),
            critical_class: critical.class(),
            windowed: waterfall.windowed,
            rows,
            response_x: waterfall.response_ns.filter(in_sight).map(|it| axis.x(it)),
            left_out: waterfall.left_out,
            whole_href: (view.root.is_some() || view.skip > 0 || view.calls > 0).then(|| {
                self.address
                    .with(&[("root", ""), ("skip", ""), ("calls", "")])
            }),
            skipped: view.skip + view.calls,
        }
    }

    fn levels(&self) -> Option<u32> {
        let levels = self.address.get("levels")?.parse().ok()?;
        (levels > 0).then_some(levels)
    }

    fn opens_all(&self) -> bool {
        self.address.list("open").any(|it| it == OPEN_ALL)
    }

    /// Links that show fewer or more levels: their keys, names and addresses.
    fn level_links(&self, deepest: u32) -> Vec<(&'static str, &'static str, String)> {
        let levels = self.levels().unwrap_or(deepest);
        let at = |levels: u32| {
            let levels = levels.to_string();
            let changes = [("levels", levels.as_str()), ("fold", ""), ("open", "")];
            self.address.with(&changes)
        };
        let all = [("levels", ""), ("fold", ""), ("open", OPEN_ALL)];
        let mut links = vec![
            ("]", "none", at(1)),
            ("p", "fewer", at(levels.saturating_sub(1).max(1))),
        ];
        if self.levels().is_some() {
            // Where all are shown there are no more.
            links.push(("o", "more", at(levels + 1)));
        }
        links.push(("[", "all", self.address.with(&all)));
        links
    }

    /// The labels of a part of the axis: as many as of the whole, with as many digits as tell them apart.
    fn window_ticks(&self, window: Piece, axis: &Axis, unit: &Unit) -> Vec<String> {
        let ticks = axis.ticks();
        let step = (window.end_ns - window.start_ns) as f64 / ticks as f64 / unit.ns as f64;
        let digits = (1.0 - step.log10()).ceil().clamp(0.0, 9.0) as usize;
        let first = window.start_ns as f64 - axis.start_ns as f64;
        let label = |at: u64| {
            let figure = first / unit.ns as f64 + step * at as f64;
            let name = if at + 1 == ticks { unit.name } else { "" };
            format!("{figure:.digits$} {name}").trim_end().to_owned()
        };
        (0..ticks).map(label).collect()
    }

    fn overview(
        &self,
        axis: &Axis,
        unit: &Unit,
        root: Option<SpanIdx>,
        (from, to): (f64, f64),
    ) -> OverviewView {
        let offset =
            |at: u64| (axis.start_ns + at * axis.tick_ns).saturating_sub(self.indexed.start_ns);
        let part = |at: u64| {
            let (from, to) = (offset(at), offset(at + 1));
            let (first, last) = (from.to_string(), to.to_string());
            let changes = [("from", first.as_str()), ("to", last.as_str())];
            let figure = |ticks: u64| (ticks * axis.tick_ns) as f64 / unit.ns as f64;
            let words = format!("{} to {} {}", figure(at), figure(at + 1), unit.name);
            (self.address.with(&changes), words)
        };
        let left = Bar {
            x: 0.0,
            width: from,
        };
        let right = Bar {
            x: to,
            width: 100.0 - to,
        };
        OverviewView {
            lanes: (0..)
                .zip(match root {
                    Some(_) => waterfall::overview(self.analysis, axis, root),
                    None => self.indexed.overview().clone(),
                })
                .map(|(lane, bars)| (lane * LANE_PX, bars))
                .collect(),
            shades: [left, right]
                .into_iter()
                .filter(|it| it.width > 0.0)
                .collect(),
            parts: (0..axis.ticks()).map(part).collect(),
        }
    }

    /// Spans that hold the text looked for, of those that a row stands for.
    fn hits(&self, row: &Row) -> usize {
        let within = |from: SpanIdx, to: SpanIdx| {
            self.found.partition_point(|it| *it < to) - self.found.partition_point(|it| *it < from)
        };
        let whole = |it: &SpanIdx| within(*it, self.analysis.trace.node(*it).subtree_end);
        match (row.children, row.members.as_slice()) {
            (Children::Shown, []) => within(row.span, row.span + 1),
            (Children::Shown, _) => 0,
            (_, []) => whole(&row.span),
            (_, members) => members.iter().map(whole).sum(),
        }
    }

    fn row(&self, row: Row, axis: &Axis, unit: &Unit) -> RowView {
        let whole = Piece {
            start_ns: row.start_ns,
            end_ns: row.end_ns,
        };
        RowView {
            key: self.indexed.keys.key(self.analysis, row.span),
            figure: unit.figure(row.duration_ns),
            whole: (row.kind == RowKind::Span || row.detached).then(|| axis.bar(whole)),
            own: if row.kind == RowKind::Comb {
                axis.teeth(&row.own)
            } else {
                axis.bars(&row.own)
            },
            critical: axis.bars(&row.critical),
            marks: row
                .marks
                .iter()
                .map(|(at, name)| (axis.x(*at), name.clone()))
                .collect(),
            end_x: axis.x(row.end_ns),
            href: self.row_href(&row),
            toggle: self.toggle(&row),
            hint: self.hint(&row),
            class: self.class(&row),
            hits: if self.found.is_empty() {
                0
            } else {
                self.hits(&row)
            },
            on_path: !row.critical.is_empty(),
            row,
        }
    }

    fn class(&self, row: &Row) -> &'static str {
        let own_ns = |it: SpanIdx| self.indexed.own_ns[it as usize];
        let own_ns = match row.members.as_slice() {
            [] => own_ns(row.span),
            members => members.iter().map(|it| own_ns(*it)).sum(),
        };
        let service = self.indexed.names.service(row.span);
        self.paint
            .class(row.category, service, own_ns, row.error.is_some())
    }

    fn row_href(&self, row: &Row) -> String {
        match row.kind {
            RowKind::More {
                skip, calls: true, ..
            } => self.address.with(&[("calls", &skip.to_string())]),
            RowKind::More { parent, skip, .. } => {
                let root = parent
                    .map(|it| self.indexed.keys.key(self.analysis, it))
                    .unwrap_or_default();
                self.address
                    .with(&[("root", &root), ("skip", &skip.to_string())])
            }
            _ => self.span_href(row.span),
        }
    }

    fn toggle(&self, row: &Row) -> Option<Toggle> {
        let key = self.indexed.keys.key(self.analysis, row.span);
        let list = match row.kind {
            RowKind::Comb if !self.opens_all() => "open",
            RowKind::Span if row.below_levels => "open",
            _ => "fold",
        };
        let open = row.children == Children::Shown;
        match row.children {
            Children::None => None,
            Children::TooMany(spans) => {
                let href = self
                    .address
                    .with(&[("root", &key), ("skip", ""), ("open", &key)]);
                Some(Toggle {
                    href,
                    open,
                    apart: Some(spans),
                })
            }
            Children::Shown | Children::Hidden => Some(Toggle {
                href: self.address.toggled(list, &key),
                open,
                apart: None,
            }),
        }
    }

    fn hint(&self, row: &Row) -> String {
        let sent = self.analysis.trace.span(row.span).name;
        let took = duration(row.duration_ns);
        match row.kind {
            RowKind::Span => format!("{sent}: {took}"),
            RowKind::Comb => format!("{} × {sent}: {took} together", row.members.len()),
            RowKind::More { .. } => format!("{} more: {took} together", row.members.len()),
        }
    }

    fn span_href(&self, span: SpanIdx) -> String {
        let key = self.indexed.keys.key(self.analysis, span);
        let view = match self.view {
            ViewKind::Both => ViewKind::Both.id(),
            _ => "",
        };
        self.address
            .with(&[("span", &key), ("raw", ""), ("view", view)])
    }

    /// The critical path of the entry span `span`.
    fn path_href(&self, span: SpanIdx) -> String {
        let key = self.indexed.keys.key(self.analysis, span);
        let path = [("view", ViewKind::Path.id()), ("entry", &key)];
        self.address.with(&path)
    }

    /// The entry whose critical path is shown: the one in the address, or the main one.
    fn path_entry(&self) -> Option<&'s Entry<'a>> {
        let asked = self
            .address
            .get("entry")
            .and_then(|it| self.indexed.keys.find(it));
        let mut entries = self.analysis.entries.iter();
        let found = entries.find(|it| Some(it.span) == asked);
        found.or_else(|| self.indexed.main())
    }

    fn flame(&self) -> FlameView {
        let graph = trace_flame::graph(self.indexed, self.window);
        let frames = graph.frames;
        let selected = self.selected.map(|it| graph.of_span[it as usize]);
        let mut hits: Vec<usize> = self
            .found
            .iter()
            .map(|it| graph.of_span[*it as usize])
            .collect();
        hits.sort_unstable();
        hits.dedup();
        let mut failed = vec![false; frames.len()];
        for span in (0..self.indexed.spans()).filter(|it| span_paint::failed(self.indexed, *it)) {
            failed[graph.of_span[span as usize]] = true;
        }
        let zoom = self.address.get("frame").and_then(|it| it.parse().ok());
        let zoom = zoom.filter(|it| *it < frames.len());
        let mut placed = trace_flame::place(&frames, zoom);
        if self.view == ViewKind::Both {
            placed.retain(|it| it.width >= BESIDE_WIDTH_MIN);
        }
        let shown = |it: &trace_flame::Placed| FrameView {
            x: it.x,
            width: it.width,
            y: it.level * FRAME_PX,
            category: frames[it.frame].category,
            class: self.frame_class(&frames[it.frame], failed[it.frame]),
            label: label(&frames[it.frame], it.width),
            hint: hint(&frames[it.frame]),
            href: match zoom {
                Some(zoomed) if zoomed == it.frame => self.span_href(frames[zoomed].span),
                // What is chosen here is chosen in the waterfall, too.
                _ => self.address.with(&[
                    ("frame", &it.frame.to_string()),
                    ("view", self.view.id()),
                    (
                        "span",
                        &self.indexed.keys.key(self.analysis, frames[it.frame].span),
                    ),
                    ("raw", ""),
                ]),
            },
            selected: selected == Some(it.frame),
            hit: hits.binary_search(&it.frame).is_ok(),
        };
        FlameView {
            height: (placed.iter().map(|it| it.level).max().unwrap_or(0) + 1) * FRAME_PX,
            hidden: if zoom.is_some() {
                0
            } else {
                frames.len() - placed.len()
            },
            frames: placed.iter().map(shown).collect(),
            zoomed: zoom.map(|it| (hint(&frames[it]), self.address.with(&[("frame", "")]))),
        }
    }

    fn frame_class(&self, frame: &trace_flame::Frame, failed: bool) -> &'static str {
        self.paint
            .class(frame.category, &frame.service, frame.self_ns, failed)
    }

    fn path(&self) -> Option<PathView> {
        let entry = self.path_entry()?;
        let is_main = self.indexed.main().is_some_and(|it| it.span == entry.span);
        let unit = Unit::fitting(entry.duration_ns);
        let percent = |ns: u64| ns as f64 * 100.0 / entry.duration_ns.max(1) as f64;
        let rows = entry.path.iter().take(PATH_ROWS_MAX).map(|it| PathRow {
            at: unit.figure(it.start_ns - entry.start_ns),
            figure: unit.figure(it.end_ns - it.start_ns),
            category: it.category,
            name: self.indexed.names.name(it.span).to_owned(),
            service: self.indexed.names.service(it.span).to_owned(),
            href: self.span_href(it.span),
            bar: Bar {
                x: percent(it.start_ns - entry.start_ns),
                width: percent(it.end_ns - it.start_ns).max(0.2),
            },
        });
        let left = entry.path.len().saturating_sub(PATH_ROWS_MAX);
        Some(PathView {
            of: (!is_main).then(|| {
                let name = format!("{} {}", entry.service.name, entry.endpoint);
                (name, self.address.with(&[("entry", "")]))
            }),
            unit,
            rows: rows.collect(),
            left,
        })
    }

    fn statistics(&self) -> StatisticsView {
        let mut operations = operations(self.indexed);
        let sort = Sort::parse(self.address);
        // What is left out matters least, whatever is sorted by.
        operations.sort_by_key(|it| std::cmp::Reverse((it.critical_ns, it.own_ns)));
        let rest = operations.split_off(operations.len().min(STATISTICS_ROWS_MAX));
        let mut rows: Vec<&Operation> = operations.iter().collect();
        sort.sort(&mut rows);
        let others = Operation::together("(all others)", &rest);
        if !rest.is_empty() {
            rows.push(&others);
        }
        let unit = match self.indexed.main() {
            Some(entry) => Unit::fitting(entry.duration_ns),
            None => Unit::fitting(operations.iter().map(|it| it.total_ns).max().unwrap_or(0)),
        };
        let critical: Vec<u64> = rows.iter().map(|it| it.critical_ns).collect();
        let shares = category_bar::apportion(&critical, 1_000);
        let together = Operation::together("Together", rows.iter().copied());
        let row = |it: &Operation, share: u64| StatisticsRow {
            category: it.category,
            name: it.name.clone(),
            service: it.service.clone(),
            calls: it.calls,
            total: it
                .category
                .map(|_| unit.figure(it.total_ns))
                .unwrap_or_default(),
            own: unit.figure(it.own_ns),
            critical: unit.figure(it.critical_ns),
            share: format!("{}.{} %", share / 10, share % 10),
        };
        StatisticsView {
            unit,
            columns: sort.columns(self.address, &unit),
            together: row(&together, shares.iter().sum()),
            rows: rows
                .iter()
                .zip(&shares)
                .map(|(it, share)| row(it, *share))
                .collect(),
        }
    }

    fn details(&self, span: SpanIdx) -> DetailsView {
        let raw = self.address.has("raw");
        let of = span_details::details(self.indexed, span, raw);
        let alike = self.alike(span);
        let at = alike.iter().position(|it| *it == span).unwrap_or(0);
        let critical = self.indexed.critical(span..span + 1).iter();
        let critical_ns: u64 = critical.map(|it| it.1.end_ns - it.1.start_ns).sum();
        let key = self.indexed.keys.key(self.analysis, span);
        let node = self.analysis.trace.node(span);
        DetailsView {
            duration: duration(of.duration_ns),
            own: duration(of.own_ns),
            offset: duration(of.offset_ns),
            critical: duration(critical_ns),
            parent_href: node.parent.map(|it| self.span_href(it)),
            previous_href: at.checked_sub(1).map(|it| self.span_href(alike[it])),
            next_href: alike.get(at + 1).map(|it| self.span_href(*it)),
            among: (alike.len() > 1).then(|| format!("call {} of {}", at + 1, alike.len())),
            raw_href: self
                .address
                .with(&[("span", &key), ("raw", if raw { "" } else { "1" })]),
            root_href: node.first_child.map(|_| {
                self.address
                    .with(&[("root", &key), ("span", &key), ("skip", "")])
            }),
            raw,
            statements_href: of.statement.as_ref().and(self.statements_href(span)),
            statement_href: statement_key::href_of_span(self.analysis, span),
            asks: standing::question(self.analysis, span),
            logs_href: self.logs_href(Some(span)),
            similar_href: {
                let like = [
                    ("range", "24h"),
                    ("sort", "slowest"),
                    ("name", self.analysis.trace.span(span).name),
                ];
                format!("/traces{}", Address::default().with(&like))
            },
            standing: None,
            findings: self
                .indexed
                .offenders(span..span + 1)
                .iter()
                .map(|it| self.analysis.findings[it.1].title.clone())
                .collect(),
            of,
        }
    }

    /// The statements that the request around a span sends.
    fn statements_href(&self, span: SpanIdx) -> Option<String> {
        let entry = &self.analysis.entries[self.analysis.entry_of(span)?];
        let filters = [
            ("range", "24h"),
            ("service", entry.service.name),
            ("endpoint", &entry.endpoint),
        ];
        Some(format!("/statements{}", Address::default().with(&filters)))
    }

    /// The siblings of the same operation, in order of start, this span among them.
    fn alike(&self, span: SpanIdx) -> Vec<SpanIdx> {
        let names = &self.indexed.names;
        let same = |it: &SpanIdx| {
            let (a, b) = (names.operation(*it), names.operation(span));
            (a.name, a.service) == (b.name, b.service)
        };
        match self.analysis.trace.node(span).parent {
            Some(parent) => self.analysis.trace.children(parent).filter(same).collect(),
            None => vec![span],
        }
    }

    fn notes(&self) -> Vec<String> {
        let warnings = &self.analysis.trace.warnings;
        let mut notes: Vec<String> = warnings
            .iter()
            .take(WARNINGS_MAX)
            .map(|it| it.text.clone())
            .collect();
        if warnings.len() > WARNINGS_MAX {
            notes.push(format!(
                "… and {} more like these.",
                warnings.len() - WARNINGS_MAX
            ));
        }
        notes.extend(self.analysis.coverage.notes());
        notes
    }
}

/// Draws as one what lies close together until the rows have at most [`BARS_MAX`] bars. `share` of the axis is
/// looked at.
fn thin_out(rows: &mut [RowView], share: f64) {
    let bars = |rows: &[RowView]| -> usize {
        let bars = rows.iter().map(|it| it.own.len() + it.critical.len());
        bars.sum()
    };
    let mut gap = waterfall::GAP_MIN * share;
    while bars(rows) > BARS_MAX && gap < 100.0 {
        gap *= 2.0;
        for row in rows.iter_mut() {
            waterfall::join(&mut row.own, gap);
            waterfall::join(&mut row.critical, gap);
        }
    }
}

/// The work done in an entry, if it is more than its duration.
fn work(entry: &Entry<'_>) -> Option<String> {
    (entry.work_ns > entry.duration_ns).then(|| duration(entry.work_ns))
}

impl FindingView {
    /// Where else: `The same is found in 1,999 other places of this trace.`
    fn elsewhere(&self) -> Option<String> {
        match self.others {
            0 => None,
            1 => Some("The same is found in another place of this trace.".to_owned()),
            others => {
                let others = crate::format::count(others as i64);
                Some(format!(
                    "The same is found in {others} other places of this trace."
                ))
            }
        }
    }
}

impl TracePage {
    fn list_href(&self) -> String {
        let service = self.service.as_deref().unwrap_or_default();
        let filters = [("service", service), ("endpoint", &self.title)];
        format!("/traces{}", Address::default().with(&filters))
    }

    /// How many entries there are, and how many of them are listed.
    fn entries_words(&self) -> String {
        let (listed, all) = (self.entries.len(), self.entry_count);
        match listed < all {
            true => format!("the {listed} longest of {all} entry spans"),
            false => count(all, "entry span"),
        }
    }

    /// The findings that are read at once.
    fn worst(&self) -> &[FindingView] {
        &self.findings[..self.findings.len().min(FINDINGS_OPEN)]
    }

    /// The others, which are a click away.
    fn further(&self) -> &[FindingView] {
        &self.findings[self.worst().len()..]
    }

    /// What the click shows: `2 more findings; a fix saves at most 1.2 ms each`.
    fn further_words(&self) -> Option<String> {
        let further = self.further();
        // In order of what a fix saves.
        let first = further.first()?;
        let found = count(further.len(), "more finding");
        Some(match (first.saved_ns, further.len()) {
            (0, _) => format!("{found} that this request does not wait for"),
            (_, 1) => format!("{found}: a fix saves about {}", first.saved),
            _ => format!("{found}: a fix saves {} or less each", first.saved),
        })
    }

    fn is_path(&self) -> bool {
        self.view == ViewKind::Path
    }

    fn is_json(&self) -> bool {
        self.view == ViewKind::Json
    }

    fn start(&self) -> String {
        format!(
            "{}, {}",
            when(self.start_ns, self.now_ns),
            ago(self.start_ns, self.now_ns)
        )
    }

    /// The start to the nanosecond.
    fn start_exact(&self) -> String {
        format!(
            "{} and {:09} ns",
            at(self.start_ns),
            self.start_ns % 1_000_000_000
        )
    }
}

impl WaterfallView {
    /// A place in the drawing: finer than usual where only a part of it is looked at.
    fn percent(&self, at: &f64) -> String {
        match self.is_zoomed() {
            true => format!("{at:.5}"),
            false => format!("{at:.2}"),
        }
    }

    fn is_zoomed(&self) -> bool {
        self.zoom != (0.0, 100.0)
    }

    /// Where a row's drawings stand, as attributes: so far to the left and so wide that what is looked at
    /// is in sight.
    fn place(&self) -> String {
        match self.is_zoomed() {
            true => format!(
                "class=\"z\" x=\"{:.3}%\" width=\"{:.3}%\"",
                self.zoom.0, self.zoom.1
            ),
            false => "class=\"z\" width=\"100%\"".to_owned(),
        }
    }

    /// The whole width in units of the bars' paths. A path takes a fifth of the bytes that as many
    /// rectangles would.
    fn scale(&self) -> u32 {
        if self.is_zoomed() { 10_000_000 } else { 10_000 }
    }

    fn units(&self, percent: f64) -> u32 {
        (percent / 100.0 * f64::from(self.scale())).round() as u32
    }

    fn path(&self, bars: &[Bar], y: u32, height: u32) -> String {
        use std::fmt::Write;
        let mut path = String::with_capacity(bars.len() * 20);
        for bar in bars {
            let (x, width) = (self.units(bar.x), self.units(bar.width).max(1));
            let _ = write!(path, "M{x} {y}h{width}v{height}h-{width}z");
        }
        path
    }

    /// From start to end.
    fn outline(&self, bar: &Bar) -> String {
        self.path(std::slice::from_ref(bar), 5, 13)
    }

    /// A line below, or, if nothing else is to be seen, a bar.
    fn critical_path(&self, bars: &[Bar]) -> String {
        match self.critical_class == Critical::Only.class() {
            true => self.path(bars, 5, 13),
            false => self.path(bars, 19, 2),
        }
    }

    fn upright(&self, x: &f64) -> String {
        format!("M{}-1v25", self.units(*x))
    }

    fn is_hatched(&self, row: &RowView) -> bool {
        let waits = category_bar::paint(&row.row.category).starts_with("fill");
        self.paint_hatches && waits && !row.own.is_empty()
    }

    /// The row's bars, if they are painted in one colour.
    fn solid(&self, row: &RowView) -> String {
        if row.own.is_empty() || self.is_hatched(row) {
            return String::new();
        }
        let bars = self.path(&row.own, 5, 13);
        format!("<path class=\"{}\" d=\"{bars}\"/>", row.class)
    }

    /// The row's bars, if they are hatched: a path's units would stretch the hatching.
    fn hatched(&self, row: &RowView) -> String {
        use std::fmt::Write;
        if !self.is_hatched(row) {
            return String::new();
        }
        let mut bars = format!("<g {}>", category_bar::paint(&row.row.category));
        for bar in &row.own {
            let (x, width) = (self.percent(&bar.x), self.percent(&bar.width));
            let _ = write!(
                bars,
                "<rect x=\"{x}%\" width=\"{width}%\" y=\"5\" height=\"13\"/>"
            );
        }
        bars + "</g>"
    }
}

impl RowView {
    fn depth(&self) -> u32 {
        (self.row.level - 1).min(DEPTH_MAX)
    }

    fn is_comb(&self) -> bool {
        self.row.kind == RowKind::Comb
    }

    fn is_more(&self) -> bool {
        matches!(self.row.kind, RowKind::More { .. })
    }

    fn has_children(&self) -> bool {
        self.row.children != Children::None
    }
}

/// Stands in the list of what is open for everything.
const OPEN_ALL: &str = "all";

/// Rows are indented so far; deeper ones stand below each other. Their level is still told to
/// screen readers.
const DEPTH_MAX: u32 = 24;

/// Services offered to choose from; the others can be written into the address.
const SERVICES_MAX: usize = 200;

/// Entries listed, the longest ones; a trace of more is read in the waterfall. Each takes 1.6 KB of the page.
const ENTRIES_MAX: usize = 12;

/// Bars in all rows together; with more of them those that lie closest are drawn as one, or a page of loops
/// would be longer than 300 KB.
const BARS_MAX: usize = 2_000;

/// Findings listed on the page. They stand in order of what a fix saves, so what is left out
/// matters least.
const FINDINGS_MAX: usize = 20;

/// Findings that are open from the start; with more of them the spans would be out of sight on a usual
/// screen. The others are folded away below.
const FINDINGS_OPEN: usize = 3;

/// Height of a frame of the flame graph, pixels.
const FRAME_PX: u32 = 24;

impl ViewKind {
    /// In order of the tabs.
    const ALL: [ViewKind; 6] = [
        ViewKind::Waterfall,
        ViewKind::Flame,
        ViewKind::Both,
        ViewKind::Path,
        ViewKind::Statistics,
        ViewKind::Json,
    ];

    fn parse(id: Option<&str>) -> ViewKind {
        let found = ViewKind::ALL.into_iter().find(|it| Some(it.id()) == id);
        found.unwrap_or(ViewKind::Waterfall)
    }

    /// The name in addresses; the waterfall needs none.
    fn id(self) -> &'static str {
        match self {
            ViewKind::Waterfall => "",
            ViewKind::Flame => "flame",
            ViewKind::Both => "both",
            ViewKind::Path => "path",
            ViewKind::Statistics => "statistics",
            ViewKind::Json => "json",
        }
    }

    fn name(self) -> &'static str {
        match self {
            ViewKind::Waterfall => "Waterfall",
            ViewKind::Flame => "Flame graph",
            ViewKind::Both => "Both",
            ViewKind::Path => "Critical path",
            ViewKind::Statistics => "Statistics",
            ViewKind::Json => "JSON",
        }
    }
}

/// Beside the waterfall only frames at least so wide are drawn, percent: both together stay one page.
const BESIDE_WIDTH_MIN: f64 = 0.3;

/// Height of a level of the overview, pixels.
const LANE_PX: u32 = 7;

/// The narrowest part of the axis that is drawn, percent: a browser cannot place what is wider than
/// some millions of pixels.
const ZOOM_WIDTH_MIN: f64 = 0.01;

/// What of the time the address asks for: `from` and `to`, ns after the trace's start. The end may be
/// left out. Nothing outside the axis can be looked at.
fn window(address: &Address, start_ns: u64, axis: &Axis) -> Option<Piece> {
    let offset = |key: &str| address.get(key)?.parse::<u64>().ok();
    let (from, to) = (offset("from"), offset("to"));
    if from.is_none() && to.is_none() {
        return None;
    }
    let ends = axis.start_ns..=axis.start_ns.saturating_add(axis.length_ns);
    let instant = |offset: u64| {
        start_ns
            .saturating_add(offset)
            .clamp(*ends.start(), *ends.end())
    };
    let piece = Piece {
        start_ns: instant(from.unwrap_or(0)),
        end_ns: instant(to.unwrap_or(u64::MAX)),
    };
    (piece.end_ns > piece.start_ns).then_some(piece)
}

/// How the critical path is shown in the waterfall.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Critical {
    /// Underlined.
    Shown,
    /// Underlined, everything else is pale.
    Only,
    /// Not at all.
    Hidden,
}

impl Critical {
    const ALL: [Critical; 3] = [Critical::Shown, Critical::Only, Critical::Hidden];

    fn parse(address: &Address) -> Critical {
        let asked = address.get("critical").unwrap_or_default();
        let found = Critical::ALL.into_iter().find(|it| it.id() == asked);
        found.unwrap_or(Critical::Shown)
    }

    fn id(self) -> &'static str {
        ["", "only", "off"][self as usize]
    }

    fn class(self) -> &'static str {
        ["", " cp-only", " cp-off"][self as usize]
    }

    fn links(self, address: &Address) -> Vec<Tab> {
        let link = |it: Critical| Tab {
            name: ["underlined", "alone", "hidden"][it as usize],
            href: address.with(&[("critical", it.id())]),
            current: it == self,
        };
        Critical::ALL.map(link).into()
    }
}

/// What the statistics are sorted by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Operation,
    Service,
    Calls,
    Total,
    Own,
    Critical,
    Share,
}

impl Sort {
    const ALL: [Sort; 7] = [
        Sort::Operation,
        Sort::Service,
        Sort::Calls,
        Sort::Total,
        Sort::Own,
        Sort::Critical,
        Sort::Share,
    ];

    fn parse(address: &Address) -> Sort {
        let asked = address.get("sort").unwrap_or_default();
        let found = Sort::ALL.into_iter().find(|it| it.id() == asked);
        found.unwrap_or(Sort::Critical)
    }

    fn id(self) -> &'static str {
        [
            "operation",
            "service",
            "calls",
            "total",
            "self",
            "",
            "share",
        ][self as usize]
    }

    fn sort(self, rows: &mut [&Operation]) {
        use std::cmp::Reverse;
        match self {
            Sort::Operation => rows.sort_by(|a, b| a.name.cmp(&b.name)),
            Sort::Service => rows.sort_by(|a, b| a.service.cmp(&b.service)),
            Sort::Calls => rows.sort_by_key(|it| Reverse(it.calls)),
            Sort::Total => rows.sort_by_key(|it| Reverse(it.total_ns)),
            Sort::Own => rows.sort_by_key(|it| Reverse(it.own_ns)),
            Sort::Critical | Sort::Share => rows.sort_by_key(|it| Reverse(it.critical_ns)),
        }
    }

    fn columns(self, address: &Address, unit: &Unit) -> Vec<SortColumn> {
        let column = |it: Sort| {
            let title = [
                "Operation",
                "Service",
                "Calls",
                "Total",
                "Self",
                "Critical",
                "Share",
            ];
            let title = title[it as usize].to_owned();
            let is_time = matches!(it, Sort::Total | Sort::Own | Sort::Critical);
            SortColumn {
                title: if is_time {
                    format!("{title} {}", unit.name)
                } else {
                    title
                },
                href: address.with(&[("sort", it.id())]),
                current: it == self,
                is_number: !matches!(it, Sort::Operation | Sort::Service),
            }
        };
        Sort::ALL.map(column).into()
    }
}

/// An operation's spans added up.
#[derive(Clone, Debug, Default)]
struct Operation {
    category: Option<Category>,
    name: String,
    service: String,
    calls: usize,
    total_ns: u64,
    own_ns: u64,
    critical_ns: u64,
}

impl Operation {
    fn together<'o>(name: &str, of: impl IntoIterator<Item = &'o Operation>) -> Operation {
        let mut sum = Operation {
            name: name.to_owned(),
            ..Operation::default()
        };
        for operation in of {
            sum.calls += operation.calls;
            sum.own_ns += operation.own_ns;
            sum.critical_ns += operation.critical_ns;
        }
        sum
    }
}

fn operations(indexed: &Indexed<'_, '_>) -> Vec<Operation> {
    let names = indexed.names.operations().iter();
    let mut operations: Vec<Operation> = names
        .map(|it| Operation {
            category: Some(it.category),
            name: it.name.to_owned(),
            service: it.service.to_owned(),
            ..Operation::default()
        })
        .collect();
    for span in 0..indexed.spans() {
        let operation = &mut operations[indexed.names.number(span) as usize];
        operation.calls += 1;
        operation.total_ns += indexed.analysis.trace.duration_ns(span);
        operation.own_ns += indexed.own_ns[span as usize];
    }
    for (span, piece) in indexed.critical(0..indexed.spans()) {
        let operation = &mut operations[indexed.names.number(*span) as usize];
        operation.critical_ns += piece.end_ns - piece.start_ns;
    }
    operations
}

fn state(state: &TraceState) -> Option<String> {
    match state {
        TraceState::Final => None,
        TraceState::Arriving => Some(
            "This trace is still arriving. Its spans are stored, but more may come: it is analysed \
             some seconds after the last one."
                .to_owned(),
        ),
        TraceState::Quarantined { reason } => {
            Some(format!("This trace is in quarantine and counts nowhere: {reason}"))
        }
    }
}

/// What is to be known if not all of a trace could be taken in.
fn beyond_the_bound(spans: i64) -> String {
    let spans = crate::format::count(spans);
    format!(
        "This trace is longer than culprit analyses at once (256 MB): {spans} spans that came later would have \
         been too much. They are kept in quarantine, and neither shown nor counted here."
    )
}

fn json(stored: &StoredTrace) -> Option<String> {
    // As JSON it is longer still.
    if stored.otlp.len() > JSON_SHOWN_MAX {
        return None;
    }
    let compact = collector::otlp::to_json(&stored.otlp).ok()?;
    if compact.len() > JSON_SHOWN_MAX {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(&compact).ok()?;
    serde_json::to_string_pretty(&value).ok()
}

pub(crate) fn ticks(axis: &Axis, unit: &Unit) -> Vec<String> {
    let label = |at: u64| {
        let ns = at * axis.tick_ns;
        let figure = ns as f64 / unit.ns as f64;
        if at + 1 == axis.ticks() {
            format!("{figure} {}", unit.name)
        } else {
            figure.to_string()
        }
    };
    (0..axis.ticks()).map(label).collect()
}

/// What fits into a frame at the page's usual width; the drawing cuts off the rest.
fn label(frame: &trace_flame::Frame, width: f64) -> String {
    let text = match frame.count {
        1 => frame.name.clone(),
        count => format!("×{count} {}", frame.name),
    };
    let room = (width / 100.0 * 150.0) as usize;
    match text.char_indices().nth(room) {
        None => text,
        Some(_) if room < 4 => String::new(),
        Some(_) => text.chars().take(room - 1).chain(['…']).collect(),
    }
}

fn hint(frame: &trace_flame::Frame) -> String {
    let calls = if frame.count == 1 {
        String::new()
    } else {
        format!(" in {} calls", frame.count)
    };
    let apart = if frame.detached { ", asynchronous" } else { "" };
    format!(
        "{}, {}: {}{calls}, {} of it its own ({}{apart})",
        frame.name,
        frame.service,
        duration(frame.total_ns),
        duration(frame.self_ns),
        frame.category.name(),
    )
}

pub(super) fn count(number: usize, of: &str) -> String {
    if number == 1 {
        format!("1 {of}")
    } else {
        format!("{number} {of}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_traces::analysed;
    use crate::testing::{HOSTILE, Site, assert_harmless, drawn, otlp};
    use analyzer::Settings;
    use analyzer::span::Spans;
    use scraper::{Html, Selector};

    const CHECKOUT: &str = "
shop   POST /checkout                                    |------------------------------------------------|
shop     SELECT cart_items {db.query.text=\"select * from cart_items where user_id = 42 and token = 'abc'\"}  |-|
shop     SELECT inventory                                    |-|
shop     SELECT inventory                                      |-|
shop     SELECT inventory                                        |-|
shop     SELECT inventory                                          |-|
shop     SELECT inventory                                            |-|
shop     POST payments/charge [client] {http.request.method=POST, url.full=http://payments/charge}  |---------|
pay        POST /charge {event=declined@3, http.response.status_code=503, error}      |----|
pay          INSERT charge                                                             |-|
shop     send order [producer]                                                              |-|
mail       process order [consumer]                                                            |----------------|
shop     POST loki {http.request.method=POST, url.full=http://loki:3100/loki/api/v1/push}      |------------|
";

    fn page(stored: &StoredTrace, query: &str) -> String {
        let address = Address::parse(Some(query));
        let page = analysed(stored, &Settings::default(), |it| {
            Ok(build(it, stored, &address, None))
        });
        crate::pages::html(&page.unwrap()).unwrap()
    }

    fn texts(html: &str, selector: &str) -> Vec<String> {
        let page = Html::parse_document(html);
        let selector = Selector::parse(selector).unwrap();
        let found = page.select(&selector);
        found
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    fn attributes(html: &str, selector: &str, key: &str) -> Vec<String> {
        let page = Html::parse_document(html);
        let selector = Selector::parse(selector).unwrap();
        let found = page.select(&selector);
        found
            .filter_map(|it| it.attr(key).map(str::to_owned))
            .collect()
    }

    #[test]
    fn the_page_says_what_took_how_long() {
        let html = page(&drawn(CHECKOUT), "");
        let headline = &texts(&html, "h1")[0];
        assert!(
            headline.starts_with("POST /checkout took 49 ms"),
            "{headline}"
        );
        let rows = texts(&html, ".wf tbody tr .nm a[data-row]");
        assert_eq!(rows.len(), 9, "{rows:?}");
        assert!(rows[0].starts_with("shop POST /checkout"), "{rows:?}");
        assert!(texts(&html, ".pill.x").contains(&"×5".to_owned()));
        assert_harmless(&html);
    }

    #[test]
    fn the_bar_adds_up_and_so_do_its_figures() {
        let html = page(&drawn(CHECKOUT), "");
        let widths = attributes(&html, ".sumbar rect", "width");
        let sum: f64 = widths
            .iter()
            .map(|it| it.trim_end_matches('%').parse::<f64>().unwrap())
            .sum();
        assert!((sum - 100.0).abs() < 0.1, "{sum}");
        let figures = texts(&html, "section[aria-labelledby=sum-h] .legend b");
        let (total, parts) = figures.split_last().unwrap();
        let sum: f64 = parts.iter().map(|it| it.parse::<f64>().unwrap()).sum();
        assert_eq!(format!("{sum:.1} ms"), *total);
    }

    #[test]
    fn the_worst_findings_are_open_and_the_others_a_click_away() {
        let html = page(&drawn(CHECKOUT), "");
        assert!(texts(&html, ".further").is_empty());
        let mut loops = "shop  GET /report  |".to_owned() + &"-".repeat(400) + "|\n";
        for table in ["authors", "badges", "comments", "drafts", "edits", "files"] {
            for _ in 0..12 {
                let from = loops.lines().count() * 5;
                let query = format!(
                    "shop    SELECT {table}  {{db.system.name=postgresql, db.query.text=\"SELECT * FROM {table} WHERE id = $1\"}}"
                );
                loops += &format!("{query} {}|-|\n", " ".repeat(from));
            }
        }
        let html = page(&drawn(&loops), "");
        let open = texts(&html, "main > .callout strong bdi").len();
        let folded = texts(&html, "details.further > .callout strong bdi").len();
        assert_eq!((open, folded), (FINDINGS_OPEN, 3));
        let words = &texts(&html, ".further > summary")[0];
        assert!(
            words.starts_with("3 more findings: a fix saves "),
            "{words}"
        );
        assert!(words.ends_with(" or less each"), "{words}");
        assert_harmless(&html);
    }

    #[test]
    fn the_same_in_several_requests_is_one_finding() {
        let mut drawn_text = String::new();
        for nth in 0..3 {
            let at = nth * 100;
            let begin = |from: usize| " ".repeat(from);
            drawn_text += &format!("shop  GET /posts  {}|{}|\n", begin(at), "-".repeat(90));
            for row in 0..12 {
                let from = begin(at + 2 + row * 6);
                drawn_text += &format!(
                    "shop    SELECT authors {{db.system.name=postgresql, db.query.text=\"SELECT * FROM authors WHERE id = $1\"}} {from}|--|\n"
                );
            }
        }
        let html = page(&drawn(&drawn_text), "");
        let findings = texts(&html, "main > .callout");
        assert_eq!(findings.len(), 1, "{findings:?}");
        let words = "The same is found in 2 other places of this trace.";
        assert!(findings[0].contains(words), "{findings:?}");
    }

    /// Two services that call each other as often as there is room, and combs of 500 calls each.
    fn crowded() -> StoredTrace {
        let drawing = analyzer::drawing::parse(
            "
shop   POST /crowd   |------------------------------------------------|
shop     POST {http.request.method=POST, url.full=http://stock/items}  [client] |-|
stock      POST /items   |-|
",
        );
        let mut spans = drawing.spans();
        let (whole, id) = (spans.spans[0].clone(), spans.spans[0].id);
        let (from_ns, step_ns) = (whole.start_ns, (whole.end_ns - whole.start_ns) / 20_000);
        let pair = [spans.spans[1].clone(), spans.spans[2].clone()];
        for at in 0..20_000_u64 {
            let mut one = pair[usize::from(at % 40 == 0)].clone();
            one.id.0 = (at + 1_000).to_be_bytes();
            one.parent_id = Some(id);
            one.name = ["POST a", "POST b", "POST c", "POST d", "POST e"][at as usize % 5];
            (one.start_ns, one.end_ns) =
                (from_ns + at * step_ns, from_ns + at * step_ns + step_ns / 2);
            spans.spans.push(one);
        }
        StoredTrace {
            otlp: otlp(&spans),
            state: TraceState::Final,
        }
    }

    #[test]
    fn a_crowded_page_stays_light() {
        let stored = crowded();
        for query in [
            "",
            "open=all",
            "open=all&from=10000000&to=30000000",
            "view=both",
        ] {
            let html = page(&stored, query);
            assert!(html.len() < 300_000, "{query}: {} bytes", html.len());
            let bars: usize = attributes(&html, ".wf td.b path", "d")
                .iter()
                .map(|it| it.matches('M').count())
                .sum();
            assert!(
                bars <= BARS_MAX + 3 * waterfall::ROWS_MAX,
                "{query}: {bars} bars"
            );
        }
        let html = page(&stored, "");
        assert_eq!(texts(&html, ".parts tbody tr").len(), ENTRIES_MAX);
        let summary = texts(&html, "details:has(.parts) summary").concat();
        assert_eq!(
            summary,
            "Each service's part: the 12 longest of 502 entry spans"
        );
    }

    #[test]
    fn every_view_has_an_address_and_is_harmless() {
        let stored = drawn(CHECKOUT);
        for view in [
            "",
            "flame",
            "both",
            "path",
            "statistics",
            "json",
            "nonsense",
        ] {
            let html = page(&stored, &format!("view={view}"));
            assert_harmless(&html);
            assert_eq!(texts(&html, ".bar-tabs a[aria-current]").len(), 1, "{view}");
        }
        let path = page(&stored, "view=path");
        assert!(texts(&path, ".path tbody tr").len() > 5);
        let statistics = page(&stored, "view=statistics");
        assert!(texts(&statistics, "tfoot td").contains(&"49.0".to_owned()));
        assert!(page(&stored, "view=json").contains("resourceSpans"));
        assert!(texts(&page(&stored, "view=flame"), ".flame title").len() > 5);
    }

    #[test]
    fn a_part_of_the_time_is_looked_at() {
        let stored = drawn(CHECKOUT);
        let whole = page(&stored, "");
        assert!(attributes(&whole, ".wf .z", "x").is_empty());
        let ticks = texts(&whole, ".axis-x span").len();
        assert_eq!(attributes(&whole, ".mini nav a", "href").len(), ticks);
        let axis = attributes(&whole, ".wf", "data-axis-ns")[0].clone();
        let length_ns: f64 = axis.split(' ').nth(1).unwrap().parse().unwrap();
        let width = |ns: f64| format!("{:.3}%", length_ns / ns * 100.0);
        let part = page(&stored, "from=10000000&to=20000000");
        assert_eq!(attributes(&part, ".wf .z", "x")[0], "-100.000%");
        assert_eq!(attributes(&part, ".wf .z", "width")[0], width(1e7));
        assert_eq!(texts(&part, "#zoomed"), ["10 ms to 20 ms"]);
        assert_eq!(texts(&part, ".axis-x span")[0], "10.0");
        assert_harmless(&part);
        for nonsense in [
            "from=20&to=10",
            "from=-1",
            "from=99999999999999999999",
            "from=9999999999999999&to=99999999999999999",
        ] {
            let html = page(&stored, nonsense);
            assert!(attributes(&html, ".wf .z", "x").is_empty(), "{nonsense}");
        }
        let end = page(&stored, "from=40000000&view=both");
        assert_eq!(
            attributes(&end, ".wf .z", "width")[0],
            width(length_ns - 4e7)
        );
        // The flame graph holds the work of that part alone.
        let titles = texts(&end, ".flame title").join("\n");
        assert!(
            !texts(&end, ".flame a").is_empty() && titles.contains("POST /checkout"),
            "{titles}"
        );
        assert_harmless(&end);
    }

    #[test]
    fn spans_with_a_text_are_found_one_after_the_other() {
        let stored = drawn(CHECKOUT);
        let html = page(&stored, "find=inventory");
        let status = &texts(&html, ".tools [role=status]")[0];
        assert!(
            status.starts_with("1 of 5 spans") || status.starts_with("5 spans"),
            "{status}"
        );
        assert!(texts(&html, ".wf .hit").len() == 1, "the comb");
        let next = attributes(&html, "[data-go=n]", "href")[0].clone();
        let html = page(&stored, &next[1..]);
        let at = &texts(&html, ".tools [role=status]")[0];
        assert!(at.contains(" of 5 spans"), "{at}");
        let nothing = page(&stored, "find=nowhere");
        assert!(texts(&nothing, ".tools [role=status]")[0].starts_with("0 spans"));
        assert_harmless(&page(&stored, "find=%22%3E%3Cscript%3E"));
    }

    #[test]
    fn the_critical_path_can_stand_alone_and_statistics_sort() {
        let stored = drawn(CHECKOUT);
        assert_eq!(
            attributes(&page(&stored, "critical=only"), ".cp-only", "role"),
            ["treegrid"]
        );
        assert_eq!(
            attributes(&page(&stored, "critical=off"), ".cp-off", "role"),
            ["treegrid"]
        );
        let sorted = page(&stored, "view=statistics&sort=calls");
        let calls = texts(&sorted, ".panel tbody td:nth-child(3)");
        let calls: Vec<u32> = calls.iter().map(|it| it.parse().unwrap()).collect();
        assert!(
            calls.is_sorted_by(|a, b| a >= b) && calls[0] == 5,
            "{calls:?}"
        );
        assert!(texts(&sorted, "[aria-sort]")[0].starts_with("Calls"));
    }

    #[test]
    fn literals_are_hidden_unless_asked_for() {
        let stored = drawn(CHECKOUT);
        let html = page(&stored, "");
        let hrefs = attributes(&html, ".wf a[data-row]", "href");
        let names = texts(&html, ".wf a[data-row]");
        let at = names
            .iter()
            .position(|it| it == "select cart_items")
            .unwrap();
        let span = hrefs[at].trim_start_matches("?span=");
        let hidden = page(&stored, &hrefs[at][1..]);
        let attributes = texts(&hidden, "#at dd").join("\n");
        assert!(
            attributes.contains("select * from cart_items where user_id = ?"),
            "{attributes}"
        );
        assert!(
            !attributes.contains("42") && !attributes.contains("abc"),
            "{attributes}"
        );
        let raw = page(&stored, &format!("span={span}&raw=1"));
        assert!(texts(&raw, "#at dd").join("\n").contains("user_id = 42"));
    }

    #[test]
    fn hostile_names_are_only_text() {
        let mut spans = Vec::new();
        let stored = drawn(CHECKOUT);
        let mut decoded = Spans::default();
        collector::otlp::decode_into(&mut decoded, &stored.otlp, |_| true).unwrap();
        for (at, span) in decoded.spans.iter().enumerate() {
            let name = HOSTILE[at % HOSTILE.len()];
            spans.push(analyzer::span::Span {
                name,
                trace_state: name,
                status_message: name,
                status: analyzer::span::Status::Error,
                ..span.clone()
            });
        }
        for attribute in &mut decoded.attributes {
            if attribute.key != "url.full" {
                attribute.value = analyzer::span::Value::Str(HOSTILE[0]);
            }
            attribute.key = HOSTILE[1];
        }
        for event in &mut decoded.events {
            event.name = HOSTILE[0];
        }
        for resource in &mut decoded.resources {
            for attribute in &mut resource.attributes {
                attribute.value = analyzer::span::Value::Str(HOSTILE[5]);
            }
        }
        decoded.spans = spans;
        let hostile = StoredTrace {
            otlp: otlp(&decoded),
            state: TraceState::Final,
        };
        for view in ["", "flame", "path", "statistics", "json"] {
            let html = page(
                &hostile,
                &format!("view={view}&open=%22%3E%3Cscript%3E&span=%3Cscript%3E"),
            );
            assert_harmless(&html);
        }
        let svg = analysed(&hostile, &Settings::default(), |indexed| {
            Ok(trace_flame::svg(&trace_flame::frames(indexed), HOSTILE[0])?)
        });
        let svg = String::from_utf8(svg.unwrap()).unwrap();
        assert!(!svg.contains("<script"), "{svg}");
        assert!(!svg.contains('\0') && !svg.contains('\u{7}'));
    }

    #[test]
    fn a_fragment_and_nothing_at_all_have_pages_too() {
        let fragment = page(&drawn("pay  INSERT charge {orphan} [client]   |---|\n"), "");
        assert!(
            texts(&fragment, "h1")[0].contains("fragment"),
            "{:?}",
            texts(&fragment, "h1")
        );
        assert!(texts(&fragment, ".pill").contains(&"parent missing".to_owned()));
        let nothing = StoredTrace {
            otlp: Vec::new(),
            state: TraceState::Arriving,
        };
        let nothing = page(&nothing, "");
        assert!(nothing.contains("still arriving"));
    }

    #[test]
    fn only_one_services_spans_or_some_levels_may_be_shown() {
        let stored = drawn(CHECKOUT);
        let rows = |query: &str| texts(&page(&stored, query), ".wf tbody tr .nm > a[data-row]");
        let of_pay = rows("only=pay");
        assert_eq!(of_pay.len(), 2, "{of_pay:?}");
        assert!(of_pay[0].contains("POST /charge"), "{of_pay:?}");
        assert_eq!(rows("levels=1").len(), 1);
        let two = rows("levels=2");
        assert!(
            two.len() > 1
                && !two
                    .iter()
                    .any(|it| it.contains("/charge") && it.contains("pay "))
        );
        // A comb is opened with all others.
        assert!(rows("open=all").len() > rows("").len());
        assert_eq!(rows("only=nobody").len(), 0);
        // What is folded because of its level is opened by its own link.
        let html = page(&stored, "levels=1");
        let toggle = &attributes(&html, ".wf a.tw", "href")[0];
        assert!(rows(toggle.trim_start_matches('?')).len() > 1, "{toggle}");
    }

    #[test]
    fn rows_tell_their_place_among_their_siblings() {
        let html = page(&drawn(CHECKOUT), "");
        let of = |key: &str| attributes(&html, ".wf tbody tr", key);
        let (levels, places, sizes) = (of("aria-level"), of("aria-posinset"), of("aria-setsize"));
        let second: Vec<_> = (0..levels.len()).filter(|it| levels[*it] == "2").collect();
        for (at, row) in second.iter().enumerate() {
            assert_eq!(places[*row], (at + 1).to_string());
            assert_eq!(sizes[*row], second.len().to_string());
        }
        assert_eq!((&*places[0], &*sizes[0]), ("1", "1"));
    }

    #[test]
    fn a_span_that_is_not_there_is_told() {
        let html = page(&drawn(CHECKOUT), "span=00000000000000ff");
        let notices = texts(&html, ".notice").join(" ");
        assert!(notices.contains("no span 00000000000000ff"), "{notices}");
        let id = collector::otlp::trace_ids(&drawn(CHECKOUT).otlp).unwrap();
        assert!(!page(&drawn(CHECKOUT), &format!("find={}", id[0])).contains("There is no span"));
    }

    #[test]
    fn errors_can_be_gone_through() {
        let html = page(&drawn(CHECKOUT), "");
        let href = &attributes(&html, ".meta a.pill.err", "href")[0];
        let found = page(&drawn(CHECKOUT), href.trim_start_matches('?'));
        let status = texts(&found, ".tools [role=status]").join(" ");
        assert!(status.contains("1 of 1 span"), "{status}");
    }

    #[test]
    fn the_selected_span_can_be_had_alone() {
        let stored = drawn(CHECKOUT);
        let address = Address::parse(Some("part=details"));
        let part = analysed(&stored, &Settings::default(), |it| {
            Ok(details(it, &address, None))
        });
        let part = part.unwrap().unwrap();
        let html = crate::pages::html(&part).unwrap();
        assert!(!html.contains("<html") && html.contains("<aside"), "{html}");
    }

    #[test]
    fn a_long_trace_stays_a_page() {
        let mut drawing = String::from(
            "shop  GET /big              |-------------------------------------------------|\n",
        );
        for at in 0..3_000 {
            drawing += &format!("shop    step{at}               |--|\n");
        }
        let html = page(&drawn(&drawing), "");
        assert!(texts(&html, ".wf tbody tr").len() <= waterfall::ROWS_MAX);
        assert!(html.len() < 2_000_000, "{}", html.len());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_trace_goes_the_whole_way_to_its_page() {
        let stored = drawn(CHECKOUT);
        let site = Site::with(&[&stored]).await;
        let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0];
        let page = site.page(&format!("/traces/{id}")).await;
        assert!(
            texts(&page, "h1")[0].starts_with("POST /checkout took 49 ms"),
            "{page}"
        );
        // Every link of the page leads somewhere.
        for href in attributes(&page, "main a[href^='?'], main a[href^='/traces']", "href") {
            // There is no other request to choose from.
            if href.ends_with("with=median") {
                continue;
            }
            let href = match href.strip_prefix('?') {
                Some(query) => format!("/traces/{id}?{query}"),
                None => href,
            };
            site.page(&href.replace(' ', "%20")).await;
        }
        let (status, headers, svg) = site.get(&format!("/traces/{id}/flame.svg")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(svg.contains("POST /checkout"));
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("sandbox") && !policy.contains("script"),
            "{policy}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_entry_shows_its_times_and_its_own_critical_path() {
        let stored = drawn(CHECKOUT);
        let site = Site::with(&[&stored]).await;
        let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0];
        let page = scraper::Html::parse_document(&site.page(&format!("/traces/{id}")).await);
        let select = |css: &str| scraper::Selector::parse(css).unwrap();
        let rows: Vec<_> = page.select(&select(".parts tbody tr")).collect();
        assert!(rows.len() > 1, "several services");
        for row in &rows {
            let ns = |it: scraper::ElementRef<'_>| -> u64 {
                let title = it.attr("title").unwrap();
                title.strip_suffix(" ns").unwrap().parse().unwrap()
            };
            let parts: Vec<u64> = row.select(&select(".legend li")).map(ns).collect();
            let (together, parts) = parts.split_last().unwrap();
            assert_eq!(parts.iter().sum::<u64>(), *together);
        }
        let link = rows[1].select(&select("a.path-of")).next().unwrap();
        let href = link.attr("href").unwrap();
        let path = site.page(&format!("/traces/{id}{href}")).await;
        let path = scraper::Html::parse_document(&path);
        let of = path.select(&select(".path-entry bdi")).next().unwrap();
        let of: String = of.text().collect();
        let name: String = rows[1]
            .select(&select("th a"))
            .next()
            .unwrap()
            .text()
            .collect();
        assert_eq!(of, name);
        assert!(path.select(&select("table.path tbody tr")).next().is_some());
    }

    /// Each span with its resource and scope, in order: what is stored names each sender once.
    fn with_senders(otlp: &serde_json::Value) -> Vec<String> {
        let mut spans = Vec::new();
        let all = |it: &serde_json::Value| it.as_array().cloned().unwrap_or_default();
        for resource in all(&otlp["resourceSpans"]) {
            for scope in all(&resource["scopeSpans"]) {
                let of = |span| format!("{span} {} {}", resource["resource"], scope["scope"]);
                spans.extend(all(&scope["spans"]).into_iter().map(of));
            }
        }
        spans.sort_unstable();
        spans
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_came_in_comes_out_as_json() {
        let stored = drawn(CHECKOUT);
        let site = Site::with(&[&stored]).await;
        let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0];
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let out = json(&site.page(&format!("/api/v1/traces/{id}")).await);
        let sent = json(&collector::otlp::to_json(&stored.otlp).unwrap());
        assert_eq!(with_senders(&out), with_senders(&sent));
        let analysis = json(&site.page(&format!("/api/v1/traces/{id}/analysis")).await);
        let entry = &analysis["entries"][0];
        let sum = |of: &serde_json::Value| {
            of.as_object()
                .unwrap()
                .values()
                .map(|it| it.as_u64().unwrap())
                .sum::<u64>()
        };
        assert_eq!(
            sum(&entry["categories"]),
            entry["duration_ns"].as_u64().unwrap()
        );
        let path = entry["critical_path"].as_array().unwrap();
        let length = |it: &serde_json::Value| {
            it["end_ns"].as_u64().unwrap() - it["start_ns"].as_u64().unwrap()
        };
        assert_eq!(
            path.iter().map(length).sum::<u64>(),
            entry["duration_ns"].as_u64().unwrap()
        );
        let list = json(
            &site
                .page("/api/v1/traces?range=30d&from=1&service=pay")
                .await,
        );
        assert_eq!(list["next"], serde_json::Value::Null);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ids_are_taken_in_every_form() {
        let stored = drawn(CHECKOUT);
        let site = Site::with(&[&stored]).await;
        let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0].to_string();
        let here = format!("/traces/{id}");
        let leads = async |address: String| {
            let (status, headers, _) = site.get(&address).await;
            assert!(status.is_redirection(), "{address}: {status}");
            headers[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(leads(format!("/traces/{}", id.to_uppercase())).await, here);
        assert_eq!(leads(format!("/search?q=%20{id}")).await, here);
        let parent = format!("/search?q=00-{id}-b7ad6b7169203331-01");
        assert_eq!(leads(parent).await, format!("{here}?span=b7ad6b7169203331"));
        let short = "/traces/b7ad6b7169203331".to_owned();
        assert_eq!(
            leads(short).await,
            "/traces/0000000000000000b7ad6b7169203331"
        );
        let (status, _, body) = site.get("/traces/0000000000000000b7ad6b7169203331").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(
            body.contains("sampled") && body.contains("Try again"),
            "{body}"
        );
        for hostile in HOSTILE {
            let escaped =
                url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect::<String>();
            let (status, _, body) = site
                .get(&format!("/traces/{}", escaped.replace('+', "%20")))
                .await;
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert_harmless(&body);
            site.page(&format!("/search?q={escaped}")).await;
            site.page(&format!(
                "/traces?service={escaped}&endpoint={escaped}&min={escaped}&sort={escaped}"
            ))
            .await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lists_and_status_are_pages_too() {
        let site = Site::with(&[&drawn(CHECKOUT)]).await;
        let listed = site.page("/traces?from=1&until=4102444800").await;
        assert_eq!(texts(&listed, ".traces tbody tr").len(), 1, "{listed}");
        let all = site
            .page("/traces?from=1&until=4102444800&entries=all")
            .await;
        assert_eq!(texts(&all, ".traces tbody tr").len(), 3);
        assert!(site.page("/traces").await.contains("Nothing here matches"));
        assert!(
            site.page("/search?q=check")
                .await
                .contains("POST /checkout")
        );
        assert!(site.page("/status").await.contains("All is well"));
        assert!(site.page("/start").await.contains("Send your traces"));
        site.store.close().await;
        assert!(site.page("/status").await.contains("does not answer"));
        let (status, _, body) = site.get("/traces").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    }

    #[tokio::test]
    async fn the_first_start_says_where_to_send() {
        let site = Site::on(collector::testing::store().await);
        let page = site.page("/start").await;
        assert!(page.contains("Waiting for the first span"));
        let curl = &texts(&page, "#c6")[0];
        let json = &curl[curl.find('{').unwrap()..=curl.rfind('}').unwrap()];
        let spans = collector::receiver::json::decode(json.as_bytes());
        assert!(spans.is_ok(), "{json}");
    }
}
