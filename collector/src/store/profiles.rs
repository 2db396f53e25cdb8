//! The call-path profiles of an endpoint's hours.

use analyzer::profile::{Profile, ProfileSum};
use futures_util::TryStreamExt;
use sqlx::Row;
use std::ops::Range;

use super::bottlenecks::Minutes;
use super::{Store, StoreError, encoding};

/// Which requests a profile is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// All of them.
    All,
    /// Those that were in the slow tail when they were counted.
    Tail,
}

/// A profile and what it is of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Counted {
    /// The call paths, folded together.
    pub profile: Profile,
    /// Requests in it, weighted.
    pub requests: i64,
}

/// An endpoint's profiles.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profiles {
    /// Of all requests.
    pub all: Counted,
    /// Of the slow tail, which is a part of them.
    pub tail: Counted,
}

impl Profiles {
    /// One of them.
    pub fn of(&self, share: Share) -> &Counted {
        match share {
            Share::All => &self.all,
            Share::Tail => &self.tail,
        }
    }
}

/// Minutes in an hour's roll-up.
const HOUR_MINUTES: i32 = 60;

/// Versions told of an endpoint at most, the newest: as many as anybody chooses from.
const VERSIONS_MAX: i64 = 100;

/// The hours that a range of minutes touches, since the epoch.
pub fn hours(minutes: Minutes) -> Range<i32> {
    let end = minutes.to.saturating_sub(1).div_euclid(HOUR_MINUTES) + 1;
    minutes.from.div_euclid(HOUR_MINUTES)..end
}

impl Store {
    /// The call paths of an endpoint's requests in `hours` (since the epoch), folded together: of
    /// one version (empty: of senders that set none) or of all. Days decide for themselves which
    /// rare paths are counted apart, so several of them may have more paths than one profile keeps;
    /// the later ones are `(other)` then.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_profiles(
        &self,
        id: i32,
        hours: Range<i32>,
        version: Option<&str>,
    ) -> Result<Profiles, StoreError> {
        let (mut all, mut tail) = (ProfileSum::default(), ProfileSum::default());
        let mut tail_requests = 0;
        // In a fixed order: where paths have to be folded, every reader folds the same ones.
        let mut rows = sqlx::query(
            "select r.profile, r.tail_requests, r.tail_profile
             from culprit.rollup_hours r
             where r.endpoint_id = $1 and r.hour >= $2 and r.hour < $3
               and ($4::text is null
                    or r.version_id in (select id from culprit.versions where version = $4))
             order by r.hour, r.version_id, r.part, r.shard, r.day",
        )
        .bind(id)
        .bind(hours.start)
        .bind(hours.end)
        .bind(version)
        .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            all.merge(&encoding::profile(row.try_get("profile")?)?, 1);
            tail.merge(&encoding::profile(row.try_get("tail_profile")?)?, 1);
            tail_requests += row.try_get::<i64, _>("tail_requests")?;
        }
        let all = all.total();
        // The entry span's own frame is counted once per request.
        let entries = all.nodes.iter().filter(|it| it.parent.is_none());
        let requests = entries.map(|it| it.count).sum();
        Ok(Profiles {
            all: Counted {
                profile: all,
                requests,
            },
            tail: Counted {
                profile: tail.total(),
                requests: tail_requests,
            },
        })
    }

    /// The versions whose requests an endpoint's profiles of `hours` hold, the newest first; empty
    /// for senders that set none.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn endpoint_versions(
        &self,
        id: i32,
        hours: Range<i32>,
    ) -> Result<Vec<String>, StoreError> {
        let versions = sqlx::query_scalar(
            "select v.version from culprit.versions v
             where v.id in (select version_id from culprit.rollup_hours
                            where endpoint_id = $1 and hour >= $2 and hour < $3)
             order by v.first_seen desc, v.id desc limit $4",
        )
        .bind(id)
        .bind(hours.start)
        .bind(hours.end)
        .bind(VERSIONS_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::category::Category;
    use analyzer::profile::ProfileNode;

    #[test]
    fn an_hour_counts_from_its_first_touched_minute() {
        assert_eq!(hours(Minutes { from: 59, to: 61 }), 0..2);
        assert_eq!(hours(Minutes { from: 60, to: 120 }), 1..2);
        assert_eq!(hours(Minutes { from: 60, to: 121 }), 1..3);
    }

    fn node(parent: Option<u32>, name: &str, count: i64) -> ProfileNode {
        ProfileNode {
            parent,
            name: name.into(),
            category: Category::Handler,
            count,
            self_ns: count,
            critical_ns: count,
        }
    }

    /// A row of `count` requests, half of them in the tail.
    async fn insert(store: &Store, version: i32, hour: i32, part: i64, count: i64) {
        let profile = |count| Profile {
            nodes: vec![node(None, "GET /", count), node(Some(0), "step", 2 * count)],
        };
        sqlx::query(
            "insert into culprit.rollup_hours (day, shard, part, endpoint_id, version_id, hour,
                 statements, profile, tail_requests, tail_profile)
             values ((now() at time zone 'utc')::date, 0, $1, 7, $2, $3, '', $4, $5, $6)",
        )
        .bind(part)
        .bind(version)
        .bind(hour)
        .bind(encoding::profile_bytes(&profile(count)))
        .bind(count / 2)
        .bind(encoding::profile_bytes(&profile(count / 2)))
        .execute(store.pool())
        .await
        .unwrap();
    }

    async fn version(store: &Store, version: &str) -> i32 {
        sqlx::query_scalar(
            "insert into culprit.versions (service_id, version) values (1, $1) returning id",
        )
        .bind(version)
        .fetch_one(store.pool())
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn hours_and_versions_are_added_up_or_told_apart() {
        let store = crate::testing::store().await;
        store.create_partitions().await.unwrap();
        let (old, new) = (version(&store, "1.0").await, version(&store, "").await);
        insert(&store, old, 100, 1, 10).await;
        insert(&store, old, 100, 2, 20).await;
        insert(&store, new, 101, 3, 40).await;
        insert(&store, new, 102, 4, 1_000).await;
        let read = async |hours, version| {
            let profiles = store.endpoint_profiles(7, hours, version).await.unwrap();
            let step = profiles.all.profile.folded(|it| it.critical_ns);
            let requests = (profiles.all.requests, profiles.tail.requests);
            (requests, step.last().cloned().unwrap_or_default())
        };
        let found = |requests, step: &str| (requests, step.to_owned());
        assert_eq!(
            read(100..102, None).await,
            found((70, 35), "GET /;step 140")
        );
        assert_eq!(
            read(100..102, Some("1.0")).await,
            found((30, 15), "GET /;step 60")
        );
        assert_eq!(
            read(100..102, Some("")).await,
            found((40, 20), "GET /;step 80")
        );
        assert_eq!(read(100..102, Some("2")).await, found((0, 0), ""));
        assert_eq!(
            store.endpoint_versions(7, 100..102).await.unwrap(),
            ["", "1.0"]
        );
        assert_eq!(store.endpoint_versions(7, 102..103).await.unwrap(), [""]);
        assert!(store.endpoint_versions(8, 0..200).await.unwrap().is_empty());
    }
}
