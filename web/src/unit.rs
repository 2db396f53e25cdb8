//! Figures of one page in one unit, so that a column of them can be compared at a glance.

/// A unit of time that gives a page's figures a readable size; figures of one page have one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// `ms`.
    pub name: &'static str,
    /// How long it is, ns.
    pub ns: u64,
}

impl Unit {
    /// The unit in which `ns` has a readable size.
    pub fn fitting(ns: u64) -> Unit {
        match ns {
            0..10_000 => Unit { name: "ns", ns: 1 },
            10_000..1_000_000 => Unit {
                name: "µs",
                ns: 1_000,
            },
            1_000_000..100_000_000_000 => Unit {
                name: "ms",
                ns: 1_000_000,
            },
            _ => Unit {
                name: "s",
                ns: 1_000_000_000,
            },
        }
    }

    /// A figure in this unit, without its name: one digit after the point, or two where that says
    /// more.
    pub fn figure(&self, ns: u64) -> String {
        let figure = ns as f64 / self.ns as f64;
        match ns {
            _ if self.ns == 1 => ns.to_string(),
            0 => "0".to_owned(),
            _ if figure < 0.095 => format!("{figure:.2}"),
            _ => format!("{figure:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_a_digit_where_it_says_something() {
        let ms = Unit::fitting(762_800_000);
        assert_eq!(ms.figure(762_812_345), "762.8");
        assert_eq!(ms.figure(40_000), "0.04");
        assert_eq!(ms.figure(0), "0");
        assert_eq!(Unit::fitting(9_999).figure(42), "42");
        assert_eq!(Unit::fitting(500_000).name, "µs");
    }
}
