//! The part of a tick that only computes: unpack rows, gather each due trace's spans, unite them
//! with what is stored, analyse, pack.

use analyzer::span::TraceId;
use analyzer::{Analysis, Analyzer, Settings};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::flight::Due;
use crate::block_filter;
use crate::buffers::Buffer;
use crate::compaction::FULL_BYTES;
use crate::contribution::Contribution;
use crate::deltas::Day;
use crate::otlp::{self, At, Pile, Source};
use crate::packer;
use crate::store::StoreError;
use crate::store::traces_again::{OldRequest, StoredBlock};

/// OTLP bytes of one trace. What comes beyond is kept in quarantine: a trace of some 700,000 spans is
/// a mistake, and must not take the memory of all others.
const TRACE_BYTES_MAX: usize = 256 << 20;

/// Blocks are kept for weeks: a little more work than for the journal.
pub const BLOCK_ZSTD_LEVEL: i32 = 3;

/// What a tick computes with; owned, so that it can run on a thread for computations.
pub struct Work {
    /// The traces to look at.
    pub due: Vec<Due>,
    /// The journal rows their spans are in, compressed, by the number the flight gave them.
    pub rows: Vec<(u32, Bytes)>,
    /// What is stored of these traces already.
    pub stored: Vec<StoredBlock>,
    /// The partition of what is stored for the first time.
    pub today: Day,
    /// What the user set.
    pub settings: Settings,
}

/// What came of a tick's computation.
pub struct Done {
    /// Each trace looked at.
    pub outcomes: Vec<(Due, Outcome)>,
    /// The final ones' spans.
    pub packs: Vec<Pack>,
}

/// How a trace that was finalised before is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The partition of everything it contributed.
    pub day: Day,
    /// The block that holds it.
    pub block_id: i64,
    /// Its requests: how it was counted.
    pub requests: Vec<OldRequest>,
}

/// What became of a due trace.
pub enum Outcome {
    /// Every span of it is stored already: a retry.
    Known,
    /// It is final.
    Final(Box<Final>),
    /// It cannot be analysed.
    Refused {
        /// Why: it is too large, or its analysis panicked.
        reason: String,
        /// Its spans.
        spans: u32,
        /// OTLP.
        otlp: Vec<u8>,
    },
}

/// A final trace.
pub struct Final {
    /// What it adds.
    pub contribution: Contribution,
    /// What it added before, and how that was counted.
    pub old: Option<(Contribution, Stored)>,
    /// The pack that holds all of its spans, each once: a position in [`Done::packs`].
    pub pack: usize,
    packing: Packing,
}

/// What is packed of a trace.
#[derive(Default)]
struct Packing {
    day: Day,
    spans: Vec<At>,
    words: Vec<u64>,
}

/// Traces packed together: a block without its requests.
pub struct Pack {
    /// Partition.
    pub day: Day,
    /// Distinct spans.
    pub spans: usize,
    /// Traces.
    pub traces: usize,
    /// Bytes of OTLP.
    pub raw_bytes: usize,
    /// zstd of it.
    pub payload: Vec<u8>,
    /// Which words its spans hold.
    pub filter: Vec<u8>,
}

/// Looks at every due trace.
///
/// # Errors
/// A journal row or a block cannot be unpacked or read: the disk, not the sender, is to blame.
pub fn run(mut work: Work) -> Result<Done, StoreError> {
    let due = std::mem::take(&mut work.due);
    let sources = Sources::unpack(&work, &due)?;
    let mut analyzer = Analyzer::new(&work.settings);
    let mut outcomes = Vec::with_capacity(due.len());
    for due in due {
        let outcome = look_at(&due, &sources, &work, &mut analyzer)?;
        outcomes.push((due, outcome));
    }
    let packs = pack(&sources.sources, &mut outcomes);
    Ok(Done { outcomes, packs })
}

/// Packs the final traces in order of their starts: what began together stands together, so a list
/// of a moment's requests reads few blocks.
fn pack(sources: &[Source], outcomes: &mut [(Due, Outcome)]) -> Vec<Pack> {
    let finals = outcomes
        .iter_mut()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Final(last) => Some(last),
            _ => None,
        });
    let mut finals: Vec<_> = finals.collect();
    finals.sort_by_key(|it| it.contribution.fragment.start_ns);
    let mut piles = Piles::default();
    for last in finals {
        last.pack = piles.add(sources, std::mem::take(&mut last.packing));
    }
    piles.packed(sources)
}

/// Everything unpacked that a tick needs.
struct Sources {
    sources: Vec<Source>,
    /// The number of a journal row → position in `sources`.
    rows: HashMap<u32, u32>,
    /// Due traces that are stored: how, and where their spans stand.
    stored: HashMap<TraceId, (Stored, Vec<At>)>,
}

impl Sources {
    fn unpack(work: &Work, due: &[Due]) -> Result<Sources, StoreError> {
        let mut unpacked = Sources {
            sources: Vec::with_capacity(work.rows.len() + work.stored.len()),
            rows: HashMap::with_capacity(work.rows.len()),
            stored: HashMap::new(),
        };
        for (row, payload) in &work.rows {
            let position = unpacked.add(payload)?;
            unpacked.rows.insert(*row, position);
        }
        // In order of days: a trace id that was used on several goes on with the newest.
        let wanted: Wanted = due.iter().map(|it| it.trace_id).collect();
        for block in &work.stored {
            unpacked.add_stored(block, &wanted)?;
        }
        Ok(unpacked)
    }

    fn add_stored(&mut self, block: &StoredBlock, wanted: &Wanted) -> Result<(), StoreError> {
        let position = self.add(&block.payload)?;
        let wanted = |it: &TraceId| wanted.contains(it);
        let source = &self.sources[position as usize];
        let mut spans = spans_by_trace(source, position, wanted)?;
        for (trace_id, requests) in &block.traces {
            if wanted(trace_id) {
                let stored = Stored {
                    day: block.day,
                    block_id: block.id,
                    requests: requests.clone(),
                };
                let spans = spans.remove(trace_id).unwrap_or_default();
                self.stored.insert(*trace_id, (stored, spans));
            }
        }
        Ok(())
    }

    fn add(&mut self, payload: &[u8]) -> Result<u32, StoreError> {
        let source = Source::new(decompress(payload)?).map_err(damaged)?;
        self.sources.push(source);
        Ok(self.sources.len() as u32 - 1)
    }

    /// What is stored of a trace, and then what is new of what arrived; a span that was delivered
    /// twice is one.
    fn spans_of(&self, due: &Due) -> Result<Vec<At>, StoreError> {
        let stored = self.stored.get(&due.trace_id);
        let mut spans = stored.map_or_else(Vec::new, |(_, spans)| spans.clone());
        spans.reserve(due.places.len());
        for run in due.places.chunk_by(|a, b| a.row == b.row) {
            let source = self.rows.get(&run[0].row);
            let source =
                *source.ok_or_else(|| StoreError::Damaged("a journal row is not held".into()))?;
            spans.extend(run.iter().map(|it| At {
                source,
                span: it.at,
            }));
        }
        otlp::distinct(&self.sources, &mut spans);
        Ok(spans)
    }
}

/// Traces that are due. Their ids are drawn by strangers: the hasher is seeded.
type Wanted = HashSet<TraceId, foldhash::fast::RandomState>;

/// The spans of the wanted traces of a source that stands at `position` among others.
///
/// # Errors
/// The bytes are damaged.
pub fn spans_by_trace(
    source: &Source,
    position: u32,
    wanted: impl Fn(&TraceId) -> bool,
) -> Result<HashMap<TraceId, Vec<At>>, StoreError> {
    let mut spans: HashMap<TraceId, Vec<At>> = HashMap::new();
    for (trace_id, span) in source.traces().zip(0..) {
        let trace_id = trace_id.map_err(damaged)?;
        if wanted(&trace_id) {
            let at = At {
                source: position,
                span,
            };
            spans.entry(trace_id).or_default().push(at);
        }
    }
    Ok(spans)
}

fn look_at<'w>(
    due: &Due,
    sources: &Sources,
    work: &'w Work,
    analyzer: &mut Analyzer<'w>,
) -> Result<Outcome, StoreError> {
    let spans = sources.spans_of(due)?;
    let stored = sources.stored.get(&due.trace_id);
    let stored_spans = stored.map_or(0, |(_, spans)| spans.len());
    if spans.len() == stored_spans {
        return Ok(Outcome::Known);
    }
    let refused = |reason: String, spans: &[At]| Outcome::Refused {
        reason,
        spans: spans.len() as u32,
        otlp: otlp::write(&sources.sources, spans),
    };
    if otlp::bytes_of(&sources.sources, &spans) > TRACE_BYTES_MAX {
        let reason = format!(
            "the trace would grow beyond {} MB: an id that is used for everything?",
            TRACE_BYTES_MAX >> 20
        );
        return Ok(refused(reason, &spans[stored_spans..]));
    }
    // The analysis is total by contract; should that be broken, one trace pays for it.
    let analysed = catch_unwind(AssertUnwindSafe(|| {
        let mut words = Vec::new();
        let old = stored.map(|_| contribution(sources, &spans[..stored_spans], analyzer, None));
        let new = contribution(sources, &spans, analyzer, Some(&mut words))?;
        Ok::<_, StoreError>((new, words, old.transpose()?))
    }));
    let (contribution, words, old) = match analysed {
        Ok(analysed) => analysed?,
        Err(panic) => {
            // Whatever it was in the middle of.
            *analyzer = Analyzer::new(&work.settings);
            return Ok(refused(panic_text(panic.as_ref()), &spans));
        }
    };
    let day = stored.map_or(work.today, |(stored, _)| stored.day);
    Ok(Outcome::Final(Box::new(Final {
        pack: 0,
        packing: Packing { day, spans, words },
        contribution,
        old: old.zip(stored.map(|(stored, _)| stored.clone())),
    })))
}

/// What a trace adds; and the words in it, if they are wanted.
fn contribution(
    sources: &Sources,
    spans: &[At],
    analyzer: &mut Analyzer<'_>,
    words: Option<&mut Vec<u64>>,
) -> Result<Contribution, StoreError> {
    let spans = otlp::decode_all(&sources.sources, spans).map_err(damaged)?;
    let analysis = analyzer.analyze(spans);
    if let Some(words) = words {
        *words = block_filter::tokens_of(&analysis.trace.spans);
    }
    Ok(Contribution::of(&analysis))
}

/// The analysis of one trace's spans.
///
/// # Errors
/// The bytes are damaged.
pub fn analyse<'a>(
    sources: &'a [Source],
    spans: &[At],
    settings: &Settings,
) -> Result<Analysis<'a>, StoreError> {
    let spans = otlp::decode_all(sources, spans).map_err(damaged)?;
    Ok(analyzer::analyze(spans, settings))
}

/// What becomes blocks: one pile of each day is open at a time.
#[derive(Default)]
struct Piles {
    piles: Vec<Open>,
    open: HashMap<Day, usize>,
}

/// Traces on their way into a block.
#[derive(Default)]
struct Open {
    day: Day,
    pile: Pile,
    spans: usize,
    traces: usize,
    words: block_filter::Gathered,
}

impl Piles {
    /// Adds a trace and the words in it; the position of its pile.
    fn add(&mut self, sources: &[Source], packing: Packing) -> usize {
        let Packing { day, spans, words } = packing;
        let bytes = otlp::bytes_of(sources, &spans);
        let open = self.open.get(&day).copied();
        let fits = open.filter(|at| self.piles[*at].pile.bytes() + bytes <= FULL_BYTES);
        let at = fits.unwrap_or_else(|| {
            self.piles.push(Open {
                day,
                ..Open::default()
            });
            self.piles.len() - 1
        });
        self.open.insert(day, at);
        let open = &mut self.piles[at];
        open.pile.add(sources, &spans);
        open.spans += spans.len();
        open.traces += 1;
        open.words.add(words);
        at
    }

    fn packed(self, sources: &[Source]) -> Vec<Pack> {
        let packs = self.piles.into_iter().map(|open| {
            let request = open.pile.into_request(sources);
            Pack {
                day: open.day,
                spans: open.spans,
                traces: open.traces,
                raw_bytes: request.len(),
                payload: packer::compress(&request, BLOCK_ZSTD_LEVEL),
                filter: open.words.filter(),
            }
        });
        packs.collect()
    }
}

/// A trace's spans that were delivered several times, each once.
///
/// # Errors
/// The bytes are damaged.
pub fn unite(arrived: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let sources = [Source::new(arrived).map_err(damaged)?];
    let all = (0..sources[0].spans() as u32).map(|span| At { source: 0, span });
    let mut spans: Vec<At> = all.collect();
    otlp::distinct(&sources, &mut spans);
    Ok(otlp::write(&sources, &spans))
}

/// Unpacks a payload of ours.
///
/// # Errors
/// It is not zstd, or larger than anything we pack.
pub fn decompress(payload: &[u8]) -> Result<Buffer, StoreError> {
    /// No block or row of ours unpacks to more; beyond it the payload is not ours.
    const RAW_BYTES_MAX: usize = 1 << 30;
    thread_local! {
        /// Its tables are larger than most payloads: made once for each thread.
        static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
    }
    let size = zstd::bulk::Decompressor::upper_bound(payload).unwrap_or(RAW_BYTES_MAX);
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(zstd::bulk::Decompressor::new().map_err(unpackable)?),
        };
        let mut unpacked = Buffer::with_capacity(size.min(RAW_BYTES_MAX));
        decompressor
            .decompress_to_buffer(payload, &mut *unpacked)
            .map_err(unpackable)?;
        Ok(unpacked)
    })
}

fn unpackable(error: std::io::Error) -> StoreError {
    StoreError::Damaged(format!("a payload cannot be unpacked: {error}"))
}

/// Bytes that were accepted once and are no OTLP now.
pub fn damaged(error: otlp::WireError) -> StoreError {
    StoreError::Damaged(error.to_string())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the analysis failed: {}", text.unwrap_or("(no message)"))
}
