//! Numbers for people: one way each, with units. Also askama's filters.

use analyzer::wording;
use collector::calendar;
/// Pages ask once and pass it on.
pub use collector::clock::now_ns;

const NS_PER_S: u64 = 1_000_000_000;

/// A duration with three significant digits and its unit: `0 ns`, `12.3 µs`, `840 ms`, `1.24 s`,
/// `2 min 8 s`, `3 h 59 min`, `2 d 3 h`.
pub fn duration(ns: u64) -> String {
    let (number, unit) = duration_parts(ns);
    format!("{number} {unit}")
}

/// A difference of durations: `+180 ms`, `−1.2 s`, `±0`.
pub fn change(ns: i64) -> String {
    let text = duration(ns.unsigned_abs());
    match ns {
        0 => "±0".to_owned(),
        1.. => format!("+{text}"),
        _ => format!("−{text}"),
    }
}

/// As [`duration`], number and unit apart, so that units can be drawn quieter. From a minute on
/// the number holds the larger unit too: (`2 min 8`, `s`).
pub fn duration_parts(ns: u64) -> (String, &'static str) {
    let ns_f = ns as f64;
    let s = (ns_f / 1e9).round() as u64;
    match ns {
        0..1_000 => (ns.to_string(), "ns"),
        1_000..999_500 => (significant(ns_f / 1e3), "µs"),
        999_500..999_500_000 => (significant(ns_f / 1e6), "ms"),
        999_500_000..59_950_000_000 => (significant(ns_f / 1e9), "s"),
        _ if s < 3_600 => pair(s / 60, "min", s % 60, "s"),
        _ if s < 86_400 => pair(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => pair(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

fn pair(
    large: u64,
    large_unit: &'static str,
    small: u64,
    small_unit: &'static str,
) -> (String, &'static str) {
    match small {
        0 => (large.to_string(), large_unit),
        _ => (format!("{large} {large_unit} {small}"), small_unit),
    }
}

/// Milliseconds as tables show them, unit in the head: `0.42`, `12.3`, `1,240`.
pub fn ms(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    if ms >= 99.95 {
        count(ms.round() as i64)
    } else {
        significant(ms)
    }
}

/// Three significant digits at most, without trailing zeros behind the point.
fn significant(number: f64) -> String {
    let digits = if number >= 99.95 {
        0
    } else if number >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{number:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A whole number with thousands apart: `153,360`.
pub fn count(number: i64) -> String {
    let text = wording::thousands(number.unsigned_abs());
    if number < 0 {
        format!("−{text}")
    } else {
        text
    }
}

/// A rate or another number that need not be whole: `0.25`, `42.6`, `1,234`.
pub fn number(number: f64) -> String {
    if number >= 999.5 {
        count(number.round() as i64)
    } else {
        significant(number.max(0.0))
    }
}

/// How often, in the unit in which it is a number from 1 on: `12.3/s`, `50/min`, `4/h`, `0.25/d`.
pub fn rate(per_second: f64) -> String {
    let (number, unit) = rate_parts(per_second);
    format!("{number}{unit}")
}

/// As [`rate`], number and unit apart.
pub fn rate_parts(per_second: f64) -> (String, &'static str) {
    let (unit, seconds) = rate_unit(per_second);
    (number(per_second * seconds), unit)
}

/// Several as [`rate`], all in the unit that the largest has, so that they can be compared.
pub fn rates<const N: usize>(per_second: [f64; N]) -> [String; N] {
    let (unit, seconds) = rate_unit(per_second.into_iter().fold(0.0, f64::max));
    per_second.map(|it| format!("{}{unit}", number(it * seconds)))
}

fn rate_unit(per_second: f64) -> (&'static str, f64) {
    // What would be written as 1 is.
    let units = [("/s", 1.0), ("/min", 60.0), ("/h", 3_600.0)];
    let found = units.into_iter().find(|it| per_second * it.1 >= 0.995);
    match found {
        Some(found) => found,
        None if per_second > 0.0 => ("/d", 86_400.0),
        None => ("/s", 1.0),
    }
}

/// A share of 1 as percent without its sign: `27.5`, `0.21`, `<0.01`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 {
        "<0.01".into()
    } else {
        significant(percent.max(0.0))
    }
}

/// A width for SVG, in percent of the whole, from a share of 1: `27.49%`.
pub fn width(share: f64) -> String {
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    format!("{:.2}%", share * 100.0)
}

/// How long ago: `now`, `40 s ago`, `4 d ago`; what lies ahead is told as it is.
pub fn ago(then_ns: u64, now_ns: u64) -> String {
    if then_ns > now_ns + 60 * NS_PER_S {
        return at(then_ns);
    }
    let s = now_ns.saturating_sub(then_ns) / NS_PER_S;
    match s {
        0..3 => "now".into(),
        3..90 => format!("{s} s ago"),
        90..5_400 => format!("{} min ago", (s + 30) / 60),
        5_400..129_600 => format!("{} h ago", (s + 1_800) / 3_600),
        _ => format!("{} d ago", (s + 43_200) / 86_400),
    }
}

/// RFC 3339 in UTC, to the second: `2026-11-20T14:32:08Z`.
pub fn at(ns: u64) -> String {
    calendar::second((ns / 1_000_000) as i64)
}

/// The time of day in UTC: `14:32:08`.
pub fn clock(ns: u64) -> String {
    let (h, min, s) = clock_parts(ns);
    format!("{h:02}:{min:02}:{s:02}")
}

/// The time of day, with the day if that is not within 20 hours: `14:32:08 UTC`, `20 Nov 14:32 UTC`.
pub fn when(then_ns: u64, now_ns: u64) -> String {
    if then_ns.abs_diff(now_ns) < 20 * 3_600 * NS_PER_S {
        format!("{} UTC", clock(then_ns))
    } else {
        format!("{} UTC", day_and_minute(then_ns))
    }
}

/// Day and time for axes of more than a day: `20 Nov 14:30`.
pub fn day_and_minute(ns: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, month, day) = calendar::date((ns / NS_PER_S / 86_400) as i64);
    let (h, min, _) = clock_parts(ns);
    format!("{day} {} {h:02}:{min:02}", MONTHS[month as usize - 1])
}

/// The same, with the second unless that is 0: `20 Nov 14:30`, `20 Nov 14:30:08`.
pub fn day_and_clock(ns: u64) -> String {
    match ns / NS_PER_S % 60 {
        0 => day_and_minute(ns),
        s => format!("{}:{s:02}", day_and_minute(ns)),
    }
}

fn clock_parts(ns: u64) -> (u64, u64, u64) {
    let s = ns / NS_PER_S % 86_400;
    (s / 3_600, s / 60 % 60, s % 60)
}

/// A text with code in backticks, cut into pieces: is it code, and what.
pub fn code_pieces(text: &str) -> Vec<(bool, String)> {
    let pieces = text
        .split('`')
        .enumerate()
        .map(|(at, it)| (at % 2 == 1, it.to_owned()));
    pieces.filter(|it| !it.1.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.5 µs"),
            (999_499, "999 µs"),
            (999_500, "1 ms"),
            (12_345_678, "12.3 ms"),
            (840_000_000, "840 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1 s"),
            (1_240_000_000, "1.24 s"),
            (59_940_000_000, "59.9 s"),
            (59_960_000_000, "1 min"),
            (128_000_000_000, "2 min 8 s"),
            (14_340_000_000_000, "3 h 59 min"),
            (183_600_000_000_000, "2 d 3 h"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text, "{ns}");
        }
        duration(u64::MAX);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(153_360), "153,360");
        assert_eq!(count(-1_000), "−1,000");
        assert_eq!(count(7), "7");
        assert_eq!(number(42.61), "42.6");
        assert_eq!(number(0.0), "0");
        assert_eq!(percent(0.00001), "<0.01");
        assert_eq!(percent(0.0021), "0.21");
        assert_eq!(width(f64::NAN), "0.00%");
    }

    #[test]
    fn a_rate_is_in_the_unit_in_which_it_says_something() {
        let cases = [
            (1_234.0, "1,234/s"),
            (12.34, "12.3/s"),
            (0.996, "1/s"),
            (0.83, "49.8/min"),
            (1.0 / 60.0, "1/min"),
            (0.001, "3.6/h"),
            // Once in 31 days, the longest time that is shown.
            (1.0 / (31.0 * 86_400.0), "0.03/d"),
            (0.0, "0/s"),
        ];
        for (per_second, text) in cases {
            assert_eq!(rate(per_second), text);
        }
        assert_eq!(rates([0.83, 1.25]), ["0.83/s", "1.25/s"]);
        assert_eq!(rates([0.5, 0.0]), ["30/min", "0/min"]);
    }

    #[test]
    fn times_are_right_over_leap_days() {
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696_000_000_000), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_795_185_128_000_000_000), "2026-11-20T14:32:08Z");
        assert_eq!(day_and_minute(1_795_185_128_000_000_000), "20 Nov 14:32");
        at(u64::MAX);
    }

    #[test]
    fn ages_are_rounded() {
        let s = NS_PER_S;
        assert_eq!(ago(100 * s, 101 * s), "now");
        assert_eq!(ago(0, 40 * s), "40 s ago");
        assert_eq!(ago(0, 50 * 60 * s), "50 min ago");
        assert_eq!(ago(0, 4 * 86_400 * s), "4 d ago");
        assert_eq!(ago(7_200 * s, 0), "1970-01-01T02:00:00Z");
    }

    #[test]
    fn backticks_are_code() {
        let code = |it: &str| (true, it.to_owned());
        assert_eq!(
            code_pieces("`a` or `b`"),
            [code("a"), (false, " or ".into()), code("b")]
        );
        assert_eq!(code_pieces(""), []);
    }
}
