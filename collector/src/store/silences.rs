//! Times in which nobody wants to hear of some alerts: silences and maintenance windows.

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::rules::Changed;
use super::{Store, StoreError};

/// Silences at most that are not over: every alert is compared with each. Beyond it none is added,
/// and who tries is told.
pub const SILENCES_MAX: i64 = 200;

/// Those that are over are listed back to so many.
const EXPIRED_SHOWN: i64 = 100;

/// Nobody is told of alerts with these labels in this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silence {
    /// Names it.
    pub id: Uuid,
    /// Why.
    pub kind: SilenceKind,
    /// All of them have to match; at least one.
    pub matchers: Vec<Matcher>,
    /// From then on, ms since the epoch.
    pub starts_ms: i64,
    /// Until then, ms since the epoch.
    pub ends_ms: i64,
    /// Who wants it.
    pub author: String,
    /// Why, in words.
    pub comment: String,
    /// Made when, ms since the epoch.
    pub created_ms: i64,
    /// Who ended it before its time.
    pub ended_by: Option<String>,
}

/// Why nobody wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SilenceKind {
    /// It is known.
    Silence,
    /// Something is worked on, and alerts are to be expected.
    Maintenance,
}

impl SilenceKind {
    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        ["silence", "maintenance"][self as usize]
    }
}

/// A label has this value; `*` matches anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Matcher {
    /// `service`
    pub label: String,
    /// `shop*`
    pub value: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    kind: String,
    matchers: Json<Vec<Matcher>>,
    starts_ms: i64,
    ends_ms: i64,
    author: String,
    comment: String,
    created_ms: i64,
    ended_by: Option<String>,
}

impl From<Row> for Silence {
    fn from(row: Row) -> Silence {
        Silence {
            id: row.id,
            kind: match row.kind.as_str() {
                "maintenance" => SilenceKind::Maintenance,
                _ => SilenceKind::Silence,
            },
            matchers: row.matchers.0,
            starts_ms: row.starts_ms,
            ends_ms: row.ends_ms,
            author: row.author,
            comment: row.comment,
            created_ms: row.created_ms,
            ended_by: row.ended_by,
        }
    }
}

const COLUMNS: &str = "id, kind, matchers, author, comment, ended_by,
    (extract(epoch from starts_at) * 1000)::bigint as starts_ms,
    (extract(epoch from ends_at) * 1000)::bigint as ends_ms,
    (extract(epoch from created_at) * 1000)::bigint as created_ms";

impl Store {
    /// Silences that hold at `now_ms`, the oldest first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn active_silences(&self, now_ms: i64) -> Result<Vec<Silence>, StoreError> {
        let mut silences = self.unended_silences(now_ms).await?;
        silences.retain(|it| it.starts_ms <= now_ms);
        Ok(silences)
    }

    /// Silences that hold at `now_ms` or will, the first to begin first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn unended_silences(&self, now_ms: i64) -> Result<Vec<Silence>, StoreError> {
        self.silences_where(
            "ended_by is null and ends_at > to_timestamp($1 / 1000.0)
             order by starts_at, id limit $2",
            now_ms,
            // More than may be made: two may be made at once.
            SILENCES_MAX * 2,
        )
        .await
    }

    /// The latest silences that are over at `now_ms`, the last to end first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn expired_silences(&self, now_ms: i64) -> Result<Vec<Silence>, StoreError> {
        self.silences_where(
            "(ended_by is not null or ends_at <= to_timestamp($1 / 1000.0))
             order by ends_at desc, id limit $2",
            now_ms,
            EXPIRED_SHOWN,
        )
        .await
    }

    async fn silences_where(
        &self,
        condition: &'static str,
        now_ms: i64,
        limit: i64,
    ) -> Result<Vec<Silence>, StoreError> {
        let text = format!("select {COLUMNS} from culprit.silences where {condition}");
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(now_ms)
            .bind(limit)
            .fetch_all(self.for_changes().pool())
            .await?;
        Ok(rows.into_iter().map(Silence::from).collect())
    }

    /// One silence.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn silence(&self, id: Uuid) -> Result<Option<Silence>, StoreError> {
        let text = format!("select {COLUMNS} from culprit.silences where id = $1");
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id)
            .fetch_optional(self.for_changes().pool())
            .await?;
        Ok(row.map(Silence::from))
    }

    /// Stores a silence. One with this id that is there already is left as it is.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn add_silence(&self, silence: &Silence) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let there: i64 = sqlx::query_scalar(
            "select count(*) from culprit.silences
             where ended_by is null and ends_at > to_timestamp($1 / 1000.0)",
        )
        .bind(silence.created_ms)
        .fetch_one(&mut *transaction)
        .await?;
        if there >= SILENCES_MAX {
            return Ok(Changed::TooMany(SILENCES_MAX));
        }
        let added = sqlx::query(
            "insert into culprit.silences (id, kind, matchers, starts_at, ends_at, author, comment, created_at)
             values ($1, $2, $3, to_timestamp($4 / 1000.0), to_timestamp($5 / 1000.0), $6, $7,
                     to_timestamp($8 / 1000.0))
             on conflict do nothing",
        )
        .bind(silence.id)
        .bind(silence.kind.name())
        .bind(Json(&silence.matchers))
        .bind(silence.starts_ms)
        .bind(silence.ends_ms)
        .bind(&silence.author)
        .bind(&silence.comment)
        .bind(silence.created_ms)
        .execute(&mut *transaction)
        .await?;
        if added.rows_affected() > 0 {
            let entry = Entry {
                subject: "silence",
                subject_id: &silence.id.to_string(),
                author: &silence.author,
                action: "added",
                detail: &silence.comment,
            };
            audit::note(&mut transaction, entry).await?;
        }
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Ends a silence at `now_ms`, before its time; one that has not begun never will.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn end_silence(
        &self,
        id: Uuid,
        now_ms: i64,
        author: &str,
    ) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        let ended = sqlx::query(
            "update culprit.silences
             set ended_by = $3, ends_at = greatest(starts_at, to_timestamp($2 / 1000.0))
             where id = $1 and ended_by is null and ends_at > to_timestamp($2 / 1000.0)",
        )
        .bind(id)
        .bind(now_ms)
        .bind(author)
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(Changed::Missing);
        }
        let entry = Entry {
            subject: "silence",
            subject_id: &id.to_string(),
            author,
            action: "ended",
            detail: "",
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    const NOW: i64 = 1_700_000_000_000;

    fn silence(id: u128, starts_ms: i64, ends_ms: i64) -> Silence {
        Silence {
            id: Uuid::from_u128(id),
            kind: SilenceKind::Maintenance,
            matchers: vec![Matcher {
                label: "service".into(),
                value: "shop*".into(),
            }],
            starts_ms,
            ends_ms,
            author: "Ann".into(),
            comment: "the database moves".into(),
            created_ms: NOW,
            ended_by: None,
        }
    }

    fn ids(silences: &[Silence]) -> Vec<u128> {
        silences.iter().map(|it| it.id.as_u128()).collect()
    }

    #[tokio::test]
    async fn silences_hold_from_their_beginning_to_their_end() {
        let store = store().await;
        for it in [
            silence(1, NOW - 10, NOW + 10),
            silence(2, NOW + 5, NOW + 20),
            silence(3, NOW - 20, NOW - 10),
        ] {
            assert_eq!(store.add_silence(&it).await.unwrap(), Changed::Done);
            // Sent twice.
            assert_eq!(store.add_silence(&it).await.unwrap(), Changed::Done);
        }
        let active = store.active_silences(NOW).await.unwrap();
        assert_eq!(active, [silence(1, NOW - 10, NOW + 10)]);
        let active = async |now_ms| ids(&store.active_silences(now_ms).await.unwrap());
        assert_eq!(active(NOW + 5).await, [1, 2]);
        assert_eq!(active(NOW + 10).await, [2]);
        assert_eq!(ids(&store.unended_silences(NOW).await.unwrap()), [1, 2]);
        assert_eq!(ids(&store.expired_silences(NOW).await.unwrap()), [3]);
        let end = async |id| {
            store
                .end_silence(Uuid::from_u128(id), NOW, "Bob")
                .await
                .unwrap()
        };
        assert_eq!(end(2).await, Changed::Done);
        assert_eq!(end(1).await, Changed::Done);
        assert_eq!(end(1).await, Changed::Missing, "it is over");
        assert_eq!(active(NOW + 5).await, [0; 0]);
        let two = store.silence(Uuid::from_u128(2)).await.unwrap().unwrap();
        assert_eq!(
            (two.ends_ms, two.ended_by.as_deref()),
            (NOW + 5, Some("Bob"))
        );
        let one = store.silence(Uuid::from_u128(1)).await.unwrap().unwrap();
        assert_eq!(one.ends_ms, NOW);
        let audit = store.history("silence", &one.id.to_string()).await.unwrap();
        let audit: Vec<_> = audit.iter().map(|it| (&*it.author, &*it.action)).collect();
        assert_eq!(audit, [("Bob", "ended"), ("Ann", "added")]);
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let store = store().await;
        for it in 0..SILENCES_MAX as u128 {
            store
                .add_silence(&silence(it, NOW, NOW + 10))
                .await
                .unwrap();
        }
        let refused = store
            .add_silence(&silence(999, NOW, NOW + 10))
            .await
            .unwrap();
        assert_eq!(refused, Changed::TooMany(SILENCES_MAX));
        // Those that are over do not count.
        let mut later = silence(1_000, NOW + 10, NOW + 20);
        later.created_ms = NOW + 10;
        assert_eq!(store.add_silence(&later).await.unwrap(), Changed::Done);
    }
}
