//! `PUT /wishlists/{id}`: saves a list of products one by one. **N+1 writes.** Each insert is a
//! transaction of its own and waits for the disk.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

const FORGET: Statement = Statement {
    summary: "DELETE wishlist_items",
    function: concat!(module_path!(), "::save"),
    text: "delete from wishlist_items where wishlist_id = $1",
};

/// One statement would take them all: `insert … select $1, unnest($2::integer[])`.
const REMEMBER: Statement = Statement {
    summary: "INSERT wishlist_items",
    function: concat!(module_path!(), "::save"),
    text: "insert into wishlist_items (wishlist_id, product_id) values ($1, $2) on conflict do nothing",
};

pub(super) async fn save(
    State(shop): State<Shop>,
    Path(wishlist): Path<i32>,
    Json(products): Json<Vec<i32>>,
) -> Result<StatusCode, ShopError> {
    shop.db.execute(&FORGET, wishlist).await?;
    for product in products {
        shop.db.execute(&REMEMBER, (wishlist, product)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
