//! Traces that could not be analysed, for the status page.

use analyzer::span::TraceId;
use uuid::Uuid;

use super::{Store, StoreError};

/// Quarantined traces that the status page lists; it also says how many there are.
const LISTED_MAX: i64 = 50;

/// A trace whose analysis failed.
#[derive(Clone, PartialEq, Debug)]
pub struct ListedQuarantined {
    /// The trace.
    pub trace_id: TraceId,
    /// Since when, seconds ago by the database's clock.
    pub ago_s: f64,
    /// Why.
    pub reason: String,
    /// Its spans.
    pub spans: i32,
}

impl Store {
    /// How many traces are in quarantine, and the latest of them, each once.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn list_quarantine(&self) -> Result<(i64, Vec<ListedQuarantined>), StoreError> {
        let rows: Vec<(Uuid, f64, String, i32, i64)> = sqlx::query_as(
            "select trace_id, extract(epoch from now() - at)::float8, reason, spans, count(*) over ()
             from (select distinct on (trace_id) * from culprit.quarantine
                   order by trace_id, at desc) latest
             order by at desc limit $1",
        )
        .bind(LISTED_MAX)
        .fetch_all(self.pool())
        .await?;
        let count = rows.first().map_or(0, |it| it.4);
        let listed = rows
            .into_iter()
            .map(|(id, ago_s, reason, spans, _)| ListedQuarantined {
                trace_id: TraceId(id.into_bytes()),
                ago_s,
                reason,
                spans,
            });
        Ok((count, listed.collect()))
    }
}
