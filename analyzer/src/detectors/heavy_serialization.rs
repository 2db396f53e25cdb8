//! The request encodes, decodes or renders for a good part of its time.
//!
//! ```text
//! shop  GET /cart                         |----------------------|
//! shop    SELECT cart                     |--|
//! shop    render_template.action_view         |----------------|     heavy
//! shop      SELECT prices                          |--|              a query in the view
//! ```

use super::{Detect, Detector, REPEATING};
use crate::category::Category;
use crate::claims::Claimed;
use crate::connections::outermost;
use crate::finding::Finding;
use crate::groups::{Extent, call_path};
use crate::impact::{CriticalTime, impact};
use crate::role::{Role, role};
use crate::target::template;
use crate::trace::SpanIdx;
use crate::wording::{duration, percent};
use crate::{Analysis, Settings, evidence};
use std::collections::BTreeMap;

pub(super) const DETECTOR: Detector = Detector {
    id: "heavy-serialization",
    title: "Heavy serialization or rendering",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The service spends a good part of the request turning data into text or bytes, or back: rendering templates, \
building JSON, encoding protobuf. Templates that query the database while they render are reported as well: \
the view decides what is read, late, and one row at a time.

Encoding grows with what is encoded, so it is usually too much of it: whole objects where three fields are shown, \
partials rendered row by row, reflection for every value, pretty-printed output.

Encode less (choose fields, return pages), cache rendered fragments or encoded bytes, render collections in one call, and \
use the fast encoder of the platform. Load what a view needs before it renders.

How it is found: spans that encode or render, by name, have at least 20 ms and 20 % of the request as time of their own \
on the critical path; what they wait for inside does not count. The saving assumes that half of it can be avoided. \
Queries in a view: at least 20 ms and 10 % of the request; moving them saves nothing by itself, so no saving is claimed.

When it is wrong: a page that is mostly text has to be rendered. Spans are recognised by their names; code that \
encodes without a span counts as the service's own time.";

const EXAMPLE: &str = "
1 column = 5 ms
shop  GET /orders                                                            |----------------------------------------------------------|
shop    SELECT orders {db.query.text=\"SELECT * FROM orders WHERE day = $1\"}   |-------|
shop    serialize orders [internal]                                                     |---------------------------------------------|
";

/// Encoding takes at least so long…
const OWN_NS_MIN: u64 = 20_000_000;
/// …and is so much of the request.
const OWN_PERCENT_MIN: u64 = 20;

/// Half of it, as a share: how much fields, pages, caches and better encoders usually take off. A guess, and
/// the finding says so.
const AVOIDABLE_SHARE: u64 = 2;

/// Queries in views take so long…
const QUERIES_NS_MIN: u64 = 20_000_000;
/// …and are so much of the request.
const QUERIES_PERCENT_MIN: u64 = 10;

/// At most so many findings of one trace. Each costs a walk over its entry.
const FINDINGS_MAX: usize = 32;

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, _: &Settings) {
    let before = findings.len();
    for (at, entry) in analysis.entries.iter().enumerate() {
        let own_ns = entry.categories[Category::Serialization as usize];
        // Most entries end here.
        if own_ns >= OWN_NS_MIN
            && percent(own_ns, entry.duration_ns) >= OWN_PERCENT_MIN
            && findings.len() - before < FINDINGS_MAX
        {
            let role = role(analysis, at);
            if role != Role::Upkeep {
                findings.extend(heavy(analysis, at, own_ns, role));
            }
        }
    }
    queries_in_views(findings, analysis);
}

/// Critical-path time of an entry's spans that encode, by name.
fn heavy(analysis: &Analysis<'_>, at: usize, own_ns: u64, role: Role) -> Option<Finding> {
    let entry = &analysis.entries[at];
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    let mut offenders: Vec<SpanIdx> = Vec::new();
    for segment in &entry.path {
        if segment.category == Category::Serialization {
            let name = template(analysis.trace.span(segment.span).name);
            *by_name.entry(name.into_owned()).or_default() += segment.end_ns - segment.start_ns;
            offenders.push(segment.span);
        }
    }
    offenders.sort_unstable();
    offenders.dedup();
    let (name, name_ns) = by_name.into_iter().max_by_key(|it| it.1)?;
    let first = offenders
        .iter()
        .find(|it| template(analysis.trace.span(**it).name) == name)?;
    let extent = Extent::of(analysis, &offenders);
    // The spans may wait for other things inside: only their own time can be avoided.
    let removable_ns = impact(analysis, entry, &offenders).removable_ns.min(own_ns);
    let saved_ns = removable_ns / AVOIDABLE_SHARE;
    let share = percent(own_ns, entry.duration_ns);
    let others = match offenders.len() {
        1 => String::new(),
        count => format!(" in {count} spans"),
    };
    Some(Finding {
        title: format!(
            "{} of encoding and rendering, most of it {name}",
            duration(own_ns)
        ),
        severity: role.severity(saved_ns, entry.duration_ns),
        confidence: 0.7,
        reasons: vec![
            format!("{share} % of the request"),
            "recognised by the spans' names".to_string(),
        ],
        call_path: call_path(analysis, at, *first),
        code: evidence::code(analysis, *first, entry.span),
        target: Some(name.clone()),
        count: offenders.len() as u32,
        window_ns: extent.window_ns,
        sum_ns: extent.sum_ns,
        saved_ns,
        explanation: format!(
            "{} encodes and renders for {}{others}, {share} % of its {}; {name} alone for {}. What these spans wait for inside \
             is not counted. The saving assumes that half of it can be avoided.",
            entry.endpoint,
            duration(own_ns),
            duration(entry.duration_ns),
            duration(name_ns),
        ),
        fix: fix(&name).into(),
        offenders,
        ..Finding::in_entry(DETECTOR.id, analysis, at, &["encoding and rendering"])
    })
}

fn fix(name: &str) -> &'static str {
    if name.contains("action_view") {
        "Render collections in one call (`render partial: …, collection: …`, with `cached: true`), cache fragments that rarely \
         change, and paginate the list."
    } else if name.contains("active_model_serializers") {
        "Choose the attributes that are shown, and use a faster serializer (`oj`, `panko`, `jsonapi-serializer`); cache what rarely changes."
    } else if name.contains("jinja2.compile") || name.contains("jinja2.load") {
        "Templates are compiled inside of the request: make one `Environment` when the process starts and keep its cache \
         (`auto_reload=False`, a large enough `cache_size`)."
    } else if name.starts_with("prisma") {
        "Ask for fewer fields (`select`) and fewer rows (`take`): the engine encodes all that the query returns."
    } else {
        "Encode less: name the fields that are needed, return pages, leave out what the client does not show. Then cache rendered \
         fragments or encoded bytes, and use the platform's fast encoder."
    }
}

/// Database calls below a span that renders, by entry and view.
fn queries_in_views(findings: &mut Vec<Finding>, analysis: &Analysis<'_>) {
    let views: Vec<SpanIdx> = outermost(analysis, Category::Serialization).collect();
    // Most traces end here.
    if views.is_empty() {
        return;
    }
    let mut by_view: BTreeMap<(usize, String), Vec<usize>> = BTreeMap::new();
    let mut claimed = None;
    for (at, call) in analysis.calls.iter().enumerate() {
        let Some(entry) = call.entry.filter(|_| call.category == Category::Database) else {
            continue;
        };
        let before = views.partition_point(|it| *it < call.outer).checked_sub(1);
        let Some(view) = before.map(|it| views[it]) else {
            continue;
        };
        let is_inside = call.outer < analysis.trace.node(view).subtree_end
            && analysis.entry_of(view) == Some(entry);
        if is_inside {
            let claimed = claimed.get_or_insert_with(|| Claimed::by(&REPEATING, findings));
            if !claimed.has_within(analysis, call) {
                let name = template(analysis.trace.span(view).name).into_owned();
                by_view.entry((entry, name)).or_default().push(at);
            }
        }
    }
    let mut critical: BTreeMap<usize, CriticalTime> = BTreeMap::new();
    for ((at, view), mut calls) in by_view.into_iter().take(FINDINGS_MAX) {
        let entry = &analysis.entries[at];
        let critical = critical
            .entry(at)
            .or_insert_with(|| CriticalTime::of(entry));
        let times = calls
            .iter()
            .map(|it| critical.of_subtree(analysis, analysis.calls[*it].outer));
        let waited_ns: u64 = times.sum();
        let matters = waited_ns >= QUERIES_NS_MIN
            && percent(waited_ns, entry.duration_ns) >= QUERIES_PERCENT_MIN;
        if matters && role(analysis, at) == Role::Request {
            calls.sort_by_key(|it| (analysis.trace.node(analysis.calls[*it].outer).start_ns, *it));
            findings.push(in_view(analysis, at, &view, &calls, waited_ns));
        }
    }
}

fn in_view(
    analysis: &Analysis<'_>,
    at: usize,
    view: &str,
    calls: &[usize],
    waited_ns: u64,
) -> Finding {
    let entry = &analysis.entries[at];
    let queries = match calls.len() {
        1 => "A query".to_string(),
        count => format!("{count} queries"),
    };
    Finding {
        title: format!("{queries} while {view} renders"),
        confidence: 0.8,
        reasons: vec!["the calls lie inside of a span that renders".to_string()],
        target: Some(view.to_string()),
        explanation: format!(
            "{} waits {} ({} % of its {}) for the database while {view} renders: {}{}. What a view reads is easily forgotten, \
             and grows with what it shows. Moving it saves nothing by itself, so no saving is claimed.",
            entry.endpoint,
            duration(waited_ns),
            percent(waited_ns, entry.duration_ns),
            duration(entry.duration_ns),
            analysis.calls[calls[0]].name,
            if calls.len() > 1 { ", …" } else { "" },
        ),
        fix: "Load what the view shows before it renders, together with the rest, and hand it over; then views can be cached and \
              read by themselves. Lazy loading can be forbidden where views are rendered (`strict_loading` in Rails, \
              `spring.jpa.open-in-view=false` in Spring)."
            .into(),
        ..Finding::in_calls(DETECTOR.id, analysis, at, calls, &["queries in a view", view])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, check, check_silent, check_titles};
    use super::DETECTOR;
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const CART: &str = "
        shop  GET /cart                                                          |-----------------------------------------------------------|
        shop    SELECT cart                                                      |-----|
        shop    render_template.action_view {code.file.path=app/views/cart.erb}          |-------------------------------------------------|
        shop      render_partial.action_view                                               |-------------------|
        ";

    #[test]
    fn most_of_the_request_renders() {
        check(
            ID,
            CART,
            expect![[r#"
            50 ms of encoding and rendering, most of it render_template.action_view
              shop of 60 ms · critical, confidence 0.70: 83 % of the request; recognised by the spans' names
              count 2, window 50 ms, sum 70 ms, saved 25 ms
              heavy-serialization shop "GET /cart" "encoding and rendering"
              path: GET /cart
              code: app/views/cart.erb
              explanation: GET /cart encodes and renders for 50 ms in 2 spans, 83 % of its 60 ms; render_template.action_view alone for 30 ms. What these spans wait for inside is not counted. The saving assumes that half of it can be avoided.
              fix: Render collections in one call (`render partial: …, collection: …`, with `cached: true`), cache fragments that rarely change, and paginate the list.
        "#]],
        );
    }

    #[test]
    fn json_is_named() {
        check_titles(
            ID,
            "
            shop  GET /cart                  |-----------------------------------------------------------|
            shop    SELECT cart              |-----|
            shop    OrderSerializer.to_json          |---------------------------------------|
            ",
            expect![[r#"
                40 ms of encoding and rendering, most of it OrderSerializer.to_json (critical)
            "#]],
        );
    }

    const VIEW: &str = "
        shop  GET /cart          |-----------------------------------------------------------|
        shop    jinja2.render    |-------------------------------------------------|
        shop      SELECT prices    |-----------------|
        shop      SELECT stock                       |-------------------|
        ";

    #[test]
    fn queries_in_a_view_are_told_apart_from_rendering() {
        check(
            ID,
            VIEW,
            expect![[r#"
            2 queries while jinja2.render renders
              shop of 60 ms · info, confidence 0.80: the calls lie inside of a span that renders
              count 2, window 38 ms, sum 38 ms, saved 0 ns
              heavy-serialization shop "GET /cart" "queries in a view" "jinja2.render"
              path: GET /cart > jinja2.render
              explanation: GET /cart waits 38 ms (63 % of its 60 ms) for the database while jinja2.render renders: select prices, …. What a view reads is easily forgotten, and grows with what it shows. Moving it saves nothing by itself, so no saving is claimed.
              fix: Load what the view shows before it renders, together with the rest, and hand it over; then views can be cached and read by themselves. Lazy loading can be forbidden where views are rendered (`strict_loading` in Rails, `spring.jpa.open-in-view=false` in Spring).
        "#]],
        );
    }

    #[test]
    fn a_loop_in_a_view_is_a_loop() {
        let mut drawn = format!(
            "shop  GET /cart{:<10}|{}|\nshop    jinja2.render{:<4}|{}|\n",
            "",
            "-".repeat(60),
            "",
            "-".repeat(60)
        );
        for nth in 0..10 {
            drawn += &format!("shop      SELECT stock   {}|----|\n", " ".repeat(nth * 6));
        }
        check_titles(
            "n-plus-one-query",
            &drawn,
            expect![[r#"
            10 × select stock, one by one (critical)
        "#]],
        );
        check_silent(ID, &drawn);
    }

    #[test]
    fn what_rendering_waits_for_is_not_rendering() {
        check_silent(
            ID,
            "
            shop  GET /cart                                      |---------------------------------------------------------------------------------------------------|
            shop    jinja2.render                                |-------------------------------------------------|
            shop      GET [client] {url.full=http://prices/all}   |-----------------------------------------------|
            ",
        );
    }

    #[test]
    fn beside_something_longer_nobody_waits_for_it() {
        check_silent(
            ID,
            "
            shop  GET /cart                                    |-----------------------------------------------------------|
            shop    GET [client] {url.full=http://prices/all}  |----------------------------------------------------------|
            shop    jinja2.render                              |-------------------------------------------------|
            ",
        );
    }

    #[test]
    fn short_and_small_shares_are_silent() {
        check_silent(
            ID,
            "
            shop  GET /cart        |-----------------------------|
            shop    jinja2.render  |------------------|
            ",
        );
        check_silent(
            ID,
            "
            1 column = 2 ms
            shop  GET /cart        |---------------------------------------------------------------------------------------------------|
            shop    jinja2.render  |------------------|
            ",
        );
    }

    #[test]
    fn jobs_are_information_and_probes_silent() {
        check_titles(
            ID,
            &changed(CART, "GET /cart", "rebuild [internal]"),
            expect![[r#"
                50 ms of encoding and rendering, most of it render_template.action_view (info)
            "#]],
        );
        check_silent(ID, &changed(CART, "GET /cart", "GET /health"));
    }
}
