//! The recount: every roll-up, calls to others and every finding's hits once more, from the stored traces.
//!
//! What is stored is the sum of many small differences, added and taken out over days. This builds
//! the same sums from the blocks in one go; the difference must be nothing.

use analyzer::Settings;
use analyzer::profile::ProfileNode;
use analyzer::span::SpanId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::assembly::{analyse, counted_requests, damaged, decompress, spans_by_trace};
use crate::contribution::{Contribution, Request};
use crate::deltas::{Counted, Day, Deltas, EdgeDelta, HitsDelta, HourDelta, Key, MinuteDelta};
use crate::otlp::Source;
use crate::store::dictionaries::Dictionaries;
use crate::store::traces_again::StoredBlock;
use crate::store::{Store, StoreError};

/// Differences described in a report; more are only counted.
const DESCRIBED_MAX: usize = 50;

/// Blocks read at once.
const BLOCKS_AT_ONCE: usize = 16;

/// What a recount came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Traces recounted.
    pub traces: u64,
    /// Distinct spans in them.
    pub spans: u64,
    /// Requests recounted.
    pub requests: u64,
    /// Roll-up rows, summed by key, that were compared.
    pub compared: u64,
    /// How many of them differ, or are missing on one side.
    pub differences: u64,
    /// The first of them in words.
    pub described: Vec<String>,
}

/// Recounts everything. Nothing must be written meanwhile, else the difference is what was.
///
/// # Errors
/// Postgres cannot be reached, or stored data cannot be read.
pub async fn recount(
    store: &Store,
    settings: &Settings,
    progress: impl Fn(&Report),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    // Of these the traces are gone: what is stored of them can be compared with nothing.
    let thinned = store.thinned_days().await?;
    for shard in 0..store.shards() as i16 {
        let mut names = Dictionaries::default();
        let mut sums = Deltas::default();
        let mut keys = store.block_keys(shard).await?;
        keys.retain(|(day, _)| !thinned.contains(day));
        for keys in keys.chunks(BLOCKS_AT_ONCE) {
            for block in store.blocks(shard, keys).await? {
                let contributions = contributions(&block, settings)?;
                store
                    .learn(&mut names, &contributions.iter().collect::<Vec<_>>())
                    .await?;
                let within = contributions
                    .iter()
                    .flat_map(|it| within_endpoints(it, &block))
                    .collect::<Vec<_>>();
                store.learn_within_endpoints(&mut names, &within).await?;
                for contribution in &contributions {
                    count(contribution, &block, &names, &mut sums, &mut report);
                }
            }
            progress(&report);
        }
        let mut stored = store.stored_rollups(shard).await?;
        stored.retain_days(|day| !thinned.contains(&day));
        // Compared at the width stored: a merged hour, together with what is not merged yet.
        let merged = stored.merged_hours();
        sums.widen_like(&merged);
        stored.widen_like(&merged);
        compare(&stored, &sums, &mut report);
    }
    Ok(report)
}

/// The requests of a trace, with the day and endpoint they were counted to.
fn within_endpoints<'a>(
    contribution: &'a Contribution,
    block: &StoredBlock,
) -> Vec<(Day, i32, &'a Request)> {
    let rows = block.traces.get(&contribution.trace_id);
    counted_requests(contribution, rows.map_or(&[], Vec::as_slice))
}

/// What the traces of a block that count add.
fn contributions(
    block: &StoredBlock,
    settings: &Settings,
) -> Result<Vec<Contribution>, StoreError> {
    let sources = [Source::new(decompress(&block.payload)?).map_err(damaged)?];
    let mut spans = spans_by_trace(&sources[0], 0, |it| block.traces.contains_key(it))?;
    let contributions = block.traces.keys().map(|trace_id| {
        let spans = spans.remove(trace_id).unwrap_or_default();
        Ok(Contribution::of(&analyse(&sources, &spans, settings)?))
    });
    contributions.collect()
}

fn count(
    contribution: &Contribution,
    block: &StoredBlock,
    names: &Dictionaries,
    sums: &mut Deltas,
    report: &mut Report,
) {
    let trace_id = contribution.trace_id;
    report.traces += 1;
    report.spans += u64::from(contribution.spans);
    let rows = block
        .traces
        .get(&trace_id)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let counted: HashMap<SpanId, Counted> = rows
        .iter()
        .filter_map(|row| Some((row.span_id, row.counted?)))
        .collect();
    for request in &contribution.requests {
        report.requests += 1;
        match counted.get(&request.span_id).copied() {
            Some(counted) => sums.add(contribution, request, &counted, names, 1),
            None => report.differs(format!(
                "trace {trace_id}: entry span {} has no request row",
                request.span_id
            )),
        }
    }
    if counted.len() > contribution.requests.len() {
        report.differs(format!("trace {trace_id}: a request row has no entry span"));
    }
}

fn compare(stored: &Deltas, recounted: &Deltas, report: &mut Report) {
    compare_all(
        "minute",
        &stored.minutes,
        &recounted.minutes,
        same_minute,
        report,
    );
    compare_all(
        "merged minute",
        &stored.merged_minutes,
        &recounted.merged_minutes,
        same_minute,
        report,
    );
    compare_all("hour", &stored.hours, &recounted.hours, same_hour, report);
    compare_all(
        "merged finding",
        &stored.merged_hits,
        &recounted.merged_hits,
        same_hits,
        report,
    );
    compare_all("finding", &stored.hits, &recounted.hits, same_hits, report);
    compare_all("edge", &stored.edges, &recounted.edges, same_edge, report);
    compare_all(
        "merged edge",
        &stored.merged_edges,
        &recounted.merged_edges,
        same_edge,
        report,
    );
}

fn compare_all<T: Default>(
    what: &str,
    stored: &BTreeMap<Key, T>,
    recounted: &BTreeMap<Key, T>,
    same: fn(&T, &T) -> Option<String>,
    report: &mut Report,
) {
    let keys: BTreeSet<&Key> = stored.keys().chain(recounted.keys()).collect();
    for key in keys {
        report.compared += 1;
        // What came to nothing has no row, or a row that says nothing.
        let nothing = T::default();
        let difference = same(
            stored.get(key).unwrap_or(&nothing),
            recounted.get(key).unwrap_or(&nothing),
        );
        if let Some(difference) = difference {
            let (day, subject, version, slot) = key;
            report.differs(format!(
                "{what} {slot} of {subject} (version {version}, day {day}): {difference}"
            ));
        }
    }
}

impl Report {
    fn differs(&mut self, description: String) {
        self.differences += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(description);
        }
    }
}

fn same_minute(stored: &MinuteDelta, recounted: &MinuteDelta) -> Option<String> {
    (stored != recounted).then(|| {
        format!(
            "{} requests stored, {} recounted, or their times",
            stored.requests, recounted.requests
        )
    })
}

fn same_hour(stored: &HourDelta, recounted: &HourDelta) -> Option<String> {
    if stored.statements != recounted.statements {
        return Some("statements".into());
    }
    if stored.tail_requests != recounted.tail_requests {
        return Some("requests in the slow tail".into());
    }
    let values: [fn(&ProfileNode) -> i64; 3] =
        [|it| it.count, |it| it.self_ns, |it| it.critical_ns];
    let profiles = [
        (stored.profile.total(), recounted.profile.total()),
        (stored.tail_profile.total(), recounted.tail_profile.total()),
    ];
    let differs = values.into_iter().any(|value| {
        let mut both = profiles.iter();
        both.any(|(stored, recounted)| stored.folded(value) != recounted.folded(value))
    });
    differs.then(|| "call paths".into())
}

fn same_edge(stored: &EdgeDelta, recounted: &EdgeDelta) -> Option<String> {
    (stored != recounted).then(|| {
        format!(
            "{} calls stored, {} recounted, or their times",
            stored.calls, recounted.calls
        )
    })
}

/// Examples are samples and not sums: they are not compared.
fn same_hits(stored: &HitsDelta, recounted: &HitsDelta) -> Option<String> {
    let numbers = |it: &HitsDelta| (it.traces, it.requests, it.saved_ns, it.hits.clone());
    (numbers(stored) != numbers(recounted)).then(|| {
        format!(
            "{} traces stored, {} recounted",
            stored.traces, recounted.traces
        )
    })
}
