//! Where time goes, as one bar of eleven colours: width, words and legend.

use analyzer::category::Category;

use crate::format;

/// One colour of a bar.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// Which kind of time.
    pub category: Category,
    /// Its share of the bar, 0 to 1.
    pub share: f64,
    /// Left edge, such as `12.5%`.
    pub x: String,
    /// Such as `27.49%`.
    pub width: String,
    /// Time, ns.
    pub ns: i64,
}

impl Piece {
    /// What fills it: `fill="…"` or `class="…"`.
    pub fn paint(&self) -> &'static str {
        paint(self.category)
    }

    /// The class of its swatch in a legend.
    pub fn class(&self) -> &'static str {
        class(self.category)
    }

    /// `database: 1,234,567 ns, 27.5 %`
    pub fn title(&self) -> String {
        let ns = format::count(self.ns);
        format!("{}: {ns} ns, {} %", self.category.name(), self.percent())
    }

    /// Percent of the bar, without the sign.
    pub fn percent(&self) -> String {
        format::percent(self.share)
    }
}

/// The pieces of `ns` by category, in the order of the legend, those of nothing left out.
pub fn pieces(ns: &[i64; Category::COUNT]) -> Vec<Piece> {
    let total: f64 = ns.iter().map(|it| (*it).max(0) as f64).sum();
    let mut before = 0.0;
    let mut pieces = Vec::new();
    for category in Category::ALL {
        let ns = ns[category as usize];
        if ns <= 0 {
            continue;
        }
        let share = ns as f64 / total;
        let (x, width) = (format::width(before), format::width(share));
        pieces.push(Piece { category, share, x, width, ns });
        before += share;
    }
    pieces
}

/// The style sheet's class for a category.
pub fn class(category: Category) -> &'static str {
    match category {
        Category::PoolWait => "pool",
        other => other.id(),
    }
}

/// The attribute that paints a shape in a category's colour: work is solid, waiting is hatched. The
/// hatching is a pattern of the frame and needs `fill`, which a class would override.
pub fn paint(category: Category) -> &'static str {
    match category {
        Category::Handler => r#"class="handler""#,
        Category::Database => r#"class="database""#,
        Category::Cache => r#"class="cache""#,
        Category::External => r#"class="external""#,
        Category::Messaging => r#"class="messaging""#,
        Category::Serialization => r#"class="serialization""#,
        Category::Logging => r#"class="logging""#,
        Category::PoolWait => r#"fill="url(#w-pool_wait)""#,
        Category::Connect => r#"fill="url(#w-connect)""#,
        Category::Network => r#"fill="url(#w-network)""#,
        Category::Unattributed => r#"fill="url(#w-unattributed)""#,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole_bar() {
        let mut ns = [0; Category::COUNT];
        ns[Category::Database as usize] = 3_000;
        ns[Category::Network as usize] = 1_000;
        ns[Category::Cache as usize] = -5;
        let pieces = pieces(&ns);
        let titles: Vec<String> = pieces.iter().map(Piece::title).collect();
        assert_eq!(titles, ["database: 3,000 ns, 75 %", "network: 1,000 ns, 25 %"]);
        assert_eq!(pieces.iter().map(|it| it.share).sum::<f64>(), 1.0);
        assert_eq!(pieces[1].x, "75.00%");
    }

    #[test]
    fn nothing_has_no_pieces() {
        assert!(pieces(&[0; Category::COUNT]).is_empty());
    }
}
