//! `/api/v1/services`: services and their endpoints as JSON. The parameters are those of the page.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use collector::store::services::{EndpointSums, ServiceName, Services};
use serde_json::{Value, json};

use super::bottlenecks::answer;
use crate::AppState;
use crate::endpoint_numbers::Numbers;
use crate::format;
use crate::pages::PageError;
use crate::pages::services::narrow;
use crate::range::{Covered, Filters};

/// All services with requests in the window, by name.
pub async fn list(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    let read = read(&state, query.as_deref()).await;
    answer(read.map(|(services, covered)| services_json(&services, &covered)))
}

/// The services that an address asks for, and the time they were seen in.
///
/// # Errors
/// The address makes no sense, or the database is away.
pub(super) async fn read(
    state: &AppState,
    query: Option<&str>,
) -> Result<(Services, Covered), PageError> {
    let filters = Filters::parse(query)?;
    let now_ns = format::now_ns();
    let window = filters.range.window(now_ns);
    let mut services = state.store.services(window).await?;
    let covered = Covered::exact(&state.store, window, services.first_minute, now_ns).await?;
    narrow(&mut services, &filters);
    Ok((services, covered))
}

fn services_json(services: &Services, covered: &Covered) -> Value {
    let service = |it: &collector::store::services::ServiceSums| {
        let endpoints = it.endpoints.iter().map(|it| endpoint_json(it, covered));
        json!({
            "service": service_json(&it.service),
            "versions": it.versions,
            "endpoints": endpoints.collect::<Vec<Value>>(),
        })
    };
    json!({
        "covered": covered_json(covered),
        "services": services.services.iter().map(service).collect::<Vec<Value>>(),
    })
}

/// The time that rates are of.
pub(super) fn covered_json(covered: &Covered) -> Value {
    json!({ "from": format::at(covered.from_ns), "to": format::at(covered.now_ns) })
}

/// A service's names.
pub(super) fn service_json(service: &ServiceName) -> Value {
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "environment": service.environment,
    })
}

/// An endpoint's numbers.
pub(super) fn endpoint_json(endpoint: &EndpointSums, covered: &Covered) -> Value {
    let mut json = Numbers::of(&endpoint.sums, covered).json();
    json.insert("id".into(), endpoint.id.into());
    json.insert("endpoint".into(), json!(endpoint.name));
    json.insert("findings".into(), endpoint.findings.into());
    Value::Object(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::deltas::MinuteDelta;
    use collector::store::services::ServiceSums;

    #[test]
    fn numbers_are_whole_and_say_their_units() {
        let mut sums = MinuteDelta {
            requests: 30,
            errors: 3,
            duration_ns: 60,
            ..Default::default()
        };
        sums.latency.record(1_000_000, 30);
        let endpoint = EndpointSums {
            id: 7,
            name: "GET /".into(),
            sums,
            findings: 2,
        };
        let service = ServiceName {
            id: 1,
            namespace: String::new(),
            name: "shop".into(),
            environment: "production".into(),
        };
        let services = Services {
            first_minute: Some(0),
            services: vec![ServiceSums {
                service,
                versions: vec![],
                endpoints: vec![endpoint],
            }],
        };
        let covered = Covered {
            from_ns: 0,
            now_ns: 60_000_000_000,
        };
        let json = services_json(&services, &covered);
        let endpoint = &json["services"][0]["endpoints"][0];
        assert_eq!(endpoint["requests_per_second"], 0.5);
        assert_eq!(endpoint["findings"], 2);
        assert_eq!(endpoint["critical_path_ns"]["pool_wait"], 0);
        let p99 = endpoint["p99_ns"].as_u64().unwrap();
        assert!(p99.abs_diff(1_000_000) < 11_000, "{p99}");
        assert_eq!(json["covered"]["to"], "1970-01-01T00:01:00Z");
    }
}
