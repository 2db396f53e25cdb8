//! The demo as a collector sees it: real Postgres, real OTLP, and the shape of each story.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;

use super::*;

/// Four decks: enough to see every endpoint several times.
const REQUESTS: usize = 4 * traffic::DECK_SIZE;

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_tells_its_story() {
    let (collector, endpoint) = Collector::start().await;
    let postgres = collector::testing::database().await;
    let options = DemoOptions {
        database: postgres.clone().database("shop_1"),
        otlp_endpoint: endpoint,
        requests_per_second: REQUESTS_PER_SECOND,
        seed: 7,
    };
    let began = std::time::Instant::now();
    let demo = start(options, CancellationToken::new()).await.unwrap();
    println!("started in {:?}", began.elapsed());
    let tally = demo.send(REQUESTS).await.unwrap();
    assert_eq!(tally.answered + tally.failed, REQUESTS);
    demo.stop().await;

    let received = collector.received();
    posts_are_an_n_plus_one(&received);
    searches_are_one_slow_query(&received);
    checkouts_wait_for_the_log_service(&received);
    payments_are_under_the_shops_call(&received);
    exports_serialise(&received);
    wishlists_are_written_one_by_one(&received);
    baskets_are_priced_one_by_one(&received);
    home_asks_one_after_the_other(&received);
    accounts_ask_the_same_four_times(&received);
    reports_ask_many_questions(&received);
    parcels_are_retried_at_once(&received);
    recommendations_are_computed_without_a_span(&received);
    stock_is_asked_over_new_connections(&received);
    invoices_wait_for_the_pool(&received);
    products_are_fine(&received);
    only_requests_are_roots(&received);
    received.print_times();
}

fn posts_are_an_n_plus_one(received: &Received) {
    let entries = received.entries("GET /posts");
    assert_eq!(entries.len(), 12);
    let mut counts = Vec::new();
    for entry in entries {
        let children = received.children(entry);
        assert_eq!(names(&children), ["SELECT posts", "load authors"]);
        let authors = received.children(children[1]);
        assert!(authors.iter().all(|it| it.name == "SELECT authors"));
        assert!(authors.iter().all(|it| it.kind == SpanKind::Client));
        assert!(authors[0].text("db.query.text").contains("a.id = $1"));
        assert_eq!(
            children[0].int("db.response.returned_rows"),
            authors.len() as i64
        );
        assert!((20..=35).contains(&authors.len()));
        assert!(
            children[1].ms() >= 40.0,
            "the loop takes {} ms",
            children[1].ms()
        );
        assert!(children[1].ms() >= 0.6 * entry.ms());
        counts.push(authors.len());
    }
    counts.sort();
    counts.dedup();
    assert!(counts.len() > 1, "always {counts:?} posts");
}

fn searches_are_one_slow_query(received: &Received) {
    let entries = received.entries("GET /products/search");
    assert_eq!(entries.len(), 4);
    for entry in entries {
        let children = received.children(entry);
        assert_eq!(names(&children), ["SELECT products"]);
        assert!(
            children[0].ms() >= 300.0,
            "a search takes {} ms",
            children[0].ms()
        );
        assert!(children[0].ms() >= 0.5 * entry.ms());
        assert!(
            children[0].int("db.response.returned_rows") > 0,
            "the words are those of the catalogue"
        );
    }
}

fn checkouts_wait_for_the_log_service(received: &Received) {
    let entries = received.entries("POST /checkout");
    assert_eq!(entries.len(), 40);
    let (mut queries_ms, mut logging_ms) = (0.0, 0.0);
    for entry in entries {
        let children = received.children(entry);
        let log = children.last().unwrap();
        assert_eq!(
            log.text("url.full"),
            "http://loki.internal/loki/api/v1/push"
        );
        assert_eq!((log.kind, log.name.as_str()), (SpanKind::Client, "POST"));
        assert!(log.ms() >= 160.0);
        assert!(
            received.children(log).is_empty(),
            "the log service is a black box"
        );
        let queries = children.iter().filter(|it| it.has("db.query.text"));
        assert!((2..=3).contains(&queries.clone().count()));
        queries_ms += queries.map(|it| it.ms()).sum::<f64>();
        logging_ms += log.ms();
    }
    assert!(queries_ms < 0.3 * logging_ms);
}

fn payments_are_under_the_shops_call(received: &Received) {
    let entries = received.entries("POST /v1/charges");
    assert_eq!(entries.len(), 40);
    for entry in entries {
        assert_eq!(entry.service, "payments");
        let call = received.parent(entry);
        assert_eq!(
            (call.service.as_str(), call.kind),
            ("shop", SpanKind::Client)
        );
        assert_eq!(call.text("url.full"), "http://payments.internal/v1/charges");
        let status = entry.int("http.response.status_code");
        assert_eq!(call.int("http.response.status_code"), status);
        assert_eq!(call.failed, status >= 400, "status {status}");
        assert_eq!(entry.failed, status >= 500, "status {status}");
        let steps = names(&received.children(entry));
        assert!(["score fraud risk", "authorize card"].starts_with(&steps));
    }
}

fn exports_serialise(received: &Received) {
    let entries = received.entries("GET /export");
    assert_eq!(entries.len(), 4);
    let (mut query_ms, mut serialize_ms) = (0.0, 0.0);
    for entry in entries {
        let children = received.children(entry);
        assert_eq!(names(&children), ["SELECT orders", "json serialize orders"]);
        assert_eq!(children[0].int("db.response.returned_rows"), 3000);
        query_ms += children[0].ms();
        serialize_ms += children[1].ms();
    }
    assert!(serialize_ms > query_ms);
}

fn wishlists_are_written_one_by_one(received: &Received) {
    for entry in received.entries("PUT /wishlists/{id}") {
        let children = received.children(entry);
        assert_eq!(children[0].name, "DELETE wishlist_items");
        let inserts = &children[1..];
        assert!(inserts.iter().all(|it| it.name == "INSERT wishlist_items"));
        assert!((12..25).contains(&inserts.len()));
        assert_eq!(
            inserts[0].text("db.query.parameter.1"),
            children[0].text("db.query.parameter.1")
        );
    }
}

fn baskets_are_priced_one_by_one(received: &Received) {
    for entry in received.entries("GET /baskets/{id}") {
        let children = received.children(entry);
        let calls = &children[1..];
        assert!((12..=20).contains(&calls.len()));
        for call in calls {
            assert_eq!(call.text("url.template"), "/v1/prices/{id}");
            let answers = received.children(call);
            assert_eq!(names(&answers), ["GET /v1/prices/{id}"]);
            assert_eq!(answers[0].service, "pricing");
        }
        assert!(calls.windows(2).all(|it| it[0].end_ns <= it[1].start_ns));
    }
}

fn home_asks_one_after_the_other(received: &Received) {
    for entry in received.entries("GET /home") {
        let calls = received.children(entry);
        assert_eq!(names(&calls), ["GET", "GET", "GET"]);
        assert!(calls.windows(2).all(|it| it[0].end_ns <= it[1].start_ns));
        assert!(calls.iter().all(|it| it.ms() >= 60.0));
    }
}

fn accounts_ask_the_same_four_times(received: &Received) {
    for entry in received.entries("GET /accounts/{id}") {
        let queries = received.children(entry);
        assert_eq!(queries.len(), 4);
        let asked = |it: &&Seen| {
            (
                it.text("db.query.text").to_owned(),
                it.int("db.query.parameter.1"),
            )
        };
        assert!(queries.iter().all(|it| asked(it) == asked(&queries[0])));
    }
}

fn reports_ask_many_questions(received: &Received) {
    for entry in received.entries("GET /report") {
        let queries = received.children(entry);
        let texts = queries.iter().map(|it| it.text("db.query.text"));
        let texts: std::collections::BTreeSet<&str> = texts.collect();
        assert_eq!((queries.len(), texts.len()), (34, 34));
        assert!(
            queries
                .iter()
                .all(|it| it.int("db.response.returned_rows") == 1)
        );
    }
}

fn parcels_are_retried_at_once(received: &Received) {
    let entries = received.entries("POST /parcels");
    assert_eq!(entries.len(), 12);
    let mut retried = 0;
    for entry in entries {
        let calls = received.children(entry);
        let (last, before) = calls.split_last().unwrap();
        assert!(before.iter().all(|it| it.failed));
        assert!(!last.failed || calls.len() == 4);
        retried += usize::from(calls.len() > 2);
    }
    assert!(retried > 0, "no label failed twice");
}

fn recommendations_are_computed_without_a_span(received: &Received) {
    for entry in received.entries("GET /recommendations") {
        assert!(received.children(entry).is_empty());
        assert!(entry.ms() >= 260.0);
    }
}

fn stock_is_asked_over_new_connections(received: &Received) {
    let (mut connects_ms, mut entries_ms) = (0.0, 0.0);
    for entry in received.entries("GET /stock/{id}") {
        let children = received.children(entry);
        let expected = [
            "connect",
            "SELECT cart_lines",
            "connect",
            "SELECT basket_lines",
        ];
        assert_eq!(names(&children), expected);
        connects_ms += children[0].ms() + children[2].ms();
        entries_ms += entry.ms();
    }
    assert!(
        connects_ms > 0.2 * entries_ms,
        "{connects_ms} of {entries_ms} ms"
    );
}

fn invoices_wait_for_the_pool(received: &Received) {
    let (mut waits_ms, mut queries_ms) = (0.0, 0.0);
    for entry in received.entries("GET /invoices/{customer}") {
        let children = received.children(entry);
        let (waits, queries): (Vec<&Seen>, Vec<&Seen>) =
            children.iter().partition(|it| it.name == "pool.acquire");
        assert_eq!((waits.len(), queries.len()), (3, 3));
        waits_ms += waits.iter().map(|it| it.ms()).sum::<f64>();
        queries_ms += queries.iter().map(|it| it.ms()).sum::<f64>();
    }
    // The second waits for the first, and the third for both: as long as all of them on the average.
    assert!(
        waits_ms > 0.5 * queries_ms,
        "{waits_ms} and {queries_ms} ms"
    );
}

fn products_are_fine(received: &Received) {
    let entries = received.entries("GET /products/{id}");
    assert_eq!(entries.len(), 60);
    for entry in entries {
        assert_eq!(names(&received.children(entry)), ["SELECT products"]);
        assert_eq!(entry.int("http.response.status_code"), 200);
    }
}

/// Also: nobody traces the exporter, the traffic or the log service.
fn only_requests_are_roots(received: &Received) {
    let roots = received.spans.values().filter(|it| it.parent.is_empty());
    let roots = Vec::from_iter(roots);
    assert_eq!(roots.len(), REQUESTS);
    assert!(roots.iter().all(|it| it.kind == SpanKind::Server));
    for span in received.spans.values() {
        assert!(span.parent.is_empty() || received.spans.contains_key(&span.parent));
        assert_eq!(span.resource["service.namespace"], "demo");
        assert_eq!(span.resource["deployment.environment.name"], "demo");
        assert_eq!(span.resource["telemetry.sdk.language"], "rust");
    }
}

#[tokio::test]
async fn the_database_is_filled_once_for_each_version() {
    let postgres = collector::testing::database().await;
    let options = postgres.clone().database("shop_2");
    let db = data::open(&options).await.unwrap();
    let made = products_table(&db).await;
    let db = data::open(&options).await.unwrap();
    assert_eq!(products_table(&db).await, made);

    let older = "update contents set version = version - 1";
    sqlx::raw_sql(older).execute(&db).await.unwrap();
    let db = data::open(&options).await.unwrap();
    assert_ne!(products_table(&db).await, made);
    let products: i64 = sqlx::query_scalar("select count(*) from products")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(products, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_until_it_is_told_to_stop() {
    let (collector, endpoint) = Collector::start().await;
    let postgres = collector::testing::database().await;
    let options = DemoOptions {
        database: postgres.clone().database("shop_3"),
        otlp_endpoint: endpoint,
        requests_per_second: 100.0,
        seed: 7,
    };
    let shutdown = CancellationToken::new();
    let mut demo = start(options, shutdown.clone()).await.unwrap();
    demo.keep_sending();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while collector.received().spans.len() < 200 {
        assert!(tokio::time::Instant::now() < deadline, "no traffic");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shutdown.cancel();
    let tally = demo.stop().await;
    assert_eq!(tally.unanswered, 0);
    let received = collector.received();
    let requests = received.spans.values().filter(|it| it.parent.is_empty());
    // Those on which a customer of a very busy machine gave up are traced too.
    assert_eq!(
        requests.count(),
        tally.answered + tally.failed + tally.given_up
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_version_takes_over_from_another_and_nothing_fails() {
    let (collector, endpoint) = Collector::start().await;
    let postgres = collector::testing::database().await;
    let options = DemoOptions {
        database: postgres.clone().database("shop_4"),
        otlp_endpoint: endpoint,
        requests_per_second: 20.0,
        seed: 7,
    };
    let mut demo = start(options, CancellationToken::new()).await.unwrap();
    demo.keep_sending();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let reduced_products_of = async |instance: usize| {
        while collector.received().reduced_products(instance) < 3 {
            assert!(tokio::time::Instant::now() < deadline, "no traffic");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    reduced_products_of(0).await;
    demo.deploy(Version::V1_1_0).await.unwrap();
    reduced_products_of(1).await;
    demo.deploy(Version::V1_0_0).await.unwrap();
    reduced_products_of(2).await;
    let tally = demo.stop().await;

    let received = collector.received();
    received.print_times();
    assert_eq!(tally.unanswered, 0);
    let roots = received.spans.values().filter(|it| it.parent.is_empty());
    assert_eq!(
        roots.count(),
        tally.answered + tally.failed,
        "no span is lost"
    );
    let by_instance = received.products_by_instance();
    let versions = by_instance
        .iter()
        .map(|it| it[0].resource["service.version"].as_str());
    assert_eq!(Vec::from_iter(versions), ["1.0.0", "1.1.0", "1.0.0"]);
    for product in by_instance.iter().flatten() {
        products_are_as_in_their_version(&received, product);
    }
    let others = received.spans.values().filter(|it| it.service != "shop");
    let others = others.map(|it| (&it.service, &it.resource["service.instance.id"]));
    let others = others.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(
        others.len(),
        3,
        "payments, pricing and shipping stay as they are"
    );
}

fn products_are_as_in_their_version(received: &Received, product: &Seen) {
    assert_eq!(product.int("http.response.status_code"), 200);
    let children = received.children(product);
    let asks_for_more = product.resource["service.version"] == "1.1.0" && product.is_reduced();
    let expected: &[&str] = match asks_for_more {
        true => &["SELECT products", "SELECT price_log"],
        false => &["SELECT products"],
    };
    assert_eq!(names(&children), expected);
    if asks_for_more {
        let ms = children[1].ms();
        // Next to nothing with an index; the bound leaves room for machines that are faster than ours.
        assert!(ms >= 25.0, "the new query takes {ms} ms");
    }
}

#[tokio::test]
async fn a_collector_that_does_not_listen_is_an_error() {
    let pipeline = Pipeline::new("http://127.0.0.1:9", "shop", "1.0.0").unwrap();
    let span = opentelemetry::trace::SpanBuilder::from_name("lost");
    instrument::in_span(&pipeline.tracer(), span, async {}).await;
    let error = pipeline.flush().await.unwrap_err();
    assert!(error.to_string().contains("does it listen?"), "{error:#}");
    pipeline.shutdown().await;
}

/// Which table it is: another number when it was made again.
async fn products_table(db: &sqlx::PgPool) -> i64 {
    sqlx::query_scalar("select 'products'::regclass::oid::bigint")
        .fetch_one(db)
        .await
        .unwrap()
}

/// A collector that only remembers.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    async fn start() -> (Collector, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::default();
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        (collector, endpoint)
    }

    fn received(&self) -> Received {
        let mut spans = BTreeMap::new();
        for resource_spans in self
            .0
            .lock()
            .unwrap()
            .iter()
            .flat_map(|it| &it.resource_spans)
        {
            let resource = resource_spans.resource.as_ref().unwrap();
            let resource = attributes(&resource.attributes);
            for span in resource_spans.scope_spans.iter().flat_map(|it| &it.spans) {
                let span = Seen::new(span, &resource);
                assert!(spans.insert(span.id.clone(), span).is_none());
            }
        }
        Received { spans }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// All spans, by id.
struct Received {
    spans: BTreeMap<Vec<u8>, Seen>,
}

impl Received {
    fn entries(&self, name: &str) -> Vec<&Seen> {
        let entries = self.spans.values();
        let is_entry = |it: &&Seen| it.kind == SpanKind::Server && it.name == name;
        Vec::from_iter(entries.filter(is_entry))
    }

    /// By start.
    fn children(&self, parent: &Seen) -> Vec<&Seen> {
        let children = self.spans.values().filter(|it| it.parent == parent.id);
        let mut children = Vec::from_iter(children);
        children.sort_by_key(|it| it.start_ns);
        assert!(children.iter().all(|it| it.trace == parent.trace));
        children
    }

    fn parent(&self, child: &Seen) -> &Seen {
        &self.spans[&child.parent]
    }

    /// The requests for products of each instance of the shop; both by time.
    fn products_by_instance(&self) -> Vec<Vec<&Seen>> {
        let mut instances = BTreeMap::<&str, Vec<&Seen>>::new();
        for product in self.entries("GET /products/{id}") {
            let instance = &product.resource["service.instance.id"];
            instances.entry(instance).or_default().push(product);
        }
        let mut instances = Vec::from_iter(instances.into_values());
        for products in &mut instances {
            products.sort_by_key(|it| it.start_ns);
        }
        instances.sort_by_key(|it| it[0].start_ns);
        instances
    }

    /// How many requests for them an instance of the shop has answered.
    fn reduced_products(&self, instance: usize) -> usize {
        let by_instance = self.products_by_instance();
        let products = by_instance.get(instance).into_iter().flatten();
        products.filter(|it| it.is_reduced()).count()
    }

    /// For whoever tunes the demo: `cargo test … -- --nocapture`.
    fn print_times(&self) {
        let mut times = BTreeMap::<(&str, &str), Vec<f64>>::new();
        for span in self.spans.values() {
            let key = (span.service.as_str(), span.name.as_str());
            times.entry(key).or_default().push(span.ms());
        }
        for ((service, name), mut times) in times {
            times.sort_by(f64::total_cmp);
            let (n, p50, max) = (times.len(), times[times.len() / 2], times[times.len() - 1]);
            println!("{service:9} {name:24} {n:5} spans, p50 {p50:8.2} ms, max {max:8.2} ms");
        }
    }
}

fn names<'a>(spans: &[&'a Seen]) -> Vec<&'a str> {
    spans.iter().map(|it| it.name.as_str()).collect()
}

/// A span as the collector saw it.
struct Seen {
    service: String,
    resource: BTreeMap<String, String>,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    kind: SpanKind,
    name: String,
    start_ns: u64,
    end_ns: u64,
    failed: bool,
    attributes: BTreeMap<String, String>,
}

impl Seen {
    fn new(span: &Span, resource: &BTreeMap<String, String>) -> Self {
        Seen {
            service: resource["service.name"].clone(),
            resource: resource.clone(),
            trace: span.trace_id.clone(),
            id: span.span_id.clone(),
            parent: span.parent_span_id.clone(),
            kind: span.kind(),
            name: span.name.clone(),
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            failed: span
                .status
                .as_ref()
                .is_some_and(|it| it.code() == SpanStatus::Error),
            attributes: attributes(&span.attributes),
        }
    }

    fn ms(&self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e6
    }

    /// As shop.sql says it of a product's number.
    fn is_reduced(&self) -> bool {
        let (_, id) = self.text("url.path").rsplit_once('/').unwrap();
        id.parse::<u32>().unwrap() % 8 == 5
    }

    fn has(&self, key: &str) -> bool {
        self.attributes.contains_key(key)
    }

    fn text(&self, key: &str) -> &str {
        &self.attributes[key]
    }

    fn int(&self, key: &str) -> i64 {
        self.attributes[key].parse().unwrap()
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    let pairs = pairs.iter();
    pairs
        .filter_map(|pair| Some((pair.key.clone(), text(pair)?)))
        .collect()
}
