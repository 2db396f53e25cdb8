//! Minutes in evenly spaced slots: what every drawing over time is made of.

use collector::deltas::{MINUTES_KEPT, MinuteDelta, first_of_hour};
use collector::store::bottlenecks::Minutes;
use std::collections::BTreeMap;

use crate::format;
use crate::range::minute_ns;

/// Sums of minutes, side by side without gaps.
#[derive(Clone, PartialEq, Debug)]
pub struct Slots {
    /// The first one's first minute, since the epoch.
    pub from: i32,
    /// Minutes of each.
    pub step: i32,
    /// From the first to the last; at least one.
    pub sums: Vec<MinuteDelta>,
}

/// Minutes in a slot: the first of these that gives few enough.
const STEPS: [i32; 9] = [1, 2, 5, 10, 15, 30, 60, 120, 360];

/// Labels on the x axis.
const X_LABELS: i32 = 7;

/// A range longer than this has days on its axis, minutes.
const CLOCK_MINUTES_MAX: i32 = 24 * 60;

impl Slots {
    /// What `minutes` of the `window` say, up to `now_minute` (what seems to come from later stands in the last slot),
    /// in fewer than `slots_max` slots, about.
    pub fn of(
        minutes: &BTreeMap<i32, MinuteDelta>,
        window: Minutes,
        now_minute: i32,
        slots_max: i32,
    ) -> Slots {
        let to = now_minute
            .saturating_add(1)
            .clamp(window.from + 1, window.to.max(window.from + 1));
        let has_hours = to - window.from > MINUTES_KEPT;
        // Older minutes are merged into hours: a slot must hold whole ones.
        let (from, narrowest) = match has_hours {
            true => (first_of_hour(window.from), 60),
            false => (window.from, 1),
        };
        let length = to - from;
        let step = STEPS
            .into_iter()
            .find(|it| *it >= narrowest && length.div_euclid(*it) < slots_max);
        let step = step.unwrap_or(length / slots_max + 1);
        let slots = ((length + step - 1) / step) as usize;
        let mut sums: Vec<MinuteDelta> = vec![MinuteDelta::default(); slots];
        for (minute, sum) in minutes {
            let slot = (minute.saturating_sub(from) / step).max(0) as usize;
            sums[slot.min(slots - 1)].merge(sum, 1);
        }
        Slots { from, step, sums }
    }

    /// When a slot begins, ns since the epoch.
    pub fn start_ns(&self, slot: usize) -> u64 {
        minute_ns(self.from + slot as i32 * self.step)
    }

    /// How long all of them are, ns.
    pub fn length_ns(&self) -> u64 {
        minute_ns(self.sums.len() as i32 * self.step)
    }

    /// Labels from the first to the last, evenly spaced.
    pub fn x_labels(&self) -> Vec<String> {
        let length = self.sums.len() as i32 * self.step;
        let label = |at: i32| {
            let passed = i64::from(length) * i64::from(at) / i64::from(X_LABELS - 1);
            let text = format::day_and_minute(minute_ns(self.from + passed as i32));
            let clock = text.rsplit(' ').next().unwrap_or_default();
            let day = text.len() - clock.len() - 1;
            if length > CLOCK_MINUTES_MAX {
                text[..day].to_owned()
            } else {
                clock.to_owned()
            }
        };
        (0..X_LABELS).map(label).collect()
    }
}
