//! What is read from files that may be replaced while we run: certificates, tokens.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at; a replaced certificate is served at most this much later.
const LOOK_EVERY: Duration = Duration::from_secs(10);

type Load<T> = Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>;

/// A value made of files. It is made again when one of them changes; what cannot be read then is
/// logged, and the value stays what it was.
pub struct Watched<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    look_every: Duration,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    versions: Vec<Option<Version>>,
    looked: Instant,
}

/// Enough to see that a file was written again or that a link points elsewhere.
type Version = (SystemTime, u64);

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({:?})", self.files)
    }
}

impl<T> Watched<T> {
    /// Reads the value for the first time.
    ///
    /// # Errors
    /// What `load` says.
    pub fn new(
        files: Vec<PathBuf>,
        load: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let state = State {
            versions: versions(&files),
            current: Arc::new(load()?),
            looked: Instant::now(),
        };
        Ok(Self {
            files,
            load: Box::new(load),
            look_every: LOOK_EVERY,
            state: Mutex::new(state),
        })
    }

    /// The value now.
    pub(super) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= self.look_every {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        state.current.clone()
    }

    fn look(&self, state: &mut State<T>) {
        let versions = versions(&self.files);
        if versions == state.versions {
            return;
        }
        match (self.load)() {
            Ok(value) => {
                tracing::info!(files = ?self.files, "read again");
                state.current = Arc::new(value);
                state.versions = versions;
            }
            // Not remembered as seen: half a file is whole at the next look.
            Err(cause) => {
                let cause = format!("{cause:#}");
                tracing::error!(cause, "what was read before stays in use");
            }
        }
    }

    #[cfg(test)]
    pub(super) fn looking_always(mut self) -> Self {
        self.look_every = Duration::ZERO;
        self
    }
}

fn versions(files: &[PathBuf]) -> Vec<Option<Version>> {
    let version = |file: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(file).ok()?;
        Some((found.modified().ok()?, found.ino() ^ found.len() << 32))
    };
    files.iter().map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let read = path.clone();
        let watched = Watched::new(vec![path.clone()], move || {
            Ok(std::fs::read_to_string(&read)?.parse::<u32>()?)
        });
        let watched = watched.unwrap().looking_always();
        assert_eq!(*watched.get(), 1);
        for (text, expected) in [("22", 22), ("333x", 22), ("4444", 4444)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(*watched.get(), expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get(), 4444);
    }
}
