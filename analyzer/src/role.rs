//! What an entry is there for: people wait for requests, not for jobs and probes.

use crate::Analysis;
use crate::finding::Severity;
use crate::impact;
use crate::span::SpanKind;

/// What an entry is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Somebody waits for the answer.
    Request,
    /// A message's consumer or a job: slow costs capacity, but nobody's time.
    Background,
    /// Health checks, metrics, migrations: not the service's work. Findings there would be noise.
    Upkeep,
}

impl Role {
    /// How much saving `saved_ns` of an entry of this role that takes `duration_ns` matters: nobody waits
    /// for what is no request.
    pub fn severity(self, saved_ns: u64, duration_ns: u64) -> Severity {
        match self {
            Role::Request => impact::severity(saved_ns, duration_ns),
            Role::Background | Role::Upkeep => Severity::Info,
        }
    }
}

/// Words of endpoints that probe or prepare a service, whatever follows: `/healthz/db`.
const UPKEEP: &[&str] = &[
    "health",
    "healthz",
    "healthcheck",
    "health-check",
    "livez",
    "liveness",
    "readyz",
    "readiness",
    "startupz",
    "actuator",
    "db:migrate",
    "heartbeat",
];

/// Words that do so as the last one only: `/metrics`, but not `/metrics/sales/{year}`. Behind no path, in
/// a job's name, they may be followed by anything: `migrate up`.
const UPKEEP_ALONE: &[&str] = &[
    "ready",
    "up",
    "ping",
    "status",
    "metrics",
    "migrate",
    "migration",
    "migrations",
];

/// What may stand before such a word and says nothing: `/api/v1/health`, `/-/ready`, `grpc.health.v1.Health`.
const PREFIXES: &[&str] = &[
    "api",
    "v1",
    "v2",
    "v3",
    "internal",
    "manage",
    "management",
    "grpc",
    "-",
    "_",
];

/// User agents of probes: Kubernetes, load balancers of clouds.
const PROBES: &[&str] = &["kube-probe/", "ELB-HealthChecker/", "GoogleHC/"];

/// The role of the entry `entry` (an index into [`Analysis::entries`]).
pub fn role(analysis: &Analysis<'_>, entry: usize) -> Role {
    if is_upkeep(&analysis.entries[entry].endpoint) || is_probed(analysis, entry) {
        return Role::Upkeep;
    }
    let kind = |entry: usize| analysis.trace.span(analysis.entries[entry].span).kind;
    let is_job = matches!(kind(entry), SpanKind::Internal | SpanKind::Unspecified);
    let mut callers = std::iter::successors(Some(entry), |it| analysis.entries[*it].parent);
    if is_job || callers.any(|it| kind(it) == SpanKind::Consumer) {
        return Role::Background;
    }
    Role::Request
}

/// Asked by something that only wants to know whether the service lives.
fn is_probed(analysis: &Analysis<'_>, entry: usize) -> bool {
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(analysis.entries[entry].span);
    let agent = spans.text(span, &["user_agent.original", "http.user_agent"]);
    agent.is_some_and(|it| PROBES.iter().any(|probe| it.starts_with(probe)))
}

/// `GET /health`, `/api/v1/health`, `/actuator/health`, but not `GET /orders/{id}/status`, and no status
/// of one thing of many: `/status/{order_id}`.
pub fn is_upkeep(endpoint: &str) -> bool {
    let is_of = |word: &str, words: &[&str]| words.iter().any(|it| word.eq_ignore_ascii_case(it));
    let mut words = endpoint.split(['/', ' ', '.']).filter(|it| !it.is_empty());
    let first = words.find(|it| {
        let is_method = it.bytes().all(|byte| byte.is_ascii_uppercase());
        !is_method && !is_of(it, PREFIXES)
    });
    // `/_health`
    let Some(first) = first.map(|it| it.trim_start_matches('_')) else {
        return false;
    };
    let is_path = endpoint.contains('/');
    let alone = !is_path || words.next().is_none();
    is_of(first, UPKEEP) || alone && is_of(first, UPKEEP_ALONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_by_their_first_word() {
        for probe in [
            "GET /health",
            "GET /healthz/db",
            "/actuator/health",
            "GET /metrics",
            "ping",
            "migrate up",
            "GET /api/health",
            "GET /_health",
            "GET /up",
            "GET /grpc.health.v1.Health/Check",
            "grpc.health.v1.Health/Check",
            "GET /api/v1/healthcheck",
            "GET /startupz",
            "GET /manage/health",
            "GET /-/ready",
        ] {
            assert!(is_upkeep(probe), "{probe}");
        }
        for work in [
            "GET /orders/{id}/status",
            "GET /",
            "POST /healthy-recipes",
            "GET /health-insurance/quotes",
            "GET /patients/{id}/health",
            "GET /metrics/sales/{year}",
            "GET /status/{order_id}",
            "GET /migrations/{id}/files",
            "GET /api/v1/users",
            "GET",
        ] {
            assert!(!is_upkeep(work), "{work}");
        }
    }
}
