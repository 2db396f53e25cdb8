//! Every page of the router, with the story's data, in every look.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::Look;
use super::story::Story;
use super::walk::{LOOKS, USUAL, pictures, walk};
use crate::support::http;

/// The router's routes for GET, and for each what is looked at: whatever makes the page another. A new page
/// stands here, or the test fails that compares this with the router. `{names}` are the story's.
const PAGES: &[(&str, &[&str])] = &[
    (
        "/",
        &[
            "/",
            "/?sort=p99&range=1h",
            "/?state=all",
            "/?detector=fan-out",
        ],
    ),
    ("/services", &["/services", "/services?service=shop"]),
    ("/statements", &["/statements", "/statements?service=shop"]),
    (
        "/endpoints/{id}",
        &["/endpoints/{endpoint}", "/endpoints/{slower}"],
    ),
    ("/statements/{id}", &["/statements/{statement}"]),
    ("/settings", &["/settings"]),
    ("/endpoints/{id}/slow", &["/endpoints/{slower}/slow"]),
    (
        "/bottlenecks/{id}",
        &["/bottlenecks/{bottleneck}", "/bottlenecks/{slow-query}"],
    ),
    ("/compare", &["/compare", "/compare?service_id={service}"]),
    ("/deployments", &["/deployments"]),
    ("/regressions", &["/regressions"]),
    ("/regressions/{id}", &["/regressions/{regression}"]),
    ("/detectors", &["/detectors"]),
    (
        "/traces",
        &["/traces", "/traces?service=shop&errors=1", "/traces?q=%22"],
    ),
    (
        "/traces/{id}",
        &[
            "/traces/{trace}",
            "/traces/{trace}?view=flame",
            "/traces/{trace}?view=statistics",
            "/traces/{other-trace}?view=path",
        ],
    ),
    ("/traces/{id}/compare", &["/traces/{trace}/compare"]),
    (
        "/traces/{id}/compare/{other}",
        &["/traces/{trace}/compare/{other-trace}"],
    ),
    (
        "/search",
        &["/search?q=checkout", "/search?q=nothing-like-it"],
    ),
    ("/alerts", &["/alerts"]),
    ("/alerts/{id}", &["/alerts/{alert}"]),
    ("/alerts/rules", &["/alerts/rules"]),
    (
        "/alerts/rules/new",
        &["/alerts/rules/new", "/alerts/rules/new?when=regression"],
    ),
    (
        "/alerts/rules/edit",
        &["/alerts/rules/edit?name=Slow%20reads"],
    ),
    ("/alerts/channels", &["/alerts/channels"]),
    (
        "/alerts/channels/new",
        &["/alerts/channels/new", "/alerts/channels/new?kind=email"],
    ),
    ("/alerts/channels/edit", &[]),
    ("/alerts/silences", &["/alerts/silences"]),
    ("/status", &["/status"]),
    ("/start", &["/start"]),
];

/// Answers to GET that are no pages: files, streams, and the way back from a form that was sent.
const NOT_PAGES: &[&str] = &[
    "/statements.csv",
    "/bottlenecks.csv",
    "/t/{id}",
    "/trace/{id}",
    "/endpoints/{id}/flame.svg",
    "/endpoints/{id}/flame.txt",
    "/traces/{id}/flame.svg",
    "/traces/events",
    "/bottlenecks/{id}/{act}",
    "/regressions/{id}/accept",
    "/regressions/{id}/resolve",
    "/static/{file}",
];

/// Pages about what is not there.
const LOST: &[&str] = &[
    "/nowhere",
    "/traces/00000000000000000000000000000001",
    "/endpoints/999999",
    "/bottlenecks/999999",
    "/endpoints/{endpoint}/slow?min=soon",
];

/// All scripts of all pages together, gzipped, bytes.
const SCRIPTS_BYTES_MAX: usize = 60 << 10;

/// Links that only differ in ids and values are one kind; so many of each are followed.
const LINKS_OF_A_KIND: usize = 3;

/// The router's paths for GET but the API's, as they stand in its table.
fn routes() -> BTreeSet<&'static str> {
    let table = include_str!("../../web/src/lib.rs");
    let routes = table.split(".route(").skip(1).filter_map(|it| {
        let (path, handlers) = it.split_once('"')?.1.split_once('"')?;
        let handlers = handlers.split(';').next()?;
        handlers.contains("get(").then_some(path)
    });
    routes.filter(|it| !it.starts_with("/api/")).collect()
}

#[test]
fn every_page_of_the_router_is_walked() {
    let known: BTreeSet<&str> = PAGES
        .iter()
        .map(|it| it.0)
        .chain(NOT_PAGES.iter().copied())
        .collect();
    let routes = routes();
    assert!(routes.len() > 30, "{routes:?}");
    let new: Vec<_> = routes.difference(&known).collect();
    let gone: Vec<_> = known.difference(&routes).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "PAGES or NOT_PAGES must say what is to be looked at of {new:?}, and no more of {gone:?}"
    );
}

#[tokio::test]
async fn pages_are_well_in_every_look_and_so_is_where_they_lead() {
    let story = Story::get();
    let pages = PAGES.iter().flat_map(|it| it.1).chain(LOST);
    let addresses: Vec<String> = pages.map(|it| story.address(it)).collect();
    let looks: &[Look] = if pictures().is_some() { &LOOKS } else { &USUAL };
    let mut seen = walk(&addresses, looks, |_| Vec::new());
    // A page that says that something is not there offers to look again.
    seen.links.retain(|link, _| !addresses.contains(link));
    // And the one for newcomers leads to the trace that they are about to send.
    seen.links
        .retain(|link, from| !(from.ends_with("/start") && link.contains("/traces/")));
    for (link, from) in some_of_each_kind(&seen.links) {
        let (status, body) = http::get(&link).await;
        let is_answer = status == 200 || (300..400).contains(&status);
        if !is_answer {
            seen.problems.push(format!(
                "{from} leads to {link}: {status}: {}",
                body.lines().next().unwrap_or_default()
            ));
        }
    }
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for script in &seen.scripts {
        let (status, body) = http::get(script).await;
        assert_eq!(status, 200, "{script}");
        zipped.write_all(body.as_bytes()).expect("memory");
    }
    let bytes = zipped.finish().expect("memory").len();
    assert!(
        seen.scripts.len() >= 3 && bytes <= SCRIPTS_BYTES_MAX,
        "{bytes} bytes of {:?}",
        seen.scripts
    );
    seen.assert_clean();
}

fn some_of_each_kind(links: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut some = Vec::new();
    for (link, from) in links {
        let url = url::Url::parse(link).expect("a URL");
        // A stream never ends.
        if url.path() == "/traces/events" {
            continue;
        }
        let is_id = |it: &str| it.chars().any(|it| it.is_ascii_digit());
        let path: Vec<&str> = url
            .path()
            .split('/')
            .map(|it| if is_id(it) { "*" } else { it })
            .collect();
        let keys: BTreeSet<String> = url.query_pairs().map(|it| it.0.into_owned()).collect();
        let kind = taken.entry(format!("{path:?} {keys:?}")).or_default();
        *kind += 1;
        if *kind <= LINKS_OF_A_KIND {
            some.push((link.clone(), from.clone()));
        }
    }
    some
}
