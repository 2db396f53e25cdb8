//! Where the time went, over time: a stacked area per category, in critical-path time per request.

use analyzer::category::Category;
use std::fmt::Write;

use crate::charts;
use crate::format;
use crate::slots::Slots;

/// A chart, ready for the template.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CategoryChart {
    /// Labels of the y axis from top to bottom, evenly spaced.
    pub y: Vec<String>,
    /// Labels of the x axis from left to right, evenly spaced.
    pub x: Vec<String>,
    /// From the bottom to the top; only categories that took time.
    pub areas: Vec<Area>,
    /// The same as a table: when, and ns per request of each area.
    pub rows: Vec<(String, Vec<String>)>,
    /// When it begins, ns since the epoch.
    pub from_ns: u64,
    /// How long it is, ns.
    pub length_ns: u64,
}

/// A category over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Area {
    /// Its name: `pool wait`.
    pub name: &'static str,
    /// The style sheet's class.
    pub class: &'static str,
    /// In a drawing of 100 by 100; closed. One piece per stretch with requests.
    pub path: String,
}

/// Draws the categories of `slots`.
pub fn draw(slots: &Slots) -> CategoryChart {
    let per_request = |slot: usize, category: usize| {
        let sum = &slots.sums[slot];
        sum.categories[category].max(0) as f64 / sum.requests.max(1) as f64
    };
    let all = 0..Category::COUNT;
    let filled: Vec<usize> = (0..slots.sums.len())
        .filter(|slot| slots.sums[*slot].requests > 0)
        .collect();
    let whole = |slot: usize| all.clone().map(|it| per_request(slot, it)).sum::<f64>();
    let highest = filled.iter().map(|it| whole(*it)).fold(0.0, f64::max);
    if highest <= 0.0 {
        return CategoryChart::default();
    }
    let axis = charts::duration_axis(highest as u64);
    let taking: Vec<usize> = all
        .filter(|category| {
            filled
                .iter()
                .any(|slot| per_request(*slot, *category) > 0.0)
        })
        .collect();
    let mut below = vec![0.0; slots.sums.len()];
    let mut areas = Vec::new();
    for &category in &taking {
        let above: Vec<f64> = below
            .iter()
            .enumerate()
            .map(|(slot, low)| low + per_request(slot, category))
            .collect();
        let which = Category::ALL[category];
        areas.push(Area {
            name: which.name(),
            class: crate::category_bar::class(&which),
            path: path(slots, &below, &above, axis.top),
        });
        below = above;
    }
    let cells = |slot: usize| -> Vec<String> {
        let ms = |category: &usize| format::ms(per_request(slot, *category) as u64);
        taking.iter().map(ms).collect()
    };
    let rows = filled
        .iter()
        .map(|slot| (format::at(slots.start_ns(*slot)), cells(*slot)));
    CategoryChart {
        rows: rows.collect(),
        y: axis.labels,
        x: slots.x_labels(),
        areas,
        from_ns: slots.start_ns(0),
        length_ns: slots.length_ns(),
    }
}

/// Steps: a slot is as wide as its minutes, and what was in it was in all of it.
fn path(slots: &Slots, below: &[f64], above: &[f64], top: f64) -> String {
    let width = 100.0 / slots.sums.len() as f64;
    let y = |value: f64| 100.0 - (value / top).clamp(0.0, 1.0) * 100.0;
    let mut path = String::new();
    for (slot, sum) in slots.sums.iter().enumerate() {
        if sum.requests <= 0 || above[slot] <= below[slot] {
            continue;
        }
        // A hair wider, so that no ground shines through between two. Writing to a String cannot fail.
        let _ = write!(
            path,
            "M{:.2} {:.2}h{:.2}V{:.2}h-{:.2}z",
            slot as f64 * width,
            y(above[slot]),
            width + 0.05,
            y(below[slot]),
            width + 0.05,
        );
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::deltas::MinuteDelta;
    use collector::store::bottlenecks::Minutes;
    use std::collections::BTreeMap;

    fn slots(minutes: &[(i32, i64, i64, i64)]) -> Slots {
        let sums = minutes
            .iter()
            .map(|&(minute, requests, handler_ms, database_ms)| {
                let mut sum = MinuteDelta {
                    requests,
                    ..MinuteDelta::default()
                };
                sum.categories[Category::Handler as usize] = handler_ms * 1_000_000;
                sum.categories[Category::Database as usize] = database_ms * 1_000_000;
                (minute, sum)
            });
        let minutes: BTreeMap<i32, MinuteDelta> = sums.collect();
        Slots::of(&minutes, Minutes { from: 0, to: 10 }, 9, 72)
    }

    #[test]
    fn categories_stand_on_each_other_per_request() {
        // Twice the requests, twice the time: as high.
        let chart = draw(&slots(&[(0, 10, 1_000, 2_000), (1, 20, 2_000, 4_000)]));
        let names: Vec<&str> = chart.areas.iter().map(|it| it.name).collect();
        assert_eq!(names, ["handler", "database"]);
        assert_eq!(chart.y[0], "300 ms");
        assert_eq!(
            chart.areas[0].path,
            "M0.00 66.67h10.05V100.00h-10.05zM10.00 66.67h10.05V100.00h-10.05z"
        );
        assert!(chart.areas[1].path.starts_with("M0.00 0.00h10.05V66.67"));
        assert_eq!(chart.rows.len(), 2);
        assert_eq!(chart.rows[0].1, ["100", "200"]);
    }

    #[test]
    fn without_requests_there_is_nothing_to_draw() {
        assert_eq!(draw(&slots(&[])), CategoryChart::default());
        let negative = draw(&slots(&[(0, 1, -5, 10)]));
        assert_eq!(negative.areas.len(), 1);
    }
}
