//! `GET /stock/{id}`: asks the warehouse's database, whose client library knows no pool. **A
//! connection for every query**: opening one takes longer than what is asked.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

const SOLD: Statement = Statement {
    summary: "SELECT cart_lines",
    function: concat!(module_path!(), "::stock"),
    text: "select coalesce(sum(quantity), 0)::bigint as pieces from cart_lines where cart_id = $1",
};

const RESERVED: Statement = Statement {
    summary: "SELECT basket_lines",
    function: concat!(module_path!(), "::stock"),
    text: "select coalesce(sum(quantity), 0)::bigint as pieces from basket_lines where basket_id = $1",
};

#[derive(FromRow)]
struct Pieces {
    pieces: i64,
}

pub(super) async fn stock(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<Value>, ShopError> {
    let sold: Pieces = shop.db.fetch_one_unpooled(&SOLD, id).await?;
    let reserved: Pieces = shop.db.fetch_one_unpooled(&RESERVED, id).await?;
    Ok(Json(
        json!({ "sold": sold.pieces, "reserved": reserved.pieces }),
    ))
}
