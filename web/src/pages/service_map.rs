//! The part of the services' page that says who calls whom: a map, and the same as a table.

use collector::store::bottlenecks::Minutes;
use collector::store::edges::{Called, ServiceEdge, ServiceEdges};
use collector::store::services::ServiceSums;
use url::form_urlencoded::parse;

use crate::format;
use crate::range::{Covered, Filters, minute_ns};
use crate::service_map::{
    self, Calls, Drawing, Graph, draw, edge_link, narrowed, peer_kind, peer_title, service_link,
    service_title,
};

/// Rows of the table: the page must stay small; the JSON has all.
const ROWS_MAX: usize = 60;

/// The map and its table.
pub struct Section {
    /// The picture.
    pub drawing: Drawing,
    /// What is left out of it, in a sentence; empty if nothing is.
    pub hidden: String,
    /// Calls were not counted at first: since when, in a sentence; else empty.
    pub counted: String,
    /// Only a service's neighbours are shown.
    pub is_focused: bool,
    /// The shapes that there are: class of their category, what they are.
    pub legend: Vec<(&'static str, &'static str)>,
    /// The table's head.
    pub columns: Vec<Column>,
    /// The table.
    pub rows: Vec<Row>,
    /// Rows that are not shown.
    pub hidden_rows: usize,
    /// The table is asked for.
    pub is_table_open: bool,
    /// The same as JSON.
    pub json: String,
}

/// A column of the table, which sorts.
pub struct Column {
    /// Sorted by it.
    pub link: String,
    /// Its head.
    pub title: &'static str,
    /// It is what the table is sorted by.
    pub is_current: bool,
    /// Smallest first.
    pub is_ascending: bool,
    /// Numbers stand right.
    pub is_number: bool,
}

/// Calls from one to another.
pub struct Row {
    /// Who calls.
    pub from: String,
    /// Its page.
    pub from_link: String,
    /// Whom.
    pub to: String,
    /// Its page; empty if there is none.
    pub to_link: String,
    /// What it is, if it does not report; else empty.
    pub kind: &'static str,
    /// How often, with which errors, how long.
    pub calls: Calls,
    /// What there is of these calls.
    pub link: String,
    /// What that is, in a word.
    pub link_title: &'static str,
}

struct Sort {
    id: &'static str,
    title: &'static str,
    key: fn(&Row) -> f64,
}

const SORTS: [Sort; 7] = [
    Sort {
        id: "calls",
        title: "Calls",
        key: |it| it.calls.rate,
    },
    Sort {
        id: "errors",
        title: "Errors %",
        key: |it| it.calls.error_share(),
    },
    Sort {
        id: "p50",
        title: "P50 ms",
        key: |it| it.calls.percentiles[0] as f64,
    },
    Sort {
        id: "p95",
        title: "P95 ms",
        key: |it| it.calls.percentiles[2] as f64,
    },
    Sort {
        id: "p99",
        title: "P99 ms",
        key: |it| it.calls.percentiles[3] as f64,
    },
    Sort {
        id: "from",
        title: "From",
        key: |_| 0.0,
    },
    Sort {
        id: "to",
        title: "To",
        key: |_| 0.0,
    },
];

/// The map of `edges`; `None` if nobody calls anybody. `services` are those that the address asks for.
pub fn section(
    edges: &ServiceEdges,
    services: &[ServiceSums],
    filters: &Filters,
    query: &str,
    (window, covered): (Minutes, &Covered),
) -> Option<Section> {
    let shown = narrowed(&edges.edges, filters);
    if shown.is_empty() {
        return None;
    }
    let of = service_map::covered(*covered, window, filters.range, edges.counted_from);
    // A service's own map has its neighbours anyway.
    let alone = if filters.service.is_empty() {
        services
    } else {
        &[]
    };
    let graph = Graph::of(&shown, alone);
    let asked = parse(query.as_bytes()).filter(|it| it.0 == "calls").last();
    let asked = asked.map(|it| it.1.into_owned());
    let sort = SORTS.iter().find(|it| Some(it.id) == asked.as_deref());
    let mut rows = rows(&shown, sort.unwrap_or(&SORTS[0]), filters, &of);
    let hidden_rows = rows.len().saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    Some(Section {
        drawing: draw(&graph, services, filters, &of),
        hidden: hidden(&graph),
        counted: counted(edges.counted_from, covered),
        is_focused: !filters.service.is_empty(),
        legend: legend(&shown),
        columns: columns(sort.unwrap_or(&SORTS[0]).id, filters),
        rows,
        hidden_rows,
        is_table_open: asked.is_some(),
        json: filters.link("/api/v1/services/edges", &[("sort", "")]),
    })
}

fn rows(edges: &[&ServiceEdge], sort: &Sort, filters: &Filters, covered: &Covered) -> Vec<Row> {
    let mut rows: Vec<Row> = edges.iter().map(|it| row(it, filters, covered)).collect();
    match sort.id {
        "from" => rows.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to))),
        "to" => rows.sort_by(|a, b| (&a.to, &a.from).cmp(&(&b.to, &b.from))),
        _ => rows.sort_by(|a, b| (sort.key)(b).total_cmp(&(sort.key)(a))),
    }
    rows
}

fn row(edge: &ServiceEdge, filters: &Filters, covered: &Covered) -> Row {
    let (to, to_link, kind) = match &edge.called {
        Called::Reports(callee) => (service_title(callee), service_link(callee, filters), ""),
        Called::Peer(peer) => (peer_title(peer), String::new(), peer_kind(peer)),
    };
    let link = edge_link(edge, filters);
    Row {
        from: service_title(&edge.caller),
        from_link: service_link(&edge.caller, filters),
        to,
        to_link,
        kind,
        calls: Calls::of(&edge.sums, covered),
        link_title: match link.starts_with("/statements") {
            true => "statements",
            false => "traces",
        },
        link,
    }
}

fn columns(current: &str, filters: &Filters) -> Vec<Column> {
    // From, to, then the numbers.
    let columns = [5, 6, 0, 1, 2, 3, 4].map(|at| {
        let sort = &SORTS[at];
        let is_name = matches!(sort.id, "from" | "to");
        let page = filters.link("/services", &[]);
        let separator = if page.contains('?') { '&' } else { '?' };
        Column {
            link: format!("{page}{separator}calls={}#calls", sort.id),
            title: sort.title,
            is_current: sort.id == current,
            is_ascending: is_name,
            is_number: !is_name,
        }
    });
    columns.into()
}

fn legend(edges: &[&ServiceEdge]) -> Vec<(&'static str, &'static str)> {
    let mut kinds: Vec<(&'static str, &'static str)> = edges
        .iter()
        .filter_map(|it| match &it.called {
            Called::Reports(_) => None,
            Called::Peer(peer) => {
                let category = peer.category.as_ref();
                Some((
                    category.map_or("unattributed", crate::category_bar::class),
                    peer_kind(peer),
                ))
            }
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// `41 of 101 places and 12 calls are left out: those with the fewest calls.`
fn hidden(graph: &Graph<'_>) -> String {
    let plural = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        many => format!("{} {noun}s", format::count(many as i64)),
    };
    let left_out = match (graph.hidden_nodes, graph.hidden_edges) {
        (0, 0) => return String::new(),
        (0, edges) => plural(edges, "line"),
        (nodes, 0) => plural(nodes, "place"),
        (nodes, edges) => format!("{} and {}", plural(nodes, "place"), plural(edges, "line")),
    };
    format!(
        "The busiest {} places. Left out: {left_out} with the fewest calls; choose a service to see its neighbours.",
        graph.nodes.len()
    )
}

/// What was stored by an earlier version has no calls.
pub fn counted(counted_from: i32, covered: &Covered) -> String {
    if minute_ns(counted_from) <= covered.from_ns {
        return String::new();
    }
    format!(
        "Calls between services are counted since {}.",
        format::when(minute_ns(counted_from), covered.now_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, drawn_at};
    use scraper::{Html, Selector};

    /// `web` calls `shop`, which calls a database, something hostile, and itself.
    const CHECKOUT: &str = r#"
        web   GET /                                                                   |--------------------|
        web     GET [client] {server.address=shop}                                     |----------------|
        shop      GET /cart [server]                                                    |-------------|
        shop        SELECT [client] {db.system=mysql, server.address=db, db.statement="select 1 from a"}  |--|
        shop        POST [client] {peer.service="<script>alert(1)</script>", http.status_code=503}           |--|
        shop        GET [client] {server.address=shop}                                          |--|
        shop          GET /prices [server]                                                       ||
    "#;

    async fn site() -> Site {
        let start_ns = format::now_ns() - 60_000_000_000;
        Site::with(&[&drawn_at(CHECKOUT, start_ns, 1)]).await
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        html.select(&selector)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_map_and_its_table_say_the_same() {
        let site = site().await;
        let page = site.page("/services").await;
        assert!(!page.contains("<script>alert"));
        let html = Html::parse_document(&page);
        let mut places = texts(&html, ".map text.name");
        places.sort();
        assert_eq!(places, ["<script>alert(1)</s…", "db", "shop", "web"], "cut");
        assert_eq!(texts(&html, ".map path.call").len(), 4);
        assert_eq!(texts(&html, ".map path.call.err").len(), 1);
        assert_eq!(texts(&html, "#calls tbody tr").len(), 4);
        let sorted = site.page("/services?calls=from").await;
        let html = Html::parse_document(&sorted);
        assert_eq!(
            texts(&html, "#calls tbody th"),
            ["shop", "shop", "shop", "web"]
        );
        assert_eq!(texts(&html, "#calls th[aria-sort]"), ["From ↑"]);
        // Every place and every call leads somewhere.
        let links = Selector::parse(".map a, #calls a").unwrap();
        let links: std::collections::BTreeSet<String> = html
            .select(&links)
            .filter_map(|it| it.attr("href"))
            .map(|it| it.split('#').next().unwrap_or_default().to_owned())
            .collect();
        for link in links {
            site.page(&link).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_service_has_its_own_map_and_an_endpoint_its_neighbours() {
        let site = site().await;
        let html = Html::parse_document(&site.page("/services?service=web").await);
        let mut places = texts(&html, ".map text.name");
        places.sort();
        assert_eq!(places, ["shop", "web"]);
        let cart: i32 = id_of_cart(&site).await;
        let html = Html::parse_document(&site.page(&format!("/endpoints/{cart}")).await);
        let of = |id: &str| {
            texts(
                &html,
                &format!("section[aria-labelledby={id}] tbody th .brk"),
            )
        };
        assert_eq!(of("cb"), ["GET /"]);
        let mut calls = of("cs");
        calls.sort();
        assert_eq!(
            calls,
            ["<script>alert(1)</script>", "GET /prices", "mysql db"]
        );
        let json = site
            .page(&format!("/api/v1/endpoints/{cart}/neighbours"))
            .await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["called_by"][0]["endpoint"], "GET /");
        assert_eq!(json["calls"].as_array().unwrap().len(), 3);
    }

    /// The id of `GET /cart`.
    async fn id_of_cart(site: &Site) -> i32 {
        let named = site.store.endpoint_named(["", "shop", "", "GET /cart"]);
        named.await.unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_are_told_as_json() {
        let site = site().await;
        let json = site.page("/api/v1/services/edges?service=web").await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let edges = json["edges"].as_array().unwrap();
        assert_eq!(edges.len(), 1);
        assert_eq!(
            (&edges[0]["from"]["name"], &edges[0]["to"]["name"]),
            (&"web".into(), &"shop".into())
        );
        assert_eq!(edges[0]["calls"], 1);
        let p95 = edges[0]["p95_ns"].as_u64().unwrap();
        assert!(p95.abs_diff(17_000_000) < 300_000, "what web waited: {p95}");
    }

    #[test]
    fn what_an_earlier_version_stored_has_no_calls() {
        let covered = Covered {
            from_ns: minute_ns(1_000),
            now_ns: minute_ns(2_000),
        };
        assert_eq!(counted(1_000, &covered), "");
        assert!(counted(1_500, &covered).starts_with("Calls between services are counted since "));
    }
}
