//! The part of an endpoint's page that says who calls it, and whom it calls.

use collector::store::Store;
use collector::store::edges::{Called, Neighbour, Neighbours};
use collector::store::endpoints::EndpointName;

use crate::format;
use crate::pages::PageError;
use crate::pages::service_map::counted;
use crate::range::{Covered, Filters, Range};
use crate::service_map::{self, Calls, peer_kind, peer_title};

/// Neighbours shown of each side; the JSON has all.
const SHOWN_MAX: usize = 20;

/// Callers and callees.
#[derive(Default)]
pub struct Section {
    /// Who calls it.
    pub callers: Side,
    /// Whom it calls.
    pub callees: Side,
    /// Requests that no service is known to have sent, in a sentence; empty if there are none.
    pub outside: String,
    /// Calls were not counted at first: since when, in a sentence; else empty.
    pub counted: String,
}

/// One side.
#[derive(Default)]
pub struct Side {
    /// The first.
    pub rows: Vec<Row>,
    /// How many more there are.
    pub more: usize,
}

/// A neighbour.
pub struct Row {
    /// The endpoint, or what does not report.
    pub name: String,
    /// Its page; empty if there is none.
    pub link: String,
    /// Whose endpoint it is, or what kind of thing.
    pub of: String,
    /// How often, with which errors, how long.
    pub calls: Calls,
}

/// Reads who calls `endpoint` and whom it calls in `range`. `requests` are the endpoint's of the `covered`
/// time, weighted.
///
/// # Errors
/// The database is away.
pub async fn read(
    store: &Store,
    endpoint: &EndpointName,
    range: Range,
    (covered, requests): (Covered, i64),
) -> Result<Section, PageError> {
    let window = range.window(covered.now_ns);
    let neighbours = store.endpoint_neighbours(endpoint.id, window).await?;
    let of = service_map::covered(covered, window, range, neighbours.counted_from);
    Ok(section(&neighbours, range, (covered, of), requests))
}

fn section(
    neighbours: &Neighbours,
    range: Range,
    (covered, of): (Covered, Covered),
    requests: i64,
) -> Section {
    let counted = counted(neighbours.counted_from, &covered);
    let called: i64 = neighbours.callers.iter().map(|it| it.sums.calls).sum();
    // Requests of before the counting, or of the rest of an hour, would seem to come from outside.
    let is_comparable = counted.is_empty() && matches!(range, Range::QuarterHour | Range::Hour);
    let outside = requests - called;
    Section {
        callers: side(&neighbours.callers, range, &of),
        callees: side(&neighbours.callees, range, &of),
        outside: match is_comparable && outside > 0 {
            true => {
                let (rate, unit) = format::rate_parts(of.per_second(outside));
                format!(
                    "{rate} requests{unit} come from outside, or from callers that do not report."
                )
            }
            false => String::new(),
        },
        counted,
    }
}

fn side(neighbours: &[Neighbour], range: Range, covered: &Covered) -> Side {
    let shown = neighbours.iter().take(SHOWN_MAX);
    Side {
        rows: shown.map(|it| row(it, range, covered)).collect(),
        more: neighbours.len().saturating_sub(SHOWN_MAX),
    }
}

fn row(neighbour: &Neighbour, range: Range, covered: &Covered) -> Row {
    let only_range = Filters {
        range,
        ..Filters::default()
    };
    let calls = Calls::of(&neighbour.sums, covered);
    match &neighbour.other {
        Called::Reports(endpoint) => Row {
            name: endpoint.name.clone(),
            link: only_range.link(&format!("/endpoints/{}", endpoint.id), &[]),
            of: service_map::service_title(&endpoint.service),
            calls,
        },
        Called::Peer(peer) => Row {
            name: peer_title(peer),
            link: String::new(),
            of: peer_kind(peer).to_owned(),
            calls,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::category::Category;
    use collector::deltas::EdgeDelta;
    use collector::store::edges::PeerName;
    use collector::store::services::ServiceName;

    fn neighbour(other: Called<EndpointName>, calls: i64) -> Neighbour {
        let mut sums = EdgeDelta {
            calls,
            ..EdgeDelta::default()
        };
        sums.latency.record(5_000_000, calls);
        Neighbour { other, sums }
    }

    fn endpoint() -> Called<EndpointName> {
        Called::Reports(EndpointName {
            id: 7,
            name: "GET /cart".into(),
            service: ServiceName {
                id: 1,
                namespace: String::new(),
                name: "shop".into(),
                environment: "prod".into(),
            },
        })
    }

    const COVERED: Covered = Covered {
        from_ns: 0,
        now_ns: 60_000_000_000,
    };

    #[test]
    fn neighbours_say_how_often_and_what_else_comes() {
        let peer = PeerName {
            category: Some(Category::Database),
            system: "mysql".into(),
            name: "db".into(),
        };
        let neighbours = Neighbours {
            counted_from: 0,
            callers: vec![neighbour(endpoint(), 60)],
            callees: vec![neighbour(Called::Peer(peer), 600)],
        };
        let section = section(&neighbours, Range::Day, (COVERED, COVERED), 100);
        assert_eq!(section.outside, "", "of hours it cannot be told");
        let section = super::section(&neighbours, Range::Hour, (COVERED, COVERED), 100);
        assert!(
            section.outside.starts_with("40 requests/min"),
            "{}",
            section.outside
        );
        let caller = &section.callers.rows[0];
        assert_eq!((&*caller.link, &*caller.of), ("/endpoints/7", "shop, prod"));
        assert_eq!(format::rate(caller.calls.rate), "1/s");
        let callee = &section.callees.rows[0];
        assert_eq!(
            (&*callee.name, &*callee.of, &*callee.link),
            ("mysql db", "database", "")
        );
    }

    #[test]
    fn a_crowd_is_counted() {
        let neighbours = Neighbours {
            callers: vec![neighbour(endpoint(), 1); 25],
            ..Neighbours::default()
        };
        let section = section(&neighbours, Range::Hour, (COVERED, COVERED), 25);
        assert_eq!((section.callers.rows.len(), section.callers.more), (20, 5));
        assert_eq!(section.outside, "");
    }
}
