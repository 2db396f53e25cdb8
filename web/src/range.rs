//! What a page shows of all there is: the range of time and the filters in its address.
//!
//! Every view is an address; [`Filters::link`] makes one that differs in some parameters and keeps
//! the others.

use collector::store::bottlenecks::Minutes;
use collector::store::{Store, StoreError};
use url::form_urlencoded::{Serializer, parse};

use crate::format;
use crate::pages::PageError;

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// A filter's bytes at most: longer ones are no name of anything, and are refused.
const FILTER_BYTES_MAX: usize = 1_024;

/// How far back a page looks.
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
}

impl Range {
    /// All of them, shortest first.
    pub const ALL: [Range; 4] = [Range::QuarterHour, Range::Hour, Range::Day, Range::Week];

    /// As it stands in an address.
    pub fn id(self) -> &'static str {
        ["15m", "1h", "24h", "7d"][self as usize]
    }

    /// As it stands on a button.
    pub fn title(self) -> &'static str {
        ["15 min", "1 hour", "24 hours", "7 days"][self as usize]
    }

    /// As it stands in a sentence: `in the last hour`.
    pub fn sentence(self) -> &'static str {
        [
            "last 15 minutes",
            "last hour",
            "last 24 hours",
            "last 7 days",
        ][self as usize]
    }

    /// Its length in minutes.
    pub fn minutes(self) -> i32 {
        [15, 60, 24 * 60, 7 * 24 * 60][self as usize]
    }

    /// The minutes from this long ago up to `now_ns`. Begins with a full ten minutes, because
    /// findings are counted in tens: costs and requests must be of the same time.
    pub fn window(self, now_ns: u64) -> Minutes {
        let now = i32::try_from(now_ns / NS_PER_MINUTE).unwrap_or(i32::MAX - SKEW_MINUTES);
        let from = now - self.minutes();
        Minutes {
            from: from - from.rem_euclid(10),
            to: now.saturating_add(SKEW_MINUTES),
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
    /// Now, ns since the epoch.
    pub now_ns: u64,
}

/// Rates of less time than this would be nonsense: a second of data is not 3,600 times itself.
const COVERED_MIN_NS: u64 = 10_000_000_000;

/// With more than this the first minute's beginning is near enough to the first request.
const EXACT_BELOW_NS: u64 = 20 * NS_PER_MINUTE;

impl Covered {
    /// From the window's beginning, or from the first data in it if that is later.
    pub fn new(window: Minutes, first_minute: Option<i32>, now_ns: u64) -> Covered {
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
        if begins_within && now_ns - covered.from_ns < EXACT_BELOW_NS {
            let first_ns = store.first_request_ns(covered.from_ns).await?;
            covered.from_ns = first_ns.unwrap_or(covered.from_ns).min(now_ns);
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
    /// How far back.
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
    /// The range is none of ours, or a filter is longer than any name.
    pub fn parse(query: Option<&str>) -> Result<Filters, PageError> {
        let mut filters = Filters::default();
        for (name, value) in parse(query.unwrap_or_default().as_bytes()) {
            if value.len() > FILTER_BYTES_MAX {
                return Err(PageError::BadRequest(format!(
                    "A filter in this address is longer than {FILTER_BYTES_MAX} bytes; no name is."
                )));
            }
            if name == "range" {
                filters.range = range(&value)?;
            } else if let Some(field) = filters.field(&name) {
                *field = value.trim().to_owned();
            }
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
            let value = changes
                .iter()
                .find(|it| it.0 == name)
                .map_or(value, |it| it.1);
            if !value.is_empty() {
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
    pub fn hidden(&self, fields: &[&str]) -> Vec<(&'static str, &str)> {
        let mut hidden = self.parameters().to_vec();
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

    fn parameters(&self) -> [(&'static str, &str); 7] {
        let range = if self.range == Range::default() {
            ""
        } else {
            self.range.id()
        };
        [
            ("range", range),
            ("service", &self.service),
            ("env", &self.environment),
            ("endpoint", &self.endpoint),
            ("detector", &self.detector),
            ("state", &self.state),
            ("sort", &self.sort),
        ]
    }
}

fn range(value: &str) -> Result<Range, PageError> {
    let found = Range::ALL.into_iter().find(|it| it.id() == value);
    found.ok_or_else(|| {
        PageError::BadRequest("The range is none of 15m, 1h, 24h and 7d.".to_owned())
    })
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
            [("range", "24h"), ("sort", "p99")]
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
