//! HTTP/2 by hand: what no client library would send, and what the server says of itself.

use super::super::listener::Io;
use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Whatever is waited for happens within this time, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

/// A connection after the preface and empty settings.
pub(super) struct Frames {
    io: Box<dyn Io>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

/// HPACK: a header that is not indexed, its name one of the static table's.
fn literal(name: u8, value: &str) -> Vec<u8> {
    let name = match name {
        0..15 => vec![name],
        _ => vec![15, name - 15],
    };
    assert!(value.len() < 127);
    [&name[..], &[value.len() as u8], value.as_bytes()].concat()
}

/// `POST` of a gRPC export.
fn export_headers() -> Vec<u8> {
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    [
        vec![0x83, 0x86],
        literal(4, path),
        literal(1, "localhost"),
        literal(31, "application/grpc"),
    ]
    .concat()
}

impl Frames {
    async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(super) async fn over(io: impl Io + 'static) -> Self {
        let mut frames = Self { io: Box::new(io) };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        frames.io.write_all(preface).await.unwrap();
        frames.send(frame(SETTINGS, 0, 0, &[])).await;
        frames
    }

    async fn send(&mut self, frame: impl AsRef<[u8]>) {
        self.io.write_all(frame.as_ref()).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.io.read_exact(&mut payload).await.ok()?;
            let [kind, flags] = [head[3], head[4]];
            Some(Frame {
                kind,
                flags,
                payload,
            })
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("a frame or the end")
    }

    /// Skips others; panics at the end of the connection.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let next = self.next().await;
            let next = next.unwrap_or_else(|| panic!("the connection ended before {what}"));
            if wanted(&next) {
                return next;
            }
        }
    }

    /// Everything that was sent has been read by the server.
    async fn settle(&mut self) {
        self.send(frame(PING, 0, 0, b"settled?")).await;
        let pong = |it: &Frame| it.kind == PING && it.flags & ACK != 0 && it.payload == b"settled?";
        self.until("a pong", pong).await;
    }

    /// One whole call; panics unless it is answered with OK.
    pub(super) async fn export(&mut self, request: &[u8]) {
        self.send(frame(HEADERS, END_HEADERS, 1, &export_headers()))
            .await;
        self.send(frame(DATA, END_STREAM, 1, &framed(0, request)))
            .await;
        self.ok().await;
    }

    async fn ok(&mut self) {
        let trailers = |it: &Frame| it.kind == HEADERS && it.flags & END_STREAM != 0;
        let trailers = self.until("trailers", trailers).await;
        // The last header is grpc-status, and this is its 0: as it is, or in Huffman's code.
        assert!(matches!(trailers.payload.last(), Some(b'0' | 0x07)));
    }

    /// The server's reason to end the connection; `None` if it only closed it.
    async fn goodbye(&mut self) -> Option<u32> {
        while let Some(next) = self.next().await {
            if next.kind == GOAWAY {
                let code = next.payload[4..8].try_into().unwrap();
                return Some(u32::from_be_bytes(code));
            }
        }
        None
    }
}

#[tokio::test]
async fn s4_limits_are_announced() {
    let (served, _store) = Served::usual().await;
    let mut frames = Frames::connect(served.grpc).await;
    let settings = frames.until("settings", |it| it.kind == SETTINGS).await;
    let settings: Vec<(u16, u32)> = settings
        .payload
        .chunks(6)
        .map(|it| {
            let value = u32::from_be_bytes(it[2..].try_into().unwrap());
            (u16::from_be_bytes([it[0], it[1]]), value)
        })
        .collect();
    assert!(settings.contains(&(3, 128)), "streams: {settings:?}");
    assert!(settings.contains(&(6, 16 << 10)), "headers: {settings:?}");
    drop(frames);
    served.stop().await;
}

/// What an attack does to its connection, and that everybody else is served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn s4_floods_end_their_connection_and_nobody_elses() {
    let (served, _store) = Served::usual().await;
    let headers = frame(HEADERS, END_HEADERS, 1, &export_headers());
    let rapid_reset = (0..20_000u32).flat_map(|at| {
        let stream = 2 * at + 1;
        let open = frame(HEADERS, END_HEADERS, stream, &export_headers());
        [open, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    });
    let never_ending = frame(HEADERS, 0, 1, &export_headers());
    let more = frame(CONTINUATION, 0, 1, &literal(31, "x").repeat(1000));
    let continuations = [never_ending, more.repeat(2000)].concat();
    let empty_data = [headers.clone(), frame(DATA, 0, 1, b"").repeat(200_000)].concat();
    for (name, flood) in [
        ("rapid reset", rapid_reset.collect()),
        ("continuations", continuations),
        ("empty data", empty_data),
    ] {
        let mut frames = Frames::connect(served.grpc).await;
        // The server may have gone before all is sent.
        let sent = tokio::time::timeout(PATIENCE, frames.io.write_all(&flood)).await;
        sent.unwrap_or_else(|_| panic!("{name}: neither read nor refused"))
            .ok();
        frames.goodbye().await;
        let mut other = Frames::connect(served.grpc).await;
        other.export(&spans(1).encode_to_vec()).await;
    }
    assert_eq!(served.receiver.in_flight_bytes(), 0);
    served.stop().await;
}

/// A client that asks for answers and reads none fills its own pipe, not our memory.
#[tokio::test(flavor = "multi_thread")]
async fn s4_pings_and_settings_without_end_hold_up_nobody_else() {
    let (served, _store) = Served::with(limited(Limits {
        patience: Patience {
            write: Duration::from_millis(300),
            ..Patience::default()
        },
        ..Limits::default()
    }))
    .await;
    for flood in [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, &[])] {
        let mut frames = Frames::connect(served.grpc).await;
        let flood = flood.repeat(10_000);
        let endless = async { while frames.io.write_all(&flood).await.is_ok() {} };
        let ended = tokio::time::timeout(PATIENCE, endless).await;
        assert!(ended.is_ok(), "it is let go when it does not read");
        let mut other = Frames::connect(served.grpc).await;
        other.export(&spans(1).encode_to_vec()).await;
    }
    served.stop().await;
}

#[tokio::test]
async fn s4_large_headers_cost_one_request_and_not_the_connection() {
    let (served, _store) = Served::usual().await;
    let mut frames = Frames::connect(served.grpc).await;
    let many = literal(31, &"x".repeat(100)).repeat(200);
    let (first, rest) = many.split_at(10_000);
    let first = [&export_headers()[..], first].concat();
    frames.send(frame(HEADERS, END_STREAM, 1, &first)).await;
    frames.send(frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    let refused = |it: &Frame| matches!(it.kind, HEADERS | RST_STREAM);
    frames.until("a refusal", refused).await;
    frames.settle().await;
    drop(frames);
    served.stop().await;
}

#[tokio::test]
async fn t6_clients_may_ping_and_are_pinged() {
    let (served, _store) = Served::with(limited(Limits {
        ping_every: Duration::from_millis(50),
        ..Limits::default()
    }))
    .await;
    let mut frames = Frames::connect(served.grpc).await;
    for _ in 0..20 {
        frames.settle().await;
    }
    let asked = |it: &Frame| it.kind == PING && it.flags & ACK == 0;
    frames.until("the server's ping", asked).await;
    drop(frames);
    served.stop().await;
}

#[tokio::test]
async fn t6_old_connections_are_asked_to_go_and_may_finish() {
    let (served, store) = Served::with(limited(Limits {
        connection_age_max: Some(Duration::from_millis(200)),
        ..Limits::default()
    }))
    .await;
    let mut frames = Frames::connect(served.grpc).await;
    frames
        .send(frame(HEADERS, END_HEADERS, 1, &export_headers()))
        .await;
    assert_eq!(frames.goodbye().await, Some(0), "no error");
    let body = framed(0, &spans(3).encode_to_vec());
    // The server's own ping tells it when everything sent before its GOAWAY has come.
    let ping = frames
        .until("its ping", |it| it.kind == PING && it.flags & ACK == 0)
        .await;
    frames.send(frame(PING, ACK, 0, &ping.payload)).await;
    frames.send(frame(DATA, END_STREAM, 1, &body)).await;
    frames.ok().await;
    while frames.next().await.is_some() {}
    assert_eq!(stored_spans(&store).await, 3);
    served.stop().await;
}

#[tokio::test]
async fn t6_connections_that_do_not_go_are_cut_when_their_grace_ends() {
    let (served, _store) = Served::with(limited(Limits {
        connection_age_max: Some(Duration::from_millis(100)),
        connection_grace: Duration::from_millis(100),
        ..Limits::default()
    }))
    .await;
    let mut frames = Frames::connect(served.grpc).await;
    frames
        .send(frame(HEADERS, END_HEADERS, 1, &export_headers()))
        .await;
    while frames.next().await.is_some() {}
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_a_shutdown_says_goaway_and_finishes_calls_in_flight() {
    let (served, store) = Served::usual().await;
    let mut frames = Frames::connect(served.grpc).await;
    frames
        .send(frame(HEADERS, END_HEADERS, 1, &export_headers()))
        .await;
    frames.settle().await;
    served.shutdown.cancel();
    assert_eq!(frames.goodbye().await, Some(0));
    let body = framed(0, &spans(3).encode_to_vec());
    let ping = frames
        .until("its ping", |it| it.kind == PING && it.flags & ACK == 0)
        .await;
    frames.send(frame(PING, ACK, 0, &ping.payload)).await;
    frames.send(frame(DATA, END_STREAM, 1, &body)).await;
    frames.ok().await;
    while frames.next().await.is_some() {}
    assert_eq!(stored_spans(&store).await, 3);
    let address = served.grpc;
    served.stop().await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}
