//! The command line. The doc comments are the help.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    Demo(Box<DemoOptions>),
    /// Recount all roll-ups from the stored traces and compare; exit code 1 if they differ.
    ///
    /// Run it while nothing else writes: it starts the private Postgres itself.
    Verify(Box<ServeOptions>),
    /// Create or update the database's schema, and nothing else.
    Migrate(DatabaseOptions),
    /// Tell what a detector finds, why it is slow, how to fix it, when it is wrong.
    Explain {
        /// The detector's id, such as n-plus-one-query; all of them if none is given.
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
    /// OTLP over gRPC [default: 127.0.0.1:4317].
    #[arg(long, env = "CULPRIT_LISTEN_GRPC", value_name = "ADDRESS")]
    pub listen_grpc: Option<SocketAddr>,
    /// OTLP over HTTP, protobuf and JSON [default: 127.0.0.1:4318].
    #[arg(long, env = "CULPRIT_LISTEN_HTTP", value_name = "ADDRESS")]
    pub listen_http: Option<SocketAddr>,
    /// The UI [default: 127.0.0.1:7007].
    #[arg(long, env = "CULPRIT_LISTEN_UI", value_name = "ADDRESS")]
    pub listen_ui: Option<SocketAddr>,
    /// Where people reach the UI; links in alerts begin with it [default: the UI's address].
    #[arg(long, env = "CULPRIT_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Post a JSON message here when a new N+1 has affected three traces (Standard Webhooks).
    #[arg(
        long,
        env = "CULPRIT_ALERT_WEBHOOK",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub alert_webhook: Option<String>,
    /// Sign these messages: whsec_ and base64. Better given by the environment than as a flag.
    #[arg(
        long,
        env = "CULPRIT_ALERT_WEBHOOK_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub alert_webhook_secret: Option<String>,
    /// A host or URL path (* matches anything) that is a log destination; may be repeated.
    #[arg(
        long = "log-destination",
        env = "CULPRIT_LOG_DESTINATIONS",
        value_delimiter = ',',
        value_name = "PATTERN"
    )]
    #[serde(default)]
    pub log_destinations: Vec<String>,
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
    /// Requests per second.
    #[arg(long, default_value_t = 8.0, value_name = "N")]
    pub rate: f64,
}

impl DatabaseOptions {
    /// What is not set here is taken from `file`.
    fn or(self, file: DatabaseOptions) -> DatabaseOptions {
        DatabaseOptions {
            database_url: self.database_url.or(file.database_url),
            data_dir: self.data_dir.or(file.data_dir),
            shards: self.shards.or(file.shards),
        }
    }
}

impl ServeOptions {
    /// Reads the configuration file, if one is named, under what is set already.
    ///
    /// # Errors
    /// The file cannot be read, or has an unknown key or a wrong value: named with its line.
    pub fn with_file(self) -> anyhow::Result<ServeOptions> {
        let Some(path) = &self.config else {
            return Ok(self);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow::anyhow!(
                "the configuration file {} cannot be read: {error}",
                path.display()
            )
        })?;
        let file: ServeOptions = toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!(
                "the configuration file {} is wrong:\n{error}",
                path.display()
            )
        })?;
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
            public_url: self.public_url.or(file.public_url),
            alert_webhook: self.alert_webhook.or(file.alert_webhook),
            alert_webhook_secret: self.alert_webhook_secret.or(file.alert_webhook_secret),
            log_destinations: list(self.log_destinations, file.log_destinations),
        }
    }

    /// Whether this process plays `role`.
    pub fn plays(&self, role: Role) -> bool {
        self.role.is_empty() || self.role.contains(&role)
    }
}

/// Runs what was asked for.
///
/// # Errors
/// What could not be done, why, and what to do next.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr();
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
            Command::Explain { detector } => explain::run(detector.as_deref()),
            Command::Health { url } => health::run(&url).await,
            Command::Bench(BenchCommand::Ingest(options)) => bench::ingest(options).await,
            Command::Bench(BenchCommand::Query(options)) => bench::query(options).await,
        }
    })
}

/// Logs go to standard error: coloured text for a terminal, JSON lines for a machine. `CULPRIT_LOG`
/// sets what is logged (`debug`, `collector=trace`, …).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CULPRIT_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,sqlx=error,hyper=warn,h2=warn,opentelemetry=warn")
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.with_target(false).compact().init();
    } else {
        log.json().init();
    }
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
            "public-url = 'https://a'\nalert-webhook = 'https://b'\nshards = 4\n",
        )
        .unwrap();
        let options = ServeOptions {
            config: Some(path),
            public_url: Some("https://flag".into()),
            ..ServeOptions::default()
        };
        let options = options.with_file().unwrap();
        assert_eq!(options.public_url.as_deref(), Some("https://flag"));
        assert_eq!(options.alert_webhook.as_deref(), Some("https://b"));
        assert_eq!(options.database.shards, Some(4));
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
