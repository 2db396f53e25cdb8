//! What a client span calls: host, port and path.

use crate::facts::Facts;
use std::borrow::Cow;

/// Where a call goes. Empty texts where nothing was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target<'a> {
    /// Host name or address, without port.
    pub host: &'a str,
    /// The port, if it is named.
    pub port: Option<u16>,
    /// The path, with its `/` and without query and fragment.
    pub path: &'a str,
}

impl<'a> Target<'a> {
    /// The target of a call with these attributes.
    pub fn of(facts: &Facts<'a>) -> Target<'a> {
        let url = split_url(facts.url_full);
        let named = split_authority(facts.address);
        let said = facts.port.and_then(|it| u16::try_from(it).ok());
        let host = match named.host {
            "" => url.host,
            host => host,
        };
        let path = match facts.url_path {
            "" => url.path,
            path => without_query(path),
        };
        Target {
            host,
            port: said.or(named.port).or(url.port),
            path,
        }
    }
}

fn split_url(url: &str) -> Target<'_> {
    let Some((_, rest)) = url.split_once("://") else {
        return Target {
            path: if url.starts_with('/') {
                without_query(url)
            } else {
                ""
            },
            ..Target::default()
        };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Target {
        path: without_query(&rest[end..]),
        ..split_authority(&rest[..end])
    }
}

/// `user:password@host:port` → host and port.
fn split_authority(authority: &str) -> Target<'_> {
    let after_user = authority.rsplit('@').next().unwrap_or(authority);
    let (host, port) = match after_user.strip_prefix('[') {
        // An IPv6 address in brackets.
        Some(rest) => rest.split_once(']').unwrap_or((rest, "")),
        None => match after_user.rfind(':') {
            // More than one colon and no brackets: an IPv6 address without a port.
            Some(at) if !after_user[..at].contains(':') => after_user.split_at(at),
            _ => (after_user, ""),
        },
    };
    Target {
        host,
        port: port.trim_start_matches(':').parse().ok(),
        path: "",
    }
}

fn without_query(path: &str) -> &str {
    &path[..path.find(['?', '#']).unwrap_or(path.len())]
}

/// Names that are templated are at most so many bytes long: they become keys of dictionaries and
/// parts of fingerprints, and nobody reads more. Longer ones are cut.
pub const NAME_BYTES_MAX: usize = 200;

/// A path, or a name with a path in it, with its ids replaced: `/users/123` → `/users/{id}`.
///
/// Query and fragment go. What counts as an id: numbers, UUIDs, hexadecimal and random-looking
/// tokens, addresses of people, and numbers that stand between dots or in brackets: `books.3.author`,
/// `items[3]`, `100.json`. Cut at [`NAME_BYTES_MAX`].
pub fn template(path: &str) -> Cow<'_, str> {
    let path = cut(without_url_parts(path));
    if !path.split(is_separator).any(has_id) {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    for piece in path.split_inclusive(is_separator) {
        let body = piece.trim_end_matches(is_separator);
        match is_id(body) {
            true => text.push_str("{id}"),
            false => push_labels(&mut text, body),
        }
        text.push_str(&piece[body.len()..]);
    }
    Cow::Owned(text)
}

/// The query of a path, and its fragment, but not the end of a name: `PostsController#index`, `user.admin?`.
fn without_url_parts(text: &str) -> &str {
    let Some(mark) = text.find(['?', '#']) else {
        return text;
    };
    let word = text[..mark].rfind(' ').map_or(0, |it| it + 1);
    let is_url = match text.as_bytes()[mark] {
        b'?' => text[word..mark].contains('/'),
        // Controllers of a namespace: `admin/posts#index`.
        _ => text[word..].starts_with('/') || text[word..mark].contains("://"),
    };
    if is_url { &text[..mark] } else { text }
}

fn is_separator(it: char) -> bool {
    matches!(it, '/' | ' ' | ',' | ';')
}

fn is_label_end(it: char) -> bool {
    matches!(it, '.' | '[' | ']' | '#')
}

fn has_id(piece: &str) -> bool {
    is_id(piece) || has_numbered_label(piece)
}

/// Quick: nearly all pieces have no digit, or no label.
fn has_numbered_label(piece: &str) -> bool {
    let bytes = piece.as_bytes();
    bytes.iter().any(u8::is_ascii_digit)
        && piece.contains(is_label_end)
        && numbered_labels(piece).any(|it| it.1)
}

/// The parts of a piece with the mark behind them, and whether each is a number of one among many. Beside
/// other digits it is a version: `v1.2`, `python3.11`.
fn numbered_labels(piece: &str) -> impl Iterator<Item = (&str, bool)> {
    let has_digit = |it: &str| it.bytes().any(|it| it.is_ascii_digit());
    let mut before = "";
    let mut parts = piece.split_inclusive(is_label_end).peekable();
    std::iter::from_fn(move || {
        let part = parts.next()?;
        let label = part.trim_end_matches(is_label_end);
        let is_number = !label.is_empty() && label.bytes().all(|it| it.is_ascii_digit());
        let alone = !has_digit(before) && !parts.peek().is_some_and(|it| has_digit(it));
        before = label;
        Some((part, is_number && alone && part.len() < piece.len()))
    })
}

fn push_labels(text: &mut String, piece: &str) {
    if !has_numbered_label(piece) {
        text.push_str(piece);
        return;
    }
    for (part, is_number) in numbered_labels(piece) {
        let label = part.trim_end_matches(is_label_end);
        text.push_str(if is_number { "{id}" } else { label });
        text.push_str(&part[label.len()..]);
    }
}

/// `text` without what is beyond [`NAME_BYTES_MAX`].
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Digits in a row that no version, year or port has.
const DIGITS_MIN: usize = 5;
/// Hexadecimal tokens are at least so long: shorter ones are words like `added` or `cafe`.
const HEX_MIN: usize = 8;
/// Random-looking tokens are at least so long.
const TOKEN_MIN: usize = 16;

/// Is this piece of a path one of many of its kind?
fn is_id(piece: &str) -> bool {
    let bytes = piece.as_bytes();
    let digits = bytes.iter().filter(|it| it.is_ascii_digit()).count();
    // An address of a person, as it is or escaped.
    if (piece.contains('@') || piece.contains("%40")) && piece.contains('.') {
        return true;
    }
    if digits == 0 {
        return false;
    }
    let all = |test: fn(&u8) -> bool| bytes.iter().all(test);
    if digits == bytes.len() {
        return true;
    }
    // UUIDs, object ids, hashes.
    let hexadecimal = |it: &u8| it.is_ascii_hexdigit() || *it == b'-';
    let without_prefix = bytes.strip_prefix(b"0x").unwrap_or(bytes);
    if without_prefix.len() >= HEX_MIN && without_prefix.iter().all(hexadecimal) {
        return true;
    }
    // `order-12345`, `2024-01-31`, `SKU_0000123`.
    let runs = bytes.split(|it| !it.is_ascii_digit());
    if runs.map(<[u8]>::len).max() >= Some(DIGITS_MIN) {
        return true;
    }
    // Dates and times, addresses of machines.
    if digits * 2 > bytes.len() && all(|it| it.is_ascii_digit() || b"-.:+TZ".contains(it)) {
        return true;
    }
    let token = |it: &u8| it.is_ascii_alphanumeric() || b"-_=+.~".contains(it);
    // Random text changes between letters and digits all the time; `http2-push-promise-v3` does not.
    bytes.len() >= TOKEN_MIN && all(token) && changes(bytes) * 4 >= bytes.len()
}

/// How often letters, upper or lower, and digits change places.
fn changes(bytes: &[u8]) -> usize {
    let class = |it: u8| (it.is_ascii_digit(), it.is_ascii_uppercase());
    bytes
        .windows(2)
        .filter(|it| class(it[0]) != class(it[1]))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_leave_paths() {
        for (path, expected) in [
            ("/users/123", "/users/{id}"),
            ("/users/123?page=2#top", "/users/{id}"),
            ("/api/v2/orders/17/items", "/api/v2/orders/{id}/items"),
            ("/u/550e8400-e29b-41d4-a716-446655440000/x", "/u/{id}/x"),
            ("/blobs/5f2b6c9d8e7a", "/blobs/{id}"),
            ("/orders/order-12345", "/orders/{id}"),
            ("/stats/2024-01-31", "/stats/{id}"),
            ("/reset/aB3xY9kQ2mN8pL5v", "/reset/{id}"),
            ("/people/ann@example.org", "/people/{id}"),
            ("/a/facade/decade", "/a/facade/decade"),
            ("/oauth2/token", "/oauth2/token"),
            (
                "/static/http2-push-promise-v3",
                "/static/http2-push-promise-v3",
            ),
            ("/users/{id}", "/users/{id}"),
            ("process order 81723", "process order {id}"),
            // UUIDs with and without dashes, in braces, upper case, version 7, ULID.
            ("/u/550E8400-E29B-41D4-A716-446655440000", "/u/{id}"),
            ("/u/550e8400e29b41d4a716446655440000", "/u/{id}"),
            ("/u/{550e8400-e29b-41d4-a716-446655440000}", "/u/{id}"),
            (
                "/u/018f3c5a-7b1e-7c3d-9a2b-1f2e3d4c5b6a/edit",
                "/u/{id}/edit",
            ),
            ("/u/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/u/{id}"),
            (
                "/u/urn:uuid:550e8400-e29b-41d4-a716-446655440000",
                "/u/{id}",
            ),
            // Hashes, object ids, hexadecimal numbers.
            (
                "/commit/9fceb02d0ae598e95dc970b74767f19372d61af8",
                "/commit/{id}",
            ),
            ("/docs/507f1f77bcf86cd799439011", "/docs/{id}"),
            ("/block/0x4e3a3754", "/block/{id}"),
            // Dates and times.
            ("/report/2024-01-31T10:00:00Z", "/report/{id}"),
            ("/report/20240131", "/report/{id}"),
            ("/report/2024/01/31", "/report/{id}/{id}/{id}"),
            ("backup 2024-01-31 03:00", "backup {id} {id}"),
            // Addresses of people and machines.
            ("/people/ann.b%40example.org", "/people/{id}"),
            ("/people/ann7@example.org", "/people/{id}"),
            ("/hosts/10.0.12.7/stats", "/hosts/{id}/stats"),
            // Tokens.
            (
                "/reset/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP",
                "/reset/{id}",
            ),
            ("/share/dGhpcyBpcyBhIHRva2VuIHdpdGg", "/share/{id}"),
            ("/s/sess_Zk3bQ9xLmT7vRw2Y", "/s/{id}"),
            // In names of spans.
            ("user:12345 load", "{id} load"),
            ("render item-98765", "render {id}"),
            ("GET /a/1;v=2", "GET /a/{id};v=2"),
            // Numbers between dots and in brackets, but not versions.
            (
                "graphql.resolve books.3.author",
                "graphql.resolve books.{id}.author",
            ),
            ("items[3].load", "items[{id}].load"),
            ("job #3", "job #{id}"),
            ("/reports/100.json", "/reports/{id}.json"),
            ("/img/3.png", "/img/{id}.png"),
            ("/api/v1.2/users", "/api/v1.2/users"),
            ("python3.11 main", "python3.11 main"),
            // Marks of URLs that are none of a URL.
            ("PostsController#index", "PostsController#index"),
            ("admin/posts#index", "admin/posts#index"),
            ("user.admin?", "user.admin?"),
            ("GET /posts#top", "GET /posts"),
            // Not ids: versions, words, abbreviations, long names.
            ("/api/v1beta2/pods", "/api/v1beta2/pods"),
            ("/i18n/en-US/k8s-cluster", "/i18n/en-US/k8s-cluster"),
            ("/static/app.min.js", "/static/app.min.js"),
            (
                "/internationalization/settings",
                "/internationalization/settings",
            ),
            (
                "OrderServiceImplementation.placeOrder",
                "OrderServiceImplementation.placeOrder",
            ),
            (
                "com.example.HTTPRequestHandlerV2",
                "com.example.HTTPRequestHandlerV2",
            ),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(template(path), expected, "{path}");
            assert_eq!(template(&template(path)), expected, "twice: {path}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let long = format!("/{}", "ä".repeat(NAME_BYTES_MAX));
        assert_eq!(template(&long).len(), NAME_BYTES_MAX - 1);
    }

    #[test]
    fn targets() {
        let url = |url_full| {
            let it = Target::of(&Facts {
                url_full,
                ..Facts::default()
            });
            (it.host, it.port, it.path)
        };
        assert_eq!(url("http://a.b:81/c/d?e=/f"), ("a.b", Some(81), "/c/d"));
        assert_eq!(url("https://u:p@a.b"), ("a.b", None, ""));
        assert_eq!(url("http://[::1]:80/x"), ("::1", Some(80), "/x"));
        assert_eq!(url("/only/path?x"), ("", None, "/only/path"));
        assert_eq!(url("nonsense"), ("", None, ""));
        let facts = Facts {
            url_full: "http://10.0.0.1:8080/x",
            address: "payments",
            ..Facts::default()
        };
        assert_eq!(Target::of(&facts).host, "payments");
        assert_eq!(Target::of(&facts).port, Some(8080));
    }
}
