//! The bar of ranges and filters below the frame's head: for every page that has a range. A page
//! holds a [`Context`] in a field of this name and includes `context.html`.

use collector::store::bottlenecks::Minutes;

use crate::format;
use crate::range::{Covered, Filters, Range, minute_ns};
use crate::ranking::Choices;
use crate::timestamps;

/// A link among others, one of which is what is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Where to.
    pub link: String,
    /// What it says.
    pub title: String,
    /// It is what is shown.
    pub current: bool,
}

/// A value to choose in a form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selectable {
    /// As it stands in the address.
    pub value: String,
    /// What it says.
    pub title: String,
    /// It is chosen.
    pub selected: bool,
}

/// What the bar shows.
#[derive(Clone, Debug)]
pub struct Context {
    /// Ranges.
    pub ranges: Vec<Choice>,
    /// A time to be typed, and the times beside this one.
    pub times: Times,
    /// Where the form leads.
    pub path: String,
    /// Services; empty if the page is of one service anyway: no choice then.
    pub services: Vec<Selectable>,
    /// Environments; empty: no choice.
    pub environments: Vec<Selectable>,
    /// What the form carries along: name, value.
    pub hidden: Vec<(String, String)>,
    /// The time that has data: `14:02:11 to 14:32:08`.
    pub covered: String,
    /// The same, exactly.
    pub covered_title: String,
    /// As long as what is shown, right before and right after.
    beside: [Minutes; 2],
}

/// A fixed time: a form for any, links to the one before and the one after.
#[derive(Clone, Debug)]
pub struct Times {
    /// It is what is shown.
    pub is_fixed: bool,
    /// What the fields hold: UTC, `2026-11-20T14:32`.
    pub from: String,
    /// Where it ends.
    pub to: String,
    /// Where the form leads.
    pub path: String,
    /// What the form carries along: name, value.
    pub hidden: Vec<(String, String)>,
    /// As long, right before; `None` if nothing can be there.
    pub before: Option<String>,
    /// As long, right after; `None` if that is yet to come.
    pub after: Option<String>,
}

/// Of the time that is shown: as long right before, that itself, and as long right after.
fn beside(filters: &Filters, covered: Covered, now_ns: u64) -> [Minutes; 3] {
    // Of a relative range what is shown reaches back from now: its own length, not that of the data.
    let minute = |ns: u64| i32::try_from(ns / minute_ns(1)).unwrap_or(i32::MAX - 1);
    let shown = filters.range.window(now_ns);
    let is_fixed = matches!(filters.range, Range::Fixed(_));
    let end_ns = if is_fixed {
        minute_ns(shown.to).min(now_ns)
    } else {
        covered.now_ns
    };
    let to = minute(end_ns.div_ceil(minute_ns(1)) * minute_ns(1));
    let length = match filters.range {
        Range::Fixed(_) => (shown.to - shown.from).max(1),
        relative => relative.minutes(),
    };
    let from = if is_fixed { shown.from } else { to - length };
    let minutes = |from: i32, to: i32| Minutes { from, to };
    [
        minutes(from - length, from),
        minutes(from, to),
        minutes(to, to + length),
    ]
}

impl Context {
    /// The bar of the page at `path`.
    pub fn new(path: &str, filters: &Filters, choices: &Choices, covered: Covered) -> Context {
        let range = |it: Range| Choice {
            link: String::new(),
            title: it.title().to_owned(),
            current: it == filters.range,
        };
        let ages = (format::at(covered.from_ns), format::at(covered.now_ns));
        let is_fixed = matches!(filters.range, Range::Fixed(_));
        let now_ns = format::now_ns();
        let [before, shown, after] = beside(filters, covered, now_ns);
        let is_over = minute_ns(shown.to) < now_ns;
        let times = Times {
            is_fixed,
            from: timestamps::field(minute_ns(shown.from)),
            to: timestamps::field(minute_ns(shown.to)),
            path: path.to_owned(),
            hidden: owned(filters.hidden(&["range", "from", "to"])),
            before: Some(String::new()),
            after: (is_fixed && is_over).then(String::new),
        };
        let mut context = Context {
            ranges: Range::ALL.into_iter().map(range).collect(),
            times,
            path: path.to_owned(),
            services: selectable(choices.services.iter(), &filters.service),
            environments: selectable(choices.environments.iter(), &filters.environment),
            hidden: owned(filters.hidden(&["service", "env"])),
            covered: match filters.range {
                // It need not be today.
                Range::Fixed(_) => format!(
                    "{} to {}",
                    format::day_and_minute(covered.from_ns),
                    format::day_and_minute(covered.now_ns)
                ),
                _ => covered.text(),
            },
            covered_title: format!("{} to {}: rates are of this time", ages.0, ages.1),
            beside: [before, after],
        };
        context.keep(|range| {
            Filters {
                range,
                ..filters.clone()
            }
            .link(path, &[])
        });
        context
    }

    /// Links to other times lead to what `link` makes of them: a page has more in its address than filters.
    pub fn keep(&mut self, link: impl Fn(Range) -> String) {
        for (choice, range) in self.ranges.iter_mut().zip(Range::ALL) {
            choice.link = link(range);
        }
        let times = [&mut self.times.before, &mut self.times.after];
        for (link_there, minutes) in times.into_iter().zip(self.beside) {
            if let Some(it) = link_there {
                *it = link(Range::Fixed(minutes));
            }
        }
    }
}

/// Values as a form offers them. What is chosen is offered even if there is no such thing (now).
pub fn selectable<'a>(values: impl Iterator<Item = &'a String>, chosen: &str) -> Vec<Selectable> {
    let mut offered: Vec<Selectable> = values
        .map(|it| Selectable {
            value: it.clone(),
            title: it.clone(),
            selected: it == chosen,
        })
        .collect();
    if !chosen.is_empty() && !offered.iter().any(|it| it.selected) {
        offered.push(Selectable {
            value: chosen.into(),
            title: chosen.into(),
            selected: true,
        });
    }
    offered
}

/// Parameters for a template.
pub fn owned(parameters: Vec<(&'static str, String)>) -> Vec<(String, String)> {
    parameters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
