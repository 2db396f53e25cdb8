//! What makes one profile slower than another: path by path, per request.
//!
//! ```text
//! all requests             the slow tail            per request
//! GET /cart        40 ms   GET /cart        44 ms   +4
//!   select item ×3  9 ms     select item ×3  9 ms    0
//!   POST charge    20 ms     POST charge   200 ms   +180   ← why the tail is slow
//! ```
//!
//! On the critical path these contributions add up to the difference of the mean durations.

use super::{Measure, OTHER, Profile, ProfileNode, ProfileSum};
use crate::category::Category;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// A profile and how many requests it is of (weighted).
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// Their call paths.
    pub profile: &'a Profile,
    /// How many they are; less than 1 counts as 1.
    pub requests: i64,
}

/// Two profiles beside each other.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// The paths of both; a parent stands before its children.
    pub nodes: Vec<DifferenceNode>,
    /// Requests of the one that is looked at, at least 1.
    pub requests: i64,
    /// Requests of the one it is compared with, at least 1.
    pub base_requests: i64,
}

/// One path in two profiles.
#[derive(Clone, PartialEq, Debug)]
pub struct DifferenceNode {
    /// The path's parent in [`Difference::nodes`]; `None` for the entry span itself.
    pub parent: Option<u32>,
    /// The operation.
    pub name: Arc<str>,
    /// The kind of its self time.
    pub category: Category,
    /// What it is in the profile that is looked at, summed over its requests.
    pub amounts: Amounts,
    /// What it is in the one it is compared with, summed over its requests.
    pub base: Amounts,
}

/// What is counted of a path, summed over requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amounts {
    /// Spans.
    pub count: i64,
    /// Time that no child covers, ns.
    pub self_ns: i64,
    /// Time on the critical path, ns.
    pub critical_ns: i64,
}

/// Compares `profile` with `base`. Both are told per request, so they may be of very different
/// numbers of requests, and one may be a part of the other.
///
/// A path that one of them counts in `(other)` is counted there in both: it would seem to have
/// come or gone. Where that cannot be known, because the other profile may never have had it, it
/// is folded too.
pub fn difference(profile: Compared<'_>, base: Compared<'_>) -> Difference {
    let mut both = ProfileSum::default();
    let here = both.enter(profile.profile);
    let there = both.enter(base.profile);
    let mut nodes: Vec<DifferenceNode> = both.profile.nodes.into_iter().map(empty).collect();
    for (node, at) in profile.profile.nodes.iter().zip(here) {
        nodes[at as usize].amounts.add(&node.amounts());
    }
    for (node, at) in base.profile.nodes.iter().zip(there) {
        nodes[at as usize].base.add(&node.amounts());
    }
    fold_alike(&mut nodes);
    Difference {
        nodes,
        requests: profile.requests.max(1),
        base_requests: base.requests.max(1),
    }
}

impl ProfileNode {
    /// Its numbers.
    pub fn amounts(&self) -> Amounts {
        Amounts {
            count: self.count,
            self_ns: self.self_ns,
            critical_ns: self.critical_ns,
        }
    }
}

impl Amounts {
    /// The time by `measure`, ns.
    pub fn ns(&self, measure: Measure) -> i64 {
        match measure {
            Measure::SelfTime => self.self_ns,
            Measure::Critical => self.critical_ns,
        }
    }

    fn add(&mut self, other: &Amounts) {
        self.count = self.count.wrapping_add(other.count);
        self.self_ns = self.self_ns.wrapping_add(other.self_ns);
        self.critical_ns = self.critical_ns.wrapping_add(other.critical_ns);
    }

    fn is_zero(&self) -> bool {
        *self == Amounts::default()
    }
}

impl Difference {
    /// What a path of the profile that is looked at takes per request, ns, rounded.
    pub fn per_request_ns(&self, at: usize, measure: Measure) -> i64 {
        divided(
            i128::from(self.nodes[at].amounts.ns(measure)),
            self.requests.into(),
        )
    }

    /// The same in the one it is compared with, ns, rounded.
    pub fn base_per_request_ns(&self, at: usize, measure: Measure) -> i64 {
        divided(
            i128::from(self.nodes[at].base.ns(measure)),
            self.base_requests.into(),
        )
    }

    /// What a path contributes to the difference: how much longer (below zero: shorter) it takes per
    /// request, ns, rounded once.
    pub fn change_ns(&self, at: usize, measure: Measure) -> i64 {
        let requests = i128::from(self.requests) * i128::from(self.base_requests);
        divided(self.exact_change(at, measure), requests)
    }

    /// What all paths together contribute, ns per request. On the critical path: how much longer the
    /// mean request is.
    pub fn total_change_ns(&self, measure: Measure) -> i64 {
        let (mut sum, mut base) = (0_i128, 0_i128);
        for node in &self.nodes {
            sum += i128::from(node.amounts.ns(measure));
            base += i128::from(node.base.ns(measure));
        }
        let change = sum.saturating_mul(self.base_requests.into())
            - base.saturating_mul(self.requests.into());
        let requests = i128::from(self.requests) * i128::from(self.base_requests);
        divided(change, requests)
    }

    /// The paths whose times differ, the greatest contribution first, whichever its sign.
    pub fn ranked(&self, measure: Measure) -> Vec<usize> {
        let mut ranked: Vec<(Reverse<u128>, Vec<&str>, usize)> = (0..self.nodes.len())
            .map(|at| (self.exact_change(at, measure), at))
            .filter(|(change, _)| *change != 0)
            .map(|(change, at)| (Reverse(change.unsigned_abs()), self.path(at), at))
            .collect();
        // By path where two contribute the same: the order of the nodes means nothing.
        ranked.sort();
        ranked.into_iter().map(|(_, _, at)| at).collect()
    }

    /// The names from the entry span down to a path.
    pub fn path(&self, at: usize) -> Vec<&str> {
        let above = |at: &usize| self.nodes[*at].parent.map(|it| it as usize);
        let mut path: Vec<&str> = std::iter::successors(Some(at), above)
            .map(|it| &*self.nodes[it].name)
            .collect();
        path.reverse();
        path
    }

    /// The change multiplied by the requests of both: exact.
    fn exact_change(&self, at: usize, measure: Measure) -> i128 {
        let node = &self.nodes[at];
        i128::from(node.amounts.ns(measure)) * i128::from(self.base_requests)
            - i128::from(node.base.ns(measure)) * i128::from(self.requests)
    }
}

/// The nearest whole number; halves away from zero.
fn divided(sum: i128, by: i128) -> i64 {
    let rounded = (sum.unsigned_abs() + by.unsigned_abs() / 2) / by.unsigned_abs();
    let rounded = i64::try_from(rounded).unwrap_or(i64::MAX);
    if sum < 0 { -rounded } else { rounded }
}

fn empty(node: ProfileNode) -> DifferenceNode {
    DifferenceNode {
        parent: node.parent,
        name: node.name,
        category: node.category,
        amounts: Amounts::default(),
        base: Amounts::default(),
    }
}

/// Folds what one side may have folded: beside an `(other)` that one side has, whatever that side
/// does not have by itself.
fn fold_alike(nodes: &mut [DifferenceNode]) {
    let others: HashMap<Option<u32>, usize> = (0..nodes.len())
        .filter(|at| *nodes[*at].name == *OTHER)
        .map(|at| (nodes[at].parent, at))
        .collect();
    if others.is_empty() {
        return;
    }
    let (here, there) = present(nodes);
    // Where each node's numbers go; a parent is decided before its children.
    let mut moved_to: Vec<usize> = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let above = node.parent.map(|it| moved_to[it as usize]);
        let is_folded_above = above.is_some_and(|it| node.parent != Some(it as u32));
        moved_to.push(match (above, others.get(&node.parent)) {
            (Some(above), _) if is_folded_above => above,
            (_, Some(other)) if (here[*other] && !here[at]) || (there[*other] && !there[at]) => {
                *other
            }
            _ => at,
        });
    }
    for (at, target) in moved_to.into_iter().enumerate() {
        if target != at {
            let amounts = std::mem::take(&mut nodes[at].amounts);
            let base = std::mem::take(&mut nodes[at].base);
            nodes[target].amounts.add(&amounts);
            nodes[target].base.add(&base);
        }
    }
}

/// Which paths each side has, with a number of their own or one below them.
fn present(nodes: &[DifferenceNode]) -> (Vec<bool>, Vec<bool>) {
    let mut here: Vec<bool> = nodes.iter().map(|it| !it.amounts.is_zero()).collect();
    let mut there: Vec<bool> = nodes.iter().map(|it| !it.base.is_zero()).collect();
    for at in (0..nodes.len()).rev() {
        if let Some(parent) = nodes[at].parent {
            here[parent as usize] |= here[at];
            there[parent as usize] |= there[at];
        }
    }
    (here, there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;
    use crate::profile::tests::any_profile;
    use crate::{Settings, analyze};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    const MS: i64 = 1_000_000;

    /// All requests of `drawn` together.
    fn profile(drawn: &[&str]) -> Profile {
        let mut sum = ProfileSum::default();
        for drawn in drawn {
            let drawing = drawing::parse(drawn);
            let analysis = analyze(drawing.spans(), &Settings::default());
            sum.merge(&Profile::of(&analysis, &analysis.entries[0], 1), 1);
        }
        sum.total()
    }

    fn compared(profile: &Profile, requests: i64) -> Compared<'_> {
        Compared { profile, requests }
    }

    fn show(difference: &Difference, measure: Measure) -> String {
        let line = |at: usize| {
            let path = difference.path(at).join(" › ");
            let change = difference.change_ns(at, measure) as f64 / MS as f64;
            let node = &difference.nodes[at];
            let (count, base) = (node.amounts.count, node.base.count);
            format!("{change:+} ms, {base} → {count} calls: {path}\n")
        };
        let lines: String = difference.ranked(measure).into_iter().map(line).collect();
        let total = difference.total_change_ns(measure) as f64 / MS as f64;
        format!("{lines}together {total:+} ms\n")
    }

    fn check(difference: &Difference, expected: Expect) {
        expected.assert_eq(&show(difference, Measure::Critical));
    }

    const QUICK: &str = "
        shop  GET /cart                                            |------------|
        shop    SELECT item                                          |--|
        shop    POST payments [client] {server.address=payments}          |--|
        ";

    const SLOW: &str = "
        shop  GET /cart                                            |-----------------------------|
        shop    SELECT item                                          |--|
        shop    POST payments [client] {server.address=payments}          |-------------------|
        ";

    #[test]
    fn the_tail_is_slow_because_of_one_call() {
        let all = profile(&[QUICK, QUICK, QUICK, SLOW]);
        let tail = profile(&[SLOW]);
        check(
            &difference(compared(&tail, 1), compared(&all, 4)),
            expect![[r#"
                +12.75 ms, 4 → 1 calls: GET /cart › POST payments
                together +12.75 ms
            "#]],
        );
    }

    #[test]
    fn what_came_and_what_went_both_count() {
        let before = profile(&["
            shop  GET /cart        |------------|
            shop    SELECT item      |--|
            shop    SELECT item         |--|
            "]);
        let after = profile(&["
            shop  GET /cart        |--------|
            shop    SELECT items     |---|
            "]);
        check(
            &difference(compared(&after, 1), compared(&before, 1)),
            expect![[r#"
                -6 ms, 2 → 0 calls: GET /cart › select item
                +4 ms, 0 → 1 calls: GET /cart › select items
                -2 ms, 1 → 1 calls: GET /cart
                together -4 ms
            "#]],
        );
    }

    fn node(parent: Option<u32>, name: &str, ns: i64) -> ProfileNode {
        ProfileNode {
            parent,
            name: name.into(),
            category: if name == OTHER {
                Category::Unattributed
            } else {
                Category::Handler
            },
            count: 1,
            self_ns: ns,
            critical_ns: ns,
        }
    }

    #[test]
    fn what_one_side_folded_is_folded_on_both() {
        let folded = Profile {
            nodes: vec![
                node(None, "GET /", MS),
                node(Some(0), "kept", MS),
                node(Some(0), OTHER, 5 * MS),
            ],
        };
        let whole = Profile {
            nodes: vec![
                node(None, "GET /", MS),
                node(Some(0), "kept", MS),
                node(Some(0), "rare", 3 * MS),
                node(Some(2), "below", 2 * MS),
            ],
        };
        let same = difference(compared(&folded, 1), compared(&whole, 1));
        assert_eq!(show(&same, Measure::Critical), "together +0 ms\n");
        let same = difference(compared(&whole, 1), compared(&folded, 1));
        assert_eq!(show(&same, Measure::Critical), "together +0 ms\n");
    }

    #[test]
    fn nothing_and_absurd_numbers_are_compared_without_panic() {
        let nothing = Profile::default();
        let some = Profile {
            nodes: vec![node(None, "GET /", i64::MAX), node(Some(0), "a", i64::MIN)],
        };
        for (a, b) in [(&nothing, &some), (&some, &nothing), (&some, &some)] {
            for requests in [0, -3, 1, i64::MAX] {
                let difference = difference(compared(a, requests), compared(b, 1));
                difference.ranked(Measure::Critical);
                difference.total_change_ns(Measure::SelfTime);
                for at in 0..difference.nodes.len() {
                    difference.change_ns(at, Measure::Critical);
                    difference.per_request_ns(at, Measure::SelfTime);
                    difference.base_per_request_ns(at, Measure::SelfTime);
                }
            }
        }
    }

    fn scaled(profile: &Profile, times: i64) -> Profile {
        let mut sum = Profile::default();
        (0..times).for_each(|_| sum.merge(profile, 1));
        sum
    }

    proptest! {
        #[test]
        fn contributions_add_up_to_the_difference_of_the_totals(
            a in any_profile(), b in any_profile(), requests in 1..9_i64, base_requests in 1..9_i64,
        ) {
            let difference = difference(compared(&a, requests), compared(&b, base_requests));
            for measure in [Measure::SelfTime, Measure::Critical] {
                let total = |it: &Profile| -> i64 { it.nodes.iter().map(|it| it.ns(measure)).sum() };
                let sum = difference.nodes.iter().map(|it| it.amounts.ns(measure)).sum::<i64>();
                let base = difference.nodes.iter().map(|it| it.base.ns(measure)).sum::<i64>();
                prop_assert_eq!((sum, base), (total(&a), total(&b)));
                let exact: i128 = (0..difference.nodes.len()).map(|at| difference.exact_change(at, measure)).sum();
                prop_assert_eq!(exact, i128::from(sum * base_requests - base * requests));
            }
        }

        #[test]
        fn twice_the_requests_are_no_difference(a in any_profile(), times in 1..5_i64) {
            let many = scaled(&a, times);
            let difference = difference(compared(&many, times), compared(&a, 1));
            prop_assert_eq!(difference.ranked(Measure::Critical), Vec::<usize>::new());
            prop_assert_eq!(difference.total_change_ns(Measure::SelfTime), 0);
        }

        #[test]
        fn the_order_of_merging_does_not_show(a in any_profile(), b in any_profile(), c in any_profile()) {
            let sum = |parts: [&Profile; 2]| {
                let mut sum = Profile::default();
                parts.into_iter().for_each(|it| sum.merge(it, 1));
                sum
            };
            let (ab, ba) = (sum([&a, &b]), sum([&b, &a]));
            let one = difference(compared(&ab, 2), compared(&c, 1));
            let other = difference(compared(&ba, 2), compared(&c, 1));
            prop_assert_eq!(show(&one, Measure::Critical), show(&other, Measure::Critical));
        }
    }
}
