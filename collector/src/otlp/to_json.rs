//! From stored bytes to OTLP/JSON, one loop over the schema: what went in comes out, every
//! attribute type, every dropped count, except fields nobody knows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::WireError;
use super::schema::{self, Field, Kind, Message};
use super::wire::{Raw, RawField, Reader};

/// A stored request as OTLP/JSON (`{"resourceSpans":[…]}`): ids in hexadecimal, 64-bit numbers and
/// doubles that are no numbers as text, enumerations as numbers. Fields that are not on the wire
/// are left out.
pub fn to_json(request: &[u8]) -> Result<String, WireError> {
    to_text(&schema::REQUEST, request)
}

/// As [`to_json`], piece by piece: of a long trace nobody needs to hold all of it as text. Ends early, without
/// an error, when `take` does not want more. A piece is at least [`PIECE_BYTES`] long, the last one aside.
pub fn to_json_pieces(request: Bytes, take: impl FnMut(Vec<u8>) -> bool) -> Result<(), WireError> {
    write(&schema::REQUEST, request, take)
}

/// How long pieces are: what is sent at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// An encoded `AnyValue`, such as [`analyzer::span::Value::Nested`] holds, as OTLP/JSON
/// (`{"arrayValue":{"values":[…]}}`).
pub fn any_value_to_json(encoded: &[u8]) -> Result<String, WireError> {
    to_text(&schema::ANY_VALUE, encoded)
}

/// What is still to be written, the next thing last: a stack of its own instead of recursion.
enum Task {
    Text(&'static str),
    Key(&'static str),
    Value(Kind, RawField, Bytes),
    Message(&'static Message, Bytes),
    /// What is left of a repeated field, the next one last.
    Elements(&'static Field, Vec<RawField>, Bytes),
}

fn to_text(message: &'static Message, body: &[u8]) -> Result<String, WireError> {
    let mut text = Vec::with_capacity(2 * body.len());
    write(message, Bytes::copy_from_slice(body), |piece| {
        text.extend_from_slice(&piece);
        true
    })?;
    Ok(String::from_utf8(text)
        .unwrap_or_else(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()))
}

fn write(
    message: &'static Message,
    body: Bytes,
    mut take: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), WireError> {
    let mut out = Vec::new();
    let mut tasks = vec![Task::Message(message, body)];
    while let Some(task) = tasks.pop() {
        match task {
            Task::Text(text) => out.extend_from_slice(text.as_bytes()),
            Task::Key(name) => {
                out.push(b'"');
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
            }
            Task::Value(kind, field, body) => write_value(&mut out, kind, &field, &body)?,
            Task::Message(message, body) => expand(message, &body, &mut tasks)?,
            Task::Elements(known, mut left, body) => {
                if let Some(next) = left.pop() {
                    let element = element(known, &next, &body)?;
                    if !left.is_empty() {
                        tasks.push(Task::Elements(known, left, body));
                        tasks.push(Task::Text(","));
                    }
                    tasks.push(element);
                }
            }
        }
        if out.len() >= PIECE_BYTES && !take(std::mem::take(&mut out)) {
            return Ok(());
        }
    }
    if !out.is_empty() {
        take(out);
    }
    Ok(())
}

/// Puts a message's fields on the stack, in order of the schema.
fn expand(message: &'static Message, body: &Bytes, tasks: &mut Vec<Task>) -> Result<(), WireError> {
    let fields = fields(message, body)?;
    let mut groups = fields.chunk_by(|a, b| a.0.number == b.0.number).rev();
    tasks.push(Task::Text("}"));
    let mut next = groups.next();
    while let Some(group) = next {
        let known = group[0].0;
        if known.repeated {
            tasks.push(Task::Text("]"));
            let left = group.iter().rev().map(|it| it.1.clone()).collect();
            tasks.push(Task::Elements(known, left, body.clone()));
            tasks.push(Task::Text("["));
        } else {
            tasks.push(single(known, group, body)?);
        }
        tasks.push(Task::Key(known.json));
        next = groups.next();
        if next.is_some() {
            tasks.push(Task::Text(","));
        }
    }
    tasks.push(Task::Text("{"));
    Ok(())
}

/// The known fields of a message, sorted by number, each one's in order of the wire.
fn fields(
    message: &'static Message,
    body: &Bytes,
) -> Result<Vec<(&'static Field, RawField)>, WireError> {
    let mut found = Vec::new();
    let mut reader = Reader::new(body);
    while let Some(field) = reader.field()? {
        if let Some(known) = message.field(field.number) {
            found.push((known, field));
        }
    }
    if message.one_of
        && let Some(last) = found.last().map(|it| it.0.number)
    {
        let others = found.iter().rposition(|it| it.0.number != last);
        found.drain(..others.map_or(0, |at| at + 1));
    }
    found.sort_by_key(|it| it.0.number);
    Ok(found)
}

fn element(known: &Field, field: &RawField, body: &Bytes) -> Result<Task, WireError> {
    Ok(match known.kind {
        Kind::Message(message) => Task::Message(message, body.slice(field.delimited()?)),
        kind => Task::Value(kind, field.clone(), body.clone()),
    })
}

/// A field that may stand once but stands several times: messages are merged, which protobuf
/// defines as one behind the other; of other values the last one counts.
fn single(
    known: &Field,
    group: &[(&'static Field, RawField)],
    body: &Bytes,
) -> Result<Task, WireError> {
    match (known.kind, group) {
        (Kind::Message(message), [_, _, ..]) => {
            let mut merged = Vec::new();
            for (_, field) in group {
                merged.extend_from_slice(&body[field.delimited()?]);
            }
            Ok(Task::Message(message, merged.into()))
        }
        _ => element(known, &group[group.len() - 1].1, body),
    }
}

fn write_value(
    out: &mut Vec<u8>,
    kind: Kind,
    field: &RawField,
    body: &[u8],
) -> Result<(), WireError> {
    let text = match (kind, &field.value) {
        (Kind::Text, Raw::Delimited(range)) => {
            quoted(&String::from_utf8_lossy(&body[range.clone()]))
        }
        (Kind::Bytes, Raw::Delimited(range)) => quoted(&BASE64.encode(&body[range.clone()])),
        (Kind::Id(_), Raw::Delimited(range)) => quoted(&hexadecimal(&body[range.clone()])),
        (Kind::Bool, Raw::Varint(number)) => (*number != 0).to_string(),
        (Kind::Int32 | Kind::Enum(_), Raw::Varint(number)) => (*number as i32).to_string(),
        (Kind::Uint32, Raw::Varint(number)) => (*number as u32).to_string(),
        (Kind::Int64, Raw::Varint(number)) => quoted(&(*number as i64).to_string()),
        (Kind::Fixed64, Raw::Fixed64(number)) => quoted(&number.to_string()),
        (Kind::Fixed32, Raw::Fixed32(number)) => number.to_string(),
        (Kind::Double, Raw::Fixed64(bits)) => double(f64::from_bits(*bits)),
        _ => return Err(field.mismatch()),
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|it| [it >> 4, it & 15]);
    digits
        .map(|it| char::from(DIGITS[usize::from(it)]))
        .collect()
}

/// Rust prints the shortest digits that read back as the same double.
fn double(number: f64) -> String {
    if number.is_nan() {
        "\"NaN\"".into()
    } else if number.is_infinite() {
        let sign = if number < 0.0 { "-" } else { "" };
        format!("\"{sign}Infinity\"")
    } else {
        format!("{number:?}")
    }
}
