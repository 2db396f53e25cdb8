//! What the receiver can be told on the command line and in the configuration file.

use anyhow::Context;
use clap::{Args, ValueEnum};
use collector::receiver::{self, Cors, Limits, Tls, TlsFiles, Tokens, Watched};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Who may send spans, how, and how much at once.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(next_help_heading = "Receiver")]
pub struct ReceiverOptions {
    /// Take spans only with one of these bearer tokens (16 characters or more; or sha256: and the
    /// hash of one). Better given by the environment than as a flag.
    #[arg(
        long = "ingest-token",
        env = "CULPRIT_INGEST_TOKENS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "TOKEN"
    )]
    pub ingest_tokens: Vec<String>,
    /// The same from a file, one token a line; read again when it changes.
    #[arg(long, env = "CULPRIT_INGEST_TOKENS_FILE", value_name = "FILE")]
    pub ingest_tokens_file: Option<PathBuf>,
    /// Encrypt the OTLP ports with this certificate (PEM, with those between it and the root);
    /// read again when it changes.
    #[arg(long, env = "CULPRIT_TLS_CERTIFICATE", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "CULPRIT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Take spans only from clients with a certificate of these authorities (PEM).
    #[arg(long, env = "CULPRIT_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// A web site whose pages may send spans, such as https://*.example.com or http://localhost:*;
    /// may be repeated.
    #[arg(
        long = "cors-origin",
        env = "CULPRIT_CORS_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN"
    )]
    pub cors_origins: Vec<String>,
    /// What becomes of logs and metrics, which SDKs send by default and culprit does not keep
    /// [default: discard].
    #[arg(long, env = "CULPRIT_UNSUPPORTED_SIGNALS", value_name = "WHAT")]
    pub unsupported_signals: Option<UnsupportedSignals>,
    /// MiB of one request after decompression; larger ones are refused [default: 20].
    #[arg(long, env = "CULPRIT_MAX_REQUEST_MIB", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_request_mib: Option<u16>,
    /// Connections to each OTLP port; further ones wait [default: 1024].
    #[arg(long, env = "CULPRIT_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: Option<u32>,
    /// Connections of one address to each OTLP port; further ones are closed [default: half of
    /// --max-connections].
    #[arg(long, env = "CULPRIT_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_address: Option<u32>,
    /// Requests at once on one HTTP/2 connection [default: 128].
    #[arg(long, env = "CULPRIT_MAX_STREAMS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_streams: Option<u32>,
    /// Minutes after which a connection is asked to end, so that load balancers spread its client
    /// again; 0 is never [default: 30].
    #[arg(long, env = "CULPRIT_MAX_CONNECTION_AGE", value_name = "MINUTES")]
    pub max_connection_age: Option<u32>,
}

/// What becomes of logs and metrics.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsupportedSignals {
    /// Success, and nothing is kept; the status page counts them.
    Discard,
    /// An error in the sender's log.
    Reject,
}

impl ReceiverOptions {
    /// What is not set here is taken from `file`.
    pub(crate) fn or(self, file: ReceiverOptions) -> ReceiverOptions {
        let list = |set: Vec<_>, file: Vec<_>| if set.is_empty() { file } else { set };
        ReceiverOptions {
            ingest_tokens: list(self.ingest_tokens, file.ingest_tokens),
            ingest_tokens_file: self.ingest_tokens_file.or(file.ingest_tokens_file),
            tls_certificate: self.tls_certificate.or(file.tls_certificate),
            tls_key: self.tls_key.or(file.tls_key),
            tls_client_ca: self.tls_client_ca.or(file.tls_client_ca),
            cors_origins: list(self.cors_origins, file.cors_origins),
            unsupported_signals: self.unsupported_signals.or(file.unsupported_signals),
            max_request_mib: self.max_request_mib.or(file.max_request_mib),
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_address: self
                .max_connections_per_address
                .or(file.max_connections_per_address),
            max_streams: self.max_streams.or(file.max_streams),
            max_connection_age: self.max_connection_age.or(file.max_connection_age),
        }
    }

    /// The receiver's options; files are read.
    ///
    /// # Errors
    /// A file or value that cannot be used: named by its flag.
    pub fn to_receiver(&self) -> anyhow::Result<receiver::Options> {
        let cors = (!self.cors_origins.is_empty()).then(|| Cors::new(&self.cors_origins));
        Ok(receiver::Options {
            limits: self.limits(),
            tokens: self.tokens()?,
            cors: cors.transpose().context("--cors-origin")?,
            tls: self.tls()?,
            other_signals: match self.unsupported_signals {
                None | Some(UnsupportedSignals::Discard) => receiver::OtherSignals::Discard,
                Some(UnsupportedSignals::Reject) => receiver::OtherSignals::Reject,
            },
        })
    }

    /// Whether senders must show something only they have: a token, or a certificate.
    pub fn asks_who_sends(&self) -> bool {
        let tokens = !self.ingest_tokens.is_empty() || self.ingest_tokens_file.is_some();
        tokens || self.tls_client_ca.is_some()
    }

    fn limits(&self) -> Limits {
        let usual = Limits::default();
        let body_bytes_max = self
            .max_request_mib
            .map_or(usual.body_bytes_max, |it| usize::from(it) << 20);
        let connections_max = self.max_connections.unwrap_or(usual.connections_max);
        Limits {
            body_bytes_max,
            // A request of the largest size must fit, compressed and inflated and split.
            in_flight_bytes_max: usual.in_flight_bytes_max.max(3 * body_bytes_max),
            connections_max,
            connections_per_peer_max: self
                .max_connections_per_address
                .unwrap_or(connections_max.div_ceil(2)),
            streams_max: self.max_streams.unwrap_or(usual.streams_max),
            connection_age_max: match self.max_connection_age {
                None => usual.connection_age_max,
                Some(0) => None,
                Some(minutes) => Some(Duration::from_secs(60 * u64::from(minutes))),
            },
            ..usual
        }
    }

    fn tokens(&self) -> anyhow::Result<Option<Watched<Tokens>>> {
        let given = self.ingest_tokens.join("\n");
        let Some(path) = self.ingest_tokens_file.clone() else {
            if given.is_empty() {
                return Ok(None);
            }
            let tokens = Watched::new(Vec::new(), move || Tokens::parse(&given));
            return tokens.context("--ingest-token").map(Some);
        };
        let tokens = Watched::new(vec![path.clone()], move || {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Tokens::parse(&format!("{given}\n{text}"))
        });
        tokens.context("--ingest-tokens-file").map(Some)
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let (certificate, key) = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if self.tls_client_ca.is_none() => return Ok(None),
            _ => anyhow::bail!("TLS needs both --tls-certificate and --tls-key"),
        };
        let files = TlsFiles {
            certificate,
            key,
            client_authorities: self.tls_client_ca.clone(),
        };
        Tls::new(files).context("--tls-certificate").map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t5_t6_c4_s3_limits_can_be_set() {
        let options = ReceiverOptions {
            max_request_mib: Some(64),
            max_connections: Some(101),
            max_streams: Some(7),
            max_connection_age: Some(0),
            ..ReceiverOptions::default()
        };
        let limits = options.to_receiver().unwrap().limits;
        assert_eq!((limits.body_bytes_max, limits.streams_max), (64 << 20, 7));
        assert!(limits.in_flight_bytes_max >= 3 * limits.body_bytes_max);
        assert_eq!(
            (limits.connections_max, limits.connections_per_peer_max),
            (101, 51)
        );
        assert_eq!(limits.connection_age_max, None);
    }

    #[test]
    fn s15_s16_cors_what_cannot_be_used_is_named_by_its_flag() {
        let error = |options: ReceiverOptions| {
            format!("{:#}", options.to_receiver().map(drop).unwrap_err())
        };
        let text = error(ReceiverOptions {
            ingest_tokens: vec!["short".into()],
            ..ReceiverOptions::default()
        });
        assert!(
            text.contains("--ingest-token") && !text.contains("short"),
            "{text}"
        );
        let text = error(ReceiverOptions {
            ingest_tokens_file: Some("/none/such".into()),
            ..ReceiverOptions::default()
        });
        assert!(text.contains("--ingest-tokens-file") && text.contains("/none/such"));
        let text = error(ReceiverOptions {
            tls_key: Some("/none/such".into()),
            ..ReceiverOptions::default()
        });
        assert!(text.contains("--tls-certificate"), "{text}");
        let text = error(ReceiverOptions {
            cors_origins: vec!["*".into()],
            ..ReceiverOptions::default()
        });
        assert!(text.contains("--cors-origin"), "{text}");
        let open = ReceiverOptions::default();
        assert!(!open.asks_who_sends() && open.to_receiver().unwrap().tokens.is_none());
    }
}
