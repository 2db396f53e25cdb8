//! `GET /report`: every figure of the page is a query of its own. **A chatty endpoint**: no loop, no
//! slow query, just too many of them.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

#[derive(FromRow)]
struct Figure {
    figure: i64,
}

/// A figure of each of these expressions over each of these tables.
macro_rules! figures {
    ($($table:literal: $($expression:literal),+;)+) => {
        &[$($(Statement {
            summary: concat!("SELECT ", $table),
            function: concat!(module_path!(), "::report"),
            text: concat!("select coalesce(", $expression, ", 0)::bigint as figure from ", $table, " where id <= $1"),
        }),+),+]
    };
}

/// One statement for each table would do.
const FIGURES: &[Statement] = figures! {
    "orders": "count(*)", "min(total_cents)", "max(total_cents)", "sum(total_cents)", "avg(total_cents)",
        "count(distinct customer_id)", "min(id)", "max(id)", "stddev(total_cents)", "bit_xor(id)", "var_pop(total_cents)";
    "products": "count(*)", "min(price_cents)", "max(price_cents)", "sum(price_cents)", "avg(price_cents)",
        "min(id)", "max(id)", "stddev(price_cents)", "max(length(name))", "bit_xor(id)", "var_pop(price_cents)";
    "authors": "count(*)", "max(length(name))", "min(length(name))", "sum(length(name))", "max(id)", "min(id)",
        "count(distinct name)", "avg(id)", "avg(length(name))", "bit_xor(id)", "var_pop(id)", "stddev(id)";
};

/// Rows that a figure is of.
const FIRST_ROWS: i32 = 500;

pub(super) async fn report(State(shop): State<Shop>) -> Result<Json<Value>, ShopError> {
    let mut report = Map::new();
    for statement in FIGURES {
        let figure: Option<Figure> = shop.db.fetch_optional(statement, FIRST_ROWS).await?;
        report.insert(statement.text.into(), json!(figure.map(|it| it.figure)));
    }
    Ok(Json(report.into()))
}
