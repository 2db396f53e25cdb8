//! What do these requests have in common that the others have not?
//!
//! Every attribute with every value it has is a question: is it more frequent inside the selection than outside? Many
//! questions are asked at once, so the answers are corrected for their number: of those that are told at most one in
//! twenty is chance.

use std::collections::{BTreeMap, BTreeSet};

use crate::regression::benjamini_hochberg;
use crate::regression::probability::hypergeometric_at_least;

/// What one request says of itself: attribute → value.
pub type Facts = BTreeMap<String, Fact>;

/// A value of an attribute.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    /// A text, or a truth value.
    Text(String),
    /// A number.
    Number(f64),
}

/// An attribute's value that is more, or less, frequent inside.
#[derive(Clone, PartialEq, Debug)]
pub struct Contrast {
    /// Such as `user.tier`.
    pub key: String,
    /// Such as `free`, or `≥ 40`.
    pub value: String,
    /// Requests inside that have it.
    pub inside: usize,
    /// Requests outside that have it.
    pub outside: usize,
    /// How probable so large a difference is by chance (Fisher's exact test, both sides).
    pub p_value: f64,
}

/// What the comparison came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Contrasts {
    /// What differs, the clearest first.
    pub found: Vec<Contrast>,
    /// So many values were compared.
    pub asked: usize,
}

/// Of what is told at most this share is chance.
const FALSE_MAX: f64 = 0.05;

/// A difference of shares below this is true and useless.
const DIFFERENCE_MIN: f64 = 0.05;

/// A number with more different values is compared by limits, a text is an id and says nothing.
const VALUES_MAX: usize = 20;

/// Where numbers are cut: shares of all requests.
const CUTS: [f64; 3] = [0.5, 0.75, 0.9];

/// Compares requests inside a selection with those outside.
pub fn contrast(inside: &[Facts], outside: &[Facts]) -> Contrasts {
    let keys: BTreeSet<&String> = inside.iter().chain(outside).flat_map(Facts::keys).collect();
    let mut all = Vec::new();
    for key in keys {
        for (value, has) in questions(key, inside, outside) {
            let count = |side: &[Facts]| {
                side.iter()
                    .filter(|it| it.get(key).is_some_and(&has))
                    .count()
            };
            let (within, without) = (count(inside), count(outside));
            all.push(Contrast {
                key: key.clone(),
                value,
                inside: within,
                outside: without,
                p_value: fisher(within, inside.len(), without, outside.len()),
            });
        }
    }
    let p_values: Vec<f64> = all.iter().map(|it| it.p_value).collect();
    let is_sure = benjamini_hochberg(&p_values, FALSE_MAX);
    let asked = all.len();
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    let difference =
        |it: &Contrast| (share(it.inside, inside.len()) - share(it.outside, outside.len())).abs();
    let mut found: Vec<Contrast> = all
        .into_iter()
        .zip(is_sure)
        .filter(|(it, is_sure)| *is_sure && difference(it) >= DIFFERENCE_MIN)
        .map(|it| it.0)
        .collect();
    // That there are more of one value inside says already that there are fewer of the others.
    let is_more = |it: &Contrast| share(it.inside, inside.len()) > share(it.outside, outside.len());
    let said: BTreeSet<String> = found
        .iter()
        .filter(|it| is_more(it))
        .map(|it| it.key.clone())
        .collect();
    found.retain(|it| is_more(it) || !said.contains(&it.key));
    found.sort_by(|a, b| {
        let clearer = a.p_value.total_cmp(&b.p_value);
        clearer.then(difference(b).total_cmp(&difference(a)))
    });
    Contrasts { found, asked }
}

type Question = (String, Box<dyn Fn(&Fact) -> bool>);

/// What is asked of one attribute.
fn questions(key: &String, inside: &[Facts], outside: &[Facts]) -> Vec<Question> {
    let facts = || inside.iter().chain(outside).filter_map(|it| it.get(key));
    let mut texts: BTreeSet<&str> = BTreeSet::new();
    let mut numbers: Vec<f64> = Vec::new();
    for fact in facts() {
        match fact {
            Fact::Text(text) => {
                texts.insert(text);
            }
            Fact::Number(number) => numbers.push(*number),
        }
    }
    numbers.sort_by(f64::total_cmp);
    let mut distinct = numbers.clone();
    distinct.dedup();
    let mut questions: Vec<Question> = Vec::new();
    if texts.len() <= VALUES_MAX {
        questions.extend(texts.into_iter().map(|text| -> Question {
            let text = text.to_owned();
            (
                text.clone(),
                Box::new(move |fact| *fact == Fact::Text(text.clone())),
            )
        }));
    }
    if distinct.len() <= VALUES_MAX {
        questions.extend(distinct.into_iter().map(|number| -> Question {
            (
                number.to_string(),
                Box::new(move |fact| *fact == Fact::Number(number)),
            )
        }));
        return questions;
    }
    let mut cuts: Vec<f64> = CUTS
        .iter()
        .map(|share| numbers[(numbers.len() as f64 * share) as usize])
        .collect();
    cuts.dedup();
    questions.extend(cuts.into_iter().map(|cut| -> Question {
        let is_above = move |fact: &Fact| matches!(fact, Fact::Number(it) if *it >= cut);
        (format!("≥ {cut}"), Box::new(is_above))
    }));
    questions
}

/// Fisher's exact test, both sides: twice the smaller tail.
fn fisher(inside: usize, of_inside: usize, outside: usize, of_outside: usize) -> f64 {
    let (k, n) = (inside as f64, of_inside as f64);
    let (with, all) = ((inside + outside) as f64, (of_inside + of_outside) as f64);
    let upper = hypergeometric_at_least(k, with, n, all);
    let lower = hypergeometric_at_least(n - k, all - with, n, all);
    (2.0 * upper.min(lower)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, Fact)]) -> Facts {
        pairs
            .iter()
            .map(|(key, fact)| ((*key).to_owned(), fact.clone()))
            .collect()
    }

    fn text(value: &str) -> Fact {
        Fact::Text(value.to_owned())
    }

    /// Computed by hand: of 8 with it 7 are among 10 inside, of 20 in all.
    /// P(≥ 7) = (C(8,7)·C(12,3) + C(8,8)·C(12,2)) / C(20,10) = (1760 + 66) / 184756.
    #[test]
    fn fishers_test_is_exact() {
        let p = fisher(7, 10, 1, 10);
        assert!((p - 2.0 * 1826.0 / 184_756.0).abs() < 1e-9, "{p}");
        assert_eq!(fisher(0, 10, 0, 10), 1.0);
        assert_eq!(fisher(0, 0, 3, 10), 1.0);
        assert!(fisher(5, 10, 5, 10) > 0.9);
    }

    #[test]
    fn what_slow_requests_share_comes_first() {
        let inside: Vec<Facts> = (0..50)
            .map(|nth| {
                let tier = if nth < 45 { "free" } else { "gold" };
                facts(&[
                    ("tier", text(tier)),
                    ("id", text(&nth.to_string())),
                    ("items", Fact::Number(40.0 + f64::from(nth))),
                ])
            })
            .collect();
        let outside: Vec<Facts> = (0..200)
            .map(|nth| {
                let tier = if nth % 4 == 0 { "free" } else { "gold" };
                let id = (1_000 + nth).to_string();
                facts(&[
                    ("tier", text(tier)),
                    ("id", text(&id)),
                    ("items", Fact::Number(f64::from(nth % 40))),
                ])
            })
            .collect();
        let contrasts = contrast(&inside, &outside);
        let found: Vec<(&str, &str)> = contrasts
            .found
            .iter()
            .map(|it| (it.key.as_str(), it.value.as_str()))
            .collect();
        assert!(found.contains(&("tier", "free")) && !found.contains(&("tier", "gold")));
        assert!(
            found
                .iter()
                .any(|it| it.0 == "items" && it.1.starts_with('≥')),
            "{found:?}"
        );
        assert!(found.iter().all(|it| it.0 != "id"));
        assert_eq!(
            contrasts
                .found
                .iter()
                .find(|it| it.value == "free")
                .unwrap()
                .inside,
            45
        );
    }

    #[test]
    fn among_many_equal_attributes_next_to_nothing_is_told() {
        let mut seed = 7_u64;
        let mut roll = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % 4
        };
        let mut requests = |count: usize| -> Vec<Facts> {
            (0..count)
                .map(|_| {
                    (0..100)
                        .map(|key| (format!("k{key}"), text(&roll().to_string())))
                        .collect()
                })
                .collect()
        };
        let (inside, outside) = (requests(100), requests(100));
        let contrasts = contrast(&inside, &outside);
        assert_eq!(contrasts.asked, 400);
        assert_eq!(contrasts.found, []);
        assert_eq!(contrast(&[], &[]), Contrasts::default());
    }
}
