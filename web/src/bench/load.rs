//! A load that is like life.
//!
//! Three services per trace, each exported by a process of its own that flushes at its own time, so
//! that the parts of a trace arrive up to five seconds apart. One request in a hundred is sent
//! twice, one part of a trace in a hundred comes when the trace is long final.
//!
//! ```text
//! gateway   GET /checkout        |-----------------------------|   4 spans + 1 call
//! orders      POST /orders           |-------------------|         4 spans + 1 call
//! pricing       GET /prices              |--------|                5 spans
//! ```

use collector::clock::now_ns;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::IngestOptions;

/// Spans of one trace, over all services.
pub const SPANS_PER_TRACE: u64 = 15;

/// Attributes of each span.
pub const ATTRIBUTES_PER_SPAN: usize = 10;

/// What an SDK's batch processor sends at once.
const SPANS_PER_REQUEST: usize = 512;

/// How long each service's exporter sits on its spans.
pub const FLUSH_AFTER: [Duration; 3] = [
    Duration::from_millis(0),
    Duration::from_millis(2_000),
    Duration::from_millis(5_000),
];

/// Later than any trace waits.
pub const LATE_BY: Duration = Duration::from_secs(12);

/// Requests under way at once; beyond it exporters wait, as SDKs do.
const UNDER_WAY_MAX: usize = 32;

/// Tries of a refused request before its spans count as lost by the client.
const TRIES_MAX: u32 = 20;

/// Requests that wait for their exporter's flush or are under way, at most; beyond it the load waits: at
/// 0.5 MB each they would take all memory if culprit cannot keep up.
const GATHERED_MAX: usize = 400;

/// The services, outermost first.
pub const SERVICES: [&str; 3] = ["gateway", "orders", "pricing"];

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Spans sent, repeated ones included.
    pub spans: u64,
    /// Spans that were acknowledged, repeated ones included.
    pub acked_spans: u64,
    /// Distinct spans that were acknowledged.
    pub distinct_spans: u64,
    /// Requests that were told to come again.
    pub refused: u64,
}

/// The load.
pub struct Load {
    traces: u64,
    traces_per_s: f64,
    /// How long ago the first trace began; the last begins now.
    spread: Duration,
    random: Random,
}

#[derive(Default)]
struct Counters {
    spans: AtomicU64,
    acked: AtomicU64,
    distinct: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    /// As the options say.
    pub fn new(options: &IngestOptions) -> Load {
        let traces_per_s = f64::from(options.rate) / SPANS_PER_TRACE as f64;
        Load {
            traces: (traces_per_s * f64::from(options.seconds)) as u64,
            traces_per_s,
            spread: Duration::ZERO,
            random: Random(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        }
    }

    /// The same, as if it had taken so long until now.
    pub fn spread_over(self, spread: Duration) -> Load {
        Load { spread, ..self }
    }

    /// Sends everything; returns when the last answer is there.
    pub async fn run(mut self, address: &str) -> anyhow::Result<Sent> {
        let channel = Endpoint::from_shared(address.to_owned())?.connect().await?;
        let counters = Arc::new(Counters::default());
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut sending = JoinSet::new();
        let mut parts: [Vec<Span>; 3] = Default::default();
        let mut late: Vec<(usize, Vec<Span>)> = Vec::new();
        let since = Instant::now();
        for trace in 0..self.traces {
            for (service, spans) in self.trace(trace).into_iter().enumerate() {
                if self.random.one_in(100) {
                    late.push((service, spans));
                } else {
                    parts[service].extend(spans);
                }
                if parts[service].len() >= SPANS_PER_REQUEST {
                    while sending.len() >= GATHERED_MAX {
                        sending.join_next().await.transpose()?;
                    }
                    let request = request(service, std::mem::take(&mut parts[service]));
                    let twice = self.random.one_in(100);
                    let delay = FLUSH_AFTER[service];
                    sending.spawn(send(
                        channel.clone(),
                        request,
                        delay,
                        twice,
                        counters.clone(),
                        under_way.clone(),
                    ));
                }
            }
            // Late parts gather to requests like others: an exporter that was cut off for a while.
            if late.len() >= 60 || trace + 1 == self.traces {
                for service in 0..3 {
                    let spans = late
                        .iter()
                        .filter(|it| it.0 == service)
                        .flat_map(|it| it.1.clone());
                    let request = request(service, spans.collect());
                    sending.spawn(send(
                        channel.clone(),
                        request,
                        LATE_BY,
                        false,
                        counters.clone(),
                        under_way.clone(),
                    ));
                }
                late.clear();
            }
            let due = since + Duration::from_secs_f64(trace as f64 / self.traces_per_s);
            if due > Instant::now() + Duration::from_millis(2) {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        for (service, spans) in parts.into_iter().enumerate() {
            sending.spawn(send(
                channel.clone(),
                request(service, spans),
                FLUSH_AFTER[service],
                false,
                counters.clone(),
                under_way.clone(),
            ));
        }
        while sending.join_next().await.transpose()?.is_some() {}
        Ok(Sent {
            spans: counters.spans.load(Ordering::Relaxed),
            acked_spans: counters.acked.load(Ordering::Relaxed),
            distinct_spans: counters.distinct.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
        })
    }

    /// One trace's spans by service.
    pub fn trace(&mut self, number: u64) -> [Vec<Span>; 3] {
        let trace_id = [
            self.random.next().to_be_bytes(),
            self.random.next().to_be_bytes(),
        ]
        .concat();
        let ago = self
            .spread
            .mul_f64(1.0 - number as f64 / self.traces.max(1) as f64);
        let mut at_ns = now_ns().saturating_sub(ago.as_nanos() as u64);
        let mut caller: Vec<u8> = Vec::new();
        let mut left_ns = 20_000_000 + self.random.next() % 60_000_000;
        std::array::from_fn(|service| {
            let entry = self.random.next().to_be_bytes().to_vec();
            let mut spans = vec![self.span(
                &trace_id,
                &entry,
                &caller,
                Shape::Server(number, service),
                at_ns,
                left_ns,
            )];
            let calls = if service == 2 { 4 } else { 3 };
            for call in 0..calls {
                let id = self.random.next().to_be_bytes().to_vec();
                let start_ns = at_ns + left_ns / 20 * (call + 1);
                spans.push(self.span(
                    &trace_id,
                    &id,
                    &entry,
                    Shape::Statement(number, call),
                    start_ns,
                    left_ns / 25,
                ));
            }
            if service < 2 {
                caller = self.random.next().to_be_bytes().to_vec();
                let (start_ns, duration_ns) = (at_ns + left_ns / 4, left_ns * 7 / 10);
                spans.push(self.span(
                    &trace_id,
                    &caller,
                    &entry,
                    Shape::Client(service),
                    start_ns,
                    duration_ns,
                ));
                at_ns = start_ns + 200_000;
                left_ns = duration_ns - 400_000;
            }
            spans
        })
    }

    fn span(
        &mut self,
        trace_id: &[u8],
        id: &[u8],
        parent: &[u8],
        shape: Shape,
        start_ns: u64,
        duration_ns: u64,
    ) -> Span {
        let (name, kind, mut attributes) = shape.describe();
        let thread = (self.random.next() % 64).to_string();
        for (key, value) in [
            ("thread.name", "worker"),
            ("thread.id", &thread),
            ("code.function.name", "handle"),
            ("app.tenant", "acme"),
            ("app.region", "eu-central-1"),
        ] {
            if attributes.len() < ATTRIBUTES_PER_SPAN {
                attributes.push(text(key, value));
            }
        }
        while attributes.len() < ATTRIBUTES_PER_SPAN {
            let value = self.random.next() % 1_000;
            attributes.push(text(
                &format!("app.measure.{}", attributes.len()),
                &value.to_string(),
            ));
        }
        Span {
            trace_id: trace_id.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.to_vec(),
            name,
            kind,
            start_time_unix_nano: start_ns,
            end_time_unix_nano: start_ns + duration_ns,
            attributes,
            ..Span::default()
        }
    }
}

/// What a span is: OTLP's kind numbers are 2 server, 3 client.
#[derive(Clone, Copy)]
enum Shape {
    Server(u64, usize),
    Statement(u64, u64),
    Client(usize),
}

impl Shape {
    fn describe(self) -> (String, i32, Vec<KeyValue>) {
        match self {
            Shape::Server(number, service) => {
                let route = ["/checkout", "/orders", "/prices"][service];
                let route = format!("{route}/v{}", number % 7);
                (
                    format!("GET {route}"),
                    2,
                    vec![
                        text("http.request.method", "GET"),
                        text("http.route", &route),
                        text("url.path", &route),
                        text("http.response.status_code", "200"),
                        text("server.address", SERVICES[service]),
                    ],
                )
            }
            Shape::Statement(number, call) => {
                let table = ["cart", "item", "customer", "price"][call as usize % 4];
                let statement = format!(
                    "SELECT id, name, amount FROM {table} WHERE tenant = $1 AND id = $2 AND shard = {}",
                    number % 5
                );
                (
                    format!("SELECT {table}"),
                    3,
                    vec![
                        text("db.system.name", "postgresql"),
                        text("db.namespace", "shop"),
                        text("db.query.text", &statement),
                        text("db.operation.name", "SELECT"),
                        text("server.address", "db.internal"),
                    ],
                )
            }
            Shape::Client(service) => {
                let callee = SERVICES[service + 1];
                (
                    "GET".into(),
                    3,
                    vec![
                        text("http.request.method", "GET"),
                        text("url.full", &format!("http://{callee}:8080/v1/resource")),
                        text("server.address", callee),
                        text("http.response.status_code", "200"),
                    ],
                )
            }
        }
    }
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

/// What a service's exporter sends.
pub fn request(service: usize, spans: Vec<Span>) -> ExportTraceServiceRequest {
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

/// A trace of one span, with an attribute that no other span has.
pub fn needle(number: u32) -> ExportTraceServiceRequest {
    let start_ns = now_ns();
    let mut trace_id = start_ns.to_be_bytes().to_vec();
    trace_id.extend([u8::MAX; 8]);
    let span = Span {
        trace_id,
        span_id: vec![1; 8],
        name: "GET /needle".into(),
        kind: 2,
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns + 1_000_000,
        attributes: vec![text("app.needle", &format!("needle-{number}"))],
        ..Span::default()
    };
    request(0, vec![span])
}

async fn send(
    channel: Channel,
    request: ExportTraceServiceRequest,
    delay: Duration,
    twice: bool,
    counters: Arc<Counters>,
    under_way: Arc<Semaphore>,
) {
    tokio::time::sleep(delay).await;
    let spans = request.resource_spans[0].scope_spans[0].spans.len() as u64;
    if spans == 0 {
        return;
    }
    let mut client = TraceServiceClient::new(channel);
    for repetition in 0..1 + u8::from(twice) {
        for _ in 0..TRIES_MAX {
            let Ok(_permit) = under_way.acquire().await else {
                return;
            };
            counters.spans.fetch_add(spans, Ordering::Relaxed);
            if client.export(request.clone()).await.is_ok() {
                counters.acked.fetch_add(spans, Ordering::Relaxed);
                if repetition == 0 {
                    counters.distinct.fetch_add(spans, Ordering::Relaxed);
                }
                break;
            }
            counters.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
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

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}
