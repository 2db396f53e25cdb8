//! `/api/v1/endpoints/{id}/profile`: an endpoint's call paths, and what makes one set of requests
//! slower than another. As JSON, and as files for other tools. The parameters are those of the page:
//! `range`, `flame`, `measure`, `version`, `base`, `against`.

use analyzer::profile::{Difference, Measure};
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::bottlenecks::answer;
use super::services::service_json;
use crate::AppState;
use crate::flame;
use crate::format;
use crate::pages::PageError;
use crate::pages::call_paths::{self, CallPaths, Requests, View, measure_id};
use crate::pages::endpoint;
use crate::pprof::{self, About};
use crate::range::minute_ns;
use crate::speedscope;
use collector::store::endpoints::EndpointName;

/// What a request asks for.
struct Asked {
    endpoint: EndpointName,
    view: View,
    paths: CallPaths,
}

impl Asked {
    async fn read(state: &AppState, id: &str, query: Option<&str>) -> Result<Asked, PageError> {
        let view = View::parse(query)?;
        let endpoint = endpoint::named(&state.store, id).await?;
        let paths = call_paths::read(&state.store, &endpoint, &view, format::now_ns()).await?;
        Ok(Asked {
            endpoint,
            view,
            paths,
        })
    }

    /// `GET /posts of shop, the slow tail`
    fn title(&self) -> String {
        let of = &self.paths.of.name;
        let EndpointName { name, service, .. } = &self.endpoint;
        match &self.paths.base {
            Some(base) => format!("{name} of {}, {of} versus {}", service.name, base.name),
            None => format!("{name} of {}, {of}", service.name),
        }
    }

    /// Refuses a comparison: the file is of one profile.
    fn single(self, advice: &str) -> Result<Asked, PageError> {
        match self.paths.base {
            None => Ok(self),
            Some(_) => Err(PageError::BadRequest(format!(
                "This file is of one set of requests: choose flame=all or flame=tail. {advice}"
            ))),
        }
    }
}

/// The paths with their numbers, summed over the requests; of a comparison per request, ranked by what
/// they contribute.
pub async fn json(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Asked::read(&state, &id, query.as_deref()).await;
    answer(asked.map(|it| json_of(&it)))
}

/// Folded stacks: `a;b;c ns`, of a comparison `a;b;c ns ns`, per request, the one it is compared with
/// first.
pub async fn folded(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match Asked::read(&state, &id, query.as_deref()).await {
        Ok(asked) => text_of(&asked.paths, asked.view.measure).into_response(),
        Err(error) => answer(Err(error)),
    }
}

/// For `go tool pprof`.
pub async fn pprof(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Asked::read(&state, &id, query.as_deref()).await;
    let advice = "Two files are compared by `go tool pprof -diff_base OLD NEW`.";
    let file = asked.and_then(|it| it.single(advice)).and_then(|asked| {
        let hours = &asked.paths.of.hours;
        let begin_ns = |hour: i32| minute_ns(hour.saturating_mul(60));
        let about = About {
            title: &asked.title(),
            start_ns: begin_ns(hours.start),
            duration_ns: begin_ns(hours.end) - begin_ns(hours.start),
            measure: asked.view.measure,
        };
        let file = pprof::file(&asked.paths.of.counted.profile, &about);
        file.map_err(|error| PageError::Broken(error.into()))
    });
    match file {
        Ok(file) => kept("profile.pb.gz", "application/octet-stream", file),
        Err(error) => answer(Err(error)),
    }
}

/// For speedscope.
pub async fn speedscope(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Asked::read(&state, &id, query.as_deref()).await;
    match asked.and_then(|it| it.single("")) {
        Ok(asked) => {
            let profile = &asked.paths.of.counted.profile;
            let file = speedscope::file(profile, &asked.title(), asked.view.measure);
            let json = file.to_string().into_bytes();
            kept("profile.speedscope.json", "application/json", json)
        }
        Err(error) => answer(Err(error)),
    }
}

/// The lines of a file for flame-graph tools, or why there are none.
pub fn text_of(paths: &CallPaths, measure: Measure) -> impl IntoResponse {
    let lines = lines(paths, measure);
    let text: String = lines
        .into_iter()
        .flat_map(|it| [it, "\n".to_owned()])
        .collect();
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (StatusCode::OK, headers, text)
}

/// Folded stacks, with two numbers each if two are compared.
pub fn lines(paths: &CallPaths, measure: Measure) -> Vec<String> {
    match paths.difference() {
        Some(difference) => flame::folded_difference(&difference, measure),
        None => flame::folded(&paths.of.counted.profile, measure),
    }
}

/// A file that a browser keeps instead of showing it.
fn kept(name: &str, content_type: &'static str, file: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (headers, file).into_response()
}

fn json_of(asked: &Asked) -> Value {
    let paths = &asked.paths;
    let difference = paths.difference();
    let mut json = json!({
        "id": asked.endpoint.id,
        "endpoint": asked.endpoint.name,
        "service": service_json(&asked.endpoint.service),
        "flame": asked.view.shown.id(),
        "measure": measure_id(asked.view.measure),
        "of": requests_json(&paths.of),
        "versions": paths.versions,
    });
    if let (Some(base), Some(difference)) = (&paths.base, &difference) {
        json["versus"] = requests_json(base);
        json["change_ns_per_request"] = difference.total_change_ns(asked.view.measure).into();
    }
    json["paths"] = match &difference {
        Some(difference) => difference_json(difference, asked.view.measure),
        None => paths_json(&paths.of),
    };
    json
}

pub(super) fn requests_json(requests: &Requests) -> Value {
    let begin = |hour: i32| format::at(minute_ns(hour.saturating_mul(60)));
    json!({
        "name": requests.name,
        "from": begin(requests.hours.start),
        "until": begin(requests.hours.end),
        "requests": requests.counted.requests,
    })
}

fn paths_json(requests: &Requests) -> Value {
    let nodes = &requests.counted.profile.nodes;
    let mut stacks: Vec<Vec<&str>> = Vec::with_capacity(nodes.len());
    let mut paths: Vec<Value> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut stack = node
            .parent
            .map_or_else(Vec::new, |it| stacks[it as usize].clone());
        stack.push(&node.name);
        paths.push(json!({
            "path": stack,
            "category": node.category.id(),
            "calls": node.count,
            "self_ns": node.self_ns,
            "critical_path_ns": node.critical_ns,
        }));
        stacks.push(stack);
    }
    Value::Array(paths)
}

pub(super) fn difference_json(difference: &Difference, measure: Measure) -> Value {
    let path = |at: usize| {
        let node = &difference.nodes[at];
        json!({
            "path": difference.path(at),
            "category": node.category.id(),
            "change_ns_per_request": difference.change_ns(at, measure),
            "ns_per_request": difference.per_request_ns(at, measure),
            "versus_ns_per_request": difference.base_per_request_ns(at, measure),
            "calls": node.amounts.count,
            "versus_calls": node.base.count,
        })
    };
    difference.ranked(measure).into_iter().map(path).collect()
}
