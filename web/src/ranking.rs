//! Findings ranked by what they cost: the numbers of the front page, of a finding's page and of
//! their JSON, made in one place.

use analyzer::sketch::Sketch;
use collector::deltas::MINUTES_KEPT;
use collector::life::State;
use collector::store::bottlenecks::{EndpointWindow, FindingFacts, HitsWindow, Minutes};
use collector::store::lives::Settled;
use collector::store::{Store, StoreError};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::pages::PageError;
use crate::range::{Covered, Filters, minute_ns};

/// What the list can be sorted by, most first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sort {
    /// What a fix saves per hour.
    #[default]
    Cost,
    /// How much more it costs than in the period before.
    Growth,
    /// What a fix takes off the endpoint's P99.
    Gain,
    /// What a fix saves of an affected request.
    Saved,
    /// How long the endpoint's slow requests keep people, however often they come.
    Agony,
    /// Calls in an affected request.
    Calls,
    /// The endpoint's P99.
    P99,
    /// The endpoint's P95.
    P95,
    /// The endpoint's median.
    P50,
    /// The endpoint's requests.
    Requests,
    /// When the finding was first seen, newest first.
    FirstSeen,
}

impl Sort {
    /// All of them, as they are offered.
    pub const ALL: [Sort; 11] = [
        Sort::Cost,
        Sort::Growth,
        Sort::Gain,
        Sort::Saved,
        Sort::Agony,
        Sort::Calls,
        Sort::P99,
        Sort::P95,
        Sort::P50,
        Sort::Requests,
        Sort::FirstSeen,
    ];

    /// As it stands in an address.
    pub fn id(self) -> &'static str {
        match self {
            Sort::Cost => "cost",
            Sort::Growth => "growth",
            Sort::Gain => "gain",
            Sort::Saved => "saved",
            Sort::Agony => "agony",
            Sort::Calls => "calls",
            Sort::P99 => "p99",
            Sort::P95 => "p95",
            Sort::P50 => "p50",
            Sort::Requests => "requests",
            Sort::FirstSeen => "first_seen",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Sort::Cost => "Cost per hour",
            Sort::Growth => "Grown most",
            Sort::Gain => "P99 gained",
            Sort::Saved => "Saved per request",
            Sort::Agony => "Agony",
            Sort::Calls => "Calls per request",
            Sort::P99 => "P99",
            Sort::P95 => "P95",
            Sort::P50 => "P50",
            Sort::Requests => "Requests",
            Sort::FirstSeen => "First seen",
        }
    }

    /// How it is computed.
    pub fn formula(self) -> &'static str {
        match self {
            Sort::Cost => "what a fix saves on the critical path × affected requests per hour",
            Sort::Growth => "cost per hour now − cost per hour in the period before",
            Sort::Gain => {
                "P99 of the endpoint − its P99 if every affected request took less by what a fix saves"
            }
            Sort::Saved => "median of what a fix saves on the critical path of an affected request",
            Sort::Agony => "P95 of the endpoint × its requests per hour",
            Sort::Calls => "median of the calls in an affected request",
            Sort::P99 => "P99 of all requests of the endpoint",
            Sort::P95 => "P95 of all requests of the endpoint",
            Sort::P50 => "median of all requests of the endpoint",
            Sort::Requests => "requests of the endpoint per hour",
            Sort::FirstSeen => "when the finding was first seen, the newest first",
        }
    }

    /// From an address; empty: by cost.
    ///
    /// # Errors
    /// There is no such order.
    pub fn parse(id: &str) -> Result<Sort, PageError> {
        let found = Self::ALL.into_iter().find(|it| it.id() == id);
        match (id, found) {
            ("", _) => Ok(Sort::Cost),
            (_, Some(sort)) => Ok(sort),
            _ => {
                let ids = Self::ALL.map(Sort::id).join(", ");
                let text = format!("The list can be sorted by one of {ids}.");
                Err(PageError::BadRequest(text))
            }
        }
    }

    /// What is most of it comes first; equals stay ranked by cost.
    fn key(self, row: &Row) -> f64 {
        let quantile = |q| row.endpoint.latency.quantile(q).unwrap_or(0) as f64;
        match self {
            Sort::Cost => row.cost_ns as f64,
            Sort::Growth => row.cost_ns as f64 - row.before_ns.unwrap_or(row.cost_ns) as f64,
            Sort::Gain => row
                .quantile(0.99)
                .map_or(0.0, |(before, after)| (before - after) as f64),
            Sort::Saved => row.saved_median_ns() as f64,
            Sort::Agony => quantile(0.95) * row.endpoint.requests.max(0) as f64,
            Sort::Calls => row.hits.hits.calls.quantile(0.5).unwrap_or(0) as f64,
            Sort::P99 => quantile(0.99),
            Sort::P95 => quantile(0.95),
            Sort::P50 => quantile(0.5),
            Sort::Requests => row.endpoint.requests as f64,
            Sort::FirstSeen => row.facts.first_seen_ns as f64,
        }
    }
}

/// A finding within a window.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What is known of it.
    pub facts: FindingFacts,
    /// What it did.
    pub hits: HitsWindow,
    /// All requests of its endpoint.
    pub endpoint: EndpointWindow,
    /// What a fix saves per hour, ns.
    pub cost_ns: u64,
    /// The same in the period before, ns; `None` if too little is known of that time.
    pub before_ns: Option<u64>,
    /// `cost_ns` as a share of all waiting, 0 to 1.
    pub share: f64,
    /// Its place by cost, from 1, however the list is sorted.
    pub rank: usize,
}

/// How a finding's cost compares with the period before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Change {
    /// It cost nothing then.
    New,
    /// By this share of what it cost: 0.5 is half as much again, -1 is gone.
    By(f64),
}

/// What is known of the period before: as long as the range, and up to its beginning.
#[derive(Clone, PartialEq, Debug)]
pub struct Before {
    /// The part of it that has data.
    pub covered: Covered,
    /// What fixing each finding would have saved in it, ns.
    pub saved_ns: BTreeMap<i32, i64>,
}

/// Findings are counted in tens of minutes: less of a period is no period.
const BEFORE_MINUTES_MIN: i32 = 10;

/// And less than this part of it says too little of the rest.
const BEFORE_PART_MIN: i32 = 4;

/// What a finding cost within a part of the time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CostPoint {
    /// When the part begins, ns since the epoch.
    pub from_ns: u64,
    /// What a fix saves per hour, ns.
    pub per_hour_ns: u64,
}

/// Findings are counted in tens of minutes.
const SLOT_NS: u64 = 600_000_000_000;

const SLOTS_PER_HOUR: u64 = 6;

fn minute(ns: u64) -> i32 {
    i32::try_from(ns / 60_000_000_000).unwrap_or(i32::MAX)
}

impl Row {
    /// A quantile of the endpoint's durations, ns: as it is and as it would be without the finding.
    pub fn quantile(&self, q: f64) -> Option<(u64, u64)> {
        let mut fixed = self.endpoint.latency.clone();
        fixed.subtract(&self.hits.hits.before);
        fixed.merge(&self.hits.hits.after);
        let before = self.endpoint.latency.quantile(q)?;
        // A bin is 2 % wide: what is saved may be less than the error.
        Some((before, fixed.quantile(q)?.min(before)))
    }

    /// How its cost compares with the period before; `None` if too little is known of that time, or if it
    /// cost nothing in both.
    pub fn change(&self) -> Option<Change> {
        match (self.before_ns?, self.cost_ns) {
            (0, 0) => None,
            (0, _) => Some(Change::New),
            (before, now) => Some(Change::By(now as f64 / before as f64 - 1.0)),
        }
    }

    /// The share of the endpoint's requests that show it, 0 to 1.
    pub fn affected(&self) -> f64 {
        if self.endpoint.requests <= 0 {
            return 0.0;
        }
        (self.hits.requests as f64 / self.endpoint.requests as f64).clamp(0.0, 1.0)
    }

    /// What a fix saves of an affected request, ns: the median.
    pub fn saved_median_ns(&self) -> u64 {
        self.hits.hits.saved.quantile(0.5).unwrap_or_default()
    }

    /// What it costs over the covered time, oldest first, at most `points_max` points.
    pub fn cost_over_time(&self, covered: Covered, points_max: u64) -> Vec<CostPoint> {
        let (mut first, last) = (covered.from_ns / SLOT_NS, covered.now_ns / SLOT_NS);
        let mut slots = (last - first) / points_max.max(1) + 1;
        if (last - first) * SLOT_NS > MINUTES_KEPT as u64 * minute_ns(1) {
            // Older ones are merged into hours: a point must hold whole ones.
            slots = slots.next_multiple_of(SLOTS_PER_HOUR);
            first -= first % SLOTS_PER_HOUR;
        }
        let step_ns = slots * SLOT_NS;
        let begins = (first * SLOT_NS..=last * SLOT_NS).step_by(step_ns as usize);
        begins
            .map(|from_ns| self.cost_within(from_ns, from_ns + step_ns, covered))
            .collect()
    }

    fn cost_within(&self, from_ns: u64, to_ns: u64, covered: Covered) -> CostPoint {
        let minutes = minute(from_ns)..minute(to_ns);
        let saved_ns = self.hits.slots.range(minutes).map(|it| *it.1).sum();
        // The first part may begin before there is data, the last one goes on.
        let within = Covered {
            from_ns: from_ns.max(covered.from_ns),
            now_ns: to_ns.min(covered.now_ns),
        };
        CostPoint {
            from_ns,
            per_hour_ns: within.per_hour(saved_ns),
        }
    }

    /// `info`, `warning` or `critical`.
    pub fn severity(&self) -> &'static str {
        ["info", "warning", "critical"]
            .get(self.facts.severity as usize)
            .unwrap_or(&"info")
    }

    /// The detector's name for people.
    pub fn detector_title(&self) -> &str {
        detector_title(&self.facts.detector)
    }
}

/// A detector's name for people; its id if there is no such detector (any more).
pub fn detector_title(id: &str) -> &str {
    analyzer::detectors::ALL
        .iter()
        .find(|it| it.id == id)
        .map_or(id, |it| it.title)
}

/// All requests that the filters let through, together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Requests, weighted: of those endpoints that users ask, see [`front`].
    pub requests: i64,
    /// Failed ones.
    pub errors: i64,
    /// Durations added up, ns.
    pub waiting_ns: i64,
    /// Durations.
    pub latency: Sketch,
    /// Endpoints with requests, the inner ones too.
    pub endpoints: usize,
    /// Requests of the inner endpoints too.
    pub requests_of_all: i64,
}

/// Everything of the front page.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// The minutes looked at.
    pub window: Minutes,
    /// The time the rates are of.
    pub covered: Covered,
    /// All requests together.
    pub totals: Totals,
    /// Sorted as asked.
    pub rows: Vec<Row>,
    /// State → findings, whatever state is chosen.
    pub states: BTreeMap<String, usize>,
    /// What there is to choose from, whatever is chosen.
    pub choices: Choices,
}

/// What the filters could be.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// Services with requests in the window.
    pub services: BTreeSet<String>,
    /// Their environments; those without a name are left out.
    pub environments: BTreeSet<String>,
    /// Detectors with findings in the window: id.
    pub detectors: BTreeSet<String>,
}

impl Ranking {
    /// Waiting per hour, ns.
    pub fn waiting_per_hour_ns(&self) -> u64 {
        self.covered.per_hour(self.totals.waiting_ns)
    }

    /// What all fixes together save per hour, ns. Findings of a service and of the one it asks may
    /// speak of the same time, so never more than all waiting.
    pub fn avoidable_per_hour_ns(&self) -> u64 {
        let sum = self
            .rows
            .iter()
            .fold(0_u64, |sum, it| sum.saturating_add(it.cost_ns));
        sum.min(self.waiting_per_hour_ns())
    }
}

/// Reads and ranks.
///
/// # Errors
/// The order makes no sense, or the database does not answer.
pub async fn load(store: &Store, filters: &Filters, now_ns: u64) -> Result<Ranking, PageError> {
    let sort = Sort::parse(&filters.sort)?;
    let states = states(&filters.state)?;
    let window = filters.range.window(now_ns);
    let endpoints = store.endpoint_windows(window).await?;
    let hits = store.hits_windows(window, None).await?;
    let settled = store.settled_findings().await?;
    let seen = hits.iter().filter(|it| it.1.requests > 0).map(|it| *it.0);
    let mut ids: BTreeSet<i32> = seen.collect();
    // What is resolved has no requests in the window: it is listed all the same, if that is asked for.
    let asked = |it: &&Settled| states.iter().any(|state| state.name() == it.state);
    ids.extend(
        settled
            .iter()
            .filter(asked)
            .take(SETTLED_MAX)
            .map(|it| it.id),
    );
    let ids: Vec<i32> = ids.into_iter().collect();
    let facts = store.finding_facts(&ids).await?;
    let covered = Covered::exact(store, window, first_minute(&endpoints), now_ns).await?;
    let before = before(store, filters, window).await?;
    Ok(rank(
        filters,
        (&states, sort),
        (window, covered, before.as_ref()),
        endpoints,
        (facts, &settled),
        hits,
    ))
}

/// The period before `window`; `None` if culprit knows too little of it.
async fn before(
    store: &Store,
    filters: &Filters,
    window: Minutes,
) -> Result<Option<Before>, StoreError> {
    let length = filters.range.minutes();
    let minutes = Minutes {
        from: window.from - length,
        to: window.from,
    };
    let Some(first) = store.first_minute(minutes).await? else {
        return Ok(None);
    };
    if window.from - first < (length / BEFORE_PART_MIN).max(BEFORE_MINUTES_MIN) {
        return Ok(None);
    }
    Ok(Some(Before {
        covered: Covered::new(minutes, Some(first), minute_ns(window.from)),
        saved_ns: store.saved_within(minutes).await?,
    }))
}

/// Settled findings without requests in the window that a list shows at most: the latest ones.
const SETTLED_MAX: usize = 500;

/// The states that a list is asked for; none: those that need somebody.
///
/// # Errors
/// There is no such state.
pub fn states(chosen: &str) -> Result<Vec<State>, PageError> {
    match chosen {
        "" | "active" => return Ok(State::SHOWN.to_vec()),
        "all" => return Ok(State::ALL.to_vec()),
        _ => {}
    }
    let states = chosen.split(',').map(|it| State::parse(it.trim()));
    states.collect::<Option<_>>().ok_or_else(|| {
        let names = State::ALL.map(State::name).join(", ");
        PageError::BadRequest(format!(
            "A state is one or several, with commas, of {names}; or all of them: all."
        ))
    })
}

/// A state as people call it.
pub fn state_title(name: &str) -> &str {
    if name == State::Regressed.name() {
        "came back"
    } else {
        name
    }
}

/// One finding with its numbers; `None` if there is no such finding.
///
/// # Errors
/// The database does not answer.
pub async fn load_one(
    store: &Store,
    id: i32,
    filters: &Filters,
    now_ns: u64,
) -> Result<Option<(Row, Covered)>, StoreError> {
    let Some(facts) = store.finding_facts(&[id]).await?.pop() else {
        return Ok(None);
    };
    let window = filters.range.window(now_ns);
    let endpoints = store.endpoint_windows(window).await?;
    let mut hits = store.hits_windows(window, Some(id)).await?;
    let covered = Covered::exact(store, window, first_minute(&endpoints), now_ns).await?;
    let totals = totals(endpoints.values().collect());
    let hits = hits.remove(&id).unwrap_or_default();
    Ok(Some((
        row(facts, hits, &endpoints, &totals, covered),
        covered,
    )))
}

fn rank(
    filters: &Filters,
    (states, sort): (&[State], Sort),
    (window, covered, before): (Minutes, Covered, Option<&Before>),
    endpoints: BTreeMap<i32, EndpointWindow>,
    (facts, settled): (Vec<FindingFacts>, &[Settled]),
    mut hits: HashMap<i32, HitsWindow>,
) -> Ranking {
    let chosen = |it: &&EndpointWindow| is_chosen(filters, &it.service, &it.environment, &it.name);
    let totals = totals(endpoints.values().filter(chosen).collect());
    let mut ranking = Ranking {
        window,
        covered,
        totals,
        rows: Vec::new(),
        states: BTreeMap::new(),
        choices: choices(&endpoints, &facts),
    };
    let listed: BTreeSet<i32> = facts.iter().map(|it| it.id).collect();
    for it in settled.iter().filter(|it| !listed.contains(&it.id)) {
        if is_chosen(filters, &it.service, &it.environment, &it.endpoint)
            && (filters.detector.is_empty() || filters.detector == it.detector)
        {
            *ranking.states.entry(it.state.clone()).or_default() += 1;
        }
    }
    for facts in facts {
        if !is_chosen(filters, &facts.service, &facts.environment, &facts.endpoint)
            || !(filters.detector.is_empty() || filters.detector == facts.detector)
        {
            continue;
        }
        *ranking.states.entry(facts.state.clone()).or_default() += 1;
        if states.iter().any(|it| it.name() == facts.state) {
            let hits = hits.remove(&facts.id).unwrap_or_default();
            let before_ns = before.map(|it| {
                let saved_ns = it.saved_ns.get(&facts.id).copied().unwrap_or_default();
                it.covered.per_hour(saved_ns)
            });
            ranking.rows.push(Row {
                before_ns,
                ..row(facts, hits, &endpoints, &ranking.totals, covered)
            });
        }
    }
    sort_rows(&mut ranking.rows, sort);
    ranking
}

fn is_chosen(filters: &Filters, service: &str, environment: &str, endpoint: &str) -> bool {
    (filters.service.is_empty() || filters.service == service)
        && (filters.environment.is_empty() || filters.environment == environment)
        && (filters.endpoint.is_empty() || filters.endpoint == endpoint)
}

fn first_minute(endpoints: &BTreeMap<i32, EndpointWindow>) -> Option<i32> {
    endpoints.values().map(|it| it.first_minute).min()
}

fn choices(endpoints: &BTreeMap<i32, EndpointWindow>, facts: &[FindingFacts]) -> Choices {
    let environments = endpoints.values().map(|it| it.environment.clone());
    Choices {
        services: endpoints.values().map(|it| it.service.clone()).collect(),
        environments: environments.filter(|it| !it.is_empty()).collect(),
        detectors: facts.iter().map(|it| it.detector.clone()).collect(),
    }
}

fn row(
    facts: FindingFacts,
    hits: HitsWindow,
    endpoints: &BTreeMap<i32, EndpointWindow>,
    totals: &Totals,
    covered: Covered,
) -> Row {
    let endpoint = endpoints
        .get(&facts.endpoint_id)
        .cloned()
        .unwrap_or_default();
    let waiting_ns = totals.waiting_ns.max(1) as f64;
    Row {
        cost_ns: covered.per_hour(hits.saved_ns),
        share: (hits.saved_ns.max(0) as f64 / waiting_ns).min(1.0),
        before_ns: None,
        facts,
        hits,
        endpoint,
        rank: 0,
    }
}

/// Those that users ask: nobody waits twice because one service asks another. If there are none
/// among the chosen ones, all of them.
fn front<'a>(endpoints: &[&'a EndpointWindow]) -> Vec<&'a EndpointWindow> {
    let front: Vec<_> = endpoints.iter().copied().filter(|it| it.front).collect();
    if front.is_empty() {
        endpoints.to_vec()
    } else {
        front
    }
}

fn totals(endpoints: Vec<&EndpointWindow>) -> Totals {
    let mut totals = Totals {
        endpoints: endpoints.len(),
        requests_of_all: endpoints.iter().map(|it| it.requests).sum(),
        ..Totals::default()
    };
    for it in front(&endpoints) {
        totals.requests += it.requests;
        totals.errors += it.errors;
        totals.waiting_ns = totals.waiting_ns.saturating_add(it.duration_ns);
        totals.latency.merge(&it.latency);
    }
    totals
}

/// Of those that cost nothing the latest change stands first.
fn settled_last(row: &Row) -> Reverse<u64> {
    Reverse(match row.cost_ns {
        0 => row.facts.state_since_ns,
        _ => 0,
    })
}

fn sort_rows(rows: &mut [Row], sort: Sort) {
    // First by cost, so that equals stay ranked by it.
    rows.sort_by_key(|it| (Reverse(it.cost_ns), settled_last(it), it.facts.id));
    for (at, row) in rows.iter_mut().enumerate() {
        row.rank = at + 1;
    }
    if sort != Sort::Cost {
        rows.sort_by(|a, b| sort.key(b).total_cmp(&sort.key(a)));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// 100 requests of 400 ms in two minutes, half of them showing a finding that costs 300 ms.
    pub fn drawn(filters: &Filters, sort: Sort) -> Ranking {
        let (mut endpoint, mut inner) = (EndpointWindow::default(), EndpointWindow::default());
        for (it, id, name) in [
            (&mut endpoint, 1, "GET /posts"),
            (&mut inner, 2, "GET /inner"),
        ] {
            (it.id, it.first_minute, it.requests) = (id, 998, 100);
            (it.duration_ns, it.front) = (100 * 400 * MS as i64, id == 1);
            (it.name, it.service) = (name.into(), format!("shop-{id}"));
            it.latency.record(400 * MS, 100);
        }
        let fact = |id: i32, title: &str| FindingFacts {
            id,
            title: title.into(),
            state: if id == 1 { "new" } else { "open" }.into(),
            detector: "n-plus-one-query".into(),
            service: format!("shop-{id}"),
            endpoint_id: id,
            endpoint: if id == 1 { "GET /posts" } else { "GET /inner" }.into(),
            ..FindingFacts::default()
        };
        let facts = vec![
            fact(1, "31 × select authors"),
            fact(2, "<script>alert(1)</script>"),
        ];
        let hits = |saved_ms: u64| {
            let mut it = HitsWindow {
                requests: 50,
                traces: 50,
                ..HitsWindow::default()
            };
            it.saved_ns = (50 * saved_ms * MS) as i64;
            it.hits.saved.record(saved_ms * MS, 50);
            it.hits.before.record(400 * MS, 50);
            it.hits.after.record((400 - saved_ms) * MS, 50);
            it.slots.insert(990, it.saved_ns);
            it
        };
        let window = Minutes {
            from: 940,
            to: 1_010,
        };
        let endpoints = BTreeMap::from([(1, endpoint), (2, inner)]);
        let covered = Covered::new(window, first_minute(&endpoints), minute_ns(1_000));
        let all = HashMap::from([(1, hits(300)), (2, hits(30))]);
        let states = states(&filters.state).unwrap();
        // An hour before, the first cost 6 min and the second nothing.
        let before = Before {
            covered: Covered {
                from_ns: minute_ns(880),
                now_ns: minute_ns(940),
            },
            saved_ns: BTreeMap::from([(1, 360_000 * MS as i64)]),
        };
        rank(
            filters,
            (&states, sort),
            (window, covered, Some(&before)),
            endpoints,
            (facts, &settled()),
            all,
        )
    }

    /// Another finding of the first endpoint, which is resolved, and one of the second.
    fn settled() -> [Settled; 2] {
        [1, 2].map(|id| Settled {
            id: 10 + id,
            state: "resolved".into(),
            detector: "n-plus-one-query".into(),
            service: format!("shop-{id}"),
            environment: String::new(),
            endpoint: if id == 1 { "GET /posts" } else { "GET /inner" }.into(),
        })
    }

    #[test]
    fn states_are_names_with_commas() {
        let names = |chosen| {
            let states = states(chosen).unwrap();
            states.into_iter().map(State::name).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["new", "open", "acknowledged", "regressed"]);
        assert_eq!(names("ignored, resolved"), ["ignored", "resolved"]);
        assert_eq!(names("all").len(), 6);
        for wrong in ["fixed", "new,", "New", "new,,open"] {
            let Err(PageError::BadRequest(text)) = states(wrong) else {
                panic!("{wrong}");
            };
            assert!(text.contains("regressed"), "{text}");
        }
    }

    #[test]
    fn settled_ones_are_counted_and_not_listed() {
        let ranking = drawn(&Filters::default(), Sort::Cost);
        assert_eq!(ranking.rows.len(), 2);
        assert_eq!(ranking.states["resolved"], 2);
        let filters = Filters::parse(Some("service=shop-1&state=resolved")).unwrap();
        let ranking = drawn(&filters, Sort::Cost);
        assert_eq!((ranking.rows.len(), ranking.states["resolved"]), (0, 1));
    }

    #[test]
    fn costs_are_what_a_fix_saves_per_hour() {
        let ranking = drawn(&Filters::default(), Sort::Cost);
        let ids: Vec<i32> = ranking.rows.iter().map(|it| it.facts.id).collect();
        assert_eq!(ids, [1, 2]);
        // Two minutes: 30 times as much per hour.
        assert_eq!(ranking.rows[0].cost_ns, 50 * 300 * 30 * MS);
        assert_eq!(
            ranking.waiting_per_hour_ns(),
            100 * 400 * 30 * MS,
            "the inner one is not waited for twice"
        );
        assert_eq!(ranking.rows[0].share, 0.375);
        assert_eq!(ranking.rows[0].affected(), 0.5);
        let (before, after) = ranking.rows[0].quantile(0.5).unwrap();
        assert!(
            before > 390 * MS && (95 * MS..105 * MS).contains(&after),
            "{before} {after}"
        );
    }

    #[test]
    fn costs_are_compared_with_the_period_before() {
        let ranking = drawn(&Filters::default(), Sort::Cost);
        let change = |at: usize| ranking.rows[at].change();
        assert_eq!(change(0), Some(Change::By(0.25)));
        assert_eq!(change(1), Some(Change::New));
        let mut row = ranking.rows[0].clone();
        row.before_ns = None;
        assert_eq!(row.change(), None);
        (row.before_ns, row.cost_ns) = (Some(0), 0);
        assert_eq!(row.change(), None);
    }

    #[test]
    fn every_order_has_a_name_in_addresses_and_a_formula() {
        for sort in Sort::ALL {
            assert_eq!(Sort::parse(sort.id()).unwrap(), sort);
            assert!(!sort.title().is_empty() && !sort.formula().is_empty());
            let ranking = drawn(&Filters::default(), sort);
            assert_eq!(ranking.rows.len(), 2);
            let keys: Vec<f64> = ranking.rows.iter().map(|it| sort.key(it)).collect();
            assert!(keys[0] >= keys[1], "{sort:?}: {keys:?}");
        }
        let grown = drawn(&Filters::default(), Sort::Growth);
        assert_eq!(
            (grown.rows[0].facts.id, grown.rows[0].rank),
            (1, 1),
            "90 s more, against 45 s"
        );
        let Err(PageError::BadRequest(text)) = Sort::parse("colour") else {
            panic!("there is no such order");
        };
        assert!(text.contains("agony"), "{text}");
    }

    #[test]
    fn filters_choose_rows_and_requests() {
        let filters = Filters::parse(Some("service=shop-2&state=open")).unwrap();
        let ranking = drawn(&filters, Sort::FirstSeen);
        assert_eq!(ranking.rows.len(), 1);
        assert_eq!(
            ranking.totals.requests, 100,
            "an inner service counts if it alone is chosen"
        );
        assert_eq!(ranking.choices.services.len(), 2);
        assert!(Sort::parse("colour").is_err());
        let none = drawn(&Filters::parse(Some("detector=x")).unwrap(), Sort::Cost);
        assert!(none.rows.is_empty());
    }
}
