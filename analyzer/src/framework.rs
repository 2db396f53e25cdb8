//! Which library made the statements, and what eager loading is called there.

use crate::Analysis;
use crate::trace::SpanIdx;

/// A library that makes statements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framework {
    /// For people.
    pub name: &'static str,
    /// How rows are loaded together in it. A sentence.
    pub load_together: &'static str,
}

/// Beginnings or parts of scope names, lower case, and whose they are. The first that fits wins.
static KNOWN: &[(&[&str], Framework)] = &[
    (
        &["django"],
        Framework {
            name: "Django",
            load_together: "Add `select_related(…)` (foreign keys) or `prefetch_related(…)` (lists) to the queryset that loads the parent rows.",
        },
    ),
    (
        &["sqlalchemy"],
        Framework {
            name: "SQLAlchemy",
            load_together: "Load the relationship with the parent rows: `.options(selectinload(Parent.children))` for lists, `joinedload(…)` for single rows; `lazy=\"raise\"` on the relationship keeps it from coming back.",
        },
    ),
    (
        &[
            "active_record",
            "activerecord",
            "action_pack",
            "actionpack",
            "rails",
        ],
        Framework {
            name: "Rails Active Record",
            load_together: "Add `.includes(:association)` (or `.preload`) to the relation that loads the parent rows; `strict_loading` keeps it from coming back.",
        },
    ),
    (
        &[
            "hibernate",
            "spring-data",
            "spring.data",
            "jpa",
            "eclipselink",
        ],
        Framework {
            name: "Hibernate / Spring Data",
            load_together: "Fetch the association in the query of the parent rows: `join fetch` in JPQL or `@EntityGraph(attributePaths = …)` on the repository method; `@BatchSize` or `hibernate.default_batch_fetch_size` turn N queries into N/size as a first step.",
        },
    ),
    (
        &["entityframework"],
        Framework {
            name: "Entity Framework",
            load_together: "Add `.Include(x => x.Navigation)` to the query of the parent rows (with `.AsSplitQuery()` for several lists), or project with `.Select(…)` so that one query returns all that is shown.",
        },
    ),
    (
        &["prisma"],
        Framework {
            name: "Prisma",
            load_together: "Ask for the relation with the parent rows: `include: { relation: true }`, or collect the ids and use one `findMany({ where: { id: { in: ids } } })`.",
        },
    ),
    (
        &["typeorm"],
        Framework {
            name: "TypeORM",
            load_together: "Name the relation in the query of the parent rows: `relations: { child: true }` in `find`, or `leftJoinAndSelect` in the query builder; lazy relations load row by row.",
        },
    ),
    (
        &["sequelize"],
        Framework {
            name: "Sequelize",
            load_together: "Add `include: [Child]` to the query of the parent rows (`separate: true` for long lists).",
        },
    ),
    (
        &["gorm"],
        Framework {
            name: "GORM",
            load_together: "Add `.Preload(\"Association\")` (or `.Joins(\"Association\")` for single rows) to the query of the parent rows.",
        },
    ),
    (
        &["ecto"],
        Framework {
            name: "Ecto",
            load_together: "Preload the association with the parent rows: `preload: [:association]` in the query or one `Repo.preload/2` on the whole list, not one per element.",
        },
    ),
    (
        &["laravel", "eloquent"],
        Framework {
            name: "Laravel Eloquent",
            load_together: "Add `->with('relation')` to the query of the parent rows; `Model::preventLazyLoading()` outside production keeps it from coming back.",
        },
    ),
    (
        &["doctrine"],
        Framework {
            name: "Doctrine",
            load_together: "Fetch-join the association in the query of the parent rows (`leftJoin` plus `addSelect`).",
        },
    ),
    (
        &["sea-orm", "sea_orm", "seaorm"],
        Framework {
            name: "SeaORM",
            load_together: "Load the related rows for the whole list: `parents.load_one(Child, db)` or `load_many`, or `find_also_related` in the query.",
        },
    ),
    (
        &["diesel"],
        Framework {
            name: "Diesel",
            load_together: "Load the children of the whole list at once: `Child::belonging_to(&parents).load(…)` and `grouped_by(&parents)`, or a join.",
        },
    ),
    (
        &["sqlx"],
        Framework {
            name: "sqlx",
            load_together: "Collect the ids and bind them as one array: `where id = any($1)` with `&ids[..]`, then match rows to parents with a `HashMap`; or join in the first query.",
        },
    ),
];

/// Fits whatever library made the statement.
const GENERIC: &str = "Load the related rows together with the list they belong to: join them in the first query, or collect the ids and fetch all of them with one query (`= any($1)` or `in (…)`), then match them in memory.";

/// The library that made the statement of `span`: its scope or that of the nearest ancestor down from
/// `top` that tells.
pub fn framework(analysis: &Analysis<'_>, span: SpanIdx, top: SpanIdx) -> Option<Framework> {
    let ancestors = std::iter::successors(Some(span), |it| analysis.trace.node(*it).parent);
    let mut inside = ancestors.take_while(|it| *it >= top);
    inside.find_map(|it| {
        let scopes = &analysis.trace.spans.scopes;
        let scope = scopes.get(analysis.trace.span(it).scope as usize)?;
        by_scope(scope.name)
    })
}

fn by_scope(scope: &str) -> Option<Framework> {
    let scope = scope.to_ascii_lowercase();
    let fits = |(parts, _): &&(&[&str], Framework)| parts.iter().any(|it| scope.contains(it));
    KNOWN.iter().find(fits).map(|it| it.1)
}

/// How to load rows together, in the framework's words or in general ones.
pub fn load_together(framework: Option<Framework>) -> &'static str {
    framework.map_or(GENERIC, |it| it.load_together)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_name_their_framework() {
        let cases = [
            ("opentelemetry.instrumentation.django", Some("Django")),
            (
                "opentelemetry.instrumentation.sqlalchemy",
                Some("SQLAlchemy"),
            ),
            (
                "OpenTelemetry::Instrumentation::ActiveRecord",
                Some("Rails Active Record"),
            ),
            (
                "io.opentelemetry.hibernate-6.0",
                Some("Hibernate / Spring Data"),
            ),
            (
                "io.opentelemetry.spring-data-1.8",
                Some("Hibernate / Spring Data"),
            ),
            (
                "OpenTelemetry.Instrumentation.EntityFrameworkCore",
                Some("Entity Framework"),
            ),
            ("prisma", Some("Prisma")),
            ("gorm.io/plugin/opentelemetry", Some("GORM")),
            ("opentelemetry_ecto", Some("Ecto")),
            (
                "io.opentelemetry.contrib.php.laravel",
                Some("Laravel Eloquent"),
            ),
            ("io.opentelemetry.jdbc", None),
            ("opentelemetry.instrumentation.psycopg2", None),
            ("", None),
        ];
        for (scope, expected) in cases {
            assert_eq!(by_scope(scope).map(|it| it.name), expected, "{scope}");
        }
    }
}
