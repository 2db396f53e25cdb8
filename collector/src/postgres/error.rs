//! Why the private Postgres did not start: what failed, why, and what to do about it.

use std::path::PathBuf;
use std::process::ExitStatus;

/// What stopped [`super::ManagedPostgres::start`]. Each text is meant for the person who typed the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No directory with `initdb` and `postgres` of a usable version was found.
    #[error(
        "no PostgreSQL server was found (initdb and postgres, version {oldest} or newer).\n\
         Looked in:\n{}\n\
         Three ways on:\n  \
         - install the server: {install}\n  \
         - run everything in containers: docker compose up\n  \
         - use a database you already have: --database-url postgres://USER@HOST/DATABASE",
        list(looked)
    )]
    NoBinaries {
        /// Oldest major version that is accepted.
        oldest: u32,
        /// Every place that was looked at, with what was there.
        looked: Vec<String>,
        /// The command that installs the server on this system.
        install: &'static str,
    },

    /// The directory given by name lacks the server's programs.
    #[error(
        "{dir} does not hold a usable PostgreSQL server: {found}.\n\
         CULPRIT_PG_BIN must name the directory that holds initdb and postgres (pg_config --bindir prints it)",
        dir = dir.display()
    )]
    BinDir {
        /// The directory that was named.
        dir: PathBuf,
        /// What is wrong with it.
        found: String,
    },

    /// The data were written by a major version whose programs are not here.
    #[error(
        "{dir} was written by PostgreSQL {data_major}, but only {} found.\n\
         Install PostgreSQL {data_major} again (or name its programs with CULPRIT_PG_BIN); \
         to move to a newer version, stop culprit and run pg_upgrade into a new pg-<version> directory beside it. \
         Nothing was changed",
        versions(found),
        dir = data_dir.display()
    )]
    OtherMajor {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version in its `PG_VERSION`.
        data_major: u32,
        /// The major versions whose programs were found.
        found: Vec<u32>,
    },

    /// Another culprit owns the state directory.
    #[error(
        "culprit is already running on {dir}{}.\n\
         Stop it first, or give this one a state directory of its own",
        pid.map(|pid| format!(", pid {pid}")).unwrap_or_default(),
        dir = state_dir.display()
    )]
    AlreadyRunning {
        /// The directory whose lock is held.
        state_dir: PathBuf,
        /// Who holds it, if it has said so yet.
        pid: Option<u32>,
    },

    /// We are root, Postgres refuses root, and there is nobody else to run it as.
    #[error(
        "PostgreSQL does not run as root, and this system has no user named postgres to run it as.\n\
         Make one and name it: useradd --system --no-create-home culprit && export CULPRIT_PG_USER=culprit"
    )]
    NoUser,

    /// `CULPRIT_PG_USER` cannot be used.
    #[error("PostgreSQL cannot run as the user {name:?} (CULPRIT_PG_USER): {why}")]
    BadUser {
        /// The name as given.
        name: String,
        /// Why not.
        why: &'static str,
    },

    /// Our own uid has no name; Postgres authenticates by name.
    #[error(
        "the user id {uid} has no entry in /etc/passwd, and PostgreSQL does not start without one.\n\
         Run culprit as a user that has an entry, or add one for {uid}"
    )]
    NamelessUser {
        /// The id in question.
        uid: u32,
    },

    /// Some directory above stops the user Postgres runs as.
    #[error(
        "PostgreSQL runs as the user {user} and cannot reach {path}: {barrier} does not let it through.\n\
         {remedy}, or allow it: chmod o+x {barrier}",
        path = path.display(),
        barrier = barrier.display()
    )]
    Unreachable {
        /// What has to be reached.
        path: PathBuf,
        /// The directory on the way that lacks the search permission.
        barrier: PathBuf,
        /// The user Postgres runs as.
        user: String,
        /// The better way out.
        remedy: &'static str,
    },

    /// The data belong to someone else.
    #[error(
        "{dir} belongs to uid {owner}, but PostgreSQL would run as {user} (uid {uid}).\n\
         Start culprit as the user who started it before, or: chown -R {user} {dir}",
        dir = data_dir.display()
    )]
    OtherOwner {
        /// The data directory.
        data_dir: PathBuf,
        /// Who owns it.
        owner: u32,
        /// The user Postgres would run as.
        user: String,
        /// That user's id.
        uid: u32,
    },

    /// A file or directory of ours could not be used.
    #[error("could not {what} {path}: {source}", path = path.display())]
    Io {
        /// A verb: "create", "lock", …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },

    /// `initdb` said no.
    #[error("initdb could not create {dir} ({status}):\n{output}", dir = data_dir.display())]
    Init {
        /// What was to be created.
        data_dir: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it printed.
        output: String,
    },

    /// The server ended before it took connections.
    #[error("PostgreSQL on {dir} ended while starting ({status}). Its last words:\n{log}", dir = data_dir.display())]
    Exited {
        /// Its data directory.
        data_dir: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },

    /// The server is alive but has been silent for too long.
    #[error(
        "PostgreSQL on {dir} (pid {pid}) has neither become ready nor said anything for {silent_s} s; it was asked to stop. \
         Its last words:\n{log}",
        dir = data_dir.display()
    )]
    Silent {
        /// Its data directory.
        data_dir: PathBuf,
        /// Its process.
        pid: u32,
        /// Seconds without a sign of life.
        silent_s: u64,
        /// The last lines of its log.
        log: String,
    },

    /// An earlier server of the same data does not go away.
    #[error(
        "an earlier PostgreSQL still works on {dir} (pid {}) and did not stop within {waited_s} s.\n\
         Look at what it does; when it has ended, start culprit again",
        pid_list(pids),
        dir = data_dir.display()
    )]
    OldServer {
        /// The data directory.
        data_dir: PathBuf,
        /// Its processes.
        pids: Vec<i32>,
        /// Seconds waited.
        waited_s: u64,
    },

    /// It runs but does not answer us.
    #[error("PostgreSQL in {dir} has started but does not answer: {source}", dir = socket_dir.display())]
    NoAnswer {
        /// Where its socket is.
        socket_dir: PathBuf,
        /// The driver's answer.
        source: sqlx::Error,
    },

    /// The start was given up by the caller.
    #[error("the start of PostgreSQL was interrupted")]
    Interrupted,
}

impl StartError {
    /// For `map_err`: what was being done to which path.
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

fn list(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  - {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn versions(majors: &[u32]) -> String {
    match majors {
        [] => "no PostgreSQL was".to_owned(),
        [one] => format!("version {one} was"),
        many => {
            let names: Vec<_> = many.iter().map(u32::to_string).collect();
            format!("versions {} were", names.join(", "))
        }
    }
}

fn pid_list(pids: &[i32]) -> String {
    pids.iter()
        .map(i32::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(error: StartError, text: Expect) {
        text.assert_eq(&error.to_string());
    }

    #[test]
    fn a_missing_server_comes_with_three_ways_on() {
        check(
            StartError::NoBinaries {
                oldest: 14,
                looked: vec![
                    "PATH: none".into(),
                    "/usr/lib/postgresql/*/bin: 13 (too old)".into(),
                ],
                install: "apt-get install postgresql",
            },
            expect![[r#"
                no PostgreSQL server was found (initdb and postgres, version 14 or newer).
                Looked in:
                  - PATH: none
                  - /usr/lib/postgresql/*/bin: 13 (too old)
                Three ways on:
                  - install the server: apt-get install postgresql
                  - run everything in containers: docker compose up
                  - use a database you already have: --database-url postgres://USER@HOST/DATABASE"#]],
        );
    }

    #[test]
    fn another_major_names_both_versions() {
        check(
            StartError::OtherMajor {
                data_dir: "/srv/culprit/pg-15".into(),
                data_major: 15,
                found: vec![16, 17],
            },
            expect![
                "/srv/culprit/pg-15 was written by PostgreSQL 15, but only versions 16, 17 were found.\nInstall PostgreSQL 15 again (or name its programs with CULPRIT_PG_BIN); to move to a newer version, stop culprit and run pg_upgrade into a new pg-<version> directory beside it. Nothing was changed"
            ],
        );
    }

    #[test]
    fn a_second_start_learns_who_was_first() {
        check(
            StartError::AlreadyRunning {
                state_dir: "/srv/culprit".into(),
                pid: Some(4711),
            },
            expect![[r#"
                culprit is already running on /srv/culprit, pid 4711.
                Stop it first, or give this one a state directory of its own"#]],
        );
    }

    #[test]
    fn a_closed_door_is_named() {
        check(
            StartError::Unreachable {
                path: "/root/state".into(),
                barrier: "/root".into(),
                user: "postgres".into(),
                remedy: "Choose another state directory",
            },
            expect![[r#"
                PostgreSQL runs as the user postgres and cannot reach /root/state: /root does not let it through.
                Choose another state directory, or allow it: chmod o+x /root"#]],
        );
    }
}
