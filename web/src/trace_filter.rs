//! The list of traces' filters: from the address to a question for the store.
//!
//! A filter that cannot be read is left out and named, so that a list is never silently another one
//! than was asked for.

use std::time::Duration;

use analyzer::span::{SpanId, TraceId};
use collector::span_conditions::Condition;
use collector::store::requests::{RequestFilter, RequestKey, RequestOrder};

use crate::address::Address;
use crate::search_text::{self, Query, TextError};
use crate::timestamps;

/// Rows of one page of the list.
pub const PAGE_ROWS: i64 = 50;

/// Time ranges to choose from: in addresses, and in words that follow "the last".
pub const RANGES: [(&str, &str, Duration); 6] = [
    ("15m", "15 minutes", Duration::from_secs(15 * 60)),
    ("1h", "hour", Duration::from_secs(3_600)),
    ("6h", "6 hours", Duration::from_secs(6 * 3_600)),
    ("24h", "24 hours", Duration::from_secs(24 * 3_600)),
    ("7d", "7 days", Duration::from_secs(7 * 24 * 3_600)),
    ("30d", "30 days", Duration::from_secs(30 * 24 * 3_600)),
];

/// The range if none is asked for: an hour, as on the other pages.
const RANGE_DEFAULT: usize = 1;

/// Clocks of senders may be ahead of ours: what starts so soon belongs to "now".
const AHEAD: Duration = Duration::from_secs(3_600);

/// What was asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceFilter {
    /// The question.
    pub of: RequestFilter,
    /// The chosen one of [`RANGES`]; `None` if the address gives an instant.
    pub range: Option<usize>,
    /// The address says where the time ends.
    pub has_end: bool,
    /// The time ends before it begins: nothing should be listed.
    pub is_backwards: bool,
    /// Filters that could not be read: key and value.
    pub unread: Vec<(&'static str, String)>,
    /// Why the search `q` is not understood; then nothing should be listed.
    pub not_understood: Option<TextError>,
}

/// Reads the filters of `address` at `now_ns` (ns since the epoch).
pub fn parse(address: &Address, now_ns: u64) -> TraceFilter {
    let mut unread = Vec::new();
    let mut read = |key: &'static str, parse: fn(&str) -> Option<u64>| {
        let text = address.get(key)?;
        let number = parse(text);
        if number.is_none() {
            unread.push((key, text.to_owned()));
        }
        number
    };
    let (from_ns, to_ns) = (read("from", instant_ns), read("to", instant_ns));
    let until_ns = to_ns.or_else(|| read("until", instant_ns));
    let min_ns = read("min", duration_ns).unwrap_or(0);
    let max_ns = read("max", duration_ns).unwrap_or(0);
    let limit = read("limit", |it| it.parse().ok());
    let order = match address.get("sort") {
        Some("slowest") => RequestOrder::Slowest,
        Some("newest") | None => RequestOrder::Newest,
        Some(other) => {
            unread.push(("sort", other.to_owned()));
            RequestOrder::Newest
        }
    };
    let range = range(address, from_ns.or(until_ns), &mut unread);
    let range_ns = range.map(|it| RANGES[it].2.as_nanos() as u64);
    let after = address.get("after").and_then(|it| {
        let key = key(it);
        if key.is_none() {
            unread.push(("after", it.to_owned()));
        }
        key
    });
    let text = |key: &str| address.get(key).unwrap_or_default().to_owned();
    let (service, mut endpoint) = (text("service"), text("endpoint"));
    let (mut query, not_understood) = match search_text::parse(&text("q")) {
        Ok(query) => (query, None),
        Err(error) => (Query::default(), Some(error)),
    };
    if let Some(name) = address.get("name") {
        query.conditions.push(Condition::Name(name.to_owned()));
    }
    if endpoint.is_empty() {
        endpoint = query.endpoint;
    }
    let limits = [max_ns, query.max_ns].into_iter().filter(|it| *it > 0);
    let all = address.get("entries") == Some("all");
    TraceFilter {
        of: RequestFilter {
            from_ns: range_ns.map_or(from_ns.unwrap_or(0), |it| now_ns.saturating_sub(it)),
            until_ns: until_ns.unwrap_or(now_ns.saturating_add(AHEAD.as_nanos() as u64)),
            min_ns: min_ns.max(query.min_ns),
            max_ns: limits.min().unwrap_or(0),
            errors: query.errors || address.has("errors"),
            with_finding: query.with_finding || address.has("findings"),
            // Who asks for a service means all of its requests; else each trace stands there once.
            outermost: !all && service.is_empty() && endpoint.is_empty(),
            service,
            endpoint,
            conditions: query.conditions,
            order,
            after,
            limit: limit
                .and_then(|it| i64::try_from(it).ok())
                .unwrap_or(PAGE_ROWS)
                .max(1),
        },
        range,
        has_end: until_ns.is_some(),
        is_backwards: from_ns >= until_ns && until_ns.is_some(),
        unread,
        not_understood,
    }
}

/// A fixed time takes the place of a relative one, as on the other pages.
fn range(
    address: &Address,
    absolute: Option<u64>,
    unread: &mut Vec<(&'static str, String)>,
) -> Option<usize> {
    if absolute.is_some() {
        return None;
    }
    let Some(asked) = address.get("range") else {
        return Some(RANGE_DEFAULT);
    };
    let known = RANGES.iter().position(|it| it.0 == asked);
    if known.is_none() {
        unread.push(("range", asked.to_owned()));
    }
    Some(known.unwrap_or(RANGE_DEFAULT))
}

/// A page's end as it stands in addresses.
pub fn cursor(key: &RequestKey) -> String {
    format!("{}-{}-{}", key.by_ns, key.trace_id, key.span_id)
}

fn key(text: &str) -> Option<RequestKey> {
    let mut parts = text.split('-');
    let key = RequestKey {
        by_ns: parts.next()?.parse().ok()?,
        trace_id: TraceId::from_hex(parts.next()?)?,
        span_id: SpanId::from_hex(parts.next()?)?,
    };
    parts.next().is_none().then_some(key)
}

/// `250` (ms), `250ms`, `1.5s`, `80us`, `2m`.
pub fn duration_ns(text: &str) -> Option<u64> {
    let at = text
        .find(|it: char| it.is_ascii_alphabetic() || it == 'µ')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.trim().parse().ok()?;
    let unit_ns = match unit.trim() {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "" | "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3_600e9,
        _ => return None,
    };
    // A cast of a float saturates.
    (number.is_finite() && number >= 0.0).then_some((number * unit_ns) as u64)
}

/// A time as people write it (`2026-11-20T14:32`, UTC unless it says otherwise); or seconds, milliseconds,
/// microseconds or nanoseconds since the epoch, told apart by their size: each is unmistakable from 1973 to 5138.
fn instant_ns(text: &str) -> Option<u64> {
    let Ok(number) = text.parse::<u64>() else {
        return timestamps::lenient(text);
    };
    let unit_ns = match number {
        0..100_000_000_000 => 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    number.checked_mul(unit_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 1_763_648_947_000_000_000;

    fn filter(query: &str) -> TraceFilter {
        parse(&Address::parse(Some(query)), NOW_NS)
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [
            ("250", Some(250_000_000)),
            ("250 ms", Some(250_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("80µs", Some(80_000)),
            ("2m", Some(120_000_000_000)),
            ("-1", None),
            ("NaN", None),
            ("fast", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration_ns(text), expected, "{text}");
        }
        assert_eq!(duration_ns("99999999999999999999h"), Some(u64::MAX));
    }

    #[test]
    fn without_filters_it_is_the_last_hour_newest_first_each_trace_once() {
        let filter = filter("");
        assert_eq!(filter.of.from_ns, NOW_NS - 3_600_000_000_000);
        assert_eq!(filter.of.order, RequestOrder::Newest);
        assert!(filter.of.outermost);
        assert!(filter.unread.is_empty());
        assert_eq!(filter.range, Some(1));
    }

    #[test]
    fn instants_are_read_in_every_usual_unit() {
        for text in [
            "1763648947",
            "1763648947000",
            "1763648947000000",
            "1763648947000000000",
        ] {
            let filter = filter(&format!("from={text}"));
            assert_eq!((filter.of.from_ns, filter.range), (NOW_NS, None), "{text}");
        }
    }

    #[test]
    fn a_time_is_typed_as_people_write_it_and_takes_the_place_of_a_range() {
        let it = filter("range=24h&from=2025-11-20T14:29:07Z&to=2025-11-20T14:30");
        assert_eq!(it.of.from_ns, NOW_NS);
        assert_eq!(it.of.until_ns, NOW_NS + 53_000_000_000);
        assert_eq!((it.range, it.has_end, it.is_backwards), (None, true, false));
        let open = filter("from=2025-11-20");
        assert!(!open.has_end && open.of.until_ns > NOW_NS);
        for query in [
            "from=2025-11-20T14:30&to=2025-11-20T14:30",
            "from=2025-11-21&until=2025-11-20",
        ] {
            assert!(filter(query).is_backwards, "{query}");
        }
        let unread = filter("from=yesterday&to=2025-11-31");
        assert_eq!((unread.unread.len(), unread.range), (2, Some(1)));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_left_out() {
        let filter = filter("min=soon&range=1y&sort=best&after=7&service=shop");
        let keys: Vec<&str> = filter.unread.iter().map(|it| it.0).collect();
        assert_eq!(keys, ["min", "sort", "range", "after"]);
        assert_eq!(filter.of.min_ns, 0);
        assert!(!filter.of.outermost);
    }

    #[test]
    fn the_search_and_the_form_go_together() {
        let it = filter("q=duration%3C2s+error+user.id%3D7&max=1s&name=GET+%2Fcart&min=10");
        assert_eq!((it.of.min_ns, it.of.max_ns), (10_000_000, 1_000_000_000));
        assert_eq!(it.of.conditions.len(), 2);
        assert!(it.of.errors && it.of.outermost && it.not_understood.is_none());
        assert_eq!(filter("q=a%3D").not_understood.unwrap().column, 3);
    }

    #[test]
    fn a_page_goes_on_where_the_one_before_ended() {
        let key = RequestKey {
            by_ns: 7,
            trace_id: TraceId([1; 16]),
            span_id: SpanId([0xfe; 8]),
        };
        assert_eq!(
            filter(&format!("after={}", cursor(&key))).of.after,
            Some(key)
        );
    }
}
