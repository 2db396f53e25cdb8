//! How long an analysis takes, per span: `cargo bench -p analyzer`.
//!
//! The spans are like life: three services, 10 attributes per span, statements that repeat. Items per
//! second are spans per second. `max alloc` is the memory that the analysis takes at its worst
//! moment, beside the decoded spans, whose size is printed first.

use analyzer::profile::Profile;
use analyzer::span::{
    Attribute, Resource, Scope, Span, SpanId, SpanKind, Spans, Status, TraceId, Value,
};
use analyzer::trace::Trace;
use analyzer::{Settings, analyze};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    let spans = requests(100_000);
    let attributes = spans.attributes.len() * size_of::<Attribute<'_>>();
    let bytes = spans.spans.len() * size_of::<Span<'_>>() + attributes;
    println!("a million decoded spans: {} MB", bytes * 10 / 1_000_000);
    divan::main();
}

const SIZES: [u64; 4] = [10, 1_000, 100_000, 1_000_000];

/// A sample of a million spans takes a second: ten of them tell enough.
const SAMPLES: u32 = 10;

/// All of it: tree, path, attribution, calls, detectors.
#[divan::bench(args = SIZES, sample_count = SAMPLES)]
fn analyze_requests(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, requests(count), |spans| {
        black_box(analyze(spans, &Settings::default()));
    });
}

/// The tree alone.
#[divan::bench(args = SIZES, sample_count = SAMPLES)]
fn assemble_requests(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, requests(count), |spans| {
        black_box(Trace::assemble(spans));
    });
}

/// One span with a crowd of children.
#[divan::bench(args = [1_000, 1_000_000], sample_count = SAMPLES)]
fn analyze_crowd(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, shape(count, |at| (at > 0).then_some(0)), |spans| {
        black_box(analyze(spans, &Settings::default()));
    });
}

/// Each span the child of the one before.
#[divan::bench(args = [1_000, 1_000_000], sample_count = SAMPLES)]
fn analyze_chain(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, shape(count, |at| at.checked_sub(1)), |spans| {
        black_box(analyze(spans, &Settings::default()));
    });
}

/// One loop: a request and its queries, one after the other.
#[divan::bench(args = [1_000, 1_000_000], sample_count = SAMPLES)]
fn analyze_loop(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, query_loop(count), |spans| {
        black_box(analyze(spans, &Settings::default()));
    });
}

/// Each span a service's entry and the child of the one before.
#[divan::bench(args = [1_000, 1_000_000], sample_count = SAMPLES)]
fn analyze_chain_of_services(bencher: Bencher<'_, '_>, count: u64) {
    let mut spans = shape(count, |at| at.checked_sub(1));
    spans
        .spans
        .iter_mut()
        .for_each(|it| it.kind = SpanKind::Server);
    bench(bencher, spans, |spans| {
        black_box(analyze(spans, &Settings::default()));
    });
}

/// Analysis and the call-path profiles of all entries.
#[divan::bench(args = SIZES, sample_count = SAMPLES)]
fn profile_requests(bencher: Bencher<'_, '_>, count: u64) {
    bench(bencher, requests(count), profiles);
}

/// The same of a request whose spans all have names of their own.
#[divan::bench(args = [1_000, 1_000_000], sample_count = SAMPLES)]
fn profile_crowd_of_names(bencher: Bencher<'_, '_>, count: u64) {
    let mut spans = shape(count, |at| (at > 0).then_some(0));
    for (at, span) in spans.spans.iter_mut().enumerate() {
        // Words: digits would be taken for ids and one name.
        let digits = format!("{at:07}");
        let word: String = digits
            .bytes()
            .map(|it| char::from(it - b'0' + b'a'))
            .collect();
        span.name = word.leak();
    }
    bench(bencher, spans, profiles);
}

fn profiles(spans: Spans<'static>) {
    let analysis = analyze(spans, &Settings::default());
    for entry in &analysis.entries {
        black_box(Profile::of(&analysis, entry, 1));
    }
}

fn bench(bencher: Bencher<'_, '_>, spans: Spans<'static>, run: impl Fn(Spans<'static>) + Sync) {
    bencher
        .counter(ItemsCount::new(spans.spans.len()))
        .with_inputs(|| spans.clone())
        .bench_local_values(run);
}

const NS_PER_MS: u64 = 1_000_000;

/// Requests under one root: each a server span with two spans of its own framework, five queries, a
/// call to a service, and that service's span with one query: ten spans.
fn requests(count: u64) -> Spans<'static> {
    let mut spans = empty();
    let mut at = 0;
    while (spans.spans.len() as u64) < count {
        let root = push(&mut spans, &SERVER, (at > 0).then_some(0), at, 9);
        let handler = push(&mut spans, &HANDLER, Some(root), at, 9);
        push(&mut spans, &RENDER, Some(handler), at + 8, 1);
        for query in 0..5 {
            push(&mut spans, &QUERY, Some(handler), at + query, 1);
        }
        let call = push(&mut spans, &CALL, Some(handler), at + 5, 3);
        push(&mut spans, &CALLEE, Some(call), at + 6, 1);
        at += 10;
    }
    spans.spans.truncate(count as usize);
    spans.spans[0].end_ns += at * NS_PER_MS;
    shuffle(&mut spans.spans);
    spans
}

/// `count` internal spans; `parent` says whose child each is.
fn shape(count: u64, parent: fn(u64) -> Option<u64>) -> Spans<'static> {
    let mut spans = empty();
    for at in 0..count {
        push(&mut spans, &HANDLER, parent(at), at, 1);
        spans.spans[at as usize].end_ns = (count + 1) * NS_PER_MS;
    }
    shuffle(&mut spans.spans);
    spans
}

/// A request with `count - 1` queries, a millisecond each.
fn query_loop(count: u64) -> Spans<'static> {
    let mut spans = empty();
    let root = push(&mut spans, &SERVER, None, 0, count);
    for at in 1..count {
        push(&mut spans, &QUERY, Some(root), at - 1, 1);
    }
    shuffle(&mut spans.spans);
    spans
}

/// What spans of one kind have in common.
struct Like {
    name: &'static str,
    kind: SpanKind,
    resource: u32,
    attributes: &'static [(&'static str, Value<'static>)],
}

static SERVER: Like = Like {
    name: "GET /carts/{id}",
    kind: SpanKind::Server,
    resource: 0,
    attributes: &[
        ("http.request.method", Value::Str("GET")),
        ("http.route", Value::Str("/carts/{id}")),
        ("url.path", Value::Str("/carts/81723")),
        ("url.scheme", Value::Str("http")),
        ("server.address", Value::Str("shop.example")),
        ("http.response.status_code", Value::Int(200)),
        (
            "user_agent.original",
            Value::Str("Mozilla/5.0 (X11; Linux)"),
        ),
        ("network.protocol.version", Value::Str("1.1")),
        ("client.address", Value::Str("10.0.0.7")),
        ("thread.id", Value::Int(17)),
    ],
};

static HANDLER: Like = Like {
    name: "CartController.show",
    kind: SpanKind::Internal,
    resource: 0,
    attributes: &[
        ("code.function.name", Value::Str("CartController.show")),
        ("code.file.path", Value::Str("app/carts.rb")),
        ("code.line.number", Value::Int(42)),
        ("thread.id", Value::Int(17)),
        ("thread.name", Value::Str("worker-3")),
        ("user.tier", Value::Str("gold")),
        ("cart.items", Value::Int(31)),
    ],
};

static RENDER: Like = Like {
    name: "render_template.action_view",
    kind: SpanKind::Internal,
    resource: 0,
    attributes: &[("thread.id", Value::Int(17))],
};

static QUERY: Like = Like {
    name: "SELECT shop.items",
    kind: SpanKind::Client,
    resource: 0,
    attributes: &[
        ("db.system.name", Value::Str("postgresql")),
        ("db.namespace", Value::Str("shop")),
        (
            "db.query.text",
            Value::Str("SELECT id, name, price FROM items WHERE cart_id = $1 AND deleted IS NULL"),
        ),
        ("db.operation.name", Value::Str("SELECT")),
        ("db.collection.name", Value::Str("items")),
        ("server.address", Value::Str("db.internal")),
        ("server.port", Value::Int(5432)),
        ("network.peer.address", Value::Str("10.0.0.9")),
        ("thread.id", Value::Int(17)),
        ("thread.name", Value::Str("worker-3")),
    ],
};

static CALL: Like = Like {
    name: "POST",
    kind: SpanKind::Client,
    resource: 0,
    attributes: &[
        ("http.request.method", Value::Str("POST")),
        (
            "url.full",
            Value::Str("http://payments:8080/charges/81723?currency=EUR"),
        ),
        ("server.address", Value::Str("payments")),
        ("server.port", Value::Int(8080)),
        ("http.response.status_code", Value::Int(200)),
        ("network.protocol.version", Value::Str("1.1")),
        ("network.peer.address", Value::Str("10.0.0.12")),
        ("network.peer.port", Value::Int(8080)),
        ("thread.id", Value::Int(17)),
        ("thread.name", Value::Str("worker-3")),
    ],
};

static CALLEE: Like = Like {
    name: "POST /charges/{id}",
    kind: SpanKind::Server,
    resource: 1,
    attributes: SERVER.attributes,
};

fn empty() -> Spans<'static> {
    Spans {
        resources: vec![sender("shop", "a"), sender("payments", "b")],
        scopes: vec![Scope {
            name: "opentelemetry.instrumentation.rails",
            version: "1.0",
        }],
        ..Spans::default()
    }
}

fn sender(service: &'static str, host: &'static str) -> Resource<'static> {
    let attributes = [
        ("service.name", service),
        ("service.version", "1.4.2"),
        ("deployment.environment.name", "production"),
        ("host.name", host),
        ("telemetry.sdk.language", "ruby"),
    ];
    let attribute = |(key, text)| Attribute {
        key,
        value: Value::Str(text),
    };
    Resource {
        attributes: attributes.map(attribute).to_vec(),
    }
}

/// Adds a span and gives its number. Times in ms.
fn push(spans: &mut Spans<'static>, like: &Like, parent: Option<u64>, start: u64, ms: u64) -> u64 {
    const START_NS: u64 = 1_735_689_600_000_000_000;
    let at = spans.spans.len() as u64;
    let from = spans.attributes.len() as u32;
    let attributes = like.attributes.iter();
    spans
        .attributes
        .extend(attributes.map(|(key, value)| Attribute { key, value: *value }));
    spans.spans.push(Span {
        trace_id: TraceId([7; 16]),
        id: id(at),
        parent_id: parent.map(id),
        kind: like.kind,
        name: like.name,
        start_ns: START_NS + start * NS_PER_MS,
        end_ns: START_NS + (start + ms) * NS_PER_MS,
        status: Status::Unset,
        resource: like.resource,
        attributes: from..spans.attributes.len() as u32,
        content: at,
        ..Span::default()
    });
    at
}

/// Random-looking and unique: multiplication by an odd number is a permutation.
fn id(at: u64) -> SpanId {
    SpanId((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
}

/// Spans arrive by process and in order of end, not of start; any fixed disorder will do.
fn shuffle(spans: &mut [Span<'static>]) {
    spans.chunks_mut(512).for_each(<[_]>::reverse);
}
