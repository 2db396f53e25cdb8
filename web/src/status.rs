//! How culprit is, put together and judged: what the status page shows and `/api/v1/status` says.

use collector::postgres::State as PostgresState;
use collector::receiver::{Counts, Refusal, Snapshot, Via};
use collector::store::overview::{Full, Overview, Storage};
use collector::store::quarantine::ListedQuarantined;
use serde::Serialize;

use crate::AppState;
use crate::format::{ago, now_ns};
use crate::vitals::{Rates, Vitals};

/// A journal whose oldest row is older than this is behind: traces are analysed 8 s after their
/// last span, and open ones are carried on in new rows every 10 s.
const BEHIND_S: f64 = 60.0;

/// Behind so far that what is shown is of no use to somebody who looks for today's trouble.
const FAR_BEHIND_S: f64 = 900.0;

/// What a sender was told is news for this long.
const NEWS_NS: u64 = 10 * 60 * 1_000_000_000;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Good,
    /// Somebody should look at it by day.
    Warn,
    /// Somebody should look at it now.
    Bad,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Trouble {
    /// How bad.
    pub level: Level,
    /// What, in a sentence.
    pub what: String,
    /// What to do about it.
    pub action: String,
    /// Where there is more: a page of ours, or empty.
    pub link: String,
}

/// Everything that is known. What could not be asked, or is another process's, is `None`.
pub struct Status {
    /// The database takes writes, or why not.
    pub database: Result<(), String>,
    /// The private Postgres, if it is one.
    pub postgres: Option<PostgresState>,
    /// Why nothing is taken although the database would: the disk.
    pub disk: Option<String>,
    /// Why nothing is taken until more is analysed.
    pub backlog: Option<String>,
    /// How the whole is.
    pub overview: Option<Overview>,
    /// What is stored.
    pub storage: Option<Storage>,
    /// Received by this process.
    pub received: Option<(Snapshot, Counts)>,
    /// Per second, over the last minute.
    pub rates: Rates,
    /// The latest traces in quarantine.
    pub quarantine: Vec<ListedQuarantined>,
}

impl Status {
    /// Asks for everything.
    pub async fn of(state: &AppState) -> Status {
        let vitals: &Vitals = &state.vitals;
        let overview = vitals.overview().await;
        let (mut storage, mut quarantine) = (None, Vec::new());
        // Without a database there is nothing to ask it.
        if overview.is_ok() {
            storage = vitals.storage().await.ok();
            quarantine = state
                .store
                .list_quarantine()
                .await
                .map_or(Vec::new(), |it| it.1);
        }
        let postgres = vitals.postgres.as_ref().map(|it| it.borrow().clone());
        Status {
            database: overview.as_ref().map(|_| ()).map_err(Clone::clone),
            postgres,
            disk: vitals.disk.as_ref().and_then(|it| it.refusal()),
            backlog: vitals.journal.as_ref().and_then(|it| it.backlog_refusal()),
            overview: overview.ok(),
            storage,
            received: state
                .receiver
                .as_ref()
                .map(|it| (it.snapshot(), it.counts())),
            rates: vitals.rates(),
            quarantine,
        }
    }

    /// What is not as it should be, the worst first.
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        self.database_trouble(&mut troubles);
        self.disk_trouble(&mut troubles);
        self.backlog_trouble(&mut troubles);
        self.analysis_trouble(&mut troubles);
        self.receiver_trouble(&mut troubles);
        self.quarantine_trouble(&mut troubles);
        self.alert_trouble(&mut troubles);
        for full in self.storage.iter().flat_map(|it| &it.full) {
            troubles.push(cap_trouble(full));
        }
        troubles.sort_by_key(|it| std::cmp::Reverse(it.level));
        troubles
    }

    /// How bad the worst is.
    pub fn level(troubles: &[Trouble]) -> Level {
        let levels = troubles.iter().map(|it| it.level);
        levels.max().unwrap_or(Level::Good)
    }

    /// Is everything all right, in one sentence.
    pub fn sentence(troubles: &[Trouble]) -> String {
        match troubles {
            [] => "All is well".to_owned(),
            [one] => one.what.clone(),
            [first, rest @ ..] => format!("{}, and {} more", first.what, rest.len()),
        }
    }

    fn database_trouble(&self, troubles: &mut Vec<Trouble>) {
        let Err(problem) = &self.database else { return };
        let kept = "Until then spans are refused with “come again” and exporters keep them for a while; \
            nothing that was acknowledged is lost.";
        let (what, action) = match &self.postgres {
            Some(PostgresState::Down { reason }) => (
                format!("PostgreSQL has died and is being started again: {reason}"),
                "If it dies again and again, the log has its last words: remove the cause (disk full, memory, \
                 damaged files). culprit goes on trying.",
            ),
            Some(_) => (
                format!("The database does not answer: {problem}"),
                "It is culprit's own PostgreSQL and is started again by itself; after a crash it may need minutes. \
                 If that does not end, the log says why.",
            ),
            None => (
                format!("The database does not answer: {problem}"),
                "Is it running, reachable from here, and not a read-only replica? Its address is in \
                 --database-url or CULPRIT_DATABASE_URL.",
            ),
        };
        troubles.push(Trouble {
            level: Level::Bad,
            what,
            action: format!("{action} {kept}"),
            link: String::new(),
        });
    }

    fn disk_trouble(&self, troubles: &mut Vec<Trouble>) {
        let Some(refusal) = &self.disk else { return };
        troubles.push(Trouble {
            level: Level::Bad,
            what: format!("Spans are refused: {refusal}"),
            action: "Make room, give culprit a larger disk (--data-dir), or let it keep fewer days (--retain-days, \
                 --retain-bytes). What was acknowledged is safe."
                .to_owned(),
            link: String::new(),
        });
    }

    fn backlog_trouble(&self, troubles: &mut Vec<Trouble>) {
        let Some(refusal) = &self.backlog else { return };
        troubles.push(Trouble {
            level: Level::Bad,
            what: format!("Spans are refused: {refusal}"),
            action: "Give culprit more processors, start more processes with --role analyzer, or send less. What was \
                 acknowledged is safe and will be analysed; --backlog-max says how much of it may wait."
                .to_owned(),
            link: String::new(),
        });
    }

    fn analysis_trouble(&self, troubles: &mut Vec<Trouble>) {
        let (Some(overview), Some(storage)) = (&self.overview, &self.storage) else {
            return;
        };
        let journal = &overview.journal;
        let shards = || storage.holders.iter().filter(|it| it.shard >= 0);
        let orphaned = shards().filter(|it| it.owner.is_none() || it.expires_in_s < 0.0);
        let behind = journal.oldest_s > BEHIND_S;
        // Leases change hands within seconds; only what waits longer is a trouble.
        if behind && (shards().count() == 0 || orphaned.count() > 0) {
            troubles.push(Trouble {
                level: Level::Bad,
                what: "Nobody analyses what arrives".to_owned(),
                action: "Start an analyzer: culprit serve --role analyzer, with the same --database-url. What \
                     arrives is kept until then."
                    .to_owned(),
                link: String::new(),
            });
        } else if behind {
            let far = journal.oldest_s > FAR_BEHIND_S;
            troubles.push(Trouble {
                level: if far { Level::Bad } else { Level::Warn },
                what: format!("The analysis is {} behind", seconds(journal.oldest_s)),
                action: "Nothing is lost. If the number of waiting spans falls, wait. If it grows, processors or \
                     disk are too slow for what arrives: give culprit more, start another analyzer, or sample. \
                     The analyzers' logs name what fails."
                    .to_owned(),
                link: String::new(),
            });
        }
    }

    fn receiver_trouble(&self, troubles: &mut Vec<Trouble>) {
        let Some((snapshot, counts)) = &self.received else {
            return;
        };
        if self.rates.refused > 0.0 {
            let reasons = snapshot.refused_requests.iter().filter(|it| it.1 > 0);
            let reasons: Vec<String> = reasons
                .map(|(reason, count)| format!("{} ({count} since the start)", refusal(*reason)))
                .collect();
            troubles.push(Trouble {
                level: Level::Warn,
                what: format!(
                    "{} of requests refused in the last minute",
                    per_second(self.rates.refused)
                ),
                action: format!("Why: {}.", reasons.join("; ")),
                link: String::new(),
            });
        }
        let problem = counts.last_problem.as_ref();
        if let Some(problem) = problem.filter(|it| is_news(it.at_ns)) {
            troubles.push(Trouble {
                level: Level::Warn,
                what: "Some of what arrives is not taken".to_owned(),
                action: format!(
                    "The last answer to a sender, {}: {}",
                    ago(problem.at_ns, now_ns()),
                    problem.message
                ),
                link: String::new(),
            });
        }
    }

    fn quarantine_trouble(&self, troubles: &mut Vec<Trouble>) {
        let count = self.overview.as_ref().map_or(0, |it| it.quarantined);
        if count > 0 {
            troubles.push(Trouble {
                level: Level::Warn,
                what: match count {
                    1 => "One trace could not be analysed".to_owned(),
                    _ => format!("{count} traces could not be analysed"),
                },
                action: "Their spans are kept and can be looked at and downloaded, but they count nowhere. This is \
                     a fault in culprit: please report it, with the JSON if you may."
                    .to_owned(),
                link: "#quarantine".to_owned(),
            });
        }
    }

    fn alert_trouble(&self, troubles: &mut Vec<Trouble>) {
        let Some(overview) = &self.overview else {
            return;
        };
        let of = |state: &str| overview.alerts.iter().find(|it| it.state == state);
        let dead = of("dead").map_or(0, |it| it.count);
        let waiting = of("waiting").map_or(0, |it| it.count);
        if dead > 0 {
            troubles.push(Trouble {
                level: Level::Warn,
                what: format!("{dead} alerts could not be delivered and are given up"),
                action: "The channels page has what their receivers said, sends them again, or dismisses them."
                    .to_owned(),
                link: "/alerts/channels#dead".to_owned(),
            });
        }
        if overview.attempts > waiting {
            troubles.push(Trouble {
                level: Level::Warn,
                what: format!("{waiting} alerts wait because their receiver does not take them"),
                action: "They are tried again for three days. The channels page has the receiver's answer."
                    .to_owned(),
                link: "/alerts/channels".to_owned(),
            });
        }
    }
}

fn cap_trouble(full: &Full) -> Trouble {
    let of = match (&full.endpoint, full.service.as_str()) {
        (Some(endpoint), service) => format!("{service} · {endpoint} has"),
        (None, "") => "There are".to_owned(),
        (None, service) => format!("{service} has"),
    };
    let action = match full.what.as_str() {
        "endpoints" => {
            "Further ones are counted together as (other). Usually ids stand in span names: set http.route, or \
             name the spans after the route and not after the path."
        }
        "versions" => {
            "Further ones are counted together as (other). Is service.version a build's id that changes with every \
             start? Set it to the release."
        }
        "services" => {
            "Further ones are counted together as (other). Does service.name hold a host or a process id? Those \
             belong to service.instance.id."
        }
        "statements" => {
            "Further ones are counted together as (other). Usually names of tables or columns are made up as the \
             program runs; send db.query.summary with a name that stays."
        }
        _ => {
            "Further ones are counted together as (other), below the path they have in common. Usually ids stand in \
             the names of inner spans: put them into attributes."
        }
    };
    Trouble {
        level: Level::Warn,
        what: format!("{of} more {} than are counted apart", full.what),
        action: format!(
            "{action} Times and totals stay right; the traces themselves keep their names."
        ),
        link: full
            .endpoint_id
            .map(|id| format!("/endpoints/{id}"))
            .unwrap_or_default(),
    }
}

/// What a sender was told then is still a trouble.
pub fn is_news(at_ns: u64) -> bool {
    now_ns().saturating_sub(at_ns) < NEWS_NS
}

/// What a refusal means, and what to do about it.
fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Malformed => "no OTLP: does the sender speak another protocol to this port?",
        Refusal::TooLarge => "too large: let the exporter send smaller batches",
        Refusal::Unsupported => {
            "an unknown content type or encoding: use protobuf or JSON, and gzip, zstd or deflate"
        }
        Refusal::Unauthenticated => "without a valid token",
        Refusal::Unknown => "a path that is none of ours: /v1/traces is meant to be used",
        Refusal::TooSlow => "the body took too long to arrive",
        Refusal::Overloaded => {
            "too much at once: exporters come again; if it lasts, sample or give culprit more"
        }
        Refusal::Unavailable => "the database could not be written to: exporters come again",
    }
}

/// `12 a second`, `3 a minute`.
pub fn per_second(rate: f64) -> String {
    match rate {
        it if it >= 9.95 => format!("{} a second", crate::format::count(it.round() as i64)),
        it if it >= 1.0 => format!("{it:.1} a second"),
        it => format!("{:.0} a minute", (it * 60.0).ceil()),
    }
}

/// `3 s`, `4 min`, `2 h`, `5 days`.
pub fn seconds(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        it @ 0..120 => format!("{it} s"),
        it @ 120..7_200 => format!("{} min", it / 60),
        it @ 7_200..172_800 => format!("{} h", it / 3_600),
        it => format!("{} days", it / 86_400),
    }
}

/// `512 B`, `3.4 MB`, `12 GB`: powers of 1000, as disks are sold.
pub fn bytes(bytes: i64) -> String {
    let bytes = bytes.max(0) as f64;
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|it| bytes >= it.0) {
        Some((size, unit)) if bytes < 10.0 * size => format!("{:.1} {unit}", bytes / size),
        Some((size, unit)) => format!("{:.0} {unit}", bytes / size),
        None => format!("{bytes} B"),
    }
}

/// `gRPC`, `HTTP protobuf`, `HTTP JSON`.
pub fn via(via: Via) -> &'static str {
    match via {
        Via::Grpc => "gRPC",
        Via::HttpProtobuf => "HTTP, protobuf",
        Via::HttpJson => "HTTP, JSON",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::store::journal::Backlog;
    use collector::store::overview::{Counted, Holder};

    fn well() -> Status {
        let holder = Holder {
            shard: 0,
            owner: Some("it".to_owned()),
            expires_in_s: 9.0,
        };
        Status {
            database: Ok(()),
            postgres: None,
            disk: None,
            backlog: None,
            overview: Some(Overview::default()),
            storage: Some(Storage {
                holders: vec![holder],
                ..Storage::default()
            }),
            received: None,
            rates: Rates::default(),
            quarantine: Vec::new(),
        }
    }

    fn check(change: impl FnOnce(&mut Status), level: Level, sentence: &str) {
        let mut status = well();
        change(&mut status);
        let troubles = status.troubles();
        assert_eq!(Status::sentence(&troubles), sentence);
        assert_eq!(Status::level(&troubles), level, "{sentence}");
        for it in &troubles {
            assert!(it.action.len() > 20, "{sentence}: what to do? {it:?}");
        }
    }

    fn overview(change: impl FnOnce(&mut Overview)) -> impl FnOnce(&mut Status) {
        |status| change(status.overview.as_mut().unwrap())
    }

    #[test]
    fn every_trouble_is_told_in_a_sentence() {
        let behind = |oldest_s| {
            overview(move |it| {
                it.journal = Backlog {
                    rows: 9,
                    oldest_s,
                    ..Backlog::default()
                }
            })
        };
        check(|_| (), Level::Good, "All is well");
        check(
            |it| it.database = Err("no route to host".to_owned()),
            Level::Bad,
            "The database does not answer: no route to host",
        );
        check(
            |it| it.disk = Some("the disk is almost full".to_owned()),
            Level::Bad,
            "Spans are refused: the disk is almost full",
        );
        check(behind(61.0), Level::Warn, "The analysis is 61 s behind");
        check(behind(1_000.0), Level::Bad, "The analysis is 16 min behind");
        check(
            |it| {
                behind(61.0)(it);
                it.storage.as_mut().unwrap().holders[0].expires_in_s = -1.0;
            },
            Level::Bad,
            "Nobody analyses what arrives",
        );
        check(
            overview(|it| it.quarantined = 2),
            Level::Warn,
            "2 traces could not be analysed",
        );
        let dead = Counted {
            state: "dead".to_owned(),
            count: 3,
        };
        check(
            overview(|it| it.alerts = vec![dead]),
            Level::Warn,
            "3 alerts could not be delivered and are given up",
        );
        let full = Full {
            what: "endpoints".to_owned(),
            service: "shop".to_owned(),
            endpoint: None,
            endpoint_id: None,
        };
        check(
            |it| {
                it.storage.as_mut().unwrap().full = vec![full];
                behind(1_000.0)(it);
            },
            Level::Bad,
            "The analysis is 16 min behind, and 1 more",
        );
    }

    #[test]
    fn sizes_and_rates_in_words() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(bytes(12_000_000_000), "12 GB");
        assert_eq!(per_second(0.01), "1 a minute");
        assert_eq!(per_second(2.25), "2.2 a second");
        assert_eq!(seconds(7_300.0), "2 h");
    }
}
