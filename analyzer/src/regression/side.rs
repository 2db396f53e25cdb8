//! One side of a comparison: its requests by minute and by bin, counted as they were before weighting.

use super::Slot;
use crate::sketch::{self, Sketch};

/// Bins there are, and one more for those that should not be.
pub(super) const BINS: usize = 2050;

/// Requests by bin; never negative, never infinite.
pub(super) struct Counts {
    by_bin: Vec<f64>,
    /// The lowest and one more than the highest bin that holds any.
    occupied: std::ops::Range<usize>,
    /// Of all bins.
    pub total: f64,
}

impl Counts {
    /// Of one sketch; what a difference has less than nothing of is nothing.
    pub fn of(sketch: &Sketch) -> Counts {
        Counts::sum(std::iter::once(sketch), 1.0)
    }

    /// Of several, divided by `weight`.
    pub fn sum<'a>(sketches: impl Iterator<Item = &'a Sketch>, weight: f64) -> Counts {
        let mut by_bin = vec![0.0; BINS];
        for sketch in sketches {
            for (bin, count) in sketch.bins() {
                by_bin[usize::from(*bin).min(BINS - 1)] += *count as f64;
            }
        }
        for count in &mut by_bin {
            *count = count.max(0.0) / weight;
        }
        let first = by_bin.iter().position(|it| *it > 0.0).unwrap_or(0);
        let end = by_bin
            .iter()
            .rposition(|it| *it > 0.0)
            .map_or(0, |it| it + 1);
        let total = by_bin.iter().sum();
        Counts {
            by_bin,
            occupied: first.min(end)..end,
            total,
        }
    }

    /// (bin, requests) in order, without most of the empty ones.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = (u16, f64)> + '_ {
        let occupied = self.occupied.clone();
        occupied.map(|bin| (bin as u16, self.by_bin[bin]))
    }

    /// How many are in `bin`.
    pub fn at(&self, bin: u16) -> f64 {
        self.by_bin.get(usize::from(bin)).copied().unwrap_or(0.0)
    }

    /// The bin of the `rank`-th smallest (from 1); `None` if empty.
    pub fn bin_of_rank(&self, rank: f64) -> Option<u16> {
        let mut seen = 0.0;
        let reached = self.bins().find(|(_, count)| {
            seen += count;
            *count > 0.0 && seen >= rank
        });
        // Sums of fractions may stay a little below their total.
        let last = self.bins().next_back();
        reached.or(last).map(|it| it.0)
    }

    /// The duration that the share `q` does not exceed, ns: the middle of its bin. 0 if empty.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        // As a share, so that weights do not matter; a billionth less, so that rounding does not either.
        let rank = (q - 1e-9) * self.total;
        self.bin_of_rank(rank).map_or(0, Sketch::middle_ns)
    }

    /// How many are in bins above `bin`.
    pub fn above(&self, bin: u16) -> f64 {
        let above = self.bins().rev().take_while(|it| it.0 > bin);
        above.map(|it| it.1).sum()
    }

    /// How many are longer than the bin of `ns`.
    pub fn above_ns(&self, ns: u64) -> f64 {
        self.above(sketch::bin_of(ns))
    }
}

/// A sketch's (bin, count), in order.
type Bins<'a> = std::iter::Copied<std::slice::Iter<'a, (u16, i64)>>;

/// What a difference has less than nothing of is nothing.
fn positive(count: i64) -> f64 {
    count.max(0) as f64
}

/// All of one side.
pub(super) struct Side<'a> {
    slots: &'a [Slot],
    /// Of each slot, same order.
    requests_by_slot: Vec<f64>,
    weight: f64,
    /// Of all slots together.
    pub counts: Counts,
}

/// One slot of a side, seen through a score that each request has (see [`Side::scored`]).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scored {
    /// Minutes since the epoch.
    pub minute: i32,
    /// Requests.
    pub requests: f64,
    /// The sum of their scores.
    pub score: f64,
}

impl<'a> Side<'a> {
    /// `weight`: how many requests a recorded one stands for.
    pub fn new(slots: &'a [Slot], weight: f64) -> Side<'a> {
        let requests = |slot: &Slot| {
            let counts = slot.latency.bins().iter().map(|it| positive(it.1));
            counts.sum::<f64>() / weight
        };
        Side {
            slots,
            requests_by_slot: slots.iter().map(requests).collect(),
            weight,
            counts: Counts::sum(slots.iter().map(|it| &it.latency), weight),
        }
    }

    /// Whole requests, rounded down: a part of one is no evidence.
    pub fn requests(&self) -> f64 {
        self.counts.total.floor()
    }

    /// Minutes from the first slot's begin to the last one's end, at least one slot.
    pub fn minutes(&self, slot_minutes: i32) -> i32 {
        let first = self.slots.iter().map(|it| it.minute).min();
        let last = self.slots.iter().map(|it| it.minute).max();
        let span = last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
        span.saturating_add(slot_minutes.max(1))
    }

    /// Each slot that has requests, in order of time, with the sum of what `score` says of their bins.
    pub fn scored(&self, score: impl Fn(u16) -> f64) -> Vec<Scored> {
        self.each(|bins| bins.map(|(bin, count)| positive(count) * score(bin)).sum())
    }

    /// The same with the number of requests above `threshold`. Most requests are below it: they are not looked at.
    pub fn above(&self, threshold: u16) -> Vec<Scored> {
        let count = |(_, count)| positive(count);
        self.each(|bins| {
            bins.rev()
                .take_while(|it| it.0 > threshold)
                .map(count)
                .sum()
        })
    }

    fn each(&self, score: impl Fn(Bins<'_>) -> f64) -> Vec<Scored> {
        let slots = self.slots.iter().zip(&self.requests_by_slot);
        let with_requests = slots.filter(|(_, requests)| **requests > 0.0);
        let scored = with_requests.map(|(slot, requests)| Scored {
            minute: slot.minute,
            requests: *requests,
            score: score(slot.latency.bins().iter().copied()) / self.weight,
        });
        let mut scored: Vec<Scored> = scored.collect();
        scored.sort_by_key(|it| it.minute);
        scored
    }

    /// Requests per second, weighted.
    pub fn rate(&self, slot_minutes: i32) -> f64 {
        self.counts.total * self.weight / (f64::from(self.minutes(slot_minutes)) * 60.0)
    }

    /// Share of failed requests, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        let errors: f64 = self.slots.iter().map(|it| it.errors as f64).sum();
        let requests = self.counts.total * self.weight;
        if requests > 0.0 {
            (errors / requests).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}
