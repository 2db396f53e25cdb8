//! What `serve` can be told about how long data stays.

use clap::Args;
use collector::housekeeping::{self, Policy};
use collector::store::leases::Process;
use serde::Deserialize;
use std::path::PathBuf;
use std::str::FromStr;

/// How long data stays. Days are whole ones of the database's clock (UTC); today's always stay.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[command(next_help_heading = "Retention")]
#[serde(rename_all = "kebab-case", default)]
pub struct RetentionOptions {
    /// Days that traces stay [default: 14].
    #[arg(long, env = "CULPRIT_RETAIN_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub retain_days: Option<u32>,
    /// Days that the traces worth keeping stay: with a finding, an error, or slower than their
    /// endpoint's P99; of each endpoint and hour the 20 slowest and 20 others [default: 90].
    #[arg(long, env = "CULPRIT_RETAIN_KEPT_DAYS", value_name = "DAYS")]
    pub retain_kept_days: Option<u32>,
    /// Days that numbers and findings stay [default: 90].
    #[arg(long, env = "CULPRIT_RETAIN_ROLLUPS_DAYS", value_name = "DAYS")]
    pub retain_rollups_days: Option<u32>,
    /// Bytes of all tables together, such as 50GB; the oldest days go first [default: no limit].
    #[arg(long, env = "CULPRIT_RETAIN_BYTES", value_name = "BYTES")]
    pub retain_bytes: Option<Bytes>,
    /// Share of the disk space that is culprit's or free that culprit may take, in percent. Only
    /// with the private Postgres [default: 80].
    #[arg(long, env = "CULPRIT_RETAIN_DISK_SHARE", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub retain_disk_share: Option<u8>,
    /// While less than this is free on the disk, nothing is taken and the oldest days go. Only with
    /// the private Postgres [default: 2GiB or 5 % of the disk, whichever is more].
    #[arg(long, env = "CULPRIT_DISK_FREE_MIN", value_name = "BYTES")]
    pub disk_free_min: Option<Bytes>,
    /// While more than this waits to be analysed, in bytes as sent, clients are told to come again. It
    /// leaves room for bursts and for analysers that are away for a while [default: 16GiB].
    #[arg(long, env = "CULPRIT_BACKLOG_MAX", value_name = "BYTES")]
    pub backlog_max: Option<Bytes>,
}

impl RetentionOptions {
    /// What is not set here is taken from `file`.
    pub fn or(self, file: RetentionOptions) -> RetentionOptions {
        RetentionOptions {
            retain_days: self.retain_days.or(file.retain_days),
            retain_kept_days: self.retain_kept_days.or(file.retain_kept_days),
            retain_rollups_days: self.retain_rollups_days.or(file.retain_rollups_days),
            retain_bytes: self.retain_bytes.or(file.retain_bytes),
            retain_disk_share: self.retain_disk_share.or(file.retain_disk_share),
            disk_free_min: self.disk_free_min.or(file.disk_free_min),
            backlog_max: self.backlog_max.or(file.backlog_max),
        }
    }

    /// What housekeeping is told, for a database whose data are in `data_dir` if they are here.
    pub fn housekeeping(
        &self,
        data_dir: Option<PathBuf>,
        process: Process,
    ) -> housekeeping::Options {
        let usual = Policy::default();
        housekeeping::Options {
            policy: Policy {
                // From a file it may be 0.
                days: self.retain_days.unwrap_or(usual.days).max(1),
                kept_days: self.retain_kept_days.unwrap_or(usual.kept_days),
                rollup_days: self.retain_rollups_days.unwrap_or(usual.rollup_days),
                bytes_max: self.retain_bytes.map(Bytes::get),
                disk_share: self
                    .retain_disk_share
                    .map_or(usual.disk_share, |percent| f64::from(percent) / 100.0),
            },
            data_dir,
            free_min_bytes: self.disk_free_min.map(Bytes::get),
            process,
        }
    }
}

/// A number of bytes, written with a unit or without: `500MB`, `2GiB`, `1e9` is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Bytes(u64);

impl Bytes {
    /// How many.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// A file may have a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Bytes {
    type Error = String;

    fn try_from(written: Written) -> Result<Bytes, String> {
        match written {
            Written::Number(bytes) => Ok(Bytes(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let digits = text.trim_start_matches(|it: char| it.is_ascii_digit());
        let (number, unit) = text.split_at(text.len() - digits.len());
        let unit = unit.trim();
        let known = UNITS.iter().find(|it| it.0.eq_ignore_ascii_case(unit));
        let factor = known.map_or(u64::from(unit.is_empty()), |it| it.1);
        let number: Option<u64> = number.parse().ok();
        number
            .and_then(|it| it.checked_mul(factor))
            .filter(|_| factor > 0)
            .map(Bytes)
            .ok_or_else(|| format!("'{text}' is no number of bytes; write it like 500MB or 2GiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("2GiB", 2 << 30),
            ("500 MB", 500_000_000),
            ("3kb", 3_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "GB", "1.5GB", "-1", "5 apples", "99999999999TB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_may_say_it_either_way() {
        let options: RetentionOptions =
            toml::from_str("retain-bytes = '2GiB'\ndisk-free-min = 1000\nretain-days = 3").unwrap();
        assert_eq!(options.retain_bytes, Some(Bytes(2 << 30)));
        let options = options.housekeeping(None, Process::default());
        assert_eq!(
            (options.policy.days, options.free_min_bytes),
            (3, Some(1_000))
        );
    }
}
