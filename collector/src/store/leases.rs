//! Who may write a shard's results. Ownership is fenced: every writing transaction starts by
//! renewing its lease, so that an owner that was stopped and comes back cannot write.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Store, StoreError};

/// The review's shard: it is one task for all shards.
pub const REVIEW_SHARD: i16 = -1;

/// Retention's shard: one process at a time takes days away.
pub const RETENTION_SHARD: i16 = -2;

/// A lease that is not renewed for this long is anybody's. Long enough for a pause of the whole
/// machine's scheduling, short enough that findings go on within a quarter of a minute.
const LEASE_SECONDS: f64 = 15.0;

/// The right to write one shard's results, until somebody else takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The shard.
    pub shard: i16,
    /// Who holds it: one id per process.
    pub owner: Uuid,
    /// Rises with every change of owner.
    pub epoch: i64,
}

impl Store {
    /// Takes a shard's lease if it is free, expired, or already `owner`'s. With `even_if_held`,
    /// takes it anyhow: for a database that is this process's alone, whose former owner is dead.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn acquire_lease(
        &self,
        shard: i16,
        owner: Uuid,
        even_if_held: bool,
    ) -> Result<Option<Lease>, StoreError> {
        sqlx::query("insert into culprit.leases (shard) values ($1) on conflict do nothing")
            .bind(shard)
            .execute(self.pool())
            .await?;
        let epoch: Option<i64> = sqlx::query_scalar(
            "update culprit.leases
             set owner = $2, epoch = epoch + 1, expires_at = now() + make_interval(secs => $4)
             where shard = $1 and (owner is null or owner = $2 or expires_at < now() or $3)
             returning epoch",
        )
        .bind(shard)
        .bind(owner)
        .bind(even_if_held)
        .bind(LEASE_SECONDS)
        .fetch_optional(self.pool())
        .await?;
        Ok(epoch.map(|epoch| Lease {
            shard,
            owner,
            epoch,
        }))
    }

    /// Renews a lease without writing anything else.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else has it; or Postgres cannot be reached.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut connection = self.pool().acquire().await?;
        renew(&mut connection, lease).await
    }

    /// Gives a lease back, so that a successor need not wait for it to expire.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.leases set owner = null, expires_at = '-infinity'
             where shard = $1 and owner = $2 and epoch = $3",
        )
        .bind(lease.shard)
        .bind(lease.owner)
        .bind(lease.epoch)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

/// The fence: the first statement of every transaction that writes a shard's results.
pub(super) async fn renew(connection: &mut PgConnection, lease: &Lease) -> Result<(), StoreError> {
    let renewed = sqlx::query(
        "update culprit.leases set expires_at = now() + make_interval(secs => $4)
         where shard = $1 and owner = $2 and epoch = $3",
    )
    .bind(lease.shard)
    .bind(lease.owner)
    .bind(lease.epoch)
    .bind(LEASE_SECONDS)
    .execute(connection)
    .await?;
    if renewed.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost(lease.shard))
    }
}
