-- Who analyses at the moment, so that processes can share the shards evenly: one row per process, renewed every
-- second by the database's clock. The leases stay what protects the data; these rows only say how many share.
create table culprit.analyzers (
    process uuid primary key,
    seen_at timestamptz not null default now()
);

-- The oldest schema version whose programs can work with this schema. A migration that such programs cannot live
-- with raises it; additive ones leave it alone, and older processes run on.
insert into culprit.meta (key, value) values ('programs_from', '4');
