-- culprit's schema. Everything lives in the schema `culprit`; every statement names it, so that
-- no search_path is ever needed.
--
-- Keys of the large tables hold the shard and the day. `day` is the database's day on which a
-- trace was first finalised: it decides the partition and never changes, however absurd the
-- spans' own times are. There are no foreign keys, triggers or sequences on the hot path.

-- Facts about the schema itself: who made it, how many shards it has.
create table culprit.meta (
    key text primary key,
    value text not null
);

-- Who may write a shard's results. Shard -1 is the review's. Times are the database's.
create table culprit.leases (
    shard smallint primary key,
    owner uuid,
    epoch bigint not null default 0,
    expires_at timestamptz not null default '-infinity'
);

-- What arrived and is not analysed yet. Rows live for seconds.
create table culprit.journal (
    shard smallint not null,
    id uuid not null,
    received_at timestamptz not null default now(),
    spans integer not null,
    raw_bytes integer not null,
    -- How often an owner has read the row: a row that was read and never consumed has
    -- probably ended its reader.
    attempts smallint not null default 0,
    payload bytea not null,          -- zstd of OTLP
    primary key (shard, id)
);
-- Already compressed: TOAST must not try again. Rows are updated once and deleted soon, so the
-- table is vacuumed early, by count and not by share.
alter table culprit.journal alter column payload set storage external;
alter table culprit.journal set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Dictionaries: text once, small ids in the large tables. Never deleted while a partition may
-- refer to them.
create table culprit.services (
    id integer generated always as identity primary key,
    namespace text not null,
    name text not null,
    environment text not null,
    first_seen timestamptz not null default now(),
    unique (name, namespace, environment)
);
create table culprit.endpoints (
    id integer generated always as identity primary key,
    service_id integer not null,
    name text not null,
    first_seen timestamptz not null default now(),
    unique (service_id, name)
);
create table culprit.versions (
    id integer generated always as identity primary key,
    service_id integer not null,
    version text not null,           -- '' if the sender sets none
    first_seen timestamptz not null default now(),
    unique (service_id, version)
);
-- Statements are longer than an index row may be: their SHA-256 is the key.
create table culprit.statements (
    id integer generated always as identity primary key,
    digest bytea not null unique,    -- of system, NUL, text
    system text not null,            -- db.system.name
    text text not null,
    first_seen timestamptz not null default now()
);
create table culprit.finding_keys (
    id integer generated always as identity primary key,
    digest bytea not null unique,    -- of endpoint_id, NUL, fingerprint
    fingerprint text not null,
    detector text not null,
    service_id integer not null,
    endpoint_id integer not null,
    first_seen timestamptz not null default now()
);

-- Whole traces: zstd of OTLP, many traces to a block.
create table culprit.trace_blocks (
    day date not null,
    shard smallint not null,
    id bigint not null,
    spans integer not null,
    traces integer not null,
    raw_bytes integer not null,
    payload bytea not null,
    primary key (id, shard, day)
) partition by range (day);
alter table culprit.trace_blocks alter column payload set storage external;

-- One row per entry span; one per trace without any (a fragment, service_id null). The view
-- culprit.requests shows it in words.
create table culprit.request_rows (
    day date not null,
    trace_id uuid not null,
    span_id bigint not null,         -- the 8 bytes, big-endian, as a signed number
    start_ns bigint not null,
    duration_ns bigint not null,
    block_id bigint not null,        -- the copy of the trace that counts
    -- Critical-path time by category; null is 0. They add up to duration_ns.
    handler_ns bigint,
    database_ns bigint,
    cache_ns bigint,
    external_ns bigint,
    messaging_ns bigint,
    serialization_ns bigint,
    logging_ns bigint,
    pool_wait_ns bigint,
    connect_ns bigint,
    network_ns bigint,
    unattributed_ns bigint,
    service_id integer,
    endpoint_id integer,
    version_id integer,
    minute integer not null,         -- the roll-up minute it was counted in, since the epoch
    weight integer not null,         -- requests it stands for (head sampling)
    spans integer not null,          -- spans in the whole trace
    shard smallint not null,
    flags smallint not null,         -- 1 error, 2 slow tail, 4 fragment, 8 root, 16 has a finding
    analysis smallint not null,      -- version of the analysis that counted it
    database_calls smallint not null,
    cache_calls smallint not null,
    external_calls smallint not null,
    -- Also the way to a trace by its id.
    primary key (trace_id, span_id, shard, day)
) partition by range (day);
-- An endpoint's requests by time.
create index request_rows_endpoint on culprit.request_rows (endpoint_id, start_ns) where endpoint_id is not null;

-- Per endpoint, version and minute. Appended per tick as differences (counts may be negative in
-- a row, never in the sum), merged later by the shard's owner.
create table culprit.rollup_minutes (
    day date not null,
    shard smallint not null,
    endpoint_id integer not null,
    version_id integer not null,
    minute integer not null,         -- since the epoch; the first of `width` minutes
    width smallint not null,         -- 1, or 60 once merged into hours
    part bigint not null,            -- the tick or merge that wrote it
    requests bigint not null,
    errors bigint not null,
    duration_ns bigint not null,     -- sum
    categories bigint[] not null,    -- critical-path ns by category, in stored order
    calls bigint[] not null,         -- logical calls by category
    latency bytea not null,          -- Sketch
    primary key (endpoint_id, minute, version_id, part, shard, day)
) partition by range (day);
create index rollup_minutes_minute on culprit.rollup_minutes (minute);

-- Per endpoint, version and hour: what is too large for every minute.
create table culprit.rollup_hours (
    day date not null,
    shard smallint not null,
    endpoint_id integer not null,
    version_id integer not null,
    hour integer not null,           -- since the epoch
    part bigint not null,
    statements bytea not null,       -- Statements
    profile bytea not null,          -- Profile of all requests
    tail_requests bigint not null,
    tail_profile bytea not null,     -- Profile of the slow tail
    primary key (endpoint_id, hour, version_id, part, shard, day)
) partition by range (day);

-- Per finding, version and ten minutes (fine enough for a quarter of an hour at 3 a.m.). Appended
-- per tick, merged later, as the roll-ups.
create table culprit.finding_hits (
    day date not null,
    shard smallint not null,
    finding_id integer not null,     -- finding_keys.id
    version_id integer not null,
    minute integer not null,         -- since the epoch; the first of ten
    part bigint not null,
    traces bigint not null,          -- distinct traces affected
    requests bigint not null,        -- entry spans affected, weighted
    saved_ns bigint not null,        -- sum of what a fix saves, weighted
    hits bytea not null,             -- Hits
    -- The worst few: [{"trace_id","span_id","start_ns","duration_ns","saved_ns","count","evidence":{…}}]
    examples jsonb not null,
    primary key (finding_id, minute, version_id, part, shard, day)
) partition by range (day);

-- A finding's life. Only the review writes here.
create table culprit.findings (
    id integer primary key,          -- finding_keys.id
    state text not null,             -- new, open
    detector text not null,
    service_id integer not null,
    endpoint_id integer not null,
    version_id integer,              -- where it was first seen
    severity smallint not null,      -- 0 info, 1 warning, 2 critical
    confidence real not null,
    title text not null,
    first_seen timestamptz not null,
    last_seen timestamptz not null,
    traces bigint not null,          -- affected so far
    evidence jsonb not null          -- the latest good example, as in finding_hits.examples[].evidence
);

-- What was or will be said to the outside, and the transactional outbox.
create table culprit.alerts (
    id uuid primary key,
    finding_id integer not null,
    kind text not null,              -- finding.new
    opened_at timestamptz not null default now(),
    unique (finding_id, kind)
);
create table culprit.outbox (
    id uuid primary key,             -- the receiver's webhook-id, the same in every attempt
    alert_id uuid not null,
    channel text not null,           -- webhook
    body jsonb not null,
    created_at timestamptz not null default now(),
    attempts integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    delivered_at timestamptz,
    dead_at timestamptz,
    last_error text
);
create index outbox_waiting on culprit.outbox (next_attempt_at) where delivered_at is null and dead_at is null;

-- Traces whose analysis ended the process or panicked: kept, not analysed.
create table culprit.quarantine (
    trace_id uuid not null,
    shard smallint not null,
    at timestamptz not null default now(),
    reason text not null,
    spans integer not null,
    payload bytea not null,          -- zstd of OTLP
    primary key (trace_id, shard, at)
);

-- The SQL surface: stable names, whole numbers, words instead of ids.
create view culprit.requests as
select
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
    r.weight,
    coalesce(r.handler_ns, 0) as handler_ns,
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
    r.database_calls,
    r.cache_calls,
    r.external_calls,
    r.spans as trace_spans,
    (r.flags & 16) <> 0 as has_finding
from culprit.request_rows r
join culprit.services s on s.id = r.service_id
join culprit.endpoints e on e.id = r.endpoint_id
join culprit.versions v on v.id = r.version_id;
