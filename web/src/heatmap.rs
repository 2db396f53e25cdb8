//! Latency as a heat map: when (columns) × how long (rows) → how many requests. Percentiles hide that there are two
//! kinds of requests, a cache's hits and its misses; here they are two bands.

use analyzer::sketch::Sketch;

use crate::format;
use crate::slots::Slots;

/// A heat map, ready for the template. Positions and sizes are percentages of the drawing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Heatmap {
    /// Only those with requests.
    pub cells: Vec<Cell>,
    /// Durations at the left edge, from top to bottom, evenly spaced.
    pub y: Vec<String>,
    /// Labels of the x axis from left to right, evenly spaced.
    pub x: Vec<String>,
    /// Requests of the fullest cell.
    pub most: i64,
    /// Every cell's width and height: `2.08%`, `6.25%`.
    pub size: (String, String),
    /// When it begins, ns since the epoch.
    pub from_ns: u64,
    /// How long it is, ns.
    pub length_ns: u64,
}

/// Requests that began in some minutes and took about as long.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// Left edge: `12.50%`.
    pub x: String,
    /// Upper edge: `12.50%`.
    pub y: String,
    /// How full, 1 to [`LEVELS`]: the style sheet's class `h1` and so on.
    pub level: usize,
    /// `14:05, 120 ms to 170 ms: 37 requests`.
    pub title: String,
    /// Which requests these are: start and duration, as parameters of the list of traces.
    pub filter: String,
}

/// Shades: more could not be told apart.
pub const LEVELS: usize = 5;

/// Rows at most. More would be thinner than a finger, and each cell is a link.
const ROWS_MAX: u16 = 16;

/// Columns at most: 16 × 48 cells of some 200 bytes are 150 kB if all are full, which no latency is.
pub const COLUMNS_MAX: i32 = 48;

/// Labels at the left.
const Y_LABELS: u16 = 5;

/// Bins of a sketch in a row: powers of two, so that rows keep their places while time goes on.
const BINS_PER_ROW: [u16; 8] = [4, 8, 16, 32, 64, 128, 256, 512];

/// Draws the latencies of `slots`.
pub fn draw(slots: &Slots) -> Heatmap {
    let mut whole = Sketch::default();
    for sum in &slots.sums {
        whole.merge(&sum.latency);
    }
    let full = |it: &&(u16, i64)| it.1 > 0;
    let bins = whole.bins();
    let (Some(first), Some(last)) = (bins.iter().find(full), bins.iter().rev().find(full)) else {
        return Default::default();
    };
    let rows_of = |per_row: u16| (first.0 / per_row, last.0 / per_row);
    let per_row = BINS_PER_ROW
        .into_iter()
        .find(|it| rows_of(*it).1 - rows_of(*it).0 < ROWS_MAX)
        .unwrap_or(BINS_PER_ROW[BINS_PER_ROW.len() - 1]);
    let (lowest, highest) = rows_of(per_row);
    let rows = highest - lowest + 1;
    let edge_ns = |row: u16| Sketch::edges_ns(row.saturating_mul(per_row)).0;
    let mut counts: Vec<(usize, u16, i64)> = Vec::new();
    for (column, sum) in slots.sums.iter().enumerate() {
        for &(bin, count) in sum.latency.bins().iter().filter(full) {
            let row = bin / per_row;
            match counts.last_mut() {
                Some(last) if (last.0, last.1) == (column, row) => last.2 += count,
                _ => counts.push((column, row, count)),
            }
        }
    }
    let most = counts.iter().map(|it| it.2).max().unwrap_or(1);
    let columns = slots.sums.len();
    let cell = |&(column, row, count): &(usize, u16, i64)| {
        let (from_ns, to_ns) = (edge_ns(row), edge_ns(row + 1));
        let (start_ns, end_ns) = (slots.start_ns(column), slots.start_ns(column + 1));
        Cell {
            x: format::width(column as f64 / columns as f64),
            y: format::width(f64::from(highest - row) / f64::from(rows)),
            level: level(count, most),
            title: format!(
                "{} UTC, {} to {}: {} {}",
                format::day_and_minute(start_ns),
                format::duration(from_ns),
                format::duration(to_ns),
                format::count(count),
                if count == 1 { "request" } else { "requests" },
            ),
            // Both ends belong to the filter of durations.
            filter: format!(
                "from={start_ns}&until={end_ns}&min={from_ns}ns&max={}ns",
                to_ns.saturating_sub(1).max(from_ns)
            ),
        }
    };
    let label = |at: u16| {
        let bin = u32::from(highest + 1) * u32::from(per_row)
            - u32::from(rows) * u32::from(per_row) * u32::from(at) / u32::from(Y_LABELS - 1);
        format::duration(Sketch::edges_ns(bin.min(u32::from(u16::MAX)) as u16).0)
    };
    Heatmap {
        cells: counts.iter().map(cell).collect(),
        y: (0..Y_LABELS).map(label).collect(),
        x: slots.x_labels(),
        most,
        size: (
            format::width(1.0 / columns as f64),
            format::width(1.0 / f64::from(rows)),
        ),
        from_ns: slots.start_ns(0),
        length_ns: slots.length_ns(),
    }
}

/// By the logarithm: one slow request beside a thousand fast ones has to be seen.
fn level(count: i64, most: i64) -> usize {
    let share = (count.max(1) as f64).ln_1p() / (most.max(1) as f64).ln_1p();
    ((share * LEVELS as f64).ceil() as usize).clamp(1, LEVELS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::deltas::MinuteDelta;
    use collector::store::bottlenecks::Minutes;
    use std::collections::BTreeMap;

    fn slots(requests: &[(i32, u64, i64)]) -> Slots {
        let mut minutes: BTreeMap<i32, MinuteDelta> = BTreeMap::new();
        for (minute, ms, count) in requests {
            let sum = minutes.entry(*minute).or_default();
            sum.requests += count;
            sum.latency.record(ms * 1_000_000, *count);
        }
        let window = Minutes {
            from: 1_000,
            to: 1_070,
        };
        Slots::of(&minutes, window, 1_039, COLUMNS_MAX)
    }

    #[test]
    fn every_request_is_in_a_cell_and_two_kinds_are_two_bands() {
        let map = draw(&slots(&[
            (1_000, 5, 900),
            (1_000, 80, 100),
            (1_039, 5, 9),
            (1_039, 80, 1),
        ]));
        assert_eq!(map.cells.len(), 4);
        assert_eq!(map.most, 900);
        let columns: Vec<&str> = map.cells.iter().map(|it| it.x.as_str()).collect();
        assert_eq!(columns, ["0.00%", "0.00%", "97.50%", "97.50%"]);
        // Slower is higher.
        let y = |at: usize| {
            map.cells[at]
                .y
                .trim_end_matches('%')
                .parse::<f64>()
                .unwrap()
        };
        assert!(y(1) < y(0) && y(3) < y(2), "{map:?}");
        assert_eq!(map.cells[0].level, LEVELS);
        assert_eq!(map.cells[3].level, 1);
        assert!(
            map.cells[3].title.ends_with(": 1 request"),
            "{}",
            map.cells[3].title
        );
    }

    #[test]
    fn a_cell_leads_to_its_requests() {
        let map = draw(&slots(&[(1_001, 80, 2)]));
        let filter = &map.cells[0].filter;
        let value = |key: &str| {
            let (_, rest) = filter.split_once(&format!("{key}=")).unwrap();
            let text = rest.split('&').next().unwrap();
            text.trim_end_matches("ns").parse::<u64>().unwrap()
        };
        assert_eq!(
            (value("from"), value("until")),
            (60_060_000_000_000, 60_120_000_000_000)
        );
        assert!(
            value("min") <= 80_000_000 && 80_000_000 <= value("max"),
            "{filter}"
        );
    }

    #[test]
    fn nothing_and_everything_fit() {
        assert_eq!(draw(&slots(&[])), Heatmap::default());
        let map = draw(&slots(&[(1_000, 0, 1), (1_000, u64::MAX / 1_000_000, 1)]));
        assert_eq!(map.cells.len(), 2);
        assert_eq!(map.y.len(), usize::from(Y_LABELS));
    }
}
