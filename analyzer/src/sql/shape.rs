//! What a statement does and to which tables, read off its reduced tokens.

use super::StatementKind;
use super::lexer::{Dialect, Keyword, Kind, Token};
use super::print::print_token;

/// At most so many tables are named; further ones are left out. Nobody reads a longer list.
const TABLES_MAX: usize = 32;

/// Kind and tables. Of several statements the first that is more than session or transaction
/// keeping decides the kind: `set nocount on; insert …` is an insert.
pub(super) fn shape(
    text: &str,
    tokens: &[Token],
    dialect: Dialect,
) -> (StatementKind, Vec<String>) {
    let mut tables = Vec::new();
    let mut kind: Option<StatementKind> = None;
    for statement in tokens.split(|it| it.kind == Kind::Semicolon) {
        let mut reader = Reader::new(text, statement, dialect);
        reader.read_tables(&mut tables);
        let this = reader.kind(&tables);
        let is_keeping = |it| matches!(it, StatementKind::Transaction | StatementKind::Session);
        if kind.is_none_or(|first| is_keeping(first) && !is_keeping(this)) {
            kind = Some(this);
        }
    }
    (kind.unwrap_or(StatementKind::Other), tables)
}

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    dialect: Dialect,
    /// The first word, behind `explain` and brackets.
    verb: Verb,
    /// For `with`: what follows the common table expressions.
    main: Option<Keyword>,
    /// Names of common table expressions.
    expressions: Vec<&'a str>,
}

/// The first word of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Kind(StatementKind),
    /// What follows the common table expressions decides.
    With,
    /// A table follows at once: `truncate authors`, `copy authors from …`.
    Table(StatementKind),
}

/// What is open, from the innermost bracket outwards.
#[derive(Clone, Copy, Default)]
struct Level {
    /// A select, update, … stands here, so `from` names a table and is no part of `extract(… from …)`.
    has_statement: bool,
    /// In a list of tables: a comma begins the next one.
    in_from: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, tokens: &'a [Token], dialect: Dialect) -> Self {
        Reader {
            text,
            tokens,
            dialect,
            verb: verb(text, tokens),
            main: None,
            expressions: Vec::new(),
        }
    }

    fn read_tables(&mut self, tables: &mut Vec<String>) {
        let mut outer: Vec<Level> = Vec::new();
        let mut level = Level::default();
        let mut expects_table = matches!(self.verb, Verb::Table(_));
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            if expects_table && matches!(token.kind, Kind::Word | Kind::Quoted) {
                if self.stands_before_table(at) {
                    at += 1;
                    continue;
                }
                let end = self.name_end(at);
                if self.is_table(at, end) {
                    self.add_table(tables, at, end);
                }
                level.in_from = true;
                expects_table = false;
                at = end;
                continue;
            }
            match token.kind {
                Kind::OpenParen => {
                    level.in_from |= expects_table;
                    outer.push(std::mem::take(&mut level));
                }
                Kind::CloseParen => level = outer.pop().unwrap_or_default(),
                _ => {}
            }
            expects_table = match token.keyword {
                Keyword::None | Keyword::Reserved => token.kind == Kind::Comma && level.in_from,
                keyword => self.read_keyword(keyword, at, outer.is_empty(), &mut level),
            };
            at += 1;
        }
    }

    /// Whether a table follows `keyword`.
    fn read_keyword(
        &mut self,
        keyword: Keyword,
        at: usize,
        outermost: bool,
        level: &mut Level,
    ) -> bool {
        if keyword != Keyword::As {
            level.in_from = false;
        }
        let before = at.checked_sub(1).map(|it| &self.tokens[it]);
        match keyword {
            Keyword::Select | Keyword::Delete | Keyword::Insert | Keyword::Update => {
                let begins = !level.has_statement;
                level.has_statement = true;
                if outermost && begins {
                    self.main = self.main.or(Some(keyword));
                }
                keyword == Keyword::Update && begins
            }
            // `is distinct from` compares.
            Keyword::From => {
                level.has_statement && before.is_none_or(|it| it.keyword != Keyword::Distinct)
            }
            Keyword::Join | Keyword::Into => true,
            Keyword::Table | Keyword::On => self.verb == Verb::Kind(StatementKind::Ddl),
            Keyword::As if self.verb == Verb::With && !level.has_statement => {
                if let Some(name) = before.filter(|it| it.kind == Kind::Word) {
                    self.expressions.push(name.text(self.text));
                }
                false
            }
            _ => false,
        }
    }

    /// `if exists`, `only`, `lateral`: words between the keyword and the table's name.
    fn stands_before_table(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let words = [
            "if",
            "not",
            "exists",
            "only",
            "lateral",
            "ignore",
            "table",
            "into",
            "from",
            "low_priority",
            "truncate",
            "copy",
            "lock",
            "concurrently",
            "outer",
            "inner",
        ];
        let word = token.text(self.text);
        token.kind == Kind::Word && words.iter().any(|it| word.eq_ignore_ascii_case(it))
    }

    /// One past the last part of the dotted name that begins at `at`.
    fn name_end(&self, at: usize) -> usize {
        let mut end = at + 1;
        while let [dot, part, ..] = &self.tokens[end..]
            && dot.kind == Kind::Dot
            && matches!(part.kind, Kind::Word | Kind::Quoted)
        {
            end += 2;
        }
        end
    }

    fn is_table(&self, at: usize, end: usize) -> bool {
        let first = &self.tokens[at];
        let name = first.text(self.text);
        let after_into = at
            .checked_sub(1)
            .is_some_and(|it| self.tokens[it].keyword == Keyword::Into);
        let is_call = self
            .tokens
            .get(end)
            .is_some_and(|it| it.kind == Kind::OpenParen);
        let in_ddl = matches!(self.verb, Verb::Kind(StatementKind::Ddl) | Verb::Table(_));
        let is_keyword = !matches!(first.keyword, Keyword::None | Keyword::Reserved);
        let is_expression = end == at + 1
            && self
                .expressions
                .iter()
                .any(|it| it.eq_ignore_ascii_case(name));
        (!is_call || after_into || in_ddl) && !is_keyword && !is_expression
    }

    fn add_table(&self, tables: &mut Vec<String>, at: usize, end: usize) {
        let mut table = String::new();
        for token in &self.tokens[at..end] {
            print_token(&mut table, self.text, token, self.dialect);
        }
        if tables.len() < TABLES_MAX && !tables.contains(&table) {
            tables.push(table);
        }
    }

    fn kind(&self, tables: &[String]) -> StatementKind {
        match self.verb {
            Verb::Kind(StatementKind::Select) if self.asks_nothing(tables) => {
                StatementKind::Session
            }
            Verb::Kind(kind) | Verb::Table(kind) => kind,
            Verb::With => match self.main {
                Some(Keyword::Insert) => StatementKind::Insert,
                Some(Keyword::Update) => StatementKind::Update,
                Some(Keyword::Delete) => StatementKind::Delete,
                _ => StatementKind::Select,
            },
        }
    }

    /// `select 1`, `select version()`, `select @@session.tx_isolation`: a question to the session.
    fn asks_nothing(&self, tables: &[String]) -> bool {
        let no_table = tables.is_empty() || tables.iter().all(|it| it == "dual");
        no_table
            && self
                .tokens
                .iter()
                .enumerate()
                .all(|(at, _)| self.is_harmless(at))
    }

    fn is_harmless(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let is_alias = at > 0 && self.tokens[at - 1].keyword == Keyword::As;
        let word = token.text(self.text);
        let harmless = [
            "select",
            "as",
            "from",
            "dual",
            "version",
            "now",
            "current_timestamp",
            "current_date",
            "current_schema",
            "current_schemas",
            "current_database",
            "current_user",
            "session_user",
            "database",
            "schema",
            "user",
            "connection_id",
            "last_insert_id",
            "scope_identity",
            "lastval",
            "pg_backend_pid",
            "pg_is_in_recovery",
            // What drivers and pools set when they open a connection, and undo when they get it back.
            "pg_catalog",
            "set_config",
            "current_setting",
            "pg_advisory_unlock_all",
            "row_count",
            "true",
            "false",
            "null",
        ];
        match token.kind {
            Kind::Word => {
                is_alias
                    || word.starts_with("@@")
                    || at > 0 && self.tokens[at - 1].kind == Kind::Dot
                    || harmless.iter().any(|it| word.eq_ignore_ascii_case(it))
            }
            Kind::Quoted => is_alias,
            Kind::Value | Kind::OpenParen | Kind::CloseParen | Kind::Comma | Kind::Dot => true,
            _ => false,
        }
    }
}

/// The longest first word of [`verb`], bytes.
const VERB_LEN_MAX: usize = 12;

fn verb(text: &str, tokens: &[Token]) -> Verb {
    let is_word = |it: &&Token| it.kind == Kind::Word;
    let mut words = tokens.iter().filter(is_word).map(|it| it.text(text));
    let mut lower = [0; VERB_LEN_MAX];
    let first = lower_case(words.next().unwrap_or_default(), &mut lower);
    let second = words.next().unwrap_or_default();
    let second_is = |word: &str| second.eq_ignore_ascii_case(word);
    if first == b"explain" {
        return verb_behind_explain(text, tokens);
    }
    use StatementKind::*;
    Verb::Kind(match first {
        b"with" => return Verb::With,
        b"truncate" => return Verb::Table(Ddl),
        b"copy" | b"lock" => return Verb::Table(Other),
        b"select" | b"values" | b"table" => Select,
        b"insert" | b"replace" | b"upsert" => Insert,
        b"update" | b"merge" => Update,
        b"delete" => Delete,
        // Cassandra's `begin unlogged batch insert …`: what it holds.
        b"begin"
            if ["batch", "unlogged", "counter"]
                .iter()
                .any(|it| second_is(it)) =>
        {
            return verb_behind_explain(text, tokens);
        }
        b"begin" | b"start" | b"commit" | b"rollback" | b"savepoint" | b"release" | b"abort"
        | b"end" | b"xa" => Transaction,
        b"prepare" | b"save" if second_is("transaction") || second_is("tran") => Transaction,
        b"set" if second_is("transaction") || second_is("autocommit") => Transaction,
        b"set" | b"show" | b"use" | b"reset" | b"discard" | b"ping" | b"connect" | b"describe"
        | b"desc" | b"pragma" | b"kill" | b"prepare" | b"deallocate" | b"listen" | b"unlisten"
        | b"notify" | b"close" => Session,
        b"create" | b"alter" | b"drop" | b"rename" | b"comment" | b"grant" | b"revoke"
        | b"reindex" | b"vacuum" | b"analyze" | b"optimize" | b"refresh" | b"cluster" => Ddl,
        _ => Other,
    })
}

/// `explain (analyze, buffers) select …`: what is explained.
fn verb_behind_explain(text: &str, tokens: &[Token]) -> Verb {
    let statement = tokens.iter().position(|it| {
        use Keyword::*;
        matches!(it.keyword, Select | Insert | Update | Delete | With)
    });
    statement.map_or(Verb::Kind(StatementKind::Other), |at| {
        verb(text, &tokens[at..])
    })
}

fn lower_case<'a>(word: &str, buffer: &'a mut [u8; VERB_LEN_MAX]) -> &'a [u8] {
    let Some(lower) = buffer.get_mut(..word.len()) else {
        return &[];
    };
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    lower
}
