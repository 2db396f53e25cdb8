//! The bar of ranges and filters below the frame's head: for every page that has a range. A page
//! holds a [`Context`] in a field of this name and includes `context.html`.

use crate::format;
use crate::range::{Covered, Filters, Range};
use crate::ranking::Choices;

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
}

impl Context {
    /// The bar of the page at `path`.
    pub fn new(path: &str, filters: &Filters, choices: &Choices, covered: Covered) -> Context {
        let range = |it: Range| Choice {
            link: filters.link(
                path,
                &[("range", if it == Range::default() { "" } else { it.id() })],
            ),
            title: it.title().to_owned(),
            current: it == filters.range,
        };
        let ages = (format::at(covered.from_ns), format::at(covered.now_ns));
        Context {
            ranges: Range::ALL.into_iter().map(range).collect(),
            path: path.to_owned(),
            services: selectable(choices.services.iter(), &filters.service),
            environments: selectable(choices.environments.iter(), &filters.environment),
            hidden: owned(filters.hidden(&["service", "env"])),
            covered: covered.text(),
            covered_title: format!("{} to {}: rates are of this time", ages.0, ages.1),
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
pub fn owned(parameters: Vec<(&'static str, &str)>) -> Vec<(String, String)> {
    parameters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
