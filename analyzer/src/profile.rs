//! The call-path profile: the calling-context trees of many requests, folded together.

use crate::category::Category;
use crate::{Analysis, Entry};

/// A calling-context tree. Merges in any order and subtracts exactly; counts are signed so that
/// a profile can also be a difference.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profile {
    /// The tree; `nodes[i].parent < i`. Order is not part of the value: compare with [`Profile::folded`].
    pub nodes: Vec<ProfileNode>,
}

/// One path.
#[derive(Clone, PartialEq, Debug)]
pub struct ProfileNode {
    /// The path's parent in [`Profile::nodes`]; `None` for the entry span itself.
    pub parent: Option<u32>,
    /// The operation, such as `SELECT authors` or `GET payments`; no ids in it.
    pub name: String,
    /// The kind of its self time.
    pub category: Category,
    /// How many spans were folded into it.
    pub count: i64,
    /// Time of it that no child covers, summed, ns.
    pub self_ns: i64,
    /// Time of it on the critical path, summed, ns.
    pub critical_ns: i64,
}

impl Profile {
    /// At most so many paths are kept apart in one profile; further ones fold into `(other)`
    /// under their deepest kept ancestor.
    pub const PATHS_MAX: usize = 1_000;

    /// The profile of one entry span, counted `weight` times.
    pub fn of(analysis: &Analysis<'_>, entry: &Entry<'_>, weight: i64) -> Profile {
        let _ = (analysis, entry, weight);
        todo!()
    }

    /// Adds every path of `other`, multiplied by `sign` (1 or -1).
    pub fn merge(&mut self, other: &Profile, sign: i64) {
        let _ = (other, sign);
        todo!()
    }

    /// `a;b;c value` lines in sorted order, as flame-graph tools read them. `value` picks the number;
    /// lines with 0 are left out. `;` and line breaks in names are replaced.
    pub fn folded(&self, value: impl Fn(&ProfileNode) -> i64) -> Vec<String> {
        let _ = value(&self.nodes[0]);
        todo!()
    }
}
