//! `GET /products/{id}`: how an endpoint should be. In this form, that of version 1.0.0, it must never
//! be accused of anything; [`super::lowest_price`] is what comes after it.

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
    /// It used to cost more.
    pub(super) reduced: bool,
}

const PRODUCT: Statement = Statement {
    summary: "SELECT products",
    function: concat!(module_path!(), "::product"),
    text: "select id, name, price_cents, reduced from products where id = $1",
};

pub(super) async fn product(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<Product>, ShopError> {
    load(&shop, id).await.map(Json)
}

pub(super) async fn load(shop: &Shop, id: i32) -> Result<Product, ShopError> {
    let product = shop.db.fetch_optional(&PRODUCT, id).await?;
    product.ok_or(ShopError::NotFound)
}
