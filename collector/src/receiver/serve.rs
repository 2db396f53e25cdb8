//! Connections: HTTP/1.1 and HTTP/2, both protocols on every port, their limits, and the way out.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{self, State};
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::listener::{Io, Listener, Peer};
use super::pace::{Paced, Requests};
use super::{Limits, Receiver, grpc, http};

/// An HTTP/2 connection that does not answer a ping within this time is closed.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long requests in flight may take after the shutdown began: a slow commit, not a slow body.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Without file descriptors `accept` fails at once, again and again: a pause keeps the CPU free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that are read of an HTTP/1.1 connection ahead of its handler, headers included: a
/// thousand connections with endless headers then hold 64 MB. Larger headers are refused with 431.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Bytes of one HTTP/2 request's headers; larger ones are refused with 431.
const HTTP2_HEADER_BYTES_MAX: u32 = 16 << 10;

/// Streams that a client may open and reset before we have seen them; at the bound the connection
/// ends (GOAWAY, ENHANCE_YOUR_CALM), because only an attack looks like that.
const PENDING_RESETS_MAX: usize = 20;

/// Streams that we have reset because of a client's mistakes; at the bound the connection ends.
const OWN_RESETS_MAX: usize = 1024;

/// Serves OTLP over gRPC and HTTP on a bound listener until `shutdown`, then takes no more
/// connections, tells clients to go, and returns when all requests are answered or ten seconds are
/// over.
pub async fn serve(listener: impl Into<Listener>, receiver: Receiver, shutdown: CancellationToken) {
    let listener = listener.into();
    let limits = receiver.limits();
    let slots = Arc::new(Semaphore::new(limits.connections_max as usize));
    let router = http::router(&receiver, &shutdown)
        .merge(grpc::router(&receiver, &shutdown))
        .merge(
            Router::new()
                .fallback(fallback)
                .with_state(receiver.clone()),
        );
    let serving = Serving {
        router,
        builder: builder(limits),
        peers: Arc::default(),
        shutdown,
        receiver: receiver.clone(),
    };
    while let Some((stream, peer, slot)) = serving.accept(&listener, &slots).await {
        let Some(counted) = serving.peers.count(peer, limits.connections_per_peer_max) else {
            receiver.stats().connection_refused();
            tracing::debug!(?peer, "a connection was refused: this address has too many");
            continue;
        };
        let (serving, encrypted) = (serving.clone(), listener.is_network());
        tokio::spawn(async move {
            serving.connection(stream, encrypted).await;
            drop((counted, slot));
        });
    }
    drop(listener);
    let all = slots.acquire_many(limits.connections_max);
    if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
        tracing::warn!("connections are still busy {DRAIN_DEADLINE:?} after the shutdown began");
    }
}

async fn fallback(State(receiver): State<Receiver>, request: extract::Request) -> Response {
    if grpc::is_grpc(request.headers()) {
        grpc::unknown(&receiver, request).await
    } else {
        http::not_found(&receiver, request).await
    }
}

/// What all connections of a listener share.
#[derive(Clone)]
struct Serving {
    router: Router,
    builder: auto::Builder<TokioExecutor>,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
    receiver: Receiver,
}

impl Serving {
    /// The next connection with its slot; `None` when it is time to stop.
    async fn accept(
        &self,
        listener: &Listener,
        slots: &Arc<Semaphore>,
    ) -> Option<(Box<dyn Io>, Peer, OwnedSemaphorePermit)> {
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => return Some((stream, peer, slot)),
                    Err(cause) => {
                        tracing::warn!(%cause, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            next = next => next,
            () = self.shutdown.cancelled() => None,
        }
    }

    async fn connection(&self, stream: Box<dyn Io>, encrypted: bool) {
        match self.receiver.tls().filter(|_| encrypted) {
            None => self.requests(stream).await,
            Some(tls) => {
                let handshake = tls.acceptor().accept(stream);
                match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
                    Ok(Ok(stream)) => self.requests(Box::new(stream)).await,
                    Ok(Err(cause)) => tracing::debug!(%cause, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    /// Answers requests until the client goes, the connection is old, or it is time to stop.
    async fn requests(&self, stream: Box<dyn Io>) {
        let requests = Requests::default();
        let limits = self.receiver.limits();
        let stream = Paced::new(stream, limits.patience, requests.clone());
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            requests.begun();
            let (response, requests) = (router.call(request), requests.clone());
            async move {
                let response = response.await;
                requests.answered();
                response
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let age = limits.connection_age_max.map(jittered);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shutdown.cancelled() => None,
            () = after(age) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // HTTP/2 says GOAWAY and answers what it has; HTTP/1.1 closes after its answer.
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = tokio::time::sleep(limits.connection_grace) => return,
                }
            }
        };
        if let Err(cause) = ended {
            tracing::debug!(cause, "a connection ended early");
        }
    }
}

/// Never, if there is no delay.
async fn after(delay: Option<Duration>) {
    match delay {
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}

/// Up to a tenth more or less, so that connections which began together do not all come back
/// together.
fn jittered(age: Duration) -> Duration {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let count = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let spread = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    age.mul_f64(0.9 + 0.2 * spread as f64 / f64::from(1 << 16))
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Peers {
    connections: Mutex<HashMap<Peer, u32>>,
}

impl Peers {
    /// One more, until the result is dropped; `None` if it has `max`.
    fn count(self: &Arc<Self>, peer: Peer, max: u32) -> Option<Counted> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(peer).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        let peers = self.clone();
        Some(Counted { peers, peer })
    }
}

struct Counted {
    peers: Arc<Peers>,
    peer: Peer,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connections = self
            .peers
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match connections.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = connections.remove(&self.peer),
        }
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `Paced` has clocks of its own for that.
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(OWN_RESETS_MAX)
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(PING_DEADLINE);
    builder
}
