-- What becomes of stored data: small blocks are packed together, old minutes are merged into hours,
-- old days go.

-- As in rollup_minutes: 10, or 60 once merged into hours.
alter table culprit.finding_hits add column width smallint not null default 10;
-- Which tens of minutes are old enough to be merged, and what a window shows.
create index finding_hits_minute on culprit.finding_hits (minute);

-- Blocks that are yet to be packed with others.
create index trace_blocks_small on culprit.trace_blocks (shard, day, id) where raw_bytes < 524288;

-- Days whose traces are gone, except those worth keeping. Their roll-ups stay, but can no longer be
-- recounted.
create table culprit.thinned_days (
    day date primary key,
    at timestamptz not null default now()
);
