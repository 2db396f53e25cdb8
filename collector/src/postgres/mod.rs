//! (being written)
#![allow(missing_docs)]
use std::path::{Path, PathBuf};
pub struct Options { pub state_dir: PathBuf }
impl Options { pub fn from_environment() -> Self { todo!() } }
pub struct ManagedPostgres;
impl ManagedPostgres {
    pub async fn start(_: Options) -> anyhow::Result<Self> { todo!() }
    pub fn connect_options(&self, _: &str) -> sqlx::postgres::PgConnectOptions { todo!() }
    pub async fn stop(self) {}
}
pub fn connect_options_in(_: &Path, _: &str) -> anyhow::Result<sqlx::postgres::PgConnectOptions> { todo!() }
