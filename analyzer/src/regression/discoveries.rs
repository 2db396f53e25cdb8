//! Many tests at once: which of them may be believed together.

/// Benjamini and Hochberg's procedure: which of the p-values are discoveries, so that of all discoveries on average at
/// most the share `q` is false. Same order as `p`.
pub fn benjamini_hochberg(p: &[f64], q: f64) -> Vec<bool> {
    let mut sorted: Vec<f64> = p.iter().copied().filter(|it| !it.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let share = |rank: usize| (rank + 1) as f64 / p.len() as f64;
    let last = (0..sorted.len())
        .rev()
        .find(|rank| sorted[*rank] <= share(*rank) * q);
    match last {
        Some(rank) => p.iter().map(|it| *it <= sorted[rank]).collect(),
        None => vec![false; p.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_textbook_example_and_odd_input() {
        let p = [
            0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216,
        ];
        let found = benjamini_hochberg(&p, 0.05);
        assert_eq!(found.iter().filter(|it| **it).count(), 2);
        assert!(found[0] && found[1]);
        // A small one carries larger ones that alone would not do.
        assert_eq!(benjamini_hochberg(&[0.04, 0.03], 0.05), [true, true]);
        assert_eq!(benjamini_hochberg(&[f64::NAN, 0.001], 0.05), [false, true]);
        assert!(benjamini_hochberg(&[], 0.05).is_empty());
    }
}
