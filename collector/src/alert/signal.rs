//! What is true now, rule by rule: findings, regressions and numbers become signals, and signals words.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

use analyzer::wording;

use super::engine::{Truth, Verdict};
use super::notification::{Fact, Link, Severity};
use super::rule::{Condition, Measure, Rule, is_chosen, matches, time};
use crate::calendar;
use crate::regression::evidence::Contributor;
use crate::store::signals::{FindingNow, FindingTold, Place, RegressionNow, Window};

/// Bytes of a statement in a message; a message is 20 kB at most.
const STATEMENT_BYTES_MAX: usize = 2_000;

/// Bytes of what somebody wrote about a regression's end: it stands in one line.
const REASON_BYTES_MAX: usize = 300;

/// Once above a limit, a number has to fall below this share of it to count as below: what swings around
/// the limit is one incident.
const HYSTERESIS: f64 = 0.8;

/// A regression waits so long for its explanation: what grew is what its reader asks first.
const EXPLANATION_WAIT_MS: i64 = 60_000;

/// A regression found longer ago opens no incident any more: a rule that is set up today does not tell
/// what was known yesterday.
const REGRESSION_NEW_MS: i64 = 86_400_000;

/// Something that a rule has an opinion about.
#[derive(Clone, Debug)]
pub struct Signal {
    /// They identify it.
    pub labels: BTreeMap<String, String>,
    /// Of the labels.
    pub fingerprint: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it is true.
    pub verdict: Verdict,
    /// What it is.
    pub about: About,
    /// It was there when culprit began to watch its service; see [`FindingNow::first_until_ms`].
    pub first_until_ms: Option<i64>,
}

/// What a signal is about.
#[derive(Clone, Debug)]
pub enum About {
    /// A finding: finding_keys.id
    Finding(i32),
    /// A regression.
    Regression(Box<RegressionNow>),
    /// A number at an endpoint.
    Number(Number),
}

/// A number of some minutes.
#[derive(Clone, PartialEq, Debug)]
pub struct Number {
    /// endpoints.id
    pub endpoint_id: i32,
    /// Where it is.
    pub place: Place,
    /// What it is, in the unit of its measure.
    pub value: f64,
    /// Requests it is of.
    pub requests: i64,
    /// The minute after the last one it is of, since the epoch.
    pub to_minute: i32,
}

/// What is said of a signal.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Content {
    /// One sentence.
    pub title: String,
    /// A few sentences; may be empty.
    pub summary: String,
    /// Numbers in words.
    pub facts: Vec<Fact>,
    /// The same for machines.
    pub data: Value,
    /// Pages; the first one shows the thing itself.
    pub links: Vec<Link>,
}

impl Content {
    fn fact(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.facts.push(Fact {
                name: name.into(),
                value,
            });
        }
    }

    fn link(&mut self, text: &str, path: String) {
        self.links.push(Link {
            text: text.into(),
            path,
        });
    }
}

/// Names a thing for ever: the first 16 bytes of SHA-256 over its labels, hexadecimal.
pub fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (label, value) in labels {
        // Lengths, so that no two sets of labels read the same.
        for text in [label, value] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
    }
    let digest = hash.finalize();
    digest[..16].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn labels(
    rule: &Rule,
    place: &Place,
    kind: &str,
    more: Option<(&str, String)>,
) -> BTreeMap<String, String> {
    let all = [
        ("alertname", rule.name.clone()),
        ("service", place.service.clone()),
        ("namespace", place.namespace.clone()),
        ("environment", place.environment.clone()),
        ("endpoint", place.endpoint.clone()),
        ("kind", kind.to_owned()),
    ];
    all.into_iter()
        .chain(more)
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| (label.to_owned(), value))
        .collect()
}

fn signal(
    rule: &Rule,
    labels: BTreeMap<String, String>,
    own_severity: Severity,
    verdict: Verdict,
    about: About,
) -> Signal {
    Signal {
        fingerprint: fingerprint(&labels),
        labels,
        severity: rule.severity.unwrap_or(own_severity),
        verdict,
        about,
        first_until_ms: None,
    }
}

/// The finding that an incident's labels name.
pub fn finding_of(labels: &BTreeMap<String, String>) -> Option<i32> {
    labels.get("finding")?.parse().ok()
}

/// What `rule` says of a finding; `None` if it is not about it. Only new findings and those that came back
/// open an incident: a rule or a channel that is set up later does not tell everything that is there.
pub fn of_finding(rule: &Rule, finding: &FindingNow) -> Option<Signal> {
    let Condition::Finding {
        detectors,
        min_severity,
        min_traces,
        service,
        endpoint,
    } = &rule.condition
    else {
        return None;
    };
    let is_meant = is_chosen(detectors, &finding.detector)
        && matches(service, &finding.place.service)
        && matches(endpoint, &finding.place.endpoint);
    if !is_meant {
        return None;
    }
    let severity = Severity::of(finding.severity);
    let is_enough = severity >= *min_severity && finding.traces >= i64::from(*min_traces);
    let verdict = match finding.state.as_str() {
        "new" if is_enough && !finding.was_told => Verdict::of(Truth::True),
        "regressed" if is_enough => Verdict::of(Truth::True),
        "resolved" => Verdict::ended("the bottleneck is resolved"),
        "ignored" => Verdict::ended("somebody ignores the bottleneck"),
        "acknowledged" => Verdict {
            acknowledged: true,
            ..Verdict::of(Truth::Holds)
        },
        _ => Verdict::of(Truth::Holds),
    };
    let id = Some(("finding", finding.id.to_string()));
    let labels = labels(rule, &finding.place, &finding.detector, id);
    let about = About::Finding(finding.id);
    Some(Signal {
        first_until_ms: finding.first_until_ms,
        ..signal(rule, labels, severity, verdict, about)
    })
}

/// What `rule` says of a regression; `None` if it is not about it.
pub fn of_regression(rule: &Rule, regression: &RegressionNow, now_ms: i64) -> Option<Signal> {
    let Condition::Regression {
        min_severity,
        service,
        endpoint,
    } = &rule.condition
    else {
        return None;
    };
    let is_meant = matches(service, &regression.place.service)
        && matches(endpoint, &regression.place.endpoint);
    if !is_meant {
        return None;
    }
    let severity = Severity::of(regression.severity);
    let age_ms = now_ms - regression.detected_ms;
    let can_be_told = regression.explanation.is_some() || age_ms >= EXPLANATION_WAIT_MS;
    let verdict = match regression.state.as_str() {
        "open" if severity >= *min_severity && can_be_told && age_ms < REGRESSION_NEW_MS => {
            Verdict::of(Truth::True)
        }
        "open" => Verdict::of(Truth::Holds),
        _ => Verdict::ended(why_over(regression)),
    };
    let statement = regression.statement_id;
    let statement = (statement != 0).then(|| ("statement", statement.to_string()));
    let labels = labels(rule, &regression.place, "regression", statement);
    let about = About::Regression(Box::new(regression.clone()));
    Some(signal(rule, labels, severity, verdict, about))
}

/// Who ended a regression and why, as they said it.
fn why_over(regression: &RegressionNow) -> String {
    let what = match regression.state.as_str() {
        "accepted" => "accepted as the new normal",
        _ => "resolved",
    };
    let why = shorten(regression.ended_why.trim(), REASON_BYTES_MAX);
    match (regression.ended_by.as_str(), why) {
        ("", "") => what.to_owned(),
        ("", why) => why.to_owned(),
        (author, "") => format!("{what} by {author}"),
        (author, why) => format!("{what} by {author}: {why}"),
    }
}

/// What `rule` says of an endpoint's last minutes, of which `window` is the sum; `None` if it is not about it.
pub fn of_window(
    rule: &Rule,
    endpoint_id: i32,
    place: &Place,
    window: Option<&Window>,
    to_minute: i32,
) -> Option<Signal> {
    let Condition::Threshold {
        measure,
        above,
        minutes,
        min_requests,
        service,
        endpoint,
    } = &rule.condition
    else {
        return None;
    };
    if !matches(service, &place.service) || !matches(endpoint, &place.endpoint) {
        return None;
    }
    let none = Window::default();
    let window = window.unwrap_or(&none);
    let value = value(*measure, window, *minutes);
    let truth = match value {
        // That nothing comes is a rate too.
        _ if *measure != Measure::Rate && window.requests < i64::from(*min_requests) => {
            Truth::Unknown
        }
        Some(value) if value > *above => Truth::True,
        Some(value) if value >= *above * HYSTERESIS => Truth::Holds,
        Some(_) => Truth::False,
        None => Truth::Unknown,
    };
    let kind = ["threshold", measure.words()].join(" ").replace(' ', "-");
    let labels = labels(rule, place, &kind, None);
    let about = About::Number(Number {
        endpoint_id,
        place: place.clone(),
        value: value.unwrap_or_default(),
        requests: window.requests,
        to_minute,
    });
    let verdict = match (truth, value) {
        (Truth::False, Some(value)) => Verdict::ended(format!("{} now", in_unit(*measure, value))),
        (truth, _) => Verdict::of(truth),
    };
    Some(signal(rule, labels, Severity::Warning, verdict, about))
}

/// A measure of some minutes, in its unit; `None` without requests.
pub fn value(measure: Measure, window: &Window, minutes: u32) -> Option<f64> {
    match measure {
        Measure::Rate => Some(window.requests as f64 / (f64::from(minutes) * 60.0)),
        Measure::ErrorRate => {
            (window.requests > 0).then(|| 100.0 * window.errors as f64 / window.requests as f64)
        }
        _ => {
            let ns = window.latency.quantile(measure.quantile()?)?;
            Some(ns as f64 / 1e6)
        }
    }
}

/// `812 ms`, `1.2 s`, `3.4 %`, `120 requests/s`
fn in_unit(measure: Measure, value: f64) -> String {
    match measure {
        Measure::ErrorRate => format!("{value:.1} %"),
        Measure::Rate if value < 10.0 => format!("{value:.1} requests/s"),
        Measure::Rate => format!("{value:.0} requests/s"),
        _ => wording::duration((value * 1e6) as u64),
    }
}

/// `shop (production)`
pub fn service_in_words(place: &Place) -> String {
    match place.environment.as_str() {
        "" => place.service.clone(),
        environment => format!("{} ({environment})", place.service),
    }
}

fn where_in_words(place: &Place) -> String {
    format!("{} of {}", place.endpoint, service_in_words(place))
}

/// What is said of a finding. `data` is what processes of versions without rules posted as well.
pub fn finding_content(finding: &FindingTold, public_url: &str) -> Content {
    let evidence = &finding.evidence;
    let text = |key: &str| evidence[key].as_str().unwrap_or_default();
    let ns = |key: &str| evidence[key].as_u64().unwrap_or_default();
    let statement = evidence["statement"]
        .as_str()
        .map(|it| shorten(it, STATEMENT_BYTES_MAX));
    let came_back = finding.state == "regressed";
    let mut content = Content {
        title: match came_back {
            true => format!("Came back: {}", finding.title),
            false => finding.title.clone(),
        },
        summary: sentences(&[text("explanation"), text("fix")]),
        ..Content::default()
    };
    content.fact("where", where_in_words(&finding.place));
    if came_back {
        let mut before = match finding.regressed {
            ..=1 => "it was resolved before".to_owned(),
            times => format!("for the {}. time", times),
        };
        if let Some(version) = finding.resolved_in.as_deref().filter(|it| !it.is_empty()) {
            let _ = write!(before, "; {version} had fixed it");
        }
        content.fact("came back", before);
    }
    let calls = evidence["count"].as_u64().unwrap_or_default();
    if calls > 0 {
        let took = wording::duration(ns("sum_ns"));
        content.fact("calls", format!("{calls} in one request, {took} together"));
    }
    if ns("saved_ns") > 0 {
        let saved = wording::duration(ns("saved_ns"));
        content.fact(
            "a fix saves",
            format!("{saved} per request (in the worst example)"),
        );
    }
    content.fact(
        "affected",
        format!("{} traces yesterday and today", finding.traces),
    );
    let since = minute_utc(finding.first_seen_ms);
    content.fact(
        "first seen",
        match finding.version.as_str() {
            "" => since,
            version => format!("{since}, in {version}"),
        },
    );
    content.fact("statement", statement.unwrap_or_default());
    content.fact("code", text("code"));
    let page = format!("/bottlenecks/{}", finding.id);
    content.data = json!({
        "type": format!("bottleneck.{}", finding.detector.replace('-', "_")),
        "id": finding.id,
        "detector": finding.detector,
        "fingerprint": shorten(&finding.fingerprint, STATEMENT_BYTES_MAX),
        "title": finding.title,
        "severity": Severity::of(finding.severity).name(),
        "service": finding.place.service,
        "environment": finding.place.environment,
        "endpoint": finding.place.endpoint,
        "version": finding.version,
        "first_seen": calendar::second(finding.first_seen_ms),
        "affected_traces": finding.traces,
        "count": evidence["count"],
        "sum_ns": evidence["sum_ns"],
        "saved_ns": evidence["saved_ns"],
        "statement": statement,
        "code": evidence["code"],
        "explanation": evidence["explanation"],
        "fix": evidence["fix"],
        "url": format!("{}{page}", public_url.trim_end_matches('/')),
    });
    content.link("the bottleneck", page);
    if is_hex(&finding.trace_id) {
        content.link("an example trace", format!("/traces/{}", finding.trace_id));
    }
    content.link(
        "the endpoint",
        format!("/endpoints/{}", finding.endpoint_id),
    );
    content
}

/// What is said of a regression.
pub fn regression_content(regression: &RegressionNow) -> Content {
    let numbers = &regression.numbers;
    let percentile = percentile(numbers.quantile);
    let (before, after) = (
        wording::duration(numbers.before_ns),
        wording::duration(numbers.after_ns),
    );
    let after_version = match regression.version.as_str() {
        "" => String::new(),
        version => format!(" after {version}"),
    };
    let what = match regression.statement.as_str() {
        "" => regression.place.endpoint.clone(),
        statement => format!(
            "{} in {}",
            shorten(statement, 80),
            regression.place.endpoint
        ),
    };
    let explanation = regression.explanation.clone().unwrap_or_default();
    let grew = explanation.contributors.first();
    let mut content = Content {
        title: match regression.title.as_str() {
            "" => format!("{percentile} of {what} went from {before} to {after}{after_version}"),
            title => title.to_owned(),
        },
        summary: grew
            .map(|it| grown(it, explanation.of_slow_ones))
            .unwrap_or_default(),
        ..Content::default()
    };
    content.fact("where", where_in_words(&regression.place));
    // Without a percentile the numbers could not be read.
    let is_known = numbers.quantile > 0.0;
    if is_known {
        content.fact(
            &percentile,
            format!(
                "{before} → {after} ({} requests before, {} since)",
                wording::thousands(numbers.base_requests.unsigned_abs()),
                wording::thousands(numbers.requests.unsigned_abs())
            ),
        );
    }
    let since = minute_utc(regression.began_ms);
    content.fact("since", format!("{since}{after_version}"));
    content.fact(
        "version",
        match (regression.previous.as_str(), regression.version.as_str()) {
            (_, "") => String::new(),
            ("", version) => version.to_owned(),
            (previous, version) => format!("{previous} → {version}"),
        },
    );
    if let Some(it) = grew {
        content.fact("what grew", contributor_name(it));
    }
    if is_known {
        content.fact("by chance", chance(numbers.p_value));
    }
    content.fact(
        "statement",
        shorten(&regression.statement, STATEMENT_BYTES_MAX),
    );
    for note in numbers.notes.iter().take(3) {
        content.fact("note", note.clone());
    }
    content.data = json!({
        "type": "regression",
        "id": regression.id,
        "kind": regression.kind,
        "severity": Severity::of(regression.severity).name(),
        "service": regression.place.service,
        "environment": regression.place.environment,
        "endpoint": regression.place.endpoint,
        "statement": shorten(&regression.statement, STATEMENT_BYTES_MAX),
        "version": regression.version,
        "previous_version": regression.previous,
        "since": calendar::second(regression.began_ms),
        "quantile": numbers.quantile,
        "before_ns": numbers.before_ns,
        "after_ns": numbers.after_ns,
        "base_requests": numbers.base_requests,
        "requests": numbers.requests,
        "p_value": numbers.p_value,
        "contributors": explanation.contributors.iter().take(3).map(|it| json!({
            "path": it.path.iter().map(|it| shorten(it, 300)).collect::<Vec<_>>(),
            "category": it.category,
            "before_ns": it.per_request_ns.0,
            "after_ns": it.per_request_ns.1,
            "calls_before": it.calls.0,
            "calls_after": it.calls.1,
            "share": it.share,
        })).collect::<Vec<_>>(),
    });
    content.link("the comparison", format!("/regressions/{}", regression.id));
    for (text, examples) in [
        ("a slow trace", &explanation.examples),
        ("an ordinary trace from before", &explanation.base_examples),
    ] {
        if let Some((trace, span)) = examples.first()
            && is_hex(trace)
            && is_hex(span)
        {
            content.link(text, format!("/traces/{trace}?span={span}"));
        }
    }
    content.link(
        "the endpoint",
        format!("/endpoints/{}", regression.endpoint_id),
    );
    content
}

/// What is said of a number beyond its limit; `before` is the hour before its minutes.
pub fn number_content(rule: &Rule, number: &Number, before: &Window) -> Content {
    let Condition::Threshold {
        measure,
        above,
        minutes,
        ..
    } = &rule.condition
    else {
        return Content::default();
    };
    let (measure, minutes) = (*measure, *minutes);
    let now = in_unit(measure, number.value);
    let over = time(minutes * 60);
    let usual = value(measure, before, BASELINE_MINUTES as u32).filter(|_| before.requests > 0);
    let mut content = Content {
        title: format!(
            "{} of {} is {now}, above {}",
            measure.words(),
            number.place.endpoint,
            in_unit(measure, *above)
        ),
        ..Content::default()
    };
    content.fact("where", where_in_words(&number.place));
    content.fact(
        measure.words(),
        format!(
            "{now} over {over} ({} requests)",
            wording::thousands(number.requests.unsigned_abs())
        ),
    );
    content.fact("limit", in_unit(measure, *above));
    content.fact(
        "the hour before",
        match usual {
            Some(usual) => format!(
                "{} ({} requests)",
                in_unit(measure, usual),
                wording::thousands(before.requests.unsigned_abs())
            ),
            None => "no requests".into(),
        },
    );
    content.fact("rule", rule.to_string());
    content.data = json!({
        "type": "threshold",
        "measure": measure,
        "value": number.value,
        "above": above,
        "minutes": minutes,
        "requests": number.requests,
        "baseline": usual,
        "baseline_requests": before.requests,
        "service": number.place.service,
        "environment": number.place.environment,
        "endpoint": number.place.endpoint,
    });
    content.link("the endpoint", format!("/endpoints/{}", number.endpoint_id));
    content.link(
        "its slowest requests",
        format!(
            "/traces?service={}&endpoint={}&sort=slowest",
            escaped(&number.place.service),
            escaped(&number.place.endpoint)
        ),
    );
    content
}

/// Minutes that a number beyond its limit is compared with.
pub const BASELINE_MINUTES: i32 = 60;

/// `db.query takes 245 ms per request instead of 3.1 ms, in 5 % of requests longer than before.`
fn grown(it: &Contributor, of_slow_ones: bool) -> String {
    let (before, after) = it.per_request_ns;
    let duration = |ns: i64| wording::duration(u64::try_from(ns).unwrap_or_default());
    let mut text = format!(
        "{} takes {} per request instead of {}",
        contributor_name(it),
        duration(after),
        duration(before)
    );
    if of_slow_ones {
        text.push_str(", among the slowest requests of both sides");
    }
    if (it.calls.1 - it.calls.0).abs() >= 0.5 {
        let _ = write!(
            text,
            "; {:.1} calls instead of {:.1}",
            it.calls.1, it.calls.0
        );
    }
    if it.share > 0.0 {
        let _ = write!(
            text,
            "; in {:.0} % of requests it takes longer than nearly ever before",
            it.share * 100.0
        );
    }
    text.push('.');
    text
}

fn contributor_name(it: &Contributor) -> String {
    let name = it.path.last().map_or("the endpoint itself", String::as_str);
    shorten(name, 200).to_owned()
}

/// `p99`, `p99.9`
fn percentile(quantile: f64) -> String {
    let text = format!("{:.1}", quantile * 100.0);
    format!("p{}", text.strip_suffix(".0").unwrap_or(&text))
}

fn chance(p_value: f64) -> String {
    match p_value {
        it if it <= 0.0 || !it.is_finite() => String::new(),
        it if it < 1e-6 => "less than once in a million times".into(),
        it => format!("once in {} times", wording::thousands((1.0 / it) as u64)),
    }
}

fn sentences(texts: &[&str]) -> String {
    let texts = texts.iter().filter(|it| !it.is_empty());
    texts.copied().collect::<Vec<_>>().join(" ")
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_hexdigit())
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn shorten(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// `2026-11-21 19:25 UTC`
fn minute_utc(ms: i64) -> String {
    let text = calendar::second(ms);
    format!("{} {} UTC", &text[..10], &text[11..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            service: "shop".into(),
            namespace: String::new(),
            environment: "production".into(),
            endpoint: "POST /checkout".into(),
        }
    }

    fn rule(json: Value) -> Rule {
        serde_json::from_value(json).unwrap()
    }

    fn threshold() -> Rule {
        rule(
            json!({"name": "slow checkout", "when": "threshold", "measure": "p99", "above": 800,
                    "endpoint": "POST /checkout"}),
        )
    }

    fn window(ms: u64, requests: i64) -> Window {
        let mut window = Window {
            requests,
            ..Window::default()
        };
        window.latency.record(ms * 1_000_000, requests);
        window
    }

    fn truth(ms: u64, requests: i64) -> Truth {
        let window = window(ms, requests);
        let signal = of_window(&threshold(), 7, &place(), Some(&window), 100);
        signal.unwrap().verdict.truth
    }

    #[test]
    fn a_number_is_judged_with_hysteresis_and_only_from_enough_requests() {
        assert_eq!(truth(900, 100), Truth::True);
        assert_eq!(truth(700, 100), Truth::Holds);
        assert_eq!(truth(600, 100), Truth::False);
        assert_eq!(truth(900, 99), Truth::Unknown);
        let none = of_window(&threshold(), 7, &place(), None, 100).unwrap();
        assert_eq!(none.verdict.truth, Truth::Unknown);
        let mut elsewhere = place();
        elsewhere.endpoint = "GET /".into();
        assert!(of_window(&threshold(), 7, &elsewhere, None, 100).is_none());
        let rate = rule(json!({"name": "r", "when": "threshold", "measure": "rate", "above": 10}));
        let quiet = of_window(&rate, 7, &place(), None, 100).unwrap();
        assert_eq!(quiet.verdict.truth, Truth::False, "no request is a rate");
        let errors =
            rule(json!({"name": "e", "when": "threshold", "measure": "error-rate", "above": 5}));
        let failing = Window {
            errors: 6,
            ..window(1, 100)
        };
        let failing = of_window(&errors, 7, &place(), Some(&failing), 100).unwrap();
        assert_eq!(failing.verdict.truth, Truth::True);
    }

    #[test]
    fn a_number_is_told_with_what_it_was_and_of_how_many() {
        let signal =
            of_window(&threshold(), 7, &place(), Some(&window(1_200, 2_500)), 100).unwrap();
        assert_eq!(signal.labels["kind"], "threshold-p99");
        let About::Number(number) = signal.about else {
            panic!("a number")
        };
        let content = number_content(&threshold(), &number, &window(300, 40_000));
        assert_eq!(
            content.title,
            "p99 of POST /checkout is 1.2 s, above 800 ms"
        );
        let facts: Vec<(&str, &str)> = content
            .facts
            .iter()
            .map(|it| (&*it.name, &*it.value))
            .collect();
        assert_eq!(
            facts,
            [
                ("where", "POST /checkout of shop (production)"),
                ("p99", "1.2 s over 5 minutes (2,500 requests)"),
                ("limit", "800 ms"),
                ("the hour before", "302 ms (40,000 requests)"),
                ("rule", "p99 of POST /checkout above 800 ms over 5 minutes"),
            ]
        );
        assert_eq!(content.links[0].path, "/endpoints/7");
    }

    fn finding(state: &str) -> FindingNow {
        FindingNow {
            id: 12,
            detector: "n-plus-one-query".into(),
            state: state.into(),
            severity: 1,
            traces: 3,
            was_told: false,
            first_until_ms: None,
            place: place(),
        }
    }

    #[test]
    fn findings_open_incidents_while_they_are_new_or_back() {
        let rule = &super::super::defaults::rules()[0];
        let truth = |finding: &FindingNow| of_finding(rule, finding).unwrap().verdict.truth;
        assert_eq!(truth(&finding("new")), Truth::True);
        assert_eq!(truth(&finding("regressed")), Truth::True);
        assert_eq!(truth(&finding("open")), Truth::Holds);
        assert_eq!(truth(&finding("resolved")), Truth::False);
        assert_eq!(truth(&finding("ignored")), Truth::False);
        let acknowledged = of_finding(rule, &finding("acknowledged")).unwrap().verdict;
        assert!(acknowledged.acknowledged && acknowledged.truth == Truth::Holds);
        let mut few = finding("new");
        few.traces = 2;
        assert_eq!(truth(&few), Truth::Holds, "one may be chance");
        let mut told = finding("new");
        told.was_told = true;
        assert_eq!(truth(&told), Truth::Holds, "told by an older version");
        let mut other = finding("new");
        other.detector = "slow-query".into();
        assert!(of_finding(rule, &other).is_none());
    }

    #[test]
    fn labels_identify_and_hold_no_numbers_that_change() {
        let rule = &super::super::defaults::rules()[0];
        let one = of_finding(rule, &finding("new")).unwrap();
        let mut worse = finding("regressed");
        worse.severity = 2;
        worse.traces = 99;
        let same = of_finding(rule, &worse).unwrap();
        assert_eq!(one.fingerprint, same.fingerprint);
        assert_eq!(one.fingerprint.len(), 32);
        assert_eq!(finding_of(&one.labels), Some(12));
        let mut other = finding("new");
        other.id = 13;
        assert_ne!(
            of_finding(rule, &other).unwrap().fingerprint,
            one.fingerprint
        );
        // What runs together must not read the same.
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            fingerprint(&pairs.collect())
        };
        assert_ne!(labels(&[("a", "bc")]), labels(&[("ab", "c")]));
    }

    fn regression() -> RegressionNow {
        let mut regression = RegressionNow {
            id: uuid::Uuid::from_u128(5),
            state: "open".into(),
            kind: "deployment".into(),
            severity: 2,
            title: String::new(),
            place: place(),
            endpoint_id: 7,
            statement_id: 0,
            statement: String::new(),
            began_ms: 1_700_000_000_000,
            detected_ms: 1_700_000_120_000,
            version: "1.1.0".into(),
            previous: "1.0.0".into(),
            numbers: Default::default(),
            explanation: None,
            ended_by: String::new(),
            ended_why: String::new(),
        };
        let numbers = &mut regression.numbers;
        (numbers.quantile, numbers.p_value) = (0.99, 0.00002);
        (numbers.before_ns, numbers.after_ns) = (180_000_000, 420_000_000);
        (numbers.base_requests, numbers.requests) = (1_204, 310);
        regression
    }

    #[test]
    fn a_regression_waits_a_little_for_what_grew() {
        let rule = &super::super::defaults::rules()[2];
        let truth = |it: &RegressionNow, after_ms| {
            let signal = of_regression(rule, it, it.detected_ms + after_ms);
            signal.unwrap().verdict.truth
        };
        let mut it = regression();
        assert_eq!(truth(&it, 0), Truth::Holds);
        assert_eq!(truth(&it, EXPLANATION_WAIT_MS), Truth::True);
        assert_eq!(truth(&it, REGRESSION_NEW_MS), Truth::Holds);
        it.explanation = Some(Default::default());
        assert_eq!(truth(&it, 0), Truth::True);
        it.severity = 0;
        assert_eq!(truth(&it, 0), Truth::Holds);
        it.state = "accepted".into();
        assert_eq!(truth(&it, 0), Truth::False);
    }

    #[test]
    fn the_end_of_a_regression_says_why() {
        let why = |state: &str, author: &str, reason: &str| {
            let it = RegressionNow {
                state: state.into(),
                ended_by: author.into(),
                ended_why: reason.into(),
                ..regression()
            };
            let rule = &super::super::defaults::rules()[2];
            of_regression(rule, &it, 0).unwrap().verdict.why.unwrap()
        };
        assert_eq!(
            why("resolved", "", "no requests for a day"),
            "no requests for a day"
        );
        assert_eq!(
            why("resolved", "ann", "rolled back"),
            "resolved by ann: rolled back"
        );
        assert_eq!(why("resolved", "", ""), "resolved");
        assert_eq!(
            why("accepted", "ann", ""),
            "accepted as the new normal by ann"
        );
    }

    #[test]
    fn a_regression_says_what_where_since_when_how_much_and_why() {
        let mut it = regression();
        let mut explanation = crate::regression::evidence::Explanation::default();
        explanation.contributors.push(Contributor {
            path: vec!["POST /checkout".into(), "select stock".into()],
            per_request_ns: (3_100_000, 245_000_000),
            calls: (1.0, 1.0),
            share: 0.05,
            ..Contributor::default()
        });
        explanation.examples = vec![("ab".repeat(16), "cd".repeat(8))];
        explanation.base_examples = vec![("ef".repeat(16), "01".repeat(8))];
        it.explanation = Some(explanation);
        let content = regression_content(&it);
        assert_eq!(
            content.title,
            "p99 of POST /checkout went from 180 ms to 420 ms after 1.1.0"
        );
        assert_eq!(
            content.summary,
            "select stock takes 245 ms per request instead of 3.1 ms; in 5 % of requests it takes longer \
             than nearly ever before."
        );
        let facts: Vec<String> = content
            .facts
            .iter()
            .map(|it| format!("{}: {}", it.name, it.value))
            .collect();
        assert_eq!(
            facts,
            [
                "where: POST /checkout of shop (production)",
                "p99: 180 ms → 420 ms (1,204 requests before, 310 since)",
                "since: 2023-11-14 22:13 UTC after 1.1.0",
                "version: 1.0.0 → 1.1.0",
                "what grew: select stock",
                "by chance: once in 49,999 times",
            ]
        );
        let links: Vec<&str> = content.links.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            links,
            [
                "/regressions/00000000-0000-0000-0000-000000000005",
                "/traces/abababababababababababababababab?span=cdcdcdcdcdcdcdcd",
                "/traces/efefefefefefefefefefefefefefefef?span=0101010101010101",
                "/endpoints/7",
            ]
        );
    }
}
