//! Times and durations that people write: `2026-11-21 20:00` (UTC), `90 s`, `2h`, `1 d`.

const MS_PER_DAY: i64 = 86_400_000;

/// Reads a time in UTC, ms since the epoch: `2026-11-21T20:00`, with or without seconds and `Z`, and with a
/// space instead of the `T`. Years 1970 to 9999.
pub fn parse_utc(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches(['Z', 'z']);
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let numbers = |text: &str, separator: char, widths: &[usize]| -> Option<Vec<i64>> {
        let parts: Vec<&str> = text.trim().split(separator).collect();
        let fits = parts.iter().zip(widths).all(|(part, width)| {
            part.len() == *width && part.bytes().all(|it| it.is_ascii_digit())
        });
        (fits && parts.len() <= widths.len())
            .then(|| parts.iter().filter_map(|it| it.parse().ok()).collect())
    };
    // Fractions of a second are nobody's wish.
    let time = time.split_once('.').map_or(time, |it| it.0);
    let date = numbers(date, '-', &[4, 2, 2])?;
    let time = numbers(time, ':', &[2, 2, 2])?;
    let [year, month, day] = date[..] else {
        return None;
    };
    let (hour, minute) = (*time.first()?, *time.get(1)?);
    let second = time.get(2).copied().unwrap_or_default();
    let is_time = hour < 24 && minute < 60 && second < 60;
    if year < 1970 || !(1..=12).contains(&month) || !is_time {
        return None;
    }
    if !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    Some(days * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1_000)
}

/// Days from 1970-01-01 to the first of a month: whole years, then whole months.
fn days_before(year: i64, month: i64) -> i64 {
    let before = year - 1;
    let leaps = before / 4 - before / 100 + before / 400;
    const LEAPS_TO_1969: i64 = 1969 / 4 - 1969 / 100 + 1969 / 400;
    let years = (year - 1970) * 365 + leaps - LEAPS_TO_1969;
    years + (1..month).map(|it| days_of(year, it)).sum::<i64>()
}

fn days_of(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
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
    use crate::format;

    #[test]
    fn times_are_read_as_they_are_written() {
        for text in [
            "2000-02-29T12:34:56Z",
            "2026-11-21T20:00:00Z",
            "1970-01-01T00:00:00Z",
            "2100-03-01T00:00:00Z",
        ] {
            let ms = parse_utc(text).unwrap();
            assert_eq!(format::at(ms as u64 * 1_000_000), text);
        }
        let same = parse_utc("2026-11-21T20:00:00Z");
        assert_eq!(parse_utc("2026-11-21T20:00"), same);
        assert_eq!(parse_utc(" 2026-11-21 20:00:00.123Z"), same);
        for text in [
            "",
            "20:00",
            "2026-11-21",
            "2026-02-29T00:00",
            "2026-13-01T00:00",
            "2026-00-01T00:00",
            "2026-01-00T00:00",
            "2026-01-01T24:00",
            "1969-12-31T23:59",
            "+026-01-01T00:00",
            "2026-1-1T00:00",
            "2026-01-01T00:00:00+02:00",
            "2026-01-01T00:00:00:00",
            "é026-01-01T00:00",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
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
