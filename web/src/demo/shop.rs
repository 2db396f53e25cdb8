//! The shop: an endpoint for each culprit, and one that is fine until the next version.
//!
//! None of them is a trick. Each is code that a good engineer writes on a busy day, that passes
//! review, is fast on a laptop with ten rows, and that nobody suspects later. Each file says what is
//! wrong with it.

mod account;
mod basket;
mod checkout;
mod export;
mod home;
mod invoice;
mod lowest_price;
mod parcel;
mod posts;
mod product;
mod recommend;
mod report;
mod search;
mod stock;
mod wishlist;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::StatusCode;
use opentelemetry_sdk::trace::SdkTracer;
use sqlx::postgres::PgPool;

use super::instrument::{self, Database, HttpClient};

/// What of the shop's code is deployed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// `GET /products/{id}` is fine.
    V1_0_0,
    /// `GET /products/{id}` is slow in its tail. Nothing else has changed.
    V1_1_0,
}

impl Version {
    /// As the shop's spans say it.
    pub fn name(self) -> &'static str {
        match self {
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

/// The name under which the shop knows the payment API.
pub const PAYMENTS_HOST: &str = "payments.internal";

/// The name under which the shop knows the pricing service.
pub const PRICING_HOST: &str = "pricing.internal";

/// The name under which the shop knows the shipping service.
pub const SHIPPING_HOST: &str = "shipping.internal";

/// The name under which the shop knows the log service.
pub const LOG_SERVICE_HOST: &str = "loki.internal";

/// The shop's endpoints, each under a SERVER span. `archive` is a pool of one connection.
pub fn router(
    version: Version,
    tracer: SdkTracer,
    pool: PgPool,
    archive: PgPool,
    http: HttpClient,
) -> Router {
    let product = match version {
        Version::V1_0_0 => get(product::product),
        Version::V1_1_0 => get(lowest_price::product),
    };
    let shop = Shop {
        db: Database::new(pool, tracer.clone()),
        archive: Database::new(archive, tracer.clone()),
        http,
        tracer: tracer.clone(),
    };
    Router::new()
        .route("/posts", get(posts::posts))
        .route("/products/search", get(search::search))
        .route("/checkout", post(checkout::checkout))
        .route("/export", get(export::export))
        .route("/wishlists/{id}", put(wishlist::save))
        .route("/baskets/{id}", get(basket::basket))
        .route("/home", get(home::home))
        .route("/accounts/{id}", get(account::account))
        .route("/report", get(report::report))
        .route("/parcels", post(parcel::send))
        .route("/recommendations", get(recommend::recommend))
        .route("/stock/{id}", get(stock::stock))
        .route("/invoices/{customer}", get(invoice::invoice))
        .route("/products/{id}", product)
        .layer(from_fn_with_state(tracer, instrument::serve))
        .with_state(shop)
}

/// What every handler has.
#[derive(Clone)]
struct Shop {
    db: Database,
    archive: Database,
    http: HttpClient,
    tracer: SdkTracer,
}

/// Why a request was not answered as asked.
#[derive(Debug)]
enum ShopError {
    NotFound,
    Declined,
    PaymentsDown,
    ShippingDown,
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
            ShopError::ShippingDown => (StatusCode::BAD_GATEWAY, "no label to be had, try again"),
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
