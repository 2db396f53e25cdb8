//! Which words a block of traces holds, in a few bytes per span: most blocks that hold no hit are
//! told so and stay closed.
//!
//! A word (token) is the hash of an attribute with its value, of a key, or of a span's name. They
//! stand in a three-way fuse filter (Graf and Lemire, 2022): each word has three places, and what
//! stands there, xored, is five bits of its hash. A word that is there is always found; one that is
//! not is taken for there once in 32 times. A Bloom filter of that size errs half as often again.
//!
//! ```text
//! head    version, flags, segment bits, ranges, segments     8 bytes
//! slots   segments × segment length × 5 bits                 a word's three places are in three
//! ranges  key, least, greatest number: 13 bytes each         segments that follow each other
//! ```
//!
//! Because a word's places stand together, a reader of many blocks fetches a [`window`] of about
//! two kilobytes of each, and not the whole. A wrong "maybe" costs a look; "no" is never wrong.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use analyzer::span::{Attribute, Spans, Value};

use crate::otlp::array_values;

/// How a filter is laid out and hashed. A reader takes another version's filter for "maybe".
const VERSION: u8 = 1;

/// Bytes before the slots.
pub const HEAD_BYTES: usize = 8;

/// Bits per place: a word that is not there is found with a probability of 1 in 2⁵.
const SLOT_BITS: usize = 5;

/// Places in a segment of a filter that is read by windows, as a power of two. Fewer would not
/// peel (see [`place_all`]) at a block's usual 10,000 words, more would make windows longer.
const WINDOW_SEGMENT_BITS: u32 = 10;

/// Bytes of such a segment.
pub const SEGMENT_BYTES: usize = (SLOT_BITS << WINDOW_SEGMENT_BITS) / 8;

/// A filter up to this length is read whole; a longer one has [`SEGMENT_BYTES`] per segment.
pub const WHOLE_BYTES_MAX: usize = 5_000;

/// Words from which on a filter has segments of [`SEGMENT_BYTES`].
const WINDOWED_WORDS_MIN: usize = 4_096;

/// Distinct words of a block at most (some 26,000 spans of five words of their own). Beyond, the
/// filter says "maybe" to everything: one trace of that size is as good as a block that is opened.
const WORDS_MAX: usize = 1 << 17;

/// Keys with numbers that a filter keeps the range of; they take less than a segment, so that the
/// number of segments follows from a filter's length. Of further keys nothing is known.
const RANGES_MAX: usize = 48;

/// Bytes of a range: a key's 23 bits, then least and greatest with 40 each.
const RANGE_BYTES: usize = 13;

/// Times that a filter is made larger because its words do not peel. Beyond, somebody has chosen
/// words that collide: the filter says "maybe" to everything.
const TRIES_MAX: usize = 8;

/// Longer texts are no numbers that people compare.
const NUMBER_TEXT_MAX: usize = 24;

/// Flag of the head: says "maybe" to everything.
const FLAG_OPEN: u8 = 1;
/// Flag of the head: there were more keys with numbers than [`RANGES_MAX`].
const FLAG_MORE_RANGES: u8 = 2;

/// The word that opens a filter to everything.
const EVERYTHING: u64 = u64::MAX;
/// Words with this bit are no hashes: a key's 23 bits and a number's 40.
const NUMBER: u64 = 1 << 63;

/// The words of one trace, each once: its attributes (spans', events', links', resources'), their
/// keys, names of spans and scopes. What they mean is between this function and [`build`].
pub fn tokens_of(spans: &Spans<'_>) -> Vec<u64> {
    // Of an attribute's key and value one is usually new, seldom both.
    let room = spans.attributes.len().min(WORDS_MAX);
    let mut words = Words {
        set: HashSet::with_capacity_and_hasher(room, Default::default()),
    };
    for resource in &spans.resources {
        words.attributes(&resource.attributes);
    }
    for scope in &spans.scopes {
        words.attributes(&[Attribute {
            key: SCOPE_KEY,
            value: Value::Str(scope.name),
        }]);
    }
    for span in &spans.spans {
        words.insert(name_token(span.name));
    }
    words.attributes(&spans.attributes);
    words.into_vec()
}

/// The attribute under which a span's instrumentation is searched.
pub const SCOPE_KEY: &str = "otel.scope.name";

/// The filter of a block with traces of these words.
pub fn build(tokens: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut gathered = Gathered::default();
    gathered.add(tokens);
    gathered.filter()
}

/// The words of traces that come into one block, each once.
#[derive(Default)]
pub struct Gathered {
    words: Words,
    ranges: Ranges,
    /// One trace has more words than a filter holds, or all of them have.
    everything: bool,
}

impl Gathered {
    /// Adds a trace's.
    pub fn add(&mut self, tokens: impl IntoIterator<Item = u64>) {
        for token in tokens {
            if token == EVERYTHING || self.words.set.len() > WORDS_MAX {
                self.everything = true;
                return;
            }
            match token & NUMBER {
                0 => self.words.insert(token),
                _ => self.ranges.add(token),
            }
        }
    }

    /// The filter of the block.
    pub fn filter(self) -> Vec<u8> {
        match self.everything {
            true => open(),
            false => of_words(self.words, &self.ranges),
        }
    }
}

fn of_words(words: Words, ranges: &Ranges) -> Vec<u8> {
    let words = words.into_vec();
    if words.first() == Some(&EVERYTHING) {
        return open();
    }
    let mut shape = Shape::for_words(words.len());
    for _ in 0..TRIES_MAX {
        if let Some(slots) = place_all(&words, shape) {
            return write(shape, &slots, ranges);
        }
        shape = shape.larger();
    }
    open()
}

/// The word of a span's name.
pub fn name_token(name: &str) -> u64 {
    mix(hash(name.as_bytes()), 0x8bb8_4b93_962e_acc9) >> 1
}

/// The word of an attribute's key.
pub fn key_token(key: &str) -> u64 {
    key_word(hash(key.as_bytes()))
}

/// The words of an attribute with this value, however it was typed; any of them will do.
pub fn value_tokens(key: &str, value: &str) -> Vec<u64> {
    let key = hash(key.as_bytes());
    let mut tokens = vec![value_word(key, value.as_bytes())];
    // As a number it may be spelled otherwise: 5e2 is 500.
    if let Some(number) = number(value) {
        let mut text = NumberText::default();
        let spelled = value_word(key, text.double(number));
        if spelled != tokens[0] {
            tokens.push(spelled);
        }
    }
    tokens
}

/// The number that a text spells, if it does.
pub fn number(text: &str) -> Option<f64> {
    let first = *text.as_bytes().first()?;
    let may = first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.');
    if !may || text.len() > NUMBER_TEXT_MAX {
        return None;
    }
    text.parse().ok().filter(|it: &f64| it.is_finite())
}

/// Where a word's places stand in a filter of `length` bytes: what to fetch of it.
pub fn window(length: usize, token: u64) -> Range<usize> {
    if length <= WHOLE_BYTES_MAX {
        return 0..length;
    }
    let segments = (length - HEAD_BYTES) / SEGMENT_BYTES;
    let start = HEAD_BYTES + SEGMENT_BYTES * first_segment(token, segments);
    start..start + 3 * SEGMENT_BYTES
}

/// The part of a word that decides over its [`window`], 32 bits: the window begins at segment
/// `bits · (segments − 2) / 2³²`.
pub fn window_bits(token: u64) -> u32 {
    (token >> 31) as u32
}

/// A filter as far as it was fetched.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// Its first [`HEAD_BYTES`].
    pub head: &'a [u8],
    /// How long it is.
    pub length: usize,
}

impl Fetched<'_> {
    /// The block may hold the word, whose [`window`] these bytes are.
    pub fn may_hold(&self, token: u64, window: &[u8]) -> bool {
        let Some(shape) = self.shape() else {
            return true;
        };
        let whole = self.length <= WHOLE_BYTES_MAX;
        let first = first_segment(token, shape.segments) << shape.bits;
        let start = if whole { HEAD_BYTES * 8 } else { 0 };
        let base = if whole { 0 } else { first };
        let found = places(token, shape)
            .map(|place| slot(window, start + (place - base) * SLOT_BITS))
            .into_iter()
            .try_fold(0, |acc, it| Some(acc ^ it?));
        // Fewer bytes than there should be: nothing is known.
        found.is_none_or(|found| found == fingerprint(token))
    }

    /// The block may hold a number of that key between the two; `ranges` is what stands in the
    /// filter from [`Fetched::ranges_at`] on.
    pub fn may_hold_number(&self, key: &str, between: (f64, f64), ranges: &[u8]) -> bool {
        let Some(shape) = self.shape() else {
            return true;
        };
        let count = usize::from(self.head[3]);
        if ranges.len() < count * RANGE_BYTES {
            return true;
        }
        let key = key_bits(hash(key.as_bytes()));
        let known = ranges.chunks_exact(RANGE_BYTES).take(count);
        let mut of_key = known.filter_map(|it| Some((key_of(it)?, it)));
        match of_key.find(|it| it.0 == key) {
            Some((_, range)) => {
                let (least, greatest) = (forty(&range[3..8]), forty(&range[8..13]));
                ordered(between.1) >= least && ordered(between.0) <= greatest
            }
            None => shape.more_ranges,
        }
    }

    /// Where the ranges of numbers stand; empty if there are none.
    pub fn ranges_at(&self) -> Range<usize> {
        let Some(shape) = self.shape() else {
            return 0..0;
        };
        let start = HEAD_BYTES + shape.slot_bytes();
        start..start + usize::from(self.head[3]) * RANGE_BYTES
    }

    /// `None` if it says "maybe" to everything.
    fn shape(&self) -> Option<Shape> {
        let [VERSION, flags, bits, _ranges, a, b, c, d] = *self.head else {
            return None;
        };
        let shape = Shape {
            bits: u32::from(bits),
            segments: u32::from_le_bytes([a, b, c, d]) as usize,
            more_ranges: flags & FLAG_MORE_RANGES != 0,
        };
        let sane = flags & FLAG_OPEN == 0 && bits <= WINDOW_SEGMENT_BITS as u8;
        (sane && shape.segments >= 3).then_some(shape)
    }
}

/// How many segments of how many places.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// A segment has 2 to this many places.
    bits: u32,
    segments: usize,
    more_ranges: bool,
}

impl Shape {
    /// The fewer words, the more room they need beyond their number to peel; after the paper.
    fn for_words(words: usize) -> Shape {
        let log = (words.max(2) as f64).ln();
        let bits = if words >= WINDOWED_WORDS_MIN {
            WINDOW_SEGMENT_BITS
        } else {
            // At least 8 places, because slots of a segment end at whole bytes then.
            ((log / 3.33_f64.ln() + 2.25) as u32).clamp(3, WINDOW_SEGMENT_BITS - 1)
        };
        let factor = (0.875 + 0.25 * 1e6_f64.ln() / log).max(1.125);
        let places = (words as f64 * factor) as usize;
        Shape {
            bits,
            segments: places.div_ceil(1 << bits).max(3),
            more_ranges: false,
        }
    }

    /// One segment more; and never between the lengths that are read whole and by windows.
    fn larger(mut self) -> Shape {
        self.segments += 1;
        let ranges = RANGES_MAX * RANGE_BYTES;
        if HEAD_BYTES + self.slot_bytes() + ranges > WHOLE_BYTES_MAX {
            self.segments = self.places().div_ceil(1 << WINDOW_SEGMENT_BITS);
            self.bits = WINDOW_SEGMENT_BITS;
        }
        self
    }

    fn places(&self) -> usize {
        self.segments << self.bits
    }

    fn slot_bytes(&self) -> usize {
        (self.places() * SLOT_BITS).div_ceil(8)
    }
}

/// Gives every place its five bits, or says that it cannot be done with so few places.
///
/// Peeling: a place that only one word has is that word's own; without the word others have places
/// of their own. Backwards, each word sets its own place so that its three come out right.
fn place_all(words: &[u64], shape: Shape) -> Option<Vec<u8>> {
    let mut at_place = vec![(0_u64, 0_u32); shape.places()];
    for word in words {
        for place in places(*word, shape) {
            let (xor, count) = &mut at_place[place];
            *xor ^= word;
            *count += 1;
        }
    }
    let mut alone: Vec<u32> = Vec::with_capacity(words.len());
    alone.extend((0..at_place.len() as u32).filter(|it| at_place[*it as usize].1 == 1));
    let mut peeled: Vec<(u64, u32)> = Vec::with_capacity(words.len());
    while let Some(own) = alone.pop() {
        let (word, 1) = at_place[own as usize] else {
            continue;
        };
        peeled.push((word, own));
        for place in places(word, shape) {
            let (xor, count) = &mut at_place[place];
            *xor ^= word;
            *count -= 1;
            if *count == 1 {
                alone.push(place as u32);
            }
        }
    }
    if peeled.len() < words.len() {
        return None;
    }
    let mut slots = vec![0_u8; shape.places()];
    for (word, own) in peeled.into_iter().rev() {
        let [a, b, c] = places(word, shape);
        slots[own as usize] = fingerprint(word) ^ slots[a] ^ slots[b] ^ slots[c];
    }
    Some(slots)
}

/// A word's three places, in three segments that follow each other.
fn places(token: u64, shape: Shape) -> [usize; 3] {
    let first = first_segment(token, shape.segments) << shape.bits;
    let spread = mix(token, 0x9e6c_63d0_676a_9a99);
    let length = 1 << shape.bits;
    let within = |shift: u32| (spread >> shift) as usize & (length - 1);
    [
        first + within(0),
        first + length + within(16),
        first + 2 * length + within(32),
    ]
}

fn first_segment(token: u64, segments: usize) -> usize {
    let starts = segments.saturating_sub(2) as u64;
    ((u64::from(window_bits(token)) * starts) >> 32) as usize
}

/// Of the bits that [`window_bits`] does not take.
fn fingerprint(token: u64) -> u8 {
    token as u8 & ((1 << SLOT_BITS) - 1)
}

/// The five bits from bit `at` on, least first.
fn slot(bytes: &[u8], at: usize) -> Option<u8> {
    let low = u16::from(*bytes.get(at / 8)?);
    let high = u16::from(bytes.get(at / 8 + 1).copied().unwrap_or(0));
    Some(((high << 8 | low) >> (at % 8)) as u8 & ((1 << SLOT_BITS) - 1))
}

fn open() -> Vec<u8> {
    vec![VERSION, FLAG_OPEN, 0, 0, 0, 0, 0, 0]
}

fn write(shape: Shape, slots: &[u8], ranges: &Ranges) -> Vec<u8> {
    let kept = ranges.of_keys.len().min(RANGES_MAX);
    let more = kept < ranges.of_keys.len();
    let flags = if more { FLAG_MORE_RANGES } else { 0 };
    let mut out = vec![VERSION, flags, shape.bits as u8, kept as u8];
    out.extend((shape.segments as u32).to_le_bytes());
    // Eight places are five bytes.
    for eight in slots.chunks(8) {
        let bits = eight
            .iter()
            .rev()
            .fold(0_u64, |acc, it| acc << SLOT_BITS | u64::from(*it));
        out.extend(&bits.to_le_bytes()[..SLOT_BITS]);
    }
    for (key, least, greatest) in &ranges.of_keys[..kept] {
        out.extend(&key.to_be_bytes()[1..]);
        out.extend(&least.to_be_bytes()[3..]);
        out.extend(&greatest.to_be_bytes()[3..]);
    }
    out
}

/// By key: its 23 bits, the least and the greatest number, 40 bits each.
#[derive(Default)]
struct Ranges {
    of_keys: Vec<(u32, u64, u64)>,
}

impl Ranges {
    fn add(&mut self, token: u64) {
        let (key, number) = ((token & !NUMBER) >> 40, token & FORTY);
        let key = key as u32;
        // A service has a few dozen such keys.
        if let Some((_, least, greatest)) = self.of_keys.iter_mut().find(|it| it.0 == key) {
            *least = number.min(*least);
            *greatest = number.max(*greatest);
        } else if self.of_keys.len() <= RANGES_MAX {
            // One more than is kept, to know that there are more.
            self.of_keys.push((key, number, number));
        }
    }
}

const FORTY: u64 = (1 << 40) - 1;

/// The upper 40 bits of a number in an order that follows the numbers'. Two numbers close together
/// are one: a comparison says "maybe" then.
fn ordered(number: f64) -> u64 {
    let bits = number.to_bits();
    let ordered = if bits >> 63 == 0 {
        bits | 1 << 63
    } else {
        !bits
    };
    ordered >> 24
}

fn forty(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |acc, it| acc << 8 | u64::from(*it))
}

fn key_of(range: &[u8]) -> Option<u32> {
    let [a, b, c] = *range.first_chunk::<3>()?;
    Some(u32::from_be_bytes([0, a, b, c]))
}

fn key_bits(key_hash: u64) -> u32 {
    (key_hash >> 41) as u32
}

fn key_word(key_hash: u64) -> u64 {
    mix(key_hash, 0x589a_b3c4_06ea_5c35) >> 1
}

fn value_word(key_hash: u64, value: &[u8]) -> u64 {
    mix(
        key_hash ^ hash(value).rotate_left(32),
        0xc2b2_ae3d_27d4_eb4f,
    ) >> 1
}

/// A set of words that stops at [`WORDS_MAX`].
#[derive(Default)]
struct Words {
    set: HashSet<u64, BuildHasherDefault<WordHasher>>,
}

impl Words {
    #[inline]
    fn insert(&mut self, word: u64) {
        self.set.insert(word);
    }

    fn attributes(&mut self, attributes: &[Attribute<'_>]) {
        for attribute in attributes {
            if self.set.len() > WORDS_MAX {
                return;
            }
            let key = hash(attribute.key.as_bytes());
            self.insert(key_word(key));
            self.value(key, &attribute.value);
        }
    }

    #[inline]
    fn value(&mut self, key: u64, value: &Value<'_>) {
        let mut text = NumberText::default();
        match value {
            Value::Str(value) => {
                self.insert(value_word(key, value.as_bytes()));
                if let Some(number) = number(value) {
                    self.number(key, number);
                }
            }
            Value::Int(number) => {
                self.insert(value_word(key, text.int(*number)));
                self.number(key, *number as f64);
            }
            Value::Double(number) => {
                self.insert(value_word(key, text.double(*number)));
                self.number(key, *number);
            }
            Value::Bool(yes) => self.insert(value_word(key, if *yes { b"true" } else { b"false" })),
            Value::Nested(encoded) => {
                for element in array_values(encoded) {
                    // An array in an array is not looked into.
                    if !matches!(element, Value::Nested(_)) {
                        self.value(key, &element);
                    }
                }
            }
            Value::Empty | Value::Bytes(_) => {}
        }
    }

    #[inline]
    fn number(&mut self, key: u64, number: f64) {
        if number.is_finite() {
            self.insert(NUMBER | u64::from(key_bits(key)) << 40 | ordered(number));
        }
    }

    fn into_vec(self) -> Vec<u64> {
        if self.set.len() > WORDS_MAX {
            return vec![EVERYTHING];
        }
        self.set.into_iter().collect()
    }
}

/// Numbers as people write them, without a String each: 500 for 500 and for 500.0.
#[derive(Default)]
pub struct NumberText {
    bytes: [u8; 32],
    longer: String,
}

impl NumberText {
    /// An integer's digits.
    pub fn int(&mut self, number: i64) -> &[u8] {
        let mut at = self.bytes.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            self.bytes[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            self.bytes[at] = b'-';
        }
        &self.bytes[at..]
    }

    /// A double's shortest spelling; a whole one's is an integer's.
    pub fn double(&mut self, number: f64) -> &[u8] {
        /// Every whole double up to here is an i64 exactly.
        const WHOLE_MAX: f64 = 9e15;
        if number.fract() == 0.0 && number.abs() < WHOLE_MAX {
            return self.int(number as i64);
        }
        self.longer = number.to_string();
        self.longer.as_bytes()
    }
}

/// A hash of text. The same on every machine and in every release of this version of the filter.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0xa076_1d64_78bd_642f;
    let length = bytes.len() as u64;
    let (mut low, mut high) = (0, 0);
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let mut rest = bytes;
        while let Some((sixteen, after)) = rest.split_first_chunk::<16>() {
            if after.is_empty() {
                break;
            }
            let (one, other) = sixteen.split_at(8);
            low = mix(low ^ word(one), ODD) ^ high;
            high = word(other).rotate_left(29) ^ low;
            rest = after;
        }
        low ^= word(rest.first_chunk::<8>().unwrap_or(first));
        high = high.rotate_left(17) ^ word(last);
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        low = u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
    } else if let [first, .., last] | [first @ last] = bytes {
        let middle = bytes[bytes.len() / 2];
        low = u64::from(*first) << 16 | u64::from(middle) << 8 | u64::from(*last);
    }
    mix(mix(low ^ length, ODD) ^ high, 0xe703_7ed1_a0b4_28db)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |it| u64::from_le_bytes(*it))
}

/// Both halves of the product, folded; adding first keeps zero from being a fixed point.
#[inline]
fn mix(value: u64, odd: u64) -> u64 {
    let product = u128::from(value.wrapping_add(0x2545_f491_4f6c_dd1d)) * u128::from(odd);
    (product >> 64) as u64 ^ product as u64
}

/// Words are hashes already, but numbers are not.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word, 0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn may_hold(filter: &[u8], token: u64) -> bool {
        let window = &filter[window(filter.len(), token)];
        fetched(filter).may_hold(token, window)
    }

    fn may_hold_number(filter: &[u8], key: &str, least: f64, greatest: f64) -> bool {
        let fetched = fetched(filter);
        fetched.may_hold_number(key, (least, greatest), &filter[fetched.ranges_at()])
    }

    fn fetched(filter: &[u8]) -> Fetched<'_> {
        Fetched {
            head: &filter[..HEAD_BYTES],
            length: filter.len(),
        }
    }

    fn words(count: u64, salt: u64) -> Vec<u64> {
        (0..count)
            .map(|it| hash(format!("{it} of {salt}").as_bytes()) >> 1)
            .collect()
    }

    /// Every size from nothing to the largest block, around the change to windows in particular.
    #[test]
    fn what_is_there_is_found_and_little_else() {
        let sizes = [
            0, 1, 2, 3, 10, 60, 500, 2_000, 4_000, 4_095, 4_096, 5_000, 13_700, 60_000, 130_000,
        ];
        for size in sizes {
            let own = words(size, 0x1234_5677);
            let filter = build(own.iter().chain(&own).copied());
            assert_eq!(filter[1] & FLAG_OPEN, 0, "{size} words do not peel");
            assert!(own.iter().all(|it| may_hold(&filter, *it)), "{size}");
            let wrong = words(20_000, 0x9999_9999)
                .into_iter()
                .filter(|it| may_hold(&filter, *it));
            let wrong = wrong.count();
            assert!(
                (500..750).contains(&wrong) || size < 60,
                "{size}: {wrong} of 20,000"
            );
        }
    }

    /// What a page of blocks costs on disk: the bound that the store was planned with.
    #[test]
    fn a_span_with_five_words_of_its_own_costs_four_bytes() {
        let spans = 2_700;
        let filter = build(words(spans * 5 + 300, 77));
        let bytes = filter.len() as f64 / spans as f64;
        assert!((3.8..4.1).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn a_window_is_enough() {
        let own = words(20_000, 3);
        let filter = build(own.iter().copied());
        let segments = (filter.len() - HEAD_BYTES) / SEGMENT_BYTES;
        for token in own {
            let range = window(filter.len(), token);
            // As the store's statement computes it.
            let first = (u64::from(window_bits(token)) * (segments as u64 - 2)) >> 32;
            assert_eq!(range.start, HEAD_BYTES + SEGMENT_BYTES * first as usize);
            assert!(range.len() < 2_000 && range.end <= filter.len());
        }
    }

    fn spans_of<'a>(attributes: Vec<Attribute<'a>>) -> Spans<'a> {
        Spans {
            attributes,
            ..Spans::default()
        }
    }

    fn attribute<'a>(key: &'a str, value: Value<'a>) -> Attribute<'a> {
        Attribute { key, value }
    }

    #[test]
    fn a_value_is_found_however_it_was_typed() {
        let typed = [Value::Int(500), Value::Str("500"), Value::Double(500.0)];
        for value in typed {
            let spans = spans_of(vec![attribute("status", value)]);
            let filter = build(tokens_of(&spans));
            for asked in ["500", "500.0", "5e2"] {
                let text = matches!(value, Value::Str(_)) && asked != "500";
                let found = value_tokens("status", asked);
                assert!(
                    text || found.iter().any(|it| may_hold(&filter, *it)),
                    "{value:?} {asked}"
                );
            }
            assert!(may_hold(&filter, key_token("status")));
            assert!(may_hold_number(&filter, "status", 500.0, f64::INFINITY));
            assert!(!may_hold_number(&filter, "status", 501.0, f64::INFINITY));
            assert!(!may_hold_number(
                &filter,
                "status",
                f64::NEG_INFINITY,
                499.0
            ));
            assert!(!may_hold_number(&filter, "other", 0.0, 1e9));
        }
        let yes = build(tokens_of(&spans_of(vec![attribute(
            "retry",
            Value::Bool(true),
        )])));
        assert!(may_hold(&yes, value_tokens("retry", "true")[0]));
    }

    #[test]
    fn ranges_that_are_not_kept_are_not_denied() {
        let keys: Vec<String> = (0..60).map(|it| format!("key {it}")).collect();
        let attributes = keys.iter().map(|it| attribute(it, Value::Int(7)));
        let filter = build(tokens_of(&spans_of(attributes.collect())));
        assert!(keys.iter().all(|it| may_hold_number(&filter, it, 7.0, 7.0)));
        assert!(
            keys.iter()
                .any(|it| !may_hold_number(&filter, it, 8.0, 9.0))
        );
        assert!(may_hold_number(&filter, "another", 8.0, 9.0));
    }

    #[test]
    fn what_is_too_much_opens_the_filter() {
        let texts: Vec<String> = (0..WORDS_MAX).map(|it| it.to_string()).collect();
        let attributes = texts.iter().map(|it| attribute("id", Value::Str(it)));
        let tokens = tokens_of(&spans_of(attributes.collect()));
        assert_eq!(tokens, [EVERYTHING]);
        let filter = build(tokens.into_iter().chain([7]));
        assert!(may_hold(&filter, 1) && may_hold_number(&filter, "x", 1.0, 1.0));
    }

    #[test]
    fn the_hash_is_the_stored_one() {
        let hashes = [
            value_tokens("http.route", "/posts/{id}")[0],
            name_token("GET"),
            key_token(""),
        ];
        expect_test::expect![[r#"
            [
                672911736953160689,
                5754980396770080605,
                2855024311287642862,
            ]
        "#]]
        .assert_debug_eq(&hashes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_filter(bytes in prop::collection::vec(any::<u8>(), 0..80), token: u64) {
            let head = &bytes[..bytes.len().min(HEAD_BYTES)];
            let fetched = Fetched { head, length: bytes.len() };
            fetched.may_hold(token >> 1, &bytes);
            let ranges = bytes.get(fetched.ranges_at()).unwrap_or_default();
            fetched.may_hold_number("key", (0.0, 1.0), ranges);
        }

        #[test]
        fn numbers_keep_their_order(a: i32, b: i32, exponent in -30..30) {
            let (a, b) = (f64::from(a) * 2_f64.powi(exponent), f64::from(b) * 2_f64.powi(exponent));
            prop_assert!(a > b || ordered(a) <= ordered(b));
        }

        #[test]
        fn texts_of_other_bytes_have_other_hashes(text in prop::collection::vec(any::<u8>(), 1..60), at: usize) {
            let mut other = text.clone();
            other[at % text.len()] ^= 1;
            // Of very short texts three bytes decide.
            prop_assert_ne!(hash(&text), hash(&other));
            prop_assert_ne!(hash(&text), hash(&[text.as_slice(), b"\0"].concat()));
        }
    }

    /// How long it takes, for who changes it: `cargo test --release -- --nocapture words_cost`.
    #[test]
    fn words_cost() {
        let texts: Vec<String> = (0..100_000)
            .map(|it| format!("value {}", it * 7919))
            .collect();
        let keys: Vec<String> = (0..10).map(|it| format!("app.measure.of.{it}")).collect();
        let traces: Vec<Spans<'_>> = texts
            .chunks(75)
            .take(180)
            .map(|unique| {
                let unique = unique
                    .iter()
                    .enumerate()
                    .map(|(n, it)| attribute(&keys[n % 5], Value::Str(it)));
                let same = (0..75).map(|n| attribute(&keys[5 + n % 5], Value::Str(&texts[n % 9])));
                spans_of(unique.chain(same).collect())
            })
            .collect();
        let since = std::time::Instant::now();
        let tokens: Vec<Vec<u64>> = traces.iter().map(tokens_of).collect();
        let words = since.elapsed();
        let since = std::time::Instant::now();
        let filter = build(tokens.into_iter().flatten());
        let spans = 15 * traces.len() as u32;
        println!(
            "{spans} spans: {:?} a span for words, {:?} for the filter of {} bytes",
            words / spans,
            since.elapsed() / spans,
            filter.len()
        );
    }
}
