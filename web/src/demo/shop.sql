-- The shop's tables and rows, in a schema of the demo's own, made in one transaction.
-- Whoever changes anything here counts `CONTENTS_VERSION` in data.rs up: an older set is replaced.
--
-- Next to nothing here grows or is deleted, so autovacuum would only take processor time from
-- what is being shown.

drop schema if exists culprit_demo cascade;
create schema culprit_demo;
set local search_path to culprit_demo;

create table authors (
    id   integer primary key,
    name text not null
) with (autovacuum_enabled = false);

insert into authors
select n,
       (array['Ada', 'Bo', 'Cleo', 'Dana', 'Elin', 'Finn', 'Gus', 'Hana', 'Ivo', 'June'])[1 + n % 10] || ' '
    || (array['Abel', 'Brandt', 'Costa', 'Duarte', 'Engel', 'Ferro'])[1 + n / 10 % 6]
from generate_series(1, 60) n;

-- Sixteen topics of 20, 21, … 35 posts. Consecutive posts of a topic have different authors.
create table posts (
    id        integer generated always as identity primary key,
    topic     integer not null,
    author_id integer not null references authors,
    title     text not null,
    posted_at timestamptz not null
) with (autovacuum_enabled = false);

insert into posts (topic, author_id, title, posted_at)
select topic,
       1 + (topic * 13 + n * 7) % 60,
       format('What we learned about topic %s, part %s', topic, n),
       timestamptz '2025-01-01' + n * interval '7 hours'
from generate_series(0, 15) topic, generate_series(1, 20 + topic) n;

create index on posts (topic);

-- Six hundred for each author.
create table comments (
    id        integer primary key,
    author_id integer not null references authors,
    body      text not null
) with (autovacuum_enabled = false);

insert into comments
select n,
       1 + n % 60,
       format('I liked the part about %s, thank you for writing it down so plainly. See also %s.',
              left(md5(n::text), 6 + n % 20), left(md5((n * 3)::text), 8))
from generate_series(1, 36000) n;

create index on comments (author_id);

-- The catalogue. Its only index is the primary key. One worker scans it, so that a search
-- keeps one core busy and not all of them.
create table products (
    id          integer primary key,
    name        text not null,
    description text not null,
    price_cents integer not null,
    reduced     boolean not null
) with (autovacuum_enabled = false, parallel_workers = 0);

insert into products
select n,
       format('%s %s %s',
              (array['Walnut', 'Brass', 'Linen', 'Cobalt', 'Amber', 'Slate', 'Ivory', 'Copper'])[1 + n % 8],
              (array['lamp', 'chair', 'kettle', 'scarf', 'desk', 'mug', 'clock'])[1 + n % 7],
              n),
       format('A %s %s made in %s from %s, finished by hand and checked twice before it leaves the workshop. Batch %s.',
              (array['light', 'sturdy', 'plain', 'warm', 'quiet'])[1 + n % 5],
              (array['lamp', 'chair', 'kettle', 'scarf', 'desk', 'mug', 'clock'])[1 + n % 7],
              (array['Porto', 'Ghent', 'Lyon', 'Turin', 'Graz', 'Delft'])[1 + n % 6],
              (array['walnut', 'brass', 'linen', 'cobalt glass', 'amber'])[1 + n % 5],
              left(md5(n::text), 12)),
       500 + (n::bigint * 7919 % 20000)::integer,
       n % 8 = 5
from generate_series(1, 100000) n;

-- What an import once wrote down: five prices of every reduced product. It has no index, and version
-- 1.1.0 of the shop looks for a product's rows in it.
create table price_log (
    change json not null
) with (autovacuum_enabled = false, parallel_workers = 0);

insert into price_log
select format('{"product_id": %s, "price_cents": %s, "changed_at": "%s", "changed_by": "import %s"}',
              5 + n % 12500 * 8,
              700 + n::bigint * 104729 % 20000,
              timestamp '2025-01-01' + n * interval '1 minute',
              n / 1000)::json
from generate_series(1, 62500) n;

-- A cart is checked out again and again, in place: the demo's tables keep their size.
create table carts (
    id             integer primary key,
    customer_id    integer not null,
    checked_out_at timestamptz
) with (autovacuum_enabled = false, fillfactor = 50);

insert into carts select n, 1 + n % 12, null from generate_series(1, 2000) n;

create table cart_lines (
    cart_id    integer not null references carts,
    product_id integer not null references products,
    quantity   integer not null,
    primary key (cart_id, product_id)
) with (autovacuum_enabled = false);

insert into cart_lines
select cart, 1 + (cart * 31 + line * 997) % 100000, 1 + line % 3
from generate_series(1, 2000) cart, generate_series(1, 4) line;

-- Two months of orders, each with its lines as the cart page once saved them: text, not jsonb.
create table orders (
    id          integer primary key,
    customer_id integer not null,
    placed_at   timestamptz not null,
    total_cents integer not null,
    lines       json not null
) with (autovacuum_enabled = false);

insert into orders
select n,
       1 + n % 12,
       timestamptz '2025-01-01' + n * interval '20 minutes',
       1000 + n * 37 % 90000,
       (select json_agg(json_build_object(
                   'product_id', 1 + (n * 17 + line * 101) % 100000,
                   'name', format('Item %s of order %s', line, n),
                   'quantity', 1 + (n + line) % 4,
                   'unit_price_cents', 500 + (n * line) % 9000,
                   'gift', line % 5 = 0))
        from generate_series(1, 12) line)
from generate_series(1, 4000) n;

create index on orders (customer_id);
create index on orders (placed_at);

-- What customers have put into baskets: twelve lines and more.
create table basket_lines (
    basket_id  integer not null,
    product_id integer not null references products,
    quantity   integer not null,
    primary key (basket_id, product_id)
) with (autovacuum_enabled = false);

insert into basket_lines
select basket, 1 + (basket * 53 + line * 1009) % 100000, 1 + line % 2
from generate_series(1, 200) basket, generate_series(1, 12 + basket % 9) line;

-- Saved again and again, in place. The only table here that needs vacuuming, and it is tiny.
create table wishlist_items (
    wishlist_id integer not null,
    product_id  integer not null,
    primary key (wishlist_id, product_id)
);

-- Holds a row when all of the above is there and vacuumed.
create table contents (version integer not null);
