//! A connection that is not used as it should be ends: one that says nothing, whose headers do not
//! come to an end, or that does not read its answers. Bodies have a deadline of their own.
//!
//! ```text
//! connect       request's first byte        its headers are whole     the answer is given
//!    |-- silence --|------- headers ------------|---- no deadline here ----|-- silence --
//! ```
//!
//! hyper has one clock for silence and headers; a browser's or an SDK's pause of a minute between
//! requests is honest, and a minute for headers is not. HTTP/2 is watched by its pings instead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How patient a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Silence before the first byte of the first request.
    pub first_byte: Duration,
    /// Silence between requests. SDKs that export metrics come every 60 s: closing just then would
    /// cost them a retry.
    pub idle: Duration,
    /// From a request's first byte to the end of its headers.
    pub headers: Duration,
    /// How long bytes of an answer may wait for the client to read.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            headers: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests begun and answered on one connection, told by whoever handles them.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    counts: Arc<[AtomicU32; 2]>,
}

impl Requests {
    /// A request's headers are whole.
    pub(super) fn begun(&self) {
        self.counts[0].fetch_add(1, Relaxed);
    }

    /// It has its answer.
    pub(super) fn answered(&self) {
        self.counts[1].fetch_add(1, Relaxed);
    }
}

/// Bytes of a connection, with deadlines.
pub(super) struct Paced<S> {
    io: S,
    patience: Patience,
    requests: Requests,
    /// As many requests were begun at the last look.
    seen: u32,
    protocol: Protocol,
    awaited: Awaited,
    timer: Timer,
    write_timer: Timer,
}

enum Protocol {
    /// So many bytes of the preface have come.
    Unknown(usize),
    Http1,
    Http2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    FirstByte,
    Request,
    Headers,
}

impl<S> Paced<S> {
    pub(super) fn new(io: S, patience: Patience, requests: Requests) -> Self {
        Self {
            io,
            patience,
            requests,
            seen: 0,
            protocol: Protocol::Unknown(0),
            awaited: Awaited::FirstByte,
            timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    /// How long this wait may take; `None` while a request is worked on.
    fn patience(&mut self) -> Option<Duration> {
        let [begun, answered] = [0, 1].map(|at| self.requests.counts[at].load(Relaxed));
        if begun != self.seen {
            self.seen = begun;
            self.awaited = Awaited::Request;
            self.timer.stop();
        }
        if matches!(self.protocol, Protocol::Http2) || begun != answered {
            self.timer.stop();
            return None;
        }
        Some(match self.awaited {
            Awaited::FirstByte => self.patience.first_byte,
            Awaited::Request => self.patience.idle,
            Awaited::Headers => self.patience.headers,
        })
    }

    fn received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.awaited != Awaited::Headers {
            self.awaited = Awaited::Headers;
            self.timer.stop();
        }
        if let Protocol::Unknown(before) = self.protocol {
            let expected = &PREFACE[before..];
            let both = expected.len().min(bytes.len());
            self.protocol = if expected[..both] != bytes[..both] {
                Protocol::Http1
            } else if both == expected.len() {
                Protocol::Http2
            } else {
                Protocol::Unknown(before + both)
            };
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let patience = this.patience();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            if patience.is_some() {
                this.received(&buf.filled()[before..]);
            }
            return Poll::Ready(result);
        }
        match patience {
            Some(patience) => this.timer.poll(patience, cx).map(Err),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    fn written<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() {
            let late = ready!(self.write_timer.poll(self.patience.write, cx));
            return Poll::Ready(Err(late));
        }
        self.write_timer.stop();
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.written(result, cx)
    }
}

/// A deadline that starts with the first wait and is made once per connection.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Timer {
    fn poll(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<io::Error> {
        let deadline = || Instant::now() + patience;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline())));
        if !self.running {
            self.running = true;
            sleep.as_mut().reset(deadline());
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn stop(&mut self) {
        self.running = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// So long that a test which waits for it fails.
    const LONG: Duration = Duration::from_secs(3600);

    const PATIENT: Patience = Patience {
        first_byte: LONG,
        idle: LONG,
        headers: LONG,
        write: LONG,
    };

    fn paced(patience: Patience) -> (DuplexStream, Paced<DuplexStream>, Requests) {
        let (client, server) = duplex(64);
        let requests = Requests::default();
        let paced = Paced::new(server, patience, requests.clone());
        (client, paced, requests)
    }

    /// Reads until the patience ends.
    async fn until_late(paced: &mut Paced<DuplexStream>) {
        let since = Instant::now();
        let mut bytes = [0; 64];
        let late = async {
            loop {
                if let Err(error) = paced.read(&mut bytes).await {
                    return error.kind();
                }
            }
        };
        let late = tokio::time::timeout(Duration::from_secs(60), late).await;
        assert_eq!(late, Ok(io::ErrorKind::TimedOut));
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
    }

    async fn reads_on(paced: &mut Paced<DuplexStream>) {
        let read = tokio::time::timeout(3 * SHORT, paced.read(&mut [0])).await;
        assert!(read.is_err(), "no deadline, no bytes: {read:?}");
    }

    #[tokio::test]
    async fn s3_a_connection_that_says_nothing_ends() {
        let (_client, mut paced, _) = paced(Patience {
            first_byte: SHORT,
            ..PATIENT
        });
        until_late(&mut paced).await;
    }

    #[tokio::test]
    async fn s3_headers_that_never_end_end_the_connection_however_they_trickle() {
        let (mut client, mut paced, _) = paced(Patience {
            headers: SHORT,
            ..PATIENT
        });
        let trickle = tokio::spawn(async move {
            while client.write_all(b"P").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        });
        until_late(&mut paced).await;
        drop(paced);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn s3_work_has_no_deadline_here_and_silence_has_one_of_its_own() {
        let (mut client, mut paced, requests) = paced(Patience {
            idle: SHORT,
            headers: SHORT,
            ..PATIENT
        });
        client.write_all(b"POST / HTTP/1.1").await.unwrap();
        assert_eq!(paced.read(&mut [0; 64]).await.unwrap(), 15);
        requests.begun();
        reads_on(&mut paced).await;
        requests.answered();
        paced.patience.headers = LONG;
        until_late(&mut paced).await;
    }

    #[tokio::test]
    async fn s3_http_2_is_left_to_its_pings() {
        let (mut client, mut paced, _) = paced(Patience {
            headers: SHORT,
            idle: SHORT,
            ..PATIENT
        });
        for piece in PREFACE.chunks(5) {
            client.write_all(piece).await.unwrap();
            assert_eq!(paced.read(&mut [0; 64]).await.unwrap(), piece.len());
        }
        reads_on(&mut paced).await;
    }

    #[tokio::test]
    async fn s3_a_client_that_does_not_read_is_let_go() {
        let (_client, mut paced, _) = paced(Patience {
            write: SHORT,
            ..PATIENT
        });
        let written = tokio::time::timeout(Duration::from_secs(60), paced.write_all(&[0; 65]));
        let error = written.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
