//! `/api/v1/deployments`: what was deployed when. Services whose spans carry `service.version` need not say
//! anything; for others a pipeline tells it with a POST:
//!
//! ```text
//! curl -d '{"service": "shop", "version": "1.4.2"}' http://culprit:7117/api/v1/deployments
//! ```

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use collector::store::deployments::{Deployment, Removed, Told};
use collector::store::services::ServiceName;
use serde_json::{Map, Value, json};
use url::Url;

use super::bottlenecks::answer;
use super::services::service_json;
use crate::deployed::{self, Listed, ms_to_ns};
use crate::pages::{PageError, not_written};
use crate::{AppState, format, timestamps};

/// Bytes of a version, a name or an author; longer ones are no name of anything.
const NAME_BYTES_MAX: usize = 256;

/// Bytes of a description or an address; longer ones are refused.
const TEXT_BYTES_MAX: usize = 2_000;

/// A deployment may lie so far ahead: clocks differ.
const AHEAD_NS_MAX: u64 = 5 * 60 * 1_000_000_000;

/// A deployment may lie so far back: what was longer ago is a slip (a clock, a unit), and there is nothing to
/// compare it with.
const BACK_NS_MAX: u64 = 30 * 86_400 * 1_000_000_000;

/// Services that an answer lists when the one asked for is not among them.
const LISTED_MAX: i64 = 20;

/// What a POST may hold.
const FIELDS: [&str; 8] = [
    "service",
    "version",
    "environment",
    "namespace",
    "at",
    "description",
    "url",
    "author",
];

/// Deployments, the newest first: `service`, `env`, `range`, and `before` for older ones.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    let listed = deployed::read(&state.store, query.as_deref(), format::now_ns()).await;
    answer(listed.map(|it| list_json(&it)))
}

/// One deployment.
pub async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    answer(read_one(&state, &id).await.map(|it| deployment_json(&it)))
}

/// Takes a deployment away that was told.
pub async fn remove(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    match try_remove(&state, &id).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => answer(Err(error)),
    }
}

/// Notes a deployment. 201, or 200 if it was known already and got a description.
pub async fn tell(State(state): State<AppState>, body: Bytes) -> Response {
    match try_tell(&state, &body).await {
        Ok((deployment, is_new)) => {
            let status = if is_new {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let location = format!("/api/v1/deployments/{}", deployment.id);
            let headers = [(header::LOCATION, location)];
            (status, headers, Json(deployment_json(&deployment))).into_response()
        }
        Err(error) => answer(Err(error)),
    }
}

async fn read_one(state: &AppState, id: &str) -> Result<Deployment, PageError> {
    // What somebody has just told is there.
    let found = match id.parse() {
        Ok(id) => state.store.for_changes().deployment(id).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> PageError {
    PageError::NotFound(format!("There is no deployment '{id}'."))
}

async fn try_remove(state: &AppState, id: &str) -> Result<(), PageError> {
    let number: i32 = id.parse().map_err(|_| missing(id))?;
    let removed = state.store.remove_deployment(number, "").await;
    match removed.map_err(not_written)? {
        Removed::Gone => Ok(()),
        Removed::Unknown => Err(missing(id)),
        Removed::Seen => Err(PageError::conflict(
            "This deployment was seen in spans (their service.version changed), and that cannot be taken back. \
             Only deployments that were told over the API can be deleted."
                .to_owned(),
        )),
    }
}

async fn try_tell(state: &AppState, body: &[u8]) -> Result<(Deployment, bool), PageError> {
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        bad(format!(
            "The body is not a JSON object such as {{\"service\": \"shop\", \"version\": \"1.4.2\"}}: {error}."
        ))
    })?;
    if let Some(name) = fields.keys().find(|it| !FIELDS.contains(&&***it)) {
        let name: String = name.chars().take(60).collect();
        return Err(bad(format!(
            "There is no field '{name}'. The fields are {}.",
            FIELDS.join(", ")
        )));
    }
    let told = told(&fields, format::now_ns())?;
    let service = service(state, &fields).await?;
    let told = Told {
        service_id: service.id,
        ..told
    };
    let (id, is_new) = state
        .store
        .tell_deployment(&told)
        .await
        .map_err(not_written)?;
    Ok((read_one(state, &id.to_string()).await?, is_new))
}

fn bad(text: String) -> PageError {
    PageError::BadRequest(text)
}

/// All but the service.
fn told(fields: &Map<String, Value>, now_ns: u64) -> Result<Told, PageError> {
    // What is of a wrong kind is named before what is missing.
    for field in FIELDS {
        text(fields, field, TEXT_BYTES_MAX)?;
    }
    let version = text(fields, "version", NAME_BYTES_MAX)?;
    if version.is_empty() {
        return Err(bad(
            "version is missing: what was deployed, such as \"1.4.2\" or a commit.".to_owned(),
        ));
    }
    let url = text(fields, "url", TEXT_BYTES_MAX)?;
    let is_web = |it: &Url| ["http", "https"].contains(&it.scheme()) && it.has_host();
    if !url.is_empty() && !Url::parse(url).as_ref().is_ok_and(is_web) {
        return Err(bad(
            "url is not an address that begins with http:// or https://.".to_owned(),
        ));
    }
    let at_ns = match text(fields, "at", NAME_BYTES_MAX)? {
        "" => now_ns,
        at => timestamps::rfc3339(at).ok_or_else(|| {
            bad("at is not a time as RFC 3339 has it, such as \"2026-11-20T14:32:08Z\".".to_owned())
        })?,
    };
    if at_ns > now_ns + AHEAD_NS_MAX {
        return Err(bad(format!(
            "at lies in the future; it is {} now. Tell deployments when they happen.",
            format::at(now_ns)
        )));
    }
    if at_ns < now_ns.saturating_sub(BACK_NS_MAX) {
        return Err(bad(format!(
            "at is more than 30 days ago; it is {} now.",
            format::at(now_ns)
        )));
    }
    Ok(Told {
        service_id: 0,
        version: version.to_owned(),
        at_ms: i64::try_from(at_ns / 1_000_000).unwrap_or(i64::MAX),
        description: text(fields, "description", TEXT_BYTES_MAX)?.to_owned(),
        url: url.to_owned(),
        author: text(fields, "author", NAME_BYTES_MAX)?.to_owned(),
    })
}

/// A field's text without white space around it; empty if it is missing or null.
fn text<'a>(
    fields: &'a Map<String, Value>,
    name: &str,
    bytes_max: usize,
) -> Result<&'a str, PageError> {
    let text = match fields.get(name) {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text.trim(),
        Some(_) => return Err(bad(format!("{name} is not a text in quotes."))),
    };
    if text.len() > bytes_max {
        return Err(bad(format!("{name} is longer than {bytes_max} bytes.")));
    }
    if text.contains('\0') {
        return Err(bad(format!("{name} holds a NUL character.")));
    }
    Ok(text)
}

/// The one service that is meant.
async fn service(state: &AppState, fields: &Map<String, Value>) -> Result<ServiceName, PageError> {
    let name = text(fields, "service", NAME_BYTES_MAX)?;
    if name.is_empty() {
        return Err(bad(
            "service is missing: its name, as service.name in spans.".to_owned(),
        ));
    }
    let named = state.store.services_named(name, LISTED_MAX).await?;
    if named.is_empty() {
        return Err(unknown(state, name).await?);
    }
    let mut found = named.clone();
    for (field, of) in [
        (
            "environment",
            (|it| &it.environment) as fn(&ServiceName) -> &String,
        ),
        ("namespace", |it| &it.namespace),
    ] {
        if fields.get(field).is_some_and(|it| !it.is_null()) {
            let wanted = text(fields, field, NAME_BYTES_MAX)?;
            found.retain(|it| of(it) == wanted);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(PageError::NotFound(format!(
            "There is a service '{name}', but not with this environment and namespace. There is {}.",
            list_of(&named)
        ))),
        _ => Err(bad(format!(
            "There are several services '{name}': say which by environment or namespace. There is {}.",
            list_of(&found)
        ))),
    }
}

async fn unknown(state: &AppState, name: &str) -> Result<PageError, PageError> {
    let mut names: Vec<String> = state
        .store
        .services_named("", LISTED_MAX)
        .await?
        .into_iter()
        .map(|it| it.name)
        .collect();
    names.dedup();
    let known = match names.as_slice() {
        [] => "No service has sent spans yet".to_owned(),
        names => format!("Known are {}", names.join(", ")),
    };
    Ok(PageError::NotFound(format!(
        "There is no service '{name}'. {known}. A service is known once it has sent a span."
    )))
}

/// `shop (environment prod), shop (no environment)`
fn list_of(services: &[ServiceName]) -> String {
    let words = |it: &ServiceName| {
        let environment = match &*it.environment {
            "" => "no environment".to_owned(),
            some => format!("environment {some}"),
        };
        match &*it.namespace {
            "" => format!("{} ({environment})", it.name),
            some => format!("{} ({environment}, namespace {some})", it.name),
        }
    };
    services.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn list_json(listed: &Listed) -> Value {
    json!({
        "deployments": listed.deployments.iter().map(deployment_json).collect::<Vec<_>>(),
        "older": listed.older.as_ref().map(|it| format!("/api/v1/deployments{it}")),
    })
}

/// A deployment for programs.
pub(super) fn deployment_json(it: &Deployment) -> Value {
    json!({
        "id": it.id,
        "service": service_json(&it.service),
        "version": it.version,
        "previous": it.previous,
        "at": format::at(ms_to_ns(it.at_ms)),
        "source": it.source,
        "description": it.description,
        "url": it.url,
        "compare": deployed::compare_link(it, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Site;
    use axum::body::Body;
    use axum::http::Request;

    async fn site() -> Site {
        let site = Site::on(collector::testing::store().await);
        sqlx::query(
            "insert into culprit.services (namespace, name, environment)
             values ('', 'shop', 'prod'), ('', 'shop', 'staging'), ('', 'cart', '')",
        )
        .execute(site.store.pool())
        .await
        .unwrap();
        site
    }

    async fn post(site: &Site, body: &str) -> (StatusCode, Value) {
        let request = Request::post("/api/v1/deployments")
            .body(Body::from(body.to_owned()))
            .unwrap();
        site.send(request).await
    }

    #[tokio::test]
    async fn a_pipeline_tells_what_it_deployed_and_it_is_listed() {
        let site = site().await;
        let at = format::at(format::now_ns() - 60_000_000_000);
        let body = json!({"service": "shop", "environment": "prod", "version": "1.4.2", "at": at,
            "description": "Prices <b>", "url": "https://ci.example/1", "author": "ci"});
        let (status, told) = post(&site, &body.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{told}");
        assert_eq!((&told["at"], &told["source"]), (&json!(at), &json!("told")));
        let (status, again) = post(&site, &body.to_string()).await;
        assert_eq!((status, &again["id"]), (StatusCode::OK, &told["id"]));
        let listed = site.page("/api/v1/deployments?service=shop&range=1h").await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed["deployments"][0]["url"], "https://ci.example/1");
        let none = site.page("/api/v1/deployments?service=cart").await;
        assert!(none.contains("\"deployments\":[]"), "{none}");
        let delete = |id: &Value| {
            Request::delete(format!("/api/v1/deployments/{id}"))
                .body(Body::empty())
                .unwrap()
        };
        assert_eq!(
            site.send(delete(&told["id"])).await.0,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            site.send(delete(&told["id"])).await.0,
            StatusCode::NOT_FOUND
        );
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let site = site().await;
        let bad = StatusCode::BAD_REQUEST;
        let gone = StatusCode::NOT_FOUND;
        for (body, status, words) in [
            ("service=shop", bad, "not a JSON object"),
            ("[]", bad, "not a JSON object"),
            ("{}", bad, "version is missing"),
            (r#"{"version": "1"}"#, bad, "service is missing"),
            (
                r#"{"service": "cart", "version": 1}"#,
                bad,
                "version is not a text",
            ),
            (
                r#"{"service": "cart", "version": "1", "enviroment": "x"}"#,
                bad,
                "no field 'enviroment'",
            ),
            (
                r#"{"service": "cart", "version": "1", "at": "today"}"#,
                bad,
                "at is not a time",
            ),
            (
                r#"{"service": "cart", "version": "1", "at": "2999-01-01T00:00:00Z"}"#,
                bad,
                "at lies in the future",
            ),
            (
                r#"{"service": "cart", "version": "1", "at": "1970-01-01T00:00:00Z"}"#,
                bad,
                "more than 30 days ago",
            ),
            (r#"{"service": 1}"#, bad, "service is not a text"),
            (
                r#"{"service": "cart", "version": "1", "url": "javascript:alert(1)"}"#,
                bad,
                "url is not",
            ),
            (
                r#"{"service": "cart", "version": "1", "url": "//evil.example"}"#,
                bad,
                "url is not",
            ),
            (
                r#"{"service": "cart", "version": "1\u0000"}"#,
                bad,
                "version holds a NUL",
            ),
            (
                r#"{"service": "card", "version": "1"}"#,
                gone,
                "Known are cart, shop",
            ),
            (
                r#"{"service": "shop", "version": "1"}"#,
                bad,
                "environment prod",
            ),
            (
                r#"{"service": "shop", "version": "1", "environment": "x"}"#,
                gone,
                "environment staging",
            ),
        ] {
            let (is, answer) = post(&site, body).await;
            let error = answer["error"].as_str().unwrap_or_default();
            assert_eq!(
                (is, error.contains(words)),
                (status, true),
                "{body}: {answer}"
            );
        }
        let (status, _) = post(&site, r#"{"service": "cart", "version": "1"}"#).await;
        assert_eq!(status, StatusCode::CREATED);
    }

    #[tokio::test]
    async fn what_was_seen_cannot_be_deleted() {
        let site = site().await;
        sqlx::query("insert into culprit.deployments (service_id, version, at, source) values (1, '1', now(), 'seen')")
            .execute(site.store.pool())
            .await
            .unwrap();
        let request = Request::delete("/api/v1/deployments/1").body(Body::empty());
        let (status, answer) = site.send(request.unwrap()).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(answer["error"].as_str().unwrap().contains("seen in spans"));
    }
}
