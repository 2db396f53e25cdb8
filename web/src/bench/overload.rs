//! `culprit bench overload`: what becomes of many times the load that is sustained.
//!
//! Two phases of the same length, the first at a rate that culprit keeps up with, the second at many times
//! that. Nobody waits for culprit: what is due is sent, and a request that is told to come again is lost to
//! its exporter. So the second phase shows whether as much is stored as before, whether everybody else is
//! told so, and what memory it takes. What is acknowledged beyond that waits in the journal, up to its bound.
//!
//! The load is encoded once; each request is a copy with other trace ids, so that offering costs little of
//! the processor that culprit needs, too.

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

use super::load::{self, Load};
use super::process::Culprit;
use super::{IngestOptions, connect, quantile, round, scratch_directory, settle};

/// What `bench overload` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct OverloadOptions {
    /// Spans per second that are sustained.
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub rate: u32,
    /// How many times that is offered then.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub times: u32,
    /// For how long each.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub seconds: u32,
    /// What may wait to be analysed, MB as sent: culprit's --backlog-max, less than usual so that it is
    /// reached within the time.
    #[arg(long, default_value_t = 500, value_name = "MB")]
    pub backlog_max_mb: u32,
    /// The load is the same for the same seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// Traces in one request: about the 512 spans of an SDK's batch.
const TRACES_PER_REQUEST: usize = 34;

/// Spans in one request.
const SPANS_PER_REQUEST: u64 = TRACES_PER_REQUEST as u64 * load::SPANS_PER_TRACE;

/// Exporters with a connection of their own; when all wait for an answer, what is due is not sent.
const EXPORTERS: u64 = 256;

/// An exporter waits so long for an answer, as SDKs do.
const PATIENCE: Duration = Duration::from_secs(10);

/// What could not be sent within this time of being due is not sent at all.
const OVERDUE: Duration = Duration::from_millis(500);

/// Runs both phases and prints them beside each other.
///
/// # Errors
/// culprit cannot be started, or something that was acknowledged is not stored in time.
pub async fn overload(options: OverloadOptions) -> anyhow::Result<ExitCode> {
    let directory = scratch_directory()?;
    let backlog_max = format!("--backlog-max={}MB", options.backlog_max_mb);
    let culprit = Culprit::start(&directory, &[backlog_max]).await?;
    let result = measure(&options, &culprit, &directory).await;
    culprit.stop().await?;
    let _ = std::fs::remove_dir_all(&directory);
    println!("{}", serde_json::to_string_pretty(&result?)?);
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    options: &OverloadOptions,
    culprit: &Culprit,
    directory: &std::path::Path,
) -> anyhow::Result<Value> {
    let template = Arc::new(Template::new(options.seed));
    let mut database = connect(directory).await?;
    let mut acked = 0;
    let mut phases = Vec::new();
    for rate in [options.rate, options.rate.saturating_mul(options.times)] {
        let (before, stored_before) = (culprit.usage()?, stored(&mut database).await?);
        let offer = Offer::new(template.clone(), rate, options.seconds, phases.len() as u64);
        let answers = offer.run(&culprit.http).await?;
        let (after, stored_after) = (culprit.usage()?, stored(&mut database).await?);
        acked += answers.acked.len() as u64 * SPANS_PER_REQUEST;
        let lag_s = settle(&mut database, acked).await?;
        let mut phase = answers.figures(rate, options.seconds);
        let cpu_s = after.culprit_cpu_s - before.culprit_cpu_s + after.postgres_cpu_s
            - before.postgres_cpu_s;
        let analysed = stored_after - stored_before;
        phase["spans_analysed_per_s"] = json!(analysed / i64::from(options.seconds.max(1)));
        phase["cpu_s"] = json!(round(cpu_s, 1));
        phase["analysis_lag_s"] = json!(round(lag_s, 1));
        phase["peak_memory_mb"] = json!(round(after.culprit_peak_mb, 1));
        phases.push(phase);
    }
    let [sustained, overloaded] =
        <[Value; 2]>::try_from(phases).map_err(|_| anyhow::anyhow!("two phases"))?;
    let goodput = |it: &Value| it["spans_analysed_per_s"].as_f64().unwrap_or_default();
    Ok(json!({
        "goodput_ratio": round(goodput(&overloaded) / goodput(&sustained).max(1.0), 2),
        "sustained": sustained,
        "overloaded": overloaded,
        "spans_acked": acked,
        "load": {"rate": options.rate, "times": options.times, "seconds": options.seconds, "seed": options.seed,
                 "backlog_max_mb": options.backlog_max_mb},
    }))
}

/// Spans that are analysed and stored by now.
async fn stored(database: &mut PgConnection) -> anyhow::Result<i64> {
    let stored = "select coalesce(sum(spans), 0)::bigint from culprit.trace_blocks";
    Ok(sqlx::query_scalar(stored).fetch_one(database).await?)
}

/// An encoded request, and where the trace ids stand in it.
struct Template {
    body: Vec<u8>,
    trace_ids_at: Vec<usize>,
}

impl Template {
    fn new(seed: u64) -> Template {
        let mut load = Load::new(&IngestOptions {
            rate: 1,
            seconds: 1,
            seed,
        });
        let mut request = ExportTraceServiceRequest::default();
        let mut trace_ids = Vec::new();
        for number in 0..TRACES_PER_REQUEST as u64 {
            for (service, spans) in load.trace(number).into_iter().enumerate() {
                trace_ids.extend(spans.iter().map(|it| it.trace_id.clone()));
                request
                    .resource_spans
                    .extend(load::request(service, spans).resource_spans);
            }
        }
        let body = request.encode_to_vec();
        trace_ids.dedup();
        // Random ids of 16 bytes: nothing else looks like one.
        let is_id = |at: &usize| trace_ids.iter().any(|id| body[*at..].starts_with(id));
        let trace_ids_at = (0..body.len()).filter(is_id).collect();
        Template { body, trace_ids_at }
    }

    /// The request whose traces no other number has.
    fn request(&self, number: u64) -> Bytes {
        let mut body = self.body.clone();
        for at in &self.trace_ids_at {
            for (byte, of) in body[*at..].iter_mut().zip(number.to_le_bytes()) {
                *byte ^= of;
            }
        }
        body.into()
    }
}

/// A phase: so many requests a second, whatever becomes of them.
struct Offer {
    template: Arc<Template>,
    requests: u64,
    per_s: f64,
    /// Where the numbers of its requests begin.
    first: u64,
}

/// What became of the requests.
#[derive(Default)]
struct Answers {
    /// How long each that was acknowledged took, ms.
    acked: Vec<f64>,
    /// Told to come again.
    refused: u64,
    /// Without an answer, or with one that is neither.
    unanswered: u64,
    /// Not sent: no exporter was free.
    unsent: u64,
}

impl Offer {
    fn new(template: Arc<Template>, rate: u32, seconds: u32, phase: u64) -> Offer {
        let per_s = f64::from(rate) / SPANS_PER_REQUEST as f64;
        Offer {
            template,
            requests: (per_s * f64::from(seconds)) as u64,
            per_s,
            first: (phase + 1) << 32,
        }
    }

    async fn run(self, http: &str) -> anyhow::Result<Answers> {
        let uri: http::Uri = format!("{http}/v1/traces").parse()?;
        let next = Arc::new(AtomicU64::new(0));
        let offer = Arc::new(self);
        let since = Instant::now();
        let mut exporters = JoinSet::new();
        for _ in 0..EXPORTERS {
            exporters.spawn(offer.clone().export(uri.clone(), next.clone(), since));
        }
        let mut all = Answers::default();
        while let Some(some) = exporters.join_next().await {
            let some = some?;
            all.acked.extend(some.acked);
            all.refused += some.refused;
            all.unanswered += some.unanswered;
            all.unsent += some.unsent;
        }
        all.acked.sort_by(f64::total_cmp);
        Ok(all)
    }

    /// One exporter: takes the next request, waits until it is due, and for its answer.
    async fn export(
        self: Arc<Self>,
        uri: http::Uri,
        next: Arc<AtomicU64>,
        since: Instant,
    ) -> Answers {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut answers = Answers::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return answers;
            }
            let due = since + Duration::from_secs_f64(number as f64 / self.per_s);
            if due.elapsed() > OVERDUE {
                answers.unsent += 1;
                continue;
            }
            tokio::time::sleep_until(due.into()).await;
            let body = self.template.request(self.first + number);
            let sent = Instant::now();
            match tokio::time::timeout(PATIENCE, post(&client, &uri, body)).await {
                Ok(Ok(StatusCode::OK)) => answers.acked.push(sent.elapsed().as_secs_f64() * 1e3),
                Ok(Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => {
                    answers.refused += 1
                }
                _ => answers.unanswered += 1,
            }
        }
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    uri: &http::Uri,
    body: Bytes,
) -> anyhow::Result<StatusCode> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(body))
        .context("a request")?;
    let response = client.request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

impl Answers {
    fn figures(&self, rate: u32, seconds: u32) -> Value {
        let spans = |requests: u64| requests * SPANS_PER_REQUEST;
        let acked = self.acked.len() as u64;
        json!({
            "spans_offered_per_s": rate,
            "spans_sent_per_s": spans(acked + self.refused + self.unanswered) / u64::from(seconds.max(1)),
            "spans_acked_per_s": spans(acked) / u64::from(seconds.max(1)),
            "requests_acked": acked,
            "requests_told_to_come_again": self.refused,
            "requests_without_an_answer": self.unanswered,
            "requests_not_sent": self.unsent,
            "answer_ms": {"p50": quantile(&self.acked, 0.5), "p99": quantile(&self.acked, 0.99)},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_request_has_whole_traces_of_its_own() {
        let template = Template::new(1);
        let mut seen = BTreeSet::new();
        for number in [1, 2, 1 << 32] {
            let request = ExportTraceServiceRequest::decode(template.request(number)).unwrap();
            let spans: Vec<_> = request
                .resource_spans
                .iter()
                .flat_map(|it| &it.scope_spans)
                .flat_map(|it| &it.spans)
                .collect();
            assert_eq!(spans.len() as u64, SPANS_PER_REQUEST);
            let traces: BTreeSet<_> = spans.iter().map(|it| it.trace_id.clone()).collect();
            assert_eq!(traces.len(), TRACES_PER_REQUEST);
            assert!(traces.iter().all(|it| seen.insert(it.clone())));
        }
    }
}
