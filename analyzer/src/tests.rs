//! What must hold for any spans whatever, however absurd.

use crate::category::Category;
use crate::profile::{Profile, ProfileSum};
use crate::span::{
    Attribute, Resource, Scope, Span, SpanId, SpanKind, Spans, Status, TraceId, Value,
};
use crate::trace::{DURATION_MAX_NS, SpanIdx, TIME_MAX_NS, Trace, Warning};
use crate::transit::{Transit, transit};
use crate::{Analysis, Settings, analyze};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

const KINDS: [SpanKind; 6] = [
    SpanKind::Unspecified,
    SpanKind::Internal,
    SpanKind::Server,
    SpanKind::Client,
    SpanKind::Producer,
    SpanKind::Consumer,
];

/// Absurd times among sane ones, so that both meet in one trace.
const TIMES: [u64; 6] = [
    0,
    1,
    1_700_000_000_000_000_000,
    u64::MAX / 2,
    u64::MAX - 1,
    u64::MAX,
];

const NAMES: [&str; 8] = [
    "GET /users/17",
    "SELECT a",
    "sql.rows",
    "PDO::prepare",
    "PDOStatement::execute",
    "connect",
    "prisma:engine:query",
    "",
];

const ATTRIBUTES: [(&str, Value<'static>); 12] = [
    ("db.system", Value::Str("mysql")),
    ("db.statement", Value::Str("select * from a where b = 'c")),
    ("http.url", Value::Str("http://u:p@[::1]:80/x?y#z")),
    ("http.method", Value::Str("GET")),
    ("http.route", Value::Str("ä/{id}")),
    ("http.status_code", Value::Str("x")),
    ("url.full", Value::Str("http://loki/loki/api/v1/push")),
    ("rpc.method", Value::Str("/")),
    ("messaging.destination", Value::Bytes(b"\xff")),
    ("server.address", Value::Int(-1)),
    ("server.port", Value::Double(1e300)),
    ("SampleRate", Value::Double(f64::NAN)),
];

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        // Instants in milliseconds of one second, so that skew, overlap and ties happen.
        8 => (0..1_000_u64).prop_map(|ms| 1_700_000_000_000_000_000 + ms * 1_000_000),
        2 => 1_700_000_000_000_000_000..1_700_000_000_000_000_100_u64,
        1 => select(&TIMES[..]),
    ]
}

/// Few ids, so that spans share them, name each other as parents, and go round in circles.
fn span() -> impl Strategy<Value = (Span<'static>, Vec<usize>)> {
    let ids = (
        1..16_u64,
        prop_oneof![2 => Just(None), 8 => (0..18_u64).prop_map(Some)],
    );
    let states = select(&["", "ot=th:8", "ot=th:;;=,", "ot=th:fffffffffffffff"][..]);
    let what = (select(&KINDS[..]), select(&NAMES[..]), states);
    let attributes = prop::collection::vec(0..ATTRIBUTES.len(), 0..4);
    (
        ids,
        what,
        (time(), time()),
        (0..5_u32, 0..4_u32),
        attributes,
    )
        .prop_map(
            |(
                (id, parent),
                (kind, name, trace_state),
                (start_ns, end_ns),
                (resource, scope),
                attributes,
            )| {
                let span = Span {
                    trace_id: TraceId([7; 16]),
                    id: SpanId(id.to_be_bytes()),
                    parent_id: parent.map(|it| SpanId(it.to_be_bytes())),
                    trace_state,
                    kind,
                    name,
                    start_ns,
                    end_ns,
                    status: Status::Unset,
                    resource,
                    scope,
                    ..Span::default()
                };
                (span, attributes)
            },
        )
}

fn spans() -> impl Strategy<Value = Spans<'static>> {
    prop::collection::vec(span(), 0..40).prop_map(assembled)
}

fn assembled(drawn: Vec<(Span<'static>, Vec<usize>)>) -> Spans<'static> {
    let mut spans = Spans {
        // Fewer than the spans refer to.
        resources: vec![
            sender("a", "1"),
            sender("a", "2"),
            sender("b", "1"),
            sender("c", ""),
        ],
        scopes: vec![
            Scope::default(),
            Scope {
                name: "io.opentelemetry.hibernate",
                version: "",
            },
        ],
        ..Spans::default()
    };
    for (mut span, attributes) in drawn {
        let from = spans.attributes.len() as u32;
        let drawn = attributes.iter().map(|it| ATTRIBUTES[*it]);
        spans
            .attributes
            .extend(drawn.map(|(key, value)| Attribute { key, value }));
        let mut hasher = DefaultHasher::new();
        // As it is in life: the bytes of a span do not say under which sender it came.
        let sent = Span {
            resource: 0,
            scope: 0,
            ..span.clone()
        };
        format!("{sent:?} {attributes:?}").hash(&mut hasher);
        span.content = hasher.finish();
        span.attributes = from..spans.attributes.len() as u32;
        spans.spans.push(span);
    }
    spans
}

fn sender(service: &'static str, host: &'static str) -> Resource<'static> {
    let text = |key, text| Attribute {
        key,
        value: Value::Str(text),
    };
    Resource {
        attributes: vec![text("service.name", service), text("host.name", host)],
    }
}

/// The same spans after their senders and instrumentations arrived in another order.
fn elsewhere(mut spans: Spans<'static>) -> Spans<'static> {
    let (resources, scopes) = (spans.resources.len() as u32, spans.scopes.len() as u32);
    spans.resources.reverse();
    spans.scopes.reverse();
    // Indexes that point nowhere stay so.
    let turned = |at: u32, count: u32| if at < count { count - 1 - at } else { at };
    for span in &mut spans.spans {
        span.resource = turned(span.resource, resources);
        span.scope = turned(span.scope, scopes);
    }
    spans
}

/// Everything that was found out, except where attributes happen to lie.
fn seen(analysis: &Analysis<'_>) -> String {
    let contents: Vec<u64> = analysis
        .trace
        .spans
        .spans
        .iter()
        .map(|it| it.content)
        .collect();
    format!(
        "{contents:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        analysis.trace.nodes,
        analysis.trace.roots,
        analysis.trace.warnings,
        analysis.categories,
        analysis.entries,
        analysis.calls,
        analysis.findings,
        analysis.coverage
    )
}

/// The pointers of the tree agree with each other.
fn assert_tree(trace: &Trace<'_>) {
    let count = trace.nodes.len() as SpanIdx;
    let mut reached = 0;
    for idx in 0..count {
        let node = trace.node(idx);
        assert!(node.start_ns <= node.end_ns);
        assert!(node.subtree_end > idx && node.subtree_end <= count);
        match node.parent {
            Some(parent) => {
                assert!(parent < idx && node.subtree_end <= trace.node(parent).subtree_end);
                assert_eq!(node.depth, trace.node(parent).depth + 1);
            }
            None => assert_eq!(node.depth, 0),
        }
        for child in trace.children(idx) {
            assert_eq!(trace.node(child).parent, Some(idx));
            reached += 1;
        }
        let starts: Vec<u64> = trace
            .children(idx)
            .map(|it| trace.node(it).start_ns)
            .collect();
        assert!(starts.is_sorted());
    }
    let roots = (0..count).filter(|it| trace.node(*it).parent.is_none());
    assert_eq!(trace.roots, roots.collect::<Vec<_>>());
    assert_eq!(reached + trace.roots.len(), count as usize);
}

proptest! {
    #[test]
    fn the_order_of_arrival_never_matters(
        (there, shuffled) in spans().prop_flat_map(|spans| {
            let shuffled = Just(spans.spans.clone()).prop_shuffle();
            (Just(spans), shuffled)
        })
    ) {
        let again = elsewhere(Spans { spans: shuffled, ..there.clone() });
        let settings = Settings::default();
        prop_assert_eq!(seen(&analyze(there, &settings)), seen(&analyze(again, &settings)));
    }

    #[test]
    fn what_arrives_twice_counts_once(spans in spans()) {
        let mut twice = spans.clone();
        twice.spans.extend(spans.spans.iter().cloned());
        let settings = Settings::default();
        prop_assert_eq!(seen(&analyze(spans, &settings)), seen(&analyze(twice, &settings)));
    }

    #[test]
    fn every_distinct_span_appears_exactly_once(spans in spans()) {
        let distinct = |spans: &[Span<'_>]| -> Vec<(SpanId, SpanKind)> {
            spans.iter().map(|it| (it.id, it.kind)).collect()
        };
        let sent: HashSet<_> = distinct(&spans.spans).into_iter().collect();
        let trace = Trace::assemble(spans);
        assert_tree(&trace);
        let kept = distinct(&trace.spans.spans);
        prop_assert_eq!(kept.len(), sent.len());
        prop_assert_eq!(kept.into_iter().collect::<HashSet<_>>(), sent);
    }

    #[test]
    fn paths_tile_their_entries_and_categories_sum_to_them(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        for entry in &analysis.entries {
            let node = analysis.trace.node(entry.span);
            let mut at = node.start_ns;
            let mut categories = [0; Category::COUNT];
            for segment in &entry.path {
                prop_assert_eq!(segment.start_ns, at);
                prop_assert!(segment.end_ns > at);
                at = segment.end_ns;
                categories[segment.category as usize] += segment.end_ns - segment.start_ns;
                let inside = entry.span..node.subtree_end;
                prop_assert!(inside.contains(&segment.span));
            }
            prop_assert_eq!(at, node.end_ns);
            prop_assert_eq!(categories, entry.categories);
            prop_assert_eq!(categories.iter().sum::<u64>(), entry.duration_ns);
            prop_assert!(!entry.endpoint.is_empty());
            prop_assert!(entry.weight >= 1);
        }
    }

    /// Clock skew moves spans: it never stretches them, and it is never done in silence.
    #[test]
    fn corrected_times_are_disclosed(spans in spans()) {
        let trace = Trace::assemble(spans);
        let mut moved = 0;
        for (span, node) in trace.spans.spans.iter().zip(&trace.nodes) {
            let never_began = span.start_ns == 0 && span.end_ns > DURATION_MAX_NS;
            if never_began || span.end_ns <= span.start_ns || span.end_ns > TIME_MAX_NS {
                continue;
            }
            let sent_ns = (span.end_ns - span.start_ns).min(DURATION_MAX_NS);
            prop_assert_eq!(node.end_ns - node.start_ns, sent_ns);
            moved += usize::from(node.start_ns != span.start_ns);
        }
        let shifted = |it: &&Warning| it.text.contains("times were shifted");
        prop_assert!(moved == 0 || trace.warnings.iter().any(|it| shifted(&it)));
    }

    #[test]
    fn an_entry_works_at_least_as_long_as_it_takes(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        for entry in &analysis.entries {
            prop_assert!(entry.work_ns >= entry.duration_ns);
            prop_assert_eq!(entry.parallelism() >= 1.0, entry.duration_ns > 0);
        }
    }

    #[test]
    fn transits_fit_into_their_calls(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        let trace = &analysis.trace;
        for span in 0..trace.nodes.len() as SpanIdx {
            if let Some(Transit::Request { network_ns, before_ns, .. }) = transit(trace, span) {
                prop_assert!(network_ns <= trace.duration_ns(span));
                prop_assert!(before_ns.unwrap_or(0) <= network_ns);
            }
        }
    }

    #[test]
    fn profiles_hold_all_of_their_requests(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        let mut sum = ProfileSum::default();
        for entry in &analysis.entries {
            let profile = Profile::of(&analysis, entry, entry.weight);
            let critical = profile.nodes.iter().fold(0_i64, |sum, it| sum.wrapping_add(it.critical_ns));
            prop_assert_eq!(critical, (entry.duration_ns as i64).wrapping_mul(entry.weight));
            prop_assert!(profile.nodes.iter().all(|it| entry.weight > 1 || it.self_ns >= 0));
            let roots: Vec<_> = profile.nodes.iter().filter(|it| it.parent.is_none()).collect();
            prop_assert_eq!(roots.len(), 1);
            prop_assert_eq!(roots[0].count, entry.weight);
            sum.merge(&profile, 1);
        }
        // Taken out again in another order, nothing is left.
        for entry in analysis.entries.iter().rev() {
            sum.merge(&Profile::of(&analysis, entry, entry.weight), -1);
        }
        prop_assert_eq!(sum.total().nodes, vec![]);
    }

    #[test]
    fn no_fix_saves_more_than_the_request_takes(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        for finding in &analysis.findings {
            let entry = &analysis.entries[finding.entry];
            prop_assert!(finding.saved_ns <= entry.duration_ns, "{}", finding.fingerprint);
            prop_assert!((0.0..=1.0).contains(&finding.confidence));
        }
    }

    #[test]
    fn calls_are_parts_of_the_trace(spans in spans()) {
        let analysis = analyze(spans, &Settings::default());
        let outers: Vec<_> = analysis.calls.iter().map(|it| it.outer).collect();
        prop_assert_eq!(outers.iter().collect::<HashSet<_>>().len(), outers.len());
        let mut counted = 0;
        for entry in &analysis.entries {
            counted += entry.calls.iter().sum::<u32>();
        }
        let of_entries = analysis.calls.iter().filter(|it| it.entry.is_some());
        prop_assert_eq!(counted as usize, of_entries.count());
        prop_assert!(analysis.calls.iter().all(|it| !it.key.contains("'c")));
    }
}

/// Chains and crowds of services, which paths and calls could be quadratic in.
#[test]
fn a_hundred_thousand_services_in_a_row_or_side_by_side() {
    let chain = |at: u64| at.checked_sub(1);
    let crowd = |at: u64| (at > 0).then_some(0);
    for parent in [chain, crowd] {
        let id = |at: u64| SpanId((at + 1).to_be_bytes());
        let spans = (0..100_000).map(|at| Span {
            id: id(at),
            parent_id: parent(at).map(id),
            kind: SpanKind::Server,
            start_ns: at,
            end_ns: 1_000_000 - at,
            ..Span::default()
        });
        let spans = Spans {
            spans: spans.collect(),
            ..Spans::default()
        };
        let analysis = analyze(spans, &Settings::default());
        assert_eq!(analysis.entries.len(), 100_000);
    }
}
