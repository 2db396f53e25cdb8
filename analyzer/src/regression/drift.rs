//! Slower since some hour of the last days, without a moment at which anything happened?
//!
//! The p95 of each hour, as a series: is there an hour that divides it into two parts that differ, and is the later
//! one slower? The energy distance of the two parts (Székely and Rizzo; E-divisive of Matteson and James uses it so)
//! is largest at the best such hour. How large it gets by chance is found by shuffling.
//!
//! Two things make hours differ without any change. The time of day: from each hour's value the mean of its hour of
//! the day is taken. And that hours are like the ones beside them: days are shuffled in blocks of six hours.

/// Since when, and how much slower.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ChangePoint {
    /// Hours since the epoch; the first that is slower.
    pub hour: i32,
    /// Median hourly p95 before, ns.
    pub before_ns: u64,
    /// The same since.
    pub after_ns: u64,
    /// How probable it is that chance alone looks like this.
    pub p_value: f64,
}

/// Longer series are cut: for ten days a step is found, and the cost grows with the square.
const HOURS_MAX: i32 = 240;

/// A time of day has to be seen on two days before the change and on one after it.
const HOURS_BEFORE_MIN: usize = 48;
const HOURS_AFTER_MIN: usize = 24;

/// Fewer requests carry no p95 (see the ladder); such hours are left out.
const REQUESTS_MIN: i64 = 59;

/// The later part has to be so much slower, in proportion and in ns.
const RATIO_MIN: f64 = 1.2;
const ADDED_NS_MIN: u64 = 20_000_000;

/// Shuffled series, of which at most one may look as divided as the real one: p < 0.001.
const SHUFFLES: usize = 2999;
const ALPHA: f64 = 0.001;

/// Hours of a block: latencies of one morning are alike, those of another day's are not.
const BLOCK_HOURS: i32 = 6;

/// One hour that counts.
#[derive(Clone, Copy)]
struct Hour {
    hour: i32,
    ln: f64,
    /// `ln` without what its time of the day is usually.
    rest: f64,
}

/// `hours`: (hours since the epoch, p95 in ns, requests), any order. `None`: no step upwards, or fewer than three days
/// of hours with enough requests.
pub fn drift(hours: &[(i32, f64, i64)]) -> Option<ChangePoint> {
    let series = series(hours);
    let rests: Vec<f64> = series.iter().map(|it| it.rest).collect();
    let (at, distance) = best_split(&rests)?;
    let level = |part: &[Hour]| median(part.iter().map(|it| it.ln).collect()).exp();
    let (before, after) = series.split_at(at);
    let (before_ns, after_ns) = (level(before), level(after));
    let by_rest = mean(&rests[at..]) - mean(&rests[..at]);
    if by_rest < RATIO_MIN.ln()
        || after_ns - before_ns < ADDED_NS_MIN as f64
        || was_as_slow(before, mean(&rests[at..]))
    {
        return None;
    }
    let p_value = p_value(&series, distance)?;
    Some(ChangePoint {
        hour: after.first()?.hour,
        before_ns: before_ns as u64,
        after_ns: after_ns as u64,
        p_value,
    })
}

fn series(hours: &[(i32, f64, i64)]) -> Vec<Hour> {
    let newest = hours.iter().map(|it| it.0).max().unwrap_or(0);
    let oldest = newest.saturating_sub(HOURS_MAX - 1);
    let counts = hours.iter().filter(|(hour, ns, requests)| {
        *hour >= oldest && *requests >= REQUESTS_MIN && ns.is_finite() && *ns > 0.0
    });
    let mut series: Vec<Hour> = counts
        .map(|(hour, ns, _)| Hour {
            hour: *hour,
            ln: ns.ln(),
            rest: 0.0,
        })
        .collect();
    series.sort_by_key(|it| it.hour);
    series.dedup_by_key(|it| it.hour);
    let mut usual = [(0.0, 0.0); 24];
    for it in &series {
        let (sum, count) = &mut usual[it.hour.rem_euclid(24) as usize];
        *sum += it.ln;
        *count += 1.0;
    }
    for it in &mut series {
        let (sum, count) = usual[it.hour.rem_euclid(24) as usize];
        it.rest = it.ln - sum / count;
    }
    series
}

/// A day before the change was about as slow as it is since: it comes and goes.
fn was_as_slow(before: &[Hour], after: f64) -> bool {
    let days = before.chunk_by(|a, b| a.hour.div_euclid(24) == b.hour.div_euclid(24));
    let mut means = days
        .filter(|day| day.len() >= BLOCK_HOURS as usize)
        .map(|day| mean(&day.iter().map(|it| it.rest).collect::<Vec<_>>()));
    means.any(|it| it + RATIO_MIN.ln() / 2.0 > after)
}

/// Where the two parts differ most, and how much.
///
/// Moving the border by one value changes the sums of distances within and between the parts by that value's
/// distances to all others, so all borders together take as long as all pairs.
fn best_split(values: &[f64]) -> Option<(usize, f64)> {
    let n = values.len();
    if n < HOURS_BEFORE_MIN + HOURS_AFTER_MIN {
        return None;
    }
    let (mut left, mut between, mut right) = (0.0, 0.0, 0.0);
    for (i, a) in values.iter().enumerate() {
        right += values[i + 1..].iter().map(|b| (a - b).abs()).sum::<f64>();
    }
    let mut best: Option<(usize, f64)> = None;
    for (i, a) in values.iter().enumerate() {
        let to_left: f64 = values[..i].iter().map(|b| (a - b).abs()).sum();
        let to_right: f64 = values[i + 1..].iter().map(|b| (a - b).abs()).sum();
        left += to_left;
        right -= to_right;
        between += to_right - to_left;
        let (before, after) = (i + 1, n - i - 1);
        if before < HOURS_BEFORE_MIN || after < HOURS_AFTER_MIN {
            continue;
        }
        let (b, a) = (before as f64, after as f64);
        let energy =
            2.0 * between / (b * a) - 2.0 * left / (b * (b - 1.0)) - 2.0 * right / (a * (a - 1.0));
        let distance = energy * b * a / (b + a);
        if best.is_none_or(|it| distance > it.1) {
            best = Some((before, distance));
        }
    }
    best
}

/// The share of shuffled series that have as large a distance somewhere; `None` as soon as there are too many.
fn p_value(series: &[Hour], distance: f64) -> Option<f64> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let too_many = (ALPHA * (SHUFFLES + 1) as f64) as usize;
    let mut as_large = 1;
    for _ in 0..SHUFFLES {
        let shuffled = shuffled(series, &mut random);
        as_large += usize::from(best_split(&shuffled).is_some_and(|it| it.1 >= distance));
        if as_large > too_many {
            return None;
        }
    }
    Some(as_large as f64 / (SHUFFLES + 1) as f64)
}

/// The blocks of each time of the day in another order of days.
fn shuffled(series: &[Hour], random: &mut Random) -> Vec<f64> {
    let block = |it: &Hour| it.hour.div_euclid(BLOCK_HOURS);
    let blocks: Vec<&[Hour]> = series.chunk_by(|a, b| block(a) == block(b)).collect();
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    for of_day in 0..24 / BLOCK_HOURS {
        let same = |i: &usize| block(&blocks[*i][0]).rem_euclid(24 / BLOCK_HOURS) == of_day;
        let places: Vec<usize> = (0..blocks.len()).filter(same).collect();
        for i in (1..places.len()).rev() {
            order.swap(places[i], places[random.below(i + 1)]);
        }
    }
    let values = order
        .iter()
        .flat_map(|i| blocks[*i].iter().map(|it| it.rest));
    values.collect()
}

/// A small generator of random numbers (Marsaglia's xorshift): the same series always gets the same answer.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The modulus favours small numbers by one in 2^64 / end, which no shuffle shows.
        (self.0 % end as u64) as usize
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    /// An hour's value for so many hours; noise of ±5 % or so that is alike in neighbouring hours.
    fn hours(count: i32, seed: u64, ms: impl Fn(i32) -> f64) -> Vec<(i32, f64, i64)> {
        let mut random = Random(seed);
        let mut noise = 0.0;
        let hour = |it: i32| {
            noise = 0.6 * noise + 0.05 * (random.below(2001) as f64 / 1000.0 - 1.0);
            (480_000 + it, ms(it) * f64::exp(noise) * MS, 1_000)
        };
        (0..count).map(hour).collect()
    }

    fn of_day(hour: i32) -> f64 {
        1.5 + 0.5 * (f64::from(hour) * std::f64::consts::TAU / 24.0).sin()
    }

    #[test]
    fn a_step_is_found_at_its_hour() {
        for (days, step) in [(4, 60), (7, 100), (10, 190)] {
            let slower = |it| if it < step { 100.0 } else { 140.0 };
            let found = drift(&hours(days * 24, 5, slower)).unwrap();
            assert!((found.hour - 480_000 - step).abs() <= 6, "{found:?}");
            assert!(found.p_value <= ALPHA);
            assert!(found.after_ns > found.before_ns + ADDED_NS_MIN, "{found:?}");
        }
    }

    #[test]
    fn a_step_is_found_in_a_daily_pattern() {
        let slower = |it| of_day(it) * if it < 110 { 100.0 } else { 150.0 };
        let found = drift(&hours(168, 9, slower)).unwrap();
        assert!((found.hour - 480_000 - 110).abs() <= 6, "{found:?}");
    }

    #[test]
    fn a_daily_pattern_a_weekend_a_recovery_and_noise_are_no_drift() {
        for seed in 1..=10 {
            assert_eq!(drift(&hours(168, seed, |_| 100.0)), None);
            assert_eq!(drift(&hours(100, seed, |it| 100.0 * of_day(it))), None);
            assert_eq!(
                drift(&hours(168, seed, |it| if it < 100 { 150.0 } else { 100.0 })),
                None
            );
            let weekend = |it| {
                if (96..144).contains(&it) {
                    100.0
                } else {
                    140.0
                }
            };
            assert_eq!(drift(&hours(240, seed, weekend)), None);
        }
    }

    #[test]
    fn too_short_too_few_and_odd_input() {
        let slower = |it| if it < 48 { 100.0 } else { 200.0 };
        assert_eq!(drift(&hours(71, 1, slower)), None);
        let few: Vec<_> = hours(168, 1, slower)
            .iter()
            .map(|it| (it.0, it.1, 20))
            .collect();
        assert_eq!(drift(&few), None);
        let odd = [f64::NAN, f64::INFINITY, -1.0, 0.0].map(|ns| (i32::MIN, ns, i64::MAX));
        assert_eq!(drift(&odd), None);
        assert_eq!(drift(&[(5, 1.0, 100); 200]), None);
    }
}
