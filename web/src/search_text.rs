//! What people type to search traces: `service=shop name="GET /cart" duration>100ms error`.
//!
//! A term is a word (`error`), a key that must be there (`db.system.name`), or key, comparison and
//! value. All must hold, each on any span of the trace. What cannot be understood is an error with its
//! column: a search never silently becomes another one.

use std::iter::Peekable;
use std::str::CharIndices;

use collector::span_conditions::{Bound, CONDITIONS_MAX, Condition};

use crate::trace_filter::duration_ns;

/// Longer searches are refused: nobody types them.
const TEXT_CHARS_MAX: usize = 2_000;

/// A search as it was understood.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Query {
    /// What spans of the trace must have.
    pub conditions: Vec<Condition>,
    /// The request's endpoint; empty for any.
    pub endpoint: String,
    /// The request takes at least so long, ns.
    pub min_ns: u64,
    /// The request takes at most so long, ns; 0 for no limit.
    pub max_ns: u64,
    /// The request failed.
    pub errors: bool,
    /// The request has a finding.
    pub with_finding: bool,
}

/// Why a search is not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextError {
    /// Where, counted in characters from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads a search.
///
/// # Errors
/// It is not understood; the error says where.
pub fn parse(text: &str) -> Result<Query, TextError> {
    let mut terms = Terms {
        text,
        chars: text.char_indices().peekable(),
    };
    if text.chars().count() > TEXT_CHARS_MAX {
        let message = format!("a search has at most {TEXT_CHARS_MAX} characters");
        return Err(terms.error(TEXT_CHARS_MAX, message));
    }
    let mut query = Query::default();
    while let Some(term) = terms.next_term()? {
        query.add(&term).map_err(|(part, message)| {
            let at = match part {
                Part::Key => term.at,
                Part::Value => term.value_at,
            };
            terms.error(at, message)
        })?;
        if query.conditions.len() > CONDITIONS_MAX {
            let message = format!("a search has at most {CONDITIONS_MAX} conditions on spans");
            return Err(terms.error(term.at, message));
        }
    }
    Ok(query)
}

/// A condition as a sentence's part: `http.route is /cart`.
pub fn in_words(condition: &Condition) -> String {
    match condition {
        Condition::Name(name) => format!("a span or an endpoint is named {name}"),
        Condition::Equals { key, value } => format!("{key} is {value}"),
        Condition::Present { key } => format!("{key} is set"),
        Condition::Within {
            key,
            least,
            greatest,
        } => {
            let least = match least {
                Bound::Included(at) => Some(format!("at least {at}")),
                Bound::Excluded(at) => Some(format!("more than {at}")),
                Bound::Unbounded => None,
            };
            let greatest = match greatest {
                Bound::Included(at) => Some(format!("at most {at}")),
                Bound::Excluded(at) => Some(format!("less than {at}")),
                Bound::Unbounded => None,
            };
            let bounds: Vec<String> = [least, greatest].into_iter().flatten().collect();
            format!("{key} is {}", bounds.join(" and "))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

struct Term {
    /// Where it begins, bytes.
    at: usize,
    key: String,
    /// A quoted key is an attribute's, whatever it is.
    quoted: bool,
    comparison: Option<Comparison>,
    value: String,
    value_at: usize,
}

#[derive(Clone, Copy)]
enum Part {
    Key,
    Value,
}

type Refused = (Part, String);

impl Query {
    fn add(&mut self, term: &Term) -> Result<(), Refused> {
        let key = if term.quoted { "" } else { term.key.as_str() };
        match (key, term.comparison) {
            ("error" | "errors", None) => self.errors = true,
            ("finding" | "culprit", None) => self.with_finding = true,
            ("duration", comparison) => self.add_duration(term, comparison)?,
            ("service", Some(comparison)) => {
                self.add_attribute("service.name", comparison, term)?;
            }
            ("name", Some(Comparison::Equal)) => {
                self.conditions.push(Condition::Name(term.value.clone()));
            }
            ("endpoint", Some(Comparison::Equal)) => self.endpoint = term.value.clone(),
            ("service" | "name" | "endpoint", _) => {
                let message = format!(
                    "{key} is compared with =, such as {key}=shop; an attribute of that name is \"{key}\""
                );
                return Err((Part::Key, message));
            }
            (_, Some(comparison)) => self.add_attribute(&term.key, comparison, term)?,
            (_, None) => self.conditions.push(Condition::Present {
                key: term.key.clone(),
            }),
        }
        Ok(())
    }

    fn add_duration(&mut self, term: &Term, comparison: Option<Comparison>) -> Result<(), Refused> {
        let comparison = comparison.filter(|it| *it != Comparison::Equal);
        let comparison = comparison.ok_or_else(|| {
            let message = "duration is compared with <, <=, > or >=, such as duration>100ms";
            (Part::Key, message.to_owned())
        })?;
        let ns = duration_ns(&term.value).ok_or_else(|| {
            let message = "a duration is a number with ns, us, ms, s, m or h, such as 100ms";
            (Part::Value, message.to_owned())
        })?;
        match comparison {
            Comparison::Greater => self.min_ns = self.min_ns.max(ns.saturating_add(1)),
            Comparison::GreaterOrEqual | Comparison::Equal => self.min_ns = self.min_ns.max(ns),
            Comparison::Less => self.limit_ns(ns.saturating_sub(1)),
            Comparison::LessOrEqual => self.limit_ns(ns),
        }
        Ok(())
    }

    /// 0 means no limit, so that less than a nanosecond becomes one.
    fn limit_ns(&mut self, ns: u64) {
        let before = if self.max_ns == 0 {
            u64::MAX
        } else {
            self.max_ns
        };
        self.max_ns = before.min(ns.max(1));
    }

    fn add_attribute(
        &mut self,
        key: &str,
        comparison: Comparison,
        term: &Term,
    ) -> Result<(), Refused> {
        let key = key.to_owned();
        if comparison == Comparison::Equal {
            let value = term.value.clone();
            self.conditions.push(Condition::Equals { key, value });
            return Ok(());
        }
        let number: f64 = term
            .value
            .parse()
            .ok()
            .filter(|it: &f64| it.is_finite())
            .ok_or_else(|| {
                let message =
                    format!("{key} can be compared with a number only, such as {key}>=500");
                (Part::Value, message)
            })?;
        let (least, greatest) = match comparison {
            Comparison::Greater => (Bound::Excluded(number), Bound::Unbounded),
            Comparison::GreaterOrEqual | Comparison::Equal => {
                (Bound::Included(number), Bound::Unbounded)
            }
            Comparison::Less => (Bound::Unbounded, Bound::Excluded(number)),
            Comparison::LessOrEqual => (Bound::Unbounded, Bound::Included(number)),
        };
        self.add_bounds(key, least, greatest);
        Ok(())
    }

    /// `a>=500 a<600` means one span's `a`.
    fn add_bounds(&mut self, key: String, least: Bound, greatest: Bound) {
        for condition in &mut self.conditions {
            if let Condition::Within {
                key: known,
                least: known_least,
                greatest: known_greatest,
            } = condition
                && *known == key
            {
                if *known_least == Bound::Unbounded && greatest == Bound::Unbounded {
                    *known_least = least;
                    return;
                }
                if *known_greatest == Bound::Unbounded && least == Bound::Unbounded {
                    *known_greatest = greatest;
                    return;
                }
            }
        }
        self.conditions.push(Condition::Within {
            key,
            least,
            greatest,
        });
    }
}

struct Terms<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Terms<'_> {
    fn next_term(&mut self) -> Result<Option<Term>, TextError> {
        while self.chars.next_if(|it| it.1.is_whitespace()).is_some() {}
        let at = self.at();
        let Some((_, first)) = self.chars.peek().copied() else {
            return Ok(None);
        };
        let quoted = first == '"';
        let key = if quoted {
            self.quoted()?
        } else {
            self.word(|it| it.is_whitespace() || is_operator(it) || it == '"')
        };
        if key.is_empty() {
            let message = "a key is missing here; a term is key=value, such as service=shop";
            return Err(self.error(at, message.to_owned()));
        }
        let comparison = self.comparison()?;
        let value_at = self.at();
        let value = match (comparison, self.chars.peek()) {
            (None, _) => String::new(),
            (_, Some((_, '"'))) => self.quoted()?,
            _ => self.word(char::is_whitespace),
        };
        let empty = value.is_empty() && !self.text[value_at..].starts_with('"');
        if comparison.is_some() && empty {
            let message = format!("a value is missing here; the empty text is {key}=\"\"");
            return Err(self.error(value_at, message));
        }
        Ok(Some(Term {
            at,
            key,
            quoted,
            comparison,
            value,
            value_at,
        }))
    }

    fn comparison(&mut self) -> Result<Option<Comparison>, TextError> {
        let at = self.at();
        let operator = self.word(|it| !is_operator(it));
        match operator.as_str() {
            "" => {
                let next = self.chars.peek().map(|it| it.1);
                if next.is_none_or(char::is_whitespace) {
                    return Ok(None);
                }
                let message = "a space or a comparison is missing here".to_owned();
                Err(self.error(at, message))
            }
            "=" | "==" => Ok(Some(Comparison::Equal)),
            "<" => Ok(Some(Comparison::Less)),
            "<=" => Ok(Some(Comparison::LessOrEqual)),
            ">" => Ok(Some(Comparison::Greater)),
            ">=" => Ok(Some(Comparison::GreaterOrEqual)),
            "!=" => {
                let message = "culprit finds what is there: != cannot be searched";
                Err(self.error(at, message.to_owned()))
            }
            _ => {
                let message = "a comparison is =, <, <=, > or >=".to_owned();
                Err(self.error(at, message))
            }
        }
    }

    fn word(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some((_, next)) = self.chars.next_if(|it| !ends(it.1)) {
            word.push(next);
        }
        word
    }

    /// Within quotes `\"` and `\\` are a quote and a backslash.
    fn quoted(&mut self) -> Result<String, TextError> {
        let at = self.at();
        self.chars.next();
        let mut text = String::new();
        while let Some((_, next)) = self.chars.next() {
            match next {
                '"' => return Ok(text),
                '\\' => match self.chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                    Some((_, other)) => text.extend(['\\', other]),
                    None => break,
                },
                _ => text.push(next),
            }
        }
        Err(self.error(at, "this quote is not closed".to_owned()))
    }

    fn at(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |it| it.0)
    }

    fn error(&self, at: usize, message: String) -> TextError {
        let before = self.text.char_indices().take_while(|it| it.0 < at);
        TextError {
            column: before.count() + 1,
            message,
        }
    }
}

fn is_operator(it: char) -> bool {
    matches!(it, '=' | '<' | '>' | '!')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .conditions
            .iter()
            .map(in_words)
            .collect()
    }

    #[test]
    fn a_search_is_read_as_it_is_meant() {
        let query = parse(
            r#"service=shop name="GET /cart" duration>100ms db.system.name=postgresql error"#,
        )
        .unwrap();
        assert_eq!(
            (query.min_ns, query.max_ns, query.errors),
            (100_000_001, 0, true)
        );
        let words: Vec<String> = query.conditions.iter().map(in_words).collect();
        assert_eq!(
            words,
            [
                "service.name is shop",
                "a span or an endpoint is named GET /cart",
                "db.system.name is postgresql",
            ]
        );
    }

    #[test]
    fn every_kind_of_term() {
        assert_eq!(words("db.query.text"), ["db.query.text is set"]);
        assert_eq!(
            words("http.response.status_code>=500 http.response.status_code<600"),
            ["http.response.status_code is at least 500 and less than 600"]
        );
        assert_eq!(words("a>1 a>2"), ["a is more than 1", "a is more than 2"]);
        assert_eq!(
            words(r#""name"=x "error" """#.trim_end_matches(" \"\"")),
            ["name is x", "error is set"]
        );
        assert_eq!(
            words(r#"q="say \"hi\" \\ \d" e="" u=a=b"#),
            [r#"q is say "hi" \ \d"#, "e is ", "u is a=b"]
        );
        assert_eq!(words("  \t "), [""; 0]);
        let query = parse("duration>=1s duration<2s culprit endpoint=\"GET /\"").unwrap();
        assert_eq!((query.min_ns, query.max_ns), (1_000_000_000, 1_999_999_999));
        assert!(query.with_finding && query.endpoint == "GET /");
    }

    #[test]
    fn what_is_not_understood_is_pointed_at() {
        let cases = [
            ("=shop", 1, "a key is missing"),
            ("a=1 b=", 7, "a value is missing"),
            ("a=1 b= c", 7, "a value is missing"),
            ("ö=\"x", 3, "not closed"),
            ("a!=1", 2, "!="),
            ("a=>1", 2, "a comparison is"),
            ("duration=5ms", 1, "duration is compared"),
            ("duration>soon", 10, "a duration is"),
            ("status>high", 8, "a number only"),
            ("name>5", 1, "name is compared"),
            ("name", 1, "name is compared"),
            ("\"a\"b", 4, "a space or a comparison"),
            ("a\"b\"", 2, "a space or a comparison"),
        ];
        for (text, column, message) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.column, column, "{text}: {}", error.message);
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        let many: String = (0..30).map(|it| format!("k{it}=1 ")).collect();
        assert!(parse(&many).unwrap_err().message.contains("at most"));
        assert!(
            parse(&"x".repeat(3_000))
                .unwrap_err()
                .message
                .contains("at most")
        );
    }

    #[test]
    fn hostile_input_is_data_or_an_error() {
        for text in crate::testing::HOSTILE {
            let _ = parse(text);
            let quoted = format!("x=\"{}\"", text.replace(['"', '\\'], ""));
            assert!(parse(&quoted).is_ok(), "{quoted}");
        }
    }
}
