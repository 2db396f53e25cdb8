//! Finds the server's programs. Distributions keep them off `PATH`, each in its own place.

use super::error::StartError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Major versions this program is written for. An older one is refused; a newer one is used when there is no other.
const OLDEST: u32 = 14;
const NEWEST: u32 = 18;

/// Where packages put the programs: everything in front of `*` and behind it.
const INSTALLED: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"), // Debian, Ubuntu: /usr/lib/postgresql/15/bin
    ("/usr/libexec", "postgresql", ""), // Alpine: /usr/libexec/postgresql15
    ("/usr", "pgsql-", "bin"),          // Red Hat, from postgresql.org: /usr/pgsql-15/bin
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Where an installation by hand puts them.
const BY_HAND: &str = "/usr/local/pgsql/bin";

/// A directory that holds `initdb` and `postgres`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }
}

/// Where to look, in order: tests look elsewhere.
pub(super) struct Search {
    /// Directories on their own; the first that serves is taken.
    single: Vec<(String, PathBuf)>,
    /// Directories by version; the newest tested one is taken.
    versioned: Vec<(String, Vec<PathBuf>)>,
    version_of: VersionOf,
}

/// What `postgres --version` prints, given the program's path.
type VersionOf = fn(&Path) -> Option<String>;

impl Search {
    /// `pg_config`, `PATH`, then the places packages use.
    pub fn of_this_system() -> Self {
        let mut single = Vec::new();
        if let Some(dir) = ask_pg_config() {
            single.push((format!("pg_config --bindir ({})", dir.display()), dir));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        single.extend(
            std::env::split_paths(&path).map(|dir| (format!("PATH ({})", dir.display()), dir)),
        );
        single.push((BY_HAND.to_owned(), BY_HAND.into()));
        let versioned = INSTALLED
            .iter()
            .map(|&(parent, prefix, inner)| {
                let name = PathBuf::from(parent).join(format!("{prefix}*")).join(inner);
                (
                    name.display().to_string(),
                    with_prefix(parent, prefix, inner),
                )
            })
            .collect();
        Self {
            single,
            versioned,
            version_of: ask_version,
        }
    }

    /// The programs to use: of exactly `wanted` if the data are there already, else the first usable.
    ///
    /// `data_dir` is for the message.
    pub fn find(&self, wanted: Option<(u32, &Path)>) -> Result<Binaries, StartError> {
        let mut looked = Vec::new();
        let mut found = Vec::new();
        for (place, dirs) in self.places() {
            let here: Vec<Binaries> = dirs
                .iter()
                .filter_map(|dir| inspect(dir, self.version_of).ok())
                .collect();
            // PATH is long; only what was there is worth a line.
            if !here.is_empty() || !place.starts_with("PATH (") {
                looked.push(format!("{place}: {}", describe(&here)));
            }
            if let Some(best) = here
                .iter()
                .filter(|it| tested(it, wanted))
                .max_by_key(|it| it.major)
            {
                return Ok(best.clone());
            }
            found.extend(here);
        }
        self.second_choice(found, looked, wanted)
    }

    fn second_choice(
        &self,
        found: Vec<Binaries>,
        mut looked: Vec<String>,
        wanted: Option<(u32, &Path)>,
    ) -> Result<Binaries, StartError> {
        if let Some((data_major, data_dir)) = wanted {
            let mut found: Vec<u32> = found.iter().map(|it| it.major).collect();
            found.sort_unstable();
            found.dedup();
            return Err(StartError::OtherMajor {
                data_dir: data_dir.to_owned(),
                data_major,
                found,
            });
        }
        if let Some(newer) = found
            .into_iter()
            .filter(|it| it.major > NEWEST)
            .min_by_key(|it| it.major)
        {
            tracing::warn!(
                "PostgreSQL {} is newer than what culprit was tested with ({NEWEST})",
                newer.major
            );
            return Ok(newer);
        }
        looked.push("PATH: nothing else".to_owned());
        Err(StartError::NoBinaries {
            oldest: OLDEST,
            looked,
            install: install_command(),
        })
    }

    fn places(&self) -> impl Iterator<Item = (&str, &[PathBuf])> {
        let single = self
            .single
            .iter()
            .map(|(name, dir)| (name.as_str(), std::slice::from_ref(dir)));
        let versioned = self
            .versioned
            .iter()
            .map(|(name, dirs)| (name.as_str(), dirs.as_slice()));
        single.chain(versioned)
    }
}

/// The programs in a directory given by name: this one or an error.
pub(super) fn in_dir(dir: &Path, wanted: Option<(u32, &Path)>) -> Result<Binaries, StartError> {
    named(dir, wanted, ask_version)
}

fn named(
    dir: &Path,
    wanted: Option<(u32, &Path)>,
    version_of: VersionOf,
) -> Result<Binaries, StartError> {
    let bad = |found: String| StartError::BinDir {
        dir: dir.to_owned(),
        found,
    };
    let found = inspect(dir, version_of).map_err(bad)?;
    match wanted {
        Some((data_major, data_dir)) if data_major != found.major => Err(StartError::OtherMajor {
            data_dir: data_dir.to_owned(),
            data_major,
            found: vec![found.major],
        }),
        _ if found.major < OLDEST => Err(bad(format!(
            "version {} is too old (needed: {OLDEST} or newer)",
            found.major
        ))),
        _ => Ok(found),
    }
}

fn tested(it: &Binaries, wanted: Option<(u32, &Path)>) -> bool {
    match wanted {
        Some((major, _)) => it.major == major,
        None => (OLDEST..=NEWEST).contains(&it.major),
    }
}

fn describe(here: &[Binaries]) -> String {
    if here.is_empty() {
        return "none".to_owned();
    }
    let name = |it: &Binaries| {
        let note = if it.major < OLDEST { " (too old)" } else { "" };
        format!("version {}{note}", it.major)
    };
    here.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The programs in `dir`, or what is wrong with it.
fn inspect(dir: &Path, version_of: VersionOf) -> Result<Binaries, String> {
    let dir = dir.canonicalize().map_err(|error| error.to_string())?;
    for program in ["initdb", "postgres"] {
        if !dir.join(program).is_file() {
            return Err(format!("{program} is missing"));
        }
    }
    let text = version_of(&dir.join("postgres")).ok_or("postgres --version does not run")?;
    let major = parse_major(&text).ok_or_else(|| format!("postgres --version says {text:?}"))?;
    Ok(Binaries { dir, major })
}

fn ask_version(postgres: &Path) -> Option<String> {
    output_of(Command::new(postgres).arg("--version"))
}

fn ask_pg_config() -> Option<PathBuf> {
    output_of(Command::new("pg_config").arg("--bindir")).map(|text| PathBuf::from(text.trim()))
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15; also `18beta1`, `19devel`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let end = number
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(number.len());
    number[..end].parse().ok()
}

fn with_prefix(parent: &str, prefix: &str, inner: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(inner))
        .collect()
}

fn install_command() -> &'static str {
    const BY_MANAGER: [(&str, &str); 5] = [
        ("/usr/bin/apt-get", "apt-get install postgresql"),
        ("/usr/bin/dnf", "dnf install postgresql-server"),
        ("/sbin/apk", "apk add postgresql"),
        ("/usr/bin/pacman", "pacman -S postgresql"),
        ("/usr/bin/zypper", "zypper install postgresql-server"),
    ];
    let here = BY_MANAGER
        .iter()
        .find(|(manager, _)| Path::new(manager).exists());
    here.map_or(
        "brew install postgresql@17 (or your system's package)",
        |(_, command)| command,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files that say which version they would be. They are read, not run: a program that
    /// one thread has just written cannot be run while another thread forks.
    fn fake(root: &Path, version: &str) -> PathBuf {
        let dir = root.join(version).join("bin");
        std::fs::create_dir_all(&dir).unwrap();
        for program in ["initdb", "postgres"] {
            let text = format!("{program} (PostgreSQL) {version} (Some Linux)\n");
            std::fs::write(dir.join(program), text).unwrap();
        }
        dir
    }

    fn read(file: &Path) -> Option<String> {
        std::fs::read_to_string(file).ok()
    }

    fn search(root: &Path, versions: &[&str]) -> Search {
        let dirs = versions.iter().map(|version| fake(root, version)).collect();
        Search {
            single: Vec::new(),
            versioned: vec![("packages/*/bin".into(), dirs)],
            version_of: read,
        }
    }

    fn found(versions: &[&str], wanted: Option<u32>) -> Result<u32, StartError> {
        let root = tempfile::tempdir().unwrap();
        let data_dir = Path::new("/state/pg-15");
        search(root.path(), versions)
            .find(wanted.map(|it| (it, data_dir)))
            .map(|it| it.major)
    }

    #[test]
    fn the_newest_tested_version_is_taken() {
        assert_eq!(
            found(&["13.2", "15.18", "17.4", "19beta1"], None).unwrap(),
            17
        );
    }

    #[test]
    fn a_newer_one_only_when_there_is_no_other() {
        assert_eq!(found(&["13.2", "20.1", "19devel"], None).unwrap(), 19);
    }

    #[test]
    fn existing_data_want_their_own_major() {
        assert_eq!(found(&["15.1", "17.4"], Some(15)).unwrap(), 15);
        let error = found(&["16.0", "17.4"], Some(15)).unwrap_err().to_string();
        assert!(error.contains("written by PostgreSQL 15"), "{error}");
        assert!(error.contains("versions 16, 17 were found"), "{error}");
    }

    #[test]
    fn what_was_found_but_not_taken_is_told() {
        let error = found(&["13.2"], None).unwrap_err().to_string();
        assert!(
            error.contains("packages/*/bin: version 13 (too old)"),
            "{error}"
        );
        assert!(error.contains("--database-url"), "{error}");
    }

    #[test]
    fn a_directory_given_by_name_is_not_replaced_by_another() {
        let root = tempfile::tempdir().unwrap();
        let dir = fake(root.path(), "16.3");
        assert_eq!(named(&dir, None, read).unwrap().major, 16);
        std::fs::remove_file(dir.join("initdb")).unwrap();
        let error = named(&dir, None, read).unwrap_err().to_string();
        assert!(
            error.contains("initdb is missing") && error.contains("CULPRIT_PG_BIN"),
            "{error}"
        );
        let old = named(&fake(root.path(), "12.1"), None, read)
            .unwrap_err()
            .to_string();
        assert!(old.contains("too old"), "{old}");
    }

    #[test]
    fn major_of_odd_versions() {
        let major = |text: &str| parse_major(&format!("postgres (PostgreSQL) {text}\n"));
        assert_eq!(major("15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("18beta1"), Some(18));
        assert_eq!(parse_major("something else"), None);
    }
}
