//! What a loop costs and how it is told: what the detectors of the N+1 family say alike.

use crate::category::Category;
use crate::evidence::{self, Parameters};
use crate::facts::Facts;
use crate::finding::Finding;
use crate::framework::{Library, library};
use crate::groups::Loop;
use crate::impact::{Impact, impact};
use crate::role::Role;
use crate::span::SpanKind;
use crate::span::Status;
use crate::target::Target;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Call, Entry};

/// So many repeats are no coincidence, and their number will grow with the data, however quick they are.
pub(crate) const REPEATS_CERTAIN: usize = 25;

/// Loops of queries, writes and messages shorter than this are worth no alert…
const WAITED_NS_MIN: u64 = 20_000_000;
/// …unless they are this much of the request.
pub(crate) const WAITED_PERCENT_MIN: u64 = 10;

/// Calls of one loop that a title names; further ones are `…`.
const TITLE_STEPS_MAX: usize = 3;

/// What one call that does the work of a loop takes, as a multiple of the loop's median call: it carries
/// more rows but pays for one round trip.
const BATCH_COST_PERCENT: u64 = 150;

/// Is `found` worth a word: long, a good part of its request, or certain to grow?
pub(crate) fn matters(analysis: &Analysis<'_>, found: &Loop) -> bool {
    let request_ns = analysis.entries[found.entry].duration_ns;
    found.waited_ns >= WAITED_NS_MIN
        || percent(found.waited_ns, request_ns) >= WAITED_PERCENT_MIN
        || found.calls.len() >= REPEATS_CERTAIN
}

/// The call failed, by what its spans say: a retry of it is no next row.
pub(crate) fn failed(analysis: &Analysis<'_>, call: &Call) -> bool {
    [call.outer, call.span]
        .map(|it| analysis.trace.span(it).status)
        .contains(&Status::Error)
}

/// All that is known of the request is its method: whether two of them go to one place cannot be told.
pub(crate) fn is_nameless(call: &Call) -> bool {
    let says_nothing = |word: &str| {
        let words = [
            "http", "https", "get", "post", "put", "patch", "delete", "head", "options", "request",
        ];
        words.iter().any(|it| word.eq_ignore_ascii_case(it))
    };
    call.category == Category::External && call.key.split([' ', '.']).all(says_nothing)
}

/// The call carries more than one row, key or message: it is a batch already.
pub(crate) fn is_batch(analysis: &Analysis<'_>, call: &Call) -> bool {
    let sizes = [
        "db.operation.batch.size",
        "messaging.batch.message_count",
        "db.redis.pipeline_length",
    ];
    let spans = &analysis.trace.spans;
    let size = spans.first_of(analysis.trace.span(call.span), &sizes);
    size.and_then(|it| it.as_int()).is_some_and(|it| it > 1)
}

/// A loop with what is asked about it more than once.
pub(crate) struct Told<'b, 'a> {
    pub(crate) analysis: &'b Analysis<'a>,
    pub(crate) found: &'b Loop,
    pub(crate) role: Role,
    /// Of the calls of its first step.
    pub(crate) parameters: Parameters,
    pub(crate) library: Library,
    impact: Impact,
}

impl<'b, 'a> Told<'b, 'a> {
    pub(crate) fn of(analysis: &'b Analysis<'a>, found: &'b Loop, role: Role) -> Self {
        let entry = &analysis.entries[found.entry];
        let first = &analysis.calls[found.steps[0].first];
        Told {
            analysis,
            found,
            role,
            parameters: evidence::compare_parameters(analysis, &step_calls(analysis, found, 0)),
            library: library(analysis, first.span, entry.span),
            impact: impact(analysis, entry, &found.waiting),
        }
    }

    pub(crate) fn entry(&self) -> &'b Entry<'a> {
        &self.analysis.entries[self.found.entry]
    }

    pub(crate) fn first(&self) -> &'b Call {
        &self.analysis.calls[self.found.steps[0].first]
    }

    pub(crate) fn is_remote(&self) -> bool {
        self.found.is_remote(self.analysis)
    }

    pub(crate) fn median_ns(&self) -> u64 {
        self.found.median_ns(self.analysis)
    }

    /// The time waited for the loop, less `replacement_ns` for what does its work instead; at most what the loop
    /// takes off the critical path, for beside something longer the replacement costs nothing.
    pub(crate) fn saved_ns(&self, replacement_ns: u64) -> u64 {
        let shorter_ns = self.found.waited_ns.saturating_sub(replacement_ns);
        let saved_ns = shorter_ns.min(self.impact.removable_ns);
        saved_ns.min(self.entry().duration_ns)
    }

    /// As [`Told::saved_ns`], if one call per step does the work of all.
    pub(crate) fn saved_in_batches_ns(&self) -> u64 {
        let one_ns = self.median_ns() * BATCH_COST_PERCENT / 100;
        self.saved_ns(one_ns.saturating_mul(self.found.steps.len() as u64))
    }

    /// `5 × select authors, one by one`; `noun` is what several different ones are: `queries`.
    pub(crate) fn title(&self, noun: &str) -> String {
        let steps = &self.found.steps;
        let step = |at: usize| {
            let call = &self.analysis.calls[steps[at].first];
            format!("{} × {}", steps[at].count, summary(call))
        };
        if steps.len() > 1 {
            let named: Vec<String> = (0..steps.len().min(TITLE_STEPS_MAX)).map(step).collect();
            let more = if steps.len() > TITLE_STEPS_MAX {
                ", …"
            } else {
                ""
            };
            let count = self.found.calls.len();
            return format!("{count} {noun} in one loop: {}{more}", named.join(", "));
        }
        if self.is_remote() {
            return format!("{} in {}, one call each", step(0), self.remote_service());
        }
        let manner = match (self.parameters, self.found.is_serial()) {
            (Parameters::Same, _) => "the same every time",
            (_, true) => "one by one",
            (_, false) => "side by side",
        };
        format!("{}, {manner}", step(0))
    }

    /// The service that the calls are in, if it is another.
    pub(crate) fn remote_service(&self) -> &'b str {
        let entry = self.first().entry;
        entry.map_or("another service", |it| {
            self.analysis.entries[it].service.name
        })
    }

    /// `each after the last one has returned`.
    pub(crate) fn manner(&self) -> String {
        let callee = self.first().entry.filter(|_| self.is_remote());
        match (callee, self.found.is_serial()) {
            (Some(callee), _) => {
                let callee = &self.analysis.entries[callee];
                let (calls, service) = (self.found.waiting.len(), callee.service.name);
                format!("inside of {calls} calls to {service} ({})", callee.endpoint)
            }
            (None, true) => "each after the last one has returned".to_string(),
            (None, false) => "several at a time".to_string(),
        }
    }

    /// `6 ms each (median), 30 ms of the request's 36 ms (83 %)`.
    pub(crate) fn numbers(&self) -> String {
        let request_ns = self.entry().duration_ns;
        format!(
            "{} each (median), {} of the request's {} ({} %)",
            duration(self.median_ns()),
            duration(self.found.waited_ns),
            duration(request_ns),
            percent(self.found.waited_ns, request_ns),
        )
    }

    /// The finding, without its words.
    pub(crate) fn finding(&self, detector: &'static str, saved_ns: u64, sure: Sure) -> Finding {
        let (analysis, found, first) = (self.analysis, self.found, self.first());
        let path = found.call_path.join(" > ");
        let statement = statement_text(first);
        let (confidence, reasons) = sure.finish();
        Finding {
            severity: self.role.severity(saved_ns, self.entry().duration_ns),
            confidence,
            reasons,
            call_path: found.call_path.clone(),
            statement: Some(statement.to_string()),
            parameters: evidence::parameters(analysis, &step_calls(analysis, found, 0)),
            saved_ns,
            framework: self.library.name,
            ..Finding::in_calls(
                detector,
                analysis,
                found.entry,
                &found.calls,
                &[&path, statement],
            )
        }
    }
}

/// The calls of one step, in order of start.
pub(crate) fn step_calls(analysis: &Analysis<'_>, found: &Loop, step: usize) -> Vec<usize> {
    let key = &analysis.calls[found.steps[step].first].key;
    let of_step = found.calls.iter();
    let of_step = of_step.filter(|it| analysis.calls[**it].key == *key);
    of_step.copied().collect()
}

/// The normalised statement, or what stands for it.
pub(crate) fn statement_text(call: &Call) -> &str {
    call.statement.as_ref().map_or(&call.key, |it| &it.text)
}

/// `select authors`, `GET stock/items`.
pub(crate) fn summary(call: &Call) -> String {
    match &call.statement {
        Some(statement) => statement.summary(),
        None => call.name.to_string(),
    }
}

/// Whom a request goes to: the service that answered, if it reports, else the host.
pub(crate) fn callee<'b>(analysis: &'b Analysis<'_>, call: &Call) -> Option<&'b str> {
    // It is the only child or nearly so.
    const CHILDREN_MAX: usize = 8;
    let mut children = analysis.trace.children(call.span).take(CHILDREN_MAX);
    let server = children.find(|it| analysis.trace.span(*it).kind == SpanKind::Server);
    let entry = |span: SpanIdx| {
        analysis
            .entries
            .binary_search_by_key(&span, |it| it.span)
            .ok()
    };
    if let Some(entry) = server.and_then(entry) {
        return Some(analysis.entries[entry].service.name);
    }
    let facts = Facts::of(&analysis.trace.spans, analysis.trace.span(call.span));
    let host = Target::of(&facts).host;
    [facts.peer_service, host]
        .into_iter()
        .find(|it| !it.is_empty())
}

/// How sure a detector is, and why.
pub(crate) struct Sure {
    confidence: f32,
    reasons: Vec<String>,
}

impl Sure {
    /// Before anything was weighed.
    pub(crate) fn at(confidence: f32) -> Sure {
        Sure {
            confidence,
            reasons: Vec::new(),
        }
    }

    /// `weight` surer (or less sure, if it is negative), because of `reason`, a clause.
    pub(crate) fn say(&mut self, weight: f32, reason: impl Into<String>) {
        self.confidence += weight;
        self.reasons.push(reason.into());
    }

    /// What parameters, order and number of a loop's calls say.
    pub(crate) fn weigh_loop(&mut self, told: &Told<'_, '_>) {
        match told.parameters {
            Parameters::Different => self.say(0.15, "its parameters differ from call to call"),
            Parameters::Same => self.say(0.1, "its parameters are the same every time"),
            Parameters::Hidden => {}
        }
        self.weigh_order(told);
    }

    /// What order and number of a loop's calls say.
    pub(crate) fn weigh_order(&mut self, told: &Told<'_, '_>) {
        if told.found.is_serial() {
            self.say(0.1, "the calls run one after the other");
        }
        let repeats = told.found.steps[0].count;
        if repeats >= REPEATS_CERTAIN {
            self.say(0.1, format!("{repeats} repeats are no coincidence"));
        }
    }

    /// Never quite certain, never out of the question.
    pub(crate) fn finish(self) -> (f32, Vec<String>) {
        (self.confidence.clamp(0.05, 0.99), self.reasons)
    }
}
