//! Changing one row of what is configured: alert rules and channels. Some rows are people's, some are
//! told by the file or come with the program, and not everything may be done to those.

use super::audit::{self, Entry};
use super::rules::{Changed, Source};
use super::{Store, StoreError};

/// Which rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Gives `source` of the row named `$1`, and locks it.
    source: &'static str,
    /// What the audit trail calls one.
    subject: &'static str,
}

pub(super) const RULES: Kind = Kind {
    source: "select source from culprit.alert_rules where name = $1 for update",
    subject: "rule",
};

pub(super) const CHANNELS: Kind = Kind {
    source: "select source from culprit.alert_channels where name = $1 for update",
    subject: "channel",
};

impl Store {
    /// Runs `statement` if there is such a row and it `may` be changed, and writes that down.
    pub(super) async fn change_configured<'a>(
        &self,
        kind: Kind,
        name: &str,
        author: &str,
        action: &str,
        may: impl Fn(Source) -> bool,
        statement: sqlx::query::Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let source: Option<String> = sqlx::query_scalar(kind.source)
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await?;
        match source.as_deref().map(Source::of) {
            None => return Ok(Changed::Missing),
            Some(source) if !may(source) => return Ok(Changed::Fixed(source)),
            Some(_) => {}
        }
        statement.execute(&mut *transaction).await?;
        let entry = Entry {
            subject: kind.subject,
            subject_id: name,
            author,
            action,
            detail: "",
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }
}
