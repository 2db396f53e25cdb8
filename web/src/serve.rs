//! `culprit serve`: Postgres → schema → all listeners → addresses → run → drain.

use anyhow::Context;
use collector::alert::Alerting;
use collector::alert::look::Watch;
use collector::backlog::{self, BacklogGuard};
use collector::disk::DiskGuard;
use collector::handoff::Handoff;
use collector::journal::Journal;
use collector::plans::ObservedDatabase;
use collector::receiver::{self, ListenAddress, Listener, Receiver, UnixSocket};
use collector::store::leases::Process;
use collector::{alert, assembly, housekeeping, plans, regression, review};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::AppState;
use crate::admin;
use crate::cli::{Role, ServeOptions};
use crate::csrf::Reached;
use crate::database::{Database, Purpose};
use crate::open_traces::OpenTraces;
use crate::pages::alerts::reach;
use crate::retention_options::Bytes;
use crate::vitals::Vitals;

/// Where things listen unless told otherwise: loopback only, nothing is authenticated.
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;
const UI_PORT: u16 = 7007;
const ADMIN_PORT: u16 = 7008;

/// After a signal everything has this long to finish; what is acknowledged is in the journal
/// anyhow, so nothing is lost at the bound.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// A running culprit.
pub struct Serving {
    /// The OTLP/gRPC address, if this process collects.
    pub grpc: Option<SocketAddr>,
    /// The OTLP/HTTP address, if this process collects.
    pub http: Option<SocketAddr>,
    /// Unix sockets that take OTLP, as `unix:/path`.
    pub sockets: Vec<String>,
    /// The UI's address, if this process shows it.
    pub ui: Option<SocketAddr>,
    /// Where health and metrics are asked, if not at the UI's address.
    pub admin: Option<SocketAddr>,
    /// The database.
    pub database: Database,
    /// What the analysis has done since the start.
    pub stats: Arc<assembly::Stats>,
    /// How full the disk of the private Postgres is.
    pub disk: Arc<DiskGuard>,
    /// What housekeeping has done since the start.
    pub housekeeping: Arc<housekeeping::Stats>,
    asks_who_sends: bool,
    encrypts: bool,
    process: Process,
    tasks: JoinSet<()>,
    intake: CancellationToken,
    analysis: CancellationToken,
}

/// What to do about a port that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfTaken {
    /// Say who has it, and end.
    Fail,
    /// Take a free one instead, unless the user named the port.
    UseAnother,
}

/// Serves until a signal.
///
/// # Errors
/// Something could not be started.
pub async fn run(options: ServeOptions) -> anyhow::Result<ExitCode> {
    let since = Instant::now();
    let mut serving = start(&options, IfTaken::Fail).await?;
    serving.print_addresses(since);
    let signalled = tokio::select! {
        signal = wait_for_signal() => signal,
        // Only a bug ends a task before the signal. Better to be restarted than to acknowledge
        // spans that nobody analyses; they are in the journal.
        Some(_) = serving.tasks.join_next() => Err(anyhow::anyhow!("a task has ended; see the log above")),
    };
    serving.stop().await;
    signalled.map(|()| ExitCode::SUCCESS)
}

/// Starts everything this process's roles need.
///
/// # Errors
/// Something could not be started; what was started is stopped again.
pub async fn start(options: &ServeOptions, if_taken: IfTaken) -> anyhow::Result<Serving> {
    let alerting = alerting(options)?;
    let receiver_options = options.receiver.to_receiver()?;
    let observed = options.explain.databases()?;
    // Bound before Postgres starts: a taken port is told at once, and clients queue meanwhile.
    let listeners = Listeners::bind(options, if_taken).await?;
    let works = options.plays(Role::Collector) || options.plays(Role::Analyzer);
    let purpose = if works { Purpose::Work } else { Purpose::Look };
    let database = Database::open(&options.database, purpose).await?;
    let mut serving = Serving {
        grpc: listeners.grpc.as_ref().and_then(Listener::local_address),
        http: listeners.http.as_ref().and_then(Listener::local_address),
        sockets: listeners.sockets(),
        ui: listeners.ui.as_ref().and_then(|it| it.local_addr().ok()),
        admin: listeners.admin.as_ref().and_then(|it| it.local_addr().ok()),
        process: Process::new(database.is_private()),
        database,
        stats: Arc::default(),
        disk: Arc::default(),
        housekeeping: Arc::default(),
        asks_who_sends: options.receiver.asks_who_sends(),
        encrypts: options.receiver.tls_certificate.is_some(),
        tasks: JoinSet::new(),
        intake: CancellationToken::new(),
        analysis: CancellationToken::new(),
    };
    // A task without work would end, and a task that ends is taken for a fault.
    if options.plays(Role::Analyzer) && !observed.is_empty() {
        serving.spawn_plans(observed, options.explain.explain_analyze);
    }
    if options.plays(Role::Analyzer) {
        alert::introduce(&serving.database.store, &alerting).await?;
        reach::warn(&serving.database.store).await;
    }
    serving.spawn_all(options, listeners, receiver_options, alerting);
    Ok(serving)
}

impl Serving {
    fn spawn_all(
        &mut self,
        options: &ServeOptions,
        listeners: Listeners,
        receiver_options: receiver::Options,
        mut alerting: Alerting,
    ) {
        let store = self.database.store.clone();
        let collects = options.plays(Role::Collector);
        let analyses = options.plays(Role::Analyzer);
        let handoff = (collects && analyses).then(|| Arc::new(Handoff::new(store.shards())));
        let journal = collects.then(|| Journal::start_beside(store.clone(), handoff.clone()));
        if let Some(journal) = &journal {
            journal.watch_disk(self.disk.clone());
            self.spawn_backlog_guard(journal, options);
        }
        let receiver = journal
            .clone()
            .map(|journal| Receiver::with_options(journal, receiver_options));
        if let Some(receiver) = &receiver {
            for listener in [listeners.grpc, listeners.http].into_iter().flatten() {
                let (receiver, intake) = (receiver.clone(), self.intake.clone());
                self.tasks
                    .spawn(receiver::serve(listener, receiver, intake));
            }
        }
        if options.public_url.is_none() {
            alerting.public_url = self.ui.map(|it| format!("http://{it}")).unwrap_or_default();
        }
        let mut vitals = Vitals::new(self.database.people.clone(), store.clone());
        vitals.stopping = self.intake.clone();
        vitals.receiver = receiver.as_ref().map(Receiver::stats);
        vitals.journal = journal.as_ref().map(Journal::stats);
        vitals.postgres = self.database.postgres.as_ref().map(|it| it.states());
        if analyses {
            let review_stats = Arc::default();
            vitals.assembly = Some(self.stats.clone());
            vitals.review = Some(Arc::clone(&review_stats));
            vitals.housekeeping = Some(self.housekeeping.clone());
            vitals.disk = self.database.state_dir.is_some().then(|| self.disk.clone());
            let alert_stats: Arc<alert::Stats> = Arc::default();
            vitals.alerts = Some(Arc::clone(&alert_stats));
            vitals.process = Some(self.process.id);
            self.spawn_analysis(options, alerting, handoff, review_stats, alert_stats);
            self.spawn_housekeeping(options);
        }
        let vitals = Arc::new(vitals);
        self.tasks.spawn(vitals.clone().watch());
        if let Some(listener) = listeners.admin {
            self.spawn_http("--listen-admin", listener, admin::router(vitals.clone()));
        }
        if let Some(listener) = listeners.ui {
            let settings = Arc::new(options.settings());
            let state = AppState {
                logs: options.log_url.clone().map(Arc::new),
                traces: OpenTraces::new(vitals.store.clone(), settings.clone()),
                store: vitals.store.clone(),
                grpc: self.grpc,
                http: self.http,
                receiver: vitals.receiver.clone(),
                vitals,
                settings,
                trust: options.alerts.trust(),
                reached: Reached::new(options.public_url.as_deref(), self.ui),
                told: Arc::new(options.told.clone()),
            };
            self.spawn_http("--listen-ui", listener, crate::router(state));
        }
    }

    /// Serves until nothing more is taken.
    fn spawn_http(&mut self, flag: &'static str, listener: TcpListener, router: axum::Router) {
        let shutdown = self.intake.clone();
        self.tasks.spawn(async move {
            let serve = axum::serve(listener, router)
                .with_graceful_shutdown(async move { shutdown.cancelled().await });
            if let Err(error) = serve.await {
                tracing::error!(flag, %error, "a listener has stopped");
            }
        });
    }

    fn spawn_analysis(
        &mut self,
        options: &ServeOptions,
        alerting: Alerting,
        handoff: Option<Arc<Handoff>>,
        review_stats: Arc<review::Stats>,
        alert_stats: Arc<alert::Stats>,
    ) {
        let store = &self.database.store;
        let process = self.process;
        let assembly_options = assembly::Options {
            settings: options.settings(),
            process,
            handoff,
            ..assembly::Options::default()
        };
        let (stats, shutdown) = (self.stats.clone(), self.analysis.clone());
        self.tasks.spawn(assembly::run(
            store.clone(),
            assembly_options,
            stats,
            shutdown.clone(),
        ));
        let watch = Watch::new(alerting.public_url.clone(), alerting.pace.clone());
        self.tasks.spawn(review::run(
            store.clone(),
            watch,
            options.resolve_after(),
            process,
            review_stats,
            shutdown.clone(),
        ));
        self.tasks.spawn(regression::run(
            store.clone(),
            options.settings(),
            process,
            shutdown.clone(),
        ));
        self.tasks
            .spawn(alert::run(store.clone(), alerting, alert_stats, shutdown));
    }

    fn spawn_backlog_guard(&mut self, journal: &Journal, options: &ServeOptions) {
        let bytes_max = options.retention.backlog_max.map(Bytes::get);
        let guard = Arc::new(BacklogGuard::new(bytes_max.unwrap_or(backlog::BYTES_MAX)));
        journal.watch_backlog(guard.clone());
        let (store, shutdown) = (self.database.store.clone(), self.intake.clone());
        self.tasks
            .spawn(async move { guard.watch(&store, shutdown).await });
    }

    fn spawn_plans(&mut self, observed: Vec<ObservedDatabase>, run: bool) {
        let (store, shutdown) = (self.database.store.clone(), self.analysis.clone());
        self.tasks.spawn(plans::run(store, observed, run, shutdown));
    }

    fn spawn_housekeeping(&mut self, options: &ServeOptions) {
        let data_dir = self.database.state_dir.clone();
        if let Some(directory) = data_dir.clone() {
            let (disk, shutdown) = (self.disk.clone(), self.intake.clone());
            let floor = options.retention.disk_free_min.map(Bytes::get);
            self.tasks
                .spawn(async move { disk.watch(directory, floor, shutdown).await });
        }
        let options = options.retention.housekeeping(data_dir, self.process);
        self.tasks.spawn(housekeeping::run(
            self.database.store.clone(),
            options,
            self.disk.clone(),
            self.housekeeping.clone(),
            self.analysis.clone(),
        ));
    }

    /// One line per address, for people and for whoever started the process.
    pub fn print_addresses(&self, since: Instant) {
        println!(
            "culprit is ready after {:.1} s",
            since.elapsed().as_secs_f64()
        );
        if let Some(ui) = self.ui {
            println!("  UI         http://{ui}");
        }
        let scheme = if self.encrypts { "https" } else { "http" };
        if let Some(grpc) = self.grpc {
            println!("  OTLP/gRPC  {scheme}://{grpc}");
        }
        if let Some(http) = self.http {
            println!("  OTLP/HTTP  {scheme}://{http}");
        }
        if let Some(admin) = self.admin {
            println!("  health     http://{admin}");
        }
        for socket in &self.sockets {
            println!("  OTLP       {socket}");
        }
        let otlp = [self.grpc, self.http].into_iter().flatten();
        let otlp = otlp.filter(|_| !self.asks_who_sends);
        for address in otlp.chain(self.ui).chain(self.admin).filter(is_open) {
            tracing::warn!(%address, "reachable from other machines, and nobody is asked for a password");
        }
    }

    /// Takes nothing more, finishes what is taken, then stops the analysis and the database.
    pub async fn stop(mut self) {
        self.intake.cancel();
        self.analysis.cancel();
        let drained = tokio::time::timeout(DRAIN_MAX, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!("some connections were cut: they did not end in time");
            self.tasks.shutdown().await;
        }
        self.database.close().await;
    }
}

/// Ctrl-C or SIGTERM.
///
/// # Errors
/// The system does not let us listen for signals.
pub async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    eprintln!("culprit: stopping");
    Ok(())
}

fn alerting(options: &ServeOptions) -> anyhow::Result<Alerting> {
    let (rules, file) = options.alerts.rules();
    Ok(Alerting {
        channels: options.alerts.open()?,
        rules: rules.to_vec(),
        file: file.to_owned(),
        trust: options.alerts.trust(),
        public_url: options.public_url.clone().unwrap_or_default(),
        ..Alerting::default()
    })
}

/// All listeners, bound before anything runs.
struct Listeners {
    grpc: Option<Listener>,
    http: Option<Listener>,
    ui: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Listeners {
    async fn bind(options: &ServeOptions, if_taken: IfTaken) -> anyhow::Result<Listeners> {
        let mut listeners = Listeners {
            grpc: None,
            http: None,
            ui: None,
            admin: None,
        };
        if options.plays(Role::Collector) {
            let (grpc, http) = (&options.listen_grpc, &options.listen_http);
            listeners.grpc = Some(bind_otlp("--listen-grpc", grpc, GRPC_PORT, if_taken).await?);
            listeners.http = Some(bind_otlp("--listen-http", http, HTTP_PORT, if_taken).await?);
        }
        if options.plays(Role::Web) {
            listeners.ui = Some(bind("--listen-ui", options.listen_ui, UI_PORT, if_taken).await?);
        }
        // The UI's port answers the same, so only who asks for it gets both.
        if options.listen_admin.is_some() || !options.plays(Role::Web) {
            // Several processes without a UI may share a machine: health must not keep one of them
            // from starting.
            let (wanted, otherwise) = (options.listen_admin, IfTaken::UseAnother);
            listeners.admin = Some(bind("--listen-admin", wanted, ADMIN_PORT, otherwise).await?);
        }
        Ok(listeners)
    }

    fn sockets(&self) -> Vec<String> {
        let otlp = [&self.grpc, &self.http].into_iter().flatten();
        let sockets = otlp.filter(|it| it.local_address().is_none());
        sockets.map(Listener::name).collect()
    }
}

async fn bind_otlp(
    flag: &str,
    wanted: &Option<ListenAddress>,
    port: u16,
    if_taken: IfTaken,
) -> anyhow::Result<Listener> {
    let wanted = match wanted {
        Some(ListenAddress::Unix(path)) => {
            let socket = UnixSocket::bind(path).await;
            let socket =
                socket.with_context(|| format!("cannot listen on {} ({flag})", path.display()))?;
            return Ok(Listener::Unix(socket));
        }
        Some(ListenAddress::Tcp(address)) => Some(*address),
        None => None,
    };
    Ok(bind(flag, wanted, port, if_taken).await?.into())
}

/// Whether other machines reach an address.
fn is_open(address: &SocketAddr) -> bool {
    !address.ip().is_loopback()
}

async fn bind(
    flag: &str,
    wanted: Option<SocketAddr>,
    port: u16,
    if_taken: IfTaken,
) -> anyhow::Result<TcpListener> {
    let address = wanted.unwrap_or((Ipv4Addr::LOCALHOST, port).into());
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::AddrInUse {
        let holder = holder_of(address.port()).unwrap_or_else(|| "another process".into());
        if if_taken == IfTaken::UseAnother && wanted.is_none() {
            eprintln!("culprit: port {port} is taken by {holder}; using a free one instead");
            return Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        anyhow::bail!(
            "{address} is taken by {holder}; stop it, or choose another address with {flag}"
        );
    }
    Err(error).with_context(|| format!("cannot listen on {address} ({flag})"))
}

/// Who listens on a TCP port of this machine, as far as /proc tells: `name (pid 42)`.
fn holder_of(port: u16) -> Option<String> {
    let inodes = listening_inodes(port);
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        // `self` and `thread-self` are there too.
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|it| it.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = descriptors.flatten().any(|descriptor| {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            inodes
                .iter()
                .any(|inode| target.to_string_lossy() == format!("socket:[{inode}]"))
        });
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), pid));
        }
    }
    None
}

/// The sockets that listen on `port`: columns of /proc/net/tcp (proc(5)): local address in
/// hexadecimal, state 0A, inode.
fn listening_inodes(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables
        .iter()
        .filter_map(|it| std::fs::read_to_string(it).ok())
        .collect();
    let rows = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening =
        rows.filter(|it| it.len() > 9 && it[1].ends_with(&format!(":{port:04X}")) && it[3] == "0A");
    listening.map(|it| it[9].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("--listen-ui", Some(address), UI_PORT, IfTaken::UseAnother).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains("--listen-ui"), "{error}");
    }

    #[tokio::test]
    async fn t1_t2_t7_ports_are_otlps_and_on_loopback_unless_told_otherwise() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        drop(taken);
        let listener = bind_otlp("--listen-grpc", &None, port, IfTaken::Fail).await;
        let address = listener.unwrap().local_address().unwrap();
        assert_eq!(address, (Ipv4Addr::LOCALHOST, port).into());
        assert!(!is_open(&address));
        assert!(is_open(&"0.0.0.0:4317".parse().unwrap()));
        assert_eq!((GRPC_PORT, HTTP_PORT), (4317, 4318));
    }

    #[tokio::test]
    async fn the_demo_takes_a_free_port_instead() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let other = bind("--listen-ui", None, port, IfTaken::UseAnother)
            .await
            .unwrap();
        assert_ne!(other.local_addr().unwrap().port(), port);
    }
}
