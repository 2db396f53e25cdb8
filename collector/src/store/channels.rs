//! Where alerts go, as stored. Channels of flags and the file stand here without their settings, so
//! that pages of every process can show them; those of people with them.

use serde_json::Value;
use std::fmt;

use super::audit::{self, Entry};
use super::configured;
use super::outbox::hasten;
use super::rules::{Changed, Source};
use super::{Store, StoreError};

/// Channels at most: an alert without a choice goes to all of them. Beyond it none is added, and who
/// tries is told.
pub const CHANNELS_MAX: i64 = 50;

/// A receiver's answer is kept up to so many bytes; the rest is cut off.
const ERROR_BYTES_MAX: usize = 1_000;

/// A channel and how it does.
#[derive(Clone, sqlx::FromRow)]
pub struct StoredChannel {
    /// Names it everywhere.
    pub name: String,
    /// webhook, slack, alertmanager, pagerduty, email.
    pub kind: String,
    #[sqlx(rename = "source")]
    source_name: String,
    /// Alerts go there.
    pub enabled: bool,
    /// How to reach it, with secrets: nobody is shown this. Empty unless people's.
    pub settings: Value,
    /// Where it leads, without secrets.
    pub shown: String,
    /// Failures in a row.
    pub failures: i32,
    /// Nothing is sent before this, ms since the epoch.
    pub paused_until_ms: Option<i64>,
    /// The last delivery, ms since the epoch.
    pub last_success_ms: Option<i64>,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// Changed when, ms since the epoch.
    pub changed_ms: i64,
    /// By whom; the flag, or the file's path.
    pub changed_by: String,
}

impl StoredChannel {
    /// Who says where it leads.
    pub fn source(&self) -> Source {
        Source::of(&self.source_name)
    }
}

impl fmt::Debug for StoredChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredChannel")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("source", &self.source_name)
            .finish_non_exhaustive()
    }
}

/// A channel of a flag or of the file: what may be shown of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfiguredChannel {
    /// Names it everywhere.
    pub name: String,
    /// webhook, slack, alertmanager, pagerduty, email.
    pub kind: String,
    /// Where it leads, without secrets.
    pub shown: String,
    /// The flag, or the file's path.
    pub told_by: String,
}

/// A channel of people's, as it is to be.
pub struct NewChannel<'a> {
    /// Names it everywhere.
    pub name: &'a str,
    /// webhook, slack, alertmanager, pagerduty, email.
    pub kind: &'a str,
    /// How to reach it, with secrets.
    pub settings: &'a Value,
    /// Where it leads, without secrets.
    pub shown: &'a str,
    /// Alerts go there.
    pub enabled: bool,
}

const COLUMNS: &str =
    "name, kind, source, enabled, settings, shown, failures, last_error, changed_by,
    (extract(epoch from paused_until) * 1000)::bigint as paused_until_ms,
    (extract(epoch from last_success_at) * 1000)::bigint as last_success_ms,
    (extract(epoch from changed_at) * 1000)::bigint as changed_ms";

impl Store {
    /// Makes the channels of `source` (flag or file) what `channels` says; others go. They go over
    /// people's of the same name. How one does is kept while it leads to the same place. May be repeated.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn sync_channels(
        &self,
        source: Source,
        channels: &[ConfiguredChannel],
    ) -> Result<(), StoreError> {
        let column =
            |of: fn(&ConfiguredChannel) -> &str| -> Vec<&str> { channels.iter().map(of).collect() };
        let names = column(|it| &it.name);
        let mut transaction = self.pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('culprit.alert_channels'))")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("delete from culprit.alert_channels where source = $1 and name <> all($2)")
            .bind(source.name())
            .bind(&names)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "insert into culprit.audit (subject, subject_id, action, detail)
             select 'channel', old.name, 'replaced', new.told_by || ' has a channel of this name.'
             from culprit.alert_channels old
             join unnest($1::text[], $2::text[]) as new(name, told_by) on new.name = old.name
             where old.source = 'ui'",
        )
        .bind(&names)
        .bind(column(|it| &it.told_by))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into culprit.alert_channels as old (name, kind, source, settings, shown, changed_by)
             select name, kind, $1, '{}', shown, told_by
             from unnest($2::text[], $3::text[], $4::text[], $5::text[]) as new(name, kind, shown, told_by)
             on conflict (name) do update set
                 source = excluded.source, kind = excluded.kind, settings = '{}', enabled = true,
                 shown = excluded.shown, changed_by = excluded.changed_by,
                 -- A restart is a new chance.
                 failures = 0, paused_until = null,
                 last_success_at = case when (old.kind, old.shown) = (excluded.kind, excluded.shown)
                                   then old.last_success_at end,
                 last_error = case when (old.kind, old.shown) = (excluded.kind, excluded.shown)
                              then old.last_error end,
                 changed_at = case when (old.kind, old.shown) = (excluded.kind, excluded.shown)
                              then old.changed_at else now() end",
        )
        .bind(source.name())
        .bind(&names)
        .bind(column(|it| &it.kind))
        .bind(column(|it| &it.shown))
        .bind(column(|it| &it.told_by))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// All channels by name.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn channels(&self) -> Result<Vec<StoredChannel>, StoreError> {
        let text = format!("select {COLUMNS} from culprit.alert_channels order by name");
        let channels = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(channels)
    }

    /// One channel.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn channel(&self, name: &str) -> Result<Option<StoredChannel>, StoreError> {
        let text = format!("select {COLUMNS} from culprit.alert_channels where name = $1");
        let channel = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(name)
            .fetch_optional(self.for_changes().pool())
            .await?;
        Ok(channel)
    }

    /// Adds a channel of people's, or changes one; it begins anew, without failures. Those of flags and
    /// the file stay.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn put_channel(
        &self,
        channel: &NewChannel<'_>,
        author: &str,
    ) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('culprit.alert_channels'))")
            .execute(&mut *transaction)
            .await?;
        let (source, channels): (Option<String>, i64) = sqlx::query_as(
            "select (select source from culprit.alert_channels where name = $1), count(*)
             from culprit.alert_channels",
        )
        .bind(channel.name)
        .fetch_one(&mut *transaction)
        .await?;
        match source.as_deref().map(Source::of) {
            None if channels >= CHANNELS_MAX => return Ok(Changed::TooMany(CHANNELS_MAX)),
            None | Some(Source::Ui) => {}
            Some(source) => return Ok(Changed::Fixed(source)),
        }
        sqlx::query(
            "insert into culprit.alert_channels (name, kind, source, enabled, settings, shown, changed_by)
             values ($1, $2, 'ui', $3, $4, $5, $6)
             on conflict (name) do update set
                 kind = excluded.kind, enabled = excluded.enabled, settings = excluded.settings,
                 shown = excluded.shown, changed_by = excluded.changed_by, changed_at = now(),
                 failures = 0, paused_until = null, last_error = null",
        )
        .bind(channel.name)
        .bind(channel.kind)
        .bind(channel.enabled)
        .bind(channel.settings)
        .bind(channel.shown)
        .bind(author)
        .execute(&mut *transaction)
        .await?;
        let entry = Entry {
            subject: "channel",
            subject_id: channel.name,
            author,
            action: if source.is_some() { "changed" } else { "added" },
            // Never the settings: they hold secrets.
            detail: &format!("{}: {}", channel.kind, channel.shown),
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Has alerts sent to a channel of people's, or not. One that its receiver switched off (410) can be
    /// switched on again wherever it comes from.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn enable_channel(
        &self,
        name: &str,
        enabled: bool,
        author: &str,
    ) -> Result<Changed, StoreError> {
        let statement = sqlx::query(
            "update culprit.alert_channels set enabled = $2, failures = 0, paused_until = null
             where name = $1",
        );
        let action = if enabled { "enabled" } else { "disabled" };
        let statement = statement.bind(name).bind(enabled);
        let may = |source| source == Source::Ui || enabled;
        self.change_configured(configured::CHANNELS, name, author, action, may, statement)
            .await
    }

    /// Takes a channel of people's away. What waits for it stays in the outbox.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn delete_channel(&self, name: &str, author: &str) -> Result<Changed, StoreError> {
        let statement = sqlx::query("delete from culprit.alert_channels where name = $1");
        let may = |source| source == Source::Ui;
        self.change_configured(
            configured::CHANNELS,
            name,
            author,
            "deleted",
            may,
            statement.bind(name),
        )
        .await
    }

    /// A channel's receiver has taken a message: it will take those that it did not take before, too.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn note_success(&self, name: &str, now_ms: i64) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "update culprit.alert_channels
             set failures = 0, paused_until = null, last_error = null,
                 last_success_at = to_timestamp($2 / 1000.0)
             where name = $1",
        )
        .bind(name)
        .bind(now_ms)
        .execute(&mut *transaction)
        .await?;
        hasten(&mut transaction, name, None).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A channel's receiver has not taken a message. Gives the failures in a row, this one included;
    /// 0 if there is no such channel (any more).
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn note_failure(&self, name: &str, error: &str) -> Result<i32, StoreError> {
        let error = error.replace('\0', "\u{fffd}");
        let error = &error[..error.floor_char_boundary(ERROR_BYTES_MAX)];
        let failures = sqlx::query_scalar(
            "update culprit.alert_channels
             set failures = least(failures, 1000000) + 1, last_error = $2
             where name = $1 returning failures",
        )
        .bind(name)
        .bind(error)
        .fetch_optional(self.pool())
        .await?;
        Ok(failures.unwrap_or_default())
    }

    /// Sends nothing to a channel before `until_ms`.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn pause_channel(&self, name: &str, until_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.alert_channels set paused_until = to_timestamp($2 / 1000.0)
             where name = $1",
        )
        .bind(name)
        .bind(until_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::store;

    fn configured(name: &str, shown: &str) -> ConfiguredChannel {
        ConfiguredChannel {
            name: name.into(),
            kind: "webhook".into(),
            shown: shown.into(),
            told_by: "--alert-webhook".into(),
        }
    }

    fn new<'a>(name: &'a str, settings: &'a Value) -> NewChannel<'a> {
        NewChannel {
            name,
            kind: "slack",
            settings,
            shown: "hooks.slack.com",
            enabled: true,
        }
    }

    #[tokio::test]
    async fn configured_channels_go_over_peoples_and_go_with_their_flag() {
        let store = store().await;
        let secret = json!({"kind": "slack", "url": "https://hooks.slack.com/hush"});
        for name in ["webhook", "mine"] {
            let put = store.put_channel(&new(name, &secret), "Ann").await;
            assert_eq!(put.unwrap(), Changed::Done);
        }
        let flags = [configured("webhook", "a.example")];
        store.sync_channels(Source::Flag, &flags).await.unwrap();
        store.sync_channels(Source::File, &[]).await.unwrap();
        let channels = store.channels().await.unwrap();
        let lines: Vec<_> = channels
            .iter()
            .map(|it| (&*it.name, it.source().name(), &*it.shown))
            .collect();
        assert_eq!(
            lines,
            [
                ("mine", "ui", "hooks.slack.com"),
                ("webhook", "flag", "a.example")
            ]
        );
        assert_eq!(channels[1].settings, json!({}), "what is replaced is gone");
        let fixed = Changed::Fixed(Source::Flag);
        assert_eq!(
            store
                .put_channel(&new("webhook", &secret), "")
                .await
                .unwrap(),
            fixed
        );
        assert_eq!(
            store.enable_channel("webhook", false, "").await.unwrap(),
            fixed
        );
        assert_eq!(store.delete_channel("webhook", "").await.unwrap(), fixed);
        store.sync_channels(Source::Flag, &[]).await.unwrap();
        assert_eq!(store.channels().await.unwrap().len(), 1);
        assert_eq!(
            store.delete_channel("mine", "Ann").await.unwrap(),
            Changed::Done
        );
        assert_eq!(
            store.delete_channel("mine", "Ann").await.unwrap(),
            Changed::Missing
        );
        for it in store.history("channel", "mine").await.unwrap() {
            assert!(!it.detail.contains("hush"), "{it:?}");
        }
        assert!(!format!("{channels:?}").contains("hush"));
    }

    #[tokio::test]
    async fn failures_are_counted_until_one_arrives() {
        let store = store().await;
        let flags = [configured("webhook", "a.example")];
        store.sync_channels(Source::Flag, &flags).await.unwrap();
        assert_eq!(store.note_failure("webhook", "503\0").await.unwrap(), 1);
        assert_eq!(
            store
                .note_failure("webhook", &"é".repeat(900))
                .await
                .unwrap(),
            2
        );
        store
            .pause_channel("webhook", 1_700_000_000_123)
            .await
            .unwrap();
        let it = store.channel("webhook").await.unwrap().unwrap();
        assert_eq!(
            (it.failures, it.paused_until_ms),
            (2, Some(1_700_000_000_123))
        );
        assert_eq!(it.last_error.unwrap().len(), ERROR_BYTES_MAX);
        store
            .note_success("webhook", 1_700_000_000_456)
            .await
            .unwrap();
        let it = store.channel("webhook").await.unwrap().unwrap();
        assert_eq!(
            (it.failures, it.paused_until_ms, it.last_error),
            (0, None, None)
        );
        assert_eq!(it.last_success_ms, Some(1_700_000_000_456));
        // It leads elsewhere now.
        let flags = [configured("webhook", "b.example")];
        store.sync_channels(Source::Flag, &flags).await.unwrap();
        let it = store.channel("webhook").await.unwrap().unwrap();
        assert_eq!(it.last_success_ms, None);
        assert_eq!(store.note_failure("nobody", "").await.unwrap(), 0);
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let store = store().await;
        let flags: Vec<_> = (0..CHANNELS_MAX)
            .map(|it| configured(&it.to_string(), ""))
            .collect();
        store.sync_channels(Source::Flag, &flags).await.unwrap();
        let put = store.put_channel(&new("one more", &json!({})), "").await;
        assert_eq!(put.unwrap(), Changed::TooMany(CHANNELS_MAX));
    }
}
