//! The data directory: which one there is, and how a new one comes into place whole or not at all.

use super::account::Account;
use super::binaries::Binaries;
use super::error::StartError;
use super::place::{Place, private_dir};
use super::spawn;
use super::sync::{sync, sync_tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The role that owns everything, and the name peer authentication maps us to.
pub(super) const ROLE: &str = "culprit";

/// First version with a locale provider of its own, which sorts the same on every system.
const BUILTIN_LOCALE_SINCE: u32 = 17;

/// Bytes of `initdb`'s output quoted in an error: its last screenful.
const OUTPUT_BYTES_MAX: usize = 4096;

/// The cluster that is there already: its major version and directory; the newest if there are several.
pub(super) fn existing(place: &Place) -> Result<Option<(u32, PathBuf)>, StartError> {
    let entries =
        fs::read_dir(&place.state_dir).map_err(StartError::io("list", &place.state_dir))?;
    let versioned = |dir: PathBuf| {
        let major: u32 = dir
            .file_name()?
            .to_str()?
            .strip_prefix("pg-")?
            .parse()
            .ok()?;
        dir.join("PG_VERSION").is_file().then_some((major, dir))
    };
    Ok(entries
        .flatten()
        .filter_map(|it| versioned(it.path()))
        .max())
}

/// A new cluster: made beside its place, synced, then renamed into it, so that a crash on the way leaves
/// a leftover (removed here next time) and never half a cluster.
pub(super) fn create(
    place: &Place,
    binaries: &Binaries,
    account: &Account,
    ephemeral: bool,
) -> Result<PathBuf, StartError> {
    remove_leftovers(place)?;
    let data_dir = place.state_dir.join(format!("pg-{}", binaries.major));
    let building =
        place
            .state_dir
            .join(format!("pg-{}.init-{}", binaries.major, std::process::id()));
    private_dir(&building, account)?;
    initdb(&building, binaries, account)?;
    if !ephemeral {
        sync_tree(&building)?;
    }
    fs::rename(&building, &data_dir)
        .map_err(StartError::io("move the new cluster to", &data_dir))?;
    sync(&place.state_dir)?;
    Ok(data_dir)
}

/// Existing data have to belong to the user Postgres will run as.
pub(super) fn check_owner(data_dir: &Path, account: &Account) -> Result<(), StartError> {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(data_dir)
        .map_err(StartError::io("look at", data_dir))?
        .uid();
    if owner == account.uid.as_raw() {
        return Ok(());
    }
    Err(StartError::OtherOwner {
        data_dir: data_dir.to_owned(),
        owner,
        user: account.name.clone(),
        uid: account.uid.as_raw(),
    })
}

/// What an interrupted creation left. We hold the lock: nobody else can be at work on it.
fn remove_leftovers(place: &Place) -> Result<(), StartError> {
    let entries =
        fs::read_dir(&place.state_dir).map_err(StartError::io("list", &place.state_dir))?;
    for path in entries.flatten().map(|it| it.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("pg-") && name.contains(".init-") {
            tracing::info!("removing {}, left by an interrupted start", path.display());
            fs::remove_dir_all(&path).map_err(StartError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn initdb(dir: &Path, binaries: &Binaries, account: &Account) -> Result<(), StartError> {
    let mut command = spawn::command(binaries.initdb(), account);
    command
        .arg("-D")
        .arg(dir)
        .args(["-U", ROLE, "--encoding=UTF8"])
        .args(locale(binaries.major));
    command.args([
        "--data-checksums",
        "--auth-local=peer",
        "--auth-host=reject",
        // We do that ourselves, in a tenth of the time.
        "--no-sync",
    ]);
    let output = command
        .stdout(Stdio::piped())
        .output()
        .map_err(StartError::io("run", binaries.initdb()))?;
    if output.status.success() {
        return Ok(());
    }
    // initdb has emptied the directory itself; whatever is left goes at the next start.
    Err(StartError::Init {
        data_dir: dir.to_owned(),
        status: output.status,
        output: last_bytes(&[output.stdout, output.stderr].concat()),
    })
}

/// Sorting by code point, so that an index means the same after an upgrade of the C library.
fn locale(major: u32) -> &'static [&'static str] {
    if major >= BUILTIN_LOCALE_SINCE {
        &[
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        ]
    } else if cfg!(target_os = "linux") {
        &["--locale=C.UTF-8"]
    } else {
        &["--locale=C"]
    }
}

fn last_bytes(output: &[u8]) -> String {
    let start = output.len().saturating_sub(OUTPUT_BYTES_MAX);
    String::from_utf8_lossy(&output[start..]).trim().to_owned()
}
