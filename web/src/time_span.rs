//! Times as people write them: how long (`36h`), and when (`2026-12-01T09:00:00Z`).

use serde::Deserialize;
use std::str::FromStr;
use std::time::Duration;

const UNITS: [(&str, u64); 5] = [
    ("s", 1),
    ("m", 60),
    ("h", 3_600),
    ("d", 86_400),
    ("w", 7 * 86_400),
];

/// A hundred years: what is longer is a slip of the finger, and sums of times stay within their type.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// How long: a whole number and its unit, `90s`, `15m`, `36h`, `7d`, `2w`. Not 0.
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
        let unit = text.trim_start_matches(|it: char| it.is_ascii_digit());
        let number: Option<u64> = text[..text.len() - unit.len()].parse().ok();
        let factor = UNITS.iter().find(|it| it.0 == unit.trim()).map(|it| it.1);
        let seconds = number.zip(factor).and_then(|(it, by)| it.checked_mul(by));
        seconds
            .filter(|it| (1..=SECONDS_MAX).contains(it))
            .map(|it| TimeSpan(Duration::from_secs(it)))
            .ok_or_else(|| format!("'{text}' is no length of time; write it like 15m, 36h or 7d"))
    }
}

/// When, of RFC 3339 (`2026-12-01T09:00:00Z`, `2026-12-01T10:00:00.5+01:00`) or a day (`2026-12-01`,
/// its beginning in UTC): ms since the epoch. None if it is neither, or before the epoch.
pub fn moment(text: &str) -> Option<i64> {
    let (day, rest) = text.split_at_checked(10)?;
    let day_ms = day_ms(day)?;
    if rest.is_empty() {
        return Some(day_ms);
    }
    let (clock, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [h, min, s] = numbers(clock, ':', [2, 2, 2])?;
    // A leap second is the next second.
    if h > 23 || min > 59 || s > 60 {
        return None;
    }
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|it: char| it.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let ms = day_ms + (h * 3_600 + min * 60 + s) * 1_000 - zone_ms(zone)?;
    (ms >= 0).then_some(ms)
}

fn day_ms(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text, '-', [4, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        28 + i64::from(leap),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || day < 1 || day > *lengths.get(month)? {
        return None;
    }
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let before = 365 * (year - 1970) + leap_days(year - 1) - leap_days(1969);
    let days = before + lengths[..month].iter().sum::<i64>() + day - 1;
    Some(days * 86_400_000)
}

fn zone_ms(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [h, min] = numbers(&zone[1..], ':', [2, 2])?;
    (h < 24 && min < 60).then_some(sign * (h * 3_600 + min * 60) * 1_000)
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split(between);
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|it| it.is_ascii_digit());
        *number = is_number.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;

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
    fn moments_are_read_as_they_are_written() {
        for ns in [
            0,
            951_827_696_000_000_000,
            1_795_185_128_000_000_000,
            4_102_444_799_000_000_000,
        ] {
            assert_eq!(moment(&format::at(ns)), Some((ns / 1_000_000) as i64));
        }
        for (text, same) in [
            ("2026-12-01", "2026-12-01T00:00:00Z"),
            ("2026-12-01T10:30:00+01:30", "2026-12-01T09:00:00Z"),
            ("2026-11-30 23:00:00.123456-10:00", "2026-12-01t09:00:00z"),
        ] {
            assert!(moment(text).is_some());
            assert_eq!(moment(text), moment(same), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "tomorrow",
            "2026-13-01",
            "2026-02-29",
            "2026-1-1",
            "1969-12-31",
            "2026-12-01T",
            "2026-12-01T10:00",
            "2026-12-01T25:00:00Z",
            "2026-12-01T10:00:00",
            "2026-12-01T10:00:00.Z",
            "2026-12-01T10:00:00+1",
            "2026-12-01T10:00:00Zjunk",
            "äääää",
            "2026-12-0ä",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
