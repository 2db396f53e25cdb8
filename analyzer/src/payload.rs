//! How much a call or request carries: sizes of bodies, and rows.

use crate::span::{Attribute, Span, Spans, Value};

/// What a span says about its sizes; 0 where it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Payload {
    /// The request's body, bytes.
    pub request_bytes: u64,
    /// The response's body, bytes.
    pub response_bytes: u64,
    /// Rows that came back.
    pub rows: u64,
}

/// Reads the sizes off the attributes of `span` and, for RPCs, off its message events.
pub fn payload<'a>(spans: &Spans<'a>, span: &Span<'a>) -> Payload {
    let mut payload = Payload::default();
    for attribute in spans.attributes_at(&span.attributes) {
        payload.read(attribute);
    }
    let events = &spans.events[span.events.start as usize..span.events.end as usize];
    for event in events.iter().filter(|it| it.name.ends_with("message")) {
        payload.read_message(spans.attributes_at(&event.attributes));
    }
    payload
}

impl Payload {
    fn read(&mut self, attribute: &Attribute<'_>) {
        // The first byte decides which keys are compared at all.
        let first = attribute.key.as_bytes().first();
        if !matches!(first, Some(b'h' | b'd' | b'r' | b'p')) {
            return;
        }
        let size = match attribute.key {
            "http.response.body.size"
            | "http.response_content_length"
            | "http.response.header.content-length"
            | "http.response.header.content_length"
            | "response_size"
            | "rpc.response.size" => &mut self.response_bytes,
            "http.request.body.size"
            | "http.request_content_length"
            | "http.request.header.content-length"
            | "http.request.header.content_length"
            | "request_size"
            | "rpc.request.size" => &mut self.request_bytes,
            "db.response.returned_rows" | "db.row_count" => &mut self.rows,
            // Of a select these are rows that came back; of anything else nobody asks.
            "pgx.rows_affected" | "db.rows_affected" => &mut self.rows,
            _ => return,
        };
        *size = (*size).max(number(&attribute.value));
    }

    fn read_message(&mut self, attributes: &[Attribute<'_>]) {
        let get = |keys: &[&str]| {
            let found = attributes.iter().find(|it| keys.contains(&it.key));
            found.map(|it| it.value)
        };
        let bytes = get(&["rpc.message.uncompressed_size", "message.uncompressed_size"]);
        let bytes = bytes.map_or(0, |it| number(&it));
        let kind = get(&["rpc.message.type", "message.type"]);
        match kind.and_then(|it| it.as_str()) {
            Some("RECEIVED") => self.response_bytes = self.response_bytes.saturating_add(bytes),
            Some("SENT") => self.request_bytes = self.request_bytes.saturating_add(bytes),
            _ => {}
        }
    }
}

/// A number, text that spells one, or (captured headers are arrays) an array with one such text.
fn number(value: &Value<'_>) -> u64 {
    let number = match value {
        Value::Nested(encoded) => {
            // An encoded text ends with its characters, and the byte before them, its length, is no digit.
            let digits = encoded.iter().rev().take_while(|it| it.is_ascii_digit());
            let from = encoded.len() - digits.count();
            std::str::from_utf8(&encoded[from..])
                .ok()
                .and_then(|it| it.parse().ok())
        }
        value => value.as_int(),
    };
    number.and_then(|it| u64::try_from(it).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;

    #[test]
    fn sizes_in_every_generation_of_names() {
        let cases = [
            ("http.response.body.size=17", (0, 17, 0)),
            ("http.request_content_length=17", (17, 0, 0)),
            // Envoy sends text.
            ("response_size=\"17\"", (0, 17, 0)),
            ("db.response.returned_rows=17", (0, 0, 17)),
            ("http.response.body.size=-1", (0, 0, 0)),
            ("http.response.status_code=200", (0, 0, 0)),
        ];
        for (drawn, expected) in cases {
            let drawing = drawing::parse(&format!("shop GET {{{drawn}}} |--|"));
            let spans = drawing.spans();
            let it = payload(&spans, &spans.spans[0]);
            assert_eq!(
                (it.request_bytes, it.response_bytes, it.rows),
                expected,
                "{drawn}"
            );
        }
    }

    #[test]
    fn captured_headers_are_arrays() {
        // ArrayValue { values: [AnyValue { string_value: "12345" }] }, as an AnyValue.
        let encoded = b"\x2a\x09\x0a\x07\x0a\x0512345";
        assert_eq!(number(&Value::Nested(encoded)), 12_345);
        assert_eq!(number(&Value::Nested(b"")), 0);
        assert_eq!(number(&Value::Nested(&[b'9'; 40])), 0);
    }
}
