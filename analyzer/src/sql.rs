//! Statement → fingerprint.
//!
//! The fingerprint of a statement is its text without what differs from call to call: literals
//! and placeholders become `?`, lists of them one `?`, comments and layout go, keywords and bare
//! identifiers are lower case. Literals hold secrets, so nothing of a statement is shown, stored in
//! a text column or alerted before it went through here.
//!
//! Three steps, one file each: [`lexer`] bytes → tokens, [`reduce`] tokens → fewer tokens,
//! [`print`] tokens → text; [`shape`] reads kind and tables off the reduced tokens. Commands that
//! are no SQL have [`key_value`] and [`json`].
//!
//! None of it parses: a lexer is enough, is quick, and never fails on a dialect, a half statement or
//! nonsense. Fingerprints are idempotent: the fingerprint of a fingerprint's text has the same text.

pub(crate) mod clauses;
mod explainable;
mod json;
mod key_value;
mod layout;
mod lexer;
mod print;
mod reduce;
mod shape;
mod values;

pub use explainable::explainable;
pub use layout::laid_out;
use lexer::{Dialect, Lexer};
pub(crate) use values::{Place, Slot, slots};

/// What a statement is, without its literals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Normalised text on one line: literals replaced by `?`, lists collapsed, comments gone.
    /// At most [`Fingerprint::TEXT_MAX`] bytes.
    pub text: String,
    /// Select, insert, …
    pub kind: StatementKind,
    /// Tables named, in order of appearance, each once, as they stand in the text:
    /// `public."Order"`. Common table expressions and functions are no tables.
    pub tables: Vec<String>,
    /// It held literals (so the sender does not sanitise).
    pub had_literals: bool,
    /// It held placeholders.
    pub had_placeholders: bool,
    /// Its sender cut it off (or it is longer than what is kept).
    pub truncated: bool,
    /// The longest IN, VALUES or ARRAY list as sent; 0 without one. A sender that collapses lists
    /// itself makes it 1.
    pub in_list_len: u32,
}

/// What a statement does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StatementKind {
    /// Reads rows.
    Select,
    /// Adds rows.
    Insert,
    /// Changes rows.
    Update,
    /// Removes rows.
    Delete,
    /// BEGIN, COMMIT, SAVEPOINT, …
    Transaction,
    /// SET, SHOW, `SELECT 1`, ping, …
    Session,
    /// CREATE, ALTER, DROP, …
    Ddl,
    /// Anything else.
    Other,
}

/// How much of a statement is read, bytes. Longer ones are bulk inserts and generated lists whose
/// beginning says everything; the rest is ignored and the fingerprint says `truncated`.
const INPUT_MAX: usize = 64 * 1024;

/// The fingerprint of `text`. `system` is `db.system.name` (or the old `db.system`), empty if unknown.
pub fn fingerprint(text: &str, system: &str) -> Fingerprint {
    let input = &text[..text.floor_char_boundary(INPUT_MAX)];
    let mut fingerprint = if key_value::is_key_value(system) {
        key_value::fingerprint(input)
    } else if let Some(document) = json::fingerprint(input, system) {
        document
    } else {
        let sql = sql_fingerprint(input, Dialect::of(system));
        // Behind a comment or another mark there may have been a document.
        match json::fingerprint(&sql.text, system) {
            Some(document) => Fingerprint {
                had_literals: sql.had_literals,
                truncated: sql.truncated | document.truncated,
                ..document
            },
            None => sql,
        }
    };
    fingerprint.truncated |= input.len() < text.len();
    fingerprint
}

fn sql_fingerprint(text: &str, dialect: Dialect) -> Fingerprint {
    let mut lexer = Lexer::new(text, dialect);
    let reduced = reduce::reduce(&mut lexer);
    let (mut printed, fits) = print::print(text, &reduced.tokens, lexer.dialect);
    if !fits || reduced.truncated {
        printed = until_stable(printed, dialect);
    }
    let (kind, tables) = shape::shape(text, &reduced.tokens, lexer.dialect);
    Fingerprint {
        text: printed,
        kind,
        tables,
        had_literals: lexer.had_literals,
        had_placeholders: lexer.had_placeholders,
        truncated: lexer.truncated || reduced.truncated || !fits,
        in_list_len: reduced.list_len_max,
    }
}

/// Where a text was cut, a list may now end that did not before, and with it another one: until nothing is
/// left to drop. Each round drops something.
fn until_stable(mut text: String, dialect: Dialect) -> String {
    loop {
        let mut lexer = Lexer::new(&text, dialect);
        let reduced = reduce::reduce(&mut lexer);
        let (again, _) = print::print(&text, &reduced.tokens, lexer.dialect);
        if again.len() >= text.len() {
            return text;
        }
        text = again;
    }
}

/// So many literals of a statement are compared and shown.
pub(crate) const LITERALS_MAX: usize = 32;

/// The literals of a statement as sent, in order: secrets, only to be compared or redacted.
pub(crate) fn literals<'a>(text: &'a str, system: &str) -> Vec<&'a str> {
    let text = &text[..text.floor_char_boundary(INPUT_MAX)];
    let mut lexer = Lexer::new(text, Dialect::of(system));
    let mut literals = Vec::new();
    let mut last = None;
    while let Some(token) = lexer.next(last.as_slice()) {
        if std::mem::take(&mut lexer.had_literals) {
            literals.push(token.text(text));
        }
        if literals.len() == LITERALS_MAX {
            break;
        }
        last = Some(token);
    }
    literals
}

/// The number of rows that `text` says to pass over: behind OFFSET, or first behind MySQL's LIMIT. `None`
/// if it does not or is no visible number.
pub(crate) fn visible_offset(text: &str, system: &str) -> Option<u64> {
    let text = &text[..text.floor_char_boundary(INPUT_MAX)];
    let mut lexer = Lexer::new(text, Dialect::of(system));
    let (mut before, mut last): (Option<lexer::Token>, Option<lexer::Token>) = (None, None);
    let mut offset = None;
    while let Some(token) = lexer.next(last.as_slice()) {
        let is = |it: &Option<lexer::Token>, word: &str| {
            it.is_some_and(|it| it.text(text).eq_ignore_ascii_case(word))
        };
        if is(&last, "offset") {
            offset = token.text(text).parse().ok();
        } else if token.kind == lexer::Kind::Comma && is(&before, "limit") {
            offset = last.and_then(|it| it.text(text).parse().ok());
        }
        (before, last) = (last, Some(token));
    }
    offset
}

impl Fingerprint {
    /// The longest text kept, bytes. Longer ones end at the last token that fits and count as
    /// truncated; 4 kB holds any statement a person wrote.
    pub const TEXT_MAX: usize = 4 * 1024;

    /// How many tables [`Fingerprint::summary`] names before it says `…`.
    const SUMMARY_TABLES_MAX: usize = 3;

    /// The longest beginning of the text that stands for a statement without tables, bytes.
    const SUMMARY_TEXT_MAX: usize = 40;

    /// A short name for titles and frames: `select authors`, `insert into orders`, `begin`.
    pub fn summary(&self) -> String {
        let verb = match self.kind {
            StatementKind::Select => "select",
            StatementKind::Insert => "insert into",
            StatementKind::Update => "update",
            StatementKind::Delete => "delete from",
            _ => return self.beginning(),
        };
        if self.tables.is_empty() {
            return self.beginning();
        }
        let shown = match self.kind {
            // What is read to insert, update or delete is not what the statement is about.
            StatementKind::Select => Self::SUMMARY_TABLES_MAX,
            _ => 1,
        };
        let names: Vec<_> = self.tables.iter().take(shown).map(|it| bare(it)).collect();
        let more = self.kind == StatementKind::Select && self.tables.len() > shown;
        format!(
            "{verb} {}{}",
            names.join(", "),
            if more { ", …" } else { "" }
        )
    }

    fn beginning(&self) -> String {
        if self.text.len() <= Self::SUMMARY_TEXT_MAX {
            return self.text.clone();
        }
        let cut = self.text.floor_char_boundary(Self::SUMMARY_TEXT_MAX);
        let cut = self.text[..cut].rfind(' ').unwrap_or(cut);
        format!("{} …", &self.text[..cut])
    }
}

/// A table's name without schema and quotes.
fn bare(table: &str) -> &str {
    let unquoted = table.trim_end_matches(['"', '`']);
    let begin = match unquoted.len() < table.len() {
        true => unquoted.rfind(['"', '`']),
        false => unquoted.rfind('.'),
    };
    &unquoted[begin.map_or(0, |it| it + 1)..]
}

#[cfg(test)]
mod tests;
