//! Budgets: `GET /cart: db<=5, p95<=200ms`. What exceeds one is a finding, like a detector's.

use std::collections::HashMap;
use std::str::FromStr;

use analyzer::category::Category;
use analyzer::finding::{Finding, Severity};
use collector::alert::rule::matches;

use super::report::{EntryReport, FindingReport, Report};
use crate::format;

/// The detector that findings of exceeded budgets name.
pub const DETECTOR: &str = "budget";

/// An endpoint's limits.
#[derive(Clone, PartialEq, Debug)]
pub struct Budget {
    /// As it was written, for messages.
    pub text: String,
    /// Endpoint, or service and endpoint; `*` matches anything.
    endpoint: String,
    limits: Vec<Limit>,
}

#[derive(Clone, PartialEq, Debug)]
struct Limit {
    of: Measure,
    /// Calls or ns.
    most: u64,
    /// As it was written.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Measure {
    /// Calls of a request.
    Calls(Category),
    /// What a request waits for this, ns.
    Time(Category),
    /// A request's duration, ns.
    Duration,
    /// A percentile of the durations of all requests, ns.
    Percentile(usize),
}

/// Short names besides the categories' ids.
const ALIASES: &[(&str, Category)] = &[
    ("db", Category::Database),
    ("sql", Category::Database),
    ("http", Category::External),
    ("rpc", Category::External),
    ("log", Category::Logging),
    ("queue", Category::Messaging),
    ("render", Category::Serialization),
    ("pool", Category::PoolWait),
];

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let expected =
            r#"a budget is written "GET /cart: db<=5" or "GET /cart: db<=5, p95<=200ms""#;
        let (endpoint, limits) = text.rsplit_once(':').ok_or(expected)?;
        let endpoint = endpoint.trim().to_owned();
        if endpoint.is_empty() {
            return Err(expected.into());
        }
        let limits: Result<Vec<Limit>, String> =
            limits.split(',').map(|it| limit(it.trim())).collect();
        Ok(Budget {
            text: text.trim().to_owned(),
            endpoint,
            limits: limits?,
        })
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    let (name, most) = text
        .split_once("<=")
        .ok_or_else(|| format!("{text:?}: a limit is written db<=5 or p95<=200ms"))?;
    let (name, most) = (name.trim(), most.trim());
    let digits = most
        .find(|it: char| !it.is_ascii_digit() && it != '.')
        .unwrap_or(most.len());
    let (number, unit) = most.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?}: {most:?} is no number"))?;
    let ns_per_unit = match unit.trim() {
        "" => None,
        "us" | "µs" => Some(1e3),
        "ms" => Some(1e6),
        "s" => Some(1e9),
        other => return Err(format!("{text:?}: {other:?} is no unit; us, ms and s are")),
    };
    if ns_per_unit.is_none() && number.fract() != 0.0 {
        return Err(format!(
            "{text:?}: calls are whole; a duration needs a unit, as in 200ms"
        ));
    }
    let percentile = name.strip_prefix('p').and_then(|it| it.parse().ok());
    let of = match (category(name), percentile, ns_per_unit) {
        (Some(category), _, None) => Measure::Calls(category),
        (Some(category), _, Some(_)) => Measure::Time(category),
        (None, Some(percent @ 1..=100), Some(_)) => Measure::Percentile(percent),
        (None, None, Some(_)) if name == "time" => Measure::Duration,
        (None, Some(_), None) => {
            return Err(format!("{text:?}: a duration needs a unit, as in 200ms"));
        }
        (None, None, None) if name == "time" => {
            return Err(format!("{text:?}: a duration needs a unit, as in 200ms"));
        }
        _ => {
            let aliases = ALIASES.iter().map(|it| it.0);
            let names = aliases.chain(Category::ALL.iter().map(|it| it.id()));
            let names: Vec<&str> = names.collect();
            return Err(format!(
                "{text:?}: {name:?} cannot be limited; what can: time, p50, p95, p99, {}",
                names.join(", ")
            ));
        }
    };
    Ok(Limit {
        of,
        most: (number * ns_per_unit.unwrap_or(1.0)) as u64,
        text: text.to_owned(),
    })
}

fn category(name: &str) -> Option<Category> {
    let alias = ALIASES.iter().find(|it| it.0 == name).map(|it| it.1);
    alias.or_else(|| Category::ALL.into_iter().find(|it| it.id() == name))
}

impl Budget {
    fn is_for(&self, entry: &EntryReport) -> bool {
        let named = format!("{} {}", entry.service, entry.endpoint);
        let is = |pattern: &str| matches(pattern, &entry.endpoint) || matches(pattern, &named);
        is(&self.endpoint) || is(&with_method(&self.endpoint))
    }
}

/// `get /cart` as endpoints are named: `GET /cart`.
fn with_method(endpoint: &str) -> String {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let upper = |word: &str| {
        let method = METHODS.into_iter().find(|it| it.eq_ignore_ascii_case(word));
        method.unwrap_or(word).to_owned()
    };
    let words: Vec<String> = endpoint.split(' ').map(upper).collect();
    words.join(" ")
}

/// A limit that is exceeded: in which entry of which trace, by what.
struct Excess {
    trace: usize,
    entry: usize,
    finding: FindingReport,
}

/// Adds a finding to every request that exceeds a budget, and tells which budgets nothing matches.
pub fn check(report: &mut Report, budgets: &[Budget]) {
    let mut unused = Vec::new();
    let mut exceeded = Vec::new();
    for budget in budgets {
        let matching = matching(report, budget);
        if matching.is_empty() {
            unused.push(budget.text.clone());
        }
        for limit in &budget.limits {
            for requests in matching.values() {
                exceeded.extend(excesses(report, requests, limit));
            }
        }
    }
    for it in exceeded {
        let findings = &mut report.traces[it.trace].entries[it.entry].findings;
        // Two budgets may say the same of one endpoint.
        if !findings
            .iter()
            .any(|known| known.fingerprint == it.finding.fingerprint)
        {
            findings.push(it.finding);
        }
    }
    report.coverage.unused_budgets = unused;
}

/// Requests (trace, entry) by their endpoint.
type Requests = Vec<(usize, usize)>;

fn matching(report: &Report, budget: &Budget) -> HashMap<(String, String), Requests> {
    let mut matching: HashMap<_, Requests> = HashMap::new();
    for (at, trace) in report.traces.iter().enumerate() {
        for (entry_at, entry) in trace.entries.iter().enumerate() {
            if budget.is_for(entry) {
                let key = (entry.service.clone(), entry.endpoint.clone());
                matching.entry(key).or_default().push((at, entry_at));
            }
        }
    }
    matching
}

fn excesses(report: &Report, requests: &Requests, limit: &Limit) -> Vec<Excess> {
    let entry = |(trace, entry): (usize, usize)| &report.traces[trace].entries[entry];
    let excess = |at: (usize, usize), value: u64| Excess {
        trace: at.0,
        entry: at.1,
        finding: finding(entry(at), limit, value),
    };
    if let Measure::Percentile(percent) = limit.of {
        let mut by_duration = requests.clone();
        by_duration.sort_by_key(|it| entry(*it).duration_ns);
        let rank = (by_duration.len() * percent).div_ceil(100).max(1);
        let at = by_duration[rank - 1];
        let value = entry(at).duration_ns;
        return (value > limit.most)
            .then(|| excess(at, value))
            .into_iter()
            .collect();
    }
    let value = |it: &EntryReport| match limit.of {
        Measure::Calls(category) => u64::from(it.calls.0[category as usize]),
        Measure::Time(category) => it.categories.0[category as usize],
        Measure::Duration | Measure::Percentile(_) => it.duration_ns,
    };
    let beyond = requests.iter().filter(|it| value(entry(**it)) > limit.most);
    beyond.map(|it| excess(*it, value(entry(*it)))).collect()
}

fn finding(entry: &EntryReport, limit: &Limit, value: u64) -> FindingReport {
    let said = |number: u64| match limit.of {
        Measure::Calls(_) => format::count(number as i64),
        _ => format::duration(number),
    };
    let (value_said, most) = (said(value), said(limit.most));
    let (title, count, saved_ns) = match limit.of {
        Measure::Calls(category) => (
            format!(
                "{value_said} {} calls; the budget is {most}",
                category.name()
            ),
            value as u32,
            0,
        ),
        Measure::Time(category) => (
            format!("{value_said} of {}; the budget is {most}", category.name()),
            1,
            value - limit.most,
        ),
        Measure::Duration => (
            format!("{value_said} in all; the budget is {most}"),
            1,
            value - limit.most,
        ),
        Measure::Percentile(percent) => (
            format!("a p{percent} of {value_said}; the budget is {most}"),
            1,
            value - limit.most,
        ),
    };
    FindingReport {
        detector: DETECTOR,
        fingerprint: Finding::fingerprint_of(
            DETECTOR,
            &entry.service,
            &[&entry.endpoint, &limit.text],
        ),
        explanation: format!("{} is over its budget of {}.", entry.endpoint, limit.text),
        title,
        severity: Severity::Warning,
        confidence: 1.0,
        reasons: vec!["the number was counted".into()],
        count,
        span_ids: vec![entry.span_id.clone()],
        call_path: vec![entry.endpoint.clone()],
        statement: None,
        target: None,
        parameters: Vec::new(),
        saved_ns,
        window_ns: entry.duration_ns,
        sum_ns: entry.duration_ns,
        code: None,
        fix:
            "Look at what changed since the budget was met, or raise it if the new number is meant."
                .into(),
        fix_code: None,
        framework: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::testing::report;

    const SHOP: &str = "
        shop  GET /users/{id}        |--------------------|
        shop    SELECT a             |--|
        shop    SELECT b                |--|
        shop    GET pay [client] {url.full=http://pay/x}  |---|
        ";

    fn titles(budget: &str) -> Vec<String> {
        let mut report = report(SHOP);
        check(&mut report, &[budget.parse().unwrap()]);
        let unused = report.coverage.unused_budgets.iter().cloned();
        let findings = report.traces[0].entries[0].findings.iter();
        findings.map(|it| it.title.clone()).chain(unused).collect()
    }

    #[test]
    fn what_is_over_a_budget_is_found() {
        assert!(titles("GET /users/{id}: db<=2").is_empty());
        assert_eq!(
            titles("GET /users/{id}: db<=1"),
            ["2 database calls; the budget is 1"]
        );
        assert_eq!(titles("get /users/{id}: db<=1").len(), 1);
        assert_eq!(titles("shop GET /users/*: http<=0, db<=1").len(), 2);
        assert_eq!(
            titles("*: p99<=20ms"),
            ["a p99 of 21 ms; the budget is 20 ms"]
        );
        assert!(titles("*: time<=21ms").is_empty());
        assert_eq!(
            titles("*: db<=5ms"),
            ["6 ms of database; the budget is 5 ms"]
        );
        assert_eq!(titles("GET /cart: db<=1"), ["GET /cart: db<=1"], "unused");
    }

    #[test]
    fn budgets_with_colons_in_the_path_and_mistakes() {
        let budget: Budget = "GET /users/:id: db<=1".parse().unwrap();
        assert_eq!(budget.endpoint, "GET /users/:id");
        for (text, said) in [
            ("GET /", "is written"),
            ("GET /: db=5", "is written db<=5"),
            ("GET /: disk<=5", "cannot be limited"),
            ("GET /: p99<=5", "needs a unit"),
            ("GET /: db<=5h", "is no unit"),
            ("GET /: db<=x", "is no number"),
            ("GET /: db<=1.5", "calls are whole"),
        ] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn stars_match_anything() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
