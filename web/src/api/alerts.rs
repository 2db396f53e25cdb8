//! Alerts as JSON: `/api/v1/alerts`, `/api/v1/alert-rules`, `/api/v1/alert-channels`, `/api/v1/silences`.
//! Times are RFC 3339 in UTC. Changes say who makes them with `?author=…`. Secrets come in and never go out.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use collector::alert::rule::Rule;
use collector::store::alerts_shown::{Attempt, Incident, IncidentFilter, ShownMessage};
use collector::store::channels::StoredChannel;
use collector::store::rules::{Changed, StoredRule};
use collector::store::silences::{Matcher, Silence, SilenceKind};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::bottlenecks::answer;
use crate::AppState;
use crate::acts;
use crate::address::Address;
use crate::format;
use crate::pages::PageError;
use crate::pages::alerts::channel_form::{keys_of, kind_of, shown, stored as settings_of};
use crate::pages::alerts::channels::{self, Wanted};
use crate::pages::alerts::incident::Told;
use crate::pages::alerts::inputs::Problems;
use crate::pages::alerts::rules::built_in;
use crate::pages::alerts::silences::{Wish, matched};
use crate::pages::alerts::{
    RESOLVED_SHOWN, filter, fixed, incident, now_ms, ns, reach, read_cursor, state, too_many,
    write_cursor, yes_or_no,
};

/// Who, if an address does not say.
const NOBODY: &str = "API";

/// `GET /api/v1/alerts?service=…&rule=…&severity=…&after=…`: what fires or is pending (on the first page), and
/// what is over, latest first, with `next` for the page behind.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    answer(read_list(&state, &Address::parse(query.as_deref())).await)
}

async fn read_list(state: &AppState, address: &Address) -> Result<Value, PageError> {
    let filter: IncidentFilter = filter(address);
    let bad = || PageError::BadRequest("`after` is what `next` said on the page before.".into());
    let after = match address.get("after") {
        Some(text) => Some(read_cursor(text).ok_or_else(bad)?),
        None => None,
    };
    let live = match after {
        None => state.store.live_incidents(&filter).await?,
        Some(_) => Vec::new(),
    };
    let limit = RESOLVED_SHOWN as i64;
    let over = state
        .store
        .resolved_incidents(&filter, after, limit)
        .await?;
    let next = over
        .last()
        .filter(|_| over.len() == RESOLVED_SHOWN)
        .and_then(Incident::cursor);
    Ok(json!({
        "live": live.iter().map(incident_json).collect::<Vec<_>>(),
        "resolved": over.iter().map(incident_json).collect::<Vec<_>>(),
        "next": next.map(write_cursor),
    }))
}

/// `GET /api/v1/alerts/{id}`: one with what was said, how that went, and who did what.
pub async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    answer(read_one(&state, &id).await)
}

async fn read_one(state: &AppState, id: &str) -> Result<Value, PageError> {
    let told = Told::load(state, incident::id(id)?).await?;
    let mut it = incident_json(&told.incident);
    it["history"] = told
        .acts
        .iter()
        .map(|it| json!({"at": at(it.at_ms), "author": it.author, "action": it.action, "detail": it.detail}))
        .collect();
    let message = |message: &ShownMessage| {
        let tries = told
            .attempts
            .iter()
            .filter(|it| it.message_id == message.id);
        let mut it = message_json(message);
        it["deliveries"] = tries.map(attempt_json).collect();
        it
    };
    it["messages"] = told.messages.iter().map(message).collect();
    it["silence"] = told.silence.as_ref().map(silence_json).into();
    Ok(it)
}

fn incident_json(it: &Incident) -> Value {
    json!({
        "id": it.id,
        "rule": it.rule,
        "state": state(it).0,
        "severity": it.severity,
        "title": it.alert.title,
        "summary": it.alert.summary,
        "labels": it.labels,
        "facts": it.alert.facts,
        "data": it.alert.data,
        "links": it.alert.links,
        "started_at": at(it.started_ms),
        "fired_at": it.fired_ms.map(at),
        "last_true_at": at(it.last_true_ms),
        "resolved_at": it.resolved_ms.map(at),
        "notified": it.notified,
        "notified_at": it.notified_ms.map(at),
        "acknowledged_by": it.acknowledged_by,
        "silenced_by": it.silenced_by,
        "flapping": it.flapping,
        "page": format!("/alerts/{}", it.id),
    })
}

fn message_json(it: &ShownMessage) -> Value {
    json!({
        "id": it.id,
        "channel": it.channel,
        "event": it.event,
        "title": it.title,
        "queued_at": at(it.created_ms),
        "attempts": it.attempts,
        "delivered_at": it.delivered_ms.map(at),
        "given_up_at": it.dead_ms.map(at),
        "last_error": it.last_error,
        "replayed_from": it.replayed_from,
    })
}

fn attempt_json(it: &Attempt) -> Value {
    json!({
        "message": it.message_id,
        "attempt": it.attempt,
        "channel": it.channel,
        "at": at(it.at_ms),
        "took_ms": it.took_ms,
        "outcome": it.outcome,
        "detail": it.detail,
    })
}

/// `POST /api/v1/alerts/{id}/acknowledge`.
pub async fn acknowledge(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(set_seen(&state, &id, query.as_deref(), true).await)
}

/// `DELETE /api/v1/alerts/{id}/acknowledge`.
pub async fn unacknowledge(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(set_seen(&state, &id, query.as_deref(), false).await)
}

async fn set_seen(
    state: &AppState,
    id: &str,
    query: Option<&str>,
    seen: bool,
) -> Result<Value, PageError> {
    let uuid = incident::id(id)?;
    let author = author(query);
    // Missing: it is so already, or over; the answer shows which.
    let _: Changed = state
        .store
        .acknowledge_incident(uuid, seen, &author, "")
        .await?;
    read_one(state, id).await
}

/// `GET /api/v1/alert-rules`.
pub async fn rules(State(state): State<AppState>) -> Response {
    let rules = state.store.rules().await.map_err(PageError::from);
    answer(rules.map(|it| json!({ "rules": it.iter().map(rule_json).collect::<Vec<_>>() })))
}

fn rule_json(it: &StoredRule) -> Value {
    json!({
        "rule": it.rule,
        "sentence": it.rule.to_string(),
        "source": it.source.name(),
        "enabled": it.enabled,
        "changed_at": at(it.changed_ms),
        "changed_by": it.changed_by,
    })
}

/// `PUT /api/v1/alert-rules/{name}`: the rule as it stands under `rule` in the list, the name left out or the
/// same; `?enabled=no` disables it.
pub async fn put_rule(
    State(state): State<AppState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    answer(store_rule(&state, &name, query.as_deref(), &body).await)
}

async fn store_rule(
    state: &AppState,
    name: &str,
    query: Option<&str>,
    body: &str,
) -> Result<Value, PageError> {
    let wrong =
        |error: serde_json::Error| PageError::BadRequest(format!("The rule is wrong: {error}"));
    let mut written: Value = serde_json::from_str(body).map_err(wrong)?;
    let Some(fields) = written.as_object_mut() else {
        return Err(PageError::BadRequest(
            "The rule is wrong: it is no object".into(),
        ));
    };
    let named = fields.entry("name").or_insert_with(|| json!(name));
    if named != name {
        return Err(PageError::BadRequest(
            "The rule's name is another than the one in the address.".into(),
        ));
    }
    let rule: Rule = serde_json::from_value(written).map_err(wrong)?;
    if rule.name.contains(acts::reorders) {
        return Err(PageError::BadRequest(
            "The rule is wrong: its name holds characters that reorder the text beside them."
                .into(),
        ));
    }
    if let Some(text) = reach::unknown(&rule, &state.store.channels().await?) {
        return Err(PageError::BadRequest(text));
    }
    let enabled = match Address::parse(query).get("enabled") {
        None => true,
        Some(text) => yes_or_no("enabled", text)?,
    };
    let changed = state.store.put_rule(&rule, enabled, &author(query)).await?;
    done(changed, "rule", name)?;
    Ok(json!({ "rule": rule, "sentence": rule.to_string(), "enabled": enabled }))
}

/// `DELETE /api/v1/alert-rules/{name}`: a built-in one that was changed is as it was again.
pub async fn delete_rule(
    State(state): State<AppState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let built_in = built_in(&name);
    let author = author(query.as_deref());
    let changed = state
        .store
        .delete_rule(&name, built_in.as_ref(), &author)
        .await;
    nothing(changed.map_err(PageError::from), "rule", &name)
}

/// `GET /api/v1/alert-channels`: how each does, the latest attempts, and what was given up.
pub async fn channels(State(state): State<AppState>) -> Response {
    answer(read_channels(&state).await)
}

async fn read_channels(state: &AppState) -> Result<Value, PageError> {
    let store = &state.store;
    let channels = store.channels().await?;
    let backlog = store.outbox_backlog().await?;
    let attempts = store.latest_attempts(None, 100).await?;
    let dead = store.dead_messages().await?;
    Ok(json!({
        "channels": channels.iter().map(channel_json).collect::<Vec<_>>(),
        "waiting": backlog.iter().map(|it| json!({
            "channel": it.channel, "messages": it.messages, "oldest_at": at(it.oldest_ms),
        })).collect::<Vec<_>>(),
        "deliveries": attempts.iter().map(attempt_json).collect::<Vec<_>>(),
        "given_up": dead.iter().map(message_json).collect::<Vec<_>>(),
    }))
}

fn channel_json(it: &StoredChannel) -> Value {
    json!({
        "name": it.name,
        "kind": it.kind,
        "source": it.source().name(),
        "enabled": it.enabled,
        "leads_to": it.shown,
        "settings": shown(settings_of(it).as_ref()),
        "failures": it.failures,
        "paused_until": it.paused_until_ms.map(at),
        "last_success_at": it.last_success_ms.map(at),
        "last_error": it.last_error,
        "changed_at": at(it.changed_ms),
        "changed_by": it.changed_by,
    })
}

/// `PUT /api/v1/alert-channels/{name}`: `{"kind": "slack", "url": "…"}`, the keys of the configuration file, and
/// `enabled`. A secret that is left out stays as it is.
pub async fn put_channel(
    State(state): State<AppState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    answer(store_channel(&state, &name, query.as_deref(), &body).await)
}

async fn store_channel(
    state: &AppState,
    name: &str,
    query: Option<&str>,
    body: &str,
) -> Result<Value, PageError> {
    // An error of serde's could repeat a secret: only the place is said.
    let wrong = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        PageError::BadRequest(format!(
            "The channel is no JSON (line {line}, column {column})."
        ))
    };
    let written: Value = serde_json::from_str(body).map_err(wrong)?;
    let fields = written
        .as_object()
        .ok_or_else(|| PageError::BadRequest("The channel is no object.".into()))?;
    let old = state.store.channel(name).await?;
    let kind = match (fields.get("kind").and_then(Value::as_str), &old) {
        (Some(kind), _) => kind_of(kind),
        (None, Some(old)) => kind_of(&old.kind),
        (None, None) => None,
    };
    let kind = kind.ok_or_else(|| {
        PageError::BadRequest(
            "`kind` is one of webhook, slack, alertmanager, pagerduty, email.".into(),
        )
    })?;
    let known = keys_of(kind);
    for key in fields.keys() {
        if !known.contains(&key.as_str()) && !["kind", "enabled", "name"].contains(&key.as_str()) {
            return Err(PageError::BadRequest(format!(
                "`{key}` is no setting of this kind."
            )));
        }
    }
    let enabled = match fields.get("enabled") {
        None => old.as_ref().is_none_or(|it| it.enabled),
        Some(it) => it
            .as_bool()
            .ok_or_else(|| PageError::BadRequest("`enabled` is true or false.".into()))?,
    };
    let sent = |key: &str| match fields.get(key) {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Array(all)) => {
            let texts: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            texts.join(",")
        }
        _ => String::new(),
    };
    let settings = old.as_ref().and_then(settings_of);
    let author = author(query);
    let wanted = Wanted {
        name,
        kind,
        is_new: false,
        enabled,
        author: &author,
    };
    if let Some(problems) = channels::put(state, &wanted, settings.as_ref(), sent).await? {
        return Err(PageError::BadRequest(in_words(&problems)));
    }
    let stored = state.store.channel(name).await?;
    Ok(stored.as_ref().map(channel_json).into())
}

/// What is wrong, key by key.
fn in_words(problems: &Problems) -> String {
    let words = problems.iter().map(|(key, problem)| match key.as_str() {
        "" => problem.clone(),
        key => format!("`{key}`: {problem}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `DELETE /api/v1/alert-channels/{name}`.
pub async fn delete_channel(
    State(state): State<AppState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let author = author(query.as_deref());
    nothing(
        remove_channel(&state, &name, &author).await,
        "channel",
        &name,
    )
}

async fn remove_channel(state: &AppState, name: &str, author: &str) -> Result<Changed, PageError> {
    match reach::needed(&state.store, name).await? {
        Some(why) => Err(PageError::conflict(why)),
        None => Ok(state.store.delete_channel(name, author).await?),
    }
}

/// `POST /api/v1/alert-channels/{name}/test`: sends a message, waits up to some seconds, and tells what came
/// of it.
pub async fn test(
    State(state): State<AppState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(run_test(&state, &name, &author(query.as_deref())).await)
}

async fn run_test(state: &AppState, name: &str, author: &str) -> Result<Value, PageError> {
    let id = channels::queue_test(&state.store, name, author).await?;
    let attempts = channels::outcome(&state.store, id).await?;
    Ok(json!({
        "message": id,
        "deliveries": attempts.iter().map(attempt_json).collect::<Vec<_>>(),
    }))
}

/// `GET /api/v1/silences`: those that hold or will, and the latest that are over.
pub async fn silences(State(state): State<AppState>) -> Response {
    answer(read_silences(&state).await)
}

async fn read_silences(state: &AppState) -> Result<Value, PageError> {
    let now_ms = now_ms();
    let coming = state.store.unended_silences(now_ms).await?;
    let over = state.store.expired_silences(now_ms).await?;
    Ok(json!({
        "silences": coming.iter().map(silence_json).collect::<Vec<_>>(),
        "expired": over.iter().map(silence_json).collect::<Vec<_>>(),
    }))
}

fn silence_json(it: &Silence) -> Value {
    json!({
        "id": it.id,
        "kind": it.kind,
        "matchers": it.matchers,
        "starts_at": at(it.starts_ms),
        "ends_at": at(it.ends_ms),
        "author": it.author,
        "comment": it.comment,
        "created_at": at(it.created_ms),
        "ended_by": it.ended_by,
    })
}

/// A silence that is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSilence {
    kind: Option<SilenceKind>,
    matchers: Vec<Matcher>,
    /// RFC 3339 in UTC; now if it is left out.
    #[serde(default)]
    starts_at: String,
    /// RFC 3339 in UTC; or `duration`.
    #[serde(default)]
    ends_at: String,
    /// `2h`
    #[serde(default)]
    duration: String,
    author: String,
    comment: String,
}

/// `POST /api/v1/silences`: `{"matchers": [{"label": "service", "value": "shop*"}], "duration": "2h", "author":
/// "…", "comment": "…"}`, also `kind`, `starts_at`, and `ends_at` instead of `duration`.
pub async fn add_silence(State(state): State<AppState>, body: String) -> Response {
    match store_silence(&state, &body).await {
        Ok(silence) => (StatusCode::CREATED, Json(silence)).into_response(),
        Err(error) => answer(Err(error)),
    }
}

async fn store_silence(state: &AppState, body: &str) -> Result<Value, PageError> {
    let wrong = |error| PageError::BadRequest(format!("The silence is wrong: {error}"));
    let new: NewSilence = serde_json::from_str(body).map_err(wrong)?;
    let line = |it: &Matcher| format!("{}={}", it.label, it.value);
    let wish = Wish {
        kind: new.kind.unwrap_or(SilenceKind::Silence).name().into(),
        matchers: new.matchers.iter().map(line).collect::<Vec<_>>().join("\n"),
        starts: new.starts_at,
        ends: new.ends_at,
        lasts: new.duration,
        author: acts::author(&new.author),
        comment: acts::cleaned(&new.comment),
    };
    let mut silence = wish
        .silence(Uuid::now_v7(), now_ms())
        .map_err(|it| PageError::BadRequest(in_words(&renamed(it))))?;
    // As they were sent: a label may hold what separates lines.
    crate::pages::alerts::silences::check_matchers(&new.matchers).map_err(PageError::BadRequest)?;
    silence.matchers = new.matchers;
    match state.store.add_silence(&silence).await? {
        Changed::TooMany(most) => Err(PageError::BadRequest(too_many("silence", most))),
        _ => {
            let live = state
                .store
                .live_incidents(&IncidentFilter::default())
                .await?;
            let mut it = silence_json(&silence);
            it["matches_now"] = matched(&silence, &live).into();
            Ok(it)
        }
    }
}

/// The form's fields as they are called here.
fn renamed(mut problems: Problems) -> Problems {
    for (key, _) in &mut problems {
        let name = match key.as_str() {
            "starts" => "starts_at",
            "ends" => "ends_at",
            "lasts" => "duration",
            _ => continue,
        };
        *key = name.to_owned();
    }
    problems
}

/// `DELETE /api/v1/silences/{id}`: it ends now.
pub async fn end_silence(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let changed = match Uuid::try_parse(&id) {
        Ok(uuid) => {
            let author = author(query.as_deref());
            state.store.end_silence(uuid, now_ms(), &author).await
        }
        Err(_) => Ok(Changed::Missing),
    };
    nothing(changed.map_err(PageError::from), "silence", &id)
}

/// Who makes a change, as far as the address says.
fn author(query: Option<&str>) -> String {
    let address = Address::parse(query);
    let name = address.get("author").unwrap_or(NOBODY);
    acts::author(name)
}

fn done(changed: Changed, what: &str, name: &str) -> Result<(), PageError> {
    match changed {
        Changed::Done => Ok(()),
        Changed::Missing => Err(PageError::NotFound(format!("There is no {what} '{name}'."))),
        Changed::Fixed(source) => Err(PageError::BadRequest(fixed(what, source))),
        Changed::TooMany(most) => Err(PageError::BadRequest(too_many(what, most))),
    }
}

/// 204, or why nothing was changed.
fn nothing(changed: Result<Changed, PageError>, what: &str, name: &str) -> Response {
    match changed.and_then(|it| done(it, what, name)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => answer(Err(error)),
    }
}

fn at(ms: i64) -> String {
    format::at(ns(ms))
}
