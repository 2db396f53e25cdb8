//! The list of traces: newest or slowest first, by every filter that is a column.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::requests::{ListedRequest, RequestOrder, RequestPage};

use super::{Frame, PageError, render};
use crate::AppState;
use crate::address::Address;
use crate::category_bar::{self, Parts};
use crate::format::{at, duration, now_ns, when};
use crate::search_text::{TextError, in_words};
use crate::trace_filter::{self, PAGE_ROWS, RANGES, TraceFilter};

/// `GET /traces`.
///
/// # Errors
/// The database cannot be reached, or the filters match so little that looking took too long.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let now_ns = now_ns();
    let mut filter = trace_filter::parse(&address, now_ns);
    filter.of.limit = PAGE_ROWS;
    let listed = match filter.not_understood {
        Some(_) => RequestPage::default(),
        None => state.store.requests(&filter.of).await?,
    };
    Ok(render(&build(address, &filter, listed, now_ns)))
}

/// The list, ready to be written.
#[derive(askama::Template)]
#[template(path = "traces.html")]
pub struct TracesPage {
    /// What the frame needs.
    pub frame: Frame,
    /// What is listed, as a sentence.
    pub sentence: String,
    /// The filters as they stand in the address.
    pub address: Address,
    /// Links to the ranges: name, address, chosen.
    pub ranges: Vec<(&'static str, String, bool)>,
    /// Links to the orders: name, address, chosen.
    pub orders: Vec<(&'static str, String, bool)>,
    /// Filters that could not be read.
    pub unread: Vec<(&'static str, String)>,
    /// The rows.
    pub rows: Vec<TraceRow>,
    /// Why the search is not understood, and the rest of it from there on.
    pub not_understood: Option<(TextError, String)>,
    /// What the search asks of spans, in words.
    pub conditions: Vec<String>,
    /// Where the looking ended before the page was full, in words.
    pub not_beyond: Option<String>,
    /// Link to the next page.
    pub next: Option<String>,
    /// Link to the first page, if this is another.
    pub first: Option<String>,
    /// A wider range to look into if there is nothing: words and address.
    pub wider: Option<(&'static str, String)>,
    /// Only outermost requests are listed, and the address that lists all.
    pub all: Option<String>,
    /// Some filter besides the range is set, and the address without them.
    pub unfiltered: Option<String>,
    /// New requests are to appear by themselves; they come from this address.
    pub live: Option<String>,
    /// Begins with that, or ends it.
    pub live_toggle: String,
}

/// A line of the list.
pub struct TraceRow {
    /// The request.
    pub of: ListedRequest,
    /// Link to its page.
    pub href: String,
    /// When it started: `14:29:07 UTC`.
    pub start: String,
    /// `762.8 ms`.
    pub duration: String,
    /// Share of the longest on the page, percent.
    pub width: f64,
    /// Where its time went.
    pub parts: Parts,
}

/// Lays out one page of the list.
pub fn build(address: Address, filter: &TraceFilter, page: RequestPage, now_ns: u64) -> TracesPage {
    let listed = page.rows;
    let longest_ns = listed
        .iter()
        .map(|it| it.duration_ns)
        .max()
        .unwrap_or(0)
        .max(1);
    let first_page = |changes: &[(&str, &str)]| address.with(&[&[("after", "")], changes].concat());
    TracesPage {
        frame: Frame { current: "/traces" },
        sentence: sentence(filter, listed.len(), page.next.is_some()),
        ranges: RANGES
            .iter()
            .enumerate()
            .map(|(at, (id, _, _))| {
                let href = first_page(&[("range", id), ("from", ""), ("until", "")]);
                (*id, href, filter.range == Some(at))
            })
            .collect(),
        orders: [
            ("Newest", "", RequestOrder::Newest),
            ("Slowest", "slowest", RequestOrder::Slowest),
        ]
        .map(|(name, id, order)| (name, first_page(&[("sort", id)]), filter.of.order == order))
        .into(),
        unread: filter.unread.clone(),
        not_understood: filter.not_understood.clone().map(|it| {
            let text = address.get("q").unwrap_or_default();
            let rest = text.chars().skip(it.column - 1).collect();
            (it, rest)
        }),
        conditions: filter.of.conditions.iter().map(in_words).collect(),
        not_beyond: page.not_beyond_ns.map(|it| match filter.of.order {
            RequestOrder::Newest => format!("back to {}", at(it)),
            RequestOrder::Slowest => format!("down to {}", duration(it)),
        }),
        next: page
            .next
            .map(|it| address.with(&[("after", &trace_filter::cursor(&it))])),
        first: filter.of.after.map(|_| first_page(&[])),
        wider: filter
            .range
            .and_then(|it| RANGES.get(it + 1))
            .map(|(id, words, _)| (*words, first_page(&[("range", id)]))),
        all: filter
            .of
            .outermost
            .then(|| first_page(&[("entries", "all")])),
        unfiltered: has_filters(&address).then(|| first_page(&NO_FILTERS)),
        live: address
            .has("live")
            .then(|| format!("/traces/events{}", address.with(&[("after", "")]))),
        live_toggle: match address.has("live") {
            true => address.with(&[("live", "")]),
            // What is new stands above what is newest.
            false => address.with(&[("live", "1"), ("sort", ""), ("after", "")]),
        },
        rows: listed
            .into_iter()
            .map(|it| row(it, longest_ns, now_ns))
            .collect(),
        address,
    }
}

/// The shortest request's bar, percent: its colours can still be told apart.
const BAR_MIN: f64 = 2.0;

/// Everything but range and order, taken away.
const NO_FILTERS: [(&str, &str); 9] = [
    ("q", ""),
    ("name", ""),
    ("service", ""),
    ("endpoint", ""),
    ("min", ""),
    ("max", ""),
    ("errors", ""),
    ("findings", ""),
    ("entries", ""),
];

fn has_filters(address: &Address) -> bool {
    NO_FILTERS.iter().any(|it| address.has(it.0))
}

/// Lays out one row; bars are shares of `longest_ns`.
pub fn row(of: ListedRequest, longest_ns: u64, now_ns: u64) -> TraceRow {
    TraceRow {
        href: format!("/traces/{}?span={}", of.trace_id, of.span_id),
        start: when(of.start_ns, now_ns),
        duration: duration(of.duration_ns),
        width: (of.duration_ns as f64 * 100.0 / longest_ns as f64).max(BAR_MIN),
        parts: category_bar::parts(&of.categories),
        of,
    }
}

/// `The 50 slowest requests of shop-api in the last hour`.
fn sentence(filter: &TraceFilter, rows: usize, more: bool) -> String {
    let of = &filter.of;
    let which = match of.order {
        RequestOrder::Newest => "newest",
        RequestOrder::Slowest => "slowest",
    };
    let failed = if of.errors { " failed" } else { "" };
    let what = if of.outermost { "traces" } else { "requests" };
    let place = match (of.service.as_str(), of.endpoint.as_str()) {
        ("", "") => String::new(),
        (service, "") => format!(" of {service}"),
        ("", endpoint) => format!(" to {endpoint}"),
        (service, endpoint) => format!(" of {service} to {endpoint}"),
    };
    let culprits = if of.with_finding {
        " with a culprit"
    } else {
        ""
    };
    let range = match filter.range {
        Some(at) => format!("in the last {}", RANGES[at].1),
        None => "in the chosen time".to_owned(),
    };
    let found = if of.conditions.is_empty() {
        ""
    } else {
        " that match"
    };
    let culprits = format!("{culprits}{found}");
    if filter.not_understood.is_some() {
        return "This search is not understood".to_owned();
    }
    match rows {
        0 => format!("No{failed} {what}{place}{culprits} {range}"),
        1 if !more => format!(
            "One{failed} {}{place}{culprits} {range}",
            &what[..what.len() - 1]
        ),
        rows if more || of.after.is_some() => {
            let position = if of.after.is_some() {
                "The next"
            } else {
                "The"
            };
            format!("{position} {rows} {which}{failed} {what}{place}{culprits} {range}")
        }
        rows => format!("{rows}{failed} {what}{place}{culprits} {range}, {which} first"),
    }
}

impl TracesPage {
    fn onwards(&self) -> &'static str {
        match self.value("sort") {
            "slowest" => "Faster ones",
            _ => "Older",
        }
    }

    fn value(&self, key: &str) -> &str {
        self.address.get(key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::Value;

    use crate::testing::{HOSTILE, Site, assert_harmless, drawn};

    const CART: &str = "
        shop  GET /cart {http.response.status_code=500}  |----------|
        shop    SELECT item {db.system.name=postgresql}    |-----|
    ";
    const PAY: &str = "
        pay   POST /pay {http.response.status_code=200}  |----------|
        pay     SELECT card {db.system.name=mysql}         |-----|
    ";

    fn encoded(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_finds_traces_and_says_what_it_did_not_find() {
        let mut pay = drawn(PAY);
        // Drawn traces have one id: this one gets another.
        let id = collector::otlp::trace_ids(&pay.otlp).unwrap()[0].0;
        let other = [0xee; 16];
        let mut at = 0;
        while at + 16 <= pay.otlp.len() {
            if pay.otlp[at..at + 16] == id {
                pay.otlp[at..at + 16].copy_from_slice(&other);
            }
            at += 1;
        }
        let site = Site::with(&[&drawn(CART), &pay]).await;
        let found = async |query: &str| {
            let address = format!("/traces?from=0&q={}", encoded(query));
            let page = site.page(&address).await;
            let json = site.page(&format!("/api/v1{address}")).await;
            let json: Value = serde_json::from_str(&json).unwrap();
            let requests = json["requests"].as_array().unwrap().clone();
            assert_eq!(page.matches("data-row").count(), requests.len(), "{query}");
            let endpoints = requests
                .iter()
                .map(|it| it["endpoint"].as_str().unwrap().to_owned());
            (endpoints.collect::<Vec<_>>(), page)
        };
        assert_eq!(found("db.system.name=mysql").await.0, ["POST /pay"]);
        assert_eq!(found("service=shop").await.0, ["GET /cart"]);
        assert_eq!(found("name=\"SELECT item\"").await.0, ["GET /cart"]);
        assert_eq!(found("name=\"GET /cart\"").await.0, ["GET /cart"]);
        assert_eq!(
            found("http.response.status_code>=500").await.0,
            ["GET /cart"]
        );
        assert_eq!(found("duration>1ms db.system.name").await.0.len(), 2);
        assert_eq!(found("duration>1h").await.0.len(), 0);
        let (none, page) = found("db.system.name=oracle service=shop").await;
        assert!(none.is_empty());
        assert!(page.contains("db.system.name is oracle"), "{page}");
        for text in HOSTILE {
            let quoted = format!("x=\"{}\"", text.replace(['"', '\\'], ""));
            assert!(found(&quoted).await.0.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_that_is_not_understood_lists_nothing_and_points_at_it() {
        let site = Site::with(&[&drawn(CART)]).await;
        let page = site.page("/traces?from=0&q=db.system.name%3D").await;
        assert!(
            page.contains("Column 16:") && !page.contains("data-row"),
            "{page}"
        );
        let (status, _, json) = site.get("/api/v1/traces?from=0&q=a%21%3D1").await;
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (status, &json["column"]),
            (StatusCode::BAD_REQUEST, &Value::from(2))
        );
        for text in HOSTILE {
            let (_, _, page) = site
                .get(&format!("/traces?from=0&q={}", encoded(text)))
                .await;
            assert_harmless(&page);
        }
    }
}
