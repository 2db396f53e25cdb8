//! The rules that are there without anybody writing one.

use super::notification::Severity;
use super::rule::{Condition, Rule, TRACES_MIN};

/// The built-in rules. Their names are what they are stored, switched off and silenced by.
pub fn rules() -> Vec<Rule> {
    let everywhere = || "*".to_owned();
    vec![
        rule(
            "New N+1",
            // A finding that came back is told by the same rule; its message says so.
            Condition::Finding {
                detectors: vec!["n-plus-one-*".into()],
                min_severity: Severity::Info,
                min_traces: TRACES_MIN,
                service: everywhere(),
                endpoint: everywhere(),
            },
        ),
        rule(
            "New critical bottleneck",
            Condition::Finding {
                // Those are told by the rule above.
                detectors: vec!["*".into(), "!n-plus-one-*".into()],
                min_severity: Severity::Critical,
                min_traces: TRACES_MIN,
                service: everywhere(),
                endpoint: everywhere(),
            },
        ),
        rule(
            "Slower",
            Condition::Regression {
                min_severity: Severity::Warning,
                service: everywhere(),
                endpoint: everywhere(),
            },
        ),
    ]
}

fn rule(name: &str, condition: Condition) -> Rule {
    Rule {
        name: name.into(),
        condition,
        for_seconds: 0,
        keep_firing_seconds: 0,
        repeat_seconds: 0,
        severity: None,
        channels: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_valid_and_told_apart() {
        let rules = rules();
        assert!(rules.iter().all(|it| it.validate().is_ok()));
        let shown: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "a new n-plus-one-*, in at least 3 traces",
                "any bottleneck but n-plus-one-* at critical, in at least 3 traces",
                "an endpoint became slower, at warning or worse"
            ]
        );
    }
}
