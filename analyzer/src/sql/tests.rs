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
            { ? : ?, ? : { ? : ? } } | Other  +literals
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
    ])
}

#[test]
fn empty_items_at_a_cut_leave_nothing() {
    for text in ["[ a,,", "[ a,,a", "[ a,,,"] {
        assert_eq!(fingerprint(text, "").text, "[ a");
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
