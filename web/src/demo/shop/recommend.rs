//! `GET /recommendations`: compares a customer's taste with the catalogue, in the shop's own process
//! and without a span. **Handler-bound**: neither database nor network is to blame.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shop, ShopError};

/// The comparison takes what time it is given, like every ranking with a budget.
const BUDGET: Duration = Duration::from_millis(260);

/// Between two looks at the clock.
const STEPS_AT_ONCE: u64 = 4_096;

#[derive(Deserialize)]
pub(super) struct Taste {
    customer: i32,
}

pub(super) async fn recommend(
    State(_): State<Shop>,
    Query(taste): Query<Taste>,
) -> Result<Json<Value>, ShopError> {
    let ranked = tokio::task::spawn_blocking(move || best_match(taste.customer as u64)).await?;
    Ok(Json(
        json!({ "customer": taste.customer, "product": ranked }),
    ))
}

/// The product whose hash is nearest to the customer's, of as many as fit into the budget.
fn best_match(customer: u64) -> u64 {
    let since = Instant::now();
    let taste = mixed(customer);
    let (mut best, mut product) = ((u64::MAX, 0), 0);
    while since.elapsed() < BUDGET {
        for _ in 0..STEPS_AT_ONCE {
            product += 1;
            best = best.min((mixed(product) ^ taste, product));
        }
    }
    1 + best.1 % 100_000
}

/// Scatters numbers (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
