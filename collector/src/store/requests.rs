//! The list of requests: which of them, in which order, page by page.
//!
//! Pages go on after a key (start or duration, trace, span), never by counting, so that what arrives
//! meanwhile neither repeats nor hides a row.

use std::collections::{BTreeMap, HashMap, HashSet};

use analyzer::category::Category;
use analyzer::span::{SpanId, TraceId};
use sqlx::Executor;
use uuid::Uuid;

use super::blocks::{TimeColumns, or};
use super::finalise::{FLAG_ERROR, FLAG_FINDING, FLAG_FRAGMENT, FLAG_ROOT, span_number};
use super::pool::Connection;
use super::search::{BlockKey, Blocks, KeyColumns, columns, key_columns, met_in};
use super::{Store, StoreError};
use crate::contribution::{signed, unsigned};
use crate::span_conditions::{CONDITIONS_MAX, Condition, Met, all_met};

/// Rows of one page of the list at most; a caller that asks for more gets so many.
pub const REQUESTS_MAX: i64 = 1_000;

/// What one page does at most before it says how far it came: a second or two of work. Whoever wants
/// to know goes on from there.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Blocks told by their statistics and filters.
    looked_at: usize,
    /// Blocks whose requests are read.
    read: usize,
    /// Blocks unpacked, because their filter says that a hit may be there.
    unpacked: usize,
}

const BUDGET: Budget = Budget {
    looked_at: 100_000,
    read: 6_000,
    unpacked: 1_500,
};

/// A statement of a page that takes longer is ended: something is wrong with the database.
const STATEMENT_TIMEOUT: &str = "set local statement_timeout = '10s'";

/// Names that a search shows at most; the rest is reached by typing more.
const NAMES_MAX: i64 = 50;

/// Which requests, and in which order.
#[derive(Clone, PartialEq, Debug)]
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
    /// What their traces' spans must have, each of them in any span; at most [`CONDITIONS_MAX`], more
    /// are not looked at.
    pub conditions: Vec<Condition>,
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
    /// endpoints.id, of several environments the one that came last; 0 if the service itself was found.
    pub endpoint_id: i32,
}

/// A page of the list.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestPage {
    /// The rows.
    pub rows: Vec<ListedRequest>,
    /// Where the next page goes on; `None` if there is nothing more.
    pub next: Option<RequestKey>,
    /// So much was looked at without filling the page that it ends here: what started at this time or
    /// before, or took this long or less, was not looked at. ns.
    pub not_beyond_ns: Option<u64>,
}

/// A row's place in the order: what it is ordered by, trace, span.
type SortKey = (i64, [u8; 16], i64);

/// Where a row stands: a block, and the position in its columns.
type Place = (BlockKey, usize);

/// The columns of a block's requests that are shown.
#[derive(sqlx::FromRow)]
struct ShownColumns {
    day: i32,
    shard: i16,
    id: i64,
    trace_ids: Vec<Uuid>,
    span_ids: Vec<i64>,
    start_ns: Vec<i64>,
    duration_ns: Vec<i64>,
    endpoint_ids: Vec<i32>,
    version_ids: Vec<i32>,
    flags: Vec<i16>,
    trace_spans: Vec<i32>,
    weights: Option<Vec<i32>>,
    #[sqlx(flatten)]
    times: TimeColumns,
    database_calls: Option<Vec<i16>>,
}

#[derive(sqlx::FromRow)]
struct EndpointRow {
    id: i32,
    service: String,
    environment: String,
    endpoint: String,
}

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
    /// Postgres cannot be reached, or what is stored is damaged.
    pub async fn requests(&self, filter: &RequestFilter) -> Result<RequestPage, StoreError> {
        let endpoints = if filter.service.is_empty() && filter.endpoint.is_empty() {
            None
        } else {
            let known = self.endpoint_ids(&filter.service, &filter.endpoint).await?;
            if known.is_empty() {
                return Ok(RequestPage::default());
            }
            Some(known)
        };
        self.requests_of(filter, endpoints).await
    }

    /// As [`Store::requests`], of these endpoints, whatever names the filter has.
    pub async fn requests_of(
        &self,
        filter: &RequestFilter,
        endpoints: Option<Vec<i32>>,
    ) -> Result<RequestPage, StoreError> {
        self.requests_within(filter, endpoints, BUDGET).await
    }

    async fn requests_within(
        &self,
        filter: &RequestFilter,
        endpoints: Option<Vec<i32>>,
        budget: Budget,
    ) -> Result<RequestPage, StoreError> {
        // One snapshot: what compaction replaces meanwhile is still there.
        let mut transaction = self.pool().snapshot().await?;
        transaction.execute(STATEMENT_TIMEOUT).await?;
        let mut search = Search::new(&mut transaction, filter, endpoints, budget).await?;
        let not_beyond = search.run(&mut transaction).await?;
        let page = search.page(&mut transaction, not_beyond).await?;
        transaction.commit().await?;
        Ok(page)
    }

    /// The endpoints whose name holds `text`, in any case, and the services; services first.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn find_names(&self, text: &str) -> Result<Vec<FoundName>, StoreError> {
        let names = sqlx::query_as(
            "select * from (
                 select distinct name as service, '' as endpoint, 0 as endpoint_id from culprit.services
                 where position(lower($1) in lower(name)) > 0
                 union all
                 select s.name, e.name, max(e.id) from culprit.endpoints e
                 join culprit.services s on s.id = e.service_id
                 where position(lower($1) in lower(e.name)) > 0 group by s.name, e.name) found
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
    /// All requests, the newest first.
    pub fn newest(limit: i64) -> RequestFilter {
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
            conditions: Vec::new(),
            order: RequestOrder::Newest,
            after: None,
            limit,
        }
    }

    /// The flags that every row has.
    fn flags(&self) -> i16 {
        let wanted = [(self.errors, FLAG_ERROR), (self.with_finding, FLAG_FINDING)];
        wanted
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| flag)
            .sum()
    }
}

/// A page in the making.
struct Search<'a> {
    filter: &'a RequestFilter,
    endpoints: Option<HashSet<i32>>,
    /// For each condition on a name, the endpoints of that name.
    named: Vec<(usize, HashSet<i32>)>,
    blocks: Blocks,
    after: SortKey,
    limit: usize,
    /// The best rows so far, one more than the page holds: it says whether there are more.
    best: BTreeMap<SortKey, Place>,
    budget: Budget,
    /// Blocks read so far.
    read: usize,
    /// Blocks unpacked so far.
    unpacked: usize,
}

impl<'a> Search<'a> {
    async fn new(
        connection: &mut Connection,
        filter: &'a RequestFilter,
        endpoints: Option<Vec<i32>>,
        budget: Budget,
    ) -> Result<Search<'a>, StoreError> {
        let after = filter.after.map_or((i64::MAX, [0xff; 16], i64::MAX), |it| {
            let span = span_number(it.span_id);
            (signed(it.by_ns), it.trace_id.0, span)
        });
        let mut until_ns = signed(filter.until_ns);
        if filter.order == RequestOrder::Newest {
            until_ns = until_ns.min(after.0.saturating_add(1));
        }
        let conditions: Vec<Condition> = filter
            .conditions
            .iter()
            .take(CONDITIONS_MAX)
            .cloned()
            .collect();
        let named = named(connection, &conditions).await?;
        let mut blocks = Blocks::new(filter.order, signed(filter.from_ns), until_ns);
        blocks.min_ns = signed(filter.min_ns);
        blocks.flags = filter.flags();
        // A fragment stands for its trace when its spans are searched.
        if filter.outermost && conditions.is_empty() {
            blocks.flags |= FLAG_ROOT;
        }
        blocks.named_endpoints = named.iter().flat_map(|it| it.1.iter().copied()).collect();
        blocks.conditions = conditions.into();
        blocks.endpoints = endpoints.clone();
        Ok(Search {
            filter,
            endpoints: endpoints.map(|it| it.into_iter().collect()),
            named,
            blocks,
            after,
            limit: usize::try_from(filter.limit.clamp(1, REQUESTS_MAX)).unwrap_or(1),
            best: BTreeMap::new(),
            budget,
            read: 0,
            unpacked: 0,
        })
    }

    /// Looks until the page is full and nothing better can follow, or all was looked at; otherwise
    /// tells what the rest is below of.
    async fn run(&mut self, connection: &mut Connection) -> Result<Option<i64>, StoreError> {
        loop {
            let looked = self.blocks.look(connection).await?;
            for blocks in looked.blocks.chunks(self.read_at_once()) {
                // They come in the order of the list: behind these nothing is better than their first.
                if blocks.first().is_some_and(|it| self.is_settled(it.0)) {
                    return Ok(None);
                }
                let blocks: Vec<BlockKey> = blocks.iter().map(|it| it.1).collect();
                let (read, unpacked) = self.read(connection, &blocks).await?;
                self.read += read;
                self.unpacked += unpacked;
            }
            let Some(rest_below) = looked.rest_below else {
                return Ok(None);
            };
            if self.is_settled(rest_below) {
                return Ok(None);
            }
            let spent = self.blocks.seen >= self.budget.looked_at
                || self.read >= self.budget.read
                || self.unpacked >= self.budget.unpacked;
            if spent {
                return Ok(Some(rest_below));
            }
        }
    }

    /// The page is full, and known to have another behind it, with rows that are all above `rest_below`.
    fn is_settled(&self, rest_below: i64) -> bool {
        let last = self.best.iter().rev().nth(self.limit);
        last.is_some_and(|(key, _)| key.0 > rest_below)
    }

    /// What is slowest stands in few of a day's blocks, and each is read whole; a search opens many anyway.
    fn read_at_once(&self) -> usize {
        match self.filter.order {
            RequestOrder::Slowest if self.blocks.conditions.is_empty() => SLOWEST_READ_AT_ONCE,
            _ => BLOCKS_READ_AT_ONCE,
        }
    }

    /// Adds the rows of some blocks; how many blocks were read and unpacked. What is cheap to tell
    /// and leaves blocks out is asked first.
    async fn read(
        &mut self,
        connection: &mut Connection,
        blocks: &[BlockKey],
    ) -> Result<(usize, usize), StoreError> {
        let conditions = self.blocks.conditions.clone();
        if conditions.is_empty() {
            let columns = key_columns(connection, blocks).await?;
            columns.iter().for_each(|it| self.add(it, |_| true));
            return Ok((blocks.len(), 0));
        }
        if !self.filters_rows() {
            let met = met_in(connection, blocks, &conditions, None).await?;
            let all = all_met(conditions.len());
            let partly = |it: &&BlockKey| !self.named.is_empty() || holds(met.get(*it), all);
            let hit: Vec<BlockKey> = blocks.iter().filter(partly).copied().collect();
            let columns = key_columns(connection, &hit).await?;
            columns.iter().for_each(|it| self.add_met(it, &met, all));
            return Ok((hit.len(), blocks.len()));
        }
        let columns = key_columns(connection, blocks).await?;
        let mut wanted: HashMap<BlockKey, HashSet<TraceId>> = HashMap::new();
        for it in &columns {
            let traces = (0..it.trace_ids.len()).filter(|at| self.fits(it, *at));
            let traces: HashSet<TraceId> = traces.map(|at| trace_id(it, at)).collect();
            if !traces.is_empty() {
                wanted.insert(it.key(), traces);
            }
        }
        let hit: Vec<BlockKey> = blocks
            .iter()
            .filter(|it| wanted.contains_key(it))
            .copied()
            .collect();
        let met = met_in(connection, &hit, &conditions, Some(&wanted)).await?;
        let all = all_met(conditions.len());
        columns.iter().for_each(|it| self.add_met(it, &met, all));
        Ok((blocks.len(), hit.len()))
    }

    /// Something besides time and conditions is asked for.
    fn filters_rows(&self) -> bool {
        let filter = self.filter;
        self.endpoints.is_some() || filter.min_ns > 0 || filter.max_ns > 0 || filter.flags() != 0
    }

    fn add_met(
        &mut self,
        columns: &KeyColumns,
        met: &HashMap<BlockKey, HashMap<TraceId, Met>>,
        all: Met,
    ) {
        let mut met = met.get(&columns.key()).cloned().unwrap_or_default();
        for (condition, endpoints) in &self.named {
            for (at, endpoint) in columns.endpoint_ids.iter().enumerate() {
                if endpoints.contains(endpoint) {
                    *met.entry(trace_id(columns, at)).or_default() |= 1 << condition;
                }
            }
        }
        self.add(columns, |trace| met.get(trace) == Some(&all));
    }

    fn add(&mut self, columns: &KeyColumns, hit: impl Fn(&TraceId) -> bool) {
        let gone: HashSet<&Uuid> = columns.gone.iter().collect();
        for at in 0..columns.trace_ids.len() {
            let Some(key) = self.sort_key(columns, at) else {
                continue;
            };
            // Most rows of a long list are worse than what is there already.
            let full = self.best.len() > self.limit;
            if full && self.best.first_key_value().is_some_and(|it| key < *it.0) {
                continue;
            }
            if self.fits(columns, at)
                && !gone.contains(&columns.trace_ids[at])
                && hit(&trace_id(columns, at))
            {
                self.best.insert(key, (columns.key(), at));
                if self.best.len() > self.limit + 1 {
                    self.best.pop_first();
                }
            }
        }
    }

    /// `None` if it stands on an earlier page.
    fn sort_key(&self, columns: &KeyColumns, at: usize) -> Option<SortKey> {
        let by_ns = match self.filter.order {
            RequestOrder::Newest => columns.start_ns.get(at),
            RequestOrder::Slowest => columns.duration_ns.get(at),
        };
        let key = (
            *by_ns?,
            columns.trace_ids.get(at)?.into_bytes(),
            *columns.span_ids.get(at)?,
        );
        (key < self.after).then_some(key)
    }

    /// The row is asked for, whatever its trace's spans are.
    fn fits(&self, columns: &KeyColumns, at: usize) -> bool {
        let fitting = || {
            let (start_ns, duration_ns) =
                (*columns.start_ns.get(at)?, *columns.duration_ns.get(at)?);
            let (endpoint, flags) = (*columns.endpoint_ids.get(at)?, *columns.flags.get(at)?);
            let filter = self.filter;
            let fragment = flags & FLAG_FRAGMENT != 0;
            let wanted = filter.flags();
            let searched = !self.blocks.conditions.is_empty();
            let fits = start_ns >= signed(filter.from_ns)
                && start_ns < signed(filter.until_ns)
                && duration_ns >= signed(filter.min_ns)
                && (filter.max_ns == 0 || duration_ns <= signed(filter.max_ns))
                && flags & wanted == wanted
                && (!filter.outermost || fragment || flags & FLAG_ROOT != 0)
                && (!fragment || searched)
                && self
                    .endpoints
                    .as_ref()
                    .is_none_or(|it| it.contains(&endpoint));
            Some(fits)
        };
        fitting().unwrap_or(false)
    }

    async fn page(
        mut self,
        connection: &mut Connection,
        not_beyond: Option<i64>,
    ) -> Result<RequestPage, StoreError> {
        if let Some(bound) = not_beyond {
            self.best.retain(|key, _| key.0 > bound);
        }
        let more = self.best.len() > self.limit;
        let places: Vec<(SortKey, Place)> = self.best.into_iter().rev().take(self.limit).collect();
        let last = places.last().map(|it| it.0).filter(|_| more);
        // Where the looking ended; unless that is no step ahead, because clocks of senders are absurd.
        let ended = not_beyond.map(|it| (it, [0xff; 16], i64::MAX));
        let ended = ended.filter(|it| *it < self.after);
        let next = last.or(ended).map(|(by_ns, trace_id, span)| RequestKey {
            by_ns: unsigned(by_ns),
            trace_id: TraceId(trace_id),
            span_id: SpanId(span.to_be_bytes()),
        });
        Ok(RequestPage {
            rows: shown(connection, &places).await?,
            next,
            not_beyond_ns: not_beyond.filter(|_| !more).map(unsigned),
        })
    }
}

/// Blocks whose columns are in memory together: a hundred kilobytes each.
const BLOCKS_READ_AT_ONCE: usize = 64;

/// Of those with the longest requests fewer: after each lot it is asked whether the rest can hold anything slower
/// than the page, so that at most so many are read in vain, and a question for each would be many.
const SLOWEST_READ_AT_ONCE: usize = 4;

fn holds(met: Option<&HashMap<TraceId, Met>>, all: Met) -> bool {
    met.is_some_and(|it| it.values().any(|it| *it == all))
}

fn trace_id(columns: &KeyColumns, at: usize) -> TraceId {
    TraceId(columns.trace_ids[at].into_bytes())
}

async fn named(
    connection: &mut Connection,
    conditions: &[Condition],
) -> Result<Vec<(usize, HashSet<i32>)>, StoreError> {
    let mut named = Vec::new();
    for (at, condition) in conditions.iter().enumerate() {
        if let Condition::Name(name) = condition {
            let ids: Vec<i32> =
                sqlx::query_scalar("select id from culprit.endpoints where name = $1")
                    .bind(name.replace('\0', "\u{fffd}"))
                    .fetch_all(&mut *connection)
                    .await?;
            named.push((at, ids.into_iter().collect::<HashSet<i32>>()));
        }
    }
    named.retain(|it| !it.1.is_empty());
    Ok(named)
}

/// The rows at these places, in their order, with everything that is shown of them.
async fn shown(
    connection: &mut Connection,
    places: &[(SortKey, Place)],
) -> Result<Vec<ListedRequest>, StoreError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let blocks: HashSet<BlockKey> = places.iter().map(|it| it.1.0).collect();
    let blocks: Vec<BlockKey> = blocks.into_iter().collect();
    let (days, shards, ids) = columns(&blocks);
    let rows: Vec<ShownColumns> = sqlx::query_as(
        "select b.day - date '1970-01-01' as day, b.shard, b.id, b.trace_ids, b.span_ids, b.start_ns,
                b.duration_ns, b.endpoint_ids, b.version_ids, b.flags, b.trace_spans, b.weights,
                b.database_ns, b.cache_ns, b.external_ns, b.messaging_ns, b.serialization_ns,
                b.logging_ns, b.pool_wait_ns, b.connect_ns, b.network_ns, b.unattributed_ns,
                b.database_calls
         from unnest($1::integer[], $2::smallint[], $3::bigint[]) as wanted(day, shard, id)
         join culprit.trace_blocks b
           on b.day = date '1970-01-01' + wanted.day and b.shard = wanted.shard and b.id = wanted.id",
    )
    .bind(days)
    .bind(shards)
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let rows: HashMap<BlockKey, ShownColumns> = rows.into_iter().map(|it| (it.key(), it)).collect();
    let found: Vec<(&ShownColumns, usize)> = places
        .iter()
        .filter_map(|(_, (block, at))| Some((rows.get(block)?, *at)))
        .collect();
    let of = |column: fn(&ShownColumns) -> &Vec<i32>| -> Vec<i32> {
        let ids = found.iter().filter_map(|(row, at)| column(row).get(*at));
        ids.copied().collect::<HashSet<i32>>().into_iter().collect()
    };
    let endpoints: Vec<EndpointRow> = sqlx::query_as(
        "select e.id, s.name as service, s.environment, e.name as endpoint
         from culprit.endpoints e join culprit.services s on s.id = e.service_id where e.id = any($1)",
    )
    .bind(of(|it| &it.endpoint_ids))
    .fetch_all(&mut *connection)
    .await?;
    let endpoints: HashMap<i32, EndpointRow> =
        endpoints.into_iter().map(|it| (it.id, it)).collect();
    let versions: Vec<(i32, String)> =
        sqlx::query_as("select id, version from culprit.versions where id = any($1)")
            .bind(of(|it| &it.version_ids))
            .fetch_all(connection)
            .await?;
    let versions: HashMap<i32, String> = versions.into_iter().collect();
    let listed = found.iter();
    Ok(listed
        .filter_map(|(row, at)| row.listed(*at, &endpoints, &versions))
        .collect())
}

impl ShownColumns {
    fn key(&self) -> BlockKey {
        BlockKey {
            day: self.day,
            shard: self.shard,
            id: self.id,
        }
    }

    fn listed(
        &self,
        at: usize,
        endpoints: &HashMap<i32, EndpointRow>,
        versions: &HashMap<i32, String>,
    ) -> Option<ListedRequest> {
        // A fragment has none of its own.
        let endpoint = endpoints.get(self.endpoint_ids.get(at)?);
        let duration_ns = unsigned(*self.duration_ns.get(at)?);
        let flags = *self.flags.get(at)?;
        let name =
            |of: fn(&EndpointRow) -> &String| endpoint.map_or(String::new(), |it| of(it).clone());
        let calls = or(&self.database_calls, at, 0)?;
        Some(ListedRequest {
            trace_id: TraceId(self.trace_ids.get(at)?.into_bytes()),
            span_id: SpanId(self.span_ids.get(at)?.to_be_bytes()),
            start_ns: unsigned(*self.start_ns.get(at)?),
            duration_ns,
            service: name(|it| &it.service),
            environment: name(|it| &it.environment),
            version: versions
                .get(self.version_ids.get(at)?)
                .cloned()
                .unwrap_or_default(),
            endpoint: name(|it| &it.endpoint),
            error: flags & FLAG_ERROR != 0,
            has_finding: flags & FLAG_FINDING != 0,
            spans: u32::try_from(*self.trace_spans.get(at)?).unwrap_or_default(),
            database_calls: u32::try_from(calls).unwrap_or_default(),
            weight: i64::from(or(&self.weights, at, 1)?),
            categories: self.times.categories(at, duration_ns)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_filter;
    use crate::span_conditions::Bound;
    use crate::store::blocks::{NewBlock, NewRequest, insert_block};

    /// Seven to a block. Requests n = 1, 2, …: n ms after the epoch, 10 · (n mod 7) ms long; every third failed, every
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
        let requests: Vec<NewRequest> = (1..=requests).map(request).collect();
        for (id, some) in requests.chunks(7).enumerate() {
            block(&store, id as i64, some.to_vec(), &[]).await;
        }
        store
    }

    fn request(n: i32) -> NewRequest {
        let ms = 1_000_000;
        let flag = |every: i32, flag: i16| if n % every == 0 { flag } else { 0 };
        let duration_ns = (n % 7) as u64 * 10 * ms;
        let mut categories = [0; Category::COUNT];
        categories[Category::Database as usize] = duration_ns / 2;
        categories[Category::Handler as usize] = duration_ns - duration_ns / 2;
        let mut calls = [0; Category::COUNT];
        calls[Category::Database as usize] = 3;
        NewRequest {
            trace_id: trace(n),
            span_id: SpanId((-i64::from(n)).to_be_bytes()),
            start_ns: n as u64 * ms,
            duration_ns,
            categories,
            calls,
            endpoint: 1 + n % 2,
            version: 1 + n % 2,
            minute: 0,
            weight: 1,
            spans: 5,
            flags: flag(3, FLAG_ERROR) + flag(4, FLAG_FINDING) + flag(2, FLAG_ROOT),
        }
    }

    fn trace(n: i32) -> TraceId {
        // Not in the order of time.
        TraceId((n as u128 * 0x9e37_79b9_7f4a_7c15).to_be_bytes())
    }

    async fn block(store: &Store, id: i64, requests: Vec<NewRequest>, otlp: &[Vec<u8>]) {
        let otlp = otlp.concat();
        let mut spans = analyzer::span::Spans::default();
        crate::otlp::decode_into(&mut spans, &otlp, |_| true).unwrap();
        let block = NewBlock {
            day: store.today().await.unwrap(),
            id,
            spans: 1,
            traces: requests.len() as i32,
            raw_bytes: otlp.len() as i32,
            payload: crate::packer::compress(&otlp, 1),
            requests,
            filter: Some(block_filter::build(block_filter::tokens_of(&spans))),
        };
        let mut connection = store.pool().session().await.unwrap();
        insert_block(&mut connection, 0, 1, block).await.unwrap();
    }

    fn all() -> RequestFilter {
        RequestFilter::newest(1_000)
    }

    async fn starts_ms(store: &Store, filter: RequestFilter) -> Vec<u64> {
        let page = store.requests(&filter).await.unwrap();
        assert_eq!(page.not_beyond_ns, None);
        page.rows.iter().map(|it| it.start_ns / 1_000_000).collect()
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
                let last = page.rows.last().map(|it| it.key(order));
                assert!(page.next.is_none() || page.next == last);
                seen.extend(page.rows.iter().map(|it| it.key(order)));
                if page.next.is_none() {
                    break;
                }
                filter.after = page.next;
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

    /// Each block's slowest is slower than all of the block before; whatever stands in the others is not read.
    #[tokio::test]
    async fn the_slowest_open_only_blocks_that_can_hold_one() {
        const BLOCKS: i32 = 150;
        let store = filled(0).await;
        for n in 1..=BLOCKS {
            let slow = NewRequest {
                duration_ns: n as u64 * 100_000_000,
                ..request(2 * n)
            };
            block(&store, i64::from(n), vec![slow, request(1_000 + n)], &[]).await;
        }
        for (limit, blocks) in [(10, 11), (40, 41)] {
            let filter = RequestFilter {
                order: RequestOrder::Slowest,
                limit,
                ..all()
            };
            let mut transaction = store.pool().snapshot().await.unwrap();
            let searched = Search::new(&mut transaction, &filter, None, BUDGET).await;
            let mut search = searched.unwrap();
            assert_eq!(search.run(&mut transaction).await.unwrap(), None);
            let opened = blocks..blocks + SLOWEST_READ_AT_ONCE;
            assert!(opened.contains(&search.read), "{limit}: {}", search.read);
            assert_eq!(search.best.len(), limit as usize + 1);
            let page = search.page(&mut transaction, None).await.unwrap();
            let expected = (0..limit as u64).map(|it| (BLOCKS as u64 - it) * 100_000_000);
            let slowest = page.rows.iter().map(|it| it.duration_ns);
            assert!(slowest.eq(expected));
            assert!(page.next.is_some());
        }
    }

    #[tokio::test]
    async fn a_row_says_where_its_time_went() {
        let store = filled(6).await;
        let filter = RequestFilter { limit: 1, ..all() };
        let page = store.requests(&filter).await.unwrap();
        let row = &page.rows[0];
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
        let ids = store.find_names("P").await.unwrap();
        assert!(
            ids.iter()
                .all(|it| (it.endpoint_id > 0) != it.endpoint.is_empty())
        );
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

    #[tokio::test]
    async fn copies_that_later_blocks_replace_are_not_listed() {
        let store = filled(5).await;
        sqlx::query(
            "insert into culprit.superseded
             select b.id, $1, b.shard, b.day from culprit.trace_blocks b",
        )
        .bind(Uuid::from_bytes(trace(4).0))
        .execute(store.pool())
        .await
        .unwrap();
        let mut grown = request(4);
        grown.spans = 9;
        block(&store, 77, vec![grown], &[]).await;
        let page = store.requests(&all()).await.unwrap();
        let of_four: Vec<u32> = page
            .rows
            .iter()
            .filter(|it| it.trace_id == trace(4))
            .map(|it| it.spans)
            .collect();
        assert_eq!((page.rows.len(), of_four), (5, vec![9]));
    }

    /// A block of the distant future, one from 1970, late ones: the order is that of the rows.
    #[tokio::test]
    async fn absurd_clocks_and_late_traces_do_not_disturb_the_order() {
        let store = filled(40).await;
        let mut absurd = request(41);
        absurd.start_ns = u64::MAX / 3;
        let mut ancient = request(42);
        ancient.start_ns = 0;
        block(
            &store,
            90,
            vec![request(43), absurd, ancient, request(44)],
            &[],
        )
        .await;
        block(&store, 91, vec![request(45), request(46)], &[]).await;
        let mut filter = RequestFilter {
            from_ns: 1,
            until_ns: 1_000_000_000,
            limit: 3,
            ..all()
        };
        let mut seen = Vec::new();
        loop {
            let page = store.requests(&filter).await.unwrap();
            seen.extend(page.rows.iter().map(|it| it.start_ns / 1_000_000));
            filter.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        let expected: Vec<u64> = (1..=40).chain(43..=46).rev().collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn a_page_that_looks_too_long_says_how_far_it_came() {
        let store = filled(400).await;
        let budget = Budget {
            looked_at: 10,
            ..BUDGET
        };
        let mut filter = RequestFilter {
            conditions: vec![equals("no", "such")],
            ..all()
        };
        let mut pages = 0;
        loop {
            let page = store.requests_within(&filter, None, budget).await.unwrap();
            assert!(page.rows.is_empty());
            pages += 1;
            let Some(next) = page.next else { break };
            let bound = page.not_beyond_ns.unwrap();
            assert!(bound < filter.after.map_or(u64::MAX, |it| it.by_ns));
            assert_eq!(next.by_ns, bound);
            filter.after = page.next;
        }
        assert!(pages > 3);
    }

    /// In every block somebody else's request is longer than all of endpoint 2's.
    #[tokio::test]
    async fn the_slowest_of_an_endpoint_that_others_call_are_found_in_few_blocks() {
        let store = filled(0).await;
        let ms = 1_000_000;
        for n in 1..=40 {
            let of = |endpoint, duration_ms: u64| NewRequest {
                endpoint,
                duration_ns: duration_ms * ms,
                ..request(2 * n + endpoint)
            };
            block(
                &store,
                i64::from(n),
                vec![of(1, 1_000), of(2, n as u64)],
                &[],
            )
            .await;
        }
        let slowest = RequestFilter {
            order: RequestOrder::Slowest,
            ..RequestFilter::newest(3)
        };
        let few = Budget { read: 16, ..BUDGET };
        let read = async |budget| {
            let page = store
                .requests_within(&slowest, Some(vec![2]), budget)
                .await
                .unwrap();
            let took: Vec<u64> = page.rows.iter().map(|it| it.duration_ns / ms).collect();
            (took, page.not_beyond_ns.is_some())
        };
        assert_eq!(read(few).await, (vec![40, 39, 38], false));
        let long = RequestFilter {
            min_ns: 39 * ms,
            ..RequestFilter::newest(10)
        };
        let page = store
            .requests_within(&long, Some(vec![2]), few)
            .await
            .unwrap();
        assert_eq!((page.rows.len(), page.not_beyond_ns), (2, None));
        // Blocks of an older program say less, and are all read.
        sqlx::query("update culprit.trace_blocks set longest_by_endpoint = null")
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(read(BUDGET).await, (vec![40, 39, 38], false));
        assert!(read(few).await.1);
    }

    fn equals(key: &str, value: &str) -> Condition {
        Condition::Equals {
            key: key.into(),
            value: value.into(),
        }
    }

    fn span(n: i32, service: &str, name: &str, attributes: &[(&str, &str)]) -> Vec<u8> {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
        use opentelemetry_proto::tonic::resource::v1::Resource;
        use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
        use prost::Message;
        let attribute = |(key, value): &(&str, &str)| {
            let number = value.parse().map(any_value::Value::IntValue);
            let text = any_value::Value::StringValue((*value).into());
            KeyValue {
                key: (*key).into(),
                value: Some(AnyValue {
                    value: Some(number.unwrap_or(text)),
                }),
                ..KeyValue::default()
            }
        };
        let span = Span {
            trace_id: trace(n).0.to_vec(),
            span_id: vec![7; 8],
            name: name.into(),
            attributes: attributes.iter().map(attribute).collect(),
            ..Span::default()
        };
        let scope_spans = vec![ScopeSpans {
            spans: vec![span],
            ..ScopeSpans::default()
        }];
        let resource = Resource {
            attributes: vec![attribute(&("service.name", service))],
            ..Resource::default()
        };
        let resource_spans = vec![ResourceSpans {
            resource: Some(resource),
            scope_spans,
            ..ResourceSpans::default()
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    /// Requests 1 to 60 in blocks of ten. Each asks a table of its number modulo 5 and answers
    /// 200 + that number · 100; trace 33 alone has a user.
    async fn searchable() -> Store {
        let store = filled(0).await;
        for first in (1..=60).step_by(10) {
            let numbers = first..first + 10;
            let otlp: Vec<Vec<u8>> = numbers
                .clone()
                .map(|n| {
                    let table = format!("SELECT table {}", n % 5);
                    let status = (200 + n % 5 * 100).to_string();
                    let user = if n == 33 { "alice" } else { "somebody" };
                    [
                        span(
                            n,
                            "shop",
                            "handle",
                            &[("http.response.status_code", &status)],
                        ),
                        span(
                            n,
                            "db-client",
                            &table,
                            &[("user.name", user), ("db.system.name", "postgresql")],
                        ),
                    ]
                    .concat()
                })
                .collect();
            block(&store, first.into(), numbers.map(request).collect(), &otlp).await;
        }
        store
    }

    async fn found(store: &Store, conditions: &[Condition]) -> Vec<u64> {
        let filter = RequestFilter {
            conditions: conditions.to_vec(),
            ..all()
        };
        starts_ms(store, filter).await
    }

    #[tokio::test]
    async fn traces_are_found_by_what_their_spans_have() {
        let store = searchable().await;
        assert_eq!(found(&store, &[equals("user.name", "alice")]).await, [33]);
        assert_eq!(found(&store, &[equals("user.name", "bob")]).await, [0; 0]);
        assert_eq!(found(&store, &[equals("user", "alice")]).await, [0; 0]);
        // Any span, each condition for itself: the service is of one, the user of another.
        let both = [equals("service.name", "shop"), equals("user.name", "alice")];
        assert_eq!(found(&store, &both).await, [33]);
        let neither = [equals("service.name", "pay"), equals("user.name", "alice")];
        assert_eq!(found(&store, &neither).await, [0; 0]);
        let table = [Condition::Name("SELECT table 3".into())];
        assert_eq!(found(&store, &table).await.len(), 12);
        // The endpoint's name will do as well.
        let endpoint = [
            Condition::Name("GET /posts".into()),
            equals("user.name", "alice"),
        ];
        assert_eq!(found(&store, &endpoint).await, [0; 0]);
        let endpoint = [
            Condition::Name("POST /pay".into()),
            equals("user.name", "alice"),
        ];
        assert_eq!(found(&store, &endpoint).await, [33]);
        let present = |key: &str| [Condition::Present { key: key.into() }];
        assert_eq!(found(&store, &present("db.system.name")).await.len(), 60);
        assert_eq!(found(&store, &present("db.system")).await, [0; 0]);
        for hostile in ["", "\0", "'; drop schema culprit; --", "\u{202e}"] {
            assert_eq!(found(&store, &[equals(hostile, hostile)]).await, [0; 0]);
            assert_eq!(
                found(&store, &[Condition::Name(hostile.into())]).await,
                [0; 0]
            );
        }
    }

    #[tokio::test]
    async fn numbers_are_compared() {
        let store = searchable().await;
        let status = |least, greatest| {
            [Condition::Within {
                key: "http.response.status_code".into(),
                least,
                greatest,
            }]
        };
        let failed = status(Bound::Included(500.0), Bound::Unbounded);
        assert_eq!(found(&store, &failed).await.len(), 24);
        let beyond = status(Bound::Excluded(600.0), Bound::Unbounded);
        assert_eq!(found(&store, &beyond).await, [0; 0]);
        let between = status(Bound::Excluded(200.0), Bound::Excluded(400.0));
        assert_eq!(found(&store, &between).await.len(), 12);
        assert_eq!(
            found(&store, &[equals("http.response.status_code", "300")])
                .await
                .len(),
            12
        );
    }

    #[tokio::test]
    async fn conditions_and_filters_go_together_page_by_page() {
        let store = searchable().await;
        let mut filter = RequestFilter {
            conditions: vec![Condition::Name("SELECT table 3".into())],
            errors: true,
            limit: 1,
            ..all()
        };
        let mut seen = Vec::new();
        loop {
            let page = store.requests(&filter).await.unwrap();
            seen.extend(page.rows.iter().map(|it| it.start_ns / 1_000_000));
            filter.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(seen, [48, 33, 18, 3]);
    }

    #[tokio::test]
    async fn blocks_without_a_filter_are_opened() {
        let store = searchable().await;
        sqlx::query("update culprit.trace_blocks set filter = null")
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(found(&store, &[equals("user.name", "alice")]).await, [33]);
    }

    /// A filter beyond five kilobytes is read by windows, cut out by Postgres.
    #[tokio::test]
    async fn windows_of_large_filters_are_where_they_are_looked_for() {
        let store = filled(0).await;
        let values: Vec<String> = (0..6_000).map(|it| format!("value {it}")).collect();
        let attributes: Vec<(&str, &str)> = values.iter().map(|it| ("id", it.as_str())).collect();
        let many = span(1, "shop", "many", &attributes);
        block(
            &store,
            1,
            vec![request(1)],
            &[many, span(1, "shop", "n", &[("size", "77")])],
        )
        .await;
        let bytes: i32 =
            sqlx::query_scalar("select octet_length(filter) from culprit.trace_blocks")
                .fetch_one(store.pool())
                .await
                .unwrap();
        assert!(bytes > 5_000, "{bytes}");
        let conditions: Vec<Condition> = values
            .iter()
            .step_by(37)
            .map(|it| equals("id", it))
            .collect();
        for some in conditions.chunks(5) {
            assert_eq!(found(&store, some).await, [1]);
        }
        let mut wrong = Blocks::new(RequestOrder::Newest, 0, i64::MAX);
        let mut maybe = 0;
        let mut connection = store.pool().session().await.unwrap();
        for n in 0..200 {
            wrong = Blocks::new(wrong.order, 0, i64::MAX);
            wrong.conditions = [equals("id", &format!("other {n}"))].into();
            maybe += wrong.look(&mut connection).await.unwrap().blocks.len();
        }
        assert!(maybe < 25, "{maybe} of 200");
        let beyond = |least| Condition::Within {
            key: "size".into(),
            least: Bound::Included(least),
            greatest: Bound::Unbounded,
        };
        for (least, blocks) in [(77.0, 1), (78.0, 0)] {
            wrong = Blocks::new(wrong.order, 0, i64::MAX);
            wrong.conditions = [beyond(least)].into();
            assert_eq!(
                wrong.look(&mut connection).await.unwrap().blocks.len(),
                blocks
            );
        }
    }
}
