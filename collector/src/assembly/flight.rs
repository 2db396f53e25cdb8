//! Traces in flight: which spans of which journal rows belong to which open trace.
//!
//! Holds positions and compressed rows, never decoded spans: 8 bytes a span and some 80 a trace.

use analyzer::span::TraceId;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// When an open trace is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idle {
    /// A trace is final when no span of it has arrived for this long. SDKs flush every five
    /// seconds, each process at its own time.
    pub idle_after: Duration,
    /// A trace that looks complete may be final this early.
    pub early_after: Duration,
    /// A trace that never rests is looked at after this long all the same.
    pub age_max: Duration,
    /// A journal row is held this long before what is still open of it is carried on.
    pub carry_after: Duration,
}

impl Default for Idle {
    fn default() -> Self {
        Idle {
            idle_after: Duration::from_secs(8),
            early_after: Duration::from_secs(1),
            age_max: Duration::from_secs(120),
            carry_after: Duration::from_secs(10),
        }
    }
}

/// A trace that comes again and again waits twice as long each time, up to this many doublings
/// (8 s → 68 min): re-analysing a growing trace must not cost the square of its size.
const DOUBLINGS_MAX: u8 = 9;

/// Traces whose growth is remembered. At the bound all are forgotten: they are analysed sooner
/// than they would be, which costs time and nothing else.
const GROWING_MAX: usize = 20_000;

/// A span's place: the row, and its position in the row in order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The row.
    pub row: u32,
    /// Position in it.
    pub at: u32,
}

/// A journal row that holds spans of open traces.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row's id in the journal.
    pub id: Uuid,
    /// zstd of OTLP.
    pub payload: Bytes,
    /// Spans in it.
    pub spans: u32,
    /// Spans of open traces in it.
    pub open: u32,
    since: Instant,
    suspect: bool,
}

/// A trace to look at now.
#[derive(Clone, Debug)]
pub struct Due {
    /// The trace.
    pub trace_id: TraceId,
    /// Its spans.
    pub places: Vec<Place>,
    /// It is early: finalise it only if it looks complete.
    pub early: bool,
    /// A row of it was read several times and never consumed: its analysis may end the process.
    pub suspect: bool,
}

#[derive(Debug)]
struct Open {
    first: Instant,
    last: Instant,
    /// It looked incomplete when it was early; not tried again before more comes or it is idle.
    tried: bool,
    doublings: u8,
    suspect: bool,
    places: Vec<Place>,
}

/// Everything a shard's owner holds.
#[derive(Debug, Default)]
pub struct Flight {
    rows: HashMap<u32, Row>,
    next_row: u32,
    traces: HashMap<TraceId, Open>,
    growing: HashMap<TraceId, u8>,
    bytes: usize,
    spans: usize,
}

impl Flight {
    /// Takes a row in. Spans of traces in `skip` count as final at once.
    pub fn add(
        &mut self,
        (id, payload): (Uuid, Bytes),
        trace_ids: &[TraceId],
        suspect: bool,
        skip: &HashSet<TraceId>,
        now: Instant,
    ) -> u32 {
        let row = self.next_row;
        self.next_row = self.next_row.wrapping_add(1);
        let mut open = 0;
        for (at, trace_id) in trace_ids.iter().enumerate() {
            if skip.contains(trace_id) {
                continue;
            }
            let doublings = self.growing.get(trace_id).copied().unwrap_or_default();
            let trace = self.traces.entry(*trace_id).or_insert_with(|| Open {
                first: now,
                last: now,
                tried: false,
                doublings,
                suspect: false,
                places: Vec::new(),
            });
            trace.last = now;
            trace.tried = false;
            trace.suspect |= suspect;
            trace.places.push(Place { row, at: at as u32 });
            open += 1;
        }
        self.bytes += payload.len();
        self.spans += open as usize;
        let spans = trace_ids.len() as u32;
        self.rows.insert(
            row,
            Row {
                id,
                payload,
                spans,
                open,
                since: now,
                suspect,
            },
        );
        row
    }

    /// The journal rows held.
    pub fn held(&self) -> Vec<Uuid> {
        self.rows.values().map(|row| row.id).collect()
    }

    /// Compressed bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Spans of open traces.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// Open traces.
    pub fn traces(&self) -> usize {
        self.traces.len()
    }

    /// A row that is held.
    pub fn row(&self, row: u32) -> Option<&Row> {
        self.rows.get(&row)
    }

    /// The traces to look at now, longest idle first, up to about `spans_max` spans. A suspect
    /// comes alone, and never early. `pressed`: too much is held, so growing traces wait no longer
    /// than others, and every trace that is not quite new is due.
    pub fn due(&self, now: Instant, idle: &Idle, spans_max: usize, pressed: bool) -> Vec<Due> {
        let mut due: Vec<(&TraceId, &Open, bool)> = Vec::new();
        for (trace_id, open) in &self.traces {
            let waited = now.saturating_duration_since(open.last);
            let patience = if pressed { 1 } else { 1 << open.doublings };
            let age = now.saturating_duration_since(open.first);
            let age_max = if pressed {
                idle.idle_after
            } else {
                idle.age_max * patience
            };
            let early = waited < idle.idle_after * patience && age < age_max;
            let may_be_early =
                !open.tried && !open.suspect && open.doublings == 0 && waited >= idle.early_after;
            if !early || may_be_early {
                due.push((trace_id, open, early));
            }
        }
        due.sort_unstable_by_key(|(trace_id, open, _)| (open.last, **trace_id));
        if let Some(suspect) = due.iter().position(|(_, open, _)| open.suspect) {
            due = vec![due[suspect]];
        }
        let mut spans = 0;
        let fits = due.into_iter().take_while(|(_, open, _)| {
            let fits = spans < spans_max;
            spans += open.places.len();
            fits
        });
        let fits = fits.map(|(trace_id, open, early)| Due {
            trace_id: *trace_id,
            places: open.places.clone(),
            early,
            suspect: open.suspect,
        });
        fits.collect()
    }

    /// An early trace looked incomplete: wait until it is idle.
    pub fn wait(&mut self, trace_id: TraceId) {
        if let Some(open) = self.traces.get_mut(&trace_id) {
            open.tried = true;
        }
    }

    /// The trace was stored before and has grown: look at it more rarely.
    pub fn has_grown(&mut self, trace_id: TraceId) {
        if self.growing.len() >= GROWING_MAX {
            self.growing.clear();
        }
        let doublings = self.growing.entry(trace_id).or_default();
        *doublings = (*doublings + 1).min(DOUBLINGS_MAX);
    }

    /// The trace is final: its spans are open no more.
    pub fn finish(&mut self, trace_id: TraceId) {
        let Some(open) = self.traces.remove(&trace_id) else {
            return;
        };
        self.spans -= open.places.len();
        for place in open.places {
            if let Some(row) = self.rows.get_mut(&place.row) {
                row.open -= 1;
            }
        }
    }

    /// Lets go of the rows in which nothing is open; they are to be consumed.
    pub fn take_finished_rows(&mut self) -> Vec<Uuid> {
        let finished: Vec<u32> = self
            .rows
            .iter()
            .filter(|(_, row)| row.open == 0)
            .map(|(at, _)| *at)
            .collect();
        finished
            .into_iter()
            .filter_map(|at| self.remove(at))
            .map(|row| row.id)
            .collect()
    }

    /// Rows held for long, at most half of which is still open, with the open positions in
    /// ascending order: to be rewritten as one. Carrying at half bounds the work to twice the spans.
    pub fn rows_to_carry(
        &self,
        now: Instant,
        idle: &Idle,
        rows_max: usize,
    ) -> Vec<(u32, Vec<u32>)> {
        let mut old: HashMap<u32, Vec<u32>> = self
            .rows
            .iter()
            .filter(|(_, row)| {
                let held = now.saturating_duration_since(row.since);
                // A suspect row keeps its counter of readings: it is not rewritten.
                held >= idle.carry_after
                    && row.open * 2 <= row.spans
                    && row.open > 0
                    && !row.suspect
            })
            .take(rows_max)
            .map(|(at, _)| (*at, Vec::new()))
            .collect();
        if old.is_empty() {
            return Vec::new();
        }
        for place in self.traces.values().flat_map(|open| &open.places) {
            if let Some(positions) = old.get_mut(&place.row) {
                positions.push(place.at);
            }
        }
        let mut old: Vec<_> = old.into_iter().collect();
        old.iter_mut()
            .for_each(|(_, positions)| positions.sort_unstable());
        old.sort_unstable();
        old
    }

    /// Replaces `sources` (as [`Flight::rows_to_carry`] gave them) by one row that holds their open
    /// spans in the same order; returns the journal ids to consume.
    pub fn carry(
        &mut self,
        sources: &[(u32, Vec<u32>)],
        (id, payload): (Uuid, Bytes),
        now: Instant,
    ) -> Vec<Uuid> {
        let row = self.next_row;
        self.next_row = self.next_row.wrapping_add(1);
        let mut moved: HashMap<Place, Place> = HashMap::new();
        for (source, positions) in sources {
            for at in positions {
                let to = Place {
                    row,
                    at: moved.len() as u32,
                };
                moved.insert(
                    Place {
                        row: *source,
                        at: *at,
                    },
                    to,
                );
            }
        }
        for open in self.traces.values_mut() {
            for place in &mut open.places {
                if let Some(to) = moved.get(place) {
                    *place = *to;
                }
            }
        }
        let spans = moved.len() as u32;
        self.bytes += payload.len();
        self.rows.insert(
            row,
            Row {
                id,
                payload,
                spans,
                open: spans,
                since: now,
                suspect: false,
            },
        );
        sources
            .iter()
            .filter_map(|(at, _)| self.remove(*at))
            .map(|row| row.id)
            .collect()
    }

    fn remove(&mut self, row: u32) -> Option<Row> {
        let row = self.rows.remove(&row)?;
        self.bytes -= row.payload.len();
        Some(row)
    }
}

impl std::hash::Hash for Place {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.row) << 32 | u64::from(self.at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[TraceId] = &[];

    fn trace(number: u8) -> TraceId {
        TraceId([number; 16])
    }

    fn row(number: u128) -> (Uuid, Bytes) {
        (Uuid::from_u128(number), Bytes::from_static(b"zstd"))
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn due(flight: &Flight, now: Instant) -> Vec<(TraceId, bool, usize)> {
        let due = flight.due(now, &Idle::default(), 1_000, false);
        due.into_iter()
            .map(|it| (it.trace_id, it.early, it.places.len()))
            .collect()
    }

    #[test]
    fn a_trace_is_tried_early_once_and_due_when_idle() {
        let start = Instant::now();
        let skip = NONE.iter().copied().collect();
        let mut flight = Flight::default();
        flight.add(row(1), &[trace(1), trace(2), trace(1)], false, &skip, start);
        assert_eq!(due(&flight, start), []);
        assert_eq!(
            due(&flight, after(start, 1)),
            [(trace(1), true, 2), (trace(2), true, 1)]
        );
        flight.wait(trace(1));
        assert_eq!(due(&flight, after(start, 7)), [(trace(2), true, 1)]);
        // Another span of it: it may have become complete.
        flight.add(row(2), &[trace(1)], false, &skip, after(start, 7));
        assert_eq!(
            due(&flight, after(start, 8)),
            [(trace(2), false, 1), (trace(1), true, 3)]
        );
    }

    #[test]
    fn a_row_is_consumed_when_all_its_traces_are_final() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.add(row(1), &[trace(1), trace(2)], false, &HashSet::new(), start);
        flight.finish(trace(1));
        assert!(flight.take_finished_rows().is_empty());
        flight.finish(trace(2));
        assert_eq!(flight.take_finished_rows(), [Uuid::from_u128(1)]);
        assert_eq!((flight.bytes(), flight.traces()), (0, 0));
    }

    #[test]
    fn what_is_open_of_an_old_row_is_carried_on() {
        let start = Instant::now();
        let mut flight = Flight::default();
        let slow = trace(9);
        flight.add(
            row(1),
            &[trace(1), slow, trace(1)],
            false,
            &HashSet::new(),
            start,
        );
        flight.add(
            row(2),
            &[slow, trace(2), trace(2)],
            false,
            &HashSet::new(),
            start,
        );
        flight.finish(trace(1));
        flight.finish(trace(2));
        let idle = Idle::default();
        assert_eq!(flight.rows_to_carry(after(start, 9), &idle, 16), []);
        let sources = flight.rows_to_carry(after(start, 10), &idle, 16);
        assert_eq!(sources, [(0, vec![1]), (1, vec![0])]);
        let mut consumed = flight.carry(&sources, row(3), after(start, 10));
        consumed.sort_unstable();
        assert_eq!(consumed, [Uuid::from_u128(1), Uuid::from_u128(2)]);
        let due = flight.due(after(start, 20), &idle, 100, false);
        assert_eq!(
            due[0].places,
            [Place { row: 2, at: 0 }, Place { row: 2, at: 1 }]
        );
        flight.finish(slow);
        assert_eq!(flight.take_finished_rows(), [Uuid::from_u128(3)]);
    }

    #[test]
    fn a_suspect_comes_alone() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.add(row(1), &[trace(1), trace(2)], false, &HashSet::new(), start);
        flight.add(row(2), &[trace(3)], true, &HashSet::new(), start);
        assert_eq!(due(&flight, after(start, 9)), [(trace(3), false, 1)]);
    }

    #[test]
    fn traces_in_quarantine_are_not_opened_again() {
        let start = Instant::now();
        let mut flight = Flight::default();
        let skip = [trace(1)].into_iter().collect();
        flight.add(row(1), &[trace(1)], true, &skip, start);
        assert_eq!(flight.traces(), 0);
        assert_eq!(flight.take_finished_rows(), [Uuid::from_u128(1)]);
    }

    #[test]
    fn a_trace_that_never_rests_is_due_at_last_and_sooner_under_pressure() {
        let start = Instant::now();
        let mut flight = Flight::default();
        for second in 0..120 {
            let now = after(start, second);
            flight.add(row(second.into()), &[trace(1)], false, &HashSet::new(), now);
            flight.wait(trace(1));
            assert_eq!(due(&flight, now), []);
        }
        assert_eq!(due(&flight, after(start, 120)), [(trace(1), false, 120)]);
        assert_eq!(
            flight
                .due(after(start, 9), &Idle::default(), 1_000, true)
                .len(),
            1
        );
    }

    #[test]
    fn a_growing_trace_waits_twice_as_long_each_time() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.has_grown(trace(1));
        flight.add(row(1), &[trace(1)], false, &HashSet::new(), start);
        assert_eq!(due(&flight, after(start, 15)), []);
        assert_eq!(due(&flight, after(start, 16)), [(trace(1), false, 1)]);
    }
}
