//! Points in time as people and programs write them: RFC 3339, and what a browser's field for date
//! and time sends.

use collector::calendar;

const NS_PER_S: u64 = 1_000_000_000;

/// Reads `2026-11-20T14:32:08Z`, with any offset and fraction.
///
/// `None` if it is not RFC 3339, or before 1970.
pub fn rfc3339(text: &str) -> Option<u64> {
    let (ns, has_offset) = read(text)?;
    has_offset.then_some(ns)
}

/// The same; the time, its seconds and the offset may be missing, and the first moment in UTC is
/// meant then: `2026-11-20`, `2026-11-20T14:32`.
pub fn lenient(text: &str) -> Option<u64> {
    Some(read(text)?.0)
}

/// [`lenient`] in ms, as alerts and acts count.
pub fn lenient_ms(text: &str) -> Option<i64> {
    i64::try_from(lenient(text)? / 1_000_000).ok()
}

/// As a browser's field for date and time takes it: `2026-11-20T14:32`, UTC.
pub fn field(ns: u64) -> String {
    crate::format::at(ns).chars().take(16).collect()
}

/// As addresses have it: RFC 3339 where that is exact, ns since the epoch otherwise.
pub fn exact(ns: u64) -> String {
    match ns % NS_PER_S {
        0 => crate::format::at(ns),
        _ => ns.to_string(),
    }
}

/// ns since the epoch, and whether the offset was told.
fn read(text: &str) -> Option<(u64, bool)> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let days = u64::try_from(calendar::day(date)?).ok()?;
    if rest.is_empty() {
        return Some((days * 86_400 * NS_PER_S, false));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.split(':');
    let hour = digits(parts.next()?, 2, 23)?;
    let minute = digits(parts.next()?, 2, 59)?;
    // 60 is a leap second: the next minute's first, as everywhere in Unix time.
    let second = parts.next().map_or(Some(0), |it| digits(it, 2, 60))?;
    if parts.next().is_some() {
        return None;
    }
    let s = i64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()?;
    let s = u64::try_from(s.checked_sub(offset_s(offset)?)?).ok()?;
    // Beyond the year 2554 there is only "later".
    let ns = s
        .saturating_mul(NS_PER_S)
        .saturating_add(fraction_ns(fraction)?);
    Some((ns, !offset.is_empty()))
}

fn digits(text: &str, count: usize, max: u64) -> Option<u64> {
    let is_number = text.len() == count && text.bytes().all(|it| it.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok())??;
    (number <= max).then_some(number)
}

fn fraction_ns(text: &str) -> Option<u64> {
    if !text.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let padded: String = text.chars().chain("000000000".chars()).take(9).collect();
    padded.parse().ok()
}

/// East of Greenwich is more than 0.
fn offset_s(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first() {
        None | Some(b'Z' | b'z') => return (text.len() <= 1).then_some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let s = digits(hours, 2, 23)? * 3_600 + digits(minutes, 2, 59)? * 60;
    Some(sign * s as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;

    #[test]
    fn what_is_written_is_read() {
        let s = 1_795_185_128;
        for text in [
            "2026-11-20T14:32:08Z",
            "2026-11-20T14:32:08.000z",
            "2026-11-20 16:32:08+02:00",
            "2026-11-20T09:02:08-05:30",
        ] {
            assert_eq!(rfc3339(text), Some(s * NS_PER_S), "{text}");
        }
        assert_eq!(rfc3339("1970-01-01T00:00:00.5Z"), Some(NS_PER_S / 2));
        for s in (0..400).map(|it| it * 12_345_678 + 86_399) {
            assert_eq!(rfc3339(&format::at(s * NS_PER_S)), Some(s * NS_PER_S));
        }
        assert_eq!(lenient("2026-11-20T14:32"), Some((s - 8) * NS_PER_S));
        assert_eq!(lenient(" 2026-11-20 14:32:08"), Some(s * NS_PER_S));
        assert_eq!(lenient("2026-11-20"), Some(s / 86_400 * 86_400 * NS_PER_S));
        assert_eq!(
            lenient_ms("2026-11-20T14:32:08.1239"),
            Some(1_795_185_128_123)
        );
        assert_eq!(field(s * NS_PER_S), "2026-11-20T14:32");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-20",
            "2026-11-20T14:32:08",
            "2026-13-20T14:32:08Z",
            "2026-02-29T14:32:08Z",
            "2026-11-20T24:32:08Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-11-20T14:32:08+0100",
            "2026-11-20T14:32:08ZZ",
            "2026-11-20T14:32:08:01Z",
            "+026-11-20T14:32:08Z",
            "2026-11-20T14:32:08Z\u{661}",
            "２０２６-11-20T14:32:08Z",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "14:32",
            "2026-11-20T",
            "2026-11-20T14",
            "2026-11-20T1é:32",
            "2026-11-20é14:32",
            "2026-11-2é",
            "2026-11-20T14:32:08Zjunk",
            "2026-11-20T14:32:08+1",
        ] {
            assert_eq!(lenient(text), None, "{text}");
        }
    }
}
