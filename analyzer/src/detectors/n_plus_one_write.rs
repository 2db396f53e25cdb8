//! One statement for each row that is written.
//!
//! ```text
//! shop  POST /orders               |--------------------------|
//! shop    INSERT orders            |--|
//! shop    INSERT order_items          |--|
//! shop    INSERT order_items              |--|
//! shop    INSERT order_items                  |--|
//! shop    INSERT order_items                      |--|
//! shop    INSERT order_items                          |--|
//! ```

use super::{Detect, Detector, n_plus_one_query};
use crate::category::Category;
use crate::evidence::Parameters;
use crate::finding::Finding;
use crate::groups::loops;
use crate::loops::{Sure, Told, failed, is_batch, matters};
use crate::role::{Role, role};
use crate::sql::{Fingerprint, StatementKind};
use crate::{Analysis, Call, Settings};

pub(super) const DETECTOR: Detector = Detector {
    id: "n-plus-one-write",
    title: "N+1 writes",
    explain: EXPLAIN,
    example: EXAMPLE,
    detect: Detect::InTrace(detect),
};

const EXPLAIN: &str = "\
The same INSERT, UPDATE or DELETE runs again and again within one request, each time for another row: saving in a \
loop. Mappers do it behind save() and behind relations that are filled one element at a time.

Every statement waits for a network round trip, and outside of a transaction for the disk, too: the database makes \
each commit durable before it answers. A hundred rows in one statement cost little more than one row. Locks that \
were taken by the first row are held until the last one is written.

Fix it by collecting the rows and writing them together: one INSERT with many rows, a batch of the driver, the \
mapper's bulk call (bulk_create, insert_all, saveAll with a batch size, AddRange and one SaveChanges, createMany, \
CreateInBatches), one UPDATE or DELETE over a list of ids. A few hundred rows at a time, in one transaction.

How it is found: at least 5 calls of one normalised write below the same chain of operations of one request, which \
together take at least 20 ms or a tenth of the request, or at least 25 calls. The time saved is what they take on the \
critical path, less one and a half calls for the statement that replaces them.

When it is wrong: rows that must be stored one by one, because each needs the answer to the last. Statements with \
several rows, batches, deletions in small steps (with a limit), rows taken off a queue, retries after errors and \
migrations are left out; findings in consumers and jobs are only informational.";

const EXAMPLE: &str = "
shop  PUT /wishlists/{id}                                                                   |--------------------------------------------|
shop    DELETE wishlist_items {db.query.text=\"DELETE FROM wishlist_items WHERE list = $1\"}  |--|
shop    INSERT wishlist_items {db.query.text=\"INSERT INTO wishlist_items VALUES ($1, $2)\"}       |-----|
shop    INSERT wishlist_items {db.query.text=\"INSERT INTO wishlist_items VALUES ($1, $2)\"}               |-----|
shop    INSERT wishlist_items {db.query.text=\"INSERT INTO wishlist_items VALUES ($1, $2)\"}                       |-----|
shop    INSERT wishlist_items {db.query.text=\"INSERT INTO wishlist_items VALUES ($1, $2)\"}                               |-----|
shop    INSERT wishlist_items {db.query.text=\"INSERT INTO wishlist_items VALUES ($1, $2)\"}                                       |-----|
";

fn detect(findings: &mut Vec<Finding>, analysis: &Analysis<'_>, settings: &Settings) {
    let wanted = |call: &Call| is_candidate(analysis, call);
    let repeats_min = settings.repeats_min;
    for found in loops(analysis, Category::Database, writes, wanted, repeats_min) {
        let role = role(analysis, found.entry);
        if role != Role::Upkeep && matters(analysis, &found) {
            findings.push(finding(&Told::of(analysis, &found, role)));
        }
    }
}

fn writes(call: &Call) -> bool {
    match &call.statement {
        Some(statement) => matches!(
            statement.kind,
            StatementKind::Insert | StatementKind::Update | StatementKind::Delete
        ),
        // Senders without statement text often name the operation at least: `INSERT shop.orders`.
        None => {
            let verb = call.name.split(' ').next().unwrap_or("");
            let verbs = ["insert", "update", "delete"];
            verbs.iter().any(|it| verb.eq_ignore_ascii_case(it))
        }
    }
}

/// A write of one row that succeeded.
fn is_candidate(analysis: &Analysis<'_>, call: &Call) -> bool {
    let is_row = |it: &Fingerprint| {
        it.in_list_len <= 1
            && !is_small_step(&it.text)
            && !it.tables.iter().any(|table| is_bookkeeping(table))
    };
    !failed(analysis, call)
        && !is_batch(analysis, call)
        && call.statement.as_ref().is_none_or(is_row)
}

/// `delete … limit ?` until nothing is left keeps locks short on purpose; `skip locked` takes the next
/// one off a queue.
fn is_small_step(text: &str) -> bool {
    text.contains(" limit ?") || text.contains("skip locked") || text.contains(" top (")
}

/// Where migration tools note what they did.
fn is_bookkeeping(table: &str) -> bool {
    let tables = [
        "schema_migrations",
        "django_migrations",
        "alembic_version",
        "flyway_schema_history",
        "databasechangelog",
        "_sqlx_migrations",
        "_prisma_migrations",
        "__efmigrationshistory",
    ];
    tables
        .iter()
        .any(|it| table.to_ascii_lowercase().contains(it))
}

fn finding(told: &Told<'_, '_>) -> Finding {
    Finding {
        title: told.title("writes"),
        target: told
            .first()
            .statement
            .as_ref()
            .and_then(|it| it.tables.first().cloned()),
        explanation: explanation(told),
        fix: fix(told),
        fix_code: fix_code(told),
        ..told.finding(DETECTOR.id, told.saved_in_batches_ns(), sure(told))
    }
}

fn sure(told: &Told<'_, '_>) -> Sure {
    let mut sure = Sure::at(0.7);
    sure.weigh_loop(told);
    match &told.first().statement {
        Some(statement) if statement.truncated => {
            sure.say(
                -0.3,
                "the statement was cut off by its sender: it may hold several rows",
            );
        }
        Some(_) => {}
        None => sure.say(-0.2, "the sender shows no statement, only its name"),
    }
    sure
}

fn explanation(told: &Told<'_, '_>) -> String {
    let count = told.found.calls.len();
    let what = match told.found.steps.len() {
        1 => format!("writes {count} rows with a statement each"),
        steps => format!("runs {steps} writes in turns, {count} statements in all"),
    };
    format!(
        "{} {what}, {}: {}. Every statement pays for a round trip, and outside of a transaction for a commit.",
        told.entry().endpoint,
        told.manner(),
        told.numbers(),
    )
}

fn fix(told: &Told<'_, '_>) -> String {
    if told.is_remote() {
        return format!(
            "Call {} once: give it an endpoint that takes all rows and writes them with one statement, and call \
             it behind the loop instead of inside of it.",
            told.remote_service()
        );
    }
    match told.parameters {
        Parameters::Same => "The same is written every time: gather what changes in memory and write it once, behind the \
                             loop."
            .into(),
        _ => told.library.write_together.into(),
    }
}

/// The library's bulk call, or the statement with several rows.
fn fix_code(told: &Told<'_, '_>) -> Option<String> {
    let statement = told.first().statement.as_ref();
    let statement = statement.filter(|it| !it.truncated && !told.is_remote())?;
    let [table] = &statement.tables[..] else {
        return None;
    };
    match (statement.kind, told.library.write_code) {
        (StatementKind::Insert, Some(code)) => Some(code.replace("{table}", table)),
        (StatementKind::Insert, None) => rows_in_values(&statement.text),
        (StatementKind::Delete, _) => {
            n_plus_one_query::with_list(&statement.text, &told.first().system)
        }
        _ => None,
    }
}

/// `insert into t (a, b) values (?)` with as many values per row as there are columns, and more rows.
fn rows_in_values(text: &str) -> Option<String> {
    let (before, after) = text.split_once(" values (?)")?;
    let columns = before.split_once('(')?.1.strip_suffix(')')?;
    let row = vec!["?"; columns.split(',').count()].join(", ");
    Some(format!("{before} values ({row}), ({row}), …{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_silent, check_titles, findings, line, serial};
    use super::{DETECTOR, rows_in_values};
    use expect_test::expect;

    const ID: &str = DETECTOR.id;

    const INSERT: &str =
        "INSERT items {db.query.text=\"insert into items (cart, sku) values ($1, $2)\"}";

    fn silent(endpoint: &str, write: &str) {
        check_silent(ID, &serial(endpoint, &[write; 8]));
    }

    #[test]
    fn a_statement_per_row() {
        check(
            ID,
            &serial("POST /carts", &[INSERT; 5]),
            expect![[r#"
            5 × insert into items, one by one
              shop of 55 ms · critical, confidence 0.80: the calls run one after the other
              count 5, window 50 ms, sum 50 ms, saved 35 ms
              n-plus-one-write shop "POST /carts" "POST /carts" "insert into items (cart, sku) values (?)"
              path: POST /carts
              explanation: POST /carts writes 5 rows with a statement each, each after the last one has returned: 10 ms each (median), 50 ms of the request's 55 ms (90 %). Every statement pays for a round trip, and outside of a transaction for a commit.
              fix: Collect the rows and write them with one statement: `insert … values (…), (…), …` for new rows, `update … from (values …)` or an upsert for changed ones, `delete … where id in (…)`; a few hundred rows at a time, in one transaction.
              fix code: insert into items (cart, sku) values (?, ?), (?, ?), …
        "#]],
        );
    }

    #[test]
    fn the_frameworks_own_words() {
        let hibernate = format!("{INSERT} {{scope=io.opentelemetry.hibernate-6.0}}");
        check(
            ID,
            &serial("POST /carts", &[&hibernate; 5]),
            expect![[r#"
            5 × insert into items, one by one
              shop of 55 ms · critical, confidence 0.80: the calls run one after the other
              count 5, window 50 ms, sum 50 ms, saved 35 ms
              n-plus-one-write shop "POST /carts" "POST /carts" "insert into items (cart, sku) values (?)"
              path: POST /carts
              explanation: POST /carts writes 5 rows with a statement each, each after the last one has returned: 10 ms each (median), 50 ms of the request's 55 ms (90 %). Every statement pays for a round trip, and outside of a transaction for a commit.
              fix: Use `saveAll(entities)` in one transaction and switch batching on: `hibernate.jdbc.batch_size` with `order_inserts` and `order_updates`. Ids of `GenerationType.IDENTITY` switch it off silently: use a sequence. For changes by condition, one `@Modifying @Query` update.
              fix code: spring.jpa.properties.hibernate.jdbc.batch_size=50
            spring.jpa.properties.hibernate.order_inserts=true
            spring.jpa.properties.hibernate.order_updates=true
              framework: Hibernate / Spring Data
        "#]],
        );
    }

    #[test]
    fn updates_deletes_and_steps_in_turns() {
        let update = "UPDATE stock {db.query.text=\"update stock set n = 3 where id = 1\"}";
        let delete = "DELETE FROM holds {db.query.text=\"delete from holds where id = ?\"}";
        check_titles(
            ID,
            &serial("POST /carts", &[update, delete].repeat(5)),
            expect![[r#"
                10 writes in one loop: 5 × update stock, 5 × delete from holds (critical)
            "#]],
        );
        check(
            ID,
            &serial("POST /carts", &[delete; 5]),
            expect![[r#"
            5 × delete from holds, one by one
              shop of 55 ms · critical, confidence 0.80: the calls run one after the other
              count 5, window 50 ms, sum 50 ms, saved 35 ms
              n-plus-one-write shop "POST /carts" "POST /carts" "delete from holds where id = ?"
              path: POST /carts
              explanation: POST /carts writes 5 rows with a statement each, each after the last one has returned: 10 ms each (median), 50 ms of the request's 55 ms (90 %). Every statement pays for a round trip, and outside of a transaction for a commit.
              fix: Collect the rows and write them with one statement: `insert … values (…), (…), …` for new rows, `update … from (values …)` or an upsert for changed ones, `delete … where id in (…)`; a few hundred rows at a time, in one transaction.
              fix code: delete from holds where id = any($1)
        "#]],
        );
    }

    #[test]
    fn statements_in_between_hide_nothing() {
        let savepoint = "SAVEPOINT s1 {db.system=postgresql, db.query.text=\"savepoint s1\"}";
        let read = "SELECT n {db.query.text=\"select nextval('items_id')\"}";
        check_titles(
            ID,
            &serial("POST /carts", &[savepoint, read, INSERT].repeat(5)),
            expect![[r#"
                5 × insert into items, one by one (warning)
            "#]],
        );
    }

    #[test]
    fn slow_writes_of_a_loop_are_the_loops() {
        let mut text = line("shop", 0, "POST /carts", 0, 5_100);
        for at in 0..5 {
            text += &line("shop", 1, INSERT, at * 1_010, 1_005);
        }
        assert_eq!(findings(&text), [ID]);
    }

    #[test]
    fn jobs_are_information() {
        check_titles(
            ID,
            &serial("import [internal]", &[INSERT; 8]),
            expect![[r#"
                8 × insert into items, one by one (info)
            "#]],
        );
    }

    #[test]
    fn names_without_statements_are_less_sure() {
        let named = "INSERT shop.items {db.system=mysql, db.operation=INSERT, db.query.text=\"\"}";
        check_titles(
            ID,
            &serial("POST /carts", &[named; 8]),
            expect![[r#"
            8 × INSERT, one by one (critical)
        "#]],
        );
    }

    #[test]
    fn fewer_than_five_are_no_loop() {
        check_silent(ID, &serial("POST /carts", &[INSERT; 4]));
    }

    #[test]
    fn several_rows_at_once_are_batches() {
        silent(
            "POST /",
            "INSERT items {db.query.text=\"insert into items (a, b) values (1, 2), (3, 4)\"}",
        );
        silent(
            "POST /",
            "INSERT items {db.query.text=\"insert into items (a) values (?)\", db.operation.batch.size=50}",
        );
        silent(
            "POST /",
            "UPDATE items {db.query.text=\"update items set a = 1 where id in (1, 2, 3)\"}",
        );
    }

    #[test]
    fn small_steps_and_queues_are_meant() {
        silent(
            "POST /",
            "DELETE FROM t {db.query.text=\"delete from events where at < ? limit 1000\"}",
        );
        silent(
            "POST /",
            "UPDATE jobs {db.query.text=\"update jobs set state = ? where id = (select id from jobs for update skip locked)\"}",
        );
    }

    #[test]
    fn retries_transactions_and_reads_are_no_writes() {
        silent("POST /", &format!("{INSERT} {{error}}"));
        silent("POST /", "BEGIN {db.query.text=\"begin\"}");
        silent(
            "POST /",
            "SELECT t {db.query.text=\"select a from t where b = ?\"}",
        );
    }

    #[test]
    fn upkeep_and_migrations_are_left_out() {
        silent("GET /health", INSERT);
        silent(
            "POST /",
            "INSERT m {db.query.text=\"insert into schema_migrations (version) values (?)\"}",
        );
    }

    #[test]
    fn different_tables_are_no_loop() {
        let writes: Vec<String> = (0..8)
            .map(|it| format!("INSERT t {{db.query.text=\"insert into t{it}x (a) values (?)\"}}"))
            .collect();
        check_silent(ID, &serial("POST /", &writes));
    }

    #[test]
    fn rows_have_as_many_values_as_columns() {
        let rows = |text| rows_in_values(text);
        assert_eq!(
            rows("insert into t (a, b) values (?) returning id").as_deref(),
            Some("insert into t (a, b) values (?, ?), (?, ?), … returning id")
        );
        assert_eq!(rows("insert into t values (?)"), None);
        assert_eq!(rows("insert into t (a) select ?"), None);
    }
}
