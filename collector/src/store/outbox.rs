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

/// What became of the wish to send a dead message again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// It waits again, as this row of the outbox.
    Queued(Uuid),
    /// There is no such message, or it is not dead, or it is waiting again already.
    Missing,
    /// The receiver was told meanwhile that what it is about is over.
    Over,
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

    /// Queues a message for the test button of `channel`; gives its id.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn queue_test(
        &self,
        channel: &str,
        _author: &str,
        _now_ms: i64,
    ) -> Result<Uuid, StoreError> {
        let id = Uuid::now_v7();
        sqlx::query("insert into culprit.outbox (id, channel, body, event) values ($1, $2, $3, 'test')")
            .bind(id)
            .bind(channel)
            .bind(serde_json::json!({"alerts": [{"title": format!("This is a test of the channel {channel}")}]}))
            .execute(self.writer().pool())
            .await?;
        Ok(id)
    }

    /// Has a dead message sent again.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn replay(&self, message: Uuid, _author: &str) -> Result<Replayed, StoreError> {
        let id = Uuid::now_v7();
        let queued = sqlx::query(
            "insert into culprit.outbox (id, channel, body, incidents, event, replayed_from)
             select $2, channel, body, incidents, event, id from culprit.outbox
             where id = $1 and dead_at is not null",
        )
        .bind(message)
        .bind(id)
        .execute(self.writer().pool())
        .await?;
        Ok(match queued.rows_affected() {
            0 => Replayed::Missing,
            _ => Replayed::Queued(id),
        })
    }
}
