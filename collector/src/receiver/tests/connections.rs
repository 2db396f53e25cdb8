//! Connections that are slow, too many, malformed, local, or open when we stop.

use super::super::listener::UnixSocket;
use super::frames::Frames;
use super::*;

/// Until the server closes the connection; what it said.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut said));
    // A reset is an end as well.
    let _ = read.await.expect("the connection is closed");
    String::from_utf8_lossy(&said).into_owned()
}

fn impatient() -> Options {
    limited(Limits {
        patience: Patience {
            first_byte: Duration::from_millis(200),
            headers: Duration::from_millis(200),
            idle: Duration::from_millis(200),
            ..Patience::default()
        },
        ..Limits::default()
    })
}

#[tokio::test]
async fn s3_slow_headers_and_silence_end_connections() {
    assert_eq!(Patience::default().headers, Duration::from_secs(10));
    let (served, _store) = Served::with(impatient()).await;
    let whole = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 2\r\n\r\n{}";
    for (start, answered) in [
        ("", false),
        ("POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: ", false),
        ("PRI * HTTP/2.0\r\n\r\nS", false),
        (whole, true),
    ] {
        let mut stream = TcpStream::connect(served.http).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let said = until_closed(&mut stream).await;
        assert_eq!(said.contains("200 OK"), answered, "{start:?}: {said}");
    }
    served.stop().await;
}

#[tokio::test]
async fn s3_one_address_cannot_take_all_connections() {
    let (served, _store) = Served::with(limited(Limits {
        connections_per_peer_max: 2,
        ..Limits::default()
    }))
    .await;
    let mut first = Frames::over(TcpStream::connect(served.http).await.unwrap()).await;
    let _second = TcpStream::connect(served.http).await.unwrap();
    let mut third = TcpStream::connect(served.http).await.unwrap();
    assert_eq!(until_closed(&mut third).await, "");
    assert_eq!(served.receiver.stats().snapshot().refused_connections, 1);
    first.export(&spans(1).encode_to_vec()).await;
    drop(first);
    // Its place is free as soon as the server has seen that it is gone.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = TcpStream::connect(served.http).await.unwrap();
        let _ = stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        if until_closed(&mut stream).await.contains("200 OK") {
            break;
        }
        assert!(Instant::now() < deadline, "the place is free again");
    }
    served.stop().await;
}

#[tokio::test]
async fn s3_connections_beyond_the_bound_wait_for_their_turn() {
    let (served, _store) = Served::with(limited(Limits {
        connections_max: 1,
        ..Limits::default()
    }))
    .await;
    let mut first = Frames::over(TcpStream::connect(served.http).await.unwrap()).await;
    first.export(&spans(1).encode_to_vec()).await;
    let mut second = TcpStream::connect(served.http).await.unwrap();
    let get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    second.write_all(get).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(early.is_err(), "it waits");
    drop(first);
    assert!(until_closed(&mut second).await.contains("200 OK"));
    served.stop().await;
}

#[tokio::test]
async fn s5_http_1_that_could_be_read_in_two_ways_is_refused() {
    let (served, store) = Served::usual().await;
    let line = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let huge = format!("x-huge: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("{}\r\n", "x: 1\r\n".repeat(200));
    for (case, rest, status) in [
        (
            "two lengths",
            "content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
            "400",
        ),
        ("no length", "content-length: +2\r\n\r\n{}", "400"),
        (
            "chunked is not last",
            "transfer-encoding: chunked, gzip\r\n\r\n",
            "400",
        ),
        (
            "no chunk",
            "transfer-encoding: chunked\r\n\r\nxyz\r\n",
            "400",
        ),
        (
            "a space before the colon",
            "content-length : 2\r\n\r\n{}",
            "400",
        ),
        (
            "a folded header",
            "x: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
            "400",
        ),
        ("huge headers", &huge, "431"),
        ("many headers", &many, "431"),
        // RFC 9112, 6.3: the chunks count and the length is ignored. No proxy of ours reads it
        // another way, and what follows the last chunk is the next request.
        (
            "both",
            "content-length: 99\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "200",
        ),
    ] {
        let mut stream = TcpStream::connect(served.http).await.unwrap();
        let _ = stream.write_all(format!("{line}{rest}").as_bytes()).await;
        let head = read_head(&mut stream).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{case}: {head}"
        );
    }
    assert_eq!(stored_spans(&store).await, 0);
    served.stop().await;
}

#[tokio::test]
async fn s5_n14_pipelined_requests_are_answered_in_order() {
    let (served, _store) = Served::usual().await;
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let post = |body: &str, more: &str| {
        format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let all = [
        post("{}", ""),
        post("no", ""),
        post("{}", "connection: close\r\n"),
    ];
    stream.write_all(all.concat().as_bytes()).await.unwrap();
    let said = until_closed(&mut stream).await;
    let statuses: Vec<_> = said
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &said[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "400", "200"]);
    served.stop().await;
}

#[tokio::test]
async fn t9_unix_sockets_take_both_protocols() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otlp.sock");
    let store = testing::store().await;
    let receiver = Receiver::new(Journal::start(store.clone()));
    let shutdown = CancellationToken::new();
    let listener = Listener::Unix(UnixSocket::bind(&path).await.unwrap());
    assert_eq!(listener.name(), format!("unix:{}", path.display()));
    let serving = tokio::spawn(serve(listener, receiver.clone(), shutdown.clone()));

    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    Frames::over(stream)
        .await
        .export(&spans(2).encode_to_vec())
        .await;
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let post = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                connection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(post.as_bytes()).await.unwrap();
    assert!(until_closed(&mut stream).await.contains("200 OK"));
    assert_eq!(stored_spans(&store).await, 2);

    shutdown.cancel();
    serving.await.unwrap();
    assert!(!path.exists(), "the file goes with the listener");
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_n14_a_shutdown_finishes_http_1_requests_in_flight() {
    let (served, store) = Served::usual().await;
    let body = spans(2).encode_to_vec();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut idle = TcpStream::connect(served.http).await.unwrap();
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..5]).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while served.receiver.in_flight_bytes() == 0 {
        assert!(Instant::now() < deadline, "the body is being read");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.shutdown.cancel();
    assert_eq!(until_closed(&mut idle).await, "");
    stream.write_all(&body[5..]).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.contains("200 OK"), "{said}");
    assert_eq!(stored_spans(&store).await, 2);
    served.stop().await;
}
