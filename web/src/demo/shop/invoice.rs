//! `GET /invoices/{customer}`: three queries at once, on a pool of one connection. **Waiting for the
//! pool**: the queries look slow from outside and are not; two of three stand in line.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

#[derive(FromRow)]
struct Sum {
    sum: i64,
}

/// A sum over every line of a customer's orders, some 4,000 documents.
macro_rules! over_lines {
    ($expression:literal) => {
        Statement {
            summary: "SELECT orders",
            function: concat!(module_path!(), "::invoice"),
            text: concat!(
                "select coalesce(sum(",
                $expression,
                "), 0)::bigint as sum from orders o \
                 cross join lateral json_array_elements(o.lines) line where o.customer_id = $1"
            ),
        }
    };
}

const NET: Statement = over_lines!("(line ->> 'unit_price_cents')::integer");
const PIECES: Statement = over_lines!("(line ->> 'quantity')::integer");
const GIFTS: Statement = over_lines!("(line ->> 'gift')::boolean::integer");

pub(super) async fn invoice(
    State(shop): State<Shop>,
    Path(customer): Path<i32>,
) -> Result<Json<Value>, ShopError> {
    let archive = &shop.archive;
    let (net, pieces, gifts): (Sum, Sum, Sum) = tokio::try_join!(
        archive.fetch_one_in_turn(&NET, customer),
        archive.fetch_one_in_turn(&PIECES, customer),
        archive.fetch_one_in_turn(&GIFTS, customer),
    )?;
    Ok(Json(
        json!({ "net_cents": net.sum, "pieces": pieces.sum, "gifts": gifts.sum }),
    ))
}
