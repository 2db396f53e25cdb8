//! The map of services: who calls whom, how often, with what errors and how long, drawn.
//!
//! What is shown is chosen ([`Graph`]), placed ([`layout`]) and written as SVG by a template, from the
//! views made here. A call is a line whose width grows with how often it happens; red, with a ×, if it
//! fails. What does not report has another shape than a service, and its category's colour.

pub mod layout;

use analyzer::category::Category;
use collector::deltas::EdgeDelta;
use collector::store::bottlenecks::Minutes;
use collector::store::edges::{Called, PeerName, ServiceEdge};
use collector::store::services::{ServiceName, ServiceSums};
use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::category_bar;
use crate::endpoint_numbers::Numbers;
use crate::format;
use crate::line_chart::percentiles;
use crate::range::{Covered, Filters, Range, minute_ns};
use layout::{Sizes, layout};

/// Nodes of a picture at most, the busiest: more cannot be taken in at once. The page says how many are
/// left out, and a service's own map shows its neighbours.
pub const NODES_MAX: usize = 60;

/// Calls of a picture at most, the most frequent; the others are in the table.
pub const EDGES_MAX: usize = 240;

/// So many nodes are too many for labels of calls, and are drawn smaller.
const CROWDED_FROM: usize = 25;

const ROOMY: Sizes = Sizes {
    width: 172.0,
    height: 44.0,
    // A label of a call has room there.
    across: 196.0,
    between: 26.0,
    bend: 8.0,
};

const CROWDED: Sizes = Sizes {
    width: 136.0,
    height: 34.0,
    across: 76.0,
    between: 14.0,
    bend: 4.0,
};

/// Around the picture, px: lines have a width, and calls to oneself stand out.
const MARGIN: f64 = 22.0;

/// From this share on a call's errors are drawn: a failure now and then is not the map's business.
const ERROR_SHARE_MIN: f64 = 0.01;

/// What calls of a window say.
#[derive(Clone, PartialEq, Debug)]
pub struct Calls {
    /// Weighted.
    pub calls: i64,
    /// Failed ones, weighted.
    pub errors: i64,
    /// Calls a second.
    pub rate: f64,
    /// P50, P90, P95, P99, ns.
    pub percentiles: [u64; 4],
}

impl Calls {
    /// What `sums` of the `covered` time say.
    pub fn of(sums: &EdgeDelta, covered: &Covered) -> Calls {
        Calls {
            calls: sums.calls,
            errors: sums.errors,
            rate: covered.per_second(sums.calls),
            percentiles: percentiles(&sums.latency),
        }
    }

    /// Failed calls' share, 0 to 1.
    pub fn error_share(&self) -> f64 {
        self.errors.max(0) as f64 / self.calls.max(1) as f64
    }

    /// How often: number and unit.
    pub fn rate_parts(&self) -> (String, &'static str) {
        format::rate_parts(self.rate)
    }

    /// Percent, for a cell.
    pub fn errors_text(&self) -> String {
        format::percent(self.error_share())
    }

    /// Milliseconds, for cells: P50, P90, P95, P99.
    pub fn percentiles_ms(&self) -> [String; 4] {
        self.percentiles.map(format::ms)
    }

    /// `12.3 calls/s, 0.5 % failed, P50 4 ms, P95 12 ms, P99 40 ms`
    pub fn sentence(&self) -> String {
        let [p50, _, p95, p99] = self.percentiles.map(format::duration);
        let (rate, unit) = self.rate_parts();
        format!(
            "{} calls{unit}, {} % failed, P50 {p50}, P95 {p95}, P99 {p99}",
            rate,
            self.errors_text()
        )
    }

    fn fails(&self) -> bool {
        self.error_share() >= ERROR_SHARE_MIN
    }
}

/// The time that calls of a window are of: they are kept in tens of minutes, old ones in hours, and those
/// that reach into the window are shown whole. Of earlier than `counted_from` there are none.
pub fn covered(of: Covered, window: Minutes, range: Range, counted_from: i32) -> Covered {
    let mut from_ns = of.from_ns;
    let is_in_hours = matches!(range, Range::Day | Range::Week);
    if is_in_hours && from_ns <= minute_ns(window.from) {
        from_ns = minute_ns(window.from - window.from.rem_euclid(60));
    }
    Covered {
        from_ns: from_ns.max(minute_ns(counted_from)).min(of.now_ns),
        ..of
    }
}

/// Who is called, in words: `postgresql shop`.
pub fn peer_title(peer: &PeerName) -> String {
    let kind = peer_kind(peer);
    match (&*peer.system, &*peer.name) {
        ("", "") => format!("{kind}, nameless"),
        ("", name) => name.to_owned(),
        (system, "") => system.to_owned(),
        (system, name) => format!("{system} {name}"),
    }
}

/// What kind of thing it is, in a word or two.
pub fn peer_kind(peer: &PeerName) -> &'static str {
    match peer.category {
        Some(Category::Database) => "database",
        Some(Category::Cache) => "cache",
        Some(Category::Messaging) => "messages",
        Some(Category::Logging) => "log sink",
        Some(_) => "does not report",
        None => "too many to tell apart",
    }
}

/// A place of the map.
#[derive(Clone, PartialEq, Debug)]
pub enum Node<'a> {
    /// A service.
    Service(&'a ServiceName),
    /// Something that does not report.
    Peer(&'a PeerName),
}

impl Node<'_> {
    fn name(&self) -> &str {
        match self {
            Node::Service(it) => &it.name,
            Node::Peer(it) if it.name.is_empty() => match &*it.system {
                "" => peer_kind(it),
                system => system,
            },
            Node::Peer(it) => &it.name,
        }
    }
}

/// What is shown of all calls.
#[derive(Clone, Debug, Default)]
pub struct Graph<'a> {
    /// The places.
    pub nodes: Vec<Node<'a>>,
    /// From, to, the calls.
    pub edges: Vec<(usize, usize, &'a ServiceEdge)>,
    /// Places that are left out.
    pub hidden_nodes: usize,
    /// Calls that are left out.
    pub hidden_edges: usize,
}

impl<'a> Graph<'a> {
    /// The busiest places of `edges`, and of `services` those that neither call nor are called.
    pub fn of(edges: &[&'a ServiceEdge], services: &'a [ServiceSums]) -> Graph<'a> {
        // In a fixed order: services by id, then the others by name.
        let mut busy: BTreeMap<Key<'_>, (Node<'a>, i64)> = BTreeMap::new();
        let mut add = |node: Node<'a>, calls: i64| {
            busy.entry(key(&node)).or_insert((node, 0)).1 += calls;
        };
        for service in services {
            add(Node::Service(&service.service), 0);
        }
        for edge in edges {
            add(Node::Service(&edge.caller), edge.sums.calls);
            add(called(edge), edge.sums.calls);
        }
        let mut places: Vec<(Node<'a>, i64)> = busy.into_values().collect();
        places.sort_by_key(|it| Reverse(it.1));
        let hidden_nodes = places.len().saturating_sub(NODES_MAX);
        places.truncate(NODES_MAX);
        let nodes: Vec<Node<'a>> = places.into_iter().map(|it| it.0).collect();
        let at: BTreeMap<_, usize> = nodes.iter().map(key).zip(0..).collect();
        let mut shown: Vec<(usize, usize, &ServiceEdge)> = edges
            .iter()
            .filter_map(|edge| {
                let from = at.get(&key(&Node::Service(&edge.caller)))?;
                Some((*from, *at.get(&key(&called(edge)))?, *edge))
            })
            .collect();
        shown.sort_by_key(|it| Reverse(it.2.sums.calls));
        shown.truncate(EDGES_MAX);
        Graph {
            hidden_edges: edges.len() - shown.len(),
            nodes,
            edges: shown,
            hidden_nodes,
        }
    }
}

fn called(edge: &ServiceEdge) -> Node<'_> {
    match &edge.called {
        Called::Reports(service) => Node::Service(service),
        Called::Peer(peer) => Node::Peer(peer),
    }
}

/// What tells places apart.
type Key<'a> = (Option<i32>, Option<&'a PeerName>);

fn key<'a>(node: &Node<'a>) -> Key<'a> {
    match node {
        Node::Service(it) => (Some(it.id), None),
        Node::Peer(it) => (None, Some(it)),
    }
}

/// The calls that an address asks for: of an environment, and of a service those with its neighbours.
pub fn narrowed<'a>(edges: &'a [ServiceEdge], filters: &Filters) -> Vec<&'a ServiceEdge> {
    let is = |wanted: &str, name: &str| wanted.is_empty() || wanted == name;
    let wanted = |it: &ServiceName| {
        is(&filters.service, &it.name) && is(&filters.environment, &it.environment)
    };
    let edges = edges.iter().filter(|it| {
        let callee = match &it.called {
            Called::Reports(service) => wanted(service),
            Called::Peer(_) => false,
        };
        wanted(&it.caller) || callee
    });
    edges.collect()
}

/// A picture.
#[derive(Clone, PartialEq, Debug)]
pub struct Drawing {
    /// px
    pub width: String,
    /// px
    pub height: String,
    /// Of a place, px.
    pub place: (u32, u32),
    /// The places.
    pub nodes: Vec<NodeView>,
    /// The calls; the rarest first, so that the others are drawn over them.
    pub edges: Vec<EdgeView>,
}

/// A place as it is drawn.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeView {
    /// Where it leads; empty: nowhere.
    pub link: String,
    /// Everything about it.
    pub title: String,
    /// Upper left corner.
    pub x: String,
    /// Upper left corner.
    pub y: String,
    /// Its outline.
    pub outline: String,
    /// What is drawn upon its outline.
    pub mark: String,
    /// The colour of what does not report: its category's class.
    pub class: &'static str,
    /// It does not report.
    pub is_peer: bool,
    /// It is what the address asks for.
    pub is_focus: bool,
    /// First line.
    pub name: String,
    /// Second line.
    pub note: String,
    /// Red, behind the second line.
    pub errors: String,
}

/// A call as it is drawn.
#[derive(Clone, PartialEq, Debug)]
pub struct EdgeView {
    /// Where it leads.
    pub link: String,
    /// Everything about it.
    pub title: String,
    /// The line.
    pub path: String,
    /// How wide it is, px.
    pub width: String,
    /// It fails too often.
    pub fails: bool,
    /// What stands beside it, if there is room: x, y, text, errors.
    pub label: Option<(String, String, String, String)>,
}

/// Draws what is to be shown.
pub fn draw(
    graph: &Graph<'_>,
    services: &[ServiceSums],
    filters: &Filters,
    covered: &Covered,
) -> Drawing {
    let weighted: Vec<(usize, usize, i64)> = graph
        .edges
        .iter()
        .map(|(from, to, edge)| (*from, *to, edge.sums.calls))
        .collect();
    let is_crowded = graph.nodes.len() >= CROWDED_FROM;
    let sizes = if is_crowded { CROWDED } else { ROOMY };
    let layout = layout(graph.nodes.len(), &weighted, sizes);
    let numbers: BTreeMap<i32, Numbers> = services
        .iter()
        .map(|it| (it.service.id, numbers(it, covered)))
        .collect();
    let nodes = graph.nodes.iter().zip(&layout.nodes);
    let nodes = nodes.map(|(node, at)| node_view(node, *at, sizes, &numbers, filters));
    let most = graph.edges.first().map_or(1, |it| it.2.sums.calls);
    let mut callers = vec![0; graph.nodes.len()];
    for (from, to, _) in &graph.edges {
        callers[*to] += usize::from(from != to);
    }
    let edges = graph
        .edges
        .iter()
        .enumerate()
        .map(|(at, (from, to, edge))| {
            let calls = Calls::of(&edge.sums, covered);
            let points = &layout.edges[at];
            // Beside the only line that ends there no other label stands.
            let is_only = callers[*to] == 1 && from != to && !layout.is_back[at];
            let has_room = is_only && !is_crowded;
            let end = points.last_chunk().filter(|_| has_room);
            EdgeView {
                link: edge_link(edge, filters),
                title: format!("{}: {}", edge_title(edge), calls.sentence()),
                path: match points.is_empty() {
                    true => loop_path(layout.nodes[*from], sizes),
                    false => path(points),
                },
                width: rounded(width(calls.calls, most)),
                fails: calls.fails(),
                label: end.map(|end| label_view(end, &calls)),
            }
        });
    let mut edges: Vec<EdgeView> = edges.collect();
    edges.reverse();
    Drawing {
        width: rounded(layout.width + 2.0 * MARGIN),
        height: rounded(layout.height + 2.0 * MARGIN),
        place: (sizes.width as u32, sizes.height as u32),
        nodes: nodes.collect(),
        edges,
    }
}

/// A service's requests, of all of its endpoints.
fn numbers(service: &ServiceSums, covered: &Covered) -> Numbers {
    let mut sums = collector::deltas::MinuteDelta::default();
    for endpoint in &service.endpoints {
        sums.merge(&endpoint.sums, 1);
    }
    Numbers::of(&sums, covered)
}

fn node_view(
    node: &Node<'_>,
    (x, y): (f64, f64),
    sizes: Sizes,
    numbers: &BTreeMap<i32, Numbers>,
    filters: &Filters,
) -> NodeView {
    let mut view = NodeView {
        link: String::new(),
        title: String::new(),
        x: rounded(x + MARGIN),
        y: rounded(y + MARGIN),
        outline: outline(None, sizes),
        mark: String::new(),
        class: "",
        is_peer: false,
        is_focus: false,
        name: cut(node.name(), sizes),
        note: String::new(),
        errors: String::new(),
    };
    match node {
        Node::Service(service) => {
            view.link = service_link(service, filters);
            view.is_focus = filters.service == service.name;
            view.title = service_title(service);
            if let Some(numbers) = numbers.get(&service.id) {
                let p95 = format::duration(numbers.percentiles[2]);
                let (rate, unit) = numbers.rate_parts();
                view.title = format!(
                    "{}: {rate} requests{unit}, {} % failed, P95 {p95}",
                    view.title,
                    numbers.errors_text()
                );
                let fails = numbers.error_share() >= ERROR_SHARE_MIN;
                // For all of it there is room only in a title.
                view.note = match fails || sizes.width < ROOMY.width {
                    true => format!("P95 {p95}"),
                    false => format!("{rate}{unit} · P95 {p95}"),
                };
                if fails {
                    view.errors = format!("× {} %", numbers.errors_text());
                }
            } else {
                view.note = "no requests of its own".to_owned();
            }
        }
        Node::Peer(peer) => {
            view.is_peer = true;
            view.title = format!("{} ({})", peer_title(peer), peer_kind(peer));
            view.class = peer
                .category
                .as_ref()
                .map_or("unattributed", category_bar::class);
            view.outline = outline(Some(peer.category), sizes);
            view.mark = mark(peer.category, sizes);
            let is_named = !peer.name.is_empty() && !peer.system.is_empty();
            view.note = match is_named {
                true => peer.system.clone(),
                false => peer_kind(peer).to_owned(),
            };
            let keeps_statements =
                matches!(peer.category, Some(Category::Database | Category::Cache));
            if keeps_statements {
                view.link = filters.link("/statements", &[("sort", "")]);
            }
        }
    }
    view
}

/// A name that has room in a place, about; the title has all of it.
fn cut(name: &str, sizes: Sizes) -> String {
    /// Of a letter, px: most are narrower.
    const LETTER: f64 = 7.4;
    let room = ((sizes.width - 20.0) / LETTER) as usize;
    match name.char_indices().nth(room) {
        None => name.to_owned(),
        Some(_) => name.chars().take(room - 1).chain(['…']).collect(),
    }
}

/// A service's name with what tells it from others of the name.
pub fn service_title(service: &ServiceName) -> String {
    let mut title = service.name.clone();
    let namespace = Some(&service.namespace).filter(|it| **it != service.environment);
    for part in [Some(&service.environment), namespace]
        .into_iter()
        .flatten()
    {
        if !part.is_empty() {
            title.push_str(", ");
            title.push_str(part);
        }
    }
    title
}

/// A service's own map and endpoints.
pub fn service_link(service: &ServiceName, filters: &Filters) -> String {
    let only = Filters {
        range: filters.range,
        service: service.name.clone(),
        environment: service.environment.clone(),
        ..Filters::default()
    };
    only.link("/services", &[])
}

/// What there is of these calls: statements, or the caller's requests whose traces reached the callee.
pub fn edge_link(edge: &ServiceEdge, filters: &Filters) -> String {
    let range = filters.range.id();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("service", &edge.caller.name);
    let path = match &edge.called {
        Called::Peer(peer)
            if matches!(peer.category, Some(Category::Database | Category::Cache)) =>
        {
            "/statements"
        }
        Called::Peer(_) => "/traces",
        Called::Reports(callee) => {
            let quoted = callee.name.replace('\\', "\\\\").replace('"', "\\\"");
            query.append_pair("q", &format!("service.name=\"{quoted}\""));
            "/traces"
        }
    };
    query.append_pair("range", range);
    format!("{path}?{}", query.finish())
}

/// `shop → postgresql db`
fn edge_title(edge: &ServiceEdge) -> String {
    let to = match &edge.called {
        Called::Reports(service) => service_title(service),
        Called::Peer(peer) => peer_title(peer),
    };
    format!("{} → {to}", service_title(&edge.caller))
}

/// Beside a line's last two points, on the side that it does not come from.
fn label_view(
    &[(_, before), (x, y)]: &[(f64, f64); 2],
    calls: &Calls,
) -> (String, String, String, String) {
    let beside = if before < y { 15.0 } else { -7.0 };
    let text = format!(
        "{} · {}",
        format::rate(calls.rate),
        format::duration(calls.percentiles[2])
    );
    let errors = match calls.fails() {
        true => format!(" × {} %", calls.errors_text()),
        false => String::new(),
    };
    (
        rounded(x + MARGIN - 12.0),
        rounded(y + MARGIN + beside),
        text,
        errors,
    )
}

/// From 1 px for a call to 5 px for the most. By the root: by the logarithm all would look alike.
fn width(calls: i64, most: i64) -> f64 {
    let share = calls.max(0) as f64 / most.max(1) as f64;
    1.0 + 4.0 * share.sqrt()
}

/// A line through `points`, level at each of them, up to the head of its arrow.
fn path(points: &[(f64, f64)]) -> String {
    /// The arrow's head begins so far before the place it points to.
    const HEAD: f64 = 7.0;
    let mut points: Vec<(f64, f64)> = points
        .iter()
        .map(|(x, y)| (x + MARGIN, y + MARGIN))
        .collect();
    let mut text = String::new();
    if let [.., before, last] = &mut points[..] {
        last.0 -= HEAD.copysign(last.0 - before.0);
    }
    for (at, (x, y)) in points.iter().enumerate() {
        let (x, y) = (rounded(*x), rounded(*y));
        let Some(before) = at.checked_sub(1).map(|it| points[it]) else {
            text.push_str(&format!("M{x} {y}"));
            continue;
        };
        if before.1 == points[at].1 {
            text.push_str(&format!("L{x} {y}"));
        } else {
            let middle = rounded((before.0 + points[at].0) / 2.0);
            text.push_str(&format!(
                "C{middle} {} {middle} {y} {x} {y}",
                rounded(before.1)
            ));
        }
    }
    text
}

/// From a place's upper edge back to it.
fn loop_path((x, y): (f64, f64), sizes: Sizes) -> String {
    let right = x + MARGIN + sizes.width - 18.0;
    let top = y + MARGIN;
    let (left, above) = (right - 26.0, top - 20.0);
    format!(
        "M{} {}C{} {} {} {} {} {}",
        rounded(left),
        rounded(top),
        rounded(left),
        rounded(above),
        rounded(right),
        rounded(above),
        rounded(right),
        rounded(top - 7.0)
    )
}

/// The outline of a place from its upper left corner on: a service is a box, what stores is a drum, what
/// passes messages on a box with ends, what is outside has points. Shapes tell them apart without colours.
fn outline(peer: Option<Option<Category>>, sizes: Sizes) -> String {
    let (w, h) = (sizes.width, sizes.height);
    match peer {
        None => format!(
            "M6 0H{}a6 6 0 0 1 6 6V{}a6 6 0 0 1 -6 6H6a6 6 0 0 1 -6 -6V6a6 6 0 0 1 6 -6z",
            w - 6.0,
            h - 6.0
        ),
        Some(Some(Category::Database | Category::Cache)) => {
            format!(
                "M0 5a{} 5 0 0 1 {w} 0V{}a{} 5 0 0 1 -{w} 0z",
                w / 2.0,
                h - 5.0,
                w / 2.0
            )
        }
        Some(Some(Category::Messaging)) => format!("M0 0H{w}V{h}H0z"),
        Some(_) => format!(
            "M12 0H{}L{w} {}L{} {h}H12L0 {}z",
            w - 12.0,
            h / 2.0,
            w - 12.0,
            h / 2.0
        ),
    }
}

/// Lines upon the outline.
fn mark(category: Option<Category>, sizes: Sizes) -> String {
    let (w, h) = (sizes.width, sizes.height);
    match category {
        Some(Category::Database | Category::Cache) => {
            format!("M0 5a{} 5 0 0 0 {w} 0", w / 2.0)
        }
        Some(Category::Messaging) => format!("M6 0V{h}M{} 0V{h}", w - 6.0),
        _ => String::new(),
    }
}

/// A coordinate, to a tenth of a pixel.
fn rounded(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    // No "-0".
    format!("{}", tenths + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn service(id: i32, name: &str) -> ServiceName {
        ServiceName {
            id,
            namespace: String::new(),
            name: name.into(),
            environment: String::new(),
        }
    }

    fn edge(caller: i32, called: Called<ServiceName>, calls: i64) -> ServiceEdge {
        let mut sums = EdgeDelta {
            calls,
            errors: calls / 10,
            ..EdgeDelta::default()
        };
        sums.latency.record(40_000_000, calls);
        ServiceEdge {
            caller: service(caller, &format!("s{caller}")),
            called,
            sums,
        }
    }

    fn to(id: i32) -> Called<ServiceName> {
        Called::Reports(service(id, &format!("s{id}")))
    }

    fn database() -> Called<ServiceName> {
        Called::Peer(PeerName {
            category: Some(Category::Database),
            system: "mysql".into(),
            name: "db".into(),
        })
    }

    const COVERED: Covered = Covered {
        from_ns: 0,
        now_ns: 60_000_000_000,
    };

    #[test]
    fn the_busiest_are_shown_and_the_others_counted() {
        let edges: Vec<ServiceEdge> = (0..100)
            .map(|it| edge(it, to(it + 1), 100 - i64::from(it)))
            .collect();
        let graph = Graph::of(&narrowed(&edges, &Filters::default()), &[]);
        assert_eq!((graph.nodes.len(), graph.hidden_nodes), (NODES_MAX, 41));
        assert_eq!(graph.edges.len() + graph.hidden_edges, 100);
        assert!(
            graph.nodes.iter().any(|it| it.name() == "s1"),
            "the busiest"
        );
        let drawing = draw(&graph, &[], &Filters::default(), &COVERED);
        assert_eq!(drawing, draw(&graph, &[], &Filters::default(), &COVERED));
    }

    #[test]
    fn a_service_is_shown_with_its_neighbours() {
        let edges = [edge(1, to(2), 5), edge(2, database(), 5), edge(3, to(4), 9)];
        let filters = Filters::parse(Some("service=s2")).unwrap();
        let graph = Graph::of(&narrowed(&edges, &filters), &[]);
        let names: Vec<&str> = graph.nodes.iter().map(Node::name).collect();
        assert_eq!(names, ["s2", "db", "s1"]);
        let drawing = draw(&graph, &[], &filters, &COVERED);
        assert!(drawing.nodes[0].is_focus);
        assert_eq!(drawing.nodes[1].link, "/statements?service=s2");
    }

    #[test]
    fn calls_say_how_often_how_long_and_whether_they_fail() {
        let edges = [edge(1, to(2), 50), edge(1, to(1), 5)];
        let graph = Graph::of(&narrowed(&edges, &Filters::default()), &[]);
        let drawing = draw(&graph, &[], &Filters::default(), &COVERED);
        let call = drawing.edges.iter().find(|it| it.label.is_some()).unwrap();
        let (.., text, errors) = call.label.clone().unwrap();
        assert!(text.starts_with("50/min · "), "{text}");
        assert_eq!(errors, " × 10 %");
        assert!(call.fails);
        assert!(
            call.title
                .starts_with("s1 → s2: 50 calls/min, 10 % failed, P50 "),
            "{}",
            call.title
        );
        assert_eq!(
            call.link,
            "/traces?service=s1&q=service.name%3D%22s2%22&range=1h"
        );
    }

    #[test]
    fn rates_are_of_whole_hours_where_calls_are() {
        let window = Minutes {
            from: 1_000_010,
            to: 1_001_450,
        };
        let all = Covered {
            from_ns: minute_ns(1_000_010),
            now_ns: minute_ns(1_001_440),
        };
        let from = |range, counted_from| covered(all, window, range, counted_from).from_ns;
        assert_eq!(from(Range::Hour, 0), minute_ns(1_000_010));
        assert_eq!(from(Range::Day, 0), minute_ns(1_000_010 - 1_000_010 % 60));
        assert_eq!(from(Range::Day, 1_000_100), minute_ns(1_000_100));
    }
}
