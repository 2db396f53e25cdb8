//! What the values of a statement are there for: to name rows, or to walk through a list.

use super::INPUT_MAX;
use super::lexer::{Dialect, Kind, Lexer, Token};

/// What a value does in its statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// How many rows: `limit ?`, `top (?)`, `fetch first ? rows`.
    Length,
    /// Where the rows begin: `offset ?`.
    Offset,
    /// An end of a range, which may be where the last page ended: `id > ?`, `(at, id) < (?, ?)`.
    Bound,
    /// Anything else: it chooses the rows.
    Row,
}

/// A literal or a placeholder of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot<'a> {
    /// As sent: a secret if it is a literal.
    pub(crate) text: &'a str,
    pub(crate) is_literal: bool,
    pub(crate) place: Place,
}

/// Statements with more values are no pages.
const SLOTS_MAX: usize = 64;

/// The values of a statement, in order; at most [`SLOTS_MAX`].
pub(crate) fn slots<'a>(text: &'a str, system: &str) -> Vec<Slot<'a>> {
    let text = &text[..text.floor_char_boundary(INPUT_MAX)];
    let mut lexer = Lexer::new(text, Dialect::of(system));
    let mut slots = Vec::new();
    let mut walk = Walk::default();
    let mut last: Option<Token> = None;
    while slots.len() < SLOTS_MAX
        && let Some(token) = lexer.next(last.as_slice())
    {
        let said = token.text(text);
        if token.kind == Kind::Value {
            slots.push(Slot {
                text: said,
                is_literal: std::mem::take(&mut lexer.had_literals),
                place: walk.place,
            });
        }
        walk.pass(token.kind, said);
        last = Some(token);
    }
    slots
}

/// The place of a value that would come next.
struct Walk {
    place: Place,
    /// Inside of parentheses in which a list of values has one place.
    depth: u32,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk {
            place: Place::Row,
            depth: 0,
        }
    }
}

impl Walk {
    fn pass(&mut self, kind: Kind, text: &str) {
        match kind {
            Kind::Word => self.word(text),
            Kind::Op => self.operator(text),
            Kind::OpenParen if self.place != Place::Row => self.depth += 1,
            // MySQL's `limit 20, 10`: which is which does not matter, both walk.
            Kind::Comma if self.depth > 0 || self.place == Place::Length => {}
            // `$1::int`
            Kind::Cast => {}
            Kind::Value if self.depth > 0 || self.place == Place::Length => {}
            _ => *self = Walk::default(),
        }
    }

    fn word(&mut self, word: &str) {
        let is = |words: &[&str]| words.iter().any(|it| word.eq_ignore_ascii_case(it));
        if is(&["limit", "fetch", "top"]) {
            *self = Walk::at(Place::Length);
        } else if is(&["offset"]) {
            *self = Walk::at(Place::Offset);
        } else if self.place != Place::Length || !is(&["first", "next"]) {
            *self = Walk::default();
        }
    }

    /// `<=` may come in one piece or two.
    fn operator(&mut self, text: &str) {
        *self = match text {
            "<" | ">" | "<=" | ">=" => Walk::at(Place::Bound),
            "=" if self.place == Place::Bound => Walk::at(Place::Bound),
            _ => Walk::default(),
        };
    }

    fn at(place: Place) -> Walk {
        Walk { place, depth: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_places() {
        use Place::*;
        for (text, system, expected) in [
            ("select a from t where id = $1", "postgresql", &[Row][..]),
            (
                "select a from t where b = $1 limit $2 offset $3",
                "postgresql",
                &[Row, Length, Offset],
            ),
            (
                "select a from t where (at, id) < ($1, $2) and c = 3 limit 10",
                "postgresql",
                &[Bound, Bound, Row, Length],
            ),
            (
                "select top (5) a from t where id >= @p0 and b <> 'x'",
                "mssql",
                &[Length, Bound, Row],
            ),
            (
                "select a from t order by b offset @p1 rows fetch next @p2 rows only",
                "mssql",
                &[Offset, Length],
            ),
            (
                "select a from t where b in (?) limit 20, 10",
                "mysql",
                &[Row, Length, Length],
            ),
        ] {
            let places: Vec<Place> = slots(text, system).iter().map(|it| it.place).collect();
            assert_eq!(places, expected, "{text}");
        }
    }
}
