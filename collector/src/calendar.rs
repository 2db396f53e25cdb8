//! Days of the Gregorian calendar, and times in UTC as RFC 3339 writes them.

const MS_PER_DAY: i64 = 86_400_000;

/// The year that [`day`] reads first: the epoch's.
const FIRST_YEAR: i64 = 1970;

/// `2026-11-21T19:25:28.123Z` of ms since the epoch.
pub fn rfc3339(ms: i64) -> String {
    let second = second(ms);
    format!(
        "{}.{:03}Z",
        &second[..second.len() - 1],
        ms.rem_euclid(1_000)
    )
}

/// `2026-11-21T19:25:28Z` of ms since the epoch.
pub fn second(ms: i64) -> String {
    let (year, month, day) = date(ms.div_euclid(MS_PER_DAY));
    let s = ms.rem_euclid(MS_PER_DAY) / 1_000;
    let (hour, minute, second) = (s / 3_600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01. Years begin in March
/// here, so that the leap day is the last day of a year, and repeat every 400 years of 146,097 days.
pub fn date(day: i64) -> (i64, u32, u32) {
    let since_0000_03_01 = day + 719_468;
    let cycle = since_0000_03_01.div_euclid(146_097);
    let day = since_0000_03_01.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (400 * cycle + year + later, month as u32, day as u32)
}

/// Reads `2026-11-21`: days since 1970-01-01. None if there is no such day, or before 1970.
pub fn day(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let mut number = |digits: usize| -> Option<i64> {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|it| it.is_ascii_digit());
        is_number.then(|| part.parse().ok())?
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let is_day = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    if year < FIRST_YEAR || !is_day || parts.next().is_some() {
        return None;
    }
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let years = 365 * (year - FIRST_YEAR) + leap_days(year - 1) - leap_days(FIRST_YEAR - 1);
    let months: i64 = (1..month).map(|it| days_of(year, it)).sum();
    Some(years + months + day - 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of `date -u -d @… +%FT%T`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (-1, "1969-12-31T23:59:59"),
        ] {
            assert_eq!(second(seconds * 1_000), format!("{expected}Z"));
            assert_eq!(rfc3339(seconds * 1_000), format!("{expected}.000Z"));
        }
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn days_are_read_as_they_are_written() {
        for expected in (0..200_000).step_by(97) {
            assert_eq!(day(&second(expected * MS_PER_DAY)[..10]), Some(expected));
        }
    }

    #[test]
    fn what_is_no_day_is_none() {
        for text in [
            "",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2026-02-29",
            "2100-02-29",
            "2026-1-1",
            "+026-01-01",
            "1969-12-31",
            "2026-01-01-01",
            "2026-12-0ä",
            "２０２６-11-20",
        ] {
            assert_eq!(day(text), None, "{text}");
        }
    }
}
