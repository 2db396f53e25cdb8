//! `culprit bench overload`: what becomes of many times the load that is sustained.
//!
//! Two phases of the same length, the first at a rate that culprit keeps up with, the second at many times
//! that. Nobody waits for culprit: what is due is sent, and a request that is told to come again is lost to
//! its exporter. So the second phase shows whether as much is stored as before, whether everybody else is
//! told so, and what memory it takes. What is acknowledged beyond that waits in the journal, up to its bound.
//!
//! The load is that of `bench ingest`, but encoded once; each request is a copy with other trace ids, so that
//! offering costs little of the processor that culprit needs, too.

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::trace::v1::Span;
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
    /// For how long each; rates are those after the first 15 s, when all parts of traces come.
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(20..))]
    pub seconds: u32,
    /// What may wait to be analysed, MB as sent: culprit's --backlog-max, less than usual so that it is
    /// reached within the time.
    #[arg(long, default_value_t = 500, value_name = "MB")]
    pub backlog_max_mb: u32,
    /// The load is the same for the same seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// Traces whose spans go together: three requests, one of each service, of about the 512 spans of an
/// SDK's batch.
const TRACES_PER_GROUP: u64 = 102;

/// Spans in one request.
const SPANS_PER_REQUEST: u64 = TRACES_PER_GROUP * load::SPANS_PER_TRACE / SERVICES;

/// Services of a trace.
const SERVICES: u64 = load::SERVICES.len() as u64;

/// What one group in so many has of what goes wrong: its last service's spans come late, its first one's
/// are sent twice.
const ODD_ONE_IN: u64 = 100;

/// Exporters with a connection of their own; when all wait for an answer, what is due is not sent.
const EXPORTERS: u64 = 256;

/// An exporter waits so long for an answer, as SDKs do.
const PATIENCE: Duration = Duration::from_secs(10);

/// From then on every lane sends, and what came first is analysed.
const STEADY_AFTER: Duration = Duration::from_secs(15);

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
    let mut distinct = 0;
    let mut phases = Vec::new();
    for rate in [options.rate, options.rate.saturating_mul(options.times)] {
        let before = culprit.usage()?;
        let phase = phases.len() as u64;
        let offer = Arc::new(Offer::new(template.clone(), rate, options.seconds, phase));
        let (answers, steady) = tokio::join!(
            offer.clone().run(&culprit.http),
            offer.steady(options.seconds, &mut database)
        );
        let (answers, [acked_per_s, analysed_per_s]) = (answers?, steady?);
        distinct += answers.distinct * SPANS_PER_REQUEST;
        let lag_s = settle(&mut database, distinct).await?;
        let after = culprit.usage()?;
        let mut phase = answers.figures(rate);
        phase["spans_acked_per_s"] = json!(acked_per_s.round());
        phase["spans_analysed_per_s"] = json!(analysed_per_s.round());
        let acked = (answers.acked.len() as u64 * SPANS_PER_REQUEST).max(1);
        let per_span = |cpu_s: f64| round(cpu_s * 1e6 / acked as f64, 2);
        phase["cpu_us_per_acked_span"] = json!({
            "culprit": per_span(after.culprit_cpu_s - before.culprit_cpu_s),
            "postgres": per_span(after.postgres_cpu_s - before.postgres_cpu_s),
        });
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
        "spans_distinct": distinct,
        "load": {"rate": options.rate, "times": options.times, "seconds": options.seconds, "seed": options.seed,
                 "backlog_max_mb": options.backlog_max_mb},
    }))
}

/// Spans that are analysed and stored by now.
async fn stored(database: &mut PgConnection) -> anyhow::Result<i64> {
    let stored = "select coalesce(sum(spans), 0)::bigint from culprit.trace_blocks";
    Ok(sqlx::query_scalar(stored).fetch_one(database).await?)
}

/// The encoded requests of a group, and where the trace ids stand in each.
struct Template {
    bodies: Vec<(Vec<u8>, Vec<usize>)>,
}

impl Template {
    fn new(seed: u64) -> Template {
        let mut load = Load::new(&IngestOptions {
            rate: 1,
            seconds: 1,
            seed,
        });
        let mut parts: [Vec<Span>; SERVICES as usize] = Default::default();
        for number in 0..TRACES_PER_GROUP {
            for (part, spans) in parts.iter_mut().zip(load.trace(number)) {
                part.extend(spans);
            }
        }
        let parts = parts.into_iter().enumerate();
        let bodies = parts.map(|(service, spans)| {
            let mut trace_ids: Vec<_> = spans.iter().map(|it| it.trace_id.clone()).collect();
            trace_ids.dedup();
            let body = load::request(service, spans).encode_to_vec();
            // Random ids of 16 bytes: nothing else looks like one.
            let is_id = |at: &usize| trace_ids.iter().any(|id| body[*at..].starts_with(id));
            let ids_at = (0..body.len()).filter(is_id).collect();
            (body, ids_at)
        });
        Template {
            bodies: bodies.collect(),
        }
    }

    /// A service's request of the group whose traces no other group has.
    fn request(&self, service: usize, group: u64) -> Bytes {
        let (body, ids_at) = &self.bodies[service];
        let mut body = body.clone();
        for at in ids_at {
            for (byte, of) in body[*at..].iter_mut().zip(group.to_le_bytes()) {
                *byte ^= of;
            }
        }
        body.into()
    }
}

/// A phase: so many groups a second, whatever becomes of them.
struct Offer {
    template: Arc<Template>,
    groups: u64,
    per_s: f64,
    /// Where the numbers of its groups begin.
    first: u64,
    /// Requests that were acknowledged so far.
    acked: AtomicU64,
}

/// When requests go out: of each slot one per lane, each of the group that began so long ago. So the parts of
/// a trace arrive as far apart as exporters flush, without anybody waiting for them.
struct Lane {
    service: usize,
    after: Duration,
    /// Which groups: `number % ODD_ONE_IN`.
    of: fn(u64) -> bool,
}

const LANES: [Lane; 5] = [
    Lane {
        service: 0,
        after: load::FLUSH_AFTER[0],
        of: |_| true,
    },
    Lane {
        service: 1,
        after: load::FLUSH_AFTER[1],
        of: |_| true,
    },
    Lane {
        service: 2,
        after: load::FLUSH_AFTER[2],
        of: |odd| odd != LATE,
    },
    Lane {
        service: 2,
        after: load::LATE_BY,
        of: |odd| odd == LATE,
    },
    Lane {
        service: 0,
        after: Duration::from_secs(1),
        of: |odd| odd == TWICE,
    },
];

/// Groups with a part that is late.
const LATE: u64 = 7;

/// Groups with a part that is sent again.
const TWICE: u64 = 11;

/// The lane that sends again what was sent.
const AGAIN: usize = 4;

/// What became of the requests.
#[derive(Default)]
struct Answers {
    /// How long each that was acknowledged took, ms.
    acked: Vec<f64>,
    /// Of these, sent for the first time.
    distinct: u64,
    /// Told to come again.
    refused: u64,
    /// Without an answer, or with one that is neither.
    unanswered: u64,
    /// Not sent: no exporter was free.
    unsent: u64,
}

impl Offer {
    fn new(template: Arc<Template>, rate: u32, seconds: u32, phase: u64) -> Offer {
        let per_s = f64::from(rate) / (SPANS_PER_REQUEST * SERVICES) as f64;
        Offer {
            template,
            groups: (per_s * f64::from(seconds)) as u64,
            per_s,
            first: (phase + 1) << 32,
            acked: AtomicU64::new(0),
        }
    }

    /// Spans acknowledged and analysed per second while all is in full swing.
    async fn steady(&self, seconds: u32, database: &mut PgConnection) -> anyhow::Result<[f64; 2]> {
        let mut looks = Vec::new();
        let until = Duration::from_secs(seconds.into());
        for pause in [STEADY_AFTER, until.saturating_sub(STEADY_AFTER)] {
            tokio::time::sleep(pause).await;
            let acked = self.acked.load(Ordering::Relaxed) * SPANS_PER_REQUEST;
            looks.push((Instant::now(), acked as f64, stored(database).await? as f64));
        }
        let took_s = (looks[1].0 - looks[0].0).as_secs_f64();
        let per_s = |from: f64, to: f64| (to - from) / took_s;
        Ok([per_s(looks[0].1, looks[1].1), per_s(looks[0].2, looks[1].2)])
    }

    async fn run(self: Arc<Self>, http: &str) -> anyhow::Result<Answers> {
        let uri: http::Uri = format!("{http}/v1/traces").parse()?;
        let next = Arc::new(AtomicU64::new(0));
        let since = Instant::now();
        let mut exporters = JoinSet::new();
        for _ in 0..EXPORTERS {
            exporters.spawn(self.clone().export(uri.clone(), next.clone(), since));
        }
        let mut all = Answers::default();
        while let Some(some) = exporters.join_next().await {
            let some = some?;
            all.acked.extend(some.acked);
            all.distinct += some.distinct;
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
        while let Some((slot, lane)) = self.turn(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(group) = self.group(slot, &LANES[lane]) else {
                continue;
            };
            let due = since + Duration::from_secs_f64(slot as f64 / self.per_s);
            if due.elapsed() > OVERDUE {
                answers.unsent += 1;
                continue;
            }
            tokio::time::sleep_until(due.into()).await;
            let body = self
                .template
                .request(LANES[lane].service, self.first + group);
            let sent = Instant::now();
            match tokio::time::timeout(PATIENCE, post(&client, &uri, body)).await {
                Ok(Ok(StatusCode::OK)) => {
                    answers.acked.push(sent.elapsed().as_secs_f64() * 1e3);
                    answers.distinct += u64::from(lane != AGAIN);
                    self.acked.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => {
                    answers.refused += 1;
                }
                _ => answers.unanswered += 1,
            }
        }
        answers
    }

    /// Slot and lane of a request; `None` after the last.
    fn turn(&self, number: u64) -> Option<(u64, usize)> {
        let lanes = LANES.len() as u64;
        let (slot, lane) = (number / lanes, number % lanes);
        let slots = self.groups + self.slots(load::LATE_BY);
        (slot < slots).then_some((slot, lane as usize))
    }

    /// Which group a lane sends in a slot, if any.
    fn group(&self, slot: u64, lane: &Lane) -> Option<u64> {
        let group = slot.checked_sub(self.slots(lane.after))?;
        (group < self.groups && (lane.of)(group % ODD_ONE_IN)).then_some(group)
    }

    fn slots(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.per_s) as u64
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
    fn figures(&self, rate: u32) -> Value {
        json!({
            "spans_offered_per_s": rate,
            "requests_acked": self.acked.len(),
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
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use std::collections::BTreeSet;

    #[test]
    fn a_group_is_three_requests_with_traces_of_their_own() {
        let template = Template::new(1);
        let mut seen = BTreeSet::new();
        for group in [1, 2, 1 << 32] {
            let mut traces = BTreeSet::new();
            for service in 0..3 {
                let body = template.request(service, group);
                let request = ExportTraceServiceRequest::decode(body).unwrap();
                let spans = &request.resource_spans[0].scope_spans[0].spans;
                assert_eq!(spans.len() as u64, SPANS_PER_REQUEST);
                traces.extend(spans.iter().map(|it| it.trace_id.clone()));
            }
            assert_eq!(traces.len() as u64, TRACES_PER_GROUP);
            assert!(traces.into_iter().all(|it| seen.insert(it)));
        }
    }

    #[test]
    fn every_part_is_sent_once_and_some_late_or_again() {
        let template = Arc::new(Template { bodies: Vec::new() });
        let offer = Offer::new(template, 100_000, 10, 0);
        let mut sent = vec![0; offer.groups as usize];
        let mut number = 0;
        while let Some((slot, lane)) = offer.turn(number) {
            number += 1;
            if let Some(group) = offer.group(slot, &LANES[lane]) {
                sent[group as usize] += if lane == AGAIN { 100 } else { 1 };
            }
        }
        assert!(offer.groups > 600);
        for (group, sent) in sent.into_iter().enumerate() {
            let again = if group as u64 % ODD_ONE_IN == TWICE {
                100
            } else {
                0
            };
            assert_eq!(sent, 3 + again, "{group}");
        }
    }
}
