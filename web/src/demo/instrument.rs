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
use axum::body::HttpBody as _;
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
use sqlx::postgres::{PgArguments, PgPool, PgQueryResult, PgRow};
use sqlx::{Arguments as _, Connection as _, FromRow, PgConnection, Postgres};

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
    if let Some(bytes) = response.body().size_hint().exact() {
        span.set_attribute(KeyValue::new("http.response.body.size", bytes as i64));
    }
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

/// An SQL statement.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// The operation and the table it is about: `SELECT authors`.
    pub summary: &'static str,
    /// The function that runs it, which a library in another language reads from the stack.
    pub function: &'static str,
    /// The text, with `$1`, `$2`, ….
    pub text: &'static str,
}

/// What a statement is run with: all that the shop needs.
pub trait Parameters: Sized {
    /// As they are bound.
    fn arguments(self) -> sqlx::Result<PgArguments>;

    /// The numbers among them, as the opt-in attribute `db.query.parameter.<key>`; texts may be
    /// anybody's secrets.
    fn shown(&self) -> Vec<KeyValue>;

    /// The statement with its parameters.
    fn query_as<'q, T>(self, statement: &'static Statement) -> Asked<'q, T>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        match self.arguments() {
            Ok(arguments) => sqlx::query_as_with(statement.text, arguments),
            // Numbers and texts can always be bound; if not, Postgres names what is missing.
            Err(_) => sqlx::query_as_with(statement.text, PgArguments::default()),
        }
    }
}

type Asked<'q, T> = sqlx::query::QueryAs<'q, Postgres, T, PgArguments>;

impl Parameters for i32 {
    fn arguments(self) -> sqlx::Result<PgArguments> {
        let mut arguments = PgArguments::default();
        arguments.add(self).map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    fn shown(&self) -> Vec<KeyValue> {
        vec![KeyValue::new("db.query.parameter.1", i64::from(*self))]
    }
}

impl Parameters for (i32, i32) {
    fn arguments(self) -> sqlx::Result<PgArguments> {
        let mut arguments = self.0.arguments()?;
        arguments.add(self.1).map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    fn shown(&self) -> Vec<KeyValue> {
        let mut shown = self.0.shown();
        shown.push(KeyValue::new("db.query.parameter.2", i64::from(self.1)));
        shown
    }
}

impl Parameters for String {
    fn arguments(self) -> sqlx::Result<PgArguments> {
        let mut arguments = PgArguments::default();
        arguments.add(self).map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    fn shown(&self) -> Vec<KeyValue> {
        Vec::new()
    }
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
    pub fn fetch_all<'a, T>(
        &'a self,
        statement: &'static Statement,
        parameters: impl Parameters,
    ) -> impl Future<Output = sqlx::Result<Vec<T>>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
    {
        let span = self.query_span(statement, &parameters, Location::caller());
        let query = parameters.query_as(statement);
        in_span(&self.tracer, span, async move {
            let answer = query.fetch_all(&self.pool).await;
            finish_query(&answer, Vec::len);
            answer
        })
    }

    /// The one row of the answer, if there is one.
    #[track_caller]
    pub fn fetch_optional<'a, T>(
        &'a self,
        statement: &'static Statement,
        parameters: impl Parameters,
    ) -> impl Future<Output = sqlx::Result<Option<T>>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
    {
        let span = self.query_span(statement, &parameters, Location::caller());
        let query = parameters.query_as(statement);
        in_span(&self.tracer, span, async move {
            let answer = query.fetch_optional(&self.pool).await;
            finish_query(&answer, |row| usize::from(row.is_some()));
            answer
        })
    }

    /// Runs a statement that returns no rows.
    #[track_caller]
    pub fn execute<'a>(
        &'a self,
        statement: &'static Statement,
        parameters: impl Parameters,
    ) -> impl Future<Output = sqlx::Result<PgQueryResult>> + Send + 'a {
        let span = self.query_span(statement, &parameters, Location::caller());
        let arguments = parameters.arguments();
        in_span(&self.tracer, span, async move {
            let query = sqlx::query_with(statement.text, arguments?);
            let answer = query.execute(&self.pool).await;
            finish_query(&answer, |_| 0);
            answer
        })
    }

    /// The one row of the answer, over the next connection of the pool that is free; waiting for it
    /// has a span of its own.
    #[track_caller]
    pub fn fetch_one_in_turn<'a, T>(
        &'a self,
        statement: &'static Statement,
        parameters: impl Parameters,
    ) -> impl Future<Output = sqlx::Result<T>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
    {
        let span = self.query_span(statement, &parameters, Location::caller());
        let query = parameters.query_as(statement);
        async move {
            let acquire = self.connection_span("pool.acquire");
            let mut connection = in_span(&self.tracer, acquire, self.pool.acquire()).await?;
            let query = async {
                let answer = query.fetch_one(&mut *connection).await;
                finish_query(&answer, |_| 1);
                answer
            };
            in_span(&self.tracer, span, query).await
        }
    }

    /// The one row of the answer, over a connection that is opened for it and closed behind it.
    #[track_caller]
    pub fn fetch_one_unpooled<'a, T>(
        &'a self,
        statement: &'static Statement,
        parameters: impl Parameters,
    ) -> impl Future<Output = sqlx::Result<T>> + Send + 'a
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'a,
    {
        let span = self.query_span(statement, &parameters, Location::caller());
        let query = parameters.query_as(statement);
        async move {
            let options = self.pool.connect_options();
            let connect = PgConnection::connect_with(&options);
            let connect = in_span(&self.tracer, self.connection_span("connect"), connect);
            let mut connection = connect.await?;
            let asked = async {
                let answer = query.fetch_one(&mut connection).await;
                finish_query(&answer, |_| 1);
                answer
            };
            let answer = in_span(&self.tracer, span, asked).await;
            connection.close().await?;
            answer
        }
    }

    /// About a connection and not about a statement.
    fn connection_span(&self, name: &'static str) -> SpanBuilder {
        SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", self.name.clone()),
            ])
    }

    fn query_span(
        &self,
        statement: &Statement,
        parameters: &impl Parameters,
        caller: &Location,
    ) -> SpanBuilder {
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
        attributes.extend(parameters.shown());
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
        let mut request = http::Request::new(Full::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(uri);
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let span = call_span(&request, function, Location::caller());
        self.call(request, span)
    }

    /// Gets what is at `uri`, whose path is of the form `template`, and reads it to its end. As
    /// [`HttpClient::post`].
    #[track_caller]
    pub fn get<'a>(
        &'a self,
        uri: String,
        template: &'static str,
        function: &'static str,
    ) -> impl Future<Output = anyhow::Result<StatusCode>> + Send + 'a {
        let caller = Location::caller();
        async move {
            let mut request = http::Request::new(Full::default());
            *request.uri_mut() = uri.parse()?;
            let mut span = call_span(&request, function, caller);
            let template = KeyValue::new("url.template", template);
            span.attributes.get_or_insert_default().push(template);
            self.call(request, span).await
        }
    }

    async fn call(
        &self,
        request: http::Request<Full<Bytes>>,
        span: SpanBuilder,
    ) -> anyhow::Result<StatusCode> {
        in_span(&self.tracer, span, async move {
            let answer = tokio::time::timeout(CALL_MAX, self.send(request)).await;
            let answer = answer.unwrap_or_else(|late| Err(late.into()));
            finish_call(&answer);
            answer
        })
        .await
    }

    async fn send(&self, mut request: http::Request<Full<Bytes>>) -> anyhow::Result<StatusCode> {
        let headers = request.headers_mut();
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

fn call_span(
    request: &http::Request<Full<Bytes>>,
    function: &'static str,
    caller: &Location,
) -> SpanBuilder {
    let (method, uri) = (request.method().to_string(), request.uri());
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.clone()),
        KeyValue::new("url.full", uri.to_string()),
        KeyValue::new("server.address", uri.host().unwrap_or_default().to_owned()),
        KeyValue::new("server.port", i64::from(uri.port_u16().unwrap_or(80))),
        KeyValue::new("code.function.name", function),
    ];
    attributes.extend(code(caller));
    SpanBuilder::from_name(method)
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
