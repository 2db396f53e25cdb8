//! A Postgres for one test, gone with it. Nothing in it is meant to survive, so it never syncs.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

/// How long the server may take to answer; it takes a fifth of a second.
const START_MAX: Duration = Duration::from_secs(30);

/// A running server.
pub struct ScratchPostgres {
    server: Child,
    directory: TempDir,
}

impl ScratchPostgres {
    /// Makes a cluster and starts it, listening on a socket in its own directory only.
    pub async fn start() -> Self {
        let directory = TempDir::with_prefix("culprit-demo-").unwrap();
        if let Some(user) = unprivileged() {
            chown(directory.path(), Some(user.uid.into()), None).unwrap();
        }
        let data = directory.path().join("data");
        let made = as_postgres("initdb")
            .args(["-U", "culprit", "-A", "trust", "-E", "UTF8", "--locale=C"])
            .args(["--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let server = as_postgres("postgres")
            .args(["-F", "-c", "listen_addresses=", "-k"])
            .arg(directory.path())
            .arg("-D")
            .arg(&data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = ScratchPostgres { server, directory };
        postgres.wait().await;
        postgres
    }

    /// How to connect to one of its databases, which need not exist.
    pub fn database(&self, name: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.directory.path())
            .username("culprit")
            .database(name)
    }

    async fn wait(&self) {
        let deadline = Instant::now() + START_MAX;
        loop {
            match PgConnection::connect_with(&self.database("postgres")).await {
                Ok(db) => return db.close().await.unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ScratchPostgres {
    fn drop(&mut self) {
        // Postgres' immediate shutdown: kills its children and frees its shared memory.
        let _ = kill(Pid::from_raw(self.server.id() as i32), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// A program of Postgres, run by an account it accepts.
fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(find(program));
    // Postgres insists on a working directory that its account may enter.
    command.current_dir("/").stdout(Stdio::null());
    if let Some(user) = unprivileged() {
        command.uid(user.uid.into()).gid(user.gid.into());
    }
    command
}

/// Postgres refuses to run as root; its packages bring an account for it.
fn unprivileged() -> Option<User> {
    let user = || User::from_name("postgres").unwrap();
    Uid::effective()
        .is_root()
        .then(|| user().expect("the account postgres"))
}

/// On the path, or where Debian keeps server programs: the newest version.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|it| it.join(program));
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut packaged = Vec::from_iter(versions.flatten().map(|it| it.path()));
    packaged.sort();
    let packaged = packaged.into_iter().rev();
    on_path
        .chain(packaged.map(|it| it.join("bin").join(program)))
        .find(|it| Path::is_file(it))
        .unwrap_or_else(|| panic!("cannot find {program} (is Postgres' server installed?)"))
}
