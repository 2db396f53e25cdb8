//! The services that the shop calls. They stand in for companies on the internet, so what
//! they mostly do is take their time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use http::StatusCode;
use opentelemetry::trace::SpanBuilder;
use opentelemetry_sdk::trace::SdkTracer;

use super::dice::Dice;
use super::instrument::{self, in_span};

/// One charge in so many is declined: the customer's fault, and not an error of the shop.
const DECLINED_ONCE_IN: u64 = 100;

/// One charge in so many fails for no reason given, so that error rates have something to show.
const BROKEN_ONCE_IN: u64 = 100;

/// The payment API: reports its own spans, under the shop's. A charge takes 95 to 140 ms.
pub fn payments(tracer: SdkTracer, seed: u64) -> Router {
    let payments = Payments {
        chance: Chance::new(seed, 1),
        tracer: tracer.clone(),
    };
    Router::new()
        .route("/v1/charges", post(charge))
        .layer(from_fn_with_state(tracer, instrument::serve))
        .with_state(payments)
}

/// One label in so many is made at the first attempt; the shop tries again at once.
const LABELLED_ONCE_IN: u64 = 3;

/// The pricing service: a price takes 4 to 8 ms, a list 60 to 80 ms.
pub fn pricing(tracer: SdkTracer, seed: u64) -> Router {
    let chance = Chance::new(seed, 4);
    let list = |chance: State<Chance>| wait(chance, 60..80);
    Router::new()
        .route("/v1/prices/{id}", get(|chance| wait(chance, 4..8)))
        .route("/v1/offers", get(list))
        .route("/v1/trends", get(list))
        .layer(from_fn_with_state(tracer, instrument::serve))
        .with_state(chance)
}

/// The shipping service: a label takes 25 to 35 ms and mostly fails, zones take 70 to 90 ms.
pub fn shipping(tracer: SdkTracer, seed: u64) -> Router {
    Router::new()
        .route("/v1/labels", post(label))
        .route("/v1/zones", get(|chance| wait(chance, 70..90)))
        .layer(from_fn_with_state(tracer, instrument::serve))
        .with_state(Chance::new(seed, 5))
}

/// The log service: a push takes 160 to 200 ms, and nobody outside can see why.
pub fn log_service(seed: u64) -> Router {
    Router::new()
        .route("/loki/api/v1/push", post(push))
        .with_state(Chance::new(seed, 2))
}

#[derive(Clone)]
struct Payments {
    chance: Chance,
    tracer: SdkTracer,
}

async fn charge(State(payments): State<Payments>) -> StatusCode {
    let step = |name, ms| {
        in_span(
            &payments.tracer,
            SpanBuilder::from_name(name),
            payments.chance.wait_ms(ms),
        )
    };
    step("score fraud risk", 25..40).await;
    if payments.chance.once_in(DECLINED_ONCE_IN) {
        return StatusCode::PAYMENT_REQUIRED;
    }
    step("authorize card", 70..100).await;
    if payments.chance.once_in(BROKEN_ONCE_IN) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    StatusCode::CREATED
}

async fn wait(State(chance): State<Chance>, ms: std::ops::Range<u64>) -> StatusCode {
    chance.wait_ms(ms).await;
    StatusCode::OK
}

async fn label(State(chance): State<Chance>) -> StatusCode {
    chance.wait_ms(25..35).await;
    match chance.once_in(LABELLED_ONCE_IN) {
        true => StatusCode::CREATED,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn push(State(chance): State<Chance>) -> StatusCode {
    chance.wait_ms(160..200).await;
    StatusCode::NO_CONTENT
}

/// The dice of a service, shared by its requests.
#[derive(Clone)]
struct Chance(Arc<Mutex<Dice>>);

impl Chance {
    fn new(seed: u64, purpose: u64) -> Self {
        Chance(Arc::new(Mutex::new(Dice::new(seed, purpose))))
    }

    fn once_in(&self, times: u64) -> bool {
        self.with_dice(|dice| dice.once_in(times))
    }

    async fn wait_ms(&self, range: std::ops::Range<u64>) {
        let wait = self.with_dice(|dice| dice.within(range.start * 1000..range.end * 1000));
        tokio::time::sleep(Duration::from_micros(wait)).await;
    }

    fn with_dice<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
