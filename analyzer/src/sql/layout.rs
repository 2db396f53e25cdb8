//! A statement on several lines, for people.
//!
//! ```text
//! select a.id, count(*)
//! from authors a
//!   join comments c on c.author_id = a.id
//! where a.id = ?
//!   and c.body like ?
//! group by a.id
//! ```
//!
//! Only white space changes: what stands between tokens (quotes, comments) is copied as it came, so a
//! statement laid out is still the same statement, in any dialect, cut off or not.

use super::lexer::{Dialect, Keyword, Kind, Lexer, Token};
use super::{INPUT_MAX, json, key_value};

/// A statement that fits is left on one line, characters.
const LINE_CHARS: usize = 72;

/// Two spaces for each level: deeper subqueries stand below each other.
const INDENT_MAX: usize = 8;

/// `text` with line breaks before its clauses. Commands that are no SQL come back as they are; so does what
/// is behind the first 64 KiB.
pub fn laid_out(text: &str, system: &str) -> String {
    let (input, rest) = text.split_at(text.floor_char_boundary(INPUT_MAX));
    if key_value::is_key_value(system) || json::fingerprint(input, system).is_some() {
        return text.to_owned();
    }
    let mut lexer = Lexer::new(input, Dialect::of(system));
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next(&tokens) {
        tokens.push(token);
    }
    let fits = input.chars().nth(LINE_CHARS).is_none();
    let mut printer = Printer {
        text: input,
        out: String::with_capacity(input.len() + 64),
        line_chars: 0,
        fits,
    };
    printer.print(&tokens);
    printer.out + rest
}

struct Printer<'t> {
    text: &'t str,
    out: String,
    line_chars: usize,
    fits: bool,
}

/// What an open parenthesis holds.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    /// Arguments, a list, a condition: stays on its line.
    Inline,
    /// A query of its own: its clauses have lines.
    Query,
}

impl Printer<'_> {
    fn print(&mut self, tokens: &[Token]) {
        let mut open: Vec<Open> = Vec::new();
        let mut between = false;
        let mut end = 0;
        for (at, token) in tokens.iter().enumerate() {
            let queries = open.iter().filter(|it| **it == Open::Query).count();
            let inline = open.last() == Some(&Open::Inline);
            let word = self.word(token);
            between |= word == "between";
            let mut line = None;
            match token.kind {
                Kind::Word if !inline => {
                    line = self.clause(tokens, at, &mut between).map(|it| it + queries);
                }
                Kind::CloseParen if open.last() == Some(&Open::Query) => line = Some(queries - 1),
                _ => {}
            }
            let after_comma = at > 0 && tokens[at - 1].kind == Kind::Comma && !inline;
            if line.is_none() && after_comma && self.line_chars > LINE_CHARS {
                line = Some(queries + 1);
            }
            if at > 0 && tokens[at - 1].kind == Kind::OpenParen && open.last() == Some(&Open::Query)
            {
                line = Some(queries);
            }
            self.gap(
                end,
                token.start as usize,
                line.filter(|_| !self.fits && at > 0),
            );
            self.push(token.text(self.text));
            end = token.end as usize;
            match token.kind {
                Kind::OpenParen => open.push(match tokens.get(at + 1) {
                    Some(it)
                        if !self.fits && matches!(self.word(it).as_str(), "select" | "with") =>
                    {
                        Open::Query
                    }
                    _ => Open::Inline,
                }),
                Kind::CloseParen => drop(open.pop()),
                _ => {}
            }
        }
        self.gap(end, self.text.len(), None);
        self.out.truncate(self.out.trim_end().len());
    }

    fn word(&self, token: &Token) -> String {
        match token.kind {
            Kind::Word => token.text(self.text).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    /// The indentation, in levels, of the line that begins with the word at `at`; `None` if none does.
    fn clause(&self, tokens: &[Token], at: usize, between: &mut bool) -> Option<usize> {
        let word = |at: usize| tokens.get(at).map(|it| self.word(it)).unwrap_or_default();
        let before = at.checked_sub(1).map(word).unwrap_or_default();
        let joins = |from: usize| (from..from + 3).any(|it| word(it) == "join");
        // `a.order`, `as "values"`: a name, not a clause.
        let is_name = at > 0 && (tokens[at - 1].kind == Kind::Dot || before == "as");
        if is_name {
            return None;
        }
        match word(at).as_str() {
            "and" if *between => {
                *between = false;
                None
            }
            "and" | "or" => Some(1),
            "left" | "right" | "inner" | "full" | "cross" | "natural" if joins(at + 1) => Some(1),
            "join" => {
                let kinds = [
                    "left", "right", "inner", "full", "cross", "natural", "outer", "lateral",
                ];
                (!kinds.contains(&before.as_str())).then_some(1)
            }
            "select" | "where" | "having" | "limit" | "offset" | "union" | "intersect"
            | "except" | "values" | "returning" => Some(0),
            // Not `delete from`, `extract(year from …)` is inline anyway, nor `is distinct from`.
            "from" => (!["delete", "distinct"].contains(&before.as_str())).then_some(0),
            "group" | "order" => (word(at + 1) == "by").then_some(0),
            "set" => (tokens[0].keyword == Keyword::Update).then_some(0),
            "on" => (word(at + 1) == "conflict" || word(at + 1) == "duplicate").then_some(0),
            _ => None,
        }
    }

    /// What stands between two tokens: white space becomes one space or a new line, the rest is copied.
    fn gap(&mut self, from: usize, to: usize, line: Option<usize>) {
        let gap = &self.text[from..to];
        let core = gap.trim();
        if core.is_empty() {
            match line {
                Some(indent) => self.new_line(indent),
                None if !gap.is_empty() && !self.out.is_empty() => self.push(" "),
                None => {}
            }
            return;
        }
        let before = gap.starts_with(char::is_whitespace);
        let after = gap.ends_with(char::is_whitespace);
        // A quote that opens belongs to the token behind it, one that closes to the token before.
        match line {
            Some(indent) if !after => self.new_line(indent),
            _ if before && !self.out.is_empty() => self.push(" "),
            _ => {}
        }
        self.push(core);
        let ends_line = core.contains("--") || core.contains('#');
        match line {
            Some(indent) if after => self.new_line(indent),
            _ if after && ends_line => self.new_line(1),
            _ if after => self.push(" "),
            _ => {}
        }
    }

    fn new_line(&mut self, indent: usize) {
        self.out.truncate(self.out.trim_end_matches(' ').len());
        self.out.push('\n');
        self.out
            .extend(std::iter::repeat_n("  ", indent.min(INDENT_MAX)));
        self.line_chars = 2 * indent.min(INDENT_MAX);
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.line_chars += text.chars().count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&laid_out(text, "postgresql"));
    }

    #[test]
    fn clauses_begin_lines() {
        check(
            "select a.id, a.name, count(c.id) as comments from authors a left join comments c on \
             c.author_id = a.id and c.spam = ? where a.id = ? and c.at between ? and ? \
             group by a.id order by a.name limit 10",
            expect![[r#"
                select a.id, a.name, count(c.id) as comments
                from authors a
                  left join comments c on c.author_id = a.id
                  and c.spam = ?
                where a.id = ?
                  and c.at between ? and ?
                group by a.id
                order by a.name
                limit 10"#]],
        );
    }

    #[test]
    fn subqueries_are_indented_and_lists_stay() {
        check(
            "SELECT * FROM orders WHERE id IN (SELECT order_id FROM items WHERE sku IN ('a', 'b')) \
             AND \"Group\".\"order\" = 'from where' -- the end\nLIMIT 5",
            expect![[r#"
                SELECT *
                FROM orders
                WHERE id IN (
                  SELECT order_id
                  FROM items
                  WHERE sku IN ('a', 'b')
                )
                  AND "Group"."order" = 'from where' -- the end
                LIMIT 5"#]],
        );
    }

    #[test]
    fn what_is_short_or_no_sql_stays() {
        check("select  *\n from t", expect!["select * from t"]);
        assert_eq!(laid_out("GET  user:1", "redis"), "GET  user:1");
        let document =
            r#"{"find":  "posts", "filter": {"author": "?"}, "sort": {"_id": -1}, "limit": 100}"#;
        assert_eq!(laid_out(document, "mongodb"), document);
    }

    #[test]
    fn only_white_space_changes() {
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        for text in [
            "insert into t (a, b, c) values (1, 'x  y', $$ from $$), (2, null, E'\\'') on conflict (a) do update set b = excluded.b returning id",
            "update \"T\" set a = (select max(x) from u where u.id = \"T\".id), b = b + 1 where c = any(array[1, 2]) or d is null",
            "select /* from */ 1, [order] from `a``b` where x = N'union' -- select\n and y = 'it''s' union all select 2",
            "select 'never closed and so on and so on and so on and so on and so on and so on",
            "((((((((((((select select select from from from ,,,,,,,)))))))) \u{202e} … \"",
            "with recursive t as (select 1 union all select n + 1 from t where n < 9) select * from t, lateral (select 2) x",
        ] {
            for system in ["postgresql", "mysql", "mssql", "oracle", "sqlite", ""] {
                assert_eq!(
                    dense(&laid_out(text, system)),
                    dense(text),
                    "{system}: {text}"
                );
            }
        }
    }
}
