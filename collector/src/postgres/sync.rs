//! Everything below a directory onto the disk.
//!
//! `initdb` would do it file by file: a thousand waits for the file system's journal, one after the
//! other, which is most of what a first start takes. Several threads that wait together share the
//! journal's commits.

use super::error::StartError;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that wait together; more made no difference on an SSD.
const THREADS: usize = 8;

/// Syncs every file and directory below `root`, and `root`; returns when all are on the disk.
///
/// # Errors
/// The first file that could not be synced.
pub(super) fn sync_tree(root: &Path) -> Result<(), StartError> {
    let paths = tree(root)?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                sync(path)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|it| it.join().expect("syncing does not panic"))
    })
}

/// Syncs one file, or the names in one directory.
pub(super) fn sync(path: &Path) -> Result<(), StartError> {
    File::open(path)
        .and_then(|it| it.sync_all())
        .map_err(StartError::io("sync", path))
}

/// All files and directories below `root`, and `root`. Links are left alone.
fn tree(root: &Path) -> Result<Vec<PathBuf>, StartError> {
    let mut all = vec![root.to_owned()];
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(StartError::io("list", &dir))? {
            let entry = entry.map_err(StartError::io("list", &dir))?;
            let kind = entry
                .file_type()
                .map_err(StartError::io("look at", entry.path()))?;
            if kind.is_dir() {
                open.push(entry.path());
            }
            if kind.is_dir() || kind.is_file() {
                all.push(entry.path());
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_and_an_error_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("a/link")).unwrap();
        let names: std::collections::BTreeSet<_> = tree(dir.path())
            .unwrap()
            .iter()
            .map(|it| it.strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(Vec::from_iter(names), ["", "a", "a/b", "a/b/file"]);
        sync_tree(dir.path()).unwrap();
        assert!(sync_tree(&dir.path().join("missing")).is_err());
    }
}
