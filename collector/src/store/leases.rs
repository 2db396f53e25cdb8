//! Who may write a shard's results. Ownership is fenced: every writing transaction starts by
//! renewing its lease, so that an owner that was stopped and comes back cannot write.

use std::time::Duration;
use uuid::Uuid;

use super::journal::blame;
use super::pool::Connection;
use super::{Store, StoreError};

/// The review's shard: it is one task for all shards.
pub const REVIEW_SHARD: i16 = -1;

/// Retention's shard: one process at a time takes days away.
pub const RETENTION_SHARD: i16 = -2;

/// The shard of the watch for regressions: one task for all endpoints.
pub const REGRESSION_SHARD: i16 = -3;

/// A lease that is not renewed for this long is anybody's, and an analyzer that is not heard of for this
/// long has no share. Long enough for a pause of the whole machine's scheduling; short enough that a dead
/// process's shards are taken over, and findings go on, within a quarter of a minute.
const LEASE_SECONDS: f64 = 10.0;

/// How often a lease is renewed: three times until others may take it.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Rows of analyzers that ended without a word are swept out after this long.
const FORGOTTEN_SECONDS: f64 = 3_600.0;

/// A process, as leases know it: the same in everything that it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id, of this run.
    pub id: Uuid,
    /// The database is its alone: leases of a former process are taken at once.
    pub sole_owner: bool,
}

impl Process {
    /// One that begins.
    pub fn new(sole_owner: bool) -> Process {
        Process {
            id: Uuid::now_v7(),
            sole_owner,
        }
    }
}

/// One of several, or so it must be assumed.
impl Default for Process {
    fn default() -> Process {
        Process::new(false)
    }
}

/// The right to write one shard's results, until somebody else takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The shard.
    pub shard: i16,
    /// Who holds it: one id per process.
    pub owner: Uuid,
    /// Rises with every change of owner.
    pub epoch: i64,
    /// The former owner was another one and never gave it back: it died, or it was stopped.
    pub orphaned: bool,
}

/// How a shard's lease stands, as one process sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Standing {
    /// The shard.
    pub shard: i16,
    /// It is that process's, even if it has expired.
    pub mine: bool,
    /// Anybody may take it.
    pub free: bool,
}

impl Store {
    /// Says that an analyzer lives; returns all that do, itself among them, in an order that is the same
    /// for everyone. Holders of leases count too: processes of a version that does not say that they live.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn join_analyzers(&self, process: Uuid) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query(
            "with forgotten as (
                delete from culprit.analyzers where seen_at < now() - make_interval(secs => $2))
             insert into culprit.analyzers (process) values ($1)
             on conflict (process) do update set seen_at = now()",
        )
        .bind(process)
        .bind(FORGOTTEN_SECONDS)
        .execute(self.pool())
        .await?;
        let processes = sqlx::query_scalar(
            "select process from culprit.analyzers
             where seen_at > now() - make_interval(secs => $1)
             union
             select owner from culprit.leases
             where shard >= 0 and owner is not null and expires_at > now()
             order by 1",
        )
        .bind(LEASE_SECONDS)
        .fetch_all(self.pool())
        .await?;
        Ok(processes)
    }

    /// An analyzer ends: the others need not wait to see it.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn leave_analyzers(&self, process: Uuid) -> Result<(), StoreError> {
        sqlx::query("delete from culprit.analyzers where process = $1")
            .bind(process)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// How the leases of all shards stand for `process`; shards that nobody ever owned have none.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn standing(&self, process: Uuid) -> Result<Vec<Standing>, StoreError> {
        let standing = sqlx::query_as(
            "select shard, owner is not distinct from $1 as mine,
                    owner is null or expires_at < now() as free
             from culprit.leases where shard >= 0 order by shard",
        )
        .bind(process)
        .fetch_all(self.pool())
        .await?;
        Ok(standing)
    }

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
        let taken: Option<(i64, bool)> = sqlx::query_as(
            "with former as (select owner from culprit.leases where shard = $1 for update)
             update culprit.leases l
             set owner = $2, epoch = epoch + 1, expires_at = now() + make_interval(secs => $4)
             from former
             where l.shard = $1
               and (l.owner is null or l.owner = $2 or l.expires_at < now() or $3)
             returning l.epoch, coalesce(former.owner <> $2, false)",
        )
        .bind(shard)
        .bind(owner)
        .bind(even_if_held)
        .bind(LEASE_SECONDS)
        .fetch_optional(self.pool())
        .await?;
        Ok(taken.map(|(epoch, orphaned)| Lease {
            shard,
            owner,
            epoch,
            orphaned,
        }))
    }

    /// Renews a lease without writing anything else.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else has it; or Postgres cannot be reached.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        // Its owner may be in the middle of an analysis: that note stays.
        let renewed = sqlx::query(
            "update culprit.leases set expires_at = now() + make_interval(secs => $4)
             where shard = $1 and owner = $2 and epoch = $3",
        )
        .bind(lease.shard)
        .bind(lease.owner)
        .bind(lease.epoch)
        .bind(LEASE_SECONDS)
        .execute(self.pool())
        .await?;
        held(lease, renewed.rows_affected())
    }

    /// Renews a lease, whatever its owner is busy with; returns why when it is lost.
    pub async fn keep_lease(&self, lease: &Lease) -> StoreError {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match self.renew_lease(lease).await {
                Err(lost @ StoreError::LeaseLost(_)) => return lost,
                Err(error) => tracing::debug!(%error, "a lease is not renewed"),
                Ok(()) => {}
            }
        }
    }

    /// Notes which journal rows the owner is about to analyse; none: the analysis has ended well.
    /// [`renew`], which every result is written with, takes the note away too.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else has it; or Postgres cannot be reached.
    pub async fn note_analysing(&self, lease: &Lease, rows: &[Uuid]) -> Result<(), StoreError> {
        let noted = sqlx::query(
            "update culprit.leases set analysing = nullif($4::uuid[], '{}')
             where shard = $1 and owner = $2 and epoch = $3",
        )
        .bind(lease.shard)
        .bind(lease.owner)
        .bind(lease.epoch)
        .bind(rows)
        .execute(self.pool())
        .await?;
        held(lease, noted.rows_affected())
    }

    /// Counts a death against the rows that the dead owner was analysing, if it noted any, and takes
    /// its note away. Not idempotent, and need not be: the note goes in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if somebody else has it; or Postgres cannot be reached.
    pub async fn blame_analysed(&self, lease: &Lease) -> Result<u64, StoreError> {
        let mut transaction = self.pool().begin().await?;
        let rows: Option<Vec<Uuid>> = sqlx::query_scalar(
            "select analysing from culprit.leases
             where shard = $1 and owner = $2 and epoch = $3 for update",
        )
        .bind(lease.shard)
        .bind(lease.owner)
        .bind(lease.epoch)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(StoreError::LeaseLost(lease.shard))?;
        let blamed = blame(
            &mut transaction,
            lease.shard,
            rows.as_deref().unwrap_or_default(),
        )
        .await?;
        renew(&mut transaction, lease).await?;
        transaction.commit().await?;
        Ok(blamed)
    }

    /// Gives a lease back, so that a successor need not wait for it to expire.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        sqlx::query(
            "update culprit.leases set owner = null, expires_at = '-infinity', analysing = null
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
pub(super) async fn renew(connection: &mut Connection, lease: &Lease) -> Result<(), StoreError> {
    let renewed = sqlx::query(
        "update culprit.leases
         set expires_at = now() + make_interval(secs => $4), analysing = null
         where shard = $1 and owner = $2 and epoch = $3",
    )
    .bind(lease.shard)
    .bind(lease.owner)
    .bind(lease.epoch)
    .bind(LEASE_SECONDS)
    .execute(connection)
    .await?;
    held(lease, renewed.rows_affected())
}

fn held(lease: &Lease, rows_affected: u64) -> Result<(), StoreError> {
    if rows_affected == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost(lease.shard))
    }
}
