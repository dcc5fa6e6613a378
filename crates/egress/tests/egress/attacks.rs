//! Hostile clients and upstreams over HTTP/1.1, DNS and bare sockets: each gets a clear end, and others are served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use freehold_egress::{Listeners, PodIdentity};
use freehold_model::PodId;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

use crate::{
    harness::{PATIENCE, Proxy, http1_on, plain_by_hand, read, under},
    upstream::{Speaks, Upstream},
};

/// Writes `byte` again and again with pauses until the other side ends the connection, whatever it answers.
async fn is_trickle_cut(stream: impl AsyncRead + AsyncWrite + Unpin, byte: &'static [u8]) -> bool {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let trickle = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while writer.write_all(byte).await.is_ok() && writer.flush().await.is_ok() {
            pause.tick().await;
        }
    };
    let ended = async {
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = trickle => {}
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.is_ok()
}

/// Sends bytes over TLS and reads everything that comes.
async fn exchange(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut stream = proxy.https("api.test").await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_has_no_longer_than_a_silent_connection() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Arc::new(Proxy::start_with(&upstream, |options| options.limits.idle_ms = 2_000).await);
    let mut trickles = JoinSet::new();
    for (beginning, byte) in [
        ("GET /open/a HTTP/1.1\r\nhost: api.test\r\nx-a: ", "a"),
        ("GET /open/a HTTP/1.1\r\n", "a: b\r\n"),
        ("G", "E"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0"),
    ] {
        let mut stream = proxy.https("api.test").await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        trickles.spawn(is_trickle_cut(stream, byte.as_bytes()));
        let mut plain = proxy.connect_name("plain.test", 80).await;
        plain.write_all(beginning.as_bytes()).await.unwrap();
        trickles.spawn(is_trickle_cut(plain, byte.as_bytes()));
    }
    assert_eq!(trickles.join_all().await, [true; 8]);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_handshake_that_comes_a_byte_at_a_time_is_cut() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.client_handshake_ms = 300).await;
    let mut stream = proxy.connect_name("api.test", 443).await;
    // A record of the longest length that there is.
    stream.write_all(b"\x16\x03\x01\x40\x00").await.unwrap();
    assert!(is_trickle_cut(stream, b"\x01").await);
    proxy.rows.with_reason("handshake_failed").await;
}

/// A connection to `to` from another pod of the same workspace, with a listener of its own.
async fn second_pod(proxy: &Proxy, to: SocketAddr) -> TlsStream<TcpStream> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dns = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let pod = PodIdentity { pod_id: PodId::from_uuid(Uuid::now_v7()), ..proxy.pod };
    let listeners = Listeners::asking(vec![listener], vec![dns], move |_| Ok(to));
    let token = proxy.minter.mint(&proxy.subject(None), PATIENCE).unwrap();
    proxy.handle.attach(pod, listeners, Some(&token)).unwrap();
    proxy.tls(TcpStream::connect(at).await.unwrap(), "api.test", b"http/1.1").await
}

#[tokio::test]
async fn a_pod_that_fills_its_share_of_the_audit_backlog_takes_nothing_from_another() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.audit_backlog_rows_per_pod_max = 20;
        options.limits.audit_wait_ms = 50;
    })
    .await;
    let to = proxy.resolve("api.test").await;
    proxy.rows.refuse.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut sender = proxy.http1("api.test").await;
    let request = || Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
    let mut statuses = Vec::new();
    for _ in 0..25 {
        sender.ready().await.unwrap();
        statuses.push(read(sender.send_request(request()).await.unwrap()).await.status);
    }
    assert_eq!(statuses.last(), Some(&StatusCode::SERVICE_UNAVAILABLE));
    let stream = second_pod(&proxy, SocketAddr::new(to.ip(), 443)).await;
    let answer = read(http1_on(stream).await.send_request(request()).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_thousand_connections_of_one_pod_take_nothing_from_another() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.connections_per_pod_max = 100).await;
    let to = proxy.resolve("api.test").await;
    let mut flood = Vec::new();
    for _ in 0..1_000 {
        let made = tokio::time::timeout(Duration::from_secs(1), proxy.connect(SocketAddr::new(to.ip(), 443)));
        // The kernel's queue is full at some point, and then a connection is not even made.
        match made.await {
            Ok(stream) => flood.push(stream),
            Err(_) => break,
        }
    }
    assert!(flood.len() > 100, "{}", flood.len());
    let stream = second_pod(&proxy, SocketAddr::new(to.ip(), 443)).await;
    let mut sender = http1_on(stream).await;
    let request = Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(read(answer).await.status, StatusCode::OK);
    // And the pod itself is served again once they are gone.
    drop(flood);
    assert_eq!(
        tokio::time::timeout(PATIENCE, proxy.get("api.test", "/open/b")).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn pipelined_requests_are_each_decided_and_answered_in_order() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let request = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: api.test\r\n{more}\r\n");
    let text = [request("/open/1", ""), request("/closed", ""), request("/open/2", "connection: close\r\n")]
        .concat();
    let answer = exchange(&proxy, text.as_bytes()).await;
    let statuses: Vec<&str> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "403", "200"], "{answer}");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_answered_and_ends_cleanly() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut stream = proxy.https("api.test").await;
    let request = b"POST /open/a HTTP/1.1\r\nhost: api.test\r\ncontent-length: 3\r\n\r\nabc";
    stream.write_all(&[&request[..], request].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    assert!(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok());
    let answers = String::from_utf8_lossy(&answer);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("abc"), "{answers}");
    // Half a request is none.
    let before = upstream.count();
    let mut stream = proxy.https("api.test").await;
    stream
        .write_all(b"POST /open/a HTTP/1.1\r\nhost: api.test\r\ncontent-length: 10\r\n\r\nabc")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok());
    assert_eq!(upstream.count(), before);
}

#[tokio::test]
async fn a_destination_is_agreed_on_or_refused_in_every_form() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (head, status) in [
        ("GET https://api.test/open/a HTTP/1.1\r\nhost: api.test", "200"),
        ("GET https://api.test:443/open/a HTTP/1.1\r\nhost: api.test", "200"),
        ("GET https://other.test/open/a HTTP/1.1\r\nhost: api.test", "421"),
        ("GET https://other.test/open/a HTTP/1.1\r\nhost: other.test", "421"),
        ("GET http://api.test/open/a HTTP/1.1\r\nhost: api.test", "421"),
        ("GET https://user@api.test/open/a HTTP/1.1\r\nhost: api.test", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: 127.0.0.1", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: [::1]", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: api.test:80", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: api.test@other.test", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: api.test, other.test", "421"),
        ("GET /open/a HTTP/1.1\r\nhost: api.test\r\nhost: api.test", "421"),
        ("GET /open/a HTTP/1.1\r\naccept: */*", "421"),
        ("GET /open/a HTTP/1.0\r\naccept: */*", "421"),
        ("CONNECT api.test:443 HTTP/1.1\r\nhost: api.test", "4"),
        ("CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22", "4"),
        ("GET ftp://api.test/open/a HTTP/1.1\r\nhost: api.test", "421"),
        ("GET /open/..%C0%AFa HTTP/1.1\r\nhost: api.test", "403"),
    ] {
        let answer = exchange(&proxy, format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.{} {status}", u8::from(!head.contains("HTTP/1.0")))),
            "{head}: {answer}"
        );
    }
    assert!(
        upstream
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|seen| seen.headers["host"] == "api.test" && seen.target == "/open/a")
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_client_without_sni_is_served_for_the_name_it_dialled_and_an_address_stays_an_address() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.rules_name_addresses = false).await;
    let connector = proxy.tls_client_without_sni();
    for (name, host, status) in [
        ("api.test", "api.test", StatusCode::OK),
        ("api.test", "other.test", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let stream = proxy.connect_name(name, 443).await;
        let stream = connector.connect(name.try_into().unwrap(), stream).await.unwrap();
        let request = Request::get("/open/a").header("host", host).body(Full::default()).unwrap();
        let answer = read(http1_on(stream).await.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, status);
    }
    // An address that is dialled is decided on as such, and a name in the Host does not make it one.
    let to: SocketAddr = "10.0.0.5:443".parse().unwrap();
    for (host, reason) in [("10.0.0.5", "address_forbidden"), ("api.test", "authority_mismatch")] {
        let stream =
            connector.connect("10.0.0.5".try_into().unwrap(), proxy.connect(to).await).await.unwrap();
        let request = Request::get("/open/a").header("host", host).body(Full::default()).unwrap();
        let answer = read(http1_on(stream).await.send_request(request).await.unwrap()).await;
        assert_eq!(answer.reason(), reason);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_method_of_any_length_leaves_a_short_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let text =
        format!("{} /open/a HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n", "A".repeat(30_000));
    assert!(exchange(&proxy, text.as_bytes()).await.starts_with("HTTP/1.1 403"));
    assert_eq!(proxy.rows.with_reason("method_not_allowed").await.method.unwrap().len(), 32);
}

#[tokio::test]
async fn trailers_of_any_length_are_refused_beyond_a_limit() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let head = "POST /open/a HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
    for trailers in ["x-a: b\r\n".repeat(10_000), format!("x-a: {}\r\n", "b".repeat(200_000))] {
        let answer = exchange(&proxy, format!("{head}{trailers}\r\n").as_bytes()).await;
        assert!(answer.is_empty() || !answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_upstream_that_never_finishes_its_head_is_a_timeout() {
    for beginning in ["", "HTTP/1.1 200 OK\r\nx-a: ", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let upstream = Upstream::scripted(beginning, true).await;
        let proxy = Proxy::start_with(&upstream, |options| options.limits.response_head_ms = 200).await;
        let answer = tokio::time::timeout(PATIENCE, proxy.get("api.test", "/open/a")).await.unwrap();
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout")
        );
    }
}

#[tokio::test]
async fn an_upstream_whose_answer_can_be_read_in_two_ways_or_has_no_end_of_headers_has_failed() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for head in [
        "garbage\r\n\r\n".to_owned(),
        format!("{ok}{}\r\n", "x-a: b\r\n".repeat(10_000)),
        format!("{ok}x-a: {}\r\n\r\n", "b".repeat(1_000_000)),
        format!("{ok}content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        format!("{ok}content-length: -1\r\n\r\nab"),
        format!("{ok}x-a: b\0c\r\n\r\n"),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n".to_owned(),
    ] {
        let upstream = Upstream::scripted(head.clone(), false).await;
        let proxy = Proxy::start(&upstream).await;
        let answer = tokio::time::timeout(PATIENCE, proxy.get("api.test", "/open/a")).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", &head[..head.len().min(60)]);
    }
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_has_read_the_request_is_heard() {
    let upstream =
        Upstream::scripted("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno", true).await;
    let proxy = Proxy::start(&upstream).await;
    let body = vec![b'a'; 32 << 20];
    let mut sender = proxy.http2("api.test").await;
    let request = Request::post("https://api.test/open/a").body(Full::from(body.clone())).unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(
        (answer.status(), read(answer).await.body.as_ref()),
        (StatusCode::PAYLOAD_TOO_LARGE, &b"no"[..])
    );
    let mut sender = proxy.http1("api.test").await;
    let request = Request::post("/open/a").header("host", "api.test").body(Full::from(body)).unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_a_body_does_not_look_as_if_it_had_ended() {
    for head in [
        "content-length: 10\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\nabc",
    ] {
        let upstream = Upstream::scripted(format!("HTTP/1.1 200 OK\r\n{head}"), false).await;
        let proxy = Proxy::start(&upstream).await;
        let mut sender = proxy.http1("api.test").await;
        let request = Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
        let cut = match sender.send_request(request).await {
            Ok(response) => response.into_body().collect().await.is_err(),
            Err(_) => true,
        };
        assert!(cut, "{head}");
    }
}

#[tokio::test]
async fn a_connection_to_the_name_server_that_says_nothing_or_nonsense_ends() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.client_handshake_ms = 300).await;
    let to: SocketAddr = "10.0.0.1:53".parse().unwrap();
    // A name that points at itself, one that points past the end, labels without an end.
    let head = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0";
    let framed = |name: &[u8]| {
        let packet = [&head[..], name, b"\0\x01\0\x01"].concat();
        [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat()
    };
    for bytes in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0xff, 0xff],
        framed(b"\xc0\x0c"),
        framed(b"\xff\xff"),
        framed(&[0x3f; 300]),
    ] {
        let mut stream = proxy.connect(to).await;
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        assert!(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok(), "{bytes:?}");
        // An error's code, if anything.
        assert!(answer.len() < 6 || answer[5] & 15 != 0, "{bytes:?} {answer:?}");
    }
    assert!(is_trickle_cut(proxy.connect(to).await, b"\x0f").await);
}

/// Bytes that an upstream without end got rid of before it was held up for good.
async fn sent_until_held(mut stream: impl AsyncWrite + Unpin) -> usize {
    let block = vec![b'a'; 64 * 1024];
    let mut sent = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&block)).await {
        sent += block.len();
        assert!(sent < 1 << 30, "never held up");
    }
    sent
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_its_upstream_up() {
    let (_proxy, listener, mut client) = plain_by_hand().await;
    client.write_all(b"GET /a HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await.unwrap();
    let sent = sent_until_held(stream).await;
    // What the kernel holds of two connections, and the proxy's buffers.
    assert!(sent < 24 << 20, "{sent} bytes were taken for a client that reads none");
    drop(client);
}

#[tokio::test]
async fn an_upstream_that_stops_reading_holds_its_client_up() {
    let (_proxy, listener, mut client) = plain_by_hand().await;
    client
        .write_all(b"GET /a HTTP/1.1\r\nhost: plain.test\r\ncontent-length: 1073741824\r\n\r\n")
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let sent = sent_until_held(&mut client).await;
    assert!(sent < 24 << 20, "{sent} bytes were taken for an upstream that reads none");
    drop(stream);
}

#[tokio::test]
async fn a_client_that_is_refused_in_the_middle_of_a_large_body_reads_why() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let piece = vec![b'x'; 64 * 1024];
    for length in ["content-length: 33554432", "transfer-encoding: chunked"] {
        for _ in 0..20 {
            let mut stream = proxy.https("api.test").await;
            let head = format!("POST /closed HTTP/1.1\r\nhost: api.test\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            // It reads only when it has sent everything, or cannot send any more.
            for _ in 0..512 {
                let sent = if length.contains("chunked") {
                    stream.write_all(&[b"10000\r\n", &piece[..], b"\r\n"].concat()).await
                } else {
                    stream.write_all(&piece).await
                };
                if sent.is_err() {
                    break;
                }
            }
            let mut answer = [0; 12];
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(&answer, b"HTTP/1.1 403");
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_header_is_decided_on_in_every_spelling_that_servers_take_for_it() {
    let caps = r#"
- name: api
  type: http
  allow:
    - domains: [api.test]
      methods: [GET]
  deny:
    - name: admin
      domains: [api.test]
      when: '"x-admin" in request.headers'
    - name: debug
      domains: [api.test]
      when: request.headers.exists(name, name.startsWith("x-debug"))
"#;
    let (upstream, proxy) = under(caps, Speaks::Http1).await;
    for (names, status) in [
        (&["x_admin"][..], StatusCode::FORBIDDEN),
        (&["x.admin"], StatusCode::FORBIDDEN),
        (&["x_debug_level"], StatusCode::FORBIDDEN),
        (&["x-role", "x_role"], StatusCode::BAD_REQUEST),
        (&["x_role"], StatusCode::OK),
    ] {
        let request = names.iter().fold(Request::get("/a"), |request, name| request.header(*name, "1"));
        assert_eq!(proxy.send("api.test", request).await.status, status, "{names:?}");
    }
    assert_eq!((upstream.count(), &upstream.last().headers["x_role"]), (1, &"1".parse().unwrap()));
}
