//! Which spans of a trace hold a text: in their names, ids, messages, attributes and events.

use analyzer::Analysis;
use analyzer::span::{Attribute, Span, Value};
use analyzer::trace::SpanIdx;

use crate::waterfall::Names;

/// The spans that hold `text`, in any case, in order. Literals of statements are looked at too: whoever
/// looks for a value has it already.
pub fn find(analysis: &Analysis<'_>, text: &str) -> Vec<SpanIdx> {
    let needle = text.to_lowercase();
    let names = Names::of(analysis);
    let trace = &analysis.trace;
    let of_service: Vec<bool> = trace
        .spans
        .resources
        .iter()
        .map(|it| it.attributes.iter().any(|it| is_in(it, &needle)))
        .collect();
    let holds_it = |at: &SpanIdx| {
        let span = trace.span(*at);
        of_service.get(span.resource as usize) == Some(&true)
            || holds(names.name(*at), &needle)
            || is_in_span(analysis, span, &needle)
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
mail      GET /send {http.response.status_code=503}   |--|
",
        );
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        for (text, expected) in [
            ("posts", &["GET /posts", "SELECT posts"][..]),
            ("POSTS", &["GET /posts", "SELECT posts"]),
            ("É = 47", &["SELECT posts"]),
            ("declined", &["GET mail/send"]),
            ("503", &["GET /send"]),
            ("nowhere", &[]),
        ] {
            let found = find(&analysis, text);
            let mut names: Vec<&str> = found
                .iter()
                .map(|it| analysis.trace.span(*it).name)
                .collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{text}");
            assert!(found.is_sorted(), "{found:?}");
        }
        let of_mail = find(&analysis, "mail");
        assert!(
            of_mail.len() == 2,
            "the caller by its name, the callee by its service: {of_mail:?}"
        );
    }
}
