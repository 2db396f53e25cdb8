//! A warning that may repeat a thousand times a second is written every few seconds, with a count.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines of one kind. The first is written at once.
const EVERY: Duration = Duration::from_secs(5);

/// One kind of warning.
#[derive(Debug, Default)]
pub struct Repeated {
    /// When the last line was written, and how often it would have been since.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Repeated {
    /// It happened once more. If a line is due: how often it happened since the last line.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(|it| it.into_inner());
        last.1 += 1;
        if last.0.is_some_and(|it| now - it < EVERY) {
            return None;
        }
        let (_, times) = std::mem::replace(&mut *last, (Some(now), 0));
        Some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_every_few_seconds_says_how_often() {
        let repeated = Repeated::default();
        let start = Instant::now();
        assert_eq!(repeated.due_at(start), Some(1));
        for _ in 0..999 {
            assert_eq!(repeated.due_at(start + EVERY / 2), None);
        }
        assert_eq!(repeated.due_at(start + EVERY), Some(1_000));
        assert_eq!(repeated.due_at(start + 2 * EVERY), Some(1));
    }
}
