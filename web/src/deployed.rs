//! Deployments as pages and the API ask for them, and as they stand on charts.

use collector::store::Store;
use collector::store::bottlenecks::Minutes;
use collector::store::deployments::{Deployment, DeploymentFilter};

use crate::address::Address;
use crate::compared::{self, Side};
use crate::format;
use crate::line_chart::Moment;
use crate::pages::PageError;
use crate::range::{Filters, minute_ns};
use crate::timestamps;

/// Deployments in one list; older ones are behind a link.
const LISTED_MAX: usize = 50;

/// Deployments marked in one chart, the latest: more lines would hide the chart.
const MARKED_MAX: i64 = 60;

/// Before and after a deployment so many minutes are compared: enough requests for most endpoints, and the
/// same time of day.
const COMPARED_MINUTES: i32 = 60;

/// What an address asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Listed {
    /// A service's name, or empty.
    pub service: String,
    /// An environment, or empty.
    pub environment: String,
    /// The newest first.
    pub deployments: Vec<Deployment>,
    /// The address of older ones, from the question mark on.
    pub older: Option<String>,
    /// These are not the newest.
    pub is_older: bool,
}

/// ms since the epoch as ns; what is before it is 0.
pub fn ms_to_ns(ms: i64) -> u64 {
    u64::try_from(ms)
        .unwrap_or_default()
        .saturating_mul(1_000_000)
}

/// The minute that a time in ms lies in, since the epoch.
pub fn minute_of_ms(ms: i64) -> i32 {
    i32::try_from(ms.div_euclid(60_000)).unwrap_or(i32::MAX)
}

/// Reads what `query` asks for: `service`, `env`, `range` (none: however old), `before`.
///
/// # Errors
/// A parameter makes no sense, or the database is away.
pub async fn read(store: &Store, query: Option<&str>, now_ns: u64) -> Result<Listed, PageError> {
    /// One that a clock ahead has told.
    const AHEAD_MS: i64 = 24 * 3_600_000;
    let address = Address::parse(query);
    let filters = Filters::parse(query)?;
    let ms = |ns: u64| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX);
    let before = match address.get("before") {
        None => None,
        Some(text) => Some(timestamps::lenient(text).ok_or_else(|| {
            PageError::BadRequest("before is a time such as 2026-11-20T14:32:08Z.".to_owned())
        })?),
    };
    let range_from = minute_ns(filters.range.window(now_ns).from);
    let filter = DeploymentFilter {
        service: &filters.service,
        environment: &filters.environment,
        service_id: None,
        from_ms: if address.has("range") {
            ms(range_from)
        } else {
            0
        },
        to_ms: before.map_or(ms(now_ns) + AHEAD_MS, ms),
        limit: LISTED_MAX as i64 + 1,
    };
    let mut deployments = store.deployments(&filter).await?;
    let has_more = deployments.len() > LISTED_MAX;
    deployments.truncate(LISTED_MAX);
    let last = deployments.last().filter(|_| has_more);
    let older = last.map(|it| address.with(&[("before", &format::at(ms_to_ns(it.at_ms)))]));
    Ok(Listed {
        older,
        is_older: before.is_some(),
        deployments,
        service: filters.service,
        environment: filters.environment,
    })
}

/// A version, or what stands for none.
pub fn version_title(version: &str) -> &str {
    if version.is_empty() {
        "(no version)"
    } else {
        version
    }
}

/// The page that compares before and after: of one endpoint, or of the whole service.
pub fn compare_link(it: &Deployment, endpoint_id: Option<i32>) -> String {
    let at = minute_of_ms(it.at_ms);
    let version = |version: &str| it.is_seen().then(|| version.to_owned());
    let next = it.next_at_ms.map_or(i32::MAX, minute_of_ms);
    let base = Side {
        version: version(&it.previous),
        minutes: Minutes {
            from: at - COMPARED_MINUTES,
            to: at,
        },
    };
    let side = Side {
        version: version(&it.version),
        minutes: Minutes {
            from: at,
            to: (at + COMPARED_MINUTES).min(next).max(at + 1),
        },
    };
    compared::link("/compare", it.service.id, endpoint_id, &base, &side)
}

/// What a chart of a service's (or of one endpoint's) requests is marked with between the two
/// times.
///
/// # Errors
/// The database is away.
pub async fn moments(
    store: &Store,
    service_id: i32,
    endpoint_id: Option<i32>,
    between_ns: (u64, u64),
) -> Result<Vec<Moment>, PageError> {
    let ms = |ns: u64| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX);
    let filter = DeploymentFilter {
        service_id: Some(service_id),
        from_ms: ms(between_ns.0),
        to_ms: ms(between_ns.1),
        limit: MARKED_MAX,
        ..DeploymentFilter::default()
    };
    let deployments = store.deployments(&filter).await?;
    Ok(deployments
        .iter()
        .map(|it| moment(it, endpoint_id))
        .collect())
}

fn moment(it: &Deployment, endpoint_id: Option<i32>) -> Moment {
    let version = version_title(&it.version);
    let after = match &*it.previous {
        "" => String::new(),
        previous => format!(" after {previous}"),
    };
    let at_ns = ms_to_ns(it.at_ms);
    Moment {
        at_ns,
        label: version.to_owned(),
        title: format!("{version}{after}, {} UTC", format::day_and_minute(at_ns)),
        href: compare_link(it, endpoint_id),
        is_bad: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::store::services::ServiceName;

    #[test]
    fn before_and_after_are_compared_by_version_if_versions_are_known() {
        let mut it = Deployment {
            id: 1,
            service: ServiceName {
                id: 3,
                namespace: String::new(),
                name: "shop".into(),
                environment: String::new(),
            },
            version: "1.1 & more".into(),
            previous: String::new(),
            at_ms: 6_000 * 60_000 + 5,
            next_at_ms: Some(6_010 * 60_000),
            source: "seen".into(),
            description: String::new(),
            url: String::new(),
        };
        assert_eq!(
            compare_link(&it, Some(7)),
            "/compare?endpoint_id=7&version=1.1+%26+more&from=1970-01-05T04%3A00%3A00Z&\
             to=1970-01-05T04%3A10%3A00Z&base=%28not+set%29&base_from=1970-01-05T03%3A00%3A00Z&\
             base_to=1970-01-05T04%3A00%3A00Z"
        );
        it.source = "told".into();
        it.next_at_ms = None;
        assert_eq!(
            compare_link(&it, None),
            "/compare?service_id=3&from=1970-01-05T04%3A00%3A00Z&to=1970-01-05T05%3A00%3A00Z&\
             base_from=1970-01-05T03%3A00%3A00Z&base_to=1970-01-05T04%3A00%3A00Z"
        );
    }
}
