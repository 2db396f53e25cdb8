//! A shop over an hour of its own time: what it sends goes the whole way into the roll-ups, then the watch looks at it
//! every half minute of that time.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::assembly::{self, Idle};
use crate::journal::Journal;
use crate::store::leases::{Process, REVIEW_SHARD};

const MS: f64 = 1e6;

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    /// 0 to 1 (Marsaglia's xorshift).
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: the sum of twelve uniform ones.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.roll()).sum::<f64>() - 6.0
    }
}

/// What the shop does in one minute.
#[derive(Clone, Copy)]
struct Minute {
    version: &'static str,
    requests: usize,
    /// All requests take so many times as long as usual.
    slower: f64,
    /// This share of requests asks for old prices, too, for 150 ms.
    asks_for_prices: f64,
    /// Only pods of this number and above do.
    from_pod: u64,
    /// Endpoints that the requests go to in turn.
    endpoints: u64,
    /// One of ten requests is of the bad version.
    canary: bool,
}

const ORDINARY: Minute = Minute {
    version: "1.0.0",
    requests: 100,
    slower: 1.0,
    asks_for_prices: 0.0,
    from_pod: 0,
    endpoints: 1,
    canary: false,
};

const ROUTES: [&str; 5] = [
    "/products/{id}",
    "/carts",
    "/customers",
    "/orders",
    "/prices",
];

struct Shop {
    dice: Dice,
    /// Begins at this minute.
    from: i32,
    sent: Vec<Vec<u8>>,
    traces: u64,
}

impl Shop {
    fn new(seed: u64) -> Shop {
        Shop {
            dice: Dice(seed),
            from: minute_of(now_ms()) - 180,
            sent: Vec::new(),
            traces: 0,
        }
    }

    fn minutes(&self) -> i32 {
        self.sent.len() as i32
    }

    fn works(mut self, minutes: usize, minute: Minute) -> Shop {
        for _ in 0..minutes {
            let start_ms = i64::from(self.from + self.minutes()) * 60_000;
            let requests: Vec<ResourceSpans> = (0..minute.requests)
                .map(|_| self.request(start_ms, minute))
                .collect();
            let request = ExportTraceServiceRequest {
                resource_spans: requests,
            };
            self.sent.push(request.encode_to_vec());
        }
        self
    }

    fn request(&mut self, minute_ms: i64, minute: Minute) -> ResourceSpans {
        self.traces += 1;
        let minute = match minute.canary && self.traces.is_multiple_of(10) {
            true => Minute {
                requests: minute.requests,
                ..BAD
            },
            false => minute,
        };
        let pod = self.traces % 3;
        let start_ns = minute_ms as f64 * MS + self.dice.roll() * 59e9;
        let usual_ns = 15.0 * MS * (0.3 * self.dice.normal()).exp() * minute.slower;
        let asks = pod >= minute.from_pod && self.dice.roll() < minute.asks_for_prices;
        let prices_ns = match asks {
            true => 150.0 * MS * (0.1 * self.dice.normal()).exp(),
            false => 0.0,
        };
        let trace_id = [&[7_u8; 8][..], &self.traces.to_be_bytes()].concat();
        let span = |id: u8, name: &str, from_ns: f64, for_ns: f64, attributes| Span {
            trace_id: trace_id.clone(),
            span_id: vec![id; 8],
            parent_span_id: if id == 1 { Vec::new() } else { vec![1; 8] },
            name: name.into(),
            kind: if id == 1 { 2 } else { 3 },
            start_time_unix_nano: from_ns as u64,
            end_time_unix_nano: (from_ns + for_ns) as u64,
            attributes,
            ..Span::default()
        };
        let query =
            |text: &str| attributes(&[("db.system.name", "postgresql"), ("db.query.text", text)]);
        let entry = attributes(&[
            ("http.request.method", "GET"),
            (
                "http.route",
                ROUTES[(self.traces / 3 % minute.endpoints) as usize],
            ),
        ]);
        let mut spans = vec![
            span(1, "GET", start_ns, usual_ns + prices_ns, entry),
            span(
                2,
                "query",
                start_ns + 1e6,
                usual_ns / 2.0,
                query("select * from products where id = $1"),
            ),
        ];
        if prices_ns > 0.0 {
            let text = "select price from price_changes where product_id = $1";
            spans.push(span(
                3,
                "query",
                start_ns + 1e6 + usual_ns / 2.0,
                prices_ns,
                query(text),
            ));
        }
        let resource = attributes(&[
            ("service.name", "shop"),
            ("service.version", minute.version),
            ("service.instance.id", &format!("{}-{pod}", minute.version)),
        ]);
        ResourceSpans {
            resource: Some(Resource {
                attributes: resource,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }
    }

    /// Everything is stored as if it had come in time, and the watch looks at it every half minute. What it says:
    /// `(minute, words)`.
    async fn watched(self) -> (Store, Vec<(i32, String)>) {
        let store = crate::testing::store().await;
        let journal = Journal::start(store.clone());
        for request in &self.sent {
            let accepted = crate::otlp::accept(request.clone().into(), 1).unwrap();
            journal.append(accepted.batch).await.unwrap();
        }
        assemble(&store).await;
        let lease = |shard| store.acquire_lease(shard, Uuid::now_v7(), true);
        let review = lease(REVIEW_SHARD).await.unwrap().unwrap();
        let lease = lease(REGRESSION_SHARD).await.unwrap().unwrap();
        let mut watch = Watch::new(Settings::default());
        let mut said = Vec::new();
        for half in 0..2 * (self.minutes() + 2) {
            let now_ms = i64::from(self.from) * 60_000 + i64::from(half) * 30_000;
            crate::deployments::notice(&store, &review, now_ms)
                .await
                .unwrap();
            look(&store, &lease, &mut watch, now_ms).await.unwrap();
            news(&store, half / 2, &mut said).await;
        }
        (store, said)
    }
}

async fn news(store: &Store, minute: i32, said: &mut Vec<(i32, String)>) {
    let all: Vec<(String, String)> = sqlx::query_as(
        "select action, detail from culprit.audit where subject = 'regression' order by id",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    for (action, detail) in all.into_iter().skip(said.len()) {
        said.push((minute, format!("{action}: {detail}")));
    }
}

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let pairs = pairs.iter().map(|(key, value)| KeyValue {
        key: (*key).into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue((*value).into())),
        }),
        ..KeyValue::default()
    });
    pairs.collect()
}

async fn assemble(store: &Store) {
    let options = assembly::Options {
        idle: Idle {
            idle_after: Duration::from_millis(60),
            early_after: Duration::from_millis(30),
            carry_after: Duration::from_millis(90),
            ..Idle::default()
        },
        process: Process::new(true),
        ..Default::default()
    };
    let shutdown = CancellationToken::new();
    let run = assembly::run(store.clone(), options, Arc::default(), shutdown.clone());
    let task = tokio::spawn(run);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.journal_backlog().await.unwrap().rows > 0 {
        assert!(Instant::now() < deadline, "the journal is not consumed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shutdown.cancel();
    task.await.unwrap();
}

const BAD: Minute = Minute {
    version: "1.1.0",
    asks_for_prices: 0.1,
    ..ORDINARY
};

#[tokio::test]
async fn a_deployment_that_slows_the_tail_is_found_explained_and_over_after_a_roll_back() {
    let shop = Shop::new(1)
        .works(20, ORDINARY)
        .works(15, BAD)
        .works(12, ORDINARY);
    let (store, said) = shop.watched().await;
    let words: Vec<&str> = said.iter().map(|it| it.1.as_str()).collect();
    assert_eq!(said.len(), 2, "{words:?}");
    assert!(words[0].starts_with("opened: p9"), "{words:?}");
    assert!(
        words[0].contains(" of GET /products/{id} went from ")
            && words[0].ends_with(" after 1.1.0")
    );
    // Deployed in minute 20; two minutes of warm-up; 200 requests are five more.
    assert!((22..=30).contains(&said[0].0), "{said:?}");
    assert!(words[1].starts_with("resolved: "), "{words:?}");
    assert!((36..=47).contains(&said[1].0), "{said:?}");

    let (kind, deployment, explanation): (
        String,
        Option<i32>,
        sqlx::types::Json<evidence::Explanation>,
    ) = sqlx::query_as("select kind, deployment_id, explanation from culprit.regressions")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(kind, "deployment");
    assert!(deployment.is_some());
    let first = &explanation.contributors[0];
    assert!(
        first.path.last().unwrap().contains("price_changes"),
        "{first:?}"
    );
    assert_eq!(first.category, "database");
    assert!(
        first.per_request_ns.1 > 100_000_000 && first.per_request_ns.0 == 0,
        "{first:?}"
    );
    assert!((0.05..0.16).contains(&first.share), "{first:?}");
    assert_eq!(
        (first.examples.len(), explanation.base_examples.len()),
        (3, 3)
    );
}

#[tokio::test]
async fn nothing_is_said_of_an_unchanged_bursty_hour() {
    let mut shop = Shop::new(2);
    for minute in 0..75 {
        // Busier and quieter, faster and slower; one bad minute in fifteen.
        let load = 60.0 + 30.0 * (f64::from(minute) / 7.0).sin();
        let bad = if minute % 15 == 9 { 3.0 } else { 1.0 };
        let slower = bad * (0.15 * shop.dice.normal()).exp();
        shop = shop.works(
            1,
            Minute {
                requests: load as usize,
                slower,
                ..ORDINARY
            },
        );
    }
    let (_, said) = shop.watched().await;
    assert_eq!(said, []);
}

#[tokio::test]
async fn without_a_version_a_slower_endpoint_is_found_all_the_same() {
    let nameless = Minute {
        version: "",
        ..ORDINARY
    };
    let slow = Minute {
        slower: 4.0,
        ..nameless
    };
    let (store, said) = Shop::new(3)
        .works(60, nameless)
        .works(12, slow)
        .watched()
        .await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!((60..=72).contains(&said[0].0), "{said:?}");
    let (kind, began): (String, i64) = sqlx::query_as(
        "select kind, (extract(epoch from began_at) / 60)::bigint from culprit.regressions",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert_eq!(kind, "sudden");
    let since = began - i64::from(minute_of(now_ms()) - 180);
    assert!((58..=62).contains(&since), "{since}");
}

#[tokio::test]
async fn one_ill_machine_is_no_regression() {
    let ill = Minute {
        asks_for_prices: 0.2,
        from_pod: 2,
        ..ORDINARY
    };
    let (_, said) = Shop::new(4)
        .works(60, ORDINARY)
        .works(12, ill)
        .watched()
        .await;
    assert_eq!(said, []);
}

#[tokio::test]
async fn a_good_deployment_is_no_regression() {
    let good = Minute {
        version: "1.1.0",
        slower: 0.9,
        ..ORDINARY
    };
    let (store, said) = Shop::new(5)
        .works(20, ORDINARY)
        .works(20, good)
        .watched()
        .await;
    assert_eq!(said, []);
    // It was looked at, and not more often than is allowed.
    let looks: i16 = sqlx::query_scalar("select looks from culprit.deployment_looks")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert!((1..=3).contains(&looks));
}

#[tokio::test]
async fn when_everything_becomes_slower_at_once_three_are_told() {
    let all = Minute {
        version: "",
        requests: 150,
        endpoints: 5,
        ..ORDINARY
    };
    let slow = Minute { slower: 5.0, ..all };
    let shop = Shop::new(6).works(60, all).works(12, slow);
    let (store, said) = shop.watched().await;
    assert_eq!(said.len(), 5, "{said:?}");
    let severities: Vec<i16> =
        sqlx::query_scalar("select severity from culprit.regressions order by severity desc")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert!(severities[..3].iter().all(|it| *it > 0), "{severities:?}");
    assert_eq!(severities[3..], [0, 0]);
}

/// Among all requests its slow ones would not be seen: the canary is judged by its own.
#[tokio::test]
async fn a_bad_canary_stays_open_until_it_is_withdrawn() {
    let many = Minute {
        requests: 400,
        ..ORDINARY
    };
    let canary = Minute {
        canary: true,
        ..many
    };
    let shop = Shop::new(7)
        .works(20, many)
        .works(25, canary)
        .works(10, many);
    let (_, said) = shop.watched().await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].1.ends_with(" after 1.1.0"), "{said:?}");
    assert!((22..=44).contains(&said[0].0), "{said:?}");
    assert!(
        said[1].1.starts_with("resolved: ") && said[1].0 >= 48,
        "{said:?}"
    );
}
