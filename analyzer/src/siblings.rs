//! Requests whose paths differ in one segment, which is an id that does not look like one.
//!
//! ```text
//! shop  GET /cart                       |--------------------------------|
//! shop    GET stock/items/red-shoe      |-----|
//! shop    GET stock/items/blue-hat            |-----|        five of them:
//! shop    GET stock/items/SKU-0001                  |-----|  GET stock/items/{id}
//! ```
//!
//! Only seen side by side they show what they are: one entry asks one host with one method, below spans of
//! one name. Words are left alone, for `/catalog/brands` beside `/catalog/sizes` are endpoints; so is what
//! stands first in a path, and what the callee or the client's library has given a template.

use crate::category::Category;
use crate::span::SpanKind;
use crate::target::template;
use crate::trace::{SpanIdx, Trace};
use crate::{Call, Callee};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Fewer are no loop anywhere, and no pattern either.
const SIBLINGS_MIN: usize = 5;

/// Deeper paths are not compared: each segment is a way to be siblings.
const SEGMENTS_MAX: usize = 8;

/// Where a call stands and what of it stays: entry, name of the parent, key without the segment, and which.
type Family<'b> = (Option<usize>, Cow<'b, str>, Vec<&'b str>, usize);

/// Gives requests that are siblings one name.
pub(crate) fn name_alike(trace: &Trace<'_>, calls: &mut [Call]) {
    // Most traces end here.
    let requests = calls.iter().filter(|it| it.category == Category::External);
    if requests.clone().count() < SIBLINGS_MIN {
        return;
    }
    // And most others here: one thing over and over.
    let keys: BTreeSet<&str> = requests.map(|it| &*it.key).collect();
    if keys.len() < 2 {
        return;
    }
    let mut renamed: BTreeMap<usize, usize> = BTreeMap::new();
    for ((_, _, _, segment), members) in families(trace, calls) {
        let value = |it: &usize| calls[*it].key.split('/').nth(segment).unwrap_or("");
        let values: BTreeSet<&str> = members.iter().map(value).collect();
        // What was seen to be an id stands for as many as there are.
        let known = members.iter().filter(|it| value(it).contains("{id}"));
        let distinct = values.len() + known.count();
        let ids = values.iter().filter(|it| is_like_an_id(it)).count();
        if values.len() > 1 && distinct >= SIBLINGS_MIN && ids * 2 >= values.len() {
            for member in members {
                // Of two ways to be siblings the one nearer to the end.
                let last = renamed.entry(member).or_default();
                *last = segment.max(*last);
            }
        }
    }
    for (call, segment) in renamed {
        let call = &mut calls[call];
        call.callee = Arc::new(Callee {
            key: with_id(&call.key, segment),
            name: with_id(&call.name, segment),
            ..(*call.callee).clone()
        });
    }
}

fn families<'b>(trace: &'b Trace<'_>, calls: &'b [Call]) -> BTreeMap<Family<'b>, Vec<usize>> {
    let mut families: BTreeMap<Family<'b>, Vec<usize>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if call.category != Category::External {
            continue;
        }
        let segments: Vec<&str> = call.key.split('/').collect();
        let firsts = segments.iter().skip(1).take_while(|it| is_prefix(it));
        // Host, prefix and the name of the list come first.
        let begin = firsts.count() + 2;
        if begin >= segments.len()
            || segments.len() > SEGMENTS_MAX
            || has_template(trace, call.span)
        {
            continue;
        }
        let parent = trace.node(call.outer).parent;
        let parent = parent.map_or(Cow::Borrowed(""), |it| template(trace.span(it).name));
        for segment in begin..segments.len() {
            let mut rest = segments.clone();
            rest.remove(segment);
            let family = (call.entry, parent.clone(), rest, segment);
            families.entry(family).or_default().push(at);
        }
    }
    families.retain(|_, members| members.len() >= SIBLINGS_MIN);
    families
}

/// The callee knows better: its route is in the key as it is.
fn has_template(trace: &Trace<'_>, client: SpanIdx) -> bool {
    // It is the only child or nearly so.
    const CHILDREN_MAX: usize = 8;
    let says = |it: SpanIdx, key: &str| trace.spans.text(trace.span(it), &[key]).is_some();
    let mut children = trace.children(client).take(CHILDREN_MAX);
    let server = children.find(|it| trace.span(*it).kind == SpanKind::Server);
    says(client, "url.template")
        || says(client, "rpc.method")
        || server.is_some_and(|it| says(it, "http.route"))
}

/// Says nothing of what is asked for: `api`, `v2`.
fn is_prefix(segment: &str) -> bool {
    let version = segment.strip_prefix('v').unwrap_or("");
    let is_version = !version.is_empty() && version.bytes().all(|it| it.is_ascii_digit());
    is_version || ["api", "rest", "internal", "public", "services"].contains(&segment)
}

/// With digits, parts, or capitals only: `SKU-0001`, `red-shoe`, `USD`; but no `brands` and no `getBrands`.
fn is_like_an_id(segment: &str) -> bool {
    let has = |test: fn(u8) -> bool| segment.bytes().any(test);
    let is_code = !has(|it| it.is_ascii_lowercase()) && has(|it| it.is_ascii_uppercase());
    is_code || has(|it| !it.is_ascii_alphabetic())
}

fn with_id(key: &str, segment: usize) -> Arc<str> {
    let segments = key.split('/').enumerate();
    let segments = segments.map(|(at, it)| if at == segment { "{id}" } else { it });
    segments.collect::<Vec<_>>().join("/").into()
}
