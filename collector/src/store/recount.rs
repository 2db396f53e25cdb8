//! What a recount reads: every block, with the traces that count.

use super::{Store, StoreError};
use crate::deltas::Day;

impl Store {
    /// A shard's blocks by (day, id), ascending.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn block_keys(&self, shard: i16) -> Result<Vec<(Day, i64)>, StoreError> {
        let keys = sqlx::query_as(
            "select day - date '1970-01-01', id from culprit.trace_blocks
             where shard = $1 order by day, id",
        )
        .bind(shard)
        .fetch_all(self.pool())
        .await?;
        Ok(keys)
    }
}
