//! Small blocks are packed together: in a quiet hour a tick makes a block of one trace, which takes
//! four times the bytes per span of a full one.
//!
//! ```text
//! ticks     · · ·· · ·   · ··· ·      a few kilobytes each
//! packed    |    o    |     o         32 of one size class
//! full      |       O               | half a megabyte and more: never touched again
//! ```
//!
//! A byte is rewritten once per size class it rises through, at most four times: mostly once,
//! because what has gathered to a full block is packed at once. A trace's requests are carried over
//! as they were counted; copies that count no more are left out.

use analyzer::span::TraceId;
use bytes::Bytes;
use std::collections::BTreeMap;

use crate::assembly::{BLOCK_ZSTD_LEVEL, damaged, decompress};
use crate::block_filter;
use crate::deltas::Day;
use crate::otlp::{self, At, Pile, Source};
use crate::packer::compress;
use crate::store::blocks::{NewBlock, NewRequest};
use crate::store::leases::Lease;
use crate::store::{Store, StoreError};

/// Raw bytes of a full block, unless a single trace is larger. Measured on spans of 434 bytes with ten attributes, bytes per span on
/// disk: 57.4 at 16 KiB, 35.1 at 1 MiB, 34.5 at 4 MiB. More gains nothing, and would have to be
/// unpacked to show a trace.
pub const FULL_BYTES: usize = 1 << 20;

/// Raw bytes below which a block is small. The index `trace_blocks_small` holds exactly these.
pub const SMALL_BYTES: usize = FULL_BYTES / 2;

/// Blocks of one size class that are packed before there is enough for a full one. Queries pass
/// over each block, so there should not be many; each packing rewrites all of them, so neither
/// should it be done for few.
const CLASS_BLOCKS: usize = 32;

/// A size class goes up to so many times its smallest block. Less than [`CLASS_BLOCKS`], so that what
/// is packed leaves its class.
const CLASS_FACTOR: usize = 8;

/// A full block is not packed again, so it may take more work: 32.1 bytes per span at level 6
/// against 35.1 at level 3. Level 12 would make 30.8 of it, for twice the work.
const FULL_LEVEL: i32 = 6;

/// A small block, unopened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Small {
    /// Its partition.
    pub day: Day,
    /// Its id.
    pub id: i64,
    /// Its bytes before compression.
    pub raw_bytes: i32,
    /// The version of the analysis that counted it.
    pub analysis: i16,
}

/// A block with everything that counts in it.
#[derive(Clone, Debug)]
pub struct Whole {
    /// zstd of OTLP.
    pub payload: Bytes,
    /// The requests of the traces that are wanted; there may be others in it.
    pub requests: Vec<NewRequest>,
}

/// Which of the small blocks (by day and id) are to be packed next; of one day and one version of
/// the analysis, at least two, or none.
pub fn plan(small: &[Small], today: Day) -> Vec<Small> {
    let mut days: BTreeMap<(Day, i16), Vec<Small>> = BTreeMap::new();
    for block in small {
        days.entry((block.day, block.analysis))
            .or_default()
            .push(*block);
    }
    let plans = days
        .into_iter()
        .map(|((day, _), blocks)| plan_day(&blocks, day, today));
    plans
        .into_iter()
        .find(|it| it.len() > 1)
        .unwrap_or_default()
}

fn plan_day(blocks: &[Small], day: Day, today: Day) -> Vec<Small> {
    let bytes: usize = blocks.iter().map(|it| it.raw_bytes as usize).sum();
    // A trace is looked for within a day: nothing more comes to a day before yesterday.
    if bytes >= FULL_BYTES || day < today - 1 {
        return up_to_full(blocks);
    }
    let mut classes: BTreeMap<u32, Vec<Small>> = BTreeMap::new();
    for block in blocks {
        let class = (block.raw_bytes as usize).max(1).ilog(CLASS_FACTOR);
        classes.entry(class).or_default().push(*block);
    }
    let crowded = classes.into_values().find(|it| it.len() >= CLASS_BLOCKS);
    crowded.map(|it| up_to_full(&it)).unwrap_or_default()
}

/// The oldest, as many as make one block.
fn up_to_full(blocks: &[Small]) -> Vec<Small> {
    let mut bytes = 0;
    let fits = |block: &&Small| {
        bytes += block.raw_bytes as usize;
        bytes <= FULL_BYTES
    };
    blocks.iter().take_while(fits).copied().collect()
}

/// Packs blocks (of one day and version, see [`plan`]) into one with the id `id`; whether it did. They
/// may be gone meanwhile.
///
/// Only the shard's owner may, between two ticks: a tick names blocks.
///
/// # Errors
/// The lease is lost, Postgres failed, or a block is damaged.
pub async fn pack_planned(
    store: &Store,
    lease: &Lease,
    planned: &[Small],
    id: i64,
) -> Result<bool, StoreError> {
    let Some(Small { day, analysis, .. }) = planned.first().copied() else {
        return Ok(false);
    };
    let ids: Vec<i64> = planned.iter().map(|it| it.id).collect();
    let blocks = store.whole_blocks(lease.shard, day, &ids).await?;
    let packing = tokio::task::spawn_blocking(move || pack(day, id, blocks));
    let packed = packing
        .await
        .map_err(|error| StoreError::Damaged(error.to_string()))??;
    store
        .replace_blocks(lease, (day, &ids), analysis, packed)
        .await
}

impl Whole {
    /// Its traces, with their spans.
    fn traces(&self) -> BTreeMap<TraceId, u32> {
        let traces = self.requests.iter().map(|it| (it.trace_id, it.spans));
        traces.collect()
    }

    /// Spans of its traces.
    pub fn spans(&self) -> usize {
        self.traces().values().map(|it| *it as usize).sum()
    }
}

/// Packs the traces of `requests` into one block; `None` if there are none.
///
/// # Errors
/// A block is damaged.
pub fn pack(day: Day, id: i64, blocks: Vec<Whole>) -> Result<Option<NewBlock>, StoreError> {
    let mut sources = Vec::with_capacity(blocks.len());
    let mut spans: Vec<At> = Vec::new();
    let mut requests = Vec::new();
    let mut traces: BTreeMap<TraceId, u32> = BTreeMap::new();
    for block in blocks {
        let own = block.traces();
        let source = Source::new(decompress(&block.payload)?).map_err(damaged)?;
        let at = sources.len() as u32;
        for (trace_id, span) in source.traces().zip(0..) {
            if own.contains_key(&trace_id.map_err(damaged)?) {
                spans.push(At { source: at, span });
            }
        }
        sources.push(source);
        traces.extend(own);
        requests.extend(block.requests);
    }
    if requests.is_empty() {
        return Ok(None);
    }
    let words = block_filter::tokens_of(&otlp::decode_all(&sources, &spans).map_err(damaged)?);
    let mut pile = Pile::default();
    pile.add(&sources, &spans);
    let raw = pile.into_request(&sources);
    let level = match raw.len() < SMALL_BYTES {
        // It will be packed again.
        true => BLOCK_ZSTD_LEVEL,
        false => FULL_LEVEL,
    };
    Ok(Some(NewBlock {
        day,
        id,
        spans: traces.values().sum::<u32>() as i32,
        traces: traces.len() as i32,
        raw_bytes: raw.len() as i32,
        payload: compress(&raw, level),
        requests,
        filter: Some(block_filter::build(words)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Day = 20_000;

    fn blocks(day: Day, sizes: &[i32]) -> Vec<Small> {
        let block = |(id, raw_bytes): (usize, &i32)| Small {
            day,
            id: id as i64,
            raw_bytes: *raw_bytes,
            analysis: 1,
        };
        sizes.iter().enumerate().map(block).collect()
    }

    #[test]
    fn a_few_small_blocks_of_today_are_left_alone() {
        assert_eq!(plan(&blocks(TODAY, &[4_000; 31]), TODAY), []);
        assert_eq!(plan(&[], TODAY), []);
    }

    #[test]
    fn many_of_one_size_are_packed() {
        let mut small = blocks(TODAY, &[4_000; 32]);
        small.insert(0, blocks(TODAY, &[200_000])[0]);
        assert_eq!(plan(&small, TODAY), small[1..]);
    }

    #[test]
    fn what_makes_a_full_block_is_packed() {
        let small = blocks(TODAY, &[400_000; 3]);
        assert_eq!(plan(&small, TODAY), small[..2]);
    }

    #[test]
    fn a_day_that_gets_no_more_is_packed_whatever_the_size() {
        let small = blocks(TODAY - 2, &[4_000, 300_000]);
        assert_eq!(plan(&small, TODAY), small);
        assert_eq!(plan(&small[..1], TODAY), []);
        let other: Vec<Small> = small
            .iter()
            .map(|it| Small {
                analysis: it.id as i16,
                ..*it
            })
            .collect();
        assert_eq!(plan(&other, TODAY), [], "of different versions");
    }

    /// Blocks come one by one; however small, no byte is rewritten more often than there are size
    /// classes, and few blocks are left.
    #[test]
    fn a_byte_is_rewritten_a_few_times_at_most() {
        for size in [700, 4_000, 60_000] {
            let (mut small, mut next, mut rewritten, mut written) = (Vec::new(), 0, 0_u64, 0_u64);
            for _ in 0..20_000 {
                next += 1;
                written += size as u64;
                small.push(Small {
                    day: TODAY,
                    id: next,
                    raw_bytes: size,
                    analysis: 1,
                });
                let planned = plan(&small, TODAY);
                if planned.is_empty() {
                    continue;
                }
                let bytes: i32 = planned.iter().map(|it| it.raw_bytes).sum();
                rewritten += bytes as u64;
                small.retain(|it| !planned.contains(it));
                next += 1;
                if (bytes as usize) < SMALL_BYTES {
                    small.push(Small {
                        day: TODAY,
                        id: next,
                        raw_bytes: bytes,
                        analysis: 1,
                    });
                }
            }
            assert!(rewritten <= 4 * written, "{size}: {rewritten} of {written}");
            assert!(small.len() < 4 * CLASS_BLOCKS, "{size}: {}", small.len());
        }
    }
}
