//! `POST /parcels`: a label is tried again at once when the shipping service has failed, and again.
//! **Retries** without a pause: they fail for the same reason and the customer waits for each.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Shop, ShopError};

const LABEL_URI: &str = "http://shipping.internal/v1/labels";

/// Attempts before the customer is told to come again.
const ATTEMPTS_MAX: usize = 4;

#[derive(Deserialize)]
pub(super) struct Parcel {
    order: i32,
}

pub(super) async fn send(
    State(shop): State<Shop>,
    Json(parcel): Json<Parcel>,
) -> Result<StatusCode, ShopError> {
    let label = json!({ "order": parcel.order });
    for _ in 0..ATTEMPTS_MAX {
        let function = concat!(module_path!(), "::send");
        let status = shop.http.post(LABEL_URI, function, &label).await?;
        if status.is_success() {
            return Ok(StatusCode::CREATED);
        }
    }
    Err(ShopError::ShippingDown)
}
