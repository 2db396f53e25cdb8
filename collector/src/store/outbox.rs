//! What is to be said to the outside, at least once each.

use serde_json::Value;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::encoding::without_nul;
use super::pool::Connection;
use super::{Store, StoreError};
use crate::alert::notification::{Event, Notification};

/// A message to deliver.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Message {
    /// The outbox's id of it.
    pub id: Uuid,
    /// The receiver's id of it: the same in every attempt, and when it is replayed.
    pub webhook_id: Uuid,
    /// The channel's name.
    pub channel: String,
    /// What to say.
    pub body: Value,
    /// How often it was tried, this time included.
    pub attempts: i32,
}

/// A message to be queued.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The receiver's id of it.
    pub id: Uuid,
    /// The channel's name.
    pub channel: String,
    /// Messages of one channel and key keep their order.
    pub group_key: String,
    /// What it is about.
    pub incidents: Vec<Uuid>,
    /// What to say.
    pub notification: Notification,
}

/// What became of the wish to send a dead message again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// It waits again, as this row of the outbox.
    Queued(Uuid),
    /// There is no such message, or it is not dead, or it is waiting again already.
    Missing,
    /// The receiver was told meanwhile that what it is about is over: it would believe it open for ever.
    Over,
}

/// A claimed message is nobody else's for this long: longer than any attempt may take.
const CLAIM_SECONDS: f64 = 60.0;

/// A receiver's answer is kept up to so many bytes; the rest is cut off.
const ERROR_BYTES_MAX: usize = 1_000;

/// Messages of which nobody in this process knows the channel say so after this long: another process
/// that knows it would have tried by then.
const UNKNOWN_SECONDS: f64 = 60.0;

/// And are given up after this long.
const UNKNOWN_GIVEN_UP_SECONDS: f64 = 86_400.0;

impl Store {
    /// Channels that have something to do now: a message is due, and they are neither switched off nor
    /// paused. A test is sent all the same: somebody waits for it.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn channels_with_messages(&self) -> Result<Vec<String>, StoreError> {
        let channels = sqlx::query_scalar(
            "select distinct o.channel from culprit.outbox o
             left join culprit.alert_channels c on c.name = o.channel
             where o.delivered_at is null and o.dead_at is null and o.next_attempt_at <= now()
               and (o.event = 'test'
                    or (coalesce(c.enabled, true) and coalesce(c.paused_until <= now(), true)))",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(channels)
    }

    /// Claims a channel's oldest message that is due. Messages of one group keep their order: one
    /// waits while an earlier one is neither delivered nor dead, so that a resolve never overtakes its
    /// opening. A claim expires by itself, so that a message whose worker died is tried again.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn claim_message(&self, channel: &str) -> Result<Option<Message>, StoreError> {
        let message = sqlx::query_as(
            "update culprit.outbox
             set attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => $2)
             where id = (
                 select o.id from culprit.outbox o
                 left join culprit.alert_channels c on c.name = o.channel
                 where o.channel = $1 and o.delivered_at is null and o.dead_at is null
                   and o.next_attempt_at <= now()
                   and (o.event = 'test'
                        or (coalesce(c.enabled, true) and coalesce(c.paused_until <= now(), true)))
                   -- Messages of before there were groups have none.
                   and (o.group_key = '' or not exists (
                       select from culprit.outbox earlier
                       where earlier.channel = o.channel and earlier.group_key = o.group_key
                         and earlier.sequence < o.sequence
                         and earlier.delivered_at is null and earlier.dead_at is null))
                 order by o.sequence limit 1 for update of o skip locked)
             returning id, coalesce(replayed_from, id) as webhook_id, channel, body, attempts",
        )
        .bind(channel)
        .bind(CLAIM_SECONDS)
        .fetch_optional(self.pool())
        .await?;
        Ok(message)
    }

    /// The receiver has it.
    ///
    /// # Errors
    /// Postgres cannot be written to; then it is delivered again.
    pub async fn message_delivered(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.outbox set delivered_at = now(), last_error = null
             where id = $1 and delivered_at is null",
        )
        .bind(id)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The receiver does not have it: try again after `retry_after_s`, or never. Does nothing if somebody
    /// else has tried it since `attempt`.
    ///
    /// # Errors
    /// Postgres cannot be written to; then it is tried again when the claim expires.
    pub async fn message_failed(
        &self,
        id: Uuid,
        attempt: i32,
        error: &str,
        retry_after_s: Option<f64>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.outbox
             set last_error = $2,
                 dead_at = case when $3::float8 is null then now() end,
                 next_attempt_at = now() + make_interval(secs => coalesce($3, 0))
             where id = $1 and attempts = $4 and delivered_at is null",
        )
        .bind(id)
        .bind(shortened(error))
        .bind(retry_after_s)
        .bind(attempt)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// A channel's receiver wants no more messages: it is switched off, and what waits for it is dead.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn channel_gone(&self, channel: &str, reason: &str) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        let switched_off = sqlx::query(
            "update culprit.alert_channels set enabled = false, last_error = $2, changed_at = now()
             where name = $1 and enabled",
        )
        .bind(channel)
        .bind(shortened(reason))
        .execute(&mut *transaction)
        .await?;
        if switched_off.rows_affected() > 0 {
            let entry = Entry {
                subject: "channel",
                subject_id: channel,
                author: "",
                action: "disabled",
                detail: &shortened(reason),
            };
            audit::note(&mut transaction, entry).await?;
        }
        sqlx::query(
            "update culprit.outbox set dead_at = now(), last_error = $2
             where channel = $1 and delivered_at is null and dead_at is null",
        )
        .bind(channel)
        .bind(shortened(reason))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Messages that nobody takes up: of channels that are not in `known`, this process's, and that no
    /// other process has tried lately. They say why they wait, and after a day they are dead. The same for what
    /// waits for a channel that is switched off.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn note_unclaimed(&self, known: &[String]) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.outbox o
             set last_error = case when off.name is null
                    then 'no running process knows the channel ' || o.channel
                    else 'the channel ' || o.channel || ' is switched off' end
                    || case when o.created_at < now() - make_interval(secs => $3)
                       then ', since a day' else '' end,
                 dead_at = case when o.created_at < now() - make_interval(secs => $3) then now() end
             from culprit.outbox me
             left join culprit.alert_channels off on off.name = me.channel and not off.enabled
             where me.id = o.id and o.delivered_at is null and o.dead_at is null
               -- Nobody is trying it just now, or is about to.
               and (o.attempts = 0 or o.next_attempt_at < now() - make_interval(secs => $2))
               and o.created_at < now() - make_interval(secs => $2)
               and (off.name is not null or o.channel <> all($1))
               -- Somebody knows it, but it is not this one's turn.
               and (off.name is not null or not exists (
                   select from culprit.deliveries d
                   where d.channel = o.channel and d.at > now() - make_interval(secs => $3)))
               and (o.last_error is null or o.created_at < now() - make_interval(secs => $3))",
        )
        .bind(known)
        .bind(UNKNOWN_SECONDS)
        .bind(UNKNOWN_GIVEN_UP_SECONDS)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// How many messages each channel was given since `since_ms`, tests not counted.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn messages_since(&self, since_ms: i64) -> Result<Vec<(String, i64)>, StoreError> {
        let counts = sqlx::query_as(
            "select channel, count(*) from culprit.outbox
             where created_at > to_timestamp($1 / 1000.0) and event <> 'test' and incidents <> '{}'
             group by channel",
        )
        .bind(since_ms)
        .fetch_all(self.pool())
        .await?;
        Ok(counts)
    }

    /// Queues a message for the test button of `channel`; gives its id.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn queue_test(
        &self,
        channel: &str,
        author: &str,
        now_ms: i64,
    ) -> Result<Uuid, StoreError> {
        let id = Uuid::now_v7();
        let message = NewMessage {
            id,
            channel: channel.to_owned(),
            // Of its own: it waits for nobody.
            group_key: format!("test {id}"),
            incidents: Vec::new(),
            notification: crate::alert::test_notification(channel, now_ms),
        };
        let mut transaction = self.for_changes().pool().begin().await?;
        queue(&mut transaction, &message, now_ms).await?;
        let entry = Entry {
            subject: "channel",
            subject_id: channel,
            author,
            action: "tested",
            detail: "",
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Has a dead message sent again. The receiver gets the same `webhook-id`: if it did have the message
    /// after all, it sees a repetition.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn replay(&self, message: Uuid, author: &str) -> Result<Replayed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let dead: Option<(bool, Uuid)> = sqlx::query_as(
            "select exists (select from culprit.outbox l
                            where l.channel = o.channel and l.group_key = o.group_key
                              and l.sequence > o.sequence and l.event = 'resolved'
                              and o.event <> 'resolved'
                              and l.incidents && o.incidents and l.delivered_at is not null),
                    coalesce(o.replayed_from, o.id)
             from culprit.outbox o
             where o.id = $1 and o.dead_at is not null
               and not exists (select from culprit.outbox again
                               where again.replayed_from = coalesce(o.replayed_from, o.id)
                                 and again.dead_at is null)
             for update of o",
        )
        .bind(message)
        .fetch_optional(&mut *transaction)
        .await?;
        let (is_over, webhook_id) = match dead {
            None => return Ok(Replayed::Missing),
            Some((true, _)) => return Ok(Replayed::Over),
            Some((false, id)) => (false, id),
        };
        debug_assert!(!is_over);
        let id = Uuid::now_v7();
        let queued = sqlx::query(
            "insert into culprit.outbox (id, alert_id, channel, body, incidents, group_key, event, replayed_from)
             select $2, alert_id, channel, body, incidents, group_key, event, $3
             from culprit.outbox where id = $1
             on conflict (replayed_from) where delivered_at is null and dead_at is null do nothing",
        )
        .bind(message)
        .bind(id)
        .bind(webhook_id)
        .execute(&mut *transaction)
        .await?;
        if queued.rows_affected() == 0 {
            // Somebody else was a moment faster.
            return Ok(Replayed::Missing);
        }
        let entry = Entry {
            subject: "message",
            subject_id: &message.to_string(),
            author,
            action: "replayed",
            detail: "",
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Replayed::Queued(id))
    }

    /// It is this process's turn to tell a channel again what fires: nobody has since `every_ms`.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn claim_resend(&self, channel: &str, every_ms: i64) -> Result<bool, StoreError> {
        let claimed = sqlx::query(
            "update culprit.alert_channels set resent_at = now()
             where name = $1 and enabled and coalesce(paused_until <= now(), true)
               and coalesce(resent_at <= now() - make_interval(secs => $2), true)",
        )
        .bind(channel)
        .bind(every_ms as f64 / 1_000.0)
        .execute(self.pool())
        .await?;
        Ok(claimed.rows_affected() > 0)
    }
}

/// Queues a message in its caller's transaction.
pub(super) async fn queue(
    connection: &mut Connection,
    message: &NewMessage,
    now_ms: i64,
) -> Result<(), StoreError> {
    let body = without_nul(serde_json::to_value(&message.notification).unwrap_or(Value::Null));
    let event: Event = message.notification.event;
    sqlx::query(
        "insert into culprit.outbox (id, channel, body, incidents, group_key, event, created_at)
         values ($1, $2, $3, $4, $5, $6, to_timestamp($7 / 1000.0))",
    )
    .bind(message.id)
    .bind(&message.channel)
    .bind(body)
    .bind(&message.incidents)
    .bind(&message.group_key)
    .bind(event.name())
    .bind(now_ms)
    .execute(&mut *connection)
    .await?;
    hasten(connection, &message.channel, Some(&message.group_key)).await
}

/// Messages of a channel (and group) that failed are tried again now and not in hours: there is reason to
/// hope, or another one waits for them. Those that are being tried are left alone.
pub(super) async fn hasten(
    connection: &mut Connection,
    channel: &str,
    group_key: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        // What is locked is just being claimed, or hastened by somebody else: waiting for it could be a deadlock.
        "update culprit.outbox set next_attempt_at = now()
         where id in (select id from culprit.outbox
                      where channel = $1 and ($2::text is null or group_key = $2)
                        and delivered_at is null and dead_at is null and attempts > 0
                        and next_attempt_at > now() + make_interval(secs => $3)
                      for update skip locked)",
    )
    .bind(channel)
    .bind(group_key)
    .bind(CLAIM_SECONDS)
    .execute(connection)
    .await?;
    Ok(())
}

/// What Postgres can hold of an error.
pub(super) fn shortened(error: &str) -> String {
    let error = error.replace('\0', "\u{fffd}");
    error[..error.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}
