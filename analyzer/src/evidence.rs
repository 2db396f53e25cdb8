//! What a finding shows beside its numbers: where in the code, with which parameters.

use crate::category::Category;
use crate::span::{Span, Spans, Value, texts};
use crate::sql;
use crate::trace::SpanIdx;
use crate::{Analysis, Call};
use std::borrow::Cow;

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
    let mut asked = calls
        .iter()
        .map(|it| asked_for(analysis, &analysis.calls[*it]));
    let Some(Some(first)) = asked.next() else {
        return Parameters::Hidden;
    };
    let (mut complete, mut same) = (first.complete, true);
    for asked in asked {
        let Some(asked) = asked else {
            return Parameters::Hidden;
        };
        complete &= asked.complete;
        same &= asked.text == first.text;
    }
    match (same, complete) {
        (false, _) => Parameters::Different,
        (true, true) => Parameters::Same,
        // What is not shown may differ.
        (true, false) => Parameters::Hidden,
    }
}

/// What tells a call from others of its key. Not redacted: only to be compared, never to be shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Asked<'a> {
    /// Parameters, literals, or path and query.
    pub text: Cow<'a, str>,
    /// Nothing else can differ: of two calls with one text the second has the first one's answer.
    pub complete: bool,
}

/// What `call` asks for; `None` if its sender does not say.
pub fn asked_for<'a>(analysis: &Analysis<'a>, call: &Call) -> Option<Asked<'a>> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    match call.category {
        Category::Database => statement_asked(spans, span, call),
        Category::Cache => {
            let text = spans.text(span, &["db.query.text", "db.statement"])?;
            Some(Asked {
                text: text.into(),
                complete: !text.contains(['?', '[']),
            })
        }
        Category::External => request_asked(spans, span),
        _ => None,
    }
}

fn statement_asked<'a>(spans: &Spans<'a>, span: &Span<'a>, call: &Call) -> Option<Asked<'a>> {
    let statement = call.statement.as_ref()?;
    let bound = bound_parameters(spans, span);
    if !bound.is_empty() {
        let mut text: Vec<String> = bound
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        text.extend(constants(spans, span, call));
        return Some(Asked {
            text: text.join("\n").into(),
            complete: !statement.truncated,
        });
    }
    if let Some(parameters) = spans.text(span, &["db.statement.parameters"]) {
        let mut text = vec![parameters.to_string()];
        text.extend(constants(spans, span, call));
        return Some(Asked {
            text: text.join("\n").into(),
            complete: !statement.truncated && !parameters.is_empty(),
        });
    }
    // With placeholders in the text, its literals are constants, and what varies is not shown.
    if statement.had_placeholders {
        return None;
    }
    let text = spans.text(span, &["db.query.text", "db.statement"])?;
    let literals = sql::literals(text, &call.system);
    // Without tables it is no statement but a name for one, as some senders make them.
    let says_all = !literals.is_empty() || !statement.tables.is_empty();
    says_all.then(|| Asked {
        complete: !statement.truncated && literals.len() < sql::LITERALS_MAX,
        text: literals.join("\n").into(),
    })
}

/// The literals beside a statement's parameters: statements of one shape may differ in them.
fn constants(spans: &Spans<'_>, span: &Span<'_>, call: &Call) -> Vec<String> {
    let had_literals = call.statement.as_ref().is_some_and(|it| it.had_literals);
    let text = spans.text(span, &["db.query.text", "db.statement"]);
    let literals = text
        .filter(|_| had_literals)
        .map(|it| sql::literals(it, &call.system));
    let literals = literals.unwrap_or_default().into_iter();
    literals.map(|it| it.to_string()).collect()
}

/// Requests of an RPC and the bodies of posts are not shown anywhere.
fn request_asked<'a>(spans: &Spans<'a>, span: &Span<'a>) -> Option<Asked<'a>> {
    let (path, query) = path_and_query(spans, span)?;
    let method = spans.text(span, &["http.request.method", "http.method"]);
    let method = method.unwrap_or_else(|| span.name.split(' ').next().unwrap_or(""));
    let text = match query {
        "" => path.into(),
        query => format!("{path}?{query}").into(),
    };
    Some(Asked {
        text,
        complete: matches!(method, "GET" | "HEAD") && !is_redacted(query),
    })
}

/// Path and query (empty without one) of the URL that the span `span` asks for, as sent; `None` if the span
/// does not say all of it.
pub fn path_and_query<'a>(spans: &Spans<'a>, span: &Span<'a>) -> Option<(&'a str, &'a str)> {
    let url = spans.text(span, &["url.full", "http.url"])?;
    let (_, after_scheme) = url.split_once("://")?;
    let path = after_scheme
        .find(['/', '?'])
        .map_or("", |at| &after_scheme[at..]);
    let path = path.split('#').next().unwrap_or(path);
    Some(path.split_once('?').unwrap_or((path, "")))
}

/// Senders that hide what stands in a query put a star or a word in its place.
pub fn is_redacted(query: &str) -> bool {
    query == "*" || query.contains("=*") || query.contains("REDACTED")
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

/// A call's parameters by name (empty for literals), not redacted.
fn raw_parameters(analysis: &Analysis<'_>, call: &Call) -> Vec<(String, String)> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    if call.category == Category::External {
        return request_parameters(spans, span, &call.key);
    }
    let parameters = bound_parameters(spans, span);
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
        (text.filter(|_| !bound), call.system.as_str()),
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

/// The parameters that the span shows, by name or number as it names them. Not redacted.
pub(crate) fn bound_parameters(spans: &Spans<'_>, span: &Span<'_>) -> Vec<(String, String)> {
    let mut bound = Vec::new();
    for it in spans.attributes_at(&span.attributes) {
        if let Some(name) = it.key.strip_prefix("db.query.parameter.") {
            bound.push((name.to_string(), value_text(&it.value)));
        } else if let ("db.postgresql.values", Value::Nested(values)) = (it.key, it.value) {
            bound.extend(texts(values).map(|it| (String::new(), it.to_string())));
        }
    }
    bound
}

/// The pieces of the path that the key has no word for, and the query's pairs.
fn request_parameters(spans: &Spans<'_>, span: &Span<'_>, key: &str) -> Vec<(String, String)> {
    let Some((path, query)) = path_and_query(spans, span) else {
        return Vec::new();
    };
    let template = key.find('/').map_or("", |at| &key[at..]);
    let mut words: Vec<&str> = template.split('/').collect();
    if words.len() != path.split('/').count() {
        words.clear();
    }
    let pieces = path.split('/').zip(words);
    let ids = pieces.filter(|(piece, word)| piece != word);
    let ids = ids.map(|(piece, _)| (String::new(), piece.to_string()));
    let query = if is_redacted(query) { "" } else { query };
    let pairs = query.split('&').filter(|it| !it.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_string(), value.to_string())
    });
    ids.chain(pairs).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Attribute;

    #[test]
    fn values_of_nodes_driver_are_parameters() {
        let spans = Spans {
            attributes: vec![Attribute {
                key: "db.postgresql.values",
                value: Value::Nested(b"\x2a\x06\x0a\x04\x0a\x0217"),
            }],
            ..Spans::default()
        };
        let span = Span {
            attributes: 0..1,
            ..Span::default()
        };
        assert_eq!(
            bound_parameters(&spans, &span),
            [(String::new(), "17".to_string())]
        );
    }
}
