//! Which call paths and statements of an endpoint are counted apart on a day; the others are counted
//! as `(other)`.
//!
//! Somebody puts ids into the names of spans: the profile of an hour would have as many paths as
//! there were requests. Folding what is too much where it is added up would depend on the order in
//! which it comes, and could not be taken out again. So it is decided when a trace is counted, and
//! written down: first come, first served, until there is no room; from then on nothing changes
//! that day. Everybody who counts a trace of the day, now or after a restart, decides the same.

use analyzer::category::Category;
use analyzer::profile::{Profile, ProfileNode};
use analyzer::seeded_hash::{SeededMap, SeededSet};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::dictionaries::OTHER;
use super::pool::Connection;
use super::{Store, StoreError};
use crate::deltas::Day;

/// Paths of an endpoint counted apart in a day. With one `(other)` below each, and one beside the
/// first, there are fewer than a profile folds by itself.
pub(super) const PATHS_MAX: usize = Profile::PATHS_MAX / 2 - 1;

/// Statements of an endpoint counted apart in a day. An endpoint that means to run more makes up
/// its statements as it goes.
pub(super) const STATEMENTS_MAX: usize = 500;

/// Hashes remembered per owner, about 16 bytes each; at the bound all are forgotten and read again.
const HASHES_MAX: usize = 2_000_000;

/// An endpoint's day.
type Key = (Day, i32);

/// What is known of the decisions: one per shard owner.
#[derive(Debug, Default)]
pub struct Apart {
    days: SeededMap<Key, Members>,
    hashes: usize,
}

/// What is counted apart of an endpoint on a day.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Members {
    paths: SeededSet<u64>,
    statements: SeededSet<u64>,
}

impl Members {
    /// What was learned is in it, as long as this is not so.
    fn is_full_of_paths(&self) -> bool {
        self.paths.len() >= PATHS_MAX
    }

    fn is_full_of_statements(&self) -> bool {
        self.statements.len() >= STATEMENTS_MAX
    }
}

/// What a request would like to have counted apart.
pub struct Wanted<'a> {
    /// The day it counts to.
    pub day: Day,
    /// The endpoint it counts to.
    pub endpoint: i32,
    /// Its call paths.
    pub profile: &'a Profile,
    /// Its statements' hashes; those that another of the same day and endpoint has may be left out.
    pub statements: Vec<u64>,
}

impl Apart {
    /// The profile as it is counted: paths that are not counted apart are folded into `(other)` below
    /// the path they have in common with one that is. What it holds must be learned.
    pub fn profile<'a>(&self, day: Day, endpoint: i32, profile: &'a Profile) -> Cow<'a, Profile> {
        let members = self.days.get(&(day, endpoint));
        let Some(members) = members.filter(|it| it.is_full_of_paths()) else {
            return Cow::Borrowed(profile);
        };
        let hashes = path_hashes(profile);
        let is_apart = |at: usize| hashes[at].is_some_and(|it| members.paths.contains(&it));
        if (0..hashes.len()).all(is_apart) {
            return Cow::Borrowed(profile);
        }
        Cow::Owned(folded(profile, is_apart))
    }

    /// Whether a statement, which must be learned, is counted apart.
    pub fn has_statement(&self, day: Day, endpoint: i32, hash: u64) -> bool {
        let members = self.days.get(&(day, endpoint));
        members.is_none_or(|it| !it.is_full_of_statements() || it.statements.contains(&hash))
    }

    /// Whether an endpoint has no room for one more statement on a day.
    pub fn is_full_of_statements(&self, day: Day, endpoint: i32) -> bool {
        let members = self.days.get(&(day, endpoint));
        members.is_some_and(Members::is_full_of_statements)
    }

    /// What `wanted` has beyond what is known, where there may be room.
    fn missing(&self, wanted: &[Wanted<'_>]) -> BTreeMap<Key, (Vec<u64>, Vec<u64>)> {
        let mut missing: BTreeMap<Key, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        let mut seen: SeededSet<(Key, u8, u64)> = SeededSet::default();
        let nothing = Members::default();
        for it in wanted {
            let key = (it.day, it.endpoint);
            let members = self.days.get(&key).unwrap_or(&nothing);
            if !members.is_full_of_paths() {
                for hash in path_hashes(it.profile).into_iter().flatten() {
                    if !members.paths.contains(&hash) && seen.insert((key, 0, hash)) {
                        missing.entry(key).or_default().0.push(hash);
                    }
                }
            }
            if !members.is_full_of_statements() {
                for hash in &it.statements {
                    if !members.statements.contains(hash) && seen.insert((key, 1, *hash)) {
                        missing.entry(key).or_default().1.push(*hash);
                    }
                }
            }
        }
        missing
    }

    fn remember(&mut self, rows: Vec<Row>) {
        for (day, endpoint, paths, statements) in rows {
            let members = Members {
                paths: hashes(&paths).collect(),
                statements: hashes(&statements).collect(),
            };
            self.hashes += members.paths.len() + members.statements.len();
            let old = self.days.insert((day, endpoint), members);
            self.hashes -= old.map_or(0, |it| it.paths.len() + it.statements.len());
        }
    }
}

/// Day, endpoint, paths, statements.
type Row = (Day, i32, Vec<u8>, Vec<u8>);

impl Store {
    /// Decides what of `wanted` is counted apart, and writes it down. What was decided stays.
    ///
    /// # Errors
    /// Postgres cannot be written to; then `known` holds what was committed before.
    pub async fn learn_apart(
        &self,
        known: &mut Apart,
        wanted: &[Wanted<'_>],
    ) -> Result<(), StoreError> {
        if known.hashes > HASHES_MAX {
            *known = Apart::default();
        }
        let mut unknown: Vec<Key> = wanted.iter().map(|it| (it.day, it.endpoint)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|it| !known.days.contains_key(it));
        if !unknown.is_empty() {
            let mut session = self.pool().session().await?;
            let rows = read(&mut session, &unknown, READ).await?;
            session.end().await?;
            known.remember(rows);
        }
        let missing = known.missing(wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let rows = self.make_room(&missing).await?;
        known.remember(rows);
        Ok(())
    }

    /// Adds what there is room for; returns what the rows hold then.
    async fn make_room(
        &self,
        missing: &BTreeMap<Key, (Vec<u64>, Vec<u64>)>,
    ) -> Result<Vec<Row>, StoreError> {
        let keys: Vec<Key> = missing.keys().copied().collect();
        let (days, endpoints): (Vec<Day>, Vec<i32>) = keys.iter().copied().unzip();
        let mut transaction = self.pool().begin().await?;
        // Sorted, here and below: two owners that learn the same at once wait for each other in turn.
        sqlx::query(
            "insert into culprit.counted_apart (day, endpoint_id, paths, statements)
             select date '1970-01-01' + n.day, n.endpoint, '', ''
             from unnest($1::integer[], $2::integer[]) as n(day, endpoint) order by 1, 2
             on conflict do nothing",
        )
        .bind(&days)
        .bind(&endpoints)
        .execute(&mut *transaction)
        .await?;
        let mut rows = read(&mut transaction, &keys, READ_FOR_UPDATE).await?;
        for (day, endpoint, paths, statements) in &mut rows {
            if let Some((more_paths, more_statements)) = missing.get(&(*day, *endpoint)) {
                add(paths, more_paths, PATHS_MAX);
                add(statements, more_statements, STATEMENTS_MAX);
            }
        }
        sqlx::query(
            "update culprit.counted_apart c set paths = n.paths, statements = n.statements
             from unnest($1::integer[], $2::integer[], $3::bytea[], $4::bytea[])
                as n(day, endpoint, paths, statements)
             where c.day = date '1970-01-01' + n.day and c.endpoint_id = n.endpoint",
        )
        .bind(rows.iter().map(|it| it.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|it| it.1).collect::<Vec<_>>())
        .bind(rows.iter().map(|it| it.2.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|it| it.3.as_slice()).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

const READ: &str = "
    select c.day - date '1970-01-01', c.endpoint_id, c.paths, c.statements
    from culprit.counted_apart c
    join unnest($1::integer[], $2::integer[]) as n(day, endpoint)
      on c.day = date '1970-01-01' + n.day and c.endpoint_id = n.endpoint";

const READ_FOR_UPDATE: &str = "
    select c.day - date '1970-01-01', c.endpoint_id, c.paths, c.statements
    from culprit.counted_apart c
    join unnest($1::integer[], $2::integer[]) as n(day, endpoint)
      on c.day = date '1970-01-01' + n.day and c.endpoint_id = n.endpoint
    order by c.day, c.endpoint_id for update of c";

async fn read(
    connection: &mut Connection,
    keys: &[Key],
    select: &'static str,
) -> Result<Vec<Row>, StoreError> {
    let (days, endpoints): (Vec<Day>, Vec<i32>) = keys.iter().copied().unzip();
    let rows = sqlx::query_as(select)
        .bind(days)
        .bind(endpoints)
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Adds what is not there yet, while there is room.
fn add(stored: &mut Vec<u8>, more: &[u64], hashes_max: usize) {
    let mut there: HashSet<u64> = hashes(stored).collect();
    for hash in more {
        if there.len() >= hashes_max {
            return;
        }
        if there.insert(*hash) {
            stored.extend_from_slice(&hash.to_be_bytes());
        }
    }
}

fn hashes(stored: &[u8]) -> impl Iterator<Item = u64> {
    let (hashes, _) = stored.as_chunks::<8>();
    hashes.iter().map(|it| u64::from_be_bytes(*it))
}

/// A hash of each path from the root on; none for `(other)` and what is below it. They are stored:
/// the way they are made must not change.
fn path_hashes(profile: &Profile) -> Vec<Option<u64>> {
    let mut hashes: Vec<Option<u64>> = Vec::with_capacity(profile.nodes.len());
    for node in &profile.nodes {
        let above = match node.parent {
            Some(parent) => hashes[parent as usize],
            None => Some(HASH_START),
        };
        let own = above.filter(|_| *node.name != *OTHER);
        hashes.push(own.map(|it| path_hash(it, node)));
    }
    hashes
}

/// Two paths of one hash are counted apart or not together: no harm.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Eight bytes at a time, each step the two halves of a product folded together: this is done for
/// every path of every request.
fn path_hash(above: u64, node: &ProfileNode) -> u64 {
    let (words, rest) = node.name.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length keeps `a` and `a\0` apart.
    let begin = fold(above, node.category as u64 ^ (node.name.len() as u64) << 8);
    let words = words
        .iter()
        .fold(begin, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    fold(words, u64::from_le_bytes(last))
}

fn fold(hash: u64, word: u64) -> u64 {
    // Digits of the golden ratio: odd, and without a pattern.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (hash ^ word).wrapping_add(0x2545_f491_4f6c_dd1d);
    let product = u128::from(mixed) * u128::from(ODD ^ hash.rotate_left(32) | 1);
    (product >> 64) as u64 ^ product as u64
}

fn folded(profile: &Profile, is_apart: impl Fn(usize) -> bool) -> Profile {
    let mut kept = Profile::default();
    // Where each node went, and the `(other)` below each kept one.
    let mut moved_to: Vec<u32> = Vec::with_capacity(profile.nodes.len());
    let mut others: HashMap<Option<u32>, u32> = HashMap::new();
    for (at, node) in profile.nodes.iter().enumerate() {
        let parent = node.parent.map(|it| moved_to[it as usize]);
        let below_other = parent.filter(|it| *kept.nodes[*it as usize].name == *OTHER);
        let target = match (below_other, is_apart(at)) {
            (Some(other), _) => other,
            (None, true) => push(&mut kept, parent, node, None),
            (None, false) => *others
                .entry(parent)
                .or_insert_with(|| push(&mut kept, parent, node, Some(OTHER))),
        };
        let sum = &mut kept.nodes[target as usize];
        sum.count += node.count;
        sum.self_ns = sum.self_ns.wrapping_add(node.self_ns);
        sum.critical_ns = sum.critical_ns.wrapping_add(node.critical_ns);
        moved_to.push(target);
    }
    kept
}

/// A node like `node`, or an `(other)`, without numbers.
fn push(
    profile: &mut Profile,
    parent: Option<u32>,
    node: &ProfileNode,
    other: Option<&str>,
) -> u32 {
    profile.nodes.push(ProfileNode {
        parent,
        name: other.map_or_else(|| node.name.clone(), Into::into),
        category: other.map_or(node.category, |_| Category::Unattributed),
        count: 0,
        self_ns: 0,
        critical_ns: 0,
    });
    profile.nodes.len() as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::profile::ProfileSum;
    use proptest::prelude::*;

    fn node(parent: Option<u32>, name: &str) -> ProfileNode {
        ProfileNode {
            parent,
            name: name.into(),
            category: Category::Handler,
            count: 1,
            self_ns: 1,
            critical_ns: 1,
        }
    }

    /// `GET /` with a span of this name, and one below it.
    fn profile(name: &str) -> Profile {
        Profile {
            nodes: vec![
                node(None, "GET /"),
                node(Some(0), name),
                node(Some(1), "below"),
            ],
        }
    }

    async fn counted(store: &Store, known: &mut Apart, name: &str) -> Vec<String> {
        let profile = profile(name);
        let wanted = Wanted {
            day: 20_000,
            endpoint: 7,
            profile: &profile,
            statements: vec![1],
        };
        store.learn_apart(known, &[wanted]).await.unwrap();
        known.profile(20_000, 7, &profile).folded(|it| it.count)
    }

    #[tokio::test]
    async fn what_was_other_once_is_other_for_everybody_that_day() {
        let store = crate::testing::store().await;
        let (mut mine, mut theirs) = (Apart::default(), Apart::default());
        let kept = ["GET / 1", "GET /;step 0 1", "GET /;step 0;below 1"];
        assert_eq!(counted(&store, &mut mine, "step 0").await, kept);
        // Two owners take turns until there is no room.
        for n in 1..PATHS_MAX {
            let owner = if n % 2 == 0 { &mut mine } else { &mut theirs };
            counted(&store, owner, &format!("step {n}")).await;
        }
        for owner in [&mut mine, &mut theirs, &mut Apart::default()] {
            let late = counted(&store, owner, "late").await;
            assert_eq!(late, ["GET / 1", "GET /;(other) 2"]);
            assert_eq!(counted(&store, owner, "step 0").await, kept);
        }
        let bytes: i32 = sqlx::query_scalar("select length(paths) from culprit.counted_apart")
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(bytes as usize, 8 * PATHS_MAX);
    }

    /// What [`Store::learn_apart`] does, with room for all paths of the day's first request.
    fn full_with(profile: &Profile) -> Apart {
        let mut paths: SeededSet<u64> = path_hashes(profile).into_iter().flatten().collect();
        // The rest is taken by paths that nobody asks for.
        paths.extend((0..PATHS_MAX as u64).take(PATHS_MAX - paths.len()));
        let members = Members {
            paths,
            statements: SeededSet::default(),
        };
        Apart {
            days: [((1, 1), members)].into_iter().collect(),
            hashes: 0,
        }
    }

    /// A tree of few names, also of those that mean something.
    fn any_profile() -> impl Strategy<Value = Profile> {
        let names = prop::sample::select(&["a", "b", "c", OTHER][..]);
        let node = (any::<u32>(), names, 0..2_u8, 0..9_i64);
        prop::collection::vec(node, 1..16).prop_map(|drawn| {
            let nodes = drawn.iter().enumerate().map(|(at, it)| ProfileNode {
                category: Category::ALL[usize::from(it.2)],
                count: it.3,
                ..node_of(at, it.0, it.1)
            });
            // As an analysis makes them: each path once, and nothing below `(other)`.
            let mut sum = ProfileSum::default();
            sum.merge(
                &Profile {
                    nodes: nodes.collect(),
                },
                1,
            );
            sum.total()
        })
    }

    fn node_of(at: usize, parent: u32, name: &str) -> ProfileNode {
        node((at > 0).then(|| parent % at as u32), name)
    }

    proptest! {
        /// Counted before there was no room or after, in any order, taken out in any order.
        #[test]
        fn what_is_folded_adds_up_and_subtracts_exactly(
            first in any_profile(),
            (there, shuffled) in prop::collection::vec(any_profile(), 1..6)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            let apart = full_with(&first);
            let counted = |it: &Profile| apart.profile(1, 1, it).into_owned();
            // The first was counted as it is: nothing of it was folded then, and nothing is now.
            prop_assert_eq!(counted(&first).folded(|it| it.count), first.folded(|it| it.count));
            let mut sum = ProfileSum::of(first.clone());
            let mut other_way = ProfileSum::default();
            there.iter().for_each(|it| sum.merge(&counted(it), 1));
            shuffled.iter().for_each(|it| other_way.merge(&counted(it), 1));
            other_way.merge(&first, 1);
            for value in [|it: &ProfileNode| it.count, |it: &ProfileNode| it.critical_ns] {
                prop_assert_eq!(sum.total().folded(value), other_way.total().folded(value));
                let all = first.nodes.iter().chain(there.iter().flat_map(|it| &it.nodes));
                let total = sum.total().nodes.iter().map(value).sum::<i64>();
                prop_assert_eq!(total, all.map(value).sum::<i64>());
            }
            shuffled.iter().for_each(|it| sum.merge(&counted(it), -1));
            sum.merge(&counted(&first), -1);
            prop_assert_eq!(sum.total().nodes, vec![]);
        }
    }

    #[test]
    fn folding_keeps_all_numbers() {
        let profile = profile("step");
        let folded = folded(&profile, |at| at == 0);
        assert_eq!(
            folded.folded(|it| it.self_ns),
            ["GET / 1", "GET /;(other) 2"]
        );
    }
}
