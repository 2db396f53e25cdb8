//! Traces in flight: which spans of which journal rows belong to which open trace.
//!
//! Holds heads, positions and compressed rows, never decoded spans: 32 bytes a span and some 100 a
//! trace.

use analyzer::span::TraceId;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::completeness::Callees;
use crate::otlp::Head;

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

/// A journal row that was read.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The row's id in the journal.
    pub id: Uuid,
    /// zstd of OTLP.
    pub payload: Bytes,
    /// Its bytes when unpacked.
    pub raw_bytes: usize,
}

/// A journal row that holds spans of open traces.
#[derive(Clone, Debug)]
pub struct Row {
    /// As it arrived.
    pub arrived: Arrived,
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
    spans: Vec<Held>,
}

/// A span of an open trace.
#[derive(Clone, Copy, Debug)]
struct Held {
    place: Place,
    head: Head,
}

/// Trace ids are drawn by strangers: the maps' hashers are seeded, and quicker than SipHash.
type Traces<T> = HashMap<TraceId, T, foldhash::fast::RandomState>;

/// Everything a shard's owner holds.
#[derive(Debug, Default)]
pub struct Flight {
    rows: HashMap<u32, Row, foldhash::fast::RandomState>,
    next_row: u32,
    traces: Traces<Open>,
    growing: Traces<u8>,
    bytes: usize,
    spans: usize,
}

impl Flight {
    /// Takes a row in. Spans of traces in `skip` count as final at once.
    pub fn add(
        &mut self,
        arrived: Arrived,
        heads: &[(TraceId, Head)],
        suspect: bool,
        skip: &HashSet<TraceId>,
        now: Instant,
    ) -> u32 {
        let row = self.next_row;
        self.next_row = self.next_row.wrapping_add(1);
        let mut open = 0;
        let mut at = 0;
        // Spans of a trace often stand together: one look for all of them.
        for run in heads.chunk_by(|a, b| a.0 == b.0) {
            let (trace_id, first) = (run[0].0, at);
            at += run.len() as u32;
            if skip.contains(&trace_id) {
                continue;
            }
            let growing = &self.growing;
            let trace = self.traces.entry(trace_id).or_insert_with(|| Open {
                first: now,
                last: now,
                tried: false,
                doublings: growing.get(&trace_id).copied().unwrap_or_default(),
                suspect: false,
                spans: Vec::with_capacity(run.len()),
            });
            trace.last = now;
            trace.tried = false;
            trace.suspect |= suspect;
            let held = run.iter().zip(first..).map(|((_, head), at)| Held {
                place: Place { row, at },
                head: *head,
            });
            trace.spans.extend(held);
            open += run.len() as u32;
        }
        self.bytes += arrived.payload.len();
        self.spans += open as usize;
        let spans = heads.len() as u32;
        self.rows.insert(
            row,
            Row {
                arrived,
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
        self.rows.values().map(|it| it.arrived.id).collect()
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

    /// The traces to look at now, longest idle first, up to about `spans_max` spans in rows of about
    /// `bytes_max` raw bytes: those that are idle, and those that look complete. A suspect comes alone, and never early. `pressed`: too
    /// much is held, so growing traces wait no longer than others, and every trace that is not quite
    /// new is due. Also says whether there are more than the bounds let through.
    pub fn due(
        &mut self,
        now: Instant,
        idle: &Idle,
        callees: &Callees,
        (spans_max, bytes_max): (usize, usize),
        pressed: bool,
    ) -> (Vec<Due>, bool) {
        let mut due: Vec<(Instant, TraceId)> = Vec::new();
        let mut suspect = None;
        for (trace_id, open) in &mut self.traces {
            if !open.is_due(now, idle, callees, pressed) {
                continue;
            }
            if open.suspect {
                suspect = suspect.max(Some((open.last, *trace_id)));
            }
            due.push((open.last, *trace_id));
        }
        due.sort_unstable();
        let all = due.len();
        if let Some(suspect) = suspect {
            due = vec![suspect];
        }
        let (mut spans, mut bytes) = (0, 0);
        let mut rows = HashSet::with_hasher(foldhash::fast::RandomState::default());
        let mut chosen = Vec::new();
        for (_, trace_id) in due {
            let Some(open) = self.traces.get(&trace_id) else {
                continue;
            };
            if spans >= spans_max || bytes >= bytes_max {
                break;
            }
            spans += open.spans.len();
            for run in open.spans.chunk_by(|a, b| a.place.row == b.place.row) {
                let row = run[0].place.row;
                if rows.insert(row) {
                    bytes += self.rows.get(&row).map_or(0, |it| it.arrived.raw_bytes);
                }
            }
            chosen.push(Due {
                trace_id,
                places: open.spans.iter().map(|it| it.place).collect(),
                suspect: open.suspect,
            });
        }
        let more = chosen.len() < all;
        (chosen, more)
    }

    /// The trace was stored before and has grown: look at it more rarely.
    pub fn has_grown(&mut self, trace_id: TraceId) {
        if self.growing.len() >= GROWING_MAX {
            self.growing.clear();
        }
        let doublings = self.growing.entry(trace_id).or_default();
        *doublings = (*doublings + 1).min(DOUBLINGS_MAX);
    }

    /// The trace is final: its spans are open no more. Returns their heads.
    pub fn finish(&mut self, trace_id: TraceId) -> Vec<Head> {
        let Some(open) = self.traces.remove(&trace_id) else {
            return Vec::new();
        };
        self.spans -= open.spans.len();
        for run in open.spans.chunk_by(|a, b| a.place.row == b.place.row) {
            if let Some(row) = self.rows.get_mut(&run[0].place.row) {
                row.open -= run.len() as u32;
            }
        }
        open.spans.into_iter().map(|it| it.head).collect()
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
            .map(|it| it.arrived.id)
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
        let mut old: HashMap<u32, Vec<u32>, foldhash::fast::RandomState> = self
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
        // A trace's spans in a row stand together: one look for all of them.
        for open in self.traces.values() {
            for run in open.spans.chunk_by(|a, b| a.place.row == b.place.row) {
                if let Some(positions) = old.get_mut(&run[0].place.row) {
                    positions.extend(run.iter().map(|it| it.place.at));
                }
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
        arrived: Arrived,
        now: Instant,
    ) -> Vec<Uuid> {
        let row = self.next_row;
        self.next_row = self.next_row.wrapping_add(1);
        // Where the positions of each source begin in the new row.
        let mut begins = HashMap::with_hasher(foldhash::fast::RandomState::default());
        let mut spans = 0;
        for (source, positions) in sources {
            begins.insert(*source, (spans, positions));
            spans += positions.len() as u32;
        }
        for open in self.traces.values_mut() {
            for run in open.spans.chunk_by_mut(|a, b| a.place.row == b.place.row) {
                let Some((begin, positions)) = begins.get(&run[0].place.row) else {
                    continue;
                };
                for held in run {
                    if let Ok(at) = positions.binary_search(&held.place.at) {
                        held.place = Place {
                            row,
                            at: begin + at as u32,
                        };
                    }
                }
            }
        }
        self.bytes += arrived.payload.len();
        self.rows.insert(
            row,
            Row {
                arrived,
                spans,
                open: spans,
                since: now,
                suspect: false,
            },
        );
        sources
            .iter()
            .filter_map(|(at, _)| self.remove(*at))
            .map(|it| it.arrived.id)
            .collect()
    }

    fn remove(&mut self, row: u32) -> Option<Row> {
        let row = self.rows.remove(&row)?;
        self.bytes -= row.arrived.payload.len();
        Some(row)
    }
}

impl Open {
    /// To be looked at now. One that looked incomplete is not asked again before more of it comes.
    fn is_due(&mut self, now: Instant, idle: &Idle, callees: &Callees, pressed: bool) -> bool {
        let waited = now.saturating_duration_since(self.last);
        let age = now.saturating_duration_since(self.first);
        let patience = if pressed { 1 } else { 1 << self.doublings };
        let age_max = if pressed {
            idle.idle_after
        } else {
            idle.age_max * patience
        };
        if waited >= idle.idle_after * patience || age >= age_max {
            return true;
        }
        if self.tried || self.suspect || self.doublings > 0 || waited < idle.early_after {
            return false;
        }
        self.tried = !callees.is_complete(self.spans.iter().map(|it| &it.head));
        !self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(number: u8) -> TraceId {
        TraceId([number; 16])
    }

    fn row(number: u128) -> Arrived {
        Arrived {
            id: Uuid::from_u128(number),
            payload: Bytes::from_static(b"zstd"),
            raw_bytes: 100,
        }
    }

    const ALL: (usize, usize) = (1_000, 1_000_000);

    /// Spans of these traces that wait for a parent.
    fn spans(traces: &[u8]) -> Vec<(TraceId, Head)> {
        let head = Head {
            id: 2,
            parent: 1,
            ..Head::default()
        };
        traces.iter().map(|it| (trace(*it), head)).collect()
    }

    fn root(of: u8) -> Vec<(TraceId, Head)> {
        let head = Head {
            id: 1,
            ..Head::default()
        };
        vec![(trace(of), head)]
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    impl Flight {
        fn take(&mut self, id: u128, spans: &[(TraceId, Head)], now: Instant) {
            self.add(row(id), spans, false, &HashSet::new(), now);
        }

        fn due_now(&mut self, now: Instant) -> Vec<(TraceId, usize)> {
            let due = self.due(now, &Idle::default(), &Callees::default(), ALL, false);
            due.0
                .into_iter()
                .map(|it| (it.trace_id, it.places.len()))
                .collect()
        }
    }

    #[test]
    fn a_trace_is_due_when_it_looks_complete_or_is_idle() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.take(1, &[spans(&[1]), root(2), spans(&[1])].concat(), start);
        assert_eq!(flight.due_now(start), []);
        assert_eq!(flight.due_now(after(start, 1)), [(trace(2), 1)]);
        assert_eq!(
            flight.due_now(after(start, 8)),
            [(trace(1), 2), (trace(2), 1)]
        );
        // What it waited for.
        flight.take(2, &root(1), after(start, 7));
        assert_eq!(flight.due_now(after(start, 7)), [(trace(2), 1)]);
        assert_eq!(
            flight.due_now(after(start, 8)),
            [(trace(2), 1), (trace(1), 3)]
        );
    }

    #[test]
    fn a_row_is_consumed_when_all_its_traces_are_final() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.take(1, &spans(&[1, 2]), start);
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
        flight.take(1, &spans(&[1, 9, 1]), start);
        flight.take(2, &spans(&[9, 2, 2]), start);
        flight.finish(trace(1));
        flight.finish(trace(2));
        let idle = Idle::default();
        assert_eq!(flight.rows_to_carry(after(start, 9), &idle, 16), []);
        let sources = flight.rows_to_carry(after(start, 10), &idle, 16);
        assert_eq!(sources, [(0, vec![1]), (1, vec![0])]);
        let mut consumed = flight.carry(&sources, row(3), after(start, 10));
        consumed.sort_unstable();
        assert_eq!(consumed, [Uuid::from_u128(1), Uuid::from_u128(2)]);
        let (due, _) = flight.due(after(start, 20), &idle, &Callees::default(), ALL, false);
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
        flight.take(1, &spans(&[1, 2]), start);
        flight.add(row(2), &root(3), true, &HashSet::new(), start);
        assert_eq!(flight.due_now(after(start, 9)), [(trace(3), 1)]);
    }

    #[test]
    fn traces_in_quarantine_are_not_opened_again() {
        let start = Instant::now();
        let mut flight = Flight::default();
        let skip = [trace(1)].into_iter().collect();
        flight.add(row(1), &spans(&[1]), true, &skip, start);
        assert_eq!(flight.traces(), 0);
        assert_eq!(flight.take_finished_rows(), [Uuid::from_u128(1)]);
    }

    #[test]
    fn a_trace_that_never_rests_is_due_at_last_and_sooner_under_pressure() {
        let start = Instant::now();
        let mut flight = Flight::default();
        for second in 0..120 {
            let now = after(start, second);
            flight.take(second.into(), &spans(&[1]), now);
            assert_eq!(flight.due_now(now), []);
        }
        assert_eq!(flight.due_now(after(start, 120)), [(trace(1), 120)]);
        let (idle, callees) = (Idle::default(), Callees::default());
        let pressed = flight.due(after(start, 9), &idle, &callees, ALL, true);
        assert_eq!(pressed.0.len(), 1);
    }

    #[test]
    fn a_tick_is_bounded_by_spans_and_by_the_rows_they_are_in() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.take(1, &spans(&[1, 1, 2]), start);
        flight.take(2, &spans(&[3]), start);
        let (idle, callees, now) = (Idle::default(), Callees::default(), after(start, 9));
        let mut chosen = |bounds| {
            let (chosen, more) = flight.due(now, &idle, &callees, bounds, false);
            assert_eq!(more, chosen.len() < 3);
            chosen.len()
        };
        assert_eq!(
            [chosen(ALL), chosen((3, 1_000)), chosen((1, 1_000))],
            [3, 2, 1]
        );
        assert_eq!(chosen((1_000, 200)), 3);
        assert_eq!(chosen((1_000, 1)), 1);
    }

    #[test]
    fn a_growing_trace_waits_twice_as_long_each_time() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.has_grown(trace(1));
        flight.take(1, &root(1), start);
        assert_eq!(flight.due_now(after(start, 15)), []);
        assert_eq!(flight.due_now(after(start, 16)), [(trace(1), 1)]);
    }
}
