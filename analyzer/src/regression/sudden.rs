//! Slower all of a sudden, without a deployment that would say when to look?
//!
//! ```text
//! yesterday          ·····|=========|······        the same time, and some before and after: not as slow
//! the day before now ··|---|---|---|---|---|---|   no stretch as long as now: as slow
//! now                                          |####|
//! ```
//!
//! This is asked every minute for every endpoint, so by mere number everything rare is asked about too. What protects
//! is less the level of the tests than the day before: an endpoint that has slow ten minutes now and then has had them
//! in that day.

use super::ladder::LADDER;
use super::side::Side;
use super::{Claim, Comparison, Limits, Slot, Verdict, Why, body, bursts, compare, tail};

/// With fewer stretches before than this (six hours for ten minutes) the day before does not know what is usual …
const STRETCHES_MIN: usize = 36;

/// … and only a percentile that grew so many times is beyond doubt: the slow phases of an endpoint that are not seen
/// yet may be twice as slow as its quick ones.
const RATIO_UNKNOWN: f64 = 3.0;

/// With fewer than this nothing is: half an hour for ten minutes.
const STRETCHES_LEAST: usize = 3;

/// How probable the difference to yesterday may be by chance: it is asked in addition to all else.
const ALPHA_YESTERDAY: f64 = 0.01;

/// `day`: up to the last 24 hours, up to the window. `window`: the last ten minutes. `yesterday`: the same time of day
/// 24 hours before, better with half an hour before and after; none if unknown.
///
/// Assumes that `day` is what is usual. A regression that lasts becomes part of it after some minutes and is then not
/// slower than itself: so whoever finds one must keep what it was compared with and ask
/// [`is_back`](super::is_back) from then on, and must leave times of known regressions out of `day`.
///
/// Another load (twice as many requests, say) is no reason against: it may be the cause. It should be told.
pub fn sudden(day: &[Slot], window: &[Slot], yesterday: &[Slot], weight: f64) -> Comparison {
    let limits = Limits::sudden();
    let mut comparison = compare(day, window, weight, &limits);
    if let Verdict::Slower(claim) = &comparison.verdict {
        let doubt = short_history(day, window, claim, weight, &limits)
            .or_else(|| like_yesterday(window, yesterday, claim, weight, &limits));
        if let Some(why) = doubt {
            comparison.verdict = Verdict::Not(why);
        }
    }
    comparison
}

fn short_history(
    day: &[Slot],
    window: &[Slot],
    claim: &Claim,
    weight: f64,
    limits: &Limits,
) -> Option<Why> {
    let weight = super::weight(weight);
    let minutes = Side::new(window, weight).minutes(limits.slot_minutes);
    let scored = Side::new(day, weight).scored(|_| 0.0);
    let stretches = bursts::stretches(&scored, minutes, 0.0).len();
    let is_plain = stretches >= STRETCHES_LEAST
        && claim.after_ns as f64 >= claim.before_ns as f64 * RATIO_UNKNOWN;
    (stretches < STRETCHES_MIN && !is_plain).then_some(Why::ShortHistory {
        minutes: scored.len(),
    })
}

fn like_yesterday(
    window: &[Slot],
    yesterday: &[Slot],
    claim: &Claim,
    weight: f64,
    limits: &Limits,
) -> Option<Why> {
    let weight = super::weight(weight);
    let (now, then) = (Side::new(window, weight), Side::new(yesterday, weight));
    let rung = LADDER
        .into_iter()
        .find(|it| it.quantile == claim.quantile)?;
    if then.requests() < rung.base_min.max(limits.requests_min as f64) {
        return None;
    }
    let outcome = if rung.quantile > 0.5 {
        tail::test(rung, &then, &now, limits, ALPHA_YESTERDAY).2
    } else {
        body::test(&then, &now, limits, ALPHA_YESTERDAY).2
    };
    outcome.err().map(|_| Why::LikeYesterday)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regression::tests::slots;

    /// Requests of a minute: 90 to 109 ms, times `factor`.
    fn minute(factor: u64) -> Vec<u64> {
        (90..110).map(|it| it * factor).collect()
    }

    fn verdict(day: &[Slot], window: &[Slot], yesterday: &[Slot]) -> Verdict {
        sudden(day, window, yesterday, 1.0).verdict
    }

    #[test]
    fn twice_as_slow_for_ten_minutes_is_found() {
        let window = slots(1440, 10, &minute(2));
        let found = verdict(&slots(0, 1440, &minute(1)), &window, &[]);
        assert!(matches!(found, Verdict::Slower(_)), "{found:?}");
        let yesterday = slots(-30, 70, &minute(1));
        let found = verdict(&slots(0, 1440, &minute(1)), &window, &yesterday);
        assert!(matches!(found, Verdict::Slower(_)), "{found:?}");
    }

    #[test]
    fn what_was_so_yesterday_is_usual() {
        let yesterday = slots(-30, 70, &minute(2));
        let found = verdict(
            &slots(70, 1370, &minute(1)),
            &slots(1440, 10, &minute(2)),
            &yesterday,
        );
        assert_eq!(found, Verdict::Not(Why::LikeYesterday));
    }

    #[test]
    fn what_was_so_for_ten_minutes_this_morning_is_usual() {
        let mut day = slots(0, 1440, &minute(1));
        day.splice(700..710, slots(700, 10, &minute(3)));
        let found = verdict(&day, &slots(1440, 10, &minute(2)), &[]);
        assert!(matches!(found, Verdict::Not(_)), "{found:?}");
    }

    #[test]
    fn one_bad_minute_is_silent() {
        let mut window = slots(1440, 9, &minute(1));
        window.extend(slots(1449, 1, &[5_000; 200]));
        let found = verdict(&slots(0, 1440, &minute(1)), &window, &[]);
        assert!(matches!(found, Verdict::Not(_)), "{found:?}");
    }

    #[test]
    fn with_little_history_only_what_is_beyond_doubt_is_found() {
        let day = slots(0, 60, &minute(1));
        let found = verdict(&day, &slots(60, 10, &minute(4)), &[]);
        assert!(matches!(found, Verdict::Slower(_)), "{found:?}");
        let doubled = Verdict::Not(Why::ShortHistory { minutes: 60 });
        assert_eq!(verdict(&day, &slots(60, 10, &minute(2)), &[]), doubled);
        let minutes = Verdict::Not(Why::ShortHistory { minutes: 20 });
        let day = slots(40, 20, &minute(1));
        assert_eq!(verdict(&day, &slots(60, 10, &minute(4)), &[]), minutes);
    }
}
