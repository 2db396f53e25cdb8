//! Whether a trace looks complete before it has been idle for long.
//!
//! It has a root, no parent is missing, and every client span whose callee is known to report has
//! its server span. Which callees report is learned from the traces themselves. All of it is told
//! from [`Head`]s, without unpacking a span.

use std::collections::HashSet;

use crate::otlp::{Head, Side};

/// Callees remembered. At the bound no more are learned: traces that call the others may be
/// finalised twice.
const CALLEES_MAX: usize = 20_000;

/// Spans of a trace up to which looking through all of them is quicker than a set.
const FEW: usize = 24;

/// Callees that have answered with a server span of their own before, by hash.
#[derive(Clone, Debug, Default)]
pub struct Callees {
    reporting: HashSet<u32, foldhash::fast::RandomState>,
}

impl Callees {
    /// Learns from a trace that becomes final.
    pub fn learn<'a>(&mut self, heads: impl Iterator<Item = &'a Head> + Clone) {
        let calls = heads.clone().filter(|it| it.callee != 0);
        let unknown: Vec<&Head> = calls
            .filter(|it| !self.reporting.contains(&it.callee))
            .collect();
        if unknown.is_empty() || self.reporting.len() >= CALLEES_MAX {
            return;
        }
        let answered: HashSet<u64> = servers(heads).collect();
        let reporting = unknown.into_iter().filter(|it| answered.contains(&it.id));
        self.reporting.extend(reporting.map(|it| it.callee));
    }

    /// Nothing seems to be missing.
    pub fn is_complete<'a>(&self, heads: impl Iterator<Item = &'a Head> + Clone) -> bool {
        if heads.clone().all(|it| it.parent != 0) {
            return false;
        }
        if heads.clone().count() <= FEW {
            let has_span = |id| heads.clone().any(|it| it.id == id);
            let has_server = |id| servers(heads.clone()).any(|it| it == id);
            return self.all_are_there(heads.clone(), has_span, has_server);
        }
        let spans: HashSet<u64> = heads.clone().map(|it| it.id).collect();
        let answered: HashSet<u64> = servers(heads.clone()).collect();
        self.all_are_there(heads, |id| spans.contains(&id), |id| answered.contains(&id))
    }

    fn all_are_there<'a>(
        &self,
        mut heads: impl Iterator<Item = &'a Head>,
        has_span: impl Fn(u64) -> bool,
        has_server: impl Fn(u64) -> bool,
    ) -> bool {
        heads.all(|it| {
            let parent_is_there = it.parent == 0 || has_span(it.parent);
            let waits = it.callee != 0 && self.reporting.contains(&it.callee);
            parent_is_there && (!waits || has_server(it.id))
        })
    }
}

/// Whom the server spans answer.
fn servers<'a>(heads: impl Iterator<Item = &'a Head>) -> impl Iterator<Item = u64> {
    heads
        .filter(|it| it.side == Side::Server)
        .map(|it| it.parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAY: u32 = 77;

    fn head(id: u64, parent: u64, side: Side, callee: u32) -> Head {
        Head {
            id,
            parent,
            side,
            callee,
        }
    }

    /// A root that calls PAY, without and with the answer's span; `more` spans below the root.
    fn call(answered: bool, more: u64) -> Vec<Head> {
        let mut heads = vec![head(1, 0, Side::Server, 0), head(2, 1, Side::Client, PAY)];
        heads.extend((0..more).map(|it| head(100 + it, 1, Side::Other, 0)));
        if answered {
            heads.push(head(3, 2, Side::Server, 0));
        }
        heads
    }

    #[test]
    fn a_callee_is_waited_for_once_it_is_known_to_report() {
        for more in [0, 1_000] {
            let mut callees = Callees::default();
            assert!(callees.is_complete(call(false, more).iter()));
            callees.learn(call(true, more).iter());
            assert!(!callees.is_complete(call(false, more).iter()));
            assert!(callees.is_complete(call(true, more).iter()));
        }
    }

    #[test]
    fn a_root_and_every_parent_must_be_there() {
        let callees = Callees::default();
        for more in [0, 1_000] {
            let mut heads = call(true, more);
            heads.remove(0);
            assert!(!callees.is_complete(heads.iter()));
            let mut heads = call(true, more);
            heads.push(head(9, 8, Side::Other, 0));
            assert!(!callees.is_complete(heads.iter()));
        }
    }
}
