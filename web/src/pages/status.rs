//! How culprit itself is, in words: the database, the journal, what was received and refused, and
//! the traces that could not be analysed.

use axum::extract::State;
use axum::response::Response;
use collector::receiver::{Counts, Problem};
use collector::store::journal::Backlog;
use collector::store::quarantine::ListedQuarantined;

use super::{Frame, PageError, render};
use crate::AppState;
use crate::format::{ago, count, now_ns};

/// `GET /status`. Says what is wrong instead of failing when the database is down.
///
/// # Errors
/// None that is known: a page that cannot be written.
pub async fn page(State(state): State<AppState>) -> Result<Response, PageError> {
    let database = match state.store.is_writable().await {
        Ok(true) => Ok(()),
        Ok(false) => Err("it is read-only".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    // Without a database there is nothing to ask it.
    let (backlog, quarantine) = match database {
        Ok(()) => (
            state.store.journal_backlog().await.ok(),
            state.store.list_quarantine().await.ok(),
        ),
        Err(_) => (None, None),
    };
    let (quarantined, quarantine) = quarantine.unwrap_or_default();
    let addresses = [("OTLP/gRPC", state.grpc), ("OTLP/HTTP", state.http)];
    let page = StatusPage {
        frame: Frame { current: "/status" },
        database,
        backlog,
        receiver: state.receiver.as_ref().map(|it| it.counts()),
        listening: addresses
            .into_iter()
            .filter_map(|(name, address)| Some((name, address?.to_string())))
            .collect(),
        quarantined,
        quarantine,
    };
    Ok(render(&page))
}

/// A journal whose oldest row is older than this is behind: traces are analysed 8 s after their
/// last span, and open ones are carried on in new rows every 10 s.
const BEHIND_S: f64 = 60.0;

/// The status, ready to be written.
#[derive(askama::Template)]
#[template(path = "status.html")]
pub struct StatusPage {
    /// What the frame needs.
    pub frame: Frame,
    /// The database answers and takes writes, or why not.
    pub database: Result<(), String>,
    /// What waits in the journal, if the database could be asked.
    pub backlog: Option<Backlog>,
    /// What this process has received since its start; `None` if it does not receive.
    pub receiver: Option<Counts>,
    /// Where spans are taken: name and address.
    pub listening: Vec<(&'static str, String)>,
    /// How many traces are in quarantine.
    pub quarantined: i64,
    /// The latest of them.
    pub quarantine: Vec<ListedQuarantined>,
}

impl StatusPage {
    fn last_refused(&self) -> Option<&Problem> {
        self.receiver.as_ref()?.last_problem.as_ref()
    }

    fn count(&self, number: &u64) -> String {
        count(*number as i64)
    }

    fn since_problem(&self, problem: &Problem) -> String {
        ago(problem.at_ns, now_ns())
    }

    fn is_behind(&self) -> bool {
        self.backlog.is_some_and(|it| it.oldest_s > BEHIND_S)
    }

    fn sentence(&self) -> &'static str {
        match (&self.database, self.is_behind(), self.quarantined) {
            (Err(_), ..) => "The database does not answer",
            (Ok(()), true, _) => "The analysis is behind",
            (Ok(()), false, 0) => "All is well",
            (Ok(()), false, _) => "Running, but some traces could not be analysed",
        }
    }

    fn since(&self, trace: &ListedQuarantined) -> String {
        seconds(trace.ago_s)
    }

    fn oldest(&self) -> String {
        seconds(self.backlog.map_or(0.0, |it| it.oldest_s))
    }
}

/// `3 s`, `4 min`, `2 h`, `5 days`.
fn seconds(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        it @ 0..120 => format!("{it} s"),
        it @ 120..7_200 => format!("{} min", it / 60),
        it @ 7_200..172_800 => format!("{} h", it / 3_600),
        it => format!("{} days", it / 86_400),
    }
}
