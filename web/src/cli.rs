//! The command line. The doc comments are the help.

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use collector::life;
use collector::receiver::ListenAddress;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::alert_options::{AlertOptions, Sections};
use crate::cli_receiver::ReceiverOptions;
use crate::configuration::Configuration;
use crate::demo::schedule::After;
use crate::exec::{self, ExecOptions};
use crate::explain_options::ExplainOptions;
use crate::log_link::LogLink;
use crate::logging::{self, LogOptions};
use crate::offline::{self, AnalyzeOptions};
use crate::retention_options::RetentionOptions;
use crate::time_span::TimeSpan;
use crate::{bench, demo_command, explain, health, serve, verify};

/// Where every nanosecond of a request went, and what to fix first.
///
/// Services send their traces (OTLP) to culprit; it stores them in Postgres, finds the culprits
/// (N+1 queries, synchronous remote logging, slow queries) and shows them in a browser, ranked by
/// what fixing them saves.
///
///   culprit demo     a small shop with planted culprits, and the UI with what was found
///   culprit serve    for your own services; then set
///                    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 in them
#[derive(Parser, Debug)]
#[command(
    name = "culprit",
    version,
    verbatim_doc_comment,
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How logs are written.
    #[command(flatten)]
    pub log: LogOptions,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Collect, analyse and show traces until Ctrl-C.
    ///
    /// Without --database-url culprit starts a Postgres of its own from the server binaries
    /// installed on this machine, with full durability, reachable only through a Unix socket.
    Serve(Box<ServeOptions>),
    /// Everything of `serve`, and a demo shop under traffic that exhibits what culprit finds.
    ///
    /// Its slow endpoints are on the first page within seconds. Then it tells the story of a bad
    /// deployment: after six minutes version 1.1.0 of the shop takes over, in which one request in
    /// eight to GET /products/{id} takes about a tenth of a second more. The median does not move, nothing
    /// fails, and culprit is told nothing; it sees another service.version in the spans, and what it
    /// makes of that is an alert within some minutes: which endpoint, since which version, by how much,
    /// because of which call, with a link to the comparison. Twelve minutes later 1.0.0 comes back,
    /// and the alert is resolved.
    ///
    /// Alerts are printed by a webhook receiver of the demo's own, unless --alert-webhook names another.
    Demo(Box<DemoOptions>),
    /// Recount all roll-ups from the stored traces and compare; exit code 1 if they differ.
    ///
    /// Run it while nothing else writes: it starts the private Postgres itself.
    Verify(Box<ServeOptions>),
    /// Create or update the database's schema, and nothing else.
    Migrate(DatabaseOptions),
    /// Find the culprits in recorded traces, without a server or database.
    ///
    /// Reads OTLP as JSON (one request, a list of them, or one on each line) or protobuf, Jaeger's
    /// JSON (as its API answers and its UI saves it) and Zipkin's v2 JSON, also compressed with gzip or
    /// zstd. What a file is, is told by its content. Traces are put together over all files.
    ///
    /// Exit code 0: nothing fails. 1: findings of severity warning or worse and all N+1s, or what
    /// --fail-on says instead, or a budget that is exceeded. 2: wrong usage, or an input that cannot
    /// be read or has no spans (one with logs or metrics only is passed over beside others). Other findings of severity info are worth knowing, not worth stopping
    /// a build for.
    ///
    /// --format json writes {"schema":1,"traces":[…],"findings_over_time":[…],
    /// "coverage":{…}}. Times are nanoseconds.
    ///
    ///   traces[]     trace_id, warnings (texts), entries
    ///   entries[]    a service's part of the trace, one request to it: service, endpoint, span_id,
    ///                start_ns, duration_ns, error, weight, categories, calls, critical_path, findings
    ///   categories   ns by kind of time; all eleven are there, and add up to duration_ns exactly
    ///   calls        how many calls of each kind
    ///   critical_path[]  span_id, service, operation, category, start_ns, end_ns; without gaps
    ///   findings[]   detector, fingerprint, title, severity, confidence (0 to 1), reasons, count,
    ///                span_ids, call_path, statement, target, parameters, saved_ns, window_ns, sum_ns,
    ///                code, explanation, fix, fix_code, framework; what is unknown is null
    ///   findings_over_time[]  what only many requests to one endpoint tell, such as a statement with a
    ///                slow p95: service, endpoint, requests, affected_requests, affected_traces,
    ///                example_trace_id, example_span_id, and the fields of findings[], with no span_ids;
    ///                count and sum_ns are of all requests, saved_ns of each affected one. What stands
    ///                in a trace's findings already is not repeated here
    ///   coverage     what was seen (traces, spans, requests, …) and what was not; notes are texts
    ///
    /// Fields may be added. If one goes or changes its meaning, schema is raised.
    #[command(verbatim_doc_comment)]
    Analyze(Box<AnalyzeOptions>),
    /// Run a command (a test suite), take its spans, and report as `analyze` does.
    ///
    ///   culprit exec -- pytest
    ///   culprit exec --fail-on critical --format sarif --output culprit.sarif -- npm test
    ///
    /// Receives OTLP on a free port of this machine while the command runs, and sets the environment
    /// variables that OpenTelemetry's SDKs read: OTEL_EXPORTER_OTLP_ENDPOINT and _PROTOCOL
    /// (http/protobuf, unless it says grpc or http/json already), OTEL_TRACES_EXPORTER,
    /// OTEL_METRICS_EXPORTER=none, OTEL_LOGS_EXPORTER=none, OTEL_TRACES_SAMPLER=always_on; if they are
    /// not set, OTEL_SERVICE_NAME, OTEL_BSP_SCHEDULE_DELAY=200 and OTEL_BSP_MAX_QUEUE_SIZE=65536; and
    /// NO_PROXY or no_proxy where a proxy is set. It removes OTEL_SDK_DISABLED, OTEL_TRACES_SAMPLER_ARG,
    /// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and _TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_HEADERS and
    /// _TRACES_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE and _TRACES_CERTIFICATE. The command itself must be
    /// instrumented.
    ///
    /// Signals are passed on to the command; without a terminal to all it has started, which is then a
    /// process group of its own. Processes it leaves in the background are not waited for.
    ///
    /// The report goes to standard output, behind what the command writes there; --output keeps it
    /// apart.
    ///
    /// Exit code: the command's own if it fails; else as for `analyze`, 2 if no spans came;
    /// 127 if there is no such command, 126 if it may not be executed.
    #[command(verbatim_doc_comment)]
    Exec(Box<ExecOptions>),
    /// Tell what a detector finds, why it is slow, how to fix it, when it is wrong.
    Explain {
        /// The detector's id, such as n-plus-one-query, or how several begin (n-plus-one); all of them
        /// if none is given.
        detector: Option<String>,
    },
    /// Ask a running culprit whether it is healthy; exit code 1 if not. For containers.
    Health {
        /// What to ask: /healthz of the UI's or the OTLP/HTTP address.
        #[arg(long, default_value = "http://127.0.0.1:7007/healthz")]
        url: String,
    },
    /// Measure; figures go to standard output as one JSON object.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// What can be measured.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// OTLP/gRPC in → analysed and stored, on an empty private Postgres of its own.
    Ingest(bench::IngestOptions),
    /// How long what people ask takes, with many spans stored on a private Postgres of its own.
    Query(bench::QueryOptions),
    /// What becomes of many times the load that is sustained: what is stored, what is told to come again,
    /// and what memory it takes.
    Overload(bench::OverloadOptions),
}

/// Which part of culprit a process is.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Receives OTLP and writes the journal.
    Collector,
    /// Assembles, analyses, reviews, alerts.
    Analyzer,
    /// The UI and its API.
    Web,
}

/// Where the data is.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DatabaseOptions {
    /// An external Postgres (14 to 18): postgres://user:password@host/database. culprit uses a
    /// schema of its own in it, named culprit.
    #[arg(
        long,
        env = "CULPRIT_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<String>,
    /// A replica of that database: the UI reads from it, and says how old what it shows is when the
    /// replica falls behind.
    #[arg(
        long,
        env = "CULPRIT_READ_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub read_database_url: Option<String>,
    /// The URL leads to a connection pooler in transaction mode (PgBouncer, pool_mode=transaction).
    #[arg(long, env = "CULPRIT_POOLED")]
    pub pooled: bool,
    /// Connections that this process opens at most, those of the UI (six) aside; at the bound its tasks
    /// wait for each other [default: 12].
    #[arg(long, env = "CULPRIT_DATABASE_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub database_connections: Option<u32>,
    /// Where the private Postgres keeps its data [default: /var/lib/culprit for root,
    /// ~/.local/share/culprit for others].
    #[arg(long, env = "CULPRIT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Shards of a new schema; fixed once it is created [default: 1 on the private Postgres, 16 on
    /// an external one].
    #[arg(long, env = "CULPRIT_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
}

/// What `serve` can be told. The same names are the keys of the configuration file.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServeOptions {
    /// A TOML file with these options as keys (database-url = "…"). The environment goes over the
    /// file, flags over both.
    #[arg(long, env = "CULPRIT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where the data is.
    #[command(flatten)]
    #[serde(flatten)]
    pub database: DatabaseOptions,
    /// What this process does, if several share an external database [default: all three].
    #[arg(
        long = "role",
        env = "CULPRIT_ROLE",
        value_delimiter = ',',
        value_name = "ROLE"
    )]
    #[serde(default)]
    pub role: Vec<Role>,
    /// OTLP over gRPC: a port or unix:/path [default: 127.0.0.1:4317]. Both ports take both.
    #[arg(long, env = "CULPRIT_LISTEN_GRPC", value_name = "ADDRESS")]
    pub listen_grpc: Option<ListenAddress>,
    /// OTLP over HTTP, protobuf and JSON: a port or unix:/path [default: 127.0.0.1:4318].
    #[arg(long, env = "CULPRIT_LISTEN_HTTP", value_name = "ADDRESS")]
    pub listen_http: Option<ListenAddress>,
    /// The UI [default: 127.0.0.1:7007].
    #[arg(long, env = "CULPRIT_LISTEN_UI", value_name = "ADDRESS")]
    pub listen_ui: Option<SocketAddr>,
    /// Health and metrics (/healthz, /readyz, /metrics). The UI's port has them too, so this is for
    /// processes without one [default: 127.0.0.1:7008 there, else none].
    #[arg(long, env = "CULPRIT_LISTEN_ADMIN", value_name = "ADDRESS")]
    pub listen_admin: Option<SocketAddr>,
    /// Where people reach the UI; links in alerts begin with it [default: the UI's address].
    #[arg(long, env = "CULPRIT_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Where the logs of a trace are found, linked from its page and its spans. In braces stand trace_id,
    /// span_id (empty for a whole trace), service, and the time with a minute around it: start_ms and
    /// end_ms, or start and end as 2026-12-01T09:00:00Z. Such as
    /// https://logs.example/?q={trace_id}&from={start_ms}&to={end_ms}.
    #[arg(long, env = "CULPRIT_LOG_URL", value_name = "URL")]
    pub log_url: Option<LogLink>,
    /// A finding that was not seen for this long, while its endpoint had enough traffic to show it, is
    /// taken for resolved: 15m, 36h, 7d [default: 24h].
    #[arg(long, env = "CULPRIT_RESOLVE_AFTER", value_name = "TIME")]
    pub resolve_after: Option<TimeSpan>,
    /// A host or URL path (* matches anything) that is a log destination; may be repeated.
    #[arg(
        long = "log-destination",
        env = "CULPRIT_LOG_DESTINATIONS",
        value_delimiter = ',',
        value_name = "PATTERN"
    )]
    #[serde(default)]
    pub log_destinations: Vec<String>,
    /// Who may send spans, how, and how much at once.
    #[command(flatten)]
    #[serde(flatten)]
    pub receiver: ReceiverOptions,
    /// What is kept for how long.
    #[command(flatten)]
    #[serde(flatten)]
    pub retention: RetentionOptions,
    /// Which databases are asked for plans.
    #[command(flatten)]
    #[serde(flatten)]
    pub explain: ExplainOptions,
    /// Who is told, and of what.
    #[command(flatten)]
    #[serde(flatten)]
    pub alerts: AlertOptions,
    /// All of this as it was written, and where.
    #[arg(skip)]
    #[serde(skip)]
    pub told: Configuration,
}

/// What `demo` can be told.
#[derive(Args, Clone, Default, Debug)]
pub struct DemoOptions {
    /// As for `serve`.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// Send a fixed number of requests, wait until they are analysed, print what was found, exit.
    #[arg(long)]
    pub once: bool,
    /// Requests per second. With fewer, culprit needs longer to be sure of anything.
    #[arg(long, default_value_t = 8.0, value_name = "N")]
    pub rate: f64,
    /// Deploy version 1.1.0 of the shop so long after the start (90s, 6m, 1h), or never. culprit compares
    /// the new version with what it has seen of the old one: leave it some minutes for that. Not with
    /// --once.
    #[arg(long, default_value = "6m", value_name = "TIME")]
    pub deploy_after: After,
    /// Go back to version 1.0.0 so long after that, or never.
    #[arg(long, default_value = "12m", value_name = "TIME")]
    pub roll_back_after: After,
}

impl DatabaseOptions {
    /// What is not set here is taken from `file`.
    fn or(self, file: DatabaseOptions) -> DatabaseOptions {
        DatabaseOptions {
            database_url: self.database_url.or(file.database_url),
            read_database_url: self.read_database_url.or(file.read_database_url),
            pooled: self.pooled || file.pooled,
            database_connections: self.database_connections.or(file.database_connections),
            data_dir: self.data_dir.or(file.data_dir),
            shards: self.shards.or(file.shards),
        }
    }
}

impl ServeOptions {
    /// What the analysis is told.
    pub fn settings(&self) -> analyzer::Settings {
        analyzer::Settings {
            log_destinations: self.log_destinations.clone(),
            ..analyzer::Settings::default()
        }
    }

    /// How long a finding is not seen before it is taken for resolved.
    pub fn resolve_after(&self) -> Duration {
        let usual = Duration::from_millis(life::RESOLVE_AFTER_MS as u64);
        self.resolve_after.map_or(usual, TimeSpan::get)
    }

    /// Reads the configuration file, if one is named, under what is set already.
    ///
    /// # Errors
    /// The file cannot be read, or has an unknown key or a wrong value: named with its line.
    pub fn with_file(mut self) -> anyhow::Result<ServeOptions> {
        let Some(path) = &self.config.clone() else {
            return Ok(self);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow::anyhow!(
                "the configuration file {} cannot be read: {error}",
                path.display()
            )
        })?;
        self.told.add_file(path, &text);
        let sections = Sections::read(path, &text)?;
        let mut file: ServeOptions = toml::from_str(&text).map_err(|error| {
            // Without the line itself: it may hold a secret.
            let line = error
                .span()
                .map_or(0, |it| text[..it.start].matches('\n').count() + 1);
            anyhow::anyhow!(
                "the configuration file {} is wrong in line {line}: {}",
                path.display(),
                error.message()
            )
        })?;
        file.alerts = file.alerts.with_sections(sections);
        Ok(self.or(file))
    }

    fn or(self, file: ServeOptions) -> ServeOptions {
        let list = |set: Vec<_>, file: Vec<_>| if set.is_empty() { file } else { set };
        ServeOptions {
            config: self.config,
            database: self.database.or(file.database),
            role: if self.role.is_empty() {
                file.role
            } else {
                self.role
            },
            listen_grpc: self.listen_grpc.or(file.listen_grpc),
            listen_http: self.listen_http.or(file.listen_http),
            listen_ui: self.listen_ui.or(file.listen_ui),
            listen_admin: self.listen_admin.or(file.listen_admin),
            public_url: self.public_url.or(file.public_url),
            log_url: self.log_url.or(file.log_url),
            resolve_after: self.resolve_after.or(file.resolve_after),
            log_destinations: list(self.log_destinations, file.log_destinations),
            receiver: self.receiver.or(file.receiver),
            retention: self.retention.or(file.retention),
            explain: self.explain.or(file.explain),
            alerts: self.alerts.or(file.alerts),
            told: self.told,
        }
    }

    /// Whether this process plays `role`.
    pub fn plays(&self, role: Role) -> bool {
        self.role.is_empty() || self.role.contains(&role)
    }
}

impl Cli {
    /// Reads the process' arguments and environment; ends it if they make no sense, or ask for help.
    pub fn read() -> Cli {
        let mut command = Cli::command();
        let matches = command.get_matches_mut();
        let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let Some((name, of)) = matches.subcommand() {
            cli.remember(&command, name, of);
        }
        cli
    }

    fn remember(&mut self, command: &clap::Command, name: &str, matches: &ArgMatches) {
        let Some(command) = command.find_subcommand(name) else {
            return;
        };
        let told = match &mut self.command {
            Command::Serve(options) => &mut options.told,
            Command::Demo(options) => &mut options.serve.told,
            _ => return,
        };
        *told = Configuration::of(command, matches);
    }
}

/// Runs what was asked for.
///
/// # Errors
/// What could not be done, why, and what to do next.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logging::start(&cli.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(options) => serve::run(options.with_file()?).await,
            Command::Demo(options) => {
                let serve = options.serve.clone().with_file()?;
                demo_command::run(DemoOptions { serve, ..*options }).await
            }
            Command::Verify(options) => verify::run(options.with_file()?).await,
            Command::Migrate(options) => verify::migrate(options).await,
            Command::Analyze(options) => offline::run(&options),
            Command::Exec(options) => exec::run(&options).await,
            Command::Explain { detector } => explain::run(detector.as_deref()),
            Command::Health { url } => health::run(&url).await,
            Command::Bench(BenchCommand::Ingest(options)) => bench::ingest(options).await,
            Command::Bench(BenchCommand::Query(options)) => bench::query(options).await,
            Command::Bench(BenchCommand::Overload(options)) => bench::overload(options).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_go_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culprit.toml");
        std::fs::write(
            &path,
            "public-url = 'https://a'\nalert-webhook = 'https://b'\nshards = 4\n\
             listen-grpc = 'unix:/run/culprit.sock'\nmax-streams = 9\nresolve-after = '36h'\n\
             log-url = 'https://logs/{trace_id}'\n",
        )
        .unwrap();
        let options = ServeOptions {
            config: Some(path),
            public_url: Some("https://flag".into()),
            ..ServeOptions::default()
        };
        let options = options.with_file().unwrap();
        assert_eq!(options.public_url.as_deref(), Some("https://flag"));
        assert_eq!(options.alerts.alert_webhook, Some("https://b".into()));
        assert_eq!(options.database.shards, Some(4));
        assert_eq!(options.receiver.max_streams, Some(9));
        assert_eq!(
            options.log_url,
            Some("https://logs/{trace_id}".parse().unwrap())
        );
        assert_eq!(options.resolve_after().as_secs(), 36 * 3_600);
        assert_eq!(
            ServeOptions::default().resolve_after().as_secs(),
            24 * 3_600
        );
        let socket = options.listen_grpc.unwrap().to_string();
        assert_eq!(socket, "unix:/run/culprit.sock");
    }

    #[test]
    fn a_place_for_logs_that_makes_no_sense_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culprit.toml");
        std::fs::write(&path, "shards = 4\nlog-url = 'https://logs/{trace}'\n").unwrap();
        let options = ServeOptions {
            config: Some(path),
            ..ServeOptions::default()
        };
        let error = format!("{:#}", options.with_file().unwrap_err());
        assert!(error.contains("{trace} is not known"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culprit.toml");
        std::fs::write(&path, "listen-gprc = '127.0.0.1:1'\n").unwrap();
        let options = ServeOptions {
            config: Some(path),
            ..ServeOptions::default()
        };
        let error = format!("{:#}", options.with_file().unwrap_err());
        assert!(error.contains("listen-gprc"), "{error}");
    }
}
