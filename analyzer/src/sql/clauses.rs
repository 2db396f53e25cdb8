//! What a normalised statement asks for: tables with their aliases, conditions, order, bounds.
//!
//! A reader over the lexer's tokens for whoever gives advice. It reads the outermost select, update or
//! delete, and what it does not understand it calls [`Term::Other`], or it reads nothing at all: half
//! statements, several statements, unions and common table expressions are `None`.

use super::lexer::{Dialect, Kind, Lexer, Token};
use super::print::print;
use super::{Fingerprint, StatementKind};

/// Parentheses and alternatives within each other are read to this depth; deeper ones are
/// [`Term::Other`]. Bounds the recursion.
const DEPTH_MAX: usize = 8;

/// Statements with more tokens are generated: nothing is said about them.
const TOKENS_MAX: usize = 2_000;

/// A statement in parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clauses {
    /// What is read or changed, in order.
    pub(crate) sources: Vec<Source>,
    /// What is selected: each item.
    pub(crate) selected: Vec<Expression>,
    /// What selected items are called, where that is another name.
    pub(crate) aliases: Vec<String>,
    /// The conditions of WHERE and of the joins, all of which must hold.
    pub(crate) terms: Vec<Term>,
    /// ORDER BY: each item, and whether it descends.
    pub(crate) order: Vec<(Expression, bool)>,
    /// It has GROUP BY, DISTINCT or an aggregate over everything.
    pub(crate) is_grouped: bool,
    /// It has LIMIT, FETCH FIRST or TOP.
    pub(crate) is_limited: bool,
    /// It has OFFSET.
    pub(crate) has_offset: bool,
    /// It locks the rows it reads.
    pub(crate) locks: bool,
}

/// Something in FROM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    /// The table as printed; `None` for a subquery or a function.
    pub(crate) table: Option<String>,
    /// What columns are qualified with.
    pub(crate) alias: String,
    /// It stands behind a comma or a join without a condition, and is not meant to be a product.
    pub(crate) is_unjoined: bool,
}

/// A column as it stands in the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Column {
    /// The table or its alias; empty if not said.
    pub(crate) qualifier: String,
    /// As printed, with quotes if it needs them.
    pub(crate) name: String,
}

/// What stands on one side of an operator, in a list or in the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// A column.
    Column(Column),
    /// Something with columns in it.
    Computed {
        /// As printed.
        text: String,
        /// The columns in it.
        columns: Vec<Column>,
        /// The function or `::` it begins or ends with: `lower`, `cast`; empty if it is neither.
        function: String,
    },
    /// Nothing of a table: values, and functions of them.
    Value(String),
    /// `*`
    All,
}

/// A condition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Term {
    /// `a = ?`, `a in (?)`, `a = any(?)`
    Equal {
        /// What is compared.
        left: Expression,
        /// It may have several values.
        several: bool,
    },
    /// `a < ?`, `a between ? and ?`
    Range(Expression),
    /// `a like ?`, `a ilike ?`
    Like(Expression),
    /// `a is null`
    IsNull(Column),
    /// `a`, `not a`, `a is true`
    Flag(Column),
    /// `a.x = b.y`
    Join(Column, Column),
    /// `a in (select …)`, `not in (select …)`
    Subquery {
        /// With NOT.
        negated: bool,
    },
    /// Alternatives.
    Or(Vec<Term>),
    /// Alternatives, one of which has several conditions, or anything that is not understood; with its
    /// columns.
    Other(Vec<Column>),
}

/// The parts of `statement`, whose sender is of `system`.
pub(crate) fn clauses(statement: &Fingerprint, system: &str) -> Option<Clauses> {
    if statement.truncated {
        return None;
    }
    let mut lexer = Lexer::new(&statement.text, Dialect::of(system));
    let mut tokens: Vec<Token> = Vec::new();
    while let Some(token) = lexer.next(tokens.last().map_or(&[], std::slice::from_ref)) {
        tokens.push(token);
        if tokens.len() > TOKENS_MAX {
            return None;
        }
    }
    let reader = Reader {
        text: &statement.text,
        dialect: lexer.dialect,
    };
    match statement.kind {
        StatementKind::Select => reader.select(&tokens),
        StatementKind::Update => reader.update(&tokens),
        StatementKind::Delete => reader.delete(&tokens),
        _ => None,
    }
}

struct Reader<'a> {
    text: &'a str,
    dialect: Dialect,
}

/// What begins a part of a statement.
const PARTS: &[&str] = &[
    "from",
    "where",
    "group",
    "having",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "window",
    "returning",
    "set",
    "using",
    "into",
    "qualify",
    "option",
    "allow",
    "lock",
    "settings",
];

/// Statements with one of these at the outermost level are several in one.
const SEVERAL: &[&str] = &[
    "union",
    "except",
    "intersect",
    "minus",
    "with",
    "select",
    "values",
];

impl Reader<'_> {
    fn select(&self, tokens: &[Token]) -> Option<Clauses> {
        let [first, rest @ ..] = tokens else {
            return None;
        };
        if !self.is(first, "select") {
            return None;
        }
        let parts = self.parts(rest)?;
        let mut clauses = Clauses::default();
        let selected = self.without_top(parts.first()?.1, &mut clauses);
        for item in split(selected, |it| it.kind == Kind::Comma) {
            clauses.aliases.extend(self.alias_of_item(item));
            clauses
                .selected
                .push(self.expression(self.without_alias(item)));
        }
        for (name, part) in &parts[1..] {
            match *name {
                "from" => self.from(part, &mut clauses)?,
                "where" => self.conditions(part, &mut clauses.terms),
                "group" | "having" => clauses.is_grouped = true,
                "order" => self.order(part, &mut clauses),
                "limit" => {
                    clauses.is_limited = true;
                    // MySQL's `limit ?, ?` and anybody's `limit ? offset ?`.
                    clauses.has_offset |= part.iter().any(|it| it.kind == Kind::Comma);
                }
                "fetch" => clauses.is_limited = true,
                "offset" => clauses.has_offset = true,
                "for" | "lock" => clauses.locks = true,
                _ => {}
            }
        }
        Some(clauses)
    }

    fn update(&self, tokens: &[Token]) -> Option<Clauses> {
        let [first, rest @ ..] = tokens else {
            return None;
        };
        let parts = self.parts(rest)?;
        // With FROM or joins the table that changes may be any of them.
        let only = ["", "set", "where", "returning", "order", "limit"];
        if !self.is(first, "update") || parts.iter().any(|it| !only.contains(&it.0)) {
            return None;
        }
        self.changed(&parts, parts.first()?.1)
    }

    fn delete(&self, tokens: &[Token]) -> Option<Clauses> {
        let [first, rest @ ..] = tokens else {
            return None;
        };
        let parts = self.parts(rest)?;
        let only = ["", "from", "where", "returning", "order", "limit"];
        let starts_so = parts.first()?.1.is_empty() && parts.get(1)?.0 == "from";
        if !self.is(first, "delete") || !starts_so || parts.iter().any(|it| !only.contains(&it.0)) {
            return None;
        }
        self.changed(&parts, parts.get(1)?.1)
    }

    fn changed(&self, parts: &[(&str, &[Token])], table: &[Token]) -> Option<Clauses> {
        let mut clauses = Clauses::default();
        self.from(table, &mut clauses)?;
        if clauses.sources.len() != 1 {
            return None;
        }
        for (name, part) in parts {
            match *name {
                "where" => self.conditions(part, &mut clauses.terms),
                "limit" => clauses.is_limited = true,
                _ => {}
            }
        }
        Some(clauses)
    }

    /// What stands between the outermost of [`PARTS`]; the first has no name.
    fn parts<'t>(&self, tokens: &'t [Token]) -> Option<Vec<(&str, &'t [Token])>> {
        let mut parts = Vec::new();
        let (mut name, mut begin, mut depth) = ("", 0, 0_usize);
        for (at, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::OpenParen | Kind::OpenBracket => depth += 1,
                Kind::CloseParen | Kind::CloseBracket => depth = depth.checked_sub(1)?,
                Kind::Semicolon => return None,
                Kind::Word if depth == 0 => {
                    let word = token.text(self.text);
                    let after_dot = at > 0 && tokens[at - 1].kind == Kind::Dot;
                    // `on conflict`, `is distinct from`.
                    let after_distinct = at > 0 && self.is(&tokens[at - 1], "distinct");
                    if SEVERAL.contains(&word) && !after_dot {
                        return None;
                    }
                    if PARTS.contains(&word)
                        && !after_dot
                        && !after_distinct
                        && !self.is_using_of_join(word, name)
                    {
                        parts.push((name, &tokens[begin..at]));
                        (name, begin) = (word, at + 1);
                    }
                }
                _ => {}
            }
        }
        parts.push((name, &tokens[begin..]));
        (depth == 0).then_some(parts)
    }

    /// `join b using (a_id)` stands within FROM.
    fn is_using_of_join(&self, word: &str, part: &str) -> bool {
        word == "using" && part == "from"
    }

    fn is(&self, token: &Token, word: &str) -> bool {
        token.kind == Kind::Word && token.text(self.text) == word
    }

    fn is_any(&self, token: &Token, words: &[&str]) -> bool {
        token.kind == Kind::Word && words.contains(&token.text(self.text))
    }

    fn printed(&self, tokens: &[Token]) -> String {
        print(self.text, tokens, self.dialect).0
    }

    /// `top (?)` and `distinct` before what is selected.
    fn without_top<'t>(&self, tokens: &'t [Token], clauses: &mut Clauses) -> &'t [Token] {
        let mut rest = tokens;
        while let [first, behind @ ..] = rest {
            if self.is_any(first, &["distinct", "all", "distinctrow"]) {
                clauses.is_grouped |= !self.is(first, "all");
                rest = behind;
                // Postgres' `distinct on (…)`.
                if let [on, list @ ..] = rest
                    && self.is(on, "on")
                {
                    rest = &list[closing(list).map_or(list.len(), |it| it + 1)..];
                }
            } else if self.is(first, "top") {
                clauses.is_limited = true;
                rest = match behind {
                    [open, ..] if open.kind == Kind::OpenParen => {
                        &behind[closing(behind).map_or(behind.len(), |it| it + 1)..]
                    }
                    [_, behind @ ..] => behind,
                    [] => behind,
                };
            } else {
                break;
            }
        }
        rest
    }

    /// The last word of an item that is more than a name.
    fn alias_of_item(&self, item: &[Token]) -> Option<String> {
        let [.., before, last] = item else {
            return None;
        };
        let is_alias = matches!(last.kind, Kind::Word | Kind::Quoted) && before.kind != Kind::Dot;
        is_alias.then(|| self.printed(std::slice::from_ref(last)))
    }

    fn without_alias<'t>(&self, item: &'t [Token]) -> &'t [Token] {
        match item {
            [before @ .., as_, _] if self.is(as_, "as") => before,
            _ => item,
        }
    }

    // FROM

    fn from(&self, tokens: &[Token], clauses: &mut Clauses) -> Option<()> {
        let mut rest = tokens;
        let mut is_unjoined = false;
        loop {
            let (source, behind) = self.source(rest, is_unjoined)?;
            clauses.sources.push(source);
            rest = self.join_condition(behind, clauses)?;
            let [first, behind @ ..] = rest else {
                return Some(());
            };
            let mut words = 0;
            if first.kind == Kind::Comma {
                rest = behind;
                is_unjoined = true;
                continue;
            }
            // `left outer join`, `cross join lateral`.
            let joins = [
                "left",
                "right",
                "full",
                "inner",
                "outer",
                "cross",
                "natural",
                "join",
                "lateral",
                "straight_join",
                "any",
                "all",
                "asof",
                "global",
            ];
            let mut on_purpose = false;
            while let Some(word) = rest.get(words)
                && self.is_any(word, &joins)
            {
                on_purpose |= self.is_any(word, &["cross", "natural", "lateral"]);
                words += 1;
            }
            let ends_in_join =
                words > 0 && self.is_any(&rest[words - 1], &["join", "straight_join", "lateral"]);
            if !ends_in_join {
                return None;
            }
            rest = &rest[words..];
            is_unjoined = !on_purpose;
        }
    }

    fn source<'t>(&self, tokens: &'t [Token], is_unjoined: bool) -> Option<(Source, &'t [Token])> {
        let mut rest = tokens;
        let mut is_lateral = false;
        while let [first, behind @ ..] = rest
            && self.is_any(first, &["only", "lateral"])
        {
            is_lateral |= self.is(first, "lateral");
            rest = behind;
        }
        let mut table = None;
        let mut last = String::new();
        match rest.first()?.kind {
            Kind::OpenParen => rest = &rest[closing(rest)? + 1..],
            Kind::Word | Kind::Quoted => {
                let end = name_end(rest);
                last = self.printed(&rest[end - 1..end]);
                let name = self.printed(&rest[..end]);
                rest = &rest[end..];
                match rest.first() {
                    // A function, or SQL Server's `with (nolock)` without its word.
                    Some(it) if it.kind == Kind::OpenParen => rest = &rest[closing(rest)? + 1..],
                    _ => table = Some(name),
                }
            }
            _ => return None,
        }
        let (alias, behind) = self.alias(rest);
        let source = Source {
            is_unjoined: is_unjoined && !is_lateral && table.is_some(),
            alias: alias.unwrap_or(last),
            table,
        };
        Some((source, behind))
    }

    fn alias<'t>(&self, tokens: &'t [Token]) -> (Option<String>, &'t [Token]) {
        let mut rest = tokens;
        if let [as_, behind @ ..] = rest
            && self.is(as_, "as")
        {
            rest = behind;
        }
        let no_aliases = [
            "on",
            "using",
            "join",
            "left",
            "right",
            "full",
            "inner",
            "outer",
            "cross",
            "natural",
            "lateral",
            "straight_join",
            "tablesample",
            "use",
            "force",
            "ignore",
            "final",
            "sample",
            "prewhere",
            "array",
            "global",
            "any",
            "asof",
        ];
        match rest {
            [name, behind @ ..]
                if matches!(name.kind, Kind::Word | Kind::Quoted)
                    && !self.is_any(name, &no_aliases) =>
            {
                let alias = self.printed(std::slice::from_ref(name));
                // Names of columns: `(values …) as v (a, b)`.
                match behind.first().map(|it| it.kind) {
                    Some(Kind::OpenParen) => {
                        let end = closing(behind).map_or(behind.len(), |it| it + 1);
                        (Some(alias), &behind[end..])
                    }
                    _ => (Some(alias), behind),
                }
            }
            _ => (None, rest),
        }
    }

    /// `on …` or `using (…)` behind a source.
    fn join_condition<'t>(
        &self,
        tokens: &'t [Token],
        clauses: &mut Clauses,
    ) -> Option<&'t [Token]> {
        let [first, rest @ ..] = tokens else {
            return Some(tokens);
        };
        if self.is(first, "using") {
            let end = closing(rest)?;
            let [.., left, right] = &clauses.sources[..] else {
                return None;
            };
            let (left, right) = (left.alias.clone(), right.alias.clone());
            for name in rest.get(1..end)?.iter().filter(|it| it.kind != Kind::Comma) {
                let of = |qualifier: &String| Column {
                    qualifier: qualifier.clone(),
                    name: self.printed(std::slice::from_ref(name)),
                };
                clauses.terms.push(Term::Join(of(&left), of(&right)));
            }
            clauses.sources.last_mut()?.is_unjoined = false;
            return Some(&rest[end + 1..]);
        }
        if !self.is(first, "on") {
            // Hints and what else there is: not understood.
            let goes_on = first.kind == Kind::Comma
                || self.is_any(
                    first,
                    &[
                        "left",
                        "right",
                        "full",
                        "inner",
                        "cross",
                        "natural",
                        "join",
                        "straight_join",
                    ],
                );
            return goes_on.then_some(tokens);
        }
        let mut depth = 0_usize;
        let joins = [
            "join",
            "left",
            "right",
            "full",
            "inner",
            "cross",
            "natural",
            "straight_join",
        ];
        let mut end = rest.len();
        for (at, token) in rest.iter().enumerate() {
            match token.kind {
                Kind::OpenParen => depth += 1,
                Kind::CloseParen => depth = depth.checked_sub(1)?,
                Kind::Comma if depth == 0 => {
                    end = at;
                    break;
                }
                // `left(name, ?)` is a function.
                Kind::Word
                    if depth == 0
                        && self.is_any(token, &joins)
                        && rest.get(at + 1).is_none_or(|it| it.kind != Kind::OpenParen) =>
                {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        self.conditions(&rest[..end], &mut clauses.terms);
        if let Some(last) = clauses.sources.last_mut() {
            last.is_unjoined = false;
        }
        Some(&rest[end..])
    }

    // ORDER BY

    fn order(&self, tokens: &[Token], clauses: &mut Clauses) {
        let [by, rest @ ..] = tokens else {
            return;
        };
        if !self.is(by, "by") {
            return;
        }
        for item in split(rest, |it| it.kind == Kind::Comma) {
            let mut item = item;
            let mut descends = false;
            while let [before @ .., last] = item
                && self.is_any(last, &["asc", "desc", "nulls", "first", "last"])
            {
                descends |= self.is(last, "desc");
                item = before;
            }
            clauses.order.push((self.expression(item), descends));
        }
    }

    // Conditions

    fn conditions(&self, tokens: &[Token], terms: &mut Vec<Term>) {
        self.all_of(tokens, 0, terms);
    }

    /// The conditions that AND holds together.
    fn all_of(&self, tokens: &[Token], depth: usize, terms: &mut Vec<Term>) {
        if depth > DEPTH_MAX {
            terms.push(Term::Other(self.columns(tokens)));
            return;
        }
        if split_words(self, tokens, "or").len() > 1 {
            terms.push(self.term(tokens, depth));
            return;
        }
        for part in split_words(self, tokens, "and") {
            match unwrapped(part) {
                Some(inner) => self.all_of(inner, depth + 1, terms),
                None => terms.push(self.term(part, depth)),
            }
        }
    }

    fn term(&self, tokens: &[Token], depth: usize) -> Term {
        let alternatives = split_words(self, tokens, "or");
        if alternatives.len() > 1 {
            return self.alternatives(&alternatives, depth);
        }
        if let [not, rest @ ..] = tokens
            && self.is(not, "not")
        {
            return match self.expression(rest) {
                Expression::Column(column) => Term::Flag(column),
                _ => Term::Other(self.columns(tokens)),
            };
        }
        if let Some(inner) = unwrapped(tokens) {
            let mut terms = Vec::new();
            self.all_of(inner, depth + 1, &mut terms);
            return match terms.len() {
                1 => terms.remove(0),
                _ => Term::Other(self.columns(tokens)),
            };
        }
        self.comparison(tokens)
            .unwrap_or_else(|| Term::Other(self.columns(tokens)))
    }

    fn alternatives(&self, parts: &[&[Token]], depth: usize) -> Term {
        let mut alternatives = Vec::new();
        for part in parts {
            let mut terms = Vec::new();
            self.all_of(part, depth + 1, &mut terms);
            match terms.len() {
                1 => alternatives.push(terms.remove(0)),
                _ => alternatives.push(Term::Other(self.columns(part))),
            }
        }
        Term::Or(alternatives)
    }

    fn comparison(&self, tokens: &[Token]) -> Option<Term> {
        let Some((at, operator)) = self.operator(tokens) else {
            return match self.expression(tokens) {
                Expression::Column(column) => Some(Term::Flag(column)),
                _ => None,
            };
        };
        let negated = at > 0 && self.is(&tokens[at - 1], "not");
        let left = self.expression(&tokens[..at - usize::from(negated)]);
        let right = &tokens[at + 1..];
        let is_subquery = right.len() > 1
            && right[0].kind == Kind::OpenParen
            && self.is_any(&right[1], &["select", "with"]);
        if operator == "in" && is_subquery {
            return Some(Term::Subquery { negated });
        }
        if negated {
            return None;
        }
        if operator == "is" {
            return self.is_term(left, right);
        }
        if operator == "between" {
            return Some(Term::Range(left)).filter(|_| self.columns(right).is_empty());
        }
        let right = self.expression(right);
        match (operator, left, right) {
            ("=" | "==", Expression::Column(left), Expression::Column(right)) => {
                Some(Term::Join(left, right))
            }
            ("=" | "==" | "in" | "<=>", left, Expression::Value(value)) => {
                let several = operator == "in" || value.starts_with("any(");
                Some(Term::Equal { left, several })
            }
            ("=" | "==", Expression::Value(value), right) => Some(Term::Equal {
                left: right,
                several: value.starts_with("any("),
            }),
            ("<" | ">" | "<=" | ">=", left, Expression::Value(_)) => Some(Term::Range(left)),
            ("<" | ">" | "<=" | ">=", Expression::Value(_), right) => Some(Term::Range(right)),
            ("like" | "ilike", left, Expression::Value(_)) => Some(Term::Like(left)),
            _ => None,
        }
    }

    /// `is null`, `is true`; nothing else can be said.
    fn is_term(&self, left: Expression, right: &[Token]) -> Option<Term> {
        let Expression::Column(column) = left else {
            return None;
        };
        match right {
            [null] if self.is(null, "null") => Some(Term::IsNull(column)),
            [flag] if self.is_any(flag, &["true", "false"]) => Some(Term::Flag(column)),
            _ => None,
        }
    }

    /// The one comparison of `tokens`, outside of parentheses.
    fn operator<'t>(&'t self, tokens: &[Token]) -> Option<(usize, &'t str)> {
        let mut found = None;
        let mut depth = 0_usize;
        for (at, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::OpenParen | Kind::OpenBracket => depth += 1,
                Kind::CloseParen | Kind::CloseBracket => depth = depth.saturating_sub(1),
                Kind::Op | Kind::Word if depth == 0 => {
                    let text = token.text(self.text);
                    let operators = [
                        "=", "==", "<=>", "<", ">", "<=", ">=", "<>", "!=", "in", "like", "ilike",
                        "between", "is", "~", "~*", "!~", "!~*", "@>", "<@", "@@", "&&", "regexp",
                        "rlike", "similar", "glob", "match", "exists",
                    ];
                    if operators.contains(&text) {
                        if found.is_some() {
                            return None;
                        }
                        found = Some((at, text));
                    }
                }
                _ => {}
            }
        }
        found.filter(|it| it.0 > 0)
    }

    fn expression(&self, tokens: &[Token]) -> Expression {
        let tokens = unwrapped(tokens).unwrap_or(tokens);
        if let [.., last] = tokens
            && last.kind == Kind::Op
            && last.text(self.text) == "*"
            && (tokens.len() == 1 || tokens[tokens.len() - 2].kind == Kind::Dot)
        {
            return Expression::All;
        }
        let columns = self.columns(tokens);
        let is_column = !tokens.is_empty()
            && matches!(tokens[0].kind, Kind::Word | Kind::Quoted)
            && name_end(tokens) == tokens.len();
        match (columns.first(), is_column) {
            (Some(column), true) => Expression::Column(column.clone()),
            (None, _) => Expression::Value(self.printed(tokens)),
            (Some(_), false) => Expression::Computed {
                text: self.printed(tokens),
                function: self.function(tokens),
                columns,
            },
        }
    }

    /// `lower(…)` as a whole, or what is cast by `::`.
    fn function(&self, tokens: &[Token]) -> String {
        if tokens.iter().any(|it| it.kind == Kind::Cast) {
            return "cast".into();
        }
        let [name, rest @ ..] = tokens else {
            return String::new();
        };
        let is_whole = rest.first().is_some_and(|it| it.kind == Kind::OpenParen)
            && closing(rest) == Some(rest.len() - 1);
        match is_whole && name.kind == Kind::Word {
            true => name.text(self.text).to_owned(),
            false => String::new(),
        }
    }

    /// The columns in an expression. A subquery has columns of its own, which are not told from others.
    fn columns(&self, tokens: &[Token]) -> Vec<Column> {
        let mut columns = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if !matches!(token.kind, Kind::Word | Kind::Quoted) {
                at += 1;
                continue;
            }
            let end = at + name_end(&tokens[at..]);
            let is_call = tokens.get(end).is_some_and(|it| it.kind == Kind::OpenParen);
            let is_type =
                at > 0 && (tokens[at - 1].kind == Kind::Cast || self.is(&tokens[at - 1], "as"));
            let is_column = !is_call && !is_type && (end > at + 1 || self.may_be_column(token));
            if is_column {
                let qualifier = match end > at + 2 {
                    true => self.printed(&tokens[end - 3..end - 2]),
                    false => String::new(),
                };
                columns.push(Column {
                    qualifier,
                    name: self.printed(&tokens[end - 1..end]),
                });
            }
            at = end;
        }
        columns
    }

    /// Words without a meaning of their own.
    fn may_be_column(&self, token: &Token) -> bool {
        use super::lexer::Keyword;
        let no_columns = [
            "null",
            "true",
            "false",
            "current_timestamp",
            "current_date",
            "current_time",
            "localtimestamp",
            "localtime",
            "sysdate",
            "systimestamp",
            "current_user",
            "session_user",
            "interval",
            "date",
            "timestamp",
            "timestamptz",
            "time",
            "zone",
            "asc",
            "desc",
            "any",
            "all",
            "some",
            "year",
            "month",
            "day",
            "hour",
            "minute",
            "second",
            "collate",
            "escape",
            "binary",
            "at",
            "default",
            "separator",
            "end",
            "days",
            "hours",
            "minutes",
            "seconds",
            "months",
            "years",
            "week",
            "weeks",
            "from",
            "distinct",
            "exists",
            "row",
            "array",
            "cast",
            "similar",
            "symmetric",
        ];
        token.kind == Kind::Quoted
            || matches!(token.keyword, Keyword::None | Keyword::Reserved)
                && !self.is_any(token, &no_columns)
                && !token.text(self.text).starts_with("@@")
    }
}

/// One past the last part of the dotted name that begins `tokens`.
fn name_end(tokens: &[Token]) -> usize {
    let mut end = 1;
    while let Some([dot, part]) = tokens.get(end..end + 2)
        && dot.kind == Kind::Dot
        && matches!(part.kind, Kind::Word | Kind::Quoted)
    {
        end += 2;
    }
    end
}

/// Where the parenthesis that begins `tokens` closes.
fn closing(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::OpenParen => depth += 1,
            Kind::CloseParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then_some(at);
        }
    }
    None
}

/// What stands within parentheses that hold all of `tokens`.
fn unwrapped(tokens: &[Token]) -> Option<&[Token]> {
    let is_wrapped =
        tokens.first()?.kind == Kind::OpenParen && closing(tokens)? == tokens.len() - 1;
    is_wrapped.then(|| &tokens[1..tokens.len() - 1])
}

/// The pieces between outermost separators.
fn split(tokens: &[Token], is_separator: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
    let mut pieces = Vec::new();
    let (mut begin, mut depth) = (0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.saturating_sub(1),
            _ if depth == 0 && is_separator(token) => {
                pieces.push(&tokens[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&tokens[begin..]);
    pieces
}

/// The pieces between outermost `word`s; the AND of BETWEEN and what stands in CASE separate nothing.
fn split_words<'t>(reader: &Reader<'_>, tokens: &'t [Token], word: &str) -> Vec<&'t [Token]> {
    let mut pieces = Vec::new();
    let (mut begin, mut depth, mut between, mut cases) = (0, 0_usize, false, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 => {
                if reader.is(token, "case") {
                    cases += 1;
                } else if reader.is(token, "end") {
                    cases = cases.saturating_sub(1);
                } else if reader.is(token, "between") {
                    between = true;
                } else if reader.is(token, "and") && std::mem::take(&mut between) {
                    continue;
                } else if cases == 0 && reader.is(token, word) {
                    pieces.push(&tokens[begin..at]);
                    begin = at + 1;
                }
            }
            _ => {}
        }
    }
    pieces.push(&tokens[begin..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::fingerprint;
    use expect_test::{Expect, expect};

    fn check(statements: &[&str], expected: Expect) {
        let lines = statements.iter().map(|it| {
            let statement = fingerprint(it, "postgresql");
            match clauses(&statement, "postgresql") {
                Some(clauses) => describe(&clauses),
                None => "nothing\n".to_owned(),
            }
        });
        expected.assert_eq(&lines.collect::<String>());
    }

    fn describe(clauses: &Clauses) -> String {
        let sources = clauses.sources.iter().map(|it| {
            let table = it.table.as_deref().unwrap_or("(…)");
            format!(
                "{table} {}{}",
                it.alias,
                if it.is_unjoined { " unjoined" } else { "" }
            )
        });
        let sources = sources.collect::<Vec<_>>().join(", ");
        let terms = clauses
            .terms
            .iter()
            .map(term)
            .collect::<Vec<_>>()
            .join("; ");
        let order = clauses
            .order
            .iter()
            .map(|(it, desc)| format!("{}{}", expression(it), if *desc { " desc" } else { "" }));
        let order = order.collect::<Vec<_>>().join(", ");
        let selected = clauses
            .selected
            .iter()
            .map(expression)
            .collect::<Vec<_>>()
            .join(", ");
        let mut line = format!("{selected} | {sources} | {terms} | {order}");
        for (flag, on) in [
            ("grouped", clauses.is_grouped),
            ("limited", clauses.is_limited),
            ("offset", clauses.has_offset),
            ("locks", clauses.locks),
        ] {
            if on {
                line = format!("{line} +{flag}");
            }
        }
        line + "\n"
    }

    fn term(term: &Term) -> String {
        match term {
            Term::Equal { left, several } => {
                format!("{} {}", expression(left), if *several { "in" } else { "=" })
            }
            Term::Range(it) => format!("{} range", expression(it)),
            Term::Like(it) => format!("{} like", expression(it)),
            Term::IsNull(it) => format!("{} null", column(it)),
            Term::Flag(it) => format!("{} flag", column(it)),
            Term::Join(a, b) => format!("{} = {}", column(a), column(b)),
            Term::Subquery { negated } => format!("subquery{}", if *negated { " not" } else { "" }),
            Term::Or(terms) => format!(
                "({})",
                terms
                    .iter()
                    .map(self::term)
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
            Term::Other(columns) => {
                format!(
                    "other[{}]",
                    columns.iter().map(column).collect::<Vec<_>>().join(" ")
                )
            }
        }
    }

    fn expression(it: &Expression) -> String {
        match it {
            Expression::Column(it) => column(it),
            Expression::Computed {
                text,
                columns,
                function,
            } => {
                let columns = columns.iter().map(column).collect::<Vec<_>>().join(" ");
                format!("<{text}: {columns} by {function}>")
            }
            Expression::Value(it) => it.clone(),
            Expression::All => "*".into(),
        }
    }

    fn column(it: &Column) -> String {
        match it.qualifier.is_empty() {
            true => it.name.clone(),
            false => format!("{}.{}", it.qualifier, it.name),
        }
    }

    #[test]
    fn what_a_statement_asks_for() {
        check(
            &[
                "select id, name as n from products p where sku = $1 and price > $2 order by created_at desc, id limit 20 offset 40",
                "select o.*, c.name from shop.orders o left join customers c on c.id = o.customer_id and c.kind = 'x' where (o.total between 1 and 5) and o.\"State\" in (1,2) for update",
                "select a from t where (x = 1 or y = 2) and not done and gone is null and lower(name) = 'a' and created::date = current_date",
                "select count(*) from a, b, c where a.x = b.x",
                "select a from t join u using (id, k) cross join v join w on true",
                "select a from t where x not in (select y from u) and z in (select 1) and b <> 5 and c between d and e",
                "select a from t where 5 < x and y = any($1) and z = now() - interval '1 day' and t.q is not null",
                "select distinct on (a) a, b from only t order by a",
                "select * from (select a from t where b = 1) s join lateral (select * from u where u.x = s.a) l on true where s.a = 1",
                "select * from generate_series(1, 10) g where g > 5",
                "select t.name from t where t.name ilike $1 or t.name ilike $2 or t.x = 1 and t.y = 2",
                "update accounts a set balance = balance - $1 where a.owner = $2",
                "delete from sessions where expires_at < now()",
                "select case when a = 1 and b = 2 then 1 else 2 end from t where case when x or y then z else w end = 1",
                "select a from t where date_trunc('day', at) = $1 and extract(year from b) = 2 and data->>'k' = 'x' and cast(c as text) = '1'",
                "select a from t where exists (select 1 from u where u.t = t.id) and x is true",
                "select a from t where a.b.c = 1 order by lower(name) desc nulls last, random()",
            ],
            expect![[r#"
                id, name | products p | sku =; price range | created_at desc, id +limited +offset
                *, c.name | shop.orders o, customers c | c.id = o.customer_id; c.kind =; o.total range; o."State" in |  +locks
                a | t t | (x = or y =); done flag; gone null; <lower(name): name by lower> =; <created::date: created by cast> = | 
                count(*) | a a, b b unjoined, c c unjoined | a.x = b.x | 
                a | t t, u u, v v, w w | t.id = u.id; t.k = u.k; other[] | 
                a | t t | subquery not; subquery; other[b]; other[c d e] | 
                a | t t | x range; y in; z =; other[t.q] | 
                a, b | t t |  | a +grouped
                * | (…) s, (…) l | other[]; s.a = | 
                * | (…) g | g range | 
                t.name | t t | (t.name like or t.name like or other[t.x t.y]) | 
                 | accounts a | a.owner = | 
                 | sessions sessions | expires_at range | 
                <case when a = ? and b = ? then ? else ? end: a b by > | t t | <case when x or y then z else w end: x y z w by > = | 
                a | t t | date_trunc(?, at) =; <extract(year from b): b by extract> =; <data ->> ?: data by > =; <cast(c as text): c by cast> = | 
                a | t t | other[u u.t t.id]; x flag | 
                a | t t | b.c = | <lower(name): name by lower> desc, random()
            "#]],
        );
    }

    #[test]
    fn what_is_not_understood_is_not_read() {
        check(
            &[
                "with x as (select 1) select * from x",
                "select a from t union all select b from u",
                "select a from t; select b from u",
                "update a set x = b.x from b where a.id = b.id",
                "delete from a using b where a.x = b.x",
                "insert into t values (1)",
                "select a from t where (b = 1",
                "select a from t where b = 'half",
                "select",
                "begin",
                "(select a from t)",
                "select a from t tablesample system (1) where b = 1",
            ],
            expect![[r#"
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
                nothing
            "#]],
        );
    }
}
