//! Which calls ship log lines: hosts, paths, ports and RPC services of known log destinations.
//!
//! SDKs do not trace their own exporters, so a match means that the application itself sends log
//! lines, in a span of its own. Whether the request waits for it is the detector's question.

use crate::Settings;
use crate::facts::Facts;
use crate::span::{Span, SpanKind, Spans};
use crate::target::Target;

/// A log destination that a call goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sink {
    /// For people: `Loki`.
    pub name: &'static str,
    /// It is known to be one; otherwise its name only suggests it.
    pub certain: bool,
    /// What gave it away: `path /loki/api/v1/push`.
    pub reason: &'static str,
}

/// The log destination that `span` calls, if it calls one.
pub fn sink_of(spans: &Spans<'_>, span: &Span<'_>, settings: &Settings) -> Option<Sink> {
    match span.kind {
        SpanKind::Server | SpanKind::Consumer | SpanKind::Producer => None,
        _ => match_sink(&Facts::of(spans, span), settings),
    }
}

/// As [`sink_of`], for a span's attributes.
pub fn match_sink(facts: &Facts<'_>, settings: &Settings) -> Option<Sink> {
    let nothing_configured = settings.log_destinations.is_empty();
    let named = [
        facts.rpc_service,
        facts.rpc_method,
        facts.url_full,
        facts.url_path,
    ];
    if nothing_configured && !facts.db_system.is_empty() && named.iter().all(|it| it.is_empty()) {
        // Most calls are of databases, and those that take log lines are told by their paths.
        return None;
    }
    let target = Target::of(facts);
    if is_configured(&target, settings) {
        return certain("configured log destination", "named in the configuration");
    }
    if !facts.rpc_service.is_empty() || !facts.rpc_method.is_empty() {
        return rpc_sink(facts);
    }
    if target == Target::default() {
        return None;
    }
    // Reading logs back is not logging.
    if matches!(facts.http_method, "GET" | "HEAD" | "OPTIONS" | "DELETE") {
        return None;
    }
    let elasticsearch = elasticsearch_sink(facts, &target);
    if elasticsearch.is_some() || !facts.db_system.is_empty() {
        // Of the databases, only this one takes log lines.
        return elasticsearch;
    }
    known_sink(&target).or_else(|| suggested_sink(facts, &target))
}

fn certain(name: &'static str, reason: &'static str) -> Option<Sink> {
    Some(Sink {
        name,
        certain: true,
        reason,
    })
}

fn is_configured(target: &Target<'_>, settings: &Settings) -> bool {
    settings.log_destinations.iter().any(|pattern| {
        let pattern = pattern.trim();
        match pattern.find('/') {
            // A path, and maybe a host before it.
            Some(at) => {
                let (host, path) = pattern.split_at(at);
                let path_fits = matches(path, target.path);
                path_fits && (host.is_empty() || matches(host, target.host))
            }
            None => !pattern.is_empty() && matches(pattern, target.host),
        }
    })
}

/// A known destination: all that is given must fit. An empty pattern fits everything.
struct Known {
    name: &'static str,
    host: &'static str,
    path: &'static str,
    /// 0: any port.
    port: u16,
}

impl Known {
    fn fits(&self, target: &Target<'_>) -> bool {
        (self.port == 0 || target.port == Some(self.port))
            && (self.path.is_empty() || matches(self.path, target.path))
            && (self.host.is_empty() || matches(self.host, target.host))
    }
}

const fn by_path(name: &'static str, path: &'static str) -> Known {
    by_both(name, "", path)
}

const fn by_host(name: &'static str, host: &'static str) -> Known {
    by_both(name, host, "")
}

const fn by_both(name: &'static str, host: &'static str, path: &'static str) -> Known {
    Known {
        name,
        host,
        path,
        port: 0,
    }
}

const fn by_port(name: &'static str, path: &'static str, port: u16) -> Known {
    Known {
        name,
        host: "",
        path,
        port,
    }
}

/// Public documentation of each vendor says where its log intake is.
static KNOWN: &[Known] = &[
    by_path("Loki", "/loki/api/v1/push"),
    by_path("Loki", "/api/prom/push"),
    by_host("Grafana Cloud Logs", "logs-prod-*.grafana.net"),
    by_host("Datadog", "http-intake.logs.*"),
    by_both("Datadog", "*datadog*", "/api/v2/logs"),
    by_both("Datadog", "*datadog*", "/v1/input*"),
    by_path("Splunk", "/services/collector*"),
    by_host("Splunk", "http-inputs*.splunkcloud.com"),
    by_port("Logstash", "", 5044),
    by_port("GELF", "", 12201),
    by_path("GELF", "/gelf"),
    by_port("Fluentd", "", 24224),
    by_port("Fluentd", "", 9880),
    by_port("syslog", "", 514),
    by_port("syslog", "", 6514),
    by_host("New Relic", "log-api.*newrelic.com"),
    by_host("CloudWatch Logs", "logs.*.amazonaws.com"),
    by_both(
        "Google Cloud Logging",
        "logging.googleapis.com",
        "/v2/entries*write",
    ),
    by_both("Azure Monitor", "*.ods.opinsights.azure.com", "/api/logs"),
    by_path("Azure Monitor", "/datacollectionrules/*/streams/*"),
    by_both(
        "Application Insights",
        "dc.services.visualstudio.com",
        "/v2/track",
    ),
    by_host("Application Insights", "*.in.applicationinsights.azure.com"),
    by_host("Papertrail", "logs*.papertrailapp.com"),
    by_host("SolarWinds", "logs.collector.*.solarwinds.com"),
    by_both("Sentry", "*sentry.io", "/api/*/envelope/"),
    by_both("Sentry", "*sentry.io", "/api/*/store/"),
    by_both("Seq", "*seq*", "/api/events/raw"),
    by_path("Seq", "/ingest/clef"),
    by_both("Axiom", "api.axiom.co", "/v1/datasets/*/ingest"),
    by_both("Axiom", "api.axiom.co", "/v1/ingest*"),
    by_both("Honeycomb", "api.honeycomb.io", "/1/batch*"),
    by_both("Honeycomb", "api.honeycomb.io", "/1/events*"),
    by_both("Mezmo", "*mezmo*", "/logs/ingest"),
    by_both("Mezmo", "*logdna*", "/logs/ingest"),
    by_host("Sematext", "logsene-receiver*.sematext.com"),
    by_both("LogScale", "*humio*", "/api/v1/ingest/*"),
    by_both("LogScale", "*logscale*", "/api/v1/ingest/*"),
    by_host("Better Stack", "in.logs.betterstack.com"),
    by_host("Better Stack", "*in.logtail.com"),
    by_both("Loggly", "logs-*.loggly.com", "/inputs*"),
    by_both("Loggly", "logs-*.loggly.com", "/bulk*"),
    by_both("Sumo Logic", "*.sumologic.com", "/receiver/v1/http*"),
    by_host("Coralogix", "ingress.*coralogix*"),
    by_host("Logz.io", "listener*.logz.io"),
    by_both("Rollbar", "api.rollbar.com", "/api/1/item*"),
    by_host("Bugsnag", "notify.bugsnag.com"),
    by_host("AppSignal", "appsignal-endpoint.net"),
    by_port("OTLP logs", "/v1/logs", 4318),
];

/// What others use, too: orders have a `/api/events/raw` of their own, and a chat takes more than log lines.
static SUGGESTED: &[Known] = &[
    by_path("Datadog", "/api/v2/logs"),
    by_path("Seq", "/api/events/raw"),
    by_path("Mezmo", "/logs/ingest"),
    by_path("LogScale", "/api/v1/ingest/*"),
    by_both("Slack webhook", "hooks.slack.com", "/services*"),
];

fn known_sink(target: &Target<'_>) -> Option<Sink> {
    let known = KNOWN.iter().find(|it| it.fits(target))?;
    let reason = match (known.path.is_empty(), known.host.is_empty()) {
        (false, true) => "its path is a log intake",
        (true, true) => "its port is a log intake",
        _ => "its host is a log intake",
    };
    certain(known.name, reason)
}

fn rpc_sink(facts: &Facts<'_>) -> Option<Sink> {
    let reason = "its RPC service takes log lines";
    let (service, method) = match facts.rpc_method.rsplit_once('/') {
        Some(both) => both,
        None => (facts.rpc_service, facts.rpc_method),
    };
    match (service.trim_start_matches('/'), method) {
        ("opentelemetry.proto.collector.logs.v1.LogsService", _) => certain("OTLP logs", reason),
        ("google.logging.v2.LoggingServiceV2", "WriteLogEntries") => {
            certain("Google Cloud Logging", reason)
        }
        (_, "PutLogEvents" | "CloudWatchLogs.PutLogEvents") => certain("CloudWatch Logs", reason),
        _ => None,
    }
}

/// Elasticsearch takes log lines like any other document: only the index tells.
fn elasticsearch_sink(facts: &Facts<'_>, target: &Target<'_>) -> Option<Sink> {
    let mut segments = target.path.trim_matches('/').split('/');
    let first = segments.next().unwrap_or("");
    let mut writes = std::iter::once(first).chain(segments);
    if !writes.any(|it| matches!(it, "_bulk" | "_doc" | "_create")) {
        return None;
    }
    let index = match first.starts_with('_') {
        true => facts.db_collection,
        false => first,
    };
    match is_log_word(index, INDEX_WORDS) {
        true => certain("Elasticsearch", "its index is for log lines"),
        false => None,
    }
}

/// Words of index names.
const INDEX_WORDS: &[&str] = &["log", "logs", "logstash", "filebeat", "syslog", "fluentd"];

/// Words of host names that suggest log lines. Whole words only: `login` and `logistics` are not.
const HOST_WORDS: &[&str] = &[
    "log", "logs", "logger", "logging", "logstash", "syslog", "graylog", "gelf", "loki", "fluentd",
    "fluent", "audit",
];

/// By name only: worth a note, not an accusation.
fn suggested_sink(facts: &Facts<'_>, target: &Target<'_>) -> Option<Sink> {
    if let Some(it) = SUGGESTED.iter().find(|it| it.fits(target)) {
        return Some(Sink {
            name: it.name,
            certain: false,
            reason: "its address is that of a log intake, but others have such addresses, too",
        });
    }
    let host = target.host.split('.').next().unwrap_or("");
    let named = suggests_log_lines(host) || suggests_log_lines(facts.peer_service);
    named.then_some(Sink {
        name: "a service named like a log destination",
        certain: false,
        reason: "its name suggests log lines",
    })
}

/// A host, topic or job named like something for log lines.
pub fn suggests_log_lines(name: &str) -> bool {
    is_log_word(name, HOST_WORDS)
}

fn is_log_word(name: &str, words: &[&str]) -> bool {
    name.split(|it: char| !it.is_ascii_alphabetic())
        .any(|it| words.iter().any(|word| it.eq_ignore_ascii_case(word)))
}

/// Does `text` fit `pattern`, in which a `*` matches anything? Case does not matter.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let Some(star) = pattern.iter().position(|it| *it == b'*') else {
        return pattern.eq_ignore_ascii_case(text);
    };
    let (head, mut pattern) = (&pattern[..star], &pattern[star..]);
    if text.len() < head.len() || !text[..head.len()].eq_ignore_ascii_case(head) {
        return false;
    }
    let mut text = &text[head.len()..];
    // `pattern` begins with a star from here on: each piece after one is taken where it comes first.
    while let Some((_, rest)) = pattern.split_first() {
        let end = rest.iter().position(|it| *it == b'*');
        let piece = &rest[..end.unwrap_or(rest.len())];
        if end.is_none() {
            return text.len() >= piece.len()
                && text[text.len() - piece.len()..].eq_ignore_ascii_case(piece);
        }
        match find(text, piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
        pattern = &rest[piece.len()..];
    }
    true
}

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    let last = text.len().checked_sub(piece.len())?;
    (0..=last).find(|at| text[*at..at + piece.len()].eq_ignore_ascii_case(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(url_full: &'static str) -> Option<Sink> {
        let facts = Facts {
            url_full,
            http_method: "POST",
            ..Facts::default()
        };
        match_sink(&facts, &Settings::default())
    }

    #[test]
    fn known_destinations() {
        for (url, name) in [
            ("http://loki:3100/loki/api/v1/push", "Loki"),
            ("https://logs-prod-006.grafana.net/x", "Grafana Cloud Logs"),
            (
                "https://http-intake.logs.datadoghq.eu/api/v2/logs",
                "Datadog",
            ),
            ("https://http-intake.logs.us3.datadoghq.com/", "Datadog"),
            ("https://splunk:8088/services/collector/event", "Splunk"),
            ("http://es:9200/logs-shop/_bulk", "Elasticsearch"),
            ("http://es:9200/shop-logs-2024.01/_doc/1", "Elasticsearch"),
            ("http://graylog:12201/gelf", "GELF"),
            ("http://fluent:9880/app.log", "Fluentd"),
            ("https://log-api.eu.newrelic.com/log/v1", "New Relic"),
            ("https://logs.eu-west-1.amazonaws.com/", "CloudWatch Logs"),
            (
                "https://logging.googleapis.com/v2/entries:write",
                "Google Cloud Logging",
            ),
            (
                "https://x.ods.opinsights.azure.com/api/logs?v=1",
                "Azure Monitor",
            ),
            ("https://o1.ingest.us.sentry.io/api/42/envelope/", "Sentry"),
            ("https://logs2.papertrailapp.com/x", "Papertrail"),
            ("http://collector:4318/v1/logs", "OTLP logs"),
        ] {
            let sink = sink(url).unwrap_or_else(|| panic!("{url}"));
            assert_eq!((sink.name, sink.certain), (name, true), "{url}");
        }
    }

    #[test]
    fn look_alikes_are_not_log_destinations() {
        for url in [
            "http://es:9200/_bulk",
            "http://es:9200/products/_bulk",
            "http://login.example.org/session",
            "http://logistics/parcels",
            "http://payments/charge",
            "http://shop/v1/logs-of-wood",
            "",
        ] {
            assert_eq!(sink(url), None, "{url}");
        }
        let reads = Facts {
            url_full: "http://loki/loki/api/v1/push",
            http_method: "GET",
            ..Facts::default()
        };
        assert_eq!(match_sink(&reads, &Settings::default()), None);
    }

    #[test]
    fn a_name_only_suggests() {
        for url in [
            "http://log-collector.internal/lines",
            "http://orders/api/v2/logs",
            "http://billing/api/events/raw",
            "https://hooks.slack.com/services/T0/B0/x",
        ] {
            assert!(!sink(url).unwrap().certain, "{url}");
        }
    }

    #[test]
    fn rpc_services() {
        let old = Facts {
            rpc_service: "google.logging.v2.LoggingServiceV2",
            rpc_method: "WriteLogEntries",
            ..Facts::default()
        };
        let new = Facts {
            rpc_method: "opentelemetry.proto.collector.logs.v1.LogsService/Export",
            ..Facts::default()
        };
        let other = Facts {
            rpc_method: "shop.Cart/Get",
            ..Facts::default()
        };
        let name = |facts| match_sink(&facts, &Settings::default()).map(|it| it.name);
        assert_eq!(name(old), Some("Google Cloud Logging"));
        assert_eq!(name(new), Some("OTLP logs"));
        assert_eq!(name(other), None);
    }

    #[test]
    fn configured_patterns() {
        let settings = |pattern: &str| Settings {
            log_destinations: vec![pattern.to_owned()],
            ..Settings::default()
        };
        let facts = Facts {
            url_full: "http://journal.corp:9/write/line",
            ..Facts::default()
        };
        for (pattern, fits) in [
            ("journal.corp", true),
            ("JOURNAL.*", true),
            ("*/write/*", true),
            ("/write/*", true),
            ("journal.*/write/line", true),
            ("other/write/line", false),
            ("journal", false),
            ("", false),
        ] {
            let found = match_sink(&facts, &settings(pattern)).is_some();
            assert_eq!(found, fits, "{pattern}");
        }
    }

    #[test]
    fn stars_match_anything() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*ab", "aab", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
