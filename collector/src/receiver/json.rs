//! OTLP/JSON → protobuf, one loop over the schema's table, so that from here on there is one
//! format. Tolerant where senders differ, strict where they would lose data:
//!
//! - unknown keys are skipped at every level, and so is `snake_case`, which OTLP/JSON is not;
//! - `null` is "not set"; of a key that stands twice the last one counts;
//! - whole numbers may be text and have an exponent, `9007199254740993` stays exact;
//! - enumerations may be names; bytes are base64 of either alphabet, padded or not;
//! - lone halves of surrogate pairs read as U+FFFD; a byte order mark is skipped;
//! - an id that is not hexadecimal becomes one of a wrong length, so that `accept` rejects that
//!   span and no other.
//!
//! The JSON itself is read by a tokenizer of our own, because a double must come out bit by bit as
//! it was printed and a number's digits must still be there when its field is known.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::otlp::check::NESTED_MAX;
use crate::otlp::schema::{self, Field, Kind, Message};
use crate::otlp::wire::{
    DELIMITED, FIXED32, FIXED64, VARINT, put_delimited, put_length_before, put_tag, put_varint,
};

/// How deep arrays and objects may nest in parts that are skipped. Known parts are bounded by
/// [`NESTED_MAX`] messages. At either bound the request is malformed.
const SKIPPED_DEPTH_MAX: usize = 128;

/// The same where nobody can be told to send it again ([`decode_tolerant`]): deep parts are passed over. At
/// the bound the text is refused; it is there for the memory that counting takes.
const TOLERATED_DEPTH_MAX: usize = 1_000_000;

/// A decoded request.
#[derive(Clone, PartialEq, Debug)]
pub struct Decoded {
    /// The request as protobuf; its ids are not validated yet.
    pub protobuf: Vec<u8>,
    /// The first mistake that was worked around, for people: ids that are not hexadecimal, keys in
    /// `snake_case`.
    pub hint: Option<String>,
}

/// Why a text is no OTLP/JSON request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an OTLP/JSON trace request: {what} at byte {at}")]
pub struct JsonError {
    /// What is wrong.
    pub what: String,
    /// Where in the text, bytes.
    pub at: usize,
}

/// Decodes an `ExportTraceServiceRequest`. Nothing at all, or only white space, is an empty one.
pub fn decode(body: &[u8]) -> Result<Decoded, JsonError> {
    decode_as(body, false)
}

/// Decodes a recorded request, whose sender cannot mend it: a value that does not fit its field, or that is
/// nested too deep, is left out alone, and [`Decoded::hint`] tells how many were. `NaN` and `Infinity`, which
/// some writers have where JSON has no word, are read.
pub fn decode_tolerant(body: &[u8]) -> Result<Decoded, JsonError> {
    decode_as(body, true)
}

fn decode_as(body: &[u8], tolerant: bool) -> Result<Decoded, JsonError> {
    let text = str::from_utf8(body).map_err(|cause| JsonError {
        what: "text that is not UTF-8".into(),
        at: cause.valid_up_to(),
    })?;
    let mut decoder = Decoder {
        tokens: Tokens {
            text,
            at: 0,
            tolerant,
        },
        left_out: 0,
        odd: None,
        out: Vec::with_capacity(body.len() / 2),
        open: Vec::new(),
        spans: 0,
        snake_case: false,
        hint: None,
    };
    decoder.tokens.skip_byte_order_mark();
    if !decoder.tokens.is_at_end() {
        decoder.request()?;
    }
    Ok(Decoded {
        hint: decoder.said(),
        protobuf: decoder.out,
    })
}

struct Decoder<'a> {
    tokens: Tokens<'a>,
    out: Vec<u8>,
    open: Vec<Open>,
    spans: usize,
    snake_case: bool,
    hint: Option<String>,
    /// Values that did not fit, if that is tolerated; why the first one did not.
    left_out: usize,
    odd: Option<JsonError>,
}

/// An object or array that is being read: a stack of our own, because input must not choose how
/// deep we call.
enum Open {
    Object {
        message: &'static Message,
        body: usize,
        place: Place,
        seen: Vec<(u32, Range<usize>)>,
        first: bool,
    },
    Array {
        field: &'static Field,
        place: Place,
        first: bool,
    },
}

/// Which field of the object around it this is, and where in the output it begins.
#[derive(Clone, Copy)]
struct Place {
    number: u32,
    start: usize,
}

impl<'a> Decoder<'a> {
    fn request(&mut self) -> Result<(), JsonError> {
        if self.tokens.value()? != Token::ObjectStart {
            return Err(self.tokens.error("an object is expected"));
        }
        self.open_object(
            &schema::REQUEST,
            Place {
                number: 0,
                start: 0,
            },
        );
        while let Some(open) = self.open.last_mut() {
            match open {
                Open::Object { message, first, .. } => {
                    let message = *message;
                    match self.tokens.member(std::mem::take(first))? {
                        Some(key) => self.member(message, &key)?,
                        None => self.close(),
                    }
                }
                Open::Array { field, first, .. } => {
                    let field = *field;
                    match self.tokens.element(std::mem::take(first))? {
                        Some(token) => self.element(field, token)?,
                        None => self.close(),
                    }
                }
            }
        }
        if !self.tokens.is_at_end() {
            return Err(self.tokens.error("something behind the request"));
        }
        if self.spans == 0 && self.snake_case {
            let what = "keys are lowerCamelCase in OTLP/JSON: resourceSpans, not resource_spans";
            return Err(self.tokens.error(what));
        }
        Ok(())
    }

    fn said(&mut self) -> Option<String> {
        let Some(odd) = &self.odd else {
            return self.hint.take();
        };
        let values = match self.left_out {
            1 => "1 value was left out".to_owned(),
            more => format!("{more} values were left out, the first one"),
        };
        Some(format!("{values} at byte {}: {}", odd.at, odd.what))
    }

    /// A value that does not fit: an error, or nothing. `opened` is that it is an object or array, of which
    /// the beginning was read.
    fn misfit(&mut self, place: Place, opened: bool, error: JsonError) -> Result<(), JsonError> {
        if !self.tokens.tolerant {
            return Err(error);
        }
        self.left_out += 1;
        self.odd.get_or_insert(error);
        self.out.truncate(place.start);
        if opened {
            self.tokens.at -= 1;
            self.tokens.skip_value()?;
        }
        Ok(())
    }

    fn member(&mut self, message: &'static Message, key: &str) -> Result<(), JsonError> {
        let Some(field) = message.named(key) else {
            self.snake_case |= self.open.len() == 1 && key == "resource_spans";
            if message.is_snake_case_of_a_field(key) {
                self.hint.get_or_insert_with(|| {
                    format!("{key} was left out: keys are lowerCamelCase in OTLP/JSON")
                });
            }
            return self.tokens.skip_value();
        };
        self.forget(field.number);
        let place = Place {
            number: field.number,
            start: self.out.len(),
        };
        match self.tokens.value()? {
            Token::Null => Ok(()),
            Token::ArrayStart if field.repeated => {
                let first = true;
                self.open.push(Open::Array {
                    field,
                    place,
                    first,
                });
                Ok(())
            }
            _ if field.repeated => Err(self.unexpected(field, "an array")),
            token => self.value(field, place, token),
        }
    }

    fn element(&mut self, field: &'static Field, token: Token<'a>) -> Result<(), JsonError> {
        let place = Place {
            number: 0,
            start: self.out.len(),
        };
        match (token, field.kind) {
            // A list of values keeps its positions.
            (Token::Null, Kind::Message(message)) if message.one_of => {
                put_delimited(&mut self.out, field.number, b"");
                Ok(())
            }
            (Token::Null, _) => Ok(()),
            (token, _) => self.value(field, place, token),
        }
    }

    /// Writes a value, or opens the object it is.
    fn value(
        &mut self,
        field: &'static Field,
        place: Place,
        token: Token<'a>,
    ) -> Result<(), JsonError> {
        let opened = matches!(token, Token::ObjectStart | Token::ArrayStart);
        if let Kind::Message(message) = field.kind {
            if token != Token::ObjectStart {
                let error = self.unexpected(field, "an object");
                return self.misfit(place, opened, error);
            }
            if self.is_too_deep() {
                let error = self.tokens.error("values nested too deep");
                return self.misfit(place, opened, error);
            }
            put_tag(&mut self.out, field.number, DELIMITED);
            self.open_object(message, place);
            return Ok(());
        }
        if let Err(error) = self.scalar(field, token) {
            return self.misfit(place, opened, error);
        }
        self.written(place);
        Ok(())
    }

    fn is_too_deep(&self) -> bool {
        let objects = self.open.iter();
        let objects = objects.filter(|it| matches!(it, Open::Object { .. }));
        objects.count() > NESTED_MAX
    }

    fn open_object(&mut self, message: &'static Message, place: Place) {
        self.spans += usize::from(std::ptr::eq(message, &schema::SPAN));
        self.open.push(Open::Object {
            message,
            body: self.out.len(),
            place,
            seen: Vec::new(),
            first: true,
        });
    }

    fn close(&mut self) {
        let place = match self.open.pop() {
            Some(Open::Object { body, place, .. }) => {
                if !self.open.is_empty() {
                    put_length_before(&mut self.out, body);
                }
                place
            }
            Some(Open::Array { place, .. }) => place,
            None => return,
        };
        self.written(place);
    }

    /// Remembers where a field of the object around it stands, should its key come again.
    fn written(&mut self, place: Place) {
        if let Some(Open::Object { seen, .. }) = self.open.last_mut() {
            seen.push((place.number, place.start..self.out.len()));
        }
    }

    /// The key stands for the second time: what the first one wrote is taken back.
    fn forget(&mut self, number: u32) {
        let Some(Open::Object { seen, .. }) = self.open.last_mut() else {
            return;
        };
        let Some(at) = seen.iter().position(|it| it.0 == number) else {
            return;
        };
        let (_, gone) = seen.remove(at);
        for (_, range) in &mut seen[at..] {
            range.start -= gone.len();
            range.end -= gone.len();
        }
        self.out.drain(gone);
    }

    fn scalar(&mut self, field: &'static Field, token: Token<'a>) -> Result<(), JsonError> {
        match (field.kind, &token) {
            (Kind::Text, Token::Text(text)) => {
                put_delimited(&mut self.out, field.number, text.as_bytes());
            }
            (Kind::Bytes, Token::Text(text)) => match base64_bytes(text) {
                Some(bytes) => put_delimited(&mut self.out, field.number, &bytes),
                None => return Err(self.unexpected(field, "base64")),
            },
            (Kind::Id(length), Token::Text(text)) => {
                let bytes = match hexadecimal(text) {
                    Some(bytes) => bytes,
                    None => self.not_an_id(field, text, length),
                };
                put_delimited(&mut self.out, field.number, &bytes);
            }
            (Kind::Bool, Token::True | Token::False) => {
                put_tag(&mut self.out, field.number, VARINT);
                put_varint(&mut self.out, u64::from(token == Token::True));
            }
            (Kind::Double, Token::Number(_) | Token::Text(_)) => match double(&token) {
                Some(number) => {
                    put_tag(&mut self.out, field.number, FIXED64);
                    self.out.extend_from_slice(&number.to_le_bytes());
                }
                None => return Err(self.unexpected(field, "a number")),
            },
            (Kind::Enum(names), Token::Text(text)) if !starts_like_a_number(text) => {
                let number = names.iter().position(|it| it == text).unwrap_or(0);
                put_tag(&mut self.out, field.number, VARINT);
                put_varint(&mut self.out, number as u64);
            }
            (kind, Token::Number(_) | Token::Text(_)) => {
                let written = whole_number(&token).and_then(|number| {
                    let field = field.number;
                    put_whole_number(&mut self.out, field, kind, number)
                });
                if written.is_none() {
                    return Err(self.unexpected(field, "a whole number that fits"));
                }
            }
            (Kind::Text | Kind::Bytes | Kind::Id(_), _) => {
                return Err(self.unexpected(field, "text"));
            }
            (Kind::Bool, _) => return Err(self.unexpected(field, "true or false")),
            _ => return Err(self.unexpected(field, "a number")),
        }
        Ok(())
    }

    /// Bytes for an id that is not hexadecimal: any that have not the id's length. Nothing is
    /// guessed: decoding it as base64 would hide the sender's mistake until its ids do not match
    /// those of a service that sends them right.
    fn not_an_id(&mut self, field: &Field, text: &str, length: usize) -> Vec<u8> {
        let base64 = base64_bytes(text).is_some_and(|it| it.len() == length);
        let mistake = if base64 {
            "is base64; ids are hexadecimal in OTLP/JSON, unlike all other bytes"
        } else {
            "is not hexadecimal"
        };
        self.hint.get_or_insert_with(|| {
            let shown: String = text.chars().take(40).collect();
            format!("{} {shown:?} {mistake}", field.json)
        });
        let mut bytes = text.as_bytes().to_vec();
        if bytes.len() == length || bytes.is_empty() {
            bytes.push(b'?');
        }
        bytes
    }

    fn unexpected(&self, field: &Field, expected: &str) -> JsonError {
        self.tokens
            .error(&format!("{}: {expected} is expected", field.json))
    }
}

fn put_whole_number(out: &mut Vec<u8>, field: u32, kind: Kind, number: i128) -> Option<()> {
    match kind {
        Kind::Fixed64 => {
            let number = u64::try_from(number).ok()?;
            put_tag(out, field, FIXED64);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Kind::Fixed32 => {
            let number = u32::try_from(number).ok()?;
            put_tag(out, field, FIXED32);
            out.extend_from_slice(&number.to_le_bytes());
        }
        _ => {
            // Negative numbers are sign-extended to 64 bits on the wire, also those of 32 bits.
            let bits = match kind {
                Kind::Uint32 => u32::try_from(number).ok()?.into(),
                Kind::Int32 | Kind::Enum(_) => i64::from(i32::try_from(number).ok()?) as u64,
                Kind::Int64 => i64::try_from(number).ok()? as u64,
                _ => return None,
            };
            put_tag(out, field, VARINT);
            put_varint(out, bits);
        }
    }
    Some(())
}

fn digits<'t>(token: &'t Token<'_>) -> Option<&'t str> {
    match token {
        Token::Number(text) => Some(text),
        Token::Text(text) => Some(text.trim()),
        _ => None,
    }
}

/// `1e3` and `1.0` are whole numbers too; only those go through a double.
fn whole_number(token: &Token<'_>) -> Option<i128> {
    let text = digits(token)?;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number: f64 = text.parse().ok()?;
    let whole = number.fract() == 0.0 && number.abs() < 2f64.powi(64);
    whole.then_some(number as i128)
}

fn double(token: &Token<'_>) -> Option<f64> {
    match digits(token)? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        text if starts_like_a_number(text) => text.parse().ok(),
        _ => None,
    }
}

fn starts_like_a_number(text: &str) -> bool {
    let first = text.trim_start().bytes().next();
    first.is_some_and(|it| it.is_ascii_digit() || matches!(it, b'-' | b'+' | b'.'))
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let bytes = pairs.iter().map(|[high, low]| {
        let byte = digit(*high)? << 4 | digit(*low)?;
        u8::try_from(byte).ok()
    });
    bytes.collect()
}

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let standard = STANDARD.decode(text);
    standard.or_else(|_| URL_SAFE.decode(text)).ok()
}

#[derive(Clone, PartialEq, Debug)]
enum Token<'a> {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Colon,
    Comma,
    Text(Cow<'a, str>),
    Number(&'a str),
    True,
    False,
    Null,
}

/// Strict JSON, token by token.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
    /// Words for numbers that are none, and deep parts, are passed over.
    tolerant: bool,
}

impl<'a> Tokens<'a> {
    fn error(&self, what: &str) -> JsonError {
        JsonError {
            what: what.into(),
            at: self.at,
        }
    }

    fn skip_byte_order_mark(&mut self) {
        if self.text.starts_with('\u{FEFF}') {
            self.at = '\u{FEFF}'.len_utf8();
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The next byte that is no white space, left where it is.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blank = |it: &u8| matches!(it, b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().take_while(|it| blank(it)).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Result<Token<'a>, JsonError> {
        let token = match self.peek() {
            Some(b'{') => Token::ObjectStart,
            Some(b'}') => Token::ObjectEnd,
            Some(b'[') => Token::ArrayStart,
            Some(b']') => Token::ArrayEnd,
            Some(b':') => Token::Colon,
            Some(b',') => Token::Comma,
            Some(b'"') => return self.string(),
            Some(b'N') if self.tolerant => return self.no_number("NaN"),
            Some(b'I') if self.tolerant => return self.no_number("Infinity"),
            Some(b'-') if self.tolerant && self.text[self.at..].starts_with("-I") => {
                return self.no_number("-Infinity");
            }
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(b't') => return self.word("true", Token::True),
            Some(b'f') => return self.word("false", Token::False),
            Some(b'n') => return self.word("null", Token::Null),
            Some(_) => return Err(self.error("a character that JSON does not have here")),
            None => return Err(self.error("an early end")),
        };
        self.at += 1;
        Ok(token)
    }

    /// As OTLP/JSON writes it: as text.
    fn no_number(&mut self, word: &'static str) -> Result<Token<'a>, JsonError> {
        self.word(word, Token::Text(Cow::Borrowed(word)))
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("a word that JSON does not have"));
        }
        self.at += word.len();
        Ok(token)
    }

    fn number(&mut self) -> Result<Token<'a>, JsonError> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.some_digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.some_digits()?;
        }
        Ok(Token::Number(&self.text[start..self.at]))
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn some_digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        match rest.iter().take_while(|it| it.is_ascii_digit()).count() {
            0 => Err(self.error("a number without digits")),
            count => {
                self.at += count;
                Ok(())
            }
        }
    }

    fn string(&mut self) -> Result<Token<'a>, JsonError> {
        self.at += 1;
        let first = self.plain()?;
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Token::Text(Cow::Borrowed(first)));
        }
        let mut text = first.to_owned();
        while self.byte() == Some(b'\\') {
            self.at += 1;
            text.push(self.escape()?);
            text.push_str(self.plain()?);
        }
        self.at += 1;
        Ok(Token::Text(Cow::Owned(text)))
    }

    /// Everything up to the next quote or backslash.
    fn plain(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let end = rest
            .iter()
            .position(|it| matches!(it, b'"' | b'\\' | 0..0x20));
        self.at += end.unwrap_or(rest.len());
        match self.byte() {
            Some(b'"' | b'\\') => Ok(&self.text[start..self.at]),
            Some(_) => Err(self.error("a control character in text")),
            None => Err(self.error("text without an end")),
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let escaped = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.error("an escape that JSON does not have")),
        };
        self.at += 1;
        Ok(escaped)
    }

    /// `uD83DuDE00`'s halves make one character; a half alone is U+FFFD.
    fn unicode(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let first = self.four_digits()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10 | (second - 0xdc00));
                return Ok(char::from_u32(code).unwrap_or('\u{FFFD}'));
            }
            self.at = before;
        }
        Ok(char::from_u32(first).unwrap_or('\u{FFFD}'))
    }

    fn four_digits(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()));
        match digits.and_then(|it| u32::from_str_radix(it, 16).ok()) {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => Err(self.error("an escape without four hexadecimal digits")),
        }
    }

    /// A token that begins a value.
    fn value(&mut self) -> Result<Token<'a>, JsonError> {
        match self.next()? {
            Token::ObjectEnd | Token::ArrayEnd | Token::Colon | Token::Comma => {
                self.at -= 1;
                Err(self.error("a value is expected"))
            }
            token => Ok(token),
        }
    }

    /// The next key of an object, up to its value; `None` at the object's end.
    fn member(&mut self, first: bool) -> Result<Option<Cow<'a, str>>, JsonError> {
        let mut token = self.next()?;
        if token == Token::ObjectEnd {
            return Ok(None);
        }
        if !first {
            if token != Token::Comma {
                return Err(self.error("a comma is expected"));
            }
            token = self.next()?;
        }
        match (token, self.next()?) {
            (Token::Text(key), Token::Colon) => Ok(Some(key)),
            _ => Err(self.error("a key and a colon are expected")),
        }
    }

    /// The next element of an array; `None` at the array's end.
    fn element(&mut self, first: bool) -> Result<Option<Token<'a>>, JsonError> {
        match self.peek() {
            Some(b']') => {
                self.at += 1;
                Ok(None)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.value().map(Some)
            }
            _ if first => self.value().map(Some),
            _ => Err(self.error("a comma is expected")),
        }
    }

    fn skip_value(&mut self) -> Result<(), JsonError> {
        let mut open: Vec<(bool, bool)> = Vec::new();
        let mut token = Some(self.value()?);
        loop {
            match token {
                Some(Token::ObjectStart) => open.push((true, true)),
                Some(Token::ArrayStart) => open.push((false, true)),
                _ => {}
            }
            let most = match self.tolerant {
                true => TOLERATED_DEPTH_MAX,
                false => SKIPPED_DEPTH_MAX,
            };
            if open.len() > most {
                return Err(self.error("values nested too deep"));
            }
            let Some((is_object, first)) = open.last_mut() else {
                return Ok(());
            };
            let first = std::mem::take(first);
            token = if *is_object {
                match self.member(first)? {
                    Some(_) => Some(self.value()?),
                    None => None,
                }
            } else {
                self.element(first)?
            };
            if token.is_none() {
                open.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Request;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::otlp;

    fn request(json: &str) -> Result<Request, JsonError> {
        let decoded = decode(json.as_bytes())?;
        Ok(Request::decode(&decoded.protobuf[..]).expect("valid protobuf"))
    }

    fn in_span(fields: &str) -> String {
        format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{
                "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174",{fields}}}]}}]}}]}}"#
        )
    }

    fn span(fields: &str) -> Span {
        let request = request(&in_span(fields)).unwrap_or_else(|error| panic!("{fields}: {error}"));
        request.resource_spans[0].scope_spans[0].spans[0].clone()
    }

    fn span_error(fields: &str) -> String {
        decode(in_span(fields).as_bytes()).unwrap_err().what
    }

    fn value(json: &str) -> Option<any_value::Value> {
        let span = span(&format!(r#""attributes":[{{"key":"k","value":{json}}}]"#));
        span.attributes[0].value.clone().unwrap().value
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn what_is_written_as_json_reads_back_equal(request in otlp::tests::request()) {
            let bytes = request.encode_to_vec();
            let json = otlp::to_json(&bytes).unwrap();
            let _: serde_json::Value = serde_json::from_str(&json).expect("strict JSON");
            let decoded = decode(json.as_bytes()).unwrap();
            let back = Request::decode(&decoded.protobuf[..]).unwrap();
            prop_assert_eq!(back.encode_to_vec(), bytes);
            prop_assert_eq!(decoded.hint, None);
        }

        #[test]
        fn no_text_panics(request in otlp::tests::request(), at in any::<prop::sample::Index>(), with in "[\\[\\]{}:,\"\\\\0-9a-z]{0,3}") {
            let mut json = otlp::to_json(&request.encode_to_vec()).unwrap().into_bytes();
            let at = at.index(json.len());
            json.splice(at..json.len().min(at + 1), with.bytes());
            if let Ok(decoded) = decode(&json) {
                Request::decode(&decoded.protobuf[..]).expect("valid protobuf");
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
            }
        }
    }

    #[test]
    fn j1_ids_are_hexadecimal_of_either_case() {
        let span = span(r#""parentSpanId":"EEe19b7ec3c1b173""#);
        assert_eq!(span.trace_id[..2], [0x5b, 0x8e]);
        assert_eq!(span.parent_span_id[..2], [0xee, 0xe1]);
    }

    #[test]
    fn j2_base64_ids_cost_that_span_and_name_the_mistake() {
        let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
            {"traceId":"W47/95gDgQPSabYzgT/GDA==","spanId":"7uGbfsPBsXQ="},
            {"traceId":"zzzzzzzzzzzzzzzz","spanId":"zzzzzzzz"},
            {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}]}]}]}"#;
        let decoded = decode(json.as_bytes()).unwrap();
        let hint = decoded.hint.unwrap();
        assert!(
            hint.contains("traceId") && hint.contains("is base64"),
            "{hint}"
        );
        let accepted = otlp::accept(decoded.protobuf.into(), 1).unwrap();
        assert_eq!(accepted.rejected, 2);
        assert_eq!(accepted.batch.parts[0].spans, 1);
    }

    #[test]
    fn j3_j7_p7_unknown_fields_and_null_are_nothing() {
        let span = span(
            r#""name":null,"future":{"a":[1,{"b":null}]},"kind":null,"links":null,
               "attributes":[null,{"key":"k","extra":1,"value":{"future":{},"intValue":1}}]"#,
        );
        assert_eq!((span.name, span.kind), (String::new(), 0));
        assert_eq!(span.attributes.len(), 1);
        let old = r#"{"resourceSpans":[{"instrumentationLibrarySpans":[{"spans":[{}]}]}]}"#;
        assert!(
            request(old).unwrap().resource_spans[0]
                .scope_spans
                .is_empty()
        );
        for json in [r#"{"future":[1]}"#, r#"{"doubleValue":null}"#, "{}"] {
            assert_eq!(value(json), None, "{json}");
        }
    }

    #[test]
    fn j4_snake_case_is_unknown_and_named_if_nothing_else_is_there() {
        assert_eq!(
            span(r#""start_time_unix_nano":"5""#).start_time_unix_nano,
            0
        );
        let decoded = decode(in_span(r#""start_time_unix_nano":"5","own_key":1"#).as_bytes());
        let hint = decoded.unwrap().hint.unwrap();
        assert!(hint.contains("start_time_unix_nano"), "{hint}");
        assert_eq!(
            decode(in_span(r#""own_key":1"#).as_bytes()).unwrap().hint,
            None
        );
        let error = request(r#"{"resource_spans":[{"scope_spans":[]}]}"#).unwrap_err();
        assert!(error.what.contains("resourceSpans"), "{error}");
        assert_eq!(request(r#"{"resourceSpans":[]}"#), Ok(Request::default()));
    }

    #[test]
    fn j5_j8_whole_numbers_of_every_spelling() {
        for (json, number) in [
            ("5", 5),
            (r#""5""#, 5),
            ("1e3", 1000),
            ("1.0", 1),
            (r#""1.5e1""#, 15),
            ("9007199254740993", 9_007_199_254_740_993),
            (r#""18446744073709551615""#, u64::MAX),
        ] {
            let span = span(&format!(r#""startTimeUnixNano":{json}"#));
            assert_eq!(span.start_time_unix_nano, number, "{json}");
        }
        assert_eq!(
            value(r#"{"intValue":"-9223372036854775808"}"#),
            Some(any_value::Value::IntValue(i64::MIN))
        );
        assert_eq!(span(r#""flags":"257","droppedEventsCount":"3""#).flags, 257);
        for json in [
            "1.5",
            "-1",
            r#""x""#,
            "18446744073709551616",
            "true",
            "[]",
            r#""NaN""#,
        ] {
            let what = span_error(&format!(r#""startTimeUnixNano":{json}"#));
            assert!(what.contains("startTimeUnixNano"), "{json}: {what}");
        }
    }

    #[test]
    fn j6_enumerations_are_numbers_or_names() {
        for (json, kind) in [
            ("2", 2),
            (r#""2""#, 2),
            (r#""SPAN_KIND_CLIENT""#, 3),
            (r#""SPAN_KIND_OF_TOMORROW""#, 0),
            ("77", 77),
        ] {
            assert_eq!(span(&format!(r#""kind":{json}"#)).kind, kind, "{json}");
        }
        let status = span(r#""status":{"code":"STATUS_CODE_ERROR","message":"no"}"#).status;
        assert_eq!(status.unwrap().code, 2);
    }

    #[test]
    fn j7_values_of_every_spelling() {
        use any_value::Value::{BytesValue, DoubleValue};
        for (json, number) in [
            ("0.1", 0.1),
            (r#""0.1""#, 0.1),
            ("1", 1.0),
            (r#""-Infinity""#, f64::NEG_INFINITY),
            ("5e-324", 5e-324),
            ("-0.0", -0.0),
            ("123456789.123456789", 123_456_789.123_456_79),
        ] {
            let value = value(&format!(r#"{{"doubleValue":{json}}}"#));
            assert_eq!(value, Some(DoubleValue(number)), "{json}");
        }
        assert!(matches!(value(r#"{"doubleValue":"NaN"}"#), Some(DoubleValue(it)) if it.is_nan()));
        for json in ["+/8=", "-_8=", "+/8", "-_8"] {
            let value = value(&format!(r#"{{"bytesValue":"{json}"}}"#));
            assert_eq!(value, Some(BytesValue(vec![0xfb, 0xff])), "{json}");
        }
        for json in [r#"{"arrayValue":{}}"#, r#"{"kvlistValue":{}}"#] {
            assert!(value(json).is_some(), "{json}");
        }
        let Some(any_value::Value::ArrayValue(array)) =
            value(r#"{"arrayValue":{"values":[{"intValue":1},null,{"boolValue":false}]}}"#)
        else {
            panic!("an array");
        };
        assert_eq!(array.values[1], AnyValue::default());
        assert_eq!(
            array.values[2].value,
            Some(any_value::Value::BoolValue(false))
        );
    }

    #[test]
    fn j8_of_a_key_that_stands_twice_the_last_one_counts() {
        let span = span(
            r#""name":"a","attributes":[{"key":"x"},{"key":"y"}],"events":[{"name":"e"}],
               "attributes":[{"key":"z"}],"name":"b","status":{"message":"m"},"status":{"code":1}"#,
        );
        assert_eq!((&span.name[..], span.attributes.len()), ("b", 1));
        assert_eq!(span.attributes[0].key, "z");
        assert_eq!(span.events[0].name, "e");
        assert_eq!(span.status.unwrap().message, "");
        assert_eq!(
            value(r#"{"stringValue":"a","intValue":1}"#),
            Some(any_value::Value::IntValue(1))
        );
        assert_eq!(value(r#"{"stringValue":"a","stringValue":null}"#), None);
    }

    #[test]
    fn a_recorded_request_loses_the_odd_value_only() {
        let deep = format!(
            "{}{}",
            r#"{"arrayValue":{"values":["#.repeat(400),
            "]}}".repeat(400)
        );
        for (odd, count) in [
            (r#""startTimeUnixNano":"""#.to_owned(), 1),
            (r#""startTimeUnixNano":-5"#.to_owned(), 1),
            (
                r#""startTimeUnixNano":[1,{"a":2}],"kind":1e99"#.to_owned(),
                2,
            ),
            (
                r#""attributes":[{"key":"k","value":{"intValue":1e30}}]"#.to_owned(),
                1,
            ),
            (format!(r#""attributes":[{{"key":"k","value":{deep}}}]"#), 1),
            (
                r#""attributes":[{"key":"k","value":{"doubleValue":NaN}}]"#.to_owned(),
                0,
            ),
            (
                r#""attributes":[{"key":"k","value":{"doubleValue":-Infinity}}]"#.to_owned(),
                0,
            ),
        ] {
            let json = in_span(&format!(r#"{odd},"name":"kept""#));
            assert!(decode(json.as_bytes()).is_err(), "{odd}");
            let decoded = decode_tolerant(json.as_bytes()).unwrap();
            let request = Request::decode(&decoded.protobuf[..]).unwrap();
            let span = &request.resource_spans[0].scope_spans[0].spans[0];
            assert_eq!((&span.name[..], span.start_time_unix_nano), ("kept", 0));
            let hint = decoded.hint.unwrap_or_default();
            let told = count == 0 || hint.starts_with(&count.to_string());
            assert!(told, "{hint}");
            let accepted = otlp::accept(decoded.protobuf.into(), 1).unwrap();
            assert_eq!(accepted.batch.parts[0].spans, 1);
        }
        assert!(decode_tolerant(in_span(r#""name":"#).as_bytes()).is_err());
    }

    #[test]
    fn j9_depth_is_bounded_and_texts_are_unicode() {
        let nested = |open: &str, close: &str, depth: usize| {
            let inner = format!("{}{}", open.repeat(depth), close.repeat(depth));
            in_span(&format!(r#""attributes":[{{"key":"k","value":{inner}}}]"#))
        };
        let (open, close) = (r#"{"arrayValue":{"values":["#, "]}}");
        assert!(decode(nested(open, close, 45).as_bytes()).is_ok());
        for depth in [60, 100_000] {
            let error = decode(nested(open, close, depth).as_bytes()).unwrap_err();
            assert_eq!(error.what, "values nested too deep");
        }
        let skipped = format!(r#"{{"x":{}"#, "[".repeat(100_000));
        assert_eq!(
            decode(skipped.as_bytes()).unwrap_err().what,
            "values nested too deep"
        );

        assert_eq!(
            span(r#""name":"\ud83d\ude00 \ud800 \udc00x \u0000\/""#).name,
            "😀 \u{FFFD} \u{FFFD}x \0/"
        );
        let marked = format!("\u{FEFF} {}", in_span(r#""name":"x""#));
        assert!(decode(marked.as_bytes()).is_ok());
        assert!(decode(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn nothing_is_an_empty_request_and_noise_is_none() {
        for json in [
            "",
            " \n",
            "{}",
            r#"{"resourceSpans":[{},{"scopeSpans":[{}]}]}"#,
        ] {
            assert_eq!(decode(json.as_bytes()).unwrap().hint, None, "{json}");
        }
        for json in [
            "hello",
            "[]",
            "1",
            "null",
            "{",
            "{}}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1 2]}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\x"}"#,
            r#"{"resourceSpans":{}}"#,
            r#"{"resourceSpans":[1]}"#,
            r#"{,"a":1}"#,
        ] {
            assert!(decode(json.as_bytes()).is_err(), "{json}");
        }
    }
}
