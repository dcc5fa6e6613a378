//! Bodies pass as they come.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

#[tokio::test]
async fn an_event_reaches_the_client_before_the_next_is_sent() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(speaks).await;
        let proxy = Proxy::start(&upstream).await;
        let mut http1 = proxy.http1("api.test").await;
        let request = Request::get("/events").header("host", "api.test").body(Full::default()).unwrap();
        let mut response = http1.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        for number in 0..5 {
            let event = Bytes::from(format!("data: {number}\n\n"));
            upstream.events.send(event.clone()).await.unwrap();
            let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let stream = proxy.connect_name("api.test", 443).await;
    let stream = proxy.tls(stream, "api.test", b"h2").await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("1"));
    let mut sent = trailers.clone();
    // What counts in the head alone stays behind.
    for name in ["authorization", "x-api-key", "cookie", "x-http-method-override"] {
        sent.insert(name, HeaderValue::from_static("mine"));
    }
    let frames = [Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"a"))), Ok(Frame::trailers(sent))];
    let request = Request::post("https://api.test/trailers").header("te", "trailers");
    let request = request.body(StreamBody::new(tokio_stream::iter(frames))).unwrap();
    let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(upstream.last().trailers, Some(trailers));
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http1_too() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(speaks).await;
        let proxy = Proxy::start(&upstream).await;
        let mut stream = proxy.https("api.test").await;
        let request = "POST /trailers HTTP/1.1\r\nhost: api.test\r\nte: trailers\r\ntrailer: x-checksum\r\n\
             connection: te, close\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-checksum: 1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("0\r\ngrpc-status: 0\r\n\r\n"), "{speaks:?}: {answer}");
        assert_eq!(upstream.last().trailers.unwrap()["x-checksum"], "1", "{speaks:?}");
    }
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body_and_the_connection_goes_on() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut stream = proxy.https("api.test").await;
    let requests = "HEAD /open/a HTTP/1.1\r\nhost: api.test\r\ncontent-length: 5\r\n\r\nhello\
         GET /open/b HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (first, second) = answer.split_once("\r\n\r\n").unwrap();
    assert!(first.contains("content-length: 5"), "{answer}");
    assert!(second.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_refusal_of_head_has_no_body_and_the_connection_goes_on() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http2("api.test").await;
    for (method, status, has_body) in
        [("HEAD", StatusCode::FORBIDDEN, false), ("GET", StatusCode::FORBIDDEN, true)]
    {
        let request = Request::builder().method(method).uri("https://api.test/closed");
        let answer = read(sender.send_request(request.body(Full::default()).unwrap()).await.unwrap()).await;
        assert_eq!((answer.status, !answer.body.is_empty()), (status, has_body), "{method}");
    }
    let mut stream = proxy.https("api.test").await;
    let requests = "HEAD /closed HTTP/1.1\r\nhost: api.test\r\n\r\n\
         GET /open/b HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (first, second) = answer.split_once("\r\n\r\n").unwrap();
    assert!(first.starts_with("HTTP/1.1 403") && second.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http1("ws.test").await;
    let request = Request::get("/ws")
        .header("host", "ws.test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for text in [&b"ping"[..], b"again"] {
        stream.write_all(text).await.unwrap();
        let mut echoed = vec![0; text.len()];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, text);
    }
    assert_eq!(upstream.last().headers["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    // A rule tells it from other requests.
    let only = "- name: ws\n  type: http\n  allow:\n    - {domains: [ws.test], methods: [GET], when: request.websocket}\n";
    proxy.publish(only, Ok(("x-api-key", "s3cret")));
    let upgrade = Request::get("/ws").header("connection", "Upgrade").header("upgrade", "websocket");
    let upgrade = upgrade.header("host", "ws.test").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut sender = proxy.http1("ws.test").await;
    let response = sender.send_request(upgrade.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(proxy.get("ws.test", "/ws").await.reason(), "condition_not_met");
}

#[tokio::test]
async fn an_upstream_that_changes_to_what_nobody_asked_for_has_failed() {
    let other = "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n";
    let upstream = Upstream::scripted(other, true).await;
    let proxy = Proxy::start(&upstream).await;
    let request = Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
    let answer = proxy.send("ws.test", request).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::BAD_GATEWAY, "upstream_failed"));
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(row.detail.unwrap()["upstream_error"], "upstream_failed");
}

#[tokio::test]
async fn an_upgrade_to_anything_else_is_an_ordinary_request() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let request = Request::get("/open/a")
        .header("connection", "Upgrade, HTTP2-Settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQAAP__");
    assert_eq!(proxy.send("api.test", request).await.status, StatusCode::OK);
    let seen = upstream.last();
    assert!(!seen.headers.contains_key("upgrade") && !seen.headers.contains_key("http2-settings"));
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_only_when_the_request_is_allowed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (path, first) in [("/open/a", "HTTP/1.1 100"), ("/closed", "HTTP/1.1 403")] {
        let mut stream = proxy.https("api.test").await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: api.test\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&status).unwrap(), first);
    }
}

#[tokio::test]
async fn requests_on_one_connection_share_an_upstream_connection() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http1("api.test").await;
    for _ in 0..20 {
        sender.ready().await.unwrap();
        let request = Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
        assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
    }
    assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_large_body_passes_both_ways_whole() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let body = Bytes::from_iter((0..5_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]));
    let mut sender = proxy.http1("api.test").await;
    let request =
        Request::post("/open/big").header("host", "api.test").body(Full::from(body.clone())).unwrap();
    let answer = read(sender.send_request(request).await.unwrap()).await;
    assert!(answer.body == body);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstream_request() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(speaks).await;
        // A client that closes its side may wait for its answer, for a while.
        let proxy = Proxy::start_with(&upstream, |options| options.limits.half_closed_ms = 100).await;
        let mut sender = proxy.http1("api.test").await;
        let request = Request::get("/events").header("host", "api.test").body(Full::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(!upstream.events.is_closed());
        drop((response, sender));
        tokio::time::timeout(PATIENCE, upstream.events.closed()).await.unwrap();
    }
}

/// Reads until the other side is gone; true when it is, in time.
async fn is_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_the_idle_limit() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.idle_ms = 100).await;
    let mut silent = proxy.https("api.test").await;
    assert!(is_closed(&mut silent).await);
    let mut kept = proxy.https("api.test").await;
    kept.write_all(b"GET /open/a HTTP/1.1\r\nhost: api.test\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut kept).await);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_request_without_a_byte_is_cut_after_the_stalled_limit() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let limits = |options: &mut freehold_egress::Options| {
        options.limits.stalled_ms = 300;
        options.limits.idle_ms = 100;
    };
    let proxy = Proxy::start_with(&upstream, limits).await;
    let mut stream = proxy.https("api.test").await;
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: api.test\r\n\r\n").await.unwrap();
    upstream.events.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    // The next event never comes.
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_handshake_is_cut_off() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.client_handshake_ms = 100).await;
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = proxy.connect_name("api.test", 443).await;
        stream.write_all(beginning).await.unwrap();
        assert!(is_closed(&mut stream).await, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_second_connection_resumes_the_tls_session_of_the_first() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let client = proxy.tls_client(b"http/1.1");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = proxy.connect_name("api.test", 443).await;
        let name = rustls::pki_types::ServerName::try_from("api.test").unwrap();
        let mut stream = client.connect(name, stream).await.unwrap();
        // Tickets come after the handshake, with the first bytes.
        stream
            .write_all(b"GET /open/a HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(is_closed(&mut stream).await);
        kinds.push(stream.get_ref().1.handshake_kind());
    }
    assert_eq!(kinds, [Some(rustls::HandshakeKind::Full), Some(rustls::HandshakeKind::Resumed)]);
}
