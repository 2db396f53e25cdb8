//! The shop's customers: seeded, in bursts, bounded, and not traced.
//!
//! Requests are dealt from a shuffled deck, so that every endpoint gets its share within a few
//! seconds and not only in the long run.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;

/// Requests under way at the same time. When the shop is slower than the traffic, traffic waits:
/// a demo must not melt a laptop, and its shop must not look slow because of a queue.
pub const CONCURRENT_MAX: usize = 4;

/// How long a customer waits. The slowest endpoint takes a second, and ten on a machine that compiles
/// several other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The most that a customer reads of an answer; an export is four megabytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The deck: how often each visit is made of so many. Searches, exports, recommendations and posts
/// are few because they cost real processor time: at the default rate, this mix keeps shop and
/// Postgres together below half a core.
pub const DECK: [(Visit, usize); 14] = [
    (Visit::Search, 1),
    (Visit::Export, 1),
    (Visit::Recommend, 1),
    (Visit::Report, 1),
    (Visit::Invoice, 1),
    (Visit::Stock, 2),
    (Visit::Account, 2),
    (Visit::Wishlist, 2),
    (Visit::Basket, 3),
    (Visit::Home, 3),
    (Visit::Parcel, 3),
    (Visit::Posts, 3),
    (Visit::Checkout, 10),
    (Visit::Product, 15),
];

/// Visits in the deck.
pub const DECK_SIZE: usize = {
    let (mut size, mut at) = (0, 0);
    while at < DECK.len() {
        size += DECK[at].1;
        at += 1;
    }
    size
};

const SEARCH_WORDS: [&str; 8] = [
    "linen", "Graz", "cobalt", "quiet", "kettle", "sturdy", "Lyon", "amber",
];

/// What a customer comes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// `GET /posts`
    Posts,
    /// `GET /products/search`
    Search,
    /// `POST /checkout`
    Checkout,
    /// `GET /export`
    Export,
    /// `GET /recommendations`
    Recommend,
    /// `GET /report`
    Report,
    /// `GET /invoices/{customer}`
    Invoice,
    /// `GET /stock/{id}`
    Stock,
    /// `GET /accounts/{id}`
    Account,
    /// `PUT /wishlists/{id}`
    Wishlist,
    /// `GET /baskets/{id}`
    Basket,
    /// `GET /home`
    Home,
    /// `POST /parcels`
    Parcel,
    /// `GET /products/{id}`
    Product,
}

/// What came of the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Answered with 1xx to 4xx.
    pub answered: usize,
    /// Answered with 5xx.
    pub failed: usize,
    /// Not answered: no connection, or it broke off.
    pub unanswered: usize,
    /// Not waited for any longer.
    pub given_up: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Tally) {
        self.answered += more.answered;
        self.failed += more.failed;
        self.unanswered += more.unanswered;
        self.given_up += more.given_up;
    }
}

/// Customers of the shop at one address.
#[derive(Clone)]
pub struct Traffic {
    client: Client<HttpConnector, Full<Bytes>>,
    shop: SocketAddr,
    requests_per_second: f64,
    dealer: Arc<Mutex<Dealer>>,
}

impl Traffic {
    /// No request is sent yet. The rate is that of [`Traffic::keep_sending`], and must be positive.
    pub fn new(shop: SocketAddr, requests_per_second: f64, seed: u64) -> Self {
        Traffic {
            client: Client::builder(TokioExecutor::new()).build_http(),
            shop,
            requests_per_second,
            dealer: Arc::new(Mutex::new(Dealer::new(seed))),
        }
    }

    /// Sends so many requests without pauses, and waits for their answers. Ends early when told.
    pub async fn send(&self, requests: usize, shutdown: &CancellationToken) -> Tally {
        let mut under_way = UnderWay::default();
        for _ in 0..requests {
            if shutdown.is_cancelled() {
                break;
            }
            under_way.add(self.next_visit()).await;
        }
        under_way.finish().await
    }

    /// Sends bursts of one to four requests, with pauses between them that make the rate, until
    /// told to stop; then waits for the answers under way.
    pub async fn keep_sending(&self, shutdown: &CancellationToken) -> Tally {
        let mut under_way = UnderWay::default();
        let mut next_burst = tokio::time::Instant::now();
        loop {
            let (burst, pause) = self.deal(|dealer| dealer.burst(self.requests_per_second));
            for _ in 0..burst {
                under_way.add(self.next_visit()).await;
            }
            // A shop that cannot keep up is not owed the requests it missed.
            next_burst = (next_burst + pause).max(tokio::time::Instant::now());
            tokio::select! {
                () = shutdown.cancelled() => return under_way.finish().await,
                () = tokio::time::sleep_until(next_burst) => {}
            }
        }
    }

    fn next_visit(&self) -> impl Future<Output = Tally> + Send + 'static {
        let (visit, request) = self.deal(|dealer| dealer.request(self.shop));
        let client = self.client.clone();
        async move {
            let answer = tokio::time::timeout(PATIENCE, visit_shop(client, request)).await;
            let mut tally = Tally::default();
            match answer {
                Ok(Ok(status)) if status.is_server_error() => tally.failed = 1,
                Ok(Ok(_)) => tally.answered = 1,
                Ok(Err(error)) => {
                    tracing::debug!(?visit, %error, "the demo shop did not answer");
                    tally.unanswered = 1;
                }
                Err(_) => tally.given_up = 1,
            }
            tally
        }
    }

    fn deal<T>(&self, deal: impl FnOnce(&mut Dealer) -> T) -> T {
        deal(&mut self.dealer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn visit_shop(
    client: Client<HttpConnector, Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<StatusCode> {
    let answer = client.request(request).await?;
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    body.collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok(status)
}

/// The requests that are not answered yet, never more than [`CONCURRENT_MAX`].
#[derive(Default)]
struct UnderWay {
    requests: JoinSet<Tally>,
    tally: Tally,
}

impl UnderWay {
    async fn add(&mut self, request: impl Future<Output = Tally> + Send + 'static) {
        if self.requests.len() >= CONCURRENT_MAX {
            self.wait_for_one().await;
        }
        self.requests.spawn(request);
    }

    async fn finish(mut self) -> Tally {
        while !self.requests.is_empty() {
            self.wait_for_one().await;
        }
        self.tally
    }

    async fn wait_for_one(&mut self) {
        if let Some(Ok(tally)) = self.requests.join_next().await {
            self.tally += tally;
        }
    }
}

/// Decides what comes next.
struct Dealer {
    dice: Dice,
    hand: Vec<Visit>,
}

impl Dealer {
    fn new(seed: u64) -> Self {
        Dealer {
            dice: Dice::new(seed, 3),
            hand: Vec::new(),
        }
    }

    fn visit(&mut self) -> Visit {
        if self.hand.is_empty() {
            let cards = DECK.iter();
            self.hand = cards
                .flat_map(|(visit, times)| std::iter::repeat_n(*visit, *times))
                .collect();
            self.dice.shuffle(&mut self.hand);
        }
        self.hand.pop().unwrap_or(Visit::Product)
    }

    /// How many requests come at once, and how long it is from this burst to the next.
    fn burst(&mut self, requests_per_second: f64) -> (usize, Duration) {
        let requests = self.dice.within(1..5);
        let jitter_percent = self.dice.within(50..151);
        let seconds = requests as f64 / requests_per_second * jitter_percent as f64 / 100.0;
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2);
        (requests as usize, pause)
    }

    fn request(&mut self, shop: SocketAddr) -> (Visit, Request<Full<Bytes>>) {
        let visit = self.visit();
        let (method, path, body) = self.details(visit);
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = method;
        let uri = format!("http://{shop}{path}");
        *request.uri_mut() = uri.parse().expect("paths are made of words and numbers");
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        (visit, request)
    }

    /// Ranges and rows agree with `shop.sql`.
    fn details(&mut self, visit: Visit) -> (Method, String, String) {
        let dice = &mut self.dice;
        let get = |path| (Method::GET, path, String::new());
        match visit {
            Visit::Posts => get(format!("/posts?topic={}", dice.within(0..16))),
            Visit::Search => {
                let word = SEARCH_WORDS[dice.within(0..SEARCH_WORDS.len() as u64) as usize];
                get(format!("/products/search?q={word}"))
            }
            Visit::Checkout => {
                let cart = dice.within(1..2001);
                let body = format!("{{\"cart\": {cart}}}");
                (Method::POST, "/checkout".to_owned(), body)
            }
            Visit::Export => get(format!("/export?from_day={}", dice.within(0..13))),
            Visit::Recommend => get(format!("/recommendations?customer={}", dice.within(1..13))),
            Visit::Report => get("/report".to_owned()),
            Visit::Invoice => get(format!("/invoices/{}", dice.within(1..13))),
            Visit::Stock => get(format!("/stock/{}", dice.within(1..201))),
            Visit::Account => get(format!("/accounts/{}", dice.within(1..13))),
            Visit::Wishlist => {
                let products =
                    (0..dice.within(12..25)).map(|_| dice.within(1..100_001).to_string());
                let body = format!("[{}]", Vec::from_iter(products).join(","));
                let path = format!("/wishlists/{}", dice.within(1..501));
                (Method::PUT, path, body)
            }
            Visit::Basket => get(format!("/baskets/{}", dice.within(1..201))),
            Visit::Home => get("/home".to_owned()),
            Visit::Parcel => {
                let body = format!("{{\"order\": {}}}", dice.within(1..4_001));
                (Method::POST, "/parcels".to_owned(), body)
            }
            Visit::Product => get(format!("/products/{}", dice.within(1..100_001))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deck_has_every_visit() {
        let mut dealer = Dealer::new(7);
        let dealt = Vec::from_iter((0..2 * DECK_SIZE).map(|_| dealer.visit()));
        for half in dealt.chunks(DECK_SIZE) {
            for (visit, times) in DECK {
                assert_eq!(
                    half.iter().filter(|it| **it == visit).count(),
                    times,
                    "{visit:?}"
                );
            }
        }
    }

    #[test]
    fn bursts_keep_the_rate() {
        let mut dealer = Dealer::new(7);
        let (mut requests, mut time) = (0, Duration::ZERO);
        for _ in 0..2_000 {
            let (burst, pause) = dealer.burst(8.0);
            assert!((1..=CONCURRENT_MAX).contains(&burst));
            requests += burst;
            time += pause;
        }
        let rate = requests as f64 / time.as_secs_f64();
        assert!((7.5..8.5).contains(&rate), "{rate} requests per second");
    }
}
