//! Bytes in any of the formats → OTLP that was validated as the receiver validates it.
//!
//! A text with a JSON value on each line is taken apart, and its parts are decoded side by side.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::bail;
use bytes::Bytes;
use collector::otlp::{self, Source};
use collector::receiver::json;
use prost::Message;
use serde_json::value::RawValue;

use super::input::{INPUT_BYTES_MAX, Input, unpack};
use super::paint::printable;
use super::parallel;
use super::progress::Progress;
use super::shape::{Shape, shape};
use super::{jaeger, zipkin};

/// What came in.
#[derive(Debug, Default)]
pub struct Spans {
    /// Validated requests.
    pub sources: Vec<Source>,
    /// Spans that were left out, because their ids are none.
    pub rejected: u64,
    /// What was odd: where, and what. At most [`ODD_MAX`].
    pub odd: Vec<String>,
    /// Values that hold logs or metrics.
    pub other_signals: usize,
    /// What was read: inputs by name.
    pub inputs: Vec<String>,
    /// Inputs in which there is nothing that can be analysed: neither spans, nor logs or metrics, which
    /// are known to be passed over.
    pub without: Vec<String>,
}

/// So many odd things are told; the first ones tell what is wrong.
const ODD_MAX: usize = 5;

/// Lines are decoded in parts of about so many bytes: small enough for all cores to have something to do,
/// large enough that senders of a span each are not kept apart a thousand times.
const PART_BYTES: usize = 1 << 20;

/// A part of an input that is read at once.
struct Part<'a> {
    input: &'a Input,
    /// Where it stands.
    range: Range<usize>,
    /// How many lines stand before it; only where each line is a value.
    lines_before: Option<usize>,
}

/// What became of a part, or of a value in it.
#[derive(Default)]
struct Read {
    otlp: Vec<u8>,
    hint: Option<String>,
    other_signals: usize,
}

/// Reads all inputs.
///
/// # Errors
/// The first input that is none of the formats: which, where, what was expected.
pub fn read(inputs: &[Input]) -> anyhow::Result<Spans> {
    let mut parts = Vec::new();
    for input in inputs {
        if input.bytes.trim_ascii().is_empty() {
            bail!(
                "there are no spans in {}: it is empty; is its exporter writing?",
                input.name
            );
        }
        parts_of(input, &mut parts);
    }
    let progress = Progress::of("read", "parts");
    let results = parallel::each(
        parts.len(),
        &progress,
        || (),
        |(), at| read_part(&parts[at]),
    );
    let mut spans = Spans {
        inputs: inputs.iter().map(|it| it.name.clone()).collect(),
        ..Spans::default()
    };
    let mut with_something = HashSet::new();
    for (part, result) in parts.iter().zip(results) {
        let (accepted, read) = result?;
        spans.other_signals += read.other_signals;
        spans.rejected += accepted.rejected;
        if read.other_signals > 0 || !accepted.batch.parts.is_empty() {
            with_something.insert(std::ptr::from_ref(part.input));
        }
        let said = [Some(accepted.message), read.hint];
        for odd in said.into_iter().flatten().filter(|it| !it.is_empty()) {
            if spans.odd.len() < ODD_MAX {
                spans.odd.push(format!("{}: {odd}", part.input.name));
            }
        }
        spans.add(accepted.batch.parts.into_iter().map(|it| it.otlp))?;
    }
    let without = inputs
        .iter()
        .filter(|it| !with_something.contains(&std::ptr::from_ref(*it)));
    spans.without = without.map(|it| it.name.clone()).collect();
    Ok(spans)
}

impl Spans {
    /// Adds requests that were accepted.
    ///
    /// # Errors
    /// They are not OTLP after all.
    pub fn add(&mut self, requests: impl IntoIterator<Item = Bytes>) -> anyhow::Result<()> {
        for request in requests {
            self.sources.push(Source::new(Vec::from(request))?);
        }
        Ok(())
    }
}

fn parts_of<'a>(input: &'a Input, parts: &mut Vec<Part<'a>>) {
    let bytes = &input.bytes;
    if !is_json(bytes) || !is_lines(bytes) {
        parts.push(Part {
            input,
            range: 0..bytes.len(),
            lines_before: None,
        });
        return;
    }
    let (mut start, mut lines) = (0, 0);
    while start < bytes.len() {
        let wanted = (start + PART_BYTES).min(bytes.len());
        let end = line_end(bytes, wanted.saturating_sub(1).max(start));
        parts.push(Part {
            input,
            range: start..end,
            lines_before: Some(lines),
        });
        lines += bytes[start..end].iter().filter(|it| **it == b'\n').count();
        start = end;
    }
}

/// One past the end of the line that `at` stands in.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at..].iter().position(|it| *it == b'\n');
    rest.map_or(bytes.len(), |it| at + it + 1)
}

/// Protobuf begins with field 1, a message: 0x0a, which is a line break in text.
fn is_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.first() {
        Some(b'{' | b'[') => true,
        Some(b'\n') => Source::new(bytes.to_vec()).is_err() && starts_json(bytes),
        _ => starts_json(bytes),
    }
}

fn starts_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Does the first line hold a whole value, with more lines behind it?
fn is_lines(bytes: &[u8]) -> bool {
    let start = bytes.len() - bytes.trim_ascii_start().len();
    let end = line_end(bytes, start.min(bytes.len().saturating_sub(1)));
    let line = bytes[start.min(end)..end].trim_ascii();
    let more = !bytes[end..].trim_ascii().is_empty();
    more && line.ends_with(b"}") | line.ends_with(b"]")
        && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

fn read_part(part: &Part<'_>) -> anyhow::Result<(otlp::Accepted, Read)> {
    let bytes = &part.input.bytes[part.range.clone()];
    let mut read = Read::default();
    match part.lines_before {
        Some(before) => {
            for (at, line) in bytes.split(|it| *it == b'\n').enumerate() {
                if !line.trim_ascii().is_empty() {
                    let place = Place {
                        name: &part.input.name,
                        line: Some(before + at + 1),
                    };
                    read_json(&place, line, &mut read)?;
                }
            }
        }
        None => {
            let place = Place {
                name: &part.input.name,
                line: None,
            };
            match is_json(bytes) {
                true => read_json(&place, bytes, &mut read)?,
                false => read_protobuf(&place, bytes, &mut read)?,
            }
        }
    }
    let otlp = std::mem::take(&mut read.otlp);
    let accepted = otlp::accept(otlp.into(), 1);
    let accepted = accepted.map_err(|it| unknown(&part.input.name, &it.to_string()))?;
    Ok((accepted, read))
}

/// Where a value stands, for messages.
struct Place<'a> {
    name: &'a str,
    /// Its line, from 1 on; none if it is all there is.
    line: Option<usize>,
}

impl Place<'_> {
    /// `traces.json, line 3, column 17`: where byte `at` of `text` is.
    fn at(&self, text: &[u8], at: usize) -> String {
        let before = &text[..at.min(text.len())];
        let lines = before.iter().filter(|it| **it == b'\n').count();
        let last = before
            .iter()
            .rposition(|it| *it == b'\n')
            .map_or(0, |it| it + 1);
        let column = String::from_utf8_lossy(&before[last..]).chars().count() + 1;
        self.line_and_column(lines + 1, column)
    }

    /// The same for a line and a column within the value, both from 1 on.
    fn line_and_column(&self, line: usize, column: usize) -> String {
        let line = self.line.map_or(line, |it| it + line - 1);
        format!("{}, line {line}, column {column}", self.name)
    }

    fn error(&self, error: &serde_json::Error, expected: &str) -> anyhow::Error {
        let place = self.line_and_column(error.line(), error.column());
        let why = error.to_string();
        let why = why.split(" at line ").next().unwrap_or(&why);
        let cut = match error.is_eof() {
            true => "; the input ends early: was it cut off, or its writer killed?",
            false => "",
        };
        anyhow::anyhow!("{place}: {expected} is expected, but {why}{cut}")
    }
}

fn read_json(place: &Place<'_>, bytes: &[u8], read: &mut Read) -> anyhow::Result<()> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text.trim_start_matches('\u{feff}'),
        Err(error) => bail!(
            "{}: text that is not UTF-8",
            place.at(bytes, error.valid_up_to())
        ),
    };
    match shape(text) {
        Shape::Otlp if text.trim_start().starts_with('[') => {
            let requests: Vec<&RawValue> = serde_json::from_str(text)
                .map_err(|it| place.error(&it, "a list of OTLP requests"))?;
            for request in requests {
                let start = request.get().as_ptr() as usize - text.as_ptr() as usize;
                read_otlp(place, text, start..start + request.get().len(), read)?;
            }
            Ok(())
        }
        Shape::Otlp => read_otlp(place, text, 0..text.len(), read),
        Shape::OtlpRenamed(key) => {
            let text = format!("{}resourceSpans{}", &text[..key.start], &text[key.end..]);
            read_otlp(place, &text, 0..text.len(), read)
        }
        Shape::Envelope(inside) => read_json(place, text[inside].as_bytes(), read),
        Shape::JaegerAnswer => {
            let answer =
                serde_json::from_str(text).map_err(|it| place.error(&it, "Jaeger JSON"))?;
            let traces =
                jaeger::traces(answer).map_err(|it| anyhow::anyhow!("{}: {it}", place.name))?;
            read.add(&jaeger::to_otlp(traces))
        }
        Shape::JaegerTraces => {
            let traces = jaeger::parse(text).map_err(|it| place.error(&it, "Jaeger JSON"))?;
            read.add(&jaeger::to_otlp(traces))
        }
        Shape::Zipkin => {
            let spans = zipkin::parse(text).map_err(|it| place.error(&it, "Zipkin v2 JSON"))?;
            let request = zipkin::to_otlp(spans);
            read.add(&request.map_err(|it| anyhow::anyhow!("{}: {it}", place.name))?)
        }
        Shape::OtherSignal => {
            read.other_signals += 1;
            Ok(())
        }
        Shape::Empty => Ok(()),
        Shape::Unknown(keys) => {
            // Perhaps it is not even JSON: then that is the better message.
            if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
                return Err(place.error(&error, "JSON"));
            }
            let why = match keys.is_empty() {
                true => "it is JSON, but no object".to_owned(),
                false => format!("its JSON begins with {}", printable(&keys.join(", "))),
            };
            Err(unknown(place.name, &why))
        }
    }
}

impl Read {
    fn add_decoded(&mut self, decoded: json::Decoded) {
        if self.hint.is_none() {
            self.hint = decoded.hint;
        }
        match self.otlp.is_empty() {
            true => self.otlp = decoded.protobuf,
            false => self.otlp.extend_from_slice(&decoded.protobuf),
        }
    }

    fn add(&mut self, request: &impl Message) -> anyhow::Result<()> {
        request.encode(&mut self.otlp)?;
        Ok(())
    }
}

fn read_otlp(
    place: &Place<'_>,
    text: &str,
    range: Range<usize>,
    read: &mut Read,
) -> anyhow::Result<()> {
    let Range { mut start, end } = range;
    while start < end {
        let mut decoded = json::decode_tolerant(&text.as_bytes()[start..end]);
        let mut next = end;
        // Requests one behind the other: files that were put together.
        if let Err(error) = &decoded
            && error.what.starts_with("something behind")
            && text[start + error.at..].starts_with('{')
        {
            next = start + error.at;
            decoded = json::decode_tolerant(&text.as_bytes()[start..next]);
        }
        let decoded = decoded.map_err(|it| {
            let place = place.at(text.as_bytes(), start + it.at);
            anyhow::anyhow!("{place}: not an OTLP/JSON trace request: {}", it.what)
        })?;
        read.add_decoded(decoded);
        start = next;
    }
    Ok(())
}

/// One request, or several with a length of four bytes, most significant first, before each, as the
/// OpenTelemetry collector writes files. A request never begins with a zero.
fn read_protobuf(place: &Place<'_>, bytes: &[u8], read: &mut Read) -> anyhow::Result<()> {
    let mut rest = bytes;
    if rest.first() != Some(&0) {
        read.otlp.extend_from_slice(rest);
        return Ok(());
    }
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((message, after)) = after.split_at_checked(length) else {
            let at = bytes.len() - rest.len();
            let why = format!("the length at byte {at} goes beyond the end: is it cut off?");
            return Err(unknown(place.name, &why));
        };
        let message = unpack(place.name, message.to_vec(), INPUT_BYTES_MAX)?;
        read.otlp.extend_from_slice(&message);
        rest = after;
    }
    match rest {
        [] => Ok(()),
        _ => Err(unknown(place.name, "a few bytes too many at its end")),
    }
}

fn unknown(name: &str, why: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{name} holds no traces that culprit can read: {why}. It reads OTLP as JSON (an object with \
         resourceSpans, or one on each line) or protobuf, Jaeger's JSON (an object with data) and Zipkin's \
         v2 JSON (a list of spans with traceId), also compressed with gzip or zstd"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTLP: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"0123456789abcdef0123456789abcdef","spanId":"0123456789abcdef","name":"a"}]}]}]}"#;
    const ZIPKIN: &str = r#"[{"traceId":"ab","id":"1","name":"b"}]"#;
    const JAEGER: &str = r#"{"data":[{"traceID":"cd","spans":[{"traceID":"cd","spanID":"2"}]}]}"#;

    fn read_text(bytes: impl Into<Vec<u8>>) -> anyhow::Result<Spans> {
        read(&[Input {
            name: "t".into(),
            bytes: bytes.into(),
        }])
    }

    fn count(bytes: impl Into<Vec<u8>>) -> usize {
        let spans = read_text(bytes).unwrap();
        spans.sources.iter().map(Source::spans).sum()
    }

    fn error(bytes: impl Into<Vec<u8>>) -> String {
        format!("{:#}", read_text(bytes).expect_err("an error"))
    }

    fn one_line(json: &str) -> String {
        json.replace('\n', "")
    }

    #[test]
    fn each_format_and_lists_and_lines_of_them() {
        let otlp = one_line(OTLP);
        let protobuf = json::decode(OTLP.as_bytes()).unwrap().protobuf;
        let framed = [&(protobuf.len() as u32).to_be_bytes()[..], &protobuf].concat();
        assert_eq!(count(OTLP), 1, "over several lines");
        assert_eq!(count(format!("\n\n{OTLP}\n")), 1);
        assert_eq!(count(format!("\u{feff}{otlp}")), 1);
        assert_eq!(count(format!("[{OTLP},{OTLP}]")), 2);
        assert_eq!(count(format!("{OTLP}\n{OTLP}")), 2, "put together");
        assert_eq!(
            count(format!("{otlp}{otlp}{otlp}")),
            3,
            "without a line break"
        );
        assert_eq!(count(format!("{otlp}\n\n{otlp}\r\n{otlp}")), 3);
        assert_eq!(count(protobuf), 1);
        assert_eq!(count(framed.repeat(3)), 3);
        assert_eq!(count(JAEGER), 1);
        assert_eq!(count(ZIPKIN), 1);
        assert_eq!(count(format!("{ZIPKIN}\n{JAEGER}\n{otlp}\n")), 3, "mixed");
        assert_eq!(count(otlp.replace("resourceSpans", "batches")), 1);
        assert_eq!(count(format!(r#"{{"result":{otlp}}}"#)), 1);
        assert_eq!(count("[]"), 0);
    }

    #[test]
    fn many_lines_are_read_in_parts_and_each_once() {
        let line = one_line(OTLP) + "\n";
        let lines = 3 * PART_BYTES / line.len();
        assert_eq!(count(line.repeat(lines)), lines);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let otlp = one_line(OTLP);
        let cut = error(format!("{otlp}\n{}", &otlp[..60]));
        assert!(cut.starts_with("t, line 2, column "), "{cut}");
        let wrong = error(OTLP.replace("\"a\"", "x"));
        assert!(wrong.starts_with("t, line 2, column "), "{wrong}");
        let jaeger = error(JAEGER.replace("\"cd\",\"spanID\"", "7,\"spanID\""));
        assert!(
            jaeger.contains("column") && jaeger.contains("Jaeger"),
            "{jaeger}"
        );
        let unknown = error(r#"{"hello":1,"world":2}"#);
        assert!(unknown.contains("hello, world") && unknown.contains("resourceSpans"));
        let bytes = error([0xde, 0xad, 0xbe, 0xef]);
        assert!(bytes.contains("at byte"), "{bytes}");
        let text = error("hello");
        assert!(text.contains("holds no traces"), "{text}");
        let framed = error([0, 0, 1, 0, 7]);
        assert!(framed.contains("beyond the end"), "{framed}");
    }

    #[test]
    fn spans_without_ids_are_counted() {
        let spans = read_text(OTLP.replace("0123456789abcdef0123456789abcdef", "")).unwrap();
        assert_eq!(spans.rejected, 1);
        assert!(spans.odd[0].contains("trace_id"), "{:?}", spans.odd);
    }

    #[test]
    fn an_odd_value_is_left_out_alone_and_told() {
        let spans = read_text(OTLP.replace("\"a\"", "7")).unwrap();
        assert_eq!(spans.sources.len(), 1);
        assert!(
            spans.odd[0].contains("1 value was left out"),
            "{:?}",
            spans.odd
        );
    }

    #[test]
    fn other_signals_are_passed_over() {
        let logs = read_text(r#"{"resourceLogs":[]}"#).unwrap();
        assert_eq!((logs.other_signals, logs.sources.len()), (1, 0));
    }
}
