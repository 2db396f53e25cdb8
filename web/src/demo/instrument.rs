//! What an instrumentation library would do: spans around requests, queries and calls.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions. The span at work travels as
//! the current [`Context`] of the future that works, so nobody in the shop passes it around.

use std::fmt::Display;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    FutureExt as _, SpanBuilder, SpanKind, SpanRef, Status, TraceContextExt as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow};
use sqlx::{Encode, FromRow, Postgres, Type};

/// How long a call to another service may take. The slowest stub answers in a fifth of a second.
const CALL_MAX: Duration = Duration::from_secs(5);

/// How much of an answer is read. The stubs send a few bytes; more is an error.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Runs `work` under a new span, a child of the current one.
pub async fn in_span<T>(tracer: &SdkTracer, span: SpanBuilder, work: impl Future<Output = T>) -> T {
    let context = Context::current_with_span(span.start(tracer));
    let output = work.with_context(context.clone()).await;
    context.span().end();
    output
}

/// An axum layer: a SERVER span around each request, under the caller's span if it sent one.
pub async fn serve(State(tracer): State<SdkTracer>, request: Request, next: Next) -> Response {
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    let span = server_span(&request);
    let context = caller.with_span(span.start_with_context(&tracer, &caller));
    let response = next.run(request).with_context(context.clone()).await;

    let span = context.span();
    let status = response.status();
    span.set_attribute(status_code(status));
    if status.is_server_error() {
        fail(&span, status.as_str(), "");
    }
    span.end();
    response
}

fn server_span(request: &Request) -> SpanBuilder {
    let method = request.method().as_str();
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", request.uri().path().to_owned()),
    ];
    if let Some(query) = request.uri().query() {
        attributes.push(KeyValue::new("url.query", query.to_owned()));
    }
    let name = match request.extensions().get::<MatchedPath>() {
        Some(route) => {
            attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
            format!("{method} {}", route.as_str())
        }
        None => method.to_owned(),
    };
    SpanBuilder::from_name(name)
        .with_kind(SpanKind::Server)
        .with_attributes(attributes)
}

/// An SQL statement of one parameter (all that the shop needs).
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// The operation and the table it is about: `SELECT authors`.
    pub summary: &'static str,
    /// The function that runs it, which a library in another language reads from the stack.
    pub function: &'static str,
    /// The text, with `$1`.
    pub text: &'static str,
}

/// A pool of connections that makes a CLIENT span of every query.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    tracer: SdkTracer,
    name: String,
}

impl Database {
    /// Spans of what `pool` does are made by `tracer`.
    pub fn new(pool: PgPool, tracer: SdkTracer) -> Self {
        let options = pool.connect_options();
        let name = options.get_database().unwrap_or_default().to_owned();
        Database { pool, tracer, name }
    }

    /// All rows of the answer.
    #[track_caller]
    pub fn fetch_all<'a, T, P>(
        &'a self,
        statement: &'static Statement,
        parameter: P,
    ) -> impl Future<Output = sqlx::Result<Vec<T>>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
        P: Encode<'a, Postgres> + Type<Postgres> + Send + 'a,
    {
        let span = self.query_span(statement, Location::caller());
        in_span(&self.tracer, span, async move {
            let query = sqlx::query_as(statement.text).bind(parameter);
            let answer = query.fetch_all(&self.pool).await;
            finish_query(&answer, Vec::len);
            answer
        })
    }

    /// The one row of the answer, if there is one.
    #[track_caller]
    pub fn fetch_optional<'a, T, P>(
        &'a self,
        statement: &'static Statement,
        parameter: P,
    ) -> impl Future<Output = sqlx::Result<Option<T>>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
        P: Encode<'a, Postgres> + Type<Postgres> + Send + 'a,
    {
        let span = self.query_span(statement, Location::caller());
        in_span(&self.tracer, span, async move {
            let query = sqlx::query_as(statement.text).bind(parameter);
            let answer = query.fetch_optional(&self.pool).await;
            finish_query(&answer, |row| usize::from(row.is_some()));
            answer
        })
    }

    /// Runs a statement that returns no rows.
    #[track_caller]
    pub fn execute<'a, P>(
        &'a self,
        statement: &'static Statement,
        parameter: P,
    ) -> impl Future<Output = sqlx::Result<PgQueryResult>> + Send + 'a
    where
        P: Encode<'a, Postgres> + Type<Postgres> + Send + 'a,
    {
        let span = self.query_span(statement, Location::caller());
        in_span(&self.tracer, span, async move {
            let query = sqlx::query(statement.text).bind(parameter);
            let answer = query.execute(&self.pool).await;
            finish_query(&answer, |_| 0);
            answer
        })
    }

    fn query_span(&self, statement: &Statement, caller: &Location) -> SpanBuilder {
        let (operation, table) = statement.summary.split_once(' ').unwrap_or_default();
        let mut attributes = vec![
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.namespace", self.name.clone()),
            KeyValue::new("db.operation.name", operation.to_owned()),
            KeyValue::new("db.collection.name", table.to_owned()),
            KeyValue::new("db.query.summary", statement.summary),
            KeyValue::new("db.query.text", statement.text),
            KeyValue::new("code.function.name", statement.function),
        ];
        attributes.extend(code(caller));
        SpanBuilder::from_name(statement.summary)
            .with_kind(SpanKind::Client)
            .with_attributes(attributes)
    }
}

fn finish_query<T>(answer: &sqlx::Result<T>, rows: impl Fn(&T) -> usize) {
    Context::map_current(|context| match answer {
        Ok(answer) => context.span().set_attribute(KeyValue::new(
            "db.response.returned_rows",
            rows(answer) as i64,
        )),
        Err(error) => fail(&context.span(), "sqlx::Error", error),
    });
}

/// An HTTP client that makes a CLIENT span of every call and sends the trace's context along.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpConnector<Hosts>, Full<Bytes>>,
    tracer: SdkTracer,
}

impl HttpClient {
    /// A client that finds the `hosts` where they are said to be, and no others. With names
    /// instead of the ports of the day, the URLs in the spans are the same at every start.
    pub fn new(tracer: SdkTracer, hosts: &[(&'static str, SocketAddr)]) -> Self {
        let connector = HttpConnector::new_with_resolver(Hosts(hosts.into()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        HttpClient { client, tracer }
    }

    /// Posts JSON and reads the answer to its end. An answer of any status is an answer; errors
    /// are calls without one.
    #[track_caller]
    pub fn post<'a>(
        &'a self,
        uri: &'static str,
        function: &'static str,
        body: &serde_json::Value,
    ) -> impl Future<Output = anyhow::Result<StatusCode>> + Send + 'a {
        let uri = Uri::from_static(uri);
        let span = call_span(&uri, function, Location::caller());
        let body = Full::from(body.to_string());
        in_span(&self.tracer, span, async move {
            let answer = tokio::time::timeout(CALL_MAX, self.send(uri, body)).await;
            let answer = answer.unwrap_or_else(|late| Err(late.into()));
            finish_call(&answer);
            answer
        })
    }

    async fn send(&self, uri: Uri, body: Full<Bytes>) -> anyhow::Result<StatusCode> {
        let mut request = http::Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        Context::map_current(|context| {
            TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(headers));
        });
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        body.map_err(anyhow::Error::from_boxed)
            .context("the answer broke off")?;
        Ok(status)
    }
}

fn call_span(uri: &Uri, function: &'static str, caller: &Location) -> SpanBuilder {
    let mut attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("url.full", uri.to_string()),
        KeyValue::new("server.address", uri.host().unwrap_or_default().to_owned()),
        KeyValue::new("server.port", i64::from(uri.port_u16().unwrap_or(80))),
        KeyValue::new("code.function.name", function),
    ];
    attributes.extend(code(caller));
    SpanBuilder::from_name("POST")
        .with_kind(SpanKind::Client)
        .with_attributes(attributes)
}

/// For a caller, 4xx is a failure too.
fn finish_call(answer: &anyhow::Result<StatusCode>) {
    Context::map_current(|context| {
        let span = context.span();
        match answer {
            Ok(status) => {
                span.set_attribute(status_code(*status));
                if status.is_client_error() || status.is_server_error() {
                    fail(&span, status.as_str(), "");
                }
            }
            Err(error) => fail(&span, "no answer", error),
        }
    });
}

/// The only names there are: a static resolver.
#[derive(Clone)]
struct Hosts(Arc<[(&'static str, SocketAddr)]>);

impl tower::Service<Name> for Hosts {
    type Response = std::iter::Once<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.0.iter().find(|(host, _)| *host == name.as_str());
        ready(match found {
            // The connector keeps this port, because the URI names none.
            Some((_, address)) => Ok(std::iter::once(*address)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
        })
    }
}

/// Where in the source the caller stands.
fn code(caller: &Location) -> [KeyValue; 2] {
    [
        KeyValue::new("code.file.path", caller.file().to_owned()),
        KeyValue::new("code.line.number", i64::from(caller.line())),
    ]
}

fn status_code(status: StatusCode) -> KeyValue {
    KeyValue::new("http.response.status_code", i64::from(status.as_u16()))
}

fn fail(span: &SpanRef, kind: &str, message: impl Display) {
    span.set_attribute(KeyValue::new("error.type", kind.to_owned()));
    span.set_status(Status::error(message.to_string()));
}
