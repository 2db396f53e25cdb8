//! What makes the slow ones slow? Requests of an endpoint that took so long (or were then) are compared with the
//! others: which attributes do they share, and on which call paths do they spend more?

use analyzer::contrast::{Contrast, contrast};
use analyzer::profile::{Compared, Measure, difference};
use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use collector::looked::{Looked, folded, look, spread};
use collector::store::Store;
use collector::store::bottlenecks::Minutes;
use collector::store::endpoints::EndpointName;
use collector::store::requests::{ListedRequest, REQUESTS_MAX, RequestFilter};
use url::form_urlencoded;

use crate::AppState;
use crate::address::Address;
use crate::category_bar;
use crate::format;
use crate::pages::endpoint::named;
use crate::pages::{Frame, PageError, render};
use crate::trace_filter::{self, RANGES};

/// Requests of each side that are looked at span by span: a second or two of work.
const LOOKED_MAX: usize = 120;

/// With fewer on a side nothing can be told apart from chance.
const LOOKED_MIN: usize = 8;

/// Rows of each table.
const ROWS_MAX: usize = 20;

/// If nothing else is asked for, these are the slow ones.
const SLOW_QUANTILE: f64 = 0.95;

#[derive(Template)]
#[template(path = "slow.html")]
struct Page<'a> {
    frame: Frame,
    endpoint: &'a EndpointName,
    /// Ranges to choose from: value, words, chosen.
    ranges: Vec<(&'static str, &'static str, bool)>,
    /// What the fields of the form hold.
    min: String,
    max: String,
    /// The address asks for these instants; kept by the form.
    instants: Option<(u64, u64)>,
    /// Which requests, in words, and which are the others.
    inside: String,
    outside: String,
    /// How many were looked at.
    looked: (usize, usize),
    asked: usize,
    attributes: Vec<AttributeRow>,
    paths: Vec<PathRow>,
    /// The requests themselves.
    traces: String,
    is_enough: bool,
}

/// An attribute that differs.
struct AttributeRow {
    key: String,
    value: String,
    /// Shares in percent, as text, and as widths of bars.
    inside: (String, String),
    outside: (String, String),
    counts: String,
    p_value: String,
    /// Slow requests that have it; empty for a limit.
    link: String,
}

/// A call path that takes longer.
struct PathRow {
    /// Above it, from the entry.
    above: String,
    name: String,
    class: &'static str,
    category: &'static str,
    inside: String,
    outside: String,
    added: String,
    added_ns: i64,
    /// A slow request in which it takes the longest.
    example: String,
}

/// The page.
///
/// # Errors
/// There is no such endpoint, the address makes no sense, or the database is away.
pub async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let endpoint = named(&state.store, &id).await?;
    let now_ns = format::now_ns();
    let address = Address::parse(query.as_deref());
    let filter = trace_filter::parse(&address, now_ns);
    if let Some((key, value)) = filter.unread.first() {
        return Err(PageError::BadRequest(format!(
            "{key}={value} is not understood. Durations are written as 120ms or 1.5s, times in seconds or ns since 1970."
        )));
    }
    if filter.is_backwards {
        return Err(PageError::BadRequest(
            "from is not before to: there is nothing in between.".to_owned(),
        ));
    }
    let mut of = filter.of;
    let is_open = of.min_ns == 0 && of.max_ns == 0 && filter.range.is_some();
    if is_open {
        of.min_ns = usual_limit_ns(&state.store, endpoint.id, &of).await?;
    }
    let (inside, outside) = sides(&state.store, endpoint.id, &of).await?;
    let settings = &state.settings;
    let inside = look(&state.store, settings, spread(inside, LOOKED_MAX)).await?;
    let outside = look(&state.store, settings, spread(outside, LOOKED_MAX)).await?;
    Ok(render(&page(
        &endpoint,
        &of,
        filter.range,
        &inside,
        &outside,
    )))
}

/// What only one of twenty requests of the time takes, ns.
async fn usual_limit_ns(store: &Store, id: i32, of: &RequestFilter) -> Result<u64, PageError> {
    let minute = |ns: u64| (ns / 60_000_000_000).min(i32::MAX as u64) as i32;
    let window = Minutes {
        from: minute(of.from_ns),
        to: minute(of.until_ns) + 1,
    };
    let mut latency = analyzer::sketch::Sketch::default();
    for sum in store.endpoint_minutes(id, window).await?.values() {
        latency.merge(&sum.latency);
    }
    Ok(latency.quantile(SLOW_QUANTILE).unwrap_or(0))
}

/// The requests that are asked for, and the others: of the same time with other durations; if any duration is asked
/// for, of as much time right before.
async fn sides(
    store: &Store,
    id: i32,
    of: &RequestFilter,
) -> Result<(Vec<ListedRequest>, Vec<ListedRequest>), PageError> {
    let rows = async |filter: RequestFilter| {
        let filter = RequestFilter {
            limit: REQUESTS_MAX,
            ..filter
        };
        Ok::<_, PageError>(store.requests_of(&filter, Some(vec![id])).await?.rows)
    };
    let inside = rows(of.clone()).await?;
    if of.min_ns == 0 && of.max_ns == 0 {
        let length = of.until_ns - of.from_ns;
        let before = RequestFilter {
            from_ns: of.from_ns.saturating_sub(length),
            until_ns: of.from_ns,
            ..of.clone()
        };
        return Ok((inside, rows(before).await?));
    }
    let mut outside = Vec::new();
    if of.min_ns > 0 {
        let faster = RequestFilter {
            min_ns: 0,
            max_ns: of.min_ns - 1,
            ..of.clone()
        };
        outside = rows(faster).await?;
    }
    if of.max_ns > 0 {
        let slower = RequestFilter {
            min_ns: of.max_ns.saturating_add(1),
            max_ns: 0,
            ..of.clone()
        };
        outside.extend(rows(slower).await?);
    }
    Ok((inside, outside))
}

fn page<'a>(
    endpoint: &'a EndpointName,
    of: &RequestFilter,
    range: Option<usize>,
    inside: &[Looked],
    outside: &[Looked],
) -> Page<'a> {
    let is_enough = inside.len() >= LOOKED_MIN && outside.len() >= LOOKED_MIN;
    let facts = |side: &[Looked]| -> Vec<_> { side.iter().map(|it| it.facts.clone()).collect() };
    let contrasts = match is_enough {
        true => contrast(&facts(inside), &facts(outside)),
        false => Default::default(),
    };
    let field = |ns: u64| match ns {
        0 => String::new(),
        // As exact as anybody types it; what is asked for stays in the address.
        _ => format!("{}ms", (ns as f64 / 1e4).round() / 1e2),
    };
    let durations = match (of.min_ns, of.max_ns) {
        (0, 0) => "of this time".to_owned(),
        (min, 0) => format!("that took {} or longer", format::duration(min)),
        (0, max) => format!("that took at most {}", format::duration(max)),
        (min, max) => format!(
            "that took {} to {}",
            format::duration(min),
            format::duration(max)
        ),
    };
    let outside_words = match (of.min_ns, of.max_ns) {
        (0, 0) => "those of as much time before",
        (_, 0) => "the faster ones",
        (0, _) => "the slower ones",
        _ => "the faster and the slower ones",
    };
    let traces = traces_link(endpoint, of, &[]);
    Page {
        frame: Frame {
            current: "/services",
        },
        endpoint,
        ranges: RANGES
            .iter()
            .enumerate()
            .map(|(at, (value, words, _))| (*value, *words, range == Some(at)))
            .collect(),
        min: field(of.min_ns),
        max: field(of.max_ns),
        instants: range.is_none().then_some((of.from_ns, of.until_ns)),
        inside: durations,
        outside: outside_words.to_owned(),
        looked: (inside.len(), outside.len()),
        asked: contrasts.asked,
        attributes: contrasts
            .found
            .iter()
            .take(ROWS_MAX)
            .map(|it| attribute(it, inside.len(), outside.len(), endpoint, of))
            .collect(),
        paths: match is_enough {
            true => paths(inside, outside),
            false => Vec::new(),
        },
        traces,
        is_enough,
    }
}

fn attribute(
    it: &Contrast,
    of_inside: usize,
    of_outside: usize,
    endpoint: &EndpointName,
    of: &RequestFilter,
) -> AttributeRow {
    let share = |count: usize, of: usize| {
        let share = count as f64 / of.max(1) as f64;
        (format::percent(share), format::width(share))
    };
    let is_limit = it.value.starts_with('≥') || it.key.contains(' ');
    let quoted = it.value.replace('\\', "\\\\").replace('"', "\\\"");
    let condition = format!("{}=\"{quoted}\"", it.key);
    AttributeRow {
        key: it.key.clone(),
        value: it.value.clone(),
        inside: share(it.inside, of_inside),
        outside: share(it.outside, of_outside),
        counts: format!(
            "{} of {of_inside}; {} of {of_outside}",
            it.inside, it.outside
        ),
        p_value: match it.p_value {
            ..0.000_001 => "below 1 in a million".to_owned(),
            p => format!("1 in {}", format::count((1.0 / p).round() as i64)),
        },
        link: match is_limit {
            true => String::new(),
            false => traces_link(endpoint, of, &[("q", &condition)]),
        },
    }
}

fn traces_link(endpoint: &EndpointName, of: &RequestFilter, more: &[(&str, &str)]) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("service", &endpoint.service.name);
    pairs.append_pair("endpoint", &endpoint.name);
    pairs.append_pair("from", &of.from_ns.to_string());
    pairs.append_pair("until", &of.until_ns.to_string());
    for (key, ns) in [("min", of.min_ns), ("max", of.max_ns)] {
        if ns > 0 {
            pairs.append_pair(key, &format!("{ns}ns"));
        }
    }
    pairs.extend_pairs(more);
    format!("/traces?{}", pairs.finish())
}

/// The paths that take more time per request inside, the most first.
fn paths(inside: &[Looked], outside: &[Looked]) -> Vec<PathRow> {
    let (profile, base) = (folded(inside), folded(outside));
    let difference = difference(
        Compared {
            profile: &profile,
            requests: inside.len() as i64,
        },
        Compared {
            profile: &base,
            requests: outside.len() as i64,
        },
    );
    let ranked = difference.ranked(Measure::Critical).into_iter();
    let grown = ranked.filter(|at| difference.change_ns(*at, Measure::Critical) > 0);
    let row = |at: usize| {
        let path = difference.path(at);
        let (name, above) = path.split_last()?;
        let longest = inside.iter().max_by_key(|it| it.critical_ns(&path))?;
        let (trace, span) = longest.ids();
        let node = &difference.nodes[at];
        let added_ns = difference.change_ns(at, Measure::Critical);
        let ms = |ns: i64| format::duration(ns.max(0) as u64);
        Some(PathRow {
            above: above.join(" › "),
            name: (*name).to_owned(),
            class: category_bar::class(&node.category),
            category: node.category.name(),
            inside: ms(difference.per_request_ns(at, Measure::Critical)),
            outside: ms(difference.base_per_request_ns(at, Measure::Critical)),
            added: format::change(added_ns),
            added_ns,
            example: format!("/traces/{trace}?span={span}"),
        })
    };
    grown.filter_map(row).take(ROWS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOSTILE, Site, drawn_at};

    /// Ten slow carts of free users, who wait for old prices, and thirty fast ones of others.
    async fn site() -> Site {
        let now_ns = format::now_ns();
        let traces: Vec<_> = (0..40_u8)
            .map(|nth| {
                let (tier, is_slow) = if nth % 4 == 0 { ("free", true) } else { ("gold", false) };
                let entry = format!(
                    "shop  GET /cart {{http.route=/cart, user.tier={tier}, n={nth}, evil=\"<script>alert(1)</script>\"}}"
                );
                let bar = "-".repeat(if is_slow { 30 } else { 5 });
                let mut drawing = format!("{entry:<120}|{bar}|\n");
                if is_slow {
                    let query = "shop    SELECT prices";
                    drawing += &format!("{query:<121}|{}|\n", &bar[2..]);
                }
                drawn_at(&drawing, now_ns - 60_000_000_000, nth + 1)
            })
            .collect();
        Site::with(&traces.iter().collect::<Vec<_>>()).await
    }

    fn text(page: &str) -> String {
        let page = scraper::Html::parse_document(page);
        page.root_element().text().collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn what_slow_requests_share_and_where_they_spend_more_is_told() {
        let site = site().await;
        let page = site.page("/endpoints/1/slow?min=20ms").await;
        let text = text(&page);
        assert!(text.contains("that took 20 ms or longer"), "{text}");
        assert!(
            text.contains("10  of these and 30") || text.contains("10 of these and 30"),
            "{text}"
        );
        let tier = page
            .find(">free</a>")
            .expect("the value is there, with a link");
        assert!(page[..tier].contains("user.tier"));
        assert!(text.to_lowercase().contains("select prices"), "{text}");
        assert!(!page.contains(HOSTILE[0]));
        // The link leads to requests of these users.
        let link = page
            .split("href=\"")
            .map(|it| it.split('"').next().unwrap_or_default());
        let link = link
            .filter(|it| it.contains("user.tier"))
            .find(|it| it.contains("free"))
            .unwrap();
        let list = site
            .page(&link.replace("&amp;", "&").replace("&#38;", "&"))
            .await;
        assert!(list.contains("/cart</"), "{link}");
    }

    #[tokio::test]
    async fn too_few_and_nonsense_are_said() {
        let site = site().await;
        assert!(text(&site.page("/endpoints/1/slow?min=10s").await).contains("Too few to compare"));
        let (status, _, body) = site.get("/endpoints/1/slow?min=soon").await;
        assert_eq!(status, 400);
        assert!(body.contains("min=soon is not understood"));
        assert_eq!(site.get("/endpoints/99/slow").await.0, 404);
    }
}
