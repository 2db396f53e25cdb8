//! A comparison that says "slower", on its way to becoming a regression.

use analyzer::regression::{Claim, Comparison, Slot};
use analyzer::sketch::Sketch;
use analyzer::wording;

use super::evidence::{Explanation, Numbers, Percentile};
use crate::store::bottlenecks::Minutes;
use crate::store::regressions::{NewRegression, WatchedEndpoint};

/// Requests that are compared: of when, and of which version.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// Minutes since the epoch.
    pub minutes: Minutes,
    /// Only of this version; `None`: of any.
    pub version: Option<String>,
    /// versions.id of it.
    pub version_id: Option<i32>,
}

/// Something that became slower, as far as the roll-ups tell.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Where.
    pub endpoint: WatchedEndpoint,
    /// statements.id and text, if it is one statement that is slower and not the whole endpoint.
    pub statement: Option<(i32, String)>,
    /// `deployment`, `sudden` or `drift`.
    pub kind: &'static str,
    /// deployments.id, and what was deployed.
    pub deployment: Option<(i32, String)>,
    /// The number of the look that a deployment has been given, to be noted once the candidate is dealt with.
    pub look: Option<u8>,
    /// Before.
    pub base_side: Side,
    /// Since.
    pub now_side: Side,
    /// Requests before.
    pub base: Vec<Slot>,
    /// Requests since.
    pub now: Vec<Slot>,
    /// The comparison.
    pub numbers: Numbers,
}

/// From here on a regression is critical: users notice a quarter of a second, and twice as long is no drift.
const CRITICAL_RATIO: f64 = 2.0;
const CRITICAL_ADDED_NS: u64 = 250_000_000;

/// Another load explains much.
const LOAD_RATIO: f64 = 2.0;

/// Failed requests take another way through the code.
const ERROR_RATE_ADDED: f64 = 0.05;

/// Letters of a statement in a title.
const STATEMENT_LETTERS_MAX: usize = 80;

impl Candidate {
    /// All durations before.
    pub fn base_latency(&self) -> Sketch {
        latency(&self.base)
    }

    /// What it is: endpoint, and statement or 0.
    pub fn key(&self) -> (i32, i32) {
        let statement = self.statement.as_ref().map_or(0, |it| it.0);
        (self.endpoint.id, statement)
    }

    /// The look it came from, to be noted: deployment, endpoint, how many there were by now.
    pub fn looked(&self) -> Option<(i32, i32, u8)> {
        let (deployment, _) = self.deployment.as_ref()?;
        Some((*deployment, self.endpoint.id, self.look?))
    }

    /// The minute from which on it is slower: the one that best divides few long requests from many (Page's cumulative
    /// sum, against the rate half way between before and since).
    pub fn began_minute(&self) -> i32 {
        let usual = 1.0 - self.numbers.quantile;
        let share = self.numbers.above as f64 / self.numbers.requests.max(1) as f64;
        let half_way = (usual + share) / 2.0;
        let (mut sum, mut least) = (0.0, 0.0);
        let mut began = self.now_side.minutes.from;
        for (at, slot) in self.now.iter().enumerate() {
            let above = slot.latency.count_above(self.numbers.before_ns) as f64;
            sum += above - half_way * slot.latency.count() as f64;
            if sum < least {
                least = sum;
                began = self.now.get(at + 1).map_or(slot.minute, |it| it.minute);
            }
        }
        began
    }

    /// What stands in the list and in alerts.
    pub fn regression(&self, detected_ms: i64, explanation: Option<Explanation>) -> NewRegression {
        NewRegression {
            endpoint_id: self.endpoint.id,
            statement_id: self.statement.as_ref().map_or(0, |it| it.0),
            kind: self.kind,
            deployment_id: self.deployment.as_ref().map(|it| it.0),
            severity: self.severity(),
            title: self.title(),
            began_ms: i64::from(self.began_minute()) * 60_000,
            detected_ms,
            base_version_id: self.base_side.version_id,
            base: self.base_side.minutes,
            version_id: self.now_side.version_id,
            numbers: self.numbers.clone(),
            explanation,
        }
    }

    fn severity(&self) -> i16 {
        let (before, after) = (self.numbers.before_ns, self.numbers.after_ns);
        let added = after.saturating_sub(before);
        let is_double = after as f64 >= CRITICAL_RATIO * before as f64;
        match self.kind {
            "drift" => i16::from(is_double),
            _ if is_double && added >= CRITICAL_ADDED_NS => 2,
            _ => 1,
        }
    }

    fn title(&self) -> String {
        let what = match &self.statement {
            None => self.endpoint.name.clone(),
            Some((_, text)) => {
                let text: String = text.chars().take(STATEMENT_LETTERS_MAX).collect();
                format!("`{text}` ({})", self.endpoint.name)
            }
        };
        let after = match (&self.deployment, self.kind) {
            (Some((_, version)), _) if !version.is_empty() => format!(" after {version}"),
            (Some(_), _) => " after a deployment".to_owned(),
            (None, "drift") => " over the last days".to_owned(),
            (None, _) => String::new(),
        };
        format!(
            "{} of {what} went from {} to {}{after}",
            quantile_name(self.numbers.quantile),
            wording::duration(self.numbers.before_ns),
            wording::duration(self.numbers.after_ns),
        )
    }
}

/// `p99`, or `the median`.
pub fn quantile_name(quantile: f64) -> String {
    match quantile {
        0.5 => "the median".to_owned(),
        _ => format!("p{:.0}", quantile * 100.0),
    }
}

/// All durations of these slots.
pub fn latency(slots: &[Slot]) -> Sketch {
    let mut sum = Sketch::default();
    for slot in slots {
        sum.merge(&slot.latency);
    }
    sum
}

/// What is stored of a comparison with these requests since that claims something.
pub fn numbers(comparison: &Comparison, claim: &Claim, now: &[Slot]) -> Numbers {
    let now = latency(now);
    let share_above = now.count_above(claim.before_ns) as f64 / now.count().max(1) as f64;
    let quantiles = comparison.quantiles.iter().map(|it| Percentile {
        quantile: it.quantile,
        before_ns: it.before_ns,
        after_ns: it.after_ns,
        is_certain: it.is_certain,
    });
    Numbers {
        quantile: claim.quantile,
        before_ns: claim.before_ns,
        after_ns: claim.after_ns,
        base_requests: comparison.base_requests,
        requests: comparison.requests,
        p_value: claim.p_value,
        above: (share_above * comparison.requests as f64).round() as i64,
        expected: (1.0 - claim.quantile) * comparison.requests as f64,
        quantiles: quantiles.collect(),
        rates: comparison.rates,
        error_rates: comparison.error_rates,
        notes: notes(comparison),
    }
}

fn notes(comparison: &Comparison) -> Vec<String> {
    let mut notes = Vec::new();
    let (before, since) = comparison.rates;
    if before > 0.0 && since > LOAD_RATIO * before {
        notes.push(format!(
            "the load is {:.1} times what it was: it may be the reason",
            since / before
        ));
    }
    let (before, since) = comparison.error_rates;
    if since > before + ERROR_RATE_ADDED {
        notes.push(format!(
            "{:.0} % of requests fail, {:.0} % did before: failing may be what takes longer",
            100.0 * since,
            100.0 * before
        ));
    }
    notes
}
