//! Statements met before, by their text as sent: most are sent again and again, and finding out
//! what one is costs twenty times as much as remembering it.

use crate::Callee;
use crate::seeded_hash::{Seeded, SeededMap};
use crate::sql;
use std::hash::BuildHasher;
use std::sync::Arc;

/// So many statements are remembered; beyond it all are forgotten. Senders that put literals into
/// their statements never send one twice, and must not cost memory.
const KNOWN_MAX: usize = 4_096;

/// Longer statements, bytes, are not remembered: bulk inserts, which differ.
const TEXT_MAX: usize = 4 * 1024;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    /// By the hash of text and dialect: of two statements with one hash the later is remembered.
    known: SeededMap<u64, Known>,
    seeded: Seeded,
}

#[derive(Debug)]
struct Known {
    text: String,
    dialect: String,
    callee: Arc<Callee>,
}

impl Statements {
    /// The statement `text`, sent by a span of `system`, in the language of `dialect`: the system as
    /// far as it is known from the spans around it.
    pub(crate) fn callee(&mut self, text: &str, system: &str, dialect: &str) -> Arc<Callee> {
        if text.len() > TEXT_MAX {
            return Arc::new(callee(text, system, dialect));
        }
        let hash = self.seeded.hash_one((text, dialect));
        if let Some(known) = self.known.get(&hash)
            && known.text == text
            && known.dialect == dialect
            && known.callee.system == system
        {
            return known.callee.clone();
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let callee = Arc::new(callee(text, system, dialect));
        let known = Known {
            text: text.to_owned(),
            dialect: dialect.to_owned(),
            callee: callee.clone(),
        };
        self.known.insert(hash, known);
        callee
    }
}

fn callee(text: &str, system: &str, dialect: &str) -> Callee {
    let statement = sql::fingerprint(text, dialect);
    Callee {
        system: system.to_owned(),
        key: statement.text.as_str().into(),
        name: statement.summary().into(),
        statement: Some(statement),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_met_again_is_the_same_one() {
        let mut statements = Statements::default();
        let text = "SELECT a FROM b WHERE c = 1";
        let first = statements.callee(text, "mysql", "mysql");
        assert!(Arc::ptr_eq(
            &first,
            &statements.callee(text, "mysql", "mysql")
        ));
        let other = statements.callee(text, "", "mysql");
        assert_eq!((&*other.system, &other.key), ("", &first.key));
    }

    #[test]
    fn dialects_are_told_apart() {
        let mut statements = Statements::default();
        let text = r#"select "a" from b"#;
        let keys = ["mysql", "postgresql", "mysql"].map(|it| statements.callee(text, it, it));
        assert_eq!(keys[0].key, keys[2].key);
        assert_ne!(keys[0].key, keys[1].key);
    }

    #[test]
    fn more_statements_than_are_remembered() {
        let mut statements = Statements::default();
        for n in 0..2 * KNOWN_MAX {
            let text = format!("select a from t{n}_x where b = {n}");
            let callee = statements.callee(&text, "", "");
            assert_eq!(*callee, super::callee(&text, "", ""));
        }
        let long = format!("select '{}'", "x".repeat(TEXT_MAX));
        assert_eq!(*statements.callee(&long, "", ""), callee(&long, "", ""));
    }
}
