-- Requests move into the blocks that hold their traces: a row of trace_blocks is now a group of
-- traces with its requests as columns (arrays), one element per request. A thin row and two index
-- entries for each request were the largest part of disk and of Postgres' work.
--
-- Older processes that still run go on filling the journal; their analyses fail and are tried
-- again until they are replaced. Nothing that was acknowledged is lost.

alter table culprit.trace_blocks
    -- Over the block's requests: what most blocks are passed over by, unopened.
    add column first_start_ns bigint not null default 0,
    add column last_start_ns bigint not null default 0,
    add column longest_ns bigint not null default 0,
    add column all_flags smallint not null default 0,       -- every flag that any of them has
    add column endpoints integer[] not null default '{}',   -- distinct, ascending
    -- Which words (attributes, names, services) its spans hold; null: unknown, it must be opened.
    add column filter bytea,
    -- The version of the analysis that counted its requests.
    add column analysis smallint not null default 1,
    -- One element per entry span; one per trace without any (a fragment, endpoint 0).
    add column trace_ids uuid[] not null default '{}',
    add column span_ids bigint[] not null default '{}',      -- the 8 bytes, big-endian, as a signed number
    add column start_ns bigint[] not null default '{}',
    add column duration_ns bigint[] not null default '{}',
    add column endpoint_ids integer[] not null default '{}',
    add column version_ids integer[] not null default '{}',
    add column minutes integer[] not null default '{}',      -- the roll-up minute it was counted in
    add column flags smallint[] not null default '{}',       -- as request_rows had them
    add column trace_spans integer[] not null default '{}',  -- spans in the whole trace
    -- Null: 1 for all of them.
    add column weights integer[],
    -- Critical-path time by category; null: 0 for all of them. What is left of the duration is the handler's.
    add column database_ns bigint[],
    add column cache_ns bigint[],
    add column external_ns bigint[],
    add column messaging_ns bigint[],
    add column serialization_ns bigint[],
    add column logging_ns bigint[],
    add column pool_wait_ns bigint[],
    add column connect_ns bigint[],
    add column network_ns bigint[],
    add column unattributed_ns bigint[],
    -- Logical calls; null: none at all.
    add column database_calls smallint[],
    add column cache_calls smallint[],
    add column external_calls smallint[];
-- Bits of hashes: nothing to compress.
alter table culprit.trace_blocks alter column filter set storage external;

update culprit.trace_blocks b set
    first_start_ns = r.first_start_ns, last_start_ns = r.last_start_ns, longest_ns = r.longest_ns,
    all_flags = r.all_flags, endpoints = coalesce(r.endpoints, '{}'), analysis = r.analysis,
    trace_ids = r.trace_ids, span_ids = r.span_ids, start_ns = r.start_ns, duration_ns = r.duration_ns,
    endpoint_ids = r.endpoint_ids, version_ids = r.version_ids, minutes = r.minutes, flags = r.flags,
    trace_spans = r.trace_spans, weights = r.weights,
    database_ns = r.database_ns, cache_ns = r.cache_ns, external_ns = r.external_ns,
    messaging_ns = r.messaging_ns, serialization_ns = r.serialization_ns, logging_ns = r.logging_ns,
    pool_wait_ns = r.pool_wait_ns, connect_ns = r.connect_ns, network_ns = r.network_ns,
    unattributed_ns = r.unattributed_ns,
    database_calls = r.database_calls, cache_calls = r.cache_calls, external_calls = r.external_calls
from (
    select shard, block_id,
        min(o.start_ns) as first_start_ns, max(o.start_ns) as last_start_ns,
        max(o.duration_ns) as longest_ns, bit_or(o.flags) as all_flags, min(o.analysis) as analysis,
        array_agg(distinct o.endpoint_id order by o.endpoint_id) filter (where o.endpoint_id is not null) as endpoints,
        array_agg(o.trace_id order by o.trace_id, o.span_id) as trace_ids,
        array_agg(o.span_id order by o.trace_id, o.span_id) as span_ids,
        array_agg(o.start_ns order by o.trace_id, o.span_id) as start_ns,
        array_agg(o.duration_ns order by o.trace_id, o.span_id) as duration_ns,
        array_agg(coalesce(o.endpoint_id, 0) order by o.trace_id, o.span_id) as endpoint_ids,
        array_agg(coalesce(o.version_id, 0) order by o.trace_id, o.span_id) as version_ids,
        array_agg(o.minute order by o.trace_id, o.span_id) as minutes,
        array_agg(o.flags order by o.trace_id, o.span_id) as flags,
        array_agg(o.spans order by o.trace_id, o.span_id) as trace_spans,
        array_agg(o.weight order by o.trace_id, o.span_id) as weights,
        array_agg(coalesce(o.database_ns, 0) order by o.trace_id, o.span_id) as database_ns,
        array_agg(coalesce(o.cache_ns, 0) order by o.trace_id, o.span_id) as cache_ns,
        array_agg(coalesce(o.external_ns, 0) order by o.trace_id, o.span_id) as external_ns,
        array_agg(coalesce(o.messaging_ns, 0) order by o.trace_id, o.span_id) as messaging_ns,
        array_agg(coalesce(o.serialization_ns, 0) order by o.trace_id, o.span_id) as serialization_ns,
        array_agg(coalesce(o.logging_ns, 0) order by o.trace_id, o.span_id) as logging_ns,
        array_agg(coalesce(o.pool_wait_ns, 0) order by o.trace_id, o.span_id) as pool_wait_ns,
        array_agg(coalesce(o.connect_ns, 0) order by o.trace_id, o.span_id) as connect_ns,
        array_agg(coalesce(o.network_ns, 0) order by o.trace_id, o.span_id) as network_ns,
        array_agg(coalesce(o.unattributed_ns, 0) order by o.trace_id, o.span_id) as unattributed_ns,
        array_agg(o.database_calls order by o.trace_id, o.span_id) as database_calls,
        array_agg(o.cache_calls order by o.trace_id, o.span_id) as cache_calls,
        array_agg(o.external_calls order by o.trace_id, o.span_id) as external_calls
    from culprit.request_rows o
    group by shard, block_id
) r
where b.shard = r.shard and b.id = r.block_id;

-- A block by its number. Without shard and day: on a young partition, of which the planner knows
-- nothing yet, it would take an index with these for the way to a trace.
alter table culprit.trace_blocks drop constraint trace_blocks_pkey;
create index trace_blocks_id on culprit.trace_blocks (id);

-- The way to a trace by its id. New entries wait in a list that every look reads through: a short one.
create index trace_blocks_traces on culprit.trace_blocks using gin (trace_ids) with (gin_pending_list_limit = 64);
-- Newest first.
create index trace_blocks_time on culprit.trace_blocks (last_start_ns);

-- Copies of traces that count no more: the trace has grown and stands in a later block. They go
-- with their block, or when it is packed anew.
create table culprit.superseded (
    block_id bigint not null,
    trace_id uuid not null,
    shard smallint not null,
    day date not null,               -- the block's
    primary key (block_id, trace_id, shard, day)
);

drop view culprit.requests;
drop table culprit.request_rows;

-- The SQL surface: stable names, whole numbers, words instead of ids. A condition on stored_on
-- (the day, UTC, on which the trace was first stored) keeps a query to some partitions.
create view culprit.requests as
select
    b.day as stored_on,
    r.trace_id,
    lpad(to_hex(r.span_id), 16, '0') as span_id,
    s.namespace as service_namespace,
    s.name as service,
    s.environment,
    v.version,
    e.name as endpoint,
    to_timestamp(r.start_ns / 1e9) as started_at,
    r.start_ns,
    r.duration_ns,
    (r.flags & 1) <> 0 as error,
    coalesce(r.weight, 1) as weight,
    r.duration_ns - coalesce(r.database_ns, 0) - coalesce(r.cache_ns, 0) - coalesce(r.external_ns, 0)
        - coalesce(r.messaging_ns, 0) - coalesce(r.serialization_ns, 0) - coalesce(r.logging_ns, 0)
        - coalesce(r.pool_wait_ns, 0) - coalesce(r.connect_ns, 0) - coalesce(r.network_ns, 0)
        - coalesce(r.unattributed_ns, 0) as handler_ns,
    coalesce(r.database_ns, 0) as database_ns,
    coalesce(r.cache_ns, 0) as cache_ns,
    coalesce(r.external_ns, 0) as external_ns,
    coalesce(r.messaging_ns, 0) as messaging_ns,
    coalesce(r.serialization_ns, 0) as serialization_ns,
    coalesce(r.logging_ns, 0) as logging_ns,
    coalesce(r.pool_wait_ns, 0) as pool_wait_ns,
    coalesce(r.connect_ns, 0) as connect_ns,
    coalesce(r.network_ns, 0) as network_ns,
    coalesce(r.unattributed_ns, 0) as unattributed_ns,
    coalesce(r.database_calls, 0) as database_calls,
    coalesce(r.cache_calls, 0) as cache_calls,
    coalesce(r.external_calls, 0) as external_calls,
    r.trace_spans,
    (r.flags & 16) <> 0 as has_finding
from culprit.trace_blocks b
cross join lateral unnest(
    b.trace_ids, b.span_ids, b.start_ns, b.duration_ns, b.endpoint_ids, b.version_ids, b.flags,
    b.trace_spans, b.weights, b.database_ns, b.cache_ns, b.external_ns, b.messaging_ns,
    b.serialization_ns, b.logging_ns, b.pool_wait_ns, b.connect_ns, b.network_ns, b.unattributed_ns,
    b.database_calls, b.cache_calls, b.external_calls
) as r (
    trace_id, span_id, start_ns, duration_ns, endpoint_id, version_id, flags,
    trace_spans, weight, database_ns, cache_ns, external_ns, messaging_ns,
    serialization_ns, logging_ns, pool_wait_ns, connect_ns, network_ns, unattributed_ns,
    database_calls, cache_calls, external_calls
)
join culprit.endpoints e on e.id = r.endpoint_id
join culprit.services s on s.id = e.service_id
join culprit.versions v on v.id = r.version_id
where not exists (
    select from culprit.superseded x
    where x.block_id = b.id and x.shard = b.shard and x.day = b.day and x.trace_id = r.trace_id
);
