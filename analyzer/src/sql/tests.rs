//! Statements as instrumentations send them, and what must hold for any text.

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// One line per statement: text, kind, tables, flags.
fn check(system: &str, statements: &[&str], expected: Expect) {
    let lines: String = statements.iter().map(|it| describe(it, system)).collect();
    expected.assert_eq(&lines);
}

fn describe(statement: &str, system: &str) -> String {
    let it = fingerprint(statement, system);
    let again = fingerprint(&it.text, system);
    assert_eq!(again.text, it.text, "not idempotent: {statement}");
    let mut line = format!("{} | {:?} {}", it.text, it.kind, it.tables.join(" "));
    for (flag, on) in [
        ("literals", it.had_literals),
        ("placeholders", it.had_placeholders),
        ("truncated", it.truncated),
    ] {
        if on {
            line = format!("{line} +{flag}");
        }
    }
    if it.in_list_len > 0 {
        line = format!("{line} list={}", it.in_list_len);
    }
    line + "\n"
}

#[test]
fn literals_and_placeholders_of_every_driver_are_the_same() {
    let variants = [
        ("SELECT * FROM authors WHERE id = 17", ""),
        ("select *\n\tfrom authors\n where id=-17", ""),
        ("SELECT * FROM authors WHERE id = 'x''y'", "postgresql"),
        ("SELECT * FROM authors WHERE id = E'it\\'s'", "postgresql"),
        (
            "SELECT * FROM authors WHERE id = $tag$it's $1$tag$",
            "postgresql",
        ),
        ("SELECT * FROM authors WHERE id = $1", "postgresql"),
        ("SELECT * FROM authors WHERE id = ?", "postgresql"),
        ("SELECT * FROM authors WHERE id = ?1", "sqlite"),
        ("SELECT * FROM authors WHERE id = %s", "mysql"),
        (
            "SELECT * FROM authors WHERE id = %(author_id)s",
            "postgresql",
        ),
        ("SELECT * FROM authors WHERE id = :author_id", "oracle"),
        ("SELECT * FROM authors WHERE id = :1", "oracle"),
        ("SELECT * FROM authors WHERE id = q'[it's]'", "oracle"),
        ("SELECT * FROM authors WHERE id=@p0", "mssql"),
        ("SELECT * FROM [authors] WHERE [id] = N'x'", "mssql"),
        ("SELECT * FROM `authors` WHERE `id` = \"it's\"", "mysql"),
        ("SELECT * FROM authors WHERE id = 'a\\'b'", "mysql"),
        ("SELECT * FROM authors WHERE id = {id:UInt64}", "clickhouse"),
        ("SELECT * FROM authors WHERE id = 0xDEAD", ""),
        ("SELECT * FROM authors WHERE id = -1.5e-10", ""),
        ("SELECT * FROM authors WHERE id = .5", ""),
        (
            "SELECT * FROM authors WHERE id = 550e8400-e29b-41d4-a716-446655440000",
            "cassandra",
        ),
        (
            "SELECT * FROM authors WHERE id = deadbeef-e29b-41d4-a716-446655440000",
            "cassandra",
        ),
        (
            "/* app:shop */ SELECT * FROM authors WHERE id = 1 /*traceparent='00-ab'*/;",
            "",
        ),
        (
            "SELECT * -- all\nFROM authors # of them\nWHERE id = 1",
            "mysql",
        ),
        (
            "SELECT * FROM authors /* a /* nested */ one */ WHERE id = 1",
            "postgresql",
        ),
        (
            "\u{feff}SELECT\u{a0}* FROM \"authors\" WHERE \"id\" = U&'\\0041'",
            "postgresql",
        ),
    ];
    for (statement, system) in variants {
        let it = fingerprint(statement, system);
        assert_eq!(
            it.text, "select * from authors where id = ?",
            "{system}: {statement}"
        );
        assert_eq!(it.tables, ["authors"], "{system}: {statement}");
        assert_eq!(it.kind, StatementKind::Select);
        assert!(!it.truncated);
        assert!(
            it.had_literals != it.had_placeholders,
            "{system}: {statement}"
        );
    }
}

#[test]
fn lists_collapse_whatever_their_length() {
    check(
        "postgresql",
        &[
            "select a from t where id in (1, 2, 3)",
            "select a from t where id in ($1)",
            "select a from t where id in ($1::int, $2::int) and b not in ('x')",
            "select a from t where (a, b) in ((1, 2), (3, 4))",
            "select a from t where id = any($1)",
            "select a from t where id = any(array[1, 2, 3]::int[])",
            "insert into t (a, b) values (1, now()), (2, now()), (3, now()) on conflict (a) do update set b = excluded.b",
            "insert into public.\"Order\" (\"Id\", b) values ($1, $2)",
            "select a from t where id in (select id from u where x in (1, 2)) limit 10 offset 20",
            "select a from t where id in (1, 2, null, 3)",
            "select coalesce(a, 1, 2), point(1, 2) from t",
            "select * from (values (1, 2), (3, 4)) v",
            "select a from t where id in (?, ...)",
            "update t set a = -1, b = b - 1, c = c * -1 where d = - -1",
        ],
        expect![[r#"
            select a from t where id in (?) | Select t +literals list=3
            select a from t where id in (?) | Select t +placeholders list=1
            select a from t where id in (?::int) and b not in (?) | Select t +literals +placeholders list=2
            select a from t where (a, b) in ((?)) | Select t +literals list=2
            select a from t where id = any(?) | Select t +placeholders
            select a from t where id = any(array[?]::int[]) | Select t +literals list=3
            insert into t (a, b) values (?, now()) on conflict (a) do update set b = excluded.b | Insert t +literals list=3
            insert into public."Order" ("Id", b) values (?) | Insert public."Order" +placeholders list=1
            select a from t where id in (select id from u where x in (?)) limit ? offset ? | Select t u +literals list=2
            select a from t where id in (?, null, ?) | Select t +literals list=4
            select coalesce(a, ?, ?), point(?, ?) from t | Select t +literals
            select * from (values (?)) v | Select  +literals list=2
            select a from t where id in (?) | Select t +placeholders list=2
            update t set a = ?, b = b - ?, c = c * ? where d = ? | Update t +literals
        "#]],
    );
}

#[test]
fn postgres_operators_are_no_placeholders() {
    check(
        "postgresql",
        &[
            "select data ? 'k', data ?| array['a','b'], data ?& $1, data ?? 'k' from t",
            "select data @> '{\"a\":1}', tags && $1, data->>'a', data #>> '{a,b}', x::numeric(10,2) from t",
            "select a % 2, b %% 3, t.tsv @@ to_tsquery('x') from t where a !~* 'x' and b <@ c",
            "select arr[1], arr[1:2], '{1,2}'::int[] from t",
            "select extract(year from created_at), substring(a from 1 for 2) from t where a is distinct from b",
            "select interval '1 day', date '2020-01-01', 'a' || 'b' from t where ts > now() - interval '1 day'",
        ],
        expect![[r#"
            select data ? ?, data ?| array[?], data ?& ?, data ? ? from t | Select t +literals +placeholders list=2
            select data @> ?, tags && ?, data ->> ?, data #>> ?, x::numeric(?, ?) from t | Select t +literals +placeholders
            select a % ?, b % ?, t.tsv @@ to_tsquery(?) from t where a !~* ? and b <@ c | Select t +literals
            select arr[?], arr[? ?], ?::int[] from t | Select t +literals +placeholders
            select extract(year from created_at), substring(a from ? for ?) from t where a is distinct from b | Select t +literals
            select interval ?, date ?, ? || ? from t where ts > now() - interval ? | Select t +literals
        "#]],
    );
}

#[test]
fn other_dialects() {
    check(
        "mssql",
        &[
            "SELECT TOP(1) [u].[Id], [u].[Name] FROM [dbo].[Users] AS [u] WHERE [u].[Id] = @__id_0",
            "SET NOCOUNT ON; INSERT INTO [Orders] ([Id]) VALUES (@p0); SELECT @@ROWCOUNT;",
            "select * from #tmp where a=@p0 and b<@p1",
            "select [a]]b] from [order details]",
            "exec dbo.GetThing @id = 5",
        ],
        expect![[r#"
            select top (?) u."Id", u."Name" from dbo."Users" as u where u."Id" = ? | Select dbo."Users" +literals +placeholders
            set nocount on; insert into "Orders" ("Id") values (?); select @@rowcount | Insert "Orders" +placeholders list=1
            select * from #tmp where a = ? and b < ? | Select #tmp +placeholders
            select "a]b" from "order details" | Select "order details"
            exec dbo.getthing ? = ? | Other  +literals +placeholders
        "#]],
    );
    check(
        "mysql",
        &[
            "SELECT /*!40001 SQL_NO_CACHE */ `Id` FROM `shop`.`order` WHERE a = \"x\" # end",
            "select 5--3",
            "insert into t values (1,'a'),(2,'b') on duplicate key update a = values(a), b = values(b)",
            "replace into t set a = 1",
            "select * from t where a like 'x%' and b regexp \"y\"",
            "insert ignore into t (a) values (1)",
        ],
        expect![[r#"
            select sql_no_cache `Id` from shop.`order` where a = ? | Select shop.`order` +literals
            select ? - ? | Select  +literals
            insert into t values (?) on duplicate key update a = values (a), b = values (b) | Insert t +literals list=2
            replace into t set a = ? | Insert t +literals
            select * from t where a like ? and b regexp ? | Select t +literals
            insert ignore into t (a) values (?) | Insert t +literals list=1
        "#]],
    );
    check(
        "cassandra",
        &["SELECT * FROM ks.t WHERE id = 550e8400-e29b-41d4-a716-446655440000 ALLOW FILTERING"],
        expect![[r#"
            select * from ks.t where id = ? allow filtering | Select ks.t +literals
        "#]],
    );
}

#[test]
fn kinds_and_tables() {
    check(
        "postgresql",
        &[
            "SELECT 1",
            "select version()",
            "SELECT 1 AS one FROM posts WHERE id = $1 LIMIT 1",
            "select pg_sleep(0.5)",
            "select refresh_totals($1)",
            "BEGIN",
            "START TRANSACTION READ ONLY",
            "SELECT set_config('TimeZone', %s, false)",
            "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
            "SAVEPOINT sa_savepoint_17",
            "RELEASE SAVEPOINT active_record_1",
            "ROLLBACK TO SAVEPOINT sa_savepoint_17",
            "rollback",
            "SET search_path TO 'x'",
            "ping",
            "DECLARE \"_django_curs_1402_sync_1\" NO SCROLL CURSOR FOR SELECT a FROM t",
            "FETCH FORWARD 100 FROM \"_django_curs_1402_sync_1\"",
            "DEALLOCATE a12",
            "create table if not exists t (a int)",
            "create index concurrently i on t (a)",
            "alter table only public.t add column b int",
            "truncate table a, b",
            "drop table t",
            "with recursive x as (select a from t), y as (select * from x) select * from x join y on x.a = y.a join z on true",
            "with gone as (delete from a where b = 1 returning *) insert into c select * from gone",
            "select * from a, b c, d where a.x = d.y for update of a",
            "select * from a left join lateral (select * from b where b.a = a.a) s on true",
            "select * from generate_series(1, 10) g, t",
            "delete from only a using b where a.x = b.x",
            "update only a set x = 1 from b",
            "merge into a using b on a.x = b.x when matched then update set y = 1",
            "explain (analyze, buffers) select * from t where a = 1",
            "(select a from t) union all (select a from u)",
            "copy t (a, b) from stdin",
            "call do_it(1)",
            "insert into a (x) select x from b",
            "begin; insert into a values (1); commit",
            "update a set x = 1; update a set x = 2; update a set x = 3;",
            "",
            ";;",
        ],
        expect![[r#"
            select ? | Session  +literals
            select version() | Session 
            select ? as one from posts where id = ? limit ? | Select posts +literals +placeholders
            select pg_sleep(?) | Select  +literals
            select refresh_totals(?) | Select  +placeholders
            begin | Transaction 
            start transaction read only | Transaction 
            select set_config(?, ?, false) | Session  +literals +placeholders
            select pg_advisory_unlock_all(); close all; unlisten *; reset all | Session 
            savepoint ? | Transaction 
            release savepoint ? | Transaction 
            rollback to savepoint ? | Transaction 
            rollback | Transaction 
            set search_path to ? | Session  +literals
            ping | Session 
            declare ? no scroll cursor for select a from t | Other t
            fetch forward ? from ? | Other  +literals
            deallocate ? | Session 
            create table if not exists t(a int) | Ddl t
            create index concurrently i on t(a) | Ddl t
            alter table only public.t add column b int | Ddl public.t
            truncate table a, b | Ddl a b
            drop table t | Ddl t
            with recursive x as (select a from t), y as (select * from x) select * from x join y on x.a = y.a join z on true | Select t z
            with gone as (delete from a where b = ? returning *) insert into c select * from gone | Insert a c +literals
            select * from a, b c, d where a.x = d.y for update of a | Select a b d
            select * from a left join lateral (select * from b where b.a = a.a) s on true | Select a b
            select * from generate_series(?, ?) g, t | Select t +literals
            delete from only a using b where a.x = b.x | Delete a
            update only a set x = ? from b | Update a b +literals
            merge into a using b on a.x = b.x when matched then update set y = ? | Update a +literals
            explain (analyze, buffers) select * from t where a = ? | Select t +literals
            (select a from t) union all (select a from u) | Select t u
            copy t(a, b) from stdin | Other t
            call do_it(?) | Other  +literals
            insert into a (x) select x from b | Insert a b
            begin; insert into a values (?); commit | Insert a +literals list=1
            update a set x = ? | Update a +literals
             | Other 
             | Other 
        "#]],
    );
}

#[test]
fn half_statements_hide_what_is_left_of_a_literal() {
    check(
        "",
        &[
            "select * from users where name = 'secr",
            "select * from users where name = \"secr",
            "select * from users where id in (1, 2, 3",
            "select * from users where id in (1, 2,",
            "insert into users (a, b) values (1, 2), (3",
            "select * from users where na...",
            "select * from users where a = 12...",
            "select * from users where na…",
            "select * from users /* app='sho",
            "select * from users where $tag$ hm",
            "{\"find\": \"users\", \"filter\": {\"name\": \"secret\"}}",
        ],
        expect![[r#"
            select * from users where name = ? | Select users +literals +truncated
            select * from users where name = ? | Select users +truncated
            select * from users where id in (? | Select users +literals +truncated list=2
            select * from users where id in (? | Select users +literals +truncated list=2
            insert into users (a, b) values (?) | Insert users +literals +truncated list=1
            select * from users where na | Select users +truncated
            select * from users where a = ? | Select users +literals +truncated
            select * from users where na | Select users +truncated
            select * from users | Select users +truncated
            select * from users where ? | Select users +literals +truncated
            {"filter": {"name": ?}, "find": ?} | Other  +literals
        "#]],
    );
}

#[test]
fn documents_of_mongodb() {
    check(
        "mongodb",
        &[
            // Of the Java, Node, Python, Go and .NET drivers, sanitised or not.
            r#"{"find": "users", "filter": {"name": "?", "age": {"$gt": "?"}}, "$db": "shop", "lsid": {"id": {"$binary": {"base64": "?", "subType": "?"}}}}"#,
            r#"{"filter":{"age":{"$gt":21},"name":"Ann"},"find":"users"}"#,
            r#"{ find: 'users', filter: { age: { $gt: NumberInt(21) }, name: /^ann/i } }"#,
            r#"{'find': 'users', 'filter': {'_id': ObjectId('507f1f77bcf86cd799439011'), 'gone': None}}"#,
            r#"{"_id":"?"}"#,
            r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"at":{"$date":{"$numberLong":"1"}}}"#,
            r#"{"find": "users", "filter": {"_id": {"$in": [1, 2, 3]}}, "limit": 2}"#,
            r#"{"insert": "users", "ordered": true, "documents": [{"a": 1, "b": 2}, {"b": 3, "a": 4}]}"#,
            r#"{"aggregate": "orders", "pipeline": [{"$match": {"user": "u1"}}, {"$lookup": {"from": "items", "localField": "i", "foreignField": "_id", "as": "x"}}, {"$sort": {"at": -1}}]}"#,
            r#"{"update": "users", "updates": [{"q": {"_id": 1}, "u": {"$set": {"items.0.name": "x", "items.1.name": "y"}}}]}"#,
            r#"{"getMore": 123456789, "collection": "users", "batchSize": 100}"#,
            r#"{"delete": "users", "deletes": [{"q": {}, "limit": 0}]}"#,
            r#"{"hello": 1}"#,
            r#"{"commitTransaction": 1, "txnNumber": 5, "autocommit": false}"#,
            r#"{"session_8f3a2b77c1": {"secret": 1}, "ann@example.com": 1}"#,
            "find users",
            "find users {\"_id\": 1}",
            "db.users.find({\"_id\": 5}, {name: 1}).sort({at: -1}).limit(5);",
            "users.insertMany",
            "whatever this is 'secret'",
        ],
        expect![[r#"
            {"find": "users", "filter": {"age": {"$gt": ?}, "name": ?}} | Select users +literals +placeholders
            {"filter": {"age": {"$gt": ?}, "name": ?}, "find": ?} | Other  +literals
            {"find": "users", "filter": {"age": {"$gt": ?}, "name": ?}} | Select users +literals
            {"find": "users", "filter": {"_id": ?, "gone": ?}} | Select users +literals
            {"_id": ?} | Other  +placeholders
            {"_id": ?, "at": ?} | Other  +literals
            {"find": "users", "filter": {"_id": {"$in": [?]}}, "limit": ?} | Select users +literals list=3
            {"insert": "users", "documents": [{"a": ?, "b": ?}], "ordered": ?} | Insert users +literals list=2
            {"aggregate": "orders", "pipeline": [{"$match": {"user": ?}}, {"$lookup": {"as": ?, "foreignField": ?, "from": "items", "localField": ?}}, {"$sort": {"at": ?}}]} | Select orders items +literals
            {"update": "users", "updates": [{"q": {"_id": ?}, "u": {"$set": {"items.?.name": ?}}}]} | Update users +literals list=1
            {"getMore": ?, "batchSize": ?, "collection": "users"} | Select users +literals
            {"delete": "users", "deletes": [{"limit": ?, "q": {}}]} | Delete users +literals list=1
            {"hello": ?} | Session  +literals
            {"commitTransaction": ?} | Transaction  +literals
            {"?": ?, "?": {"secret": ?}} | Other  +literals
            find users | Select users
            find users {"_id": ?} | Select users +literals
            db.users.find({"_id": ?}, {"name": ?}).sort({"at": ?}).limit(?) | Select users +literals
            users.insertMany() | Insert users
            whatever this is ? | Other  +literals
        "#]],
    );
    check(
        "mongodb",
        &[
            r#"{"find": "users", "filter": {"name": "sec"#,
            r#"{"find": "users", "filter": {"na"#,
            r#"{"find": "us"#,
            r#"{"find": "users", "filter": {"name": "x"}, ..."#,
            r#"{"find": "users", "filter": {"_id": {"$in": [1, 2, ..."#,
            r#"{"find": "users", "filter": {"a": [{"b": 1]}"#,
            "{",
            "[",
            "{}}}",
        ],
        expect![[r#"
            {"find": "users", "filter": {"name": ?}} | Select users +literals +truncated
            {"find": "users", "filter": {}} | Select users +literals +truncated
            {"find": ?} | Select  +literals +truncated
            {"find": "users", "filter": {"name": ?}} | Select users +literals +truncated
            {"find": "users", "filter": {"_id": {"$in": [?]}}} | Select users +literals +truncated list=2
            {"find": "users", "filter": {"a": [{"b": ?}]}} | Select users +literals +truncated list=1
            {} | Other  +truncated
            [] | Other  +truncated
            {} | Other 
        "#]],
    );
}

#[test]
fn documents_of_elasticsearch() {
    check(
        "elasticsearch",
        &[
            r#"{"size": 20, "query": {"bool": {"must": [{"match": {"title": "lamp"}}], "filter": [{"terms": {"id": [1, 2, 3]}}]}}}"#,
            r#"{"query":{"bool":{"filter":[{"terms":{"id":["?"]}}],"must":[{"match":{"title":"?"}}]}},"size":"?"}"#,
            "{\"index\":{\"_index\":\"products\",\"_id\":\"1\"}}\n{\"name\":\"a\"}\n{\"index\":{\"_index\":\"products\",\"_id\":\"2\"}}\n{\"name\":\"b\"}\n",
            r#"{"query": {"match": {"find": "users"}}}"#,
            "GET /users/_search",
        ],
        expect![[r#"
            {"query": {"bool": {"filter": [{"terms": {"id": [?]}}], "must": [{"match": {"title": ?}}]}}, "size": ?} | Other  +literals list=3
            {"query": {"bool": {"filter": [{"terms": {"id": [?]}}], "must": [{"match": {"title": ?}}]}}, "size": ?} | Other  +placeholders list=1
            {"index": {"_id": ?, "_index": "products"}} {"name": ?} | Other products +literals
            {"query": {"match": {"find": ?}}} | Other  +literals
            get / users / _search | Other 
        "#]],
    );
    // Whoever sent it: a document is one.
    check(
        "",
        &[
            r#"{"query": {"match": {"title": "lamp"}}}"#,
            "/* a */ {\"b\": 1}",
            "{call refresh(?)}",
            "{? = call total(?)}",
        ],
        expect![[r#"
            {"query": {"match": {"title": ?}}} | Other  +literals
            { ? : ? } | Other  +literals
            { call refresh(?) } | Other  +placeholders
            { ? = call total(?) } | Other  +placeholders
        "#]],
    );
}

#[test]
fn deep_and_wide_documents_end_somewhere() {
    let deep = format!("{}1{}", "{\"a\":".repeat(9_000), "}".repeat(9_000));
    let open = "[".repeat(60_000);
    let keys: Vec<_> = (0..900)
        .map(|it| format!("\"k{}\": {{\"x\": [{{\"y\": 1}}]}}", it % 90))
        .collect();
    let wide = format!("{{{}}}", keys.join(", "));
    let bulk = "{\"create\":{\"_index\":\"a\"}}\n{\"x\":1}\n".repeat(2_000);
    let different: Vec<_> = (0..50)
        .map(|it| format!("{{\"a{}\": {}}}", it / 9, wide))
        .collect();
    for text in [
        deep,
        open,
        wide.clone(),
        bulk,
        different.join("\n"),
        format!("[{wide},{wide}"),
    ] {
        for system in ["mongodb", "elasticsearch", ""] {
            let it = fingerprint(&text, system);
            assert!(it.text.len() <= Fingerprint::TEXT_MAX);
            assert_eq!(fingerprint(&it.text, system).text, it.text);
        }
    }
}

#[test]
fn cassandras_language() {
    check(
        "cassandra",
        &[
            "INSERT INTO ks.users (id, tags, attrs, at) VALUES (550e8400-e29b-41d4-a716-446655440000, {'a', 'b'}, {'k': 'v', 'l': 'w'}, toTimestamp(now())) USING TTL 86400",
            "UPDATE users SET tags = tags + {'x'}, l = ['a', 'b'], m['k'] = 1h30m WHERE id = ? IF version = 3",
            "BEGIN UNLOGGED BATCH INSERT INTO a (x) VALUES (1) UPDATE b SET y = 2 WHERE z = 3 APPLY BATCH",
            "SELECT * FROM t WHERE token(id) > token(?) AND b = 0xCAFE LIMIT 100",
            "select {fn now()} from t where a = {ts '2020-01-01'}",
        ],
        expect![[r#"
            insert into ks.users (id, tags, attrs, at) values (?, totimestamp(now())) using ttl ? | Insert ks.users +literals list=1
            update users set tags = tags + ?, l = [?], m[?] = ? where id = ? if version = ? | Update users +literals +placeholders list=2
            begin unlogged batch insert into a (x) values (?) update b set y = ? where z = ? apply batch | Insert a +literals list=1
            select * from t where token(id) > token(?) and b = ? limit ? | Select t +literals +placeholders
            select { fn now() } from t where a = { ts ? } | Select t +literals
        "#]],
    );
}

#[test]
fn names_that_libraries_number() {
    check(
        "mssql",
        &[
            "SAVE TRANSACTION __EFSavePoint17",
            "ROLLBACK TRANSACTION __EFSavePoint17",
        ],
        expect![[r#"
            save transaction ? | Transaction 
            rollback transaction ? | Transaction 
        "#]],
    );
    check(
        "mysql",
        &[
            "insert into t values row(1, 'a'), row(2, 'b'), row(3, 'c')",
            "select /*M!100100 sql_no_cache */ a from t",
        ],
        expect![[r#"
            insert into t values row(?, ?) | Insert t +literals list=3
            select sql_no_cache a from t | Select t
        "#]],
    );
    check(
        "postgresql",
        &[
            "PREPARE a12 AS SELECT * FROM t WHERE id = $1",
            "PREPARE TRANSACTION 'x'",
        ],
        expect![[r#"
            prepare ? as select * from t where id = ? | Session t +placeholders
            prepare transaction ? | Transaction  +literals
        "#]],
    );
}

#[test]
fn key_value_commands_keep_their_keys_pattern() {
    check(
        "redis",
        &[
            "GET user:17:name",
            "SET session:8f3a2b secret EX 60",
            "get session:?",
            "MGET user:1 user:2 user:3",
            "AUTH default secret",
            "GET user:1\nGET user:2\nINCR visits",
            "MULTI\nSET a 1\nEXEC",
            "EVALSHA 1234abc 1 key",
            "GET averylongtokenthathasnodigitsatall",
            "ping",
            "HGETALL ?",
            "LPOP queue:mails",
            "SET a:1 half a val...",
        ],
        expect![[r#"
            get user:?:name | Select  +literals
            set session:? ? | Insert  +literals
            get session:? | Select  +placeholders
            mget user:? ? | Select  +literals
            auth ? | Session  +literals
            get user:?; incr visits | Select  +literals
            multi; set a ?; exec | Insert  +literals
            evalsha ? | Other  +literals
            get ? | Select  +literals
            ping | Session 
            hgetall ? | Select  +placeholders
            lpop queue:mails | Update 
            set a:? ? | Insert  +literals +truncated
        "#]],
    );
}

#[test]
fn summaries_name_verb_and_table() {
    let summary = |text| fingerprint(text, "postgresql").summary();
    let statements = [
        "select * from public.authors where id = 1",
        "select * from a join b on true join c on true join d on true",
        "insert into \"Orders\" select * from x",
        "update shop.\"Order Items\" set a = 1",
        "delete from x",
        "commit",
        "select refresh_totals($1)",
        "select 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17",
        "create table x (id int primary key, name text, other text)",
    ];
    let lines: Vec<_> = statements.into_iter().map(summary).collect();
    expect![[r#"
        select authors
        select a, b, c, …
        insert into Orders
        update Order Items
        delete from x
        commit
        select refresh_totals(?)
        select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, …
        create table x (id int primary key, …"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn long_texts_end_at_a_token() {
    let columns: Vec<_> = (0..2_000).map(|it| format!("column_{it}")).collect();
    let it = fingerprint(&format!("select {} from t", columns.join(", ")), "");
    assert!(it.truncated && it.text.len() <= Fingerprint::TEXT_MAX);
    assert_eq!(fingerprint(&it.text, "").text, it.text);
    assert_eq!(it.tables, ["t"]);

    let values = vec!["(1, 'ä')"; 100_000].join(", ");
    let it = fingerprint(&format!("insert into t values {values}"), "");
    assert_eq!(it.text, "insert into t values (?)");
    assert!(it.truncated && it.in_list_len > 1_000);
}

/// Pieces that meet in surprising ways.
fn sql_soup() -> impl Strategy<Value = String> {
    let pieces = [
        "select",
        "from",
        "values",
        "in",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        ";",
        "?",
        "??",
        "?|",
        "'",
        "\"",
        "`",
        "a",
        "B",
        "\"Q\"",
        "\"q\"",
        "[x]",
        "1",
        "-",
        "--",
        "+",
        "/*",
        "*/",
        "*",
        "$1",
        "$",
        "$$",
        "$t$",
        ":a",
        ":",
        "::",
        ":=",
        "@",
        "@@",
        "@p",
        "%",
        "%s",
        "%(x)s",
        "{",
        "}",
        "{a:b}",
        "#",
        "\\",
        "…",
        "...",
        "é",
        "\u{2028}",
        "e'",
        "q'[",
        "n'x'",
        "0x1f",
        "1e-5",
        ".5",
        "array",
        "savepoint",
        "rollback",
        "to",
        "close",
        "fetch",
        "with",
        "as",
        "insert",
        "into",
        "null",
        "=",
        "<",
        ">",
        "|",
        "\n",
        "\0",
        " ",
        "/*!40001",
        "and",
        "limit",
        "explain",
        "update",
        "\t",
    ];
    let piece = (proptest::sample::select(pieces.to_vec()), any::<bool>());
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| {
        let spaced = pieces
            .iter()
            .map(|(it, space)| format!("{it}{}", if *space { " " } else { "" }));
        spaced.collect()
    })
}

fn system() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "",
        "postgresql",
        "mysql",
        "mssql",
        "oracle",
        "clickhouse",
        "sqlite",
        "redis",
        "mongodb",
        "elasticsearch",
        "cassandra",
        "memcached",
    ])
}

/// Pieces of documents.
fn json_soup() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        "\"",
        "'",
        "\"a\":",
        "\"find\":",
        "\"users\"",
        "\"$oid\":",
        "\"$date\":",
        "\"lsid\":",
        "\"$lookup\":",
        "\"from\":",
        "\"?\"",
        "?",
        "1",
        "-1.5",
        "null",
        "true",
        "ObjectId(",
        "new Date(",
        "a:",
        "find",
        "users",
        "db.users.find(",
        ".limit(5)",
        "/x/i",
        "...",
        "…",
        "\\",
        "\"a@b.c\":",
        "\"items.0.x\":",
        "\"1234567\":",
        " ",
        "\n",
        "\0",
        "é",
        "/*",
        "*/",
        "$db",
        "_index:",
        "\"count\":",
        "\"collection\":",
        "//",
        "#",
    ];
    let piece = (proptest::sample::select(pieces.to_vec()), any::<bool>());
    proptest::collection::vec(piece, 0..32).prop_map(|pieces| {
        let spaced = pieces
            .iter()
            .map(|(it, space)| format!("{it}{}", if *space { " " } else { "" }));
        spaced.collect()
    })
}

/// Statements of every kind, to be broken.
const SEEDS: &[&str] = &[
    "SELECT a.id, \"B\".name FROM authors a JOIN \"B\" ON a.id = \"B\".id WHERE a.x IN (1, 'it''s', -3.5e+7) ORDER BY 1 LIMIT 10 OFFSET 20",
    "INSERT INTO t (a, b) VALUES ($1, E'\\x41'), ($2, $tag$ x $tag$) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
    "/*a='b',traceparent='00-1-2'*/ UPDATE [dbo].[T] SET [a] = @p0, b = N'x' WHERE c <> @@ROWCOUNT -- end",
    "select q'[it's]', :1, `x`.\"y\" from dual where {id:UInt64} = 0xff and d @> '{\"a\":1}' and e ?| array['a','b']",
    "with x as (select a from t) delete from u using x where u.a = x.a and u.b = any($1::int[])",
    "SET session:8f3a2b 42 EX 60\nGET user:1",
    "{\"find\": \"users\", \"filter\": {\"_id\": {\"$in\": [1, {\"$oid\": \"x\"}, ObjectId('y')]}, \"a.0\": /x/i}, \"lsid\": {}}",
    "db.users.aggregate([{\"$lookup\": {\"from\": \"b\"}}]).limit(5)",
    "{\"index\":{\"_index\":\"a\"}}\n{\"x\":[1,2,3]}\n",
    "BEGIN BATCH INSERT INTO a (x) VALUES ({'k': 'v'}) APPLY BATCH",
    "savepoint sa_1; fetch 9 from c1; rollback to sa_1; /*! 40001 x */ # y",
];

const SYSTEMS: &[&str] = &[
    "",
    "postgresql",
    "mysql",
    "mssql",
    "oracle",
    "clickhouse",
    "sqlite",
    "cassandra",
    "redis",
    "mongodb",
    "elasticsearch",
];

/// A generator with a seed: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// One change: a byte goes, comes, turns, a piece is cut off, doubled or taken from another seed.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const SPECIAL: &[u8] = b"'\"`[](){}?$%@:;,.*/-+#\\\n\0 <>=!|&~a1";
    let at = dice.below(bytes.len() + 1);
    match dice.below(7) {
        0 if at < bytes.len() => drop(bytes.remove(at)),
        1 => bytes.insert(at, SPECIAL[dice.below(SPECIAL.len())]),
        2 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..(at + dice.below(12)).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        5 => {
            let other = SEEDS[dice.below(SEEDS.len())].as_bytes();
            let from = dice.below(other.len());
            let piece = &other[from..(from + dice.below(20)).min(other.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
        _ => drop(bytes.drain(..at.min(bytes.len()))),
    }
}

/// Mutations of what people write find what random text does not. So many that it takes a second or two.
const MUTATIONS: usize = 40_000;

#[test]
fn mutated_statements_have_stable_fingerprints() {
    let mut dice = Dice(0x5eed_cafe_f00d_1234);
    for round in 0..MUTATIONS {
        let mut bytes = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..=dice.below(6) {
            mutate(&mut bytes, &mut dice);
        }
        let text = String::from_utf8_lossy(&bytes);
        let system = SYSTEMS[dice.below(SYSTEMS.len())];
        let it = fingerprint(&text, system);
        assert_eq!(
            fingerprint(&it.text, system).text,
            it.text,
            "{system}: {text:?}"
        );
        assert!(
            !it.text.contains(|it: char| it.is_control()),
            "{system}: {text:?}"
        );
        assert!(it.text.len() <= Fingerprint::TEXT_MAX);
        let _ = (it.summary(), literals(&text, system));
        let _ = (
            clauses::clauses(&it, system),
            explainable(&it.text),
            visible_offset(&text, system),
        );
    }
}

#[test]
fn empty_items_at_a_cut_leave_nothing() {
    for text in ["[ a,,", "[ a,,a", "[ a,,,"] {
        assert_eq!(fingerprint(text, "").text, "[ a");
    }
}

#[test]
fn odd_cuts_have_a_stable_fingerprint() {
    for text in ["[a,;", "[a,", "[[a];", "[a;b]", "select [a,;", "array[a,;"] {
        for system in ["postgresql", "mssql", "mysql", "mongodb", ""] {
            let it = fingerprint(text, system);
            assert_eq!(
                fingerprint(&it.text, system).text,
                it.text,
                "{text} {system}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_has_a_stable_fingerprint(text in any::<String>(), system in system()) {
        let it = fingerprint(&text, system);
        prop_assert_eq!(&fingerprint(&it.text, system).text, &it.text);
        prop_assert!(!it.text.contains(|it: char| it.is_control()));
    }

    #[test]
    fn any_soup_has_a_stable_fingerprint(text in sql_soup(), system in system()) {
        let it = fingerprint(&text, system);
        prop_assert_eq!(&fingerprint(&it.text, system).text, &it.text, "{}", text);
        let _ = it.summary();
    }

    #[test]
    fn any_bytes_have_a_stable_fingerprint(bytes in proptest::collection::vec(any::<u8>(), 0..200), system in system()) {
        let text = String::from_utf8_lossy(&bytes);
        let it = fingerprint(&text, system);
        prop_assert_eq!(&fingerprint(&it.text, system).text, &it.text);
    }

    #[test]
    fn any_document_soup_has_a_stable_fingerprint(text in json_soup(), system in system()) {
        let it = fingerprint(&text, system);
        prop_assert_eq!(&fingerprint(&it.text, system).text, &it.text, "{}", text);
        prop_assert!(!it.text.contains(|it: char| it.is_control()));
    }

    #[test]
    fn values_and_order_of_a_document_do_not_matter(
        ids in proptest::collection::vec(any::<i64>(), 1..20),
        name in "[^\"\\\\]*",
        space in "[ \t\r\n]{0,3}",
        turned in any::<bool>(),
        system in proptest::sample::select(vec!["mongodb", "elasticsearch"]),
    ) {
        let list: Vec<_> = ids.iter().map(i64::to_string).collect();
        let (a, b) = (format!("\"name\":{space}\"{name}\""), format!("\"id\":{{\"$in\":[{}]{space}}}", list.join(",")));
        let (a, b) = if turned { (b, a) } else { (a, b) };
        let it = fingerprint(&format!("{{\"filter\":{space}{{{a},{space}{b}}}}}"), system);
        prop_assert_eq!(it.text, "{\"filter\": {\"id\": {\"$in\": [?]}, \"name\": ?}}");
        prop_assert_eq!(it.in_list_len as usize, ids.len());
    }

    #[test]
    fn values_lists_layout_and_comments_do_not_matter(
        ids in proptest::collection::vec(any::<i64>(), 1..20),
        name in "[^'\\\\]*",
        space in "[ \t\r\n]{1,4}",
        comment in "[a-z0-9=,' ]*",
        system in proptest::sample::select(vec!["", "postgresql", "mysql", "mssql", "sqlite"]),
    ) {
        let list: Vec<_> = ids.iter().map(i64::to_string).collect();
        let statement = format!(
            "SELECT{space}a{space}FROM/*{comment}*/t WHERE{space}id IN ({}) AND name='{name}'{space}LIMIT {}",
            list.join(&format!(",{space}")),
            ids.len(),
        );
        let it = fingerprint(&statement, system);
        prop_assert_eq!(it.text, "select a from t where id in (?) and name = ? limit ?");
        prop_assert_eq!(it.in_list_len as usize, ids.len());
    }
}
