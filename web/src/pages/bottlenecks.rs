//! What do I fix first?

use axum::response::Html;

/// (being written)
pub async fn show() -> Html<&'static str> {
    Html("")
}
