//! A culprit that has seen what most pages have something to say about, for all tests that only look: the
//! demo's planted culprits, and a service that a deployment made slower; so there are alerts, too.

use std::sync::OnceLock;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use crate::support::culprit::{Culprit, data_directory, run};
use crate::support::process::clear_after_our_end;
use crate::support::spans::{CLIENT, SERVER, export, now_ns, request, text, trace_id};
use crate::support::{eventually, http};

/// What pages need in their addresses.
pub struct Story {
    /// `http://127.0.0.1:…` of the UI.
    pub ui: String,
    /// By the name that stands in braces in an address.
    names: Vec<(&'static str, String)>,
}

impl Story {
    /// Told once, when the first test asks.
    pub fn get() -> &'static Story {
        static STORY: OnceLock<Story> = OnceLock::new();
        STORY.get_or_init(|| {
            let (to, from) = std::sync::mpsc::channel();
            // Tests bring their own runtimes, and end in any order.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(async {
                    let (_culprit, story) = tell().await;
                    let _ = to.send(story);
                    std::future::pending::<()>().await
                });
            });
            from.recv().expect("a story; see above why not")
        })
    }

    /// An address on this site: `/endpoints/{endpoint}?q=…`.
    pub fn address(&self, path: &str) -> String {
        let mut address = format!("{}{path}", self.ui);
        for (name, value) in &self.names {
            address = address.replace(&format!("{{{name}}}"), value);
        }
        assert!(
            !address.contains('{'),
            "{address}: the story has no such name"
        );
        address
    }
}

async fn tell() -> (Culprit, Story) {
    let data = data_directory().keep();
    let listen = ["grpc", "http", "ui"].map(|it| format!("--listen-{it}=127.0.0.1:0"));
    let demo: Vec<&str> = ["demo", "--once"]
        .into_iter()
        .chain(listen.iter().map(String::as_str))
        .collect();
    let output = run(&demo, &data);
    assert!(output.status.success(), "{output:?}");
    // Nobody listens there: what cannot be delivered is on the pages, too.
    let culprit = Culprit::serve(&data, &["--alert-webhook=http://127.0.0.1:9/hook"]).await;
    clear_after_our_end(culprit.pid().as_raw().unsigned_abs(), &data);
    for minute in slower_since_a_deployment() {
        export(&culprit.grpc, minute).await.expect("taken");
    }
    say(&culprit.ui).await;
    let ui = culprit.ui.clone();
    let mut names = vec![
        (
            "regression",
            first(&ui, "regressions", "/regressions/0/id").await,
        ),
        ("alert", first(&ui, "alerts", "/live/0/id").await),
        ("bottleneck", bottleneck(&ui, "n-plus-one-query").await),
        ("slow-query", bottleneck(&ui, "slow-query").await),
        ("endpoint", endpoint(&ui, "GET /posts").await),
        ("slower", endpoint(&ui, SLOWER).await),
        ("service", service(&ui).await),
        ("trace", trace(&ui, "GET /posts").await),
        ("other-trace", trace(&ui, "POST /checkout").await),
    ];
    names.extend(statement(&ui).await.map(|it| ("statement", it)));
    (culprit, Story { ui, names })
}

/// What was made slower.
pub const SLOWER: &str = "GET /items/{id}";

/// Minutes that end now: 26 of version 1.0.0, then 12 of 1.1.0, which asks for old prices in every third request.
fn slower_since_a_deployment() -> Vec<ExportTraceServiceRequest> {
    const MS: u64 = 1_000_000;
    let until_ns = now_ns();
    let mut minutes = Vec::new();
    for minute in 0..38_u64 {
        let is_new = minute >= 26;
        let mut spans = Vec::new();
        for nth in 0..50_u64 {
            let id = 1_000 + minute * 50 + nth;
            // Spread as times are: most requests are short, a few are not.
            let spread = id * 7_919 % 101;
            let own_ns = (9 + spread / 10 + spread / 97 * 20) * MS + id * 104_729 % MS;
            let asks = is_new && id.is_multiple_of(3);
            let asks_ns = if asks { 150 * MS + spread * MS / 10 } else { 0 };
            let start_ns = until_ns - (38 - minute) * 60_000 * MS + nth * 1_150 * MS;
            let query_ns = own_ns / 2;
            spans.push(span(
                id,
                1,
                SERVER,
                start_ns,
                own_ns + asks_ns,
                vec![
                    text("http.request.method", "GET"),
                    text("http.route", "/items/{id}"),
                    text("tenant", if asks { "wholesale" } else { "retail" }),
                ],
            ));
            spans.push(query(
                id,
                2,
                start_ns + MS,
                query_ns,
                "select * from items where id = $1",
            ));
            if asks {
                let at_ns = start_ns + 2 * MS + query_ns;
                let sql = "select price from price_changes where item_id = $1 order by changed_at";
                spans.push(query(id, 3, at_ns, asks_ns, sql));
            }
        }
        let mut request = request("catalog", spans);
        let resource = request.resource_spans[0].resource.as_mut().expect("set");
        let version = if is_new { "1.1.0" } else { "1.0.0" };
        resource.attributes.push(text("service.version", version));
        minutes.push(request);
    }
    minutes
}

fn query(trace: u64, id: u64, start_ns: u64, for_ns: u64, sql: &str) -> Span {
    let attributes = vec![
        text("db.system.name", "postgresql"),
        text("db.query.text", sql),
    ];
    span(trace, id, CLIENT, start_ns, for_ns, attributes)
}

fn span(
    trace: u64,
    id: u64,
    kind: i32,
    start_ns: u64,
    for_ns: u64,
    attributes: Vec<KeyValue>,
) -> Span {
    let parent = if id == 1 {
        Vec::new()
    } else {
        1_u64.to_be_bytes().to_vec()
    };
    Span {
        trace_id: trace_id(trace),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent,
        name: if id == 1 { "GET" } else { "query" }.into(),
        kind,
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns + for_ns,
        attributes,
        ..Span::default()
    }
}

/// What people have set: a rule, a silence, and what they think of a finding.
async fn say(ui: &str) {
    let rule = r#"{"when": "finding", "detectors": ["slow-query"], "min-severity": "warning",
        "min-traces": 3, "service": "sh*", "endpoint": "*", "for-seconds": 60,
        "keep-firing-seconds": 0, "repeat-seconds": 0}"#;
    let put = ::http::Request::put(format!("{ui}/api/v1/alert-rules/Slow%20reads?author=Ada"));
    let (status, _, body) = http::send(put, rule.into()).await;
    assert_eq!(status, 200, "{body:?}");
    let silence = r#"{"matchers": [{"label": "service", "value": "batch*"}], "duration": "2h",
        "author": "Grace", "comment": "The night's import is slow, and may be."}"#;
    let (status, _, body) = http::post(
        &format!("{ui}/api/v1/silences"),
        "application/json",
        silence,
    )
    .await;
    assert_eq!(status, 201, "{body:?}");
}

/// A part of an answer of the API, as soon as it has one.
async fn first(ui: &str, what: &str, pointer: &str) -> String {
    let url = format!("{ui}/api/v1/{what}");
    eventually(&format!("{what} with {pointer}"), async || {
        let (status, body) = http::get(&url).await;
        assert_eq!(status, 200, "{url}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        match answer.pointer(pointer) {
            Some(Value::String(it)) => Some(it.clone()),
            Some(it) => Some(it.to_string()),
            None => None,
        }
    })
    .await
}

async fn bottleneck(ui: &str, detector: &str) -> String {
    let what = format!("bottlenecks?detector={detector}");
    first(ui, &what, "/bottlenecks/0/id").await
}

async fn endpoint(ui: &str, name: &str) -> String {
    let answer = http::get(&format!("{ui}/api/v1/endpoints")).await.1;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let all = answer["endpoints"].as_array().expect("a list");
    let it = all.iter().find(|it| it["endpoint"] == name);
    it.unwrap_or_else(|| panic!("no {name} in {answer}"))["id"].to_string()
}

/// The id of a service is in addresses only.
async fn service(ui: &str) -> String {
    let page = http::get(&format!("{ui}/compare")).await.1;
    let at = page
        .find("<option value=\"")
        .expect("services to choose from");
    let value = &page[at + "<option value=\"".len()..];
    value[..value.find('"').expect("closed")].to_owned()
}

/// The statement that requests wait for the longest, if statements have pages.
async fn statement(ui: &str) -> Option<String> {
    let answer = http::get(&format!("{ui}/api/v1/statements")).await.1;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let page = answer.pointer("/statements/0/page")?.as_str()?;
    page.strip_prefix("/statements/").map(str::to_owned)
}

async fn trace(ui: &str, endpoint: &str) -> String {
    let endpoint = endpoint.replace(' ', "%20").replace('/', "%2F");
    let what = format!("traces?service=shop&endpoint={endpoint}");
    first(ui, &what, "/requests/0/trace_id").await
}
