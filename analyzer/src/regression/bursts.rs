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
const STRETCHES_MIN: usize = 16;

/// `variance`: of a single request's score before. Both sides in order of time.
pub(super) fn design_effect(
    base: &[Scored],
    now: &[Scored],
    variance: f64,
    slot_minutes: i32,
) -> DesignEffect {
    let mut effect = DesignEffect {
        base: 1.0,
        now: 1.0,
    };
    if variance <= 0.0 {
        return effect;
    }
    let mut minutes = slot_minutes.max(1);
    loop {
        let stretches = stretches(base, minutes, 0.0);
        if stretches.len() < STRETCHES_MIN && minutes > slot_minutes.max(1) {
            return effect;
        }
        let correlation = correlation(&stretches, variance);
        let now = self::stretches(now, minutes, 0.0);
        effect.base = effect.base.max(1.0 + correlation * companions(&stretches));
        effect.now = effect.now.max(1.0 + correlation * companions(&now));
        let Some(twice) = minutes.checked_mul(2) else {
            return effect;
        };
        if stretches.len() < 2 {
            return effect;
        }
        minutes = twice;
    }
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
    correlation.clamp(0.0, 1.0)
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
