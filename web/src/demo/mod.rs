//! The demo: a small shop with a dozen culprits in it, one endpoint that is fine, and traffic; and then
//! a version of it in which that endpoint is slow in its tail.
//!
//! Everything is real but the customers. The shop is an axum service with a database of its own;
//! it calls other services over HTTP; its spans are made with the OpenTelemetry
//! SDK and leave over OTLP/gRPC like those of any other service. Nothing here knows what the
//! analysis looks for, and the analysis knows nothing of the shop.
//!
//! ```text
//!             shop                      Postgres    payments       log service
//! traffic ──▶ GET  /posts            ──▶ ▪▪▪▪▪▪▪▪▪▪▪                              a query per author
//!             GET  /products/search  ──▶ ▬▬▬▬▬▬▬▬▬▬▬                              reads every product
//!             POST /checkout         ──▶ ▪▪▪      ──▶ ▬▬▬▬▬▬  ──▶ ▬▬▬▬▬▬▬▬▬       waits for its log lines
//!             GET  /export           ──▶ ▬                                        serialises for itself
//!             …                                                                   (see [`shop`])
//!             GET  /products/{id}    ──▶ ▪                                        is fine
//!
//! version 1.1.0:
//!             GET  /products/{id}    ──▶ ▪▬▬▬                                     once in eight times
//! ```
//!
//! Where to read on: [`shop`] is the service and tells what was planted where; `shop.sql` (through
//! [`data`]) is what its database holds; [`stubs`] are the services it calls; [`instrument`] is
//! what an instrumentation library would do for it, [`telemetry`] how an application sets up the
//! SDK, [`traffic`] the customers; [`schedule`] says when which version is deployed, [`front`] hands over
//! from one to the other; [`alert_receiver`] is where alerts arrive.

pub mod alert_receiver;
pub mod data;
pub mod front;
pub mod instrument;
pub mod schedule;
pub mod shop;
pub mod stubs;
pub mod telemetry;
pub mod traffic;

mod dice;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::front::{Front, UnderWay};
use self::instrument::HttpClient;
use self::shop::Version;
use self::telemetry::Pipeline;
use self::traffic::{PATIENCE, Tally, Traffic};

/// What to look for on the screen: an endpoint and what is wrong with it.
pub const WHAT_TO_LOOK_FOR: &[(&str, &str)] = &[
    ("GET /posts", "loads every author by a query of its own"),
    (
        "GET /products/search",
        "one query reads the whole catalogue",
    ),
    (
        "POST /checkout",
        "waits for a remote log service; its queries take a few milliseconds",
    ),
    ("GET /export", "spends its time serialising"),
    (
        "PUT /wishlists/{id}",
        "saves each item by a statement of its own",
    ),
    (
        "GET /baskets/{id}",
        "asks the pricing service for one price after the other",
    ),
    (
        "GET /home",
        "fetches three independent things one after the other",
    ),
    ("GET /accounts/{id}", "loads the same customer four times"),
    ("GET /report", "makes a query of every figure"),
    ("POST /parcels", "retries a failing service without a pause"),
    (
        "GET /recommendations",
        "computes for itself, without a span",
    ),
    ("GET /stock/{id}", "opens a connection for every query"),
    (
        "GET /invoices/{customer}",
        "has its queries wait for the pool's only connection",
    ),
    ("GET /products/{id}", "is fine"),
];

/// What to look for after version 1.1.0 of the shop is deployed.
pub const WHAT_GETS_SLOWER: &str = "GET /products/{id} takes about a tenth of a second more for one product in eight; its median stays";

/// Requests per second that keep pages lively and leave most of two cores to whoever looks at them.
pub const REQUESTS_PER_SECOND: f64 = 8.0;

/// How long [`RunningDemo::stop`] waits for open connections. A request takes a second at most;
/// what is still open after this is cut off.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How the demo is started.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The shop's own database. It is created if it does not exist.
    pub database: PgConnectOptions,
    /// Where spans are sent, OTLP/gRPC: `http://127.0.0.1:4317`.
    pub otlp_endpoint: String,
    /// The mean rate of [`RunningDemo::keep_sending`].
    pub requests_per_second: f64,
    /// The same seed sends the same requests in the same order.
    pub seed: u64,
}

/// Starts version 1.0.0 of the shop and the services it calls, without traffic yet. Fills the shop's
/// database if that is not done already.
///
/// When `shutdown` is cancelled, traffic stops; [`RunningDemo::stop`] does the rest.
///
/// # Errors
/// The database cannot be prepared, or there is no port.
pub async fn start(
    options: DemoOptions,
    shutdown: CancellationToken,
) -> anyhow::Result<RunningDemo> {
    let database = data::open(&options.database)
        .await
        .context("cannot prepare the demo shop's database")?;
    let mut servers = Servers::default();
    let (others, hosts) = start_others(&options, &mut servers).await?;
    let code = ShopCode {
        archive: data::archive(&database),
        database,
        hosts,
        otlp_endpoint: options.otlp_endpoint,
    };
    let (router, telemetry) = code.instance(Version::V1_0_0)?;
    let (front, under_way) = Front::new(router);
    let shop_address = servers.serve(front.router()).await?;

    Ok(RunningDemo {
        shop_address,
        code,
        front,
        current: Instance {
            under_way,
            telemetry,
        },
        traffic: Traffic::new(shop_address, options.requests_per_second, options.seed),
        sending: JoinSet::new(),
        servers,
        others,
        shutdown,
    })
}

/// The services that the shop calls: their pipelines, and where each of them listens.
async fn start_others(
    options: &DemoOptions,
    servers: &mut Servers,
) -> anyhow::Result<(Vec<Pipeline>, Vec<(&'static str, SocketAddr)>)> {
    let pipeline = |service, version| Pipeline::new(&options.otlp_endpoint, service, version);
    let payments = pipeline("payments", "2.3.1")?;
    let pricing = pipeline("pricing", "1.8.0")?;
    let shipping = pipeline("shipping", "0.9.2")?;
    let routers = [
        (
            shop::PAYMENTS_HOST,
            stubs::payments(payments.tracer(), options.seed),
        ),
        (
            shop::PRICING_HOST,
            stubs::pricing(pricing.tracer(), options.seed),
        ),
        (
            shop::SHIPPING_HOST,
            stubs::shipping(shipping.tracer(), options.seed),
        ),
        (shop::LOG_SERVICE_HOST, stubs::log_service(options.seed)),
    ];
    let mut hosts = Vec::new();
    for (host, router) in routers {
        hosts.push((host, servers.serve(router).await?));
    }
    Ok((vec![payments, pricing, shipping], hosts))
}

/// What every instance of the shop is made of.
struct ShopCode {
    database: PgPool,
    archive: PgPool,
    hosts: Vec<(&'static str, SocketAddr)>,
    otlp_endpoint: String,
}

impl ShopCode {
    /// A new one, with a pipeline and so a `service.instance.id` of its own. It uses the pools of the
    /// one before: opening others would be slow, and a culprit that nobody planted.
    fn instance(&self, version: Version) -> anyhow::Result<(Router, Pipeline)> {
        let telemetry = Pipeline::new(&self.otlp_endpoint, "shop", version.name())?;
        let tracer = telemetry.tracer();
        let http = HttpClient::new(tracer.clone(), &self.hosts);
        let (database, archive) = (self.database.clone(), self.archive.clone());
        let router = shop::router(version, tracer, database, archive, http);
        Ok((router, telemetry))
    }
}

/// The instance of the shop that gets the requests.
struct Instance {
    under_way: UnderWay,
    telemetry: Pipeline,
}

impl Instance {
    /// Call it when another instance gets the requests. It waits for them as long as a customer does;
    /// whatever takes longer goes on without being traced.
    async fn stop(self) {
        let drained = tokio::time::timeout(PATIENCE, self.under_way.finished()).await;
        if drained.is_err() {
            tracing::debug!(
                "an instance of the demo's shop has requests left that nobody waits for"
            );
        }
        self.telemetry.shutdown().await;
    }
}

/// A shop that answers. Dropping it stops it at once; [`RunningDemo::stop`] is the polite way.
pub struct RunningDemo {
    /// Where the shop listens, for a browser or `curl`; the same for all versions.
    pub shop_address: SocketAddr,
    code: ShopCode,
    front: Front,
    current: Instance,
    traffic: Traffic,
    sending: JoinSet<Tally>,
    servers: Servers,
    others: Vec<Pipeline>,
    shutdown: CancellationToken,
}

impl RunningDemo {
    /// Sends `requests` requests, as fast as the bound on concurrency allows, and exports their
    /// spans: after this, the collector has acknowledged them, or an error says that it did not.
    /// Returns early when the demo is shut down.
    pub async fn send(&self, requests: usize) -> anyhow::Result<Tally> {
        let tally = self.traffic.send(requests, &self.shutdown).await;
        self.current.telemetry.flush().await?;
        for pipeline in &self.others {
            pipeline.flush().await?;
        }
        Ok(tally)
    }

    /// Sends requests in the background until the demo is shut down.
    pub fn keep_sending(&mut self) {
        let (traffic, shutdown) = (self.traffic.clone(), self.shutdown.clone());
        self.sending
            .spawn(async move { traffic.keep_sending(&shutdown).await });
    }

    /// A new instance of the shop takes over; the one before finishes its requests, exports its spans
    /// and is gone. Returns then.
    ///
    /// # Errors
    /// No exporter can be made for it; then everything stays as it was.
    pub async fn deploy(&mut self, version: Version) -> anyhow::Result<()> {
        let (router, telemetry) = self.code.instance(version)?;
        let under_way = self.front.switch_to(router);
        let next = Instance {
            under_way,
            telemetry,
        };
        std::mem::replace(&mut self.current, next).stop().await;
        Ok(())
    }

    /// Stops traffic, then the services, then exports what is left. Call it while the collector
    /// still listens. Says what was sent by [`RunningDemo::keep_sending`].
    pub async fn stop(mut self) -> Tally {
        self.shutdown.cancel();
        let mut tally = Tally::default();
        while let Some(sent) = self.sending.join_next().await {
            tally += sent.unwrap_or_default();
        }
        drop(self.traffic);
        self.servers.stop().await;
        self.current.telemetry.shutdown().await;
        for pipeline in self.others {
            pipeline.shutdown().await;
        }
        tally
    }
}

/// The HTTP servers of the demo, each on a free port of the loopback interface.
#[derive(Default)]
struct Servers {
    running: JoinSet<std::io::Result<()>>,
    stop: CancellationToken,
}

impl Servers {
    /// Binds, then serves; so whoever gets the address can connect to it.
    async fn serve(&mut self, app: Router) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot listen on a free port of 127.0.0.1")?;
        let address = listener.local_addr()?;
        let stop = self.stop.clone().cancelled_owned();
        self.running.spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(stop)
                .await
        });
        Ok(address)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let drained = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
            tracing::debug!("the demo's services had open connections; cutting them off");
        }
    }
}
