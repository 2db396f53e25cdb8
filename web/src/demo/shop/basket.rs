//! `GET /baskets/{id}`: asks the pricing service for each line's price. **N+1 calls**: every one is a
//! round trip and quick by itself.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{PRICING_HOST, Shop, ShopError};
use crate::demo::instrument::Statement;

const LINES: Statement = Statement {
    summary: "SELECT basket_lines",
    function: concat!(module_path!(), "::basket"),
    text: "select product_id, quantity from basket_lines where basket_id = $1",
};

#[derive(FromRow)]
struct Line {
    product_id: i32,
    quantity: i32,
}

pub(super) async fn basket(
    State(shop): State<Shop>,
    Path(basket): Path<i32>,
) -> Result<Json<Value>, ShopError> {
    let lines: Vec<Line> = shop.db.fetch_all(&LINES, basket).await?;
    let mut priced = Vec::with_capacity(lines.len());
    for line in &lines {
        let uri = format!("http://{PRICING_HOST}/v1/prices/{}", line.product_id);
        let function = concat!(module_path!(), "::basket");
        let status = shop.http.get(uri, "/v1/prices/{id}", function).await?;
        priced.push(json!({
            "product": line.product_id, "quantity": line.quantity, "priced": status.is_success(),
        }));
    }
    Ok(Json(json!({ "basket": basket, "lines": priced })))
}
