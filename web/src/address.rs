//! A page's query string: read with patience, changed one key at a time.
//!
//! Every view has an address, so every link on a page is "this address, but …".

use url::form_urlencoded;

/// The keys and values after the `?`, those with a value only. Of a key that occurs twice the last
/// one counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address {
    pairs: Vec<(String, String)>,
}

impl Address {
    /// Reads a query string; whatever it holds, there is an address.
    pub fn parse(query: Option<&str>) -> Address {
        let mut address = Address::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            address.set(&key, &value);
        }
        address
    }

    /// The value of `key`, without surrounding white space; `None` if there is none.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|it| it.0 == key)?;
        Some(found.1.trim()).filter(|it| !it.is_empty())
    }

    /// `key` is there and set to something.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The comma-separated values of `key`.
    pub fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        self.get(key).into_iter().flat_map(|it| it.split(','))
    }

    /// This address with some keys changed, as a link. An empty value takes the key away.
    pub fn with(&self, changes: &[(&str, &str)]) -> String {
        let mut changed = self.clone();
        for (key, value) in changes {
            changed.set(key, value);
        }
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        query.extend_pairs(&changed.pairs);
        query.finish()
    }

    /// This address behind `path`, for links from elsewhere: without a `?` if there is nothing to say.
    pub fn behind(&self, path: &str) -> String {
        let query = self.with(&[]);
        format!("{path}{}", if query == "?" { "" } else { &query })
    }

    /// What a form carries along so that it changes nothing but `keys`.
    pub fn without(&self, keys: &[&str]) -> Vec<(String, String)> {
        let kept = self
            .pairs
            .iter()
            .filter(|it| !keys.contains(&it.0.as_str()));
        kept.cloned().collect()
    }

    /// `list` with `value` added, or taken out if it is there: the way a row is opened and closed.
    pub fn toggled(&self, list: &str, value: &str) -> String {
        let mut values: Vec<&str> = self.list(list).collect();
        match values.iter().position(|it| *it == value) {
            Some(at) => drop(values.remove(at)),
            None => values.push(value),
        }
        self.with(&[(list, &values.join(","))])
    }

    fn set(&mut self, key: &str, value: &str) {
        self.pairs.retain(|it| it.0 != key);
        if !value.is_empty() {
            self.pairs.push((key.to_owned(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_change_one_key_and_keep_the_others() {
        let address = Address::parse(Some("view=flame&open=a,b&span=1&span=2&empty="));
        assert_eq!(address.get("span"), Some("2"));
        assert_eq!(address.get("empty"), None);
        assert_eq!(
            address.with(&[("span", "3")]),
            "?view=flame&open=a%2Cb&span=3"
        );
        assert_eq!(address.with(&[("open", ""), ("view", "")]), "?span=2");
        assert_eq!(address.toggled("open", "a"), "?view=flame&span=2&open=b");
        assert_eq!(
            address.toggled("open", "c"),
            "?view=flame&span=2&open=a%2Cb%2Cc"
        );
    }

    #[test]
    fn values_are_escaped() {
        let address = Address::parse(Some("endpoint=GET+%2Fa%26b%3D%3Cscript%3E&%ff=%ff"));
        assert_eq!(address.get("endpoint"), Some("GET /a&b=<script>"));
        assert!(!address.with(&[]).contains('<'));
        assert_eq!(Address::parse(None).with(&[]), "?");
    }
}
