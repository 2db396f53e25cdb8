//! What the text of a slow statement suggests, without knowing tables, indexes or plan.
//!
//! Surest and most promising first: what is visible and bad ([`super::smells`]), what an index might serve
//! ([`super::index`]), what may be so. Where the text does not tell, nothing is said.

use super::engine::Engine;
use super::index::{self, Candidate, Suggestion};
use super::smells;
use crate::sql::clauses::{self, Clauses};
use crate::sql::{Fingerprint, StatementKind};

/// A slow statement and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// What it is.
    pub(super) statement: &'a Fingerprint,
    /// Whose: `db.system.name`.
    pub(super) system: &'a str,
    /// As sent, with literals if its sender shows them; empty over time.
    pub(super) raw: &'a str,
    /// Rows returned, if the sender says so.
    pub(super) rows: Option<u64>,
}

/// What to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Advice {
    /// One paragraph.
    pub(super) fix: String,
    /// As SQL, if it can be written without inventing names.
    pub(super) fix_code: Option<String>,
}

/// So many hints make a paragraph; what is behind is less promising.
const HINTS_MAX: usize = 5;

/// What the text of `asked` suggests.
pub(super) fn advice(asked: &Asked<'_>) -> Advice {
    let engine = Engine::of(asked.system);
    let clauses = clauses::clauses(asked.statement, asked.system);
    let mut hints = smells::sure(asked, engine, clauses.as_ref());
    let suggestions = match (engine, &clauses) {
        (Some(engine), Some(clauses)) => index::suggestions(clauses, engine),
        _ => Vec::new(),
    };
    // An index beside a pattern that none serves would be made for the wrong condition.
    let pattern = clauses
        .as_ref()
        .and_then(|it| smells::pattern_code(asked, engine, it));
    if let Some(engine) = engine {
        hints.extend(index_hints(&suggestions, engine));
    }
    hints.extend(smells::possible(asked, engine, clauses.as_ref()));
    hints.extend(lock_hint(asked, clauses.as_ref()));
    hints.truncate(HINTS_MAX);
    Advice {
        fix: paragraph(hints, engine),
        fix_code: pattern.or_else(|| {
            let engine = engine?;
            let created: Option<Vec<String>> = candidates(&suggestions)
                .map(|it| it.create(engine))
                .collect();
            created.filter(|it| !it.is_empty()).map(|it| it.join("\n"))
        }),
    }
}

fn paragraph(mut hints: Vec<String>, engine: Option<Engine>) -> String {
    let explain = engine.map_or("its plan", Engine::explain);
    if hints.is_empty() {
        return format!(
            "Its text shows nothing to change. Look at {explain} on data of production size for full scans of large \
             tables, sorts that spill to disk and waiting for locks; then index, narrow or cache."
        );
    }
    hints.push(format!(
        "These are candidates read off its text: check with {explain}."
    ));
    hints.join(" ")
}

fn candidates(suggestions: &[Suggestion]) -> impl Iterator<Item = &Candidate> {
    suggestions.iter().filter_map(|it| match it {
        Suggestion::Index(candidate) => Some(candidate),
        _ => None,
    })
}

fn index_hints(suggestions: &[Suggestion], engine: Engine) -> Vec<String> {
    let mut hints: Vec<String> = suggestions
        .iter()
        .map(|it| index_hint(it, engine))
        .collect();
    if candidates(suggestions).next().is_some() {
        hints.push(engine.cost().to_owned());
    }
    hints
}

fn index_hint(suggestion: &Suggestion, engine: Engine) -> String {
    match suggestion {
        Suggestion::Index(candidate) if candidate.is_join => format!(
            "If there is none yet, an index on {} serves the join.",
            candidate.in_words()
        ),
        Suggestion::Index(candidate) => candidate_hint(candidate),
        Suggestion::Key(table, column) => format!(
            "It finds its rows of {table} by {column}, which is indexed almost surely, so look elsewhere: how many rows \
             and how large they are, triggers, and waiting for locks."
        ),
        Suggestion::FewValues(table, column) => {
            let partial = match engine.is_partial() {
                true => {
                    "; if the value asked for is rare, one of only these rows does (`where` at the end of `create index`)"
                }
                false => "",
            };
            format!(
                "An index on {column} of {table} alone rarely helps, because it seems to have few different \
                 values{partial}."
            )
        }
    }
}

fn candidate_hint(candidate: &Candidate) -> String {
    let mut hint = format!("Add an index on {} if there is none", candidate.in_words());
    let order = match (candidate.equal, candidate.columns.len() - candidate.equal) {
        (0, _) | (1, 0) => "",
        (_, 0) => ": all are compared for equality",
        (_, _) if candidate.is_ordered => {
            ": what is compared for equality comes first, and the order behind it saves the sort"
        }
        (_, _) => ": what is compared for equality comes first, the range last",
    };
    hint += order;
    if candidate.columns.len() > 1 {
        hint += &format!(
            "; it also serves conditions on {} alone, so extend one that begins so instead of adding a second",
            candidate.columns[0].0
        );
    }
    hint += ".";
    if !candidate.included.is_empty() {
        hint += &format!(
            " With {} in it (`include`) the table need not be read at all.",
            candidate.included.join(" and ")
        );
    }
    hint
}

fn lock_hint(asked: &Asked<'_>, clauses: Option<&Clauses>) -> Option<String> {
    let writes = matches!(
        asked.statement.kind,
        StatementKind::Update | StatementKind::Delete | StatementKind::Insert
    );
    let locks = writes || clauses.is_some_and(|it| it.locks);
    let hint = "It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while \
                it is slow, and keep transactions short.";
    locks.then(|| hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::fingerprint;
    use expect_test::{Expect, expect};

    fn of(text: &str, system: &str, rows: Option<u64>) -> Advice {
        advice(&Asked {
            statement: &fingerprint(text, system),
            system,
            raw: text,
            rows,
        })
    }

    /// What is said, a line each, without what is always said.
    fn check(system: &str, statements: &[&str], expected: Expect) {
        let cases = statements
            .iter()
            .map(|it| describe(&of(it, system, None), it));
        expected.assert_eq(&cases.collect::<String>());
    }

    fn describe(advice: &Advice, statement: &str) -> String {
        let fix = advice.fix.replace(
            " These are candidates read off its text: check with EXPLAIN (ANALYZE, BUFFERS).",
            "",
        );
        let fix = fix.replace(Engine::Postgres.cost(), "(cost)");
        let code = advice.fix_code.as_deref().unwrap_or("-");
        format!("{statement}\n  {fix}\n  {code}\n")
    }

    #[test]
    fn an_index_has_what_is_equal_first_and_then_a_range_or_the_order() {
        check(
            "postgresql",
            &[
                "select name from products where sku = $1 and price > $2 order by id limit 20",
                "select a, b, c from orders where placed_at > $1 and customer_id = $2 and shop_id = $3",
                "select * from orders o where o.customer_id = $1 order by o.placed_at desc limit 20",
                "select * from orders where customer_id = $1 order by placed_at desc, total asc limit 20",
                "select * from orders where customer_id in ($1, $2) order by placed_at limit 20",
                "select * from orders where status = 'open' and customer_id = 5 and total between 1 and 2",
                "select * from orders where customer_id = $1 and deleted_at is null",
                "select * from orders where (customer_id = $1) and (total = 5 or total = 6)",
                "select * from events order by created_at desc limit 50",
                "select \"Id\" from shop.\"Orders\" where \"CustomerId\" = $1",
                "update accounts set balance = balance - $1 where owner = $2",
                "delete from sessions where expires_at < now()",
                "select * from x where a = $1 and b = $2 and c = $3 and d = $4 and e > $5",
                "select count(*) from orders where customer_id = $1",
            ],
            expect![[r#"
                select name from products where sku = $1 and price > $2 order by id limit 20
                  Add an index on products (sku, price) if there is none: what is compared for equality comes first, the range last; it also serves conditions on sku alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on products (sku, price);
                select a, b, c from orders where placed_at > $1 and customer_id = $2 and shop_id = $3
                  Add an index on orders (customer_id, shop_id, placed_at) if there is none: what is compared for equality comes first, the range last; it also serves conditions on customer_id alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on orders (customer_id, shop_id, placed_at);
                select * from orders o where o.customer_id = $1 order by o.placed_at desc limit 20
                  Add an index on orders (customer_id, placed_at) if there is none: what is compared for equality comes first, and the order behind it saves the sort; it also serves conditions on customer_id alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on orders (customer_id, placed_at);
                select * from orders where customer_id = $1 order by placed_at desc, total asc limit 20
                  Add an index on orders (customer_id, placed_at desc, total) if there is none: what is compared for equality comes first, and the order behind it saves the sort; it also serves conditions on customer_id alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on orders (customer_id, placed_at desc, total);
                select * from orders where customer_id in ($1, $2) order by placed_at limit 20
                  Add an index on orders (customer_id) if there is none. (cost)
                  create index concurrently on orders (customer_id);
                select * from orders where status = 'open' and customer_id = 5 and total between 1 and 2
                  Add an index on orders (customer_id, status, total) if there is none: what is compared for equality comes first, the range last; it also serves conditions on customer_id alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on orders (customer_id, status, total);
                select * from orders where customer_id = $1 and deleted_at is null
                  Add an index on orders (customer_id) if there is none. (cost)
                  create index concurrently on orders (customer_id) where deleted_at is null;
                select * from orders where (customer_id = $1) and (total = 5 or total = 6)
                  Add an index on orders (customer_id, total) if there is none: all are compared for equality; it also serves conditions on customer_id alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on orders (customer_id, total);
                select * from events order by created_at desc limit 50
                  Add an index on events (created_at) if there is none. (cost)
                  create index concurrently on events (created_at);
                select "Id" from shop."Orders" where "CustomerId" = $1
                  Add an index on shop."Orders" ("CustomerId") if there is none. With "Id" in it (`include`) the table need not be read at all. (cost)
                  create index concurrently on shop."Orders" ("CustomerId") include ("Id");
                update accounts set balance = balance - $1 where owner = $2
                  Add an index on accounts (owner) if there is none. (cost) It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short.
                  create index concurrently on accounts (owner);
                delete from sessions where expires_at < now()
                  Add an index on sessions (expires_at) if there is none. (cost) It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short.
                  create index concurrently on sessions (expires_at);
                select * from x where a = $1 and b = $2 and c = $3 and d = $4 and e > $5
                  Add an index on x (a, b, c, e) if there is none: what is compared for equality comes first, the range last; it also serves conditions on a alone, so extend one that begins so instead of adding a second. (cost)
                  create index concurrently on x (a, b, c, e);
                select count(*) from orders where customer_id = $1
                  Add an index on orders (customer_id) if there is none. (cost)
                  create index concurrently on orders (customer_id);
            "#]],
        );
    }

    #[test]
    fn joins_are_served_at_the_table_that_is_looked_up() {
        check(
            "postgresql",
            &[
                "select o.total from customers c join orders o on o.customer_id = c.id where c.email = $1",
                "select o.total from orders o join customers c on c.id = o.customer_id where o.placed_at > $1",
                "select a.x from a left join b on b.a_ref = a.ref and b.kind = 'x'",
                "select a.x from a, b where a.ref = b.ref and b.y = $1 order by a.z",
                "select x from a join b on b.ref = a.ref where y = $1",
                "select a.x from a join b using (ref) where a.y = $1",
            ],
            expect![[r#"
                select o.total from customers c join orders o on o.customer_id = c.id where c.email = $1
                  Add an index on customers (email) if there is none. If there is none yet, an index on orders (customer_id) serves the join. (cost)
                  create index concurrently on customers (email);
                create index concurrently on orders (customer_id);
                select o.total from orders o join customers c on c.id = o.customer_id where o.placed_at > $1
                  Add an index on orders (placed_at) if there is none. (cost)
                  create index concurrently on orders (placed_at);
                select a.x from a left join b on b.a_ref = a.ref and b.kind = 'x'
                  If there is none yet, an index on b (a_ref, kind) serves the join. (cost)
                  create index concurrently on b (a_ref, kind);
                select a.x from a, b where a.ref = b.ref and b.y = $1 order by a.z
                  Add an index on b (y) if there is none. If there is none yet, an index on a (ref) serves the join. (cost)
                  create index concurrently on b (y);
                create index concurrently on a (ref);
                select x from a join b on b.ref = a.ref where y = $1
                  If there is none yet, an index on b (ref) serves the join. (cost)
                  create index concurrently on b (ref);
                select a.x from a join b using (ref) where a.y = $1
                  Add an index on a (y) if there is none. If there is none yet, an index on b (ref) serves the join. (cost)
                  create index concurrently on a (y);
                create index concurrently on b (ref);
            "#]],
        );
    }

    #[test]
    fn no_index_is_suggested_where_none_helps() {
        check(
            "postgresql",
            &[
                "select * from orders where id = $1",
                "select * from films where film_id = $1 and kind = 'x'",
                "select * from orders where id in ($1, $2)",
                "select * from orders where id > $1 order by id limit 10",
                "select * from orders order by id limit 10",
                "select * from orders where status = $1",
                "select * from users where active and is_admin = true",
                "select * from orders where customer_id <> $1",
                "select * from orders where total + 1 = $1",
                "select * from orders where lower(name) = $1",
                "select a.x from a join b on b.id = a.b_id where a.x = 1 or b.y = 2",
                "select a from t where b = 1 or c = 2",
                "select a from t group by a order by count(*) desc limit 5",
                "select a as b from t order by b limit 5",
                "select a from t order by b",
                "select a from t where lower(c) like '%x%' order by b limit 5",
                "with x as (select a from t where b = 1) select * from x",
                "select a from t where b = 1 union select a from u where b = 1",
                "select a from t where b = 'half",
                "insert into t (a) values (1)",
                "select * from f(1) where a = 2",
                "select * from (select * from t where a = 1) s where s.b = 2",
            ],
            expect![[r#"
                select * from orders where id = $1
                  It finds its rows of orders by id, which is indexed almost surely, so look elsewhere: how many rows and how large they are, triggers, and waiting for locks.
                  -
                select * from films where film_id = $1 and kind = 'x'
                  It finds its rows of films by film_id, which is indexed almost surely, so look elsewhere: how many rows and how large they are, triggers, and waiting for locks.
                  -
                select * from orders where id in ($1, $2)
                  It finds its rows of orders by id, which is indexed almost surely, so look elsewhere: how many rows and how large they are, triggers, and waiting for locks.
                  -
                select * from orders where id > $1 order by id limit 10
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select * from orders order by id limit 10
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select * from orders where status = $1
                  An index on status of orders alone rarely helps, because it seems to have few different values; if the value asked for is rare, one of only these rows does (`where` at the end of `create index`).
                  -
                select * from users where active and is_admin = true
                  An index on is_admin of users alone rarely helps, because it seems to have few different values; if the value asked for is rare, one of only these rows does (`where` at the end of `create index`).
                  -
                select * from orders where customer_id <> $1
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select * from orders where total + 1 = $1
                  An index on total does not serve total + ?: compare the bare column, or index that expression if your database can.
                  -
                select * from orders where lower(name) = $1
                  An index on name does not serve lower(name): index that expression (`(lower(name))`), or compare the bare column.
                  -
                select a.x from a join b on b.id = a.b_id where a.x = 1 or b.y = 2
                  Its OR spans several tables, so that no index can narrow any of them: ask for each alternative and put them together with UNION.
                  -
                select a from t where b = 1 or c = 2
                  Its OR needs an index for each alternative, and one without makes the others useless: ask for each and put them together with UNION ALL if they are slow together.
                  -
                select a from t group by a order by count(*) desc limit 5
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a as b from t order by b limit 5
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a from t order by b
                  Without WHERE and LIMIT it reads all of t: page it, or aggregate in the database.
                  -
                select a from t where lower(c) like '%x%' order by b limit 5
                  The pattern for lower(c) begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does.
                  -
                with x as (select a from t where b = 1) select * from x
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a from t where b = 1 union select a from u where b = 1
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a from t where b = 'half
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                insert into t (a) values (1)
                  It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short.
                  -
                select * from f(1) where a = 2
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select * from (select * from t where a = 1) s where s.b = 2
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
            "#]],
        );
    }

    #[test]
    fn smells() {
        check(
            "postgresql",
            &[
                "select name from products where name ilike '%lamp%' limit 20",
                "select name from products p where p.name like $1",
                "select name from products where name like 'lamp%'",
                "select name from products where name like '%a%' or note like '%a%'",
                "select name from products order by price limit 20 offset 100000",
                "select name from products order by price limit 20 offset $1",
                "select name from products order by price limit 20 offset 40",
                "select name from users where lower(email) = $1",
                "select name from users u where upper(u.email) = $1",
                "select name from orders where date(placed_at) = $1",
                "select name from orders where extract(year from placed_at) = 2024",
                "select name from orders where number::text = '17'",
                "select name from orders where cast(number as text) = '17'",
                "select name from orders where data->>'k' = 'x'",
                "select name from events",
                "select * from events limit 5",
                "select count(*) from events",
                "select kind, count(*) from events group by kind",
                "select max(at) from events",
                "select name from products where id not in (select product_id from gone)",
                "select name from products where id in (select product_id from hot)",
                "select name from products order by random() limit 1",
                "select a.x from a, b where a.y = $1",
                "select a.x from a, b where a.y = b.y",
                "select a.x from a, b where y = z",
                "select a.x from a cross join b",
                "select a.x from a join b on true",
                "select a.x from a, lateral (select 1 from b where b.y = a.y) l",
                "select a.x from a, generate_series(1, 5) g",
                "select name from orders where placed_at > now() - interval '1 day' for update",
            ],
            expect![[r#"
                select name from products where name ilike '%lamp%' limit 20
                  The pattern for name begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does.
                  create extension if not exists pg_trgm;
                create index concurrently on products using gin (name gin_trgm_ops);
                select name from products p where p.name like $1
                  If the pattern for name begins with `%`, no ordinary index can serve it; a trigram index (`pg_trgm`, `using gin`) or full-text search does.
                  -
                select name from products where name like 'lamp%'
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select name from products where name like '%a%' or note like '%a%'
                  The pattern for name begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does. Its OR needs an index for each alternative, and one without makes the others useless: ask for each and put them together with UNION ALL if they are slow together.
                  create extension if not exists pg_trgm;
                create index concurrently on products using gin (name gin_trgm_ops, note gin_trgm_ops);
                select name from products order by price limit 20 offset 100000
                  OFFSET 100000 reads all rows before the page and throws them away; continue from the last row's key instead (`where id > … order by id limit …`). Add an index on products (price) if there is none. With name in it (`include`) the table need not be read at all. (cost)
                  create index concurrently on products (price) include (name);
                select name from products order by price limit 20 offset $1
                  Add an index on products (price) if there is none. With name in it (`include`) the table need not be read at all. (cost) If OFFSET grows large, it reads all rows before the page and throws them away; continue from the last row's key instead (`where id > … order by id limit …`).
                  create index concurrently on products (price) include (name);
                select name from products order by price limit 20 offset 40
                  Add an index on products (price) if there is none. With name in it (`include`) the table need not be read at all. (cost)
                  create index concurrently on products (price) include (name);
                select name from users where lower(email) = $1
                  An index on email does not serve lower(email): index that expression (`(lower(email))`), or compare the bare column.
                  -
                select name from users u where upper(u.email) = $1
                  An index on email does not serve upper(u.email): index that expression (`(upper(email))`), or compare the bare column.
                  -
                select name from orders where date(placed_at) = $1
                  An index on placed_at does not serve date(placed_at): compare the bare column with a range instead (`placed_at >= … and placed_at < …`).
                  -
                select name from orders where extract(year from placed_at) = 2024
                  An index on placed_at does not serve extract(year from placed_at): compare the bare column with a range instead (`placed_at >= … and placed_at < …`).
                  -
                select name from orders where number::text = '17'
                  An index on number does not serve number::text: leave the column as it is and give the value the column's type.
                  -
                select name from orders where cast(number as text) = '17'
                  An index on number does not serve cast(number as text): leave the column as it is and give the value the column's type.
                  -
                select name from orders where data->>'k' = 'x'
                  An index on data does not serve data ->> ?: compare the bare column, or index that expression if your database can.
                  -
                select name from events
                  Without WHERE and LIMIT it reads all of events: page it, or aggregate in the database.
                  -
                select * from events limit 5
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select count(*) from events
                  It counts all of events, which reads an entry of each row: keep a counter, count less often, or show an estimate.
                  -
                select kind, count(*) from events group by kind
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select max(at) from events
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select name from products where id not in (select product_id from gone)
                  NOT IN with a subquery must mind nulls, so it is often done row by row: write NOT EXISTS instead.
                  -
                select name from products where id in (select product_id from hot)
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select name from products order by random() limit 1
                  ORDER BY a random number reads and sorts everything to keep a few rows: pick random keys first, or sample the table.
                  -
                select a.x from a, b where a.y = $1
                  Nothing ties b to the other tables, so every row of it is paired with every row of theirs: add the condition that joins them. Add an index on a (y) if there is none. (cost)
                  create index concurrently on a (y);
                select a.x from a, b where a.y = b.y
                  If there is none yet, an index on b (y) serves the join. (cost)
                  create index concurrently on b (y);
                select a.x from a, b where y = z
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a.x from a cross join b
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a.x from a join b on true
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a.x from a, lateral (select 1 from b where b.y = a.y) l
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select a.x from a, generate_series(1, 5) g
                  Its text shows nothing to change. Look at EXPLAIN (ANALYZE, BUFFERS) on data of production size for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.
                  -
                select name from orders where placed_at > now() - interval '1 day' for update
                  Add an index on orders (placed_at) if there is none. With name in it (`include`) the table need not be read at all. (cost) It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short.
                  create index concurrently on orders (placed_at) include (name);
            "#]],
        );
    }

    #[test]
    fn rows_returned_are_counted_if_they_are_known() {
        let told = |text: &str, rows| of(text, "postgresql", rows).fix;
        let many = told("select * from t where a = $1", Some(12_000));
        assert!(
            many.starts_with(
                "It returns 12000 rows: page them with LIMIT, and name the columns that are needed instead of `*`."
            ),
            "{many}"
        );
        assert!(
            told("select a from t where b = $1", Some(12_000))
                .starts_with("It returns 12000 rows: page them")
        );
        for (text, rows) in [
            ("select * from t where a = $1", None),
            ("select * from t where a = $1", Some(20)),
            ("select a from t where b = $1 limit 5000", Some(5_000)),
        ] {
            assert!(!told(text, rows).contains("It returns"), "{text}");
        }
    }

    #[test]
    fn long_lists() {
        let list =
            |len: usize| format!("select a from t where b in ({})", vec!["1"; len].join(","));
        let told = |text: &str| of(text, "postgresql", None).fix;
        assert!(told(&list(800)).starts_with("Its IN list has 800 values"));
        assert!(!told(&list(100)).contains("IN list"));
        let rows = format!("insert into t values {}", vec!["(1)"; 800].join(","));
        assert!(!told(&rows).contains("IN list"));
    }

    #[test]
    fn each_database_has_its_own_syntax() {
        let text = "select total from orders where customer_id = 5 and placed_at > '2024-01-01'";
        let lines = [
            "postgresql",
            "cockroachdb",
            "mysql",
            "mssql",
            "oracle",
            "sqlite",
            "h2",
            "",
            "clickhouse",
            "cassandra",
        ]
        .map(|system| {
            let advice = of(text, system, None);
            format!(
                "{system}: {}",
                advice.fix_code.unwrap_or_else(|| "-".into())
            )
        });
        expect![[r#"
            postgresql: create index concurrently on orders (customer_id, placed_at) include (total);
            cockroachdb: create index on orders (customer_id, placed_at) include (total);
            mysql: create index orders_customer_id_placed_at on orders (customer_id, placed_at);
            mssql: create index orders_customer_id_placed_at on orders (customer_id, placed_at) include (total);
            oracle: create index orders_customer_id_placed_at on orders (customer_id, placed_at);
            sqlite: create index orders_customer_id_placed_at on orders (customer_id, placed_at);
            h2: create index orders_customer_id_placed_at on orders (customer_id, placed_at);
            : -
            clickhouse: -
            cassandra: -"#]].assert_eq(&lines.join("\n"));
        let lower = ["postgresql", "mysql", "mssql"].map(|system| {
            let fix = of("select a from users where lower(email) = 'x'", system, None).fix;
            fix.split(". ").next().unwrap_or_default().to_owned()
        });
        expect![[r#"
            An index on email does not serve lower(email): index that expression (`(lower(email))`), or compare the bare column
            An index on email does not serve lower(email): index that expression (`((lower(email)))`), or compare the bare column
            An index on email does not serve lower(email): compare the bare column, or index that expression if your database can"#]].assert_eq(&lower.join("\n"));
        let national = of("select a from users where code = N'x'", "mssql", None).fix;
        assert!(national.contains("varchar"), "{national}");
        assert!(
            !of("select a from users where code = 'x'", "mssql", None)
                .fix
                .contains("varchar")
        );
        assert!(
            !of("select a from t where b = 'x'", "mysql", None)
                .fix
                .contains("concurrently")
        );
    }

    /// Words that meet in surprising ways.
    const WORDS: &[&str] = &[
        "select",
        "a",
        "b.x",
        "*",
        "from",
        "t",
        "u v",
        "join",
        "on",
        "where",
        "and",
        "or",
        "not",
        "in",
        "(",
        ")",
        "(?)",
        "= ?",
        "<",
        "?",
        "like '%x'",
        "between",
        "is null",
        "order by",
        "desc",
        ",",
        "limit 5",
        "offset 9000",
        "group by",
        "lower(a)",
        "a::text",
        "case when",
        "end",
        "using (k)",
        "left",
        "cross",
        "lateral",
        "as",
        "with",
        "union",
        "for update",
        "update",
        "delete",
        "set",
        "top",
        "distinct",
        ".",
        "exists",
        "random()",
        "count(*)",
        "null",
    ];

    proptest::proptest! {
        #[test]
        fn any_words_get_some_advice(
            words in proptest::collection::vec(proptest::sample::select(WORDS), 0..24),
            system in proptest::sample::select(vec!["postgresql", "mysql", "mssql", "oracle", "sqlite", "", "mongodb"]),
        ) {
            let advice = of(&format!("select {}", words.join(" ")), system, Some(5_000));
            proptest::prop_assert!(!advice.fix.is_empty());
            let dialect = advice.fix_code.is_none_or(|it| system == "postgresql" || !it.contains("concurrently"));
            proptest::prop_assert!(dialect);
        }
    }
}
