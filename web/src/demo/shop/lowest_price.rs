//! `GET /products/{id}` in version 1.1.0, which shows beside a reduced price the lowest one there was.
//! **A slow tail after a deployment.**
//!
//! The prices of before are in a log that somebody's import writes, without an index: looking for one
//! product's reads all of it, which takes about a tenth of a second. One product in eight is reduced. So the median stays
//! what it was, the average hardly moves, and every eighth customer waits.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use sqlx::FromRow;

use super::product::{self, Product};
use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

/// With an index on the first expression, or the number in a column of its own, it would take less than
/// a millisecond.
const LOWEST_PRICE: Statement = Statement {
    summary: "SELECT price_log",
    function: concat!(module_path!(), "::lowest_price"),
    text: "select min((change ->> 'price_cents')::integer) as lowest_cents from price_log \
           where (change ->> 'product_id')::integer = $1",
};

#[derive(Serialize)]
pub(super) struct ProductWithHistory {
    #[serde(flatten)]
    product: Product,
    lowest_cents: Option<i32>,
}

#[derive(FromRow)]
struct LowestPrice {
    lowest_cents: Option<i32>,
}

pub(super) async fn product(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<ProductWithHistory>, ShopError> {
    let product = product::load(&shop, id).await?;
    let lowest_cents = match product.reduced {
        true => lowest_price(&shop, id).await?,
        false => None,
    };
    Ok(Json(ProductWithHistory {
        product,
        lowest_cents,
    }))
}

async fn lowest_price(shop: &Shop, id: i32) -> Result<Option<i32>, ShopError> {
    let lowest: Option<LowestPrice> = shop.db.fetch_optional(&LOWEST_PRICE, id).await?;
    Ok(lowest.and_then(|it| it.lowest_cents))
}
