//! `GET /export`: fetches its rows quickly and then turns each into JSON and back, over and over.
//! **Serialising**, in the shop's own process.

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use opentelemetry::trace::SpanBuilder;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::{Statement, in_span};

const ORDERS: Statement = Statement {
    summary: "SELECT orders",
    function: concat!(module_path!(), "::export"),
    text: "select id, customer_id, placed_at::text, total_cents, lines::text from orders \
           where placed_at >= timestamptz '2025-01-01' + $1 * interval '1 day' \
           order by placed_at limit 3000",
};

#[derive(Deserialize)]
pub(super) struct ExportQuery {
    from_day: i32,
}

#[derive(FromRow)]
struct Order {
    id: i32,
    customer_id: i32,
    placed_at: String,
    total_cents: i32,
    lines: String,
}

pub(super) async fn export(
    State(shop): State<Shop>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ShopError> {
    let orders: Vec<Order> = shop.db.fetch_all(&ORDERS, query.from_day).await?;
    let span = SpanBuilder::from_name("json serialize orders");
    let serialize = tokio::task::spawn_blocking(move || serialize_orders(&orders));
    let body = in_span(&shop.tracer, span, serialize).await??;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// One line for each order. The culprit is that each is read into a tree of values, printed to
/// know its size, printed again with it, and read back to be sure: four times the work, and no
/// database sees any of it.
fn serialize_orders(orders: &[Order]) -> anyhow::Result<String> {
    let mut body = String::new();
    for order in orders {
        let lines: Vec<Value> = serde_json::from_str(&order.lines)?;
        let mut document = json!({
            "order": order.id,
            "customer": order.customer_id,
            "placed_at": order.placed_at,
            "total_cents": order.total_cents,
            "lines": lines,
        });
        let size_bytes = serde_json::to_string_pretty(&document)?.len();
        document["size_bytes"] = json!(size_bytes);
        let line = document.to_string();
        let read_back: Value = serde_json::from_str(&line)?;
        anyhow::ensure!(read_back == document, "order {} does not survive", order.id);
        body.push_str(&line);
        body.push('\n');
    }
    Ok(body)
}
