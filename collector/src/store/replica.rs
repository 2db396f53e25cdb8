//! Reading from a replica: what it does not have yet is asked of the primary, and pages say how old it is.

use std::time::Duration;

use super::{Store, StoreError};

impl Store {
    /// This store reads from a replica, and asks `primary` for single things that are missing.
    pub fn behind(self, primary: &Store) -> Store {
        Store {
            primary: Some(primary.pool.clone()),
            ..self
        }
    }

    /// The primary, if this is a replica's store.
    pub(super) fn primary(&self) -> Option<Store> {
        let pool = self.primary.clone()?;
        Some(Store {
            pool,
            shards: self.shards,
            primary: None,
        })
    }

    /// Where people's changes are written, and read back at once: the primary, if this reads from a
    /// replica.
    pub fn for_changes(&self) -> Store {
        self.primary().unwrap_or_else(|| self.clone())
    }

    /// This store reads from a replica.
    pub fn is_replica(&self) -> bool {
        self.primary.is_some()
    }

    /// How far the replica is behind its primary; nothing for a primary, or before anything was replayed.
    /// culprit writes every second, so the age of the last replayed commit tells.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn lag(&self) -> Result<Option<Duration>, StoreError> {
        let seconds: Option<f64> = sqlx::query_scalar(
            "select case when pg_is_in_recovery()
                then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 end",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(seconds.map(|it| Duration::from_secs_f64(it.max(0.0))))
    }
}
