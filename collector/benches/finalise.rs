//! What a span costs from its trace's bytes to the roll-ups' bytes, step by step:
//! `cargo bench -p collector --features testing --bench finalise`.
//!
//! The traces are those of `culprit bench ingest`: three services, 15 spans, 10 attributes each, few
//! endpoints and statements. A round is one tick's worth of them. Times are the thread's own, so
//! that neighbours on the machine disturb little; of all rounds the quickest counts. Names are made
//! known to a private Postgres before, because only then there are ids to count under.

use analyzer::span::{SpanId, Spans};
use analyzer::{Analyzer, Settings};
use collector::contribution::{Contribution, Request};
use collector::deltas::{Counted, Day, Deltas, minute_of};
use collector::otlp;
use collector::store::dictionaries::Dictionaries;
use collector::store::encoding;
use nix::time::{ClockId, clock_gettime};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::collections::HashSet;
use std::hint::black_box;

/// The server's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TRACES: u64 = 3_000;
const ROUNDS: usize = 25;

/// One request in so many is counted into the slow tail.
const TAIL_SHARE: u64 = 20;

/// The day they count to.
const DAY: Day = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let traces = encoded_traces();
    let spans: usize = traces.iter().map(|it| decoded(it).spans.len()).sum();
    let settings = Settings::default();
    let store = runtime.block_on(collector::testing::store());
    let mut names = Dictionaries::default();
    let mut table = Table::default();
    for round in 0..=ROUNDS {
        let mut clock = Clock::default();
        // As the server does it, one trace after the other: each step alone would find cold caches.
        let decoding = cpu_ns_of(|| {
            traces.iter().for_each(|it| drop(black_box(decoded(it))));
        });
        let analysing = cpu_ns_of(|| {
            let mut analyzer = Analyzer::new(&settings);
            let analyses = traces.iter().map(|it| analyzer.analyze(decoded(it)));
            analyses.for_each(|it| drop(black_box(it)));
        });
        let mut contributions: Vec<Contribution> = Vec::with_capacity(traces.len());
        let contributing = cpu_ns_of(|| {
            let mut analyzer = Analyzer::new(&settings);
            let analyses = traces.iter().map(|it| analyzer.analyze(decoded(it)));
            contributions.extend(analyses.map(|it| Contribution::of(&it)));
        });
        clock.step("decode_into", decoding);
        clock.step("analyze", analysing.saturating_sub(decoding));
        clock.step("Contribution::of", contributing.saturating_sub(analysing));
        clock.time("learn names", || {
            let all: Vec<&Contribution> = contributions.iter().collect();
            let learned = runtime.block_on(store.learn(&mut names, &all));
            learned.expect("names are learned");
        });
        clock.time("learn within endpoints", || {
            let requests = contributions.iter().flat_map(|it| &it.requests);
            let all: Vec<(Day, i32, &Request)> = requests
                .filter_map(|it| Some((DAY, names.ids(it)?.endpoint, it)))
                .collect();
            let learned = runtime.block_on(store.learn_within_endpoints(&mut names, &all));
            learned.expect("names are learned");
        });
        let deltas = clock.time("Deltas::add", || counted(&contributions, &names));
        clock.time("encode deltas", || black_box(encoded(&deltas)));
        clock.time("drop all that", || drop((contributions, deltas)));
        // The first round makes the names.
        if round > 0 {
            table.add(clock);
        }
    }
    println!("{TRACES} traces, {spans} spans; CPU ns per span, the quickest of {ROUNDS} rounds");
    table.print(spans);
}

fn decoded(trace: &[u8]) -> Spans<'_> {
    let mut spans = Spans::default();
    otlp::decode_into(&mut spans, trace, |_| true).expect("OTLP of our own");
    spans
}

fn counted(contributions: &[Contribution], names: &Dictionaries) -> Deltas {
    let mut deltas = Deltas::default();
    for contribution in contributions {
        for request in &contribution.requests {
            let ids = names.ids(request).expect("names were learned");
            let counted = Counted {
                day: DAY,
                endpoint: ids.endpoint,
                version: ids.version,
                minute: minute_of(request.start_ns),
                tail: is_tail(request.span_id),
                edges: true,
            };
            deltas.add(contribution, request, &counted, names, 1);
        }
    }
    deltas
}

fn is_tail(id: SpanId) -> bool {
    u64::from_be_bytes(id.0).is_multiple_of(TAIL_SHARE)
}

/// How many bytes a tick's roll-up rows have.
fn encoded(deltas: &Deltas) -> usize {
    let minutes = deltas.minutes.values();
    let minutes = minutes.map(|it| encoding::sketch_bytes(&it.latency).len());
    let hours = deltas.hours.values().map(|it| {
        encoding::statements_bytes(&it.statements).len()
            + encoding::profile_bytes(&it.profile.total()).len()
            + encoding::profile_bytes(&it.tail_profile.total()).len()
    });
    let hits = deltas.hits.values();
    let hits = hits.map(|it| encoding::hits_bytes(&it.hits).len());
    let edges = deltas.edges.values();
    let edges = edges.map(|it| encoding::sketch_bytes(&it.latency).len());
    minutes.chain(hours).chain(hits).chain(edges).sum()
}

/// One round's times by step, in order.
#[derive(Default)]
struct Clock(Vec<(&'static str, u64)>);

impl Clock {
    fn time<T>(&mut self, step: &'static str, run: impl FnOnce() -> T) -> T {
        let mut result = None;
        let ns = cpu_ns_of(|| result = Some(run()));
        self.step(step, ns);
        result.expect("it ran")
    }

    fn step(&mut self, step: &'static str, ns: u64) {
        self.0.push((step, ns));
    }
}

fn cpu_ns_of(run: impl FnOnce()) -> u64 {
    let before = cpu_ns();
    run();
    cpu_ns() - before
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// The quickest time of each step.
#[derive(Default)]
struct Table(Vec<(&'static str, u64)>);

impl Table {
    fn add(&mut self, clock: Clock) {
        if self.0.is_empty() {
            self.0 = clock.0;
            return;
        }
        for (best, new) in self.0.iter_mut().zip(clock.0) {
            best.1 = best.1.min(new.1);
        }
    }

    fn print(&self, spans: usize) {
        let per_span = |ns: u64| ns as f64 / spans as f64;
        for (step, ns) in &self.0 {
            println!("{step:<20} {:8.1}", per_span(*ns));
        }
        // What came before is the wire's.
        let after_decoding: u64 = self.0.iter().skip(1).map(|it| it.1).sum();
        println!("{:<20} {:8.1}", "after decoding", per_span(after_decoding));
    }
}

const SERVICES: [&str; 3] = ["gateway", "orders", "pricing"];
const ATTRIBUTES_PER_SPAN: usize = 10;
const START_NS: u64 = 1_735_689_600_000_000_000;

/// Each trace's bytes as they are gathered from the journal's rows: one part per service.
fn encoded_traces() -> Vec<Vec<u8>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ids = HashSet::new();
    let traces = (0..TRACES).map(|number| {
        let parts = trace(number, &mut random);
        let mut bytes = Vec::new();
        for (service, spans) in parts.into_iter().enumerate() {
            assert!(spans.iter().all(|it| ids.insert(it.span_id.clone())));
            bytes.extend(request(service, spans).encode_to_vec());
        }
        bytes
    });
    traces.collect()
}

/// ```text
/// gateway   GET /checkout        |-----------------------------|   4 spans + 1 call
/// orders      POST /orders           |-------------------|         4 spans + 1 call
/// pricing       GET /prices              |--------|                5 spans
/// ```
fn trace(number: u64, random: &mut Random) -> [Vec<Span>; 3] {
    let trace_id = [random.id(), random.id()].concat();
    let mut caller: Vec<u8> = Vec::new();
    let mut at_ns = START_NS + number * 500_000;
    let mut left_ns = 20_000_000 + random.next() % 60_000_000;
    std::array::from_fn(|service| {
        let mut span = |id: &[u8], parent: &[u8], of: Of, start_ns: u64, ns: u64| Span {
            trace_id: trace_id.clone(),
            span_id: id.to_vec(),
            parent_span_id: parent.to_vec(),
            start_time_unix_nano: start_ns,
            end_time_unix_nano: start_ns + ns,
            name: of.0,
            kind: of.1,
            attributes: filled(of.2, random),
            ..Span::default()
        };
        let entry = span_id(number, service as u64, 0);
        let mut spans = vec![span(
            &entry,
            &caller,
            server(number, service),
            at_ns,
            left_ns,
        )];
        let calls = if service == 2 { 4 } else { 3 };
        for call in 0..calls {
            let id = span_id(number, service as u64, 1 + call);
            let start_ns = at_ns + left_ns / 20 * (call + 1);
            spans.push(span(
                &id,
                &entry,
                statement(number, call),
                start_ns,
                left_ns / 25,
            ));
        }
        if service < 2 {
            caller = span_id(number, service as u64, 7);
            let (start_ns, ns) = (at_ns + left_ns / 4, left_ns * 7 / 10);
            spans.push(span(&caller, &entry, client(service), start_ns, ns));
            at_ns = start_ns + 200_000;
            left_ns = ns - 400_000;
        }
        spans
    })
}

/// Unique and random-looking: multiplying by an odd number is a permutation.
fn span_id(trace: u64, service: u64, at: u64) -> Vec<u8> {
    let number = (trace * 3 + service) * 8 + at + 1;
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes().to_vec()
}

/// Name, kind by OTLP's number, attributes.
type Of = (String, i32, Vec<KeyValue>);

fn server(number: u64, service: usize) -> Of {
    let route = ["/checkout", "/orders", "/prices"][service];
    let route = format!("{route}/v{}", number % 7);
    let attributes = vec![
        text("http.request.method", "GET"),
        text("http.route", &route),
        text("url.path", &route),
        text("http.response.status_code", "200"),
        text("server.address", SERVICES[service]),
    ];
    (format!("GET {route}"), 2, attributes)
}

fn statement(number: u64, call: u64) -> Of {
    let table = ["cart", "item", "customer", "price"][call as usize % 4];
    let statement = format!(
        "SELECT id, name, amount FROM {table} WHERE tenant = $1 AND id = $2 AND shard = {}",
        number % 5
    );
    let attributes = vec![
        text("db.system.name", "postgresql"),
        text("db.namespace", "shop"),
        text("db.query.text", &statement),
        text("db.operation.name", "SELECT"),
        text("server.address", "db.internal"),
    ];
    (format!("SELECT {table}"), 3, attributes)
}

fn client(service: usize) -> Of {
    let callee = SERVICES[service + 1];
    let attributes = vec![
        text("http.request.method", "GET"),
        text("url.full", &format!("http://{callee}:8080/v1/resource")),
        text("server.address", callee),
        text("http.response.status_code", "200"),
    ];
    ("GET".into(), 3, attributes)
}

/// With what every span has besides, [`ATTRIBUTES_PER_SPAN`].
fn filled(mut attributes: Vec<KeyValue>, random: &mut Random) -> Vec<KeyValue> {
    let thread = (random.next() % 64).to_string();
    for (key, value) in [
        ("thread.name", "worker"),
        ("thread.id", &thread),
        ("code.function.name", "handle"),
        ("app.tenant", "acme"),
        ("app.region", "eu-central-1"),
    ] {
        attributes.push(text(key, value));
    }
    while attributes.len() < ATTRIBUTES_PER_SPAN {
        let value = (random.next() % 1_000).to_string();
        attributes.push(text(&format!("app.measure.{}", attributes.len()), &value));
    }
    attributes
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue {
        value: Some(any_value::Value::StringValue(value.into())),
    };
    KeyValue {
        key: key.into(),
        value: Some(value),
        ..KeyValue::default()
    }
}

fn request(service: usize, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let attributes = vec![
        text("service.name", SERVICES[service]),
        text("service.version", "1.4.2"),
        text("deployment.environment.name", "bench"),
        text("host.name", &format!("node-{service}")),
        text("telemetry.sdk.language", "java"),
    ];
    let scope = InstrumentationScope {
        name: "bench".into(),
        ..InstrumentationScope::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// xorshift64* (Vigna, 2016): small, seeded, good enough for ids and dice.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn id(&mut self) -> [u8; 8] {
        self.next().to_be_bytes()
    }
}
