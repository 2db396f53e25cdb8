//! What pages ask about calls between services, and from services to what they depend on.

use analyzer::category::Category;
use futures_util::TryStreamExt;
use sqlx::{FromRow, Row};
use std::collections::{BTreeMap, HashMap};

use super::bottlenecks::Minutes;
use super::edge_keys::category_of;
use super::endpoints::EndpointName;
use super::rollups::edge_sums;
use super::services::ServiceName;
use super::{Store, StoreError};
use crate::deltas::EdgeDelta;

/// Something that is called and does not report.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerName {
    /// What kind of thing it is; `None` for all of an endpoint's callees beyond its cap.
    pub category: Option<Category>,
    /// Such as `postgresql`; empty if unknown.
    pub system: String,
    /// Host, database or destination; empty if nothing was said.
    pub name: String,
}

/// Who is called.
#[derive(Clone, PartialEq, Debug)]
pub enum Called<T> {
    /// A service, or an endpoint of it, that reports.
    Reports(T),
    /// It does not.
    Peer(PeerName),
}

/// Calls from one service to another, or to what it depends on, added up.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceEdge {
    /// Who calls.
    pub caller: ServiceName,
    /// Whom.
    pub called: Called<ServiceName>,
    /// How often, with which errors, how long.
    pub sums: EdgeDelta,
}

/// All calls of a window.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServiceEdges {
    /// The minute from which on calls are counted, since the epoch.
    pub counted_from: i32,
    /// The most calls first.
    pub edges: Vec<ServiceEdge>,
}

/// Calls between an endpoint and a neighbour, added up.
#[derive(Clone, PartialEq, Debug)]
pub struct Neighbour {
    /// Who is on the other side.
    pub other: Called<EndpointName>,
    /// How often, with which errors, how long.
    pub sums: EdgeDelta,
}

/// Who calls an endpoint, and whom it calls.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Neighbours {
    /// The minute from which on calls are counted, since the epoch.
    pub counted_from: i32,
    /// The most calls first.
    pub callers: Vec<Neighbour>,
    /// The most time first.
    pub callees: Vec<Neighbour>,
}

/// From whom to whom, by ids.
struct Ends {
    caller: i32,
    callee: Option<i32>,
    peer: PeerName,
}

impl Store {
    /// The calls in `minutes` between services, and to what they depend on. Counted in tens of minutes,
    /// and in hours where these are merged.
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn service_edges(&self, minutes: Minutes) -> Result<ServiceEdges, StoreError> {
        let mut sums = self.edge_sums(minutes, None).await?;
        let ids: Vec<i32> = sums.keys().copied().collect();
        let rows = sqlx::query(
            "select x.id, a.service_id as caller, b.service_id as callee, x.category, x.system, x.name
             from culprit.edges x
             join culprit.endpoints a on a.id = x.caller_id
             left join culprit.endpoints b on b.id = x.callee_id
             where x.id = any($1) order by x.id",
        )
        .bind(&ids)
        .fetch_all(self.pool())
        .await?;
        // A map keyed by what is ordered: services by id, peers by name.
        let mut edges: BTreeMap<(i32, Option<i32>, PeerName), EdgeDelta> = BTreeMap::new();
        for row in rows {
            let ends = ends(&row)?;
            let sum = sums.remove(&row.try_get("id")?).unwrap_or_default();
            let key = (ends.caller, ends.callee, ends.peer);
            edges.entry(key).or_default().merge(&sum, 1);
        }
        let services = self.service_names().await?;
        let edges = edges
            .into_iter()
            .filter_map(|((caller, callee, peer), sums)| {
                let called = match callee {
                    Some(callee) => Called::Reports(services.get(&callee)?.clone()),
                    None => Called::Peer(peer),
                };
                Some(ServiceEdge {
                    caller: services.get(&caller)?.clone(),
                    called,
                    sums,
                })
            });
        let mut edges: Vec<ServiceEdge> = edges.collect();
        // Stable: what is equal stays in the order of ids and names.
        edges.sort_by_key(|it| std::cmp::Reverse(it.sums.calls));
        Ok(ServiceEdges {
            counted_from: self.edges_counted_from().await?,
            edges,
        })
    }

    /// Who called the endpoint `id` in `minutes`, and whom it called; as [`Store::service_edges`].
    ///
    /// # Errors
    /// Postgres cannot be reached, or a roll-up is damaged.
    pub async fn endpoint_neighbours(
        &self,
        id: i32,
        minutes: Minutes,
    ) -> Result<Neighbours, StoreError> {
        let rows = sqlx::query(
            "select id, caller_id as caller, callee_id as callee, category, system, name
             from culprit.edges where caller_id = $1
             union all
             select id, caller_id, callee_id, category, system, name
             from culprit.edges where callee_id = $1 and caller_id <> $1",
        )
        .bind(id)
        .fetch_all(self.pool())
        .await?;
        let ids: Vec<i32> = rows
            .iter()
            .map(|it| it.try_get("id"))
            .collect::<Result<_, _>>()?;
        let mut sums = self.edge_sums(minutes, Some(&ids)).await?;
        let mut found: Vec<(Ends, EdgeDelta)> = Vec::new();
        for row in &rows {
            if let Some(sums) = sums.remove(&row.try_get("id")?) {
                found.push((ends(row)?, sums));
            }
        }
        let others = found.iter().flat_map(|it| [Some(it.0.caller), it.0.callee]);
        let names = self.endpoint_names(others.flatten().collect()).await?;
        let mut neighbours = Neighbours {
            counted_from: self.edges_counted_from().await?,
            ..Neighbours::default()
        };
        for (ends, sums) in found {
            if ends.callee == Some(id) {
                let caller = names.get(&ends.caller).cloned().map(Called::Reports);
                let sums = sums.clone();
                neighbours
                    .callers
                    .extend(caller.map(|other| Neighbour { other, sums }));
            }
            if ends.caller == id {
                let callee = match ends.callee {
                    Some(callee) => names.get(&callee).cloned().map(Called::Reports),
                    None => Some(Called::Peer(ends.peer)),
                };
                neighbours
                    .callees
                    .extend(callee.map(|other| Neighbour { other, sums }));
            }
        }
        let calls = |it: &Neighbour| std::cmp::Reverse(it.sums.calls);
        neighbours.callers.sort_by_key(calls);
        let time = |it: &Neighbour| std::cmp::Reverse(it.sums.duration_ns);
        neighbours.callees.sort_by_key(time);
        Ok(neighbours)
    }

    /// Each edge's calls in a window; of all edges, or of these.
    async fn edge_sums(
        &self,
        minutes: Minutes,
        ids: Option<&[i32]>,
    ) -> Result<BTreeMap<i32, EdgeDelta>, StoreError> {
        let mut sums: BTreeMap<i32, EdgeDelta> = BTreeMap::new();
        // A row stands for ten minutes or an hour: it belongs to the window if it reaches into it.
        let select = match ids {
            None => {
                "select edge_id, calls, errors, duration_ns, latency from culprit.rollup_edges
                 where minute < $2 and minute >= $1 - 59 and minute + width > $1 and $3::integer[] is null"
            }
            Some(_) => {
                "select edge_id, calls, errors, duration_ns, latency from culprit.rollup_edges
                 where minute < $2 and minute >= $1 - 59 and minute + width > $1 and edge_id = any($3)"
            }
        };
        let mut rows = sqlx::query(select)
            .bind(minutes.from)
            .bind(minutes.to)
            .bind(ids)
            .fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            let sum = sums.entry(row.try_get("edge_id")?).or_default();
            sum.merge(&edge_sums(&row)?, 1);
        }
        // What was taken out again leaves rows that add up to nothing.
        sums.retain(|_, it| it.calls > 0);
        Ok(sums)
    }

    /// The minute from which on calls are counted: what was stored before has none.
    async fn edges_counted_from(&self) -> Result<i32, StoreError> {
        let minute: Option<String> =
            sqlx::query_scalar("select value from culprit.meta where key = 'edges_from_minute'")
                .fetch_optional(self.pool())
                .await?;
        Ok(minute.and_then(|it| it.parse().ok()).unwrap_or_default())
    }

    async fn service_names(&self) -> Result<HashMap<i32, ServiceName>, StoreError> {
        let services: Vec<ServiceName> =
            sqlx::query_as("select id, namespace, name, environment from culprit.services")
                .fetch_all(self.pool())
                .await?;
        Ok(services.into_iter().map(|it| (it.id, it)).collect())
    }

    async fn endpoint_names(
        &self,
        ids: Vec<i32>,
    ) -> Result<HashMap<i32, EndpointName>, StoreError> {
        let rows = sqlx::query(
            "select e.id as endpoint_id, e.name as endpoint, s.id, s.namespace, s.name, s.environment
             from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where e.id = any($1)",
        )
        .bind(ids)
        .fetch_all(self.pool())
        .await?;
        let names = rows.iter().map(|row| {
            let id = row.try_get("endpoint_id")?;
            let name = EndpointName {
                id,
                name: row.try_get("endpoint")?,
                service: ServiceName::from_row(row)?,
            };
            Ok((id, name))
        });
        names.collect()
    }
}

fn ends(row: &sqlx::postgres::PgRow) -> Result<Ends, StoreError> {
    let category: String = row.try_get("category")?;
    Ok(Ends {
        caller: row.try_get("caller")?,
        callee: row.try_get("callee")?,
        peer: PeerName {
            category: category_of(&category),
            system: row.try_get("system")?,
            name: row.try_get("name")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::encoding::sketch_bytes;
    use analyzer::sketch::Sketch;
    use sqlx::Executor;

    async fn calls(store: &Store, edge: i32, (minute, width): (i32, i16), calls: i64, ms: u64) {
        let mut latency = Sketch::default();
        latency.record(ms * 1_000_000, calls);
        sqlx::query(
            "insert into culprit.rollup_edges
                (day, shard, edge_id, minute, width, part, calls, errors, duration_ns, latency)
             values ((now() at time zone 'utc')::date, 0, $1, $2, $3,
                (select count(*) from culprit.rollup_edges), $4, 1, $5, $6)",
        )
        .bind(edge)
        .bind(minute)
        .bind(width)
        .bind(calls)
        .bind(calls * ms as i64 * 1_000_000)
        .bind(sketch_bytes(&latency))
        .execute(store.pool())
        .await
        .unwrap();
    }

    /// `shop` has two endpoints; both call `pay`, one of them a database; `pay` calls itself.
    async fn drawn() -> Store {
        let store = crate::testing::store().await;
        store
            .pool()
            .execute(sqlx::raw_sql(
                "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod'), ('', 'pay', 'prod');
                 insert into culprit.endpoints (service_id, name) values (1, 'GET /a'), (1, 'GET /b'), (2, 'POST /c');
                 insert into culprit.edges (digest, caller_id, callee_id, category, system, name) values
                     ('\\x01', 1, 3, '', '', ''), ('\\x02', 2, 3, '', '', ''),
                     ('\\x03', 1, null, 'database', 'mysql', 'db'), ('\\x04', 3, 3, '', '', '');",
            ))
            .await
            .unwrap();
        calls(&store, 1, (600, 10), 10, 20).await;
        calls(&store, 1, (610, 10), 5, 20).await;
        calls(&store, 2, (600, 10), 30, 10).await;
        calls(&store, 3, (540, 60), 7, 100).await;
        calls(&store, 4, (600, 10), 1, 1).await;
        calls(&store, 4, (700, 10), 100, 1).await;
        store
    }

    fn name<T>(called: &Called<T>, of: impl Fn(&T) -> &str) -> &str {
        match called {
            Called::Reports(it) => of(it),
            Called::Peer(it) => &it.name,
        }
    }

    #[tokio::test]
    async fn services_edges_are_sums_of_their_endpoints() {
        let store = drawn().await;
        let window = Minutes { from: 590, to: 620 };
        let found = store.service_edges(window).await.unwrap();
        let edges: Vec<_> = found
            .edges
            .iter()
            .map(|it| {
                (
                    &*it.caller.name,
                    name(&it.called, |it| &it.name),
                    it.sums.calls,
                    it.sums.errors,
                )
            })
            .collect();
        assert_eq!(
            edges,
            [
                ("shop", "pay", 45, 3),
                ("shop", "db", 7, 1),
                ("pay", "pay", 1, 1)
            ],
            "an hour that reaches into the window counts"
        );
        assert_eq!(found.edges[0].sums.latency.count(), 45);
        let peer = PeerName {
            category: Some(Category::Database),
            system: "mysql".into(),
            name: "db".into(),
        };
        assert_eq!(found.edges[1].called, Called::Peer(peer));
        assert!(found.counted_from > 20_000_000, "the migration's minute");
        let narrow = Minutes { from: 610, to: 620 };
        assert_eq!(store.service_edges(narrow).await.unwrap().edges.len(), 1);
    }

    #[tokio::test]
    async fn an_endpoint_has_callers_and_callees() {
        let store = drawn().await;
        let window = Minutes { from: 590, to: 620 };
        let shown = |neighbours: &[Neighbour]| -> Vec<(String, i64)> {
            let shown = neighbours
                .iter()
                .map(|it| (name(&it.other, |it| &it.name).to_owned(), it.sums.calls));
            shown.collect()
        };
        let of_pay = store.endpoint_neighbours(3, window).await.unwrap();
        let callers = [("GET /b", 30), ("GET /a", 15), ("POST /c", 1)];
        assert_eq!(
            shown(&of_pay.callers),
            callers.map(|it| (it.0.to_owned(), it.1))
        );
        assert_eq!(
            shown(&of_pay.callees),
            [("POST /c".to_owned(), 1)],
            "itself"
        );
        let of_a = store.endpoint_neighbours(1, window).await.unwrap();
        assert_eq!(
            shown(&of_a.callees),
            [("db".to_owned(), 7), ("POST /c".to_owned(), 15)]
        );
        assert!(of_a.callers.is_empty());
    }
}
