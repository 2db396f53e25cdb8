//! Latency over time: a line per percentile, each point from the merged sketches of its minutes.

use analyzer::sketch::Sketch;
use collector::deltas::MinuteDelta;
use collector::store::bottlenecks::Minutes;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::charts;
use crate::format;
use crate::range::minute_ns;
use crate::slots::Slots;

/// A chart, ready for the template.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LineChart {
    /// Labels of the y axis from top to bottom, evenly spaced.
    pub y: Vec<String>,
    /// Labels of the x axis from left to right, evenly spaced.
    pub x: Vec<String>,
    /// One per percentile.
    pub lines: Vec<Line>,
    /// The same as a table: only times with requests.
    pub points: Vec<Point>,
    /// Minutes in a point.
    pub step: i32,
    /// When it begins, ns since the epoch.
    pub from_ns: u64,
    /// How long it is, ns.
    pub length_ns: u64,
    /// Moments that matter, from left to right.
    pub markers: Vec<Marker>,
    /// Real requests, from left to right.
    pub exemplars: Vec<Exemplar>,
    /// The upper end of the y axis, ns.
    pub top_ns: f64,
}

/// A real request, to be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// When it started, ns since the epoch.
    pub start_ns: u64,
    /// How long it took, ns.
    pub duration_ns: u64,
    /// It failed.
    pub error: bool,
    /// A long one of its time; else one in the middle.
    pub is_slow: bool,
    /// Its trace.
    pub href: String,
}

/// A dot that is a real request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exemplar {
    /// Where it stands: `73.30%`.
    pub x: String,
    /// `12.50%`, from the top.
    pub y: String,
    /// It took longer than the axis reaches.
    pub is_beyond: bool,
    /// What it is.
    pub of: Request,
}

impl Exemplar {
    /// `14:05:12 UTC: a slow request, 1.24 s, failed`
    pub fn title(&self) -> String {
        format!(
            "{} UTC: {} request, {}{}",
            format::clock(self.of.start_ns),
            if self.of.is_slow {
                "a slow"
            } else {
                "an ordinary"
            },
            format::duration(self.of.duration_ns),
            if self.of.error { ", failed" } else { "" },
        )
    }

    /// `slow 1.24 s`, for the table.
    pub fn short(&self) -> String {
        let kind = if self.of.is_slow { "slow" } else { "ordinary" };
        format!("{kind} {}", format::duration(self.of.duration_ns))
    }
}

/// A moment to be marked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moment {
    /// ns since the epoch.
    pub at_ns: u64,
    /// A word or two: a version.
    pub label: String,
    /// The whole of it, when asked.
    pub title: String,
    /// Where it leads.
    pub href: String,
    /// Since then it is worse.
    pub is_bad: bool,
}

/// A vertical line with a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// Where it stands: `73.30%`.
    pub x: String,
    /// Its label; empty where there is no room.
    pub label: String,
    /// The label's base line, px from the top.
    pub y: u32,
    /// The label stands to the left of the line.
    pub is_left: bool,
    /// The moments that it stands for, the latest first; those that are nearly one share a line.
    pub moments: Vec<Moment>,
}

impl Marker {
    /// All that it says.
    pub fn title(&self) -> String {
        let titles: Vec<&str> = self.moments.iter().map(|it| &*it.title).collect();
        titles.join("\n")
    }

    /// Where it leads: to its latest, or to the bad one among them.
    pub fn href(&self) -> &str {
        let bad = self.moments.iter().find(|it| it.is_bad);
        bad.or(self.moments.first()).map_or("", |it| &it.href)
    }

    /// One of its moments is bad.
    pub fn is_bad(&self) -> bool {
        self.moments.iter().any(|it| it.is_bad)
    }
}

/// Lines closer than this cannot be told apart, percent of the width: about seven pixels.
const APART: f64 = 1.2;

/// Width of a letter, percent of the chart's: of 11 px type in a chart of 560 px.
const LETTER: f64 = 1.15;

/// Letters of a label; longer ones are cut, the title has them.
const LABEL_CHARS_MAX: usize = 16;

/// Rows for labels, one below the other. A label that finds no room in any of them is left out.
const LABEL_ROWS: [u32; 3] = [12, 25, 38];

impl LineChart {
    /// Shows real requests as dots.
    pub fn show_requests(&mut self, mut requests: Vec<Request>) {
        let until_ns = self.from_ns.saturating_add(self.length_ns);
        requests.retain(|it| (self.from_ns..until_ns).contains(&it.start_ns));
        requests.sort_by_key(|it| it.start_ns);
        let dot = |of: Request| {
            let share = of.duration_ns as f64 / self.top_ns.max(1.0);
            Exemplar {
                x: format::width(
                    (of.start_ns - self.from_ns) as f64 / self.length_ns.max(1) as f64,
                ),
                y: format::width(1.0 - share),
                is_beyond: share > 1.0,
                of,
            }
        };
        self.exemplars = requests.into_iter().map(dot).collect();
    }

    /// The real requests that started in a point's minutes.
    pub fn exemplars_of<'a>(&'a self, point: &Point) -> impl Iterator<Item = &'a Exemplar> {
        let from_ns = point.start_ns;
        let until_ns = from_ns + minute_ns(self.step);
        let within = move |it: &&Exemplar| (from_ns..until_ns).contains(&it.of.start_ns);
        self.exemplars.iter().filter(within)
    }

    /// Marks the moments that lie within the chart.
    pub fn mark(&mut self, mut moments: Vec<Moment>) {
        let until_ns = self.from_ns.saturating_add(self.length_ns);
        moments.retain(|it| (self.from_ns..=until_ns).contains(&it.at_ns));
        moments.sort_by_key(|it| it.at_ns);
        let x =
            |it: &Moment| (it.at_ns - self.from_ns) as f64 * 100.0 / self.length_ns.max(1) as f64;
        let mut together: Vec<(f64, Vec<Moment>)> = Vec::new();
        for moment in moments {
            match together.last_mut() {
                Some((last, group)) if x(&moment) - *last < APART => group.insert(0, moment),
                _ => together.push((x(&moment), vec![moment])),
            }
        }
        let mut ends = [f64::MIN; LABEL_ROWS.len()];
        self.markers = together
            .into_iter()
            .map(|(x, moments)| marker(x, moments, &mut ends))
            .collect();
    }
}

/// `ends`: how far each row of labels is taken.
fn marker(x: f64, moments: Vec<Moment>, ends: &mut [f64; LABEL_ROWS.len()]) -> Marker {
    // A line that is bad says so by its colour: its label is for what else happened.
    let named = moments.iter().find(|it| !it.is_bad).or(moments.first());
    let mut label = named.map_or_else(String::new, |it| {
        let cut: String = it.label.chars().take(LABEL_CHARS_MAX).collect();
        if cut.len() < it.label.len() {
            cut + "…"
        } else {
            cut
        }
    });
    let others = moments.iter().filter(|it| !it.is_bad).count();
    if others > 1 {
        let _ = write!(label, " +{}", others - 1);
    }
    let width = (label.chars().count() + 2) as f64 * LETTER;
    let is_left = x + width > 100.0;
    let (start, end) = if is_left {
        (x - width, x)
    } else {
        (x, x + width)
    };
    let row = ends.iter().position(|it| *it <= start);
    match row {
        Some(row) => ends[row] = end,
        None => label.clear(),
    }
    Marker {
        x: format!("{x:.2}%"),
        label,
        y: LABEL_ROWS[row.unwrap_or_default()],
        is_left,
        moments,
    }
}

/// A percentile over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Its name, such as `P95`.
    pub name: &'static str,
    /// The style sheet's class.
    pub class: &'static str,
    /// In a drawing of 100 by 100. Interrupted where there are no requests.
    pub path: String,
}

/// What some minutes say.
#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    /// When they begin, ns since the epoch.
    pub start_ns: u64,
    /// Requests, weighted.
    pub requests: i64,
    /// Failed ones, weighted.
    pub errors: i64,
    /// As [`PERCENTILES`], ns.
    pub percentiles: [u64; PERCENTILES.len()],
}

impl Point {
    /// When it begins, for the table.
    pub fn at(&self) -> String {
        format::at(self.start_ns)
    }

    /// The percentiles for the table: in ms, and exactly.
    pub fn cells(&self) -> [(String, u64); PERCENTILES.len()] {
        self.percentiles.map(|it| (format::ms(it), it))
    }
}

/// Name, class, share.
pub const PERCENTILES: [(&str, &str, f64); 4] = [
    ("P50", "p50", 0.5),
    ("P90", "p90", 0.9),
    ("P95", "p95", 0.95),
    ("P99", "p99", 0.99),
];

/// The percentiles of a sketch, ns; 0 if it is empty.
pub fn percentiles(latency: &Sketch) -> [u64; PERCENTILES.len()] {
    PERCENTILES.map(|(.., share)| latency.quantile(share).unwrap_or(0))
}

/// Points at most: more would be less than some ten pixels apart.
pub const POINTS_MAX: i32 = 72;

/// Draws what `minutes` of the `window` say, up to `now_minute` (what seems to come from later
/// stands in the last point).
pub fn draw(minutes: &BTreeMap<i32, MinuteDelta>, window: Minutes, now_minute: i32) -> LineChart {
    let slots = Slots::of(minutes, window, now_minute, POINTS_MAX);
    let points: Vec<Option<Point>> = slots
        .sums
        .iter()
        .enumerate()
        .map(|(slot, sum)| (sum.requests > 0).then(|| point(slots.start_ns(slot), sum)))
        .collect();
    let highest = points
        .iter()
        .flatten()
        .flat_map(|it| it.percentiles)
        .max()
        .unwrap_or(0);
    let axis = charts::duration_axis(highest);
    let line = |at: usize| Line {
        name: PERCENTILES[at].0,
        class: PERCENTILES[at].1,
        path: path(&points, |it| it.percentiles[at] as f64 / axis.top),
    };
    LineChart {
        lines: (0..PERCENTILES.len()).map(line).collect(),
        x: slots.x_labels(),
        y: axis.labels,
        points: points.into_iter().flatten().collect(),
        step: slots.step,
        from_ns: slots.start_ns(0),
        length_ns: slots.length_ns(),
        markers: Vec::new(),
        exemplars: Vec::new(),
        top_ns: axis.top,
    }
}

fn point(start_ns: u64, sum: &MinuteDelta) -> Point {
    Point {
        start_ns,
        requests: sum.requests,
        errors: sum.errors,
        percentiles: percentiles(&sum.latency),
    }
}

/// A point stands in the middle of its minutes. One without neighbours is drawn as long as its
/// minutes are, because a line of no length is not seen.
fn path(points: &[Option<Point>], share: impl Fn(&Point) -> f64) -> String {
    let width = 100.0 / points.len() as f64;
    let mut path = String::new();
    for (at, point) in points.iter().enumerate() {
        let Some(point) = point else { continue };
        let y = 100.0 - share(point).clamp(0.0, 1.0) * 100.0;
        let x = (at as f64 + 0.5) * width;
        let before = at.checked_sub(1).is_some_and(|it| points[it].is_some());
        let after = points.get(at + 1).is_some_and(Option::is_some);
        // Writing to a String cannot fail.
        let _ = match (before, after) {
            (false, false) => write!(path, "M{:.1} {y:.1}h{width:.1}", x - width / 2.0),
            (false, true) => write!(path, "M{x:.1} {y:.1}"),
            (true, _) => write!(path, "L{x:.1} {y:.1}"),
        };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Minutes = Minutes {
        from: 1_000,
        to: 1_070,
    };

    fn minutes(durations: &[(i32, u64)]) -> BTreeMap<i32, MinuteDelta> {
        let mut minutes: BTreeMap<i32, MinuteDelta> = BTreeMap::new();
        for (minute, ms) in durations {
            let sum = minutes.entry(*minute).or_default();
            sum.requests += 1;
            sum.latency.record(ms * 1_000_000, 1);
        }
        minutes
    }

    #[test]
    fn lines_are_interrupted_where_nothing_was_asked() {
        let chart = draw(
            &minutes(&[(1_000, 100), (1_001, 100), (1_030, 100)]),
            WINDOW,
            1_059,
        );
        assert_eq!(chart.step, 1);
        let p50 = &chart.lines[0].path;
        assert_eq!(p50.matches('M').count(), 2, "{p50}");
        assert!(p50.contains("h1.7"), "{p50}");
        assert_eq!(chart.points.len(), 3);
        assert_eq!(chart.y.first().map(String::as_str), Some("150 ms"));
        assert_eq!(
            (chart.x.len(), &*chart.x[0], &*chart.x[6]),
            (7, "16:40", "17:40")
        );
    }

    #[test]
    fn percentiles_come_from_merged_sketches() {
        let window = Minutes {
            from: 0,
            to: 24 * 60,
        };
        // 99 fast ones in a minute and a slow one in the next: together P50 is fast, P99 too, and
        // no mean of the minutes' percentiles says so.
        let mut durations = vec![(0, 10); 99];
        durations.push((1, 5_000));
        let chart = draw(&minutes(&durations), window, 24 * 60 - 1);
        assert_eq!(chart.step, 60);
        let point = &chart.points[0];
        assert_eq!(point.requests, 100);
        assert!(
            point
                .percentiles
                .iter()
                .all(|it| it.abs_diff(10_000_000) < 200_000),
            "{point:?}"
        );
    }

    /// Old minutes stand at their hour's first: a day without gaps is a line without gaps.
    #[test]
    fn hours_make_a_line() {
        let window = Minutes {
            from: 10_010,
            to: 10_010 + 24 * 60,
        };
        let mut hours = vec![(10_010, 7)];
        hours.extend((167..=190).map(|hour| (hour * 60, 7)));
        let chart = draw(&minutes(&hours), window, window.to - 1);
        assert_eq!(chart.lines[0].path.matches('M').count(), 1);
        assert!(chart.points.iter().all(|it| it.requests <= 2), "{chart:?}");
    }

    #[test]
    fn a_clock_ahead_of_ours_and_a_week_fit() {
        let chart = draw(&minutes(&[(1_069, 5)]), WINDOW, 1_059);
        assert_eq!(chart.points[0].start_ns, minute_ns(1_059));
        let week = Minutes {
            from: 20_000,
            to: 20_000 + 7 * 24 * 60 + 10,
        };
        let chart = draw(&BTreeMap::new(), week, week.to - 11);
        assert_eq!(
            (chart.step, chart.points.len(), &*chart.x[0]),
            (360, 0, "14 Jan")
        );
        assert!(chart.lines.iter().all(|it| it.path.is_empty()));
        draw(&BTreeMap::new(), Minutes { from: 5, to: 5 }, 0);
    }

    fn moment(minute: i32, label: &str) -> Moment {
        Moment {
            at_ns: minute_ns(minute),
            label: label.into(),
            title: format!("{label} since {minute}"),
            href: format!("/{minute}"),
            is_bad: minute == 1_031,
        }
    }

    #[test]
    fn moments_are_marked_where_they_are_and_labels_do_not_overlap() {
        let mut chart = draw(&minutes(&[(1_010, 100)]), WINDOW, 1_069);
        let at = [999, 1_000, 1_030, 1_031, 1_033, 1_035, 1_037, 1_069, 1_080];
        chart.mark(at.map(|it| moment(it, "1.0.0-rc1")).to_vec());
        let shown: Vec<_> = chart
            .markers
            .iter()
            .map(|it| (&*it.x, &*it.label, it.y, it.is_left))
            .collect();
        assert_eq!(
            shown,
            [
                ("0.00%", "1.0.0-rc1", 12, false),
                ("42.86%", "1.0.0-rc1", 12, false),
                ("44.29%", "1.0.0-rc1", 25, false),
                ("47.14%", "1.0.0-rc1", 38, false),
                ("50.00%", "", 12, false),
                ("52.86%", "", 12, false),
                ("98.57%", "1.0.0-rc1", 12, true),
            ]
        );
        assert!(chart.markers[2].is_bad());
    }

    #[test]
    fn real_requests_stand_where_they_were_and_in_their_minute() {
        let mut chart = draw(&minutes(&[(1_010, 100), (1_020, 100)]), WINDOW, 1_069);
        let request = |minute: i32, ms: u64| Request {
            start_ns: minute_ns(minute) + 1,
            duration_ns: ms * 1_000_000,
            error: ms > 100,
            is_slow: ms > 75,
            href: format!("/traces/{minute}"),
        };
        chart.show_requests(vec![
            request(1_020, 300),
            request(1_010, 75),
            request(999, 1),
            request(1_070, 1),
        ]);
        let dots: Vec<_> = chart
            .exemplars
            .iter()
            .map(|it| (&*it.x, &*it.y, it.is_beyond, it.short(), it.title()))
            .collect();
        assert_eq!(
            dots,
            [
                (
                    "14.29%",
                    "50.00%",
                    false,
                    "ordinary 75 ms".into(),
                    "16:50:00 UTC: an ordinary request, 75 ms".into()
                ),
                (
                    "28.57%",
                    "0.00%",
                    true,
                    "slow 300 ms".into(),
                    "17:00:00 UTC: a slow request, 300 ms, failed".into()
                ),
            ]
        );
        let of: Vec<usize> = chart
            .points
            .iter()
            .map(|it| chart.exemplars_of(it).count())
            .collect();
        assert_eq!(of, [1, 1]);
    }

    #[test]
    fn moments_that_are_nearly_one_share_a_line() {
        let mut chart = LineChart {
            from_ns: 0,
            length_ns: minute_ns(10_000),
            ..LineChart::default()
        };
        let hundred =
            (1_000..1_100).map(|it| moment(it, "a version that is longer than all others"));
        chart.mark(hundred.collect());
        let [marker] = chart.markers.as_slice() else {
            panic!("{:?}", chart.markers);
        };
        assert_eq!(marker.label, "a version that i… +98");
        assert_eq!(
            (marker.href(), marker.title().lines().count()),
            ("/1031", 100)
        );
    }
}
