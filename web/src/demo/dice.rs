//! Seeded randomness: the same seed gives the same demo.

use std::ops::Range;

/// A generator in 8 bytes (SplitMix64). Good enough to look random to people; not for secrets.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A generator of its own for each `purpose`, so that two of one seed do not move in step.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Dice(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.next();
        dice
    }

    /// A number of `range`, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty());
        range.start + self.next() % (range.end - range.start)
    }

    /// True once in `times`, on average.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.within(0..times) == 0
    }

    /// Puts `cards` into an order of chance.
    pub fn shuffle<T>(&mut self, cards: &mut [T]) {
        for left in (1..cards.len()).rev() {
            let other = self.within(0..left as u64 + 1) as usize;
            cards.swap(left, other);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_a_purpose_does_not() {
        let draw = |mut dice: Dice| (0..20).map(|_| dice.within(10..30)).collect::<Vec<_>>();
        assert_eq!(draw(Dice::new(7, 1)), draw(Dice::new(7, 1)));
        assert_ne!(draw(Dice::new(7, 1)), draw(Dice::new(7, 2)));
        assert!(draw(Dice::new(7, 1)).iter().all(|it| (10..30).contains(it)));
    }

    #[test]
    fn shuffling_keeps_every_card() {
        let mut cards = Vec::from_iter(0..25);
        Dice::new(7, 1).shuffle(&mut cards);
        assert_ne!(cards, Vec::from_iter(0..25));
        cards.sort();
        assert_eq!(cards, Vec::from_iter(0..25));
    }
}
