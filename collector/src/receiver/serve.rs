//! Connections: HTTP/1.1 and HTTP/2 without TLS on one port, their limits, and the way out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// A connection that says nothing at all is closed after this long.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(30);

/// How long an HTTP/1.1 connection may take for a request's headers, the idle time before them
/// included (hyper has one clock for both). SDKs that export metrics come every 60 s: closing just
/// then would cost them a retry.
const HEADER_DEADLINE: Duration = Duration::from_secs(75);

/// An HTTP/2 connection is asked this often whether somebody is still there …
const PING_EVERY: Duration = Duration::from_secs(30);

/// … and closed without an answer within this time.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// How long requests in flight may take after the shutdown began: a slow commit, not a slow body.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Without file descriptors `accept` fails at once, again and again: a pause keeps the CPU free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then takes no more connections, tells clients to go, and returns when
/// all requests are answered or [`DRAIN_DEADLINE`] is over.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let builder = builder(limits);
    while let Some(stream) = accept(&listener, &slots, &shutdown).await {
        let (stream, slot) = stream;
        let serving = connection(
            stream,
            router.clone(),
            builder.clone(),
            graceful.watcher(),
            shutdown.clone(),
        );
        tokio::spawn(async move {
            serving.await;
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("connections are still busy {DRAIN_DEADLINE:?} after the shutdown began");
    }
}

/// The next connection with its slot; `None` when it is time to stop.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let next = async {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(cause) => {
                    tracing::warn!(%cause, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        next = next => next,
        () = shutdown.cancelled() => None,
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    builder: auto::Builder<TokioExecutor>,
    watcher: Watcher,
    shutdown: CancellationToken,
) {
    // Answers are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let mut byte = [0];
    tokio::select! {
        () = shutdown.cancelled() => return,
        spoken = tokio::time::timeout(FIRST_BYTE_DEADLINE, stream.peek(&mut byte)) => {
            if !matches!(spoken, Ok(Ok(1..))) {
                return;
            }
        }
    }
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(cause) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(cause, "a connection ended early");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE);
    builder
}
