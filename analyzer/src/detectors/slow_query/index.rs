//! Which indexes might serve a statement, told from its text.
//!
//! ```text
//! select total from orders where customer_id = ? and created_at > ? order by created_at
//!                                └ equality: first ┘  └ one range, or the order: last ┘
//!         → orders (customer_id, created_at) include (total)
//! ```
//!
//! A candidate is no result: what indexes there are, how large the table is and how its values are
//! spread, only the database knows.

use super::engine::Engine;
use crate::sql::clauses::{Clauses, Column, Expression, Source, Term};

/// An index that might serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    /// As it stands in the text.
    pub(super) table: String,
    /// In this order, and whether one descends.
    pub(super) columns: Vec<(String, bool)>,
    /// The first so many are compared for equality.
    pub(super) equal: usize,
    /// The last ones serve the order and no range.
    pub(super) is_ordered: bool,
    /// Held beside them, so that the table need not be read.
    pub(super) included: Vec<String>,
    /// `deleted_at is null`: only such rows are asked for.
    pub(super) only: Option<String>,
    /// It serves a join.
    pub(super) is_join: bool,
}

/// What the conditions of a table come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Suggestion {
    /// This might serve.
    Index(Candidate),
    /// The primary key finds the rows: table and column.
    Key(String, String),
    /// Nothing but a column with few different values: table and column.
    FewValues(String, String),
}

/// So many columns of a condition are named: wider indexes are rarely right.
const EQUAL_MAX: usize = 3;
/// With a range or the order behind them.
const COLUMNS_MAX: usize = 4;
/// So many columns are held beside them: more make an index a second table.
const INCLUDED_MAX: usize = 2;
/// So many tables of one statement get a candidate.
const TABLES_MAX: usize = 2;

/// What might serve, most promising first.
pub(super) fn suggestions(clauses: &Clauses, engine: Engine) -> Vec<Suggestion> {
    let filtered = clauses.sources.iter().filter(|it| is_filtered(clauses, it));
    let driving = filtered.clone().next().or(match &clauses.sources[..] {
        [only] => Some(only),
        _ => None,
    });
    let mut suggestions = Vec::new();
    if let Some(driving) = driving {
        suggestions.extend(of_filter(clauses, driving, engine));
    }
    for source in &clauses.sources {
        let is_driving = driving.is_some_and(|it| std::ptr::eq(it, source));
        // Where nothing is filtered, the first table is read as a whole.
        let is_first = driving.is_none() && std::ptr::eq(source, &clauses.sources[0]);
        if !is_driving && !is_first {
            suggestions.extend(of_join(clauses, source));
        }
    }
    suggestions.truncate(TABLES_MAX);
    suggestions
}

/// The column as a name in this source's table.
fn own<'c>(clauses: &Clauses, source: &Source, column: &'c Column) -> Option<&'c str> {
    let is_own = match column.qualifier.as_str() {
        // With several tables the text does not say whose it is.
        "" => clauses.sources.len() == 1,
        qualifier => qualifier == source.alias,
    };
    is_own.then_some(column.name.as_str())
}

fn own_expression<'c>(clauses: &Clauses, source: &Source, it: &'c Expression) -> Option<&'c str> {
    match it {
        Expression::Column(column) => own(clauses, source, column),
        _ => None,
    }
}

/// Conditions pick some of its rows: reading begins here.
fn is_filtered(clauses: &Clauses, source: &Source) -> bool {
    let picks = |it: &(&str, bool)| !has_few_values(it.0);
    source.table.is_some()
        && (equal(clauses, source).iter().any(picks) || range(clauses, source).is_some())
}

/// Columns compared with values for equality, those with few values last; and whether one may have
/// several values.
fn equal<'c>(clauses: &'c Clauses, source: &Source) -> Vec<(&'c str, bool)> {
    let mut columns: Vec<(&str, bool)> = Vec::new();
    for term in &clauses.terms {
        if let Some((column, several)) = equal_term(clauses, source, term)
            && !columns.iter().any(|it| it.0 == column)
        {
            columns.push((column, several));
        }
    }
    columns.sort_by_key(|it| has_few_values(it.0));
    columns
}

fn equal_term<'c>(clauses: &Clauses, source: &Source, term: &'c Term) -> Option<(&'c str, bool)> {
    match term {
        Term::Equal { left, several } => Some((own_expression(clauses, source, left)?, *several)),
        // `a = ? or a = ?` is `a in (?)`.
        Term::Or(alternatives) => {
            let mut columns = alternatives
                .iter()
                .map(|it| equal_term(clauses, source, it));
            let first = columns.next()??.0;
            columns
                .all(|it| it.is_some_and(|it| it.0 == first))
                .then_some((first, true))
        }
        _ => None,
    }
}

/// The column of a range; the one that is the order too if there are several.
fn range<'c>(clauses: &'c Clauses, source: &Source) -> Option<&'c str> {
    let ranges: Vec<&str> = clauses
        .terms
        .iter()
        .filter_map(|it| match it {
            Term::Range(left) => own_expression(clauses, source, left),
            _ => None,
        })
        .collect();
    let first_of_order = clauses
        .order
        .first()
        .and_then(|it| own_expression(clauses, source, &it.0));
    let both = ranges.iter().find(|it| Some(**it) == first_of_order);
    both.or(ranges.first()).copied()
}

fn of_filter(clauses: &Clauses, source: &Source, engine: Engine) -> Option<Suggestion> {
    let table = source.table.clone()?;
    let equal = equal(clauses, source);
    if let Some((key, _)) = equal.iter().find(|it| is_key(&table, it.0)) {
        return Some(Suggestion::Key(table, (*key).to_owned()));
    }
    let several = equal.iter().any(|it| it.1);
    let mut columns: Vec<(String, bool)> = equal
        .iter()
        .take(EQUAL_MAX)
        .map(|it| (it.0.to_owned(), false))
        .collect();
    let equal_len = columns.len();
    let range = range(clauses, source).filter(|it| !columns.iter().any(|column| column.0 == *it));
    let order = order(clauses, source, &columns);
    // Rows of several values are not in one order.
    let is_ordered = range.is_none() && !order.is_empty() && !several;
    match range {
        Some(range) => columns.push((range.to_owned(), false)),
        None if is_ordered && columns.len() + order.len() <= COLUMNS_MAX => columns.extend(order),
        None => {}
    }
    // The primary key's index has its order and its ranges already.
    if columns.is_empty() || equal_len == 0 && is_key(&table, &columns[0].0) {
        return None;
    }
    if columns.len() == equal_len && columns.iter().all(|it| has_few_values(&it.0)) {
        return Some(Suggestion::FewValues(table, columns[0].0.clone()));
    }
    let mut candidate = Candidate {
        table,
        is_ordered: columns.len() > equal_len && is_ordered,
        included: Vec::new(),
        only: only(clauses, source, engine),
        columns,
        equal: equal_len,
        is_join: false,
    };
    candidate.included = included(clauses, source, &candidate, engine);
    Some(Suggestion::Index(candidate))
}

/// The columns of the order that an index behind those compared for equality could serve.
fn order(clauses: &Clauses, source: &Source, equal: &[(String, bool)]) -> Vec<(String, bool)> {
    // Sorting everything is not quicker by an index, unless it picks a part or ends early; and it may end
    // late if other conditions leave few rows.
    let ends_early = clauses.is_limited && clauses.terms.is_empty();
    if clauses.is_grouped || equal.is_empty() && !ends_early {
        return Vec::new();
    }
    let mut columns: Vec<(String, bool)> = Vec::new();
    for (it, descends) in &clauses.order {
        let Some(name) = own_expression(clauses, source, it) else {
            return Vec::new();
        };
        let is_alias = matches!(it, Expression::Column(it) if it.qualifier.is_empty())
            && clauses.aliases.iter().any(|it| it == name);
        if is_alias {
            return Vec::new();
        }
        let is_constant = equal.iter().any(|it| it.0 == name);
        if !is_constant && !columns.iter().any(|it| it.0 == name) {
            columns.push((name.to_owned(), *descends));
        }
    }
    // An index is read backwards as quickly: only mixed directions must be said.
    if columns.iter().all(|it| it.1) {
        columns.iter_mut().for_each(|it| it.1 = false);
    }
    columns
}

/// `deleted_at is null`, where an index may be of some rows.
fn only(clauses: &Clauses, source: &Source, engine: Engine) -> Option<String> {
    let mut nulls = clauses.terms.iter().filter_map(|it| match it {
        Term::IsNull(column) => own(clauses, source, column),
        _ => None,
    });
    let first = nulls.find(|_| engine.is_partial())?;
    Some(format!("{first} is null"))
}

/// What is selected beside the index's columns, if that is little.
fn included(
    clauses: &Clauses,
    source: &Source,
    candidate: &Candidate,
    engine: Engine,
) -> Vec<String> {
    if clauses.sources.len() != 1 || clauses.is_grouped || clauses.selected.is_empty() {
        return Vec::new();
    }
    let mut included: Vec<String> = Vec::new();
    for it in &clauses.selected {
        let Some(name) = own_expression(clauses, source, it) else {
            return Vec::new();
        };
        let is_there = candidate.columns.iter().any(|it| it.0 == name)
            || included.iter().any(|it| it == name)
            || engine.has_key_in_every_index() && is_key(&candidate.table, name);
        if !is_there {
            included.push(name.to_owned());
        }
    }
    // What conditions read beside the index would be looked up in the table all the same.
    if included.len() > INCLUDED_MAX || !answers_all(clauses, source, candidate) {
        return Vec::new();
    }
    included
}

/// Every condition is one that the candidate's columns answer.
fn answers_all(clauses: &Clauses, source: &Source, candidate: &Candidate) -> bool {
    let is_in = |name: Option<&str>| {
        name.is_some_and(|name| candidate.columns.iter().any(|it| it.0 == name))
    };
    clauses.terms.iter().all(|it| match it {
        Term::Equal { left, .. } | Term::Range(left) => {
            is_in(own_expression(clauses, source, left))
        }
        Term::IsNull(column) => {
            candidate.only.as_deref() == Some(&format!("{} is null", column.name))
        }
        _ => false,
    }) && clauses
        .order
        .iter()
        .all(|it| is_in(own_expression(clauses, source, &it.0)))
}

fn of_join(clauses: &Clauses, source: &Source) -> Option<Suggestion> {
    let table = source.table.clone()?;
    let mut columns: Vec<(String, bool)> = Vec::new();
    for term in &clauses.terms {
        let Term::Join(a, b) = term else {
            continue;
        };
        // Only where both say whose they are.
        let own_side = match (own(clauses, source, a), own(clauses, source, b)) {
            (Some(it), None) if !b.qualifier.is_empty() => it,
            (None, Some(it)) if !a.qualifier.is_empty() => it,
            _ => continue,
        };
        if !columns.iter().any(|it| it.0 == own_side) {
            columns.push((own_side.to_owned(), false));
        }
    }
    if columns.is_empty() || columns.iter().any(|it| is_key(&table, &it.0)) {
        return None;
    }
    for (name, _) in equal(clauses, source) {
        if !columns.iter().any(|it| it.0 == name) {
            columns.push((name.to_owned(), false));
        }
    }
    columns.truncate(EQUAL_MAX);
    Some(Suggestion::Index(Candidate {
        table,
        equal: columns.len(),
        columns,
        is_ordered: false,
        included: Vec::new(),
        only: None,
        is_join: true,
    }))
}

/// The primary key, almost surely: `id`, and `film_id` of `films`.
fn is_key(table: &str, column: &str) -> bool {
    let bare = |it: &str| {
        let last = it.rsplit('.').next().unwrap_or(it);
        last.trim_matches(['"', '`']).to_lowercase()
    };
    let (table, column) = (bare(table), bare(column));
    if matches!(column.as_str(), "id" | "_id" | "pk" | "rowid") {
        return true;
    }
    let stem = column
        .strip_suffix("_id")
        .or(column.strip_suffix("id"))
        .unwrap_or_default();
    !stem.is_empty() && (stem == table || table.strip_suffix('s') == Some(stem))
}

/// Columns that have few different values, by what they are called.
fn has_few_values(column: &str) -> bool {
    let column = column.trim_matches(['"', '`']).to_lowercase();
    let names = [
        "status",
        "state",
        "type",
        "kind",
        "active",
        "enabled",
        "disabled",
        "deleted",
        "archived",
        "published",
        "visible",
        "hidden",
        "gender",
        "level",
        "priority",
        "role",
        "approved",
        "verified",
        "processed",
        "locked",
        "closed",
        "paid",
        "public",
        "private",
        "done",
        "flag",
    ];
    let starts = ["is_", "has_", "can_"];
    let ends = ["_flag", "_status", "_state", "_type", "_kind"];
    names.contains(&column.as_str())
        || starts.iter().any(|it| column.starts_with(it))
        || ends.iter().any(|it| column.ends_with(it))
}

impl Candidate {
    /// `orders (customer_id, created_at)`
    pub(super) fn in_words(&self) -> String {
        format!("{} ({})", self.table, self.list())
    }

    fn list(&self) -> String {
        let columns = self.columns.iter().map(|(it, descends)| match descends {
            true => format!("{it} desc"),
            false => it.clone(),
        });
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The statement that makes it.
    pub(super) fn create(&self, engine: Engine) -> Option<String> {
        let mut definition = format!("({})", self.list());
        if engine.includes() && !self.included.is_empty() {
            definition += &format!(" include ({})", self.included.join(", "));
        }
        if let Some(only) = &self.only {
            definition += &format!(" where {only}");
        }
        let bare = self.table.rsplit('.').next().unwrap_or(&self.table);
        let mut words = vec![bare];
        words.extend(self.columns.iter().map(|it| it.0.as_str()));
        engine.create_index(&self.table, &words, &definition)
    }
}
