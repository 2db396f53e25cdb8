//! Against a real database and a real receiver.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::Pace;
use super::look::Watch;
use super::secret::SecretText;
use super::*;
use crate::clock::now_ms;
use crate::store::leases::{Lease, REVIEW_SHARD};
use crate::store::outbox::Replayed;
use crate::store::silences::{Matcher, Silence, SilenceKind};
use crate::store::{Store, encoding};
use crate::testing;

/// What is waited for happens within this time, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !is_so().await {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How a receiver answers; when the list is at its end: 204.
#[derive(Clone, Debug)]
enum Answer {
    Status(u16),
    TooMany { retry_after_s: u32 },
    Redirect,
    Hang,
}

#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    /// A receiver that listens, and its URL.
    async fn start(answers: impl IntoIterator<Item = Answer>) -> (String, Receiver) {
        let receiver = Receiver {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            got: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/hook", post(Receiver::receive))
            .route("/api/v2/alerts", post(Receiver::receive))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, receiver)
    }

    async fn receive(
        Extract(receiver): Extract<Receiver>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let id = headers.get("webhook-id");
        let id = id.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
        let body = serde_json::from_slice(&body).expect("JSON");
        receiver.got.lock().unwrap().push((id, body));
        let answer = receiver.answers.lock().unwrap().pop_front();
        match answer.unwrap_or(Answer::Status(204)) {
            Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
            Answer::TooMany { retry_after_s } => (
                StatusCode::TOO_MANY_REQUESTS,
                [("retry-after", retry_after_s.to_string())],
            )
                .into_response(),
            Answer::Redirect => {
                (StatusCode::FOUND, [("location", "http://127.0.0.1:9/")]).into_response()
            }
            Answer::Hang => std::future::pending().await,
        }
    }

    fn got(&self) -> Vec<(String, Value)> {
        self.got.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    fn ids(&self) -> BTreeSet<String> {
        self.got().into_iter().map(|it| it.0).collect()
    }

    fn types(&self) -> Vec<String> {
        let got = self.got().into_iter();
        got.map(|(_, body)| body["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A culprit whose clock the test moves.
struct World {
    store: Store,
    lease: Lease,
    watch: Watch,
    now_ms: i64,
}

impl World {
    async fn new() -> World {
        World::on(testing::store().await).await
    }

    async fn on(store: Store) -> World {
        // Only the rules: what has no channels would take those of a worker away.
        let rules = crate::alert::defaults::rules();
        store.sync_rules(Source::BuiltIn, &rules, "").await.unwrap();
        let lease = store
            .acquire_lease(REVIEW_SHARD, Uuid::now_v7(), true)
            .await;
        World {
            lease: lease.unwrap().unwrap(),
            store,
            watch: Watch::new("https://culprit.example".into(), Pace::default()),
            now_ms: now_ms(),
        }
    }

    async fn look(&mut self) {
        self.watch
            .look(&self.store, &self.lease, self.now_ms)
            .await
            .unwrap();
    }

    /// Looks each ten seconds for so long.
    async fn go(&mut self, seconds: i64) {
        for _ in 0..seconds / 10 {
            self.now_ms += 10_000;
            self.look().await;
        }
    }

    /// A channel that is known to the database; nobody delivers.
    async fn channel(&self, name: &str, kind: &str) {
        self.run(&format!(
            "insert into culprit.alert_channels (name, kind, source, settings, shown)
             values ('{name}', '{kind}', 'file', '{{}}', '')"
        ))
        .await;
    }

    async fn run(&self, sql: &str) {
        run(&self.store, sql).await;
    }

    /// Channel, event and number of incidents of every message, in order.
    async fn outbox(&self) -> Vec<(String, String, i32)> {
        sqlx::query_as(
            "select channel, event, cardinality(incidents) from culprit.outbox order by sequence",
        )
        .fetch_all(self.store.pool())
        .await
        .unwrap()
    }

    async fn incidents(&self) -> Vec<(String, String)> {
        sqlx::query_as("select state, notified from culprit.incidents order by started_at, id")
            .fetch_all(self.store.pool())
            .await
            .unwrap()
    }

    async fn bodies(&self) -> Vec<Notification> {
        let bodies: Vec<Value> =
            sqlx::query_scalar("select body from culprit.outbox order by sequence")
                .fetch_all(self.store.pool())
                .await
                .unwrap();
        let bodies = bodies.into_iter();
        bodies
            .map(|it| serde_json::from_value(it).unwrap())
            .collect()
    }
}

async fn run(store: &Store, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(store.pool())
        .await
        .unwrap();
}

/// A finding as the review would have written it. Services are numbered, so that groups differ.
async fn finding(store: &Store, id: i32, service: i32, state: &str) {
    let evidence = json!({"count": 20, "sum_ns": 40_000_000, "saved_ns": 38_000_000,
        "statement": "select * from authors where id = ?", "code": "posts.py:31",
        "explanation": "20 times the same.", "fix": "Load them together."});
    run(
        store,
        &format!(
            // Watched for a while: what is found is news.
            "insert into culprit.services (id, namespace, name, environment, first_seen) overriding system value
                 values ({service}, '', 'shop{service}', 'production', now() - interval '1 hour')
                 on conflict do nothing;
             insert into culprit.endpoints (id, service_id, name) overriding system value
                 values ({service}, {service}, 'GET /posts') on conflict do nothing;
             insert into culprit.finding_keys (id, digest, fingerprint, detector, service_id, endpoint_id)
                 overriding system value
                 values ({id}, '\\x{id:08x}', 'f{id}', 'n-plus-one-query', {service}, {service});
             insert into culprit.findings (id, state, detector, service_id, endpoint_id, severity, confidence,
                 title, first_seen, last_seen, traces, evidence)
                 values ({id}, '{state}', 'n-plus-one-query', {service}, {service}, 1, 0.9,
                     '20 times select authors', now(), now(), 3, '{evidence}')"
        ),
    )
    .await;
}

async fn state_of_finding(store: &Store, id: i32, state: &str) {
    run(
        store,
        &format!("update culprit.findings set state = '{state}' where id = {id}"),
    )
    .await;
}

fn webhook(name: &str, url: &str) -> Arc<Channel> {
    let settings = Settings::Webhook {
        url: SecretText::new(url),
        secret: None,
    };
    Arc::new(Channel::open(name, &settings, &Trust::Trusted).unwrap())
}

/// A worker with these channels, which are introduced.
async fn worker(store: &Store, channels: &[Arc<Channel>]) -> (JoinHandle<()>, CancellationToken) {
    let alerting = Alerting {
        channels: channels
            .iter()
            .map(|it| (Arc::clone(it), Source::Flag))
            .collect(),
        ..Alerting::default()
    };
    introduce(store, &alerting).await.unwrap();
    let shutdown = CancellationToken::new();
    let stats = Arc::default();
    let task = tokio::spawn(worker::run(
        store.clone(),
        alerting,
        stats,
        shutdown.clone(),
    ));
    (task, shutdown)
}

/// Failed messages need not wait for their schedule.
async fn hurry(store: &Store) {
    run(
        store,
        "update culprit.outbox set next_attempt_at = now() where attempts > 0
             and delivered_at is null and dead_at is null;
         update culprit.alert_channels set paused_until = null",
    )
    .await;
}

#[tokio::test]
async fn a_new_finding_is_told_once_and_its_end_too() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([Answer::Status(500)]).await;
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    finding(&world.store, 1, 1, "new").await;
    world.go(60).await;
    eventually("the second attempt", async || {
        hurry(&world.store).await;
        receiver.count() == 2
    })
    .await;
    state_of_finding(&world.store, 1, "open").await;
    world.go(60).await;
    state_of_finding(&world.store, 1, "resolved").await;
    world.go(60).await;
    eventually("the end", async || receiver.count() == 3).await;
    let got = receiver.got();
    assert_eq!(got[0].0, got[1].0, "one id in both attempts");
    assert_eq!(
        receiver.types()[1..],
        [
            "bottleneck.n_plus_one_query.opened",
            "bottleneck.n_plus_one_query.resolved"
        ]
    );
    let (opened, resolved) = (&got[1].1["data"], &got[2].1["data"]);
    assert_eq!(opened["incident"], resolved["incident"]);
    assert_eq!(opened["id"], 1);
    assert_eq!(opened["count"], 20);
    assert_eq!(opened["statement"], "select * from authors where id = ?");
    assert_eq!(opened["url"], "https://culprit.example/bottlenecks/1");
    assert_eq!(
        world.incidents().await,
        [("resolved".into(), "resolved".into())]
    );
    // What the receiver has answered is written down a moment later.
    eventually("what became of three attempts", async || {
        let outcomes: Vec<(i32, String)> =
            sqlx::query_as("select attempt, outcome from culprit.deliveries order by at")
                .fetch_all(world.store.pool())
                .await
                .unwrap();
        outcomes
            == [
                (1, "failed".into()),
                (2, "delivered".into()),
                (1, "delivered".into()),
            ]
    })
    .await;
}

#[tokio::test]
async fn what_is_there_already_is_not_told() {
    let mut world = World::new().await;
    finding(&world.store, 1, 1, "open").await;
    // Told by a version without rules.
    finding(&world.store, 2, 1, "new").await;
    world
        .run("insert into culprit.alerts (id, finding_id, kind) values (gen_random_uuid(), 2, 'finding.new')")
        .await;
    // Fires while there is no channel.
    finding(&world.store, 3, 1, "new").await;
    world.look().await;
    assert_eq!(world.incidents().await, [("firing".into(), String::new())]);
    world.channel("hook", "webhook").await;
    world.go(60).await;
    assert_eq!(world.outbox().await, []);
    finding(&world.store, 4, 1, "new").await;
    world.look().await;
    assert_eq!(world.outbox().await, [("hook".into(), "opened".into(), 1)]);
    // An older process must not tell it as well.
    let told: i64 = sqlx::query_scalar("select count(*) from culprit.alerts where finding_id = 4")
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_finding_that_comes_back_says_so() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    finding(&world.store, 1, 1, "resolved").await;
    world.look().await;
    world
        .run(
            "update culprit.findings set state = 'regressed', regressed = 1, resolved_in = '1.2.0'",
        )
        .await;
    world.look().await;
    let alert = &world.bodies().await[0].alerts[0];
    assert_eq!(alert.title, "Came back: 20 times select authors");
    let fact = alert.facts.iter().find(|it| it.name == "came back");
    assert_eq!(
        fact.unwrap().value,
        "it was resolved before; 1.2.0 had fixed it"
    );
    // Acknowledged: no message, and the end is told all the same.
    state_of_finding(&world.store, 1, "acknowledged").await;
    world.go(100).await;
    assert_eq!(world.outbox().await.len(), 1);
    state_of_finding(&world.store, 1, "ignored").await;
    world.look().await;
    assert_eq!(world.outbox().await[1].1, "resolved");
    let bodies = world.bodies().await;
    let why = bodies[1].alerts[0].facts.last().unwrap();
    assert_eq!(why.value, "somebody ignores the bottleneck");
}

#[tokio::test]
async fn a_bad_deployment_is_one_message_for_people_and_single_ones_for_programs() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    world.channel("ops", "slack").await;
    for id in 1..=3 {
        finding(&world.store, id, 1, "new").await;
    }
    finding(&world.store, 4, 2, "new").await;
    world.look().await;
    let hook = ("hook".to_owned(), "opened".to_owned(), 1);
    assert_eq!(world.outbox().await, vec![hook; 4]);
    world.now_ms += 9_000;
    world.look().await;
    assert_eq!(world.outbox().await.len(), 4, "others may come");
    world.now_ms += 1_000;
    world.look().await;
    assert_eq!(
        world.outbox().await[4..],
        [
            ("ops".into(), "opened".into(), 3),
            ("ops".into(), "opened".into(), 1)
        ]
    );
    assert_eq!(world.bodies().await[4].group, "shop1 (production)");
    for id in 1..=4 {
        state_of_finding(&world.store, id, "resolved").await;
    }
    world.go(20).await;
    assert_eq!(world.outbox().await.len(), 12);
}

#[tokio::test]
async fn a_storm_is_bounded_and_nothing_of_it_is_lost() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    for id in 1..=50 {
        finding(&world.store, id, 1, "new").await;
    }
    world.look().await;
    assert_eq!(world.outbox().await.len(), 20);
    world.go(50).await;
    assert_eq!(world.outbox().await.len(), 20);
    world.go(200).await;
    assert_eq!(world.outbox().await.len(), 50);
    let distinct: i64 = sqlx::query_scalar("select count(distinct incidents) from culprit.outbox")
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    assert_eq!(distinct, 50);
}

#[tokio::test]
async fn what_was_there_before_anybody_watched_is_told_three_times_at_most() {
    let mut world = World::new().await;
    for (name, kind) in [
        ("hook", "webhook"),
        ("ops", "slack"),
        ("am", "alertmanager"),
    ] {
        world.channel(name, kind).await;
    }
    for id in 1..=5 {
        finding(&world.store, id, 1, "new").await;
    }
    world
        .run("update culprit.services set first_seen = now() - interval '1 minute'")
        .await;
    let told = async |world: &World, channel: &str| -> Vec<i32> {
        let all = world.outbox().await.into_iter();
        all.filter(|it| it.0 == channel && it.1 == "opened")
            .map(|it| it.2)
            .collect()
    };
    world.look().await;
    assert_eq!(told(&world, "hook").await, [1, 1, 1]);
    assert_eq!(told(&world, "am").await, [1; 5], "it groups by itself");
    let also: Vec<String> = world
        .bodies()
        .await
        .iter()
        .flat_map(|it| it.alerts[0].facts.clone())
        .filter(|it| it.name == "also found")
        .map(|it| it.value)
        .collect();
    assert!(
        also[0].starts_with("2 more in the first half hour of shop1"),
        "{also:?}"
    );
    finding(&world.store, 6, 1, "new").await;
    world.go(60).await;
    assert_eq!(told(&world, "hook").await, [1, 1, 1]);
    assert_eq!(told(&world, "ops").await, [6], "one message");
    finding(&world.store, 7, 1, "new").await;
    finding(&world.store, 8, 1, "new").await;
    world.go(60).await;
    assert_eq!(told(&world, "ops").await, [6]);
    world.go(1_800).await;
    assert_eq!(told(&world, "ops").await, [6, 2], "the rest together");
    assert_eq!(told(&world, "hook").await, [1, 1, 1]);
    assert_eq!(world.incidents().await.len(), 8, "one each");
    for id in 1..=8 {
        state_of_finding(&world.store, id, "resolved").await;
    }
    world.go(120).await;
    let ends = world.outbox().await.into_iter();
    let ends = ends.filter(|it| it.0 == "hook" && it.1 == "resolved");
    assert_eq!(ends.count(), 3, "no end of what was never told");
}

#[tokio::test]
async fn an_incident_keeps_the_severity_it_fired_with() {
    let mut world = World::new().await;
    world.channel("am", "alertmanager").await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    world.run("update culprit.findings set severity = 2").await;
    world.go(60).await;
    state_of_finding(&world.store, 1, "resolved").await;
    world.go(60).await;
    let bodies = world.bodies().await;
    let severities: Vec<Severity> = bodies.iter().map(|it| it.alerts[0].severity).collect();
    assert_eq!(severities, [Severity::Warning; 2]);
}

#[tokio::test]
async fn a_rule_of_a_newer_program_ends_nothing() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    world
        .run("update culprit.alert_rules set rule = '{\"of\": \"tomorrow\"}'")
        .await;
    world.go(7_200).await;
    assert_eq!(
        world.incidents().await,
        [("firing".into(), "opened".into())]
    );
    world.run("delete from culprit.alert_rules").await;
    world.go(10).await;
    assert_eq!(world.incidents().await[0].0, "resolved");
}

#[tokio::test]
async fn a_message_that_failed_does_not_hold_back_the_next() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    let failed = async |world: &World, after: &str| {
        world
            .run(&format!(
                "update culprit.outbox set attempts = 3, next_attempt_at = now() + interval '{after}'"
            ))
            .await;
    };
    let claim = async |world: &World| world.store.claim_message("hook").await.unwrap();
    failed(&world, "5 hours").await;
    state_of_finding(&world.store, 1, "resolved").await;
    world.look().await;
    assert_eq!(claim(&world).await.unwrap().body["event"], "opened");
    assert!(claim(&world).await.is_none(), "one after the other");
    failed(&world, "50 seconds").await;
    world
        .store
        .note_success("hook", world.now_ms)
        .await
        .unwrap();
    assert!(claim(&world).await.is_none(), "somebody may be trying it");
    failed(&world, "5 hours").await;
    world
        .store
        .note_success("hook", world.now_ms)
        .await
        .unwrap();
    assert_eq!(claim(&world).await.unwrap().attempts, 4);
}

#[tokio::test]
async fn a_silence_keeps_quiet_until_it_ends() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    let silence = Silence {
        id: Uuid::now_v7(),
        kind: SilenceKind::Maintenance,
        matchers: vec![Matcher {
            label: "service".into(),
            value: "shop*".into(),
        }],
        starts_ms: world.now_ms,
        ends_ms: world.now_ms + 100_000,
        author: "Ann".into(),
        comment: "the database moves".into(),
        created_ms: world.now_ms,
        ended_by: None,
    };
    world.store.add_silence(&silence).await.unwrap();
    finding(&world.store, 1, 1, "new").await;
    finding(&world.store, 2, 1, "new").await;
    world.go(50).await;
    let noted: Vec<Option<Uuid>> = sqlx::query_scalar("select silenced_by from culprit.incidents")
        .fetch_all(world.store.pool())
        .await
        .unwrap();
    assert_eq!(noted, [Some(silence.id); 2]);
    state_of_finding(&world.store, 2, "resolved").await;
    world.go(100).await;
    let one = ("hook".to_owned(), "opened".to_owned(), 1);
    assert_eq!(world.outbox().await, [one], "the other one is over by then");
}

/// A rule with a limit, and an endpoint's roll-ups.
async fn threshold(world: &World) {
    let rule: rule::Rule = serde_json::from_value(json!({
        "name": "slow", "when": "threshold", "measure": "p99", "above": 800, "minutes": 5,
        "for-seconds": 60,
    }))
    .unwrap();
    world.store.put_rule(&rule, true, "Ann").await.unwrap();
    world
        .run(
            "insert into culprit.services (id, namespace, name, environment) overriding system value
                 values (1, '', 'shop', '');
             insert into culprit.endpoints (id, service_id, name) overriding system value
                 values (1, 1, 'POST /checkout')",
        )
        .await;
}

async fn minute(world: &World, minute: i64, ms: u64) {
    let mut latency = analyzer::sketch::Sketch::default();
    latency.record(ms * 1_000_000, 200);
    sqlx::query(
        "insert into culprit.rollup_minutes
            (day, shard, endpoint_id, version_id, minute, width, part, requests, errors, duration_ns,
             categories, calls, latency)
         values ((now() at time zone 'utc')::date, 0, 1, 1, $1, 1, $1, 200, 0, 0, '{}', '{}', $2)",
    )
    .bind(i32::try_from(minute).unwrap())
    .bind(encoding::sketch_bytes(&latency))
    .execute(world.store.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn a_limit_is_watched_minute_by_minute() {
    let mut world = World::new().await;
    threshold(&world).await;
    world.channel("hook", "webhook").await;
    world.now_ms = world.now_ms / 60_000 * 60_000;
    let first = world.now_ms / 60_000;
    for it in -10..0 {
        minute(&world, first + it, 300).await;
    }
    world.look().await;
    for it in 0..6 {
        minute(&world, first + it, 1_200).await;
        world.go(60).await;
    }
    assert_eq!(world.outbox().await, [("hook".into(), "opened".into(), 1)]);
    let alert = &world.bodies().await[0].alerts[0];
    assert_eq!(alert.title, "p99 of POST /checkout is 1.2 s, above 800 ms");
    // Seven minutes lie before the five that are judged.
    assert_eq!(alert.data["baseline_requests"], 1_400);
    // Nearly below is not below, and no traffic is no news until it lasts.
    for it in 6..13 {
        minute(&world, first + it, 700).await;
        world.go(60).await;
    }
    world.go(10 * 60).await;
    assert_eq!(world.incidents().await[0].0, "firing");
    world.go(15 * 60).await;
    assert_eq!(world.outbox().await[1].1, "resolved");
    let bodies = world.bodies().await;
    assert!(
        bodies[1].alerts[0]
            .facts
            .last()
            .unwrap()
            .value
            .contains("no data")
    );
}

#[tokio::test]
async fn a_rule_that_is_switched_off_ends_its_incidents() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    world
        .store
        .enable_rule("New N+1", false, "Ann")
        .await
        .unwrap();
    world.go(10).await;
    assert_eq!(world.outbox().await[1].1, "resolved");
}

#[tokio::test]
async fn a_regression_is_told_with_its_comparison_and_ends_when_it_does() {
    let mut world = World::new().await;
    world.channel("hook", "webhook").await;
    threshold(&world).await;
    let id = Uuid::now_v7();
    let numbers = json!({"quantile": 0.99, "before_ns": 180_000_000, "after_ns": 420_000_000,
                         "base_requests": 1204, "requests": 310, "p_value": 0.00001});
    world
        .run(&format!(
            "insert into culprit.regressions (id, endpoint_id, kind, state, severity, title, began_at,
                 detected_at, base_from, base_to, numbers)
             values ('{id}', 1, 'sudden', 'open', 2, '', now(), now(), now(), now(), '{numbers}')"
        ))
        .await;
    world.look().await;
    assert_eq!(world.outbox().await, [], "what grew is not known yet");
    world
        .run("update culprit.regressions set explanation = '{\"contributors\": [{\"path\": [\"a\", \"select stock\"]}]}'")
        .await;
    world.look().await;
    let alert = &world.bodies().await[0].alerts[0];
    assert_eq!(
        alert.title,
        "p99 of POST /checkout went from 180 ms to 420 ms"
    );
    assert_eq!(alert.severity, Severity::Critical);
    assert_eq!(alert.links[0].path, format!("/regressions/{id}"));
    assert!(alert.facts.iter().any(|it| it.value == "select stock"));
    // One that cannot be read stops nothing.
    world
        .run(
            "insert into culprit.regressions (id, endpoint_id, statement_id, kind, state, severity, title, began_at,
                 detected_at, base_from, base_to, numbers, explanation)
             values (gen_random_uuid(), 1, 9, 'sudden', 'open', 2, 'slower', now(), now(), now(), now(),
                 '{\"quantile\": \"?\"}', '[]')",
        )
        .await;
    world.go(60).await;
    assert_eq!(world.bodies().await[1].alerts[0].title, "slower");
    world
        .run(&format!(
            "update culprit.regressions set state = 'resolved', resolved_at = now() where id = '{id}';
             insert into culprit.audit (subject, subject_id, author, action, detail)
                 values ('regression', '{id}', 'ann', 'resolved', 'rolled back')"
        ))
        .await;
    world.look().await;
    assert_eq!(world.outbox().await[2].1, "resolved");
    let facts = &world.bodies().await[2].alerts[0].facts;
    assert_eq!(facts.last().unwrap().value, "resolved by ann: rolled back");
}

#[tokio::test]
async fn two_reviews_at_once_tell_once() {
    let store = testing::store().await;
    let (url, receiver) = Receiver::start([]).await;
    let _one = worker(&store, &[webhook("webhook", &url)]).await;
    let _other = worker(&store, &[webhook("webhook", &url)]).await;
    for id in 1..=5 {
        finding(&store, id, id, "new").await;
    }
    let mut reviews = Vec::new();
    for _ in 0..2 {
        let store = store.clone();
        reviews.push(tokio::spawn(async move {
            let process = Uuid::now_v7();
            let mut lost = 0;
            for _ in 0..40 {
                // Each takes the lease from the other in the middle of its look.
                let lease = store.acquire_lease(REVIEW_SHARD, process, true).await;
                let lease = lease.unwrap().unwrap();
                let mut watch = Watch::new(String::new(), Pace::default());
                lost += usize::from(watch.look(&store, &lease, now_ms()).await.is_err());
            }
            lost
        }));
    }
    for review in reviews {
        review.await.unwrap();
    }
    eventually("five alerts", async || receiver.ids().len() == 5).await;
    let live: i64 = sqlx::query_scalar("select count(*) from culprit.incidents")
        .fetch_one(store.pool())
        .await
        .unwrap();
    let queued: i64 = sqlx::query_scalar("select count(*) from culprit.outbox")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!((live, queued), (5, 5));
}

#[tokio::test]
async fn crashes_at_any_moment_tell_once() {
    let store = testing::store().await;
    // Fails, hangs, redirects, has too much, and takes it at last.
    let (url, receiver) = Receiver::start([
        Answer::Status(500),
        Answer::Hang,
        Answer::Redirect,
        Answer::TooMany { retry_after_s: 1 },
    ])
    .await;
    finding(&store, 1, 1, "new").await;
    let mut resolved = false;
    for round in 0..60u64 {
        let (task, _) = worker(&store, &[webhook("webhook", &url)]).await;
        let review = tokio::spawn({
            let store = store.clone();
            async move {
                let mut world = World::on(store).await;
                world.now_ms = now_ms();
                loop {
                    world.look().await;
                }
            }
        });
        // Whatever they are at, they end there.
        tokio::time::sleep(Duration::from_millis(round * 7 % 97)).await;
        review.abort();
        task.abort();
        let _ = (review.await, task.await);
        hurry(&store).await;
        let delivered: i64 = sqlx::query_scalar(
            "select count(*) from culprit.outbox where delivered_at is not null",
        )
        .fetch_one(store.pool())
        .await
        .unwrap();
        if delivered == 1 && !resolved {
            state_of_finding(&store, 1, "resolved").await;
            resolved = true;
        }
    }
    let _worker = worker(&store, &[webhook("webhook", &url)]).await;
    let mut world = World::on(store.clone()).await;
    eventually("the opening", async || {
        hurry(&store).await;
        world.look().await;
        !receiver.ids().is_empty() && world_is_quiet(&store).await
    })
    .await;
    state_of_finding(&store, 1, "resolved").await;
    world.look().await;
    eventually("both", async || {
        hurry(&store).await;
        world_is_quiet(&store).await
    })
    .await;
    assert_eq!(receiver.ids().len(), 2, "{:?}", receiver.types());
    let mut types = receiver.types();
    types.dedup();
    assert_eq!(
        types,
        [
            "bottleneck.n_plus_one_query.opened",
            "bottleneck.n_plus_one_query.resolved"
        ]
    );
    let incidents: BTreeSet<String> = receiver
        .got()
        .iter()
        .map(|it| it.1["data"]["incident"].to_string())
        .collect();
    assert_eq!(incidents.len(), 1);
    assert_eq!(world.incidents().await.len(), 1);
}

async fn world_is_quiet(store: &Store) -> bool {
    let waiting: i64 = sqlx::query_scalar(
        "select count(*) from culprit.outbox where delivered_at is null and dead_at is null",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    waiting == 0
}

#[tokio::test]
async fn a_resolve_never_overtakes_its_opening() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([Answer::Status(503), Answer::Status(503)]).await;
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    eventually("the first attempt", async || receiver.count() == 1).await;
    state_of_finding(&world.store, 1, "resolved").await;
    world.look().await;
    // Another incident is not held up.
    finding(&world.store, 2, 1, "new").await;
    world.look().await;
    eventually("the other one", async || receiver.ids().len() == 2).await;
    eventually("everything", async || {
        hurry(&world.store).await;
        world_is_quiet(&world.store).await
    })
    .await;
    let got = receiver.got();
    let of_first: Vec<&str> = got
        .iter()
        .filter(|it| it.1["data"]["id"] == 1)
        .map(|it| it.1["data"]["status"].as_str().unwrap())
        .collect();
    let (last, before) = of_first.split_last().unwrap();
    assert_eq!(*last, "resolved");
    assert!(before.len() >= 2 && before.iter().all(|it| *it == "firing"));
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_nobody_else() {
    let mut world = World::new().await;
    let (slow, hanging) = Receiver::start([Answer::Hang, Answer::Hang]).await;
    let (fast, receiver) = Receiver::start([]).await;
    let channels = [webhook("slow", &slow), webhook("fast", &fast)];
    let _worker = worker(&world.store, &channels).await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    eventually("it hangs", async || hanging.count() == 1).await;
    for id in 2..=6 {
        finding(&world.store, id, id, "new").await;
    }
    world.look().await;
    eventually("the others get theirs", async || receiver.count() == 6).await;
    assert_eq!(hanging.count(), 1);
}

#[tokio::test]
async fn a_receiver_that_wants_no_more_gets_no_more() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([Answer::Status(410)]).await;
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    for id in 1..=3 {
        finding(&world.store, id, 1, "new").await;
    }
    world.look().await;
    eventually("all are given up", async || {
        world_is_quiet(&world.store).await
    })
    .await;
    assert_eq!(receiver.count(), 1);
    let dead: Vec<String> = sqlx::query_scalar("select last_error from culprit.outbox")
        .fetch_all(world.store.pool())
        .await
        .unwrap();
    assert!(dead.iter().all(|it| it.contains("410")), "{dead:?}");
    assert!(!world.store.channels().await.unwrap()[0].enabled);
    finding(&world.store, 4, 1, "new").await;
    world.look().await;
    assert_eq!(world.outbox().await.len(), 3);
}

#[tokio::test]
async fn a_receiver_that_is_away_is_paused() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start(vec![Answer::Status(503); 100]).await;
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    for id in 1..=12 {
        finding(&world.store, id, id, "new").await;
    }
    world.look().await;
    let channel = async || world.store.channels().await.unwrap().remove(0);
    eventually("the pause", async || {
        channel().await.paused_until_ms.is_some()
    })
    .await;
    assert_eq!(receiver.count(), 5);
    // A test is sent all the same: somebody waits for it.
    world
        .store
        .queue_test("webhook", "Ann", now_ms())
        .await
        .unwrap();
    eventually("the test", async || receiver.count() == 6).await;
    assert_eq!(receiver.types()[5], "test.test");
}

#[tokio::test]
async fn too_many_requests_pause_for_as_long_as_the_receiver_says() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([Answer::TooMany { retry_after_s: 600 }]).await;
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    for id in 1..=3 {
        finding(&world.store, id, id, "new").await;
    }
    world.look().await;
    let channel = async || world.store.channels().await.unwrap().remove(0);
    eventually("the pause", async || {
        channel().await.paused_until_ms.is_some()
    })
    .await;
    assert_eq!(receiver.count(), 1);
    let pause_ms = channel().await.paused_until_ms.unwrap() - now_ms();
    assert!((500_000..=600_000).contains(&pause_ms), "{pause_ms}");
}

#[tokio::test]
async fn a_dead_message_is_sent_again_with_its_id() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([]).await;
    let (task, shutdown) = worker(&world.store, &[webhook("webhook", &url)]).await;
    shutdown.cancel();
    task.await.unwrap();
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    let id: Uuid = sqlx::query_scalar("update culprit.outbox set dead_at = now() returning id")
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    let again = world.store.replay(id, "Ann").await.unwrap();
    assert!(matches!(again, Replayed::Queued(_)));
    let twice = world.store.replay(id, "Ann").await.unwrap();
    assert_eq!(twice, Replayed::Missing, "it waits already");
    world
        .run("delete from culprit.outbox where replayed_from is not null")
        .await;
    let (one, other) = tokio::join!(world.store.replay(id, "Ann"), world.store.replay(id, "Bob"));
    let queued = [one.unwrap(), other.unwrap()];
    let queued = queued.iter().filter(|it| **it != Replayed::Missing);
    assert_eq!(queued.count(), 1, "both at once");
    let _worker = worker(&world.store, &[webhook("webhook", &url)]).await;
    eventually("it arrives", async || receiver.count() == 1).await;
    assert_eq!(receiver.got()[0].0, id.to_string());
    // Once its end was told, its opening would only confuse.
    state_of_finding(&world.store, 1, "resolved").await;
    world.look().await;
    eventually("the end", async || world_is_quiet(&world.store).await).await;
    world
        .run(
            "update culprit.outbox set dead_at = now(), delivered_at = null where event = 'opened'",
        )
        .await;
    let over = world.store.replay(id, "Ann").await.unwrap();
    assert_eq!(over, Replayed::Over);
}

#[tokio::test]
async fn messages_of_older_versions_are_delivered() {
    let store = testing::store().await;
    let (url, receiver) = Receiver::start([]).await;
    let body = json!({"type": "bottleneck.n_plus_one_query.opened", "timestamp": "2026-01-01T00:00:00Z",
                      "data": {"id": 7, "detector": "n-plus-one-query", "title": "20 times", "service": "shop"}});
    run(
        &store,
        &format!(
            "insert into culprit.outbox (id, alert_id, channel, body)
             values (gen_random_uuid(), gen_random_uuid(), 'webhook', '{body}'),
                    (gen_random_uuid(), gen_random_uuid(), 'webhook', '{{}}')"
        ),
    )
    .await;
    let _worker = worker(&store, &[webhook("webhook", &url)]).await;
    eventually("both are done", async || world_is_quiet(&store).await).await;
    assert_eq!(receiver.types(), ["bottleneck.n_plus_one_query.opened"]);
    assert_eq!(receiver.got()[0].1["data"]["id"], 7);
    let reason: String =
        sqlx::query_scalar("select last_error from culprit.outbox where dead_at is not null")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert!(reason.contains("cannot be read"), "{reason}");
}

#[tokio::test]
async fn messages_for_channels_that_nobody_knows_wait_and_say_so() {
    let mut world = World::new().await;
    world.channel("theirs", "webhook").await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    let message = async || -> (Option<String>, bool) {
        sqlx::query_as("select last_error, dead_at is not null from culprit.outbox")
            .fetch_one(world.store.pool())
            .await
            .unwrap()
    };
    world.store.note_unclaimed(&[]).await.unwrap();
    assert_eq!(
        message().await,
        (None, false),
        "another process may be about to"
    );
    let older = async |age: &str| {
        let older = format!("update culprit.outbox set created_at = now() - interval '{age}'");
        world.run(&older).await;
    };
    older("2 minutes").await;
    world
        .store
        .note_unclaimed(&["theirs".into()])
        .await
        .unwrap();
    assert_eq!(message().await, (None, false), "it is known");
    world.store.note_unclaimed(&[]).await.unwrap();
    let says = "no running process knows the channel theirs";
    assert_eq!(message().await, (Some(says.into()), false));
    older("25 hours").await;
    let tried = async |when: &str| {
        let tried = format!(
            "update culprit.outbox set attempts = 2, next_attempt_at = now() + interval '{when}'"
        );
        world.run(&tried).await;
        world.store.note_unclaimed(&[]).await.unwrap();
    };
    tried("50 seconds").await;
    assert!(!message().await.1, "it is being tried");
    tried("-2 minutes").await;
    assert_eq!(
        message().await,
        (Some(format!("{says}, since a day")), true)
    );
}

#[tokio::test]
async fn alertmanagers_are_told_again_what_fires() {
    let mut world = World::new().await;
    let (url, receiver) = Receiver::start([]).await;
    let settings = Settings::Alertmanager {
        url: url.trim_end_matches("/hook").into(),
        bearer_token: None,
        username: None,
        password: None,
    };
    let channel = Arc::new(Channel::open("am", &settings, &Trust::Trusted).unwrap());
    let _one = worker(&world.store, std::slice::from_ref(&channel)).await;
    let _other = worker(&world.store, &[channel]).await;
    finding(&world.store, 1, 1, "new").await;
    world.look().await;
    eventually("it is told", async || receiver.count() == 1).await;
    let store = world.store.clone();
    let a_minute_later = async || {
        run(
            &store,
            "update culprit.alert_channels set resent_at = now() - interval '1 minute'",
        )
        .await;
    };
    a_minute_later().await;
    eventually("it is told again", async || receiver.count() == 2).await;
    let got = receiver.got();
    assert_eq!(got[0].1[0]["labels"], got[1].1[0]["labels"]);
    state_of_finding(&world.store, 1, "resolved").await;
    world.look().await;
    eventually("its end is told", async || receiver.count() == 3).await;
    a_minute_later().await;
    eventually("and told again", async || receiver.count() == 4).await;
    let ends_at = |it: usize| {
        receiver.got()[it].1[0]["endsAt"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(ends_at(2), ends_at(3));
    assert!(
        ends_at(1) > ends_at(3),
        "while it fires it ends in the future"
    );
}
