//! The page of a trace.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use prost::Message;
use std::time::{Duration, Instant};

use super::{Browser, Look};
use crate::support::culprit::{Culprit, data_directory};
use crate::support::spans::{
    CLIENT, SERVER, export, hex, n_plus_one, now_ns, request, text, trace_id,
};
use crate::support::{eventually, http};

/// What would harm a careless page.
const HOSTILE: [&str; 5] = [
    "<script>document.title = 'harmed'</script>",
    "\"><img src=x onerror=\"document.title = 'harmed'\">",
    "' onmouseover='document.title = 1",
    "\u{202e}gnp.exe \u{1f525}\u{0}\u{7}",
    "</title></svg><style>*{display:none}</style>{{ 7 * 7 }}",
];

/// A culprit that has these traces.
async fn with(requests: Vec<ExportTraceServiceRequest>) -> (tempfile::TempDir, Culprit) {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let mut ids = Vec::new();
    for request in requests {
        ids.push(hex(
            &request.resource_spans[0].scope_spans[0].spans[0].trace_id
        ));
        export(&culprit.grpc, request).await.unwrap();
    }
    for id in ids {
        culprit.trace(&id).await;
    }
    (data, culprit)
}

fn address(culprit: &Culprit, number: u64, query: &str) -> String {
    format!("{}/traces/{}{query}", culprit.ui, hex(&trace_id(number)))
}

#[tokio::test]
async fn an_n_plus_one_is_looked_at_with_the_keyboard() {
    let (_data, culprit) = with(vec![n_plus_one(1, 37)]).await;
    let browser = Browser::start();
    let page = browser.open(&address(&culprit, 1, ""), Look::default());
    assert!(page.texts(".wf .pill.x").contains(&"×37".to_owned()));

    // The culprit is selected; one key goes to its row, others from row to row.
    page.press("j");
    page.until("document.activeElement.closest('tr[aria-selected]')");
    page.press("b");
    page.until("document.activeElement.textContent.includes('select posts')");
    page.press("Enter");
    page.until("document.querySelector('aside h2').textContent.includes('select posts')");
    page.until("new URLSearchParams(location.search).has('span')");

    // The comb opens and closes, and the focus stays.
    page.press("f");
    page.press("ArrowRight");
    page.until("document.querySelectorAll('.wf tbody tr').length === 40");
    page.until("document.activeElement.matches('tr[aria-expanded=true]')");
    page.press("ArrowRight");
    page.until("document.activeElement.matches('tr[aria-level=\"3\"][aria-posinset=\"1\"][aria-setsize=\"37\"]')");
    page.press("ArrowLeft");
    page.until("document.activeElement.matches('tr[aria-level=\"2\"]')");
    page.press("ArrowLeft");
    page.until("document.querySelectorAll('.wf tbody tr').length === 3");
    // One stop for the Tab key.
    page.until("document.querySelectorAll('.wf tbody tr[tabindex=\"0\"]').length === 1");
    // All of them, none of them, a level more.
    page.press("[");
    page.until("document.querySelectorAll('.wf tbody tr').length === 40");
    page.press("]");
    page.until("document.querySelectorAll('.wf tbody tr').length === 1");
    page.press("o");
    page.until("document.querySelectorAll('.wf tbody tr').length === 3");

    // Finding.
    page.press("/");
    page.until("document.activeElement.id === 'in'");
    page.type_text("authors");
    page.press("Enter");
    page.until("document.querySelector('.tools [role=status]')?.textContent.startsWith('1 of 37')");
    // Enter again is the next one.
    page.press("Enter");
    page.until("document.querySelector('.tools [role=status]')?.textContent.startsWith('2 of 37')");
    page.evaluate::<Option<bool>>("document.activeElement.blur() ?? null");
    page.press("n");
    page.until("document.querySelector('.tools [role=status]')?.textContent.startsWith('3 of 37')");
    page.press("N");
    page.until("document.querySelector('.tools [role=status]')?.textContent.startsWith('2 of 37')");
    page.press("N");
    page.until("document.querySelector('.tools [role=status]')?.textContent.startsWith('1 of 37')");
    assert_eq!(page.parameter("find").as_deref(), Some("authors"));

    // Help.
    page.press("?");
    page.until("document.querySelector('dialog[open]')");
    page.press("Escape");
    page.until("!document.querySelector('dialog[open]')");

    // Views.
    page.press("5");
    page.until("document.querySelector('[aria-sort=descending]')");
    assert_eq!(page.parameter("view").as_deref(), Some("statistics"));
    page.press("3");
    page.until("document.querySelector('.flame a.sel') && document.querySelector('table.wf')");
    page.assert_clean();
}

#[tokio::test]
async fn zoom_stands_in_the_address() {
    let (_data, culprit) = with(vec![n_plus_one(1, 37)]).await;
    let browser = Browser::start();
    let page = browser.open(&address(&culprit, 1, ""), Look::default());
    let zoomed = "document.querySelector('#zoomed')";
    page.press("+");
    page.until("new URLSearchParams(location.search).has('from')");
    page.until(zoomed);
    let from = page.parameter("from").expect("a beginning");
    page.press("d");
    page.until(&format!(
        "new URLSearchParams(location.search).get('from') > {from}"
    ));
    page.press("0");
    page.until("!new URLSearchParams(location.search).has('from')");
    page.until(&format!("!{zoomed}"));

    page.drag(".mini", 0.25, 0.5);
    page.until(zoomed);
    let share = |name: &str| -> f64 {
        let ns: f64 = page.parameter(name).expect("a part").parse().expect("ns");
        let axis: String = page.evaluate("document.querySelector('.wf').dataset.axisNs");
        let length: f64 = axis.split(' ').nth(1).unwrap().parse().unwrap();
        ns / length
    };
    assert!((share("from") - 0.25).abs() < 0.02 && (share("to") - 0.5).abs() < 0.02);
    // The same address shows the same part, and the flame graph is of that part too.
    let here = page.url().to_string();
    let again = browser.open(&here, Look::default());
    assert_eq!(again.texts("#zoomed"), page.texts("#zoomed"));
    assert_eq!(again.texts("[data-axis]"), page.texts("[data-axis]"));
    page.press("Escape");
    page.until(&format!("!{zoomed}"));
    page.assert_clean();
    again.assert_clean();
}

#[tokio::test]
async fn a_link_to_a_span_shows_it_and_its_values_can_be_copied() {
    let mut requests = n_plus_one(1, 37);
    // Far down: many different spans before it.
    let spans = &mut requests.resource_spans[0].scope_spans[0].spans;
    let start_ns = spans[0].start_time_unix_nano;
    for at in 0..200_u64 {
        spans.push(Span {
            trace_id: trace_id(1),
            span_id: (1_000 + at).to_be_bytes().to_vec(),
            parent_span_id: 1_u64.to_be_bytes().to_vec(),
            name: format!("step {at}"),
            start_time_unix_nano: start_ns + at * 100_000,
            end_time_unix_nano: start_ns + at * 100_000 + 50_000,
            ..Span::default()
        });
    }
    let (_data, culprit) = with(vec![requests]).await;
    let browser = Browser::start();
    let span = format!("{:016x}", 1_190);
    let page = browser.open(
        &address(&culprit, 1, &format!("?span={span}")),
        Look::default(),
    );
    assert_eq!(page.texts("aside h2"), ["step 190"]);
    page.until(
        "(box => box.top > 0 && box.bottom < innerHeight)(
            document.querySelector('tr[aria-selected]').getBoundingClientRect())",
    );

    let statement = format!("{:016x}", 12);
    page.goto(&address(&culprit, 1, &format!("?span={statement}")));
    assert!(
        page.texts("#sql")[0].contains("WHERE id = $1"),
        "{:?}",
        page.texts("#sql")
    );
    page.click("[data-copy=sql]");
    page.until("document.querySelector('[data-copy=sql]').textContent === 'Copied'");
    let copied: String = page.evaluate("navigator.clipboard.readText()");
    assert_eq!(copied, page.texts("#sql")[0]);
    page.click("[data-copy-curl]");
    page.until("document.querySelector('[data-copy-curl]').textContent === 'Copied'");
    let copied: String = page.evaluate("navigator.clipboard.readText()");
    assert_eq!(
        copied,
        format!(
            "curl -s '{}/api/v1/traces/{}'",
            culprit.ui,
            hex(&trace_id(1))
        )
    );
    page.assert_clean();
}

#[tokio::test]
async fn without_scripts_dark_and_narrow_it_shows_the_same() {
    let (_data, culprit) = with(vec![n_plus_one(1, 37), n_plus_one(2, 3)]).await;
    let browser = Browser::start();
    let whole = browser.open(&address(&culprit, 1, ""), Look::default());
    let rows = whole.texts(".wf tbody tr .nm");
    for look in [Look::without_javascript(), Look::narrow(), Look::dark()] {
        for query in [
            "",
            "?view=flame",
            "?view=both&find=authors",
            "?view=path",
            "?view=statistics&sort=calls",
            "?colour=service&levels=1&view=both",
            "?colour=self&open=all",
            "?colour=errors&only=shop&span=00000000000000ff",
        ] {
            let page = browser.open(&address(&culprit, 1, query), look);
            if query.is_empty() {
                assert_eq!(page.texts(".wf tbody tr .nm"), rows, "{look:?}");
            }
            page.assert_clean();
            page.assert_accessible();
        }
        let both = format!("/compare/{}", hex(&trace_id(2)));
        let page = browser.open(&address(&culprit, 1, &both), look);
        assert!(
            page.texts("h1")[0].contains("instead of 37"),
            "{:?}",
            page.texts("h1")
        );
        page.assert_clean();
        page.assert_accessible();
    }

    // Everything is a link or a form.
    let page = browser.open(&address(&culprit, 1, ""), Look::without_javascript());
    page.click(".wf a.pill.x");
    page.until("document.querySelectorAll('.wf tbody tr').length === 40");
    page.click(".mini nav a:nth-child(2)");
    page.until("document.querySelector('#zoomed')");
    page.click("#in");
    page.type_text("posts");
    page.press("Enter");
    page.until("document.querySelector('.tools [role=status]')");
    assert!(page.parameter("from").is_some() && page.parameter("open").is_some());
}

#[tokio::test]
async fn logs_are_a_link_away_where_it_is_known_where_they_are() {
    let data = data_directory();
    let template =
        "https://logs.example/?q={trace_id}&from={start_ms}&to={end_ms}&s={service}&span={span_id}";
    let culprit = Culprit::serve(data.path(), &[&format!("--log-url={template}")]).await;
    export(&culprit.grpc, n_plus_one(1, 37)).await.unwrap();
    let id = hex(&trace_id(1));
    culprit.trace(&id).await;
    let browser = Browser::start();
    // As people type it.
    let short = format!("{}/t/{id}?span={:016x}", culprit.ui, 12);
    let page = browser.open(&short, Look::default());
    assert_eq!(page.url().path(), format!("/traces/{id}"));
    let link = |within: &str| -> String {
        page.evaluate(&format!(
            "document.querySelector('{within} a[href^=\"https://logs.example/\"]').href"
        ))
    };
    let (whole, span) = (link(".head"), link("aside"));
    assert!(
        whole.contains(&format!("q={id}&")) && whole.ends_with("&span="),
        "{whole}"
    );
    assert!(span.ends_with(&format!("&span={:016x}", 12)), "{span}");
    // What the next span's panel holds is fetched alone, and has its link too.
    page.press("j");
    page.press("b");
    page.press("Enter");
    page.until(&format!(
        "document.querySelector('aside a[href^=\"https://logs.example/\"]').href !== '{span}'"
    ));
    page.assert_clean();
}

#[tokio::test]
async fn hostile_names_are_only_text() {
    let start_ns = now_ns() - 1_000_000_000;
    let spans = (0..10_u64).map(|at| {
        let name = HOSTILE[at as usize % HOSTILE.len()];
        Span {
            trace_id: trace_id(1),
            span_id: (at + 1).to_be_bytes().to_vec(),
            parent_span_id: if at == 0 {
                Vec::new()
            } else {
                1_u64.to_be_bytes().to_vec()
            },
            name: name.into(),
            kind: if at == 0 { SERVER } else { CLIENT },
            start_time_unix_nano: start_ns + at * 1_000_000,
            end_time_unix_nano: start_ns
                + at * 1_000_000
                + if at == 0 { 50_000_000 } else { 900_000 },
            attributes: vec![
                text(name, name),
                text("db.query.text", name),
                text("db.system.name", name),
            ],
            events: vec![span::Event {
                time_unix_nano: start_ns + at * 1_000_000,
                name: name.into(),
                ..Default::default()
            }],
            status: Some(Status {
                message: name.into(),
                code: 2,
            }),
            ..Span::default()
        }
    });
    let (_data, culprit) = with(vec![request(HOSTILE[0], spans.collect())]).await;
    let browser = Browser::start();
    for query in [
        "",
        "?view=flame",
        "?view=both",
        "?view=path",
        "?view=statistics",
        "?view=json",
        "?span=0000000000000002&raw=1&find=%3Cscript%3E&open=%22%3E%3Cscript%3E",
        "?span=%22%3E%3Cscript%3E&only=%22%3E%3Cscript%3E&colour=%22%3E&levels=%22",
        "?colour=service",
    ] {
        let page = browser.open(&address(&culprit, 1, query), Look::default());
        page.assert_clean();
        assert_ne!(page.evaluate::<String>("document.title"), "harmed");
        assert_eq!(
            page.evaluate::<u32>("document.querySelectorAll('main script, main img').length"),
            0
        );
    }
}

/// As users' long traces are: a job of steps, each with queries of its own and loops below.
fn long_trace(number: u64, spans: u64) -> Vec<ExportTraceServiceRequest> {
    let start_ns = now_ns() - 600_000_000_000;
    let span = |at: u64| {
        let parent = match at {
            0 => None,
            _ if at % 100 == 1 => Some(0),
            _ => Some(at - (at - 1) % 100),
        };
        let step_ns = 500_000_000_000 / spans;
        let whole = match parent {
            None => spans,
            Some(0) => 100,
            Some(_) => 1,
        };
        let mut attributes = vec![text("step", &format!("{}", at / 100))];
        if parent.is_some_and(|it| it > 0) {
            attributes.push(text("db.system.name", "postgresql"));
            attributes.push(text(
                "db.query.text",
                &format!("SELECT * FROM t{} WHERE id = $1", at % 7),
            ));
        }
        Span {
            trace_id: trace_id(number),
            span_id: (at + 1).to_be_bytes().to_vec(),
            parent_span_id: parent
                .map(|it| (it + 1).to_be_bytes().to_vec())
                .unwrap_or_default(),
            name: match parent {
                None => "nightly import".into(),
                Some(0) => format!("import part {}", at / 100),
                Some(_) => format!("SELECT t{}", at % 7),
            },
            kind: if parent.is_some_and(|it| it > 0) {
                CLIENT
            } else {
                1
            },
            start_time_unix_nano: start_ns + at * step_ns,
            end_time_unix_nano: start_ns + (at + whole) * step_ns - step_ns / 10,
            attributes,
            ..Span::default()
        }
    };
    (0..spans.div_ceil(10_000))
        .map(|part| {
            let part = part * 10_000..((part + 1) * 10_000).min(spans);
            request("importer", part.map(span).collect())
        })
        .collect()
}

/// Sends a long trace over OTLP/HTTP and waits until its page has all spans.
async fn send_long(culprit: &Culprit, number: u64, spans: u64) {
    let url = format!("{}/v1/traces", culprit.http);
    for part in long_trace(number, spans) {
        let (status, _, body) =
            http::post(&url, "application/x-protobuf", part.encode_to_vec()).await;
        assert_eq!(status, 200, "{body:?}");
    }
    let words = format!("{spans} spans");
    let address = address(culprit, number, "?view=statistics");
    eventually("all spans are there", async || {
        let (status, body) = http::get(&address).await;
        (status == 200 && body.contains(&words)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_of_100_000_spans_opens() {
    let spans = std::env::var("CULPRIT_TEST_LONG_TRACE").ok();
    let spans = spans.map_or(100_000, |it| it.parse().expect("a number of spans"));
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    send_long(&culprit, 1, spans).await;
    let browser = Browser::start();
    let page = browser.open(&format!("{}/status", culprit.ui), Look::default());
    for (what, query) in [
        ("waterfall", ""),
        ("zoomed", "?from=100000000000&to=101000000000"),
        ("both", "?view=both"),
        ("found", "?find=t3"),
        ("statistics", "?view=statistics"),
    ] {
        let (since, computed) = (Instant::now(), culprit.processor_time());
        let (status, body) = http::get(&address(&culprit, 1, query)).await;
        let (server, computed) = (since.elapsed(), culprit.processor_time() - computed);
        assert_eq!(status, 200);
        let took = page.goto(&address(&culprit, 1, query));
        println!(
            "{spans} spans, {what}: {server:?} (computing {computed:?}) for {} KB, {took:?} until loaded; at most {} MB so far",
            body.len() / 1_000,
            culprit.peak_memory_bytes() / 1_000_000,
        );
        assert!(body.len() < 300_000, "{what}: {} bytes", body.len());
        // Nobody would wait for longer; unoptimised, on a busy machine.
        assert!(took < Duration::from_secs(60), "{what}: {took:?}");
        assert!(page.evaluate::<u32>("document.querySelectorAll('*').length") < 30_000);
    }
    page.goto(&address(&culprit, 1, "?from=100000000000&to=101000000000"));
    assert!(
        page.texts(".notice")
            .iter()
            .any(|it| it.contains("too long for one page"))
    );
    assert!(
        page.texts(".wf .pill.x")
            .iter()
            .any(|it| it.starts_with('×'))
    );
    page.assert_clean();
}
