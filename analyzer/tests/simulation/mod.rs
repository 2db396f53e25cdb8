//! Endpoints that do not exist: minute after minute of requests, as bursty, lumpy, bimodal and daily as real ones.
//!
//! Seeded: the same run every time. What is counted runs through the same functions as in production.

use analyzer::regression::{self, Limits, Look, Slot, Verdict};
use analyzer::sketch::Sketch;
use std::f64::consts::TAU;

/// A generator of random numbers (Marsaglia's xorshift, with a multiplication to hide its linearity).
pub struct Random(u64);

impl Random {
    /// Seeds that differ by one give unrelated numbers.
    pub fn new(seed: u64) -> Random {
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..8 {
            random.uniform();
        }
        random
    }

    /// Between 0 and 1, neither of them.
    pub fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }

    /// Poisson, by counting exponential gaps; above 50 by the normal distribution.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        if mean > 50.0 {
            return (mean + self.normal() * mean.sqrt()).round().max(0.0) as u32;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.uniform(), 0);
        while product > limit {
            product *= self.uniform();
            count += 1;
        }
        count
    }
}

/// What an endpoint is like when nothing happens to it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Shape {
    /// Log-normal with this σ.
    Lognormal(f64),
    /// Pareto with this exponent: the mean of the square does not exist below 2.
    Pareto(f64),
    /// Log-latency and log-load wander from minute to minute (AR(1), 0.9 of the last minute's; σ 0.25 and 0.5).
    Bursty,
    /// In one minute of two hundred, half of the requests take ten times as long.
    Lumpy,
    /// Three quarters are cache hits of 10 ms, the others 100 ms; the share wanders for hours between 65 % and 85 %.
    Bimodal,
    /// Twice as slow at midday as at midnight, with three times the load.
    Daily,
}

/// All of them, with what they are called.
pub const SHAPES: [(&str, Shape); 7] = [
    ("log-normal, sigma 0.5", Shape::Lognormal(0.5)),
    ("log-normal, sigma 1", Shape::Lognormal(1.0)),
    ("heavy tail (Pareto)", Shape::Pareto(1.8)),
    ("bursty", Shape::Bursty),
    ("lumps", Shape::Lumpy),
    ("bimodal, drifting mix", Shape::Bimodal),
    ("daily pattern", Shape::Daily),
];

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// All requests take so many times as long.
    All(f64),
    /// This share of the requests takes so many times as long.
    Some(f64, f64),
}

/// One endpoint, running.
pub struct Endpoint {
    shape: Shape,
    per_minute: f64,
    random: Random,
    minute: i32,
    /// Standard normal states that wander: of latency, of load, of the mix.
    wander: [f64; 3],
}

impl Endpoint {
    /// `per_minute`: requests on average.
    pub fn new(shape: Shape, per_minute: f64, seed: u64) -> Endpoint {
        let mut random = Random::new(seed);
        let wander = [random.normal(), random.normal(), random.normal()];
        // Somewhere in a day, at a whole hour.
        let minute = 28_000_000 / 60 * 60 + (random.uniform() * 24.0) as i32 * 60;
        Endpoint {
            shape,
            per_minute,
            random,
            minute,
            wander,
        }
    }

    /// The next minutes.
    pub fn run(&mut self, minutes: usize, fault: Fault) -> Vec<Slot> {
        (0..minutes).map(|_| self.minute(fault)).collect()
    }

    /// Lets so many minutes go by of which nothing is known.
    fn skip(&mut self, minutes: usize) {
        let per_minute = std::mem::replace(&mut self.per_minute, 0.0);
        self.run(minutes, Fault::None);
        self.per_minute = per_minute;
    }

    /// The next minute.
    pub fn minute(&mut self, fault: Fault) -> Slot {
        let keep: [f64; 3] = [0.9, 0.9, 0.995];
        for (state, keep) in self.wander.iter_mut().zip(keep) {
            *state = keep * *state + (1.0 - keep * keep).sqrt() * self.random.normal();
        }
        let day = -(TAU * f64::from(self.minute % 1440) / 1440.0).cos();
        let (load, slow) = match self.shape {
            Shape::Bursty => (
                (0.5 * self.wander[1] - 0.125).exp(),
                (0.25 * self.wander[0]).exp(),
            ),
            Shape::Daily => (1.0 + 0.5 * day, 2f64.powf(0.5 * day)),
            _ => (1.0, 1.0),
        };
        let is_lump = self.shape == Shape::Lumpy && self.random.uniform() < 0.005;
        let mut latency = Sketch::default();
        for _ in 0..self.random.poisson(self.per_minute * load) {
            let mut ms = self.request_ms() * slow;
            if is_lump && self.random.uniform() < 0.5 {
                ms *= 10.0;
            }
            match fault {
                Fault::All(factor) => ms *= factor,
                Fault::Some(share, factor) if self.random.uniform() < share => ms *= factor,
                Fault::Some(..) | Fault::None => {}
            }
            latency.record((ms * 1e6) as u64, 1);
        }
        self.minute += 1;
        Slot {
            minute: self.minute - 1,
            errors: 0,
            latency,
        }
    }

    fn request_ms(&mut self) -> f64 {
        match self.shape {
            Shape::Lognormal(sigma) => 100.0 * (sigma * self.random.normal()).exp(),
            Shape::Pareto(exponent) => 70.0 * self.random.uniform().powf(-1.0 / exponent),
            Shape::Bursty | Shape::Lumpy | Shape::Daily => {
                100.0 * (0.5 * self.random.normal()).exp()
            }
            Shape::Bimodal => {
                let hits = 0.75 + 0.1 * (self.wander[2] / 2.0).clamp(-1.0, 1.0);
                let middle = if self.random.uniform() < hits {
                    10.0
                } else {
                    100.0
                };
                middle * (0.3 * self.random.normal()).exp()
            }
        }
    }
}

/// Minutes of a day.
pub const DAY: usize = 1440;

/// All looks after a deployment: is any of them an alarm? `after`: the minutes since, the first two of which are
/// warm-up. Looks are made each minute as long as there are minutes.
pub fn alarm_after_deployment(base: &[Slot], after: &[Slot]) -> bool {
    let now = after.get(2..).unwrap_or_default();
    let mut looks = 0;
    for minutes in 3..=now.len() {
        match regression::after_deployment(base, &now[..minutes], 1.0, looks) {
            Look::Wait => {}
            Look::Looked(comparison) => {
                looks += 1;
                if let Verdict::Slower(_) = comparison.verdict {
                    return true;
                }
            }
            Look::Over => return false,
        }
    }
    false
}

/// Deployments of an endpoint to which nothing happens, one every `every` minutes: (alarms, deployments).
pub fn deployments(
    shape: Shape,
    per_minute: f64,
    seed: u64,
    count: usize,
    every: usize,
) -> (usize, usize) {
    // So long the third look may take: a thousand requests, and the warm-up.
    let after = (1_200.0 / per_minute).ceil().max(20.0) as usize + 2;
    let mut endpoint = Endpoint::new(shape, per_minute, seed);
    let slots = endpoint.run(DAY + after + every * count, Fault::None);
    let alarms = (0..count).filter(|it| {
        let at = DAY + it * every;
        alarm_after_deployment(&slots[at - DAY..at], &slots[at..at + after])
    });
    (alarms.count(), count)
}

/// Minutes of the window that is looked at, and of yesterday around the same time on either side.
const WINDOW: usize = 10;
const AROUND: usize = 30;

/// An endpoint to which nothing happens, asked every minute for so many days: alarms. `history`: how many minutes
/// are known at most; a day in production, less for somebody who has just begun.
pub fn sudden_alarms(
    shape: Shape,
    per_minute: f64,
    seed: u64,
    days: usize,
    history: usize,
) -> usize {
    let mut endpoint = Endpoint::new(shape, per_minute, seed);
    let slots = endpoint.run(DAY + WINDOW + AROUND + days * DAY, Fault::None);
    let limits = Limits::sudden();
    let (mut day_sum, mut window_sum) = (Sketch::default(), Sketch::default());
    let first = DAY + WINDOW + AROUND;
    let from = |at: usize| at - WINDOW - history.min(DAY);
    for slot in &slots[from(first)..first - WINDOW] {
        day_sum.merge(&slot.latency);
    }
    for slot in &slots[first - WINDOW..first] {
        window_sum.merge(&slot.latency);
    }
    let (mut alarms, mut quiet_until) = (0, 0);
    for at in first..slots.len() {
        if at >= quiet_until && regression::is_worth_testing(&day_sum, &window_sum, &limits) {
            let day = &slots[from(at)..at - WINDOW];
            let yesterday = if history < DAY {
                &[]
            } else {
                &slots[at - DAY - WINDOW - AROUND..at - DAY + AROUND]
            };
            let comparison = regression::sudden(day, &slots[at - WINDOW..at], yesterday, 1.0);
            if let Verdict::Slower(_) = comparison.verdict {
                // It stays one alarm as long as it lasts.
                alarms += 1;
                quiet_until = at + 60;
            }
        }
        day_sum.subtract(&slots[from(at)].latency);
        day_sum.merge(&slots[at - WINDOW].latency);
        window_sum.subtract(&slots[at - WINDOW].latency);
        window_sum.merge(&slots[at].latency);
    }
    alarms
}

/// The rule that everybody writes first: the p99 is 20 % above the one before.
pub fn naive_rule(base: &[Slot], now: &[Slot]) -> bool {
    let p99 = |slots: &[Slot]| {
        let mut sum = Sketch::default();
        slots.iter().for_each(|it| sum.merge(&it.latency));
        sum.quantile(0.99).unwrap_or(0) as f64
    };
    p99(now) > 1.2 * p99(base)
}

/// What is known of the time before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Base {
    /// The last minutes, so many.
    Last(usize),
    /// The last hour, and of the four days before what is within an hour of the same time of day.
    SameHours,
}

/// How many of `trials` faults are found by the three looks, in an endpoint with so many requests in the half hour
/// that follows the warm-up.
pub fn found(shape: Shape, fault: Fault, requests: f64, base: Base, trials: u64) -> usize {
    // A fifth longer, so that as many requests have come for sure.
    const AFTER: usize = 36;
    let is_found = |seed: &u64| {
        let mut endpoint = Endpoint::new(shape, requests / 30.0, 7_000 + seed);
        let base = match base {
            Base::Last(minutes) => endpoint.run(minutes, Fault::None),
            Base::SameHours => {
                let mut base = Vec::new();
                for _ in 0..4 {
                    base.extend(endpoint.run(60 + AFTER + 60, Fault::None));
                    endpoint.skip(DAY - 60 - AFTER - 60);
                }
                base.extend(endpoint.run(60, Fault::None));
                base
            }
        };
        alarm_after_deployment(&base, &endpoint.run(2 + AFTER, fault))
    };
    (0..trials).filter(is_found).count()
}
