//! Which library made the calls, and what doing them together is called there.
//!
//! Recognised by the scopes of the spans around a call, by span names that only one library gives, and by the
//! modules that Rust's spans name; else by the language of the service's SDK; else the words are general.

use crate::Analysis;
use crate::trace::SpanIdx;

/// How calls are made fewer in a library or language. Sentences for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Library {
    /// For people; `None` if only the language is known, or not even that.
    pub name: Option<&'static str>,
    /// Touching a relation loads it, so that nothing in the code looks like a query.
    pub is_lazy: bool,
    /// How rows are loaded together.
    pub load_together: &'static str,
    /// How rows are written together.
    pub write_together: &'static str,
    /// Code that writes `rows` together; `{table}` stands for the table's name.
    pub write_code: Option<&'static str>,
    /// How an answer is kept for the length of a request.
    pub remember: &'static str,
    /// How many keys of a cache are read at once.
    pub read_keys: &'static str,
}

/// The library that made the call of `span`: by the span or the nearest ancestor down from `top` that tells, else
/// by the language of the span's service.
pub fn library(analysis: &Analysis<'_>, span: SpanIdx, top: SpanIdx) -> Library {
    let trace = &analysis.trace;
    let ancestors = std::iter::successors(Some(span), |it| trace.node(*it).parent);
    let mut inside = ancestors.take_while(|it| *it >= top);
    let known = inside.find_map(|it| {
        let span = trace.span(it);
        if span.name.starts_with("prisma:") {
            return by_scope("prisma");
        }
        let scope = trace.spans.scopes.get(span.scope as usize);
        let module = || {
            let keys = ["code.module.name", "code.namespace", "target"];
            by_module(trace.spans.text(span, &keys)?)
        };
        scope.and_then(|it| by_scope(it.name)).or_else(module)
    });
    let known = known.or_else(|| mapper_above_jdbc(analysis, span, top));
    known.unwrap_or_else(|| {
        let language = ["telemetry.sdk.language"];
        let language = trace.spans.resource_text(trace.span(span), &language);
        by_language(language.unwrap_or(""))
    })
}

/// A mapper that loads when a getter is called has no span of its own there, but one around the query that
/// loaded the list. So many spans before the call are looked at.
const SPANS_BEFORE_MAX: SpanIdx = 64;

/// ```text
/// shop  GET /posts
/// shop    Posts.findAll          io.opentelemetry.spring-data
/// shop      SELECT blog.Post     io.opentelemetry.hibernate
/// shop        SELECT posts       io.opentelemetry.jdbc
/// shop    SELECT authors         io.opentelemetry.jdbc: post.getAuthor().getName()
/// shop    SELECT authors
/// ```
fn mapper_above_jdbc(analysis: &Analysis<'_>, span: SpanIdx, top: SpanIdx) -> Option<Library> {
    let trace = &analysis.trace;
    let scope = |it: SpanIdx| Some(trace.spans.scopes.get(trace.span(it).scope as usize)?.name);
    if !scope(span)?.contains("jdbc") {
        return None;
    }
    let before = (top..span).rev().take(SPANS_BEFORE_MAX as usize);
    before
        .filter_map(|it| by_scope(scope(it)?))
        .find(|it| it.is_lazy)
}

/// A part of a scope's name, lower case; with `=`, a whole word of it.
type Part = &'static str;

fn by_scope(scope: &str) -> Option<Library> {
    let scope = scope.to_ascii_lowercase();
    let fits = |part: &Part| match part.strip_prefix('=') {
        Some(word) => scope
            .split(|it: char| !it.is_ascii_alphanumeric())
            .any(|it| it == word),
        None => scope.contains(part),
    };
    let known = KNOWN.iter().find(|(parts, _)| parts.iter().any(fits));
    known.map(|it| it.1)
}

/// `sqlx::query`, `sea_orm::executor::select`: Rust's spans are made by the libraries themselves.
fn by_module(module: &str) -> Option<Library> {
    let (library, _) = module.split_once("::")?;
    ["sqlx", "diesel", "sea_orm"]
        .contains(&library)
        .then(|| by_scope(library))?
}

fn by_language(language: &str) -> Library {
    let known = LANGUAGES.iter().find(|it| it.0 == language);
    known.map_or(GENERIC, |it| it.1)
}

/// Fits whatever library made the call.
const GENERIC: Library = Library {
    name: None,
    is_lazy: false,
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match them in memory.",
    write_together: "Collect the rows and write them with one statement: `insert … values (…), (…), …` for new rows, `update … from (values …)` or an upsert for changed ones, `delete … where id in (…)`; a few hundred rows at a time, in one transaction.",
    write_code: None,
    remember: "Ask once and pass the answer on, or keep it for the length of the request, in the object that stands for the request.",
    read_keys: "Fetch all keys with one command (`MGET`), or send the commands as one pipeline.",
};

/// The first that fits wins.
static KNOWN: &[(&[Part], Library)] = &[
    (
        &["django"],
        Library {
            name: Some("Django"),
            is_lazy: true,
            load_together: "Add `select_related(…)` (foreign keys) or `prefetch_related(…)` (lists) to the queryset that loads the parent rows.",
            write_together: "Collect the objects and write them with `bulk_create(objects)` (with `update_conflicts` for an upsert), `bulk_update(objects, fields)` or one `filter(…).update(…)` / `.delete()`. None of them sends the save signals.",
            write_code: Some("Model.objects.bulk_create(rows, batch_size=500)"),
            remember: "Keep the object: pass it on, hold it in a `cached_property`, or set it on `request` once; evaluate a queryset once (`list(…)`) instead of filtering it again.",
            read_keys: "Read all keys with `cache.get_many(keys)`, and write them with `cache.set_many(…)`.",
        },
    ),
    (
        &["sqlalchemy"],
        Library {
            name: Some("SQLAlchemy"),
            is_lazy: true,
            load_together: "Load the relationship with the parent rows: `.options(selectinload(Parent.children))` for lists, `joinedload(…)` for single rows; `lazy=\"raise\"` on the relationship keeps it from coming back.",
            write_together: "Collect the rows: `session.add_all(objects)` and one `flush()` at the end instead of one per object, or `session.execute(insert(Model), rows)` with a list of dictionaries, which sends many rows per statement.",
            write_code: Some("session.execute(insert(Model), rows)\nsession.commit()"),
            remember: "Use one session for the request and `session.get(Model, id)`, which asks the database only for objects it does not hold; queries by other columns are sent every time, so keep their results.",
            ..PYTHON
        },
    ),
    (
        &["tortoise"],
        Library {
            name: Some("Tortoise ORM"),
            load_together: "Add `.prefetch_related(\"relation\")` (or `.select_related(…)` for foreign keys) to the query of the parent rows instead of awaiting the relation per row.",
            write_together: "Collect the objects and write them with `Model.bulk_create(objects)` or `Model.bulk_update(objects, fields=[…])`.",
            write_code: Some("await Model.bulk_create(rows, batch_size=500)"),
            ..PYTHON
        },
    ),
    (
        &["peewee"],
        Library {
            name: Some("Peewee"),
            is_lazy: true,
            load_together: "Load the related rows with the parents: `.join(…)` and name both models in `select(…)` for foreign keys, `prefetch(parents, children)` for lists.",
            write_together: "Collect the rows and write them with `Model.insert_many(rows).execute()` or `Model.bulk_update(objects, fields=[…])`, inside of one `db.atomic()`.",
            write_code: Some("with db.atomic():\n    Model.insert_many(rows).execute()"),
            ..PYTHON
        },
    ),
    (
        &[
            "active_record",
            "activerecord",
            "action_pack",
            "actionpack",
            "=rails",
        ],
        Library {
            name: Some("Rails Active Record"),
            is_lazy: true,
            load_together: "Add `.includes(:association)` (or `.preload`) to the relation that loads the parent rows; `strict_loading` keeps it from coming back.",
            write_together: "Collect the attributes and write them with `insert_all` (or `upsert_all` for changes), `update_all` or `delete_all`/`where(id: ids)`. They skip callbacks and validations; where these are needed, wrap the loop in one `transaction` at least.",
            write_code: Some("Model.insert_all(rows)"),
            remember: "Memoize it (`@value ||= …`) or hold it in `ActiveSupport::CurrentAttributes` for the length of the request; Active Record's query cache answers repeats only between writes and only inside of one request or job.",
            read_keys: "Read all keys with `Rails.cache.read_multi(*keys)` or `fetch_multi(*keys) { … }`.",
        },
    ),
    (
        &[
            "hibernate",
            "spring-data",
            "spring.data",
            "=jpa",
            "eclipselink",
        ],
        Library {
            name: Some("Hibernate / Spring Data"),
            is_lazy: true,
            load_together: "Fetch the association in the query of the parent rows: `join fetch` in JPQL or `@EntityGraph(attributePaths = …)` on the repository method; `@BatchSize` or `hibernate.default_batch_fetch_size` turn N queries into N/size as a first step.",
            write_together: "Use `saveAll(entities)` in one transaction and switch batching on: `hibernate.jdbc.batch_size` with `order_inserts` and `order_updates`. Ids of `GenerationType.IDENTITY` switch it off silently: use a sequence. For changes by condition, one `@Modifying @Query` update.",
            write_code: Some(
                "spring.jpa.properties.hibernate.jdbc.batch_size=50\nspring.jpa.properties.hibernate.order_inserts=true\nspring.jpa.properties.hibernate.order_updates=true",
            ),
            remember: "Load by id within one transaction: the persistence context answers the second time (`@Transactional` around the whole operation). Queries are sent every time: keep their result, in a `@RequestScope` bean or by passing it on, or use `@Cacheable`.",
            read_keys: "Read all keys with `redisTemplate.opsForValue().multiGet(keys)`, or `executePipelined(…)` for other commands.",
        },
    ),
    (
        &["entityframework"],
        Library {
            name: Some("Entity Framework"),
            is_lazy: true,
            load_together: "Add `.Include(x => x.Navigation)` to the query of the parent rows (with `.AsSplitQuery()` for several lists), or project with `.Select(…)` so that one query returns all that is shown.",
            write_together: "Add all entities (`AddRange`) and call `SaveChangesAsync()` once, behind the loop: it sends them in batches. For changes by condition, `ExecuteUpdateAsync` or `ExecuteDeleteAsync`.",
            write_code: Some("db.AddRange(rows);\nawait db.SaveChangesAsync();"),
            remember: "`FindAsync(id)` answers from the context if it holds the entity; other queries are sent every time: keep their result in a scoped service.",
            ..DOTNET
        },
    ),
    (
        &["prisma"],
        Library {
            name: Some("Prisma"),
            load_together: "Ask for the relation with the parent rows: `include: { relation: true }`, or collect the ids and use one `findMany({ where: { id: { in: ids } } })`.",
            write_together: "Collect the rows and write them with `createMany({ data: rows })`, `updateMany` or `deleteMany({ where: { id: { in: ids } } })`; several different writes go into one `$transaction([…])`.",
            write_code: Some("await prisma.model.createMany({ data: rows })"),
            ..NODE
        },
    ),
    (
        &["typeorm"],
        Library {
            name: Some("TypeORM"),
            is_lazy: true,
            load_together: "Name the relation in the query of the parent rows: `relations: { child: true }` in `find`, or `leftJoinAndSelect` in the query builder; lazy relations load row by row.",
            write_together: "Collect the rows and write them with one `repository.insert(rows)` or `upsert(rows, […])`; `save(rows)` with an array works, too, but asks for existing rows first.",
            write_code: Some("await repository.insert(rows)"),
            ..NODE
        },
    ),
    (
        &["sequelize"],
        Library {
            name: Some("Sequelize"),
            load_together: "Add `include: [Child]` to the query of the parent rows (`separate: true` for long lists).",
            write_together: "Collect the rows and write them with `Model.bulkCreate(rows)` (with `updateOnDuplicate` for an upsert), or one `Model.update(…, { where })` / `destroy({ where })`.",
            write_code: Some("await Model.bulkCreate(rows)"),
            ..NODE
        },
    ),
    (
        &["mongoose"],
        Library {
            name: Some("Mongoose"),
            load_together: "Add `.populate(\"path\")` to the query of the parent documents, which loads each path with one query, or collect the ids and use one `find({ _id: { $in: ids } })`.",
            write_together: "Collect the documents and write them with `Model.insertMany(docs)` or one `Model.bulkWrite([…])`.",
            write_code: Some("await Model.insertMany(rows)"),
            ..NODE
        },
    ),
    (
        &["knex"],
        Library {
            name: Some("Knex"),
            load_together: "Collect the ids and fetch all rows with one `.whereIn(\"id\", ids)`, then match them in memory; or join in the first query.",
            write_together: "Collect the rows and insert the array at once (`.insert(rows)`, with `.onConflict(…).merge()` for an upsert), or `knex.batchInsert(…)` for very many.",
            write_code: Some("await knex.batchInsert(\"{table}\", rows, 500)"),
            ..NODE
        },
    ),
    (
        &["gorm"],
        Library {
            name: Some("GORM"),
            load_together: "Add `.Preload(\"Association\")` (or `.Joins(\"Association\")` for single rows) to the query of the parent rows.",
            write_together: "Collect the rows and write them with `db.CreateInBatches(rows, 500)` (with `clause.OnConflict` for an upsert); changes by condition with one `Updates` or `Delete` over `id in ?`.",
            write_code: Some("db.CreateInBatches(rows, 500)"),
            ..GO
        },
    ),
    (
        &["=ecto"],
        Library {
            name: Some("Ecto"),
            write_code: Some("Repo.insert_all(\"{table}\", rows)"),
            ..ELIXIR
        },
    ),
    (
        &["laravel", "eloquent"],
        Library {
            name: Some("Laravel Eloquent"),
            is_lazy: true,
            load_together: "Add `->with('relation')` to the query of the parent rows; `Model::preventLazyLoading()` outside production keeps it from coming back.",
            write_together: "Collect the rows and write them with `Model::insert($rows)` or `upsert($rows, […])`; changes by condition with one `whereIn('id', $ids)->update(…)`. None of them fires model events.",
            write_code: Some("DB::table('{table}')->insert($rows);"),
            remember: "Keep it with `once(fn () => …)`, in a property of a request-scoped service, or pass it on; load a relation once (`loadMissing`) instead of calling its query method.",
            read_keys: "Read all keys with `Cache::many($keys)`, and write them with `Cache::putMany(…)`; other commands with `Redis::pipeline(…)`.",
        },
    ),
    (
        &["doctrine"],
        Library {
            name: Some("Doctrine"),
            is_lazy: true,
            load_together: "Fetch-join the association in the query of the parent rows (`leftJoin` plus `addSelect`).",
            write_together: "Persist all entities and call `flush()` once, behind the loop; it still sends a statement per row, in one transaction. For very many rows write one DBAL statement with several rows in `VALUES`, or one DQL `UPDATE`/`DELETE`.",
            remember: "`find($id)` answers from the entity manager if it holds the entity; other queries are sent every time: keep their result in a service of the request.",
            ..PHP
        },
    ),
    (
        &["sea-orm", "sea_orm", "seaorm"],
        Library {
            name: Some("SeaORM"),
            load_together: "Load the related rows for the whole list: `parents.load_one(Child, db)` or `load_many`, or `find_also_related` in the query.",
            write_together: "Collect the models and write them with `Entity::insert_many(models).exec(db)` (with `on_conflict` for an upsert), or one `Entity::update_many()` / `delete_many()` with a filter.",
            write_code: Some("Entity::insert_many(rows).exec(db).await?;"),
            ..RUST
        },
    ),
    (
        &["diesel"],
        Library {
            name: Some("Diesel"),
            load_together: "Load the children of the whole list at once: `Child::belonging_to(&parents).load(…)` and `grouped_by(&parents)`, or a join.",
            write_together: "Collect the rows and insert them with one statement: `insert_into(table).values(&rows)`, which takes a slice; changes by condition with one `update(table.filter(id.eq_any(ids)))`.",
            write_code: Some(
                "diesel::insert_into({table}::table)\n    .values(&rows)\n    .execute(conn)?;",
            ),
            ..RUST
        },
    ),
    (
        &["sqlx"],
        Library {
            name: Some("sqlx"),
            ..RUST
        },
    ),
];

const PYTHON: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and pass them as one list (`where id = any(%s)` with psycopg, `in` with one placeholder per id elsewhere), then match them in a dictionary.",
    write_together: "Collect the rows and write them together: `cursor.executemany(…)` with psycopg 3 (which pipelines them), `execute_values(…)` with psycopg2, `executemany` or `copy_records_to_table` with asyncpg; one transaction around all.",
    remember: "Ask once and pass the answer on, or keep it on the request's object (`flask.g`, `request.state`) or in a `ContextVar` for the length of the request.",
    read_keys: "Fetch all keys with one `mget(keys)`, or gather other commands in one `pipeline()`.",
    ..GENERIC
};

const NODE: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and pass them as one array (`where id = any($1)` with pg, `in (?)` with mysql2), then match them in a `Map`. A `DataLoader` does it where the code cannot be turned inside out.",
    write_together: "Collect the rows and write them with one statement: with pg `insert … select * from unnest($1::int[], $2::text[])` with an array per column, with mysql2 `insert … values ?` with an array of rows. `Promise.all` over single inserts only hides the round trips, and fills the pool.",
    remember: "Ask once and pass the promise on, or keep it in a `Map` that lives as long as the request (in `AsyncLocalStorage` or on `req`); a `DataLoader` per request does both.",
    read_keys: "Fetch all keys with one `mGet(keys)` (`mget` in ioredis), or gather other commands in one `multi()` or `pipeline()`.",
    ..GENERIC
};

const JAVA: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and pass them as one array (`where id = any(?)` with `connection.createArrayOf(…)`) or as an `in` list, then match them in a `Map`.",
    write_together: "Collect the rows with `addBatch()` and send them with one `executeBatch()` (`JdbcTemplate.batchUpdate(…)` in Spring), with auto-commit off; `reWriteBatchedInserts=true` in the URL makes pgjdbc send them as one statement, `rewriteBatchedStatements=true` MySQL's driver.",
    remember: "Ask once and pass the answer on, or keep it in a `@RequestScope` bean or a request attribute for the length of the request.",
    read_keys: "Fetch all keys with one `mget(keys)` (`multiGet(keys)` in Spring), or gather other commands in one pipeline.",
    ..GENERIC
};

const GO: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and pass them as one slice (`where id = any($1)` with pgx, `pq.Array(ids)` with lib/pq, `sqlx.In` for MySQL), then match them in a map.",
    write_together: "Collect the rows and send them together: `pgx.Batch` with `SendBatch`, `CopyFrom` for very many, or one `insert … select * from unnest($1, $2)` with a slice per column; one transaction around all.",
    remember: "Ask once and pass the answer on as an argument, or keep it in a value of the request's `context.Context`; `singleflight` joins calls that run at the same time.",
    read_keys: "Fetch all keys with one `MGet(ctx, keys...)`, or gather other commands in one `Pipelined(…)`.",
    ..GENERIC
};

const RUBY: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`where id = any($1)`; `where(id: ids)` in Sequel), then `index_by` them.",
    write_together: "Collect the rows and write them with one statement: `insert … values (…), (…)`, `multi_insert` or `import` in Sequel; one transaction around all.",
    remember: "Memoize it (`@value ||= …`) in an object that lives as long as the request, or pass it on.",
    read_keys: "Fetch all keys with one `mget(*keys)`, or gather other commands in one `pipelined { … }`.",
    ..GENERIC
};

const PHP: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`in (…)` with as many placeholders as ids), then match them by key.",
    write_together: "Collect the rows and write them with one prepared statement that has several rows in `VALUES`, or at least run the loop inside of one transaction.",
    remember: "Ask once and keep it in a property of a service (a PHP object lives no longer than the request), or pass it on.",
    read_keys: "Fetch all keys with one `mget($keys)` (`getMulti($keys)` for Memcached), or gather other commands in one `pipeline()`.",
    ..GENERIC
};

const DOTNET: Library = Library {
    load_together: "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any(@ids)` with Npgsql, `in @ids` with Dapper), then match them in a dictionary.",
    write_together: "Collect the rows and send them together: `NpgsqlBatch` or `BeginBinaryImport` with Npgsql, `SqlBulkCopy` for SQL Server; one transaction around all.",
    remember: "Ask once and pass the answer on, or keep it in a scoped service, which lives as long as the request.",
    read_keys: "Fetch all keys with one `StringGetAsync(keys)` (an array of keys), or gather other commands in one `CreateBatch()`.",
    ..GENERIC
};

const RUST: Library = Library {
    load_together: "Collect the ids and bind them as one array: `where id = any($1)` with `&ids[..]`, then match rows to parents with a `HashMap`; or join in the first query.",
    write_together: "Collect the rows and bind one array per column: `insert … select * from unnest($1::…[], $2::…[])`, or `QueryBuilder::push_values` for databases without arrays; one transaction around all.",
    remember: "Ask once and pass the answer on, or keep it in a `tokio::sync::OnceCell` in the request's extensions.",
    read_keys: "Fetch all keys with one `mget(keys)`, or gather other commands in one `redis::pipe()`.",
    ..GENERIC
};

const ELIXIR: Library = Library {
    load_together: "Preload the association with the parent rows: `preload: [:association]` in the query or one `Repo.preload/2` on the whole list, not one per element.",
    write_together: "Collect the rows and write them with one `Repo.insert_all/3` (with `on_conflict` for an upsert), `update_all` or `delete_all`.",
    remember: "Keep it in `conn.assigns` or the socket's assigns and pass it on; `Dataloader` remembers what it loaded within a request.",
    read_keys: "Fetch all keys with one `MGET`, or send the commands with one `Redix.pipeline/2`.",
    ..GENERIC
};

/// By `telemetry.sdk.language`.
static LANGUAGES: &[(&str, Library)] = &[
    ("python", PYTHON),
    ("nodejs", NODE),
    ("java", JAVA),
    ("go", GO),
    ("ruby", RUBY),
    ("php", PHP),
    ("dotnet", DOTNET),
    ("rust", RUST),
    ("erlang", ELIXIR),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, analyze, drawing};

    #[test]
    fn scopes_name_their_framework() {
        let cases = [
            ("opentelemetry.instrumentation.django", Some("Django")),
            (
                "opentelemetry.instrumentation.sqlalchemy",
                Some("SQLAlchemy"),
            ),
            (
                "opentelemetry.instrumentation.tortoiseorm",
                Some("Tortoise ORM"),
            ),
            (
                "OpenTelemetry::Instrumentation::ActiveRecord",
                Some("Rails Active Record"),
            ),
            (
                "OpenTelemetry::Instrumentation::Rails",
                Some("Rails Active Record"),
            ),
            (
                "io.opentelemetry.hibernate-6.0",
                Some("Hibernate / Spring Data"),
            ),
            (
                "io.opentelemetry.spring-data-1.8",
                Some("Hibernate / Spring Data"),
            ),
            (
                "OpenTelemetry.Instrumentation.EntityFrameworkCore",
                Some("Entity Framework"),
            ),
            ("prisma", Some("Prisma")),
            ("@opentelemetry/instrumentation-typeorm", Some("TypeORM")),
            ("opentelemetry-instrumentation-sequelize", Some("Sequelize")),
            ("@opentelemetry/instrumentation-mongoose", Some("Mongoose")),
            ("@opentelemetry/instrumentation-knex", Some("Knex")),
            ("gorm.io/plugin/opentelemetry", Some("GORM")),
            (
                "github.com/uptrace/opentelemetry-go-extra/otelgorm",
                Some("GORM"),
            ),
            ("opentelemetry_ecto", Some("Ecto")),
            (
                "io.opentelemetry.contrib.php.laravel",
                Some("Laravel Eloquent"),
            ),
            ("io.opentelemetry.contrib.php.doctrine", Some("Doctrine")),
            ("sea_orm", Some("SeaORM")),
            // Drivers, and words that only contain a name.
            ("io.opentelemetry.jdbc", None),
            ("opentelemetry.instrumentation.psycopg2", None),
            ("mysql-connector", None),
            ("guardrails", None),
            ("", None),
        ];
        for (scope, expected) in cases {
            assert_eq!(by_scope(scope).and_then(|it| it.name), expected, "{scope}");
        }
    }

    /// The library of the only child in a request of a service with these attributes.
    fn of_call(service: &str, call: &str) -> Library {
        let drawing = drawing::parse(&format!(
            "shop  GET / {{{service}}} |---|\nshop    SELECT a {{{call}}} |--|"
        ));
        let analysis = analyze(drawing.spans(), &Settings::default());
        library(&analysis, 1, 0)
    }

    #[test]
    fn the_nearest_span_that_tells_wins() {
        let django = "scope=opentelemetry.instrumentation.django";
        assert_eq!(of_call(django, "n=1").name, Some("Django"));
        let sqlalchemy = "scope=opentelemetry.instrumentation.sqlalchemy";
        assert_eq!(of_call(django, sqlalchemy).name, Some("SQLAlchemy"));
        let module = "code.namespace=sqlx::query";
        assert_eq!(of_call("n=1", module).name, Some("sqlx"));
        let others = "code.namespace=shop::sqlx";
        assert_eq!(of_call("n=1", others).name, None);
    }

    #[test]
    fn a_getter_that_loads_is_its_mappers_query() {
        let name = |before: &str, call: &str| {
            let line = |name: String, bar: &str| format!("shop  {name:<80}{bar}\n");
            let drawing = drawing::parse(
                &[
                    line("GET /".into(), "|----------|"),
                    line(format!("  Posts.findAll {{{before}}}"), " |--|"),
                    line(format!("  SELECT authors {{{call}}}"), "     |--|"),
                ]
                .concat(),
            );
            let analysis = analyze(drawing.spans(), &Settings::default());
            library(&analysis, 2, 0).name
        };
        let (data, jdbc) = (
            "scope=io.opentelemetry.spring-data-1.8",
            "scope=io.opentelemetry.jdbc",
        );
        assert_eq!(name(data, jdbc), Some("Hibernate / Spring Data"));
        assert_eq!(name("n=1", jdbc), None);
        assert_eq!(name(data, "n=1"), None);
    }

    #[test]
    fn without_a_framework_the_language_has_its_words() {
        for (language, library) in LANGUAGES {
            let resource = format!("res.telemetry.sdk.language={language}");
            assert_eq!(of_call(&resource, "n=1"), *library, "{language}");
        }
        assert_eq!(of_call("res.telemetry.sdk.language=cobol", "n=1"), GENERIC);
        assert_eq!(of_call("n=1", "n=1"), GENERIC);
    }

    #[test]
    fn every_library_says_how_in_sentences() {
        let libraries = KNOWN.iter().map(|it| it.1);
        let libraries = libraries.chain(LANGUAGES.iter().map(|it| it.1));
        for it in libraries.chain([GENERIC]) {
            for words in [
                it.load_together,
                it.write_together,
                it.remember,
                it.read_keys,
            ] {
                assert!(words.ends_with('.') && !words.contains("  "), "{words}");
            }
        }
    }
}
