//! What the text of a slow statement suggests, without knowing tables, indexes or plan.

use crate::sql::Fingerprint;

/// So many columns of a condition are named in an index candidate: wider ones are rarely right.
const INDEX_COLUMNS_MAX: usize = 3;

/// What to try, most promising first, as one paragraph. `wildcard`: a visible pattern begins with `%`.
pub(super) fn fix(statement: &Fingerprint, system: &str, wildcard: bool) -> String {
    let mut hints = Vec::new();
    hints.extend(like_hint(statement, system, wildcard));
    hints.extend(offset_hint(statement));
    hints.extend(function_hint(statement));
    hints.extend(index_hint(statement, wildcard));
    hints.extend(everything_hint(statement));
    hints.extend(lock_hint(statement));
    let explain = match is_postgres(system) {
        true => "EXPLAIN (ANALYZE, BUFFERS)",
        false => "EXPLAIN",
    };
    if hints.is_empty() {
        return format!(
            "Run it with {explain} on data of production size and look for full scans of large tables, sorts that spill \
             to disk and waiting for locks; then index, narrow or cache."
        );
    }
    hints.push(format!(
        "These are candidates read off its text: check the plan with {explain}."
    ));
    hints.join(" ")
}

fn is_postgres(system: &str) -> bool {
    matches!(system, "postgresql" | "postgres")
}

fn like_hint(statement: &Fingerprint, system: &str, wildcard: bool) -> Option<String> {
    let column = conditions(statement)
        .into_iter()
        .find(|it| it.operator.ends_with("like"))?
        .column;
    let index = match is_postgres(system) {
        true => "a trigram index (`pg_trgm`, `using gin`) or full-text search does",
        false => "a full-text index does",
    };
    Some(match wildcard {
        true => format!(
            "The pattern for {column} begins with `%`, which no ordinary index can serve; {index}."
        ),
        false => format!(
            "If the pattern for {column} begins with `%`, no ordinary index can serve it; {index}."
        ),
    })
}

fn offset_hint(statement: &Fingerprint) -> Option<String> {
    let hint = "OFFSET reads all rows before the page and throws them away; continue from the last row's key instead \
                (`where id > … order by id limit …`).";
    statement
        .text
        .contains(" offset ?")
        .then(|| hint.to_string())
}

fn function_hint(statement: &Fingerprint) -> Option<String> {
    let condition = conditions(statement)
        .into_iter()
        .find(|it| it.column.contains('('))?;
    Some(format!(
        "An index on the bare column does not serve {}: index that expression.",
        condition.column
    ))
}

fn index_hint(statement: &Fingerprint, wildcard: bool) -> Option<String> {
    let columns = index_columns(statement, wildcard);
    let table = statement.tables.first().filter(|_| !columns.is_empty())?;
    Some(format!(
        "Add an index on {table} ({}) if there is none.",
        columns.join(", ")
    ))
}

fn everything_hint(statement: &Fingerprint) -> Option<String> {
    let text = &statement.text;
    let is_read = text.starts_with("select ");
    let table = statement.tables.first().filter(|_| is_read)?;
    if !text.contains(" where ") && !text.contains(" limit ?") && !text.contains("select top ") {
        return Some(format!(
            "Without WHERE and LIMIT it reads all of {table}: page it, or aggregate in the database."
        ));
    }
    let all_columns = text.starts_with("select * ");
    all_columns.then(|| "Name the columns that are needed instead of `*`.".to_string())
}

fn lock_hint(statement: &Fingerprint) -> Option<String> {
    let locks = statement.text.contains(" for update") || !statement.text.starts_with("select ");
    let writes = ["update ", "delete ", "insert "]
        .iter()
        .any(|it| statement.text.starts_with(it));
    (locks && (writes || statement.text.contains(" for update")))
        .then(|| "It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short.".to_string())
}

/// The plan's command, and an index candidate if the text names table and columns.
pub(super) fn fix_code(statement: &Fingerprint, system: &str, wildcard: bool) -> Option<String> {
    if !is_postgres(system) || statement.tables.len() != 1 || statement.truncated {
        return None;
    }
    let table = &statement.tables[0];
    let like = conditions(statement)
        .into_iter()
        .find(|it| it.operator.ends_with("like"));
    if let Some(like) = like.filter(|it| wildcard && !it.column.contains('(')) {
        return Some(format!(
            "create extension if not exists pg_trgm;\ncreate index concurrently on {table} using gin ({} gin_trgm_ops);",
            like.column
        ));
    }
    let columns = index_columns(statement, wildcard);
    (!columns.is_empty()).then(|| {
        format!(
            "create index concurrently on {table} ({});",
            columns.join(", ")
        )
    })
}

/// Columns an ordinary index could serve: compared for equality first, then one range.
fn index_columns(statement: &Fingerprint, wildcard: bool) -> Vec<String> {
    // With several tables, or alternatives, the text does not say which index would help.
    if statement.tables.len() != 1 || statement.text.contains(" or ") {
        return Vec::new();
    }
    let conditions = conditions(statement);
    let usable = |it: &&Condition<'_>| {
        !(it.column.contains('(') || wildcard && it.operator.ends_with("like"))
    };
    let is_equal = |it: &&Condition<'_>| matches!(it.operator, "=" | "in");
    let is_range = |it: &&Condition<'_>| matches!(it.operator, "<" | ">" | "<=" | ">=" | "between");
    let equal = conditions.iter().filter(usable).filter(is_equal);
    let range = conditions.iter().filter(usable).filter(is_range).take(1);
    let mut columns: Vec<String> = Vec::new();
    for condition in equal.chain(range) {
        // Without the table's name or alias: `p.name` is `name` in `create index`.
        let column = condition
            .column
            .rsplit('.')
            .next()
            .unwrap_or(&condition.column);
        if !columns.iter().any(|it| it == column) && columns.len() < INDEX_COLUMNS_MAX {
            columns.push(column.to_string());
        }
    }
    columns
}

/// `column operator ?` somewhere behind `where`.
struct Condition<'a> {
    column: String,
    operator: &'a str,
}

/// The comparisons of a normalised statement with values.
fn conditions(statement: &Fingerprint) -> Vec<Condition<'_>> {
    let Some((_, condition)) = statement.text.split_once(" where ") else {
        return Vec::new();
    };
    let words: Vec<&str> = condition.split(' ').collect();
    let mut conditions = Vec::new();
    for at in 1..words.len() {
        let Some(value) = words.get(at + 1) else {
            break;
        };
        let operators = ["=", "<", ">", "<=", ">=", "in", "like", "ilike", "between"];
        let is_value = value.trim_start_matches('(').starts_with('?') || value.starts_with("any(?");
        if !operators.contains(&words[at]) || !is_value {
            continue;
        }
        let column = expression_before(&words, at);
        let is_column =
            column.starts_with(|it: char| it.is_alphabetic() || matches!(it, '_' | '"' | '`'));
        if is_column {
            conditions.push(Condition {
                column,
                operator: words[at],
            });
        }
    }
    conditions
}

/// What stands before the operator at `words[at]`: a column, or a call with all of its arguments
/// (`translate(lower(name), ?, ?)`). A parenthesis that opens around the condition is left out.
fn expression_before(words: &[&str], at: usize) -> String {
    if words[at - 1] == "not" {
        return String::new();
    }
    let mut open = 0_usize;
    let mut first = at;
    loop {
        first -= 1;
        let word = words[first];
        open = (open + word.matches(')').count()).saturating_sub(word.matches('(').count());
        if open == 0 {
            break;
        }
        if first == 0 {
            return String::new();
        }
    }
    words[first..at]
        .join(" ")
        .trim_start_matches('(')
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::fingerprint;
    use expect_test::{Expect, expect};

    fn check(text: &str, wildcard: bool, expected: Expect) {
        let statement = fingerprint(text, "postgresql");
        let code = fix_code(&statement, "postgresql", wildcard).unwrap_or_default();
        expected.assert_eq(&format!(
            "{}\n{code}\n",
            fix(&statement, "postgresql", wildcard)
        ));
    }

    #[test]
    fn calls_within_calls_are_one_expression() {
        check(
            "select id from products where (translate(lower(name), 'à', 'a') like '%' || $1 || '%' and sku = 1)",
            true,
            expect![[r#"
                The pattern for translate(lower(name), ?, ?) begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does. An index on the bare column does not serve translate(lower(name), ?, ?): index that expression. Add an index on products (sku) if there is none. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).
                create index concurrently on products (sku);
            "#]],
        );
    }

    #[test]
    fn advice_is_read_off_the_text() {
        check(
            "select id from products where sku = $1 and price > $2 order by id limit 20",
            false,
            expect![[r#"
                Add an index on products (sku, price) if there is none. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).
                create index concurrently on products (sku, price);
            "#]],
        );
        check(
            "select * from products where name ilike $1 limit 20",
            true,
            expect![[r#"
                The pattern for name begins with `%`, which no ordinary index can serve; a trigram index (`pg_trgm`, `using gin`) or full-text search does. Name the columns that are needed instead of `*`. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).
                create extension if not exists pg_trgm;
                create index concurrently on products using gin (name gin_trgm_ops);
            "#]],
        );
        check(
            "select * from products p where p.name like $1",
            false,
            expect![[r#"
                If the pattern for p.name begins with `%`, no ordinary index can serve it; a trigram index (`pg_trgm`, `using gin`) or full-text search does. Name the columns that are needed instead of `*`. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).

            "#]],
        );
        check(
            "select id from products order by id limit 20 offset 100000",
            false,
            expect![[r#"
                OFFSET reads all rows before the page and throws them away; continue from the last row's key instead (`where id > … order by id limit …`). These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).

            "#]],
        );
        check(
            "select id from users where lower(email) = $1",
            false,
            expect![[r#"
                An index on the bare column does not serve lower(email): index that expression. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).

            "#]],
        );
        check(
            "select id from events",
            false,
            expect![[r#"
            Without WHERE and LIMIT it reads all of events: page it, or aggregate in the database. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).

        "#]],
        );
        check(
            "update accounts set balance = balance - $1 where id = $2",
            false,
            expect![[r#"
                Add an index on accounts (id) if there is none. It may wait for a lock that another transaction holds: look at `pg_stat_activity` (or its like) while it is slow, and keep transactions short. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).
                create index concurrently on accounts (id);
            "#]],
        );
        check(
            "select a.id from a join b on b.a = a.id where b.x = $1",
            false,
            expect![[r#"
                Run it with EXPLAIN (ANALYZE, BUFFERS) on data of production size and look for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.

            "#]],
        );
        check(
            "select count(*) from (select 1 from x where (a = 1 or b = 2)) y",
            false,
            expect![[r#"
                Run it with EXPLAIN (ANALYZE, BUFFERS) on data of production size and look for full scans of large tables, sorts that spill to disk and waiting for locks; then index, narrow or cache.

            "#]],
        );
        check(
            "select id from x where a in ($1, $2) and not b = $3 and c = any($4)",
            false,
            expect![[r#"
                Add an index on x (a, b, c) if there is none. These are candidates read off its text: check the plan with EXPLAIN (ANALYZE, BUFFERS).
                create index concurrently on x (a, b, c);
            "#]],
        );
    }
}
