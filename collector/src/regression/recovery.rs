//! Is what was slow fast again? Always compared with the numbers that the regression was opened with: a lasting one
//! must not become its own baseline.

use analyzer::regression::{Claim, Slot, is_back};

use super::Moment;
use super::candidate::Side;
use super::explain::mean_weight;
use super::hourly::STATEMENT_HOURS;
use super::windows::{DAY, minute_of, of_version};
use crate::store::bottlenecks::Minutes;
use crate::store::leases::Lease;
use crate::store::regressions::OpenRegression;
use crate::store::{Store, StoreError};

/// It has to look as before for so long, ms: one good minute is no recovery.
const CALM_MS: i64 = 5 * 60_000;

/// The minutes it is judged by: as few as tell, so that a roll-back is soon noticed.
const RECENT_MINUTES: i32 = 5;

/// If these are too few requests, so many minutes.
const WIDER_MINUTES: i32 = 60;

/// An endpoint that nobody asks any more is not slow any more, minutes.
const FORSAKEN: i32 = DAY;

/// Follows every open regression; those that are over are resolved. Returns the endpoints of these.
///
/// # Errors
/// The lease is lost, or Postgres failed.
pub async fn follow(
    store: &Store,
    lease: &Lease,
    moment: &Moment,
    open: &[OpenRegression],
) -> Result<Vec<i32>, StoreError> {
    let mut over = Vec::new();
    for regression in open {
        let calm_since = match standing(store, moment, regression).await? {
            Standing::Over(why) => {
                store
                    .resolve_regression(lease, regression.id, moment.now_ms, why)
                    .await?;
                over.push(regression.endpoint_id);
                continue;
            }
            Standing::Unknown => regression.calm_since_ms,
            Standing::Slow => None,
            Standing::AsBefore => Some(regression.calm_since_ms.unwrap_or(moment.now_ms)),
        };
        if calm_since.is_some_and(|since| moment.now_ms - since >= CALM_MS) {
            let why = "as fast as before for five minutes";
            store
                .resolve_regression(lease, regression.id, moment.now_ms, why)
                .await?;
            over.push(regression.endpoint_id);
        } else if calm_since != regression.calm_since_ms {
            store.note_calm(lease, regression.id, calm_since).await?;
        }
    }
    Ok(over)
}

enum Standing {
    Slow,
    AsBefore,
    /// Too few requests to say.
    Unknown,
    Over(&'static str),
}

async fn standing(
    store: &Store,
    moment: &Moment,
    regression: &OpenRegression,
) -> Result<Standing, StoreError> {
    let numbers = &regression.numbers;
    let claim = Claim {
        quantile: numbers.quantile,
        before_ns: numbers.before_ns,
        after_ns: numbers.after_ns,
        p_value: numbers.p_value,
    };
    for minutes in recent(moment, regression) {
        // Those of the version that became slower, as long as there are any: beside many others they would not be seen.
        let mut side = Side {
            minutes,
            version: None,
            version_id: regression.version_id,
        };
        let mut now = slots(store, regression, &side).await?;
        if now.is_empty() && side.version_id.is_some() {
            side.version_id = None;
            now = slots(store, regression, &side).await?;
        }
        let weight = mean_weight(store, regression.endpoint_id, &side).await?;
        // What was measured then stands for the past: what is stored of it becomes coarser, and goes.
        match is_back(&[], &now, weight.unwrap_or(1.0), &claim) {
            Some(true) => return Ok(Standing::AsBefore),
            Some(false) => return Ok(Standing::Slow),
            None => {}
        }
    }
    let day = Minutes {
        from: moment.until - FORSAKEN,
        to: moment.until,
    };
    let is_old = minute_of(regression.detected_ms) < day.from;
    let any = Side {
        minutes: day,
        version: None,
        version_id: None,
    };
    if is_old && slots(store, regression, &any).await?.is_empty() {
        return Ok(Standing::Over("no requests for a day"));
    }
    Ok(Standing::Unknown)
}

/// By which minutes it is judged: the last few, or if these are too few requests more of them. Never those before it
/// was found, nor those of another version than now.
fn recent(moment: &Moment, regression: &OpenRegression) -> Vec<Minutes> {
    if regression.statement_id != 0 {
        let to = moment.until / 60 * 60;
        let from = to - 60 * STATEMENT_HOURS;
        let is_after = from >= minute_of(regression.detected_ms);
        return Vec::from_iter(is_after.then_some(Minutes { from, to }));
    }
    if regression.kind == "drift" {
        // What crept over days is judged by whole days: it is always faster at night.
        let from = moment.until - DAY;
        let is_after = from >= minute_of(regression.detected_ms);
        let to = moment.until;
        return Vec::from_iter(is_after.then_some(Minutes { from, to }));
    }
    let endpoint = moment.endpoints.get(&regression.endpoint_id);
    let deployments = moment.latest_deployments();
    let deployed = endpoint.and_then(|it| deployments.get(&it.service_id));
    let first = deployed
        .map_or(0, |it| minute_of(it.at_ms) + 1)
        .max(minute_of(regression.detected_ms) - RECENT_MINUTES);
    let widths = [RECENT_MINUTES, WIDER_MINUTES].into_iter();
    let recent = widths.map(|width| Minutes {
        from: (moment.until - width).max(first),
        to: moment.until,
    });
    recent.filter(|it| it.from < it.to).collect()
}

async fn slots(
    store: &Store,
    regression: &OpenRegression,
    side: &Side,
) -> Result<Vec<Slot>, StoreError> {
    let (id, minutes) = (regression.endpoint_id, side.minutes);
    if regression.statement_id == 0 {
        let slots = store.endpoint_slots(id, minutes).await?;
        return Ok(of_version(&slots, side.version_id, minutes, &[]));
    }
    let hours = minutes.from / 60..minutes.to.div_euclid(60);
    let mut all = store.statement_slots(id, hours).await?;
    let slots = all.remove(&regression.statement_id).unwrap_or_default();
    Ok(slots.into_values().collect())
}
