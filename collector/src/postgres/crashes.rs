//! How soon to start again after an unexpected end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many ends within [`WITHIN`] mean that another start will not help soon: a full disk, damaged
/// data. It is tried all the same, at long intervals: a disk is often emptied by somebody who does
/// not know of us.
const CRASHES_MAX: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);

/// Pause after the first crash; it doubles with each further one up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pause after [`CRASHES_MAX`] ends.
const PAUSE_HOPELESS: Duration = Duration::from_secs(15);

/// The unexpected ends of the last minute; never more than [`CRASHES_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Crashes(VecDeque<Instant>);

impl Crashes {
    /// Notes an end at `now`: how long to pause before the next start.
    pub fn pause_after(&mut self, now: Instant) -> Duration {
        self.0.retain(|&at| now.duration_since(at) < WITHIN);
        self.0.push_back(now);
        if self.0.len() >= CRASHES_MAX {
            self.0.pop_front();
            return PAUSE_HOPELESS;
        }
        let doubled = 1 << (self.0.len() - 1);
        (PAUSE_MIN * doubled).min(PAUSE_MAX)
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
        let pause = |s: &u64| {
            let pause = crashes.pause_after(start + Duration::from_secs(*s));
            pause.as_millis().to_string()
        };
        pauses.assert_eq(&at_s.iter().map(pause).collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn pauses_double_and_are_long_from_the_fifth_crash_in_a_minute_on() {
        check(
            &[0, 1, 2, 3, 4, 20, 100],
            expect!["200 400 800 1600 15000 15000 200"],
        );
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
