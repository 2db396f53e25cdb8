//! Small drawings, made on the server: paths and rectangles as text, sizes as attributes, colours
//! as classes. Nothing here holds text from outside.

use analyzer::sketch::Sketch;
use std::fmt::Write;

use crate::format;

/// A line over time as two paths of an SVG: the line and the area below it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Line {
    /// The line.
    pub path: String,
    /// The line, closed along the bottom.
    pub area: String,
}

/// `values` from left to right within `width` × `height`, 0 at the bottom, `top` at the top. A
/// single value is drawn as a level line.
pub fn line(values: &[f64], top: f64, width: f64, height: f64) -> Line {
    let Some(last) = values.last() else {
        return Line::default();
    };
    let values = if values.len() == 1 {
        &[*last, *last]
    } else {
        values
    };
    let step = width / (values.len() - 1) as f64;
    let mut path = String::from("M");
    for (at, value) in values.iter().enumerate() {
        let share = if top > 0.0 {
            (value / top).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let x = step * at as f64;
        let y = height - share * height;
        let _ = write!(path, "{}{x:.1} {y:.1}", if at > 0 { " " } else { "" });
    }
    let area = format!("{path} L{width} {height} 0 {height}z");
    Line { path, area }
}

/// The size of a sparkline, as in its `viewBox`.
pub const SPARK: (f64, f64) = (96.0, 28.0);

/// A sparkline: scaled to its own highest value, a pixel of room above.
pub fn sparkline(values: &[f64]) -> Line {
    let top = values.iter().copied().fold(0.0, f64::max) * 1.05;
    line(values, top, SPARK.0, SPARK.1)
}

/// A bar of a histogram; sizes in percent of the drawing's width and in units of its height.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    /// Left edge: `12.50%`.
    pub x: String,
    /// Its width: `8.29%`.
    pub width: String,
    /// Upper edge.
    pub y: f64,
    /// Its height.
    pub height: f64,
    /// What it says when asked: `12 to 15: 1,240`.
    pub title: String,
}

/// Bars of counts over values, with the values at both ends.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// From left to right.
    pub bars: Vec<Bar>,
    /// The lowest value there is.
    pub low: u64,
    /// The median.
    pub median: u64,
    /// The highest value there is.
    pub high: u64,
}

/// Bars at most; more values share them.
const BARS_MAX: u64 = 12;

/// How often which value is: a sketch of small whole numbers (calls per request). `height` is the
/// highest bar's.
pub fn histogram(sketch: &Sketch, height: f64) -> Histogram {
    let bins: Vec<(u64, i64)> = sketch
        .bins()
        .iter()
        .filter(|it| it.1 > 0)
        .map(whole)
        .collect();
    let (Some(&(low, _)), Some(&(high, _))) = (bins.first(), bins.last()) else {
        return Histogram::default();
    };
    let step = ((high - low) / BARS_MAX + 1).max(1);
    let mut counts = vec![0_i64; ((high - low) / step + 1) as usize];
    for (value, count) in bins {
        counts[((value - low) / step) as usize] += count;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let slot = 1.0 / counts.len() as f64;
    let bar = |(at, count): (usize, &i64)| Bar {
        x: format::width(slot * (at as f64 + 0.04)),
        width: format::width(slot * 0.92),
        height: round(*count as f64 / most * height),
        y: round(height - *count as f64 / most * height),
        title: bar_title(low + at as u64 * step, step, *count),
    };
    let bars = counts.iter().enumerate().map(bar).collect();
    Histogram {
        bars,
        low,
        median: sketch.quantile(0.5).unwrap_or(low).clamp(low, high),
        high,
    }
}

/// A bin of a sketch as the whole number it most likely stands for.
fn whole(bin: &(u16, i64)) -> (u64, i64) {
    let (lower, upper) = Sketch::edges_ns(bin.0);
    // Edges are rounded up: in a narrow bin the lower one is the only whole number.
    (
        if upper - lower <= 1 {
            lower
        } else {
            lower + (upper - 1 - lower) / 2
        },
        bin.1,
    )
}

fn bar_title(from: u64, step: u64, count: i64) -> String {
    let values = if step == 1 {
        from.to_string()
    } else {
        format!("{from} to {}", from + step - 1)
    };
    format!("{values}: {} requests", format::count(count))
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// An axis that ends at a round number.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    /// Where it ends, in the values' unit.
    pub top: f64,
    /// Labels from top to bottom, evenly spaced, the last one `0`.
    pub labels: Vec<String>,
}

/// Durations from 0 up to `highest` ns with three steps: each step is 1, 2, 3, 5 or their like in the
/// largest fitting unit.
pub fn duration_axis(highest_ns: u64) -> Axis {
    const STEPS: usize = 3;
    // Round in ns below a second, in seconds, minutes and hours above.
    const UNITS: [u64; 4] = [3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1];
    let wanted = highest_ns.div_ceil(STEPS as u64).max(1);
    let unit = UNITS.into_iter().find(|it| wanted >= *it).unwrap_or(1);
    let step_ns = round_up(wanted.div_ceil(unit)).saturating_mul(unit);
    let labels = (0..=STEPS as u64).rev().map(|at| match at {
        0 => "0".to_owned(),
        _ => format::duration(step_ns.saturating_mul(at)),
    });
    Axis {
        top: step_ns as f64 * STEPS as f64,
        labels: labels.collect(),
    }
}

/// The next of 1, 2, 3, 5, 10, 20, 30, 50, …
fn round_up(number: u64) -> u64 {
    let mut magnitude = 1_u64;
    loop {
        for digit in [1, 2, 3, 5] {
            let candidate = magnitude.saturating_mul(digit);
            if candidate >= number {
                return candidate;
            }
        }
        magnitude = magnitude.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_inside() {
        assert_eq!(line(&[], 1.0, 96.0, 28.0), Line::default());
        assert_eq!(
            line(&[0.0, 5.0, 10.0], 10.0, 100.0, 20.0).path,
            "M0.0 20.0 50.0 10.0 100.0 0.0"
        );
        assert_eq!(sparkline(&[0.0]).path, "M0.0 28.0 96.0 28.0");
        assert_eq!(
            line(&[9.0, -9.0], 1.0, 10.0, 10.0).area,
            "M0.0 0.0 10.0 10.0 L10 10 0 10z"
        );
    }

    #[test]
    fn histograms_hold_every_count() {
        let mut sketch = Sketch::default();
        for calls in 8..=50 {
            sketch.record(calls, 2);
        }
        let histogram = histogram(&sketch, 76.0);
        assert!(histogram.bars.len() <= BARS_MAX as usize + 1);
        assert_eq!((histogram.low, histogram.high), (8, 50));
        assert!(
            histogram
                .bars
                .iter()
                .all(|it| it.y >= 0.0 && it.height <= 76.0)
        );
        let mut one = Sketch::default();
        one.record(31, 5);
        let one = super::histogram(&one, 76.0);
        assert_eq!(
            (one.bars.len(), one.low, one.median, one.high),
            (1, 31, 31, 31)
        );
        assert_eq!(one.bars[0].title, "31: 5 requests");
        assert_eq!(
            super::histogram(&Sketch::default(), 76.0),
            Histogram::default()
        );
        let mut huge = Sketch::default();
        huge.record(u64::MAX, 1);
        huge.record(0, 1);
        super::histogram(&huge, 76.0);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let labels = |ns| duration_axis(ns).labels.join(" | ");
        assert_eq!(labels(66 * 60_000_000_000), "1 h 30 min | 1 h | 30 min | 0");
        assert_eq!(labels(250_000_000), "300 ms | 200 ms | 100 ms | 0");
        assert_eq!(labels(0), "3 ns | 2 ns | 1 ns | 0");
        duration_axis(u64::MAX);
    }
}
