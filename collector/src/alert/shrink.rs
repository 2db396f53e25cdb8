//! JSON that must not exceed so many bytes: long texts are cut, then long lists, and it is said
//! what was.

use serde_json::{Map, Value, json};

/// Characters that are left of texts, tried in this order: a statement is still known by a few
/// hundred, a name by fifty.
const TEXT_CHARS: [usize; 7] = [4_000, 2_000, 1_000, 500, 250, 100, 50];

/// Elements that are left of lists when short texts are not enough.
const LIST_ELEMENTS: usize = 10;

/// Bytes of a URL that is left alone: half of one leads elsewhere.
const URL_BYTES_MAX: usize = 2_000;

/// The name under which the cut values are listed.
const TRUNCATED: &str = "truncated";

/// Paths in that list; more say no more.
const PATHS_MAX: usize = 20;

/// Makes `object` so small that its text has `bytes_max` bytes at most. What was cut is listed as
/// `truncated` in it. `needed` are the members that stay whatever happens; each has to be short by
/// itself once its texts are.
pub fn shrink(object: &mut Map<String, Value>, bytes_max: usize, needed: &[&str]) {
    if size(object) <= bytes_max {
        return;
    }
    let whole = object.clone();
    for chars in TEXT_CHARS {
        *object = whole.clone();
        let mut cut = Cut::new(chars, usize::MAX);
        cut.members(object);
        cut.note(object);
        if size(object) <= bytes_max {
            return;
        }
    }
    let mut cut = Cut::new(TEXT_CHARS[TEXT_CHARS.len() - 1], LIST_ELEMENTS);
    *object = whole;
    cut.members(object);
    cut.note(object);
    remove_largest(object, bytes_max, needed, &mut cut);
}

fn remove_largest(
    object: &mut Map<String, Value>,
    bytes_max: usize,
    needed: &[&str],
    cut: &mut Cut,
) {
    while size(object) > bytes_max {
        let largest = object
            .iter()
            .filter(|(name, _)| !needed.contains(&name.as_str()) && *name != TRUNCATED)
            .max_by_key(|(_, value)| value.to_string().len())
            .map(|(name, _)| name.clone());
        let Some(name) = largest else { return };
        object.shift_remove(&name);
        cut.paths.push(super::wording::shorten(&name, 50));
        cut.note(object);
    }
}

fn size(object: &Map<String, Value>) -> usize {
    serde_json::to_string(object).map_or(usize::MAX, |it| it.len())
}

struct Cut {
    chars: usize,
    elements: usize,
    paths: Vec<String>,
}

impl Cut {
    fn new(chars: usize, elements: usize) -> Cut {
        let paths = Vec::new();
        Cut {
            chars,
            elements,
            paths,
        }
    }

    fn members(&mut self, object: &mut Map<String, Value>) {
        for (name, value) in object {
            self.value(name, value);
        }
    }

    fn value(&mut self, path: &str, value: &mut Value) {
        match value {
            Value::String(text) if is_url(text) => {}
            Value::String(text) => {
                let short = super::wording::shorten(text, self.chars);
                if short != *text {
                    self.paths.push(path.to_owned());
                    *text = short;
                }
            }
            Value::Array(elements) => {
                if elements.len() > self.elements {
                    self.paths.push(path.to_owned());
                    elements.truncate(self.elements);
                }
                for (number, element) in elements.iter_mut().enumerate() {
                    self.value(&format!("{path}.{number}"), element);
                }
            }
            Value::Object(object) => {
                for (name, value) in object {
                    self.value(&format!("{path}.{name}"), value);
                }
            }
            _ => {}
        }
    }

    fn note(&self, object: &mut Map<String, Value>) {
        let paths: Vec<String> = self
            .paths
            .iter()
            .take(PATHS_MAX)
            .map(|it| super::wording::shorten(it, 100))
            .collect();
        object.insert(TRUNCATED.into(), json!(paths));
    }
}

fn is_url(text: &str) -> bool {
    let is_whole = !text.contains(char::is_whitespace);
    is_whole && text.len() <= URL_BYTES_MAX && text.starts_with("http")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_fits_is_untouched() {
        let before = object(json!({"a": "x".repeat(900), "b": [1, 2]}));
        let mut after = before.clone();
        shrink(&mut after, 1_000, &[]);
        assert_eq!(after, before);
    }

    #[test]
    fn the_longest_text_is_cut_and_told() {
        let mut it = object(json!({"id": 1, "statement": "é".repeat(5_000), "service": "shop"}));
        shrink(&mut it, 3_000, &["id"]);
        assert_eq!(it["truncated"], json!(["statement"]));
        assert_eq!(it["service"], "shop");
        assert!(it["statement"].as_str().unwrap().ends_with("é…"));
    }

    #[test]
    fn a_url_is_whole_or_not_there() {
        let url = format!("https://culprit.example/?q={}", "x".repeat(300));
        let mut it = object(json!({"url": url, "texts": vec!["y".repeat(300); 9]}));
        shrink(&mut it, 1_500, &["url"]);
        assert_eq!(it["url"], url);
    }

    #[test]
    fn lists_and_then_members_go_when_texts_are_not_enough() {
        let many: Vec<Value> = (0..5_000)
            .map(|it| json!({"n": it, "t": "x".repeat(90)}))
            .collect();
        let mut it = object(json!({"id": 1, "many": many}));
        shrink(&mut it, 2_000, &["id"]);
        assert_eq!(it["many"].as_array().unwrap().len(), 10);

        let names: Map<String, Value> = (0..500)
            .map(|it| (format!("name-{it}"), json!(it)))
            .collect();
        let mut it = object(json!({"id": 1, "odd": names, "small": true}));
        shrink(&mut it, 1_000, &["id"]);
        assert_eq!(it["truncated"], json!(["odd"]));
        assert_eq!((it.get("odd"), &it["small"]), (None, &json!(true)));
    }
}
