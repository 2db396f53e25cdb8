//! The pages and the API as a visitor sees them.

use axum::http::{StatusCode, header};
use collector::alert::defaults;
use collector::store::Store;
use collector::store::channels::ConfiguredChannel;
use collector::store::rules::Source;
use scraper::{Html, Selector};
use serde_json::{Value, json};
use url::form_urlencoded::{Serializer, byte_serialize};
use uuid::Uuid;

use crate::testing::{HOSTILE, Site};

async fn site() -> Site {
    let store = collector::testing::store().await;
    let rules = defaults::rules();
    store.sync_rules(Source::BuiltIn, &rules, "").await.unwrap();
    Site::on(store)
}

fn form(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

/// An incident as the engine would have stored it; names and texts are `text`.
async fn incident(store: &Store, id: u128, state: &str, text: &str) -> Uuid {
    let id = Uuid::from_u128(id);
    let text = text.replace('\0', "\u{fffd}");
    let labels = json!({"alertname": text, "service": text, "endpoint": text, "kind": "test"});
    let alert = json!({
        "incident": id, "fingerprint": "f", "rule": text, "firing": state == "firing",
        "severity": "critical", "labels": labels, "title": text, "summary": text,
        "facts": [{"name": text, "value": text}], "data": null,
        "links": [{"text": text, "path": "/endpoints/1"}, {"text": "away", "path": "//evil.example"},
                  {"text": "away", "path": "javascript:alert(1)"}],
        "started_ms": 1_700_000_000_000_i64, "ended_ms": null,
    });
    sqlx::query(
        "insert into culprit.incidents (id, rule, fingerprint, state, severity, labels, alert,
             started_at, fired_at, last_true_at, resolved_at)
         values ($1, $2, $1::text, $3, 2, $4, $5, now() - interval '10 minutes',
                 now() - interval '8 minutes', now(), case when $3 = 'resolved' then now() end)",
    )
    .bind(id)
    .bind(&text)
    .bind(state)
    .bind(labels)
    .bind(alert)
    .execute(store.pool())
    .await
    .unwrap();
    id
}

/// A message about an incident, tried once.
async fn message(store: &Store, id: u128, incident: Uuid, outcome: &str, text: &str) -> Uuid {
    let id = Uuid::from_u128(id);
    let text = text.replace('\0', "\u{fffd}");
    sqlx::query(
        "insert into culprit.outbox (id, channel, body, incidents, attempts, event, last_error,
             delivered_at, dead_at)
         values ($1, $2, $3, array[$4], 1, 'opened', $2,
             case when $5 = 'delivered' then now() end, case when $5 = 'gone' then now() end)",
    )
    .bind(id)
    .bind(&text)
    .bind(json!({"alerts": [{"title": text}]}))
    .bind(incident)
    .bind(outcome)
    .execute(store.pool())
    .await
    .unwrap();
    sqlx::query(
        "insert into culprit.deliveries (message_id, attempt, channel, took_ms, outcome, detail)
         values ($1, 1, $2, 12, $3, $2)",
    )
    .bind(id)
    .bind(&text)
    .bind(outcome)
    .execute(store.pool())
    .await
    .unwrap();
    id
}

/// The texts of what matches.
fn texts(html: &str, selector: &str) -> Vec<String> {
    let page = Html::parse_document(html);
    let selector = Selector::parse(selector).unwrap();
    let texts = page
        .select(&selector)
        .map(|it| it.text().collect::<String>());
    texts.map(|it| it.trim().to_owned()).collect()
}

fn value(html: &str, selector: &str, attribute: &str) -> Option<String> {
    let page = Html::parse_document(html);
    let selector = Selector::parse(selector).unwrap();
    let found = page.select(&selector).next()?;
    found.value().attr(attribute).map(str::to_owned)
}

async fn json(site: &Site, address: &str) -> Value {
    serde_json::from_str(&site.page(address).await).unwrap()
}

#[tokio::test]
async fn without_alerts_the_page_says_what_would_be_one_and_that_nobody_is_told() {
    let site = site().await;
    let page = site.page("/alerts").await;
    assert_eq!(texts(&page, "h1"), ["Nothing fires"]);
    assert_eq!(texts(&page, ".notes li").len(), 3);
    assert!(
        page.contains("Nobody is told") && page.contains("--alert-slack"),
        "{page}"
    );
    assert!(texts(&page, ".top nav a[aria-current]")[0].starts_with("Alerts"));
    assert!(texts(&page, ".top .pill").is_empty());
}

#[tokio::test]
async fn what_fires_is_first_and_every_page_counts_it() {
    let site = site().await;
    incident(&site.store, 1, "resolved", "old").await;
    incident(&site.store, 2, "firing", "checkout is slow").await;
    incident(&site.store, 3, "pending", "cart is slow").await;
    let page = site.page("/alerts").await;
    assert_eq!(texts(&page, "h1"), ["One alert fires"]);
    let states = texts(&page, ".alerts td .pill");
    assert_eq!(states, ["firing", "pending", "resolved"]);
    let status = site.page("/status").await;
    assert_eq!(texts(&status, ".top > nav .pill"), ["1 firing"]);
    assert_eq!(texts(&status, ".menu summary .pill"), ["1 firing"]);
    let other = site.page("/alerts?service=nobody").await;
    assert!(other.contains("No alert matches"), "{other}");
    let mine = site
        .page(&format!("/alerts?service={}", encoded("cart is slow")))
        .await;
    assert_eq!(texts(&mine, ".alerts td .pill"), ["pending"]);
    let list = json(&site, "/api/v1/alerts").await;
    assert_eq!(list["live"][0]["title"], "checkout is slow");
    assert_eq!(list["resolved"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_alert_is_acknowledged_and_its_page_tells_the_story() {
    let site = site().await;
    let id = incident(&site.store, 1, "firing", "checkout is slow").await;
    message(&site.store, 11, id, "delivered", "slack").await;
    message(&site.store, 12, id, "gone", "hook").await;
    let address = format!("/alerts/{id}/acknowledge");
    let sent = form(&[
        ("author", "Ann"),
        ("comment", "rolling back"),
        ("back", "//evil.example"),
    ]);
    let (status, headers, _) = site.change("POST", &address, sent).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(headers[header::LOCATION], format!("/alerts/{id}"));
    let page = site.page(&format!("/alerts/{id}")).await;
    let story = texts(&page, ".timeline li > div > p:first-child");
    assert_eq!(story[..2], ["True for the first time", "Fires"]);
    for wanted in [
        "Acknowledged by Ann",
        "slack is told that it fires: delivered",
        "hook is told that it fires: given up",
    ] {
        assert!(story.iter().any(|it| it == wanted), "{wanted}: {story:?}");
    }
    assert!(page.contains("rolling back"));
    // A link of a message leads nowhere else.
    assert_eq!(texts(&page, ".stack > .acts a"), ["checkout is slow"]);
    let (status, headers, _) = site
        .change(
            "POST",
            &address,
            form(&[("seen", "no"), ("back", "/alerts?service=x")]),
        )
        .await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/alerts?service=x".parse().unwrap())
    );
    let it = json(&site, &format!("/api/v1/alerts/{id}")).await;
    assert_eq!(it["acknowledged_by"], Value::Null);
    assert_eq!(it["history"][0]["action"], "unacknowledged");
    assert_eq!(it["messages"][0]["deliveries"][0]["took_ms"], 12);
    for nothing in ["/alerts/17", "/alerts/00000000-0000-0000-0000-000000000099"] {
        assert_eq!(site.get(nothing).await.0, StatusCode::NOT_FOUND);
        let api = nothing.replace("/alerts", "/api/v1/alerts");
        assert_eq!(site.get(&api).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn resolved_alerts_have_pages() {
    let site = site().await;
    for id in 1..=super::RESOLVED_SHOWN as u128 + 5 {
        incident(&site.store, id, "resolved", "x").await;
    }
    let first = site.page("/alerts").await;
    let next = value(&first, "a[rel=next]", "href").unwrap();
    let second = site.page(&next).await;
    assert_eq!(texts(&second, ".alerts td .pill").len(), 5);
    let list = json(&site, "/api/v1/alerts").await;
    let next = list["next"].as_str().unwrap();
    let rest = json(&site, &format!("/api/v1/alerts?after={next}")).await;
    assert_eq!(rest["resolved"].as_array().unwrap().len(), 5);
    assert_eq!(rest["next"], Value::Null);
    assert_eq!(
        site.get("/api/v1/alerts?after=x").await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn rules_are_written_changed_and_reset() {
    let site = site().await;
    let page = site.page("/alerts/rules").await;
    assert!(
        page.contains("A new n-plus-one-*, in at least 3 traces."),
        "{page}"
    );
    let new = site
        .page("/alerts/rules/new?when=threshold&endpoint=POST%20/checkout")
        .await;
    assert_eq!(
        value(&new, "#f-endpoint", "value").unwrap(),
        "POST /checkout"
    );
    let fields = [
        ("when", "threshold"),
        ("name", "checkout"),
        ("measure", "p99"),
        ("above", "80O"),
        ("minutes", "5"),
        ("min-requests", "100"),
        ("service", ""),
        ("endpoint", "POST /checkout"),
        ("for-seconds", "2m"),
        ("author", "Ann"),
    ];
    let (status, _, wrong) = site
        .change("POST", "/alerts/rules/save", form(&fields))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(texts(&wrong, "#p-above"), ["This is not a number."]);
    assert_eq!(value(&wrong, "#f-above", "value").unwrap(), "80O");
    let right = fields.map(|(key, it)| (key, if key == "above" { "800" } else { it }));
    let (status, ..) = site
        .change("POST", "/alerts/rules/save", form(&right))
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (_, _, twice) = site
        .change("POST", "/alerts/rules/save", form(&right))
        .await;
    assert_eq!(
        texts(&twice, "#p-name"),
        ["There is a rule of this name already."]
    );
    let page = site.page("/alerts/rules").await;
    assert!(
        page.contains("P99 of POST /checkout above 800 ms over 5 minutes, for 2 minutes."),
        "{page}"
    );

    // A built-in one.
    let edit = site.page("/alerts/rules/edit?name=Slower").await;
    assert!(edit.contains("Built in."));
    let slower = [
        ("when", "regression"),
        ("old", "Slower"),
        ("name", "Slower"),
        ("min-severity", "critical"),
        ("service", "shop"),
        ("endpoint", "*"),
    ];
    site.change("POST", "/alerts/rules/save", form(&slower))
        .await;
    let rule = async || {
        let rules = json(&site, "/api/v1/alert-rules").await;
        let all = rules["rules"].as_array().unwrap().clone();
        all.into_iter()
            .find(|it| it["rule"]["name"] == "Slower")
            .unwrap()
    };
    let changed = rule().await;
    assert_eq!(
        (&changed["source"], &changed["rule"]["service"]),
        (&json!("ui"), &json!("shop"))
    );
    let named = |enabled| form(&[("name", "Slower"), ("enabled", enabled)]);
    site.change("POST", "/alerts/rules/enable", named("no"))
        .await;
    assert_eq!(rule().await["enabled"], false);
    site.change("POST", "/alerts/rules/delete", named("")).await;
    let reset = rule().await;
    assert_eq!(
        (&reset["source"], &reset["enabled"]),
        (&json!("built-in"), &json!(true))
    );
    let (status, ..) = site.change("POST", "/alerts/rules/delete", named("")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn rules_of_the_file_are_shown_with_its_path_and_stay() {
    let site = site().await;
    let mut rule = defaults::rules().remove(0);
    rule.name = "of the file".into();
    site.store
        .sync_rules(Source::File, &[rule], "/etc/culprit.toml")
        .await
        .unwrap();
    let page = site.page("/alerts/rules").await;
    assert!(page.contains("/etc/culprit.toml"));
    let (status, _, why) = site.get("/alerts/rules/edit?name=of+the+file").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("configuration file"));
    let (status, _, why) = site
        .change("DELETE", "/api/v1/alert-rules/of%20the%20file", "")
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{why}");
}

#[tokio::test]
async fn rules_over_the_api() {
    let site = site().await;
    let address = "/api/v1/alert-rules/mine?author=Ann";
    let rule =
        json!({"when": "threshold", "measure": "p99", "above": 800, "endpoint": "POST /checkout"});
    let (status, _, body) = site.change("PUT", address, rule.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(
        body.contains("p99 of POST /checkout above 800 ms"),
        "{body}"
    );
    for (wrong, wanted) in [
        ("{", "The rule is wrong"),
        ("[]", "no object"),
        (
            r#"{"name": "other", "when": "regression"}"#,
            "another than the one",
        ),
        (
            r#"{"when": "regression", "above": 3}"#,
            "`above` says nothing",
        ),
    ] {
        let (status, _, body) = site.change("PUT", address, wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(body.contains(wanted), "{body}");
    }
    assert_eq!(
        site.change("DELETE", address, "").await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        site.change("DELETE", address, "").await.0,
        StatusCode::NOT_FOUND
    );
}

/// A secret that must never be seen again.
const SECRET: &str = "xoxb-hush-hush";

/// Everything that shows channels, and what is stored beside them.
async fn assert_kept_secret(site: &Site) {
    for address in [
        "/alerts",
        "/alerts/channels",
        "/alerts/channels/edit?name=ops",
        "/alerts/rules/new",
        "/api/v1/alert-channels",
        "/api/v1/alerts",
        "/status",
    ] {
        let (_, _, body) = site.get(address).await;
        assert!(!body.contains(SECRET), "{address}: {body}");
    }
    let leaked: i64 = sqlx::query_scalar(
        "select (select count(*) from culprit.audit a where a::text like '%hush%')
              + (select count(*) from culprit.outbox o where o::text like '%hush%')
              + (select count(*) from culprit.alert_channels where shown like '%hush%')",
    )
    .fetch_one(site.store.pool())
    .await
    .unwrap();
    assert_eq!(leaked, 0);
}

#[tokio::test]
async fn secrets_of_channels_are_never_shown_again() {
    let site = site().await;
    let page = site.page("/alerts/channels").await;
    assert!(page.contains("There is no channel yet"), "{page}");
    let url = format!("https://hooks.slack.com/services/T/B/{SECRET}");
    let fields = [
        ("kind", "slack"),
        ("name", "ops"),
        ("url", url.as_str()),
        ("author", "Ann"),
    ];
    // A name that is none: the form comes back without the secret.
    let wrong = fields.map(|(key, it)| (key, if key == "name" { "!" } else { it }));
    let (status, _, page) = site
        .change("POST", "/alerts/channels/save", form(&wrong))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(texts(&page, "#p-name").len(), 1);
    assert!(!page.contains(SECRET), "{page}");
    let (status, _, page) = site
        .change("POST", "/alerts/channels/save", form(&fields))
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    assert_kept_secret(&site).await;
    let edit = site.page("/alerts/channels/edit?name=ops").await;
    assert_eq!(value(&edit, "#f-url", "placeholder").unwrap(), "unchanged");
    assert_eq!(value(&edit, "#f-url", "value").unwrap(), "");

    // An empty secret keeps the old one.
    let same = form(&[("old", "ops"), ("url", "")]);
    let (status, _, page) = site.change("POST", "/alerts/channels/save", same).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let kept = site.store.channel("ops").await.unwrap().unwrap();
    assert!(kept.settings.to_string().contains(SECRET));
    let (status, _, body) = site
        .change(
            "PUT",
            "/api/v1/alert-channels/ops",
            json!({"enabled": false}).to_string(),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let kept = site.store.channel("ops").await.unwrap().unwrap();
    assert!(kept.settings.to_string().contains(SECRET) && !kept.enabled);
    assert_kept_secret(&site).await;

    // Wrong bodies are not repeated.
    for body in [
        format!("{{\"kind\": \"slack\", \"url\": \"{SECRET}\""),
        format!("{{\"kind\": \"slack\", \"url\": \"{SECRET}\"}}"),
        format!(
            "{{\"kind\": \"pagerduty\", \"routing-key\": [\"{SECRET}\"], \"url\": \"http://{SECRET}@x\"}}"
        ),
        format!("{{\"kind\": \"slack\", \"secret\": \"{SECRET}\"}}"),
    ] {
        let (status, _, answer) = site
            .change("PUT", "/api/v1/alert-channels/ops2", body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(!answer.contains("hush"), "{answer}");
    }
    assert_eq!(
        site.change("DELETE", "/api/v1/alert-channels/ops", "")
            .await
            .0,
        StatusCode::NO_CONTENT
    );
}

#[tokio::test]
async fn channels_made_here_lead_to_public_addresses_only() {
    let site = site().await;
    for url in [
        "http://hooks.example.com/x",
        "https://127.0.0.1/x",
        "https://169.254.169.254/x",
    ] {
        let fields = [("kind", "webhook"), ("name", "in"), ("url", url)];
        let (status, _, page) = site
            .change("POST", "/alerts/channels/save", form(&fields))
            .await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
        let problems = texts(&page, ".problem, [role=alert]");
        assert_eq!(problems.len(), 1, "{problems:?}");
        let body = json!({"kind": "webhook", "url": url}).to_string();
        let (status, _, answer) = site.change("PUT", "/api/v1/alert-channels/in", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    let file = json!({"kind": "webhook", "url": "https://a.example", "secret": "file:/etc/passwd"});
    let (status, _, answer) = site
        .change("PUT", "/api/v1/alert-channels/in", file.to_string())
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(site.store.channels().await.unwrap().is_empty());
}

#[tokio::test]
async fn channels_of_flags_are_shown_tried_and_not_changed() {
    let site = site().await;
    let flag = ConfiguredChannel {
        name: "webhook".into(),
        kind: "webhook".into(),
        shown: "webhook https://a.example/…".into(),
        told_by: "--alert-webhook".into(),
    };
    site.store
        .sync_channels(Source::Flag, &[flag])
        .await
        .unwrap();
    let page = site.page("/alerts/channels").await;
    assert!(
        page.contains("--alert-webhook") && !page.contains("/alerts/channels/edit"),
        "{page}"
    );
    let (status, ..) = site.get("/alerts/channels/edit?name=webhook").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, ..) = site
        .change(
            "POST",
            "/alerts/channels/delete",
            form(&[("name", "webhook")]),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Somebody delivers it meanwhile.
    let store = site.store.clone();
    let deliver = tokio::spawn(async move {
        loop {
            let waiting: Option<Uuid> =
                sqlx::query_scalar("select id from culprit.outbox where delivered_at is null")
                    .fetch_optional(store.pool())
                    .await
                    .unwrap();
            if let Some(id) = waiting {
                sqlx::query(
                    "with said as (update culprit.outbox set delivered_at = now(), attempts = 1 where id = $1)
                     insert into culprit.deliveries (message_id, attempt, channel, took_ms, outcome)
                     values ($1, 1, 'webhook', 34, 'delivered')",
                )
                .bind(id)
                .execute(store.pool())
                .await
                .unwrap();
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    let (status, headers, _) = site
        .change(
            "POST",
            "/alerts/channels/test",
            form(&[("name", "webhook"), ("author", "Ann")]),
        )
        .await;
    deliver.await.unwrap();
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = site.page(headers[header::LOCATION].to_str().unwrap()).await;
    assert_eq!(texts(&page, "[role=status] .pill")[0], "delivered");
    let (status, ..) = site
        .change("POST", "/alerts/channels/test", form(&[("name", "nobody")]))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_message_that_was_given_up_can_be_sent_again() {
    let site = site().await;
    let id = incident(&site.store, 1, "firing", "slow").await;
    let dead = message(&site.store, 11, id, "gone", "hook").await;
    let page = site.page("/alerts/channels").await;
    assert_eq!(
        value(&page, "input[name=message]", "value").unwrap(),
        dead.to_string()
    );
    let queued = site.store.replay(dead, "Ann").await.unwrap();
    assert!(matches!(
        queued,
        collector::store::outbox::Replayed::Queued(_)
    ));
    let page = site.page("/alerts/channels").await;
    assert!(
        page.contains("sent again") && page.contains("1 message waits"),
        "{page}"
    );
    let (status, ..) = site
        .change(
            "POST",
            "/alerts/channels/replay",
            form(&[("message", "17")]),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn silences_are_made_and_ended() {
    let site = site().await;
    let id = incident(&site.store, 1, "firing", "checkout").await;
    let page = site.page(&format!("/alerts/silences?incident={id}")).await;
    let filled = texts(&page, "#f-matchers");
    assert_eq!(
        filled,
        ["alertname=checkout\nservice=checkout\nendpoint=checkout\nkind=test"]
    );
    let fields = [
        ("matchers", "service=shop*"),
        ("lasts", "2h"),
        ("author", "Ann"),
        ("comment", "moving"),
    ];
    let (status, _, page) = site
        .change("POST", "/alerts/silences/add", form(&fields[..3]))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(texts(&page, "#p-comment").len(), 1);
    assert_eq!(texts(&page, "#f-matchers"), ["service=shop*"]);
    let (status, ..) = site
        .change("POST", "/alerts/silences/add", form(&fields))
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = site.page("/alerts/silences").await;
    assert_eq!(texts(&page, ".chipline"), ["service=shop*"]);
    let end = value(&page, ".do form", "action").unwrap();
    let (status, ..) = site.change("POST", &end, form(&[("author", "Bob")])).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = site.page("/alerts/silences").await;
    assert!(
        page.contains("No silence holds") && page.contains("Bob"),
        "{page}"
    );
    assert_eq!(site.change("POST", &end, "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn silences_over_the_api() {
    let site = site().await;
    let silence = json!({
        "matchers": [{"label": "service", "value": "shop*"}], "duration": "2h",
        "author": "Ann", "comment": "moving", "kind": "maintenance",
    });
    let (status, _, body) = site
        .change("POST", "/api/v1/silences", silence.to_string())
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let made: Value = serde_json::from_str(&body).unwrap();
    let listed = json(&site, "/api/v1/silences").await;
    assert_eq!(listed["silences"][0]["id"], made["id"]);
    for (key, wrong) in [
        ("duration", json!("soon")),
        ("ends_at", json!("2001-01-01T00:00:00Z")),
        ("matchers", json!([])),
        ("matchers", json!([{"label": "service", "value": "*"}])),
        ("matchers", json!([{"label": "a\nb=c", "value": "x\0"}])),
        ("comment", json!(" ")),
        ("holiday", json!(1)),
        ("mathcers", json!([])),
    ] {
        let mut body = silence.clone();
        body[key] = wrong;
        let (status, _, answer) = site
            .change("POST", "/api/v1/silences", body.to_string())
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key}: {answer}");
        assert!(answer.contains(key), "{key}: {answer}");
    }
    let one = format!("/api/v1/silences/{}", made["id"].as_str().unwrap());
    assert_eq!(
        site.change("DELETE", &one, "").await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        site.change("DELETE", &one, "").await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn hostile_names_do_no_harm() {
    let site = site().await;
    for (at, text) in HOSTILE.into_iter().enumerate() {
        let at = at as u128;
        for (number, state) in ["firing", "pending", "resolved"].into_iter().enumerate() {
            let id = incident(&site.store, 100 * at + number as u128, state, text).await;
            message(
                &site.store,
                10_000 + 100 * at + number as u128,
                id,
                "gone",
                text,
            )
            .await;
            // `page` asserts that nothing in it can run.
            site.page(&format!("/alerts/{id}")).await;
            site.page(&format!("/alerts/silences?incident={id}")).await;
            let comment = form(&[("author", text), ("comment", text)]);
            site.change("POST", &format!("/alerts/{id}/acknowledge"), comment)
                .await;
            site.page(&format!("/alerts/{id}")).await;
            json(&site, &format!("/api/v1/alerts/{id}")).await;
        }
        let silence = form(&[
            ("matchers", &format!("{text}={text}")),
            ("lasts", "1h"),
            ("author", text),
            ("comment", text),
        ]);
        site.change("POST", "/alerts/silences/add", silence).await;
        let rule = form(&[
            ("when", "regression"),
            ("name", text),
            ("service", text),
            ("endpoint", text),
            ("min-severity", "info"),
            ("author", text),
        ]);
        let (status, _, page) = site.change("POST", "/alerts/rules/save", rule).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
        let wrong = form(&[("when", text), ("name", text), ("above", text), ("old", "")]);
        let (_, _, page) = site.change("POST", "/alerts/rules/save", wrong).await;
        crate::testing::assert_harmless(&page);
        let wrong = form(&[
            ("kind", "email"),
            ("name", text),
            ("smtp", text),
            ("from", text),
            ("to", text),
            ("author", text),
        ]);
        let (_, _, page) = site.change("POST", "/alerts/channels/save", wrong).await;
        crate::testing::assert_harmless(&page);
        for address in [
            "/alerts?service=",
            "/alerts?rule=",
            "/alerts?after=",
            "/alerts/rules/edit?name=",
            "/alerts/rules/new?when=",
            "/alerts/rules/new?endpoint=",
            "/alerts/channels/new?kind=",
            "/alerts/channels/edit?name=",
            "/alerts/channels?message=",
            "/alerts/silences?incident=",
        ] {
            let (_, _, page) = site.get(&format!("{address}{}", encoded(text))).await;
            crate::testing::assert_harmless(&page);
        }
    }
    for address in [
        "/alerts",
        "/alerts/rules",
        "/alerts/channels",
        "/alerts/silences",
        "/alerts?service=x",
    ] {
        site.page(address).await;
    }
    let rules = site.store.rules().await.unwrap();
    assert_eq!(rules.len(), defaults::rules().len() + HOSTILE.len());
}

#[tokio::test]
async fn a_process_that_may_only_read_says_so() {
    let site = site().await;
    let id = incident(&site.store, 1, "firing", "slow").await;
    sqlx::query("do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$")
        .execute(site.store.pool())
        .await
        .unwrap();
    site.store.pool().reconnect();
    site.page("/alerts").await;
    site.page(&format!("/alerts/{id}")).await;
    let silence = [
        ("matchers", "service=x"),
        ("lasts", "1h"),
        ("author", "a"),
        ("comment", "b"),
    ];
    let named = form(&[("name", "Slower"), ("enabled", "no")]);
    for (address, body) in [
        (format!("/alerts/{id}/acknowledge"), String::new()),
        ("/alerts/silences/add".into(), form(&silence)),
        ("/alerts/rules/enable".into(), named),
    ] {
        let (status, _, page) = site.change("POST", &address, body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{address}");
        assert!(page.contains("may only read the database"), "{page}");
    }
    let rule = json!({"when": "regression"}).to_string();
    let (status, _, answer) = site.change("PUT", "/api/v1/alert-rules/mine", rule).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.contains("may only read the database"), "{answer}");
}

#[tokio::test]
async fn rules_tell_only_channels_that_there_are() {
    let site = site().await;
    let put = json!({"kind": "slack", "url": "https://hooks.slack.com/services/T/B/x"}).to_string();
    let (status, _, answer) = site.change("PUT", "/api/v1/alert-channels/ops", put).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let rule = |channel: &str| json!({"when": "regression", "channels": [channel]}).to_string();
    let path = "/api/v1/alert-rules/slower-here";
    let (status, _, answer) = site.change("PUT", path, rule("nope")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer.contains("no channel 'nope'. There is ops."),
        "{answer}"
    );
    let maybe = format!("{path}?enabled=maybe");
    let (status, ..) = site.change("PUT", &maybe, rule("ops")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, ..) = site.change("PUT", path, rule("ops")).await;
    assert_eq!(status, StatusCode::OK);
    let delete = form(&[("name", "ops")]);
    let (status, _, page) = site.change("POST", "/alerts/channels/delete", delete).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(page.contains("slower-here"), "{page}");
    // The file is not asked.
    sqlx::query("delete from culprit.alert_channels")
        .execute(site.store.pool())
        .await
        .unwrap();
    for path in ["/alerts", "/alerts/rules"] {
        let page = site.page(path).await;
        assert!(
            page.contains("Rule slower-here tells nobody: its channel ops does not exist."),
            "{page}"
        );
    }
}

#[tokio::test]
async fn channels_that_their_receivers_switched_off_are_told_and_failed_tests_are_not() {
    let site = site().await;
    for (name, failures) in [("ops", 0), ("tried", 3), ("quiet", 0)] {
        sqlx::query(
            "insert into culprit.alert_channels (name, kind, source, settings, shown, failures, changed_by)
             values ($1, 'webhook', 'ui', '{}', '', $2, '')",
        )
        .bind(name)
        .bind(failures)
        .execute(site.store.pool())
        .await
        .unwrap();
    }
    site.store
        .queue_test("tried", "Ann", super::now_ms())
        .await
        .unwrap();
    sqlx::query("update culprit.outbox set attempts = 3")
        .execute(site.store.pool())
        .await
        .unwrap();
    site.store
        .enable_channel("quiet", false, "Ann")
        .await
        .unwrap();
    let page = site.page("/alerts").await;
    assert!(!page.contains("Not everybody is told"), "{page}");
    site.store.channel_gone("ops", "410 Gone").await.unwrap();
    let page = site.page("/alerts").await;
    assert!(
        page.contains("ops (switched off by its receiver)"),
        "{page}"
    );
    let page = site.page("/alerts/channels").await;
    assert!(
        texts(&page, ".pill")
            .iter()
            .any(|it| it == "switched off by its receiver"),
        "{page}"
    );
}

#[tokio::test]
async fn who_silenced_and_who_acknowledged_stand_apart() {
    let site = site().await;
    let id = incident(&site.store, 7, "firing", "shop").await;
    incident(&site.store, 8, "firing", "cart").await;
    let wish = json!({"matchers": [{"label": "service", "value": "shop"}], "duration": "2h",
                      "author": "Bob", "comment": "known"});
    let (status, _, made) = site
        .change("POST", "/api/v1/silences", wish.to_string())
        .await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["matches_now"], 1);
    let silence = Uuid::try_parse(made["id"].as_str().unwrap()).unwrap();
    sqlx::query(
        "update culprit.incidents set silenced_by = $1, acknowledged_by = 'Ann' where id = $2",
    )
    .bind(silence)
    .bind(id)
    .execute(site.store.pool())
    .await
    .unwrap();
    let page = site.page("/alerts").await;
    assert_eq!(
        texts(&page, "h1"),
        ["2 alerts fire, 1 acknowledged, 1 silenced, 1 not silenced"]
    );
    let state = texts(&page, "[data-l=State]").join(" ");
    let state = state.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        state.contains("silenced") && state.contains("acknowledged"),
        "{state}"
    );
    assert!(state.contains("Bob") && state.contains("Ann"), "{state}");
    let page = site.page("/alerts/silences").await;
    assert!(page.contains("matches 1 alert that fires now"), "{page}");
}
