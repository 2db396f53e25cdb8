//! A trace id in what people paste: the id, a `traceparent`, a UUID, a URL of this or another UI.

use analyzer::span::{SpanId, TraceId};

/// Characters that are looked through: the longest URL browsers send.
const TEXT_MAX: usize = 8_192;

/// A trace, and the span pointed at, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: Option<SpanId>,
}

/// Reads an id of 32 hexadecimal digits of either case, of 16 (older systems; zeros go in front), or
/// in the form of a UUID. `None` if it is none, or all zero.
pub fn parse(text: &str) -> Option<TraceId> {
    let text = text.trim();
    let digits = match text.len() {
        16 => format!("{text:0>32}"),
        36 if is_uuid(text) => text.replace('-', ""),
        _ => text.to_owned(),
    };
    TraceId::from_hex(&digits).filter(|it| !it.is_zero())
}

/// Finds an id in pasted text. 16 digits count only if they are all there is, or stand in a URL:
/// any long number could be meant otherwise.
pub fn find(text: &str) -> Option<Pointer> {
    let text: String = text.trim().chars().take(TEXT_MAX).collect();
    if let Some(trace_id) = parse(&text) {
        return Some(Pointer {
            trace_id,
            span_id: None,
        });
    }
    let words: Vec<&str> = text.split(|it: char| !it.is_ascii_alphanumeric()).collect();
    let full = words
        .iter()
        .position(|it| it.len() == 32 && parse(it).is_some());
    let half = || {
        let url = text.contains("://") || text.contains("/trace");
        words
            .iter()
            .position(|it| url && it.len() == 16 && parse(it).is_some())
    };
    if let Some(at) = full.or_else(half) {
        let span_id = words[at + 1..].iter().find_map(|it| SpanId::from_hex(it));
        return Some(Pointer {
            trace_id: parse(words[at])?,
            span_id,
        });
    }
    let uuids = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '-');
    let trace_id = uuids.filter(|it| is_uuid(it)).find_map(parse)?;
    Some(Pointer {
        trace_id,
        span_id: None,
    })
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5f0c2a7be19d4c6398d1e04ba7f32c11";

    fn check(text: &str, expected: &str) {
        let found = find(text).map(|it| match it.span_id {
            Some(span_id) => format!("{} {span_id}", it.trace_id),
            None => it.trace_id.to_string(),
        });
        assert_eq!(found.unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn ids_are_found_in_what_people_paste() {
        check(ID, ID);
        check(" 5F0C2A7BE19D4C6398D1E04BA7F32C11\n", ID);
        check("e19d4c6398d1e04b", "0000000000000000e19d4c6398d1e04b");
        check("5f0c2a7b-e19d-4c63-98d1-e04ba7f32c11", ID);
        let span = "b2c4e8a01f6d3970";
        check(&format!("00-{ID}-{span}-01"), &format!("{ID} {span}"));
        check(
            &format!("traceparent: 00-{ID}-{span}-01"),
            &format!("{ID} {span}"),
        );
        check(
            &format!("http://127.0.0.1:7007/traces/{ID}?span={span}"),
            &format!("{ID} {span}"),
        );
        check(&format!("https://jaeger/trace/{ID}?uiFind=x"), ID);
        check(
            "https://jaeger/trace/e19d4c6398d1e04b",
            "0000000000000000e19d4c6398d1e04b",
        );
        check(&format!("trace_id={ID} took long"), ID);
    }

    #[test]
    fn other_text_holds_none() {
        check("", "");
        check("GET /cart", "");
        check("00000000000000000000000000000000", "");
        check("order 1234567890123456 is late", "");
        check("5f0c2a7be19d4c6398d1e04ba7f32c1", "");
        check("é5f0c2a7be19d4c6398d1e04ba7f32c", "");
        check("e\u{301}".repeat(5_000).as_str(), "");
    }
}
