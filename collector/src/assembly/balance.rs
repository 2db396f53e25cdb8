//! Which shards this process analyses: an even share of all, agreed on through the database alone.
//!
//! Every analyzer renews a row that says it lives, and sees the rows of the others. The list of who lives,
//! sorted, gives each exactly one share, so nobody has to be asked. Who holds more than its share ends some
//! shards in good order and gives their leases back; who holds less takes free ones. For a moment two
//! processes may see different lists: then a shard is free, or moves once more. Nothing is ever written
//! twice, because the leases fence.

use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::Store;
use crate::store::leases::Standing;

/// How often shares are looked at. Together with the leases' age this bounds how long a dead process's
/// shards stay alone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One shard's place in this process: says when its owner may work, and when it must end.
pub(super) struct Seat {
    /// The shard.
    pub(super) shard: i16,
    turn: watch::Receiver<Option<CancellationToken>>,
}

impl Seat {
    /// Waits until this process is to own the shard. The token is cancelled when it no longer is, and at
    /// shutdown; `None` at shutdown.
    pub(super) async fn turn(&mut self) -> Option<CancellationToken> {
        loop {
            let turn = self.turn.borrow_and_update().clone();
            match turn {
                Some(turn) if !turn.is_cancelled() => return Some(turn),
                // The sender goes at shutdown.
                _ => self.turn.changed().await.ok()?,
            }
        }
    }
}

/// Decides about all seats.
pub(super) struct Balancer {
    store: Store,
    process: Uuid,
    alone: bool,
    shutdown: CancellationToken,
    turns: Vec<watch::Sender<Option<CancellationToken>>>,
}

impl Balancer {
    /// A seat for every shard, none of them granted yet. With `alone` nobody else works on the database.
    pub(super) fn new(
        store: &Store,
        process: Uuid,
        alone: bool,
        shutdown: &CancellationToken,
    ) -> (Balancer, Vec<Seat>) {
        let seats = (0..store.shards() as i16).map(|shard| {
            let (sender, turn) = watch::channel(None);
            (sender, Seat { shard, turn })
        });
        let (turns, seats) = seats.unzip();
        let balancer = Balancer {
            store: store.clone(),
            process,
            alone,
            shutdown: shutdown.clone(),
            turns,
        };
        (balancer, seats)
    }

    /// Grants and takes back until shutdown.
    pub(super) async fn run(self) {
        while !self.shutdown.is_cancelled() {
            match self.wanted().await {
                Ok(wanted) => self.seat(&wanted),
                // What is held stays held: the leases know better.
                Err(error) => tracing::debug!(%error, "shares are not known"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        if !self.alone
            && let Err(error) = self.store.leave_analyzers(self.process).await
        {
            tracing::debug!(%error, "the others see this process's end later");
        }
    }

    async fn wanted(&self) -> Result<HashSet<i16>, crate::store::StoreError> {
        if self.alone {
            return Ok((0..self.turns.len() as i16).collect());
        }
        let analyzers = self.store.join_analyzers(self.process).await?;
        let standing = self.store.standing(self.process).await?;
        let rank = analyzers.iter().position(|it| *it == self.process);
        let share = share(self.turns.len(), analyzers.len(), rank.unwrap_or_default());
        Ok(choose(self.turns.len() as i16, share, &standing))
    }

    fn seat(&self, wanted: &HashSet<i16>) {
        for (shard, sender) in self.turns.iter().enumerate() {
            let wanted = wanted.contains(&(shard as i16));
            sender.send_if_modified(|turn| match (wanted, turn.take()) {
                (true, None) => {
                    *turn = Some(self.shutdown.child_token());
                    true
                }
                (true, kept) => {
                    *turn = kept;
                    false
                }
                (false, None) => false,
                (false, Some(granted)) => {
                    granted.cancel();
                    true
                }
            });
        }
    }
}

/// How many of `shards` are the share of the one who is number `rank` of `members`: all shares together
/// are all shards, and differ by one at most.
fn share(shards: usize, members: usize, rank: usize) -> usize {
    let members = members.max(1);
    shards / members + usize::from(rank < shards % members)
}

/// Which shards to have: of those held as many as the share allows, then free ones up to it.
fn choose(shards: i16, share: usize, standing: &[Standing]) -> HashSet<i16> {
    let is = |shard: i16, is: fn(&Standing) -> bool| {
        standing.iter().find(|it| it.shard == shard).map(is)
    };
    let held = (0..shards).filter(|shard| is(*shard, |it| it.mine) == Some(true));
    // A shard without a lease was never owned.
    let free = (0..shards).filter(|shard| is(*shard, |it| it.free && !it.mine).unwrap_or(true));
    held.chain(free).take(share).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::assembly;

    /// What users are promised.
    const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);

    /// An analyzer as a process of its own would run it.
    fn analyzer(store: &Store) -> (JoinHandle<()>, CancellationToken) {
        let shutdown = CancellationToken::new();
        let run = assembly::run(
            store.clone(),
            assembly::Options::default(),
            Arc::default(),
            shutdown.clone(),
        );
        (tokio::spawn(run), shutdown)
    }

    /// How many shards each owner has, sorted.
    async fn shares(store: &Store) -> Vec<i64> {
        sqlx::query_scalar(
            "select count(*) from culprit.leases
             where shard >= 0 and owner is not null and expires_at > now() group by owner order by 1",
        )
        .fetch_all(store.pool())
        .await
        .unwrap()
    }

    /// Waits for these shares; panics after [`TAKEN_OVER_WITHIN`].
    async fn expect_shares(store: &Store, expected: &[i64]) {
        let since = Instant::now();
        loop {
            let seen = shares(store).await;
            if seen == expected {
                return;
            }
            assert!(
                since.elapsed() < TAKEN_OVER_WITHIN,
                "{seen:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shards_are_shared_evenly_whoever_comes_and_goes() {
        let store = crate::testing::store_with_shards(16).await;
        let (first, stop_first) = analyzer(&store);
        expect_shares(&store, &[16]).await;
        let (second, _) = analyzer(&store);
        let (third, stop_third) = analyzer(&store);
        expect_shares(&store, &[5, 5, 6]).await;

        // Dies without a word: its leases and its row stay until they expire.
        second.abort();
        expect_shares(&store, &[8, 8]).await;

        stop_third.cancel();
        third.await.unwrap();
        expect_shares(&store, &[16]).await;
        stop_first.cancel();
        first.await.unwrap();
        assert_eq!(shares(&store).await, Vec::<i64>::new());
        let left: i64 = sqlx::query_scalar(
            "select count(*) from culprit.analyzers where seen_at > now() - interval '2 s'",
        )
        .fetch_one(store.pool())
        .await
        .unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn shares_are_even_and_complete() {
        for shards in 1..40 {
            for members in 1..20 {
                let shares: Vec<_> = (0..members).map(|it| share(shards, members, it)).collect();
                assert_eq!(shares.iter().sum::<usize>(), shards);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn what_is_held_goes_before_what_is_free() {
        let standing = |shard, mine, free| Standing { shard, mine, free };
        // 0 is another's, 1 and 3 ours, 2 expired, 4 was never owned.
        let standings = [
            standing(0, false, false),
            standing(1, true, false),
            standing(2, false, true),
            standing(3, true, false),
        ];
        assert_eq!(choose(5, 1, &standings), [1].into());
        assert_eq!(choose(5, 3, &standings), [1, 3, 2].into());
        assert_eq!(choose(5, 9, &standings), [1, 3, 2, 4].into());
    }
}
