//! How soon to start again after an unexpected end, and when to stop trying.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many ends within [`WITHIN`] mean that another start will not help: a full disk, damaged data.
const CRASHES_MAX: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);

/// Pause after the first crash; it doubles with each further one up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The unexpected ends of the last minute; never more than [`CRASHES_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Crashes(VecDeque<Instant>);

impl Crashes {
    /// Notes an end at `now`: how long to pause before the next start, or nothing if it is time to give up.
    pub fn pause_after(&mut self, now: Instant) -> Option<Duration> {
        self.0.retain(|&at| now.duration_since(at) < WITHIN);
        self.0.push_back(now);
        if self.0.len() >= CRASHES_MAX {
            return None;
        }
        let doubled = 1 << (self.0.len() - 1);
        Some((PAUSE_MIN * doubled).min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// Crashes at these seconds → the pauses in ms.
    fn check(at_s: &[u64], pauses: Expect) {
        let start = Instant::now();
        let mut crashes = Crashes::default();
        let pause = |s: &u64| match crashes.pause_after(start + Duration::from_secs(*s)) {
            Some(pause) => pause.as_millis().to_string(),
            None => "give up".to_owned(),
        };
        pauses.assert_eq(&at_s.iter().map(pause).collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn pauses_double_and_end_with_the_fifth_crash_in_a_minute() {
        check(&[0, 1, 2, 3, 4], expect!["200 400 800 1600 give up"]);
    }

    #[test]
    fn a_crash_now_and_then_is_always_followed_by_a_start() {
        check(
            &[0, 61, 122, 183, 244, 305],
            expect!["200 200 200 200 200 200"],
        );
        check(
            &[0, 20, 40, 60, 80, 100],
            expect!["200 400 800 800 800 800"],
        );
    }
}
