//! A quick hash for maps whose keys come from strangers.
//!
//! Eight bytes at a time, each step the two halves of a 128-bit product folded together. The start
//! is random for every process: who does not know it cannot choose keys that collide. Hashes are
//! not stored and not compared between processes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A map that hashes quickly.
pub type SeededMap<K, V> = HashMap<K, V, Seeded>;

/// A set that hashes quickly.
pub type SeededSet<T> = HashSet<T, Seeded>;

/// Makes hashers that all begin with the process's seed.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(u64);

/// A hash under way.
#[derive(Clone, Copy, Debug)]
pub struct SeededHasher(u64);

impl Default for Seeded {
    fn default() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        // The standard library's keys are as random as the system can make them.
        Seeded(*SEED.get_or_init(|| RandomState::new().hash_one(0)))
    }
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

impl SeededHasher {
    #[inline]
    fn fold(&mut self, word: u64) {
        // Digits of the golden ratio: odd, and without a pattern.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.0 ^ word).wrapping_add(0x2545_f491_4f6c_dd1d);
        let product = u128::from(mixed) * u128::from(ODD ^ self.0.rotate_left(32) | 1);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for SeededHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length keeps `a` and `a\0` apart.
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    #[inline]
    fn write_u8(&mut self, number: u8) {
        self.fold(number.into());
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.fold(number.into());
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.fold(number);
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> u64 {
        Seeded::default().hash_one(text)
    }

    #[test]
    fn one_byte_or_one_zero_more_is_another_hash() {
        assert_eq!(hash("select a"), hash("select a"));
        let near = [
            "",
            "\0",
            "\0\0",
            "a",
            "a\0",
            "b",
            "select a",
            "select b",
            "select a\0",
        ];
        let hashes: HashSet<u64> = near.iter().map(|it| hash(it)).collect();
        assert_eq!(hashes.len(), near.len());
    }

    #[test]
    fn many_numbered_names_spread_over_all_bits() {
        let hashes: Vec<u64> = (0..10_000).map(|n| hash(&format!("GET /{n}"))).collect();
        let distinct: HashSet<&u64> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
        for bit in 0..64 {
            let set = hashes.iter().filter(|it| **it >> bit & 1 == 1).count();
            assert!(
                (4_500..5_500).contains(&set),
                "bit {bit} is set {set} times"
            );
        }
    }
}
