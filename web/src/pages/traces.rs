//! The list of traces: newest or slowest first, by every filter that is a column.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::requests::{ListedRequest, RequestOrder, RequestPage};

use super::context::Times;
use super::{Frame, PageError, render};
use crate::AppState;
use crate::address::Address;
use crate::category_bar::{self, Parts};
use crate::format::{at, day_and_clock, duration, now_ns, when};
use crate::search_text::{TextError, in_words};
use crate::timestamps;
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
    let makes_sense = filter.not_understood.is_none() && !filter.is_backwards;
    let listed = match makes_sense {
        true => state.store.requests(&filter.of).await?,
        false => RequestPage::default(),
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
    /// A time to be typed, and the times beside this one.
    pub times: Times,
    /// The fixed time that is listed, in words and exactly.
    pub chosen: Option<(String, String)>,
    /// That time ends before it begins.
    pub is_backwards: bool,
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
    // Nothing new comes to a time that has an end.
    let is_live = address.has("live") && !filter.has_end;
    TracesPage {
        frame: Frame { current: "/traces" },
        sentence: sentence(filter, listed.len(), page.next.is_some()),
        ranges: RANGES
            .iter()
            .enumerate()
            .map(|(at, (id, _, _))| {
                let href = first_page(&[&[("range", *id)], &NOT_FIXED[..]].concat());
                (*id, href, filter.range == Some(at))
            })
            .collect(),
        times: times(&address, filter, now_ns),
        chosen: filter.range.is_none().then(|| chosen(filter)),
        is_backwards: filter.is_backwards,
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
        live: is_live.then(|| format!("/traces/events{}", first_page(&[]))),
        live_toggle: match is_live {
            true => address.with(&[("live", "")]),
            // What is new stands above what is newest.
            false => first_page(&[&[("live", "1"), ("sort", "")], &NOT_FIXED[..]].concat()),
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

/// A fixed time, taken away.
const NOT_FIXED: [(&str, &str); 3] = [("from", ""), ("to", ""), ("until", "")];

/// What a link to a fixed time has instead of these: a time that is over has nothing new.
const NOT_OF_FIXED: [(&str, &str); 4] = [("range", ""), ("until", ""), ("live", ""), ("after", "")];

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// The form for another time, and as much time right before and right after.
fn times(address: &Address, filter: &TraceFilter, now_ns: u64) -> Times {
    let is_fixed = filter.range.is_none();
    let (mut from_ns, mut to_ns) = (filter.of.from_ns, filter.of.until_ns.min(now_ns));
    if !is_fixed {
        // Typed times and links have whole minutes.
        let length_ns = to_ns - from_ns;
        to_ns = to_ns.next_multiple_of(NS_PER_MINUTE);
        from_ns = to_ns - length_ns;
    }
    let length_ns = to_ns.saturating_sub(from_ns);
    let link = |from_ns: u64, to_ns: u64| {
        let (from, to) = (timestamps::exact(from_ns), timestamps::exact(to_ns));
        let time = [("from", &*from), ("to", &*to)];
        address.with(&[&NOT_OF_FIXED[..], &time].concat())
    };
    let is_over = is_fixed && filter.has_end && filter.of.until_ns < now_ns;
    Times {
        is_fixed,
        from: timestamps::field(from_ns),
        to: timestamps::field(to_ns.next_multiple_of(NS_PER_MINUTE)),
        path: "/traces".to_owned(),
        hidden: address.without(&["range", "from", "to", "until", "live", "after"]),
        before: from_ns
            .checked_sub(length_ns)
            .filter(|_| length_ns > 0)
            .map(|it| link(it, from_ns)),
        after: (is_over && length_ns > 0).then(|| link(to_ns, to_ns.saturating_add(length_ns))),
    }
}

/// The fixed time: `20 Nov 14:02 to 20 Nov 14:32 UTC`, and with year and second.
fn chosen(filter: &TraceFilter) -> (String, String) {
    let (from_ns, to_ns) = (filter.of.from_ns, filter.of.until_ns);
    match (from_ns, filter.has_end) {
        (0, _) => (
            format!("Until {} UTC", day_and_clock(to_ns)),
            format!("until {}", at(to_ns)),
        ),
        (_, false) => (
            format!("Since {} UTC", day_and_clock(from_ns)),
            format!("since {}", at(from_ns)),
        ),
        (_, true) => (
            format!("{} to {} UTC", day_and_clock(from_ns), day_and_clock(to_ns)),
            format!("{} to {}", at(from_ns), at(to_ns)),
        ),
    }
}

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
    if filter.is_backwards {
        return "This time ends before it begins".to_owned();
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

    use crate::format;
    use crate::testing::{HOSTILE, Site, assert_harmless, drawn, drawn_at};
    use crate::timestamps;

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

    /// Where a link with this text leads.
    fn link_of(page: &str, text: &str) -> Option<String> {
        let before = &page[..page.find(&format!(">{text}</a>"))?];
        let href = &before[before.rfind("href=\"")? + 6..];
        Some(
            href[..href.find('"')?]
                .replace("&amp;", "&")
                .replace("&#38;", "&"),
        )
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_time_is_typed_and_the_times_beside_it_are_a_click_away() {
        const MINUTE: u64 = 60_000_000_000;
        let hour_ago = format::now_ns() / MINUTE * MINUTE - 60 * MINUTE;
        let at = |minutes: u64, nth: u8| drawn_at(CART, hour_ago + minutes * MINUTE, nth);
        let traces = [at(0, 1), at(9, 2), at(10, 3), at(29, 4)];
        let site = Site::with(&traces.iter().collect::<Vec<_>>()).await;
        let rows = async |address: &str| {
            let page = site.page(address).await;
            (page.matches("data-row").count(), page)
        };
        let field = |minutes: u64| timestamps::field(hour_ago + minutes * MINUTE);
        // As the form sends it.
        let typed = format!("/traces?from={}&to={}&sort=slowest", field(0), field(10));
        let (count, page) = rows(&typed).await;
        assert_eq!(count, 2, "{page}");
        for shown in [
            format!("name=\"from\" value=\"{}\"", field(0)),
            format!("name=\"to\" value=\"{}\"", field(10)),
            "<summary aria-current=\"true\">Chosen time</summary>".to_owned(),
            "<input type=\"hidden\" name=\"sort\" value=\"slowest\">".to_owned(),
        ] {
            assert!(page.contains(&shown), "{shown}: {page}");
        }
        let later = link_of(&page, "Later ›").unwrap();
        let (count, page) = rows(&format!("/traces{later}")).await;
        assert_eq!(count, 1, "{later}");
        let again = link_of(&page, "‹ Earlier").unwrap();
        assert_eq!(rows(&format!("/traces{again}")).await.0, 2, "{again}");
        // Nothing new comes to a time that is over: no stream, and the way to it leads to now.
        let (_, page) = rows(&format!("{typed}&live=1")).await;
        assert!(!page.contains("data-live") && !page.contains("http-equiv"));
        assert_eq!(link_of(&page, "Live").unwrap(), "?live=1");
        // A relative range has no later one, and as much time before it.
        let (count, page) = rows("/traces?range=15m&service=shop&after=7").await;
        assert_eq!((count, link_of(&page, "Later ›")), (0, None));
        let earlier = link_of(&page, "‹ Earlier").unwrap();
        assert!(earlier.starts_with("?service=shop&from=20"), "{earlier}");
        // Without an end it goes on until now.
        let (count, page) = rows(&format!("/traces?from={}", field(10))).await;
        assert_eq!((count, page.contains("Since ")), (2, true));
        let (count, page) = rows(&format!("/traces?from={}&to={}", field(9), field(9))).await;
        assert_eq!(count, 0);
        assert!(page.contains("ends before it begins"), "{page}");
        let address = format!("/api/v1/traces?from={}&to={}", field(9), field(9));
        assert_eq!(site.get(&address).await.0, StatusCode::BAD_REQUEST);
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
