//! The list of requests: which of them, in which order, page by page.
//!
//! Pages go on after a key (start or duration, trace, span), never by counting, so that what arrives
//! meanwhile neither repeats nor hides a row.

use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use sqlx::Executor;
use uuid::Uuid;

use super::finalise::{FLAG_ERROR, FLAG_FINDING, FLAG_ROOT, span_number, uuid};
use super::{Store, StoreError};
use crate::contribution::signed;

/// Rows of one page of the list at most; a caller that asks for more gets so many.
pub const REQUESTS_MAX: i64 = 1_000;

/// A list whose filters match next to nothing reads all of its time range. It is cut off here: the
/// caller gets an error that says so, and a person narrows the range.
const STATEMENT_TIMEOUT: &str = "set local statement_timeout = '10s'";

/// Names that a search shows at most; the rest is reached by typing more.
const NAMES_MAX: i64 = 50;

/// Which requests, and in which order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestFilter {
    /// Started at or after, ns since the Unix epoch.
    pub from_ns: u64,
    /// Started before, ns since the Unix epoch.
    pub until_ns: u64,
    /// Only of the services of this name; empty for all.
    pub service: String,
    /// Only of endpoints of this name; empty for all.
    pub endpoint: String,
    /// At least so long, ns.
    pub min_ns: u64,
    /// At most so long, ns; 0 for no limit.
    pub max_ns: u64,
    /// Only failed ones.
    pub errors: bool,
    /// Only those with a finding.
    pub with_finding: bool,
    /// Only a trace's outermost requests, not those that another service in the trace made.
    pub outermost: bool,
    /// Which come first.
    pub order: RequestOrder,
    /// The last row of the page before.
    pub after: Option<RequestKey>,
    /// Rows wanted: at least 1, at most [`REQUESTS_MAX`].
    pub limit: i64,
}

/// Which requests come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RequestOrder {
    /// The latest start.
    #[default]
    Newest,
    /// The longest duration.
    Slowest,
}

/// Where a page ends: the row's sort value and what makes it unique.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestKey {
    /// Start ([`RequestOrder::Newest`]) or duration ([`RequestOrder::Slowest`]), ns.
    pub by_ns: u64,
    /// The trace.
    pub trace_id: TraceId,
    /// The entry span.
    pub span_id: SpanId,
}

/// A request of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRequest {
    /// The trace.
    pub trace_id: TraceId,
    /// The entry span.
    pub span_id: SpanId,
    /// Start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Duration, ns.
    pub duration_ns: u64,
    /// `service.name`.
    pub service: String,
    /// `deployment.environment.name`, or empty.
    pub environment: String,
    /// `service.version`, or empty.
    pub version: String,
    /// The endpoint.
    pub endpoint: String,
    /// It failed.
    pub error: bool,
    /// It has a finding.
    pub has_finding: bool,
    /// Spans in the whole trace.
    pub spans: u32,
    /// Database calls.
    pub database_calls: u32,
    /// Requests it stands for (head sampling).
    pub weight: i64,
    /// Critical-path ns by category; they add up to the duration.
    pub categories: [u64; Category::COUNT],
}

/// A name that a search found.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct FoundName {
    /// `service.name`.
    pub service: String,
    /// The endpoint; empty if the service itself was found.
    pub endpoint: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    trace_id: Uuid,
    span_id: i64,
    start_ns: i64,
    duration_ns: i64,
    service: String,
    environment: String,
    version: String,
    endpoint: String,
    flags: i16,
    spans: i32,
    database_calls: i16,
    weight: i32,
    categories: Vec<i64>,
}

/// What both orders select.
macro_rules! listed {
    ($chosen:literal) => {
        concat!(
            "select r.trace_id, r.span_id, r.start_ns, r.duration_ns,
                    s.name as service, s.environment, v.version, e.name as endpoint,
                    r.flags, r.spans, r.database_calls, r.weight,
                    array[coalesce(handler_ns, 0), coalesce(database_ns, 0), coalesce(cache_ns, 0),
                          coalesce(external_ns, 0), coalesce(messaging_ns, 0),
                          coalesce(serialization_ns, 0), coalesce(logging_ns, 0),
                          coalesce(pool_wait_ns, 0), coalesce(connect_ns, 0),
                          coalesce(network_ns, 0), coalesce(unattributed_ns, 0)] as categories
             from (",
            $chosen,
            ") r
             join culprit.services s on s.id = r.service_id
             join culprit.endpoints e on e.id = r.endpoint_id
             join culprit.versions v on v.id = r.version_id "
        )
    };
}

/// The newest of each endpoint by its index, then the newest of those: a list without filters reads
/// a page per endpoint and not the whole time range.
const NEWEST: &str = concat!(
    listed!(
        "select newest.* from unnest($1::integer[]) as of_endpoint(id)
         cross join lateral (
             select * from culprit.request_rows
             where endpoint_id = of_endpoint.id and start_ns >= $2 and start_ns < $3
               and start_ns <= $8 and (start_ns, trace_id, span_id) < ($8, $9, $10)
               and duration_ns >= $4 and duration_ns <= $5 and (flags & $6) = $6
             order by start_ns desc, trace_id desc, span_id desc limit $7) newest
         order by start_ns desc, trace_id desc, span_id desc limit $7"
    ),
    "order by r.start_ns desc, r.trace_id desc, r.span_id desc"
);

const SLOWEST: &str = concat!(
    listed!(
        "select * from culprit.request_rows
         where endpoint_id = any($1) and start_ns >= $2 and start_ns < $3
           and duration_ns >= $4 and duration_ns <= $5 and (flags & $6) = $6
           and (duration_ns, trace_id, span_id) < ($8, $9, $10)
         order by duration_ns desc, trace_id desc, span_id desc limit $7"
    ),
    "order by r.duration_ns desc, r.trace_id desc, r.span_id desc"
);

impl ListedRequest {
    /// Where the next page goes on if this is the last row of a page.
    pub fn key(&self, order: RequestOrder) -> RequestKey {
        let by_ns = match order {
            RequestOrder::Newest => self.start_ns,
            RequestOrder::Slowest => self.duration_ns,
        };
        RequestKey {
            by_ns,
            trace_id: self.trace_id,
            span_id: self.span_id,
        }
    }
}

impl Store {
    /// One page of requests.
    ///
    /// # Errors
    /// Postgres cannot be reached, or the filters match so little that looking took too long.
    pub async fn requests(&self, filter: &RequestFilter) -> Result<Vec<ListedRequest>, StoreError> {
        let endpoints = self.endpoint_ids(&filter.service, &filter.endpoint).await?;
        if endpoints.is_empty() {
            return Ok(Vec::new());
        }
        let statement = match filter.order {
            RequestOrder::Newest => NEWEST,
            RequestOrder::Slowest => SLOWEST,
        };
        let after = filter.after.unwrap_or(RequestKey {
            by_ns: u64::MAX,
            trace_id: TraceId([0xff; 16]),
            span_id: SpanId(i64::MAX.to_be_bytes()),
        });
        let max_ns = if filter.max_ns == 0 {
            u64::MAX
        } else {
            filter.max_ns
        };
        let mut transaction = self.pool().begin().await?;
        transaction.execute(STATEMENT_TIMEOUT).await?;
        let rows: Vec<Row> = sqlx::query_as(statement)
            .bind(endpoints)
            .bind(signed(filter.from_ns))
            .bind(signed(filter.until_ns))
            .bind(signed(filter.min_ns))
            .bind(signed(max_ns))
            .bind(filter.flags())
            .bind(filter.limit.clamp(1, REQUESTS_MAX))
            .bind(signed(after.by_ns))
            .bind(uuid(after.trace_id))
            .bind(span_number(after.span_id))
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(listed).collect())
    }

    /// The endpoints whose name holds `text`, in any case, and the services; services first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn find_names(&self, text: &str) -> Result<Vec<FoundName>, StoreError> {
        let names = sqlx::query_as(
            "select * from (
                 select distinct name as service, '' as endpoint from culprit.services
                 where position(lower($1) in lower(name)) > 0
                 union all
                 select distinct s.name, e.name from culprit.endpoints e
                 join culprit.services s on s.id = e.service_id
                 where position(lower($1) in lower(e.name)) > 0) found
             order by endpoint <> '', service, endpoint limit $2",
        )
        .bind(text.replace('\0', "\u{fffd}"))
        .bind(NAMES_MAX)
        .fetch_all(self.pool())
        .await?;
        Ok(names)
    }

    /// Some trace was analysed, ever.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn knows_services(&self) -> Result<bool, StoreError> {
        let known = sqlx::query_scalar("select exists (select from culprit.services)")
            .fetch_one(self.pool())
            .await?;
        Ok(known)
    }

    async fn endpoint_ids(&self, service: &str, endpoint: &str) -> Result<Vec<i32>, StoreError> {
        // A NUL cannot be stored, nor compared: the dictionary has it replaced too.
        let ids = sqlx::query_scalar(
            "select e.id from culprit.endpoints e join culprit.services s on s.id = e.service_id
             where ($1 = '' or s.name = $1) and ($2 = '' or e.name = $2)",
        )
        .bind(service.replace('\0', "\u{fffd}"))
        .bind(endpoint.replace('\0', "\u{fffd}"))
        .fetch_all(self.pool())
        .await?;
        Ok(ids)
    }
}

impl RequestFilter {
    fn flags(&self) -> i16 {
        let wanted = [
            (self.errors, FLAG_ERROR),
            (self.with_finding, FLAG_FINDING),
            (self.outermost, FLAG_ROOT),
        ];
        wanted
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| flag)
            .sum()
    }
}

fn listed(row: Row) -> ListedRequest {
    let ns = |signed: i64| u64::try_from(signed).unwrap_or_default();
    let mut categories = [0; Category::COUNT];
    for (category, stored) in categories.iter_mut().zip(row.categories) {
        *category = ns(stored);
    }
    ListedRequest {
        trace_id: TraceId(row.trace_id.into_bytes()),
        span_id: SpanId(row.span_id.to_be_bytes()),
        start_ns: ns(row.start_ns),
        duration_ns: ns(row.duration_ns),
        service: row.service,
        environment: row.environment,
        version: row.version,
        endpoint: row.endpoint,
        error: row.flags & FLAG_ERROR != 0,
        has_finding: row.flags & FLAG_FINDING != 0,
        spans: u32::try_from(row.spans).unwrap_or_default(),
        database_calls: u32::try_from(row.database_calls).unwrap_or_default(),
        weight: i64::from(row.weight),
        categories,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests n = 1, 2, …: n ms after the epoch, 10 · (n mod 7) ms long; every third failed, every
    /// fourth with a finding; the even ones outermost at GET /posts of shop, the others at POST /pay of pay.
    async fn filled(requests: i32) -> Store {
        let store = crate::testing::store().await;
        for statement in [
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod'), ('', 'pay', '')",
            "insert into culprit.endpoints (service_id, name) values (1, 'GET /posts'), (2, 'POST /pay')",
            "insert into culprit.versions (service_id, version) values (1, '1.0'), (2, '')",
        ] {
            sqlx::query(statement).execute(store.pool()).await.unwrap();
        }
        sqlx::query(
            "insert into culprit.request_rows (day, trace_id, span_id, start_ns, duration_ns, block_id,
                 service_id, endpoint_id, version_id, minute, weight, spans, shard, flags, analysis,
                 database_ns, database_calls, cache_calls, external_calls)
             select (now() at time zone 'utc')::date, md5(n::text)::uuid, -n, n * 1000000, n % 7 * 10000000, 1,
                 1 + n % 2, 1 + n % 2, 1 + n % 2, 0, 1, 5, 0,
                 case when n % 3 = 0 then 1 else 0 end + case when n % 4 = 0 then 16 else 0 end
                     + case when n % 2 = 0 then 8 else 0 end,
                 1, n % 7 * 10000000, 3, 0, 0
             from generate_series(1, $1) n",
        )
        .bind(requests)
        .execute(store.pool())
        .await
        .unwrap();
        store
    }

    fn all() -> RequestFilter {
        RequestFilter {
            from_ns: 0,
            until_ns: u64::MAX,
            service: String::new(),
            endpoint: String::new(),
            min_ns: 0,
            max_ns: 0,
            errors: false,
            with_finding: false,
            outermost: false,
            order: RequestOrder::Newest,
            after: None,
            limit: 1_000,
        }
    }

    async fn starts_ms(store: &Store, filter: RequestFilter) -> Vec<u64> {
        let rows = store.requests(&filter).await.unwrap();
        rows.iter().map(|it| it.start_ns / 1_000_000).collect()
    }

    #[tokio::test]
    async fn filters_are_filters() {
        let store = filled(12).await;
        assert_eq!(
            starts_ms(&store, RequestFilter { limit: 3, ..all() }).await,
            [12, 11, 10]
        );
        let shop = RequestFilter {
            service: "shop".into(),
            ..all()
        };
        assert_eq!(starts_ms(&store, shop).await, [12, 10, 8, 6, 4, 2]);
        let endpoint = RequestFilter {
            endpoint: "POST /pay".into(),
            min_ns: 30_000_000,
            ..all()
        };
        assert_eq!(starts_ms(&store, endpoint).await, [11, 5, 3]);
        let failed = RequestFilter {
            errors: true,
            with_finding: true,
            ..all()
        };
        assert_eq!(starts_ms(&store, failed).await, [12]);
        let outermost = RequestFilter {
            outermost: true,
            max_ns: 20_000_000,
            ..all()
        };
        assert_eq!(starts_ms(&store, outermost).await, [8, 2]);
        let range = RequestFilter {
            from_ns: 3_000_000,
            until_ns: 5_000_000,
            ..all()
        };
        assert_eq!(starts_ms(&store, range).await, [4, 3]);
        let slowest = RequestFilter {
            order: RequestOrder::Slowest,
            limit: 2,
            service: "pay".into(),
            ..all()
        };
        assert_eq!(starts_ms(&store, slowest).await.len(), 2);
        for nothing in ["nothing", "sh%", "\0", "'; drop schema culprit; --"] {
            let filter = RequestFilter {
                service: nothing.into(),
                ..all()
            };
            assert!(starts_ms(&store, filter).await.is_empty());
        }
    }

    #[tokio::test]
    async fn pages_hold_every_row_once() {
        let store = filled(50).await;
        for order in [RequestOrder::Newest, RequestOrder::Slowest] {
            let mut filter = RequestFilter {
                order,
                limit: 7,
                ..all()
            };
            let mut seen = Vec::new();
            loop {
                let page = store.requests(&filter).await.unwrap();
                let Some(last) = page.last() else { break };
                filter.after = Some(last.key(order));
                seen.extend(page.iter().map(|it| it.key(order)));
            }
            assert_eq!(seen.len(), 50);
            assert!(
                seen.windows(2).all(|it| it[0].by_ns >= it[1].by_ns),
                "{seen:?}"
            );
            let distinct: std::collections::HashSet<_> =
                seen.iter().map(|it| it.trace_id).collect();
            assert_eq!(distinct.len(), 50);
        }
    }

    #[tokio::test]
    async fn a_row_says_where_its_time_went() {
        let store = filled(6).await;
        let rows = store
            .requests(&RequestFilter { limit: 1, ..all() })
            .await
            .unwrap();
        let row = &rows[0];
        assert_eq!(
            (
                row.service.as_str(),
                row.endpoint.as_str(),
                row.version.as_str()
            ),
            ("shop", "GET /posts", "1.0")
        );
        assert_eq!(row.categories.iter().sum::<u64>(), row.duration_ns);
        assert!(row.error && !row.has_finding);
    }

    #[tokio::test]
    async fn names_are_found_by_a_part_in_any_case() {
        let store = filled(1).await;
        let found = store.find_names("P").await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|it| format!("{} {}", it.service, it.endpoint))
            .collect();
        assert_eq!(found, ["pay ", "shop ", "pay POST /pay", "shop GET /posts"]);
        assert!(store.find_names("%").await.unwrap().is_empty());
        assert!(store.knows_services().await.unwrap());
        assert!(
            !crate::testing::store()
                .await
                .knows_services()
                .await
                .unwrap()
        );
    }
}
