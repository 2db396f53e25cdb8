//! What is worth an alert: the same form in the configuration file, over the API and in the database.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::notification::Severity;

/// Bytes of a name or a pattern. Longer ones are a mistake, and names stand in every message.
const TEXT_BYTES_MAX: usize = 200;

/// Names of one rule's detectors or channels: a list longer than all there are is a mistake.
const NAMES_MAX: usize = 50;

/// `for-seconds` and `keep-firing-seconds`: what is told a day late helps nobody.
const DELAY_SECONDS_MAX: u32 = 86_400;

/// `repeat-seconds`: reminders more often than each minute are noise, rarer than monthly are none.
const REPEAT_SECONDS: std::ops::RangeInclusive<u32> = 60..=30 * 86_400;

/// `min-traces` unless told otherwise: one or two may be chance.
pub const TRACES_MIN: u32 = 3;

/// `minutes`: roll-ups are by minute, and old minutes are merged into hours.
const MINUTES: std::ops::RangeInclusive<u32> = 1..=60;

/// One rule. Reading one checks it too: keys that are unknown or say nothing under its `when`, and
/// numbers out of range, are errors that name them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Written")]
pub struct Rule {
    /// Names it everywhere; the label `alertname`.
    pub name: String,
    /// What has to be true.
    #[serde(flatten)]
    pub condition: Condition,
    /// It has to be true for so long before anybody is told, s.
    pub for_seconds: u32,
    /// It has to be false for so long before it counts as resolved, s.
    pub keep_firing_seconds: u32,
    /// While it lasts it is told again after so long, s; 0: never.
    pub repeat_seconds: u32,
    /// The severity of its alerts; else that of the finding or regression, or `warning`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The channels' names; none: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
}

/// What has to be true. Patterns may hold `*`, which matches anything.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(
    tag = "when",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Condition {
    /// A detector found something.
    Finding {
        /// Detectors' ids, or patterns of them; one that begins with `!` takes away what it matches.
        detectors: Vec<String>,
        /// At least so bad.
        min_severity: Severity,
        /// In at least so many traces: one may be chance.
        min_traces: u32,
        /// Services' names, or a pattern.
        service: String,
        /// Endpoints' names, or a pattern.
        endpoint: String,
    },
    /// An endpoint or a statement became slower.
    Regression {
        /// At least so bad.
        min_severity: Severity,
        /// Services' names, or a pattern.
        service: String,
        /// Endpoints' names, or a pattern.
        endpoint: String,
    },
    /// A number is beyond a limit: "p99 of POST /checkout above 800 ms over 5 minutes".
    Threshold {
        /// Of what.
        measure: Measure,
        /// ms for percentiles, percent for `error-rate`, requests per second for `rate`.
        above: f64,
        /// Over the last so many minutes, 1 to 60.
        minutes: u32,
        /// With at least so many requests in that time: fewer tell nothing.
        min_requests: u32,
        /// Services' names, or a pattern.
        service: String,
        /// Endpoints' names, or a pattern; each endpoint that matches is judged by itself.
        endpoint: String,
    },
}

/// What a threshold is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The median duration.
    P50,
    /// What 90 % of requests do not exceed.
    P90,
    /// What 95 % of requests do not exceed.
    P95,
    /// What 99 % of requests do not exceed.
    P99,
    /// Failed requests.
    ErrorRate,
    /// Requests per second.
    Rate,
}

impl Measure {
    /// As people say it.
    pub fn words(self) -> &'static str {
        match self {
            Measure::P50 => "p50",
            Measure::P90 => "p90",
            Measure::P95 => "p95",
            Measure::P99 => "p99",
            Measure::ErrorRate => "error rate",
            Measure::Rate => "rate",
        }
    }

    /// What follows a number of it, with the space before if there is one.
    pub fn unit(self) -> &'static str {
        match self {
            Measure::ErrorRate => " %",
            Measure::Rate => " requests/s",
            _ => " ms",
        }
    }

    /// The share of requests that a percentile's value is not exceeded by.
    pub fn quantile(self) -> Option<f64> {
        match self {
            Measure::P50 => Some(0.5),
            Measure::P90 => Some(0.9),
            Measure::P95 => Some(0.95),
            Measure::P99 => Some(0.99),
            Measure::ErrorRate | Measure::Rate => None,
        }
    }
}

/// `text` is what `pattern` says; `*` stands for anything, also for nothing. Takes at most the product of
/// both lengths.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        // No star.
        return rest.is_empty();
    };
    // The first place that fits leaves the most room to what follows.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A detector's id is what the patterns say: at least one matches and none of those with `!`.
pub fn is_chosen(patterns: &[String], detector: &str) -> bool {
    let (without, with): (Vec<&str>, Vec<&str>) = patterns
        .iter()
        .map(String::as_str)
        .partition(|it| it.starts_with('!'));
    (with.is_empty() || with.iter().any(|it| matches(it, detector)))
        && !without.iter().any(|it| matches(&it[1..], detector))
}

impl Rule {
    /// Looks for what cannot be meant.
    ///
    /// # Errors
    /// A number is out of range, a name is missing, no detector is called so: says which and what is
    /// possible.
    pub fn validate(&self) -> Result<(), String> {
        let is_text = |it: &str| {
            !it.trim().is_empty() && it.len() <= TEXT_BYTES_MAX && !it.contains(char::is_control)
        };
        if !is_text(&self.name) {
            return Err(format!(
                "a rule's name has 1 to {TEXT_BYTES_MAX} bytes and no control characters"
            ));
        }
        for (key, seconds) in [
            ("for-seconds", self.for_seconds),
            ("keep-firing-seconds", self.keep_firing_seconds),
        ] {
            if seconds > DELAY_SECONDS_MAX {
                return Err(format!("`{key}` is at most {DELAY_SECONDS_MAX}, a day"));
            }
        }
        if self.repeat_seconds != 0 && !REPEAT_SECONDS.contains(&self.repeat_seconds) {
            return Err(format!(
                "`repeat-seconds` is 0 (never) or from {} to {}",
                REPEAT_SECONDS.start(),
                REPEAT_SECONDS.end()
            ));
        }
        if self.channels.len() > NAMES_MAX || !self.channels.iter().all(|it| is_text(it)) {
            return Err(format!("`channels` are at most {NAMES_MAX} names"));
        }
        for (key, pattern) in [("service", self.service()), ("endpoint", self.endpoint())] {
            if !is_text(pattern) {
                return Err(format!(
                    "`{key}` is a name or a pattern of 1 to {TEXT_BYTES_MAX} bytes; `*` matches anything"
                ));
            }
        }
        self.condition.validate()
    }

    /// The services' pattern.
    pub fn service(&self) -> &str {
        match &self.condition {
            Condition::Finding { service, .. }
            | Condition::Regression { service, .. }
            | Condition::Threshold { service, .. } => service,
        }
    }

    /// The endpoints' pattern.
    pub fn endpoint(&self) -> &str {
        match &self.condition {
            Condition::Finding { endpoint, .. }
            | Condition::Regression { endpoint, .. }
            | Condition::Threshold { endpoint, .. } => endpoint,
        }
    }
}

impl Condition {
    fn validate(&self) -> Result<(), String> {
        match self {
            Condition::Finding {
                detectors,
                min_traces,
                ..
            } => {
                if detectors.is_empty() || detectors.len() > NAMES_MAX {
                    return Err(format!(
                        "`detectors` names 1 to {NAMES_MAX} detectors or patterns; [\"*\"] is all of them"
                    ));
                }
                for pattern in detectors {
                    let name = pattern.strip_prefix('!').unwrap_or(pattern);
                    if !analyzer::detectors::ALL
                        .iter()
                        .any(|it| matches(name, it.id))
                    {
                        return Err(format!("no detector is called `{name}`"));
                    }
                }
                if *min_traces == 0 {
                    return Err("`min-traces` is at least 1".into());
                }
            }
            Condition::Regression { .. } => {}
            Condition::Threshold {
                measure,
                above,
                minutes,
                ..
            } => {
                if !MINUTES.contains(minutes) {
                    return Err(format!(
                        "`minutes` is from {} to {}",
                        MINUTES.start(),
                        MINUTES.end()
                    ));
                }
                if !above.is_finite() || *above <= 0.0 {
                    return Err("`above` is a number greater than 0".into());
                }
                if *measure == Measure::ErrorRate && *above >= 100.0 {
                    return Err("`above` is a percentage below 100 for `error-rate`".into());
                }
            }
        }
        Ok(())
    }
}

/// One sentence: "p99 of POST /checkout above 800 ms over 5 minutes, for 2 minutes".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = place(self.service(), self.endpoint());
        match &self.condition {
            Condition::Finding {
                detectors,
                min_severity,
                min_traces,
                ..
            } => {
                f.write_str(&detectors_in_words(detectors))?;
                f.write_str(at_least(*min_severity))?;
                if let Some(place) = place {
                    write!(f, " in {place}")?;
                }
                match min_traces {
                    1 => {}
                    _ => write!(f, ", in at least {min_traces} traces")?,
                }
            }
            Condition::Regression { min_severity, .. } => {
                let place = place.unwrap_or_else(|| "an endpoint".into());
                write!(f, "{place} became slower")?;
                match min_severity {
                    Severity::Info => {}
                    it => write!(f, ",{}", at_least(*it))?,
                }
            }
            Condition::Threshold {
                measure,
                above,
                minutes,
                ..
            } => {
                let place = place.unwrap_or_else(|| "any endpoint".into());
                write!(
                    f,
                    "{} of {place} above {above}{} over {}",
                    measure.words(),
                    measure.unit(),
                    time(minutes * 60)
                )?;
            }
        }
        if self.for_seconds > 0 {
            write!(f, ", for {}", time(self.for_seconds))?;
        }
        Ok(())
    }
}

/// `POST /checkout of shop`; `None` for everything.
fn place(service: &str, endpoint: &str) -> Option<String> {
    match (service, endpoint) {
        ("*", "*") => None,
        ("*", endpoint) => Some(endpoint.into()),
        (service, "*") => Some(format!("any endpoint of {service}")),
        (service, endpoint) => Some(format!("{endpoint} of {service}")),
    }
}

fn detectors_in_words(patterns: &[String]) -> String {
    let (without, with): (Vec<&str>, Vec<&str>) = patterns
        .iter()
        .map(String::as_str)
        .partition(|it| it.starts_with('!'));
    let mut words = if with.is_empty() || with.contains(&"*") {
        "any bottleneck".to_owned()
    } else {
        format!("a new {}", with.join(" or "))
    };
    if !without.is_empty() {
        let without: Vec<&str> = without.iter().map(|it| &it[1..]).collect();
        words.push_str(" but ");
        words.push_str(&without.join(" and "));
    }
    words
}

fn at_least(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "",
        Severity::Warning => " at warning or worse",
        Severity::Critical => " at critical",
    }
}

/// `2 minutes`, `90 seconds`, `1 hour`.
pub(super) fn time(seconds: u32) -> String {
    let (number, unit) = match seconds {
        it if it > 0 && it % 86_400 == 0 => (it / 86_400, "day"),
        it if it > 0 && it % 3_600 == 0 => (it / 3_600, "hour"),
        it if it > 0 && it % 60 == 0 => (it / 60, "minute"),
        it => (it, "second"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

/// A rule as it is written: every key there is, flat. (serde's `flatten` cannot name unknown keys.)
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    name: String,
    when: When,
    #[serde(default)]
    for_seconds: u32,
    #[serde(default)]
    keep_firing_seconds: u32,
    #[serde(default)]
    repeat_seconds: u32,
    severity: Option<Severity>,
    #[serde(default)]
    channels: Vec<String>,
    detectors: Option<Vec<String>>,
    min_severity: Option<Severity>,
    min_traces: Option<u32>,
    measure: Option<Measure>,
    above: Option<f64>,
    minutes: Option<u32>,
    min_requests: Option<u32>,
    service: Option<String>,
    endpoint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum When {
    Finding,
    Regression,
    Threshold,
}

impl When {
    fn name(self) -> &'static str {
        ["finding", "regression", "threshold"][self as usize]
    }
}

impl Written {
    /// Keys that are given and mean nothing under `when` are named: they were meant to say something.
    fn misplaced(&self) -> Option<&'static str> {
        let (finding, threshold) = (self.when == When::Finding, self.when == When::Threshold);
        [
            (finding, self.detectors.is_some(), "detectors"),
            (finding, self.min_traces.is_some(), "min-traces"),
            (!threshold, self.min_severity.is_some(), "min-severity"),
            (threshold, self.measure.is_some(), "measure"),
            (threshold, self.above.is_some(), "above"),
            (threshold, self.minutes.is_some(), "minutes"),
            (threshold, self.min_requests.is_some(), "min-requests"),
        ]
        .into_iter()
        .find(|(is_meant, is_given, _)| *is_given && !is_meant)
        .map(|(.., key)| key)
    }
}

impl TryFrom<Written> for Rule {
    type Error = String;

    fn try_from(written: Written) -> Result<Rule, String> {
        let when = written.when.name();
        if let Some(key) = written.misplaced() {
            return Err(format!("`{key}` says nothing when = \"{when}\""));
        }
        let missing = |key: &str| format!("`{key}` is missing; it is needed when = \"{when}\"");
        let min_severity = written.min_severity.unwrap_or(Severity::Info);
        let service = written.service.unwrap_or_else(|| "*".into());
        let endpoint = written.endpoint.unwrap_or_else(|| "*".into());
        let condition = match written.when {
            When::Finding => Condition::Finding {
                detectors: written.detectors.ok_or_else(|| missing("detectors"))?,
                min_severity,
                min_traces: written.min_traces.unwrap_or(TRACES_MIN),
                service,
                endpoint,
            },
            When::Regression => Condition::Regression {
                min_severity,
                service,
                endpoint,
            },
            When::Threshold => Condition::Threshold {
                measure: written.measure.ok_or_else(|| missing("measure"))?,
                above: written.above.ok_or_else(|| missing("above"))?,
                minutes: written.minutes.unwrap_or(5),
                min_requests: written.min_requests.unwrap_or(100),
                service,
                endpoint,
            },
        };
        let rule = Rule {
            name: written.name,
            condition,
            for_seconds: written.for_seconds,
            keep_firing_seconds: written.keep_firing_seconds,
            repeat_seconds: written.repeat_seconds,
            severity: written.severity,
            channels: written.channels,
        };
        rule.validate()?;
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rule(json: serde_json::Value) -> Result<Rule, String> {
        serde_json::from_value(json).map_err(|it| it.to_string())
    }

    fn threshold() -> serde_json::Value {
        json!({"name": "checkout", "when": "threshold", "measure": "p99", "above": 800,
               "endpoint": "POST /checkout", "for-seconds": 120})
    }

    #[test]
    fn rules_are_shown_as_sentences() {
        let shown = |json| rule(json).unwrap().to_string();
        assert_eq!(
            shown(threshold()),
            "p99 of POST /checkout above 800 ms over 5 minutes, for 2 minutes"
        );
        assert_eq!(
            shown(
                json!({"name": "a", "when": "finding", "detectors": ["*", "!n-plus-one-*"],
                         "min-severity": "critical", "service": "shop"})
            ),
            "any bottleneck but n-plus-one-* at critical in any endpoint of shop, in at least 3 traces"
        );
        assert_eq!(
            shown(json!({"name": "a", "when": "regression", "min-severity": "warning"})),
            "an endpoint became slower, at warning or worse"
        );
        assert_eq!(
            shown(
                json!({"name": "a", "when": "threshold", "measure": "error-rate", "above": 2.5,
                         "service": "shop", "minutes": 60})
            ),
            "error rate of any endpoint of shop above 2.5 % over 1 hour"
        );
    }

    #[test]
    fn what_is_stored_is_read_again() {
        for json in [
            threshold(),
            json!({"name": "a", "when": "finding", "detectors": ["slow-query"], "channels": ["b"]}),
            json!({"name": "a", "when": "regression", "severity": "critical"}),
        ] {
            let rule = rule(json).unwrap();
            let stored = serde_json::to_value(&rule).unwrap();
            assert_eq!(serde_json::from_value::<Rule>(stored).unwrap(), rule);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let with = |key: &str, value: serde_json::Value| {
            let mut json = threshold();
            json[key] = value;
            rule(json).unwrap_err()
        };
        assert!(with("thresold", json!(1)).contains("unknown field `thresold`"));
        assert!(with("detectors", json!(["*"])).contains("`detectors` says nothing"));
        assert!(with("minutes", json!(61)).contains("`minutes` is from 1 to 60"));
        assert!(with("for-seconds", json!(86_401)).contains("`for-seconds` is at most"));
        assert!(with("repeat-seconds", json!(5)).contains("`repeat-seconds` is 0"));
        assert!(with("above", json!(0)).contains("`above` is a number greater than 0"));
        assert!(with("endpoint", json!("")).contains("`endpoint` is a name or a pattern"));
        assert!(with("name", json!(" ")).contains("a rule's name"));
        assert!(with("measure", json!("p98")).contains("unknown variant `p98`"));
        let finding = rule(json!({"name": "a", "when": "finding", "detectors": ["n-plus-onee-*"]}));
        assert!(
            finding
                .unwrap_err()
                .contains("no detector is called `n-plus-onee-*`")
        );
        let nothing = rule(json!({"name": "a", "when": "finding"}));
        assert!(nothing.unwrap_err().contains("`detectors` is missing"));
    }

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("*", ""),
            ("GET /*", "GET /posts"),
            ("*/posts", "GET /posts"),
            ("a*b*c", "a-b-b-c"),
            ("a**a", "aa"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("GET", "GET /"), ("a*a", "a"), ("a*b*c", "acb")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        let patterns = ["*".to_owned(), "!n-plus-one-*".to_owned()];
        assert!(is_chosen(&patterns, "slow-query"));
        assert!(!is_chosen(&patterns, "n-plus-one-query"));
    }

    proptest! {
        /// Against the definition, letter by letter.
        #[test]
        fn patterns_mean_what_they_say(pattern in "[ab*]{0,6}", text in "[ab]{0,6}") {
            fn slowly(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
                    Some((letter, rest)) => text.first() == Some(letter) && slowly(rest, &text[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &text), slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
