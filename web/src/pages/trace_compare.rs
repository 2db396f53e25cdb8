//! Two traces side by side: where does the second one's time differ from the first one's?
//!
//! Both are folded by call path ([`trace_flame`]), and paths of the same names are put beside each other.
//! The rows' times on the critical path add up to the two durations, so their differences add up to the
//! difference: nothing is left unexplained.

use std::collections::HashMap;

use analyzer::category::Category;
use analyzer::span::TraceId;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::store::Store;
use collector::store::requests::RequestFilter;

use super::trace::count;
use super::{Frame, PageError, not_found, render};
use crate::AppState;
use crate::address::Address;
use crate::format::duration;
use crate::indexed::Indexed;
use crate::trace_flame;
use crate::trace_id;
use crate::unit::Unit;

/// Paths on the page, the largest differences first; the rest is added up in one row.
const ROWS_MAX: usize = 200;

/// Requests among which the ordinary one is looked for; the median of so many is that of all, nearly.
const CANDIDATES: i64 = 200;

/// The ordinary request is looked for so far before and after: what was ordinary yesterday may not be now.
const AROUND_NS: u64 = 3_600_000_000_000;

/// `GET /traces/{id}/compare?with=…`: leads to the comparison with a pasted id or URL, or with the median
/// of the endpoint's requests (`with=median`).
///
/// # Errors
/// There is nothing to compare with, the database cannot be reached, or what is stored is damaged.
pub async fn choose(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let Some(trace_id) = trace_id::parse(&id) else {
        return not_found::no_trace_id(id);
    };
    let address = Address::parse(query.as_deref());
    let with = address.get("with").unwrap_or_default();
    let other = if with == "median" {
        let looked = state.traces.look(trace_id, |it, _| Ok(request(it)));
        let Some(looked) = looked.await? else {
            return not_found::no_trace(&state.store, trace_id).await;
        };
        match looked.answer? {
            Some(request) => ordinary(&state.store, trace_id, &request).await?,
            None => None,
        }
        .ok_or_else(|| {
            let text = "There is no other request of this endpoint within an hour of this one to compare \
                with. Paste the id of any trace instead.";
            PageError::NotFound(text.to_owned())
        })?
    } else {
        trace_id::find(with).map(|it| it.trace_id).ok_or_else(|| {
            PageError::BadRequest(
                "There is no trace id in that text. A trace id has 32 hexadecimal digits; a URL or \
                 traceparent that holds one is as good."
                    .to_owned(),
            )
        })?
    };
    Ok(Redirect::to(&format!("/traces/{trace_id}/compare/{other}")).into_response())
}

/// What the trace is about, to find its like.
struct Request {
    service: String,
    environment: String,
    endpoint: String,
    start_ns: u64,
}

fn request(indexed: &Indexed<'_, '_>) -> Option<Request> {
    indexed.main().map(|it| Request {
        service: it.service.name.to_owned(),
        environment: it.service.environment.to_owned(),
        endpoint: it.endpoint.clone(),
        start_ns: it.start_ns,
    })
}

/// The request of the median duration among those of the endpoint that succeeded around the same time.
async fn ordinary(
    store: &Store,
    not: TraceId,
    like: &Request,
) -> Result<Option<TraceId>, PageError> {
    let filter = RequestFilter {
        from_ns: like.start_ns.saturating_sub(AROUND_NS),
        until_ns: like.start_ns.saturating_add(AROUND_NS),
        service: like.service.clone(),
        endpoint: like.endpoint.clone(),
        ..RequestFilter::newest(CANDIDATES)
    };
    let mut found = store.requests(&filter).await?.rows;
    found.retain(|it| it.trace_id != not && !it.error && it.environment == like.environment);
    found.sort_unstable_by_key(|it| (it.duration_ns, it.start_ns));
    Ok(found.get(found.len() / 2).map(|it| it.trace_id))
}

/// `GET /traces/{id}/compare/{other}`
///
/// # Errors
/// The database cannot be reached, or what is stored is damaged.
pub async fn page(
    State(state): State<AppState>,
    Path((id, other)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let mut sides = Vec::new();
    for text in [id, other] {
        let Some(trace_id) = trace_id::parse(&text) else {
            return not_found::no_trace_id(text);
        };
        let looked = state
            .traces
            .look(trace_id, move |it, _| Ok(fold(&trace_id, it)));
        let Some(looked) = looked.await? else {
            return not_found::no_trace(&state.store, trace_id).await;
        };
        sides.push(looked.answer?);
    }
    let [a, b]: [Side; 2] = sides
        .try_into()
        .map_err(|_| anyhow::anyhow!("there are two sides"))?;
    Ok(render(&compare(a, b)))
}

/// One of the two traces.
#[derive(Clone, Debug)]
struct Side {
    id: String,
    title: String,
    service: String,
    duration_ns: u64,
    error: bool,
    spans: usize,
    categories: [u64; Category::COUNT],
    paths: HashMap<Vec<String>, CallPath>,
}

/// What went one call path.
#[derive(Clone, Debug)]
struct CallPath {
    service: String,
    category: Category,
    calls: u32,
    /// Time of its own in which nothing it called ran, ns.
    self_ns: u64,
    /// Time on the critical path of the main request, ns.
    critical_ns: u64,
    /// The first span, as addresses name it.
    span: String,
}

fn fold(id: &TraceId, indexed: &Indexed<'_, '_>) -> Side {
    let analysis = indexed.analysis;
    let graph = trace_flame::graph(indexed, None);
    let main = indexed.main();
    let mut critical = vec![0_u64; graph.frames.len()];
    for segment in main.iter().flat_map(|it| &it.path) {
        critical[graph.of_span[segment.span as usize]] += segment.end_ns - segment.start_ns;
    }
    let mut keys: Vec<Vec<String>> = Vec::with_capacity(graph.frames.len());
    let mut paths = HashMap::new();
    for (frame, critical_ns) in graph.frames.iter().zip(critical) {
        let above = frame.parent.map(|it| keys[it].clone());
        let mut key = above.unwrap_or_default();
        key.push(frame.name.clone());
        keys.push(key.clone());
        let path = paths.entry(key).or_insert_with(|| CallPath {
            service: frame.service.clone(),
            category: frame.category,
            calls: 0,
            self_ns: 0,
            critical_ns: 0,
            span: analysis.trace.span(frame.span).id.to_string(),
        });
        path.calls += frame.count;
        path.self_ns += frame.self_ns;
        path.critical_ns += critical_ns;
    }
    let root = analysis.trace.roots.first();
    Side {
        id: id.to_string(),
        title: match (main, root) {
            (Some(entry), _) => entry.endpoint.clone(),
            (None, Some(root)) => indexed.names.name(*root).to_owned(),
            (None, None) => "An empty trace".to_owned(),
        },
        service: main
            .map(|it| it.service.name.to_owned())
            .unwrap_or_default(),
        duration_ns: main.map_or(0, |it| it.duration_ns),
        error: main.is_some_and(|it| it.error),
        spans: analysis.trace.nodes.len(),
        categories: main.map_or([0; Category::COUNT], |it| it.categories),
        paths,
    }
}

#[derive(askama::Template)]
#[template(path = "trace/compare.html")]
struct ComparePage {
    frame: Frame,
    /// `The second took 120 ms longer: 31 × select authors instead of 1`.
    sentence: String,
    sides: [SideView; 2],
    /// Exchanges the two.
    swap_href: String,
    unit: Unit,
    categories: Vec<CategoryRow>,
    rows: Vec<PathRow>,
    /// Paths that are added up in the last row.
    rest: usize,
    /// All of them together.
    together: Figures,
}

struct SideView {
    name: &'static str,
    id: String,
    title: String,
    service: String,
    facts: String,
    error: bool,
}

struct CategoryRow {
    category: Category,
    figures: Figures,
}

struct PathRow {
    category: Option<Category>,
    name: String,
    service: String,
    /// What is above it: `GET /posts › load authors`.
    above: String,
    calls: [Option<u32>; 2],
    own: [String; 2],
    figures: Figures,
    /// Links to the first span on each side.
    hrefs: [Option<String>; 2],
}

/// Two times and what they differ by, in the page's unit.
struct Figures {
    a: String,
    b: String,
    difference: String,
    /// `more` or `less`, for the style; empty if they do not differ.
    sign: &'static str,
    exact_ns: i64,
}

impl Figures {
    fn of(unit: &Unit, a: u64, b: u64) -> Figures {
        let exact_ns = b as i64 - a as i64;
        Figures {
            a: unit.figure(a),
            b: unit.figure(b),
            difference: match exact_ns {
                0 => "0".to_owned(),
                it if it > 0 => format!("+{}", unit.figure(it.unsigned_abs())),
                it => format!("−{}", unit.figure(it.unsigned_abs())),
            },
            sign: ["less", "", "more"][(exact_ns.signum() + 1) as usize],
            exact_ns,
        }
    }
}

fn compare(a: Side, b: Side) -> ComparePage {
    let unit = Unit::fitting(a.duration_ns.max(b.duration_ns));
    let mut paths: Vec<&Vec<String>> = a.paths.keys().collect();
    paths.extend(b.paths.keys().filter(|it| !a.paths.contains_key(*it)));
    let critical =
        |of: &Side, path: &Vec<String>| of.paths.get(path).map_or(0, |it| it.critical_ns);
    let own = |of: &Side, path: &Vec<String>| of.paths.get(path).map_or(0, |it| it.self_ns);
    // What the duration differs by first; then what only the work does, which ran beside or after it.
    paths.sort_by_key(|path| {
        let critical = critical(&a, path).abs_diff(critical(&b, path));
        let own = own(&a, path).abs_diff(own(&b, path));
        (std::cmp::Reverse((critical, own)), *path)
    });
    let rest = paths.split_off(paths.len().min(ROWS_MAX));
    let mut rows: Vec<PathRow> = paths
        .iter()
        .map(|path| row(&unit, [&a, &b], path))
        .collect();
    if !rest.is_empty() {
        let sum = |of: &Side| rest.iter().map(|it| critical(of, it)).sum::<u64>();
        let work = |of: &Side| unit.figure(rest.iter().map(|it| own(of, it)).sum());
        rows.push(PathRow {
            category: None,
            name: format!("({} other paths)", rest.len()),
            service: String::new(),
            above: String::new(),
            calls: [None, None],
            own: [work(&a), work(&b)],
            figures: Figures::of(&unit, sum(&a), sum(&b)),
            hrefs: [None, None],
        });
    }
    let categories = Category::ALL
        .into_iter()
        .filter(|it| a.categories[*it as usize] + b.categories[*it as usize] > 0)
        .map(|category| CategoryRow {
            category,
            figures: Figures::of(
                &unit,
                a.categories[category as usize],
                b.categories[category as usize],
            ),
        });
    let side = |name, of: &Side| SideView {
        name,
        id: of.id.clone(),
        title: of.title.clone(),
        service: of.service.clone(),
        facts: format!("{}, {}", duration(of.duration_ns), count(of.spans, "span")),
        error: of.error,
    };
    ComparePage {
        frame: Frame { current: "/traces" },
        sentence: sentence(&a, &b, paths.first().map(|it| it.as_slice())),
        sides: [side("A", &a), side("B", &b)],
        swap_href: format!("/traces/{}/compare/{}", b.id, a.id),
        categories: categories.collect(),
        rest: rest.len(),
        together: Figures::of(&unit, a.duration_ns, b.duration_ns),
        rows,
        unit,
    }
}

fn row(unit: &Unit, sides: [&Side; 2], path: &[String]) -> PathRow {
    let of = sides.map(|it| it.paths.get(path));
    let figure = |of: fn(&CallPath) -> u64, at: Option<&CallPath>| at.map_or(0, of);
    let known = of[0].or(of[1]);
    let (name, above) = path
        .split_last()
        .map_or(("", &[][..]), |it| (it.0.as_str(), it.1));
    let href = |at: usize| {
        let span = &of[at]?.span;
        Some(format!("/traces/{}?span={span}", sides[at].id))
    };
    PathRow {
        category: known.map(|it| it.category),
        name: name.to_owned(),
        service: known.map(|it| it.service.clone()).unwrap_or_default(),
        above: above.join(" › "),
        calls: of.map(|it| it.map(|it| it.calls)),
        own: of.map(|it| it.map(|it| unit.figure(it.self_ns)).unwrap_or_default()),
        figures: Figures::of(
            unit,
            figure(|it| it.critical_ns, of[0]),
            figure(|it| it.critical_ns, of[1]),
        ),
        hrefs: [href(0), href(1)],
    }
}

/// What differs most, in one sentence.
fn sentence(a: &Side, b: &Side, path: Option<&[String]>) -> String {
    let difference = duration(a.duration_ns.abs_diff(b.duration_ns));
    let took = match a.duration_ns.cmp(&b.duration_ns) {
        std::cmp::Ordering::Less => format!("B took {difference} longer"),
        std::cmp::Ordering::Greater => format!("B took {difference} less"),
        std::cmp::Ordering::Equal => return "Both took equally long".to_owned(),
    };
    let Some(path) = path else {
        return took;
    };
    let name = path.last().map(String::as_str).unwrap_or_default();
    let calls = |of: &Side| of.paths.get(path).map_or(0, |it| it.calls);
    let critical = |of: &Side| of.paths.get(path).map_or(0, |it| it.critical_ns);
    let (before, after) = (critical(a), critical(b));
    let change = duration(before.abs_diff(after));
    let word = if after >= before { "more" } else { "less" };
    let why = match (calls(a), calls(b)) {
        (was, is) if was != is => {
            format!(": {name} ran {is} times instead of {was}, {change} {word}")
        }
        _ => format!(": {change} {word} in {name}"),
    };
    took + &why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_traces::analysed;
    use crate::testing::{HOSTILE, Site, assert_harmless, drawn, drawn_at};
    use analyzer::Settings;
    use axum::http::{StatusCode, header};

    const ONE: &str = "
shop  GET /posts                |------------|
shop    SELECT posts              |--|
shop    SELECT authors                |--|
";

    const MANY: &str = "
shop  GET /posts                |------------------------------|
shop    SELECT posts              |--|
shop    SELECT authors                |--|
shop    SELECT authors                   |--|
shop    SELECT authors                      |--|
shop    SELECT authors                         |--|
shop    GET users/list [client]                   |----|
";

    fn compared(a: &str, b: &str) -> ComparePage {
        let fold = |drawing: &str| {
            let stored = drawn(drawing);
            let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0];
            analysed(&stored, &Settings::default(), |it| Ok(super::fold(&id, it))).unwrap()
        };
        compare(fold(a), fold(b))
    }

    #[test]
    fn differences_come_first_and_add_up() {
        let page = compared(ONE, MANY);
        assert_eq!(
            page.sentence,
            "B took 18 ms longer: select authors ran 4 times instead of 1, 9 ms more"
        );
        let rows: Vec<_> = page
            .rows
            .iter()
            .map(|it| (&*it.name, it.figures.exact_ns))
            .collect();
        assert_eq!(rows[0], ("select authors", 9_000_000));
        let sum: i64 = rows.iter().map(|it| it.1).sum();
        assert_eq!(sum, page.together.exact_ns);
        assert_eq!(page.together.exact_ns, 18_000_000);
        let categories: i64 = page.categories.iter().map(|it| it.figures.exact_ns).sum();
        assert_eq!(categories, page.together.exact_ns);
        assert_eq!(page.rows[0].calls, [Some(1), Some(4)]);
    }

    #[test]
    fn a_trace_does_not_differ_from_itself() {
        let page = compared(MANY, MANY);
        assert_eq!(page.sentence, "Both took equally long");
        assert!(page.rows.iter().all(|it| it.figures.exact_ns == 0));
        let html = crate::pages::html(&page).unwrap();
        assert_harmless(&html);
    }

    #[test]
    fn hostile_names_are_only_text() {
        let side = |name: &str| {
            let stored = drawn(ONE);
            let id = collector::otlp::trace_ids(&stored.otlp).unwrap()[0];
            let side = analysed(&stored, &Settings::default(), |it| Ok(fold(&id, it)));
            let mut side = side.unwrap();
            side.title = name.to_owned();
            side.service = name.to_owned();
            let paths = std::mem::take(&mut side.paths);
            side.paths = paths
                .into_iter()
                .map(|(key, path)| (key.iter().map(|it| format!("{name}{it}")).collect(), path))
                .collect();
            side
        };
        for name in HOSTILE {
            let page = compare(side(name), side("x"));
            assert_harmless(&crate::pages::html(&page).unwrap());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_ordinary_request_is_chosen_and_pasted_ones_are_found() {
        let start_ns = crate::format::now_ns() - 60_000_000_000;
        let stored: Vec<_> = (0..5)
            .map(|it| drawn_at(if it == 4 { MANY } else { ONE }, start_ns, it))
            .collect();
        let ids: Vec<String> = stored
            .iter()
            .map(|it| collector::otlp::trace_ids(&it.otlp).unwrap()[0].to_string())
            .collect();
        let site = Site::with(&stored.iter().collect::<Vec<_>>()).await;
        let leads = async |address: String| {
            let (status, headers, body) = site.get(&address).await;
            assert!(status.is_redirection(), "{address}: {status} {body}");
            headers[header::LOCATION].to_str().unwrap().to_owned()
        };
        let slow = &ids[4];
        let median = leads(format!("/traces/{slow}/compare?with=median")).await;
        let other = median.rsplit('/').next().unwrap().to_owned();
        assert!(ids[..4].contains(&other), "{median}");
        let page = site.page(&median).await;
        assert!(page.contains("B took 18 ms less"), "{page}");
        let pasted = format!(
            "/traces/{slow}/compare?with=http%3A%2F%2Fx%2Ftraces%2F{}",
            ids[1]
        );
        assert_eq!(
            leads(pasted).await,
            format!("/traces/{slow}/compare/{}", ids[1])
        );
        let (status, ..) = site
            .get(&format!("/traces/{slow}/compare?with=nonsense"))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let nowhere = format!("/traces/{slow}/compare/{}", "0f".repeat(16));
        assert_eq!(site.get(&nowhere).await.0, StatusCode::NOT_FOUND);

        // Its duration and its statement's are put beside those of their like.
        let hints = site.page(&format!("/traces/{slow}")).await;
        assert!(
            !hints.contains("class=\"gap-s standing\""),
            "five are too few to tell"
        );
    }
}
