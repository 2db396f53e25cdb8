//! Which spans of a trace hold a text: in their names, ids, messages, attributes and events.

use analyzer::Analysis;
use analyzer::span::{Attribute, Span, Status, Value};
use analyzer::trace::SpanIdx;

use crate::indexed::Indexed;

/// The spans that hold `text`, in any case, in order. Literals of statements are looked at too: whoever
/// looks for a value has it already.
///
/// `key=value` also finds spans with that attribute, and `error=true` those that report an error.
pub fn find(indexed: &Indexed<'_, '_>, text: &str) -> Vec<SpanIdx> {
    let needle = text.to_lowercase();
    let (analysis, trace) = (indexed.analysis, &indexed.analysis.trace);
    // What many spans share is looked at once.
    let operations = indexed.names.operations().iter();
    let named: Vec<bool> = operations.map(|it| holds(it.name, &needle)).collect();
    let asked = text.split_once('=').map(|it| (it.0.trim(), it.1.trim()));
    let of_service: Vec<bool> = trace
        .spans
        .resources
        .iter()
        .map(|it| it.attributes.iter().any(|it| is_in(it, &needle)))
        .collect();
    let holds_it = |at: &SpanIdx| {
        let span = trace.span(*at);
        of_service.get(span.resource as usize) == Some(&true)
            || named[indexed.names.number(*at) as usize]
            || is_in_span(analysis, span, &needle)
            || asked.is_some_and(|(key, value)| has(analysis, span, key, value))
    };
    (0..trace.nodes.len() as SpanIdx).filter(holds_it).collect()
}

fn is_in_span(analysis: &Analysis<'_>, span: &Span<'_>, needle: &str) -> bool {
    let spans = &analysis.trace.spans;
    let events = &spans.events[span.events.start as usize..span.events.end as usize];
    let attributes = |of| spans.attributes_at(of).iter().any(|it| is_in(it, needle));
    holds(span.name, needle)
        || holds(span.status_message, needle)
        || attributes(&span.attributes)
        || events
            .iter()
            .any(|it| holds(it.name, needle) || attributes(&it.attributes))
        || (needle.len() == 16 && span.id.to_string() == needle)
}

/// The span has the attribute `key` with just this value.
fn has(analysis: &Analysis<'_>, span: &Span<'_>, key: &str, value: &str) -> bool {
    if (key, value) == ("error", "true") && span.status == Status::Error {
        return true;
    }
    let attributes = analysis.trace.spans.attributes_at(&span.attributes).iter();
    let mut same = attributes.filter(|it| it.key == key);
    same.any(|it| match it.value {
        Value::Str(text) => text == value,
        Value::Int(number) => number.to_string() == value,
        Value::Bool(yes) => yes.to_string() == value,
        Value::Double(number) => value.parse() == Ok(number),
        _ => false,
    })
}

fn is_in(attribute: &Attribute<'_>, needle: &str) -> bool {
    holds(attribute.key, needle)
        || match attribute.value {
            Value::Str(text) => holds(text, needle),
            Value::Int(number) => {
                needle.bytes().all(|it| it.is_ascii_digit() || it == b'-')
                    && number.to_string().contains(needle)
            }
            _ => false,
        }
}

/// `text` holds `needle`, which is in lower case. No allocation for ASCII: a long trace has a million texts.
fn holds(text: &str, needle: &str) -> bool {
    if text.is_ascii() {
        let (text, needle) = (text.as_bytes(), needle.as_bytes());
        return needle.is_empty()
            || text
                .windows(needle.len())
                .any(|it| it.eq_ignore_ascii_case(needle));
    }
    text.to_lowercase().contains(needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::{Settings, drawing};

    #[test]
    fn names_attributes_events_and_services_are_looked_through() {
        let drawing = drawing::parse(
            "
shop  GET /posts                                |----------|
shop    SELECT posts {db.query.text=\"SELECT * FROM posts WHERE é = 4711\"}  |--|
shop    GET mail/send [client] {event=Declined@3}    |----|
mail      GET /send {http.response.status_code=503, error}   |--|
",
        );
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let indexed = Indexed::of(&analysis);
        for (text, expected) in [
            ("posts", &["GET /posts", "SELECT posts"][..]),
            ("POSTS", &["GET /posts", "SELECT posts"]),
            ("É = 47", &["SELECT posts"]),
            ("declined", &["GET mail/send"]),
            ("503", &["GET /send"]),
            ("http.response.status_code=503", &["GET /send"]),
            ("http.response.status_code=50", &[]),
            ("error=true", &["GET /send"]),
            ("nowhere", &[]),
        ] {
            let found = find(&indexed, text);
            let mut names: Vec<&str> = found
                .iter()
                .map(|it| analysis.trace.span(*it).name)
                .collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{text}");
            assert!(found.is_sorted(), "{found:?}");
        }
        let of_mail = find(&indexed, "mail");
        assert!(
            of_mail.len() == 2,
            "the caller by its name, the callee by its service: {of_mail:?}"
        );
    }
}
