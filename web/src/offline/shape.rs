//! Whose JSON is this? Told by the keys of its first object, wherever that stands in lists.
//!
//! | looks like | is |
//! |---|---|
//! | `{"resourceSpans": …}` | an OTLP request |
//! | `{"batches": …}` | the same as Tempo answers it |
//! | `{"result": {…}}`, `{"trace": {…}}` | an envelope around one (Jaeger's and Tempo's newer APIs) |
//! | `{"data": [{"traceID": …}]}` | Jaeger's API, and what its UI saves |
//! | `{"traceID": …, "spans": …}` | one trace of Jaeger's |
//! | `[{"traceId": …}]`, `[[…]]`, `{"traceId": …}` | Zipkin's spans |

use std::ops::Range;

/// What a JSON text is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One OTLP request, or a list of them.
    Otlp,
    /// The key at this place should read `resourceSpans`.
    OtlpRenamed(Range<usize>),
    /// The value at this place is what matters.
    Envelope(Range<usize>),
    /// `{"data": […]}`.
    JaegerAnswer,
    /// One trace, or a list of them.
    JaegerTraces,
    /// A span, spans, or lists of spans.
    Zipkin,
    /// OTLP, but logs or metrics.
    OtherSignal,
    /// Nothing in it: `[]`, `{}`.
    Empty,
    /// Something else; its first keys.
    Unknown(Vec<String>),
}

/// So many keys are named of a text that nobody knows.
const KEYS_NAMED_MAX: usize = 5;

/// Tells what `text` is. Reads no further than it must; broken JSON is told as far as it goes.
pub fn shape(text: &str) -> Shape {
    let mut keys = Keys::of(text);
    let mut seen = Vec::new();
    while let Some((key, at)) = keys.next() {
        match key {
            "resourceSpans" | "resource_spans" => return Shape::Otlp,
            "resourceLogs" | "resourceMetrics" => return Shape::OtherSignal,
            "batches" => return Shape::OtlpRenamed(at),
            "result" | "trace" => {
                if let Some(value) = keys.object() {
                    return Shape::Envelope(value);
                }
            }
            "data" => return Shape::JaegerAnswer,
            "traceID" | "processes" => return Shape::JaegerTraces,
            "traceId" => return Shape::Zipkin,
            _ if seen.len() < KEYS_NAMED_MAX => seen.push(key.to_owned()),
            _ => {}
        }
    }
    match keys.is_empty {
        true => Shape::Empty,
        false => Shape::Unknown(seen),
    }
}

/// Walks over the keys of the first object.
struct Keys<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// A key comes next.
    key_next: bool,
    /// Only lists or objects without anything in them so far.
    is_empty: bool,
}

impl<'a> Keys<'a> {
    fn of(text: &'a str) -> Keys<'a> {
        let mut keys = Keys {
            text,
            at: 0,
            depth: 0,
            key_next: true,
            is_empty: true,
        };
        let lists_end = text.find(|it: char| !it.is_whitespace() && it != '[' && it != '\u{feff}');
        keys.at = lists_end.unwrap_or(text.len());
        match text.as_bytes().get(keys.at) {
            Some(b'{') => {
                keys.at += 1;
                keys.depth = 1;
            }
            Some(b']') | None => keys.at = text.len(),
            Some(_) => {
                keys.at = text.len();
                keys.is_empty = false;
            }
        }
        keys
    }

    /// The next key and where it stands, without its quotes.
    fn next(&mut self) -> Option<(&'a str, Range<usize>)> {
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b'"' => {
                    self.is_empty = false;
                    let place = self.string()?;
                    if self.depth == 1 && std::mem::take(&mut self.key_next) {
                        return Some((&self.text[place.clone()], place));
                    }
                    continue;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.at = self.text.len();
                        return None;
                    }
                }
                b',' if self.depth == 1 => self.key_next = true,
                _ => {}
            }
            self.at += 1;
        }
        None
    }

    /// Passes over the text that begins here; where it stands.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            match self.text.as_bytes().get(at)? {
                b'\\' => at += 2,
                b'"' => break,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Some(start..at)
    }

    /// Passes over the value behind a key; where it stands, if it is an object.
    fn object(&mut self) -> Option<Range<usize>> {
        let rest = &self.text[self.at..];
        let begin = self.at + rest.find(|it: char| !it.is_whitespace() && it != ':')?;
        if self.text.as_bytes()[begin] != b'{' {
            return None;
        }
        self.at = begin + 1;
        let mut depth = 1;
        while depth > 0 {
            match self.text.as_bytes().get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        Some(begin..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_told_by_its_keys() {
        let cases = [
            (r#"{"resourceSpans":[]}"#, Shape::Otlp),
            (r#" [ {"resource_spans":[]}]"#, Shape::Otlp),
            ("\u{feff}{\"resourceSpans\":[]}", Shape::Otlp),
            (r#"{"resourceLogs":[]}"#, Shape::OtherSignal),
            (r#"{"batches":[]}"#, Shape::OtlpRenamed(2..9)),
            (r#"{"total":0,"data":[]}"#, Shape::JaegerAnswer),
            (
                r#"{"spans":[{"traceId":"a"}],"traceID":"a"}"#,
                Shape::JaegerTraces,
            ),
            (r#"[{"id":"1","traceId":"a"}]"#, Shape::Zipkin),
            (r#"[[{"traceId":"a"}]]"#, Shape::Zipkin),
            (r#"[]"#, Shape::Empty),
            (r#"[{}]"#, Shape::Empty),
            (
                r#"{"a\"":{"data":1},"b":"data"}"#,
                Shape::Unknown(vec!["a\\\"".into(), "b".into()]),
            ),
            (r#"[1]"#, Shape::Unknown(vec![])),
            (r#"{"data"#, Shape::Unknown(vec![])),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn envelopes_are_opened() {
        let text = r#"{"result": {"resourceSpans":["}"]}, "a":1}"#;
        let Shape::Envelope(inside) = shape(text) else {
            panic!("{:?}", shape(text));
        };
        assert_eq!(&text[inside], r#"{"resourceSpans":["}"]}"#);
    }
}
