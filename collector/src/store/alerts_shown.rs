//! Alerts as people look at them: incidents, what was said of them and how it went, who did what.
//! Only the engine writes incidents and messages; here somebody may say "I have seen it".

use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::rules::Changed;
use super::{Store, StoreError};
use crate::alert::notification::{Alert, Severity};

/// Incidents that are not over are listed up to so many; a service that is down makes one per endpoint.
/// The page says that there are more.
pub const LIVE_SHOWN: i64 = 500;

/// Messages of an incident, and attempts of a page, are listed up to so many, the latest.
const MESSAGES_SHOWN: i64 = 200;

/// Messages that nobody took are listed up to so many.
const DEAD_SHOWN: i64 = 100;

/// Which incidents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IncidentFilter {
    /// Of this service; any if empty.
    pub service: String,
    /// Of this rule; any if empty.
    pub rule: String,
    /// At least so bad, as stored.
    pub severity_min: i16,
}

/// An alert's life.
#[derive(Clone, PartialEq, Debug)]
pub struct Incident {
    /// Names it, here and outside.
    pub id: Uuid,
    /// The rule's name.
    pub rule: String,
    /// pending, firing, resolved.
    pub state: String,
    /// How bad it is.
    pub severity: Severity,
    /// They identify it.
    pub labels: BTreeMap<String, String>,
    /// What is said of it.
    pub alert: Alert,
    /// True since, ms since the epoch.
    pub started_ms: i64,
    /// Fires since, ms since the epoch.
    pub fired_ms: Option<i64>,
    /// Last true, ms since the epoch.
    pub last_true_ms: i64,
    /// Over since, ms since the epoch.
    pub resolved_ms: Option<i64>,
    /// What was said last, and when (ms since the epoch).
    pub notified: String,
    /// When it was last said, ms since the epoch.
    pub notified_ms: Option<i64>,
    /// Who has seen it.
    pub acknowledged_by: Option<String>,
    /// Why nobody is told.
    pub silenced_by: Option<Uuid>,
    /// It comes and goes too often to be told each time.
    pub flapping: bool,
    /// Where a page of resolved ones goes on, µs since the epoch.
    resolved_us: Option<i64>,
}

/// Where the next page of resolved incidents begins: behind this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IncidentCursor {
    /// Resolved at, µs since the epoch.
    pub resolved_us: i64,
    /// Among those of one moment.
    pub id: Uuid,
}

impl Incident {
    /// The place behind it in the list of resolved ones; `None` while it is not over.
    pub fn cursor(&self) -> Option<IncidentCursor> {
        Some(IncidentCursor {
            resolved_us: self.resolved_us?,
            id: self.id,
        })
    }
}

/// Something that was to be said, and what came of it.
#[derive(Clone, PartialEq, Debug, sqlx::FromRow)]
pub struct ShownMessage {
    /// The receiver's id of it.
    pub id: Uuid,
    /// Where it goes.
    pub channel: String,
    /// opened, resolved, reminder, flapping, test.
    pub event: String,
    /// The title of its first alert.
    pub title: String,
    /// What it is about.
    pub incidents: Vec<Uuid>,
    /// Queued when, ms since the epoch.
    pub created_ms: i64,
    /// How often it was tried.
    pub attempts: i32,
    /// Tried (again) when, ms since the epoch.
    pub next_attempt_ms: i64,
    /// Delivered when, ms since the epoch.
    pub delivered_ms: Option<i64>,
    /// Given up when, ms since the epoch.
    pub dead_ms: Option<i64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Of which dead one it is a repetition.
    pub replayed_from: Option<Uuid>,
    /// There is a repetition of it.
    pub replayed: bool,
}

/// One try to deliver a message.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Attempt {
    /// Of which message.
    pub message_id: Uuid,
    /// The how-manieth, from 1.
    pub attempt: i32,
    /// Where to.
    pub channel: String,
    /// What was to be said; empty if the message is gone.
    pub event: String,
    /// The title of the message's first alert; empty if the message is gone.
    pub title: String,
    /// When, ms since the epoch.
    pub at_ms: i64,
    /// How long it took, ms.
    pub took_ms: i32,
    /// delivered, failed, gone.
    pub outcome: String,
    /// What the receiver said.
    pub detail: String,
}

/// What waits for a channel.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Backlog {
    /// The channel's name.
    pub channel: String,
    /// Messages.
    pub messages: i64,
    /// The oldest, ms since the epoch.
    pub oldest_ms: i64,
}

/// A channel that takes no messages.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct FailingChannel {
    /// Its name.
    pub name: String,
    /// Its receiver switched it off: nothing is tried any more.
    pub gone: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    rule: String,
    state: String,
    severity: i16,
    labels: Json<BTreeMap<String, String>>,
    alert: Value,
    started_ms: i64,
    fired_ms: Option<i64>,
    last_true_ms: i64,
    resolved_ms: Option<i64>,
    resolved_us: Option<i64>,
    notified: String,
    notified_ms: Option<i64>,
    acknowledged_by: Option<String>,
    silenced_by: Option<Uuid>,
    flapping: bool,
    fingerprint: String,
}

impl From<Row> for Incident {
    fn from(row: Row) -> Incident {
        let severity = Severity::of(row.severity);
        // What a newer program said may not be readable; that it fires must be seen all the same.
        let alert = serde_json::from_value(row.alert.clone()).unwrap_or_else(|_| Alert {
            incident: row.id,
            fingerprint: row.fingerprint,
            rule: row.rule.clone(),
            firing: row.state == "firing",
            severity,
            labels: row.labels.0.clone(),
            title: match row.alert["title"].as_str() {
                Some(title) => title.to_owned(),
                None => row.rule.clone(),
            },
            summary: String::new(),
            facts: Vec::new(),
            data: Value::Null,
            links: Vec::new(),
            started_ms: row.started_ms,
            ended_ms: row.resolved_ms,
        });
        Incident {
            id: row.id,
            rule: row.rule,
            state: row.state,
            severity,
            labels: row.labels.0,
            alert,
            started_ms: row.started_ms,
            fired_ms: row.fired_ms,
            last_true_ms: row.last_true_ms,
            resolved_ms: row.resolved_ms,
            resolved_us: row.resolved_us,
            notified: row.notified,
            notified_ms: row.notified_ms,
            acknowledged_by: row.acknowledged_by,
            silenced_by: row.silenced_by,
            flapping: row.flapping,
        }
    }
}

const INCIDENT: &str =
    "id, rule, fingerprint, state, severity, labels, alert, notified, acknowledged_by,
    silenced_by, flapping,
    (extract(epoch from started_at) * 1000)::bigint as started_ms,
    (extract(epoch from fired_at) * 1000)::bigint as fired_ms,
    (extract(epoch from last_true_at) * 1000)::bigint as last_true_ms,
    (extract(epoch from resolved_at) * 1000)::bigint as resolved_ms,
    (extract(epoch from resolved_at) * 1000000)::bigint as resolved_us,
    (extract(epoch from notified_at) * 1000)::bigint as notified_ms";

/// Messages of before rules have another body.
const MESSAGE: &str =
    "o.id, o.channel, o.event, o.incidents, o.attempts, o.last_error, o.replayed_from,
    coalesce(o.body #>> '{alerts,0,title}', o.body #>> '{data,title}', '') as title,
    (extract(epoch from o.created_at) * 1000)::bigint as created_ms,
    (extract(epoch from o.next_attempt_at) * 1000)::bigint as next_attempt_ms,
    (extract(epoch from o.delivered_at) * 1000)::bigint as delivered_ms,
    (extract(epoch from o.dead_at) * 1000)::bigint as dead_ms,
    exists (select from culprit.outbox again
            where again.replayed_from = coalesce(o.replayed_from, o.id)
              and again.sequence > o.sequence) as replayed";

const ATTEMPT: &str = "d.message_id, d.attempt, d.channel, d.took_ms, d.outcome, d.detail,
    (extract(epoch from d.at) * 1000)::bigint as at_ms, coalesce(o.event, '') as event,
    coalesce(o.body #>> '{alerts,0,title}', o.body #>> '{data,title}', '') as title
    from culprit.deliveries d left join culprit.outbox o on o.id = d.message_id";

impl Store {
    /// Incidents that are not over: firing ones first, then the worst, then the newest. At most
    /// [`LIVE_SHOWN`].
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn live_incidents(
        &self,
        filter: &IncidentFilter,
    ) -> Result<Vec<Incident>, StoreError> {
        let text = format!(
            "select {INCIDENT} from culprit.incidents
             where state <> 'resolved' and severity >= $1 and ($2 = '' or rule = $2)
               and ($3 = '' or labels ->> 'service' = $3)
             order by state = 'firing' desc, severity desc, started_at desc, id limit $4"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(filter.severity_min)
            .bind(&filter.rule)
            .bind(&filter.service)
            .bind(LIVE_SHOWN)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(rows.into_iter().map(Incident::from).collect())
    }

    /// Incidents that are over, the last to end first, at most `limit` of those behind `after`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn resolved_incidents(
        &self,
        filter: &IncidentFilter,
        after: Option<IncidentCursor>,
        limit: i64,
    ) -> Result<Vec<Incident>, StoreError> {
        let text = format!(
            "select {INCIDENT} from culprit.incidents
             where state = 'resolved' and severity >= $1 and ($2 = '' or rule = $2)
               and ($3 = '' or labels ->> 'service' = $3)
               and ($4::bigint is null
                    or (resolved_at, id) < (timestamptz 'epoch' + $4 * interval '1 microsecond', $5))
             order by resolved_at desc, id desc limit $6"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(filter.severity_min)
            .bind(&filter.rule)
            .bind(&filter.service)
            .bind(after.map(|it| it.resolved_us))
            .bind(after.map(|it| it.id))
            .bind(limit)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(rows.into_iter().map(Incident::from).collect())
    }

    /// One incident.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn incident(&self, id: Uuid) -> Result<Option<Incident>, StoreError> {
        let text = format!("select {INCIDENT} from culprit.incidents where id = $1");
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .fetch_optional(self.for_changes().pool())
            .await?;
        Ok(row.map(Incident::from))
    }

    /// How many incidents fire and are not silenced.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn firing_count(&self) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar(
            "select count(*) from culprit.incidents
             where state <> 'resolved' and state = 'firing' and silenced_by is null",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(count)
    }

    /// Channels that take no messages at `now_ms`, by name: paused ones, those whose last message but a
    /// test failed, and those that their receiver switched off.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn failing_channels(&self, now_ms: i64) -> Result<Vec<FailingChannel>, StoreError> {
        let channels = sqlx::query_as(
            "select name, not enabled as gone from culprit.alert_channels c
             where case when enabled
                 then coalesce(paused_until > to_timestamp($1 / 1000.0), false)
                   or failures > 0 and exists (
                       select from culprit.outbox o
                       where o.channel = c.name and o.event <> 'test' and o.delivered_at is null
                         and o.attempts > 0
                         and (o.dead_at is null or c.last_success_at is null
                              or o.dead_at > c.last_success_at))
                 -- culprit itself switches nothing off but what its receiver wants no more.
                 else (select a.author = '' and a.action = 'disabled' from culprit.audit a
                       where a.subject = 'channel' and a.subject_id = c.name
                         and a.action in ('disabled', 'enabled', 'added', 'changed')
                       order by a.id desc limit 1)
                 end
             order by name",
        )
        .bind(now_ms)
        .fetch_all(self.for_changes().pool())
        .await?;
        Ok(channels)
    }

    /// Services and rules of the incidents there are, to choose from.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn incident_choices(&self) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let choices = sqlx::query_as(
            "select coalesce(array_agg(distinct labels ->> 'service' order by labels ->> 'service')
                        filter (where labels ->> 'service' <> ''), '{}'),
                    coalesce(array_agg(distinct rule order by rule), '{}')
             from (select labels, rule from culprit.incidents
                   order by started_at desc limit 5000) as latest",
        )
        .fetch_one(self.for_changes().pool())
        .await?;
        Ok(choices)
    }

    /// Notes that somebody has seen an incident that is not over, or takes that back.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn acknowledge_incident(
        &self,
        id: Uuid,
        seen: bool,
        author: &str,
        comment: &str,
    ) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let updated = sqlx::query(
            "update culprit.incidents set acknowledged_by = $2
             where id = $1 and state <> 'resolved' and (acknowledged_by is null) <> ($2 is null)",
        )
        .bind(id)
        .bind(seen.then_some(author))
        .execute(&mut *transaction)
        .await?;
        if updated.rows_affected() == 0 {
            return Ok(Changed::Missing);
        }
        let entry = Entry {
            subject: "incident",
            subject_id: &id.to_string(),
            author,
            action: if seen {
                "acknowledged"
            } else {
                "unacknowledged"
            },
            detail: comment,
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// What was said of an incident, the oldest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn messages_of(&self, incident: Uuid) -> Result<Vec<ShownMessage>, StoreError> {
        let text = format!(
            "select {MESSAGE} from culprit.outbox o where o.incidents @> array[$1]
             order by o.created_at desc, o.id desc limit $2"
        );
        let mut messages: Vec<ShownMessage> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(incident)
            .bind(MESSAGES_SHOWN)
            .fetch_all(self.for_changes().pool())
            .await?;
        messages.reverse();
        Ok(messages)
    }

    /// One message.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn shown_message(&self, id: Uuid) -> Result<Option<ShownMessage>, StoreError> {
        let text = format!("select {MESSAGE} from culprit.outbox o where o.id = $1");
        let message = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .fetch_optional(self.for_changes().pool())
            .await?;
        Ok(message)
    }

    /// How the messages went, the oldest try first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn attempts_of(&self, messages: &[Uuid]) -> Result<Vec<Attempt>, StoreError> {
        let text = format!(
            "select {ATTEMPT} where d.message_id = any($1) order by d.at, d.attempt limit $2"
        );
        let attempts = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(messages)
            .bind(MESSAGES_SHOWN * 10)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(attempts)
    }

    /// The latest `limit` tries, of all messages or of one channel's, the latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn latest_attempts(
        &self,
        channel: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let text = format!(
            "select {ATTEMPT} where $1::text is null or d.channel = $1
             order by d.at desc, d.message_id, d.attempt desc limit $2"
        );
        let attempts = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(channel)
            .bind(limit)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(attempts)
    }

    /// The latest messages that were given up, the latest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn dead_messages(&self) -> Result<Vec<ShownMessage>, StoreError> {
        let text = format!(
            "select {MESSAGE} from culprit.outbox o where o.dead_at is not null and o.dismissed_at is null
             order by o.dead_at desc, o.id limit $1"
        );
        let messages = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(DEAD_SHOWN)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(messages)
    }

    /// Takes a message that was given up out of the list of those: somebody has seen it, and it is not to
    /// be sent again.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn dismiss_message(&self, id: Uuid, author: &str) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let dismissed = sqlx::query(
            "update culprit.outbox set dismissed_at = now()
             where id = $1 and dead_at is not null and dismissed_at is null",
        )
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        if dismissed.rows_affected() == 0 {
            return Ok(Changed::Missing);
        }
        let entry = Entry {
            subject: "message",
            subject_id: &id.to_string(),
            author,
            action: "dismissed",
            detail: "",
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// What waits to be delivered, by channel.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn outbox_backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        let backlog = sqlx::query_as(
            "select channel, count(*) as messages,
                    (extract(epoch from min(created_at)) * 1000)::bigint as oldest_ms
             from culprit.outbox where delivered_at is null and dead_at is null
             group by channel order by channel",
        )
        .fetch_all(self.for_changes().pool())
        .await?;
        Ok(backlog)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::store;

    const NOW: i64 = 1_700_000_000_000;

    async fn incident(store: &Store, id: u128, state: &str, severity: i16, service: &str) -> Uuid {
        let id = Uuid::from_u128(id);
        sqlx::query(
            "insert into culprit.incidents (id, rule, fingerprint, state, severity, labels, alert,
                 started_at, last_true_at, resolved_at)
             values ($1, 'r', $1::text, $2, $3, $4, $5, to_timestamp($6 / 1000.0), now(),
                 case when $2 = 'resolved' then timestamptz '2023-11-15 00:00:00.123457Z' end)",
        )
        .bind(id)
        .bind(state)
        .bind(severity)
        .bind(json!({"service": service}))
        .bind(json!({"title": format!("{service} is slow")}))
        .bind(NOW)
        .execute(store.pool())
        .await
        .unwrap();
        id
    }

    async fn message(store: &Store, id: u128, incident: Uuid, columns: &'static str) -> Uuid {
        let id = Uuid::from_u128(id);
        let text = format!(
            "insert into culprit.outbox (id, channel, body, incidents, attempts, {columns})
             values ($1, 'slack', $2, array[$3], 1, now())"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(json!({"alerts": [{"title": "t"}]}))
            .bind(incident)
            .execute(store.pool())
            .await
            .unwrap();
        id
    }

    fn ids(incidents: &[Incident]) -> Vec<u128> {
        incidents.iter().map(|it| it.id.as_u128()).collect()
    }

    #[tokio::test]
    async fn the_worst_that_fires_is_first_and_silenced_ones_do_not_count() {
        let store = store().await;
        incident(&store, 1, "pending", 2, "shop").await;
        incident(&store, 2, "firing", 0, "shop").await;
        let worst = incident(&store, 3, "firing", 2, "pay").await;
        incident(&store, 4, "resolved", 2, "pay").await;
        let live =
            async |filter: IncidentFilter| ids(&store.live_incidents(&filter).await.unwrap());
        assert_eq!(live(IncidentFilter::default()).await, [3, 2, 1]);
        let of = |service: &str, rule: &str, severity_min| IncidentFilter {
            service: service.into(),
            rule: rule.into(),
            severity_min,
        };
        assert_eq!(live(of("shop", "", 0)).await, [2, 1]);
        assert_eq!(live(of("shop", "r", 1)).await, [1]);
        assert_eq!(live(of("", "other", 0)).await, [0; 0]);
        assert_eq!(store.firing_count().await.unwrap(), 2);
        sqlx::query("update culprit.incidents set silenced_by = id where id = $1")
            .bind(worst)
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(store.firing_count().await.unwrap(), 1);
        let choices = store.incident_choices().await.unwrap();
        assert_eq!(
            choices,
            (vec!["pay".into(), "shop".into()], vec!["r".into()])
        );
        let it = store.incident(worst).await.unwrap().unwrap();
        assert_eq!(
            it.alert.title, "pay is slow",
            "though the rest cannot be read"
        );
        assert_eq!(it.started_ms, NOW);
    }

    #[tokio::test]
    async fn pages_of_resolved_ones_follow_each_other_even_within_one_moment() {
        let store = store().await;
        for id in 1..=5 {
            incident(&store, id, "resolved", 1, "shop").await;
        }
        let filter = IncidentFilter::default();
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = store.resolved_incidents(&filter, after, 2).await.unwrap();
            let Some(last) = page.last() else {
                break;
            };
            after = last.cursor();
            seen.extend(ids(&page));
        }
        assert_eq!(seen, [5, 4, 3, 2, 1]);
    }

    #[tokio::test]
    async fn an_incident_is_acknowledged_once_and_only_while_it_lasts() {
        let store = store().await;
        let firing = incident(&store, 1, "firing", 1, "shop").await;
        let over = incident(&store, 2, "resolved", 1, "shop").await;
        let acknowledge = async |id, seen| {
            let done = store.acknowledge_incident(id, seen, "Ann", "on it").await;
            done.unwrap()
        };
        assert_eq!(acknowledge(firing, true).await, Changed::Done);
        assert_eq!(acknowledge(firing, true).await, Changed::Missing);
        assert_eq!(acknowledge(over, true).await, Changed::Missing);
        let it = store.incident(firing).await.unwrap().unwrap();
        assert_eq!(it.acknowledged_by.as_deref(), Some("Ann"));
        assert_eq!(acknowledge(firing, false).await, Changed::Done);
        let acts = store
            .history("incident", &firing.to_string())
            .await
            .unwrap();
        let acts: Vec<_> = acts.iter().map(|it| (&*it.action, &*it.detail)).collect();
        assert_eq!(
            acts,
            [("unacknowledged", "on it"), ("acknowledged", "on it")]
        );
    }

    #[tokio::test]
    async fn what_was_said_is_told_with_every_try() {
        let store = store().await;
        let one = incident(&store, 1, "firing", 1, "shop").await;
        let other = incident(&store, 2, "firing", 1, "shop").await;
        let delivered = message(&store, 11, one, "delivered_at").await;
        let dead = message(&store, 12, one, "dead_at").await;
        let waiting = message(&store, 13, other, "next_attempt_at").await;
        for (message, attempt, outcome) in [
            (delivered, 1, "failed"),
            (delivered, 2, "delivered"),
            (dead, 1, "gone"),
        ] {
            sqlx::query(
                "insert into culprit.deliveries (message_id, attempt, channel, took_ms, outcome, at)
                 values ($1, $2, 'slack', 7, $3, now() + $2 * interval '1 second')",
            )
            .bind(message)
            .bind(attempt)
            .bind(outcome)
            .execute(store.pool())
            .await
            .unwrap();
        }
        let said = store.messages_of(one).await.unwrap();
        assert_eq!(said.len(), 2);
        assert!(said.iter().all(|it| it.title == "t" && !it.replayed));
        let tries = store.attempts_of(&[delivered]).await.unwrap();
        let tries: Vec<_> = tries.iter().map(|it| (it.attempt, &*it.outcome)).collect();
        assert_eq!(tries, [(1, "failed"), (2, "delivered")]);
        assert_eq!(store.latest_attempts(None, 100).await.unwrap().len(), 3);
        assert_eq!(
            store.latest_attempts(Some("slack"), 2).await.unwrap().len(),
            2
        );
        assert_eq!(store.latest_attempts(Some("mail"), 2).await.unwrap(), []);
        let letters = store.dead_messages().await.unwrap();
        assert_eq!(letters.iter().map(|it| it.id).collect::<Vec<_>>(), [dead]);
        let dismissed = store.dismiss_message(dead, "Ann").await.unwrap();
        assert_eq!(dismissed, Changed::Done);
        assert_eq!(store.dead_messages().await.unwrap(), []);
        let again = store.dismiss_message(dead, "Ann").await.unwrap();
        assert_eq!(again, Changed::Missing);
        let backlog = store.outbox_backlog().await.unwrap();
        assert_eq!((&*backlog[0].channel, backlog[0].messages), ("slack", 1));
        assert_eq!(backlog.len(), 1);
        sqlx::query("update culprit.outbox set replayed_from = $1 where id = $2")
            .bind(dead)
            .bind(waiting)
            .execute(store.pool())
            .await
            .unwrap();
        assert!(store.shown_message(dead).await.unwrap().unwrap().replayed);
    }
}
