//! Who did what to a finding, a regression or an alert. Rows are written in the transaction of what
//! they tell of, and never changed.

use super::pool::Connection;
use super::{Store, StoreError};

/// Something that was done.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What it was done to: `finding`, `regression`, `incident`, `rule`, …
    pub subject: &'a str,
    /// Which one.
    pub subject_id: &'a str,
    /// Who; empty: culprit itself.
    pub author: &'a str,
    /// What, in one word.
    pub action: &'a str,
    /// The rest of the sentence.
    pub detail: &'a str,
}

/// Something that was done, as it was written down.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Done {
    /// When, ms since the epoch.
    pub at_ms: i64,
    /// Who; empty: culprit itself.
    pub author: String,
    /// What, in one word.
    pub action: String,
    /// The rest of the sentence.
    pub detail: String,
}

/// Entries that a history shows at most; the oldest are left out.
pub const HISTORY_MAX: i64 = 100;

/// Writes an entry in the caller's transaction.
pub(super) async fn note(connection: &mut Connection, entry: Entry<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "insert into culprit.audit (subject, subject_id, author, action, detail)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(entry.subject)
    .bind(entry.subject_id)
    .bind(entry.author)
    .bind(entry.action)
    .bind(entry.detail)
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// What was done to one thing, latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn history(&self, subject: &str, subject_id: &str) -> Result<Vec<Done>, StoreError> {
        let done = sqlx::query_as(
            "select (extract(epoch from at) * 1000)::bigint as at_ms, author, action, detail
             from culprit.audit where subject = $1 and subject_id = $2
             order by id desc limit $3",
        )
        .bind(subject)
        .bind(subject_id)
        .bind(HISTORY_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(done)
    }
}
