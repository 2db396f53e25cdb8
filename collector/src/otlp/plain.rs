//! An attribute as every SDK writes it: a key, then a value that is a text, and nothing else.
//!
//! ```text
//! 0a 0b t h r e a d . n a m e   12 08   0a 06 w o r k e r
//! key                           value   a text
//! ```
//!
//! Nearly all attributes are such, and three comparisons take a fraction of a walk over fields.
//! Whatever is written otherwise is walked over.

use std::ops::Range;

/// Where key and text of the attribute that stands at `body` are, if it is a plain one.
#[inline(always)]
pub(super) fn attribute(bytes: &[u8], body: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    const KEY: u8 = 0x0a;
    const VALUE: u8 = 0x12;
    const TEXT: u8 = 0x0a;
    let bytes = bytes.get(..body.end)?;
    let key = behind(bytes, body.start, KEY)?;
    let value = behind(bytes, key.end, VALUE)?;
    let text = behind(bytes, value.start, TEXT)?;
    (value.end == body.end && text.end == body.end).then_some((key, text))
}

/// What `tag` and a length of at most two bytes announce at `at`, if that is what stands there.
#[inline(always)]
fn behind(bytes: &[u8], at: usize, tag: u8) -> Option<Range<usize>> {
    let (length, from) = match *bytes.get(at..)? {
        [it, low, ..] if it == tag && low < 0x80 => (usize::from(low), at + 2),
        [it, low, high, ..] if it == tag && high < 0x80 => {
            (usize::from(low & 0x7f) | usize::from(high) << 7, at + 3)
        }
        _ => return None,
    };
    let end = from + length;
    (end <= bytes.len()).then_some(from..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use prost::Message;

    fn encoded(key: &str, value: any_value::Value) -> Vec<u8> {
        let value = Some(AnyValue { value: Some(value) });
        let attribute = KeyValue {
            key: key.into(),
            value,
            ..KeyValue::default()
        };
        attribute.encode_to_vec()
    }

    #[test]
    fn a_key_and_a_text_are_found_whatever_their_length() {
        for length in [0, 1, 100, 127, 128, 16_000] {
            let text = "v".repeat(length);
            let bytes = encoded("k.e.y", any_value::Value::StringValue(text.clone()));
            let (key, value) = attribute(&bytes, &(0..bytes.len())).unwrap();
            assert_eq!(
                (&bytes[key], &bytes[value]),
                (&b"k.e.y"[..], text.as_bytes())
            );
        }
    }

    #[test]
    fn everything_else_is_left_to_a_walk() {
        let plain = encoded("k", any_value::Value::StringValue("v".into()));
        let others = [
            encoded("k", any_value::Value::IntValue(7)),
            encoded("", any_value::Value::StringValue("v".into())),
            encoded("k", any_value::Value::StringValue("v".repeat(1 << 14))),
            [&plain[..], &[0x18, 1]].concat(),
            [&plain[..], &plain].concat(),
        ];
        for bytes in others {
            assert_eq!(attribute(&bytes, &(0..bytes.len())), None);
        }
        for cut in 0..plain.len() {
            assert_eq!(attribute(&plain, &(0..cut)), None);
        }
    }
}
