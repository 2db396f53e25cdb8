//! `GET /home`: three things that know nothing of each other, fetched one after the other. **Serial
//! independent calls**: `try_join!` would make the page as slow as the slowest of them.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{PRICING_HOST, SHIPPING_HOST, Shop, ShopError};

pub(super) async fn home(State(shop): State<Shop>) -> Result<Json<Value>, ShopError> {
    let offers = ask(&shop, PRICING_HOST, "/v1/offers").await?;
    let trends = ask(&shop, PRICING_HOST, "/v1/trends").await?;
    let zones = ask(&shop, SHIPPING_HOST, "/v1/zones").await?;
    Ok(Json(
        json!({ "offers": offers, "trends": trends, "zones": zones }),
    ))
}

async fn ask(shop: &Shop, host: &str, path: &'static str) -> Result<u16, ShopError> {
    let function = concat!(module_path!(), "::ask");
    let uri = format!("http://{host}{path}");
    Ok(shop.http.get(uri, path, function).await?.as_u16())
}
