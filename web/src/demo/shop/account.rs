//! `GET /accounts/{id}`: the greeting, the badge and the footer each load the customer for themselves.
//! **Duplicate queries**: the same question, four times within one request.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

const CUSTOMER: Statement = Statement {
    summary: "SELECT orders",
    function: concat!(module_path!(), "::customer"),
    text: "select count(*) as orders, coalesce(sum(total_cents), 0)::bigint as spent_cents, \
           coalesce(sum(json_array_length(lines)), 0)::bigint as items from orders where customer_id = $1",
};

#[derive(FromRow)]
struct Customer {
    orders: i64,
    spent_cents: i64,
    items: i64,
}

pub(super) async fn account(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<Value>, ShopError> {
    let page = json!({
        "greeting": format!("Welcome back, customer of {} orders", customer(&shop, id).await?.orders),
        "badge": if customer(&shop, id).await?.spent_cents > 5_000_000 { "gold" } else { "silver" },
        "history": format!("{} items so far", customer(&shop, id).await?.items),
        "footer": format!("{} orders and counting", customer(&shop, id).await?.orders),
    });
    Ok(Json(page))
}

async fn customer(shop: &Shop, id: i32) -> Result<Customer, ShopError> {
    let customer = shop.db.fetch_optional(&CUSTOMER, id).await?;
    customer.ok_or(ShopError::NotFound)
}
