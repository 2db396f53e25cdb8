//! The shop: five endpoints, four culprits.
//!
//! None of them is a trick. Each is code that a good engineer writes on a busy day, that passes
//! review, is fast on a laptop with ten rows, and that nobody suspects later:
//!
//! - [`posts`] asks for each author where it could ask for all of them: **N+1 queries**. Every
//!   single query is quick, so no slow-query log mentions any of them.
//! - [`search`] finds words regardless of accents, and so reads every product: **one slow query**.
//!   No index can help an expression with a wildcard in front.
//! - [`checkout`] is the story this program is named after. It talks to the database, so the
//!   database is suspected, and the queries take a few milliseconds. It calls a payment API, so that is
//!   suspected next. The time goes where nobody looks: its **log lines are sent to a remote
//!   service while the customer waits**.
//! - [`export`] fetches its rows quickly and then turns each into JSON and back, over and over:
//!   **serialising**, in the shop's own process.
//! - [`product`] is how an endpoint should be. It must never be accused of anything.

use axum::extract::{Path, Query, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use opentelemetry::trace::SpanBuilder;
use opentelemetry_sdk::trace::SdkTracer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::FromRow;
use sqlx::postgres::PgPool;

use super::instrument::{self, Database, HttpClient, Statement, in_span};

/// The name under which the shop knows the payment API.
pub const PAYMENTS_HOST: &str = "payments.internal";

/// The name under which the shop knows the log service.
pub const LOG_SERVICE_HOST: &str = "loki.internal";

const CHARGE_URI: &str = "http://payments.internal/v1/charges";

/// The path is the one of Loki's push API, as any log shipper would use it.
const LOG_URI: &str = "http://loki.internal/loki/api/v1/push";

/// The shop's endpoints, each under a SERVER span.
pub fn router(tracer: SdkTracer, pool: PgPool, http: HttpClient) -> Router {
    let shop = Shop {
        db: Database::new(pool, tracer.clone()),
        http,
        tracer: tracer.clone(),
    };
    Router::new()
        .route("/posts", get(posts))
        .route("/products/search", get(search))
        .route("/checkout", post(checkout))
        .route("/export", get(export))
        .route("/products/{id}", get(product))
        .layer(from_fn_with_state(tracer, instrument::serve))
        .with_state(shop)
}

/// What every handler has.
#[derive(Clone)]
struct Shop {
    db: Database,
    http: HttpClient,
    tracer: SdkTracer,
}

/// Why a request was not answered as asked.
#[derive(Debug)]
enum ShopError {
    NotFound,
    Declined,
    PaymentsDown,
    Broken(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for ShopError {
    fn from(error: E) -> Self {
        ShopError::Broken(error.into())
    }
}

impl ShopError {
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            ShopError::NotFound => (StatusCode::NOT_FOUND, "there is no such thing here"),
            ShopError::Declined => (StatusCode::PAYMENT_REQUIRED, "the card was declined"),
            ShopError::PaymentsDown => (StatusCode::BAD_GATEWAY, "payments are down, try again"),
            ShopError::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, "that is our fault"),
        }
    }
}

impl IntoResponse for ShopError {
    fn into_response(self) -> Response {
        if let ShopError::Broken(error) = &self {
            tracing::debug!("the demo shop is broken: {error:#}");
        }
        self.answer().into_response()
    }
}

// ---- GET /posts: N+1 queries ----

const POSTS: Statement = Statement {
    summary: "SELECT posts",
    function: concat!(module_path!(), "::posts"),
    text: "select id, author_id, title from posts where topic = $1 order by posted_at desc",
};

/// What makes each of these take a few milliseconds is honest work on the author's 600 comments,
/// found by an index. One query for all authors, grouped, would do the same work in one round trip.
const AUTHOR: Statement = Statement {
    summary: "SELECT authors",
    function: concat!(module_path!(), "::load_author"),
    text: "select a.id, a.name, count(c.id) as comments, \
           avg(cardinality(regexp_split_to_array(c.body, '\\s+')))::float8 as words_per_comment \
           from authors a join comments c on c.author_id = a.id where a.id = $1 group by a.id",
};

#[derive(Deserialize)]
struct PostsQuery {
    topic: i32,
}

#[derive(FromRow, Serialize)]
struct Post {
    id: i32,
    author_id: i32,
    title: String,
}

#[derive(FromRow, Serialize)]
struct Author {
    id: i32,
    name: String,
    comments: i64,
    words_per_comment: f64,
}

/// The culprit is the loop: 20 to 35 posts, so 20 to 35 queries, one after the other.
async fn posts(
    State(shop): State<Shop>,
    Query(query): Query<PostsQuery>,
) -> Result<Json<Value>, ShopError> {
    let posts: Vec<Post> = shop.db.fetch_all(&POSTS, query.topic).await?;
    let load_authors = async {
        let mut authors = Vec::with_capacity(posts.len());
        for post in &posts {
            authors.push(load_author(&shop, post.author_id).await?);
        }
        Ok::<_, ShopError>(authors)
    };
    let span = SpanBuilder::from_name("load authors");
    let authors = in_span(&shop.tracer, span, load_authors).await?;
    Ok(Json(json!({ "posts": posts, "authors": authors })))
}

async fn load_author(shop: &Shop, id: i32) -> Result<Author, ShopError> {
    let author = shop.db.fetch_optional(&AUTHOR, id).await?;
    author.ok_or(ShopError::NotFound)
}

// ---- GET /products/search: a slow query ----

/// Every product is read, folded and compared. A trigram index on the folded text, or a text
/// search column, would answer in a few milliseconds.
const SEARCH: Statement = Statement {
    summary: "SELECT products",
    function: concat!(module_path!(), "::search"),
    text: "select id, name, price_cents from products \
           where translate(lower(description), 'àâäçéèêëîïôöùûü', 'aaaceeeeiioouuu') like '%' || $1 || '%' \
           order by price_cents, id limit 20",
};

#[derive(Deserialize)]
struct SearchQuery {
    q: String,
}

#[derive(FromRow, Serialize)]
struct Product {
    id: i32,
    name: String,
    price_cents: i32,
}

async fn search(
    State(shop): State<Shop>,
    Query(query): Query<SearchQuery>,
) -> Result<Json<Vec<Product>>, ShopError> {
    let products = shop.db.fetch_all(&SEARCH, query.q.to_lowercase()).await?;
    Ok(Json(products))
}

// ---- POST /checkout: synchronous remote logging ----

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
struct Checkout {
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
async fn checkout(
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

// ---- GET /export: serialising ----

const ORDERS: Statement = Statement {
    summary: "SELECT orders",
    function: concat!(module_path!(), "::export"),
    text: "select id, customer_id, placed_at::text, total_cents, lines::text from orders \
           where placed_at >= timestamptz '2025-01-01' + $1 * interval '1 day' \
           order by placed_at limit 3000",
};

#[derive(Deserialize)]
struct ExportQuery {
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

async fn export(
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

// ---- GET /products/{id}: fine ----

const PRODUCT: Statement = Statement {
    summary: "SELECT products",
    function: concat!(module_path!(), "::product"),
    text: "select id, name, price_cents from products where id = $1",
};

async fn product(
    State(shop): State<Shop>,
    Path(id): Path<i32>,
) -> Result<Json<Product>, ShopError> {
    let product = shop.db.fetch_optional(&PRODUCT, id).await?;
    product.map(Json).ok_or(ShopError::NotFound)
}
