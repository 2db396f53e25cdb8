//! What is acknowledged is stored, exactly once, whatever is killed and when.
//!
//! Clients send without a pause while culprit, its Postgres or both are killed, frozen or asked to
//! end, at moments drawn from a seed. They keep a model: which spans were sent, which acknowledged.
//! At the end every acknowledged span is stored once, every other one at most once, and the recount
//! finds no difference.
//!
//! `CULPRIT_TEST_SEED` repeats the draws, `CULPRIT_TEST_KILLS` makes it longer (`make chaos`).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::culprit::{Culprit, data_directory, verify};
use crate::support::http;
use crate::support::spans::{export, hex, n_plus_one, trace_id};

/// How often something is killed unless told otherwise: what fits into a test run.
const KILLS: u64 = 10;

/// Clients that send at once.
const CLIENTS: u64 = 4;

/// Spans of one trace of the load.
const SPANS: usize = 8;

/// Postgres is killed so often in one life of culprit; more ends within a minute, and culprit
/// rightly takes longer and longer to start it again.
const POSTGRES_KILLS_MAX: u32 = 3;

/// A client that hears nothing for so long comes again.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// Promised: after SIGTERM culprit has ended within this time.
const TERMINATED_WITHIN: Duration = Duration::from_secs(30);

/// Everything that is done to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Harm {
    KillCulprit,
    KillPostgres,
    KillBoth,
    FreezeCulprit,
    FreezePostgres,
    Terminate,
}

const HARMS: [Harm; 6] = [
    Harm::KillCulprit,
    Harm::KillPostgres,
    Harm::KillBoth,
    Harm::FreezeCulprit,
    Harm::FreezePostgres,
    Harm::Terminate,
];

/// Everything once, in an order that is drawn, and then by chance, the plain kill most often.
fn draw_harm(at: u64, deck: &mut Vec<Harm>, dice: &mut Dice) -> Harm {
    if at <= HARMS.len() as u64 {
        return deck.swap_remove(dice.below(deck.len() as u64) as usize);
    }
    *HARMS
        .get(dice.below(10) as usize)
        .unwrap_or(&Harm::KillCulprit)
}

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// The spans of each trace that were acknowledged, by position; every trace that was ever sent is in.
type Model = Arc<Mutex<BTreeMap<u64, HashSet<usize>>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_r2_r7_nothing_acknowledged_is_lost_or_counted_twice() {
    let since = Instant::now();
    let seed = number_from("CULPRIT_TEST_SEED").unwrap_or_else(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since_epoch.expect("after 1970").as_millis() as u64
    });
    let kills = number_from("CULPRIT_TEST_KILLS").unwrap_or(KILLS);
    println!("CULPRIT_TEST_SEED={seed} CULPRIT_TEST_KILLS={kills}");
    let data = data_directory();
    let model = Model::default();
    let mut culprit = Culprit::serve(data.path(), &[]).await;
    let (address, stop) = (
        watch::Sender::new(culprit.grpc.clone()),
        CancellationToken::new(),
    );
    let clients = (0..CLIENTS).map(|client| {
        let dice = Dice(seed ^ (client + 1) << 48);
        let load = send(
            client << 32,
            dice,
            address.subscribe(),
            model.clone(),
            stop.clone(),
        );
        tokio::spawn(load)
    });
    let clients: Vec<_> = clients.collect();

    let mut dice = Dice(seed | 1);
    let mut deck = HARMS.to_vec();
    let mut done: BTreeMap<Harm, u64> = BTreeMap::new();
    let mut postgres_kills = 0;
    for at in 1..=kills {
        tokio::time::sleep(dice.millis(200, 1_500)).await;
        let mut harm = draw_harm(at, &mut deck, &mut dice);
        if harm == Harm::KillPostgres {
            postgres_kills += 1;
            if postgres_kills > POSTGRES_KILLS_MAX {
                harm = Harm::KillBoth;
            }
        }
        let (life, restarted) = do_harm(harm, culprit, data.path(), &mut dice).await;
        culprit = life;
        if restarted {
            postgres_kills = 0;
            address.send_replace(culprit.grpc.clone());
        }
        *done.entry(harm).or_default() += 1;
        let acknowledged = acknowledged_spans(&model);
        println!(
            "{at}/{kills} {harm:?} at {:.1} s, {acknowledged} spans acknowledged",
            since.elapsed().as_secs_f64()
        );
    }
    stop.cancel();
    for client in clients {
        client.await.expect("a client that ends");
    }

    crate::faults::wait_until_analysed(&culprit).await;
    let analysed_s = since.elapsed().as_secs_f64();
    let model = model.lock().expect("no panic").clone();
    let unacknowledged = check(&culprit, model.clone()).await;
    let terminated = Instant::now();
    assert!(culprit.terminate().await);
    assert!(terminated.elapsed() < TERMINATED_WITHIN);
    let verified = verify(data.path());
    let acknowledged: usize = model.values().map(HashSet::len).sum();
    assert!(
        acknowledged > 50 * kills as usize,
        "a load of {acknowledged} spans proves nothing"
    );
    let summary = serde_json::json!({
        "seed": seed,
        "kills": kills,
        "by_kind": done,
        "traces": model.len(),
        "acknowledged_spans": acknowledged,
        "stored_unacknowledged_spans": unacknowledged,
        "analysed_after_s": analysed_s,
        "duration_s": since.elapsed().as_secs_f64(),
        "lost": 0,
        "twice": 0,
        "verify": verified.trim(),
    });
    println!("{summary}");
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn acknowledged_spans(model: &Model) -> usize {
    let model = model.lock().expect("no panic");
    model.values().map(HashSet::len).sum()
}

/// Does it, and returns the culprit that runs then and whether that is a new one.
async fn do_harm(
    harm: Harm,
    culprit: Culprit,
    data: &std::path::Path,
    dice: &mut Dice,
) -> (Culprit, bool) {
    match harm {
        Harm::KillPostgres => {
            culprit.kill_postgres().await;
            return (culprit, false);
        }
        Harm::FreezeCulprit => {
            freeze(&[culprit.pid()], dice.millis(100, 1_000)).await;
            return (culprit, false);
        }
        Harm::FreezePostgres => {
            if let Some(postmaster) = culprit.running_postmaster() {
                let mut all = children(postmaster);
                all.push(postmaster);
                freeze(&all, dice.millis(100, 1_000)).await;
            }
            return (culprit, false);
        }
        Harm::KillCulprit => culprit.kill().await,
        Harm::KillBoth => {
            culprit.kill_postgres().await;
            culprit.kill().await;
        }
        Harm::Terminate => {
            let since = Instant::now();
            assert!(culprit.terminate().await, "culprit ends well");
            assert!(since.elapsed() < TERMINATED_WITHIN, "{:?}", since.elapsed());
        }
    }
    (Culprit::serve(data, &[]).await, true)
}

/// Stops processes for a while. One that has ended meanwhile stays so.
async fn freeze(processes: &[Pid], time: Duration) {
    let signal_all = |signal| {
        for process in processes {
            match kill(*process, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("{signal}: {error}"),
            }
        }
    };
    signal_all(Signal::SIGSTOP);
    tokio::time::sleep(time).await;
    signal_all(Signal::SIGCONT);
}

/// The processes whose parent is `parent`, from /proc/PID/stat: `pid (name) state ppid …`.
fn children(parent: Pid) -> Vec<Pid> {
    let is_child = |stat: &str| {
        let after_name = stat.rsplit_once(')')?.1;
        let ppid: i32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
        (ppid == parent.as_raw()).then_some(())
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let children = pids.filter(|pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|it| is_child(&it).is_some())
    });
    children.map(Pid::from_raw).collect()
}

/// Sends traces one after the other until `stop`: some in two parts and in any order, some twice as
/// a client does that missed the answer. Notes what is acknowledged.
async fn send(
    from: u64,
    mut dice: Dice,
    address: watch::Receiver<String>,
    model: Model,
    stop: CancellationToken,
) {
    let mut number = from;
    while !stop.is_cancelled() {
        number += 1;
        model
            .lock()
            .expect("no panic")
            .insert(number, HashSet::new());
        for (positions, part) in parts(n_plus_one(number, SPANS as u64 - 2), &mut dice) {
            let times = 1 + dice.below(3) / 2;
            for _ in 0..times {
                if !send_until_taken(&address, &part, &stop).await {
                    return;
                }
                let mut model = model.lock().expect("no panic");
                model.entry(number).or_default().extend(&positions);
            }
        }
        tokio::time::sleep(dice.millis(10, 60)).await;
    }
}

/// As an SDK does: again and again until it is acknowledged, or until `stop`.
async fn send_until_taken(
    address: &watch::Receiver<String>,
    request: &ExportTraceServiceRequest,
    stop: &CancellationToken,
) -> bool {
    while !stop.is_cancelled() {
        let address = address.borrow().clone();
        let sent = export(&address, request.clone());
        if matches!(tokio::time::timeout(SENT_WITHIN, sent).await, Ok(Ok(()))) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// One trace as one request, or as two of them, the later spans first.
fn parts(
    request: ExportTraceServiceRequest,
    dice: &mut Dice,
) -> Vec<(Vec<usize>, ExportTraceServiceRequest)> {
    if dice.below(3) > 0 {
        return vec![((0..SPANS).collect(), request)];
    }
    let cut = 1 + dice.below(SPANS as u64 - 1) as usize;
    let (mut early, mut late) = (request.clone(), request);
    early.resource_spans[0].scope_spans[0].spans.truncate(cut);
    late.resource_spans[0].scope_spans[0].spans.drain(..cut);
    vec![((cut..SPANS).collect(), late), ((0..cut).collect(), early)]
}

/// Every trace's spans against the model; returns how many are stored that nobody was told of.
async fn check(culprit: &Culprit, model: BTreeMap<u64, HashSet<usize>>) -> usize {
    let traces: Vec<_> = model.into_iter().collect();
    let share = traces.len().div_ceil(CLIENTS as usize).max(1);
    let checks = traces.chunks(share).map(|share| {
        let (ui, share) = (culprit.ui.clone(), share.to_vec());
        tokio::spawn(async move {
            let mut unacknowledged = 0;
            for (number, acknowledged) in share {
                let stored = stored_spans(&ui, number).await;
                for at in &acknowledged {
                    assert!(
                        stored.contains(at),
                        "trace {number}: span {at} is lost; stored are {stored:?}"
                    );
                }
                unacknowledged += stored.difference(&acknowledged).count();
            }
            unacknowledged
        })
    });
    let mut unacknowledged = 0;
    for check in checks.collect::<Vec<_>>() {
        unacknowledged += check.await.expect("the model holds; see above");
    }
    unacknowledged
}

/// The positions of a trace's stored spans; panics if one is there twice or was never sent.
async fn stored_spans(ui: &str, number: u64) -> HashSet<usize> {
    let url = format!("{ui}/api/v1/traces/{}", hex(&trace_id(number)));
    let (status, body) = http::get(&url).await;
    if status == 404 {
        return HashSet::new();
    }
    assert_eq!(status, 200, "{url}: {body}");
    let trace: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let sent = n_plus_one(number, SPANS as u64 - 2);
    let sent = &sent.resource_spans[0].scope_spans[0].spans;
    let mut stored = HashSet::new();
    for resource_spans in trace["resourceSpans"].as_array().expect("spans") {
        for scope_spans in resource_spans["scopeSpans"].as_array().expect("spans") {
            for span in scope_spans["spans"].as_array().expect("spans") {
                let id = span["spanId"].as_str().expect("an id");
                let at = sent.iter().position(|it| hex(&it.span_id) == id);
                let at = at.unwrap_or_else(|| panic!("trace {number}: nobody sent span {id}"));
                assert!(
                    stored.insert(at),
                    "trace {number}: span {at} is stored twice"
                );
            }
        }
    }
    stored
}
