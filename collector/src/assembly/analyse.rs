//! The part of a tick that only computes: unpack rows, gather each due trace's bytes, unite them
//! with what is stored, analyse.

use analyzer::span::{SpanId, Spans, TraceId};
use analyzer::{Analysis, Settings};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::completeness::Callees;
use super::flight::Due;
use crate::contribution::Contribution;
use crate::deltas::Day;
use crate::otlp;
use crate::store::StoreError;
use crate::store::traces_again::OldRequest;

/// OTLP bytes of one trace. What comes beyond is kept in quarantine: a trace of some 700,000 spans is
/// a mistake, and must not take the memory of all others.
const TRACE_BYTES_MAX: usize = 256 << 20;

/// What a tick computes with; owned, so that it can run on a thread for computations.
pub struct Work {
    /// The traces to look at.
    pub due: Vec<Due>,
    /// The journal rows their spans are in, compressed, by the number the flight gave them.
    pub rows: HashMap<u32, Bytes>,
    /// What is stored of these traces already.
    pub stored: HashMap<TraceId, Stored>,
    /// Which callees report.
    pub callees: Callees,
    /// What the user set.
    pub settings: Settings,
}

/// A trace that was finalised before.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The partition of everything it contributed.
    pub day: Day,
    /// The block that holds it.
    pub block_id: i64,
    /// Its requests: how it was counted.
    pub requests: Vec<OldRequest>,
    /// That block's content: zstd of OTLP.
    pub block: Bytes,
}

/// What became of a due trace.
pub enum Outcome {
    /// It was early and looks incomplete.
    Wait,
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
    /// All of its spans, each once: OTLP.
    pub otlp: Vec<u8>,
    /// What it added before, and how that was counted.
    pub old: Option<(Contribution, Stored)>,
    /// Callees of which nobody knew that they report.
    pub new_callees: Vec<String>,
}

/// Looks at every due trace.
///
/// # Errors
/// A journal row or a block cannot be unpacked or read: the disk, not the sender, is to blame.
pub fn run(mut work: Work) -> Result<Vec<(Due, Outcome)>, StoreError> {
    let due = std::mem::take(&mut work.due);
    let gathered = gather(&due, &work.rows)?;
    let outcomes = due.into_iter().zip(gathered).map(|(due, otlp)| {
        let outcome = look_at(&due, otlp, &work)?;
        Ok((due, outcome))
    });
    outcomes.collect()
}

/// Each due trace's bytes, from all the rows it is spread over.
fn gather(due: &[Due], rows: &HashMap<u32, Bytes>) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut wanted: HashMap<u32, Vec<(u32, usize)>> = HashMap::new();
    for (trace, it) in due.iter().enumerate() {
        for place in &it.places {
            wanted.entry(place.row).or_default().push((place.at, trace));
        }
    }
    // In order of the rows, so that the same input always gives the same bytes.
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    wanted.sort_unstable_by_key(|(row, _)| *row);
    let mut gathered = vec![Vec::new(); due.len()];
    for (row, places) in wanted {
        let payload = rows
            .get(&row)
            .ok_or_else(|| StoreError::Damaged("a journal row is not held".into()))?;
        let raw = decompress(payload)?;
        otlp::distribute(&raw, &places, &mut gathered).map_err(damaged)?;
    }
    Ok(gathered)
}

fn look_at(due: &Due, arrived: Vec<u8>, work: &Work) -> Result<Outcome, StoreError> {
    let stored = work.stored.get(&due.trace_id);
    let old = stored
        .map(|it| stored_bytes(due.trace_id, it))
        .transpose()?;
    let old_bytes = old.as_ref().map_or(0, Vec::len);
    if old_bytes + arrived.len() > TRACE_BYTES_MAX {
        let spans = otlp::trace_ids(&arrived).map_err(damaged)?.len() as u32;
        let reason = format!(
            "the trace would grow beyond {} MB: an id that is used for everything?",
            TRACE_BYTES_MAX >> 20
        );
        return Ok(Outcome::Refused {
            reason,
            spans,
            otlp: arrived,
        });
    }
    let otlp = unite(old.as_deref().unwrap_or_default(), &arrived)?;
    if old.as_ref().is_some_and(|old| old.len() == otlp.len()) {
        return Ok(Outcome::Known);
    }
    // The analysis is total by contract; should that be broken, one trace pays for it.
    let result = catch_unwind(AssertUnwindSafe(|| {
        finalise(due, &otlp, old.as_deref(), work)
    }));
    match result {
        Ok(result) => {
            let Some((contribution, old_contribution, new_callees)) = result? else {
                return Ok(Outcome::Wait);
            };
            let old = old_contribution.zip(stored.cloned());
            Ok(Outcome::Final(Box::new(Final {
                contribution,
                otlp,
                old,
                new_callees,
            })))
        }
        Err(panic) => {
            let spans = otlp::trace_ids(&otlp).map_err(damaged)?.len() as u32;
            Ok(Outcome::Refused {
                reason: panic_text(panic.as_ref()),
                spans,
                otlp,
            })
        }
    }
}

type Finalised = (Contribution, Option<Contribution>, Vec<String>);

fn finalise(
    due: &Due,
    otlp: &[u8],
    old: Option<&[u8]>,
    work: &Work,
) -> Result<Option<Finalised>, StoreError> {
    let analysis = analyse(otlp, &work.settings)?;
    if due.early && !work.callees.is_complete(&analysis.trace) {
        return Ok(None);
    }
    let old = old.map(|old| analyse(old, &work.settings)).transpose()?;
    let old = old.as_ref().map(Contribution::of);
    let new_callees = work.callees.unknown_in(&analysis.trace);
    Ok(Some((Contribution::of(&analysis), old, new_callees)))
}

/// The analysis of one trace's bytes.
///
/// # Errors
/// The bytes are damaged.
pub fn analyse<'a>(otlp: &'a [u8], settings: &Settings) -> Result<Analysis<'a>, StoreError> {
    let mut spans = Spans::default();
    otlp::decode_into(&mut spans, otlp, |_| true).map_err(damaged)?;
    Ok(analyzer::analyze(spans, settings))
}

/// A stored trace's own bytes out of its block.
fn stored_bytes(trace_id: TraceId, stored: &Stored) -> Result<Vec<u8>, StoreError> {
    let block = decompress(&stored.block)?;
    let mut bytes = Vec::new();
    otlp::select(&block, |_, it| it == trace_id, &mut bytes).map_err(damaged)?;
    Ok(bytes)
}

/// What is stored and then what is new of what arrived; a span that was delivered twice (same id,
/// same content) is one.
///
/// # Errors
/// One of them is damaged.
pub fn unite(stored: &[u8], arrived: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut seen: HashSet<(SpanId, u64)> = identities(stored)?.into_iter().collect();
    let mut united = stored.to_vec();
    let fresh: Vec<bool> = identities(arrived)?
        .into_iter()
        .map(|it| seen.insert(it))
        .collect();
    if fresh.iter().all(|it| *it) {
        united.extend_from_slice(arrived);
    } else if fresh.iter().any(|it| *it) {
        otlp::select(arrived, |at, _| fresh[at], &mut united).map_err(damaged)?;
    }
    Ok(united)
}

fn identities(otlp: &[u8]) -> Result<Vec<(SpanId, u64)>, StoreError> {
    let mut spans = Spans::default();
    otlp::decode_into(&mut spans, otlp, |_| true).map_err(damaged)?;
    Ok(spans
        .spans
        .iter()
        .map(|span| (span.id, span.content))
        .collect())
}

/// Unpacks a payload of ours.
///
/// # Errors
/// It is not zstd, or larger than anything we pack.
pub fn decompress(payload: &[u8]) -> Result<Vec<u8>, StoreError> {
    /// No block or row of ours unpacks to more; beyond it the payload is not ours.
    const RAW_BYTES_MAX: usize = 1 << 30;
    let size = zstd::bulk::Decompressor::upper_bound(payload).unwrap_or(RAW_BYTES_MAX);
    zstd::bulk::decompress(payload, size.min(RAW_BYTES_MAX))
        .map_err(|error| StoreError::Damaged(format!("a payload cannot be unpacked: {error}")))
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
