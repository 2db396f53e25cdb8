//! Protobuf's wire format: a reader that walks the fields of one message without copying, and the
//! few writers needed to put lengths and tags around bytes that came. Knows nothing of OTLP.
//!
//! Positions are absolute in the buffer the reader was made over, however deep the message, so
//! that an error names the byte a person can look up in a hex dump.

use std::ops::Range;

use super::WireError;

/// A varint has at most ten bytes (64 bits, seven at a time); more is not protobuf.
const VARINT_BYTES_MAX: usize = 10;

/// One field as it stands on the wire.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawField {
    /// The field's number, at least 1.
    pub number: u32,
    /// Its value.
    pub value: Raw,
    /// Where the whole field stands, tag included.
    pub at: Range<usize>,
}

/// A value by wire type. Groups do not exist in proto3 and are refused.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Raw {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little endian.
    Fixed64(u64),
    /// Wire type 2: where the bytes stand.
    Delimited(Range<usize>),
    /// Wire type 5, little endian.
    Fixed32(u32),
}

impl RawField {
    /// The bytes of a text, bytes or message field.
    pub(crate) fn delimited(&self) -> Result<Range<usize>, WireError> {
        match &self.value {
            Raw::Delimited(range) => Ok(range.clone()),
            _ => Err(self.mismatch()),
        }
    }

    /// The error for a known field whose wire type is not the one its schema says.
    pub(crate) fn mismatch(&self) -> WireError {
        WireError {
            what: "a field of the wrong wire type",
            at: self.at.start,
        }
    }
}

/// Walks the fields of the message that stands at `at..end` of `bytes`.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// Reads the whole of `bytes` as one message.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::over(bytes, 0..bytes.len())
    }

    /// Reads a part of `bytes`, which must lie within it, as one message.
    pub(crate) fn over(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self {
            bytes,
            at: range.start,
            end: range.end,
        }
    }

    /// The next field, or `None` at the message's end.
    #[inline(always)]
    pub(crate) fn field(&mut self) -> Result<Option<RawField>, WireError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = match u32::try_from(tag) {
            Ok(tag) if tag >> 3 != 0 => tag >> 3,
            _ => return Err(error("a field number that does not exist", start)),
        };
        let value = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => Raw::Delimited(self.delimited()?),
            5 => Raw::Fixed32(u32::from_le_bytes(self.fixed()?)),
            3 | 4 => return Err(error("a group, which proto3 does not have", start)),
            _ => return Err(error("a wire type that does not exist", start)),
        };
        Ok(Some(RawField {
            number,
            value,
            at: start..self.at,
        }))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let rest = &self.bytes[start..self.end];
        if let Some(&byte) = rest.first()
            && byte < 0x80
        {
            self.at += 1;
            return Ok(byte.into());
        }
        let mut value = 0u64;
        for (index, &byte) in rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if index == VARINT_BYTES_MAX - 1 && byte > 1 {
                    break;
                }
                self.at = start + index + 1;
                return Ok(value);
            }
        }
        Err(error(
            if rest.len() < VARINT_BYTES_MAX {
                "a number that is cut off"
            } else {
                "a number of more than 64 bits"
            },
            start,
        ))
    }

    #[inline(always)]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.bytes[self.at..self.end].first_chunk() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(error("a number that is cut off", self.at)),
        }
    }

    #[inline(always)]
    fn delimited(&mut self) -> Result<Range<usize>, WireError> {
        let start = self.at;
        let length = self.varint()?;
        if length > (self.end - self.at) as u64 {
            return Err(error("a length that goes beyond the end", start));
        }
        let range = self.at..self.at + length as usize;
        self.at = range.end;
        Ok(range)
    }
}

#[cold]
pub(crate) fn error(what: &'static str, at: usize) -> WireError {
    WireError { what, at }
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes a varint takes, 1 to 10.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Wire types, for the writers.
pub(crate) const VARINT: u8 = 0;
/// Eight bytes.
pub(crate) const FIXED64: u8 = 1;
/// A length and so many bytes.
pub(crate) const DELIMITED: u8 = 2;
/// Four bytes.
pub(crate) const FIXED32: u8 = 5;

/// Appends a field's tag.
pub(crate) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Appends a text, bytes or message field.
pub(crate) fn put_delimited(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Puts a length before everything that was appended to `out` since it was `start` bytes long:
/// the length of a nested message is known only after its content.
pub(crate) fn put_length_before(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    let head = varint_len(length as u64);
    put_varint(out, length as u64);
    out[start..].rotate_right(head);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_tag(&mut out, 7, VARINT);
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), 1 + varint_len(value));
            let field = Reader::new(&out).field().unwrap().unwrap();
            prop_assert_eq!(field.value, Raw::Varint(value));
        }

        #[test]
        fn no_bytes_panic_and_every_field_lies_within(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            let mut at = 0;
            while let Ok(Some(field)) = reader.field() {
                prop_assert_eq!(field.at.start, at);
                at = field.at.end;
                prop_assert!(at <= bytes.len());
            }
        }
    }

    #[test]
    fn a_length_is_put_before_what_follows() {
        let mut out = vec![9];
        out.extend([7; 300]);
        put_length_before(&mut out, 1);
        assert_eq!(out[..3], [9, 0xac, 0x02]);
        assert_eq!(out[3..], [7; 300]);
    }
}
