//! Is this message what its schema says, all the way down? Asked once, before anything is stored;
//! everything that reads stored bytes relies on it.

use std::ops::Range;

use super::schema::{Field, KEY_VALUE, Kind, Message};
use super::texts::Texts;
use super::wire::{Raw, RawField, Reader, error};
use super::{WireError, plain};

/// How many messages may lie in one another, the request itself not counted. Every protobuf
/// reader has such a limit and 100 is the usual one; what is stored must be readable by all of
/// them. At the bound the request is malformed.
pub(crate) const NESTED_MAX: usize = 100;

/// Checks messages; keeps its stack between calls because it is asked once per span.
pub(crate) struct Checker<'a> {
    bytes: &'a [u8],
    texts: Texts<'a>,
    open: Vec<(&'static Message, Range<usize>)>,
}

impl<'a> Checker<'a> {
    /// For messages within these bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Checker {
            bytes,
            texts: Texts::new(bytes),
            open: Vec::new(),
        }
    }

    /// Checks a field of `message`, which lies in `depth` others: wire types, UTF-8, nesting.
    /// Fields the schema does not know are fine.
    pub(crate) fn field(
        &mut self,
        message: &'static Message,
        field: &RawField,
        depth: usize,
    ) -> Result<(), WireError> {
        let Some(known) = message.field(field.number) else {
            return Ok(());
        };
        let Some((inner, range)) = self.shallow(known, field)? else {
            return Ok(());
        };
        if std::ptr::eq(inner, &KEY_VALUE)
            && let Some((key, text)) = plain::attribute(self.bytes, &range)
        {
            self.text(key)?;
            return self.text(text);
        }
        self.open.clear();
        self.open.push((inner, range));
        self.walk(depth)
    }

    /// A stack of its own instead of recursion: input must not choose how deep we call. What is
    /// left of each open message stands on it; the next field may open another.
    fn walk(&mut self, depth: usize) -> Result<(), WireError> {
        while let Some((message, rest)) = self.open.pop() {
            if depth + self.open.len() >= NESTED_MAX {
                return Err(error("values nested too deep", rest.start));
            }
            let mut reader = Reader::over(self.bytes, rest.clone());
            while let Some(field) = reader.field()? {
                let Some(known) = message.field(field.number) else {
                    continue;
                };
                if let Some(inner) = self.shallow(known, &field)? {
                    self.open.push((message, field.at.end..rest.end));
                    self.open.push(inner);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Checks the field itself; gives the message in it, if it holds one.
    #[inline(always)]
    fn shallow(
        &mut self,
        known: &'static Field,
        field: &RawField,
    ) -> Result<Option<(&'static Message, Range<usize>)>, WireError> {
        match (&known.kind, &field.value) {
            (Kind::Message(message), Raw::Delimited(range)) => Ok(Some((message, range.clone()))),
            (Kind::Text, Raw::Delimited(range)) => {
                self.text(range.clone())?;
                Ok(None)
            }
            (Kind::Bytes | Kind::Id(_), Raw::Delimited(_)) => Ok(None),
            (
                Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Enum(_),
                Raw::Varint(_),
            ) => Ok(None),
            (Kind::Double | Kind::Fixed64, Raw::Fixed64(_)) => Ok(None),
            (Kind::Fixed32, Raw::Fixed32(_)) => Ok(None),
            _ => Err(field.mismatch()),
        }
    }

    #[inline]
    fn text(&mut self, range: Range<usize>) -> Result<(), WireError> {
        match self.texts.get(range) {
            Ok(_) => Ok(()),
            Err(at) => Err(error("text that is not UTF-8", at)),
        }
    }
}
