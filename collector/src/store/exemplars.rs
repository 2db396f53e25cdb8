//! Real requests of an endpoint, some for each of a chart's slots: what a line is made of, to look at.
//!
//! Where there are many requests not all are looked at: a slot's first blocks, and of these the ones
//! that hold something long, until there are enough. So the slowest one here is a slow one of its time,
//! and need not be the slowest.

use std::ops::Range;

use sqlx::FromRow;
use uuid::Uuid;

use super::finalise::{FLAG_ERROR, FLAG_FRAGMENT};
use super::{Store, StoreError};

/// Blocks of a slot that are passed over or looked into, the first.
const BLOCKS_MAX: i64 = 64;

/// Traces of a slot's blocks from which on no further block is looked into; a full block has some 180.
const TRACES_ENOUGH: i64 = 120;

/// A request of some slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which slot, from 0.
    pub slot: usize,
    /// The trace.
    pub trace_id: Uuid,
    /// The entry span's 8 bytes, big-endian.
    pub span_id: u64,
    /// Start, ns since the epoch.
    pub start_ns: i64,
    /// Duration, ns.
    pub duration_ns: i64,
    /// It failed.
    pub error: bool,
}

#[derive(FromRow)]
struct Row {
    slot: i64,
    trace_id: Uuid,
    span_id: i64,
    start_ns: i64,
    duration_ns: i64,
    flags: i16,
}

impl Store {
    /// Requests of an endpoint that started in `slots` (ns since the epoch), those of a few blocks of each.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn exemplar_candidates(
        &self,
        endpoint_id: i32,
        slots: &[Range<i64>],
    ) -> Result<Vec<Candidate>, StoreError> {
        let begins: Vec<i64> = slots.iter().map(|it| it.start).collect();
        let ends: Vec<i64> = slots.iter().map(|it| it.end).collect();
        let rows: Vec<Row> = sqlx::query_as(
            "select s.slot, r.trace_id, r.span_id, r.start_ns, r.duration_ns, r.flags
             from unnest($2::bigint[], $3::bigint[]) with ordinality as s(from_ns, to_ns, slot)
             cross join lateral (
                 select b.*, sum(b.traces) over (order by b.longest_ns desc, b.id) - b.traces as before
                 from (select b.id, b.shard, b.day, b.traces, b.first_start_ns, b.longest_ns, b.endpoints, b.trace_ids,
                              b.span_ids, b.start_ns, b.duration_ns, b.endpoint_ids, b.flags
                       from culprit.trace_blocks b
                       where b.last_start_ns >= s.from_ns order by b.last_start_ns limit $4) b
                 where b.first_start_ns < s.to_ns and b.endpoints @> array[$1]) b
             -- By index and block: joined, all that was ever superseded would be read.
             cross join lateral (select array(
                 select x.trace_id from culprit.superseded x
                 where x.block_id = b.id and x.shard = b.shard and x.day = b.day) as traces) gone
             cross join lateral unnest(b.trace_ids, b.span_ids, b.start_ns, b.duration_ns, b.endpoint_ids, b.flags)
                 as r(trace_id, span_id, start_ns, duration_ns, endpoint_id, flags)
             where b.before < $5 and r.endpoint_id = $1 and r.flags & $6 = 0
               and r.start_ns >= s.from_ns and r.start_ns < s.to_ns
               and not r.trace_id = any(gone.traces)
             order by s.slot, r.duration_ns desc, r.trace_id",
        )
        .bind(endpoint_id)
        .bind(begins)
        .bind(ends)
        .bind(BLOCKS_MAX)
        .bind(TRACES_ENOUGH)
        .bind(FLAG_FRAGMENT)
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(candidate).collect())
    }
}

fn candidate(row: &Row) -> Candidate {
    Candidate {
        // Ordinality counts from 1.
        slot: usize::try_from(row.slot - 1).unwrap_or_default(),
        trace_id: row.trace_id,
        span_id: row.span_id.cast_unsigned(),
        start_ns: row.start_ns,
        duration_ns: row.duration_ns,
        error: row.flags & FLAG_ERROR != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of traces `ids`, each with a request of endpoint 1 at `start_ns` that takes its id in ms, and one
    /// of endpoint 2.
    async fn block(store: &Store, id: i64, ids: &[u128], start_ns: i64, traces: i32) {
        let traces_ids: Vec<Uuid> = ids
            .iter()
            .flat_map(|it| [Uuid::from_u128(*it); 2])
            .collect();
        let count = traces_ids.len();
        let durations: Vec<i64> = traces_ids
            .iter()
            .map(|it| it.as_u128() as i64 * 1_000_000)
            .collect();
        let endpoints: Vec<i32> = (0..count).map(|at| 1 + (at % 2) as i32).collect();
        let flags: Vec<i16> = (0..count)
            .map(|at| (at / 2 == 0) as i16 * FLAG_ERROR)
            .collect();
        sqlx::query(
            "insert into culprit.trace_blocks (day, shard, id, spans, traces, raw_bytes, payload, first_start_ns,
                 last_start_ns, longest_ns, endpoints, trace_ids, span_ids, start_ns, duration_ns, endpoint_ids, flags)
             values ((now() at time zone 'utc')::date, 0, $1, 2, $2, 1, '', $3, $3, $4, '{1,2}', $5, $6, $7, $8, $9, $10)",
        )
        .bind(id)
        .bind(traces)
        .bind(start_ns)
        .bind(durations.iter().max())
        .bind(traces_ids)
        .bind(vec![-1_i64; count])
        .bind(vec![start_ns; count])
        .bind(&durations)
        .bind(endpoints)
        .bind(flags)
        .execute(store.pool())
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn each_slot_has_requests_of_its_own() {
        let store = crate::testing::store().await;
        block(&store, 1, &[10, 30], 100, 2).await;
        block(&store, 2, &[20], 150, 1).await;
        block(&store, 3, &[5], 250, 1).await;
        block(&store, 4, &[99], 900, 1).await;
        sqlx::query(
            "insert into culprit.superseded (block_id, trace_id, shard, day)
             values (2, $1, 0, (now() at time zone 'utc')::date)",
        )
        .bind(Uuid::from_u128(20))
        .execute(store.pool())
        .await
        .unwrap();
        let found = store
            .exemplar_candidates(1, &[100..200, 200..300, 300..400])
            .await
            .unwrap();
        let short: Vec<_> = found
            .iter()
            .map(|it| (it.slot, it.duration_ns / 1_000_000, it.error))
            .collect();
        assert_eq!(short, [(0, 30, false), (0, 10, true), (1, 5, true)]);
        assert_eq!(found[0].span_id, u64::MAX);
        assert!(
            store
                .exemplar_candidates(3, std::slice::from_ref(&(0..1_000)))
                .await
                .unwrap()
                .is_empty()
        );
        assert!(store.exemplar_candidates(1, &[]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn no_more_blocks_are_looked_into_than_needed() {
        let store = crate::testing::store().await;
        let traces = i32::try_from(TRACES_ENOUGH).unwrap();
        block(&store, 1, &[10], 100, traces).await;
        block(&store, 2, &[20], 150, traces).await;
        let found = store
            .exemplar_candidates(1, std::slice::from_ref(&(0..1_000)))
            .await
            .unwrap();
        let took: Vec<_> = found.iter().map(|it| it.duration_ns / 1_000_000).collect();
        assert_eq!(took, [20], "the block with the longest first");
    }
}
