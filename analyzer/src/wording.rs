//! Numbers in sentences: `2.1 ms`, `54 %`.

/// A duration with two digits that matter: `480 µs`, `2.1 ms`, `65 ms`, `1.2 s`.
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..999_500 => two_digits(ns, 1_000, "µs"),
        999_500..999_500_000 => two_digits(ns, 1_000_000, "ms"),
        _ => two_digits(ns, 1_000_000_000, "s"),
    }
}

/// Rounded, as the pages round that stand beside it. Whole numbers without `.0`, and beyond ten no tenths.
fn two_digits(number: u64, per_unit: u64, unit: &str) -> String {
    let rounded = |to: u64| number.saturating_add(to / 2) / to;
    let tenths = rounded(per_unit / 10);
    match tenths {
        0..100 if !tenths.is_multiple_of(10) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", rounded(per_unit)),
    }
}

/// Thousands apart: `25,000`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `once`, `twice`, `7 times`.
pub fn times(count: usize) -> String {
    match count {
        1 => "once".to_string(),
        2 => "twice".to_string(),
        count => format!("{count} times"),
    }
}

/// A size with two digits that matter: `480 B`, `2.1 kB`, `65 MB`. Decimal units, as networks count.
pub fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..999_500 => two_digits(size, 1_000, "kB"),
        999_500..999_500_000 => two_digits(size, 1_000_000, "MB"),
        _ => two_digits(size, 1_000_000_000, "GB"),
    }
}

/// `part` of `whole` in percent, rounded down; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> u64 {
    let hundredfold = u128::from(part) * 100;
    hundredfold.checked_div(u128::from(whole)).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn durations_in_words() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (480_000, "480 µs"),
            (2_149_000, "2.1 ms"),
            (65_900_000, "66 ms"),
            (9_960_000, "10 ms"),
            (999_600, "1 ms"),
            (999_400, "999 µs"),
            (1_250_000_000, "1.3 s"),
            (2_295_400_000, "2.3 s"),
            (75_000_000_000, "75 s"),
        ];
        for (ns, expected) in cases {
            assert_eq!(duration(ns), expected);
        }
        let sizes = [
            (999, "999 B"),
            (2_149, "2.1 kB"),
            (65_900_000, "66 MB"),
            (3_000_000_000, "3 GB"),
        ];
        for (size, expected) in sizes {
            assert_eq!(bytes(size), expected);
        }
        assert_eq!((percent(1, 3), percent(1, 0)), (33, 0));
    }
}
