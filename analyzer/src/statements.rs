//! Statements met before, by their text as sent: most are sent again and again, and finding out
//! what one is costs twenty times as much as remembering it. And what is called, by its key: calls of one
//! thing share it, also where each came with another literal or id; a long trace has a million of them.

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
    /// By the hash of system and key: of two things with one hash the later is shared.
    shared: SeededMap<u64, Arc<Callee>>,
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
            return self.parsed(text, system, dialect);
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
        let callee = self.parsed(text, system, dialect);
        let known = Known {
            text: text.to_owned(),
            dialect: dialect.to_owned(),
            callee: callee.clone(),
        };
        self.known.insert(hash, known);
        callee
    }

    /// What a statement is, found out; shared with those that differ from it in nothing but values.
    fn parsed(&mut self, text: &str, system: &str, dialect: &str) -> Arc<Callee> {
        let statement = sql::fingerprint(text, dialect);
        let hash = self.seeded.hash_one((system, &*statement.text));
        if let Some(known) = self.shared.get(&hash)
            && known.statement.as_ref() == Some(&statement)
            && known.system == system
        {
            return known.clone();
        }
        let callee = Callee {
            system: system.to_owned(),
            key: statement.text.as_str().into(),
            name: statement.summary().into(),
            statement: Some(statement),
        };
        self.share(hash, callee)
    }

    /// What is called other than by a statement.
    pub(crate) fn plain(&mut self, system: &str, key: &str, name: &str) -> Arc<Callee> {
        let hash = self.seeded.hash_one((system, key));
        if let Some(known) = self.shared.get(&hash)
            && known.statement.is_none()
            && (&*known.system, &*known.key, &*known.name) == (system, key, name)
        {
            return known.clone();
        }
        let callee = Callee {
            system: system.to_owned(),
            key: key.into(),
            name: name.into(),
            statement: None,
        };
        self.share(hash, callee)
    }

    fn share(&mut self, hash: u64, callee: Callee) -> Arc<Callee> {
        if self.shared.len() >= KNOWN_MAX {
            self.shared.clear();
        }
        let callee = Arc::new(callee);
        self.shared.insert(hash, callee.clone());
        callee
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

    /// As if nothing had been met before.
    fn alone(text: &str, system: &str) -> Callee {
        (*Statements::default().callee(text, system, system)).clone()
    }

    #[test]
    fn more_statements_than_are_remembered() {
        let mut statements = Statements::default();
        for n in 0..2 * KNOWN_MAX {
            let text = format!("select a from t{n}_x where b = {n}");
            assert_eq!(*statements.callee(&text, "", ""), alone(&text, ""));
        }
        let long = format!("select '{}'", "x".repeat(TEXT_MAX));
        assert_eq!(*statements.callee(&long, "", ""), alone(&long, ""));
    }

    #[test]
    fn what_differs_in_values_alone_is_shared() {
        let mut statements = Statements::default();
        let mut of = |text: &str, system: &str| {
            let callee = statements.callee(text, system, system);
            assert_eq!(*callee, alone(text, system), "{text}");
            callee
        };
        let first = of("select a from b where c = 1", "mysql");
        let same = of("select a from b where c = 2", "mysql");
        assert!(Arc::ptr_eq(&first, &same));
        // One text after normalisation, and yet not the same.
        let others = [
            of("select a from b where c = ?", "mysql"),
            of("select a from b where c = 2", "sqlite"),
            of("select a from b where c in (1, 2)", "mysql"),
            of("select a from b where c in (1, 2, 3)", "mysql"),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(!Arc::ptr_eq(&first, other), "{at}");
        }
        let call = statements.plain("redis", "get", "get");
        assert!(Arc::ptr_eq(&call, &statements.plain("redis", "get", "get")));
        let other = statements.plain("redis", "get", "read");
        assert_eq!((&*other.key, &*other.name), ("get", "read"));
        let text = statements.callee("get", "redis", "redis");
        assert!(text.statement.is_some());
    }
}
