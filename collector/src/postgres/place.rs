//! Where everything lives: the state directory, who may reach it, and the lock that makes us its only owner.
//!
//! ```text
//! <state>/lock        held (flock) as long as we or our Postgres live; holds our pid
//! <state>/run/        the socket; 0700, so only Postgres' user and root come near it
//! <state>/pg-15/      the cluster, by major version
//! ```

use super::account::Account;
use super::error::StartError;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The socket's name says a port although there is none; every state directory has its own socket.
pub(super) const PORT: u16 = 5432;

/// Longest path of a Unix socket, in bytes, that every supported system takes (`sun_path`, less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The state directory, ours alone.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute, without symbolic links.
    pub state_dir: PathBuf,
    /// Where the socket is.
    pub socket_dir: PathBuf,
    /// Held until this is dropped.
    _lock: File,
}

/// Where culprit keeps its state unless told otherwise: `/var/lib/culprit` for root, else below
/// `$XDG_DATA_HOME` or `~/.local/share`.
pub fn default_state_dir() -> PathBuf {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|it| it.is_absolute())
    };
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/culprit");
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("culprit")
}

/// Creates the directories, checks that Postgres' user gets there, and takes the lock.
pub(super) fn open(state_dir: &Path, account: &Account) -> Result<Place, StartError> {
    // Another user has to pass through; what is private is closed one level below.
    let mode = if account.switch { 0o755 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(state_dir)
        .map_err(StartError::io("create the state directory", state_dir))?;
    let state_dir = state_dir
        .canonicalize()
        .map_err(StartError::io("resolve the path", state_dir))?;
    check_reachable(&state_dir, account, "Choose another state directory")?;
    let lock = take_lock(&state_dir)?;
    warn_about_the_medium(&state_dir);
    let socket_dir = socket_dir(&state_dir, account);
    private_dir(&socket_dir, account)?;
    Ok(Place {
        state_dir,
        socket_dir,
        _lock: lock,
    })
}

/// Whether `account` may search `path` and every directory above it.
pub(super) fn check_reachable(
    path: &Path,
    account: &Account,
    remedy: &'static str,
) -> Result<(), StartError> {
    for dir in path.ancestors() {
        let meta = dir.metadata().map_err(StartError::io("look at", dir))?;
        if !may_search(&meta, account) {
            return Err(StartError::Unreachable {
                path: path.to_owned(),
                barrier: dir.to_owned(),
                user: account.name.clone(),
                remedy,
            });
        }
    }
    Ok(())
}

fn may_search(meta: &Metadata, account: &Account) -> bool {
    let bit = if meta.uid() == account.uid.as_raw() {
        0o100
    } else if meta.gid() == account.gid.as_raw() {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}

fn take_lock(state_dir: &Path) -> Result<File, StartError> {
    let path = state_dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StartError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StartError::AlreadyRunning {
                state_dir: state_dir.to_owned(),
                pid: read_pid(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(StartError::io("lock", &path)(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(StartError::io("write our pid into", &path))?;
    Ok(file)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The socket's directory of a state directory that is there.
pub(super) fn socket_dir_of(state_dir: &Path, account: &Account) -> Result<PathBuf, StartError> {
    let state_dir = state_dir
        .canonicalize()
        .map_err(StartError::io("resolve the path", state_dir))?;
    Ok(socket_dir(&state_dir, account))
}

/// `<state>/run`, or a short path in `/tmp` when a socket there would have a name too long for the system.
fn socket_dir(state_dir: &Path, account: &Account) -> PathBuf {
    let usual = state_dir.join("run");
    if usual.as_os_str().len() + format!("/.s.PGSQL.{PORT}").len() <= SOCKET_PATH_BYTES_MAX {
        return usual;
    }
    let mut hasher = DefaultHasher::new();
    state_dir.hash(&mut hasher);
    PathBuf::from(format!(
        "/tmp/culprit-{}-{:016x}",
        account.uid,
        hasher.finish()
    ))
}

/// A directory that is Postgres' alone. One that exists and is not (somebody was faster in `/tmp`) is refused.
pub(super) fn private_dir(path: &Path, account: &Account) -> Result<(), StartError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => give_to(path, account)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StartError::io("create", path)(error)),
    }
    let meta = fs::symlink_metadata(path).map_err(StartError::io("look at", path))?;
    let ours = [account.uid, nix::unistd::Uid::effective()]
        .iter()
        .any(|it| it.as_raw() == meta.uid());
    if !meta.is_dir() || !ours {
        let source = std::io::Error::other("it exists and belongs to somebody else");
        return Err(StartError::io("use", path)(source));
    }
    give_to(path, account)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(StartError::io("close to others", path))
}

/// Makes Postgres' user the owner of `path`.
pub(super) fn give_to(path: &Path, account: &Account) -> Result<(), StartError> {
    if !account.switch {
        return Ok(());
    }
    chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
        .map_err(StartError::io("change the owner of", path))
}

/// A person may well choose such a place, so it is said and not refused.
#[cfg(target_os = "linux")]
fn warn_about_the_medium(state_dir: &Path) {
    use nix::sys::statfs::{NFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
    let Ok(medium) = statfs(state_dir) else {
        return;
    };
    let dir = state_dir.display();
    if medium.filesystem_type() == TMPFS_MAGIC {
        tracing::warn!("{dir} is in memory (tmpfs): what is stored there is gone after a reboot");
    }
    if medium.filesystem_type() == NFS_SUPER_MAGIC {
        tracing::warn!("{dir} is on NFS: locks and fsync may not hold what PostgreSQL expects");
    }
}

#[cfg(not(target_os = "linux"))]
fn warn_about_the_medium(_state_dir: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, Uid};

    fn stranger() -> Account {
        Account {
            name: "stranger".into(),
            uid: Uid::from_raw(61_234),
            gid: Gid::from_raw(61_234),
            switch: false,
            our_name: "us".into(),
        }
    }

    fn us() -> Account {
        super::super::account::choose(None)
            .map(|it| Account {
                switch: false,
                ..it
            })
            .unwrap()
    }

    #[test]
    fn a_closed_directory_above_is_found_and_named() {
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let inner = outer.path().join("state");
        fs::create_dir(&inner).unwrap();
        let error = check_reachable(&inner, &stranger(), "Choose another").unwrap_err();
        let StartError::Unreachable { barrier, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(barrier, outer.path());

        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o711)).unwrap();
        check_reachable(&inner, &stranger(), "Choose another").unwrap();
    }

    #[test]
    fn the_second_owner_learns_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let lock = take_lock(dir.path()).unwrap();
        let error = take_lock(dir.path()).unwrap_err();
        let StartError::AlreadyRunning { pid, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        take_lock(dir.path()).unwrap();
    }

    #[test]
    fn a_socket_path_too_long_for_the_system_moves_to_tmp() {
        assert_eq!(
            socket_dir(Path::new("/srv/c"), &us()),
            Path::new("/srv/c/run")
        );
        let long = PathBuf::from(format!("/srv/{}", "x".repeat(100)));
        let moved = socket_dir(&long, &us());
        assert!(moved.starts_with("/tmp"), "{moved:?}");
        assert_eq!(moved, socket_dir(&long, &us()), "the same at every start");
    }

    #[test]
    fn a_symbolic_link_is_not_a_private_directory() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("run");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(private_dir(&link, &us()).is_err());
    }
}
