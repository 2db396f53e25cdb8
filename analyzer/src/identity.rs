//! Entry spans: whose request it is, which endpoint, how many requests it stands for, and whether it
//! failed.

use crate::Entry;
use crate::category::Category;
use crate::facts::Facts;
use crate::sender;
use crate::span::{Span, SpanKind, Spans, Status, TraceId, Value};
use crate::target::{Target, cut, template};
use crate::trace::{SpanIdx, Trace};
use std::borrow::Cow;

/// Where each service's part of the trace begins, in tree order; nothing is known of its time yet. With
/// `roots_too` also spans whose parents are missing for good.
pub fn entries<'a>(trace: &Trace<'a>, roots_too: bool) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    // The entries around the current span, outermost first.
    let mut around: Vec<usize> = Vec::new();
    for idx in 0..trace.nodes.len() as SpanIdx {
        let is_root = roots_too && trace.node(idx).parent.is_none();
        if !is_root && !is_entry(trace.span(idx)) {
            continue;
        }
        let ended = |it: &usize| trace.node(entries[*it].span).subtree_end <= idx;
        while around.last().is_some_and(ended) {
            around.pop();
        }
        let parent = around.last().copied();
        around.push(entries.len());
        entries.push(entry(trace, idx, parent));
    }
    entries
}

/// SERVER and CONSUMER always; else a span that names no parent. Never a span merely because its
/// parent has not arrived.
pub fn is_entry(span: &Span<'_>) -> bool {
    matches!(span.kind, SpanKind::Server | SpanKind::Consumer)
        || span.parent_id.is_none_or(|it| it.is_zero())
}

/// The entry that each span's time belongs to in the first place, as an index into `entries`: the
/// nearest one above it, itself included. `None` in a fragment.
pub fn owners(trace: &Trace<'_>, entries: &[Entry<'_>]) -> Vec<Option<u32>> {
    let mut owners: Vec<Option<u32>> = Vec::with_capacity(trace.nodes.len());
    let mut next = (0..).zip(entries).peekable();
    for (idx, node) in (0..).zip(&trace.nodes) {
        let own = next.next_if(|(_, entry)| entry.span == idx);
        let above = || owners[node.parent? as usize];
        owners.push(own.map(|it| it.0).or_else(above));
    }
    owners
}

fn entry<'a>(trace: &Trace<'a>, idx: SpanIdx, parent: Option<usize>) -> Entry<'a> {
    let span = trace.span(idx);
    let sender = sender::of(&trace.senders, span.resource);
    let facts = Facts::of(&trace.spans, span);
    Entry {
        span: idx,
        parent,
        service: sender.service,
        version: sender.version,
        instance: sender.instance,
        endpoint: endpoint(trace, idx, &facts),
        weight: weight(&trace.spans, span),
        error: is_error(span, &facts),
        start_ns: trace.node(idx).start_ns,
        duration_ns: trace.duration_ns(idx),
        work_ns: 0,
        categories: [0; Category::COUNT],
        path: Vec::new(),
        calls: [0; Category::COUNT],
    }
}

/// The endpoint's name, from the best evidence there is. Never empty, without ids.
fn endpoint(trace: &Trace<'_>, idx: SpanIdx, facts: &Facts<'_>) -> String {
    let span = trace.span(idx);
    let name = match span.kind {
        SpanKind::Consumer => job(facts).or_else(|| destination(facts)),
        _ => rpc(facts)
            .or_else(|| route(facts.http_method, facts.http_route))
            .or_else(|| child_route(trace, idx, facts.http_method))
            .or_else(|| route_in_name(span.name))
            .or_else(|| templated_path(facts))
            .or_else(|| job(facts)),
    };
    let name = name.unwrap_or_else(|| template(span.name).into_owned());
    match cut(name.trim()) {
        "" => "(no name)".to_owned(),
        name => name.to_owned(),
    }
}

fn rpc(facts: &Facts<'_>) -> Option<String> {
    if facts.rpc_system.is_empty() || facts.rpc_method.is_empty() {
        return None;
    }
    // The new conventions put both into the method.
    Some(match facts.rpc_service {
        service if service.is_empty() || facts.rpc_method.contains('/') => {
            facts.rpc_method.to_owned()
        }
        service => format!("{service}/{}", facts.rpc_method),
    })
}

fn route(method: &str, route: &str) -> Option<String> {
    if route.is_empty() {
        return None;
    }
    // Django's routes have no slash at the beginning; the anchors of its old ones are kept.
    let slash = if route.starts_with(['/', '^', '*']) {
        ""
    } else {
        "/"
    };
    Some(match method {
        "" => format!("{slash}{route}"),
        method => format!("{method} {slash}{route}"),
    })
}

/// A framework's spans stand near the entry; so many are looked at for a route. Beyond that the
/// path is templated instead.
const ROUTE_SCAN_MAX: SpanIdx = 32;

/// The most specific route of the framework's spans: Express has one per router and middleware.
fn child_route(trace: &Trace<'_>, idx: SpanIdx, method: &str) -> Option<String> {
    let end = trace.node(idx).subtree_end.min(idx + 1 + ROUTE_SCAN_MAX);
    let routes = (idx + 1..end).filter_map(|it| {
        let span = trace.span(it);
        let internal = matches!(span.kind, SpanKind::Internal | SpanKind::Unspecified);
        let sent_by = |it: &Span<'_>| sender::of(&trace.senders, it.resource);
        let route = trace.spans.text(span, &["http.route"])?;
        // Spans of one process that came with several exports have several resources.
        let same_process = || sent_by(span) == sent_by(trace.span(idx));
        (internal && same_process()).then_some(route)
    });
    route(method, routes.max_by_key(|it| it.len())?)
}

/// `GET /owners/{id}`: a name that holds a method and a route with placeholders, as the conventions
/// ask for even where the attribute is missing.
fn route_in_name(name: &str) -> Option<String> {
    let (method, path) = name.split_once(' ')?;
    let is_method = !method.is_empty() && method.bytes().all(|it| it.is_ascii_uppercase());
    let is_route = path.starts_with('/') && path.contains(['{', '<', ':', '*']);
    (is_method && is_route).then(|| name.to_owned())
}

fn templated_path(facts: &Facts<'_>) -> Option<String> {
    match Target::of(facts).path {
        "" => None,
        path => route(facts.http_method, &template(path)),
    }
}

/// What a worker runs says more than the queue it came through: many have one queue for all.
fn job(facts: &Facts<'_>) -> Option<String> {
    (!facts.job.is_empty()).then(|| format!("process {}", facts.job))
}

fn destination(facts: &Facts<'_>) -> Option<String> {
    let destination = match facts.destination_template {
        "" => template(facts.destination),
        template => Cow::Borrowed(template),
    };
    let operation = match facts.messaging_operation {
        "receive" | "poll" => "receive",
        "settle" => "settle",
        _ => "process",
    };
    (!destination.is_empty()).then(|| format!("{operation} {destination}"))
}

/// The HTTP status from which on the server failed.
const SERVER_ERROR: i64 = 500;

fn is_error(span: &Span<'_>, facts: &Facts<'_>) -> bool {
    span.status == Status::Error
        || facts.http_status.is_some_and(|it| it >= SERVER_ERROR)
        || facts.rpc_status.is_some_and(|it| is_rpc_server_error(&it))
}

/// The gRPC codes that are the server's fault, by the conventions.
fn is_rpc_server_error(status: &Value<'_>) -> bool {
    match status.as_int() {
        Some(code) => matches!(code, 2 | 4 | 12..=15),
        None => matches!(
            status.as_str(),
            Some(
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            )
        ),
    }
}

/// No entry stands for more requests than this: a sampling rate below one in a million is a mistake
/// of the sender, and sums of weights must not overflow.
pub const WEIGHT_MAX: i64 = 1_000_000;

/// How many requests a head-sampled span stands for.
fn weight(spans: &Spans<'_>, span: &Span<'_>) -> i64 {
    let each = threshold_weight(span.trace_state)
        .or_else(|| attribute_weight(spans, span))
        .unwrap_or(1.0);
    let each = each.clamp(1.0, WEIGHT_MAX as f64);
    let up = each.fract() > dither(&span.trace_id);
    each as i64 + i64::from(up)
}

/// W3C `tracestate` member `ot=…th:HEX…`: spans whose random 56 bits lie below the threshold were
/// dropped. Trailing zeros of the threshold are left out.
fn threshold_weight(trace_state: &str) -> Option<f64> {
    const BITS: u32 = 56;
    let member = trace_state
        .split(',')
        .find_map(|it| it.trim().strip_prefix("ot="))?;
    let hex = member.split(';').find_map(|it| it.strip_prefix("th:"))?;
    let digits = hex.len() as u32;
    if digits > BITS / 4 || !hex.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    let rejected = u64::from_str_radix(hex, 16).ok()? << (BITS - 4 * digits);
    let all = 1_u64 << BITS;
    Some(all as f64 / (all - rejected) as f64)
}

/// Sampling attributes: a probability, or a rate of one in so many.
fn attribute_weight(spans: &Spans<'_>, span: &Span<'_>) -> Option<f64> {
    for attribute in spans.attributes_at(&span.attributes) {
        let number = || match attribute.value {
            Value::Int(it) => Some(it as f64),
            Value::Double(it) => Some(it),
            Value::Str(it) => it.trim().parse().ok(),
            _ => None,
        };
        let weight = match attribute.key {
            "sampling.probability" => number().map(f64::recip),
            "SampleRate" | "sample_rate" => {
                number().map(|it| if it < 1.0 { it.recip() } else { it })
            }
            _ => None,
        };
        if let Some(weight) = weight.filter(|it| it.is_finite() && *it >= 1.0) {
            return Some(weight);
        }
    }
    None
}

/// A number from 0 to below 1 that the trace's id decides, so that every analysis of the trace
/// rounds its weight the same way. All of the id is mixed: its last bits decided the sampling, so
/// among the sampled they are not evenly spread.
fn dither(id: &TraceId) -> f64 {
    let bits = u128::from_be_bytes(id.0);
    let mut mixed = (bits >> 64) as u64 ^ (bits as u64).rotate_left(32);
    for _ in 0..2 {
        mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;

    fn check(drawing: &str, endpoint: &str) {
        let parsed = drawing::parse(drawing);
        let trace = Trace::assemble(parsed.spans());
        assert_eq!(entries(&trace, false)[0].endpoint, endpoint, "{drawing}");
    }

    #[test]
    fn endpoints_by_stack() {
        for (stack, span, endpoint) in [
            (
                "Spring MVC, agent",
                "GET /owners/{ownerId} {http.request.method=GET, http.route=/owners/{ownerId}, url.path=/owners/7}",
                "GET /owners/{ownerId}",
            ),
            (
                "Spring, name only",
                "GET /owners/{ownerId} {http.method=GET, http.target=/owners/7}",
                "GET /owners/{ownerId}",
            ),
            (
                "Django",
                "GET users/<int:id>/ {http.method=GET, http.route=users/<int:id>/, http.target=/users/7/}",
                "GET /users/<int:id>/",
            ),
            (
                "FastAPI",
                "GET /items/{id} {http.method=GET, http.route=/items/{id}, http.url=\"http://a/items/7?q=1\"}",
                "GET /items/{id}",
            ),
            (
                "Go net/http",
                "server {http.method=GET, http.target=/users/123/orders?page=2}",
                "GET /users/{id}/orders",
            ),
            (
                "Go, new",
                "server {http.request.method=GET, url.path=/users/123}",
                "GET /users/{id}",
            ),
            (
                "Envoy",
                "ingress {http.method=POST, http.url=\"http://shop:80/cart/550e8400-e29b-41d4-a716-446655440000\", http.status_code=\"200\"}",
                "POST /cart/{id}",
            ),
            (
                "ASP.NET Core",
                "GET {http.request.method=GET, http.route=\"api/[controller]/{id}\"}",
                "GET /api/[controller]/{id}",
            ),
            (
                "gRPC, old",
                "shop.Cart/Get {rpc.system=grpc, rpc.service=shop.Cart, rpc.method=Get}",
                "shop.Cart/Get",
            ),
            (
                "gRPC, new",
                "shop.Cart/Get {rpc.system.name=grpc, rpc.method=shop.Cart/Get}",
                "shop.Cart/Get",
            ),
            (
                "Kafka",
                "orders process [consumer] {messaging.system=kafka, messaging.destination.name=orders, messaging.operation=process}",
                "process orders",
            ),
            (
                "RabbitMQ, old, temporary queue",
                "x [consumer] {messaging.destination=reply-1234567, messaging.operation=deliver}",
                "process {id}",
            ),
            (
                "Celery",
                "run/shop.mail [consumer] {celery.task_name=shop.mail, messaging.destination=celery}",
                "process shop.mail",
            ),
            (
                "Sidekiq",
                "MailJob process [consumer] {messaging.sidekiq.job_class=MailJob, messaging.destination=default}",
                "process MailJob",
            ),
            ("cron", "cleanup 20240131 [internal]", "cleanup {id}"),
        ] {
            let drawing = format!("shop {span} |--|");
            check(&drawing, endpoint);
            assert!(!stack.is_empty());
        }
    }

    #[test]
    fn the_route_of_a_framework_child() {
        check(
            "
            shop  GET {http.method=GET, http.target=/api/users/ann}               |-----|
            shop    middleware - query {http.route=/}                             |
            shop    router - /api {http.route=/api}                               |---|
            shop      request handler - /api/users/:id {http.route=/api/users/:id} |--|
            ",
            "GET /api/users/:id",
        );
    }

    #[test]
    fn a_process_whose_spans_came_with_several_exports() {
        check(
            "
            shop  GET {http.method=GET, http.target=/api/users/ann}               |-----|
            shop    request handler - /api/users/:id {http.route=/api/users/:id, res.process.pid=1} |--|
            ",
            "GET /api/users/:id",
        );
    }

    #[test]
    fn entries_and_fragments() {
        let drawing = drawing::parse(
            "
            shop      GET /                               |------------------|
            shop        call [client]                       |---------|
            payments      POST /charge                        |-----|
            payments        work                               |--|
            shop        lost server [server] {orphan}              |--|
            shop        lost work {orphan}                         |--|
            ",
        );
        let trace = Trace::assemble(drawing.spans());
        let entries = entries(&trace, false);
        let named: Vec<_> = entries
            .iter()
            .map(|it| (it.service.name, it.endpoint.as_str(), it.parent))
            .collect();
        assert_eq!(
            named,
            [
                ("shop", "GET /", None),
                ("payments", "POST /charge", Some(0)),
                ("shop", "lost server", None),
            ]
        );
        let owners: Vec<_> = (0..)
            .zip(owners(&trace, &entries))
            .map(|(idx, owner)| (trace.span(idx).name, owner))
            .collect();
        assert_eq!(
            owners,
            [
                ("GET /", Some(0)),
                ("call", Some(0)),
                ("POST /charge", Some(1)),
                ("work", Some(1)),
                ("lost server", Some(2)),
                ("lost work", None),
            ]
        );
    }

    #[test]
    fn weights() {
        for (attributes, weight) in [
            ("n=1", 1),
            ("tracestate=\"ot=th:8\"", 2),
            ("tracestate=\"vendor=x,ot=rv:1234;th:c\"", 4),
            ("tracestate=\"ot=th:0\"", 1),
            ("tracestate=\"ot=th:zz\"", 1),
            ("tracestate=\"ot=th:ffffffffffffff\"", WEIGHT_MAX),
            ("tracestate=\"ot=th:fffffffffffffff\"", 1),
            ("sampling.probability=0.05", 20),
            ("SampleRate=10", 10),
            ("sample_rate=0", 1),
            ("sample_rate=-3", 1),
        ] {
            let drawing = drawing::parse(&format!("shop / {{{attributes}}} |--|"));
            let trace = Trace::assemble(drawing.spans());
            assert_eq!(entries(&trace, false)[0].weight, weight, "{attributes}");
        }
    }

    #[test]
    fn fractions_are_right_in_the_mean() {
        // Two of three are sampled: those with random bits above a third. They weigh 1.5 each.
        let ids =
            (0..30_000_u128).map(|it| TraceId((it * 0x9e37_79b9_7f4a_7c15_f39c).to_be_bytes()));
        let sampled = ids.filter(|it| u128::from_be_bytes(it.0) % 3 > 0);
        let up = sampled.filter(|it| 0.5 > dither(it)).count();
        assert!((9_700..10_300).contains(&up), "{up}");
    }

    #[test]
    fn errors() {
        for (attributes, error) in [
            ("n=1", false),
            ("error", true),
            ("http.response.status_code=500", true),
            ("http.status_code=\"503\"", true),
            ("http.status_code=404", false),
            ("rpc.grpc.status_code=13", true),
            ("rpc.grpc.status_code=5", false),
            ("rpc.response.status_code=UNAVAILABLE", true),
        ] {
            let drawing = drawing::parse(&format!("shop / {{{attributes}}} |--|"));
            let trace = Trace::assemble(drawing.spans());
            assert_eq!(entries(&trace, false)[0].error, error, "{attributes}");
        }
    }

    #[test]
    fn a_missing_parent_begins_a_request_only_when_nothing_more_comes() {
        let drawing = drawing::parse("shop  load [internal] {orphan}  |----|");
        let trace = Trace::assemble(drawing.spans());
        let endpoints = |roots_too| {
            let entries = entries(&trace, roots_too).into_iter();
            entries.map(|it| it.endpoint).collect::<Vec<_>>()
        };
        assert_eq!(endpoints(false), Vec::<String>::new());
        assert_eq!(endpoints(true), ["load"]);
    }
}
