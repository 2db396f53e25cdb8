//! The dictionary of edges: from an endpoint to the endpoint that answers it, or to what does not report.
//!
//! As with the other dictionaries: what is beyond a cap is `(other)` for good and for everybody, so that a
//! trace's calls can be taken out as they were counted.

use analyzer::category::Category;
use analyzer::seeded_hash::SeededMap;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dictionaries::{Dictionaries, OTHER, Room, digest, ids_by_digest, lock};
use super::pool::Connection;
use super::{Store, StoreError};
use crate::contribution::{Contribution, Peer, To};

/// Whom an endpoint may call, distinct. Further ones are counted as its [`OTHER`]: somebody calls hosts
/// with ids in their names.
const EDGES_PER_ENDPOINT_MAX: usize = 200;

/// Distinct edges of all endpoints together. Further ones are counted as their endpoints' [`OTHER`].
pub(super) const EDGES_MAX: usize = 100_000;

/// From whom to whom.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct EdgeKey {
    /// endpoints.id
    caller: i32,
    called: Called,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Called {
    /// endpoints.id
    Endpoint(i32),
    /// It does not report.
    Peer(Arc<Peer>),
}

impl EdgeKey {
    fn digest(&self) -> [u8; 32] {
        let caller = self.caller.to_string();
        match &self.called {
            Called::Endpoint(id) => digest(&[&caller, "\0", &id.to_string()]),
            Called::Peer(peer) => {
                let category = category_id(peer);
                digest(&[
                    &caller,
                    "\0",
                    category,
                    "\0",
                    &peer.system,
                    "\0",
                    &peer.name,
                ])
            }
        }
    }

    fn other(caller: i32) -> EdgeKey {
        let other = Peer {
            category: None,
            system: "".into(),
            name: OTHER.into(),
        };
        EdgeKey {
            caller,
            called: Called::Peer(Arc::new(other)),
        }
    }
}

/// As stored; nothing for what is beyond a cap.
fn category_id(peer: &Peer) -> &'static str {
    peer.category.map_or("", Category::id)
}

/// The category that is stored as this text.
pub(super) fn category_of(id: &str) -> Option<Category> {
    Category::ALL.into_iter().find(|it| it.id() == id)
}

/// What is known of the edges: a part of [`Dictionaries`].
#[derive(Debug, Default)]
pub(super) struct Edges {
    ids: SeededMap<EdgeKey, i32>,
    /// Endpoints that call too many, and the ids of their `(other)`s. All their edges are known.
    full: HashMap<i32, i32>,
}

impl Dictionaries {
    /// The id under which calls from the endpoint `caller` to one of `contribution`'s callees are counted;
    /// learned before.
    pub fn edge(&self, contribution: &Contribution, caller: i32, to: To) -> Option<i32> {
        let key = self.edge_key(contribution, caller, to)?;
        let known = self.edges.ids.get(&key);
        known.or_else(|| self.edges.full.get(&caller)).copied()
    }

    fn edge_key(&self, contribution: &Contribution, caller: i32, to: To) -> Option<EdgeKey> {
        let called = match to {
            To::Request(at) => {
                let request = contribution.requests.get(at as usize)?;
                Called::Endpoint(self.ids(request)?.endpoint)
            }
            To::Peer(at) => Called::Peer(contribution.peers.get(at as usize)?.clone()),
        };
        Some(EdgeKey { caller, called })
    }

    /// The edges in `contributions` that have no id yet and may get one.
    fn missing_edges(&self, contributions: &[&Contribution]) -> NewEdges {
        let mut missing = NewEdges::new();
        for contribution in contributions {
            let calling = contribution.requests.iter();
            for request in calling.filter(|it| !it.edges.is_empty()) {
                let Some(ids) = self.ids(request) else {
                    continue;
                };
                if self.edges.full.contains_key(&ids.endpoint) {
                    continue;
                }
                for calls in request.edges.chunk_by(|a, b| a.to == b.to) {
                    let key = self.edge_key(contribution, ids.endpoint, calls[0].to);
                    let key = key.filter(|it| !self.edges.ids.contains_key(it));
                    missing.extend(key.map(|it| (it.digest(), it)));
                }
            }
        }
        missing
    }
}

/// Edges by digest.
type NewEdges = BTreeMap<[u8; 32], EdgeKey>;

impl Store {
    /// Makes ids for the edges in `contributions` that `known` lacks. The endpoints must be learned.
    pub(super) async fn learn_edges(
        &self,
        known: &mut Dictionaries,
        contributions: &[&Contribution],
    ) -> Result<(), StoreError> {
        let mut missing = known.missing_edges(contributions);
        if missing.is_empty() {
            return Ok(());
        }
        let asked = missing.clone();
        let digests: Vec<Vec<u8>> = missing.keys().map(|it| it.to_vec()).collect();
        let mut transaction = self.pool().begin().await?;
        let mut found = ids_by_digest(&mut transaction, FIND_EDGES, &digests).await?;
        missing.retain(|digest, _| !found.iter().any(|it| it.0 == *digest));
        let mut filled = Vec::new();
        if !missing.is_empty() {
            lock(&mut transaction).await?;
            let new = edges_with_room(&mut transaction, missing, &mut filled).await?;
            insert_edges(&mut transaction, &new).await?;
            found.extend(ids_by_digest(&mut transaction, FIND_EDGES, &digests).await?);
        }
        let of_full = edges_of(&mut transaction, &filled).await?;
        transaction.commit().await?;
        for (key, id) in of_full {
            if key == EdgeKey::other(key.caller) {
                known.edges.full.insert(key.caller, id);
            }
            known.edges.ids.insert(key, id);
        }
        for (digest, id) in found {
            if let Some(key) = asked.get(&digest) {
                known.edges.ids.insert(key.clone(), id);
            }
        }
        Ok(())
    }
}

const FIND_EDGES: &str = "select digest, id from culprit.edges where digest = any($1)";

/// What of `missing` there is room for, and an `(other)` for each endpoint without; those are `filled`.
async fn edges_with_room(
    transaction: &mut Connection,
    missing: NewEdges,
    filled: &mut Vec<i32>,
) -> Result<NewEdges, StoreError> {
    let callers: Vec<i32> = missing.values().map(|it| it.caller).collect();
    let counts: Vec<(i32, i64)> = sqlx::query_as(
        "select caller_id, count(*) from culprit.edges
         where caller_id = any($1) and (callee_id is not null or category <> '') group by caller_id",
    )
    .bind(&callers)
    .fetch_all(&mut *transaction)
    .await?;
    let all: i64 = sqlx::query_scalar("select count(*) from culprit.edges")
        .fetch_one(transaction)
        .await?;
    let left = EDGES_MAX.saturating_sub(all as usize);
    let mut room = Room::new(counts, EDGES_PER_ENDPOINT_MAX, left);
    let mut new = NewEdges::new();
    for (digest, key) in missing {
        if room.take(key.caller) {
            new.insert(digest, key);
        } else {
            let other = EdgeKey::other(key.caller);
            filled.push(key.caller);
            new.insert(other.digest(), other);
        }
    }
    Ok(new)
}

async fn insert_edges(connection: &mut Connection, new: &NewEdges) -> Result<(), StoreError> {
    let peer = |of: fn(&Peer) -> &str| -> Vec<String> {
        let texts = new.values().map(|it| match &it.called {
            Called::Endpoint(_) => String::new(),
            Called::Peer(peer) => of(peer).to_owned(),
        });
        texts.collect()
    };
    let callees: Vec<Option<i32>> = new
        .values()
        .map(|it| match it.called {
            Called::Endpoint(id) => Some(id),
            Called::Peer(_) => None,
        })
        .collect();
    sqlx::query(
        "insert into culprit.edges (digest, caller_id, callee_id, category, system, name)
         select * from unnest($1::bytea[], $2::integer[], $3::integer[], $4::text[], $5::text[], $6::text[])
         on conflict do nothing",
    )
    .bind(new.keys().map(|it| it.to_vec()).collect::<Vec<_>>())
    .bind(new.values().map(|it| it.caller).collect::<Vec<_>>())
    .bind(callees)
    .bind(peer(category_id as fn(&Peer) -> &str))
    .bind(peer(|it| &it.system))
    .bind(peer(|it| &it.name))
    .execute(connection)
    .await?;
    Ok(())
}

/// All edges of these endpoints.
async fn edges_of(
    connection: &mut Connection,
    callers: &[i32],
) -> Result<Vec<(EdgeKey, i32)>, StoreError> {
    if callers.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i32, i32, Option<i32>, String, String, String)> = sqlx::query_as(
        "select id, caller_id, callee_id, category, system, name from culprit.edges
         where caller_id = any($1)",
    )
    .bind(callers)
    .fetch_all(connection)
    .await?;
    let rows = rows
        .into_iter()
        .map(|(id, caller, callee, category, system, name)| {
            let called = match callee {
                Some(callee) => Called::Endpoint(callee),
                None => Called::Peer(Arc::new(Peer {
                    category: category_of(&category),
                    system: system.into(),
                    name: name.into(),
                })),
            };
            (EdgeKey { caller, called }, id)
        });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contribution::{Edge, Names, Request};
    use analyzer::Service;
    use analyzer::profile::Profile;
    use std::collections::BTreeSet;

    fn peer(name: String) -> Arc<Peer> {
        Arc::new(Peer {
            category: Some(Category::External),
            system: "".into(),
            name: name.into(),
        })
    }

    /// A request that calls that many hosts.
    fn calling(hosts: std::ops::Range<usize>) -> Contribution {
        let service = Service {
            namespace: "",
            name: "shop",
            environment: "",
        };
        let edge = |to| Edge {
            to: To::Peer(to),
            duration_ns: 1,
            failed: false,
        };
        let request = Request {
            span_id: Default::default(),
            names: Names::of(&service, "1", "GET /"),
            start_ns: 0,
            duration_ns: 0,
            weight: 1,
            error: false,
            root: true,
            categories: Default::default(),
            calls: Default::default(),
            statements: Vec::new(),
            profile: Profile::default(),
            hits: Vec::new(),
            edges: (0..hosts.len() as u32).map(edge).collect(),
        };
        Contribution {
            trace_id: Default::default(),
            spans: 1,
            requests: vec![request],
            peers: hosts.map(|it| peer(format!("host{it}"))).collect(),
            fragment: Default::default(),
        }
    }

    async fn ids(store: &Store, known: &mut Dictionaries, calling: &Contribution) -> Vec<i32> {
        store.learn(known, &[calling]).await.unwrap();
        let request = &calling.requests[0];
        let caller = known.ids(request).unwrap().endpoint;
        let edges = request.edges.iter();
        edges
            .map(|it| known.edge(calling, caller, it.to).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn callees_beyond_the_cap_are_other_also_after_a_restart() {
        let store = crate::testing::store().await;
        let most = calling(0..EDGES_PER_ENDPOINT_MAX + 5);
        let before = ids(&store, &mut Dictionaries::default(), &most).await;
        let distinct: BTreeSet<&i32> = before.iter().collect();
        assert_eq!(distinct.len(), EDGES_PER_ENDPOINT_MAX + 1);
        let again = ids(&store, &mut Dictionaries::default(), &most).await;
        assert_eq!(before, again);
        let one_more = calling(100_000..100_001);
        let other = ids(&store, &mut Dictionaries::default(), &one_more).await;
        let name: String = sqlx::query_scalar("select name from culprit.edges where id = $1")
            .bind(other[0])
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(name, OTHER);
    }
}
