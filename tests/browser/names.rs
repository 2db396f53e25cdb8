//! Names that would harm a careless page, everywhere a sender can put one, on every page.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use serde_json::Value;

use super::Page;
use super::walk::{WIDE_AND_NARROW, pictures, walk};
use crate::support::culprit::{Culprit, data_directory};
use crate::support::eventually;
use crate::support::spans::{CLIENT, SERVER, export, hex, now_ns, request, text, trace_id};

/// Also in whatever reaches an attribute, a title, an address or a script.
const HOSTILE: [&str; 7] = [
    "<script>document.title = 'harmed'</script>",
    "\"><img src=x onerror=\"document.title = 'harmed'\">",
    "' onmouseover='document.title = 1' x='",
    "\u{202e}gnp.exe \u{1f525}\u{0}\u{7} \u{2066}",
    "</title></svg><style>*{display:none}</style>{{ 7 * 7 }}",
    "100%25 %s %00 ?a=b&c#d;e\\f\r\n\tg",
    "javascript:alert(1)//",
];

/// A name of 240 characters without a space, and one with a hostile end.
fn long(nth: usize) -> String {
    format!("{}{}", "verylong".repeat(30), HOSTILE[nth])
}

/// A request with an N+1 in it whose every name is hostile.
fn harmful(number: u64, name: &str) -> ExportTraceServiceRequest {
    const MS: u64 = 1_000_000;
    let start_ns = now_ns() - 2_000 * MS;
    let span = |id: u64, kind, from_ms: u64, for_ms: u64, attributes: Vec<KeyValue>| Span {
        trace_id: trace_id(number),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if id == 1 {
            Vec::new()
        } else {
            1_u64.to_be_bytes().to_vec()
        },
        name: name.into(),
        kind,
        trace_state: format!("a={name}"),
        start_time_unix_nano: start_ns + from_ms * MS,
        end_time_unix_nano: start_ns + (from_ms + for_ms) * MS,
        attributes,
        events: vec![span::Event {
            time_unix_nano: start_ns + (from_ms + 1) * MS,
            name: name.into(),
            attributes: vec![
                text("exception.type", name),
                text("exception.message", name),
                text(name, name),
            ],
            ..span::Event::default()
        }],
        status: Some(Status {
            message: name.into(),
            code: 2,
        }),
        ..Span::default()
    };
    let mut spans = vec![span(
        1,
        SERVER,
        0,
        400,
        vec![
            text("http.request.method", "GET"),
            text("http.route", name),
            text("code.function.name", name),
            text(name, name),
        ],
    )];
    for id in 2..42 {
        let sql = format!("select * from \"{}\" where id = $1", name.replace('"', "'"));
        spans.push(span(
            id,
            CLIENT,
            id * 8,
            6,
            vec![
                text("db.system.name", "postgresql"),
                text("db.query.text", &sql),
                text("db.namespace", name),
                text("server.address", name),
            ],
        ));
    }
    let mut request = request(name, spans);
    let resource = request.resource_spans[0].resource.as_mut().expect("set");
    for key in [
        "service.version",
        "service.namespace",
        "deployment.environment.name",
        "service.instance.id",
    ] {
        resource.attributes.push(text(key, name));
    }
    let scope = request.resource_spans[0].scope_spans[0].scope.as_mut();
    scope.expect("set").name = name.into();
    request
}

#[tokio::test]
async fn hostile_names_are_text_on_every_page() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let names: Vec<String> = HOSTILE
        .iter()
        .map(|it| (*it).to_owned())
        .chain((0..3).map(long))
        .collect();
    let mut ids = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        // A finding in three traces is worth an alert.
        for again in 0..3 {
            let number = 1 + nth as u64 * 3 + again;
            export(&culprit.grpc, harmful(number, name))
                .await
                .expect("taken");
            ids.push(hex(&trace_id(number)));
        }
    }
    for id in &ids {
        culprit.trace(id).await;
    }
    let findings = list(&culprit, "bottlenecks", "bottlenecks", names.len()).await;
    let alerts = list(&culprit, "alerts", "live", names.len()).await;
    let endpoints = list(&culprit, "endpoints", "endpoints", names.len()).await;

    let mut pages: Vec<String> = [
        "/",
        "/services",
        "/statements",
        "/traces",
        "/regressions",
        "/deployments",
        "/alerts",
        "/alerts/rules",
        "/alerts/silences",
        "/detectors",
        "/status",
        "/compare",
    ]
    .map(str::to_owned)
    .into();
    for (nth, name) in names.iter().enumerate() {
        let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let (finding, alert, endpoint) = (
            &findings[nth]["id"],
            &alerts[nth]["id"],
            &endpoints[nth]["id"],
        );
        let alert = alert.as_str().expect("a text");
        let trace = &ids[nth * 3];
        let other = &ids[(nth * 3 + 4) % ids.len()];
        let kinds = [
            vec![
                format!("/endpoints/{endpoint}"),
                format!("/traces/{trace}"),
                format!("/search?q={encoded}"),
                format!("/?q={encoded}&service={encoded}&sort={encoded}"),
            ],
            vec![
                format!("/bottlenecks/{finding}"),
                format!("/traces/{trace}?view=statistics&find={encoded}"),
                format!("/services?service={encoded}"),
                format!("/statements?service={encoded}"),
                format!("/traces?q={encoded}&service={encoded}&endpoint={encoded}"),
            ],
            vec![
                format!("/alerts/{alert}"),
                format!("/traces/{trace}/compare/{other}"),
                format!("/traces/{trace}?view=flame&span=0000000000000002"),
                format!("/endpoints/{endpoint}/slow"),
                format!("/alerts/rules/edit?name={encoded}"),
            ],
        ];
        // Each kind of page with some of the names, always the same ones; with all where time does not matter.
        let all = pictures().is_some();
        let some = kinds.into_iter().enumerate();
        pages.extend(
            some.filter(|(kind, _)| all || nth % 3 == *kind)
                .flat_map(|it| it.1),
        );
    }
    let addresses: Vec<String> = pages
        .iter()
        .map(|it| format!("{}{it}", culprit.ui))
        .collect();
    walk(&addresses, &WIDE_AND_NARROW, harm).assert_clean();
}

/// As many as that, once there are, in an order that only depends on their names.
async fn list(culprit: &Culprit, what: &str, key: &str, least: usize) -> Vec<Value> {
    eventually(&format!("{least} {what}"), async || {
        let answer = culprit.get(&format!("/api/v1/{what}")).await;
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        match answer[key].take() {
            Value::Array(mut all) if all.len() >= least => {
                // An alert tells it among its labels.
                all.sort_by_key(|it| {
                    format!(
                        "{} {} {}",
                        it["service"], it["labels"]["service"], it["endpoint"]
                    )
                });
                Some(all)
            }
            _ => None,
        }
    })
    .await
}

/// What a name has done to a page.
fn harm(page: &Page) -> Vec<String> {
    page.evaluate(
        "(() => {
        const harm = [];
        if (document.title.includes('harmed') && !document.title.includes('<') && !document.title.includes('onerror')) harm.push('a script has run');
        if (document.title === '1') harm.push('a handler has run');
        if (document.querySelector('[x]:not(svg, svg *), img, main script:not([src])')) harm.push('an element came of a name');
        for (const it of document.querySelectorAll('a[href]'))
            if (!/^(https?:|data:)/.test(it.protocol || new URL(it.href.baseVal, location.href).protocol)) harm.push('a link runs a script: ' + it.outerHTML.slice(0, 200));
        if (getComputedStyle(document.querySelector('h1')).display === 'none') harm.push('a style was set');
        // Characters that turn the direction may not reach beyond the name they stand in.
        const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
        for (let it; (it = texts.nextNode());) {
            if (!/[\\u202a-\\u202e\\u2066-\\u2069]/.test(it.data)) continue;
            let of = it.parentElement, line = null;
            if (of.closest('title, option, textarea, script')) continue;
            for (; of; of = of.parentElement) {
                const { unicodeBidi, display } = getComputedStyle(of);
                if (/isolate|plaintext/.test(unicodeBidi) && display === 'inline') break;
                if (display !== 'inline') { line = of; break; }
            }
            if (!line) continue;
            const after = document.createRange();
            after.setStartAfter(it); after.setEndAfter(line.lastChild);
            if (after.toString().trim()) harm.push('turns what follows: ' + line.outerHTML.slice(0, 300));
        }
        return [...new Set(harm)].slice(0, 6); })()",
    )
}
