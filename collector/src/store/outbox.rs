//! What is to be said to the outside, at least once each.

use serde_json::Value;
use uuid::Uuid;

use super::{Store, StoreError};

/// A message to deliver.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Message {
    /// The receiver's id of it, the same in every attempt.
    pub id: Uuid,
    /// `webhook`
    pub channel: String,
    /// What to say.
    pub body: Value,
    /// How often it was tried, this time included.
    pub attempts: i32,
}

/// A claimed message is nobody else's for this long: longer than any attempt may take.
const CLAIM_SECONDS: f64 = 60.0;

impl Store {
    /// Claims messages that are due, oldest first. A claim expires by itself, so that a message
    /// whose worker died is tried again.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn claim_messages(&self, messages_max: i64) -> Result<Vec<Message>, StoreError> {
        let messages = sqlx::query_as(
            "update culprit.outbox
             set attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => $2)
             where id in (select id from culprit.outbox
                          where delivered_at is null and dead_at is null and next_attempt_at <= now()
                          order by next_attempt_at limit $1 for update skip locked)
             returning id, channel, body, attempts",
        )
        .bind(messages_max)
        .bind(CLAIM_SECONDS)
        .fetch_all(self.pool())
        .await?;
        Ok(messages)
    }

    /// The receiver has it.
    ///
    /// # Errors
    /// Postgres cannot be written to; then it is delivered again.
    pub async fn message_delivered(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.outbox set delivered_at = now(), last_error = null where id = $1",
        )
        .bind(id)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The receiver does not have it: try again after `retry_after_s`, or never.
    ///
    /// # Errors
    /// Postgres cannot be written to; then it is tried again when the claim expires.
    pub async fn message_failed(
        &self,
        id: Uuid,
        error: &str,
        retry_after_s: Option<f64>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.outbox
             set last_error = $2,
                 dead_at = case when $3::float8 is null then now() end,
                 next_attempt_at = now() + make_interval(secs => coalesce($3, 0))
             where id = $1",
        )
        .bind(id)
        .bind(error.replace('\0', "\u{fffd}"))
        .bind(retry_after_s)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
