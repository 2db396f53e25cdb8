//! Pages of a list are no rows of one: a query that only moves its offset or cursor reads one answer in
//! parts, while `where post_id = ? limit 3 offset 0` for one post after the other is a loop.

use crate::evidence::bound_parameters;
use crate::groups::Loop;
use crate::loops::{statement_text, step_calls};
use crate::sql::{self, Place, Slot};
use crate::{Analysis, Call};
use std::borrow::Cow;

/// Do the calls walk through a list?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    No,
    /// It has an offset or a cursor beside what names its rows, and the sender does not show which of them
    /// change.
    Perhaps,
    Yes,
}

/// Whether any of the loop's calls walk through a list, or may do.
pub(crate) fn pages(analysis: &Analysis<'_>, found: &Loop) -> Pages {
    let mut pages = Pages::No;
    for (at, step) in found.steps.iter().enumerate() {
        // Most statements have nothing to walk with.
        if may_walk(statement_text(&analysis.calls[step.first])) {
            match of_calls(analysis, &step_calls(analysis, found, at)) {
                Pages::No => {}
                Pages::Perhaps => pages = Pages::Perhaps,
                Pages::Yes => return Pages::Yes,
            }
        }
    }
    pages
}

/// An offset; or a bound and an end.
fn may_walk(text: &str) -> bool {
    let walks = text.contains(" > ")
        || text.contains(" < ")
        || text.contains(" >= ")
        || text.contains(" <= ");
    let ends =
        text.contains(" limit ?") || text.contains("select top ") || text.contains(" fetch ");
    text.contains(" offset ?") || walks && ends
}

/// What is seen of one place over all calls.
#[derive(Default)]
struct Seen {
    differs: bool,
    hidden: bool,
}

fn of_calls(analysis: &Analysis<'_>, calls: &[usize]) -> Pages {
    let Some((first, others)) = calls.split_first() else {
        return Pages::No;
    };
    let first = values(analysis, &analysis.calls[*first]);
    // A page of one row is a row.
    let is_one = |(slot, value): &(Slot<'_>, Option<Cow<'_, str>>)| {
        slot.place == Place::Length && value.as_deref() == Some("1")
    };
    if first.iter().any(is_one) {
        return Pages::No;
    }
    let (mut rows, mut walk) = (Seen::default(), Seen::default());
    for (slot, value) in &first {
        seen(slot, &mut rows, &mut walk).hidden |= value.is_none();
    }
    for call in others {
        let other = values(analysis, &analysis.calls[*call]);
        for ((slot, value), (_, other)) in first.iter().zip(&other) {
            let seen = seen(slot, &mut rows, &mut walk);
            seen.hidden |= other.is_none();
            seen.differs |= value.is_some() && other.is_some() && value != other;
        }
    }
    match (rows, walk) {
        // Another list each time.
        (Seen { differs: true, .. }, _) => Pages::No,
        (_, Seen { differs: true, .. }) => Pages::Yes,
        (Seen { hidden: true, .. }, Seen { hidden: true, .. }) => Pages::Perhaps,
        (_, Seen { hidden: true, .. }) => Pages::Yes,
        // The walking ones stand still.
        _ => Pages::No,
    }
}

fn seen<'b>(slot: &Slot<'_>, rows: &'b mut Seen, walk: &'b mut Seen) -> &'b mut Seen {
    match slot.place {
        Place::Row => rows,
        Place::Length | Place::Offset | Place::Bound => walk,
    }
}

/// The statement's values as far as they are shown.
fn values<'a>(analysis: &Analysis<'a>, call: &Call) -> Vec<(Slot<'a>, Option<Cow<'a, str>>)> {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(call.span);
    let text = spans.text(span, &["db.query.text", "db.statement"]);
    let slots = sql::slots(text.unwrap_or(""), &call.system);
    let bound = bound_parameters(spans, span);
    let in_order = spans
        .text(span, &["db.statement.parameters"])
        .map(|it| sql::literals(it, "mysql"));
    let mut next = 0;
    let mut value = |slot: &Slot<'a>| {
        if slot.is_literal {
            return Some(Cow::Borrowed(slot.text));
        }
        let at = numbered(slot.text).unwrap_or(next);
        next += 1;
        let of_name = |(name, _): &&(String, String)| is_name_of(name, slot.text, at);
        let value = bound
            .iter()
            .find(of_name)
            .map(|it| Cow::Owned(it.1.clone()));
        value.or_else(|| Some(Cow::Borrowed(*in_order.as_ref()?.get(at)?)))
    };
    let valued = slots.into_iter().map(|it| (it, value(&it)));
    valued.collect()
}

/// `$3` is the third, which is number 2.
fn numbered(placeholder: &str) -> Option<usize> {
    let number: usize = placeholder.strip_prefix('$')?.parse().ok()?;
    number.checked_sub(1)
}

/// Is `name` the parameter `placeholder`, `:id` or `%(id)s`, or the one at `at`?
fn is_name_of(name: &str, placeholder: &str, at: usize) -> bool {
    let bare = placeholder.trim_matches(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let bare = bare.strip_suffix(")s").unwrap_or(bare);
    name == bare || name.parse() == Ok(at)
}
