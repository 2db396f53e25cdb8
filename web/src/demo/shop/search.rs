//! `GET /products/search`: finds words regardless of accents, and so reads every product. **A slow
//! query.** No index can help an expression with a wildcard in front.

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::product::Product;
use super::{Shop, ShopError};
use crate::demo::instrument::Statement;

/// Every product is read, folded and compared. A trigram index on the folded text, or a text
/// search column, would answer in a few milliseconds.
const SEARCH: Statement = Statement {
    summary: "SELECT products",
    function: concat!(module_path!(), "::search"),
    text: "select id, name, price_cents, reduced from products \
           where translate(lower(description), 'àâäçéèêëîïôöùûü', 'aaaceeeeiioouuu') like '%' || $1 || '%' \
           order by price_cents, id limit 20",
};

#[derive(Deserialize)]
pub(super) struct SearchQuery {
    q: String,
}

pub(super) async fn search(
    State(shop): State<Shop>,
    Query(query): Query<SearchQuery>,
) -> Result<Json<Vec<Product>>, ShopError> {
    let products = shop.db.fetch_all(&SEARCH, query.q.to_lowercase()).await?;
    Ok(Json(products))
}
