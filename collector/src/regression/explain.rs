//! What grew: requests of both sides, looked at span by span.
//!
//! The roll-ups say that an endpoint is slower; they fold whole hours together and cannot tell ten minutes from the
//! ten before. So some requests of each side are read from the blocks and analysed again, and their call paths are
//! compared. For a slower tail these are the slow requests since, and as large a share of the slowest ones before.

use analyzer::Settings;
use analyzer::profile::{Compared, Difference, Measure, difference};
use std::collections::BTreeMap;

use super::candidate::{Candidate, Side};
use super::evidence::{Contributor, Explanation};
use crate::looked::{Looked, folded, look, spread};
use crate::store::requests::{ListedRequest, RequestFilter};
use crate::store::{Store, StoreError};

/// Requests of each side that are looked at: enough for a share of some percent, and a second of work at most.
const REQUESTS_MAX: usize = 100;

/// Rows asked for to find them among other versions' requests.
const ROWS_MAX: i64 = 400;

/// Contributors that are told; more is a list nobody reads.
const CONTRIBUTORS_MAX: usize = 10;

/// A path that grew by less than this share of the whole growth is noise.
const CONTRIBUTION_MIN: f64 = 0.05;

/// Examples of each kind.
const EXAMPLES_MAX: usize = 3;

/// With fewer slow requests it is chance that they are of one instance.
const SLOW_REQUESTS_MIN: usize = 5;

/// Requests of both sides.
#[derive(Debug, Default)]
pub struct Sample {
    /// Before.
    base: Vec<Looked>,
    /// Since.
    now: Vec<Looked>,
    /// How many of some requests since, slow or not, are of which instance.
    instances: BTreeMap<String, usize>,
    /// Ordinary requests before: trace and entry span.
    ordinary: Vec<(String, String)>,
    /// What part of the requests since `now` is taken from.
    share: f64,
    of_slow_ones: bool,
}

/// How many requests a stored one stands for on average, at least 1: senders may keep only a part of their traces.
/// `None` if none of them is at hand.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn mean_weight(
    store: &Store,
    endpoint_id: i32,
    side: &Side,
) -> Result<Option<f64>, StoreError> {
    let rows = rows(store, endpoint_id, side, 0).await?;
    let sum: i64 = rows.iter().map(|it| it.weight).sum();
    Ok((!rows.is_empty()).then(|| (sum as f64 / rows.len() as f64).max(1.0)))
}

/// Reads and analyses requests of both sides.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn sample(
    store: &Store,
    settings: &Settings,
    candidate: &Candidate,
) -> Result<Sample, StoreError> {
    let numbers = &candidate.numbers;
    let of_slow_ones = numbers.quantile > 0.5;
    let share = match of_slow_ones {
        true => numbers.above as f64 / numbers.requests.max(1) as f64,
        false => 1.0,
    };
    let (slow_ns, base_slow_ns) = match of_slow_ones {
        true => {
            let base = candidate.base_latency().quantile(1.0 - share.min(0.5));
            (numbers.before_ns + 1, base.unwrap_or(0))
        }
        false => (0, 0),
    };
    let id = candidate.endpoint.id;
    let now = rows(store, id, &candidate.now_side, slow_ns).await?;
    let base = rows(store, id, &candidate.base_side, base_slow_ns).await?;
    let any_now = rows(store, id, &candidate.now_side, 0).await?;
    let mut any_base = rows(store, id, &candidate.base_side, 0).await?;
    let any = look(store, settings, spread(any_now, REQUESTS_MAX)).await?;
    any_base.sort_by_key(|it| it.duration_ns);
    let middle = any_base.len().saturating_sub(EXAMPLES_MAX) / 2;
    let ordinary = any_base.iter().skip(middle).take(EXAMPLES_MAX).map(ids);
    Ok(Sample {
        ordinary: ordinary.collect(),
        now: look(store, settings, spread(now, REQUESTS_MAX)).await?,
        base: look(store, settings, spread(base, REQUESTS_MAX)).await?,
        instances: by_instance(&any)
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        share,
        of_slow_ones,
    })
}

impl Sample {
    /// The one instance that is slow while the others are well: nothing was shipped, a machine is ill.
    ///
    /// Without its worst instance a slower service still has clearly more slow requests than before: more than the
    /// (geometric) middle between the shares before and since.
    pub fn only_instance(&self, candidate: &Candidate) -> Option<&str> {
        let (slow, all) = (by_instance(&self.now), &self.instances);
        let slow_requests: usize = slow.values().sum();
        let requests: usize = all.values().sum();
        let (worst, of_worst) = slow.into_iter().max_by_key(|it| it.1)?;
        if !self.of_slow_ones || all.len() < 2 || slow_requests < SLOW_REQUESTS_MIN {
            return None;
        }
        let others = |part: usize, whole: usize| 1.0 - part as f64 / whole as f64;
        let of_others = others(all.get(worst).copied().unwrap_or(0), requests);
        let usual = 1.0 - candidate.numbers.quantile;
        let slow_of_others = self.share * others(of_worst, slow_requests) / of_others.max(1e-9);
        (slow_of_others < (usual * self.share).sqrt()).then_some(worst)
    }

    /// Every request since is of the same instance, as far as senders say.
    pub fn is_one_instance(&self) -> bool {
        self.instances.len() == 1
    }

    /// What grew, the most first; `None` if there is nothing to compare.
    pub fn explanation(&self) -> Option<Explanation> {
        if self.now.is_empty() || self.base.is_empty() {
            return None;
        }
        let (now, base) = (folded(&self.now), folded(&self.base));
        let difference = difference(
            Compared {
                profile: &now,
                requests: self.now.len() as i64,
            },
            Compared {
                profile: &base,
                requests: self.base.len() as i64,
            },
        );
        let change_ns = difference.total_change_ns(Measure::Critical);
        let least_ns = (change_ns.max(0) as f64 * CONTRIBUTION_MIN) as i64;
        let grown = difference.ranked(Measure::Critical).into_iter();
        let grown = grown.filter(|at| difference.change_ns(*at, Measure::Critical) > least_ns);
        let contributors: Vec<Contributor> = grown
            .take(CONTRIBUTORS_MAX)
            .map(|at| self.contributor(&difference, at))
            .collect();
        let examples = contributors.first().map(|it| it.examples.clone());
        Some(Explanation {
            looked_at: (self.base.len() as i64, self.now.len() as i64),
            of_slow_ones: self.of_slow_ones,
            change_ns,
            contributors,
            examples: examples.unwrap_or_default(),
            base_examples: self.ordinary.clone(),
        })
    }

    fn contributor(&self, difference: &Difference, at: usize) -> Contributor {
        let node = &difference.nodes[at];
        let path = difference.path(at);
        let mut before: Vec<i64> = self.base.iter().map(|it| it.critical_ns(&path)).collect();
        before.sort_unstable();
        let usual_ns = before[(before.len() * 95).div_ceil(100).max(1) - 1];
        let mut since: Vec<(i64, &Looked)> = self
            .now
            .iter()
            .map(|it| (it.critical_ns(&path), it))
            .collect();
        since.sort_by_key(|it| std::cmp::Reverse(it.0));
        let longer = since.iter().take_while(|it| it.0 > usual_ns).count();
        let per_request = |count: i64, requests: usize| count as f64 / requests as f64;
        Contributor {
            per_request_ns: (
                difference.base_per_request_ns(at, Measure::Critical),
                difference.per_request_ns(at, Measure::Critical),
            ),
            calls: (
                per_request(node.base.count, self.base.len()),
                per_request(node.amounts.count, self.now.len()),
            ),
            share: self.share * longer as f64 / since.len() as f64,
            examples: since
                .iter()
                .take(EXAMPLES_MAX)
                .map(|it| it.1.ids())
                .collect(),
            category: node.category.name().to_owned(),
            path: path.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// How many are of which instance; those whose sender does not say are left out.
fn by_instance(requests: &[Looked]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for it in requests.iter().filter(|it| !it.instance.is_empty()) {
        *counts.entry(it.instance.as_str()).or_default() += 1;
    }
    counts
}

fn ids(request: &ListedRequest) -> (String, String) {
    (request.trace_id.to_string(), request.span_id.to_string())
}

/// The newest requests of one side that took at least so long.
async fn rows(
    store: &Store,
    endpoint_id: i32,
    side: &Side,
    min_ns: u64,
) -> Result<Vec<ListedRequest>, StoreError> {
    let ns = |minute: i32| i64::from(minute).max(0) as u64 * 60_000_000_000;
    let filter = RequestFilter {
        from_ns: ns(side.minutes.from),
        until_ns: ns(side.minutes.to),
        min_ns,
        ..RequestFilter::newest(ROWS_MAX)
    };
    let mut rows = store
        .requests_of(&filter, Some(vec![endpoint_id]))
        .await?
        .rows;
    rows.retain(|it| {
        side.version
            .as_ref()
            .is_none_or(|version| it.version == *version)
    });
    Ok(rows)
}
