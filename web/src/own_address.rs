//! An address of one of our own pages in what people paste, wherever the page was opened.

use url::Url;

/// Longer text is no address that a browser has.
const TEXT_BYTES_MAX: usize = 8_192;

/// The beginnings of pages' paths that something stands behind.
const BRANCHES: [&str; 7] = [
    "/statements/",
    "/endpoints/",
    "/bottlenecks/",
    "/regressions/",
    "/services/",
    "/traces/",
    "/alerts/",
];

/// Pages by themselves.
const PAGES: [&str; 12] = [
    "/",
    "/services",
    "/map",
    "/statements",
    "/compare",
    "/deployments",
    "/regressions",
    "/detectors",
    "/traces",
    "/alerts",
    "/status",
    "/start",
];

/// Path, query and fragment of the page that `text` is the address of: with scheme and host or without. What
/// belongs to the API leads to the page that shows the same. `None` if it is none of ours.
pub fn find(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > TEXT_BYTES_MAX || text.contains(char::is_whitespace) || text.contains('\\') {
        return None;
    }
    let url = match text.strip_prefix('/') {
        // The host is only there to be parsed with.
        Some(path) if !path.starts_with('/') => {
            Url::parse("http://localhost/").ok()?.join(text).ok()?
        }
        Some(_) => return None,
        None => Url::parse(text).ok()?,
    };
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let path = url.path().strip_prefix("/api/v1").unwrap_or(url.path());
    let path = if path == "/bottlenecks" { "/" } else { path };
    let has_more = |branch: &&str| path.len() > branch.len() && path.starts_with(*branch);
    if !PAGES.contains(&path) && !BRANCHES.iter().any(has_more) {
        return None;
    }
    let query = url.query().map_or_else(String::new, |it| format!("?{it}"));
    let fragment = url
        .fragment()
        .map_or_else(String::new, |it| format!("#{it}"));
    Some(format!("{path}{query}{fragment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_pages_are_known_and_others_are_not() {
        let cases = [
            (
                "http://127.0.0.1:7007/bottlenecks/4?range=24h#fix",
                "/bottlenecks/4?range=24h#fix",
            ),
            (
                " https://culprit.example/?service=a%20b&sort=p99\n",
                "/?service=a%20b&sort=p99",
            ),
            ("https://culprit.example", "/"),
            (
                "/statements/0a1b2c3d4e5f6071?range=7d",
                "/statements/0a1b2c3d4e5f6071?range=7d",
            ),
            (
                "/endpoints/7?flame=tail#paths",
                "/endpoints/7?flame=tail#paths",
            ),
            (
                "http://h/api/v1/bottlenecks/4?range=7d",
                "/bottlenecks/4?range=7d",
            ),
            ("http://h/api/v1/bottlenecks?range=7d", "/?range=7d"),
            (
                "http://h/traces/5f0c2a7be19d4c6398d1e04ba7f32c11?span=b2c4e8a01f6d3970",
                "/traces/5f0c2a7be19d4c6398d1e04ba7f32c11?span=b2c4e8a01f6d3970",
            ),
            ("http://h/services/../status", "/status"),
            ("https://jaeger/trace/5f0c2a7be19d4c6398d1e04ba7f32c11", ""),
            ("https://grafana/d/abc/statements", ""),
            ("//evil.example/traces", ""),
            ("/posts", ""),
            ("GET /services", ""),
            ("/bottlenecks/", ""),
            ("javascript:alert(1)", ""),
            ("/\\evil.example", ""),
            ("shop", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(find(text).unwrap_or_default(), expected, "{text}");
        }
        assert_eq!(find(&format!("/traces/{}", "x".repeat(9_000))), None);
    }
}
