-- Who calls whom: from an endpoint to the endpoint that answered, or to what does not report (a database, a
-- cache, a broker, a host outside). Services' edges are sums of these.

-- Small ids for the roll-up. Never deleted while a partition may refer to them.
create table culprit.edges (
    id integer generated always as identity primary key,
    digest bytea not null unique,    -- of caller_id, NUL, callee_id or category, NUL, system, NUL, name
    caller_id integer not null,      -- endpoints.id
    callee_id integer,               -- endpoints.id; null: it does not report
    -- Of what does not report.
    category text not null,          -- database, cache, external, messaging, logging; '' for (other), and if callee_id is set
    system text not null,            -- db.system.name, messaging.system, or ''
    name text not null,              -- host, database or destination, or ''
    first_seen timestamptz not null default now()
);
create index edges_caller on culprit.edges (caller_id);
create index edges_callee on culprit.edges (callee_id) where callee_id is not null;

-- Per edge and ten minutes. Appended per tick as differences, merged later, as the other roll-ups.
create table culprit.rollup_edges (
    day date not null,
    shard smallint not null,
    edge_id integer not null,
    minute integer not null,         -- since the epoch; the first of `width`
    width smallint not null,         -- 10, or 60 once merged into hours
    part bigint not null,            -- the tick or merge that wrote it
    calls bigint not null,           -- weighted by the caller
    errors bigint not null,
    duration_ns bigint not null,     -- sum of what the caller waited, weighted
    latency bytea not null,          -- Sketch of it
    primary key (edge_id, minute, part, shard, day)
) partition by range (day);
create index rollup_edges_minute on culprit.rollup_edges (minute);

-- Since when calls are counted: what was stored before has none.
insert into culprit.meta (key, value)
values ('edges_from_minute', floor(extract(epoch from now()) / 60)::bigint::text);
