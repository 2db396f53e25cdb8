//! Where a request's time went, as a bar and a legend. The figures on the page add up to the figure
//! of the whole, down to the last digit shown.

use analyzer::category::Category;
use analyzer::wording::thousands;

use crate::unit::Unit;
use crate::waterfall::Bar;

/// One category's part.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// Which.
    pub category: Category,
    /// How much, ns.
    pub ns: u64,
    /// How much, in tenths of [`Parts::unit`] (in nanoseconds if that is the unit).
    pub tenths: u64,
    /// Share of the whole, in tenths of a percent.
    pub permille: u64,
    /// Its place in the bar.
    pub bar: Bar,
}

/// A whole and its parts, the largest first.
#[derive(Clone, PartialEq, Debug)]
pub struct Parts {
    /// The parts that are not 0.
    pub parts: Vec<Part>,
    /// The whole, ns.
    pub total_ns: u64,
    /// What the figures are in.
    pub unit: Unit,
}

impl Part {
    /// The figure, in `unit`.
    pub fn figure(&self, unit: &Unit) -> String {
        tenths(self.tenths, unit)
    }

    /// The share: `23.6 %`.
    pub fn share(&self) -> String {
        format!("{}.{} %", self.permille / 10, self.permille % 10)
    }
}

impl Parts {
    /// The whole, which the parts' figures add up to.
    pub fn total(&self) -> String {
        tenths(self.parts.iter().map(|it| it.tenths).sum(), &self.unit)
    }
}

fn tenths(tenths: u64, unit: &Unit) -> String {
    match unit.ns {
        // A nanosecond has no tenths.
        1 => tenths.to_string(),
        _ => format!("{}.{}", thousands(tenths / 10), tenths % 10),
    }
}

/// The CSS class that colours a category.
pub fn class(category: &Category) -> &'static str {
    match category {
        Category::PoolWait => "pool",
        other => other.id(),
    }
}

/// How a category is painted: work is solid, waiting is hatched by a pattern of the page's frame.
/// An attribute for an SVG element.
pub fn paint(category: &Category) -> &'static str {
    match category {
        Category::Handler => "class=\"handler\"",
        Category::Database => "class=\"database\"",
        Category::Cache => "class=\"cache\"",
        Category::External => "class=\"external\"",
        Category::Messaging => "class=\"messaging\"",
        Category::Serialization => "class=\"serialization\"",
        Category::Logging => "class=\"logging\"",
        Category::PoolWait => "fill=\"url(#w-pool_wait)\"",
        Category::Connect => "fill=\"url(#w-connect)\"",
        Category::Network => "fill=\"url(#w-network)\"",
        Category::Unattributed => "fill=\"url(#w-unattributed)\"",
    }
}

/// The parts of `categories`.
pub fn parts(categories: &[u64; Category::COUNT]) -> Parts {
    let total_ns: u64 = categories.iter().sum();
    let unit = Unit::fitting(total_ns);
    let mut order = Category::ALL;
    order.sort_by_key(|it| std::cmp::Reverse(categories[*it as usize]));
    let numbers = order.map(|it| categories[it as usize]);
    // A nanosecond has no tenths: round to whole ones there.
    let tenth_ns = (unit.ns / 10).max(1);
    let whole_tenths = (total_ns + tenth_ns / 2) / tenth_ns;
    let tenths = apportion(&numbers, whole_tenths);
    let permille = apportion(&numbers, 1_000);
    let mut before_ns = 0u64;
    let mut parts = Vec::new();
    for (at, category) in order.into_iter().enumerate().filter(|it| numbers[it.0] > 0) {
        let percent = |ns: u64| ns as f64 * 100.0 / total_ns as f64;
        let ns = numbers[at];
        let bar = Bar {
            x: percent(before_ns),
            width: percent(ns),
        };
        before_ns += ns;
        parts.push(Part {
            category,
            ns,
            tenths: tenths[at],
            permille: permille[at],
            bar,
        });
    }
    Parts {
        parts,
        total_ns,
        unit,
    }
}

/// Shares out `whole` in proportion to `numbers`, in whole pieces that add up to it: each gets its
/// share rounded down, and what is left goes to the largest remainders, the first of equals.
pub fn apportion(numbers: &[u64], whole: u64) -> Vec<u64> {
    let total: u128 = numbers.iter().map(|it| u128::from(*it)).sum();
    if total == 0 {
        return vec![0; numbers.len()];
    }
    let exact = |number: u64| u128::from(number) * u128::from(whole);
    let mut shares: Vec<u64> = numbers
        .iter()
        .map(|it| (exact(*it) / total) as u64)
        .collect();
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by_key(|it| std::cmp::Reverse(exact(numbers[*it]) % total));
    let left = whole - shares.iter().sum::<u64>();
    for at in order.into_iter().take(left as usize) {
        shares[at] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_figures_add_up_to_the_whole() {
        let mut categories = [0; Category::COUNT];
        categories[..4].copy_from_slice(&[333_333_333, 333_333_333, 333_333_333, 1]);
        let parts = parts(&categories);
        assert_eq!(parts.parts.iter().map(|it| it.permille).sum::<u64>(), 1_000);
        assert_eq!(parts.parts.iter().map(|it| it.tenths).sum::<u64>(), 10_000);
        assert_eq!(
            parts.parts.iter().map(|it| it.ns).sum::<u64>(),
            1_000_000_000
        );
        assert_eq!(parts.parts.len(), 4);
        let last = parts.parts.last().unwrap().bar;
        assert!((last.x + last.width - 100.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_parts() {
        let nothing = parts(&[0; Category::COUNT]);
        assert!(nothing.parts.is_empty());
    }

    #[test]
    fn shares_of_huge_numbers_do_not_overflow() {
        assert_eq!(apportion(&[u64::MAX / 2, u64::MAX / 2], 1_000), [500, 500]);
        assert_eq!(apportion(&[], 1_000), [0u64; 0]);
    }
}
