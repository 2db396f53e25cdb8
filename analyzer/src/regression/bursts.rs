//! Requests of the same minutes share their fate, so a thousand of them say less than a thousand independent ones.
//!
//! ```text
//! independent   · x · · · x · · · · x · · · · · x · · · · x · ·     five slow ones of 24 are five hints
//! a burst       · · · · · · · · x x x x x · · · · · · · · · · ·     … and here they are one
//! ```
//!
//! How much less is measured where nothing happened, before: how much more the slow requests' number varies between
//! stretches of time than chance would let it.

use super::Why;
use super::side::Scored;

/// What requests of one stretch of time have in common, before; how many independent requests the ones of each side
/// are worth.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct DesignEffect {
    /// So many requests before say as much as one independent one; at least 1.
    pub base: f64,
    /// The same of those now.
    pub now: f64,
}

/// Stretches there have to be before their variance is believed; longer ones than that are not looked at.
const STRETCHES_MIN: i32 = 16;

/// Bursts differ in size, and the largest ones are rare: a day mostly does not show them, so what it shows is doubled.
/// Where there are no bursts it changes nothing.
const UNSEEN: f64 = 2.0;

/// `variance`: of a single request's score before. Both sides in order of time; `minutes`: how long now is.
///
/// Stretches of one slot, two, four and so on, and those as long as now: what is largest counts. Slow phases of any
/// length are found so, and a daily pattern too: in it stretches of the same length as now differ just as much.
pub(super) fn design_effect(
    base: &[Scored],
    now: &[Scored],
    variance: f64,
    slot_minutes: i32,
    minutes: i32,
) -> DesignEffect {
    let mut effect = DesignEffect {
        base: 1.0,
        now: 1.0,
    };
    if variance <= 0.0 {
        return effect;
    }
    let slot = slot_minutes.max(1);
    // Of the time that is known, without gaps: it may be the same hours of several days.
    let long = i32::try_from(base.len())
        .unwrap_or(i32::MAX)
        .saturating_mul(slot);
    let longest = (long / STRETCHES_MIN).max(slot);
    let doubled = std::iter::successors(Some(slot), |it| it.checked_mul(2));
    let lengths = doubled.take_while(|it| *it <= longest);
    for length in lengths.chain([minutes.clamp(slot, longest)]) {
        let stretches = self::stretches(base, length, 0.0);
        let correlation = correlation(&stretches, variance);
        let now = self::stretches(now, length, 0.0);
        effect.base = effect.base.max(1.0 + correlation * companions(&stretches));
        effect.now = effect.now.max(1.0 + correlation * companions(&now));
    }
    effect
}

/// With how many others of its stretch a request shares its fate, on average.
fn companions(stretches: &[Scored]) -> f64 {
    let pairs = pairs(stretches);
    let requests: f64 = stretches.iter().map(|it| it.requests).sum();
    if requests > 0.0 {
        pairs / requests
    } else {
        0.0
    }
}

fn pairs(stretches: &[Scored]) -> f64 {
    let of_one = |it: &Scored| it.requests * (it.requests - 1.0).max(0.0);
    stretches.iter().map(of_one).sum()
}

/// Mean correlation of the scores of two requests of one stretch, 0 to 1.
///
/// The sum of n scores varies by variance · (n + n(n - 1) · correlation) around its expectation.
fn correlation(stretches: &[Scored], variance: f64) -> f64 {
    let requests: f64 = stretches.iter().map(|it| it.requests).sum();
    let pairs = pairs(stretches);
    if pairs <= 0.0 || stretches.len() < 2 {
        return 0.0;
    }
    let mean = stretches.iter().map(|it| it.score).sum::<f64>() / requests;
    let squares = stretches
        .iter()
        .map(|it| (it.score - mean * it.requests).powi(2));
    // The mean is taken from the same stretches, so they look closer to it than they are.
    let bias = stretches.len() as f64 / (stretches.len() as f64 - 1.0);
    let correlation = (squares.sum::<f64>() * bias / variance - requests) / pairs;
    (correlation * UNSEEN).clamp(0.0, 1.0)
}

/// Slots put together until they are at least so long and have so many requests; what is left over joins the last.
/// From the end, because there it is like now.
pub(super) fn stretches(slots: &[Scored], minutes: i32, requests: f64) -> Vec<Scored> {
    let mut found: Vec<Scored> = Vec::new();
    let mut open: Option<Scored> = None;
    let mut end: i32 = 0;
    for slot in slots.iter().rev() {
        match &mut open {
            Some(stretch)
                if slot.minute > end.saturating_sub(minutes) || stretch.requests < requests =>
            {
                stretch.minute = slot.minute;
                stretch.requests += slot.requests;
                stretch.score += slot.score;
            }
            _ => {
                found.extend(open.take());
                end = slot.minute;
                open = Some(*slot);
            }
        }
    }
    match (open, found.last_mut()) {
        (Some(rest), Some(last)) if rest.requests < requests => {
            last.requests += rest.requests;
            last.score += rest.score;
        }
        (Some(rest), _) => found.push(rest),
        (None, _) => {}
    }
    found
}

/// The slots without the `count` in which most was above what `mean` lets expect.
pub(super) fn without_worst(slots: &[Scored], count: usize, mean: f64) -> Scored {
    let mut by_excess: Vec<&Scored> = slots.iter().collect();
    let excess = |it: &Scored| it.score - mean * it.requests;
    by_excess.sort_by(|a, b| excess(b).total_cmp(&excess(a)));
    let rest = by_excess.iter().skip(count);
    rest.fold(Scored::default(), |sum, it| Scored {
        minute: 0,
        requests: sum.requests + it.requests,
        score: sum.score + it.score,
    })
}

/// No stretch before that was as long as now looked like now: else it is something that happens.
///
/// Stretches have at least half as many requests as now, else their own chance would hide any regression.
pub(super) fn is_record(base: &[Scored], now: &[Scored], minutes: i32) -> Result<(), Why> {
    let requests: f64 = now.iter().map(|it| it.requests).sum();
    let score: f64 = now.iter().map(|it| it.score).sum();
    let stretches = stretches(base, minutes, requests / 2.0);
    let worse = stretches
        .iter()
        .find(|it| it.score / it.requests >= score / requests);
    match worse {
        Some(worse) => Err(Why::SeenBefore {
            minute: worse.minute,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(of: impl IntoIterator<Item = (i32, f64, f64)>) -> Vec<Scored> {
        let slot = |(minute, requests, score)| Scored {
            minute,
            requests,
            score,
        };
        of.into_iter().map(slot).collect()
    }

    #[test]
    fn requests_that_share_their_fate_count_as_one() {
        // In every tenth minute all ten requests are slow: each ten are worth one, or a little less.
        let burst = |it: i32| (it, 10.0, if it % 10 == 0 { 10.0 } else { 0.0 });
        let (base, now) = (scored((0..1000).map(burst)), scored((0..20).map(burst)));
        let effect = design_effect(&base, &now, 0.09, 1, 20);
        assert!((9.5..20.0).contains(&effect.now), "{effect:?}");
        assert!((9.5..20.0).contains(&effect.base), "{effect:?}");
    }

    #[test]
    fn requests_with_fates_of_their_own_count_each() {
        // One of ten in each minute is even more regular than chance.
        let even = |it: i32| (it, 10.0, 1.0);
        let (base, now) = (scored((0..1000).map(even)), scored((0..20).map(even)));
        let effect = design_effect(&base, &now, 0.09, 1, 20);
        assert_eq!((effect.base, effect.now), (1.0, 1.0));
    }

    #[test]
    fn phases_longer_than_a_slot_are_seen() {
        // Half an hour is a little slow, the next half hour is not: within minutes there is nearly nothing to see.
        let phase = |it: i32| (it, 10.0, if it / 30 % 2 == 0 { 2.0 } else { 1.0 });
        let (base, now) = (scored((0..1440).map(phase)), scored((0..30).map(phase)));
        let effect = design_effect(&base, &now, 0.15 * 0.85, 1, 30);
        assert!(effect.now > 3.0, "{effect:?}");
    }

    #[test]
    fn stretches_begin_at_the_end_and_do_not_bridge_gaps() {
        let slots = scored([0, 1, 2, 3, 100, 101].map(|it| (it, 1.0, 0.0)));
        let found = |minutes, requests| {
            let stretches = stretches(&slots, minutes, requests);
            let of_one = |it: &Scored| (it.minute, it.requests);
            stretches.iter().map(of_one).collect::<Vec<_>>()
        };
        assert_eq!(found(2, 0.0), [(100, 2.0), (2, 2.0), (0, 2.0)]);
        // Unless there are too few requests; the rest that alone would have too few joins the last.
        assert_eq!(found(2, 3.0), [(3, 3.0), (0, 3.0)]);
        assert_eq!(found(2, 4.0), [(2, 6.0)]);
        assert!(stretches(&[], 1, 0.0).is_empty());
    }

    #[test]
    fn the_worst_slots_are_those_far_above_what_is_expected() {
        let slots = scored([
            (0, 100.0, 12.0),
            (1, 10.0, 9.0),
            (2, 10.0, 1.0),
            (3, 10.0, 8.0),
        ]);
        let rest = without_worst(&slots, 2, 0.1);
        assert_eq!((rest.requests, rest.score), (110.0, 13.0));
    }
}
