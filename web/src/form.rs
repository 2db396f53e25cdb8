//! What somebody filled into a form, as a browser without scripts sends it.

use url::form_urlencoded;

use crate::acts::reorders;

/// A value's bytes at most; what is longer is cut off, and the field's own check says what is wrong.
const VALUE_BYTES_MAX: usize = 4_096;

/// The fields of a form. Of one that occurs several times all count ([`Form::all`]).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Form {
    pairs: Vec<(String, String)>,
}

impl Form {
    /// Reads a form's body (`application/x-www-form-urlencoded`); whatever it holds, there is a form.
    /// Control characters but line ends are shown as the replacement character, as no field means them and
    /// Postgres refuses NUL; bidirectional controls, which would reorder what stands beside them, go.
    pub fn parse(body: &str) -> Form {
        let clean = |text: &str| -> String {
            let kept = text.chars().filter(|it| *it != '\r' && !reorders(*it));
            let shown = kept.map(|it| match it {
                '\n' => it,
                '\t' => ' ',
                it if it.is_control() => char::REPLACEMENT_CHARACTER,
                it => it,
            });
            let mut text: String = shown.collect();
            text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX));
            text.trim().to_owned()
        };
        let pairs = form_urlencoded::parse(body.as_bytes());
        Form {
            pairs: pairs.map(|it| (it.0.into_owned(), clean(&it.1))).collect(),
        }
    }

    /// The value of `key` without surrounding white space; empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        let found = self.pairs.iter().find(|it| it.0 == key);
        found.map_or("", |it| &it.1)
    }

    /// All values of `key` that are not empty.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.pairs.iter().filter(move |it| it.0 == key);
        values.map(|it| it.1.as_str()).filter(|it| !it.is_empty())
    }

    /// Who sent it, as far as they say: there is no login.
    pub fn author(&self) -> &str {
        let name = self.get("author").lines().next().unwrap_or_default();
        &name[..name.floor_char_boundary(AUTHOR_BYTES_MAX)]
    }
}

/// A name's bytes at most.
const AUTHOR_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_clean_and_bounded() {
        let form = Form::parse("a=+x%00y%E2%80%AE%0D%0Az+&b=1&b=&b=2&author=Ann%0Ax");
        assert_eq!(form.get("a"), "x\u{fffd}y\nz");
        assert_eq!(form.get("nothing"), "");
        assert_eq!(form.all("b").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(form.author(), "Ann");
        let long = Form::parse(&format!("a={}", "%C3%A9".repeat(3_000)));
        assert_eq!(long.get("a").len(), VALUE_BYTES_MAX);
    }
}
