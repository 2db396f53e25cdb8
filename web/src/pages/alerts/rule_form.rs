//! A rule as a form: the same keys as in the configuration file.

use collector::alert::rule::{Condition, Rule};
use serde_json::{Map, Value, json};

use super::inputs::{Control, Input, Problems, named_key, sentence};
use crate::form::Form;
use crate::time_span;

/// The kinds: id, what it is about.
pub const KINDS: [(&str, &str); 3] = [
    ("finding", "a bottleneck is found"),
    ("regression", "something became slower"),
    ("threshold", "a number is beyond a limit"),
];

const MEASURES: [(&str, &str); 6] = [
    ("p50", "p50, ms"),
    ("p90", "p90, ms"),
    ("p95", "p95, ms"),
    ("p99", "p99, ms"),
    ("error-rate", "error rate, %"),
    ("rate", "requests per second"),
];

const SEVERITIES: [(&str, &str); 3] = [
    ("info", "any"),
    ("warning", "warning or worse"),
    ("critical", "critical"),
];

/// Keys whose values are durations, written as `5m`.
const DURATIONS: [&str; 3] = ["for-seconds", "keep-firing-seconds", "repeat-seconds"];

/// Keys whose values are numbers.
const NUMBERS: [&str; 4] = ["min-traces", "above", "minutes", "min-requests"];

/// All keys of forms.
const KEYS: [&str; 16] = [
    "name",
    "when",
    "detectors",
    "min-severity",
    "min-traces",
    "measure",
    "above",
    "minutes",
    "min-requests",
    "service",
    "endpoint",
    "for-seconds",
    "keep-firing-seconds",
    "repeat-seconds",
    "severity",
    "channels",
];

/// What stands in a rule's form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleForm {
    values: Vec<(&'static str, String)>,
    channels: Vec<String>,
}

impl RuleForm {
    /// An empty one, with what a rule has unless somebody says otherwise.
    pub fn new(when: &str) -> RuleForm {
        let when = KINDS
            .iter()
            .find(|it| it.0 == when)
            .map_or("threshold", |it| it.0);
        let mut form = RuleForm::default();
        let defaults = [
            ("when", when),
            ("service", "*"),
            ("endpoint", "*"),
            ("detectors", "n-plus-one-*"),
            ("min-severity", "info"),
            ("min-traces", "3"),
            ("measure", "p99"),
            ("minutes", "5"),
            ("min-requests", "100"),
            ("for-seconds", if when == "threshold" { "2m" } else { "0" }),
            (
                "keep-firing-seconds",
                if when == "threshold" { "5m" } else { "0" },
            ),
            ("repeat-seconds", "0"),
        ];
        for (key, value) in defaults {
            form.set(key, value.to_owned());
        }
        form
    }

    /// A rule's.
    pub fn of(rule: &Rule) -> RuleForm {
        let mut form = RuleForm::default();
        let written = serde_json::to_value(rule).unwrap_or_default();
        for key in KEYS {
            let text = match &written[key] {
                Value::String(it) => it.clone(),
                Value::Array(all) => {
                    let texts: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                    texts.join(", ")
                }
                Value::Number(it) if DURATIONS.contains(&key) => {
                    time_span::seconds(it.as_u64().unwrap_or_default())
                }
                Value::Number(it) => it.as_f64().unwrap_or_default().to_string(),
                _ => String::new(),
            };
            form.set(key, text);
        }
        form.channels = rule.channels.clone();
        form
    }

    /// What somebody sent.
    pub fn read(sent: &Form) -> RuleForm {
        let mut form = RuleForm::default();
        for key in KEYS {
            form.set(key, sent.get(key).to_owned());
        }
        form.channels = sent.all("channels").map(str::to_owned).collect();
        form
    }

    fn set(&mut self, key: &'static str, value: String) {
        self.values.retain(|it| it.0 != key);
        self.values.push((key, value));
    }

    /// Fills a field in, if there is such a one.
    pub fn fill(&mut self, key: &str, value: &str) {
        if let Some(key) = KEYS.into_iter().find(|it| *it == key) {
            self.set(key, value.to_owned());
        }
    }

    /// One field.
    pub fn get(&self, key: &str) -> &str {
        let found = self.values.iter().find(|it| it.0 == key);
        found.map_or("", |it| &it.1)
    }

    /// The rule that it says.
    ///
    /// # Errors
    /// What cannot be read or meant, by field.
    pub fn rule(&self) -> Result<Rule, Problems> {
        let mut problems = Problems::new();
        let mut written = Map::new();
        let kind = self.get("when");
        for key in keys_of(kind) {
            let text = self.get(key);
            let value = if DURATIONS.contains(&key) {
                match time_span::parse_seconds(if text.is_empty() { "0" } else { text }) {
                    Some(it) => json!(it),
                    None => {
                        let wanted = "Write a number and a unit, such as 90s, 5m or 2h; 0 is none.";
                        problems.push((key.into(), wanted.into()));
                        continue;
                    }
                }
            } else if NUMBERS.contains(&key) {
                match number(text) {
                    Some(it) => it,
                    None => {
                        problems.push((key.into(), "This is not a number.".into()));
                        continue;
                    }
                }
            } else if key == "detectors" {
                let ids = text.split([',', '\n']).map(str::trim);
                json!(ids.filter(|it| !it.is_empty()).collect::<Vec<_>>())
            } else if key == "channels" {
                json!(self.channels)
            } else if text.is_empty() && key == "severity" {
                continue;
            } else if text.is_empty() && ["service", "endpoint"].contains(&key) {
                json!("*")
            } else {
                json!(text)
            };
            written.insert(key.into(), value);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        serde_json::from_value(Value::Object(written)).map_err(|error| {
            let error = error.to_string();
            let key = match named_key(&error, &KEYS) {
                Some(key) => key,
                None if error.contains("rule's name") => "name",
                None if error.contains("no detector is called") => "detectors",
                None => "",
            };
            vec![(key.to_owned(), sentence(&error))]
        })
    }

    /// Its fields. `channels` are those there are; the name of one that exists stays.
    pub fn inputs(&self, channels: &[String], is_new: bool) -> Vec<Input> {
        let mut inputs = Vec::new();
        if is_new {
            let name = Input::text("name", "Name", self.get("name")).required();
            inputs.push(name.hint("Names its alerts everywhere: the label alertname."));
        }
        for key in keys_of(self.get("when")) {
            inputs.extend(self.input(key, channels));
        }
        inputs
    }

    fn input(&self, key: &'static str, channels: &[String]) -> Option<Input> {
        let text = |label| Input::text(key, label, self.get(key));
        let select =
            |label, options: &[(&str, &str)]| Input::select(key, label, self.get(key), options);
        Some(match key {
            "detectors" => text("Detectors").required().hint(
                "Ids or patterns with *, separated by commas: n-plus-one-*, slow-query. One that begins with ! is left out.",
            ),
            "min-severity" => select("Of severity", &SEVERITIES),
            "min-traces" => text("In at least so many traces").hint("One may be chance."),
            "measure" => select("Measure", &MEASURES),
            "above" => text("Above").required().hint(
                "Milliseconds for percentiles, percent for the error rate, requests per second for the rate.",
            ),
            "minutes" => text("Over the last minutes").hint("1 to 60."),
            "min-requests" => text("With at least so many requests").hint("Fewer tell nothing."),
            "service" => text("Service").hint("A name, or a pattern with *."),
            "endpoint" => text("Endpoint").hint(
                "A name such as POST /checkout, or a pattern with *. Each endpoint that matches is judged by itself.",
            ),
            "for-seconds" => text("True for").hint("So long before anybody is told: 2m. 0: at once."),
            "keep-firing-seconds" => text("False for").hint("So long before it counts as resolved: 5m."),
            "repeat-seconds" => text("Tell again after").hint("While it lasts: 4h. 0: never."),
            "severity" => select(
                "Severity of its alerts",
                &[("", "as found"), ("info", "info"), ("warning", "warning"), ("critical", "critical")],
            ),
            "channels" => {
                let known = channels.iter();
                let gone = self.channels.iter().filter(|it| !channels.contains(it));
                let options = known.chain(gone).map(|it| {
                    (it.clone(), it.clone(), self.channels.contains(it))
                });
                let options: Vec<_> = options.collect();
                if options.is_empty() {
                    return None;
                }
                text("Channels")
                    .hint("None chosen: all of them, also those that are added later.")
                    .control(Control::Checks(options))
            }
            _ => return None,
        })
    }
}

/// A number as the rule wants it: whole ones whole.
fn number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<u32>() {
        return Some(json!(whole));
    }
    let number: f64 = text.replace(',', ".").parse().ok()?;
    number.is_finite().then(|| json!(number))
}

/// The keys that say something for a kind, in the order they are asked.
fn keys_of(kind: &str) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match kind {
        "finding" => &["detectors", "min-severity", "min-traces"],
        "regression" => &["min-severity"],
        _ => &["measure", "above", "minutes", "min-requests"],
    };
    let common = [
        "service",
        "endpoint",
        "for-seconds",
        "keep-firing-seconds",
        "repeat-seconds",
        "severity",
        "channels",
    ];
    let own: Vec<&'static str> = KEYS.into_iter().filter(|it| own.contains(it)).collect();
    ["name", "when"].into_iter().chain(own).chain(common)
}

/// A rule's kind.
pub fn kind(rule: &Rule) -> &'static str {
    match rule.condition {
        Condition::Finding { .. } => "finding",
        Condition::Regression { .. } => "regression",
        Condition::Threshold { .. } => "threshold",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::alert::rule::Measure;

    fn filled(kind: &str, changes: &[(&'static str, &str)]) -> RuleForm {
        let mut form = RuleForm::new(kind);
        form.set("name", "checkout".into());
        form.set("above", "800".into());
        for (key, value) in changes {
            form.set(key, (*value).to_owned());
        }
        form
    }

    #[test]
    fn every_kind_can_be_written_and_read_again() {
        for (kind, _) in KINDS {
            let mut form = filled(kind, &[("for-seconds", "90s"), ("repeat-seconds", "4h")]);
            form.channels = vec!["slack".into()];
            let rule = form.rule().unwrap();
            assert_eq!((rule.for_seconds, rule.repeat_seconds), (90, 14_400));
            assert_eq!(super::kind(&rule), kind);
            assert_eq!(RuleForm::of(&rule).rule().unwrap(), rule);
            assert!(form.inputs(&[], true).len() > 8);
        }
        for it in [
            Measure::P50,
            Measure::P90,
            Measure::P95,
            Measure::P99,
            Measure::ErrorRate,
            Measure::Rate,
        ] {
            let id = serde_json::to_value(it).unwrap();
            assert!(MEASURES.iter().any(|(known, _)| id == *known));
        }
    }

    #[test]
    fn what_is_wrong_is_said_beside_its_field() {
        let problem = |kind: &str, key: &'static str, value: &str| {
            let problems = filled(kind, &[(key, value)]).rule().unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].0, key, "{problems:?}");
            problems[0].1.clone()
        };
        assert!(problem("threshold", "minutes", "61").contains("1 to 60"));
        assert!(problem("threshold", "minutes", "five").contains("not a number"));
        assert!(problem("threshold", "above", "-1").contains("greater than 0"));
        assert!(problem("threshold", "for-seconds", "5").contains("unit"));
        assert!(problem("threshold", "for-seconds", "9d").contains("a day"));
        assert!(problem("regression", "repeat-seconds", "5s").contains("repeat-seconds"));
        assert!(problem("finding", "detectors", "n-plus-won").contains("n-plus-won"));
        assert!(problem("finding", "name", "").contains("name"));
        assert!(problem("finding", "endpoint", &"x".repeat(300)).contains("pattern"));
    }
}
