//! Is this message what its schema says, all the way down? Asked once, before anything is stored;
//! everything that reads stored bytes relies on it.

use std::ops::Range;

use super::WireError;
use super::schema::{Field, Kind, Message};
use super::wire::{Raw, RawField, Reader, error};

/// How many messages may lie in one another, the request itself not counted. Every protobuf
/// reader has such a limit and 100 is the usual one; what is stored must be readable by all of
/// them. At the bound the request is malformed.
pub(crate) const NESTED_MAX: usize = 100;

/// Checks messages; keeps its stack between calls because it is asked once per span.
#[derive(Default)]
pub(crate) struct Checker {
    open: Vec<(&'static Message, Range<usize>)>,
}

impl Checker {
    /// Checks a field of `message`, which lies in `depth` others: wire types, UTF-8, nesting.
    /// Fields the schema does not know are fine.
    pub(crate) fn field(
        &mut self,
        bytes: &[u8],
        message: &'static Message,
        field: &RawField,
        depth: usize,
    ) -> Result<(), WireError> {
        let Some(known) = message.field(field.number) else {
            return Ok(());
        };
        let Some((inner, range)) = shallow(bytes, known, field)? else {
            return Ok(());
        };
        self.open.clear();
        self.open.push((inner, range));
        self.walk(bytes, depth)
    }

    /// A stack of its own instead of recursion: input must not choose how deep we call. What is
    /// left of each open message stands on it; the next field may open another.
    fn walk(&mut self, bytes: &[u8], depth: usize) -> Result<(), WireError> {
        loop {
            let nested = depth + self.open.len();
            let Some((message, rest)) = self.open.last_mut() else {
                return Ok(());
            };
            if nested > NESTED_MAX {
                return Err(error("values nested too deep", rest.start));
            }
            let message = *message;
            let mut reader = Reader::over(bytes, rest.clone());
            let mut inner = None;
            while let Some(field) = reader.field()? {
                let Some(known) = message.field(field.number) else {
                    continue;
                };
                inner = shallow(bytes, known, &field)?;
                if inner.is_some() {
                    rest.start = field.at.end;
                    break;
                }
            }
            match inner {
                Some(inner) => self.open.push(inner),
                None => _ = self.open.pop(),
            }
        }
    }
}

/// Checks the field itself; gives the message in it, if it holds one.
#[inline(always)]
fn shallow(
    bytes: &[u8],
    known: &'static Field,
    field: &RawField,
) -> Result<Option<(&'static Message, Range<usize>)>, WireError> {
    match (&known.kind, &field.value) {
        (Kind::Message(message), Raw::Delimited(range)) => Ok(Some((message, range.clone()))),
        (Kind::Text, Raw::Delimited(range)) => match str::from_utf8(&bytes[range.clone()]) {
            Ok(_) => Ok(None),
            Err(cause) => Err(error(
                "text that is not UTF-8",
                range.start + cause.valid_up_to(),
            )),
        },
        (Kind::Bytes | Kind::Id(_), Raw::Delimited(_)) => Ok(None),
        (Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Enum(_), Raw::Varint(_)) => {
            Ok(None)
        }
        (Kind::Double | Kind::Fixed64, Raw::Fixed64(_)) => Ok(None),
        (Kind::Fixed32, Raw::Fixed32(_)) => Ok(None),
        _ => Err(field.mismatch()),
    }
}
