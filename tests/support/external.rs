//! A Postgres as users have one already: TCP, its own user, nothing set for culprit. And what stands before
//! or behind it: a pooler, a replica.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The superuser of these clusters.
const USER: &str = "culprit";

/// A server process below a temporary directory; stopped when dropped, or when the tests end however.
pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// Runs a server until its standard input is closed, also if the tests are killed; then the signal that is
/// the shell's name ends it at once.
const UNTIL_STDIN_CLOSES: &str =
    r#""$@" & server=$!; cat >/dev/null; kill -$0 $server; wait $server"#;

impl Server {
    /// A new Postgres, with a database `culprit`.
    pub async fn postgres() -> Server {
        let directory = directory();
        let data = directory.path().join("data");
        let initdb = as_server(binary("initdb"))
            .args(["--username", USER, "--auth=trust", "--encoding=UTF8"])
            .args(["--no-sync", "--no-instructions", "-D"])
            .arg(&data)
            .output()
            .expect("initdb starts");
        assert!(initdb.status.success(), "{initdb:?}");
        let server = Server::run_postgres(directory).await;
        let mut connection = server.connect("postgres").await;
        connection.execute("create database culprit").await.unwrap();
        server
    }

    /// A replica of this Postgres that follows it.
    pub async fn replica(&self) -> Server {
        let directory = directory();
        let backup = as_server(binary("pg_basebackup"))
            .args(["--host=127.0.0.1", "--username", USER, "--port"])
            .arg(self.port.to_string())
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "-D",
            ])
            .arg(directory.path().join("data"))
            .output()
            .expect("pg_basebackup starts");
        assert!(backup.status.success(), "{backup:?}");
        Server::run_postgres(directory).await
    }

    async fn run_postgres(directory: tempfile::TempDir) -> Server {
        let port = free_port();
        let mut command = as_server("/bin/sh".into());
        command
            .args(["-c", UNTIL_STDIN_CLOSES, "QUIT"])
            .arg(binary("postgres"))
            .arg("-D")
            .arg(directory.path().join("data"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("port={port}"))
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "shared_buffers=32MB",
            ]);
        let server = Server::spawn(command, directory, port);
        server.answers("postgres").await;
        server
    }

    /// PgBouncer in transaction mode before this Postgres, with `server_connections` to it.
    pub async fn pooler(&self, server_connections: u32) -> Server {
        let (directory, port) = (directory(), free_port());
        let config = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\nculprit = host=127.0.0.1 port={} dbname=culprit user={USER}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {server_connections}\n",
            self.port
        );
        std::fs::write(&config, text).unwrap();
        let mut command = as_server("/bin/sh".into());
        command
            .args(["-c", UNTIL_STDIN_CLOSES, "TERM"])
            .arg(binary("pgbouncer"))
            .arg("--quiet")
            .arg(&config);
        let pooler = Server::spawn(command, directory, port);
        super::eventually("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()
        })
        .await;
        pooler
    }

    fn spawn(mut command: Command, directory: tempfile::TempDir, port: u16) -> Server {
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("a shell");
        Server {
            child,
            directory,
            port,
        }
    }

    async fn answers(&self, database: &str) {
        let options = self.options(database);
        super::eventually("a server answers", async || {
            PgConnection::connect_with(&options).await.ok()
        })
        .await;
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        self.url(database).parse().expect("a URL")
    }

    /// As users write it.
    pub fn url(&self, database: &str) -> String {
        self.url_of(USER, database)
    }

    /// The same for another user.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection to ask questions over.
    pub async fn connect(&self, database: &str) -> PgConnection {
        let connected = PgConnection::connect_with(&self.options(database)).await;
        connected.unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    /// Statements that need no answer.
    pub async fn execute(&self, statements: &str) {
        let mut connection = self.connect("culprit").await;
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{error}: {statements}"));
        connection.close().await.unwrap();
    }

    /// One number.
    pub async fn number(&self, query: &'static str) -> i64 {
        let mut connection = self.connect("culprit").await;
        sqlx::query_scalar(query)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A directory of the user that servers run as.
fn directory() -> tempfile::TempDir {
    let directory = super::culprit::data_directory();
    if let Some(user) = server_user() {
        let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        chown(directory.path(), uid, gid).expect("root may");
    }
    directory
}

/// Postgres and PgBouncer refuse root.
fn server_user() -> Option<nix::unistd::User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("postgres").expect("/etc/passwd");
    Some(user.expect("a user named postgres"))
}

fn as_server(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Where a server's program is: named by the environment, on PATH, or where packages put it.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("CULPRIT_PG_BIN").map(PathBuf::from);
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let packaged = versions.flatten().map(|it| it.path().join("bin"));
    let mut folders = named
        .into_iter()
        .chain(packaged)
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/usr/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    folders
        .find(|it| Path::exists(&it.join(name)))
        .unwrap_or_else(|| panic!("{name} is not installed; `make test` installs it"))
        .join(name)
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
