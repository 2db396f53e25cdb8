//! `POST /checkout`: the story this program is named after. **Synchronous remote logging.**
//!
//! It talks to the database, so the database is suspected, and the queries take a few milliseconds.
//! It calls a payment API, so that is suspected next. The time goes where nobody looks: its log lines
//! are sent to a remote service while the customer waits.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

const CHARGE_URI: &str = "http://payments.internal/v1/charges";

/// The path is the one of Loki's push API, as any log shipper would use it.
const LOG_URI: &str = "http://loki.internal/loki/api/v1/push";

const CART: Statement = Statement {
    summary: "SELECT cart_lines",
    function: concat!(module_path!(), "::checkout"),
    text: "select l.quantity, p.price_cents from cart_lines l \
           join products p on p.id = l.product_id where l.cart_id = $1",
};

/// Everything the cart's customer ever bought: the one query here that does some work.
const LOYALTY: Statement = Statement {
    summary: "SELECT orders",
    function: concat!(module_path!(), "::checkout"),
    text: "select coalesce(sum((line ->> 'quantity')::integer), 0) as items_bought \
           from carts c join orders o on o.customer_id = c.customer_id \
           cross join lateral json_array_elements(o.lines) line where c.id = $1",
};

const CLOSE_CART: Statement = Statement {
    summary: "UPDATE carts",
    function: concat!(module_path!(), "::checkout"),
    text: "update carts set checked_out_at = now() where id = $1",
};

/// Items ever bought from which on a customer pays a tenth less.
const LOYAL_FROM_ITEMS: i64 = 5_000;

#[derive(Deserialize)]
pub(super) struct Checkout {
    cart: i32,
}

#[derive(FromRow)]
struct CartLine {
    quantity: i32,
    price_cents: i32,
}

#[derive(FromRow)]
struct Loyalty {
    items_bought: i64,
}

/// The culprit is the last line but one: the customer's answer waits for a log service.
pub(super) async fn checkout(
    State(shop): State<Shop>,
    Json(checkout): Json<Checkout>,
) -> Result<Json<Value>, ShopError> {
    let total_cents = price_cart(&shop, checkout.cart).await?;
    let charged = charge(&shop, checkout.cart, total_cents).await;
    if charged.is_ok() {
        shop.db.execute(&CLOSE_CART, checkout.cart).await?;
    }
    let outcome = match &charged {
        Ok(()) => "paid".to_owned(),
        Err(error) => format!("not paid: {}", error.answer().1),
    };
    let lines = [
        format!("checkout of cart {} for {total_cents}", checkout.cart),
        format!("cart {} {outcome}", checkout.cart),
    ];
    send_to_log_service(&shop, &lines).await?;
    charged.map(|()| Json(json!({ "paid_cents": total_cents })))
}

async fn price_cart(shop: &Shop, cart: i32) -> Result<i64, ShopError> {
    let lines: Vec<CartLine> = shop.db.fetch_all(&CART, cart).await?;
    if lines.is_empty() {
        return Err(ShopError::NotFound);
    }
    let full = lines
        .iter()
        .map(|line| i64::from(line.quantity) * i64::from(line.price_cents))
        .sum::<i64>();
    let loyalty: Option<Loyalty> = shop.db.fetch_optional(&LOYALTY, cart).await?;
    let loyal = loyalty.is_some_and(|it| it.items_bought >= LOYAL_FROM_ITEMS);
    Ok(if loyal { full - full / 10 } else { full })
}

async fn charge(shop: &Shop, cart: i32, amount_cents: i64) -> Result<(), ShopError> {
    let charge = json!({ "reference": format!("cart-{cart}"), "amount_cents": amount_cents });
    let function = concat!(module_path!(), "::charge");
    match shop.http.post(CHARGE_URI, function, &charge).await? {
        StatusCode::CREATED => Ok(()),
        StatusCode::PAYMENT_REQUIRED => Err(ShopError::Declined),
        _ => Err(ShopError::PaymentsDown),
    }
}

/// A batching appender, or an agent on the same machine, would take the lines in microseconds.
async fn send_to_log_service(shop: &Shop, lines: &[String]) -> Result<(), ShopError> {
    let values = lines.iter().map(|line| json!(["0", line]));
    let push = json!({
        "streams": [{ "stream": { "service": "shop" }, "values": Vec::from_iter(values) }]
    });
    let function = concat!(module_path!(), "::send_to_log_service");
    let status = shop.http.post(LOG_URI, function, &push).await?;
    if !status.is_success() {
        tracing::debug!(%status, "the demo's log service did not take a line");
    }
    Ok(())
}
