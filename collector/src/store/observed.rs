//! Asking an observed database for a plan. It is somebody's production: one connection, a read-only
//! transaction that is rolled back, short timeouts, and EXPLAIN of single selects only.
//!
//! The statement has placeholders and no values, so the plan is the generic one: `explain (generic_plan)`
//! from Postgres 16 on, before that a prepared statement with nulls of its parameters' types and
//! `plan_cache_mode = force_generic_plan`, which plans as if they were unknown.

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use std::time::Duration;

use super::plans::{Plan, SequentialScan};

/// Who cannot be reached in this time is asked another time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// All of it; the server's own timeouts end the statements before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Before anything else in the transaction: nothing is written, nobody waits for us, and we wait for nobody.
const BEGIN: &str = "begin transaction read only;
    set local statement_timeout = '2s';
    set local lock_timeout = '500ms';
    set local idle_in_transaction_session_timeout = '5s';
    set local plan_cache_mode = 'force_generic_plan'";

/// The first version that plans without values by itself.
const GENERIC_PLAN_FROM: u32 = 160_000;

/// Nodes shown; larger plans end in `…`.
const NODES_MAX: usize = 60;

/// Tables named.
const SCANS_MAX: usize = 8;

/// The plan of `statement`, whose placeholders are numbered and which is a single select. It is run only
/// with `run`, and only if it has no placeholder: without values it would not be the statement that is slow.
///
/// # Errors
/// Why there is no plan, as a sentence for people, without secrets.
pub async fn explain(
    options: &PgConnectOptions,
    statement: &str,
    run: bool,
) -> Result<Plan, String> {
    let options = options
        .clone()
        .application_name("culprit explain")
        .statement_cache_capacity(0);
    let connecting = PgConnection::connect_with(&options);
    let mut connection = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(in_words(&error)),
        Err(_) => return Err(UNREACHABLE.to_owned()),
    };
    let asking = ask(&mut connection, statement, run);
    let answer = match tokio::time::timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answer) => answer.map_err(|error| in_words(&error)),
        Err(_) => Err(TOO_SLOW.to_owned()),
    };
    // Closing ends the transaction, whatever state it is in.
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, connection.close()).await;
    answer
}

const UNREACHABLE: &str = "The database cannot be reached.";
const TOO_SLOW: &str = "The database took longer than two seconds to plan it.";

async fn ask(
    connection: &mut PgConnection,
    statement: &str,
    run: bool,
) -> Result<Plan, sqlx::Error> {
    connection.execute(sqlx::raw_sql(BEGIN)).await?;
    let version: String = sqlx::query_scalar("select current_setting('server_version_num')")
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    let version: u32 = version.parse().unwrap_or_default();
    let has_placeholder = statement.contains('$');
    let explained = if run && !has_placeholder {
        fetch(
            connection,
            format!("explain (analyze, verbose, format json) {statement}"),
        )
        .await?
    } else if !has_placeholder {
        fetch(
            connection,
            format!("explain (verbose, format json) {statement}"),
        )
        .await?
    } else if version >= GENERIC_PLAN_FROM {
        fetch(
            connection,
            format!("explain (generic_plan, verbose, format json) {statement}"),
        )
        .await?
    } else {
        explain_prepared(connection, statement).await?
    };
    let mut plan = read(&explained);
    plan.server = version / 10_000;
    add_sizes(connection, &mut plan).await?;
    connection.execute(sqlx::raw_sql("rollback")).await?;
    Ok(plan)
}

/// One value, asked for in the simple protocol: what is explained takes no parameters.
async fn fetch(connection: &mut PgConnection, sql: String) -> Result<Value, sqlx::Error> {
    let row: PgRow = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}

async fn explain_prepared(
    connection: &mut PgConnection,
    statement: &str,
) -> Result<Value, sqlx::Error> {
    let prepare = format!("prepare culprit_explain as {statement}");
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(prepare)))
        .await?;
    let types: Vec<String> = sqlx::query_scalar(
        "select unnest(parameter_types)::text from pg_prepared_statements where name = 'culprit_explain'",
    )
    .persistent(false)
    .fetch_all(&mut *connection)
    .await?;
    let nulls: Vec<String> = types.iter().map(|it| format!("null::{it}")).collect();
    let explain = format!(
        "explain (verbose, format json) execute culprit_explain({})",
        nulls.join(", ")
    );
    let explained = fetch(connection, explain).await;
    if explained.is_ok() {
        // A pooler may hand this connection to somebody else.
        connection
            .execute(sqlx::raw_sql("deallocate culprit_explain"))
            .await?;
    }
    explained
}

/// Fills in how large the scanned tables are, and puts the largest first.
async fn add_sizes(connection: &mut PgConnection, plan: &mut Plan) -> Result<(), sqlx::Error> {
    for scan in &mut plan.scans {
        let size: Option<(f32, i64)> = sqlx::query_as(
            "select c.reltuples, pg_relation_size(c.oid) from pg_class c where c.oid = to_regclass($1)",
        )
        .persistent(false)
        .bind(&scan.table)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((rows, bytes)) = size {
            // -1: never analysed.
            scan.table_rows = (rows >= 0.0).then_some(rows as u64);
            scan.table_bytes = u64::try_from(bytes).unwrap_or_default();
        }
    }
    plan.scans
        .sort_by_key(|it| std::cmp::Reverse(it.table_bytes));
    Ok(())
}

/// What Postgres' JSON says, in words and without literals.
fn read(explained: &Value) -> Plan {
    let top = &explained[0];
    let root = &top["Plan"];
    let mut plan = Plan {
        rows: number(&root["Plan Rows"]),
        cost: root["Total Cost"].as_f64().unwrap_or_default(),
        ran_ms: top["Execution Time"].as_f64(),
        ..Plan::default()
    };
    let mut waiting = vec![(root, 0)];
    let mut nodes = 0;
    while let Some((node, depth)) = waiting.pop() {
        nodes += 1;
        if nodes > NODES_MAX {
            plan.text += "…\n";
            break;
        }
        plan.text += &line(node, depth);
        if node["Node Type"] == "Seq Scan" && plan.scans.len() < SCANS_MAX {
            add_scan(&mut plan.scans, node);
        }
        let children = node["Plans"].as_array().into_iter().flatten().rev();
        waiting.extend(children.map(|it| (it, depth + 1)));
    }
    plan
}

fn add_scan(scans: &mut Vec<SequentialScan>, node: &Value) {
    let table = table(node);
    if !scans.iter().any(|it| it.table == table) {
        scans.push(SequentialScan {
            table,
            rows: number(&node["Plan Rows"]),
            filter: node["Filter"].as_str().map(redacted),
            ..SequentialScan::default()
        });
    }
}

/// A quoted name, so that it is found again as it is.
fn table(node: &Value) -> String {
    let quoted = |key: &str| {
        let name = node[key].as_str().filter(|it| !it.is_empty())?;
        let is_plain = name
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_')
            && !name.starts_with(|it: char| it.is_ascii_digit());
        Some(match is_plain {
            true => name.to_owned(),
            false => format!("\"{}\"", name.replace('"', "\"\"")),
        })
    };
    let parts = [quoted("Schema"), quoted("Relation Name")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(".")
}

fn number(value: &Value) -> u64 {
    value.as_f64().unwrap_or_default().max(0.0) as u64
}

/// Filters hold the literals of views, policies and partial indexes.
fn redacted(expression: &str) -> String {
    analyzer::sql::fingerprint(expression, "postgresql").text
}

/// `  Seq Scan on public.orders  (rows 1200, cost 35.5)`, and what it compares.
fn line(node: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let mut line = format!("{indent}{}", node["Node Type"].as_str().unwrap_or("?"));
    if let Some(index) = node["Index Name"].as_str() {
        line += &format!(" using {index}");
    }
    let table = table(node);
    if !table.is_empty() {
        line += &format!(" on {table}");
    }
    line += &format!(
        "  (rows {}, cost {:.1}",
        number(&node["Plan Rows"]),
        node["Total Cost"].as_f64().unwrap_or_default()
    );
    if let Some(ms) = node["Actual Total Time"].as_f64() {
        line += &format!("; really {} rows, {ms:.1} ms", number(&node["Actual Rows"]));
    }
    line += ")\n";
    for key in [
        "Index Cond",
        "Recheck Cond",
        "Hash Cond",
        "Merge Cond",
        "Join Filter",
        "Filter",
    ] {
        if let Some(condition) = node[key].as_str() {
            line += &format!("{indent}  {key}: {}\n", redacted(condition));
        }
    }
    if let Some(keys) = node["Sort Key"].as_array() {
        let keys = keys.iter().filter_map(Value::as_str).map(redacted);
        line += &format!(
            "{indent}  Sort Key: {}\n",
            keys.collect::<Vec<_>>().join(", ")
        );
    }
    line
}

/// A refusal as a sentence: what is wrong, and what to do. The driver's own words may hold an address.
fn in_words(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(refused) = error else {
        return UNREACHABLE.to_owned();
    };
    // Postgres quotes names and our own text there, which has no literals.
    let message = refused.message();
    let code = refused.code().unwrap_or_default();
    match code.as_ref() {
        "42501" => format!(
            "The role may not read all it needs ({message}): grant it select on the tables."
        ),
        "42P01" | "3F000" => format!(
            "The database does not know a table ({message}): is it the service's database, and is the schema in the \
             role's search_path?"
        ),
        "42703" | "42883" | "42804" => {
            format!("The database does not know what the statement names ({message}).")
        }
        "42P18" | "42P08" => {
            format!(
                "The type of a placeholder cannot be told from the statement alone ({message})."
            )
        }
        "42601" | "42P10" | "42803" => format!(
            "Without its values the statement is not valid, because they stood where Postgres takes no placeholder \
             ({message})."
        ),
        "57014" => TOO_SLOW.to_owned(),
        "55P03" => "A table was locked; it will be asked again.".to_owned(),
        "28P01" | "28000" => "The database does not accept the role or its password.".to_owned(),
        "3D000" => "There is no such database.".to_owned(),
        "53300" => "The database has no connection left; it will be asked again.".to_owned(),
        "25006" => format!("It would change something ({message})."),
        code => format!("The database refuses to explain it ({message}, {code})."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sqlx::Executor;

    /// A database with tables of a shop, and a role that may read some of them.
    async fn observed(setup: &'static str) -> PgConnectOptions {
        let options = crate::testing::database().await;
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        connection.execute(sqlx::raw_sql(setup)).await.unwrap();
        options
    }

    const SHOP: &str = "
        create table public.products (id int primary key, name text, price int, placed_at timestamptz);
        insert into public.products select n, 'lamp ' || n, n % 100, now() from generate_series(1, 20000) n;
        create index on public.products (price) where name <> 'secret';
        analyze public.products;";

    #[tokio::test]
    async fn a_table_without_an_index_is_read_from_end_to_end() {
        let options = observed(SHOP).await;
        let statement = "select id from products where name ilike $1 and placed_at > now() - $2::interval limit $3";
        let plan = explain(&options, statement, false).await.unwrap();
        let [scan] = &plan.scans[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(scan.table, "public.products");
        assert_eq!(scan.table_rows, Some(20_000));
        assert!(scan.table_bytes > 500_000, "{scan:?}");
        assert!(
            scan.filter.as_ref().unwrap().contains("name ~~* ?"),
            "{scan:?}"
        );
        assert!(
            plan.text.contains("Seq Scan on public.products"),
            "{}",
            plan.text
        );
        assert!(plan.server >= 14 && plan.cost > 0.0, "{plan:?}");
        assert_eq!(plan.ran_ms, None);
    }

    #[tokio::test]
    async fn an_index_that_serves_is_named_and_literals_are_hidden() {
        let options = observed(SHOP).await;
        let by_key = explain(&options, "select name from products where id = $1", false)
            .await
            .unwrap();
        assert!(
            by_key
                .text
                .contains("Index Scan using products_pkey on public.products"),
            "{}",
            by_key.text
        );
        assert_eq!(by_key.scans, []);
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let view = "create view lamps as select * from products where name = 'top secret'";
        connection.execute(sqlx::raw_sql(view)).await.unwrap();
        let plan = explain(&options, "select price from lamps where id > $1", false)
            .await
            .unwrap();
        assert!(!plan.text.contains("secret"), "{}", plan.text);
    }

    #[tokio::test]
    async fn a_statement_runs_only_if_that_is_wanted_and_it_has_no_placeholder() {
        let options = observed(SHOP).await;
        let whole = "select count(*) from products";
        assert_eq!(explain(&options, whole, false).await.unwrap().ran_ms, None);
        assert!(
            explain(&options, whole, true)
                .await
                .unwrap()
                .ran_ms
                .is_some()
        );
        let part = "select count(*) from products where price = $1";
        assert_eq!(explain(&options, part, true).await.unwrap().ran_ms, None);
        let slow = explain(&options, "select pg_sleep(20) from products", true).await;
        assert_eq!(slow.unwrap_err(), TOO_SLOW);
        let writing = "select nextval('s')";
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        connection
            .execute(sqlx::raw_sql("create sequence s"))
            .await
            .unwrap();
        let refused = explain(&options, writing, true).await.unwrap_err();
        assert!(refused.contains("would change something"), "{refused}");
    }

    #[tokio::test]
    async fn refusals_are_told_in_words() {
        let options = observed(
            "create table public.hidden (a int); create table public.t (a int, at timestamptz);
             do $$ begin create role explain_reader login; exception when duplicate_object then null; end $$;
             grant select on public.t to explain_reader",
        )
        .await;
        let reader = options.clone().options([("role", "explain_reader")]);
        for (options, statement, words) in [
            (&reader, "select a from hidden where a = $1", "may not read"),
            (&options, "select a from gone", "does not know a table"),
            (
                &options,
                "select b from t",
                "does not know what the statement names",
            ),
            (
                &options,
                "select a from t where a = date $1",
                "Without its values",
            ),
            (&options, "select $1", ""),
        ] {
            let answer = explain(options, statement, false).await;
            match words {
                "" => assert!(answer.is_ok(), "{answer:?}"),
                words => assert!(
                    answer.as_ref().unwrap_err().contains(words),
                    "{statement}: {answer:?}"
                ),
            }
        }
        assert!(
            explain(&reader, "select a from t where a = $1", false)
                .await
                .is_ok()
        );
        let nowhere = options.clone().host("/nowhere").password("hunter2");
        assert_eq!(
            explain(&nowhere, "select a from t", false)
                .await
                .unwrap_err(),
            UNREACHABLE
        );
    }

    #[tokio::test]
    async fn a_locked_table_is_not_waited_for() {
        let options = observed("create table public.t (a int)").await;
        let mut other = PgConnection::connect_with(&options).await.unwrap();
        other
            .execute(sqlx::raw_sql(
                "begin; lock table public.t in access exclusive mode",
            ))
            .await
            .unwrap();
        let answer = explain(&options, "select a from t where a = $1", false).await;
        assert!(answer.unwrap_err().contains("locked"));
    }

    #[test]
    fn a_plan_of_any_shape_is_read() {
        for odd in [
            json!(null),
            json!([]),
            json!([{"Plan": {"Plans": [1, {"Node Type": 5}]}}]),
        ] {
            let _ = read(&odd);
        }
        let mut node = json!({"Node Type": "Append"});
        node["Plans"] = json!(vec![
            json!({"Node Type": "Seq Scan", "Relation Name": "T", "Schema": "s"});
            200
        ]);
        let plan = read(&json!([{ "Plan": node }]));
        assert!(plan.text.ends_with("…\n"));
        assert_eq!(plan.scans.len(), 1);
        assert_eq!(plan.scans[0].table, "s.\"T\"");
    }
}
