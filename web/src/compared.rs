//! Two sets of requests beside each other: version against version, or time against time, of one
//! endpoint or of all endpoints of a service. Everything that is chosen stands in the address.
//!
//! ```text
//! base                         side (what is looked at)
//! 13:05 ├──────── 1.0 ────────┤├──────── 1.1 ────────┤ 15:05     minutes: exactly
//! 13:00 ├──── 1.0 ────────────────┤                              call paths, statements: whole hours,
//!                     14:00 ├──── 1.1 ────────────────┤ 16:00    told apart by version or by time
//! ```

use analyzer::category::Category;
use analyzer::profile::Measure;
use collector::deltas::MinuteDelta;
use collector::store::Store;
use collector::store::bottlenecks::Minutes;
use collector::store::compared::{CountedSide, OfVersion, SideFinding};
use collector::store::encoding::StatementCalls;
use collector::store::endpoints::EndpointName;
use collector::store::profiles::hours;
use collector::store::services::ServiceName;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range as Between;
use url::form_urlencoded;

use crate::address::Address;
use crate::format;
use crate::line_chart::PERCENTILES;
use crate::pages::call_paths::{
    self, CallPaths, Requests, measure_id, version_name, version_of, version_text,
};
use crate::pages::endpoint;
use crate::pages::{PageError, SERVICES};
use crate::range::{Range, minute_ns};
use crate::timestamps;

/// Minutes of one side at most: what is beyond is refused, because each minute of each endpoint is read.
const MINUTES_MAX: i32 = 31 * 24 * 60;

/// The year 2540: what is later cannot be told from what is too large to be counted in ns.
const MINUTE_MAX: i32 = 300_000_000;

/// A parameter's bytes at most: longer ones are no version and no time.
const PARAMETER_BYTES_MAX: usize = 1_024;

/// Statements shown: what is beyond differs by next to nothing.
const STATEMENTS_MAX: usize = 15;

/// Requests that a percentile needs: with fewer, the chance that all of them lie below the true percentile is
/// more than 5 % (`1 - q^n < 0.95`), and what is shown is a maximum and no percentile.
pub const REQUESTS_NEEDED: [i64; PERCENTILES.len()] = [5, 29, 59, 299];

/// Requests that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Only of this version, empty for senders that set none; `None`: of any.
    pub version: Option<String>,
    /// When.
    pub minutes: Minutes,
}

/// Of what.
#[derive(Clone, PartialEq, Debug)]
pub enum Subject {
    /// One endpoint.
    Endpoint(EndpointName),
    /// All endpoints of a service.
    Service(ServiceName),
}

/// What an address asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// Of what.
    pub subject: Subject,
    /// What it is compared with.
    pub base: Side,
    /// What is looked at.
    pub side: Side,
    /// Which of a call path's times.
    pub measure: Measure,
    /// The id of the path the flame graph is zoomed to.
    pub path: Option<String>,
    /// Now, ns since the epoch: sides end there at the latest.
    pub now_ns: u64,
}

/// An endpoint on both sides, base first.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointPair {
    /// endpoints.id
    pub id: i32,
    /// Such as `GET /posts`.
    pub name: String,
    /// Requests of both sides; none where it was not asked.
    pub sums: [MinuteDelta; 2],
}

/// A statement on both sides, base first.
#[derive(Clone, PartialEq, Debug)]
pub struct StatementPair {
    /// statements.id
    pub id: i32,
    /// db.system.name
    pub system: String,
    /// Without literals.
    pub text: String,
    /// Calls of both sides.
    pub calls: [StatementCalls; 2],
    /// Calls per request.
    pub per_request: [f64; 2],
    /// How much longer all its calls take per request, ns.
    pub change_ns: i64,
}

/// What is kept by the hour only.
#[derive(Clone, PartialEq, Debug)]
pub struct ByHours {
    /// The call paths of both.
    pub paths: CallPaths,
    /// Those that changed, the greatest change first.
    pub statements: Vec<StatementPair>,
    /// More changed than are listed.
    pub has_more_statements: bool,
}

/// Both sides, read. Base first in every pair.
#[derive(Clone, PartialEq, Debug)]
pub struct Compared {
    /// What was asked for.
    pub asked: Asked,
    /// All requests of each.
    pub sides: [CountedSide; 2],
    /// Of a service; of one endpoint it is the only one.
    pub endpoints: Vec<EndpointPair>,
    /// Findings that show now and did not before.
    pub new: Vec<SideFinding>,
    /// Findings that showed before and do not now.
    pub gone: Vec<SideFinding>,
    /// Findings on both sides.
    pub both: usize,
    /// Of one endpoint: what is known by the hour, or why nothing can be told apart.
    pub by_hours: Option<Result<ByHours, String>>,
}

impl Side {
    /// `version 1.1, 14:05 to 15:05 UTC`
    pub fn name(&self, now_ns: u64) -> String {
        let time = self.time(now_ns);
        match &self.version {
            Some(version) => format!("{}, {time}", version_name(version)),
            None => time,
        }
    }

    /// `14:05 to 15:05 UTC`, with days if they are not today's.
    pub fn time(&self, now_ns: u64) -> String {
        let (from, to) = (minute_ns(self.minutes.from), minute_ns(self.minutes.to));
        let is_now = to >= now_ns;
        let end = if is_now { now_ns } else { to };
        let text = |ns: u64| {
            let text = format::day_and_minute(ns);
            let day = |ns: u64| ns / 86_400_000_000_000;
            match day(from) == day(now_ns) && day(end) == day(now_ns) {
                true => text.rsplit(' ').next().unwrap_or_default().to_owned(),
                false => text,
            }
        };
        match is_now {
            true => format!("{} UTC until now", text(from)),
            false => format!("{} to {} UTC", text(from), text(to)),
        }
    }

    fn of_version(&self) -> OfVersion<'_> {
        OfVersion {
            minutes: self.minutes,
            version: self.version.as_deref(),
        }
    }

    /// How long it is, up to now, seconds.
    fn seconds(&self, now_ns: u64) -> f64 {
        let end = minute_ns(self.minutes.to).min(now_ns);
        end.saturating_sub(minute_ns(self.minutes.from)) as f64 / 1e9
    }
}

/// An address at `path` of two sides.
pub fn link(
    path: &str,
    service_id: i32,
    endpoint_id: Option<i32>,
    base: &Side,
    side: &Side,
) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    match endpoint_id {
        Some(id) => query.append_pair("endpoint_id", &id.to_string()),
        None => query.append_pair("service_id", &service_id.to_string()),
    };
    for (side, [version, from, to]) in [
        (side, ["version", "from", "to"]),
        (base, ["base", "base_from", "base_to"]),
    ] {
        if let Some(text) = &side.version {
            query.append_pair(version, version_text(text));
        }
        query.append_pair(from, &format::at(minute_ns(side.minutes.from)));
        query.append_pair(to, &format::at(minute_ns(side.minutes.to)));
    }
    format!("{path}?{}", query.finish())
}

impl Asked {
    /// Reads an address: `endpoint_id` or `service_id`; `version`, `from`, `to` of what is looked at (or `range`
    /// until now, an hour if nothing is said); `base`, `base_from`, `base_to` of what it is compared with (if
    /// nothing is said: of another version the same time, else as long right before). `None` if nobody says of what.
    ///
    /// # Errors
    /// There is no such endpoint or service, a parameter makes no sense, or the database is away.
    pub async fn parse(
        store: &Store,
        query: Option<&str>,
        now_ns: u64,
    ) -> Result<Option<Asked>, PageError> {
        let address = Address::parse(query);
        let subject = if let Some(id) = address.get("endpoint_id") {
            Subject::Endpoint(endpoint::named(store, id).await?)
        } else if let Some(id) = address.get("service_id") {
            Subject::Service(service(store, id).await?)
        } else {
            return Ok(None);
        };
        let (base, side) = sides(&address, now_ns)?;
        Ok(Some(Asked {
            subject,
            base,
            side,
            measure: measure(&address)?,
            path: address.get("path").map(str::to_owned),
            now_ns,
        }))
    }

    /// Its address at `path`, of any endpoint or of the service, unzoomed.
    pub fn link(&self, path: &str, endpoint_id: Option<i32>) -> String {
        let link = link(path, self.service().id, endpoint_id, &self.base, &self.side);
        match self.measure {
            Measure::Critical => link,
            measure => format!("{link}&measure={}", measure_id(measure)),
        }
    }

    /// The endpoint, if it is of one.
    pub fn endpoint(&self) -> Option<&EndpointName> {
        match &self.subject {
            Subject::Endpoint(endpoint) => Some(endpoint),
            Subject::Service(_) => None,
        }
    }

    /// The service that it is of.
    pub fn service(&self) -> &ServiceName {
        match &self.subject {
            Subject::Endpoint(endpoint) => &endpoint.service,
            Subject::Service(service) => service,
        }
    }

    /// What a reader has to keep in mind: the sides overlap.
    pub fn overlap(&self) -> bool {
        let (a, b) = (self.base.minutes, self.side.minutes);
        !are_versions_apart(&self.base, &self.side) && a.from < b.to && b.from < a.to
    }
}

async fn service(store: &Store, id: &str) -> Result<ServiceName, PageError> {
    let found = match id.parse() {
        Ok(id) => store.service(id).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| PageError::Missing("There is no such service.".into(), SERVICES))
}

fn measure(address: &Address) -> Result<Measure, PageError> {
    match address.get("measure") {
        None | Some("critical") => Ok(Measure::Critical),
        Some("self") => Ok(Measure::SelfTime),
        Some(_) => Err(PageError::BadRequest(
            "measure is critical (time on the critical path) or self (all work).".to_owned(),
        )),
    }
}

/// Base and side.
fn sides(address: &Address, now_ns: u64) -> Result<(Side, Side), PageError> {
    let length = Range::parse(address.get("range").unwrap_or_default())?.minutes();
    let now = i32::try_from(now_ns / minute_ns(1)).unwrap_or(i32::MAX - 1);
    let version = version(address, "version")?;
    let base_version = self::version(address, "base")?;
    let to = minute(address, "to", true)?.unwrap_or(now + 1);
    let from = minute(address, "from", false)?.unwrap_or(to - length);
    // Links from deployments say how much is wanted; what is yet to come is no part of it.
    let to = if from <= now { to.min(now + 1) } else { to };
    let minutes = window(["from", "to"], from, to)?;
    // Versions answer side by side: they are compared over the same time unless somebody says otherwise.
    let is_by_version = base_version.is_some() && base_version != version;
    let base_to = if is_by_version { to } else { from };
    let base_to = minute(address, "base_to", true)?.unwrap_or(base_to);
    let base_from = minute(address, "base_from", false)?.unwrap_or(base_to - (to - from));
    let base = Side {
        version: base_version,
        minutes: window(["base_from", "base_to"], base_from, base_to)?,
    };
    Ok((base, Side { version, minutes }))
}

fn version(address: &Address, name: &str) -> Result<Option<String>, PageError> {
    let text = address.get(name).unwrap_or_default();
    if text.len() > PARAMETER_BYTES_MAX {
        return Err(PageError::BadRequest(format!(
            "{name} is longer than {PARAMETER_BYTES_MAX} bytes; no version is."
        )));
    }
    Ok(version_of(text))
}

/// The minute of a time; what ends within a minute has all of it.
fn minute(address: &Address, name: &str, is_end: bool) -> Result<Option<i32>, PageError> {
    let Some(text) = address.get(name) else {
        return Ok(None);
    };
    let ns = timestamps::lenient(text).ok_or_else(|| {
        PageError::BadRequest(format!("{name} is a time such as 2026-11-20T14:32:08Z."))
    })?;
    let minute = if is_end {
        ns.div_ceil(minute_ns(1))
    } else {
        ns / minute_ns(1)
    };
    let minute = i32::try_from(minute).ok().filter(|it| *it < MINUTE_MAX);
    let too_far = || PageError::BadRequest(format!("{name} lies too far in the future."));
    Ok(Some(minute.ok_or_else(too_far)?))
}

fn window([first, last]: [&str; 2], from: i32, to: i32) -> Result<Minutes, PageError> {
    if from >= to {
        return Err(PageError::BadRequest(format!(
            "{first} is not before {last}: there is nothing in between."
        )));
    }
    if to - from > MINUTES_MAX {
        return Err(PageError::BadRequest(format!(
            "Between {first} and {last} are more than 31 days: choose less."
        )));
    }
    Ok(Minutes { from, to })
}

fn are_versions_apart(base: &Side, side: &Side) -> bool {
    matches!((&base.version, &side.version), (Some(a), Some(b)) if a != b)
}

/// The hours that stand for each side where only hours are kept, base first; or why the sides cannot be
/// told apart.
fn hours_apart(base: &Side, side: &Side) -> Result<[Between<i32>; 2], String> {
    let both = [hours(base.minutes), hours(side.minutes)];
    if are_versions_apart(base, side) {
        return Ok(both);
    }
    let [a, b] = &both;
    let shared = a.start.max(b.start)..a.end.min(b.end);
    if shared.is_empty() {
        return Ok(both);
    }
    // What an hour holds of both sides is left out of both.
    let without = |hours: &Between<i32>| {
        if hours.start < shared.start {
            hours.start..shared.start
        } else {
            shared.end..hours.end
        }
    };
    let apart = [without(a), without(b)];
    if apart.iter().any(|it| it.is_empty()) {
        return Err(
            "Call paths and statements are kept by the hour, and both sides lie in the same hours: they \
             cannot be told apart. Compare versions, or times that are further apart."
                .to_owned(),
        );
    }
    Ok(apart)
}

/// Reads both sides.
///
/// # Errors
/// The database is away.
pub async fn read(store: &Store, asked: Asked) -> Result<Compared, PageError> {
    let names = match &asked.subject {
        Subject::Endpoint(endpoint) => BTreeMap::from([(endpoint.id, endpoint.name.clone())]),
        Subject::Service(service) => store.service_endpoints(service.id).await?,
    };
    let ids: Vec<i32> = names.keys().copied().collect();
    let counted = async |side: &Side| {
        store
            .counted_side(&ids, side.minutes, side.version.as_deref())
            .await
    };
    let (base_of, side_of) = (asked.base.of_version(), asked.side.of_version());
    let by_hours = async {
        match asked.endpoint() {
            Some(endpoint) => Ok(Some(
                by_hours(store, endpoint, &asked.base, &asked.side).await?,
            )),
            None => Ok(None),
        }
    };
    let (mut base, mut side, before, now, by_hours) = futures_util::try_join!(
        async { Ok::<_, PageError>(counted(&asked.base).await?) },
        async { Ok(counted(&asked.side).await?) },
        async { Ok(store.side_findings(&ids, base_of, side_of).await?) },
        async { Ok(store.side_findings(&ids, side_of, base_of).await?) },
        by_hours,
    )?;
    let sides = [together(&base), together(&side)];
    let endpoints = names.into_iter().filter_map(|(id, name)| {
        let sums = [&mut base, &mut side].map(|it| it.remove(&id).unwrap_or_default().sums);
        let is_asked = sums.iter().any(|it| it.requests > 0);
        is_asked.then_some(EndpointPair { id, name, sums })
    });
    let mut endpoints: Vec<EndpointPair> = endpoints.collect();
    endpoints.sort_by_key(|it| (std::cmp::Reverse(it.added_ns().unsigned_abs()), it.id));
    // What may have shown on both sides is neither new nor gone.
    let only = |of: Vec<SideFinding>, other: &[SideFinding]| -> Vec<SideFinding> {
        let is_there = |it: &SideFinding| other.iter().any(|other| other.id == it.id);
        of.into_iter()
            .filter(|it| !it.may_be_on_other && !is_there(it))
            .collect()
    };
    let known: BTreeSet<i32> = before.iter().chain(&now).map(|it| it.id).collect();
    let new = only(now.clone(), &before);
    let gone = only(before, &now);
    Ok(Compared {
        both: known.len() - new.len() - gone.len(),
        gone,
        new,
        sides,
        endpoints,
        by_hours,
        asked,
    })
}

fn together(endpoints: &BTreeMap<i32, CountedSide>) -> CountedSide {
    let mut all = CountedSide {
        from: i32::MAX,
        ..CountedSide::default()
    };
    for it in endpoints.values() {
        all.sums.merge(&it.sums, 1);
        all.from = all.from.min(it.from);
        all.to = all.to.max(it.to);
        all.has_hours |= it.has_hours;
    }
    all
}

/// The call paths of both sides, or why they cannot be told apart.
///
/// # Errors
/// The database is away.
pub async fn call_paths(
    store: &Store,
    endpoint: &EndpointName,
    base: &Side,
    side: &Side,
) -> Result<Result<CallPaths, String>, PageError> {
    let hours = match hours_apart(base, side) {
        Ok(hours) => hours,
        Err(why) => return Ok(Err(why)),
    };
    let requests = async |side: &Side, hours: &Between<i32>| -> Result<Requests, PageError> {
        let version = side.version.as_deref();
        let profiles = store
            .endpoint_profiles(endpoint.id, hours.clone(), version)
            .await?;
        let time = call_paths::time(hours);
        Ok(Requests {
            name: match version {
                Some(version) => format!("{} ({time})", version_name(version)),
                None => time,
            },
            hours: hours.clone(),
            counted: profiles.all,
        })
    };
    Ok(Ok(CallPaths {
        versions: Vec::new(),
        base: Some(requests(base, &hours[0]).await?),
        of: requests(side, &hours[1]).await?,
        hours_requests: None,
    }))
}

async fn by_hours(
    store: &Store,
    endpoint: &EndpointName,
    base: &Side,
    side: &Side,
) -> Result<Result<ByHours, String>, PageError> {
    let paths = match call_paths(store, endpoint, base, side).await? {
        Ok(paths) => paths,
        Err(why) => return Ok(Err(why)),
    };
    let statements = async |side: &Side, requests: Option<&Requests>| {
        let hours = requests.map_or(0..0, |it| it.hours.clone());
        let version = side.version.as_deref();
        store.side_statements(endpoint.id, hours, version).await
    };
    let before = statements(base, paths.base.as_ref()).await?;
    let now = statements(side, Some(&paths.of)).await?;
    let requests = [paths.base.as_ref(), Some(&paths.of)]
        .map(|it| it.map_or(0, |it| it.counted.requests).max(0));
    let mut changed = changed_statements([before, now], requests);
    let has_more_statements = changed.len() > STATEMENTS_MAX;
    changed.truncate(STATEMENTS_MAX);
    let ids: Vec<i32> = changed.iter().map(|it| it.id).collect();
    let mut texts = store.statement_texts(&ids).await?;
    for it in &mut changed {
        (it.system, it.text) = texts.remove(&it.id).unwrap_or_default();
    }
    Ok(Ok(ByHours {
        paths,
        statements: changed,
        has_more_statements,
    }))
}

/// Those that are sent more or less often, or take another time; texts are yet to be read.
fn changed_statements(
    [mut before, now]: [BTreeMap<i32, StatementCalls>; 2],
    requests: [i64; 2],
) -> Vec<StatementPair> {
    /// Less than this is what the sketches' bins and whole hours make of the same.
    const SAME: f64 = 0.03;
    // Without requests on a side everything would be new, or gone.
    if requests.contains(&0) {
        return Vec::new();
    }
    let per = |number: i64, side: usize| number as f64 / requests[side] as f64;
    let mut pairs: Vec<StatementPair> = Vec::new();
    let mut add = |id: i32, calls: [StatementCalls; 2]| {
        let per_request = [0, 1].map(|side| per(calls[side].calls, side));
        let time = [0, 1].map(|side| per(calls[side].sum_ns, side));
        let p95 = [0, 1].map(|side| p95(&calls[side]) as f64);
        let differs = |[a, b]: [f64; 2]| (a - b).abs() > SAME * a.max(b);
        if differs(per_request) || differs(p95) {
            pairs.push(StatementPair {
                id,
                system: String::new(),
                text: String::new(),
                calls,
                per_request,
                change_ns: (time[1] - time[0]).round() as i64,
            });
        }
    };
    for (id, calls) in now {
        add(id, [before.remove(&id).unwrap_or_default(), calls]);
    }
    for (id, calls) in before {
        add(id, [calls, StatementCalls::default()]);
    }
    pairs.sort_by_key(|it| (std::cmp::Reverse(it.change_ns.unsigned_abs()), it.id));
    pairs
}

/// ns; 0 without calls.
pub fn p95(calls: &StatementCalls) -> u64 {
    calls.latency.quantile(0.95).unwrap_or(0)
}

impl EndpointPair {
    /// How much more time its requests take together than they would have taken before, ns; 0 if it
    /// was asked on one side only.
    pub fn added_ns(&self) -> i64 {
        let [base, side] = &self.sums;
        if base.requests <= 0 || side.requests <= 0 {
            return 0;
        }
        let added = mean_ns(side) as i128 - mean_ns(base) as i128;
        i64::try_from(added * i128::from(side.requests)).unwrap_or(i64::MAX)
    }
}

/// The mean duration, ns; 0 without requests.
pub fn mean_ns(sums: &MinuteDelta) -> i64 {
    match sums.requests {
        ..=0 => 0,
        requests => sums.duration_ns / requests,
    }
}

/// A category's time on the critical path per request, ns.
pub fn category_ns(sums: &MinuteDelta, category: Category) -> i64 {
    match sums.requests {
        ..=0 => 0,
        requests => sums.categories[category as usize] / requests,
    }
}

/// Logical calls of a category per request.
pub fn calls(sums: &MinuteDelta, category: Category) -> f64 {
    sums.calls[category as usize] as f64 / sums.requests.max(1) as f64
}

impl Compared {
    /// Requests a second of each.
    pub fn rates(&self) -> [f64; 2] {
        let sides = [&self.asked.base, &self.asked.side];
        [0, 1].map(|at| {
            let seconds = sides[at].seconds(self.asked.now_ns).max(1.0);
            self.sides[at].sums.requests.max(0) as f64 / seconds
        })
    }

    /// A side has requests of merged hours, which may reach beyond it: the hours that are counted, in words.
    pub fn counted(&self, at: usize) -> Option<String> {
        let it = &self.sides[at];
        let text = |minute: i32| format::day_and_minute(minute_ns(minute));
        it.has_hours
            .then(|| format!("{} to {} UTC", text(it.from), text(it.to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 1_795_185_128_000_000_000;
    const NOW: i32 = (NOW_NS / 60_000_000_000) as i32;

    fn parsed(query: &str) -> Result<(Side, Side), PageError> {
        sides(&Address::parse(Some(query)), NOW_NS)
    }

    fn side(version: Option<&str>, from: i32, to: i32) -> Side {
        Side {
            version: version.map(str::to_owned),
            minutes: Minutes { from, to },
        }
    }

    #[test]
    fn what_is_left_open_is_the_last_hour_and_the_one_before() {
        let now = NOW + 1;
        assert_eq!(
            parsed("").unwrap(),
            (side(None, now - 120, now - 60), side(None, now - 60, now))
        );
        assert_eq!(
            parsed("version=2&base=(not set)&range=24h").unwrap(),
            (
                side(Some(""), now - 1_440, now),
                side(Some("2"), now - 1_440, now)
            )
        );
        let (base, looked_at) = parsed("from=2026-11-20T12:00&to=2026-11-20T12:30:30Z").unwrap();
        assert_eq!(looked_at.minutes.to - looked_at.minutes.from, 31);
        assert_eq!(base.minutes.to, looked_at.minutes.from);
        assert_eq!(base.minutes.to - base.minutes.from, 31);
    }

    #[test]
    fn an_address_leads_to_what_it_was_made_of() {
        let base = side(Some(""), NOW - 200, NOW - 100);
        let looked_at = side(Some("1.1 & <b>"), NOW - 60, NOW);
        let link = link("/compare", 3, None, &base, &looked_at);
        let query = link.split_once('?').unwrap().1;
        assert_eq!(parsed(query).unwrap(), (base, looked_at));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for query in [
            "from=yesterday",
            "from=2026-11-20T12:00&to=2026-11-20T12:00",
            "from=2026-01-20T12:00&to=2026-11-20T12:00",
            "base_from=2030-01-01T00:00Z",
            "to=9999-12-31T00:00Z",
            &format!("base={}", "x".repeat(2_000)),
        ] {
            assert!(parsed(query).is_err(), "{query}");
        }
    }

    #[test]
    fn sides_are_told_apart_by_hours_or_by_version() {
        let hours = |base: &Side, side: &Side| hours_apart(base, side).ok();
        let one = side(Some("1"), 605, 665);
        let two = side(Some("2"), 665, 725);
        assert_eq!(hours(&one, &two), Some([10..12, 11..13]));
        let (before, after) = (side(None, 605, 665), side(None, 665, 725));
        assert_eq!(hours(&before, &after), Some([10..11, 12..13]));
        assert_eq!(hours(&after, &before), Some([12..13, 10..11]));
        assert_eq!(hours(&side(None, 605, 615), &side(None, 615, 625)), None);
        assert_eq!(hours(&one, &side(None, 605, 665)), None);
        assert_eq!(hours(&side(None, 0, 60), &after), Some([0..1, 11..13]));
    }

    #[test]
    fn needed_requests_follow_from_the_percentile() {
        for ((_, _, q), needed) in PERCENTILES.into_iter().zip(REQUESTS_NEEDED) {
            let certain = |n: i64| 1.0 - q.powi(n as i32) >= 0.95;
            assert!(certain(needed) && !certain(needed - 1), "{q}");
        }
    }

    fn sent(calls: i64, ns: u64) -> StatementCalls {
        let mut sent = StatementCalls {
            calls,
            sum_ns: calls * ns as i64,
            ..StatementCalls::default()
        };
        sent.latency.record(ns, calls);
        sent
    }

    #[test]
    fn statements_that_changed_come_by_what_they_cost() {
        let before = BTreeMap::from([
            (1, sent(100, 1_000)),
            (2, sent(100, 1_000)),
            (3, sent(100, 1_000)),
        ]);
        let now = BTreeMap::from([
            (1, sent(201, 1_000)),
            (2, sent(200, 9_000)),
            (4, sent(200, 5_000)),
        ]);
        let changed = changed_statements([before.clone(), now.clone()], [100, 200]);
        let shown: Vec<_> = changed.iter().map(|it| (it.id, it.change_ns)).collect();
        assert_eq!(shown, [(2, 8_000), (4, 5_000), (3, -1_000)]);
        assert_eq!(changed_statements([before, now], [0, 200]), []);
    }
}
