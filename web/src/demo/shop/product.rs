//! `GET /products/{id}`: how an endpoint should be. It must never be accused of anything.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

#[derive(FromRow, Serialize)]
pub(super) struct Product {
    id: i32,
    name: String,
    price_cents: i32,
}

const PRODUCT: Statement = Statement {
    summary: "SELECT products",
    function: concat!(module_path!(), "::product"),
    text: "select id, name, price_cents from products where id = $1",
};

pub(super) async fn product(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<Product>, ShopError> {
    let product = shop.db.fetch_optional(&PRODUCT, id).await?;
    product.map(Json).ok_or(ShopError::NotFound)
}
