//! Every attempt to deliver a message, for people to see.

use uuid::Uuid;

use super::outbox::shortened;
use super::{Store, StoreError};

/// One attempt.
#[derive(Clone, Debug)]
pub struct DeliveryNote<'a> {
    /// The outbox's id of the message.
    pub message: Uuid,
    /// The how-manieth attempt, from 1.
    pub attempt: i32,
    /// The channel's name.
    pub channel: &'a str,
    /// How long it took, ms.
    pub took_ms: i32,
    /// delivered, failed, rejected, gone.
    pub outcome: &'static str,
    /// What the receiver said, without secrets; empty if it has the message.
    pub detail: &'a str,
}

impl Store {
    /// Notes an attempt. May be repeated.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn note_delivery(&self, note: DeliveryNote<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "insert into culprit.deliveries (message_id, attempt, channel, took_ms, outcome, detail)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(note.message)
        .bind(note.attempt)
        .bind(note.channel)
        .bind(note.took_ms)
        .bind(note.outcome)
        .bind(shortened(note.detail))
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
