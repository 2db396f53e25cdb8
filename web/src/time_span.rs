//! Lengths of time as people write them: `90 s`, `36h`, `1h 30m`.

use serde::Deserialize;
use std::str::FromStr;
use std::time::Duration;

/// A hundred years: what is longer is a slip of the finger, and sums of times stay within their type.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// How long, as [`parse_seconds`] reads it. Not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// How long.
    pub fn get(self) -> Duration {
        self.0
    }

    /// The same in ms.
    pub fn ms(self) -> i64 {
        self.0.as_millis() as i64
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = String;

    fn try_from(text: String) -> Result<TimeSpan, String> {
        text.parse()
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeSpan, String> {
        parse_seconds(text)
            .filter(|it| (1..=SECONDS_MAX).contains(it))
            .map(|it| TimeSpan(Duration::from_secs(it)))
            .ok_or_else(|| format!("'{text}' is no length of time; write it like 15m, 36h or 7d"))
    }
}

/// Reads a duration in seconds: a number and `s`, `min` (or `m`), `h`, `d`, `w`; several one after another add
/// up (`1h 30m`). `0` needs no unit.
pub fn parse_seconds(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.as_str();
    let mut sum = None;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|it: char| !it.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        sum = Some(sum.unwrap_or(0u64).checked_add(number.checked_mul(unit)?)?);
    }
    sum
}

/// A duration as [`parse_seconds`] reads it: `2h`, `90s`.
pub fn seconds(seconds: u64) -> String {
    match seconds {
        0 => "0".into(),
        it if it % 86_400 == 0 => format!("{}d", it / 86_400),
        it if it % 3_600 == 0 => format!("{}h", it / 3_600),
        it if it % 60 == 0 => format!("{}m", it / 60),
        it => format!("{it}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("7 d", 604_800)] {
            assert_eq!(text.parse::<TimeSpan>().unwrap().get().as_secs(), seconds);
        }
        for text in [
            "",
            "h",
            "0h",
            "1.5h",
            "-1d",
            "7",
            "7 apples",
            "99999999999999w",
            "40000d",
        ] {
            let error = text.parse::<TimeSpan>().unwrap_err();
            assert!(error.contains("36h"), "{error}");
        }
    }

    #[test]
    fn durations_are_read_as_they_are_written() {
        let cases = [
            ("90 s", 90),
            ("2h", 7_200),
            ("1h 30 min", 5_400),
            ("1 d", 86_400),
            ("0", 0),
            ("2 weeks", 1_209_600),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_seconds(text), Some(wanted), "{text}");
        }
        for text in [
            "",
            "5",
            "h",
            "2 y",
            "-1h",
            "99999999999999999999h",
            "18446744073709551615 d",
            "1.5h",
        ] {
            assert_eq!(parse_seconds(text), None, "{text}");
        }
        for it in [0, 30, 90, 120, 5_400, 7_200, 86_400] {
            assert_eq!(parse_seconds(&seconds(it)), Some(it));
        }
    }
}
