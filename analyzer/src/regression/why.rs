//! Why nothing is claimed, in words.

use std::fmt;

/// What kept a comparison from being called a regression; of several tests that of the one that came furthest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Why {
    /// Not enough requests to compare with.
    TooFewBefore {
        /// At least so many.
        needed: i64,
        /// There are so many.
        have: i64,
    },
    /// Not enough requests to compare.
    TooFewNow {
        /// At least so many.
        needed: i64,
        /// There are so many.
        have: i64,
    },
    /// No percentile grew enough to matter; this one is the one that was looked at last.
    SmallEffect {
        /// 0 to 1.
        quantile: f64,
        /// ns
        before_ns: u64,
        /// ns
        after_ns: u64,
    },
    /// Chance alone looks like this too often.
    Chance {
        /// So probable it is.
        p_value: f64,
        /// So probable it may be.
        level: f64,
    },
    /// The slow requests came in too few minutes.
    FewSlots {
        /// At least so many.
        needed: usize,
        /// There are so many.
        have: usize,
    },
    /// Nearly all slow requests came in one or two bad minutes.
    Lumps {
        /// How probable the rest is without these.
        p_value: f64,
    },
    /// It was as slow before, for as long.
    SeenBefore {
        /// That stretch began at this minute since the epoch.
        minute: i32,
    },
    /// The same time yesterday looked alike.
    LikeYesterday,
    /// There is too little to compare with, and for that it is not clear enough.
    ShortHistory {
        /// Minutes with requests, before.
        minutes: usize,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::TooFewBefore { needed, have } => {
                write!(f, "only {have} requests to compare with; it takes {needed}")
            }
            Why::TooFewNow { needed, have } => {
                write!(f, "only {have} requests so far; it takes {needed}")
            }
            Why::SmallEffect {
                quantile,
                before_ns,
                after_ns,
            } => {
                let (before, after) = (*before_ns as f64 / 1e6, *after_ns as f64 / 1e6);
                let percent = quantile * 100.0;
                write!(
                    f,
                    "no percentile grew enough to matter: p{percent:.0} was {before:.1} ms and is {after:.1} ms"
                )
            }
            Why::Chance { p_value, level } => write!(
                f,
                "it may be chance: it looks like this without any cause with probability {p_value:.1e}, and at most {level:.1e} is taken for a change"
            ),
            Why::FewSlots { needed, have } => {
                write!(
                    f,
                    "slow requests came in {have} different minutes; it takes {needed}"
                )
            }
            Why::Lumps { .. } => {
                f.write_str("nearly all slow requests came in one or two bad minutes")
            }
            Why::SeenBefore { .. } => f.write_str("it was as slow before, for as long"),
            Why::LikeYesterday => f.write_str("the same time yesterday looked alike"),
            Why::ShortHistory { minutes } => write!(
                f,
                "only {minutes} minutes before are known, and for so few the change is too small"
            ),
        }
    }
}

impl Why {
    /// How far the test came that ended so.
    pub(super) fn progress(&self) -> u8 {
        match self {
            Why::TooFewBefore { .. } | Why::TooFewNow { .. } => 0,
            Why::SmallEffect { .. } => 1,
            Why::Chance { .. } => 2,
            Why::FewSlots { .. } => 3,
            Why::Lumps { .. } => 4,
            Why::SeenBefore { .. } => 5,
            Why::LikeYesterday | Why::ShortHistory { .. } => 6,
        }
    }
}
