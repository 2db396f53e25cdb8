//! A normalised statement as Postgres can be asked for its plan: `?` become `$1`, `$2`, …

use super::lexer::{Dialect, Kind, Lexer, Token};
use super::{Fingerprint, StatementKind};

/// The statement with numbered placeholders, or why it cannot be explained, as a sentence.
///
/// Only single selects that change nothing: the text comes from strangers and goes to a database that
/// matters.
///
/// # Errors
/// It is no such statement, or it is cut off.
pub fn explainable(text: &str) -> Result<String, &'static str> {
    let statement = super::fingerprint(text, "postgresql");
    if statement.truncated || text.len() >= Fingerprint::TEXT_MAX {
        return Err("The statement is cut off, so that it cannot be explained.");
    }
    if statement.kind != StatementKind::Select || statement.text != text {
        return Err("Only selects are explained.");
    }
    let mut lexer = Lexer::new(text, Dialect::Postgres);
    let mut tokens: Vec<Token> = Vec::new();
    while let Some(token) = lexer.next(tokens.last().map_or(&[], std::slice::from_ref)) {
        tokens.push(token);
    }
    let is_select = tokens
        .iter()
        .find(|it| it.kind != Kind::OpenParen)
        .is_some_and(|it| ["select", "with", "values", "table"].contains(&it.text(text)));
    if !is_select || tokens.iter().any(|it| it.kind == Kind::Semicolon) {
        return Err("Only single selects are explained.");
    }
    if changes_something(text, &tokens) {
        return Err("The statement changes something, so that it is not explained.");
    }
    Ok(numbered(text, &tokens))
}

/// A common table expression may write, and INTO makes a table. `for update` only locks.
fn changes_something(text: &str, tokens: &[Token]) -> bool {
    let words = [
        "insert", "update", "delete", "merge", "into", "call", "copy",
    ];
    tokens.iter().enumerate().any(|(at, token)| {
        let before = at.checked_sub(1).map(|it| &tokens[it]);
        let is_lock = before.is_some_and(|it| ["for", "key"].contains(&it.text(text)));
        let is_name = before.is_some_and(|it| it.kind == Kind::Dot);
        token.kind == Kind::Word && words.contains(&token.text(text)) && !is_lock && !is_name
    })
}

/// Types before whose literals stand as `interval ?`: a placeholder takes the type behind it.
const TYPES: &[&str] = &["interval", "date", "timestamp", "timestamptz", "time"];

fn numbered(text: &str, tokens: &[Token]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut copied, mut number) = (0, 0);
    // `data ? ?`: the first is an operator, since an operand stands before it.
    let mut after_operand = false;
    for (at, token) in tokens.iter().enumerate() {
        let begin = token.start as usize;
        let is_mark = token.kind == Kind::Value;
        let before = at.checked_sub(1).map(|it| tokens[it].text(text));
        let typed = before.filter(|it| is_mark && TYPES.contains(it));
        if is_mark && (!after_operand || typed.is_some()) {
            number += 1;
            out.push_str(&text[copied..begin]);
            if let Some(name) = typed {
                out.truncate(out.trim_end().len() - name.len());
                out += &format!("${number}::{name}");
            } else {
                out += &format!("${number}");
            }
            copied = token.end as usize;
            after_operand = true;
        } else {
            after_operand = !is_mark && token.is_operand();
        }
    }
    out.push_str(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn placeholders_are_numbered() {
        let statements = [
            "select a from t where b = 1 and c in (1, 2, 3) limit 5",
            "select a from t where at > now() - interval '1 day' and d = date '2024-01-01'",
            "select a from t where data ? 'k' and tags ?| array['x'] and b = 1",
            "with x as (select 1 as y) select * from x for update",
            "(select a from t) union (select b from u where c = 2)",
            "select u.\"Id\" from \"Users\" u where u.\"Name\" ilike '%x%' order by 1",
        ];
        let lines = statements.map(|it| {
            let normalised = super::super::fingerprint(it, "postgresql").text;
            explainable(&normalised).unwrap_or_else(|it| it.to_owned())
        });
        expect![[r#"
            select a from t where b = $1 and c in ($2) limit $3
            select a from t where at > now() - $1::interval and d = $2::date
            select a from t where data ? $1 and tags ?| array[$2] and b = $3
            with x as (select $1 as y) select * from x for update
            (select a from t) union (select b from u where c = $1)
            select u."Id" from "Users" u where u."Name" ilike $1 order by $2"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn what_is_no_select_or_might_change_something_is_not_explained() {
        let statements = [
            "delete from t where a = ?",
            "select a from t; drop table t",
            "with gone as (delete from t returning *) select * from gone",
            "with new as (insert into t values (?) returning *) select * from new",
            "select a into u from t",
            "explain select a from t",
            "select a from t where (b = ?",
            "begin",
            "select ?",
            "{\"find\": \"users\"}",
            "get user:?",
            "SELECT a FROM t WHERE b = 'secret'",
            "create table x as select ?",
            "",
        ];
        for statement in statements {
            assert!(explainable(statement).is_err(), "{statement}");
        }
    }
}
