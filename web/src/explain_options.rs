//! Which observed databases may be asked for the plans of slow statements.

use anyhow::Context;
use clap::Args;
use collector::plans::ObservedDatabase;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The databases that services use. Their plans say why a statement is slow.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[command(next_help_heading = "Plans of slow statements")]
#[serde(rename_all = "kebab-case", default)]
pub struct ExplainOptions {
    /// The Postgres that a service uses, with a role that may only read:
    /// SERVICE=postgres://user:password@host/database, or SERVICE@ENVIRONMENT=…; may be repeated. Slow
    /// statements of the service are explained there (EXPLAIN: planned, not run), in a read-only
    /// transaction and two seconds. In the configuration file a table [explain] of services does too.
    #[arg(
        long,
        env = "CULPRIT_EXPLAIN_DSN",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "SERVICE=URL"
    )]
    pub explain_dsn: Vec<Dsn>,
    /// Run slow selects that have no placeholders (EXPLAIN ANALYZE), within the same bounds.
    #[arg(long, env = "CULPRIT_EXPLAIN_ANALYZE")]
    pub explain_analyze: bool,
    /// The file's table: service → address.
    #[arg(skip)]
    explain: BTreeMap<String, Dsn>,
}

/// An address as given: it may hold a password, so that nothing shows it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Dsn(String);

impl From<String> for Dsn {
    fn from(text: String) -> Dsn {
        Dsn(text)
    }
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl ExplainOptions {
    /// What is not set here is taken from `file`.
    pub fn or(self, file: ExplainOptions) -> ExplainOptions {
        let is_set = !self.explain_dsn.is_empty() || !self.explain.is_empty();
        let databases = if is_set { &self } else { &file };
        ExplainOptions {
            explain_dsn: databases.explain_dsn.clone(),
            explain: databases.explain.clone(),
            explain_analyze: self.explain_analyze || file.explain_analyze,
        }
    }

    /// The databases that may be asked.
    ///
    /// # Errors
    /// One of them is not written as it should be; the address itself is not repeated.
    pub fn databases(&self) -> anyhow::Result<Vec<ObservedDatabase>> {
        let flags = self.explain_dsn.iter().map(|it| it.0.clone());
        let table = self
            .explain
            .iter()
            .map(|(service, it)| format!("{service}={}", it.0));
        let parsed = flags
            .chain(table)
            .map(|it| it.parse().map_err(anyhow::Error::msg));
        parsed
            .collect::<anyhow::Result<_>>()
            .context("--explain-dsn")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServeOptions;

    #[test]
    fn the_file_may_have_a_table_or_a_list_and_flags_go_over_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culprit.toml");
        let read = |text: &str, flags: ExplainOptions| {
            std::fs::write(&path, text).unwrap();
            let options = ServeOptions {
                config: Some(path.clone()),
                explain: flags,
                ..ServeOptions::default()
            };
            let databases = options.with_file().unwrap().explain.databases().unwrap();
            databases
                .into_iter()
                .map(|it| it.service)
                .collect::<Vec<_>>()
        };
        let table = "[explain]\nshop = 'postgres://a@h/d'\n'cart@prod' = 'postgres://a@h/d'\n";
        assert_eq!(read(table, ExplainOptions::default()), ["cart", "shop"]);
        let list = "explain-dsn = ['shop=postgres://a@h/d']\nexplain-analyze = true\n";
        assert_eq!(read(list, ExplainOptions::default()), ["shop"]);
        let flags = ExplainOptions {
            explain_dsn: vec![Dsn("other=postgres://a@h/d".into())],
            ..ExplainOptions::default()
        };
        assert_eq!(read(table, flags), ["other"]);
    }

    #[test]
    fn passwords_are_not_told() {
        let options = ExplainOptions {
            explain_dsn: vec![Dsn("shop=mysql://a:hunter2@h/d".into())],
            ..ExplainOptions::default()
        };
        let error = format!("{:#} {options:?}", options.databases().unwrap_err());
        assert!(
            error.contains("--explain-dsn") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
