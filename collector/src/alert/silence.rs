//! Whether anybody wants to hear: silences and maintenance windows are the same to the engine.

use std::collections::BTreeMap;

use super::notification::Severity;
use super::rule::matches;
use crate::store::silences::Silence;

/// `silence` keeps what has these labels quiet now. All of its matchers have to match; a label that is
/// not there is empty, and `severity` stands for a label of this name.
pub fn covers(
    silence: &Silence,
    labels: &BTreeMap<String, String>,
    severity: Severity,
    now_ms: i64,
) -> bool {
    (silence.starts_ms..silence.ends_ms).contains(&now_ms)
        && silence.matchers.iter().all(|it| {
            let value = match (labels.get(&it.label), it.label.as_str()) {
                (Some(value), _) => value.as_str(),
                (None, "severity") => severity.name(),
                (None, _) => "",
            };
            matches(&it.value, value)
        })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::silences::{Matcher, SilenceKind};

    #[test]
    fn all_matchers_have_to_match_and_the_time_too() {
        let labels = [("service", "shop"), ("endpoint", "GET /posts")]
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .into();
        let covers = |matchers: &[(&str, &str)], now_ms| {
            let matchers = matchers.iter().map(|(label, value)| Matcher {
                label: (*label).into(),
                value: (*value).into(),
            });
            let silence = Silence {
                id: Uuid::nil(),
                kind: SilenceKind::Silence,
                matchers: matchers.collect(),
                starts_ms: 10,
                ends_ms: 20,
                author: String::new(),
                comment: String::new(),
                created_ms: 0,
                ended_by: None,
            };
            covers(&silence, &labels, Severity::Warning, now_ms)
        };
        assert!(covers(&[("service", "sh*")], 10));
        assert!(!covers(&[("service", "sh*")], 9));
        assert!(!covers(&[("service", "sh*")], 20));
        assert!(covers(&[("service", "shop"), ("endpoint", "* /posts")], 15));
        assert!(!covers(&[("service", "shop"), ("endpoint", "POST *")], 15));
        assert!(covers(&[("severity", "warning")], 15));
        assert!(!covers(&[("environment", "production")], 15));
        assert!(covers(&[("environment", "*")], 15));
    }
}
