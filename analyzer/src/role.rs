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

/// Path segments and words of endpoints that probe or prepare a service.
const UPKEEP: &[&str] = &[
    "health",
    "healthz",
    "healthcheck",
    "health-check",
    "livez",
    "liveness",
    "readyz",
    "readiness",
    "ready",
    "ping",
    "status",
    "metrics",
    "actuator",
    "migrate",
    "migration",
    "migrations",
    "db:migrate",
    "heartbeat",
];

/// The role of the entry `entry` (an index into [`Analysis::entries`]).
pub fn role(analysis: &Analysis<'_>, entry: usize) -> Role {
    if is_upkeep(&analysis.entries[entry].endpoint) {
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

/// `GET /health`, `/actuator/health`, but not `GET /orders/{id}/status`.
pub fn is_upkeep(endpoint: &str) -> bool {
    let mut words = endpoint.split(['/', ' ', '.']).filter(|it| !it.is_empty());
    let first = words.find(|it| !it.bytes().all(|byte| byte.is_ascii_uppercase()));
    first.is_some_and(|it| UPKEEP.iter().any(|word| it.eq_ignore_ascii_case(word)))
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
        ] {
            assert!(is_upkeep(probe), "{probe}");
        }
        for work in [
            "GET /orders/{id}/status",
            "GET /",
            "POST /healthy-recipes",
            "GET",
        ] {
            assert!(!is_upkeep(work), "{work}");
        }
    }
}
