//! How culprit itself is, in words: for somebody who was woken at night.

use axum::extract::State;
use axum::response::Response;
use collector::receiver::{AcceptedCounts, Via};
use collector::store::leases::{REGRESSION_SHARD, RETENTION_SHARD, REVIEW_SHARD};
use collector::store::overview::Holder;
use collector::store::quarantine::ListedQuarantined;
use uuid::Uuid;

use super::{Frame, PageError, render};
use crate::AppState;
use crate::format::{ago, count, now_ns};
use crate::status::{self, Level, Status, Trouble, bytes, per_second, seconds};

/// Tables shown by name; the small ones are added up.
const TABLES_SHOWN: usize = 6;

/// `GET /status`. Says what is wrong instead of failing when the database is down.
///
/// # Errors
/// None that is known: a page that cannot be written.
pub async fn page(State(state): State<AppState>) -> Result<Response, PageError> {
    let status = Status::of(&state).await;
    let troubles = status.troubles();
    let addresses = [("OTLP/gRPC", state.grpc), ("OTLP/HTTP", state.http)];
    let page = StatusPage {
        frame: Frame { current: "/status" },
        level: Status::level(&troubles),
        sentence: Status::sentence(&troubles),
        troubles,
        listening: addresses
            .into_iter()
            .filter_map(|(name, address)| Some((name, address?.to_string())))
            .collect(),
        process: state.vitals.process,
        status,
    };
    Ok(render(&page))
}

/// The status, ready to be written.
#[derive(askama::Template)]
#[template(path = "status.html")]
pub struct StatusPage {
    /// What the frame needs.
    pub frame: Frame,
    /// How bad it is.
    pub level: Level,
    /// Is everything all right.
    pub sentence: String,
    /// What is not, the worst first.
    pub troubles: Vec<Trouble>,
    /// Where spans are taken: name and address.
    pub listening: Vec<(&'static str, String)>,
    /// This process's id in leases, if it does work that needs one.
    pub process: Option<Uuid>,
    /// The numbers.
    pub status: Status,
}

const THIS_PROCESS: &str = "this process";

/// `shards 0, 1, the review`.
fn work(held: &[&Holder]) -> String {
    let shards: Vec<String> = held
        .iter()
        .filter(|it| it.shard >= 0)
        .map(|it| it.shard.to_string())
        .collect();
    let shards = match shards.as_slice() {
        [] => None,
        [one] => Some(format!("shard {one}")),
        several => Some(format!("shards {}", several.join(", "))),
    };
    let others = held.iter().filter_map(|it| match it.shard {
        REVIEW_SHARD => Some("the review".to_owned()),
        RETENTION_SHARD => Some("the housekeeping".to_owned()),
        REGRESSION_SHARD => Some("the watch for regressions".to_owned()),
        _ => None,
    });
    let work: Vec<String> = shards.into_iter().chain(others).collect();
    work.join(", ")
}

impl StatusPage {
    fn class(&self, level: &Level) -> &'static str {
        match level {
            Level::Good => "good",
            Level::Warn => "warn",
            Level::Bad => "err",
        }
    }

    fn word(&self, level: &Level) -> &'static str {
        match level {
            Level::Good => "well",
            Level::Warn => "look at it",
            Level::Bad => "act now",
        }
    }

    /// What came in each way, with spans a second.
    fn arrivals(&self) -> Vec<(&'static str, AcceptedCounts, String)> {
        let Some((snapshot, _)) = &self.status.received else {
            return Vec::new();
        };
        let ways = snapshot.accepted.iter().zip(self.status.rates.spans);
        let of = |((via, counts), rate): (&(Via, AcceptedCounts), f64)| {
            let rate = if rate > 0.0 {
                per_second(rate)
            } else {
                "–".to_owned()
            };
            (status::via(*via), *counts, rate)
        };
        ways.map(of).collect()
    }

    /// Whole requests refused and single spans rejected since the start, with reasons.
    fn refused(&self) -> Vec<(String, u64)> {
        let Some((snapshot, _)) = &self.status.received else {
            return Vec::new();
        };
        let requests = snapshot.refused_requests.iter().map(|(reason, count)| {
            (
                format!("requests {}", reason.name().replace('_', " ")),
                *count,
            )
        });
        let spans = snapshot.rejected_spans.iter().map(|(reason, count)| {
            (
                format!("spans with an {}", reason.name().replace('_', " ")),
                *count,
            )
        });
        requests.chain(spans).filter(|it| it.1 > 0).collect()
    }

    fn other_signals(&self) -> u64 {
        let received = self.status.received.as_ref();
        received.map_or(0, |it| it.1.other_signals)
    }

    /// What a sender was told last, unless it stands above as a trouble.
    fn last_problem(&self) -> Option<(String, String)> {
        let problem = self.status.received.as_ref()?.1.last_problem.as_ref()?;
        if status::is_news(problem.at_ns) {
            return None;
        }
        Some((problem.message.clone(), ago(problem.at_ns, now_ns())))
    }

    fn oldest_waiting(&self) -> String {
        let overview = self.status.overview.as_ref();
        seconds(overview.map_or(0.0, |it| it.journal.oldest_s))
    }

    /// The largest tables, and the others together: name, size, share of all.
    fn tables(&self) -> Vec<(String, String, String)> {
        let Some(storage) = &self.status.storage else {
            return Vec::new();
        };
        let all = self.disk_bytes().max(1) as f64;
        let row = |name: String, size: i64| {
            (name, bytes(size), crate::format::percent(size as f64 / all))
        };
        let (large, small) = storage
            .tables
            .split_at(TABLES_SHOWN.min(storage.tables.len()));
        let mut rows: Vec<_> = large
            .iter()
            .map(|it| row(it.name.clone(), it.bytes))
            .collect();
        if !small.is_empty() {
            rows.push(row(
                "the others".to_owned(),
                small.iter().map(|it| it.bytes).sum(),
            ));
        }
        rows
    }

    fn disk_bytes(&self) -> i64 {
        let tables = self.status.storage.iter().flat_map(|it| &it.tables);
        tables.map(|it| it.bytes).sum()
    }

    fn disk(&self) -> String {
        bytes(self.disk_bytes())
    }

    fn per_span(&self) -> Option<String> {
        let spans = self.status.storage.as_ref()?.spans;
        (spans > 0).then(|| {
            format!(
                "{:.0} bytes a span",
                self.disk_bytes() as f64 / spans as f64
            )
        })
    }

    /// Every process that has work, with what that is, this one first; then the work that nobody does.
    fn holders(&self) -> Vec<(String, String)> {
        let all = self.status.storage.iter().flat_map(|it| &it.holders);
        let mut processes: Vec<(String, Vec<&Holder>)> = Vec::new();
        for holder in all {
            let held = holder.owner.as_ref().filter(|_| holder.expires_in_s >= 0.0);
            // Between its rounds nobody keeps house: that is no news.
            if held.is_none() && holder.shard == RETENTION_SHARD {
                continue;
            }
            let name = held.map_or("nobody".to_owned(), |it| self.process_name(it));
            match processes.iter_mut().find(|it| it.0 == name) {
                Some(process) => process.1.push(holder),
                None => processes.push((name, vec![holder])),
            }
        }
        processes.sort_by_key(|it| (it.0 == "nobody", it.0 != THIS_PROCESS));
        let written = |(name, held): (String, Vec<&Holder>)| (name, work(&held));
        processes.into_iter().map(written).collect()
    }

    /// `this process`, or another one by the end of its id: ids begin with the time.
    fn process_name(&self, owner: &str) -> String {
        if self.process.is_some_and(|it| it.to_string() == owner) {
            return THIS_PROCESS.to_owned();
        }
        format!("process {}", owner.rsplit('-').next().unwrap_or(owner))
    }

    fn since(&self, trace: &ListedQuarantined) -> String {
        seconds(trace.ago_s)
    }

    fn age(&self, seconds_ago: &Option<f64>) -> String {
        seconds_ago.map_or("–".to_owned(), |it| format!("{} ago", seconds(it)))
    }

    fn number(&self, number: &i64) -> String {
        count(*number)
    }

    fn size(&self, number: &u64) -> String {
        bytes(*number as i64)
    }

    fn count(&self, number: &u64) -> String {
        count(*number as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_told_in_one_line() {
        let holders = [REGRESSION_SHARD, REVIEW_SHARD, 0, 2].map(|shard| Holder {
            shard,
            owner: None,
            expires_in_s: 5.0,
        });
        let all: Vec<&Holder> = holders.iter().collect();
        assert_eq!(
            work(&all),
            "shards 0, 2, the watch for regressions, the review"
        );
        assert_eq!(work(&all[2..3]), "shard 0");
    }
}
