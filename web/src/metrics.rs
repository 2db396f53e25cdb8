//! `GET /metrics`: one table, [`ALL`]; a new metric is a new entry in it.
//!
//! Names and units follow Prometheus' conventions: seconds and bytes, `_total` for counters. Labels
//! come from fixed lists, never from what a sender wrote. What a process does not do it does not
//! tell; sums over processes are sums over `job`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use collector::disk::DiskGuard;
use collector::store::overview::{Counted, Overview};
use collector::store::pool::Connections;
use collector::{alert, assembly, housekeeping, journal, receiver, review};

use crate::exposition::{CONTENT_TYPE, Kind, Samples};
use crate::process::Usage;
use crate::vitals::Vitals;

/// A metric: what it is called, what it says, and where its numbers are.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: Read,
}

/// Everything that is known at one moment.
struct Reading<'a> {
    vitals: &'a Vitals,
    received: Option<receiver::Snapshot>,
    /// `None` while the database is away.
    overview: Option<Overview>,
    process: Usage,
}

type Read = fn(&Reading<'_>, &mut Samples<'_>);

const fn counter(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric::new(Kind::Counter, name, help, read)
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric::new(Kind::Gauge, name, help, read)
}

const fn histogram(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric::new(Kind::Histogram, name, help, read)
}

impl Metric {
    const fn new(kind: Kind, name: &'static str, help: &'static str, read: Read) -> Metric {
        Metric {
            name,
            kind,
            help,
            read,
        }
    }
}

/// Every metric, in the order in which they are told.
#[rustfmt::skip]
static ALL: &[Metric] = &[
    // What arrives.
    counter("otelcol_receiver_accepted_spans_total", "Spans that are durable, by the way they came.",
        |it, out| it.accepted(out, |counts| counts.spans)),
    counter("culprit_receiver_requests_total", "Export requests answered with success, wholly or in part.",
        |it, out| it.accepted(out, |counts| counts.requests)),
    counter("culprit_receiver_bytes_total", "Bytes of their bodies as they were sent: compressed, without headers.",
        |it, out| it.accepted(out, |counts| counts.bytes)),
    counter("culprit_receiver_rejected_spans_total", "Spans not taken from requests that were.",
        |it, out| it.received(|now| for (reason, spans) in now.rejected_spans { out.add(&[("reason", reason.name())], spans as f64) })),
    counter("culprit_receiver_refused_requests_total", "Export requests refused whole.",
        |it, out| it.received(|now| for (reason, count) in now.refused_requests { out.add(&[("reason", reason.name())], count as f64) })),
    counter("culprit_receiver_other_signals_total", "Export requests with logs or metrics: nothing of them is kept.",
        |it, out| it.received(|now| for (signal, count) in now.other_signals { out.add(&[("signal", signal.name())], count as f64) })),
    counter("culprit_receiver_refused_connections_total", "Connections closed at once because their address had too many.",
        |it, out| it.received(|now| out.add(&[], now.refused_connections as f64))),
    gauge("culprit_receiver_last_accepted_timestamp_seconds", "When spans were last taken; 0 if never.",
        |it, out| it.received(|now| out.add(&[], now.last_taken_ns as f64 / 1e9))),
    // The journal.
    gauge("culprit_journal_waiting_bytes", "Bytes of OTLP in this process that wait for a commit.",
        |it, out| it.journal(|stats| out.add(&[], stats.waiting_bytes() as f64))),
    histogram("culprit_journal_commit_seconds", "How long a commit into the journal takes, which exporters wait for.",
        |it, out| it.journal(|stats| out.add_histogram(&stats.commit_seconds.observed()))),
    counter("culprit_journal_failed_commits_total", "Commits that failed; their clients were told to come again.",
        |it, out| it.journal(|stats| out.add(&[], stats.failed_commits.load(Relaxed) as f64))),
    gauge("culprit_journal_rows", "Rows in the journal, of all processes.",
        |it, out| it.whole(|whole| out.add(&[], whole.journal.rows as f64))),
    gauge("culprit_journal_spans", "Spans in the journal: received and not analysed yet, of all processes.",
        |it, out| it.whole(|whole| out.add(&[], whole.journal.spans as f64))),
    gauge("culprit_journal_bytes", "Bytes in the journal before compression, of all processes.",
        |it, out| it.whole(|whole| out.add(&[], whole.journal.raw_bytes as f64))),
    gauge("culprit_analysis_lag_seconds", "Age of the oldest row in the journal. About ten seconds are usual: traces are waited for.",
        |it, out| it.whole(|whole| out.add(&[], whole.journal.oldest_s))),
    // The analysis.
    gauge("culprit_analysis_traces_in_flight", "Traces that wait for the rest of their spans.",
        |it, out| it.analysis(|stats| out.add(&[], stats.in_flight.load(Relaxed) as f64))),
    counter("culprit_analysis_traces_total", "Traces made final, those that were final before included.",
        |it, out| it.analysis(|stats| out.add(&[], stats.traces.load(Relaxed) as f64))),
    counter("culprit_analysis_traces_again_total", "Traces made final that were final before and had grown.",
        |it, out| it.analysis(|stats| out.add(&[], stats.again.load(Relaxed) as f64))),
    counter("culprit_analysis_traces_repeated_total", "Traces that arrived again as they were: retries.",
        |it, out| it.analysis(|stats| out.add(&[], stats.repeated.load(Relaxed) as f64))),
    counter("culprit_analysis_traces_quarantined_total", "Traces whose analysis failed.",
        |it, out| it.analysis(|stats| out.add(&[], stats.quarantined.load(Relaxed) as f64))),
    counter("culprit_analysis_spans_total", "Spans of traces made final.",
        |it, out| it.analysis(|stats| out.add(&[], stats.spans.load(Relaxed) as f64))),
    counter("culprit_analysis_failed_ticks_total", "Ticks that failed; their shard is read again from the journal.",
        |it, out| it.analysis(|stats| out.add(&[], stats.failed_ticks.load(Relaxed) as f64))),
    histogram("culprit_analysis_tick_seconds", "How long it takes to make some thousand spans final.",
        |it, out| it.analysis(|stats| out.add_histogram(&stats.tick_seconds.observed()))),
    gauge("culprit_quarantined_traces", "Traces in quarantine now, of all processes.",
        |it, out| it.whole(|whole| out.add(&[], whole.quarantined as f64))),
    // Findings and alerts.
    counter("culprit_review_runs_total", "Looks at what ticks appended.",
        |it, out| it.review(|stats| { out.add(&[("result", "ok")], stats.runs.load(Relaxed) as f64); out.add(&[("result", "failed")], stats.failed.load(Relaxed) as f64) })),
    gauge("culprit_findings", "Findings by state.",
        |it, out| it.whole(|whole| by_state(&whole.findings, out))),
    gauge("culprit_alerts", "Messages about findings by state.",
        |it, out| it.whole(|whole| by_state(&whole.alerts, out))),
    gauge("culprit_alerts_waiting_attempts", "Attempts made so far for messages that still wait.",
        |it, out| it.whole(|whole| out.add(&[], whole.attempts as f64))),
    gauge("culprit_alerts_oldest_waiting_seconds", "Age of the oldest message that waits; 0 if none does.",
        |it, out| it.whole(|whole| out.add(&[], whole.oldest_waiting_s))),
    gauge("culprit_incidents", "Incidents by state; of the resolved ones those of the last day.",
        |it, out| it.whole(|whole| by_state(&whole.incidents, out))),
    counter("culprit_alert_deliveries_total", "Attempts of this process to deliver a message, by kind of channel and outcome.",
        |it, out| it.alerts(|stats| for (kind, outcome, count) in stats.attempts() { out.add(&[("kind", kind), ("outcome", outcome)], count as f64) })),
    // The database.
    gauge("culprit_postgres_up", "1 if the database answers and takes writes.",
        |it, out| out.add(&[], f64::from(it.overview.is_some()))),
    counter("culprit_postgres_restarts_total", "How often the private PostgreSQL died and was started again.",
        |it, out| if it.vitals.postgres.is_some() { out.add(&[], it.vitals.postgres_restarts.load(Relaxed) as f64) }),
    gauge("culprit_postgres_connections", "Connections by pool and state.",
        |it, out| it.connections(out, |all| vec![("in_use", all.in_use), ("idle", all.idle)])),
    gauge("culprit_postgres_connections_max", "Connections that a pool may have; beyond it callers wait.",
        |it, out| for (pool, all) in it.pools() { out.add(&[("pool", pool)], f64::from(all.most)) }),
    gauge("culprit_dictionary_names", "Names in a dictionary.",
        |it, out| it.whole(|whole| for all in &whole.dictionaries { out.add(&[("dictionary", all.name)], all.names as f64) })),
    gauge("culprit_dictionary_names_max", "Names that a dictionary may have; beyond it they are counted as (other).",
        |it, out| it.whole(|whole| for all in &whole.dictionaries { out.add(&[("dictionary", all.name)], all.names_max as f64) })),
    gauge("culprit_dictionary_caps_reached", "How many (other)s a dictionary has: one for every cap that was reached.",
        |it, out| it.whole(|whole| for all in &whole.dictionaries { out.add(&[("dictionary", all.name)], all.other as f64) })),
    // What is kept.
    counter("culprit_compaction_blocks_total", "Small blocks that were packed with others.",
        |it, out| it.analysis(|stats| out.add(&[], stats.compacted_blocks.load(Relaxed) as f64))),
    counter("culprit_retention_dropped_partitions_total", "Partitions (a table's day) that were removed.",
        |it, out| it.housekeeping(|stats| out.add(&[], stats.dropped_partitions.load(Relaxed) as f64))),
    counter("culprit_retention_kept_traces_total", "Traces that outlived their day: with a finding, an error, or slow.",
        |it, out| it.housekeeping(|stats| out.add(&[], stats.kept_traces.load(Relaxed) as f64))),
    counter("culprit_retention_failed_runs_total", "Looks for what is to be removed that failed; they are repeated.",
        |it, out| it.housekeeping(|stats| out.add(&[], stats.failed_runs.load(Relaxed) as f64))),
    gauge("culprit_storage_bytes", "Bytes by table at the last look, indexes and TOAST included, of all processes.",
        |it, out| it.housekeeping(|stats| for (table, bytes) in stats.bytes_by_table() { out.add(&[("table", &table)], bytes as f64) })),
    gauge("culprit_storage_oldest_day_timestamp_seconds", "Begin of the oldest day with all its traces; 0 before the first look.",
        |it, out| it.housekeeping(|stats| out.add(&[], stats.oldest_day.load(Relaxed) as f64 * 86_400.0))),
    gauge("culprit_disk_free_bytes", "Bytes free where the private PostgreSQL has its data.",
        |it, out| it.disk(|disk| out.add(&[], disk.free_bytes() as f64))),
    gauge("culprit_disk_free_min_bytes", "Bytes that have to be free there; below it nothing is taken and old days go.",
        |it, out| it.disk(|disk| out.add(&[], disk.floor_bytes() as f64))),
    // This process.
    gauge("culprit_build_info", "1; the version is a label.",
        |_, out| out.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)),
    counter("process_cpu_seconds_total", "Processor time, user and system.",
        |it, out| out.add(&[], it.process.cpu_s)),
    gauge("process_resident_memory_bytes", "Resident memory.",
        |it, out| out.add(&[], it.process.resident_bytes)),
    gauge("process_virtual_memory_bytes", "Address space.",
        |it, out| out.add(&[], it.process.virtual_bytes)),
    gauge("process_open_fds", "Open file descriptors.",
        |it, out| out.add(&[], it.process.open_fds)),
    gauge("process_max_fds", "File descriptors that may be open.",
        |it, out| out.add(&[], it.process.max_fds)),
    gauge("process_start_time_seconds", "When this process started, since the Unix epoch.",
        |it, out| out.add(&[], it.vitals.started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))),
];

/// `GET /metrics`. The database is asked too; while it is away, what only it knows is left out.
pub async fn show(State(vitals): State<Arc<Vitals>>) -> Response {
    let text = text(&vitals).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

async fn text(vitals: &Vitals) -> String {
    let reading = Reading {
        vitals,
        received: vitals.receiver.as_ref().map(|it| it.snapshot()),
        overview: vitals.overview().await.ok(),
        process: Usage::now(),
    };
    let mut text = String::new();
    for metric in ALL {
        let mut samples = Samples::of(metric.name);
        (metric.read)(&reading, &mut samples);
        samples.finish(metric.kind, metric.help, &mut text);
    }
    text
}

impl Reading<'_> {
    fn received(&self, tell: impl FnOnce(&receiver::Snapshot)) {
        self.received.as_ref().map(tell);
    }

    fn journal(&self, tell: impl FnOnce(&journal::Stats)) {
        self.vitals.journal.as_deref().map(tell);
    }

    fn analysis(&self, tell: impl FnOnce(&assembly::Stats)) {
        self.vitals.assembly.as_deref().map(tell);
    }

    fn review(&self, tell: impl FnOnce(&review::Stats)) {
        self.vitals.review.as_deref().map(tell);
    }

    fn alerts(&self, tell: impl FnOnce(&alert::Stats)) {
        self.vitals.alerts.as_deref().map(tell);
    }

    fn housekeeping(&self, tell: impl FnOnce(&housekeeping::Stats)) {
        self.vitals.housekeeping.as_deref().map(tell);
    }

    /// Before the first look there is nothing to tell.
    fn disk(&self, tell: impl FnOnce(&DiskGuard)) {
        let disk = self.vitals.disk.as_deref();
        disk.filter(|it| it.total_bytes() > 0).map(tell);
    }

    fn whole(&self, tell: impl FnOnce(&Overview)) {
        self.overview.as_ref().map(tell);
    }

    /// A number of every way to send, named as the OpenTelemetry Collector names them.
    fn accepted(&self, out: &mut Samples<'_>, number: fn(&receiver::AcceptedCounts) -> u64) {
        for (via, counts) in self.received.iter().flat_map(|it| &it.accepted) {
            let labels = [
                ("receiver", "otlp"),
                ("transport", via.transport()),
                ("format", via.format()),
            ];
            out.add(&labels, number(counts) as f64);
        }
    }

    fn pools(&self) -> [(&'static str, Connections); 2] {
        [
            ("work", self.vitals.working_store.connections()),
            ("people", self.vitals.store.connections()),
        ]
    }

    fn connections(
        &self,
        out: &mut Samples<'_>,
        states: fn(&Connections) -> Vec<(&'static str, u32)>,
    ) {
        for (pool, all) in self.pools() {
            for (state, count) in states(&all) {
                out.add(&[("pool", pool), ("state", state)], f64::from(count));
            }
        }
    }
}

fn by_state(counted: &[Counted], out: &mut Samples<'_>) {
    for it in counted {
        out.add(&[("state", &it.state)], it.count as f64);
    }
}
