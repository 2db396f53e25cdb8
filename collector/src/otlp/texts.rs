//! Texts of stored bytes, found to be UTF-8 a stretch at a time.
//!
//! A span is two dozen short texts, and asking of each of them alone costs more than reading them.
//! Keys, values and the tags and lengths between them are nearly always ASCII, so one look at a text
//! and what follows it answers for most of the span.
//!
//! ```text
//! 4a 12 0a 06 t h r e a d 12 08 0a 06 w o r k e r 4a 0f … 12 a5 02 0a …
//!             |--------- one stretch, valid as it stands ---------| ^ a length that is not ASCII
//! ```

use std::ops::Range;

/// So many bytes at a time are asked whether they are ASCII: as many as compare at once, and little
/// is left of a stretch that ends in the middle of them.
const ASCII_BYTES: usize = 32;

/// The texts of one message. Asked for in order of the wire each byte is looked at about once.
pub(super) struct Texts<'a> {
    bytes: &'a [u8],
    /// Valid, and stands at `start` of `bytes`.
    stretch: &'a str,
    start: usize,
}

impl<'a> Texts<'a> {
    /// Of this message; nothing is looked at yet.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Texts {
            bytes,
            stretch: "",
            start: 0,
        }
    }

    /// The bytes that the texts stand in.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The text at `range`, which lies within the message.
    ///
    /// # Errors
    /// It is not UTF-8: where that begins.
    #[inline]
    pub(super) fn get(&mut self, range: Range<usize>) -> Result<&'a str, usize> {
        let from = range.start.wrapping_sub(self.start);
        match self.stretch.get(from..from.wrapping_add(range.len())) {
            Some(text) => Ok(text),
            None => self.look(range),
        }
    }

    /// Looks at the text and at all that is ASCII behind it.
    #[inline(never)]
    fn look(&mut self, range: Range<usize>) -> Result<&'a str, usize> {
        let behind = self.bytes[range.end..].chunks(ASCII_BYTES);
        let ascii = behind.take_while(|it| it.is_ascii());
        let end = range.end + ascii.map(<[u8]>::len).sum::<usize>();
        match str::from_utf8(&self.bytes[range.start..end]) {
            Ok(stretch) => {
                (self.start, self.stretch) = (range.start, stretch);
                // What is valid ends at the text's end, too: ASCII completes nothing.
                stretch.get(..range.len()).ok_or(range.start)
            }
            Err(broken) => Err(range.start + broken.valid_up_to()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Bytes that are often text, often not; ranges in any order.
        #[test]
        fn says_the_same_as_a_look_at_each_text_alone(
            pieces in prop::collection::vec(
                prop_oneof![
                    "[a-zé€😀]{0,9}".prop_map(String::into_bytes),
                    prop::collection::vec(any::<u8>(), 0..3),
                ],
                0..12,
            ),
            ends in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12),
        ) {
            let bytes = pieces.concat();
            let mut texts = Texts::new(&bytes);
            for (a, b) in ends {
                let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
                let range = a.min(b)..a.max(b);
                let alone = str::from_utf8(&bytes[range.clone()]);
                let alone = alone.map_err(|it| range.start + it.valid_up_to());
                prop_assert_eq!(texts.get(range), alone);
            }
        }
    }
}
