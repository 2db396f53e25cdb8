//! How the private Postgres is set up: three files of ours in its data directory, rewritten at every start.
//!
//! `culprit.conf` is included from `postgresql.conf`. Who wants a setting changed writes it there *below* the include
//! line, or uses `alter system`: both win over ours and are left alone. Everything that makes a commit durable (fsync,
//! full-page writes, synchronous commit) stays on.

use super::account::Account;
use super::cluster::ROLE;
use super::error::StartError;
use super::place::{PORT, Place, give_to};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The line in `postgresql.conf`.
const INCLUDE: &str = "include 'culprit.conf'";

/// Peer authentication over the Unix socket and nothing else: no password exists, so none can leak.
const HBA: &str = "\
# Written by culprit at every start.
local all all peer map=culprit
";

/// What the settings depend on.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub major: u32,
    pub shared_buffers_mb: u32,
    /// Whether this build of Postgres can compress with LZ4.
    pub lz4: bool,
    /// Cores of this machine.
    pub cores: usize,
    /// Tests only: nothing has to survive.
    pub ephemeral: bool,
}

/// Writes the three files, and the include line if it is not there yet.
pub(super) fn write(
    settings: &Settings,
    data_dir: &Path,
    place: &Place,
    account: &Account,
) -> Result<(), StartError> {
    let write = |name, text: &str| write_if_changed(&data_dir.join(name), text, account);
    write("culprit.conf", &conf(settings, &place.socket_dir))?;
    write("pg_hba.conf", HBA)?;
    write("pg_ident.conf", &ident(account))?;
    include_ours(&data_dir.join("postgresql.conf"), account)
}

/// Asks the server's program whether it was built with LZ4: an unknown value would stop the start.
pub(super) fn has_lz4(postgres: &Path, major: u32, data_dir: &Path) -> bool {
    // WAL knows lz4 since 15; a build that has it for one has it for the other.
    let setting = if major >= 15 {
        "wal_compression"
    } else {
        "default_toast_compression"
    };
    let output = Command::new(postgres)
        .args([
            "-C",
            setting,
            "-c",
            &format!("{setting}=lz4"),
            "-c",
            "config_file=/dev/null",
            "-D",
        ])
        .arg(data_dir)
        .current_dir("/")
        .output();
    output.is_ok_and(|it| it.status.success() && it.stdout.starts_with(b"lz4"))
}

fn conf(settings: &Settings, socket_dir: &Path) -> String {
    let mut text = String::from(
        "# Written by culprit at every start. To change a setting, write it into postgresql.conf\n\
         # below the line that includes this file.\n",
    );
    for (name, value) in values(settings, socket_dir) {
        text.push_str(&format!("{name} = {value}\n"));
    }
    text
}

fn values(settings: &Settings, socket_dir: &Path) -> Values {
    let mut all = connection_values(settings, socket_dir);
    all.extend(memory_values(settings));
    all.extend(durability_values(settings));
    all.extend(planner_values(settings));
    all.extend(log_values(settings));
    all
}

type Values = Vec<(&'static str, String)>;

fn owned<const N: usize>(pairs: [(&'static str, &str); N]) -> Values {
    pairs
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

fn connection_values(settings: &Settings, socket_dir: &Path) -> Values {
    // Tests run side by side, each with a pool of its own.
    let connections_max = if settings.ephemeral { 300 } else { 40 };
    let mut all = owned([
        ("listen_addresses", "''"),
        ("unix_socket_permissions", "0700"),
        ("superuser_reserved_connections", "3"),
        ("idle_in_transaction_session_timeout", "'60s'"),
        ("cluster_name", "'culprit'"),
    ]);
    all.push(("unix_socket_directories", directory_list(socket_dir)));
    all.push(("port", PORT.to_string()));
    all.push(("max_connections", connections_max.to_string()));
    all
}

fn memory_values(settings: &Settings) -> Values {
    let mut all = owned([
        ("huge_pages", "try"),
        ("work_mem", "'32MB'"),
        ("maintenance_work_mem", "'256MB'"),
        ("autovacuum_work_mem", "'64MB'"),
        ("wal_buffers", "'16MB'"),
    ]);
    all.push((
        "shared_buffers",
        format!("'{}MB'", settings.shared_buffers_mb),
    ));
    if settings.lz4 {
        all.extend(owned([("default_toast_compression", "lz4")]));
        all.extend((settings.major >= 15).then(|| ("wal_compression", "lz4".to_owned())));
    }
    all
}

fn durability_values(settings: &Settings) -> Values {
    let on = if settings.ephemeral { "off" } else { "on" };
    let mut all = owned([
        ("data_sync_retry", "off"),
        // One server and no standby: bulk loads into new partitions may skip the WAL.
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("archive_mode", "off"),
        // Rare checkpoints write few full-page images; 2 GB is what a laptop can spare.
        ("max_wal_size", "'2GB'"),
        ("min_wal_size", "'256MB'"),
        ("checkpoint_timeout", "'15min'"),
        ("checkpoint_completion_target", "0.9"),
        ("commit_delay", "0"),
        // Append-only partitions: an early vacuum makes index-only scans possible.
        ("autovacuum_vacuum_insert_scale_factor", "0.05"),
    ]);
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        all.push((name, on.to_owned()));
    }
    all
}

fn planner_values(settings: &Settings) -> Values {
    let mut all = owned([
        // Our queries are short: compiling them costs more than it saves.
        ("jit", "off"),
        ("random_page_cost", "1.1"),
        ("bgwriter_lru_maxpages", "1000"),
    ]);
    all.push((
        "max_parallel_workers_per_gather",
        (settings.cores / 2).clamp(0, 4).to_string(),
    ));
    if cfg!(target_os = "linux") {
        // Elsewhere the server refuses to prefetch, and to start.
        all.push(("effective_io_concurrency", "200".to_owned()));
    }
    all
}

fn log_values(settings: &Settings) -> Values {
    let mut all = owned([
        // We read the log: it comes through standard error, in English, a severity first.
        ("log_destination", "'stderr'"),
        ("logging_collector", "off"),
        ("log_line_prefix", "''"),
        ("lc_messages", "'C'"),
        ("log_timezone", "'UTC'"),
        ("timezone", "'UTC'"),
        ("log_min_duration_statement", "'500ms'"),
        // Parameters are what services sent us; they do not belong into a log.
        ("log_parameter_max_length", "0"),
        ("log_checkpoints", "on"),
        ("track_io_timing", "on"),
    ]);
    if settings.major >= 15 {
        // Progress of a long recovery, which the start waits for.
        all.extend(owned([("log_startup_progress_interval", "'5s'")]));
    }
    all
}

/// A list of one directory: commas and blanks need double quotes inside the single ones.
fn directory_list(dir: &Path) -> String {
    let inner = dir
        .display()
        .to_string()
        .replace('"', "\"\"")
        .replace('\'', "''");
    format!("'\"{inner}\"'")
}

/// Who may be `culprit`: whoever runs us, whoever runs Postgres, and root.
fn ident(account: &Account) -> String {
    let mut names = vec![account.our_name.as_str(), account.name.as_str(), "root"];
    names.sort_unstable();
    names.dedup();
    let line = |name: &str| format!("culprit \"{name}\" {ROLE}\n");
    let lines: String = names.into_iter().map(line).collect();
    format!("# Written by culprit at every start.\n{lines}")
}

fn include_ours(path: &Path, account: &Account) -> Result<(), StartError> {
    let text = fs::read_to_string(path).map_err(StartError::io("read", path))?;
    if text.lines().any(|line| line.trim() == INCLUDE) {
        return Ok(());
    }
    write_if_changed(path, &format!("{text}\n{INCLUDE}\n"), account)
}

fn write_if_changed(path: &Path, text: &str, account: &Account) -> Result<(), StartError> {
    match fs::read_to_string(path) {
        Ok(old) if old == text => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(StartError::io("read", path)(error)),
    }
    // Beside it, then over it: a crash leaves the old file or the new one. Ours are written again at every start,
    // so only `postgresql.conf` could be lost, and initdb's copy of it is what the rename replaces.
    let beside = path.with_extension("conf.new");
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        let mut file = fs::File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.sync_all()
    };
    write().map_err(StartError::io("write", &beside))?;
    give_to(&beside, account)?;
    fs::rename(&beside, path).map_err(StartError::io("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn settings() -> Settings {
        Settings {
            major: 15,
            shared_buffers_mb: 256,
            lz4: true,
            cores: 2,
            ephemeral: false,
        }
    }

    fn value(settings: &Settings, name: &str) -> Option<String> {
        let all = values(settings, Path::new("/run"));
        assert!(
            all.iter().filter(|(it, _)| *it == name).count() <= 1,
            "{name} is set twice"
        );
        all.into_iter()
            .find(|(it, _)| *it == name)
            .map(|(_, value)| value)
    }

    #[test]
    fn a_commit_is_durable() {
        for name in ["fsync", "full_page_writes", "synchronous_commit"] {
            assert_eq!(value(&settings(), name).as_deref(), Some("on"), "{name}");
        }
    }

    #[test]
    fn a_version_gets_no_setting_or_value_it_does_not_know() {
        let old = Settings {
            major: 14,
            ..settings()
        };
        assert_eq!(value(&old, "wal_compression"), None);
        assert_eq!(value(&old, "log_startup_progress_interval"), None);
        assert_eq!(
            value(&old, "default_toast_compression").as_deref(),
            Some("lz4")
        );
        let bare = Settings {
            lz4: false,
            ..settings()
        };
        assert_eq!(value(&bare, "wal_compression"), None);
        assert_eq!(value(&bare, "default_toast_compression"), None);
    }

    #[test]
    fn odd_paths_are_quoted_twice() {
        expect![[r#"'"/it''s, mine/""x"""'"#]]
            .assert_eq(&directory_list(Path::new("/it's, mine/\"x\"")));
    }
}
