//! Style and scripts, embedded in the binary.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Name, content type, content. Pages name them with `?v=` and the version, so they may be kept.
const FILES: &[(&str, &str, &str)] = &[
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("../static/style.css"),
    ),
    (
        "ui.js",
        "text/javascript; charset=utf-8",
        include_str!("../static/ui.js"),
    ),
    (
        "time.js",
        "text/javascript; charset=utf-8",
        include_str!("../static/time.js"),
    ),
    (
        "live.js",
        "text/javascript; charset=utf-8",
        include_str!("../static/live.js"),
    ),
    (
        "trace.css",
        "text/css; charset=utf-8",
        include_str!("../static/trace.css"),
    ),
    (
        "map.css",
        "text/css; charset=utf-8",
        include_str!("../static/map.css"),
    ),
    (
        "trace.js",
        "text/javascript; charset=utf-8",
        include_str!("../static/trace.js"),
    ),
];

/// The version that pages add to the files' addresses: changes whenever one of them does.
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        // FNV-1a: enough to tell one build's files from another's.
        let hash = FILES
            .iter()
            .flat_map(|(.., text)| text.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    });
    &VERSION
}

/// A file; 304 if the browser has it.
pub async fn show(Path(file): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, content_type, text)) = FILES.iter().find(|(name, ..)| *name == file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = format!("\"{}\"", version());
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|it| it.as_bytes() == tag.as_bytes())
    {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, (*content_type).to_owned()),
        (header::CACHE_CONTROL, "public, max-age=86400".to_owned()),
        (header::ETAG, tag),
    ];
    (headers, *text).into_response()
}
