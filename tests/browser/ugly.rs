//! Data as nobody draws it: none, one request, sixty services, nanoseconds beside days.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::walk::{Seen, WIDE_AND_NARROW, walk};
use crate::faults::wait_until_analysed;
use crate::support::culprit::{Culprit, data_directory};
use crate::support::spans::{CLIENT, SERVER, export, hex, now_ns, request, text, trace_id};

/// Pages that are there whatever has arrived; those whose rows are made of it stand first.
const ALWAYS: [&str; 17] = [
    "/",
    "/services",
    "/statements",
    "/traces",
    "/traces?live=1",
    "/regressions",
    "/deployments",
    "/compare",
    "/search?q=shop",
    "/alerts",
    "/alerts/rules",
    "/alerts/channels",
    "/alerts/silences",
    "/detectors",
    "/status",
    "/start",
    "/?range=7d&q=nothing",
];

fn look(culprit: &Culprit, always: &[&str], more: &[String]) -> Seen {
    let pages = always
        .iter()
        .map(|it| (*it).to_owned())
        .chain(more.iter().cloned());
    let addresses: Vec<String> = pages.map(|it| format!("{}{it}", culprit.ui)).collect();
    walk(&addresses, &WIDE_AND_NARROW, |_| Vec::new())
}

/// A request of `service` and a query of it, one third of its time.
fn one(number: u64, service: &str, route: &str, for_ns: u64) -> ExportTraceServiceRequest {
    let start_ns = now_ns() - 1_000_000_000 - for_ns;
    let span = |id: u64, kind, from_ns: u64, for_ns: u64, attributes| Span {
        trace_id: trace_id(number),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if id == 1 {
            Vec::new()
        } else {
            1_u64.to_be_bytes().to_vec()
        },
        name: "GET".into(),
        kind,
        start_time_unix_nano: start_ns + from_ns,
        end_time_unix_nano: start_ns + from_ns + for_ns,
        attributes,
        ..Span::default()
    };
    let entry = vec![
        text("http.request.method", "GET"),
        text("http.route", route),
    ];
    let query = vec![
        text("db.system.name", "postgresql"),
        text("db.query.text", "select 1"),
    ];
    request(
        service,
        vec![
            span(1, SERVER, 0, for_ns, entry),
            span(2, CLIENT, for_ns / 3, for_ns / 3, query),
        ],
    )
}

async fn pages_of(culprit: &Culprit, number: u64) -> Vec<String> {
    let id = hex(&trace_id(number));
    culprit.trace(&id).await;
    wait_until_analysed(culprit).await;
    let endpoints = culprit.get("/api/v1/endpoints").await;
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).expect("JSON");
    let endpoint = &endpoints["endpoints"][0]["id"];
    vec![
        format!("/traces/{id}"),
        format!("/traces/{id}/compare"),
        format!("/endpoints/{endpoint}"),
        format!("/endpoints/{endpoint}/slow"),
    ]
}

#[tokio::test]
async fn nothing_one_and_too_much_are_shown_well() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    look(&culprit, &ALWAYS, &[]).assert_clean();

    export(&culprit.grpc, one(1, "shop", "/", 1))
        .await
        .expect("taken");
    let pages = pages_of(&culprit, 1).await;
    look(&culprit, &ALWAYS[..4], &pages).assert_clean();

    const HOUR_NS: u64 = 3_600_000_000_000;
    for number in 2..62 {
        let (service, route) = (format!("service-{number}"), format!("/route/of/{number}"));
        let for_ns = match number % 4 {
            0 => number,
            1 => number * 1_000_003,
            2 => number * 1_000_000_007,
            _ => HOUR_NS / 2 + number,
        };
        export(&culprit.grpc, one(number, &service, &route, for_ns))
            .await
            .expect("taken");
    }
    for number in 2..61 {
        culprit.trace(&hex(&trace_id(number))).await;
    }
    let pages = pages_of(&culprit, 61).await;
    look(&culprit, &ALWAYS[..4], &pages).assert_clean();
}
