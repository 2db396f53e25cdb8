//! A Python program with the official SDK and its OTLP exporters.
//!
//! `make test` prepares the interpreter (`CULPRIT_TEST_PYTHON`) with the SDK from its registry.

use std::process::Command;

use crate::support::culprit::{Culprit, data_directory};

const PROGRAM: &str = include_str!("sdk_python.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_sdk_arrives_attribute_by_attribute() {
    let python = std::env::var("CULPRIT_TEST_PYTHON")
        .expect("CULPRIT_TEST_PYTHON names a Python with the OpenTelemetry SDK; run `make test`");
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    for (transport, endpoint) in [
        ("grpc", culprit.grpc.clone()),
        ("http", format!("{}/v1/traces", culprit.http)),
    ] {
        let output = Command::new(&python)
            .args(["-c", PROGRAM, transport, &endpoint])
            .output()
            .expect("Python starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        assert!(!errors.contains("Failed to export"), "{errors}");
        let trace_id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let trace = culprit.trace(&trace_id).await;
        check(&trace);
        let page = culprit.get(&format!("/traces/{trace_id}")).await;
        assert!(
            page.contains("GET /basket/{id}"),
            "the page names the endpoint"
        );
    }
    assert!(culprit.terminate().await);
}

fn check(trace: &serde_json::Value) {
    let resource_spans = &trace["resourceSpans"][0];
    let value = |attributes: &serde_json::Value, key: &str| {
        let attributes = attributes.as_array().expect("attributes").iter();
        attributes
            .filter(|it| it["key"] == key)
            .map(|it| it["value"].clone())
            .next()
            .unwrap_or_default()
    };
    assert_eq!(
        value(&resource_spans["resource"]["attributes"], "service.name")["stringValue"],
        "basket"
    );
    assert_eq!(
        value(
            &resource_spans["resource"]["attributes"],
            "telemetry.sdk.language"
        )["stringValue"],
        "python"
    );
    let scope_spans = &resource_spans["scopeSpans"][0];
    assert_eq!(scope_spans["scope"]["name"], "basket.web");
    let spans = scope_spans["spans"].as_array().expect("spans");
    assert_eq!(spans.len(), 2);
    let server = spans
        .iter()
        .find(|it| it["kind"] == 2)
        .expect("a server span");
    let client = spans
        .iter()
        .find(|it| it["kind"] == 3)
        .expect("a client span");
    assert_eq!(client["parentSpanId"], server["spanId"]);
    let attribute = |key: &str| value(&server["attributes"], key);
    assert_eq!(attribute("http.route")["stringValue"], "/basket/{id}");
    assert_eq!(attribute("items")["intValue"], "3");
    assert_eq!(attribute("total")["doubleValue"], 12.5);
    assert_eq!(attribute("gift")["boolValue"], true);
    assert_eq!(
        attribute("tags")["arrayValue"]["values"][1]["stringValue"],
        "ü"
    );
    assert_eq!(
        value(&client["attributes"], "db.query.text")["stringValue"],
        "SELECT * FROM basket WHERE id = %s"
    );
    assert_eq!(client["status"]["code"], 2);
    let event = &client["events"][0];
    assert_eq!(event["name"], "exception");
    assert_eq!(
        value(&event["attributes"], "exception.type")["stringValue"],
        "ValueError"
    );
}
