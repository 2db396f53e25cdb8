//! What the colours of a trace's bars and frames mean: the kind of time, whose it is, how much of it is
//! their own, or whether they failed.

use analyzer::category::Category;
use analyzer::span::Status;
use analyzer::trace::SpanIdx;

use crate::address::Address;
use crate::category_bar;
use crate::indexed::Indexed;

/// Colours there are for services: as many as can be told apart, also by those who see fewer. Beyond it
/// they come again, and the names beside the bars say whose they are.
const SERVICE_COLOURS: usize = 8;

/// Services in the legend; what comes beyond is counted.
const LEGEND_MAX: usize = 16;

const SERVICE_CLASSES: [&str; SERVICE_COLOURS] = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7"];

/// From so much of the request on, in thousandths, a span's own time has the next stronger colour.
const OWN_STEPS: [u64; 4] = [5, 25, 100, 250];

const OWN_CLASSES: [&str; 5] = ["h0", "h1", "h2", "h3", "h4"];

/// What the colours mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// The kind of their own time.
    Category,
    /// Who sent them.
    Service,
    /// How much of the request is their own time.
    OwnTime,
    /// Whether they failed.
    Errors,
}

impl Colour {
    /// In the order in which they are offered.
    pub const ALL: [Colour; 4] = [
        Colour::Category,
        Colour::Service,
        Colour::OwnTime,
        Colour::Errors,
    ];

    /// What the address asks for.
    pub fn parse(address: &Address) -> Colour {
        let asked = address.get("colour").unwrap_or_default();
        let found = Colour::ALL.into_iter().find(|it| it.id() == asked);
        found.unwrap_or(Colour::Category)
    }

    /// The name in addresses; the usual one needs none.
    pub fn id(self) -> &'static str {
        ["", "service", "self", "errors"][self as usize]
    }

    /// For people.
    pub fn name(self) -> &'static str {
        ["kind", "service", "self time", "errors"][self as usize]
    }
}

/// The colours of one trace.
pub struct Paint<'s> {
    colour: Colour,
    services: Vec<&'s str>,
    whole_ns: u64,
}

impl<'s> Paint<'s> {
    /// As the address asks for.
    pub fn of(indexed: &Indexed<'s, '_>, address: &Address) -> Paint<'s> {
        let longest = || indexed.own_ns.iter().copied().max().unwrap_or(0);
        Paint {
            colour: Colour::parse(address),
            services: indexed.services().to_vec(),
            whole_ns: indexed
                .main()
                .map_or_else(longest, |it| it.duration_ns)
                .max(1),
        }
    }

    /// The class that colours what stands for `span` and others like it, whose own times add up to `own_ns`.
    pub fn class(
        &self,
        category: Category,
        service: &str,
        own_ns: u64,
        failed: bool,
    ) -> &'static str {
        match self.colour {
            Colour::Category => category_bar::class(&category),
            Colour::Service => self.service_class(service),
            Colour::OwnTime => {
                let share = u128::from(own_ns) * 1_000 / u128::from(self.whole_ns);
                OWN_CLASSES[OWN_STEPS
                    .iter()
                    .filter(|it| share >= u128::from(**it))
                    .count()]
            }
            Colour::Errors if failed => "e1",
            Colour::Errors => "e0",
        }
    }

    fn service_class(&self, service: &str) -> &'static str {
        let at = self.services.binary_search(&service).unwrap_or(0);
        SERVICE_CLASSES[at % SERVICE_COLOURS]
    }

    /// Waiting is hatched: only kinds of time are waited for.
    pub fn hatches(&self) -> bool {
        self.colour == Colour::Category
    }

    /// Classes and what they mean; kinds of time have a legend above already.
    pub fn legend(&self) -> Vec<(&'static str, String)> {
        match self.colour {
            Colour::Category => Vec::new(),
            Colour::Service => {
                let shown = self.services.iter().take(LEGEND_MAX);
                let mut legend: Vec<_> = shown
                    .map(|it| (self.service_class(it), (*it).to_owned()))
                    .collect();
                let left = self.services.len().saturating_sub(LEGEND_MAX);
                if left > 0 {
                    legend.push(("", format!("{left} more")));
                }
                legend
            }
            Colour::OwnTime => {
                let names = [
                    "below 0.5 % of the request",
                    "from 0.5 %",
                    "from 2.5 %",
                    "from 10 %",
                    "from 25 %",
                ];
                OWN_CLASSES
                    .into_iter()
                    .zip(names.map(str::to_owned))
                    .collect()
            }
            Colour::Errors => vec![("e1", "failed".to_owned()), ("e0", "did not".to_owned())],
        }
    }
}

/// A span reports an error.
pub fn failed(indexed: &Indexed<'_, '_>, span: SpanIdx) -> bool {
    indexed.analysis.trace.span(span).status == Status::Error
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::{Settings, drawing};

    #[test]
    fn colours_mean_what_the_address_asks_for() {
        let drawing = drawing::parse(
            "
shop  GET /posts                |----------|
shop    GET mail/send [client]    |-----|
mail      GET /send {error}        |---|
",
        );
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        let indexed = Indexed::of(&analysis);
        let classes = |query: &str| {
            let paint = Paint::of(&indexed, &Address::parse(Some(query)));
            let class = |span| {
                let it = indexed.names.operation(span);
                let own_ns = indexed.own_ns[span as usize];
                paint.class(it.category, it.service, own_ns, failed(&indexed, span))
            };
            [class(0), class(1), class(2)]
        };
        assert_eq!(classes("colour=service"), ["v1", "v1", "v0"]);
        assert_eq!(classes("colour=errors"), ["e0", "e0", "e1"]);
        assert_eq!(classes("colour=self"), ["h4", "h3", "h4"]);
        assert_eq!(classes("colour=nonsense"), classes(""));
    }
}
