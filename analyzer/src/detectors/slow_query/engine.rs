//! What differs between databases in advice: how an index is made and watched, and what it can do.

/// A family of databases with one way of making indexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Engine {
    /// PostgreSQL.
    Postgres,
    /// Others that speak its language, without its `concurrently`.
    PostgresLike,
    /// MySQL, MariaDB, TiDB.
    MySql,
    /// SQL Server.
    SqlServer,
    /// Oracle.
    Oracle,
    /// SQLite.
    Sqlite,
    /// H2, Db2 and others of the standard.
    Standard,
    /// Not said: nothing is written in a dialect.
    Unknown,
}

use Engine::*;

impl Engine {
    /// The engine of a `db.system.name`; `None` where an index is another thing or there is none.
    pub(super) fn of(system: &str) -> Option<Engine> {
        Some(match system {
            "postgresql" | "postgres" | "timescaledb" => Postgres,
            "cockroachdb" | "yugabytedb" | "opengauss" | "edb" => PostgresLike,
            "mysql" | "mariadb" | "tidb" => MySql,
            "mssql" | "microsoft.sql_server" | "sqlserver" => SqlServer,
            "oracle" | "oracle.db" => Oracle,
            "sqlite" => Sqlite,
            "h2" | "h2database" | "hsqldb" | "derby" | "db2" | "ibm.db2" | "firebird"
            | "firebirdsql" => Standard,
            "" | "other_sql" => Unknown,
            _ => return None,
        })
    }

    /// What shows a plan.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Postgres => "EXPLAIN (ANALYZE, BUFFERS)",
            SqlServer => "its actual execution plan",
            Oracle => "DBMS_XPLAN",
            Sqlite => "EXPLAIN QUERY PLAN",
            _ => "EXPLAIN",
        }
    }

    /// An index may hold columns that it is not ordered by.
    pub(super) fn includes(self) -> bool {
        matches!(self, Postgres | PostgresLike | SqlServer)
    }

    /// An index may be of some rows only.
    pub(super) fn is_partial(self) -> bool {
        matches!(self, Postgres | PostgresLike | Sqlite | SqlServer)
    }

    /// The primary key stands in every other index, so that naming it there is no use.
    pub(super) fn has_key_in_every_index(self) -> bool {
        matches!(self, MySql | SqlServer | Sqlite)
    }

    /// How an index on `expression` is written between the parentheses.
    pub(super) fn expression(self, expression: &str) -> Option<String> {
        match self {
            Postgres | PostgresLike | Oracle | Sqlite => Some(expression.to_owned()),
            MySql => Some(format!("({expression})")),
            _ => None,
        }
    }

    /// What an index costs, and how it is watched and taken away.
    pub(super) fn cost(self) -> &'static str {
        match self {
            Postgres => {
                "An index costs storage and makes every write to its columns a little slower; if its `idx_scan` in \
                 `pg_stat_user_indexes` stays 0, take it away with `drop index concurrently`."
            }
            MySql => {
                "An index costs storage and makes every write to its columns a little slower; if \
                 `sys.schema_unused_indexes` lists it after some days, drop it."
            }
            SqlServer => {
                "An index costs storage and makes every write to its columns a little slower; if \
                 `sys.dm_db_index_usage_stats` shows no seeks after some days, drop it."
            }
            Oracle => {
                "An index costs storage and makes every write to its columns a little slower; if `dba_index_usage` \
                 shows no access after some days, drop it."
            }
            _ => {
                "An index costs storage and makes every write to its columns a little slower; drop it if plans do not \
                 use it."
            }
        }
    }

    /// `create index …` for what stands behind the table's name: `(a, b) include (c)`. Without a name,
    /// which Postgres finds itself, others need one made of `words`.
    pub(super) fn create_index(
        self,
        table: &str,
        words: &[&str],
        definition: &str,
    ) -> Option<String> {
        match self {
            Postgres => Some(format!(
                "create index concurrently on {table} {definition};"
            )),
            PostgresLike => Some(format!("create index on {table} {definition};")),
            Unknown => None,
            _ => Some(format!(
                "create index {} on {table} {definition};",
                name(words)
            )),
        }
    }
}

/// The longest name of an index, bytes: MySQL takes 64, the others more (Oracle since 12.2).
const NAME_LEN_MAX: usize = 60;

fn name(words: &[&str]) -> String {
    let joined = words.join("_").to_lowercase();
    let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut name: String = joined.chars().filter(|it| is_word(*it)).collect();
    name.truncate(NAME_LEN_MAX);
    name
}
