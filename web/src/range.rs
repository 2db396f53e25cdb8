//! What a page shows of all there is: the range of time and the filters in its address.
//!
//! Every view is an address; [`Filters::link`] makes one that differs in some parameters and keeps
//! the others. A time is either relative (`range=24h`, until now) or fixed (`from=…&to=…`, so that the
//! same address shows the same tomorrow).

use collector::deltas::{MINUTES_KEPT, first_of_hour};
use collector::store::bottlenecks::Minutes;
use collector::store::{Store, StoreError};
use url::form_urlencoded::{Serializer, parse};

use crate::format;
use crate::pages::PageError;
use crate::timestamps;

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// A filter's bytes at most: longer ones are no name of anything, and are refused.
const FILTER_BYTES_MAX: usize = 1_024;

/// Which time a page looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Range {
    /// 15 minutes.
    QuarterHour,
    /// An hour, unless the address says otherwise.
    #[default]
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// From a minute up to another, since the epoch.
    Fixed(Minutes),
}

/// What there is of each relative range: in an address, on a button, in a sentence (`in the last hour`),
/// in minutes.
const RELATIVE: [(&str, &str, &str, i32); 4] = [
    ("15m", "15 min", "last 15 minutes", 15),
    ("1h", "1 hour", "last hour", 60),
    ("24h", "24 hours", "last 24 hours", 24 * 60),
    ("7d", "7 days", "last 7 days", 7 * 24 * 60),
];

/// Minutes of a fixed range at most: what is beyond is refused, because each minute of each endpoint is read.
const MINUTES_MAX: i32 = 31 * 24 * 60;

/// The year 2540: what is later cannot be told from what is too large to be counted in ns.
const MINUTE_MAX: u64 = 300_000_000;

impl Range {
    /// The relative ones, shortest first.
    pub const ALL: [Range; 4] = [Range::QuarterHour, Range::Hour, Range::Day, Range::Week];

    /// A relative one as it stands in an address; an hour if nothing stands there.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn parse(id: &str) -> Result<Range, PageError> {
        if id.is_empty() {
            return Ok(Range::default());
        }
        let found = Range::ALL.into_iter().find(|it| it.id() == id);
        found.ok_or_else(|| {
            PageError::BadRequest("The range is none of 15m, 1h, 24h and 7d.".to_owned())
        })
    }

    fn relative(self) -> Option<(&'static str, &'static str, &'static str, i32)> {
        let at = Range::ALL.iter().position(|it| *it == self)?;
        Some(RELATIVE[at])
    }

    /// As it stands in an address behind `range=`; empty if it is a fixed one.
    pub fn id(self) -> &'static str {
        self.relative().map_or("", |it| it.0)
    }

    /// As it stands on a button.
    pub fn title(self) -> &'static str {
        self.relative().map_or("Chosen time", |it| it.1)
    }

    /// As it stands in a sentence: `in the last hour`.
    pub fn sentence(self) -> &'static str {
        self.relative().map_or("chosen time", |it| it.2)
    }

    /// Its length in minutes.
    pub fn minutes(self) -> i32 {
        match self {
            Range::Fixed(minutes) => minutes.to - minutes.from,
            _ => self.relative().map_or(0, |it| it.3),
        }
    }

    /// The parameters that ask for it: `range`, `from` and `to`, those that are not needed empty.
    pub fn parameters(self) -> [(&'static str, String); 3] {
        let (range, from, to) = match self {
            Range::Fixed(minutes) => {
                let at = |minute| format::at(minute_ns(minute));
                (String::new(), at(minutes.from), at(minutes.to))
            }
            relative if relative == Range::default() => Default::default(),
            relative => (relative.id().to_owned(), String::new(), String::new()),
        };
        [("range", range), ("from", from), ("to", to)]
    }

    /// The same as part of an address, with `&` in front; empty if it need not be said.
    pub fn query(self) -> String {
        let mut query = Serializer::new(String::new());
        let parameters = self.parameters();
        query.extend_pairs(parameters.iter().filter(|it| !it.1.is_empty()));
        let query = query.finish();
        if query.is_empty() {
            query
        } else {
            format!("&{query}")
        }
    }

    /// The minutes that it has at `now_ns`. Begins with a full ten minutes, because findings are counted
    /// in tens: costs and requests must be of the same time. A fixed range ends so too; what lies so long
    /// ago that its minutes are merged has whole hours.
    pub fn window(self, now_ns: u64) -> Minutes {
        let now = i32::try_from(now_ns / NS_PER_MINUTE).unwrap_or(i32::MAX - SKEW_MINUTES);
        let Range::Fixed(Minutes { from, to }) = self else {
            let from = now - self.minutes();
            return Minutes {
                from: from - from.rem_euclid(10),
                to: now.saturating_add(SKEW_MINUTES),
            };
        };
        let step = |minute: i32| match minute < first_of_hour(now - MINUTES_KEPT) {
            true => 60,
            false => 10,
        };
        let up = (-to).rem_euclid(step(to));
        Minutes {
            from: from - from.rem_euclid(step(from)),
            to: to
                .saturating_add(up)
                .min(now.saturating_add(SKEW_MINUTES))
                .max(from + 1),
        }
    }
}

/// Clocks ahead of ours: what seems to come from so many minutes ahead is shown.
const SKEW_MINUTES: i32 = 10;

/// When a minute begins, ns since the epoch.
pub fn minute_ns(minute: i32) -> u64 {
    u64::try_from(minute).unwrap_or_default() * NS_PER_MINUTE
}

/// The time of which a page speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covered {
    /// From when on there is data, ns since the epoch.
    pub from_ns: u64,
    /// Until when: now, or the end of a fixed range that is over, ns since the epoch.
    pub now_ns: u64,
}

/// Rates of less time than this would be nonsense: a second of data is not 3,600 times itself.
const COVERED_MIN_NS: u64 = 10_000_000_000;

/// With more than this the first minute's beginning is near enough to the first request.
const EXACT_BELOW_NS: u64 = 20 * NS_PER_MINUTE;

impl Covered {
    /// From the window's beginning, or from the first data in it if that is later.
    pub fn new(window: Minutes, first_minute: Option<i32>, now_ns: u64) -> Covered {
        let now_ns = now_ns.min(minute_ns(window.to));
        let from = first_minute.map_or(window.from, |it| it.max(window.from));
        Covered {
            from_ns: minute_ns(from).min(now_ns),
            now_ns,
        }
    }

    /// As [`Covered::new`], from the first request on instead of its minute's beginning, where that
    /// makes a difference: a fresh culprit would show half the rates.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn exact(
        store: &Store,
        window: Minutes,
        first_minute: Option<i32>,
        now_ns: u64,
    ) -> Result<Covered, StoreError> {
        let mut covered = Covered::new(window, first_minute, now_ns);
        let begins_within = first_minute.is_some_and(|it| it > window.from);
        if begins_within && covered.now_ns - covered.from_ns < EXACT_BELOW_NS {
            let first_ns = store.first_request_ns(covered.from_ns).await?;
            covered.from_ns = first_ns.unwrap_or(covered.from_ns).min(covered.now_ns);
        }
        Ok(covered)
    }

    /// How long, ns: at least ten seconds.
    pub fn ns(&self) -> u64 {
        self.now_ns.saturating_sub(self.from_ns).max(COVERED_MIN_NS)
    }

    /// What comes together within an hour if it goes on like this.
    pub fn per_hour(&self, sum: i64) -> u64 {
        let hours = self.ns() as f64 / (60.0 * NS_PER_MINUTE as f64);
        (sum.max(0) as f64 / hours).round() as u64
    }

    /// What comes together within a second.
    pub fn per_second(&self, sum: i64) -> f64 {
        sum.max(0) as f64 / (self.ns() as f64 / 1e9)
    }

    /// `14:32:08` to `15:31:40`, with days if it is long.
    pub fn text(&self) -> String {
        let day = 24 * 60 * NS_PER_MINUTE;
        if self.now_ns - self.from_ns > day / 2 {
            return format!(
                "{} to {}",
                format::day_and_minute(self.from_ns),
                format::day_and_minute(self.now_ns)
            );
        }
        format!(
            "{} to {}",
            format::clock(self.from_ns),
            format::clock(self.now_ns)
        )
    }
}

/// What an address asks to see. Empty texts mean all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filters {
    /// Which time.
    pub range: Range,
    /// A service's name.
    pub service: String,
    /// An environment.
    pub environment: String,
    /// An endpoint's name.
    pub endpoint: String,
    /// A detector's id.
    pub detector: String,
    /// A state of findings.
    pub state: String,
    /// What the page's table is sorted by.
    pub sort: String,
}

impl Filters {
    /// Reads the part of an address behind the question mark. Unknown parameters are left alone;
    /// of one that is given twice the last counts.
    ///
    /// # Errors
    /// The range is none of ours, a time is none, or a filter is longer than any name.
    pub fn parse(query: Option<&str>) -> Result<Filters, PageError> {
        let mut filters = Filters::default();
        let (mut from, mut to) = (String::new(), String::new());
        for (name, value) in parse(query.unwrap_or_default().as_bytes()) {
            if value.len() > FILTER_BYTES_MAX {
                return Err(PageError::BadRequest(format!(
                    "A filter in this address is longer than {FILTER_BYTES_MAX} bytes; no name is."
                )));
            }
            if name == "range" {
                filters.range = Range::parse(&value)?;
            } else if name == "from" {
                from = value.trim().to_owned();
            } else if name == "to" {
                to = value.trim().to_owned();
            } else if let Some(field) = filters.field(&name) {
                *field = value.trim().to_owned();
            }
        }
        if !from.is_empty() || !to.is_empty() {
            filters.range = fixed(&from, &to)?;
        }
        Ok(filters)
    }

    fn field(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "service" => &mut self.service,
            "env" => &mut self.environment,
            "endpoint" => &mut self.endpoint,
            "detector" => &mut self.detector,
            "state" => &mut self.state,
            "sort" => &mut self.sort,
            _ => return None,
        })
    }

    /// An address at `path` with these filters but for `changes`: (parameter, value), where an
    /// empty value takes the parameter out.
    pub fn link(&self, path: &str, changes: &[(&str, &str)]) -> String {
        let mut query = Serializer::new(String::new());
        for (name, value) in self.parameters() {
            // Another range takes the place of a fixed one.
            let is_dropped =
                ["from", "to"].contains(&name) && changes.iter().any(|it| it.0 == "range");
            let value = changes
                .iter()
                .find(|it| it.0 == name)
                .map_or(&*value, |it| it.1);
            if !value.is_empty() && !is_dropped {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        }
    }

    /// Every parameter that a form must carry along unless it has a field for it.
    pub fn hidden(&self, fields: &[&str]) -> Vec<(&'static str, String)> {
        let mut hidden = self.parameters();
        hidden.retain(|(name, value)| !value.is_empty() && !fields.contains(name));
        hidden
    }

    /// Something other than the range is chosen.
    pub fn is_narrowed(&self) -> bool {
        [
            &self.service,
            &self.environment,
            &self.endpoint,
            &self.detector,
            &self.state,
        ]
        .iter()
        .any(|it| !it.is_empty())
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.range.parameters().to_vec();
        let fields = [
            ("service", &self.service),
            ("env", &self.environment),
            ("endpoint", &self.endpoint),
            ("detector", &self.detector),
            ("state", &self.state),
            ("sort", &self.sort),
        ];
        parameters.extend(fields.map(|(name, value)| (name, value.clone())));
        parameters
    }
}

/// Reads a fixed range: of what lies within a minute, all of the minute. Without an end it goes on until
/// now, so that the window's end decides.
fn fixed(from: &str, to: &str) -> Result<Range, PageError> {
    let minute = |name: &str, text: &str, is_end: bool| {
        let refused = || {
            PageError::BadRequest(format!(
                "{name} is a time in UTC such as 2026-11-20T14:32 or 2026-11-20T14:32:08Z."
            ))
        };
        let ns = timestamps::lenient(text).ok_or_else(refused)?;
        let minute = if is_end {
            ns.div_ceil(NS_PER_MINUTE)
        } else {
            ns / NS_PER_MINUTE
        };
        let minute = Some(minute).filter(|it| *it < MINUTE_MAX);
        minute
            .and_then(|it| i32::try_from(it).ok())
            .ok_or_else(refused)
    };
    let from = minute("from", from, false)?;
    let to = match to {
        "" => from.saturating_add(MINUTES_MAX),
        to => minute("to", to, true)?,
    };
    if from >= to {
        return Err(PageError::BadRequest(
            "from is not before to: there is nothing in between.".to_owned(),
        ));
    }
    if to - from > MINUTES_MAX {
        return Err(PageError::BadRequest(
            "Between from and to are more than 31 days: choose less.".to_owned(),
        ));
    }
    Ok(Range::Fixed(Minutes { from, to }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_keep_what_they_do_not_change() {
        let filters =
            Filters::parse(Some("range=24h&service=a%26b&x=1&sort=p99&service=c%20d")).unwrap();
        assert_eq!(filters.service, "c d");
        assert_eq!(filters.link("/", &[]), "/?range=24h&service=c+d&sort=p99");
        assert_eq!(
            filters.link("/", &[("range", "15m"), ("sort", "")]),
            "/?range=15m&service=c+d"
        );
        assert_eq!(
            filters.hidden(&["service"]),
            [("range", "24h".to_owned()), ("sort", "p99".to_owned())]
        );
        let again = Filters::parse(filters.link("/", &[]).split_once('?').map(|it| it.1)).unwrap();
        assert_eq!(again, filters);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Filters::parse(Some("range=3h")).is_err());
        assert!(Filters::parse(Some(&format!("service={}", "x".repeat(2_000)))).is_err());
        assert_eq!(Filters::parse(None).unwrap(), Filters::default());
        assert_eq!(
            Filters::parse(Some("%ff=%fe&&==&service")).unwrap(),
            Filters::default()
        );
    }

    #[test]
    fn a_fixed_time_stays_in_links_until_another_is_chosen() {
        let query = "from=2026-11-20T14:32&to=2026-11-20T15:07:30Z&service=shop";
        let filters = Filters::parse(Some(query)).unwrap();
        let link = "/?from=2026-11-20T14%3A32%3A00Z&to=2026-11-20T15%3A08%3A00Z&service=shop";
        assert_eq!(filters.link("/", &[]), link);
        let again = Filters::parse(link.split_once('?').map(|it| it.1)).unwrap();
        assert_eq!(again, filters);
        assert_eq!(
            filters.link("/", &[("range", "15m")]),
            "/?range=15m&service=shop"
        );
        assert_eq!(filters.link("/", &[("range", "")]), "/?service=shop");
        assert_eq!(
            filters.range.query(),
            "&from=2026-11-20T14%3A32%3A00Z&to=2026-11-20T15%3A08%3A00Z"
        );
        assert_eq!(
            (Range::Hour.query(), Range::Day.query()),
            (String::new(), "&range=24h".into())
        );
        for query in [
            "to=2026-11-20T14:32",
            "from=yesterday",
            "from=2026-11-20T14:32&to=2026-11-20T14:32",
            "from=2026-11-20T14:32&to=2026-12-31T14:32",
            "from=9999-11-20T14:32",
        ] {
            assert!(Filters::parse(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn a_fixed_window_holds_whole_tens_and_long_ago_whole_hours() {
        let now = 1_000_007;
        let window = |from, to| {
            let window = Range::Fixed(Minutes { from, to }).window(minute_ns(now) + 5);
            (window.from, window.to)
        };
        assert_eq!(window(999_991, 999_995), (999_990, 1_000_000));
        assert_eq!(window(999_990, 1_000_000), (999_990, 1_000_000));
        assert_eq!(
            window(999_990, 2_000_000),
            (999_990, 1_000_017),
            "until now"
        );
        assert_eq!(window(990_001, 990_003), (990_000, 990_060));
        let covered = Covered::new(
            Minutes {
                from: 990_000,
                to: 990_060,
            },
            Some(990_000),
            minute_ns(now),
        );
        assert_eq!(covered.ns(), minute_ns(60), "an hour, and not until now");
        assert_eq!(covered.per_second(3_600), 1.0);
        window(1, 2);
        window(i32::MAX - 5, i32::MAX - 4);
    }

    #[test]
    fn windows_begin_with_full_tens() {
        let now_ns = minute_ns(1_000_007) + 5;
        let window = Range::QuarterHour.window(now_ns);
        assert_eq!((window.from, window.to), (999_990, 1_000_017));
        Range::Week.window(u64::MAX);
    }

    #[test]
    fn rates_are_of_the_time_that_has_data() {
        let now_ns = minute_ns(1_000);
        let window = Range::Hour.window(now_ns);
        let half = Covered::new(window, Some(970), now_ns);
        assert_eq!(half.per_hour(30), 60);
        let fresh = Covered::new(window, Some(1_000), now_ns);
        assert_eq!(fresh.ns(), COVERED_MIN_NS);
        let none = Covered::new(window, None, now_ns);
        assert_eq!(none.from_ns, minute_ns(940));
        assert_eq!(
            Covered::new(window, Some(1_005), now_ns).from_ns,
            now_ns,
            "a clock ahead"
        );
    }
}
