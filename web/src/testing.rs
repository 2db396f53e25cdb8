//! For tests: drawn traces as the bytes that would have been stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use analyzer::drawing;
use analyzer::span::{Attribute, SpanKind, Spans, Status, Value};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use collector::assembly::{self, Idle};
use collector::journal::Journal;
use collector::store::Store;
use collector::store::leases::Process;
use collector::store::traces::{StoredTrace, TraceState};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span, status};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::AppState;
use crate::open_traces::OpenTraces;
use crate::vitals::Vitals;

/// A drawn trace as it would have been stored.
pub fn drawn(drawing: &str) -> StoredTrace {
    let drawing = drawing::parse(drawing);
    StoredTrace {
        otlp: otlp(&drawing.spans()),
        state: TraceState::Final,
    }
}

/// The same as of `start_ns` since the epoch; `nth` of several alike, which have ids of their own.
pub fn drawn_at(drawing: &str, start_ns: u64, nth: u8) -> StoredTrace {
    let mut drawing = drawing::parse(drawing);
    drawing.start_ns = start_ns;
    drawing.trace_id.0[0] ^= nth;
    StoredTrace {
        otlp: otlp(&drawing.spans()),
        state: TraceState::Final,
    }
}

/// Spans as an encoded `ExportTraceServiceRequest`.
pub fn otlp(spans: &Spans<'_>) -> Vec<u8> {
    let resource_spans = spans.spans.iter().map(|it| {
        let scope = &spans.scopes[it.scope as usize];
        ResourceSpans {
            resource: Some(Resource {
                attributes: pairs(&spans.resources[it.resource as usize].attributes),
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: scope.name.into(),
                    version: scope.version.into(),
                    ..InstrumentationScope::default()
                }),
                spans: vec![span_of(spans, it)],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }
    });
    ExportTraceServiceRequest {
        resource_spans: resource_spans.collect(),
    }
    .encode_to_vec()
}

fn span_of(spans: &Spans<'_>, it: &analyzer::span::Span<'_>) -> Span {
    let events = &spans.events[it.events.start as usize..it.events.end as usize];
    Span {
        trace_id: it.trace_id.0.into(),
        span_id: it.id.0.into(),
        parent_span_id: it.parent_id.map(|it| it.0.into()).unwrap_or_default(),
        trace_state: it.trace_state.into(),
        name: it.name.into(),
        kind: kind(it.kind) as i32,
        start_time_unix_nano: it.start_ns,
        end_time_unix_nano: it.end_ns,
        attributes: pairs(spans.attributes_at(&it.attributes)),
        events: events
            .iter()
            .map(|event| span::Event {
                time_unix_nano: event.time_ns,
                name: event.name.into(),
                attributes: pairs(spans.attributes_at(&event.attributes)),
                ..span::Event::default()
            })
            .collect(),
        status: (it.status == Status::Error).then(|| {
            opentelemetry_proto::tonic::trace::v1::Status {
                message: it.status_message.into(),
                code: status::StatusCode::Error as i32,
            }
        }),
        ..Span::default()
    }
}

fn kind(kind: SpanKind) -> span::SpanKind {
    match kind {
        SpanKind::Unspecified => span::SpanKind::Unspecified,
        SpanKind::Internal => span::SpanKind::Internal,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
    }
}

fn pairs(attributes: &[Attribute<'_>]) -> Vec<KeyValue> {
    let pair = |it: &Attribute<'_>| KeyValue {
        key: it.key.into(),
        value: Some(AnyValue {
            value: value(&it.value),
        }),
        ..KeyValue::default()
    };
    attributes.iter().map(pair).collect()
}

fn value(value: &Value<'_>) -> Option<any_value::Value> {
    match value {
        Value::Empty => None,
        Value::Str(text) => Some(any_value::Value::StringValue((*text).into())),
        Value::Bool(yes) => Some(any_value::Value::BoolValue(*yes)),
        Value::Int(number) => Some(any_value::Value::IntValue(*number)),
        Value::Double(number) => Some(any_value::Value::DoubleValue(*number)),
        Value::Bytes(bytes) => Some(any_value::Value::BytesValue(bytes.to_vec())),
        Value::Nested(encoded) => AnyValue::decode(*encoded).ok()?.value,
    }
}

/// The site, with traces that went the whole way: journal, assembly, blocks.
pub struct Site {
    /// Its tables.
    pub store: Store,
    /// Its routes.
    pub router: Router,
}

impl Site {
    /// A site on a database of this test's own.
    pub async fn with(traces: &[&StoredTrace]) -> Site {
        let site = Site::on(collector::testing::store().await);
        site.add(traces).await;
        site
    }

    /// More traces arrive.
    pub async fn add(&self, traces: &[&StoredTrace]) {
        let journal = Journal::start(self.store.clone());
        for trace in traces {
            let accepted = collector::otlp::accept(trace.otlp.clone().into(), self.store.shards());
            journal.append(accepted.unwrap().batch).await.unwrap();
        }
        self.assemble().await;
    }

    /// A site on a database that is there.
    pub fn on(store: Store) -> Site {
        let state = AppState {
            store: store.clone(),
            grpc: None,
            http: None,
            receiver: None,
            vitals: Arc::new(Vitals::new(store.clone(), store.clone())),
            settings: Arc::default(),
            logs: None,
            traces: OpenTraces::new(store.clone(), Arc::default()),
            trust: collector::alert::guard::Trust::Guarded {
                allow_private: Vec::new(),
            },
            reached: Default::default(),
            told: Arc::default(),
        };
        Site {
            store,
            router: crate::router(state),
        }
    }

    async fn assemble(&self) {
        let idle = Idle {
            idle_after: Duration::from_millis(60),
            early_after: Duration::from_millis(30),
            carry_after: Duration::from_millis(90),
            ..Idle::default()
        };
        let options = assembly::Options {
            idle,
            process: Process::new(true),
            ..Default::default()
        };
        let shutdown = CancellationToken::new();
        let run = assembly::run(
            self.store.clone(),
            options,
            Arc::default(),
            shutdown.clone(),
        );
        let task = tokio::spawn(run);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.store.journal_backlog().await.unwrap().rows > 0 {
            assert!(Instant::now() < deadline, "the journal is not consumed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shutdown.cancel();
        task.await.unwrap();
    }

    /// The answer to a GET: status, headers, body as text.
    pub async fn get(&self, address: &str) -> (StatusCode, HeaderMap, String) {
        let (status, headers, body) = self.get_bytes(address).await;
        (status, headers, String::from_utf8(body).unwrap())
    }

    /// The answer to a POST, as a program or one of our own pages sends it.
    pub async fn post(&self, address: &str, body: &str) -> (StatusCode, HeaderMap, String) {
        self.post_from(address, &[], body).await
    }

    /// As [`Site::post`], with what a browser says of where it comes from.
    pub async fn post_from(
        &self,
        address: &str,
        from: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::post(address);
        for (name, value) in from {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (head.status, head.headers, body)
    }

    /// As [`Site::get`], whatever the body is.
    pub async fn get_bytes(&self, address: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let request = Request::get(address).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, body.to_vec())
    }

    /// The answer to a request with a body: status, headers, body as text.
    pub async fn change(
        &self,
        method: &str,
        address: &str,
        body: impl Into<String>,
    ) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder().method(method).uri(address);
        let request = request.body(Body::from(body.into())).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (head.status, head.headers, body)
    }

    /// The answer to any request: status, and the body as JSON (null if it is none).
    pub async fn send(&self, request: Request<Body>) -> (StatusCode, serde_json::Value) {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        let json = serde_json::from_slice(&body.unwrap()).unwrap_or_default();
        (status, json)
    }

    /// The body of an answer that must be a success, and harmless if it is a page.
    pub async fn page(&self, address: &str) -> String {
        let (status, headers, body) = self.get(address).await;
        assert_eq!(status, StatusCode::OK, "{address}: {body}");
        if headers[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/html")
        {
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
            assert_harmless(&body);
        }
        body
    }
}

/// Asserts that nothing in a page can run or restyle it: no script of its own, no event handlers, no
/// inline style, no address but of this site.
pub fn assert_harmless(html: &str) {
    let page = scraper::Html::parse_document(html);
    for element in page.tree.values().filter_map(|it| it.as_element()) {
        let name = element.name();
        assert!(
            !["style", "iframe", "object", "embed", "base", "img"].contains(&name),
            "<{name}>"
        );
        if name == "script" {
            assert!(
                element
                    .attr("src")
                    .is_some_and(|it| it.starts_with("/static/")),
                "{element:?}"
            );
        }
        for (key, value) in element.attrs() {
            assert!(
                !key.starts_with("on") && key != "style",
                "{name} {key}={value}"
            );
            // Where people lead with what they told of a deployment: nothing is told to that place.
            let is_out = name == "a"
                && element.attr("rel") == Some("noopener noreferrer")
                && (value.starts_with("https://") || value.starts_with("http://"));
            if ["href", "src", "action"].contains(&key) && !is_out {
                let ours = value.is_empty()
                    || ["/", "?", "#", "data:image/svg+xml,"]
                        .iter()
                        .any(|it| value.starts_with(it));
                assert!(ours && !value.starts_with("//"), "{name} {key}={value}");
            }
        }
    }
    assert!(!html.contains('\0'));
}

/// Names that would harm a careless page.
pub const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)//",
    "\u{202e}gnp.exe \u{1f525}\u{0}\u{7}",
    "{{ 7 * 7 }} </title></svg><style>*{display:none}</style>",
];

/// A profile with what profiles can have: recursion, one name in two places, a path that is never
/// on the critical path, and one without any time.
pub fn sample_profile() -> analyzer::profile::Profile {
    use analyzer::category::Category;
    use analyzer::profile::{Profile, ProfileNode};
    let node = |parent, name: &str, category, count, self_ns, critical_ns| ProfileNode {
        parent,
        name: name.into(),
        category,
        count,
        self_ns,
        critical_ns,
    };
    Profile {
        nodes: vec![
            node(None, "GET /posts", Category::Handler, 10, 4_000, 4_000),
            node(Some(0), "load", Category::Handler, 20, 300, 200),
            node(Some(1), "load", Category::Handler, 20, 50, 50),
            node(
                Some(2),
                "select posts",
                Category::Database,
                40,
                8_000,
                7_000,
            ),
            node(Some(0), "select posts", Category::Database, 10, 900, 0),
            node(Some(0), "instant", Category::Cache, 3, 0, 0),
        ],
    }
}
