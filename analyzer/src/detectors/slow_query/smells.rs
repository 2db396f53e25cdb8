//! What in a statement's text tends to be slow whatever indexes there are.

use super::advice::Asked;
use super::engine::Engine;
use crate::sql::clauses::{Clauses, Column, Expression, Term};
use crate::sql::{self, StatementKind};

/// So many rows passed over cost more than a page.
const OFFSET_MIN: u64 = 1_000;
/// So many rows returned are more than anybody looks at.
const ROWS_MANY: u64 = 1_000;
/// So many values in a list: planning and sending them begins to count.
const LIST_LONG: u32 = 500;

/// What is visible, most promising first.
pub(super) fn sure(
    asked: &Asked<'_>,
    engine: Option<Engine>,
    clauses: Option<&Clauses>,
) -> Vec<String> {
    let mut hints = Vec::new();
    let Some(clauses) = clauses else {
        hints.extend(long_list(asked, engine));
        return hints;
    };
    hints.extend(product(clauses));
    hints.extend(visible_wildcard(asked, engine, clauses));
    hints.extend(visible_offset(asked));
    hints.extend(random_order(clauses));
    hints.extend(not_in(clauses));
    hints.extend(functions(engine, clauses));
    hints.extend(alternatives(clauses));
    hints.extend(long_list(asked, engine));
    hints.extend(count_all(asked, clauses));
    hints.extend(everything(asked, clauses));
    hints.extend(many_rows(asked, clauses));
    hints.extend(national_literal(asked, engine));
    hints
}

/// What may be so, if values that are hidden are of that kind.
pub(super) fn possible(
    asked: &Asked<'_>,
    engine: Option<Engine>,
    clauses: Option<&Clauses>,
) -> Vec<String> {
    let Some(clauses) = clauses else {
        return Vec::new();
    };
    let pattern = pattern_column(clauses).filter(|_| !shows_pattern(asked));
    let pattern = pattern.map(|it| {
        format!(
            "If the pattern for {it} begins with `%`, no ordinary index can serve it; {}.",
            pattern_index(engine)
        )
    });
    let offset = (clauses.has_offset && sql::visible_offset(asked.raw, asked.system).is_none())
        .then(|| format!("If OFFSET grows large, it {OFFSET}"));
    pattern.into_iter().chain(offset).collect()
}

const OFFSET: &str = "reads all rows before the page and throws them away; continue from the last row's key instead \
                      (`where id > … order by id limit …`).";

fn visible_offset(asked: &Asked<'_>) -> Option<String> {
    let offset = sql::visible_offset(asked.raw, asked.system)?;
    (offset >= OFFSET_MIN).then(|| format!("OFFSET {offset} {OFFSET}"))
}

/// The first text that is matched with a pattern.
fn pattern_column(clauses: &Clauses) -> Option<&str> {
    patterns(&clauses.terms).next().map(|it| match it {
        Expression::Column(column) => column.name.as_str(),
        Expression::Computed { text, .. } => text,
        _ => "it",
    })
}

fn patterns(terms: &[Term]) -> Box<dyn Iterator<Item = &Expression> + '_> {
    Box::new(terms.iter().flat_map(|it| match it {
        Term::Like(left) => Box::new(std::iter::once(left)),
        Term::Or(terms) => patterns(terms),
        _ => Box::new(std::iter::empty()) as Box<dyn Iterator<Item = &Expression> + '_>,
    }))
}

/// A visible pattern begins with a wildcard. Which condition it belongs to is not asked: statements with
/// several patterns have them of one kind.
fn has_wildcard(asked: &Asked<'_>) -> bool {
    let literals = sql::literals(asked.raw, asked.system);
    literals.iter().any(|it| {
        it.trim_start_matches(['e', 'E', 'n', 'N'])
            .trim_start_matches(['\'', '"'])
            .starts_with('%')
    })
}

/// Patterns are visible: some text is.
fn shows_pattern(asked: &Asked<'_>) -> bool {
    let literals = sql::literals(asked.raw, asked.system);
    literals.iter().any(|it| it.contains(['\'', '"']))
}

fn pattern_index(engine: Option<Engine>) -> &'static str {
    match engine {
        Some(Engine::Postgres) => {
            "a trigram index (`pg_trgm`, `using gin`) or full-text search does"
        }
        _ => "a full-text index does",
    }
}

fn visible_wildcard(
    asked: &Asked<'_>,
    engine: Option<Engine>,
    clauses: &Clauses,
) -> Option<String> {
    let column = pattern_column(clauses)?;
    has_wildcard(asked).then(|| {
        format!(
            "The pattern for {column} begins with `%`, which no ordinary index can serve; {}.",
            pattern_index(engine)
        )
    })
}

/// The trigram index for a visible wildcard, if the text says on what.
pub(super) fn pattern_code(
    asked: &Asked<'_>,
    engine: Option<Engine>,
    clauses: &Clauses,
) -> Option<String> {
    let ([source], Some(Engine::Postgres)) = (&clauses.sources[..], engine) else {
        return None;
    };
    let table = source.table.as_ref().filter(|_| has_wildcard(asked))?;
    let mut columns: Vec<&str> = Vec::new();
    for pattern in patterns(&clauses.terms) {
        let Expression::Column(column) = pattern else {
            return None;
        };
        columns.push(&column.name);
    }
    columns.dedup();
    let operators: Vec<_> = columns
        .iter()
        .map(|it| format!("{it} gin_trgm_ops"))
        .collect();
    (!columns.is_empty()).then(|| {
        format!(
            "create extension if not exists pg_trgm;\ncreate index concurrently on {table} using gin ({});",
            operators.join(", ")
        )
    })
}

/// Functions of dates: a range of the bare column asks the same.
const DATES: &[&str] = &[
    "date",
    "date_trunc",
    "date_format",
    "datepart",
    "day",
    "dayofmonth",
    "extract",
    "from_unixtime",
    "hour",
    "month",
    "strftime",
    "to_char",
    "to_date",
    "trunc",
    "unix_timestamp",
    "week",
    "year",
];

/// Functions that always give the same for the same, so that an index can hold the result.
const PURE: &[&str] = &[
    "lower", "upper", "trim", "ltrim", "rtrim", "btrim", "abs", "md5", "length", "reverse",
    "lcase", "ucase",
];

fn functions(engine: Option<Engine>, clauses: &Clauses) -> Option<String> {
    clauses.terms.iter().find_map(|it| {
        let (Term::Equal { left, .. } | Term::Range(left)) = it else {
            return None;
        };
        let Expression::Computed {
            text,
            columns,
            function,
        } = left
        else {
            return None;
        };
        let [column] = &columns[..] else {
            return None;
        };
        Some(function_hint(engine, text, column, function))
    })
}

fn function_hint(engine: Option<Engine>, text: &str, column: &Column, function: &str) -> String {
    let name = &column.name;
    let wrong = format!("An index on {name} does not serve {text}");
    if DATES.contains(&function) {
        return format!(
            "{wrong}: compare the bare column with a range instead (`{name} >= … and {name} < …`)."
        );
    }
    if function == "cast" {
        return format!("{wrong}: leave the column as it is and give the value the column's type.");
    }
    let expression = match column.qualifier.is_empty() {
        true => text.to_owned(),
        false => text.replace(&format!("{}.", column.qualifier), ""),
    };
    let is_whole = PURE.contains(&function) && !expression.contains('?');
    match engine
        .and_then(|it| it.expression(&expression))
        .filter(|_| is_whole)
    {
        Some(indexed) => {
            format!("{wrong}: index that expression (`({indexed})`), or compare the bare column.")
        }
        None => format!(
            "{wrong}: compare the bare column, or index that expression if your database can."
        ),
    }
}

fn alternatives(clauses: &Clauses) -> Option<String> {
    let found = clauses.terms.iter().find_map(|it| match it {
        Term::Or(alternatives) => Some(alternatives),
        _ => None,
    })?;
    let mut columns: Vec<Column> = Vec::new();
    found.iter().for_each(|it| columns_of(it, &mut columns));
    columns.sort();
    columns.dedup();
    if columns.len() < 2 {
        return None;
    }
    let first = &columns[0].qualifier;
    let is_across = columns.iter().any(|it| it.qualifier != *first);
    Some(match is_across {
        true => {
            "Its OR spans several tables, so that no index can narrow any of them: ask for each alternative and put \
             them together with UNION."
        }
        false => {
            "Its OR needs an index for each alternative, and one without makes the others useless: ask for each and put \
             them together with UNION ALL if they are slow together."
        }
    }
    .to_owned())
}

fn columns_of(term: &Term, columns: &mut Vec<Column>) {
    match term {
        Term::Equal { left, .. } | Term::Range(left) | Term::Like(left) => match left {
            Expression::Column(it) => columns.push(it.clone()),
            Expression::Computed { columns: more, .. } => columns.extend(more.iter().cloned()),
            _ => {}
        },
        Term::IsNull(it) | Term::Flag(it) => columns.push(it.clone()),
        Term::Join(a, b) => columns.extend([a.clone(), b.clone()]),
        Term::Or(terms) => terms.iter().for_each(|it| columns_of(it, columns)),
        Term::Other(more) => columns.extend(more.iter().cloned()),
        Term::Subquery { .. } => {}
    }
}

/// Tables that nothing ties together. Where a condition's columns do not say whose they are, nothing is
/// said either.
fn product(clauses: &Clauses) -> Option<String> {
    let mut columns = Vec::new();
    let mut ties: Vec<(String, String)> = Vec::new();
    for term in &clauses.terms {
        columns.clear();
        columns_of(term, &mut columns);
        if matches!(term, Term::Subquery { .. })
            || columns.len() > 1 && columns.iter().any(|it| it.qualifier.is_empty())
        {
            return None;
        }
        for pair in columns.windows(2) {
            ties.push((pair[0].qualifier.clone(), pair[1].qualifier.clone()));
        }
    }
    let is_tied = |alias: &str| {
        ties.iter()
            .any(|(a, b)| a != b && (a == alias || b == alias))
    };
    let lone = clauses
        .sources
        .iter()
        .find(|it| it.is_unjoined && !is_tied(&it.alias))?;
    let table = lone.table.as_ref()?;
    Some(format!(
        "Nothing ties {table} to the other tables, so every row of it is paired with every row of theirs: add the \
         condition that joins them."
    ))
}

fn random_order(clauses: &Clauses) -> Option<String> {
    let random = [
        "random()",
        "rand()",
        "newid()",
        "dbms_random.value",
        "rand(?)",
    ];
    let is_random = clauses
        .order
        .iter()
        .any(|it| matches!(&it.0, Expression::Value(text) if random.contains(&text.as_str())));
    is_random.then(|| {
        "ORDER BY a random number reads and sorts everything to keep a few rows: pick random keys first, or sample the \
         table."
            .to_owned()
    })
}

fn not_in(clauses: &Clauses) -> Option<String> {
    clauses.terms.contains(&Term::Subquery { negated: true }).then(|| {
        "NOT IN with a subquery must mind nulls, so it is often done row by row: write NOT EXISTS instead.".to_owned()
    })
}

fn long_list(asked: &Asked<'_>, engine: Option<Engine>) -> Option<String> {
    let len = asked.statement.in_list_len;
    if len < LIST_LONG || asked.statement.kind == StatementKind::Insert {
        return None;
    }
    let instead = match engine {
        Some(Engine::Postgres) => "pass one array (`= any($1)`), or join with a temporary table",
        _ => "join with a temporary table, or ask in pieces",
    };
    Some(format!(
        "Its IN list has {len} values, which are parsed and planned anew each time: {instead}."
    ))
}

/// Functions that need every row.
fn is_aggregate(it: &Expression) -> bool {
    let texts = [
        "count(",
        "sum(",
        "avg(",
        "min(",
        "max(",
        "array_agg(",
        "string_agg(",
        "group_concat(",
        "json_agg(",
    ];
    let text = match it {
        Expression::Computed { text, .. } | Expression::Value(text) => text,
        _ => return false,
    };
    texts.iter().any(|it| text.contains(it))
}

/// The one table that is read without any condition.
fn read_as_a_whole<'c>(asked: &Asked<'_>, clauses: &'c Clauses) -> Option<&'c str> {
    let [source] = &clauses.sources[..] else {
        return None;
    };
    let is_whole = asked.statement.kind == StatementKind::Select && clauses.terms.is_empty();
    // A condition that is not understood is a term too; these parts hold what are none.
    let is_narrowed = [" where ", " having ", " match "]
        .iter()
        .any(|it| asked.statement.text.contains(it));
    source.table.as_deref().filter(|_| is_whole && !is_narrowed)
}

fn count_all(asked: &Asked<'_>, clauses: &Clauses) -> Option<String> {
    let table = read_as_a_whole(asked, clauses)?;
    let is_count =
        matches!(&clauses.selected[..], [Expression::Value(text)] if text.starts_with("count("));
    (is_count && !asked.statement.text.contains(" group by ")).then(|| {
        format!(
            "It counts all of {table}, which reads an entry of each row: keep a counter, count less often, or show an \
             estimate."
        )
    })
}

fn everything(asked: &Asked<'_>, clauses: &Clauses) -> Option<String> {
    let table = read_as_a_whole(asked, clauses)?;
    if clauses.is_limited || clauses.is_grouped || clauses.selected.iter().any(is_aggregate) {
        return None;
    }
    Some(format!(
        "Without WHERE and LIMIT it reads all of {table}: page it, or aggregate in the database."
    ))
}

fn many_rows(asked: &Asked<'_>, clauses: &Clauses) -> Option<String> {
    let rows = asked.rows.filter(|it| *it >= ROWS_MANY)?;
    let mut todo = Vec::new();
    if !clauses.is_limited {
        todo.push("page them with LIMIT");
    }
    if clauses.selected.contains(&Expression::All) {
        todo.push("name the columns that are needed instead of `*`");
    }
    (!todo.is_empty()).then(|| format!("It returns {rows} rows: {}.", todo.join(", and ")))
}

/// SQL Server turns a column of type varchar into nvarchar for such a literal, row by row.
fn national_literal(asked: &Asked<'_>, engine: Option<Engine>) -> Option<String> {
    let is_national = |it: &&str| it.starts_with("N'") || it.starts_with("n'");
    let literals = sql::literals(asked.raw, asked.system);
    (engine == Some(Engine::SqlServer) && literals.iter().any(is_national)).then(|| {
        "It compares with N'…': if that column is varchar and not nvarchar, each row is converted and no index is \
         sought; pass a value of the column's type."
            .to_owned()
    })
}
