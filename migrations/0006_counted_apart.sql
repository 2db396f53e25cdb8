-- Which call paths and statements of an endpoint are counted apart on a day; what comes when there is
-- no room left is counted as (other). It is decided once and for all when a trace is counted, and
-- written down, so that a trace's numbers can be taken out exactly as they were added, also after a
-- restart. A row may go with its day's partitions.
create table culprit.counted_apart (
    day date not null,
    endpoint_id integer not null,
    paths bytea not null,            -- hashes of eight bytes each, big-endian
    statements bytea not null,       -- the same
    primary key (day, endpoint_id)
);
-- Hashes: nothing to compress.
alter table culprit.counted_apart alter column paths set storage external;
alter table culprit.counted_apart alter column statements set storage external;

-- How many findings an endpoint has.
create index finding_keys_endpoint on culprit.finding_keys (endpoint_id);
