//! What a finding shows beside its numbers: where in the code, with which parameters.

use crate::span::{Span, Value};
use crate::sql;
use crate::trace::SpanIdx;
use crate::{Analysis, Call};

/// So many calls' parameters are shown: enough to see that they differ.
const PARAMETERS_CALLS_MAX: usize = 5;

/// So many parameters of one call are shown.
const PARAMETERS_MAX: usize = 8;

/// Numbers with more digits may be card or account numbers: hidden like text.
const VISIBLE_DIGITS_MAX: usize = 12;

/// `posts.py:31 load_authors`, from the span or the nearest ancestor that says so, up to `top`.
pub fn code(analysis: &Analysis<'_>, span: SpanIdx, top: SpanIdx) -> Option<String> {
    let ancestors = std::iter::successors(Some(span), |it| analysis.trace.node(*it).parent);
    let mut inside = ancestors.take_while(|it| *it >= top);
    inside.find_map(|it| code_of(analysis, analysis.trace.span(it)))
}

fn code_of(analysis: &Analysis<'_>, span: &Span<'_>) -> Option<String> {
    let spans = &analysis.trace.spans;
    let file = spans.text(span, &["code.file.path", "code.filepath"]);
    let line = spans
        .first_of(span, &["code.line.number", "code.lineno"])
        .and_then(|it| it.as_int());
    let function = match spans.text(span, &["code.function.name"]) {
        Some(function) => Some(function.to_string()),
        None => spans.text(span, &["code.function"]).map(|function| {
            match spans.text(span, &["code.namespace"]) {
                Some(namespace) => format!("{namespace}.{function}"),
                None => function.to_string(),
            }
        }),
    };
    let place = match (file, line) {
        (Some(file), Some(line)) => Some(format!("{file}:{line}")),
        (Some(file), None) => Some(file.to_string()),
        (None, _) => None,
    };
    match (place, function) {
        (Some(place), Some(function)) => Some(format!("{place} {function}")),
        (place, function) => place.or(function),
    }
}

/// Whether the calls asked for the same thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parameters {
    /// Some call does not show its parameters.
    Hidden,
    /// All calls have the same.
    Same,
    /// At least two differ.
    Different,
}

/// Compares the parameters of the `calls` (indices into [`Analysis::calls`]).
pub fn compare_parameters(analysis: &Analysis<'_>, calls: &[usize]) -> Parameters {
    let mut calls = calls
        .iter()
        .map(|it| raw_parameters(analysis, &analysis.calls[*it]));
    let Some(first) = calls.next().filter(|it| !it.is_empty()) else {
        return Parameters::Hidden;
    };
    let mut compared = Parameters::Same;
    for parameters in calls {
        if parameters.is_empty() {
            return Parameters::Hidden;
        }
        if parameters != first {
            compared = Parameters::Different;
        }
    }
    compared
}

/// Visible parameters of the first few calls, one text per call, everything but numbers hidden.
/// Empty if a call shows none.
pub fn parameters(analysis: &Analysis<'_>, calls: &[usize]) -> Vec<String> {
    let calls = calls.iter().take(PARAMETERS_CALLS_MAX);
    let texts = calls.map(|it| {
        let parameters = raw_parameters(analysis, &analysis.calls[*it]);
        let shown = parameters.iter().take(PARAMETERS_MAX).map(|(name, value)| {
            let value = redacted(value);
            if name.is_empty() {
                value.to_string()
            } else {
                format!("{name} = {value}")
            }
        });
        shown.collect::<Vec<_>>().join(", ")
    });
    let texts: Vec<String> = texts.collect();
    if texts.iter().any(String::is_empty) {
        return Vec::new();
    }
    texts
}

/// A call's parameters by name (empty for literals), not redacted: only to be compared.
fn raw_parameters(analysis: &Analysis<'_>, call: &Call) -> Vec<(String, String)> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let mut parameters = Vec::new();
    for attribute in spans.attributes_at(&span.attributes) {
        if let Some(name) = attribute.key.strip_prefix("db.query.parameter.") {
            parameters.push((name.to_string(), value_text(&attribute.value)));
        }
    }
    if !parameters.is_empty() {
        return parameters;
    }
    // With placeholders in the text, its literals are constants, and what varies is not shown.
    let bound = call
        .statement
        .as_ref()
        .is_some_and(|it| it.had_placeholders);
    let text = spans.text(span, &["db.query.text", "db.statement"]);
    let sources = [
        (spans.text(span, &["db.statement.parameters"]), "mysql"),
        (
            text.filter(|_| !bound),
            spans
                .text(span, &["db.system.name", "db.system"])
                .unwrap_or(""),
        ),
    ];
    for (text, system) in sources {
        let literals = sql::literals(text.unwrap_or(""), system);
        if !literals.is_empty() {
            let unnamed = literals
                .into_iter()
                .map(|it| (String::new(), it.to_string()));
            return unnamed.collect();
        }
    }
    parameters
}

fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::Str(text) => (*text).to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn redacted(value: &str) -> &str {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_number = !digits.is_empty()
        && digits.len() <= VISIBLE_DIGITS_MAX
        && digits.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    if is_number { value } else { "'…'" }
}
